// SPDX-License-Identifier: GPL-2.0-only
/*
 * The balloon's pages: taking blocks from the allocator, holding them, choosing
 * which to give back, and their accounting. Knows nothing of virtio.
 *
 * A block carries its order in page_private() of its first page while it is on
 * its way. Held blocks stand on a list per order at first: a balloon that moves
 * gives them back as they are. Once it rests they are settled: handed, page by
 * page, to the kernel's balloon core, so that each can make way for others. What
 * comes back from there is put together again. So no memory is ever needed to
 * inflate or deflate but the pages themselves.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "balloon_pages.h"
#include "balloon_trace.h"

#include <linux/log2.h>
#include <linux/migrate.h>
#include <linux/module.h>
#include <linux/vmstat.h>

static bool uncleared = true;
module_param(uncleared, bool, 0444);
MODULE_PARM_DESC(
	uncleared,
	"take pages without clearing them first where the kernel can do that despite init_on_alloc (default Y)");

/*
 * Reclaimed at a time, until target, guard and stop are looked at again; and taken
 * in pieces, until it is looked at where they come from.
 */
#define VBAL_STROKE_PAGES ((unsigned long)SZ_16M >> PAGE_SHIFT)

/* Result of vbal_pages_probe_uncleared(): __GFP_ZEROTAGS or nothing. */
static gfp_t vbal_gfp_uncleared __ro_after_init;

/* Pages of one zone whose accounting is still to be done. */
struct vbal_tally {
	struct page *page;
	long nr_pages;
};

/**
 * vbal_blocks_init() - make an empty set
 * @blocks: the set
 */
void vbal_blocks_init(struct vbal_blocks *blocks)
{
	INIT_LIST_HEAD(&blocks->list);
	blocks->nr_pages = 0;
	blocks->nr_blocks = 0;
}

static void vbal_blocks_add(struct vbal_blocks *blocks, struct page *page,
			    unsigned int order)
{
	set_page_private(page, order);
	list_add_tail(&page->lru, &blocks->list);
	blocks->nr_pages += 1UL << order;
	blocks->nr_blocks++;
}

static void vbal_blocks_add_new(struct vbal_blocks *blocks, struct page *page,
				unsigned int order)
{
	trace_vbal_block_alloc(page_to_pfn(page), order);
	vbal_blocks_add(blocks, page, order);
}

/* The host has taken the new page for the old one. */
static void vbal_pages_migrated(struct vbal_pages *vp,
				struct balloon_dev_info *bdi,
				struct page *newpage, struct page *page)
{
	if (vp->adjust_managed && page_zone(page) != page_zone(newpage)) {
		adjust_managed_page_count(page, 1);
		adjust_managed_page_count(newpage, -1);
	}
	trace_vbal_page_move(page_to_pfn(page), page_to_pfn(newpage));
	vbal_balloon_page_swap(bdi, newpage, page);
	atomic_long_inc(&vp->nr_migrated);
}

/* From compaction and its like, with both pages locked; the old one is isolated. */
static int vbal_pages_migrate(struct balloon_dev_info *bdi,
			      struct page *newpage, struct page *page,
			      enum migrate_mode mode)
{
	struct vbal_bag *bag = container_of(bdi, struct vbal_bag, singles);
	struct vbal_pages *vp =
		container_of(bag - bag->mode, struct vbal_pages, bag[0]);
	int ret = vp->migrate(vp, bag->mode, newpage, page, mode);

	if (!ret)
		vbal_pages_migrated(vp, bdi, newpage, page);
	return ret;
}

/**
 * vbal_pages_init() - make an empty balloon
 * @vp: the pages
 * @adjust_managed: ballooned pages leave MemTotal, as they have to unless
 *	DEFLATE_ON_OOM was negotiated: host tools rely on it
 *
 * Context: Process context.
 */
void vbal_pages_init(struct vbal_pages *vp, bool adjust_managed)
{
	unsigned int mode, order;

	memset(vp, 0, sizeof(*vp));
	spin_lock_init(&vp->lock);
	vbal_reclaim_init(&vp->reclaim);
	vp->adjust_managed = adjust_managed;
	vp->top_order = VBAL_MAX_ORDER;
	for (mode = 0; mode < VBAL_NR_MODES; mode++) {
		struct vbal_bag *bag = &vp->bag[mode];

		bag->mode = mode;
		for (order = 0; order < VBAL_NR_ORDERS; order++)
			INIT_LIST_HEAD(&bag->blocks[order]);
		INIT_LIST_HEAD(&bag->kept);
		balloon_devinfo_init(&bag->singles);
		bag->singles.migratepage = vbal_pages_migrate;
	}
}

