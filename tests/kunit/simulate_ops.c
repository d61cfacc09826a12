// SPDX-License-Identifier: GPL-2.0-only
/*
 * What may happen: the table at the end, and what each line of it does. Steps
 * that cost seconds of waiting are left out where time is real.
 */
#include "simulate.h"

#include <linux/fault-inject.h>
#include <linux/fs.h>
#include <linux/memory.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/suspend.h>

#define SIM_SMALL_FRAMES 700
#define SIM_LARGE_FRAMES (16384u)
#define SIM_MAX_NTH 40
/* One notifier waits for what is held, the other for a report. */
#define SIM_OOM_MS (2 * VBAL_OOM_WAIT_MS + VBAL_GRACE_MS)
/* The fake host has no rings of that kind. */
#define SIM_CANNOT \
	(BIT_ULL(VIRTIO_F_RING_PACKED) | BIT_ULL(VIRTIO_F_ACCESS_PLATFORM))

static const u16 sim_ring_sizes[] = { 128, 128, 128, 256, 32, 8, 4, 2, 1 };

static bool sim_chance(struct sim *s, unsigned int percent)
{
	return sim_draw(s, 100) < percent;
}

static bool sim_is_slow(struct sim *s)
{
	return s->vb && s->plan->slow && !s->pulled_out && !s->rebooted;
}

static bool sim_is_there(struct sim *s)
{
	return s->vb && !s->pulled_out;
}

static bool sim_can_be_up(struct sim *s)
{
	return sim_is_there(s) && !s->rebooted;
}

static bool sim_host_answers(struct sim *s)
{
	return !s->mute && !s->lost && !READ_ONCE(s->h->twice);
}

/* Where a silent host costs seconds. */
static bool sim_has_time(struct sim *s)
{
	return s->plan->slow || sim_host_answers(s);
}

static bool sim_can_wait(struct sim *s)
{
	return sim_can_be_up(s) && sim_has_time(s);
}

static enum fake_queue sim_draw_queue(struct sim *s)
{
	return sim_draw(s, FAKE_NR_QUEUES);
}

/* The host's target ----------------------------------------------------------- */

static void sim_set_target(struct sim *s, u32 nr_frames)
{
	s->lowest_target =
		min(s->lowest_target, vbal_frames_to_pages(nr_frames));
	fake_host_set_target(s->h, nr_frames);
}

static u32 sim_large_frames(struct sim *s)
{
	return min_t(u64, SIM_LARGE_FRAMES,
		     vbal_pages_to_frames(s->total_before / 3));
}

static void sim_target_small(struct sim *s)
{
	sim_set_target(s, sim_draw(s, SIM_SMALL_FRAMES));
}

static void sim_target_large(struct sim *s)
{
	sim_set_target(s, sim_draw(s, sim_large_frames(s)));
}

static void sim_target_near(struct sim *s)
{
	u32 frames = sim_target(s), by = 1 + sim_draw(s, 3);

	if (frames > sim_large_frames(s))
		frames = sim_large_frames(s);
	sim_set_target(s, sim_chance(s, 50) ? frames + by :
					      frames - min(frames, by));
}

static void sim_target_zero(struct sim *s)
{
	sim_set_target(s, 0);
}

static bool sim_may_be_absurd(struct sim *s)
{
	return sim_can_be_up(s) && !s->squeezed &&
	       s->vb->size.guard.floor_pages >= s->total_before / 8;
}

static void sim_target_absurd(struct sim *s)
{
	sim_set_target(s, sim_chance(s, 50) ?
				  U32_MAX :
				  vbal_pages_to_frames(s->total_before));
}

/* The host's queues ------------------------------------------------------------ */

static void sim_spurious_config_irq(struct sim *s)
{
	fake_host_config_irq(s->h);
}

