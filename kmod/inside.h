/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Judging inside a container's network namespace: which of its devices are
 * judged there, and the hooks that do it.
 */
#ifndef _BW_INSIDE_H
#define _BW_INSIDE_H

#include <linux/list.h>
#include <net/net_namespace.h>

#include "api.h"

#define BW_INSIDE_DEVS	16	/* judged ones in a namespace */

/* Link and port are those of an endpoint: see struct bw_ep_loc. */
struct bw_net_dev {
	u32 ifindex;	/* 0: unused */
	u32 link;
	u32 port;
};

struct bw_net {
	struct list_head list;
	struct net *net;	/* NULL: has never had a device of a container */
	bool dying;
	bool open;
	u8 conntrack_pf;
	u32 n_dev;		/* slots ever used since it was opened */
	struct bw_net_dev dev[BW_INSIDE_DEVS];
};

/* Of net_generic(). */
BW_API unsigned int bw_net_id;

/*
 * Registers the hooks in a namespace, lists a device in it, and takes both back.
 * -ENOSPC: too many devices. Context: process; rtnl and bw_mutex are held, at
 * the end of a namespace bw_mutex alone.
 */
BW_API int bw_inside_open(struct bw_net *bn);
BW_API int bw_inside_set_dev(struct bw_net *bn, const struct bw_net_dev *at);
BW_API void bw_inside_close(struct bw_net *bn);

/* Namespaces with our hooks in them. Context: bw_mutex is held. */
BW_API u32 bw_inside_count(void);

#endif /* _BW_INSIDE_H */
