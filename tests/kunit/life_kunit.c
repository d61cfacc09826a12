// SPDX-License-Identifier: GPL-2.0-only
/*
 * The driver's life: the table of states, and every event in every state, those
 * that "cannot happen" there included. Whatever comes, the device is of use
 * again afterwards, if it still can be; and when it is unplugged nothing is
 * missing (device_test_exit()).
 */
#include "device_test.h"

#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/kthread.h>
#include <linux/migrate.h>
#include <linux/reboot.h>
#include <linux/sched/task.h>

/* The table ---------------------------------------------------------------- */

struct step_case {
	int from;
	int to;
};

/* All steps there are, drawn once more by hand. */
static const struct step_case steps[] = {
	{ VBAL_LIFE_DOWN, VBAL_LIFE_STARTING },
	{ VBAL_LIFE_DOWN, VBAL_LIFE_GONE },
	{ VBAL_LIFE_STARTING, VBAL_LIFE_UP },
	{ VBAL_LIFE_STARTING, VBAL_LIFE_RESETTING },
	{ VBAL_LIFE_UP, VBAL_LIFE_STOPPING },
	{ VBAL_LIFE_UP, VBAL_LIFE_RESETTING },
	{ VBAL_LIFE_STOPPING, VBAL_LIFE_RESETTING },
	{ VBAL_LIFE_RESETTING, VBAL_LIFE_DEAD },
	{ VBAL_LIFE_DEAD, VBAL_LIFE_DOWN },
};

static bool is_step(int from, int to)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(steps); i++)
		if (steps[i].from == from && steps[i].to == to)
			return true;
	return false;
}

static void expect_step(struct kunit *test, int from, int to)
{
	struct vbal_life life = { .state = from };
	int ret = vbal_life_try(&life, to);
	int wanted = is_step(from, to) ? from : -EBUSY;

	KUNIT_EXPECT_EQ_MSG(test, ret, wanted, "%s -> %s", vbal_life_name(from),
			    vbal_life_name(to));
	KUNIT_EXPECT_EQ(test, life.state, is_step(from, to) ? to : from);
}

static void life_has_no_other_steps(struct kunit *test)
{
	int from, to;

	for (from = 0; from < VBAL_NR_LIFE_STATES; from++)
		for (to = 0; to < VBAL_NR_LIFE_STATES; to++)
			expect_step(test, from, to);
}

static void life_lets_the_right_ones_talk(struct kunit *test)
{
	int state;

	for (state = 0; state < VBAL_NR_LIFE_STATES; state++) {
		struct vbal_life life = { .state = state };

		/* Who may use pages again cannot be where the host may touch them. */
		if (vbal_life_is_over(&life))
			KUNIT_EXPECT_FALSE(test, vbal_life_may_submit(&life));
		if (vbal_life_is_up(&life))
			KUNIT_EXPECT_TRUE(test, vbal_life_may_submit(&life));
	}
}

/* Every event in every state ----------------------------------------------- */

enum where {
	UP,
	UP_SILENT,
	ASLEEP,
	BROKEN_FOR_GOOD,
	DEAD,
	STOPPING,
	RESETTING,
	GONE,
	NR_WHERE,
};

static const char *const where_names[] = {
	[UP] = "up",
	[UP_SILENT] = "up and silent",
	[ASLEEP] = "asleep",
	[BROKEN_FOR_GOOD] = "not to be recovered",
	[DEAD] = "dead",
	[STOPPING] = "stopping",
	[RESETTING] = "resetting",
	[GONE] = "gone",
};

/* Between these the driver has a thread of its own at work. */
static bool is_passing(enum where where)
{
	return where == STOPPING || where == RESETTING;
}

enum event {
	NEW_TARGET,
	NEW_SETTING,
	OUT_OF_MEMORY,
	MIGRATION,
	QUEUE_BREAKS,
	NEEDS_RESET,
	PULLED_OUT,
	RECOVERY,
	SLEEP,
	WAKE,
	REBOOT,
	UNPLUG,
	NR_EVENTS,
};

