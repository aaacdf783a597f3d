// SPDX-License-Identifier: GPL-2.0-only
/*
 * The hooks. Each finds out who stands on either side of the packet at its
 * place in the stack, and judges every packet exactly once: forwarded and
 * bridged ones at FORWARD or, by placement, at POST_ROUTING, those for the host
 * at LOCAL_IN, those from the host at LOCAL_OUT. No hook may write anything
 * shared, or sleep.
 */
#include <linux/netfilter.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netfilter_ipv6.h>
#include <net/netfilter/nf_conntrack.h>

#include "guard.h"
#include "hook.h"
#include "memo.h"
#include "neighbour.h"
#include "origin.h"
#include "packet.h"
#include "register.h"
#include "state.h"
#include "trace.h"
#include "unmanaged.h"
#include "verdict.h"

static void bw_party_set_origin(struct bw_party *p, const struct bw_origin *o)
{
	bw_party_set(p, o->kind, o->link, o->port);
}

/* link: that it goes out by, 0: not guarded. */
static void bw_party_set_link(struct bw_party *p, u32 link)
{
	bw_party_set(p, link ? BW_KIND_GUARDED : BW_KIND_WORLD, link, 0);
}

/*
 * A macvlan or ipvlan container has been judged in its own namespace, unless it
 * wrote the frame past the hooks there: then only a denial is news.
 */
static bool bw_counted_before(const struct bw_query *q, const struct bw_decision *d)
{
	const struct bw_party *from = &q->side[q->sender];

	return d->action == BW_ACTION_ALLOW && from->kind == BW_KIND_GUARDED &&
	       bw_origin_is_parent(from->link);
}

/* epoch: from before anything was asked; 0: the verdict is not kept. */
static unsigned int bw_judge(const struct bw_state *st, struct sk_buff *skb,
			     const struct nf_hook_state *hs,
			     const struct bw_query *q, u64 epoch)
{
	struct bw_decision d;

	bw_classify(st->rules, st->endpoints, q, &d);
	if (d.class == BW_CLASS_NONE)
		return NF_ACCEPT;
	bw_unmanaged_note(skb, q, &d);
	if (unlikely(bw_state_judges_inside(st))) {
		/* What docker-proxy's socket takes goes no further by itself. */
		if (hs->hook != NF_INET_LOCAL_IN && bw_counts_later(q, &d))
			return NF_ACCEPT;
		if (bw_counted_before(q, &d))
			return NF_ACCEPT;
	}
	/* The memo's key has the ports of the connection only. */
	if (epoch && d.action == BW_ACTION_ALLOW && !d.log && !(q->flags & BW_Q_OWN_PORTS))
		bw_memo_store(skb, hs, epoch, bw_count_of(st->counters, d.index));
	return bw_verdict(st, skb, hs, &d);
}

/* What no rule decides; in neighbour discovery a container may have lied. */
static unsigned int bw_verdict_unjudged(const struct bw_state *st, struct sk_buff *skb,
					const struct nf_hook_state *hs, u32 reason,
					const struct bw_origin *o)
{
	struct bw_neighbour from = { .link = o->link, .port = o->port };

	reason = bw_neighbour_check(st->endpoints, skb, hs->pf, reason, &from);
	return bw_verdict_builtin(st, skb, hs, reason);
}

/* A packet that passes through the host, from one device to another. */
static __always_inline unsigned int
bw_judge_passing(const struct bw_state *st, struct sk_buff *skb,
		 const struct nf_hook_state *hs, const struct net_device *in, u64 epoch)
{
	u32 out = bw_guard_link(hs->out->ifindex);
	struct bw_origin from;
	struct bw_query q;
	int reason;

	if (unlikely(!bw_origin_find(skb, in, hs->pf, &from)) &&
	    (out || (in && bw_guard_link(in->ifindex))))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_UNPLACED);
	if (from.kind != BW_KIND_GUARDED && !out)
		return NF_ACCEPT;
	/* Judged at LOCAL_OUT. */
	if (from.kind == BW_KIND_HOST && hs->hook == NF_INET_POST_ROUTING)
		return NF_ACCEPT;
	if (unlikely(st->closed))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf, BW_AT_GUARD, &q);
	if (unlikely(reason >= 0))
		return bw_verdict_unjudged(st, skb, hs, reason, &from);
	bw_party_set_origin(bw_sender(&q), &from);
	bw_party_set_link(bw_receiver(&q), out);
	return bw_judge(st, skb, hs, &q, epoch);
}

