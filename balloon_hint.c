// SPDX-License-Identifier: GPL-2.0-only
/*
 * Free memory the host need not know the content of: free page hinting
 * (virtio 1.2, 5.5.6.5) and free page reporting (5.5.6.7). Never waits for the
 * size worker.
 *
 * A round of hinting, as the host's command id asks for it:
 *
 *	host: id = N            driver: N (out), block (in), block (in), ...
 *	host: id = STOP, or M   driver: STOP (out)
 *	host: id = DONE         driver: frees the blocks
 *
 * The round also ends when the guest has no more to spare. The host may discard
 * a block at any time until it has used the block's buffer, whatever it said
 * meanwhile: so each buffer has a slot that keeps its block until then. A guest in
 * need cannot have it back, so it is given only while the guest has more left to
 * spare than the host has not answered. Used blocks wait for DONE, because giving
 * them back makes the host copy them; only memory pressure, and memory that goes
 * offline, free them earlier.
 *
 * The work never sleeps for the host. What it has to leave undone, because the
 * host has enough or the last command is still on its way, it does when the
 * callback for used buffers queues it again.
 */
#include "balloon_hint.h"

#include <linux/gfp.h>
#include <linux/ktime.h>
#include <linux/memory.h>
#include <linux/oom.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "balloon_trace.h"

/* Blocks between two looks at the guest's memory; one notification. */
#define VBAL_HINT_CHUNK 32

/**
 * struct vbal_hint_slot - a block whose buffer the host has
 * @node: on vbal_hint.idle or vbal_hint.busy
 * @token: pending until the host has used the buffer
 * @page: first page of the block
 */
struct vbal_hint_slot {
	struct list_head node;
	struct vbal_token token;
	struct page *page;
};

static unsigned long vbal_hint_block_pages(const struct page *page)
{
	return 1UL << vbal_block_order(page);
}

static void vbal_hint_free_block(struct page *page)
{
	unsigned int order = vbal_block_order(page);

	trace_vbal_block_free(page_to_pfn(page), order);
	__free_pages(page, order);
}

static struct vbal_vq *vbal_hint_vq(struct vbal_hint *h)
{
	return &h->wire->q[VBAL_VQ_HINT];
}

/* In the work or in reclaim: used blocks, until the guest has @nr_pages. */
static unsigned long vbal_hint_give_back(struct vbal_hint *h,
					 unsigned long nr_pages)
{
	unsigned long nr_freed = 0;

	while (nr_freed < nr_pages) {
		struct page *page;

		spin_lock(&h->lock);
		page = list_first_entry_or_null(&h->ready, struct page, lru);
		if (page) {
			list_del(&page->lru);
			WRITE_ONCE(h->ready_pages,
				   h->ready_pages -
					   vbal_hint_block_pages(page));
		}
		spin_unlock(&h->lock);
		if (!page)
			break;
		nr_freed += vbal_hint_block_pages(page);
		vbal_hint_free_block(page);
		cond_resched();
	}
	return nr_freed;
}

/* Blocks whose buffers the host has used become ready. */
static void vbal_hint_collect(struct vbal_hint *h)
{
	struct vbal_hint_slot *slot, *next;
	unsigned long nr_pages;

	list_for_each_entry_safe(slot, next, &h->busy, node) {
		if (!vbal_token_done(&slot->token))
			continue;
		nr_pages = vbal_hint_block_pages(slot->page);
		spin_lock(&h->lock);
		list_add_tail(&slot->page->lru, &h->ready);
		WRITE_ONCE(h->ready_pages, h->ready_pages + nr_pages);
		spin_unlock(&h->lock);
		WRITE_ONCE(h->busy_pages, h->busy_pages - nr_pages);
		slot->page = NULL;
		list_move(&slot->node, &h->idle);
	}
}

/*
 * Once more the high watermarks stay free above what kswapd keeps free anyway;
 * and what the guard spares from the balloon is spared from hinting too.
 */
