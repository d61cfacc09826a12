// SPDX-License-Identifier: GPL-2.0-only
/*
 * What people read and set: sysfs, debugfs, module parameters; and what the
 * kernel asks of a balloon when it reclaims.
 */
#include "device_test.h"

#include <linux/device.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/moduleparam.h>
#include <linux/namei.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "balloon_sysfs.h"

/* sysfs ------------------------------------------------------------------- */

static struct device_attribute *file_named(const char *name)
{
	struct attribute **attr = vbal_dev_groups[0]->attrs;

	while (*attr && strcmp((*attr)->name, name))
		attr++;
	return *attr ? container_of(*attr, struct device_attribute, attr) :
		       NULL;
}

static const char *read_file(struct kunit *test, struct device_attribute *file)
{
	struct device_test *t = test->priv;
	char *buf = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	ssize_t len;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, buf);
	len = file->show(&t->h->vdev.dev, file, buf);
	KUNIT_EXPECT_GT(test, len, (ssize_t)1);
	KUNIT_EXPECT_EQ(test, buf[max_t(ssize_t, len, 1) - 1], '\n');
	return buf;
}

/* Every visible file can be read and ends its line. */
static void sysfs_files_can_all_be_read(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	const struct attribute_group *group = vbal_dev_groups[0];
	unsigned int i, nr_files = 0;

	test_plug_bound(test);
	test_resize_to(test, FRAMES_64M + 3);
	for (i = 0; group->attrs[i]; i++) {
		struct attribute *attr = group->attrs[i];

		if (!group->is_visible(&h->vdev.dev.kobj, attr, i))
			continue;
		read_file(test,
			  container_of(attr, struct device_attribute, attr));
		nr_files++;
	}
	KUNIT_EXPECT_GT(test, nr_files, 20U);
}

static void sysfs_shows_the_orders_that_blocks_have(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	const struct attribute_group *group = vbal_dev_groups[0];
	unsigned long orders = 0;
	unsigned int i, order;

	test_plug_bound(test);
	for (i = 0; group->attrs[i]; i++)
		if (sscanf(group->attrs[i]->name, "held_blocks_order%u",
			   &order) == 1 &&
		    group->is_visible(&h->vdev.dev.kobj, group->attrs[i], i))
			orders |= BIT(order);
	KUNIT_EXPECT_EQ(test, orders,
			BIT(0) | GENMASK(VBAL_MAX_ORDER, VBAL_BLOCK_ORDER));
}

static void sysfs_names_each_feature_that_was_negotiated(struct kunit *test)
{
	test_host(test, QEMU | F(MUST_TELL_HOST) | F(FREE_PAGE_HINT));
	test_plug_bound(test);
	KUNIT_EXPECT_STREQ(
		test, read_file(test, file_named("negotiated_features")),
		"must-tell-host stats deflate-on-oom free-page-hint free-page-reporting\n");
}

static unsigned long number_in(struct kunit *test, const char *name)
{
	unsigned long value = 0;

	KUNIT_EXPECT_EQ(test,
			kstrtoul(read_file(test, file_named(name)), 10, &value),
			0);
	return value;
}

/* Both sides have counted. */
static void sysfs_counts_what_the_host_saw(struct kunit *test)
{
	struct fake_host *h = test_host(test, MODERN);
	struct fake_vq *q = h->q;
	unsigned long nr_notified;

	test_plug_bound(test);
	test_resize_to(test, 1234);
	test_resize_to(test, 0);
	KUNIT_EXPECT_TRUE(
		test, fake_wait(READ_ONCE(q[FAKE_INFLATE].nr_used) +
					READ_ONCE(q[FAKE_DEFLATE].nr_used) ==
				number_in(test, "requests")));
	nr_notified = atomic_read(&q[FAKE_INFLATE].nr_notified) +
		      atomic_read(&q[FAKE_DEFLATE].nr_notified);
	KUNIT_EXPECT_GE(test, nr_notified, 2UL);
	KUNIT_EXPECT_EQ(test, number_in(test, "notifications"), nr_notified);
}

struct write_case {
	const char *file;
	const char *text;
	const char *shown;
};

