/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A trace's terms: which packets it asks for.
 */
#ifndef _BW_TRACE_TERM_H
#define _BW_TRACE_TERM_H

#include <net/netfilter/nf_conntrack.h>

#include "api.h"
#include "trace_event.h"

struct bw_trace_ends {
	const u8 *from;
	const u8 *to;
	u16 from_port;
	u16 to_port;
};

/* A packet as the terms look at it: its own two ends, and its connection's. */
struct bw_trace_view {
	const struct bw_crossing *c;
	bool host;		/* in the initial namespace */
	u8 n;
	struct bw_trace_ends ends[1 + IP_CT_DIR_MAX];
};

/* The view points into the record and the connection. Context: any. */
BW_API void bw_trace_view_init(struct bw_trace_view *v,
			       const struct bw_crossing *c,
			       const struct nf_conn *ct, bool host);

/* Whether a trace with this term asks for the packet. Context: any. */
BW_API bool bw_term_matches(const struct bw_nl_term *t,
			    const struct bw_trace_view *v);

/* Whether user space may ask for it. Context: any. */
BW_API bool bw_term_is_valid(const struct bw_nl_term *t);

#endif /* _BW_TRACE_TERM_H */
