// SPDX-License-Identifier: GPL-2.0-only
/*
 * Room: what is free in zones and nodes, and how more becomes free. Knows
 * neither the balloon nor the guard.
 *
 * A module can have page cache dropped only by asking for a page that is not
 * there. Asked for single pages, reclaim takes its detour for each 32 of them,
 * and what was a large block comes out in pieces. So it is asked for the
 * largest blocks: the kernel merges what it frees, and whole blocks come out.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "balloon_reclaim.h"

#include <linux/cpumask.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/vmstat.h>

/* So long at most until somebody looks at target, guest and stop again. */
#define VBAL_RECLAIM_STROKE_MS 10
/* One call of ours into reclaim counts as so many stalls at most. */
#define VBAL_RECLAIM_STALLS 3UL
/* So many calls in vain, and there is nothing to reclaim. */
#define VBAL_RECLAIM_IN_VAIN 4

/**
 * vbal_zone_room() - what a zone can give without waking kswapd
 * @zone: the zone
 *
 * As the kernel's own watermarks: neither what is kept for atomic allocations
 * nor free CMA pages, which others cannot use, count as free.
 *
 * Context: any; takes no lock.
 * Return: free pages beyond the high watermark and the lowmem reserve.
 */
unsigned long vbal_zone_room(struct zone *zone)
{
	unsigned long free = zone_page_state(zone, NR_FREE_PAGES);
	unsigned long keep = high_wmark_pages(zone) +
			     zone->lowmem_reserve[ZONE_MOVABLE] +
			     zone->nr_reserved_highatomic +
			     zone_page_state(zone, NR_FREE_CMA_PAGES);

	return free > keep ? free - keep : 0;
}

/**
 * vbal_node_room() - what a node can give without waking kswapd
 * @nid: the node, online
 *
 * Context: any; takes no lock.
 * Return: pages, the sum over those of its zones that may be asked.
 */
unsigned long vbal_node_room(int nid)
{
	struct zone *zones = NODE_DATA(nid)->node_zones;
	unsigned long nr_pages = 0;
	int i;

	for (i = 0; i <= gfp_zone(VBAL_GFP_ZONE); i++)
		if (managed_zone(&zones[i]))
			nr_pages += vbal_zone_room(&zones[i]);
	return nr_pages;
}

/* The node of those not tried that has most by @measure; NUMA_NO_NODE: none is left. */
static int vbal_reclaim_best_node(const nodemask_t *tried,
				  unsigned long (*measure)(int nid))
{
	unsigned long best_pages = 0, nr_pages;
	int nid, best = NUMA_NO_NODE;

	for_each_node_state(nid, N_MEMORY) {
		if (node_isset(nid, *tried))
			continue;
		nr_pages = measure(nid);
		if (best == NUMA_NO_NODE || nr_pages > best_pages) {
			best_pages = nr_pages;
			best = nid;
		}
	}
	return best;
}

/**
 * vbal_reclaim_largest() - how much there is in one place
 *
 * Context: any; takes no lock.
 * Return: pages that the freest node can give without waking kswapd.
 */
unsigned long vbal_reclaim_largest(void)
{
	nodemask_t none = NODE_MASK_NONE;
	int nid = vbal_reclaim_best_node(&none, vbal_node_room);

	return nid == NUMA_NO_NODE ? 0 : vbal_node_room(nid);
}

static unsigned long vbal_zone_pieces(const struct zone *zone,
				      unsigned int end_order)
{
	unsigned long nr_pages = 0;
	unsigned int order;

	for (order = 0; order < end_order; order++)
		nr_pages += READ_ONCE(zone->free_area[order].nr_free) << order;
	return nr_pages;
}

/**
 * vbal_reclaim_pieces() - how much is free in pieces
 * @end_order: smaller than this
 *
 * Context: any; takes no lock.
 * Return: pages, over all zones that may be asked.
 */
unsigned long vbal_reclaim_pieces(unsigned int end_order)
{
	unsigned long nr_pages = 0;
	struct zone *zones;
	int nid, i;

	for_each_online_node(nid) {
		zones = NODE_DATA(nid)->node_zones;
		for (i = 0; i <= gfp_zone(VBAL_GFP_ZONE); i++)
			if (managed_zone(&zones[i]))
				nr_pages +=
					vbal_zone_pieces(&zones[i], end_order);
	}
	return nr_pages;
}

