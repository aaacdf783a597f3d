/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The events of a trace, as tracefs, perf, trace-cmd and bpftrace see them; the
 * schema is told in docs/trace.md. Fields are only ever appended: others filter
 * by their names. Addresses are IPv6's, IPv4 ones mapped (::ffff:a.b.c.d).
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM bridgewarden

#if !defined(_BW_TRACE_EVENT_H) || defined(TRACE_HEADER_MULTI_READ)
#define _BW_TRACE_EVENT_H

#include <linux/if.h>
#include <linux/netfilter.h>
#include <linux/tracepoint.h>

#include "uapi/bridgewarden.h"

#ifndef _BW_TRACE_EVENT_DATA
#define _BW_TRACE_EVENT_DATA

struct bw_trace_device {
	int ifindex;	/* 0: none */
	char name[IFNAMSIZ];
};

/* A packet at the beginning or at the end of a hook. */
struct bw_crossing {
	u32 trace;
	const void *skb;
	u32 print;	/* of what NAT leaves: tells a packet from the next one in its place */
	u8 last;	/* 0: ahead of all others at the hook, 1: behind them */
	u8 pf;
	u8 hook;
	u8 proto;
	u32 netns;	/* inode number */
	u64 cookie;	/* of the namespace; 0: it has none yet */
	struct bw_trace_device dev;
	struct bw_trace_device in;
	struct bw_trace_device out;
	int physin;	/* of a bridged packet: the bridge's ports */
	int physout;
	u32 link;	/* guarded link it is judged as from; 0: none; no field of an event */
	u8 saddr[16];
	u8 daddr[16];
	u16 sport;	/* ICMP: the type */
	u16 dport;	/* ICMP: the code */
	u8 flags;	/* of TCP */
	u8 ct;		/* enum bw_trace_ct */
	u16 zone;
	u32 ctid;	/* 0: not tracked */
	u32 mark;
	u32 len;	/* from the network header on */
};

/* What conntrack calls a packet; the answer's direction has 8 added. */
enum bw_trace_ct {
	BW_TRACE_CT_NONE,
	BW_TRACE_CT_UNTRACKED,
	BW_TRACE_CT_NEW,
	BW_TRACE_CT_ESTABLISHED,
	BW_TRACE_CT_RELATED,
	BW_TRACE_CT_REPLY = 8,
};

/* What the engine made of it. */
struct bw_judgement {
	u32 trace;	/* 0: of no trace, somebody listens to the event itself */
	const void *skb;
	u32 print;
	u8 pf;
	u8 hook;
	u32 netns;
	u8 action;	/* enum bw_action */
	u8 class;	/* enum bw_class; 255: none */
	u8 audit;	/* 1: told only, the packet goes on */
	u32 index;	/* enum bw_reason, or BW_REASON_MAX + the rule's index */
	const char *rule;
};

#endif /* _BW_TRACE_EVENT_DATA */

#define BW_SHOW_HOOK(hook)				\
	__print_symbolic(hook,				\
			 { 0, "PRE_ROUTING" },		\
			 { 1, "LOCAL_IN" },		\
			 { 2, "FORWARD" },		\
			 { 3, "LOCAL_OUT" },		\
			 { 4, "POST_ROUTING" })

#define BW_SHOW_CT(ct)					\
	__print_symbolic(ct,				\
			 { 0, "none" },			\
			 { 1, "untracked" },		\
			 { 2, "new" },			\
			 { 3, "established" },		\
			 { 4, "related" },		\
			 { 11, "established-reply" },	\
			 { 12, "related-reply" })

