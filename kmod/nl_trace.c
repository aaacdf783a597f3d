// SPDX-License-Identifier: GPL-2.0-only
/*
 * From attributes to a trace's request, and from its report to attributes.
 */
#include "nl.h"
#include "nl_trace.h"
#include "trace.h"

static u32 bw_nl_get_u32(const struct genl_info *info, int attr, u32 absent)
{
	return info->attrs[attr] ? nla_get_u32(info->attrs[attr]) : absent;
}

static int bw_nl_trace_request_read(struct genl_info *info, struct bw_trace_request *request)
{
	const struct nlattr *terms = info->attrs[BW_ATTR_TRACE_TERM];

	request->seconds = bw_nl_get_u32(info, BW_ATTR_TRACE_SECONDS, 60);
	request->events = bw_nl_get_u32(info, BW_ATTR_TRACE_EVENTS, 100000);
	request->rate = bw_nl_get_u32(info, BW_ATTR_TRACE_RATE, 5000);
	if (!request->seconds || request->seconds > BW_MAX_TRACE_SECONDS ||
	    !request->events || request->events > BW_MAX_TRACE_EVENTS ||
	    !request->rate || request->rate > BW_MAX_TRACE_RATE) {
		NL_SET_ERR_MSG(info->extack,
			       "a trace takes 1 to 3600 seconds, 1 to 10000000 events, 1 to 1000000 a second");
		return -ERANGE;
	}
	if (!terms)
		return 0;
	if (!nla_len(terms) || nla_len(terms) % sizeof(*request->term)) {
		NL_SET_ERR_MSG_ATTR(info->extack, terms,
				    "not a whole number of terms");
		return -EINVAL;
	}
	request->term = nla_data(terms);
	request->n_term = nla_len(terms) / sizeof(*request->term);
	return 0;
}

static int bw_nl_put_trace(struct sk_buff *reply, const struct bw_trace_report *r)
{
	if (nla_put_u32(reply, BW_ATTR_TRACE_ID, r->id) ||
	    nla_put_u8(reply, BW_ATTR_TRACE_STATE, r->state) ||
	    nla_put_u32(reply, BW_ATTR_TRACE_SECONDS, r->seconds) ||
	    nla_put_u32(reply, BW_ATTR_TRACE_BLIND, r->blind) ||
	    nla_put_u64_64bit(reply, BW_ATTR_TRACE_REPORTED, r->reported,
			      BW_ATTR_PAD) ||
	    nla_put_u64_64bit(reply, BW_ATTR_TRACE_WITHHELD, r->withheld,
			      BW_ATTR_PAD))
		return -EMSGSIZE;
	return 0;
}

static int bw_nl_trace_reply(struct sk_buff *skb, struct genl_info *info,
			     int (*fn)(const struct bw_owner *who, struct genl_info *info,
				       struct bw_trace_report *r))
{
	struct bw_owner who = bw_owner_of(skb, info);
	struct bw_trace_report r;
	struct sk_buff *reply;
	void *header;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	reply = bw_nl_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	err = fn(&who, info, &r);
	if (!err)
		err = bw_nl_put_trace(reply, &r);
	else if (err == -ENOENT)
		NL_SET_ERR_MSG(info->extack, "this socket has no trace");
	return bw_nl_reply_send(info, reply, header, err);
}

static int bw_nl_trace_do_begin(const struct bw_owner *who, struct genl_info *info,
				struct bw_trace_report *r)
{
	struct bw_trace_request request = {};
	const char *why = NULL;
	int err;

	err = bw_nl_trace_request_read(info, &request);
	if (err)
		return err;
	err = bw_trace_begin(who, &request, r, &why);
	if (why && info->extack)
		info->extack->_msg = why;
	return err;
}

static int bw_nl_trace_do_get(const struct bw_owner *who, struct genl_info *info,
			      struct bw_trace_report *r)
{
	return bw_trace_get(who, r);
}

static int bw_nl_trace_do_end(const struct bw_owner *who, struct genl_info *info,
			      struct bw_trace_report *r)
{
	return bw_trace_end(who, r);
}

int bw_nl_trace_begin(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_trace_reply(skb, info, bw_nl_trace_do_begin);
}

int bw_nl_trace_get(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_trace_reply(skb, info, bw_nl_trace_do_get);
}

int bw_nl_trace_end(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_trace_reply(skb, info, bw_nl_trace_do_end);
}
