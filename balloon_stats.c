// SPDX-License-Identifier: GPL-2.0-only
/*
 * The host's statistics (virtio 1.2, 5.5.6.3): what the one buffer says and
 * when it is sent again.
 *
 * Always all 16 tags in the same order, so that a host never sees one come or
 * go: a counter that this kernel was built without counts nothing, and says 0.
 * Allocates nothing and waits for nobody.
 */
#include "balloon_stats.h"

#include <linux/mm.h>
#include <linux/vmstat.h>

#include "balloon_trace.h"

static_assert(sizeof(struct virtio_balloon_stat) == 10);

/**
 * struct vbal_stat_source - where the value of one tag comes from
 * @tag: VIRTIO_BALLOON_S_*
 * @shift: PAGE_SHIFT for what the kernel counts in pages, the host in bytes
 * @read: reads it
 * @item: what of @read's many it is
 */
struct vbal_stat_source {
	u16 tag;
	u8 shift;
	u64 (*read)(const struct vbal_stats *st, unsigned int item);
	unsigned int item;
};

static u64 vbal_stats_event(const struct vbal_stats *st, unsigned int item)
{
	return st->events[item];
}

static u64 vbal_stats_reclaim(const struct vbal_stats *st, unsigned int item)
{
	return vbal_reclaim_event(st->events, item);
}

/* The zones' counters are neighbours, whichever zones this kernel has. */
static u64 vbal_stats_stalls(const struct vbal_stats *st, unsigned int item)
{
	u64 nr_stalls = 0;
	unsigned int zone;

	for (zone = 0; zone < MAX_NR_ZONES; zone++)
		nr_stalls += st->events[item - ZONE_NORMAL + zone];
	return nr_stalls;
}

static u64 vbal_stats_free(const struct vbal_stats *st, unsigned int item)
{
	return global_zone_page_state(NR_FREE_PAGES);
}

static u64 vbal_stats_total(const struct vbal_stats *st, unsigned int item)
{
	return totalram_pages();
}

static u64 vbal_stats_available(const struct vbal_stats *st, unsigned int item)
{
	return max(si_mem_available(), 0L);
}

static u64 vbal_stats_caches(const struct vbal_stats *st, unsigned int item)
{
	return global_node_page_state(NR_FILE_PAGES);
}

#ifdef CONFIG_HUGETLB_PAGE
#define vbal_stats_huge vbal_stats_event
#else
#define HTLB_BUDDY_PGALLOC 0
#define HTLB_BUDDY_PGALLOC_FAIL 0

static u64 vbal_stats_huge(const struct vbal_stats *st, unsigned int item)
{
	return 0;
}
#endif

/* Meanings and units as in Linux 6.12's virtio_balloon. */
static const struct vbal_stat_source vbal_stat_sources[VBAL_NR_STATS] = {
	{ VIRTIO_BALLOON_S_SWAP_IN, PAGE_SHIFT, vbal_stats_event, PSWPIN },
	{ VIRTIO_BALLOON_S_SWAP_OUT, PAGE_SHIFT, vbal_stats_event, PSWPOUT },
	{ VIRTIO_BALLOON_S_MAJFLT, 0, vbal_stats_event, PGMAJFAULT },
	{ VIRTIO_BALLOON_S_MINFLT, 0, vbal_stats_event, PGFAULT },
	{ VIRTIO_BALLOON_S_MEMFREE, PAGE_SHIFT, vbal_stats_free },
	{ VIRTIO_BALLOON_S_MEMTOT, PAGE_SHIFT, vbal_stats_total },
	{ VIRTIO_BALLOON_S_AVAIL, PAGE_SHIFT, vbal_stats_available },
	{ VIRTIO_BALLOON_S_CACHES, PAGE_SHIFT, vbal_stats_caches },
	{ VIRTIO_BALLOON_S_HTLB_PGALLOC, 0, vbal_stats_huge,
	  HTLB_BUDDY_PGALLOC },
	{ VIRTIO_BALLOON_S_HTLB_PGFAIL, 0, vbal_stats_huge,
	  HTLB_BUDDY_PGALLOC_FAIL },
	{ VIRTIO_BALLOON_S_OOM_KILL, 0, vbal_stats_event, OOM_KILL },
	{ VIRTIO_BALLOON_S_ALLOC_STALL, 0, vbal_stats_stalls,
	  ALLOCSTALL_NORMAL },
	{ VIRTIO_BALLOON_S_ASYNC_SCAN, PAGE_SHIFT, vbal_stats_reclaim,
	  PGSCAN_KSWAPD },
	{ VIRTIO_BALLOON_S_DIRECT_SCAN, PAGE_SHIFT, vbal_stats_reclaim,
	  PGSCAN_DIRECT },
	{ VIRTIO_BALLOON_S_ASYNC_RECLAIM, PAGE_SHIFT, vbal_stats_reclaim,
	  PGSTEAL_KSWAPD },
	{ VIRTIO_BALLOON_S_DIRECT_RECLAIM, PAGE_SHIFT, vbal_stats_reclaim,
	  PGSTEAL_DIRECT },
};

