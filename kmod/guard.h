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
#define BW_GUARD_DEPTH	8	/* of devices on devices: MAX_NEST_DEV of the kernel */

struct bw_guards {
	u32 n;
	char pattern[BW_MAX_GUARDS][BW_GUARD_LEN];
};

/* By the last bits of a link's number; a byte each: cheaper to ask than a bit. */
BW_API bool bw_guard_map[1 << BW_GUARD_BITS];

/*
 * A device whose traffic belongs to a guarded link: the link itself, or one that
 * is stacked on it in the host's namespace (a VLAN, a macvlan).
 */
union bw_guard_slot {
	u64 both;		/* read and written as one */
	struct {
		u32 ifindex;	/* 0: free */
		u32 link;	/* 0: an L3 master (VRF) above one, which says nothing by itself */
	};
};

BW_API union bw_guard_slot bw_guard_slots[BW_GUARD_SLOTS];

/* Whether one of them is no bridge, so that it may be a port of one. */
BW_API bool bw_guard_as_port;

/* The long way of bw_guard_link(), which has its contract. Context: any. */
BW_API u32 bw_guard_probe(u32 ifindex);

/* Half of the test: false is certain. Read plainly, to be one instruction. */
static __always_inline bool bw_maybe_guarded(u32 ifindex)
{
	return bw_guard_map[ifindex & ((1 << BW_GUARD_BITS) - 1)];
}

/*
 * The guarded link that a device's traffic belongs to, 0: none. Says nothing
 * about L3 masters: origin.h. Context: any; where the device came from is the
 * caller's to hold.
 */
static __always_inline u32 bw_guard_link(u32 ifindex)
{
	union bw_guard_slot slot;

	if (likely(!bw_maybe_guarded(ifindex)))
		return 0;
	/* Pairs with smp_wmb() in bw_guard_put(). */
	smp_rmb();
	slot.both = READ_ONCE(bw_guard_slots[ifindex % BW_GUARD_SLOTS].both);
	return likely(slot.ifindex == ifindex) ? slot.link : bw_guard_probe(ifindex);
}

/*
 * Whether the bridge of a port is guarded, or the port has none (yet): the flag
 * comes before the link to the bridge, and goes after it, br_add_if() in
 * net/bridge/br_if.c. Context: RCU read-side critical section.
 */
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

/* Whether a device is of a kind that hangs on a parent. Context: rtnl is held. */
BW_API bool bw_guard_is_child(const struct net_device *dev);

/* Whether a pattern has the device's name. Context: any. */
BW_API bool bw_guard_matches(const struct bw_guards *g,
			     const struct net_device *dev);

/*
 * Changing the patterns takes two steps, so that the caller can publish its
 * ruleset between them and no link is unguarded meanwhile. parents: of macvlan
 * and ipvlan children; devices of the host on them are listed, not they. Either
 * may be NULL. Context: process; rtnl and bw_mutex are held.
 */
BW_API void bw_guard_add_matching(const struct bw_guards *g, const struct bw_guards *parents);
BW_API void bw_guard_drop_others(const struct bw_guards *g, const struct bw_guards *parents);

/*
 * A device of the host was registered, renamed, put on another or taken off it:
 * whether what is guarded has changed, here or in a device stacked on it.
 * Context: process; rtnl and bw_mutex are held, here and below.
 */
BW_API bool bw_guard_update(struct net_device *dev);
BW_API bool bw_guard_remove(u32 ifindex);

/*
 * Calls back for each guarded link held exactly; an error of fn ends the walk and
 * is returned. Context: bw_mutex is held.
 */
BW_API int bw_guard_for_each(int (*fn)(u32 ifindex, void *arg), void *arg);

/*
 * The same for each device whose traffic belongs to a guarded link, the link
 * included. -EOVERFLOW: not all of them are held exactly, and fn is not called.
 * Context: bw_mutex is held.
 */
BW_API int bw_guard_each_device(int (*fn)(u32 ifindex, void *arg), void *arg);

#endif /* _BW_GUARD_H */
