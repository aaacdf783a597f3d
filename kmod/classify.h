/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the packet path reads and what it asks: the immutable rules and
 * endpoints, the query, the decision. Data first: everything that builds or
 * shows a ruleset refers to these structs. Nothing here may know the kernel's
 * network stack.
 */
#ifndef _BW_CLASSIFY_H
#define _BW_CLASSIFY_H

#include "addr.h"
#include "api.h"
#include "bits.h"
#include "routed.h"
#include "shim.h"
#include "table.h"
#include "uapi/bridgewarden.h"

/* One side of a connection. */
struct bw_party {
	union bw_addr addr;
	u32 link;	/* ifindex of the guarded link shown; 0: not shown */
	u32 port;	/* of it, as in struct bw_ep_loc, shown; 0: not shown */
	u8 family;
	u8 kind;	/* enum bw_kind */
};

enum bw_side {
	BW_INITIATOR = 0,
	BW_RESPONDER = 1,
	BW_NOBODY = 2,	/* as sender: check no source (explain) */
};

#define BW_Q_DIRECT	BIT(0)	/* not through a published port */
#define BW_Q_ERROR	BIT(1)	/* ICMP error: source is the outer header's */
#define BW_Q_DHCP	BIT(2)	/* to or from a DHCP client that has no address yet */
#define BW_Q_OWN_PORTS	BIT(3)	/* service is this packet's, not its connection's */
#define BW_Q_PICKED_UP	BIT(4)	/* TCP, and nobody has seen the connection begin */
#define BW_Q_TURNED	BIT(5)	/* with PICKED_UP: the responder spoke first */
#define BW_Q_EITHER_WAY	BIT(6)	/* as PICKED_UP, where nobody asked conntrack */

/* Where clients' ports begin, by Linux' default for them. */
#define BW_CLIENT_PORTS	32768

struct bw_query {
	struct bw_party side[2];	/* by enum bw_side */
	u32 service;			/* proto << 16 | port */
	/* The service if the responder began the connection; 0: it did not. */
	u32 back;
	u8 sender;			/* enum bw_side: whose packet this is */
	u8 flags;			/* BW_Q_* */
	union bw_addr source;		/* with BW_Q_ERROR only */
};

static inline void bw_party_set(struct bw_party *p, u8 kind, u32 link, u32 port)
{
	p->kind = kind;
	p->link = link;
	p->port = port;
}

/* The side of the packet's sender, and the other one. */
static inline struct bw_party *bw_sender(struct bw_query *q)
{
	return &q->side[q->sender];
}

static inline struct bw_party *bw_receiver(struct bw_query *q)
{
	return &q->side[!q->sender];
}

#define BW_CLASS_NONE	0xff		/* no guarded link, no host ingress */

struct bw_decision {
	u32 index;	/* enum bw_reason, or BW_REASON_MAX + rule */
	u32 identity[2];
	u8 action;	/* enum bw_action */
	u8 class;	/* enum bw_class or BW_CLASS_NONE */
	bool log;
};

/*
 * A rule as a span holds it: the counter's index with action and flags above,
 * so that the verdict costs no further cache line.
 */
#define BW_SPAN_INDEX	0x00ffffffU
#define BW_SPAN_ACTION	24		/* shift */
#define BW_SPAN_LOG	0x80000000U

struct bw_pair {
	u32 row;
	u32 column;
	u32 first;	/* span; 0: unused slot, since span 0 is nobody's */
	u32 count;
};

struct bw_cell {
	u32 identity[2];	/* by enum bw_kind: world, host */
};

struct bw_rules {
	struct bw_table pairs;
	const struct bw_nl_span *span;
	const struct bw_nl_identity *identity;
	const u32 *start4;		/* host byte order */
	const struct bw_cell *cell4;
	const u64 (*start6)[2];		/* host byte order, high half first */
	const struct bw_cell *cell6;
	u32 n_cell4;
	u32 n_cell6;
	u32 n_identity;
	u32 n_rule;
	u32 n_pair;
	u8 defaults[__BW_CLASS_MAX];
	bool host_ingress;		/* outside to the host must be judged */
	const struct bw_nl_rule *rule;	/* not read per packet but to log */
};

