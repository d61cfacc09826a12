// SPDX-License-Identifier: GPL-2.0-only
#include "device_test.h"

#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/sched.h>
#include <linux/vmstat.h>

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

/* Built in, the driver is registered by now; no test is to find it so. */
static bool registered_before;

static bool is_registered(void)
{
	const struct device_driver *driver = &vbal_test_driver->driver;

	return driver->bus && driver_find(driver->name, driver->bus) == driver;
}

int device_suite_init(struct kunit_suite *suite)
{
	registered_before = is_registered();
	if (registered_before) {
		unregister_virtio_driver(vbal_test_driver);
		vbal_sysfs_unregister();
	}
	return fake_books_open();
}

void device_suite_exit(struct kunit_suite *suite)
{
	fake_books_close();
	if (registered_before) {
		vbal_sysfs_register();
		if (register_virtio_driver(vbal_test_driver))
			pr_err("the driver is lost to its devices\n");
	}
}

int device_test_init(struct kunit *test)
{
	struct device_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	test->priv = t;
	fake_books_begin();
	t->total_before = totalram_pages();
	t->own_before = fake_books_own_pages();
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

static void audit_bag(struct vbal_bag *bag, enum books_owner owner)
{
	struct page *page;
	unsigned int order;

	for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++)
		list_for_each_entry(page, &bag->blocks[order], lru)
			fake_books_audit(page, order, owner);
	list_for_each_entry(page, &bag->kept, lru)
		fake_books_audit(page, 0, owner);
	spin_lock(&bag->singles.pages_lock);
	list_for_each_entry(page, &bag->singles.pages, lru)
		fake_books_audit(page, 0, owner);
	spin_unlock(&bag->singles.pages_lock);
}

/* Has the host, by its books, each frame that is on the driver's lists? */
bool test_books_have_held(struct vbal_dev *vb)
{
	struct vbal_pages *vp = &vb->size.pages;

	fake_books_audit_begin();
	spin_lock_irq(&vp->lock);
	audit_bag(&vp->bag[VBAL_MODE_PFN], BOOKS_PFN);
	audit_bag(&vp->bag[VBAL_MODE_RANGE], BOOKS_RANGE);
	spin_unlock_irq(&vp->lock);
	return !fake_books_audit_differs();
}

/* Do the driver's lists and the host's books name the same frames? */
bool test_books_agree(struct vbal_dev *vb)
{
	unsigned long held = vbal_pages_held(&vb->size.pages);

	return vbal_pages_to_frames(held) == test_books_frames() &&
	       test_books_have_held(vb) && fake_books_audit_is_complete();
}

/* What the host took for free was free: the kernel's own reports say as much. */
static bool reports_agree(struct device_test *t, struct vbal_dev *vb)
{
	return READ_ONCE(t->h->nr_resets) || READ_ONCE(vb->report.nr_failed) ||
	       READ_ONCE(t->h->nr_reported) == READ_ONCE(vb->report.nr_pages);
}

/* Frame for frame, once the host has read what is on its way. */
void test_expect_books(struct kunit *test)
{
	struct device_test *t = test->priv;
	struct vbal_dev *vb = vbal_dev_of(&t->h->vdev);
	bool agree = fake_wait(test_books_agree(vb));

	KUNIT_EXPECT_TRUE_MSG(test, agree, "held: %lu; by the books %lu, %lu",
			      vbal_pages_held(&vb->size.pages),
			      fake_books_count(BOOKS_PFN),
			      fake_books_count(BOOKS_RANGE));
	KUNIT_EXPECT_TRUE_MSG(test, fake_wait(reports_agree(t, vb)),
			      "reported: %lu; by the books %lu",
			      vb->report.nr_pages, t->h->nr_reported);
}

/* Not one page of this module's but those of before. */
void test_expect_no_leak(struct kunit *test, unsigned long own_before)
{
	KUNIT_EXPECT_TRUE_MSG(test,
			      fake_wait(fake_books_own_pages() == own_before),
			      "%lu pages are ours, %lu were before",
			      fake_books_own_pages(), own_before);
	KUNIT_EXPECT_EQ(test, fake_books_count(BOOKS_LOST), 0UL);
}

/* Has who waits for this queue looked at it, and gone to sleep again? */
bool test_sleeps(struct vbal_vq *q)
{
	struct task_struct *task = NULL;
	struct wait_queue_entry *entry;
	bool sleeps = false;

	spin_lock_irq(&q->wait.lock);
	entry = list_first_entry_or_null(&q->wait.head, struct wait_queue_entry,
					 entry);
	/* Off the CPU's list only after the look that its state announced. */
	if (entry)
		task = entry->private;
	if (task)
		sleeps = !READ_ONCE(task->on_rq);
	spin_unlock_irq(&q->wait.lock);
	return sleeps;
}

