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
	u64 key[5];		/* addresses, ports, protocol, direction, NAT: bw_memo_key() */
	struct bw_count *count;	/* of this CPU */
} __aligned(BW_MEMO_SIZE);

/* What of an entry a packet's connection decides, and where it would be. */
struct bw_memo_key {
	u64 word[5];		/* of IPv4 the first two */
	u64 hash;
};

/* Here, because a declaration of a per-CPU variable cannot be static. */
static DEFINE_PER_CPU(struct bw_memo *, bw_memos);

/*
 * Of each entry, whose packet was the last to look there in vain. What is looked
 * for twice is stored, so that clients in turn, more of them than there are
 * entries, cost no stores and drive nobody out.
 */
static DEFINE_PER_CPU(u32 *, bw_memo_missed);

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
 * The tuple's words as they lie there, because a word costs an instruction: of
 * the original the responder's port, the protocol and the direction (always 0),
 * of the reply the responder's port and the family. That is finer than what a rule
 * can tell. The word in front of each is the last of an address, 0 in IPv4.
 */
static __always_inline u32 bw_memo_word(const void *from)
{
	u32 word;

	__builtin_memcpy(&word, from, sizeof(word));
	return word;
}

/* The same in the upper half of what has a zero before it. */
static __always_inline u64 bw_memo_upper_word(const void *from)
{
#ifdef __LITTLE_ENDIAN
	u64 word;

	__builtin_memcpy(&word, from - sizeof(u32), sizeof(word));
	return word;
#else
	return (u64)bw_memo_word(from) << 32;
#endif
}

/* Half an address of IPv6. */
static __always_inline u64 bw_memo_half(const union nf_inet_addr *addr, int half)
{
	u64 word;

	memcpy(&word, &addr->all[2 * half], sizeof(word));
	return word;
}

/*
 * Bits that an address family's number leaves free, where the reply's word is the
 * upper half. It is there in both families' keys, so that none is the other's.
 */
#ifdef __LITTLE_ENDIAN
#define BW_MEMO_STATE_SHIFT	52
#else
#define BW_MEMO_STATE_SHIFT	36
#endif

/*
 * Addresses are in network order. Swapped, clients of one network are consecutive
 * numbers; otherwise they would differ in bits that few bits of a product hang on.
 */
static __always_inline u64 bw_memo_number(u64 addr)
{
	return (__force u64)cpu_to_be64(addr);
}

/*
 * A client of IPv4 as a number in the upper half, over the original's word in whatever
 * order: swapped as one, which is an instruction less.
 */
static __always_inline u64 bw_memo_client4(const struct nf_conntrack_tuple *original)
{
#ifdef __LITTLE_ENDIAN
	return swab64(bw_memo_upper_word(&original->dst.u) + (__force u32)original->src.u3.ip);
#else
	return (u64)ntohl(original->src.u3.ip) << 32 | bw_memo_word(&original->dst.u);
#endif
}

