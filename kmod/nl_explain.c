// SPDX-License-Identifier: GPL-2.0-only
/*
 * EXPLAIN. Builds a query from attributes as the hooks build it from a packet;
 * must never judge by anything but the classifier, and counts nothing.
 */
#include "nl.h"
#include "nl_explain.h"
#include "state.h"

static int bw_explain_address(struct genl_info *info, int attr, u8 family,
			      struct bw_party *p)
{
	const struct nlattr *nla = info->attrs[attr];
	size_t len = family == AF_INET ? 4 : 16;

	if (nla_len(nla) != len) {
		NL_SET_ERR_MSG_ATTR(info->extack, nla,
				    "address does not fit the family");
		return -EINVAL;
	}
	memcpy(&p->addr, nla_data(nla), len);
	p->family = family;
	return 0;
}

static int bw_explain_query(struct genl_info *info, struct bw_query *q)
{
	static const u16 needed[] = {
		BW_ATTR_FAMILY, BW_ATTR_PROTO, BW_ATTR_FROM_ADDR,
		BW_ATTR_TO_ADDR, BW_ATTR_FROM_KIND, BW_ATTR_TO_KIND,
	};
	struct nlattr **attrs = info->attrs;
	struct bw_party *from = &q->side[BW_INITIATOR];
	struct bw_party *to = &q->side[BW_RESPONDER];
	u8 family;
	u32 i;

	for (i = 0; i < ARRAY_SIZE(needed); i++)
		if (!attrs[needed[i]]) {
			NL_SET_ERR_MSG(info->extack,
				       "family, proto, addresses and kinds are all needed");
			return -EINVAL;
		}
	family = nla_get_u8(attrs[BW_ATTR_FAMILY]);
	if (family != AF_INET && family != AF_INET6) {
		NL_SET_ERR_MSG_ATTR(info->extack, attrs[BW_ATTR_FAMILY],
				    "unknown address family");
		return -EAFNOSUPPORT;
	}
	if (bw_explain_address(info, BW_ATTR_FROM_ADDR, family, from) ||
	    bw_explain_address(info, BW_ATTR_TO_ADDR, family, to))
		return -EINVAL;
	from->kind = nla_get_u8(attrs[BW_ATTR_FROM_KIND]);
	to->kind = nla_get_u8(attrs[BW_ATTR_TO_KIND]);
	q->service = bw_service(nla_get_u8(attrs[BW_ATTR_PROTO]),
				attrs[BW_ATTR_PORT] ?
				nla_get_u16(attrs[BW_ATTR_PORT]) : 0);
	q->sender = BW_NOBODY;
	q->flags = nla_get_flag(attrs[BW_ATTR_DIRECT]) ? BW_Q_DIRECT : 0;
	return 0;
}

static int bw_explain_put(struct sk_buff *reply, const struct bw_state *st,
			  const struct bw_decision *d)
{
	const struct bw_nl_rule *rule = NULL;

	if (d->index >= BW_REASON_MAX)
		rule = &st->rules->rule[d->index - BW_REASON_MAX];
	if (nla_put_u64_64bit(reply, BW_ATTR_GENERATION, st->generation,
			      BW_ATTR_PAD) ||
	    nla_put_u8(reply, BW_ATTR_MODE, st->mode) ||
	    nla_put_u8(reply, BW_ATTR_CLASS, d->class) ||
	    nla_put_u8(reply, BW_ATTR_ACTION, d->action) ||
	    nla_put_u32(reply, BW_ATTR_RULE_INDEX, d->index) ||
	    nla_put_u32(reply, BW_ATTR_FROM_IDENTITY, d->identity[0]) ||
	    nla_put_u32(reply, BW_ATTR_TO_IDENTITY, d->identity[1]))
		return -EMSGSIZE;
	if (rule && (nla_put_string(reply, BW_ATTR_RULE_NAME, rule->name) ||
		     nla_put_u64_64bit(reply, BW_ATTR_RULE_KEY, rule->key,
				       BW_ATTR_PAD)))
		return -EMSGSIZE;
	return 0;
}

static int bw_explain(struct genl_info *info, struct sk_buff *reply)
{
	const struct bw_state *st;
	struct bw_query q = {};
	struct bw_decision d;
	int err;

	err = bw_explain_query(info, &q);
	if (err)
		return err;
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	if (!st) {
		NL_SET_ERR_MSG(info->extack, "no ruleset is in force");
		err = -ENOENT;
		goto out;
	}
	/* As at LOCAL_IN. */
	if (q.side[BW_RESPONDER].kind == BW_KIND_HOST)
		bw_published_resolve(st->endpoints, &q);
	bw_classify(st->rules, st->endpoints, &q, &d);
	if (d.class == BW_CLASS_NONE) {
		NL_SET_ERR_MSG(info->extack,
			       "not judged: no guarded link and no traffic to the host takes part");
		err = -EINVAL;
		goto out;
	}
	if (st->closed) {
		d.index = BW_REASON_CLOSED;
		d.action = BW_ACTION_DENY;
	}
	err = bw_explain_put(reply, st, &d);
out:
	mutex_unlock(&bw_mutex);
	return err;
}

int bw_nl_explain(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	void *header;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	reply = bw_nl_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	return bw_nl_reply_send(info, reply, header, bw_explain(info, reply));
}
