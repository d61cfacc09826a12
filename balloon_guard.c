// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guard: what the guest can spare. It judges the guest's memory and answers
 * the size worker and the OOM notifier; it allocates no page and never talks to
 * the host. But for vbal_guard_sample() all decisions follow from the signals
 * and times handed in.
 *
 * Three lines are defended, the first two at all times:
 *
 *	floor		what the guest keeps in total
 *	reserve		what it keeps available (MemAvailable)
 *	high watermarks	free memory down to them is taken as it is; what lies
 *			below has to come out of cold page cache, in small
 *			portions and as long as nobody misses it
 *
 * Supplying pages is a SHOULD (virtio 1.2, 5.5.6.1), so holding back is always
 * allowed. Giving back more than the host asked for is not, unless
 * DEFLATE_ON_OOM was negotiated.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "balloon_guard.h"
#include "balloon_reclaim.h"

#include <linux/ctype.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/swap.h>
#include <linux/sysfs.h>
#include <linux/vmstat.h>

#define VBAL_MIB_PAGES(n) ((unsigned long)(n) << (20 - PAGE_SHIFT))

/* Less than this is worth the trip only if it is all that is wanted. */
#define VBAL_MIN_GRANT_PAGES VBAL_MIB_PAGES(1)

/* Asked for once a second, an unreachable target costs no CPU time. */
#define VBAL_FLOOR_RETRY_MS 1000

#define VBAL_BACKOFF_MIN_MS 100
#define VBAL_BACKOFF_MAX_MS 4000

/* Signals are compared with those at most so long ago, or not at all. */
#define VBAL_WINDOW_MS 1000
#define VBAL_STALE_MS 5000

/* More of these within a window is pressure. So many a multi-generational LRU evicts at once. */
#define VBAL_SWAP_LIMIT_PAGES BITS_PER_LONG
#define VBAL_STALL_LIMIT 4

/* What a task that has to reclaim usually reclaims. */
#define VBAL_STALL_PAGES 32
/* A quarter of the smallest step: less is noise. */
#define VBAL_MISSED_MIN_PAGES (VBAL_MIB_PAGES(1) / 4)
#define VBAL_MISSED_MAX_PAGES VBAL_MIB_PAGES(4)

/* So long a step of page cache is left for the guest to miss it. */
#define VBAL_LOOK_MS 20u
#define VBAL_LOOK_MAX_MS 8000u
/* And so long if processes have most of it mapped, and may look at any of it. */
#define VBAL_LOOK_MAPPED_MS 250u
/* And so long if it was read again and again, and could not be given back. */
#define VBAL_LOOK_ACTIVE_MS 1000u
/* While pressure is fresh it is looked at so often. */
#define VBAL_PRESSED_LOOK_MS 50
/* A run of kswapd that taking page cache has caused is over after so long. */
#define VBAL_PASSES_MS 200u
/* In less time too little happens to tell whose fault it is. */
#define VBAL_LEARN_MS 50
/* Where something does come back, its speed is not known so soon. */
#define VBAL_LEARN_MAX_MS 500
/* What was taken by mistake and has not come back by then is not missed. */
#define VBAL_RETURN_MS 64000

#define VBAL_HOLD_MIN_MS 1000u
#define VBAL_HOLD_MAX_MS 128000u
#define VBAL_HOLD_FORGET_MS 60000

#define VBAL_SQUEEZE_PAGES VBAL_MIB_PAGES(4)

/* After giving back: long enough for what needed the memory to show itself. */
#define VBAL_SETTLE_MIN_MS 5000
#define VBAL_SETTLE_MAX_MS 60000

/* Giving back starts anew with the smallest step after so long a pause. */
#define VBAL_STEP_PAUSE_MS 10000

#define VBAL_SIZE_TEXT_LEN 24

static const char *const vbal_policy_names[] = {
	[VBAL_GUARD_PROTECT] = "protect",
	[VBAL_GUARD_SQUEEZE] = "squeeze",
};

static const char *const vbal_state_names[] = {
	[VBAL_STATE_AT_TARGET] = "at-target",
	[VBAL_STATE_INFLATING] = "inflating",
	[VBAL_STATE_DEFLATING] = "deflating",
	[VBAL_STATE_HELD_BY_FLOOR] = "held-by-floor",
	[VBAL_STATE_HELD_BY_PRESSURE] = "held-by-pressure",
	[VBAL_STATE_BACKING_OFF] = "backing-off",
	[VBAL_STATE_BROKEN] = "broken",
};

static_assert(ARRAY_SIZE(vbal_state_names) == VBAL_NR_STATES);

static const char *const vbal_pressure_names[] = {
	[VBAL_CALM] = "the guest is calm",
	[VBAL_PRESSURE_MISSED] = "the guest misses dropped pages",
	[VBAL_PRESSURE_SWAP] = "the guest is swapping out",
	[VBAL_PRESSURE_STALL] = "the guest's allocations stall",
};

static_assert(ARRAY_SIZE(vbal_pressure_names) == VBAL_NR_PRESSURES);

/* So many each second, for so long: also where a long has 32 bits. */
static unsigned long vbal_rate_count(unsigned long per_s, u64 age_ms)
{
	return mul_u64_u32_div(per_s, min_t(u64, age_ms, U32_MAX),
			       MSEC_PER_SEC);
}

static unsigned long vbal_count_rate(unsigned long count, u64 age_ms)
{
	return mul_u64_u32_div(count, MSEC_PER_SEC,
			       clamp_t(u64, age_ms, 1, U32_MAX));
}

/* How far @a is beyond @b; counters of a CPU going offline may step back. */
static unsigned long vbal_beyond(unsigned long a, unsigned long b)
{
	return a > b ? a - b : 0;
}

/* Settings ---------------------------------------------------------------- */

/**
 * vbal_guard_default_floor() - what a guest keeps in total, by default
 * @total_pages: the guest's memory
 *
 * Grows with the guest's memory, ever more slowly, as Hyper-V's does: small
 * guests need a large share to live at all, large ones only a few per cent.
 *
 * Context: any.
 * Return: pages.
 */
unsigned long vbal_guard_default_floor(unsigned long total_pages)
{
	static const struct {
		unsigned long end_mib;
		unsigned int shift;
	} segments[] = {
		{ 128, 1 },
		{ 512, 3 },
		{ 2048, 4 },
		{ 8192, 5 },
		{ ULONG_MAX >> (20 - PAGE_SHIFT), 6 },
	};
	unsigned long floor = 0, start = 0, end;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(segments) && total_pages > start; i++) {
		end = min(total_pages, VBAL_MIB_PAGES(segments[i].end_mib));
		floor += (end - start) >> segments[i].shift;
		start = end;
	}
	return floor;
}

