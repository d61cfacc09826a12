// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guard's decisions, with a clock and counters of the test's own. The guest
 * of these tests has 1 GiB, of which 66 MiB lie below the high watermarks.
 */
#include <kunit/test.h>
#include <linux/cpu.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/string.h>
#include <linux/vmstat.h>

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
		       unsigned long cache_pages)
{
	t->s.free_pages = BELOW_HIGH;
	t->s.above_high_pages = 0;
	t->s.avail_pages = avail_pages;
	t->s.cache_pages = cache_pages;
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

/* Take what is granted. */
static unsigned long take(struct guard_test *t)
{
	unsigned long nr_pages = ask(t, RAM - t->s.held_pages);

	t->s.held_pages += nr_pages;
	t->s.cache_pages -= min(t->s.cache_pages, nr_pages);
	return nr_pages;
}

/* A tight guest that gave page cache half a second ago: the next look compares. */
static void set_tight(struct guard_test *t)
{
	set_cached(t, MIB(500), MIB(400));
	take(t);
	t->s.now_ms += 500;
}

static int guard_test_init(struct kunit *test)
{
	struct guard_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, t);
	test->priv = t;
	vbal_guard_init(&t->g, RAM, true);
	t->s.now_ms = 1000000;
	t->g.learned_at_ms = t->s.now_ms;
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

/* Hotplug: what was set by hand stays, the defaults follow. */
static void settings_follow_the_memory(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_reserve(&t->g, "50M", RAM);
	t->s.total_pages = MIB(2048);
	ask(t, 0);
	KUNIT_EXPECT_EQ(test, t->g.floor_pages, MIB(208));
	KUNIT_EXPECT_EQ(test, t->g.reserve_pages, MIB(50));
	KUNIT_EXPECT_EQ(test, t->g.total_pages, MIB(2048));
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

static void ask_doubles_what_is_not_missed(struct kunit *test)
{
	static const unsigned int step_mib[] = { 1, 2, 4, 8, 16, 32, 64, 128 };
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(900), MIB(800));
	for (i = 0; i < ARRAY_SIZE(step_mib); i++) {
		KUNIT_EXPECT_EQ(test, take(t), MIB(step_mib[i]));
		KUNIT_EXPECT_TRUE(test, t->v.reclaim);
		t->s.now_ms += 20;
	}
	KUNIT_EXPECT_EQ(test, take(t), MIB(128));
}

/* A batch may take less than the step. */
static void ask_grants_the_rest_of_a_step(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(400));
	take(t);
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(2));
	t->s.held_pages += MIB(1);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	/* But no crumbs, unless the host wants no more. */
	t->s.held_pages += 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, ask(t, 100), 100);
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(4));
}

static void ask_waits_for_the_guest_to_miss_it(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	t->s.held_pages += MIB(1);
	t->s.now_ms += 5;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 15);
	KUNIT_EXPECT_NOT_NULL(test, t->v.why);
}

/* What was read again and again gets longer, if it could not be given back. */
static void ask_waits_longer_for_active_cache(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.may_give_back = false;
	set_cached(t, MIB(500), MIB(400));
	t->s.cache_is_active = true;
	KUNIT_EXPECT_EQ(test, take(t), MIB(1));
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 980);
	t->s.now_ms += 980;
	t->s.cache_is_active = false;
	KUNIT_EXPECT_EQ(test, take(t), MIB(2));
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, take(t), MIB(4));
}

/* A mapped file may be in use all over, each page but once in some seconds. */
static void steps_of_mapped_cache_are_slow(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	t->s.cache_is_mapped = true;
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, take(t), MIB(1) << i);
		t->s.now_ms += 249;
		KUNIT_EXPECT_EQ(test, take(t), 0);
		t->s.now_ms += 1;
	}
}

static void ask_looks_before_it_takes(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, take(t), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 50);
	t->s.now_ms += 50;
	KUNIT_EXPECT_EQ(test, take(t), MIB(1));
}

/* A 64th of memory, or a 16th of the page cache that there was at first. */
static void ask_leaves_page_cache(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(400));
	while (take(t))
		t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_FLOOR);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
	KUNIT_EXPECT_GE(test, t->s.cache_pages, MIB(25));
	KUNIT_EXPECT_LT(test, t->s.cache_pages, MIB(26));
	/* It does not shrink while the same is asked for. */
	t->s.now_ms += 100000;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	/* However often less is asked for, something stays. */
	t->s.held_pages -= MIB(1);
	while (take(t))
		t->s.now_ms += 20;
	KUNIT_EXPECT_GE(test, t->s.cache_pages, MIB(16));
}

static void ask_counts_slab_in(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_cached(t, MIB(500), MIB(10));
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	t->s.slab_pages = MIB(300);
	/* The same means would swap this out. */
	t->s.tmpfs_pages = MIB(300) / 16 + 1;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	t->s.tmpfs_pages--;
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
	KUNIT_EXPECT_TRUE(test, t->v.slab);
	KUNIT_EXPECT_TRUE(test, t->v.slab_first);
	t->s.slab_pages = MIB(20);
	t->s.cache_pages = MIB(100);
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
	KUNIT_EXPECT_FALSE(test, t->v.slab);
	KUNIT_EXPECT_FALSE(test, t->v.slab_first);
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
	unsigned long swapped_out, refaulted, activated, alloc_stalls;
	bool held;
};

static const struct pressure_case pressure_cases[] = {
	{ "calm" },
	{ "some swap", .swapped_out = BITS_PER_LONG },
	{ "swap", .swapped_out = BITS_PER_LONG + 1, .held = true },
	{ "some refaulted", .refaulted = RAM / 1024 },
	{ "refaulted", .refaulted = RAM / 1024 + 1, .held = true },
	{ "some activated", .activated = RAM / 1024 },
	{ "activated", .activated = RAM / 1024 + 1, .held = true },
	{ "some stalls", .alloc_stalls = 4 },
	{ "stalls", .alloc_stalls = 5, .held = true },
	{ "some of all", BITS_PER_LONG, RAM / 1024, RAM / 1024, 4 },
};

