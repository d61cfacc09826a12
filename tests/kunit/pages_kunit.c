// SPDX-License-Identifier: GPL-2.0-only
/*
 * Held pages without a device: orders, fall-back, splitting, accounting. The
 * balloons here stay below 64 MiB.
 */
#include <kunit/test.h>

#include "balloon_pages.h"
#include "device_test.h"
#include "fake_books.h"

#define BLOCK_PAGES BIT(VBAL_BLOCK_ORDER)
#define MAX_PAGES BIT(VBAL_MAX_ORDER)

struct pages_test {
	struct vbal_pages vp;
	struct vbal_blocks blocks;
	unsigned long total_before;
	unsigned long own_before;
};

static int pages_suite_init(struct kunit_suite *suite)
{
	return fake_books_open();
}

static void pages_suite_exit(struct kunit_suite *suite)
{
	fake_books_close();
}

static int pages_test_init(struct kunit *test)
{
	struct pages_test *t = kunit_kzalloc(test, sizeof(*t), GFP_KERNEL);

	if (!t)
		return -ENOMEM;
	test->priv = t;
	t->total_before = totalram_pages();
	t->own_before = fake_books_own_pages();
	vbal_pages_init(&t->vp, true);
	vbal_blocks_init(&t->blocks);
	return 0;
}

/* Whatever a test held goes back, and MemTotal is what it was. */
static void pages_test_exit(struct kunit *test)
{
	struct pages_test *t = test->priv;
	unsigned int mode;

	vbal_pages_discard(&t->blocks);
	for (mode = 0; mode < VBAL_NR_MODES; mode++)
		while (vbal_pages_pick(&t->vp, mode, MAX_PAGES, &t->blocks))
			vbal_pages_free(&t->vp, &t->blocks);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), 0UL);
	KUNIT_EXPECT_EQ(test, totalram_pages(), t->total_before);
	KUNIT_EXPECT_EQ(test, fake_books_own_pages(), t->own_before);
}

static unsigned long take(struct pages_test *t, unsigned long nr_pages,
			  unsigned int min_order, unsigned int max_order)
{
	const struct vbal_want want = {
		.nr_pages = nr_pages,
		.max_blocks = UINT_MAX,
		.min_order = min_order,
		.max_order = max_order,
	};
	unsigned long own_before = fake_books_own_pages(), nr_taken;

	vbal_pages_rewind(&t->vp);
	nr_taken = vbal_pages_alloc(&t->vp, &want, &t->blocks);
	/* Or the books would see no leak either. */
	WARN_ON(fake_books_know_own() &&
		fake_books_own_pages() - own_before != nr_taken);
	return nr_taken;
}

static void hold(struct kunit *test, unsigned long nr_pages,
		 unsigned int max_order, enum vbal_mode mode)
{
	struct pages_test *t = test->priv;

	KUNIT_ASSERT_EQ(test, take(t, nr_pages, 0, max_order), nr_pages);
	vbal_pages_hold(&t->vp, &t->blocks, mode);
}

/* One block of the smallest order that is held whole. */
static unsigned long take_block(struct pages_test *t)
{
	return take(t, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_BLOCK_ORDER);
}

static unsigned long nr_blocks(struct pages_test *t, enum vbal_mode mode)
{
	unsigned long nr = 0;
	unsigned int order;

	for (order = VBAL_BLOCK_ORDER; order < VBAL_NR_ORDERS; order++)
		nr += t->vp.bag[mode].nr_blocks[order];
	return nr;
}

static long nr_singles(struct pages_test *t, enum vbal_mode mode)
{
	return atomic_long_read(&t->vp.bag[mode].nr_singles);
}

/* Largest first: [4M][4M][2M][...][1] */
static void alloc_takes_largest_first(struct kunit *test)
{
	struct pages_test *t = test->priv;
	unsigned int last = VBAL_MAX_ORDER;
	struct page *page;

	KUNIT_ASSERT_EQ(test,
			take(t, 2 * MAX_PAGES + BLOCK_PAGES + 13, 0,
			     VBAL_MAX_ORDER),
			2 * MAX_PAGES + BLOCK_PAGES + 13);
	vbal_for_each_block(page, &t->blocks) {
		KUNIT_EXPECT_LE(test, vbal_block_order(page), last);
		last = vbal_block_order(page);
	}
	KUNIT_EXPECT_EQ(test, last, 0U);
}

static void alloc_stops_at_max_blocks(struct kunit *test)
{
	struct pages_test *t = test->priv;
	const struct vbal_want want = {
		.nr_pages = 100,
		.max_blocks = 7,
		.max_order = 0,
	};

	KUNIT_EXPECT_EQ(test, vbal_pages_alloc(&t->vp, &want, &t->blocks), 7UL);
	KUNIT_EXPECT_EQ(test, t->blocks.nr_blocks, 7U);
}

static void alloc_leaves_what_is_below_min_order(struct kunit *test)
{
	struct pages_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, take(t, BLOCK_PAGES + 7, 3, VBAL_MAX_ORDER),
			BLOCK_PAGES);
}

