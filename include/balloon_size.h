/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_SIZE_H
#define _VBALLOON_SIZE_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/types.h>
#include <linux/workqueue.h>

#include "balloon_debug.h"
#include "balloon_guard.h"
#include "balloon_move.h"
#include "balloon_pages.h"
#include "balloon_virtio.h"

/*
 * So long the balloon's OOM notifier waits for the host, or for whoever has the
 * pages; that of free page reports has VBAL_GRACE_MS.
 */
#define VBAL_OOM_WAIT_MS 1000
/* The balloon gives first: where that helps nobody waits for a report. */
#define VBAL_OOM_PRIORITY 80
#define VBAL_OOM_REPORT_PRIORITY (VBAL_OOM_PRIORITY - 1)

/**
 * struct vbal_size - the balloon's size, and all that decides it
 * @wire: the way to the host
 * @pages: what is held
 * @guard: what the guest can spare
 * @debug: what is counted and timed
 * @move: pages that make way
 * @wq: runs @work
 * @work: the size worker
 * @settle_work: lets held pages move, once the balloon rests
 * @moved: pages came or went in this slice; size worker
 * @ranges: ranges are in use; constant while connected
 * @free_batches: the worker's batches not in use; size worker
 * @busy_batches: the worker's batches in flight, oldest first; size worker
 * @busy_pages: pages in @busy_batches on their way in, less those on their way
 *	out; size worker
 * @relieve_to_pages: under pressure the balloon is to shrink to this; ULONG_MAX
 *	if nothing is owed; size worker
 * @oom_lock: one giver-back at a time, trylock only
 * @oom_batch: for giving back in the OOM notifier; under @oom_lock
 * @oom_unsent: @oom_batch is loaded, but the ring was full; under @oom_lock
 * @oom_nb: DEFLATE_ON_OOM
 * @memory_nb: memory that goes offline
 * @target_frames: what the host asked for last; written by the size worker
 * @actual_frames: what the host was told last; written by the size worker, and
 *	at disconnect
 * @state: what the balloon does; written by the size worker, or by whoever has
 *	stopped it
 * @state_since_ms: since when (monotonic clock)
 * @why: and why, a constant phrase
 * @retry_at_ms: no new attempt at an unchanged target before; size worker
 * @retry_now: unless somebody changed a setting; xchg, so an int
 * @resize_start_ns: when the present resize began, 0 between resizes
 * @resize_from_pages: what was held then
 * @last_inflate_bps: bytes a second of the last inflate
 * @last_deflate_bps: bytes a second of the last deflate
 * @clamp_warned: the warning about a target beyond RAM was given
 */
struct vbal_size {
	struct vbal_wire *wire;
	struct vbal_pages pages;
	struct vbal_guard guard;
	struct vbal_debug debug;
	struct vbal_move move;

	struct workqueue_struct *wq;
	struct delayed_work work;
	struct delayed_work settle_work;
	bool moved;
	bool ranges;

	struct list_head free_batches;
	struct list_head busy_batches;
	long busy_pages;
	unsigned long relieve_to_pages;

	struct mutex oom_lock;
	struct vbal_batch *oom_batch;
	bool oom_unsent;
	struct notifier_block oom_nb;
	struct notifier_block memory_nb;

	u32 target_frames;
	u32 actual_frames;
	enum vbal_state state;
	u64 state_since_ms;
	const char *why;
	u64 retry_at_ms;
	int retry_now;
	u64 resize_start_ns;
	unsigned long resize_from_pages;
	u64 last_inflate_bps;
	u64 last_deflate_bps;
	bool clamp_warned;
};

/* life */
int vbal_size_alloc(struct vbal_size *size, struct vbal_wire *wire);
void vbal_size_free(struct vbal_size *size);
int vbal_size_start(struct vbal_size *size, bool ranges);
void vbal_size_stop(struct vbal_size *size);
void vbal_size_give_back(struct vbal_size *size);
void vbal_size_release(struct vbal_size *size);

/* while it is up */
void vbal_size_wake(struct vbal_size *size);
void vbal_size_retry(struct vbal_size *size);
bool vbal_oom_pause(unsigned long end);
void vbal_size_set_state(struct vbal_size *size, enum vbal_state state,
			 const char *why);
unsigned long vbal_size_ram_pages(struct vbal_size *size);
void vbal_size_sample(struct vbal_size *size, struct vbal_signals *s);
u64 vbal_size_retry_in_ms(const struct vbal_size *size);

#endif /* _VBALLOON_SIZE_H */