/* Without @shown the write is refused, and the file shows what it did before. */
static const struct write_case write_cases[] = {
	{ "policy", "squeeze\n", "squeeze\n" },
	{ "policy", "protect", "protect\n" },
	{ "policy", "both" },
	{ "policy", "" },
	{ "floor_bytes", "67108864\n", "67108864\n" },
	{ "floor_bytes", "64M\n", "67108864\n" },
	{ "floor_bytes", "0", "0\n" },
	{ "floor_bytes", "101%" },
	{ "floor_bytes", "-1" },
	{ "floor_bytes", "64 M" },
	{ "floor_bytes", "4096G" },
	{ "floor_bytes", "000000000000000000000000000064" },
	{ "reserve_bytes", "32768K", "33554432\n" },
	{ "reserve_bytes", "18446744073709551616" },
	{ "reserve_bytes", "much" },
	{ "reserve_bytes", "%" },
};

static void write_case_desc(const struct write_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s <- %s", c->file, c->text);
	strreplace(desc, '\n', ' ');
}

KUNIT_ARRAY_PARAM(write, write_cases, write_case_desc);

static void sysfs_takes_sense_and_refuses_nonsense(struct kunit *test)
{
	const struct write_case *c = test->param_value;
	struct device_attribute *file = file_named(c->file);
	struct fake_host *h = test_host(test, QEMU);
	const char *before;
	ssize_t ret;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, file);
	test_plug_bound(test);
	before = read_file(test, file);
	ret = file->store(&h->vdev.dev, file, c->text, strlen(c->text));
	KUNIT_EXPECT_EQ(test, ret,
			c->shown ? (ssize_t)strlen(c->text) : -EINVAL);
	KUNIT_EXPECT_STREQ(test, read_file(test, file), c->shown ?: before);
}

/* A floor above what is left: the balloon keeps what it has and grows no more. */
static void sysfs_floor_counts_at_once(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct device_attribute *floor = file_named("floor_bytes");
	struct device_attribute *state = file_named("state");
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_64M);
	KUNIT_EXPECT_EQ(test, floor->store(&h->vdev.dev, floor, "100%", 4),
			(ssize_t)4);
	fake_host_set_target(h, 2 * FRAMES_64M);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->size.state) ==
					  VBAL_STATE_HELD_BY_FLOOR));
	KUNIT_EXPECT_STREQ(test, read_file(test, state), "held-by-floor\n");
	KUNIT_EXPECT_EQ(test, fake_host_actual(h), (u32)FRAMES_64M);
	KUNIT_EXPECT_EQ(test, floor->store(&h->vdev.dev, floor, "0", 1),
			(ssize_t)1);
	test_expect_actual(test, 2 * FRAMES_64M);
}

/* debugfs ----------------------------------------------------------------- */

/* Call the file's show function; NULL where debugfs is not mounted. */
static const char *read_debug_file(struct kunit *test, const char *name)
{
	struct device_test *t = test->priv;
	char *path = kunit_kzalloc(test, PATH_MAX, GFP_KERNEL);
	struct seq_file *m;
	struct file *file;
	const char *text;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, path);
	snprintf(path, PATH_MAX, "/sys/kernel/debug/vballoon/%s/%s",
		 dev_name(&t->h->vdev.dev), name);
	file = filp_open(path, O_RDONLY, 0);
	if (IS_ERR(file))
		return NULL;
	m = file->private_data;
	m->size = PAGE_SIZE;
	m->buf = kvzalloc(m->size, GFP_KERNEL);
	KUNIT_EXPECT_EQ(test, m->op->show(m, NULL), 0);
	text = kunit_kzalloc(test, m->count + 1, GFP_KERNEL);
	memcpy((char *)text, m->buf, m->count);
	filp_close(file, NULL);
	return text;
}

