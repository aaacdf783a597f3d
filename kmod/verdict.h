/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What follows from a decision: counted, logged, and turned into what the hook
 * returns. The only place that knows of audit mode.
 */
#ifndef _BW_VERDICT_H
#define _BW_VERDICT_H

#include <linux/netfilter.h>
#include <linux/skbuff.h>

#include "state.h"

/* Draws the seed of the log's rate limit. Context: loading, before any hook. */
BW_API void bw_log_init(void);

/* Log lines the rate limit has kept back since load. Context: any. */
BW_API u64 bw_log_swallowed(void);

/*
 * Returns what the hook returns. Context: bottom halves off, RCU read-side
 * critical section.
 */
BW_API unsigned int bw_verdict(const struct bw_state *st, struct sk_buff *skb,
			       const struct nf_hook_state *hs,
			       const struct bw_decision *d);

/*
 * The same of a decision in parts, so that its caller needs no stack: identities
 * with the initiator's below, and action | class << 8 | log << 16. Context: as above.
 */
BW_API unsigned int bw_verdict_of(const struct bw_state *st, struct sk_buff *skb,
				  const struct nf_hook_state *hs, u64 identities, u32 index,
				  u32 how);

/* The same for an enum bw_reason that decides without the rules. Context: as above. */
BW_API unsigned int bw_verdict_builtin(const struct bw_state *st,
				       struct sk_buff *skb,
				       const struct nf_hook_state *hs,
				       u32 reason);

/*
 * Where containers' namespaces judge: whether the packet passes and its receiver's
 * will judge and count it.
 */
static inline bool bw_counts_later(const struct bw_query *q, const struct bw_decision *d)
{
	return d->action == BW_ACTION_ALLOW && q->side[!q->sender].kind == BW_KIND_GUARDED;
}

#endif /* _BW_VERDICT_H */
