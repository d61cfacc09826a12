/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The driver's protocol with its host, for Spin: who has which frame, who waits
 * for whom, and how it ends. docs/model.md says which function of the driver each
 * part stands for, what is left out, and why.
 *
 * Instances are made by macros, as tests/run/model has them:
 *	MUST_TELL	MUST_TELL_HOST was negotiated
 *	RANGE		blocks may travel as ranges as well
 *	NR_TARGETS	so often the host asks for something else
 *	NR_OOM		so often the guest runs out of memory (DEFLATE_ON_OOM)
 *	NR_MOVES	so many held pages make way
 *	NR_REPORTS	so many free page reports
 *	NR_BREAKS	so often the device breaks
 *	NR_SILENCES	so often the host says nothing any more, until a reset
 *	NR_SLEEPS	so often the guest sleeps and wakes up
 *	UNPLUG, REBOOT	the end may come at any moment
 * M_* are mutants: each breaks one promise, and has to be found.
 */
#ifndef NR_FRAMES
#define NR_FRAMES 3
#endif
#ifndef NR_BATCHES
#define NR_BATCHES 2
#endif
#ifndef NR_TARGETS
#define NR_TARGETS 0
#endif
#ifndef NR_OOM
#define NR_OOM 0
#endif
#ifndef NR_MOVES
#define NR_MOVES 0
#endif
#ifndef NR_REPORTS
#define NR_REPORTS 0
#endif
#ifndef NR_BREAKS
#define NR_BREAKS 0
#endif
#ifndef NR_SILENCES
#define NR_SILENCES 0
#endif
#ifndef NR_SLEEPS
#define NR_SLEEPS 0
#endif

#if NR_BREAKS || NR_SILENCES || NR_SLEEPS || defined(UNPLUG) || defined(REBOOT)
#define LIFE
#endif

#define ALL ((1 << NR_FRAMES) - 1)
#define NOTHING NR_FRAMES
#define has(set, f) (((set) >> (f)) & 1)
#define add(set, f) set = (set) | (1 << (f))
#define drop(set, f) set = (set) & ~(1 << (f))

/* A property that fails is named by Spin in what it prints. */
#define must(name, what) assert((what) || name)
hidden byte discard_hits_driver;	/* the host discards only what the guest does not use */
hidden byte told_before_use;		/* MUST_TELL_HOST; and never used without a word */
hidden byte given_once;			/* no frame is given, or freed, twice */
hidden byte in_order;			/* the host sees gives and takes by turns */
hidden byte nothing_is_lost;		/* what is left of no connection is the guest's */
hidden byte actual_is_true;		/* at rest actual is what is held, and that is the target */

/* ---- the device ---- */

#define INFLATE 0
#define DEFLATE 1
#define REPORT 2

/* Buffers, by their owners; each carries one frame. A move has two, in two slots. */
#define W0 0
#define OOM_BUF 2
#define GIVE0 3
#define TAKE0 4
#define GIVE1 5
#define TAKE1 6
#define REPORT_BUF 7
#define NR_BUFS 8

bool sent[NR_BUFS];	/* vbal_token.nr_pending: the host has it */
byte queue[NR_BUFS];
byte frame[NR_BUFS];

byte host_has;		/* frames that the host counts as ballooned */
byte told;		/* frames of which a deflate request is on its way, or was read */
byte target = NR_FRAMES - 1;	/* config space: num_pages */
byte actual;		/* config space: actual */
bool dev_on = true;		/* DRIVER_OK is set, the device may touch memory */
bool broken;		/* a queue broke, or NEEDS_RESET */
bool silent;		/* the host reads and answers nothing */

/* ---- the guest ---- */

byte drv;		/* frames that the driver has; the rest is the guest's, but ... */
byte reported;		/* frames that the kernel keeps isolated for a report */
#define guests (ALL & ~(drv | reported))

/* ---- the driver: life ---- */

#define DOWN 0
#define STARTING 1
#define UP 2
#define STOPPING 3
#define RESETTING 4
#define DEAD 5
#define GONE 6

byte life = UP;
#define is_up (life == UP)
#define may_submit (life == STARTING || life == UP || life == STOPPING)
#define is_over (life == DEAD || life == DOWN || life == GONE)
#define usable (may_submit && !broken)