/**
 * vbal_pages_rewind() - try the largest order again
 * @vp: the pages
 *
 * vbal_pages_alloc() remembers the orders that could not be had.
 *
 * Context: Size worker.
 */
void vbal_pages_rewind(struct vbal_pages *vp)
{
	vp->top_order = VBAL_MAX_ORDER;
}

/**
 * vbal_pages_gfp_block() - how to ask for whole blocks
 *
 * From free memory only: no reclaim, no compaction, no kswapd. Movable, since
 * whatever is held can make way: so ZONE_MOVABLE and highmem come first, and
 * the memory that the kernel itself needs comes last.
 *
 * Return: gfp flags for any order.
 */
gfp_t vbal_pages_gfp_block(void)
{
	return VBAL_GFP_ZONE | __GFP_NOWARN | __GFP_NORETRY | __GFP_NOMEMALLOC |
	       vbal_gfp_uncleared;
}

/*
 * Not NORETRY, which gives up on large blocks before anything is reclaimed.
 * Without IO reclaim can drop clean pages, not write or swap, nor does the
 * kernel compact.
 */
static gfp_t vbal_pages_gfp_room(const struct vbal_want *want)
{
	gfp_t gfp = (vbal_pages_gfp_block() & ~__GFP_NORETRY) |
		    __GFP_DIRECT_RECLAIM | __GFP_THISNODE;

	if (want->slab || want->squeeze)
		gfp |= __GFP_FS;
	if (want->squeeze)
		gfp |= __GFP_IO;
	return gfp;
}

static unsigned long vbal_pages_left(const struct vbal_want *want,
				     const struct vbal_blocks *out)
{
	return out->nr_blocks < want->max_blocks ?
		       want->nr_pages - min(out->nr_pages, want->nr_pages) :
		       0;
}

/* As virtio_balloon would: down to the min watermarks, by any reclaim. */
static struct page *vbal_pages_squeeze(struct vbal_pages *vp)
{
	gfp_t gfp = vbal_pages_gfp_block() | __GFP_RECLAIM | __GFP_IO |
		    __GFP_FS;

	return vbal_reclaim_alloc(&vp->reclaim, numa_node_id(), gfp, 0);
}

/* A batch may be small: what is granted, or what is @left of the batch if that is more. */
static unsigned long vbal_pages_ahead(const struct vbal_want *want,
				      unsigned long left)
{
	return max(left, want->granted_pages);
}

/*
 * Pieces that reclaim leaves lie there until they are so many: they may merge. Not
 * of the batch, as more than that may lie free anyway.
 */
static unsigned long vbal_pages_slack(const struct vbal_want *want,
				      unsigned long left)
{
	unsigned long most = min(totalram_pages() / (want->merge ? 32 : 64),
				 VBAL_PIECES_MAX_PAGES);

	return min(vbal_pages_ahead(want, left),
		   most / num_node_state(N_MEMORY));
}

/**
 * vbal_pages_has_enough() - lies enough free, be it in pieces, for reclaim to end
 * @want: what for
 * @left: pages of it that are still to be had
 *
 * Context: Size worker.
 * Return: whether.
 */
bool vbal_pages_has_enough(const struct vbal_want *want, unsigned long left)
{
	return vbal_reclaim_largest() >= vbal_pages_slack(want, left);
}

static unsigned int vbal_pages_min_order(const struct vbal_want *want,
					 unsigned long left)
{
	if (!want->reclaim || left < 1UL << VBAL_BLOCK_ORDER ||
	    vbal_pages_has_enough(want, left))
		return want->min_order;
	return max_t(unsigned int, want->min_order, VBAL_BLOCK_ORDER);
}

static unsigned int vbal_pages_max_order(const struct vbal_pages *vp,
					 const struct vbal_want *want)
{
	unsigned int top = want->pieces ? VBAL_BLOCK_ORDER - 1 : vp->top_order;

	return min(top, want->max_order);
}

/*
 * The kernel's own allocations are of pieces, too: without any they break blocks,
 * each of which raises the watermarks, and in a small guest that is all there is.
 */
static unsigned long vbal_pages_few(void)
{
	return min(totalram_pages() / 128,
		   max(totalram_pages() / 1024,
		       (unsigned long)SZ_2M >> PAGE_SHIFT));
}

/**
 * vbal_pages_in_blocks() - how much is free in whole blocks
 *
 * Context: Any.
 * Return: pages.
 */
