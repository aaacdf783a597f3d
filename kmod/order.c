// SPDX-License-Identifier: GPL-2.0-only
/*
 * Walks the arrays that nf_hook_slow() runs. They are replaced under RCU and may
 * be half emptied: what is being unregistered appears as a function that accepts
 * everything, and is reported as such.
 */
#include <linux/kernel.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/string.h>

#include "hook.h"
#include "lock.h"
#include "order.h"
#include "trace.h"

/* NULL: no function. Context: RCU read-side critical section. */
static const struct nf_hook_entries *
bw_order_entries(const struct net *net, u8 pf, unsigned int hook)
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

static int bw_order_report(const struct nf_hook_entries *entries, u8 pf,
			   unsigned int hook,
			   int (*fn)(const struct bw_nl_hook *hook, void *arg),
			   void *arg)
{
	struct nf_hook_ops **ops = nf_hook_entries_get_hook_ops(entries);
	struct bw_nl_hook report;
	int i, err;

	for (i = 0; i < entries->num_hook_entries; i++) {
		memset(&report, 0, sizeof(report));
		report.family = pf;
		report.hook = hook;
		report.priority = READ_ONCE(ops[i])->priority;
		report.own = bw_hook_is_ours(entries->hooks[i].hook) ||
			     bw_trace_is_ours(entries->hooks[i].hook);
		scnprintf(report.who, sizeof(report.who), "%ps", entries->hooks[i].hook);
		err = fn(&report, arg);
		if (err)
			return err;
	}
	return 0;
}

int bw_order_for_each(const struct net *net,
		      int (*fn)(const struct bw_nl_hook *hook, void *arg),
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
			entries = bw_order_entries(net, families[i], hook);
			if (entries)
				err = bw_order_report(entries, families[i], hook, fn, arg);
		}
	}
	rcu_read_unlock();
	return err;
}

static u32 bw_order_bit(const struct nf_hook_ops *ops)
{
	return 1U << ((ops->pf == NFPROTO_IPV4 ? 0 : 8) + ops->hooknum);
}

/*
 * The functions at a hook without a trace's at either end, which only look: the
 * number of the first one, and the one behind the last.
 */
static void bw_order_span(const struct nf_hook_entries *entries, u32 *begin,
			  u32 *end)
{
	*begin = 0;
	*end = entries->num_hook_entries;
	while (*begin < *end && bw_trace_is_ours(entries->hooks[*begin].hook))
		++*begin;
	while (*begin < *end && bw_trace_is_ours(entries->hooks[*end - 1].hook))
		--*end;
}

/*
 * What runs where ours should not have it: at LOCAL_OUT behind it, else ahead.
 * false: ours is not there.
 */
static bool bw_order_others(const struct nf_hook_ops *ops,
			    const struct nf_hook_entries *entries, u32 *begin,
			    u32 *end)
{
	u32 own;

	bw_order_span(entries, begin, end);
	for (own = *begin; own < *end; own++)
		if (entries->hooks[own].hook == ops->hook)
			break;
	if (ops->priority == NF_IP_PRI_FIRST)
		*end = own;
	else if (own < *end)
		*begin = own + 1;
	return own < entries->num_hook_entries &&
	       entries->hooks[own].hook == ops->hook;
}

u32 bw_order_first(const struct net *net)
{
	u32 first = 0, i, n, begin, end;
	const struct nf_hook_ops *ops = bw_hook_registered(&n);
	const struct nf_hook_entries *entries;

	rcu_read_lock();
	for (i = 0; i < n; i++) {
		entries = bw_order_entries(net, ops[i].pf, ops[i].hooknum);
		if (!entries)
			continue;
		if (bw_order_others(&ops[i], entries, &begin, &end) && begin == end)
			first |= bw_order_bit(&ops[i]);
	}
	rcu_read_unlock();
	return first;
}

u32 bw_order_expected(void)
{
	u32 expected = 0, i, n;
	const struct nf_hook_ops *ops = bw_hook_registered(&n);

	for (i = 0; i < n; i++)
		expected |= bw_order_bit(&ops[i]);
	return expected;
}

static const char *const bw_order_places[] = {
	[NF_INET_LOCAL_IN] = "LOCAL_IN",
	[NF_INET_FORWARD] = "FORWARD",
	[NF_INET_LOCAL_OUT] = "LOCAL_OUT (behind us)",
	[NF_INET_POST_ROUTING] = "POST_ROUTING",
};

static int bw_order_name_others(const struct nf_hook_ops *ops,
				const struct nf_hook_entries *entries,
				int (*fn)(const char *name, void *arg),
				void *arg)
{
	char name[BW_ORDER_NAME_LEN];
	u32 begin, end, i;
	int err;

	bw_order_others(ops, entries, &begin, &end);
	for (i = begin; i < end && i < begin + BW_ORDER_REPORTED; i++) {
		scnprintf(name, sizeof(name), "%s %s %ps",
			  ops->pf == NFPROTO_IPV4 ? "IPv4" : "IPv6",
			  bw_order_places[ops->hooknum], entries->hooks[i].hook);
		err = fn(name, arg);
		if (err)
			return err;
	}
	return 0;
}

int bw_order_report_before(const struct net *net,
			   int (*fn)(const char *name, void *arg), void *arg)
{
	const struct nf_hook_entries *entries;
	const struct nf_hook_ops *ops;
	int err = 0;
	u32 i, n;

	ops = bw_hook_registered(&n);
	rcu_read_lock();
	for (i = 0; i < n && !err; i++) {
		entries = bw_order_entries(net, ops[i].pf, ops[i].hooknum);
		if (entries)
			err = bw_order_name_others(&ops[i], entries, fn, arg);
	}
	rcu_read_unlock();
	return err;
}
