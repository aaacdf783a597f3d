// SPDX-License-Identifier: GPL-2.0-only
/*
 * Putting a state in force, and taking it back: commit, confirm, roll back.
 * A commit must either happen whole or leave everything as it was, and while it
 * happens no guarded link may be without a judge.
 */
#include <linux/module.h>
#include <linux/rtnetlink.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>

#include "bridged.h"
#include "hook.h"
#include "memo.h"
#include "netns.h"
#include "offload.h"
#include "state.h"

struct bw_state __rcu *bw_state __read_mostly;
/* Guards the pointer above, the window below, guarded links: see state.h. */
DEFINE_MUTEX(bw_mutex);

/* Never given out twice, so a generation names one ruleset for good. */
static u64 bw_last_generation;

/* The commit that still waits for its confirmation. */
static struct {
	bool open;
	unsigned long deadline;		/* jiffies */
	struct bw_state *before;	/* may be NULL: nothing was judged */
} bw_window;

static bool bw_sealed;

/* Asked to stay while links are guarded, and staying: bw_mutex. */
static bool bw_hold, bw_held;

static void bw_window_expire(struct work_struct *work);
static DECLARE_DELAYED_WORK(bw_window_work, bw_window_expire);

/* Building. */

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

static u32 *bw_order_by_key(const struct bw_rules *r)
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
	st->by_key = bw_order_by_key(st->rules);
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

/* Links and ports of a new state. */

enum bw_place {
	BW_PLACE_GOOD,
	BW_PLACE_GONE,
	BW_PLACE_OPEN,	/* the link exists, but nothing guards it */
};

static enum bw_place bw_place(const struct bw_state *st, u32 link, u32 port)
{
	const struct net_device *dev;

	if (link > INT_MAX)
		return BW_PLACE_GONE;
	dev = __dev_get_by_index(&init_net, link);
	if (!dev)
		return BW_PLACE_GONE;
	if (port > INT_MAX) {
		if (!bw_guards_match(&st->parents, dev))
			return BW_PLACE_OPEN;
		return bw_net_has(st, link, port) ? BW_PLACE_GOOD : BW_PLACE_GONE;
	}
	if (port && !__dev_get_by_index(&init_net, port))
		return BW_PLACE_GONE;
	return bw_guards_match(&st->guards, dev) ? BW_PLACE_GOOD : BW_PLACE_OPEN;
}

static int bw_settle_endpoints(struct bw_state *st, const struct bw_draft *d,
			       struct bw_fault *f)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	enum bw_place place;
	u32 i;

	for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++) {
		place = bw_place(st, e4[i].link, e4[i].port);
		f->section = BW_S_ENDPOINT4;
		if (place == BW_PLACE_OPEN)
			goto open;
		if (place == BW_PLACE_GONE)
			bw_endpoint_close4(st->endpoints, e4[i].addr);
	}
	for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++) {
		place = bw_place(st, e6[i].link, e6[i].port);
		f->section = BW_S_ENDPOINT6;
		if (place == BW_PLACE_OPEN)
			goto open;
		if (place == BW_PLACE_GONE)
			bw_endpoint_close6(st->endpoints, e6[i].addr);
	}
	return 0;

open:
	f->err = -EINVAL;
	f->entry = i;
	f->why = "its link is not guarded";
	return f->err;
}

/* Counters of rules that stay. */

static void bw_add_total(struct bw_total *to, struct bw_total what)
{
	to->packets += what.packets;
	to->bytes += what.bytes;
}

/*
 * Adds to each rule of one state what fn says of the rule with the same key in
 * the other; of equal keys the first pairs with the first.
 */
static void bw_carry(struct bw_state *to, const struct bw_state *from,
		     struct bw_total (*fn)(const struct bw_counters *c, u32 i))
{
	u32 i, j = 0;

