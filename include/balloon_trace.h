/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tracepoints, vballoon:*. docs/tracing.md shows what to ask them.
 *
 * @virtio is the N of virtioN. Sizes are bytes, so that nobody has to know the
 * guest's page size to read a trace.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM vballoon

#if !defined(_VBALLOON_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define _VBALLOON_TRACE_H

#include <linux/tracepoint.h>

struct vbal_batch;
struct vbal_moment;
struct vbal_resize_log;
struct vbal_signals;
struct vbal_verdict;
struct vbal_wire;

/* clang-format off */
#define vbal_show_queue(id) __print_symbolic(id,	\
	{ 0, "inflate" },				\
	{ 1, "deflate" },				\
	{ 2, "stats" },					\
	{ 3, "hint" },					\
	{ 4, "report" })

#define vbal_show_state(state) __print_symbolic(state,	\
	{ 0, "at-target" },				\
	{ 1, "inflating" },				\
	{ 2, "deflating" },				\
	{ 3, "held-by-floor" },				\
	{ 4, "held-by-pressure" },			\
	{ 5, "backing-off" },				\
	{ 6, "broken" })

TRACE_EVENT(vbal_state,

	TP_PROTO(int virtio, const struct vbal_moment *moment),

	TP_ARGS(virtio, moment),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(int, from)
		__field(int, to)
		__field(u64, held_bytes)
		__field(u64, target_bytes)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->from = moment->from;
		__entry->to = moment->to;
		__entry->held_bytes = vbal_pages_to_bytes(moment->held_pages);
		__entry->target_bytes =
			vbal_frames_to_bytes(moment->target_frames);
	),

	TP_printk("virtio%d from=%s to=%s held_bytes=%llu target_bytes=%llu",
		  __entry->virtio, vbal_show_state(__entry->from),
		  vbal_show_state(__entry->to), __entry->held_bytes,
		  __entry->target_bytes)
);

TRACE_EVENT(vbal_resize_begin,

	TP_PROTO(int virtio, const struct vbal_moment *moment),

	TP_ARGS(virtio, moment),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u64, held_bytes)
		__field(u64, target_bytes)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->held_bytes = vbal_pages_to_bytes(moment->held_pages);
		__entry->target_bytes =
			vbal_frames_to_bytes(moment->target_frames);
	),

	TP_printk("virtio%d held_bytes=%llu target_bytes=%llu",
		  __entry->virtio, __entry->held_bytes, __entry->target_bytes)
);

TRACE_EVENT(vbal_resize_end,

	TP_PROTO(int virtio, const struct vbal_resize_log *log),

	TP_ARGS(virtio, log),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u64, held_bytes)
		__field(u64, target_bytes)
		__field(u64, duration_us)
		__field(int, state)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->held_bytes = vbal_pages_to_bytes(log->to_pages);
		__entry->target_bytes =
			vbal_frames_to_bytes(log->target_frames);
		__entry->duration_us = div_u64(log->duration_ns, NSEC_PER_USEC);
		__entry->state = log->state;
	),

	TP_printk("virtio%d held_bytes=%llu target_bytes=%llu duration_us=%llu state=%s",
		  __entry->virtio, __entry->held_bytes, __entry->target_bytes,
		  __entry->duration_us, vbal_show_state(__entry->state))
);

TRACE_EVENT(vbal_batch_submit,

	TP_PROTO(const struct vbal_wire *wire, const struct vbal_batch *batch),

	TP_ARGS(wire, batch),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(int, queue)
		__field(const void *, batch)
		__field(unsigned int, nr_pfns)
		__field(unsigned int, nr_ranges)
		__field(u64, bytes)
	),

	TP_fast_assign(
		__entry->virtio = wire->vdev->index;
		__entry->queue = batch->id;
		__entry->batch = batch;
		__entry->nr_pfns = batch->nr_pfns;
		__entry->nr_ranges = batch->nr_ranges;
		__entry->bytes = vbal_batch_bytes(batch);
	),

	TP_printk("virtio%d queue=%s batch=%p bytes=%llu nr_pfns=%u nr_ranges=%u",
		  __entry->virtio, vbal_show_queue(__entry->queue),
		  __entry->batch, __entry->bytes, __entry->nr_pfns,
		  __entry->nr_ranges)
);

TRACE_EVENT(vbal_batch_ack,

	TP_PROTO(const struct vbal_wire *wire, const struct vbal_batch *batch,
		 u64 latency_us),

	TP_ARGS(wire, batch, latency_us),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(int, queue)
		__field(const void *, batch)
		__field(u64, bytes)
		__field(u64, latency_us)
	),

	TP_fast_assign(
		__entry->virtio = wire->vdev->index;
		__entry->queue = batch->id;
		__entry->batch = batch;
		__entry->bytes = vbal_batch_bytes(batch);
		__entry->latency_us = latency_us;
	),

	TP_printk("virtio%d queue=%s batch=%p bytes=%llu latency_us=%llu",
		  __entry->virtio, vbal_show_queue(__entry->queue),
		  __entry->batch, __entry->bytes, __entry->latency_us)
);

DECLARE_EVENT_CLASS(vbal_block,

	TP_PROTO(unsigned long pfn, unsigned int order),

	TP_ARGS(pfn, order),

	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned int, order)
	),

	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->order = order;
	),

	TP_printk("pfn=0x%lx order=%u", __entry->pfn, __entry->order)
);

DEFINE_EVENT(vbal_block, vbal_block_alloc,
	     TP_PROTO(unsigned long pfn, unsigned int order),
	     TP_ARGS(pfn, order));

DEFINE_EVENT(vbal_block, vbal_block_free,
	     TP_PROTO(unsigned long pfn, unsigned int order),
	     TP_ARGS(pfn, order));

