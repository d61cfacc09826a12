// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guard's decisions, with a clock and counters of the test's own. The guest
 * of these tests has 1 GiB, of which 66 MiB lie below the high watermarks.
 */
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "balloon_guard.h"

#define MIB(n) ((unsigned long)(n) << (20 - PAGE_SHIFT))
#define RAM MIB(1024)
#define BELOW_HIGH MIB(66)
/* The defaults for 1 GiB. */
#define FLOOR MIB(144)
#define RESERVE MIB(36)

struct guard_test {
	struct vbal_guard g;
	struct vbal_signals s;
	struct vbal_verdict v;
};

/* The guest has @free_pages, all of them in the open. */
static void set_free(struct guard_test *t, unsigned long free_pages)
{
	t->s.free_pages = free_pages;
	t->s.above_high_pages =
		free_pages > BELOW_HIGH ? free_pages - BELOW_HIGH : 0;
	t->s.avail_pages = t->s.above_high_pages;
}

/* Free memory is down to the high watermarks, the rest is page cache. */
static void set_cached(struct guard_test *t, unsigned long avail_pages,
		       unsigned long cold_pages)
{
	t->s.free_pages = BELOW_HIGH;
	t->s.above_high_pages = 0;
	t->s.avail_pages = avail_pages;
	t->s.cold_pages = cold_pages;
}

static unsigned long ask(struct guard_test *t, unsigned long want_pages)
{
	vbal_guard_ask(&t->g, &t->s, want_pages, &t->v);
	return t->v.grant_pages;
}

static unsigned long watch(struct guard_test *t)
{
	vbal_guard_watch(&t->g, &t->s, &t->v);
	return t->v.give_back_pages;
}

/* A tight guest that was looked at just now: the next look compares. */
static void set_tight(struct guard_test *t)
{
	set_cached(t, MIB(200), MIB(100));
	ask(t, 0);
	t->s.now_ms += 500;
}

static int guard_test_init(struct kunit *test)
{
	struct guard_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	test->priv = t;
	vbal_guard_init(&t->g, RAM, true);
	t->s.now_ms = 1000000;
	t->s.total_pages = RAM;
	t->s.high_wmark_pages = BELOW_HIGH;
	set_free(t, MIB(900));
	return 0;
}

/* Settings */

struct size_case {
	const char *text;
	int ret;
	unsigned long nr_pages;
};

static const struct size_case size_cases[] = {
	{ "0", 0, 0 },
	{ "0%", 0, 0 },
	{ "1", 0, 0 },
	{ "1048576", 0, MIB(1) },
	{ "1024K", 0, MIB(1) },
	{ "1024k", 0, MIB(1) },
	{ "128M", 0, MIB(128) },
	{ "128m\n", 0, MIB(128) },
	{ " 128M ", 0, MIB(128) },
	{ "1024M", 0, MIB(1024) },
	{ "1G", 0, MIB(1024) },
	{ "5%", 0, RAM * 5 / 100 },
	{ "100%", 0, RAM },
	{ "101%", -EINVAL },
	{ "1025M", -EINVAL },
	{ "2G", -EINVAL },
	{ "1073741825", -EINVAL },
	{ "18446744073709551615G", -EINVAL },
	{ "99999999999999999999", -EINVAL },
	{ "999999999999999999999999999999", -EINVAL },
	{ "", -EINVAL },
	{ "\n", -EINVAL },
	{ "%", -EINVAL },
	{ "M", -EINVAL },
	{ "-1", -EINVAL },
	{ "+1", -EINVAL },
	{ "5 %", -EINVAL },
	{ "5%%", -EINVAL },
	{ "1MB", -EINVAL },
	{ "1T", -EINVAL },
	{ "0x10", -EINVAL },
	{ "1.5G", -EINVAL },
	{ "much", -EINVAL },
};

static void size_case_desc(const struct size_case *c, char *desc)
{
	strscpy(desc, c->text[0] ? c->text : "(empty)", KUNIT_PARAM_DESC_SIZE);
	strreplace(desc, '\n', '_');
}

