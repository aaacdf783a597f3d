// SPDX-License-Identifier: GPL-2.0-only
/*
 * Carrying out decisions. Must never return NF_STOP or NF_REPEAT, nor NF_STOLEN:
 * nf_hook_slow() leaks or warns on some supported kernel for each of the first
 * two, and no packet is kept here.
 */
#include <linux/hash.h>
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/jhash.h>
#include <linux/jiffies.h>
#include <linux/netfilter_bridge.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/random.h>
#include <linux/string.h>
#include <linux/tcp.h>
#include <net/netfilter/ipv4/nf_reject.h>
#include <net/netfilter/ipv6/nf_reject.h>
#include <net/netfilter/nf_conntrack.h>
#include <net/netfilter/nf_log.h>
#include <net/netfilter/nf_queue.h>

#include "l4.h"
#include "reason.h"
#include "trace.h"
#include "verdict.h"

/*
 * Lines a second that each CPU writes: of one kind (an initiator, a rule or reason,
 * and where the packet came in); of all that came in there, which no sender can
 * choose; and of all. No sender alone can have all of them.
 */
#define BW_LOG_KIND	50
#define BW_LOG_SENDER	100
#define BW_LOG_ALL	400

#define BW_LOG_BUCKETS	256	/* power of two */

/*
 * Kinds and senders that fall together share a bucket, for a second: then they are
 * spread anew, by a seed that nobody knows, so that none hides another for long.
 */
struct bw_log_window {
	unsigned long start;	/* jiffies */
	u16 all;
	u16 sender[BW_LOG_BUCKETS];
	u16 kind[BW_LOG_BUCKETS];
	u64 swallowed;
};

static DEFINE_PER_CPU(struct bw_log_window, bw_log_window);
static u32 bw_log_seed __read_mostly;

void __init bw_log_init(void)
{
	get_random_bytes(&bw_log_seed, sizeof(bw_log_seed));
}

static void bw_log_window_begin(struct bw_log_window *w)
{
	w->start = jiffies;
	w->all = 0;
	memset(w->sender, 0, sizeof(w->sender));
	memset(w->kind, 0, sizeof(w->kind));
}

static u16 *bw_log_bucket(u16 *buckets, u32 hash)
{
	return &buckets[hash % BW_LOG_BUCKETS];
}

/* By device or bridge port, not by what the packet says of itself. */
static u32 bw_log_sender(const struct bw_log_window *w, const struct sk_buff *skb,
			 const struct nf_hook_state *hs)
{
	u32 at = nf_bridge_get_physinif(skb);

	if (!at && hs->in)
		at = hs->in->ifindex;
	return jhash_3words(at, hs->net->ns.inum, (u32)w->start, bw_log_seed);
}

static bool bw_log_take(struct bw_log_window *w, const struct sk_buff *skb,
			const struct nf_hook_state *hs, const struct bw_decision *d)
{
	u16 *sender, *kind;
	u32 hash;

	if (time_after_eq(jiffies, w->start + HZ))
		bw_log_window_begin(w);
	hash = bw_log_sender(w, skb, hs);
	sender = bw_log_bucket(w->sender, hash);
	kind = bw_log_bucket(w->kind, jhash_2words(d->identity[BW_INITIATOR], d->index, hash));
	if (*kind >= BW_LOG_KIND || *sender >= BW_LOG_SENDER || w->all >= BW_LOG_ALL) {
		WRITE_ONCE(w->swallowed, w->swallowed + 1);
		return false;
	}
	++*kind;
	++*sender;
	w->all++;
	return true;
}

/* Under PREEMPT_RT hooks with bottom halves off preempt each other; not here. */
static bool bw_log_within_rate(const struct sk_buff *skb, const struct nf_hook_state *hs,
			       const struct bw_decision *d)
{
	bool within;

	preempt_disable();
	within = bw_log_take(this_cpu_ptr(&bw_log_window), skb, hs, d);
	preempt_enable();
	return within;
}

u64 bw_log_swallowed(void)
{
	u64 sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(&bw_log_window, cpu)->swallowed);
	return sum;
}

static const char *const bw_action_words[__BW_ACTION_MAX] = {
	[BW_ACTION_ALLOW] = "allow",
	[BW_ACTION_DENY] = "deny",
	[BW_ACTION_REJECT] = "reject",
	[BW_ACTION_QUEUE] = "queue",
};