	for (i = 0; i < BW_REASON_MAX; i++)
		bw_add_total(&to->counters->base[i], fn(from->counters, i));
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
		bw_add_total(&to->counters->base[BW_REASON_MAX + a],
			     fn(from->counters, BW_REASON_MAX + from->by_key[j]));
		j++;
	}
}

/* Exchange. */

static const struct bw_guards *bw_state_guards(const struct bw_state *st)
{
	return st ? &st->guards : NULL;
}

/* Where the state judges what passes through; both: in both places. */
static void bw_set_hooks(struct bw_state *st, bool both)
{
	bool late = st->placement == BW_PLACEMENT_POSTROUTING;

	WRITE_ONCE(st->at_forward, both || !late);
	WRITE_ONCE(st->at_post_routing, both || late);
}

/*
 * Others unload what they do not know: firewalld's complete reload takes every
 * module that uses conntrack. With it all denials would go.
 */
static void bw_hold_on(void)
{
	const struct bw_guards *guards = bw_state_guards(bw_state_locked());
	bool hold = bw_hold && guards && guards->n;

	if (hold == bw_held)
		return;
	if (hold)
		__module_get(THIS_MODULE);
	else
		module_put(THIS_MODULE);
	bw_held = hold;
}

void bw_state_hold(bool hold)
{
	mutex_lock(&bw_mutex);
	bw_hold = hold;
	bw_hold_on();
	mutex_unlock(&bw_mutex);
}

bool bw_state_holds(void)
{
	return READ_ONCE(bw_hold);
}

/*
 * New guards stand before the new state does: what crosses a link that becomes
 * guarded now is judged by the old state for an instant, as unmanaged, rather
 * than by the new one as if it came from outside. The containers' namespaces
 * are open already: for a commit, or because st was the spare one, as what may
 * come back is. What is between FORWARD and POST_ROUTING while the placement
 * changes is judged twice rather than never. Releases rtnl.
 */
static void bw_exchange(struct bw_state *st, const struct bw_state *spare)
{
	const struct bw_state *old = bw_state_locked();

	if (st)
		bw_set_hooks(st, !old || old->placement != st->placement);
	bw_guard_add_matching(bw_state_guards(st));
	bw_net_add_matching(st);
	rcu_assign_pointer(bw_state, st);
	/* What was remembered points into the old state's counters. */
	bw_memo_forget();
	bw_guard_keep_matching(bw_state_guards(st));
	bw_net_keep_matching(st, spare);
	rtnl_unlock();
	synchronize_rcu();
	if (st)
		bw_set_hooks(st, false);
	/* Guards have gone, and the other place. */
	bw_memo_forget();
	bw_hook_keep(st, spare);
	bw_bridged_keep(st, spare);
	bw_hold_on();
}

static int bw_refuse(struct bw_fault *f, int err, const char *why)
{
	f->err = err;
	f->section = BW_S_NONE;
	f->why = why;
	return err;
}

static int bw_refuse_sealed(struct bw_fault *f)
{
	return bw_refuse(f, -EPERM, "sealed: nothing changes until reboot");
}

static int bw_expect(u64 expect, struct bw_fault *f)
{
	if (bw_state_generation(bw_state_locked()) == expect)
		return 0;
	return bw_refuse(f, -ESTALE, "another generation is in force");
}

static void bw_window_open(struct bw_state *before, u32 seconds)
{
	bw_window.open = true;
	bw_window.before = before;
	bw_window.deadline = jiffies + seconds * HZ;
	/* One from an earlier window may be left: it must not stand for this. */
	cancel_delayed_work(&bw_window_work);
	schedule_delayed_work(&bw_window_work, seconds * HZ);
}

