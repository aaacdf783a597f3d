/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Putting a state in force: the one place where the state that packets see is
 * replaced, with everything that hangs on it.
 */
#ifndef _BW_EXCHANGE_H
#define _BW_EXCHANGE_H

#include "state.h"

/*
 * bw_exchange_prepare() - everything that may fail.
 * @st: the next state from here on; rtnl and bw_mutex may be released before it is
 *	put in force.
 * @f: filled in on an error.
 *
 * The hooks and containers' devices that st needs. On an error they are as before.
 * bw_exchange_cancel() takes them back if st is not put in force after all. Returns
 * 0 or a negative errno. Context: process; bw_exchange_mutex, rtnl and bw_mutex are
 * held.
 */
BW_API int bw_exchange_prepare(struct bw_state *st, struct bw_fault *f);
BW_API void bw_exchange_cancel(void);

/*
 * bw_exchange() - puts a state in force.
 * @st: prepared, or the saved state; NULL: nothing is judged from now on.
 * @saved: what a roll back would restore; NULL: nothing.
 *
 * Cannot fail, needs no memory and waits for nobody. Packets that are in a hook
 * may use the former state until a grace period is over: the caller hands it to
 * bw_state_release(). Then, with no lock held, bw_exchange_settle(). Context: process;
 * bw_exchange_mutex, rtnl and bw_mutex are held.
 */
BW_API void bw_exchange(struct bw_state *st, const struct bw_state *saved);

/*
 * The saved state is no longer wanted: what only it needed goes. Context: process;
 * bw_exchange_mutex, rtnl and bw_mutex are held.
 */
BW_API void bw_exchange_confirm(void);

/*
 * bw_exchange_settle() - waits for what an exchange leaves behind.
 *
 * While the placement changes, packets are judged in both places; and flows in an
 * nft flowtable end. Both need a grace period. Returns at once where neither is the
 * case, and is no condition for the next exchange. Context: process, may sleep;
 * none of our mutexes is held.
 */
BW_API void bw_exchange_settle(void);

/*
 * With guards named at load, everything at them is dropped until a commit: 0 or a
 * negative errno. From bw_exchange_stop() on nothing is judged, without a way
 * back, and no packet uses a state any more. Context: process, may sleep; loading
 * and unloading only, takes bw_exchange_mutex, rtnl and bw_mutex.
 */
BW_API int bw_exchange_init(char *const *closed, u32 n_closed);
BW_API void bw_exchange_stop(void);

#endif /* _BW_EXCHANGE_H */