/*
 * Out of line, here and below: what is not judged pays for no stack frame, and
 * with arguments where a hook has them, nothing has to be moved.
 */
static noinline __noclone unsigned int
bw_judge_forward(u64 epoch, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);

	if (!st || unlikely(!READ_ONCE(st->at_forward)))
		return NF_ACCEPT;
	if (bw_state_judges_inside(st) || !bw_origin_is_by_device(hs->in))
		epoch = 0;
	return bw_judge_passing(st, skb, hs, hs->in, epoch);
}

/* Where bottom halves may be on: nothing is remembered, see memo.h. */
static noinline __noclone unsigned int
bw_judge_forward_slowly(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	unsigned int verdict;

	local_bh_disable();
	verdict = bw_judge_forward(0, skb, hs);
	local_bh_enable();
	return verdict;
}

/*
 * Between a port of a guarded bridge and the host's IP stack, past the bridge:
 * no policy speaks of that, so nothing passes. The host's own kernel talks to
 * its neighbours there by itself, for each container's start.
 */
static noinline unsigned int bw_refuse_bare_port(struct sk_buff *skb,
						 const struct nf_hook_state *hs,
						 struct net_device *out)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	u32 reason = BW_REASON_BARE_PORT;
	struct nf_hook_state now = *hs;
	unsigned int verdict;

	if (!st)
		return NF_ACCEPT;
	now.out = out;
	if (hs->hook == NF_INET_LOCAL_OUT && bw_packet_is_neighbour(skb, hs->pf))
		reason = BW_REASON_BARE_PORT_NEIGHBOUR;
	local_bh_disable();
	verdict = bw_verdict_builtin(st, skb, &now, reason);
	local_bh_enable();
	return verdict;
}

/*
 * Maybe a port of some bridge by itself. Nothing is remembered of those, and what
 * was remembered of the device before is forgotten, see link.c.
 */
static noinline __noclone unsigned int
bw_forward_by_port(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	if (bw_bare_port(hs->in) || bw_bare_port(hs->out))
		return bw_refuse_bare_port(skb, hs, hs->out);
	return bw_judge_forward_slowly(priv, skb, hs);
}

/* One test for both: no bridged packet has a port for a device here. */
static __always_inline bool bw_is_by_port(const struct nf_hook_state *hs)
{
	return unlikely(netif_is_bridge_port(hs->in) | netif_is_bridge_port(hs->out));
}

/*
 * What bw_classify_plain() may be asked of: a packet of a TCP or UDP connection
 * that nobody announced, received by a device that is no bridge, VRF or loopback.
 * false: it may be another. ct: not picked up in the middle.
 */
static __always_inline bool bw_read_plain(const struct sk_buff *skb,
					  const struct nf_hook_state *hs,
					  const struct nf_conn *ct, bool six,
					  struct bw_plain *q)
{
	const struct nf_conntrack_tuple *original;
	enum ip_conntrack_info ctinfo;
	u8 proto;
	u16 port;

