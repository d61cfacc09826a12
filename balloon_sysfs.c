// SPDX-License-Identifier: GPL-2.0-only
/*
 * What people see: sysfs (an ABI, docs/sysfs-abi.md) and debugfs (none). Holds
 * no policy, and records nothing.
 *
 * Readers take no lock that the size worker holds for longer than a copy, and
 * wait for nobody: a value is what was true a moment ago, and two values read
 * one after the other may be of different moments.
 */
#include "balloon_sysfs.h"

#include <linux/bitops.h>
#include <linux/debugfs.h>
#include <linux/device.h>
#include <linux/ktime.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/stat.h>
#include <linux/string.h>

#include "balloon.h"

static struct vbal_dev *vbal_from_dev(struct device *dev)
{
	return vbal_dev_of(dev_to_virtio(dev));
}

/**
 * struct vbal_value - a file with one number
 * @attr: the file
 * @read: reads the number
 */
struct vbal_value {
	struct device_attribute attr;
	u64 (*read)(struct vbal_dev *vb);
};

static ssize_t vbal_value_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	struct vbal_value *value = container_of(attr, struct vbal_value, attr);

	return sysfs_emit(buf, "%llu\n", value->read(vbal_from_dev(dev)));
}

/* In @expr, vb is the device. */
#define VBAL_VALUE(_name, _expr)                                    \
	static u64 vbal_read_##_name(struct vbal_dev *vb)           \
	{                                                           \
		return _expr;                                       \
	}                                                           \
	static struct vbal_value vbal_value_##_name = {             \
		.attr = __ATTR(_name, 0444, vbal_value_show, NULL), \
		.read = vbal_read_##_name,                          \
	}

static u64 vbal_sum_in_flight(struct vbal_dev *vb)
{
	/* Not the statistics' one buffer: it is always out. */
	return vbal_wire_in_flight(&vb->wire, VBAL_VQ_INFLATE) +
	       vbal_wire_in_flight(&vb->wire, VBAL_VQ_DEFLATE) +
	       vbal_wire_in_flight(&vb->wire, VBAL_VQ_HINT) +
	       vbal_wire_in_flight(&vb->wire, VBAL_VQ_REPORT);
}

/* Over all queues, since the driver was loaded. */
struct vbal_wire_sums {
	u64 nr_bufs;
	u64 nr_notify;
	u64 nr_interrupts;
	u64 nr_missed;
};

static struct vbal_wire_sums vbal_wire_sum(struct vbal_dev *vb)
{
	struct vbal_wire_sums sums = {};
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++) {
		const struct vbal_vq *q = &vb->wire.q[id];

		sums.nr_bufs += READ_ONCE(q->nr_bufs);
		sums.nr_notify += READ_ONCE(q->nr_notify);
		sums.nr_interrupts += READ_ONCE(q->nr_interrupts);
		sums.nr_missed += READ_ONCE(q->nr_missed);
	}
	return sums;
}

static u64 vbal_hint_held_pages(struct vbal_dev *vb)
{
	return READ_ONCE(vb->hint.busy_pages) + READ_ONCE(vb->hint.ready_pages);
}

/* the size */
VBAL_VALUE(target_bytes,
	   vbal_frames_to_bytes(READ_ONCE(vb->size.target_frames)));
VBAL_VALUE(actual_bytes,
	   vbal_frames_to_bytes(READ_ONCE(vb->size.actual_frames)));
VBAL_VALUE(held_bytes, vbal_pages_to_bytes(vbal_pages_held(&vb->size.pages)));
VBAL_VALUE(state_age_ms, vbal_now_ms() - READ_ONCE(vb->size.state_since_ms));
VBAL_VALUE(retry_in_ms, vbal_size_retry_in_ms(&vb->size));

/* since the driver was loaded */
VBAL_VALUE(given_bytes,
	   vbal_pages_to_bytes(atomic_long_read(&vb->size.pages.nr_given)));
VBAL_VALUE(taken_back_bytes,
	   vbal_pages_to_bytes(atomic_long_read(&vb->size.pages.nr_taken)));
