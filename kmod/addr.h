/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * An address of either family, as the packet path holds it. The bytes behind an
 * IPv4 address are zero wherever whole addresses are compared.
 */
#ifndef _BW_ADDR_H
#define _BW_ADDR_H

#include "shim.h"

union bw_addr {
	__be32 v4;
	u64 v6[2];	/* bytes in network order */
	u8 raw[16];
};

/*
 * Whether the port that an address lives behind is the namespace of a macvlan or
 * ipvlan child: its inode number.
 */
static inline bool bw_port_is_child(u32 port)
{
	return port > U32_MAX / 2;
}

#endif /* _BW_ADDR_H */