static unsigned long vbal_hint_spare_pages(struct vbal_hint *h)
{
	unsigned long reserve = READ_ONCE(h->size->guard.reserve_pages);
	struct vbal_signals s;

	if (READ_ONCE(h->shrunk) || READ_ONCE(h->offlining))
		return 0;
	vbal_size_sample(h->size, &s);
	if (s.above_high_pages <= s.high_wmark_pages ||
	    s.avail_pages <= reserve)
		return 0;
	return min(s.above_high_pages - s.high_wmark_pages,
		   s.avail_pages - reserve);
}

/*
 * ZONE_MOVABLE is fine here: the block goes back when memory goes offline. Nobody
 * tells of an area of CMA that it is needed, so from the first zone on that may have
 * one blocks of that order are asked for as what does not move.
 */
static struct page *vbal_hint_alloc_block(struct vbal_hint *h)
{
	gfp_t gfp = vbal_pages_gfp_block();
	struct page *page;

	if (!h->met_cma) {
		page = alloc_pages(gfp, h->order);
		if (!page || !vbal_zone_has_cma(page_zone(page)))
			return page;
		__free_pages(page, h->order);
		h->met_cma = true;
	}
	return alloc_pages(gfp & ~__GFP_MOVABLE, h->order);
}

/* Largest orders first; what has run out is not asked for again in this round. */
static struct page *vbal_hint_alloc(struct vbal_hint *h, unsigned long spare)
{
	for (; h->order >= VBAL_BLOCK_ORDER; h->order--, h->met_cma = false) {
		struct page *page = NULL;

		if (spare >> h->order)
			page = vbal_hint_alloc_block(h);
		if (page) {
			trace_vbal_block_alloc(page_to_pfn(page), h->order);
			set_page_private(page, h->order);
			return page;
		}
	}
	return NULL;
}

/* Return: pages hinted, -ENOSPC: the host has enough, -ENOMEM: no more to spare */
static long vbal_hint_add_block(struct vbal_hint *h, unsigned long spare)
{
	struct vbal_hint_slot *slot;
	struct scatterlist sg;
	struct page *page;
	int ret;

	slot = list_first_entry_or_null(&h->idle, struct vbal_hint_slot, node);
	if (!slot || (spare >> VBAL_BLOCK_ORDER && h->busy_pages > spare))
		return -ENOSPC;
	page = vbal_hint_alloc(h, spare);
	if (!page)
		return -ENOMEM;
	sg_init_table(&sg, 1);
	sg_set_page(&sg, page, PAGE_SIZE << h->order, 0);
	ret = vbal_vq_add_in(vbal_hint_vq(h), &sg, 1, &slot->token);
	if (ret) {
		vbal_hint_free_block(page);
		return ret;
	}
	slot->page = page;
	WRITE_ONCE(h->busy_pages, h->busy_pages + (1UL << h->order));
	list_move(&slot->node, &h->busy);
	return 1L << h->order;
}

static int vbal_hint_add_chunk(struct vbal_hint *h)
{
	unsigned long spare = vbal_hint_spare_pages(h);
	unsigned int i;
	long ret = 0;

	for (i = 0; i < VBAL_HINT_CHUNK; i++) {
		ret = vbal_hint_add_block(h, spare);
		if (ret < 0)
			break;
		spare -= ret;
		WRITE_ONCE(h->nr_hinted_pages, h->nr_hinted_pages + ret);
	}
	if (i)
		vbal_vq_notify(vbal_hint_vq(h));
	return min(ret, 0L);
}

/*
 * As many blocks as host and guest have room for, unless the host changes its
 * mind. -ENOSPC: on as soon as the host has used some buffers.
 */
static int vbal_hint_fill(struct vbal_hint *h)
{
	int ret;

	do {
		cond_resched();
		ret = vbal_hint_add_chunk(h);
	} while (!ret && !READ_ONCE(h->changed));
	return ret;
}

/*
 * Commands share one buffer: the next leaves when the host has used the last,
 * so it never has two. -EBUSY until then.
 */
