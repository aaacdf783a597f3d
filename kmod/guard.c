// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guarded links, and the host's devices that are stacked on them. Patterns are
 * compared with names only here, when a link appears, is renamed or put on
 * another, and at a commit; packets see a byte map and a small table of
 * interface numbers. Nothing here may allocate, and a link that should be
 * guarded must never be left open for want of room.
 *
 * Readers take no lock. A slot goes from free to a number and from a number to
 * GONE; it becomes free again only where no search can pass over it.
 */
#include <linux/glob.h>
#include <linux/rtnetlink.h>
#include <net/net_namespace.h>
#include <net/rtnetlink.h>

#include "guard.h"
#include "lock.h"

#define BW_GUARD_FREE	0
#define BW_GUARD_GONE	U32_MAX	/* no interface number: those are positive ints */

BW_DATA bool bw_guard_map[1 << BW_GUARD_BITS];
BW_DATA union bw_guard_slot bw_guard_slots[BW_GUARD_SLOTS];
static bool bw_guard_no_bridge[BW_GUARD_SLOTS];
static u32 bw_guard_used, bw_guard_no_bridges;	/* slots that hold a device; and no bridge */
BW_DATA bool bw_guard_as_port __read_mostly;
static bool bw_guard_full __read_mostly; /* a byte alone means guarded */
static const struct bw_guards *bw_guard_patterns, *bw_guard_parents;

static u32 bw_guard_map_index(u32 ifindex)
{
	return ifindex & ((1 << BW_GUARD_BITS) - 1);
}

static u32 bw_guard_next(u32 i)
{
	return (i + 1) % BW_GUARD_SLOTS;
}

/* A device that found no slot counts as a link of its own. */
u32 bw_guard_probe(u32 ifindex)
{
	u32 i = ifindex % BW_GUARD_SLOTS, n;
	union bw_guard_slot slot;

	for (n = 0; n < BW_GUARD_SLOTS; n++, i = bw_guard_next(i)) {
		slot.both = READ_ONCE(bw_guard_slots[i].both);
		if (slot.ifindex == ifindex)
			return slot.link;
		if (slot.ifindex == BW_GUARD_FREE)
			break;
	}
	return READ_ONCE(bw_guard_full) ? ifindex : 0;
}

bool bw_guard_has_port(const struct net_device *dev)
{
	const struct net_device *bridge;

	bridge = netdev_master_upper_dev_get_rcu((struct net_device *)dev);
	return !bridge || bw_guard_link(bridge->ifindex);
}

/* The slot that has the number, or the one to put it in; none: SLOTS. */
static u32 bw_guard_find(u32 ifindex)
{
	u32 i = ifindex % BW_GUARD_SLOTS, n, room = BW_GUARD_SLOTS;

	for (n = 0; n < BW_GUARD_SLOTS; n++, i = bw_guard_next(i)) {
		u32 held = bw_guard_slots[i].ifindex;

		if (held == ifindex)
			return i;
		if (held == BW_GUARD_GONE && room == BW_GUARD_SLOTS)
			room = i;
		if (held == BW_GUARD_FREE)
			return room == BW_GUARD_SLOTS ? i : room;
	}
	return room;
}

static void bw_guard_write(u32 i, u32 ifindex, u32 link, bool no_bridge)
{
	union bw_guard_slot slot = { .ifindex = ifindex, .link = link };

	bw_guard_no_bridges += no_bridge - bw_guard_no_bridge[i];
	bw_guard_no_bridge[i] = no_bridge;
	WRITE_ONCE(bw_guard_slots[i].both, slot.both);
	WRITE_ONCE(bw_guard_as_port, bw_guard_no_bridges || bw_guard_full);
}

/* Returns whether that is news. */
static bool bw_guard_put(const struct net_device *dev, u32 link)
{
	bool no_bridge = !netif_is_bridge_master(dev);
	u32 ifindex = dev->ifindex, i = bw_guard_find(ifindex);

	if (i < BW_GUARD_SLOTS && bw_guard_slots[i].ifindex == ifindex) {
		if (bw_guard_slots[i].link == link)
			return false;
		bw_guard_write(i, ifindex, link, no_bridge);
		return true;
	}
	if (i == BW_GUARD_SLOTS || bw_guard_used == BW_GUARD_LINKS) {
		if (!bw_guard_full)
			pr_warn("more than %u guarded links: links whose number ends alike are guarded with them\n",
				BW_GUARD_LINKS);
		WRITE_ONCE(bw_guard_full, true);
		WRITE_ONCE(bw_guard_as_port, true);
	} else {
		bw_guard_write(i, ifindex, link, no_bridge);
		bw_guard_used++;
	}
	/* A reader that sees the byte must find the slot. */
	smp_wmb();
	WRITE_ONCE(bw_guard_map[bw_guard_map_index(ifindex)], true);
	return true;
}

static bool bw_guard_is_held(u32 i)
{
	return bw_guard_slots[i].ifindex != BW_GUARD_FREE &&
	       bw_guard_slots[i].ifindex != BW_GUARD_GONE;
}

static bool bw_guard_map_in_use(u32 low)
{
	u32 i;

	for (i = 0; i < BW_GUARD_SLOTS; i++)
		if (bw_guard_is_held(i) &&
		    bw_guard_map_index(bw_guard_slots[i].ifindex) == low)
			return true;
	return false;
}

