/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The immutable hash table under endpoints, published sockets and policy
 * pairs: open addressing, a seeded multiplicative hash that uses the top bits,
 * at most half full, small ones a quarter. Building it bounds the longest run
 * of used slots, so that every lookup, hit or miss, is bounded by construction.
 * It must never change after it is built, but for values inside a slot.
 */
#ifndef _BW_TABLE_H
#define _BW_TABLE_H

#include "api.h"
#include "shim.h"

#define BW_TABLE_RUN	32	/* longest run of used slots */

struct bw_table {
	void *slots;
	u64 seed[3];
	u32 mask;
	u8 shift;
};

/* How a kind of slot is filled, hashed and compared; unused slots are zero. */
struct bw_table_ops {
	u32 slot_size;		/* at most BW_TABLE_SLOT_MAX */
	bool (*fill)(void *slot, const void *source, u32 i); /* false: skip */
	u64 (*hash)(const struct bw_table *t, const void *slot);
	bool (*used)(const void *slot);
	bool (*same)(const void *a, const void *b);
};

#define BW_TABLE_SLOT_MAX	64

enum bw_table_result {
	BW_TABLE_OK,
	BW_TABLE_NOMEM,
	BW_TABLE_DUPLICATE,	/* *at is the later one */
	BW_TABLE_UNSETTLED,	/* no seed and no size brings short runs */
};

/*
 * Builds a table of the n sources that ops->fill() takes; *at is the source that
 * failed. Where it fails nothing is left to free. Context: process, may sleep.
 */
BW_API enum bw_table_result bw_table_build(struct bw_table *t,
					   const struct bw_table_ops *ops,
					   const void *source, u32 n, u32 *at);
BW_API void bw_table_free(struct bw_table *t);

/* Products are summed, never mixed by xor: the sum stays universal. */
static inline u64 bw_hash1(const struct bw_table *t, u64 a)
{
	return a * t->seed[0];
}

static inline u64 bw_hash2(const struct bw_table *t, u64 a, u64 b)
{
	return a * t->seed[0] + b * t->seed[1];
}

static inline u64 bw_hash3(const struct bw_table *t, u64 a, u64 b, u64 c)
{
	return a * t->seed[0] + b * t->seed[1] + c * t->seed[2];
}

static inline u32 bw_table_home(const struct bw_table *t, u64 hash)
{
	return hash >> t->shift;
}

#endif /* _BW_TABLE_H */
