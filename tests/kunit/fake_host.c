// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's side: walks the rings, keeps the books, and notes whatever a
 * correct driver would not do. Some pages of all that the driver gives or reports are
 * written to, as a host's discard would change them: KASAN tells if one that
 * was given is not the driver's, page_poison=1 if a reported one was to be kept.
 */
#include "fake_host.h"

#include "balloon_compat.h"
#include "fake_books.h"

#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/slab.h>

#define FAKE_ALIGN PAGE_SIZE
/* A page's content after the host has discarded it. */
#define FAKE_DISCARDED 0xd15ca2dedULL
/*
 * Of a range one page of so many is written to, as many as the smallest has: all
 * of them would be half the time of a test.
 */
#define FAKE_DISCARD_STRIDE 8u

static struct fake_host *to_fake(struct virtio_device *vdev)
{
	return container_of(vdev, struct fake_host, vdev);
}

static void fake_error(struct fake_host *h, const char *what)
{
	if (!h->nr_errors++)
		h->error = what;
}

/* Optional queues exist when their feature is offered. */
static bool fake_has_queue(struct fake_host *h, enum fake_queue kind)
{
	static const int feature[FAKE_NR_QUEUES] = {
		[FAKE_INFLATE] = -1,
		[FAKE_DEFLATE] = -1,
		[FAKE_STATS] = VIRTIO_BALLOON_F_STATS_VQ,
		[FAKE_HINT] = VIRTIO_BALLOON_F_FREE_PAGE_HINT,
		[FAKE_REPORT] = VIRTIO_BALLOON_F_REPORTING,
	};

	if (h->missing & BIT(kind))
		return false;
	return feature[kind] < 0 || h->offered & BIT_ULL(feature[kind]);
}

static void fake_vq_interrupt(struct irq_work *work)
{
	struct fake_vq *q = container_of(work, struct fake_vq, irq);

	if (q->vq)
		vring_interrupt(0, q->vq);
}

static void fake_config_interrupt(struct irq_work *work)
{
	struct fake_host *h = container_of(work, struct fake_host, config_irq);

	virtio_config_changed(&h->vdev);
}

static void fake_kick(struct fake_host *h)
{
	atomic_set(&h->kicked, 1);
	wake_up(&h->kick);
}

static bool fake_notify(struct virtqueue *vq)
{
	struct fake_host *h = to_fake(vq->vdev);
	unsigned int kind;

	for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
		if (h->q[kind].vq == vq)
			atomic_inc(&h->q[kind].nr_notified);
	if (!(h->status & VIRTIO_CONFIG_S_DRIVER_OK))
		fake_error(h, "notified before DRIVER_OK");
	if (READ_ONCE(h->deaf))
		return false;
	fake_kick(h);
	return true;
}

static void fake_get(struct virtio_device *vdev, unsigned int offset, void *buf,
		     unsigned int len)
{
	struct fake_host *h = to_fake(vdev);

	if (WARN_ON_ONCE(offset + len > sizeof(h->config)))
		return;
	if (!READ_ONCE(h->unreadable))
		memcpy(buf, (u8 *)&h->config + offset, len);
}

static void fake_set(struct virtio_device *vdev, unsigned int offset,
		     const void *buf, unsigned int len)
{
	struct fake_host *h = to_fake(vdev);

	if (WARN_ON_ONCE(offset + len > sizeof(h->config)))
		return;
	memcpy((u8 *)&h->config + offset, buf, len);
	if (offset == offsetof(struct virtio_balloon_config, poison_val)) {
		if (!virtio_has_feature(vdev, VIRTIO_BALLOON_F_PAGE_POISON))
			fake_error(h, "poison_val written, but not negotiated");
		if (h->status & VIRTIO_CONFIG_S_DRIVER_OK)
			fake_error(h, "poison_val written after DRIVER_OK");
	}
	if (offset == offsetof(struct virtio_balloon_config, actual)) {
		h->nr_actual_writes++;
		if (len != sizeof(h->config.actual))
			fake_error(h, "actual not written in one piece");
	}
}

