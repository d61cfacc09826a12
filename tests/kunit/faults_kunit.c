// SPDX-License-Identifier: GPL-2.0-only
/*
 * Allocations that fail, one after the other: the kernel's own fault injection,
 * for this task only. Who boots the kernel lets it fail allocations that may
 * sleep, too (see docs/testing.md).
 */
#include "device_test.h"

#include <linux/sched.h>
#include <linux/workqueue.h>

/* More are not made in probe; the test fails if they are. */
#define MAX_NTH 500

static void set_fail_nth(unsigned int nth)
{
#ifdef CONFIG_FAULT_INJECTION
	WRITE_ONCE(current->fail_nth, nth);
#endif
}

/* Was the failure that set_fail_nth() asked for injected? Ask for none now. */
static bool has_failed(void)
{
	bool failed = false;

#ifdef CONFIG_FAULT_INJECTION
	failed = !READ_ONCE(current->fail_nth);
#endif
	set_fail_nth(0);
	return failed;
}

/* Every allocation that this task makes fails, or none. */
static void set_all_fail(bool on)
{
#ifdef CONFIG_FAULT_INJECTION
	current->make_it_fail = on;
#endif
}

static void needs_faults(struct kunit *test)
{
	if (!IS_ENABLED(CONFIG_FAILSLAB) || !IS_ENABLED(CONFIG_FAIL_PAGE_ALLOC))
		kunit_skip(test, "needs FAILSLAB and FAIL_PAGE_ALLOC");
}

/* Stands in for the driver's probe, and lets its n-th allocation fail. */
static struct {
	int (*probe)(struct virtio_device *vdev);
	unsigned int nth;
	bool failed;
} failing;

static int failing_probe(struct virtio_device *vdev)
{
	int ret;

	set_fail_nth(failing.nth);
	ret = failing.probe(vdev);
	failing.failed = has_failed();
	return ret;
}

/* Whatever is missing, probe undoes what it did. */
static void probe_survives_the_nth_failure(struct kunit *test)
{
	unsigned int nr_refused = 0;
	struct fake_host *h;

	needs_faults(test);
	h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	failing.probe = vbal_test_driver->probe;
	failing.nth = 0;
	failing.failed = true;
	vbal_test_driver->probe = failing_probe;
	while (failing.failed && failing.nth++ < MAX_NTH) {
		test_plug(test);
		nr_refused += !fake_host_bound(h);
		KUNIT_EXPECT_TRUE(test, fake_host_bound(h) || failing.failed);
		if (fake_host_bound(h))
			test_resize_to(test, FRAMES_2M + 1);
		test_unplug(test);
		h->config.num_pages = 0;
		h->config.actual = 0;
	}
	vbal_test_driver->probe = failing.probe;
	KUNIT_EXPECT_FALSE(test, failing.failed);
	/* Batches, workqueues, queues: fewer, and most did not fail. */
	KUNIT_EXPECT_GT(test, nr_refused, 10U);
}

/* 511 pages are 9 blocks, of 256 pages down to one. Each of them fails once. */
static void worker_survives_the_nth_failure(struct kunit *test)
{
	const u32 step_frames = FRAMES_2M - 1;
	struct fake_host *h;
	struct vbal_dev *vb;
	unsigned int nth;

	needs_faults(test);
	h = test_host(test, PFN);
	vb = test_plug_bound(test);
	for (nth = 1; nth <= 9; nth++) {
		cancel_delayed_work_sync(&vb->size.work);
		WRITE_ONCE(h->config.num_pages, cpu_to_le32(nth * step_frames));
		set_fail_nth(nth);
		vb->size.work.work.func(&vb->size.work.work);
		KUNIT_EXPECT_TRUE(test, has_failed());
		test_expect_actual(test, nth * step_frames);
	}
	KUNIT_EXPECT_EQ(test, vb->size.pages.nr_fallbacks, 8UL);
	KUNIT_EXPECT_EQ(test, vb->size.pages.nr_alloc_failed, 1UL);
}

/* Not a single page: it waits, says so, and goes on by itself. */
static void worker_backs_off_when_nothing_can_be_had(struct kunit *test)
{
	struct fake_host *h;
	struct vbal_dev *vb;

	needs_faults(test);
	h = test_host(test, PFN);
	vb = test_plug_bound(test);
	test_resize_to(test, 5);
	cancel_delayed_work_sync(&vb->size.work);
	WRITE_ONCE(h->config.num_pages, cpu_to_le32(FRAMES_2M));
	set_all_fail(true);
	vb->size.work.work.func(&vb->size.work.work);
	set_all_fail(false);
	KUNIT_EXPECT_EQ(test, vb->size.pages.nr_alloc_failed, 1UL);
	KUNIT_EXPECT_EQ(test, fake_host_actual(h), 5U);
	KUNIT_EXPECT_GT(test, vb->size.guard.backoff_ms, 0U);
	test_expect_actual(test, FRAMES_2M);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(!READ_ONCE(vb->size.guard.backoff_ms)));
}

static struct kunit_case faults_test_cases[] = {
	KUNIT_CASE(probe_survives_the_nth_failure),
	KUNIT_CASE(worker_survives_the_nth_failure),
	KUNIT_CASE(worker_backs_off_when_nothing_can_be_had),
	{}
};

DEVICE_SUITE(faults);