/* 1 GiB blocks do not exist: 0 pages, and no smaller ones were wanted. */
static void alloc_of_nothing(struct kunit *test)
{
	struct pages_test *t = test->priv;

	KUNIT_EXPECT_EQ(test, take(t, 0, 0, VBAL_MAX_ORDER), 0UL);
	KUNIT_EXPECT_EQ(test, take(t, 7, 3, VBAL_MAX_ORDER), 0UL);
	KUNIT_EXPECT_TRUE(test, list_empty(&t->blocks.list));
}

static void hold_keeps_blocks_and_splits_the_rest(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES + 9, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_RANGE), 1UL);
	KUNIT_EXPECT_EQ(test, nr_singles(t, VBAL_MODE_RANGE), 9L);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_PFN), 0UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), BLOCK_PAGES + 9);
	KUNIT_EXPECT_TRUE(test, list_empty(&t->blocks.list));
}

static void hold_marks_every_page_offline(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct page *first;
	unsigned long i, nr = 0;

	KUNIT_ASSERT_EQ(test, take_block(t), BLOCK_PAGES);
	first = list_first_entry(&t->blocks.list, struct page, lru);
	vbal_pages_hold(&t->vp, &t->blocks, VBAL_MODE_PFN);
	for (i = 0; i < BLOCK_PAGES; i++)
		nr += PageOffline(first + i);
	KUNIT_EXPECT_EQ(test, nr, BLOCK_PAGES);
	KUNIT_ASSERT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES,
					&t->blocks),
			BLOCK_PAGES);
	for (i = 0, nr = 0; i < BLOCK_PAGES; i++)
		nr += PageOffline(first + i);
	KUNIT_EXPECT_EQ(test, nr, 0UL);
	vbal_pages_free(&t->vp, &t->blocks);
}

struct accounting_case {
	const char *name;
	bool adjust_managed;
};

static const struct accounting_case accounting_cases[] = {
	{ "leaves MemTotal", true },
	{ "stays in MemTotal", false },
};

static void accounting_case_desc(const struct accounting_case *c, char *desc)
{
	strscpy(desc, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(accounting, accounting_cases, accounting_case_desc);

static void hold_accounts_exactly(struct kunit *test)
{
	const struct accounting_case *c = test->param_value;
	struct pages_test *t = test->priv;
	unsigned long nr_pages = 3 * BLOCK_PAGES + 5;

	t->vp.adjust_managed = c->adjust_managed;
	hold(test, nr_pages, VBAL_MAX_ORDER, VBAL_MODE_PFN);
	KUNIT_EXPECT_EQ(test, t->total_before - totalram_pages(),
			c->adjust_managed ? nr_pages : 0);
	KUNIT_ASSERT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, nr_pages,
					&t->blocks),
			nr_pages);
	/* Picked is still held: the host may not know yet. */
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), nr_pages);
	vbal_pages_free(&t->vp, &t->blocks);
	KUNIT_EXPECT_EQ(test, totalram_pages(), t->total_before);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&t->vp.nr_given),
			(long)nr_pages);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&t->vp.nr_taken),
			(long)nr_pages);
}

static void pick_prefers_whole_blocks(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, 2 * BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	hold(test, 20, 0, VBAL_MODE_PFN);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES + 3,
					&t->blocks),
			BLOCK_PAGES + 3);
	/* The block, and three pages, neighbours of which have been joined. */
	KUNIT_EXPECT_LE(test, t->blocks.nr_blocks, 4U);
	KUNIT_EXPECT_EQ(test, nr_singles(t, VBAL_MODE_PFN), 17L);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&t->vp.nr_splits), 0L);
	vbal_pages_free(&t->vp, &t->blocks);
}

struct split_case {
	unsigned long nr_pages;
};

static const struct split_case split_cases[] = {
	{ 1 },
	{ 2 },
	{ BLOCK_PAGES / 2 },
	{ BLOCK_PAGES - 1 },
};

static void split_case_desc(const struct split_case *c, char *desc)
{
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%lu of a block", c->nr_pages);
}

KUNIT_ARRAY_PARAM(split, split_cases, split_case_desc);

/* [2M] - n  ->  n free, the rest single pages of the same mode */
static void pick_splits_to_the_page(struct kunit *test)
{
	const struct split_case *c = test->param_value;
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_RANGE, c->nr_pages,
					&t->blocks),
			c->nr_pages);
	vbal_pages_free(&t->vp, &t->blocks);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp),
			BLOCK_PAGES - c->nr_pages);
	KUNIT_EXPECT_EQ(test, nr_singles(t, VBAL_MODE_RANGE),
			(long)(BLOCK_PAGES - c->nr_pages));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&t->vp.nr_splits), 1L);
}

static void pick_from_an_empty_bag(struct kunit *test)
{
	struct pages_test *t = test->priv;

	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 1, &t->blocks),
			0UL);
}

