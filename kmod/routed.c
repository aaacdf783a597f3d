// SPDX-License-Identifier: GPL-2.0-only
/*
 * Prefixes and the ports they live behind. A build that fails must leave nothing
 * behind.
 *
 * DOC: theory of operation
 *
 * Prefixes either nest or have nothing in common, so the address space falls into
 * cells in each of which one prefix is the longest: at most two a prefix, and one.
 * Looking an address up is a search in their starts, whatever lengths are in use.
 * Example, fd00::/8 left out:
 *
 *   10.0.0.0/8 of set 1, 10.13.0.0/16 of set 2
 *   cells: 0.0.0.0 none, 10.0.0.0 set 1, 10.13.0.0 set 2, 10.14.0.0 set 1,
 *          11.0.0.0 none
 *
 * Whether a port belongs to a set is one probe of a hash. A packet does not always
 * show its port, nor even its link, so the hash also has a slot for each set's
 * ports on a link and for all of its ports; those count how many are open.
 */
#include "routed.h"

#ifndef __KERNEL__
#include <errno.h>
#endif

/* Port numbers of slots with link 0, which no port has. */
#define BW_ROUTED_ANY		0
#define BW_ROUTED_CHILDREN	1

/* A prefix of either family. */
struct bw_routed_range {
	u64 first[2];	/* as in struct bw_routed_cell */
	u64 last[2];
	u32 length;
	u32 identity;
	u32 set;
	u32 entry;
	const struct bw_routed_range *outer;	/* that it is nested in; NULL: none */
};

static int bw_routed_compare(const u64 *a, const u64 *b)
{
	if (a[0] != b[0])
		return a[0] < b[0] ? -1 : 1;
	return a[1] < b[1] ? -1 : a[1] > b[1];
}

static int bw_routed_range_compare(const void *left, const void *right)
{
	const struct bw_routed_range *a = left, *b = right;
	int way = bw_routed_compare(a->first, b->first);

	return way ? way : (int)a->length - (int)b->length;
}

static void bw_routed_set_last(struct bw_routed_range *p)
{
	p->last[0] = p->first[0];
	p->last[1] = p->first[1];
	if (p->length < 64)
		p->last[0] |= ~0ULL >> p->length;
	if (p->length <= 64)
		p->last[1] = ~0ULL;
	else if (p->length < 128)
		p->last[1] |= ~0ULL >> (p->length - 64);
}

static void bw_routed_read4(struct bw_routed_range *p, const struct bw_nl_prefix4 *from)
{
	p->first[0] = 0;
	p->first[1] = be32_to_cpu(from->addr);
	p->length = 96 + from->length;
	p->identity = from->identity;
	p->set = from->set;
}

static void bw_routed_read6(struct bw_routed_range *p, const struct bw_nl_prefix6 *from)
{
	__be64 half[2];

	memcpy(half, from->addr, sizeof(half));
	p->first[0] = be64_to_cpu(half[0]);
	p->first[1] = be64_to_cpu(half[1]);
	p->length = from->length;
	p->identity = from->identity;
	p->set = from->set;
}

static bool bw_routed_same(const struct bw_routed_range *a, const struct bw_routed_range *b)
{
	return a->length == b->length && !bw_routed_compare(a->first, b->first);
}

/* p begins at start, NULL: no prefix does. A later call for the same start replaces it. */
static void bw_routed_emit(struct bw_routed_cell *cell, u32 *n, const u64 *start,
			   const struct bw_routed_range *p)
{
	struct bw_routed_cell *at = &cell[*n - 1];

	if (bw_routed_compare(at->start, start)) {
		at++;
		++*n;
	}
	at->start[0] = start[0];
	at->start[1] = start[1];
	at->identity = p ? p->identity : 0;
	at->set = p ? p->set + 1 : 0;
	at->entry = p ? p->entry : 0;
}

/* Behind the end of a prefix its outer one goes on, which is returned. */
static const struct bw_routed_range *
bw_routed_end(struct bw_routed_cell *cell, u32 *n, const struct bw_routed_range *p)
{
	u64 next[2] = { p->last[0] + !(p->last[1] + 1), p->last[1] + 1 };

	/* At the end of the address space nothing begins. */
	if (next[0] | next[1])
		bw_routed_emit(cell, n, next, p->outer);
	return p->outer;
}

