/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * INFO_GET and HOOK_GET: the module and its place among other hooks.
 */
#ifndef _BW_NL_INFO_H
#define _BW_NL_INFO_H

#include <net/genetlink.h>

#include "api.h"

/*
 * Handlers of genetlink. Return 0 or a negative errno. Context: process, may
 * sleep; take bw_mutex.
 */
BW_API int bw_nl_info(struct sk_buff *skb, struct genl_info *info);
BW_API int bw_nl_hooks(struct sk_buff *skb, struct genl_info *info);

#endif /* _BW_NL_INFO_H */