/*
 * The allocator would go down to the min watermark of the highest zone before
 * it turns to the next: it has to be told which zone has something to spare.
 */
static gfp_t vbal_zone_gfp(enum zone_type type)
{
	switch (type) {
#ifdef CONFIG_ZONE_DMA
	case ZONE_DMA:
		return __GFP_DMA;
#endif
#ifdef CONFIG_ZONE_DMA32
	case ZONE_DMA32:
		return __GFP_DMA32;
#endif
	case ZONE_NORMAL:
		return 0;
	default:
		return __GFP_HIGHMEM;
	}
}

/* @kind: __GFP_MOVABLE, __GFP_RECLAIMABLE or neither. */
static unsigned int vbal_kind_type(gfp_t kind)
{
	if (kind == __GFP_MOVABLE)
		return MIGRATE_MOVABLE;
	return kind == __GFP_RECLAIMABLE ? MIGRATE_RECLAIMABLE :
					   MIGRATE_UNMOVABLE;
}

static bool vbal_zone_lists(struct zone *zone, unsigned int type,
			    unsigned int order, unsigned int end)
{
	for (; order < end; order++)
		if (!list_empty(&zone->free_area[order].free_list[type]))
			return true;
	return false;
}

/*
 * Would the allocator find a block of just that size, of the kind it is asked for?
 *
 * Up to PAGE_ALLOC_COSTLY_ORDER it serves from a list of the CPU's, and fills that by
 * the dozen: what is missing for it comes out of a larger block, the rest of which
 * would be the next piece. So the small ones are taken as single pages, of whatever
 * size the list was filled from.
 */
static bool vbal_zone_has_piece(struct zone *zone, unsigned int type,
				unsigned int order)
{
	if (order > PAGE_ALLOC_COSTLY_ORDER)
		return vbal_zone_lists(zone, type, order, order + 1);
	return !order &&
	       vbal_zone_lists(zone, type, 0, PAGE_ALLOC_COSTLY_ORDER + 1);
}

/* Would the allocator find a block without having to turn to those of another kind? */
static bool vbal_zone_has(struct zone *zone, gfp_t kind, unsigned int order,
			  unsigned int how)
{
	unsigned int type = vbal_kind_type(kind), end = MAX_PAGE_ORDER + 1;

	if (how & VBAL_TAKE_PIECES)
		return vbal_zone_has_piece(zone, type, order);
	return vbal_zone_lists(zone, type, order, end) ||
	       (type == MIGRATE_MOVABLE &&
		vbal_zone_lists(zone, VBAL_MIGRATE_CMA, order, end));
}

/* A block, unless its zone would be left with less than it needs. */
static struct page *vbal_zone_alloc(struct zone *zone, gfp_t gfp,
				    unsigned int order)
{
	struct page *page = alloc_pages_node(zone_to_nid(zone), gfp, order);

	if (!page || vbal_zone_room(page_zone(page)))
		return page;
	__free_pages(page, order);
	return NULL;
}

/*
 * What a zone has to have for a block to be had from it, and to be kept. Of blocks
 * of 2 MiB the CPU's list takes two at a time, and what lies there, as what has
 * been given back, does not count as free.
 */
static unsigned long vbal_zone_needs(unsigned int order)
{
	return (order == VBAL_BLOCK_ORDER ? 2UL : 1UL) << order;
}

/* What is asked for there, and may move, would come from ZONE_MOVABLE. */
static bool vbal_zone_is_below_movable(struct zone *zone)
{
	return zone_idx(zone) > ZONE_NORMAL && zone_idx(zone) < ZONE_MOVABLE &&
	       managed_zone(&zone->zone_pgdat->node_zones[ZONE_MOVABLE]);
}

/*
 * By the kind that has it. Who is given a block of another kind than he asks for
 * may have the page block turned over to his, and the zone's watermarks raised until
 * kswapd, which the balloon does not wake, has made room; or, to keep kinds apart,
 * is given one of a lower zone instead. Of the kind first of which there is most, or
 * it is others in the guest who have to do so.
 *
 * Not so the small ones, of which the CPU's lists are filled by the dozen, whatever
 * the kind has: those of the kernel's kinds are left to it, until nothing else is.
 */