static int vbal_hint_send_cmd(struct vbal_hint *h, u32 cmd)
{
	struct scatterlist sg;
	int ret;

	if (!vbal_token_done(&h->token))
		return -EBUSY;
	h->cmd = cpu_to_virtio32(h->wire->vdev, cmd);
	sg_init_one(&sg, &h->cmd, sizeof(h->cmd));
	ret = vbal_vq_add_out(vbal_hint_vq(h), &sg, 1, &h->token);
	if (!ret)
		vbal_vq_notify(vbal_hint_vq(h));
	return ret;
}

static bool vbal_hint_wants_round(const struct vbal_hint *h)
{
	return h->host_id != VIRTIO_BALLOON_CMD_ID_STOP &&
	       h->host_id != VIRTIO_BALLOON_CMD_ID_DONE &&
	       h->host_id != h->round_id;
}

static void vbal_hint_begin_round(struct vbal_hint *h)
{
	if (!vbal_hint_wants_round(h) || vbal_hint_send_cmd(h, h->host_id))
		return;
	h->round_id = h->host_id;
	h->order = VBAL_HINT_ORDER;
	h->met_cma = false;
	h->phase = VBAL_HINT_ROUND;
	WRITE_ONCE(h->shrunk, false);
	WRITE_ONCE(h->nr_rounds, h->nr_rounds + 1);
	trace_vbal_hint_round_begin(h->wire->vdev->index, h->round_id,
				    h->host_id, h->nr_hinted_pages);
}

static void vbal_hint_end_round(struct vbal_hint *h)
{
	if (vbal_hint_send_cmd(h, VIRTIO_BALLOON_CMD_ID_STOP))
		return;
	h->phase = VBAL_HINT_IDLE;
	trace_vbal_hint_round_end(h->wire->vdev->index, h->round_id, h->host_id,
				  h->nr_hinted_pages);
}

/* Each phase goes on where the last run had to leave it. */
static void vbal_hint_step(struct vbal_hint *h)
{
	if (h->phase == VBAL_HINT_ROUND && h->host_id != h->round_id)
		h->phase = VBAL_HINT_ENDING;
	if (h->phase == VBAL_HINT_ENDING)
		vbal_hint_end_round(h);
	if (h->phase == VBAL_HINT_IDLE)
		vbal_hint_begin_round(h);
	if (h->phase == VBAL_HINT_ROUND && vbal_hint_fill(h) == -ENOMEM) {
		h->phase = VBAL_HINT_ENDING;
		vbal_hint_end_round(h);
	}
}

static void vbal_hint_work(struct work_struct *work)
{
	struct vbal_hint *h = container_of(work, struct vbal_hint, work);

	if (!READ_ONCE(h->running))
		return;
	/* Before reading: what changes later sets it and queues us again. */
	if (xchg(&h->changed, false))
		h->host_id = vbal_wire_hint_cmd(h->wire, h->host_id);
	vbal_vq_reap(vbal_hint_vq(h));
	vbal_hint_collect(h);
	vbal_hint_step(h);
	if (h->host_id == VIRTIO_BALLOON_CMD_ID_DONE || READ_ONCE(h->offlining))
		vbal_hint_give_back(h, ULONG_MAX);
}

static unsigned long vbal_hint_shrink_count(struct shrinker *shrinker,
					    struct shrink_control *sc)
{
	struct vbal_hint *h = vbal_shrinker_priv(shrinker);

	return READ_ONCE(h->ready_pages);
}

/* Once the guest needed blocks back, the round takes no more. */
static unsigned long vbal_hint_shrink_scan(struct shrinker *shrinker,
					   struct shrink_control *sc)
{
	struct vbal_hint *h = vbal_shrinker_priv(shrinker);
	unsigned long nr_freed = vbal_hint_give_back(h, sc->nr_to_scan);

	if (!nr_freed)
		return SHRINK_STOP;
	WRITE_ONCE(h->shrunk, true);
	return nr_freed;
}

/*
 * Hinted blocks cannot move, and the kernel waits for memory that it takes
 * offline without an end. Those that the host still has come back as soon as it
 * has used their buffers.
 */
