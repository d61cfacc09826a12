/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * All that this driver knows of kernel versions. Code elsewhere is written for
 * the newest form; each block below brings an older kernel up to it. What can
 * be asked of the headers is asked of them: Kbuild greps for VBAL_HAVE_*.
 */
#ifndef _VBALLOON_COMPAT_H
#define _VBALLOON_COMPAT_H

#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/page_reporting.h>
#include <linux/shrinker.h>
#include <linux/version.h>
#include <linux/virtio.h>
#include <linux/virtio_balloon.h>
#include <linux/virtio_config.h>
#include <linux/vmstat.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 1, 0)
#error "vballoon needs Linux 6.1 or newer"
#endif

/* v7.0: CONFIG_BALLOON is the new name. A driver of the kernel's own selects it. */
#if !defined(CONFIG_MEMORY_BALLOON) && !defined(CONFIG_BALLOON)
#error "vballoon needs a kernel with CONFIG_MEMORY_BALLOON (since v7.0: CONFIG_BALLOON)"
#endif

/* v7.0: <linux/balloon.h> replaces <linux/balloon_compaction.h> */
#ifdef VBAL_HAVE_BALLOON_H
#include <linux/balloon.h>
#else
#include <linux/balloon_compaction.h>
#endif

/* v6.8: MAX_PAGE_ORDER, the largest order; MAX_ORDER was one more until v6.4 */
#ifndef MAX_PAGE_ORDER
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
#define MAX_PAGE_ORDER (MAX_ORDER - 1)
#else
#define MAX_PAGE_ORDER MAX_ORDER
#endif
#endif

/* v6.11: virtio_find_vqs() takes an array of struct virtqueue_info */
#ifndef VBAL_HAVE_VIRTQUEUE_INFO
struct virtqueue_info {
	const char *name;
	vq_callback_t *callback;
	bool ctx;
};

#define VBAL_COMPAT_MAX_VQS 8

static inline int vbal_compat_find_vqs(struct virtio_device *vdev,
				       unsigned int nvqs,
				       struct virtqueue *vqs[],
				       struct virtqueue_info vqs_info[],
				       struct irq_affinity *desc)
{
	vq_callback_t *callbacks[VBAL_COMPAT_MAX_VQS];
	const char *names[VBAL_COMPAT_MAX_VQS];
	unsigned int i;

	if (WARN_ON_ONCE(nvqs > VBAL_COMPAT_MAX_VQS))
		return -EINVAL;
	for (i = 0; i < nvqs; i++) {
		callbacks[i] = vqs_info[i].callback;
		names[i] = vqs_info[i].name;
	}
	return virtio_find_vqs(vdev, nvqs, vqs, callbacks, names, desc);
}

#define virtio_find_vqs vbal_compat_find_vqs

static inline struct virtqueue_info
vbal_compat_wanted_vq(vq_callback_t *callbacks[], const char *const names[],
		      const bool *ctx, unsigned int i)
{
	return (struct virtqueue_info){ names[i], callbacks[i], ctx && ctx[i] };
}

/* What a transport is asked for, and the n-th of it; the tests have one. */
#define VBAL_WANTED_VQS \
	vq_callback_t *callbacks[], const char *const names[], const bool *ctx
#define VBAL_WANTED_VQ(_n) vbal_compat_wanted_vq(callbacks, names, ctx, _n)
#else
#define VBAL_WANTED_VQS struct virtqueue_info wanted[]
#define VBAL_WANTED_VQ(_n) (wanted[_n])
#endif

/* v6.12: statistics tags 10 to 15 */
#ifndef VIRTIO_BALLOON_S_OOM_KILL
#define VIRTIO_BALLOON_S_OOM_KILL 10
#define VIRTIO_BALLOON_S_ALLOC_STALL 11
#define VIRTIO_BALLOON_S_ASYNC_SCAN 12
#define VIRTIO_BALLOON_S_DIRECT_SCAN 13
#define VIRTIO_BALLOON_S_ASYNC_RECLAIM 14
#define VIRTIO_BALLOON_S_DIRECT_RECLAIM 15
#endif

