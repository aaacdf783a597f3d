// SPDX-License-Identifier: GPL-2.0-only
/*
 * Rows are never freed: one that has been silent for long gives way to another
 * sender. Ports are spread over regions of the table, so that one which sends with
 * ever new addresses leaves room to those in other regions.
 *
 * A row has a sequence number: 0 while it is free, odd while one CPU, which has
 * made it so by cmpxchg(), writes it, else even. A reader that finds it odd, or
 * changed afterwards, has read nothing.
 */
#include <linux/atomic.h>
#include <linux/etherdevice.h>
#include <linux/jhash.h>
#include <linux/percpu.h>
#include <linux/random.h>
#include <linux/timekeeping.h>

#include "unmanaged.h"

#define BW_UNMANAGED_REGION	64	/* rows, a power of two */
#define BW_UNMANAGED_PROBES	8	/* rows of a region that a sender may have */
#define BW_UNMANAGED_STALE	600	/* seconds of silence after which a row is given away */
#define BW_UNMANAGED_WORDS	4	/* of 64 bits */

struct bw_unmanaged_row {
	u32 sequence;
	u32 seen;		/* seconds since boot */
	atomic64_t packets;
	u64 key[BW_UNMANAGED_WORDS];
} ____cacheline_aligned;

static struct bw_unmanaged_row bw_unmanaged_rows[BW_UNMANAGED_ROWS];
static DEFINE_PER_CPU(u64, bw_unmanaged_lost_here);
static u32 bw_unmanaged_seed __read_mostly;

void __init bw_unmanaged_init(void)
{
	get_random_bytes(&bw_unmanaged_seed, sizeof(bw_unmanaged_seed));
}

static u32 bw_unmanaged_now(void)
{
	return ktime_get_seconds();
}

static void bw_unmanaged_key(const struct sk_buff *skb, const struct bw_query *q, u64 *key)
{
	const struct bw_party *p = &q->side[q->sender];
	bool error = q->flags & BW_Q_ERROR;
	u64 mac = 0;

	if (skb_mac_header_was_set(skb) && skb_mac_header_len(skb) >= ETH_HLEN)
		mac = ether_addr_to_u64(eth_hdr(skb)->h_source);
	key[0] = (u64)p->link << 32 | p->port;
	key[1] = error ? q->source.v6[0] : p->addr.v6[0];
	key[2] = error ? q->source.v6[1] : p->addr.v6[1];
	if (p->family == AF_INET) {
		key[1] = (__force u32)(error ? q->source.v4 : p->addr.v4);
		key[2] = 0;
	}
	key[3] = mac << 8 | p->family;
}

static bool bw_unmanaged_is(const struct bw_unmanaged_row *row, const u64 *key)
{
	u32 sequence, i;

	/* Pairs with smp_store_release() in bw_unmanaged_take(), here and below. */
	sequence = smp_load_acquire(&row->sequence);
	if (!sequence || sequence & 1)
		return false;
	for (i = 0; i < BW_UNMANAGED_WORDS; i++)
		if (READ_ONCE(row->key[i]) != key[i])
			return false;
	return true;
}

/* false: another CPU was faster. */
static bool bw_unmanaged_take(struct bw_unmanaged_row *row, const u64 *key, u32 now)
{
	u32 sequence = READ_ONCE(row->sequence), i;

	if (sequence & 1 || cmpxchg(&row->sequence, sequence, sequence + 1) != sequence)
		return false;
	/* Pairs with smp_rmb() in bw_unmanaged_at(): who reads what follows sees this. */
	smp_wmb();
	for (i = 0; i < BW_UNMANAGED_WORDS; i++)
		WRITE_ONCE(row->key[i], key[i]);
	WRITE_ONCE(row->seen, now);
	atomic64_set(&row->packets, 1);
	/* Pairs with smp_load_acquire() of the readers. */
	smp_store_release(&row->sequence, sequence + 2);
	return true;
}

/* A free row is as good as one that was silent for ever. */
static u32 bw_unmanaged_silence(const struct bw_unmanaged_row *row, u32 now)
{
	return READ_ONCE(row->sequence) ? now - READ_ONCE(row->seen) : U32_MAX;
}

void bw_unmanaged_put(const struct sk_buff *skb, const struct bw_query *q)
{
	struct bw_unmanaged_row *row, *oldest = NULL;
	u32 now = bw_unmanaged_now(), silence = 0, hash, i;
	u64 key[BW_UNMANAGED_WORDS];
	u32 region;

	bw_unmanaged_key(skb, q, key);
	/* By the port alone, which no sender chooses. */
	region = jhash2((const u32 *)key, 2, bw_unmanaged_seed) * BW_UNMANAGED_REGION;
	hash = jhash2((const u32 *)key, 2 * BW_UNMANAGED_WORDS, bw_unmanaged_seed);
	for (i = 0; i < BW_UNMANAGED_PROBES; i++) {
		row = &bw_unmanaged_rows[(region + (hash + i) % BW_UNMANAGED_REGION) %
					 BW_UNMANAGED_ROWS];
		if (bw_unmanaged_is(row, key)) {
			atomic64_inc(&row->packets);
			if (READ_ONCE(row->seen) != now)
				WRITE_ONCE(row->seen, now);
			return;
		}
		if (bw_unmanaged_silence(row, now) > silence) {
			silence = bw_unmanaged_silence(row, now);
			oldest = row;
		}
	}
	if (silence < BW_UNMANAGED_STALE || !bw_unmanaged_take(oldest, key, now))
		this_cpu_inc(bw_unmanaged_lost_here);
}

bool bw_unmanaged_at(u32 i, struct bw_unmanaged *u)
{
	const struct bw_unmanaged_row *row = &bw_unmanaged_rows[i];
	u64 key[BW_UNMANAGED_WORDS];
	u32 sequence, j;

	/* Pairs with smp_store_release() in bw_unmanaged_take(). */
	sequence = smp_load_acquire(&row->sequence);
	if (!sequence || sequence & 1)
		return false;
	for (j = 0; j < BW_UNMANAGED_WORDS; j++)
		key[j] = READ_ONCE(row->key[j]);
	u->packets = atomic64_read(&row->packets);
	u->idle = bw_unmanaged_now() - READ_ONCE(row->seen);
	/* Pairs with smp_wmb() in bw_unmanaged_take(). */
	smp_rmb();
	if (READ_ONCE(row->sequence) != sequence)
		return false;
	u->link = key[0] >> 32;
	u->port = key[0];
	u->addr.v6[0] = key[1];
	u->addr.v6[1] = key[2];
	u->family = key[3];
	if (u->family == AF_INET)
		u->addr.v4 = (__force __be32)(u32)key[1];
	u64_to_ether_addr(key[3] >> 8, u->mac);
	return true;
}

u64 bw_unmanaged_lost(void)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu(bw_unmanaged_lost_here, cpu));
	return sum;
}
