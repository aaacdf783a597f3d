// SPDX-License-Identifier: GPL-2.0-only
/*
 * Takes VLAN 0 off frames at the ports of guarded bridges, ahead of
 * br_netfilter, so that what they carry is judged. Must never touch a frame of
 * a real VLAN, nor one at a bridge that is not guarded, nor any in mode audit.
 */
#include <linux/if_vlan.h>
#include <linux/netdevice.h>
#include <linux/netfilter_bridge.h>

#include "guard.h"
#include "state.h"
#include "tag.h"

unsigned int bw_tag_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	const struct bw_state *st;

	/* Receiving has moved the outermost tag, if any, out of the frame. */
	if (likely(!skb_vlan_tag_present(skb)) || skb_vlan_tag_get_id(skb))
		return NF_ACCEPT;
	if (!bw_guard_has_port(hs->in))
		return NF_ACCEPT;
	/* Behind it another tag: that frame is no plain IP either way, see bridged.c. */
	if (eth_type_vlan(skb->protocol))
		return NF_ACCEPT;
	/* Audit changes no frame, and reads behind such a tag: observe.c. */
	st = rcu_dereference(bw_state);
	if (!st || st->mode == BW_MODE_AUDIT)
		return NF_ACCEPT;
	__vlan_hwaccel_clear_tag(skb);
	return NF_ACCEPT;
}
