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
#include <linux/tcp.h>
#include <net/ipv6.h>
#include <net/ndisc.h>
#include <net/netfilter/nf_conntrack.h>

#include "l4.h"
#include "neighbour.h"
#include "packet.h"
#include "pickedup.h"

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
	h->from_port = 0;
	h->flags = 0;
	if (!need)
		return true;
	p = skb_header_pointer(skb, offset, need, buffer);
	if (!p)
		return false;
	if (h->proto == IPPROTO_ICMP || h->proto == IPPROTO_ICMPV6) {
		h->port = ntohs(p[0]);
		h->type = h->port >> 8;
	} else {
		h->from_port = ntohs(p[0]);
		h->port = ntohs(p[1]);
	}
	if (h->proto == IPPROTO_TCP)
		h->flags = ntohs(p[6]);
	return true;
}

bool bw_header_read(const struct sk_buff *skb, u8 pf, struct bw_header *h)
{
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4))
		return false;
	h->proto = l4.proto;
	return bw_transport_read(skb, l4.offset, h);
}

bool bw_quoted_read(const struct sk_buff *skb, u8 pf, struct bw_header *h)
{
	__be16 buffer[2], *p;
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4) || !bw_l4_find_quoted(skb, pf, l4.offset + 8, &l4))
		return false;
	p = skb_header_pointer(skb, l4.offset, sizeof(buffer), buffer);
	if (!p)
		return false;
	h->proto = l4.proto;
	h->type = 0;
	h->from_port = ntohs(p[0]);
	h->port = ntohs(p[1]);
	/* Linux quotes more than RFC 792 asks for: TCP's flags, too. */
	h->flags = 0;
	if (h->proto == IPPROTO_TCP && !skb_copy_bits(skb, l4.offset + 12, buffer, 2))
		h->flags = ntohs(buffer[0]);
	return true;
}

bool bw_is_error(const struct bw_header *h)
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

bool bw_is_redirect(const struct bw_header *h)
{
	return (h->proto == IPPROTO_ICMP && h->type == ICMP_REDIRECT) ||
	       (h->proto == IPPROTO_ICMPV6 && h->type == NDISC_REDIRECT);
}

/* All_DHCP_Relay_Agents_and_Servers: ff02::1:2, RFC 8415 section 7.1. */
static bool bw_is_dhcp6_group(const union bw_addr *a)
{
	static const u8 group[16] = { 0xff, 0x02, [13] = 1, [15] = 2 };

	return !memcmp(a, group, sizeof(group));
}

static bool bw_is_link_local(const union bw_addr *a)
{
	return a->raw[0] == 0xfe && (a->raw[1] & 0xc0) == 0x80;
}

/*
 * A client without an address speaks, or a server to its link-local address.
 * from_port: the initiator's. Other answers need no exception: they go to an
 * address that the policy knows, or to everybody.
 */
static void bw_mark_dhcp(struct bw_query *q, u8 pf, u16 from_port)
{
	const union bw_addr *from = &q->side[BW_INITIATOR].addr;
	const union bw_addr *to = &q->side[BW_RESPONDER].addr;
	bool dhcp;

	if (likely(!bw_may_be_dhcp(q->service, pf != NFPROTO_IPV4)))
		return;
	if (pf == NFPROTO_IPV4) {
		dhcp = from_port == BW_DHCP_CLIENT && !from->v4 &&
		       to->v4 == htonl(INADDR_BROADCAST);
	} else if (q->service == bw_service(IPPROTO_UDP, BW_DHCP6_SERVER)) {
		dhcp = from_port == BW_DHCP6_CLIENT && bw_is_link_local(from) &&
		       bw_is_dhcp6_group(to);
	} else {
		dhcp = from_port == BW_DHCP6_SERVER && bw_is_link_local(to);
	}
	if (unlikely(dhcp))
		q->flags |= BW_Q_DHCP;
}

