// SPDX-License-Identifier: GPL-2.0-only
/*
 * Building struct bw_table: a fresh seed while a run of used slots is too long,
 * a larger table while seeds do not help. Lookups are written out beside their
 * users, since each reads its own slots. Nothing here may run per packet.
 */
#include "table.h"

#define BW_TABLE_SEEDS	8	/* tried per size */
#define BW_TABLE_GROW	3	/* doublings beyond half full */
#define BW_TABLE_SMALL	1024	/* so many entries at most: a quarter full */
#define BW_TABLE_SHORT	8	/* run that the first seed of those must bring */

static void *bw_slot(const struct bw_table *t, u32 size, u32 i)
{
	return (char *)t->slots + (size_t)i * size;
}

/* Short runs are dear where there are many slots, and next to free here. */
static u32 bw_table_bits(u32 n)
{
	u64 least = (u64)n * (n <= BW_TABLE_SMALL ? 4 : 2);
	u32 bits = 3;

	while (((u64)1 << bits) < least)
		bits++;
	return bits;
}

static enum bw_table_result bw_table_fill(struct bw_table *t,
					  const struct bw_table_ops *ops,
					  const void *source, u32 n, u32 *at)
{
	u64 slot[BW_TABLE_SLOT_MAX / sizeof(u64)];
	u32 i, j;

	for (i = 0; i < n; i++) {
		char *p;

		memset(slot, 0, ops->slot_size);
		if (!ops->fill(slot, source, i))
			continue;
		j = bw_table_home(t, ops->hash(t, slot));
		for (;; j = (j + 1) & t->mask) {
			p = bw_slot(t, ops->slot_size, j);
			if (!ops->used(p))
				break;
			if (ops->same(p, slot)) {
				*at = i;
				return BW_TABLE_DUPLICATE;
			}
		}
		memcpy(p, slot, ops->slot_size);
		if (!(i & 0xfff))
			bw_resched();
	}
	return BW_TABLE_OK;
}

/* Runs wrap round the end: start counting at an unused slot. */
static u32 bw_table_longest_run(const struct bw_table *t,
				const struct bw_table_ops *ops)
{
	u32 start = 0, i, run = 0, longest = 0;

	while (ops->used(bw_slot(t, ops->slot_size, start)))
		start++;
	for (i = 1; i <= t->mask; i++) {
		u32 j = (start + i) & t->mask;

		run = ops->used(bw_slot(t, ops->slot_size, j)) ? run + 1 : 0;
		if (run > longest)
			longest = run;
		if (!(i & 0xfff))
			bw_resched();
	}
	return longest;
}

/*
 * The longest run that a seed may bring. Addresses are often consecutive numbers, which
 * a bad seed puts side by side: in a small table another costs little, and each that
 * fails lowers what is asked of the next.
 */
static u32 bw_table_run(u32 n, u32 seed)
{
	u32 run = BW_TABLE_SHORT + 4 * seed;

	return n <= BW_TABLE_SMALL && run < BW_TABLE_RUN ? run : BW_TABLE_RUN;
}

enum bw_table_result bw_table_build(struct bw_table *t,
				    const struct bw_table_ops *ops,
				    const void *source, u32 n, u32 *at)
{
	u32 least = bw_table_bits(n), bits, seed, i;

	for (bits = least; bits <= least + BW_TABLE_GROW; bits++) {
		u32 size = (u32)1 << bits;

		t->mask = size - 1;
		t->shift = 64 - bits;
		t->slots = bw_alloc(size, ops->slot_size);
		if (!t->slots)
			return BW_TABLE_NOMEM;
		for (seed = 0; seed < BW_TABLE_SEEDS; seed++) {
			enum bw_table_result result;

			if (seed)
				memset(t->slots, 0,
				       (size_t)size * ops->slot_size);
			for (i = 0; i < ARRAY_SIZE(t->seed); i++)
				t->seed[i] = bw_random() | 1;
			result = bw_table_fill(t, ops, source, n, at);
			if (result == BW_TABLE_OK &&
			    bw_table_longest_run(t, ops) <= bw_table_run(n, seed))
				return BW_TABLE_OK;
			if (result != BW_TABLE_OK) {
				bw_table_free(t);
				return result;
			}
		}
		bw_table_free(t);
	}
	return BW_TABLE_UNSETTLED;
}

void bw_table_free(struct bw_table *t)
{
	bw_free(t->slots);
	t->slots = NULL;
}