	if (unlikely(nf_bridge_info_exists(skb) || skb->pkt_type == PACKET_LOOPBACK ||
		     hs->in->flags & IFF_LOOPBACK || netif_is_l3_master(hs->in)))
		return false;
	ctinfo = skb->_nfct - (unsigned long)ct;
	if (unlikely(BIT(ctinfo) & (BIT(IP_CT_RELATED) | BIT(IP_CT_RELATED_REPLY)) ||
		     ct->status & (IPS_TEMPLATE | IPS_EXPECTED)))
		return false;
	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	proto = original->dst.protonum;
	if (unlikely(proto != IPPROTO_TCP && proto != IPPROTO_UDP))
		return false;
	port = ntohs(ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u.all);
	q->service = bw_service(proto, port);
	if (unlikely(bw_may_be_dhcp(q->service, six)))
		return false;
	q->in = bw_guard_link(hs->in->ifindex);
	q->out = bw_guard_link(hs->out->ifindex);
	if (unlikely(!(q->in | q->out)))
		return false;
	q->family = six ? AF_INET6 : AF_INET;
	q->reply = CTINFO2DIR(ctinfo) == IP_CT_DIR_REPLY;
	q->direct = !(ct->status & IPS_DST_NAT);
	q->from = (const void *)&ct->tuplehash[q->reply].tuple.src.u3;
	q->to = (const void *)&ct->tuplehash[!q->reply].tuple.src.u3;
	return true;
}

/*
 * Judges what was not remembered. m: where it would be; NULL: it was not looked for,
 * because it has no connection, or one that may have been picked up in the middle, or
 * somebody listens. Then it is judged in full.
 */
static __always_inline unsigned int
bw_judge_missed(u64 epoch, struct sk_buff *skb, const struct nf_hook_state *hs,
		const struct bw_memo *m, bool six)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	const struct nf_conn *ct = bw_ct_of(skb);
	struct bw_plain q = {};
	struct bw_decision d;

	if (bw_is_by_port(hs))
		return bw_forward_by_port(NULL, skb, hs);
	if (unlikely(!st))
		return NF_ACCEPT;
	if (unlikely(!m || st->placement != BW_PLACEMENT_FORWARD || st->closed) ||
	    !bw_read_plain(skb, hs, ct, six, &q) ||
	    !bw_classify_plain(st->rules, st->endpoints, &q, &d))
		return bw_judge_forward(m && bw_memo_missed_again(m, ct) ? epoch : 0, skb, hs);
	BUILD_BUG_ON(BW_ACTION_ALLOW);
	if (unlikely((d.action | d.log) || trace_bw_verdict_enabled()))
		return bw_verdict_of(st, skb, hs, (u64)d.identity[1] << 32 | d.identity[0], d.index,
				     d.action | d.class << 8 | d.log << 16);
	bw_count(st->counters, d.index, skb->len);
	if (unlikely(bw_memo_missed_again(m, ct)))
		bw_memo_store(skb, hs, epoch, bw_count_of(st->counters, d.index));
	return NF_ACCEPT;
}

static noinline __noclone unsigned int
bw_judge_missed4(u64 epoch, struct sk_buff *skb, const struct nf_hook_state *hs,
		 const struct bw_memo *m)
{
	return bw_judge_missed(epoch, skb, hs, m, false);
}

static noinline __noclone unsigned int
bw_judge_missed6(u64 epoch, struct sk_buff *skb, const struct nf_hook_state *hs,
		 const struct bw_memo *m)
{
	return bw_judge_missed(epoch, skb, hs, m, true);
}

static __always_inline unsigned int
bw_pass_forward(struct sk_buff *skb, const struct nf_hook_state *hs, bool six)
{
	u32 in = hs->in->ifindex, out = hs->out->ifindex;
	struct bw_memo *m = NULL;
	u64 epoch;

	if (unlikely(!bw_maybe_guarded(in) && !bw_maybe_guarded(out))) {
		if (bw_is_by_port(hs))
			return bw_forward_by_port(NULL, skb, hs);
		return NF_ACCEPT;
	}
	if (unlikely(!bw_memo_is_exclusive()))
		return bw_forward_by_port(NULL, skb, hs);
	/* Before anything else is read, see memo.h. */
	epoch = smp_load_acquire(&bw_epoch);
	/* Who listens hears of every verdict, so each is taken. */
	if (!trace_bw_verdict_enabled() &&
	    likely(bw_memo_accepts(skb, bw_memo_ends(in, out), six, epoch, &m)))
		return NF_ACCEPT;
	return six ? bw_judge_missed6(epoch, skb, hs, m) :
		     bw_judge_missed4(epoch, skb, hs, m);
}

