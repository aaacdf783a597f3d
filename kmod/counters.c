// SPDX-License-Identifier: GPL-2.0-only
/*
 * Per-CPU counter arrays. Not alloc_percpu(): a ruleset may have 100,000 rules,
 * more than a per-CPU unit holds. Must never be resized while in force.
 */
#include <linux/cpumask.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/topology.h>

#include "counters.h"

struct bw_counters *bw_counters_new(u32 n)
{
	struct bw_counters *c;
	int cpu;
	u32 i;

	c = kvzalloc(struct_size(c, cpu, nr_cpu_ids), GFP_KERNEL_ACCOUNT);
	if (!c)
		return NULL;
	c->n = n;
	c->base = kvcalloc(n, sizeof(*c->base), GFP_KERNEL_ACCOUNT);
	if (!c->base)
		goto fail;
	for_each_possible_cpu(cpu) {
		c->cpu[cpu] = kvmalloc_node(array_size(n, sizeof(**c->cpu)),
					    GFP_KERNEL_ACCOUNT | __GFP_ZERO,
					    cpu_to_node(cpu));
		if (!c->cpu[cpu])
			goto fail;
		for (i = 0; i < n; i++)
			u64_stats_init(&c->cpu[cpu][i].sync);
	}
	return c;

fail:
	bw_counters_free(c);
	return NULL;
}

void bw_counters_free(struct bw_counters *c)
{
	int cpu;

	if (!c)
		return;
	for_each_possible_cpu(cpu)
		kvfree(c->cpu[cpu]);
	kvfree(c->base);
	kvfree(c);
}

struct bw_total bw_counters_own(const struct bw_counters *c, u32 i)
{
	struct bw_total sum = {};
	int cpu;

	for_each_possible_cpu(cpu) {
		const struct bw_count *count = &c->cpu[cpu][i];
		u64 packets, bytes;
		unsigned int start;

		do {
			start = u64_stats_fetch_begin(&count->sync);
			packets = u64_stats_read(&count->packets);
			bytes = u64_stats_read(&count->bytes);
		} while (u64_stats_fetch_retry(&count->sync, start));
		sum.packets += packets;
		sum.bytes += bytes;
	}
	return sum;
}

struct bw_total bw_counters_total(const struct bw_counters *c, u32 i)
{
	struct bw_total total = bw_counters_own(c, i);

	total.packets += c->base[i].packets;
	total.bytes += c->base[i].bytes;
	return total;
}
