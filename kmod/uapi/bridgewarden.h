/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * bridgewarden: what user space and the module say to each other.
 *
 * The generic netlink family is specified in ../bridgewarden.yaml; the numbers
 * here and in plugins/module_utils/_abi.py are checked against that file
 * by tests/unit/test_netlink_spec.py.  Bulk sections are arrays of the structs
 * below, sent as binary attributes: integers in host byte order, addresses in
 * network byte order, no implicit padding.
 */
#ifndef _UAPI_BRIDGEWARDEN_H
#define _UAPI_BRIDGEWARDEN_H

#include <linux/types.h>

#define BW_FAMILY_NAME		"bridgewarden"
#define BW_FAMILY_VERSION	2

#define BW_NAME_LEN		64	/* rule name, NUL included, UTF-8 */
#define BW_GUARD_LEN		32	/* guard pattern, NUL included */
#define BW_DIGEST_LEN		32	/* SHA-256 */

/* Upper bounds of one ruleset; a transaction that exceeds one is refused. */
#define BW_MAX_GUARDS		64	/* patterns, not links */
#define BW_MAX_IDENTITIES	(1U << 20)
#define BW_MAX_CELLS		(1U << 20)
#define BW_MAX_ENDPOINTS	(1U << 20)
#define BW_MAX_PUBLISH		(1U << 17)
#define BW_MAX_RULES		(1U << 17)
#define BW_MAX_SPANS		(1U << 22)
#define BW_MAX_BLOCKS		(1U << 22)
#define BW_MAX_PAIRS		(1U << 22)
/* Of each family; ports of all sets, which are numbered below that too. */
#define BW_MAX_PREFIXES		(1U << 14)
#define BW_MAX_BEHIND		(1U << 16)

enum bw_cmd {
	BW_CMD_UNSPEC,
	BW_CMD_INFO_GET,	/* do: state of the module */
	BW_CMD_BEGIN,		/* do: open this socket's transaction */
	BW_CMD_ADD,		/* do: append sections to it */
	BW_CMD_COMMIT,		/* do: verify it, make it the ruleset */
	BW_CMD_ABORT,		/* do: throw it away */
	BW_CMD_CONFIRM,		/* do: keep a commit that has a confirm window */
	BW_CMD_ROLLBACK,	/* do: restore the ruleset before it, now */
	BW_CMD_RULE_GET,	/* dump: rules and built-in reasons, counters */
	BW_CMD_ENDPOINT_GET,	/* dump: endpoints */
	BW_CMD_EXPLAIN,		/* do: verdict for a hypothetical packet */
	BW_CMD_SEAL,		/* do: no change and no unload until reboot */
	BW_CMD_TRACE_BEGIN,	/* do: begin this socket's trace */
	BW_CMD_TRACE_GET,	/* do: how it stands */
	BW_CMD_TRACE_END,	/* do: end it, tell how it stood */
	BW_CMD_HOOK_GET,	/* do: who stands at each hook of a namespace */
	BW_CMD_PREFIX_GET,	/* dump: routed prefixes, then the ports they live behind */
	BW_CMD_UNMANAGED_GET,	/* dump: who sends behind a guard and is not known */
	__BW_CMD_MAX,
};

#define BW_CMD_MAX (__BW_CMD_MAX - 1)

/* Reserved identities; a ruleset's own start at BW_ID_FIRST. */
enum bw_id {
	BW_ID_UNMANAGED = 0,	/* behind a guard, but no known endpoint */
	BW_ID_WORLD = 1,	/* outside, in no CIDR of the policy */
	BW_ID_HOST = 2,		/* this host, its address in no CIDR of the policy */
	BW_ID_FIRST = 3,
};

enum bw_mode {
	BW_MODE_ENFORCE = 0,
	BW_MODE_AUDIT = 1,	/* judge, count and log, never drop */
	__BW_MODE_MAX,
};

enum bw_placement {
	BW_PLACEMENT_FORWARD = 0,	/* LOCAL_IN and FORWARD; the host's own at LOCAL_OUT */
	BW_PLACEMENT_POSTROUTING = 1,	/* LOCAL_IN and POST_ROUTING */
	BW_PLACEMENT_CONTAINER = 2,	/* inside the containers' namespaces */
	__BW_PLACEMENT_MAX,
};