static unsigned int bw_hook_forward4(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *hs)
{
	return bw_pass_forward(skb, hs, false);
}

static unsigned int bw_hook_forward6(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *hs)
{
	return bw_pass_forward(skb, hs, true);
}

/* Not from a guarded link: most of it is over here, before anything is read. */
static bool bw_host_traffic_matters(const struct bw_state *st,
				    const struct sk_buff *skb)
{
	u16 port;

	if (!st->local_in)
		return false;
	if (st->rules->host_ingress)
		return true;
	return !bw_packet_host_port(skb, IP_CT_DIR_ORIGINAL, &port) ||
	       bw_bit_test(st->endpoints->published_port, port);
}

/*
 * A socket of docker-proxy stands for a container: who reaches it is judged as
 * if it reached the container. Other traffic to the host is judged from guarded
 * links, and from outside only where the policy has a say in it.
 */
static noinline unsigned int bw_judge_local_in(const struct bw_state *st,
					       struct sk_buff *skb,
					       const struct nf_hook_state *hs)
{
	struct bw_origin from;
	struct bw_query q;
	int reason;
	bool in;

	if (unlikely(!bw_origin_find(skb, hs->in, hs->pf, &from)) &&
	    bw_guard_link(hs->in->ifindex))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_UNPLACED);
	in = from.kind == BW_KIND_GUARDED;
	if (!in && !bw_host_traffic_matters(st, skb))
		return NF_ACCEPT;
	if (unlikely(st->closed))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_CLOSED);
	reason = bw_packet_read(skb, hs->pf,
				BW_TO_HOST | (in ? BW_AT_GUARD : 0), &q);
	if (unlikely(reason >= 0)) {
		if (!in && !st->rules->host_ingress)
			return NF_ACCEPT;
		return bw_verdict_unjudged(st, skb, hs, reason, &from);
	}
	bw_party_set_origin(bw_sender(&q), &from);
	bw_party_set(bw_receiver(&q), BW_KIND_HOST, 0, 0);
	if (q.sender == BW_INITIATOR && bw_published_resolve(st->endpoints, &q))
		return bw_judge(st, skb, hs, &q, 0);
	if (!in && !st->rules->host_ingress)
		return NF_ACCEPT;
	return bw_judge(st, skb, hs, &q, 0);
}

/*
 * By local port, in network order: whether what the host receives or sends there
 * needs a look, guarded link or not. Port 0 stands for what has none: protocols
 * that conntrack does not parse, and templates. Set before the state that wants it
 * is in force and cleared after, see bw_exchange().
 */
static bool bw_host_ports[1 << 16];

static bool bw_state_wants_port(const struct bw_state *st, u16 port)
{
	if (!st || !st->local_in)
		return false;
	return !port || st->rules->host_ingress || bw_bit_test(st->endpoints->published_port, port);
}

void bw_hook_add_ports(const struct bw_state *st)
{
	u32 port;

	lockdep_assert_held(&bw_mutex);
	for (port = 0; port < ARRAY_SIZE(bw_host_ports); port++)
		if (bw_state_wants_port(st, port))
			WRITE_ONCE(bw_host_ports[(__force u16)htons(port)], true);
}

void bw_hook_drop_ports(const struct bw_state *st)
{
	u32 port;

	lockdep_assert_held(&bw_mutex);
	for (port = 0; port < ARRAY_SIZE(bw_host_ports); port++)
		if (!bw_state_wants_port(st, port))
			WRITE_ONCE(bw_host_ports[(__force u16)htons(port)], false);
}