int bw_read_alone(const struct sk_buff *skb, u8 pf, const struct bw_header *h,
		  struct bw_query *q)
{
	bw_own_addresses(skb, pf, q);
	q->service = bw_service(h->proto, h->port);
	q->back = 0;
	q->sender = BW_INITIATOR;
	q->flags = BW_Q_DIRECT;
	bw_mark_dhcp(q, pf, h->from_port);
	return BW_READ_QUERY;
}

/* No connection: untracked, or what conntrack calls invalid. */
static int bw_read_bare(const struct sk_buff *skb, u8 pf, unsigned int where,
			bool untracked, struct bw_query *q)
{
	struct bw_header h = {};
	bool whole = bw_header_read(skb, pf, &h);

	/* An error about a connection that was refused before it existed. */
	if (whole && where & (BW_FROM_HOST | BW_INSIDE_OUT) && bw_is_error(&h))
		return BW_REASON_HOST_ERROR;
	if (where & BW_AT_GUARD && !untracked)
		return BW_REASON_INVALID;
	if (!whole)
		return BW_REASON_MALFORMED;
	return bw_read_alone(skb, pf, &h, q);
}

static bool bw_same_address(const union nf_inet_addr *a,
			    const union nf_inet_addr *b, u8 pf)
{
	if (pf == NFPROTO_IPV4)
		return a->ip == b->ip;
	return ipv6_addr_equal(&a->in6, &b->in6);
}

static const union nf_inet_addr *bw_end(const struct nf_conn *ct,
					enum ip_conntrack_dir dir)
{
	return &ct->tuplehash[dir].tuple.src.u3;
}

/* Whether one's initiator and responder are the other's ends, seen from dir. */
static bool bw_same_ends(const struct nf_conn *ct, const struct nf_conn *other,
			 enum ip_conntrack_dir dir, u8 pf)
{
	return bw_same_address(bw_end(ct, IP_CT_DIR_ORIGINAL), bw_end(other, dir), pf) &&
	       bw_same_address(bw_end(ct, IP_CT_DIR_REPLY), bw_end(other, !dir), pf);
}

/*
 * An expected connection is judged as the one that announced it, and that one
 * likewise, as long as both have the same two ends: nobody can announce a third
 * party. Returns the connection to judge by and corrects whose packet this is.
 */
static const struct nf_conn *bw_outermost_master(const struct nf_conn *ct, u8 pf,
						 u8 *sender)
{
	while (test_bit(IPS_EXPECTED_BIT, &ct->status) && ct->master &&
	       nf_ct_l3num(ct->master) == nf_ct_l3num(ct)) {
		if (!bw_same_ends(ct, ct->master, IP_CT_DIR_ORIGINAL, pf)) {
			if (!bw_same_ends(ct, ct->master, IP_CT_DIR_REPLY, pf))
				break;
			*sender = !*sender;
		}
		ct = ct->master;
	}
	return ct;
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

/*
 * Whether the kernel's conntrack does not parse the protocol (which ones it does
 * is its configuration's choice): all ports are one connection then.
 */
static bool bw_tuple_lacks_ports(const struct nf_conn *ct)
{
	const struct nf_conntrack_tuple *original =
		&ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple;

	switch (original->dst.protonum) {
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
	case IPPROTO_UDPLITE:
		return !original->src.u.all && !original->dst.u.all;
	}
	return false;
}

/*
 * The service from the packet itself. What the answering side sends may as well
 * begin a connection the other way round, to a port that is no client's: q->back.
 * false: the ports are not there.
 */
static bool bw_read_own_ports(const struct sk_buff *skb, u8 pf, struct bw_query *q)
{
	struct bw_header h;

	q->flags |= BW_Q_OWN_PORTS;
	if (q->flags & BW_Q_ERROR) {
		/* The quoted packet went the other way. */
		if (!bw_quoted_read(skb, pf, &h))
			return false;
		q->service = bw_service(h.proto, q->sender == BW_INITIATOR ? h.from_port : h.port);
		return true;
	}
	if (!bw_header_read(skb, pf, &h))
		return false;
	if (q->sender == BW_INITIATOR) {
		q->service = bw_service(h.proto, h.port);
		return true;
	}
	q->service = bw_service(h.proto, h.from_port);
	if (h.port < BW_CLIENT_PORTS)
		q->back = bw_service(h.proto, h.port);
	return true;
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
	if (bw_l4_has_ports(original->dst.protonum) && !(q->flags & BW_Q_OWN_PORTS))
		q->service = bw_service(original->dst.protonum,
					ntohs(original->dst.u.all));
}

/* The other way round, for a connection whose initiator nobody knows. */
static void bw_turn(struct bw_query *q)
{
	const struct bw_party initiator = q->side[BW_INITIATOR];
	u32 service = q->service;

	q->side[BW_INITIATOR] = q->side[BW_RESPONDER];
	q->side[BW_RESPONDER] = initiator;
	q->service = q->back;
	q->back = service;
	q->sender = !q->sender;
	q->flags |= BW_Q_TURNED;
}

/* Of an entry of TCP: false for an ICMP error, true for what cannot be read. */
static bool bw_has_syn(const struct sk_buff *skb, u8 pf)
{
	const struct tcphdr *tcp;
	struct tcphdr buffer;
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4))
		return true;
	if (l4.proto != IPPROTO_TCP)
		return false;
	tcp = skb_header_pointer(skb, l4.offset, sizeof(buffer), &buffer);
	return !tcp || tcp->syn;
}

