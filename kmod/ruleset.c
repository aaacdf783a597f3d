// SPDX-License-Identifier: GPL-2.0-only
/*
 * Builds rules and endpoints from a checked draft. Pure C, for the kernel and
 * for user space (tests, fuzzing). A build that fails must leave nothing behind.
 */
#include "bits.h"
#include "ruleset.h"

#ifndef __KERNEL__
#include <errno.h>
#endif

/* Endpoints. */

static bool bw_ep4_fill(void *slot, const void *source, u32 i)
{
	const struct bw_nl_endpoint4 *from =
		(const struct bw_nl_endpoint4 *)source + i;
	struct bw_ep4 *ep = slot;

	ep->addr = from->addr;
	ep->loc.identity = from->identity;
	ep->loc.link = from->link;
	ep->loc.port = from->port;
	return true;
}

static u64 bw_ep4_slot_hash(const struct bw_table *t, const void *slot)
{
	return bw_ep4_hash(t, ((const struct bw_ep4 *)slot)->addr);
}

static bool bw_ep4_used(const void *slot)
{
	return ((const struct bw_ep4 *)slot)->addr;
}

static bool bw_ep4_same(const void *a, const void *b)
{
	return ((const struct bw_ep4 *)a)->addr ==
	       ((const struct bw_ep4 *)b)->addr;
}

static const struct bw_table_ops bw_ep4_ops = {
	.slot_size = sizeof(struct bw_ep4),
	.fill = bw_ep4_fill,
	.hash = bw_ep4_slot_hash,
	.used = bw_ep4_used,
	.same = bw_ep4_same,
};

static bool bw_ep6_fill(void *slot, const void *source, u32 i)
{
	const struct bw_nl_endpoint6 *from =
		(const struct bw_nl_endpoint6 *)source + i;
	struct bw_ep6 *ep = slot;

	memcpy(ep->addr, from->addr, sizeof(ep->addr));
	ep->loc.identity = from->identity;
	ep->loc.link = from->link;
	ep->loc.port = from->port;
	ep->used = 1;
	return true;
}

static u64 bw_ep6_slot_hash(const struct bw_table *t, const void *slot)
{
	const struct bw_ep6 *ep = slot;

	return bw_hash2(t, ep->addr[0], ep->addr[1]);
}

static bool bw_ep6_used(const void *slot)
{
	return ((const struct bw_ep6 *)slot)->used;
}

static bool bw_ep6_same(const void *a, const void *b)
{
	return !memcmp(((const struct bw_ep6 *)a)->addr,
		       ((const struct bw_ep6 *)b)->addr, 16);
}

static const struct bw_table_ops bw_ep6_ops = {
	.slot_size = sizeof(struct bw_ep6),
	.fill = bw_ep6_fill,
	.hash = bw_ep6_slot_hash,
	.used = bw_ep6_used,
	.same = bw_ep6_same,
};

static bool bw_published_fill(void *slot, const void *source, u32 i)
{
	const struct bw_nl_publish *from =
		(const struct bw_nl_publish *)source + i;
	struct bw_published *p = slot;

	memcpy(&p->addr, from->host_addr, sizeof(p->addr));
	memcpy(&p->to_addr, from->to_addr, sizeof(p->to_addr));
	p->port = from->host_port;
	p->to_port = from->to_port;
	p->family = from->family;
	p->proto = from->proto;
	p->to_family = from->to_family;
	return true;
}

static u64 bw_published_slot_hash(const struct bw_table *t, const void *slot)
{
	const struct bw_published *p = slot;

	return bw_published_hash(t, p->family, p->proto, p->port, &p->addr);
}

static bool bw_published_used(const void *slot)
{
	return ((const struct bw_published *)slot)->family;
}

static bool bw_published_same(const void *slot_a, const void *slot_b)
{
	const struct bw_published *a = slot_a, *b = slot_b;

	return a->family == b->family && a->proto == b->proto &&
	       a->port == b->port && !memcmp(&a->addr, &b->addr, 16);
}

static const struct bw_table_ops bw_published_ops = {
	.slot_size = sizeof(struct bw_published),
	.fill = bw_published_fill,
	.hash = bw_published_slot_hash,
	.used = bw_published_used,
	.same = bw_published_same,
};