static void debugfs_tells_what_happened(struct kunit *test)
{
	static const struct {
		const char *file;
		const char *has;
	} cases[] = {
		{ "latency", "host answer (one batch)\n" },
		{ "latency", " us : " },
		{ "resizes", " at-target\n" },
		{ "signals", "available_bytes " },
		{ "signals", "may_give_back 1\n" },
	};
	const char *text;
	unsigned int i;

	test_host(test, QEMU);
	test_plug_bound(test);
	test_resize_to(test, FRAMES_64M + 3);
	test_resize_to(test, 7);
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		text = read_debug_file(test, cases[i].file);
		if (!text)
			kunit_skip(test, "debugfs is not mounted");
		KUNIT_EXPECT_TRUE_MSG(test, strstr(text, cases[i].has),
				      "no '%s' in %s:\n%s", cases[i].has,
				      cases[i].file, text);
	}
}

static void debugfs_lists_how_often_what_took_how_long(struct kunit *test)
{
	static const char shown[] = "host answer (one batch)\n"
				    "           0 ..        0 us : 1\n"
				    "           2 ..        3 us : 2\n"
				    "    16777216 us and more   : 1\n";
	struct vbal_dev *vb;
	const char *text;

	test_host(test, PFN);
	vb = test_plug_bound(test);
	vbal_hist_add(&vb->wire.answer, NSEC_PER_USEC - 1);
	vbal_hist_add(&vb->wire.answer, 2 * NSEC_PER_USEC);
	vbal_hist_add(&vb->wire.answer, 4 * NSEC_PER_USEC - 1);
	vbal_hist_add(&vb->wire.answer, 3600 * (u64)NSEC_PER_SEC);
	text = read_debug_file(test, "latency");
	if (!text)
		kunit_skip(test, "debugfs is not mounted");
	KUNIT_EXPECT_TRUE_MSG(test, strstr(text, shown), "not so:\n%s", text);
}

static void debugfs_adds_up_each_phase(struct kunit *test)
{
	struct vbal_debug *d = kunit_kzalloc(test, sizeof(*d), GFP_KERNEL);
	u64 first_ns;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, d);
	vbal_debug_phase(d, VBAL_PHASE_HOST, ktime_get_ns() - NSEC_PER_SEC);
	first_ns = d->phase_ns[VBAL_PHASE_HOST];
	KUNIT_EXPECT_GE(test, first_ns, (u64)NSEC_PER_SEC);
	vbal_debug_phase(d, VBAL_PHASE_HOST, ktime_get_ns() - NSEC_PER_SEC);
	KUNIT_EXPECT_GE(test, d->phase_ns[VBAL_PHASE_HOST],
			first_ns + NSEC_PER_SEC);
	KUNIT_EXPECT_EQ(test, d->phase_ns[VBAL_PHASE_FREE], 0ULL);
}

static void debugfs_goes_with_the_device(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct path found;
	char path[64];

	test_plug_bound(test);
	snprintf(path, sizeof(path), "/sys/kernel/debug/vballoon/%s",
		 dev_name(&h->vdev.dev));
	if (kern_path(path, 0, &found))
		kunit_skip(test, "debugfs is not mounted");
	path_put(&found);
	test_unplug(test);
	KUNIT_EXPECT_EQ(test, kern_path(path, 0, &found), -ENOENT);
}

/* A line each, and the names of the columns. */
static void debugfs_lists_each_resize_once(struct kunit *test)
{
	const char *text, *end;
	unsigned int nr_lines = 0;

	test_host(test, PFN);
	test_plug_bound(test);
	test_resize_to(test, FRAMES_2M);
	test_resize_to(test, 7);
	text = read_debug_file(test, "resizes");
	if (!text)
		kunit_skip(test, "debugfs is not mounted");
	for (end = text; (end = strchr(end, '\n')); end++)
		nr_lines++;
	KUNIT_EXPECT_EQ_MSG(test, nr_lines, 3U, "%s", text);
}

/* Module parameters ------------------------------------------------------- */

#ifdef MODULE
#define FIRST_PARAM THIS_MODULE->kp
#define END_OF_PARAMS (THIS_MODULE->kp + THIS_MODULE->num_kp)
#define PARAM_PREFIX ""
#else
/* The parameters of all that is built in. */
#define FIRST_PARAM __start___param
#define END_OF_PARAMS __stop___param
#define PARAM_PREFIX KBUILD_MODNAME "."
#endif