KUNIT_ARRAY_PARAM(size, size_cases, size_case_desc);

static void parse_size(struct kunit *test)
{
	const struct size_case *c = test->param_value;
	unsigned long nr_pages = 4711;

	KUNIT_EXPECT_EQ(test, vbal_guard_parse_size(c->text, RAM, &nr_pages),
			c->ret);
	KUNIT_EXPECT_EQ(test, nr_pages, c->ret ? 4711 : c->nr_pages);
}

struct default_case {
	unsigned long ram_mib;
	unsigned long floor_mib;
	unsigned long reserve_mib;
};

/* The table of docs/guard.md. */
static const struct default_case default_cases[] = {
	{ 0, 0, 0 },	     { 64, 32, 8 },	  { 128, 64, 16 },
	{ 256, 80, 20 },     { 512, 112, 28 },	  { 1024, 144, 36 },
	{ 2048, 208, 52 },   { 4096, 272, 68 },	  { 8192, 400, 100 },
	{ 16384, 528, 132 }, { 32768, 784, 196 }, { 65536, 1296, 324 },
};

static void default_case_desc(const struct default_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%lu MiB", c->ram_mib);
}

KUNIT_ARRAY_PARAM(default, default_cases, default_case_desc);

static void defaults_grow_with_ram(struct kunit *test)
{
	const struct default_case *c = test->param_value;

	KUNIT_EXPECT_EQ(test, vbal_guard_default_floor(MIB(c->ram_mib)),
			MIB(c->floor_mib));
	KUNIT_EXPECT_EQ(test, vbal_guard_default_reserve(MIB(c->ram_mib)),
			MIB(c->reserve_mib));
}

static void init_takes_defaults(struct kunit *test)
{
	struct guard_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, t->g.policy, VBAL_GUARD_PROTECT);
	KUNIT_EXPECT_EQ(test, t->g.floor_pages, FLOOR);
	KUNIT_EXPECT_EQ(test, t->g.reserve_pages, RESERVE);
}

static void set_refuses_nonsense_and_keeps_the_old(struct kunit *test)
{
	struct guard_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, vbal_guard_set_floor(&t->g, "no", RAM), -EINVAL);
	KUNIT_EXPECT_EQ(test, vbal_guard_set_reserve(&t->g, "2G", RAM),
			-EINVAL);
	KUNIT_EXPECT_EQ(test, vbal_guard_set_policy(&t->g, "crush"), -EINVAL);
	KUNIT_EXPECT_EQ(test, vbal_guard_set_policy(&t->g, ""), -EINVAL);
	init_takes_defaults(test);
}

static void set_takes_effect(struct kunit *test)
{
	struct guard_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, vbal_guard_set_floor(&t->g, "256M\n", RAM), 0);
	KUNIT_EXPECT_EQ(test, t->g.floor_pages, MIB(256));
	KUNIT_EXPECT_EQ(test, vbal_guard_set_reserve(&t->g, "50%", RAM), 0);
	KUNIT_EXPECT_EQ(test, t->g.reserve_pages, MIB(512));
	KUNIT_EXPECT_EQ(test, vbal_guard_set_policy(&t->g, "squeeze\n"), 0);
	KUNIT_EXPECT_EQ(test, t->g.policy, VBAL_GUARD_SQUEEZE);
	KUNIT_EXPECT_EQ(test, vbal_guard_set_policy(&t->g, "protect"), 0);
	KUNIT_EXPECT_EQ(test, t->g.policy, VBAL_GUARD_PROTECT);
}

static void names(struct kunit *test)
{
	KUNIT_EXPECT_STREQ(test, vbal_guard_policy_name(VBAL_GUARD_PROTECT),
			   "protect");
	KUNIT_EXPECT_STREQ(test, vbal_guard_policy_name(VBAL_GUARD_SQUEEZE),
			   "squeeze");
	KUNIT_EXPECT_STREQ(test, vbal_state_name(VBAL_STATE_AT_TARGET),
			   "at-target");
	KUNIT_EXPECT_STREQ(test, vbal_state_name(VBAL_STATE_HELD_BY_FLOOR),
			   "held-by-floor");
	KUNIT_EXPECT_STREQ(test, vbal_state_name(VBAL_STATE_HELD_BY_PRESSURE),
			   "held-by-pressure");
	KUNIT_EXPECT_STREQ(test, vbal_state_name(VBAL_STATE_BROKEN), "broken");
}

