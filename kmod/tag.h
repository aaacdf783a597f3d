/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VLAN 0: a tag that names no VLAN. Receivers look past it, br_netfilter does
 * not, so that it would carry a frame past every hook.
 */
#ifndef _BW_TAG_H
#define _BW_TAG_H

#include <linux/netfilter.h>

#include "api.h"

/*
 * A hook for NF_BR_PRE_ROUTING, ahead of br_netfilter; bridged.c registers it.
 * Context: softirq or process, RCU read-side critical section.
 */
BW_API unsigned int bw_tag_hook(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs);

#endif /* _BW_TAG_H */