unsigned long vbal_pages_in_blocks(void)
{
	return vbal_reclaim_pieces(VBAL_NR_ORDERS) -
	       vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
}

/**
 * vbal_pages_forget_pieces() - what is taken from here on finds others
 * @vp: the pages
 *
 * Context: Size worker.
 */
void vbal_pages_forget_pieces(struct vbal_pages *vp)
{
	vp->took_pieces = 0;
}

/**
 * vbal_pages_scattered() - how much lies about in pieces, where that is much
 * @vp: the pages
 *
 * Then they go first. The guest keeps its large blocks; and the host, which
 * knows of these by free page reporting and has discarded them, gains from pieces
 * only. Where there is little, speed counts for more.
 *
 * Context: Size worker.
 * Return: pages if a sixteenth of all memory is free in less than whole blocks,
 * beyond what could not be had last time, and from then on until hardly any are
 * left; else 0.
 */
unsigned long vbal_pages_scattered(struct vbal_pages *vp)
{
	unsigned long nr_pages = vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
	unsigned long limit;

	vp->left_pieces = min(vp->left_pieces, nr_pages);
	limit = vp->scattered ? vbal_pages_few() :
				vp->left_pieces + totalram_pages() / 16;
	vp->scattered = nr_pages > limit;
	if (!vp->scattered) {
		vbal_pages_forget_pieces(vp);
		return 0;
	}
	if (!vp->took_pieces) {
		vp->had_pieces = nr_pages;
		vp->had_in_blocks = vbal_pages_in_blocks();
	}
	return nr_pages;
}

/**
 * vbal_pages_took_pieces() - see what was taken for pieces
 * @vp: the pages
 * @took: pages that were taken since vbal_pages_scattered()
 *
 * Some pieces cannot be had, such as the kernel's own kinds; and where nearly all
 * that can be are gone, the allocator breaks blocks to fill its lists, whose rests
 * are pieces again: there are hardly fewer, but less in blocks. Then it is blocks'
 * turn. (What it had on its lists was counted as neither.) Others come and go
 * meanwhile, so little by itself is not judged.
 *
 * Context: Size worker.
 */
void vbal_pages_took_pieces(struct vbal_pages *vp, unsigned long took)
{
	unsigned long few, left;

	vp->took_pieces += took;
	if (took && vp->took_pieces < VBAL_STROKE_PAGES)
		return;
	few = vp->took_pieces / 4;
	left = vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
	if (!took || (left + few > vp->had_pieces &&
		      vbal_pages_in_blocks() + few < vp->had_in_blocks)) {
		vp->scattered = false;
		vp->left_pieces = left;
	}
	vbal_pages_forget_pieces(vp);
}

/**
 * vbal_pages_alloc() - take blocks from the allocator, largest first
 * @vp: the pages
 * @want: how much of what
 * @out: receives the blocks
 *
 * From what the zones have free; only with @want->squeeze more than that.
 *
 * Context: Size worker.
 * Return: pages in @out.
 */
unsigned long vbal_pages_alloc(struct vbal_pages *vp,
			       const struct vbal_want *want,
			       struct vbal_blocks *out)
{
	unsigned int order = vbal_pages_max_order(vp, want);
	unsigned int how = (want->pieces ? VBAL_TAKE_PIECES : 0) |
			   (want->slab_first ? VBAL_TAKE_SLAB : 0);
	unsigned long left;

	while ((left = vbal_pages_left(want, out))) {
		struct page *page;

		cond_resched();
		order = min_t(unsigned int, order, ilog2(left));
		if (order < vbal_pages_min_order(want, left))
			break;
		page = vbal_reclaim_take(vbal_pages_gfp_block(), order, how);
		if (!page && !order && want->squeeze && !want->pieces)
			page = vbal_pages_squeeze(vp);
		if (page) {
			vbal_blocks_add_new(out, page, order);
			continue;
		}
		if (!order && !want->pieces && !out->nr_pages &&
		    !(how & VBAL_TAKE_LAST)) {
			how |= VBAL_TAKE_LAST;
			continue;
		}
		if (!order) {
			vp->nr_alloc_failed += !want->pieces;
			break;
		}
		order--;
		if (want->pieces)
			continue;
		trace_vbal_block_fallback(order + 1);
		vp->nr_fallbacks++;
		vp->top_order = order;
	}
	return out->nr_pages;
}

/**
 * vbal_pages_make_room() - have page cache dropped
 * @vp: the pages
 * @want: how much of what; @want->reclaim is cleared when nothing more comes of it
 *	and the pieces that there are will do
 * @out: receives whole blocks that came out of it; the rest is free now
 *
 * Context: Size worker.
 * Return: whether anything was reclaimed.
 */