/* Asking: floor and reserve */

static void ask_with_plenty_grants_all(struct kunit *test)
{
	struct guard_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, ask(t, MIB(300)), MIB(300));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
	KUNIT_EXPECT_EQ(test, t->v.give_back_pages, 0);
}

static void ask_near_the_limit_grants_half(struct kunit *test)
{
	struct guard_test *t = test->priv;

	/* Room: 834 available less 36 of reserve. */
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(834 - 36) / 2);
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
}

static void ask_stops_at_the_reserve(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_free(t, BELOW_HIGH + RESERVE + MIB(1));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	set_free(t, BELOW_HIGH + RESERVE + MIB(1) - 1);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
	KUNIT_EXPECT_NOT_NULL(test, strstr(t->v.why, "reserve"));
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
}

static void ask_stops_at_the_floor(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = RAM - FLOOR - MIB(1);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	t->s.held_pages = RAM - FLOOR - MIB(1) + 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
	KUNIT_EXPECT_NOT_NULL(test, strstr(t->v.why, "floor"));
	t->s.held_pages = RAM + 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
}

static void ask_finishes_the_last_pages(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_free(t, BELOW_HIGH + RESERVE + 10);
	KUNIT_EXPECT_EQ(test, ask(t, 10), 10);
	KUNIT_EXPECT_EQ(test, ask(t, 11), 0);
}

static void ask_goes_on_when_memory_is_free_again(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_free(t, BELOW_HIGH);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(100)), 0);
	t->s.now_ms += t->v.retry_ms;
	set_free(t, MIB(600));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(100)), MIB(100));
}

static void ask_with_zero_settings_stops_at_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_floor(&t->g, "0", RAM);
	vbal_guard_set_reserve(&t->g, "0", RAM);
	set_free(t, BELOW_HIGH + RAM / 256 + MIB(1));
	t->s.held_pages = RAM - MIB(80);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
}

static void ask_never_grants_more_than_wanted(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned long want;

	for (want = 1; want <= RAM; want *= 3)
		KUNIT_EXPECT_LE(test, ask(t, want), want);
	set_cached(t, MIB(500), MIB(400));
	for (want = 1; want <= RAM; want *= 3) {
		KUNIT_EXPECT_LE(test, ask(t, want), want);
		t->s.now_ms += 100;
	}
}

/* Asking: page cache */

static void ask_drops_cold_cache_in_growing_portions(struct kunit *test)
{
	static const unsigned int portion_mib[] = { 1, 2, 4, 8, 16, 16, 16 };
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < ARRAY_SIZE(portion_mib); i++) {
		KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(portion_mib[i]));
		KUNIT_EXPECT_TRUE(test, t->v.reclaim);
		t->s.held_pages += t->v.grant_pages;
		t->s.now_ms += 100;
	}
}

static void ask_pauses_between_portions(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	/* A batch took less than the portion: the rest may follow at once. */
	t->s.held_pages += MIB(1) - 100;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 100);
	t->s.held_pages += 100;
	t->s.now_ms += 60;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 40);
	KUNIT_EXPECT_NOT_NULL(test, t->v.why);
}

static void ask_starts_small_after_a_pause(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(400));
	ask(t, RAM);
	t->s.now_ms += 100;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(2));
	t->s.now_ms += 100 + 1001;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
}

static void ask_leaves_half_of_the_cold_cache(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(2) - 2);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
	set_cached(t, MIB(500), MIB(2));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
}

