// SPDX-License-Identifier: GPL-2.0-only
/*
 * Judging inside the containers' network namespaces. A namespace is opened (our
 * hooks and conntrack are registered in it) while a device in it hangs on a
 * guarded link: a veth whose peer is a port of a guarded bridge, or a child
 * (macvlan, ipvlan) of a guarded parent. No other namespace may pay anything.
 * A device that cannot be judged for want of memory or room must not come up.
 *
 * What reaches a container is judged where it arrives. What leaves one is
 * judged inside only for children, because nobody but its receiver sees it.
 *
 * Everything but the packet path runs under rtnl and bw_mutex, save the end of
 * a namespace, which needs bw_mutex alone.
 */
#include <linux/etherdevice.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <linux/rtnetlink.h>
#include <linux/tcp.h>
#include <net/addrconf.h>
#include <net/ip.h>
#include <net/ipv6.h>
#include <net/netns/generic.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/route.h>
#include <net/rtnetlink.h>

#include "hook.h"
#include "netns.h"
#include "packet.h"
#include "txn.h"
#include "verdict.h"

#define BW_NET_DEVS	16	/* judged ones in a namespace */

/* As an endpoint's home: see struct bw_home. */
struct bw_net_dev {
	u32 ifindex;	/* 0: unused */
	u32 link;
	u32 port;
};

struct bw_net {
	struct list_head list;
	struct net *net;	/* NULL: has never had a device of a container */
	bool dying;
	bool open;
	u8 conntrack_pf;
	u32 n_dev;		/* slots ever used since it was opened */
	struct bw_net_dev dev[BW_NET_DEVS];
};

static unsigned int bw_net_id __read_mostly;
/* Of those that have or had a device of a container. */
static LIST_HEAD(bw_nets);
static u32 bw_nets_open;
static bool bw_net_follows;	/* bw_txn_mutex, but for unloading */

/* The packet path. */

static bool bw_net_find(const struct net *net, const struct net_device *dev,
			struct bw_net_dev *at)
{
	const struct bw_net *bn = net_generic(net, bw_net_id);
	u32 i, n = READ_ONCE(bn->n_dev);

	for (i = 0; i < n; i++) {
		const struct bw_net_dev *slot = &bn->dev[i];

		/* Pairs with smp_store_release() in bw_net_set(). */
		if (smp_load_acquire(&slot->ifindex) != dev->ifindex)
			continue;
		at->link = READ_ONCE(slot->link);
		at->port = READ_ONCE(slot->port);
		return true;
	}
	return false;
}

/* Of a macvlan or ipvlan rather than of a veth. */
static bool bw_port_is_child(u32 port)
{
	return port > INT_MAX;
}

/* Whether it came over the bridge rather than through the host. */
static bool bw_net_from_neighbour(const struct sk_buff *skb,
				  const struct bw_net_dev *at)
{
	const struct net_device *bridge;

	if (bw_port_is_child(at->port))
		return false;
	bridge = dev_get_by_index_rcu(&init_net, at->link);
	return !bridge || !skb_mac_header_was_set(skb) ||
	       !ether_addr_equal(eth_hdr(skb)->h_source, bridge->dev_addr);
}

static bool bw_net_is_host(const struct bw_party *p)
{
	struct in6_addr v6;

	if (p->family == AF_INET)
		return inet_addr_type(&init_net, p->addr.v4) == RTN_LOCAL;
	memcpy(&v6, &p->addr, sizeof(v6));
	return ipv6_chk_addr(&init_net, &v6, NULL, 0);
}

/* The other side: known by its address, or at least as a neighbour. */
static void bw_net_stand_peer(const struct bw_state *st, struct bw_party *p,
			      const struct bw_net_dev *at, bool neighbour)
{
	const struct bw_home *home;

	if (neighbour) {
		bw_stand(p, BW_KIND_GUARDED, at->link, 0);
		return;
	}
	home = bw_home_find(st->endpoints, p->family, &p->addr);
	/* From the one to the other kind of link packets come from outside. */
	if (home && bw_port_is_child(home->port) == bw_port_is_child(at->port))
		bw_stand(p, BW_KIND_GUARDED, 0, 0);
	else if (bw_net_is_host(p))
		bw_stand(p, BW_KIND_HOST, 0, 0);
	else
		bw_stand(p, BW_KIND_WORLD, 0, 0);
}

static bool bw_net_is_reset(const struct sk_buff *skb, u8 pf)
{
	unsigned int offset = skb_network_offset(skb);
	unsigned short fragment = 0;
	const struct tcphdr *tcp;
	struct tcphdr buffer;

	if (pf == NFPROTO_IPV4) {
		if (ip_hdr(skb)->protocol != IPPROTO_TCP)
			return false;
		offset += ip_hdrlen(skb);
	} else if (ipv6_find_hdr(skb, &offset, IPPROTO_TCP, &fragment,
				 NULL) < 0 || fragment) {
		return false;
	}
	tcp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	return tcp && tcp->rst && skb->len == offset + tcp->doff * 4;
}

