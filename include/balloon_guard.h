/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_GUARD_H
#define _VBALLOON_GUARD_H

#include <linux/mutex.h>
#include <linux/types.h>

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
 * struct vbal_signals - the guest's memory at one moment
 * @now_ms: when
 * @total_pages: the guest's own memory: what the balloon holds is counted in,
 *	in both MemTotal modes
 * @held_pages: what the balloon holds
 * @avail_pages: MemAvailable
 * @free_pages: free pages in all zones
 * @high_wmark_pages: sum of the zones' high watermarks; below it kswapd works
 * @swapped_out: pages swapped out since boot
 * @swapped_in: pages swapped in since boot
 * @refaults: workingset refaults, anon and file, since boot
 * @alloc_stalls: allocations that had to reclaim themselves, since boot
 * @direct_scans: pages scanned by direct reclaim, since boot
 */
struct vbal_signals {
	u64 now_ms;
	unsigned long total_pages;
	unsigned long held_pages;
	unsigned long avail_pages;
	unsigned long free_pages;
	unsigned long high_wmark_pages;
	unsigned long swapped_out;
	unsigned long swapped_in;
	unsigned long refaults;
	unsigned long alloc_stalls;
	unsigned long direct_scans;
};

/**
 * struct vbal_verdict - the guard's answer
 * @grant_pages: so much may be inflated now; 0 means hold
 * @reclaim: beyond free memory: clean page cache has to be dropped for it
 * @state: what to tell people when @grant_pages is 0
 * @retry_ms: when to ask again if @grant_pages is 0
 * @give_back_pages: so much is to be deflated now, whatever the host wants.
 *	Only ever set with DEFLATE_ON_OOM negotiated (virtio 1.2, 5.5.6.1)
 */
struct vbal_verdict {
	unsigned long grant_pages;
	bool reclaim;
	enum vbal_state state;
	unsigned int retry_ms;
	unsigned long give_back_pages;
};

/**
 * struct vbal_guard - what the guest can spare
 * @lock: protects the settings; never taken in reclaim
 * @policy: READ_ONCE/WRITE_ONCE
 * @may_give_back: DEFLATE_ON_OOM negotiated; constant after probe
 * @floor_pages: inflation leaves the guest at least this much memory
 * @reserve_pages: inflation leaves at least this much available
 * @backoff_ms: present pause; size worker
 * @last: the signals of the last decision; size worker
 * @last_valid: @last has been filled
 * @pressure_until_ms: no inflation before; size worker and OOM notifier
 * @oom_step_pages: next step of the OOM notifier
 * @oom_last_ms: when it gave back last
 * @nr_oom_events: OOM notifications answered
 * @nr_oom_pages: pages given back by them
 * @nr_pressure_events: times that pressure stopped inflation
 * @nr_give_backs: times that pressure made the balloon deflate
 * @nr_give_back_pages: pages given back under pressure, OOM not counted
 */
struct vbal_guard {
	struct mutex lock;
	enum vbal_policy policy;
	bool may_give_back;
	unsigned long floor_pages;
	unsigned long reserve_pages;

	unsigned int backoff_ms;
	struct vbal_signals last;
	bool last_valid;
	u64 pressure_until_ms;

	unsigned long oom_step_pages;
	u64 oom_last_ms;
	unsigned long nr_oom_events;
	unsigned long nr_oom_pages;
	unsigned long nr_pressure_events;
	unsigned long nr_give_backs;
	unsigned long nr_give_back_pages;
};

/* module parameters and setters; text such as "128M" or "5%" */
int vbal_guard_params_check(void);
void vbal_guard_init(struct vbal_guard *g, unsigned long total_pages,
		     bool may_give_back);
int vbal_guard_set_floor(struct vbal_guard *g, const char *text,
			 unsigned long total_pages);
int vbal_guard_set_reserve(struct vbal_guard *g, const char *text,
			   unsigned long total_pages);
int vbal_guard_set_policy(struct vbal_guard *g, const char *text);
const char *vbal_guard_policy_name(enum vbal_policy policy);
const char *vbal_state_name(enum vbal_state state);

/* size worker */
void vbal_guard_sample(struct vbal_signals *s, unsigned long held_pages,
		       bool held_in_total);
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
