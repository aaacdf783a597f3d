/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a packet entered the host: the one answer that judging, the memo and
 * bridge hooks share.
 */
#ifndef _BW_ORIGIN_H
#define _BW_ORIGIN_H

#include <linux/netdevice.h>
#include <linux/netfilter_bridge.h>
#include <linux/skbuff.h>

#include "api.h"
#include "classify.h"
#include "guard.h"
#include "uapi/bridgewarden.h"

struct bw_origin {
	u32 link;	/* guarded link it came in by; 0: none */
	u32 port;	/* of the link's bridge, by interface number; 0: unknown */
	u8 kind;	/* enum bw_kind */
};

/*
 * bw_origin_find() - where a packet entered the host.
 * @skb: at one of the host's IP hooks, its IP header in place.
 * @in: device that the hook was given; NULL: the packet has none.
 * @pf: NFPROTO_IPV4 or NFPROTO_IPV6.
 *
 * In this order: the bridge port that br_netfilter noted; the slave of an L3
 * master (VRF); the device. Returns false where none of them tells: to be
 * denied at a guarded link, and the world otherwise. Context: any, RCU read-side critical section.
 */
BW_API bool bw_origin_find(const struct sk_buff *skb, const struct net_device *in, u8 pf,
			   struct bw_origin *o);

/*
 * Whether an address is one of the host's, on whatever device. Context: any, RCU
 * read-side critical section.
 */
BW_API bool bw_address_is_host(u8 family, const union bw_addr *addr);

/*
 * Whether the device alone and the bridge port tell a packet's origin, so that a
 * verdict may be remembered under both: not so for an L3 master.
 */
static inline bool bw_origin_is_by_device(const struct net_device *in)
{
	return !netif_is_l3_master(in);
}

/*
 * A link that is no guard itself but the parent of containers' macvlan or ipvlan
 * devices: they are judged and counted in their own namespaces.
 */
static inline bool bw_origin_is_parent(u32 link)
{
	return link && bw_guard_link(link) != link;
}

#endif /* _BW_ORIGIN_H */