enum bw_action {
	BW_ACTION_ALLOW = 0,
	BW_ACTION_DENY = 1,
	BW_ACTION_REJECT = 2,
	BW_ACTION_QUEUE = 3,	/* of rules only: to an NFQUEUE listener of the host */
	__BW_ACTION_MAX,
};

enum bw_class {
	BW_CLASS_INGRESS = 0,		/* outside to container */
	BW_CLASS_EGRESS = 1,		/* container to outside */
	BW_CLASS_INTER_CONTAINER = 2,
	BW_CLASS_TO_HOST = 3,		/* container to host */
	BW_CLASS_FROM_HOST = 4,		/* host to container */
	BW_CLASS_HOST_INGRESS = 5,	/* outside to the host's own sockets */
	__BW_CLASS_MAX,
};

/*
 * Built-in reasons share the number space of rules: 0 .. BW_REASON_MAX - 1 are
 * these, rule i of the ruleset is BW_REASON_MAX + i.  The first six are the
 * defaults of the direction classes, in the order of enum bw_class.
 */
enum bw_reason {
	BW_REASON_DEFAULT_INGRESS = 0,
	BW_REASON_DEFAULT_EGRESS,
	BW_REASON_DEFAULT_INTER_CONTAINER,
	BW_REASON_DEFAULT_TO_HOST,
	BW_REASON_DEFAULT_FROM_HOST,
	BW_REASON_DEFAULT_HOST_INGRESS,
	BW_REASON_UNMANAGED,	/* an unmanaged address takes part: closed */
	BW_REASON_SPOOFED,	/* source does not belong to the link it came from */
	BW_REASON_INVALID,	/* conntrack calls it invalid */
	BW_REASON_MALFORMED,	/* truncated, or no transport header to judge by */
	BW_REASON_DIRECT,	/* outside to a container's own address, not published */
	BW_REASON_NEIGHBOUR,	/* neighbour discovery, multicast listener: accepted */
	BW_REASON_HOST_ERROR,	/* the host's own reset or ICMP error: accepted */
	BW_REASON_CLOSED,	/* guards without a ruleset: dropped */
	BW_REASON_BARE_PORT,	/* IP in at or out of a port of a guarded bridge itself */
	BW_REASON_BARE_PORT_NEIGHBOUR,	/* the same, the host's own ND and MLD: never logged */
	BW_REASON_UNSEEN,	/* IP between ports of a guarded bridge that no judge has seen */
	BW_REASON_UNPLACED,	/* where the packet entered the host cannot be determined */
	BW_REASON_MAX = 64,
};

