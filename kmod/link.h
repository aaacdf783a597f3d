/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What follows when a link of the host appears, is renamed or goes.
 */
#ifndef _BW_LINK_H
#define _BW_LINK_H

#include "api.h"

/*
 * Registering replays NETDEV_REGISTER for every link there is: 0 or a negative
 * errno. Context: process, may sleep; loading and unloading only, takes rtnl.
 */
BW_API int bw_link_init(void);
BW_API void bw_link_exit(void);

#endif /* _BW_LINK_H */
