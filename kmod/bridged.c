// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sees every frame that a bridge forwards or passes up, and stops the IP among
 * them that no judge has seen or will see as what it is: br_netfilter may be
 * absent, switched off, or show nothing of a frame with a tag. In mode audit it
 * stops nothing, and hands such IP to observe.c. Runs last, behind br_netfilter and
 * whoever else judges there. Must never touch a frame that
 * carries no IP, nor one at a bridge that has nothing to do with a guard.
 */
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/netdevice.h>
#include <linux/netfilter_bridge.h>

#include "bridged.h"
#include "frame.h"
#include "guard.h"
#include "lock.h"
#include "observe.h"
#include "packet.h"
#include "register.h"
#include "tag.h"
#include "verdict.h"

/* A log line and a trace show the packet, if the frame is one behind its header. */
static unsigned int bw_bridged_refuse(const struct bw_state *st, struct sk_buff *skb,
				      const struct nf_hook_state *hs,
				      const struct bw_frame *f, u32 reason)
{
	struct nf_hook_state now = *hs;
	unsigned int verdict;

	if (bw_frame_has_header(skb, f))
		now.pf = f->family == AF_INET ? NFPROTO_IPV4 : NFPROTO_IPV6;
	if (st->closed)
		reason = BW_REASON_CLOSED;
	local_bh_disable();
	verdict = bw_verdict_builtin(st, skb, &now, reason);
	local_bh_enable();
	return verdict;
}

/*
 * Whether a port is itself a guarded link or stacked on one: the bridge above it
 * is not guarded, and what passes there would be judged as if from outside.
 */
static bool bw_bridged_is_stacked(const struct net_device *port)
{
	return port && unlikely(READ_ONCE(bw_guard_as_port)) && bw_guard_link(port->ifindex);
}

/* Off the usual way: netfilter's IP hooks have not had the frame, or are closed. */
static noinline __noclone unsigned int
bw_bridged_unseen(void *priv, struct sk_buff *skb, const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	bool stacked = bw_bridged_is_stacked(hs->in) || bw_bridged_is_stacked(hs->out);
	struct bw_frame f;

	if (!st || (!stacked && !bw_guard_has_port(hs->out)))
		return NF_ACCEPT;
	if (!stacked && !st->closed && nf_bridge_get_physoutif(skb) == hs->out->ifindex)
		return NF_ACCEPT;
	bw_frame_read(skb, &f);
	if (f.kind == BW_FRAME_OTHER)
		return NF_ACCEPT;
	if (f.kind == BW_FRAME_IP && !stacked && !st->closed) {
		/* The receiver's own namespace judges it. */
		if (bw_state_judges_inside(st) && !f.offset)
			return NF_ACCEPT;
		if (st->mode == BW_MODE_AUDIT) {
			bw_observe(st, skb, hs, &f);
			return NF_ACCEPT;
		}
	}
	return bw_bridged_refuse(st, skb, hs, &f, BW_REASON_UNSEEN);
}

static unsigned int bw_bridged_forward(void *priv, struct sk_buff *skb,
				       const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);

	/* br_netfilter notes the port right before it runs FORWARD: br_nf_forward_ip(). */
	if (likely(nf_bridge_get_physoutif(skb) == hs->out->ifindex) &&
	    likely(!READ_ONCE(bw_guard_as_port)) && likely(st && !st->closed))
		return NF_ACCEPT;
	return bw_bridged_unseen(priv, skb, hs);
}

static bool bw_bridged_source(const struct sk_buff *skb, const struct bw_frame *f,
			      union bw_addr *source)
{
	unsigned int at = f->family == AF_INET ? offsetof(struct iphdr, saddr) :
						 offsetof(struct ipv6hdr, saddr);
	unsigned int size = f->family == AF_INET ? 4 : 16;

	memset(source, 0, sizeof(*source));
	return !skb_copy_bits(skb, f->offset + at, source, size);
}

static bool bw_bridged_is_spoofed(const struct bw_state *st, const struct sk_buff *skb,
				  const struct bw_frame *f, u32 link, u32 port)
{
	const struct bw_ep_loc *loc;
	union bw_addr source;
	u32 id;

	/* The IP stack refuses one that is cut off. */
	if (!bw_bridged_source(skb, f, &source))
		return false;
	loc = bw_ep_find(st->endpoints, f->family, &source);
	if (!loc)
		return bw_routed_look(&st->endpoints->routed, f->family, &source, link, port,
				      &id) == BW_ROUTED_ELSEWHERE;
	return READ_ONCE(loc->identity) != BW_ID_UNMANAGED &&
	       (loc->link != link || (loc->port && loc->port != port));
}

