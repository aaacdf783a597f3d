// SPDX-License-Identifier: GPL-2.0-only
/*
 * The classifier: a pure function of a query and an immutable ruleset. It must
 * never allocate, lock, sleep or look at a packet; it builds in user space too.
 *
 * DOC: theory of operation
 *
 * A policy is a matrix: rows are initiators, columns are responders, and a cell
 * of it says which rule holds for which service. User space resolves names,
 * labels and CIDRs; what arrives here is numbers.
 *
 *   address --(endpoint hash, or search in the partition)--> identity
 *   the initiator's identity gives the row, the responder's the column
 *   (row, column) --(pair hash)--> a run of spans
 *   service = proto << 16 | port --(search in the run)--> rule
 *
 * Example: 172.18.0.5 (a web container, identity 7) connects to 172.18.0.9:5432
 * (a database, identity 9), both behind br-1a2b:
 *   - both kinds are "guarded", so the class is inter_container;
 *   - one probe of the endpoint hash a side gives identities 7 and 9, and the
 *     sender's link and port are those of the entry, so nothing is spoofed;
 *   - identity[7].row = 2, identity[9].column = 4; the pair (2, 4) has the run
 *     { [0x060000..0x061537] deny 3, [0x061538..0x061538] allow 5, ... };
 *   - 0x061538 (TCP, 5432) falls into the second: rule 5, allow.
 * Without the pair, or between the spans, the class default holds.
 *
 * An address on a guarded side that no endpoint has is looked up in the routed
 * prefixes (routed.c): behind a port of its prefix's set it has the prefix's
 * identity, behind another it is spoofed. What is in no prefix is unmanaged and closes
 * the connection, whatever the rules say: a policy speaks of containers it knows.
 * Only a group address (multicast, 255.255.255.255) as responder is looked up
 * in the partition instead, because nobody can be known to own it. A DHCP client
 * that has no address yet is the container whose port it speaks from; as
 * responder its link-local address is looked up like a group's.
 *
 * A TCP connection that conntrack picked up in the middle has no known
 * initiator: conntrack takes who spoke first after its entry was lost. Both ways
 * round are looked up, see bw_decide_picked_up().
 *
 * Cache lines touched per packet, by design, besides the packet and its
 * conntrack entry (three lines of that: tuples and status), which are hot:
 *   - remembered (memo.h), as most packets are: a byte for each device, the
 *     epoch, one line of this CPU's memo (an entry is one, aligned) and one of
 *     its counters (a counter is 16 bytes);
 *   - else also: two endpoint slots (16 bytes in IPv4, so a run of four shares a
 *     line; 32 in IPv6), two identities, one pair slot, one span for runs of up
 *     to four. The verdict is packed into the span, so that no rule is read. A
 *     side that is world or host costs a search in the partition in place of
 *     its endpoint slot: the logarithm of its cells, the first steps of which
 *     all packets share.
 * None of these is written but this CPU's own: its counter, and for what was not
 * remembered a note of that, or its memo. Nothing shared is written per packet.
 */
#include "classify.h"

static const u8 bw_class_by_kind[__BW_KIND_MAX][__BW_KIND_MAX] = {
	[BW_KIND_WORLD] = {
		[BW_KIND_WORLD] = BW_CLASS_NONE,
		[BW_KIND_HOST] = BW_CLASS_HOST_INGRESS,
		[BW_KIND_GUARDED] = BW_CLASS_INGRESS,
	},
	[BW_KIND_HOST] = {
		[BW_KIND_WORLD] = BW_CLASS_NONE,
		[BW_KIND_HOST] = BW_CLASS_NONE,
		[BW_KIND_GUARDED] = BW_CLASS_FROM_HOST,
	},
	[BW_KIND_GUARDED] = {
		[BW_KIND_WORLD] = BW_CLASS_EGRESS,
		[BW_KIND_HOST] = BW_CLASS_TO_HOST,
		[BW_KIND_GUARDED] = BW_CLASS_INTER_CONTAINER,
	},
};

