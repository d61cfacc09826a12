// SPDX-License-Identifier: GPL-2.0-only
/*
 * The whole driver on the fake host: the size worker, the wire, statistics,
 * hinting and reporting, and hosts that do what no host should.
 */
#include "../../balloon_main.c"
#include "../../balloon_size.c"
#include "device_test.h"

#include <linux/delay.h>

struct virtio_driver *const vbal_test_driver = &vbal_driver;

#ifdef VBAL_COVERAGE
/* The compiler's counters name it; tests/run/coverage reads them from outside. */
void __gcov_merge_add(s64 *counters, unsigned int nr);

void __gcov_merge_add(s64 *counters, unsigned int nr)
{
}
#endif

/* The size worker --------------------------------------------------------- */

struct size_case {
	const char *name;
	u64 features;
	u32 nr_frames;
};

static const struct size_case size_cases[] = {
	{ "pfn, one frame", PFN, 1 },
	{ "pfn, one less than a buffer", PFN, 255 },
	{ "pfn, a buffer", PFN, 256 },
	{ "pfn, one more than a buffer", PFN, 257 },
	{ "pfn, one less than a block", PFN, 511 },
	{ "pfn, a block", PFN, 512 },
	{ "pfn, one more than a block", PFN, 513 },
	{ "pfn, 64 MiB and one", PFN, FRAMES_64M + 1 },
	{ "pfn, more than all batches", PFN, 2 * VBAL_PFNS_PER_BATCH + 3 },
	{ "range, one frame", RANGE, 1 },
	{ "range, a block", RANGE, 512 },
	{ "range, one more than a block", RANGE, 513 },
	{ "range, 64 MiB less one", RANGE, FRAMES_64M - 1 },
	{ "must tell host", PFN | F(MUST_TELL_HOST), FRAMES_64M + 7 },
	{ "must tell host, range", RANGE | F(MUST_TELL_HOST), FRAMES_64M + 7 },
	{ "legacy", F(STATS_VQ), 2 * FRAMES_2M + 3 },
	{ "legacy, nothing offered", 0, 2 * FRAMES_2M + 3 },
	{ "no event index", MODERN | F(REPORTING), FRAMES_64M + 3 },
};

static void size_case_desc(const struct size_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(size, size_cases, size_case_desc);

static void worker_inflates_and_deflates_exactly(struct kunit *test)
{
	const struct size_case *c = test->param_value;
	struct vbal_dev *vb;

	test_host(test, c->features);
	vb = test_plug_bound(test);
	test_resize_to(test, c->nr_frames);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			(unsigned long)c->nr_frames);
	KUNIT_EXPECT_EQ(test, test_books_frames(), (unsigned long)c->nr_frames);
	/* A range would be taken back without a word. */
	if (c->features & F(MUST_TELL_HOST))
		KUNIT_EXPECT_EQ(test, test_range_pages(vb), 0UL);
	else if (c->features & F(REPORTING) && c->nr_frames >= FRAMES_2M)
		KUNIT_EXPECT_GE(test, test_range_pages(vb),
				(unsigned long)rounddown(c->nr_frames,
							 FRAMES_2M));
	test_resize_to(test, c->nr_frames / 3);
	KUNIT_EXPECT_EQ(test, test_books_frames(),
			(unsigned long)c->nr_frames / 3);
	test_resize_to(test, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(!fake_books_count(BOOKS_PFN)));
}

static void worker_keeps_memtotal_with_deflate_on_oom(struct kunit *test)
{
	struct device_test *t = test->priv;

	test_host(test, PFN | F(DEFLATE_ON_OOM));
	test_plug_bound(test);
	test_resize_to(test, FRAMES_2M + 1);
	KUNIT_EXPECT_EQ(test, totalram_pages(), t->total_before);
}

static void worker_leaves_memtotal_without(struct kunit *test)
{
	struct device_test *t = test->priv;

	test_host(test, PFN);
	test_plug_bound(test);
	test_resize_to(test, FRAMES_2M + 1);
	KUNIT_EXPECT_EQ(test, t->total_before - totalram_pages(),
			FRAMES_2M + 1UL);
}

static void worker_follows_the_target_found_at_probe(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);

	h->config.num_pages = cpu_to_le32(1000);
	test_plug_bound(test);
	test_expect_actual(test, 1000);
}

static void worker_clamps_a_target_beyond_ram(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_target(h, U32_MAX);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->size.clamp_warned) &&
					  fake_host_actual(h) > FRAMES_64M));
	KUNIT_EXPECT_LT(test, vbal_pages_held(&vb->size.pages),
			vbal_size_ram_pages(&vb->size));
	test_resize_to(test, 0);
}

static void worker_stays_above_the_floor(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_target(h, vbal_size_ram_pages(&vb->size));
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->size.state) ==
					  VBAL_STATE_HELD_BY_FLOOR));
	KUNIT_EXPECT_GE(test,
			vbal_size_ram_pages(&vb->size) -
				vbal_pages_held(&vb->size.pages),
			vb->size.guard.floor_pages);
	KUNIT_EXPECT_EQ(test, fake_host_actual(h),
			(u32)vbal_pages_held(&vb->size.pages));
	test_resize_to(test, 0);
}

static void worker_ends_at_the_last_of_many_targets(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	unsigned int i;

	test_plug_bound(test);
	for (i = 0; i < 500; i++)
		fake_host_set_target(h, i * 7919 % FRAMES_64M);
	test_resize_to(test, 4711);
	KUNIT_EXPECT_EQ(test, fake_books_count(BOOKS_PFN), 4711UL);
}

static void worker_writes_actual_seldom(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);

	test_plug_bound(test);
	test_resize_to(test, 2 * FRAMES_64M);
	/* 128 requests of 256 PFNs; virtio_balloon would write 128 times. */
	KUNIT_EXPECT_LT(test, h->nr_actual_writes, 128U);
	KUNIT_EXPECT_GE(test, h->nr_actual_writes, 1U);
}

static void worker_sends_many_buffers_per_notification(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);

	test_plug_bound(test);
	test_resize_to(test, 2 * FRAMES_64M);
	KUNIT_EXPECT_GE(test, h->q[FAKE_INFLATE].nr_used, 128UL);
	KUNIT_EXPECT_LE(test, atomic_read(&h->q[FAKE_INFLATE].nr_notified),
			(int)h->q[FAKE_INFLATE].nr_used / VBAL_BUFS_PER_BATCH);
}

static void worker_with_must_tell_host_waits(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN | F(MUST_TELL_HOST));
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_2M);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	fake_host_set_target(h, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(vbal_wire_in_flight(
					&vb->wire, VBAL_VQ_DEFLATE)));
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			(unsigned long)FRAMES_2M);
	fake_host_speak(h);
	test_expect_actual(test, 0);
}

static void worker_without_must_tell_host_does_not_wait(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_2M);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	fake_host_set_target(h, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(!vbal_pages_held(&vb->size.pages)));
	fake_host_speak(h);
	test_expect_actual(test, 0);
}

/* What was given back is not given again before the host has seen it. */
static void worker_drains_deflate_before_inflate(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *deflate = &vb->wire.q[VBAL_VQ_DEFLATE];
	struct vbal_vq *inflate = &vb->wire.q[VBAL_VQ_INFLATE];
	unsigned long nr_bufs, freed = 0;

	/* The notifier gives back behind the worker's back, and wakes it. */
	test_resize_to(test, FRAMES_2M);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	nr_bufs = READ_ONCE(inflate->nr_bufs);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_GT(test, freed, 0UL);
	/* It wants the old target or the new one, and waits with either. */
	fake_host_set_target(h, FRAMES_64M);
	KUNIT_EXPECT_TRUE(test, fake_wait(test_sleeps(deflate)));
	KUNIT_EXPECT_EQ(test, READ_ONCE(inflate->nr_bufs), nr_bufs);
	fake_host_speak(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(!test_sleeps(deflate)));
}

/* What a host has read and not answered is the host's, whoever wants it. */
static void oom_leaves_what_is_on_its_way(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned long freed = 0;

	test_resize_to(test, FRAMES_2M);
	fake_host_set_lazy(h, FAKE_REPORT, true);
	fake_host_set_target(h, FRAMES_64M);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(fake_books_count(BOOKS_RANGE) > FRAMES_2M));
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, (unsigned long)FRAMES_2M);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 0UL);
	test_unplug(test);
}

static void oom_with_nothing_held_yet_holds_off(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_guard *g = &vb->size.guard;
	unsigned long freed = 0;

	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, atomic64_read(&g->oom_until_ms), 0);
	fake_host_set_lazy(h, FAKE_REPORT, true);
	fake_host_set_target(h, FRAMES_64M);
	KUNIT_EXPECT_TRUE(test, fake_wait(fake_books_count(BOOKS_RANGE)));
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	KUNIT_EXPECT_GT(test, atomic64_read(&g->oom_until_ms), vbal_now_ms());
	test_unplug(test);
}

static void oom_gives_back_without_the_host(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned long freed = 0;

	test_resize_to(test, FRAMES_64M);
	fake_host_silence(h);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_GT(test, freed, 0UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			(unsigned long)FRAMES_64M - freed);
	fake_host_speak(h);
}

/* As the notifier does, with its locks; waits for nothing. */
static unsigned long oom_deflate(struct vbal_size *size, unsigned long nr_pages)
{
	unsigned long freed;

	mutex_lock(&size->oom_lock);
	mutex_lock(&size->move.lock);
	freed = vbal_oom_deflate(size, nr_pages, jiffies);
	mutex_unlock(&size->move.lock);
	mutex_unlock(&size->oom_lock);
	return freed;
}

static void oom_gives_back_no_more_than_is_asked(struct kunit *test)
{
	struct vbal_dev *vb;
	unsigned long freed;

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	cancel_delayed_work_sync(&vb->size.work);
	freed = oom_deflate(&vb->size, FRAMES_64M / 2);
	KUNIT_EXPECT_EQ(test, freed, FRAMES_64M / 2UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			FRAMES_64M - freed);
	test_resize_to(test, 0);
}

static void oom_by_pfn_tells_the_host(struct kunit *test)
{
	struct vbal_dev *vb;
	unsigned long freed = 0;

	test_host(test, PFN | F(DEFLATE_ON_OOM));
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_GT(test, freed, 0UL);
	KUNIT_EXPECT_TRUE(test, fake_wait(fake_books_count(BOOKS_PFN) ==
					  FRAMES_64M - freed));
}

#define OOM_PIECE (FRAMES_2M / 2UL)

/*
 * A piece by range and two blocks by PFN are held. One block has gone back, and the
 * host does not read of it: no more can be told.
 */
static void oom_fill_deflate_queue(struct kunit *test, struct vbal_dev *vb)
{
	struct fake_host *h = ((struct device_test *)test->priv)->h;
	struct vbal_size *size = &vb->size;

	test_resize_to(test, OOM_PIECE);
	WRITE_ONCE(size->ranges, false);
	test_resize_to(test, OOM_PIECE + FRAMES_2M);
	test_resize_to(test, OOM_PIECE + 2 * FRAMES_2M);
	cancel_delayed_work_sync(&size->work);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	KUNIT_EXPECT_EQ(test, oom_deflate(size, FRAMES_2M),
			(unsigned long)FRAMES_2M);
}

/* The last step is not read yet, so no more can be told; some needs no word. */
static void oom_by_range_where_pfns_wait(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	oom_fill_deflate_queue(test, vb);
	KUNIT_EXPECT_EQ(test, oom_deflate(&vb->size, FRAMES_2M), OOM_PIECE);
	fake_host_speak(h);
	test_resize_to(test, 0);
}

static void oom_with_must_tell_host_and_silence(struct kunit *test)
{
	struct fake_host *h =
		test_host(test, PFN | F(DEFLATE_ON_OOM) | F(MUST_TELL_HOST));
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned long freed = 0;

	test_resize_to(test, FRAMES_2M);
	fake_host_silence(h);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			(unsigned long)FRAMES_2M);
	fake_host_speak(h);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(!vbal_pages_held(&vb->size.pages) ||
				    !vb->size.oom_batch->blocks.nr_pages));
}