bool life_lock, dev_lock, move_lock, oom_lock;
bool recover_queued, recover_runs, recover_ends;

/* ---- the driver: size ---- */

byte held_pfn, held_range;	/* the bags */
byte nr_held;			/* vbal_pages.nr_held */
byte isolated;			/* with compaction */
byte oldest, nr_busy;		/* busy_batches: nr_busy from oldest on, by turns */
byte blocks[2] = NOTHING;			/* vbal_batch.blocks of the worker's batches */
byte oom_block = NOTHING;			/* and of the OOM notifier's */
bool oom_unsent;
bool wake = true, worker_runs;		/* size->work is queued; it runs */
byte actual_written;		/* vbal_wire.actual_frames */
bool actual_known;
bool registered = true, report_runs;
byte slot_old[2], slot_new[2];

/* ---- what is still to happen ---- */
byte targets_left = NR_TARGETS;
byte breaks_left = NR_BREAKS;
byte silences_left = NR_SILENCES;
bool ending, ended;		/* somebody wants the device to go; it went */
bool sleeping;

/* Buffers of a queue that the host has: vbal_vq.nr_in_flight. */
#define on_way(b, q) (sent[b] && queue[b] == (q))
#define batches_in(q) (on_way(0, q) || on_way(1, q) || on_way(OOM_BUF, q))
#define in_flight(q) (batches_in(q) || on_way(GIVE0, q) || on_way(GIVE1, q) || \
		      on_way(TAKE0, q) || on_way(TAKE1, q) || on_way(REPORT_BUF, q))

/* ================= the host ================= */

/* The device reads a buffer: from here on, and not before, it is done. */
inline host_reads(b)
{
	if
	:: queue[b] == DEFLATE ->
		must(in_order, broken || has(host_has, frame[b]));
		drop(host_has, frame[b])
	:: else ->
		must(discard_hits_driver, has(drv | reported, frame[b]));
		if
		:: queue[b] == INFLATE ->
			must(in_order, broken || !has(host_has, frame[b]));
			add(host_has, frame[b]);
			drop(told, frame[b])
		:: else
		fi
	fi
}

/*
 * Buffers are read in any order. An answer is seen by whoever looks, since all who
 * look reap first. A broken queue still reads, but nobody sees an answer of it.
 */
#define HOST(b)                                                               \
	:: atomic { sent[b] && dev_on && !silent ->                           \
		host_reads(b);                                                \
		if :: !broken -> sent[b] = false; :: else fi }

/* vbal_size_wake() */
inline size_wake()
{
	atomic { if :: is_up -> wake = true :: else fi }
}

active proctype host()
{
end:	do
	HOST(0)
	HOST(1)
#if NR_OOM
	HOST(OOM_BUF)
#endif
#if NR_MOVES
	HOST(GIVE0)
	HOST(GIVE1)
	HOST(TAKE0)
	HOST(TAKE1)
#endif
#if NR_REPORTS
	HOST(REPORT_BUF)
#endif
#if NR_TARGETS
	/* An interrupt: vbal_config_changed(). */
	:: atomic { targets_left > 0 -> targets_left--;
		if
		:: target = 0
		:: target = 1
		:: target = NR_FRAMES - (NR_MOVES > 0)
		fi;
		size_wake() }
#endif
#if NR_BREAKS
	:: atomic { breaks_left > 0 && dev_on && !broken ->
		breaks_left--; broken = true; size_wake() }
#endif
#if NR_SILENCES
	:: atomic { silences_left > 0 && dev_on && !silent ->
		silences_left--; silent = true }
#endif
	od
}

/* ================= balloon_virtio.c ================= */

inline device_reset()
{
	dev_on = false; host_has = 0; told = 0; actual = 0; silent = false
}

/* vbal_wire_kill(): the one reset; nobody goes on before it is over. */
inline wire_kill()
{
#ifdef LIFE
	atomic {
		killer = may_submit; from = life;
		if :: killer -> life = RESETTING :: else fi
	}
	if
	:: killer ->
		atomic {
			device_reset();
			life = DEAD;
#ifndef M_BROKE_UNTOLD
			if :: from == UP && !recover_ends -> recover_queued = true
			:: else fi
#endif
		}
	:: else -> life != RESETTING
	fi
#else
	skip
#endif
}

