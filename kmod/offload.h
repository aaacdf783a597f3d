/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Ending flows that an nft flowtable carries past the hooks, so that their next
 * packet is judged again: those over guarded links. Others' flows go on.
 */
#ifndef _BW_OFFLOAD_H
#define _BW_OFFLOAD_H

#include "api.h"

/*
 * bw_offload_end_soon() - ends those over guarded links a grace period later.
 *
 * So those too that a packet begins which was judged before now. A network card
 * that carries flows may take seconds to give them back, so nobody who holds a lock
 * waits for that. Context: any; returns at once.
 */
BW_API void bw_offload_end_soon(void);

/*
 * bw_offload_wait() - until the calls before have done so, for a second at most.
 *
 * Returns at once where there is no flowtable. Context: process, may sleep; none of
 * our mutexes is held.
 */
BW_API void bw_offload_wait(void);

/* No work of ours is left when it returns. Context: process; unloading only. */
BW_API void bw_offload_exit(void);

#endif /* _BW_OFFLOAD_H */
