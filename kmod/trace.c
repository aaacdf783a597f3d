// SPDX-License-Identifier: GPL-2.0-only
/*
 * Traces. The hooks only look: they must never change a packet, a verdict or a
 * connection, take a lock or allocate, and they are registered only while a
 * trace runs. A namespace that comes up meanwhile gets them too; where that
 * fails the namespace lives on without, and the trace says so.
 *
 * Lock order: bw_trace_mutex -> pernet_ops_rwsem. So nothing that the kernel
 * calls for a namespace may take the mutex.
 */
#define CREATE_TRACE_POINTS
#include "trace_event.h"
#undef CREATE_TRACE_POINTS

#include <linux/hash.h>
#include <linux/jhash.h>
#include <linux/netfilter_bridge.h>
#include <linux/netfilter_ipv4.h>
#include <linux/netlink.h>
#include <linux/notifier.h>
#include <linux/workqueue.h>
#include <net/l3mdev.h>
#include <net/netns/generic.h>

#include "reason.h"
#include "trace.h"
#include "trace_read.h"
#include "trace_term.h"

#define BW_TRACE_CLAIM_BITS	10

struct bw_trace {
	struct rcu_head rcu;
	u32 id;
	struct bw_owner owner;
	u32 rate;
	u32 events;
	unsigned long until;	/* jiffies */
	int state;		/* enum bw_trace_state */
	atomic_t left;		/* events */
	unsigned long window;	/* jiffies: when the current second began */
	atomic_t in_window;
	atomic64_t withheld;
	/* Packets that were asked for, and their connections: so they stay. */
	u32 packet[1 << BW_TRACE_CLAIM_BITS];
	u32 flow[1 << BW_TRACE_CLAIM_BITS];
	u32 n_term;
	u32 n_except;		/* of them; they come first */
	struct bw_nl_term term[];
};

struct bw_trace_net {
	bool on;
};

static DEFINE_MUTEX(bw_trace_mutex);
static struct bw_trace __rcu *bw_traces[BW_MAX_TRACES];
static bool bw_trace_on;
static u32 bw_trace_last_id;
static unsigned int bw_trace_net_id __read_mostly;
static atomic_t bw_trace_blind;

static void bw_trace_expire(struct work_struct *work);
static DECLARE_WORK(bw_trace_work, bw_trace_expire);
static DECLARE_DELAYED_WORK(bw_trace_clock, bw_trace_expire);

/* Whether a trace asks for a packet. */

/* The same for both directions; never 0. */
static u32 bw_trace_flow(const struct bw_crossing *c,
			 const struct bw_trace_ends *e)
{
	u32 len = c->pf == NFPROTO_IPV4 ? 4 : 16;

	return jhash_1word(c->proto, jhash(e->from, len, e->from_port) +
			   jhash(e->to, len, e->to_port)) ? : 1;
}

static u32 *bw_trace_flow_slot(struct bw_trace *t, u32 flow)
{
	return &t->flow[flow >> (32 - BW_TRACE_CLAIM_BITS)];
}

/*
 * Where nobody knows of a NAT, only having been seen before it tells that a
 * packet is asked for, and only its connection that the answer is.
 */
static void bw_trace_claim(struct bw_trace *t, const struct bw_trace_view *v,
			   u32 *packet)
{
	u32 flow;
	u8 i;

	if (READ_ONCE(*packet) != v->c->print)
		WRITE_ONCE(*packet, v->c->print);
	for (i = 0; i < v->n; i++) {
		flow = bw_trace_flow(v->c, &v->ends[i]);
		if (READ_ONCE(*bw_trace_flow_slot(t, flow)) != flow)
			WRITE_ONCE(*bw_trace_flow_slot(t, flow), flow);
	}
}

