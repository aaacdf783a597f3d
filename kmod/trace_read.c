// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading packets for traces. What is missing or cut off is left out of the
 * record: a trace shows malformed packets, too. Must never change a packet.
 */
#include <linux/icmp.h>
#include <linux/icmpv6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/netfilter_bridge.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <net/ipv6.h>
#include <net/netfilter/nf_conntrack_zones.h>
#include <net/tcp.h>

#include "l4.h"
#include "origin.h"
#include "trace_read.h"

static int bw_trace_index(const struct net_device *dev)
{
	return dev ? dev->ifindex : 0;
}

static void bw_trace_name(struct bw_trace_device *to,
			  const struct net_device *dev)
{
	if (dev)
		strscpy(to->name, dev->name, sizeof(to->name));
}

static u64 bw_trace_cookie(const struct net *net)
{
	u64 cookie;

	/* An atomic of the same size before 5.12. */
	BUILD_BUG_ON(sizeof(net->net_cookie) != sizeof(cookie));
	memcpy(&cookie, &net->net_cookie, sizeof(cookie));
	return cookie;
}

static void bw_trace_tcp(const struct sk_buff *skb, int offset,
			 struct bw_crossing *c)
{
	struct tcphdr buffer;
	const struct tcphdr *tcp;

	tcp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	if (!tcp)
		return;
	c->sport = ntohs(tcp->source);
	c->dport = ntohs(tcp->dest);
	c->flags = tcp_flag_byte(tcp);
	c->print = jhash_3words((__force u32)tcp->seq,
				(__force u32)tcp->ack_seq, c->flags, c->print);
}

static void bw_trace_datagram(const struct sk_buff *skb, int offset,
			      struct bw_crossing *c)
{
	struct udphdr buffer;
	const struct udphdr *udp;
	u32 body[2] = {}, *p;

	udp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	if (!udp)
		return;
	c->sport = ntohs(udp->source);
	c->dport = ntohs(udp->dest);
	p = skb_header_pointer(skb, offset + sizeof(buffer), sizeof(body), body);
	if (p)
		memcpy(body, p, sizeof(body));
	c->print = jhash_3words(body[0], body[1], (__force u16)udp->len, c->print);
}

/* An error carries a header that NAT changes: its number must do. */
static void bw_trace_icmp(const struct sk_buff *skb, int offset,
			  struct bw_crossing *c)
{
	struct icmphdr buffer;
	const struct icmphdr *icmp;
	bool echo;

	icmp = skb_header_pointer(skb, offset, sizeof(buffer), &buffer);
	if (!icmp)
		return;
	c->sport = icmp->type;
	c->dport = icmp->code;
	echo = c->proto == IPPROTO_ICMP ?
	       icmp->type == ICMP_ECHO || icmp->type == ICMP_ECHOREPLY :
	       icmp->type == ICMPV6_ECHO_REQUEST || icmp->type == ICMPV6_ECHO_REPLY;
	c->print = jhash_2words(icmp->type << 8 | icmp->code,
				echo ? (__force u16)icmp->un.echo.sequence : 0,
				c->print);
}

static void bw_trace_transport(const struct sk_buff *skb, int offset,
			       struct bw_crossing *c)
{
	c->print = jhash_1word(c->proto, c->print);
	switch (c->proto) {
	case IPPROTO_TCP:
		bw_trace_tcp(skb, offset, c);
		break;
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
		bw_trace_datagram(skb, offset, c);
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		bw_trace_icmp(skb, offset, c);
		break;
	}
	/* 0 means none, in claims. */
	c->print = c->print ? : 1;
}

static void bw_trace_headers(const struct sk_buff *skb, u8 pf,
			     struct bw_crossing *c)
{
	struct bw_l4 l4;
	bool found = bw_l4_find(skb, pf, &l4);

	if (pf == NFPROTO_IPV4) {
		const struct iphdr *ip = ip_hdr(skb);

		ipv6_addr_set_v4mapped(ip->saddr, (struct in6_addr *)c->saddr);
		ipv6_addr_set_v4mapped(ip->daddr, (struct in6_addr *)c->daddr);
		c->print = (__force u16)ip->id;
	} else {
		memcpy(c->saddr, &ipv6_hdr(skb)->saddr, 16);
		memcpy(c->daddr, &ipv6_hdr(skb)->daddr, 16);
	}
	c->proto = l4.proto;
	bw_trace_transport(skb, found ? l4.offset : skb->len, c);
}

static void bw_trace_connection(const struct nf_conn *ct,
				enum ip_conntrack_info ctinfo,
				struct bw_crossing *c)
{
	if (!ct) {
		c->ct = ctinfo == IP_CT_UNTRACKED ? BW_TRACE_CT_UNTRACKED :
						    BW_TRACE_CT_NONE;
		return;
	}
	switch (ctinfo % IP_CT_IS_REPLY) {
	case IP_CT_NEW:
		c->ct = BW_TRACE_CT_NEW;
		break;
	case IP_CT_ESTABLISHED:
		c->ct = BW_TRACE_CT_ESTABLISHED;
		break;
	default:
		c->ct = BW_TRACE_CT_RELATED;
	}
	if (CTINFO2DIR(ctinfo) == IP_CT_DIR_REPLY)
		c->ct += BW_TRACE_CT_REPLY;
}

/* What the terms ask for. */
const struct nf_conn *bw_trace_packet(const struct sk_buff *skb,
				      const struct nf_hook_state *hs,
				      struct bw_crossing *c)
{
	enum ip_conntrack_info ctinfo;
	const struct nf_conn *ct = nf_ct_get(skb, &ctinfo);
	struct bw_origin from;

	memset(c, 0, sizeof(*c));
	c->skb = skb;
	c->pf = hs->pf;
	c->hook = hs->hook;
	c->netns = hs->net->ns.inum;
	c->dev.ifindex = bw_trace_index(skb->dev);
	c->in.ifindex = bw_trace_index(hs->in);
	c->out.ifindex = bw_trace_index(hs->out);
	c->physin = nf_bridge_get_physinif(skb);
	c->physout = nf_bridge_get_physoutif(skb);
	if (net_eq(hs->net, &init_net) && bw_origin_find(skb, hs->in, hs->pf, &from))
		c->link = from.link;
	bw_trace_headers(skb, hs->pf, c);
	if (ct && nf_ct_is_template(ct))
		return NULL;
	bw_trace_connection(ct, ctinfo, c);
	return ct;
}

/* What only those who read it want, once somebody asks for the packet. */
void bw_trace_packet_details(const struct sk_buff *skb,
			     const struct nf_hook_state *hs,
			     const struct nf_conn *ct, struct bw_crossing *c)
{
	c->cookie = bw_trace_cookie(hs->net);
	bw_trace_name(&c->dev, skb->dev);
	bw_trace_name(&c->in, hs->in);
	bw_trace_name(&c->out, hs->out);
	c->mark = skb->mark;
	c->len = skb->len - skb_network_offset(skb);
	if (!ct)
		return;
	c->zone = nf_ct_zone(ct)->id;
	c->ctid = (__force u32)nf_ct_get_id(ct);
}
