// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hooks. Each finds out who stands on either side of the packet at its
 * place in the stack, and judges every packet exactly once: forwarded and
 * bridged ones at FORWARD or, by placement, at POST_ROUTING, those for the host
 * at LOCAL_IN, those from the host at POST_ROUTING. No hook may write anything
 * shared, or sleep.
 */
#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <net/netfilter/nf_conntrack.h>

#include "chain.h"
#include "guard.h"
#include "hook.h"
#include "memo.h"
#include "packet.h"
#include "state.h"
#include "trace.h"
#include "verdict.h"

static void bw_stand_at(struct bw_party *p, const struct net_device *dev,
			bool guarded, u32 port)
{
	if (guarded)
		bw_stand(p, BW_KIND_GUARDED, dev->ifindex, port);
	else
		bw_stand(p, BW_KIND_WORLD, 0, 0);
}

unsigned int bw_builtin(const struct bw_state *st, struct sk_buff *skb,
			const struct nf_hook_state *hs, u32 reason)
{
	struct bw_decision d = {
		.index = reason,
		.action = BW_ACTION_DENY,
		.class = BW_CLASS_NONE,
	};

	if (reason == BW_REASON_NEIGHBOUR || reason == BW_REASON_HOST_ERROR)
		d.action = BW_ACTION_ALLOW;
	return bw_verdict(st, skb, hs, &d);
}

/* epoch: of the state before anything was asked; 0: the verdict is not kept. */
static unsigned int bw_judge(const struct bw_state *st, struct sk_buff *skb,
			     const struct nf_hook_state *hs,
			     const struct bw_query *q, unsigned long epoch)
{
	struct bw_decision d;

	bw_classify(st->rules, st->endpoints, q, &d);
	if (d.class == BW_CLASS_NONE)
		return NF_ACCEPT;
	/* What docker-proxy's socket takes goes no further by itself. */
	if (unlikely(st->placement == BW_PLACEMENT_CONTAINER) &&
	    hs->hook != NF_INET_LOCAL_IN && bw_counts_later(st, q, &d))
		return NF_ACCEPT;
	if (epoch && d.action == BW_ACTION_ALLOW && !d.log)
		bw_memo_keep(skb, hs, epoch, d.index);
	return bw_verdict(st, skb, hs, &d);
}

/* A packet that passes through the host, from one device to another. */
static __always_inline unsigned int
bw_judge_passing(const struct bw_state *st, struct sk_buff *skb,
		 const struct nf_hook_state *hs, const struct net_device *from,
		 bool in, bool out, unsigned long epoch)
{
	struct bw_query q;
	int reason;

	if (unlikely(st->closed))
		return bw_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD, &q);
	if (unlikely(reason >= 0))
		return bw_builtin(st, skb, hs, reason);
	bw_stand_at(bw_sender(&q), from, in, nf_bridge_get_physinif(skb));
	bw_stand_at(bw_receiver(&q), hs->out, out, 0);
	return bw_judge(st, skb, hs, &q, epoch);
}

/* Out of line, here and below: what is not judged pays for no stack frame. */
static noinline unsigned int bw_judge_forward(const struct bw_state *st,
					      struct sk_buff *skb,
					      const struct nf_hook_state *hs,
					      unsigned long epoch)
{
	bool in = bw_guarded(hs->in), out = bw_guarded(hs->out);

	if (unlikely(!READ_ONCE(st->at_forward)) || (!in && !out))
		return NF_ACCEPT;
	if (st->placement == BW_PLACEMENT_CONTAINER)
		epoch = 0;
	return bw_judge_passing(st, skb, hs, hs->in, in, out, epoch);
}

static noinline unsigned int bw_pass_forward(struct sk_buff *skb,
					     const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned long epoch;

	if (!st)
		return NF_ACCEPT;
	/* Before anything else is read, see memo.h. */
	epoch = smp_load_acquire(&st->epoch);
	/* Who listens hears of every verdict, so each is taken. */
	if (!trace_bw_verdict_enabled() &&
	    (hs->pf == NFPROTO_IPV4 ? bw_memo_passes(st, skb, hs, false, epoch) :
				      bw_memo_passes(st, skb, hs, true, epoch)))
		return NF_ACCEPT;
	return bw_judge_forward(st, skb, hs, epoch);
}

static unsigned int bw_hook_forward(void *priv, struct sk_buff *skb,
				    const struct nf_hook_state *hs)
{
	if (likely(!bw_maybe_guarded(hs->in->ifindex) &&
		   !bw_maybe_guarded(hs->out->ifindex)))
		return NF_ACCEPT;
	return bw_pass_forward(skb, hs);
}