/*
 * Ports: which endpoint to take a port's identity from. A port whose endpoints
 * have several is left out, since no one of them can stand for it.
 */

static bool bw_port_fill(void *slot, const void *source, u32 i)
{
	struct bw_ep_loc *const *locs = source;

	*(struct bw_ep_loc **)slot = locs[i];
	return true;
}

static u64 bw_port_slot_hash(const struct bw_table *t, const void *slot)
{
	const struct bw_ep_loc *loc = *(struct bw_ep_loc *const *)slot;

	return bw_port_hash(t, loc->link, loc->port);
}

static bool bw_port_used(const void *slot)
{
	return *(struct bw_ep_loc *const *)slot;
}

static bool bw_port_same(const void *slot_a, const void *slot_b)
{
	const struct bw_ep_loc *a = *(struct bw_ep_loc *const *)slot_a;
	const struct bw_ep_loc *b = *(struct bw_ep_loc *const *)slot_b;

	return a->link == b->link && a->port == b->port;
}

static const struct bw_table_ops bw_port_ops = {
	.slot_size = sizeof(struct bw_ep_loc *),
	.fill = bw_port_fill,
	.hash = bw_port_slot_hash,
	.used = bw_port_used,
	.same = bw_port_same,
};

static int bw_port_compare(const void *slot_a, const void *slot_b)
{
	const struct bw_ep_loc *a = *(struct bw_ep_loc *const *)slot_a;
	const struct bw_ep_loc *b = *(struct bw_ep_loc *const *)slot_b;

	if (a->link != b->link)
		return a->link < b->link ? -1 : 1;
	if (a->port != b->port)
		return a->port < b->port ? -1 : 1;
	return a->identity < b->identity ? -1 : a->identity > b->identity;
}

/* Sorted, one of each port that has one identity; returns how many are left. */
static u32 bw_ports_unique(struct bw_ep_loc **locs, u32 n)
{
	u32 i, end, kept = 0;

	sort(locs, n, sizeof(*locs), bw_port_compare, NULL);
	for (i = 0; i < n; i = end) {
		for (end = i + 1; end < n && bw_port_same(&locs[i], &locs[end]); end++)
			;
		if (locs[i]->identity == locs[end - 1]->identity)
			locs[kept++] = locs[i];
	}
	return kept;
}

static int bw_build_table(struct bw_table *t, const struct bw_table_ops *ops,
			  const void *source, u32 n, u32 section,
			  struct bw_fault *f)
{
	u32 at = 0;

	switch (bw_table_build(t, ops, source, n, &at)) {
	case BW_TABLE_OK:
		return 0;
	case BW_TABLE_DUPLICATE:
		return bw_fault_set(f, -EEXIST, section, at, "occurs twice");
	case BW_TABLE_UNSETTLED:
		return bw_fault_set(f, -EAGAIN, section, 0, "the hash does not settle, try again");
	default:
		return bw_fault_set(f, -ENOMEM, section, 0, "no memory");
	}
}

static int bw_build_ports(struct bw_table *t, struct bw_ep_loc **locs, u32 n, u32 section,
			  struct bw_fault *f)
{
	return bw_build_table(t, &bw_port_ops, locs, bw_ports_unique(locs, n), section, f);
}

/* Both families one after the other, in the same memory. */
static int bw_build_port_tables(struct bw_endpoints *e, struct bw_fault *f)
{
	u32 most = e->n_v4 > e->n_v6 ? e->n_v4 : e->n_v6;
	struct bw_ep_loc **locs = bw_alloc(most + 1, sizeof(*locs));
	struct bw_ep4 *v4 = e->v4.slots;
	struct bw_ep6 *v6 = e->v6.slots;
	u32 i, n = 0;
	int err;

	if (!locs)
		return bw_fault_set(f, -ENOMEM, BW_S_NONE, 0, "no memory");
	for (i = 0; i <= e->v4.mask; i++)
		if (v4[i].addr && v4[i].loc.port)
			locs[n++] = &v4[i].loc;
	err = bw_build_ports(&e->port4, locs, n, BW_S_ENDPOINT4, f);
	for (i = 0, n = 0; !err && i <= e->v6.mask; i++)
		if (v6[i].used && v6[i].loc.port)
			locs[n++] = &v6[i].loc;
	if (!err)
		err = bw_build_ports(&e->port6, locs, n, BW_S_ENDPOINT6, f);
	bw_free(locs);
	return err;
}