static void sim_spurious_irq(struct sim *s)
{
	struct fake_vq *q = &s->h->q[sim_draw_queue(s)];

	if (q->vq)
		irq_work_queue(&q->irq);
}

static void sim_queue_silent(struct sim *s)
{
	enum fake_queue kind = sim_draw_queue(s);

	s->mute |= BIT(kind);
	fake_host_set_budget(s->h, kind, 0);
}

static void sim_queue_stingy(struct sim *s)
{
	enum fake_queue kind = sim_draw_queue(s);

	s->mute |= BIT(kind);
	fake_host_set_budget(s->h, kind, 1 + sim_draw(s, 4));
}

static void sim_queue_lazy(struct sim *s)
{
	enum fake_queue kind = sim_draw_queue(s);

	s->mute |= BIT(kind);
	fake_host_set_lazy(s->h, kind, true);
}

static void sim_queue_speaks(struct sim *s)
{
	enum fake_queue kind = sim_draw_queue(s);

	s->mute &= ~BIT(kind);
	fake_host_set_lazy(s->h, kind, false);
	fake_host_set_budget(s->h, kind, FAKE_UNLIMITED);
}

static void sim_host_speaks(struct sim *s)
{
	s->mute = 0;
	fake_host_speak(s->h);
}

static void sim_host_silent(struct sim *s)
{
	s->mute = ~0UL;
	fake_host_silence(s->h);
}

static void sim_reverse(struct sim *s)
{
	WRITE_ONCE(s->h->reverse, !s->h->reverse);
}

static void sim_used_length(struct sim *s)
{
	WRITE_ONCE(s->h->used_len, sim_chance(s, 50) ? U32_MAX : 0);
}

/* What it has read and not answered it forgets. */
static void sim_lose_answers(struct sim *s)
{
	struct fake_vq *q = &s->h->q[sim_draw_queue(s)];

	mutex_lock(&s->h->lock);
	s->lost |= q->nr_heads;
	q->nr_heads = 0;
	mutex_unlock(&s->h->lock);
}

static void sim_answer_twice(struct sim *s)
{
	WRITE_ONCE(s->h->twice, true);
}

/* Lies: no accident of a host's looks like this ----------------------------------- */

static u32 sim_draw_u32(struct sim *s)
{
	return sim_draw(s, U16_MAX + 1) << 16 | sim_draw(s, U16_MAX + 1);
}

/* Mostly of a buffer that may be there, at times of none that can. */
static void sim_forge_answer(struct sim *s)
{
	enum fake_queue kind = sim_draw_queue(s);
	u32 id = sim_chance(s, 80) ? sim_draw(s, 256) : sim_draw_u32(s);

	s->lied = true;
	s->lost = true;
	fake_host_forge(s->h, kind, id, sim_draw_u32(s));
}

static void sim_scribble(struct sim *s)
{
	u8 *config = (u8 *)&s->h->config;
	unsigned int at = sim_draw(s, sizeof(s->h->config));

	s->lied = true;
	s->lost = true;
	s->lowest_target = 0;
	WRITE_ONCE(config[at], sim_draw(s, 256));
	fake_host_config_irq(s->h);
}

/* The device breaks ------------------------------------------------------------ */

static void sim_needs_reset(struct sim *s)
{
	fake_host_needs_reset(s->h);
}

static void sim_queues_break(struct sim *s)
{
	virtio_break_device(&s->h->vdev);
	fake_host_config_irq(s->h);
}

static void sim_no_queue(struct sim *s)
{
	s->h->fail_queue = sim_draw_queue(s);
}

static void sim_pull_out(struct sim *s)
{
	fake_host_pull_out(s->h);
	s->pulled_out = true;
}

static void sim_recovery_is_due(struct sim *s)
{
	mod_delayed_work(s->vb->side_wq, &s->vb->recover_work, 0);
}

/* Statistics, hints -------------------------------------------------------------- */

