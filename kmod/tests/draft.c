// SPDX-License-Identifier: GPL-2.0-only
/* Making drafts: see draft.h. Must never check what it writes down. */
#include <arpa/inet.h>
#include <stdio.h>

#include "draft.h"

long bw_test_alloc_budget = -1;
static u64 state = 88172645463325252ULL;

static u64 next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

/* What a fuzzer decides; behind its end chance does. */
static const u8 *fed;
static size_t fed_left;

void test_feed(const u8 *data, size_t size)
{
	fed = data;
	fed_left = size;
	/* The same input is the same run, another one another to its end. */
	state = 88172645463325252ULL;
	while (size--)
		state = (state ^ data[size]) * 1099511628211ULL;
	state |= 1;
}

size_t test_fed(void)
{
	return fed_left;
}

static u64 take(size_t bytes)
{
	u64 value = 0;

	memcpy(&value, fed, bytes);
	fed += bytes;
	fed_left -= bytes;
	return value;
}

u64 test_random(void)
{
	return fed_left >= 8 ? take(8) : next();
}

u32 test_below(u32 n)
{
	if (fed_left)
		return take(n > 256 && fed_left >= 4 ? 4 : 1) % n;
	return (next() >> 32) % n;
}

u64 bw_random(void)
{
	return next();
}

void *test_add(struct test_draft *t, enum bw_section s)
{
	size_t size = bw_section_types[s].size;

	if (t->d.count[s] == t->room[s]) {
		t->room[s] = t->room[s] ? 2 * t->room[s] : 8;
		t->d.data[s] = realloc((void *)t->d.data[s], t->room[s] * size);
	}
	return memset((char *)t->d.data[s] + size * t->d.count[s]++, 0, size);
}

void test_clear(struct test_draft *t)
{
	int s;

	for (s = 0; s < BW_S_MAX; s++)
		free((void *)t->d.data[s]);
	memset(t, 0, sizeof(*t));
}

void test_minimal(struct test_draft *t)
{
	u32 i;

	memset(t, 0, sizeof(*t));
	for (i = 0; i < BW_ID_FIRST; i++)
		test_identity(t, i, i);
}

void test_identity(struct test_draft *t, u32 row, u32 column)
{
	struct bw_nl_identity *id = test_add(t, BW_S_IDENTITY);

	id->row = row;
	id->column = column;
}

void test_cell4(struct test_draft *t, const char *start, u32 world, u32 host)
{
	struct bw_nl_cell4 *c = test_add(t, BW_S_CELL4);

	inet_pton(AF_INET, start, &c->start);
	c->world = world;
	c->host = host;
}

void test_cell6(struct test_draft *t, const char *start, u32 world, u32 host)
{
	struct bw_nl_cell6 *c = test_add(t, BW_S_CELL6);

	inet_pton(AF_INET6, start, c->start);
	c->world = world;
	c->host = host;
}

void test_endpoint4(struct test_draft *t, const char *addr, u32 id, u32 link, u32 port)
{
	struct bw_nl_endpoint4 *e = test_add(t, BW_S_ENDPOINT4);

	inet_pton(AF_INET, addr, &e->addr);
	e->identity = id;
	e->link = link;
	e->port = port;
}

void test_endpoint6(struct test_draft *t, const char *addr, u32 id, u32 link, u32 port)
{
	struct bw_nl_endpoint6 *e = test_add(t, BW_S_ENDPOINT6);

	inet_pton(AF_INET6, addr, e->addr);
	e->identity = id;
	e->link = link;
	e->port = port;
}

static u8 family_of(const char *addr)
{
	return strchr(addr, ':') ? AF_INET6 : AF_INET;
}

void test_publish(struct test_draft *t, const char *host, u8 proto, u16 port,
		  const char *to, u16 to_port)
{
	struct bw_nl_publish *p = test_add(t, BW_S_PUBLISH);

	p->family = family_of(host);
	p->proto = proto;
	p->host_port = port;
	inet_pton(p->family, host, p->host_addr);
	p->to_family = family_of(to);
	p->to_port = to_port;
	inet_pton(p->to_family, to, p->to_addr);
}

