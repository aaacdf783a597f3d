/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Who stands at a hook, in the order in which they run: ours and everybody
 * else's, in any network namespace. Only looks.
 */
#ifndef _BW_CHAIN_H
#define _BW_CHAIN_H

#include <linux/netfilter.h>
#include <net/net_namespace.h>

#include "uapi/bridgewarden.h"

/* rcu_read_lock() must be held. NULL: nobody. */
const struct nf_hook_entries *bw_chain(const struct net *net, u8 pf,
				       unsigned int hook);

/* Everybody at every hook; fn must not sleep, and ends it by an error. */
int bw_chain_for_each(const struct net *net,
		      int (*fn)(const struct bw_nl_hook *who, void *arg),
		      void *arg);

#endif /* _BW_CHAIN_H */
