// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guarded links. Patterns are compared with names only here, when a link
 * appears or is renamed and at a commit; packets see a byte map and a small
 * table of interface numbers. Nothing here may allocate, and a link that should
 * be guarded must never be left open for want of room.
 *
 * Readers take no lock. A slot goes from free to a number and from a number to
 * GONE; it becomes free again only where no search can pass over it.
 */
#include <linux/glob.h>
#include <linux/rtnetlink.h>
#include <net/net_namespace.h>

#include "guard.h"
#include "lock.h"

#define BW_GUARD_FREE	0
#define BW_GUARD_GONE	U32_MAX	/* no interface number: those are positive ints */

BW_DATA bool bw_guard_map[1 << BW_GUARD_BITS] __read_mostly;
BW_DATA u32 bw_guard_slot[BW_GUARD_SLOTS] __read_mostly;
static u32 bw_guard_links;
static bool bw_guard_full __read_mostly; /* a byte alone means guarded */
static const struct bw_guards *bw_guard_patterns;

static u32 bw_guard_map_index(u32 ifindex)
{
	return ifindex & ((1 << BW_GUARD_BITS) - 1);
}

static u32 bw_guard_next(u32 i)
{
	return (i + 1) % BW_GUARD_SLOTS;
}

bool bw_guard_probe(u32 ifindex)
{
	u32 i = ifindex % BW_GUARD_SLOTS, n, slot;

	if (READ_ONCE(bw_guard_full))
		return true;
	for (n = 0; n < BW_GUARD_SLOTS; n++, i = bw_guard_next(i)) {
		slot = READ_ONCE(bw_guard_slot[i]);
		if (slot == ifindex)
			return true;
		if (slot == BW_GUARD_FREE)
			break;
	}
	return false;
}

/* The flag comes before the link to the bridge, and goes after it: br_add_if(). */
bool bw_guard_has_port(const struct net_device *dev)
{
	const struct net_device *bridge;

	bridge = netdev_master_upper_dev_get_rcu((struct net_device *)dev);
	return !bridge || bw_guarded(bridge);
}

/* The slot that has the number, or the one to put it in; none: SLOTS. */
static u32 bw_guard_find(u32 ifindex)
{
	u32 i = ifindex % BW_GUARD_SLOTS, n, room = BW_GUARD_SLOTS;

	for (n = 0; n < BW_GUARD_SLOTS; n++, i = bw_guard_next(i)) {
		if (bw_guard_slot[i] == ifindex)
			return i;
		if (bw_guard_slot[i] == BW_GUARD_GONE && room == BW_GUARD_SLOTS)
			room = i;
		if (bw_guard_slot[i] == BW_GUARD_FREE)
			return room == BW_GUARD_SLOTS ? i : room;
	}
	return room;
}

static void bw_guard_add(const struct net_device *dev)
{
	u32 ifindex = dev->ifindex, i = bw_guard_find(ifindex);

	if (i < BW_GUARD_SLOTS && bw_guard_slot[i] == ifindex)
		return;
	if (i == BW_GUARD_SLOTS || bw_guard_links == BW_GUARD_LINKS) {
		if (!bw_guard_full)
			pr_warn("more than %u guarded links: links whose number ends alike are guarded with them\n",
				BW_GUARD_LINKS);
		WRITE_ONCE(bw_guard_full, true);
	} else {
		WRITE_ONCE(bw_guard_slot[i], ifindex);
		bw_guard_links++;
	}
	/* A reader that sees the byte must find the slot. */
	smp_wmb();
	WRITE_ONCE(bw_guard_map[bw_guard_map_index(ifindex)], true);
}

static bool bw_guard_map_in_use(u32 low)
{
	u32 i;

	for (i = 0; i < BW_GUARD_SLOTS; i++)
		if (bw_guard_slot[i] != BW_GUARD_FREE &&
		    bw_guard_slot[i] != BW_GUARD_GONE &&
		    bw_guard_map_index(bw_guard_slot[i]) == low)
			return true;
	return false;
}

void bw_guard_remove(u32 ifindex)
{
	u32 i = bw_guard_find(ifindex);

	if (i == BW_GUARD_SLOTS || bw_guard_slot[i] != ifindex)
		return;
	WRITE_ONCE(bw_guard_slot[i], BW_GUARD_GONE);
	bw_guard_links--;
	if (bw_guard_slot[bw_guard_next(i)] == BW_GUARD_FREE) {
		/* No search goes on behind these: free them, last one first. */
		while (bw_guard_slot[i] == BW_GUARD_GONE) {
			WRITE_ONCE(bw_guard_slot[i], BW_GUARD_FREE);
			i = (i + BW_GUARD_SLOTS - 1) % BW_GUARD_SLOTS;
		}
	}
	/* Bytes of links that found no slot cannot be told apart: all stay. */
	if (!bw_guard_full && !bw_guard_map_in_use(bw_guard_map_index(ifindex)))
		WRITE_ONCE(bw_guard_map[bw_guard_map_index(ifindex)], false);
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

void bw_guard_add_matching(const struct bw_guards *g)
{
	struct net_device *dev;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	for_each_netdev(&init_net, dev)
		if (bw_guard_matches(g, dev))
			bw_guard_add(dev);
}

void bw_guard_drop_others(const struct bw_guards *g)
{
	struct net_device *dev;

	ASSERT_RTNL();
	lockdep_assert_held(&bw_mutex);
	bw_guard_patterns = g;
	for_each_netdev(&init_net, dev)
		if (!bw_guard_matches(g, dev))
			bw_guard_remove(dev->ifindex);
}

void bw_guard_update(const struct net_device *dev)
{
	if (bw_guard_matches(bw_guard_patterns, dev))
		bw_guard_add(dev);
	else
		bw_guard_remove(dev->ifindex);
}

int bw_guard_for_each(int (*fn)(u32 ifindex, void *arg), void *arg)
{
	u32 i;
	int err;

	lockdep_assert_held(&bw_mutex);
	for (i = 0; i < BW_GUARD_SLOTS; i++) {
		if (bw_guard_slot[i] == BW_GUARD_FREE ||
		    bw_guard_slot[i] == BW_GUARD_GONE)
			continue;
		err = fn(bw_guard_slot[i], arg);
		if (err)
			return err;
	}
	return 0;
}