TRACE_EVENT(bw_crossing,

	TP_PROTO(const struct bw_crossing *c),

	TP_ARGS(c),

	TP_STRUCT__entry(
		__field(u32, trace)
		__field(const void *, skb)
		__field(u32, print)
		__field(u8, last)
		__field(u8, pf)
		__field(u8, hook)
		__field(u8, proto)
		__field(u32, netns)
		__field(u64, cookie)
		__field(int, dev)
		__field(int, in)
		__field(int, out)
		__field(int, physin)
		__field(int, physout)
		__array(char, dev_name, IFNAMSIZ)
		__array(char, in_name, IFNAMSIZ)
		__array(char, out_name, IFNAMSIZ)
		__array(u8, saddr, 16)
		__array(u8, daddr, 16)
		__field(u16, sport)
		__field(u16, dport)
		__field(u8, flags)
		__field(u8, ct)
		__field(u16, zone)
		__field(u32, ctid)
		__field(u32, mark)
		__field(u32, len)
	),

	TP_fast_assign(
		__entry->trace = c->trace;
		__entry->skb = c->skb;
		__entry->print = c->print;
		__entry->last = c->last;
		__entry->pf = c->pf;
		__entry->hook = c->hook;
		__entry->proto = c->proto;
		__entry->netns = c->netns;
		__entry->cookie = c->cookie;
		__entry->dev = c->dev.ifindex;
		__entry->in = c->in.ifindex;
		__entry->out = c->out.ifindex;
		__entry->physin = c->physin;
		__entry->physout = c->physout;
		memcpy(__entry->dev_name, c->dev.name, IFNAMSIZ);
		memcpy(__entry->in_name, c->in.name, IFNAMSIZ);
		memcpy(__entry->out_name, c->out.name, IFNAMSIZ);
		memcpy(__entry->saddr, c->saddr, 16);
		memcpy(__entry->daddr, c->daddr, 16);
		__entry->sport = c->sport;
		__entry->dport = c->dport;
		__entry->flags = c->flags;
		__entry->ct = c->ct;
		__entry->zone = c->zone;
		__entry->ctid = c->ctid;
		__entry->mark = c->mark;
		__entry->len = c->len;
	),

	TP_printk("trace=%u skb=%p print=%08x pf=%u hook=%s last=%u netns=%u cookie=%llu dev=%d:%s in=%d:%s out=%d:%s physin=%d physout=%d proto=%u src=%pI6c dst=%pI6c sport=%u dport=%u flags=%02x ct=%s zone=%u ctid=%u mark=%x len=%u",
		  __entry->trace, __entry->skb, __entry->print, __entry->pf,
		  BW_SHOW_HOOK(__entry->hook), __entry->last, __entry->netns,
		  (unsigned long long)__entry->cookie,
		  __entry->dev, __entry->dev_name, __entry->in, __entry->in_name,
		  __entry->out, __entry->out_name, __entry->physin,
		  __entry->physout, __entry->proto, __entry->saddr,
		  __entry->daddr, __entry->sport, __entry->dport,
		  __entry->flags, BW_SHOW_CT(__entry->ct), __entry->zone,
		  __entry->ctid, __entry->mark, __entry->len)
);

TRACE_EVENT(bw_verdict,

	TP_PROTO(const struct bw_judgement *j),

	TP_ARGS(j),

	TP_STRUCT__entry(
		__field(u32, trace)
		__field(const void *, skb)
		__field(u32, print)
		__field(u8, pf)
		__field(u8, hook)
		__field(u8, action)
		__field(u8, class)
		__field(u8, audit)
		__field(u32, netns)
		__field(u32, index)
		__array(char, rule, BW_NAME_LEN)
	),

	TP_fast_assign(
		__entry->trace = j->trace;
		__entry->skb = j->skb;
		__entry->print = j->print;
		__entry->pf = j->pf;
		__entry->hook = j->hook;
		__entry->action = j->action;
		__entry->class = j->class;
		__entry->audit = j->audit;
		__entry->netns = j->netns;
		__entry->index = j->index;
		strscpy(__entry->rule, j->rule, BW_NAME_LEN);
	),

	/* The rule's name comes last: it may hold anything. */
	TP_printk("trace=%u skb=%p print=%08x pf=%u hook=%s netns=%u action=%s class=%u audit=%u index=%u rule=%s",
		  __entry->trace, __entry->skb, __entry->print, __entry->pf,
		  BW_SHOW_HOOK(__entry->hook), __entry->netns,
		  __print_symbolic(__entry->action,
				   { 0, "allow" }, { 1, "deny" },
				   { 2, "reject" }, { 3, "queue" }),
		  __entry->class, __entry->audit, __entry->index, __entry->rule)
);

#endif /* _BW_TRACE_EVENT_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace_event
#include <trace/define_trace.h>
