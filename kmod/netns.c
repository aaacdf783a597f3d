// SPDX-License-Identifier: GPL-2.0-only
/*
 * Follows devices. Listed (inside.c) is each device of another namespace that
 * hangs on a link which the state in force, the saved or the next one judges: a veth
 * whose peer is a port of a guarded bridge, or a child (macvlan, ipvlan) of a
 * guarded parent. A device that cannot be listed must not be up: it cannot be
 * brought up, an up one cannot become a port of a guarded bridge, and a link that
 * becomes guarded by a new name takes it down. So whatever is up is listed, and a
 * roll back needs no memory.
 *
 * An event costs what hangs on its device, and fails for that device alone. No
 * other namespace may pay anything.
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
#include "offload.h"

static bool bw_net_follows;	/* bw_txn_mutex, but for unloading */

/* Where a device hangs. */

static bool bw_net_is_kind(const struct net_device *dev, const char *kind)
{
	return dev->rtnl_link_ops && !strcmp(dev->rtnl_link_ops->kind, kind);
}

static bool bw_net_of_host(const struct net_device *dev)
{
	return net_eq(dev_net(dev), &init_net);
}

/* The other end of a veth. NULL: it is none, or has none. */
static struct net_device *bw_net_peer(const struct net_device *dev)
{
	const struct rtnl_link_ops *ops = dev->rtnl_link_ops;

	if (!bw_net_is_kind(dev, "veth") || !ops->get_link_net)
		return NULL;
	return __dev_get_by_index(ops->get_link_net(dev), dev_get_iflink(dev));
}

static struct net_device *bw_net_parent(struct net_device *dev)
{
	struct net_device *lower;
	struct list_head *iter;

	if (!bw_guard_is_child(dev))
		return NULL;
	netdev_for_each_lower_dev(dev, lower, iter)
		if (bw_net_of_host(lower))
			return lower;
	return NULL;
}

/* The host's link that a device of another namespace hangs on. NULL: none. */
static const struct net_device *bw_net_link(struct net_device *dev, u32 *port)
{
	struct net_device *peer = bw_net_peer(dev);

	if (bw_net_of_host(dev))
		return NULL;
	if (peer && bw_net_of_host(peer)) {
		*port = peer->ifindex;
		return netdev_master_upper_dev_get(peer);
	}
	*port = dev_net(dev)->ns.inum;
	return bw_net_parent(dev);
}

/* Calls back for the devices that hang on a link; ends at the first error. */
static int bw_net_visit(struct net_device *link,
			int (*fn)(struct net_device *dev, void *arg), void *arg)
{
	struct net_device *port, *peer, *child;
	struct list_head *iter;
	int err;

	netdev_for_each_lower_dev(link, port, iter) {
		peer = bw_net_peer(port);
		err = peer ? fn(peer, arg) : 0;
		if (err)
			return err;
	}
	/* rtnl is held, so that this may sleep. */
	netdev_for_each_upper_dev_rcu(link, child, iter) {
		err = bw_guard_is_child(child) ? fn(child, arg) : 0;
		if (err)
			return err;
	}
	return 0;
}

/* What a state needs. */

static bool bw_net_judges_inside(const struct bw_state *st)
{
	return st && bw_state_judges_inside(st);
}

static bool bw_net_judges(const struct bw_state *st, const struct net_device *link,
			  u32 port)
{
	return bw_net_judges_inside(st) &&
	       bw_guard_matches(bw_port_is_child(port) ? &st->parents : &st->guards, link);
}

/* Whether the state in force judges there. */
static bool bw_net_judges_now(const struct net_device *link, u32 port)
{
	return bw_net_judges(bw_state_locked(), link, port);
}

/* so: what follows for the device, or for who asked for it. */
static void bw_net_warn(const struct net_device *dev, const char *so, int err)
{
	pr_warn_ratelimited("%s in network namespace %u cannot be judged, so %s: error %d\n",
			    dev->name, dev_net(dev)->ns.inum, so, err);
}