static void pressure_case_desc(const struct pressure_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(pressure, pressure_cases, pressure_case_desc);

static void add_pressure(struct guard_test *t, const struct pressure_case *c)
{
	t->s.swapped_out += c->swapped_out;
	t->s.missed[VBAL_REFAULTED] += c->refaulted;
	t->s.missed[VBAL_ACTIVATED] += c->activated;
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
	/* Soon, in case that it has to be answered. */
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 50);
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

static void counters_may_step_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.swapped_out = 5000;
	t->s.missed[VBAL_REFAULTED] = 5000;
	t->s.alloc_stalls = 5000;
	set_tight(t);
	t->s.swapped_out = 0;
	t->s.missed[VBAL_REFAULTED] = 0;
	t->s.alloc_stalls = 0;
	KUNIT_EXPECT_GT(test, ask(t, RAM), 0);
}

static void hold_doubles_while_it_is_too_early(struct kunit *test)
{
	static const unsigned int hold_ms[] = { 1000,  2000,   4000,
						8000,  16000,  32000,
						64000, 128000, 128000 };
	struct guard_test *t = test->priv;
	unsigned int i;

	set_tight(t);
	for (i = 0; i < ARRAY_SIZE(hold_ms); i++) {
		t->s.swapped_out += 100;
		KUNIT_EXPECT_EQ(test, take(t), 0);
		KUNIT_EXPECT_EQ(test, t->g.hold_ms, hold_ms[i]);
		/* More of the same extends it, but does not double. */
		t->s.now_ms += 100;
		t->s.swapped_out += 100;
		KUNIT_EXPECT_EQ(test, take(t), 0);
		KUNIT_EXPECT_EQ(test, t->g.hold_until_ms,
				t->s.now_ms + hold_ms[i]);
		t->s.now_ms = t->g.hold_until_ms;
		KUNIT_EXPECT_EQ(test, take(t), MIB(1));
		t->s.now_ms += 500;
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, ARRAY_SIZE(hold_ms));
	/* Forgotten when that is long ago. */
	t->s.now_ms += 60000 + 4 * 128000;
	take(t);
	t->s.now_ms += 500;
	t->s.swapped_out += 100;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.hold_ms, 1000);
}

static void hold_is_looked_at_less_often_later(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tight(t);
	t->s.swapped_out += 100;
	ask(t, RAM);
	t->g.hold_until_ms += 10000;
	t->s.now_ms += 3000;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.retry_ms, 1000);
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

static void hold_makes_steps_small(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < 4; i++) {
		KUNIT_EXPECT_EQ(test, take(t), MIB(1) << i);
		t->s.now_ms += 20;
	}
	t->s.missed[VBAL_REFAULTED] += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	t->s.now_ms = t->g.hold_until_ms;
	KUNIT_EXPECT_EQ(test, take(t), MIB(1));
}

/* Who missed something gets longer to miss the next. */
static void steps_after_a_hold_are_slow(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_tight(t);
	t->s.missed[VBAL_ACTIVATED] += RAM / 1024 + 1;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	t->s.now_ms = t->g.hold_until_ms;
	for (i = 0; i < 8; i++) {
		KUNIT_EXPECT_EQ(test, take(t), MIB(1) << i);
		t->s.now_ms += 999;
		KUNIT_EXPECT_EQ(test, take(t), 0);
		t->s.now_ms += 1;
	}
	/* The largest was not missed: forgotten. */
	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, take(t), MIB(128));
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, take(t), MIB(128));
}

/* Whose fault it is */

/* Missed while it was taken: taking stops, and that is looked at. */
static void set_missed(struct kunit *test, struct guard_test *t)
{
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < 4; i++) {
		take(t);
		t->s.now_ms += 20;
	}
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	KUNIT_EXPECT_EQ(test, take(t), 0);
	KUNIT_EXPECT_NOT_NULL(test, strstr(t->v.why, "misses"));
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	t->s.now_ms += 50;
}

/* And it goes on: so what was taken goes back. */
static void give_back_missed(struct kunit *test, struct guard_test *t)
{
	set_missed(test, t);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.free_pages -= MIB(2);
	t->s.held_pages -= watch(t);
}

static void
missed_pages_that_fill_free_memory_are_given_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_missed(test, t);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.free_pages -= MIB(2);
	/* All that was dropped: 1 + 2 + 4 + 8. */
	KUNIT_EXPECT_EQ(test, watch(t), MIB(15));
	t->s.held_pages -= MIB(15);
	/* There is no more to undo. */
	t->s.now_ms += 50;
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.free_pages -= MIB(2);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void missed_pages_that_displace_others_are_given_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_missed(test, t);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.kswapd_pages += MIB(2);
	KUNIT_EXPECT_EQ(test, watch(t), MIB(15));
}

/* A container at its own limit: nothing is needed for what comes back. */
static void missed_pages_of_a_container_change_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_missed(test, t);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	for (i = 0; t->s.now_ms < t->g.hold_until_ms; i++) {
		t->s.now_ms += 50;
		t->s.missed[VBAL_REFAULTED] += MIB(2);
		KUNIT_EXPECT_EQ(test, watch(t), 0);
	}
	KUNIT_EXPECT_LE(test, i, 20U);
	for (i = 0; i < 50; i++) {
		t->s.now_ms += 50;
		t->s.missed[VBAL_REFAULTED] += MIB(2);
		KUNIT_EXPECT_GT(test, ask(t, MIB(1)), 0);
		KUNIT_EXPECT_EQ(test, watch(t), 0);
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 1);
}

/* Missed before any of it was taken: not the balloon's fault. */
static void missed_pages_of_before_change_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, take(t), 0);
	for (i = 0; i < 18; i++) {
		t->s.missed[VBAL_REFAULTED] += MIB(2);
		t->s.kswapd_pages += MIB(2);
		t->s.now_ms += 50;
		/* Looked at for half a second, as something does come back. */
		KUNIT_EXPECT_EQ(test, take(t) > 0, i >= 9);
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 0);
}

/* What kswapd frees meanwhile is left alone: taking it would begin the look again. */
static void free_memory_does_not_begin_a_look_again(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < 12; i++) {
		KUNIT_EXPECT_EQ(test, take(t) > 0, i >= 10);
		t->s.missed[VBAL_REFAULTED] += MIB(2);
		t->s.kswapd_pages += MIB(2);
		t->s.above_high_pages = i & 1 ? MIB(6) : 0;
		t->s.now_ms += 50;
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 0);
}