/**
 * vbal_guard_default_reserve() - what a guest keeps available, by default
 * @total_pages: the guest's memory
 *
 * A quarter of the default floor. MemAvailable leaves out what the watermarks
 * protect, so all of it can be had without any reclaim.
 *
 * Context: any.
 * Return: pages.
 */
unsigned long vbal_guard_default_reserve(unsigned long total_pages)
{
	return vbal_guard_default_floor(total_pages) / 4;
}

/* What one unit is in bytes, from a size's last character; 0 if that is none. */
static u64 vbal_guard_unit(char last)
{
	switch (toupper(last)) {
	case 'K':
		return SZ_1K;
	case 'M':
		return SZ_1M;
	case 'G':
		return SZ_1G;
	}
	return isdigit(last) ? 1 : 0;
}

/**
 * vbal_guard_parse_size() - a size given by people
 * @text: bytes, also with suffix K, M or G, or a share of memory as N%
 * @total_pages: the guest's memory
 * @nr_pages: the result
 *
 * Context: any; does not sleep.
 * Return: 0, or -EINVAL if @text is no size or more than the guest has.
 */
int vbal_guard_parse_size(const char *text, unsigned long total_pages,
			  unsigned long *nr_pages)
{
	char buf[VBAL_SIZE_TEXT_LEN];
	char *number, *last;
	u64 unit, limit, value;

	if (strscpy(buf, text, sizeof(buf)) < 0)
		return -EINVAL;
	number = strim(buf);
	if (!isdigit(number[0]))
		return -EINVAL;
	last = number + strlen(number) - 1;
	unit = vbal_guard_unit(*last);
	limit = unit ? div64_u64((u64)total_pages << PAGE_SHIFT, unit) : 100;
	if (!unit && *last != '%')
		return -EINVAL;
	if (!isdigit(*last))
		*last = '\0';
	if (kstrtou64(number, 10, &value) || value > limit)
		return -EINVAL;
	*nr_pages = unit ? (value * unit) >> PAGE_SHIFT :
			   div_u64(total_pages * value, 100);
	return 0;
}

/**
 * vbal_guard_set_floor() - sets what the guest keeps in total
 * @g: the guard
 * @text: see vbal_guard_parse_size()
 * @total_pages: the guest's memory
 *
 * Context: any.
 * Return: 0 or -EINVAL; then nothing has changed.
 */
int vbal_guard_set_floor(struct vbal_guard *g, const char *text,
			 unsigned long total_pages)
{
	unsigned long nr_pages;
	int ret = vbal_guard_parse_size(text, total_pages, &nr_pages);

	if (ret)
		return ret;
	WRITE_ONCE(g->floor_set, true);
	WRITE_ONCE(g->floor_pages, nr_pages);
	return 0;
}

/**
 * vbal_guard_set_reserve() - sets what the guest keeps available
 * @g: the guard
 * @text: see vbal_guard_parse_size()
 * @total_pages: the guest's memory
 *
 * Context: any.
 * Return: 0 or -EINVAL; then nothing has changed.
 */
int vbal_guard_set_reserve(struct vbal_guard *g, const char *text,
			   unsigned long total_pages)
{
	unsigned long nr_pages;
	int ret = vbal_guard_parse_size(text, total_pages, &nr_pages);

	if (ret)
		return ret;
	WRITE_ONCE(g->reserve_set, true);
	WRITE_ONCE(g->reserve_pages, nr_pages);
	return 0;
}

/**
 * vbal_guard_set_policy() - sets who wins
 * @g: the guard
 * @text: "protect" or "squeeze", also with a newline
 *
 * Context: any.
 * Return: 0 or -EINVAL; then nothing has changed.
 */
int vbal_guard_set_policy(struct vbal_guard *g, const char *text)
{
	int policy = sysfs_match_string(vbal_policy_names, text);

	if (policy < 0)
		return -EINVAL;
	WRITE_ONCE(g->policy, policy);
	return 0;
}

/**
 * vbal_guard_policy_name() - a policy's name
 * @policy: the policy
 *
 * Context: any.
 * Return: as vbal_guard_set_policy() takes it.
 */
const char *vbal_guard_policy_name(enum vbal_policy policy)
{
	return vbal_policy_names[policy];
}

/**
 * vbal_state_name() - a state's name
 * @state: the state
 *
 * Context: any.
 * Return: as sysfs shows it.
 */
const char *vbal_state_name(enum vbal_state state)
{
	return vbal_state_names[state];
}

/* Module parameters: what every device starts with ------------------------ */

static enum vbal_policy vbal_param_policy = VBAL_GUARD_PROTECT;
static char vbal_param_floor[VBAL_SIZE_TEXT_LEN];
static char vbal_param_reserve[VBAL_SIZE_TEXT_LEN];

static int vbal_param_set_policy(const char *text,
				 const struct kernel_param *kp)
{
	int policy = sysfs_match_string(vbal_policy_names, text);

	if (policy < 0) {
		pr_err("%s=%s: must be protect or squeeze\n", kp->name, text);
		return -EINVAL;
	}
	*(enum vbal_policy *)kp->arg = policy;
	return 0;
}

static int vbal_param_get_policy(char *buffer, const struct kernel_param *kp)
{
	enum vbal_policy policy = *(enum vbal_policy *)kp->arg;

	return sysfs_emit(buffer, "%s\n", vbal_policy_names[policy]);
}

static int vbal_param_set_size(const char *text, const struct kernel_param *kp)
{
	unsigned long nr_pages;

	if (vbal_guard_parse_size(text, totalram_pages(), &nr_pages)) {
		pr_err("%s=%s: must be bytes (also with K, M or G) or N%%, and no more than the guest has\n",
		       kp->name, text);
		return -EINVAL;
	}
	return param_set_copystring(text, kp);
}

static const struct kernel_param_ops vbal_param_policy_ops = {
	.set = vbal_param_set_policy,
	.get = vbal_param_get_policy,
};

static const struct kernel_param_ops vbal_param_size_ops = {
	.set = vbal_param_set_size,
	.get = param_get_string,
};

static struct kparam_string vbal_param_floor_arg = {
	.maxlen = sizeof(vbal_param_floor),
	.string = vbal_param_floor,
};

static struct kparam_string vbal_param_reserve_arg = {
	.maxlen = sizeof(vbal_param_reserve),
	.string = vbal_param_reserve,
};

module_param_cb(guard, &vbal_param_policy_ops, &vbal_param_policy, 0444);
MODULE_PARM_DESC(guard, "who wins if too much is asked for: protect, squeeze");
module_param_cb(floor, &vbal_param_size_ops, &vbal_param_floor_arg, 0444);
MODULE_PARM_DESC(floor, "memory the guest keeps: nK, nM, nG or n%");
module_param_cb(reserve, &vbal_param_size_ops, &vbal_param_reserve_arg, 0444);
MODULE_PARM_DESC(reserve, "memory kept available: nK, nM, nG or n%");

