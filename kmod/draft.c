// SPDX-License-Identifier: GPL-2.0-only
/*
 * Checking a draft. Pure C, for the kernel and for user space (tests, fuzzing).
 * It must never trust a number it has not compared.
 */
#include "draft.h"

#ifndef __KERNEL__
#include <errno.h>
#endif

BW_DATA const struct bw_section_type bw_section_types[BW_S_MAX] = {
	[BW_S_IDENTITY] = { "identity", sizeof(struct bw_nl_identity),
			    BW_MAX_IDENTITIES },
	[BW_S_CELL4] = { "cell4", sizeof(struct bw_nl_cell4), BW_MAX_CELLS },
	[BW_S_CELL6] = { "cell6", sizeof(struct bw_nl_cell6), BW_MAX_CELLS },
	[BW_S_ENDPOINT4] = { "endpoint4", sizeof(struct bw_nl_endpoint4),
			     BW_MAX_ENDPOINTS },
	[BW_S_ENDPOINT6] = { "endpoint6", sizeof(struct bw_nl_endpoint6),
			     BW_MAX_ENDPOINTS },
	[BW_S_PUBLISH] = { "publish", sizeof(struct bw_nl_publish),
			   BW_MAX_PUBLISH },
	[BW_S_RULE] = { "rule", sizeof(struct bw_nl_rule), BW_MAX_RULES },
	[BW_S_SPAN] = { "span", sizeof(struct bw_nl_span), BW_MAX_SPANS },
	[BW_S_BLOCK] = { "block", sizeof(struct bw_nl_block), BW_MAX_BLOCKS },
	[BW_S_PAIR] = { "pair", sizeof(struct bw_nl_pair), BW_MAX_PAIRS },
	[BW_S_PREFIX4] = { "prefix4", sizeof(struct bw_nl_prefix4), BW_MAX_PREFIXES },
	[BW_S_PREFIX6] = { "prefix6", sizeof(struct bw_nl_prefix6), BW_MAX_PREFIXES },
	[BW_S_BEHIND] = { "behind", sizeof(struct bw_nl_behind), BW_MAX_BEHIND },
};

static int bw_bad(struct bw_fault *f, u32 section, u32 entry, const char *why)
{
	return bw_fault_set(f, -EINVAL, section, entry, why);
}

