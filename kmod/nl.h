/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What every command of the generic netlink family needs: the family, who may
 * ask, which attributes a request may hold, replies, and error texts.
 */
#ifndef _BW_NL_H
#define _BW_NL_H

#include <net/genetlink.h>

#include "draft.h"

BW_API struct genl_family bw_nl_family;

/*
 * Whether the sender is root of the initial user namespace. Context: process, a
 * handler of the family, here and below.
 */
BW_API bool bw_nl_is_privileged(const struct sk_buff *skb);

/*
 * Every handler calls it first. Returns 0, -EPERM or -EINVAL with extack's text.
 * Context: process.
 */
BW_API int bw_nl_admit(const struct sk_buff *skb, struct genl_info *info);

/* Turns a fault into extack's text. Returns its errno. Context: process. */
BW_API int bw_nl_report(struct netlink_ext_ack *extack,
			const struct bw_fault *f);

/*
 * bw_nl_reply_new() returns NULL without memory. bw_nl_reply_send() frees the
 * reply and returns err if there is one. Context: process, may sleep.
 */
BW_API struct sk_buff *bw_nl_reply_new(struct genl_info *info, size_t size,
				       void **header);
BW_API int bw_nl_reply_send(struct genl_info *info, struct sk_buff *reply,
			    void *header, int err);

#endif /* _BW_NL_H */
