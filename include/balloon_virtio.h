/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_VIRTIO_H
#define _VBALLOON_VIRTIO_H

#include <linux/mutex.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/types.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "balloon_debug.h"
#include "balloon_life.h"
#include "balloon_pages.h"

/*
 * Firecracker never returns a buffer of more PFNs, Cloud Hypervisor ignores
 * one: 256 and one descriptor each is what every host understands.
 */
#define VBAL_PFNS_PER_BUF 256
/*
 * While a host works off what lies in a ring it may do nothing else: QEMU holds its
 * lock, and the guest waits for its disks, emulated also for its timers. So the
 * ring gets a millisecond of work at a time; Firecracker merges over 8 buffers.
 */
#define VBAL_BUFS_PER_BATCH 4
#define VBAL_PFNS_PER_BATCH (VBAL_PFNS_PER_BUF * VBAL_BUFS_PER_BATCH)
#define VBAL_RANGES_PER_BATCH 32
/* One is filled while the host has the other. */
#define VBAL_NR_BATCHES 2
#define VBAL_BUFS_IN_FLIGHT (VBAL_BUFS_PER_BATCH * VBAL_NR_BATCHES)
/* Out of memory nothing else counts: half of QEMU's ring. */
#define VBAL_BUFS_PER_OOM_STEP 64
/* Shorter ranges gain nothing over PFNs: as many pages to a request. */
#define VBAL_RANGE_MIN_ORDER 3
/* What one chain may name (virtio 1.2, 2.7.5.2); blocks of 64 KiB pages are large. */
#define VBAL_CHAIN_MAX_BYTES ((unsigned long)U32_MAX)

/**
 * enum vbal_vq_id - the device's queues, in its order (virtio 1.2, 5.5.2)
 * @VBAL_VQ_INFLATE: pages given to the host, as PFNs
 * @VBAL_VQ_DEFLATE: pages taken back, as PFNs
 * @VBAL_VQ_STATS: statistics
 * @VBAL_VQ_HINT: free page hinting
 * @VBAL_VQ_REPORT: free page reporting, and blocks given as ranges
 * @VBAL_NR_VQS: number of queues
 */
enum vbal_vq_id {
	VBAL_VQ_INFLATE,
	VBAL_VQ_DEFLATE,
	VBAL_VQ_STATS,
	VBAL_VQ_HINT,
	VBAL_VQ_REPORT,
	VBAL_NR_VQS,
};

/**
 * struct vbal_vq - one queue
 * @wire: whose queue it is; constant
 * @vq: the virtqueue, NULL when the device has none; constant while connected
 * @lock: serialises all that is done with @vq. Innermost, never held while
 *	notifying or waiting
 * @quiet: interrupts are wanted only while somebody waits; constant
 * @wait: woken by the host's interrupt and by who reaps for others
 * @work: queued by each interrupt, may be NULL; constant
 * @work_wq: runs @work; constant
 * @nr_awaiting: so many wait until there is room, or the host has nothing of it
 * @nr_in_flight: buffers the host has; under @lock
 * @progress_jiffies: when a buffer came back last; READ_ONCE
 * @nr_bufs: buffers ever submitted; under @lock
 * @nr_notify: notifications sent; under @lock
 * @nr_notifying: of those, how many are just being sent
 * @nr_interrupts: callbacks seen; written by the callback only
 * @nr_missed: answers of the host that woke nobody; under @lock
 */
struct vbal_vq {
	struct vbal_wire *wire;
	struct virtqueue *vq;
	spinlock_t lock;
	bool quiet;
	wait_queue_head_t wait;
	struct work_struct *work;
	struct workqueue_struct *work_wq;
	atomic_t nr_awaiting;
	unsigned int nr_in_flight;
	unsigned long progress_jiffies;
	unsigned long nr_bufs;
	unsigned long nr_notify;
	atomic_t nr_notifying;
	unsigned long nr_interrupts;
	unsigned long nr_missed;
};

/* What somebody waits for at a queue; called often, also while not asleep. */
typedef bool vbal_vq_cond(struct vbal_vq *q, void *arg);

/**
 * struct vbal_token - what a buffer in flight belongs to
 * @nr_pending: buffers that the host still has; changed under vbal_vq.lock,
 *	read anywhere
 *
 * The address of a token travels with each buffer through the ring.
 */
struct vbal_token {
	unsigned int nr_pending;
};

/**
 * struct vbal_batch - blocks that travel together, and their buffers
 * @token: outstanding buffers
 * @node: for whoever owns the batch
 * @id: the queue it travels by
 * @mode: set by vbal_wire_load()
 * @blocks: the blocks. They stay here until the batch has been acknowledged,
 *	or until the device is dead
 * @start_ns: when it was submitted, for latency statistics
 * @max_bufs: capacity of @pfns in buffers
 * @nr_pfns: frames in @pfns
 * @nr_ranges: entries of @sg
 * @sg: ranges, VBAL_MODE_RANGE
 * @pfns: frame numbers, VBAL_MODE_PFN
 */
struct vbal_batch {
	struct vbal_token token;
	struct list_head node;
	enum vbal_vq_id id;
	enum vbal_mode mode;
	struct vbal_blocks blocks;
	u64 start_ns;
	unsigned int max_bufs;
	unsigned int nr_pfns;
	unsigned int nr_ranges;
	struct scatterlist sg[VBAL_RANGES_PER_BATCH];
	__virtio32 *pfns;
};

struct vbal_wire;

