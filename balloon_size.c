// SPDX-License-Identifier: GPL-2.0-only
/*
 * The size worker: moves what is held towards the host's target, and is the one
 * place where an errno becomes a policy. The OOM notifier gives back beside it.
 * Touches neither a virtqueue nor a page list.
 */
#include "balloon_size.h"

#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/memory.h>
#include <linux/oom.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "balloon_trace.h"

/* actual is written and num_pages read again this often while moving. */
#define VBAL_SLICE_MS 100
/* Freed without the host's word at a time; a block of any order fits. */
#define VBAL_FREE_STEP_PAGES \
	max_t(unsigned long, SZ_64M >> PAGE_SHIFT, 1UL << VBAL_MAX_ORDER)
/* How often a balloon at rest is looked at where it may give back. */
#define VBAL_WATCH_MS 1000
/* How often any other: one that others have reset tells of nothing any more. */
#define VBAL_LOOK_MS 60000
/* A balloon that has not moved for so long lets its pages move. */
#define VBAL_SETTLE_MS 1000
#define VBAL_SETTLE_STEP_PAGES (SZ_64M >> PAGE_SHIFT)

/* Longer in tests. */
static unsigned int vbal_oom_wait_ms = VBAL_OOM_WAIT_MS;

/**
 * vbal_size_set_state() - for people: what the balloon does, and why
 * @size: the size
 * @state: what it does
 * @why: a constant phrase
 *
 * Context: Size worker, or whoever has stopped it.
 */
void vbal_size_set_state(struct vbal_size *size, enum vbal_state state,
			 const char *why)
{
	struct vbal_moment moment = {
		.from = size->state,
		.to = state,
		.held_pages = vbal_pages_held(&size->pages),
		.target_frames = size->target_frames,
	};

	WRITE_ONCE(size->why, why);
	if (size->state == state)
		return;
	vbal_debug_state(&size->debug, &moment);
	WRITE_ONCE(size->state_since_ms, vbal_now_ms());
	WRITE_ONCE(size->state, state);
}

static bool vbal_stopping(struct vbal_size *size)
{
	return !vbal_life_is_up(&size->wire->life);
}

/**
 * vbal_size_wake() - have the size worker look soon
 * @size: the size
 *
 * Context: Any, hard interrupt included.
 */
void vbal_size_wake(struct vbal_size *size)
{
	if (!vbal_stopping(size))
		mod_delayed_work(size->wq, &size->work, 0);
}

/* From the size worker itself: not later than somebody else has asked for. */
static void vbal_work_again(struct vbal_size *size, unsigned int delay_ms)
{
	if (!vbal_stopping(size))
		queue_delayed_work(size->wq, &size->work,
				   msecs_to_jiffies(delay_ms));
}

/**
 * vbal_size_retry() - have the size worker try the target again now
 * @size: the size
 *
 * Ends a pause that the worker is making.
 *
 * Context: Any.
 */
void vbal_size_retry(struct vbal_size *size)
{
	WRITE_ONCE(size->retry_now, true);
	vbal_size_wake(size);
}

/**
 * vbal_size_ram_pages() - what the guest has, ballooned pages included
 * @size: the size
 *
 * Context: Any.
 * Return: pages; grows with memory hotplug.
 */
unsigned long vbal_size_ram_pages(struct vbal_size *size)
{
	unsigned long nr_pages = totalram_pages();

	if (size->pages.adjust_managed)
		nr_pages += vbal_pages_held(&size->pages);
	return nr_pages;
}

/**
 * vbal_size_retry_in_ms() - how long an unchanged target is not tried again
 * @size: the size
 *
 * Context: Any.
 * Return: what is left of the size worker's pause; 0 without one.
 */
u64 vbal_size_retry_in_ms(const struct vbal_size *size)
{
	u64 now_ms = vbal_now_ms(), retry_at_ms = READ_ONCE(size->retry_at_ms);

	return retry_at_ms > now_ms ? retry_at_ms - now_ms : 0;
}

/**
 * vbal_size_sample() - what the guard judges by
 * @size: the size
 * @s: the guest's memory at this moment
 *
 * Context: Any.
 */
void vbal_size_sample(struct vbal_size *size, struct vbal_signals *s)
{
	vbal_guard_sample(s, vbal_pages_held(&size->pages),
			  !size->pages.adjust_managed,
			  vbal_reclaim_stalls(&size->pages.reclaim));
}

static void vbal_free(struct vbal_size *size, struct vbal_blocks *blocks)
{
	u64 start_ns = ktime_get_ns();

	vbal_pages_free(&size->pages, blocks);
	vbal_debug_phase(&size->debug, VBAL_PHASE_FREE, start_ns);
	size->moved = true;
	cond_resched();
}

/* Batches in flight that came back: their blocks are held now, or free. */
static void vbal_collect(struct vbal_size *size, struct vbal_batch *batch)
{
	vbal_wire_acked(size->wire, batch);
	if (batch->id == VBAL_VQ_DEFLATE) {
		size->busy_pages += batch->blocks.nr_pages;
		vbal_free(size, &batch->blocks);
	} else {
		size->busy_pages -= batch->blocks.nr_pages;
		vbal_pages_hold(&size->pages, &batch->blocks, batch->mode);
		size->moved = true;
	}
	list_move(&batch->node, &size->free_batches);
}