VBAL_VALUE(last_inflate_bytes_per_second, READ_ONCE(vb->size.last_inflate_bps));
VBAL_VALUE(last_deflate_bytes_per_second, READ_ONCE(vb->size.last_deflate_bps));
VBAL_VALUE(allocation_failures, READ_ONCE(vb->size.pages.nr_alloc_failed));
VBAL_VALUE(order_fallbacks, READ_ONCE(vb->size.pages.nr_fallbacks));
VBAL_VALUE(block_splits, atomic_long_read(&vb->size.pages.nr_splits));
VBAL_VALUE(migrated_pages, atomic_long_read(&vb->size.pages.nr_migrated));

/* the guest defends itself */
VBAL_VALUE(oom_events, READ_ONCE(vb->size.guard.nr_oom_events));
VBAL_VALUE(oom_give_back_bytes,
	   vbal_pages_to_bytes(READ_ONCE(vb->size.guard.nr_oom_pages)));
VBAL_VALUE(pressure_events, READ_ONCE(vb->size.guard.nr_pressure_events));
VBAL_VALUE(pressure_give_backs, READ_ONCE(vb->size.guard.nr_give_backs));
VBAL_VALUE(pressure_give_back_bytes,
	   vbal_pages_to_bytes(READ_ONCE(vb->size.guard.nr_give_back_pages)));

/* hints, reports, statistics */
VBAL_VALUE(hint_rounds, READ_ONCE(vb->hint.nr_rounds));
VBAL_VALUE(hinted_bytes,
	   vbal_pages_to_bytes(READ_ONCE(vb->hint.nr_hinted_pages)));
VBAL_VALUE(hint_held_bytes, vbal_pages_to_bytes(vbal_hint_held_pages(vb)));
VBAL_VALUE(report_calls, READ_ONCE(vb->report.nr_ended));
VBAL_VALUE(report_failures, READ_ONCE(vb->report.nr_failed));
VBAL_VALUE(reported_bytes, vbal_pages_to_bytes(READ_ONCE(vb->report.nr_pages)));
VBAL_VALUE(stats_sent, READ_ONCE(vb->wire.q[VBAL_VQ_STATS].nr_bufs));

/* the wire */
VBAL_VALUE(requests_in_flight, vbal_sum_in_flight(vb));
VBAL_VALUE(requests, vbal_wire_sum(vb).nr_bufs);
VBAL_VALUE(notifications, vbal_wire_sum(vb).nr_notify);
VBAL_VALUE(interrupts, vbal_wire_sum(vb).nr_interrupts);
VBAL_VALUE(missed_interrupts, vbal_wire_sum(vb).nr_missed);
VBAL_VALUE(recoveries, READ_ONCE(vb->nr_recoveries));

/**
 * struct vbal_order_value - a file with the number of blocks of one order
 * @attr: the file
 * @order: the order
 */
struct vbal_order_value {
	struct device_attribute attr;
	unsigned int order;
};

static ssize_t vbal_order_show(struct device *dev,
			       struct device_attribute *attr, char *buf)
{
	unsigned int order =
		container_of(attr, struct vbal_order_value, attr)->order;
	struct vbal_dev *vb = vbal_from_dev(dev);
	unsigned long nr_blocks = 0;
	unsigned int mode;

	for (mode = 0; mode < VBAL_NR_MODES; mode++) {
		struct vbal_bag *bag = &vb->size.pages.bag[mode];

		nr_blocks += READ_ONCE(bag->nr_blocks[order]);
		if (!order)
			nr_blocks += atomic_long_read(&bag->nr_singles);
	}
	return sysfs_emit(buf, "%lu\n", nr_blocks);
}

#define VBAL_ORDER_VALUE(_order)                                     \
	static struct vbal_order_value vbal_order_value_##_order = { \
		.attr = __ATTR(held_blocks_order##_order, 0444,      \
			       vbal_order_show, NULL),               \
		.order = _order,                                     \
	}

/* Which of them exist depends on the page size: vbal_attr_is_visible(). */
VBAL_ORDER_VALUE(0);
VBAL_ORDER_VALUE(5);
VBAL_ORDER_VALUE(6);
VBAL_ORDER_VALUE(7);
VBAL_ORDER_VALUE(8);
VBAL_ORDER_VALUE(9);
VBAL_ORDER_VALUE(10);
VBAL_ORDER_VALUE(11);
VBAL_ORDER_VALUE(12);
VBAL_ORDER_VALUE(13);

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	struct vbal_dev *vb = vbal_from_dev(dev);

	return sysfs_emit(buf, "%s\n",
			  vbal_state_name(READ_ONCE(vb->size.state)));
}
static DEVICE_ATTR_RO(state);

