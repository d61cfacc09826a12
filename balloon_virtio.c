// SPDX-License-Identifier: GPL-2.0-only
/*
 * The wire: virtqueues, buffers in flight, config space. Decides neither how
 * much nor which page.
 *
 * Many requests are in flight, each at most one descriptor of 256 PFNs, with
 * one notification for many: the shape that every known host understands.
 * Whoever waits reaps the used buffers of all others too; a buffer's token says
 * whose it was. A wait ends with the condition, with a broken queue, or with
 * the device's reset; while the driver goes, a silent host is reset.
 *
 * Knows nothing of those who use the queues: each says which work an answer of
 * its host queues (vbal_wire_listen()).
 */
#include "balloon_virtio.h"

#include "balloon_trace.h"

#include <linux/ktime.h>
#include <linux/jiffies.h>
#include <linux/list_sort.h>
#include <linux/math64.h>
#include <linux/slab.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/workqueue.h>

static_assert(VBAL_PFNS_PER_BUF * sizeof(__virtio32) <= PAGE_SIZE);
static_assert(VBAL_PFNS_PER_BUF % VBAL_FRAMES_PER_PAGE == 0);
static_assert(VBAL_BUFS_IN_FLIGHT + VBAL_BUFS_PER_OOM_STEP <= 128);
static_assert(sizeof(struct virtio_balloon_config) == 16);

/* Queues in the device's order; optional ones exist when their bit is offered. */
static const struct {
	const char *name;
	int feature;
	bool quiet;
} vbal_vq_table[VBAL_NR_VQS] = {
	[VBAL_VQ_INFLATE] = { "inflate", -1, true },
	[VBAL_VQ_DEFLATE] = { "deflate", -1, true },
	[VBAL_VQ_STATS] = { "stats", VIRTIO_BALLOON_F_STATS_VQ, false },
	[VBAL_VQ_HINT] = { "free_page", VIRTIO_BALLOON_F_FREE_PAGE_HINT,
			   false },
	[VBAL_VQ_REPORT] = { "reporting", VIRTIO_BALLOON_F_REPORTING, true },
};

/* The queue wakes whoever waits; hard interrupt. */
static void vbal_vq_used(struct virtqueue *vq)
{
	struct vbal_wire *wire = vq->vdev->priv;
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		struct vbal_vq *q = &wire->q[id];

		if (q->vq != vq)
			continue;
		WRITE_ONCE(q->nr_interrupts, q->nr_interrupts + 1);
		wake_up_all(&q->wait);
		if (q->work)
			queue_work(q->work_wq, q->work);
		return;
	}
}

/**
 * vbal_batch_alloc() - make a batch
 * @max_bufs: buffers of VBAL_PFNS_PER_BUF that it can carry as PFNs
 *
 * Context: Probe.
 * Return: an empty batch, or NULL.
 */
struct vbal_batch *vbal_batch_alloc(unsigned int max_bufs)
{
	struct vbal_batch *batch = kzalloc(sizeof(*batch), GFP_KERNEL);

	if (!batch)
		return NULL;
	batch->pfns = kcalloc(max_bufs * VBAL_PFNS_PER_BUF,
			      sizeof(*batch->pfns), GFP_KERNEL);
	if (!batch->pfns) {
		kfree(batch);
		return NULL;
	}
	INIT_LIST_HEAD(&batch->node);
	vbal_blocks_init(&batch->blocks);
	batch->max_bufs = max_bufs;
	return batch;
}

/**
 * vbal_batch_free() - free a batch without blocks
 * @batch: the batch, not in flight; may be NULL
 */
void vbal_batch_free(struct vbal_batch *batch)
{
	if (batch)
		kfree(batch->pfns);
	kfree(batch);
}

static void vbal_wire_kill_work(struct work_struct *work)
{
	vbal_wire_kill(container_of(work, struct vbal_wire, kill_work));
}

/* Who waits for a queue sees that it broke; of one at rest somebody has to be told. */
static void vbal_vq_check(struct vbal_vq *q)
{
	if (unlikely(virtqueue_is_broken(q->vq)))
		schedule_work(&q->wire->kill_work);
}

/**
 * vbal_wire_init() - a wire without a connection
 * @wire: the wire, zeroed
 * @vdev: its device, whose priv points to @wire
 * @broke: called, in process context, when a connected device broke and was
 *	reset for it
 *
 * Context: Probe.
 */
void vbal_wire_init(struct vbal_wire *wire, struct virtio_device *vdev,
		    vbal_broke_fn *broke)
{
	unsigned int i;

	wire->vdev = vdev;
	wire->broke = broke;
	vdev->priv = wire;
	mutex_init(&wire->kill_lock);
	INIT_WORK(&wire->kill_work, vbal_wire_kill_work);
	for (i = 0; i < VBAL_NR_VQS; i++) {
		struct vbal_vq *q = &wire->q[i];

		q->wire = wire;
		spin_lock_init(&q->lock);
		init_waitqueue_head(&q->wait);
		atomic_set(&q->nr_notifying, 0);
		q->quiet = vbal_vq_table[i].quiet;
	}
}

/**
 * vbal_wire_listen() - say what an answer of the host has done
 * @wire: the wire, not connected
 * @id: the queue
 * @wq: runs @work
 * @work: queued by each interrupt of the queue
 *
 * Context: Probe.
 */