static void bw_mark_ifindex(struct bw_endpoints *e, u32 link, u32 port)
{
	bw_bit_set(e->ifindex_used, (u16)link);
	if (port)
		bw_bit_set(e->ifindex_used, (u16)port);
}

struct bw_endpoints *bw_endpoints_build(const struct bw_draft *d,
					struct bw_fault *f)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	const struct bw_nl_publish *p = d->data[BW_S_PUBLISH];
	const struct bw_nl_behind *b = d->data[BW_S_BEHIND];
	struct bw_endpoints *e = bw_alloc(1, sizeof(*e));
	u32 i;

	if (!e) {
		bw_fault_set(f, -ENOMEM, BW_S_NONE, 0, "no memory");
		return NULL;
	}
	e->n_v4 = d->count[BW_S_ENDPOINT4];
	e->n_v6 = d->count[BW_S_ENDPOINT6];
	e->n_published = d->count[BW_S_PUBLISH];
	if (bw_build_table(&e->v4, &bw_ep4_ops, e4, e->n_v4, BW_S_ENDPOINT4, f) ||
	    bw_build_table(&e->v6, &bw_ep6_ops, e6, e->n_v6, BW_S_ENDPOINT6, f) ||
	    bw_build_table(&e->published, &bw_published_ops, p, e->n_published,
			   BW_S_PUBLISH, f) ||
	    bw_build_port_tables(e, f) || bw_routed_build(&e->routed, d, f)) {
		bw_endpoints_free(e);
		return NULL;
	}
	for (i = 0; i < e->n_v4; i++)
		bw_mark_ifindex(e, e4[i].link, e4[i].port);
	for (i = 0; i < e->n_v6; i++)
		bw_mark_ifindex(e, e6[i].link, e6[i].port);
	for (i = 0; i < e->routed.n_port; i++)
		bw_mark_ifindex(e, b[i].link, b[i].port);
	for (i = 0; i < e->n_published; i++) {
		bw_bit_set(e->published_port, p[i].host_port);
		if (p[i].proto == IPPROTO_TCP) {
			bw_bit_set(e->server_port, p[i].host_port);
			bw_bit_set(e->server_port, p[i].to_port);
		} else if (p[i].proto == IPPROTO_UDP) {
			bw_bit_set(e->udp_server_port, p[i].host_port);
			bw_bit_set(e->udp_server_port, p[i].to_port);
		}
	}
	return e;
}

void bw_endpoints_free(struct bw_endpoints *e)
{
	if (!e)
		return;
	bw_routed_free(&e->routed);
	bw_table_free(&e->port6);
	bw_table_free(&e->port4);
	bw_table_free(&e->published);
	bw_table_free(&e->v6);
	bw_table_free(&e->v4);
	bw_free(e);
}

/* Whether it was open. */
static bool bw_ep_loc_close(struct bw_endpoints *e, struct bw_ep_loc *loc)
{
	bool open = loc->identity != BW_ID_UNMANAGED;

	WRITE_ONCE(loc->identity, BW_ID_UNMANAGED);
	e->n_closed += open;
	return open;
}

static bool bw_ep_loc_on(const struct bw_ep_loc *loc, u32 ifindex)
{
	return loc->link == ifindex || loc->port == ifindex;
}

bool bw_endpoints_close_link(struct bw_endpoints *e, u32 ifindex)
{
	struct bw_ep4 *v4 = e->v4.slots;
	struct bw_ep6 *v6 = e->v6.slots;
	bool closed = false;
	u32 i;

	if (!bw_bit_test(e->ifindex_used, (u16)ifindex))
		return false;
	for (i = 0; i <= e->v4.mask; i++)
		if (v4[i].addr && bw_ep_loc_on(&v4[i].loc, ifindex))
			closed |= bw_ep_loc_close(e, &v4[i].loc);
	for (i = 0; i <= e->v6.mask; i++)
		if (v6[i].used && bw_ep_loc_on(&v6[i].loc, ifindex))
			closed |= bw_ep_loc_close(e, &v6[i].loc);
	return bw_routed_close(&e->routed, ifindex, 0) || closed;
}

