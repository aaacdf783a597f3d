// SPDX-License-Identifier: GPL-2.0-only
/* Making drafts: see draft.h. Must never check what it writes down. */
#include <arpa/inet.h>
#include <stdio.h>

#include "draft.h"

long bw_test_alloc_budget = -1;
static u64 state = 88172645463325252ULL;

u64 test_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

u32 test_below(u32 n)
{
	return (test_random() >> 32) % n;
}

u64 bw_random(void)
{
	return test_random();
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

void test_party(struct bw_party *p, const char *addr, u8 kind, u32 link, u32 port)
{
	memset(p, 0, sizeof(*p));
	p->family = family_of(addr);
	inet_pton(p->family, addr, &p->addr);
	p->kind = kind;
	p->link = link;
	p->port = port;
}
