/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_LIFE_H
#define _VBALLOON_LIFE_H

#include <linux/compiler.h>
#include <linux/types.h>

/**
 * enum vbal_life_state - where a device's connection with its host is
 * @VBAL_LIFE_DOWN: there are no queues
 * @VBAL_LIFE_STARTING: DRIVER_OK is set, services start
 * @VBAL_LIFE_UP: connected
 * @VBAL_LIFE_STOPPING: the driver goes, telling the host while it answers
 * @VBAL_LIFE_RESETTING: the device is being reset
 * @VBAL_LIFE_DEAD: it was reset; the queues are yet to be deleted
 * @VBAL_LIFE_GONE: the last state: removed, or another kernel is to follow
 * @VBAL_NR_LIFE_STATES: number of states
 *
 * ========= ===================== ================== =========================
 * state     who may talk to host  waits              pages that are ballooned
 * ========= ===================== ================== =========================
 * DOWN      nobody                end                none
 * STARTING  services              go on              none
 * UP        everybody             go on              the balloon's
 * STOPPING  who stops it, and     end with a host    the balloon's, on their
 *           who was waiting       that is silent     way back
 * RESETTING nobody                go on: the device  the balloon's: the device
 *                                 may touch a page   may touch them
 * DEAD      nobody                end                the guest's, to be freed
 *                                                    without a word
 * GONE      nobody                end                none
 * ========= ===================== ================== =========================
 */
enum vbal_life_state {
	VBAL_LIFE_DOWN,
	VBAL_LIFE_STARTING,
	VBAL_LIFE_UP,
	VBAL_LIFE_STOPPING,
	VBAL_LIFE_RESETTING,
	VBAL_LIFE_DEAD,
	VBAL_LIFE_GONE,
	VBAL_NR_LIFE_STATES,
};

/**
 * struct vbal_life - the state, changed by vbal_life_try() only
 * @state: enum vbal_life_state
 */
struct vbal_life {
	int state;
};

int vbal_life_try(struct vbal_life *life, enum vbal_life_state to);
void vbal_life_move(struct vbal_life *life, enum vbal_life_state to);
const char *vbal_life_name(enum vbal_life_state state);

static inline enum vbal_life_state vbal_life_now(const struct vbal_life *life)
{
	return READ_ONCE(life->state);
}

/* May a buffer be given to the host? */
static inline bool vbal_life_may_submit(const struct vbal_life *life)
{
	enum vbal_life_state state = vbal_life_now(life);

	return state == VBAL_LIFE_STARTING || state == VBAL_LIFE_UP ||
	       state == VBAL_LIFE_STOPPING;
}

/* May something new begin: a resize, a migration, a relief? */
static inline bool vbal_life_is_up(const struct vbal_life *life)
{
	return vbal_life_now(life) == VBAL_LIFE_UP;
}

/* Is the device past touching any page of ours? */
static inline bool vbal_life_is_over(const struct vbal_life *life)
{
	enum vbal_life_state state = vbal_life_now(life);

	return state == VBAL_LIFE_DEAD || state == VBAL_LIFE_DOWN ||
	       state == VBAL_LIFE_GONE;
}

#endif /* _VBALLOON_LIFE_H */