/* How a query looks from inside. */
static void bw_net_stand(const struct bw_state *st, struct bw_query *q,
			 const struct bw_net_dev *at, struct bw_party *own,
			 struct bw_party *peer, bool neighbour)
{
	bw_stand(own, BW_KIND_GUARDED, at->link, at->port);
	bw_net_stand_peer(st, peer, at, neighbour);
	/* The host alone knows what was published; here all is DNATed by now. */
	q->flags = 0;
	if (q->side[BW_RESPONDER].kind == BW_KIND_HOST)
		bw_publish(st->endpoints, q);
}

static unsigned int bw_net_judge_in(const struct bw_state *st,
				    struct sk_buff *skb,
				    const struct nf_hook_state *hs,
				    const struct bw_net_dev *at)
{
	struct bw_decision d;
	struct bw_query q;
	bool error;
	int reason;

	if (unlikely(st->closed))
		return bw_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD | BW_INSIDE_IN, &q);
	if (unlikely(reason >= 0))
		return bw_builtin(st, skb, hs, reason);
	error = q.flags & BW_Q_ERROR;
	/* Whoever reports an error is not the one it is judged by. */
	bw_net_stand(st, &q, at, bw_receiver(&q), bw_sender(&q),
		     !error && bw_net_from_neighbour(skb, at));
	bw_classify(st->rules, st->endpoints, &q, &d);
	/* Who is refused shall learn of it: others' refusals come by here. */
	if (unlikely(d.action != BW_ACTION_ALLOW) &&
	    (error || (q.sender == BW_RESPONDER && bw_net_is_reset(skb, hs->pf))))
		return bw_builtin(st, skb, hs, BW_REASON_HOST_ERROR);
	return bw_verdict(st, skb, hs, &d);
}

/* Of children only. What a container will receive is counted there. */
static unsigned int bw_net_judge_out(const struct bw_state *st,
				     struct sk_buff *skb,
				     const struct nf_hook_state *hs,
				     const struct bw_net_dev *at)
{
	struct bw_decision d;
	struct bw_query q;
	int reason;

	if (unlikely(st->closed))
		return bw_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD | BW_INSIDE_OUT, &q);
	if (unlikely(reason >= 0))
		return bw_builtin(st, skb, hs, reason);
	bw_net_stand(st, &q, at, bw_sender(&q), bw_receiver(&q), false);
	bw_classify(st->rules, st->endpoints, &q, &d);
	if (bw_counts_later(st, &q, &d))
		return NF_ACCEPT;
	return bw_verdict(st, skb, hs, &d);
}

/* LOCAL_IN, and FORWARD for containers that are routers themselves. */
static unsigned int bw_net_hook_in(void *priv, struct sk_buff *skb,
				   const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int verdict;
	struct bw_net_dev at;

	if (!st || st->placement != BW_PLACEMENT_CONTAINER ||
	    !bw_net_find(hs->net, hs->in, &at))
		return NF_ACCEPT;
	/* A queue's listener may send it here again: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_net_judge_in(st, skb, hs, &at);
	local_bh_enable();
	return verdict;
}

static unsigned int bw_net_hook_out(void *priv, struct sk_buff *skb,
				    const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int verdict;
	struct bw_net_dev at;

	if (!st || st->placement != BW_PLACEMENT_CONTAINER ||
	    !bw_net_find(hs->net, hs->out, &at) || !bw_port_is_child(at.port))
		return NF_ACCEPT;
	/* A process may be sending: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_net_judge_out(st, skb, hs, &at);
	local_bh_enable();
	return verdict;
}

/*
 * What leaves is judged as the wire will show it, behind the container's own
 * NAT; only conntrack's confirmation comes later.
 */
#define BW_NET_LATE	(NF_IP_PRI_LAST - 1)

static const struct nf_hook_ops bw_net_ops[] = {
	BW_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_net_hook_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_net_hook_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, BW_NET_LATE, bw_net_hook_out),
	BW_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_net_hook_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_net_hook_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, BW_NET_LATE, bw_net_hook_out),
};

/* Where a device hangs. */

static bool bw_net_is_kind(const struct net_device *dev, const char *kind)
{
	return dev->rtnl_link_ops && !strcmp(dev->rtnl_link_ops->kind, kind);
}

static bool bw_net_maybe_child(const struct net_device *dev)
{
	return bw_net_is_kind(dev, "macvlan") || bw_net_is_kind(dev, "ipvlan");
}