/* Memory was added or removed: what nobody has set by hand follows. */
static void vbal_guard_scale(struct vbal_guard *g, unsigned long total_pages)
{
	if (g->total_pages == total_pages)
		return;
	g->total_pages = total_pages;
	if (!READ_ONCE(g->floor_set))
		WRITE_ONCE(g->floor_pages,
			   vbal_guard_default_floor(total_pages));
	if (!READ_ONCE(g->reserve_set))
		WRITE_ONCE(g->reserve_pages,
			   vbal_guard_default_reserve(total_pages));
}

/**
 * vbal_guard_init() - settings as loaded, nothing seen yet
 * @g: the guard, zeroed
 * @total_pages: the guest's memory
 * @may_give_back: DEFLATE_ON_OOM was negotiated
 *
 * Context: probe.
 */
void vbal_guard_init(struct vbal_guard *g, unsigned long total_pages,
		     bool may_give_back)
{
	g->policy = vbal_param_policy;
	g->may_give_back = may_give_back;
	vbal_guard_set_floor(g, vbal_param_floor, total_pages);
	vbal_guard_set_reserve(g, vbal_param_reserve, total_pages);
	vbal_guard_scale(g, total_pages);
}

/* Signals ----------------------------------------------------------------- */

/* for_each_zone() cannot be linked into a module. */
static void vbal_guard_sum_zones(struct vbal_signals *s)
{
	struct zone *zone;
	int nid, i;

	for_each_online_node(nid) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			zone = &NODE_DATA(nid)->node_zones[i];
			if (managed_zone(zone))
				s->high_wmark_pages += high_wmark_pages(zone);
		}
		s->above_high_pages += vbal_node_room(nid);
	}
}

static unsigned long vbal_guard_swapped_out(void)
{
	unsigned long sum = vbal_event_sum(PSWPOUT);

#ifdef CONFIG_ZSWAP
	sum += vbal_event_sum(ZSWPOUT);
#endif
	return sum;
}

static void vbal_guard_count_missed(struct vbal_signals *s)
{
	unsigned long activated =
		global_node_page_state(WORKINGSET_ACTIVATE_ANON) +
		global_node_page_state(WORKINGSET_ACTIVATE_FILE);
	unsigned long restored =
		global_node_page_state(WORKINGSET_RESTORE_ANON) +
		global_node_page_state(WORKINGSET_RESTORE_FILE);

	s->missed[VBAL_REFAULTED] =
		global_node_page_state(WORKINGSET_REFAULT_ANON) +
		global_node_page_state(WORKINGSET_REFAULT_FILE);
	/* Restored ones are activated too, but not counted so by MGLRU. */
	s->missed[VBAL_ACTIVATED] = max(activated, restored);
}

#ifdef CONFIG_LRU_GEN
/* Switched on or off for all control groups and nodes alike, so one will do. */
static bool vbal_lru_is_generational(void)
{
	struct lruvec *lruvec = &NODE_DATA(numa_mem_id())->__lruvec;
	bool enabled;

	rcu_read_lock();
#ifdef CONFIG_MEMCG
	if (!mem_cgroup_disabled())
		lruvec = &mem_cgroup_from_task(current)
				  ->nodeinfo[numa_mem_id()]
				  ->lruvec;
#endif
	enabled = READ_ONCE(lruvec->lrugen.enabled);
	rcu_read_unlock();
	return enabled;
}
#else
static bool vbal_lru_is_generational(void)
{
	return false;
}
#endif

/*
 * Read more than once: no proof that it is still in use, but all that is known. A
 * multi-generational LRU does not tell even that: what is read lies in its oldest
 * generation, however often.
 */
static bool vbal_guard_cache_is_active(void)
{
	return vbal_lru_is_generational() ||
	       global_node_page_state(NR_ACTIVE_FILE) >
		       global_node_page_state(NR_INACTIVE_FILE);
}

static unsigned long vbal_guard_cache(void)
{
	return vbal_beyond(global_node_page_state(NR_ACTIVE_FILE) +
				   global_node_page_state(NR_INACTIVE_FILE),
			   global_node_page_state(NR_FILE_DIRTY) +
				   global_node_page_state(NR_WRITEBACK));
}

/* Shared memory may be mapped, too, and is not page cache that can be dropped. */
static bool vbal_guard_cache_is_mapped(void)
{
	return vbal_beyond(global_node_page_state(NR_FILE_MAPPED),
			   global_node_page_state(NR_SHMEM)) >
	       vbal_guard_cache() / 2;
}

/**
 * vbal_guard_sample() - looks at the guest's memory
 * @s: the result
 * @held_pages: what the balloon holds
 * @held_in_total: held pages are still part of MemTotal
 * @own_stalls: those stalls that were the balloon's own, since boot
 *
 * A few counters per zone and per CPU, cheap enough for every batch.
 *
 * Context: any; takes no lock.
 */
void vbal_guard_sample(struct vbal_signals *s, unsigned long held_pages,
		       bool held_in_total, unsigned long own_stalls)
{
	*s = (struct vbal_signals){
		.now_ms = vbal_now_ms(),
		.total_pages = totalram_pages(),
		.held_pages = held_pages,
		.avail_pages = max(si_mem_available(), 0L),
		.free_pages = global_zone_page_state(NR_FREE_PAGES),
		.cache_pages = vbal_guard_cache(),
		.cache_is_active = vbal_guard_cache_is_active(),
		.cache_is_mapped = vbal_guard_cache_is_mapped(),
		.slab_pages =
			global_node_page_state_pages(NR_SLAB_RECLAIMABLE_B),
		.tmpfs_pages = get_nr_swap_pages() > 0 ?
				       global_node_page_state(NR_SHMEM) :
				       0,
		.swapped_out = vbal_guard_swapped_out(),
		.kswapd_pages = vbal_reclaim_sum(PGSTEAL_KSWAPD),
		.alloc_stalls = vbal_stalls(vbal_event_sum),
		.own_stalls = own_stalls,
	};
	if (!held_in_total)
		s->total_pages += held_pages;
	vbal_guard_count_missed(s);
	vbal_guard_sum_zones(s);
}

/* Pressure ---------------------------------------------------------------- */

/* So much free memory is left to the guest and page cache taken instead. */
static unsigned long vbal_guard_left_free(const struct vbal_signals *s)
{
	return s->total_pages / 256;
}

/*
 * Page cache was taken since @g->mark or a moment ago, or there would have been more
 * of it, had it not been missed.
 */
static bool vbal_guard_drops(const struct vbal_guard *g,
			     const struct vbal_signals *s)
{
	u64 last_ms = max(g->cache_at_ms, g->hold_until_ms);

	return g->took_cache ||
	       (g->cache_at_ms && s->now_ms < last_ms + VBAL_WINDOW_MS);
}

