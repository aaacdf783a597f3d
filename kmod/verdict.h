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

/* Log lines the rate limit has kept back since load. */
u64 bw_log_swallowed(void);

/* Name of the rule, or a word for the built-in reason. */
const char *bw_verdict_by(const struct bw_state *st,
			  const struct bw_decision *d);

/* Whether the number below BW_REASON_MAX stands for a reason. */
bool bw_reason_is_used(u32 reason);

/* Bottom halves must be off, under rcu_read_lock(). */
unsigned int bw_verdict(const struct bw_state *st, struct sk_buff *skb,
			const struct nf_hook_state *hs,
			const struct bw_decision *d);

#endif /* _BW_VERDICT_H */