static const char *const bw_class_words[__BW_CLASS_MAX] = {
	[BW_CLASS_INGRESS] = "ingress",
	[BW_CLASS_EGRESS] = "egress",
	[BW_CLASS_INTER_CONTAINER] = "inter_container",
	[BW_CLASS_TO_HOST] = "to_host",
	[BW_CLASS_FROM_HOST] = "from_host",
	[BW_CLASS_HOST_INGRESS] = "host_ingress",
};

/*
 * The prefix is what readers parse: "bridgewarden: [audit ]ACTION CLASS rule NAME"
 * or "... CLASS REASON"; at most 127 bytes, as nf_log takes.
 */
static void bw_log(const struct bw_state *st, const struct sk_buff *skb,
		   const struct nf_hook_state *hs,
		   const struct bw_decision *d)
{
	const struct nf_loginfo info = {
		.type = NF_LOG_TYPE_ULOG,
		.u.ulog.group = st->log_group,
	};

	if (!bw_log_within_rate(skb, hs, d))
		return;
	/* The host's listener is told, whichever namespace it is in. */
	nf_log_packet(&init_net, hs->pf, hs->hook, skb, hs->in, hs->out, &info,
		      "bridgewarden: %s%s %s %s%s",
		      st->mode == BW_MODE_AUDIT ? "audit " : "",
		      bw_action_words[d->action],
		      d->class == BW_CLASS_NONE ? "-" : bw_class_words[d->class],
		      d->index >= BW_REASON_MAX ? "rule " : "",
		      bw_decision_name(st, d));
}

static void bw_reject4(struct sk_buff *skb, const struct nf_hook_state *hs,
		       u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		nf_send_reset(hs->net, hs->sk, skb, hs->hook);
		break;
	case IPPROTO_UDP:
		nf_send_unreach(skb, ICMP_PORT_UNREACH, hs->hook);
		break;
	default:
		nf_send_unreach(skb, ICMP_PKT_FILTERED, hs->hook);
	}
}

static void bw_reject6(struct sk_buff *skb, const struct nf_hook_state *hs,
		       u8 proto)
{
	switch (proto) {
	case IPPROTO_TCP:
		nf_send_reset6(hs->net, hs->sk, skb, hs->hook);
		break;
	case IPPROTO_UDP:
		nf_send_unreach6(hs->net, skb, ICMPV6_PORT_UNREACH, hs->hook);
		break;
	default:
		nf_send_unreach6(hs->net, skb, ICMPV6_ADM_PROHIBITED, hs->hook);
	}
}

/* Whether the packet belongs to a connection that its sender holds open. */
static bool bw_is_of_open(const struct sk_buff *skb, const struct bw_l4 *l4)
{
	const struct tcphdr *tcp;
	struct tcphdr buffer;

	if (l4->proto != IPPROTO_TCP)
		return false;
	tcp = skb_header_pointer(skb, l4->offset, sizeof(buffer), &buffer);
	return tcp && !tcp->syn;
}

/*
 * The answer goes to the sender alone. To reset the receiver as well, a segment
 * would have to reach it with the sequence number that the sender chose: 32 bits
 * a packet past a refusal. The receiver is answered when it sends.
 */
static unsigned int bw_reject(struct sk_buff *skb,
			      const struct nf_hook_state *hs)
{
	struct bw_l4 l4;
	bool found;

	/* From here nothing can be answered. */
	if (hs->hook == NF_INET_POST_ROUTING)
		return NF_DROP_ERR(-ECONNREFUSED);
	found = bw_l4_find(skb, hs->pf, &l4);
	/* The sender's call fails; but TCP sends again what a connection has to say. */
	if (hs->hook == NF_INET_LOCAL_OUT && !(found && bw_is_of_open(skb, &l4)))
		return NF_DROP_ERR(-ECONNREFUSED);
	if (hs->pf == NFPROTO_IPV4)
		bw_reject4(skb, hs, l4.proto);
	else
		bw_reject6(skb, hs, l4.proto);
	return NF_DROP;
}