TRACE_EVENT(vbal_page_move,

	TP_PROTO(unsigned long pfn, unsigned long to_pfn),

	TP_ARGS(pfn, to_pfn),

	TP_STRUCT__entry(
		__field(unsigned long, pfn)
		__field(unsigned long, to_pfn)
	),

	TP_fast_assign(
		__entry->pfn = pfn;
		__entry->to_pfn = to_pfn;
	),

	TP_printk("pfn=0x%lx to_pfn=0x%lx", __entry->pfn, __entry->to_pfn)
);

TRACE_EVENT(vbal_block_fallback,

	TP_PROTO(unsigned int order),

	TP_ARGS(order),

	TP_STRUCT__entry(
		__field(unsigned int, order)
	),

	TP_fast_assign(
		__entry->order = order;
	),

	TP_printk("no block of order=%u", __entry->order)
);

TRACE_EVENT(vbal_block_split,

	TP_PROTO(unsigned int order),

	TP_ARGS(order),

	TP_STRUCT__entry(
		__field(unsigned int, order)
	),

	TP_fast_assign(
		__entry->order = order;
	),

	TP_printk("order=%u", __entry->order)
);

TRACE_EVENT(vbal_guard,

	TP_PROTO(int virtio, const struct vbal_signals *s,
		 unsigned long want_pages, const struct vbal_verdict *v,
		 unsigned long reserve_pages),

	TP_ARGS(virtio, s, want_pages, v, reserve_pages),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u64, want_bytes)
		__field(u64, grant_bytes)
		__field(u64, give_back_bytes)
		__field(u64, available_bytes)
		__field(u64, free_bytes)
		__field(u64, reserve_bytes)
		__field(int, state)
		__field(unsigned int, retry_ms)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->want_bytes = (u64)want_pages << PAGE_SHIFT;
		__entry->grant_bytes = (u64)v->grant_pages << PAGE_SHIFT;
		__entry->give_back_bytes = (u64)v->give_back_pages << PAGE_SHIFT;
		__entry->available_bytes = (u64)s->avail_pages << PAGE_SHIFT;
		__entry->free_bytes = (u64)s->free_pages << PAGE_SHIFT;
		__entry->reserve_bytes = (u64)reserve_pages << PAGE_SHIFT;
		__entry->state = v->give_back_pages ? VBAL_STATE_DEFLATING :
				 v->grant_pages ? VBAL_STATE_INFLATING :
				 v->state;
		__entry->retry_ms = v->retry_ms;
	),

	TP_printk("virtio%d want_bytes=%llu grant_bytes=%llu give_back_bytes=%llu available_bytes=%llu free_bytes=%llu reserve_bytes=%llu state=%s retry_ms=%u",
		  __entry->virtio, __entry->want_bytes, __entry->grant_bytes,
		  __entry->give_back_bytes, __entry->available_bytes,
		  __entry->free_bytes, __entry->reserve_bytes,
		  vbal_show_state(__entry->state), __entry->retry_ms)
);

TRACE_EVENT(vbal_oom,

	TP_PROTO(int virtio, unsigned long give_back_pages),

	TP_ARGS(virtio, give_back_pages),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u64, give_back_bytes)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->give_back_bytes = (u64)give_back_pages << PAGE_SHIFT;
	),

	TP_printk("virtio%d give_back_bytes=%llu",
		  __entry->virtio, __entry->give_back_bytes)
);

DECLARE_EVENT_CLASS(vbal_hint_round,

	TP_PROTO(int virtio, u32 round_id, u32 host_id, unsigned long nr_pages),

	TP_ARGS(virtio, round_id, host_id, nr_pages),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u32, round_id)
		__field(u32, host_id)
		__field(u64, hinted_bytes)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->round_id = round_id;
		__entry->host_id = host_id;
		__entry->hinted_bytes = (u64)nr_pages << PAGE_SHIFT;
	),

	TP_printk("virtio%d round_id=0x%x host_id=0x%x total_hinted_bytes=%llu",
		  __entry->virtio, __entry->round_id, __entry->host_id,
		  __entry->hinted_bytes)
);

DEFINE_EVENT(vbal_hint_round, vbal_hint_round_begin,
	     TP_PROTO(int virtio, u32 round_id, u32 host_id,
		      unsigned long nr_pages),
	     TP_ARGS(virtio, round_id, host_id, nr_pages));

DEFINE_EVENT(vbal_hint_round, vbal_hint_round_end,
	     TP_PROTO(int virtio, u32 round_id, u32 host_id,
		      unsigned long nr_pages),
	     TP_ARGS(virtio, round_id, host_id, nr_pages));

TRACE_EVENT(vbal_report,

	TP_PROTO(int virtio, unsigned long nr_pages,
		 u64 latency_us, int error),

	TP_ARGS(virtio, nr_pages, latency_us, error),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(u64, bytes)
		__field(u64, latency_us)
		__field(int, error)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->bytes = (u64)nr_pages << PAGE_SHIFT;
		__entry->latency_us = latency_us;
		__entry->error = error;
	),

	TP_printk("virtio%d bytes=%llu latency_us=%llu error=%d",
		  __entry->virtio, __entry->bytes, __entry->latency_us,
		  __entry->error)
);

TRACE_EVENT(vbal_stats_sent,

	TP_PROTO(int virtio, int error),

	TP_ARGS(virtio, error),

	TP_STRUCT__entry(
		__field(int, virtio)
		__field(int, error)
	),

	TP_fast_assign(
		__entry->virtio = virtio;
		__entry->error = error;
	),

	TP_printk("virtio%d error=%d", __entry->virtio, __entry->error)
);
/* clang-format on */

#endif /* _VBALLOON_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE balloon_trace
#include <trace/define_trace.h>
