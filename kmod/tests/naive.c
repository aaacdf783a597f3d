// SPDX-License-Identifier: GPL-2.0-only
/* The naive twin: see naive.h. Must stay too simple to be wrong, not fast. */
#include "naive.h"

struct place {
	bool known;
	u32 identity, link, port;
};

static struct place lookup(const struct bw_draft *d, u8 family, const union bw_addr *a)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	u32 i;

	if (family == AF_INET) {
		for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++)
			if (!memcmp(&e4[i].addr, a, 4))
				return (struct place){ true, e4[i].identity,
						       e4[i].link, e4[i].port };
	} else {
		for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++)
			if (!memcmp(e6[i].addr, a, 16))
				return (struct place){ true, e6[i].identity,
						       e6[i].link, e6[i].port };
	}
	return (struct place){ false, 0, 0, 0 };
}

/* The longest prefix with the address, or known is false; port: its set. */
static struct place longest(const struct bw_draft *d, u8 family, const u8 *a)
{
	const struct bw_nl_prefix4 *p4 = d->data[BW_S_PREFIX4];
	const struct bw_nl_prefix6 *p6 = d->data[BW_S_PREFIX6];
	struct place best = { false, 0, 0, 0 };
	u32 i, n = d->count[family == AF_INET ? BW_S_PREFIX4 : BW_S_PREFIX6];
	int most = -1;

	for (i = 0; i < n; i++) {
		const u8 *p = family == AF_INET ? (const u8 *)&p4[i].addr : p6[i].addr;
		int bit, length = family == AF_INET ? p4[i].length : p6[i].length;

		for (bit = 0; bit < length; bit++)
			if ((a[bit / 8] ^ p[bit / 8]) & 0x80 >> bit % 8)
				break;
		if (bit < length || length <= most)
			continue;
		most = length;
		best.known = true;
		best.identity = family == AF_INET ? p4[i].identity : p6[i].identity;
		best.port = family == AF_INET ? p4[i].set : p6[i].set;
	}
	return best;
}

/* Whether the set has a port that may be this one. */
static bool behind(const struct bw_draft *d, u32 set, u32 link, u32 port)
{
	const struct bw_nl_behind *b = d->data[BW_S_BEHIND];
	u32 i;

	for (i = 0; i < d->count[BW_S_BEHIND]; i++)
		if (b[i].set == set && (!link || (b[i].link == link && (!port || b[i].port == port))))
			return true;
	return false;
}

static u32 cidr(const struct bw_draft *d, const struct bw_party *p, bool host)
{
	const struct bw_nl_cell4 *c4 = d->data[BW_S_CELL4];
	const struct bw_nl_cell6 *c6 = d->data[BW_S_CELL6];
	u32 i, id = host ? BW_ID_HOST : BW_ID_WORLD;

	if (p->family == AF_INET) {
		for (i = 0; i < d->count[BW_S_CELL4]; i++)
			if (memcmp(&c4[i].start, &p->addr, 4) <= 0)
				id = host ? c4[i].host : c4[i].world;
	} else {
		for (i = 0; i < d->count[BW_S_CELL6]; i++)
			if (memcmp(c6[i].start, &p->addr, 16) <= 0)
				id = host ? c6[i].host : c6[i].world;
	}
	return id;
}

static bool group(const struct bw_party *p)
{
	const u8 *a = p->addr.raw;

	if (p->family == AF_INET6)
		return a[0] == 0xff;
	return (a[0] >= 224 && a[0] <= 239) || (a[0] & a[1] & a[2] & a[3]) == 255;
}

/* Whose a port is, if all of its endpoints are of one identity. */
static u32 holder(const struct bw_draft *d, const struct bw_party *p)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	u32 i, n = d->count[p->family == AF_INET ? BW_S_ENDPOINT4 : BW_S_ENDPOINT6];
	u32 link, port, identity, id = BW_ID_UNMANAGED;
	bool found = false;

	for (i = 0; i < n; i++) {
		link = p->family == AF_INET ? e4[i].link : e6[i].link;
		port = p->family == AF_INET ? e4[i].port : e6[i].port;
		identity = p->family == AF_INET ? e4[i].identity : e6[i].identity;
		if (!port || link != p->link || port != p->port)
			continue;
		if (found && identity != id)
			return BW_ID_UNMANAGED;
		found = true;
		id = identity;
	}
	return id;
}