bool vbal_pages_make_room(struct vbal_pages *vp, struct vbal_want *want,
			  struct vbal_blocks *out)
{
	unsigned long left = want->nr_pages;
	struct page *page;
	bool progress;

	progress = vbal_reclaim_make(
		&vp->reclaim,
		min(vbal_pages_ahead(want, left), VBAL_STROKE_PAGES),
		vbal_pages_slack(want, left), vbal_pages_gfp_room(want));
	want->reclaim = progress || vbal_pages_has_enough(want, left);
	while (vbal_pages_left(want, out) >= VBAL_RECLAIM_PAGES &&
	       (page = vbal_reclaim_pop(&vp->reclaim)))
		vbal_blocks_add_new(out, page, VBAL_RECLAIM_ORDER);
	/* A batch of PFNs may be smaller than such a block: then it has to be broken. */
	if (!out->nr_pages)
		vbal_reclaim_end(&vp->reclaim);
	/* Orders that could not be had may be there again, and more pieces. */
	vbal_pages_rewind(vp);
	vbal_pages_forget_pieces(vp);
	return progress;
}

static void vbal_tally_flush(struct vbal_tally *tally)
{
	if (tally->nr_pages)
		adjust_managed_page_count(tally->page, tally->nr_pages);
	tally->nr_pages = 0;
}

/* One call per zone and batch: each is a walk over all zones since Linux 7. */
static void vbal_tally_add(struct vbal_tally *tally, struct page *page,
			   long nr_pages)
{
	if (tally->nr_pages && page_zone(tally->page) != page_zone(page))
		vbal_tally_flush(tally);
	tally->page = page;
	tally->nr_pages += nr_pages;
}

/* Offline pages are left out of crash dumps and hibernation images. */
static void vbal_block_set_offline(struct page *page, unsigned int order)
{
	unsigned long i;

	for (i = 0; i < 1UL << order; i++)
		__SetPageOffline(page + i);
}

static void vbal_block_clear_offline(struct page *page, unsigned int order)
{
	unsigned long i;

	for (i = 0; i < 1UL << order; i++)
		__ClearPageOffline(page + i);
}

/* As the balloon core counts single pages; @nr_pages is negative on the way out. */
static void vbal_block_count(struct page *page, long nr_pages)
{
	if (nr_pages > 0)
		count_vm_events(BALLOON_INFLATE, nr_pages);
	else
		count_vm_events(BALLOON_DEFLATE, -nr_pages);
	vbal_mod_balloon_pages(page, nr_pages);
}

/*
 * Asked under the lock: a block that is late would stay whole behind the back of
 * vbal_pages_set_offlining(), and the kernel gives up on memory that has one. The
 * flag by which it knows them is theirs only while they are on the list.
 */
static bool vbal_bag_put_block(struct vbal_pages *vp, struct vbal_bag *bag,
			       struct page *page, unsigned int order)
{
	unsigned long flags;
	bool whole;

	spin_lock_irqsave(&vp->lock, flags);
	whole = !vp->offlining;
	if (whole) {
		vbal_block_set_offline(page, order);
		list_add(&page->lru, &bag->blocks[order]);
		bag->nr_blocks[order]++;
	}
	spin_unlock_irqrestore(&vp->lock, flags);
	if (whole)
		vbal_block_count(page, 1L << order);
	return whole;
}

static struct page *vbal_bag_pop(struct vbal_pages *vp, struct vbal_bag *bag,
				 unsigned int order)
{
	struct page *page;
	unsigned long flags;

	spin_lock_irqsave(&vp->lock, flags);
	page = list_first_entry_or_null(&bag->blocks[order], struct page, lru);
	if (page) {
		list_del(&page->lru);
		bag->nr_blocks[order]--;
		vbal_block_clear_offline(page, order);
	}
	spin_unlock_irqrestore(&vp->lock, flags);
	return page;
}

/* The core takes them under a lock with interrupts off: not too many at once. */
#define VBAL_CORE_CHUNK_PAGES 512ul

static void vbal_bag_put_chunk(struct vbal_bag *bag, struct page *page,
			       unsigned long nr_pages)
{
	LIST_HEAD(pages);
	unsigned long i;

	for (i = 0; i < nr_pages; i++) {
		set_page_private(page + i, 0);
		list_add_tail(&page[i].lru, &pages);
	}
	atomic_long_add(nr_pages, &bag->nr_singles);
	balloon_page_list_enqueue(&bag->singles, &pages);
}

