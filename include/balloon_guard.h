/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_GUARD_H
#define _VBALLOON_GUARD_H

#include <linux/atomic.h>
#include <linux/ktime.h>
#include <linux/types.h>

#include "balloon_compat.h"

/* The clock of all times in ms, the guard's and the driver's. */
static inline u64 vbal_now_ms(void)
{
	return ktime_to_ms(ktime_get());
}

/**
 * enum vbal_policy - who wins when the host wants more than the guest can spare
 * @VBAL_GUARD_PROTECT: the guest: keep the reserve and the floor, never swap
 * @VBAL_GUARD_SQUEEZE: the host, as with virtio_balloon
 */
enum vbal_policy {
	VBAL_GUARD_PROTECT,
	VBAL_GUARD_SQUEEZE,
};

/**
 * enum vbal_state - what the balloon is doing, for people
 * @VBAL_STATE_AT_TARGET: nothing to do
 * @VBAL_STATE_INFLATING: on the way up
 * @VBAL_STATE_DEFLATING: on the way down
 * @VBAL_STATE_HELD_BY_FLOOR: the guest has no more to spare
 * @VBAL_STATE_HELD_BY_PRESSURE: the guest is short of memory now
 * @VBAL_STATE_BACKING_OFF: the allocator had nothing, next try later
 * @VBAL_STATE_BROKEN: the device does not answer
 * @VBAL_NR_STATES: number of states
 */
enum vbal_state {
	VBAL_STATE_AT_TARGET,
	VBAL_STATE_INFLATING,
	VBAL_STATE_DEFLATING,
	VBAL_STATE_HELD_BY_FLOOR,
	VBAL_STATE_HELD_BY_PRESSURE,
	VBAL_STATE_BACKING_OFF,
	VBAL_STATE_BROKEN,
	VBAL_NR_STATES,
};

/**
 * enum vbal_pressure - what shows that the guest is short of memory
 *
 * The later, the more it proves. Dropped pages can be read again, a container
 * may swap at its own limit, but stalls are the whole guest's.
 *
 * @VBAL_CALM: nothing
 * @VBAL_PRESSURE_MISSED: pages that were dropped come back
 * @VBAL_PRESSURE_SWAP: anonymous memory goes to swap
 * @VBAL_PRESSURE_STALL: allocations have to reclaim memory themselves
 * @VBAL_NR_PRESSURES: number of values
 */
enum vbal_pressure {
	VBAL_CALM,
	VBAL_PRESSURE_MISSED,
	VBAL_PRESSURE_SWAP,
	VBAL_PRESSURE_STALL,
	VBAL_NR_PRESSURES,
};

/**
 * enum vbal_missed - pages that came back after they were dropped, by evidence
 * @VBAL_REFAULTED: all of them
 * @VBAL_ACTIVATED: those that the kernel takes for part of a working set
 * @VBAL_NR_MISSED: number of values
 */
enum vbal_missed {
	VBAL_REFAULTED,
	VBAL_ACTIVATED,
	VBAL_NR_MISSED,
};

/**
 * struct vbal_signals - the guest's memory at one moment
 * @now_ms: when
 * @total_pages: the guest's own memory: what the balloon holds is counted in,
 *	in both MemTotal modes
 * @held_pages: what the balloon holds, and what is on its way into it
 * @avail_pages: MemAvailable
 * @free_pages: free pages in all zones
 * @high_wmark_pages: sum of the zones' high watermarks; below it kswapd works
 * @above_high_pages: those of @free_pages that can be taken without waking
 *	kswapd: beyond each zone's high watermark and its lowmem reserve
 * @cache_pages: clean page cache
 * @cache_is_active: most of it was read more than once
 * @cache_is_mapped: most of it is mapped by processes
 * @slab_pages: reclaimable slab: dentries, inodes
 * @tmpfs_pages: what could be swapped out together with it; 0 without swap
 * @swapped_out: pages swapped out since boot, to a disk or into zswap
 * @missed: pages that came back after they were dropped, since boot
 * @kswapd_pages: pages that kswapd reclaimed, since boot
 * @alloc_stalls: allocations that had to reclaim themselves, since boot
 * @own_stalls: those of them that were the balloon's own, since boot
 */
