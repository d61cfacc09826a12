/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A host inside the kernel: a virtio device with real split rings, whose other
 * side a thread walks. The driver under test runs on it unchanged.
 */
#ifndef _VBALLOON_FAKE_HOST_H
#define _VBALLOON_FAKE_HOST_H

#include <linux/completion.h>
#include <linux/iopoll.h>
#include <linux/irq_work.h>
#include <linux/mutex.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <linux/wait.h>

enum fake_queue {
	FAKE_INFLATE,
	FAKE_DEFLATE,
	FAKE_STATS,
	FAKE_HINT,
	FAKE_REPORT,
	FAKE_NR_QUEUES,
};

#define FAKE_UNLIMITED INT_MAX
#define FAKE_NR_TAGS 32
#define FAKE_NR_CMDS 16
/* Buffers that it reads at a time. */
#define FAKE_LOOK 256

/**
 * struct fake_vq - the host's side of one queue
 * @vq: the driver's side, NULL while there is none
 * @ring: the memory both share
 * @num: ring size
 * @next: next entry of the avail ring to look at
 * @budget: buffers that the host will still read; 0 is a silent host
 * @lazy: it reads them, but does not use them
 * @heads: buffers read and not yet used
 * @nr_heads: entries of @heads
 * @nr_used: buffers used
 * @nr_notified: notifications from the driver
 * @irq: delivers the interrupt in hard interrupt context
 */
struct fake_vq {
	struct virtqueue *vq;
	void *ring;
	unsigned int num;
	u16 next;
	int budget;
	bool lazy;
	u16 heads[FAKE_LOOK];
	unsigned int nr_heads;
	unsigned long nr_used;
	atomic_t nr_notified;
	struct irq_work irq;
};

/**
 * struct fake_host - the host
 *
 * Set before fake_host_plug(); @budget of a queue and the behaviours may be
 * changed at any time. Everything that the host records is under @lock.
 *
 * @vdev: the device
 * @root: its parent
 * @released: the last reference to @vdev has gone
 * @offered: feature bits
 * @missing: queues that do not exist although their feature is offered
 * @ring_size: of each queue
 * @fail_queue: find_vqs fails at this queue, -1 for none
 * @fail_error: with this error
 * @unreadable: reads of the config space leave the buffer as it was
 * @used_len: the length to report for used buffers
 * @reverse: use the buffers of one look in reverse order
 * @twice: use each buffer twice
 * @deaf: notifications fail, as with a device that is being taken away
 * @lock: the host's side of everything
 * @config: config space
 * @status: device status, as the driver wrote it
 * @needs_reset: the device says so, until it is reset
 * @gone: it was pulled out
 * @hold_reset: a reset does not end
 * @lies: it has told of things that were not; it touches no page any more, and
 *	keeps no books, until it is reset
 * @q: queues by kind
 * @thread: walks the rings
 * @kick: wakes @thread
 * @kicked: there is something to look at
 * @config_irq: delivers config interrupts
 * @nr_range_bytes: bytes given by range or reported, held or not
 * @nr_reported: pages reported that nobody held
 * @nr_errors: things no correct driver does
 * @error: the first of them
 * @nr_actual_writes: writes of actual
 * @nr_resets: resets while the driver was ready
 * @stats_head: the statistics buffer that the host keeps, or -1
 * @nr_stats: statistics received
 * @tags: tags of the last statistics, in order
 * @nr_tags: entries of @tags
 * @stat: value by tag
 * @cmds: hint commands received
 * @nr_cmds: entries of @cmds
 * @nr_hinted: blocks hinted
 */
struct fake_host {
	struct virtio_device vdev;
	struct device *root;
	struct completion released;

	u64 offered;
	unsigned long missing;
	unsigned int ring_size[FAKE_NR_QUEUES];
	int fail_queue;
	int fail_error;
	bool unreadable;
	u32 used_len;
	bool reverse;
	bool twice;
	bool deaf;

	/* everything below */
	struct mutex lock;
	struct virtio_balloon_config config;
	u8 status;
	bool needs_reset;
	bool gone;
	bool hold_reset;
	bool lies;
	struct fake_vq q[FAKE_NR_QUEUES];
	struct task_struct *thread;
	wait_queue_head_t kick;
	atomic_t kicked;
	struct irq_work config_irq;

	u64 nr_range_bytes;
	unsigned long nr_reported;
	unsigned int nr_errors;
	const char *error;
	unsigned int nr_actual_writes;
	unsigned int nr_resets;

	int stats_head;
	unsigned long nr_stats;
	u16 tags[FAKE_NR_TAGS];
	unsigned int nr_tags;
	u64 stat[FAKE_NR_TAGS];

	u32 cmds[FAKE_NR_CMDS];
	unsigned int nr_cmds;
	unsigned long nr_hinted;
};

struct fake_host *fake_host_create(u64 features);
int fake_host_plug(struct fake_host *h);
void fake_host_unplug(struct fake_host *h);
void fake_host_destroy(struct fake_host *h);

bool fake_host_bound(struct fake_host *h);
void fake_host_set_target(struct fake_host *h, u32 nr_frames);
void fake_host_config_irq(struct fake_host *h);
void fake_host_set_budget(struct fake_host *h, enum fake_queue kind,
			  int budget);
void fake_host_set_lazy(struct fake_host *h, enum fake_queue kind, bool lazy);
void fake_host_silence(struct fake_host *h);
void fake_host_speak(struct fake_host *h);
void fake_host_needs_reset(struct fake_host *h);
void fake_host_pull_out(struct fake_host *h);
void fake_host_set_hint_cmd(struct fake_host *h, u32 cmd);
bool fake_host_ask_stats(struct fake_host *h);
void fake_host_forge(struct fake_host *h, enum fake_queue kind, u32 id,
		     u32 len);

u32 fake_host_actual(struct fake_host *h);

static inline bool fake_bool(bool value)
{
	return value;
}

/* Poll for a condition, generously: nothing here is a matter of time. */
#define fake_wait(cond)                                            \
	({                                                         \
		bool met__;                                        \
		read_poll_timeout(fake_bool, met__, met__, 2000,   \
				  60 * USEC_PER_SEC, false, cond); \
		met__;                                             \
	})

#endif /* _VBALLOON_FAKE_HOST_H */
