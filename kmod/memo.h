/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What a CPU remembers of its own verdicts at FORWARD: of packets that a rule
 * or a default lets pass, all the classifier looked at, and the counter. The
 * next packet that looks the same passes for one cache line. Never remembered is
 * what is dropped, logged, queued, picked up by conntrack in its middle, or speaks
 * for another connection.
 *
 * An entry holds as long as bw_epoch is its own. Whoever changes what a verdict
 * may hang on (rules, endpoints, guards, placement) makes the change first and a
 * new epoch then, so that a verdict taken before the change is never kept under
 * the epoch after it; and frees what entries point to a grace period later.
 */
#ifndef _BW_MEMO_H
#define _BW_MEMO_H

#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <net/netfilter/nf_conntrack.h>

#include "api.h"
#include "counters.h"
#include "pickedup.h"

#define BW_MEMO_BITS	10	/* entries of each CPU */
#define BW_MEMO_SIZE	64	/* bytes of an entry: one line */

struct bw_memo {
	u64 when;		/* epoch; above it the bridge port it came from */
	u64 ends;		/* devices: bw_memo_ends() */
	u64 flow;		/* ports, protocol, direction, NAT: bw_memo_flow() */
	u64 addr[4];		/* initiator, responder; of IPv4 in the first */
	struct bw_count *count;	/* of this CPU */
} __aligned(BW_MEMO_SIZE);

/* Here, because a declaration of a per-CPU variable cannot be static. */
static DEFINE_PER_CPU(struct bw_memo *, bw_memos);

/*
 * Whether nobody else touches this CPU's entries until the hook returns. Not so
 * where a process runs the hook with bottom halves on (a queue's listener that
 * answers NF_REPEAT, a multicast route that resolves waiting packets), nor under
 * PREEMPT_RT: from Linux 6.18 on sections with bottom halves off preempt each other.
 */
static __always_inline bool bw_memo_is_exclusive(void)
{
	return !IS_ENABLED(CONFIG_PREEMPT_RT) && softirq_count();
}

/*
 * Of verdicts that may be remembered, see above. 0: after 2^32 changes none is,
 * which is slow, rather than one that is that old.
 */
BW_API u32 bw_epoch;

/* What of a conntrack entry's status belongs to a verdict. */
#define BW_MEMO_STATUS	(IPS_TEMPLATE | IPS_EXPECTED | IPS_DST_NAT)

static __always_inline u64 bw_memo_ends(u32 in, u32 out)
{
	return (u64)out << 32 | in;
}

static __always_inline u64 bw_memo_when(const struct sk_buff *skb, u64 epoch)
{
	u64 when = epoch;

	if (nf_bridge_info_exists(skb))
		when |= (u64)nf_bridge_get_physinif(skb) << 32;
	return when;
}

/*
 * The original tuple's second half (port, protocol; its direction is always 0)
 * is taken as the word it is: finer than what a rule can tell.
 */
static __always_inline u64 bw_memo_flow(const struct nf_conn *ct,
					enum ip_conntrack_info ctinfo, bool six)
{
	const struct nf_conntrack_tuple *original, *reply;
	u32 state;

	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	BUILD_BUG_ON(offsetof(typeof(*original), dst.dir) !=
		     offsetof(typeof(*original), dst.u) + 3);
	/* Where ctinfo goes, and the family behind it. */
	BUILD_BUG_ON(BW_MEMO_STATUS & 0xe || BW_MEMO_STATUS >= BIT(15));
	/* Added up, not or-ed: one instruction less, and no bit meets another. */
	state = (ct->status & BW_MEMO_STATUS) + 2 * ctinfo + (six ? BIT(15) : 0);
	return (u64)*(const u32 *)&original->dst.u << 32 | state << 16 |
	       (__force u16)reply->src.u.all;
}

static __always_inline u64 bw_memo_addr4(const struct nf_conn *ct)
{
	return (__force u64)ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u3.ip << 32 |
	       (__force u32)ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u3.ip;
}

/* Half an address of IPv6. */
static __always_inline u64 bw_memo_addr6(const struct nf_conn *ct,
					 enum ip_conntrack_dir dir, int half)
{
	u64 word;