static void freeze_and_restore_come_back_to_the_target(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_64M + 3);
	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 0UL);
	KUNIT_ASSERT_EQ(test, virtio_device_restore(&h->vdev), 0);
	test_expect_actual(test, FRAMES_64M + 3);
}

static void restore_says_that_it_failed(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);

	test_plug_bound(test);
	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	h->fail_queue = FAKE_DEFLATE;
	KUNIT_EXPECT_EQ(test, virtio_device_restore(&h->vdev), -EIO);
	h->fail_queue = -1;
	test_unplug(test);
}

/* The core remembers a failure, and would tell the device of it each time. */
static void failure_is_over_when_it_works_again(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	h->fail_queue = FAKE_DEFLATE;
	KUNIT_EXPECT_EQ(test, virtio_device_restore(&h->vdev), -EIO);
	h->fail_queue = -1;
	test_recover(test, vb);
	KUNIT_EXPECT_FALSE(test, h->status & VIRTIO_CONFIG_S_FAILED);
	test_resize_to(test, FRAMES_2M);
}

/* What is short of memory for a moment is not without queues. */
static void restore_without_memory_gives_up_no_queue(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	h->fail_queue = FAKE_REPORT;
	h->fail_error = -ENOMEM;
	KUNIT_EXPECT_EQ(test, virtio_device_restore(&h->vdev), -ENOMEM);
	h->fail_queue = -1;
	test_recover(test, vb);
	KUNIT_EXPECT_TRUE(test, vbal_wire_usable(&vb->wire, VBAL_VQ_REPORT));
}

/* As by a function level reset, of which nobody tells the driver. */
static void reset_by_others_is_noticed(struct kunit *test)
{
	struct device_test *t = test->priv;
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_2M);
	t->may_break = true;
	h->vdev.config->reset(&h->vdev);
	fake_host_set_target(h, 2 * FRAMES_2M);
	/* The worker looks within a minute, unasked: that is now. */
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(delayed_work_pending(&vb->size.work)));
	mod_delayed_work(vb->size.wq, &vb->size.work, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->nr_recoveries) &&
					  vbal_life_is_up(&vb->wire.life)));
	test_resize_to(test, 3 * FRAMES_2M);
}

/* Tasks are frozen before devices: who waits for the host keeps the guest awake. */
static void sleep_waits_for_no_silent_host(struct kunit *test)
{
	struct device_test *t = test->priv;
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *inflate = &vb->wire.q[VBAL_VQ_INFLATE];

	t->may_break = true;
	fake_host_silence(h);
	fake_host_set_target(h, FRAMES_2M);
	KUNIT_ASSERT_TRUE(test, fake_wait(test_sleeps(inflate)));
	vb->pm_nb.notifier_call(&vb->pm_nb, PM_SUSPEND_PREPARE, NULL);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets)));
	fake_host_speak(h);
	vb->pm_nb.notifier_call(&vb->pm_nb, PM_POST_SUSPEND, NULL);
	KUNIT_EXPECT_FALSE(test, vb->wire.falls_asleep);
	test_resize_to(test, FRAMES_2M);
}

/* The ccw transport leaves the buffer alone when it cannot read. */
static void target_that_cannot_be_read_is_no_target(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_2M);
	WRITE_ONCE(h->unreadable, true);
	KUNIT_EXPECT_EQ(test, vbal_wire_target_frames(&vb->wire), FRAMES_2M);
	WRITE_ONCE(h->unreadable, false);
}

/* Without DEFLATE_ON_OOM the size worker rests then: nobody wakes it. */
static struct vbal_dev *plug_full_at_rest(struct kunit *test)
{
	struct vbal_dev *vb;

	test_host(test, PFN);
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->size.state) ==
					  VBAL_STATE_AT_TARGET));
	flush_delayed_work(&vb->size.work);
	return vb;
}

/* Who reclaims cannot wait until the worker looks the next time. */
static void worker_looks_when_reclaim_begins(struct kunit *test)
{
	struct vbal_dev *vb = plug_full_at_rest(test);

	WRITE_ONCE(vb->size.retry_now, true);
	vbal_size_reclaim_begins(&vb->size.guard);
	KUNIT_EXPECT_TRUE(test, fake_wait(!READ_ONCE(vb->size.retry_now)));
}

static void relieve_gives_back_below_the_target(struct kunit *test)
{
	struct vbal_dev *vb = plug_full_at_rest(test);

	KUNIT_EXPECT_GT(test,
			vbal_relieve(&vb->size, FRAMES_2M + 3, "a test",
				     jiffies + 60 * HZ),
			0);
	KUNIT_EXPECT_EQ(test, vb->size.relieve_to_pages, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, vbal_collect_all(&vb->size), 0);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages),
			(unsigned long)(FRAMES_64M - FRAMES_2M - 3));
	KUNIT_EXPECT_TRUE(test, fake_wait(fake_books_count(BOOKS_PFN) ==
					  FRAMES_64M - FRAMES_2M - 3));
}

/* A slice has an end; the size worker goes on where it was. */
static void relieve_goes_on_in_the_next_slice(struct kunit *test)
{
	struct vbal_dev *vb = plug_full_at_rest(test);

	KUNIT_EXPECT_GT(
		test, vbal_relieve(&vb->size, FRAMES_2M, "a test", jiffies - 1),
		0);
	KUNIT_EXPECT_EQ(test, vb->size.relieve_to_pages,
			(unsigned long)(FRAMES_64M - FRAMES_2M));
	vbal_size_wake(&vb->size);
	/* The target is followed again when that is done. */
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(READ_ONCE(vb->size.relieve_to_pages) ==
				    ULONG_MAX));
	test_expect_actual(test, FRAMES_64M);
	KUNIT_EXPECT_GE(test, atomic_long_read(&vb->size.pages.nr_taken),
			(long)FRAMES_2M);
}

/* What became smaller anyway is not made smaller twice. */
static void relieve_counts_what_went_meanwhile(struct kunit *test)
{
	struct vbal_dev *vb = plug_full_at_rest(test);

	vbal_relieve(&vb->size, FRAMES_2M, "a test", jiffies - 1);
	KUNIT_EXPECT_EQ(test, vbal_owed_pages(&vb->size),
			(unsigned long)FRAMES_2M);
	KUNIT_EXPECT_GT(test, vbal_deflate(&vb->size, FRAMES_2M), 0);
	KUNIT_EXPECT_EQ(test, vbal_owed_pages(&vb->size), 0UL);
	KUNIT_EXPECT_EQ(test, vb->size.relieve_to_pages, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, vbal_collect_all(&vb->size), 0);
}

/* Who lets the host win meanwhile takes that word back. */
static void relieve_ends_when_the_host_wins(struct kunit *test)
{
	struct vbal_dev *vb = plug_full_at_rest(test);

	vbal_relieve(&vb->size, FRAMES_2M, "a test", jiffies - 1);
	vbal_guard_set_policy(&vb->size.guard, "squeeze");
	KUNIT_EXPECT_EQ(test, vbal_owed_pages(&vb->size), 0UL);
	vbal_guard_set_policy(&vb->size.guard, "protect");
	KUNIT_EXPECT_EQ(test, vbal_owed_pages(&vb->size), 0UL);
}

/* The next kernel must find a device that knows nothing of this one's pages. */
static void reboot_resets_the_device(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_64M);
	vbal_reboot_notify(&vb->reboot_nb, SYS_RESTART, NULL);
	KUNIT_EXPECT_EQ(test, h->nr_resets, 1U);
	KUNIT_EXPECT_EQ(test, (unsigned int)h->status, 0U);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 0UL);
	/* There is no way back; an unbind before the restart finds nothing to do. */
	fake_host_set_target(h, FRAMES_2M);
	flush_delayed_work(&vb->size.work);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 0UL);
	KUNIT_EXPECT_EQ(test, vbal_life_now(&vb->wire.life), VBAL_LIFE_GONE);
}

/* The core does so itself where a ring is full, under the driver's lock. */
static void host_is_notified_by_nobody_else(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb;

	h->ring_size[FAKE_INFLATE] = 2;
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	KUNIT_EXPECT_EQ(
		test,
		(unsigned long)atomic_read(&h->q[FAKE_INFLATE].nr_notified),
		vb->wire.q[VBAL_VQ_INFLATE].nr_notify);
}

struct migration_case {
	const char *name;
	u64 features;
	enum vbal_mode mode;
};

static const struct migration_case migration_cases[] = {
	{ "pfn", PFN, VBAL_MODE_PFN },
	{ "range", RANGE, VBAL_MODE_RANGE },
};

static void migration_case_desc(const struct migration_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(migration, migration_cases, migration_case_desc);

static struct vbal_vq *give_queue(struct vbal_dev *vb, enum vbal_mode mode)
{
	return &vb->wire.q[mode == VBAL_MODE_RANGE ? VBAL_VQ_REPORT :
						     VBAL_VQ_INFLATE];
}

static int exchange(struct vbal_dev *vb, enum vbal_mode mode,
		    struct page *newpage)
{
	struct balloon_dev_info *bdi = &vb->size.pages.bag[mode].singles;

	return test_exchange_page(
		list_first_entry(&bdi->pages, struct page, lru), newpage);
}

/*
 * What moves after the worker has looked at the deflate queue, and is allocated
 * at once, is not given again before the host has read that it was taken.
 */
static void worker_looks_again_before_it_gives(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_vq *deflate, *inflate;
	unsigned long nr_bufs;
	struct page *newpage;
	struct vbal_dev *vb;

	h->ring_size[FAKE_INFLATE] = 256;
	vb = test_plug_bound(test);
	deflate = &vb->wire.q[VBAL_VQ_DEFLATE];
	inflate = &vb->wire.q[VBAL_VQ_INFLATE];
	test_resize_to(test, 15);
	newpage = alloc_page(GFP_HIGHUSER_MOVABLE);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, newpage);
	/* All batches are out, and the host takes its time. */
	fake_host_set_lazy(h, FAKE_INFLATE, true);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	fake_host_set_target(h, 3 * FRAMES_64M);
	KUNIT_EXPECT_TRUE(test, fake_wait(test_sleeps(inflate)));
	KUNIT_EXPECT_EQ(test, exchange(vb, VBAL_MODE_PFN, newpage), 0);
	put_page(newpage);
	nr_bufs = READ_ONCE(inflate->nr_bufs);
	fake_host_set_lazy(h, FAKE_INFLATE, false);
	KUNIT_EXPECT_TRUE(test, fake_wait(test_sleeps(deflate)));
	KUNIT_EXPECT_EQ(test, READ_ONCE(inflate->nr_bufs), nr_bufs);
	fake_host_speak(h);
	test_expect_actual(test, 3 * FRAMES_64M);
}

/* What broke while it was waited for has not got what it asked for. */
static void worker_hears_that_the_device_broke(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_verdict v = {};

	test_resize_to(test, 15);
	cancel_delayed_work_sync(&vb->size.work);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	KUNIT_EXPECT_EQ(test, vbal_deflate_pfn(&vb->size, 15), 1);
	virtio_break_device(&h->vdev);
	KUNIT_EXPECT_EQ(test, vbal_inflate(&vb->size, 15, &v), -EIO);
	test_unplug(test);
}

/* Compaction tells nobody when it puts a page back. */
static void worker_comes_back_for_a_page_that_is_out(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct page *page;

	test_resize_to(test, 15);
	page = list_first_entry(
		&vb->size.pages.bag[VBAL_MODE_PFN].singles.pages, struct page,
		lru);
	lock_page(page);
	KUNIT_ASSERT_TRUE(test, test_isolate_page(page));
	unlock_page(page);
	fake_host_set_target(h, 0);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(vbal_pages_held(&vb->size.pages) == 1 &&
				    delayed_work_pending(&vb->size.work)));
	lock_page(page);
	test_put_back_page(page);
	unlock_page(page);
	test_expect_actual(test, 0);
}