/* Attributes of the family; one set for all commands. */
enum bw_attr {
	BW_ATTR_UNSPEC,
	BW_ATTR_PAD,
	BW_ATTR_VERSION,		/* string: module version */
	BW_ATTR_GENERATION,		/* u64: of the ruleset in force; 0: none */
	BW_ATTR_EXPECT_GENERATION,	/* u64: compare-and-swap; -ESTALE if it differs */
	BW_ATTR_MODE,			/* u8: enum bw_mode */
	BW_ATTR_DEFAULTS,		/* binary: u8[6] of enum bw_action, by enum bw_class */
	BW_ATTR_POLICY_DIGEST,		/* binary[32]: of the desired policy, opaque here */
	BW_ATTR_RULESET_DIGEST,		/* binary[32]: of the compiled ruleset, opaque here */
	BW_ATTR_DRY_RUN,		/* flag: verify, do not apply */
	BW_ATTR_CONFIRM_TIMEOUT,	/* u32: seconds; 0 or absent: no window */
	BW_ATTR_CONFIRM_REMAINING,	/* u32: seconds left of an open window */
	BW_ATTR_GUARD,			/* string, repeated: link name pattern, as glob_match() */
	BW_ATTR_GUARD_LINK,		/* u32, repeated, in replies: ifindex guarded now */
	BW_ATTR_SECTION_IDENTITY,	/* binary: struct bw_nl_identity[] */
	BW_ATTR_SECTION_CELL4,		/* binary: struct bw_nl_cell4[] */
	BW_ATTR_SECTION_CELL6,		/* binary: struct bw_nl_cell6[] */
	BW_ATTR_SECTION_ENDPOINT4,	/* binary: struct bw_nl_endpoint4[] */
	BW_ATTR_SECTION_ENDPOINT6,	/* binary: struct bw_nl_endpoint6[] */
	BW_ATTR_SECTION_PUBLISH,	/* binary: struct bw_nl_publish[] */
	BW_ATTR_SECTION_RULE,		/* binary: struct bw_nl_rule[] */
	BW_ATTR_SECTION_SPAN,		/* binary: struct bw_nl_span[] */
	BW_ATTR_SECTION_BLOCK,		/* binary: struct bw_nl_block[] */
	BW_ATTR_SECTION_PAIR,		/* binary: struct bw_nl_pair[] */
	BW_ATTR_COUNT_IDENTITIES,	/* u32, in INFO_GET's reply, likewise the next five */
	BW_ATTR_COUNT_CELLS,
	BW_ATTR_COUNT_ENDPOINTS,
	BW_ATTR_COUNT_PUBLISH,
	BW_ATTR_COUNT_RULES,
	BW_ATTR_COUNT_PAIRS,
	BW_ATTR_HOOKS_FIRST,		/* u32: bit pf * 8 + hook; pf 0 IPv4, 1 IPv6 */
	BW_ATTR_HOOKS_EXPECTED,		/* u32: the bits that are set when all is well */
	BW_ATTR_RULE_INDEX,		/* u32: see enum bw_reason */
	BW_ATTR_RULE_KEY,		/* u64 */
	BW_ATTR_RULE_NAME,		/* string */
	BW_ATTR_ACTION,			/* u8: enum bw_action */
	BW_ATTR_PACKETS,		/* u64 */
	BW_ATTR_BYTES,			/* u64 */
	BW_ATTR_FAMILY,			/* u8: AF_INET (2) or AF_INET6 (10) */
	BW_ATTR_PROTO,			/* u8: IP protocol number */
	BW_ATTR_FROM_ADDR,		/* binary: 4 or 16 bytes: initiator */
	BW_ATTR_TO_ADDR,		/* binary: 4 or 16 bytes: responder, after DNAT */
	BW_ATTR_PORT,			/* u16: responder's port; ICMP: type << 8 | code */
	BW_ATTR_FROM_KIND,		/* u8: enum bw_kind; likewise TO_KIND */
	BW_ATTR_TO_KIND,
	BW_ATTR_DIRECT,			/* flag: not through a published port */
	BW_ATTR_CLASS,			/* u8: enum bw_class */
	BW_ATTR_FROM_IDENTITY,		/* u32 */
	BW_ATTR_TO_IDENTITY,		/* u32 */
	BW_ATTR_ADDR,			/* binary: 4 or 16 bytes: an endpoint's address */
	BW_ATTR_IDENTITY,		/* u32 */
	BW_ATTR_LINK,			/* u32: ifindex of the guarded link */
	BW_ATTR_LINK_PORT,		/* u32: as in struct bw_nl_endpoint4 */
	BW_ATTR_PLACEMENT,		/* u8: enum bw_placement; absent: forward */
	BW_ATTR_LOG_GROUP,		/* u16: nfnetlink_log group; absent: 0 */
	BW_ATTR_LOG_DEFAULTS,		/* u8: 1: log what is dropped without a rule, too */
	BW_ATTR_LOG_SWALLOWED,		/* u64: lines the rate limit kept back since load */
	BW_ATTR_SEALED,			/* flag: no change until reboot */
	BW_ATTR_HOOK_AHEAD,		/* string, repeated: "IPv4 FORWARD function [module]" */
	BW_ATTR_QUEUE_NUM,		/* u16: of queue rules, likewise the next two */
	BW_ATTR_QUEUE_COUNT,		/* u16 */
	BW_ATTR_QUEUE_BYPASS,		/* flag */
	BW_ATTR_PARENT,			/* string, repeated: as GUARD, of macvlan's parents */
	BW_ATTR_COUNT_NAMESPACES,	/* u32: containers' namespaces judged inside now */
	BW_ATTR_TRACE_ID,		/* u32: in the trace field of its events */
	BW_ATTR_TRACE_TERM,		/* binary: struct bw_nl_term[]; absent: every packet */
	BW_ATTR_TRACE_SECONDS,		/* u32: ends by itself after so long; absent: 60 */
	BW_ATTR_TRACE_EVENTS,		/* u32: ... after so many events; absent: 100000 */
	BW_ATTR_TRACE_RATE,		/* u32: events a second, at most; absent: 5000 */
	BW_ATTR_TRACE_REPORTED,		/* u64: events written */
	BW_ATTR_TRACE_WITHHELD,		/* u64: events kept back by the rate */
	BW_ATTR_TRACE_STATE,		/* u8: enum bw_trace_state */
	BW_ATTR_TRACE_BLIND,		/* u32: namespaces without our hooks, for want of memory */
	BW_ATTR_NETNS_FD,		/* u32: open file of a namespace; absent: the host's */
	BW_ATTR_HOOK,			/* binary, repeated: struct bw_nl_hook */
	BW_ATTR_COUNT_TRACES,		/* u32: that run now */
	BW_ATTR_COUNT_RETURNED,		/* u32: closed endpoints that the same commit would open */
	BW_ATTR_SECTION_PREFIX4,	/* binary: struct bw_nl_prefix4[] */
	BW_ATTR_SECTION_PREFIX6,	/* binary: struct bw_nl_prefix6[] */
	BW_ATTR_SECTION_BEHIND,		/* binary: struct bw_nl_behind[] */
	BW_ATTR_COUNT_PREFIXES,		/* u32, in INFO_GET's reply, likewise the next one */
	BW_ATTR_COUNT_BEHIND,
	BW_ATTR_PREFIX_LENGTH,		/* u8: of the prefix ADDR */
	BW_ATTR_PREFIX_SET,		/* u32: number of a set of ports */
	BW_ATTR_MAC,			/* binary[6]: of a frame's sender */
	BW_ATTR_IDLE,			/* u32: seconds since the last packet */
	BW_ATTR_UNMANAGED_LOST,		/* u64: packets since load that found no place there */
	__BW_ATTR_MAX,
};

