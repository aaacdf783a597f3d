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
	BW_FRAME_IP,		/* IPv4 or IPv6 behind the Ethernet header, or behind VLAN 0 */
	BW_FRAME_TAGGED,	/* the same behind another VLAN tag, or several */
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

/*
 * Whether the frame is one of BW_FRAME_IP whose IP header may be read from now on, as
 * the network header. One that is not in the linear part is pulled there, as every
 * stack does: it may want memory (GFP_ATOMIC), and changes no byte of the frame.
 * Context: any.
 */
BW_API bool bw_frame_has_header(struct sk_buff *skb, const struct bw_frame *f);

#endif /* _BW_FRAME_H */