static void ask_drops_warm_cache_slowly(struct kunit *test)
{
	static const unsigned int portion_mib[] = { 1, 2, 4, 4, 4 };
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), 0);
	t->s.warm_pages = MIB(400);
	for (i = 0; i < ARRAY_SIZE(portion_mib); i++) {
		KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(portion_mib[i]));
		KUNIT_EXPECT_TRUE(test, t->v.reclaim);
		t->s.held_pages += t->v.grant_pages;
		KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
		KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
		KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
		t->s.now_ms += 1000;
	}
}

static void ask_leaves_half_of_the_warm_cache(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), 0);
	t->s.warm_pages = MIB(2) - 2;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
	t->s.warm_pages = MIB(2);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
}

static void ask_leaves_cache_that_the_reserve_counts(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, RESERVE, MIB(400));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_NOT_NULL(test, strstr(t->v.why, "reserve"));
}

/* Pressure */

struct pressure_case {
	const char *name;
	unsigned long swapped_out, refaults, alloc_stalls;
	bool held;
};

static const struct pressure_case pressure_cases[] = {
	{ "calm", 0, 0, 0, false },
	{ "some swap", 32, 0, 0, false },
	{ "swap", 33, 0, 0, true },
	{ "some refaults", 0, RAM / 1024, 0, false },
	{ "refaults", 0, RAM / 1024 + 1, 0, true },
	{ "some stalls", 0, 0, 4, false },
	{ "stalls", 0, 0, 5, true },
	{ "some of all", 32, RAM / 1024, 4, false },
};

static void pressure_case_desc(const struct pressure_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(pressure, pressure_cases, pressure_case_desc);

static void add_pressure(struct guard_test *t, const struct pressure_case *c)
{
	t->s.swapped_out += c->swapped_out;
	t->s.refaults += c->refaults;
	t->s.alloc_stalls += c->alloc_stalls;
}

static void pressure_in_a_tight_guest_holds(struct kunit *test)
{
	const struct pressure_case *c = test->param_value;
	struct guard_test *t = test->priv;

	set_tight(t);
	add_pressure(t, c);
	KUNIT_EXPECT_EQ(test, !ask(t, RAM), c->held);
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, c->held);
	if (!c->held)
		return;
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
	KUNIT_EXPECT_NOT_NULL(test, t->v.why);
}

static void pressure_in_a_roomy_guest_is_ignored(struct kunit *test)
{
	const struct pressure_case *c = test->param_value;
	struct guard_test *t = test->priv;

	ask(t, 0);
	t->s.now_ms += 500;
	add_pressure(t, c);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(100)), MIB(100));
}

static void pressure_long_ago_is_ignored(struct kunit *test)
{
	const struct pressure_case *c = test->param_value;
	struct guard_test *t = test->priv;

	set_tight(t);
	t->s.now_ms += 5000;
	add_pressure(t, c);
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
}

static void pressure_before_the_first_look_is_ignored(struct kunit *test)
{
	const struct pressure_case *c = test->param_value;
	struct guard_test *t = test->priv;

	set_cached(t, MIB(200), MIB(100));
	add_pressure(t, c);
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
}

static void stalls_of_our_own_are_expected(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tight(t);
	ask(t, RAM);
	/* A portion of 1 MiB: at worst a stall for each eight pages. */
	t->s.alloc_stalls += 4 + MIB(1) / 8;
	t->s.now_ms += 100;
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
	t->s.alloc_stalls += MIB(2) / 8 + 1;
	t->s.now_ms += 100;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
}

static void counters_may_step_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.swapped_out = 5000;
	t->s.refaults = 5000;
	t->s.alloc_stalls = 5000;
	set_tight(t);
	t->s.swapped_out = 0;
	t->s.refaults = 0;
	t->s.alloc_stalls = 0;
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
}