/*
 * Below this inflation takes, or soon will take, page cache; and what that leaves in
 * pieces may be as much again.
 */
static bool vbal_guard_is_low(const struct vbal_guard *g,
			      const struct vbal_signals *s)
{
	unsigned long limit =
		max(s->total_pages / 32,
		    vbal_guard_left_free(s) + VBAL_MIN_GRANT_PAGES);

	if (vbal_guard_drops(g, s))
		limit += min(limit, VBAL_PIECES_MAX_PAGES);
	return s->above_high_pages < limit;
}

/* Not even reclaim would yield much. */
static bool vbal_guard_is_short(const struct vbal_guard *g,
				const struct vbal_signals *s)
{
	return s->avail_pages / 2 < READ_ONCE(g->reserve_pages);
}

/*
 * Only a guest with little to spare suffers from the balloon. Elsewhere swapping
 * and refaults have other reasons, such as a container at its own limit.
 */
static bool vbal_guard_is_tight(const struct vbal_guard *g,
				const struct vbal_signals *s)
{
	return vbal_guard_is_low(g, s) || vbal_guard_is_short(g, s);
}

/*
 * Allocations of others that stalled since @g->mark. The balloon's own count is
 * a guess where its task changed CPUs, so over a longer time it would hide those
 * of others.
 */
static unsigned long vbal_guard_new_stalls(const struct vbal_guard *g,
					   const struct vbal_signals *s)
{
	return vbal_beyond(vbal_beyond(s->alloc_stalls, g->mark.alloc_stalls),
			   vbal_beyond(s->own_stalls, g->mark.own_stalls));
}

/*
 * Does more come back than comes back anyway? Twice, as nothing is steady.
 *
 * That the kernel takes a page for part of a working set is good evidence, but
 * it never does for one who reads a set of files in a ring that has become
 * larger than the page cache: there every page comes back and none is told.
 */
static bool vbal_guard_misses(const struct vbal_guard *g,
			      const struct vbal_signals *s)
{
	unsigned long limit = clamp(s->total_pages / 1024,
				    VBAL_MISSED_MIN_PAGES,
				    VBAL_MISSED_MAX_PAGES);
	u64 age_ms = s->now_ms - g->mark.now_ms;
	unsigned int i;

	for (i = 0; i < VBAL_NR_MISSED; i++)
		if (vbal_beyond(s->missed[i], g->mark.missed[i]) >
		    limit + 2 * vbal_rate_count(g->foreign_per_s[i], age_ms))
			return true;
	return false;
}

/*
 * Does what the guest could have, were there no balloon, become less? Then somebody
 * needs memory of his own. (The kernel's counters are that much out at times.)
 */
static bool vbal_guard_falls(const struct vbal_guard *g,
			     const struct vbal_signals *s)
{
	const struct vbal_signals *mark = &g->mark;

	return vbal_beyond(mark->avail_pages + mark->held_pages,
			   s->avail_pages + s->held_pages) >
	       max(s->total_pages / 256, VBAL_MISSED_MAX_PAGES);
}

/*
 * Stalls that prove something. Who reads faster than kswapd drops stalls for no
 * more than page cache, and puts as much in its place: so many stalls are explained
 * by what came back meanwhile, all of them if that is more than usual.
 */
static unsigned long vbal_guard_stalls(const struct vbal_guard *g,
				       const struct vbal_signals *s,
				       bool misses)
{
	unsigned long stalls = vbal_guard_new_stalls(g, s);

	if (vbal_guard_is_short(g, s) || vbal_guard_falls(g, s))
		return stalls;
	if (misses)
		return 0;
	return vbal_beyond(stalls, vbal_beyond(s->missed[VBAL_REFAULTED],
					       g->mark.missed[VBAL_REFAULTED]) /
					   VBAL_STALL_PAGES);
}

/* Was it seen lately what comes back anyway? */
static bool vbal_guard_has_learned(const struct vbal_guard *g,
				   const struct vbal_signals *s)
{
	return g->learned_at_ms && s->now_ms < g->learned_at_ms + VBAL_STALE_MS;
}

/*
 * Is it known what comes back anyway? As long as nothing of the page cache was
 * taken, that may be all of it.
 */
static bool vbal_guard_knows(const struct vbal_guard *g,
			     const struct vbal_signals *s)
{
	return g->took_cache || g->dropped_pages || g->undone_pages ||
	       vbal_guard_has_learned(g, s);
}

/* What proves most. */
static enum vbal_pressure vbal_guard_compare(const struct vbal_guard *g,
					     const struct vbal_signals *s)
{
	bool swaps = vbal_beyond(s->swapped_out, g->mark.swapped_out) >
		     VBAL_SWAP_LIMIT_PAGES;
	bool misses = vbal_guard_misses(g, s);
	unsigned long stalls = swaps ? vbal_guard_new_stalls(g, s) :
				       vbal_guard_stalls(g, s, misses);

	if (stalls > VBAL_STALL_LIMIT)
		return VBAL_PRESSURE_STALL;
	if (swaps)
		return VBAL_PRESSURE_SWAP;
	return misses ? VBAL_PRESSURE_MISSED : VBAL_CALM;
}

/*
 * What was taken by mistake comes back once, and be it long after it was given back.
 * So much of it may still do so, where @s has been seen.
 */
static unsigned long vbal_guard_may_return(const struct vbal_guard *g,
					   const struct vbal_signals *s)
{
	if (s->now_ms >= g->returned_at_ms + VBAL_RETURN_MS)
		return 0;
	return vbal_beyond(g->returned_pages,
			   vbal_beyond(s->missed[VBAL_REFAULTED],
				       g->returned_missed));
}

/* One kind of what comes back: is it the balloon's fault? */
static void vbal_guard_learn_rate(struct vbal_guard *g, unsigned int i,
				  unsigned long missed, unsigned long returns,
				  unsigned long room, u64 age_ms)
{
	unsigned long *known = &g->foreign_per_s[i];
	unsigned long left = *known;

	/* Over, or nearly so: forgotten slowly, an eighth in a second, but all of it. */
	if (2 * vbal_count_rate(missed, age_ms) < left)
		left -= max(vbal_rate_count(left,
					    min_t(u64, age_ms, MSEC_PER_SEC)) /
				    8,
			    1UL);
	missed = vbal_beyond(missed, returns);
	if (g->dropped_pages)
		missed = vbal_beyond(missed, room);
	*known = max(vbal_count_rate(missed, age_ms), left);
}

/*
 * Was it page cache that the guest missed? Once it has read twice as much again
 * as was given back, and goes on, it was not: then there is no reason to wait.
 * True: that is not known yet.
 */
