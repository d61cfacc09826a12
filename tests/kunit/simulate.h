/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The simulation: the driver, unchanged, between a fake host and a guest that do
 * whatever may happen, in an order drawn from a seed. A model remembers what was
 * done, and from that follows what the driver has promised; all of it is checked
 * after each step.
 *
 * An episode is one seed's life of a device. What its n-th step does follows from
 * the seed and n alone, so any of the steps can be left out and the others stay
 * what they are: tests/run/simulate makes a failing episode shorter that way.
 */
#ifndef _VBALLOON_SIMULATE_H
#define _VBALLOON_SIMULATE_H

#include <linux/bitmap.h>
#include <linux/prandom.h>

#include "device_test.h"

#define SIM_MAX_STEPS 1024u
#define SIM_TEXT_LEN 160

/**
 * struct sim_plan - what to simulate
 * @seed: of the first episode; the next has the next
 * @nr_episodes: so many
 * @nr_steps: of each
 * @slow: steps may wait for seconds: time is virtual
 * @trace: print each step
 * @keep: the steps that are not left out
 * @input: bytes that decide instead of the seed; the life ends with them
 * @input_len: so many
 */
struct sim_plan {
	u64 seed;
	unsigned int nr_episodes;
	unsigned int nr_steps;
	bool slow;
	bool trace;
	DECLARE_BITMAP(keep, SIM_MAX_STEPS);
	const u8 *input;
	size_t input_len;
};

/**
 * struct sim - an episode: the world, and the model of it
 * @plan: what to simulate
 * @seed: of this episode
 * @step: number of the present one
 * @rnd: what the present step draws from
 * @nr_read: bytes of the input that have decided something
 * @h: the host
 * @vb: the driver's device, NULL while it is unplugged
 *
 * The model of the host.
 *
 * @mute: queues that do not read, or read and do not answer
 * @lost: an answer was lost: only a reset helps
 * @lied: it told of things that were not: its books say nothing any more
 * @pulled_out: the device is there in name only
 * @rebooted: the guest has said goodbye to its host
 * @total_asked: MemTotal when statistics were asked for last
 *
 * The model of the guest.
 *
 * @pages: what its programs have, by page->lru; page_private() is the order
 * @nr_pages: pages in @pages
 * @nr_own: those of them that the books know to be this module's
 * @isolated: the page that compaction has out
 * @offlining: memory is about to go offline
 *
 * The model of what was promised.
 *
 * @total_before: MemTotal without a balloon
 * @own_before: this module's pages without a device
 * @ballooned_before: the kernel's count without a balloon
 * @up_before: the connection was up when the last step had ended
 * @held_before: pages held when the last step had ended
 * @resets_before: resets that the host had seen by then
 * @resets_at_rest: resets that it had seen when the driver came to rest last
 * @lowest_target: the lowest target since the driver was at rest last, in pages
 * @lowest_floor: the lowest floor since then, in pages
 * @squeezed: since then the host came before the guest
 *
 * @failure: what was found wrong first, empty if nothing was
 * @end_jiffies: the step has to be over by then
 * @digest: of all that was seen, to compare two runs by
 */
struct sim {
	const struct sim_plan *plan;
	u64 seed;
	unsigned int step;
	struct rnd_state rnd;
	size_t nr_read;
	struct fake_host *h;
	struct vbal_dev *vb;

	unsigned long mute;
	bool lost;
	bool lied;
	bool pulled_out;
	bool rebooted;
	unsigned long total_asked;

	struct list_head pages;
	unsigned long nr_pages;
	unsigned long nr_own;
	struct page *isolated;
	bool offlining;

	unsigned long total_before;
	unsigned long own_before;
	long ballooned_before;
	bool up_before;
	unsigned long held_before;
	unsigned int resets_before;
	unsigned int resets_at_rest;
	unsigned long lowest_target;
	unsigned long lowest_floor;
	bool squeezed;

	char failure[SIM_TEXT_LEN];
	unsigned long end_jiffies;
	u64 digest;
};

/**
 * struct sim_op - something that may happen
 * @name: what
 * @weight: how often, compared with the others
 * @may: can it happen now; NULL: always
 * @run: let it happen, and have the model follow
 * @hostile: no host would do it that only is at fault: for inputs alone
 * @nr_done: how often it did
 * @nr_idle: how often it was drawn and could not happen
 * @longest_ms: so long it took at most
 */
struct sim_op {
	const char *name;
	unsigned int weight;
	bool (*may)(struct sim *s);
	void (*run)(struct sim *s);
	bool hostile;
	unsigned long nr_done;
	unsigned long nr_idle;
	unsigned int longest_ms;
};

/**
 * struct sim_check - something that was promised
 * @name: what
 * @at_rest: true only while nothing moves
 * @holds: is it so
 * @nr_checked: how often it was looked at
 */
struct sim_check {
	const char *name;
	bool at_rest;
	bool (*holds)(struct sim *s);
	unsigned long nr_checked;
};

extern struct sim_op sim_ops[];
extern const unsigned int sim_nr_ops;
extern struct sim_check sim_checks[];
extern const unsigned int sim_nr_checks;

/* simulate.c: the engine */
void sim_last_words(void);
int sim_run(const struct sim_plan *plan, char *report, size_t size);
int sim_run_errand(int (*run)(void *data), void *data);
void sim_fail(struct sim *s, const char *fmt, ...) __printf(2, 3);
bool sim_has_failed(const struct sim *s);
u32 sim_draw(struct sim *s, u32 nr);
void sim_pause(unsigned int ms);

/* Poll for a condition, for so long as the driver has time for it. */
#define sim_wait(s, cond)                                        \
	({                                                       \
		unsigned int ms__ = 1;                           \
		bool met__;                                      \
		while (!(met__ = (cond)) &&                      \
		       time_before(jiffies, (s)->end_jiffies)) { \
			sim_pause(ms__);                         \
			ms__ = min(2 * ms__, 500u);              \
		}                                                \
		met__;                                           \
	})

/* simulate_ops.c: what may happen */
void sim_plug(struct sim *s);
void sim_unplug(struct sim *s);
void sim_settle(struct sim *s);
void sim_let_go(struct sim *s);
void sim_put_back_isolated(struct sim *s);

/* simulate_checks.c: what was promised */
void sim_check_step(struct sim *s);
void sim_check_rest(struct sim *s);
bool sim_stats_come(struct sim *s);
bool sim_is_at_rest(struct sim *s);
void sim_check_unplugged(struct sim *s);
void sim_check_interrupts(struct sim *s);
void sim_look_around(struct sim *s);
void sim_look_again(struct sim *s);
void sim_rests(struct sim *s);

static inline bool sim_is_up(const struct sim *s)
{
	return s->vb && vbal_life_is_up(&s->vb->wire.life);
}

static inline u32 sim_target(const struct sim *s)
{
	return le32_to_cpu(READ_ONCE(s->h->config.num_pages));
}

#endif /* _VBALLOON_SIMULATE_H */