static u8 fake_get_status(struct virtio_device *vdev)
{
	struct fake_host *h = to_fake(vdev);

	if (READ_ONCE(h->gone))
		return 0xff;
	return h->status |
	       (READ_ONCE(h->needs_reset) ? VIRTIO_CONFIG_S_NEEDS_RESET : 0);
}

static void fake_set_status(struct virtio_device *vdev, u8 status)
{
	/* The device's own bit is not the driver's to write. */
	to_fake(vdev)->status = status & ~VIRTIO_CONFIG_S_NEEDS_RESET;
}

static void fake_forget(struct fake_host *h)
{
	unsigned int kind;

	for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
		h->q[kind].nr_heads = 0;
	fake_books_reset();
}

/* From here on the host touches nothing, and has forgotten everything. */
static void fake_reset(struct virtio_device *vdev)
{
	struct fake_host *h = to_fake(vdev);

	fake_wait(!READ_ONCE(h->hold_reset));
	mutex_lock(&h->lock);
	if (h->status & VIRTIO_CONFIG_S_DRIVER_OK)
		h->nr_resets++;
	h->status = 0;
	WRITE_ONCE(h->needs_reset, false);
	h->lies = false;
	h->stats_head = -1;
	h->config.poison_val = 0;
	fake_forget(h);
	mutex_unlock(&h->lock);
}

static void fake_del_vqs(struct virtio_device *vdev)
{
	struct fake_host *h = to_fake(vdev);
	unsigned int kind;

	mutex_lock(&h->lock);
	for (kind = 0; kind < FAKE_NR_QUEUES; kind++) {
		struct fake_vq *q = &h->q[kind];

		if (!q->vq)
			continue;
		irq_work_sync(&q->irq);
		vring_del_virtqueue(q->vq);
		q->vq = NULL;
		free_pages_exact(q->ring, vring_size(q->num, FAKE_ALIGN));
	}
	mutex_unlock(&h->lock);
}

static int fake_setup_vq(struct fake_host *h, enum fake_queue kind,
			 unsigned int index, const struct virtqueue_info *info)
{
	struct fake_vq *q = &h->q[kind];
	size_t size;

	q->num = h->ring_size[kind];
	q->next = 0;
	size = vring_size(q->num, FAKE_ALIGN);
	q->ring = alloc_pages_exact(size, GFP_KERNEL | __GFP_ZERO);
	if (!q->ring)
		return -ENOMEM;
	q->vq = vring_new_virtqueue(index, q->num, FAKE_ALIGN, &h->vdev, true,
				    info->ctx, q->ring, fake_notify,
				    info->callback, info->name);
	if (q->vq)
		return 0;
	free_pages_exact(q->ring, size);
	return -ENOMEM;
}

/* The n-th named queue is the n-th that the device has. */
static int fake_find_vqs(struct virtio_device *vdev, unsigned int nvqs,
			 struct virtqueue *vqs[], VBAL_WANTED_VQS,
			 struct irq_affinity *desc)
{
	struct fake_host *h = to_fake(vdev);
	unsigned int kind = 0, index = 0, i;
	int ret = 0;

	for (i = 0; i < nvqs && !ret; i++) {
		struct virtqueue_info wanted_vq = VBAL_WANTED_VQ(i);

		vqs[i] = NULL;
		if (!wanted_vq.name)
			continue;
		while (kind < FAKE_NR_QUEUES && !fake_has_queue(h, kind))
			kind++;
		if (kind == FAKE_NR_QUEUES)
			ret = -ENOENT;
		else if (kind == h->fail_queue)
			ret = h->fail_error;
		else
			ret = fake_setup_vq(h, kind, index++, &wanted_vq);
		if (!ret)
			vqs[i] = h->q[kind++].vq;
	}
	if (ret)
		fake_del_vqs(vdev);
	return ret;
}

static u64 fake_get_features(struct virtio_device *vdev)
{
	return to_fake(vdev)->offered;
}