#ifdef M_WAIT_NO_RESET
#define reset_helps usable
#else
#define reset_helps true
#endif

/* The host was silent for so long that it is taken for broken: any wait can be that long. */
#ifdef M_STOP_UNBOUNDED
#define given_up(bounded) ((bounded) && usable)
#else
#define given_up(bounded) (((bounded) || life == STOPPING) && usable)
#endif

/* vbal_vq_wait(), vbal_vq_wait_bounded(); sets @ok. */
inline vq_wait(cond, bounded)
{
#ifdef LIFE
	if
	:: cond -> ok = true
	:: !(cond) && (!usable || given_up(bounded)) ->
		if :: reset_helps -> wire_kill() :: else fi;
		ok = (cond)
	fi
#else
	cond; ok = true
#endif
}

/* vbal_wire_submit(), one buffer; sets @ok. */
inline wire_submit(b, q, f)
{
	atomic {
		ok = usable;
		if
		:: ok -> sent[b] = true; queue[b] = q; frame[b] = f;
			if :: q == DEFLATE -> add(told, f) :: else fi
		:: else
		fi
	}
}

/* vbal_wire_set_actual() */
inline set_actual(n)
{
	atomic {
		if
		:: may_submit && !(actual_known && actual_written == n) ->
			actual_written = n; actual = n; actual_known = true
		:: else
		fi
	}
}

/* ================= balloon_pages.c ================= */

inline frame_alloc(f)
{
	if
	:: has(guests, 0) -> f = 0
	:: has(guests, 1) -> f = 1
#if NR_FRAMES > 2
	:: has(guests, 2) -> f = 2
#endif
	:: guests == 0 -> f = NOTHING
	fi;
	if :: f != NOTHING -> add(drv, f) :: else fi
}

/* Never held: vbal_pages_discard(). */
inline frame_discard(f)
{
	must(given_once, has(drv, f)); drop(drv, f)
}

/* vbal_pages_free() */
inline frame_free(f)
{
	atomic {
		must(given_once, has(drv, f));
		must(told_before_use, !has(host_has, f) || has(told, f));
#ifdef MUST_TELL
		must(told_before_use, !has(host_has, f));
#endif
		drop(drv, f);
		nr_held--
	}
}

inline bag_put(f, q)
{
	must(given_once, !has(held_pfn | held_range, f));
	if :: q == REPORT -> add(held_range, f) :: else -> add(held_pfn, f) fi
}

/* One of @those, which are of @bag. */
inline bag_pick_of(bag, those, f)
{
	if
	:: has(those, 0) -> f = 0
	:: has(those, 1) -> f = 1
#if NR_FRAMES > 2
	:: has(those, 2) -> f = 2
#endif
	:: (those) == 0 -> f = NOTHING
	fi;
	if :: f != NOTHING -> drop(bag, f) :: else fi
}

#define bag_pick(bag, f) bag_pick_of(bag, bag, f)

/* vbal_move_withhold(): what the host has still to see */
#if NR_MOVES && !defined(M_PICK_ANY)
#define kept(s) (sent[GIVE0 + 2 * (s)] -> 1 << slot_new[s] : 0)
#define may_leave(bag) ((bag) & (is_over -> ALL : ALL & ~(kept(0) | kept(1))))
#else
#define may_leave(bag) (bag)
#endif

/* Within an atomic step: what may leave is looked at once. */
hidden byte leaving;
inline bag_pick_seen(bag, f)
{
	leaving = may_leave(bag);
	bag_pick_of(bag, leaving, f)
}

/* ================= balloon_size.c ================= */

/* vbal_collect(), the oldest batch */
inline collect()
{
	atomic {
		if
		:: queue[oldest] == DEFLATE ->
			if :: blocks[oldest] != NOTHING -> frame_free(blocks[oldest]) :: else fi
		:: else ->
			bag_put(blocks[oldest], queue[oldest]);
			nr_held++
		fi;
		blocks[oldest] = NOTHING;
		oldest = (oldest + 1) % NR_BATCHES;
		nr_busy--
	}
}