static int vbal_hint_memory_notify(struct notifier_block *nb,
				   unsigned long action, void *unused)
{
	struct vbal_hint *h = container_of(nb, struct vbal_hint, memory_nb);

	if (action == MEM_GOING_OFFLINE) {
		WRITE_ONCE(h->offlining, true);
		queue_work(h->wq, &h->work);
	} else if (action == MEM_OFFLINE || action == MEM_CANCEL_OFFLINE) {
		WRITE_ONCE(h->offlining, false);
	}
	return NOTIFY_OK;
}

/**
 * vbal_hint_init() - prepare for vbal_hint_start()
 * @h: the hinting, zeroed
 * @size: whose guard and pages say what the guest can spare
 * @wq: runs the work that hints
 *
 * Context: Probe.
 */
void vbal_hint_init(struct vbal_hint *h, struct vbal_size *size,
		    struct workqueue_struct *wq)
{
	h->wire = size->wire;
	h->size = size;
	h->wq = wq;
	INIT_WORK(&h->work, vbal_hint_work);
	h->memory_nb.notifier_call = vbal_hint_memory_notify;
	spin_lock_init(&h->lock);
	INIT_LIST_HEAD(&h->idle);
	INIT_LIST_HEAD(&h->busy);
	INIT_LIST_HEAD(&h->ready);
	vbal_wire_listen(h->wire, VBAL_VQ_HINT, wq, &h->work);
}

static int vbal_hint_alloc_slots(struct vbal_hint *h, unsigned int ring_size)
{
	unsigned int i;

	/* One entry stays for commands, so that STOP always finds room. */
	h->nr_slots = ring_size - 1;
	h->slot = kvcalloc(h->nr_slots, sizeof(*h->slot), GFP_KERNEL);
	if (!h->slot)
		return -ENOMEM;
	for (i = 0; i < h->nr_slots; i++)
		list_add_tail(&h->slot[i].node, &h->idle);
	return 0;
}

/**
 * vbal_hint_start() - follow the host's command ids
 * @h: the hinting
 *
 * Does nothing without FREE_PAGE_HINT. A failure leaves nothing to be undone.
 *
 * Context: Connect, after virtio_device_ready(). vbal_hint_changed() has to
 * follow after it: the host may be in the middle of a migration.
 * Return: 0 or an error.
 */
int vbal_hint_start(struct vbal_hint *h)
{
	struct virtqueue *vq = vbal_hint_vq(h)->vq;
	int ret;

	if (!vq || !vbal_wire_has(h->wire, VIRTIO_BALLOON_F_FREE_PAGE_HINT))
		return 0;
	ret = vbal_hint_alloc_slots(h, virtqueue_get_vring_size(vq));
	if (ret)
		return ret;
	ret = vbal_shrinker_register(&h->shrinker, vbal_hint_shrink_count,
				     vbal_hint_shrink_scan, h);
	if (ret)
		goto err_slots;
	h->offlining = false;
	ret = register_memory_notifier(&h->memory_nb);
	if (ret)
		goto err_shrinker;
	h->phase = VBAL_HINT_IDLE;
	h->round_id = VIRTIO_BALLOON_CMD_ID_STOP;
	h->host_id = VIRTIO_BALLOON_CMD_ID_STOP;
	/* A command from before a reset never comes back. */
	h->token.nr_pending = 0;
	WRITE_ONCE(h->running, true);
	return 0;

err_shrinker:
	vbal_shrinker_unregister(&h->shrinker);
err_slots:
	vbal_hint_release(h);
	return ret;
}

/**
 * vbal_hint_changed() - the config space, perhaps the command id, has changed
 * @h: the hinting
 *
 * Context: Any, hard interrupt included.
 */
void vbal_hint_changed(struct vbal_hint *h)
{
	if (!READ_ONCE(h->running))
		return;
	WRITE_ONCE(h->changed, true);
	queue_work(h->wq, &h->work);
}

/**
 * vbal_hint_stop() - hint no more
 * @h: the hinting
 *
 * Blocks that are ready go back to the guest; those that the host may still
 * discard wait for vbal_hint_release().
 *
 * Context: Disconnect, before the reset. Waits for the work, never for the host.
 */
