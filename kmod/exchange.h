/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Putting a state in force: the one place where the state that packets see is
 * replaced, with everything that hangs on it.
 */
#ifndef _BW_EXCHANGE_H
#define _BW_EXCHANGE_H

#include "state.h"

/*
 * Everything that may fail: the hooks and containers' devices that st needs. On
 * an error they are as before and the fault is filled in. bw_exchange_cancel()
 * takes them back if st is not put in force after all. Context: process; rtnl and
 * bw_mutex are held.
 */
BW_API int bw_exchange_prepare(const struct bw_state *st, struct bw_fault *f);
BW_API void bw_exchange_cancel(void);

/*
 * Puts st (NULL: nothing), which is prepared or the saved state, in force; saved
 * is what a roll back would restore. When it returns, no packet uses the former
 * state any more, and the caller frees it. Context: process, may sleep; rtnl and
 * bw_mutex are held, rtnl is released.
 */
BW_API void bw_exchange(struct bw_state *st, const struct bw_state *saved);

/*
 * With guards named at load, everything at them is dropped until a commit: 0 or a
 * negative errno. From bw_exchange_stop() on nothing is judged, without a way
 * back. Context: process, may sleep; loading and unloading only, takes rtnl and
 * bw_mutex.
 */
BW_API int bw_exchange_init(char *const *closed, u32 n_closed);
BW_API void bw_exchange_stop(void);

#endif /* _BW_EXCHANGE_H */