static void hold_grows_and_decays(struct kunit *test)
{
	static const unsigned int hold_ms[] = { 1000,  2000,  4000, 8000,
						16000, 16000, 16000 };
	struct guard_test *t = test->priv;
	unsigned int i;

	set_tight(t);
	for (i = 0; i < ARRAY_SIZE(hold_ms); i++) {
		t->s.swapped_out += 100;
		KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
		KUNIT_EXPECT_EQ(test, t->g.hold_ms, hold_ms[i]);
		KUNIT_EXPECT_EQ(test, t->g.hold_until_ms,
				t->s.now_ms + hold_ms[i]);
		t->s.now_ms += 100;
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 1);
	t->s.now_ms = t->g.hold_until_ms - 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1);
	for (i = 0; i < 4; i++) {
		t->s.now_ms += 1001;
		KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
	}
	KUNIT_EXPECT_EQ(test, t->g.hold_ms, 1000);
}

static void hold_ends_when_memory_is_plenty(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tight(t);
	t->s.swapped_out += 100;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	t->s.now_ms += 100;
	set_free(t, MIB(600));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

static void hold_makes_portions_small(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_tight(t);
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1) << i);
		t->s.held_pages += t->v.grant_pages;
		t->s.now_ms += 100;
	}
	t->s.refaults += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	t->s.now_ms = t->g.hold_until_ms;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
}

/* Failed allocations */

static void alloc_failed_backs_off(struct kunit *test)
{
	static const unsigned int pause_ms[] = { 100,  200,  400,  800,
						 1600, 3200, 4000, 4000 };
	struct guard_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(pause_ms); i++) {
		KUNIT_EXPECT_EQ(test,
				vbal_guard_alloc_failed(&t->g, t->s.now_ms),
				pause_ms[i]);
		t->s.now_ms += pause_ms[i];
	}
	vbal_guard_progress(&t->g);
	KUNIT_EXPECT_EQ(test, vbal_guard_alloc_failed(&t->g, t->s.now_ms), 100);
	KUNIT_EXPECT_EQ(test, vbal_guard_alloc_failed(&t->g, t->s.now_ms), 200);
	t->s.now_ms += 8001;
	KUNIT_EXPECT_EQ(test, vbal_guard_alloc_failed(&t->g, t->s.now_ms), 100);
}

/* Giving back */

static void watch_of_a_calm_guest_is_silent(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	set_tight(t);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 0);
}

static void watch_between_half_and_full_reserve_is_silent(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_free(t, BELOW_HIGH + RESERVE / 2);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	set_free(t, BELOW_HIGH + RESERVE);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
}

static void watch_gives_back_below_half_the_reserve(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_free(t, BELOW_HIGH + RESERVE / 2 - 1);
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
	KUNIT_EXPECT_NOT_NULL(test, strstr(t->v.why, "reserve"));
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 1);
	KUNIT_EXPECT_EQ(test, t->g.nr_give_back_pages, MIB(16));
}

static void watch_gives_back_in_growing_steps(struct kunit *test)
{
	static const unsigned int step_mib[] = { 16, 32, 64, 128, 256, 256 };
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(900);
	set_free(t, 0);
	for (i = 0; i < ARRAY_SIZE(step_mib); i++) {
		KUNIT_EXPECT_EQ(test, watch(t), MIB(step_mib[i]));
		t->s.now_ms += 20;
	}
	t->s.now_ms += 10000;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
}

static void watch_gives_back_what_there_is(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_free(t, 0);
	t->s.held_pages = 7;
	KUNIT_EXPECT_EQ(test, watch(t), 7);
	t->s.held_pages = 0;
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void watch_without_deflate_on_oom_never_gives_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.may_give_back = false;
	t->s.held_pages = MIB(900);
	set_tight(t);
	t->s.swapped_out += 100000;
	set_free(t, 0);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void watch_answers_pressure(struct kunit *test)
{
	const struct pressure_case *c = test->param_value;
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_tight(t);
	t->s.avail_pages = 2 * RESERVE - 1;
	add_pressure(t, c);
	KUNIT_EXPECT_EQ(test, watch(t), c->held ? MIB(16) : 0);
	/* Once: the same counters are no news. */
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void watch_answers_what_ask_has_seen(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_tight(t);
	t->s.swapped_out += 100;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
}

static void watch_undoes_what_is_missed(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_tight(t);
	ask(t, RAM);
	t->s.now_ms += 100;
	ask(t, RAM);
	t->s.refaults += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(1) + MIB(2));
}

static void watch_undoes_less_of_what_is_long_ago(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(500);
	set_tight(t);
	ask(t, RAM);
	for (i = 0; i < 2; i++) {
		t->s.now_ms += 1000;
		KUNIT_EXPECT_EQ(test, watch(t), 0);
	}
	t->s.refaults += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(1) * 9 / 16);
	/* Once: what was undone is not dropped any more. */
	t->s.refaults += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void watch_undoes_no_more_than_a_sixteenth(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(500);
	set_tight(t);
	for (i = 0; i < 9; i++) {
		ask(t, RAM);
		t->s.held_pages += t->v.grant_pages;
		t->s.now_ms += 100;
	}
	t->s.refaults += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, watch(t), RAM / 16);
}