static bool bw_trace_matches(struct bw_trace *t, const struct bw_trace_view *v)
{
	u32 *packet = &t->packet[hash_ptr(v->c->skb, BW_TRACE_CLAIM_BITS)];
	u32 flow, i;
	bool asks;

	for (i = 0; i < t->n_except; i++)
		if (bw_term_matches(&t->term[i], v))
			return false;
	if (i == t->n_term)
		return true;
	flow = bw_trace_flow(v->c, &v->ends[0]);
	asks = READ_ONCE(*packet) == v->c->print ||
	       READ_ONCE(*bw_trace_flow_slot(t, flow)) == flow;
	for (; i < t->n_term && !asks; i++)
		asks = bw_term_matches(&t->term[i], v);
	if (asks)
		bw_trace_claim(t, v, packet);
	return asks;
}

/* Counts; false: not now, or not any more. */
static bool bw_trace_within_limits(struct bw_trace *t)
{
	unsigned long now = jiffies, window = READ_ONCE(t->window);

	if (READ_ONCE(t->state) != BW_TRACE_RUNNING ||
	    time_after_eq(now, t->until))
		return false;
	if (time_after_eq(now, window + HZ) &&
	    cmpxchg(&t->window, window, now) == window)
		atomic_set(&t->in_window, 0);
	if (atomic_inc_return(&t->in_window) > t->rate) {
		atomic64_inc(&t->withheld);
		return false;
	}
	if (atomic_dec_if_positive(&t->left) >= 0)
		return true;
	if (cmpxchg(&t->state, BW_TRACE_RUNNING, BW_TRACE_EVENTS) == BW_TRACE_RUNNING)
		schedule_work(&bw_trace_work);
	return false;
}

/* The hooks. */

/*
 * What a bridge passes up to its host comes to PRE_ROUTING twice. br_netfilter
 * ends the second round behind us or ahead of us, as luck has it: it is skipped.
 */
static bool bw_trace_is_second_round(const struct sk_buff *skb,
				     const struct nf_hook_state *hs)
{
	return hs->hook == NF_INET_PRE_ROUTING && nf_bridge_info_exists(skb) &&
	       !nf_bridge_in_prerouting(skb) && skb->dev &&
	       !netif_is_l3_master(skb->dev);
}

static unsigned int bw_trace_hook(void *last, struct sk_buff *skb,
				  const struct nf_hook_state *hs)
{
	const struct nf_conn *ct;
	struct bw_trace_view v;
	struct bw_crossing c;
	struct bw_trace *t;
	int i;

	if (!trace_bw_crossing_enabled() || bw_trace_is_second_round(skb, hs))
		return NF_ACCEPT;
	ct = bw_trace_packet(skb, hs, &c);
	c.last = !!last;
	bw_trace_view_init(&v, &c, ct, net_eq(hs->net, &init_net));
	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = rcu_dereference(bw_traces[i]);
		if (!t || !bw_trace_matches(t, &v) || !bw_trace_within_limits(t))
			continue;
		if (!c.trace)
			bw_trace_packet_details(skb, hs, ct, &c);
		c.trace = t->id;
		trace_bw_crossing(&c);
	}
	return NF_ACCEPT;
}

/* Out of line: only while somebody listens. */
void bw_trace_verdict(const struct bw_state *st, const struct sk_buff *skb,
		      const struct nf_hook_state *hs,
		      const struct bw_decision *d)
{
	struct bw_judgement j = {
		.skb = skb,
		.pf = hs->pf,
		.hook = hs->hook,
		.netns = hs->net->ns.inum,
		.action = d->action,
		.class = d->class,
		.audit = st->mode == BW_MODE_AUDIT,
		.index = d->index,
		.rule = bw_decision_name(st, d),
	};
	const struct nf_conn *ct;
	struct bw_trace_view v;
	struct bw_crossing c;
	struct bw_trace *t;
	bool none = true;
	int i;

	/* A frame that carries no packet a trace could ask for. */
	if (hs->pf == NFPROTO_BRIDGE)
		return;
	ct = bw_trace_packet(skb, hs, &c);
	bw_trace_view_init(&v, &c, ct, net_eq(hs->net, &init_net));
	j.print = c.print;
	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = rcu_dereference(bw_traces[i]);
		if (!t)
			continue;
		none = false;
		if (!bw_trace_matches(t, &v) || !bw_trace_within_limits(t))
			continue;
		j.trace = t->id;
		trace_bw_verdict(&j);
	}
	if (none)
		trace_bw_verdict(&j);
}

