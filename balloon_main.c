// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver's life, and the size worker: the one place where an errno becomes
 * a policy. Touches neither a virtqueue nor a page list.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "balloon.h"
#include "balloon_trace.h"

#include <linux/module.h>
#include <linux/oom.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/virtio_ring.h>

/* Freed without the host's word at a time; a block of any order fits. */
#define VBAL_FREE_STEP_PAGES \
	max_t(unsigned long, SZ_64M >> PAGE_SHIFT, 1UL << VBAL_MAX_ORDER)
/* How often a balloon at rest is looked at where it may give back. */
#define VBAL_WATCH_MS 1000
/* Pause before a broken device is reset: this, doubled each time up to ... */
#define VBAL_RECOVER_MIN_MS 1000u
#define VBAL_RECOVER_MAX_MS 60000u
/* With MUST_TELL_HOST the OOM notifier waits for the host, but not long. */
#define VBAL_OOM_WAIT_MS 100
#define VBAL_OOM_PRIORITY 80

static const char *const vbal_transfer_names[] = {
	[VBAL_TRANSFER_AUTO] = "auto",
	[VBAL_TRANSFER_PFN] = "pfn",
	[VBAL_TRANSFER_RANGE] = "range",
};

static enum vbal_transfer vbal_transfer = VBAL_TRANSFER_AUTO;

static int vbal_transfer_set(const char *val, const struct kernel_param *kp)
{
	int i = sysfs_match_string(vbal_transfer_names, val);

	if (i < 0) {
		pr_err("transfer=%s is unknown; valid: auto, pfn, range\n",
		       val);
		return i;
	}
	vbal_transfer = i;
	return 0;
}

static int vbal_transfer_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", vbal_transfer_names[vbal_transfer]);
}

static const struct kernel_param_ops vbal_transfer_ops = {
	.set = vbal_transfer_set,
	.get = vbal_transfer_get,
};
module_param_cb(transfer, &vbal_transfer_ops, NULL, 0444);
MODULE_PARM_DESC(transfer, "how blocks travel: auto (default), pfn, or range");

/* The features, and the parameters that decline them. */
static bool vbal_use_must_tell_host = true;
module_param_named(must_tell_host, vbal_use_must_tell_host, bool, 0444);
MODULE_PARM_DESC(must_tell_host, "accept MUST_TELL_HOST (default Y)");

static bool vbal_use_stats = true;
module_param_named(stats, vbal_use_stats, bool, 0444);
MODULE_PARM_DESC(stats, "accept STATS_VQ (default Y)");

static bool vbal_use_deflate_on_oom = true;
module_param_named(deflate_on_oom, vbal_use_deflate_on_oom, bool, 0444);
MODULE_PARM_DESC(deflate_on_oom, "accept DEFLATE_ON_OOM (default Y)");

static bool vbal_use_hinting = true;
module_param_named(hinting, vbal_use_hinting, bool, 0444);
MODULE_PARM_DESC(hinting, "accept FREE_PAGE_HINT (default Y)");

static bool vbal_use_page_poison = true;
module_param_named(page_poison, vbal_use_page_poison, bool, 0444);
MODULE_PARM_DESC(page_poison, "accept PAGE_POISON (default Y)");

static bool vbal_use_reporting = true;
module_param_named(reporting, vbal_use_reporting, bool, 0444);
MODULE_PARM_DESC(reporting, "accept REPORTING (default Y)");

/* Never a bit above 5: at least five proposals claim bit 6. */
static unsigned int vbal_features[] = {
	VIRTIO_BALLOON_F_MUST_TELL_HOST, VIRTIO_BALLOON_F_STATS_VQ,
	VIRTIO_BALLOON_F_DEFLATE_ON_OOM, VIRTIO_BALLOON_F_FREE_PAGE_HINT,
	VIRTIO_BALLOON_F_PAGE_POISON,	 VIRTIO_BALLOON_F_REPORTING,
};

static const bool *const vbal_feature_wanted[] = {
	[VIRTIO_BALLOON_F_MUST_TELL_HOST] = &vbal_use_must_tell_host,
	[VIRTIO_BALLOON_F_STATS_VQ] = &vbal_use_stats,
	[VIRTIO_BALLOON_F_DEFLATE_ON_OOM] = &vbal_use_deflate_on_oom,
	[VIRTIO_BALLOON_F_FREE_PAGE_HINT] = &vbal_use_hinting,
	[VIRTIO_BALLOON_F_PAGE_POISON] = &vbal_use_page_poison,
	[VIRTIO_BALLOON_F_REPORTING] = &vbal_use_reporting,
};