void vbal_wire_listen(struct vbal_wire *wire, enum vbal_vq_id id,
		      struct workqueue_struct *wq, struct work_struct *work)
{
	wire->q[id].work_wq = wq;
	wire->q[id].work = work;
}

/**
 * vbal_wire_offers() - does the device offer a feature, accepted or not
 * @wire: the wire
 * @bit: VIRTIO_BALLOON_F_*
 *
 * Context: Process context.
 * Return: what the device says.
 */
bool vbal_wire_offers(struct vbal_wire *wire, unsigned int bit)
{
	u64 offered[VIRTIO_FEATURES_U64S];

	virtio_get_features(wire->vdev, offered);
	return offered[0] & BIT_ULL(bit);
}

/* With nothing in flight; NULL: it has none any more. */
static void vbal_vq_attach(struct vbal_vq *q, struct virtqueue *vq)
{
	lockdep_assert_held(&q->lock);
	WRITE_ONCE(q->vq, vq);
	WRITE_ONCE(q->nr_in_flight, 0);
	WRITE_ONCE(q->progress_jiffies, jiffies);
}

/*
 * A queue exists when its feature is offered, negotiated or not: one that is
 * declined needs a name all the same, or those after it would move up by one.
 */
static int vbal_wire_find_vqs(struct vbal_wire *wire, unsigned int nr_vqs)
{
	struct virtqueue_info info[VBAL_NR_VQS] = {};
	struct virtqueue *vqs[VBAL_NR_VQS] = {};
	unsigned int id;
	int ret;

	for (id = 0; id < nr_vqs; id++) {
		int feature = vbal_vq_table[id].feature;

		if (feature >= 0 && !vbal_wire_offers(wire, feature))
			continue;
		info[id].name = vbal_vq_table[id].name;
		if (feature < 0 || vbal_wire_has(wire, feature))
			info[id].callback = vbal_vq_used;
	}
	ret = virtio_find_vqs(wire->vdev, nr_vqs, vqs, info, NULL);
	if (ret)
		return ret;
	for (id = 0; id < nr_vqs; id++) {
		struct vbal_vq *q = &wire->q[id];

		spin_lock_irq(&q->lock);
		vbal_vq_attach(q, info[id].callback ? vqs[id] : NULL);
		spin_unlock_irq(&q->lock);
	}
	return 0;
}

/*
 * What freed memory looks like in this guest; the device leaves it alone then
 * (virtio 1.2, 5.5.6.6). Set before DRIVER_OK and never changed after.
 */
static void vbal_wire_set_poison(struct vbal_wire *wire)
{
	u32 poison_val = 0;

	if (!vbal_wire_has(wire, VIRTIO_BALLOON_F_PAGE_POISON))
		return;
	if (!want_init_on_free())
		memset(&poison_val, PAGE_POISON, sizeof(poison_val));
	virtio_cwrite_le(wire->vdev, struct virtio_balloon_config, poison_val,
			 &poison_val);
}

/**
 * vbal_wire_keeps_reported() - does the device keep what is reported to it
 * @wire: the wire; features negotiated
 *
 * One that knows poison_val does, where freed pages are poisoned (virtio 1.2,
 * 5.5.6.7): no range leaves the guest then.
 *
 * Context: Any.
 * Return: true if a reported page keeps its content.
 */
bool vbal_wire_keeps_reported(const struct vbal_wire *wire)
{
	return vbal_wire_has(wire, VIRTIO_BALLOON_F_PAGE_POISON) &&
	       page_poisoning_enabled_static() && !want_init_on_free();
}

/**
 * vbal_wire_connect() - find the queues
 * @wire: the wire; features negotiated, before DRIVER_OK
 *
 * A device that offers features without their queues is used without them.
 *
 * Context: Probe, restore. The life goes from DOWN to STARTING.
 * Return: 0 or what find_vqs said; then nothing has changed.
 */
int vbal_wire_connect(struct vbal_wire *wire)
{
	int ret;

	ret = vbal_wire_find_vqs(wire, VBAL_NR_VQS);
	/* Short of memory the device is not without queues. */
	if (ret && ret != -ENOMEM) {
		dev_warn(
			&wire->vdev->dev,
			"no queues for all offered features (%d), trying without the optional ones\n",
			ret);
		ret = vbal_wire_find_vqs(wire, VBAL_VQ_STATS);
	}
	if (ret)
		return ret;

	wire->max_ranges = 0;
	if (wire->q[VBAL_VQ_REPORT].vq) {
		unsigned int size =
			virtqueue_get_vring_size(wire->q[VBAL_VQ_REPORT].vq);

		wire->max_ranges = clamp_t(unsigned int, size / 2, 1,
					   VBAL_RANGES_PER_BATCH);
	}
	vbal_wire_set_poison(wire);
	wire->actual_known = false;
	vbal_life_move(&wire->life, VBAL_LIFE_STARTING);
	return 0;
}

/**
 * vbal_wire_disconnect() - delete the queues
 * @wire: the wire, dead
 *
 * Context: Remove, freeze; whoever could use a queue has been stopped. The life
 * goes from DEAD to DOWN.
 */
void vbal_wire_disconnect(struct vbal_wire *wire)
{
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		struct vbal_vq *q = &wire->q[id];

		spin_lock_irq(&q->lock);
		vbal_vq_attach(q, NULL);
		spin_unlock_irq(&q->lock);
	}
	cancel_work_sync(&wire->kill_work);
	wire->vdev->config->del_vqs(wire->vdev);
	vbal_life_move(&wire->life, VBAL_LIFE_DOWN);
}

