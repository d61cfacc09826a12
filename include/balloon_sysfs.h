/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef _VBALLOON_SYSFS_H
#define _VBALLOON_SYSFS_H

#include <linux/sysfs.h>

struct vbal_dev;

/* For device_driver.dev_groups: there before user space hears of the device. */
extern const struct attribute_group *vbal_dev_groups[];

void vbal_sysfs_register(void);
void vbal_sysfs_unregister(void);
void vbal_sysfs_init(struct vbal_dev *vb);
void vbal_sysfs_exit(struct vbal_dev *vb);

#endif /* _VBALLOON_SYSFS_H */
