/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vballoon: a driver for the virtio memory balloon.
 *
 * The balloon is a set of blocks that the driver holds. One size worker moves
 * that set towards the target in the device's config space. Everything else is
 * a side entrance with a context of its own that never waits for it.
 *
 * Contexts
 *   size worker      vbal_dev.wq. The only one that inflates, and the only one
 *                    that deflates but for the OOM notifier. Works in slices
 *                    of VBAL_SLICE_MS, so that freezing need not wait; a step
 *                    of giving back under pressure is one slice.
 *   virtqueue        hard interrupt: wakes waiters, queues the stats and hint
 *     callback       works, nothing else.
 *   config_changed   hard interrupt: queues works.
 *   stats work       vbal_dev.stats_wq: allocates nothing, never waits for the
 *                    host or the size worker.
 *   hint work        vbal_dev.side_wq.
 *   page reporting   the kernel's work; waits for the host only.
 *   OOM notifier     in reclaim: allocates nothing, waits for no host (with
 *                    MUST_TELL_HOST: a moment), trylock only.
 *   migration        page lock held: trylock only, then waits for the host.
 *   remove, freeze,  one at a time (device lock, or vbal_dev.life).
 *     reboot, reset
 *
 * Locks, outermost first
 *   vbal_dev.life            mutex  connect, disconnect
 *   vbal_wire.oom_lock       mutex  oom_batch (trylock)
 *   vbal_wire.mig_lock       mutex  mig_give, mig_take (trylock)
 *   vbal_wire.kill_lock      mutex  the one reset
 *   vbal_pages.lock          spin   block lists
 *   balloon core's lock      spin   single pages
 *   vbal_vq.lock             spin   one virtqueue (interrupts off)
 *
 * A page's life
 *   allocated (a batch owns it) -> submitted (the host may discard it) ->
 *   acknowledged -> held (a bag owns it) -> picked (a batch owns it) -> told
 *   where it has to be -> free. From submitted on it goes back to the guest
 *   only after the host's acknowledgment or after the device was reset.
 *
 * The end
 *   stop the entrances, then the works, then give the blocks back (telling the
 *   host while it answers), then reset, then delete the queues. A silent host
 *   is reset after VBAL_GRACE_MS; a broken one at once. Both end every wait.
 */
#ifndef _VBALLOON_H
#define _VBALLOON_H

#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/workqueue.h>

#include "balloon_compat.h"
#include "balloon_guard.h"
#include "balloon_hint.h"
#include "balloon_pages.h"
#include "balloon_stats.h"
#include "balloon_sysfs.h"
#include "balloon_virtio.h"

/* actual is written and num_pages read again this often while moving. */
#define VBAL_SLICE_MS 100

/**
 * enum vbal_transfer - the parameter transfer=
 * @VBAL_TRANSFER_AUTO: ranges where the device can take them
 * @VBAL_TRANSFER_PFN: frame numbers only, the letter of the specification
 * @VBAL_TRANSFER_RANGE: ranges, or a warning
 */
enum vbal_transfer {
	VBAL_TRANSFER_AUTO,
	VBAL_TRANSFER_PFN,
	VBAL_TRANSFER_RANGE,
};

/**
 * struct vbal_dev - one balloon device
 * @vdev: the virtio device
 * @wire: queues and config space
 * @pages: what is held
 * @guard: what the guest can spare
 * @hint: free page hinting
 * @report: free page reporting
 * @stats: the host's statistics
 * @debug: what debugfs shows
 * @ranges: ranges are in use; constant while connected
 * @wq: runs @size_work
 * @stats_wq: runs the stats work
 * @side_wq: runs the hint work and @recover_work
 * @size_work: the size worker
 * @recover_work: resets a device that broke or asked for it
 * @life: serialises connect and disconnect
 * @live: connected; under @life, READ_ONCE in config_changed
 * @nr_recoveries: resets so far
 * @recover_pause_ms: pause before the last reset; the next is twice as long
 * @recovered_at_ms: when that was
 * @free_batches: the worker's batches not in use; size worker
 * @busy_batches: the worker's batches in flight, oldest first; size worker
 * @busy_pages: pages in @busy_batches on their way in, less those on their way
 *	out; size worker
 * @target_frames: what the host asked for last; written by the size worker
 * @actual_frames: what the host was told last; written by the size worker, and
 *	at disconnect
 * @state: what the balloon does; written by the size worker
 * @state_since_ms: since when (monotonic clock)
 * @why: and why, a constant phrase
 * @retry_at_ms: no new attempt at an unchanged target before; size worker
 * @retry_now: unless somebody changed a setting; xchg
 * @resize_start_ns: when the present resize began, 0 between resizes
 * @resize_from_pages: what was held then
 * @last_inflate_bps: bytes a second of the last inflate
 * @last_deflate_bps: bytes a second of the last deflate
 * @clamp_warned: the warning about a target beyond RAM was given
 * @oom_nb: DEFLATE_ON_OOM
 * @reboot_nb: stops the device before another kernel runs
 */
struct vbal_dev {
	struct virtio_device *vdev;
	struct vbal_wire wire;
	struct vbal_pages pages;
	struct vbal_guard guard;
	struct vbal_hint hint;
	struct vbal_report report;
	struct vbal_stats stats;
	struct vbal_debug debug;

	bool ranges;

	struct workqueue_struct *wq;
	struct workqueue_struct *stats_wq;
	struct workqueue_struct *side_wq;
	struct delayed_work size_work;
	struct delayed_work recover_work;
	struct mutex life;
	bool live;
	unsigned int nr_recoveries;
	unsigned int recover_pause_ms;
	u64 recovered_at_ms;

	struct list_head free_batches;
	struct list_head busy_batches;
	long busy_pages;
	u32 target_frames;
	u32 actual_frames;
	enum vbal_state state;
	u64 state_since_ms;
	const char *why;
	u64 retry_at_ms;
	bool retry_now;
	u64 resize_start_ns;
	unsigned long resize_from_pages;
	u64 last_inflate_bps;
	u64 last_deflate_bps;
	bool clamp_warned;

	struct notifier_block oom_nb;
	struct notifier_block reboot_nb;
};

void vbal_resize(struct vbal_dev *vb);
void vbal_device_broke(struct vbal_dev *vb);

/**
 * vbal_has() - was a feature negotiated
 * @vb: the device
 * @bit: VIRTIO_BALLOON_F_*
 */
static inline bool vbal_has(const struct vbal_dev *vb, unsigned int bit)
{
	return virtio_has_feature(vb->vdev, bit);
}

/**
 * vbal_retry_in_ms() - how long an unchanged target is not tried again
 * @vb: the device
 *
 * Return: what is left of the size worker's pause; 0 without one.
 */
static inline u64 vbal_retry_in_ms(const struct vbal_dev *vb)
{
	u64 now_ms = vbal_now_ms(), retry_at_ms = READ_ONCE(vb->retry_at_ms);

	return retry_at_ms > now_ms ? retry_at_ms - now_ms : 0;
}

/**
 * vbal_ram_pages() - what the guest has, ballooned pages included
 * @vb: the device
 *
 * Grows with memory hotplug.
 */
static inline unsigned long vbal_ram_pages(struct vbal_dev *vb)
{
	unsigned long nr_pages = totalram_pages();

	if (vb->pages.adjust_managed)
		nr_pages += vbal_pages_held(&vb->pages);
	return nr_pages;
}

#endif /* _VBALLOON_H */
