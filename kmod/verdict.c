// SPDX-License-Identifier: GPL-2.0-only
/*
 * Carrying out decisions. Must never return NF_STOP or NF_REPEAT, nor NF_STOLEN:
 * nf_hook_slow() leaks or warns on some supported kernel for each of the first
 * two, and no packet is kept here.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jiffies.h>
#include <linux/module.h>
#include <linux/netfilter_ipv6.h>
#include <linux/percpu.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/netfilter/ipv4/nf_reject.h>
#include <net/netfilter/ipv6/nf_reject.h>
#include <net/netfilter/nf_log.h>

#include "verdict.h"

#define BW_LOG_PER_SECOND	100	/* of each CPU */

static unsigned short log_group;
module_param(log_group, ushort, 0644);
MODULE_PARM_DESC(log_group, "nfnetlink_log group that rules with log: true write to (default 0)");

struct bw_log_window {
	unsigned long start;	/* jiffies */
	u32 written;
};

static DEFINE_PER_CPU(struct bw_log_window, bw_log_window);

static bool bw_log_allowed(void)
{
	struct bw_log_window *w = this_cpu_ptr(&bw_log_window);

	if (time_after_eq(jiffies, w->start + HZ)) {
		w->start = jiffies;
		w->written = 0;
	}
	if (w->written >= BW_LOG_PER_SECOND)
		return false;
	w->written++;
	return true;
}

static const char *const bw_action_words[__BW_ACTION_MAX] = {
	[BW_ACTION_ALLOW] = "allow",
	[BW_ACTION_DENY] = "deny",
	[BW_ACTION_REJECT] = "reject",
	[BW_ACTION_QUEUE] = "queue",
};

static noinline void bw_log(const struct bw_state *st,
			    const struct sk_buff *skb,
			    const struct nf_hook_state *hs,
			    const struct bw_decision *d)
{
	const struct nf_loginfo info = {
		.type = NF_LOG_TYPE_ULOG,
		.u.ulog.group = READ_ONCE(log_group),
	};

	if (!bw_log_allowed())
		return;
	/* The host's listener is told, whichever namespace it is in. */
	nf_log_packet(&init_net, hs->pf, hs->hook, skb, hs->in, hs->out, &info,
		      "bridgewarden: %s%s %s",
		      st->mode == BW_MODE_AUDIT ? "audit " : "",
		      bw_action_words[d->action],
		      st->rules->rule[d->index - BW_REASON_MAX].name);
}

static void bw_reject4(struct sk_buff *skb, const struct nf_hook_state *hs)
{
	unsigned int hook = hs->hook;

	switch (ip_hdr(skb)->protocol) {
	case IPPROTO_TCP:
		nf_send_reset(hs->net, hs->sk, skb, hook);
		break;
	case IPPROTO_UDP:
		nf_send_unreach(skb, ICMP_PORT_UNREACH, hook);
		break;
	default:
		nf_send_unreach(skb, ICMP_PKT_FILTERED, hook);
	}
}

static void bw_reject6(struct sk_buff *skb, const struct nf_hook_state *hs)
{
	unsigned int hook = hs->hook, offset = 0;
	unsigned short fragment = 0;

	switch (ipv6_find_hdr(skb, &offset, -1, &fragment, NULL)) {
	case IPPROTO_TCP:
		nf_send_reset6(hs->net, hs->sk, skb, hook);
		break;
	case IPPROTO_UDP:
		nf_send_unreach6(hs->net, skb, ICMPV6_PORT_UNREACH, hook);
		break;
	default:
		nf_send_unreach6(hs->net, skb, ICMPV6_ADM_PROHIBITED, hook);
	}
}

static noinline unsigned int bw_reject(struct sk_buff *skb,
				       const struct nf_hook_state *hs)
{
	/* Replies cannot be sent from there, but a sender here can be told. */
	if (hs->hook == NF_INET_POST_ROUTING)
		return NF_DROP_ERR(-ECONNREFUSED);
	if (hs->pf == NFPROTO_IPV4)
		bw_reject4(skb, hs);
	else
		bw_reject6(skb, hs);
	return NF_DROP;
}

unsigned int bw_verdict(const struct bw_state *st, struct sk_buff *skb,
			const struct nf_hook_state *hs,
			const struct bw_decision *d)
{
	bw_count(st->counters, d->index, skb->len);
	if (unlikely(d->log))
		bw_log(st, skb, hs, d);
	if (d->action == BW_ACTION_ALLOW || st->mode == BW_MODE_AUDIT)
		return NF_ACCEPT;
	if (d->action == BW_ACTION_REJECT)
		return bw_reject(skb, hs);
	return NF_DROP;
}