/* Only while the host does not have the buffer. */
static void vbal_stats_fill(struct vbal_stats *st)
{
	const struct vbal_stat_source *src = vbal_stat_sources;
	struct virtio_device *vdev = st->wire->vdev;
	unsigned int i;

	all_vm_events(st->events);
	for (i = 0; i < VBAL_NR_STATS; i++, src++) {
		u64 value = src->read(st, src->item) << src->shift;

		st->entry[i].tag = cpu_to_virtio16(vdev, src->tag);
		st->entry[i].val = cpu_to_virtio64(vdev, value);
	}
}

static int vbal_stats_send(struct vbal_stats *st)
{
	struct vbal_vq *q = &st->wire->q[VBAL_VQ_STATS];
	struct scatterlist sg;
	int ret;

	vbal_stats_fill(st);
	sg_init_one(&sg, st->entry, sizeof(st->entry));
	ret = vbal_vq_add_out(q, &sg, 1, &st->token);
	if (!ret)
		vbal_vq_notify(q);
	trace_vbal_stats_sent(st->wire->vdev->index, ret);
	return ret;
}

/*
 * The interrupt alone does not prove that the host has returned the buffer:
 * the entries are ours to write only once it is reaped.
 */
static void vbal_stats_work(struct work_struct *work)
{
	struct vbal_stats *st = container_of(work, struct vbal_stats, work);

	if (!READ_ONCE(st->running))
		return;
	vbal_vq_reap(&st->wire->q[VBAL_VQ_STATS]);
	if (vbal_token_done(&st->token) && vbal_stats_send(st))
		dev_dbg(&st->wire->vdev->dev,
			"the host's request came too late\n");
}

/**
 * vbal_stats_init() - prepare for vbal_stats_start()
 * @st: the statistics, zeroed
 * @wire: the way to the host, not connected
 * @wq: runs the work that answers
 *
 * Context: Probe.
 */
void vbal_stats_init(struct vbal_stats *st, struct vbal_wire *wire,
		     struct workqueue_struct *wq)
{
	st->wire = wire;
	INIT_WORK(&st->work, vbal_stats_work);
	vbal_wire_listen(wire, VBAL_VQ_STATS, wq, &st->work);
}

/**
 * vbal_stats_start() - send the host its first buffer
 * @st: the statistics
 *
 * The host returns it to ask for the next (virtio 1.2, 5.5.6.3). Does nothing
 * without STATS_VQ.
 *
 * Context: Connect, after virtio_device_ready(), because it notifies.
 * Return: 0, or what vbal_vq_add_out() said.
 */
int vbal_stats_start(struct vbal_stats *st)
{
	if (!st->wire->q[VBAL_VQ_STATS].vq ||
	    !vbal_wire_has(st->wire, VIRTIO_BALLOON_F_STATS_VQ))
		return 0;
	/* A buffer from before a reset never comes back. */
	st->token.nr_pending = 0;
	WRITE_ONCE(st->running, true);
	return vbal_stats_send(st);
}

/**
 * vbal_stats_stop() - answer no more requests
 * @st: the statistics
 *
 * The buffer may still be with the host.
 *
 * Context: Disconnect, before the reset. Waits for an answer under way.
 */
void vbal_stats_stop(struct vbal_stats *st)
{
	/* A request that comes from now on queues the work for nothing. */
	WRITE_ONCE(st->running, false);
	cancel_work_sync(&st->work);
}
