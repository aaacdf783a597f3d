/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TRACE_BEGIN, TRACE_GET, TRACE_END.
 */
#ifndef _BW_NL_TRACE_H
#define _BW_NL_TRACE_H

#include <net/genetlink.h>

#include "api.h"

BW_API int bw_nl_trace_begin(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_trace_get(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_trace_end(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_TRACE_H */