/*
 * The host's own traffic that is certainly not judged: no port of a bridge, no
 * guarded link, and a local port that no policy speaks of. Either of a connection's
 * directions has that port as its reply's source, unless it was picked up; of those
 * that the host began it is the peer's, which costs a closer look at most.
 */
static __always_inline bool bw_is_free_of_us(const struct net_device *dev,
					     const struct sk_buff *skb)
{
	const struct nf_conn *ct = bw_ct_of(skb);
	u8 looks;
	u16 port;

	if (unlikely(!ct || bw_ct_may_be_picked_up(ct) || netif_is_bridge_port(dev)))
		return false;
	looks = bw_maybe_guarded(dev->ifindex);
	/* One test of two bytes, where the compiler would make two. */
	OPTIMIZER_HIDE_VAR(looks);
	port = (__force u16)ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u.all;
	return !(looks | bw_host_ports[port]);
}

static noinline __noclone unsigned int
bw_look_at_local_in(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int verdict;

	if (unlikely(bw_bare_port(hs->in)))
		return bw_refuse_bare_port(skb, hs, hs->out);
	if (!st || (!bw_maybe_guarded(hs->in->ifindex) && !bw_host_traffic_matters(st, skb)))
		return NF_ACCEPT;
	/* A queue's listener may send it here again: counters need bottom halves off. */
	local_bh_disable();
	verdict = bw_judge_local_in(st, skb, hs);
	local_bh_enable();
	return verdict;
}

static unsigned int bw_hook_local_in(void *priv, struct sk_buff *skb,
				     const struct nf_hook_state *hs)
{
	if (likely(bw_is_free_of_us(hs->in, skb)))
		return NF_ACCEPT;
	return bw_look_at_local_in(priv, skb, hs);
}

/*
 * What was received and yet comes by LOCAL_OUT was relayed, by IPVS for one.
 * false: it cannot be told whence.
 */
static bool bw_origin_sent(const struct sk_buff *skb, const struct nf_hook_state *hs,
			   struct bw_origin *o)
{
	if (skb->skb_iif)
		return bw_origin_find(skb, dev_get_by_index_rcu(hs->net, skb->skb_iif),
				      hs->pf, o);
	o->kind = BW_KIND_HOST;
	o->link = 0;
	o->port = 0;
	return true;
}

static unsigned int bw_judge_sent(struct sk_buff *skb,
				  const struct nf_hook_state *hs, u32 out)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	unsigned int where = BW_AT_GUARD;
	struct bw_origin from;
	struct bw_query q;
	int reason;

	if (!st)
		return NF_ACCEPT;
	if (unlikely(st->closed))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_CLOSED);
	if (unlikely(!bw_origin_sent(skb, hs, &from)))
		return bw_verdict_builtin(st, skb, hs, BW_REASON_UNPLACED);
	if (from.kind == BW_KIND_HOST)
		where |= BW_FROM_HOST;
	reason = bw_packet_read(skb, hs->pf, where, &q);
	if (unlikely(reason >= 0))
		return bw_verdict_builtin(st, skb, hs, reason);
	bw_party_set_origin(bw_sender(&q), &from);
	bw_party_set_link(bw_receiver(&q), out);
	/* docker-proxy answers a container: judged as its question was. */
	if (q.sender == BW_RESPONDER)
		bw_published_resolve(st->endpoints, &q);
	return bw_judge(st, skb, hs, &q, 0);
}

/* A process may be sending: counters need bottom halves off. */
static noinline unsigned int bw_judge_from_host(struct sk_buff *skb,
						const struct nf_hook_state *hs,
						struct net_device *out, u32 link)
{
	struct nf_hook_state now = *hs;
	unsigned int verdict;

	/* Where it goes, for the verdict and for who is told of it. */
	now.out = out;
	local_bh_disable();
	verdict = bw_judge_sent(skb, &now, link);
	local_bh_enable();
	return verdict;
}

