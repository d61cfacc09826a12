// SPDX-License-Identifier: GPL-2.0-only
/*
 * One byte per frame, for all of memory, allocated when a suite begins: what
 * writes here may be in any context, and must not fail when an allocation does.
 */
#include "fake_books.h"

#include <linux/bitmap.h>
#include <linux/gfp.h>
#include <linux/kallsyms.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/spinlock.h>
#include <linux/stacktrace.h>
#include <linux/string.h>
#include <linux/tracepoint.h>
#include <linux/virtio_balloon.h>

#define FRAMES_PER_PAGE (PAGE_SIZE >> VIRTIO_BALLOON_PFN_SHIFT)

/* The owner is in the low bits of a frame's byte. */
#define BOOKS_OWNER 0x03
/* A buffer names it that the host has read and not answered. */
#define BOOKS_BUSY 0x04
/* Free already; the host is still to be told. */
#define BOOKS_FREED 0x08
/* This module allocated it. */
#define BOOKS_OWN 0x10
/* The audit under way has come across it. */
#define BOOKS_SEEN 0x20

/* Most that happens to a page happens to its neighbours: eight frames at once. */
#define BOOKS_EIGHT 8ul
#define BOOKS_ALL(state) (0x0101010101010101ULL * (state))

/*
 * Who asks for a page itself is at most so far from the tracepoint. Deeper, it
 * is a slab, a stack depot or a page table that needed one, and may keep it.
 */
#define BOOKS_STACK_DEPTH 4

/* So many frames are a sheet: to go through all of memory after each life takes long. */
#define BOOKS_SHEET 512ul

static struct {
	raw_spinlock_t lock;
	u8 *frame;
	unsigned long nr_frames;
	/* By sheet: written to by the host since its reset, marked in the audit under way. */
	unsigned long *written;
	unsigned long *seen;
	bool must_tell;
	unsigned long nr_owned[BOOKS_NR_OWNERS];
	unsigned long nr_own;
	unsigned long nr_audited;
	bool audit_differs;
	unsigned int nr_errors;
	const char *error;
	unsigned long error_frame;
} books = { .lock = __RAW_SPIN_LOCK_UNLOCKED(books.lock) };

static void books_error(unsigned long frame, const char *what)
{
	if (books.nr_errors++)
		return;
	books.error = what;
	books.error_frame = frame;
}

static enum books_owner books_owner(unsigned long frame)
{
	return books.frame[frame] & BOOKS_OWNER;
}

static void books_set_owner(unsigned long frame, enum books_owner owner)
{
	books.nr_owned[books_owner(frame)]--;
	books.nr_owned[owner]++;
	books.frame[frame] = (books.frame[frame] & ~BOOKS_OWNER) | owner;
}

static void books_set_own(unsigned long frame, bool own)
{
	if (!!(books.frame[frame] & BOOKS_OWN) == own)
		return;
	books.frame[frame] ^= BOOKS_OWN;
	books.nr_own += own ? 1 : -1;
}

static unsigned long books_nr_sheets(void)
{
	return DIV_ROUND_UP(books.nr_frames, BOOKS_SHEET);
}

static void books_mark(unsigned long *sheets, unsigned long frame,
		       unsigned long end)
{
	unsigned long sheet;

	for (sheet = frame / BOOKS_SHEET; sheet * BOOKS_SHEET < end; sheet++)
		__set_bit(sheet, sheets);
}

/* Do something to the states on the sheets that are marked, eight at once. */
static __always_inline void books_each_marked(unsigned long *sheets,
					      void (*what)(unsigned long frame,
							   u64 *states))
{
	unsigned long sheet, frame, end;

	for_each_set_bit(sheet, sheets, books_nr_sheets()) {
		frame = sheet * BOOKS_SHEET;
		end = min(frame + BOOKS_SHEET, books.nr_frames);
		for (; frame < end; frame += BOOKS_EIGHT)
			what(frame, (u64 *)&books.frame[frame]);
	}
	bitmap_zero(sheets, books_nr_sheets());
}

/*
 * What to do to each frame of some pages, under the lock. @eight does the same to
 * eight of them, or returns false. @sheets: where to mark them, or NULL.
 */
static __always_inline void books_each(const struct page *page,
				       unsigned long nr_pages,
				       unsigned long *sheets,
				       void (*what)(unsigned long frame),
				       bool (*eight)(u64 *states))
{
	unsigned long frame = page_to_pfn(page) * FRAMES_PER_PAGE;
	unsigned long end = frame + nr_pages * FRAMES_PER_PAGE;
	unsigned long flags;

	raw_spin_lock_irqsave(&books.lock, flags);
	if (end > books.nr_frames)
		books_error(end, "a frame that is no memory");
	end = min(end, books.nr_frames);
	if (sheets)
		books_mark(sheets, frame, end);
	while (frame < end) {
		if (IS_ALIGNED(frame, BOOKS_EIGHT) &&
		    frame + BOOKS_EIGHT <= end &&
		    eight((u64 *)&books.frame[frame]))
			frame += BOOKS_EIGHT;
		else
			what(frame++);
	}
	raw_spin_unlock_irqrestore(&books.lock, flags);
}