/* All ones is what a device reads as that was pulled out. */
#define VBAL_STATUS_GONE 0xff

/**
 * vbal_wire_gone() - was the device pulled out
 * @wire: the wire
 *
 * Return: true if it will never answer again.
 */
bool vbal_wire_gone(struct vbal_wire *wire)
{
	return wire->vdev->config->get_status(wire->vdev) == VBAL_STATUS_GONE;
}

/**
 * vbal_wire_reset() - reset the device
 * @wire: the wire
 *
 * Not one that was pulled out: virtio_pci waits for its reset for ever. That
 * one touches no page any more either.
 *
 * Context: Process context.
 */
void vbal_wire_reset(struct vbal_wire *wire)
{
	if (vbal_wire_gone(wire))
		virtio_break_device(wire->vdev);
	else
		virtio_reset_device(wire->vdev);
}

/*
 * A notification after the reset would be one to a device that has no driver. Who
 * has the lock may have found the queue usable, and not counted himself yet.
 */
static void vbal_wire_end_notifying(struct vbal_wire *wire)
{
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		struct vbal_vq *q = &wire->q[id];

		spin_lock_irq(&q->lock);
		spin_unlock_irq(&q->lock);
		while (atomic_read(&q->nr_notifying))
			schedule_timeout_idle(1);
	}
}

static bool vbal_wire_kill_locked(struct vbal_wire *wire, int *from)
{
	unsigned int id;

	*from = vbal_life_try(&wire->life, VBAL_LIFE_RESETTING);
	if (*from < 0)
		return false;
	vbal_wire_end_notifying(wire);
	vbal_wire_reset(wire);
	vbal_life_move(&wire->life, VBAL_LIFE_DEAD);
	for (id = 0; id < VBAL_NR_VQS; id++)
		wake_up_all(&wire->q[id].wait);
	return true;
}

/**
 * vbal_wire_kill() - reset the device and end every wait
 * @wire: the wire
 *
 * Waits end only after the reset: from then on the device touches no page.
 *
 * Context: Process context. May be called by many, resets once. The life is
 * DEAD, or further, when it returns.
 */
void vbal_wire_kill(struct vbal_wire *wire)
{
	bool killed;
	int from;

	mutex_lock(&wire->kill_lock);
	killed = vbal_wire_kill_locked(wire, &from);
	mutex_unlock(&wire->kill_lock);
	if (killed && from == VBAL_LIFE_UP)
		wire->broke(wire);
}

/**
 * vbal_wire_is_broken() - does the device need a reset
 * @wire: the wire, connected
 *
 * One that was pulled out reads as all ones: it seems to need a reset, too.
 *
 * Context: Process context.
 * Return: true if a queue broke, the device asks for it (virtio 1.2, 2.1.2), or
 * somebody else has reset it (as a bus does) and so forgotten its driver.
 */
bool vbal_wire_is_broken(struct vbal_wire *wire)
{
	unsigned int id;
	u8 status;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		struct virtqueue *vq = READ_ONCE(wire->q[id].vq);

		if (vq && virtqueue_is_broken(vq))
			return true;
	}
	status = wire->vdev->config->get_status(wire->vdev);
	return status & VIRTIO_CONFIG_S_NEEDS_RESET ||
	       !(status & VIRTIO_CONFIG_S_DRIVER_OK);
}

static bool vbal_vq_usable(struct vbal_vq *q)
{
	struct virtqueue *vq = READ_ONCE(q->vq);

	return vq && vbal_life_may_submit(&q->wire->life) &&
	       !virtqueue_is_broken(vq);
}

static unsigned int vbal_vq_num_free(struct vbal_vq *q)
{
	lockdep_assert_held(&q->lock);
	return q->vq ? q->vq->num_free : 0;
}

/**
 * vbal_wire_usable() - can a queue be used
 * @wire: the wire
 * @id: which queue
 *
 * Return: false when there is no such queue, or it broke, or the device is
 * being reset.
 */
bool vbal_wire_usable(struct vbal_wire *wire, enum vbal_vq_id id)
{
	return vbal_vq_usable(&wire->q[id]);
}

static int vbal_vq_add_locked(struct vbal_vq *q, struct scatterlist *sg,
			      unsigned int nents, bool out,
			      struct vbal_token *token)
{
	int ret;

	lockdep_assert_held(&q->lock);
	if (!vbal_vq_usable(q))
		return -EIO;
	/* The core would notify the host of it, under the lock. */
	if (vbal_vq_num_free(q) < nents)
		return -ENOSPC;
	/* GFP_NOWAIT: nothing is allocated, INDIRECT_DESC is not negotiated. */
	if (out)
		ret = virtqueue_add_outbuf(q->vq, sg, nents, token, GFP_NOWAIT);
	else
		ret = virtqueue_add_inbuf(q->vq, sg, nents, token, GFP_NOWAIT);
	if (ret)
		return ret;
	WRITE_ONCE(token->nr_pending, token->nr_pending + 1);
	if (!q->nr_in_flight)
		WRITE_ONCE(q->progress_jiffies, jiffies);
	WRITE_ONCE(q->nr_in_flight, q->nr_in_flight + 1);
	q->nr_bufs++;
	return 0;
}

