// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names of built-in reasons, as log lines and traces have them. User space parses
 * them: they must never change.
 */
#include "reason.h"

static const char *const bw_reason_words[BW_REASON_MAX] = {
	[BW_REASON_DEFAULT_INGRESS ... BW_REASON_DEFAULT_HOST_INGRESS] = "default",
	[BW_REASON_UNMANAGED] = "unmanaged",
	[BW_REASON_SPOOFED] = "spoofed",
	[BW_REASON_INVALID] = "invalid",
	[BW_REASON_MALFORMED] = "malformed",
	[BW_REASON_DIRECT] = "direct",
	[BW_REASON_NEIGHBOUR] = "neighbour",
	[BW_REASON_HOST_ERROR] = "host_error",
	[BW_REASON_CLOSED] = "closed",
	[BW_REASON_BARE_PORT] = "bare_port",
	[BW_REASON_BARE_PORT_NEIGHBOUR] = "bare_port_neighbour",
	[BW_REASON_UNSEEN] = "unseen",
	[BW_REASON_UNPLACED] = "unplaced",
};

bool bw_reason_is_used(u32 reason)
{
	return reason < BW_REASON_MAX && bw_reason_words[reason];
}

const char *bw_decision_name(const struct bw_state *st,
			     const struct bw_decision *d)
{
	return d->index >= BW_REASON_MAX ?
	       st->rules->rule[d->index - BW_REASON_MAX].name :
	       bw_reason_words[d->index];
}