static int vbal_collect_oldest(struct vbal_size *size)
{
	struct vbal_batch *batch =
		list_first_entry(&size->busy_batches, struct vbal_batch, node);
	u64 start_ns = ktime_get_ns();
	int ret = vbal_wire_wait(size->wire, batch);

	vbal_debug_phase(&size->debug, VBAL_PHASE_HOST, start_ns);
	if (!ret)
		vbal_collect(size, batch);
	return ret;
}

static void vbal_collect_done(struct vbal_size *size)
{
	struct vbal_batch *batch, *next;

	list_for_each_entry_safe(batch, next, &size->busy_batches, node) {
		if (!vbal_wire_done(size->wire, batch))
			break;
		vbal_collect(size, batch);
	}
}

static int vbal_collect_all(struct vbal_size *size)
{
	int ret = 0;

	while (!ret && !list_empty(&size->busy_batches))
		ret = vbal_collect_oldest(size);
	return ret;
}

static int vbal_get_batch(struct vbal_size *size, struct vbal_batch **batch)
{
	int ret = 0;

	vbal_collect_done(size);
	if (list_empty(&size->free_batches))
		ret = vbal_collect_oldest(size);
	if (!ret)
		*batch = list_first_entry(&size->free_batches,
					  struct vbal_batch, node);
	return ret;
}

/* In flight: the batch keeps its blocks until it is collected. */
static int vbal_send(struct vbal_size *size, struct vbal_batch *batch)
{
	u64 start_ns = ktime_get_ns();
	int ret;

	list_move_tail(&batch->node, &size->busy_batches);
	if (batch->id == VBAL_VQ_DEFLATE)
		size->busy_pages -= batch->blocks.nr_pages;
	else
		size->busy_pages += batch->blocks.nr_pages;
	ret = vbal_wire_submit(size->wire, batch);
	vbal_debug_phase(&size->debug, VBAL_PHASE_HOST, start_ns);
	return ret;
}

static bool vbal_squeezing(struct vbal_size *size)
{
	return READ_ONCE(size->guard.policy) == VBAL_GUARD_SQUEEZE;
}

/* Page cache is dropped for blocks of the mode that comes first. */
static bool vbal_fill_room(struct vbal_size *size, struct vbal_batch *batch,
			   struct vbal_want *want)
{
	if (!want->reclaim)
		return false;
	vbal_wire_room(size->wire, batch,
		       size->ranges ? VBAL_MODE_RANGE : VBAL_MODE_PFN, want);
	return vbal_pages_make_room(&size->pages, want, &batch->blocks);
}

/* By range if there is anything large enough. */
static enum vbal_vq_id vbal_fill_free(struct vbal_size *size,
				      struct vbal_batch *batch,
				      struct vbal_want *want)
{
	if (size->ranges) {
		vbal_wire_room(size->wire, batch, VBAL_MODE_RANGE, want);
		vbal_pages_alloc(&size->pages, want, &batch->blocks);
		if (batch->blocks.nr_pages)
			return VBAL_VQ_REPORT;
	}
	vbal_wire_room(size->wire, batch, VBAL_MODE_PFN, want);
	vbal_pages_alloc(&size->pages, want, &batch->blocks);
	return VBAL_VQ_INFLATE;
}

/* No more than lies about: meanwhile others may take some of it. */
static enum vbal_vq_id vbal_fill_pieces(struct vbal_size *size,
					struct vbal_batch *batch,
					const struct vbal_verdict *v,
					unsigned long nr_pieces)
{
	struct vbal_want want = {
		.nr_pages = min(v->grant_pages, nr_pieces),
		.slab_first = v->slab_first,
		.pieces = true,
	};
	enum vbal_vq_id id = vbal_fill_free(size, batch, &want);

	vbal_pages_took_pieces(&size->pages, batch->blocks.nr_pages);
	return id;
}

/*
 * Take blocks for one batch. None and 0: go on, reclaim has made room that is not
 * in large blocks yet.
 */
static int vbal_fill(struct vbal_size *size, struct vbal_batch *batch,
		     const struct vbal_verdict *v, enum vbal_vq_id *id)
{
	struct vbal_want want = {
		.nr_pages = v->grant_pages,
		.granted_pages = v->grant_pages,
		.reclaim = v->reclaim,
		.slab = v->slab,
		.merge = v->merge,
		.slab_first = v->slab_first,
		.squeeze = vbal_squeezing(size),
	};
	u64 start_ns = ktime_get_ns();
	bool progress = vbal_fill_room(size, batch, &want);
	unsigned long nr_pieces = 0;

	/* What reclaim leaves may still merge. */
	if (size->ranges && !v->reclaim)
		nr_pieces = vbal_pages_scattered(&size->pages);
	if (nr_pieces)
		*id = vbal_fill_pieces(size, batch, v, nr_pieces);
	if (!nr_pieces || !batch->blocks.nr_pages)
		*id = vbal_fill_free(size, batch, &want);
	/* While the host is waited for nothing may lie in between. */
	vbal_reclaim_end(&size->pages.reclaim);
	vbal_debug_phase(&size->debug, VBAL_PHASE_ALLOC, start_ns);
	/* Others were quicker to take what was enough: next time it is not. */
	progress |= want.reclaim &&
		    !vbal_pages_has_enough(&want, want.nr_pages);
	return progress || batch->blocks.nr_pages ? 0 : -ENOMEM;
}

