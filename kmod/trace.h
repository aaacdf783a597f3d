/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Traces: while one runs, hooks of ours stand first and last at all five places
 * of every network namespace and write an event (trace_event.h) for the packets
 * that it asks for. A trace belongs to the socket that began it and is over when
 * that closes, when its time is up or when it has written its number of events.
 */
#ifndef _BW_TRACE_H
#define _BW_TRACE_H

#include <linux/netfilter.h>
#include <linux/skbuff.h>

#include "owner.h"
#include "state.h"
#include "trace_event.h"

struct bw_trace_request {
	const struct bw_nl_term *term;
	u32 n_term;	/* 0: every packet */
	u32 seconds;
	u32 events;
	u32 rate;	/* events a second */
};

struct bw_trace_report {
	u32 id;
	u32 seconds;	/* left */
	u32 blind;	/* namespaces where the hooks could not be registered */
	u64 reported;
	u64 withheld;	/* by the rate */
	u8 state;	/* enum bw_trace_state */
};

/*
 * Return 0 or a negative errno; begin fills in why where there is more to say.
 * -ENOENT: this socket has no trace. Context: process, may sleep.
 */
BW_API int bw_trace_begin(const struct bw_owner *who,
			  const struct bw_trace_request *request,
			  struct bw_trace_report *r, const char **why);
BW_API int bw_trace_get(const struct bw_owner *who, struct bw_trace_report *r);
BW_API int bw_trace_end(const struct bw_owner *who, struct bw_trace_report *r);

/* How many traces run. Context: process, may sleep. */
BW_API u32 bw_trace_count(void);

/* Whether a hook function is one of a trace's. Context: any. */
BW_API bool bw_trace_is_ours(nf_hookfn *fn);

/*
 * Writes the event of a verdict; call it only where trace_bw_verdict_enabled().
 * Context: as bw_verdict().
 */
BW_API void bw_trace_verdict(const struct bw_state *st,
			     const struct sk_buff *skb,
			     const struct nf_hook_state *hs,
			     const struct bw_decision *d);

/*
 * 0 or a negative errno. No packet is in a hook any more when bw_trace_exit()
 * returns. Context: process, may sleep; loading and unloading only.
 */
BW_API int bw_trace_init(void);
BW_API void bw_trace_exit(void);

#endif /* _BW_TRACE_H */