/* Nobody knows yet what comes back anyway: that is looked at first, free memory waits. */
static void missed_pages_before_any_cache_hold_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	t->s.above_high_pages = MIB(6);
	KUNIT_EXPECT_EQ(test, take(t), MIB(1));
	for (i = 0; i < 12; i++) {
		t->s.missed[VBAL_REFAULTED] += MIB(2);
		t->s.kswapd_pages += MIB(2);
		t->s.now_ms += i ? 50 : 2;
		KUNIT_EXPECT_EQ(test, ask(t, RAM) > 0, i >= 10);
		KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 0);
}

/* Nothing was seen at time 0, however short a time ago that is. */
static void missed_pages_soon_after_boot_are_looked_at(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.now_ms = 1000;
	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	KUNIT_EXPECT_EQ(test, take(t), 0UL);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.now_ms += 2;
	KUNIT_EXPECT_EQ(test, take(t), 0UL);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_INFLATING);
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, 0);
}

/* Who has free memory need not look at all. */
static void missed_pages_of_before_end_with_the_pressure(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->g.learned_at_ms = 0;
	set_cached(t, MIB(500), MIB(400));
	ask(t, RAM);
	t->s.missed[VBAL_REFAULTED] += MIB(2);
	t->s.now_ms += 2;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_TRUE(test, t->g.look_first);
	t->s.now_ms += 2;
	set_free(t, MIB(600));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
	KUNIT_EXPECT_FALSE(test, t->g.look_first);
}

/* Four steps of page cache: 15 MiB. */
static void take_cache(struct guard_test *t)
{
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < 4; i++) {
		take(t);
		t->s.now_ms += 20;
	}
}

/* What the host or the OOM notifier took back cannot be missed any more. */
static void dropped_is_never_more_than_held(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	for (i = 0; i < 3; i++) {
		take_cache(t);
		t->s.held_pages = MIB(2);
		KUNIT_EXPECT_EQ(test, watch(t), 0);
		KUNIT_EXPECT_EQ(test, t->g.dropped_pages, MIB(2));
	}
	/* None is left, though the target is the same. */
	take_cache(t);
	t->s.held_pages = 0;
	ask(t, RAM);
	KUNIT_EXPECT_EQ(test, t->g.dropped_pages, 0);
}

static void pieces_that_reclaim_leaves_may_merge(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	t->s.above_high_pages = MIB(50);
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(16));
	KUNIT_EXPECT_TRUE(test, t->v.reclaim);
	KUNIT_EXPECT_TRUE(test, t->v.merge);
	/* Somebody has let go of so much. */
	t->s.above_high_pages = MIB(70);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(33));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
}

static void pieces_that_reclaim_leaves_count_as_dropped(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	/* The host wants no more than that. */
	t->s.above_high_pages = MIB(20);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(8)), MIB(8));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
	t->s.held_pages += MIB(8);
	t->s.above_high_pages = 0;
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.dropped_pages, MIB(15 + 8));
}

static void pieces_are_taken_when_no_cache_is_left(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	set_cached(t, MIB(500), MIB(16));
	t->s.above_high_pages = MIB(20);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(8));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
}

/* Who reads takes them, before they merge. */
static void pieces_are_taken_from_a_stream(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	t->g.foreign_per_s[VBAL_REFAULTED] = RAM / 32;
	t->s.above_high_pages = MIB(20);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(8));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
	t->s.above_high_pages = 0;
	t->s.now_ms += 20;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(16));
	KUNIT_EXPECT_TRUE(test, t->v.reclaim);
	KUNIT_EXPECT_FALSE(test, t->v.merge);
}

/* What a step has left when it was missed is page cache, too, when it goes on. */
static void pieces_wait_after_a_hold(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	t->s.missed[VBAL_REFAULTED] += MIB(10);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	t->s.above_high_pages = MIB(20);
	t->s.now_ms += 1000;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(1));
	KUNIT_EXPECT_TRUE(test, t->v.reclaim);
}

/* As long as page cache is dropped, though what it leaves is free. */
static void pieces_do_not_hide_what_is_missed(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	t->s.above_high_pages = MIB(50);
	t->s.missed[VBAL_REFAULTED] += MIB(10);
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
}

static void memory_that_was_let_go_does_not_count_as_dropped(struct kunit *test)
{
	struct guard_test *t = test->priv;

	take_cache(t);
	set_free(t, MIB(300));
	KUNIT_EXPECT_GT(test, take(t), MIB(50));
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.dropped_pages, MIB(15));
	/* Long after page cache was taken there are no pieces left. */
	t->s.now_ms += 1000;
	t->s.above_high_pages = MIB(20);
	KUNIT_EXPECT_EQ(test, take(t), MIB(8));
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.dropped_pages, MIB(15));
}

/* A guest of which 1/32 is less than what is worth the trip. */
static void set_tiny(struct guard_test *t)
{
	memset(&t->g, 0, sizeof(t->g));
	vbal_guard_init(&t->g, MIB(32), true);
	t->s.total_pages = MIB(32);
	t->s.free_pages = MIB(3);
	t->s.above_high_pages = MIB(1);
	t->s.avail_pages = MIB(10);
	t->s.cache_pages = MIB(9);
}

static void tiny_guest_gives_page_cache(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tiny(t);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(8)), 0);
	t->s.now_ms += 50;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(8)), MIB(1));
	KUNIT_EXPECT_TRUE(test, t->v.reclaim);
}

static void tiny_guest_may_miss_a_little(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tiny(t);
	t->g.learned_at_ms = t->s.now_ms;
	t->s.held_pages += ask(t, MIB(8));
	t->s.now_ms += 50;
	t->s.missed[VBAL_REFAULTED] += MIB(1) / 4;
	KUNIT_EXPECT_GT(test, ask(t, MIB(8)), 0);
	t->s.missed[VBAL_REFAULTED] += 1;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(8)), 0);
	KUNIT_EXPECT_EQ(test, t->g.pressure, VBAL_PRESSURE_MISSED);
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
	unsigned long owed = 0;

	t->s.held_pages = MIB(500);
	set_tight(t);
	add_pressure(t, c);
	if (c->alloc_stalls > 4)
		owed = MIB(16);
	else if (c->swapped_out > BITS_PER_LONG)
		owed = MIB(1); /* as much page cache as was taken */
	KUNIT_EXPECT_EQ(test, watch(t), owed);
	/* Once: the same counters are no news. */
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