static int vbal_inflate(struct vbal_size *size, unsigned long want_pages,
			struct vbal_verdict *v)
{
	struct vbal_batch *batch;
	struct vbal_signals s;
	enum vbal_vq_id id;
	int ret;

	/* A page still on its way back must not be given again before. */
	ret = vbal_wire_drain(size->wire, VBAL_VQ_DEFLATE);
	if (!ret)
		ret = vbal_get_batch(size, &batch);
	if (ret)
		return ret;
	vbal_size_sample(size, &s);
	/* What is in flight is as good as gone. */
	s.held_pages += size->busy_pages;
	vbal_guard_ask(&size->guard, &s, want_pages, v);
	trace_vbal_guard(size->debug.virtio, &s, want_pages, v,
			 READ_ONCE(size->guard.reserve_pages));
	if (!v->grant_pages)
		return -EAGAIN;
	ret = vbal_fill(size, batch, v, &id);
	if (ret)
		return ret;
	if (!batch->blocks.nr_pages)
		return 1;
	/* Nor what moved or went back on OOM meanwhile, and is among these now. */
	ret = vbal_wire_drain(size->wire, VBAL_VQ_DEFLATE);
	if (!ret)
		ret = vbal_wire_load(size->wire, batch, id);
	if (ret) {
		vbal_pages_discard(&batch->blocks);
		return ret;
	}
	vbal_size_set_state(size, VBAL_STATE_INFLATING,
			    "the host asks for more");
	ret = vbal_send(size, batch);
	if (!ret)
		vbal_guard_progress(&size->guard);
	return ret ?: 1;
}

/* Not in the midst of a move: whose is the page then? */
static int vbal_pick(struct vbal_size *size, enum vbal_mode mode,
		     unsigned long nr_pages, struct vbal_blocks *out)
{
	unsigned long nr_picked;

	mutex_lock(&size->move.lock);
	nr_picked = vbal_pages_pick(&size->pages, mode, nr_pages, out);
	mutex_unlock(&size->move.lock);
	return nr_picked ? 0 : -EBUSY;
}

/* Blocks that travelled by range go back without a word. */
static int vbal_deflate_range(struct vbal_size *size, unsigned long nr_pages)
{
	struct vbal_blocks blocks;
	int ret;

	vbal_blocks_init(&blocks);
	ret = vbal_pick(size, VBAL_MODE_RANGE,
			min_t(unsigned long, nr_pages, VBAL_FREE_STEP_PAGES),
			&blocks);
	if (ret)
		return ret;
	vbal_free(size, &blocks);
	return 1;
}

/*
 * PFNs go through the deflate queue. Unless the host has to be told first, the
 * pages are the guest's as soon as the request is in the queue.
 */
static int vbal_deflate_pfn(struct vbal_size *size, unsigned long nr_pages)
{
	struct vbal_want want = { .nr_pages = nr_pages };
	struct vbal_batch *batch;
	int ret;

	ret = vbal_get_batch(size, &batch);
	if (ret)
		return ret;
	vbal_wire_room(size->wire, batch, VBAL_MODE_PFN, &want);
	ret = vbal_pick(size, VBAL_MODE_PFN, want.nr_pages, &batch->blocks);
	if (ret)
		return ret;
	ret = vbal_wire_load(size->wire, batch, VBAL_VQ_DEFLATE);
	/* The same frames fitted when they were given. */
	if (WARN_ON_ONCE(ret)) {
		vbal_free(size, &batch->blocks);
		return ret;
	}
	ret = vbal_send(size, batch);
	if (!ret &&
	    !vbal_wire_has(size->wire, VIRTIO_BALLOON_F_MUST_TELL_HOST)) {
		size->busy_pages += batch->blocks.nr_pages;
		vbal_free(size, &batch->blocks);
	}
	return ret ?: 1;
}

static int vbal_deflate_by(struct vbal_size *size, enum vbal_mode mode,
			   unsigned long nr_pages)
{
	if (mode == VBAL_MODE_RANGE)
		return vbal_deflate_range(size, nr_pages);
	return vbal_deflate_pfn(size, nr_pages);
}

/*
 * Nothing can be picked now: the host has still to answer, or to see what moved in,
 * or compaction has pages out and brings them back.
 */
static int vbal_deflate_later(struct vbal_size *size)
{
	if (!list_empty(&size->busy_batches))
		return vbal_collect_oldest(size) ?: 1;
	if (vbal_pages_isolated(&size->pages))
		return -EBUSY;
	return vbal_move_wait(&size->move) ?: -EBUSY;
}

static int vbal_deflate(struct vbal_size *size, unsigned long nr_pages)
{
	enum vbal_mode mode = vbal_pages_choose(&size->pages, nr_pages);
	enum vbal_mode other = vbal_other_mode(mode);
	int ret;

	ret = vbal_deflate_by(size, mode, nr_pages);
	if (ret == -EBUSY && vbal_pages_has(&size->pages, other))
		ret = vbal_deflate_by(size, other, nr_pages);
	return ret == -EBUSY ? vbal_deflate_later(size) : ret;
}

