// SPDX-License-Identifier: GPL-2.0-only
/*
 * Dumps. Each message takes the lock anew and goes on at cb->args[0]; a commit, a
 * roll back, or an endpoint that closes in between is flagged, so that the reader
 * starts again.
 */
#include "guard.h"
#include "lock.h"
#include "memo.h"
#include "nl.h"
#include "nl_dump.h"
#include "reason.h"
#include "state.h"
#include "unmanaged.h"

static int bw_nl_dump(struct sk_buff *skb, struct netlink_callback *cb,
		      int (*put)(struct sk_buff *skb, struct netlink_callback *cb,
				 const struct bw_state *st))
{
	const struct bw_state *st;

	if (!bw_nl_is_privileged(cb->skb))
		return -EPERM;
	if (nlmsg_attrlen(cb->nlh, GENL_HDRLEN))
		return -EINVAL;
	mutex_lock(&bw_exchange_mutex);
	st = bw_state_locked();
	/*
	 * A change in between flags the dump as interrupted: read it again. Not by
	 * the generation, which a commit and its roll back leave as it was. Odd,
	 * because 0 would mean that there is nothing to compare with.
	 */
	cb->seq = 2 * bw_epoch + 1;
	if (st)
		while (!put(skb, cb, st))
			cb->args[0]++;
	mutex_unlock(&bw_exchange_mutex);
	return skb->len;
}

static void *bw_nl_dump_header(struct sk_buff *skb, struct netlink_callback *cb,
			       u8 cmd)
{
	void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid,
				   cb->nlh->nlmsg_seq, &bw_nl_family,
				   NLM_F_MULTI, cmd);

	if (header)
		genl_dump_check_consistent(cb, header);
	return header;
}

static u8 bw_builtin_action(const struct bw_state *st, u32 reason)
{
	return reason < __BW_CLASS_MAX ? st->rules->defaults[reason] :
					 bw_reason_action(reason);
}

static int bw_nl_put_rule_attrs(struct sk_buff *skb, const struct bw_state *st,
				u32 index)
{
	struct bw_total total = bw_counters_total(st->counters, index);
	const struct bw_nl_rule *rule = NULL;
	u8 action;

	if (index >= BW_REASON_MAX)
		rule = &st->rules->rule[index - BW_REASON_MAX];
	action = rule ? rule->action : bw_builtin_action(st, index);
	if (nla_put_u32(skb, BW_ATTR_RULE_INDEX, index) ||
	    nla_put_u8(skb, BW_ATTR_ACTION, action) ||
	    nla_put_u64_64bit(skb, BW_ATTR_PACKETS, total.packets, BW_ATTR_PAD) ||
	    nla_put_u64_64bit(skb, BW_ATTR_BYTES, total.bytes, BW_ATTR_PAD))
		return -EMSGSIZE;
	if (rule && (nla_put_u64_64bit(skb, BW_ATTR_RULE_KEY, rule->key, BW_ATTR_PAD) ||
		     nla_put_string(skb, BW_ATTR_RULE_NAME, rule->name)))
		return -EMSGSIZE;
	if (action == BW_ACTION_QUEUE &&
	    (nla_put_u16(skb, BW_ATTR_QUEUE_NUM, rule->queue) ||
	     nla_put_u16(skb, BW_ATTR_QUEUE_COUNT, rule->queues) ||
	     (rule->flags & BW_RULE_F_BYPASS &&
	      nla_put_flag(skb, BW_ATTR_QUEUE_BYPASS))))
		return -EMSGSIZE;
	return 0;
}

