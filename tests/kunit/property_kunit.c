// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the guard promises whatever it is told. First with signals that follow
 * from nothing, drawn at random to mislead it; then with guests of every size that
 * read, stream, grow and shrink as real ones do.
 *
 * The balloon turns when it grows after the guard has given back. It does not
 * oscillate: it turns when the hold-off is over, 5 s after what was given back at
 * the earliest and doubled each time that this was too early, or when the guest has
 * meanwhile read again more than twice what it was given back.
 */
#include <kunit/test.h>
#include <linux/mm.h>
#include <linux/prandom.h>
#include <linux/slab.h>

#include "balloon_guard.h"

#define MIB(n) ((unsigned long)(n) << (20 - PAGE_SHIFT))
#define NR_SEEDS (IS_ENABLED(CONFIG_UML) ? 400 : 10)
#define NR_LOOKS 3000
#define NR_GUESTS (IS_ENABLED(CONFIG_UML) ? 100 : 2)

/* The bounds that docs/guard.md names. */
#define SETTLE_MIN_MS 5000
#define SETTLE_MAX_MS 60000
#define HOLD_MAX_MS 128000
#define BACKOFF_MAX_MS 4000
#define LOOK_MAX_MS 8000
#define RETRY_MAX_MS 1000
/* The fastest that hold-offs of 5 s and more, doubled, allow. */
#define TURN_WINDOW_MS 600000
#define TURN_MAX 34
/* A guest that goes on as it is: in so long so many tries at most. */
#define STEADY_MS 900000
#define STEADY_TURNS 30

struct size_case {
	unsigned long mib;
	bool may_give_back;
};

static const struct size_case size_cases[] = {
	{ 64, true },	    { 64, false },    { 128, true },
	{ 256, true },	    { 512, true },    { 512, false },
	{ 1024, true },	    { 2048, true },   { 4096, true },
	{ 8192, true },	    { 8192, false },  { 16384, true },
	{ 65536, true },    { 262144, true }, { 1048576, true },
	{ 1048576, false },
};

static void size_case_desc(const struct size_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%lu MiB%s", c->mib,
		 c->may_give_back ? ", gives back" : "");
}

KUNIT_ARRAY_PARAM(size, size_cases, size_case_desc);

/**
 * struct prop - a guard, what it is told, and what it did
 * @g: the guard
 * @s: what it is told
 * @v: what it said
 * @rnd: the dice
 * @seed: what they were made with
 * @target_pages: what the host wants
 * @retry_at_ms: then the size worker asks again
 * @gave: it has given back since it grew last
 * @gave_at_ms: when it gave back last
 * @held_off_until_ms: the end of the hold-off for that
 * @gave_pages: how much in this hold-off
 * @missed_then: what had been read again when that began
 * @turned_at_ms: of the last turns, the oldest first from @nr_turns on
 * @nr_turns: how often it turned
 * @nr_early: how often before the hold-off's end
 * @nr_given_back: how often it gave back
 */
struct prop {
	struct vbal_guard g;
	struct vbal_signals s;
	struct vbal_verdict v;
	struct rnd_state rnd;
	u64 seed;
	unsigned long target_pages;
	u64 retry_at_ms;

	bool gave;
	u64 gave_at_ms;
	u64 held_off_until_ms;
	unsigned long gave_pages;
	unsigned long missed_then;
	u64 turned_at_ms[TURN_MAX];
	unsigned int nr_turns;
	unsigned int nr_early;
	unsigned int nr_given_back;
};

