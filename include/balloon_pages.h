/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_PAGES_H
#define _VBALLOON_PAGES_H

#include <linux/gfp.h>
#include <linux/list.h>
#include <linux/migrate_mode.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>

#include "balloon_compat.h"
#include "balloon_reclaim.h"

/* The device counts in frames of 4 KiB, whatever the guest's page size. */
#define VBAL_FRAMES_PER_PAGE (PAGE_SIZE >> VIRTIO_BALLOON_PFN_SHIFT)

/*
 * Held as they are until the balloon rests: blocks of VBAL_BLOCK_ORDER and more.
 * Anything smaller is held as single pages at once.
 */
#define VBAL_MAX_ORDER MAX_PAGE_ORDER
#define VBAL_NR_ORDERS (VBAL_MAX_ORDER + 1)

/**
 * enum vbal_mode - how a page travelled to the host
 * @VBAL_MODE_PFN: as frame numbers through the inflate queue; it goes back
 *	through the deflate queue
 * @VBAL_MODE_RANGE: as (address, length) through the reporting queue; it may
 *	be used again without a word (virtio 1.2, 5.5.6.7)
 * @VBAL_NR_MODES: number of modes
 */
enum vbal_mode {
	VBAL_MODE_PFN,
	VBAL_MODE_RANGE,
	VBAL_NR_MODES,
};

static inline enum vbal_mode vbal_other_mode(enum vbal_mode mode)
{
	return mode == VBAL_MODE_PFN ? VBAL_MODE_RANGE : VBAL_MODE_PFN;
}

/**
 * struct vbal_blocks - blocks on their way, owned by whoever has the struct
 * @list: first pages of the blocks, by page->lru; page_private() is the order
 * @nr_pages: pages in all blocks
 * @nr_blocks: entries of @list
 */
struct vbal_blocks {
	struct list_head list;
	unsigned long nr_pages;
	unsigned int nr_blocks;
};

/**
 * struct vbal_bag - what is held of one mode
 * @mode: which mode; constant
 * @blocks: blocks of VBAL_BLOCK_ORDER and more, by order; under vbal_pages.lock
 * @nr_blocks: entries of each of @blocks; under vbal_pages.lock
 * @singles: single pages, kept by the kernel's balloon core so that they can
 *	make way for others; the core's lock
 * @kept: single pages that the core has not got back yet, and that cannot move
 *	until then; picked before its own; under vbal_pages.lock
 * @nr_singles: pages in @singles and @kept, isolated ones included; atomic,
 *	because the core moves pages under its own lock
 */
struct vbal_bag {
	enum vbal_mode mode;
	struct list_head blocks[VBAL_NR_ORDERS];
	unsigned long nr_blocks[VBAL_NR_ORDERS];
	struct balloon_dev_info singles;
	struct list_head kept;
	atomic_long_t nr_singles;
};

/**
 * struct vbal_pages - the balloon's pages
 * @bag: what is held, by mode
 * @lock: protects the bags' own lists, their counts and @offlining; taken in the
 *	size worker, the OOM and the memory notifier, never across an allocation
 *	or the host
 * @nr_held: pages in all bags. Read anywhere, changed by hold and free
 * @migrate: exchanges a held page for another at the host; both are locked.
 *	Only with MIGRATE_SYNC it waits for a host that has too much to do; with
 *	MUST_TELL_HOST also with MIGRATE_SYNC_LIGHT. 0, or -EAGAIN: not now, or
 *	not without waiting. Constant
 * @withhold: moves those of the first list, single pages that are about to leave,
 *	to the second that have to stay: the host has not yet seen that they moved
 *	in. Constant
 * @move_arg: for @migrate and @withhold
 * @adjust_managed: ballooned pages leave MemTotal (DEFLATE_ON_OOM not
 *	negotiated); constant after probe
 * @reclaim: what reclaim makes free for the balloon; size worker
 * @offlining: memory is going offline: nothing stays whole; under @lock
 * @top_order: largest order that the last allocation could get; size worker
 * @scattered: much is free in pieces, and they are taken first; size worker
 * @had_pieces: pages that lay in pieces when @took_pieces was nothing; size worker
 * @had_in_blocks: pages that lay in whole blocks then; size worker
 * @took_pieces: taken since; size worker
 * @left_pieces: pages that lay in pieces when these could not be had; size worker
 * @nr_given: pages ever held, for statistics
 * @nr_taken: pages ever given back to the guest, for statistics
 * @nr_alloc_failed: allocations that got not even a single page
 * @nr_fallbacks: times that a smaller order had to do
 * @nr_splits: blocks split for an exact target
 * @nr_migrated: single pages that made way for others
 */