/* Lists a device for the state in arg; only one that is up can fail. */
static int bw_net_prepare_dev(struct net_device *dev, void *arg)
{
	const struct net_device *link;
	u32 port;
	int err;

	link = bw_net_link(dev, &port);
	if (!link || !bw_net_judges(arg, link, port))
		return 0;
	err = bw_inside_list(dev_net(dev), dev->ifindex, link->ifindex, port,
			     bw_net_judges_now(link, port));
	if (!err || !(dev->flags & IFF_UP))
		return 0;
	bw_net_warn(dev, "the commit fails", err);
	return err;
}

int bw_net_prepare(const struct bw_state *st)
{
	struct net_device *link;
	int err;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	if (!bw_net_judges_inside(st))
		return 0;
	for_each_netdev(&init_net, link) {
		if (!bw_guard_matches(&st->guards, link) &&
		    !bw_guard_matches(&st->parents, link))
			continue;
		err = bw_net_visit(link, bw_net_prepare_dev, (void *)st);
		if (err)
			return err;
	}
	return 0;
}

static bool bw_net_judges_listed(const struct bw_state *st, const struct bw_inside_dev *at)
{
	const struct net_device *link = __dev_get_by_index(&init_net, at->link);

	return link && bw_net_judges(st, link, at->port);
}

void bw_net_judge(const struct bw_state *st)
{
	struct bw_inside_dev *at;
	unsigned long ifindex;
	struct bw_net *bn;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	list_for_each_entry(bn, &bw_inside_nets, list)
		xa_for_each(&bn->devs, ifindex, at)
			if (bw_net_judges_listed(st, at))
				WRITE_ONCE(at->judged, true);
}

static void bw_net_drop_one_unneeded(struct bw_net *bn, struct bw_inside_dev *at,
				     const struct bw_state *st,
				     const struct bw_state *saved)
{
	bool judged = bw_net_judges_listed(st, at);

	if (judged || bw_net_judges_listed(saved, at))
		WRITE_ONCE(at->judged, judged);
	else
		bw_inside_unlist(bn->net, at->ifindex);
}

void bw_net_drop_unneeded(const struct bw_state *st, const struct bw_state *saved)
{
	struct bw_inside_dev *at;
	struct bw_net *bn, *next;
	unsigned long ifindex;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	list_for_each_entry_safe(bn, next, &bw_inside_nets, list)
		xa_for_each(&bn->devs, ifindex, at)
			bw_net_drop_one_unneeded(bn, at, st, saved);
}

/* As devices come, go and change places. */

/* Lists or unlists a device. bw_mutex is held. */
static int bw_net_sync(struct net_device *dev)
{
	const struct net_device *link;
	bool judged, kept;
	u32 port;

	link = bw_net_link(dev, &port);
	judged = link && bw_net_judges_now(link, port);
	kept = link && (bw_net_judges(bw_state_saved(), link, port) ||
			bw_net_judges(bw_state_next(), link, port));
	if (judged || kept)
		return bw_inside_list(dev_net(dev), dev->ifindex, link->ifindex, port, judged);
	bw_inside_unlist(dev_net(dev), dev->ifindex);
	return 0;
}

/* Whether any device of the namespace is listed. rtnl is held. */
static bool bw_net_is_open(const struct net *net)
{
	const struct bw_net *bn = net_generic(net, bw_net_id);

	return READ_ONCE(bn->n_devs);
}

/* Takes bw_mutex, unless nothing can follow. */
static int bw_net_update(struct net_device *dev)
{
	u32 port;
	int err;

	if (!bw_net_link(dev, &port) && !bw_net_is_open(dev_net(dev)))
		return 0;
	mutex_lock(&bw_mutex);
	err = bw_net_sync(dev);
	mutex_unlock(&bw_mutex);
	return err;
}

/* refused: the first device that is up and cannot be listed. */
static int bw_net_sync_on(struct net_device *dev, void *refused)
{
	int err = bw_net_sync(dev);

	if (!err || !(dev->flags & IFF_UP))
		return 0;
	*(struct net_device **)refused = dev;
	return err;
}