static bool sim_has_stats(struct sim *s)
{
	return sim_is_up(s) && s->h->q[FAKE_STATS].vq &&
	       !(s->mute & BIT(FAKE_STATS)) &&
	       vbal_wire_has(&s->vb->wire, VIRTIO_BALLOON_F_STATS_VQ);
}

/* Whatever else the host does, or does not do. */
static void sim_ask_stats(struct sim *s)
{
	unsigned int nr_resets = s->h->nr_resets;
	bool answered;

	s->end_jiffies = jiffies + 2 * HZ;
	if (!s->plan->slow)
		s->end_jiffies += 58 * HZ;
	answered = sim_stats_come(s);
	if (!answered && !s->lied && sim_has_stats(s) &&
	    nr_resets == s->h->nr_resets && !vbal_wire_is_broken(&s->vb->wire))
		sim_fail(s, "the host's question is not answered");
	s->end_jiffies = jiffies + HZ;
}

static bool sim_has_hints(struct sim *s)
{
	return sim_can_be_up(s) &&
	       vbal_wire_has(&s->vb->wire, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
}

static void sim_hint(struct sim *s)
{
	static const u32 ids[] = {
		VIRTIO_BALLOON_CMD_ID_STOP,
		VIRTIO_BALLOON_CMD_ID_DONE,
		VIRTIO_BALLOON_CMD_ID_DONE,
		U32_MAX,
	};
	unsigned int i = sim_draw(s, 2 * ARRAY_SIZE(ids));

	fake_host_set_hint_cmd(s->h,
			       i < ARRAY_SIZE(ids) ? ids[i] : s->step + 2);
}

/* The guest's memory --------------------------------------------------------------- */

static bool sim_may_take(struct sim *s)
{
	return s->nr_pages < s->total_before / 5;
}

static void sim_take(struct sim *s)
{
	const gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;
	unsigned int order = sim_draw(s, 10), nr = 1 + sim_draw(s, 4);

	while (nr--) {
		unsigned long own_before = fake_books_own_pages();
		struct page *page = alloc_pages(gfp, order);

		if (!page)
			return;
		set_page_private(page, order);
		list_add(&page->lru, &s->pages);
		s->nr_pages += 1UL << order;
		/* Not all of them where the books cannot tell who allocates. */
		s->nr_own += fake_books_own_pages() - own_before;
	}
}

static bool sim_has_taken(struct sim *s)
{
	return s->nr_pages;
}

void sim_let_go(struct sim *s)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &s->pages, lru) {
		list_del(&page->lru);
		s->nr_pages -= 1UL << page_private(page);
		__free_pages(page, page_private(page));
	}
	s->nr_own = 0;
}

static bool sim_has_oom(struct sim *s)
{
	return sim_is_there(s) && sim_has_time(s) &&
	       vbal_wire_has(&s->vb->wire, VIRTIO_BALLOON_F_DEFLATE_ON_OOM);
}

static void sim_out_of_memory(struct sim *s)
{
	struct notifier_block *report_nb = &s->vb->report.oom_nb;
	struct vbal_size *size = &s->vb->size;
	unsigned long held = vbal_pages_held(&size->pages);
	unsigned long start = jiffies, freed = 0, left;

	size->oom_nb.notifier_call(&size->oom_nb, 0, &freed);
	left = vbal_pages_held(&size->pages);
	if (left < held && freed < held - left)
		sim_fail(s, "out of memory: %lu freed, %lu told", held - left,
			 freed);
	if (s->vb->report.registered)
		report_nb->notifier_call(report_nb, 0, &freed);
	if (s->plan->slow &&
	    time_after(jiffies, start + msecs_to_jiffies(SIM_OOM_MS)))
		sim_fail(s, "out of memory: waited for the host");
}

static void sim_reclaim_begins(struct sim *s)
{
	struct vbal_guard *g = &s->vb->size.guard;

	if (sim_is_up(s) && g->wake)
		g->wake(g);
}

