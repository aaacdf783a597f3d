/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VLAN 0: a tag that names no VLAN. Receivers look past it, br_netfilter does
 * not, so that it would carry a frame past every hook.
 */
#ifndef _BW_TAG_H
#define _BW_TAG_H

#include <net/net_namespace.h>

#include "api.h"

/*
 * Registers the hook: 0 or a negative errno. No frame is in it any more when
 * bw_tag_exit() returns. Context: process, may sleep; loading and unloading only.
 */
BW_API int bw_tag_init(struct net *net);
BW_API void bw_tag_exit(struct net *net);

#endif /* _BW_TAG_H */
