/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * RULE_GET and ENDPOINT_GET: dumps of the state in force, with counters.
 */
#ifndef _BW_NL_DUMP_H
#define _BW_NL_DUMP_H

#include <net/genetlink.h>

#include "api.h"

BW_API int bw_nl_dump_rules(struct sk_buff *skb, struct netlink_callback *cb);
BW_API int bw_nl_dump_endpoints(struct sk_buff *skb,
				struct netlink_callback *cb);

#endif /* _BW_NL_DUMP_H */