inline collect_oldest()
{
#ifdef M_HOLD_UNACKED
	ok = true;
#else
	vq_wait(!sent[oldest], false);
#endif
	if :: ok -> collect() :: else fi
}

/* vbal_collect_all(); sets @ok */
inline collect_all()
{
	ok = true;
	do
	:: ok && nr_busy > 0 -> collect_oldest()
	:: else -> break
	od
}

/* vbal_get_batch(): sets @b, @ok */
inline get_batch()
{
	ok = true;
	do
	:: ok && nr_busy > 0 && (!sent[oldest] || nr_busy == NR_BATCHES) -> collect_oldest()
	:: else -> break
	od;
	b = (oldest + nr_busy) % NR_BATCHES
}

/* vbal_send(); sets @ok */
inline send(q, f)
{
	atomic { blocks[b] = f; queue[b] = q; nr_busy++ }
	wire_submit(b, q, f);
	if :: !ok -> wire_kill() :: else fi
}

/* Held, and on the way in, less what is on its way out: what step() compares. */
#define out_now(b) (nr_busy > (((b) + NR_BATCHES - oldest) % NR_BATCHES) && \
		    blocks[b] != NOTHING)
#define busy_in(b) (out_now(b) && queue[b] != DEFLATE)
#define busy_out(b) (out_now(b) && queue[b] == DEFLATE)
#if NR_BATCHES == 2
#define have (nr_held + busy_in(0) + busy_in(1) - busy_out(0) - busy_out(1))
#else
#define have (nr_held + busy_in(0) - busy_out(0))
#endif

#define AGAIN 1		/* 1: on at once */
#define REST 0		/* 0: at the target */
#define FAILED 2	/* -EIO */
#define PAUSE 3		/* -ENOMEM, -EAGAIN, -EBUSY: later, by another work */

/*
 * vbal_inflate(); sets @res. What is on its way back may be what was just allocated:
 * it was in the deflate queue before it was free.
 */
inline inflate()
{
#ifdef M_NO_DRAIN
	ok = true;
#else
	vq_wait(!in_flight(DEFLATE), false);
#endif
	if :: ok -> get_batch() :: else fi;
	if
	:: !ok -> res = FAILED
	:: else ->
		atomic { frame_alloc(f) }
		if
		:: f == NOTHING -> res = PAUSE
		:: else ->
#if !defined(M_DRAIN_EARLY) && !defined(M_NO_DRAIN)
			vq_wait(!in_flight(DEFLATE), false);
#endif
			if
			:: !ok -> frame_discard(f); res = FAILED
			:: else ->
				way = INFLATE;
#ifdef RANGE
				if :: way = REPORT :: true fi;
#endif
				send(way, f);
				res = (ok -> AGAIN : FAILED)
			fi
		fi
	fi
}

/* vbal_pick(): sets @f */
inline pick()
{
	atomic { !move_lock -> move_lock = true }
	atomic {
		if
		:: way == REPORT -> bag_pick_seen(held_range, f)
		:: else -> bag_pick_seen(held_pfn, f)
		fi;
		move_lock = false
	}
}

/* vbal_deflate_by(): what is picked; sets @f, @ok */
inline deflate_by()
{
	f = NOTHING;
	ok = true;
	if :: way == DEFLATE -> get_batch() :: else -> skip fi;
	if :: ok -> pick() :: else -> skip fi
}

/* vbal_deflate(); sets @res. What travelled by range goes without a word. */
inline deflate()
{
	way = (held_range -> REPORT : DEFLATE);
	deflate_by();
	if
	:: ok && f == NOTHING && way == REPORT && held_pfn -> way = DEFLATE; deflate_by()
	:: else
	fi;
#if NR_MOVES
	/* vbal_move_wait() */
	if
	:: ok && f == NOTHING ->
		vq_wait(!sent[GIVE0], false);
		if :: ok -> vq_wait(!sent[GIVE1], false) :: else fi
	:: else
	fi;
#endif
	if
	:: !ok -> res = FAILED
	:: ok && f == NOTHING -> res = PAUSE	/* -EBUSY */
	:: ok && f != NOTHING && way == REPORT -> frame_free(f); res = AGAIN
	:: ok && f != NOTHING && way == DEFLATE ->
		send(DEFLATE, f);
		res = (ok -> AGAIN : FAILED);
#if !defined(MUST_TELL) || defined(M_FREE_UNTOLD)
		if
		:: ok -> atomic { frame_free(f); blocks[b] = NOTHING }
		:: else
		fi
#endif
	fi
}