static bool vbal_guard_on_trial(struct vbal_guard *g,
				const struct vbal_signals *s)
{
	unsigned long again =
		vbal_beyond(s->missed[VBAL_REFAULTED], g->undone_missed);

	if (!g->undone_pages)
		return false;
	/* What comes back anyway proves nothing. */
	again = vbal_beyond(again,
			    vbal_rate_count(g->foreign_per_s[VBAL_REFAULTED],
					    s->now_ms - g->undone_at_ms));
	if (!g->dropped_pages && again > 2 * g->undone_pages) {
		g->hold_ms = 0;
		g->hold_until_ms = s->now_ms;
		atomic64_set(&g->settle_until_ms, s->now_ms);
		g->undone_pages = 0;
	} else if (s->now_ms >= atomic64_read(&g->settle_until_ms)) {
		g->undone_pages = 0;
	}
	return g->undone_pages;
}

/*
 * What comes back before any page cache was taken, or after all of it was given
 * back, is not the balloon's fault: a stream, files that never fitted.
 *
 * And pages that come back need room: it comes from free memory, or somebody
 * reclaims. Where neither happens, a container at its own limit drops its own
 * pages and reads them again.
 */
static void vbal_guard_learn(struct vbal_guard *g, const struct vbal_signals *s)
{
	const struct vbal_signals *mark = &g->mark;
	u64 age_ms = s->now_ms - mark->now_ms;
	unsigned long room = vbal_beyond(mark->free_pages, s->free_pages) +
			     vbal_beyond(s->kswapd_pages, mark->kswapd_pages) +
			     VBAL_STALL_PAGES * vbal_guard_new_stalls(g, s);
	unsigned long returns = vbal_guard_may_return(g, mark);
	unsigned int i;

	/* It is about what happens while the balloon does nothing. */
	if (g->took_cache || age_ms < VBAL_LEARN_MS ||
	    s->held_pages != mark->held_pages || vbal_guard_on_trial(g, s))
		return;
	for (i = 0; i < VBAL_NR_MISSED; i++)
		vbal_guard_learn_rate(
			g, i, vbal_beyond(s->missed[i], mark->missed[i]),
			returns, room, age_ms);
	if (!g->foreign_per_s[VBAL_REFAULTED] || age_ms >= VBAL_LEARN_MAX_MS)
		g->learned_at_ms = s->now_ms;
}

/*
 * Was it perhaps only the taking? What the kernel drops or swaps as its lists become
 * shorter need not be what somebody uses: first see what stopping for so long does.
 * 0: it was not.
 */
static unsigned int vbal_guard_may_pass_ms(const struct vbal_guard *g,
					   const struct vbal_signals *s,
					   enum vbal_pressure pressure)
{
	if (pressure == VBAL_PRESSURE_SWAP && !vbal_guard_is_short(g, s) &&
	    g->cache_at_ms && s->now_ms - g->cache_at_ms < VBAL_PASSES_MS)
		return VBAL_PASSES_MS;
	if (pressure == VBAL_PRESSURE_MISSED && g->took_cache)
		return VBAL_HOLD_MIN_MS;
	return 0;
}

/* Longer each time, unless the last is long ago. Seen again meanwhile: extended. */
static void vbal_guard_hold(struct vbal_guard *g, const struct vbal_signals *s,
			    enum vbal_pressure pressure)
{
	unsigned int pass_ms = vbal_guard_may_pass_ms(g, s, pressure);
	u64 now_ms = s->now_ms;

	if (now_ms >= g->hold_until_ms) {
		g->nr_pressure_events++;
		if (now_ms - g->hold_until_ms >
		    VBAL_HOLD_FORGET_MS + 4 * g->hold_ms)
			g->hold_ms = 0;
		g->hold_ms = min(2 * g->hold_ms, VBAL_HOLD_MAX_MS);
	}
	g->hold_ms = max(g->hold_ms, pass_ms ?: VBAL_HOLD_MIN_MS);
	g->hold_until_ms = now_ms + g->hold_ms;
	g->pressure = pressure;
	g->pressed_at_ms = now_ms;
	if (!pass_ms)
		g->unanswered = max(g->unanswered, pressure);
	g->step_pages = 0;
}

/*
 * What came of the last grant of page cache. What the balloon no longer holds
 * was given back, whoever had it do so: the host, the OOM notifier, a reset.
 */
static void vbal_guard_count_dropped(struct vbal_guard *g,
				     const struct vbal_signals *s)
{
	if (g->granted)
		g->dropped_pages += vbal_beyond(s->held_pages, g->granted_at);
	g->granted = false;
	g->dropped_pages = min(g->dropped_pages, s->held_pages);
}

/* Takes notice of new signals: judges them and moves the window. */
static void vbal_guard_notice(struct vbal_guard *g,
			      const struct vbal_signals *s)
{
	enum vbal_pressure pressure = VBAL_CALM;
	u64 age_ms = s->now_ms - g->mark.now_ms;
	bool fresh = g->marked && age_ms < VBAL_STALE_MS;

	vbal_guard_scale(g, s->total_pages);
	vbal_guard_count_dropped(g, s);
	if (fresh && vbal_guard_is_tight(g, s)) {
		vbal_guard_learn(g, s);
		pressure = vbal_guard_compare(g, s);
	}
	if (pressure == VBAL_PRESSURE_MISSED && !vbal_guard_knows(g, s)) {
		pressure = VBAL_CALM;
		g->look_first = true;
	}
	if (pressure == VBAL_CALM && fresh && age_ms < VBAL_WINDOW_MS)
		return;
	if (pressure != VBAL_CALM)
		vbal_guard_hold(g, s, pressure);
	g->mark = *s;
	g->marked = true;
	g->took_cache = false;
}

/* Inflating --------------------------------------------------------------- */

static void vbal_guard_refuse(struct vbal_verdict *v, enum vbal_state state,
			      const char *why, u64 retry_ms)
{
	v->grant_pages = 0;
	v->state = state;
	v->why = why;
	v->retry_ms = clamp_t(u64, retry_ms, 1, VBAL_FLOOR_RETRY_MS);
}

/* Soon after pressure was seen it may have to be answered; later it may not. */
static u64 vbal_guard_hold_retry(const struct vbal_guard *g,
				 const struct vbal_signals *s, u64 until_ms)
{
	bool fresh = s->now_ms - g->pressed_at_ms < 2 * VBAL_WINDOW_MS;

	return min_t(u64, until_ms - s->now_ms,
		     fresh ? VBAL_PRESSED_LOOK_MS : VBAL_FLOOR_RETRY_MS);
}

/* When the hold-offs for what was given back are over. */
static u64 vbal_guard_settled_at(const struct vbal_guard *g)
{
	return max(atomic64_read(&g->settle_until_ms),
		   atomic64_read(&g->oom_until_ms));
}

