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

/* The same for an enum bw_reason that decides without the rules. Context: as above. */
BW_API unsigned int bw_verdict_builtin(const struct bw_state *st,
				       struct sk_buff *skb,
				       const struct nf_hook_state *hs,
				       u32 reason);

/*
 * With placement container: whether the packet passes and its receiver's own
 * namespace will judge and count it. What only the sender's namespace can know
 * is decided here, also in audit mode.
 */
static inline bool bw_counts_later(const struct bw_state *st,
				   const struct bw_query *q,
				   const struct bw_decision *d)
{
	if (q->side[!q->sender].kind != BW_KIND_GUARDED)
		return false;
	return d->action == BW_ACTION_ALLOW ||
	       (st->mode == BW_MODE_AUDIT && d->index != BW_REASON_SPOOFED &&
		d->index != BW_REASON_DIRECT);
}

#endif /* _BW_VERDICT_H */
