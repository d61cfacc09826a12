// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the driver has promised, and whether it is so. Some of it holds at every
 * moment at which nobody is in the middle of something: that is, where there is
 * one CPU, whenever the simulation runs. The rest holds when nothing moves.
 */
#include "simulate.h"

#include <linux/cpumask.h>
#include <linux/mm.h>

/* One in so many answers may come in the moment in which the driver looks by itself. */
#define SIM_FEW_MISSED 3u
#define SIM_MISSED_ONE_IN 8u
#define SIM_MIB_PAGES ((long)(SZ_1M >> PAGE_SHIFT))

static struct vbal_pages *sim_pages(const struct sim *s)
{
	return &s->vb->size.pages;
}

static unsigned long sim_held(const struct sim *s)
{
	return s->vb ? vbal_pages_held(sim_pages(s)) : 0;
}

static long sim_ballooned(void)
{
	return vbal_event_sum(BALLOON_INFLATE) -
	       vbal_event_sum(BALLOON_DEFLATE);
}

/* On its lists, picked pages not among them. */
static unsigned long sim_listed(const struct sim *s)
{
	unsigned long nr_pages = 0;
	unsigned int mode, order;

	for (mode = 0; s->vb && mode < VBAL_NR_MODES; mode++) {
		struct vbal_bag *bag = &sim_pages(s)->bag[mode];

		nr_pages += atomic_long_read(&bag->nr_singles);
		for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++)
			nr_pages += bag->nr_blocks[order] << order;
	}
	return nr_pages;
}

/* A page that has moved in is the host's only once the host says so. */
static bool sim_moves(const struct sim *s)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_MOVES; i++)
		if (!vbal_token_done(&s->vb->size.move.slot[i].give))
			return true;
	return false;
}

/* Promises that hold at every moment ---------------------------------------- */

static bool sim_no_breach(struct sim *s)
{
	unsigned long frame;
	const char *first;

	if (s->lied)
		return true;
	if (fake_books_errors(&first, &frame)) {
		sim_fail(s, "%s, frame %lx", first, frame);
		return false;
	}
	if (READ_ONCE(s->h->nr_errors)) {
		sim_fail(s, "%s", s->h->error);
		return false;
	}
	return true;
}

/* Whatever stands on the driver's lists the host has, by the books. */
static bool sim_frames_are_the_hosts(struct sim *s)
{
	if (!sim_is_up(s) || s->pulled_out || s->lied || sim_moves(s))
		return true;
	return test_books_have_held(s->vb);
}

static bool sim_memtotal_is_right(struct sim *s)
{
	unsigned long out =
		s->vb && sim_pages(s)->adjust_managed ? sim_held(s) : 0;

	return totalram_pages() + out == s->total_before;
}

static bool sim_counters_are_right(struct sim *s)
{
	return sim_ballooned() == s->ballooned_before + (long)sim_listed(s);
}

static bool sim_queue_is_right(struct sim *s, enum vbal_vq_id id)
{
	struct vbal_vq *q = &s->vb->wire.q[id];

	if (!q->vq || virtqueue_is_broken(q->vq))
		return true;
	return q->nr_in_flight ==
	       virtqueue_get_vring_size(q->vq) - q->vq->num_free;
}

/* Of the queues whose buffers have one descriptor each. */
static bool sim_rings_are_right(struct sim *s)
{
	return !sim_is_up(s) || (sim_queue_is_right(s, VBAL_VQ_INFLATE) &&
				 sim_queue_is_right(s, VBAL_VQ_DEFLATE) &&
				 sim_queue_is_right(s, VBAL_VQ_HINT));
}

static bool sim_same_life(const struct sim *s)
{
	return s->up_before && sim_is_up(s) &&
	       s->h->nr_resets == s->resets_before;
}

/* Without DEFLATE_ON_OOM nothing goes back that the host still wants. */
static bool sim_gives_only_what_is_asked(struct sim *s)
{
	if (!sim_same_life(s) || s->vb->size.guard.may_give_back)
		return true;
	return sim_held(s) >= min(s->held_before, s->lowest_target);
}

static bool sim_floor_is_kept(struct sim *s)
{
	if (!sim_same_life(s) || s->squeezed || sim_held(s) <= s->held_before)
		return true;
	return s->total_before - sim_held(s) >= s->lowest_floor;
}

static bool sim_step_ended(struct sim *s)
{
	return time_before(jiffies, s->end_jiffies);
}

/* Promises that hold at rest ------------------------------------------------- */