static int vbal_vq_add(struct vbal_vq *q, struct scatterlist *sg,
		       unsigned int nents, bool out, struct vbal_token *token)
{
	unsigned long flags;
	int ret;

	spin_lock_irqsave(&q->lock, flags);
	ret = vbal_vq_add_locked(q, sg, nents, out, token);
	spin_unlock_irqrestore(&q->lock, flags);
	return ret;
}

/**
 * vbal_vq_add_out() - queue a buffer that the device reads
 * @q: the queue
 * @sg: the buffer
 * @nents: entries of @sg
 * @token: counts the buffer until the host has used it
 *
 * Context: Any; takes @q->lock. Follow with vbal_vq_notify().
 * Return: 0, -ENOSPC when the ring is full, -EIO when the device is broken.
 */
int vbal_vq_add_out(struct vbal_vq *q, struct scatterlist *sg,
		    unsigned int nents, struct vbal_token *token)
{
	return vbal_vq_add(q, sg, nents, true, token);
}

/**
 * vbal_vq_add_in() - queue a buffer that the device writes, or discards
 * @q: the queue
 * @sg: the buffer
 * @nents: entries of @sg
 * @token: counts the buffer until the host has used it
 *
 * Context: Any; takes @q->lock. Follow with vbal_vq_notify().
 * Return: 0, -ENOSPC when the ring is full, -EIO when the device is broken.
 */
int vbal_vq_add_in(struct vbal_vq *q, struct scatterlist *sg,
		   unsigned int nents, struct vbal_token *token)
{
	return vbal_vq_add(q, sg, nents, false, token);
}

/**
 * vbal_vq_notify() - tell the host of all buffers queued so far, if it asks
 * @q: the queue
 *
 * Context: Any that may not race with vbal_wire_disconnect().
 */
void vbal_vq_notify(struct vbal_vq *q)
{
	struct virtqueue *vq;
	unsigned long flags;
	bool notify = false;

	spin_lock_irqsave(&q->lock, flags);
	vq = q->vq;
	if (vbal_vq_usable(q))
		notify = virtqueue_kick_prepare(vq);
	if (notify) {
		q->nr_notify++;
		atomic_inc(&q->nr_notifying);
	}
	spin_unlock_irqrestore(&q->lock, flags);
	if (!notify)
		return;
	if (!virtqueue_notify(vq))
		vbal_vq_check(q);
	atomic_dec(&q->nr_notifying);
}

/**
 * vbal_vq_reap() - take back all buffers that the host has used
 * @q: the queue
 *
 * Used lengths are ignored, as the specification demands of legacy devices and
 * as nothing but the fact of use matters here.
 *
 * Where interrupts are wanted only while somebody waits, they are switched off
 * here unless somebody does: a waiter is on the list before it asks for them.
 *
 * Context: Any; takes @q->lock. Wakes the other waiters if anything came back.
 */
void vbal_vq_reap(struct vbal_vq *q)
{
	unsigned int nr_reaped = 0, len;
	struct vbal_token *token;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	/* What came before a reset and is found after it counts for nobody any more. */
	if (!q->vq || !vbal_life_may_submit(&q->wire->life))
		goto out;
	/* Under the lock that a waiter asks for the interrupt under. */
	if (q->quiet && !waitqueue_active(&q->wait))
		virtqueue_disable_cb(q->vq);
	while ((token = virtqueue_get_buf(q->vq, &len))) {
		/* Pairs with vbal_token_done(). */
		smp_store_release(&token->nr_pending, token->nr_pending - 1);
		WRITE_ONCE(q->nr_in_flight, q->nr_in_flight - 1);
		nr_reaped++;
	}
	if (nr_reaped)
		WRITE_ONCE(q->progress_jiffies, jiffies);
	vbal_vq_check(q);
out:
	spin_unlock_irqrestore(&q->lock, flags);
	if (nr_reaped)
		wake_up_all(&q->wait);
}

/*
 * Ask for an interrupt: where many are in flight, when most of them are used.
 * False if something was used meanwhile.
 */
static bool vbal_vq_arm(struct vbal_vq *q)
{
	unsigned long flags;
	bool armed = true;

	spin_lock_irqsave(&q->lock, flags);
	if (q->vq && !virtqueue_is_broken(q->vq))
		armed = q->nr_in_flight > 4 ?
				virtqueue_enable_cb_delayed(q->vq) :
				virtqueue_enable_cb(q->vq);
	spin_unlock_irqrestore(&q->lock, flags);
	return armed;
}

static bool vbal_vq_ready(struct vbal_vq *q, vbal_vq_cond *cond, void *arg)
{
	do {
		vbal_vq_reap(q);
		if (cond(q, arg) || !vbal_vq_usable(q))
			return true;
	} while (!vbal_vq_arm(q));
	return false;
}

/* The host had answered, but nobody was woken for it. */
static void vbal_vq_count_missed(struct vbal_vq *q)
{
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	q->nr_missed++;
	spin_unlock_irqrestore(&q->lock, flags);
}

static bool vbal_vq_silent(struct vbal_vq *q)
{
	return time_after(jiffies, READ_ONCE(q->progress_jiffies) +
					   msecs_to_jiffies(VBAL_GRACE_MS));
}