/* A run of kswapd's, while the balloon takes, is no more than a reason to stop. */
static void watch_of_swap_sees_what_stopping_does(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(500);
	set_cached(t, MIB(500), MIB(400));
	take(t);
	for (i = 0; i < 4; i++) {
		t->s.now_ms += 40;
		t->s.swapped_out += 70;
		KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
		KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
		KUNIT_EXPECT_EQ(test, watch(t), 0);
	}
	KUNIT_EXPECT_EQ(test, t->g.hold_ms, 200);
	t->s.now_ms += 40;
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	/* It goes on: as much goes back as page cache was taken. */
	t->s.swapped_out += 70;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(1));
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.hold_ms, 1000);
}

/* Each time that the balloon goes on: each pause is twice as long. */
static void bursts_of_swap_make_pauses_longer(struct kunit *test)
{
	static const unsigned int hold_ms[] = {
		200, 400, 800, 1600, 3200, 6400
	};
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	for (i = 0; i < ARRAY_SIZE(hold_ms); i++) {
		KUNIT_EXPECT_EQ(test, take(t), MIB(1));
		t->s.now_ms += 10;
		t->s.swapped_out += 100;
		KUNIT_EXPECT_EQ(test, take(t), 0);
		KUNIT_EXPECT_EQ(test, t->g.hold_ms, hold_ms[i]);
		t->s.now_ms = t->g.hold_until_ms;
	}
	KUNIT_EXPECT_EQ(test, watch(t), 0);
}

static void watch_answers_what_ask_has_seen(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(500);
	set_tight(t);
	t->s.avail_pages = RESERVE;
	t->s.swapped_out += 100;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), 0);
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
}

/*
 * A container that swaps at its own limit, in a guest full of page cache: it
 * stops inflation, but the balloon has nothing to answer for.
 */
static void watch_of_a_swapping_container_is_silent(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(300);
	set_cached(t, MIB(500), MIB(400));
	ask(t, 0);
	for (i = 0; i < 20; i++) {
		t->s.now_ms += 1000;
		t->s.swapped_out += 1000;
		KUNIT_EXPECT_EQ(test, watch(t), 0);
		KUNIT_EXPECT_EQ(test, ask(t, MIB(100)), 0);
		KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 0);
}

/* The guest itself swaps: little is left that could be reclaimed. */
static void watch_of_a_swapping_guest_gives_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(300);
	set_cached(t, 2 * RESERVE - 2, MIB(50));
	ask(t, 0);
	t->s.now_ms += 1000;
	t->s.swapped_out += 1000;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
	t->s.now_ms += 1000;
	t->s.swapped_out += 1000;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(32));
}

/* A guest that swaps and stalls is short itself, however much seems available. */
static void watch_of_stalls_is_not_hidden_by_swapping(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.held_pages = MIB(300);
	set_cached(t, 4 * RESERVE, BELOW_HIGH);
	ask(t, 0);
	t->s.now_ms += 500;
	t->s.alloc_stalls += 5;
	ask(t, MIB(1));
	t->s.now_ms += 500;
	t->s.swapped_out += 1000;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(16));
	t->s.now_ms += 1000;
	t->s.alloc_stalls += 5;
	t->s.swapped_out += 1000;
	KUNIT_EXPECT_EQ(test, watch(t), MIB(32));
}

struct stream_case {
	const char *name;
	unsigned long again, lost, alloc_stalls;
	bool held;
};

/* In a tenth of a second. */
static const struct stream_case stream_cases[] = {
	{ "a stream", .again = MIB(40), .alloc_stalls = 8 },
	{ "no stream", .alloc_stalls = 8, .held = true },
	{ "a trickle", .again = MIB(1) / 8, .alloc_stalls = 8, .held = true },
	{ "a stream, and somebody who needs memory", .again = MIB(40),
	  .lost = MIB(5), .alloc_stalls = 8, .held = true },
	{ "more than usual, and somebody who needs memory", .again = MIB(100),
	  .lost = MIB(5), .alloc_stalls = 8, .held = true },
};

static void stream_case_desc(const struct stream_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(stream, stream_cases, stream_case_desc);

/* A stream that is known waits for its own page cache, as ever. Who else does? */
static void stalls_of_a_stream_are_its_own(struct kunit *test)
{
	const struct stream_case *c = test->param_value;
	struct guard_test *t = test->priv;
	unsigned int i;

	t->s.held_pages = MIB(300);
	t->g.foreign_per_s[VBAL_REFAULTED] = MIB(400);
	set_cached(t, MIB(400), MIB(300));
	ask(t, 0);
	for (i = 0; i < 8 && !t->g.nr_pressure_events; i++) {
		t->s.now_ms += 100;
		t->s.missed[VBAL_REFAULTED] += c->again;
		t->s.alloc_stalls += c->alloc_stalls;
		t->s.avail_pages -= c->lost;
		KUNIT_EXPECT_EQ(test, watch(t) > 0, c->held);
		/* What goes to the balloon is not lost. */
		t->s.held_pages += MIB(6);
		t->s.avail_pages -= MIB(6);
		ask(t, MIB(1));
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_pressure_events, c->held);
}

/* What comes back no more is forgotten to the last page. */
static void what_came_back_is_forgotten(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	t->g.foreign_per_s[VBAL_REFAULTED] = 7;
	set_cached(t, MIB(400), MIB(300));
	for (i = 0; i < 200; i++) {
		watch(t);
		t->s.now_ms += 100;
	}
	KUNIT_EXPECT_EQ(test, t->g.foreign_per_s[VBAL_REFAULTED], 0);
}

/* As after a balloon that was empty: nobody had to answer. */
static void pressure_long_over_gives_nothing_back(struct kunit *test)
{
	struct guard_test *t = test->priv;

	set_tight(t);
	t->s.held_pages = MIB(200);
	watch(t);
	t->s.now_ms += 100;
	t->s.alloc_stalls += 100;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->g.unanswered, VBAL_PRESSURE_STALL);
	t->s.now_ms += 20000;
	KUNIT_EXPECT_EQ(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.unanswered, VBAL_CALM);
}

