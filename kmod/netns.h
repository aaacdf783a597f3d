/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Placement container: which network namespaces are judged inside, as devices
 * come and go.
 */
#ifndef _BW_NETNS_H
#define _BW_NETNS_H

#include "state.h"

/*
 * Changing what is judged inside takes two steps, as for guards: namespaces that
 * a new state needs are opened before it is published, and those that neither it
 * nor the saved state needs are closed after. A roll back must not depend on
 * memory. Context: process; rtnl and bw_mutex are held.
 */
BW_API int bw_net_add_matching(const struct bw_state *st);
BW_API void bw_net_drop_unneeded(const struct bw_state *st,
				 const struct bw_state *saved);

/* Whether the namespace has a child of this parent that the state judges. */
BW_API bool bw_net_has(const struct bw_state *st, u32 link, u32 inum);

/*
 * Follows the devices of all namespaces from now on: before the first state that
 * judges inside, so that a host without one pays nothing. Does nothing when
 * called again. May fail for want of memory, and then nothing is followed.
 * Context: process, bw_txn_mutex is held; takes rtnl.
 */
BW_API int bw_net_follow(void);
BW_API void bw_net_exit(void);

#endif /* _BW_NETNS_H */
