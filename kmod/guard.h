/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which links are guarded: a test for the packet path that costs one byte in
 * the common case, and the table behind it.
 */
#ifndef _BW_GUARD_H
#define _BW_GUARD_H

#include <linux/netdevice.h>

#include "api.h"
#include "uapi/bridgewarden.h"

#define BW_GUARD_BITS	16
#define BW_GUARD_LINKS	4096	/* held exactly; beyond: by their bit alone */
#define BW_GUARD_SLOTS	(2 * BW_GUARD_LINKS)

struct bw_guards {
	u32 n;
	char pattern[BW_MAX_GUARDS][BW_GUARD_LEN];
};

/* By the last bits of a link's number; a byte each: cheaper to ask than a bit. */
BW_API bool bw_guard_map[1 << BW_GUARD_BITS];

BW_API u32 bw_guard_slot[BW_GUARD_SLOTS];

BW_API bool bw_guard_probe(u32 ifindex);

/* Half of the test: false is certain. Read plainly, to be one instruction. */
static __always_inline bool bw_maybe_guarded(u32 ifindex)
{
	return bw_guard_map[ifindex & ((1 << BW_GUARD_BITS) - 1)];
}

static __always_inline bool bw_guarded_index(u32 ifindex)
{
	if (likely(!bw_maybe_guarded(ifindex)))
		return false;
	/* Pairs with smp_wmb() in bw_guard_add(). */
	smp_rmb();
	return READ_ONCE(bw_guard_slot[ifindex % BW_GUARD_SLOTS]) == ifindex ||
	       bw_guard_probe(ifindex);
}

static __always_inline bool bw_guarded(const struct net_device *dev)
{
	return dev && bw_guarded_index(dev->ifindex);
}

/* Whether the master of a bridge port is guarded, or there is none (yet). */
BW_API bool bw_guard_has_port(const struct net_device *dev);

/*
 * A port of a guarded bridge by itself. The bridge hands up frames for reserved
 * group addresses (01:80:c2:00:00:02 and so on) and what ebtables broutes with
 * the port as their device: br_handle_frame() in net/bridge/br_input.c. Context:
 * RCU read-side critical section.
 */
static __always_inline bool bw_bare_port(const struct net_device *dev)
{
	return dev && unlikely(netif_is_bridge_port(dev)) && bw_guard_has_port(dev);
}

BW_API bool bw_guard_matches(const struct bw_guards *g,
			     const struct net_device *dev);

/*
 * Changing the patterns takes two steps, so that the caller can publish its
 * ruleset between them and no link is unguarded meanwhile. Context: process;
 * rtnl and bw_mutex are held.
 */
BW_API void bw_guard_add_matching(const struct bw_guards *g);
BW_API void bw_guard_drop_others(const struct bw_guards *g);

/* One link has appeared or was renamed, or goes. Context: bw_mutex is held. */
BW_API void bw_guard_update(const struct net_device *dev);
BW_API void bw_guard_remove(u32 ifindex);

/* Calls back for each guarded link held exactly. Context: bw_mutex is held. */
BW_API int bw_guard_for_each(int (*fn)(u32 ifindex, void *arg), void *arg);

#endif /* _BW_GUARD_H */