/* Is inflation on hold because something was given back? */
static bool vbal_guard_settling(const struct vbal_guard *g,
				const struct vbal_signals *s,
				struct vbal_verdict *v)
{
	u64 until_ms = vbal_guard_settled_at(g);

	if (s->now_ms >= until_ms)
		return false;
	vbal_guard_refuse(v, VBAL_STATE_HELD_BY_PRESSURE,
			  "memory was given back a moment ago",
			  vbal_guard_hold_retry(g, s, until_ms));
	return true;
}

/* Is inflation on hold, because of pressure or of something given back? */
static bool vbal_guard_on_hold(const struct vbal_guard *g,
			       const struct vbal_signals *s,
			       struct vbal_verdict *v)
{
	if (vbal_guard_settling(g, s, v))
		return true;
	if (s->now_ms < g->hold_until_ms && vbal_guard_is_tight(g, s)) {
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_PRESSURE,
				  vbal_pressure_names[g->pressure],
				  vbal_guard_hold_retry(g, s,
							g->hold_until_ms));
		return true;
	}
	return false;
}

static bool vbal_guard_enough(unsigned long room_pages,
			      unsigned long want_pages)
{
	return room_pages >= min(want_pages, VBAL_MIN_GRANT_PAGES);
}

/* Pages between the guest and the nearer of floor and reserve. */
static unsigned long vbal_guard_room(const struct vbal_guard *g,
				     const struct vbal_signals *s,
				     const char **limit)
{
	unsigned long left = vbal_beyond(s->total_pages, s->held_pages);
	unsigned long floor = vbal_beyond(left, READ_ONCE(g->floor_pages));
	unsigned long reserve =
		vbal_beyond(s->avail_pages, READ_ONCE(g->reserve_pages));

	*limit = floor < reserve ? "the guest is down to its floor" :
				   "the guest has only its reserve available";
	return min(floor, reserve);
}

/* A new target is a new ask; what page cache stays is fixed when it begins. */
static void vbal_guard_begin_ask(struct vbal_guard *g,
				 const struct vbal_signals *s,
				 unsigned long want_pages)
{
	unsigned long target = s->held_pages + want_pages;

	if (target == g->asked_pages)
		return;
	g->asked_pages = target;
	g->keep_pages = max(s->total_pages / 64, s->cache_pages / 16);
}

static unsigned int vbal_guard_look_ms(const struct vbal_guard *g,
				       const struct vbal_signals *s)
{
	unsigned int least_ms = VBAL_LOOK_MS;

	if (s->cache_is_active && !g->may_give_back)
		least_ms = VBAL_LOOK_ACTIVE_MS;
	else if (s->cache_is_mapped)
		least_ms = VBAL_LOOK_MAPPED_MS;
	return clamp(g->hold_ms, least_ms, VBAL_LOOK_MAX_MS);
}

/*
 * The next step is twice the last if that was not missed. As long as nobody ever
 * missed anything, reclaim takes longer than a look. Who did gets more time to
 * do so again, since files may be read once in some seconds; until the largest
 * step was not missed.
 */
static void vbal_guard_next_step(struct vbal_guard *g,
				 const struct vbal_signals *s)
{
	unsigned long smallest =
		max(s->total_pages / 1024, VBAL_MIN_GRANT_PAGES);
	unsigned long largest = max(s->total_pages / 8, smallest);

	g->step_pages = clamp(2 * g->step_pages, smallest, largest);
	g->step_end_pages = s->held_pages + g->step_pages;
	g->look_at_ms = s->now_ms + vbal_guard_look_ms(g, s);
	if (g->step_pages == largest)
		g->hold_ms = 0;
}

/* Before page cache is taken it has to be known what comes back anyway. */
static bool vbal_guard_must_learn(struct vbal_guard *g,
				  const struct vbal_signals *s,
				  struct vbal_verdict *v)
{
	if (g->dropped_pages || vbal_guard_has_learned(g, s))
		return false;
	if (s->held_pages != g->mark.held_pages) {
		g->mark = *s;
		g->took_cache = false;
	}
	/* Free memory waits, too: taking it would begin the look again. */
	g->look_first = true;
	vbal_guard_refuse(v, VBAL_STATE_INFLATING,
			  "looking what the guest reads again anyway",
			  VBAL_LEARN_MS);
	return true;
}

/* What this grant adds to the balloon is dropped page cache. */
static void vbal_guard_grant_dropped(struct vbal_guard *g,
				     const struct vbal_signals *s)
{
	g->granted = true;
	g->granted_at = s->held_pages;
}

/*
 * Reclaim also leaves pieces, which lie about as free memory. Where much is
 * free, somebody else has let go of it.
 */
static bool vbal_guard_is_leftover(const struct vbal_guard *g,
				   const struct vbal_signals *s)
{
	return vbal_guard_drops(g, s) && vbal_guard_is_low(g, s);
}

/* Somebody reads more than fits, and takes what lies about before it merges. */
static bool vbal_guard_streams(const struct vbal_guard *g,
			       const struct vbal_signals *s)
{
	return g->foreign_per_s[VBAL_REFAULTED] > s->total_pages / 64;
}

/*
 * Dropping dentries and inodes takes __GFP_FS, and with that reclaim may swap
 * tmpfs out: only where there is hardly any beside them.
 */
static unsigned long vbal_guard_spare_slab(const struct vbal_signals *s)
{
	return s->tmpfs_pages > s->slab_pages / 16 ? 0 : s->slab_pages;
}

/* So much of what is in use is slab that what lies free will be of that kind, too. */
static bool vbal_guard_is_slab(const struct vbal_signals *s)
{
	unsigned long used =
		vbal_beyond(s->total_pages, s->held_pages + s->free_pages);

	return s->slab_pages > used / 4;
}

static void vbal_guard_ask_step(struct vbal_guard *g,
				const struct vbal_signals *s,
				unsigned long want_pages,
				struct vbal_verdict *v)
{
	unsigned long rest = vbal_beyond(g->step_end_pages, s->held_pages);

	/* What is too little to be asked for is not left of a step. */
	if (!g->step_pages || (!vbal_guard_enough(rest, want_pages) &&
			       s->now_ms >= g->look_at_ms)) {
		vbal_guard_next_step(g, s);
		rest = g->step_pages;
	}
	v->grant_pages = min(want_pages, rest);
	if (!vbal_guard_enough(rest, want_pages)) {
		vbal_guard_refuse(
			v, VBAL_STATE_INFLATING,
			"looking whether dropped page cache is missed",
			g->look_at_ms - s->now_ms);
		return;
	}
	v->reclaim = true;
	v->merge = !vbal_guard_streams(g, s);
	v->slab = vbal_guard_spare_slab(s) > s->cache_pages / 4;
	g->took_cache = true;
	g->cache_at_ms = s->now_ms;
	vbal_guard_grant_dropped(g, s);
}