/* Both directions of a connection come to one queue. */
static unsigned int bw_queue(const struct bw_nl_rule *rule,
			     const struct sk_buff *skb,
			     const struct nf_hook_state *hs)
{
	const struct nf_conntrack *ct = skb_nfct(skb);
	unsigned int verdict;
	u32 queue;

	if (ct)
		queue = rule->queue + reciprocal_scale(hash_ptr(ct, 32), rule->queues);
	else
		queue = nfqueue_hash(skb, rule->queue, rule->queues, hs->pf, 0);
	verdict = NF_QUEUE_NR(queue);
	return rule->flags & BW_RULE_F_BYPASS ?
	       verdict | NF_VERDICT_FLAG_QUEUE_BYPASS : verdict;
}

/*
 * A container that nobody knows yet: who wants to reach it from the host itself
 * hears so by his call. docker-proxy would wait with a silent one, and then pass
 * on what its client has said before anybody could judge it.
 */
static bool bw_fails_senders_call(const struct nf_hook_state *hs,
				  const struct bw_decision *d)
{
	return hs->hook == NF_INET_LOCAL_OUT &&
	       (d->index == BW_REASON_UNMANAGED || d->index == BW_REASON_CLOSED);
}

/* A container's start sends some of these from its port: no news to anybody. */
static bool bw_log_wants_reason(const struct bw_state *st, u32 index)
{
	return st->log_defaults && index < BW_REASON_MAX &&
	       index != BW_REASON_BARE_PORT_NEIGHBOUR;
}

/* Out of line: most packets are only counted. */
static noinline unsigned int bw_verdict_act(const struct bw_state *st,
					    struct sk_buff *skb,
					    const struct nf_hook_state *hs,
					    const struct bw_decision *d)
{
	bool drop = d->action == BW_ACTION_DENY || d->action == BW_ACTION_REJECT;

	if (d->log || (drop && bw_log_wants_reason(st, d->index)))
		bw_log(st, skb, hs, d);
	if (d->action == BW_ACTION_ALLOW || st->mode == BW_MODE_AUDIT)
		return NF_ACCEPT;
	if (d->action == BW_ACTION_QUEUE)
		return bw_queue(&st->rules->rule[d->index - BW_REASON_MAX], skb, hs);
	if (d->action == BW_ACTION_REJECT || bw_fails_senders_call(hs, d))
		return bw_reject(skb, hs);
	return NF_DROP;
}

static __always_inline unsigned int
bw_verdict_apply(const struct bw_state *st, struct sk_buff *skb,
		 const struct nf_hook_state *hs, const struct bw_decision *d)
{
	if (likely(d->action == BW_ACTION_ALLOW && !d->log))
		return NF_ACCEPT;
	return bw_verdict_act(st, skb, hs, d);
}

/* A way of its own, so that the usual one keeps nothing for after the event. */
static noinline unsigned int bw_verdict_apply_traced(const struct bw_state *st,
						     struct sk_buff *skb,
						     const struct nf_hook_state *hs,
						     const struct bw_decision *d)
{
	bw_trace_verdict(st, skb, hs, d);
	return bw_verdict_apply(st, skb, hs, d);
}

/* Into the hooks: see build.c. A branch for traces must not cost a call. */
__always_inline unsigned int bw_verdict(const struct bw_state *st,
					struct sk_buff *skb,
					const struct nf_hook_state *hs,
					const struct bw_decision *d)
{
	bw_count(st->counters, d->index, skb->len);
	/* Off, one instruction that does nothing. */
	if (trace_bw_verdict_enabled())
		return bw_verdict_apply_traced(st, skb, hs, d);
	return bw_verdict_apply(st, skb, hs, d);
}

noinline unsigned int bw_verdict_of(const struct bw_state *st, struct sk_buff *skb,
				    const struct nf_hook_state *hs, u64 identities, u32 index,
				    u32 how)
{
	struct bw_decision d = {
		.index = index,
		.identity = { [BW_INITIATOR] = identities, [BW_RESPONDER] = identities >> 32 },
		.action = how,
		.class = how >> 8,
		.log = how >> 16,
	};

	return bw_verdict(st, skb, hs, &d);
}

unsigned int bw_verdict_builtin(const struct bw_state *st, struct sk_buff *skb,
				const struct nf_hook_state *hs, u32 reason)
{
	struct bw_decision d = {
		.index = reason,
		.action = bw_reason_action(reason),
		.class = BW_CLASS_NONE,
	};

	return bw_verdict(st, skb, hs, &d);
}
