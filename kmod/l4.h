/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a packet's transport header begins. The one walk over IP headers: who
 * reads more of a packet than its connection starts here.
 */
#ifndef _BW_L4_H
#define _BW_L4_H

#include <linux/in.h>
#include <linux/skbuff.h>

#include "api.h"

struct bw_l4 {
	u8 proto;
	bool later;		/* a fragment other than the first */
	unsigned int offset;	/* of the transport header, from skb->data */
};

/*
 * true: the transport header begins at offset, whether or not the packet is long
 * enough for it. false: there is none, because this is a later fragment or the
 * chain of IPv6 headers is cut off; proto is then the last one that was named.
 * Context: any; the network header is in the linear part.
 */
BW_API bool bw_l4_find(const struct sk_buff *skb, u8 pf, struct bw_l4 *l4);

/*
 * The same for a packet that an ICMP error quotes, whose IP header is at offset
 * from skb->data. Only its first bytes need be there. l4 may be where offset is from.
 * Context: any.
 */
BW_API bool bw_l4_find_quoted(const struct sk_buff *skb, u8 pf, unsigned int offset,
			      struct bw_l4 *l4);

/* Keys of GRE and the like are no ports. */
static inline bool bw_l4_has_ports(u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP ||
	       proto == IPPROTO_UDPLITE || proto == IPPROTO_SCTP ||
	       proto == IPPROTO_DCCP;
}

#endif /* _BW_L4_H */
