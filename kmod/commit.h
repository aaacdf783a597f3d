/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Committing a state that was built from a draft, and sealing the one in force.
 */
#ifndef _BW_COMMIT_H
#define _BW_COMMIT_H

#include "state.h"

struct bw_commit {
	u64 expect;		/* generation */
	u32 timeout;		/* seconds of the confirm window, 0: none */
	bool dry_run;
};

/*
 * Takes st over; on a dry run or a failure st is freed. Returns 0 and the
 * generation in force, or a negative errno with the fault filled in. Context:
 * process, bw_txn_mutex is held; takes bw_exchange_mutex, rtnl and bw_mutex. Then,
 * with no lock held, bw_exchange_settle().
 */
BW_API int bw_commit_state(struct bw_state *st, const struct bw_draft *d,
			   const struct bw_commit *c, u64 *generation,
			   struct bw_fault *f);

/*
 * The number of endpoints that were closed when their link or port went, or was
 * not there yet, and whose place is there now: committing the same draft would open
 * them. The inode number of a namespace, the place of a child, is given out again.
 * Context: process, bw_mutex is held.
 */
BW_API u32 bw_commit_count_returned(const struct bw_state *st);

/*
 * No change from now on, and no unloading. Returns 0 or a negative errno with the
 * fault filled in. Context: process; takes bw_exchange_mutex and bw_mutex.
 */
BW_API int bw_commit_seal(const u64 *expect, struct bw_fault *f);

#endif /* _BW_COMMIT_H */
