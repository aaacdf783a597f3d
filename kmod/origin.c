// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding a packet's origin. Must never trust what the sender wrote, nor guess:
 * what cannot be placed is reported as such.
 */
#include <linux/ipv6.h>
#include <net/addrconf.h>
#include <net/ip.h>
#include <net/net_namespace.h>
#include <net/route.h>

#include "origin.h"

/* br_netfilter keeps the port in the packet, whatever device hands it up. */
static bool bw_origin_by_port(int physin, struct bw_origin *o)
{
	struct net_device *port, *bridge;

	port = dev_get_by_index_rcu(&init_net, physin);
	bridge = port ? netdev_master_upper_dev_get_rcu(port) : NULL;
	/* The port has gone, or left its bridge, since the packet came. */
	if (!bridge)
		return false;
	o->link = bw_guard_link(bridge->ifindex);
	if (o->link) {
		o->kind = BW_KIND_GUARDED;
		o->port = physin;
		return true;
	}
	/* A device stacked on a guarded link, as a port of an unguarded bridge. */
	o->link = bw_guard_link(physin);
	o->kind = o->link ? BW_KIND_GUARDED : BW_KIND_WORLD;
	return true;
}

bool bw_address_is_host(u8 family, const union bw_addr *addr)
{
	struct in6_addr v6;

	if (family == AF_INET)
		return inet_addr_type(&init_net, addr->v4) == RTN_LOCAL;
	memcpy(&v6, addr, sizeof(v6));
	return ipv6_chk_addr(&init_net, &v6, NULL, 0);
}

/*
 * A copy of the host's own multicast, dev_loopback_xmit() in net/core/dev.c.
 * Multicast that is routed may come back the same way, with its sender's address.
 */
static bool bw_origin_is_own_copy(const struct sk_buff *skb, u8 pf)
{
	union bw_addr from = { .v6 = { 0, 0 } };

	if (likely(skb->pkt_type != PACKET_LOOPBACK))
		return false;
	if (pf == NFPROTO_IPV4)
		from.v4 = ip_hdr(skb)->saddr;
	else
		memcpy(&from, &ipv6_hdr(skb)->saddr, sizeof(from));
	/* The host has sent before it had an address. */
	if (!from.v6[0] && !from.v6[1])
		return true;
	return bw_address_is_host(pf == NFPROTO_IPV4 ? AF_INET : AF_INET6, &from);
}

bool bw_origin_find(const struct sk_buff *skb, const struct net_device *in, u8 pf,
		    struct bw_origin *o)
{
	int physin = nf_bridge_get_physinif(skb), index;

	*o = (struct bw_origin) { .kind = BW_KIND_WORLD };
	if (physin)
		return bw_origin_by_port(physin, o);
	if ((in && in->flags & IFF_LOOPBACK) || bw_origin_is_own_copy(skb, pf)) {
		o->kind = BW_KIND_HOST;
		return true;
	}
	if (!in)
		return false;
	index = in->ifindex;
	if (netif_is_l3_master(in)) {
		/* 5.10's inet_sdif() takes no const. */
		index = pf == NFPROTO_IPV4 ? inet_sdif((struct sk_buff *)skb) : inet6_sdif(skb);
		/* Nothing was received: the host talks to itself within the VRF. */
		if (!index) {
			o->kind = BW_KIND_HOST;
			return true;
		}
	}
	o->link = bw_guard_link(index);
	o->kind = o->link ? BW_KIND_GUARDED : BW_KIND_WORLD;
	return true;
}