/* Page cache, and slab, that can be dropped. */
static unsigned long vbal_guard_spare(const struct vbal_guard *g,
				      const struct vbal_signals *s)
{
	return vbal_beyond(s->cache_pages + vbal_guard_spare_slab(s),
			   g->keep_pages);
}

static void vbal_guard_ask_cache(struct vbal_guard *g,
				 const struct vbal_signals *s,
				 unsigned long want_pages,
				 struct vbal_verdict *v)
{
	unsigned long spare = vbal_guard_spare(g, s);

	if (!vbal_guard_enough(spare, want_pages))
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_FLOOR,
				  "what the guest has left is in use",
				  VBAL_FLOOR_RETRY_MS);
	else if (!vbal_guard_must_learn(g, s, v))
		vbal_guard_ask_step(g, s, min(want_pages, spare), v);
}

/* The host wins; but each step is short, so that a new target is seen soon. */
static void vbal_guard_ask_squeezed(struct vbal_guard *g,
				    const struct vbal_signals *s,
				    unsigned long want_pages,
				    struct vbal_verdict *v)
{
	vbal_guard_scale(g, s->total_pages);
	if (vbal_guard_settling(g, s, v))
		return;
	v->grant_pages = want_pages;
	if (s->above_high_pages >= want_pages)
		return;
	if (s->above_high_pages >= VBAL_SQUEEZE_PAGES) {
		v->grant_pages = s->above_high_pages;
		return;
	}
	v->grant_pages = min(want_pages, VBAL_SQUEEZE_PAGES);
	v->reclaim = true;
}

/**
 * vbal_guard_ask() - may the balloon grow
 * @g: the guard
 * @s: the guest's memory now
 * @want_pages: what the host still waits for
 * @v: the answer; @v->grant_pages is at most @want_pages
 *
 * The host's target is a wish: supplying pages is a SHOULD (virtio 1.2,
 * 5.5.6.1).
 *
 * Context: size worker, before each batch.
 */
void vbal_guard_ask(struct vbal_guard *g, const struct vbal_signals *s,
		    unsigned long want_pages, struct vbal_verdict *v)
{
	unsigned long room, plain;
	const char *limit;
	bool last;

	*v = (struct vbal_verdict){
		.state = VBAL_STATE_INFLATING,
		.slab_first = vbal_guard_is_slab(s),
	};
	if (READ_ONCE(g->policy) == VBAL_GUARD_SQUEEZE) {
		vbal_guard_ask_squeezed(g, s, want_pages, v);
		return;
	}
	vbal_guard_notice(g, s);
	vbal_guard_begin_ask(g, s, want_pages);
	if (vbal_guard_on_hold(g, s, v))
		return;
	if (g->look_first && vbal_guard_is_tight(g, s) &&
	    vbal_guard_must_learn(g, s, v))
		return;
	g->look_first = false;
	room = vbal_guard_room(g, s, &limit);
	if (!vbal_guard_enough(room, want_pages)) {
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_FLOOR, limit,
				  VBAL_FLOOR_RETRY_MS);
		return;
	}
	plain = min(room,
		    vbal_beyond(s->above_high_pages, vbal_guard_left_free(s)));
	last = plain >= want_pages ||
	       !vbal_guard_enough(vbal_guard_spare(g, s), want_pages);
	/* What reclaim has left may still merge, as long as it goes on. */
	if (vbal_guard_enough(plain, want_pages) &&
	    (last || vbal_guard_streams(g, s) ||
	     !vbal_guard_is_leftover(g, s))) {
		/* Others allocate meanwhile: never all there is at once. */
		v->grant_pages =
			min(want_pages, max(plain / 2, VBAL_MIN_GRANT_PAGES));
		if (vbal_guard_is_leftover(g, s))
			vbal_guard_grant_dropped(g, s);
		return;
	}
	vbal_guard_ask_cache(g, s, min(room, want_pages), v);
}

/**
 * vbal_guard_alloc_failed() - the allocator had not a single page
 * @g: the guard
 * @now_ms: the time
 *
 * Context: size worker.
 * Return: how long to pause, in ms: twice as long as last time, unless there was
 * progress since or that is long ago.
 */
unsigned int vbal_guard_alloc_failed(struct vbal_guard *g, u64 now_ms)
{
	if (now_ms - g->failed_at_ms > 2 * VBAL_BACKOFF_MAX_MS)
		g->backoff_ms = 0;
	g->failed_at_ms = now_ms;
	g->backoff_ms = clamp(2 * g->backoff_ms, VBAL_BACKOFF_MIN_MS,
			      VBAL_BACKOFF_MAX_MS);
	g->step_pages = 0;
	return g->backoff_ms;
}

/**
 * vbal_guard_progress() - the allocator had something
 * @g: the guard
 *
 * Context: size worker.
 */
void vbal_guard_progress(struct vbal_guard *g)
{
	g->backoff_ms = 0;
}

/* Giving back ------------------------------------------------------------- */

/* The next step: from 1/64 of RAM, at least 8 MiB, doubling to a quarter. */
static unsigned long vbal_steps_next(struct vbal_steps *steps,
				     unsigned long total_pages, u64 now_ms)
{
	unsigned long smallest = max(total_pages / 64, VBAL_MIB_PAGES(8));

	if (now_ms - steps->last_ms > VBAL_STEP_PAUSE_MS)
		steps->pages = 0;
	steps->pages = clamp(2 * steps->pages, smallest,
			     max(total_pages / 4, smallest));
	steps->last_ms = now_ms;
	return steps->pages;
}

/*
 * What was given back is not taken again at once. Each time that it turns out
 * to be too early the next hold-off is twice as long. @end_ms is where its
 * end goes: of the two only the size worker's may be cut short.
 */
static void vbal_guard_settle(struct vbal_guard *g, atomic64_t *end_ms,
			      u64 now_ms)
{
	u64 until_ms = vbal_guard_settled_at(g);
	unsigned int settle_ms = READ_ONCE(g->settle_ms);

	if (now_ms >= until_ms) {
		if (now_ms - until_ms > 4 * settle_ms)
			settle_ms = 0;
		settle_ms = clamp(2 * settle_ms, VBAL_SETTLE_MIN_MS,
				  VBAL_SETTLE_MAX_MS);
		WRITE_ONCE(g->settle_ms, settle_ms);
	}
	atomic64_set(end_ms, now_ms + settle_ms);
}

/*
 * A working set larger than RAM must not empty the balloon. Nor must a container
 * that swaps at its own limit: its pages are counted like all others, but only
 * where memory is short the balloon can be why.
 */
