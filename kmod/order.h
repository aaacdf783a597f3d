/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Which functions run at a netfilter hook, and in which order: ours and those of
 * others, in any network namespace. Only reads.
 */
#ifndef _BW_ORDER_H
#define _BW_ORDER_H

#include <linux/netfilter.h>
#include <net/net_namespace.h>

#include "api.h"
#include "uapi/bridgewarden.h"

/*
 * All functions at all hooks. fn must not sleep; an error of it ends the walk and
 * is returned. Context: process; enters an RCU read-side critical section.
 */
BW_API int bw_order_for_each(const struct net *net,
			     int (*fn)(const struct bw_nl_hook *hook, void *arg),
			     void *arg);

/*
 * Bits pf * 8 + hook: where our hook of the host runs first (at LOCAL_OUT:
 * last), and where it should. Context: bw_mutex is held, here and below.
 */
BW_API u32 bw_order_first(const struct net *net);
BW_API u32 bw_order_expected(void);

#define BW_ORDER_REPORTED	4	/* at most, of each hook */
#define BW_ORDER_NAME_LEN	96

/*
 * What runs before us (at LOCAL_OUT: behind us), as text. fn must not sleep; an
 * error of it ends the walk and is returned. Context: bw_mutex is held.
 */
BW_API int bw_order_report_before(const struct net *net,
				  int (*fn)(const char *name, void *arg),
				  void *arg);

#endif /* _BW_ORDER_H */
