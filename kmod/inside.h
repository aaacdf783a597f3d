/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Judging inside a container's network namespace: which of its devices are
 * listed there, and the hooks that judge at them.
 */
#ifndef _BW_INSIDE_H
#define _BW_INSIDE_H

#include <linux/list.h>
#include <linux/xarray.h>
#include <net/net_namespace.h>

#include "api.h"

/* A listed device. Link and port are those of an endpoint: see struct bw_ep_loc. */
struct bw_inside_dev {
	struct hlist_node by_port;
	struct rcu_head rcu;
	u32 ifindex;
	u32 link;
	u32 port;
	bool judged;	/* by the state in force; else kept for a roll back */
};

/* A network namespace. Our hooks and conntrack are in it while a device is listed. */
struct bw_net {
	struct xarray devs;	/* struct bw_inside_dev by interface number; RCU */
	u32 n_devs;
	struct list_head list;	/* of bw_inside_nets, while a device is listed */
	struct net *net;
	u8 conntrack_pf;
	bool dying;
};

/* Of net_generic(). */
BW_API unsigned int bw_net_id;

/* Namespaces with a listed device, in the order of their first one. bw_mutex. */
BW_API struct list_head bw_inside_nets;

/*
 * Lists a device at its link and port, and registers the hooks with the first
 * one of a namespace. Nothing is allocated for a device that is listed already.
 * Returns 0 or a negative errno; then the device is not listed. A namespace that
 * is ending lists nothing: 0. Context: process; rtnl and bw_mutex are held.
 */
BW_API int bw_inside_list(struct net *net, u32 ifindex, u32 link, u32 port,
			  bool judged);

/*
 * The reverse, if it is listed; the last one takes the hooks with it. Packets may
 * still be in them when it returns. Context: process; rtnl and bw_mutex are held.
 */
BW_API void bw_inside_unlist(struct net *net, u32 ifindex);

/* Unlists all devices of a namespace. Context: process; bw_mutex is held. */
BW_API void bw_inside_close(struct bw_net *bn);

/* Whether a device is listed with this link and port. Context: bw_mutex is held. */
BW_API bool bw_inside_has(u32 link, u32 port);

/* Namespaces with our hooks in them. Context: bw_mutex is held. */
BW_API u32 bw_inside_count(void);

#endif /* _BW_INSIDE_H */