/* Both notifiers, as the kernel would call them. */
static void sim_notify_memory(struct sim *s, unsigned long action)
{
	struct notifier_block *size_nb = &s->vb->size.memory_nb;
	struct notifier_block *hint_nb = &s->vb->hint.memory_nb;

	size_nb->notifier_call(size_nb, action, NULL);
	if (READ_ONCE(s->vb->hint.running))
		hint_nb->notifier_call(hint_nb, action, NULL);
	s->offlining = action == MEM_GOING_OFFLINE;
}

static void sim_memory_event(struct sim *s)
{
	if (!s->offlining)
		sim_notify_memory(s, MEM_GOING_OFFLINE);
	else
		sim_notify_memory(s, sim_chance(s, 50) ? MEM_OFFLINE :
							 MEM_CANCEL_OFFLINE);
}

/* Pages that make way ---------------------------------------------------------------- */

/* Locked, with a reference; as compaction looks for them: it may be out by then. */
static struct page *sim_lock_held_page(struct sim *s)
{
	enum vbal_mode mode = sim_draw(s, VBAL_NR_MODES);
	struct balloon_dev_info *bdi = &s->vb->size.pages.bag[mode].singles;
	unsigned int skip = sim_draw(s, 8);
	struct page *page, *found = NULL;

	spin_lock_irq(&bdi->pages_lock);
	list_for_each_entry(page, &bdi->pages, lru) {
		found = page;
		if (!skip--)
			break;
	}
	if (found && !get_page_unless_zero(found))
		found = NULL;
	spin_unlock_irq(&bdi->pages_lock);
	if (!found)
		return NULL;
	lock_page(found);
	return found;
}

static void sim_exchange(struct sim *s, struct page *page, struct page *newpage)
{
	enum migrate_mode mode = sim_chance(s, 50) ? MIGRATE_SYNC :
						     MIGRATE_ASYNC;
	unsigned long held = vbal_pages_held(&s->vb->size.pages);
	int ret = test_exchange_locked_page(page, newpage, mode);

	put_page(newpage);
	if (ret && ret != -EAGAIN && ret != -EBUSY)
		sim_fail(s, "a page that moves: %d", ret);
	if (!ret && num_online_cpus() == 1 &&
	    held != vbal_pages_held(&s->vb->size.pages) && sim_is_up(s) &&
	    mode == MIGRATE_ASYNC)
		sim_fail(s, "a page that moves changed the size");
}

static void sim_migrate(struct sim *s)
{
	struct page *newpage =
		alloc_page(GFP_HIGHUSER_MOVABLE | __GFP_NORETRY | __GFP_NOWARN);
	struct page *page = newpage ? sim_lock_held_page(s) : NULL;

	if (page)
		sim_exchange(s, page, newpage);
	else if (newpage)
		__free_page(newpage);
}

static bool sim_may_isolate(struct sim *s)
{
	return sim_can_wait(s) && !s->isolated;
}

static void sim_isolate(struct sim *s)
{
	struct page *page = sim_lock_held_page(s);

	if (!page)
		return;
	if (test_isolate_page(page))
		s->isolated = page;
	unlock_page(page);
	if (!s->isolated)
		put_page(page);
}

static bool sim_has_isolated(struct sim *s)
{
	return s->isolated;
}

void sim_put_back_isolated(struct sim *s)
{
	struct page *page = s->isolated;

	if (!page)
		return;
	lock_page(page);
	test_put_back_page(page);
	unlock_page(page);
	put_page(page);
	s->isolated = NULL;
}

static bool sim_can_compact(struct sim *s)
{
	return IS_ENABLED(CONFIG_COMPACTION) && sim_can_wait(s);
}