/* Whose an address is and where it lives. */
struct bw_ep_loc {
	u32 identity;	/* set to BW_ID_UNMANAGED when link or port goes */
	u32 link;
	u32 port;	/* 0: unknown; above INT_MAX: the namespace of a child */
};

struct bw_ep4 {
	__be32 addr;	/* 0: unused slot */
	struct bw_ep_loc loc;
};

struct bw_ep6 {
	u64 addr[2];
	struct bw_ep_loc loc;
	u32 used;
};

struct bw_published {
	union bw_addr addr;
	union bw_addr to_addr;
	u16 port;
	u16 to_port;
	u8 family;	/* 0: unused slot */
	u8 proto;
	u8 to_family;
};

#define BW_PORTS	65536

struct bw_endpoints {
	struct bw_table v4;		/* struct bw_ep4 */
	struct bw_table v6;		/* struct bw_ep6 */
	struct bw_table published;	/* struct bw_published */
	struct bw_table port4;		/* struct bw_ep_loc * into v4, by link and port */
	struct bw_table port6;		/* ... into v6 */
	struct bw_routed routed;
	u32 n_v4;
	u32 n_v6;
	u32 n_published;
	u32 n_closed;			/* since they were built; bw_mutex once in force */
	/* Whether any socket on this host port is published: one cheap look. */
	unsigned long published_port[BW_BIT_WORDS(BW_PORTS)];
	/* TCP ports that published sockets have on the host or in a container; and UDP ports. */
	unsigned long server_port[BW_BIT_WORDS(BW_PORTS)];
	unsigned long udp_server_port[BW_BIT_WORDS(BW_PORTS)];
	/* Whether a link or port with these low bits occurs in v4, v6 or routed. */
	unsigned long ifindex_used[BW_BIT_WORDS(BW_PORTS)];
};

static inline u32 bw_service(u8 proto, u16 port)
{
	return (u32)proto << 16 | port;
}

/*
 * What the rules say to a query. Context: any; the caller holds both (RCU, or
 * bw_mutex).
 */
BW_API void bw_classify(const struct bw_rules *r, const struct bw_endpoints *e,
			const struct bw_query *q, struct bw_decision *d);

/*
 * A packet in the usual case: no query flag but DIRECT, both ends guarded or
 * outside, its bridge port unknown. By who sends it, so that nothing has to be
 * put in the connection's order first.
 */
struct bw_plain {
	const union bw_addr *from, *to;	/* sender's and receiver's */
	u32 in, out;			/* guarded links they show, 0: outside */
	u32 service;
	u8 family;
	bool reply;			/* the responder sends it */
	bool direct;			/* BW_Q_DIRECT */
};

/*
 * As bw_classify(), in fewer instructions; false where it must be asked: an end
 * may be spoofed, unmanaged or addressless. Context: as bw_classify().
 */
BW_API bool bw_classify_plain(const struct bw_rules *r, const struct bw_endpoints *e,
			      const struct bw_plain *q, struct bw_decision *d);

/*
 * The container behind a socket of docker-proxy takes the host's place; false:
 * nobody's socket, and q is as it was. Context: as bw_classify().
 */
BW_API bool bw_published_resolve(const struct bw_endpoints *e, struct bw_query *q);

/* NULL: no endpoint has the address. Context: as bw_classify(). */
BW_API struct bw_ep_loc *bw_ep_find(const struct bw_endpoints *e, u8 family,
				    const union bw_addr *addr);

/* How slots hash, shared with the builder. */
static inline u64 bw_port_hash(const struct bw_table *t, u32 link, u32 port)
{
	return bw_hash1(t, (u64)link << 32 | port);
}

static inline u64 bw_ep4_hash(const struct bw_table *t, __be32 addr)
{
	return bw_hash1(t, (__force u32)addr);
}

static inline u64 bw_pair_hash(const struct bw_table *t, u32 row, u32 column)
{
	return bw_hash1(t, (u64)row << 32 | column);
}

static inline u64 bw_published_hash(const struct bw_table *t, u8 family,
				    u8 proto, u16 port,
				    const union bw_addr *addr)
{
	return bw_hash3(t, (u64)family << 24 | (u64)proto << 16 | port,
			addr->v6[0], addr->v6[1]);
}

#endif /* _BW_CLASSIFY_H */
