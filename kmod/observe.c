// SPDX-License-Identifier: GPL-2.0-only
/*
 * Judging for audit by headers alone. No conntrack is asked, so that who began a
 * connection follows from the packet: from TCP's and ICMP's own words, else from
 * the ports, else it is open and both ways round are looked up. Must never change
 * a byte of a frame, nor what becomes of it.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <net/ndisc.h>
#include <net/tcp.h>

#include "guard.h"
#include "l4.h"
#include "neighbour.h"
#include "observe.h"
#include "packet.h"
#include "unmanaged.h"
#include "verdict.h"

#define BW_NOT_COUNTED	-2	/* beside BW_READ_QUERY */

/* Who began what a packet belongs to. */
enum bw_began {
	BW_BEGAN_SENDER,
	BW_BEGAN_RECEIVER,
	BW_BEGAN_OPEN,		/* the packet does not tell */
};

static bool bw_is_server_port(const struct bw_endpoints *e, u8 proto, u16 port)
{
	if (proto == IPPROTO_TCP)
		return bw_bit_test(e->server_port, port);
	return proto == IPPROTO_UDP && bw_bit_test(e->udp_server_port, port);
}

/* A published port serves; else one below those that clients have. */
static enum bw_began bw_began_by_ports(const struct bw_endpoints *e, const struct bw_header *h)
{
	bool from = bw_is_server_port(e, h->proto, h->from_port);
	bool to = bw_is_server_port(e, h->proto, h->port);

	if (from == to) {
		from = h->from_port < BW_CLIENT_PORTS;
		to = h->port < BW_CLIENT_PORTS;
	}
	if (from == to)
		return BW_BEGAN_OPEN;
	return to ? BW_BEGAN_SENDER : BW_BEGAN_RECEIVER;
}

static enum bw_began bw_began(const struct bw_endpoints *e, const struct bw_header *h)
{
	if (h->proto == IPPROTO_TCP && h->flags & TCPHDR_SYN)
		return h->flags & TCPHDR_ACK ? BW_BEGAN_RECEIVER : BW_BEGAN_SENDER;
	return bw_l4_has_ports(h->proto) ? bw_began_by_ports(e, h) : BW_BEGAN_OPEN;
}

static bool bw_is_icmp(const struct bw_header *h)
{
	return h->proto == IPPROTO_ICMP || h->proto == IPPROTO_ICMPV6;
}

/*
 * The type of the request that an ICMP message is or answers, as conntrack pairs
 * them; -1: neither.
 */
static int bw_icmp_request(const struct bw_header *h)
{
	if (h->proto == IPPROTO_ICMPV6) {
		switch (h->type) {
		case ICMPV6_ECHO_REQUEST:
		case ICMPV6_NI_QUERY:
			return h->type;
		case ICMPV6_ECHO_REPLY:
		case ICMPV6_NI_REPLY:
			return h->type - 1;
		}
		return -1;
	}
	switch (h->type) {
	case ICMP_ECHO:
	case ICMP_TIMESTAMP:
	case ICMP_INFO_REQUEST:
	case ICMP_ADDRESS:
		return h->type;
	case ICMP_ECHOREPLY:
		return ICMP_ECHO;
	case ICMP_TIMESTAMPREPLY:
	case ICMP_INFO_REPLY:
	case ICMP_ADDRESSREPLY:
		return h->type - 1;
	}
	return -1;
}

/* Discovery and membership: conntrack tracks none of it. */
static bool bw_icmp_is_untracked(const struct bw_header *h)
{
	return h->proto == IPPROTO_ICMPV6 &&
	       ((h->type >= ICMPV6_MGM_QUERY && h->type < NDISC_REDIRECT) ||
		h->type == ICMPV6_MLD2_REPORT);
}

static void bw_query_set(struct bw_query *q, const struct bw_header *h, enum bw_began began)
{
	u32 from = bw_service(h->proto, h->from_port), to = bw_service(h->proto, h->port);

	q->service = to;
	if (began == BW_BEGAN_OPEN) {
		q->flags |= BW_Q_EITHER_WAY;
		q->back = from;
	} else if (began == BW_BEGAN_RECEIVER) {
		q->service = from;
		q->sender = BW_RESPONDER;
		swap(q->side[BW_INITIATOR], q->side[BW_RESPONDER]);
	}
}

/*
 * Makes the query of a packet that is no error: in it stand its addresses, its
 * sender as the initiator. What conntrack would not know what to do with is
 * invalid here, too.
 */
static int bw_query_read(struct bw_query *q, const struct bw_endpoints *e, struct bw_header *h)
{
	int request;

	if (!bw_is_icmp(h)) {
		/* A DHCP client without an address asks. */
		bw_query_set(q, h, q->flags & BW_Q_DHCP ? BW_BEGAN_SENDER : bw_began(e, h));
		return BW_READ_QUERY;
	}
	request = bw_icmp_request(h);
	if (request < 0) {
		if (!bw_is_redirect(h) && !bw_icmp_is_untracked(h))
			return BW_REASON_INVALID;
		request = h->type;
	}
	h->from_port = request << 8 | (h->port & 0xff);
	bw_query_set(q, h, request == h->type ? BW_BEGAN_SENDER : BW_BEGAN_RECEIVER);
	return BW_READ_QUERY;
}

