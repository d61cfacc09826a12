// SPDX-License-Identifier: GPL-2.0-only
/*
 * While this is loaded, free page reporting finds nothing to report.
 *
 * For tests and benches, which want to see what the balloon alone gives. Until
 * Linux 6.1 an order beyond the largest could be written to the parameter
 * page_reporting_order; since then the kernel refuses that, but exports the
 * variable. It holds back whichever driver has registered: the in-tree one
 * can only be held back from outside.
 */

#include <linux/mmzone.h>
#include <linux/module.h>

#ifndef MAX_PAGE_ORDER
#define MAX_PAGE_ORDER MAX_ORDER
#endif

extern unsigned int page_reporting_order;

static unsigned int order_before;

static int __init hold_reports_init(void)
{
	order_before = xchg(&page_reporting_order, MAX_PAGE_ORDER + 1);
	return 0;
}

static void __exit hold_reports_exit(void)
{
	WRITE_ONCE(page_reporting_order, order_before);
}

module_init(hold_reports_init);
module_exit(hold_reports_exit);
MODULE_DESCRIPTION("Lets free page reporting find nothing, for tests");
MODULE_LICENSE("GPL");