/* The driver goes, or the guest is about to sleep. */
static bool vbal_wire_is_leaving(const struct vbal_wire *wire)
{
	return vbal_life_now(&wire->life) == VBAL_LIFE_STOPPING ||
	       READ_ONCE(wire->falls_asleep);
}

static int vbal_vq_wait_while(struct vbal_vq *q, vbal_vq_cond *cond, void *arg,
			      bool bounded)
{
	for (;;) {
		long left = wait_event_idle_timeout(
			q->wait, vbal_vq_ready(q, cond, arg), HZ);

		if (cond(q, arg)) {
			/* 1: only the look at the end of the time saw it. */
			if (left == 1)
				vbal_vq_count_missed(q);
			return 0;
		}
		if (!vbal_vq_usable(q) || vbal_wire_is_broken(q->wire)) {
			/* What it has of us is safe only after a reset. */
			vbal_wire_kill(q->wire);
			return -EIO;
		}
		if ((bounded || vbal_wire_is_leaving(q->wire)) &&
		    vbal_vq_silent(q)) {
			dev_warn(
				&q->wire->vdev->dev,
				"the host does not answer, resetting the device\n");
			vbal_wire_kill(q->wire);
		}
	}
}

/**
 * vbal_vq_wait() - wait for the host
 * @q: the queue
 * @cond: what is waited for; may be called often
 * @arg: for @cond
 *
 * A queue can break without an interrupt (surprise removal), and a device can ask
 * for a reset while its queues look well, so both are looked at once a second; a
 * wait for a slow host costs no more than that. An answer found in this way is
 * counted: its interrupt was lost.
 *
 * Context: Process context, no spinlock. Sleeps idle, so that a slow host is
 * not taken for a hung task.
 * Return: 0, or -EIO once the device is broken or was reset.
 */
int vbal_vq_wait(struct vbal_vq *q, vbal_vq_cond *cond, void *arg)
{
	return vbal_vq_wait_while(q, cond, arg, false);
}

/**
 * vbal_vq_wait_bounded() - wait for the host, but not for a silent one
 * @q: the queue
 * @cond: what is waited for; may be called often
 * @arg: for @cond
 *
 * Where somebody else would have to wait meanwhile. A host that has used no
 * buffer of @q for VBAL_GRACE_MS is taken for broken.
 *
 * Context: As vbal_vq_wait().
 * Return: As vbal_vq_wait().
 */
int vbal_vq_wait_bounded(struct vbal_vq *q, vbal_vq_cond *cond, void *arg)
{
	return vbal_vq_wait_while(q, cond, arg, true);
}

static bool vbal_cond_fewer(struct vbal_vq *q, void *arg)
{
	return READ_ONCE(q->nr_in_flight) < *(unsigned int *)arg;
}

/**
 * vbal_vq_wait_tick() - wait until the host has answered something, or for a tick
 * @q: the queue
 *
 * For who looks again, and at other things too, whatever came of it.
 *
 * Context: Process context, no spinlock. Sleeps idle.
 */
void vbal_vq_wait_tick(struct vbal_vq *q)
{
	unsigned int nr_in_flight = READ_ONCE(q->nr_in_flight);

	if (nr_in_flight && vbal_vq_usable(q))
		wait_event_idle_timeout(
			q->wait,
			vbal_vq_ready(q, vbal_cond_fewer, &nr_in_flight), 1);
	else
		schedule_timeout_idle(1);
}

/**
 * vbal_wire_room() - what fits into one batch
 * @wire: the wire
 * @batch: the batch
 * @mode: how it will travel
 * @want: gets its limits lowered, and the orders that suit @mode
 *
 * Context: Size worker.
 */
void vbal_wire_room(struct vbal_wire *wire, const struct vbal_batch *batch,
		    enum vbal_mode mode, struct vbal_want *want)
{
	unsigned long max_pages;

	want->max_order = VBAL_MAX_ORDER;
	if (mode == VBAL_MODE_RANGE) {
		want->min_order = VBAL_RANGE_MIN_ORDER;
		want->max_blocks = wire->max_ranges;
		max_pages = VBAL_CHAIN_MAX_BYTES >> PAGE_SHIFT;
	} else {
		want->min_order = 0;
		want->max_blocks = UINT_MAX;
		max_pages = batch->max_bufs * VBAL_PFNS_PER_BUF /
			    VBAL_FRAMES_PER_PAGE;
	}
	want->nr_pages = min(want->nr_pages, max_pages);
}

/**
 * vbal_wire_fit() - how many ranges fit into one batch
 * @wire: the wire
 * @sg: ranges, ended
 * @nents: so many
 *
 * Context: Any.
 * Return: entries from @sg on; 0 only if @nents is, or no range can travel.
 */
unsigned int vbal_wire_fit(const struct vbal_wire *wire, struct scatterlist *sg,
			   unsigned int nents)
{
	unsigned int nr = 0;
	u64 nr_bytes = 0;

	while (nr < min(nents, wire->max_ranges)) {
		nr_bytes += sg->length;
		if (nr && nr_bytes > VBAL_CHAIN_MAX_BYTES)
			break;
		nr++;
		sg = sg_next(sg);
	}
	return nr;
}

static int vbal_batch_add_pfns(struct vbal_wire *wire, struct vbal_batch *batch,
			       struct page *page, unsigned int order)
{
	u64 frame = (u64)page_to_pfn(page) * VBAL_FRAMES_PER_PAGE;
	u64 end = frame + (VBAL_FRAMES_PER_PAGE << order);

