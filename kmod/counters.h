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
	struct bw_total *base;		/* inherited from the rulesets before */
	struct bw_total *passed;	/* of base and own, what a ruleset after has inherited */
	struct bw_count *cpu[];
};

/*
 * bw_counters_new() returns n counters at zero, or NULL without memory;
 * bw_counters_free() takes NULL. Context: process, may sleep.
 */
BW_API struct bw_counters *bw_counters_new(u32 n);
BW_API void bw_counters_free(struct bw_counters *c);

/*
 * The sum over all CPUs of counter i, with what it inherited. Context: process;
 * bw_exchange_mutex is held.
 */
BW_API struct bw_total bw_counters_total(const struct bw_counters *c, u32 i);

/*
 * Gives counter j of a ruleset what counter i of the one before has counted or
 * inherited since it was passed on the last time. Context: process;
 * bw_exchange_mutex is held.
 */
BW_API void bw_counters_pass(struct bw_counters *from, u32 i, struct bw_counters *to, u32 j);

/*
 * For a roll back: nothing of these counters has been passed on. Context: process;
 * bw_exchange_mutex is held.
 */
BW_API void bw_counters_pass_nothing(struct bw_counters *c);

/*
 * All that these have inherited has been passed on, since it came from those that
 * come back. Context: process; bw_exchange_mutex is held.
 */
BW_API void bw_counters_pass_inherited(struct bw_counters *c);

/*
 * This CPU's counter i, and counting a packet in it. Context: bottom halves off,
 * here and below, so that the task stays on its CPU; c must not be freed meanwhile
 * (RCU read-side critical section). Under PREEMPT_RT, from Linux 6.18 on, another
 * packet may preempt this one and count in the same counter. None is lost: on 64
 * bits each addition is one operation of local64_t, on 32 bits
 * u64_stats_update_begin() disables preemption.
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