static const struct kernel_param *param_named(const char *name)
{
	const size_t len = strlen(PARAM_PREFIX);
	const struct kernel_param *kp;

	for (kp = FIRST_PARAM; kp < END_OF_PARAMS; kp++)
		if (!strncmp(kp->name, PARAM_PREFIX, len) &&
		    !strcmp(kp->name + len, name))
			return kp;
	return NULL;
}

/* A line to set, and what is shown then; nothing if it is to be refused. */
static const struct write_case param_cases[] = {
	{ "transfer", "pfn", "pfn\n" },
	{ "transfer", "range", "range\n" },
	{ "transfer", "auto", "auto\n" },
	{ "transfer", "fast" },
	{ "guard", "squeeze", "squeeze\n" },
	{ "guard", "protect", "protect\n" },
	{ "guard", "" },
	{ "floor", "10%", "10%\n" },
	{ "floor", "200%" },
	{ "reserve", "16M", "16M\n" },
	{ "reserve", "some" },
};

KUNIT_ARRAY_PARAM(param, param_cases, write_case_desc);

static void params_take_sense_and_refuse_nonsense(struct kunit *test)
{
	const struct write_case *c = test->param_value;
	const struct kernel_param *kp = param_named(c->file);
	char *before = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	char *after = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, kp);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, before);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, after);
	kp->ops->get(before, kp);
	KUNIT_EXPECT_EQ(test, kp->ops->set(c->text, kp),
			c->shown ? 0 : -EINVAL);
	kp->ops->get(after, kp);
	KUNIT_EXPECT_STREQ(test, after, c->shown ?: before);
	/* A line ends with a newline, which no one sets. */
	strim(before);
	KUNIT_EXPECT_EQ(test, before[0] ? kp->ops->set(before, kp) : 0, 0);
}

struct transfer_case {
	const char *param;
	const char *value;
	u64 features;
	const char *transfer;
	const char *reason;
};

#define NO_REPORTING \
	"the device has no free page reporting (in QEMU free-page-reporting=on)"
#define ASKED_FOR_PFN "the module was loaded with transfer=pfn"
#define MUST_TELL \
	"the host has to be told before pages are used again (must-tell-host)"

/* With this parameter, on this host, blocks travel so, and that is why. */
static const struct transfer_case transfer_cases[] = {
	{ "transfer", "auto", RANGE, "range\n",
	  "the device takes free page reports\n" },
	{ "transfer", "auto", PFN, "pfn\n", NO_REPORTING "\n" },
	{ "transfer", "range", PFN, "pfn\n", NO_REPORTING "\n" },
	{ "transfer", "pfn", RANGE, "pfn\n", ASKED_FOR_PFN "\n" },
	{ "reporting", "N", RANGE, "pfn\n",
	  "the module was loaded with reporting=0\n" },
	{ "transfer", "auto", RANGE | F(MUST_TELL_HOST), "pfn\n",
	  MUST_TELL "\n" },
	{ "transfer", "pfn", PFN | F(MUST_TELL_HOST), "pfn\n",
	  ASKED_FOR_PFN "; " NO_REPORTING "; " MUST_TELL "\n" },
};

static void transfer_case_desc(const struct transfer_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s=%s, features %llx", c->param,
		 c->value, c->features);
}

KUNIT_ARRAY_PARAM(transfer, transfer_cases, transfer_case_desc);

static void param_and_host_choose_the_transfer(struct kunit *test)
{
	const struct transfer_case *c = test->param_value;
	const struct kernel_param *kp = param_named(c->param);
	char *before = kunit_kzalloc(test, PAGE_SIZE, GFP_KERNEL);
	struct vbal_dev *vb;
	bool ranges = !strcmp(c->transfer, "range\n");

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, kp);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, before);
	kp->ops->get(before, kp);
	KUNIT_EXPECT_EQ(test, kp->ops->set(c->value, kp), 0);
	test_host(test, c->features);
	vb = test_plug_bound(test);
	KUNIT_EXPECT_EQ(test, kp->ops->set(strim(before), kp), 0);
	KUNIT_EXPECT_STREQ(test, read_file(test, file_named("transfer")),
			   c->transfer);
	KUNIT_EXPECT_STREQ(test, read_file(test, file_named("transfer_reason")),
			   c->reason);
	test_resize_to(test, FRAMES_64M);
	KUNIT_EXPECT_EQ(test, test_range_pages(vb) > 0, ranges);
}