	memcpy(&word, &ct->tuplehash[dir].tuple.src.u3.all[2 * half], sizeof(word));
	return word;
}

/*
 * Odd; drawn before there is an entry. The golden ratio above, which spreads
 * consecutive numbers evenly (Knuth, TAOCP volume 3, section 6.4), and random
 * below, so that nobody can tell which flows share a slot.
 */
BW_API u64 bw_memo_seed;

#define BW_MEMO_RATIO	0x9e3779b9ULL

/* By the top bits of a product. */
static __always_inline struct bw_memo *bw_memo_at(u64 key)
{
	return this_cpu_read(bw_memos) + (key * bw_memo_seed >> (64 - BW_MEMO_BITS));
}

/*
 * Addresses are in network order. Swapped, clients of one network are consecutive
 * numbers; otherwise they would differ in bits that few bits of a product hang on.
 */
static __always_inline u64 bw_memo_number(u64 addr)
{
	return (__force u64)cpu_to_be64(addr);
}

static __always_inline struct bw_memo *bw_memo_at4(u64 flow, u64 addr)
{
	return bw_memo_at(flow + bw_memo_number(addr));
}

static __always_inline struct bw_memo *bw_memo_at6(u64 flow, u64 a, u64 b,
						   u64 c, u64 d)
{
	return bw_memo_at(flow + (a ^ bw_memo_number(b)) +
			  rol64(c ^ bw_memo_number(d), 27));
}

/* m->when == bw_memo_when(), written so that most packets copy no epoch. */
static __always_inline bool bw_memo_is_of(const struct bw_memo *m, const struct sk_buff *skb,
					  u64 epoch)
{
	if (nf_bridge_info_exists(skb))
		return bw_memo_when(skb, epoch) == m->when;
	return m->when == epoch;
}

/*
 * Whether a packet like it has passed; then it is counted. Written without a
 * struct to compare with: the kernel would clear one first. Context: as
 * bw_memo_is_exclusive() has it.
 */
static __always_inline bool bw_memo_accepts(const struct sk_buff *skb,
					    u64 ends, bool six, u64 epoch)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	u64 flow, a, b, c, d;
	struct bw_memo *m;

	if (unlikely(!ct))
		return false;
	/*
	 * Not to store it is not enough: the key has no client's port, so that a
	 * revoked connection, picked up with its ends exchanged, can look like one
	 * that conntrack saw begin.
	 */
	if (bw_ct_may_be_picked_up(ct))
		return false;
	flow = bw_memo_flow(ct, ctinfo, six);
	if (six) {
		a = bw_memo_addr6(ct, IP_CT_DIR_ORIGINAL, 0);
		b = bw_memo_addr6(ct, IP_CT_DIR_ORIGINAL, 1);
		c = bw_memo_addr6(ct, IP_CT_DIR_REPLY, 0);
		d = bw_memo_addr6(ct, IP_CT_DIR_REPLY, 1);
		m = bw_memo_at6(flow, a, b, c, d);
		if (m->addr[1] != b || m->addr[2] != c || m->addr[3] != d)
			return false;
	} else {
		a = bw_memo_addr4(ct);
		m = bw_memo_at4(flow, a);
	}
	if (m->flow != flow || m->addr[0] != a ||
	    m->ends != ends || !bw_memo_is_of(m, skb, epoch))
		return false;
	bw_count_in(m->count, skb->len);
	return true;
}

/*
 * Remembers that a packet like this one passes. epoch: as it was before the state
 * was asked, 0: remember nothing. count: in that state. Context: as
 * bw_memo_is_exclusive() has it, RCU read-side critical section.
 */
BW_API void bw_memo_store(const struct sk_buff *skb, const struct nf_hook_state *hs,
			  u64 epoch, struct bw_count *count);

/* Nothing remembered holds any more. Context: bw_mutex is held. */
BW_API void bw_memo_invalidate(void);

/*
 * Every CPU's entries: 0 or -ENOMEM, and none is left. Context: process, may
 * sleep; loading and unloading only, no packet is in a hook.
 */
BW_API int bw_memo_init(void);
BW_API void bw_memo_exit(void);

#endif /* _BW_MEMO_H */