static bool bw_all_zero(const u8 *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

static int bw_check_action(struct bw_fault *f, u32 section, u32 entry, u8 action)
{
	if (action == BW_ACTION_QUEUE && section != BW_S_RULE)
		return bw_bad(f, section, entry, "only a rule can queue");
	if (action >= __BW_ACTION_MAX)
		return bw_bad(f, section, entry, "unknown action");
	return 0;
}

static int bw_check_patterns(u32 n, const char (*pattern)[BW_GUARD_LEN],
			     struct bw_fault *f)
{
	u32 i;

	if (n > BW_MAX_GUARDS)
		return bw_bad(f, BW_S_NONE, 0, "too many guards");
	for (i = 0; i < n; i++)
		if (!pattern[i][0] || pattern[i][BW_GUARD_LEN - 1])
			return bw_bad(f, BW_S_NONE, i, "guard pattern is empty or too long");
	return 0;
}

static int bw_check_head(const struct bw_draft *d, struct bw_fault *f)
{
	u32 i;
	int err;

	if (d->mode >= __BW_MODE_MAX)
		return bw_bad(f, BW_S_NONE, 0, "unknown mode");
	if (d->placement >= __BW_PLACEMENT_MAX)
		return bw_bad(f, BW_S_NONE, 0, "unknown placement");
	for (i = 0; i < __BW_CLASS_MAX; i++) {
		err = bw_check_action(f, BW_S_NONE, i, d->defaults[i]);
		if (err)
			return err;
	}
	err = bw_check_patterns(d->n_guard, d->guard, f);
	if (!err)
		err = bw_check_patterns(d->n_parent, d->parent, f);
	if (err)
		return err;
	for (i = 0; i < BW_S_MAX; i++)
		if (d->count[i] > bw_section_types[i].max)
			return bw_fault_set(f, -E2BIG, i, d->count[i], "too many entries");
	return 0;
}

static int bw_check_identities(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_identity *id = d->data[BW_S_IDENTITY];
	u32 i, n = d->count[BW_S_IDENTITY];

	if (n < BW_ID_FIRST)
		return bw_bad(f, BW_S_IDENTITY, n, "the reserved identities are missing");
	for (i = 0; i < n; i++)
		if (id[i].row >= BW_MAX_IDENTITIES ||
		    id[i].column >= BW_MAX_IDENTITIES)
			return bw_bad(f, BW_S_IDENTITY, i, "row or column out of range");
	return 0;
}

static int bw_check_cells(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_cell4 *c4 = d->data[BW_S_CELL4];
	const struct bw_nl_cell6 *c6 = d->data[BW_S_CELL6];
	u32 i, ids = d->count[BW_S_IDENTITY];

	for (i = 0; i < d->count[BW_S_CELL4]; i++) {
		if (!i && c4[i].start)
			return bw_bad(f, BW_S_CELL4, i, "the first start is not 0");
		if (i && be32_to_cpu(c4[i].start) <= be32_to_cpu(c4[i - 1].start))
			return bw_bad(f, BW_S_CELL4, i, "starts do not ascend");
		if (c4[i].world >= ids || c4[i].host >= ids)
			return bw_bad(f, BW_S_CELL4, i, "no such identity");
	}
	for (i = 0; i < d->count[BW_S_CELL6]; i++) {
		if (!i && !bw_all_zero(c6[i].start, 16))
			return bw_bad(f, BW_S_CELL6, i, "the first start is not 0");
		if (i && memcmp(c6[i].start, c6[i - 1].start, 16) <= 0)
			return bw_bad(f, BW_S_CELL6, i, "starts do not ascend");
		if (c6[i].world >= ids || c6[i].host >= ids)
			return bw_bad(f, BW_S_CELL6, i, "no such identity");
	}
	return 0;
}

/* 0/8, 127/8, groups and 255.255.255.255 are nobody's. */
static bool bw_assignable4(const u8 *a)
{
	return a[0] && a[0] != 127 && a[0] < 224;
}

static bool bw_assignable6(const u8 *a)
{
	return a[0] != 0xff && !(bw_all_zero(a, 15) && a[15] <= 1);
}

static int bw_check_endpoints(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	u32 i, ids = d->count[BW_S_IDENTITY];

	for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++) {
		if (!bw_assignable4((const u8 *)&e4[i].addr))
			return bw_bad(f, BW_S_ENDPOINT4, i, "no address of an endpoint");
		if (e4[i].identity >= ids)
			return bw_bad(f, BW_S_ENDPOINT4, i, "no such identity");
		if (!e4[i].link)
			return bw_bad(f, BW_S_ENDPOINT4, i, "the link is missing");
	}
	for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++) {
		if (!bw_assignable6(e6[i].addr))
			return bw_bad(f, BW_S_ENDPOINT6, i, "no address of an endpoint");
		if (e6[i].identity >= ids)
			return bw_bad(f, BW_S_ENDPOINT6, i, "no such identity");
		if (!e6[i].link)
			return bw_bad(f, BW_S_ENDPOINT6, i, "the link is missing");
	}
	return 0;
}

static int bw_check_publish(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_publish *p = d->data[BW_S_PUBLISH];
	u32 i;

	for (i = 0; i < d->count[BW_S_PUBLISH]; i++, p++) {
		if ((p->family != AF_INET && p->family != AF_INET6) ||
		    (p->to_family != AF_INET && p->to_family != AF_INET6))
			return bw_bad(f, BW_S_PUBLISH, i, "unknown address family");
		if ((p->family == AF_INET && !bw_all_zero(p->host_addr + 4, 12)) ||
		    (p->to_family == AF_INET && !bw_all_zero(p->to_addr + 4, 12)))
			return bw_bad(f, BW_S_PUBLISH, i, "bytes behind an IPv4 address");
		if (p->to_family == AF_INET ? !bw_assignable4(p->to_addr) :
					      !bw_assignable6(p->to_addr))
			return bw_bad(f, BW_S_PUBLISH, i, "no address of an endpoint");
		if (!p->proto || !p->host_port || !p->to_port)
			return bw_bad(f, BW_S_PUBLISH, i, "protocol or port is 0");
		if (p->reserved)
			return bw_bad(f, BW_S_PUBLISH, i, "reserved byte is not 0");
	}
	return 0;
}

