/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The generic netlink family: the only way in from user space.
 */
#ifndef _BW_NETLINK_H
#define _BW_NETLINK_H

#include "api.h"

/*
 * Registers the family: 0 or a negative errno. No request is being answered any
 * more when bw_netlink_exit() returns. Context: process, may sleep; takes
 * genetlink's own locks.
 */
BW_API int bw_netlink_init(void);
BW_API void bw_netlink_exit(void);

#endif /* _BW_NETLINK_H */
