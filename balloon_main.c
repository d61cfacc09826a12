// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver: parameters, features, and the way of a device through its life
 * (balloon_life.h): probe, remove, sleep, reboot, and recovery after a break.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "balloon.h"

#include <linux/crash_dump.h>
#include <linux/module.h>
#include <linux/reboot.h>
#include <linux/slab.h>
#include <linux/suspend.h>
#include <linux/virtio_ring.h>

#include "balloon_sysfs.h"

/* Pause before a broken device is set up anew: this, doubled each time up to ... */
#define VBAL_RECOVER_MIN_MS 1000u
#define VBAL_RECOVER_MAX_MS 60000u
/* Of the longest line in the log, all options missing: some 250 bytes. */
#define VBAL_LINE_BYTES 320

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

static const char *const vbal_transfer_names[] = {
	[VBAL_TRANSFER_AUTO] = "auto",
	[VBAL_TRANSFER_PFN] = "pfn",
	[VBAL_TRANSFER_RANGE] = "range",
};

static enum vbal_transfer vbal_transfer = VBAL_TRANSFER_AUTO;

static int vbal_transfer_set(const char *val, const struct kernel_param *kp)
{
	int i = sysfs_match_string(vbal_transfer_names, val);

	if (i < 0) {
		pr_err("transfer=%s is unknown; valid: auto, pfn, range\n",
		       val);
		return i;
	}
	vbal_transfer = i;
	return 0;
}

static int vbal_transfer_get(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", vbal_transfer_names[vbal_transfer]);
}

static const struct kernel_param_ops vbal_transfer_ops = {
	.set = vbal_transfer_set,
	.get = vbal_transfer_get,
};
module_param_cb(transfer, &vbal_transfer_ops, NULL, 0444);
MODULE_PARM_DESC(transfer, "how blocks travel: auto (default), pfn, or range");

/* The features, and the parameters that decline them. */
static bool vbal_use_must_tell_host = true;
module_param_named(must_tell_host, vbal_use_must_tell_host, bool, 0444);
MODULE_PARM_DESC(must_tell_host, "accept MUST_TELL_HOST (default Y)");

static bool vbal_use_stats = true;
module_param_named(stats, vbal_use_stats, bool, 0444);
MODULE_PARM_DESC(stats, "accept STATS_VQ (default Y)");

static bool vbal_use_deflate_on_oom = true;
module_param_named(deflate_on_oom, vbal_use_deflate_on_oom, bool, 0444);
MODULE_PARM_DESC(deflate_on_oom, "accept DEFLATE_ON_OOM (default Y)");

static bool vbal_use_hinting = true;
module_param_named(hinting, vbal_use_hinting, bool, 0444);
MODULE_PARM_DESC(hinting, "accept FREE_PAGE_HINT (default Y)");

static bool vbal_use_page_poison = true;
module_param_named(page_poison, vbal_use_page_poison, bool, 0444);
MODULE_PARM_DESC(page_poison, "accept PAGE_POISON (default Y)");

static bool vbal_use_reporting = true;
module_param_named(reporting, vbal_use_reporting, bool, 0444);
MODULE_PARM_DESC(reporting, "accept REPORTING (default Y)");

/* Never a bit above 5: at least five proposals claim bit 6. */
static unsigned int vbal_features[] = {
	VIRTIO_BALLOON_F_MUST_TELL_HOST, VIRTIO_BALLOON_F_STATS_VQ,
	VIRTIO_BALLOON_F_DEFLATE_ON_OOM, VIRTIO_BALLOON_F_FREE_PAGE_HINT,
	VIRTIO_BALLOON_F_PAGE_POISON,	 VIRTIO_BALLOON_F_REPORTING,
};