static const char *bw_queue_fault(const struct bw_nl_rule *r)
{
	if (r->action != BW_ACTION_QUEUE)
		return r->queue || r->queues || r->flags & BW_RULE_F_BYPASS ?
		       "a queue, but the action is another" : NULL;
	if (!r->queues || r->queue + r->queues > U16_MAX + 1)
		return "queues out of range";
	return NULL;
}

static int bw_check_rules(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_rule *r = d->data[BW_S_RULE];
	u32 i;
	int err;

	for (i = 0; i < d->count[BW_S_RULE]; i++, r++) {
		err = bw_check_action(f, BW_S_RULE, i, r->action);
		if (err)
			return err;
		if (r->flags & ~BW_RULE_F_MASK)
			return bw_bad(f, BW_S_RULE, i, "unknown flag");
		if (bw_queue_fault(r))
			return bw_bad(f, BW_S_RULE, i, bw_queue_fault(r));
		/* A listener of the host gets no packet of another namespace. */
		if (r->queues && d->placement == BW_PLACEMENT_CONTAINER)
			return bw_fault_set(f, -EOPNOTSUPP, BW_S_RULE, i,
					    "placement container cannot queue");
		if (r->reserved)
			return bw_bad(f, BW_S_RULE, i, "reserved field is not 0");
		if (!r->name[0] || r->name[BW_NAME_LEN - 1])
			return bw_bad(f, BW_S_RULE, i, "name is empty or too long");
	}
	return 0;
}

static int bw_check_spans(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_span *s = d->data[BW_S_SPAN];
	u32 i, rules = d->count[BW_S_RULE];

	for (i = 0; i < d->count[BW_S_SPAN]; i++, s++) {
		if (s->lo > s->hi || s->hi > BW_SERVICE_MAX)
			return bw_bad(f, BW_S_SPAN, i, "services out of range");
		if ((s->rule != BW_RULE_NONE && s->rule >= rules) ||
		    (s->direct != BW_RULE_NONE && s->direct >= rules))
			return bw_bad(f, BW_S_SPAN, i, "no such rule");
	}
	return 0;
}

/*
 * Blocks may share spans, so walking each block would let a small draft ask for
 * 2^44 steps: the walk is over the spans, once. last[i] ends the ascending and
 * disjoint stretch that span i belongs to.
 */
static int bw_check_blocks(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_block *b = d->data[BW_S_BLOCK];
	const struct bw_nl_span *s = d->data[BW_S_SPAN];
	u32 i, spans = d->count[BW_S_SPAN];
	u32 *last = bw_alloc(spans, sizeof(*last));
	int err = 0;

	if (!last)
		return bw_fault_set(f, -ENOMEM, BW_S_BLOCK, 0, "no memory");
	for (i = spans; i-- > 0;)
		last[i] = i + 1 < spans && s[i].hi < s[i + 1].lo ?
			  last[i + 1] : i;
	for (i = 0; i < d->count[BW_S_BLOCK] && !err; i++, b++) {
		if (b->first > spans || b->count > spans - b->first)
			err = bw_bad(f, BW_S_BLOCK, i, "no such span");
		else if (b->count && last[b->first] < b->first + b->count - 1)
			err = bw_bad(f, BW_S_BLOCK, i, "spans do not ascend or overlap");
	}
	bw_free(last);
	return err;
}

static int bw_check_pairs(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_pair *p = d->data[BW_S_PAIR];
	u32 i;

	for (i = 0; i < d->count[BW_S_PAIR]; i++, p++) {
		if (p->row >= BW_MAX_IDENTITIES || p->column >= BW_MAX_IDENTITIES)
			return bw_bad(f, BW_S_PAIR, i, "row or column out of range");
		if (p->block >= d->count[BW_S_BLOCK])
			return bw_bad(f, BW_S_PAIR, i, "no such block");
	}
	return 0;
}