/*
 * Of a connection picked up in the middle, what it would be had the other end
 * begun it. Where the packet was addressed to a published port, it is no
 * question who began it: the other end would have spoken from another port. Nor
 * is it where a SYN is: conntrack lets it and its answer pass within the entry,
 * so that a server could begin connections under the rule that lets it serve.
 * The host is always the responder, since a socket of docker-proxy may be its
 * end.
 */
static noinline void bw_read_picked_up(const struct sk_buff *skb, u8 pf,
				       const struct nf_conn *ct, unsigned int where,
				       struct bw_query *q)
{
	__be16 port = ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u.tcp.port;
	u8 receiver = !q->sender, host = BW_NOBODY, own = BW_NOBODY;

	q->flags |= BW_Q_PICKED_UP;
	if (ct->status & IPS_DST_NAT || bw_has_syn(skb, pf))
		return;
	/* A container that translates addresses itself: see bw_read_outside(). */
	if (where & (BW_INSIDE_IN | BW_INSIDE_OUT))
		own = where & BW_INSIDE_OUT ? q->sender : receiver;
	if (own == BW_INITIATOR)
		port = ct->tuplehash[IP_CT_DIR_REPLY].tuple.dst.u.tcp.port;
	q->back = bw_service(IPPROTO_TCP, ntohs(port));
	if (where & (BW_FROM_HOST | BW_TO_HOST))
		host = where & BW_FROM_HOST ? q->sender : receiver;
	if (host == BW_INITIATOR)
		bw_turn(q);
}

/*
 * Whether the packet speaks about the connection that conntrack gave it rather
 * than for it. An expected connection's own packets are "related" too, until it
 * is answered.
 */
static bool bw_is_about(const struct sk_buff *skb, u8 pf, const struct nf_conn *ct,
			enum ip_conntrack_info ctinfo)
{
	struct bw_l4 l4;

	if (ctinfo == IP_CT_RELATED_REPLY)
		return true;
	if (ctinfo != IP_CT_RELATED)
		return false;
	if (!test_bit(IPS_EXPECTED_BIT, &ct->status))
		return true;
	bw_l4_find(skb, pf, &l4);
	return l4.proto != nf_ct_protonum(ct);
}

/* Without BW_Q_ERROR the result decides; else the connection is what q is about. */
static int bw_read_about(const struct sk_buff *skb, u8 pf, unsigned int where,
			 struct bw_query *q)
{
	struct bw_header h = {};

	if (where & (BW_FROM_HOST | BW_INSIDE_OUT))
		return BW_REASON_HOST_ERROR;
	if (where & BW_AT_GUARD && bw_header_read(skb, pf, &h) && bw_is_redirect(&h))
		return bw_read_alone(skb, pf, &h, q);
	q->flags |= BW_Q_ERROR;
	bw_read_source(skb, pf, q);
	return BW_READ_QUERY;
}