/* The target in pages. A host that asks for more than there is gets it all. */
static unsigned long vbal_target_pages(struct vbal_size *size)
{
	u32 nr_frames = vbal_wire_target_frames(size->wire);
	unsigned long nr_pages = vbal_frames_to_pages(nr_frames);
	unsigned long ram_pages = vbal_size_ram_pages(size);

	if (nr_frames != size->target_frames) {
		WRITE_ONCE(size->target_frames, nr_frames);
		size->retry_at_ms = 0;
	}
	if (nr_pages <= ram_pages)
		return nr_pages;
	if (!size->clamp_warned)
		dev_warn(
			&size->wire->vdev->dev,
			"the host asks for %lu pages, the guest has %lu; taking that as the target\n",
			nr_pages, ram_pages);
	size->clamp_warned = true;
	return ram_pages;
}

/* Under pressure a balloon may shrink below its target, if the host agreed. */
static unsigned long vbal_pressure_pages(struct vbal_size *size,
					 struct vbal_verdict *v)
{
	unsigned long held = vbal_pages_held(&size->pages);
	struct vbal_signals s;

	if (!size->guard.may_give_back || !held || vbal_squeezing(size))
		return 0;
	vbal_size_sample(size, &s);
	vbal_guard_watch(&size->guard, &s, v);
	if (v->give_back_pages)
		trace_vbal_guard(size->debug.virtio, &s, 0, v,
				 READ_ONCE(size->guard.reserve_pages));
	return min(v->give_back_pages, held);
}

/*
 * What is still to be given back. The balloon may have shrunk meanwhile for other
 * reasons, and whoever lets the host win owes nothing.
 */
static unsigned long vbal_owed_pages(struct vbal_size *size)
{
	unsigned long have = vbal_pages_held(&size->pages) + size->busy_pages;

	if (vbal_squeezing(size) || have <= size->relieve_to_pages) {
		size->relieve_to_pages = ULONG_MAX;
		return 0;
	}
	return have - size->relieve_to_pages;
}

/*
 * Give back at once, whatever the host wants. As vbal_step() returns. What does
 * not fit into the slice, or is out with compaction, is left for the next.
 */
static int vbal_relieve(struct vbal_size *size, unsigned long nr_pages,
			const char *why, unsigned long slice_end)
{
	unsigned long have = vbal_pages_held(&size->pages) + size->busy_pages;
	int ret = 1;

	vbal_size_set_state(size, VBAL_STATE_DEFLATING, why);
	size->relieve_to_pages = have - min(nr_pages, have);
	for (;;) {
		nr_pages = vbal_owed_pages(size);
		if (ret <= 0 || !nr_pages || vbal_stopping(size) ||
		    time_after(jiffies, slice_end))
			return ret;
		ret = vbal_deflate(size, nr_pages);
	}
}

/*
 * One step towards the target. 1: there may be more to do, 0: at the target,
 * else why not.
 */
static int vbal_step(struct vbal_size *size, struct vbal_verdict *v)
{
	unsigned long target = vbal_target_pages(size);
	unsigned long have = vbal_pages_held(&size->pages) + size->busy_pages;

	if (target > have) {
		if (vbal_size_retry_in_ms(size))
			return -EINPROGRESS;
		return vbal_inflate(size, target - have, v);
	}
	if (target < have) {
		int ret = 0;

		/* Only what has been acknowledged can be taken back. */
		if (size->busy_pages > 0)
			ret = vbal_collect_all(size);
		if (ret)
			return ret;
		vbal_size_set_state(size, VBAL_STATE_DEFLATING,
				    "the host asks for less");
		return vbal_deflate(size, have - target);
	}
	return 0;
}

static u64 vbal_rate(u64 nr_pages, u64 ns)
{
	return ns ? mul_u64_u64_div_u64(nr_pages << PAGE_SHIFT, NSEC_PER_SEC,
					ns) :
		    0;
}

static void vbal_resize_begins(struct vbal_size *size)
{
	if (size->resize_start_ns)
		return;
	size->resize_start_ns = ktime_get_ns();
	size->resize_from_pages = vbal_pages_held(&size->pages);
}

static void vbal_resize_ends(struct vbal_size *size)
{
	unsigned long held = vbal_pages_held(&size->pages);
	u64 ns;

	vbal_pages_forget_pieces(&size->pages);
	if (!size->resize_start_ns)
		return;
	ns = ktime_get_ns() - size->resize_start_ns;
	if (held > size->resize_from_pages)
		WRITE_ONCE(size->last_inflate_bps,
			   vbal_rate(held - size->resize_from_pages, ns));
	else if (held < size->resize_from_pages)
		WRITE_ONCE(size->last_deflate_bps,
			   vbal_rate(size->resize_from_pages - held, ns));
	size->resize_start_ns = 0;
}

static void vbal_publish(struct vbal_size *size)
{
	u32 nr_frames = vbal_pages_to_frames(vbal_pages_held(&size->pages));

	vbal_wire_set_actual(size->wire, nr_frames);
	WRITE_ONCE(size->actual_frames, nr_frames);
}

