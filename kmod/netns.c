// SPDX-License-Identifier: GPL-2.0-only
/*
 * Follows network namespaces. A namespace is opened (inside.c registers hooks and
 * conntrack in it) while a device in it hangs on a guarded link: a veth whose
 * peer is a port of a guarded bridge, or a child (macvlan, ipvlan) of a guarded
 * parent. No other namespace may pay anything. A device that cannot be judged
 * for want of memory or room must not come up.
 *
 * Everything runs under rtnl and bw_mutex, save the end of a namespace, which
 * needs bw_mutex alone.
 */
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <net/netns/generic.h>
#include <net/rtnetlink.h>

#include "inside.h"
#include "lock.h"
#include "memo.h"
#include "netns.h"

/* Those that have or had a device of a container. */
static LIST_HEAD(bw_nets);
static bool bw_net_follows;	/* bw_txn_mutex, but for unloading */

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
	if (!link || !bw_guard_matches(peer ? &st->guards : &st->parents, link))
		return false;
	at->ifindex = dev->ifindex;
	at->link = link->ifindex;
	at->port = peer ? peer->ifindex : dev_net(dev)->ns.inum;
	return true;
}

/* What a state needs. */

/* Opens the namespace for a state that is, comes or (not live) may come back. */
static int bw_net_add(struct bw_net *bn, const struct bw_state *st, bool live)
{
	struct net_device *dev;
	struct bw_net_dev at;
	int err;

	for_each_netdev(bn->net, dev) {
		if (!bw_net_locate(st, dev, &at))
			continue;
		err = bw_inside_open(bn);
		if (!err && live)
			err = bw_inside_set_dev(bn, &at);
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

static void bw_net_drop_one_unneeded(struct bw_net *bn, const struct bw_state *st,
				     const struct bw_state *saved)
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
	if (!bw_net_needed(bn, st) && !bw_net_needed(bn, saved))
		bw_inside_close(bn);
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

void bw_net_drop_unneeded(const struct bw_state *st,
			  const struct bw_state *saved)
{
	struct bw_net *bn;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	list_for_each_entry(bn, &bw_nets, list)
		bw_net_drop_one_unneeded(bn, st, saved);
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

/* As links come and go. */

static int bw_net_sync(struct net *net)
{
	struct bw_net *bn = net_generic(net, bw_net_id);
	const struct bw_state *st = bw_state_locked();
	const struct bw_state *saved = bw_state_saved();
	int err;

	if (net_eq(net, &init_net) || bn->dying)
		return 0;
	if (!bn->net) {
		bn->net = net;
		list_add_tail(&bn->list, &bw_nets);
	}
	err = bw_net_add(bn, st, true);
	if (!err)
		err = bw_net_add(bn, saved, false);
	bw_net_drop_one_unneeded(bn, st, saved);
	return err;
}

static int bw_net_sync_all(void)
{
	struct bw_net *bn;
	int err = 0;

	list_for_each_entry(bn, &bw_nets, list)
		err = bw_net_sync(bn->net) ? : err;
	return err;
}

/* Endpoints must not outlive the child they are behind. */
static void bw_net_detach_child(const struct net_device *parent,
				const struct net_device *child)
{
	if (parent && net_eq(dev_net(parent), &init_net) &&
	    !net_eq(dev_net(child), &init_net))
		bw_state_close_child(parent->ifindex, dev_net(child)->ns.inum);
}

static int bw_net_upper_changed(struct net_device *dev,
				const struct netdev_notifier_changeupper_info *info)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;

	if (bw_net_maybe_child(info->upper_dev)) {
		if (!info->linking)
			bw_net_detach_child(dev, info->upper_dev);
		return bw_net_sync(dev_net(info->upper_dev));
	}
	if (bw_net_is_kind(dev, "veth") && ops->get_link_net)
		return bw_net_sync(ops->get_link_net(dev));
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
		return net_eq(dev_net(dev), &init_net) ? bw_net_sync_all() : 0;
	case NETDEV_UNREGISTER:
		bw_net_detach_child(bw_net_parent(dev), dev);
		fallthrough;
	case NETDEV_REGISTER:
	case NETDEV_PRE_UP:
		if (bw_net_maybe_child(dev) || bw_net_is_kind(dev, "veth"))
			return bw_net_sync(dev_net(dev));
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
		bw_inside_close(bn);
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
