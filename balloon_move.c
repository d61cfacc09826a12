// SPDX-License-Identifier: GPL-2.0-only
/*
 * Held pages make way: compaction, offlining, CMA and large allocations move a
 * single page elsewhere, and the host gets the new one for the old one.
 *
 * That waits for nobody. The old page is the guest's as soon as the deflate
 * queue has it, and the new one is nobody's: only before it is given back again
 * does the host have to have seen it. Until then vbal_move_withhold() keeps it,
 * and vbal_move_wait() is for who finds nothing else. With MUST_TELL_HOST the host
 * is asked first: then a page moves only for those who can wait. And who needs
 * just this page gone (MIGRATE_SYNC: a page of 1 GiB, CMA, memory going offline)
 * would try ten times within microseconds, and give up the area; so it is kept a
 * moment while too much is on its way.
 */
#include "balloon_move.h"

#include <linux/freezer.h>
#include <linux/migrate.h>
#include <linux/scatterlist.h>
#include <linux/sched/signal.h>

static void vbal_move_reap(struct vbal_move *move)
{
	vbal_vq_reap(&move->wire->q[VBAL_VQ_INFLATE]);
	vbal_vq_reap(&move->wire->q[VBAL_VQ_DEFLATE]);
	vbal_vq_reap(&move->wire->q[VBAL_VQ_REPORT]);
}

static struct vbal_move_slot *vbal_move_free_slot(struct vbal_move *move)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_MOVES; i++) {
		struct vbal_move_slot *slot = &move->slot[i];

		if (vbal_token_done(&slot->give) &&
		    vbal_token_done(&slot->take))
			return slot;
	}
	return NULL;
}

/*
 * Queues have no order between them. A page that is still on its way back to
 * the guest must not be given before: nothing but moves may be in the deflate
 * queue, and none of them may be of that page.
 */
static bool vbal_move_may_give(struct vbal_move *move, struct page *newpage)
{
	unsigned int nr_takes = 0, i;

	for (i = 0; i < VBAL_NR_MOVES; i++) {
		const struct vbal_move_slot *slot = &move->slot[i];

		if (vbal_token_done(&slot->take))
			continue;
		if (slot->old_pfn == page_to_pfn(newpage))
			return false;
		nr_takes++;
	}
	return vbal_wire_in_flight(move->wire, VBAL_VQ_DEFLATE) == nr_takes;
}

/* Who waits for a queue would have moves in front of him for good. */
static bool vbal_move_in_the_way(struct vbal_move *move, enum vbal_mode mode)
{
	if (mode == VBAL_MODE_RANGE)
		return vbal_wire_awaited(move->wire, VBAL_VQ_REPORT);
	return vbal_wire_awaited(move->wire, VBAL_VQ_INFLATE) ||
	       vbal_wire_awaited(move->wire, VBAL_VQ_DEFLATE);
}

/* A page that has just moved in must not leave before the host has it. */
static bool vbal_move_may_leave(struct vbal_move *move, struct page *page)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_MOVES; i++) {
		const struct vbal_move_slot *slot = &move->slot[i];

		if (slot->new_pfn == page_to_pfn(page) &&
		    !vbal_token_done(&slot->give))
			return false;
	}
	return true;
}

/* The frames of a page; false beyond the 16 TiB that 32 bits can name. */
static bool vbal_move_frames(struct vbal_move *move, struct page *page,
			     __virtio32 *pfns)
{
	u64 frame = (u64)page_to_pfn(page) * VBAL_FRAMES_PER_PAGE;
	unsigned int i;

	if (frame + VBAL_FRAMES_PER_PAGE - 1 > U32_MAX)
		return false;
	for (i = 0; i < VBAL_FRAMES_PER_PAGE; i++)
		pfns[i] = cpu_to_virtio32(move->wire->vdev, (u32)frame + i);
	return true;
}

static int vbal_move_by_range(struct vbal_move *move,
			      struct vbal_move_slot *slot, struct page *newpage)
{
	struct scatterlist give;
	int ret;

	slot->give_q = &move->wire->q[VBAL_VQ_REPORT];
	sg_init_table(&give, 1);
	sg_set_page(&give, newpage, PAGE_SIZE, 0);
	ret = vbal_vq_add_in(slot->give_q, &give, 1, &slot->give);
	if (!ret)
		vbal_vq_notify(slot->give_q);
	return ret;
}