/* The balloon's calls into reclaim are no stalls if memory was free after all. */
static void own_stalls_hide_others_for_a_window_only(struct kunit *test)
{
	struct guard_test *t = test->priv;

	t->s.alloc_stalls = 10;
	t->s.own_stalls = 5000;
	set_tight(t);
	t->s.own_stalls += 100;
	t->s.alloc_stalls += 100;
	KUNIT_EXPECT_GT(test, take(t), 0);
	t->s.now_ms += 1000;
	KUNIT_EXPECT_GT(test, take(t), 0);
	t->s.now_ms += 500;
	t->s.alloc_stalls += 5;
	KUNIT_EXPECT_EQ(test, take(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.pressure, VBAL_PRESSURE_STALL);
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

	vbal_guard_oom_done(&t->g, MIB(16), t->s.now_ms);
	vbal_guard_oom_done(&t->g, MIB(32), t->s.now_ms);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_events, 2);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_pages, MIB(48));
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	t->s.now_ms += 5000;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

/* The host has to be told first, and takes its time. */
static void oom_without_a_page_yet_holds_as_well(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_oom_done(&t->g, 0, t->s.now_ms);
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_events, 0);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
}

/* Missed pages were given back, and the guest reads on: a stream. */
static void read_on(struct guard_test *t)
{
	unsigned int i;

	for (i = 0; i < 5; i++) {
		t->s.now_ms += 50;
		t->s.missed[VBAL_REFAULTED] += MIB(20);
		t->s.kswapd_pages += MIB(20);
		t->s.held_pages -= watch(t);
	}
}

/* A guest whose files never fitted: it reads as much before, meanwhile and after. */
static void what_comes_back_anyway_ends_no_hold_off(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;
	u64 given_at_ms;

	give_back_missed(test, t);
	given_at_ms = t->s.now_ms;
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 1);
	t->g.foreign_per_s[VBAL_REFAULTED] = MIB(40);
	for (i = 0; i < 8; i++) {
		t->s.now_ms += 500;
		t->s.missed[VBAL_REFAULTED] += MIB(20);
		t->s.kswapd_pages += MIB(20);
		t->s.held_pages -= watch(t);
	}
	KUNIT_EXPECT_GT(test, t->g.undone_pages, 0);
	set_free(t, MIB(900));
	t->s.now_ms = given_at_ms + 4999;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	t->s.now_ms += 1;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

/* The first was over, and nobody has looked since: it is not part of the second. */
static void each_hold_off_has_a_trial_of_its_own(struct kunit *test)
{
	struct guard_test *t = test->priv;

	give_back_missed(test, t);
	KUNIT_EXPECT_GT(test, t->g.undone_pages, 0);
	t->s.now_ms += 6000;
	t->s.missed[VBAL_REFAULTED] += MIB(200);
	t->s.held_pages = MIB(100);
	t->s.avail_pages = RESERVE / 4;
	KUNIT_EXPECT_GT(test, watch(t), 0);
	KUNIT_EXPECT_EQ(test, t->g.undone_pages, t->v.give_back_pages);
	KUNIT_EXPECT_EQ(test, t->g.undone_missed, t->s.missed[VBAL_REFAULTED]);
}

/* It is read again bit by bit, long after it was given back: still the balloon's fault. */
static void what_was_given_back_is_not_learned(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned long returned_pages;
	unsigned int i;

	give_back_missed(test, t);
	returned_pages = t->g.returned_pages;
	KUNIT_EXPECT_EQ(test, returned_pages, t->v.give_back_pages);
	t->s.now_ms += 5000;
	watch(t);
	for (i = 0; i < 2; i++) {
		t->s.now_ms += 1000;
		t->s.missed[VBAL_REFAULTED] += returned_pages / 2;
		t->s.free_pages -= returned_pages / 2;
		watch(t);
		KUNIT_EXPECT_EQ(test, t->g.foreign_per_s[VBAL_REFAULTED], 0);
	}
	/* All of it is back. */
	t->s.now_ms += 1000;
	t->s.missed[VBAL_REFAULTED] += returned_pages / 2;
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.foreign_per_s[VBAL_REFAULTED],
			returned_pages / 2);
}

/* A stream that is known goes on meanwhile: it is not forgotten for what may return. */
static void what_comes_back_anyway_returns_nothing(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int i;

	set_cached(t, MIB(500), MIB(400));
	ask(t, RAM);
	t->g.foreign_per_s[VBAL_REFAULTED] = MIB(4);
	t->g.returned_pages = MIB(100);
	t->g.returned_at_ms = t->s.now_ms;
	t->g.took_cache = false;
	for (i = 0; i < 8; i++) {
		t->s.now_ms += 1000;
		t->s.missed[VBAL_REFAULTED] += MIB(4);
		watch(t);
	}
	KUNIT_EXPECT_EQ(test, t->g.foreign_per_s[VBAL_REFAULTED], MIB(4));
}

/* What has not come back by then will not. */
static void what_was_given_back_is_forgotten(struct kunit *test)
{
	struct guard_test *t = test->priv;

	give_back_missed(test, t);
	t->s.now_ms += 64000;
	watch(t);
	t->s.now_ms += 1000;
	t->s.missed[VBAL_REFAULTED] += MIB(1);
	watch(t);
	KUNIT_EXPECT_EQ(test, t->g.foreign_per_s[VBAL_REFAULTED], MIB(1));
}