static bool sim_actual_is_true(struct sim *s)
{
	return fake_host_actual(s->h) == vbal_pages_to_frames(sim_held(s)) &&
	       READ_ONCE(s->vb->size.actual_frames) == fake_host_actual(s->h);
}

static bool sim_books_agree(struct sim *s)
{
	return test_books_agree(s->vb);
}

static bool sim_nothing_is_out(struct sim *s)
{
	struct vbal_size *size = &s->vb->size;

	return sim_listed(s) == sim_held(s) && !size->busy_pages &&
	       !vbal_pages_isolated(&size->pages) && !size->oom_unsent &&
	       !size->oom_batch->blocks.nr_pages;
}

static bool sim_hints_are_back(struct sim *s)
{
	struct vbal_hint *hint = &s->vb->hint;

	if (s->h->config.free_page_hint_cmd_id !=
	    cpu_to_le32(VIRTIO_BALLOON_CMD_ID_DONE))
		return true;
	return !READ_ONCE(hint->busy_pages) && !READ_ONCE(hint->ready_pages);
}

static bool sim_reports_agree(struct sim *s)
{
	if (READ_ONCE(s->h->nr_resets) || s->lied)
		return true;
	return READ_ONCE(s->h->nr_reported) ==
	       READ_ONCE(s->vb->report.nr_pages);
}

/* Those that the host asks for now, not an earlier answer that is on its way. */
bool sim_stats_come(struct sim *s)
{
	unsigned long nr_stats;

	return sim_wait(s, (s->total_asked = totalram_pages(),
			    nr_stats = READ_ONCE(s->h->nr_stats),
			    fake_host_ask_stats(s->h))) &&
	       sim_wait(s, READ_ONCE(s->h->nr_stats) > nr_stats);
}

static bool sim_stats_are_answered(struct sim *s)
{
	if (!s->h->q[FAKE_STATS].vq ||
	    !vbal_wire_has(&s->vb->wire, VIRTIO_BALLOON_F_STATS_VQ))
		return true;
	return sim_stats_come(s);
}

/* What it was when they were asked for, or is now: one that is held may grow. */
static bool sim_stats_tell_memtotal(struct sim *s)
{
	u64 told = s->h->stat[VIRTIO_BALLOON_S_MEMTOT] >> PAGE_SHIFT;

	return !s->h->nr_tags || !s->h->q[FAKE_STATS].vq ||
	       (told >= min(s->total_asked, totalram_pages()) &&
		told <= max(s->total_asked, totalram_pages()));
}

struct sim_check sim_checks[] = {
	{ "no breach of the protocol", false, sim_no_breach },
	{ "frames: what is held is the host's", false,
	  sim_frames_are_the_hosts },
	{ "MemTotal is right", false, sim_memtotal_is_right },
	{ "balloon counters are right", false, sim_counters_are_right },
	{ "rings and counts agree", false, sim_rings_are_right },
	{ "gives back only what is asked", false,
	  sim_gives_only_what_is_asked },
	{ "the floor is kept", false, sim_floor_is_kept },
	{ "every wait ends", false, sim_step_ended },
	{ "actual is true", true, sim_actual_is_true },
	{ "frames: lists and books agree", true, sim_books_agree },
	{ "nothing is left on its way", true, sim_nothing_is_out },
	{ "hinted blocks come back", true, sim_hints_are_back },
	{ "reports agree", true, sim_reports_agree },
	{ "statistics are answered", true, sim_stats_are_answered },
	{ "statistics tell MemTotal", true, sim_stats_tell_memtotal },
};

const unsigned int sim_nr_checks = ARRAY_SIZE(sim_checks);

/* An answer that came twice may be found only now; the device is set up anew. */
static bool sim_rests_still(const struct sim *s)
{
	return s->h->nr_resets == s->resets_at_rest &&
	       !vbal_wire_is_broken(&s->vb->wire);
}

/* Who has just given something back may still be on the way to tell of it. */
static bool sim_holds(struct sim *s, struct sim_check *check)
{
	if (!check->at_rest)
		return check->holds(s);
	return sim_wait(s, check->holds(s) || !sim_rests_still(s));
}

static void sim_check(struct sim *s, bool at_rest)
{
	unsigned int i;

	for (i = 0; i < sim_nr_checks && !sim_has_failed(s); i++) {
		struct sim_check *check = &sim_checks[i];

		if (check->at_rest != at_rest)
			continue;
		check->nr_checked++;
		if (!sim_holds(s, check))
			sim_fail(s, "not so: %s", check->name);
	}
}

/* After a step. With more than one CPU others may be in the middle of something. */
void sim_check_step(struct sim *s)
{
	if (num_online_cpus() == 1)
		sim_check(s, false);
	else
		sim_no_breach(s);
	sim_look_again(s);
}

