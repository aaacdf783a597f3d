// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commit: compares the expected generation, checks the endpoints against
 * the host's links as they are now, and puts the state in force. Whatever can
 * fail comes before anything is changed, and whatever takes long is done under
 * our own mutexes only.
 */
#include <linux/inetdevice.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <net/if_inet6.h>
#include <net/addrconf.h>

#include "commit.h"
#include "exchange.h"
#include "inside.h"
#include "lifetime.h"
#include "netns.h"
#include "offload.h"
#include "window.h"

/* Never given out twice, so a generation names one ruleset for good. */
static u64 bw_last_generation;

enum bw_ep_status {
	BW_EP_VALID,
	BW_EP_GONE,
	BW_EP_UNGUARDED,	/* the link exists, but nothing guards it */
};

/* NULL: no guard or parent has the link's name. Under RCU a name may be half new. */
static const struct net_device *bw_ep_link(const struct bw_guards *g, u32 link)
{
	const struct net_device *dev = dev_get_by_index_rcu(&init_net, link);

	return dev && bw_guard_matches(g, dev) ? dev : NULL;
}

/* RCU, or rtnl, which makes it exact. */
static enum bw_ep_status bw_ep_status_of_link(const struct bw_state *st, u32 link, u32 port)
{
	bool child = bw_port_is_child(port);

	if (link > INT_MAX || !dev_get_by_index_rcu(&init_net, link))
		return BW_EP_GONE;
	if (port && !child && !dev_get_by_index_rcu(&init_net, port))
		return BW_EP_GONE;
	return bw_ep_link(child ? &st->parents : &st->guards, link) ? BW_EP_VALID :
								      BW_EP_UNGUARDED;
}

/*
 * Without rtnl: there may be many endpoints, and st is the next state, so what
 * changes behind us changes here too.
 */
static enum bw_ep_status bw_ep_status(const struct bw_state *st, u32 link,
				      u32 port)
{
	enum bw_ep_status status;

	rcu_read_lock();
	status = bw_ep_status_of_link(st, link, port);
	rcu_read_unlock();
	if (status == BW_EP_UNGUARDED) {
		rtnl_lock();
		rcu_read_lock();
		status = bw_ep_status_of_link(st, link, port);
		rcu_read_unlock();
		rtnl_unlock();
	}
	/* In mode audit nobody looks there. */
	if (status == BW_EP_VALID && bw_port_is_child(port) && bw_state_judges_inside(st)) {
		mutex_lock(&bw_mutex);
		if (!bw_inside_has(link, port))
			status = BW_EP_GONE;
		mutex_unlock(&bw_mutex);
	}
	return status;
}

/* Whether a commit would open this one. A name that is half new may hide it for now. */
static bool bw_ep_returned(const struct bw_ep_loc *loc, const void *state)
{
	const struct bw_state *st = state;
	enum bw_ep_status status;

	rcu_read_lock();
	status = bw_ep_status_of_link(st, loc->link, loc->port);
	rcu_read_unlock();
	if (status != BW_EP_VALID)
		return false;
	return !bw_port_is_child(loc->port) || !bw_state_judges_inside(st) ||
	       bw_inside_has(loc->link, loc->port);
}

u32 bw_commit_count_returned(const struct bw_state *st)
{
	lockdep_assert_held(&bw_mutex);
	return bw_endpoints_count_closed(st->endpoints, bw_ep_returned, st);
}

/* The same for the ports that routed prefixes live behind. */
static int bw_commit_check_behind(struct bw_state *st, const struct bw_draft *d,
				  struct bw_fault *f)
{
	const struct bw_nl_behind *b = d->data[BW_S_BEHIND];
	enum bw_ep_status status;
	u32 i;

	for (i = 0; i < d->count[BW_S_BEHIND]; i++) {
		if (!(i & 0x3ff))
			cond_resched();
		status = bw_ep_status(st, b[i].link, b[i].port);
		if (status == BW_EP_UNGUARDED)
			return bw_fault_set(f, -EINVAL, BW_S_BEHIND, i, "its link is not guarded");
		if (status != BW_EP_GONE)
			continue;
		/* st is the next state: a link that goes closes ports in it, too. */
		mutex_lock(&bw_mutex);
		bw_routed_close(&st->endpoints->routed, b[i].link, b[i].port);
		mutex_unlock(&bw_mutex);
	}
	return 0;
}

static int bw_commit_check_host_address(const struct bw_state *st, u8 family,
					const union bw_addr *addr, struct bw_fault *f)
{
	const struct bw_routed_cell *cell = bw_routed_find(&st->endpoints->routed, family, addr);

	if (!cell)
		return 0;
	return bw_fault_set(f, -EADDRINUSE, family == AF_INET ? BW_S_PREFIX4 : BW_S_PREFIX6,
			    cell->entry, "has an address of this host");
}

/* Context: RCU read-side critical section. */
static int bw_commit_check_addresses_of(const struct bw_state *st, struct net_device *dev,
					struct bw_fault *f)
{
	const struct inet6_dev *six = __in6_dev_get(dev);
	struct in_device *four = __in_dev_get_rcu(dev);
	const struct inet6_ifaddr *ifa6;
	const struct in_ifaddr *ifa;
	union bw_addr addr = {};
	int err;

