// SPDX-License-Identifier: GPL-2.0-only
/*
 * Collecting a draft. Sections are copied as they come and looked at only at
 * the commit. Nothing sent before the commit may have any effect but memory,
 * and that must be given back when the socket closes.
 */
#include <linux/err.h>
#include <linux/netlink.h>
#include <linux/notifier.h>
#include <linux/spinlock.h>
#include <net/netlink.h>

#include "lock.h"
#include "txn.h"

/* Changed under bw_txn_mutex and the spinlock, read under either. */
static LIST_HEAD(bw_txns);
static DEFINE_SPINLOCK(bw_txns_lock);
static u32 bw_txn_count;
static size_t bw_txn_bytes;

struct bw_txn *bw_txn_find(const struct bw_owner *who)
{
	struct bw_txn *txn;

	lockdep_assert_held(&bw_txn_mutex);
	list_for_each_entry(txn, &bw_txns, list)
		if (txn->owner.sk == who->sk)
			return txn;
	return NULL;
}

struct bw_txn *bw_txn_open(const struct bw_owner *who)
{
	struct bw_txn *txn;

	if (bw_txn_find(who))
		return ERR_PTR(-EBUSY);
	if (bw_txn_count == BW_TXN_MAX)
		return ERR_PTR(-EUSERS);
	txn = kvzalloc(sizeof(*txn), GFP_KERNEL_ACCOUNT);
	if (!txn)
		return ERR_PTR(-ENOMEM);
	txn->owner = bw_owner_get(who);
	spin_lock(&bw_txns_lock);
	list_add(&txn->list, &bw_txns);
	spin_unlock(&bw_txns_lock);
	bw_txn_count++;
	return txn;
}

void bw_txn_close(struct bw_txn *txn)
{
	u32 i;

	lockdep_assert_held(&bw_txn_mutex);
	spin_lock(&bw_txns_lock);
	list_del(&txn->list);
	spin_unlock(&bw_txns_lock);
	bw_owner_put(&txn->owner);
	for (i = 0; i < BW_S_MAX; i++) {
		bw_txn_bytes -= (size_t)txn->room[i] * bw_section_types[i].size;
		kvfree(txn->draft.data[i]);
	}
	bw_txn_count--;
	kvfree(txn);
}

/* Doubles, so that many small messages do not copy everything each time. */
static int bw_txn_grow(struct bw_txn *txn, enum bw_section section, u32 need,
		       const char **why)
{
	const struct bw_section_type *type = &bw_section_types[section];
	u32 room = txn->room[section];
	void *data;

	if (need <= room)
		return 0;
	room = min(max(need, 2 * room), type->max);
	if (bw_txn_bytes + (size_t)(room - txn->room[section]) * type->size >
	    BW_TXN_BYTES) {
		*why = "open transactions hold too much memory";
		return -ENOBUFS;
	}
	data = kvmalloc_array(room, type->size, GFP_KERNEL_ACCOUNT);
	if (!data)
		return -ENOMEM;
	if (txn->draft.count[section])
		memcpy(data, txn->draft.data[section],
		       (size_t)txn->draft.count[section] * type->size);
	kvfree(txn->draft.data[section]);
	bw_txn_bytes += (size_t)(room - txn->room[section]) * type->size;
	txn->draft.data[section] = data;
	txn->room[section] = room;
	return 0;
}

int bw_txn_append(struct bw_txn *txn, enum bw_section section,
		  const void *data, size_t bytes, const char **why)
{
	const struct bw_section_type *type = &bw_section_types[section];
	u32 count = txn->draft.count[section];
	size_t more = bytes / type->size;
	int err;

	lockdep_assert_held(&bw_txn_mutex);
	if (!bytes || bytes % type->size) {
		*why = "section is not a whole number of entries";
		return -EINVAL;
	}
	if (more > type->max - count) {
		*why = "section has too many entries";
		return -E2BIG;
	}
	err = bw_txn_grow(txn, section, count + more, why);
	if (err)
		return err;
	memcpy((char *)txn->draft.data[section] + (size_t)count * type->size,
	       data, bytes);
	txn->draft.count[section] = count + more;
	return 0;
}

static int bw_txn_add_pattern(u32 *n, char (*to)[BW_GUARD_LEN],
			      const char *pattern, size_t len,
			      const char **why)
{
	lockdep_assert_held(&bw_txn_mutex);
	if (*n == BW_MAX_GUARDS) {
		*why = "too many guards";
		return -E2BIG;
	}
	if (!len || len >= BW_GUARD_LEN) {
		*why = "guard pattern is empty or too long";
		return -EINVAL;
	}
	memcpy(to[*n], pattern, len);
	to[*n][len] = '\0';
	++*n;
	return 0;
}

int bw_txn_add_guard(struct bw_txn *txn, const char *pattern, size_t len,
		     const char **why)
{
	return bw_txn_add_pattern(&txn->draft.n_guard, txn->draft.guard,
				  pattern, len, why);
}

int bw_txn_add_parent(struct bw_txn *txn, const char *pattern, size_t len,
		      const char **why)
{
	return bw_txn_add_pattern(&txn->draft.n_parent, txn->draft.parent,
				  pattern, len, why);
}

/* The transaction of a socket that is being closed. Either lock is held. */
static struct bw_txn *bw_txn_find_closed(const struct netlink_notify *n)
{
	struct bw_txn *txn;

	list_for_each_entry(txn, &bw_txns, list)
		if (bw_owner_closes(&txn->owner, n))
			return txn;
	return NULL;
}

/*
 * Called for every netlink socket of the host that closes: one that owns nothing
 * must not wait for a commit, which holds the mutex while it builds. Nobody else
 * sends by a socket that is being closed, so what it owns does not change.
 */
static int bw_txn_event(struct notifier_block *nb, unsigned long event,
			void *ptr)
{
	const struct netlink_notify *n = ptr;
	struct bw_txn *txn;

	if (!bw_owner_event(event, n))
		return NOTIFY_DONE;
	spin_lock(&bw_txns_lock);
	txn = bw_txn_find_closed(n);
	spin_unlock(&bw_txns_lock);
	if (!txn)
		return NOTIFY_DONE;
	mutex_lock(&bw_txn_mutex);
	txn = bw_txn_find_closed(n);
	if (txn)
		bw_txn_close(txn);
	mutex_unlock(&bw_txn_mutex);
	return NOTIFY_DONE;
}

static struct notifier_block bw_txn_notifier = {
	.notifier_call = bw_txn_event,
};

int bw_txn_init(void)
{
	return netlink_register_notifier(&bw_txn_notifier);
}

void bw_txn_exit(void)
{
	struct bw_txn *txn, *next;

	netlink_unregister_notifier(&bw_txn_notifier);
	mutex_lock(&bw_txn_mutex);
	list_for_each_entry_safe(txn, next, &bw_txns, list)
		bw_txn_close(txn);
	mutex_unlock(&bw_txn_mutex);
}
