// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures the packet path: makes UDP packets, hands them to the receive path
 * of a device while bottom halves are off, and reads the TSC around each batch.
 * Under QEMU's -icount shift=0 a tick is an executed instruction. In- and
 * output devices are of a kind of our own, bwkeep, so that all of it, from the
 * network layer's receive function to the driver's transmit function, runs in
 * between. They keep what they transmit until the TSC is read: freeing costs
 * what the allocator's mood is, some 30 instructions a packet or none. Where the
 * devices are ports of a bridge, it is from the one port to the other.
 *
 * The name "host" stands for a socket of this host's. A packet to it ends where a
 * UDP socket hands it to its owner (encap_rcv), which is this module; one from it
 * begins in the IP layer's output function, its route already found.
 *
 * For a throw-away machine only.
 */
#include <linux/etherdevice.h>
#include <linux/inet.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/netfilter.h>
#include <linux/netfilter_ipv4.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/sort.h>
#include <linux/udp.h>
#include <linux/vmalloc.h>
#include <net/ip.h>
#include <net/ip6_checksum.h>
#include <net/ip6_route.h>
#include <net/net_namespace.h>
#include <net/route.h>
#include <net/rtnetlink.h>
#include <net/udp.h>
#include <asm/tsc.h>

#define BATCH		16
#define FIRST_PORT	1024
#define PAYLOAD		18

struct plan {
	char in[IFNAMSIZ];
	char out[IFNAMSIZ];
	union nf_inet_addr client;	/* the first one; ports count up, then it */
	union nf_inet_addr server;
	u16 port;
	u32 flows;			/* 0: each packet has a flow of its own */
	u32 first;			/* number of the first flow */
	u32 ports;			/* source ports of one client address */
	u32 packets;
	bool reply;
	bool six;
};

static struct sk_buff_head kept;