/* Once settled each page can move; given back they are one block again. */
static void settled_blocks_come_back_whole(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct page *page;

	hold(test, 3 * BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test, vbal_pages_settle(&t->vp, 1), BLOCK_PAGES);
	KUNIT_EXPECT_EQ(test, nr_singles(t, VBAL_MODE_RANGE),
			(long)BLOCK_PAGES);
	KUNIT_EXPECT_EQ(test, vbal_pages_settle(&t->vp, ULONG_MAX),
			2 * BLOCK_PAGES);
	KUNIT_EXPECT_EQ(test, vbal_pages_settle(&t->vp, ULONG_MAX), 0UL);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_RANGE), 0UL);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), 3 * BLOCK_PAGES);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_RANGE,
					3 * BLOCK_PAGES, &t->blocks),
			3 * BLOCK_PAGES);
	KUNIT_EXPECT_LE(test, t->blocks.nr_blocks, 3U);
	vbal_for_each_block(page, &t->blocks)
		KUNIT_EXPECT_GE(test, vbal_block_order(page),
				(unsigned int)VBAL_BLOCK_ORDER);
	vbal_pages_free(&t->vp, &t->blocks);
}

/* Somebody has a look at a page in the middle: it is freed all the same. */
static void settled_page_that_is_seen_is_not_lost(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct page *seen;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	vbal_pages_settle(&t->vp, ULONG_MAX);
	seen = list_first_entry(&t->vp.bag[VBAL_MODE_PFN].singles.pages,
				struct page, lru);
	get_page(seen);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES,
					&t->blocks),
			BLOCK_PAGES);
	KUNIT_EXPECT_GT(test, t->blocks.nr_blocks, 1U);
	vbal_pages_free(&t->vp, &t->blocks);
	KUNIT_EXPECT_EQ(test, page_count(seen), 1);
	put_page(seen);
}

/* Of a page that has just moved in: the first of @pages, whichever it is. */
static void withhold_first(struct vbal_pages *vp, struct list_head *pages,
			   struct list_head *kept)
{
	if (!list_empty(pages) && list_empty(kept))
		list_move(pages->next, kept);
}

/* It can move all the same, and counts as held. */
static void pick_leaves_what_has_to_stay(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_bag *bag = &t->vp.bag[VBAL_MODE_PFN];

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	vbal_pages_settle(&t->vp, ULONG_MAX);
	t->vp.withhold = withhold_first;
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 2 * BLOCK_PAGES,
					&t->blocks),
			BLOCK_PAGES - 1);
	vbal_pages_free(&t->vp, &t->blocks);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), 1UL);
	KUNIT_EXPECT_TRUE(test, list_is_singular(&bag->singles.pages));
	KUNIT_EXPECT_TRUE(test, list_empty(&bag->kept));
	KUNIT_EXPECT_TRUE(test,
			  PageOffline(list_first_entry(&bag->singles.pages,
						       struct page, lru)));
	KUNIT_EXPECT_TRUE(test, vbal_pages_has(&t->vp, VBAL_MODE_PFN));
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 1, &t->blocks),
			0UL);
	t->vp.withhold = NULL;
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 1, &t->blocks),
			1UL);
	KUNIT_EXPECT_FALSE(test, vbal_pages_has(&t->vp, VBAL_MODE_PFN));
	vbal_pages_free(&t->vp, &t->blocks);
}

/* Of a block in pages one goes back, and one stays to which somebody has a reference. */
static struct page *withhold_one_that_is_seen(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct page *seen;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	vbal_pages_settle(&t->vp, ULONG_MAX);
	seen = list_first_entry(&t->vp.bag[VBAL_MODE_PFN].singles.pages,
				struct page, lru);
	get_page(seen);
	t->vp.withhold = withhold_first;
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 1, &t->blocks),
			1UL);
	vbal_pages_free(&t->vp, &t->blocks);
	return seen;
}

/* Who has a reference may have its lock: the core would not have it back. */
static void pick_keeps_what_somebody_looks_at(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_bag *bag = &t->vp.bag[VBAL_MODE_PFN];
	struct page *seen;

	seen = withhold_one_that_is_seen(test);
	lock_page(seen);
	KUNIT_EXPECT_EQ(test, vbal_pages_keeps(&t->vp),
			!vbal_balloon_page_may_return(seen));
	KUNIT_EXPECT_EQ(test, atomic_long_read(&bag->nr_singles),
			(long)BLOCK_PAGES - 1);
	vbal_pages_settle(&t->vp, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, vbal_pages_keeps(&t->vp),
			!vbal_balloon_page_may_return(seen));
	t->vp.withhold = NULL;
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, 1, &t->blocks),
			1UL);
	KUNIT_EXPECT_FALSE(test, vbal_pages_keeps(&t->vp));
	vbal_pages_free(&t->vp, &t->blocks);
	unlock_page(seen);
	KUNIT_EXPECT_EQ(test, page_count(seen), 1);
	put_page(seen);
}

