// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading packets. What conntrack knows comes from its tuples, and only what it
 * does not track is parsed here. Nothing may be guessed: a header that is not
 * there makes the packet malformed, never one of port 0.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <net/ipv6.h>
#include <net/ndisc.h>
#include <net/netfilter/nf_conntrack.h>

#include "l4.h"
#include "packet.h"

/* The packet's own transport, where no connection speaks for it. */
struct bw_header {
	u8 proto;
	u8 type;	/* ICMP only */
	u8 hop_limit;	/* IPv6 only */
	u16 port;	/* destination's; ICMP: type << 8 | code */
};

static bool bw_transport_read(const struct sk_buff *skb, int offset,
			      struct bw_header *h)
{
	__be16 buffer[10], *p;
	int need = 0;

	switch (h->proto) {
	case IPPROTO_TCP:
		need = 20;
		break;
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		need = 12;
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		need = 8;
		break;
	}
	h->port = 0;
	if (!need)
		return true;
	p = skb_header_pointer(skb, offset, need, buffer);
	if (!p)
		return false;
	if (h->proto == IPPROTO_ICMP || h->proto == IPPROTO_ICMPV6) {
		h->port = ntohs(p[0]);
		h->type = h->port >> 8;
	} else {
		h->port = ntohs(p[1]);
	}
	return true;
}

static bool bw_header_read(const struct sk_buff *skb, u8 pf,
			   struct bw_header *h)
{
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4))
		return false;
	h->proto = l4.proto;
	if (pf != NFPROTO_IPV4)
		h->hop_limit = ipv6_hdr(skb)->hop_limit;
	return bw_transport_read(skb, l4.offset, h);
}

/* Without these no IPv6 link works, whatever the policy. */
static bool bw_is_neighbour(const struct bw_header *h, unsigned int where)
{
	if (h->proto != IPPROTO_ICMPV6)
		return false;
	switch (h->type) {
	case NDISC_NEIGHBOUR_SOLICITATION:
	case NDISC_NEIGHBOUR_ADVERTISEMENT:
	case NDISC_ROUTER_SOLICITATION:
		return h->hop_limit == 255;
	case NDISC_ROUTER_ADVERTISEMENT:
	case NDISC_REDIRECT:
		/* A container must not pose as its neighbours' router. */
		return h->hop_limit == 255 &&
		       where & (BW_FROM_HOST | BW_TO_HOST);
	case ICMPV6_MGM_QUERY:
	case ICMPV6_MGM_REPORT:
	case ICMPV6_MGM_REDUCTION:
	case ICMPV6_MLD2_REPORT:
		return h->hop_limit == 1;
	}
	return false;
}

static bool bw_is_error(const struct bw_header *h)
{
	if (h->proto == IPPROTO_ICMPV6)
		return h->type < ICMPV6_INFOMSG_MASK;
	if (h->proto != IPPROTO_ICMP)
		return false;
	switch (h->type) {
	case ICMP_DEST_UNREACH:
	case ICMP_SOURCE_QUENCH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		return true;
	}
	return false;
}

static void bw_own_addresses(const struct sk_buff *skb, u8 pf,
			     struct bw_query *q)
{
	struct bw_party *from = &q->side[BW_INITIATOR];
	struct bw_party *to = &q->side[BW_RESPONDER];

	if (pf == NFPROTO_IPV4) {
		from->addr.v4 = ip_hdr(skb)->saddr;
		to->addr.v4 = ip_hdr(skb)->daddr;
	} else {
		memcpy(&from->addr, &ipv6_hdr(skb)->saddr, sizeof(from->addr));
		memcpy(&to->addr, &ipv6_hdr(skb)->daddr, sizeof(to->addr));
	}
}

/* No connection: untracked, or what conntrack calls invalid. */
static int bw_read_bare(const struct sk_buff *skb, u8 pf, unsigned int where,
			bool untracked, struct bw_query *q)
{
	struct bw_header h = {};
	bool whole = bw_header_read(skb, pf, &h);

	if (whole && bw_is_neighbour(&h, where))
		return BW_REASON_NEIGHBOUR;
	/* An error about a connection that was refused before it existed. */
	if (whole && where & (BW_FROM_HOST | BW_INSIDE_OUT) && bw_is_error(&h))
		return BW_REASON_HOST_ERROR;
	if (where & BW_AT_GUARD && !untracked)
		return BW_REASON_INVALID;
	if (!whole)
		return BW_REASON_MALFORMED;
	bw_own_addresses(skb, pf, q);
	q->service = bw_service(h.proto, h.port);
	q->sender = BW_INITIATOR;
	q->flags = BW_Q_DIRECT;
	return BW_READ_QUERY;
}

static bool bw_same_address(const union nf_inet_addr *a,
			    const union nf_inet_addr *b, u8 pf)
{
	if (pf == NFPROTO_IPV4)
		return a->ip == b->ip;
	return ipv6_addr_equal(&a->in6, &b->in6);
}

/*
 * An expected connection is judged as the one that announced it. It may have
 * begun at either end of it; if at neither, its parent cannot speak for it.
 * Returns the connection to judge by and corrects whose packet this is.
 */