/* All that may fail. */
static int bw_open(const struct bw_state *st, struct bw_fault *f)
{
	int err = bw_hook_open(st);

	if (err)
		return bw_refuse(f, err, "POST_ROUTING cannot be hooked");
	err = bw_net_add_matching(st);
	if (!err)
		return 0;
	bw_hook_keep(bw_state_locked(), bw_state_spare());
	bw_net_keep_matching(bw_state_locked(), bw_state_spare());
	return bw_refuse(f, err, err == -ENOSPC ?
			 "a container has too many guarded devices" :
			 "a container's namespace cannot be opened");
}

int bw_state_commit(struct bw_state *st, const struct bw_draft *d,
		    const struct bw_commit *c, u64 *generation,
		    struct bw_fault *f)
{
	struct bw_state *old;
	int err;

	/* Takes rtnl itself. What a dry run checks hangs on it, too. */
	if (st->placement == BW_PLACEMENT_CONTAINER) {
		err = bw_net_follow();
		if (err) {
			bw_state_free(st);
			return bw_refuse(f, err, "containers' namespaces cannot be followed");
		}
	}
	rtnl_lock();
	mutex_lock(&bw_mutex);
	old = bw_state_locked();
	err = bw_sealed ? bw_refuse_sealed(f) : bw_expect(c->expect, f);
	if (!err && bw_window.open)
		err = bw_refuse(f, -EBUSY, "a commit waits for its confirmation");
	if (!err)
		err = bw_settle_endpoints(st, d, f);
	*generation = bw_state_generation(old);
	if (!err && !c->dry_run)
		err = bw_open(st, f);
	if (err || c->dry_run) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
		bw_state_free(st);
		return err;
	}
	st->generation = ++bw_last_generation;
	*generation = st->generation;
	bw_exchange(st, c->timeout ? old : NULL);
	if (old)
		bw_carry(st, old, bw_counters_total);
	if (c->timeout)
		bw_window_open(old, c->timeout);
	else
		bw_state_free(old);
	mutex_unlock(&bw_mutex);
	bw_offload_end();
	return 0;
}

static void bw_window_close(void)
{
	bw_window.open = false;
	bw_window.before = NULL;
}

/* The window is open; rtnl and bw_mutex are held, both are released. */
static u64 bw_roll_back(void)
{
	struct bw_state *st = bw_window.before, *undone = bw_state_locked();
	u64 generation = bw_state_generation(st);

	bw_exchange(st, NULL);
	/* What the undone state inherited came from the one that is back. */
	if (st)
		bw_carry(st, undone, bw_counters_own);
	bw_window_close();
	mutex_unlock(&bw_mutex);
	bw_offload_end();
	bw_state_free(undone);
	return generation;
}

static void bw_window_expire(struct work_struct *work)
{
	rtnl_lock();
	mutex_lock(&bw_mutex);
	/* A later window may have opened while this work waited for the locks. */
	if (!bw_window.open || time_before(jiffies, bw_window.deadline)) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
		return;
	}
	pr_notice("commit was not confirmed in time, generation %llu is back\n",
		  bw_roll_back());
}

static int bw_window_check(const u64 *expect, struct bw_fault *f)
{
	if (bw_sealed)
		return bw_refuse_sealed(f);
	if (!bw_window.open)
		return bw_refuse(f, -ENOENT, "no commit waits for its confirmation");
	return expect ? bw_expect(*expect, f) : 0;
}

int bw_state_confirm(const u64 *expect, struct bw_fault *f)
{
	struct bw_state *before;
	int err;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_window_check(expect, f);
	if (err) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
		return err;
	}
	before = bw_window.before;
	bw_window_close();
	cancel_delayed_work(&bw_window_work);
	bw_net_keep_matching(bw_state_locked(), NULL);
	bw_hook_keep(bw_state_locked(), NULL);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	/* No packet has seen it since the exchange waited for them. */
	bw_state_free(before);
	return 0;
}

int bw_state_rollback(const u64 *expect, struct bw_fault *f)
{
	int err;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_window_check(expect, f);
	if (err) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
		return err;
	}
	cancel_delayed_work(&bw_window_work);
	bw_roll_back();
	return 0;
}

