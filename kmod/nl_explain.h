/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * EXPLAIN: the verdict for a packet that does not exist, from the same classifier
 * that judges those that do.
 */
#ifndef _BW_NL_EXPLAIN_H
#define _BW_NL_EXPLAIN_H

#include <net/genetlink.h>

#include "api.h"

/*
 * Handler of genetlink. Returns 0 or a negative errno with extack's text. Context:
 * process, may sleep; takes bw_mutex.
 */
BW_API int bw_nl_explain(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_EXPLAIN_H */
