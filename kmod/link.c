// SPDX-License-Identifier: GPL-2.0-only
/*
 * Follows the host's links: guards, endpoints and whatever else depends on a
 * link are changed in the notifier, under rtnl. It must not allocate, and an
 * endpoint must not outlive its link.
 */
#include <linux/netdevice.h>
#include <linux/notifier.h>
#include <net/net_namespace.h>

#include "guard.h"
#include "link.h"
#include "lock.h"
#include "memo.h"
#include "offload.h"
#include "state.h"

/*
 * What rested on the link as it was: remembered verdicts, and flows that a
 * flowtable has carried past the hooks since before it was guarded.
 */
static void bw_link_forget(void)
{
	bw_memo_invalidate();
	bw_offload_end_soon();
}

/* Its name, or what it is put on, may have made it guarded, or no longer so. */
static void bw_link_changed(struct net_device *dev)
{
	mutex_lock(&bw_mutex);
	if (bw_guard_update(dev))
		bw_link_forget();
	mutex_unlock(&bw_mutex);
}

/*
 * A device of the host became a port of a guarded bridge, so that nothing passes by
 * it alone, see bw_bare_port(): what was remembered of it before must not.
 */
static void bw_link_joined(const struct net_device *upper)
{
	if (!netif_is_bridge_master(upper) || !bw_guard_link(upper->ifindex))
		return;
	mutex_lock(&bw_mutex);
	bw_memo_invalidate();
	mutex_unlock(&bw_mutex);
}

/* Others' links come and go all the time: their end must cost nobody a flow. */
static void bw_link_gone(const struct net_device *dev)
{
	bool mattered;

	mutex_lock(&bw_mutex);
	mattered = bw_state_close_link(dev->ifindex);
	mattered |= bw_guard_remove(dev->ifindex);
	if (mattered)
		bw_link_forget();
	mutex_unlock(&bw_mutex);
}

static int bw_link_event(struct notifier_block *nb, unsigned long event,
			 void *ptr)
{
	struct net_device *dev = netdev_notifier_info_to_dev(ptr);

	if (!net_eq(dev_net(dev), &init_net))
		return NOTIFY_DONE;
	switch (event) {
	case NETDEV_REGISTER:
	case NETDEV_CHANGENAME:
		bw_link_changed(dev);
		break;
	case NETDEV_CHANGEUPPER:
		/* What is stacked on a guarded link belongs to it. */
		dev = ((struct netdev_notifier_changeupper_info *)ptr)->upper_dev;
		if (net_eq(dev_net(dev), &init_net)) {
			bw_link_changed(dev);
			bw_link_joined(dev);
		}
		break;
	case NETDEV_UNREGISTER:
		bw_link_gone(dev);
		break;
	}
	return NOTIFY_DONE;
}

static struct notifier_block bw_link_notifier = {
	.notifier_call = bw_link_event,
};

int bw_link_init(void)
{
	return register_netdevice_notifier_net(&init_net, &bw_link_notifier);
}

void bw_link_exit(void)
{
	unregister_netdevice_notifier_net(&init_net, &bw_link_notifier);
}
