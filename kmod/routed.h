/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Routed prefixes: addresses that are no endpoint's, but that a container routes
 * or also holds (VPN clients, pods, a floating address). A prefix lives behind a
 * set of ports, so that an address may move between them without a commit. Asked
 * only after an exact endpoint was missed. Pure C, for the kernel and for user
 * space; must never change after it is built, but for ports that close.
 */
#ifndef _BW_ROUTED_H
#define _BW_ROUTED_H

#include "addr.h"
#include "api.h"
#include "draft.h"
#include "shim.h"
#include "table.h"
#include "uapi/bridgewarden.h"

/* From start to the next cell's start; the first one starts at 0. */
struct bw_routed_cell {
	u64 start[2];	/* host byte order, high half first; IPv4 in the low half */
	u32 identity;
	u32 set;	/* 1 + its number; 0: in no prefix */
	u32 entry;	/* of the draft's section, for faults */
};

/*
 * Slots of the ports' table: a port of a set; with port 0 all of the set's ports
 * on a link; with link 0 all of its ports, or of its children.
 */
struct bw_routed_port {
	u32 set;	/* 1 + its number; 0: unused slot */
	u32 link;	/* as in struct bw_ep_loc */
	u32 port;
	u32 open;	/* how many are; falls as links go */
};

struct bw_routed {
	struct bw_routed_cell *cell4;	/* NULL: no prefixes of the family */
	struct bw_routed_cell *cell6;
	u32 n_cell4;
	u32 n_cell6;
	struct bw_table ports;		/* struct bw_routed_port */
	u32 n_prefix4;
	u32 n_prefix6;
	u32 n_port;
	u32 n_closed;			/* of the ports */
	struct bw_nl_prefix4 *prefix4;	/* as sent, not read per packet */
	struct bw_nl_prefix6 *prefix6;
};

/* Whether a slot is no port, but counts ports. */
static inline bool bw_routed_is_sum(const struct bw_routed_port *p)
{
	return !p->link || !p->port;
}

enum bw_routed_place {
	BW_ROUTED_NO_PREFIX,
	BW_ROUTED_HERE,		/* behind one of its prefix's ports that may be the one shown */
	BW_ROUTED_ELSEWHERE,	/* behind others */
	BW_ROUTED_CLOSED,	/* all ports of its prefix have gone: proves nothing */
};

/*
 * bw_routed_build() - from the sections of a draft.
 * @r: zeroed; filled in.
 * @d: bw_draft_check() has passed it.
 * @f: filled in on an error.
 *
 * Returns 0 or a negative errno; then nothing is left to free. Context: process,
 * may sleep.
 */
BW_API int bw_routed_build(struct bw_routed *r, const struct bw_draft *d, struct bw_fault *f);
BW_API void bw_routed_free(struct bw_routed *r);

/*
 * bw_routed_find() - the longest prefix that an address is in.
 * @r: built.
 * @family: AF_INET or AF_INET6.
 * @addr: no endpoint has it.
 *
 * A search through cells: as many steps as the logarithm of twice the prefixes.
 * Returns NULL where no prefix has the address. Context: any; the caller holds r
 * (RCU, or bw_mutex).
 */
BW_API const struct bw_routed_cell *bw_routed_find(const struct bw_routed *r, u8 family,
						   const union bw_addr *addr);

/*
 * bw_routed_open() - how many ports of a cell's set are open.
 * @r: built.
 * @cell: of bw_routed_find().
 * @link: on this link only; 0: on any.
 * @port: this port only; 0: any.
 *
 * One probe of a hash. Context: as bw_routed_find().
 */
BW_API u32 bw_routed_open(const struct bw_routed *r, const struct bw_routed_cell *cell,
			  u32 link, u32 port);

/* How many of the open ports are namespaces of children. Context: as bw_routed_find(). */
BW_API u32 bw_routed_open_children(const struct bw_routed *r, const struct bw_routed_cell *cell);

/*
 * bw_routed_look() - whether an address may be behind a port.
 * @r: built.
 * @family: AF_INET or AF_INET6.
 * @addr: no endpoint has it.
 * @link: where it shows up; 0: not shown.
 * @port: likewise.
 * @identity: that of its prefix; written with BW_ROUTED_HERE only.
 *
 * Context: as bw_routed_find().
 */
BW_API enum bw_routed_place bw_routed_look(const struct bw_routed *r, u8 family,
					   const union bw_addr *addr, u32 link, u32 port,
					   u32 *identity);

/*
 * bw_routed_close() - closes ports, in place and for good.
 * @r: built.
 * @link: ports of this link, or with @port 0 also the port with this number.
 * @port: 0: all of them; else this one.
 *
 * Packets may be judged meanwhile. Returns whether one was open. Context: bw_mutex
 * is held, or nobody else knows r.
 */
BW_API bool bw_routed_close(struct bw_routed *r, u32 link, u32 port);

#endif /* _BW_ROUTED_H */