static struct page *vbal_zone_take(struct zone *zone, gfp_t gfp,
				   unsigned int order, unsigned int how)
{
	static const gfp_t kinds[][3] = {
		{ __GFP_MOVABLE, 0, __GFP_RECLAIMABLE },
		{ __GFP_RECLAIMABLE, __GFP_MOVABLE, 0 },
	};
	gfp_t movable = vbal_zone_is_below_movable(zone) ? 0 :
							   gfp & __GFP_MOVABLE;
	bool small = order <= PAGE_ALLOC_COSTLY_ORDER &&
		     !(how & VBAL_TAKE_LAST);
	unsigned int i;

	if (vbal_zone_room(zone) <= vbal_zone_needs(order))
		return NULL;
	gfp = (gfp & ~(__GFP_HIGHMEM | __GFP_MOVABLE)) |
	      vbal_zone_gfp(zone_idx(zone)) | __GFP_THISNODE;
	for (i = 0; i < ARRAY_SIZE(kinds[0]); i++) {
		gfp_t kind = kinds[!!(how & VBAL_TAKE_SLAB)][i];

		if (kind == __GFP_MOVABLE) {
			if (!movable)
				continue;
		} else if (small || zone_idx(zone) == ZONE_MOVABLE) {
			continue;
		}
		if (vbal_zone_has(zone, kind, order, how))
			return vbal_zone_alloc(zone, gfp | kind, order);
	}
	/* Where it is not to be asked for as movable, whatever the allocator turns to. */
	if (!movable && !(how & VBAL_TAKE_PIECES))
		return vbal_zone_alloc(zone, gfp, order);
	return NULL;
}

/**
 * vbal_reclaim_take() - take a block where there is most to spare
 * @gfp: movable, without reclaim
 * @order: of so many pages
 * @how: VBAL_TAKE_PIECES: only if no larger block has to be broken for it.
 *	VBAL_TAKE_SLAB: first where dentries and inodes are, or were.
 *	VBAL_TAKE_LAST: where nothing else is left, small ones of the kernel's kinds
 *
 * From the freest node first, so that memory stays level between nodes and no
 * node's last large blocks go while another has some; there from the highest
 * zone first, because the kernel's own allocations need the lower ones.
 *
 * Context: process context.
 * Return: the block; NULL if no zone has one to spare.
 */
struct page *vbal_reclaim_take(gfp_t gfp, unsigned int order, unsigned int how)
{
	nodemask_t tried = NODE_MASK_NONE;
	struct page *page;
	int nid, i;

	for (;;) {
		nid = vbal_reclaim_best_node(&tried, vbal_node_room);
		if (nid == NUMA_NO_NODE)
			return NULL;
		for (i = MAX_NR_ZONES - 1; i >= 0; i--) {
			struct zone *zone = &NODE_DATA(nid)->node_zones[i];

			if (!managed_zone(zone) || i > gfp_zone(gfp))
				continue;
			page = vbal_zone_take(zone, gfp, order, how);
			if (page)
				return page;
			/* The kernel's own zones are not drained for pieces. */
			if (how & VBAL_TAKE_PIECES && i == ZONE_MOVABLE &&
			    vbal_zone_room(zone))
				break;
		}
		node_set(nid, tried);
	}
}

static unsigned long vbal_node_cache(int nid)
{
	atomic_long_t *stat = NODE_DATA(nid)->vm_stat;

	return max(atomic_long_read(&stat[NR_INACTIVE_FILE]), 0L) +
	       max(atomic_long_read(&stat[NR_ACTIVE_FILE]), 0L);
}

/* Made, or pinned, unless that is over meanwhile. */
static bool vbal_reclaim_add(struct vbal_reclaim *r, struct page *page,
			     struct list_head *list)
{
	bool open;

	spin_lock(&r->lock);
	open = r->open;
	if (open)
		list_add_tail(&page->lru, list);
	spin_unlock(&r->lock);
	return open;
}

/**
 * vbal_reclaim_free_but_first() - free all pages of a block but its first
 * @page: a block of VBAL_RECLAIM_ORDER, just allocated
 *
 * Of a block that somebody else has got hold of the allocator keeps just the first
 * page back, and frees the others in the largest pieces. But there are kernels
 * with marks for memory profiling that then find pages without one.
 *
 * Context: process context.
 */