static int vbal_move_by_pfn(struct vbal_move *move, struct vbal_move_slot *slot,
			    struct page *newpage, struct page *page)
{
	struct vbal_vq *take_q = &move->wire->q[VBAL_VQ_DEFLATE];
	struct scatterlist give, take;
	int ret;

	if (!vbal_move_frames(move, newpage, slot->give_pfns) ||
	    !vbal_move_frames(move, page, slot->take_pfns))
		return -ERANGE;
	slot->give_q = &move->wire->q[VBAL_VQ_INFLATE];
	slot->old_pfn = page_to_pfn(page);
	sg_init_one(&give, slot->give_pfns, sizeof(slot->give_pfns));
	sg_init_one(&take, slot->take_pfns, sizeof(slot->take_pfns));
	ret = vbal_vq_add_out_pair(slot->give_q, &give, &slot->give, take_q,
				   &take, &slot->take);
	if (ret)
		return ret;
	vbal_vq_notify(slot->give_q);
	vbal_vq_notify(take_q);
	return 0;
}

static bool vbal_move_slot_done(struct vbal_vq *q, void *arg)
{
	struct vbal_move_slot *slot = arg;

	return vbal_token_done(&slot->take);
}

/* A silent host would keep the page's lock: it is reset instead. */
static int vbal_move_tell(struct vbal_move *move, struct vbal_move_slot *slot)
{
	if (!vbal_wire_has(move->wire, VIRTIO_BALLOON_F_MUST_TELL_HOST))
		return 0;
	return vbal_vq_wait_bounded(&move->wire->q[VBAL_VQ_DEFLATE],
				    vbal_move_slot_done, slot);
}

static int vbal_move_exchange(struct vbal_move *move, enum vbal_mode mode,
			      struct page *newpage, struct page *page)
{
	struct vbal_move_slot *slot;
	int ret;

	lockdep_assert_held(&move->lock);
	if (!vbal_life_is_up(&move->wire->life) ||
	    vbal_move_in_the_way(move, mode))
		return -EAGAIN;
	vbal_move_reap(move);
	slot = vbal_move_free_slot(move);
	if (!slot || !vbal_move_may_give(move, newpage) ||
	    !vbal_move_may_leave(move, page))
		return -EAGAIN;
	slot->new_pfn = page_to_pfn(newpage);
	WRITE_ONCE(slot->nr_uses, slot->nr_uses + 1);
	if (mode == VBAL_MODE_RANGE)
		ret = vbal_move_by_range(move, slot, newpage);
	else
		ret = vbal_move_by_pfn(move, slot, newpage, page);
	return ret ?: vbal_move_tell(move, slot);
}

/* How long a page is kept waiting; after that none is, for five times as long. */
#define VBAL_MOVE_WAIT_MS 1000

static struct vbal_vq *vbal_move_busy_queue(struct vbal_move *move,
					    enum vbal_mode mode)
{
	if (mode == VBAL_MODE_RANGE)
		return &move->wire->q[VBAL_VQ_REPORT];
	if (vbal_wire_in_flight(move->wire, VBAL_VQ_DEFLATE))
		return &move->wire->q[VBAL_VQ_DEFLATE];
	return &move->wire->q[VBAL_VQ_INFLATE];
}

/*
 * Not while somebody is out of memory or wants to go on, and not again and again
 * for a host that is silent.
 */
static bool vbal_move_pause(struct vbal_move *move, enum vbal_mode mode,
			    u64 end_ms)
{
	u64 now_ms = vbal_now_ms();

	if (READ_ONCE(move->wanted) || now_ms < READ_ONCE(move->rest_end_ms) ||
	    fatal_signal_pending(current) || freezing(current))
		return false;
	if (now_ms > end_ms) {
		WRITE_ONCE(move->rest_end_ms, now_ms + 5 * VBAL_MOVE_WAIT_MS);
		return false;
	}
	vbal_vq_wait_tick(vbal_move_busy_queue(move, mode));
	return true;
}

static int vbal_move_try(struct vbal_move *move, enum vbal_mode mode,
			 struct page *newpage, struct page *page)
{
	int ret;

