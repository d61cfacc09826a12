// SPDX-License-Identifier: GPL-2.0-only
/*
 * The engine: draws steps, has the operations of simulate_ops.c done, and the
 * promises of simulate_checks.c looked at after each. Runs as a unit test, with a
 * few steps, and at the word of tests/run/simulate, through a module parameter:
 * as often as is wanted, because a suite runs once, when the module is loaded.
 */
#include "simulate.h"

#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/moduleparam.h>
#include <linux/sched/debug.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

/* No wait of the driver's is longer: its longest pause is two minutes. */
#define SIM_STEP_MS (600 * MSEC_PER_SEC)
#define SIM_STEP_FAST_MS (60 * MSEC_PER_SEC)

struct sim_run {
	unsigned long nr_steps;
	u64 digest;
	char failure[SIM_TEXT_LEN + 80];
};

static struct task_struct *sim_task;

static void sim_overdue(struct work_struct *work)
{
	sched_show_task(sim_task);
	WARN(1, "simulate: a step does not end\n");
}

static DECLARE_DELAYED_WORK(sim_watchdog, sim_overdue);

/**
 * sim_fail() - note what was found wrong; the first of it counts
 * @s: the episode
 * @fmt: what
 */
void sim_fail(struct sim *s, const char *fmt, ...)
{
	va_list args;

	if (sim_has_failed(s))
		return;
	va_start(args, fmt);
	vsnprintf(s->failure, sizeof(s->failure), fmt, args);
	va_end(args);
}

bool sim_has_failed(const struct sim *s)
{
	return s->failure[0];
}

/* Let all others run for so long; what is asked for is a minimum. */
void sim_pause(unsigned int ms)
{
	schedule_timeout_uninterruptible(msecs_to_jiffies(ms) ?: 1);
}

static bool sim_has_input(const struct sim *s)
{
	return s->nr_read < s->plan->input_len;
}

/* As many bytes as it takes; zeros when there are no more. */
static u32 sim_read(struct sim *s, u32 nr)
{
	u32 value = 0, left;

	for (left = nr - 1; left; left >>= 8) {
		value <<= 8;
		if (sim_has_input(s))
			value |= s->plan->input[s->nr_read++];
	}
	return value % nr;
}

/* A number below @nr. */
u32 sim_draw(struct sim *s, u32 nr)
{
	if (s->plan->input)
		return sim_read(s, nr);
	return prandom_u32_state(&s->rnd) % nr;
}

/* splitmix64: neighbouring seeds and steps have nothing in common. */
static u64 sim_mix(u64 value)
{
	value += 0x9e3779b97f4a7c15ULL;
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ (value >> 27)) * 0x94d049bb133111ebULL;
	return value ^ (value >> 31);
}

/* What a step draws depends on nothing that happened before. */
static void sim_seed_step(struct sim *s)
{
	prandom_seed_state(&s->rnd, sim_mix(s->seed ^ sim_mix(s->step)));
}

/* How often, compared with the others. */
static unsigned int sim_weight(const struct sim *s, unsigned int i)
{
	return sim_ops[i].hostile && !s->plan->input ? 0 : sim_ops[i].weight;
}

static struct sim_op *sim_draw_op(struct sim *s)
{
	unsigned int sum = 0, i, at;

	for (i = 0; i < sim_nr_ops; i++)
		sum += sim_weight(s, i);
	at = sim_draw(s, sum);
	for (i = 0; at >= sim_weight(s, i); i++)
		at -= sim_weight(s, i);
	return &sim_ops[i];
}

static void sim_begin_step(struct sim *s)
{
	unsigned int ms = s->plan->slow ? SIM_STEP_MS : SIM_STEP_FAST_MS;

	s->end_jiffies = jiffies + msecs_to_jiffies(ms);
	if (s->plan->slow)
		mod_delayed_work(system_unbound_wq, &sim_watchdog,
				 msecs_to_jiffies(2 * ms));
}

/* How long to look away before the next step: mostly not at all. */
static void sim_between_steps(struct sim *s)
{
	unsigned int kind = sim_draw(s, 8);

	if (kind < 3)
		cond_resched();
	else if (kind < 5)
		sim_pause(1);
}

static void sim_digest(struct sim *s)
{
	s->digest = sim_mix(s->digest ^ jiffies ^ ((u64)s->step << 48) ^
			    ((u64)fake_host_actual(s->h) << 16) ^
			    (test_books_frames() << 32));
}

/* Return: true if something was done. */
static bool sim_step(struct sim *s)
{
	unsigned long start = jiffies;
	struct sim_op *op;

	sim_seed_step(s);
	op = sim_draw_op(s);
	if (op->may && !op->may(s)) {
		op->nr_idle++;
		return false;
	}
	if (s->plan->trace)
		pr_info("simulate: %llu/%u %s\n", s->seed, s->step, op->name);
	sim_begin_step(s);
	op->run(s);
	op->nr_done++;
	op->longest_ms = max(op->longest_ms, jiffies_to_msecs(jiffies - start));
	sim_check_step(s);
	sim_between_steps(s);
	sim_digest(s);
	return true;
}