static void vbal_pause(struct vbal_size *size, enum vbal_state state,
		       const char *why, unsigned int pause_ms)
{
	vbal_size_set_state(size, state, why);
	WRITE_ONCE(size->retry_at_ms, vbal_now_ms() + pause_ms);
	vbal_work_again(size, pause_ms);
}

/*
 * At rest: look again soon where the balloon might have to give back, and else
 * whether somebody has reset the device, which then never asks for anything.
 */
static void vbal_rest(struct vbal_size *size)
{
	bool watch = size->guard.may_give_back && vbal_pages_held(&size->pages);

	vbal_work_again(size, watch ? VBAL_WATCH_MS : VBAL_LOOK_MS);
}

/* What became of a slice, and what follows from it: the only place to decide. */
static void vbal_settle(struct vbal_size *size, int ret,
			const struct vbal_verdict *v)
{
	if (ret <= 0)
		vbal_resize_ends(size);
	switch (ret) {
	case 1:
		vbal_work_again(size, 0);
		break;
	case 0:
		vbal_size_set_state(size, VBAL_STATE_AT_TARGET,
				    "the host has what it asked for");
		vbal_guard_progress(&size->guard);
		vbal_rest(size);
		break;
	case -EAGAIN:
		vbal_pause(size, v->state, v->why, v->retry_ms);
		break;
	case -EINPROGRESS:
		vbal_work_again(size, min_t(u64, VBAL_WATCH_MS,
					    vbal_size_retry_in_ms(size)));
		break;
	case -ERANGE:
		dev_warn_once(&size->wire->vdev->dev,
			      "memory beyond 16 TiB cannot be given by PFN\n");
		fallthrough;
	case -ENOMEM:
		dev_info_ratelimited(
			&size->wire->vdev->dev,
			"no pages for the balloon now, trying again later\n");
		vbal_pause(size, VBAL_STATE_BACKING_OFF,
			   "the allocator had no free page",
			   vbal_guard_alloc_failed(&size->guard,
						   vbal_now_ms()));
		break;
	case -EBUSY:
		/* Compaction has the pages out; it brings them back. */
		vbal_work_again(size, 10);
		break;
	default:
		/* The device broke and was reset; its owner has been told. */
		break;
	}
}

/*
 * Blocks that the OOM notifier could not send, or not wait for. Return: pages, where
 * the host has seen them, or sees nothing any more.
 */
static unsigned long vbal_oom_finish_locked(struct vbal_size *size)
{
	struct vbal_batch *batch = size->oom_batch;
	unsigned long nr_pages = batch->blocks.nr_pages;

	lockdep_assert_held(&size->oom_lock);
	if (!vbal_life_is_over(&size->wire->life)) {
		if (size->oom_unsent)
			size->oom_unsent =
				vbal_wire_try_submit(size->wire, batch);
		if (size->oom_unsent || !vbal_wire_done(size->wire, batch))
			return 0;
	}
	vbal_pages_free(&size->pages, &batch->blocks);
	return nr_pages;
}

static void vbal_oom_finish(struct vbal_size *size)
{
	if (!mutex_trylock(&size->oom_lock))
		return;
	vbal_oom_finish_locked(size);
	mutex_unlock(&size->oom_lock);
}

/*
 * Whole blocks are quick to give and to take, but stand in the way of whoever
 * needs the place. So they stay whole only as long as the balloon is moving.
 */
static void vbal_settle_work_fn(struct work_struct *work)
{
	struct vbal_size *size = container_of(to_delayed_work(work),
					      struct vbal_size, settle_work);

	if (vbal_stopping(size))
		return;
	if (vbal_pages_settle(&size->pages, VBAL_SETTLE_STEP_PAGES))
		queue_delayed_work(size->wq, &size->settle_work, 0);
	else if (vbal_pages_keeps(&size->pages))
		queue_delayed_work(size->wq, &size->settle_work,
				   msecs_to_jiffies(VBAL_SETTLE_MS));
}

static void vbal_settle_later(struct vbal_size *size)
{
	unsigned long delay = msecs_to_jiffies(VBAL_SETTLE_MS);
	bool moved = size->moved;

	size->moved = false;
	if (vbal_stopping(size))
		return;
	if (moved)
		mod_delayed_work(size->wq, &size->settle_work, delay);
	else if (vbal_pages_keeps(&size->pages))
		queue_delayed_work(size->wq, &size->settle_work, delay);
}

static void vbal_size_work_fn(struct work_struct *work)
{
	struct vbal_size *size =
		container_of(to_delayed_work(work), struct vbal_size, work);
	unsigned long slice_end = jiffies + msecs_to_jiffies(VBAL_SLICE_MS);
	struct vbal_verdict v = {};
	unsigned long nr_pages;
	int ret, drained;

	if (vbal_stopping(size))
		return;
	if (vbal_wire_is_broken(size->wire)) {
		vbal_wire_kill(size->wire);
		return;
	}
	if (xchg(&size->retry_now, false))
		WRITE_ONCE(size->retry_at_ms, 0);
	vbal_oom_finish(size);
	vbal_resize_begins(size);
	vbal_pages_rewind(&size->pages);
	v.why = size->why;
	nr_pages = vbal_owed_pages(size) ?: vbal_pressure_pages(size, &v);
	if (nr_pages)
		ret = vbal_relieve(size, nr_pages, v.why, slice_end);
	else
		do
			ret = vbal_step(size, &v);
		while (ret > 0 && !vbal_stopping(size) &&
		       time_before(jiffies, slice_end));
	/* What was with a broken device is not collected but released. */
	drained = ret == -EIO ? ret : vbal_collect_all(size);
	vbal_publish(size);
	vbal_settle(size, drained ?: ret, &v);
	vbal_settle_later(size);
}