#define BW_ATTR_MAX (__BW_ATTR_MAX - 1)

enum bw_trace_state {
	BW_TRACE_RUNNING = 0,
	BW_TRACE_TIME = 1,	/* ended: its time was up */
	BW_TRACE_EVENTS = 2,	/* ended: it has written as many events as it may */
	BW_TRACE_ENDED = 3,	/* ended: its owner said so */
	__BW_TRACE_MAX,
};

#define BW_MAX_TRACES		4	/* at once */
#define BW_MAX_TERMS		64	/* of a trace */
#define BW_MAX_TRACE_SECONDS	3600
#define BW_MAX_TRACE_EVENTS	10000000
#define BW_MAX_TRACE_RATE	1000000

/* Where a party to a connection stands. */
enum bw_kind {
	BW_KIND_WORLD = 0,	/* beyond an unguarded link */
	BW_KIND_HOST = 1,	/* this host's own sockets */
	BW_KIND_GUARDED = 2,	/* behind a guarded link */
	__BW_KIND_MAX,
};

/*
 * Identity i is entry i of the section: its row (as initiator) and its column
 * (as responder) in the policy matrix.  Entries 0..2 are the reserved ones.
 */
struct bw_nl_identity {
	__u32 row;
	__u32 column;
};

/*
 * A partition of the address space: cell i reaches from its start to the start
 * of cell i + 1.  Starts ascend strictly, the first is 0.  Gives the identity
 * of an address that is no endpoint's, by the kind of its holder.
 */
struct bw_nl_cell4 {
	__be32 start;
	__u32 world;
	__u32 host;
};

struct bw_nl_cell6 {
	__u8 start[16];
	__u32 world;
	__u32 host;
};

struct bw_nl_endpoint4 {
	__be32 addr;
	__u32 identity;
	__u32 link;	/* ifindex of the guarded link, must exist */
	__u32 port;	/* ifindex of the veth on it; 0: unknown, not checked; see below */
};

struct bw_nl_endpoint6 {
	__u8 addr[16];
	__u32 identity;
	__u32 link;
	__u32 port;
};

/*
 * A child (macvlan, ipvlan) is no link of the host's: its endpoint's link is the
 * parent and its port, always above 2^31, the inode number of its namespace.
 */

/*
 * A routed prefix: addresses that are no endpoint's, behind any port of a set. Of
 * several prefixes with an address the longest counts; none has an address of the
 * host. A set without a port closes its prefixes.
 */
