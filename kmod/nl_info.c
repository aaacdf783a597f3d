// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reports on the module. The size of a reply is counted before it is written, so
 * what appears in between needs spare room.
 */
#include "commit.h"
#include "guard.h"
#include "hook.h"
#include "inside.h"
#include "lifetime.h"
#include "nl.h"
#include "nl_info.h"
#include "order.h"
#include "state.h"
#include "trace.h"
#include "unmanaged.h"
#include "verdict.h"
#include "version.h"
#include "window.h"

static int bw_nl_put_link(u32 ifindex, void *reply)
{
	return nla_put_u32(reply, BW_ATTR_GUARD_LINK, ifindex);
}

static int bw_nl_put_before(const char *who, void *reply)
{
	return nla_put_string(reply, BW_ATTR_HOOK_AHEAD, who);
}

static int bw_nl_count_link(u32 ifindex, void *count)
{
	++*(u32 *)count;
	return 0;
}

static int bw_nl_put_state(struct sk_buff *reply, const struct bw_state *st)
{
	const struct bw_rules *r = st->rules;
	const struct bw_endpoints *e = st->endpoints;
	u32 i;

	if (nla_put_u8(reply, BW_ATTR_MODE, st->mode) ||
	    nla_put_u8(reply, BW_ATTR_PLACEMENT, st->placement) ||
	    nla_put_u16(reply, BW_ATTR_LOG_GROUP, st->log_group) ||
	    nla_put_u8(reply, BW_ATTR_LOG_DEFAULTS, st->log_defaults) ||
	    nla_put(reply, BW_ATTR_DEFAULTS, sizeof(r->defaults), r->defaults) ||
	    nla_put(reply, BW_ATTR_POLICY_DIGEST, BW_DIGEST_LEN, st->policy_digest) ||
	    nla_put(reply, BW_ATTR_RULESET_DIGEST, BW_DIGEST_LEN, st->ruleset_digest) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_IDENTITIES, r->n_identity) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_CELLS, r->n_cell4 + r->n_cell6) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_ENDPOINTS, e->n_v4 + e->n_v6) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_RETURNED, bw_commit_count_returned(st)) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_PUBLISH, e->n_published) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_RULES, r->n_rule) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_PAIRS, r->n_pair) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_PREFIXES,
			e->routed.n_prefix4 + e->routed.n_prefix6) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_BEHIND, e->routed.n_port))
		return -EMSGSIZE;
	for (i = 0; i < st->guards.n; i++)
		if (nla_put_string(reply, BW_ATTR_GUARD, st->guards.pattern[i]))
			return -EMSGSIZE;
	for (i = 0; i < st->parents.n; i++)
		if (nla_put_string(reply, BW_ATTR_PARENT, st->parents.pattern[i]))
			return -EMSGSIZE;
	return 0;
}

static int bw_nl_put_info(struct sk_buff *reply, u32 traces)
{
	const struct bw_state *st = bw_state_locked();
	u32 left = bw_window_remaining();

	if (nla_put_string(reply, BW_ATTR_VERSION, BW_VERSION) ||
	    nla_put_u64_64bit(reply, BW_ATTR_GENERATION, bw_state_generation(st),
			      BW_ATTR_PAD) ||
	    nla_put_u32(reply, BW_ATTR_HOOKS_FIRST, bw_order_first(&init_net)) ||
	    nla_put_u32(reply, BW_ATTR_HOOKS_EXPECTED, bw_order_expected()) ||
	    nla_put_u64_64bit(reply, BW_ATTR_LOG_SWALLOWED, bw_log_swallowed(),
			      BW_ATTR_PAD) ||
	    nla_put_u64_64bit(reply, BW_ATTR_UNMANAGED_LOST, bw_unmanaged_lost(),
			      BW_ATTR_PAD) ||
	    bw_order_report_before(&init_net, bw_nl_put_before, reply) ||
	    (bw_sealed() && nla_put_flag(reply, BW_ATTR_SEALED)) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_NAMESPACES, bw_inside_count()) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_TRACES, traces) ||
	    (left && nla_put_u32(reply, BW_ATTR_CONFIRM_REMAINING, left)) ||
	    (st && bw_nl_put_state(reply, st)))
		return -EMSGSIZE;
	return bw_guard_for_each(bw_nl_put_link, reply);
}

#define BW_INFO_SIZE	(NLMSG_DEFAULT_SIZE + 2 * BW_MAX_GUARDS * (NLA_HDRLEN + BW_GUARD_LEN) + \
			 BW_HOOK_PLACES * BW_ORDER_REPORTED * (NLA_HDRLEN + BW_ORDER_NAME_LEN))
#define BW_INFO_SPARE	64	/* links that appear before the answer is written */

int bw_nl_info(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	u32 links = 0, traces;
	void *header;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	traces = bw_trace_count();
	mutex_lock(&bw_mutex);
	bw_guard_for_each(bw_nl_count_link, &links);
	mutex_unlock(&bw_mutex);
	reply = bw_nl_reply_new(info, BW_INFO_SIZE + (links + BW_INFO_SPARE) *
				nla_total_size(sizeof(u32)), &header);
	if (!reply)
		return -ENOMEM;
	mutex_lock(&bw_mutex);
	err = bw_nl_put_info(reply, traces);
	mutex_unlock(&bw_mutex);
	return bw_nl_reply_send(info, reply, header, err);
}

/* Hooks of any namespace. */

static int bw_nl_count_hook(const struct bw_nl_hook *who, void *count)
{
	++*(u32 *)count;
	return 0;
}

static int bw_nl_put_hook(const struct bw_nl_hook *who, void *reply)
{
	return nla_put(reply, BW_ATTR_HOOK, sizeof(*who), who);
}

#define BW_HOOKS_SPARE	16	/* that appear before the answer is written */

static int bw_nl_hooks_reply(struct genl_info *info, const struct net *net)
{
	struct sk_buff *reply;
	u32 hooks = 0;
	void *header;

	bw_order_for_each(net, bw_nl_count_hook, &hooks);
	reply = bw_nl_reply_new(info, (hooks + BW_HOOKS_SPARE) *
				nla_total_size(sizeof(struct bw_nl_hook)), &header);
	if (!reply)
		return -ENOMEM;
	return bw_nl_reply_send(info, reply, header,
				bw_order_for_each(net, bw_nl_put_hook, reply));
}

int bw_nl_hooks(struct sk_buff *skb, struct genl_info *info)
{
	const struct nlattr *fd = info->attrs[BW_ATTR_NETNS_FD];
	struct net *net;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	if (!fd)
		return bw_nl_hooks_reply(info, &init_net);
	net = get_net_ns_by_fd(nla_get_u32(fd));
	if (IS_ERR(net)) {
		NL_SET_ERR_MSG_ATTR(info->extack, fd,
				    "not the open file of a network namespace");
		return PTR_ERR(net);
	}
	err = bw_nl_hooks_reply(info, net);
	put_net(net);
	return err;
}