	if (four) {
		in_dev_for_each_ifa_rcu(ifa, four) {
			addr.v4 = ifa->ifa_local;
			err = bw_commit_check_host_address(st, AF_INET, &addr, f);
			if (err)
				return err;
		}
	}
	if (!six)
		return 0;
	list_for_each_entry_rcu(ifa6, &six->addr_list, if_list) {
		memcpy(&addr, &ifa6->addr, sizeof(addr));
		err = bw_commit_check_host_address(st, AF_INET6, &addr, f);
		if (err)
			return err;
	}
	return 0;
}

/*
 * No container may speak with an address of the host's, as they are now: one that
 * the host is given later is found at the next commit.
 */
static int bw_commit_check_prefixes(const struct bw_state *st, struct bw_fault *f)
{
	struct net_device *dev;
	int err = 0;

	if (!st->endpoints->routed.n_prefix4 && !st->endpoints->routed.n_prefix6)
		return 0;
	rcu_read_lock();
	for_each_netdev_rcu(&init_net, dev) {
		err = bw_commit_check_addresses_of(st, dev, f);
		if (err)
			break;
	}
	rcu_read_unlock();
	return err;
}

/* Closes endpoints that have gone since the draft was made. No lock but ours. */
static int bw_commit_check_endpoints(struct bw_state *st,
				     const struct bw_draft *d,
				     struct bw_fault *f)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	enum bw_ep_status status;
	u32 i;

	for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++) {
		if (!(i & 0x3ff))
			cond_resched();
		status = bw_ep_status(st, e4[i].link, e4[i].port);
		f->section = BW_S_ENDPOINT4;
		if (status == BW_EP_UNGUARDED)
			goto unguarded;
		if (status == BW_EP_GONE)
			bw_endpoint_close4(st->endpoints, e4[i].addr);
	}
	for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++) {
		if (!(i & 0x3ff))
			cond_resched();
		status = bw_ep_status(st, e6[i].link, e6[i].port);
		f->section = BW_S_ENDPOINT6;
		if (status == BW_EP_UNGUARDED)
			goto unguarded;
		if (status == BW_EP_GONE)
			bw_endpoint_close6(st->endpoints, e6[i].addr);
	}
	return 0;

unguarded:
	return bw_fault_set(f, -EINVAL, f->section, i, "its link is not guarded");
}

/* Takes rtnl and bw_mutex, for moments. On an error st is not the next state. */
static int bw_commit_prepare(struct bw_state *st, const struct bw_commit *c,
			     u64 *generation, struct bw_fault *f)
{
	int err;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	*generation = bw_state_generation(bw_state_locked());
	err = bw_seal_check(f);
	if (!err)
		err = bw_state_expect(c->expect, f);
	if (!err)
		err = bw_window_check_closed(f);
	if (!err)
		err = bw_exchange_prepare(st, f);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	return err;
}

static void bw_commit_cancel(void)
{
	rtnl_lock();
	mutex_lock(&bw_mutex);
	bw_exchange_cancel();
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
}

static void bw_commit_exchange(struct bw_state *st, u32 timeout)
{
	struct bw_state *old = bw_state_locked();

	st->generation = ++bw_last_generation;
	rtnl_lock();
	mutex_lock(&bw_mutex);
	bw_exchange(st, timeout ? old : NULL);
	if (timeout)
		bw_window_open(old, timeout);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	if (old)
		bw_state_inherit(st, old);
	if (!timeout)
		bw_state_release(old, st);
	bw_offload_end_soon();
}

/*
 * A dry run fails where the commit would, and keeps nothing. What the first step
 * finds still holds in the last one: bw_exchange_mutex is held.
 */
static int bw_commit_locked(struct bw_state *st, const struct bw_draft *d,
			    const struct bw_commit *c, u64 *generation,
			    struct bw_fault *f)
{
	int err;

	err = bw_commit_prepare(st, c, generation, f);
	if (err)
		return err;
	err = bw_commit_check_endpoints(st, d, f);
	if (!err)
		err = bw_commit_check_behind(st, d, f);
	if (!err)
		err = bw_commit_check_prefixes(st, f);
	if (err || c->dry_run) {
		bw_commit_cancel();
		return err;
	}
	bw_commit_exchange(st, c->timeout);
	*generation = st->generation;
	return 0;
}

int bw_commit_state(struct bw_state *st, const struct bw_draft *d,
		    const struct bw_commit *c, u64 *generation,
		    struct bw_fault *f)
{
	int err;

	/* Takes rtnl itself. What a dry run checks depends on it, too. */
	if (bw_state_judges_inside(st)) {
		err = bw_net_follow();
		if (err) {
			bw_state_free(st);
			return bw_fault_set(f, err, BW_S_NONE, 0,
					    "containers' namespaces cannot be followed");
		}
	}
	mutex_lock(&bw_exchange_mutex);
	err = bw_commit_locked(st, d, c, generation, f);
	mutex_unlock(&bw_exchange_mutex);
	if (err || c->dry_run)
		bw_state_free(st);
	return err;
}

int bw_commit_seal(const u64 *expect, struct bw_fault *f)
{
	int err;

	mutex_lock(&bw_exchange_mutex);
	mutex_lock(&bw_mutex);
	err = bw_window_check_closed(f);
	if (!err && !bw_state_generation(bw_state_locked()))
		err = bw_fault_set(f, -ENOENT, BW_S_NONE, 0, "no ruleset is in force");
	else if (!err && expect)
		err = bw_state_expect(*expect, f);
	if (!err)
		err = bw_seal_set(f);
	mutex_unlock(&bw_mutex);
	mutex_unlock(&bw_exchange_mutex);
	return err;
}