static const char *const event_names[] = {
	[NEW_TARGET] = "new target",
	[NEW_SETTING] = "new setting",
	[OUT_OF_MEMORY] = "out of memory",
	[MIGRATION] = "migration",
	[QUEUE_BREAKS] = "queue breaks",
	[NEEDS_RESET] = "needs reset",
	[PULLED_OUT] = "pulled out",
	[RECOVERY] = "recovery",
	[SLEEP] = "sleep",
	[WAKE] = "wake",
	[REBOOT] = "reboot",
	[UNPLUG] = "unplug",
};

struct life_case {
	enum where where;
	enum event event;
};

static struct life_case life_case_now;

static const void *life_gen_params(const void *prev, char *desc)
{
	struct life_case *c = &life_case_now;

	if (!prev)
		*c = (struct life_case){};
	else if (++c->event == NR_EVENTS)
		*c = (struct life_case){ .where = c->where + 1 };
	if (c->where == NR_WHERE)
		return NULL;
	snprintf(desc, KUNIT_PARAM_DESC_SIZE, "%s: %s", where_names[c->where],
		 event_names[c->event]);
	return c;
}

static int sleep_thread(void *arg)
{
	struct fake_host *h = arg;

	virtio_device_freeze(&h->vdev);
	return 0;
}

static int kill_thread(void *arg)
{
	vbal_wire_kill(arg);
	return 0;
}

static struct task_struct *run_thread(struct kunit *test, int (*fn)(void *),
				      void *arg)
{
	struct task_struct *task = kthread_run(fn, arg, "life_test");

	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
	return get_task_struct(task);
}

static bool is_at(struct vbal_dev *vb, enum vbal_life_state state)
{
	return vbal_life_now(&vb->wire.life) == state;
}

/* Bring a device with a full balloon there; the thread is the one on its way. */
static struct task_struct *go(struct kunit *test, struct vbal_dev *vb,
			      enum where where)
{
	struct device_test *t = test->priv;
	struct task_struct *task = NULL;
	struct fake_host *h = t->h;

	switch (where) {
	case UP_SILENT:
		fake_host_silence(h);
		fake_host_set_target(h, FRAMES_64M);
		KUNIT_ASSERT_TRUE(test, fake_wait(vbal_wire_in_flight(
						&vb->wire, VBAL_VQ_INFLATE)));
		break;
	case ASLEEP:
		KUNIT_ASSERT_EQ(test, virtio_device_freeze(&h->vdev), 0);
		break;
	case BROKEN_FOR_GOOD:
		h->fail_queue = FAKE_INFLATE;
		fake_host_needs_reset(h);
		KUNIT_ASSERT_TRUE(test,
				  fake_wait(is_at(vb, VBAL_LIFE_DOWN) &&
					    READ_ONCE(vb->nr_recoveries)));
		break;
	case DEAD:
		test_kill(vb);
		break;
	case STOPPING:
		fake_host_silence(h);
		task = run_thread(test, sleep_thread, h);
		KUNIT_ASSERT_TRUE(test,
				  fake_wait(is_at(vb, VBAL_LIFE_STOPPING)));
		break;
	case RESETTING:
		WRITE_ONCE(h->hold_reset, true);
		task = run_thread(test, kill_thread, &vb->wire);
		KUNIT_ASSERT_TRUE(test,
				  fake_wait(is_at(vb, VBAL_LIFE_RESETTING)));
		break;
	case GONE:
		vb->reboot_nb.notifier_call(&vb->reboot_nb, SYS_RESTART, NULL);
		break;
	default:
		break;
	}
	return task;
}