static void migration_exchanges_a_page(struct kunit *test)
{
	const struct migration_case *c = test->param_value;
	struct vbal_dev *vb;
	struct page *newpage;

	test_host(test, c->features);
	vb = test_plug_bound(test);
	/* 15 pages: a block of 8 by range if possible, split into singles. */
	test_resize_to(test, 15);
	newpage = alloc_page(GFP_HIGHUSER_MOVABLE);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, newpage);
	KUNIT_EXPECT_EQ(test, exchange(vb, c->mode, newpage), 0);
	KUNIT_EXPECT_TRUE(test, PageOffline(newpage));
	put_page(newpage);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 15UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_isolated(&vb->size.pages), 0UL);
	/* Nobody waited for the host to read of it. */
	KUNIT_EXPECT_TRUE(test, fake_wait(test_books_frames() == 15));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&vb->size.pages.nr_migrated),
			1L);
	test_resize_to(test, 0);
}

/* The host would discard the page after it has become somebody else's. */
static void migration_waits_for_a_page_that_moved_in(struct kunit *test)
{
	const struct migration_case *c = test->param_value;
	struct fake_host *h = test_host(test, c->features);
	struct vbal_dev *vb = test_plug_bound(test);
	struct page *first = alloc_page(GFP_HIGHUSER_MOVABLE);
	struct page *second = alloc_page(GFP_HIGHUSER_MOVABLE);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, first);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, second);
	test_resize_to(test, 15);
	fake_host_silence(h);
	KUNIT_EXPECT_EQ(test, exchange(vb, c->mode, first), 0);
	KUNIT_EXPECT_EQ(test, test_exchange_page(first, second), -EAGAIN);
	fake_host_speak(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(!test_exchange_page(first, second)));
	put_page(first);
	put_page(second);
	test_resize_to(test, 0);
}

/* Places to move to; a page that has just moved away is none. */
static struct page *spare_pages(struct kunit *test)
{
	struct page *pages = alloc_pages(GFP_HIGHUSER_MOVABLE, 7);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, pages);
	split_page(pages, 7);
	return pages;
}

static void put_spare_pages(struct page *pages)
{
	unsigned int i;

	for (i = 0; i < 128; i++)
		put_page(pages + i);
}

/* Move the page that has been in the balloon longest. */
static int exchange_oldest(struct vbal_dev *vb, enum vbal_mode mode,
			   struct page *newpage, enum migrate_mode how)
{
	struct balloon_dev_info *bdi = &vb->size.pages.bag[mode].singles;
	struct page *page = list_last_entry(&bdi->pages, struct page, lru);

	get_page(page);
	lock_page(page);
	return test_exchange_locked_page(page, newpage, how);
}

struct late_host {
	struct delayed_work work;
	struct fake_host *h;
};

static void late_host_speaks(struct work_struct *work)
{
	fake_host_speak(
		container_of(to_delayed_work(work), struct late_host, work)->h);
}

struct room_case {
	const char *name;
	u64 features;
	enum vbal_mode mode;
	unsigned int ring_size;
	unsigned int nr_moves;
};

static const struct room_case room_cases[] = {
	{ "pfn", PFN, VBAL_MODE_PFN, 256, VBAL_NR_MOVES },
	{ "range", RANGE, VBAL_MODE_RANGE, 256, VBAL_NR_MOVES },
	{ "pfn, a small ring", PFN, VBAL_MODE_PFN, 16, 16 },
	{ "range, a small ring", RANGE, VBAL_MODE_RANGE, 16, 16 },
};

static void room_case_desc(const struct room_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(room, room_cases, room_case_desc);

/* Who needs just this page gone, as for a page of 1 GiB, waits until it can go. */
static void migration_waits_while_many_are_on_their_way(struct kunit *test)
{
	const struct room_case *c = test->param_value;
	struct late_host late = { .h = test_host(test, c->features) };
	struct page *spare = spare_pages(test);
	struct vbal_dev *vb;
	unsigned int i;

	late.h->ring_size[FAKE_INFLATE] = c->ring_size;
	late.h->ring_size[FAKE_DEFLATE] = c->ring_size;
	late.h->ring_size[FAKE_REPORT] = c->ring_size;
	vb = test_plug_bound(test);
	test_resize_to(test, 127);
	fake_host_silence(late.h);
	for (i = 0; i < c->nr_moves; i++)
		KUNIT_EXPECT_EQ(test,
				exchange_oldest(vb, c->mode, spare + i,
						MIGRATE_ASYNC),
				0);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, c->mode, spare + i,
					MIGRATE_SYNC_LIGHT),
			-EAGAIN);
	INIT_DELAYED_WORK_ONSTACK(&late.work, late_host_speaks);
	schedule_delayed_work(&late.work, HZ / 10);
	KUNIT_EXPECT_EQ(
		test, exchange_oldest(vb, c->mode, spare + i, MIGRATE_SYNC), 0);
	flush_delayed_work(&late.work);
	destroy_delayed_work_on_stack(&late.work);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* But not for one that answers nothing, and not with the device's life. */
static void migration_gives_up_on_a_silent_host(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct page *spare = spare_pages(test);
	struct vbal_dev *vb;
	unsigned int i;

	h->ring_size[FAKE_INFLATE] = 256;
	h->ring_size[FAKE_DEFLATE] = 256;
	vb = test_plug_bound(test);
	test_resize_to(test, 127);
	fake_host_silence(h);
	for (i = 0; i < VBAL_NR_MOVES; i++)
		exchange_oldest(vb, VBAL_MODE_PFN, spare + i, MIGRATE_SYNC);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, VBAL_MODE_PFN, spare + i,
					MIGRATE_SYNC),
			-EAGAIN);
	KUNIT_EXPECT_EQ(test, h->nr_resets, 0U);
	/* The next one is not kept waiting. */
	KUNIT_EXPECT_GT(test, vb->size.move.rest_end_ms, vbal_now_ms());
	fake_host_speak(h);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* Who waits for room looks without the lock, after the end of the device's life, too. */
static void migration_hears_nothing_after_a_reset(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct page *spare = spare_pages(test);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_move_slot *slot = vb->size.move.slot;
	struct fake_vq *q = &h->q[FAKE_INFLATE];
	unsigned long nr_used;

	test_resize_to(test, 127);
	fake_host_silence(h);
	nr_used = READ_ONCE(q->nr_used);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, VBAL_MODE_PFN, spare, MIGRATE_SYNC),
			0);
	fake_host_speak(h);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(q->nr_used) != nr_used));
	KUNIT_ASSERT_FALSE(test, vbal_token_done(&slot->give));
	test_kill(vb);
	vbal_move_release(&vb->size.move);
	vbal_vq_reap(&vb->wire.q[VBAL_VQ_INFLATE]);
	KUNIT_EXPECT_TRUE(test, vbal_token_done(&slot->give));
	test_recover(test, vb);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* Whoever waits for a queue, be it for room: but not where no move is in the way. */
static void migration_leaves_its_queue_to_others(struct kunit *test)
{
	const struct migration_case *c = test->param_value;
	struct page *spare = spare_pages(test);
	struct vbal_vq *own, *other;
	struct vbal_dev *vb;

	test_host(test, c->features);
	vb = test_plug_bound(test);
	own = give_queue(vb, c->mode);
	other = &vb->wire.q[c->mode == VBAL_MODE_RANGE ? VBAL_VQ_DEFLATE :
							 VBAL_VQ_REPORT];
	test_resize_to(test, 127);
	atomic_inc(&own->nr_awaiting);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, c->mode, spare, MIGRATE_ASYNC),
			-EAGAIN);
	atomic_dec(&own->nr_awaiting);
	atomic_inc(&other->nr_awaiting);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, c->mode, spare, MIGRATE_ASYNC), 0);
	atomic_dec(&other->nr_awaiting);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* Pages that move one after the other could keep the queue from being empty for good. */
static void migration_leaves_the_queue_to_who_waits_for_it(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct page *spare = spare_pages(test);
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, 127);
	fake_host_silence(h);
	KUNIT_EXPECT_EQ(
		test, exchange_oldest(vb, VBAL_MODE_PFN, spare, MIGRATE_ASYNC),
		0);
	fake_host_set_target(h, 255);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(test_sleeps(&vb->wire.q[VBAL_VQ_DEFLATE])));
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, VBAL_MODE_PFN, spare + 1,
					MIGRATE_ASYNC),
			-EAGAIN);
	fake_host_speak(h);
	test_expect_actual(test, 255);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* The OOM notifier needs to know whose the pages are. */
static void migration_does_not_wait_while_memory_is_short(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct page *spare = spare_pages(test);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_move *move = &vb->size.move;

	test_resize_to(test, 127);
	fake_host_silence(h);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, VBAL_MODE_PFN, spare, MIGRATE_SYNC),
			0);
	mutex_lock(&move->lock);
	WRITE_ONCE(move->wanted, true);
	KUNIT_EXPECT_EQ(test,
			exchange_oldest(vb, VBAL_MODE_PFN, spare + 1,
					MIGRATE_SYNC),
			-EAGAIN);
	KUNIT_EXPECT_EQ(test, move->rest_end_ms, 0ULL);
	WRITE_ONCE(move->wanted, false);
	mutex_unlock(&move->lock);
	fake_host_speak(h);
	put_spare_pages(spare);
	test_resize_to(test, 0);
}

/* The new page could be one that is still on its way back. */
static void migration_waits_for_deflated_pages(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct page *newpage = alloc_page(GFP_HIGHUSER_MOVABLE);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, newpage);
	test_resize_to(test, 15);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	fake_host_set_target(h, 10);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(vbal_pages_held(&vb->size.pages) == 10));
	KUNIT_EXPECT_EQ(test, exchange(vb, VBAL_MODE_PFN, newpage), -EAGAIN);
	KUNIT_EXPECT_EQ(test, vbal_pages_isolated(&vb->size.pages), 0UL);
	put_page(newpage);
	fake_host_speak(h);
	test_resize_to(test, 3);
}

struct oom_task {
	struct work_struct work;
	struct vbal_dev *vb;
	unsigned long begun_jiffies;
	unsigned long freed;
	unsigned int wait_ms;
};

static void oom_task_fn(struct work_struct *work)
{
	struct oom_task *task = container_of(work, struct oom_task, work);

	WRITE_ONCE(task->begun_jiffies, jiffies ?: 1);
	vbal_oom_notify(&task->vb->size.oom_nb, 0, &task->freed);
}

/* Somebody who is out of memory, and has to wait for what the test has done. */
static void oom_begin(struct kunit *test, struct oom_task *task,
		      struct vbal_dev *vb)
{
	/* Its patience must outlast whatever else this machine does. */
	task->wait_ms = vbal_oom_wait_ms;
	vbal_oom_wait_ms = 600000;
	task->vb = vb;
	task->begun_jiffies = 0;
	task->freed = 0;
	INIT_WORK_ONSTACK(&task->work, oom_task_fn);
	queue_work(system_long_wq, &task->work);
	KUNIT_EXPECT_TRUE(test, fake_wait(mutex_is_locked(&vb->size.oom_lock) ||
					  !work_busy(&task->work)));
}

static unsigned long oom_end(struct oom_task *task)
{
	flush_work(&task->work);
	destroy_work_on_stack(&task->work);
	vbal_oom_wait_ms = task->wait_ms;
	return task->freed;
}

/* Somebody who is out of memory, and has not to wait. */
static unsigned long oom_at_once(struct kunit *test, struct vbal_dev *vb)
{
	struct oom_task task;

	oom_begin(test, &task, vb);
	KUNIT_EXPECT_TRUE(test, fake_wait(!work_busy(&task.work)));
	return oom_end(&task);
}

/* A page moves in, and the host does not see it. */
static struct page *move_unseen(struct kunit *test, struct vbal_dev *vb,
				enum vbal_mode mode)
{
	struct fake_host *h = ((struct device_test *)test->priv)->h;
	struct page *newpage = alloc_page(GFP_HIGHUSER_MOVABLE);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, newpage);
	fake_host_set_budget(h, FAKE_INFLATE, 0);
	fake_host_set_budget(h, FAKE_REPORT, 0);
	KUNIT_EXPECT_EQ(test, exchange(vb, mode, newpage), 0);
	put_page(newpage);
	return newpage;
}

