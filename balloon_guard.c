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

#include <linux/ctype.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/string.h>
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

/* More of these within a window is pressure. 32 pages: one round of reclaim. */
#define VBAL_SWAP_LIMIT_PAGES 32
#define VBAL_STALL_LIMIT 4

/*
 * Page cache is dropped in portions, from 1/1024 of RAM doubling to 1/64, so
 * that the first refault is seen before much is gone: a guest's worth of cold
 * cache takes 6 s at least. Active pages may have been idle for days, since only
 * reclaim ages them, or may not: they go in portions of up to 1/256, a guest's
 * worth in four minutes.
 */
#define VBAL_PORTION_SHIFT 10
#define VBAL_COLD_SHIFT 6
#define VBAL_COLD_MS 100
#define VBAL_WARM_SHIFT 8
#define VBAL_WARM_MS 1000
/* At most so much of it is given back because it is missed. */
#define VBAL_UNDO_SHIFT 4

#define VBAL_HOLD_MIN_MS 1000
#define VBAL_HOLD_MAX_MS 16000

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
	[VBAL_PRESSURE_SWAP] = "the guest is swapping out",
	[VBAL_PRESSURE_REFAULT] = "the guest reads dropped pages again",
	[VBAL_PRESSURE_STALL] = "the guest's allocations stall",
};

static_assert(ARRAY_SIZE(vbal_pressure_names) == VBAL_NR_PRESSURES);

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

	if (!ret)
		WRITE_ONCE(g->floor_pages, nr_pages);
	return ret;
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

	if (!ret)
		WRITE_ONCE(g->reserve_pages, nr_pages);
	return ret;
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
	g->total_pages = total_pages;
	if (vbal_guard_set_floor(g, vbal_param_floor, total_pages))
		g->floor_pages = vbal_guard_default_floor(total_pages);
	if (vbal_guard_set_reserve(g, vbal_param_reserve, total_pages))
		g->reserve_pages = vbal_guard_default_reserve(total_pages);
}

/* Signals ----------------------------------------------------------------- */

/* Adds up a zone's watermark, and the free memory beyond it. */
static void vbal_guard_add_zone(struct vbal_signals *s, struct zone *zone)
{
	unsigned long high = high_wmark_pages(zone);
	unsigned long free = zone_page_state(zone, NR_FREE_PAGES);

	s->high_wmark_pages += high;
	s->above_high_pages +=
		vbal_beyond(free, high + zone->lowmem_reserve[ZONE_MOVABLE]);
}

/* for_each_zone() cannot be linked into a module. */
static void vbal_guard_sum_zones(struct vbal_signals *s)
{
	struct zone *zone;
	int nid, i;

	for_each_online_node(nid) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			zone = &NODE_DATA(nid)->node_zones[i];
			if (managed_zone(zone))
				vbal_guard_add_zone(s, zone);
		}
	}
}

/*
 * all_vm_events() would do, but sleeps and sums up a hundred counters. Without
 * its lock a CPU on its way out may be missed for a moment.
 */
static void vbal_guard_sum_events(struct vbal_signals *s)
{
#ifdef CONFIG_VM_EVENT_COUNTERS
	const int stall = ALLOCSTALL_NORMAL - ZONE_NORMAL;
	const struct vm_event_state *state;
	int cpu, zid;

	for_each_online_cpu(cpu) {
		state = &per_cpu(vm_event_states, cpu);
		s->swapped_out += READ_ONCE(state->event[PSWPOUT]);
#ifdef CONFIG_ZSWAP
		s->swapped_out += READ_ONCE(state->event[ZSWPOUT]);
#endif
		for (zid = 0; zid <= ZONE_MOVABLE; zid++)
			s->alloc_stalls += READ_ONCE(state->event[stall + zid]);
	}
#endif
}

/**
 * vbal_guard_sample() - looks at the guest's memory
 * @s: the result
 * @held_pages: what the balloon holds
 * @held_in_total: held pages are still part of MemTotal
 *
 * A few counters per zone and per CPU, cheap enough for every batch.
 *
 * Context: any; takes no lock.
 */
void vbal_guard_sample(struct vbal_signals *s, unsigned long held_pages,
		       bool held_in_total)
{
	*s = (struct vbal_signals){
		.now_ms = vbal_now_ms(),
		.total_pages = totalram_pages(),
		.held_pages = held_pages,
		.avail_pages = max(si_mem_available(), 0L),
		.free_pages = global_zone_page_state(NR_FREE_PAGES),
		.refaults = global_node_page_state(WORKINGSET_REFAULT_ANON) +
			    global_node_page_state(WORKINGSET_REFAULT_FILE),
	};
	if (!held_in_total)
		s->total_pages += held_pages;
	s->warm_pages = global_node_page_state(NR_ACTIVE_FILE);
	s->cold_pages =
		vbal_beyond(global_node_page_state(NR_INACTIVE_FILE),
			    global_node_page_state(NR_FILE_DIRTY) +
				    global_node_page_state(NR_WRITEBACK));
	vbal_guard_sum_zones(s);
	vbal_guard_sum_events(s);
}

/* Pressure ---------------------------------------------------------------- */