static int fake_finalize_features(struct virtio_device *vdev)
{
	vring_transport_features(vdev);
	if (vdev->features & ~to_fake(vdev)->offered)
		fake_error(to_fake(vdev), "accepted what was not offered");
	return 0;
}

static const char *fake_bus_name(struct virtio_device *vdev)
{
	return "fake";
}

static const struct virtio_config_ops fake_ops = {
	.get = fake_get,
	.set = fake_set,
	.get_status = fake_get_status,
	.set_status = fake_set_status,
	.reset = fake_reset,
	.find_vqs = fake_find_vqs,
	.del_vqs = fake_del_vqs,
	.get_features = fake_get_features,
	.finalize_features = fake_finalize_features,
	.bus_name = fake_bus_name,
};

/* Buffers ----------------------------------------------------------------- */

/* What a discard does to a page: KASAN tells if it is not the driver's. */
static void fake_discard_page(struct page *page)
{
	u64 *content = page_address(page);

	WRITE_ONCE(*content, FAKE_DISCARDED);
}

/* The same to one that is free, which KASAN allows nobody. */
static void __no_sanitize_address fake_discard_free_page(struct page *page)
{
	u64 *content = page_address(page);

	WRITE_ONCE(*content, FAKE_DISCARDED);
}

/* The first, the last, and some between. */
static void fake_discard(struct page *page, unsigned long nr_pages,
			 void (*discard)(struct page *page))
{
	unsigned long i;

	for (i = 0; i < nr_pages; i += FAKE_DISCARD_STRIDE)
		discard(page + i);
	if (nr_pages)
		discard(page + nr_pages - 1);
}

static void fake_give(struct fake_host *h, u32 frame)
{
	fake_books_give_pfn(frame);
	if (pfn_valid(frame))
		fake_discard_page(pfn_to_page(frame));
}

static void fake_take(struct fake_host *h, u32 frame)
{
	fake_books_take_pfn(frame);
	/* Not the guest's to use before the host has answered. */
	if (virtio_has_feature(&h->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST))
		fake_discard_page(pfn_to_page(frame));
}

static void fake_pfns(struct fake_host *h, enum fake_queue kind, void *buf,
		      unsigned int len)
{
	__virtio32 *pfns = buf;
	unsigned int i;

	if (!len || len > 1024 || len % sizeof(*pfns))
		fake_error(h, "a PFN buffer of a wrong length");
	for (i = 0; i < len / sizeof(*pfns); i++) {
		u32 frame = virtio32_to_cpu(&h->vdev, pfns[i]);

		if (kind == FAKE_INFLATE)
			fake_give(h, frame);
		else
			fake_take(h, frame);
	}
}

static void fake_pfns_answered(struct fake_host *h, void *buf, unsigned int len)
{
	__virtio32 *pfns = buf;
	unsigned int i;

	for (i = 0; i < len / sizeof(*pfns); i++)
		fake_books_answer_pfn(virtio32_to_cpu(&h->vdev, pfns[i]));
}

static void fake_check_range(struct fake_host *h, void *buf, unsigned int len)
{
	if (!len || len % PAGE_SIZE || offset_in_page(buf))
		fake_error(h, "a range that is not whole pages");
	h->nr_range_bytes += len;
}

/* Free page reporting: nobody's pages, which the kernel keeps meanwhile. */
static void fake_report_free(struct fake_host *h, struct page *page,
			     unsigned long nr_pages)
{
	fake_books_lend(page, nr_pages);
	h->nr_reported += nr_pages;
	if (PageBuddy(page))
		fake_error(h, "a range that others may have by now");
	/* A host that knows what freed pages hold keeps them, as QEMU does. */
	if (h->config.poison_val)
		return;
	fake_discard(page, nr_pages, fake_discard_free_page);
}