static const bool *const vbal_feature_wanted[] = {
	[VIRTIO_BALLOON_F_MUST_TELL_HOST] = &vbal_use_must_tell_host,
	[VIRTIO_BALLOON_F_STATS_VQ] = &vbal_use_stats,
	[VIRTIO_BALLOON_F_DEFLATE_ON_OOM] = &vbal_use_deflate_on_oom,
	[VIRTIO_BALLOON_F_FREE_PAGE_HINT] = &vbal_use_hinting,
	[VIRTIO_BALLOON_F_PAGE_POISON] = &vbal_use_page_poison,
	[VIRTIO_BALLOON_F_REPORTING] = &vbal_use_reporting,
};

static const struct virtio_device_id vbal_id_table[] = {
	{ VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID },
	{ 0 },
};
MODULE_DEVICE_TABLE(virtio, vbal_id_table);

static void vbal_stop_services(struct vbal_dev *vb)
{
	vbal_report_stop(&vb->report);
	vbal_size_stop(&vb->size);
	vbal_hint_stop(&vb->hint);
	vbal_stats_stop(&vb->stats);
}

/* Why no range can be reported; VBAL_NR_PFN_CAUSES if one can. */
static enum vbal_pfn_cause vbal_why_no_reports(struct vbal_dev *vb)
{
	struct vbal_wire *wire = &vb->wire;

	if (!vbal_wire_offers(wire, VIRTIO_BALLOON_F_REPORTING))
		return VBAL_PFN_NOT_OFFERED;
	if (!vbal_use_reporting)
		return VBAL_PFN_DECLINED;
	if (!vbal_wire_has(wire, VIRTIO_BALLOON_F_REPORTING))
		return vbal_wire_offers(wire, VIRTIO_BALLOON_F_PAGE_POISON) ?
			       VBAL_PFN_NOT_TOLD :
			       VBAL_PFN_UNTOLD;
	if (vbal_wire_keeps_reported(wire))
		return VBAL_PFN_POISON;
	if (!vbal_wire_usable(wire, VBAL_VQ_REPORT))
		return VBAL_PFN_NO_QUEUE;
	return VBAL_NR_PFN_CAUSES;
}

/*
 * A range is given without the inflate queue and taken without the deflate
 * queue. With MUST_TELL_HOST nothing may be taken without a word.
 */
static unsigned long vbal_find_pfn_causes(struct vbal_dev *vb)
{
	unsigned long causes = BIT(vbal_why_no_reports(vb));

	if (vbal_transfer == VBAL_TRANSFER_PFN)
		causes |= BIT(VBAL_PFN_PARAMETER);
	if (vbal_wire_has(&vb->wire, VIRTIO_BALLOON_F_MUST_TELL_HOST))
		causes |= BIT(VBAL_PFN_MUST_TELL_HOST);
	return causes & ~BIT(VBAL_NR_PFN_CAUSES);
}

/* How fast the balloon is depends on it, and the host decides it. */
static void vbal_choose_transfer(struct vbal_dev *vb)
{
	struct device *dev = &vb->wire.vdev->dev;
	char why[VBAL_TRANSFER_REASON_LEN];

	WRITE_ONCE(vb->pfn_causes, vbal_find_pfn_causes(vb));
	vbal_transfer_reason(vb, why, sizeof(why));
	if (vb->pfn_causes && vbal_transfer == VBAL_TRANSFER_RANGE)
		dev_warn(dev, "no transfer=range here, but pfn: %s\n", why);
	else
		dev_info(dev, "transfer is %s: %s\n",
			 vb->pfn_causes ? "pfn" : "range", why);
}

/* All of them may notify the device: after DRIVER_OK. */
static int vbal_start_services(struct vbal_dev *vb)
{
	int ret;

	vbal_choose_transfer(vb);
	ret = vbal_stats_start(&vb->stats);
	if (!ret)
		ret = vbal_hint_start(&vb->hint);
	if (!ret)
		ret = vbal_size_start(&vb->size, !vb->pfn_causes);
	if (!ret)
		ret = vbal_report_start(&vb->report);
	/* The device may have broken in the meantime. */
	if (!ret && vbal_life_try(&vb->wire.life, VBAL_LIFE_UP) < 0)
		ret = -EIO;
	return ret;
}