static const struct virtio_device_id vbal_id_table[] = {
	{ VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vbal_id_table);

/* For people: what the balloon does, since when, and why. */
static void vbal_set_state(struct vbal_dev *vb, enum vbal_state state,
			   const char *why)
{
	WRITE_ONCE(vb->why, why);
	if (vb->state == state)
		return;
	vbal_debug_state(vb, state);
	WRITE_ONCE(vb->state_since_ms, vbal_now_ms());
	WRITE_ONCE(vb->state, state);
}

static bool vbal_stopping(struct vbal_dev *vb)
{
	return !READ_ONCE(vb->live) || READ_ONCE(vb->wire.stopping);
}

/* From outside: the size worker looks now, or as soon as it is through. */
static void vbal_wake_worker(struct vbal_dev *vb)
{
	if (!vbal_stopping(vb))
		mod_delayed_work(vb->wq, &vb->size_work, 0);
}

/* From the size worker itself: not later than somebody else has asked for. */
static void vbal_work_again(struct vbal_dev *vb, unsigned int delay_ms)
{
	if (!vbal_stopping(vb))
		queue_delayed_work(vb->wq, &vb->size_work,
				   msecs_to_jiffies(delay_ms));
}

/**
 * vbal_resize() - have the size worker look at the target now
 * @vb: the device
 *
 * Also ends a pause that the worker is making.
 *
 * Context: Any.
 */
void vbal_resize(struct vbal_dev *vb)
{
	WRITE_ONCE(vb->retry_now, true);
	vbal_wake_worker(vb);
}

static void vbal_free(struct vbal_dev *vb, struct vbal_blocks *blocks)
{
	u64 start_ns = ktime_get_ns();

	vbal_pages_free(&vb->pages, blocks);
	vbal_debug_phase(vb, VBAL_PHASE_FREE, start_ns);
	cond_resched();
}

/* Batches in flight that came back: their blocks are held now, or free. */
static void vbal_collect(struct vbal_dev *vb, struct vbal_batch *batch)
{
	vbal_debug_acked(vb, batch);
	if (batch->id == VBAL_VQ_DEFLATE) {
		vb->busy_pages += batch->blocks.nr_pages;
		vbal_free(vb, &batch->blocks);
	} else {
		vb->busy_pages -= batch->blocks.nr_pages;
		vbal_pages_hold(&vb->pages, &batch->blocks, batch->mode);
	}
	list_move(&batch->node, &vb->free_batches);
}

static int vbal_collect_oldest(struct vbal_dev *vb)
{
	struct vbal_batch *batch =
		list_first_entry(&vb->busy_batches, struct vbal_batch, node);
	u64 start_ns = ktime_get_ns();
	int ret = vbal_wire_wait(vb, batch);

	vbal_debug_phase(vb, VBAL_PHASE_HOST, start_ns);
	if (!ret)
		vbal_collect(vb, batch);
	return ret;
}

static void vbal_collect_done(struct vbal_dev *vb)
{
	struct vbal_batch *batch, *next;

	list_for_each_entry_safe(batch, next, &vb->busy_batches, node) {
		if (!vbal_wire_done(vb, batch))
			break;
		vbal_collect(vb, batch);
	}
}

static int vbal_collect_all(struct vbal_dev *vb)
{
	int ret = 0;

	while (!ret && !list_empty(&vb->busy_batches))
		ret = vbal_collect_oldest(vb);
	return ret;
}

static int vbal_get_batch(struct vbal_dev *vb, struct vbal_batch **batch)
{
	int ret = 0;

	vbal_collect_done(vb);
	if (list_empty(&vb->free_batches))
		ret = vbal_collect_oldest(vb);
	if (!ret)
		*batch = list_first_entry(&vb->free_batches, struct vbal_batch,
					  node);
	return ret;
}

/* In flight: the batch keeps its blocks until it is collected. */
static int vbal_send(struct vbal_dev *vb, struct vbal_batch *batch)
{
	u64 start_ns = ktime_get_ns();
	int ret;

	list_move_tail(&batch->node, &vb->busy_batches);
	if (batch->id == VBAL_VQ_DEFLATE)
		vb->busy_pages -= batch->blocks.nr_pages;
	else
		vb->busy_pages += batch->blocks.nr_pages;
	ret = vbal_wire_submit(vb, batch);
	vbal_debug_phase(vb, VBAL_PHASE_HOST, start_ns);
	return ret;
}

static bool vbal_squeezing(struct vbal_dev *vb)
{
	return READ_ONCE(vb->guard.policy) == VBAL_GUARD_SQUEEZE;
}

/* Take blocks for one batch: by range if there are any large enough. */
static unsigned long vbal_fill(struct vbal_dev *vb, struct vbal_batch *batch,
			       const struct vbal_verdict *v,
			       enum vbal_vq_id *id)
{
	struct vbal_want want = {
		.nr_pages = v->grant_pages,
		.reclaim = v->reclaim,
		.squeeze = vbal_squeezing(vb),
	};
	u64 start_ns = ktime_get_ns();

	*id = VBAL_VQ_REPORT;
	if (vb->ranges) {
		vbal_wire_room(vb, batch, VBAL_MODE_RANGE, &want);
		vbal_pages_alloc(&vb->pages, &want, &batch->blocks);
	}
	if (!batch->blocks.nr_pages) {
		*id = VBAL_VQ_INFLATE;
		vbal_wire_room(vb, batch, VBAL_MODE_PFN, &want);
		vbal_pages_alloc(&vb->pages, &want, &batch->blocks);
	}
	vbal_debug_phase(vb, VBAL_PHASE_ALLOC, start_ns);
	return batch->blocks.nr_pages;
}

static int vbal_inflate(struct vbal_dev *vb, unsigned long want_pages,
			struct vbal_verdict *v)
{
	struct vbal_batch *batch;
	struct vbal_signals s;
	enum vbal_vq_id id;
	int ret;

	/* A page still on its way back must not be given again before. */
	ret = vbal_wire_drain(vb, VBAL_VQ_DEFLATE);
	if (!ret)
		ret = vbal_get_batch(vb, &batch);
	if (ret)
		return ret;
	vbal_guard_sample(&s, vbal_pages_held(&vb->pages),
			  !vb->pages.adjust_managed);
	/* What is in flight is as good as gone. */
	s.held_pages += vb->busy_pages;
	vbal_guard_ask(&vb->guard, &s, want_pages, v);
	trace_vbal_guard(vb, &s, want_pages, v);
	if (!v->grant_pages)
		return -EAGAIN;
	if (!vbal_fill(vb, batch, v, &id))
		return -ENOMEM;
	ret = vbal_wire_load(vb, batch, id);
	if (ret) {
		vbal_pages_discard(&batch->blocks);
		return ret;
	}
	vbal_set_state(vb, VBAL_STATE_INFLATING, "the host asks for more");
	ret = vbal_send(vb, batch);
	if (!ret)
		vbal_guard_progress(&vb->guard);
	return ret ?: 1;
}

/* Blocks that travelled by range go back without a word. */
static int vbal_deflate_range(struct vbal_dev *vb, unsigned long nr_pages)
{
	struct vbal_blocks blocks;

	vbal_blocks_init(&blocks);
	vbal_pages_pick(&vb->pages, VBAL_MODE_RANGE,
			min_t(unsigned long, nr_pages, VBAL_FREE_STEP_PAGES),
			&blocks);
	if (!blocks.nr_pages)
		return -EBUSY;
	vbal_free(vb, &blocks);
	return 1;
}

/*
 * PFNs go through the deflate queue. Unless the host has to be told first, the
 * pages are the guest's as soon as the request is in the queue.
 */
static int vbal_deflate_pfn(struct vbal_dev *vb, unsigned long nr_pages)
{
	struct vbal_want want = { .nr_pages = nr_pages };
	struct vbal_batch *batch;
	int ret;

	ret = vbal_get_batch(vb, &batch);
	if (ret)
		return ret;
	vbal_wire_room(vb, batch, VBAL_MODE_PFN, &want);
	if (!vbal_pages_pick(&vb->pages, VBAL_MODE_PFN, want.nr_pages,
			     &batch->blocks))
		return -EBUSY;
	ret = vbal_wire_load(vb, batch, VBAL_VQ_DEFLATE);
	if (WARN_ON_ONCE(ret)) {
		vbal_pages_put_back(&vb->pages, &batch->blocks, VBAL_MODE_PFN);
		return ret;
	}
	ret = vbal_send(vb, batch);
	if (!ret && !vbal_has(vb, VIRTIO_BALLOON_F_MUST_TELL_HOST)) {
		vb->busy_pages += batch->blocks.nr_pages;
		vbal_free(vb, &batch->blocks);
	}
	return ret ?: 1;
}

static int vbal_deflate(struct vbal_dev *vb, unsigned long nr_pages)
{
	if (vbal_pages_choose(&vb->pages, nr_pages) == VBAL_MODE_RANGE)
		return vbal_deflate_range(vb, nr_pages);
	return vbal_deflate_pfn(vb, nr_pages);
}

/* The target in pages. A host that asks for more than there is gets it all. */
static unsigned long vbal_target_pages(struct vbal_dev *vb)
{
	u32 nr_frames = vbal_wire_target_frames(vb);
	unsigned long nr_pages = vbal_frames_to_pages(nr_frames);
	unsigned long ram_pages = vbal_ram_pages(vb);

	if (nr_frames != vb->target_frames) {
		WRITE_ONCE(vb->target_frames, nr_frames);
		vb->retry_at_ms = 0;
	}
	if (nr_pages <= ram_pages)
		return nr_pages;
	if (!vb->clamp_warned)
		dev_warn(
			&vb->vdev->dev,
			"the host asks for %lu pages, the guest has %lu; taking that as the target\n",
			nr_pages, ram_pages);
	vb->clamp_warned = true;
	return ram_pages;
}

/* Under pressure a balloon may shrink below its target, if the host agreed. */
static unsigned long vbal_pressure_pages(struct vbal_dev *vb,
					 struct vbal_verdict *v)
{
	unsigned long held = vbal_pages_held(&vb->pages);
	struct vbal_signals s;

	if (!vb->guard.may_give_back || !held || vbal_squeezing(vb))
		return 0;
	vbal_guard_sample(&s, held, !vb->pages.adjust_managed);
	vbal_guard_watch(&vb->guard, &s, v);
	if (v->give_back_pages)
		trace_vbal_guard(vb, &s, 0, v);
	return min(v->give_back_pages, held);
}

/* Give back at once, whatever the host wants. As vbal_step() returns. */
static int vbal_relieve(struct vbal_dev *vb, unsigned long nr_pages,
			const char *why)
{
	unsigned long goal = vbal_pages_held(&vb->pages) - nr_pages;
	int ret = 1;

	vbal_set_state(vb, VBAL_STATE_DEFLATING, why);
	while (ret > 0 && !vbal_stopping(vb)) {
		unsigned long have =
			vbal_pages_held(&vb->pages) + vb->busy_pages;

		if (have <= goal)
			break;
		ret = vbal_deflate(vb, have - goal);
	}
	return ret;
}

/*
 * One step towards the target. 1: there may be more to do, 0: at the target,
 * else why not.
 */
static int vbal_step(struct vbal_dev *vb, struct vbal_verdict *v)
{
	unsigned long target = vbal_target_pages(vb);
	unsigned long have = vbal_pages_held(&vb->pages) + vb->busy_pages;

	if (target > have) {
		if (vbal_retry_in_ms(vb))
			return -EINPROGRESS;
		return vbal_inflate(vb, target - have, v);
	}
	if (target < have) {
		int ret = 0;

		/* Only what has been acknowledged can be taken back. */
		if (vb->busy_pages > 0)
			ret = vbal_collect_all(vb);
		if (ret)
			return ret;
		vbal_set_state(vb, VBAL_STATE_DEFLATING,
			       "the host asks for less");
		return vbal_deflate(vb, have - target);
	}
	return 0;
}

static u64 vbal_rate(u64 nr_pages, u64 ns)
{
	return ns ? mul_u64_u64_div_u64(nr_pages << PAGE_SHIFT, NSEC_PER_SEC,
					ns) :
		    0;
}

static void vbal_resize_begins(struct vbal_dev *vb)
{
	if (vb->resize_start_ns)
		return;
	vb->resize_start_ns = ktime_get_ns();
	vb->resize_from_pages = vbal_pages_held(&vb->pages);
}

static void vbal_resize_ends(struct vbal_dev *vb)
{
	unsigned long held = vbal_pages_held(&vb->pages);
	u64 ns;

	if (!vb->resize_start_ns)
		return;
	ns = ktime_get_ns() - vb->resize_start_ns;
	if (held > vb->resize_from_pages)
		WRITE_ONCE(vb->last_inflate_bps,
			   vbal_rate(held - vb->resize_from_pages, ns));
	else if (held < vb->resize_from_pages)
		WRITE_ONCE(vb->last_deflate_bps,
			   vbal_rate(vb->resize_from_pages - held, ns));
	vb->resize_start_ns = 0;
}

static void vbal_publish(struct vbal_dev *vb)
{
	u32 nr_frames = vbal_pages_to_frames(vbal_pages_held(&vb->pages));

	vbal_wire_set_actual(vb, nr_frames);
	WRITE_ONCE(vb->actual_frames, nr_frames);
}

static void vbal_pause(struct vbal_dev *vb, enum vbal_state state,
		       const char *why, unsigned int pause_ms)
{
	vbal_set_state(vb, state, why);
	WRITE_ONCE(vb->retry_at_ms, vbal_now_ms() + pause_ms);
	vbal_work_again(vb, pause_ms);
}

/* At rest: look again only where the balloon might have to give back. */
static void vbal_rest(struct vbal_dev *vb)
{
	if (vb->guard.may_give_back && vbal_pages_held(&vb->pages))
		vbal_work_again(vb, VBAL_WATCH_MS);
}

/* What became of a slice, and what follows from it: the only place to decide. */
static void vbal_settle(struct vbal_dev *vb, int ret,
			const struct vbal_verdict *v)
{
	if (ret <= 0)
		vbal_resize_ends(vb);
	switch (ret) {
	case 1:
		vbal_work_again(vb, 0);
		break;
	case 0:
		vbal_set_state(vb, VBAL_STATE_AT_TARGET,
			       "the host has what it asked for");
		vbal_guard_progress(&vb->guard);
		vbal_rest(vb);
		break;
	case -EAGAIN:
		vbal_pause(vb, v->state, v->why, v->retry_ms);
		break;
	case -EINPROGRESS:
		vbal_work_again(vb, min_t(u64, VBAL_WATCH_MS,
					  vbal_retry_in_ms(vb)));
		break;
	case -ERANGE:
		dev_warn_once(&vb->vdev->dev,
			      "memory beyond 16 TiB cannot be given by PFN\n");
		fallthrough;
	case -ENOMEM:
		dev_info_ratelimited(
			&vb->vdev->dev,
			"no pages for the balloon now, trying again later\n");
		vbal_pause(vb, VBAL_STATE_BACKING_OFF,
			   "the allocator had no free page",
			   vbal_guard_alloc_failed(&vb->guard, vbal_now_ms()));
		break;
	case -EBUSY:
		/* Compaction has the pages out; it brings them back. */
		vbal_work_again(vb, 10);
		break;
	default:
		vbal_device_broke(vb);
		break;
	}
}

/* Blocks that the OOM notifier could not wait for. */
static void vbal_oom_finish(struct vbal_dev *vb)
{
	struct vbal_wire *wire = &vb->wire;

	if (!mutex_trylock(&wire->oom_lock))
		return;
	if (wire->oom_batch->blocks.nr_pages &&
	    vbal_wire_done(vb, wire->oom_batch))
		vbal_pages_free(&vb->pages, &wire->oom_batch->blocks);
	mutex_unlock(&wire->oom_lock);
}

/* One that was pulled out reads as all ones: it seems to need a reset, too. */
static bool vbal_is_broken(struct vbal_dev *vb)
{
	return !vbal_wire_usable(vb, VBAL_VQ_INFLATE) ||
	       vb->vdev->config->get_status(vb->vdev) &
		       VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void vbal_size_work_fn(struct work_struct *work)
{
	struct vbal_dev *vb =
		container_of(to_delayed_work(work), struct vbal_dev, size_work);
	unsigned long slice_end = jiffies + msecs_to_jiffies(VBAL_SLICE_MS);
	struct vbal_verdict v = {};
	unsigned long nr_pages;
	int ret, drained;

	if (vbal_stopping(vb))
		return;
	if (vbal_is_broken(vb)) {
		vbal_device_broke(vb);
		return;
	}
	if (xchg(&vb->retry_now, false))
		WRITE_ONCE(vb->retry_at_ms, 0);
	vbal_oom_finish(vb);
	vbal_resize_begins(vb);
	vbal_pages_rewind(&vb->pages);
	nr_pages = vbal_pressure_pages(vb, &v);
	if (nr_pages)
		ret = vbal_relieve(vb, nr_pages, v.why);
	else
		do
			ret = vbal_step(vb, &v);
		while (ret > 0 && !vbal_stopping(vb) &&
		       time_before(jiffies, slice_end));
	/* What was with a broken device is not collected but released. */
	drained = ret == -EIO ? ret : vbal_collect_all(vb);
	vbal_publish(vb);
	vbal_settle(vb, drained ?: ret, &v);
}

/*
 * The last line before the OOM killer, where DEFLATE_ON_OOM was negotiated.
 * Allocates nothing. With MUST_TELL_HOST pages that travelled as PFNs are free
 * only when the host has answered: for that it waits a moment, and leaves the
 * rest to the size worker.
 */
static unsigned long vbal_oom_deflate_pfn(struct vbal_dev *vb,
					  unsigned long nr_pages,
					  unsigned long end)
{
	struct vbal_batch *batch = vb->wire.oom_batch;
	unsigned long nr_freed;
	int ret;

	if (batch->blocks.nr_pages || !vbal_wire_done(vb, batch))
		return 0;
	nr_pages = min_t(unsigned long, nr_pages,
			 vbal_wire_free_pfns(vb, batch, VBAL_VQ_DEFLATE) /
				 VBAL_FRAMES_PER_PAGE);
	if (!vbal_pages_pick(&vb->pages, VBAL_MODE_PFN, nr_pages,
			     &batch->blocks))
		return 0;
	ret = vbal_wire_load(vb, batch, VBAL_VQ_DEFLATE);
	if (!ret)
		ret = vbal_wire_try_submit(vb, batch);
	if (ret) {
		vbal_pages_put_back(&vb->pages, &batch->blocks, VBAL_MODE_PFN);
		return 0;
	}
	while (vbal_has(vb, VIRTIO_BALLOON_F_MUST_TELL_HOST) &&
	       !vbal_wire_done(vb, batch)) {
		if (time_after(jiffies, end))
			return 0;
		schedule_timeout_idle(1);
	}
	nr_freed = batch->blocks.nr_pages;
	vbal_pages_free(&vb->pages, &batch->blocks);
	return nr_freed;
}

static unsigned long vbal_oom_deflate(struct vbal_dev *vb,
				      unsigned long nr_pages)
{
	unsigned long end = jiffies + msecs_to_jiffies(VBAL_OOM_WAIT_MS);
	struct vbal_blocks blocks;
	unsigned long nr_freed = 0;

	while (nr_freed < nr_pages) {
		unsigned long left =
			min(nr_pages - nr_freed, VBAL_FREE_STEP_PAGES);
		unsigned long nr;

		if (vbal_pages_choose(&vb->pages, left) == VBAL_MODE_RANGE) {
			vbal_blocks_init(&blocks);
			nr = vbal_pages_pick(&vb->pages, VBAL_MODE_RANGE, left,
					     &blocks);
			vbal_pages_free(&vb->pages, &blocks);
		} else {
			nr = vbal_oom_deflate_pfn(vb, left, end);
		}
		if (!nr)
			break;
		nr_freed += nr;
	}
	return nr_freed;
}

/* The kernel has begun to reclaim; called by the task that does, cannot sleep. */
static void vbal_guard_wake(struct vbal_guard *g)
{
	struct vbal_dev *vb = container_of(g, struct vbal_dev, guard);

	if (vbal_pages_held(&vb->pages))
		vbal_wake_worker(vb);
}

static int vbal_oom_notify(struct notifier_block *nb, unsigned long unused,
			   void *param)
{
	struct vbal_dev *vb = container_of(nb, struct vbal_dev, oom_nb);
	unsigned long *freed = param;
	unsigned long nr_pages;
	u64 now_ms = vbal_now_ms();

	if (vbal_stopping(vb) || !mutex_trylock(&vb->wire.oom_lock))
		return NOTIFY_OK;
	nr_pages =
		vbal_oom_deflate(vb, vbal_guard_oom_step(&vb->guard, now_ms));
	mutex_unlock(&vb->wire.oom_lock);
	vbal_guard_oom_done(&vb->guard, nr_pages, now_ms);
	trace_vbal_oom(vb, nr_pages);
	*freed += nr_pages;
	vbal_wake_worker(vb);
	return NOTIFY_OK;
}

/* Called with both pages locked; the old one is isolated. */
static int vbal_migrate_page(struct balloon_dev_info *bdi, struct page *newpage,
			     struct page *page, enum migrate_mode mode)
{
	struct vbal_bag *bag = container_of(bdi, struct vbal_bag, singles);
	struct vbal_pages *vp =
		container_of(bag - bag->mode, struct vbal_pages, bag[0]);
	struct vbal_dev *vb = container_of(vp, struct vbal_dev, pages);
	int ret = -EAGAIN;

	if (!mutex_trylock(&vb->wire.mig_lock))
		return ret;
	if (!vbal_stopping(vb))
		ret = vbal_wire_swap(vb, bag->mode, newpage, page);
	if (!ret)
		vbal_pages_migrated(vp, bdi, newpage, page);
	mutex_unlock(&vb->wire.mig_lock);
	if (ret == -EIO)
		vbal_wake_worker(vb);
	return ret ? -EAGAIN : 0;
}

static void vbal_pages_enable_migration(struct vbal_pages *vp)
{
	unsigned int mode;

	for (mode = 0; mode < VBAL_NR_MODES; mode++)
		vp->bag[mode].singles.migratepage = vbal_migrate_page;
}

/* Give all back while the host answers, telling it where it has to be told. */
static void vbal_give_back_all(struct vbal_dev *vb)
{
	unsigned long nr_pages;
	int ret;

	ret = vbal_collect_all(vb);
	while (!ret && (nr_pages = vbal_pages_held(&vb->pages))) {
		ret = vbal_deflate(vb, nr_pages);
		if (ret == -EBUSY) {
			/* Compaction has some out, or the OOM notifier. */
			schedule_timeout_idle(1);
			ret = vbal_wire_drain(vb, VBAL_VQ_DEFLATE);
			vbal_oom_finish(vb);
		}
		if (ret > 0)
			ret = vb->busy_pages ? vbal_collect_all(vb) : 0;
	}
	if (!ret)
		ret = vbal_collect_all(vb);
	if (!ret)
		ret = vbal_wire_drain(vb, VBAL_VQ_DEFLATE);
	if (!ret)
		vbal_publish(vb);
}

/* The device was reset: what is left is the guest's, no questions asked. */
static void vbal_release_all(struct vbal_dev *vb)
{
	struct vbal_batch *batch, *next;
	struct vbal_blocks blocks;

	list_for_each_entry_safe(batch, next, &vb->busy_batches, node) {
		if (batch->id == VBAL_VQ_DEFLATE)
			vbal_pages_free(&vb->pages, &batch->blocks);
		else
			vbal_pages_discard(&batch->blocks);
		list_move(&batch->node, &vb->free_batches);
	}
	vb->busy_pages = 0;
	mutex_lock(&vb->wire.oom_lock);
	if (vb->wire.oom_batch->blocks.nr_pages)
		vbal_pages_free(&vb->pages, &vb->wire.oom_batch->blocks);
	mutex_unlock(&vb->wire.oom_lock);

	vbal_blocks_init(&blocks);
	while (vbal_pages_held(&vb->pages)) {
		enum vbal_mode mode =
			vbal_pages_choose(&vb->pages, VBAL_FREE_STEP_PAGES);

		vbal_pages_pick(&vb->pages, mode, VBAL_FREE_STEP_PAGES,
				&blocks);
		/* Compaction has some out; it brings them back. */
		if (!blocks.nr_pages)
			schedule_timeout_idle(1);
		vbal_free(vb, &blocks);
	}
	vbal_hint_release(vb);
}

static void vbal_stop_services(struct vbal_dev *vb)
{
	vbal_report_stop(vb);
	vbal_guard_stop(&vb->guard);
	vbal_hint_stop(vb);
	vbal_stats_stop(vb);
}

/* All of them notify the device: after DRIVER_OK. */
static int vbal_start_services(struct vbal_dev *vb)
{
	int ret;

	ret = vbal_stats_start(vb);
	if (!ret)
		ret = vbal_hint_start(vb);
	if (!ret)
		ret = vbal_guard_start(&vb->guard, vbal_guard_wake);
	if (!ret)
		ret = vbal_report_start(vb);
	if (ret)
		vbal_stop_services(vb);
	return ret;
}

static int vbal_connect(struct vbal_dev *vb)
{
	int ret;

	mutex_lock(&vb->life);
	ret = vbal_wire_connect(vb);
	if (ret)
		goto out;
	vb->ranges = vbal_transfer != VBAL_TRANSFER_PFN &&
		     vbal_wire_ranges_usable(vb);
	if (vbal_transfer == VBAL_TRANSFER_RANGE && !vb->ranges)
		dev_warn(
			&vb->vdev->dev,
			"transfer=range needs a device that takes free page reports; using pfn\n");
	virtio_device_ready(vb->vdev);
	ret = vbal_start_services(vb);
	if (ret) {
		vbal_wire_kill(vb);
		vbal_hint_release(vb);
		vbal_wire_disconnect(vb);
		goto out;
	}
	vbal_set_state(vb, VBAL_STATE_AT_TARGET, "set up a moment ago");
	WRITE_ONCE(vb->live, true);
	vbal_resize(vb);
	vbal_hint_changed(vb);
out:
	mutex_unlock(&vb->life);
	return ret;
}

/* Stop whatever may talk to the host. Nothing is given back. */
static void vbal_quiesce(struct vbal_dev *vb)
{
	lockdep_assert_held(&vb->life);
	WRITE_ONCE(vb->live, false);
	WRITE_ONCE(vb->wire.stopping, true);
	vbal_stop_services(vb);
	cancel_delayed_work_sync(&vb->size_work);
}

static void vbal_disconnect(struct vbal_dev *vb)
{
	mutex_lock(&vb->life);
	if (!vb->live)
		goto out;
	vbal_quiesce(vb);
	vbal_give_back_all(vb);
	vbal_wire_kill(vb);
	vbal_release_all(vb);
	vbal_wire_disconnect(vb);
	WRITE_ONCE(vb->actual_frames, 0);
out:
	mutex_unlock(&vb->life);
}

/**
 * vbal_device_broke() - have a device reset that broke, or that asked for it
 * @vb: the device
 *
 * What it held goes back to the guest; then it is set up anew and the host's
 * target followed again (virtio 1.2, 2.1.2). Each time after a longer pause,
 * unless that is long ago. One that was pulled out only loses its pages.
 *
 * Context: Process context.
 */
void vbal_device_broke(struct vbal_dev *vb)
{
	u64 since_ms = vbal_now_ms() - vb->recovered_at_ms;

	if (vbal_stopping(vb) || delayed_work_pending(&vb->recover_work))
		return;
	vbal_set_state(vb, VBAL_STATE_BROKEN, "the device stopped working");
	dev_err_ratelimited(
		&vb->vdev->dev,
		"the device broke, giving its pages back and resetting it\n");
	if (since_ms > 2 * VBAL_RECOVER_MAX_MS)
		vb->recover_pause_ms = 0;
	vb->recover_pause_ms = clamp(2 * vb->recover_pause_ms,
				     VBAL_RECOVER_MIN_MS, VBAL_RECOVER_MAX_MS);
	queue_delayed_work(vb->side_wq, &vb->recover_work,
			   msecs_to_jiffies(vb->recover_pause_ms));
}

#ifdef CONFIG_PM_SLEEP
static void vbal_recover(struct vbal_dev *vb)
{
	int ret;

	vb->nr_recoveries++;
	vb->recovered_at_ms = vbal_now_ms();
	ret = virtio_device_freeze(vb->vdev);
	if (!ret)
		ret = virtio_device_restore(vb->vdev);
	if (!ret)
		return;
	dev_err_ratelimited(
		&vb->vdev->dev,
		"the device could not be set up again (%d), trying later\n",
		ret);
	queue_delayed_work(vb->side_wq, &vb->recover_work,
			   msecs_to_jiffies(VBAL_RECOVER_MAX_MS));
}

static void vbal_recover_work_fn(struct work_struct *work)
{
	struct vbal_dev *vb = container_of(to_delayed_work(work),
					   struct vbal_dev, recover_work);
	struct virtio_device *vdev = vb->vdev;

	/* Remove has the lock and waits for us: then there is nothing to do. */
	if (!device_trylock(&vdev->dev)) {
		if (!vbal_stopping(vb))
			queue_delayed_work(vb->side_wq, &vb->recover_work, HZ);
		return;
	}
	if (vbal_wire_gone(vb))
		vbal_disconnect(vb);
	else if (!vb->live || vbal_is_broken(vb))
		vbal_recover(vb);
	/* else it slept and woke up meanwhile, which does the same. */
	device_unlock(&vdev->dev);
}
#else
/* Without the core's freeze and restore there is only the first half. */
static void vbal_recover_work_fn(struct work_struct *work)
{
	struct vbal_dev *vb = container_of(to_delayed_work(work),
					   struct vbal_dev, recover_work);

	vbal_disconnect(vb);
}
#endif

/* Another kernel may run next: nothing of ours may be with the host then. */
static int vbal_reboot_notify(struct notifier_block *nb, unsigned long action,
			      void *unused)
{
	struct vbal_dev *vb = container_of(nb, struct vbal_dev, reboot_nb);

	/* One under way would bring the device back; none begins after. */
	cancel_delayed_work_sync(&vb->recover_work);
	mutex_lock(&vb->life);
	if (vb->live) {
		vbal_quiesce(vb);
		vbal_wire_kill(vb);
	}
	mutex_unlock(&vb->life);
	cancel_delayed_work_sync(&vb->recover_work);
	return NOTIFY_DONE;
}

static void vbal_config_changed(struct virtio_device *vdev)
{
	struct vbal_dev *vb = vdev->priv;

	vbal_wake_worker(vb);
	if (READ_ONCE(vb->live))
		vbal_hint_changed(vb);
}

static int vbal_create_workqueues(struct vbal_dev *vb)
{
	const unsigned int flags = WQ_UNBOUND | WQ_FREEZABLE | WQ_MEM_RECLAIM;

	vb->wq = alloc_workqueue("vballoon", flags, 1);
	vb->stats_wq = alloc_workqueue("vballoon_stats", flags | WQ_HIGHPRI, 1);
	vb->side_wq =
		alloc_workqueue("vballoon_side", WQ_UNBOUND | WQ_FREEZABLE, 2);
	return vb->wq && vb->stats_wq && vb->side_wq ? 0 : -ENOMEM;
}

static void vbal_destroy_workqueues(struct vbal_dev *vb)
{
	if (vb->side_wq)
		destroy_workqueue(vb->side_wq);
	if (vb->stats_wq)
		destroy_workqueue(vb->stats_wq);
	if (vb->wq)
		destroy_workqueue(vb->wq);
}

static struct vbal_dev *vbal_dev_alloc(struct virtio_device *vdev)
{
	struct vbal_dev *vb = kzalloc(sizeof(*vb), GFP_KERNEL);
	bool on_oom = virtio_has_feature(vdev, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);

	if (!vb)
		return NULL;
	vb->vdev = vdev;
	mutex_init(&vb->life);
	INIT_DELAYED_WORK(&vb->size_work, vbal_size_work_fn);
	INIT_DELAYED_WORK(&vb->recover_work, vbal_recover_work_fn);
	INIT_LIST_HEAD(&vb->free_batches);
	INIT_LIST_HEAD(&vb->busy_batches);
	vb->oom_nb.notifier_call = vbal_oom_notify;
	vb->oom_nb.priority = VBAL_OOM_PRIORITY;
	vb->reboot_nb.notifier_call = vbal_reboot_notify;
	vbal_pages_init(&vb->pages, !on_oom);
	vbal_pages_enable_migration(&vb->pages);
	vbal_guard_init(&vb->guard, totalram_pages(), on_oom);
	vbal_stats_init(vb);
	vbal_hint_init(vb);
	return vb;
}

static int vbal_register_notifiers(struct vbal_dev *vb)
{
	int ret;

	ret = register_reboot_notifier(&vb->reboot_nb);
	if (ret)
		return ret;
	if (!vbal_has(vb, VIRTIO_BALLOON_F_DEFLATE_ON_OOM))
		return 0;
	ret = register_oom_notifier(&vb->oom_nb);
	if (ret)
		unregister_reboot_notifier(&vb->reboot_nb);
	return ret;
}

static void vbal_unregister_notifiers(struct vbal_dev *vb)
{
	if (vbal_has(vb, VIRTIO_BALLOON_F_DEFLATE_ON_OOM))
		unregister_oom_notifier(&vb->oom_nb);
	unregister_reboot_notifier(&vb->reboot_nb);
}

static int vbal_probe(struct virtio_device *vdev)
{
	struct vbal_dev *vb;
	unsigned int i;
	int ret;

	if (!vdev->config->get) {
		dev_err(&vdev->dev, "the device has no config space\n");
		return -EINVAL;
	}
	vb = vbal_dev_alloc(vdev);
	if (!vb)
		return -ENOMEM;
	vdev->priv = vb;
	ret = vbal_wire_alloc(vb);
	if (ret)
		goto err_wire;
	for (i = 0; i < VBAL_NR_BATCHES; i++)
		list_add(&vb->wire.batch[i]->node, &vb->free_batches);
	ret = vbal_create_workqueues(vb);
	if (ret)
		goto err_workqueues;
	ret = vbal_register_notifiers(vb);
	if (ret)
		goto err_workqueues;
	vbal_debug_init(vb);
	ret = vbal_connect(vb);
	if (ret)
		goto err_debug;
	return 0;

err_debug:
	vbal_debug_exit(vb);
	vbal_unregister_notifiers(vb);
err_workqueues:
	vbal_destroy_workqueues(vb);
err_wire:
	vbal_wire_free(vb);
	kfree(vb);
	return ret;
}

static void vbal_remove(struct virtio_device *vdev)
{
	struct vbal_dev *vb = vdev->priv;

	vbal_debug_exit(vb);
	vbal_unregister_notifiers(vb);
	vbal_disconnect(vb);
	/* Once more: it may not have come back from its last reset. */
	vbal_wire_reset(vb);
	cancel_delayed_work_sync(&vb->recover_work);
	vbal_destroy_workqueues(vb);
	vbal_wire_free(vb);
	kfree(vb);
}

#ifdef CONFIG_PM_SLEEP
static int vbal_freeze(struct virtio_device *vdev)
{
	vbal_disconnect(vdev->priv);
	return 0;
}

static int vbal_restore(struct virtio_device *vdev)
{
	return vbal_connect(vdev->priv);
}
#endif

/* Decline what was switched off, and what this guest or driver cannot keep. */
static int vbal_validate(struct virtio_device *vdev)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vbal_feature_wanted); i++)
		if (!*vbal_feature_wanted[i])
			__virtio_clear_bit(vdev, i);
	/*
	 * Reporting changes the content of free pages: not where the guest
	 * relies on it and cannot tell the device so (virtio 1.2, 5.5.6.7.1).
	 */
	if (!want_init_on_free() && !page_poisoning_enabled_static())
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_PAGE_POISON);
	else if (!virtio_has_feature(vdev, VIRTIO_BALLOON_F_PAGE_POISON))
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_REPORTING);
	/* An indirect table would have to be allocated for each request. */
	__virtio_clear_bit(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	/* Frame numbers are guest physical addresses, behind no IOMMU. */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return 0;
}