	if (end - 1 > U32_MAX)
		return -ERANGE;
	if (batch->nr_pfns + (end - frame) >
	    batch->max_bufs * VBAL_PFNS_PER_BUF)
		return -EOVERFLOW;
	for (; frame < end; frame++)
		batch->pfns[batch->nr_pfns++] =
			cpu_to_virtio32(wire->vdev, (u32)frame);
	return 0;
}

static int vbal_block_cmp(void *priv, const struct list_head *a,
			  const struct list_head *b)
{
	const struct page *page_a = list_entry(a, struct page, lru);
	const struct page *page_b = list_entry(b, struct page, lru);

	return page_to_pfn(page_a) > page_to_pfn(page_b);
}

/* Neighbours become one range: one discard call of the host for all of it. */
static int vbal_batch_add_range(struct vbal_batch *batch, struct page *page,
				unsigned int order)
{
	struct scatterlist *last = batch->sg + batch->nr_ranges - 1;
	unsigned int len = PAGE_SIZE << order;

	if (batch->nr_ranges &&
	    sg_phys(last) + last->length == page_to_phys(page) &&
	    last->length <= UINT_MAX - len) {
		last->length += len;
		return 0;
	}
	if (batch->nr_ranges == ARRAY_SIZE(batch->sg))
		return -EOVERFLOW;
	sg_set_page(&batch->sg[batch->nr_ranges++], page, len, 0);
	return 0;
}

/**
 * vbal_wire_load() - write a batch's blocks into its buffers
 * @wire: the wire
 * @batch: the batch, not in flight, with blocks that vbal_wire_room() allowed
 * @id: the queue it will travel by; VBAL_VQ_REPORT means VBAL_MODE_RANGE
 *
 * Context: Whoever owns the batch.
 * Return: 0; -ERANGE if a page lies beyond the 16 TiB that 32 bits can name;
 * -EOVERFLOW if the blocks do not fit.
 */
int vbal_wire_load(struct vbal_wire *wire, struct vbal_batch *batch,
		   enum vbal_vq_id id)
{
	struct page *page;
	int ret = 0;

	batch->id = id;
	batch->mode = id == VBAL_VQ_REPORT ? VBAL_MODE_RANGE : VBAL_MODE_PFN;
	batch->nr_pfns = 0;
	batch->nr_ranges = 0;
	if (batch->mode == VBAL_MODE_RANGE) {
		sg_init_table(batch->sg, ARRAY_SIZE(batch->sg));
		list_sort(NULL, &batch->blocks.list, vbal_block_cmp);
	}
	vbal_for_each_block(page, &batch->blocks) {
		unsigned int order = vbal_block_order(page);

		if (batch->mode == VBAL_MODE_RANGE)
			ret = vbal_batch_add_range(batch, page, order);
		else
			ret = vbal_batch_add_pfns(wire, batch, page, order);
		if (ret)
			return ret;
	}
	if (batch->nr_ranges)
		sg_mark_end(&batch->sg[batch->nr_ranges - 1]);
	return 0;
}

static unsigned int vbal_batch_nr_bufs(const struct vbal_batch *batch)
{
	if (batch->mode == VBAL_MODE_RANGE)
		return batch->nr_ranges ? 1 : 0;
	return DIV_ROUND_UP(batch->nr_pfns, VBAL_PFNS_PER_BUF);
}

/* The @i-th buffer of a batch as a scatterlist; @sg is scratch for it. */
static struct scatterlist *
vbal_batch_buf(struct vbal_batch *batch, unsigned int i, struct scatterlist *sg)
{
	unsigned int first = i * VBAL_PFNS_PER_BUF;
	unsigned int nr;

	if (batch->mode == VBAL_MODE_RANGE)
		return batch->sg;
	nr = min_t(unsigned int, batch->nr_pfns - first, VBAL_PFNS_PER_BUF);
	sg_init_one(sg, batch->pfns + first, nr * sizeof(batch->pfns[0]));
	return sg;
}

static int vbal_batch_add_buf(struct vbal_wire *wire, struct vbal_batch *batch,
			      unsigned int i)
{
	bool out = batch->mode == VBAL_MODE_PFN;
	struct scatterlist sg;

	return vbal_vq_add(&wire->q[batch->id], vbal_batch_buf(batch, i, &sg),
			   out ? 1 : batch->nr_ranges, out, &batch->token);
}

static unsigned int vbal_vq_room(struct vbal_vq *q)
{
	unsigned int nr_descs;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	nr_descs = vbal_vq_num_free(q);
	spin_unlock_irqrestore(&q->lock, flags);
	return nr_descs;
}

static bool vbal_cond_room(struct vbal_vq *q, void *arg)
{
	return vbal_vq_room(q) >= *(unsigned int *)arg;
}

/* What can be put off is not added meanwhile: see vbal_wire_awaited(). */
static int vbal_vq_await(struct vbal_vq *q, vbal_vq_cond *cond, void *arg)
{
	int ret;

	atomic_inc(&q->nr_awaiting);
	ret = vbal_vq_wait(q, cond, arg);
	atomic_dec(&q->nr_awaiting);
	return ret;
}

