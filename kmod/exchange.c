// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exchanging states. An exchange either happens whole or leaves everything as it
 * was, and while it happens no guarded link may be without a judge.
 */
#include <linux/rtnetlink.h>
#include <linux/workqueue.h>
#include <net/net_namespace.h>

#include "bridged.h"
#include "exchange.h"
#include "guard.h"
#include "hook.h"
#include "lifetime.h"
#include "memo.h"
#include "netns.h"
#include "offload.h"

static const struct bw_guards *bw_state_guards(const struct bw_state *st)
{
	return st ? &st->guards : NULL;
}

static const struct bw_guards *bw_state_parents(const struct bw_state *st)
{
	return st && bw_state_judges_inside(st) ? &st->parents : NULL;
}

/*
 * Since the place where packets that pass through are judged has changed, no grace
 * period is over: some have passed FORWARD unjudged, as the placement before had
 * it, and have POST_ROUTING before them. Until then both places judge, whatever
 * state comes, and no hook goes. bw_mutex.
 */
static bool bw_exchange_moves;
static u32 bw_exchange_moved;	/* how many exchanges began or met that */

static void bw_exchange_arrive(struct work_struct *work);
static DECLARE_WORK(bw_exchange_work, bw_exchange_arrive);

static bool bw_exchange_is_late(const struct bw_state *st)
{
	return st && st->placement == BW_PLACEMENT_POSTROUTING;
}

/* Where the state judges what passes through; both: in both places. */
static void bw_exchange_set_places(struct bw_state *st, bool both)
{
	bool late = bw_exchange_is_late(st);

	WRITE_ONCE(st->at_forward, both || !late);
	WRITE_ONCE(st->at_post_routing, both || late);
}

static void bw_exchange_drop_unneeded(const struct bw_state *st,
				      const struct bw_state *saved)
{
	bw_net_drop_unneeded(st, saved);
	bw_bridged_drop_unneeded(st, saved);
	if (!bw_exchange_moves)
		bw_hook_drop_unneeded(st, saved);
}

/*
 * An exchange that comes while this waits has queued the work once more. No hook
 * may go between the two steps of a commit that found it there.
 */
static void bw_exchange_arrive(struct work_struct *work)
{
	struct bw_state *st;
	u32 moved;

	mutex_lock(&bw_mutex);
	moved = bw_exchange_moved;
	mutex_unlock(&bw_mutex);
	synchronize_rcu();
	mutex_lock(&bw_exchange_mutex);
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	if (bw_exchange_moves && moved == bw_exchange_moved) {
		bw_exchange_moves = false;
		bw_exchange_set_places(st, false);
		bw_memo_invalidate();
		bw_hook_drop_unneeded(st, bw_state_saved());
	}
	mutex_unlock(&bw_mutex);
	mutex_unlock(&bw_exchange_mutex);
}

/* Before st is published. */
static void bw_exchange_choose_places(struct bw_state *st, const struct bw_state *old)
{
	if (!st) {
		bw_exchange_moves = false;
		return;
	}
	bw_exchange_moves |= bw_exchange_is_late(st) != bw_exchange_is_late(old);
	bw_exchange_set_places(st, bw_exchange_moves);
	if (bw_exchange_moves)
		bw_exchange_moved++;
}

/*
 * Publish new guards before the new state: traffic on a newly guarded link is
 * then judged by the old state for an instant, as unmanaged, instead of by the
 * new one as if it came from outside. Containers' devices are listed already:
 * bw_exchange_prepare() did that, or st was the saved state.
 *
 * Guards, listed devices and bridge hooks go at once. Packets that are under way
 * are then judged, or not, as those behind them are. A place in the stack cannot
 * go like that, because packets go through both one after the other.
 */
