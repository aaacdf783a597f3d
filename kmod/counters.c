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
#include "lock.h"

struct bw_counters *bw_counters_new(u32 n)
{
	struct bw_counters *c;
	int cpu;
	u32 i;

	c = kvzalloc(struct_size(c, cpu, nr_cpu_ids), GFP_KERNEL_ACCOUNT);
	if (!c)
		return NULL;
	c->n = n;
	/* Both at once, so that an exchange and a roll back need no memory. */
	c->base = kvcalloc(n, 2 * sizeof(*c->base), GFP_KERNEL_ACCOUNT);
	if (!c->base)
		goto fail;
	c->passed = c->base + n;
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

static struct bw_total bw_counters_own(const struct bw_counters *c, u32 i)
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

	lockdep_assert_held(&bw_exchange_mutex);
	total.packets += c->base[i].packets;
	total.bytes += c->base[i].bytes;
	return total;
}

void bw_counters_pass(struct bw_counters *from, u32 i, struct bw_counters *to, u32 j)
{
	struct bw_total total = bw_counters_total(from, i);

	to->base[j].packets += total.packets - from->passed[i].packets;
	to->base[j].bytes += total.bytes - from->passed[i].bytes;
	from->passed[i] = total;
}

void bw_counters_pass_nothing(struct bw_counters *c)
{
	lockdep_assert_held(&bw_exchange_mutex);
	memset(c->passed, 0, c->n * sizeof(*c->passed));
}

void bw_counters_pass_inherited(struct bw_counters *c)
{
	lockdep_assert_held(&bw_exchange_mutex);
	memcpy(c->passed, c->base, c->n * sizeof(*c->passed));
}