bool bw_endpoints_close_child(struct bw_endpoints *e, u32 link, u32 inum)
{
	struct bw_ep4 *v4 = e->v4.slots;
	struct bw_ep6 *v6 = e->v6.slots;
	bool closed = false;
	u32 i;

	if (!bw_bit_test(e->ifindex_used, (u16)link) || !bw_bit_test(e->ifindex_used, (u16)inum))
		return false;
	for (i = 0; i <= e->v4.mask; i++)
		if (v4[i].addr && v4[i].loc.link == link &&
		    v4[i].loc.port == inum)
			closed |= bw_ep_loc_close(e, &v4[i].loc);
	for (i = 0; i <= e->v6.mask; i++)
		if (v6[i].used && v6[i].loc.link == link &&
		    v6[i].loc.port == inum)
			closed |= bw_ep_loc_close(e, &v6[i].loc);
	return bw_routed_close(&e->routed, link, inum) || closed;
}

static u32 bw_routed_count_closed(const struct bw_endpoints *e, bw_ep_test *test, const void *arg)
{
	const struct bw_table *t = &e->routed.ports;
	const struct bw_routed_port *p = t->slots;
	u32 i, n = 0;

	for (i = 0; e->routed.n_closed && i <= t->mask; i++, p++) {
		struct bw_ep_loc loc = { .link = p->link, .port = p->port };

		if (p->set && !bw_routed_is_sum(p) && !p->open)
			n += test(&loc, arg);
	}
	return n;
}

u32 bw_endpoints_count_closed(const struct bw_endpoints *e, bw_ep_test *test, const void *arg)
{
	const struct bw_ep4 *v4 = e->v4.slots;
	const struct bw_ep6 *v6 = e->v6.slots;
	u32 i, n = bw_routed_count_closed(e, test, arg);

	if (!e->n_closed)
		return n;
	for (i = 0; i <= e->v4.mask; i++)
		if (v4[i].addr && v4[i].loc.identity == BW_ID_UNMANAGED)
			n += test(&v4[i].loc, arg);
	for (i = 0; i <= e->v6.mask; i++)
		if (v6[i].used && v6[i].loc.identity == BW_ID_UNMANAGED)
			n += test(&v6[i].loc, arg);
	return n;
}

void bw_endpoint_close4(struct bw_endpoints *e, __be32 v4)
{
	union bw_addr addr = { .v4 = v4 };
	struct bw_ep_loc *loc = bw_ep_find(e, AF_INET, &addr);

	if (loc)
		bw_ep_loc_close(e, loc);
}

void bw_endpoint_close6(struct bw_endpoints *e, const u8 *raw)
{
	union bw_addr addr;
	struct bw_ep_loc *loc;

	memcpy(&addr, raw, sizeof(addr));
	loc = bw_ep_find(e, AF_INET6, &addr);
	if (loc)
		bw_ep_loc_close(e, loc);
}

/* Rules. */

static bool bw_pair_fill(void *slot, const void *source, u32 i)
{
	const struct bw_draft *d = source;
	const struct bw_nl_pair *from =
		(const struct bw_nl_pair *)d->data[BW_S_PAIR] + i;
	const struct bw_nl_block *block =
		(const struct bw_nl_block *)d->data[BW_S_BLOCK] + from->block;
	struct bw_pair *pair = slot;

	pair->row = from->row;
	pair->column = from->column;
	/* Span 0 matches nothing: an empty block is a run of it alone. */
	pair->first = block->count ? block->first + 2 : 1;
	pair->count = block->count ? block->count : 1;
	return true;
}

static u64 bw_pair_slot_hash(const struct bw_table *t, const void *slot)
{
	const struct bw_pair *pair = slot;

	return bw_pair_hash(t, pair->row, pair->column);
}

static bool bw_pair_used(const void *slot)
{
	return ((const struct bw_pair *)slot)->first;
}

