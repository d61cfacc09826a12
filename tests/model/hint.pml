/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Free page hinting, for Spin: balloon_hint.c against a host that changes its mind
 * at any time, guests that need their memory back, and the end of the device.
 *
 *	NR_IDS		so often the host writes another command id
 *	UNPLUG		the end may come at any moment
 * M_* are mutants.
 */
#ifndef NR_IDS
#define NR_IDS 3
#endif

#define NR_SLOTS 2

/* A property that fails is named by Spin in what it prints. */
#define must(name, what) assert((what) || name)
hidden byte discard_hits_block;	/* the host discards only what the guest does not use */
hidden byte in_round;		/* a block is hinted only between an id and its STOP */
hidden byte one_command;	/* the host never has two commands */
hidden byte nothing_is_lost;	/* after the end all blocks are the guest's */

#define STOP 0
#define DONE 1

#define COMMAND 0
#define BLOCK 1
chan ring = [NR_SLOTS + 1] of { byte, byte };	/* what the host has, in order */
bool dev_on = true;
byte config_id = STOP;	/* free_page_hint_cmd_id */
byte ids_left = NR_IDS;
bool round_open;	/* as the host sees it */
byte commands;		/* that the host has */

#define IDLE 0
#define BUSY 1
#define READY 2
byte slot[NR_SLOTS];	/* its block is the driver's unless it is IDLE */
bool pending[NR_SLOTS];	/* vbal_hint_slot.token */
bool ready[NR_SLOTS];	/* blocks on vbal_hint.ready; each stands for a slot's block */
bool cmd_pending;	/* vbal_hint.token */

#define ROUND 1
#define ENDING 2
byte phase, host_id = STOP, round_id = STOP;
bool running = true, changed, queued, runs, shrunk;
bool ending, ended;

#define held(s) (slot[s] == BUSY || ready[s])
#define all_back (!held(0) && !held(1))

/* An interrupt: vbal_hint_changed(), or the queue's callback */
inline queue_work()
{
	if :: running -> queued = true :: else fi
}

inline config_changed()
{
	if :: running -> changed = true; queued = true :: else fi
}

active proctype host()
{
	byte kind, v;

end:	do
	:: atomic { dev_on && ring?[kind, v] -> ring?kind, v;
		if
		:: kind == COMMAND ->
			round_open = (v != STOP);
			commands--; cmd_pending = false
		:: else ->
			must(discard_hits_block, slot[v] == BUSY);
			must(in_round, round_open);
			pending[v] = false
		fi;
#ifndef M_NO_CALLBACK
		queue_work();
#endif
		kind = 0; v = 0 }
	/* it changes its mind; DONE comes last, if at all */
	:: atomic { ids_left > 0 ->
		ids_left--;
		if
		:: config_id = 2
		:: config_id = 3
		:: config_id = STOP
		:: config_id = DONE
		fi;
		config_changed() }
	od
}

/* vbal_hint_send_cmd(); sets @ok */
inline send_cmd(id)
{
#ifdef M_TWO_COMMANDS
	ok = true;
#else
	ok = !cmd_pending;
#endif
	if
	:: ok && len(ring) <= NR_SLOTS ->
		atomic {
			must(one_command, commands == 0);
			commands++; cmd_pending = true; ring!COMMAND, id
		}
	:: else -> ok = false
	fi
}

inline end_round()
{
	send_cmd(STOP);
	if :: ok -> phase = IDLE :: else fi
}

/* vbal_hint_give_back(), one block */
inline give_back(s)
{
	ready[s] = false
}

/* A slot whose block is still ready has nothing to carry in this model. */
inline add_block(s)
{
	atomic { slot[s] = BUSY; pending[s] = true; ring!BLOCK, s }
}

#define free_slot(s) (slot[s] == IDLE && !ready[s])

/* vbal_hint_collect() */
inline collect(s)
{
	atomic {
		if
#ifdef M_READY_UNUSED
		:: slot[s] == BUSY -> slot[s] = IDLE; ready[s] = true
#else
		:: slot[s] == BUSY && !pending[s] -> slot[s] = IDLE; ready[s] = true
#endif
		:: else
		fi
	}
}

/* vbal_hint_work() */
active proctype work()
{
	bool ok;

end:	do
	:: atomic { queued -> runs = true;
#ifndef M_HINT_LOST_WAKE
		queued = false
#endif
		}
		if
		:: running ->
#ifdef M_CLEAR_AFTER_READ
			if
			:: changed -> host_id = config_id; changed = false
			:: else
			fi;
#else
			if
			:: atomic { changed -> changed = false }
				host_id = config_id
			:: else
			fi;
#endif
			collect(0); collect(1);
			/* vbal_hint_step() */
			if :: phase == ROUND && host_id != round_id -> phase = ENDING :: else fi;
			if :: phase == ENDING -> end_round() :: else fi;
			if
			:: phase == IDLE && host_id > DONE && host_id != round_id ->
				send_cmd(host_id);
				if
				:: ok -> round_id = host_id; phase = ROUND; shrunk = false
				:: else
				fi
			:: else
			fi;
			/* vbal_hint_fill(): as long as there is something to spare */
			if
			:: phase == ROUND ->
				do
				:: !shrunk && !changed && free_slot(0) -> add_block(0)
				:: !shrunk && !changed && free_slot(1) -> add_block(1)
				:: !free_slot(0) && !free_slot(1) -> break	/* -ENOSPC */
				:: changed -> break
				:: true ->	/* -ENOMEM */
					phase = ENDING; end_round(); break
				od
			:: else
			fi;
			if
			:: host_id == DONE -> give_back(0); give_back(1)
			:: else
			fi
		:: else
		fi;
#ifdef M_HINT_LOST_WAKE
		queued = false;
#endif
		atomic { ok = false; runs = false }
	od
}

/* Memory pressure: what is used goes back, and the round takes no more. */
active proctype shrinker()
{
	do
	:: atomic { ready[0] -> give_back(0); shrunk = true }
	:: atomic { ready[1] -> give_back(1); shrunk = true }
	:: break
	od
}

#ifdef UNPLUG
/* vbal_hint_stop(), the reset, vbal_hint_release() */
active proctype remove()
{
	if
	:: ending = true;
		running = false;
#ifndef M_STOP_NO_SYNC
		atomic { !runs -> queued = false }
#endif
		give_back(0); give_back(1);
#ifdef M_STOP_FREES_BUSY
		atomic { slot[0] = IDLE; slot[1] = IDLE }
#endif
		dev_on = false;
#ifndef M_FORGET_BUSY
		atomic { slot[0] = IDLE; slot[1] = IDLE }
#endif
		must(nothing_is_lost, all_back);
		ended = true
	:: true
	fi
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

/* After DONE the guest has everything back. */
ltl comes_back { <>[] (ended || !(ids_left == 0 && config_id == DONE) || all_back) }

/* What the host asked for last is what the driver does. */
ltl follows { <>[] (ended || ids_left > 0 || config_id <= DONE || round_id == config_id) }

ltl ends { [] (ending -> <> ended) }
