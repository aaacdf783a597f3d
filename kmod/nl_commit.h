/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * BEGIN, ADD, COMMIT, ABORT; CONFIRM, ROLLBACK, SEAL: what changes the policy.
 */
#ifndef _BW_NL_COMMIT_H
#define _BW_NL_COMMIT_H

#include <net/genetlink.h>

#include "api.h"

/*
 * Handlers of genetlink. Return 0 or a negative errno with extack's text, and a
 * request that fails has changed nothing. Context: process, may sleep; take
 * bw_txn_mutex, then rtnl and bw_mutex.
 */
BW_API int bw_nl_begin(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_add(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_commit(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_abort(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_confirm(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_roll_back(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_seal(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_COMMIT_H */
