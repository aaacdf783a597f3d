/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * RULE_GET, ENDPOINT_GET, PREFIX_GET and UNMANAGED_GET: dumps of the state in force, with counters.
 */
#ifndef _BW_NL_DUMP_H
#define _BW_NL_DUMP_H

#include <net/genetlink.h>

#include "api.h"

/*
 * Handlers of genetlink's dumps. Return the length of a part, 0 at the end, or a
 * negative errno; a dump during which what is in force changes is flagged
 * (NLM_F_DUMP_INTR).
 * Context: process; take bw_mutex.
 */
BW_API int bw_nl_dump_rules(struct sk_buff *skb, struct netlink_callback *cb);
BW_API int bw_nl_dump_endpoints(struct sk_buff *skb,
				struct netlink_callback *cb);
BW_API int bw_nl_dump_prefixes(struct sk_buff *skb, struct netlink_callback *cb);
BW_API int bw_nl_dump_unmanaged(struct sk_buff *skb, struct netlink_callback *cb);

#endif /* _BW_NL_DUMP_H */