static void books_one(unsigned long frame, void (*what)(unsigned long frame))
{
	unsigned long flags;

	raw_spin_lock_irqsave(&books.lock, flags);
	if (frame < books.nr_frames) {
		__set_bit(frame / BOOKS_SHEET, books.written);
		what(frame);
	} else {
		books_error(frame, "a frame that is no memory");
	}
	raw_spin_unlock_irqrestore(&books.lock, flags);
}

/* The page allocator's side ------------------------------------------------- */

static void books_freed(unsigned long frame)
{
	u8 state = books.frame[frame];

	if (state & BOOKS_BUSY)
		books_error(frame, "freed before the host's answer");
	books_set_own(frame, false);
	switch (state & BOOKS_OWNER) {
	case BOOKS_PFN:
		if (READ_ONCE(books.must_tell))
			books_error(frame, "freed before the host was told");
		books.frame[frame] |= BOOKS_FREED;
		break;
	case BOOKS_RANGE:
	case BOOKS_LOST:
		books_set_owner(frame, BOOKS_GUEST);
		break;
	}
}

/* The guest's, and known to nobody: nothing changes. */
static bool books_freed_eight(u64 *states)
{
	return !*states;
}

static void books_handed_out(unsigned long frame)
{
	if (books.frame[frame] & BOOKS_BUSY)
		books_error(frame, "handed out before the host's answer");
}

static bool books_handed_out_eight(u64 *states)
{
	return !(*states & BOOKS_ALL(BOOKS_BUSY));
}

static void books_handed_to_us(unsigned long frame)
{
	books_handed_out(frame);
	books_set_own(frame, true);
}

static bool books_handed_to_us_eight(u64 *states)
{
	if (*states)
		return false;
	*states = BOOKS_ALL(BOOKS_OWN);
	books.nr_own += BOOKS_EIGHT;
	return true;
}

#ifdef MODULE
static bool books_is_ours(unsigned long address)
{
	return within_module(address, THIS_MODULE);
}
#else
/* Built in, there is no module to be within; but the driver's names begin alike. */
static bool books_is_ours(unsigned long address)
{
	char name[KSYM_SYMBOL_LEN];

	sprint_symbol_no_offset(name, address);
	return str_has_prefix(name, "vbal_");
}
#endif

static noinline bool books_called_by_us(void)
{
	unsigned long caller[BOOKS_STACK_DEPTH];
	unsigned int i, nr_callers;

	if (!fake_books_know_own())
		return false;
	/* Without this function and the probe, which are ours too. */
	nr_callers = stack_trace_save(caller, ARRAY_SIZE(caller), 2);
	for (i = 0; i < nr_callers; i++)
		if (books_is_ours(caller[i]))
			return true;
	return false;
}

static noinline void books_probe_free(void *unused, struct page *page,
				      unsigned int order)
{
	books_each(page, 1UL << order, NULL, books_freed, books_freed_eight);
}

static noinline void books_probe_alloc(void *unused, struct page *page,
				       unsigned int order, gfp_t gfp,
				       int migratetype)
{
	if (!page)
		return;
	if (books_called_by_us())
		books_each(page, 1UL << order, NULL, books_handed_to_us,
			   books_handed_to_us_eight);
	else
		books_each(page, 1UL << order, NULL, books_handed_out,
			   books_handed_out_eight);
}

static struct books_point {
	const char *name;
	void *probe;
	struct tracepoint *tp;
} books_points[] = {
	{ "mm_page_free", books_probe_free },
	{ "mm_page_alloc", books_probe_alloc },
};

static void books_find_point(struct tracepoint *tp, void *unused)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(books_points); i++)
		if (!strcmp(tp->name, books_points[i].name))
			books_points[i].tp = tp;
}

static void books_unhook(unsigned int nr_points)
{
	unsigned int i;

	for (i = 0; i < nr_points; i++)
		tracepoint_probe_unregister(books_points[i].tp,
					    books_points[i].probe, NULL);
	tracepoint_synchronize_unregister();
}