static void watch_ignores_a_file_set_larger_than_ram(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(500);
	set_tight(t);
	for (i = 0; i < 100; i++) {
		t->s.refaults += 50000;
		t->s.now_ms += 1000;
		KUNIT_EXPECT_EQ(test, watch(t), 0);
		KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	}
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
}

static void settle_holds_whatever_is_free(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_free(t, 0);
	KUNIT_EXPECT_GT(test, watch(t), 0);
	set_free(t, MIB(900));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
	t->s.now_ms += 4999;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1);
	t->s.now_ms += 1;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

static void settle_grows_with_each_relapse(struct kunit *test)
{
	static const unsigned int settle_ms[] = { 5000,	 10000, 20000,
						  40000, 60000, 60000 };
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(500);
	set_free(t, 0);
	for (i = 0; i < ARRAY_SIZE(settle_ms); i++) {
		watch(t);
		KUNIT_EXPECT_EQ(test, t->g.settle_ms, settle_ms[i]);
		/* More of the same relapse extends, but does not double. */
		t->s.now_ms += 100;
		watch(t);
		KUNIT_EXPECT_EQ(test, t->g.settle_ms, settle_ms[i]);
		KUNIT_EXPECT_EQ(test, atomic64_read(&t->g.settle_until_ms),
				t->s.now_ms + settle_ms[i]);
		t->s.now_ms += settle_ms[i] + 1000;
	}
	t->s.now_ms += 4 * 60000;
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.settle_ms, 5000);
}

/* The OOM notifier */

static void oom_gives_growing_steps(struct kunit *test)
{
	static const unsigned int step_mib[] = { 16, 32, 64, 128, 256, 256 };
	struct guard_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(step_mib); i++) {
		KUNIT_EXPECT_EQ(test, vbal_guard_oom_step(&t->g, t->s.now_ms),
				MIB(step_mib[i]));
		t->s.now_ms += 10000;
	}
	t->s.now_ms += 1;
	KUNIT_EXPECT_EQ(test, vbal_guard_oom_step(&t->g, t->s.now_ms), MIB(16));
}

static void oom_step_of_a_small_guest(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.total_pages = MIB(64);
	KUNIT_EXPECT_EQ(test, vbal_guard_oom_step(&t->g, t->s.now_ms), MIB(8));
	KUNIT_EXPECT_EQ(test, vbal_guard_oom_step(&t->g, t->s.now_ms), MIB(16));
	KUNIT_EXPECT_EQ(test, vbal_guard_oom_step(&t->g, t->s.now_ms), MIB(16));
}

static void oom_holds_inflation_off(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_oom_done(&t->g, 0, t->s.now_ms);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_events, 0);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
	vbal_guard_oom_done(&t->g, MIB(16), t->s.now_ms);
	vbal_guard_oom_done(&t->g, MIB(32), t->s.now_ms);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_events, 2);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_pages, MIB(48));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	t->s.now_ms += 5000;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

/* Squeeze */