struct bw_nl_prefix4 {
	__be32 addr;	/* bits behind the length are 0 */
	__u32 length;	/* 0 .. 32 */
	__u32 identity;
	__u32 set;
};

struct bw_nl_prefix6 {
	__u8 addr[16];
	__u32 length;	/* 0 .. 128 */
	__u32 identity;
	__u32 set;
};

/* A port of a set; both as in struct bw_nl_endpoint4, but the port must be known. */
struct bw_nl_behind {
	__u32 set;
	__u32 link;
	__u32 port;
};

/* A socket of docker-proxy on this host and the container it stands for. */
struct bw_nl_publish {
	__u8 family;		/* of the socket: AF_INET or AF_INET6 */
	__u8 proto;
	__u16 host_port;
	__u8 host_addr[16];	/* IPv4 in the first four bytes; all zero: any */
	__u8 to_family;		/* of the container's address */
	__u8 reserved;		/* 0 */
	__u16 to_port;
	__u8 to_addr[16];
};

#define BW_RULE_F_LOG	(1 << 0)
#define BW_RULE_F_BYPASS	(1 << 1)	/* queue: accept while nobody listens */
#define BW_RULE_F_MASK	(BW_RULE_F_LOG | BW_RULE_F_BYPASS)

struct bw_nl_rule {
	__u64 key;		/* of the rule's content: its counters survive while it stays */
	__u8 action;		/* enum bw_action */
	__u8 flags;		/* BW_RULE_F_* */
	__u16 queue;		/* queue: the first one's number; else 0 */
	__u16 queues;		/* queue: how many flows spread over; else 0 */
	__u16 reserved;		/* 0 */
	char name[BW_NAME_LEN];	/* NUL-terminated */
};

/*
 * What a cell of the policy matrix holds for the services lo .. hi, both
 * included.  A service is proto << 16 | port (ICMP: type << 8 | code), so "all
 * of TCP" is 0x060000 .. 0x06ffff and everything is 0 .. 0xffffff.
 */
#define BW_SERVICE_MAX	0xffffffU
#define BW_RULE_NONE	0xffffffffU

struct bw_nl_span {
	__u32 lo;
	__u32 hi;
	__u32 rule;	/* index into the rules, or BW_RULE_NONE */
	__u32 direct;	/* the same for direct ingress, see BW_REASON_DIRECT */
};

/* A run of spans, ascending and disjoint. Pairs with equal rules share one. */
struct bw_nl_block {
	__u32 first;
	__u32 count;
};

/* (row, column) to block; each pair at most once. No pair: no rule. */
struct bw_nl_pair {
	__u32 row;
	__u32 column;
	__u32 block;
};

#define BW_TERM_F_EXCEPT	(1 << 0)
#define BW_TERM_F_MASK		BW_TERM_F_EXCEPT

/*
 * What a trace shows: packets for which all that is set in one of its terms
 * holds, either by their own header or by one of their connection's two, and
 * from then on they and their connection wherever they go.
 *
 * A term with BW_TERM_F_EXCEPT leaves out what it matches, whatever the other
 * terms say. With such terms alone a trace shows every other packet.
 */
struct bw_nl_term {
	__u8 family;	/* AF_INET or AF_INET6; 0: either, and no address is asked for */
	__u8 proto;	/* 0: any */
	__u16 port;	/* either side's; 0: any */
	__u8 one_len;	/* prefix length; 0: any address */
	__u8 other_len;
	__u16 flags;	/* BW_TERM_F_* */
	__u32 link;	/* ifindex in the host's namespace; 0: any */
	__u32 netns;	/* inode number; 0: any */
	__u8 one[16];	/* from the one to the other or back; IPv4 in the first four bytes */
	__u8 other[16];
};

#define BW_WHO_LEN		88

/* In the order in which they run. */
struct bw_nl_hook {
	__u8 family;	/* NFPROTO_IPV4 (2), NFPROTO_BRIDGE (7) or NFPROTO_IPV6 (10) */
	__u8 hook;	/* enum nf_inet_hooks */
	__u16 own;	/* 1: ours */
	__s32 priority;
	char who[BW_WHO_LEN];	/* "function [module]", NUL-terminated */
};

#endif /* _UAPI_BRIDGEWARDEN_H */