/* The host's end of a veth. */
static struct net_device *bw_net_peer(const struct net_device *dev)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;

	if (!bw_net_is_kind(dev, "veth") || !ops->get_link_net ||
	    !net_eq(ops->get_link_net(dev), &init_net))
		return NULL;
	return __dev_get_by_index(&init_net, dev_get_iflink(dev));
}

static struct net_device *bw_net_parent(struct net_device *dev)
{
	struct net_device *lower;
	struct list_head *iter;

	if (!bw_net_maybe_child(dev))
		return NULL;
	netdev_for_each_lower_dev(dev, lower, iter)
		if (net_eq(dev_net(lower), &init_net))
			return lower;
	return NULL;
}

/* false: the state does not judge there. */
static bool bw_net_locate(const struct bw_state *st, struct net_device *dev,
			  struct bw_net_dev *at)
{
	struct net_device *peer, *link;

	if (!st || st->placement != BW_PLACEMENT_CONTAINER)
		return false;
	peer = bw_net_peer(dev);
	link = peer ? netdev_master_upper_dev_get(peer) : bw_net_parent(dev);
	if (!link || !bw_guards_match(peer ? &st->guards : &st->parents, link))
		return false;
	at->ifindex = dev->ifindex;
	at->link = link->ifindex;
	at->port = peer ? peer->ifindex : dev_net(dev)->ns.inum;
	return true;
}

/* Opening and closing. */

static int bw_net_open(struct bw_net *bn)
{
	int err;

	if (bn->open)
		return 0;
	err = bw_hook_register(bn->net, bw_net_ops, ARRAY_SIZE(bw_net_ops),
			       &bn->conntrack_pf);
	if (err)
		return err;
	bn->open = true;
	bw_nets_open++;
	return 0;
}

static void bw_net_close(struct bw_net *bn)
{
	if (!bn->open)
		return;
	WRITE_ONCE(bn->n_dev, 0);
	memset(bn->dev, 0, sizeof(bn->dev));
	bw_hook_unregister(bn->net, bw_net_ops, ARRAY_SIZE(bw_net_ops),
			   bn->conntrack_pf);
	bn->open = false;
	bw_nets_open--;
}

static int bw_net_set(struct bw_net *bn, const struct bw_net_dev *at)
{
	struct bw_net_dev *slot = NULL;
	u32 i;

	for (i = 0; i < BW_NET_DEVS; i++) {
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
	/* Pairs with smp_load_acquire() in bw_net_find(): link and port first. */
	smp_store_release(&slot->ifindex, at->ifindex);
	if (slot - bn->dev >= bn->n_dev)
		WRITE_ONCE(bn->n_dev, slot - bn->dev + 1);
	return 0;
}

/* Opens the namespace for a state that is, comes or (not live) may come back. */
static int bw_net_add(struct bw_net *bn, const struct bw_state *st, bool live)
{
	struct net_device *dev;
	struct bw_net_dev at;
	int err;

	for_each_netdev(bn->net, dev) {
		if (!bw_net_locate(st, dev, &at))
			continue;
		err = bw_net_open(bn);
		if (!err && live)
			err = bw_net_set(bn, &at);
		if (err)
			return err;
	}
	return 0;
}

static bool bw_net_needed(const struct bw_net *bn, const struct bw_state *st)
{
	struct net_device *dev;
	struct bw_net_dev at;

	for_each_netdev(bn->net, dev)
		if (bw_net_locate(st, dev, &at))
			return true;
	return false;
}

static void bw_net_keep(struct bw_net *bn, const struct bw_state *st,
			const struct bw_state *spare)
{
	struct net_device *dev;
	struct bw_net_dev at;
	u32 i;

	for (i = 0; i < bn->n_dev; i++) {
		if (!bn->dev[i].ifindex)
			continue;
		dev = __dev_get_by_index(bn->net, bn->dev[i].ifindex);
		if (!dev || !bw_net_locate(st, dev, &at))
			WRITE_ONCE(bn->dev[i].ifindex, 0);
	}
	if (!bw_net_needed(bn, st) && !bw_net_needed(bn, spare))
		bw_net_close(bn);
}

int bw_net_add_matching(const struct bw_state *st)
{
	struct bw_net *bn;
	int err;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	list_for_each_entry(bn, &bw_nets, list) {
		err = bw_net_add(bn, st, true);
		if (err)
			return err;
	}
	return 0;
}

void bw_net_keep_matching(const struct bw_state *st,
			  const struct bw_state *spare)
{
	struct bw_net *bn;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	list_for_each_entry(bn, &bw_nets, list)
		bw_net_keep(bn, st, spare);
}

bool bw_net_has(const struct bw_state *st, u32 link, u32 inum)
{
	struct net_device *dev;
	struct bw_net_dev at;
	struct bw_net *bn;

	list_for_each_entry(bn, &bw_nets, list) {
		if (bn->net->ns.inum != inum)
			continue;
		for_each_netdev(bn->net, dev)
			if (bw_net_locate(st, dev, &at) && at.link == link &&
			    at.port == inum)
				return true;
	}
	return false;
}

u32 bw_net_count(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_nets_open;
}

/* As links come and go. */

static int bw_net_settle(struct net *net)
{
	struct bw_net *bn = net_generic(net, bw_net_id);
	const struct bw_state *st = bw_state_locked();
	const struct bw_state *spare = bw_state_spare();
	int err;

	if (net_eq(net, &init_net) || bn->dying)
		return 0;
	if (!bn->net) {
		bn->net = net;
		list_add_tail(&bn->list, &bw_nets);
	}
	err = bw_net_add(bn, st, true);
	if (!err)
		err = bw_net_add(bn, spare, false);
	bw_net_keep(bn, st, spare);
	return err;
}

static int bw_net_settle_all(void)
{
	struct bw_net *bn;
	int err = 0;

	list_for_each_entry(bn, &bw_nets, list)
		err = bw_net_settle(bn->net) ? : err;
	return err;
}

/* Endpoints must not outlive the child they are behind. */
static void bw_net_part(const struct net_device *parent,
			const struct net_device *child)
{
	if (parent && net_eq(dev_net(parent), &init_net) &&
	    !net_eq(dev_net(child), &init_net))
		bw_state_close_place(parent->ifindex, dev_net(child)->ns.inum);
}

static int bw_net_upper_changed(struct net_device *dev,
				const struct netdev_notifier_changeupper_info *info)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;

	if (bw_net_maybe_child(info->upper_dev)) {
		if (!info->linking)
			bw_net_part(dev, info->upper_dev);
		return bw_net_settle(dev_net(info->upper_dev));
	}
	if (bw_net_is_kind(dev, "veth") && ops->get_link_net)
		return bw_net_settle(ops->get_link_net(dev));
	return 0;
}

