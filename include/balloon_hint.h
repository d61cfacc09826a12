/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_HINT_H
#define _VBALLOON_HINT_H

#include <linux/atomic.h>
#include <linux/page_reporting.h>
#include <linux/workqueue.h>

#include "balloon_virtio.h"

struct vbal_dev;

/* Hinted blocks are as large as the allocator has them. */
#define VBAL_HINT_ORDER		MAX_PAGE_ORDER

/**
 * struct vbal_hint - free page hinting (virtio 1.2, 5.5.6.5)
 *
 * Filled in by balloon_hint.c; see there for the protocol.
 * @work: a round, or its end; runs on vbal_dev.side_wq
 * @token: for the command buffers
 * @cmd: the command that is in flight to the host, device endian
 * @active_id: id of the round this driver runs, VIRTIO_BALLOON_CMD_ID_STOP
 *	between rounds; the work only
 * @pages: blocks whose buffers the host has used, free to go back to the guest
 *	at DONE or under memory pressure; under @lock
 * @lock: protects @pages and @nr_ready
 * @nr_ready: blocks on @pages
 * @slot: one for each buffer in flight, with the block it carries
 * @nr_slots: entries of @slot
 * @shrinker: gives @pages back under memory pressure
 * @nr_rounds: rounds begun, for statistics
 * @nr_hinted_pages: pages hinted, for statistics
 */
struct vbal_hint {
	struct work_struct work;
	struct vbal_token token;
	__virtio32 cmd;
	u32 active_id;
	struct list_head pages;
	spinlock_t lock;
	unsigned long nr_ready;
	struct vbal_hint_slot *slot;
	unsigned int nr_slots;
	struct vbal_shrinker shrinker;
	unsigned long nr_rounds;
	unsigned long nr_hinted_pages;
};

/**
 * struct vbal_report - free page reporting (virtio 1.2, 5.5.6.7)
 * @prdev: the kernel's side
 * @registered: the kernel took it (it takes one device only)
 * @nr_calls: times the kernel reported, for statistics
 * @nr_pages: pages reported and acknowledged, for statistics
 * @nr_failed: reports that the host did not acknowledge
 */
struct vbal_report {
	struct page_reporting_dev_info prdev;
	bool registered;
	unsigned long nr_calls;
	unsigned long nr_pages;
	unsigned long nr_failed;
};

int vbal_hint_init(struct vbal_dev *vb);
int vbal_hint_start(struct vbal_dev *vb);
void vbal_hint_changed(struct vbal_dev *vb);
void vbal_hint_stop(struct vbal_dev *vb);
void vbal_hint_release(struct vbal_dev *vb);
void vbal_hint_exit(struct vbal_dev *vb);

int vbal_report_start(struct vbal_dev *vb);
void vbal_report_stop(struct vbal_dev *vb);

#endif /* _VBALLOON_HINT_H */
