/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_STATS_H
#define _VBALLOON_STATS_H

#include <linux/types.h>
#include <linux/virtio_balloon.h>
#include <linux/vmstat.h>
#include <linux/workqueue.h>

#include "balloon_virtio.h"

/* Older headers' VIRTIO_BALLOON_S_NR is 10; the rest is in Linux since 6.12. */
#define VBAL_NR_STATS 16

/**
 * struct vbal_stats - the host's statistics (virtio 1.2, 5.5.6.3)
 * @wire: the way to the host
 * @work: answers a request; has a workqueue of its own, so that it never stands
 *	behind the size worker
 * @running: between start and stop; READ_ONCE in @work
 * @token: the one buffer; pending means that the host has it
 * @entry: what the buffer shows; ours while the host does not have it
 * @events: scratch for all_vm_events(), too large for the stack; @work only
 */
struct vbal_stats {
	struct vbal_wire *wire;
	struct work_struct work;
	bool running;
	struct vbal_token token;
	struct virtio_balloon_stat entry[VBAL_NR_STATS];
	unsigned long events[NR_VM_EVENT_ITEMS];
};

void vbal_stats_init(struct vbal_stats *st, struct vbal_wire *wire,
		     struct workqueue_struct *wq);
int vbal_stats_start(struct vbal_stats *st);
void vbal_stats_stop(struct vbal_stats *st);

#endif /* _VBALLOON_STATS_H */