/* ranges ascend, outer ones first, none twice. Returns how many cells there are. */
static u32 bw_routed_flatten(struct bw_routed_cell *cell, struct bw_routed_range *range,
			     u32 count)
{
	const struct bw_routed_range *inner = NULL;	/* the longest one so far that goes on */
	u32 i, n = 1;

	for (i = 0; i < count; i++) {
		while (inner && bw_routed_compare(inner->last, range[i].first) < 0)
			inner = bw_routed_end(cell, &n, inner);
		bw_routed_emit(cell, &n, range[i].first, &range[i]);
		range[i].outer = inner;
		inner = &range[i];
		if (!(i & 0xfff))
			bw_resched();
	}
	while (inner)
		inner = bw_routed_end(cell, &n, inner);
	return n;
}

static int bw_routed_build_cells(struct bw_routed_cell **cells, u32 *n_cell,
				 struct bw_routed_range *range, u32 count, u32 section,
				 struct bw_fault *f)
{
	u32 i;

	sort(range, count, sizeof(*range), bw_routed_range_compare, NULL);
	for (i = 1; i < count; i++)
		if (bw_routed_same(&range[i - 1], &range[i]))
			return bw_fault_set(f, -EEXIST, section,
					    range[i - 1].entry > range[i].entry ?
					    range[i - 1].entry : range[i].entry, "occurs twice");
	*cells = bw_alloc(2 * (size_t)count + 1, sizeof(**cells));
	if (!*cells)
		return bw_fault_set(f, -ENOMEM, section, 0, "no memory");
	*n_cell = bw_routed_flatten(*cells, range, count);
	return 0;
}

/* Both families one after the other, in the same memory. */
static int bw_routed_build_prefixes(struct bw_routed *r, struct bw_fault *f)
{
	u32 i, most = r->n_prefix4 > r->n_prefix6 ? r->n_prefix4 : r->n_prefix6;
	struct bw_routed_range *range = bw_alloc(most, sizeof(*range));
	int err = 0;

	if (!range)
		return bw_fault_set(f, -ENOMEM, BW_S_NONE, 0, "no memory");
	for (i = 0; i < r->n_prefix4; i++) {
		bw_routed_read4(&range[i], &r->prefix4[i]);
		bw_routed_set_last(&range[i]);
		range[i].entry = i;
	}
	if (r->n_prefix4)
		err = bw_routed_build_cells(&r->cell4, &r->n_cell4, range, r->n_prefix4,
					    BW_S_PREFIX4, f);
	for (i = 0; i < r->n_prefix6; i++) {
		bw_routed_read6(&range[i], &r->prefix6[i]);
		bw_routed_set_last(&range[i]);
		range[i].entry = i;
	}
	if (!err && r->n_prefix6)
		err = bw_routed_build_cells(&r->cell6, &r->n_cell6, range, r->n_prefix6,
					    BW_S_PREFIX6, f);
	bw_free(range);
	return err;
}

/* Ports. */

static u64 bw_routed_port_hash(const struct bw_table *t, u32 set, u32 link, u32 port)
{
	return bw_hash2(t, (u64)link << 32 | port, set);
}

static bool bw_routed_port_fill(void *slot, const void *source, u32 i)
{
	memcpy(slot, (const struct bw_routed_port *)source + i, sizeof(struct bw_routed_port));
	return true;
}

static u64 bw_routed_port_slot_hash(const struct bw_table *t, const void *slot)
{
	const struct bw_routed_port *p = slot;

	return bw_routed_port_hash(t, p->set, p->link, p->port);
}

static bool bw_routed_port_used(const void *slot)
{
	return ((const struct bw_routed_port *)slot)->set;
}

static int bw_routed_port_compare(const void *left, const void *right)
{
	const struct bw_routed_port *a = left, *b = right;

	if (a->set != b->set)
		return a->set < b->set ? -1 : 1;
	if (a->link != b->link)
		return a->link < b->link ? -1 : 1;
	return a->port < b->port ? -1 : a->port > b->port;
}

static bool bw_routed_port_same(const void *a, const void *b)
{
	return !bw_routed_port_compare(a, b);
}

static const struct bw_table_ops bw_routed_port_ops = {
	.slot_size = sizeof(struct bw_routed_port),
	.fill = bw_routed_port_fill,
	.hash = bw_routed_port_slot_hash,
	.used = bw_routed_port_used,
	.same = bw_routed_port_same,
};

