/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a packet and its conntrack entry to the classifier's query: who began
 * the connection, who answers, for which service, and whose packet this is.
 */
#ifndef _BW_PACKET_H
#define _BW_PACKET_H

#include <linux/netfilter.h>
#include <linux/netfilter/nf_conntrack_tuple_common.h>
#include <linux/skbuff.h>

#include "api.h"
#include "classify.h"

#define BW_READ_QUERY	-1	/* the query is filled in */

/* Where the packet is, for those whose verdict does not come from the rules. */
#define BW_AT_GUARD	BIT(0)
#define BW_FROM_HOST	BIT(1)
#define BW_TO_HOST	BIT(2)
/* In a container's namespace, coming in or going out. */
#define BW_INSIDE_IN	BIT(3)
#define BW_INSIDE_OUT	BIT(4)

/* A packet's own transport, where no connection speaks for it. */
struct bw_header {
	u8 proto;
	u8 type;	/* ICMP only */
	u8 flags;	/* TCP only: that byte of its header */
	u16 from_port;	/* source's; of ICMP nothing */
	u16 port;	/* destination's; ICMP: type << 8 | code */
};

#define BW_DHCP_SERVER	67
#define BW_DHCP_CLIENT	68
#define BW_DHCP6_SERVER	547
#define BW_DHCP6_CLIENT	546

/* Whether bw_packet_read() would look for a DHCP client without an address. */
static inline bool bw_may_be_dhcp(u32 service, bool six)
{
	if (!six)
		return service == bw_service(IPPROTO_UDP, BW_DHCP_SERVER);
	return service == bw_service(IPPROTO_UDP, BW_DHCP6_SERVER) ||
	       service == bw_service(IPPROTO_UDP, BW_DHCP6_CLIENT);
}

/*
 * BW_READ_QUERY, or the enum bw_reason that decides without the rules. Fills
 * addresses, service, sender and flags; kinds and links are the hook's. Context:
 * any, RCU read-side critical section; the network header is in the linear part.
 */
BW_API int bw_packet_read(const struct sk_buff *skb, u8 pf, unsigned int where,
			  struct bw_query *q);

/*
 * Reads a packet's transport header; false: it is not there, or not whole. Context:
 * any; the network header is in the linear part.
 */
BW_API bool bw_header_read(const struct sk_buff *skb, u8 pf, struct bw_header *h);

/*
 * The same of the packet that an ICMP error quotes, as far as its ports: no more
 * of it need be there. ICMP's type and code are its from_port. false: there are none.
 * Context: any; the network header is in the linear part.
 */
BW_API bool bw_quoted_read(const struct sk_buff *skb, u8 pf, struct bw_header *h);

/* An ICMP error. Context: any. */
BW_API bool bw_is_error(const struct bw_header *h);

/* A router's word about the way, not an error. Context: any. */
BW_API bool bw_is_redirect(const struct bw_header *h);

/*
 * A query from the packet's own addresses and ports, as if it began a connection.
 * Returns BW_READ_QUERY. Context: any; the network header is in the linear part.
 */
BW_API int bw_read_alone(const struct sk_buff *skb, u8 pf, const struct bw_header *h,
			 struct bw_query *q);

/*
 * Neighbour discovery or multicast membership as the host itself sends it.
 * Context: any; the network header is in the linear part.
 */
BW_API bool bw_packet_is_neighbour(const struct sk_buff *skb, u8 pf);

/*
 * For a packet to the host (dir: original) or of its own (reply): the local port
 * its connection goes to, 0 where it is one that the host began, and whether
 * conntrack knows; the host's port of a connection that was picked up in the middle.
 * Context: any; the network header is in the linear part.
 */
BW_API bool bw_packet_host_port(const struct sk_buff *skb,
				enum ip_conntrack_dir dir, u16 *port);

#endif /* _BW_PACKET_H */
