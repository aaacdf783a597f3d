/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The user-space side of ../shim.h: kernel words for the pure core, nothing
 * else. Allocation can be made to fail, to test that a build unwinds.
 */
#ifndef _BW_TESTS_USER_H
#define _BW_TESTS_USER_H

#include <endian.h>
#include <linux/types.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define __force
#define U16_MAX UINT16_MAX
#define U32_MAX UINT32_MAX
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, v) (*(volatile __typeof__(x) *)&(x) = (v))
#define be32_to_cpu(x) be32toh(x)
#define cpu_to_be32(x) htobe32(x)
#define be64_to_cpu(x) be64toh(x)
#define BIT(n) (1UL << (n))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define sort(base, num, size, cmp, swap) qsort(base, num, size, cmp)

/* < 0: never fail; else the number of allocations that still succeed. */
extern long bw_test_alloc_budget;
u64 bw_random(void);

static inline void *bw_alloc(size_t n, size_t size)
{
	if (!bw_test_alloc_budget)
		return NULL;
	if (bw_test_alloc_budget > 0)
		bw_test_alloc_budget--;
	return calloc(n ? n : 1, size);
}

static inline void bw_free(const void *p)
{
	free((void *)p);
}

static inline void bw_resched(void)
{
}

#endif /* _BW_TESTS_USER_H */