static __always_inline struct bw_ep_loc *
bw_ep4_find(const struct bw_endpoints *e, __be32 addr)
{
	struct bw_ep4 *slots = e->v4.slots;
	u32 i = bw_table_home(&e->v4, bw_ep4_hash(&e->v4, addr));

	for (;; i = (i + 1) & e->v4.mask) {
		if (!slots[i].addr)
			return NULL;
		if (slots[i].addr == addr)
			return &slots[i].loc;
	}
}

static struct bw_ep_loc *bw_ep6_find(const struct bw_endpoints *e,
				     const union bw_addr *addr)
{
	struct bw_ep6 *slots = e->v6.slots;
	u32 i = bw_table_home(&e->v6, bw_hash2(&e->v6, addr->v6[0],
					       addr->v6[1]));

	for (;; i = (i + 1) & e->v6.mask) {
		if (!slots[i].used)
			return NULL;
		if (slots[i].addr[0] == addr->v6[0] &&
		    slots[i].addr[1] == addr->v6[1])
			return &slots[i].loc;
	}
}

struct bw_ep_loc *bw_ep_find(const struct bw_endpoints *e, u8 family,
			     const union bw_addr *addr)
{
	if (family == AF_INET)
		return bw_ep4_find(e, addr->v4);
	return bw_ep6_find(e, addr);
}

/* The endpoints of a port, where they are all of one identity; else NULL. */
static noinline const struct bw_ep_loc *bw_ep_at_port(const struct bw_endpoints *e,
						      const struct bw_party *p)
{
	const struct bw_table *t = p->family == AF_INET ? &e->port4 : &e->port6;
	struct bw_ep_loc **slots = t->slots;
	u32 i = bw_table_home(t, bw_port_hash(t, p->link, p->port));

	for (; slots[i]; i = (i + 1) & t->mask)
		if (slots[i]->link == p->link && slots[i]->port == p->port)
			return slots[i];
	return NULL;
}

/* The last cell that starts at or below the address; cell 0 starts at 0. */
static __always_inline const struct bw_cell *
bw_cell4_find(const struct bw_rules *r, __be32 addr)
{
	u32 key = be32_to_cpu(addr), low = 0, n = r->n_cell4;

	while (n > 1) {
		u32 half = n / 2;

		low += r->start4[low + half] <= key ? half : 0;
		n -= half;
	}
	return &r->cell4[low];
}

static const struct bw_cell *bw_cell6_find(const struct bw_rules *r,
					   const union bw_addr *addr)
{
	u64 high = be64_to_cpu((__force __be64)addr->v6[0]);
	u64 rest = be64_to_cpu((__force __be64)addr->v6[1]);
	u32 low = 0, n = r->n_cell6;

	while (n > 1) {
		u32 half = n / 2;
		const u64 *start = r->start6[low + half];

		if (start[0] < high || (start[0] == high && start[1] <= rest))
			low += half;
		n -= half;
	}
	return &r->cell6[low];
}

static __always_inline u32 bw_cell_identity(const struct bw_rules *r,
					    const struct bw_party *p, u8 kind)
{
	if (p->family == AF_INET)
		return bw_cell4_find(r, p->addr.v4)->identity[kind];
	return bw_cell6_find(r, &p->addr)->identity[kind];
}

static bool bw_is_group(const struct bw_party *p)
{
	if (p->family == AF_INET)
		return (p->addr.raw[0] & 0xf0) == 0xe0 ||
		       p->addr.v4 == (__force __be32)U32_MAX;
	return p->addr.raw[0] == 0xff;
}

static __always_inline bool bw_differs(u32 shown, u32 known)
{
	return unlikely(shown != known) && shown && known;
}

/* A router behind the guard may report on its neighbour's flow. */
static noinline bool bw_error_source_is_genuine(const struct bw_endpoints *e,
						const struct bw_query *q,
						const struct bw_party *p, bool *known)
{
	const struct bw_ep_loc *loc = bw_ep_find(e, p->family, &q->source);
	enum bw_routed_place place;
	u32 id;

	*known = true;
	if (loc)
		return !bw_differs(p->link, loc->link) && !bw_differs(p->port, loc->port);
	place = bw_routed_look(&e->routed, p->family, &q->source, p->link, p->port, &id);
	*known = place != BW_ROUTED_NO_PREFIX && place != BW_ROUTED_CLOSED;
	return place != BW_ROUTED_ELSEWHERE;
}

