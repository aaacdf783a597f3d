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
BW_DATA u64 bw_memo_seed __read_mostly;

void bw_memo_store(const struct sk_buff *skb, const struct nf_hook_state *hs,
		   u64 epoch, struct bw_count *count)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct bw_memo k = { .ends = bw_memo_ends(hs->in->ifindex, hs->out->ifindex) };
	struct bw_memo *m;

	BUILD_BUG_ON(sizeof(k) != BW_MEMO_SIZE);
	/* These are judged by themselves alone. */
	if (!epoch || !ct || ctinfo == IP_CT_RELATED ||
	    ctinfo == IP_CT_RELATED_REPLY ||
	    ct->status & (IPS_TEMPLATE | IPS_EXPECTED) ||
	    bw_ct_may_be_picked_up(ct))
		return;
	k.when = bw_memo_when(skb, epoch);
	k.flow = bw_memo_flow(ct, ctinfo, hs->pf != NFPROTO_IPV4);
	k.count = count;
	if (hs->pf == NFPROTO_IPV4) {
		k.addr[0] = bw_memo_addr4(ct);
		m = bw_memo_at4(k.flow, k.addr[0]);
	} else {
		k.addr[0] = bw_memo_addr6(ct, IP_CT_DIR_ORIGINAL, 0);
		k.addr[1] = bw_memo_addr6(ct, IP_CT_DIR_ORIGINAL, 1);
		k.addr[2] = bw_memo_addr6(ct, IP_CT_DIR_REPLY, 0);
		k.addr[3] = bw_memo_addr6(ct, IP_CT_DIR_REPLY, 1);
		m = bw_memo_at6(k.flow, k.addr[0], k.addr[1], k.addr[2], k.addr[3]);
	}
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
	int cpu;

	get_random_bytes(&bw_memo_seed, sizeof(bw_memo_seed));
	bw_memo_seed = BW_MEMO_RATIO << 32 | (u32)bw_memo_seed | 1;
	for_each_possible_cpu(cpu) {
		struct bw_memo *memo = kvmalloc_node(BW_MEMO_SIZE << BW_MEMO_BITS,
						     GFP_KERNEL | __GFP_ZERO,
						     cpu_to_node(cpu));

		if (!memo) {
			bw_memo_exit();
			return -ENOMEM;
		}
		per_cpu(bw_memos, cpu) = memo;
	}
	return 0;
}

void bw_memo_exit(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		kvfree(per_cpu(bw_memos, cpu));
}