/* The size worker may be choosing pages at this moment. */
static void oom_waits_for_who_picks_pages(struct kunit *test)
{
	struct vbal_dev *vb;
	struct oom_task task;

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	mutex_lock(&vb->size.move.lock);
	oom_begin(test, &task, vb);
	mutex_unlock(&vb->size.move.lock);
	KUNIT_EXPECT_GT(test, oom_end(&task), 0UL);
}

/* Who came first may be the one who waits. */
static void oom_waits_for_another(struct kunit *test)
{
	struct vbal_dev *vb;
	struct oom_task task;

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	mutex_lock(&vb->size.oom_lock);
	oom_begin(test, &task, vb);
	/* It has looked more than once by then, unless it has gone. */
	KUNIT_EXPECT_TRUE(
		test, fake_wait(READ_ONCE(task.begun_jiffies) &&
				time_after(jiffies, task.begun_jiffies + 3)));
	mutex_unlock(&vb->size.oom_lock);
	KUNIT_EXPECT_GT(test, oom_end(&task), 0UL);
}

/* The device breaks, and is unplugged before anybody else has noticed. */
static void oom_step_that_cannot_be_sent_holds_nobody_up(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_size *size = &vb->size;

	test_resize_to(test, FRAMES_2M);
	cancel_delayed_work_sync(&size->work);
	/* Who finds it broken has it reset: not before the end. */
	WRITE_ONCE(h->hold_reset, true);
	virtio_break_device(&h->vdev);
	mutex_lock(&size->oom_lock);
	KUNIT_EXPECT_EQ(test, vbal_oom_deflate(size, FRAMES_2M, jiffies), 0UL);
	KUNIT_EXPECT_TRUE(test, size->oom_unsent);
	KUNIT_EXPECT_EQ(test, vbal_oom_finish_locked(size), 0UL);
	mutex_unlock(&size->oom_lock);
	WRITE_ONCE(h->hold_reset, false);
	test_unplug(test);
}

/*
 * A page that compaction has moved in is the host's only once it says so: all but
 * that one go back at once, and for that one the host is waited for. Until then no
 * other moves, or this would never end.
 */
static void oom_waits_for_a_page_that_moves(struct kunit *test)
{
	const struct migration_case *c = test->param_value;
	struct fake_host *h = test_host(test, c->features | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_move *move = &vb->size.move;
	struct oom_task task;
	struct page *newpage;

	test_resize_to(test, 15);
	cancel_delayed_work_sync(&vb->size.work);
	newpage = move_unseen(test, vb, c->mode);
	KUNIT_EXPECT_EQ(test, oom_at_once(test, vb), 14UL);
	KUNIT_EXPECT_TRUE(test, PageOffline(newpage));
	KUNIT_EXPECT_EQ(test, page_count(newpage), 1);
	oom_begin(test, &task, vb);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(move->wanted)));
	fake_host_speak(h);
	KUNIT_EXPECT_EQ(test, oom_end(&task), 1UL);
	KUNIT_EXPECT_FALSE(test, READ_ONCE(move->wanted));
}

/* The size worker waits for the host, and not with what others need in its hands. */
static void oom_beside_a_worker_that_waits(struct kunit *test)
{
	const struct migration_case *c = test->param_value;
	struct fake_host *h = test_host(test, c->features | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *q = give_queue(vb, c->mode);
	unsigned long freed = 0;

	test_resize_to(test, 15);
	move_unseen(test, vb, c->mode);
	fake_host_set_target(h, 4);
	test_expect_actual(test, 4);
	fake_host_set_target(h, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(test_sleeps(q)));
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 1UL);
	KUNIT_EXPECT_TRUE(test, mutex_trylock(&vb->size.move.lock));
	mutex_unlock(&vb->size.move.lock);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	fake_host_speak(h);
	test_expect_actual(test, 0);
}

/* A dead device sees nothing any more, nor does it take anything. */
static void oom_gives_what_a_dead_device_has_not_seen(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned long freed = 0;

	test_resize_to(test, 15);
	cancel_delayed_work_sync(&vb->size.work);
	fake_host_silence(h);
	move_unseen(test, vb, VBAL_MODE_PFN);
	test_kill(vb);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 15UL);
	fake_host_speak(h);
	test_recover(test, vb);
}

/* Nor does it have what somebody could not wait for, and holds ready. */
static void oom_gives_what_waited_for_a_dead_device(struct kunit *test)
{
	struct fake_host *h =
		test_host(test, PFN | F(DEFLATE_ON_OOM) | F(MUST_TELL_HOST));
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned int wait_ms = vbal_oom_wait_ms;
	unsigned long freed = 0;

	test_resize_to(test, 15);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	cancel_delayed_work_sync(&vb->size.work);
	vbal_oom_wait_ms = 0;
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	vbal_oom_wait_ms = wait_ms;
	cancel_delayed_work_sync(&vb->size.work);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	KUNIT_EXPECT_EQ(test, vb->size.oom_batch->blocks.nr_pages, 15UL);
	test_kill(vb);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 15UL);
	fake_host_speak(h);
	test_recover(test, vb);
}

static void kill_task_fn(struct work_struct *work)
{
	test_kill(container_of(work, struct oom_task, work)->vb);
}

/* A device that is being reset is one that is dead a moment later. */
static void oom_waits_for_a_reset(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct oom_task kill = { .vb = vb }, task;

	test_resize_to(test, 15);
	WRITE_ONCE(h->hold_reset, true);
	INIT_WORK_ONSTACK(&kill.work, kill_task_fn);
	queue_work(system_long_wq, &kill.work);
	KUNIT_EXPECT_TRUE(test, fake_wait(vbal_life_now(&vb->wire.life) ==
					  VBAL_LIFE_RESETTING));
	oom_begin(test, &task, vb);
	WRITE_ONCE(h->hold_reset, false);
	KUNIT_EXPECT_EQ(test, oom_end(&task), 15UL);
	flush_work(&kill.work);
	destroy_work_on_stack(&kill.work);
	test_recover(test, vb);
}

struct move_task {
	struct work_struct work;
	struct vbal_move *move;
	int ret;
};

static void move_task_fn(struct work_struct *work)
{
	struct move_task *task = container_of(work, struct move_task, work);

	task->ret = vbal_move_wait(task->move);
}

/* The place of a move is another's as soon as the host has answered. */
static void move_is_waited_for_and_not_the_next(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_move *move = &vb->size.move;
	struct vbal_vq *report = &vb->wire.q[VBAL_VQ_REPORT];
	struct move_task task = { .move = move };

	KUNIT_EXPECT_EQ(test, vbal_move_wait(move), 0);
	test_resize_to(test, 15);
	move_unseen(test, vb, VBAL_MODE_RANGE);
	INIT_WORK_ONSTACK(&task.work, move_task_fn);
	queue_work(system_long_wq, &task.work);
	KUNIT_EXPECT_TRUE(test, fake_wait(test_sleeps(report)));
	/* As if it had been answered and used again before anybody could look. */
	WRITE_ONCE(move->slot[0].nr_uses, move->slot[0].nr_uses + 1);
	wake_up_all(&report->wait);
	flush_work(&task.work);
	destroy_work_on_stack(&task.work);
	KUNIT_EXPECT_EQ(test, task.ret, 1);
	fake_host_speak(h);
	test_resize_to(test, 0);
}

/* What can go without a word does not wait for a deflate queue that is full. */
static void oom_by_range_before_pfns_that_wait(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);

	oom_fill_deflate_queue(test, vb);
	KUNIT_EXPECT_EQ(test, oom_at_once(test, vb), OOM_PIECE);
	fake_host_speak(h);
	test_resize_to(test, 0);
}

/* The host has not yet read of the last step: that is no reason to kill. */
static void oom_waits_for_the_last_step(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct oom_task task;
	unsigned long freed = 0;

	test_resize_to(test, FRAMES_64M);
	fake_host_set_budget(h, FAKE_DEFLATE, 0);
	vbal_oom_notify(&vb->size.oom_nb, 0, &freed);
	KUNIT_EXPECT_GT(test, freed, 0UL);
	oom_begin(test, &task, vb);
	fake_host_speak(h);
	KUNIT_EXPECT_GT(test, oom_end(&task), 0UL);
}

/* What the size worker frees meanwhile keeps the OOM killer away as well. */
static void oom_counts_what_others_free(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);
	struct oom_task task;

	test_resize_to(test, FRAMES_2M);
	mutex_lock(&vb->size.move.lock);
	oom_begin(test, &task, vb);
	KUNIT_EXPECT_EQ(test,
			vbal_oom_free(&vb->size, VBAL_MODE_RANGE, FRAMES_2M),
			(unsigned long)FRAMES_2M);
	mutex_unlock(&vb->size.move.lock);
	KUNIT_EXPECT_EQ(test, oom_end(&task), (unsigned long)FRAMES_2M);
	KUNIT_EXPECT_EQ(test, vb->size.guard.nr_oom_pages,
			(unsigned long)FRAMES_2M);
	/* Nor is it taken again at once. */
	KUNIT_EXPECT_GT(test, atomic64_read(&vb->size.guard.oom_until_ms), 0LL);
	fake_host_set_target(h, 0);
}

/* It looks again, but not every second. */
static bool worker_rests(struct vbal_dev *vb)
{
	return delayed_work_pending(&vb->size.work) &&
	       time_after(vb->size.work.timer.expires,
			  jiffies + msecs_to_jiffies(VBAL_LOOK_MS / 2));
}

/* A guest that sleeps is woken often only where its balloon might have to give back. */
static void worker_watches_only_what_it_may_give_back(struct kunit *test)
{
	struct fake_host *h = test_host(test, MODERN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);

	test_resize_to(test, FRAMES_2M);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(delayed_work_pending(&vb->size.work)));
	KUNIT_EXPECT_FALSE(test, worker_rests(vb));
	test_resize_to(test, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(worker_rests(vb)));
	test_unplug(test);
	h->offered = MODERN;
	vb = test_plug_bound(test);
	test_resize_to(test, FRAMES_2M);
	KUNIT_EXPECT_TRUE(test, fake_wait(worker_rests(vb)));
}

/* In blocks that CPUs' own lists of pages are filled from meanwhile, or others take. */
#define OTHERS_PAGES (2 * VBAL_RECLAIM_PAGES)

/* Where much lies about in pieces, they go, and the guest keeps its blocks. */
static void worker_takes_pieces_first(struct kunit *test)
{
	unsigned long in_blocks;
	struct vbal_dev *vb;
	LIST_HEAD(in_use);

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	test_scatter(test, &vb->size.pages, &in_use);
	in_blocks = vbal_pages_in_blocks();
	test_resize_to(test, 8 * FRAMES_2M);
	KUNIT_EXPECT_GE(test, vbal_pages_in_blocks() + OTHERS_PAGES, in_blocks);
	test_gather(&in_use);
	/* The few that a guest always has are no reason. */
	vb->size.pages.scattered = false;
	in_blocks = vbal_pages_in_blocks();
	test_resize_to(test, 16 * FRAMES_2M);
	KUNIT_EXPECT_LT(test, vbal_pages_in_blocks() + OTHERS_PAGES, in_blocks);
}

/* Of pieces and blocks both: first the pieces, but for those that cannot be had. */
static void worker_takes_blocks_when_pieces_are_gone(struct kunit *test)
{
	unsigned long few, pieces, blocks_left;
	struct vbal_dev *vb;
	LIST_HEAD(in_use);
	u32 nr_frames;

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	few = vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
	test_scatter(test, &vb->size.pages, &in_use);
	pieces = vbal_reclaim_pieces(VBAL_BLOCK_ORDER) - few;
	nr_frames = vbal_pages_to_frames(pieces) + 16 * FRAMES_2M;
	blocks_left = vbal_pages_in_blocks() - vbal_frames_to_pages(nr_frames);
	test_resize_to(test, nr_frames);
	KUNIT_EXPECT_LT(test, vbal_reclaim_pieces(VBAL_BLOCK_ORDER),
			few + pieces / 2);
	/* No more of these than had to be. */
	KUNIT_EXPECT_GE(test, vbal_pages_in_blocks(), blocks_left + pieces / 2);
	test_gather(&in_use);
}

/* Who must wait for whom ---------------------------------------------------- */

struct holder_case {
	const char *name;
	size_t mutex; /* in struct vbal_dev */
	void (*waiter)(struct vbal_dev *vb);
	bool down; /* the device is, when the waiter comes */
};