static u32 bw_identify_addressless(const struct bw_rules *r, const struct bw_endpoints *e,
				   const struct bw_query *q, u8 side, bool sender)
{
	const struct bw_party *p = &q->side[side];
	const struct bw_ep_loc *loc;

	if (side == BW_RESPONDER)
		return bw_is_group(p) || q->flags & BW_Q_DHCP ?
		       bw_cell_identity(r, p, BW_KIND_WORLD) : BW_ID_UNMANAGED;
	if (!(q->flags & BW_Q_DHCP) || !sender || !p->port)
		return BW_ID_UNMANAGED;
	loc = bw_ep_at_port(e, p);
	return loc ? READ_ONCE(loc->identity) : BW_ID_UNMANAGED;
}

/* An address behind a guard that no endpoint has. Returns as bw_identify_guarded(). */
static noinline bool bw_identify_missed(const struct bw_rules *r, const struct bw_endpoints *e,
					const struct bw_query *q, u8 side, bool sender, u32 *id)
{
	const struct bw_party *p = &q->side[side];

	switch (bw_routed_look(&e->routed, p->family, &p->addr, p->link, p->port, id)) {
	case BW_ROUTED_NO_PREFIX:
		*id = bw_identify_addressless(r, e, q, side, sender);
		return true;
	case BW_ROUTED_ELSEWHERE:
		return !sender;
	default:
		return true;
	}
}

/* false: the packet's source is somebody else's, or shows up elsewhere. */
static __always_inline bool bw_identify_guarded(const struct bw_rules *r,
						const struct bw_endpoints *e,
						const struct bw_query *q,
						u8 side, u32 *id)
{
	const struct bw_party *p = &q->side[side];
	bool sender = q->sender == side, known;
	const struct bw_ep_loc *loc;

	*id = BW_ID_UNMANAGED;
	if (sender && unlikely(q->flags & BW_Q_ERROR)) {
		if (!bw_error_source_is_genuine(e, q, p, &known))
			return false;
		if (!known)
			return true;
		sender = false;
	}
	loc = likely(p->family == AF_INET) ? bw_ep4_find(e, p->addr.v4) :
					      bw_ep6_find(e, &p->addr);
	if (unlikely(!loc))
		return bw_identify_missed(r, e, q, side, sender, id);
	/* A closed endpoint proves nothing. */
	if (bw_differs(p->link, loc->link) || bw_differs(p->port, loc->port))
		return !sender || READ_ONCE(loc->identity) == BW_ID_UNMANAGED;
	*id = READ_ONCE(loc->identity);
	return true;
}

static __always_inline bool bw_identify(const struct bw_rules *r,
					const struct bw_endpoints *e,
					const struct bw_query *q, u8 side,
					u32 *id)
{
	const struct bw_party *p = &q->side[side];

	if (p->kind == BW_KIND_GUARDED)
		return bw_identify_guarded(r, e, q, side, id);
	*id = bw_cell_identity(r, p, p->kind);
	return true;
}

static __always_inline const struct bw_nl_span *
bw_span_find(const struct bw_rules *r, u32 row, u32 column, u32 service)
{
	const struct bw_pair *slots = r->pairs.slots;
	const struct bw_nl_span *span;
	u32 i = bw_table_home(&r->pairs, bw_pair_hash(&r->pairs, row, column));
	u32 n;

	for (;; i = (i + 1) & r->pairs.mask) {
		if (!slots[i].first)
			return NULL;
		if (slots[i].row == row && slots[i].column == column)
			break;
	}
	span = &r->span[slots[i].first];
	for (n = slots[i].count; n > 1;) {
		u32 half = n / 2;

		span += span[half].lo <= service ? half : 0;
		n -= half;
	}
	return service >= span->lo && service <= span->hi ? span : NULL;
}

static __always_inline void bw_decide(struct bw_decision *d, u32 index,
				      u8 action, bool log)
{
	d->index = index;
	d->action = action;
	d->log = log;
}