/* vbal_step() */
inline step()
{
	if
	:: target > have -> inflate()
	:: target < have ->
		/* Only what has been acknowledged can be taken back. */
		collect_all();
		if :: ok -> deflate() :: else -> res = FAILED fi
	:: else -> res = REST
	fi
}

#ifdef M_OOM_FREES_EARLY
#define oom_over (is_over || life == RESETTING)
#else
#define oom_over is_over
#endif

/* vbal_oom_finish_locked(): what was read is the guest's, and all of a device that is over */
inline oom_finish_locked()
{
	if
	:: oom_unsent && !is_over ->
		wire_submit(OOM_BUF, DEFLATE, oom_block); oom_unsent = !ok
	:: else
	fi;
	atomic {
		if
		:: oom_block != NOTHING && (oom_over || (!oom_unsent && !sent[OOM_BUF])) ->
			frame_free(oom_block); oom_block = NOTHING
		:: else
		fi
	}
}

/* vbal_oom_finish(): trylock */
inline oom_finish()
{
#if NR_OOM
	if
	:: atomic { !oom_lock -> oom_lock = true }
		oom_finish_locked();
		oom_lock = false
	:: oom_lock
	fi
#else
	skip
#endif
}

/* vbal_size_work_fn() */
active proctype worker()
{
	byte b, f, res, from, way;
	bool ok, killer;

end:	do
	:: atomic { wake ->
		worker_runs = true;
#ifndef M_LOST_WAKE
		wake = false
#endif
	   }
		if
		:: !is_up
		:: is_up && broken -> wire_kill()
		:: is_up && !broken ->
			oom_finish();
			do
			:: step();
				atomic { b = 0; f = 0; way = 0;
					if
					:: res != AGAIN || !is_up -> break
					:: res == AGAIN && is_up -> res = 0
					/* the slice is over, after a step at least */
					:: res == AGAIN && is_up -> break
					fi }
			od;
#ifdef M_ACTUAL_EARLY
			set_actual(nr_held);
#endif
			if
			:: res != FAILED -> collect_all();
				if :: !ok -> res = FAILED :: else fi
			:: else
			fi;
#ifndef M_ACTUAL_EARLY
			set_actual(nr_held);
#endif
#ifdef M_LOST_WAKE
			wake = false;
#endif
			if :: res == AGAIN || res == PAUSE -> size_wake() :: else fi
		fi;
		atomic {
			b = 0; f = 0; res = 0; from = 0; way = 0; ok = false; killer = false;
			worker_runs = false
		}
	od
}

/* ================= the OOM notifier ================= */
#if NR_OOM
#ifdef M_OOM_PICK_ANY
#define oom_pick bag_pick
#else
#define oom_pick bag_pick_seen
#endif
#define oom_may_wait (life == UP || life == RESETTING || life == DEAD)

/* vbal_oom_deflate(): ranges first, as vbal_pages_choose() says; @dead is asked each time */
inline oom_deflate()
{
	do
	:: nr_freed < 2 ->
		f = NOTHING;
		dead = is_over;
		atomic {
			oom_pick(held_range, f);
			if :: f == NOTHING && dead -> oom_pick(held_pfn, f) :: else fi
		}
		if
		:: f != NOTHING -> atomic { frame_free(f); f = 0; nr_freed++ }; goto next
		:: f == NOTHING && dead -> break
		:: else
		fi;
		/* vbal_oom_room(): what was sent before has to be read */
		oom_finish_locked();
		atomic {
			f = NOTHING;
			if
			:: oom_block == NOTHING && !sent[OOM_BUF] -> oom_pick(held_pfn, f)
			:: else
			fi
		}
		if
		:: f == NOTHING -> break
		:: else
		fi;
		oom_block = f;
		if
		:: wire_submit(OOM_BUF, DEFLATE, f)
		:: ok = false		/* -ENOSPC */
		fi;
		oom_unsent = !ok;
		if :: !ok -> break :: else fi;
#if defined(MUST_TELL) && !defined(M_OOM_NO_WAIT)
		if
		:: !sent[OOM_BUF]
		:: true -> break	/* the second is over */
		fi;
#endif
		atomic { frame_free(f); oom_block = NOTHING; nr_freed++ }
next:		skip
	:: else -> break
	od
}