void vbal_reclaim_free_but_first(struct page *page)
{
	unsigned long i;

	if (!IS_ENABLED(CONFIG_MEM_ALLOC_PROFILING_DEBUG)) {
		get_page(page);
		__free_pages(page, VBAL_RECLAIM_ORDER);
		return;
	}
	split_page(page, VBAL_RECLAIM_ORDER);
	for (i = 1; i < VBAL_RECLAIM_PAGES; i++)
		__free_page(page + i);
}

/*
 * A free block that must stay free, but would be handed out again instead of
 * anything being reclaimed: one page of it is kept until the end.
 */
static void vbal_reclaim_pin(struct vbal_reclaim *r, struct page *page)
{
	vbal_reclaim_free_but_first(page);
	if (!vbal_reclaim_add(r, page, &r->pins))
		__free_page(page);
}

static void vbal_reclaim_keep(struct vbal_reclaim *r, struct page *page)
{
	if (vbal_reclaim_add(r, page, &r->made))
		atomic_long_sub(VBAL_RECLAIM_PAGES, &r->wanted);
	else
		__free_pages(page, VBAL_RECLAIM_ORDER);
}

/**
 * vbal_reclaim_alloc() - an allocation that may reclaim
 * @r: the reclaim
 * @nid: the node
 * @gfp: by which means
 * @order: of so many pages
 *
 * Whether it did is counted, lest the guard take it for somebody's need.
 *
 * Context: process context, may sleep.
 * Return: the block or NULL.
 */
struct page *vbal_reclaim_alloc(struct vbal_reclaim *r, int nid, gfp_t gfp,
				unsigned int order)
{
	unsigned int cpu = raw_smp_processor_id();
	unsigned long before = vbal_stalls(vbal_event_here);
	struct page *page = alloc_pages_node(nid, gfp, order);
	unsigned long nr_stalls = vbal_stalls(vbal_event_here) - before;

	if (raw_smp_processor_id() != cpu)
		nr_stalls = 1;
	atomic_long_add(min(nr_stalls, VBAL_RECLAIM_STALLS), &r->nr_stalls);
	return page;
}

/* One call into reclaim. False: it found nothing, but maybe made pieces. */
static bool vbal_reclaim_once(struct vbal_reclaim *r)
{
	struct page *page = vbal_reclaim_alloc(
		r, READ_ONCE(r->nid), READ_ONCE(r->gfp), VBAL_RECLAIM_ORDER);

	if (!page)
		return false;
	if (vbal_zone_room(page_zone(page)))
		vbal_reclaim_keep(r, page);
	else
		vbal_reclaim_pin(r, page);
	return true;
}

/* The last page that a zone has to spare is not had: see vbal_zone_needs(). */
static bool vbal_reclaim_enough(struct vbal_reclaim *r)
{
	unsigned long nr_pages = vbal_node_room(READ_ONCE(r->nid));

	return atomic_long_read(&r->wanted) <= 0 ||
	       (nr_pages > MAX_NR_ZONES &&
		nr_pages - MAX_NR_ZONES >= READ_ONCE(r->limit));
}

/*
 * Until there is enough, it is @r->end, or nothing comes of it any more; once at
 * least, however late it is.
 */
static void vbal_reclaim_stroke(struct vbal_reclaim *r)
{
	unsigned long end = READ_ONCE(r->end);
	unsigned long stolen = vbal_reclaim_sum(PGSTEAL_DIRECT), now;
	unsigned int in_vain = 0;
	bool found;

	while (!vbal_reclaim_enough(r) && in_vain < VBAL_RECLAIM_IN_VAIN) {
		found = vbal_reclaim_once(r);
		now = vbal_reclaim_sum(PGSTEAL_DIRECT);
		in_vain = found || now != stolen ? 0 : in_vain + 1;
		stolen = now;
		if (time_after(jiffies, end))
			break;
		cond_resched();
	}
}

/* On a CPU that has nothing else to do. */
static void vbal_reclaim_help(struct work_struct *work)
{
	struct vbal_reclaim *r =
		container_of(work, struct vbal_reclaim, helper);

	set_user_nice(current, MAX_NICE);
	vbal_reclaim_stroke(r);
	set_user_nice(current, 0);
}

