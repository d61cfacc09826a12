// SPDX-License-Identifier: GPL-2.0-only
/*
 * The tracepoints' bodies: here, so that balloon_trace.h can be used by rooms
 * that do not know the structs that others trace.
 */
#include <linux/math64.h>

#include "balloon_debug.h"
#include "balloon_guard.h"
#include "balloon_virtio.h"

/* Of use where the kernel has tracepoints. */
static u64 __maybe_unused vbal_batch_bytes(const struct vbal_batch *batch)
{
	u64 nr_bytes = (u64)batch->nr_pfns << VIRTIO_BALLOON_PFN_SHIFT;
	unsigned int i;

	for (i = 0; i < batch->nr_ranges; i++)
		nr_bytes += batch->sg[i].length;
	return nr_bytes;
}

#define CREATE_TRACE_POINTS
#include "balloon_trace.h"