/**
 * vbal_wire_submit() - hand a loaded batch to the host
 * @wire: the wire
 * @batch: the batch, loaded
 *
 * Waits for room in the ring where it has to; one notification at the end.
 *
 * Context: Process context, no locks that reclaim could need.
 * Return: 0; -EIO when the device was broken: some of the buffers may have been
 * with the host, but it has been reset since.
 */
int vbal_wire_submit(struct vbal_wire *wire, struct vbal_batch *batch)
{
	struct vbal_vq *q = &wire->q[batch->id];
	unsigned int nr_descs = 1;
	unsigned int i;
	int ret = 0;

	batch->start_ns = ktime_get_ns();
	trace_vbal_batch_submit(wire, batch);
	if (batch->mode == VBAL_MODE_RANGE)
		nr_descs = batch->nr_ranges;
	for (i = 0; i < vbal_batch_nr_bufs(batch); i++) {
		while ((ret = vbal_batch_add_buf(wire, batch, i)) == -ENOSPC) {
			vbal_vq_notify(q);
			ret = vbal_vq_await(q, vbal_cond_room, &nr_descs);
			if (ret)
				return ret;
		}
		if (ret) {
			/* What it has of us is safe only after a reset. */
			vbal_wire_kill(wire);
			return -EIO;
		}
	}
	vbal_vq_notify(q);
	return 0;
}

/**
 * vbal_wire_try_submit() - hand a loaded batch to the host, all of it or none
 * @wire: the wire
 * @batch: the batch, loaded, VBAL_MODE_PFN
 *
 * Context: OOM notifier; does not sleep.
 * Return: 0, -ENOSPC when the ring has no room for all of it, -EIO when the
 * device is broken.
 */
int vbal_wire_try_submit(struct vbal_wire *wire, struct vbal_batch *batch)
{
	struct vbal_vq *q = &wire->q[batch->id];
	unsigned int nr_bufs = vbal_batch_nr_bufs(batch);
	unsigned long flags;
	unsigned int i;
	int ret = -EIO;

	batch->start_ns = ktime_get_ns();
	vbal_vq_reap(q);
	spin_lock_irqsave(&q->lock, flags);
	if (vbal_vq_usable(q))
		ret = vbal_vq_num_free(q) < nr_bufs ? -ENOSPC : 0;
	for (i = 0; !ret && i < nr_bufs; i++) {
		struct scatterlist sg;

		ret = vbal_vq_add_locked(q, vbal_batch_buf(batch, i, &sg), 1,
					 true, &batch->token);
	}
	spin_unlock_irqrestore(&q->lock, flags);
	vbal_vq_notify(q);
	return ret;
}

static int vbal_vq_add_pair_locked(struct vbal_vq *q1, struct scatterlist *sg1,
				   struct vbal_token *token1,
				   struct vbal_vq *q2, struct scatterlist *sg2,
				   struct vbal_token *token2)
{
	int ret;

	if (!vbal_vq_usable(q1) || !vbal_vq_usable(q2))
		return -EIO;
	if (!vbal_vq_num_free(q1) || !vbal_vq_num_free(q2))
		return -ENOSPC;
	ret = vbal_vq_add_locked(q1, sg1, 1, true, token1);
	return ret ?: vbal_vq_add_locked(q2, sg2, 1, true, token2);
}

/**
 * vbal_vq_add_out_pair() - queue a buffer each in two queues, both or none
 * @q1: the inflate queue
 * @sg1: its buffer, one descriptor
 * @token1: counts @sg1
 * @q2: the deflate queue
 * @sg2: its buffer, one descriptor
 * @token2: counts @sg2
 *
 * Context: Any; takes both locks, @q1's first. Follow with vbal_vq_notify().
 * Return: 0, -ENOSPC when a ring is full, -EIO when the device is broken.
 */
int vbal_vq_add_out_pair(struct vbal_vq *q1, struct scatterlist *sg1,
			 struct vbal_token *token1, struct vbal_vq *q2,
			 struct scatterlist *sg2, struct vbal_token *token2)
{
	unsigned long flags;
	int ret;

	spin_lock_irqsave(&q1->lock, flags);
	spin_lock_nested(&q2->lock, SINGLE_DEPTH_NESTING);
	ret = vbal_vq_add_pair_locked(q1, sg1, token1, q2, sg2, token2);
	spin_unlock(&q2->lock);
	spin_unlock_irqrestore(&q1->lock, flags);
	return ret;
}

/**
 * vbal_wire_free_pfns() - what vbal_wire_try_submit() would take now
 * @wire: the wire
 * @batch: the batch, not in flight
 * @id: the queue
 *
 * Context: OOM notifier; does not sleep.
 * Return: frames that fit both the batch and the ring.
 */
unsigned int vbal_wire_free_pfns(struct vbal_wire *wire,
				 const struct vbal_batch *batch,
				 enum vbal_vq_id id)
{
	struct vbal_vq *q = &wire->q[id];

	vbal_vq_reap(q);
	return min(vbal_vq_room(q), batch->max_bufs) * VBAL_PFNS_PER_BUF;
}

/**
 * vbal_wire_done() - has the host acknowledged a batch
 * @wire: the wire
 * @batch: the batch
 *
 * Context: Any; takes the queue's lock.
 * Return: true if none of its buffers is in flight.
 */
bool vbal_wire_done(struct vbal_wire *wire, struct vbal_batch *batch)
{
	if (!vbal_token_done(&batch->token))
		vbal_vq_reap(&wire->q[batch->id]);
	return vbal_token_done(&batch->token);
}