static void vbal_reclaim_open(struct vbal_reclaim *r, unsigned long nr_pages,
			      unsigned long limit, gfp_t gfp)
{
	spin_lock(&r->lock);
	r->open = true;
	spin_unlock(&r->lock);
	WRITE_ONCE(r->gfp, gfp);
	WRITE_ONCE(r->limit, limit);
	atomic_long_set(&r->wanted, nr_pages);
}

/**
 * vbal_reclaim_make() - have page cache dropped, in large blocks
 * @r: the reclaim
 * @nr_pages: so much, or what comes within some ms
 * @limit: or until a node has so much free, in whatever pieces
 * @gfp: __GFP_IO: may also write and swap, and compact. __GFP_FS: may also
 *	drop dentries and inodes
 *
 * What comes out is in vbal_reclaim_pop(), or free. Free memory does not fall.
 *
 * Context: size worker.
 * Return: whether a block was made, or page cache dropped; no if there was enough
 * before.
 */
bool vbal_reclaim_make(struct vbal_reclaim *r, unsigned long nr_pages,
		       unsigned long limit, gfp_t gfp)
{
	unsigned long before = vbal_reclaim_sum(PGSTEAL_DIRECT);
	nodemask_t tried = NODE_MASK_NONE;
	bool progress = false, enough = false;
	int nid;

	vbal_reclaim_open(r, nr_pages, limit, gfp);
	while (!progress && !enough) {
		nid = vbal_reclaim_best_node(&tried, vbal_node_cache);
		if (nid == NUMA_NO_NODE)
			break;
		WRITE_ONCE(r->nid, nid);
		WRITE_ONCE(r->end,
			   jiffies + msecs_to_jiffies(VBAL_RECLAIM_STROKE_MS));
		if (num_online_cpus() > 1)
			queue_work(system_unbound_wq, &r->helper);
		vbal_reclaim_stroke(r);
		progress = vbal_reclaim_sum(PGSTEAL_DIRECT) != before ||
			   atomic_long_read(&r->wanted) != (long)nr_pages;
		enough = vbal_reclaim_enough(r);
		node_set(nid, tried);
	}
	return progress;
}

static struct page *vbal_reclaim_pop_locked(struct vbal_reclaim *r)
{
	struct page *page;

	lockdep_assert_held(&r->lock);
	page = list_first_entry_or_null(&r->made, struct page, lru);
	if (page)
		list_del(&page->lru);
	return page;
}

/**
 * vbal_reclaim_pop() - take a block that was made
 * @r: the reclaim
 *
 * Context: size worker.
 * Return: a block of VBAL_RECLAIM_ORDER, or NULL.
 */
struct page *vbal_reclaim_pop(struct vbal_reclaim *r)
{
	struct page *page;

	spin_lock(&r->lock);
	page = vbal_reclaim_pop_locked(r);
	spin_unlock(&r->lock);
	return page;
}

/**
 * vbal_reclaim_end() - reclaim no more, and free what was made and not taken
 * @r: the reclaim
 *
 * The helper may still be at its last call; what comes of that is free at once.
 *
 * Context: size worker.
 */
void vbal_reclaim_end(struct vbal_reclaim *r)
{
	struct page *page, *next;
	LIST_HEAD(pins);

	atomic_long_set(&r->wanted, 0);
	spin_lock(&r->lock);
	r->open = false;
	list_splice_init(&r->pins, &pins);
	spin_unlock(&r->lock);
	while ((page = vbal_reclaim_pop(r)))
		__free_pages(page, VBAL_RECLAIM_ORDER);
	list_for_each_entry_safe(page, next, &pins, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/**
 * vbal_reclaim_stop() - wait until nobody reclaims any more
 * @r: the reclaim
 *
 * Context: process context, after the size worker has been stopped.
 */
void vbal_reclaim_stop(struct vbal_reclaim *r)
{
	vbal_reclaim_end(r);
	cancel_work_sync(&r->helper);
}

/**
 * vbal_reclaim_init() - nothing made yet
 * @r: the reclaim
 *
 * Context: probe.
 */
void vbal_reclaim_init(struct vbal_reclaim *r)
{
	INIT_WORK(&r->helper, vbal_reclaim_help);
	spin_lock_init(&r->lock);
	INIT_LIST_HEAD(&r->made);
	INIT_LIST_HEAD(&r->pins);
}