static void oom_hold_off_ends_by_time_alone(struct kunit *test)
{
	struct guard_test *t = test->priv;
	u64 oom_at_ms;

	set_missed(test, t);
	oom_at_ms = t->s.now_ms;
	vbal_guard_oom_done(&t->g, MIB(16), oom_at_ms);
	read_on(t);
	/* It was no page cache that was missed: that hold-off is over. */
	KUNIT_EXPECT_EQ(test, t->g.nr_give_backs, 1);
	KUNIT_EXPECT_EQ(test, t->g.undone_pages, 0);
	set_free(t, MIB(900));
	t->s.now_ms = oom_at_ms + 4999;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
	KUNIT_EXPECT_EQ(test, t->v.state, VBAL_STATE_HELD_BY_PRESSURE);
	t->s.now_ms += 1;
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), MIB(10));
}

static void oom_does_not_prolong_the_trial(struct kunit *test)
{
	struct guard_test *t = test->priv;
	u64 given_at_ms;

	give_back_missed(test, t);
	given_at_ms = t->s.now_ms;
	while (t->s.now_ms < given_at_ms + 5500) {
		t->s.now_ms += 500;
		if (t->s.now_ms == given_at_ms + 4000)
			vbal_guard_oom_done(&t->g, MIB(16), t->s.now_ms);
		watch(t);
	}
	KUNIT_EXPECT_EQ(test, t->g.nr_oom_events, 1);
	KUNIT_EXPECT_EQ(test, t->g.undone_pages, 0);
	KUNIT_EXPECT_EQ(test, ask(t, MIB(10)), 0);
}

/* Squeeze */

static void squeeze_obeys_the_host(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_set_policy(&t->g, "squeeze");
	KUNIT_EXPECT_EQ(test, ask(t, MIB(300)), MIB(300));
	KUNIT_EXPECT_FALSE(test, t->v.reclaim);
	/* Beyond what is free in short steps, so that a new target is seen. */
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(900) - BELOW_HIGH);
	t->s.held_pages = RAM - MIB(10);
	set_tight(t);
	set_free(t, 0);
	t->s.swapped_out += 100000;
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(4));
	KUNIT_EXPECT_TRUE(test, t->v.reclaim);
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
	KUNIT_EXPECT_EQ(test, ask(t, RAM), MIB(4));
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

/* Guests of many sizes that read a set of files again and again */

struct guest_case {
	const char *name;
	unsigned long ram_mib;
	/* per cent of memory: in use, read again and again, read once */
	unsigned int used, hot, cold;
	/* after a while somebody begins to read more than would ever fit */
	bool streams;
	bool may_give_back;
};

static const struct guest_case guest_cases[] = {
	{ "1 GiB, hot files", 1024, 10, 40, 0, false, true },
	{ "1 GiB, hot files, no giving back", 1024, 10, 40, 0, false, false },
	{ "1 GiB, hot and cold files", 1024, 20, 30, 40, false, true },
	{ "1 GiB, cold files", 1024, 10, 0, 80, false, true },
	{ "256 MiB, hot and cold files", 256, 20, 20, 30, false, true },
	{ "4 GiB, hot and cold files", 4096, 5, 10, 80, false, true },
	{ "4 GiB, hot and cold files, no giving back", 4096, 5, 10, 80, false,
	  false },
	{ "4 GiB, more hot files than memory", 4096, 10, 150, 0, false, true },
	{ "64 GiB, hot and cold files", 65536, 5, 50, 40, false, true },
	{ "1 GiB, a stream", 1024, 10, 0, 80, true, true },
	{ "16 GiB, a stream", 16384, 10, 0, 80, true, true },
	{ "64 GiB, cold files", 65536, 5, 0, 90, false, false },
};

static void guest_case_desc(const struct guest_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(guest, guest_cases, guest_case_desc);

struct sim {
	struct guard_test *t;
	unsigned long high, used, hot, cache, missed, stream;
};

static unsigned long sim_free(const struct sim *sim)
{
	const struct vbal_signals *s = &sim->t->s;

	return s->total_pages - sim->used - sim->cache - s->held_pages;
}

static void sim_look(struct sim *sim)
{
	struct vbal_signals *s = &sim->t->s;

	s->free_pages = sim_free(sim);
	s->above_high_pages =
		s->free_pages > sim->high ? s->free_pages - sim->high : 0;
	s->cache_pages = sim->cache;
	s->cache_is_active = sim->hot > sim->cache / 2;
	s->avail_pages = s->above_high_pages + sim->cache -
			 min(sim->cache / 2, sim->high);
}

/* What is read and not there comes back: into free memory, or for other pages. */
static void sim_read(struct sim *sim)
{
	struct vbal_signals *s = &sim->t->s;
	unsigned long miss = 0, room;

	if (sim->cache < sim->hot)
		miss = min(sim->hot - sim->cache, s->total_pages / 256);
	miss += sim->stream;
	room = s->above_high_pages;
	sim->cache += min(miss, room);
	s->kswapd_pages += miss - min(miss, room);
	s->missed[VBAL_REFAULTED] += miss;
	sim->missed += miss;
}

/* 50 ms of the guest's life, and then the size worker's slice. */
static void sim_step(struct sim *sim)
{
	struct guard_test *t = sim->t;
	unsigned long nr_pages;

	t->s.now_ms += 50;
	sim_look(sim);
	sim_read(sim);
	sim_look(sim);
	t->s.held_pages -= watch(t);
	sim_look(sim);
	nr_pages = ask(t, t->s.total_pages - t->s.held_pages);
	if (t->v.reclaim)
		sim->cache -= min(nr_pages, sim->cache);
	t->s.held_pages += nr_pages;
}

static void sim_begin(struct kunit *test, struct sim *sim)
{
	const struct guest_case *c = test->param_value;
	unsigned long ram = MIB(c->ram_mib);

	sim->t = test->priv;
	memset(&sim->t->g, 0, sizeof(sim->t->g));
	vbal_guard_init(&sim->t->g, ram, c->may_give_back);
	sim->t->s.total_pages = ram;
	sim->high = ram / 32;
	sim->used = ram * c->used / 100;
	sim->hot = ram * c->hot / 100;
	sim->cache = min(ram * (c->hot + c->cold) / 100,
			 ram - sim->used - sim->high);
}

/* In ten minutes it comes to rest, and the hot files stay but for an instant. */
static void guest_finds_its_size(struct kunit *test)
{
	const struct guest_case *c = test->param_value;
	struct guard_test *t = test->priv;
	struct sim sim = {};
	unsigned long pressure, give_backs, held, missed;
	unsigned int i;

	sim_begin(test, &sim);
	for (i = 0; i < 60 * 20; i++) {
		if (c->streams && i == 10 * 20)
			sim.stream = t->s.total_pages / 200;
		sim_step(&sim);
		KUNIT_EXPECT_GE(test, sim_free(&sim) + 1, sim.high);
	}
	pressure = t->g.nr_pressure_events;
	give_backs = t->g.nr_give_backs;
	held = t->s.held_pages;
	missed = sim.missed;
	for (i = 0; i < 9 * 60 * 20; i++)
		sim_step(&sim);
	/* At most a try a minute; what it took goes back in a few steps. */
	KUNIT_EXPECT_LE(test, t->g.nr_pressure_events - pressure, 10UL);
	KUNIT_EXPECT_LE(test, t->g.nr_give_backs - give_backs, 40UL);
	if (c->streams)
		KUNIT_EXPECT_GE(test, t->s.held_pages,
				t->s.total_pages / 4 * 3);
	else if (c->hot < 100 && c->may_give_back)
		KUNIT_EXPECT_LE(test, sim.missed - missed,
				t->s.total_pages / 16);
	if (!c->hot)
		KUNIT_EXPECT_LE(test, sim.cache,
				max(t->s.total_pages * c->cold / 100 / 8,
				    2 * t->g.reserve_pages + sim.high));
	if (!c->may_give_back)
		KUNIT_EXPECT_GE(test, t->s.held_pages, held);
	if (!c->may_give_back && c->hot)
		KUNIT_EXPECT_GE(test, sim.cache + t->s.total_pages / 16,
				sim.hot);
	else if (c->hot < 100)
		KUNIT_EXPECT_GE(test, sim.cache + t->s.total_pages / 64,
				sim.hot);
}

/* Pseudo-random, below @n. */
static unsigned long draw(u32 *seed, unsigned long n)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % n;
}

