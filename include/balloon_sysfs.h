/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_SYSFS_H
#define _VBALLOON_SYSFS_H

#include <linux/sysfs.h>

struct vbal_dev;

/* Enough for all causes at once. */
#define VBAL_TRANSFER_REASON_LEN 640

/* For device_driver.dev_groups: there before user space hears of the device. */
extern const struct attribute_group *vbal_dev_groups[];

void vbal_sysfs_register(void);
void vbal_sysfs_unregister(void);
void vbal_sysfs_init(struct vbal_dev *vb);
void vbal_sysfs_exit(struct vbal_dev *vb);
void vbal_transfer_reason(const struct vbal_dev *vb, char *buf, size_t size);

#endif /* _VBALLOON_SYSFS_H */
