/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The built-in reasons: verdicts that no rule gives, and their names. A
 * decision's index below BW_REASON_MAX is one of them.
 */
#ifndef _BW_REASON_H
#define _BW_REASON_H

#include "state.h"

/* Whether the number stands for a reason; others are kept for later. Context: any. */
BW_API bool bw_reason_is_used(u32 reason);

/* enum bw_action of a reason that no class default stands behind. Context: any. */
static inline u8 bw_reason_action(u32 reason)
{
	return reason == BW_REASON_NEIGHBOUR || reason == BW_REASON_HOST_ERROR ?
	       BW_ACTION_ALLOW : BW_ACTION_DENY;
}

/*
 * Name of the rule, or of the built-in reason, that a decision comes from.
 * Context: any; the name lives as long as the state.
 */
BW_API const char *bw_decision_name(const struct bw_state *st,
				    const struct bw_decision *d);

#endif /* _BW_REASON_H */
