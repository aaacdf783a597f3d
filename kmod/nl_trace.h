/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TRACE_BEGIN, TRACE_GET, TRACE_END.
 */
#ifndef _BW_NL_TRACE_H
#define _BW_NL_TRACE_H

#include <net/genetlink.h>

#include "api.h"

/*
 * Handlers of genetlink. Return 0 or a negative errno with extack's text; -ENOENT:
 * this socket has no trace. Context: process, may sleep; they wait for other
 * traces that begin or end.
 */
BW_API int bw_nl_trace_begin(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_trace_get(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_trace_end(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_TRACE_H */