/* Held blocks are the driver's own. */
static void fake_report(struct fake_host *h, void *buf, unsigned int len)
{
	struct page *page = virt_to_page(buf);

	fake_check_range(h, buf, len);
	if (!page_count(page)) {
		fake_report_free(h, page, len / PAGE_SIZE);
		return;
	}
	if (h->config.poison_val)
		fake_error(h, "a block given to a host that keeps it");
	fake_books_give_range(page, len / PAGE_SIZE);
	fake_discard(page, len / PAGE_SIZE, fake_discard_page);
}

static void fake_stats(struct fake_host *h, void *buf, unsigned int len)
{
	struct virtio_balloon_stat *stat = buf;
	unsigned int i;

	if (len % sizeof(*stat))
		fake_error(h, "statistics of a wrong length");
	h->nr_tags = min_t(unsigned int, len / sizeof(*stat), FAKE_NR_TAGS);
	for (i = 0; i < h->nr_tags; i++) {
		u16 tag = virtio16_to_cpu(&h->vdev, stat[i].tag);

		h->tags[i] = tag;
		if (tag < FAKE_NR_TAGS)
			h->stat[tag] = virtio64_to_cpu(&h->vdev, stat[i].val);
	}
	h->nr_stats++;
}

static void fake_hint(struct fake_host *h, void *buf, unsigned int len, bool in)
{
	if (in) {
		struct page *page = virt_to_page(buf);

		h->nr_hinted++;
		fake_check_range(h, buf, len);
		fake_books_lend(page, len / PAGE_SIZE);
		fake_discard(page, len / PAGE_SIZE, fake_discard_page);
		return;
	}
	if (len != sizeof(u32))
		fake_error(h, "a hint command of a wrong length");
	if (h->nr_cmds < FAKE_NR_CMDS)
		h->cmds[h->nr_cmds++] =
			virtio32_to_cpu(&h->vdev, *(__virtio32 *)buf);
}

typedef void(fake_buffer_fn)(struct fake_host *h, enum fake_queue kind,
			     void *buf, unsigned int len, bool in);

static void fake_read(struct fake_host *h, enum fake_queue kind, void *buf,
		      unsigned int len, bool in)
{
	switch (kind) {
	case FAKE_INFLATE:
	case FAKE_DEFLATE:
		if (in)
			fake_error(h, "PFNs in a buffer for writing");
		fake_pfns(h, kind, buf, len);
		break;
	case FAKE_STATS:
		fake_stats(h, buf, len);
		break;
	case FAKE_HINT:
		fake_hint(h, buf, len, in);
		break;
	case FAKE_REPORT:
		fake_report(h, buf, len);
		break;
	default:
		break;
	}
}

static void fake_answered(struct fake_host *h, enum fake_queue kind, void *buf,
			  unsigned int len, bool in)
{
	if (kind == FAKE_INFLATE || kind == FAKE_DEFLATE)
		fake_pfns_answered(h, buf, len);
	else if (in)
		fake_books_answer_range(virt_to_page(buf), len / PAGE_SIZE);
}

static struct vring fake_vring(struct fake_vq *q)
{
	struct vring vring;

	vring_init(&vring, q->num, q->ring, FAKE_ALIGN);
	return vring;
}

static void fake_walk_chain(struct fake_host *h, enum fake_queue kind, u16 head,
			    fake_buffer_fn *what)
{
	struct vring vring = fake_vring(&h->q[kind]);
	unsigned int nr_descs = 0;
	u16 flags, i = head;

	/* What stands there now may be about pages that others have. */
	if (h->lies)
		return;
	do {
		struct vring_desc *desc = &vring.desc[i % vring.num];

		flags = virtio16_to_cpu(&h->vdev, desc->flags);
		what(h, kind,
		     phys_to_virt(virtio64_to_cpu(&h->vdev, desc->addr)),
		     virtio32_to_cpu(&h->vdev, desc->len),
		     flags & VRING_DESC_F_WRITE);
		i = virtio16_to_cpu(&h->vdev, desc->next);
		if (++nr_descs > vring.num) {
			fake_error(h, "a chain without end");
			return;
		}
	} while (flags & VRING_DESC_F_NEXT);
	if (nr_descs > 1 && kind != FAKE_REPORT)
		fake_error(h, "more than one descriptor in a buffer");
}