/* Passed up from a port: the IP hooks will judge it, and know a port if noted. */
static unsigned int bw_bridged_local_in(void *priv, struct sk_buff *skb,
					const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	bool stacked = bw_bridged_is_stacked(hs->in);
	struct bw_frame f;
	u32 link;

	/* What goes up by the port itself meets the IP hooks as its: bare_port. */
	if (!st || !hs->in || (skb->dev == hs->in && !stacked))
		return NF_ACCEPT;
	link = bw_guard_link(skb->dev->ifindex);
	if (!stacked && !link)
		return NF_ACCEPT;
	bw_frame_read(skb, &f);
	if (f.kind == BW_FRAME_OTHER)
		return NF_ACCEPT;
	if (stacked || f.kind == BW_FRAME_WRAPPED)
		return bw_bridged_refuse(st, skb, hs, &f, BW_REASON_UNSEEN);
	/*
	 * The rest has its verdict, one, from the IP hooks. Not so what the host
	 * itself answers before FORWARD (no hop left, longer than the MTU, no route,
	 * a redirect): its error would take to the owner of a spoofed address what
	 * the sender may not say to it.
	 */
	if (st->closed || st->mode == BW_MODE_AUDIT ||
	    !bw_bridged_is_spoofed(st, skb, &f, link, hs->in->ifindex))
		return NF_ACCEPT;
	return bw_bridged_refuse(st, skb, hs, &f, BW_REASON_SPOOFED);
}

/* From the host's stack, by a bridge that is not guarded, into a guarded one. */
static unsigned int bw_bridged_local_out(void *priv, struct sk_buff *skb,
					 const struct nf_hook_state *hs)
{
	const struct bw_state *st = rcu_dereference(bw_state);
	u32 reason = BW_REASON_UNSEEN;
	struct bw_frame f;

	if (!st || !bw_bridged_is_stacked(hs->out))
		return NF_ACCEPT;
	bw_frame_read(skb, &f);
	if (f.kind == BW_FRAME_OTHER)
		return NF_ACCEPT;
	if (f.family == AF_INET6 && bw_frame_has_header(skb, &f) &&
	    bw_packet_is_neighbour(skb, NFPROTO_IPV6))
		reason = BW_REASON_BARE_PORT_NEIGHBOUR;
	return bw_bridged_refuse(st, skb, hs, &f, reason);
}

static const struct nf_hook_ops bw_bridged_ops[] = {
	BW_HOOK(NFPROTO_BRIDGE, NF_BR_PRE_ROUTING, NF_BR_PRI_FIRST, bw_tag_hook),
	BW_HOOK(NFPROTO_BRIDGE, NF_BR_LOCAL_IN, NF_BR_PRI_LAST, bw_bridged_local_in),
	BW_HOOK(NFPROTO_BRIDGE, NF_BR_FORWARD, NF_BR_PRI_LAST, bw_bridged_forward),
	BW_HOOK(NFPROTO_BRIDGE, NF_BR_LOCAL_OUT, NF_BR_PRI_LAST, bw_bridged_local_out),
};

static bool bw_bridged_on;

static bool bw_bridged_needs(const struct bw_state *st)
{
	return st && st->guards.n;
}

int bw_bridged_add_needed(const struct bw_state *st)
{
	int err;

	lockdep_assert_held(&bw_mutex);
	if (!BW_BRIDGE_FAMILY || bw_bridged_on || !bw_bridged_needs(st))
		return 0;
	err = nf_register_net_hooks(&init_net, bw_bridged_ops, ARRAY_SIZE(bw_bridged_ops));
	bw_bridged_on = !err;
	return err;
}

static void bw_bridged_remove(void)
{
	if (!bw_bridged_on)
		return;
	nf_unregister_net_hooks(&init_net, bw_bridged_ops, ARRAY_SIZE(bw_bridged_ops));
	bw_bridged_on = false;
}

void bw_bridged_drop_unneeded(const struct bw_state *st, const struct bw_state *saved)
{
	lockdep_assert_held(&bw_mutex);
	if (!bw_bridged_needs(st) && !bw_bridged_needs(saved))
		bw_bridged_remove();
}

void bw_bridged_exit(void)
{
	bw_bridged_remove();
	synchronize_net();
}