static int bw_net_changed(unsigned long event, struct net_device *dev,
			  void *info)
{
	switch (event) {
	case NETDEV_CHANGEUPPER:
		return bw_net_upper_changed(dev, info);
	case NETDEV_CHANGENAME:
		/* Patterns may take a bridge or a parent in, or let it go. */
		return net_eq(dev_net(dev), &init_net) ? bw_net_settle_all() : 0;
	case NETDEV_UNREGISTER:
		bw_net_part(bw_net_parent(dev), dev);
		fallthrough;
	case NETDEV_REGISTER:
	case NETDEV_PRE_UP:
		if (bw_net_maybe_child(dev) || bw_net_is_kind(dev, "veth"))
			return bw_net_settle(dev_net(dev));
	}
	return 0;
}

static int bw_net_event(struct notifier_block *nb, unsigned long event,
			void *ptr)
{
	int err;

	switch (event) {
	case NETDEV_CHANGEUPPER:
	case NETDEV_CHANGENAME:
	case NETDEV_UNREGISTER:
	case NETDEV_REGISTER:
	case NETDEV_PRE_UP:
		break;
	default:
		return NOTIFY_DONE;
	}
	mutex_lock(&bw_mutex);
	err = bw_net_changed(event, netdev_notifier_info_to_dev(ptr), ptr);
	mutex_unlock(&bw_mutex);
	if (err)
		pr_warn_ratelimited("a container's namespace cannot be judged: error %d\n",
				    err);
	return notifier_from_errno(err);
}

static struct notifier_block bw_net_notifier = {
	.notifier_call = bw_net_event,
};

/* Before conntrack leaves the namespace, and while its devices are still there. */
static void __net_exit bw_net_pre_exit(struct net *net)
{
	struct bw_net *bn = net_generic(net, bw_net_id);

	mutex_lock(&bw_mutex);
	bn->dying = true;
	if (bn->net) {
		bw_net_close(bn);
		list_del(&bn->list);
	}
	mutex_unlock(&bw_mutex);
}

static struct pernet_operations bw_net_pernet = {
	.pre_exit = bw_net_pre_exit,
	.id = &bw_net_id,
	.size = sizeof(struct bw_net),
};

int bw_net_follow(void)
{
	int err;

	lockdep_assert_held(&bw_txn_mutex);
	if (bw_net_follows)
		return 0;
	err = register_pernet_subsys(&bw_net_pernet);
	if (err)
		return err;
	/* Replays NETDEV_REGISTER for every device of every namespace. */
	err = register_netdevice_notifier(&bw_net_notifier);
	if (err)
		unregister_pernet_subsys(&bw_net_pernet);
	else
		bw_net_follows = true;
	return err;
}

void bw_net_exit(void)
{
	if (!bw_net_follows)
		return;
	unregister_netdevice_notifier(&bw_net_notifier);
	unregister_pernet_subsys(&bw_net_pernet);
}
