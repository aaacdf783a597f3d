/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Whether conntrack saw a TCP connection begin. With nf_conntrack_tcp_loose, as
 * is usual, it makes an entry for a segment in the middle of one, too: after its
 * entry timed out or was deleted, or when tracking began. Who spoke first is the
 * entry's initiator then, whoever that is of the connection.
 */
#ifndef _BW_PICKEDUP_H
#define _BW_PICKEDUP_H

#include <linux/in.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_conntrack_tuple.h>

#include "api.h"

/*
 * nf_ct_get() without the rest, whether or not there is an entry, in two instructions
 * and a flag: of a mask that it knows the compiler makes a comparison besides. _nfct is
 * a long in all kernels. Context: any.
 */
static __always_inline const struct nf_conn *bw_ct_of(const struct sk_buff *skb)
{
	unsigned long mask = NFCT_PTRMASK;

	OPTIMIZER_HIDE_VAR(mask);
	return (const void *)(skb->_nfct & mask);
}

/*
 * For the memo, by one test of one byte: never false where bw_ct_is_picked_up() is
 * true. Also true for a flow that was offloaded, and of other protocols where that
 * byte is left over from another entry: they are judged in full. Without
 * READ_ONCE(), which would cost an instruction: it is one byte.
 */
static __always_inline bool bw_ct_may_be_picked_up(const struct nf_conn *ct)
{
	return unlikely(ct->proto.tcp.seen[IP_CT_DIR_ORIGINAL].flags &
			IP_CT_TCP_FLAG_BE_LIBERAL);
}

/**
 * bw_ct_is_picked_up() - whether conntrack met a connection in its middle.
 * @ct: entry of any protocol, no template.
 *
 * tcp_new() marks what does not begin with a SYN: both directions' windows are
 * taken liberally, and no window scaling has been seen. A flow that is offloaded
 * (nft, act_ct), or that a newer kernel's Open vSwitch tracks, becomes liberal
 * later on, but has its SYN's options; without window scaling at either end it
 * looks picked up, which is the stricter of the two. The sysctl
 * nf_conntrack_tcp_be_liberal sets no flag. Root can over ctnetlink, as conntrackd
 * does for entries that it takes over.
 *
 * An entry never gets the mark later, and loses it only when its initiator sends
 * a SYN and that is answered: a connection of that initiator. bw_read_picked_up()
 * takes a SYN for what it is while the entry still has the mark.
 *
 * Context: any; the entry's lock is not needed to read two bytes.
 * Return: true if the entry's initiator need not be the connection's.
 */
static inline bool bw_ct_is_picked_up(const struct nf_conn *ct)
{
	u8 one, other;

	if (nf_ct_protonum(ct) != IPPROTO_TCP)
		return false;
	one = READ_ONCE(ct->proto.tcp.seen[IP_CT_DIR_ORIGINAL].flags);
	other = READ_ONCE(ct->proto.tcp.seen[IP_CT_DIR_REPLY].flags);
	return one & other & IP_CT_TCP_FLAG_BE_LIBERAL &&
	       !((one | other) & IP_CT_TCP_FLAG_WINDOW_SCALE);
}

#endif /* _BW_PICKEDUP_H */
