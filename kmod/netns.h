/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Placement container: the containers' own network namespaces, which of their
 * devices are judged there, and the hooks inside.
 */
#ifndef _BW_NETNS_H
#define _BW_NETNS_H

#include "state.h"

/*
 * Changing what is judged inside takes two steps, as for guards: namespaces of
 * the state to come are opened before it is published and those that neither it
 * nor the spare one needs are given back after. The spare one is what a roll
 * back would restore: that must not depend on memory. rtnl and bw_mutex.
 */
int bw_net_add_matching(const struct bw_state *st);
void bw_net_keep_matching(const struct bw_state *st,
			  const struct bw_state *spare);

/* Whether the namespace has a child of this parent that the state judges. */
bool bw_net_has(const struct bw_state *st, u32 link, u32 inum);

/* Namespaces with our hooks in them. bw_mutex. */
u32 bw_net_count(void);

/*
 * Follows the devices of all namespaces from now on: before the first state that
 * judges inside, so that nobody pays for it who never does. Again: nothing. May
 * fail for want of memory, and then nothing is followed. Context: process,
 * bw_txn_mutex; takes rtnl.
 */
int bw_net_follow(void);
void bw_net_exit(void);

#endif /* _BW_NETNS_H */
