// SPDX-License-Identifier: GPL-2.0-only
/*
 * Filling the memo, and its memory: the packet path only ever writes its own
 * CPU's, and no allocation depends on traffic.
 */
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/topology.h>

#include "memo.h"

DEFINE_PER_CPU(void *, bw_memos);

void bw_memo_keep(const struct sk_buff *skb, const struct nf_hook_state *hs,
		  unsigned long epoch, u32 index)
{
	struct bw_memo k = {}, *m;

	m = hs->pf == NFPROTO_IPV4 ? bw_memo_read(skb, hs, false, &k) :
				     bw_memo_read(skb, hs, true, &k);
	if (!m)
		return;
	k.epoch = epoch;
	k.index = index;
	*m = k;
}

int bw_memo_init(void)
{
	int cpu;

	for_each_possible_cpu(cpu) {
		void *memo = kvmalloc_node(BW_MEMO_SIZE << BW_MEMO_BITS,
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
