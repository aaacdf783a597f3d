/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Placement container: which devices of which network namespaces are listed for
 * judging inside, as devices come and go.
 */
#ifndef _BW_NETNS_H
#define _BW_NETNS_H

#include "state.h"

/*
 * Changing what is judged inside takes three steps. bw_net_prepare() lists what a
 * new state needs and may fail; bw_net_judge() before the state is published, and
 * bw_net_drop_unneeded() after, cannot. What the saved state needs stays listed,
 * so a roll back begins with bw_net_judge(). bw_net_prepare() returns 0 or a
 * negative errno; then bw_net_drop_unneeded() for the states there are takes back
 * what was listed. Context: process; rtnl and bw_mutex are held.
 */
BW_API int bw_net_prepare(const struct bw_state *st);
BW_API void bw_net_judge(const struct bw_state *st);
BW_API void bw_net_drop_unneeded(const struct bw_state *st,
				 const struct bw_state *saved);

/*
 * Follows the devices of all namespaces from now on: before the first state that
 * judges inside, so that a host without one pays nothing. Does nothing when
 * called again. May fail for want of memory, and then nothing is followed.
 * Context: process, bw_txn_mutex is held; takes rtnl.
 */
BW_API int bw_net_follow(void);
BW_API void bw_net_exit(void);

#endif /* _BW_NETNS_H */