/* Selected by virtio_balloon and hv_balloon, and by vmw_balloon not. */
#ifndef CONFIG_PAGE_REPORTING
#define page_reporting_register(prdev) ((void)(prdev), -EOPNOTSUPP)
#define page_reporting_unregister(prdev) ((void)(prdev))
#endif

/* v6.17: virtio_get_features() fills an array; v6.18 names its size */
#ifndef VIRTIO_FEATURES_U64S
#define VIRTIO_FEATURES_U64S 2
#endif
#ifndef VBAL_HAVE_VIRTIO_GET_FEATURES
static inline void virtio_get_features(struct virtio_device *vdev,
				       u64 *features_out)
{
	features_out[0] = vdev->config->get_features(vdev);
	features_out[1] = 0;
}
#endif

/* v7.0: CONFIG_BALLOON_COMPACTION is called CONFIG_BALLOON_MIGRATION */
#define VBAL_PAGES_CAN_MOVE                       \
	(IS_ENABLED(CONFIG_BALLOON_COMPACTION) || \
	 IS_ENABLED(CONFIG_BALLOON_MIGRATION))

/* Where free pages lie that only what can move is given; without CMA as all others. */
#ifdef CONFIG_CMA
#define VBAL_MIGRATE_CMA MIGRATE_CMA
#else
#define VBAL_MIGRATE_CMA MIGRATE_MOVABLE
#endif

static inline bool vbal_zone_has_cma(const struct zone *zone)
{
#ifdef CONFIG_CMA
	return zone->cma_pages;
#else
	return false;
#endif
}

/* v7.0: ballooned pages are counted per node, under nr_balloon_pages */
static inline void vbal_mod_balloon_pages(struct page *page, long nr_pages)
{
#ifdef VBAL_HAVE_NR_BALLOON_PAGES
	mod_node_page_state(page_pgdat(page), NR_BALLOON_PAGES, nr_pages);
#endif
}

/*
 * v7.0: the core leaves it to the allocator to take the mark off its pages, which
 * does so with the first page of a block only. Only while nobody can have a
 * reference: with the mark a page goes by what is in its private field.
 */
static inline void vbal_balloon_page_unmark(struct page *page)
{
	if (PageOffline(page))
		__ClearPageOffline(page);
}

/*
 * v6.10: memory profiling has a mark for each page that is allocated; of a block that
 * is freed the allocator looks at the first page's only.
 */
static inline bool vbal_pages_may_join(void)
{
#ifdef CONFIG_MEM_ALLOC_PROFILING
	return !mem_alloc_profiling_enabled();
#else
	return true;
#endif
}

/*
 * v7.0: the core puts the new page on the list and lets go of the old one.
 * CONFIG_BALLOON_MIGRATION is the new name of CONFIG_BALLOON_COMPACTION; without
 * either the core never calls a driver's migratepage.
 */
static inline void vbal_balloon_page_swap(struct balloon_dev_info *bdi,
					  struct page *newpage,
					  struct page *page)
{
#if !defined(VBAL_HAVE_BALLOON_H) && defined(CONFIG_BALLOON_COMPACTION)
	unsigned long flags;

	get_page(newpage);
	spin_lock_irqsave(&bdi->pages_lock, flags);
	balloon_page_insert(bdi, newpage);
	bdi->isolated_pages--;
	count_vm_event(BALLOON_MIGRATE);
	spin_unlock_irqrestore(&bdi->pages_lock, flags);
	balloon_page_finalize(page);
	put_page(page);
#endif
}

/*
 * May a page that was taken from the core be put on its list again? v7.0: always.
 * Before, the core expects that nobody has the page's lock (BUG_ON), as somebody may
 * who has had a reference since it was the core's; who comes later does not take it
 * for one of those any more: until v6.16 by its mapping, since v6.17 by its mark.
 */