static ssize_t reason_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct vbal_dev *vb = vbal_from_dev(dev);

	return sysfs_emit(buf, "%s\n", READ_ONCE(vb->size.why));
}
static DEVICE_ATTR_RO(reason);

static ssize_t transfer_show(struct device *dev, struct device_attribute *attr,
			     char *buf)
{
	struct vbal_dev *vb = vbal_from_dev(dev);

	return sysfs_emit(buf, "%s\n",
			  READ_ONCE(vb->size.ranges) ? "range" : "pfn");
}
static DEVICE_ATTR_RO(transfer);

static const char *const vbal_pfn_cause_texts[VBAL_NR_PFN_CAUSES] = {
	[VBAL_PFN_PARAMETER] = "the module was loaded with transfer=pfn",
	[VBAL_PFN_NOT_OFFERED] =
		"the device has no free page reporting (in QEMU free-page-reporting=on)",
	[VBAL_PFN_DECLINED] = "the module was loaded with reporting=0",
	[VBAL_PFN_UNTOLD] =
		"this kernel clears or poisons freed pages, and the device cannot be told (no page poison)",
	[VBAL_PFN_NOT_TOLD] =
		"this kernel clears or poisons freed pages, and the module was loaded with page_poison=0",
	[VBAL_PFN_POISON] =
		"this kernel poisons freed pages, so the device has to keep them",
	[VBAL_PFN_NO_QUEUE] = "the device has no queue for free page reports",
	[VBAL_PFN_MUST_TELL_HOST] =
		"the host has to be told before pages are used again (must-tell-host)",
};

/**
 * vbal_transfer_reason() - say why blocks travel as they do
 * @vb: the device, connected
 * @buf: takes the text, a phrase in English
 * @size: room in @buf; VBAL_TRANSFER_REASON_LEN is enough
 *
 * Context: Any.
 */
void vbal_transfer_reason(const struct vbal_dev *vb, char *buf, size_t size)
{
	unsigned long causes = READ_ONCE(vb->pfn_causes);
	unsigned int i;
	int len = 0;

	if (!causes)
		strscpy(buf, "the device takes free page reports", size);
	for_each_set_bit(i, &causes, VBAL_NR_PFN_CAUSES)
		len += scnprintf(buf + len, size - len, "%s%s", len ? "; " : "",
				 vbal_pfn_cause_texts[i]);
}

static ssize_t transfer_reason_show(struct device *dev,
				    struct device_attribute *attr, char *buf)
{
	char why[VBAL_TRANSFER_REASON_LEN];

	vbal_transfer_reason(vbal_from_dev(dev), why, sizeof(why));
	return sysfs_emit(buf, "%s\n", why);
}
static DEVICE_ATTR_RO(transfer_reason);

static const struct {
	unsigned int bit;
	const char *name;
} vbal_feature_names[] = {
	{ VIRTIO_BALLOON_F_MUST_TELL_HOST, "must-tell-host" },
	{ VIRTIO_BALLOON_F_STATS_VQ, "stats" },
	{ VIRTIO_BALLOON_F_DEFLATE_ON_OOM, "deflate-on-oom" },
	{ VIRTIO_BALLOON_F_FREE_PAGE_HINT, "free-page-hint" },
	{ VIRTIO_BALLOON_F_PAGE_POISON, "page-poison" },
	{ VIRTIO_BALLOON_F_REPORTING, "free-page-reporting" },
};

/* Not named `features`: the bus has a file of that name, of digits. */
static ssize_t negotiated_features_show(struct device *dev,
					struct device_attribute *attr,
					char *buf)
{
	struct vbal_dev *vb = vbal_from_dev(dev);
	unsigned int i;
	int len = 0;

	for (i = 0; i < ARRAY_SIZE(vbal_feature_names); i++)
		if (vbal_wire_has(&vb->wire, vbal_feature_names[i].bit))
			len += sysfs_emit_at(buf, len, "%s%s", len ? " " : "",
					     vbal_feature_names[i].name);
	return len + sysfs_emit_at(buf, len, "\n");
}
static DEVICE_ATTR_RO(negotiated_features);