static void migrate_one(struct kunit *test, struct vbal_dev *vb)
{
	struct vbal_pages *vp = &vb->size.pages;
	struct page *page = alloc_page(GFP_HIGHUSER_MOVABLE);
	struct page *newpage = alloc_page(GFP_HIGHUSER_MOVABLE);

	/* What it answers is the migration suite's affair; here: it answers. */
	if (page && newpage && vbal_life_now(&vb->wire.life) != VBAL_LIFE_UP)
		KUNIT_EXPECT_EQ(test,
				vp->migrate(vp, VBAL_MODE_PFN, newpage, page,
					    MIGRATE_SYNC),
				-EAGAIN);
	if (newpage)
		__free_page(newpage);
	if (page)
		__free_page(page);
}

/* The rest of the kernel serialises these with what is on its way. */
static void happen_alone(struct kunit *test, struct vbal_dev *vb,
			 enum event event)
{
	struct device_test *t = test->priv;
	struct fake_host *h = t->h;

	switch (event) {
	case RECOVERY:
		vb->recover_work.work.func(&vb->recover_work.work);
		break;
	case SLEEP:
		KUNIT_EXPECT_EQ(test, virtio_device_freeze(&h->vdev), 0);
		break;
	case WAKE:
		if (vbal_life_is_over(&vb->wire.life))
			virtio_device_restore(&h->vdev);
		break;
	case REBOOT:
		vb->reboot_nb.notifier_call(&vb->reboot_nb, SYS_RESTART, NULL);
		break;
	case UNPLUG:
		test_unplug(test);
		break;
	default:
		break;
	}
}

static void happen(struct kunit *test, struct vbal_dev *vb, enum event event)
{
	struct device_test *t = test->priv;
	struct fake_host *h = t->h;
	unsigned long freed = 0;

	switch (event) {
	case NEW_TARGET:
		fake_host_set_target(h, 77);
		break;
	case NEW_SETTING:
		vbal_size_retry(&vb->size);
		break;
	case OUT_OF_MEMORY:
		vb->size.oom_nb.notifier_call(&vb->size.oom_nb, 0, &freed);
		/* Nobody has to be asked there any more. */
		if (vbal_life_now(&vb->wire.life) == VBAL_LIFE_DEAD)
			KUNIT_EXPECT_GT(test, freed, 0UL);
		freed = 0;
		if (vb->report.registered)
			vb->report.oom_nb.notifier_call(&vb->report.oom_nb, 0,
							&freed);
		break;
	case MIGRATION:
		migrate_one(test, vb);
		break;
	case QUEUE_BREAKS:
		virtio_break_device(&h->vdev);
		fake_host_config_irq(h);
		break;
	case NEEDS_RESET:
		fake_host_needs_reset(h);
		break;
	case PULLED_OUT:
		fake_host_pull_out(h);
		break;
	default:
		break;
	}
}

static bool can_come_back(const struct life_case *c)
{
	return c->where != GONE && c->event != REBOOT && c->event != UNPLUG &&
	       c->event != PULLED_OUT;
}

/* Let everybody go on: the host, the reset, the recovery, the system. */
static void go_on(struct kunit *test, struct vbal_dev *vb, enum event event)
{
	struct device_test *t = test->priv;
	struct fake_host *h = t->h;

	h->fail_queue = -1;
	/* One that was pulled out touches nothing any more. */
	if (event != PULLED_OUT)
		fake_host_speak(h);
	/* The system wakes up, or the recovery is due. */
	if (!vbal_life_is_up(&vb->wire.life))
		mod_delayed_work(vb->side_wq, &vb->recover_work, 0);
}