static void connect_again(struct vbal_dev *vb)
{
	vbal_connect(vb);
}

static void end(struct vbal_dev *vb)
{
	vbal_end(vb, true);
}

static void kill(struct vbal_dev *vb)
{
	vbal_wire_kill(&vb->wire);
}

static void pick(struct vbal_dev *vb)
{
	struct vbal_blocks blocks;

	vbal_blocks_init(&blocks);
	vbal_pick(&vb->size, VBAL_MODE_RANGE, 1, &blocks);
}

static void release(struct vbal_dev *vb)
{
	vbal_size_release(&vb->size);
}

#define HOLDS(member) offsetof(struct vbal_dev, member)

static const struct holder_case holder_cases[] = {
	{ "connect, for the life", HOLDS(life_lock), connect_again, false },
	{ "disconnect, for the life", HOLDS(life_lock), vbal_disconnect,
	  false },
	{ "end, for the life", HOLDS(life_lock), end, false },
	{ "kill, for another", HOLDS(wire.kill_lock), kill, false },
	{ "stop, for who is out of memory", HOLDS(size.oom_lock),
	  vbal_disconnect, false },
	{ "stop, for a page that moves", HOLDS(size.move.lock), vbal_disconnect,
	  false },
	{ "pick, for a page that moves", HOLDS(size.move.lock), pick, false },
	{ "release, for who is out of memory", HOLDS(size.oom_lock), release,
	  true },
	{ "connect, for who is out of memory", HOLDS(size.oom_lock),
	  connect_again, true },
};

static void holder_case_desc(const struct holder_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(holder, holder_cases, holder_case_desc);

struct waiter {
	struct work_struct work;
	const struct holder_case *c;
	struct vbal_dev *vb;
};

static void waiter_fn(struct work_struct *work)
{
	struct waiter *w = container_of(work, struct waiter, work);

	w->c->waiter(w->vb);
}

static bool has_waiter(struct mutex *mutex)
{
#ifdef CONFIG_PREEMPT_RT
	return !RB_EMPTY_ROOT(&mutex->rtmutex.waiters.rb_root);
#else
	return !list_empty(&mutex->wait_list);
#endif
}

/* One CPU never has two at once: so the holder stays until the waiter is there. */
static void worker_waits_for_who_holds(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct waiter w = { .c = test->param_value,
			    .vb = test_plug_bound(test) };
	struct mutex *mutex = (void *)w.vb + w.c->mutex;
	unsigned int nr_resets;

	if (w.c->down)
		vbal_disconnect(w.vb);
	nr_resets = READ_ONCE(h->nr_resets);
	INIT_WORK_ONSTACK(&w.work, waiter_fn);
	mutex_lock(mutex);
	queue_work(system_long_wq, &w.work);
	KUNIT_EXPECT_TRUE(test, fake_wait(has_waiter(mutex)));
	KUNIT_EXPECT_EQ(test, READ_ONCE(h->nr_resets), nr_resets);
	mutex_unlock(mutex);
	flush_work(&w.work);
	destroy_work_on_stack(&w.work);
	test_unplug(test);
}

static struct kunit_case worker_test_cases[] = {
	KUNIT_CASE_PARAM(worker_inflates_and_deflates_exactly, size_gen_params),
	KUNIT_CASE(worker_takes_pieces_first),
	KUNIT_CASE(worker_takes_blocks_when_pieces_are_gone),
	KUNIT_CASE(worker_watches_only_what_it_may_give_back),
	KUNIT_CASE(worker_keeps_memtotal_with_deflate_on_oom),
	KUNIT_CASE(worker_leaves_memtotal_without),
	KUNIT_CASE(worker_follows_the_target_found_at_probe),
	KUNIT_CASE(worker_clamps_a_target_beyond_ram),
	KUNIT_CASE(worker_stays_above_the_floor),
	KUNIT_CASE(worker_ends_at_the_last_of_many_targets),
	KUNIT_CASE(worker_writes_actual_seldom),
	KUNIT_CASE(worker_sends_many_buffers_per_notification),
	KUNIT_CASE(worker_with_must_tell_host_waits),
	KUNIT_CASE(worker_without_must_tell_host_does_not_wait),
	KUNIT_CASE(worker_drains_deflate_before_inflate),
	KUNIT_CASE(worker_looks_again_before_it_gives),
	KUNIT_CASE(worker_hears_that_the_device_broke),
	KUNIT_CASE(worker_comes_back_for_a_page_that_is_out),
	KUNIT_CASE(oom_gives_back_without_the_host),
	KUNIT_CASE(oom_leaves_what_is_on_its_way),
	KUNIT_CASE(oom_with_nothing_held_yet_holds_off),
	KUNIT_CASE(oom_gives_back_no_more_than_is_asked),
	KUNIT_CASE(oom_by_pfn_tells_the_host),
	KUNIT_CASE(oom_by_range_where_pfns_wait),
	KUNIT_CASE(oom_with_must_tell_host_and_silence),
	KUNIT_CASE(oom_step_that_cannot_be_sent_holds_nobody_up),
	KUNIT_CASE(oom_waits_for_who_picks_pages),
	KUNIT_CASE(oom_waits_for_another),
	KUNIT_CASE_PARAM(oom_waits_for_a_page_that_moves, migration_gen_params),
	KUNIT_CASE_PARAM(oom_beside_a_worker_that_waits, migration_gen_params),
	KUNIT_CASE(oom_gives_what_a_dead_device_has_not_seen),
	KUNIT_CASE(oom_gives_what_waited_for_a_dead_device),
	KUNIT_CASE(oom_waits_for_a_reset),
	KUNIT_CASE(move_is_waited_for_and_not_the_next),
	KUNIT_CASE(oom_by_range_before_pfns_that_wait),
	KUNIT_CASE(oom_waits_for_the_last_step),
	KUNIT_CASE(oom_counts_what_others_free),
	KUNIT_CASE(freeze_and_restore_come_back_to_the_target),
	KUNIT_CASE(restore_says_that_it_failed),
	KUNIT_CASE(failure_is_over_when_it_works_again),
	KUNIT_CASE(restore_without_memory_gives_up_no_queue),
	KUNIT_CASE(reset_by_others_is_noticed),
	KUNIT_CASE(sleep_waits_for_no_silent_host),
	KUNIT_CASE(target_that_cannot_be_read_is_no_target),
	KUNIT_CASE(worker_looks_when_reclaim_begins),
	KUNIT_CASE(relieve_gives_back_below_the_target),
	KUNIT_CASE(relieve_goes_on_in_the_next_slice),
	KUNIT_CASE(relieve_counts_what_went_meanwhile),
	KUNIT_CASE(relieve_ends_when_the_host_wins),
	KUNIT_CASE(reboot_resets_the_device),
	KUNIT_CASE_PARAM(migration_exchanges_a_page, migration_gen_params),
	KUNIT_CASE(host_is_notified_by_nobody_else),
	KUNIT_CASE_PARAM(migration_waits_while_many_are_on_their_way,
			 room_gen_params),
	KUNIT_CASE(migration_gives_up_on_a_silent_host),
	KUNIT_CASE(migration_leaves_the_queue_to_who_waits_for_it),
	KUNIT_CASE_PARAM(migration_leaves_its_queue_to_others,
			 migration_gen_params),
	KUNIT_CASE(migration_does_not_wait_while_memory_is_short),
	KUNIT_CASE(migration_hears_nothing_after_a_reset),
	KUNIT_CASE_PARAM(migration_waits_for_a_page_that_moved_in,
			 migration_gen_params),
	KUNIT_CASE(migration_waits_for_deflated_pages),
	KUNIT_CASE_PARAM(worker_waits_for_who_holds, holder_gen_params),
	{}
};

/* The wire ---------------------------------------------------------------- */

struct ring_case {
	unsigned int size;
	u64 features;
};

static const struct ring_case ring_cases[] = {
	{ 1, PFN },   { 2, PFN },    { 4, PFN },     { 16, PFN },
	{ 64, PFN },  { 256, PFN },  { 1, RANGE },   { 2, RANGE },
	{ 8, RANGE }, { 32, RANGE }, { 256, RANGE },
};

static void ring_case_desc(const struct ring_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s, ring of %u",
		 c->features == PFN ? "pfn" : "range", c->size);
}

KUNIT_ARRAY_PARAM(ring, ring_cases, ring_case_desc);

/* Rings wrap around many times here. */
static void wire_fits_any_ring(struct kunit *test)
{
	const struct ring_case *c = test->param_value;
	struct fake_host *h = test_host(test, c->features);
	unsigned int kind;

	for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
		h->ring_size[kind] = c->size;
	test_plug_bound(test);
	test_resize_to(test, FRAMES_64M + 5);
	test_resize_to(test, 3);
	test_resize_to(test, FRAMES_2M * 3 + 1);
}

static void wire_ignores_used_lengths(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);

	h->used_len = U32_MAX;
	test_plug_bound(test);
	test_resize_to(test, FRAMES_2M * 3 + 1);
	test_resize_to(test, 0);
}

static void wire_takes_answers_out_of_order(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);

	h->reverse = true;
	test_plug_bound(test);
	test_resize_to(test, FRAMES_64M + 1);
	test_resize_to(test, 77);
}

struct bystander {
	struct wait_queue_entry entry;
	unsigned int nr_woken;
};

static int bystander_woken(struct wait_queue_entry *entry, unsigned int mode,
			   int flags, void *key)
{
	container_of(entry, struct bystander, entry)->nr_woken++;
	return 0;
}

/* What one takes back may be what another waits for, and no interrupt follows. */
static void wire_wakes_the_others_who_wait(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *q = &vb->wire.q[VBAL_VQ_DEFLATE];
	struct bystander other = {};
	int nr_notified;

	test_resize_to(test, 15);
	cancel_delayed_work_sync(&vb->size.work);
	nr_notified = atomic_read(&h->q[FAKE_DEFLATE].nr_notified);
	KUNIT_EXPECT_EQ(test, vbal_deflate_pfn(&vb->size, 15), 1);
	KUNIT_EXPECT_GT(test, atomic_read(&h->q[FAKE_DEFLATE].nr_notified),
			nr_notified);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(READ_ONCE(h->q[FAKE_DEFLATE].nr_used)));
	init_waitqueue_func_entry(&other.entry, bystander_woken);
	add_wait_queue(&q->wait, &other.entry);
	vbal_vq_reap(q);
	remove_wait_queue(&q->wait, &other.entry);
	KUNIT_EXPECT_GE(test, other.nr_woken, 1U);
	test_resize_to(test, 0);
}

static void wire_says_that_the_device_is_broken(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_batch *batch = vbal_batch_alloc(1);

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, batch);
	batch->id = VBAL_VQ_INFLATE;
	batch->mode = VBAL_MODE_PFN;
	batch->nr_pfns = 1;
	virtio_break_device(&h->vdev);
	KUNIT_EXPECT_EQ(test, vbal_wire_try_submit(&vb->wire, batch), -EIO);
	KUNIT_EXPECT_EQ(test, vbal_wire_submit(&vb->wire, batch), -EIO);
	vbal_batch_free(batch);
	test_unplug(test);
}

/* Blocks are held only when every one of their buffers has come back. */
static void
wire_counts_a_block_when_all_of_it_is_acknowledged(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *q = &vb->wire.q[VBAL_VQ_INFLATE];

	fake_host_set_budget(h, FAKE_INFLATE, 1);
	fake_host_set_target(h, FRAMES_2M);
	/* One of two is back, and the worker has seen it. */
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(fake_books_count(BOOKS_PFN) == 256 &&
				    vbal_wire_in_flight(&vb->wire,
							VBAL_VQ_INFLATE) == 1 &&
				    test_sleeps(q)));
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&vb->size.pages), 0UL);
	fake_host_set_budget(h, FAKE_INFLATE, 1);
	test_expect_actual(test, FRAMES_2M);
}

