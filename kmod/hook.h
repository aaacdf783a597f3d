/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where packets meet the classifier: LOCAL_IN and FORWARD (or POST_ROUTING) of
 * the host's network namespace ahead of everybody else, LOCAL_OUT behind
 * everybody else; both families.
 */
#ifndef _BW_HOOK_H
#define _BW_HOOK_H

#include <linux/netfilter.h>
#include <net/net_namespace.h>

#include "state.h"

/*
 * Registers the hooks that every placement has; 0 or a negative errno, and then
 * none is left. No packet is in a hook any more when bw_hook_exit() returns.
 * Context: process, may sleep; loading and unloading only.
 */
BW_API int bw_hook_init(struct net *net);
BW_API void bw_hook_exit(struct net *net);

/*
 * Hooks that only some placement needs: registered before a state that wants
 * them, or an error; unregistered when neither the state nor the saved one
 * does. Context: process; bw_mutex is held, here and below.
 */
BW_API int bw_hook_add_needed(const struct bw_state *st);
BW_API void bw_hook_drop_unneeded(const struct bw_state *st,
				  const struct bw_state *saved);

#define BW_HOOK_PLACES	8

/* Those that are registered now: the first n of an array. Context: bw_mutex is held. */
BW_API const struct nf_hook_ops *bw_hook_registered(u32 *n);

/* Whether a hook function is one of this module's in the host. Context: any. */
BW_API bool bw_hook_is_ours(nf_hookfn *fn);

/*
 * Changing the local ports that the host's own traffic is looked at for takes two
 * steps, before and after a state gets into force. NULL: no state. Context: process;
 * bw_mutex is held.
 */
BW_API void bw_hook_add_ports(const struct bw_state *st);
BW_API void bw_hook_drop_ports(const struct bw_state *st);

#endif /* _BW_HOOK_H */