/* Not from a guarded link: most of it is over here, before anything is read. */
static bool bw_host_traffic_matters(const struct bw_state *st,
				    const struct sk_buff *skb)
{
	u16 port;

	if (!st->local_in)
		return false;
	if (st->rules->host_ingress)
		return true;
	return !bw_packet_host_port(skb, &port) ||
	       bw_bit(st->endpoints->published_port, port);
}

/*
 * A socket of docker-proxy stands for a container: who reaches it is judged as
 * if it reached the container. Other traffic to the host is judged from guarded
 * links, and from outside only where the policy has a say in it.
 */
static noinline unsigned int bw_judge_local_in(const struct bw_state *st,
					       struct sk_buff *skb,
					       const struct nf_hook_state *hs,
					       bool in)
{
	struct bw_query q;
	int reason;

	if (unlikely(st->closed))
		return bw_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf,
				BW_TO_HOST | (in ? BW_AT_GUARD : 0), &q);
	if (unlikely(reason >= 0)) {
		if (!in && !st->rules->host_ingress)
			return NF_ACCEPT;
		return bw_builtin(st, skb, hs, reason);
	}
	bw_stand_at(bw_sender(&q), hs->in, in, nf_bridge_get_physinif(skb));
	if (hs->in->flags & IFF_LOOPBACK)
		bw_stand(bw_sender(&q), BW_KIND_HOST, 0, 0);
	bw_stand(bw_receiver(&q), BW_KIND_HOST, 0, 0);
	if (q.sender == BW_INITIATOR && bw_publish(st->endpoints, &q))
		return bw_judge(st, skb, hs, &q, 0);
	if (!in && !st->rules->host_ingress)
		return NF_ACCEPT;
	return bw_judge(st, skb, hs, &q, 0);
}

static unsigned int bw_hook_local_in(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	bool in = bw_guarded(hs->in);

	if (!st || (!in && !bw_host_traffic_matters(st, skb)))
		return NF_ACCEPT;
	return bw_judge_local_in(st, skb, hs, in);
}

/* Forwarded and bridged packets pass POST_ROUTING too. */
static bool bw_from_host(const struct sk_buff *skb,
			 const struct nf_hook_state *hs)
{
	return !hs->in && !nf_bridge_info_exists(skb);
}

/* What was received and yet has no in-device was relayed, by IPVS for one. */
static void bw_stand_origin(struct bw_party *p, const struct sk_buff *skb)
{
	u32 origin = skb->skb_iif;

	if (!origin)
		bw_stand(p, BW_KIND_HOST, 0, 0);
	else if (bw_guarded_index(origin))
		bw_stand(p, BW_KIND_GUARDED, origin, 0);
	else
		bw_stand(p, BW_KIND_WORLD, 0, 0);
}

static unsigned int bw_judge_sent(struct sk_buff *skb,
				  const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int where = BW_AT_GUARD;
	struct bw_query q;
	int reason;

	if (!st)
		return NF_ACCEPT;
	if (unlikely(st->closed))
		return bw_builtin(st, skb, hs, BW_REASON_CLOSED);
	if (!skb->skb_iif)
		where |= BW_FROM_HOST;
	reason = bw_packet_read(skb, hs->pf, where, &q);
	if (unlikely(reason >= 0))
		return bw_builtin(st, skb, hs, reason);
	bw_stand_origin(bw_sender(&q), skb);
	bw_stand_at(bw_receiver(&q), hs->out, true, 0);
	/* docker-proxy answers a container: judged as its question was. */
	if (q.sender == BW_RESPONDER)
		bw_publish(st->endpoints, &q);
	return bw_judge(st, skb, hs, &q, 0);
}

/* A process may be sending: counters need bottom halves off. */
static noinline unsigned int bw_judge_from_host(struct sk_buff *skb,
						const struct nf_hook_state *hs)
{
	unsigned int verdict;

	local_bh_disable();
	verdict = bw_judge_sent(skb, hs);
	local_bh_enable();
	return verdict;
}

/* Placement postrouting. A bridged packet comes without its in-device. */
static noinline unsigned int bw_judge_late(struct sk_buff *skb,
					   const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	const struct net_device *from = hs->in;
	unsigned int verdict;
	bool in, out;

	if (!st || !READ_ONCE(st->at_post_routing))
		return NF_ACCEPT;
	if (!from && nf_bridge_get_physoutif(skb))
		from = hs->out;
	in = bw_guarded(from);
	out = bw_guarded(hs->out);
	if (!in && !out)
		return NF_ACCEPT;
	local_bh_disable();
	verdict = bw_judge_passing(st, skb, hs, from, in, out, 0);
	local_bh_enable();
	return verdict;
}

