/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ending flows that an nft flowtable carries past the hooks, so that their next
 * packet is judged again.
 */
#ifndef _BW_OFFLOAD_H
#define _BW_OFFLOAD_H

#include "api.h"

/* All of them; when it returns none is left that began before. May sleep. */
BW_API void bw_offload_end(void);
/*
 * The same a moment later, for those that packets begin before now. Context: any;
 * returns at once.
 */
BW_API void bw_offload_end_soon(void);
BW_API void bw_offload_exit(void);

#endif /* _BW_OFFLOAD_H */
