/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a packet at a hook to the record that a trace's event carries.
 */
#ifndef _BW_TRACE_READ_H
#define _BW_TRACE_READ_H

#include <linux/netfilter.h>
#include <net/netfilter/nf_conntrack.h>

#include "api.h"
#include "trace_event.h"

/*
 * Fills what terms are compared with, for each packet; then, once a trace asks
 * for the packet, what only its reader wants. Returns the packet's connection,
 * or NULL. Context: any, RCU read-side critical section.
 */
BW_API const struct nf_conn *bw_trace_packet(const struct sk_buff *skb,
					     const struct nf_hook_state *hs,
					     struct bw_crossing *c);
BW_API void bw_trace_packet_details(const struct sk_buff *skb,
				    const struct nf_hook_state *hs,
				    const struct nf_conn *ct,
				    struct bw_crossing *c);

#endif /* _BW_TRACE_READ_H */