typedef void vbal_broke_fn(struct vbal_wire *wire);

/**
 * struct vbal_wire - everything between this driver and the host
 * @vdev: the virtio device; its priv points here
 * @life: whether there is a connection, and what may be done with it
 * @broke: tells the owner of a connected device that broke; constant
 * @q: the queues
 * @kill_lock: one reset only
 * @kill_work: resets a device whose queue broke while nobody waited for it
 * @falls_asleep: no wait for a silent host is without an end
 * @max_ranges: ranges in one request, so that two fit the reporting queue
 * @target_frames: what the device has asked for last; size worker
 * @actual_frames: last value written to the device; size worker
 * @actual_known: @actual_frames is what the device has
 * @answer: how long the host took for a batch
 */
struct vbal_wire {
	struct virtio_device *vdev;
	struct vbal_life life;
	vbal_broke_fn *broke;
	struct vbal_vq q[VBAL_NR_VQS];
	struct mutex kill_lock;
	struct work_struct kill_work;
	bool falls_asleep;
	unsigned int max_ranges;

	u32 target_frames;
	u32 actual_frames;
	bool actual_known;

	struct vbal_hist answer;
};

/* How long a silent host may hold up the driver's end, or who is out of memory. */
#define VBAL_GRACE_MS 5000

struct vbal_batch *vbal_batch_alloc(unsigned int max_bufs);
void vbal_batch_free(struct vbal_batch *batch);

void vbal_wire_init(struct vbal_wire *wire, struct virtio_device *vdev,
		    vbal_broke_fn *broke);
void vbal_wire_listen(struct vbal_wire *wire, enum vbal_vq_id id,
		      struct workqueue_struct *wq, struct work_struct *work);
int vbal_wire_connect(struct vbal_wire *wire);
void vbal_wire_disconnect(struct vbal_wire *wire);
void vbal_wire_kill(struct vbal_wire *wire);
void vbal_wire_reset(struct vbal_wire *wire);
bool vbal_wire_gone(struct vbal_wire *wire);
bool vbal_wire_is_broken(struct vbal_wire *wire);
bool vbal_wire_usable(struct vbal_wire *wire, enum vbal_vq_id id);

unsigned int vbal_wire_fit(const struct vbal_wire *wire, struct scatterlist *sg,
			   unsigned int nents);
void vbal_wire_room(struct vbal_wire *wire, const struct vbal_batch *batch,
		    enum vbal_mode mode, struct vbal_want *want);
bool vbal_wire_offers(struct vbal_wire *wire, unsigned int bit);
bool vbal_wire_keeps_reported(const struct vbal_wire *wire);
int __must_check vbal_wire_load(struct vbal_wire *wire,
				struct vbal_batch *batch, enum vbal_vq_id id);
int __must_check vbal_wire_submit(struct vbal_wire *wire,
				  struct vbal_batch *batch);
int __must_check vbal_wire_try_submit(struct vbal_wire *wire,
				      struct vbal_batch *batch);
unsigned int vbal_wire_free_pfns(struct vbal_wire *wire,
				 const struct vbal_batch *batch,
				 enum vbal_vq_id id);
bool vbal_wire_done(struct vbal_wire *wire, struct vbal_batch *batch);
int __must_check vbal_wire_wait(struct vbal_wire *wire,
				struct vbal_batch *batch);
int __must_check vbal_wire_drain(struct vbal_wire *wire, enum vbal_vq_id id);
void vbal_wire_acked(struct vbal_wire *wire, const struct vbal_batch *batch);

int __must_check vbal_vq_add_out(struct vbal_vq *q, struct scatterlist *sg,
				 unsigned int nents, struct vbal_token *token);
int __must_check vbal_vq_add_in(struct vbal_vq *q, struct scatterlist *sg,
				unsigned int nents, struct vbal_token *token);
int vbal_vq_add_out_pair(struct vbal_vq *q1, struct scatterlist *sg1,
			 struct vbal_token *token1, struct vbal_vq *q2,
			 struct scatterlist *sg2, struct vbal_token *token2);
void vbal_vq_notify(struct vbal_vq *q);
void vbal_vq_reap(struct vbal_vq *q);
int __must_check vbal_vq_wait(struct vbal_vq *q, vbal_vq_cond *cond, void *arg);
int __must_check vbal_vq_wait_bounded(struct vbal_vq *q, vbal_vq_cond *cond,
				      void *arg);
void vbal_vq_wait_tick(struct vbal_vq *q);

u32 vbal_wire_target_frames(struct vbal_wire *wire);
void vbal_wire_set_actual(struct vbal_wire *wire, u32 nr_frames);
u32 vbal_wire_hint_cmd(struct vbal_wire *wire, u32 last);
unsigned int vbal_wire_in_flight(struct vbal_wire *wire, enum vbal_vq_id id);
bool vbal_wire_awaited(struct vbal_wire *wire, enum vbal_vq_id id);

/**
 * vbal_wire_has() - was a feature negotiated
 * @wire: the wire
 * @bit: VIRTIO_BALLOON_F_*
 */
static inline bool vbal_wire_has(const struct vbal_wire *wire, unsigned int bit)
{
	return virtio_has_feature(wire->vdev, bit);
}

static inline bool vbal_token_done(const struct vbal_token *token)
{
	/* Pairs with the release in vbal_vq_reap(): the host is done with it. */
	return !smp_load_acquire(&token->nr_pending);
}

#endif /* _VBALLOON_VIRTIO_H */