/* From any state but DOWN and GONE to DOWN; @tell: the host may still answer. */
static void vbal_disconnect_locked(struct vbal_dev *vb, bool tell)
{
	enum vbal_life_state state = vbal_life_now(&vb->wire.life);

	lockdep_assert_held(&vb->life_lock);
	if (state == VBAL_LIFE_DOWN || state == VBAL_LIFE_GONE)
		return;
	/* Refused where the device broke, or never was up. */
	tell = vbal_life_try(&vb->wire.life, VBAL_LIFE_STOPPING) >= 0 && tell;
	vbal_stop_services(vb);
	if (tell)
		vbal_size_give_back(&vb->size);
	vbal_wire_kill(&vb->wire);
	vbal_size_release(&vb->size);
	vbal_hint_release(&vb->hint);
	vbal_wire_disconnect(&vb->wire);
}

static int vbal_connect(struct vbal_dev *vb)
{
	int ret;

	mutex_lock(&vb->life_lock);
	/* Another kernel is to follow, or this is one restore too many. */
	ret = -EBUSY;
	if (vbal_life_now(&vb->wire.life) != VBAL_LIFE_DOWN)
		goto out;
	ret = vbal_wire_connect(&vb->wire);
	if (ret)
		goto out;
	virtio_device_ready(vb->wire.vdev);
	ret = vbal_start_services(vb);
	if (ret)
		vbal_disconnect_locked(vb, false);
out:
	mutex_unlock(&vb->life_lock);
	if (ret)
		return ret;
	vbal_size_retry(&vb->size);
	vbal_hint_changed(&vb->hint);
	return 0;
}

static void vbal_disconnect(struct vbal_dev *vb)
{
	mutex_lock(&vb->life_lock);
	vbal_disconnect_locked(vb, true);
	mutex_unlock(&vb->life_lock);
}

/* The last disconnect: nothing connects any more. */
static void vbal_end(struct vbal_dev *vb, bool tell)
{
	mutex_lock(&vb->life_lock);
	vbal_disconnect_locked(vb, tell);
	/* Refused where a reboot has done so before. */
	vbal_life_try(&vb->wire.life, VBAL_LIFE_GONE);
	mutex_unlock(&vb->life_lock);
}

/*
 * A device that broke, or that asked for it (virtio 1.2, 2.1.2), has been reset
 * by whoever noticed. What it held goes back to the guest at once; then it is
 * set up anew, each time after a longer pause, unless that is long ago. One
 * that was pulled out only loses its pages.
 */
static void vbal_broke(struct vbal_wire *wire)
{
	struct vbal_dev *vb = container_of(wire, struct vbal_dev, wire);

	dev_err_ratelimited(
		&wire->vdev->dev,
		"the device broke, giving its pages back and resetting it\n");
	mod_delayed_work(vb->side_wq, &vb->recover_work, 0);
}

static unsigned int vbal_recover_pause(struct vbal_dev *vb)
{
	u64 since_ms = vbal_now_ms() - vb->recovered_at_ms;

	if (since_ms > 2 * VBAL_RECOVER_MAX_MS)
		vb->recover_pause_ms = 0;
	vb->recover_pause_ms = clamp(2 * vb->recover_pause_ms,
				     VBAL_RECOVER_MIN_MS, VBAL_RECOVER_MAX_MS);
	return vb->recover_pause_ms;
}

static void vbal_recover_later(struct vbal_dev *vb, unsigned int pause_ms)
{
	queue_delayed_work(vb->side_wq, &vb->recover_work,
			   msecs_to_jiffies(pause_ms));
}

#ifdef CONFIG_PM_SLEEP
static void vbal_set_up_anew(struct vbal_dev *vb)
{
	struct virtio_device *vdev = vb->wire.vdev;
	int ret;

	vb->nr_recoveries++;
	vb->recovered_at_ms = vbal_now_ms();
	ret = virtio_device_freeze(vdev);
	if (!ret)
		ret = virtio_device_restore(vdev);
	if (ret)
		dev_err_ratelimited(
			&vdev->dev,
			"the device could not be set up again (%d), trying later\n",
			ret);
}