struct vbal_signals {
	u64 now_ms;
	unsigned long total_pages;
	unsigned long held_pages;
	unsigned long avail_pages;
	unsigned long free_pages;
	unsigned long high_wmark_pages;
	unsigned long above_high_pages;
	unsigned long cache_pages;
	bool cache_is_active;
	bool cache_is_mapped;
	unsigned long slab_pages;
	unsigned long tmpfs_pages;
	unsigned long swapped_out;
	unsigned long missed[VBAL_NR_MISSED];
	unsigned long kswapd_pages;
	unsigned long alloc_stalls;
	unsigned long own_stalls;
};

/**
 * struct vbal_verdict - the guard's answer
 * @grant_pages: so much may be inflated now; 0 means hold
 * @reclaim: beyond free memory: clean page cache has to be dropped for it
 * @slab: with @reclaim: dentries and inodes, too
 * @merge: with @reclaim: what it leaves in pieces may still merge
 * @slab_first: what lies free was rather these
 * @state: what to tell people when @grant_pages is 0. VBAL_STATE_INFLATING is
 *	a moment's wait for the guest to miss what was dropped
 * @why: the reason in words, whenever @grant_pages is 0 or @give_back_pages is
 *	not
 * @retry_ms: when to ask again if @grant_pages is 0
 * @give_back_pages: so much is to be deflated now, whatever the host wants.
 *	Only ever set with DEFLATE_ON_OOM negotiated (virtio 1.2, 5.5.6.1)
 */
struct vbal_verdict {
	unsigned long grant_pages;
	bool reclaim;
	bool slab;
	bool merge;
	bool slab_first;
	enum vbal_state state;
	const char *why;
	unsigned int retry_ms;
	unsigned long give_back_pages;
};

/**
 * struct vbal_steps - giving back in growing steps
 * @pages: the last step
 * @last_ms: when that was
 */
struct vbal_steps {
	unsigned long pages;
	u64 last_ms;
};

/**
 * struct vbal_guard - what the guest can spare
 *
 * Settings are single words, READ_ONCE/WRITE_ONCE.
 *
 * @policy: who wins
 * @may_give_back: DEFLATE_ON_OOM negotiated; constant after probe
 * @floor_set: @floor_pages was set by hand and does not follow hotplug
 * @reserve_set: likewise
 * @total_pages: the guest's memory, the scale of all steps; follows hotplug
 * @floor_pages: inflation leaves the guest at least this much memory
 * @reserve_pages: inflation leaves at least this much available
 * @backoff_ms: present pause after failed allocations; size worker
 * @failed_at_ms: when that was; size worker
 * @mark: the signals at the start of the present window; size worker
 * @marked: @mark has been filled; size worker
 * @took_cache: page cache was granted since @mark; size worker
 * @look_first: it is not known what comes back anyway, and until it is nothing is
 *	taken; size worker
 * @cache_at_ms: when page cache was granted last; size worker
 * @granted: the last grant was of page cache, or of pieces that it left; size
 *	worker
 * @granted_at: what the balloon held then; size worker
 * @foreign_per_s: pages that come back each second whatever the balloon does;
 *	size worker
 * @learned_at_ms: when that was seen last; size worker
 * @asked_pages: the target of the present ask; size worker
 * @keep_pages: page cache that stays whatever this ask wants; size worker
 * @dropped_pages: page cache that was granted and not given back, at most what
 *	the balloon holds; size worker
 * @undone_pages: what has just been given back; size worker
 * @undone_missed: what had come back when that began; size worker
 * @undone_at_ms: when that was; size worker
 * @returned_pages: page cache that was taken and given back, and may come back for
 *	that reason; size worker
 * @returned_missed: what had come back when that began; size worker
 * @returned_at_ms: when it was last given back; size worker
 * @step_pages: page cache to be taken until the next look; size worker
 * @step_end_pages: what the balloon holds when it is used up; size worker
 * @look_at_ms: then the guest had time to miss it; size worker
 * @pressure: what was seen last; size worker
 * @unanswered: pressure that vbal_guard_watch() has yet to answer; size worker
 * @pressed_at_ms: when pressure was seen last; size worker
 * @hold_ms: present hold-off for pressure; size worker
 * @hold_until_ms: no inflation before, unless memory becomes plenty; size
 *	worker
 * @give_back: steps of vbal_guard_watch(); size worker
 * @oom: steps of the OOM notifier, which is serialised by the kernel
 * @settle_ms: present hold-off after giving back; WRITE_ONCE, a lost update
 *	costs one doubling
 * @settle_until_ms: no inflation before, whatever is free; written by the size
 *	worker, which ends it early when page cache was not what was missed
 * @oom_until_ms: likewise; written by the OOM notifier, ended by time alone
 * @shrinker: tells that the kernel has begun to reclaim
 * @wake: wakes the size worker; NULL while @shrinker is not registered
 * @woken_at: jiffies of the last wake; any reclaiming task
 * @nr_oom_events: OOM notifications answered
 * @nr_oom_pages: pages given back by them
 * @nr_pressure_events: times that pressure stopped inflation
 * @nr_give_backs: times that pressure made the balloon deflate
 * @nr_give_back_pages: pages given back under pressure, OOM not counted
 */
