/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The verdict for a packet that does not exist: the same classifier that judges
 * those that do.
 */
#ifndef _BW_EXPLAIN_H
#define _BW_EXPLAIN_H

#include <net/genetlink.h>

/* Reads the question from a request and puts the answer into a reply. */
int bw_explain(struct genl_info *info, struct sk_buff *reply);

#endif /* _BW_EXPLAIN_H */