static const struct nf_conn *bw_outermost_master(const struct nf_conn *ct, u8 pf,
						 u8 *sender)
{
	const struct nf_conn *top = ct;
	const union nf_inet_addr *began;

	while (test_bit(IPS_EXPECTED_BIT, &top->status) && top->master)
		top = top->master;
	if (top == ct || nf_ct_l3num(top) != nf_ct_l3num(ct))
		return ct;
	began = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u3;
	if (bw_same_address(began, &top->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u3, pf))
		return top;
	if (!bw_same_address(began, &top->tuplehash[IP_CT_DIR_REPLY].tuple.src.u3, pf))
		return ct;
	*sender = *sender == BW_INITIATOR ? BW_RESPONDER : BW_INITIATOR;
	return top;
}

static u16 bw_tuple_port(const struct nf_conn *ct)
{
	const struct nf_conntrack_tuple *original =
		&ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;

	switch (original->dst.protonum) {
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return original->dst.u.icmp.type << 8 | original->dst.u.icmp.code;
	}
	return bw_l4_has_ports(original->dst.protonum) ?
	       ntohs(ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u.all) : 0;
}

static void bw_read_source(const struct sk_buff *skb, u8 pf, struct bw_query *q)
{
	if (pf == NFPROTO_IPV4)
		q->source.v4 = ip_hdr(skb)->saddr;
	else
		memcpy(&q->source, &ipv6_hdr(skb)->saddr, sizeof(q->source));
}

static void bw_tuple_address(union bw_addr *to, const union nf_inet_addr *from,
			     u8 pf)
{
	if (pf == NFPROTO_IPV4)
		to->v4 = from->ip;
	else
		memcpy(to, from, 16);
}

/*
 * A container that is a router (Docker in Docker) translates addresses itself:
 * it is judged by the connection as it is outside, whoever stands behind it.
 */
static void bw_read_outside(const struct nf_conn *ct, u8 pf,
			    unsigned int where, struct bw_query *q)
{
	const struct nf_conntrack_tuple *original, *reply;
	u8 own = where & BW_INSIDE_OUT ? q->sender : !q->sender;

	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	if (own == BW_INITIATOR) {
		bw_tuple_address(&q->side[BW_INITIATOR].addr, &reply->dst.u3, pf);
		return;
	}
	bw_tuple_address(&q->side[BW_RESPONDER].addr, &original->dst.u3, pf);
	if (bw_l4_has_ports(original->dst.protonum))
		q->service = bw_service(original->dst.protonum,
					ntohs(original->dst.u.all));
}

static int bw_read_tracked(const struct sk_buff *skb, u8 pf, unsigned int where,
			   const struct nf_conn *ct,
			   enum ip_conntrack_info ctinfo, struct bw_query *q)
{
	const struct nf_conntrack_tuple *original, *reply;
	bool related = ctinfo == IP_CT_RELATED || ctinfo == IP_CT_RELATED_REPLY;

	q->flags = 0;
	q->sender = CTINFO2DIR(ctinfo) == IP_CT_DIR_ORIGINAL ? BW_INITIATOR :
							       BW_RESPONDER;
	if (unlikely(test_bit(IPS_EXPECTED_BIT, &ct->status))) {
		ct = bw_outermost_master(ct, pf, &q->sender);
	} else if (unlikely(related)) {
		if (where & (BW_FROM_HOST | BW_INSIDE_OUT))
			return BW_REASON_HOST_ERROR;
		q->flags |= BW_Q_ERROR;
		bw_read_source(skb, pf, q);
	}
	original = &ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;
	reply = &ct->tuplehash[IP_CT_DIR_REPLY].tuple;
	if (pf == NFPROTO_IPV4) {
		q->side[BW_INITIATOR].addr.v4 = original->src.u3.ip;
		q->side[BW_RESPONDER].addr.v4 = reply->src.u3.ip;
	} else {
		memcpy(&q->side[BW_INITIATOR].addr, &original->src.u3, 16);
		memcpy(&q->side[BW_RESPONDER].addr, &reply->src.u3, 16);
	}
	q->service = bw_service(original->dst.protonum, bw_tuple_port(ct));
	if (!(ct->status & IPS_DST_NAT))
		q->flags |= BW_Q_DIRECT;
	if (unlikely(where & (BW_INSIDE_IN | BW_INSIDE_OUT)))
		bw_read_outside(ct, pf, where, q);
	return BW_READ_QUERY;
}

int bw_packet_read(const struct sk_buff *skb, u8 pf, unsigned int where,
		   struct bw_query *q)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	u8 family = pf == NFPROTO_IPV4 ? AF_INET : AF_INET6;

	q->side[BW_INITIATOR].family = family;
	q->side[BW_RESPONDER].family = family;
	/* Without ct, ctinfo says at most that the packet is untracked. */
	if (!ct)
		return bw_read_bare(skb, pf, where, ctinfo == IP_CT_UNTRACKED, q);
	if (unlikely(nf_ct_is_template(ct)))
		return bw_read_bare(skb, pf, where, false, q);
	return bw_read_tracked(skb, pf, where, ct, ctinfo, q);
}

bool bw_packet_is_neighbour(const struct sk_buff *skb, u8 pf)
{
	struct bw_header h = {};

	return bw_header_read(skb, pf, &h) && bw_is_neighbour(&h, BW_FROM_HOST);
}

bool bw_packet_host_port(const struct sk_buff *skb,
			 enum ip_conntrack_dir dir, u16 *port)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);

	if (!ct || nf_ct_is_template(ct))
		return false;
	*port = CTINFO2DIR(ctinfo) == dir ?
		ntohs(ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u.all) : 0;
	return true;
}
