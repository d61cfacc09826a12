/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_MOVE_H
#define _VBALLOON_MOVE_H

#include <linux/mutex.h>
#include <linux/types.h>

#include "balloon_pages.h"
#include "balloon_virtio.h"

/* Compaction moves 32 pages at a time. */
#define VBAL_NR_MOVES 64

/**
 * struct vbal_move_slot - one page for another, on its way to the host
 * @give: pending until the host has the new page
 * @take: pending until the host knows that the old page is the guest's
 * @give_q: the queue that @give is in
 * @nr_uses: moves in this slot so far; written under the lock
 * @old_pfn: the old page; it may be somebody else's already
 * @new_pfn: the new page; held, and the host's once @give is done
 * @give_pfns: the new page's frames, PFN mode
 * @take_pfns: the old page's frames, PFN mode
 */
struct vbal_move_slot {
	struct vbal_token give;
	struct vbal_token take;
	struct vbal_vq *give_q;
	unsigned int nr_uses;
	unsigned long old_pfn;
	unsigned long new_pfn;
	__virtio32 give_pfns[VBAL_FRAMES_PER_PAGE];
	__virtio32 take_pfns[VBAL_FRAMES_PER_PAGE];
};

/**
 * struct vbal_move - ballooned pages that make way for others
 * @wire: the way to the host
 * @lock: held while a page moves (trylock), and by whoever picks pages
 * @wanted: somebody who is out of memory tries to have @lock: no page moves
 * @rest_end_ms: until then no page is kept waiting
 * @slot: moves whose buffers the host may have; under @lock
 */
struct vbal_move {
	struct vbal_wire *wire;
	struct mutex lock;
	bool wanted;
	u64 rest_end_ms;
	struct vbal_move_slot slot[VBAL_NR_MOVES];
};

void vbal_move_init(struct vbal_move *move, struct vbal_wire *wire,
		    struct vbal_pages *vp);
int __must_check vbal_move_wait(struct vbal_move *move);
void vbal_move_release(struct vbal_move *move);

#endif /* _VBALLOON_MOVE_H */