void test_rule(struct test_draft *t, u64 key, u8 action, u8 flags)
{
	struct bw_nl_rule *r = test_add(t, BW_S_RULE);

	r->key = key;
	r->action = action;
	r->flags = flags;
	snprintf(r->name, sizeof(r->name), "rule %llu", (unsigned long long)key);
}

void test_span(struct test_draft *t, u32 lo, u32 hi, u32 rule, u32 direct)
{
	struct bw_nl_span *s = test_add(t, BW_S_SPAN);

	s->lo = lo;
	s->hi = hi;
	s->rule = rule;
	s->direct = direct;
}

void test_block(struct test_draft *t, u32 first, u32 count)
{
	struct bw_nl_block *b = test_add(t, BW_S_BLOCK);

	b->first = first;
	b->count = count;
}

void test_pair(struct test_draft *t, u32 row, u32 column, u32 block)
{
	struct bw_nl_pair *p = test_add(t, BW_S_PAIR);

	p->row = row;
	p->column = column;
	p->block = block;
}

void test_prefix(struct test_draft *t, const char *prefix, u32 id, u32 set)
{
	char addr[64];
	u32 length = atoi(strchr(prefix, '/') + 1);

	snprintf(addr, sizeof(addr), "%.*s", (int)strcspn(prefix, "/"), prefix);
	if (family_of(addr) == AF_INET) {
		struct bw_nl_prefix4 *p = test_add(t, BW_S_PREFIX4);

		inet_pton(AF_INET, addr, &p->addr);
		p->length = length;
		p->identity = id;
		p->set = set;
	} else {
		struct bw_nl_prefix6 *p = test_add(t, BW_S_PREFIX6);

		inet_pton(AF_INET6, addr, p->addr);
		p->length = length;
		p->identity = id;
		p->set = set;
	}
}

void test_behind(struct test_draft *t, u32 set, u32 link, u32 port)
{
	struct bw_nl_behind *b = test_add(t, BW_S_BEHIND);

	b->set = set;
	b->link = link;
	b->port = port;
}

void test_party(struct bw_party *p, const char *addr, u8 kind, u32 link, u32 port)
{
	memset(p, 0, sizeof(*p));
	p->family = family_of(addr);
	inet_pton(p->family, addr, &p->addr);
	p->kind = kind;
	p->link = link;
	p->port = port;
}

/* Random drafts of a small world, so that everything meets everything. */

static const char *const addrs4[] = {
	"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.255", "10.0.1.0", "172.18.0.2",
	"172.18.0.3", "223.255.255.255", "1.0.0.0", "224.0.0.1", "255.255.255.255", "0.0.0.0",
};

static const char *const addrs6[] = {
	"fd00::1", "fd00::2", "fd00:0:0:1::1", "fe80::1", "2001:db8::1", "2001:db8:0:0:ffff::",
	"::2", "ff02::1", "::",
};

static const char *const prefixes[] = {
	"1.0.0.0/8", "10.0.0.0/8", "10.0.0.0/23", "10.0.0.0/24", "10.0.0.2/31", "10.0.0.255/32",
	"10.0.1.0/24", "172.16.0.0/12", "172.18.0.2/32", "223.255.255.0/24",
	"fc00::/7", "fd00::/16", "fd00::/64", "fd00::2/127", "fd00::2/128", "fd00:0:0:1::/64",
	"2001:db8::/32", "2001:db8::/64", "2001:db8:0:0:ffff::/80", "2000::/3",
};

#define ENDPOINTS4 9
#define ENDPOINTS6 7