static netdev_tx_t keep_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev->stats.tx_packets++;
	dev->stats.tx_bytes += skb->len;
	skb_queue_tail(&kept, skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops keep_ops = {
	.ndo_start_xmit = keep_xmit,
	.ndo_set_mac_address = eth_mac_addr,
};

static void keep_setup(struct net_device *dev)
{
	ether_setup(dev);
	dev->netdev_ops = &keep_ops;
	dev->needs_free_netdev = true;
	dev->flags |= IFF_NOARP;
	dev->flags &= ~IFF_MULTICAST;
	dev->priv_flags |= IFF_NO_QUEUE | IFF_LIVE_ADDR_CHANGE;
	dev->features |= NETIF_F_HW_CSUM;
	eth_hw_addr_random(dev);
}

static struct rtnl_link_ops keep_link_ops __read_mostly = {
	.kind = "bwkeep",
	.setup = keep_setup,
};

static char said[256];

static void fill_udp(struct udphdr *udp, u16 from, u16 to)
{
	udp->source = htons(from);
	udp->dest = htons(to);
	udp->len = htons(sizeof(*udp) + PAYLOAD);
	udp->check = 0;
}

static void client_of(const struct plan *p, u32 flow, union nf_inet_addr *addr)
{
	*addr = p->client;
	if (p->six)
		addr->ip6[3] = htonl(ntohl(addr->ip6[3]) + flow / p->ports);
	else
		addr->ip = htonl(ntohl(addr->ip) + flow / p->ports);
}

/* Of a station behind a port of a bridge; the bridge learns both of them. */
static void station_of(bool server, u8 *mac)
{
	const u8 address[ETH_ALEN] __aligned(2) = { 2, 0, 0, 0, 1, server };

	ether_addr_copy(mac, address);
}

/* To the device itself, or through the bridge to the station at the other end. */
static void fill_eth(const struct plan *p, const struct net_device *dev,
		     struct ethhdr *eth)
{
	ether_addr_copy(eth->h_dest, dev->dev_addr);
	if (netif_is_bridge_port(dev))
		station_of(!p->reply, eth->h_dest);
	station_of(p->reply, eth->h_source);
	eth->h_proto = p->six ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
}

/* The route a packet of the host's own takes; NULL: none. */
static struct dst_entry *find_route(const struct plan *p, const union nf_inet_addr *from,
				    const union nf_inet_addr *to)
{
	struct flowi4 fl4 = {};
	struct flowi6 fl6 = {};
	struct dst_entry *dst;
	struct rtable *rt;

	if (p->six) {
		fl6.flowi6_proto = IPPROTO_UDP;
		fl6.saddr = from->in6;
		fl6.daddr = to->in6;
		dst = ip6_route_output(&init_net, NULL, &fl6);
		if (!dst->error)
			return dst;
		dst_release(dst);
		return NULL;
	}
	fl4.flowi4_proto = IPPROTO_UDP;
	fl4.saddr = from->ip;
	fl4.daddr = to->ip;
	rt = ip_route_output_key(&init_net, &fl4);
	return IS_ERR(rt) ? NULL : &rt->dst;
}

/* From the host's IP layer on, as a socket would send it. */
static bool make_own(const struct plan *p, struct sk_buff *skb,
		     const union nf_inet_addr *from, const union nf_inet_addr *to)
{
	struct dst_entry *dst = find_route(p, from, to);

	if (!dst)
		return false;
	skb_pull(skb, ETH_HLEN);
	skb_reset_network_header(skb);
	skb_set_transport_header(skb, p->six ? sizeof(struct ipv6hdr) : sizeof(struct iphdr));
	skb->protocol = p->six ? htons(ETH_P_IPV6) : htons(ETH_P_IP);
	skb_dst_set(skb, dst);
	return true;
}

/* dev: that it is received by; NULL: the host sends it. */
static struct sk_buff *make_packet(const struct plan *p, struct net_device *dev,
				   u32 flow)
{
	unsigned int size = sizeof(struct udphdr) + PAYLOAD;
	u16 port = FIRST_PORT + flow % p->ports;
	union nf_inet_addr client, from, to;
	struct sk_buff *skb;
	struct udphdr *udp;

	client_of(p, flow, &client);
	from = p->reply ? p->server : client;
	to = p->reply ? client : p->server;
	skb = alloc_skb(256, GFP_KERNEL);
	if (!skb)
		return NULL;
	skb_reserve(skb, 64);
	skb_put_zero(skb, ETH_HLEN);
	if (dev)
		fill_eth(p, dev, (struct ethhdr *)skb->data);
	if (p->six) {
		struct ipv6hdr *ip6 = skb_put_zero(skb, sizeof(*ip6));

		ip6->version = 6;
		ip6->hop_limit = 64;
		ip6->nexthdr = IPPROTO_UDP;
		ip6->payload_len = htons(size);
		ip6->saddr = from.in6;
		ip6->daddr = to.in6;
	} else {
		struct iphdr *ip = skb_put_zero(skb, sizeof(*ip));

		ip->version = 4;
		ip->ihl = 5;
		ip->ttl = 64;
		ip->protocol = IPPROTO_UDP;
		ip->tot_len = htons(sizeof(*ip) + size);
		ip->saddr = from.ip;
		ip->daddr = to.ip;
		ip_send_check(ip);
	}
	udp = skb_put_zero(skb, size);
	fill_udp(udp, p->reply ? p->port : port, p->reply ? port : p->port);
	if (p->six)
		udp->check = csum_ipv6_magic(&from.in6, &to.in6, size, IPPROTO_UDP,
					     csum_partial(udp, size, 0));
	if (!dev) {
		if (make_own(p, skb, &from, &to))
			return skb;
		kfree_skb(skb);
		return NULL;
	}
	skb->protocol = eth_type_trans(skb, dev);
	skb_reset_network_header(skb);
	return skb;
}

static void send_own(const struct plan *p, struct sk_buff *skb)
{
	if (p->six)
		ip6_local_out(&init_net, NULL, skb);
	else
		ip_local_out(&init_net, NULL, skb);
}

static int compare(const void *a, const void *b)
{
	u32 x = *(u32 *)a, y = *(u32 *)b;

	return x < y ? -1 : x > y;
}

/* How many of them arrived: a bridge sends packets of its own, too. */
static u32 count_arrived(struct sk_buff *const *skb, const struct net_device *out)
{
	const struct sk_buff *one;
	u32 n = 0, i;

	skb_queue_walk(&kept, one)
		for (i = 0; i < BATCH; i++)
			n += (!out || one->dev == out) && one == skb[i];
	return n;
}

/* at: number of the batch's first packet. passed: added to. */
static int run_batch(const struct plan *p, struct net_device *in,
		     const struct net_device *out, u32 at, u32 *ticks, u64 *passed)
{
	struct sk_buff *skb[BATCH];
	u64 begin, end;
	u32 i;

	for (i = 0; i < BATCH; i++) {
		u32 flow = p->flows ? (at + i) % p->flows : at + i;

		skb[i] = make_packet(p, in, p->first + flow);
		if (!skb[i]) {
			while (i--)
				kfree_skb(skb[i]);
			return -ENOMEM;
		}
	}
	local_bh_disable();
	begin = rdtsc();
	if (in)
		for (i = 0; i < BATCH; i++)
			netif_receive_skb(skb[i]);
	else
		for (i = 0; i < BATCH; i++)
			send_own(p, skb[i]);
	end = rdtsc();
	*passed += count_arrived(skb, out);
	local_bh_enable();
	skb_queue_purge(&kept);
	*ticks = end - begin;
	return 0;
}

static int run_plan(const struct plan *p, struct net_device *in,
		    struct net_device *out)
{
	u32 batches = DIV_ROUND_UP(p->packets, BATCH), i;
	u64 total = 0, passed = 0;
	int err = 0;
	u32 *ticks;

	ticks = vmalloc(array_size(batches, sizeof(*ticks)));
	if (!ticks)
		return -ENOMEM;
	for (i = 0; i < batches && !err; i++) {
		err = run_batch(p, in, out, i * BATCH, &ticks[i], &passed);
		total += err ? 0 : ticks[i];
		cond_resched();
	}
	sort(ticks, batches, sizeof(*ticks), compare, NULL);
	snprintf(said, sizeof(said),
		 "packets %u passed %llu mean_x100 %llu median_x100 %u least_x100 %u most_x100 %u\n",
		 batches * BATCH, passed,
		 div_u64(total * 100, batches * BATCH),
		 ticks[batches / 2] * 100 / BATCH, ticks[0] * 100 / BATCH,
		 ticks[batches - 1] * 100 / BATCH);
	vfree(ticks);
	return err;
}

/* Takes the packet from its socket. */
static int keep_received(struct sock *sk, struct sk_buff *skb)
{
	skb_queue_tail(&kept, skb);
	return 0;
}

/* A socket for what the plan sends to the host: of all flows to one port. */
static int listen(const struct plan *p, struct socket **sock)
{
	__be16 port = htons(p->reply ? FIRST_PORT + p->first % p->ports : p->port);
	struct sockaddr_in six_less = { .sin_family = AF_INET, .sin_port = port };
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = port };
	int err;

	err = sock_create_kern(&init_net, p->six ? PF_INET6 : PF_INET, SOCK_DGRAM,
			       IPPROTO_UDP, sock);
	if (err)
		return err;
	if (p->six)
		err = kernel_bind(*sock, (struct sockaddr *)&six, sizeof(six));
	else
		err = kernel_bind(*sock, (struct sockaddr *)&six_less, sizeof(six_less));
	if (err) {
		sock_release(*sock);
		return err;
	}
	udp_sk((*sock)->sk)->encap_rcv = keep_received;
	udp_sk((*sock)->sk)->encap_type = 1;
	return 0;
}