/* Returns true if the packet is spoofed. */
static bool party(const struct bw_draft *d, const struct bw_query *q, int side, u32 *id)
{
	const struct bw_party *p = &q->side[side];
	bool sender = q->sender == side;
	struct place at;

	if (p->kind != BW_KIND_GUARDED) {
		*id = cidr(d, p, p->kind == BW_KIND_HOST);
		return false;
	}
	*id = BW_ID_UNMANAGED;
	if (sender && q->flags & BW_Q_ERROR) {
		at = lookup(d, p->family, &q->source);
		if (!at.known) {
			at = longest(d, p->family, q->source.raw);
			if (!at.known || !behind(d, at.port, 0, 0))
				return false;
			if (!behind(d, at.port, p->link, p->port))
				return true;
		} else if ((p->link && at.link != p->link) ||
		    (p->port && at.port && at.port != p->port))
			return true;
		sender = false;
	}
	at = lookup(d, p->family, &p->addr);
	if (!at.known) {
		at = longest(d, p->family, p->addr.raw);
		if (at.known && behind(d, at.port, p->link, p->port)) {
			*id = at.identity;
			return false;
		}
		if (at.known)
			return sender && behind(d, at.port, 0, 0);
		if (side == 1 && (group(p) || q->flags & BW_Q_DHCP))
			*id = cidr(d, p, false);
		if (side == 0 && sender && q->flags & BW_Q_DHCP)
			*id = holder(d, p);
		return false;
	}
	if (!at.identity)
		return false;
	if ((p->link && at.link != p->link) ||
	    (p->port && at.port && at.port != p->port))
		return sender;
	*id = at.identity;
	return false;
}

static u8 class_of(u8 from, u8 to)
{
	switch (from * 3 + to) {
	case BW_KIND_WORLD * 3 + BW_KIND_GUARDED:
		return BW_CLASS_INGRESS;
	case BW_KIND_GUARDED * 3 + BW_KIND_WORLD:
		return BW_CLASS_EGRESS;
	case BW_KIND_GUARDED * 3 + BW_KIND_GUARDED:
		return BW_CLASS_INTER_CONTAINER;
	case BW_KIND_GUARDED * 3 + BW_KIND_HOST:
		return BW_CLASS_TO_HOST;
	case BW_KIND_HOST * 3 + BW_KIND_GUARDED:
		return BW_CLASS_FROM_HOST;
	case BW_KIND_WORLD * 3 + BW_KIND_HOST:
		return BW_CLASS_HOST_INGRESS;
	}
	return BW_CLASS_NONE;
}

static u32 rule_for(const struct bw_draft *d, u32 row, u32 column, u32 service, bool direct)
{
	const struct bw_nl_pair *p = d->data[BW_S_PAIR];
	const struct bw_nl_block *b = d->data[BW_S_BLOCK];
	const struct bw_nl_span *s = d->data[BW_S_SPAN];
	u32 i, j;

	for (i = 0; i < d->count[BW_S_PAIR]; i++) {
		if (p[i].row != row || p[i].column != column)
			continue;
		for (j = 0; j < b[p[i].block].count; j++) {
			const struct bw_nl_span *x = &s[b[p[i].block].first + j];

			if (x->lo <= service && service <= x->hi)
				return direct ? x->direct : x->rule;
		}
	}
	return BW_RULE_NONE;
}

static void deny(struct bw_decision *out, u32 reason)
{
	out->index = reason;
	out->action = BW_ACTION_DENY;
}

/* One of the two ways round in which a picked-up connection may have begun. */
struct way {
	u8 class;
	u32 rule;	/* BW_RULE_NONE: the default */
	u8 action;
	u32 reason;	/* of the default */
	u16 client;	/* port of the side that began it */
};

static struct way way_of(const struct bw_draft *d, const struct bw_query *q,
			 const struct bw_decision *ids, int from, bool direct)
{
	const struct bw_nl_identity *id = d->data[BW_S_IDENTITY];
	const struct bw_nl_rule *rules = d->data[BW_S_RULE];
	u32 service = from ? q->back : q->service, other = from ? q->service : q->back;
	struct way w = { .rule = BW_RULE_NONE, .client = other };

	w.class = class_of(q->side[from].kind, q->side[!from].kind);
	if (w.class == BW_CLASS_NONE) {
		w.action = BW_ACTION_ALLOW;
		return w;
	}
	w.rule = rule_for(d, id[ids->identity[from]].row, id[ids->identity[!from]].column,
			  service, direct);
	w.action = w.rule != BW_RULE_NONE ? rules[w.rule].action :
		   direct ? BW_ACTION_DENY : d->defaults[w.class];
	w.reason = direct ? BW_REASON_DIRECT : w.class;
	return w;
}

static bool refuses(u8 action)
{
	return action == BW_ACTION_DENY || action == BW_ACTION_REJECT;
}

static bool serves(const struct bw_draft *d, u16 port)
{
	const struct bw_nl_publish *p = d->data[BW_S_PUBLISH];
	u32 i;

	for (i = 0; i < d->count[BW_S_PUBLISH]; i++)
		if (p[i].proto == 6 && (p[i].host_port == port || p[i].to_port == port))
			return true;
	return false;
}

