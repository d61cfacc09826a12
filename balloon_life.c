// SPDX-License-Identifier: GPL-2.0-only
/*
 * The life of a device's connection with its host: one state, and one table of
 * who may follow whom. Calls nobody.
 *
 *	DOWN -> STARTING -> UP -> STOPPING
 *	 ^  |       |        |       |
 *	 |  v       v        v       v
 *	 | GONE     +---> RESETTING <+
 *	 |                   |
 *	 +----- DEAD <-------+
 *
 * Every way out of a connection leads through the reset: only after it is it
 * certain that the device touches no page any more.
 */
#include "balloon_life.h"

#include <linux/atomic.h>
#include <linux/bits.h>
#include <linux/bug.h>
#include <linux/errno.h>

/* For each state, those that may follow it. */
static const unsigned long vbal_life_next[VBAL_NR_LIFE_STATES] = {
	[VBAL_LIFE_DOWN] = BIT(VBAL_LIFE_STARTING) | BIT(VBAL_LIFE_GONE),
	[VBAL_LIFE_STARTING] = BIT(VBAL_LIFE_UP) | BIT(VBAL_LIFE_RESETTING),
	[VBAL_LIFE_UP] = BIT(VBAL_LIFE_STOPPING) | BIT(VBAL_LIFE_RESETTING),
	[VBAL_LIFE_STOPPING] = BIT(VBAL_LIFE_RESETTING),
	[VBAL_LIFE_RESETTING] = BIT(VBAL_LIFE_DEAD),
	[VBAL_LIFE_DEAD] = BIT(VBAL_LIFE_DOWN),
};

static const char *const vbal_life_names[VBAL_NR_LIFE_STATES] = {
	[VBAL_LIFE_DOWN] = "down",
	[VBAL_LIFE_STARTING] = "starting",
	[VBAL_LIFE_UP] = "up",
	[VBAL_LIFE_STOPPING] = "stopping",
	[VBAL_LIFE_RESETTING] = "resetting",
	[VBAL_LIFE_DEAD] = "dead",
	[VBAL_LIFE_GONE] = "gone",
};

/**
 * vbal_life_try() - go on to another state, if the table has that step
 * @life: the life
 * @to: the state
 *
 * Several may try at once: one of them succeeds.
 *
 * Context: Any.
 * Return: the state that it left, or -EBUSY: then nothing has changed.
 */
int vbal_life_try(struct vbal_life *life, enum vbal_life_state to)
{
	int from = READ_ONCE(life->state);

	do {
		if (!(vbal_life_next[from] & BIT(to)))
			return -EBUSY;
	} while (!try_cmpxchg(&life->state, &from, to));
	return from;
}

/**
 * vbal_life_move() - go on to another state; nothing else can have happened
 * @life: the life
 * @to: the state
 *
 * Context: Any.
 */
void vbal_life_move(struct vbal_life *life, enum vbal_life_state to)
{
	int from = vbal_life_try(life, to);

	WARN_ONCE(from < 0, "%s cannot follow %s\n", vbal_life_name(to),
		  vbal_life_name(vbal_life_now(life)));
}

/**
 * vbal_life_name() - a state's name
 * @state: the state
 *
 * Context: Any.
 * Return: as messages and tests show it.
 */
const char *vbal_life_name(enum vbal_life_state state)
{
	return vbal_life_names[state];
}