/* A setting counts from now on: the size worker looks at it at once. */
static ssize_t vbal_setting_stored(struct vbal_dev *vb, int ret, size_t count)
{
	if (ret)
		return ret;
	vbal_size_retry(&vb->size);
	return count;
}

static ssize_t policy_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct vbal_dev *vb = vbal_from_dev(dev);

	return sysfs_emit(
		buf, "%s\n",
		vbal_guard_policy_name(READ_ONCE(vb->size.guard.policy)));
}

static ssize_t policy_store(struct device *dev, struct device_attribute *attr,
			    const char *buf, size_t count)
{
	struct vbal_dev *vb = vbal_from_dev(dev);
	int ret = vbal_guard_set_policy(&vb->size.guard, buf);

	return vbal_setting_stored(vb, ret, count);
}
static DEVICE_ATTR_RW(policy);

static ssize_t floor_bytes_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	unsigned long nr_pages =
		READ_ONCE(vbal_from_dev(dev)->size.guard.floor_pages);

	return sysfs_emit(buf, "%llu\n", vbal_pages_to_bytes(nr_pages));
}

static ssize_t floor_bytes_store(struct device *dev,
				 struct device_attribute *attr, const char *buf,
				 size_t count)
{
	struct vbal_dev *vb = vbal_from_dev(dev);
	int ret = vbal_guard_set_floor(&vb->size.guard, buf,
				       vbal_size_ram_pages(&vb->size));

	return vbal_setting_stored(vb, ret, count);
}
static DEVICE_ATTR_RW(floor_bytes);

static ssize_t reserve_bytes_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	unsigned long nr_pages =
		READ_ONCE(vbal_from_dev(dev)->size.guard.reserve_pages);

	return sysfs_emit(buf, "%llu\n", vbal_pages_to_bytes(nr_pages));
}

static ssize_t reserve_bytes_store(struct device *dev,
				   struct device_attribute *attr,
				   const char *buf, size_t count)
{
	struct vbal_dev *vb = vbal_from_dev(dev);
	int ret = vbal_guard_set_reserve(&vb->size.guard, buf,
					 vbal_size_ram_pages(&vb->size));

	return vbal_setting_stored(vb, ret, count);
}
static DEVICE_ATTR_RW(reserve_bytes);

static struct attribute *vbal_attrs[] = {
	&vbal_value_target_bytes.attr.attr,
	&vbal_value_actual_bytes.attr.attr,
	&vbal_value_held_bytes.attr.attr,
	&dev_attr_state.attr,
	&dev_attr_reason.attr,
	&vbal_value_state_age_ms.attr.attr,
	&vbal_value_retry_in_ms.attr.attr,

	&dev_attr_policy.attr,
	&dev_attr_floor_bytes.attr,
	&dev_attr_reserve_bytes.attr,

	&dev_attr_negotiated_features.attr,
	&dev_attr_transfer.attr,
	&dev_attr_transfer_reason.attr,

	&vbal_order_value_0.attr.attr,
	&vbal_order_value_5.attr.attr,
	&vbal_order_value_6.attr.attr,
	&vbal_order_value_7.attr.attr,
	&vbal_order_value_8.attr.attr,
	&vbal_order_value_9.attr.attr,
	&vbal_order_value_10.attr.attr,
	&vbal_order_value_11.attr.attr,
	&vbal_order_value_12.attr.attr,
	&vbal_order_value_13.attr.attr,

	&vbal_value_given_bytes.attr.attr,
	&vbal_value_taken_back_bytes.attr.attr,
	&vbal_value_last_inflate_bytes_per_second.attr.attr,
	&vbal_value_last_deflate_bytes_per_second.attr.attr,
	&vbal_value_allocation_failures.attr.attr,
	&vbal_value_order_fallbacks.attr.attr,
	&vbal_value_block_splits.attr.attr,
	&vbal_value_migrated_pages.attr.attr,

	&vbal_value_oom_events.attr.attr,
	&vbal_value_oom_give_back_bytes.attr.attr,
	&vbal_value_pressure_events.attr.attr,
	&vbal_value_pressure_give_backs.attr.attr,
	&vbal_value_pressure_give_back_bytes.attr.attr,

