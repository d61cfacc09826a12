// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtqueue is not made for two callers at once: each of the driver's calls
 * into one has to be under the lock of its queue. The linker leads them through
 * here (--wrap, see Kbuild); lockdep tells whether the lock is held. A kernel
 * without lockdep looks at nothing.
 */
#include <linux/lockdep.h>

#include "balloon.h"
#include "watch_rings.h"

static void watch_lock_held(struct virtqueue *vq)
{
	struct vbal_wire *wire = vq->vdev->priv;
	unsigned int id;

	for (id = 0; id < VBAL_NR_VQS; id++)
		if (wire->q[id].vq == vq)
			lockdep_assert_held(&wire->q[id].lock);
}

int __wrap_virtqueue_add_outbuf(struct virtqueue *vq, struct scatterlist *sg,
				unsigned int nents, void *token, gfp_t gfp)
{
	watch_lock_held(vq);
	return __real_virtqueue_add_outbuf(vq, sg, nents, token, gfp);
}

int __wrap_virtqueue_add_inbuf(struct virtqueue *vq, struct scatterlist *sg,
			       unsigned int nents, void *token, gfp_t gfp)
{
	watch_lock_held(vq);
	return __real_virtqueue_add_inbuf(vq, sg, nents, token, gfp);
}

bool __wrap_virtqueue_kick_prepare(struct virtqueue *vq)
{
	watch_lock_held(vq);
	return __real_virtqueue_kick_prepare(vq);
}

void *__wrap_virtqueue_get_buf(struct virtqueue *vq, unsigned int *len)
{
	watch_lock_held(vq);
	return __real_virtqueue_get_buf(vq, len);
}

void __wrap_virtqueue_disable_cb(struct virtqueue *vq)
{
	watch_lock_held(vq);
	__real_virtqueue_disable_cb(vq);
}

bool __wrap_virtqueue_enable_cb(struct virtqueue *vq)
{
	watch_lock_held(vq);
	return __real_virtqueue_enable_cb(vq);
}

bool __wrap_virtqueue_enable_cb_delayed(struct virtqueue *vq)
{
	watch_lock_held(vq);
	return __real_virtqueue_enable_cb_delayed(vq);
}
