// SPDX-License-Identifier: GPL-2.0-only
/*
 * Filling the memo, and its memory: the packet path only ever writes its own
 * CPU's, and no allocation depends on traffic.
 */
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/topology.h>

#include "memo.h"
#include "lock.h"

BW_DATA u32 bw_epoch __read_mostly = 1;
BW_DATA u64 bw_memo_seed[2] __read_mostly;

void bw_memo_store(const struct sk_buff *skb, const struct nf_hook_state *hs,
		   u64 epoch, struct bw_count *count)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct bw_memo k = { .ends = bw_memo_ends(hs->in->ifindex, hs->out->ifindex) };
	struct bw_memo_key key;
	struct bw_memo *m;

	BUILD_BUG_ON(sizeof(k) != BW_MEMO_SIZE);
	/* These are judged by themselves alone. */
	if (!epoch || !ct || ctinfo == IP_CT_RELATED ||
	    ctinfo == IP_CT_RELATED_REPLY ||
	    ct->status & (IPS_TEMPLATE | IPS_EXPECTED) ||
	    bw_ct_may_be_picked_up(ct))
		return;
	k.when = bw_memo_when(skb, epoch);
	k.count = count;
	bw_memo_key(ct, ctinfo, hs->pf != NFPROTO_IPV4, &key);
	k.key[0] = key.word[0];
	k.key[1] = key.word[1];
	if (hs->pf != NFPROTO_IPV4) {
		k.key[2] = key.word[2];
		k.key[3] = key.word[3];
		k.key[4] = key.word[4];
	}
	m = bw_memo_at(key.hash, hs->pf != NFPROTO_IPV4);
	*m = k;
}

void bw_memo_invalidate(void)
{
	lockdep_assert_held(&bw_mutex);
	if (!bw_epoch)
		return;
	/* Pairs with smp_load_acquire() in bw_pass_forward(). */
	smp_store_release(&bw_epoch, bw_epoch + 1);
}

int bw_memo_init(void)
{
	u32 random[3];
	int cpu;

	get_random_bytes(random, sizeof(random));
	bw_memo_seed[0] = (u64)random[0] << 32 | (BW_MEMO_RATIO & ~BW_MEMO_RANDOM) |
			  (random[1] & BW_MEMO_RANDOM) | 1;
	bw_memo_seed[1] = (u64)BW_MEMO_RATIO << 32 | random[2] | 1;
	for_each_possible_cpu(cpu) {
		int node = cpu_to_node(cpu);

		per_cpu(bw_memos, cpu) = kvmalloc_node(BW_MEMO_SIZE << BW_MEMO_BITS,
						       GFP_KERNEL | __GFP_ZERO, node);
		per_cpu(bw_memo_missed, cpu) = kvmalloc_node(sizeof(u32) << BW_MEMO_BITS,
							     GFP_KERNEL | __GFP_ZERO, node);
		if (!per_cpu(bw_memos, cpu) || !per_cpu(bw_memo_missed, cpu)) {
			bw_memo_exit();
			return -ENOMEM;
		}
	}
	return 0;
}

void bw_memo_exit(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		kvfree(per_cpu(bw_memos, cpu));
		kvfree(per_cpu(bw_memo_missed, cpu));
	}
}