	&vbal_value_hint_rounds.attr.attr,
	&vbal_value_hinted_bytes.attr.attr,
	&vbal_value_hint_held_bytes.attr.attr,
	&vbal_value_report_calls.attr.attr,
	&vbal_value_report_failures.attr.attr,
	&vbal_value_reported_bytes.attr.attr,
	&vbal_value_stats_sent.attr.attr,

	&vbal_value_requests_in_flight.attr.attr,
	&vbal_value_requests.attr.attr,
	&vbal_value_notifications.attr.attr,
	&vbal_value_interrupts.attr.attr,
	&vbal_value_missed_interrupts.attr.attr,
	&vbal_value_recoveries.attr.attr,
	NULL,
};

/* Orders that this kernel's page size and this driver do not know are hidden. */
static umode_t vbal_attr_is_visible(struct kobject *kobj,
				    struct attribute *attr, int n)
{
	struct device_attribute *da =
		container_of(attr, struct device_attribute, attr);
	unsigned int order;

	if (da->show != vbal_order_show)
		return attr->mode;
	order = container_of(da, struct vbal_order_value, attr)->order;
	if (order && (order < VBAL_BLOCK_ORDER || order > VBAL_MAX_ORDER))
		return 0;
	return attr->mode;
}

static const struct attribute_group vbal_group = {
	.name = "balloon",
	.attrs = vbal_attrs,
	.is_visible = vbal_attr_is_visible,
};

/* For device_driver.dev_groups: there before user space hears of the device. */
const struct attribute_group *vbal_dev_groups[] = {
	&vbal_group,
	NULL,
};

static struct dentry *vbal_debug_root;

/* One line a bucket that counted something: from_us, to_us, count. */
static void vbal_hist_print(struct seq_file *m, const char *name,
			    const struct vbal_hist *hist)
{
	unsigned int i;

	seq_printf(m, "%s\n", name);
	for (i = 0; i < VBAL_HIST_BUCKETS; i++) {
		long nr = atomic_long_read(&hist->nr[i]);
		u64 from_us = i ? 1ULL << (i - 1) : 0;

		if (!nr)
			continue;
		if (i == VBAL_HIST_BUCKETS - 1)
			seq_printf(m, "%12llu us and more   : %ld\n", from_us,
				   nr);
		else
			seq_printf(m, "%12llu .. %8llu us : %ld\n", from_us,
				   (1ULL << i) - 1, nr);
	}
}

static int vbal_latency_show(struct seq_file *m, void *unused)
{
	struct vbal_dev *vb = m->private;

	vbal_hist_print(m, "allocation (one batch of blocks)",
			&vb->size.debug.alloc);
	vbal_hist_print(m, "host answer (one batch)", &vb->wire.answer);
	vbal_hist_print(m, "resize (whole)", &vb->size.debug.resize);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbal_latency);

static void vbal_resize_log_print(struct seq_file *m,
				  const struct vbal_resize_log *log)
{
	unsigned int phase;

	seq_printf(m, "%llu %llu %llu %llu %llu",
		   div_u64(log->start_ns, NSEC_PER_MSEC),
		   vbal_pages_to_bytes(log->from_pages),
		   vbal_pages_to_bytes(log->to_pages),
		   vbal_frames_to_bytes(log->target_frames),
		   div_u64(log->duration_ns, NSEC_PER_USEC));
	for (phase = 0; phase < VBAL_NR_PHASES; phase++)
		seq_printf(m, " %llu",
			   div_u64(log->phase_ns[phase], NSEC_PER_USEC));
	seq_printf(m, " %u %s\n", log->nr_pauses, vbal_state_name(log->state));
}

static int vbal_resizes_show(struct seq_file *m, void *unused)
{
	struct vbal_dev *vb = m->private;
	struct vbal_resize_log *log;
	unsigned int i, nr;

	log = kcalloc(VBAL_NR_RESIZE_LOGS, sizeof(*log), GFP_KERNEL);
	if (!log)
		return -ENOMEM;
	seq_puts(m, "start_ms from_bytes to_bytes target_bytes duration_us ");
	seq_puts(m, "alloc_us host_us free_us nr_pauses state\n");
	nr = vbal_debug_logs(&vb->size.debug, log);
	for (i = 0; i < nr; i++)
		vbal_resize_log_print(m, &log[i]);
	kfree(log);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbal_resizes);