int bw_state_seal(const u64 *expect, struct bw_fault *f)
{
	int err = 0;

	mutex_lock(&bw_mutex);
	if (bw_window.open)
		err = bw_refuse(f, -EBUSY, "a commit waits for its confirmation");
	else if (!bw_state_generation(bw_state_locked()))
		err = bw_refuse(f, -ENOENT, "no ruleset is in force");
	else if (expect)
		err = bw_expect(*expect, f);
	if (!err && !bw_sealed) {
		/* Never given back. */
		__module_get(THIS_MODULE);
		bw_sealed = true;
		pr_notice("sealed: nothing changes until reboot\n");
	}
	mutex_unlock(&bw_mutex);
	return err;
}

bool bw_state_sealed(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_sealed;
}

u32 bw_state_confirm_remaining(void)
{
	long left;

	lockdep_assert_held(&bw_mutex);
	if (!bw_window.open)
		return 0;
	left = bw_window.deadline - jiffies;
	/* Rounded up: an open window never reads as closed. */
	return left > 0 ? left / HZ + 1 : 1;
}

void bw_state_close_link(u32 ifindex)
{
	struct bw_state *st = bw_state_locked();

	lockdep_assert_held(&bw_mutex);
	if (st)
		bw_endpoints_close_link(st->endpoints, ifindex);
	if (bw_window.before)
		bw_endpoints_close_link(bw_window.before->endpoints, ifindex);
	bw_memo_forget();
	if (st)
		bw_offload_end_soon();
}

void bw_state_close_place(u32 link, u32 port)
{
	struct bw_state *st = bw_state_locked();

	lockdep_assert_held(&bw_mutex);
	if (st)
		bw_endpoints_close_place(st->endpoints, link, port);
	if (bw_window.before)
		bw_endpoints_close_place(bw_window.before->endpoints, link, port);
	bw_memo_forget();
}

const struct bw_state *bw_state_spare(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_window.before;
}

/* With guards named at load everything at them is dropped until a commit. */
int bw_state_init(char *const *closed, u32 n_closed)
{
	static const struct bw_nl_identity reserved[BW_ID_FIRST];
	struct bw_fault f = {};
	struct bw_draft *d;
	struct bw_state *st;
	int err = 0;
	u32 i;

	if (!n_closed)
		return 0;
	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d)
		return -ENOMEM;
	d->data[BW_S_IDENTITY] = reserved;
	d->count[BW_S_IDENTITY] = BW_ID_FIRST;
	d->n_guard = n_closed;
	for (i = 0; i < n_closed && !err; i++)
		if (strscpy(d->guard[i], closed[i], BW_GUARD_LEN) < 0)
			err = -EINVAL;
	st = err ? NULL : bw_state_new(d, &f);
	kfree(d);
	if (!st) {
		err = err ? err : f.err;
		pr_err("parameter closed: %s\n", f.why ? f.why : "pattern is too long");
		return err;
	}
	/*
	 * Closed at the host's own hooks and at the bridges, whatever their
	 * settings: what is closed must not hang on any container's namespace.
	 */
	err = bw_bridged_open();
	if (err) {
		bw_state_free(st);
		return err;
	}
	st->closed = true;
	st->local_in = false;
	rtnl_lock();
	mutex_lock(&bw_mutex);
	bw_exchange(st, NULL);
	mutex_unlock(&bw_mutex);
	return 0;
}

void bw_state_stop(void)
{
	struct bw_state *st;

	cancel_delayed_work_sync(&bw_window_work);
	rtnl_lock();
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	bw_exchange(NULL, NULL);
	mutex_unlock(&bw_mutex);
	bw_state_free(st);
}

void bw_state_exit(void)
{
	bw_state_free(bw_window.before);
	bw_state_free(rcu_dereference_protected(bw_state, true));
	RCU_INIT_POINTER(bw_state, NULL);
}
