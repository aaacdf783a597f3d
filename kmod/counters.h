/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Packets and bytes per rule and built-in reason, an array for each CPU. The
 * packet path writes only its own CPU's; totals are added up by who asks.
 */
#ifndef _BW_COUNTERS_H
#define _BW_COUNTERS_H

#include <linux/types.h>
#include <linux/u64_stats_sync.h>

#include "api.h"

struct bw_count {
	u64_stats_t packets;
	u64_stats_t bytes;
	struct u64_stats_sync sync;
};

struct bw_total {
	u64 packets;
	u64 bytes;
};

struct bw_counters {
	u32 n;
	struct bw_total *base;	/* inherited from the rulesets before */
	struct bw_count *cpu[];
};

/*
 * bw_counters_new() returns n counters at zero, or NULL without memory;
 * bw_counters_free() takes NULL. Context: process, may sleep.
 */
BW_API struct bw_counters *bw_counters_new(u32 n);
BW_API void bw_counters_free(struct bw_counters *c);

/*
 * The sum over all CPUs of counter i: what this ruleset itself has counted, and
 * that with what it inherited. Context: process; what is inherited changes under
 * bw_mutex.
 */
BW_API struct bw_total bw_counters_own(const struct bw_counters *c, u32 i);
BW_API struct bw_total bw_counters_total(const struct bw_counters *c, u32 i);

/*
 * This CPU's counter i, and counting a packet in it. Context: bottom halves off,
 * here and below; c must not be freed meanwhile (RCU read-side critical section).
 */
static inline struct bw_count *bw_count_of(const struct bw_counters *c, u32 i)
{
	return &c->cpu[smp_processor_id()][i];
}

static inline void bw_count_in(struct bw_count *count, unsigned long bytes)
{
	u64_stats_update_begin(&count->sync);
	u64_stats_inc(&count->packets);
	u64_stats_add(&count->bytes, bytes);
	u64_stats_update_end(&count->sync);
}

static inline void bw_count(const struct bw_counters *c, u32 i, u32 bytes)
{
	bw_count_in(bw_count_of(c, i), bytes);
}

#endif /* _BW_COUNTERS_H */
