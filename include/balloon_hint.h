/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_HINT_H
#define _VBALLOON_HINT_H

#include <linux/list.h>
#include <linux/notifier.h>
#include <linux/page_reporting.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "balloon_size.h"
#include "balloon_virtio.h"

/* Rounds begin with the largest blocks that the allocator has. */
#define VBAL_HINT_ORDER MAX_PAGE_ORDER

/*
 * Blocks that the host can free without splitting a huge page of its own. The
 * kernel's default is a page block, 32 MiB with pages of 16 KiB: it does not
 * report before 32 of them are free in a zone, which small guests never have.
 */
#define VBAL_REPORTING_ORDER VBAL_BLOCK_ORDER

/**
 * enum vbal_hint_phase - where hinting is
 * @VBAL_HINT_IDLE: no round, or STOP was sent
 * @VBAL_HINT_ROUND: the host has our id and gets blocks
 * @VBAL_HINT_ENDING: STOP is to be sent
 */
enum vbal_hint_phase {
	VBAL_HINT_IDLE,
	VBAL_HINT_ROUND,
	VBAL_HINT_ENDING,
};

struct vbal_hint_slot;

/**
 * struct vbal_hint - free page hinting (virtio 1.2, 5.5.6.5)
 * @wire: the way to the host
 * @size: whose guard and pages say what the guest can spare
 * @wq: runs @work
 * @work: the only one that sends
 * @running: between start and stop; READ_ONCE in @work and config_changed
 * @changed: the host's id has to be read; set in config_changed. An int: there are
 *	machines that exchange nothing smaller
 * @phase: where we are; @work
 * @host_id: the host's command id as last read; @work
 * @round_id: id of the last round begun; @work
 * @order: largest order that this round still finds; @work
 * @met_cma: with @order it has come to a zone that may have an area of CMA; @work
 * @token: pending while the host has @cmd
 * @cmd: the one command buffer, device endian; ours while not pending
 * @slot: one for each block the ring can carry
 * @nr_slots: entries of @slot
 * @idle: slots without a block; @work
 * @busy: slots whose blocks the host may discard; @work
 * @busy_pages: pages in @busy; changed in @work, read anywhere
 * @lock: protects @ready; taken in reclaim, so nothing is allocated under it
 * @ready: blocks whose buffers the host has used, by page->lru; they go back to
 *	the guest at DONE, under memory pressure, or when memory goes offline
 * @ready_pages: pages in @ready; changed under @lock, read anywhere
 * @shrunk: memory pressure took blocks in this round; written by @shrinker
 * @shrinker: gives @ready back under memory pressure
 * @offlining: memory is going offline; written by @memory_nb
 * @memory_nb: gives blocks back then
 * @nr_rounds: rounds begun, for statistics
 * @nr_hinted_pages: pages hinted, for statistics
 */
struct vbal_hint {
	struct vbal_wire *wire;
	struct vbal_size *size;
	struct workqueue_struct *wq;
	struct work_struct work;
	bool running;
	int changed;

	enum vbal_hint_phase phase;
	u32 host_id;
	u32 round_id;
	unsigned int order;
	bool met_cma;
	struct vbal_token token;
	__virtio32 cmd;

	struct vbal_hint_slot *slot;
	unsigned int nr_slots;
	struct list_head idle;
	struct list_head busy;
	unsigned long busy_pages;

	/* shared with reclaim */
	spinlock_t lock;
	struct list_head ready;
	unsigned long ready_pages;
	bool shrunk;
	struct vbal_shrinker shrinker;
	bool offlining;
	struct notifier_block memory_nb;

	unsigned long nr_rounds;
	unsigned long nr_hinted_pages;
};

/**
 * struct vbal_report - free page reporting (virtio 1.2, 5.5.6.7)
 * @wire: the way to the host
 * @prdev: the kernel's side
 * @batch: what is on its way; the kernel's work is the only user
 * @registered: the kernel took it (it takes one device only)
 * @oom_nb: waits for pages that are out for a report
 * @nr_awaited: up to which report somebody out of memory has waited; @oom_nb
 * @last_pages: pages of the last report; the kernel's work is the only writer of
 *	this and what follows, read anywhere
 * @nr_begun: times the kernel reported
 * @nr_ended: of these, the last one that is over
 * @ended_jiffies: when that was
 * @nr_pages: pages reported and acknowledged, for statistics
 * @nr_failed: reports that the host did not acknowledge
 */
struct vbal_report {
	struct vbal_wire *wire;
	struct page_reporting_dev_info prdev;
	struct vbal_batch *batch;
	bool registered;
	struct notifier_block oom_nb;
	unsigned long nr_awaited;
	unsigned long last_pages;
	unsigned long nr_begun;
	unsigned long nr_ended;
	unsigned long ended_jiffies;
	unsigned long nr_pages;
	unsigned long nr_failed;
};

void vbal_hint_init(struct vbal_hint *h, struct vbal_size *size,
		    struct workqueue_struct *wq);
int vbal_hint_start(struct vbal_hint *h);
void vbal_hint_changed(struct vbal_hint *h);
void vbal_hint_stop(struct vbal_hint *h);
void vbal_hint_release(struct vbal_hint *h);

int vbal_report_alloc(struct vbal_report *r, struct vbal_wire *wire);
void vbal_report_free(struct vbal_report *r);
int vbal_report_start(struct vbal_report *r);
void vbal_report_stop(struct vbal_report *r);

#endif /* _VBALLOON_HINT_H */