/* From here on each page can move by itself. */
static void vbal_bag_put_singles(struct vbal_bag *bag, struct page *page,
				 unsigned int order)
{
	unsigned long left = 1UL << order;

	if (order)
		split_page(page, order);
	while (left) {
		unsigned long nr_pages = min(left, VBAL_CORE_CHUNK_PAGES);

		vbal_bag_put_chunk(bag, page, nr_pages);
		page += nr_pages;
		left -= nr_pages;
	}
}

/* Whole only where nobody asks for the place before the balloon has rested. */
static bool vbal_block_may_stay_whole(struct page *page, unsigned int order)
{
	return order >= VBAL_BLOCK_ORDER && !vbal_zone_has_cma(page_zone(page));
}

static void vbal_bag_put_all(struct vbal_pages *vp, struct vbal_blocks *in,
			     enum vbal_mode mode)
{
	struct vbal_bag *bag = &vp->bag[mode];
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &in->list, lru) {
		unsigned int order = vbal_block_order(page);

		cond_resched();
		list_del(&page->lru);
		if (!vbal_block_may_stay_whole(page, order) ||
		    !vbal_bag_put_block(vp, bag, page, order))
			vbal_bag_put_singles(bag, page, order);
	}
	vbal_blocks_init(in);
}

/**
 * vbal_pages_hold() - account acknowledged blocks as ballooned
 * @vp: the pages
 * @in: blocks that the host has acknowledged, empty afterwards
 * @mode: how they travelled
 *
 * Context: Size worker.
 */
void vbal_pages_hold(struct vbal_pages *vp, struct vbal_blocks *in,
		     enum vbal_mode mode)
{
	struct vbal_tally tally = {};
	struct page *page;

	vbal_for_each_block(page, in) {
		if (!vp->adjust_managed)
			break;
		vbal_tally_add(&tally, page, -(1L << vbal_block_order(page)));
	}
	vbal_tally_flush(&tally);
	atomic_long_add(in->nr_pages, &vp->nr_held);
	atomic_long_add(in->nr_pages, &vp->nr_given);
	vbal_bag_put_all(vp, in, mode);
}

/*
 * How many pages follow @page in @pages and in memory, itself included. A zone may
 * begin anywhere, and a block is all of it the zone's that its first page is in.
 */
static unsigned long vbal_run_length(struct page *page, struct list_head *pages)
{
	struct zone *zone = page_zone(page);
	unsigned long nr_pages = 1;

	while (!list_is_last(&page->lru, pages) &&
	       list_next_entry(page, lru) == page + 1 &&
	       page_zone(page + 1) == zone) {
		page++;
		nr_pages++;
	}
	return nr_pages;
}

/*
 * Make one block of single pages again. Somebody who walks over memory may have
 * a reference to one for a moment; then nothing comes of it. Who comes later no
 * longer takes them for pages that can move: what is in their private field is
 * not the balloon's device any more.
 *
 * Not while memory goes offline: for a moment they have their mark and nobody
 * has a reference, which there is as good as free.
 */
static bool vbal_block_join(struct vbal_pages *vp, struct page *page,
			    unsigned int order)
{
	unsigned long i;

	lockdep_assert_held(&vp->lock);
	if (vp->offlining || !vbal_pages_may_join())
		return false;
	for (i = 0; i < 1UL << order; i++)
		if (!page_ref_freeze(page + i, 1))
			break;
	if (i < 1UL << order) {
		while (i--)
			page_ref_unfreeze(page + i, 1);
		return false;
	}
	while (i--)
		vbal_balloon_page_unmark(page + i);
	page_ref_unfreeze(page, 1);
	return true;
}

/* The first pages of @pages become a block: as large as run and place allow. */
static unsigned long vbal_blocks_join_first(struct vbal_pages *vp,
					    struct vbal_blocks *out,
					    struct list_head *pages)
{
	struct page *page = list_first_entry(pages, struct page, lru);
	unsigned long pfn = page_to_pfn(page), i;
	unsigned int order = ilog2(vbal_run_length(page, pages));
	unsigned long flags;

	order = min_t(unsigned int, order, VBAL_MAX_ORDER);
	if (pfn)
		order = min_t(unsigned int, order, __ffs(pfn));
	spin_lock_irqsave(&vp->lock, flags);
	if (order && !vbal_block_join(vp, page, order))
		order = 0;
	spin_unlock_irqrestore(&vp->lock, flags);
	for (i = 0; i < 1UL << order; i++) {
		list_del(&page[i].lru);
		page[i].mapping = NULL;
	}
	vbal_blocks_add(out, page, order);
	return 1UL << order;
}

