/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The few things the pure core (table.c, classify.c, ruleset.c) takes from its
 * surroundings, so that the same files build in the kernel and in user space
 * (tests/). It must never grow into a kernel emulation: what needs more than
 * this does not belong to the pure core.
 */
#ifndef _BW_SHIM_H
#define _BW_SHIM_H

#ifdef __KERNEL__

#include <linux/in.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/socket.h>
#include <linux/sort.h>
#include <linux/string.h>
#include <linux/types.h>

/* Zeroed, charged to the caller's cgroup; large ones come from vmalloc. */
static inline void *bw_alloc(size_t n, size_t size)
{
	return kvcalloc(n, size, GFP_KERNEL_ACCOUNT);
}

static inline void bw_free(const void *p)
{
	kvfree(p);
}

static inline u64 bw_random(void)
{
	return get_random_u64();
}

static inline void bw_resched(void)
{
	cond_resched();
}

#else

#include "tests/user.h"

#endif /* __KERNEL__ */

#endif /* _BW_SHIM_H */