void bw_exchange(struct bw_state *st, const struct bw_state *saved)
{
	const struct bw_state *old = bw_state_locked();

	lockdep_assert_held(&bw_exchange_mutex);
	bw_exchange_choose_places(st, old);
	bw_guard_add_matching(bw_state_guards(st), bw_state_parents(st));
	bw_hook_add_ports(st);
	bw_net_judge(st);
	rcu_assign_pointer(bw_state, st);
	bw_state_set_next(NULL);
	bw_hook_drop_ports(st);
	/* Its entries point into the old state's counters: freed a grace period later. */
	bw_memo_invalidate();
	bw_guard_drop_others(bw_state_guards(st), bw_state_parents(st));
	/* Guards have gone. */
	bw_memo_invalidate();
	bw_exchange_drop_unneeded(st, saved);
	if (bw_exchange_moves)
		schedule_work(&bw_exchange_work);
	bw_hold_update();
}

int bw_exchange_prepare(struct bw_state *st, struct bw_fault *f)
{
	int err;

	bw_state_set_next(st);
	err = bw_bridged_add_needed(st);
	if (err) {
		bw_state_set_next(NULL);
		return bw_fault_set(f, err, BW_S_NONE, 0, "bridges cannot be hooked");
	}
	err = bw_hook_add_needed(st);
	if (err) {
		bw_exchange_cancel();
		return bw_fault_set(f, err, BW_S_NONE, 0, "POST_ROUTING cannot be hooked");
	}
	err = bw_net_prepare(st);
	if (!err)
		return 0;
	bw_exchange_cancel();
	return bw_fault_set(f, err, BW_S_NONE, 0,
			    "a container's device cannot be judged: the kernel's log names it");
}

void bw_exchange_cancel(void)
{
	bw_state_set_next(NULL);
	bw_exchange_drop_unneeded(bw_state_locked(), bw_state_saved());
}

void bw_exchange_confirm(void)
{
	bw_exchange_drop_unneeded(bw_state_locked(), NULL);
}

void bw_exchange_settle(void)
{
	flush_work(&bw_exchange_work);
	bw_offload_wait();
}

static struct bw_state *bw_closed_new(char *const *closed, u32 n_closed,
				      struct bw_fault *f)
{
	static const struct bw_nl_identity reserved[BW_ID_FIRST];
	struct bw_state *st = NULL;
	struct bw_draft *d;
	u32 i;

	d = kzalloc(sizeof(*d), GFP_KERNEL);
	if (!d) {
		f->err = -ENOMEM;
		return NULL;
	}
	d->data[BW_S_IDENTITY] = reserved;
	d->count[BW_S_IDENTITY] = BW_ID_FIRST;
	d->n_guard = n_closed;
	for (i = 0; i < n_closed; i++)
		if (strscpy(d->guard[i], closed[i], BW_GUARD_LEN) < 0) {
			bw_fault_set(f, -EINVAL, BW_S_NONE, i, "pattern is too long");
			goto out;
		}
	st = bw_state_new(d, f);
out:
	kfree(d);
	return st;
}

int bw_exchange_init(char *const *closed, u32 n_closed)
{
	struct bw_fault f = {};
	struct bw_state *st;
	int err;

	if (!n_closed)
		return 0;
	st = bw_closed_new(closed, n_closed, &f);
	if (!st) {
		if (f.why)
			pr_err("parameter closed: %s\n", f.why);
		return f.err;
	}
	/*
	 * Closed at the host's own hooks and at the bridges, whatever their
	 * settings: closing must not depend on any container's namespace.
	 */
	st->closed = true;
	st->local_in = false;
	mutex_lock(&bw_exchange_mutex);
	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_bridged_add_needed(st);
	if (!err)
		bw_exchange(st, NULL);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	mutex_unlock(&bw_exchange_mutex);
	if (err)
		bw_state_free(st);
	return err;
}

void bw_exchange_stop(void)
{
	struct bw_state *st;

	mutex_lock(&bw_exchange_mutex);
	rtnl_lock();
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	bw_exchange(NULL, NULL);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	bw_state_release(st, NULL);
	mutex_unlock(&bw_exchange_mutex);
	cancel_work_sync(&bw_exchange_work);
	synchronize_rcu();
}