static void draw_signals(struct guard_test *t, u32 *seed)
{
	t->g.may_give_back = draw(seed, 2);
	t->s.now_ms += draw(seed, 3000);
	t->s.held_pages = draw(seed, RAM);
	set_free(t, draw(seed, RAM / 4));
	t->s.avail_pages += draw(seed, RAM / 4);
	t->s.cache_pages = draw(seed, RAM / 2);
	t->s.cache_is_active = draw(seed, 2);
	t->s.cache_is_mapped = draw(seed, 2);
	t->s.swapped_out += draw(seed, 40);
	t->s.missed[VBAL_REFAULTED] += draw(seed, 400);
	t->s.kswapd_pages += draw(seed, 400);
	t->s.alloc_stalls += draw(seed, 6);
}

/* Whatever the signals are, an answer is within its bounds. */
static void answers_keep_their_bounds(struct kunit *test)
{
	struct guard_test *t = test->priv;
	u32 seed = 12345;
	unsigned int i;

	for (i = 0; i < 20000; i++) {
		unsigned long want;

		draw_signals(t, &seed);
		want = draw(&seed, RAM - t->s.held_pages) + 1;
		ask(t, want);
		KUNIT_ASSERT_LE(test, t->v.grant_pages, want);
		KUNIT_ASSERT_LE(test, t->v.retry_ms, 1000U);
		if (t->v.grant_pages)
			KUNIT_ASSERT_GE(test, t->s.avail_pages, RESERVE);
		else
			KUNIT_ASSERT_TRUE(test, t->v.retry_ms && t->v.why);
		KUNIT_ASSERT_LE(test, watch(t), t->s.held_pages);
		KUNIT_ASSERT_TRUE(test,
				  t->g.may_give_back || !t->v.give_back_pages);
	}
}

/* The real thing, as far as it can be known */

static void sample_is_plausible(struct kunit *test)
{
	struct guard_test *t = test->priv;

	vbal_guard_sample(&t->s, MIB(3), true, 0);
	KUNIT_EXPECT_EQ(test, t->s.held_pages, MIB(3));
	KUNIT_EXPECT_EQ(test, t->s.total_pages, totalram_pages());
	KUNIT_EXPECT_GT(test, t->s.free_pages, 0);
	KUNIT_EXPECT_LT(test, t->s.free_pages, t->s.total_pages);
	KUNIT_EXPECT_GT(test, t->s.high_wmark_pages, 0);
	KUNIT_EXPECT_LT(test, t->s.above_high_pages, t->s.free_pages);
	KUNIT_EXPECT_LT(test, t->s.avail_pages, t->s.total_pages);
	vbal_guard_sample(&t->s, MIB(3), false, 0);
	KUNIT_EXPECT_EQ(test, t->s.total_pages, totalram_pages() + MIB(3));
}