/* Remove and sleep have the device's lock; remove waits for this work. */
static void vbal_recover(struct vbal_dev *vb)
{
	struct virtio_device *vdev = vb->wire.vdev;

	if (!device_trylock(&vdev->dev)) {
		vbal_recover_later(vb, VBAL_RECOVER_MIN_MS);
		return;
	}
	if (vbal_life_now(&vb->wire.life) == VBAL_LIFE_DOWN &&
	    !vbal_wire_gone(&vb->wire))
		vbal_set_up_anew(vb);
	device_unlock(&vdev->dev);
	if (vbal_life_now(&vb->wire.life) == VBAL_LIFE_DOWN &&
	    !vbal_wire_gone(&vb->wire))
		vbal_recover_later(vb, VBAL_RECOVER_MAX_MS);
}
#else
/* Without the core's freeze and restore the guest has its memory, and that's it. */
static void vbal_recover(struct vbal_dev *vb)
{
}
#endif

static void vbal_recover_work_fn(struct work_struct *work)
{
	struct vbal_dev *vb = container_of(to_delayed_work(work),
					   struct vbal_dev, recover_work);

	switch (vbal_life_now(&vb->wire.life)) {
	case VBAL_LIFE_RESETTING:
	case VBAL_LIFE_DEAD:
		vbal_disconnect(vb);
		vbal_size_set_state(&vb->size, VBAL_STATE_BROKEN,
				    "the device stopped working");
		vbal_recover_later(vb, vbal_recover_pause(vb));
		break;
	case VBAL_LIFE_DOWN:
		vbal_recover(vb);
		break;
	default:
		/* It slept and woke up meanwhile, which does the same. */
		break;
	}
}

/* Another kernel may run next: nothing of ours may be with the host then. */
static int vbal_reboot_notify(struct notifier_block *nb, unsigned long action,
			      void *unused)
{
	struct vbal_dev *vb = container_of(nb, struct vbal_dev, reboot_nb);

	vbal_end(vb, false);
	cancel_delayed_work_sync(&vb->recover_work);
	return NOTIFY_DONE;
}

/*
 * Work is frozen before devices: who waited for a silent host then would keep the
 * guest from its sleep.
 */
static int vbal_pm_notify(struct notifier_block *nb, unsigned long action,
			  void *unused)
{
	struct vbal_dev *vb = container_of(nb, struct vbal_dev, pm_nb);

	switch (action) {
	case PM_SUSPEND_PREPARE:
	case PM_HIBERNATION_PREPARE:
	case PM_RESTORE_PREPARE:
		WRITE_ONCE(vb->wire.falls_asleep, true);
		break;
	default:
		WRITE_ONCE(vb->wire.falls_asleep, false);
		break;
	}
	return NOTIFY_DONE;
}

static void vbal_config_changed(struct virtio_device *vdev)
{
	struct vbal_dev *vb = vbal_dev_of(vdev);

	vbal_size_wake(&vb->size);
	vbal_hint_changed(&vb->hint);
}

static int vbal_create_workqueues(struct vbal_dev *vb)
{
	const unsigned int flags = WQ_UNBOUND | WQ_FREEZABLE;

	vb->stats_wq = alloc_workqueue("vballoon_stats",
				       flags | WQ_MEM_RECLAIM | WQ_HIGHPRI, 1);
	vb->side_wq = alloc_workqueue("vballoon_side", flags, 2);
	return vb->stats_wq && vb->side_wq ? 0 : -ENOMEM;
}

static void vbal_dev_free(struct vbal_dev *vb)
{
	vbal_size_free(&vb->size);
	vbal_report_free(&vb->report);
	if (vb->side_wq)
		destroy_workqueue(vb->side_wq);
	if (vb->stats_wq)
		destroy_workqueue(vb->stats_wq);
	kfree(vb);
}

