/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The confirm window: a commit that undoes itself unless it is confirmed in
 * time. Its end, confirmed or rolled back.
 */
#ifndef _BW_WINDOW_H
#define _BW_WINDOW_H

#include "state.h"

#define BW_CONFIRM_MAX	(24 * 60 * 60)	/* seconds */

/*
 * before: what a roll back restores, NULL where nothing was judged.
 * bw_window_check_closed(): 0, or -EBUSY with the fault filled in, a commit waits
 * for its confirmation. bw_window_remaining(): seconds left; 0: no window is open.
 * Context: bw_mutex is held; to open one, bw_exchange_mutex as well.
 */
BW_API void bw_window_open(struct bw_state *before, u32 seconds);
BW_API int bw_window_check_closed(struct bw_fault *f);
BW_API u32 bw_window_remaining(void);

/*
 * Both end an open window. expect: NULL, or the generation in force. Return 0 or
 * a negative errno with the fault filled in. Context: process, may sleep, none of
 * our mutexes is held; take bw_exchange_mutex, rtnl and bw_mutex.
 *
 * The end of the time, a confirmation, a roll back, a seal and the next commit
 * exclude each other by bw_exchange_mutex: who comes first decides, and the others
 * find the window closed. Only what comes first frees a state.
 */
BW_API int bw_window_confirm(const u64 *expect, struct bw_fault *f);
BW_API int bw_window_roll_back(const u64 *expect, struct bw_fault *f);

/*
 * bw_window_init() returns 0 or a negative errno. No window expires any more when
 * bw_window_exit() returns. Context: process, may sleep; loading and unloading only.
 */
BW_API int bw_window_init(void);
BW_API void bw_window_exit(void);

#endif /* _BW_WINDOW_H */