/* Whatever the test was about, from now on the host answers. */
static void settle(struct kunit *test)
{
	struct device_test *t = test->priv;

	if (!t->plugged || !fake_host_bound(t->h))
		return;
	fake_host_speak(t->h);
	test_expect_books(test);
}

static void expect_no_breach(struct kunit *test)
{
	struct device_test *t = test->priv;
	unsigned long frame;
	const char *first;

	KUNIT_EXPECT_EQ_MSG(test, fake_books_errors(&first, &frame), 0U,
			    "first: %s, frame %lx", first, frame);
	if (t->h && !t->may_break)
		KUNIT_EXPECT_EQ_MSG(test, t->h->nr_errors, 0U, "first: %s",
				    t->h->error);
}

void device_test_exit(struct kunit *test)
{
	struct device_test *t = test->priv;

	settle(test);
	test_unplug(test);
	expect_no_breach(test);
	KUNIT_EXPECT_LE(test, t->nr_missed, FEW_MISSED);
	if (t->h)
		fake_host_destroy(t->h);
	unregister_virtio_driver(vbal_test_driver);
	vbal_sysfs_unregister();
	vbal_test_driver->driver.owner = THIS_MODULE;
	KUNIT_EXPECT_EQ(test, totalram_pages(), t->total_before);
	KUNIT_EXPECT_EQ(test, ballooned(), t->ballooned_before);
	test_expect_no_leak(test, t->own_before);
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

	t->h->nr_reported = 0;
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
	test_expect_books(test);
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

/* Of each two pages one stays in use. */
void test_scatter(struct kunit *test, struct vbal_pages *vp,
		  struct list_head *in_use)
{
	gfp_t gfp = GFP_HIGHUSER_MOVABLE | __GFP_NOWARN;
	unsigned long nr_left = totalram_pages() * 3 / 32, i;
	LIST_HEAD(pieces);
	struct page *page;

	while (nr_left) {
		page = alloc_pages(gfp, VBAL_BLOCK_ORDER);
		if (!page)
			break;
		split_page(page, VBAL_BLOCK_ORDER);
		for (i = 0; i < 1UL << VBAL_BLOCK_ORDER; i++)
			list_add(&page[i].lru, i % 2 ? in_use : &pieces);
		nr_left -= min(nr_left, 1UL << (VBAL_BLOCK_ORDER - 1));
	}
	/* Not before, or the next block could be made of them. */
	test_gather(&pieces);
	KUNIT_EXPECT_GT(test, vbal_pages_scattered(vp), 0UL);
}

void test_gather(struct list_head *in_use)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, in_use, lru) {
		list_del(&page->lru);
		__free_page(page);
	}
}

/*
 * As the kernel isolates a page that is referenced and locked. Its mark tells the
 * kernel's own compaction, which may run at any time, that the page is out.
 */
bool test_isolate_page(struct page *page)
{
	if (!__PageMovable(page) || !page_movable_ops(page) ||
	    PageIsolated(page))
		return false;
	balloon_mops.isolate_page(page, 0);
	SetPageIsolated(page);
	return true;
}

/* Locked again. */
void test_put_back_page(struct page *page)
{
	balloon_mops.putback_page(page);
	ClearPageIsolated(page);
}

/*
 * As compaction does it with a page that it has a reference of and locked. -EBUSY:
 * somebody else has it.
 */
int test_exchange_locked_page(struct page *page, struct page *newpage,
			      enum migrate_mode mode)
{
	int ret = -EBUSY;

	lock_page(newpage);
	if (test_isolate_page(page)) {
		ret = balloon_mops.migrate_page(newpage, page, mode);
		if (ret)
			test_put_back_page(page);
		else
			ClearPageIsolated(page);
	}
	unlock_page(newpage);
	unlock_page(page);
	put_page(page);
	return ret;
}

int test_exchange_page(struct page *page, struct page *newpage)
{
	get_page(page);
	lock_page(page);
	return test_exchange_locked_page(page, newpage, MIGRATE_SYNC);
}

static void nobody_is_told(struct vbal_wire *wire)
{
}

/* The device stays dead until the test has it recovered. */
void test_kill(struct vbal_dev *vb)
{
	vbal_broke_fn *broke = vb->wire.broke;

	vb->wire.broke = nobody_is_told;
	vbal_wire_kill(&vb->wire);
	vb->wire.broke = broke;
}

/* What the driver does by itself, after a pause. */
void test_recover(struct kunit *test, struct vbal_dev *vb)
{
	mod_delayed_work(vb->side_wq, &vb->recover_work, 0);
	KUNIT_EXPECT_TRUE(test, fake_wait(vbal_life_is_up(&vb->wire.life)));
}