/* By the kernel itself, all of memory; as people ask for it. */
static void sim_compact(struct sim *s)
{
	struct file *file =
		filp_open("/proc/sys/vm/compact_memory", O_WRONLY, 0);
	loff_t pos = 0;

	if (IS_ERR(file)) {
		sim_fail(s, "compaction: %ld", PTR_ERR(file));
		return;
	}
	if (kernel_write(file, "1", 1, &pos) != 1)
		sim_fail(s, "compaction cannot be asked for");
	filp_close(file, NULL);
}

/* Settings ---------------------------------------------------------------------------- */

static struct device_attribute *sim_attr(unsigned int i)
{
	struct attribute *attr = vbal_dev_groups[0]->attrs[i];

	return attr ? container_of(attr, struct device_attribute, attr) : NULL;
}

static void sim_write(struct sim *s, const char *name, const char *text)
{
	struct device *dev = &s->h->vdev.dev;
	struct device_attribute *attr;
	ssize_t ret = -ENOENT;
	unsigned int i;

	for (i = 0; (attr = sim_attr(i)); i++)
		if (!strcmp(attr->attr.name, name))
			ret = attr->store(dev, attr, text, strlen(text));
	if (ret != strlen(text))
		sim_fail(s, "%s=%s: %zd", name, text, ret);
	s->lowest_floor = min(s->lowest_floor, s->vb->size.guard.floor_pages);
}

static void sim_write_floor(struct sim *s)
{
	/* Beside a host that may have any report for ever: see tests/run/fuzz. */
	unsigned int least = s->plan->input ? 50 : 0;
	unsigned int percent = least + sim_draw(s, 90 - least);
	char text[16];

	/* The floor alone may be what keeps the guest alive. */
	if (percent < 20 && sim_target(s) > sim_large_frames(s))
		sim_target_large(s);
	snprintf(text, sizeof(text), "%u%%", percent);
	sim_write(s, "floor_bytes", text);
}

static void sim_write_reserve(struct sim *s)
{
	char text[16];

	snprintf(text, sizeof(text), "%u%%", sim_draw(s, 40));
	sim_write(s, "reserve_bytes", text);
}

/* Squeezed, the guest's kernel itself has to be left enough to live. */
static void sim_write_policy(struct sim *s)
{
	bool squeeze = sim_chance(s, 50);

	if (squeeze && sim_target(s) > sim_large_frames(s))
		sim_target_large(s);
	s->squeezed |= squeeze;
	sim_write(s, "policy", squeeze ? "squeeze" : "protect");
}

/* Those that the kernel would show. */
static void sim_read_all(struct sim *s)
{
	const struct attribute_group *group = vbal_dev_groups[0];
	char *buf = (char *)__get_free_page(GFP_KERNEL);
	struct device *dev = &s->h->vdev.dev;
	struct device_attribute *attr;
	unsigned int i;

	for (i = 0; buf && (attr = sim_attr(i)); i++)
		if (group->is_visible(&dev->kobj, &attr->attr, i) &&
		    attr->show(dev, attr, buf) <= 0)
			sim_fail(s, "%s cannot be read", attr->attr.name);
	free_page((unsigned long)buf);
}

/* Allocations that fail ---------------------------------------------------------------- */

struct sim_failing {
	struct work_struct work;
	struct vbal_size *size;
	unsigned int nth;
};

/* On the size worker's own queue: there is never more than one of them. */
static void sim_failing_fn(struct work_struct *work)
{
#ifdef CONFIG_FAULT_INJECTION
	struct sim_failing *failing =
		container_of(work, struct sim_failing, work);

	WRITE_ONCE(current->fail_nth, failing->nth);
	failing->size->work.work.func(&failing->size->work.work);
	WRITE_ONCE(current->fail_nth, 0);
#endif
}

static bool sim_may_fail(struct sim *s)
{
	return IS_ENABLED(CONFIG_FAIL_PAGE_ALLOC) && sim_is_up(s) &&
	       !s->pulled_out && sim_host_answers(s);
}