/* NULL as a device: the host. */
static int run_between(const struct plan *p, struct net_device *in, struct net_device *out)
{
	struct socket *sock = NULL;
	int err;

	if (!in && !out)
		return -EINVAL;
	if (!out) {
		err = listen(p, &sock);
		if (err)
			return err;
	}
	err = run_plan(p, in, out);
	if (sock)
		sock_release(sock);
	return err;
}

static bool parse_address(const char *text, bool six, union nf_inet_addr *addr)
{
	return six ? in6_pton(text, -1, (u8 *)addr, -1, NULL) :
		     in4_pton(text, -1, (u8 *)addr, -1, NULL);
}

/* IN OUT CLIENT SERVER PORT FLOWS FIRST PORTS PACKETS REPLY(0|1); IN or OUT may be "host" */
static ssize_t plan_write(struct file *file, const char __user *from, size_t n,
			  loff_t *offset)
{
	char text[256], client[48], server[48];
	struct net_device *in, *out;
	struct plan p = {};
	unsigned int reply;
	int err = -ENODEV;

	if (n >= sizeof(text))
		return -EINVAL;
	if (copy_from_user(text, from, n))
		return -EFAULT;
	text[n] = 0;
	if (sscanf(text, "%15s %15s %47s %47s %hu %u %u %u %u %u", p.in, p.out,
		   client, server, &p.port, &p.flows, &p.first, &p.ports,
		   &p.packets, &reply) != 10)
		return -EINVAL;
	if (!p.packets || !p.ports || p.ports > U16_MAX - FIRST_PORT)
		return -EINVAL;
	p.reply = reply;
	p.six = strchr(client, ':');
	if (!parse_address(client, p.six, &p.client) ||
	    !parse_address(server, p.six, &p.server))
		return -EINVAL;
	in = dev_get_by_name(&init_net, p.in);
	out = dev_get_by_name(&init_net, p.out);
	if ((in || !strcmp(p.in, "host")) && (out || !strcmp(p.out, "host")))
		err = run_between(&p, in, out);
	dev_put(in);
	dev_put(out);
	return err ?: n;
}