/* What a rule says of two identities, or else the default of d->class. */
static __always_inline void bw_decide_by_rules(const struct bw_rules *r, u32 row, u32 column,
					       u32 service, bool direct, struct bw_decision *d)
{
	const struct bw_nl_span *span = bw_span_find(r, row, column, service);
	u32 verdict = BW_RULE_NONE;

	if (span)
		verdict = direct ? span->direct : span->rule;
	if (verdict != BW_RULE_NONE)
		bw_decide(d, verdict & BW_SPAN_INDEX,
			  verdict >> BW_SPAN_ACTION & 3,
			  verdict & BW_SPAN_LOG);
	else if (direct)
		bw_decide(d, BW_REASON_DIRECT, BW_ACTION_DENY, false);
	else
		bw_decide(d, BW_REASON_DEFAULT_INGRESS + d->class,
			  r->defaults[d->class], false);
}

static bool bw_refuses(u8 action)
{
	return action == BW_ACTION_DENY || action == BW_ACTION_REJECT;
}

/*
 * What answers may as well begin: a rule that refuses that holds, because the
 * two cannot be told apart. See bw_read_own_ports().
 */
static noinline void bw_refuse_back(const struct bw_rules *r, const struct bw_query *q,
				    struct bw_decision *d)
{
	const struct bw_nl_span *span;
	u8 action;

	span = bw_span_find(r, r->identity[d->identity[BW_RESPONDER]].row,
			    r->identity[d->identity[BW_INITIATOR]].column, q->back);
	if (!span || span->rule == BW_RULE_NONE)
		return;
	action = span->rule >> BW_SPAN_ACTION & 3;
	if (bw_refuses(action))
		bw_decide(d, span->rule & BW_SPAN_INDEX, action, span->rule & BW_SPAN_LOG);
}

/* One of the two ways round in which a picked-up connection may have begun. */
struct bw_way {
	u32 verdict;	/* as in a span; BW_RULE_NONE: the default decides */
	u32 reason;	/* of the default */
	u8 action;	/* of the rule, or of the default */
	u8 class;
};

/* from: the side that would have begun it. */
static void bw_way_find(const struct bw_rules *r, const struct bw_query *q,
			const struct bw_decision *d, u8 from, bool direct, struct bw_way *w)
{
	const struct bw_nl_span *span;

	w->verdict = BW_RULE_NONE;
	w->reason = 0;
	w->action = BW_ACTION_ALLOW;
	w->class = bw_class_by_kind[q->side[from].kind][q->side[!from].kind];
	if (w->class == BW_CLASS_NONE)
		return;
	span = bw_span_find(r, r->identity[d->identity[from]].row,
			    r->identity[d->identity[!from]].column,
			    from == BW_INITIATOR ? q->service : q->back);
	if (span)
		w->verdict = direct ? span->direct : span->rule;
	if (w->verdict != BW_RULE_NONE) {
		w->action = w->verdict >> BW_SPAN_ACTION & 3;
		return;
	}
	w->reason = direct ? BW_REASON_DIRECT : BW_REASON_DEFAULT_INGRESS + w->class;
	w->action = direct ? BW_ACTION_DENY : r->defaults[w->class];
}

/* How much a way's rule counts against the other's: refusals, queue, allow, none. */
static u8 bw_way_weight(const struct bw_way *w)
{
	if (w->verdict == BW_RULE_NONE)
		return 0;
	if (bw_refuses(w->action))
		return 3;
	return w->action == BW_ACTION_QUEUE ? 2 : 1;
}

/*
 * Which side's way decides where no rule matches either. own: the side that
 * conntrack takes for the initiator. Its default is enough where its port is one
 * that clients have: then the other way round nobody would serve there.
 */
static u8 bw_way_by_default(const struct bw_endpoints *e, const struct bw_query *q,
			    const struct bw_way w[2], u8 own)
{
	u16 client = own == BW_INITIATOR ? q->back : q->service;

	if (bw_refuses(w[own].action) || !bw_refuses(w[!own].action))
		return own;
	if (client >= BW_CLIENT_PORTS && !bw_bit_test(e->server_port, client))
		return own;
	return !own;
}