static unsigned long vbal_guard_owed_at_most(const struct vbal_guard *g,
					     const struct vbal_signals *s,
					     enum vbal_pressure pressure)
{
	if (pressure == VBAL_CALM)
		return 0;
	if (pressure == VBAL_PRESSURE_MISSED ||
	    (pressure == VBAL_PRESSURE_SWAP && !vbal_guard_is_short(g, s)))
		return g->dropped_pages;
	return ULONG_MAX;
}

/* What is to be given back for the present signals, and why. */
static unsigned long vbal_guard_owed(struct vbal_guard *g,
				     const struct vbal_signals *s,
				     const char **why)
{
	enum vbal_pressure pressure = g->unanswered;
	unsigned long limit = ULONG_MAX;

	/* Seen while the balloon was empty, perhaps, and long over. */
	if (s->now_ms - g->pressed_at_ms > VBAL_STALE_MS)
		pressure = VBAL_CALM;
	g->unanswered = VBAL_CALM;
	*why = vbal_pressure_names[pressure];
	if (s->avail_pages < READ_ONCE(g->reserve_pages) / 2)
		*why = "the guest has used up half its reserve";
	else
		limit = vbal_guard_owed_at_most(g, s, pressure);
	return min(limit, limit ? vbal_steps_next(&g->give_back, g->total_pages,
						  s->now_ms) :
				  0);
}

/* So much page cache was given back, and may be read again for that reason. */
static void vbal_guard_undrop(struct vbal_guard *g,
			      const struct vbal_signals *s,
			      unsigned long nr_pages)
{
	if (!vbal_guard_may_return(g, s)) {
		g->returned_pages = 0;
		g->returned_missed = s->missed[VBAL_REFAULTED];
	}
	if (nr_pages)
		g->returned_at_ms = s->now_ms;
	g->returned_pages += nr_pages;
	g->dropped_pages -= nr_pages;
}

/**
 * vbal_guard_watch() - does the guest need something back
 * @g: the guard
 * @s: the guest's memory now
 * @v: the answer: only @v->give_back_pages and @v->why
 *
 * Inflation stops at the reserve, and giving back starts at half of it: between
 * both nothing happens. Without DEFLATE_ON_OOM the answer is always nothing
 * (virtio 1.2, 5.5.6.1).
 *
 * Context: size worker, once a second and whenever @wake was called.
 */
void vbal_guard_watch(struct vbal_guard *g, const struct vbal_signals *s,
		      struct vbal_verdict *v)
{
	*v = (struct vbal_verdict){ .state = VBAL_STATE_HELD_BY_PRESSURE };
	if (!g->may_give_back || READ_ONCE(g->policy) == VBAL_GUARD_SQUEEZE)
		return;
	vbal_guard_notice(g, s);
	v->give_back_pages = min(vbal_guard_owed(g, s, &v->why), s->held_pages);
	if (!v->give_back_pages)
		return;
	/* What was given back before the last hold-off ended is not on trial any more. */
	if (s->now_ms >= atomic64_read(&g->settle_until_ms))
		g->undone_pages = 0;
	if (!g->undone_pages) {
		g->undone_missed = s->missed[VBAL_REFAULTED];
		g->undone_at_ms = s->now_ms;
	}
	g->undone_pages += v->give_back_pages;
	vbal_guard_undrop(g, s, min(g->dropped_pages, v->give_back_pages));
	g->nr_give_backs++;
	g->nr_give_back_pages += v->give_back_pages;
	vbal_guard_settle(g, &g->settle_until_ms, s->now_ms);
}

/**
 * vbal_guard_oom_step() - how much the OOM notifier shall give back
 * @g: the guard
 * @now_ms: the time
 *
 * Context: OOM notifier; neither sleeps nor locks.
 * Return: pages, twice as many as last time if that is no 10 s ago.
 */
unsigned long vbal_guard_oom_step(struct vbal_guard *g, u64 now_ms)
{
	return vbal_steps_next(&g->oom, g->total_pages, now_ms);
}

/**
 * vbal_guard_oom_done() - the OOM notifier has given back
 * @g: the guard
 * @nr_pages: how much; nothing, if the host has still to be told of it
 * @now_ms: the time
 *
 * Either way the guest was out of memory while the balloon held or took some.
 *
 * Context: OOM notifier; neither sleeps nor locks.
 */
void vbal_guard_oom_done(struct vbal_guard *g, unsigned long nr_pages,
			 u64 now_ms)
{
	if (nr_pages) {
		WRITE_ONCE(g->nr_oom_events, g->nr_oom_events + 1);
		WRITE_ONCE(g->nr_oom_pages, g->nr_oom_pages + nr_pages);
	}
	vbal_guard_settle(g, &g->oom_until_ms, now_ms);
}

/* An ear for reclaim ------------------------------------------------------ */

/*
 * A process can use up all there is within a fraction of a second. The kernel
 * asks shrinkers as soon as it begins to reclaim, so this one, which never has
 * anything to shrink, wakes the worker to look. Only global reclaim comes here,
 * not that of a container at its limit. drop_caches does, and is harmless: the
 * worker judges by its own signals.
 */
static unsigned long vbal_guard_reclaim_begins(struct shrinker *shrinker,
					       struct shrink_control *sc)
{
	struct vbal_guard *g = vbal_shrinker_priv(shrinker);
	unsigned long woken_at = READ_ONCE(g->woken_at);

	if (READ_ONCE(g->policy) == VBAL_GUARD_PROTECT &&
	    time_after(jiffies, woken_at + HZ / 50)) {
		WRITE_ONCE(g->woken_at, jiffies);
		g->wake(g);
	}
	return 0;
}

static unsigned long vbal_guard_nothing_to_shrink(struct shrinker *shrinker,
						  struct shrink_control *sc)
{
	return SHRINK_STOP;
}

/**
 * vbal_guard_start() - listens for reclaim, if anything may be given back
 * @g: the guard
 * @wake: has vbal_guard_watch() called soon; called in reclaim, at most 50
 *	times a second, and must not sleep
 *
 * Context: process context, may sleep.
 * Return: 0 or -ENOMEM.
 */
int vbal_guard_start(struct vbal_guard *g, void (*wake)(struct vbal_guard *g))
{
	int ret;

	if (!g->may_give_back)
		return 0;
	g->woken_at = jiffies;
	g->wake = wake;
	ret = vbal_shrinker_register(&g->shrinker, vbal_guard_reclaim_begins,
				     vbal_guard_nothing_to_shrink, g);
	if (ret)
		g->wake = NULL;
	return ret;
}

/**
 * vbal_guard_stop() - stops listening
 * @g: the guard; need not have been started
 *
 * Context: process context, may sleep. @wake is not called any more.
 */
void vbal_guard_stop(struct vbal_guard *g)
{
	if (!g->wake)
		return;
	vbal_shrinker_unregister(&g->shrinker);
	g->wake = NULL;
}