static void life_takes_every_event_in_every_state(struct kunit *test)
{
	const struct life_case c = *(const struct life_case *)test->param_value;
	struct device_test *t = test->priv;
	struct fake_host *h = test_host(test, PFN | F(DEFLATE_ON_OOM));
	struct vbal_dev *vb = test_plug_bound(test);
	struct task_struct *task;

	test_resize_to(test, FRAMES_2M + 3);
	task = go(test, vb, c.where);
	happen(test, vb, c.event);
	if (!is_passing(c.where))
		happen_alone(test, vb, c.event);
	WRITE_ONCE(h->hold_reset, false);
	if (task) {
		if (c.event != PULLED_OUT)
			fake_host_speak(h);
		kthread_stop(task);
		put_task_struct(task);
		happen_alone(test, vb, c.event);
	}
	if (!t->plugged)
		return;
	go_on(test, vb, c.event);
	if (can_come_back(&c)) {
		KUNIT_EXPECT_TRUE(test, fake_wait(is_at(vb, VBAL_LIFE_UP)));
		test_resize_to(test, 123);
	}
	if (c.event == PULLED_OUT) {
		/* For the sake of the driver core, which looks at it. */
		KUNIT_EXPECT_TRUE(test,
				  fake_wait(!vbal_pages_held(&vb->size.pages)));
		h->status = 0;
		WRITE_ONCE(h->gone, false);
	}
	test_unplug(test);
}

static void every_state_of_life_has_a_name(struct kunit *test)
{
	unsigned int a, b;

	for (a = 0; a < VBAL_NR_LIFE_STATES; a++) {
		KUNIT_ASSERT_NOT_NULL(test, vbal_life_name(a));
		for (b = 0; b < a; b++)
			KUNIT_EXPECT_STRNEQ(test, vbal_life_name(a),
					    vbal_life_name(b));
	}
}

/* How often the other CPU's thread resets the device meanwhile; UINT_MAX: it does not come. */
static unsigned int resets_under_a_lock(struct vbal_dev *vb,
					struct fake_host *h,
					struct task_struct *task)
{
	struct vbal_vq *q = &vb->wire.q[VBAL_VQ_DEFLATE];
	unsigned int nr_resets, nr_ms = 2000;
	unsigned long flags;

	spin_lock_irqsave(&q->lock, flags);
	wake_up_process(task);
	while (!is_at(vb, VBAL_LIFE_RESETTING) && !READ_ONCE(h->nr_resets) &&
	       --nr_ms)
		mdelay(1);
	mdelay(50);
	nr_resets = nr_ms ? READ_ONCE(h->nr_resets) : UINT_MAX;
	spin_unlock_irqrestore(&q->lock, flags);
	return nr_resets;
}

/* He has found it usable, and will notify a host that has no driver any more. */
static void life_resets_nothing_that_is_looked_at(struct kunit *test)
{
	struct fake_host *h = test_host(test, PFN);
	struct vbal_dev *vb = test_plug_bound(test);
	unsigned int nr_resets, nr_tries = 5;
	struct task_struct *task;

	if (num_online_cpus() < 2) {
		kunit_skip(test, "there is one CPU");
		return;
	}
	/* The other CPU may be waiting for this one, which has no interrupts. */
	do {
		task = kthread_create(kill_thread, &vb->wire, "life_test");
		KUNIT_ASSERT_NOT_ERR_OR_NULL(test, task);
		get_task_struct(task);
		migrate_disable();
		kthread_bind(task, cpumask_any_but(cpu_online_mask,
						   smp_processor_id()));
		nr_resets = resets_under_a_lock(vb, h, task);
		migrate_enable();
		KUNIT_EXPECT_TRUE(test, fake_wait(READ_ONCE(h->nr_resets)));
		kthread_stop(task);
		put_task_struct(task);
		KUNIT_ASSERT_TRUE(test, fake_wait(is_at(vb, VBAL_LIFE_UP)));
		if (nr_resets == UINT_MAX)
			WRITE_ONCE(h->nr_resets, 0);
	} while (nr_resets == UINT_MAX && --nr_tries);
	KUNIT_EXPECT_EQ(test, nr_resets, 0U);
}

static struct kunit_case life_test_cases[] = {
	KUNIT_CASE(every_state_of_life_has_a_name),
	KUNIT_CASE(life_has_no_other_steps),
	KUNIT_CASE(life_lets_the_right_ones_talk),
	KUNIT_CASE(life_resets_nothing_that_is_looked_at),
	KUNIT_CASE_PARAM(life_takes_every_event_in_every_state,
			 life_gen_params),
	{}
};

DEVICE_SUITE(life);