static bool bw_pair_same(const void *slot_a, const void *slot_b)
{
	const struct bw_pair *a = slot_a, *b = slot_b;

	return a->row == b->row && a->column == b->column;
}

static const struct bw_table_ops bw_pair_ops = {
	.slot_size = sizeof(struct bw_pair),
	.fill = bw_pair_fill,
	.hash = bw_pair_slot_hash,
	.used = bw_pair_used,
	.same = bw_pair_same,
};

static void *bw_copy(const void *from, u32 n, size_t size)
{
	void *to = bw_alloc(n, size);

	if (to && n)
		memcpy(to, from, n * size);
	return to;
}

static u32 bw_span_verdict(const struct bw_nl_rule *rule, u32 i)
{
	if (i == BW_RULE_NONE)
		return BW_RULE_NONE;
	return (BW_REASON_MAX + i) | (u32)rule[i].action << BW_SPAN_ACTION |
	       (rule[i].flags & BW_RULE_F_LOG ? BW_SPAN_LOG : 0);
}

/* Span 0 marks unused pairs, span 1 matches no service; then the draft's. */
static struct bw_nl_span *bw_build_spans(const struct bw_draft *d)
{
	const struct bw_nl_rule *rule = d->data[BW_S_RULE];
	const struct bw_nl_span *from = d->data[BW_S_SPAN];
	u32 i, n = d->count[BW_S_SPAN];
	struct bw_nl_span *span = bw_alloc(n + 2, sizeof(*span));

	if (!span)
		return NULL;
	for (i = 0; i < 2; i++) {
		span[i].lo = BW_SERVICE_MAX + 1;
		span[i].rule = BW_RULE_NONE;
		span[i].direct = BW_RULE_NONE;
	}
	for (i = 0; i < n; i++) {
		span[i + 2].lo = from[i].lo;
		span[i + 2].hi = from[i].hi;
		span[i + 2].rule = bw_span_verdict(rule, from[i].rule);
		span[i + 2].direct = bw_span_verdict(rule, from[i].direct);
	}
	return span;
}

/* No cells: everything outside is world, everything of the host is host. */
static int bw_build_cells(struct bw_rules *r, const struct bw_draft *d)
{
	const struct bw_nl_cell4 *c4 = d->data[BW_S_CELL4];
	const struct bw_nl_cell6 *c6 = d->data[BW_S_CELL6];
	u32 i, n4 = d->count[BW_S_CELL4], n6 = d->count[BW_S_CELL6];
	struct bw_cell *cell4, *cell6;
	u64 (*start6)[2];
	u32 *start4;

	r->n_cell4 = n4 ? n4 : 1;
	r->n_cell6 = n6 ? n6 : 1;
	start4 = bw_alloc(r->n_cell4, sizeof(*start4));
	cell4 = bw_alloc(r->n_cell4, sizeof(*cell4));
	start6 = bw_alloc(r->n_cell6, sizeof(*start6));
	cell6 = bw_alloc(r->n_cell6, sizeof(*cell6));
	r->start4 = start4;
	r->cell4 = cell4;
	r->start6 = (const u64 (*)[2])start6;
	r->cell6 = cell6;
	if (!start4 || !cell4 || !start6 || !cell6)
		return -ENOMEM;
	cell4[0].identity[BW_KIND_WORLD] = BW_ID_WORLD;
	cell4[0].identity[BW_KIND_HOST] = BW_ID_HOST;
	cell6[0] = cell4[0];
	for (i = 0; i < n4; i++) {
		start4[i] = be32_to_cpu(c4[i].start);
		cell4[i].identity[BW_KIND_WORLD] = c4[i].world;
		cell4[i].identity[BW_KIND_HOST] = c4[i].host;
	}
	for (i = 0; i < n6; i++) {
		__be64 half[2];

		memcpy(half, c6[i].start, sizeof(half));
		start6[i][0] = be64_to_cpu(half[0]);
		start6[i][1] = be64_to_cpu(half[1]);
		cell6[i].identity[BW_KIND_WORLD] = c6[i].world;
		cell6[i].identity[BW_KIND_HOST] = c6[i].host;
	}
	return 0;
}