static bool sim_begin(struct sim *s)
{
	INIT_LIST_HEAD(&s->pages);
	fake_books_begin();
	s->h = fake_host_create(0);
	if (!s->h) {
		sim_fail(s, "no memory for a host");
		return false;
	}
	sim_look_around(s);
	s->step = U32_MAX;
	sim_seed_step(s);
	sim_begin_step(s);
	sim_plug(s);
	return true;
}

/* Whatever came of it, the next episode finds a world without a device. */
static void sim_end(struct sim *s)
{
	sim_begin_step(s);
	if (!sim_has_failed(s))
		sim_settle(s);
	if (s->vb)
		sim_unplug(s);
	sim_let_go(s);
	fake_host_destroy(s->h);
}

static bool sim_goes_on(const struct sim *s)
{
	return s->step < s->plan->nr_steps && !sim_has_failed(s) &&
	       (!s->plan->input || sim_has_input(s));
}

static unsigned long sim_episode(struct sim *s)
{
	unsigned long nr_steps = 0;

	if (!sim_begin(s))
		return 0;
	for (s->step = 0; sim_goes_on(s); s->step++)
		if (test_bit(s->step, s->plan->keep))
			nr_steps += sim_step(s);
	/* The step that went wrong, not the one after. */
	s->step -= sim_has_failed(s);
	return nr_steps;
}

/* The one that lives, for who dies of it. */
static struct sim *sim_alive;

/**
 * sim_last_words() - tell who has the guest's memory, as the kernel panics
 *
 * Context: any; takes no lock.
 */
void sim_last_words(void)
{
	struct sim *s = sim_alive;
	struct vbal_size *size;
	struct vbal_report *r;

	if (!s)
		return;
	pr_crit("log: step %u: %lu pages are the guest's, mute %lx\n", s->step,
		s->nr_pages, s->mute);
	if (!s->vb)
		return;
	size = &s->vb->size;
	r = &s->vb->report;
	pr_crit("log: %s: %lu pages held, %lu on their way, %s, deflate-on-oom %d, %lu given back on OOM\n",
		vbal_state_name(size->state), vbal_pages_held(&size->pages),
		size->busy_pages, vbal_guard_policy_name(size->guard.policy),
		size->guard.may_give_back, size->guard.nr_oom_pages);
	pr_crit("log: %s, %ld single pages by PFN, %ld by range, OOM step of %lu is out, rings have %u, %u, %u in flight, locks %d, %d\n",
		vbal_life_name(vbal_life_now(&s->vb->wire.life)),
		atomic_long_read(&size->pages.bag[VBAL_MODE_PFN].nr_singles),
		atomic_long_read(&size->pages.bag[VBAL_MODE_RANGE].nr_singles),
		size->oom_batch->blocks.nr_pages,
		s->vb->wire.q[VBAL_VQ_INFLATE].nr_in_flight,
		s->vb->wire.q[VBAL_VQ_DEFLATE].nr_in_flight,
		s->vb->wire.q[VBAL_VQ_REPORT].nr_in_flight,
		mutex_is_locked(&size->oom_lock),
		mutex_is_locked(&size->move.lock));
	pr_crit("log: hints %lu pages, report %lu of %lu, awaited %lu, %lu pages\n",
		s->vb->hint.busy_pages, r->nr_ended, r->nr_begun, r->nr_awaited,
		r->last_pages);
}

static void sim_one_seed(const struct sim_plan *plan, u64 seed,
			 struct sim_run *run)
{
	struct sim *s = kzalloc(sizeof(*s), GFP_KERNEL);

	if (!s) {
		strscpy(run->failure, "no memory", sizeof(run->failure));
		return;
	}
	s->plan = plan;
	s->seed = seed;
	sim_alive = s;
	run->nr_steps += sim_episode(s);
	if (s->h)
		sim_end(s);
	run->digest ^= s->digest;
	if (sim_has_failed(s))
		snprintf(run->failure, sizeof(run->failure),
			 "seed=%llu step=%u: %s", seed, s->step, s->failure);
	sim_alive = NULL;
	kfree(s);
}

static void sim_forget_counts(void)
{
	unsigned int i;

	for (i = 0; i < sim_nr_ops; i++) {
		sim_ops[i].nr_done = 0;
		sim_ops[i].nr_idle = 0;
		sim_ops[i].longest_ms = 0;
	}
	for (i = 0; i < sim_nr_checks; i++)
		sim_checks[i].nr_checked = 0;
}