	if (READ_ONCE(move->wanted) || !mutex_trylock(&move->lock))
		return -EAGAIN;
	ret = vbal_move_exchange(move, mode, newpage, page);
	mutex_unlock(&move->lock);
	return ret;
}

/* Called with both pages locked; the old one is isolated. */
static int vbal_move_page(struct vbal_pages *vp, enum vbal_mode mode,
			  struct page *newpage, struct page *page,
			  enum migrate_mode how)
{
	u64 end_ms = vbal_now_ms() + VBAL_MOVE_WAIT_MS;
	struct vbal_move *move = vp->move_arg;
	int ret;

	if (vbal_wire_has(move->wire, VIRTIO_BALLOON_F_MUST_TELL_HOST) &&
	    how == MIGRATE_ASYNC)
		return -EAGAIN;
	do
		ret = vbal_move_try(move, mode, newpage, page);
	while ((ret == -EAGAIN || ret == -ENOSPC) && how == MIGRATE_SYNC &&
	       vbal_life_is_up(&move->wire->life) &&
	       vbal_move_pause(move, mode, end_ms));
	return ret ? -EAGAIN : 0;
}

/* The first of the moves whose new page the host has still to see, or NULL. */
static struct vbal_move_slot *vbal_move_unseen(struct vbal_move *move)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_MOVES; i++)
		if (!vbal_token_done(&move->slot[i].give))
			return &move->slot[i];
	return NULL;
}

/* Of @pages, which are about to leave, those that must not go to @kept. */
static void vbal_move_withhold(struct vbal_pages *vp, struct list_head *pages,
			       struct list_head *kept)
{
	struct vbal_move *move = vp->move_arg;
	struct page *page, *next;

	if (vbal_life_is_over(&move->wire->life) || !vbal_move_unseen(move))
		return;
	lockdep_assert_held(&move->lock);
	vbal_move_reap(move);
	list_for_each_entry_safe(page, next, pages, lru)
		if (!vbal_move_may_leave(move, page))
			list_move(&page->lru, kept);
}

/**
 * vbal_move_init() - let held pages move
 * @move: the moves, zeroed
 * @wire: the way to the host
 * @vp: what is held
 *
 * Context: Probe.
 */
void vbal_move_init(struct vbal_move *move, struct vbal_wire *wire,
		    struct vbal_pages *vp)
{
	move->wire = wire;
	mutex_init(&move->lock);
	vp->migrate = vbal_move_page;
	vp->withhold = vbal_move_withhold;
	vp->move_arg = move;
}

/* A move that is waited for, as it was under the lock. */
struct vbal_move_look {
	struct vbal_move_slot *slot;
	struct vbal_vq *q;
	unsigned int nr_uses;
};

/* The next move in the same slot may be in another queue. */
static bool vbal_move_is_seen(struct vbal_vq *q, void *arg)
{
	struct vbal_move_look *look = arg;

	return vbal_token_done(&look->slot->give) ||
	       READ_ONCE(look->slot->nr_uses) != look->nr_uses;
}

/**
 * vbal_move_wait() - wait until the host has seen a page that moved in
 * @move: the moves
 *
 * Others may move meanwhile, and nobody is kept from giving pages back.
 *
 * Context: Size worker, without @move->lock.
 * Return: 1, 0 if the host has seen all of them, or -EIO as from vbal_vq_wait().
 */
int vbal_move_wait(struct vbal_move *move)
{
	struct vbal_move_look look;

	mutex_lock(&move->lock);
	look.slot = vbal_move_unseen(move);
	if (look.slot) {
		look.q = look.slot->give_q;
		look.nr_uses = look.slot->nr_uses;
	}
	mutex_unlock(&move->lock);
	if (!look.slot)
		return 0;
	return vbal_vq_wait(look.q, vbal_move_is_seen, &look) ?: 1;
}

/**
 * vbal_move_release() - forget moves that the host has not answered
 * @move: the moves
 *
 * Context: Disconnect, after the reset.
 */
void vbal_move_release(struct vbal_move *move)
{
	unsigned int i;

	for (i = 0; i < VBAL_NR_MOVES; i++) {
		move->slot[i].give.nr_pending = 0;
		move->slot[i].take.nr_pending = 0;
	}
}
