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

int bw_hook_init(struct net *net);
/* No packet is in a hook any more when it returns. */
void bw_hook_exit(struct net *net);

/*
 * Hooks that only some placement needs: there before a state that wants them,
 * or an error; and gone when neither the state nor what a roll back would
 * restore does. bw_mutex, here and below.
 */
int bw_hook_open(const struct bw_state *st);
void bw_hook_keep(const struct bw_state *st, const struct bw_state *spare);

/*
 * Bits pf * 8 + hook: where our hook runs first (at LOCAL_OUT: last), and where
 * it should.
 */
u32 bw_hook_first(const struct net *net);
u32 bw_hook_expected(void);

bool bw_hook_is_ours(nf_hookfn *fn);

#define BW_HOOK_PLACES	8
#define BW_HOOK_TOLD	4	/* of a place */
#define BW_HOOK_WHO_LEN	96

/* Who runs before us (at LOCAL_OUT: behind us), in words; fn must not sleep. */
int bw_hook_tell_ahead(const struct net *net,
		       int (*fn)(const char *who, void *arg), void *arg);

/* A kernel without the bridge family has no bridged traffic to judge. */
#define BW_BRIDGE_FAMILY	IS_ENABLED(CONFIG_NETFILTER_FAMILY_BRIDGE)

#define BW_HOOK(family, place, order, function) {	\
	.hook = function,				\
	.pf = family,					\
	.hooknum = place,				\
	.priority = order,				\
}

/*
 * Hooks, and conntrack for them. conntrack_pf is what conntrack was asked for:
 * IPv4 alone where there is no IPv6.
 */
int bw_hook_register(struct net *net, const struct nf_hook_ops *ops,
		     unsigned int n, u8 *conntrack_pf);
/* Packets may still be in a hook when it returns. */
void bw_hook_unregister(struct net *net, const struct nf_hook_ops *ops,
			unsigned int n, u8 conntrack_pf);

/* For those that judge packets. */

static inline void bw_stand(struct bw_party *p, u8 kind, u32 link, u32 port)
{
	p->kind = kind;
	p->link = link;
	p->port = port;
}

/* The side of the packet's sender, and the other one. */
static inline struct bw_party *bw_sender(struct bw_query *q)
{
	return &q->side[q->sender];
}

static inline struct bw_party *bw_receiver(struct bw_query *q)
{
	return &q->side[!q->sender];
}

/*
 * With placement container: whether the packet passes and its receiver's own
 * namespace will judge and count it. What only the sender's place can know is
 * told here, also in audit mode.
 */
static inline bool bw_counts_later(const struct bw_state *st,
				   const struct bw_query *q,
				   const struct bw_decision *d)
{
	if (q->side[!q->sender].kind != BW_KIND_GUARDED)
		return false;
	return d->action == BW_ACTION_ALLOW ||
	       (st->mode == BW_MODE_AUDIT && d->index != BW_REASON_SPOOFED &&
		d->index != BW_REASON_DIRECT);
}

unsigned int bw_builtin(const struct bw_state *st, struct sk_buff *skb,
			const struct nf_hook_state *hs, u32 reason);

#endif /* _BW_HOOK_H */
