/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Bit maps, for the kernel and for user space alike. An index is never checked:
 * the map must be large enough for it.
 */
#ifndef _BW_BITS_H
#define _BW_BITS_H

#include "shim.h"

/* Words of a map of n bits; n is a multiple of the word's size. */
#define BW_BIT_WORDS(n)	((n) / (8 * sizeof(unsigned long)))

static inline bool bw_bit_test(const unsigned long *map, u32 i)
{
	return map[i / (8 * sizeof(long))] >> (i % (8 * sizeof(long))) & 1;
}

static inline void bw_bit_set(unsigned long *map, u32 i)
{
	map[i / (8 * sizeof(long))] |= 1UL << (i % (8 * sizeof(long)));
}

#endif /* _BW_BITS_H */