static void sim_allocation_fails(struct sim *s)
{
	struct sim_failing failing = {
		.size = &s->vb->size,
		.nth = 1 + sim_draw(s, SIM_MAX_NTH),
	};

	INIT_WORK_ONSTACK(&failing.work, sim_failing_fn);
	queue_work(s->vb->size.wq, &failing.work);
	flush_work(&failing.work);
	destroy_work_on_stack(&failing.work);
}

/* Life ----------------------------------------------------------------------------------- */

static u64 sim_draw_features(struct sim *s)
{
	u64 features = 0;

	if (sim_chance(s, 85))
		features |= MODERN;
	if (sim_chance(s, 70))
		features |= EVENT_IDX;
	if (sim_chance(s, 80))
		features |= F(STATS_VQ);
	if (sim_chance(s, 25))
		features |= F(MUST_TELL_HOST);
	if (sim_chance(s, 60))
		features |= F(DEFLATE_ON_OOM);
	if (sim_chance(s, 60))
		features |= F(REPORTING);
	if (sim_chance(s, 50))
		features |= F(FREE_PAGE_HINT);
	return features;
}

/* What no sane host has: queues that are missing, features that nobody knows. */
static void sim_draw_oddities(struct sim *s)
{
	s->h->missing = sim_draw(s, 16) == 1 ? ~0UL << sim_draw_queue(s) : 0;
	if (sim_draw(s, 8) == 1)
		s->h->offered |= BIT_ULL(sim_draw(s, 64)) & ~SIM_CANNOT;
}

static void sim_prepare_host(struct sim *s)
{
	struct fake_host *h = s->h;
	unsigned int kind;

	h->offered = sim_draw_features(s);
	if (s->plan->input)
		sim_draw_oddities(s);
	for (kind = 0; kind < FAKE_NR_QUEUES; kind++)
		h->ring_size[kind] =
			sim_ring_sizes[sim_draw(s, ARRAY_SIZE(sim_ring_sizes))];
	memset(&h->config, 0, sizeof(h->config));
	h->config.num_pages = cpu_to_le32(sim_draw(s, SIM_SMALL_FRAMES));
	h->fail_queue = -1;
	h->twice = false;
	h->reverse = sim_chance(s, 20);
	h->nr_reported = 0;
	h->nr_resets = 0;
	h->nr_tags = 0;
	sim_host_speaks(s);
}

void sim_plug(struct sim *s)
{
	sim_prepare_host(s);
	if (s->plan->trace)
		pr_info("simulate: the host offers %llx, lacks queues %lx\n",
			s->h->offered, s->h->missing);
	s->lost = false;
	s->pulled_out = false;
	s->rebooted = false;
	s->offlining = false;
	if (fake_host_plug(s->h)) {
		sim_fail(s, "the device could not be plugged in");
		return;
	}
	if (!fake_host_bound(s->h) && s->h->missing) {
		fake_host_unplug(s->h);
		return;
	}
	if (!fake_host_bound(s->h)) {
		sim_fail(s, "the driver did not want the device");
		return;
	}
	s->vb = vbal_dev_of(&s->h->vdev);
	sim_rests(s);
}

static bool sim_is_unplugged(struct sim *s)
{
	return !s->vb;
}

static bool sim_may_unplug(struct sim *s)
{
	return s->vb && sim_has_time(s);
}

void sim_unplug(struct sim *s)
{
	sim_put_back_isolated(s);
	sim_check_interrupts(s);
	if (s->pulled_out) {
		/* For the sake of the driver core, which looks at it. */
		s->h->status = 0;
		WRITE_ONCE(s->h->gone, false);
	}
	fake_host_unplug(s->h);
	s->vb = NULL;
	sim_check_unplugged(s);
}