#define BW_TRACE_FIRST	NULL
#define BW_TRACE_LAST	((void *)1)

#define BW_TRACE_HOOK(family, place, which) {		\
	.hook = bw_trace_hook,				\
	.priv = BW_TRACE_##which,			\
	.pf = family,					\
	.hooknum = place,				\
	.priority = NF_IP_PRI_##which,			\
}

/* NF_IP6_PRI_FIRST and LAST are the same numbers. */
static const struct nf_hook_ops bw_trace_ops[] = {
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_PRE_ROUTING, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_PRE_ROUTING, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_IN, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_FORWARD, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_OUT, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_LOCAL_OUT, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV4, NF_INET_POST_ROUTING, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_PRE_ROUTING, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_PRE_ROUTING, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_IN, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_FORWARD, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_OUT, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_LOCAL_OUT, LAST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, FIRST),
	BW_TRACE_HOOK(NFPROTO_IPV6, NF_INET_POST_ROUTING, LAST),
};

bool bw_trace_is_ours(nf_hookfn *fn)
{
	return fn == bw_trace_hook;
}

static int __net_init bw_trace_net_init(struct net *net)
{
	struct bw_trace_net *tn = net_generic(net, bw_trace_net_id);

	tn->on = !nf_register_net_hooks(net, bw_trace_ops,
					ARRAY_SIZE(bw_trace_ops));
	if (!tn->on) {
		atomic_inc(&bw_trace_blind);
		pr_warn_ratelimited("no memory to trace in a network namespace\n");
	}
	/* No container may fail to start for a trace. */
	return 0;
}

static void __net_exit bw_trace_net_pre_exit(struct net *net)
{
	struct bw_trace_net *tn = net_generic(net, bw_trace_net_id);

	if (tn->on)
		nf_unregister_net_hooks(net, bw_trace_ops,
					ARRAY_SIZE(bw_trace_ops));
	else
		atomic_dec(&bw_trace_blind);
}

static struct pernet_operations bw_trace_pernet = {
	.init = bw_trace_net_init,
	.pre_exit = bw_trace_net_pre_exit,
	.id = &bw_trace_net_id,
	.size = sizeof(struct bw_trace_net),
};

/* Beginning and ending. */

static struct bw_trace *bw_trace_at(int i)
{
	return rcu_dereference_protected(bw_traces[i],
					 lockdep_is_held(&bw_trace_mutex));
}

static int bw_trace_find(const struct bw_owner *who)
{
	struct bw_trace *t;
	int i;

	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = bw_trace_at(i);
		if (t && t->owner.sk == who->sk)
			return i;
	}
	return -ENOENT;
}

static void bw_trace_report_fill(const struct bw_trace *t, struct bw_trace_report *r)
{
	unsigned long now = jiffies;

	r->id = t->id;
	r->state = READ_ONCE(t->state);
	r->seconds = r->state == BW_TRACE_RUNNING && time_before(now, t->until) ?
		     (t->until - now) / HZ : 0;
	r->reported = t->events - max(atomic_read(&t->left), 0);
	r->withheld = atomic64_read(&t->withheld);
	r->blind = atomic_read(&bw_trace_blind);
}