static unsigned int bw_hook_post_routing(void *priv, struct sk_buff *skb,
					 const struct nf_hook_state *hs)
{
	if (!bw_from_host(skb, hs))
		return unlikely(READ_ONCE(bw_post_routing)) ?
		       bw_judge_late(skb, hs) : NF_ACCEPT;
	if (!bw_guarded(hs->out))
		return NF_ACCEPT;
	return bw_judge_from_host(skb, hs);
}

/* NF_IP6_PRI_FIRST is the same number. */
static const struct nf_hook_ops bw_hook_ops[] = {
	BW_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_hook_local_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_hook_forward),
	BW_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, NF_IP_PRI_FIRST, bw_hook_post_routing),
	BW_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_hook_local_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_hook_forward),
	BW_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, NF_IP_PRI_FIRST, bw_hook_post_routing),
};

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

static u8 bw_conntrack_pf;

int bw_hook_init(struct net *net)
{
	return bw_hook_register(net, bw_hook_ops, ARRAY_SIZE(bw_hook_ops),
				&bw_conntrack_pf);
}

void bw_hook_exit(struct net *net)
{
	bw_hook_unregister(net, bw_hook_ops, ARRAY_SIZE(bw_hook_ops),
			   bw_conntrack_pf);
	synchronize_net();
}

static u32 bw_hook_bit(const struct nf_hook_ops *ops)
{
	return 1U << ((ops->pf == NFPROTO_IPV4 ? 0 : 8) + ops->hooknum);
}

bool bw_hook_is_ours(nf_hookfn *fn)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bw_hook_ops); i++)
		if (bw_hook_ops[i].hook == fn)
			return true;
	return false;
}

/* Those of a trace only look: who stands behind them is first. */
static u32 bw_hook_watchers(const struct nf_hook_entries *entries)
{
	u32 i = 0;

	while (i < entries->num_hook_entries &&
	       bw_trace_is_ours(entries->hooks[i].hook))
		i++;
	return i;
}

u32 bw_hook_first(const struct net *net)
{
	const struct nf_hook_entries *entries;
	u32 first = 0, i, place;

	rcu_read_lock();
	for (i = 0; i < ARRAY_SIZE(bw_hook_ops); i++) {
		entries = bw_chain(net, bw_hook_ops[i].pf, bw_hook_ops[i].hooknum);
		if (!entries)
			continue;
		place = bw_hook_watchers(entries);
		if (place < entries->num_hook_entries &&
		    entries->hooks[place].hook == bw_hook_ops[i].hook)
			first |= bw_hook_bit(&bw_hook_ops[i]);
	}
	rcu_read_unlock();
	return first;
}

u32 bw_hook_expected(void)
{
	u32 expected = 0, i;

	for (i = 0; i < ARRAY_SIZE(bw_hook_ops); i++)
		expected |= bw_hook_bit(&bw_hook_ops[i]);
	return expected;
}

static int bw_hook_tell_place(const struct nf_hook_ops *ops,
			      const struct nf_hook_entries *entries,
			      int (*fn)(const char *who, void *arg), void *arg)
{
	static const char *const places[] = {
		[NF_INET_LOCAL_IN] = "LOCAL_IN",
		[NF_INET_FORWARD] = "FORWARD",
		[NF_INET_POST_ROUTING] = "POST_ROUTING",
	};
	char who[BW_HOOK_WHO_LEN];
	u32 begin = bw_hook_watchers(entries), i;
	int err;

	for (i = begin; i < entries->num_hook_entries && i < begin + BW_HOOK_TOLD; i++) {
		if (entries->hooks[i].hook == ops->hook)
			break;
		scnprintf(who, sizeof(who), "%s %s %ps",
			  ops->pf == NFPROTO_IPV4 ? "IPv4" : "IPv6",
			  places[ops->hooknum], entries->hooks[i].hook);
		err = fn(who, arg);
		if (err)
			return err;
	}
	return 0;
}

int bw_hook_tell_ahead(const struct net *net,
		       int (*fn)(const char *who, void *arg), void *arg)
{
	const struct nf_hook_entries *entries;
	int err = 0;
	u32 i;

	rcu_read_lock();
	for (i = 0; i < ARRAY_SIZE(bw_hook_ops) && !err; i++) {
		entries = bw_chain(net, bw_hook_ops[i].pf, bw_hook_ops[i].hooknum);
		if (entries)
			err = bw_hook_tell_place(&bw_hook_ops[i], entries, fn, arg);
	}
	rcu_read_unlock();
	return err;
}