static int bw_net_unlist_on(struct net_device *dev, void *link)
{
	u32 port;

	if (bw_net_link(dev, &port) == link)
		bw_inside_unlist(dev_net(dev), dev->ifindex);
	return 0;
}

/*
 * A link of the host has a new name, or has come from another namespace: all that
 * hangs on it. What cannot be listed is taken down without bw_mutex, which other
 * notifiers take.
 */
static void bw_net_link_changed(struct net_device *link)
{
	struct net_device *refused;
	int err;

	do {
		mutex_lock(&bw_mutex);
		err = bw_net_visit(link, bw_net_sync_on, &refused);
		mutex_unlock(&bw_mutex);
		if (err) {
			bw_net_warn(refused, "it is taken down", err);
			dev_close(refused);
		}
	} while (err);
}

/* Endpoints must not outlive the child they are behind. bw_mutex is held. */
static void bw_net_detach_child(const struct net_device *parent,
				const struct net_device *child)
{
	if (!parent || !bw_net_of_host(parent) || bw_net_of_host(child) ||
	    !bw_state_close_child(parent->ifindex, dev_net(child)->ns.inum))
		return;
	bw_memo_invalidate();
	bw_offload_end_soon();
}

static int bw_net_upper_changed(struct net_device *dev,
				const struct netdev_notifier_changeupper_info *info)
{
	bool child = bw_guard_is_child(info->upper_dev);
	struct net_device *hangs = child ? info->upper_dev : bw_net_peer(dev);
	int err;

	if (child && !info->linking) {
		mutex_lock(&bw_mutex);
		bw_net_detach_child(dev, hangs);
		mutex_unlock(&bw_mutex);
	}
	err = hangs ? bw_net_update(hangs) : 0;
	if (!err || !info->linking || !(hangs->flags & IFF_UP))
		return 0;
	bw_net_warn(hangs, "it is not attached", err);
	return err;
}

static int bw_net_pre_up(struct net_device *dev)
{
	int err = bw_net_update(dev);

	if (err)
		bw_net_warn(dev, "it stays down", err);
	return err;
}

/* Goes, or leaves for another namespace. */
static void bw_net_unregister(struct net_device *dev)
{
	struct net_device *parent = bw_net_parent(dev);

	if (!bw_net_of_host(dev) && !parent && !bw_net_is_open(dev_net(dev)))
		return;
	mutex_lock(&bw_mutex);
	bw_net_detach_child(parent, dev);
	bw_net_visit(dev, bw_net_unlist_on, dev);
	bw_inside_unlist(dev_net(dev), dev->ifindex);
	mutex_unlock(&bw_mutex);
}

static int bw_net_event(struct notifier_block *nb, unsigned long event,
			void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);
	int err = 0;

	switch (event) {
	case NETDEV_CHANGEUPPER:
		err = bw_net_upper_changed(dev, ptr);
		break;
	case NETDEV_PRE_UP:
		err = bw_net_pre_up(dev);
		break;
	case NETDEV_REGISTER:
		/* It is down: what fails here fails again before it is up. */
		bw_net_update(dev);
		fallthrough;
	case NETDEV_CHANGENAME:
		if (bw_net_of_host(dev))
			bw_net_link_changed(dev);
		break;
	case NETDEV_UNREGISTER:
		bw_net_unregister(dev);
		break;
	}
	return notifier_from_errno(err);
}

static struct notifier_block bw_net_notifier = {
	.notifier_call = bw_net_event,
};

static int __net_init bw_net_init(struct net *net)
{
	struct bw_net *bn = net_generic(net, bw_net_id);

	xa_init(&bn->devs);
	return 0;
}

/* Before conntrack leaves the namespace, and while its devices are still there. */
static void __net_exit bw_net_pre_exit(struct net *net)
{
	struct bw_net *bn = net_generic(net, bw_net_id);

	mutex_lock(&bw_mutex);
	bn->dying = true;
	bw_inside_close(bn);
	mutex_unlock(&bw_mutex);
}

static struct pernet_operations bw_net_pernet = {
	.init = bw_net_init,
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
