// SPDX-License-Identifier: GPL-2.0-only
/*
 * The states there are, building and freeing one, and the counters that a new
 * one inherits. Must never decide which state is in force: exchange.c does.
 */
#include <linux/sched.h>
#include <linux/workqueue.h>

#include "state.h"

BW_DATA struct bw_state __rcu *bw_state __read_mostly;

/* bw_mutex. */
static struct bw_state *bw_saved;	/* may be NULL in an open window, too */
static struct bw_state *bw_next;

static LIST_HEAD(bw_gone);	/* former states, the oldest first; bw_exchange_mutex */

static void bw_state_free_gone(struct work_struct *work);
static DECLARE_WORK(bw_gone_work, bw_state_free_gone);

struct bw_key {
	u64 key;
	u32 rule;
};

static int bw_key_cmp(const void *left, const void *right)
{
	const struct bw_key *a = left, *b = right;

	if (a->key != b->key)
		return a->key < b->key ? -1 : 1;
	return a->rule < b->rule ? -1 : a->rule > b->rule;
}

static u32 *bw_state_order_by_key(const struct bw_rules *r)
{
	struct bw_key *keys = bw_alloc(r->n_rule, sizeof(*keys));
	u32 *order = bw_alloc(r->n_rule, sizeof(*order));
	u32 i;

	if (!keys || !order) {
		bw_free(order);
		order = NULL;
		goto out;
	}
	for (i = 0; i < r->n_rule; i++) {
		keys[i].key = r->rule[i].key;
		keys[i].rule = i;
	}
	sort(keys, r->n_rule, sizeof(*keys), bw_key_cmp, NULL);
	for (i = 0; i < r->n_rule; i++)
		order[i] = keys[i].rule;
out:
	bw_free(keys);
	return order;
}

struct bw_state *bw_state_new(const struct bw_draft *d, struct bw_fault *f)
{
	struct bw_state *st;

	if (bw_draft_check(d, f))
		return NULL;
	st = bw_alloc(1, sizeof(*st));
	if (!st)
		goto nomem;
	st->rules = bw_rules_build(d, f);
	if (!st->rules)
		goto fail;
	st->endpoints = bw_endpoints_build(d, f);
	if (!st->endpoints)
		goto fail;
	st->counters = bw_counters_new(BW_REASON_MAX + st->rules->n_rule);
	st->by_key = bw_state_order_by_key(st->rules);
	if (!st->counters || !st->by_key)
		goto nomem;
	st->mode = d->mode;
	st->placement = d->placement;
	st->log_group = d->log_group;
	st->log_defaults = d->log_defaults;
	st->local_in = st->rules->host_ingress || st->endpoints->n_published;
	st->guards.n = d->n_guard;
	memcpy(st->guards.pattern, d->guard, sizeof(st->guards.pattern));
	st->parents.n = d->n_parent;
	memcpy(st->parents.pattern, d->parent, sizeof(st->parents.pattern));
	memcpy(st->policy_digest, d->policy_digest, BW_DIGEST_LEN);
	memcpy(st->ruleset_digest, d->ruleset_digest, BW_DIGEST_LEN);
	return st;

nomem:
	f->err = -ENOMEM;
	f->section = BW_S_NONE;
	f->why = "no memory";
fail:
	bw_state_free(st);
	return NULL;
}

void bw_state_free(struct bw_state *st)
{
	if (!st)
		return;
	bw_free(st->by_key);
	bw_counters_free(st->counters);
	bw_endpoints_free(st->endpoints);
	bw_rules_free(st->rules);
	bw_free(st);
}

void bw_state_inherit(struct bw_state *to, struct bw_state *from)
{
	u32 i, j = 0;

	for (i = 0; i < BW_REASON_MAX; i++)
		bw_counters_pass(from->counters, i, to->counters, i);
	for (i = 0; i < to->rules->n_rule; i++) {
		u32 a = to->by_key[i];
		u64 key = to->rules->rule[a].key;

		while (j < from->rules->n_rule &&
		       from->rules->rule[from->by_key[j]].key < key)
			j++;
		if (j == from->rules->n_rule)
			break;
		if (from->rules->rule[from->by_key[j]].key != key)
			continue;
		bw_counters_pass(from->counters, BW_REASON_MAX + from->by_key[j],
				 to->counters, BW_REASON_MAX + a);
		j++;
		if (!(i & 0xfff))
			cond_resched();
	}
}

void bw_state_restore(struct bw_state *to, struct bw_state *from)
{
	bw_counters_pass_nothing(to->counters);
	bw_counters_pass_inherited(from->counters);
	bw_state_inherit(to, from);
}

static struct bw_state *bw_state_oldest_gone(void)
{
	struct bw_state *st;

	mutex_lock(&bw_exchange_mutex);
	st = list_first_entry_or_null(&bw_gone, struct bw_state, gone);
	mutex_unlock(&bw_exchange_mutex);
	return st;
}

/* Nobody else takes states off the list. */
static void bw_state_free_gone(struct work_struct *work)
{
	struct bw_state *st;

	while ((st = bw_state_oldest_gone())) {
		cond_synchronize_rcu(st->grace);
		mutex_lock(&bw_exchange_mutex);
		list_del(&st->gone);
		if (st->heir)
			bw_state_inherit(st->heir, st);
		mutex_unlock(&bw_exchange_mutex);
		bw_state_free(st);
	}
}

void bw_state_release(struct bw_state *st, struct bw_state *heir)
{
	lockdep_assert_held(&bw_exchange_mutex);
	if (!st)
		return;
	st->heir = heir;
	st->grace = get_state_synchronize_rcu();
	list_add_tail(&st->gone, &bw_gone);
	schedule_work(&bw_gone_work);
}

void bw_state_flush(void)
{
	flush_work(&bw_gone_work);
}

int bw_state_expect(u64 generation, struct bw_fault *f)
{
	if (bw_state_generation(bw_state_locked()) == generation)
		return 0;
	return bw_fault_set(f, -ESTALE, BW_S_NONE, 0, "another generation is in force");
}

struct bw_state *bw_state_saved(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_saved;
}

void bw_state_save(struct bw_state *st)
{
	lockdep_assert_held(&bw_mutex);
	bw_saved = st;
}

struct bw_state *bw_state_next(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_next;
}

void bw_state_set_next(struct bw_state *st)
{
	lockdep_assert_held(&bw_mutex);
	bw_next = st;
}

bool bw_state_close_link(u32 ifindex)
{
	struct bw_state *st = bw_state_locked();
	bool closed = false;

	lockdep_assert_held(&bw_mutex);
	if (st)
		closed |= bw_endpoints_close_link(st->endpoints, ifindex);
	if (bw_saved)
		closed |= bw_endpoints_close_link(bw_saved->endpoints, ifindex);
	if (bw_next)
		closed |= bw_endpoints_close_link(bw_next->endpoints, ifindex);
	return closed;
}

bool bw_state_close_child(u32 link, u32 inum)
{
	struct bw_state *st = bw_state_locked();
	bool closed = false;

	lockdep_assert_held(&bw_mutex);
	if (st)
		closed |= bw_endpoints_close_child(st->endpoints, link, inum);
	if (bw_saved)
		closed |= bw_endpoints_close_child(bw_saved->endpoints, link, inum);
	if (bw_next)
		closed |= bw_endpoints_close_child(bw_next->endpoints, link, inum);
	return closed;
}

void bw_state_exit(void)
{
	bw_state_flush();
	bw_state_free(bw_saved);
	bw_state_free(rcu_dereference_protected(bw_state, true));
	RCU_INIT_POINTER(bw_state, NULL);
}