bool bw_guard_remove(u32 ifindex)
{
	u32 i = bw_guard_find(ifindex);

	if (i == BW_GUARD_SLOTS || bw_guard_slots[i].ifindex != ifindex)
		return false;
	bw_guard_write(i, BW_GUARD_GONE, 0, false);
	bw_guard_used--;
	if (bw_guard_slots[bw_guard_next(i)].ifindex == BW_GUARD_FREE) {
		/* No search goes on behind these: free them, last one first. */
		while (bw_guard_slots[i].ifindex == BW_GUARD_GONE) {
			bw_guard_write(i, BW_GUARD_FREE, 0, false);
			i = (i + BW_GUARD_SLOTS - 1) % BW_GUARD_SLOTS;
		}
	}
	/* Bytes of links that found no slot cannot be told apart: all stay. */
	if (!bw_guard_full && !bw_guard_map_in_use(bw_guard_map_index(ifindex)))
		WRITE_ONCE(bw_guard_map[bw_guard_map_index(ifindex)], false);
	return true;
}

bool bw_guard_matches(const struct bw_guards *g, const struct net_device *dev)
{
	u32 i;

	if (!g || dev->flags & IFF_LOOPBACK)
		return false;
	for (i = 0; i < g->n; i++)
		if (glob_match(g->pattern[i], dev->name))
			return true;
	return false;
}

bool bw_guard_is_child(const struct net_device *dev)
{
	const char *kind = dev->rtnl_link_ops ? dev->rtnl_link_ops->kind : "";

	return !strcmp(kind, "macvlan") || !strcmp(kind, "ipvlan");
}

/*
 * The guarded link that a device is or is stacked on, 0: none. A bridge is not
 * stacked on its ports: what passes from those to it, bridged.c sees.
 */
static u32 bw_guard_link_below(struct net_device *dev, const struct bw_guards *g,
			       const struct bw_guards *parents, unsigned int depth)
{
	struct net_device *lower;
	struct list_head *iter;
	u32 link;

	if (bw_guard_matches(g, dev))
		return dev->ifindex;
	if (!depth || netif_is_bridge_master(dev) || netif_is_l3_master(dev))
		return 0;
	netdev_for_each_lower_dev(dev, lower, iter) {
		if (!net_eq(dev_net(lower), &init_net))
			continue;
		link = bw_guard_link_below(lower, g, parents, depth - 1);
		if (link)
			return link;
		if (bw_guard_is_child(dev) && bw_guard_matches(parents, lower))
			return lower->ifindex;
	}
	return 0;
}

/* Whether packets of a device are to be looked at; link as in the table. */
static bool bw_guard_wants(struct net_device *dev, const struct bw_guards *g,
			   const struct bw_guards *parents, u32 *link)
{
	struct net_device *slave;
	struct list_head *iter;

	*link = bw_guard_link_below(dev, g, parents, BW_GUARD_DEPTH);
	if (*link || !netif_is_l3_master(dev))
		return *link;
	netdev_for_each_lower_dev(dev, slave, iter)
		if (net_eq(dev_net(slave), &init_net) &&
		    bw_guard_link_below(slave, g, parents, BW_GUARD_DEPTH))
			return true;
	return false;
}

void bw_guard_add_matching(const struct bw_guards *g, const struct bw_guards *parents)
{
	struct net_device *dev;
	u32 link;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	for_each_netdev(&init_net, dev)
		if (bw_guard_wants(dev, g, parents, &link))
			bw_guard_put(dev, link);
}

void bw_guard_drop_others(const struct bw_guards *g, const struct bw_guards *parents)
{
	struct net_device *dev;
	u32 link;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	bw_guard_patterns = g;
	bw_guard_parents = parents;
	for_each_netdev(&init_net, dev)
		if (!bw_guard_wants(dev, g, parents, &link))
			bw_guard_remove(dev->ifindex);
}

static bool bw_guard_update_below(struct net_device *dev, unsigned int depth)
{
	struct net_device *upper;
	struct list_head *iter;
	bool changed;
	u32 link;

	if (bw_guard_wants(dev, bw_guard_patterns, bw_guard_parents, &link))
		changed = bw_guard_put(dev, link);
	else
		changed = bw_guard_remove(dev->ifindex);
	if (!depth)
		return changed;
	netdev_for_each_upper_dev_rcu(dev, upper, iter)
		if (net_eq(dev_net(upper), &init_net))
			changed |= bw_guard_update_below(upper, depth - 1);
	return changed;
}

bool bw_guard_update(struct net_device *dev)
{
	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	return bw_guard_update_below(dev, BW_GUARD_DEPTH);
}

/* stacked: those on a guarded link, too. */
static int bw_guard_walk(int (*fn)(u32 ifindex, void *arg), void *arg,
			 bool stacked)
{
	u32 i;
	int err;

	lockdep_assert_held(&bw_mutex);
	for (i = 0; i < BW_GUARD_SLOTS; i++) {
		if (!bw_guard_is_held(i) ||
		    (!stacked && bw_guard_slots[i].link != bw_guard_slots[i].ifindex))
			continue;
		err = fn(bw_guard_slots[i].ifindex, arg);
		if (err)
			return err;
	}
	return 0;
}

int bw_guard_for_each(int (*fn)(u32 ifindex, void *arg), void *arg)
{
	return bw_guard_walk(fn, arg, false);
}

int bw_guard_each_device(int (*fn)(u32 ifindex, void *arg), void *arg)
{
	return bw_guard_full ? -EOVERFLOW : bw_guard_walk(fn, arg, true);
}
