// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading frames: how IP can travel in one. Whatever carries IP and is not
 * listed here passes a guarded bridge as any other ethertype does.
 */
#include <linux/if_ether.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/ppp_defs.h>

#include "frame.h"

/* What a PPPoE session's frame begins with; RFC 2516, section 4. */
struct bw_pppoe {
	u8 head[6];
	__be16 proto;	/* of PPP */
};

/* One that is cut off or compressed (RFC 1661, section 6.5) counts as IP. */
static bool bw_pppoe_is_ip(const struct sk_buff *skb, unsigned int offset)
{
	const struct bw_pppoe *ppp;
	struct bw_pppoe buffer;

	ppp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	return !ppp || ppp->proto == htons(PPP_IP) || ppp->proto == htons(PPP_IPV6) ||
	       *(const u8 *)&ppp->proto & 1;
}

static enum bw_frame_kind bw_frame_kind_of(const struct sk_buff *skb, __be16 proto,
					   unsigned int offset)
{
	switch (proto) {
	case htons(ETH_P_IP):
	case htons(ETH_P_IPV6):
		return BW_FRAME_IP;
	case htons(ETH_P_PPP_SES):
		return bw_pppoe_is_ip(skb, offset) ? BW_FRAME_WRAPPED : BW_FRAME_OTHER;
	/* Made to carry IP: nothing that the host or a container needs is lost. */
	case htons(ETH_P_MPLS_UC):
	case htons(ETH_P_MPLS_MC):
	case htons(ETH_P_BATMAN):
	case htons(ETH_P_MACSEC):
	case htons(ETH_P_NSH):
		return BW_FRAME_WRAPPED;
	}
	return BW_FRAME_OTHER;
}

void bw_frame_read(const struct sk_buff *skb, struct bw_frame *f)
{
	u16 vid = skb_vlan_tag_present(skb) ? skb_vlan_tag_get_id(skb) : 0;
	unsigned int tags = skb_vlan_tag_present(skb);
	const struct vlan_hdr *tag;
	__be16 proto = skb->protocol;
	struct vlan_hdr buffer;

	f->offset = 0;
	f->family = 0;
	while (eth_type_vlan(proto)) {
		tag = skb_header_pointer(skb, f->offset, sizeof(buffer), &buffer);
		if (!tag) {
			f->kind = BW_FRAME_WRAPPED;
			return;
		}
		tags++;
		vid |= ntohs(tag->h_vlan_TCI) & VLAN_VID_MASK;
		proto = tag->h_vlan_encapsulated_proto;
		f->offset += VLAN_HLEN;
	}
	f->kind = bw_frame_kind_of(skb, proto, f->offset);
	if (f->kind != BW_FRAME_IP)
		return;
	f->family = proto == htons(ETH_P_IP) ? AF_INET : AF_INET6;
	/* One tag of VLAN 0 is as none: bw_tag_hook(). */
	if (tags > 1 || vid)
		f->kind = BW_FRAME_TAGGED;
}

bool bw_frame_has_header(struct sk_buff *skb, const struct bw_frame *f)
{
	unsigned int need = f->family == AF_INET ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	if (f->kind != BW_FRAME_IP || !pskb_may_pull(skb, f->offset + need))
		return false;
	skb_set_network_header(skb, f->offset);
	return true;
}