static bool vbal_cond_token(struct vbal_vq *q, void *arg)
{
	return vbal_token_done(arg);
}

/**
 * vbal_wire_wait() - wait for the acknowledgment of a batch
 * @wire: the wire
 * @batch: the batch
 *
 * Context: Process context.
 * Return: 0, or -EIO as from vbal_vq_wait().
 */
int vbal_wire_wait(struct vbal_wire *wire, struct vbal_batch *batch)
{
	return vbal_vq_wait(&wire->q[batch->id], vbal_cond_token,
			    &batch->token);
}

static bool vbal_cond_empty(struct vbal_vq *q, void *arg)
{
	return !READ_ONCE(q->nr_in_flight);
}

/**
 * vbal_wire_drain() - wait until the host has nothing of a queue
 * @wire: the wire
 * @id: the queue
 *
 * Context: Process context.
 * Return: 0, or -EIO as from vbal_vq_wait().
 */
int vbal_wire_drain(struct vbal_wire *wire, enum vbal_vq_id id)
{
	struct vbal_vq *q = &wire->q[id];

	if (vbal_cond_empty(q, NULL))
		return 0;
	return vbal_vq_await(q, vbal_cond_empty, NULL);
}

/**
 * vbal_wire_acked() - the host has acknowledged a batch
 * @wire: the wire
 * @batch: the batch
 *
 * Context: Whoever owns the batch, once for each time it was submitted.
 */
void vbal_wire_acked(struct vbal_wire *wire, const struct vbal_batch *batch)
{
	u64 latency_ns = ktime_get_ns() - batch->start_ns;

	vbal_hist_add(&wire->answer, latency_ns);
	trace_vbal_batch_ack(wire, batch, div_u64(latency_ns, NSEC_PER_USEC));
}

/* A field of the config space; @value where it cannot be read, as ccw has it. */
static u32 vbal_wire_read(struct vbal_wire *wire, unsigned int offset,
			  u32 value)
{
	__le32 field = cpu_to_le32(value);

	wire->vdev->config->get(wire->vdev, offset, &field, sizeof(field));
	return le32_to_cpu(field);
}

static u32 vbal_wire_read_target(struct vbal_wire *wire)
{
	return vbal_wire_read(wire,
			      offsetof(struct virtio_balloon_config, num_pages),
			      wire->target_frames);
}

/**
 * vbal_wire_target_frames() - what the host asks for now
 * @wire: the wire
 *
 * Legacy transports read byte by byte: there it is read until it holds still.
 *
 * Context: Size worker.
 * Return: num_pages in frames of 4 KiB; what the device says, however absurd, and
 * what it said last where it says nothing.
 */
u32 vbal_wire_target_frames(struct vbal_wire *wire)
{
	u32 nr_frames = vbal_wire_read_target(wire), again;
	unsigned int tries = 8;

	while (!virtio_has_feature(wire->vdev, VIRTIO_F_VERSION_1) && tries--) {
		again = vbal_wire_read_target(wire);
		if (again == nr_frames)
			break;
		nr_frames = again;
	}
	wire->target_frames = nr_frames;
	return nr_frames;
}

/**
 * vbal_wire_set_actual() - tell the host the size of the balloon
 * @wire: the wire
 * @nr_frames: frames of 4 KiB in the balloon
 *
 * One write of all four bytes, and only if it is news: QEMU makes an event of
 * each.
 *
 * Context: Size worker, or disconnect after the worker has stopped.
 */
void vbal_wire_set_actual(struct vbal_wire *wire, u32 nr_frames)
{
	if (!vbal_life_may_submit(&wire->life))
		return;
	if (wire->actual_known && wire->actual_frames == nr_frames)
		return;
	virtio_cwrite_le(wire->vdev, struct virtio_balloon_config, actual,
			 &nr_frames);
	wire->actual_frames = nr_frames;
	wire->actual_known = true;
}

/**
 * vbal_wire_hint_cmd() - the host's present free page hint command
 * @wire: the wire, with FREE_PAGE_HINT negotiated
 * @last: what it was before
 *
 * Context: Process context.
 * Return: a command id, VIRTIO_BALLOON_CMD_ID_STOP or _DONE; @last if it cannot be
 * read.
 */
u32 vbal_wire_hint_cmd(struct vbal_wire *wire, u32 last)
{
	return vbal_wire_read(wire,
			      offsetof(struct virtio_balloon_config,
				       free_page_hint_cmd_id),
			      last);
}

/**
 * vbal_wire_awaited() - does somebody wait until a queue has emptied
 * @wire: the wire
 * @id: the queue
 *
 * Who adds one buffer after the other would put that off for good.
 *
 * Context: Any.
 * Return: true if somebody waits for room in it, or until the host has nothing of
 * it.
 */
bool vbal_wire_awaited(struct vbal_wire *wire, enum vbal_vq_id id)
{
	return atomic_read(&wire->q[id].nr_awaiting);
}

/**
 * vbal_wire_in_flight() - buffers of a queue that the host has
 * @wire: the wire
 * @id: the queue
 *
 * Context: Any.
 * Return: their number at this moment.
 */
unsigned int vbal_wire_in_flight(struct vbal_wire *wire, enum vbal_vq_id id)
{
	return READ_ONCE(wire->q[id].nr_in_flight);
}