/* One line each, fields parted by bars, for tests/run/simulate to add up. */
static void sim_report(const struct sim_run *run, char *report, size_t size)
{
	size_t len = 0;
	unsigned int i;

	len += scnprintf(report + len, size - len, "steps|%lu|%016llx\n",
			 run->nr_steps, run->digest);
	if (run->failure[0])
		len += scnprintf(report + len, size - len, "failed|%s\n",
				 run->failure);
	for (i = 0; i < sim_nr_ops; i++)
		if (!sim_ops[i].hostile)
			len += scnprintf(report + len, size - len,
					 "op|%s|%lu|%lu|%u\n", sim_ops[i].name,
					 sim_ops[i].nr_done, sim_ops[i].nr_idle,
					 sim_ops[i].longest_ms);
	for (i = 0; i < sim_nr_checks; i++)
		len += scnprintf(report + len, size - len, "check|%s|%lu\n",
				 sim_checks[i].name, sim_checks[i].nr_checked);
}

/**
 * sim_run() - simulate
 * @plan: what
 * @report: receives what came of it
 * @size: of @report, in bytes
 *
 * The driver is registered, and nobody else has a device.
 *
 * Context: process context.
 * Return: 0, or -EIO if the driver broke a promise.
 */
int sim_run(const struct sim_plan *plan, char *report, size_t size)
{
	struct sim_run run = {};
	unsigned int i;

	sim_task = current;
	sim_forget_counts();
	for (i = 0; i < plan->nr_episodes && !run.failure[0]; i++)
		sim_one_seed(plan, plan->seed + i, &run);
	cancel_delayed_work_sync(&sim_watchdog);
	sim_report(&run, report, size);
	return run.failure[0] ? -EIO : 0;
}

/* At somebody's word ------------------------------------------------------- */

struct sim_errand {
	int (*run)(void *data);
	void *data;
	int ret;
	struct completion done;
};

static int sim_thread(void *data)
{
	struct sim_errand *errand = data;

	errand->ret = errand->run(errand->data);
	kthread_complete_and_exit(&errand->done, 0);
}

/**
 * sim_run_errand() - have something done by a thread of the kernel's, and wait
 * @run: what, with the books open
 * @data: its argument
 *
 * In User Mode Linux each switch to a task with a user's memory takes a dozen
 * system calls.
 *
 * Context: process context.
 * Return: what @run did, or an error.
 */
int sim_run_errand(int (*run)(void *data), void *data)
{
	struct sim_errand errand = { .run = run, .data = data };
	struct task_struct *thread;
	int ret = fake_books_open();

	if (ret)
		return ret;
	init_completion(&errand.done);
	thread = kthread_run(sim_thread, &errand, "vballoon-errand");
	if (IS_ERR(thread))
		errand.ret = PTR_ERR(thread);
	else
		wait_for_completion(&errand.done);
	fake_books_close();
	return errand.ret;
}

static char sim_last_report[PAGE_SIZE];

static int sim_parse_word(struct sim_plan *plan, char *word)
{
	const char *value = strchr(word, '=');
	size_t len;

	if (!value)
		return -EINVAL;
	len = ++value - word;
	if (!strncmp(word, "seed=", len))
		return kstrtou64(value, 0, &plan->seed);
	if (!strncmp(word, "episodes=", len))
		return kstrtouint(value, 0, &plan->nr_episodes);
	if (!strncmp(word, "steps=", len))
		return kstrtouint(value, 0, &plan->nr_steps);
	if (!strncmp(word, "trace=", len))
		return kstrtobool(value, &plan->trace);
	if (!strncmp(word, "keep=", len))
		return bitmap_parselist(value, plan->keep, SIM_MAX_STEPS);
	return -EINVAL;
}

/* Words are parted by these. */
static const char sim_blanks[] = { ' ', '\n', '\0' };

static int sim_parse(struct sim_plan *plan, char *text)
{
	char *word;
	int ret = 0;

	*plan = (struct sim_plan){ .nr_episodes = 1, .nr_steps = 200 };
	plan->slow = IS_ENABLED(CONFIG_UML);
	bitmap_fill(plan->keep, SIM_MAX_STEPS);
	while (!ret && (word = strsep(&text, sim_blanks)))
		if (*word)
			ret = sim_parse_word(plan, word);
	if (plan->nr_steps > SIM_MAX_STEPS)
		ret = -EINVAL;
	return ret;
}

static int sim_run_plan(void *plan)
{
	return sim_run(plan, sim_last_report, sizeof(sim_last_report));
}

static int sim_param_set(const char *val, const struct kernel_param *kp)
{
	struct sim_plan *plan = kzalloc(sizeof(*plan), GFP_KERNEL);
	char *text = kstrdup(val, GFP_KERNEL);
	int ret = plan && text ? sim_parse(plan, text) : -ENOMEM;

	if (!ret)
		ret = sim_run_errand(sim_run_plan, plan);
	kfree(text);
	kfree(plan);
	return ret;
}

static int sim_param_get(char *buffer, const struct kernel_param *kp)
{
	return strscpy(buffer, sim_last_report, PAGE_SIZE);
}

static const struct kernel_param_ops sim_param_ops = {
	.set = sim_param_set,
	.get = sim_param_get,
};
module_param_cb(simulate, &sim_param_ops, NULL, 0600);
MODULE_PARM_DESC(simulate,
		 "seed= episodes= steps= keep= trace=, written at run time");