/* Ends what has run out; without a running trace the hooks go. */
static void bw_trace_expire(struct work_struct *work)
{
	unsigned long now = jiffies, next = 0;
	struct bw_trace *t;
	bool any = false;
	int i;

	mutex_lock(&bw_trace_mutex);
	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = bw_trace_at(i);
		if (!t || READ_ONCE(t->state) != BW_TRACE_RUNNING)
			continue;
		if (time_after_eq(now, t->until)) {
			cmpxchg(&t->state, BW_TRACE_RUNNING, BW_TRACE_TIME);
			continue;
		}
		next = any ? min(next, t->until - now) : t->until - now;
		any = true;
	}
	if (any) {
		cancel_delayed_work(&bw_trace_clock);
		schedule_delayed_work(&bw_trace_clock, next);
	} else if (bw_trace_on) {
		unregister_pernet_subsys(&bw_trace_pernet);
		bw_trace_on = false;
	}
	mutex_unlock(&bw_trace_mutex);
}

/* Those that leave something out ahead of the others. */
static void bw_trace_copy_terms(struct bw_trace *t, const struct bw_trace_request *request)
{
	u32 i;

	for (i = 0; i < request->n_term; i++)
		if (request->term[i].flags & BW_TERM_F_EXCEPT)
			t->term[t->n_term++] = request->term[i];
	t->n_except = t->n_term;
	for (i = 0; i < request->n_term; i++)
		if (!(request->term[i].flags & BW_TERM_F_EXCEPT))
			t->term[t->n_term++] = request->term[i];
}

static struct bw_trace *bw_trace_new(const struct bw_owner *who,
				     const struct bw_trace_request *request)
{
	struct bw_trace *t = kzalloc(struct_size(t, term, request->n_term),
				     GFP_KERNEL_ACCOUNT);

	if (!t)
		return NULL;
	bw_trace_last_id = bw_trace_last_id + 1 ? : 1;
	t->id = bw_trace_last_id;
	t->owner = bw_owner_get(who);
	t->rate = request->rate;
	t->events = request->events;
	t->until = jiffies + request->seconds * HZ;
	t->state = BW_TRACE_RUNNING;
	t->window = jiffies;
	atomic_set(&t->left, request->events);
	bw_trace_copy_terms(t, request);
	return t;
}

/* Takes NULL; no packet uses it any more. */
static void bw_trace_free(struct bw_trace *t)
{
	if (t)
		bw_owner_put(&t->owner);
	kfree(t);
}

static int bw_trace_slot(const struct bw_owner *who, const char **why)
{
	int i;

	if (bw_trace_find(who) >= 0) {
		*why = "this socket has a trace already";
		return -EEXIST;
	}
	for (i = 0; i < BW_MAX_TRACES; i++)
		if (!bw_trace_at(i))
			return i;
	*why = "as many traces run as can";
	return -EUSERS;
}

static int bw_trace_start(const struct bw_owner *who, const struct bw_trace_request *request,
			  struct bw_trace_report *r, const char **why)
{
	int slot = bw_trace_slot(who, why), err;
	struct bw_trace *t;

	if (slot < 0)
		return slot;
	t = bw_trace_new(who, request);
	if (!t)
		return -ENOMEM;
	if (!bw_trace_on) {
		err = register_pernet_subsys(&bw_trace_pernet);
		if (err) {
			bw_trace_free(t);
			return err;
		}
		bw_trace_on = true;
	}
	rcu_assign_pointer(bw_traces[slot], t);
	schedule_work(&bw_trace_work);
	bw_trace_report_fill(t, r);
	return 0;
}

int bw_trace_begin(const struct bw_owner *who, const struct bw_trace_request *request,
		   struct bw_trace_report *r, const char **why)
{
	u32 i;
	int err;

	for (i = 0; i < request->n_term; i++) {
		if (bw_term_is_valid(&request->term[i]))
			continue;
		*why = "a term's family, flags or prefix length is wrong";
		return -EINVAL;
	}
	mutex_lock(&bw_trace_mutex);
	err = bw_trace_start(who, request, r, why);
	mutex_unlock(&bw_trace_mutex);
	return err;
}