active proctype oom()
{
	byte n = NR_OOM, f, nr_freed;
	bool ok, dead;

	do
	:: n > 0 ->
		n--;
		if
		/* vbal_oom_relieve(); trylocks end with the second that it has */
		:: atomic { !oom_lock -> oom_lock = true }
			if
			:: !oom_may_wait
			:: oom_may_wait ->
				oom_finish_locked();
				if
				:: atomic { life != RESETTING && !move_lock -> move_lock = true }
				oom_deflate();
				move_lock = false
				:: true
				fi
			fi;
			oom_lock = false
		:: true
		fi;
		atomic {
#ifndef M_OOM_NO_WAKE
			size_wake();
#endif
			f = 0; ok = false; dead = false; nr_freed = 0
		}
	:: else -> break
	od
}

#endif

/* ================= balloon_move.c, and compaction ================= */
#if NR_MOVES
#define slot_free(s) (!sent[GIVE0 + 2 * (s)] && !sent[TAKE0 + 2 * (s)])
#ifdef M_MOVE_NO_MAY_GIVE
#define may_give(g) true
#else
#define takes(s, g) (sent[TAKE0 + 2 * (s)] && slot_old[s] == (g))
#define may_give(g) (!batches_in(DEFLATE) && !takes(0, g) && !takes(1, g))
#endif
#ifdef M_MOVE_NO_MAY_TAKE
#define may_take(f) true
#else
#define gives(s, f) (sent[GIVE0 + 2 * (s)] && slot_new[s] == (f))
#define may_take(f) (!gives(0, f) && !gives(1, f))
#endif

/* vbal_move_exchange(); sets @ok */
inline move_exchange()
{
	s = (slot_free(0) -> 0 : 1);
	ok = is_up && slot_free(s) && may_give(g) && may_take(f);
	if
	:: ok ->
		/* both or none */
		atomic {
			wire_submit(GIVE0 + 2 * s, (by_range -> REPORT : INFLATE), g);
			if
			:: ok ->
				slot_new[s] = g;
				if
				:: !by_range ->
					slot_old[s] = f;
					wire_submit(TAKE0 + 2 * s, DEFLATE, f)
				:: else
				fi
			:: else
			fi
		}
#if defined(MUST_TELL) && !defined(M_MOVE_NO_TELL)
		if :: ok -> vq_wait(!sent[TAKE0 + 2 * s], true) :: else fi
#endif
	:: else
	fi
}

active proctype compaction()
{
	byte n = NR_MOVES, f, g, s, from;
	bool ok, by_range, killer;

	do
	:: n > 0 ->
		n--;
		/* the core isolates a page, and takes a new one */
		atomic {
			f = NOTHING;
			by_range = (held_range -> true : false);
			if
			:: by_range -> bag_pick(held_range, f)
			:: else -> bag_pick(held_pfn, f)
			fi;
			if
			:: f != NOTHING -> frame_alloc(g);
				if
				:: g == NOTHING -> bag_put(f, (by_range -> REPORT : INFLATE));
					f = NOTHING
				:: else -> add(isolated, f)
				fi
			:: else
			fi
		}
		if
		:: f == NOTHING
		:: f != NOTHING ->
			ok = false;
			if
			:: atomic { !move_lock -> move_lock = true }
				move_exchange();
				move_lock = false
			:: move_lock
			fi;
			atomic {
				drop(isolated, f);
				if
				:: ok ->
					/* vbal_pages_migrated(): @g is held for @f */
					bag_put(g, (by_range -> REPORT : INFLATE));
					nr_held++;
					frame_free(f)
				:: else ->
					bag_put(f, (by_range -> REPORT : INFLATE));
					frame_discard(g)
				fi
			}
		fi;
		f = 0; g = 0; s = 0; from = 0; ok = false; by_range = false; killer = false
	:: else -> break
	od
}
#endif

