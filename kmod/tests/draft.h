/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Making drafts for tests: a growing copy of each section, as a transaction
 * would hold it. Fixed-size on purpose: tests, not a library.
 */
#ifndef _BW_TESTS_DRAFT_H
#define _BW_TESTS_DRAFT_H

#include "../ruleset.h"

struct test_draft {
	struct bw_draft d;
	size_t room[BW_S_MAX];
};

void *test_add(struct test_draft *t, enum bw_section section);
void test_clear(struct test_draft *t);

/* The smallest valid draft: reserved identities, everything allowed. */
void test_minimal(struct test_draft *t);

void test_identity(struct test_draft *t, u32 row, u32 column);
void test_cell4(struct test_draft *t, const char *start, u32 world, u32 host);
void test_cell6(struct test_draft *t, const char *start, u32 world, u32 host);
void test_endpoint4(struct test_draft *t, const char *addr, u32 id, u32 link, u32 port);
void test_endpoint6(struct test_draft *t, const char *addr, u32 id, u32 link, u32 port);
void test_publish(struct test_draft *t, const char *host, u8 proto, u16 port,
		  const char *to, u16 to_port);
void test_rule(struct test_draft *t, u64 key, u8 action, u8 flags);
void test_span(struct test_draft *t, u32 lo, u32 hi, u32 rule, u32 direct);
void test_block(struct test_draft *t, u32 first, u32 count);
void test_pair(struct test_draft *t, u32 row, u32 column, u32 block);

/* Of either family, as "10.0.0.0/8". */
void test_prefix(struct test_draft *t, const char *prefix, u32 id, u32 set);
void test_behind(struct test_draft *t, u32 set, u32 link, u32 port);

/* Address and family from text. */
void test_party(struct bw_party *p, const char *addr, u8 kind, u32 link, u32 port);

/* Random ones, valid, of a small world where everything meets everything. */
void test_random_draft(struct test_draft *t);
void test_random_query(struct bw_query *q);

/* From now on these bytes decide, as long as they last. */
void test_feed(const u8 *data, size_t size);
size_t test_fed(void);	/* how many are left */

u64 test_random(void);
u32 test_below(u32 n);

#endif /* _BW_TESTS_DRAFT_H */
