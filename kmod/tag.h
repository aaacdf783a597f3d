/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VLAN 0: a tag that names no VLAN. Receivers look past it, br_netfilter does
 * not, so that it would carry a frame past every hook.
 */
#ifndef _BW_TAG_H
#define _BW_TAG_H

#include <net/net_namespace.h>

#include "api.h"

BW_API int bw_tag_init(struct net *net);
/* No frame is in the hook any more when it returns. */
BW_API void bw_tag_exit(struct net *net);

#endif /* _BW_TAG_H */