/* The kernel freezes the driver's works meanwhile; here nobody else may begin. */
static void sim_sleep(struct sim *s)
{
	struct vbal_dev *vb = s->vb;
	struct device *dev = &s->h->vdev.dev;
	bool pending;

	sim_put_back_isolated(s);
	vb->pm_nb.notifier_call(&vb->pm_nb, PM_SUSPEND_PREPARE, NULL);
	pending = cancel_delayed_work_sync(&vb->recover_work);
	device_lock(dev);
	if (virtio_device_freeze(&s->h->vdev))
		sim_fail(s, "the device does not go to sleep");
	if (vbal_pages_held(&vb->size.pages) || test_books_frames())
		sim_fail(s, "asleep, but pages are held");
	if (sim_chance(s, 50))
		sim_target_small(s);
	if (sim_chance(s, 30))
		sim_host_speaks(s);
	if (virtio_device_restore(&s->h->vdev) && s->h->fail_queue < 0)
		sim_fail(s, "the device does not wake up");
	device_unlock(dev);
	vb->pm_nb.notifier_call(&vb->pm_nb, PM_POST_SUSPEND, NULL);
	if (pending)
		mod_delayed_work(vb->side_wq, &vb->recover_work, HZ);
}

static void sim_reboot(struct sim *s)
{
	struct notifier_block *nb = &s->vb->reboot_nb;

	sim_put_back_isolated(s);
	nb->notifier_call(nb, SYS_RESTART, NULL);
	s->rebooted = true;
	if (vbal_pages_held(&s->vb->size.pages) || test_books_frames())
		sim_fail(s, "rebooting, but pages are held");
}

/* Time ------------------------------------------------------------------------------------- */

static void sim_moment(struct sim *s)
{
	sim_pause(1 + sim_draw(s, 40));
}

static void sim_seconds(struct sim *s)
{
	sim_pause(1 + sim_draw(s, 4000));
}

static void sim_set_right(struct sim *s)
{
	sim_put_back_isolated(s);
	if (s->offlining)
		sim_notify_memory(s, MEM_CANCEL_OFFLINE);
	WRITE_ONCE(s->h->twice, false);
	s->h->fail_queue = -1;
	if (s->lost)
		fake_host_needs_reset(s->h);
	s->lost = false;
	sim_host_speaks(s);
	fake_host_config_irq(s->h);
}

/* Nobody need have noticed that it was pulled out; who has takes the pages back. */
static bool sim_is_over(struct sim *s)
{
	enum vbal_life_state state = vbal_life_now(&s->vb->wire.life);

	if (state == VBAL_LIFE_UP)
		return s->pulled_out;
	return state == (s->rebooted ? VBAL_LIFE_GONE : VBAL_LIFE_DOWN) &&
	       !vbal_pages_held(&s->vb->size.pages);
}

/* One that is gone for good only loses its pages. */
static void sim_settle_gone(struct sim *s)
{
	sim_put_back_isolated(s);
	if (!sim_wait(s, sim_is_over(s)))
		sim_fail(s, "the device is gone, but not its pages");
}

/* Whatever was wrong is set right, and the driver comes to rest. */
void sim_settle(struct sim *s)
{
	if (!s->vb)
		return;
	if (s->pulled_out || s->rebooted) {
		sim_settle_gone(s);
		return;
	}
	sim_set_right(s);
	if (!sim_wait(s, sim_is_at_rest(s))) {
		sim_fail(s, "no rest: %s, %s, %s; %lu of %u frames",
			 vbal_life_name(vbal_life_now(&s->vb->wire.life)),
			 vbal_state_name(s->vb->size.state), s->vb->size.why,
			 vbal_pages_held(&s->vb->size.pages), sim_target(s));
		return;
	}
	sim_check_rest(s);
	sim_rests(s);
}

