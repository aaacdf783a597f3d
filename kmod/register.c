// SPDX-License-Identifier: GPL-2.0-only
/*
 * Hooks that judge need conntrack in their namespace: it comes first and goes
 * last, and not at all where the hooks cannot be registered.
 */
#include <net/netfilter/nf_conntrack.h>

#include "register.h"

int bw_hook_register(struct net *net, const struct nf_hook_ops *ops,
		     unsigned int n, u8 *conntrack_pf)
{
	int err;

	*conntrack_pf = NFPROTO_INET;
	err = nf_ct_netns_get(net, *conntrack_pf);
	if (err) {
		*conntrack_pf = NFPROTO_IPV4;
		err = nf_ct_netns_get(net, *conntrack_pf);
	}
	if (err)
		return err;
	err = nf_register_net_hooks(net, ops, n);
	if (err)
		nf_ct_netns_put(net, *conntrack_pf);
	return err;
}

void bw_hook_unregister(struct net *net, const struct nf_hook_ops *ops,
			unsigned int n, u8 conntrack_pf)
{
	nf_unregister_net_hooks(net, ops, n);
	nf_ct_netns_put(net, conntrack_pf);
}