/* Nor for longer than somebody looks. */
static void settle_lets_what_was_kept_move(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_bag *bag = &t->vp.bag[VBAL_MODE_PFN];
	struct page *seen;

	seen = withhold_one_that_is_seen(test);
	t->vp.withhold = NULL;
	put_page(seen);
	vbal_pages_set_offlining(&t->vp, true);
	vbal_pages_set_offlining(&t->vp, false);
	KUNIT_EXPECT_FALSE(test, vbal_pages_keeps(&t->vp));
	KUNIT_EXPECT_PTR_EQ(
		test, list_first_entry(&bag->singles.pages, struct page, lru),
		seen);
	KUNIT_EXPECT_EQ(test, vbal_pages_held(&t->vp), BLOCK_PAGES - 1);
}

/* Nothing stands in the way of memory that goes offline. */
static void offlining_leaves_nothing_whole(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	vbal_pages_set_offlining(&t->vp, true);
	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_PFN), 0UL);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_RANGE), 0UL);
	vbal_pages_set_offlining(&t->vp, false);
	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test, nr_blocks(t, VBAL_MODE_RANGE), 1UL);
}

/* Pages with a mark and without a reference would pass for free ones there. */
static void offlining_has_nothing_joined(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	vbal_pages_set_offlining(&t->vp, true);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES / 2,
					&t->blocks),
			BLOCK_PAGES / 2);
	KUNIT_EXPECT_EQ(test, t->blocks.nr_blocks, BLOCK_PAGES / 2);
	vbal_pages_free(&t->vp, &t->blocks);
	vbal_pages_set_offlining(&t->vp, false);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES / 2,
					&t->blocks),
			BLOCK_PAGES / 2);
	KUNIT_EXPECT_EQ(test, t->blocks.nr_blocks, 1UL);
	vbal_pages_free(&t->vp, &t->blocks);
}

static void set_zones(struct page *page, unsigned long nr_pages,
		      enum zone_type zone)
{
	while (nr_pages--)
		set_page_zone(page++, zone);
}

/* As where a node begins at an odd megabyte; only the mark of a zone counts. */
static void what_is_joined_is_of_one_zone(struct kunit *test)
{
	const unsigned long nr_pages = BLOCK_PAGES / 2 - 1;
	struct pages_test *t = test->priv;
	struct page *page, *block;
	enum zone_type zone;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	page = list_first_entry(
		&t->vp.bag[VBAL_MODE_PFN].blocks[VBAL_BLOCK_ORDER], struct page,
		lru);
	vbal_pages_settle(&t->vp, BLOCK_PAGES);
	zone = page_zonenum(page);
	set_zones(page + BLOCK_PAGES - nr_pages, nr_pages, ZONE_MOVABLE);
	KUNIT_EXPECT_EQ(test,
			vbal_pages_pick(&t->vp, VBAL_MODE_PFN, BLOCK_PAGES,
					&t->blocks),
			BLOCK_PAGES);
	vbal_for_each_block(block, &t->blocks)
		KUNIT_EXPECT_PTR_EQ(
			test, page_zone(block),
			page_zone(block + BIT(vbal_block_order(block)) - 1));
	KUNIT_EXPECT_LT(test, t->blocks.nr_blocks, 20UL);
	set_zones(page + BLOCK_PAGES - nr_pages, nr_pages, zone);
	vbal_pages_free(&t->vp, &t->blocks);
}

static void choose_takes_ranges_before_pfns(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_PFN);
	KUNIT_EXPECT_EQ(test, (int)vbal_pages_choose(&t->vp, BLOCK_PAGES),
			(int)VBAL_MODE_PFN);
	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	KUNIT_EXPECT_EQ(test, (int)vbal_pages_choose(&t->vp, BLOCK_PAGES),
			(int)VBAL_MODE_RANGE);
}

static void choose_takes_singles_before_splitting(struct kunit *test)
{
	struct pages_test *t = test->priv;

	hold(test, BLOCK_PAGES, VBAL_BLOCK_ORDER, VBAL_MODE_RANGE);
	hold(test, 5, 0, VBAL_MODE_PFN);
	KUNIT_EXPECT_EQ(test, (int)vbal_pages_choose(&t->vp, 3),
			(int)VBAL_MODE_PFN);
	KUNIT_EXPECT_EQ(test, (int)vbal_pages_choose(&t->vp, BLOCK_PAGES + 1),
			(int)VBAL_MODE_RANGE);
}

static void gfp_block_takes_movable_memory_without_reclaim(struct kunit *test)
{
	gfp_t gfp = vbal_pages_gfp_block();

	KUNIT_EXPECT_FALSE(test, gfp & __GFP_RECLAIM);
	KUNIT_EXPECT_TRUE(test, gfp & __GFP_HIGHMEM);
	KUNIT_EXPECT_EQ(test, !!(gfp & __GFP_MOVABLE), VBAL_PAGES_CAN_MOVE);
	KUNIT_EXPECT_TRUE(test, gfp & __GFP_NOWARN);
}

