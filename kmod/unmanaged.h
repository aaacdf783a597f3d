/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The list of unmanaged senders: who speaks behind a guard and is no endpoint, nor
 * of a routed prefix. For people, who may have to name it in a policy; no verdict
 * hangs on it. Bounded, because senders choose their addresses.
 */
#ifndef _BW_UNMANAGED_H
#define _BW_UNMANAGED_H

#include <linux/if_ether.h>
#include <linux/skbuff.h>

#include "api.h"
#include "classify.h"

#define BW_UNMANAGED_ROWS	1024

/* A row as a reader gets it. */
struct bw_unmanaged {
	union bw_addr addr;
	u32 link;
	u32 port;	/* of it, as in struct bw_ep_loc; 0: not shown */
	u8 family;
	u8 mac[ETH_ALEN];	/* all zero: not shown */
	u64 packets;
	u32 idle;	/* seconds since the last of them */
};

/* Draws the seed. Context: loading, before any hook. */
BW_API void bw_unmanaged_init(void);

/* The long way of bw_unmanaged_note(), which has its contract. Context: any. */
BW_API void bw_unmanaged_put(const struct sk_buff *skb, const struct bw_query *q);

/*
 * bw_unmanaged_note() - lists the sender of a packet, if it is unmanaged.
 * @skb: the packet.
 * @q: the query about it.
 * @d: what bw_classify() said.
 *
 * Context: any; no lock, no allocation. What it writes is shared by all CPUs, but
 * written for packets of unmanaged senders alone.
 */
static inline void bw_unmanaged_note(const struct sk_buff *skb, const struct bw_query *q,
				     const struct bw_decision *d)
{
	if (unlikely(d->index == BW_REASON_UNMANAGED) &&
	    q->side[q->sender].kind == BW_KIND_GUARDED &&
	    d->identity[q->sender] == BW_ID_UNMANAGED)
		bw_unmanaged_put(skb, q);
}

/* Row i, below BW_UNMANAGED_ROWS; false: there is none now. Context: any. */
BW_API bool bw_unmanaged_at(u32 i, struct bw_unmanaged *u);

/* Packets since load whose sender found no place. Context: any. */
BW_API u64 bw_unmanaged_lost(void);

#endif /* _BW_UNMANAGED_H */