/*
 * The last line before the OOM killer, where DEFLATE_ON_OOM was negotiated.
 * Allocates nothing. Who comes here has nothing better to do than to wait: but
 * for a second in all, then the rest is left to the size worker. With
 * MUST_TELL_HOST pages that travelled as PFNs are free only when the host has
 * answered.
 */

/**
 * vbal_oom_pause() - wait a tick, as an OOM notifier
 * @end: until then, in jiffies
 *
 * Context: OOM notifier; sleeps idle.
 * Return: false, without any wait, when @end is over.
 */
bool vbal_oom_pause(unsigned long end)
{
	if (time_after(jiffies, end))
		return false;
	schedule_timeout_idle(1);
	return true;
}

static bool vbal_oom_wait(struct vbal_size *size, unsigned long end)
{
	if (!vbal_wire_has(size->wire, VIRTIO_BALLOON_F_MUST_TELL_HOST))
		return true;
	while (!vbal_wire_done(size->wire, size->oom_batch))
		if (!vbal_oom_pause(end))
			return false;
	return true;
}

/* Pages that can be told of now: the last have to be read first, and the ring may be full. */
static unsigned long vbal_oom_room(struct vbal_size *size)
{
	struct vbal_batch *batch = size->oom_batch;

	vbal_oom_finish_locked(size);
	if (batch->blocks.nr_pages || !vbal_wire_done(size->wire, batch))
		return 0;
	return vbal_wire_free_pfns(size->wire, batch, VBAL_VQ_DEFLATE) /
	       VBAL_FRAMES_PER_PAGE;
}

static unsigned long vbal_oom_deflate_pfn(struct vbal_size *size,
					  unsigned long nr_pages,
					  unsigned long end)
{
	struct vbal_batch *batch = size->oom_batch;
	unsigned long nr_freed;

	nr_pages = min(nr_pages, vbal_oom_room(size));
	if (!vbal_pages_pick(&size->pages, VBAL_MODE_PFN, nr_pages,
			     &batch->blocks))
		return 0;
	/* Somebody was quicker to fill the ring: the size worker sends it. */
	size->oom_unsent = vbal_wire_load(size->wire, batch, VBAL_VQ_DEFLATE) ||
			   vbal_wire_try_submit(size->wire, batch);
	if (size->oom_unsent || !vbal_oom_wait(size, end))
		return 0;
	nr_freed = batch->blocks.nr_pages;
	vbal_pages_free(&size->pages, &batch->blocks);
	return nr_freed;
}

/* Without a word: what travelled by range, or all once the device is dead. */
static unsigned long vbal_oom_free(struct vbal_size *size, enum vbal_mode mode,
				   unsigned long nr_pages)
{
	struct vbal_blocks blocks;
	unsigned long nr_freed;

	vbal_blocks_init(&blocks);
	nr_freed = vbal_pages_pick(&size->pages, mode, nr_pages, &blocks);
	vbal_pages_free(&size->pages, &blocks);
	return nr_freed;
}

static unsigned long vbal_oom_deflate_by(struct vbal_size *size,
					 enum vbal_mode mode,
					 unsigned long nr_pages,
					 unsigned long end)
{
	if (mode == VBAL_MODE_PFN && !vbal_life_is_over(&size->wire->life))
		return vbal_oom_deflate_pfn(size, nr_pages, end);
	return vbal_oom_free(size, mode, nr_pages);
}

/* Waits for nothing but the answer that MUST_TELL_HOST asks for, until @end. */
static unsigned long vbal_oom_deflate(struct vbal_size *size,
				      unsigned long nr_pages, unsigned long end)
{
	unsigned long nr_freed = 0;

	while (nr_freed < nr_pages) {
		unsigned long left =
			min(nr_pages - nr_freed, VBAL_FREE_STEP_PAGES);
		enum vbal_mode mode = vbal_pages_choose(&size->pages, left);
		unsigned long nr;

		nr = vbal_oom_deflate_by(size, mode, left, end);
		if (!nr)
			nr = vbal_oom_deflate_by(size, vbal_other_mode(mode),
						 left, end);
		if (!nr)
			break;
		nr_freed += nr;
	}
	return nr_freed;
}

/* The kernel has begun to reclaim; called by the task that does, cannot sleep. */
static void vbal_size_reclaim_begins(struct vbal_guard *g)
{
	struct vbal_size *size = container_of(g, struct vbal_size, guard);

	if (vbal_pages_held(&size->pages))
		vbal_size_wake(size);
}

/*
 * Up, or dead but not yet released: between both nothing can be given. While the
 * device is being reset that is waited for; but who stops it waits for @oom_lock.
 */
static bool vbal_oom_may_wait(struct vbal_size *size)
{
	enum vbal_life_state state = vbal_life_now(&size->wire->life);

	return state == VBAL_LIFE_UP || state == VBAL_LIFE_RESETTING ||
	       state == VBAL_LIFE_DEAD;
}

