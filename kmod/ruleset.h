/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a draft to the immutable rules and endpoints that the classifier reads.
 */
#ifndef _BW_RULESET_H
#define _BW_RULESET_H

#include "classify.h"
#include "draft.h"

/*
 * Both expect a draft that bw_draft_check() has passed. Return NULL with the
 * fault filled in. Context: process, may sleep.
 */
BW_API struct bw_rules *bw_rules_build(const struct bw_draft *d,
				       struct bw_fault *f);
BW_API struct bw_endpoints *bw_endpoints_build(const struct bw_draft *d,
					       struct bw_fault *f);
BW_API void bw_rules_free(struct bw_rules *r);
BW_API void bw_endpoints_free(struct bw_endpoints *e);

/*
 * Close, in place and for good, the endpoints on a link or port, those of a
 * child of a link in the namespace with this inode number, or one of them. The
 * first two also close the ports that routed prefixes live behind.
 * Packets may be judged meanwhile. The first two return whether one was open.
 * Context: bw_mutex is held, or the endpoints are not published yet.
 */
BW_API bool bw_endpoints_close_link(struct bw_endpoints *e, u32 ifindex);
BW_API bool bw_endpoints_close_child(struct bw_endpoints *e, u32 link, u32 inum);
BW_API void bw_endpoint_close4(struct bw_endpoints *e, __be32 addr);
BW_API void bw_endpoint_close6(struct bw_endpoints *e, const u8 *addr);

typedef bool bw_ep_test(const struct bw_ep_loc *loc, const void *arg);

/*
 * The number of closed endpoints, and of ports of routed prefixes, that pass the
 * test. One that was committed as unmanaged is closed, too. Costs nothing while
 * none was closed. Context: bw_mutex is held.
 */
BW_API u32 bw_endpoints_count_closed(const struct bw_endpoints *e, bw_ep_test *test,
				     const void *arg);

#endif /* _BW_RULESET_H */