static inline bool vbal_balloon_page_may_return(struct page *page)
{
#ifndef VBAL_HAVE_BALLOON_H
	if (!page_ref_freeze(page, 1))
		return false;
	page->mapping = NULL;
	vbal_balloon_page_unmark(page);
	page_ref_unfreeze(page, 1);
#endif
	return true;
}

/* v7.0: the counters of page reclaim are node statistics, no longer events */
#ifdef VBAL_HAVE_NODE_PGSCAN
#define vbal_reclaim_event(events, item) \
	((void)(events), global_node_page_state(item))
#else
#define vbal_reclaim_event(events, item) ((events)[item])
#endif

/*
 * all_vm_events() would do, but sleeps and sums up a hundred counters. Without
 * its lock CPUs may go: their counts stay with them until another CPU takes them
 * over, some time after they have left the online ones.
 */
static inline unsigned long vbal_event_sum(int item)
{
	unsigned long sum = 0;
#ifdef CONFIG_VM_EVENT_COUNTERS
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu(vm_event_states, cpu).event[item]);
#endif
	return sum;
}

/* What this CPU has counted; the caller may be on another one a moment later. */
static inline unsigned long vbal_event_here(int item)
{
#ifdef CONFIG_VM_EVENT_COUNTERS
	return raw_cpu_read(vm_event_states.event[item]);
#else
	return 0;
#endif
}

/*
 * Allocations that stalled, by vbal_event_sum() or vbal_event_here(). The zones'
 * counters are neighbours, whichever zones this kernel has.
 */
static inline unsigned long vbal_stalls(unsigned long (*count)(int item))
{
	const int stall = ALLOCSTALL_NORMAL - ZONE_NORMAL;
	unsigned long sum = 0;
	int zid;

	for (zid = 0; zid <= ZONE_MOVABLE; zid++)
		sum += count(stall + zid);
	return sum;
}

#ifdef VBAL_HAVE_NODE_PGSCAN
#define vbal_reclaim_sum(item) global_node_page_state(item)
#else
#define vbal_reclaim_sum(item) vbal_event_sum(item)
#endif

/*
 * v6.7: shrinkers are allocated. struct vbal_shrinker hides which of both it
 * is; the callbacks find their device through vbal_shrinker_priv().
 */
typedef unsigned long(vbal_shrink_fn)(struct shrinker *s,
				      struct shrink_control *sc);

#ifdef VBAL_HAVE_SHRINKER_ALLOC
struct vbal_shrinker {
	struct shrinker *shrinker;
};

static inline int vbal_shrinker_register(struct vbal_shrinker *vs,
					 vbal_shrink_fn *count,
					 vbal_shrink_fn *scan, void *priv)
{
	vs->shrinker = shrinker_alloc(0, "vballoon");
	if (!vs->shrinker)
		return -ENOMEM;
	vs->shrinker->count_objects = count;
	vs->shrinker->scan_objects = scan;
	vs->shrinker->private_data = priv;
	shrinker_register(vs->shrinker);
	return 0;
}

static inline void vbal_shrinker_unregister(struct vbal_shrinker *vs)
{
	shrinker_free(vs->shrinker);
	vs->shrinker = NULL;
}

static inline void *vbal_shrinker_priv(struct shrinker *s)
{
	return s->private_data;
}
#else
struct vbal_shrinker {
	struct shrinker shrinker;
	void *priv;
};

static inline int vbal_shrinker_register(struct vbal_shrinker *vs,
					 vbal_shrink_fn *count,
					 vbal_shrink_fn *scan, void *priv)
{
	vs->priv = priv;
	vs->shrinker.count_objects = count;
	vs->shrinker.scan_objects = scan;
	vs->shrinker.seeks = DEFAULT_SEEKS;
	return register_shrinker(&vs->shrinker, "vballoon");
}

static inline void vbal_shrinker_unregister(struct vbal_shrinker *vs)
{
	unregister_shrinker(&vs->shrinker);
}

static inline void *vbal_shrinker_priv(struct shrinker *s)
{
	return container_of(s, struct vbal_shrinker, shrinker)->priv;
}
#endif

#endif /* _VBALLOON_COMPAT_H */