/*
 * The size worker may be picking pages, the deflate queue may be full, and a page
 * that has just moved in may be the last: for a moment, and that is waited for
 * where nothing else can go.
 */
static unsigned long vbal_oom_relieve(struct vbal_size *size,
				      unsigned long held, u64 now_ms)
{
	unsigned long end = jiffies + msecs_to_jiffies(vbal_oom_wait_ms);
	unsigned long nr_pages = 0, step = 0;

	while (!mutex_trylock(&size->oom_lock))
		if (!vbal_oom_pause(end))
			return 0;
	WRITE_ONCE(size->move.wanted, true);
	do {
		if (!vbal_oom_may_wait(size))
			break;
		nr_pages = vbal_oom_finish_locked(size);
		if (nr_pages ||
		    vbal_life_now(&size->wire->life) == VBAL_LIFE_RESETTING ||
		    !mutex_trylock(&size->move.lock))
			continue;
		if (!step)
			step = vbal_guard_oom_step(&size->guard, now_ms);
		nr_pages = vbal_oom_deflate(size, step, end);
		mutex_unlock(&size->move.lock);
	} while (!nr_pages && vbal_pages_held(&size->pages) >= held &&
		 vbal_oom_pause(end));
	WRITE_ONCE(size->move.wanted, false);
	mutex_unlock(&size->oom_lock);
	return nr_pages;
}

static int vbal_oom_notify(struct notifier_block *nb, unsigned long unused,
			   void *param)
{
	struct vbal_size *size = container_of(nb, struct vbal_size, oom_nb);
	unsigned long held = vbal_pages_held(&size->pages), left, nr_pages;
	unsigned long *freed = param;
	u64 now_ms = vbal_now_ms();

	/* What is on its way cannot be had back, but no more need follow it. */
	if (!held) {
		if (READ_ONCE(size->state) == VBAL_STATE_INFLATING)
			vbal_guard_oom_done(&size->guard, 0, now_ms);
		return NOTIFY_OK;
	}
	nr_pages = vbal_oom_relieve(size, held, now_ms);
	/* What the size worker has freed meanwhile helps just as well. */
	left = vbal_pages_held(&size->pages);
	if (left < held)
		nr_pages = max(nr_pages, held - left);
	vbal_guard_oom_done(&size->guard, nr_pages, now_ms);
	trace_vbal_oom(size->debug.virtio, nr_pages);
	*freed += nr_pages;
	vbal_size_wake(size);
	return NOTIFY_OK;
}

/**
 * vbal_size_give_back() - give all back, telling the host where it has to be told
 * @size: the size, stopped
 *
 * Ends early with a host that is broken or silent.
 *
 * Context: Disconnect.
 */
void vbal_size_give_back(struct vbal_size *size)
{
	unsigned long nr_pages;
	int ret;

	ret = vbal_collect_all(size);
	while (!ret && (nr_pages = vbal_pages_held(&size->pages))) {
		ret = vbal_deflate(size, nr_pages);
		if (ret == -EBUSY) {
			/* Compaction has some out, or the OOM notifier. */
			schedule_timeout_idle(1);
			ret = vbal_wire_drain(size->wire, VBAL_VQ_DEFLATE);
			vbal_oom_finish(size);
			/* What it has left cannot be sent any more. */
			if (!vbal_wire_usable(size->wire, VBAL_VQ_DEFLATE))
				ret = -EIO;
		}
		if (ret > 0)
			ret = size->busy_pages ? vbal_collect_all(size) : 0;
	}
	if (!ret)
		ret = vbal_collect_all(size);
	if (!ret)
		ret = vbal_wire_drain(size->wire, VBAL_VQ_DEFLATE);
	if (!ret)
		vbal_publish(size);
}

/* What was in flight when the device was reset. */
static void vbal_release_batches(struct vbal_size *size)
{
	struct vbal_batch *batch, *next;

	list_for_each_entry_safe(batch, next, &size->busy_batches, node) {
		if (batch->id == VBAL_VQ_DEFLATE)
			vbal_pages_free(&size->pages, &batch->blocks);
		else
			vbal_pages_discard(&batch->blocks);
		list_move(&batch->node, &size->free_batches);
	}
	list_for_each_entry(batch, &size->free_batches, node)
		batch->token.nr_pending = 0;
	size->busy_pages = 0;
	mutex_lock(&size->oom_lock);
	vbal_pages_free(&size->pages, &size->oom_batch->blocks);
	size->oom_batch->token.nr_pending = 0;
	size->oom_unsent = false;
	mutex_unlock(&size->oom_lock);
}

/**
 * vbal_size_release() - the device was reset: what is left is the guest's
 * @size: the size, stopped
 *
 * Context: Disconnect, after the reset.
 */
void vbal_size_release(struct vbal_size *size)
{
	struct vbal_blocks blocks;

	vbal_release_batches(size);
	vbal_move_release(&size->move);
	vbal_blocks_init(&blocks);
	while (vbal_pages_held(&size->pages)) {
		enum vbal_mode mode =
			vbal_pages_choose(&size->pages, VBAL_FREE_STEP_PAGES);

		vbal_pages_pick(&size->pages, mode, VBAL_FREE_STEP_PAGES,
				&blocks);
		/* Compaction has some out; it brings them back. */
		if (!blocks.nr_pages)
			schedule_timeout_idle(1);
		vbal_free(size, &blocks);
	}
	size->relieve_to_pages = ULONG_MAX;
	WRITE_ONCE(size->actual_frames, 0);
}