/* Blocks that are there already are as good as such that reclaim makes. */
static void make_room_hands_out_whole_blocks(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_reclaim *r = &t->vp.reclaim;
	gfp_t gfp = vbal_pages_gfp_block() | __GFP_DIRECT_RECLAIM;
	struct page *page;

	KUNIT_EXPECT_NULL(test, vbal_reclaim_pop(r));
	KUNIT_EXPECT_TRUE(test, vbal_reclaim_make(r, 2 * VBAL_RECLAIM_PAGES,
						  ULONG_MAX, gfp));
	page = vbal_reclaim_pop(r);
	KUNIT_EXPECT_NOT_NULL(test, page);
	if (page)
		__free_pages(page, VBAL_RECLAIM_ORDER);
	/* What nobody takes does not get lost: pages_test_exit() counts. */
	vbal_reclaim_stop(r);
	KUNIT_EXPECT_NULL(test, vbal_reclaim_pop(r));
}

static void make_room_ends_when_there_is_enough(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_reclaim *r = &t->vp.reclaim;
	gfp_t gfp = vbal_pages_gfp_block() | __GFP_DIRECT_RECLAIM;
	unsigned int nr_blocks = 0;
	struct page *page;

	vbal_reclaim_make(r, 2 * VBAL_RECLAIM_PAGES, ULONG_MAX, gfp);
	while ((page = vbal_reclaim_pop(r))) {
		__free_pages(page, VBAL_RECLAIM_ORDER);
		nr_blocks++;
	}
	KUNIT_EXPECT_GE(test, nr_blocks, 1U);
	/* The helper may have been at its last call. */
	KUNIT_EXPECT_LE(test, nr_blocks, 3U);
	vbal_reclaim_stop(r);
}

static void largest_room_is_no_more_than_is_free(struct kunit *test)
{
	KUNIT_EXPECT_GT(test, vbal_reclaim_largest(), 0UL);
	KUNIT_EXPECT_LT(test, vbal_reclaim_largest(),
			global_zone_page_state(NR_FREE_PAGES));
}

/* So that no zone has anything to spare. */
static void move_high_watermarks(long nr_pages)
{
	struct zone *zone;
	int nid, i;

	for_each_online_node(nid)
		for (i = 0; i < MAX_NR_ZONES; i++) {
			zone = &NODE_DATA(nid)->node_zones[i];
			if (managed_zone(zone))
				zone->_watermark[WMARK_HIGH] += nr_pages;
		}
}

/* What has to stay free is not handed out, however often it is asked for. */
static void make_room_leaves_what_zones_need(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_reclaim *r = &t->vp.reclaim;
	gfp_t gfp = vbal_pages_gfp_block() | __GFP_DIRECT_RECLAIM;
	long nr_pages = totalram_pages();
	unsigned long before;

	move_high_watermarks(nr_pages);
	before = global_zone_page_state(NR_FREE_PAGES);
	vbal_reclaim_make(r, VBAL_RECLAIM_PAGES, ULONG_MAX, gfp);
	KUNIT_EXPECT_NULL(test, vbal_reclaim_pop(r));
	KUNIT_EXPECT_NULL(test, vbal_reclaim_take(gfp, 0, 0));
	/* But for a page of each block, so that it is not handed out again. */
	KUNIT_EXPECT_GT(test, global_zone_page_state(NR_FREE_PAGES),
			before - before / 8);
	vbal_reclaim_stop(r);
	move_high_watermarks(-nr_pages);
}

static unsigned long nr_allocated(void)
{
	unsigned long event[NR_VM_EVENT_ITEMS], nr_pages = 0;
	unsigned int i;

	all_vm_events(event);
	for (i = 0; i < MAX_NR_ZONES; i++)
		nr_pages += event[PGALLOC_NORMAL - ZONE_NORMAL + i];
	return nr_pages;
}

static unsigned long largest_zone_room(void)
{
	unsigned long nr_pages = 0;
	int nid, i;

	for_each_online_node(nid)
		for (i = 0; i < MAX_NR_ZONES; i++)
			if (managed_zone(&NODE_DATA(nid)->node_zones[i]))
				nr_pages = max(
					nr_pages,
					vbal_zone_room(
						&NODE_DATA(nid)->node_zones[i]));
	return nr_pages;
}

/* Asks for a block where no zone has more than @spare; true: none was touched. */
static bool takes_nothing_of(unsigned long spare)
{
	long nr_pages = largest_zone_room() - spare;
	unsigned long before;
	struct page *page;

	move_high_watermarks(nr_pages);
	before = nr_allocated();
	page = vbal_reclaim_take(vbal_pages_gfp_block(), VBAL_BLOCK_ORDER, 0);
	before = nr_allocated() - before;
	move_high_watermarks(-nr_pages);
	if (page)
		__free_pages(page, VBAL_BLOCK_ORDER);
	return !page && before < BLOCK_PAGES;
}

/* A block that would have to go back is not taken, not even for a moment. */
static void take_looks_before(struct kunit *test)
{
	unsigned int nr_tries = 20;

	KUNIT_ASSERT_GT(test, largest_zone_room(), 4 * BLOCK_PAGES);
	/* Others free memory meanwhile. */
	while (nr_tries && !takes_nothing_of(3 * BLOCK_PAGES / 2))
		nr_tries--;
	KUNIT_EXPECT_GT(test, nr_tries, 0U);
	nr_tries = 20;
	while (nr_tries && takes_nothing_of(3 * BLOCK_PAGES))
		nr_tries--;
	KUNIT_EXPECT_GT(test, nr_tries, 0U);
}