/* Whether this span can do more to a packet than let it pass unseen. */
static bool bw_span_acts(const struct bw_nl_span *span)
{
	u32 v = span->rule;

	return v != BW_RULE_NONE &&
	       (v & BW_SPAN_LOG || v >> BW_SPAN_ACTION & 3);
}

static void bw_mark_cells(const struct bw_rules *r, const struct bw_cell *cell,
			  u32 n, unsigned long *rows, unsigned long *columns)
{
	while (n--) {
		bw_bit_set(rows, r->identity[cell[n].identity[BW_KIND_WORLD]].row);
		bw_bit_set(columns, r->identity[cell[n].identity[BW_KIND_HOST]].column);
	}
}

/* acting[i]: how many of the first i spans act. Blocks overlap: count once. */
static u32 *bw_count_acting(const struct bw_rules *r, u32 n)
{
	u32 *acting = bw_alloc(n + 1, sizeof(*acting));
	u32 i;

	for (i = 0; acting && i < n; i++)
		acting[i + 1] = acting[i] + bw_span_acts(&r->span[i]);
	return acting;
}

/*
 * Traffic from outside to the host is looked at only where the policy does
 * something to it: its default, or a rule between a world row and a host column.
 */
static int bw_find_host_ingress(struct bw_rules *r, u32 n_span)
{
	const struct bw_pair *pair = r->pairs.slots;
	unsigned long *rows, *columns;
	u32 *acting;
	u32 i;

	r->host_ingress = r->defaults[BW_CLASS_HOST_INGRESS] != BW_ACTION_ALLOW;
	if (r->host_ingress)
		return 0;
	acting = bw_count_acting(r, n_span);
	rows = bw_alloc(2 * BW_BIT_WORDS(BW_MAX_IDENTITIES), sizeof(*rows));
	if (!acting || !rows) {
		bw_free(rows);
		bw_free(acting);
		return -ENOMEM;
	}
	columns = rows + BW_BIT_WORDS(BW_MAX_IDENTITIES);
	bw_mark_cells(r, r->cell4, r->n_cell4, rows, columns);
	bw_mark_cells(r, r->cell6, r->n_cell6, rows, columns);
	for (i = 0; i <= r->pairs.mask && !r->host_ingress; i++) {
		u32 first = pair[i].first;

		if (first && bw_bit_test(rows, pair[i].row) &&
		    bw_bit_test(columns, pair[i].column))
			r->host_ingress = acting[first + pair[i].count] != acting[first];
		if (!(i & 0xfff))
			bw_resched();
	}
	bw_free(rows);
	bw_free(acting);
	return 0;
}

struct bw_rules *bw_rules_build(const struct bw_draft *d, struct bw_fault *f)
{
	struct bw_rules *r = bw_alloc(1, sizeof(*r));

	if (!r)
		goto nomem;
	memcpy(r->defaults, d->defaults, sizeof(r->defaults));
	r->n_identity = d->count[BW_S_IDENTITY];
	r->n_rule = d->count[BW_S_RULE];
	r->n_pair = d->count[BW_S_PAIR];
	r->identity = bw_copy(d->data[BW_S_IDENTITY], r->n_identity,
			      sizeof(*r->identity));
	r->rule = bw_copy(d->data[BW_S_RULE], r->n_rule, sizeof(*r->rule));
	r->span = bw_build_spans(d);
	if (!r->identity || !r->rule || !r->span || bw_build_cells(r, d))
		goto nomem;
	if (bw_build_table(&r->pairs, &bw_pair_ops, d, r->n_pair, BW_S_PAIR, f)) {
		bw_rules_free(r);
		return NULL;
	}
	if (bw_find_host_ingress(r, d->count[BW_S_SPAN] + 2))
		goto nomem;
	return r;

nomem:
	bw_rules_free(r);
	bw_fault_set(f, -ENOMEM, BW_S_NONE, 0, "no memory");
	return NULL;
}

void bw_rules_free(struct bw_rules *r)
{
	if (!r)
		return;
	bw_table_free(&r->pairs);
	bw_free(r->cell6);
	bw_free(r->start6);
	bw_free(r->cell4);
	bw_free(r->start4);
	bw_free(r->span);
	bw_free(r->rule);
	bw_free(r->identity);
	bw_free(r);
}