/* The way that decides; w[0] is the query's. */
static const struct way *decisive(const struct bw_draft *d, const struct bw_query *q,
				  const struct way w[2])
{
	const struct way *own = &w[!!(q->flags & BW_Q_TURNED)], *other = &w[own == w];
	int i;

	for (i = 0; i < 2; i++)
		if (w[i].rule != BW_RULE_NONE && refuses(w[i].action))
			return &w[i];
	for (i = 0; i < 2; i++)
		if (w[i].rule != BW_RULE_NONE && w[i].action == BW_ACTION_QUEUE)
			return &w[i];
	for (i = 0; i < 2; i++)
		if (w[i].rule != BW_RULE_NONE)
			return &w[i];
	if (refuses(own->action))
		return own;
	if (own->client >= 32768 && !serves(d, own->client))
		return own;
	return refuses(other->action) ? other : own;
}

static void classify_picked_up(const struct bw_draft *d, const struct bw_query *q,
			       struct bw_decision *out, bool direct)
{
	const struct bw_nl_rule *rules = d->data[BW_S_RULE];
	const struct way w[2] = { way_of(d, q, out, 0, direct), way_of(d, q, out, 1, false) };
	const struct way *chosen = decisive(d, q, w);
	u32 first = out->identity[0];

	out->class = chosen->class;
	out->action = chosen->action;
	out->index = chosen->rule != BW_RULE_NONE ? BW_REASON_MAX + chosen->rule : chosen->reason;
	out->log = chosen->rule != BW_RULE_NONE && rules[chosen->rule].flags & BW_RULE_F_LOG;
	if (chosen != w) {
		out->identity[0] = out->identity[1];
		out->identity[1] = first;
	}
}

/* Both ends hear of it, but nobody answers an error. */
static void reset(const struct bw_query *q, struct bw_decision *out)
{
	if (q->flags & BW_Q_PICKED_UP && !(q->flags & BW_Q_ERROR) && refuses(out->action))
		out->action = BW_ACTION_REJECT;
}

static void classify(const struct bw_draft *d, const struct bw_query *q, struct bw_decision *out)
{
	const struct bw_nl_identity *id = d->data[BW_S_IDENTITY];
	const struct bw_nl_rule *rules = d->data[BW_S_RULE];
	bool spoofed, direct;
	u32 rule;
	int i;

	memset(out, 0, sizeof(*out));
	out->class = class_of(q->side[0].kind, q->side[1].kind);
	if (out->class == BW_CLASS_NONE)
		return;
	spoofed = party(d, q, 0, &out->identity[0]);
	if (party(d, q, 1, &out->identity[1]) || spoofed) {
		deny(out, BW_REASON_SPOOFED);
		return;
	}
	for (i = 0; i < 2; i++)
		if (q->side[i].kind == BW_KIND_GUARDED && !out->identity[i]) {
			deny(out, BW_REASON_UNMANAGED);
			return;
		}
	direct = out->class == BW_CLASS_INGRESS && q->flags & BW_Q_DIRECT;
	if (q->flags & (BW_Q_PICKED_UP | BW_Q_EITHER_WAY) && q->back) {
		classify_picked_up(d, q, out, direct);
		return;
	}
	rule = rule_for(d, id[out->identity[0]].row, id[out->identity[1]].column,
			q->service, direct);
	if (rule != BW_RULE_NONE) {
		out->index = BW_REASON_MAX + rule;
		out->action = rules[rule].action;
		out->log = rules[rule].flags & BW_RULE_F_LOG;
	} else if (direct) {
		deny(out, BW_REASON_DIRECT);
	} else {
		out->index = out->class;
		out->action = d->defaults[out->class];
	}
	if (!q->back || out->action != BW_ACTION_ALLOW)
		return;
	rule = rule_for(d, id[out->identity[1]].row, id[out->identity[0]].column, q->back, false);
	if (rule == BW_RULE_NONE || !refuses(rules[rule].action))
		return;
	out->index = BW_REASON_MAX + rule;
	out->action = rules[rule].action;
	out->log = rules[rule].flags & BW_RULE_F_LOG;
}

void naive_classify(const struct bw_draft *d, const struct bw_query *q,
		    struct bw_decision *out)
{
	classify(d, q, out);
	if (out->index != BW_REASON_SPOOFED && out->index != BW_REASON_UNMANAGED)
		reset(q, out);
}

bool naive_agrees(const struct bw_decision *a, const struct bw_decision *b)
{
	return a->index == b->index && a->action == b->action && a->class == b->class &&
	       a->log == b->log && a->identity[0] == b->identity[0] && a->identity[1] == b->identity[1];
}
