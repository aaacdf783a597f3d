/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BEGIN, ADD, COMMIT, ABORT; CONFIRM, ROLLBACK, SEAL: what changes the policy.
 */
#ifndef _BW_NL_COMMIT_H
#define _BW_NL_COMMIT_H

#include <net/genetlink.h>

#include "api.h"

BW_API int bw_nl_begin(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_add(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_commit(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_abort(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_confirm(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_roll_back(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_seal(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_COMMIT_H */
