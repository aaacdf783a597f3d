/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Registering netfilter hooks, and conntrack for them.
 */
#ifndef _BW_REGISTER_H
#define _BW_REGISTER_H

#include <linux/netfilter.h>
#include <net/net_namespace.h>

#include "api.h"

/* A kernel without the bridge family has no bridged traffic to judge. */
#define BW_BRIDGE_FAMILY	IS_ENABLED(CONFIG_NETFILTER_FAMILY_BRIDGE)

#define BW_HOOK(family, place, order, function) {	\
	.hook = function,				\
	.pf = family,					\
	.hooknum = place,				\
	.priority = order,				\
}

/*
 * conntrack_pf is what conntrack was asked for: IPv4 alone where there is no
 * IPv6. Packets may still be in a hook when bw_hook_unregister() returns.
 * Context: process, may sleep.
 */
BW_API int bw_hook_register(struct net *net, const struct nf_hook_ops *ops,
			    unsigned int n, u8 *conntrack_pf);
BW_API void bw_hook_unregister(struct net *net, const struct nf_hook_ops *ops,
			       unsigned int n, u8 conntrack_pf);

#endif /* _BW_REGISTER_H */
