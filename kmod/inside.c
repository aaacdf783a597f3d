// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hooks in containers' namespaces. What reaches a container is judged where
 * it arrives. What leaves one is judged inside only for children (macvlan,
 * ipvlan), because nobody but its receiver sees it. Must never judge loopback or
 * a device that is not listed.
 */
#include <linux/etherdevice.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/tcp.h>
#include <net/addrconf.h>
#include <net/netns/generic.h>
#include <net/route.h>

#include "inside.h"
#include "l4.h"
#include "lock.h"
#include "neighbour.h"
#include "packet.h"
#include "register.h"
#include "state.h"
#include "verdict.h"

BW_DATA unsigned int bw_net_id __read_mostly;
static u32 bw_inside_opened;	/* namespaces; bw_mutex */

static bool bw_inside_find(const struct net *net, const struct net_device *dev,
			   struct bw_net_dev *at)
{
	const struct bw_net *bn = net_generic(net, bw_net_id);
	u32 i, n = READ_ONCE(bn->n_dev);

	for (i = 0; i < n; i++) {
		const struct bw_net_dev *slot = &bn->dev[i];

		/* Pairs with smp_store_release() in bw_inside_set_dev(). */
		if (smp_load_acquire(&slot->ifindex) != dev->ifindex)
			continue;
		at->link = READ_ONCE(slot->link);
		at->port = READ_ONCE(slot->port);
		return true;
	}
	return false;
}

/* Whether it came over the bridge rather than through the host. */
static bool bw_inside_from_neighbour(const struct sk_buff *skb,
				     const struct bw_net_dev *at)
{
	const struct net_device *bridge;

	if (bw_port_is_child(at->port))
		return false;
	bridge = dev_get_by_index_rcu(&init_net, at->link);
	return !bridge || !skb_mac_header_was_set(skb) ||
	       !ether_addr_equal(eth_hdr(skb)->h_source, bridge->dev_addr);
}

static bool bw_inside_is_host(const struct bw_party *p)
{
	struct in6_addr v6;

	if (p->family == AF_INET)
		return inet_addr_type(&init_net, p->addr.v4) == RTN_LOCAL;
	memcpy(&v6, &p->addr, sizeof(v6));
	return ipv6_chk_addr(&init_net, &v6, NULL, 0);
}

/* The other side: known by its address, or at least as a neighbour. */
static void bw_inside_set_peer(const struct bw_state *st, struct bw_party *p,
			       const struct bw_net_dev *at, bool neighbour)
{
	const struct bw_ep_loc *loc;

	if (neighbour) {
		bw_party_set(p, BW_KIND_GUARDED, at->link, 0);
		return;
	}
	loc = bw_ep_find(st->endpoints, p->family, &p->addr);
	/* From the one to the other kind of link packets come from outside. */
	if (loc && bw_port_is_child(loc->port) == bw_port_is_child(at->port))
		bw_party_set(p, BW_KIND_GUARDED, 0, 0);
	else if (bw_inside_is_host(p))
		bw_party_set(p, BW_KIND_HOST, 0, 0);
	else
		bw_party_set(p, BW_KIND_WORLD, 0, 0);
}

static bool bw_inside_is_reset(const struct sk_buff *skb, u8 pf)
{
	const struct tcphdr *tcp;
	struct tcphdr buffer;
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4) || l4.proto != IPPROTO_TCP)
		return false;
	tcp = skb_header_pointer(skb, l4.offset, sizeof(buffer), &buffer);
	return tcp && tcp->rst && skb->len == l4.offset + tcp->doff * 4;
}

/* How a query looks from inside. */
static void bw_inside_set_parties(const struct bw_state *st, struct bw_query *q,
				  const struct bw_net_dev *at, struct bw_party *own,
				  struct bw_party *peer, bool neighbour)
{
	bw_party_set(own, BW_KIND_GUARDED, at->link, at->port);
	bw_inside_set_peer(st, peer, at, neighbour);
	/* The host alone knows what was published; here all is DNATed by now. */
	q->flags = 0;
	if (q->side[BW_RESPONDER].kind == BW_KIND_HOST)
		bw_published_resolve(st->endpoints, q);
}

/* In: a neighbour on the bridge, whose port is not known. Out: the container itself. */
static u32 bw_inside_neighbour(const struct bw_state *st, const struct sk_buff *skb, u8 pf,
			       u32 reason, const struct bw_net_dev *at, bool in)
{
	struct bw_neighbour from = { .link = at->link };

	if (!in)
		from.port = at->port;
	else if (bw_inside_from_neighbour(skb, at))
		from.other = at->port;
	else
		return reason;
	return bw_neighbour_check(st->endpoints, skb, pf, reason, &from);
}