static unsigned long watermark_boosts(void)
{
	unsigned long nr_pages = 0;
	int nid, i;

	for_each_online_node(nid)
		for (i = 0; i < MAX_NR_ZONES; i++)
			nr_pages +=
				NODE_DATA(nid)->node_zones[i].watermark_boost;
	return nr_pages;
}

/* The first page of each block stays in use, the others are free: one piece of each order. */
static void break_blocks(struct kunit *test, gfp_t gfp, unsigned long nr_left,
			 struct list_head *in_use)
{
	struct page *page;

	while (nr_left--) {
		page = alloc_pages(gfp | __GFP_NOWARN, VBAL_RECLAIM_ORDER);
		if (page)
			list_add(&page->lru, in_use);
	}
	KUNIT_ASSERT_FALSE(test, list_empty(in_use));
	list_for_each_entry(page, in_use, lru)
		vbal_reclaim_free_but_first(page);
}

/*
 * Who takes from blocks of another kind than he asks for raises the watermarks. They
 * stay so until kswapd runs, which the balloon does not wake.
 */
static void alloc_raises_no_watermark(struct kunit *test)
{
	struct pages_test *t = test->priv;
	const struct vbal_want want = {
		.nr_pages = totalram_pages(),
		.max_blocks = UINT_MAX,
		.min_order = PAGE_ALLOC_COSTLY_ORDER + 1,
		.max_order = VBAL_MAX_ORDER,
	};
	unsigned long nr_blocks = totalram_pages() / 8 / VBAL_RECLAIM_PAGES;
	unsigned long boost, pieces, left;
	LIST_HEAD(in_use);

	break_blocks(test, __GFP_RECLAIMABLE, nr_blocks, &in_use);
	boost = watermark_boosts();
	pieces = vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
	vbal_pages_alloc(&t->vp, &want, &t->blocks);
	left = vbal_reclaim_pieces(VBAL_BLOCK_ORDER);
	/* The rest may be needed by the zone. */
	KUNIT_EXPECT_LT(test, left, pieces - pieces / 4);
	/* But for what others do meanwhile. */
	KUNIT_EXPECT_LE(test, watermark_boosts(), boost + pageblock_nr_pages);
	vbal_pages_discard(&t->blocks);
	test_gather(&in_use);
}

static bool is_in_block_of(struct list_head *in_use, struct page *page)
{
	unsigned long pfn = round_down(page_to_pfn(page), VBAL_RECLAIM_PAGES);
	struct page *first;

	list_for_each_entry(first, in_use, lru)
		if (page_to_pfn(first) == pfn)
			return true;
	return false;
}

/* Where there is most of this kind others would have to break up movable blocks. */
static void alloc_takes_slab_first(struct kunit *test)
{
	struct pages_test *t = test->priv;
	unsigned long nr_blocks = totalram_pages() / 32 / VBAL_RECLAIM_PAGES;
	unsigned int order = VBAL_BLOCK_ORDER - 1, nr_there = 0;
	const struct vbal_want want = {
		/* As there may be others than these. */
		.nr_pages = 4 * nr_blocks << order,
		.max_blocks = UINT_MAX,
		.min_order = order,
		.max_order = order,
		.slab_first = true,
	};
	LIST_HEAD(in_use);
	struct page *page;

	break_blocks(test, __GFP_RECLAIMABLE, nr_blocks, &in_use);
	vbal_pages_alloc(&t->vp, &want, &t->blocks);
	vbal_for_each_block(page, &t->blocks)
		nr_there += is_in_block_of(&in_use, page);
	KUNIT_EXPECT_GE(test, nr_there, nr_blocks / 2);
	vbal_pages_discard(&t->blocks);
	test_gather(&in_use);
}

/* Lists of the CPU's are filled by more than the kind may have: others break for it. */
static void alloc_takes_small_ones_as_movable(struct kunit *test)
{
	struct pages_test *t = test->priv;
	unsigned long nr_blocks = totalram_pages() / 32 / VBAL_RECLAIM_PAGES;
	const struct vbal_want want = {
		.nr_pages = 4096,
		.max_blocks = UINT_MAX,
		.slab_first = true,
	};
	LIST_HEAD(in_use);
	unsigned long boost;
	struct page *page;

	break_blocks(test, __GFP_RECLAIMABLE, nr_blocks, &in_use);
	boost = watermark_boosts();
	KUNIT_EXPECT_EQ(test, vbal_pages_alloc(&t->vp, &want, &t->blocks),
			4096UL);
	vbal_for_each_block(page, &t->blocks)
		if (is_in_block_of(&in_use, page))
			break;
	KUNIT_EXPECT_TRUE(test, list_entry_is_head(page, &t->blocks.list, lru));
	KUNIT_EXPECT_LE(test, watermark_boosts(), boost);
	vbal_pages_discard(&t->blocks);
	test_gather(&in_use);
}