/* false: they are not there. */
static bool bw_quoted_addresses(const struct sk_buff *skb, u8 pf, struct bw_query *q)
{
	union bw_addr *from = &q->side[BW_INITIATOR].addr, *to = &q->side[BW_RESPONDER].addr;
	struct bw_l4 l4;

	if (!bw_l4_find(skb, pf, &l4))
		return false;
	l4.offset += 8;
	memset(from, 0, sizeof(*from));
	memset(to, 0, sizeof(*to));
	if (pf == NFPROTO_IPV4)
		return !skb_copy_bits(skb, l4.offset + offsetof(struct iphdr, saddr), from, 4) &&
		       !skb_copy_bits(skb, l4.offset + offsetof(struct iphdr, daddr), to, 4);
	return !skb_copy_bits(skb, l4.offset + offsetof(struct ipv6hdr, saddr), from, 16) &&
	       !skb_copy_bits(skb, l4.offset + offsetof(struct ipv6hdr, daddr), to, 16);
}

/* An error is judged by what it quotes, if that was sent by whom it is for. */
static int bw_query_read_error(struct bw_query *q, const struct bw_endpoints *e,
			       const struct sk_buff *skb, u8 pf)
{
	const union bw_addr source = q->side[BW_INITIATOR].addr;
	const union bw_addr target = q->side[BW_RESPONDER].addr;
	unsigned int len = pf == NFPROTO_IPV4 ? 4 : 16;
	struct bw_header h;
	int reason;

	if (!bw_quoted_read(skb, pf, &h) || !bw_quoted_addresses(skb, pf, q) ||
	    memcmp(&target, &q->side[BW_INITIATOR].addr, len))
		return BW_REASON_INVALID;
	if (bw_is_icmp(&h)) {
		h.port = h.from_port;
		h.type = h.port >> 8;
	} else if (!bw_l4_has_ports(h.proto)) {
		h.port = 0;
		h.from_port = 0;
	}
	reason = bw_query_read(q, e, &h);
	if (reason != BW_READ_QUERY)
		return reason;
	q->sender = !q->sender;
	q->flags |= BW_Q_ERROR;
	q->source = source;
	return BW_READ_QUERY;
}

static bool bw_ip_is_sane(const struct sk_buff *skb, u8 pf)
{
	if (pf == NFPROTO_IPV4)
		return ip_hdr(skb)->version == 4 && ip_hdr(skb)->ihl >= 5;
	return ipv6_hdr(skb)->version == 6;
}

/* BW_READ_QUERY, BW_NOT_COUNTED, or the enum bw_reason that decides without the rules. */
static int bw_observe_read(const struct sk_buff *skb, u8 pf, const struct bw_endpoints *e,
			   struct bw_query *q)
{
	struct bw_header h = {};
	struct bw_l4 l4;
	int reason;

	if (!bw_ip_is_sane(skb, pf))
		return BW_REASON_MALFORMED;
	reason = bw_neighbour_read(skb, pf, true);
	if (reason != BW_NOT_NEIGHBOUR)
		return reason;
	if (!bw_l4_find(skb, pf, &l4))
		return l4.later ? BW_NOT_COUNTED : BW_REASON_MALFORMED;
	if (l4.offset > skb->len || !bw_header_read(skb, pf, &h))
		return BW_REASON_MALFORMED;
	q->side[BW_INITIATOR].family = pf == NFPROTO_IPV4 ? AF_INET : AF_INET6;
	q->side[BW_RESPONDER].family = q->side[BW_INITIATOR].family;
	bw_read_alone(skb, pf, &h, q);
	q->flags &= BW_Q_DHCP;
	return bw_is_error(&h) ? bw_query_read_error(q, e, skb, pf) : bw_query_read(q, e, &h);
}

/* Bottom halves are off. */
static void bw_observe_packet(const struct bw_state *st, struct sk_buff *skb,
			      const struct nf_hook_state *hs, u32 link, u32 port)
{
	struct bw_neighbour from = { .link = link, .port = port };
	struct bw_query q = {};
	struct bw_decision d;
	int reason;

	reason = bw_observe_read(skb, hs->pf, st->endpoints, &q);
	if (reason == BW_NOT_COUNTED)
		return;
	if (reason != BW_READ_QUERY) {
		reason = bw_neighbour_check(st->endpoints, skb, hs->pf, reason, &from);
		bw_verdict_builtin(st, skb, hs, reason);
		return;
	}
	bw_party_set(bw_sender(&q), BW_KIND_GUARDED, link, port);
	bw_party_set(bw_receiver(&q), BW_KIND_GUARDED, link, 0);
	bw_classify(st->rules, st->endpoints, &q, &d);
	bw_unmanaged_note(skb, &q, &d);
	bw_verdict(st, skb, hs, &d);
}

void bw_observe(const struct bw_state *st, struct sk_buff *skb, const struct nf_hook_state *hs,
		const struct bw_frame *f)
{
	struct net_device *bridge = netdev_master_upper_dev_get_rcu(hs->out);
	u32 link = bridge ? bw_guard_link(bridge->ifindex) : 0;
	int network = skb_network_offset(skb);
	struct nf_hook_state now = *hs;
	u32 port = hs->in->ifindex;

	local_bh_disable();
	if (!bw_frame_has_header(skb, f)) {
		bw_verdict_builtin(st, skb, hs, BW_REASON_MALFORMED);
		goto out;
	}
	/* Log lines and traces show the packet as FORWARD shows a bridged one. */
	now.pf = f->family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6;
	if (!link) {
		bw_verdict_builtin(st, skb, &now, BW_REASON_UNPLACED);
		goto out;
	}
	now.in = bridge;
	now.out = bridge;
	bw_observe_packet(st, skb, &now, link, port);
out:
	local_bh_enable();
	skb_set_network_header(skb, network);
}