/* The text of all causes at once fits, and is not cut off. */
static void transfer_reasons_fit(struct kunit *test)
{
	char *text = kunit_kzalloc(test, VBAL_TRANSFER_REASON_LEN, GFP_KERNEL);
	struct vbal_dev *vb;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, text);
	test_host(test, QEMU);
	vb = test_plug_bound(test);
	WRITE_ONCE(vb->pfn_causes, BIT(VBAL_NR_PFN_CAUSES) - 1);
	vbal_transfer_reason(vb, text, VBAL_TRANSFER_REASON_LEN);
	WRITE_ONCE(vb->pfn_causes, 0);
	KUNIT_EXPECT_LT(test, strlen(text), VBAL_TRANSFER_REASON_LEN - 1UL);
	KUNIT_EXPECT_NOT_NULL(test, strstr(text, MUST_TELL));
}

/* Reclaim ----------------------------------------------------------------- */

/* As `echo 2 >/proc/sys/vm/drop_caches`: every shrinker is asked. */
static void ask_shrinkers(struct kunit *test)
{
	struct file *file = filp_open("/proc/sys/vm/drop_caches", O_WRONLY, 0);
	loff_t pos = 0;
	ssize_t ret;

	if (IS_ERR(file))
		kunit_skip(test, "procfs is not mounted");
	ret = kernel_write(file, "2", 1, &pos);
	filp_close(file, NULL);
	KUNIT_ASSERT_EQ(test, ret, (ssize_t)1);
}

/* Hinted blocks are the first that a guest short of memory takes back. */
static void reclaim_ends_a_hint_round(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_hint_cmd(h, 12);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 2));
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(vb->hint.ready_pages)));
	ask_shrinkers(test);
	KUNIT_EXPECT_EQ(test, READ_ONCE(vb->hint.ready_pages), 0UL);
	KUNIT_EXPECT_TRUE(test, READ_ONCE(vb->hint.shrunk));
}

/* With half the reserve used up the balloon gives back, and stays true. */
static void worker_gives_back_under_pressure(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, 2 * FRAMES_64M);
	WRITE_ONCE(vb->size.guard.reserve_pages, 4 * totalram_pages());
	ask_shrinkers(test);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(READ_ONCE(vb->size.guard.nr_give_backs) &&
				    fake_host_actual(h) < 2 * FRAMES_64M));
}

static struct kunit_case files_test_cases[] = {
	KUNIT_CASE(sysfs_files_can_all_be_read),
	KUNIT_CASE(sysfs_shows_the_orders_that_blocks_have),
	KUNIT_CASE(sysfs_names_each_feature_that_was_negotiated),
	KUNIT_CASE(sysfs_counts_what_the_host_saw),
	KUNIT_CASE_PARAM(sysfs_takes_sense_and_refuses_nonsense,
			 write_gen_params),
	KUNIT_CASE(sysfs_floor_counts_at_once),
	KUNIT_CASE(debugfs_tells_what_happened),
	KUNIT_CASE(debugfs_lists_how_often_what_took_how_long),
	KUNIT_CASE(debugfs_lists_each_resize_once),
	KUNIT_CASE(debugfs_adds_up_each_phase),
	KUNIT_CASE(debugfs_goes_with_the_device),
	KUNIT_CASE_PARAM(params_take_sense_and_refuse_nonsense,
			 param_gen_params),
	KUNIT_CASE_PARAM(param_and_host_choose_the_transfer,
			 transfer_gen_params),
	KUNIT_CASE(transfer_reasons_fit),
	KUNIT_CASE(reclaim_ends_a_hint_round),
	KUNIT_CASE(worker_gives_back_under_pressure),
	{}
};

DEVICE_SUITE(files);