/* While nothing moves. */
void sim_check_rest(struct sim *s)
{
	s->resets_at_rest = s->h->nr_resets;
	sim_check(s, false);
	sim_check(s, true);
}

/* At the target, or held: by whom, the model finds out by itself ------------- */

static bool sim_is_held(struct sim *s)
{
	struct vbal_size *size = &s->vb->size;
	struct vbal_signals now;
	long left, keep;

	if (READ_ONCE(size->state) != VBAL_STATE_HELD_BY_FLOOR)
		return false;
	vbal_size_sample(size, &now);
	left = now.total_pages - now.held_pages;
	keep = max(now.total_pages / 64, now.cache_pages / 16);
	return left - (long)size->guard.floor_pages <= SIM_MIB_PAGES ||
	       (long)now.avail_pages - (long)size->guard.reserve_pages <=
		       SIM_MIB_PAGES ||
	       (now.above_high_pages <= now.total_pages / 256 + SIM_MIB_PAGES &&
		(long)(now.cache_pages + now.slab_pages) <=
			keep + SIM_MIB_PAGES);
}

/* Answers for pages that have moved may lie there until somebody looks. */
static bool sim_is_idle(struct sim *s)
{
	struct vbal_size *size = &s->vb->size;

	return READ_ONCE(size->target_frames) == sim_target(s) &&
	       list_empty(&size->busy_batches) &&
	       size->relieve_to_pages == ULONG_MAX;
}

bool sim_is_at_rest(struct sim *s)
{
	unsigned long target;

	if (!sim_is_up(s) || !sim_is_idle(s) ||
	    vbal_wire_is_broken(&s->vb->wire))
		return false;
	target = min_t(unsigned long, vbal_frames_to_pages(sim_target(s)),
		       s->total_before);
	if (sim_held(s) == target)
		return READ_ONCE(s->vb->size.state) == VBAL_STATE_AT_TARGET;
	return sim_held(s) < target && sim_is_held(s);
}

/* The model follows ---------------------------------------------------------- */

/* Before there is a device. */
void sim_look_around(struct sim *s)
{
	s->total_before = totalram_pages();
	s->own_before = fake_books_own_pages();
	s->ballooned_before = sim_ballooned();
}

/* After each step. */
void sim_look_again(struct sim *s)
{
	s->up_before = sim_is_up(s);
	s->held_before = sim_held(s);
	s->resets_before = s->h->nr_resets;
}

/* Nothing that was asked for before matters any more. */
void sim_rests(struct sim *s)
{
	s->lowest_target = vbal_frames_to_pages(sim_target(s));
	s->lowest_floor = s->vb->size.guard.floor_pages;
	s->squeezed = s->vb->size.guard.policy == VBAL_GUARD_SQUEEZE;
	sim_look_again(s);
}

/* Before the device is unplugged. */
void sim_check_interrupts(struct sim *s)
{
	unsigned long nr_missed = 0, nr_interrupts = 0;
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		nr_missed += READ_ONCE(s->vb->wire.q[id].nr_missed);
		nr_interrupts += READ_ONCE(s->vb->wire.q[id].nr_interrupts);
	}
	if (!s->lied &&
	    nr_missed > SIM_FEW_MISSED + nr_interrupts / SIM_MISSED_ONE_IN)
		sim_fail(s, "%lu answers woke nobody, %lu did", nr_missed,
			 nr_interrupts);
}

static unsigned long sim_own(const struct sim *s)
{
	return s->own_before + s->nr_own;
}

static bool sim_is_clean(const struct sim *s)
{
	fake_books_find();
	return (s->lied || !fake_books_count(BOOKS_LOST)) &&
	       fake_books_own_pages() == sim_own(s);
}

/* There is no device: all is as it was before there was one. */
void sim_check_unplugged(struct sim *s)
{
	if (test_books_frames())
		sim_fail(s, "unplugged, but the host has %lu frames",
			 test_books_frames());
	if (!sim_wait(s, sim_is_clean(s)))
		sim_fail(s, "unplugged, but %ld pages are leaked, %lu lost",
			 (long)(fake_books_own_pages() - sim_own(s)),
			 fake_books_count(BOOKS_LOST));
	if (totalram_pages() != s->total_before)
		sim_fail(s, "unplugged, but MemTotal is %lu, not %lu",
			 totalram_pages(), s->total_before);
	if (sim_ballooned() != s->ballooned_before)
		sim_fail(s, "unplugged, but %ld pages are ballooned",
			 sim_ballooned() - s->ballooned_before);
	sim_no_breach(s);
}
