/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The socket that a transaction or a trace belongs to. A port number does not
 * name it: netlink_release() gives the number back before it calls notifiers, so
 * another socket may have it by then.
 */
#ifndef _BW_OWNER_H
#define _BW_OWNER_H

#include <linux/netlink.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>
#include <net/sock.h>

struct bw_owner {
	struct sock *sk;
	u32 portid;
};

/* The sender of a request. Context: its handler; the reference is the caller's. */
static inline struct bw_owner bw_owner_of(const struct sk_buff *skb,
					  const struct genl_info *info)
{
	return (struct bw_owner) {
		.sk = NETLINK_CB(skb).sk,
		.portid = info->snd_portid,
	};
}

/*
 * A copy that stays valid, and its end: the reference keeps the socket's address
 * from being given to another one. Context: process.
 */
static inline struct bw_owner bw_owner_get(const struct bw_owner *who)
{
	sock_hold(who->sk);
	return *who;
}

static inline void bw_owner_put(struct bw_owner *who)
{
	sock_put(who->sk);
	who->sk = NULL;
}

/* Whether an event of the netlink notifiers is about a socket that could own something. */
static inline bool bw_owner_event(unsigned long event, const struct netlink_notify *n)
{
	return event == NETLINK_URELEASE && n->protocol == NETLINK_GENERIC &&
	       net_eq(n->net, &init_net);
}

/*
 * Whether the socket is the one that is being closed: netlink_release() calls
 * sock_orphan() first. Context: the notifier; who holds its reference.
 */
static inline bool bw_owner_closes(const struct bw_owner *who, const struct netlink_notify *n)
{
	return who->portid == n->portid && sock_flag(who->sk, SOCK_DEAD);
}

#endif /* _BW_OWNER_H */