/* ================= free page reporting ================= */
#if NR_REPORTS
/* The kernel's work: the pages are its own until vbal_report_pages() returns. */
active proctype reporting()
{
	byte n = NR_REPORTS, f, from;
	bool ok, killer;

end:	do
	:: atomic { n > 0 && registered -> n--; report_runs = true;
		frame_alloc(f);
		if
		:: f != NOTHING -> drop(drv, f); add(reported, f)
		:: else
		fi }
		if
		:: f != NOTHING ->
			wire_submit(REPORT_BUF, REPORT, f);
			if
			:: !ok -> wire_kill()
#ifndef M_REPORT_NO_WAIT
			:: ok -> vq_wait(!sent[REPORT_BUF], false)
#else
			:: ok
#endif
			fi;
			drop(reported, f)
		:: else
		fi;
		atomic { report_runs = false; f = 0; from = 0; ok = false; killer = false }
	od
}
#endif

/* ================= balloon_main.c ================= */

inline all_idle()
{
	sent[0] = false; sent[1] = false; sent[OOM_BUF] = false;
	sent[GIVE0] = false; sent[GIVE1] = false;
	sent[TAKE0] = false; sent[TAKE1] = false; sent[REPORT_BUF] = false
}

#ifdef LIFE
/* vbal_size_stop(), vbal_report_stop() */
inline stop_services()
{
	registered = false;
	!report_runs;
	wake = false;
#ifndef M_STOP_NO_SYNC
	!worker_runs;
#endif
	wake = false;
	!oom_lock;
	!move_lock;
}

/* vbal_size_give_back() */
inline give_back()
{
	collect_all();
	do
	:: ok && nr_held > 0 ->
		if
		:: held_pfn || held_range -> deflate(); ok = (res != FAILED)
		:: else -> vq_wait(!in_flight(DEFLATE), false); oom_finish()
		fi;
		if :: ok -> collect_all() :: else fi
	:: else -> break
	od;
	if :: ok -> collect_all() :: else fi;
	if :: ok -> vq_wait(!in_flight(DEFLATE), false) :: else fi;
	if :: ok -> set_actual(nr_held) :: else fi
}

/* vbal_size_release() */
inline release()
{
	atomic {
		do
		:: nr_busy > 0 ->
#ifndef M_FORGET_IN_FLIGHT
			if
			:: blocks[oldest] != NOTHING && queue[oldest] == DEFLATE ->
				frame_free(blocks[oldest])
			:: blocks[oldest] != NOTHING && queue[oldest] != DEFLATE ->
				frame_discard(blocks[oldest])
			:: else
			fi;
#endif
			blocks[oldest] = NOTHING;
			oldest = (oldest + 1) % NR_BATCHES;
			nr_busy--
		:: else -> break
		od
	}
#if NR_OOM
	atomic { !oom_lock ->
		if
		:: oom_block != NOTHING -> frame_free(oom_block); oom_block = NOTHING
		:: else
		fi;
		oom_unsent = false;
	}
#endif
	atomic { all_idle() }
	do
	:: atomic { held_pfn || held_range ->
		if
		:: held_range -> bag_pick(held_range, f)
		:: else -> bag_pick(held_pfn, f)
		fi }
		frame_free(f)
#ifdef M_RELEASE_NO_WAIT
	:: !held_pfn && !held_range -> break
#else
	:: nr_held == 0 -> break
#endif
	od
}

/*
 * vbal_disconnect_locked(), for whoever has life_lock. A process of its own, so that
 * Spin has it once only: the caller waits for it.
 */
bool disconnecting, tell_host;

inline disconnect(tell)
{
	atomic { tell_host = tell; disconnecting = true }
	!disconnecting
}