/* Of equal ones one is left, with the sum. Returns how many there are. */
static u32 bw_routed_add_up(struct bw_routed_port *slot, u32 n)
{
	u32 i, kept = 0;

	sort(slot, n, sizeof(*slot), bw_routed_port_compare, NULL);
	for (i = 0; i < n; i++)
		if (kept && bw_routed_port_same(&slot[kept - 1], &slot[i]))
			slot[kept - 1].open += slot[i].open;
		else
			slot[kept++] = slot[i];
	return kept;
}

static void bw_routed_put_sums(struct bw_routed_port *to, const struct bw_nl_behind *from)
{
	u32 set = from->set + 1;

	to[0] = (struct bw_routed_port){ set, from->link, from->port, 1 };
	to[1] = (struct bw_routed_port){ set, from->link, 0, 1 };
	to[2] = (struct bw_routed_port){ set, 0, BW_ROUTED_ANY, 1 };
	to[3] = (struct bw_routed_port){ set, 0, BW_ROUTED_CHILDREN, bw_port_is_child(from->port) };
}

/* The last of the draft's entries that are the same port of the same set. */
static u32 bw_routed_last_of(const struct bw_nl_behind *from, u32 n,
			     const struct bw_routed_port *p)
{
	while (n--)
		if (from[n].set + 1 == p->set && from[n].link == p->link &&
		    from[n].port == p->port)
			break;
	return n;
}

static int bw_routed_check_ports(const struct bw_nl_behind *from, u32 n_from,
				 const struct bw_routed_port *slot, u32 n, struct bw_fault *f)
{
	u32 i;

	for (i = 0; i < n; i++)
		if (!bw_routed_is_sum(&slot[i]) && slot[i].open > 1)
			return bw_fault_set(f, -EEXIST, BW_S_BEHIND,
					    bw_routed_last_of(from, n_from, &slot[i]),
					    "occurs twice");
	return 0;
}

static int bw_routed_build_ports(struct bw_routed *r, const struct bw_draft *d, struct bw_fault *f)
{
	const struct bw_nl_behind *from = d->data[BW_S_BEHIND];
	struct bw_routed_port *slot = bw_alloc(4 * (size_t)r->n_port, sizeof(*slot));
	enum bw_table_result result;
	u32 i, n, at = 0;
	int err;

	if (!slot)
		return bw_fault_set(f, -ENOMEM, BW_S_BEHIND, 0, "no memory");
	for (i = 0; i < r->n_port; i++)
		bw_routed_put_sums(&slot[4 * i], &from[i]);
	n = bw_routed_add_up(slot, 4 * r->n_port);
	err = bw_routed_check_ports(from, r->n_port, slot, n, f);
	if (err) {
		bw_free(slot);
		return err;
	}
	result = bw_table_build(&r->ports, &bw_routed_port_ops, slot, n, &at);
	bw_free(slot);
	if (result == BW_TABLE_UNSETTLED)
		return bw_fault_set(f, -EAGAIN, BW_S_BEHIND, 0,
				    "the hash does not settle, try again");
	if (result != BW_TABLE_OK)
		return bw_fault_set(f, -ENOMEM, BW_S_BEHIND, 0, "no memory");
	return 0;
}

static void *bw_routed_copy(const void *from, u32 n, size_t size)
{
	void *to = bw_alloc(n, size);

	if (to && n)
		memcpy(to, from, n * size);
	return to;
}

int bw_routed_build(struct bw_routed *r, const struct bw_draft *d, struct bw_fault *f)
{
	int err;

	r->n_prefix4 = d->count[BW_S_PREFIX4];
	r->n_prefix6 = d->count[BW_S_PREFIX6];
	r->n_port = d->count[BW_S_BEHIND];
	if (!r->n_prefix4 && !r->n_prefix6 && !r->n_port)
		return 0;
	r->prefix4 = bw_routed_copy(d->data[BW_S_PREFIX4], r->n_prefix4, sizeof(*r->prefix4));
	r->prefix6 = bw_routed_copy(d->data[BW_S_PREFIX6], r->n_prefix6, sizeof(*r->prefix6));
	if (!r->prefix4 || !r->prefix6)
		err = bw_fault_set(f, -ENOMEM, BW_S_NONE, 0, "no memory");
	else
		err = bw_routed_build_prefixes(r, f);
	if (!err)
		err = bw_routed_build_ports(r, d, f);
	if (err)
		bw_routed_free(r);
	return err;
}