void vbal_hint_stop(struct vbal_hint *h)
{
	if (!h->running)
		return;
	/* An interrupt from now on queues the work for nothing. */
	WRITE_ONCE(h->running, false);
	unregister_memory_notifier(&h->memory_nb);
	cancel_work_sync(&h->work);
	vbal_shrinker_unregister(&h->shrinker);
	vbal_hint_give_back(h, ULONG_MAX);
}

/**
 * vbal_hint_release() - give back every block, used or not
 * @h: the hinting
 *
 * Context: Disconnect, after vbal_hint_stop() and the reset: only then can the
 * host not discard a block any more whose buffer it never used.
 */
void vbal_hint_release(struct vbal_hint *h)
{
	struct vbal_hint_slot *slot;

	list_for_each_entry(slot, &h->busy, node)
		vbal_hint_free_block(slot->page);
	WRITE_ONCE(h->busy_pages, 0);
	INIT_LIST_HEAD(&h->busy);
	INIT_LIST_HEAD(&h->idle);
	kvfree(h->slot);
	h->slot = NULL;
	h->nr_slots = 0;
}

/*
 * In pieces of half the ring at most, so that it takes turns with blocks that
 * travel as ranges.
 */
static int vbal_report_send(struct vbal_report *r, struct scatterlist *sg,
			    unsigned int nents)
{
	struct vbal_batch *batch = r->batch;

	batch->id = VBAL_VQ_REPORT;
	batch->mode = VBAL_MODE_RANGE;
	while (nents) {
		unsigned int nr = vbal_wire_fit(r->wire, sg, nents);
		unsigned int i;
		int ret;

		if (!nr)
			return -EIO;
		sg_init_table(batch->sg, nr);
		for (i = 0; i < nr; i++, sg = sg_next(sg))
			sg_set_page(&batch->sg[i], sg_page(sg), sg->length, 0);
		batch->nr_ranges = nr;
		ret = vbal_wire_submit(r->wire, batch);
		if (!ret)
			ret = vbal_wire_wait(r->wire, batch);
		if (ret)
			return ret;
		vbal_wire_acked(r->wire, batch);
		nents -= nr;
	}
	return 0;
}

/* The kernel keeps the pages isolated until this returns. */
static int vbal_report_pages(struct page_reporting_dev_info *prdev,
			     struct scatterlist *sgl, unsigned int nents)
{
	struct vbal_report *r = container_of(prdev, struct vbal_report, prdev);
	u64 start_ns = ktime_get_ns();
	unsigned long nr_pages = 0;
	struct scatterlist *sg;
	unsigned int i;
	int ret;

	for_each_sg(sgl, sg, nents, i)
		nr_pages += sg->length >> PAGE_SHIFT;
	WRITE_ONCE(r->last_pages, nr_pages);
	WRITE_ONCE(r->nr_begun, r->nr_begun + 1);
	ret = vbal_report_send(r, sgl, nents);
	trace_vbal_report(r->wire->vdev->index, nr_pages,
			  div_u64(ktime_get_ns() - start_ns, NSEC_PER_USEC),
			  ret);
	WRITE_ONCE(r->ended_jiffies, jiffies);
	WRITE_ONCE(r->nr_ended, r->nr_begun);
	if (ret)
		WRITE_ONCE(r->nr_failed, r->nr_failed + 1);
	else
		WRITE_ONCE(r->nr_pages, r->nr_pages + nr_pages);
	return ret;
}

/* The kernel frees what was reported a moment after vbal_report_pages() has returned. */
static bool vbal_report_was_just_out(const struct vbal_report *r)
{
	return READ_ONCE(r->nr_ended) != READ_ONCE(r->nr_begun) ||
	       time_before(jiffies, READ_ONCE(r->ended_jiffies) + 2);
}