/**
 * vbal_size_start() - follow the host's target
 * @size: the size
 * @ranges: blocks may travel as ranges
 *
 * Context: Connect, before the life is UP; vbal_size_retry() has to follow.
 * Return: 0 or -ENOMEM.
 */
int vbal_size_start(struct vbal_size *size, bool ranges)
{
	/* Who found the device dead gives back without a word: none of what comes. */
	mutex_lock(&size->oom_lock);
	mutex_unlock(&size->oom_lock);
	WRITE_ONCE(size->ranges, ranges);
	vbal_size_set_state(size, VBAL_STATE_AT_TARGET, "set up a moment ago");
	return vbal_guard_start(&size->guard, vbal_size_reclaim_begins);
}

/**
 * vbal_size_stop() - follow it no more; nothing is given back
 * @size: the size
 *
 * Context: Disconnect, when the life is no longer UP. Waits for the worker, and
 * for an OOM notification or migration under way; none begins any more.
 */
void vbal_size_stop(struct vbal_size *size)
{
	vbal_guard_stop(&size->guard);
	cancel_delayed_work_sync(&size->work);
	cancel_delayed_work_sync(&size->settle_work);
	vbal_reclaim_stop(&size->pages.reclaim);
	mutex_lock(&size->oom_lock);
	mutex_unlock(&size->oom_lock);
	mutex_lock(&size->move.lock);
	mutex_unlock(&size->move.lock);
}

/* Whatever is held in memory that goes offline is moved out of it, as others' is. */
static int vbal_memory_notify(struct notifier_block *nb, unsigned long action,
			      void *unused)
{
	struct vbal_size *size = container_of(nb, struct vbal_size, memory_nb);

	if (action == MEM_GOING_OFFLINE)
		vbal_pages_set_offlining(&size->pages, true);
	else if (action == MEM_OFFLINE || action == MEM_CANCEL_OFFLINE)
		vbal_pages_set_offlining(&size->pages, false);
	return NOTIFY_OK;
}

static int vbal_size_alloc_batches(struct vbal_size *size)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_BATCHES; i++) {
		struct vbal_batch *batch =
			vbal_batch_alloc(VBAL_BUFS_PER_BATCH);

		if (!batch)
			return -ENOMEM;
		list_add(&batch->node, &size->free_batches);
	}
	size->oom_batch = vbal_batch_alloc(VBAL_BUFS_PER_OOM_STEP);
	return size->oom_batch ? 0 : -ENOMEM;
}

/**
 * vbal_size_alloc() - allocate all that resizing will ever need
 * @size: the size, zeroed
 * @wire: the wire, features negotiated
 *
 * Context: Probe.
 * Return: 0 or an error; vbal_size_free() undoes either.
 */
int vbal_size_alloc(struct vbal_size *size, struct vbal_wire *wire)
{
	bool on_oom = vbal_wire_has(wire, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
	int ret;

	size->wire = wire;
	size->why = "not set up yet";
	mutex_init(&size->oom_lock);
	INIT_DELAYED_WORK(&size->work, vbal_size_work_fn);
	INIT_DELAYED_WORK(&size->settle_work, vbal_settle_work_fn);
	INIT_LIST_HEAD(&size->free_batches);
	INIT_LIST_HEAD(&size->busy_batches);
	vbal_pages_init(&size->pages, !on_oom);
	size->relieve_to_pages = ULONG_MAX;
	vbal_guard_init(&size->guard, totalram_pages(), on_oom);
	vbal_debug_init(&size->debug, wire->vdev->index);
	vbal_move_init(&size->move, wire, &size->pages);
	size->wq = alloc_workqueue(
		"vballoon", WQ_UNBOUND | WQ_FREEZABLE | WQ_MEM_RECLAIM, 1);
	if (!size->wq)
		return -ENOMEM;
	ret = vbal_size_alloc_batches(size);
	if (ret)
		return ret;
	size->memory_nb.notifier_call = vbal_memory_notify;
	ret = register_memory_notifier(&size->memory_nb);
	if (ret || !on_oom)
		return ret;
	size->oom_nb.notifier_call = vbal_oom_notify;
	size->oom_nb.priority = VBAL_OOM_PRIORITY;
	return register_oom_notifier(&size->oom_nb);
}

/**
 * vbal_size_free() - free what vbal_size_alloc() allocated
 * @size: the size, released
 *
 * Context: Probe that failed, remove.
 */
void vbal_size_free(struct vbal_size *size)
{
	struct vbal_batch *batch, *next;

	/* One that was never registered is not found, and no harm is done. */
	unregister_oom_notifier(&size->oom_nb);
	unregister_memory_notifier(&size->memory_nb);
	if (size->wq)
		destroy_workqueue(size->wq);
	list_for_each_entry_safe(batch, next, &size->free_batches, node)
		vbal_batch_free(batch);
	vbal_batch_free(size->oom_batch);
}
