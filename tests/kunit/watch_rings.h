/* SPDX-License-Identifier: GPL-2.0-only */
/* The linker's names: __real_f() is f(), and who calls f() gets __wrap_f(). */
#ifndef _VBALLOON_WATCH_RINGS_H
#define _VBALLOON_WATCH_RINGS_H

#include <linux/virtio.h>

int __real_virtqueue_add_outbuf(struct virtqueue *vq, struct scatterlist *sg,
				unsigned int nents, void *token, gfp_t gfp);
int __wrap_virtqueue_add_outbuf(struct virtqueue *vq, struct scatterlist *sg,
				unsigned int nents, void *token, gfp_t gfp);
int __real_virtqueue_add_inbuf(struct virtqueue *vq, struct scatterlist *sg,
			       unsigned int nents, void *token, gfp_t gfp);
int __wrap_virtqueue_add_inbuf(struct virtqueue *vq, struct scatterlist *sg,
			       unsigned int nents, void *token, gfp_t gfp);
bool __real_virtqueue_kick_prepare(struct virtqueue *vq);
bool __wrap_virtqueue_kick_prepare(struct virtqueue *vq);
void *__real_virtqueue_get_buf(struct virtqueue *vq, unsigned int *len);
void *__wrap_virtqueue_get_buf(struct virtqueue *vq, unsigned int *len);
void __real_virtqueue_disable_cb(struct virtqueue *vq);
void __wrap_virtqueue_disable_cb(struct virtqueue *vq);
bool __real_virtqueue_enable_cb(struct virtqueue *vq);
bool __wrap_virtqueue_enable_cb(struct virtqueue *vq);
bool __real_virtqueue_enable_cb_delayed(struct virtqueue *vq);
bool __wrap_virtqueue_enable_cb_delayed(struct virtqueue *vq);

#endif /* _VBALLOON_WATCH_RINGS_H */