static void fake_put_used_elem(struct fake_host *h, struct fake_vq *q, u32 id,
			       u32 len)
{
	struct vring vring = fake_vring(q);
	u16 idx = virtio16_to_cpu(&h->vdev, vring.used->idx);
	vring_used_elem_t *elem = &vring.used->ring[idx % vring.num];

	elem->id = cpu_to_virtio32(&h->vdev, id);
	elem->len = cpu_to_virtio32(&h->vdev, len);
	/* The entry before its index. */
	smp_wmb();
	WRITE_ONCE(vring.used->idx, cpu_to_virtio16(&h->vdev, idx + 1));
	q->nr_used++;
}

static void fake_put_used(struct fake_host *h, struct fake_vq *q, u16 head)
{
	fake_put_used_elem(h, q, head, h->used_len);
}

static bool fake_wants_irq(struct fake_host *h, struct fake_vq *q, u16 old)
{
	struct vring vring = fake_vring(q);
	u16 new = virtio16_to_cpu(&h->vdev, vring.used->idx), event;

	/* The index before the look at what the driver wants. */
	smp_mb();
	if (!virtio_has_feature(&h->vdev, VIRTIO_RING_F_EVENT_IDX))
		return new != old &&
		       !(virtio16_to_cpu(&h->vdev,
					 READ_ONCE(vring.avail->flags)) &
			 VRING_AVAIL_F_NO_INTERRUPT);
	event = virtio16_to_cpu(&h->vdev, READ_ONCE(vring_used_event(&vring)));
	return vring_need_event(event, new, old);
}

static void fake_answer(struct fake_host *h, struct fake_vq *q, u16 head)
{
	fake_put_used(h, q, head);
	if (h->twice)
		fake_put_used(h, q, head);
}

static void fake_use(struct fake_host *h, enum fake_queue kind, u16 head)
{
	fake_walk_chain(h, kind, head, fake_answered);
	fake_answer(h, &h->q[kind], head);
}

/* Statistics wait in the host's hands until it asks for new ones. */
static bool fake_keeps(struct fake_host *h, enum fake_queue kind, u16 head)
{
	if (kind != FAKE_STATS)
		return false;
	if (h->stats_head >= 0)
		fake_error(h, "two statistics buffers at once");
	h->stats_head = head;
	return true;
}

static u16 fake_avail_idx(struct fake_host *h, struct vring *vring)
{
	u16 idx = virtio16_to_cpu(&h->vdev, READ_ONCE(vring->avail->idx));

	/* The index before the entries. */
	smp_rmb();
	return idx;
}

static u16 fake_next_head(struct fake_host *h, struct fake_vq *q,
			  struct vring *vring)
{
	u16 i = q->next++ % vring->num;

	return virtio16_to_cpu(&h->vdev, vring->avail->ring[i]);
}

/* Read what is there, as far as the budget goes. */
static void fake_read_queue(struct fake_host *h, enum fake_queue kind)
{
	struct fake_vq *q = &h->q[kind];
	struct vring vring = fake_vring(q);

	while (q->budget > 0 && q->next != fake_avail_idx(h, &vring) &&
	       q->nr_heads < FAKE_LOOK) {
		u16 head = fake_next_head(h, q, &vring);

		if (q->budget != FAKE_UNLIMITED)
			q->budget--;
		fake_walk_chain(h, kind, head, fake_read);
		if (!fake_keeps(h, kind, head))
			q->heads[q->nr_heads++] = head;
	}
}

/* True if more has come meanwhile. */
static bool fake_announce(struct fake_host *h, struct fake_vq *q)
{
	struct vring vring = fake_vring(q);

	if (!virtio_has_feature(&h->vdev, VIRTIO_RING_F_EVENT_IDX))
		return false;
	vring_avail_event(&vring) = cpu_to_virtio16(&h->vdev, q->next);
	/* Announced before the last look. */
	smp_mb();
	return q->budget > 0 && q->nr_heads < FAKE_LOOK &&
	       q->next != fake_avail_idx(h, &vring);
}

