// SPDX-License-Identifier: GPL-2.0-only
/*
 * A little of the simulation as a unit test, on two CPUs and in real time, where
 * only those steps are taken that need no waiting. tests/run/simulate does more.
 */
#include "simulate.h"

#include <linux/slab.h>

#define SIM_REPORT_SIZE 8192

static void simulate_a_few_steps(struct kunit *test)
{
	struct sim_plan *plan = kunit_kzalloc(test, sizeof(*plan), GFP_KERNEL);
	char *report = kunit_kzalloc(test, SIM_REPORT_SIZE, GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, plan);
	KUNIT_ASSERT_NOT_NULL(test, report);
	plan->seed = 1;
	plan->nr_episodes = 20;
	plan->nr_steps = 100;
	plan->slow = IS_ENABLED(CONFIG_UML);
	bitmap_fill(plan->keep, SIM_MAX_STEPS);
	KUNIT_EXPECT_EQ_MSG(test, sim_run(plan, report, SIM_REPORT_SIZE), 0,
			    "%.300s", report);
}

static struct kunit_case simulate_test_cases[] = {
	KUNIT_CASE(simulate_a_few_steps),
	{}
};

DEVICE_SUITE(simulate);
