/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where packets meet the classifier: LOCAL_IN, FORWARD and POST_ROUTING of the
 * host's network namespace, both families, ahead of everybody else.
 */
#ifndef _BW_HOOK_H
#define _BW_HOOK_H

#include <net/net_namespace.h>

int bw_hook_init(struct net *net);
/* No packet is in a hook any more when it returns. */
void bw_hook_exit(struct net *net);

/* Bits pf * 8 + hook: where our hook runs first, and where it should. */
u32 bw_hook_first(const struct net *net);
u32 bw_hook_expected(void);

#define BW_HOOK_PLACES	6
#define BW_HOOK_TOLD	4	/* of a place */
#define BW_HOOK_WHO_LEN	96

/* Who runs before us, in words; fn must not sleep. */
int bw_hook_tell_ahead(const struct net *net,
		       int (*fn)(const char *who, void *arg), void *arg);

#endif /* _BW_HOOK_H */