/* Whether the first n bits are the same. */
static bool bw_same_bits(const u8 *a, const u8 *b, u32 n)
{
	u8 mask = 0xff00 >> n % 8;

	return !memcmp(a, b, n / 8) && (!mask || !((a[n / 8] ^ b[n / 8]) & mask));
}

/* Whether bits behind the first n are set in an address of so many bytes. */
static bool bw_has_more_bits(const u8 *a, u32 n, u32 bytes)
{
	u32 at = n / 8;

	if (n % 8 && a[at++] & 0xff >> n % 8)
		return true;
	return at < bytes && !bw_all_zero(a + at, bytes - at);
}

/* Addresses that no container can route to or hold for others. */
struct bw_nobodys {
	u8 addr[16];
	u8 length;
};

static const struct bw_nobodys bw_nobodys4[] = {
	{ { 0 }, 8 }, { { 127 }, 8 }, { { 224 }, 3 },
};

/* Unspecified and loopback, IPv4-mapped, link-local, groups. */
static const struct bw_nobodys bw_nobodys6[] = {
	{ { 0 }, 127 }, { { [10] = 0xff, 0xff }, 96 }, { { 0xfe, 0x80 }, 10 }, { { 0xff }, 8 },
};

static const char *bw_prefix_fault(const u8 *addr, u32 length, u32 bytes,
				   const struct bw_nobodys *nobodys, u32 n)
{
	if (length > 8 * bytes)
		return "the prefix is longer than an address";
	if (bw_has_more_bits(addr, length, bytes))
		return "bits behind the prefix";
	while (n--)
		if (bw_same_bits(addr, nobodys[n].addr,
				 length < nobodys[n].length ? length : nobodys[n].length))
			return "has addresses that nobody can have behind a port";
	return NULL;
}

static int bw_check_prefix(const struct bw_draft *d, struct bw_fault *f, u32 section, u32 i,
			   const char *why, u32 identity, u32 set)
{
	if (why)
		return bw_bad(f, section, i, why);
	if (identity >= d->count[BW_S_IDENTITY])
		return bw_bad(f, section, i, "no such identity");
	if (set >= BW_MAX_BEHIND)
		return bw_bad(f, section, i, "set out of range");
	return 0;
}

static int bw_check_prefixes(const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_prefix4 *p4 = d->data[BW_S_PREFIX4];
	const struct bw_nl_prefix6 *p6 = d->data[BW_S_PREFIX6];
	const struct bw_nl_behind *b = d->data[BW_S_BEHIND];
	int err = 0;
	u32 i;

	for (i = 0; i < d->count[BW_S_PREFIX4] && !err; i++)
		err = bw_check_prefix(d, f, BW_S_PREFIX4, i,
				      bw_prefix_fault((const u8 *)&p4[i].addr, p4[i].length, 4,
						      bw_nobodys4, ARRAY_SIZE(bw_nobodys4)),
				      p4[i].identity, p4[i].set);
	for (i = 0; i < d->count[BW_S_PREFIX6] && !err; i++)
		err = bw_check_prefix(d, f, BW_S_PREFIX6, i,
				      bw_prefix_fault(p6[i].addr, p6[i].length, 16,
						      bw_nobodys6, ARRAY_SIZE(bw_nobodys6)),
				      p6[i].identity, p6[i].set);
	for (i = 0; i < d->count[BW_S_BEHIND] && !err; i++)
		if (b[i].set >= BW_MAX_BEHIND)
			err = bw_bad(f, BW_S_BEHIND, i, "set out of range");
		else if (!b[i].link || !b[i].port)
			err = bw_bad(f, BW_S_BEHIND, i, "the link or the port is missing");
	return err;
}

int bw_draft_check(const struct bw_draft *d, struct bw_fault *f)
{
	static int (*const checks[])(const struct bw_draft *d,
				     struct bw_fault *f) = {
		bw_check_head, bw_check_identities, bw_check_cells,
		bw_check_endpoints, bw_check_publish, bw_check_rules,
		bw_check_spans, bw_check_blocks, bw_check_pairs, bw_check_prefixes,
	};
	u32 i;
	int err;

	for (i = 0; i < ARRAY_SIZE(checks); i++) {
		err = checks[i](d, f);
		if (err)
			return err;
		bw_resched();
	}
	return 0;
}
