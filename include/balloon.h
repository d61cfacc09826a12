/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * vballoon: a driver for the virtio memory balloon.
 *
 * The balloon is a set of blocks that the driver holds. One size worker moves
 * that set towards the target in the device's config space. Everything else is
 * a side entrance with a context of its own that never waits for it.
 *
 * Rooms, each of which knows only those below it (make check sees to that)
 *   main             features, parameters, probe, remove, sleep, recovery
 *   sysfs            what people read
 *   (balloon.h)      struct vbal_dev: the rooms below, side by side
 *   hint             free page hinting, free page reporting
 *   size             the size worker, the OOM notifier
 *   move     stats   pages that make way; the host's statistics
 *   virtio           the wire: queues, buffers in flight, config space
 *   life     debug   the connection's state; what is counted and timed
 *   guard            what the guest can spare
 *   pages            what is held
 *   reclaim          room in zones and nodes, and how more becomes free
 *   compat           kernel versions
 *
 * Contexts
 *   size worker      vbal_size.wq. The only one that inflates, and the only one
 *                    that deflates but for the OOM notifier. Works in slices
 *                    of VBAL_SLICE_MS, so that freezing need not wait; a step
 *                    of giving back under pressure is one slice.
 *   virtqueue        hard interrupt: wakes waiters, queues the work that the
 *     callback       queue's user named, nothing else.
 *   config_changed   hard interrupt: queues works.
 *   stats work       vbal_dev.stats_wq: allocates nothing, never waits for the
 *                    host or the size worker.
 *   hint work        vbal_dev.side_wq.
 *   page reporting   the kernel's work; waits for the host only.
 *   OOM notifiers    in reclaim: allocate nothing, trylock only. The balloon's
 *                    waits for no host (with MUST_TELL_HOST: a moment); if it
 *                    gave nothing, that of reports does, once for each.
 *   migration        page lock held: trylock only; waits for nobody, but with
 *                    MIGRATE_SYNC a second at most (with MUST_TELL_HOST: for a
 *                    host that is not silent).
 *   remove, freeze,  one at a time (device lock, or vbal_dev.life_lock).
 *     reboot, reset
 *
 * Locks, outermost first
 *   vbal_dev.life_lock       mutex  connect, disconnect
 *   vbal_size.oom_lock       mutex  oom_batch (trylock but at the end)
 *   vbal_move.lock           mutex  moves; picking (trylock where a page is
 *                                   locked or memory is short)
 *   vbal_wire.kill_lock      mutex  the one reset
 *   vbal_pages.lock          spin   block lists
 *   balloon core's lock      spin   single pages
 *   vbal_vq.lock             spin   one virtqueue (interrupts off); a giving
 *                                   queue's before the deflate queue's
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
 *   Which of these a device is at is its life: balloon_life.h has the table.
 */
#ifndef _VBALLOON_H
#define _VBALLOON_H

#include <linux/mutex.h>
#include <linux/notifier.h>
#include <linux/virtio.h>
#include <linux/workqueue.h>

#include "balloon_hint.h"
#include "balloon_size.h"
#include "balloon_stats.h"
#include "balloon_virtio.h"

struct dentry;

/**
 * enum vbal_pfn_cause - what keeps blocks from travelling as ranges
 * @VBAL_PFN_PARAMETER: transfer=pfn
 * @VBAL_PFN_NOT_OFFERED: the device has no REPORTING
 * @VBAL_PFN_DECLINED: reporting=0
 * @VBAL_PFN_UNTOLD: freed pages have a content that the device cannot be told
 * @VBAL_PFN_NOT_TOLD: it could be, but for page_poison=0
 * @VBAL_PFN_POISON: the device was told to leave freed pages alone
 * @VBAL_PFN_NO_QUEUE: the device offers REPORTING without its queue
 * @VBAL_PFN_MUST_TELL_HOST: nothing may be taken back without a word
 * @VBAL_NR_PFN_CAUSES: how many there are
 */
enum vbal_pfn_cause {
	VBAL_PFN_PARAMETER,
	VBAL_PFN_NOT_OFFERED,
	VBAL_PFN_DECLINED,
	VBAL_PFN_UNTOLD,
	VBAL_PFN_NOT_TOLD,
	VBAL_PFN_POISON,
	VBAL_PFN_NO_QUEUE,
	VBAL_PFN_MUST_TELL_HOST,
	VBAL_NR_PFN_CAUSES,
};

/**
 * struct vbal_dev - one balloon device
 * @wire: queues and config space; the virtio device's priv points to it
 * @size: what is held, and all that decides it
 * @hint: free page hinting
 * @report: free page reporting
 * @stats: the host's statistics
 * @pfn_causes: bits of enum vbal_pfn_cause, none where ranges are in use; constant
 *	while connected
 * @debug_dir: the directory in debugfs
 * @stats_wq: runs the stats work
 * @side_wq: runs the hint work and @recover_work
 * @life_lock: serialises connect and disconnect
 * @recover_work: takes back what a broken device held, and sets it up anew
 * @nr_recoveries: times that it was
 * @recover_pause_ms: pause before the last of them; the next is twice as long
 * @recovered_at_ms: when that was
 * @reboot_nb: stops the device before another kernel runs
 * @pm_nb: has nobody wait for a silent host while the guest falls asleep
 */
struct vbal_dev {
	struct vbal_wire wire;
	struct vbal_size size;
	struct vbal_hint hint;
	struct vbal_report report;
	struct vbal_stats stats;
	unsigned long pfn_causes;
	struct dentry *debug_dir;

	struct workqueue_struct *stats_wq;
	struct workqueue_struct *side_wq;
	struct mutex life_lock;
	struct delayed_work recover_work;
	unsigned int nr_recoveries;
	unsigned int recover_pause_ms;
	u64 recovered_at_ms;
	struct notifier_block reboot_nb;
	struct notifier_block pm_nb;
};

static inline struct vbal_dev *vbal_dev_of(struct virtio_device *vdev)
{
	return container_of(vdev->priv, struct vbal_dev, wire);
}

#endif /* _VBALLOON_H */