struct vbal_guard {
	enum vbal_policy policy;
	bool may_give_back;
	bool floor_set;
	bool reserve_set;
	unsigned long total_pages;
	unsigned long floor_pages;
	unsigned long reserve_pages;

	unsigned int backoff_ms;
	u64 failed_at_ms;
	struct vbal_signals mark;
	bool marked;
	bool took_cache;
	bool look_first;
	u64 cache_at_ms;
	bool granted;
	unsigned long granted_at;
	unsigned long foreign_per_s[VBAL_NR_MISSED];
	u64 learned_at_ms;
	unsigned long asked_pages;
	unsigned long keep_pages;
	unsigned long dropped_pages;
	unsigned long undone_pages;
	unsigned long undone_missed;
	u64 undone_at_ms;
	unsigned long returned_pages;
	unsigned long returned_missed;
	u64 returned_at_ms;
	unsigned long step_pages;
	unsigned long step_end_pages;
	u64 look_at_ms;
	enum vbal_pressure pressure;
	enum vbal_pressure unanswered;
	u64 pressed_at_ms;
	unsigned int hold_ms;
	u64 hold_until_ms;
	struct vbal_steps give_back;

	struct vbal_steps oom;
	unsigned int settle_ms;
	atomic64_t settle_until_ms;
	atomic64_t oom_until_ms;

	struct vbal_shrinker shrinker;
	void (*wake)(struct vbal_guard *g);
	unsigned long woken_at;

	unsigned long nr_oom_events;
	unsigned long nr_oom_pages;
	unsigned long nr_pressure_events;
	unsigned long nr_give_backs;
	unsigned long nr_give_back_pages;
};

/* settings; sizes are text such as "128M" or "5%" */
void vbal_guard_init(struct vbal_guard *g, unsigned long total_pages,
		     bool may_give_back);
int vbal_guard_set_floor(struct vbal_guard *g, const char *text,
			 unsigned long total_pages);
int vbal_guard_set_reserve(struct vbal_guard *g, const char *text,
			   unsigned long total_pages);
int vbal_guard_set_policy(struct vbal_guard *g, const char *text);
int vbal_guard_parse_size(const char *text, unsigned long total_pages,
			  unsigned long *nr_pages);
unsigned long vbal_guard_default_floor(unsigned long total_pages);
unsigned long vbal_guard_default_reserve(unsigned long total_pages);
const char *vbal_guard_policy_name(enum vbal_policy policy);
const char *vbal_state_name(enum vbal_state state);

/* life: between start and stop @wake may be called from reclaim */
int vbal_guard_start(struct vbal_guard *g, void (*wake)(struct vbal_guard *g));
void vbal_guard_stop(struct vbal_guard *g);

/* size worker */
void vbal_guard_sample(struct vbal_signals *s, unsigned long held_pages,
		       bool held_in_total, unsigned long own_stalls);
void vbal_guard_ask(struct vbal_guard *g, const struct vbal_signals *s,
		    unsigned long want_pages, struct vbal_verdict *v);
unsigned int vbal_guard_alloc_failed(struct vbal_guard *g, u64 now_ms);
void vbal_guard_progress(struct vbal_guard *g);
void vbal_guard_watch(struct vbal_guard *g, const struct vbal_signals *s,
		      struct vbal_verdict *v);

/* OOM notifier: must not sleep or allocate */
unsigned long vbal_guard_oom_step(struct vbal_guard *g, u64 now_ms);
void vbal_guard_oom_done(struct vbal_guard *g, unsigned long nr_pages,
			 u64 now_ms);

#endif /* _VBALLOON_GUARD_H */