void bw_routed_free(struct bw_routed *r)
{
	bw_table_free(&r->ports);
	bw_free(r->cell6);
	bw_free(r->cell4);
	bw_free(r->prefix6);
	bw_free(r->prefix4);
	memset(r, 0, sizeof(*r));
}

/* Asking. */

const struct bw_routed_cell *bw_routed_find(const struct bw_routed *r, u8 family,
					    const union bw_addr *addr)
{
	const struct bw_routed_cell *cell = family == AF_INET ? r->cell4 : r->cell6;
	u32 n = family == AF_INET ? r->n_cell4 : r->n_cell6;
	u64 key[2];

	if (!cell)
		return NULL;
	if (family == AF_INET) {
		key[0] = 0;
		key[1] = be32_to_cpu(addr->v4);
	} else {
		key[0] = be64_to_cpu((__force __be64)addr->v6[0]);
		key[1] = be64_to_cpu((__force __be64)addr->v6[1]);
	}
	while (n > 1) {
		u32 half = n / 2;

		if (bw_routed_compare(cell[half].start, key) <= 0)
			cell += half;
		n -= half;
	}
	return cell->set ? cell : NULL;
}

static struct bw_routed_port *bw_routed_port_find(const struct bw_routed *r, u32 set,
						  u32 link, u32 port)
{
	struct bw_routed_port *slots = r->ports.slots;
	u32 i;

	if (!slots)
		return NULL;
	i = bw_table_home(&r->ports, bw_routed_port_hash(&r->ports, set, link, port));
	for (; slots[i].set; i = (i + 1) & r->ports.mask)
		if (slots[i].set == set && slots[i].link == link && slots[i].port == port)
			return &slots[i];
	return NULL;
}

u32 bw_routed_open(const struct bw_routed *r, const struct bw_routed_cell *cell,
		   u32 link, u32 port)
{
	const struct bw_routed_port *p;

	p = bw_routed_port_find(r, cell->set, link, link ? port : BW_ROUTED_ANY);
	return p ? READ_ONCE(p->open) : 0;
}

u32 bw_routed_open_children(const struct bw_routed *r, const struct bw_routed_cell *cell)
{
	const struct bw_routed_port *p;

	p = bw_routed_port_find(r, cell->set, 0, BW_ROUTED_CHILDREN);
	return p ? READ_ONCE(p->open) : 0;
}

enum bw_routed_place bw_routed_look(const struct bw_routed *r, u8 family,
				    const union bw_addr *addr, u32 link, u32 port,
				    u32 *identity)
{
	const struct bw_routed_cell *cell = bw_routed_find(r, family, addr);

	if (!cell)
		return BW_ROUTED_NO_PREFIX;
	if (bw_routed_open(r, cell, link, port)) {
		*identity = cell->identity;
		return BW_ROUTED_HERE;
	}
	return bw_routed_open(r, cell, 0, 0) ? BW_ROUTED_ELSEWHERE : BW_ROUTED_CLOSED;
}

/* Closing. */

static void bw_routed_one_less(const struct bw_routed *r, u32 set, u32 link, u32 port)
{
	struct bw_routed_port *p = bw_routed_port_find(r, set, link, port);

	if (p)
		WRITE_ONCE(p->open, p->open - 1);
}

bool bw_routed_close(struct bw_routed *r, u32 link, u32 port)
{
	struct bw_routed_port *p = r->ports.slots;
	bool closed = false;
	u32 i;

	for (i = 0; p && i <= r->ports.mask; i++, p++) {
		if (!p->set || bw_routed_is_sum(p) || !p->open)
			continue;
		if (port ? p->link != link || p->port != port :
			   p->link != link && p->port != link)
			continue;
		WRITE_ONCE(p->open, 0);
		bw_routed_one_less(r, p->set, p->link, 0);
		bw_routed_one_less(r, p->set, 0, BW_ROUTED_ANY);
		if (bw_port_is_child(p->port))
			bw_routed_one_less(r, p->set, 0, BW_ROUTED_CHILDREN);
		r->n_closed++;
		closed = true;
	}
	return closed;
}