/* Words are added up, not or-ed: an instruction less, and no bit meets another. */
static __always_inline void bw_memo_key(const struct nf_conn *ct, enum ip_conntrack_info ctinfo,
					bool six, struct bw_memo_key *key)
{
	const struct nf_conntrack_tuple *original, *reply;
	u64 state;

	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	BUILD_BUG_ON(offsetof(typeof(*original), dst.dir) !=
		     offsetof(typeof(*original), dst.u) + 3);
	BUILD_BUG_ON(offsetof(typeof(*original), dst.u) !=
		     offsetof(typeof(*original), dst.u3) + sizeof(union nf_inet_addr));
	BUILD_BUG_ON(offsetof(typeof(*original), src.l3num) !=
		     offsetof(typeof(*original), src.u) + 2);
	BUILD_BUG_ON(offsetof(typeof(*original), src.u) !=
		     offsetof(typeof(*original), src.u3) + sizeof(union nf_inet_addr));
	/* Where ctinfo goes; and that the family leaves these bits free. */
	BUILD_BUG_ON(BW_MEMO_STATUS & 0xe || BW_MEMO_STATUS >= BIT(12));
	BUILD_BUG_ON(NFPROTO_IPV4 >= BIT(4) || NFPROTO_IPV6 >= BIT(4));
	state = (ct->status & BW_MEMO_STATUS) + 2 * ctinfo;
	if (six) {
		key->word[0] = (state << BW_MEMO_STATE_SHIFT) +
			       ((u64)bw_memo_word(&reply->src.u) << 32) +
			       bw_memo_word(&original->dst.u);
		key->word[1] = bw_memo_half(&original->src.u3, 0);
		key->word[2] = bw_memo_half(&original->src.u3, 1);
		key->word[3] = bw_memo_half(&reply->src.u3, 0);
		key->word[4] = bw_memo_half(&reply->src.u3, 1);
		key->hash = key->word[0] + (key->word[1] ^ bw_memo_number(key->word[2])) +
			    rol64(key->word[3] ^ bw_memo_number(key->word[4]), 27);
		return;
	}
	key->word[0] = (state << BW_MEMO_STATE_SHIFT) + bw_memo_upper_word(&reply->src.u) +
		       (__force u32)reply->src.u3.ip;
	key->word[1] = bw_memo_client4(original);
	key->hash = key->word[0] + key->word[1];
}

/*
 * Of IPv4 and of IPv6. Odd; drawn before there is an entry. The half by which clients'
 * numbers come to the top has the golden ratio, which spreads consecutive ones evenly
 * (Knuth, TAOCP volume 3, section 6.4). The other half is random, and in IPv4 the
 * ratio's last bits are, so that nobody can tell which flows share a slot.
 */
BW_API u64 bw_memo_seed[2];

#define BW_MEMO_RATIO	0x9e3779b9U
#define BW_MEMO_RANDOM	0x3ffU	/* of the ratio: below what 1000 clients in a row show */

/* By the top bits of a product. */
static __always_inline struct bw_memo *bw_memo_at(u64 hash, bool six)
{
	return this_cpu_read(bw_memos) + (hash * bw_memo_seed[six] >> (64 - BW_MEMO_BITS));
}

/*
 * Whether to store, in this place, what was not there; of two connections that
 * look alike to it, the second is stored at once. Context: as
 * bw_memo_is_exclusive() has it.
 */
static __always_inline bool bw_memo_missed_again(const struct bw_memo *m,
						 const struct nf_conn *ct)
{
	u32 *missed = this_cpu_read(bw_memo_missed) + (m - this_cpu_read(bw_memos));
	u32 now = bw_memo_word(&ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u3) +
		  bw_memo_word(&ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u3.all[3]) +
		  bw_memo_word(&ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u3.all[3]);

	if (*missed == now)
		return true;
	*missed = now;
	return false;
}

/* m->when == bw_memo_when(), written so that most packets copy no epoch. */
static __always_inline bool bw_memo_is_of(const struct bw_memo *m, const struct sk_buff *skb,
					  u64 epoch)
{
	if (unlikely(nf_bridge_info_exists(skb)))
		return bw_memo_when(skb, epoch) == READ_ONCE(m->when);
	return m->when == epoch;
}

/*
 * Whether a packet like it has passed; then it is counted. If not, *at is where it
 * would be, left as it was where nothing may be stored. Written without a
 * struct to compare with: the kernel would clear one first. Context: as
 * bw_memo_is_exclusive() has it.
 */
static __always_inline bool bw_memo_accepts(const struct sk_buff *skb,
					    u64 ends, bool six, u64 epoch, struct bw_memo **at)
{
	const struct nf_conn *ct = bw_ct_of(skb);
	struct bw_memo_key key;
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
	bw_memo_key(ct, skb->_nfct - (unsigned long)ct, six, &key);
	m = bw_memo_at(key.hash, six);
	*at = m;
	if (m->key[0] != key.word[0] || m->key[1] != key.word[1])
		return false;
	if (six && (m->key[2] != key.word[2] || m->key[3] != key.word[3] ||
		    m->key[4] != key.word[4]))
		return false;
	if (m->ends != ends || !bw_memo_is_of(m, skb, epoch))
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
