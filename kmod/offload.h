/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ending flows that an nft flowtable carries past the hooks, so that their next
 * packet is judged again: those over guarded links. Others' flows go on.
 */
#ifndef _BW_OFFLOAD_H
#define _BW_OFFLOAD_H

#include "api.h"

/*
 * When it returns, none is left that began before. Context: process, may sleep;
 * takes rtnl and bw_mutex, and holds neither while it waits for the flowtables.
 */
BW_API void bw_offload_end(void);
/*
 * The same a moment later, for those that packets begin before now. Context: any;
 * returns at once.
 */
BW_API void bw_offload_end_soon(void);
BW_API void bw_offload_exit(void);

#endif /* _BW_OFFLOAD_H */
