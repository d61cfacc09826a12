/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the suites on the fake host have in common. Before a test the driver is
 * registered; after it the device is unplugged, and then nothing may be
 * ballooned any more, MemTotal is what it was, the host has seen no breach of
 * the protocol, and all but a few answers woke whoever waited for them.
 */
#ifndef _VBALLOON_DEVICE_TEST_H
#define _VBALLOON_DEVICE_TEST_H

#include <kunit/test.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>

#include "balloon.h"
#include "balloon_sysfs.h"
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
 * @free_before: MemFree before the test, in pages
 * @ballooned_before: the kernel's count of ballooned pages before the test
 */
struct device_test {
	struct fake_host *h;
	bool plugged;
	bool may_break;
	unsigned long nr_missed;
	unsigned long total_before;
	unsigned long free_before;
	long ballooned_before;
};

/* The driver under test; its struct is private to balloon_main.c. */
extern struct virtio_driver *const vbal_test_driver;

int device_test_init(struct kunit *test);
void device_test_exit(struct kunit *test);

struct fake_host *test_host(struct kunit *test, u64 features);
struct vbal_dev *test_plug(struct kunit *test);
struct vbal_dev *test_plug_bound(struct kunit *test);
void test_unplug(struct kunit *test);

void test_expect_actual(struct kunit *test, u32 nr_frames);
void test_resize_to(struct kunit *test, u32 nr_frames);
unsigned long test_range_pages(struct vbal_dev *vb);

#define DEVICE_SUITE(_name)                              \
	static struct kunit_suite _name##_test_suite = { \
		.name = "vballoon_" #_name,              \
		.init = device_test_init,                \
		.exit = device_test_exit,                \
		.test_cases = _name##_test_cases,        \
	};                                               \
	kunit_test_suite(_name##_test_suite)

#endif /* _VBALLOON_DEVICE_TEST_H */