/*
 * Only a guest with little to spare suffers from the balloon. Elsewhere swapping
 * and refaults have other reasons, such as a container at its own limit.
 */
static bool vbal_guard_is_tight(const struct vbal_guard *g,
				const struct vbal_signals *s)
{
	return s->above_high_pages < s->total_pages / 32 ||
	       s->avail_pages / 2 < READ_ONCE(g->reserve_pages);
}

static enum vbal_pressure vbal_guard_compare(const struct vbal_guard *g,
					     const struct vbal_signals *s)
{
	const struct vbal_signals *mark = &g->mark;
	/* Cold cache comes at 32 pages a stall; at fewer than 8 it runs out. */
	unsigned long own_stalls = g->dropped_pages / 8;

	if (vbal_beyond(s->swapped_out, mark->swapped_out) >
	    VBAL_SWAP_LIMIT_PAGES)
		return VBAL_PRESSURE_SWAP;
	if (vbal_beyond(s->refaults, mark->refaults) > s->total_pages / 1024)
		return VBAL_PRESSURE_REFAULT;
	if (vbal_beyond(s->alloc_stalls, mark->alloc_stalls) >
	    VBAL_STALL_LIMIT + own_stalls)
		return VBAL_PRESSURE_STALL;
	return VBAL_CALM;
}

static void vbal_guard_hold(struct vbal_guard *g, u64 now_ms,
			    enum vbal_pressure pressure)
{
	if (now_ms >= g->hold_until_ms)
		g->nr_pressure_events++;
	g->hold_ms = clamp(2 * g->hold_ms, VBAL_HOLD_MIN_MS, VBAL_HOLD_MAX_MS);
	g->hold_until_ms = now_ms + g->hold_ms;
	g->pressure = pressure;
	g->unanswered = pressure;
	g->portion_pages = 0;
	g->portion_end_pages = 0;
}

/* A second passed without pressure: what was dropped is missed less and less. */
static void vbal_guard_calm(struct vbal_guard *g, u64 now_ms)
{
	if (now_ms >= g->hold_until_ms)
		g->hold_ms /= 2;
	g->undo_pages -= g->undo_pages / 4;
}

/* What was dropped lately is what is missed. */
static unsigned long vbal_guard_undo(struct vbal_guard *g)
{
	unsigned long nr_pages =
		min(g->undo_pages, g->total_pages >> VBAL_UNDO_SHIFT);

	g->undo_pages = 0;
	return nr_pages;
}

