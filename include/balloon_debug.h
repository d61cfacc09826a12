/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_DEBUG_H
#define _VBALLOON_DEBUG_H

#include <linux/atomic.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "balloon_guard.h"

/* Bucket 0 counts below 1 us, bucket n from 2^(n-1) us on, the last all else. */
#define VBAL_HIST_BUCKETS 26
#define VBAL_NR_RESIZE_LOGS 16

/**
 * enum vbal_phase - what a resize spends its time with
 * @VBAL_PHASE_ALLOC: taking blocks from the allocator
 * @VBAL_PHASE_HOST: waiting for the host to acknowledge
 * @VBAL_PHASE_FREE: giving blocks back to the allocator
 * @VBAL_NR_PHASES: number of phases
 */
enum vbal_phase {
	VBAL_PHASE_ALLOC,
	VBAL_PHASE_HOST,
	VBAL_PHASE_FREE,
	VBAL_NR_PHASES,
};

/**
 * struct vbal_hist - how often something took how long
 * @nr: counts by powers of two of a microsecond
 */
struct vbal_hist {
	atomic_long_t nr[VBAL_HIST_BUCKETS];
};

/**
 * struct vbal_resize_log - the way to one target
 * @start_ns: when it began (monotonic clock)
 * @duration_ns: how long it took, pauses included
 * @phase_ns: how long of it each phase took
 * @nr_pauses: times that it came to rest on the way
 * @from_pages: what was held before
 * @to_pages: what was held after
 * @target_frames: what the host asked for
 * @state: where it ended
 */
struct vbal_resize_log {
	u64 start_ns;
	u64 duration_ns;
	u64 phase_ns[VBAL_NR_PHASES];
	unsigned int nr_pauses;
	unsigned long from_pages;
	unsigned long to_pages;
	u32 target_frames;
	enum vbal_state state;
};

/**
 * struct vbal_moment - a balloon at the moment in which its state changes
 * @from: the state that ends
 * @to: the state that begins
 * @held_pages: what is held
 * @target_frames: what the host asks for
 */
struct vbal_moment {
	enum vbal_state from;
	enum vbal_state to;
	unsigned long held_pages;
	u32 target_frames;
};

/**
 * struct vbal_debug - what is counted and timed for debugfs
 * @virtio: the N of virtioN, for tracepoints
 * @alloc: taking the blocks for one batch
 * @resize: from the first move to the next rest
 * @start_ns: when the balloon began to move, 0 while it rests; size worker
 * @from_pages: what was held then; size worker
 * @phase_ns: phases since then; size worker
 * @lock: protects @log and @nr_logs
 * @log: the last resizes, a ring
 * @nr_logs: resizes ever logged
 */
struct vbal_debug {
	int virtio;
	struct vbal_hist alloc;
	struct vbal_hist resize;

	u64 start_ns;
	unsigned long from_pages;
	u64 phase_ns[VBAL_NR_PHASES];

	/* between the size worker and readers */
	spinlock_t lock;
	struct vbal_resize_log log[VBAL_NR_RESIZE_LOGS];
	unsigned int nr_logs;
};

void vbal_debug_init(struct vbal_debug *d, int virtio);
void vbal_debug_phase(struct vbal_debug *d, enum vbal_phase phase,
		      u64 start_ns);
void vbal_debug_state(struct vbal_debug *d, const struct vbal_moment *moment);
unsigned int vbal_debug_logs(struct vbal_debug *d, struct vbal_resize_log *log);
void vbal_hist_add(struct vbal_hist *hist, u64 duration_ns);

#endif /* _VBALLOON_DEBUG_H */
