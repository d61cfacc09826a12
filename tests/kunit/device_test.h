/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the suites on the fake host have in common. Before a test the driver is
 * registered. After it the driver holds exactly the frames that the host's books
 * name; then the device is unplugged, and nothing is ballooned any more, not one
 * page of the driver's is left, MemTotal is what it was, the host has seen no
 * breach of the protocol, and all but a few answers woke whoever waited for them.
 */
#ifndef _VBALLOON_DEVICE_TEST_H
#define _VBALLOON_DEVICE_TEST_H

#include <kunit/test.h>
#include <linux/migrate_mode.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "balloon.h"
#include "balloon_sysfs.h"
#include "fake_books.h"
#include "fake_host.h"

#define F(name) BIT_ULL(VIRTIO_BALLOON_F_##name)
#define MODERN BIT_ULL(VIRTIO_F_VERSION_1)
#define EVENT_IDX BIT_ULL(VIRTIO_RING_F_EVENT_IDX)
/* What QEMU offers with everything on. */
#define QEMU \
	(MODERN | EVENT_IDX | F(STATS_VQ) | F(DEFLATE_ON_OOM) | F(REPORTING))
#define RANGE QEMU
#define PFN (MODERN | EVENT_IDX | F(STATS_VQ))

#define FRAMES_2M 512
#define FRAMES_64M (32 * FRAMES_2M)

/**
 * struct device_test - kunit.priv of a test on the fake host
 * @h: the host, once test_host() was called
 * @plugged: the device is there
 * @may_break: the test is about a host that makes mistakes
 * @nr_missed: interrupts that devices already unplugged have missed
 * @total_before: MemTotal before the test, in pages
 * @own_before: pages that this module had before the test
 * @ballooned_before: the kernel's count of ballooned pages before the test
 */
struct device_test {
	struct fake_host *h;
	bool plugged;
	bool may_break;
	unsigned long nr_missed;
	unsigned long total_before;
	unsigned long own_before;
	long ballooned_before;
};

/* The driver under test; its struct is private to balloon_main.c. */
extern struct virtio_driver *const vbal_test_driver;

int device_suite_init(struct kunit_suite *suite);
void device_suite_exit(struct kunit_suite *suite);
int device_test_init(struct kunit *test);
void device_test_exit(struct kunit *test);

struct fake_host *test_host(struct kunit *test, u64 features);
struct vbal_dev *test_plug(struct kunit *test);
struct vbal_dev *test_plug_bound(struct kunit *test);
void test_unplug(struct kunit *test);

void test_expect_actual(struct kunit *test, u32 nr_frames);
void test_resize_to(struct kunit *test, u32 nr_frames);
unsigned long test_range_pages(struct vbal_dev *vb);
void test_expect_books(struct kunit *test);
bool test_books_have_held(struct vbal_dev *vb);
bool test_books_agree(struct vbal_dev *vb);
int test_exchange_page(struct page *page, struct page *newpage);
bool test_isolate_page(struct page *page);
void test_put_back_page(struct page *page);
void test_kill(struct vbal_dev *vb);
void test_recover(struct kunit *test, struct vbal_dev *vb);
int test_exchange_locked_page(struct page *page, struct page *newpage,
			      enum migrate_mode mode);
void test_expect_no_leak(struct kunit *test, unsigned long own_before);
bool test_sleeps(struct vbal_vq *q);

/* Free memory in pieces of a page, more than a sixteenth of all. */
void test_scatter(struct kunit *test, struct vbal_pages *vp,
		  struct list_head *in_use);
void test_gather(struct list_head *in_use);

/* Frames that the host has by its books. */
static inline unsigned long test_books_frames(void)
{
	return fake_books_count(BOOKS_PFN) + fake_books_count(BOOKS_RANGE);
}

#define DEVICE_SUITE(_name)                              \
	static struct kunit_suite _name##_test_suite = { \
		.name = "vballoon_" #_name,              \
		.suite_init = device_suite_init,         \
		.suite_exit = device_suite_exit,         \
		.init = device_test_init,                \
		.exit = device_test_exit,                \
		.test_cases = _name##_test_cases,        \
	};                                               \
	kunit_test_suite(_name##_test_suite)

#endif /* _VBALLOON_DEVICE_TEST_H */
