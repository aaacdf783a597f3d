/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a frame carries, as the bridge holds it.
 */
#ifndef _BW_FRAME_H
#define _BW_FRAME_H

#include <linux/skbuff.h>

#include "api.h"

enum bw_frame_kind {
	BW_FRAME_OTHER,		/* no IP: ARP and the like */
	BW_FRAME_IP,		/* IPv4 or IPv6 directly behind the Ethernet header */
	BW_FRAME_TAGGED,	/* the same behind VLAN tags */
	BW_FRAME_WRAPPED,	/* behind something else, which no IP hook reads */
};

struct bw_frame {
	enum bw_frame_kind kind;
	u8 family;		/* AF_INET, AF_INET6; 0: unknown */
	unsigned int offset;	/* of the IP header from skb->data; IP and TAGGED */
};

/*
 * bw_frame_read() - what an Ethernet frame carries.
 * @skb: at a bridge hook: data is behind the Ethernet header, the outermost tag
 *       may be out of the frame.
 *
 * What is cut off counts as what it claims to be. Context: any.
 */
BW_API void bw_frame_read(const struct sk_buff *skb, struct bw_frame *f);

#endif /* _BW_FRAME_H */