/* Use what was read, in some order. */
static void fake_use_queue(struct fake_host *h, enum fake_queue kind)
{
	struct fake_vq *q = &h->q[kind];
	unsigned int i, nr_heads = q->nr_heads;

	for (i = 0; i < nr_heads; i++)
		fake_use(h, kind, q->heads[h->reverse ? nr_heads - 1 - i : i]);
	q->nr_heads = 0;
	if (nr_heads == FAKE_LOOK)
		fake_kick(h);
}

/* A device that the driver has called failed serves nobody until it is reset. */
static bool fake_is_served(struct fake_host *h)
{
	return (h->status &
		(VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_FAILED)) ==
	       VIRTIO_CONFIG_S_DRIVER_OK;
}

/* One look at a queue. */
static void fake_walk_queue(struct fake_host *h, enum fake_queue kind)
{
	struct fake_vq *q = &h->q[kind];
	bool tell;
	struct vring vring;
	u16 old;

	if (!q->vq || READ_ONCE(h->gone) || !fake_is_served(h))
		return;
	/* Not before: the core asks the driver for its features. */
	tell = virtio_has_feature(&h->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST);
	fake_books_must_tell(tell);
	vring = fake_vring(q);
	old = virtio16_to_cpu(&h->vdev, vring.used->idx);
	do
		fake_read_queue(h, kind);
	while (fake_announce(h, q));
	if (!q->lazy)
		fake_use_queue(h, kind);
	if (fake_wants_irq(h, q, old))
		irq_work_queue(&q->irq);
}

static int fake_thread(void *data)
{
	struct fake_host *h = data;
	unsigned int kind;

	while (!kthread_should_stop()) {
		wait_event_interruptible(h->kick,
					 atomic_xchg(&h->kicked, 0) ||
						 kthread_should_stop());
		mutex_lock(&h->lock);
		for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
			fake_walk_queue(h, kind);
		mutex_unlock(&h->lock);
	}
	return 0;
}

/* Life -------------------------------------------------------------------- */

static void fake_release(struct device *dev)
{
	complete(&to_fake(dev_to_virtio(dev))->released);
}

/* A prompt host with QEMU's ring sizes, not yet plugged in. */
struct fake_host *fake_host_create(u64 features)
{
	struct fake_host *h = kzalloc(sizeof(*h), GFP_KERNEL);
	unsigned int kind;

	if (!h)
		return NULL;
	h->offered = features;
	h->fail_queue = -1;
	h->fail_error = -EIO;
	h->stats_head = -1;
	mutex_init(&h->lock);
	init_waitqueue_head(&h->kick);
	init_completion(&h->released);
	init_irq_work(&h->config_irq, fake_config_interrupt);
	for (kind = 0; kind < FAKE_NR_QUEUES; kind++) {
		h->ring_size[kind] = kind == FAKE_REPORT ? 32 : 128;
		h->q[kind].budget = FAKE_UNLIMITED;
		init_irq_work(&h->q[kind].irq, fake_vq_interrupt);
	}
	h->root = __root_device_register("vballoon_fake_host", NULL);
	if (IS_ERR(h->root))
		goto err_free;
	h->thread = kthread_run(fake_thread, h, "fake_host");
	if (IS_ERR(h->thread))
		goto err_root;
	return h;

err_root:
	root_device_unregister(h->root);
err_free:
	kfree(h);
	return NULL;
}

/* The driver, if one is registered, has probed when this returns. */
int fake_host_plug(struct fake_host *h)
{
	memset(&h->vdev, 0, sizeof(h->vdev));
	reinit_completion(&h->released);
	h->vdev.dev.parent = h->root;
	h->vdev.dev.release = fake_release;
	h->vdev.id.device = VIRTIO_ID_BALLOON;
	h->vdev.id.vendor = 0x1af4;
	h->vdev.config = &fake_ops;
	return register_virtio_device(&h->vdev);
}