static void random_spans(struct test_draft *t)
{
	u32 n = test_below(6), at = test_below(4), i, rules = t->d.count[BW_S_RULE];
	u32 first = t->d.count[BW_S_SPAN];

	for (i = 0; i < n; i++) {
		u32 hi = at + test_below(4);

		test_span(t, at, hi, test_below(3) ? test_below(rules) : BW_RULE_NONE,
			  test_below(3) ? test_below(rules) : BW_RULE_NONE);
		at = hi + 1 + test_below(3);
	}
	test_block(t, first, n);
	if (n > 2)	/* blocks may overlap */
		test_block(t, first + 1, n - 2);
}

void test_random_draft(struct test_draft *t)
{
	u32 i, j, ids = BW_ID_FIRST + test_below(8);

	test_minimal(t);
	t->d.count[BW_S_IDENTITY] = 0;
	for (i = 0; i < ids; i++)
		test_identity(t, test_below(5), test_below(5));
	for (i = 0; i < 6; i++)
		t->d.defaults[i] = test_below(3);
	for (i = 0; i < 1 + test_below(20); i++)
		test_rule(t, test_random(), test_below(3), test_below(2));
	for (i = 0; i < 1 + test_below(5); i++)
		random_spans(t);
	for (i = 0; i < 5; i++)
		for (j = 0; j < 5; j++)
			if (test_below(2))
				test_pair(t, i, j, test_below(t->d.count[BW_S_BLOCK]));
	for (i = 0; i < ENDPOINTS4; i++)
		if (test_below(2))
			test_endpoint4(t, addrs4[i], test_below(ids), 1 + test_below(2), test_below(3));
	for (i = 0; i < ENDPOINTS6; i++)
		if (test_below(2))
			test_endpoint6(t, addrs6[i], test_below(ids), 1 + test_below(2), test_below(3));
	for (i = 0; i < ARRAY_SIZE(prefixes); i++)
		if (!test_below(3))
			test_prefix(t, prefixes[i], test_below(ids), test_below(3));
	for (i = 0; i < 18; i++)
		if (!test_below(4))
			test_behind(t, i / 6, 1 + i / 3 % 2,
				    i % 3 ? 1 + i % 3 : 1U << 31 | 1);
	for (i = 0; i < 6; i++)
		if (!test_below(3))
			test_publish(t, "0.0.0.0", test_below(2) ? IPPROTO_TCP : IPPROTO_UDP,
				     i < 3 ? 32768 + i : 80 + i, "10.0.0.1", 32768 + 4 * i);
	if (test_below(4)) {
		test_cell4(t, "0.0.0.0", test_below(ids), test_below(ids));
		test_cell6(t, "::", test_below(ids), test_below(ids));
		for (i = 0; i < test_below(10); i++) {
			char text[40];

			snprintf(text, sizeof(text), "%u.0.0.%u", 10 + i, test_below(4));
			test_cell4(t, text, test_below(ids), test_below(ids));
			snprintf(text, sizeof(text), "%x::%u", 0xfd00 + i, 1 + test_below(4));
			test_cell6(t, text, test_below(ids), test_below(ids));
		}
	}
}

static void random_party(struct bw_party *p, bool v6)
{
	test_party(p, v6 ? addrs6[test_below(ARRAY_SIZE(addrs6))] : addrs4[test_below(ARRAY_SIZE(addrs4))],
		   test_below(3), test_below(3), test_below(3));
}

void test_random_query(struct bw_query *q)
{
	bool v6 = test_below(2);
	struct bw_party source;

	memset(q, 0, sizeof(*q));
	random_party(&q->side[0], v6);
	random_party(&q->side[1], test_below(20) ? v6 : !v6);
	q->sender = test_below(3);
	q->flags = test_below(128);
	q->back = test_below(3) ? 0 : test_below(24);
	if (q->back && !test_below(2))
		q->back += 32768;
	random_party(&source, q->sender < 2 ? q->side[q->sender].family == AF_INET6 : v6);
	q->source = source.addr;
	q->service = test_below(30) ? test_below(24) : BW_SERVICE_MAX;
	if (q->service < 24 && !test_below(4))
		q->service += 32768;
}