/*
 * What a socket of docker-proxy's says to somebody outside, or to the host: its
 * connection may have been taken before the policy knew the container, or
 * forbidden since.
 */
static noinline unsigned int bw_judge_answer(const struct bw_state *st,
					     struct sk_buff *skb,
					     const struct nf_hook_state *hs,
					     struct net_device *out)
{
	struct nf_hook_state now = *hs;
	unsigned int verdict = NF_ACCEPT;
	struct bw_decision d;
	struct bw_query q;

	now.out = out;
	if (bw_packet_read(skb, hs->pf, BW_FROM_HOST, &q) >= 0)
		return NF_ACCEPT;
	bw_party_set(bw_sender(&q), BW_KIND_HOST, 0, 0);
	bw_party_set_link(bw_receiver(&q), 0);
	if (out->flags & IFF_LOOPBACK)
		bw_party_set(bw_receiver(&q), BW_KIND_HOST, 0, 0);
	if (q.sender != BW_RESPONDER || !bw_published_resolve(st->endpoints, &q))
		return NF_ACCEPT;
	local_bh_disable();
	bw_classify(st->rules, st->endpoints, &q, &d);
	if (d.class != BW_CLASS_NONE)
		verdict = bw_verdict(st, skb, &now, &d);
	local_bh_enable();
	return verdict;
}

static bool bw_answer_matters(const struct bw_state *st,
			      const struct sk_buff *skb)
{
	u16 port;

	return st->local_in &&
	       bw_packet_host_port(skb, IP_CT_DIR_REPLY, &port) &&
	       bw_bit_test(st->endpoints->published_port, port);
}

static noinline __noclone unsigned int
bw_look_at_local_out(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	struct net_device *out = skb_dst(skb)->dev;
	const struct bw_state *st;
	u32 link;

	/* An L3 master's round comes first, the device's own follows: vrf_ip_out(). */
	if (unlikely(netif_is_l3_master(hs->out) && out != hs->out))
		return NF_ACCEPT;
	if (unlikely(bw_bare_port(out)))
		return bw_refuse_bare_port(skb, hs, out);
	link = bw_guard_link(out->ifindex);
	if (link)
		return bw_judge_from_host(skb, hs, out, link);
	st = rcu_dereference(bw_state);
	if (likely(!st || !bw_answer_matters(st, skb)))
		return NF_ACCEPT;
	return bw_judge_answer(st, skb, hs, out);
}

/*
 * Behind NAT, which may have sent the packet another way since it came here. For an
 * L3 master's round the answer is the same.
 */
static unsigned int bw_hook_local_out(void *priv, struct sk_buff *skb,
				      const struct nf_hook_state *hs)
{
	/* Who sends it on needs its route: dst_output(). */
	if (likely(bw_is_free_of_us(skb_dst(skb)->dev, skb)))
		return NF_ACCEPT;
	return bw_look_at_local_out(priv, skb, hs);
}

/*
 * Bridged packets come without an in-device, and multicast that was routed. The
 * host's own were not received; ip6_output() shows the device they leave by as
 * the in-device of its neighbour discovery. Returns whether the packet passes
 * through the host.
 */
static bool bw_in_dev(const struct sk_buff *skb, const struct nf_hook_state *hs,
		      const struct net_device **in)
{
	*in = hs->in;
	if (nf_bridge_get_physoutif(skb))
		return true;
	if (!skb->skb_iif)
		return false;
	if (!hs->in)
		*in = dev_get_by_index_rcu(hs->net, skb->skb_iif);
	return true;
}

