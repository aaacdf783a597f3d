// SPDX-License-Identifier: GPL-2.0-only
/*
 * The mutexes themselves. They stand apart from what they protect, so that each
 * file can assert that one is held without depending on the others.
 */
#include "lock.h"

BW_DATA struct mutex bw_txn_mutex = __MUTEX_INITIALIZER(bw_txn_mutex);
BW_DATA struct mutex bw_exchange_mutex = __MUTEX_INITIALIZER(bw_exchange_mutex);
BW_DATA struct mutex bw_mutex = __MUTEX_INITIALIZER(bw_mutex);