static void squeeze_obeys_the_host(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_policy(&t->g, "squeeze");
	t->s.held_pages = RAM - 10;
	set_tight(t);
	set_free(t, 0);
	t->s.swapped_out += 100000;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), RAM);
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void squeeze_waits_after_oom(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_policy(&t->g, "squeeze");
	vbal_guard_oom_done(&t->g, MIB(16), t->s.now_ms);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	t->s.now_ms += 5000;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

static void squeeze_can_be_left_at_once(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_policy(&t->g, "squeeze");
	set_free(t, 0);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), RAM);
	vbal_guard_set_policy(&t->g, "protect");
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
}

/* All together: a guest that is asked for everything */

/* One look of the size worker a tenth of a second later. */
static void step(struct guard_test *t, unsigned long used_pages)
{
	unsigned long taken = used_pages + t->s.held_pages;

	t->s.now_ms += 100;
	set_free(t, RAM > taken ? RAM - taken : 0);
	t->s.held_pages -= watch(t);
	taken = used_pages + t->s.held_pages;
	set_free(t, RAM > taken ? RAM - taken : 0);
	t->s.held_pages += ask(t, RAM - t->s.held_pages);
}

static void balloon_comes_to_rest_at_the_reserve(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < 100; i++)
		step(t, MIB(450));
	KUNIT_EXPECT_LE(test, t->s.held_pages,
			RAM - MIB(450) - BELOW_HIGH - RESERVE);
	KUNIT_EXPECT_GT(test, t->s.held_pages,
			RAM - MIB(450) - BELOW_HIGH - RESERVE - MIB(2));
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 0);
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 0);
}

static void balloon_does_not_fight_a_new_process(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned long held;
	unsigned int i;

	for (i = 0; i < 100; i++)
		step(t, MIB(300));
	for (i = 0; i < 100; i++)
		step(t, MIB(600));
	held = t->s.held_pages;
	KUNIT_EXPECT_LE(test, t->g.nr_give_backs, 6);
	KUNIT_EXPECT_LE(test, held, RAM - MIB(600) - BELOW_HIGH - RESERVE / 2);
	for (i = 0; i < 1000; i++)
		step(t, MIB(600));
	KUNIT_EXPECT_LE(test, t->g.nr_give_backs, 6);
	KUNIT_EXPECT_GE(test, t->s.held_pages, held);
}

static void balloon_comes_back_when_the_process_ends(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned long held;
	unsigned int i;

	for (i = 0; i < 100; i++)
		step(t, MIB(300));
	held = t->s.held_pages;
	for (i = 0; i < 20; i++)
		step(t, MIB(600));
	KUNIT_EXPECT_LT(test, t->s.held_pages, held);
	for (i = 0; i < 100; i++)
		step(t, MIB(300));
	KUNIT_EXPECT_GT(test, t->s.held_pages, held - MIB(2));
}

/* The real thing, as far as it can be known */

static void sample_is_plausible(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_sample(&t->s, MIB(3), true);
	KUNIT_EXPECT_EQ(test, t->s.held_pages, MIB(3));
	KUNIT_EXPECT_EQ(test, t->s.total_pages, totalram_pages());
	KUNIT_EXPECT_GT(test, t->s.free_pages, 0);
	KUNIT_EXPECT_LT(test, t->s.free_pages, t->s.total_pages);
	KUNIT_EXPECT_GT(test, t->s.high_wmark_pages, 0);
	KUNIT_EXPECT_LT(test, t->s.above_high_pages, t->s.free_pages);
	KUNIT_EXPECT_LT(test, t->s.avail_pages, t->s.total_pages);
	vbal_guard_sample(&t->s, MIB(3), false);
	KUNIT_EXPECT_EQ(test, t->s.total_pages, totalram_pages() + MIB(3));
}

static void start_without_deflate_on_oom_does_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.may_give_back = false;
	KUNIT_EXPECT_EQ(test, vbal_guard_start(&t->g, NULL), 0);
	vbal_guard_stop(&t->g);
}