/* Placement postrouting. */
static unsigned int bw_hook_post_routing(void *priv, struct sk_buff *skb,
					 const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	const struct net_device *in;
	unsigned int verdict;

	if (!st || !READ_ONCE(st->at_post_routing))
		return NF_ACCEPT;
	/* The host's own: judged at LOCAL_OUT. */
	if (!bw_in_dev(skb, hs, &in))
		return NF_ACCEPT;
	if (!bw_maybe_guarded(hs->out->ifindex) && in && !bw_maybe_guarded(in->ifindex))
		return NF_ACCEPT;
	local_bh_disable();
	verdict = bw_judge_passing(st, skb, hs, in, 0);
	local_bh_enable();
	return verdict;
}

/* Run after NAT and mangle, so that the route is final. Only trace hooks run later. */
#define BW_HOOK_LATE	(NF_IP_PRI_LAST - 1)

/* Those at POST_ROUTING come last: they are there for one placement only. */
#define BW_HOOKS_ALWAYS	6

/* NF_IP6_PRI_FIRST and _LAST are the same numbers. */
static const struct nf_hook_ops bw_hook_ops[BW_HOOK_PLACES] = {
	BW_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_hook_local_in),
	BW_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_hook_forward4),
	BW_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_OUT, BW_HOOK_LATE, bw_hook_local_out),
	BW_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST, bw_hook_local_in),
	BW_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, NF_IP_PRI_FIRST, bw_hook_forward6),
	BW_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_OUT, BW_HOOK_LATE, bw_hook_local_out),
	BW_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, NF_IP_PRI_FIRST, bw_hook_post_routing),
	BW_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, NF_IP_PRI_FIRST, bw_hook_post_routing),
};

/* How many of them are registered. bw_mutex, but for loading and unloading. */
static u32 bw_hooks = BW_HOOKS_ALWAYS;

static u8 bw_conntrack_pf;

int bw_hook_init(struct net *net)
{
	return bw_hook_register(net, bw_hook_ops, BW_HOOKS_ALWAYS,
				&bw_conntrack_pf);
}

void bw_hook_exit(struct net *net)
{
	if (bw_hooks > BW_HOOKS_ALWAYS)
		nf_unregister_net_hooks(net, bw_hook_ops + BW_HOOKS_ALWAYS,
					bw_hooks - BW_HOOKS_ALWAYS);
	bw_hook_unregister(net, bw_hook_ops, BW_HOOKS_ALWAYS, bw_conntrack_pf);
	synchronize_net();
}

static bool bw_hook_needs_late(const struct bw_state *st)
{
	return st && st->placement == BW_PLACEMENT_POSTROUTING;
}

int bw_hook_add_needed(const struct bw_state *st)
{
	int err;

	lockdep_assert_held(&bw_mutex);
	if (!bw_hook_needs_late(st) || bw_hooks > BW_HOOKS_ALWAYS)
		return 0;
	err = nf_register_net_hooks(&init_net, bw_hook_ops + BW_HOOKS_ALWAYS,
				    BW_HOOK_PLACES - BW_HOOKS_ALWAYS);
	if (!err)
		bw_hooks = BW_HOOK_PLACES;
	return err;
}

void bw_hook_drop_unneeded(const struct bw_state *st,
			   const struct bw_state *saved)
{
	lockdep_assert_held(&bw_mutex);
	if (bw_hook_needs_late(st) || bw_hook_needs_late(saved) || bw_hooks == BW_HOOKS_ALWAYS)
		return;
	nf_unregister_net_hooks(&init_net, bw_hook_ops + BW_HOOKS_ALWAYS,
				BW_HOOK_PLACES - BW_HOOKS_ALWAYS);
	bw_hooks = BW_HOOKS_ALWAYS;
}

const struct nf_hook_ops *bw_hook_registered(u32 *n)
{
	lockdep_assert_held(&bw_mutex);
	*n = bw_hooks;
	return bw_hook_ops;
}

bool bw_hook_is_ours(nf_hookfn *fn)
{
	u32 i;

	for (i = 0; i < ARRAY_SIZE(bw_hook_ops); i++)
		if (bw_hook_ops[i].hook == fn)
			return true;
	return false;
}