static unsigned long vbal_bag_take_kept(struct vbal_pages *vp,
					struct vbal_bag *bag,
					unsigned long nr_pages,
					struct list_head *pages)
{
	unsigned long nr = 0, flags;

	spin_lock_irqsave(&vp->lock, flags);
	while (nr < nr_pages && !list_empty(&bag->kept)) {
		list_move_tail(bag->kept.next, pages);
		nr++;
	}
	spin_unlock_irqrestore(&vp->lock, flags);
	return nr;
}

/* What the core does not get back is tried again when the balloon settles. */
static void vbal_bag_keep(struct vbal_pages *vp, struct vbal_bag *bag,
			  struct list_head *kept)
{
	struct page *page, *next;
	unsigned long flags;
	LIST_HEAD(pages);
	long nr = 0;

	list_for_each_entry_safe(page, next, kept, lru) {
		if (!vbal_balloon_page_may_return(page))
			continue;
		list_move_tail(&page->lru, &pages);
		nr++;
	}
	spin_lock_irqsave(&vp->lock, flags);
	list_splice_init(kept, &bag->kept);
	spin_unlock_irqrestore(&vp->lock, flags);
	if (!nr)
		return;
	balloon_page_list_enqueue(&bag->singles, &pages);
	/* The core counts them in once more. */
	count_vm_events(BALLOON_INFLATE, -nr);
	count_vm_events(BALLOON_DEFLATE, -nr);
}

/*
 * Isolated pages are missed, and those that the host has not yet seen: fewer than
 * @nr_pages may come.
 */
static unsigned long vbal_bag_pick_singles(struct vbal_pages *vp,
					   struct vbal_bag *bag,
					   unsigned long nr_pages,
					   struct vbal_blocks *out)
{
	unsigned long nr_picked = 0, nr_found;
	LIST_HEAD(pages);
	LIST_HEAD(kept);

	do {
		unsigned long nr =
			min(nr_pages - nr_picked, VBAL_CORE_CHUNK_PAGES);

		nr_found = vbal_bag_take_kept(vp, bag, nr, &pages);
		if (!nr_found)
			nr_found = balloon_page_list_dequeue(&bag->singles,
							     &pages, nr);
		if (vp->withhold)
			vp->withhold(vp, &pages, &kept);
		for (nr = 0; !list_empty(&pages);)
			nr += vbal_blocks_join_first(vp, out, &pages);
		atomic_long_sub(nr, &bag->nr_singles);
		nr_picked += nr;
		cond_resched();
	} while (nr_found && nr_picked < nr_pages);
	vbal_bag_keep(vp, bag, &kept);
	return nr_picked;
}

static unsigned long vbal_bag_settle_block(struct vbal_pages *vp,
					   struct vbal_bag *bag,
					   unsigned int order)
{
	struct page *page = vbal_bag_pop(vp, bag, order);

	if (!page)
		return 0;
	/* The core counts them in once more. */
	count_vm_events(BALLOON_INFLATE, -(1L << order));
	vbal_mod_balloon_pages(page, -(1L << order));
	vbal_bag_put_singles(bag, page, order);
	return 1UL << order;
}

static void vbal_bag_settle_kept(struct vbal_pages *vp, struct vbal_bag *bag)
{
	LIST_HEAD(kept);

	if (vbal_bag_take_kept(vp, bag, ULONG_MAX, &kept))
		vbal_bag_keep(vp, bag, &kept);
}

/**
 * vbal_pages_keeps() - are there single pages that cannot move yet
 * @vp: the pages
 *
 * Context: Any.
 * Return: whether; vbal_pages_settle() tries them again.
 */
bool vbal_pages_keeps(struct vbal_pages *vp)
{
	unsigned long flags;
	bool keeps;

	spin_lock_irqsave(&vp->lock, flags);
	keeps = !list_empty(&vp->bag[VBAL_MODE_PFN].kept) ||
		!list_empty(&vp->bag[VBAL_MODE_RANGE].kept);
	spin_unlock_irqrestore(&vp->lock, flags);
	return keeps;
}

/**
 * vbal_pages_settle() - let held blocks move, page by page
 * @vp: the pages
 * @nr_pages: so many at least, if there are
 *
 * Costs some 30 ns a page, now, and again when it is given back.
 *
 * Context: Process context.
 * Return: pages settled; 0 when all are, or where the kernel cannot move them.
 */