/*
 * What is being reported counts as free for nobody, and may be all that a small
 * guest has: 32 blocks of 4 MiB. It is back as soon as the host has answered, for
 * which it has as long as anywhere. Each report is waited for once: somebody has to
 * be killed if that was in vain, or did not help. Under the kernel's oom_lock.
 */
static int vbal_report_oom(struct notifier_block *nb, unsigned long unused,
			   void *param)
{
	struct vbal_report *r = container_of(nb, struct vbal_report, oom_nb);
	unsigned long end = jiffies + msecs_to_jiffies(VBAL_GRACE_MS);
	unsigned long nr_begun = READ_ONCE(r->nr_begun);
	unsigned long nr_pages = READ_ONCE(r->last_pages);
	unsigned long *freed = param;

	if (*freed || nr_begun == r->nr_awaited || !vbal_report_was_just_out(r))
		return NOTIFY_OK;
	r->nr_awaited = nr_begun;
	while ((long)(READ_ONCE(r->nr_ended) - nr_begun) < 0)
		if (!vbal_oom_pause(end))
			return NOTIFY_OK;
	schedule_timeout_idle(1);
	*freed += nr_pages;
	return NOTIFY_OK;
}

/**
 * vbal_report_alloc() - allocate all that reporting will ever need
 * @r: the reporting, zeroed
 * @wire: the way to the host
 *
 * Context: Probe.
 * Return: 0 or -ENOMEM; vbal_report_free() undoes either.
 */
int vbal_report_alloc(struct vbal_report *r, struct vbal_wire *wire)
{
	r->wire = wire;
	r->batch = vbal_batch_alloc(1);
	return r->batch ? 0 : -ENOMEM;
}

/**
 * vbal_report_free() - free what vbal_report_alloc() allocated
 * @r: the reporting, stopped
 *
 * Context: Probe that failed, remove.
 */
void vbal_report_free(struct vbal_report *r)
{
	vbal_batch_free(r->batch);
}

/**
 * vbal_report_stop() - report no more
 * @r: the reporting
 *
 * Context: Disconnect, before the reset. Waits for a report under way, which
 * waits for the host as long as vbal_vq_wait() lets it, and then for whoever is out
 * of memory: no longer for the report, but VBAL_OOM_WAIT_MS for what is held.
 */
void vbal_report_stop(struct vbal_report *r)
{
	if (!r->registered)
		return;
	page_reporting_unregister(&r->prdev);
	/* Also if it could not be registered: then it is not found. */
	unregister_oom_notifier(&r->oom_nb);
	r->registered = false;
}

/**
 * vbal_report_start() - let the kernel report its free pages
 * @r: the reporting
 *
 * Does nothing without REPORTING (virtio 1.2, 5.5.6.7). The kernel serves one
 * device only: with a second balloon the first one reports. A kernel without
 * PAGE_REPORTING serves none.
 *
 * Context: Connect, after virtio_device_ready().
 * Return: 0, or what page_reporting_register() said but for -EBUSY and
 * -EOPNOTSUPP, or what register_oom_notifier() said.
 */
int vbal_report_start(struct vbal_report *r)
{
	int ret;

	if (!r->wire->q[VBAL_VQ_REPORT].vq ||
	    !vbal_wire_has(r->wire, VIRTIO_BALLOON_F_REPORTING))
		return 0;
	/* A report from before a reset never comes back. */
	r->batch->token.nr_pending = 0;
	memset(&r->prdev, 0, sizeof(r->prdev));
	r->prdev.report = vbal_report_pages;
	r->prdev.order = VBAL_REPORTING_ORDER;
	ret = page_reporting_register(&r->prdev);
	if (ret == -EBUSY) {
		dev_info(&r->wire->vdev->dev,
			 "another device has free page reporting already\n");
		return 0;
	}
	if (ret)
		return ret == -EOPNOTSUPP ? 0 : ret;
	r->registered = true;
	r->oom_nb.notifier_call = vbal_report_oom;
	r->oom_nb.priority = VBAL_OOM_REPORT_PRIORITY;
	ret = register_oom_notifier(&r->oom_nb);
	if (ret)
		vbal_report_stop(r);
	return ret;
}