static struct kunit_case guard_test_cases[] = {
	KUNIT_CASE_PARAM(parse_size, size_gen_params),
	KUNIT_CASE_PARAM(defaults_grow_with_ram, default_gen_params),
	KUNIT_CASE(init_takes_defaults),
	KUNIT_CASE(set_refuses_nonsense_and_keeps_the_old),
	KUNIT_CASE(set_takes_effect),
	KUNIT_CASE(names),
	KUNIT_CASE(ask_with_plenty_grants_all),
	KUNIT_CASE(ask_near_the_limit_grants_half),
	KUNIT_CASE(ask_stops_at_the_reserve),
	KUNIT_CASE(ask_stops_at_the_floor),
	KUNIT_CASE(ask_finishes_the_last_pages),
	KUNIT_CASE(ask_goes_on_when_memory_is_free_again),
	KUNIT_CASE(ask_with_zero_settings_stops_at_nothing),
	KUNIT_CASE(ask_never_grants_more_than_wanted),
	KUNIT_CASE(ask_drops_cold_cache_in_growing_portions),
	KUNIT_CASE(ask_pauses_between_portions),
	KUNIT_CASE(ask_starts_small_after_a_pause),
	KUNIT_CASE(ask_leaves_half_of_the_cold_cache),
	KUNIT_CASE(ask_drops_warm_cache_slowly),
	KUNIT_CASE(ask_leaves_half_of_the_warm_cache),
	KUNIT_CASE(ask_leaves_cache_that_the_reserve_counts),
	KUNIT_CASE_PARAM(pressure_in_a_tight_guest_holds, pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_in_a_roomy_guest_is_ignored,
			 pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_long_ago_is_ignored, pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_before_the_first_look_is_ignored,
			 pressure_gen_params),
	KUNIT_CASE(stalls_of_our_own_are_expected),
	KUNIT_CASE(counters_may_step_back),
	KUNIT_CASE(hold_grows_and_decays),
	KUNIT_CASE(hold_ends_when_memory_is_plenty),
	KUNIT_CASE(hold_makes_portions_small),
	KUNIT_CASE(alloc_failed_backs_off),
	KUNIT_CASE(watch_of_a_calm_guest_is_silent),
	KUNIT_CASE(watch_between_half_and_full_reserve_is_silent),
	KUNIT_CASE(watch_gives_back_below_half_the_reserve),
	KUNIT_CASE(watch_gives_back_in_growing_steps),
	KUNIT_CASE(watch_gives_back_what_there_is),
	KUNIT_CASE(watch_without_deflate_on_oom_never_gives_back),
	KUNIT_CASE_PARAM(watch_answers_pressure, pressure_gen_params),
	KUNIT_CASE(watch_answers_what_ask_has_seen),
	KUNIT_CASE(watch_undoes_what_is_missed),
	KUNIT_CASE(watch_undoes_less_of_what_is_long_ago),
	KUNIT_CASE(watch_undoes_no_more_than_a_sixteenth),
	KUNIT_CASE(watch_ignores_a_file_set_larger_than_ram),
	KUNIT_CASE(settle_holds_whatever_is_free),
	KUNIT_CASE(settle_grows_with_each_relapse),
	KUNIT_CASE(oom_gives_growing_steps),
	KUNIT_CASE(oom_step_of_a_small_guest),
	KUNIT_CASE(oom_holds_inflation_off),
	KUNIT_CASE(squeeze_obeys_the_host),
	KUNIT_CASE(squeeze_waits_after_oom),
	KUNIT_CASE(squeeze_can_be_left_at_once),
	KUNIT_CASE(balloon_comes_to_rest_at_the_reserve),
	KUNIT_CASE(balloon_does_not_fight_a_new_process),
	KUNIT_CASE(balloon_comes_back_when_the_process_ends),
	KUNIT_CASE(sample_is_plausible),
	KUNIT_CASE(start_without_deflate_on_oom_does_nothing),
	{}
};

static struct kunit_suite guard_test_suite = {
	.name = "vballoon_guard",
	.init = guard_test_init,
	.test_cases = guard_test_cases,
};

kunit_test_suite(guard_test_suite);
