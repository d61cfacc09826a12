/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_SYSFS_H
#define _VBALLOON_SYSFS_H

#include <linux/atomic.h>
#include <linux/spinlock.h>
#include <linux/sysfs.h>
#include <linux/types.h>

#include "balloon_guard.h"
#include "balloon_virtio.h"

struct dentry;
struct vbal_dev;

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
 * struct vbal_debug - what debugfs shows
 * @dir: the device's directory
 * @alloc: taking the blocks for one batch
 * @ack: from submitting a batch to the host's answer
 * @resize: from the first move to the next rest
 * @start_ns: when the balloon began to move, 0 while it rests; size worker
 * @from_pages: what was held then; size worker
 * @phase_ns: phases since then; size worker
 * @lock: protects @log and @nr_logs
 * @log: the last resizes, a ring
 * @nr_logs: resizes ever logged
 */
struct vbal_debug {
	struct dentry *dir;
	struct vbal_hist alloc;
	struct vbal_hist ack;
	struct vbal_hist resize;

	u64 start_ns;
	unsigned long from_pages;
	u64 phase_ns[VBAL_NR_PHASES];

	/* between the size worker and readers */
	spinlock_t lock;
	struct vbal_resize_log log[VBAL_NR_RESIZE_LOGS];
	unsigned int nr_logs;
};

extern const struct attribute_group *vbal_dev_groups[];

void vbal_debug_register(void);
void vbal_debug_unregister(void);
void vbal_debug_init(struct vbal_dev *vb);
void vbal_debug_exit(struct vbal_dev *vb);

/* what the others tell; cheap enough to be always on */
void vbal_debug_phase(struct vbal_dev *vb, enum vbal_phase phase, u64 start_ns);
void vbal_debug_acked(struct vbal_dev *vb, const struct vbal_batch *batch);
void vbal_debug_state(struct vbal_dev *vb, enum vbal_state state);

#endif /* _VBALLOON_SYSFS_H */