active proctype teardown()
{
	byte b, f, res, from, way;
	bool ok, killer;

end:	do
	:: disconnecting ->
		if
		:: life == DOWN || life == GONE
		:: else ->
			atomic {
				if
				:: life == UP -> life = STOPPING
				:: else -> tell_host = false
				fi
			}
			stop_services();
			if :: tell_host -> give_back() :: else fi;
#ifdef M_RELEASE_EARLY
			release();
			wire_kill();
#else
			wire_kill();
			release();
#endif
			atomic {
#if NR_MOVES == 0
				must(nothing_is_lost, drv == 0);
#endif
				must(nothing_is_lost, nr_held == 0 && nr_busy == 0);
				life = DOWN
			}
		fi;
		atomic {
			b = 0; f = 0; res = 0; from = 0; way = 0; ok = false; killer = false;
			tell_host = false; disconnecting = false
		}
	od
}

/* vbal_connect(): sets @ok */
inline connect()
{
	atomic { !life_lock -> life_lock = true }
	ok = (life == DOWN);
	if
	:: ok ->
		atomic { life = STARTING; broken = false; dev_on = true;
#ifndef M_ACTUAL_REMEMBERED
			actual_known = false;
#endif
		}
		/* vbal_start_services() */
#ifndef M_START_NO_OOM_LOCK
		/* who found the device dead goes on without a word */
		!oom_lock;
#endif
		registered = true;
		atomic { if :: life == STARTING -> life = UP :: else -> ok = false fi }
		if :: !ok -> disconnect(false); ok = false :: else fi
	:: else
	fi;
	life_lock = false;
#ifndef M_NO_RETRY
	if :: ok -> size_wake() :: else fi
#endif
}

inline finish(tell)
{
	atomic { !life_lock -> life_lock = true }
	disconnect(tell);
	atomic { if :: life == DOWN -> life = GONE :: else fi }
	life_lock = false;
	/* cancel_delayed_work_sync() */
	recover_ends = true;
	recover_queued = false;
	!recover_runs
}

/* Who wants the device to stop: the power management, the bus, the reboot. */
active proctype core()
{
	bool ok;
	byte sleeps = NR_SLEEPS;

	do
#if NR_SLEEPS
	:: sleeps > 0 ->
		sleeps--;
		atomic { !dev_lock -> dev_lock = true; sleeping = true }
		atomic { !life_lock -> life_lock = true }
		disconnect(true);
		life_lock = false;
		sleeping = false;
		connect();
		atomic {
			/* vbal_restore() */
			if :: !ok && !recover_ends -> recover_queued = true :: else fi;
			dev_lock = false
		}
#endif
#ifdef UNPLUG
	:: atomic { !dev_lock -> dev_lock = true; ending = true }
		finish(true); device_reset(); dev_lock = false; ended = true; break
#endif
#ifdef REBOOT
	:: ending = true; finish(false); ended = true; break
#endif
	:: break
	od
}

/* vbal_recover_work_fn(); its pauses are of any length */
active proctype recovery()
{
	bool ok;

end:	do
	:: atomic { recover_queued -> recover_queued = false; recover_runs = true }
		if
		:: life == RESETTING || life == DEAD ->
			atomic { !life_lock -> life_lock = true }
			disconnect(true);
			life_lock = false;
			atomic { if :: !recover_ends -> recover_queued = true :: else fi }
		:: life == DOWN ->
			if
			:: atomic { !dev_lock -> dev_lock = true }
				if
				:: life == DOWN -> connect()
				:: else
				fi;
				dev_lock = false;
				atomic {
					if
					:: life == DOWN && !recover_ends -> recover_queued = true
					:: else
					fi
				}
			:: atomic { dev_lock ->
#ifndef M_RECOVER_ONCE
				if :: !recover_ends -> recover_queued = true :: else fi
#endif
			   }
			fi
		:: else
		fi;
		atomic { ok = false; recover_runs = false }
	od
}
#endif

#ifdef LIVENESS
/* Time goes by where nobody moves: of fair runs Spin sees only those without an end. */
active proctype clock()
{
end:	do
	:: true; true
	od
}
#endif

/* ================= what is promised ================= */

#define at_rest (is_up && nr_held == target && actual == nr_held)

/* The target is reached and actual says so, unless the device went or the host is silent. */
ltl settles { <>[] (at_rest || life == GONE || silent) }

/* Who wants the device to go, or to sleep, is not kept waiting. */
ltl ends { [] ((ending -> <> ended) && (sleeping -> <> !sleeping)) }