static unsigned int bw_inside_judge_in(const struct bw_state *st,
				       struct sk_buff *skb,
				       const struct nf_hook_state *hs,
				       const struct bw_net_dev *at)
{
	struct bw_decision d;
	struct bw_query q;
	bool error;
	int reason;

	if (unlikely(st->closed))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD | BW_INSIDE_IN, &q);
	if (unlikely(reason >= 0))
		return bw_verdict_builtin(st, skb, hs,
					  bw_inside_neighbour(st, skb, hs->pf, reason, at, true));
	error = q.flags & BW_Q_ERROR;
	/* Whoever reports an error is not the one it is judged by. */
	bw_inside_set_parties(st, &q, at, bw_receiver(&q), bw_sender(&q),
			      !error && bw_inside_from_neighbour(skb, at));
	bw_classify(st->rules, st->endpoints, &q, &d);
	/* Who is refused shall learn of it: others' refusals come by here. */
	if (unlikely(d.action != BW_ACTION_ALLOW) &&
	    (error || (q.sender == BW_RESPONDER && bw_inside_is_reset(skb, hs->pf))))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_HOST_ERROR);
	return bw_verdict(st, skb, hs, &d);
}

/* Of children only. What a container will receive is counted there. */
static unsigned int bw_inside_judge_out(const struct bw_state *st,
					struct sk_buff *skb,
					const struct nf_hook_state *hs,
					const struct bw_net_dev *at)
{
	struct bw_decision d;
	struct bw_query q;
	int reason;

	if (unlikely(st->closed))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD | BW_INSIDE_OUT, &q);
	if (unlikely(reason >= 0))
		return bw_verdict_builtin(st, skb, hs,
					  bw_inside_neighbour(st, skb, hs->pf, reason, at, false));
	bw_inside_set_parties(st, &q, at, bw_sender(&q), bw_receiver(&q), false);
	bw_classify(st->rules, st->endpoints, &q, &d);
	if (bw_counts_later(st, &q, &d))
		return NF_ACCEPT;
	return bw_verdict(st, skb, hs, &d);
}

/* LOCAL_IN, and FORWARD for containers that are routers themselves. */
static unsigned int bw_inside_hook_in(void *priv, struct sk_buff *skb,
				      const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int verdict;
	struct bw_net_dev at;

	if (!st || st->placement != BW_PLACEMENT_CONTAINER ||
	    !bw_inside_find(hs->net, hs->in, &at))
		return NF_ACCEPT;
	/* A queue's listener may send it here again: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_inside_judge_in(st, skb, hs, &at);
	local_bh_enable();
	return verdict;
}

static unsigned int bw_inside_hook_out(void *priv, struct sk_buff *skb,
				       const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int verdict;
	struct bw_net_dev at;

	if (!st || st->placement != BW_PLACEMENT_CONTAINER ||
	    !bw_inside_find(hs->net, hs->out, &at) || !bw_port_is_child(at.port))
		return NF_ACCEPT;
	/* A process may be sending: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_inside_judge_out(st, skb, hs, &at);
	local_bh_enable();
	return verdict;
}

/*
 * What leaves is judged as the wire will show it, behind the container's own
 * NAT; only conntrack's confirmation comes later.
 */
#define BW_INSIDE_LATE	(NF_IP_PRI_LAST - 1)

static const struct nf_hook_ops bw_inside_ops[] = {
	BW_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_inside_hook_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_inside_hook_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, BW_INSIDE_LATE, bw_inside_hook_out),
	BW_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_inside_hook_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_inside_hook_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, BW_INSIDE_LATE, bw_inside_hook_out),
};

int bw_inside_open(struct bw_net *bn)
{
	int err;

	if (bn->open)
		return 0;
	err = bw_hook_register(bn->net, bw_inside_ops, ARRAY_SIZE(bw_inside_ops),
			       &bn->conntrack_pf);
	if (err)
		return err;
	bn->open = true;
	bw_inside_opened++;
	return 0;
}

void bw_inside_close(struct bw_net *bn)
{
	if (!bn->open)
		return;
	WRITE_ONCE(bn->n_dev, 0);
	memset(bn->dev, 0, sizeof(bn->dev));
	bw_hook_unregister(bn->net, bw_inside_ops, ARRAY_SIZE(bw_inside_ops),
			   bn->conntrack_pf);
	bn->open = false;
	bw_inside_opened--;
}

int bw_inside_set_dev(struct bw_net *bn, const struct bw_net_dev *at)
{
	struct bw_net_dev *slot = NULL;
	u32 i;

	for (i = 0; i < BW_INSIDE_DEVS; i++) {
		if (bn->dev[i].ifindex == at->ifindex) {
			slot = &bn->dev[i];
			break;
		}
		if (!bn->dev[i].ifindex && !slot)
			slot = &bn->dev[i];
	}
	if (!slot)
		return -ENOSPC;
	WRITE_ONCE(slot->link, at->link);
	WRITE_ONCE(slot->port, at->port);
	/* Pairs with smp_load_acquire() in bw_inside_find(): link and port first. */
	smp_store_release(&slot->ifindex, at->ifindex);
	if (slot - bn->dev >= bn->n_dev)
		WRITE_ONCE(bn->n_dev, slot - bn->dev + 1);
	return 0;
}

u32 bw_inside_count(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_inside_opened;
}