static void alloc_of_pieces_breaks_no_block(struct kunit *test)
{
	struct pages_test *t = test->priv;
	const struct vbal_want want = {
		.nr_pages = 6 * VBAL_RECLAIM_PAGES,
		.max_blocks = UINT_MAX,
		.max_order = VBAL_MAX_ORDER,
		.pieces = true,
	};
	unsigned long in_blocks;
	LIST_HEAD(in_use);

	test_scatter(test, &t->vp, &in_use);
	in_blocks = vbal_pages_in_blocks();
	KUNIT_EXPECT_EQ(test, vbal_pages_alloc(&t->vp, &want, &t->blocks),
			6 * VBAL_RECLAIM_PAGES);
	/* But for some that CPUs' own lists of pages are filled from. */
	KUNIT_EXPECT_GE(test, vbal_pages_in_blocks() + 3 * VBAL_RECLAIM_PAGES,
			in_blocks);
	/* Orders that were not looked at are not those that could not be had. */
	KUNIT_EXPECT_EQ(test, t->vp.top_order, VBAL_MAX_ORDER);
	KUNIT_EXPECT_EQ(test, t->vp.nr_fallbacks, 0UL);
	vbal_pages_discard(&t->blocks);
	test_gather(&in_use);
}

/* Of the kernel's own kinds, or the rests of blocks that were broken for them. */
static void pieces_that_cannot_be_had_are_left(struct kunit *test)
{
	struct pages_test *t = test->priv;
	unsigned long nr_pages = 8 * VBAL_RECLAIM_PAGES;
	LIST_HEAD(in_use);

	test_scatter(test, &t->vp, &in_use);
	/* Fewer lie about. */
	t->vp.had_pieces += nr_pages;
	vbal_pages_took_pieces(&t->vp, nr_pages);
	KUNIT_EXPECT_TRUE(test, t->vp.scattered);
	/* As many as before, but as much in blocks: they came from the CPU's lists. */
	KUNIT_EXPECT_GT(test, vbal_pages_scattered(&t->vp), 0UL);
	vbal_pages_took_pieces(&t->vp, nr_pages);
	KUNIT_EXPECT_TRUE(test, t->vp.scattered);
	/* As many as before, and less in blocks. */
	KUNIT_EXPECT_GT(test, vbal_pages_scattered(&t->vp), 0UL);
	t->vp.had_in_blocks += nr_pages;
	vbal_pages_took_pieces(&t->vp, nr_pages);
	KUNIT_EXPECT_FALSE(test, t->vp.scattered);
	/* Nor are they looked at again, until many more lie about. */
	KUNIT_EXPECT_EQ(test, vbal_pages_scattered(&t->vp), 0UL);
	t->vp.left_pieces = 0;
	KUNIT_EXPECT_GT(test, vbal_pages_scattered(&t->vp), 0UL);
	/* Who takes little cannot tell. */
	vbal_pages_took_pieces(&t->vp, 1);
	KUNIT_EXPECT_TRUE(test, t->vp.scattered);
	vbal_pages_took_pieces(&t->vp, 0);
	KUNIT_EXPECT_FALSE(test, t->vp.scattered);
	test_gather(&in_use);
}

/* The guard takes them for nobody's need: neither too many nor too few of them. */
static void own_stalls_are_those_that_the_kernel_counts(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_reclaim *r = &t->vp.reclaim;
	gfp_t gfp = vbal_pages_gfp_block();
	unsigned long before = vbal_stalls(vbal_event_sum);
	struct page *page, *next;
	LIST_HEAD(blocks);

	while ((page = alloc_pages_node(numa_node_id(), gfp,
					VBAL_RECLAIM_ORDER)))
		list_add(&page->lru, &blocks);
	gfp = (gfp & ~__GFP_NORETRY) | __GFP_DIRECT_RECLAIM;
	/* On one CPU: for a call that moved to another it takes a stall for granted. */
	migrate_disable();
	/* Somebody may have freed a block meanwhile. */
	do {
		page = vbal_reclaim_alloc(r, numa_node_id(), gfp,
					  VBAL_RECLAIM_ORDER);
		if (page)
			list_add(&page->lru, &blocks);
	} while (page && !vbal_reclaim_stalls(r));
	migrate_enable();
	if (IS_ENABLED(CONFIG_VM_EVENT_COUNTERS))
		KUNIT_EXPECT_GE(test, vbal_reclaim_stalls(r), 1UL);
	KUNIT_EXPECT_LE(test, vbal_reclaim_stalls(r),
			vbal_stalls(vbal_event_sum) - before);
	list_for_each_entry_safe(page, next, &blocks, lru)
		__free_pages(page, VBAL_RECLAIM_ORDER);
}