static struct vbal_dev *vbal_dev_alloc(struct virtio_device *vdev)
{
	struct vbal_dev *vb = kzalloc(sizeof(*vb), GFP_KERNEL);
	int ret;

	if (!vb)
		return NULL;
	mutex_init(&vb->life_lock);
	INIT_DELAYED_WORK(&vb->recover_work, vbal_recover_work_fn);
	vb->reboot_nb.notifier_call = vbal_reboot_notify;
	vb->pm_nb.notifier_call = vbal_pm_notify;
	vbal_wire_init(&vb->wire, vdev, vbal_broke);
	/* First: vbal_dev_free() undoes it whatever became of it. */
	ret = vbal_size_alloc(&vb->size, &vb->wire);
	if (!ret)
		ret = vbal_create_workqueues(vb);
	if (!ret)
		ret = vbal_report_alloc(&vb->report, &vb->wire);
	if (ret) {
		vbal_dev_free(vb);
		return NULL;
	}
	vbal_stats_init(&vb->stats, &vb->wire, vb->stats_wq);
	vbal_hint_init(&vb->hint, &vb->size, vb->side_wq);
	return vb;
}

static int vbal_probe(struct virtio_device *vdev)
{
	struct vbal_dev *vb;
	int ret;

	if (!vdev->config->get) {
		dev_err(&vdev->dev, "the device has no config space\n");
		return -EINVAL;
	}
	if (is_kdump_kernel()) {
		dev_info(&vdev->dev, "a crash kernel has nothing to give\n");
		return -ENODEV;
	}
	vb = vbal_dev_alloc(vdev);
	if (!vb)
		return -ENOMEM;
	ret = register_reboot_notifier(&vb->reboot_nb);
	if (ret)
		goto err_free;
	ret = register_pm_notifier(&vb->pm_nb);
	if (ret)
		goto err_reboot;
	vbal_sysfs_init(vb);
	ret = vbal_connect(vb);
	if (ret)
		goto err_sysfs;
	return 0;

err_sysfs:
	vbal_sysfs_exit(vb);
	unregister_pm_notifier(&vb->pm_nb);
err_reboot:
	unregister_reboot_notifier(&vb->reboot_nb);
	cancel_delayed_work_sync(&vb->recover_work);
err_free:
	vbal_dev_free(vb);
	return ret;
}

static void vbal_remove(struct virtio_device *vdev)
{
	struct vbal_dev *vb = vbal_dev_of(vdev);

	vbal_sysfs_exit(vb);
	unregister_pm_notifier(&vb->pm_nb);
	unregister_reboot_notifier(&vb->reboot_nb);
	vbal_end(vb, true);
	cancel_delayed_work_sync(&vb->recover_work);
	/* Once more: it may not have come back from its last reset. */
	vbal_wire_reset(&vb->wire);
	vbal_dev_free(vb);
}

#ifdef CONFIG_PM_SLEEP
static int vbal_freeze(struct virtio_device *vdev)
{
	vbal_disconnect(vbal_dev_of(vdev));
	/* Over with the reset; the core would tell the device so again after it. */
	vdev->failed = false;
	return 0;
}

static int vbal_restore(struct virtio_device *vdev)
{
	struct vbal_dev *vb = vbal_dev_of(vdev);
	int ret = vbal_connect(vb);

	/* Nobody else would try again. */
	if (ret)
		vbal_recover_later(vb, VBAL_RECOVER_MAX_MS);
	return ret;
}
#endif

/* Decline what was switched off, and what this guest or driver cannot keep. */
static int vbal_validate(struct virtio_device *vdev)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vbal_feature_wanted); i++)
		if (!*vbal_feature_wanted[i])
			__virtio_clear_bit(vdev, i);
	/*
	 * Reporting changes the content of free pages: not where the guest
	 * relies on it and cannot tell the device so (virtio 1.2, 5.5.6.7.1).
	 */
	if (!want_init_on_free() && !page_poisoning_enabled_static())
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_PAGE_POISON);
	else if (!virtio_has_feature(vdev, VIRTIO_BALLOON_F_PAGE_POISON))
		__virtio_clear_bit(vdev, VIRTIO_BALLOON_F_REPORTING);
	/* An indirect table would have to be allocated for each request. */
	__virtio_clear_bit(vdev, VIRTIO_RING_F_INDIRECT_DESC);
	/* Frame numbers are guest physical addresses, behind no IOMMU. */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return 0;
}

