// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ending offloaded flows. The flowtable's own cleanup does it, the one that runs
 * when a device goes down; it must never become a reason for nf_flow_table to be
 * loaded. Flows over guarded links that may stay are offloaded anew by their next
 * packet, so no attempt is made to tell them apart.
 */
#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include <net/netfilter/nf_flow_table.h>

#include "guard.h"
#include "lock.h"
#include "offload.h"
#include "state.h"

/* A search through all flows for each; with more devices, all flows end. */
#define BW_OFFLOAD_DEVICES	64

struct bw_offload_devices {
	u32 n;
	struct net_device *dev[BW_OFFLOAD_DEVICES];	/* each is held */
};

static int bw_offload_list(struct net_device *dev, struct bw_offload_devices *list)
{
	u32 i;

	for (i = 0; i < list->n; i++)
		if (list->dev[i] == dev)
			return 0;
	if (list->n == BW_OFFLOAD_DEVICES)
		return -EOVERFLOW;
	dev_hold(dev);
	list->dev[list->n++] = dev;
	return 0;
}

/* Every device of a flowtable has a hook at its ingress. */
static bool bw_offload_has_ingress(const struct net_device *dev)
{
#ifdef CONFIG_NETFILTER_INGRESS
	return rcu_access_pointer(dev->nf_hooks_ingress);
#else
	return false;
#endif
}

/*
 * A flow names the device that routing knows, or, since Linux 5.13, the one below
 * it where its packets enter (a bridge's port), if the flowtable has that one:
 * nft_flow_route().
 */
static int bw_offload_list_below(struct net_device *dev, struct bw_offload_devices *list,
				 unsigned int depth)
{
	struct net_device *lower;
	struct list_head *iter;
	int err = 0;

	netdev_for_each_lower_dev(dev, lower, iter) {
		if (bw_offload_has_ingress(lower))
			err = bw_offload_list(lower, list);
		if (!err && depth)
			err = bw_offload_list_below(lower, list, depth - 1);
		if (err)
			return err;
	}
	return 0;
}

static int bw_offload_list_guarded(u32 ifindex, void *arg)
{
	struct net_device *dev = __dev_get_by_index(&init_net, ifindex);
	int err;

	if (!dev)
		return 0;
	err = bw_offload_list(dev, arg);
	return err ?: bw_offload_list_below(dev, arg, BW_GUARD_DEPTH);
}

/* false: too many, or a container's own flowtable may carry what is judged inside. */
static bool bw_offload_find(struct bw_offload_devices *list)
{
	const struct bw_state *st;
	bool found = false;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	if (!st || !bw_state_judges_inside(st))
		found = !bw_guard_each_device(bw_offload_list_guarded, list);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	return found;
}

static void bw_offload_end(void)
{
	typeof(nf_flow_table_cleanup) *cleanup;
	struct bw_offload_devices list = {};
	u32 i;

	cleanup = symbol_get(nf_flow_table_cleanup);
	if (!cleanup)
		return;
	if (!bw_offload_find(&list))
		cleanup(NULL);
	else
		for (i = 0; i < list.n; i++)
			cleanup(list.dev[i]);
	for (i = 0; i < list.n; i++)
		dev_put(list.dev[i]);
	symbol_put(nf_flow_table_cleanup);
}

static atomic_t bw_offload_asked;
static u32 bw_offload_done;	/* as many of them as have been asked for */
static DECLARE_WAIT_QUEUE_HEAD(bw_offload_waiting);

static void bw_offload_work_end(struct work_struct *work)
{
	u32 asked = atomic_read(&bw_offload_asked);

	/* A packet that was judged before the change may still offload its flow. */
	synchronize_rcu();
	bw_offload_end();
	WRITE_ONCE(bw_offload_done, asked);
	wake_up_all(&bw_offload_waiting);
}

static DECLARE_WORK(bw_offload_work, bw_offload_work_end);

void bw_offload_end_soon(void)
{
	atomic_inc(&bw_offload_asked);
	schedule_work(&bw_offload_work);
}

static bool bw_offload_is_possible(void)
{
	if (!symbol_get(nf_flow_table_cleanup))
		return false;
	symbol_put(nf_flow_table_cleanup);
	return true;
}

void bw_offload_wait(void)
{
	u32 asked = atomic_read(&bw_offload_asked);

	if (bw_offload_is_possible())
		wait_event_timeout(bw_offload_waiting,
				   (s32)(READ_ONCE(bw_offload_done) - asked) >= 0, HZ);
}

void bw_offload_exit(void)
{
	cancel_work_sync(&bw_offload_work);
}