/* Where there is enough nothing is reclaimed, nor does anybody wait. */
static void make_room_where_there_is_enough(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_want want = {
		.nr_pages = BLOCK_PAGES,
		.max_blocks = UINT_MAX,
		.max_order = VBAL_MAX_ORDER,
		.reclaim = true,
	};

	KUNIT_EXPECT_FALSE(test,
			   vbal_pages_make_room(&t->vp, &want, &t->blocks));
	KUNIT_EXPECT_TRUE(test, want.reclaim);
	KUNIT_EXPECT_EQ(test, t->blocks.nr_pages, 0UL);
	KUNIT_EXPECT_EQ(test, vbal_reclaim_stalls(&t->vp.reclaim), 0UL);
	vbal_reclaim_stop(&t->vp.reclaim);
}

/*
 * All that there is to spare is in one such block: tried again where others have
 * taken or freed half a block meanwhile. Return: by how much the watermarks moved.
 */
static long make_room_of_one_block(struct pages_test *t, struct vbal_want *want)
{
	unsigned int tries = 100;
	long nr_pages;

	for (;;) {
		nr_pages = vbal_reclaim_largest() - 3 * VBAL_RECLAIM_PAGES / 2;
		move_high_watermarks(nr_pages);
		if (vbal_pages_make_room(&t->vp, want, &t->blocks))
			return nr_pages;
		move_high_watermarks(-nr_pages);
		if (!--tries)
			return 0;
		vbal_reclaim_stop(&t->vp.reclaim);
		want->reclaim = true;
	}
}

/* Such as one of PFNs, where pages are large. */
static void batch_that_is_smaller_than_a_block(struct kunit *test)
{
	struct pages_test *t = test->priv;
	struct vbal_want want = {
		.nr_pages = VBAL_RECLAIM_PAGES / 2,
		.granted_pages = 8 * VBAL_RECLAIM_PAGES,
		.max_blocks = UINT_MAX,
		.max_order = VBAL_MAX_ORDER,
		.reclaim = true,
		.merge = true,
	};
	long nr_pages = make_room_of_one_block(t, &want);

	KUNIT_ASSERT_NE(test, nr_pages, 0L);
	KUNIT_EXPECT_EQ(test, vbal_pages_alloc(&t->vp, &want, &t->blocks),
			VBAL_RECLAIM_PAGES / 2);
	vbal_reclaim_stop(&t->vp.reclaim);
	move_high_watermarks(-nr_pages);
	vbal_pages_discard(&t->blocks);
}

static struct kunit_case pages_test_cases[] = {
	KUNIT_CASE(make_room_hands_out_whole_blocks),
	KUNIT_CASE(make_room_ends_when_there_is_enough),
	KUNIT_CASE(largest_room_is_no_more_than_is_free),
	KUNIT_CASE(make_room_leaves_what_zones_need),
	KUNIT_CASE(take_looks_before),
	KUNIT_CASE(alloc_takes_slab_first),
	KUNIT_CASE(alloc_takes_small_ones_as_movable),
	/* After those that look where their blocks are: it leaves more of them. */
	KUNIT_CASE(alloc_raises_no_watermark),
	KUNIT_CASE(alloc_of_pieces_breaks_no_block),
	KUNIT_CASE(pieces_that_cannot_be_had_are_left),
	KUNIT_CASE(own_stalls_are_those_that_the_kernel_counts),
	KUNIT_CASE(make_room_where_there_is_enough),
	KUNIT_CASE(batch_that_is_smaller_than_a_block),
	KUNIT_CASE(alloc_takes_largest_first),
	KUNIT_CASE(alloc_stops_at_max_blocks),
	KUNIT_CASE(alloc_leaves_what_is_below_min_order),
	KUNIT_CASE(alloc_of_nothing),
	KUNIT_CASE(hold_keeps_blocks_and_splits_the_rest),
	KUNIT_CASE(hold_marks_every_page_offline),
	KUNIT_CASE_PARAM(hold_accounts_exactly, accounting_gen_params),
	KUNIT_CASE(pick_prefers_whole_blocks),
	KUNIT_CASE_PARAM(pick_splits_to_the_page, split_gen_params),
	KUNIT_CASE(pick_from_an_empty_bag),
	KUNIT_CASE(settled_blocks_come_back_whole),
	KUNIT_CASE(settled_page_that_is_seen_is_not_lost),
	KUNIT_CASE(pick_leaves_what_has_to_stay),
	KUNIT_CASE(pick_keeps_what_somebody_looks_at),
	KUNIT_CASE(settle_lets_what_was_kept_move),
	KUNIT_CASE(offlining_leaves_nothing_whole),
	KUNIT_CASE(offlining_has_nothing_joined),
	KUNIT_CASE(what_is_joined_is_of_one_zone),
	KUNIT_CASE(choose_takes_ranges_before_pfns),
	KUNIT_CASE(choose_takes_singles_before_splitting),
	KUNIT_CASE(gfp_block_takes_movable_memory_without_reclaim),
	{}
};

static struct kunit_suite pages_test_suite = {
	.name = "vballoon_pages",
	.suite_init = pages_suite_init,
	.suite_exit = pages_suite_exit,
	.init = pages_test_init,
	.exit = pages_test_exit,
	.test_cases = pages_test_cases,
};

kunit_test_suite(pages_test_suite);
