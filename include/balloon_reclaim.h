/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_RECLAIM_H
#define _VBALLOON_RECLAIM_H

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "balloon_compat.h"

/*
 * A whole block: 2 MiB, a huge page of the usual host, or what a kernel has that
 * knows none so large.
 */
#define VBAL_2M_ORDER (ilog2(SZ_2M) - PAGE_SHIFT)
#define VBAL_BLOCK_ORDER \
	((VBAL_2M_ORDER) < MAX_PAGE_ORDER ? VBAL_2M_ORDER : MAX_PAGE_ORDER)
/* Reclaim is asked for by blocks so large that they come out of it whole. */
#define VBAL_RECLAIM_ORDER MAX_PAGE_ORDER
#define VBAL_RECLAIM_PAGES BIT(VBAL_RECLAIM_ORDER)

/* Without the core's help nothing of ours may stand where all has to move. */
#define VBAL_GFP_ZONE \
	(VBAL_PAGES_CAN_MOVE ? __GFP_HIGHMEM | __GFP_MOVABLE : __GFP_HIGHMEM)

/* More than this does not wait in pieces to be merged. */
#define VBAL_PIECES_MAX_PAGES ((unsigned long)SZ_128M >> PAGE_SHIFT)

/* How vbal_reclaim_take() takes; may be combined. */
#define VBAL_TAKE_PIECES BIT(0)
#define VBAL_TAKE_SLAB BIT(1)
#define VBAL_TAKE_LAST BIT(2)

/**
 * struct vbal_reclaim - memory that is made free by dropping page cache
 * @helper: reclaims beside the size worker
 * @lock: protects @open, @made and @pins
 * @open: blocks may be put on these
 * @made: free blocks of VBAL_RECLAIM_ORDER that came out of reclaim
 * @pins: single pages that keep free blocks below VBAL_RECLAIM_ORDER
 * @wanted: pages that are still to be made; the helper ends at 0
 * @limit: free pages, in whatever pieces, at which that is enough
 * @nid: of which node; WRITE_ONCE by the size worker
 * @end: until when, in jiffies; likewise
 * @gfp: by which means; likewise
 * @nr_stalls: allocation stalls that were our own
 */
struct vbal_reclaim {
	struct work_struct helper;
	spinlock_t lock;
	bool open;
	struct list_head made;
	struct list_head pins;
	atomic_long_t wanted;
	unsigned long limit;
	int nid;
	unsigned long end;
	gfp_t gfp;
	atomic_long_t nr_stalls;
};

unsigned long vbal_zone_room(struct zone *zone);
unsigned long vbal_node_room(int nid);
unsigned long vbal_reclaim_largest(void);
unsigned long vbal_reclaim_pieces(unsigned int end_order);
struct page *vbal_reclaim_take(gfp_t gfp, unsigned int order, unsigned int how);
struct page *vbal_reclaim_alloc(struct vbal_reclaim *r, int nid, gfp_t gfp,
				unsigned int order);

void vbal_reclaim_free_but_first(struct page *page);
void vbal_reclaim_init(struct vbal_reclaim *r);
bool vbal_reclaim_make(struct vbal_reclaim *r, unsigned long nr_pages,
		       unsigned long limit, gfp_t gfp);
struct page *vbal_reclaim_pop(struct vbal_reclaim *r);
void vbal_reclaim_end(struct vbal_reclaim *r);
void vbal_reclaim_stop(struct vbal_reclaim *r);

/**
 * vbal_reclaim_stalls() - how often the balloon itself had to reclaim
 * @r: the reclaim
 *
 * The kernel counts these among the guest's allocation stalls.
 */
static inline unsigned long vbal_reclaim_stalls(struct vbal_reclaim *r)
{
	return atomic_long_read(&r->nr_stalls);
}

#endif /* _VBALLOON_RECLAIM_H */