/* A lost wake-up costs a second, and is noticed by the driver itself. */
static void wire_is_woken_by_each_answer(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_vq *q = &vb->wire.q[VBAL_VQ_INFLATE];
	u32 i;

	for (i = 1; i <= 8; i++) {
		fake_host_set_budget(h, FAKE_INFLATE, 0);
		fake_host_set_target(h, i);
		KUNIT_EXPECT_TRUE(test, fake_wait(wq_has_sleeper(&q->wait)));
		/* Somebody else's look must not switch its interrupt off. */
		if (i % 2)
			vbal_vq_reap(q);
		fake_host_speak(h);
		test_expect_actual(test, i);
	}
}

static void wire_refuses_pages_beyond_16_tib(struct kunit *test)
{
	struct vbal_dev *vb;
	int ret;

	/* Only there a struct page need not exist to have a number. */
	if (!IS_ENABLED(CONFIG_SPARSEMEM_VMEMMAP))
		kunit_skip(test, "needs SPARSEMEM_VMEMMAP");
	test_host(test, PFN);
	vb = test_plug_bound(test);
	ret = vb->size.pages.migrate(&vb->size.pages, VBAL_MODE_PFN,
				     pfn_to_page(1ULL << 32), pfn_to_page(1),
				     MIGRATE_SYNC);
	KUNIT_EXPECT_EQ(test, ret, -EAGAIN);
	KUNIT_EXPECT_EQ(test, vbal_wire_in_flight(&vb->wire, VBAL_VQ_INFLATE),
			0U);
}

struct declined_case {
	const char *name;
	bool *param;
	u64 feature;
};

static const struct declined_case declined_cases[] = {
	{ "stats", &vbal_use_stats, F(STATS_VQ) },
	{ "hinting", &vbal_use_hinting, F(FREE_PAGE_HINT) },
	{ "reporting", &vbal_use_reporting, F(REPORTING) },
	{ "deflate_on_oom", &vbal_use_deflate_on_oom, F(DEFLATE_ON_OOM) },
	{ "must_tell_host", &vbal_use_must_tell_host, F(MUST_TELL_HOST) },
};

static void declined_case_desc(const struct declined_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(declined, declined_cases, declined_case_desc);

/* W29: a queue that is offered and declined still has its number. */
static void wire_numbers_queues_by_what_is_offered(struct kunit *test)
{
	const struct declined_case *c = test->param_value;
	struct fake_host *h =
		test_host(test, QEMU | F(FREE_PAGE_HINT) | F(MUST_TELL_HOST));

	*c->param = false;
	test_plug_bound(test);
	*c->param = true;
	KUNIT_EXPECT_FALSE(test, h->vdev.features & c->feature);
	test_resize_to(test, FRAMES_64M + 1);
	test_resize_to(test, 1);
}

static void wire_never_accepts_unknown_bits(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | GENMASK_ULL(23, 6));

	test_plug_bound(test);
	KUNIT_EXPECT_EQ(test, h->vdev.features & GENMASK_ULL(23, 6), 0ULL);
}

static void wire_room_keeps_chains_short(struct kunit *test)
{
	struct vbal_want want = { .nr_pages = ULONG_MAX };
	struct vbal_dev *vb;

	test_host(test, RANGE);
	vb = test_plug_bound(test);
	vbal_wire_room(&vb->wire, vb->size.oom_batch, VBAL_MODE_RANGE, &want);
	KUNIT_EXPECT_LT(test, (u64)want.nr_pages << PAGE_SHIFT, 1ULL << 32);
	KUNIT_EXPECT_GT(test, (u64)want.nr_pages << PAGE_SHIFT, 1ULL << 31);
}

/* With pages of 64 KiB eight blocks are 4 GiB, which is one byte too many. */
static void wire_fit_keeps_chains_short(struct kunit *test)
{
	struct vbal_wire *wire = kunit_kzalloc(test, sizeof(*wire), GFP_KERNEL);
	struct scatterlist sg[10];
	unsigned int i;

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, wire);
	sg_init_table(sg, ARRAY_SIZE(sg));
	for (i = 0; i < ARRAY_SIZE(sg); i++)
		sg[i].length = SZ_512M;
	wire->max_ranges = 32;
	KUNIT_EXPECT_EQ(test, vbal_wire_fit(wire, sg, 10), 7U);
	KUNIT_EXPECT_EQ(test, vbal_wire_fit(wire, sg + 7, 3), 3U);
	wire->max_ranges = 2;
	KUNIT_EXPECT_EQ(test, vbal_wire_fit(wire, sg, 10), 2U);
	wire->max_ranges = 0;
	KUNIT_EXPECT_EQ(test, vbal_wire_fit(wire, sg, 10), 0U);
}

static struct kunit_case wire_test_cases[] = {
	KUNIT_CASE(wire_room_keeps_chains_short),
	KUNIT_CASE(wire_fit_keeps_chains_short),
	KUNIT_CASE_PARAM(wire_fits_any_ring, ring_gen_params),
	KUNIT_CASE(wire_ignores_used_lengths),
	KUNIT_CASE(wire_takes_answers_out_of_order),
	KUNIT_CASE(wire_wakes_the_others_who_wait),
	KUNIT_CASE(wire_says_that_the_device_is_broken),
	KUNIT_CASE(wire_counts_a_block_when_all_of_it_is_acknowledged),
	KUNIT_CASE(wire_is_woken_by_each_answer),
	KUNIT_CASE(wire_refuses_pages_beyond_16_tib),
	KUNIT_CASE_PARAM(wire_numbers_queues_by_what_is_offered,
			 declined_gen_params),
	KUNIT_CASE(wire_never_accepts_unknown_bits),
	{}
};

/* Statistics -------------------------------------------------------------- */

static void stats_are_sent_at_once(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	unsigned int i;

	test_plug_bound(test);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 1));
	KUNIT_EXPECT_EQ(test, h->nr_tags, 16U);
	for (i = 0; i < h->nr_tags; i++)
		KUNIT_EXPECT_EQ(test, (unsigned int)h->tags[i], i);
	KUNIT_EXPECT_EQ(test, h->stat[VIRTIO_BALLOON_S_MEMTOT],
			(u64)totalram_pages() << PAGE_SHIFT);
}

static void stats_legacy(struct kunit *test)
{
	struct fake_host *h = test_host(test, F(STATS_VQ));

	test_plug_bound(test);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 1));
	KUNIT_EXPECT_EQ(test, h->nr_tags, 16U);
}

static void stats_follow_the_balloon(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	u64 before;

	test_plug_bound(test);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 1));
	before = h->stat[VIRTIO_BALLOON_S_MEMTOT];
	test_resize_to(test, FRAMES_64M);
	KUNIT_ASSERT_TRUE(test, fake_host_ask_stats(h));
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 2));
	KUNIT_EXPECT_EQ(test, before - h->stat[VIRTIO_BALLOON_S_MEMTOT],
			(u64)SZ_64M);
}

/* One buffer at most, and each question is answered. */
static void stats_asked_ten_thousand_times(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	unsigned long nr;

	test_plug_bound(test);
	for (nr = 1; nr <= 10000; nr++) {
		unsigned long end = jiffies + 60 * HZ;

		while (!fake_host_ask_stats(h) && time_before(jiffies, end)) {
			/* Virtual time goes by only while nobody computes. */
			if (IS_ENABLED(CONFIG_UML))
				schedule_timeout_idle(1);
			else
				cond_resched();
		}
	}
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 10001));
}

/* The size worker waits for a silent host; statistics do not. */
static void stats_while_the_inflate_queue_is_stuck(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned int i;

	fake_host_set_budget(h, FAKE_INFLATE, 0);
	fake_host_set_target(h, FRAMES_64M);
	KUNIT_ASSERT_TRUE(test, fake_wait(vbal_wire_in_flight(
					&vb->wire, VBAL_VQ_INFLATE)));
	for (i = 0; i < 100; i++)
		KUNIT_EXPECT_TRUE(test, fake_wait(fake_host_ask_stats(h)));
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 101));
	fake_host_speak(h);
	test_expect_actual(test, FRAMES_64M);
}

static struct kunit_case stats_test_cases[] = {
	KUNIT_CASE(stats_are_sent_at_once),
	KUNIT_CASE(stats_legacy),
	KUNIT_CASE(stats_follow_the_balloon),
	KUNIT_CASE(stats_asked_ten_thousand_times),
	KUNIT_CASE(stats_while_the_inflate_queue_is_stuck),
	{}
};

/* Hinting ----------------------------------------------------------------- */

#define HINT (QEMU | F(FREE_PAGE_HINT))

static unsigned long hint_pages(struct vbal_dev *vb)
{
	return READ_ONCE(vb->hint.busy_pages) + READ_ONCE(vb->hint.ready_pages);
}

static void hint_round_begins_and_ends(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_hint_cmd(h, 0x80000000);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 2));
	KUNIT_EXPECT_EQ(test, h->cmds[0], 0x80000000U);
	KUNIT_EXPECT_EQ(test, h->cmds[1], (u32)VIRTIO_BALLOON_CMD_ID_STOP);
	KUNIT_EXPECT_EQ(test, vb->hint.nr_rounds, 1UL);
	KUNIT_EXPECT_GT(test, h->nr_hinted, 0UL);
	KUNIT_EXPECT_GT(test, hint_pages(vb), 0UL);
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

static void hint_leaves_the_reserve(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	WRITE_ONCE(vb->size.guard.reserve_pages,
		   si_mem_available() - FRAMES_64M);
	fake_host_set_hint_cmd(h, 7);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 2));
	KUNIT_EXPECT_GT(test, hint_pages(vb), 0UL);
	/* What is available is never the same twice. */
	KUNIT_EXPECT_LT(test, hint_pages(vb), 2UL * FRAMES_64M);
}

/* A host that answers nothing, and blocks that nobody can have back: half of it at most. */
static void hint_leaves_as_much_as_the_host_has(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT & ~F(REPORTING));
	struct vbal_dev *vb = test_plug_bound(test);
	struct vbal_signals s;

	fake_host_set_budget(h, FAKE_HINT, 0);
	fake_host_set_hint_cmd(h, 7);
	KUNIT_ASSERT_TRUE(test, fake_wait(hint_pages(vb)));
	flush_work(&vb->hint.work);
	vbal_size_sample(&vb->size, &s);
	KUNIT_EXPECT_GE(test, s.avail_pages + BIT(VBAL_HINT_ORDER),
			READ_ONCE(vb->hint.busy_pages));
	/* The round goes on when it answers, and ends when no more is to spare. */
	KUNIT_EXPECT_EQ(test, READ_ONCE(vb->hint.phase), VBAL_HINT_ROUND);
	fake_host_set_budget(h, FAKE_HINT, FAKE_UNLIMITED);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->hint.phase) ==
					  VBAL_HINT_IDLE));
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

/* What came of the last round before a reset, the host has forgotten. */
static void hint_begins_anew_after_a_reset(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);

	test_plug_bound(test);
	fake_host_set_hint_cmd(h, 7);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 2));
	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	KUNIT_ASSERT_EQ(test, virtio_device_restore(&h->vdev), 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 4));
	KUNIT_EXPECT_EQ(test, h->cmds[2], 7U);
}

static void hint_done_without_a_round(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_STOP);
	test_resize_to(test, 100);
	KUNIT_EXPECT_EQ(test, h->nr_cmds, 0U);
	KUNIT_EXPECT_EQ(test, hint_pages(vb), 0UL);
}

/* DONE does not free what the host could still discard. */
static void hint_keeps_pages_until_their_buffer_is_used(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_budget(h, FAKE_HINT, 1);
	fake_host_set_hint_cmd(h, 7);
	KUNIT_ASSERT_TRUE(test, fake_wait(hint_pages(vb)));
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	/* The work has read it, and ended. */
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->hint.host_id) ==
					  VIRTIO_BALLOON_CMD_ID_DONE));
	flush_work(&vb->hint.work);
	KUNIT_EXPECT_GT(test, hint_pages(vb), 0UL);
	fake_host_speak(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

static void hint_id_changes_in_a_round(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_budget(h, FAKE_HINT, 3);
	fake_host_set_hint_cmd(h, 10);
	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_hinted) >= 1));
	fake_host_set_hint_cmd(h, 11);
	fake_host_speak(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 4));
	KUNIT_EXPECT_EQ(test, h->cmds[0], 10U);
	KUNIT_EXPECT_EQ(test, h->cmds[1], (u32)VIRTIO_BALLOON_CMD_ID_STOP);
	KUNIT_EXPECT_EQ(test, h->cmds[2], 11U);
	KUNIT_EXPECT_EQ(test, h->cmds[3], (u32)VIRTIO_BALLOON_CMD_ID_STOP);
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