struct sim_op sim_ops[] = {
	/* the host's wishes */
	{ "target: small", 14, sim_is_there, sim_target_small },
	{ "target: large", 3, sim_is_there, sim_target_large },
	{ "target: a frame or two more or less", 5, sim_is_there,
	  sim_target_near },
	{ "target: zero", 3, sim_is_there, sim_target_zero },
	{ "target: all there is, and more", 1, sim_may_be_absurd,
	  sim_target_absurd },
	{ "statistics are asked for", 8, sim_has_stats, sim_ask_stats },
	{ "hint command", 6, sim_has_hints, sim_hint },
	/* the host's manners */
	{ "interrupt: config, for nothing", 3, sim_is_there,
	  sim_spurious_config_irq },
	{ "interrupt: a queue's, for nothing", 3, sim_is_there,
	  sim_spurious_irq },
	{ "host: a queue is not read", 3, sim_can_wait, sim_queue_silent },
	{ "host: a queue is read little", 3, sim_can_wait, sim_queue_stingy },
	{ "host: a queue is not answered", 3, sim_can_wait, sim_queue_lazy },
	{ "host: a queue is served again", 6, sim_is_there, sim_queue_speaks },
	{ "host: all are served again", 6, sim_is_there, sim_host_speaks },
	{ "host: says nothing at all", 1, sim_can_wait, sim_host_silent },
	{ "host: order of answers", 3, sim_is_there, sim_reverse },
	{ "host: used lengths", 1, sim_is_there, sim_used_length },
	{ "host: answers are lost", 2, sim_is_slow, sim_lose_answers },
	{ "host: answers twice", 1, sim_is_slow, sim_answer_twice },
	{ "host: answers what it was not asked", 6, sim_is_slow,
	  sim_forge_answer, true },
	{ "host: scribbles over its config space", 4, sim_may_be_absurd,
	  sim_scribble, true },
	/* the device */
	{ "device: needs a reset", 1, sim_is_slow, sim_needs_reset },
	{ "device: queues break", 1, sim_is_slow, sim_queues_break },
	{ "device: a queue cannot be had", 1, sim_is_slow, sim_no_queue },
	{ "device: pulled out", 1, sim_is_slow, sim_pull_out },
	{ "device: recovery is due", 1, sim_can_be_up, sim_recovery_is_due },
	{ "device: unplugged", 1, sim_may_unplug, sim_unplug },
	{ "device: plugged in", 20, sim_is_unplugged, sim_plug },
	/* the guest */
	{ "guest: takes memory", 4, sim_may_take, sim_take },
	{ "guest: lets go of memory", 3, sim_has_taken, sim_let_go },
	{ "guest: out of memory", 4, sim_has_oom, sim_out_of_memory },
	{ "guest: reclaim begins", 2, sim_is_there, sim_reclaim_begins },
	{ "guest: a page moves", 12, sim_can_wait, sim_migrate },
	{ "guest: a page is taken out", 3, sim_may_isolate, sim_isolate },
	{ "guest: and put back", 5, sim_has_isolated, sim_put_back_isolated },
	{ "guest: memory is compacted", 2, sim_can_compact, sim_compact },
	{ "guest: memory on and off", 2, sim_can_be_up, sim_memory_event },
	{ "guest: an allocation fails", 3, sim_may_fail, sim_allocation_fails },
	{ "guest: sleeps and wakes", 1, sim_can_wait, sim_sleep },
	{ "guest: reboots", 1, sim_can_wait, sim_reboot },
	/* people */
	{ "setting: floor", 1, sim_can_be_up, sim_write_floor },
	{ "setting: reserve", 1, sim_can_be_up, sim_write_reserve },
	{ "setting: policy", 1, sim_can_be_up, sim_write_policy },
	{ "sysfs is read", 2, sim_is_there, sim_read_all },
	/* time */
	{ "time: a moment", 12, NULL, sim_moment },
	{ "time: seconds", 3, sim_is_slow, sim_seconds },
	{ "time: all comes to rest", 8, NULL, sim_settle },
};

const unsigned int sim_nr_ops = ARRAY_SIZE(sim_ops);
