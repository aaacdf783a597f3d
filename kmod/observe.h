/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Mode audit: which rule or default would judge IP that crosses a guarded bridge
 * and that br_netfilter did not hand up.
 */
#ifndef _BW_OBSERVE_H
#define _BW_OBSERVE_H

#include <linux/netfilter.h>
#include <linux/skbuff.h>

#include "api.h"
#include "frame.h"
#include "state.h"

/**
 * bw_observe() - count, log and trace a frame between ports of a guarded bridge.
 * @st: state in force, of mode audit.
 * @skb: at NF_BR_FORWARD; passed on as it came.
 * @hs: of that hook.
 * @f: what the frame carries: BW_FRAME_IP.
 *
 * Fragments other than the first are not counted: where packets are judged, a
 * datagram counts once.
 *
 * Context: any, RCU read-side critical section. Takes no lock.
 */
BW_API void bw_observe(const struct bw_state *st, struct sk_buff *skb,
		       const struct nf_hook_state *hs, const struct bw_frame *f);

#endif /* _BW_OBSERVE_H */
