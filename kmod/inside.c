// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hooks in containers' namespaces. What reaches a container is judged where
 * it arrives. What leaves one is judged inside only for children (macvlan,
 * ipvlan), because nobody but its receiver sees it. Must never judge loopback or
 * a device that is not listed.
 */
#include <linux/etherdevice.h>
#include <linux/hashtable.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/netns/generic.h>

#include "inside.h"
#include "l4.h"
#include "lock.h"
#include "neighbour.h"
#include "origin.h"
#include "packet.h"
#include "register.h"
#include "state.h"
#include "unmanaged.h"
#include "verdict.h"

BW_DATA unsigned int bw_net_id __read_mostly;
BW_DATA struct list_head bw_inside_nets = LIST_HEAD_INIT(bw_inside_nets);
static u32 bw_inside_opened;	/* namespaces; bw_mutex */

/* Listed devices of all namespaces by their port, for commits. bw_mutex. */
static DEFINE_HASHTABLE(bw_inside_ports, 10);

/* NULL: not judged. Valid until the hook returns: RCU. */
static const struct bw_inside_dev *bw_inside_find(const struct net *net,
						  const struct net_device *dev)
{
	struct bw_net *bn = net_generic(net, bw_net_id);
	const struct bw_inside_dev *at = xa_load(&bn->devs, dev->ifindex);

	return at && READ_ONCE(at->judged) ? at : NULL;
}

/* Whether it came over the bridge rather than through the host. */
static bool bw_inside_from_neighbour(const struct sk_buff *skb,
				     const struct bw_inside_dev *at)
{
	const struct net_device *bridge;

	if (bw_port_is_child(at->port))
		return false;
	bridge = dev_get_by_index_rcu(&init_net, at->link);
	return !bridge || !skb_mac_header_was_set(skb) ||
	       !ether_addr_equal(eth_hdr(skb)->h_source, bridge->dev_addr);
}

/*
 * Whether an address is behind the same kind of link, a bridge's port or a child:
 * from the one to the other packets come from outside. A prefix without a port is
 * of either kind, so that it is closed. Of a prefix the container's own port does
 * not count: a neighbour with an address of it is outside (on a LAN whose prefix
 * a child shares).
 */
static bool bw_inside_is_of_kind(const struct bw_state *st, const struct bw_party *p,
				 const struct bw_inside_dev *at)
{
	const struct bw_routed *routed = &st->endpoints->routed;
	bool child = bw_port_is_child(at->port);
	const struct bw_routed_cell *cell;
	const struct bw_ep_loc *loc;
	u32 all, children, own;

	loc = bw_ep_find(st->endpoints, p->family, &p->addr);
	if (loc)
		return bw_port_is_child(loc->port) == child;
	cell = bw_routed_find(routed, p->family, &p->addr);
	if (!cell)
		return false;
	all = bw_routed_open(routed, cell, 0, 0);
	children = bw_routed_open_children(routed, cell);
	own = bw_routed_open(routed, cell, at->link, at->port);
	return !all || (child ? children : all - children) > own;
}

/* The other side: known by its address, or at least as a neighbour. */
static void bw_inside_set_peer(const struct bw_state *st, struct bw_party *p,
			       const struct bw_inside_dev *at, bool neighbour)
{
	if (neighbour) {
		bw_party_set(p, BW_KIND_GUARDED, at->link, 0);
		return;
	}
	if (bw_inside_is_of_kind(st, p, at))
		bw_party_set(p, BW_KIND_GUARDED, 0, 0);
	else if (bw_address_is_host(p->family, &p->addr))
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

/*
 * Longest ICMP error, with its IP header, that a kernel sends: icmp_send() keeps to
 * RFC 1812 section 4.3.2.3, icmp6_send() to RFC 4443 section 2.4.
 */
#define BW_ERROR4_LONGEST	576
#define BW_ERROR6_LONGEST	IPV6_MIN_MTU

static bool bw_inside_is_short_error(const struct sk_buff *skb, u8 pf, const struct bw_query *q)
{
	unsigned int longest = pf == NFPROTO_IPV4 ? BW_ERROR4_LONGEST : BW_ERROR6_LONGEST;

	return q->flags & BW_Q_ERROR && skb->len - skb_network_offset(skb) <= longest;
}

/* How a query looks from inside. */
static void bw_inside_set_parties(const struct bw_state *st, struct bw_query *q,
				  const struct bw_inside_dev *at, struct bw_party *own,
				  struct bw_party *peer, bool neighbour)
{
	bw_party_set(own, BW_KIND_GUARDED, at->link, at->port);
	bw_inside_set_peer(st, peer, at, neighbour);
	/* The host alone knows what was published; here all is DNATed by now. */
	q->flags &= BW_Q_PICKED_UP;
	if (q->side[BW_RESPONDER].kind == BW_KIND_HOST)
		bw_published_resolve(st->endpoints, q);
}

/* In: a neighbour on the bridge, whose port is not known. Out: the container itself. */
static u32 bw_inside_neighbour(const struct bw_state *st, const struct sk_buff *skb, u8 pf,
			       u32 reason, const struct bw_inside_dev *at, bool in)
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
				       const struct bw_inside_dev *at)
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
	/*
	 * Who reports an error is not who it is judged by. A longer one than any
	 * kernel sends is more than a report: its sender is.
	 */
	error = bw_inside_is_short_error(skb, hs->pf, &q);
	bw_inside_set_parties(st, &q, at, bw_receiver(&q), bw_sender(&q),
			      !error && bw_inside_from_neighbour(skb, at));
	bw_classify(st->rules, st->endpoints, &q, &d);
	bw_unmanaged_note(skb, &q, &d);
	/*
	 * Who is refused shall learn of it: others' refusals come by here, to either
	 * end of a connection.
	 */
	if (unlikely(d.action != BW_ACTION_ALLOW) &&
	    (error || bw_inside_is_reset(skb, hs->pf)))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_HOST_ERROR);
	return bw_verdict(st, skb, hs, &d);
}