static int vbal_signals_show(struct seq_file *m, void *unused)
{
	struct vbal_dev *vb = m->private;
	struct vbal_guard *g = &vb->size.guard;
	struct vbal_signals s;

	vbal_size_sample(&vb->size, &s);
	seq_printf(m, "total_bytes %llu\n", vbal_pages_to_bytes(s.total_pages));
	seq_printf(m, "held_bytes %llu\n", vbal_pages_to_bytes(s.held_pages));
	seq_printf(m, "available_bytes %llu\n",
		   vbal_pages_to_bytes(s.avail_pages));
	seq_printf(m, "free_bytes %llu\n", vbal_pages_to_bytes(s.free_pages));
	seq_printf(m, "free_above_watermarks_bytes %llu\n",
		   vbal_pages_to_bytes(s.above_high_pages));
	seq_printf(m, "cache_bytes %llu\n", vbal_pages_to_bytes(s.cache_pages));
	seq_printf(m, "slab_bytes %llu\n", vbal_pages_to_bytes(s.slab_pages));
	seq_printf(m, "tmpfs_bytes %llu\n", vbal_pages_to_bytes(s.tmpfs_pages));
	seq_printf(m, "high_watermark_bytes %llu\n",
		   vbal_pages_to_bytes(s.high_wmark_pages));
	seq_printf(m, "swapped_out_pages %lu\n", s.swapped_out);
	seq_printf(m, "refaulted_pages %lu\n", s.missed[VBAL_REFAULTED]);
	seq_printf(m, "activated_pages %lu\n", s.missed[VBAL_ACTIVATED]);
	seq_printf(m, "refaulted_anyway_pages_per_s %lu\n",
		   READ_ONCE(g->foreign_per_s[VBAL_REFAULTED]));
	seq_printf(m, "activated_anyway_pages_per_s %lu\n",
		   READ_ONCE(g->foreign_per_s[VBAL_ACTIVATED]));
	seq_printf(m, "allocation_stalls %lu\n", s.alloc_stalls);
	seq_printf(m, "own_allocation_stalls %lu\n", s.own_stalls);
	seq_printf(m, "floor_bytes %llu\n",
		   vbal_pages_to_bytes(READ_ONCE(g->floor_pages)));
	seq_printf(m, "reserve_bytes %llu\n",
		   vbal_pages_to_bytes(READ_ONCE(g->reserve_pages)));
	seq_printf(m, "may_give_back %d\n", g->may_give_back);
	seq_printf(m, "backoff_ms %u\n", READ_ONCE(g->backoff_ms));
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(vbal_signals);

/**
 * vbal_sysfs_register() - make the driver's debugfs directory
 *
 * debugfs never fails for its callers.
 *
 * Context: Module init, before the first probe.
 */
void vbal_sysfs_register(void)
{
	vbal_debug_root = debugfs_create_dir("vballoon", NULL);
}

/**
 * vbal_sysfs_unregister() - remove the driver's debugfs directory
 *
 * Context: Module exit, after the last remove.
 */
void vbal_sysfs_unregister(void)
{
	debugfs_remove(vbal_debug_root);
}

/**
 * vbal_sysfs_init() - make a device's debugfs files
 * @vb: the device, with all that the files read initialised
 *
 * The files in sysfs are the driver core's to make, see vbal_dev_groups.
 *
 * Context: Probe, before the device is connected.
 */
void vbal_sysfs_init(struct vbal_dev *vb)
{
	struct dentry *dir = debugfs_create_dir(dev_name(&vb->wire.vdev->dev),
						vbal_debug_root);

	vb->debug_dir = dir;
	debugfs_create_file("latency", 0400, dir, vb, &vbal_latency_fops);
	debugfs_create_file("resizes", 0400, dir, vb, &vbal_resizes_fops);
	debugfs_create_file("signals", 0400, dir, vb, &vbal_signals_fops);
}

/**
 * vbal_sysfs_exit() - remove a device's debugfs files
 * @vb: the device
 *
 * Context: Remove, first of all. Waits for readers.
 */
void vbal_sysfs_exit(struct vbal_dev *vb)
{
	debugfs_remove(vb->debug_dir);
}