/*
 * A connection without a known initiator. A rule that refuses it either way
 * round wins, else one that queues or allows it either way round: that stream
 * lives on. Without a rule, what was revoked must not come back because its
 * server spoke first, but what the policy allows by default shall outlive the
 * loss of its entry.
 */
static noinline void bw_decide_picked_up(const struct bw_rules *r, const struct bw_endpoints *e,
					 const struct bw_query *q, bool direct,
					 struct bw_decision *d)
{
	u8 weight, other, side = BW_INITIATOR;
	u32 first = d->identity[BW_INITIATOR];
	struct bw_way w[2];

	bw_way_find(r, q, d, BW_INITIATOR, direct, &w[BW_INITIATOR]);
	bw_way_find(r, q, d, BW_RESPONDER, false, &w[BW_RESPONDER]);
	weight = bw_way_weight(&w[BW_INITIATOR]);
	other = bw_way_weight(&w[BW_RESPONDER]);
	if (other > weight)
		side = BW_RESPONDER;
	else if (!weight)
		side = bw_way_by_default(e, q, w, q->flags & BW_Q_TURNED ? BW_RESPONDER :
									  BW_INITIATOR);
	if (side == BW_RESPONDER) {
		d->identity[BW_INITIATOR] = d->identity[BW_RESPONDER];
		d->identity[BW_RESPONDER] = first;
	}
	d->class = w[side].class;
	if (w[side].verdict == BW_RULE_NONE)
		bw_decide(d, w[side].reason, w[side].action, false);
	else
		bw_decide(d, w[side].verdict & BW_SPAN_INDEX, w[side].action,
			  w[side].verdict & BW_SPAN_LOG);
}

/*
 * Both ends hold the connection open: each learns by a reset, when it sends, that
 * it is over, and begins another, whose initiator is known. Nothing answers an
 * ICMP error.
 */
static noinline void bw_classify_picked_up(const struct bw_rules *r, const struct bw_endpoints *e,
					   const struct bw_query *q, bool direct,
					   struct bw_decision *d)
{
	if (q->back)
		bw_decide_picked_up(r, e, q, direct, d);
	if (q->flags & BW_Q_PICKED_UP && bw_refuses(d->action) && !(q->flags & BW_Q_ERROR))
		d->action = BW_ACTION_REJECT;
}

void bw_classify(const struct bw_rules *r, const struct bw_endpoints *e,
		 const struct bw_query *q, struct bw_decision *d)
{
	const struct bw_party *from = &q->side[BW_INITIATOR];
	const struct bw_party *to = &q->side[BW_RESPONDER];
	bool genuine, direct;

	d->class = bw_class_by_kind[from->kind][to->kind];
	d->identity[BW_INITIATOR] = BW_ID_UNMANAGED;
	d->identity[BW_RESPONDER] = BW_ID_UNMANAGED;
	if (unlikely(d->class == BW_CLASS_NONE)) {
		bw_decide(d, 0, BW_ACTION_ALLOW, false);
		return;
	}
	genuine = bw_identify(r, e, q, BW_INITIATOR, &d->identity[0]);
	genuine &= bw_identify(r, e, q, BW_RESPONDER, &d->identity[1]);
	if (unlikely(!genuine)) {
		bw_decide(d, BW_REASON_SPOOFED, BW_ACTION_DENY, false);
		return;
	}
	if (unlikely((from->kind == BW_KIND_GUARDED &&
		      d->identity[0] == BW_ID_UNMANAGED) ||
		     (to->kind == BW_KIND_GUARDED &&
		      d->identity[1] == BW_ID_UNMANAGED))) {
		bw_decide(d, BW_REASON_UNMANAGED, BW_ACTION_DENY, false);
		return;
	}

	direct = d->class == BW_CLASS_INGRESS && q->flags & BW_Q_DIRECT;
	bw_decide_by_rules(r, r->identity[d->identity[0]].row,
			   r->identity[d->identity[1]].column, q->service, direct, d);
	if (unlikely(q->flags & (BW_Q_PICKED_UP | BW_Q_EITHER_WAY)))
		bw_classify_picked_up(r, e, q, direct, d);
	else if (unlikely(q->back) && d->action == BW_ACTION_ALLOW)
		bw_refuse_back(r, q, d);
}

