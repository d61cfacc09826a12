/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * How a waiter is woken, for Spin: vbal_vq_reap(), vbal_vq_arm(), vbal_vq_ready()
 * and vbal_vq_wait_while() of balloon_virtio.c against a host that answers and
 * interrupts only who asks for it. The look once a second is left out: so a
 * wake-up that is lost is a wait without an end.
 *
 * With STORE_BUFFER each side's write of the ring passes through a store buffer, as
 * on x86: then virtqueue_enable_cb() and the host need their full barriers.
 *
 *	WAITERS		so many wait, each for a buffer of its own
 *	REAPER		somebody reaps for all, without waiting (OOM notifier)
 *	EVENT_IDX	a request for an interrupt is for one interrupt
 *	DELAYED		virtqueue_enable_cb_delayed(): the interrupt comes with the last
 * M_* are mutants.
 */
#ifndef WAITERS
#define WAITERS 2
#endif

#define NR_BUFS 2	/* one for each waiter */

#define FREE 0
#define AVAIL 1
#define USED 2

byte ring[NR_BUFS];	/* of each buffer */
byte answered;		/* used entries, as the device wrote them */
byte seen;		/* as the driver has taken them */
bool event_on;		/* the driver asks for an interrupt: its memory ... */
#ifdef STORE_BUFFER
bool event_seen;	/* ... and what the device sees of it */
byte answered_seen;	/* what the driver sees of the device's */
#else
#define event_seen event_on
#define answered_seen answered
#endif
byte nr_pending[NR_BUFS];	/* vbal_token */
bool lock;		/* vbal_vq.lock */
byte on_list;		/* q->wait: those who are on it, a bit each */
byte asleep;		/* of those, who sleeps */
byte waits = WAITERS;	/* not yet over */

inline wake_up_all()
{
#ifdef M_REAP_NO_WAKE
	skip
#else
	asleep = 0
#endif
}

/* The interrupt: vbal_vq_used() */
#ifdef M_USED_NO_WAKE
#define interrupt() skip
#else
#ifdef EVENT_IDX
#define interrupt() atomic { asleep = 0; event_on = false }
#else
#define interrupt() asleep = 0
#endif
#endif

/* What the store buffers hold arrives at any time ... */
#ifdef STORE_BUFFER
active proctype memory()
{
end:	do
	:: event_seen != event_on -> event_seen = event_on
	:: answered_seen != answered -> answered_seen = answered
	od
}
#define driver_mb() event_seen == event_on
#define device_mb() answered_seen == answered
#else
#define driver_mb() skip
#define device_mb() skip
#endif
#ifdef M_ENABLE_NO_MB
#undef driver_mb
#define driver_mb() skip
#endif
#ifdef M_DEVICE_NO_MB
#undef device_mb
#define device_mb() skip
#endif

/* The host answers, then looks whether somebody asked to hear of it. */
active proctype host()
{
	byte b;

end:	do
	:: atomic { ring[0] == AVAIL -> b = 0 }
		goto use
	:: atomic { ring[1] == AVAIL -> b = 1 }
use:		ring[b] = USED;
		answered++;
		device_mb();
		if
#ifdef DELAYED
		:: event_seen && ring[0] != AVAIL && ring[1] != AVAIL -> interrupt()
		:: event_seen && (ring[0] == AVAIL || ring[1] == AVAIL)
#else
		:: event_seen -> interrupt()
#endif
		:: !event_seen
		fi;
		b = 0
	od
}

/* vbal_vq_reap(): under the lock; what comes meanwhile comes after it */
inline reap()
{
	atomic {
		!lock;
#ifdef M_DISABLE_UNDER_WAITER
		event_on = false;
#else
		if :: !on_list -> event_on = false :: else fi;
#endif
		nr = answered_seen - seen;
		do
		:: seen != answered_seen ->
			if
			:: ring[0] == USED -> ring[0] = FREE; nr_pending[0] = 0
			:: ring[1] == USED -> ring[1] = FREE; nr_pending[1] = 0
			fi;
			seen++
		:: else -> break
		od;
		if :: nr > 0 -> wake_up_all() :: else fi;
		nr = 0
	}
}

/* vbal_vq_arm(): @armed, unless something was used meanwhile */
inline arm()
{
	atomic { !lock -> lock = true }
	event_on = true;
	driver_mb();
#ifdef M_ARM_NO_LOOK
	armed = true;
#else
	armed = (seen == answered_seen);
#endif
	lock = false
}

/* vbal_vq_ready() */
inline ready()
{
	is_ready = false;
	do
	:: reap();
		if
		:: nr_pending[me] == 0 -> is_ready = true; break
		:: else ->
			arm();
			if :: armed -> break :: else fi
		fi
	od
}

proctype waiter(byte me)
{
	byte nr;
	bool armed, is_ready;

	/* vbal_vq_add(), under the lock; then vbal_vq_notify() */
	atomic { !lock -> nr_pending[me] = 1; ring[me] = AVAIL }
	/* wait_event(): looks, gets on the list, looks, sleeps */
	ready();
	do
	:: is_ready -> break
	:: else ->
#ifndef M_LATE_ON_LIST
		/* prepare_to_wait(): awake from now on is whoever is woken */
		atomic { on_list = on_list | (1 << me); asleep = asleep | (1 << me) }
#endif
		ready();
#ifdef M_LATE_ON_LIST
		atomic { on_list = on_list | (1 << me); asleep = asleep | (1 << me) }
#endif
		if
		:: is_ready -> break
		:: else -> !(asleep & (1 << me))	/* schedule() */
		fi
	od;
	atomic { on_list = on_list & ~(1 << me); asleep = asleep & ~(1 << me); waits-- }
}

#ifdef REAPER
active proctype reaper()
{
	byte nr;

	reap();
	reap()
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

init
{
	atomic {
		run waiter(0);
		if :: WAITERS > 1 -> run waiter(1) :: else fi
	}
}

ltl every_wait_ends { <> (waits == 0) }
