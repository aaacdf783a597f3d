// SPDX-License-Identifier: GPL-2.0-only
/*
 * Walking the arrays that nf_hook_slow() runs. They are replaced under RCU and
 * may be half emptied: what is on its way out stands there as a hook that
 * accepts everything, and is told as it stands.
 */
#include <linux/kernel.h>
#include <linux/netfilter_bridge.h>
#include <linux/string.h>

#include "chain.h"
#include "hook.h"
#include "trace.h"

const struct nf_hook_entries *bw_chain(const struct net *net, u8 pf,
				       unsigned int hook)
{
	switch (pf) {
	case NFPROTO_IPV4:
		return rcu_dereference(net->nf.hooks_ipv4[hook]);
	case NFPROTO_IPV6:
		return rcu_dereference(net->nf.hooks_ipv6[hook]);
#ifdef CONFIG_NETFILTER_FAMILY_BRIDGE
	case NFPROTO_BRIDGE:
		return rcu_dereference(net->nf.hooks_bridge[hook]);
#endif
	}
	return NULL;
}

static int bw_chain_tell(const struct nf_hook_entries *entries, u8 pf,
			 unsigned int hook,
			 int (*fn)(const struct bw_nl_hook *who, void *arg),
			 void *arg)
{
	struct nf_hook_ops **ops = nf_hook_entries_get_hook_ops(entries);
	struct bw_nl_hook who;
	int i, err;

	for (i = 0; i < entries->num_hook_entries; i++) {
		memset(&who, 0, sizeof(who));
		who.family = pf;
		who.hook = hook;
		who.priority = READ_ONCE(ops[i])->priority;
		who.own = bw_hook_is_ours(entries->hooks[i].hook) ||
			  bw_trace_is_ours(entries->hooks[i].hook);
		scnprintf(who.who, sizeof(who.who), "%ps", entries->hooks[i].hook);
		err = fn(&who, arg);
		if (err)
			return err;
	}
	return 0;
}

int bw_chain_for_each(const struct net *net,
		      int (*fn)(const struct bw_nl_hook *who, void *arg),
		      void *arg)
{
	static const u8 families[] = { NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_BRIDGE };
	const struct nf_hook_entries *entries;
	unsigned int i, hook;
	int err = 0;

	rcu_read_lock();
	for (i = 0; i < ARRAY_SIZE(families) && !err; i++) {
		/* The bridge's sixth hook, BROUTING, is none of netfilter's array. */
		for (hook = 0; hook <= NF_INET_POST_ROUTING && !err; hook++) {
			entries = bw_chain(net, families[i], hook);
			if (entries)
				err = bw_chain_tell(entries, families[i], hook, fn, arg);
		}
	}
	rcu_read_unlock();
	return err;
}
