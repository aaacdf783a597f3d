// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading neighbour discovery and multicast membership. Only containers are
 * checked: the host's own messages, and those from outside to the host, pass.
 * Must never accept more from a container than its kernel would send.
 */
#include <linux/icmpv6.h>
#include <linux/igmp.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <net/addrconf.h>
#include <net/ndisc.h>
#include <net/route.h>

#include "l4.h"
#include "neighbour.h"

/*
 * Whole packets, in bytes, so that no header in between can carry more. Discovery:
 * a message with its target and 24 bytes of options (a link-layer address, a
 * nonce). Membership: up to 25 groups; older versions name one.
 */
#define BW_ND_LONGEST		(40 + 24 + 24)
#define BW_MLD1_LONGEST		(40 + 8 + 24)
#define BW_IGMP2_LONGEST	(20 + 4 + 8)
#define BW_MEMBERSHIP_LONGEST	576

/* As far as every message has it; target: of a solicitation or advertisement. */
struct bw_nd {
	u8 type;
	u8 code;
	__be16 checksum;
	__be32 flags;
	struct in6_addr target;
};

static unsigned int bw_packet_length(const struct sk_buff *skb)
{
	return skb->len - skb_network_offset(skb);
}

/* Zeroed behind what the packet has. false: there is no ICMPv6 header. */
static bool bw_nd_header(const struct sk_buff *skb, struct bw_nd *nd)
{
	struct bw_l4 l4;
	unsigned int n;

	memset(nd, 0, sizeof(*nd));
	if (!bw_l4_find(skb, NFPROTO_IPV6, &l4) || l4.proto != IPPROTO_ICMPV6 ||
	    skb->len < l4.offset + 8)
		return false;
	n = min_t(unsigned int, skb->len - l4.offset, sizeof(*nd));
	return !skb_copy_bits(skb, l4.offset, nd, n);
}

/* Receivers may believe what is not well-formed: it is dropped whatever rules say. */
static int bw_nd_read(const struct sk_buff *skb, const struct bw_nd *nd, unsigned int longest,
		      unsigned int shortest)
{
	unsigned int len = bw_packet_length(skb);

	return nd->code || ipv6_hdr(skb)->hop_limit != 255 || len > longest || len < shortest ?
	       BW_REASON_MALFORMED : BW_REASON_NEIGHBOUR;
}

static int bw_mld_read(const struct sk_buff *skb, unsigned int longest)
{
	return ipv6_hdr(skb)->hop_limit == 1 && bw_packet_length(skb) <= longest &&
	       ipv6_addr_is_multicast(&ipv6_hdr(skb)->daddr) ?
	       BW_REASON_NEIGHBOUR : BW_NOT_NEIGHBOUR;
}

static int bw_neighbour_read6(const struct sk_buff *skb)
{
	struct bw_nd nd;

	if (!bw_nd_header(skb, &nd))
		return BW_NOT_NEIGHBOUR;
	switch (nd.type) {
	case NDISC_NEIGHBOUR_SOLICITATION:
	case NDISC_NEIGHBOUR_ADVERTISEMENT:
		return bw_nd_read(skb, &nd, BW_ND_LONGEST, 40 + 24);
	case NDISC_ROUTER_SOLICITATION:
		return bw_nd_read(skb, &nd, BW_ND_LONGEST, 40 + 8);
	case ICMPV6_MGM_REPORT:
	case ICMPV6_MGM_REDUCTION:
		return bw_mld_read(skb, BW_MLD1_LONGEST);
	case ICMPV6_MGM_QUERY:
	case ICMPV6_MLD2_REPORT:
		return bw_mld_read(skb, BW_MEMBERSHIP_LONGEST);
	}
	return BW_NOT_NEIGHBOUR;
}

/* Of the host's own, and from outside to the host, which knows what to believe. */
static int bw_neighbour_read6_trusted(const struct sk_buff *skb)
{
	u8 hops = ipv6_hdr(skb)->hop_limit;
	struct bw_nd nd;

	if (!bw_nd_header(skb, &nd))
		return BW_NOT_NEIGHBOUR;
	switch (nd.type) {
	case NDISC_ROUTER_SOLICITATION ... NDISC_REDIRECT:
		return hops == 255 ? BW_REASON_NEIGHBOUR : BW_NOT_NEIGHBOUR;
	case ICMPV6_MGM_QUERY ... ICMPV6_MGM_REDUCTION:
	case ICMPV6_MLD2_REPORT:
		return hops == 1 ? BW_REASON_NEIGHBOUR : BW_NOT_NEIGHBOUR;
	}
	return BW_NOT_NEIGHBOUR;
}