#define PROP_EXPECT(test, p, cond)                                    \
	do {                                                          \
		const struct prop *p__ = (p);                         \
		KUNIT_EXPECT_TRUE_MSG(                                \
			test, cond,                                   \
			"seed %llu, at %llu ms, held %lu of %lu: %s", \
			p__->seed, p__->s.now_ms, p__->s.held_pages,  \
			p__->s.total_pages, #cond);                   \
	} while (0)

static unsigned long draw(struct prop *p, unsigned long nr)
{
	u64 value = (u64)prandom_u32_state(&p->rnd) << 32 |
		    prandom_u32_state(&p->rnd);
	u64 rest = 0;

	if (nr)
		div64_u64_rem(value, nr, &rest);
	return rest;
}

/* Often nothing, often very little, seldom as much as there may be. */
static unsigned long draw_skewed(struct prop *p, unsigned long most)
{
	return draw(p, (most >> draw(p, 24)) + 1);
}

static void prop_begin(struct prop *p, const struct size_case *c, u64 seed)
{
	memset(p, 0, sizeof(*p));
	p->seed = seed;
	prandom_seed_state(&p->rnd, seed * 0x9e3779b97f4a7c15ULL + c->mib);
	p->s.now_ms = 1000000;
	p->s.total_pages = MIB(c->mib);
	vbal_guard_init(&p->g, p->s.total_pages, c->may_give_back);
}

/* What must be so whenever the guard has spoken ------------------------------- */

static void expect_bounds(struct kunit *test, struct prop *p)
{
	const struct vbal_guard *g = &p->g;
	u64 now_ms = p->s.now_ms;

	PROP_EXPECT(test, p, g->hold_until_ms <= now_ms + HOLD_MAX_MS);
	PROP_EXPECT(test, p,
		    atomic64_read(&g->settle_until_ms) <=
			    now_ms + SETTLE_MAX_MS);
	PROP_EXPECT(test, p,
		    atomic64_read(&g->oom_until_ms) <= now_ms + SETTLE_MAX_MS);
	PROP_EXPECT(test, p, g->look_at_ms <= now_ms + LOOK_MAX_MS);
	PROP_EXPECT(test, p, g->backoff_ms <= BACKOFF_MAX_MS);
}

static void expect_no_oscillation(struct kunit *test, struct prop *p)
{
	unsigned int slot = p->nr_turns % TURN_MAX;

	if (p->s.now_ms < p->held_off_until_ms) {
		p->nr_early++;
		PROP_EXPECT(test, p,
			    p->s.missed[VBAL_REFAULTED] - p->missed_then >
				    2 * p->gave_pages);
		return;
	}
	if (p->nr_turns >= TURN_MAX)
		PROP_EXPECT(test, p,
			    p->s.now_ms - p->turned_at_ms[slot] >
				    TURN_WINDOW_MS);
	p->turned_at_ms[slot] = p->s.now_ms;
	p->nr_turns++;
}

static void grew(struct kunit *test, struct prop *p)
{
	if (p->gave)
		expect_no_oscillation(test, p);
	p->gave = false;
}

static void gave_back(struct kunit *test, struct prop *p)
{
	if (!p->gave || p->s.now_ms >= p->held_off_until_ms) {
		p->missed_then = p->s.missed[VBAL_REFAULTED];
		p->gave_pages = 0;
	}
	p->gave = true;
	p->gave_pages += p->v.give_back_pages;
	p->gave_at_ms = p->s.now_ms;
	p->held_off_until_ms = atomic64_read(&p->g.settle_until_ms);
	p->nr_given_back++;
	PROP_EXPECT(test, p,
		    p->held_off_until_ms >= p->s.now_ms + SETTLE_MIN_MS);
}

/* As the size worker: first what the guest needs, then what the host wants. */
static unsigned long look(struct kunit *test, struct prop *p)
{
	vbal_guard_watch(&p->g, &p->s, &p->v);
	expect_bounds(test, p);
	PROP_EXPECT(test, p, p->v.give_back_pages <= p->s.held_pages);
	PROP_EXPECT(test, p, p->g.may_give_back || !p->v.give_back_pages);
	PROP_EXPECT(test, p, !p->v.give_back_pages || p->v.why);
	if (p->v.give_back_pages)
		gave_back(test, p);
	p->s.held_pages -= p->v.give_back_pages;
	return p->v.give_back_pages;
}

static void expect_grant_is_spared(struct kunit *test, struct prop *p,
				   unsigned long want)
{
	const struct vbal_signals *s = &p->s;
	unsigned long grant = p->v.grant_pages;

	PROP_EXPECT(test, p, grant <= want);
	PROP_EXPECT(test, p,
		    s->held_pages + grant + p->g.floor_pages <= s->total_pages);
	PROP_EXPECT(test, p, grant + p->g.reserve_pages <= s->avail_pages);
}

static void expect_refusal_ends(struct kunit *test, struct prop *p)
{
	PROP_EXPECT(test, p, p->v.why);
	PROP_EXPECT(test, p, p->v.retry_ms >= 1);
	PROP_EXPECT(test, p, p->v.retry_ms <= RETRY_MAX_MS);
}

static unsigned long ask(struct kunit *test, struct prop *p)
{
	unsigned long want = p->target_pages - p->s.held_pages;

	vbal_guard_ask(&p->g, &p->s, want, &p->v);
	expect_bounds(test, p);
	/* In PROTECT it has just looked what is held. */
	PROP_EXPECT(test, p, p->g.dropped_pages <= p->s.held_pages);
	if (p->v.grant_pages) {
		expect_grant_is_spared(test, p, want);
		grew(test, p);
	} else {
		expect_refusal_ends(test, p);
		p->retry_at_ms = p->s.now_ms + p->v.retry_ms;
	}
	return p->v.grant_pages;
}

/* Signals that follow from nothing ---------------------------------------------- */

/* Now and then there is much, or nothing at all; a mood lasts for a while. */
static unsigned long draw_level(struct prop *p, unsigned long most)
{
	return draw(p, 4) ? draw(p, most + 1) : draw_skewed(p, most);
}

static void mislead(struct prop *p)
{
	struct vbal_signals *s = &p->s;
	unsigned long total = s->total_pages - s->held_pages;
	bool calm = draw(p, 3);

	s->now_ms += 1 + draw_skewed(p, 20000);
	if (!draw(p, 4)) {
		s->avail_pages = draw_level(p, total);
		s->free_pages = draw_level(p, total);
		s->above_high_pages = draw_level(p, s->free_pages);
		s->cache_pages = draw_level(p, total);
		s->slab_pages = draw_skewed(p, total / 8);
		s->tmpfs_pages = draw_skewed(p, total / 8);
	}
	s->high_wmark_pages = total / 128;
	s->cache_is_active = draw(p, 2);
	s->cache_is_mapped = draw(p, 2);
	s->swapped_out += calm ? 0 : draw_skewed(p, total);
	s->missed[VBAL_REFAULTED] += calm ? 0 : draw_skewed(p, total);
	s->missed[VBAL_ACTIVATED] += calm ? 0 : draw_skewed(p, total);
	s->kswapd_pages += draw_skewed(p, total);
	s->alloc_stalls += calm ? 0 : draw_skewed(p, 1000);
	s->own_stalls += draw_skewed(p, 100);
	if (!draw(p, 50))
		p->target_pages = draw(p, s->total_pages);
}

/* The host takes nothing by force: a lower target is another's affair. */
static void misled_step(struct kunit *test, struct prop *p)
{
	unsigned long got;

	mislead(p);
	look(test, p);
	if (p->target_pages < p->s.held_pages) {
		p->s.held_pages = p->target_pages;
		return;
	}
	if (p->s.now_ms < p->retry_at_ms || p->target_pages == p->s.held_pages)
		return;
	got = ask(test, p);
	if (got && !draw(p, 8)) {
		vbal_guard_alloc_failed(&p->g, p->s.now_ms);
		return;
	}
	p->s.held_pages += draw(p, 4) ? got : draw(p, got + 1);
	if (!draw(p, 100))
		vbal_guard_oom_done(&p->g,
				    vbal_guard_oom_step(&p->g, p->s.now_ms),
				    p->s.now_ms);
}

static void guard_keeps_its_word_whatever_it_is_told(struct kunit *test)
{
	struct prop *p = kunit_kzalloc(test, sizeof(*p), GFP_KERNEL);
	unsigned long nr_turns = 0, nr_given_back = 0, nr_early = 0;
	unsigned int seed, i;

	KUNIT_ASSERT_NOT_NULL(test, p);
	for (seed = 0; seed < NR_SEEDS; seed++) {
		prop_begin(p, test->param_value, seed);
		for (i = 0; i < NR_LOOKS && test->status == KUNIT_SUCCESS; i++)
			misled_step(test, p);
		nr_turns += p->nr_turns;
		nr_early += p->nr_early;
		nr_given_back += p->nr_given_back;
		cond_resched();
	}
	kunit_info(test, "%u looks, %lu times given back, %lu turns, %lu early",
		   NR_SEEDS * NR_LOOKS, nr_given_back, nr_turns, nr_early);
	if (p->g.may_give_back)
		KUNIT_EXPECT_GT(test, nr_turns, 0UL);
}

/* Guests as there are ------------------------------------------------------------- */

/**
 * struct guest - a guest's memory, in pages, and what it does with it
 * @kernel: never to be had
 * @anon: its programs' own
 * @set: files that it reads again and again: what of them is in the cache
 * @set_size: all of them
 * @set_per_s: pages of them that it reads a second
 * @stream: files that were read once, in the cache
 * @stream_per_s: pages of them that it reads a second
 * @wmark: the high watermarks
 */
struct guest {
	unsigned long kernel;
	unsigned long anon;
	unsigned long set;
	unsigned long set_size;
	unsigned long set_per_s;
	unsigned long stream;
	unsigned long stream_per_s;
	unsigned long wmark;
};

static unsigned long guest_free(const struct prop *p, const struct guest *g)
{
	unsigned long used =
		g->kernel + g->anon + g->set + g->stream + p->s.held_pages;

	return p->s.total_pages - min(used, p->s.total_pages);
}

static unsigned long drop(unsigned long *from, unsigned long nr_pages)
{
	unsigned long nr = min(*from, nr_pages);

	*from -= nr;
	return nr;
}

/* What was read once goes first, then what is read again, then to swap. */
static void guest_reclaim(struct prop *p, struct guest *g,
			  unsigned long nr_pages)
{
	unsigned long nr = drop(&g->stream, nr_pages);

	nr += drop(&g->set, nr_pages - nr);
	p->s.kswapd_pages += nr;
	p->s.swapped_out += drop(&g->anon, nr_pages - nr);
}

/* Down to the watermarks it is free; what is missing then is reclaimed. */
static void guest_need(struct prop *p, struct guest *g, unsigned long nr_pages)
{
	unsigned long free = guest_free(p, g);
	unsigned long left = free > g->wmark ? free - g->wmark : 0;

	if (nr_pages > left)
		guest_reclaim(p, g, nr_pages - left);
}

static void guest_reads(struct prop *p, struct guest *g, unsigned long ms)
{
	unsigned long nr = g->stream_per_s * ms / MSEC_PER_SEC;
	unsigned long missing = g->set_size - g->set;

	nr = min(nr, p->s.total_pages / 4);
	guest_need(p, g, nr);
	g->stream += nr;
	nr = g->set_per_s * ms / MSEC_PER_SEC;
	nr = g->set_size ? min(nr, g->set_size) * missing / g->set_size : 0;
	guest_need(p, g, nr);
	nr = min(nr, g->set_size - g->set);
	g->set += nr;
	p->s.missed[VBAL_REFAULTED] += nr;
	p->s.missed[VBAL_ACTIVATED] += nr / 2;
}

static void guest_tell(struct prop *p, const struct guest *g)
{
	struct vbal_signals *s = &p->s;

	s->free_pages = guest_free(p, g);
	s->high_wmark_pages = g->wmark;
	s->above_high_pages =
		s->free_pages > g->wmark ? s->free_pages - g->wmark : 0;
	s->cache_pages = g->set + g->stream;
	s->cache_is_active = g->set > g->stream;
	s->avail_pages = s->above_high_pages + s->cache_pages -
			 min(s->cache_pages / 2, g->wmark);
}

static void guest_changes(struct prop *p, struct guest *g)
{
	unsigned long total = p->s.total_pages;
	unsigned long room = total - g->kernel - g->wmark - p->s.held_pages;

	g->anon = draw_level(p, room / 2);
	g->set_size = draw_level(p, total);
	g->set = min(g->set, g->set_size);
	g->set_per_s = draw_level(p, MIB(2000));
	g->stream_per_s = draw(p, 2) ? draw_level(p, MIB(1000)) : 0;
	guest_need(p, g, 0);
	p->target_pages = draw(p, total);
}

/* The balloon takes what is free, then cold page cache. */
static void guest_gives(struct prop *p, struct guest *g, unsigned long nr_pages)
{
	unsigned long nr = 0;

	if (p->v.reclaim)
		nr = drop(&g->stream, nr_pages);
	if (p->v.reclaim)
		nr += drop(&g->set, nr_pages - nr);
	else
		nr = min(nr_pages, guest_free(p, g));
	p->s.held_pages += nr;
}

static void guest_lives(struct kunit *test, struct prop *p, struct guest *g,
			u64 ms)
{
	u64 end_ms = p->s.now_ms + ms;

	while (p->s.now_ms < end_ms && test->status == KUNIT_SUCCESS) {
		unsigned long step_ms = 1 + draw(p, 200);

		p->s.now_ms += step_ms;
		guest_reads(p, g, step_ms);
		guest_tell(p, g);
		if (look(test, p))
			continue;
		if (p->target_pages < p->s.held_pages)
			p->s.held_pages = p->target_pages;
		else if (p->target_pages > p->s.held_pages &&
			 p->s.now_ms >= p->retry_at_ms)
			guest_gives(p, g, ask(test, p));
	}
}

static void guest_begins(struct prop *p, struct guest *g)
{
	*g = (struct guest){
		.kernel = p->s.total_pages / 16,
		.wmark = p->s.total_pages / 128,
	};
	p->g.learned_at_ms = 0;
	guest_changes(p, g);
}

/* One that goes on as it is leaves the balloon at rest, but for a try now and then. */
static void guard_comes_to_rest_in_a_steady_guest(struct kunit *test)
{
	struct prop *p = kunit_kzalloc(test, sizeof(*p), GFP_KERNEL);
	unsigned int seed, i, nr_turns, most = 0;
	struct guest g;

	KUNIT_ASSERT_NOT_NULL(test, p);
	for (seed = 0; seed < NR_GUESTS; seed++) {
		prop_begin(p, test->param_value, seed);
		guest_begins(p, &g);
		for (i = 0; i < 4; i++) {
			guest_lives(test, p, &g, draw(p, 120000));
			guest_changes(p, &g);
		}
		guest_lives(test, p, &g, STEADY_MS);
		nr_turns = p->nr_turns + p->nr_early;
		guest_lives(test, p, &g, STEADY_MS);
		nr_turns = p->nr_turns + p->nr_early - nr_turns;
		PROP_EXPECT(test, p, nr_turns <= STEADY_TURNS);
		most = max(most, nr_turns);
		cond_resched();
	}
	kunit_info(test, "%u guests, at most %u turns in %u s", NR_GUESTS, most,
		   STEADY_MS / 1000);
}

static struct kunit_case property_test_cases[] = {
	KUNIT_CASE_PARAM(guard_keeps_its_word_whatever_it_is_told,
			 size_gen_params),
	KUNIT_CASE_PARAM(guard_comes_to_rest_in_a_steady_guest,
			 size_gen_params),
	{}
};

static struct kunit_suite property_test_suite = {
	.name = "vballoon_property",
	.test_cases = property_test_cases,
};

kunit_test_suite(property_test_suite);