static struct virtio_driver vbal_driver = {
	.feature_table = vbal_features,
	.feature_table_size = ARRAY_SIZE(vbal_features),
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.driver.dev_groups = vbal_dev_groups,
	.id_table = vbal_id_table,
	.validate = vbal_validate,
	.probe = vbal_probe,
	.remove = vbal_remove,
	.config_changed = vbal_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vbal_freeze,
	.restore = vbal_restore,
#endif
};

/* Two drivers compete for the device: say so when the other one has it. */
static int vbal_warn_if_taken(struct device *dev, void *unused)
{
	struct device_driver *driver = READ_ONCE(dev->driver);

	if (dev_to_virtio(dev)->id.device == VIRTIO_ID_BALLOON && driver &&
	    driver != &vbal_driver.driver)
		dev_warn(
			dev,
			"balloon device is owned by %s; unload that driver (rmmod %s) and load vballoon again, see README\n",
			driver->name, driver->name);
	return 0;
}

static int __init vbal_init(void)
{
	int ret;

	vbal_pages_probe_uncleared();
	vbal_debug_register();
	ret = register_virtio_driver(&vbal_driver);
	if (ret) {
		vbal_debug_unregister();
		return ret;
	}
	bus_for_each_dev(vbal_driver.driver.bus, NULL, NULL,
			 vbal_warn_if_taken);
	return 0;
}
module_init(vbal_init);

static void __exit vbal_exit(void)
{
	unregister_virtio_driver(&vbal_driver);
	vbal_debug_unregister();
}
module_exit(vbal_exit);

MODULE_DESCRIPTION("Virtio memory balloon: fast, and kind to its guest");
MODULE_AUTHOR("The vballoon founders");
MODULE_LICENSE("GPL");
MODULE_VERSION(VBAL_VERSION);