/* Its counts are its own until another CPU takes them over. */
static void sample_counts_a_cpu_on_its_way_out(struct kunit *test)
{
	struct guard_test *t = test->priv;
	unsigned int cpu = cpumask_last(cpu_online_mask);
	unsigned long *swapped_out =
		&per_cpu(vm_event_states, cpu).event[PSWPOUT];
	unsigned long before;

	if (num_online_cpus() == 1)
		kunit_skip(test, "there is one CPU");
	KUNIT_ASSERT_EQ(test, remove_cpu(cpu), 0);
	vbal_guard_sample(&t->s, 0, true, 0);
	before = t->s.swapped_out;
	*swapped_out += 1000;
	vbal_guard_sample(&t->s, 0, true, 0);
	*swapped_out -= 1000;
	KUNIT_EXPECT_EQ(test, t->s.swapped_out, before + 1000);
	KUNIT_EXPECT_EQ(test, add_cpu(cpu), 0);
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
	KUNIT_CASE(settings_follow_the_memory),
	KUNIT_CASE(names),
	KUNIT_CASE(ask_with_plenty_grants_all),
	KUNIT_CASE(ask_near_the_limit_grants_half),
	KUNIT_CASE(ask_stops_at_the_reserve),
	KUNIT_CASE(ask_stops_at_the_floor),
	KUNIT_CASE(ask_finishes_the_last_pages),
	KUNIT_CASE(ask_goes_on_when_memory_is_free_again),
	KUNIT_CASE(ask_with_zero_settings_stops_at_nothing),
	KUNIT_CASE(ask_never_grants_more_than_wanted),
	KUNIT_CASE(ask_doubles_what_is_not_missed),
	KUNIT_CASE(ask_grants_the_rest_of_a_step),
	KUNIT_CASE(ask_waits_for_the_guest_to_miss_it),
	KUNIT_CASE(ask_waits_longer_for_active_cache),
	KUNIT_CASE(steps_of_mapped_cache_are_slow),
	KUNIT_CASE(ask_looks_before_it_takes),
	KUNIT_CASE(ask_leaves_page_cache),
	KUNIT_CASE(ask_counts_slab_in),
	KUNIT_CASE(ask_leaves_cache_that_the_reserve_counts),
	KUNIT_CASE_PARAM(pressure_in_a_tight_guest_holds, pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_in_a_roomy_guest_is_ignored,
			 pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_long_ago_is_ignored, pressure_gen_params),
	KUNIT_CASE_PARAM(pressure_before_the_first_look_is_ignored,
			 pressure_gen_params),
	KUNIT_CASE(counters_may_step_back),
	KUNIT_CASE(hold_doubles_while_it_is_too_early),
	KUNIT_CASE(hold_is_looked_at_less_often_later),
	KUNIT_CASE(hold_makes_steps_small),
	KUNIT_CASE(steps_after_a_hold_are_slow),
	KUNIT_CASE(missed_pages_that_fill_free_memory_are_given_back),
	KUNIT_CASE(missed_pages_that_displace_others_are_given_back),
	KUNIT_CASE(missed_pages_of_a_container_change_nothing),
	KUNIT_CASE(missed_pages_of_before_change_nothing),
	KUNIT_CASE(free_memory_does_not_begin_a_look_again),
	KUNIT_CASE(missed_pages_before_any_cache_hold_nothing),
	KUNIT_CASE(missed_pages_of_before_end_with_the_pressure),
	KUNIT_CASE(missed_pages_soon_after_boot_are_looked_at),
	KUNIT_CASE(dropped_is_never_more_than_held),
	KUNIT_CASE(pieces_that_reclaim_leaves_may_merge),
	KUNIT_CASE(pieces_that_reclaim_leaves_count_as_dropped),
	KUNIT_CASE(pieces_are_taken_when_no_cache_is_left),
	KUNIT_CASE(pieces_are_taken_from_a_stream),
	KUNIT_CASE(pieces_wait_after_a_hold),
	KUNIT_CASE(pieces_do_not_hide_what_is_missed),
	KUNIT_CASE(memory_that_was_let_go_does_not_count_as_dropped),
	KUNIT_CASE(tiny_guest_gives_page_cache),
	KUNIT_CASE(tiny_guest_may_miss_a_little),
	KUNIT_CASE(hold_ends_when_memory_is_plenty),
	KUNIT_CASE(alloc_failed_backs_off),
	KUNIT_CASE(watch_of_a_calm_guest_is_silent),
	KUNIT_CASE(watch_between_half_and_full_reserve_is_silent),
	KUNIT_CASE(watch_gives_back_below_half_the_reserve),
	KUNIT_CASE(watch_gives_back_in_growing_steps),
	KUNIT_CASE(watch_gives_back_what_there_is),
	KUNIT_CASE(watch_without_deflate_on_oom_never_gives_back),
	KUNIT_CASE_PARAM(watch_answers_pressure, pressure_gen_params),
	KUNIT_CASE(watch_of_swap_sees_what_stopping_does),
	KUNIT_CASE(bursts_of_swap_make_pauses_longer),
	KUNIT_CASE(watch_answers_what_ask_has_seen),
	KUNIT_CASE(watch_of_a_swapping_container_is_silent),
	KUNIT_CASE(watch_of_a_swapping_guest_gives_back),
	KUNIT_CASE(watch_of_stalls_is_not_hidden_by_swapping),
	KUNIT_CASE_PARAM(stalls_of_a_stream_are_its_own, stream_gen_params),
	KUNIT_CASE(what_came_back_is_forgotten),
	KUNIT_CASE(pressure_long_over_gives_nothing_back),
	KUNIT_CASE(own_stalls_hide_others_for_a_window_only),
	KUNIT_CASE(settle_holds_whatever_is_free),
	KUNIT_CASE(settle_grows_with_each_relapse),
	KUNIT_CASE(oom_gives_growing_steps),
	KUNIT_CASE(oom_step_of_a_small_guest),
	KUNIT_CASE(oom_holds_inflation_off),
	KUNIT_CASE(oom_without_a_page_yet_holds_as_well),
	KUNIT_CASE(oom_hold_off_ends_by_time_alone),
	KUNIT_CASE(what_comes_back_anyway_ends_no_hold_off),
	KUNIT_CASE(each_hold_off_has_a_trial_of_its_own),
	KUNIT_CASE(what_was_given_back_is_not_learned),
	KUNIT_CASE(what_comes_back_anyway_returns_nothing),
	KUNIT_CASE(what_was_given_back_is_forgotten),
	KUNIT_CASE(oom_does_not_prolong_the_trial),
	KUNIT_CASE(squeeze_obeys_the_host),
	KUNIT_CASE(squeeze_waits_after_oom),
	KUNIT_CASE(squeeze_can_be_left_at_once),
	KUNIT_CASE(balloon_comes_to_rest_at_the_reserve),
	KUNIT_CASE(balloon_does_not_fight_a_new_process),
	KUNIT_CASE(balloon_comes_back_when_the_process_ends),
	KUNIT_CASE_PARAM(guest_finds_its_size, guest_gen_params),
	KUNIT_CASE(answers_keep_their_bounds),
	KUNIT_CASE(sample_is_plausible),
	KUNIT_CASE(sample_counts_a_cpu_on_its_way_out),
	KUNIT_CASE(start_without_deflate_on_oom_does_nothing),
	{}
};

static struct kunit_suite guard_test_suite = {
	.name = "vballoon_guard",
	.init = guard_test_init,
	.test_cases = guard_test_cases,
};

kunit_test_suite(guard_test_suite);