unsigned long vbal_pages_settle(struct vbal_pages *vp, unsigned long nr_pages)
{
	unsigned long nr_settled = 0;
	unsigned int mode, order;

	if (!VBAL_PAGES_CAN_MOVE)
		return 0;
	for (mode = 0; mode < VBAL_NR_MODES; mode++) {
		vbal_bag_settle_kept(vp, &vp->bag[mode]);
		for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS;
		     order++) {
			unsigned long nr = 1;

			while (nr && nr_settled < nr_pages) {
				nr = vbal_bag_settle_block(vp, &vp->bag[mode],
							   order);
				nr_settled += nr;
				cond_resched();
			}
		}
	}
	return nr_settled;
}

/**
 * vbal_pages_set_offlining() - memory is about to go offline, or that is over
 * @vp: the pages
 * @on: which of both
 *
 * Meanwhile all that is held can move.
 *
 * Context: Memory notifier.
 */
void vbal_pages_set_offlining(struct vbal_pages *vp, bool on)
{
	unsigned long flags;

	spin_lock_irqsave(&vp->lock, flags);
	vp->offlining = on;
	spin_unlock_irqrestore(&vp->lock, flags);
	if (on)
		vbal_pages_settle(vp, ULONG_MAX);
}

/* Make single pages of the smallest block, for a target inside a block. */
static bool vbal_bag_split(struct vbal_pages *vp, struct vbal_bag *bag)
{
	unsigned int order;

	for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++) {
		if (!vbal_bag_settle_block(vp, bag, order))
			continue;
		trace_vbal_block_split(order);
		atomic_long_inc(&vp->nr_splits);
		return true;
	}
	return false;
}

static bool vbal_bag_has_block(struct vbal_bag *bag, unsigned long nr_pages)
{
	unsigned int order;

	for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++)
		if (nr_pages >> order && READ_ONCE(bag->nr_blocks[order]))
			return true;
	return false;
}

/* Pages that compaction has out cannot be picked. */
static bool vbal_bag_has_single(struct vbal_bag *bag)
{
	return atomic_long_read(&bag->nr_singles) >
	       READ_ONCE(bag->singles.isolated_pages);
}

/**
 * vbal_pages_has() - can anything of a mode be picked
 * @vp: the pages
 * @mode: the mode
 *
 * Context: Any.
 * Return: whether; pages that the host has still to see are not known here.
 */
bool vbal_pages_has(struct vbal_pages *vp, enum vbal_mode mode)
{
	struct vbal_bag *bag = &vp->bag[mode];

	return vbal_bag_has_block(bag, ULONG_MAX) || vbal_bag_has_single(bag);
}

/**
 * vbal_pages_choose() - from which bag to give back
 * @vp: the pages
 * @nr_pages: how much is to go
 *
 * Whole blocks before pieces, and ranges before PFNs because the host need not
 * be told of them.
 *
 * Context: Any.
 * Return: the mode to pass to vbal_pages_pick().
 */
enum vbal_mode vbal_pages_choose(struct vbal_pages *vp, unsigned long nr_pages)
{
	struct vbal_bag *range = &vp->bag[VBAL_MODE_RANGE];
	struct vbal_bag *pfn = &vp->bag[VBAL_MODE_PFN];

	if (vbal_bag_has_block(range, nr_pages))
		return VBAL_MODE_RANGE;
	if (vbal_bag_has_block(pfn, nr_pages))
		return VBAL_MODE_PFN;
	if (vbal_bag_has_single(range))
		return VBAL_MODE_RANGE;
	if (vbal_bag_has_single(pfn))
		return VBAL_MODE_PFN;
	return vbal_bag_has_block(range, ULONG_MAX) ? VBAL_MODE_RANGE :
						      VBAL_MODE_PFN;
}

/**
 * vbal_pages_pick() - choose what to give back, exact to the page
 * @vp: the pages
 * @mode: from which bag
 * @nr_pages: at most so many
 * @out: receives the blocks. They count as held until vbal_pages_free()
 *
 * Whole blocks first, then single pages; a block is split for the rest only if
 * no single page of the bag can be had.
 *
 * Context: Size worker, OOM notifier. Allocates nothing.
 * Return: pages added to @out. Fewer than @nr_pages when the bag has no more,
 *	while compaction has pages isolated, or the host has still to see some.
 */
