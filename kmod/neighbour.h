/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Neighbour discovery and multicast membership (MLD, IGMP). No link works
 * without them, so they pass without a rule; what a container may say by them
 * is read here. Routers' messages (advertisement, redirect) are the host's alone.
 */
#ifndef _BW_NEIGHBOUR_H
#define _BW_NEIGHBOUR_H

#include <linux/skbuff.h>

#include "api.h"
#include "classify.h"

#define BW_NOT_NEIGHBOUR	-1

/*
 * BW_NOT_NEIGHBOUR, or the enum bw_reason that decides: NEIGHBOUR, or MALFORMED
 * for neighbour discovery that a receiver might believe although it is not
 * well-formed. bounded: the packet comes from a container, so that it must also
 * be short and no router's. Context: any; the network header is linear.
 */
BW_API int bw_neighbour_read(const struct sk_buff *skb, u8 pf, bool bounded);

/* Where the sender of such a packet is. */
struct bw_neighbour {
	u32 link;	/* guarded link of the host; 0: no container sent it */
	u32 port;	/* of it, as in struct bw_ep_loc; 0: not shown */
	u32 other;	/* the receiver's port, which is not the sender's; 0: not known */
};

/*
 * Returns the reason it was given, or SPOOFED: bw_neighbour_read() has accepted
 * the packet, but it claims an address that another port's endpoint or the host
 * has. Context: RCU read-side critical section.
 */
BW_API u32 bw_neighbour_check(const struct bw_endpoints *e, const struct sk_buff *skb, u8 pf,
			      u32 reason, const struct bw_neighbour *from);

#endif /* _BW_NEIGHBOUR_H */