static int bw_read_tracked(const struct sk_buff *skb, u8 pf, unsigned int where,
			   const struct nf_conn *ct,
			   enum ip_conntrack_info ctinfo, struct bw_query *q)
{
	const struct nf_conntrack_tuple *original, *reply;
	bool own_ports;
	int reason;

	q->flags = 0;
	q->back = 0;
	q->sender = CTINFO2DIR(ctinfo) == IP_CT_DIR_ORIGINAL ? BW_INITIATOR :
							       BW_RESPONDER;
	if (unlikely(bw_is_about(skb, pf, ct, ctinfo))) {
		reason = bw_read_about(skb, pf, where, q);
		if (!(q->flags & BW_Q_ERROR))
			return reason;
	}
	own_ports = bw_tuple_lacks_ports(ct);
	if (unlikely(test_bit(IPS_EXPECTED_BIT, &ct->status)))
		ct = bw_outermost_master(ct, pf, &q->sender);
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
	if (unlikely(own_ports) && !bw_read_own_ports(skb, pf, q))
		return BW_REASON_MALFORMED;
	if (!(ct->status & IPS_DST_NAT))
		q->flags |= BW_Q_DIRECT;
	bw_mark_dhcp(q, pf, ntohs(original->src.u.all));
	if (unlikely(where & (BW_INSIDE_IN | BW_INSIDE_OUT)))
		bw_read_outside(ct, pf, where, q);
	if (unlikely(bw_ct_is_picked_up(ct)))
		bw_read_picked_up(skb, pf, ct, where, q);
	return BW_READ_QUERY;
}

/* Who may send more than a container's own kernel would: the host, and who is outside. */
static bool bw_is_bounded(unsigned int where)
{
	return where & BW_AT_GUARD && !(where & BW_FROM_HOST);
}

int bw_packet_read(const struct sk_buff *skb, u8 pf, unsigned int where,
		   struct bw_query *q)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	u8 family = pf == NFPROTO_IPV4 ? AF_INET : AF_INET6;
	int reason;

	q->side[BW_INITIATOR].family = family;
	q->side[BW_RESPONDER].family = family;
	/* Conntrack tracks IGMP, but neither discovery nor MLD. */
	if (pf == NFPROTO_IPV4 ? ip_hdr(skb)->protocol == IPPROTO_IGMP : !ct) {
		reason = bw_neighbour_read(skb, pf, bw_is_bounded(where));
		if (reason != BW_NOT_NEIGHBOUR)
			return reason;
	}
	/* Without ct, ctinfo says at most that the packet is untracked. */
	if (!ct)
		return bw_read_bare(skb, pf, where, ctinfo == IP_CT_UNTRACKED, q);
	if (unlikely(nf_ct_is_template(ct)))
		return bw_read_bare(skb, pf, where, false, q);
	return bw_read_tracked(skb, pf, where, ct, ctinfo, q);
}

bool bw_packet_is_neighbour(const struct sk_buff *skb, u8 pf)
{
	return bw_neighbour_read(skb, pf, false) == BW_REASON_NEIGHBOUR;
}

bool bw_packet_host_port(const struct sk_buff *skb,
			 enum ip_conntrack_dir dir, u16 *port)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct bw_header h;

	if (!ct || nf_ct_is_template(ct))
		return false;
	if (unlikely(bw_tuple_lacks_ports(ct))) {
		/* A family's number is its NFPROTO_. */
		if (!bw_header_read(skb, nf_ct_l3num(ct), &h))
			return false;
		*port = dir == IP_CT_DIR_ORIGINAL ? h.port : h.from_port;
		return true;
	}
	*port = 0;
	if (CTINFO2DIR(ctinfo) == dir)
		*port = ntohs(ct->tuplehash[IP_CT_DIR_REPLY].tuple.src.u.all);
	else if (unlikely(bw_ct_is_picked_up(ct)))
		*port = ntohs(ct->tuplehash[IP_CT_DIR_ORIGINAL].tuple.src.u.all);
	return true;
}