static struct virtio_driver vbal_driver = {
	.feature_table = vbal_features,
	.feature_table_size = ARRAY_SIZE(vbal_features),
	.driver.name = KBUILD_MODNAME,
	.driver.owner = THIS_MODULE,
	.driver.dev_groups = vbal_dev_groups,
	.id_table = vbal_id_table,
	.validate = vbal_validate,
	.probe = vbal_probe,
	.remove = vbal_remove,
	.config_changed = vbal_config_changed,
#ifdef CONFIG_PM_SLEEP
	.freeze = vbal_freeze,
	.restore = vbal_restore,
#endif
};

/* Two drivers compete for the device: say so when the other one has it. */
static int vbal_warn_if_taken(struct device *dev, void *unused)
{
	struct device_driver *driver;

	/* Who has the lock of a disk may wait for it long. */
	if (dev_to_virtio(dev)->id.device != VIRTIO_ID_BALLOON)
		return 0;
	device_lock(dev);
	driver = dev->driver;
	if (driver && driver != &vbal_driver.driver)
		dev_warn(
			dev,
			"balloon device is owned by %s; unload that driver (rmmod %s) and load vballoon again, see README\n",
			driver->name, driver->name);
	device_unlock(dev);
	return 0;
}

/* What a kernel may be built without, and what that costs. */
struct vbal_option {
	bool there;
	const char *name;
	const char *loss;
};

static const struct vbal_option vbal_options[] __initconst = {
	{ VBAL_PAGES_CAN_MOVE, "COMPACTION", "held pages do not make way" },
	{ IS_ENABLED(CONFIG_PAGE_REPORTING), "PAGE_REPORTING",
	  "free pages are not reported" },
	{ IS_ENABLED(CONFIG_VM_EVENT_COUNTERS), "VM_EVENT_COUNTERS",
	  "swapping and stalls are not seen" },
	{ IS_ENABLED(CONFIG_PM_SLEEP), "PM_SLEEP",
	  "a device that broke is not set up anew" },
	{ IS_ENABLED(CONFIG_DEBUG_FS), "DEBUG_FS",
	  "no histograms and no list of resizes" },
};

static void __init vbal_tell_what_is_missing(void)
{
	const struct vbal_option *option = vbal_options;
	char line[VBAL_LINE_BYTES] = "";
	int len = 0;

	for (; option < vbal_options + ARRAY_SIZE(vbal_options); option++)
		if (!option->there)
			len += scnprintf(line + len, sizeof(line) - len,
					 "%s %s (%s)", len ? "," : "",
					 option->name, option->loss);
	if (len)
		pr_info("this kernel is built without%s\n", line);
}

static int __init vbal_init(void)
{
	int ret;

	vbal_tell_what_is_missing();
	vbal_pages_probe_uncleared();
	vbal_sysfs_register();
	ret = register_virtio_driver(&vbal_driver);
	if (ret) {
		vbal_sysfs_unregister();
		return ret;
	}
	bus_for_each_dev(vbal_driver.driver.bus, NULL, NULL,
			 vbal_warn_if_taken);
	return 0;
}
module_init(vbal_init);

static void __exit vbal_exit(void)
{
	unregister_virtio_driver(&vbal_driver);
	vbal_sysfs_unregister();
}
module_exit(vbal_exit);

MODULE_DESCRIPTION("Virtio memory balloon: fast, and kind to its guest");
MODULE_AUTHOR("The vballoon founders");
MODULE_LICENSE("GPL");
MODULE_VERSION(VBAL_VERSION);