static int bw_neighbour_read4(const struct sk_buff *skb, bool bounded)
{
	unsigned int longest = BW_MEMBERSHIP_LONGEST;
	const struct iphdr *ip = ip_hdr(skb);
	const struct igmphdr *igmp;
	struct igmphdr buffer;
	struct bw_l4 l4;

	if (ip->protocol != IPPROTO_IGMP || ip->ttl != 1 || !ipv4_is_multicast(ip->daddr) ||
	    !bw_l4_find(skb, NFPROTO_IPV4, &l4))
		return BW_NOT_NEIGHBOUR;
	igmp = skb_header_pointer(skb, l4.offset, sizeof(buffer), &buffer);
	if (!igmp)
		return BW_NOT_NEIGHBOUR;
	switch (igmp->type) {
	case IGMP_HOST_MEMBERSHIP_REPORT:
	case IGMPV2_HOST_MEMBERSHIP_REPORT:
	case IGMP_HOST_LEAVE_MESSAGE:
		longest = BW_IGMP2_LONGEST;
		break;
	case IGMP_HOST_MEMBERSHIP_QUERY:
	case IGMPV3_HOST_MEMBERSHIP_REPORT:
		break;
	default:
		return BW_NOT_NEIGHBOUR;
	}
	return bounded && bw_packet_length(skb) > longest ? BW_NOT_NEIGHBOUR :
							    BW_REASON_NEIGHBOUR;
}

int bw_neighbour_read(const struct sk_buff *skb, u8 pf, bool bounded)
{
	if (pf == NFPROTO_IPV4)
		return bw_neighbour_read4(skb, bounded);
	return bounded ? bw_neighbour_read6(skb) : bw_neighbour_read6_trusted(skb);
}

/* Whether the sender may be behind one of the ports of an address's prefix. */
static bool bw_routed_is_from(const struct bw_routed *r, const struct bw_routed_cell *cell,
			      const struct bw_neighbour *from)
{
	u32 open = bw_routed_open(r, cell, from->link, from->port);

	/* The receiver's own port does not count: it is not the sender's. */
	if (from->other)
		open -= bw_routed_open(r, cell, from->link, from->other);
	return open;
}

/* Whether the address is another's; one that is nobody's is anybody's. */
static bool bw_claims_anothers(const struct bw_endpoints *e, u8 family,
			       const union bw_addr *addr, const struct bw_neighbour *from)
{
	const struct bw_ep_loc *loc = bw_ep_find(e, family, addr);
	const struct bw_routed_cell *cell = NULL;
	struct in6_addr v6;

	/* The link of a closed endpoint is gone, so a mismatch is not evidence. */
	if (loc && READ_ONCE(loc->identity) != BW_ID_UNMANAGED)
		return loc->link != from->link ||
		       (from->port && loc->port && loc->port != from->port) ||
		       (from->other && loc->port == from->other);
	if (!loc)
		cell = bw_routed_find(&e->routed, family, addr);
	if (cell && bw_routed_open(&e->routed, cell, 0, 0))
		return !bw_routed_is_from(&e->routed, cell, from);
	if (family == AF_INET)
		return inet_addr_type(&init_net, addr->v4) == RTN_LOCAL;
	memcpy(&v6, addr, sizeof(v6));
	/* A link-local one on this link; tentative ones too, which the host could be denied. */
	return ipv6_chk_addr_and_flags(&init_net, &v6,
				       dev_get_by_index_rcu(&init_net, from->link),
				       false, 0, 0);
}

static bool bw_neighbour_is_spoofed6(const struct bw_endpoints *e, const struct sk_buff *skb,
				     const struct bw_neighbour *from)
{
	bool nameless = ipv6_addr_any(&ipv6_hdr(skb)->saddr);
	union bw_addr addr;
	struct bw_nd nd;

	memcpy(&addr, &ipv6_hdr(skb)->saddr, sizeof(addr));
	if (!nameless && bw_claims_anothers(e, AF_INET6, &addr, from))
		return true;
	/* Duplicate address detection claims its target: it can make the owner give up. */
	if (!bw_nd_header(skb, &nd) ||
	    !(nd.type == NDISC_NEIGHBOUR_ADVERTISEMENT ||
	      (nd.type == NDISC_NEIGHBOUR_SOLICITATION && nameless)))
		return false;
	memcpy(&addr, &nd.target, sizeof(addr));
	return bw_claims_anothers(e, AF_INET6, &addr, from);
}

static bool bw_neighbour_is_spoofed(const struct bw_endpoints *e, const struct sk_buff *skb,
				    u8 pf, const struct bw_neighbour *from)
{
	union bw_addr addr = {};

	if (pf != NFPROTO_IPV4)
		return bw_neighbour_is_spoofed6(e, skb, from);
	addr.v4 = ip_hdr(skb)->saddr;
	return addr.v4 && bw_claims_anothers(e, AF_INET, &addr, from);
}

u32 bw_neighbour_check(const struct bw_endpoints *e, const struct sk_buff *skb, u8 pf,
		       u32 reason, const struct bw_neighbour *from)
{
	if (reason != BW_REASON_NEIGHBOUR || !from->link)
		return reason;
	return bw_neighbour_is_spoofed(e, skb, pf, from) ? BW_REASON_SPOOFED : reason;
}
