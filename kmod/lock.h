/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control plane's three mutexes. Lock order: bw_txn_mutex ->
 * bw_exchange_mutex -> rtnl -> bw_mutex. The first two are ours alone, so work
 * that grows with a ruleset is done under these. Every link operation of the host
 * waits for the other two. No grace period is waited for under any of them.
 */
#ifndef _BW_LOCK_H
#define _BW_LOCK_H

#include <linux/mutex.h>

#include "api.h"

/* Open transactions: held while a draft is filled, checked and committed. */
BW_API struct mutex bw_txn_mutex;

/*
 * Which states there are, and what their counters have inherited: held while one
 * is put in force, confirmed, rolled back, sealed, released or dumped.
 */
BW_API struct mutex bw_exchange_mutex;

/*
 * The state in force, the saved and the next one, guarded links, hooks and
 * namespaces. Nothing allocates under it, except for listing containers' devices
 * (netns.c), which comes before anything is changed.
 */
BW_API struct mutex bw_mutex;

#endif /* _BW_LOCK_H */
