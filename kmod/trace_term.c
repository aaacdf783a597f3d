// SPDX-License-Identifier: GPL-2.0-only
/*
 * Comparing packets with terms: pure functions of a record. Either end of the
 * packet, or of its connection on either side of a NAT, may match.
 */
#include "l4.h"
#include "trace_term.h"

static void bw_trace_view_tuple(struct bw_trace_ends *e,
				const struct nf_conntrack_tuple *tuple)
{
	bool ports = bw_l4_has_ports(tuple->dst.protonum);

	e->from = (const u8 *)&tuple->src.u3;
	e->to = (const u8 *)&tuple->dst.u3;
	e->from_port = ports ? ntohs(tuple->src.u.all) : 0;
	e->to_port = ports ? ntohs(tuple->dst.u.all) : 0;
}

void bw_trace_view_init(struct bw_trace_view *v, const struct bw_crossing *c,
			const struct nf_conn *ct, bool host)
{
	unsigned int skip = c->pf == NFPROTO_IPV4 ? 12 : 0;
	bool ports = bw_l4_has_ports(c->proto);
	int i;

	v->c = c;
	v->host = host;
	v->n = 1;
	v->ends[0].from = c->saddr + skip;
	v->ends[0].to = c->daddr + skip;
	v->ends[0].from_port = ports ? c->sport : 0;
	v->ends[0].to_port = ports ? c->dport : 0;
	if (!ct)
		return;
	for (i = 0; i < IP_CT_DIR_MAX; i++)
		bw_trace_view_tuple(&v->ends[v->n++], &ct->tuplehash[i].tuple);
}

static bool bw_trace_in_prefix(const u8 *addr, const u8 *prefix, u8 len)
{
	u8 bytes = len / 8, rest = len % 8;

	if (memcmp(addr, prefix, bytes))
		return false;
	return !rest || !((addr[bytes] ^ prefix[bytes]) >> (8 - rest));
}

static bool bw_term_matches_ends(const struct bw_nl_term *t,
				 const struct bw_trace_ends *e)
{
	if (t->port && t->port != e->from_port && t->port != e->to_port)
		return false;
	return (bw_trace_in_prefix(e->from, t->one, t->one_len) &&
		bw_trace_in_prefix(e->to, t->other, t->other_len)) ||
	       (bw_trace_in_prefix(e->to, t->one, t->one_len) &&
		bw_trace_in_prefix(e->from, t->other, t->other_len));
}

static bool bw_term_matches_place(const struct bw_nl_term *t,
				  const struct bw_trace_view *v)
{
	const struct bw_crossing *c = v->c;

	if (t->netns && t->netns != c->netns)
		return false;
	if (!t->link)
		return true;
	return v->host && (t->link == c->in.ifindex || t->link == c->out.ifindex ||
			   t->link == c->dev.ifindex || t->link == c->physin ||
			   t->link == c->physout || t->link == c->link);
}

bool bw_term_matches(const struct bw_nl_term *t,
		     const struct bw_trace_view *v)
{
	u8 i;

	if (t->family && t->family != (v->c->pf == NFPROTO_IPV4 ? AF_INET : AF_INET6))
		return false;
	if ((t->proto && t->proto != v->c->proto) || !bw_term_matches_place(t, v))
		return false;
	for (i = 0; i < v->n; i++)
		if (bw_term_matches_ends(t, &v->ends[i]))
			return true;
	return false;
}

bool bw_term_is_valid(const struct bw_nl_term *t)
{
	u8 most = t->family == AF_INET ? 32 : t->family == AF_INET6 ? 128 : 0;

	return !(t->flags & ~BW_TERM_F_MASK) && t->one_len <= most && t->other_len <= most &&
	       (!t->family || most);
}