static int bw_nl_put_rule(struct sk_buff *skb, struct netlink_callback *cb,
			  const struct bw_state *st)
{
	u32 index = cb->args[0];
	void *header;

	if (index >= BW_REASON_MAX + st->rules->n_rule)
		return -ENOENT;
	/* Numbers no reason has yet. */
	if (index < BW_REASON_MAX && !bw_reason_is_used(index))
		return 0;
	header = bw_nl_dump_header(skb, cb, BW_CMD_RULE_GET);
	if (!header)
		return -EMSGSIZE;
	if (bw_nl_put_rule_attrs(skb, st, index)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

/* Slot i of both tables, IPv4 first: 0 unused, else the address's length. */
static int bw_nl_endpoint_at(const struct bw_endpoints *e, u32 i,
			     const void **addr, const struct bw_ep_loc **loc)
{
	const struct bw_ep4 *v4 = e->v4.slots;
	const struct bw_ep6 *v6 = e->v6.slots;

	if (i <= e->v4.mask) {
		*addr = &v4[i].addr;
		*loc = &v4[i].loc;
		return v4[i].addr ? 4 : 0;
	}
	i -= e->v4.mask + 1;
	if (i > e->v6.mask)
		return -ENOENT;
	*addr = v6[i].addr;
	*loc = &v6[i].loc;
	return v6[i].used ? 16 : 0;
}

static int bw_nl_put_endpoint(struct sk_buff *skb, struct netlink_callback *cb,
			      const struct bw_state *st)
{
	const struct bw_ep_loc *loc;
	const void *addr;
	void *header;
	int len;

	len = bw_nl_endpoint_at(st->endpoints, cb->args[0], &addr, &loc);
	if (len <= 0)
		return len;
	header = bw_nl_dump_header(skb, cb, BW_CMD_ENDPOINT_GET);
	if (!header)
		return -EMSGSIZE;
	if (nla_put(skb, BW_ATTR_ADDR, len, addr) ||
	    nla_put_u32(skb, BW_ATTR_IDENTITY, READ_ONCE(loc->identity)) ||
	    nla_put_u32(skb, BW_ATTR_LINK, loc->link) ||
	    nla_put_u32(skb, BW_ATTR_LINK_PORT, loc->port)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

/* Prefix i of both families, IPv4 first: the length of its address; 0: no more. */
static int bw_nl_prefix_at(const struct bw_routed *r, u32 i, const void **addr, u32 *length,
			   u32 *identity, u32 *set)
{
	const struct bw_nl_prefix6 *p6;
	const struct bw_nl_prefix4 *p4;

	if (i < r->n_prefix4) {
		p4 = &r->prefix4[i];
		*addr = &p4->addr;
		*length = p4->length;
		*identity = p4->identity;
		*set = p4->set;
		return 4;
	}
	i -= r->n_prefix4;
	if (i >= r->n_prefix6)
		return 0;
	p6 = &r->prefix6[i];
	*addr = p6->addr;
	*length = p6->length;
	*identity = p6->identity;
	*set = p6->set;
	return 16;
}

static int bw_nl_put_behind(struct sk_buff *skb, struct netlink_callback *cb,
			    const struct bw_routed *r, u32 i)
{
	const struct bw_routed_port *p = r->ports.slots;
	void *header;

	if (!p || i > r->ports.mask)
		return -ENOENT;
	p += i;
	if (!p->set || bw_routed_is_sum(p) || !READ_ONCE(p->open))
		return 0;
	header = bw_nl_dump_header(skb, cb, BW_CMD_PREFIX_GET);
	if (!header)
		return -EMSGSIZE;
	if (nla_put_u32(skb, BW_ATTR_PREFIX_SET, p->set - 1) ||
	    nla_put_u32(skb, BW_ATTR_LINK, p->link) ||
	    nla_put_u32(skb, BW_ATTR_LINK_PORT, p->port)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

static int bw_nl_put_prefix(struct sk_buff *skb, struct netlink_callback *cb,
			    const struct bw_state *st)
{
	const struct bw_routed *r = &st->endpoints->routed;
	u32 length, identity, set;
	const void *addr;
	void *header;
	int len;

	len = bw_nl_prefix_at(r, cb->args[0], &addr, &length, &identity, &set);
	if (!len)
		return bw_nl_put_behind(skb, cb, r, cb->args[0] - r->n_prefix4 - r->n_prefix6);
	header = bw_nl_dump_header(skb, cb, BW_CMD_PREFIX_GET);
	if (!header)
		return -EMSGSIZE;
	if (nla_put(skb, BW_ATTR_ADDR, len, addr) ||
	    nla_put_u8(skb, BW_ATTR_PREFIX_LENGTH, length) ||
	    nla_put_u32(skb, BW_ATTR_IDENTITY, identity) ||
	    nla_put_u32(skb, BW_ATTR_PREFIX_SET, set)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

static bool bw_nl_is_judged(const struct bw_state *st, u32 link)
{
	const struct net_device *dev;
	bool judged;

	rcu_read_lock();
	dev = dev_get_by_index_rcu(&init_net, link);
	judged = dev && (bw_guard_matches(&st->guards, dev) ||
			 (bw_state_judges_inside(st) && bw_guard_matches(&st->parents, dev)));
	rcu_read_unlock();
	return judged;
}

/* Whether it has become known since, or is behind no guard any more. */
static bool bw_nl_is_settled(const struct bw_state *st, const struct bw_unmanaged *u)
{
	const struct bw_endpoints *e = st->endpoints;
	const struct bw_ep_loc *loc = bw_ep_find(e, u->family, &u->addr);
	u32 id;

	if (!bw_nl_is_judged(st, u->link))
		return true;
	if (loc)
		return READ_ONCE(loc->identity) != BW_ID_UNMANAGED;
	return bw_routed_look(&e->routed, u->family, &u->addr, u->link, u->port, &id) ==
	       BW_ROUTED_HERE;
}

static int bw_nl_put_unmanaged(struct sk_buff *skb, struct netlink_callback *cb,
			       const struct bw_state *st)
{
	struct bw_unmanaged u;
	void *header;

	if (cb->args[0] >= BW_UNMANAGED_ROWS)
		return -ENOENT;
	if (!bw_unmanaged_at(cb->args[0], &u) || bw_nl_is_settled(st, &u))
		return 0;
	header = bw_nl_dump_header(skb, cb, BW_CMD_UNMANAGED_GET);
	if (!header)
		return -EMSGSIZE;
	if (nla_put(skb, BW_ATTR_ADDR, u.family == AF_INET ? 4 : 16, &u.addr) ||
	    nla_put_u32(skb, BW_ATTR_LINK, u.link) ||
	    nla_put_u32(skb, BW_ATTR_LINK_PORT, u.port) ||
	    nla_put(skb, BW_ATTR_MAC, sizeof(u.mac), u.mac) ||
	    nla_put_u64_64bit(skb, BW_ATTR_PACKETS, u.packets, BW_ATTR_PAD) ||
	    nla_put_u32(skb, BW_ATTR_IDLE, u.idle)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

int bw_nl_dump_rules(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_nl_dump(skb, cb, bw_nl_put_rule);
}

int bw_nl_dump_endpoints(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_nl_dump(skb, cb, bw_nl_put_endpoint);
}

int bw_nl_dump_prefixes(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_nl_dump(skb, cb, bw_nl_put_prefix);
}

int bw_nl_dump_unmanaged(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_nl_dump(skb, cb, bw_nl_put_unmanaged);
}