int bw_trace_get(const struct bw_owner *who, struct bw_trace_report *r)
{
	int slot;

	mutex_lock(&bw_trace_mutex);
	slot = bw_trace_find(who);
	if (slot >= 0)
		bw_trace_report_fill(bw_trace_at(slot), r);
	mutex_unlock(&bw_trace_mutex);
	return slot < 0 ? slot : 0;
}

static void bw_trace_end_at(int slot, struct bw_trace_report *r)
{
	struct bw_trace *t = bw_trace_at(slot);

	cmpxchg(&t->state, BW_TRACE_RUNNING, BW_TRACE_ENDED);
	bw_trace_report_fill(t, r);
	RCU_INIT_POINTER(bw_traces[slot], NULL);
	bw_owner_put(&t->owner);
	kfree_rcu(t, rcu);
	schedule_work(&bw_trace_work);
}

int bw_trace_end(const struct bw_owner *who, struct bw_trace_report *r)
{
	int slot;

	mutex_lock(&bw_trace_mutex);
	slot = bw_trace_find(who);
	if (slot >= 0)
		bw_trace_end_at(slot, r);
	mutex_unlock(&bw_trace_mutex);
	return slot < 0 ? slot : 0;
}

u32 bw_trace_count(void)
{
	struct bw_trace *t;
	u32 n = 0;
	int i;

	mutex_lock(&bw_trace_mutex);
	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = bw_trace_at(i);
		n += t && READ_ONCE(t->state) == BW_TRACE_RUNNING;
	}
	mutex_unlock(&bw_trace_mutex);
	return n;
}

/* The trace of a socket that is being closed. bw_trace_mutex is held. */
static int bw_trace_find_closed(const struct netlink_notify *n)
{
	struct bw_trace *t;
	int i;

	for (i = 0; i < BW_MAX_TRACES; i++) {
		t = bw_trace_at(i);
		if (t && bw_owner_closes(&t->owner, n))
			return i;
	}
	return -ENOENT;
}

/* Whether there is a trace of that port number, without a lock. */
static bool bw_trace_has_port(u32 portid)
{
	const struct bw_trace *t;
	bool found = false;
	int i;

	rcu_read_lock();
	for (i = 0; i < BW_MAX_TRACES && !found; i++) {
		t = rcu_dereference(bw_traces[i]);
		found = t && t->owner.portid == portid;
	}
	rcu_read_unlock();
	return found;
}

/*
 * Called for every netlink socket of the host that closes: one that owns nothing
 * must not wait for a trace to start. The socket's own trace started before.
 */
static int bw_trace_event(struct notifier_block *nb, unsigned long event,
			  void *ptr)
{
	const struct netlink_notify *n = ptr;
	struct bw_trace_report r;
	int slot;

	if (!bw_owner_event(event, n) || !bw_trace_has_port(n->portid))
		return NOTIFY_DONE;
	mutex_lock(&bw_trace_mutex);
	slot = bw_trace_find_closed(n);
	if (slot >= 0)
		bw_trace_end_at(slot, &r);
	mutex_unlock(&bw_trace_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block bw_trace_notifier = {
	.notifier_call = bw_trace_event,
};

int bw_trace_init(void)
{
	return netlink_register_notifier(&bw_trace_notifier);
}

void bw_trace_exit(void)
{
	struct bw_trace *gone[BW_MAX_TRACES];
	int i;

	netlink_unregister_notifier(&bw_trace_notifier);
	mutex_lock(&bw_trace_mutex);
	for (i = 0; i < BW_MAX_TRACES; i++) {
		gone[i] = bw_trace_at(i);
		RCU_INIT_POINTER(bw_traces[i], NULL);
	}
	mutex_unlock(&bw_trace_mutex);
	/* From here on no packet can have work scheduled. */
	synchronize_net();
	cancel_work_sync(&bw_trace_work);
	cancel_delayed_work_sync(&bw_trace_clock);
	if (bw_trace_on)
		unregister_pernet_subsys(&bw_trace_pernet);
	for (i = 0; i < BW_MAX_TRACES; i++)
		bw_trace_free(gone[i]);
}
