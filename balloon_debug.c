// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is counted and timed: cheap enough to be always on. Calls nobody;
 * balloon_sysfs.c shows it.
 */
#include "balloon_debug.h"

#include <linux/bitops.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/string.h>

#include "balloon_trace.h"

/**
 * vbal_debug_init() - nothing counted yet
 * @d: what is counted, zeroed
 * @virtio: the N of virtioN
 *
 * Context: Probe.
 */
void vbal_debug_init(struct vbal_debug *d, int virtio)
{
	spin_lock_init(&d->lock);
	d->virtio = virtio;
}

/**
 * vbal_hist_add() - something took so long
 * @hist: the histogram
 * @duration_ns: how long
 *
 * Context: Any.
 */
void vbal_hist_add(struct vbal_hist *hist, u64 duration_ns)
{
	u64 us = div_u64(duration_ns, NSEC_PER_USEC);
	unsigned int bucket = min(fls64(us), VBAL_HIST_BUCKETS - 1);

	atomic_long_inc(&hist->nr[bucket]);
}

/**
 * vbal_debug_phase() - the size worker spent time with something
 * @d: what is counted
 * @phase: what with
 * @start_ns: since when, by ktime_get_ns()
 *
 * Context: Size worker.
 */
void vbal_debug_phase(struct vbal_debug *d, enum vbal_phase phase, u64 start_ns)
{
	u64 duration_ns = ktime_get_ns() - start_ns;

	d->phase_ns[phase] += duration_ns;
	if (phase == VBAL_PHASE_ALLOC)
		vbal_hist_add(&d->alloc, duration_ns);
}

/* The same target again, after a pause: still the same resize. */
static bool vbal_debug_continues(const struct vbal_resize_log *last,
				 const struct vbal_resize_log *log)
{
	return last->state != VBAL_STATE_AT_TARGET &&
	       last->target_frames == log->target_frames &&
	       last->to_pages == log->from_pages;
}

static void vbal_debug_merge(struct vbal_resize_log *last,
			     const struct vbal_resize_log *log)
{
	unsigned int phase;

	last->duration_ns = log->start_ns + log->duration_ns - last->start_ns;
	for (phase = 0; phase < VBAL_NR_PHASES; phase++)
		last->phase_ns[phase] += log->phase_ns[phase];
	last->nr_pauses++;
	last->to_pages = log->to_pages;
	last->state = log->state;
}

/* NULL: there is none yet. */
static struct vbal_resize_log *vbal_debug_last(struct vbal_debug *d)
{
	lockdep_assert_held(&d->lock);
	return d->nr_logs ? &d->log[(d->nr_logs - 1) % VBAL_NR_RESIZE_LOGS] :
			    NULL;
}

static void vbal_debug_log(struct vbal_debug *d,
			   const struct vbal_resize_log *log)
{
	struct vbal_resize_log *last;

	spin_lock(&d->lock);
	last = vbal_debug_last(d);
	if (last && vbal_debug_continues(last, log)) {
		vbal_debug_merge(last, log);
	} else {
		d->log[d->nr_logs % VBAL_NR_RESIZE_LOGS] = *log;
		d->nr_logs++;
	}
	spin_unlock(&d->lock);
}

static void vbal_debug_resize_begin(struct vbal_debug *d,
				    const struct vbal_moment *moment)
{
	d->start_ns = ktime_get_ns();
	d->from_pages = moment->held_pages;
	memset(d->phase_ns, 0, sizeof(d->phase_ns));
	trace_vbal_resize_begin(d->virtio, moment);
}

static void vbal_debug_resize_end(struct vbal_debug *d,
				  const struct vbal_moment *moment)
{
	struct vbal_resize_log log = {
		.start_ns = d->start_ns,
		.duration_ns = ktime_get_ns() - d->start_ns,
		.from_pages = d->from_pages,
		.to_pages = moment->held_pages,
		.target_frames = moment->target_frames,
		.state = moment->to,
	};

	memcpy(log.phase_ns, d->phase_ns, sizeof(log.phase_ns));
	d->start_ns = 0;
	vbal_debug_log(d, &log);
	vbal_hist_add(&d->resize, log.duration_ns);
	trace_vbal_resize_end(d->virtio, &log);
}

/**
 * vbal_debug_state() - the balloon's state changes
 * @d: what is counted
 * @moment: from what to what, and the balloon's size now
 *
 * A resize is what lies between two rests.
 *
 * Context: Size worker, or whoever has stopped it.
 */
void vbal_debug_state(struct vbal_debug *d, const struct vbal_moment *moment)
{
	trace_vbal_state(d->virtio, moment);
	if (d->start_ns)
		vbal_debug_resize_end(d, moment);
	if (moment->to == VBAL_STATE_INFLATING ||
	    moment->to == VBAL_STATE_DEFLATING)
		vbal_debug_resize_begin(d, moment);
}

/**
 * vbal_debug_logs() - the last resizes, oldest first
 * @d: what is counted
 * @log: receives VBAL_NR_RESIZE_LOGS entries at most
 *
 * Context: Process context.
 * Return: entries written.
 */
unsigned int vbal_debug_logs(struct vbal_debug *d, struct vbal_resize_log *log)
{
	unsigned int i, nr = 0;

	spin_lock(&d->lock);
	i = d->nr_logs - min_t(unsigned int, d->nr_logs, VBAL_NR_RESIZE_LOGS);
	for (; i < d->nr_logs; i++)
		log[nr++] = d->log[i % VBAL_NR_RESIZE_LOGS];
	spin_unlock(&d->lock);
	return nr;
}