void fake_host_unplug(struct fake_host *h)
{
	irq_work_sync(&h->config_irq);
	unregister_virtio_device(&h->vdev);
	wait_for_completion(&h->released);
}

/* Unplugged before. */
void fake_host_destroy(struct fake_host *h)
{
	kthread_stop(h->thread);
	irq_work_sync(&h->config_irq);
	root_device_unregister(h->root);
	kfree(h);
}

bool fake_host_bound(struct fake_host *h)
{
	return h->vdev.dev.driver;
}

/* A device whose driver is not up tells it nothing. */
void fake_host_config_irq(struct fake_host *h)
{
	if (h->status & VIRTIO_CONFIG_S_DRIVER_OK)
		irq_work_queue(&h->config_irq);
}

void fake_host_set_target(struct fake_host *h, u32 nr_frames)
{
	WRITE_ONCE(h->config.num_pages, cpu_to_le32(nr_frames));
	fake_host_config_irq(h);
}

void fake_host_set_hint_cmd(struct fake_host *h, u32 cmd)
{
	WRITE_ONCE(h->config.free_page_hint_cmd_id, cpu_to_le32(cmd));
	fake_host_config_irq(h);
}

void fake_host_set_budget(struct fake_host *h, enum fake_queue kind, int budget)
{
	mutex_lock(&h->lock);
	h->q[kind].budget = budget;
	mutex_unlock(&h->lock);
	fake_kick(h);
}

/* A lazy host reads buffers, and does what they say, but does not answer. */
void fake_host_set_lazy(struct fake_host *h, enum fake_queue kind, bool lazy)
{
	mutex_lock(&h->lock);
	h->q[kind].lazy = lazy;
	mutex_unlock(&h->lock);
	fake_kick(h);
}

void fake_host_silence(struct fake_host *h)
{
	unsigned int kind;

	for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
		fake_host_set_budget(h, kind, 0);
}

void fake_host_speak(struct fake_host *h)
{
	unsigned int kind;

	for (kind = 0; kind < FAKE_NR_QUEUES; kind++) {
		fake_host_set_lazy(h, kind, false);
		fake_host_set_budget(h, kind, FAKE_UNLIMITED);
	}
}

void fake_host_needs_reset(struct fake_host *h)
{
	WRITE_ONCE(h->needs_reset, true);
	fake_host_config_irq(h);
}

/* A device that is not there reads as ones, says nothing and hears nothing. */
void fake_host_pull_out(struct fake_host *h)
{
	/* First: one that is only broken would be reset before it is gone. */
	smp_store_mb(h->gone, true);
	mutex_lock(&h->lock);
	fake_forget(h);
	mutex_unlock(&h->lock);
	virtio_break_device(&h->vdev);
}

/* Give the statistics buffer back: please fill it anew. */
bool fake_host_ask_stats(struct fake_host *h)
{
	struct fake_vq *q = &h->q[FAKE_STATS];
	bool asked = false;

	mutex_lock(&h->lock);
	if (q->vq && h->stats_head >= 0) {
		fake_answer(h, q, h->stats_head);
		h->stats_head = -1;
		irq_work_queue(&q->irq);
		asked = true;
	}
	mutex_unlock(&h->lock);
	return asked;
}

/* Answer what need not have been asked. */
void fake_host_forge(struct fake_host *h, enum fake_queue kind, u32 id, u32 len)
{
	struct fake_vq *q = &h->q[kind];

	mutex_lock(&h->lock);
	if (q->vq && h->status & VIRTIO_CONFIG_S_DRIVER_OK) {
		h->lies = true;
		fake_put_used_elem(h, q, id, len);
		irq_work_queue(&q->irq);
	}
	mutex_unlock(&h->lock);
}

u32 fake_host_actual(struct fake_host *h)
{
	return le32_to_cpu(READ_ONCE(h->config.actual));
}