/* The same id again after DONE is no new round. */
static void hint_id_reused(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned int i;

	for (i = 0; i < 3; i++) {
		fake_host_set_hint_cmd(h, 42);
		KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) >= 2));
		fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
		KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
	}
}

static void hint_unplugged_in_a_round(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_set_budget(h, FAKE_HINT, 2);
	fake_host_set_hint_cmd(h, 5);
	KUNIT_ASSERT_TRUE(test, fake_wait(hint_pages(vb)));
	test_unplug(test);
}

static void hint_on_a_small_ring(struct kunit *test)
{
	struct fake_host *h = test_host(test, HINT);
	struct vbal_dev *vb;

	h->ring_size[FAKE_HINT] = 2;
	vb = test_plug_bound(test);
	fake_host_set_hint_cmd(h, 3);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_cmds) == 2));
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

/* The kernel waits for memory that goes offline: nothing of ours may stay there. */
static void hint_makes_way_for_offlining(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	struct vbal_dev *vb = test_plug_bound(test);
	struct notifier_block *nb = &vb->hint.memory_nb;
	unsigned long nr_hinted;

	fake_host_set_hint_cmd(h, 7);
	KUNIT_ASSERT_TRUE(test, fake_wait(vb->hint.ready_pages));
	nb->notifier_call(nb, MEM_GOING_OFFLINE, NULL);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
	nr_hinted = READ_ONCE(vb->hint.nr_hinted_pages);
	/* Neither does a new round take any meanwhile. */
	fake_host_set_hint_cmd(h, 8);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->hint.round_id) == 8));
	flush_work(&vb->hint.work);
	KUNIT_EXPECT_EQ(test, READ_ONCE(vb->hint.nr_hinted_pages), nr_hinted);
	nb->notifier_call(nb, MEM_CANCEL_OFFLINE, NULL);
	fake_host_set_hint_cmd(h, 9);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->hint.nr_hinted_pages) >
					  nr_hinted));
	fake_host_set_hint_cmd(h, VIRTIO_BALLOON_CMD_ID_DONE);
	KUNIT_EXPECT_TRUE(test, fake_wait(!hint_pages(vb)));
}

static void hint_waits_until_memory_is_offline(struct kunit *test)
{
	struct notifier_block *nb;
	struct vbal_dev *vb;

	test_host(test, HINT);
	vb = test_plug_bound(test);
	nb = &vb->hint.memory_nb;
	nb->notifier_call(nb, MEM_GOING_OFFLINE, NULL);
	nb->notifier_call(nb, MEM_ONLINE, NULL);
	KUNIT_EXPECT_TRUE(test, READ_ONCE(vb->hint.offlining));
	nb->notifier_call(nb, MEM_OFFLINE, NULL);
	KUNIT_EXPECT_FALSE(test, READ_ONCE(vb->hint.offlining));
}

static struct kunit_case hint_test_cases[] = {
	KUNIT_CASE(hint_makes_way_for_offlining),
	KUNIT_CASE(hint_waits_until_memory_is_offline),
	KUNIT_CASE(hint_round_begins_and_ends),
	KUNIT_CASE(hint_leaves_the_reserve),
	KUNIT_CASE(hint_leaves_as_much_as_the_host_has),
	KUNIT_CASE(hint_begins_anew_after_a_reset),
	KUNIT_CASE(hint_done_without_a_round),
	KUNIT_CASE(hint_keeps_pages_until_their_buffer_is_used),
	KUNIT_CASE(hint_id_changes_in_a_round),
	KUNIT_CASE(hint_id_reused),
	KUNIT_CASE(hint_unplugged_in_a_round),
	KUNIT_CASE(hint_on_a_small_ring),
	{}
};

/* Reporting --------------------------------------------------------------- */

/* All that is free may have been reported by the device before. */
static void report_free_a_block(struct kunit *test)
{
	struct page *page = alloc_pages(GFP_KERNEL, VBAL_REPORTING_ORDER);

	KUNIT_ASSERT_TRUE(test, !!page);
	__free_pages(page, VBAL_REPORTING_ORDER);
}

static void report_tells_of_free_pages(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_ASSERT_TRUE(test, vb->report.registered);
	report_free_a_block(test);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->report.nr_pages)));
	KUNIT_EXPECT_GT(test, h->nr_range_bytes, 0ULL);
	KUNIT_EXPECT_EQ(test, vb->report.nr_failed, 0UL);
}

static void report_and_ranges_share_the_queue(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned long end = jiffies + 60 * HZ;
	unsigned int i = 0;

	while (!READ_ONCE(vb->report.nr_pages) && time_before(jiffies, end)) {
		fake_host_set_target(h, (++i % 2) * FRAMES_64M);
		msleep(20);
	}
	KUNIT_EXPECT_GT(test, vb->report.nr_pages, 0UL);
	test_resize_to(test, 0);
}

/* A device with a report out that its host does not answer. */
static struct vbal_report *plug_with_report_out(struct kunit *test,
						struct fake_host *h)
{
	struct vbal_report *r;

	h->q[FAKE_REPORT].budget = 0;
	r = &test_plug_bound(test)->report;
	report_free_a_block(test);
	KUNIT_ASSERT_TRUE(
		test, fake_wait(vbal_wire_in_flight(r->wire, VBAL_VQ_REPORT)));
	return r;
}

static void report_unplugged_while_waiting(struct kunit *test)
{
	plug_with_report_out(test, test_host(test, QEMU));
	test_unplug(test);
}

/* What no answer came for is not reported: the kernel offers it again. */
static void report_counts_what_fails(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	struct vbal_report *r = plug_with_report_out(test, h);

	fake_host_needs_reset(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(r->nr_failed)));
	KUNIT_EXPECT_EQ(test, r->nr_pages, 0UL);
	test_unplug(test);
}

struct late_answer {
	struct delayed_work work;
	struct fake_host *h;
};

static void answer_late(struct work_struct *work)
{
	struct late_answer *late =
		container_of(work, struct late_answer, work.work);

	fake_host_speak(late->h);
}

/* What is being reported is free memory that is out for a moment. */
static void report_is_waited_for_out_of_memory(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU);
	struct late_answer late = { .h = h };
	struct vbal_report *r = plug_with_report_out(test, h);
	unsigned long freed = 0;

	/* Who has something already does not wait. */
	freed = 1;
	r->oom_nb.notifier_call(&r->oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 1UL);
	KUNIT_EXPECT_EQ(test, r->nr_awaited, 0UL);
	/* The host says nothing: that has an end, and is not tried again. */
	freed = 0;
	r->oom_nb.notifier_call(&r->oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	KUNIT_EXPECT_EQ(test, r->nr_awaited, 1UL);
	KUNIT_EXPECT_EQ(test, READ_ONCE(r->nr_ended), 0UL);
	r->oom_nb.notifier_call(&r->oom_nb, 0, &freed);
	KUNIT_EXPECT_EQ(test, freed, 0UL);
	INIT_DELAYED_WORK_ONSTACK(&late.work, answer_late);
	/* A host that stalls for a while. */
	schedule_delayed_work(&late.work, 3 * HZ / 2);
	/* As if nobody had come yet. */
	r->nr_awaited = 0;
	r->oom_nb.notifier_call(&r->oom_nb, 0, &freed);
	KUNIT_EXPECT_GT(test, freed, 0UL);
	KUNIT_EXPECT_GE(test, READ_ONCE(r->nr_pages), freed);
	flush_delayed_work(&late.work);
	destroy_delayed_work_on_stack(&late.work);
}

static struct kunit_case report_test_cases[] = {
	KUNIT_CASE(report_is_waited_for_out_of_memory),
	KUNIT_CASE(report_tells_of_free_pages),
	KUNIT_CASE(report_and_ranges_share_the_queue),
	KUNIT_CASE(report_unplugged_while_waiting),
	KUNIT_CASE(report_counts_what_fails),
	{}
};

/* Freed pages that are poisoned ------------------------------------------- */

/* The suite runs in a guest of its own, booted with page_poison=1. */
static struct fake_host *poison_host(struct kunit *test, u64 features)
{
	if (!page_poisoning_enabled_static())
		kunit_skip(test, "the kernel is not booted with page_poison=1");
	return test_host(test, features);
}

/* The kernel looks at each page's poison when it is allocated. */
static void poison_expect_intact(struct kunit *test)
{
	struct page *page, *next;
	LIST_HEAD(pages);

	while (si_mem_available() > totalram_pages() / 4) {
		page = alloc_pages(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN,
				   VBAL_BLOCK_ORDER);
		if (!page)
			break;
		list_add(&page->lru, &pages);
	}
	KUNIT_EXPECT_FALSE(test, list_empty(&pages));
	list_for_each_entry_safe(page, next, &pages, lru)
		__free_pages(page, VBAL_BLOCK_ORDER);
}

static void poison_value_is_told(struct kunit *test)
{
	struct fake_host *h = poison_host(test, QEMU | F(PAGE_POISON));

	test_plug_bound(test);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(h->config.poison_val), 0xaaaaaaaaU);
	KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(h->config.poison_val), 0U);
	KUNIT_ASSERT_EQ(test, virtio_device_restore(&h->vdev), 0);
	KUNIT_EXPECT_EQ(test, le32_to_cpu(h->config.poison_val), 0xaaaaaaaaU);
}

/* Such a host would not take a held block that is reported. */
static void poison_sends_blocks_by_pfn(struct kunit *test)
{
	struct fake_host *h = poison_host(test, QEMU | F(PAGE_POISON));
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_EXPECT_TRUE(test, h->vdev.features & F(REPORTING));
	KUNIT_EXPECT_EQ(test, vb->pfn_causes, BIT(VBAL_PFN_POISON));
	test_resize_to(test, FRAMES_64M + 3);
	KUNIT_EXPECT_EQ(test, fake_books_count(BOOKS_PFN), FRAMES_64M + 3UL);
	KUNIT_EXPECT_EQ(test, test_range_pages(vb), 0UL);
	test_resize_to(test, 0);
	poison_expect_intact(test);
}

static void poison_reports_to_a_host_that_keeps(struct kunit *test)
{
	struct vbal_dev *vb;

	poison_host(test, QEMU | F(PAGE_POISON));
	vb = test_plug_bound(test);
	KUNIT_ASSERT_TRUE(test, vb->report.registered);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->report.nr_pages)));
	poison_expect_intact(test);
}

static void poison_reports_to_no_other_host(struct kunit *test)
{
	struct fake_host *h = poison_host(test, QEMU);
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_EXPECT_FALSE(test, h->vdev.features & F(REPORTING));
	KUNIT_EXPECT_EQ(test, vb->pfn_causes, BIT(VBAL_PFN_UNTOLD));
	KUNIT_EXPECT_FALSE(test, vb->report.registered);
	test_resize_to(test, FRAMES_64M + 3);
	test_resize_to(test, 0);
	poison_expect_intact(test);
	KUNIT_EXPECT_EQ(test, h->nr_range_bytes, 0ULL);
}

static void poison_that_is_not_told_is_said(struct kunit *test)
{
	struct vbal_dev *vb;

	poison_host(test, QEMU | F(PAGE_POISON));
	vbal_use_page_poison = false;
	vb = test_plug_bound(test);
	vbal_use_page_poison = true;
	KUNIT_EXPECT_EQ(test, vb->pfn_causes, BIT(VBAL_PFN_NOT_TOLD));
	KUNIT_EXPECT_FALSE(test, vb->report.registered);
}

static struct kunit_case poison_test_cases[] = {
	KUNIT_CASE(poison_value_is_told),
	KUNIT_CASE(poison_sends_blocks_by_pfn),
	KUNIT_CASE(poison_reports_to_a_host_that_keeps),
	KUNIT_CASE(poison_reports_to_no_other_host),
	KUNIT_CASE(poison_that_is_not_told_is_said),
	{}
};