static int said_show(struct seq_file *m, void *v)
{
	seq_puts(m, said);
	return 0;
}

static int said_open(struct inode *inode, struct file *file)
{
	return single_open(file, said_show, NULL);
}

static const struct proc_ops inject_ops = {
	.proc_open = said_open,
	.proc_read = seq_read,
	.proc_write = plan_write,
	.proc_release = single_release,
};

/* The floor: a hook that does nothing, where the module's own are. */
static unsigned int do_nothing(void *priv, struct sk_buff *skb,
			       const struct nf_hook_state *hs)
{
	return NF_ACCEPT;
}

#define FLOOR(family, place, prio) \
	{ .hook = do_nothing, .pf = (family), .hooknum = (place), .priority = (prio) }

static const struct nf_hook_ops floor_ops[] = {
	FLOOR(NFPROTO_IPV4, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST),
	FLOOR(NFPROTO_IPV4, NF_INET_FORWARD, NF_IP_PRI_FIRST),
	FLOOR(NFPROTO_IPV4, NF_INET_LOCAL_OUT, NF_IP_PRI_LAST - 1),
	FLOOR(NFPROTO_IPV6, NF_INET_LOCAL_IN, NF_IP_PRI_FIRST),
	FLOOR(NFPROTO_IPV6, NF_INET_FORWARD, NF_IP_PRI_FIRST),
	FLOOR(NFPROTO_IPV6, NF_INET_LOCAL_OUT, NF_IP_PRI_LAST - 1),
};

static bool floor;

static int floor_set(const char *value, const struct kernel_param *kp)
{
	bool want;
	int err;

	err = kstrtobool(value, &want);
	if (err || want == floor)
		return err;
	if (want)
		err = nf_register_net_hooks(&init_net, floor_ops, ARRAY_SIZE(floor_ops));
	else
		nf_unregister_net_hooks(&init_net, floor_ops, ARRAY_SIZE(floor_ops));
	if (!err)
		floor = want;
	return err;
}

static const struct kernel_param_ops floor_param = {
	.set = floor_set,
	.get = param_get_bool,
};

module_param_cb(floor, &floor_param, &floor, 0644);
MODULE_PARM_DESC(floor, "register hooks that do nothing; not while loading");

static int __init inject_init(void)
{
	int err;

	skb_queue_head_init(&kept);
	udp_encap_enable();
#if IS_ENABLED(CONFIG_IPV6)
	udpv6_encap_enable();
#endif
	err = rtnl_link_register(&keep_link_ops);
	if (err)
		return err;
	if (proc_create("bwinject", 0600, NULL, &inject_ops))
		return 0;
	rtnl_link_unregister(&keep_link_ops);
	return -ENOMEM;
}

static void __exit inject_exit(void)
{
	if (floor)
		nf_unregister_net_hooks(&init_net, floor_ops, ARRAY_SIZE(floor_ops));
	remove_proc_entry("bwinject", NULL);
	rtnl_link_unregister(&keep_link_ops);
	skb_queue_purge(&kept);
	udp_encap_disable();
}

module_init(inject_init);
module_exit(inject_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Instructions per packet, for bridgewarden's benchmark");