/* Takes notice of new signals: judges them and moves the window. */
static void vbal_guard_notice(struct vbal_guard *g,
			      const struct vbal_signals *s)
{
	enum vbal_pressure pressure = VBAL_CALM;
	u64 age_ms = s->now_ms - g->mark.now_ms;
	bool fresh = g->marked && age_ms < VBAL_STALE_MS;

	if (fresh && vbal_guard_is_tight(g, s))
		pressure = vbal_guard_compare(g, s);
	if (pressure == VBAL_CALM && fresh && age_ms < VBAL_WINDOW_MS)
		return;

	if (pressure != VBAL_CALM)
		vbal_guard_hold(g, s->now_ms, pressure);
	else
		vbal_guard_calm(g, s->now_ms);
	g->mark = *s;
	g->marked = true;
	g->dropped_pages = 0;
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

/* Is inflation on hold because something was given back? */
static bool vbal_guard_settling(const struct vbal_guard *g, u64 now_ms,
				struct vbal_verdict *v)
{
	u64 settle_until_ms = atomic64_read(&g->settle_until_ms);

	if (now_ms >= settle_until_ms)
		return false;
	vbal_guard_refuse(v, VBAL_STATE_HELD_BY_PRESSURE,
			  "memory was given back a moment ago",
			  settle_until_ms - now_ms);
	return true;
}

/* Is inflation on hold because of pressure? */
static bool vbal_guard_on_hold(const struct vbal_guard *g,
			       const struct vbal_signals *s,
			       struct vbal_verdict *v)
{
	if (s->now_ms < g->hold_until_ms && vbal_guard_is_tight(g, s)) {
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_PRESSURE,
				  vbal_pressure_names[g->pressure],
				  g->hold_until_ms - s->now_ms);
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

/* The next portion of page cache is twice the last, unless that is long ago. */
static void vbal_guard_next_portion(struct vbal_guard *g,
				    const struct vbal_signals *s, bool cold)
{
	unsigned int shift = cold ? VBAL_COLD_SHIFT : VBAL_WARM_SHIFT;
	unsigned long smallest =
		max(s->total_pages >> VBAL_PORTION_SHIFT, VBAL_MIN_GRANT_PAGES);
	unsigned long largest = max(s->total_pages >> shift, smallest);

	if (s->now_ms - g->portion_after_ms > VBAL_WINDOW_MS)
		g->portion_pages = 0;
	g->portion_pages = clamp(2 * g->portion_pages, smallest, largest);
	g->portion_end_pages = s->held_pages + g->portion_pages;
	g->portion_after_ms = s->now_ms + (cold ? VBAL_COLD_MS : VBAL_WARM_MS);
	g->dropped_pages += g->portion_pages;
	g->undo_pages += g->portion_pages;
}

/* What is left of this portion of page cache, or the next if its time is come. */
static void vbal_guard_portion(struct vbal_guard *g,
			       const struct vbal_signals *s,
			       unsigned long want_pages, bool cold,
			       struct vbal_verdict *v)
{
	if (s->now_ms >= g->portion_after_ms)
		vbal_guard_next_portion(g, s, cold);
	v->reclaim = true;
	v->grant_pages = min(want_pages,
			     vbal_beyond(g->portion_end_pages, s->held_pages));
	if (!v->grant_pages)
		vbal_guard_refuse(v, VBAL_STATE_INFLATING,
				  "dropping page cache in portions",
				  g->portion_after_ms - s->now_ms);
}

/*
 * Page cache, the cold first. Half of each kind stays: cold pages are cold only
 * so far, and a guest without any page cache reads its programs over and over.
 */
static void vbal_guard_ask_cache(struct vbal_guard *g,
				 const struct vbal_signals *s,
				 unsigned long want_pages,
				 struct vbal_verdict *v)
{
	unsigned long cold = min(want_pages, s->cold_pages / 2);
	unsigned long warm = min(want_pages, s->warm_pages / 2);

	if (vbal_guard_enough(cold, want_pages))
		vbal_guard_portion(g, s, cold, true, v);
	else if (vbal_guard_enough(warm, want_pages))
		vbal_guard_portion(g, s, warm, false, v);
	else
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_FLOOR,
				  "what the guest has left is in use",
				  VBAL_FLOOR_RETRY_MS);
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

	*v = (struct vbal_verdict){ .state = VBAL_STATE_INFLATING };
	if (READ_ONCE(g->policy) == VBAL_GUARD_SQUEEZE) {
		/* What kept the OOM killer away is not taken again at once. */
		if (!vbal_guard_settling(g, s->now_ms, v))
			v->grant_pages = want_pages;
		return;
	}
	vbal_guard_notice(g, s);
	if (vbal_guard_settling(g, s->now_ms, v) || vbal_guard_on_hold(g, s, v))
		return;
	room = vbal_guard_room(g, s, &limit);
	if (!vbal_guard_enough(room, want_pages)) {
		vbal_guard_refuse(v, VBAL_STATE_HELD_BY_FLOOR, limit,
				  VBAL_FLOOR_RETRY_MS);
		return;
	}
	plain = min(room,
		    vbal_beyond(s->above_high_pages, s->total_pages / 256));
	if (vbal_guard_enough(plain, want_pages)) {
		/* Others allocate meanwhile: never all there is at once. */
		v->grant_pages =
			min(want_pages, max(plain / 2, VBAL_MIN_GRANT_PAGES));
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
	g->portion_pages = 0;
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
 * to be too early the next hold-off is twice as long.
 */
static void vbal_guard_settle(struct vbal_guard *g, u64 now_ms)
{
	u64 until_ms = atomic64_read(&g->settle_until_ms);
	unsigned int settle_ms = READ_ONCE(g->settle_ms);

	if (now_ms >= until_ms) {
		if (now_ms - until_ms > 4 * settle_ms)
			settle_ms = 0;
		settle_ms = clamp(2 * settle_ms, VBAL_SETTLE_MIN_MS,
				  VBAL_SETTLE_MAX_MS);
		WRITE_ONCE(g->settle_ms, settle_ms);
	}
	atomic64_set(&g->settle_until_ms, now_ms + settle_ms);
}

/* What is to be given back for the present signals, and why. */
static unsigned long vbal_guard_owed(struct vbal_guard *g,
				     const struct vbal_signals *s,
				     const char **why)
{
	unsigned long reserve = READ_ONCE(g->reserve_pages);
	enum vbal_pressure pressure = g->unanswered;

	g->unanswered = VBAL_CALM;
	*why = vbal_pressure_names[pressure];
	if (s->avail_pages < reserve / 2) {
		*why = "the guest has used up half its reserve";
		return vbal_steps_next(&g->give_back, g->total_pages,
				       s->now_ms);
	}
	if (pressure == VBAL_CALM)
		return 0;
	/* Reading a file set larger than RAM must not empty the balloon. */
	if (pressure == VBAL_PRESSURE_REFAULT && s->avail_pages / 2 >= reserve)
		return vbal_guard_undo(g);
	return vbal_steps_next(&g->give_back, g->total_pages, s->now_ms);
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
	g->nr_give_backs++;
	g->nr_give_back_pages += v->give_back_pages;
	vbal_guard_settle(g, s->now_ms);
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
 * @nr_pages: how much
 * @now_ms: the time
 *
 * Context: OOM notifier; neither sleeps nor locks.
 */
void vbal_guard_oom_done(struct vbal_guard *g, unsigned long nr_pages,
			 u64 now_ms)
{
	if (!nr_pages)
		return;
	WRITE_ONCE(g->nr_oom_events, g->nr_oom_events + 1);
	WRITE_ONCE(g->nr_oom_pages, g->nr_oom_pages + nr_pages);
	vbal_guard_settle(g, now_ms);
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
