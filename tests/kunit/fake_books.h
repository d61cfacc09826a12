/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Books of every frame: who has it, the guest or the host. Written by the host
 * as it reads buffers, and by the page allocator's own tracepoints as pages are
 * handed out and freed; the driver has no part in them. So a frame that is given
 * twice, taken without being given, or used again before the host's answer is
 * seen at that moment, and a page of this module that is never freed at the end.
 */
#ifndef _VBALLOON_FAKE_BOOKS_H
#define _VBALLOON_FAKE_BOOKS_H

#include <linux/mm_types.h>
#include <linux/types.h>

/**
 * enum books_owner - who has a frame
 * @BOOKS_GUEST: the guest
 * @BOOKS_PFN: the host, by number; the guest's again when the host was told
 * @BOOKS_RANGE: the host, by range; the guest's again when it is freed
 * @BOOKS_LOST: it was the host's until the reset, and was not freed since
 * @BOOKS_NR_OWNERS: number of owners
 */
enum books_owner {
	BOOKS_GUEST,
	BOOKS_PFN,
	BOOKS_RANGE,
	BOOKS_LOST,
	BOOKS_NR_OWNERS,
};

int fake_books_open(void);
void fake_books_close(void);
void fake_books_begin(void);

void fake_books_must_tell(bool must_tell);
void fake_books_give_pfn(unsigned long frame);
void fake_books_take_pfn(unsigned long frame);
void fake_books_give_range(struct page *page, unsigned long nr_pages);
void fake_books_lend(struct page *page, unsigned long nr_pages);
void fake_books_answer_pfn(unsigned long frame);
void fake_books_answer_range(struct page *page, unsigned long nr_pages);
void fake_books_reset(void);
void fake_books_find(void);

/* User mode Linux shows of a stack what looks like an address, in no certain depth. */
static inline bool fake_books_know_own(void)
{
	return !IS_ENABLED(CONFIG_UML);
}

unsigned long fake_books_count(enum books_owner owner);
unsigned long fake_books_own_pages(void);
unsigned int fake_books_errors(const char **first, unsigned long *frame);

void fake_books_audit_begin(void);
void fake_books_audit(struct page *page, unsigned int order,
		      enum books_owner owner);
bool fake_books_audit_differs(void);
bool fake_books_audit_is_complete(void);

#endif /* _VBALLOON_FAKE_BOOKS_H */
