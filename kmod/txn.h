/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Transactions: what a socket has sent of a ruleset so far. One per socket,
 * gone with it; bounded in number and in memory, all of them together.
 */
#ifndef _BW_TXN_H
#define _BW_TXN_H

#include <linux/list.h>

#include "api.h"
#include "draft.h"
#include "owner.h"

#define BW_TXN_MAX	16
#define BW_TXN_BYTES	(512UL << 20)	/* of all open transactions */

struct bw_txn {
	struct list_head list;
	struct bw_owner owner;
	bool has_mode;
	bool has_defaults;
	bool has_expect;
	u64 expect;
	u32 room[BW_S_MAX];	/* entries allocated */
	struct bw_draft draft;
};

/*
 * The transaction of a socket. bw_txn_find() returns NULL where it has none,
 * bw_txn_open() an ERR_PTR: -EBUSY it has one already, -EUSERS there are too
 * many, -ENOMEM. The others return 0 or a negative errno, say why, and have added
 * nothing then. Context: process, may sleep; bw_txn_mutex is held.
 */
BW_API struct bw_txn *bw_txn_find(const struct bw_owner *who);
BW_API struct bw_txn *bw_txn_open(const struct bw_owner *who);
BW_API void bw_txn_close(struct bw_txn *txn);
BW_API int bw_txn_append(struct bw_txn *txn, enum bw_section section,
			 const void *data, size_t bytes, const char **why);
BW_API int bw_txn_add_guard(struct bw_txn *txn, const char *pattern, size_t len,
			    const char **why);
BW_API int bw_txn_add_parent(struct bw_txn *txn, const char *pattern, size_t len,
			     const char **why);

/*
 * Follows sockets that close: 0 or a negative errno; bw_txn_exit() frees what is
 * open. Context: process, may sleep; loading and unloading only.
 */
BW_API int bw_txn_init(void);
BW_API void bw_txn_exit(void);

#endif /* _BW_TXN_H */
