// SPDX-License-Identifier: GPL-2.0-only
#include "device_test.h"

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/vmstat.h>

/* What KASAN may keep in quarantine, and more; a lost batch is twice as much. */
#define FREE_SLACK_PAGES (SZ_32M >> PAGE_SHIFT)

/* A host may answer in the very moment in which the driver looks by itself. */
#define FEW_MISSED 2UL

static long ballooned(void)
{
	unsigned long *events;
	long nr_pages = -1;

	events = kcalloc(NR_VM_EVENT_ITEMS, sizeof(*events), GFP_KERNEL);
	if (events) {
		all_vm_events(events);
		nr_pages = events[BALLOON_INFLATE] - events[BALLOON_DEFLATE];
	}
	kfree(events);
	return nr_pages;
}

int device_test_init(struct kunit *test)
{
	struct device_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	test->priv = t;
	t->total_before = totalram_pages();
	t->free_before = nr_free_pages();
	t->ballooned_before = ballooned();
	/* 6.1 runs the suites before the module's init, and has no place in sysfs yet. */
	vbal_sysfs_register();
	vbal_test_driver->driver.owner = NULL;
	return register_virtio_driver(vbal_test_driver);
}

static unsigned long missed_interrupts(struct vbal_dev *vb)
{
	unsigned long nr_missed = 0;
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++)
		nr_missed += READ_ONCE(vb->wire.q[id].nr_missed);
	return nr_missed;
}

void test_unplug(struct kunit *test)
{
	struct device_test *t = test->priv;

	if (!t->plugged)
		return;
	if (fake_host_bound(t->h))
		t->nr_missed += missed_interrupts(vbal_dev_of(&t->h->vdev));
	fake_host_unplug(t->h);
	t->plugged = false;
}

void device_test_exit(struct kunit *test)
{
	struct device_test *t = test->priv;
	bool back;

	test_unplug(test);
	if (t->h && !t->may_break)
		KUNIT_EXPECT_EQ_MSG(test, t->h->nr_errors, 0U, "first: %s",
				    t->h->error);
	KUNIT_EXPECT_LE(test, t->nr_missed, FEW_MISSED);
	if (t->h)
		fake_host_destroy(t->h);
	unregister_virtio_driver(vbal_test_driver);
	vbal_sysfs_unregister();
	vbal_test_driver->driver.owner = THIS_MODULE;
	KUNIT_EXPECT_EQ(test, totalram_pages(), t->total_before);
	KUNIT_EXPECT_EQ(test, ballooned(), t->ballooned_before);
	back = fake_wait(nr_free_pages() + FREE_SLACK_PAGES >= t->free_before);
	KUNIT_EXPECT_TRUE_MSG(test, back, "%lu pages are free, %lu were before",
			      nr_free_pages(), t->free_before);
}

struct fake_host *test_host(struct kunit *test, u64 features)
{
	struct device_test *t = test->priv;

	t->h = fake_host_create(features);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, t->h);
	return t->h;
}

struct vbal_dev *test_plug(struct kunit *test)
{
	struct device_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, fake_host_plug(t->h), 0);
	t->plugged = true;
	return t->h->vdev.priv ? vbal_dev_of(&t->h->vdev) : NULL;
}

struct vbal_dev *test_plug_bound(struct kunit *test)
{
	struct device_test *t = test->priv;
	struct vbal_dev *vb = test_plug(test);

	KUNIT_ASSERT_TRUE(test, fake_host_bound(t->h));
	return vb;
}

void test_expect_actual(struct kunit *test, u32 nr_frames)
{
	struct device_test *t = test->priv;

	KUNIT_EXPECT_TRUE_MSG(test,
			      fake_wait(fake_host_actual(t->h) == nr_frames),
			      "actual is %u, not %u", fake_host_actual(t->h),
			      nr_frames);
}

void test_resize_to(struct kunit *test, u32 nr_frames)
{
	struct device_test *t = test->priv;

	fake_host_set_target(t->h, nr_frames);
	test_expect_actual(test, nr_frames);
}

unsigned long test_range_pages(struct vbal_dev *vb)
{
	struct vbal_bag *bag = &vb->size.pages.bag[VBAL_MODE_RANGE];
	unsigned long nr_pages = atomic_long_read(&bag->nr_singles);
	unsigned int order;

	for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++)
		nr_pages += bag->nr_blocks[order] << order;
	return nr_pages;
}