unsigned long vbal_pages_pick(struct vbal_pages *vp, enum vbal_mode mode,
			      unsigned long nr_pages, struct vbal_blocks *out)
{
	struct vbal_bag *bag = &vp->bag[mode];
	unsigned long left = nr_pages;
	unsigned int order;
	struct page *page;

	for (order = VBAL_MAX_ORDER; order >= VBAL_BLOCK_ORDER; order--) {
		while (left >> order && (page = vbal_bag_pop(vp, bag, order))) {
			vbal_block_count(page, -(1L << order));
			vbal_blocks_add(out, page, order);
			left -= 1UL << order;
		}
	}
	if (left)
		left -= vbal_bag_pick_singles(vp, bag, left, out);
	if (left && left == nr_pages && vbal_bag_split(vp, bag))
		left -= vbal_bag_pick_singles(vp, bag, left, out);
	return nr_pages - left;
}

/**
 * vbal_pages_free() - give picked blocks back to the guest
 * @vp: the pages
 * @in: blocks from vbal_pages_pick(), told to the host where that has to be;
 *	empty afterwards
 *
 * Context: Size worker, OOM notifier.
 */
void vbal_pages_free(struct vbal_pages *vp, struct vbal_blocks *in)
{
	struct vbal_tally tally = {};
	struct page *page;

	vbal_for_each_block(page, in) {
		if (!vp->adjust_managed)
			break;
		vbal_tally_add(&tally, page, 1L << vbal_block_order(page));
	}
	vbal_tally_flush(&tally);
	atomic_long_sub(in->nr_pages, &vp->nr_held);
	atomic_long_add(in->nr_pages, &vp->nr_taken);
	vbal_pages_discard(in);
}

/**
 * vbal_pages_discard() - free blocks that were never held
 * @in: blocks that the host does not and will not have, empty afterwards
 *
 * Context: Process context, no spinlock.
 */
void vbal_pages_discard(struct vbal_blocks *in)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &in->list, lru) {
		unsigned int order = vbal_block_order(page);

		cond_resched();
		list_del(&page->lru);
		set_page_private(page, 0);
		trace_vbal_block_free(page_to_pfn(page), order);
		__free_pages(page, order);
	}
	vbal_blocks_init(in);
}

/**
 * vbal_pages_isolated() - single pages that compaction has out
 * @vp: the pages
 *
 * Context: Any.
 * Return: pages that are held but cannot be picked just now.
 */
unsigned long vbal_pages_isolated(struct vbal_pages *vp)
{
	unsigned long nr_pages = 0;
	unsigned int mode;

	for (mode = 0; mode < VBAL_NR_MODES; mode++)
		nr_pages += READ_ONCE(vp->bag[mode].singles.isolated_pages);
	return nr_pages;
}

/*
 * Fill a page, free it, take it again from this CPU's free list with
 * __GFP_ZEROTAGS, and look whether it was cleared on the way.
 */
static bool vbal_page_comes_uncleared(void)
{
	struct page *page, *again;
	bool stays = false;

	page = alloc_page(GFP_KERNEL);
	if (!page)
		return false;
	memset(page_address(page), 0xa5, PAGE_SIZE);
	__free_page(page);
	again = alloc_page(GFP_NOWAIT | __GFP_NOWARN | __GFP_ZEROTAGS);
	if (again == page)
		stays = !memchr_inv(page_address(again), 0xa5, PAGE_SIZE);
	if (again)
		__free_page(again);
	return stays;
}

/**
 * vbal_pages_probe_uncleared() - can pages be had without being cleared
 *
 * With init_on_alloc (Debian's default) the allocator clears each page that it
 * hands out, only for the host to throw it away: 1.6 GiB/s with, 27 to 47 GiB/s
 * without. Held pages are shown to nobody and are cleared when they are next
 * allocated, so nothing leaks. There is no flag to ask for that, but x86 up to
 * 6.12 takes __GFP_ZEROTAGS for "the architecture clears it, tags and all"
 * while x86 has no tags and clears nothing. As that is a quirk, it is tried
 * here and used only where it works; uncleared=0 does without.
 *
 * Context: Module init.
 */
void vbal_pages_probe_uncleared(void)
{
	unsigned int i;

	if (!uncleared || !IS_ENABLED(CONFIG_X86))
		return;
	if (!want_init_on_alloc(GFP_HIGHUSER_MOVABLE) || want_init_on_free())
		return;
	for (i = 0; i < 8 && !vbal_gfp_uncleared; i++)
		if (vbal_page_comes_uncleared())
			vbal_gfp_uncleared = __GFP_ZEROTAGS;
	pr_info("pages are %s before they are given to the host\n",
		vbal_gfp_uncleared ? "not cleared" : "cleared");
}