static int books_hook(void)
{
	unsigned int i;
	int ret = 0;

	for_each_kernel_tracepoint(books_find_point, NULL);
	for (i = 0; i < ARRAY_SIZE(books_points) && !ret; i++) {
		ret = -ENOENT;
		if (books_points[i].tp)
			ret = tracepoint_probe_register(books_points[i].tp,
							books_points[i].probe,
							NULL);
	}
	if (ret)
		books_unhook(i - 1);
	return ret;
}

/* Life ---------------------------------------------------------------------- */

static int books_alloc(void)
{
	books.written = bitmap_zalloc(books_nr_sheets(), GFP_KERNEL);
	books.seen = bitmap_zalloc(books_nr_sheets(), GFP_KERNEL);
	/* No vmalloc(): its page tables would stay. */
	books.frame =
		alloc_pages_exact(books.nr_frames, GFP_KERNEL | __GFP_ZERO);
	return books.written && books.seen && books.frame ? 0 : -ENOMEM;
}

static void books_free(void)
{
	if (books.frame)
		free_pages_exact(books.frame, books.nr_frames);
	books.frame = NULL;
	bitmap_free(books.seen);
	bitmap_free(books.written);
}

/* Before the first test of a suite. */
int fake_books_open(void)
{
	unsigned long nr_pages = 0;
	int nid, ret;

	for_each_online_node(nid)
		nr_pages = max(nr_pages, node_end_pfn(nid));
	books.nr_frames = round_up(nr_pages * FRAMES_PER_PAGE, sizeof(u64));
	memset(books.nr_owned, 0, sizeof(books.nr_owned));
	books.nr_owned[BOOKS_GUEST] = books.nr_frames;
	books.nr_own = 0;
	ret = books_alloc();
	if (!ret)
		ret = books_hook();
	if (ret)
		books_free();
	return ret;
}

/* After the last. */
void fake_books_close(void)
{
	books_unhook(ARRAY_SIZE(books_points));
	books_free();
}

/* Before each test: what was found wrong before was told before. */
void fake_books_begin(void)
{
	books.must_tell = false;
	books.nr_errors = 0;
	books.error = NULL;
}

/* Was MUST_TELL_HOST negotiated? */
void fake_books_must_tell(bool must_tell)
{
	WRITE_ONCE(books.must_tell, must_tell);
}

/* The host's side ----------------------------------------------------------- */

static void books_give(unsigned long frame, enum books_owner owner)
{
	enum books_owner before = books_owner(frame);

	if (before == BOOKS_PFN || before == BOOKS_RANGE)
		books_error(frame, before == owner ? "a frame given twice" :
						     "a frame given both ways");
	books_set_owner(frame, owner);
	books.frame[frame] &= ~BOOKS_FREED;
	books.frame[frame] |= BOOKS_BUSY;
}

static void books_give_pfn(unsigned long frame)
{
	books_give(frame, BOOKS_PFN);
}

static void books_give_range(unsigned long frame)
{
	if (fake_books_know_own() && !(books.frame[frame] & BOOKS_OWN))
		books_error(frame, "given, but not the driver's");
	books_give(frame, BOOKS_RANGE);
}

static void books_take_pfn(unsigned long frame)
{
	if (books_owner(frame) != BOOKS_PFN) {
		books_error(frame, "a frame taken back that was not given");
		return;
	}
	/* One that is free since long may be in a hint by now. */
	if ((books.frame[frame] & (BOOKS_BUSY | BOOKS_FREED)) == BOOKS_BUSY)
		books_error(frame, "taken back before it was acknowledged");
	books_set_owner(frame, BOOKS_GUEST);
	books.frame[frame] &= ~BOOKS_FREED;
	if (READ_ONCE(books.must_tell))
		books.frame[frame] |= BOOKS_BUSY;
}

static bool books_give_range_eight(u64 *states)
{
	if (*states != (fake_books_know_own() ? BOOKS_ALL(BOOKS_OWN) : 0))
		return false;
	*states |= BOOKS_ALL(BOOKS_RANGE | BOOKS_BUSY);
	books.nr_owned[BOOKS_GUEST] -= BOOKS_EIGHT;
	books.nr_owned[BOOKS_RANGE] += BOOKS_EIGHT;
	return true;
}

/* Hinted or reported: the guest's all the while, but in the host's hands. */
static void books_lend(unsigned long frame)
{
	u8 state = books.frame[frame];

	if ((state & BOOKS_OWNER) != BOOKS_GUEST && !(state & BOOKS_FREED))
		books_error(frame, "called free, but the host has it");
	if (state & BOOKS_BUSY)
		books_error(frame, "called free twice at once");
	books.frame[frame] |= BOOKS_BUSY;
}

static bool books_lend_eight(u64 *states)
{
	if (*states & ~BOOKS_ALL(BOOKS_OWN))
		return false;
	*states |= BOOKS_ALL(BOOKS_BUSY);
	return true;
}