struct vbal_pages {
	int (*migrate)(struct vbal_pages *vp, enum vbal_mode mode,
		       struct page *newpage, struct page *page,
		       enum migrate_mode how);
	void (*withhold)(struct vbal_pages *vp, struct list_head *pages,
			 struct list_head *kept);
	void *move_arg;
	struct vbal_bag bag[VBAL_NR_MODES];
	spinlock_t lock;
	atomic_long_t nr_held;
	bool adjust_managed;
	struct vbal_reclaim reclaim;
	bool offlining;
	unsigned int top_order;
	bool scattered;
	unsigned long had_pieces;
	unsigned long had_in_blocks;
	unsigned long took_pieces;
	unsigned long left_pieces;

	atomic_long_t nr_given;
	atomic_long_t nr_taken;
	unsigned long nr_alloc_failed;
	unsigned long nr_fallbacks;
	atomic_long_t nr_splits;
	atomic_long_t nr_migrated;
};

/**
 * struct vbal_want - what to ask the allocator for
 * @nr_pages: no more pages than this
 * @granted_pages: what more may follow, this included; 0: nothing
 * @max_blocks: no more blocks than this
 * @min_order: nothing below this order
 * @max_order: nothing above this order
 * @reclaim: clean page cache may be dropped for it (nothing written or swapped)
 * @slab: with @reclaim: dentries and inodes, too
 * @merge: with @reclaim: pieces that it leaves are waited for, as they may merge
 * @slab_first: first where these are, or were
 * @pieces: only what lies about in pieces: no block of VBAL_BLOCK_ORDER is broken
 * @squeeze: any reclaim will do, as with virtio_balloon, and no watermark holds
 */
struct vbal_want {
	unsigned long nr_pages;
	unsigned long granted_pages;
	unsigned int max_blocks;
	unsigned int min_order;
	unsigned int max_order;
	bool reclaim;
	bool slab;
	bool merge;
	bool slab_first;
	bool pieces;
	bool squeeze;
};

void vbal_blocks_init(struct vbal_blocks *blocks);

void vbal_pages_init(struct vbal_pages *vp, bool adjust_managed);
void vbal_pages_rewind(struct vbal_pages *vp);
unsigned long vbal_pages_scattered(struct vbal_pages *vp);
void vbal_pages_forget_pieces(struct vbal_pages *vp);
void vbal_pages_took_pieces(struct vbal_pages *vp, unsigned long took);
unsigned long vbal_pages_in_blocks(void);
unsigned long vbal_pages_alloc(struct vbal_pages *vp,
			       const struct vbal_want *want,
			       struct vbal_blocks *out);
bool vbal_pages_has_enough(const struct vbal_want *want, unsigned long left);
bool vbal_pages_make_room(struct vbal_pages *vp, struct vbal_want *want,
			  struct vbal_blocks *out);
void vbal_pages_hold(struct vbal_pages *vp, struct vbal_blocks *in,
		     enum vbal_mode mode);
unsigned long vbal_pages_settle(struct vbal_pages *vp, unsigned long nr_pages);
void vbal_pages_set_offlining(struct vbal_pages *vp, bool on);
bool vbal_pages_keeps(struct vbal_pages *vp);
bool vbal_pages_has(struct vbal_pages *vp, enum vbal_mode mode);
enum vbal_mode vbal_pages_choose(struct vbal_pages *vp, unsigned long nr_pages);
unsigned long vbal_pages_pick(struct vbal_pages *vp, enum vbal_mode mode,
			      unsigned long nr_pages, struct vbal_blocks *out);
void vbal_pages_free(struct vbal_pages *vp, struct vbal_blocks *in);
void vbal_pages_discard(struct vbal_blocks *in);
unsigned long vbal_pages_isolated(struct vbal_pages *vp);

gfp_t vbal_pages_gfp_block(void);
void vbal_pages_probe_uncleared(void);

static inline unsigned int vbal_block_order(const struct page *page)
{
	return page_private(page);
}

static inline unsigned long vbal_pages_held(struct vbal_pages *vp)
{
	return atomic_long_read(&vp->nr_held);
}

static inline u64 vbal_pages_to_frames(unsigned long nr_pages)
{
	return (u64)nr_pages * VBAL_FRAMES_PER_PAGE;
}

static inline u64 vbal_pages_to_bytes(unsigned long nr_pages)
{
	return (u64)nr_pages << PAGE_SHIFT;
}

static inline u64 vbal_frames_to_bytes(u32 nr_frames)
{
	return (u64)nr_frames << VIRTIO_BALLOON_PFN_SHIFT;
}

static inline unsigned long vbal_frames_to_pages(u32 nr_frames)
{
	return DIV_ROUND_UP(nr_frames, VBAL_FRAMES_PER_PAGE);
}

/**
 * vbal_for_each_block() - walk over blocks on their way
 * @page: loop cursor, first page of each block
 * @blocks: the struct vbal_blocks to walk
 */
#define vbal_for_each_block(page, blocks) \
	list_for_each_entry(page, &(blocks)->list, lru)

#endif /* _VBALLOON_PAGES_H */
