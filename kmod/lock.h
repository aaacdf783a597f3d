/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The control plane's two mutexes. Lock order: bw_txn_mutex -> rtnl -> bw_mutex.
 * Building a state happens under the first only. Under the other two nothing
 * allocates, except for listing containers' devices (netns.c), which comes before
 * anything is changed.
 */
#ifndef _BW_LOCK_H
#define _BW_LOCK_H

#include <linux/mutex.h>

#include "api.h"

/* Open transactions: held while a draft is filled, checked and committed. */
BW_API struct mutex bw_txn_mutex;

/* The state in force, the saved one, guarded links, hooks and namespaces. */
BW_API struct mutex bw_mutex;

#endif /* _BW_LOCK_H */