static void books_answer(unsigned long frame)
{
	books.frame[frame] &= ~BOOKS_BUSY;
}

static bool books_answer_eight(u64 *states)
{
	*states &= ~BOOKS_ALL(BOOKS_BUSY);
	return true;
}

void fake_books_give_pfn(unsigned long frame)
{
	books_one(frame, books_give_pfn);
}

void fake_books_take_pfn(unsigned long frame)
{
	books_one(frame, books_take_pfn);
}

void fake_books_give_range(struct page *page, unsigned long nr_pages)
{
	books_each(page, nr_pages, books.written, books_give_range,
		   books_give_range_eight);
}

void fake_books_lend(struct page *page, unsigned long nr_pages)
{
	books_each(page, nr_pages, books.written, books_lend, books_lend_eight);
}

void fake_books_answer_pfn(unsigned long frame)
{
	books_one(frame, books_answer);
}

void fake_books_answer_range(struct page *page, unsigned long nr_pages)
{
	books_each(page, nr_pages, NULL, books_answer, books_answer_eight);
}

static void books_forget_eight(unsigned long frame, u64 *states)
{
	unsigned long end = frame + BOOKS_EIGHT;

	for (; *states && frame < end; frame++) {
		u8 state = books.frame[frame];

		if (state & BOOKS_FREED)
			books_set_owner(frame, BOOKS_GUEST);
		else if (state & BOOKS_OWNER)
			books_set_owner(frame, BOOKS_LOST);
		books.frame[frame] &= ~(BOOKS_BUSY | BOOKS_FREED);
	}
}

/* All is the guest's. What the host had is lost until somebody frees it. */
void fake_books_reset(void)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&books.lock, flags);
	books_each_marked(books.written, books_forget_eight);
	raw_spin_unlock_irqrestore(&books.lock, flags);
}

/*
 * A page that could not move into the balloon stays with compaction, which may
 * make it somebody else's without a word to the allocator.
 */
static void books_find(unsigned long frame)
{
	struct page *page = pfn_to_page(frame / FRAMES_PER_PAGE);

	if (books_owner(frame) == BOOKS_LOST && page->mapping &&
	    !__PageMovable(page))
		books_set_owner(frame, BOOKS_GUEST);
}

/* Of what is lost, what others have by now is not. */
void fake_books_find(void)
{
	unsigned long frame;

	for (frame = 0; fake_books_count(BOOKS_LOST) && frame < books.nr_frames;
	     frame++)
		books_one(frame, books_find);
}

/* Looking ------------------------------------------------------------------- */

unsigned long fake_books_count(enum books_owner owner)
{
	return READ_ONCE(books.nr_owned[owner]);
}

/* Pages that this module has allocated and not freed; 0 if that is not known. */
unsigned long fake_books_own_pages(void)
{
	return READ_ONCE(books.nr_own) / FRAMES_PER_PAGE;
}

unsigned int fake_books_errors(const char **first, unsigned long *frame)
{
	*first = books.error;
	*frame = books.error_frame;
	return READ_ONCE(books.nr_errors);
}

static void books_unsee_eight(unsigned long frame, u64 *states)
{
	*states &= ~BOOKS_ALL(BOOKS_SEEN);
}

/*
 * An audit: the driver's own lists, block by block, against the books. They
 * agree when each block is where the books say, none is met twice, and the
 * books have no frame beyond those.
 */
void fake_books_audit_begin(void)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&books.lock, flags);
	books_each_marked(books.seen, books_unsee_eight);
	books.nr_audited = 0;
	books.audit_differs = false;
	raw_spin_unlock_irqrestore(&books.lock, flags);
}

void fake_books_audit(struct page *page, unsigned int order,
		      enum books_owner owner)
{
	unsigned long frame = page_to_pfn(page) * FRAMES_PER_PAGE;
	unsigned long end = frame + (FRAMES_PER_PAGE << order);
	unsigned long flags;

	raw_spin_lock_irqsave(&books.lock, flags);
	books_mark(books.seen, frame, end);
	for (; frame < end; frame++) {
		u8 state = books.frame[frame];

		if ((state & (BOOKS_OWNER | BOOKS_SEEN | BOOKS_FREED)) != owner)
			books.audit_differs = true;
		books.frame[frame] |= BOOKS_SEEN;
		books.nr_audited++;
	}
	raw_spin_unlock_irqrestore(&books.lock, flags);
}

bool fake_books_audit_differs(void)
{
	return books.audit_differs;
}

bool fake_books_audit_is_complete(void)
{
	return books.nr_audited ==
	       fake_books_count(BOOKS_PFN) + fake_books_count(BOOKS_RANGE);
}
