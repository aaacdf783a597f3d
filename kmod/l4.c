// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding the transport header. Must never read behind the packet, and must
 * never take a later fragment's payload for a header.
 */
#include <linux/ip.h>
#include <linux/netfilter.h>
#include <net/ip.h>
#include <net/ipv6.h>

#include "l4.h"

bool bw_l4_find(const struct sk_buff *skb, u8 pf, struct bw_l4 *l4)
{
	unsigned short fragment = 0;
	int proto;

	l4->offset = 0;
	if (pf == NFPROTO_IPV4) {
		const struct iphdr *ip = ip_hdr(skb);

		l4->proto = ip->protocol;
		l4->offset = skb_network_offset(skb) + ip->ihl * 4;
		l4->later = ip->frag_off & htons(IP_OFFSET);
		return !l4->later;
	}
	proto = ipv6_find_hdr(skb, &l4->offset, -1, &fragment, NULL);
	l4->proto = proto < 0 ? ipv6_hdr(skb)->nexthdr : proto;
	l4->later = fragment;
	return proto >= 0 && !fragment;
}

bool bw_l4_find_quoted(const struct sk_buff *skb, u8 pf, unsigned int offset,
		       struct bw_l4 *l4)
{
	struct iphdr buffer4, *ip;
	struct ipv6hdr buffer6, *ip6;
	__be16 fragment = 0;
	int at;

	if (pf == NFPROTO_IPV4) {
		ip = skb_header_pointer(skb, offset, sizeof(buffer4), &buffer4);
		if (!ip || ip->ihl < 5)
			return false;
		l4->proto = ip->protocol;
		l4->offset = offset + ip->ihl * 4;
		l4->later = ip->frag_off & htons(IP_OFFSET);
		return !l4->later;
	}
	ip6 = skb_header_pointer(skb, offset, sizeof(buffer6), &buffer6);
	if (!ip6)
		return false;
	l4->proto = ip6->nexthdr;
	at = ipv6_skip_exthdr(skb, offset + sizeof(*ip6), &l4->proto, &fragment);
	l4->offset = at;
	l4->later = fragment & htons(IP6_OFFSET);
	return at >= 0 && !l4->later;
}
