/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a CPU remembers of its own verdicts at FORWARD: of packets that a rule
 * or a default lets pass, all the classifier looked at, and the counter. The
 * next packet that looks the same passes for one cache line. Never asked about
 * what is dropped, logged, queued, or speaks for another connection.
 *
 * An entry holds as long as the state's epoch is its own. Whoever changes what
 * a verdict may hang on (rules, endpoints, guards, placement) makes the change
 * first and a new epoch then, so that a verdict taken before the change is
 * never kept under the epoch after it.
 */
#ifndef _BW_MEMO_H
#define _BW_MEMO_H

#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/percpu.h>
#include <net/netfilter/nf_conntrack.h>

#include "state.h"

#define BW_MEMO_BITS	10	/* entries of each CPU */
#define BW_MEMO_SIZE	64	/* bytes of an entry: one line */

struct bw_memo {
	u64 place;		/* in and out device */
	u64 flow;		/* ports, protocol, direction, NAT: bw_memo_read() */
	u64 addr[4];		/* initiator, responder; of IPv4 in the first */
	unsigned long epoch;	/* of the state; 0: none */
	u32 port;		/* bridge port it came from */
	u32 index;		/* counter */
};

DECLARE_PER_CPU(void *, bw_memos);

/* Conntrack entries whose packets are judged by themselves alone. */
#define BW_MEMO_NOT	(IPS_TEMPLATE | IPS_EXPECTED)

/*
 * The entry the packet would be in, and what that entry must hold to be this
 * packet's; NULL: it is not for the memo. The original tuple's second half
 * (port, protocol; its direction is always 0) and the reply's first (port,
 * family) are taken as the words they are: finer than what a rule can tell.
 */
static __always_inline struct bw_memo *
bw_memo_read(const struct sk_buff *skb, const struct nf_hook_state *hs, bool six,
	     struct bw_memo *k)
{
	const struct nf_conntrack_tuple *original, *reply;
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	u64 hash;

	BUILD_BUG_ON(sizeof(*k) != BW_MEMO_SIZE);
	if (unlikely(!ct || ctinfo == IP_CT_RELATED ||
		     ctinfo == IP_CT_RELATED_REPLY || ct->status & BW_MEMO_NOT))
		return NULL;
	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	BUILD_BUG_ON(offsetof(typeof(*original), dst.dir) !=
		     offsetof(typeof(*original), dst.u) + 3);
	BUILD_BUG_ON(offsetof(typeof(*reply), src.l3num) !=
		     offsetof(typeof(*reply), src.u) + 2);
	k->flow = (u64)*(const u32 *)&original->dst.u << 32 |
		  *(const u32 *)&reply->src.u;
	/* The family, bits 16 to 31, leaves most of them free. */
	k->flow ^= (u64)(ct->status & IPS_DST_NAT) << 21;
	k->flow ^= (u64)(ctinfo >= IP_CT_IS_REPLY) << 30;
	k->place = (u64)hs->in->ifindex << 32 | (u32)hs->out->ifindex;
	k->port = nf_bridge_get_physinif(skb);
	if (six) {
		memcpy(&k->addr[0], &original->src.u3, 16);
		memcpy(&k->addr[2], &reply->src.u3, 16);
		hash = k->addr[0] * 0x9e3779b97f4a7c15ULL +
		       k->addr[1] * 0xc2b2ae3d27d4eb4fULL +
		       k->addr[2] * 0x165667b19e3779f9ULL +
		       k->addr[3] * 0xd6e8feb86659fd93ULL;
	} else {
		k->addr[0] = (__force u64)original->src.u3.ip << 32 |
			     (__force u32)reply->src.u3.ip;
		hash = k->addr[0] * 0x9e3779b97f4a7c15ULL;
	}
	hash += k->flow * 0xff51afd7ed558ccdULL;
	return this_cpu_read(bw_memos) +
	       (hash >> (64 - BW_MEMO_BITS)) * BW_MEMO_SIZE;
}

static __always_inline bool bw_memo_is(const struct bw_memo *m,
				       const struct bw_memo *k, bool six,
				       unsigned long epoch)
{
	if (m->epoch != epoch || m->flow != k->flow || m->place != k->place ||
	    m->port != k->port || m->addr[0] != k->addr[0])
		return false;
	return !six || (m->addr[1] == k->addr[1] && m->addr[2] == k->addr[2] &&
			m->addr[3] == k->addr[3]);
}

/* A packet like it has passed: counted. Bottom halves are off. */
static __always_inline bool bw_memo_passes(const struct bw_state *st,
					   const struct sk_buff *skb,
					   const struct nf_hook_state *hs,
					   bool six, unsigned long epoch)
{
	const struct bw_memo *m;
	struct bw_memo k;

	m = bw_memo_read(skb, hs, six, &k);
	if (!m || !bw_memo_is(m, &k, six, epoch))
		return false;
	bw_count(st->counters, m->index, skb->len);
	return true;
}

/* epoch: the state's before it was asked. */
void bw_memo_keep(const struct sk_buff *skb, const struct nf_hook_state *hs,
		  unsigned long epoch, u32 index);

int bw_memo_init(void);
void bw_memo_exit(void);

#endif /* _BW_MEMO_H */