/* false: what bw_classify() has to say of it is not as simple. */
static __always_inline bool bw_identify_plain(const struct bw_rules *r,
					      const struct bw_endpoints *e, u8 family,
					      const union bw_addr *addr, u32 link, u32 *id)
{
	const struct bw_ep_loc *loc;

	if (!link) {
		*id = (family == AF_INET ? bw_cell4_find(r, addr->v4) :
					   bw_cell6_find(r, addr))->identity[BW_KIND_WORLD];
		return true;
	}
	loc = family == AF_INET ? bw_ep4_find(e, addr->v4) : bw_ep6_find(e, addr);
	if (unlikely(!loc || bw_differs(link, loc->link)))
		return false;
	*id = READ_ONCE(loc->identity);
	return likely(*id != BW_ID_UNMANAGED);
}

/* Into its caller, where it needs no stack: see build.c. */
__always_inline bool bw_classify_plain(const struct bw_rules *r, const struct bw_endpoints *e,
				       const struct bw_plain *q, struct bw_decision *d)
{
	const struct bw_nl_identity *from, *to;
	u32 sender, receiver;

	if (unlikely(!bw_identify_plain(r, e, q->family, q->from, q->in, &sender) ||
		     !bw_identify_plain(r, e, q->family, q->to, q->out, &receiver)))
		return false;
	from = &r->identity[sender];
	to = &r->identity[receiver];
	if (q->reply) {
		d->class = q->in && q->out ? BW_CLASS_INTER_CONTAINER :
			   q->in ? BW_CLASS_INGRESS : BW_CLASS_EGRESS;
		d->identity[BW_INITIATOR] = receiver;
		d->identity[BW_RESPONDER] = sender;
		bw_decide_by_rules(r, to->row, from->column, q->service,
				   d->class == BW_CLASS_INGRESS && q->direct, d);
		return true;
	}
	d->class = q->in && q->out ? BW_CLASS_INTER_CONTAINER :
		   q->in ? BW_CLASS_EGRESS : BW_CLASS_INGRESS;
	d->identity[BW_INITIATOR] = sender;
	d->identity[BW_RESPONDER] = receiver;
	bw_decide_by_rules(r, from->row, to->column, q->service,
			   d->class == BW_CLASS_INGRESS && q->direct, d);
	return true;
}

static const struct bw_published *
bw_published_find(const struct bw_endpoints *e, u8 family, u8 proto, u16 port,
		  const union bw_addr *addr)
{
	const struct bw_table *t = &e->published;
	const struct bw_published *slots = t->slots;
	u32 i = bw_table_home(t, bw_published_hash(t, family, proto, port,
						   addr));

	for (;; i = (i + 1) & t->mask) {
		const struct bw_published *p = &slots[i];

		if (!p->family)
			return NULL;
		if (p->port == port && p->proto == proto &&
		    p->family == family && p->addr.v6[0] == addr->v6[0] &&
		    p->addr.v6[1] == addr->v6[1])
			return p;
	}
}

bool bw_published_resolve(const struct bw_endpoints *e, struct bw_query *q)
{
	struct bw_party *to = &q->side[BW_RESPONDER];
	union bw_addr addr = { .v6 = { 0, 0 } };
	const struct bw_published *p;
	u16 port = q->service;
	u8 proto = q->service >> 16;

	if (!bw_bit_test(e->published_port, port))
		return false;
	if (to->family == AF_INET)
		addr.v4 = to->addr.v4;
	else
		addr = to->addr;
	p = bw_published_find(e, to->family, proto, port, &addr);
	if (!p) {
		memset(&addr, 0, sizeof(addr));
		p = bw_published_find(e, to->family, proto, port, &addr);
	}
	if (!p)
		return false;
	to->addr = p->to_addr;
	to->family = p->to_family;
	to->kind = BW_KIND_GUARDED;
	to->link = 0;
	to->port = 0;
	q->service = bw_service(proto, p->to_port);
	q->flags &= ~BW_Q_DIRECT;
	/* A socket that listens has not begun it. */
	q->back = 0;
	return true;
}