/* Hostile hosts ----------------------------------------------------------- */

static void hostile_config_interrupt_storm(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	unsigned int i;

	test_plug_bound(test);
	fake_host_set_target(h, FRAMES_64M);
	for (i = 0; i < 20000; i++) {
		fake_host_config_irq(h);
		if (i % 64 == 0)
			cond_resched();
	}
	test_expect_actual(test, FRAMES_64M);
}

static void hostile_target_flaps_at_full_speed(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	unsigned int i;

	test_plug_bound(test);
	for (i = 0; i < 5000; i++)
		fake_host_set_target(h, i % 2 ? U32_MAX : 0);
	test_resize_to(test, 99);
}

static void hostile_uses_buffers_twice(struct kunit *test)
{
	struct device_test *t = test->priv;
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);

	/* The ring code breaks the queue; the driver resets the device. */
	t->may_break = true;
	WRITE_ONCE(h->twice, true);
	fake_host_set_target(h, FRAMES_2M);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets)));
	WRITE_ONCE(h->twice, false);
	test_expect_actual(test, FRAMES_2M);
	KUNIT_EXPECT_GE(test, vb->nr_recoveries, 1U);
}

/*
 * The host's fault breaks the statistics queue while the driver is at rest: nobody
 * waits at it then, and with an empty balloon nobody looks.
 */
static void break_at_rest(struct kunit *test, struct fake_host *h, bool *fault)
{
	struct device_test *t = test->priv;
	struct vbal_dev *vb = test_plug_bound(test);

	KUNIT_ASSERT_TRUE(test, fake_wait(READ_ONCE(h->nr_stats) == 1));
	t->may_break = true;
	WRITE_ONCE(*fault, true);
	KUNIT_ASSERT_TRUE(test, fake_host_ask_stats(h));
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets)));
	WRITE_ONCE(*fault, false);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(vb->nr_recoveries)));
	test_resize_to(test, FRAMES_2M);
}

static void hostile_answers_twice_at_rest(struct kunit *test)
{
	struct fake_host *h = test_host(test, F(STATS_VQ));

	break_at_rest(test, h, &h->twice);
}

/* As the ccw transport says of a device that is being taken away. */
static void hostile_hears_nothing_at_rest(struct kunit *test)
{
	struct fake_host *h = test_host(test, F(STATS_VQ));

	break_at_rest(test, h, &h->deaf);
}

enum stage {
	STAGE_INFLATE,
	STAGE_DEFLATE,
	STAGE_RANGE,
	STAGE_STATS,
	STAGE_HINT,
};

enum blow {
	BLOW_UNPLUG,
	BLOW_BREAK_AND_UNPLUG,
	BLOW_PULL_OUT,
	BLOW_NEEDS_RESET,
	BLOW_ASK,
	BLOW_FREEZE,
};

struct stage_case {
	const char *name;
	enum stage stage;
	enum blow blow;
};

static const struct stage_case stage_cases[] = {
	{ "unplugged while inflating", STAGE_INFLATE, BLOW_UNPLUG },
	{ "unplugged while deflating", STAGE_DEFLATE, BLOW_UNPLUG },
	{ "unplugged with ranges out", STAGE_RANGE, BLOW_UNPLUG },
	{ "unplugged with statistics out", STAGE_STATS, BLOW_UNPLUG },
	{ "unplugged while hinting", STAGE_HINT, BLOW_UNPLUG },
	{ "gone while inflating", STAGE_INFLATE, BLOW_BREAK_AND_UNPLUG },
	{ "gone while deflating", STAGE_DEFLATE, BLOW_BREAK_AND_UNPLUG },
	{ "gone with ranges out", STAGE_RANGE, BLOW_BREAK_AND_UNPLUG },
	{ "gone while hinting", STAGE_HINT, BLOW_BREAK_AND_UNPLUG },
	{ "pulled out while inflating", STAGE_INFLATE, BLOW_PULL_OUT },
	{ "pulled out while deflating", STAGE_DEFLATE, BLOW_PULL_OUT },
	{ "pulled out with ranges out", STAGE_RANGE, BLOW_PULL_OUT },
	{ "broken while inflating", STAGE_INFLATE, BLOW_NEEDS_RESET },
	{ "broken while deflating", STAGE_DEFLATE, BLOW_NEEDS_RESET },
	{ "broken with ranges out", STAGE_RANGE, BLOW_NEEDS_RESET },
	{ "broken while hinting", STAGE_HINT, BLOW_NEEDS_RESET },
	{ "asks for a reset while inflating", STAGE_INFLATE, BLOW_ASK },
	{ "asks for a reset while deflating", STAGE_DEFLATE, BLOW_ASK },
	{ "asks for a reset while hinting", STAGE_HINT, BLOW_ASK },
	{ "suspended while inflating", STAGE_INFLATE, BLOW_FREEZE },
	{ "suspended with ranges out", STAGE_RANGE, BLOW_FREEZE },
	{ "suspended while hinting", STAGE_HINT, BLOW_FREEZE },
};

static void stage_case_desc(const struct stage_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(stage, stage_cases, stage_case_desc);

/* Bring the driver to where it waits for a host that says nothing. */
static void wait_at_stage(struct kunit *test, struct vbal_dev *vb,
			  enum stage stage)
{
	struct device_test *t = test->priv;
	static const enum vbal_vq_id id[] = {
		[STAGE_INFLATE] = VBAL_VQ_INFLATE,
		[STAGE_DEFLATE] = VBAL_VQ_DEFLATE,
		[STAGE_RANGE] = VBAL_VQ_REPORT,
		[STAGE_STATS] = VBAL_VQ_STATS,
		[STAGE_HINT] = VBAL_VQ_HINT,
	};

	if (stage == STAGE_DEFLATE)
		test_resize_to(test, FRAMES_64M);
	fake_host_silence(t->h);
	if (stage == STAGE_INFLATE || stage == STAGE_RANGE)
		fake_host_set_target(t->h, FRAMES_64M);
	if (stage == STAGE_DEFLATE)
		fake_host_set_target(t->h, 0);
	if (stage == STAGE_HINT)
		fake_host_set_hint_cmd(t->h, 9);
	KUNIT_ASSERT_TRUE(test,
			  fake_wait(vbal_wire_in_flight(&vb->wire, id[stage])));
}

static void hostile_blow_at_stage(struct kunit *test)
{
	const struct stage_case *c = test->param_value;
	bool range = c->stage == STAGE_RANGE;
	struct fake_host *h = test_host(
		test,
		F(FREE_PAGE_HINT) | (range ? RANGE : PFN | F(MUST_TELL_HOST)));
	struct vbal_dev *vb = test_plug_bound(test);

	wait_at_stage(test, vb, c->stage);
	switch (c->blow) {
	case BLOW_BREAK_AND_UNPLUG:
		virtio_break_device(&h->vdev);
		fallthrough;
	case BLOW_UNPLUG:
		test_unplug(test);
		break;
	case BLOW_PULL_OUT:
		/* Its pages are the guest's again before anybody unbinds it. */
		fake_host_pull_out(h);
		KUNIT_EXPECT_TRUE(test,
				  fake_wait(vbal_life_now(&vb->wire.life) ==
						    VBAL_LIFE_DOWN &&
					    !vbal_pages_held(&vb->size.pages)));
		KUNIT_EXPECT_EQ(test, h->nr_resets, 0U);
		/* For the sake of the driver core, which looks at it. */
		h->status = 0;
		WRITE_ONCE(h->gone, false);
		break;
	case BLOW_FREEZE:
		KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
		fake_host_speak(h);
		KUNIT_ASSERT_EQ(test, virtio_device_restore(&h->vdev), 0);
		test_resize_to(test, 1234);
		break;
	case BLOW_NEEDS_RESET:
		virtio_break_device(&h->vdev);
		fallthrough;
	case BLOW_ASK:
		/* As QEMU does: its queues look as they did. */
		fake_host_needs_reset(h);
		KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets)));
		fake_host_speak(h);
		test_resize_to(test, 1234);
		break;
	}
}

/* Without any broken queue: the status bit alone. */
static void hostile_asks_for_a_reset(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);

	test_plug_bound(test);
	test_resize_to(test, FRAMES_64M);
	fake_host_needs_reset(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets) == 1));
	test_expect_actual(test, FRAMES_64M);
}

/* Nor is an answer to come to who waits for one. */
static void hostile_asks_for_a_reset_and_is_waited_for(struct kunit *test)
{
	struct fake_host *h = test_host(test, RANGE);
	struct vbal_dev *vb = test_plug_bound(test);

	fake_host_silence(h);
	fake_host_set_target(h, FRAMES_64M);
	KUNIT_EXPECT_TRUE(test,
			  fake_wait(test_sleeps(&vb->wire.q[VBAL_VQ_REPORT])));
	fake_host_needs_reset(h);
	KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets) == 1));
	fake_host_speak(h);
	test_expect_actual(test, FRAMES_64M);
}

static void hostile_offers_features_without_queues(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));

	h->missing = BIT(FAKE_STATS) | BIT(FAKE_HINT) | BIT(FAKE_REPORT);
	test_plug_bound(test);
	test_resize_to(test, FRAMES_2M + 1);
	test_resize_to(test, 0);
}

struct fail_case {
	enum fake_queue queue;
	bool binds;
};

static const struct fail_case fail_cases[] = {
	{ FAKE_INFLATE, false }, { FAKE_DEFLATE, false }, { FAKE_STATS, true },
	{ FAKE_HINT, true },	 { FAKE_REPORT, true },
};

static void fail_case_desc(const struct fail_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "queue %u", c->queue);
}

KUNIT_ARRAY_PARAM(fail, fail_cases, fail_case_desc);

static void hostile_find_vqs_fails(struct kunit *test)
{
	const struct fail_case *c = test->param_value;
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	struct vbal_dev *vb;

	h->fail_queue = c->queue;
	vb = test_plug(test);
	KUNIT_EXPECT_EQ(test, fake_host_bound(h), c->binds);
	if (!c->binds)
		return;
	KUNIT_EXPECT_EQ(test, vb->pfn_causes, BIT(VBAL_PFN_NO_QUEUE));
	test_resize_to(test, FRAMES_2M + 1);
}

static void hostile_plugged_many_times(struct kunit *test)
{
	struct fake_host *h = test_host(test, QEMU | F(FREE_PAGE_HINT));
	unsigned int i;

	for (i = 0; i < 10; i++) {
		h->config.num_pages = cpu_to_le32(i * 1000);
		h->config.actual = 0;
		test_plug_bound(test);
		if (i % 2)
			test_expect_actual(test, i * 1000);
		test_unplug(test);
		KUNIT_EXPECT_EQ(test, fake_books_count(BOOKS_PFN), 0UL);
	}
}

static struct kunit_case hostile_test_cases[] = {
	KUNIT_CASE(hostile_config_interrupt_storm),
	KUNIT_CASE(hostile_target_flaps_at_full_speed),
	KUNIT_CASE(hostile_uses_buffers_twice),
	KUNIT_CASE(hostile_answers_twice_at_rest),
	KUNIT_CASE(hostile_hears_nothing_at_rest),
	KUNIT_CASE_PARAM(hostile_blow_at_stage, stage_gen_params),
	KUNIT_CASE(hostile_asks_for_a_reset),
	KUNIT_CASE(hostile_asks_for_a_reset_and_is_waited_for),
	KUNIT_CASE(hostile_offers_features_without_queues),
	KUNIT_CASE_PARAM(hostile_find_vqs_fails, fail_gen_params),
	KUNIT_CASE(hostile_plugged_many_times),
	{}
};

/*
 * Modules cannot be filtered at run time before 6.6: make kunit FILTER=... names
 * what to build in.
 */
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_worker)
DEVICE_SUITE(worker);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_wire)
DEVICE_SUITE(wire);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_stats)
DEVICE_SUITE(stats);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_hint)
DEVICE_SUITE(hint);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_report)
DEVICE_SUITE(report);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_poison)
DEVICE_SUITE(poison);
#endif
#if !defined(VBAL_ONLY) || defined(VBAL_ONLY_hostile)
DEVICE_SUITE(hostile);
#endif
