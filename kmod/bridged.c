// SPDX-License-Identifier: GPL-2.0-only
/*
 * Drops IP between the ports of guarded bridges while the guards are closed.
 * br_netfilter may be absent, switched off, or hand nothing up of a frame with a
 * tag; this hook sees every frame that a bridge forwards. It runs last, so that
 * what br_netfilter did hand up has been counted by the host's hooks. Must never
 * touch a frame at a bridge that is not guarded, nor one that carries no IP.
 */
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <linux/netfilter_bridge.h>
#include <linux/ppp_defs.h>

#include "bridged.h"
#include "counters.h"
#include "guard.h"
#include "lock.h"
#include "register.h"

/* What a PPPoE session's frame begins with; RFC 2516, section 4. */
struct bw_pppoe {
	u8 head[6];
	__be16 proto;	/* of PPP */
};

static bool bw_is_ip(__be16 proto)
{
	return proto == htons(ETH_P_IP) || proto == htons(ETH_P_IPV6);
}

/* One that is cut off or compressed (RFC 1661, section 6.5) counts as IP. */
static bool bw_pppoe_is_ip(const struct sk_buff *skb, unsigned int offset)
{
	const struct bw_pppoe *ppp;
	struct bw_pppoe buffer;

	ppp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	return !ppp || ppp->proto == htons(PPP_IP) || ppp->proto == htons(PPP_IPV6) ||
	       *(const u8 *)&ppp->proto & 1;
}

/*
 * Of a frame as the bridge forwards it: data is behind the Ethernet header, and
 * the outermost tag may be out of the frame. A tag that is cut off counts as IP.
 */
static bool bw_frame_has_ip(const struct sk_buff *skb)
{
	const struct vlan_hdr *tag;
	__be16 proto = skb->protocol;
	unsigned int offset = 0;
	struct vlan_hdr buffer;

	while (eth_type_vlan(proto)) {
		tag = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
		if (!tag)
			return true;
		proto = tag->h_vlan_encapsulated_proto;
		offset += VLAN_HLEN;
	}
	if (proto == htons(ETH_P_PPP_SES))
		return bw_pppoe_is_ip(skb, offset);
	return bw_is_ip(proto);
}

static unsigned int bw_bridged_hook(void *priv, struct sk_buff *skb,
				    const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);

	if (!st || !st->closed || !bw_guard_has_port(hs->out) || !bw_frame_has_ip(skb))
		return NF_ACCEPT;
	local_bh_disable();
	bw_count(st->counters, BW_REASON_CLOSED, skb->len);
	local_bh_enable();
	return NF_DROP;
}

static const struct nf_hook_ops bw_bridged_ops =
	BW_HOOK(NFPROTO_BRIDGE, NF_BR_FORWARD, NF_BR_PRI_LAST, bw_bridged_hook);

static bool bw_bridged_on;

int bw_bridged_add(void)
{
	int err;

	if (!BW_BRIDGE_FAMILY || bw_bridged_on)
		return 0;
	err = nf_register_net_hook(&init_net, &bw_bridged_ops);
	bw_bridged_on = !err;
	return err;
}

static void bw_bridged_remove(void)
{
	if (!bw_bridged_on)
		return;
	nf_unregister_net_hook(&init_net, &bw_bridged_ops);
	bw_bridged_on = false;
}

static bool bw_bridged_needs(const struct bw_state *st)
{
	return st && st->closed;
}

void bw_bridged_drop_unneeded(const struct bw_state *st, const struct bw_state *saved)
{
	lockdep_assert_held(&bw_mutex);
	if (!bw_bridged_needs(st) && !bw_bridged_needs(saved))
		bw_bridged_remove();
}

void bw_bridged_exit(void)
{
	bw_bridged_remove();
	synchronize_net();
}