/* Of children only. What a container will receive is counted there. */
static unsigned int bw_inside_judge_out(const struct bw_state *st,
					struct sk_buff *skb,
					const struct nf_hook_state *hs,
					const struct bw_inside_dev *at)
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
	bw_unmanaged_note(skb, &q, &d);
	if (bw_counts_later(&q, &d))
		return NF_ACCEPT;
	return bw_verdict(st, skb, hs, &d);
}

/* LOCAL_IN, and FORWARD for containers that are routers themselves. */
static unsigned int bw_inside_hook_in(void *priv, struct sk_buff *skb,
				      const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	const struct bw_inside_dev *at;
	unsigned int verdict;

	if (!st || !bw_state_judges_inside(st))
		return NF_ACCEPT;
	at = bw_inside_find(hs->net, hs->in);
	if (!at)
		return NF_ACCEPT;
	/* A queue's listener may send it here again: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_inside_judge_in(st, skb, hs, at);
	local_bh_enable();
	return verdict;
}

static unsigned int bw_inside_hook_out(void *priv, struct sk_buff *skb,
				       const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	const struct bw_inside_dev *at;
	unsigned int verdict;

	if (!st || !bw_state_judges_inside(st))
		return NF_ACCEPT;
	at = bw_inside_find(hs->net, hs->out);
	if (!at || !bw_port_is_child(at->port))
		return NF_ACCEPT;
	/* A process may be sending: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_inside_judge_out(st, skb, hs, at);
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

static struct bw_inside_dev *bw_inside_dev_new(u32 ifindex, u32 link, u32 port,
					       bool judged)
{
	struct bw_inside_dev *at = kzalloc(sizeof(*at), GFP_KERNEL);

	if (!at)
		return NULL;
	at->ifindex = ifindex;
	at->link = link;
	at->port = port;
	at->judged = judged;
	return at;
}

/* Hooks before the first device, and the other way round: bw_inside_remove(). */
static int bw_inside_open(struct bw_net *bn)
{
	int err;

	if (bn->n_devs)
		return 0;
	err = bw_hook_register(bn->net, bw_inside_ops, ARRAY_SIZE(bw_inside_ops),
			       &bn->conntrack_pf);
	if (err)
		return err;
	list_add_tail(&bn->list, &bw_inside_nets);
	bw_inside_opened++;
	return 0;
}

static void bw_inside_close_empty(struct bw_net *bn)
{
	if (bn->n_devs)
		return;
	list_del(&bn->list);
	bw_inside_opened--;
	bw_hook_unregister(bn->net, bw_inside_ops, ARRAY_SIZE(bw_inside_ops),
			   bn->conntrack_pf);
}

static int bw_inside_add(struct bw_net *bn, struct bw_inside_dev *at)
{
	int err;

	err = bw_inside_open(bn);
	if (err)
		return err;
	err = xa_err(xa_store(&bn->devs, at->ifindex, at, GFP_KERNEL));
	if (err) {
		bw_inside_close_empty(bn);
		return err;
	}
	bn->n_devs++;
	hash_add(bw_inside_ports, &at->by_port, at->port);
	return 0;
}

static void bw_inside_remove(struct bw_net *bn, struct bw_inside_dev *at)
{
	xa_erase(&bn->devs, at->ifindex);
	hash_del(&at->by_port);
	kfree_rcu(at, rcu);
	bn->n_devs--;
	bw_inside_close_empty(bn);
}

int bw_inside_list(struct net *net, u32 ifindex, u32 link, u32 port, bool judged)
{
	struct bw_net *bn = net_generic(net, bw_net_id);
	struct bw_inside_dev *at, *old;
	int err;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	if (bn->dying)
		return 0;
	old = xa_load(&bn->devs, ifindex);
	if (old && old->link == link && old->port == port) {
		WRITE_ONCE(old->judged, judged);
		return 0;
	}
	if (old)
		bw_inside_remove(bn, old);
	at = bw_inside_dev_new(ifindex, link, port, judged);
	if (!at)
		return -ENOMEM;
	bn->net = net;
	err = bw_inside_add(bn, at);
	if (err)
		kfree(at);
	return err;
}

void bw_inside_unlist(struct net *net, u32 ifindex)
{
	struct bw_net *bn = net_generic(net, bw_net_id);
	struct bw_inside_dev *at = xa_load(&bn->devs, ifindex);

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	if (at)
		bw_inside_remove(bn, at);
}

void bw_inside_close(struct bw_net *bn)
{
	struct bw_inside_dev *at;
	unsigned long ifindex;

	lockdep_assert_held(&bw_mutex);
	xa_for_each(&bn->devs, ifindex, at)
		bw_inside_remove(bn, at);
}

bool bw_inside_has(u32 link, u32 port)
{
	const struct bw_inside_dev *at;

	lockdep_assert_held(&bw_mutex);
	hash_for_each_possible(bw_inside_ports, at, by_port, port)
		if (at->link == link && at->port == port)
			return true;
	return false;
}

u32 bw_inside_count(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_inside_opened;
}
