// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exchanging states. An exchange either happens whole or leaves everything as it
 * was, and while it happens no guarded link may be without a judge.
 */
#include <linux/rtnetlink.h>
#include <net/net_namespace.h>

#include "bridged.h"
#include "exchange.h"
#include "guard.h"
#include "hook.h"
#include "lifetime.h"
#include "memo.h"
#include "netns.h"

static const struct bw_guards *bw_state_guards(const struct bw_state *st)
{
	return st ? &st->guards : NULL;
}

static const struct bw_guards *bw_state_parents(const struct bw_state *st)
{
	return st && st->placement == BW_PLACEMENT_CONTAINER ? &st->parents : NULL;
}

/* Where the state judges what passes through; both: in both places. */
static void bw_exchange_set_places(struct bw_state *st, bool both)
{
	bool late = st->placement == BW_PLACEMENT_POSTROUTING;

	WRITE_ONCE(st->at_forward, both || !late);
	WRITE_ONCE(st->at_post_routing, both || late);
}

/*
 * Publish new guards before the new state: traffic on a newly guarded link is
 * then judged by the old state for an instant, as unmanaged, instead of by the
 * new one as if it came from outside. Containers' devices are listed already:
 * bw_exchange_prepare() did that, or st was the saved state. While the placement
 * changes, a packet between FORWARD and POST_ROUTING is judged twice rather than
 * never.
 */
void bw_exchange(struct bw_state *st, const struct bw_state *saved)
{
	const struct bw_state *old = bw_state_locked();

	if (st)
		bw_exchange_set_places(st, !old || old->placement != st->placement);
	bw_guard_add_matching(bw_state_guards(st), bw_state_parents(st));
	bw_net_judge(st);
	rcu_assign_pointer(bw_state, st);
	/* Its entries point into the old state's counters. */
	bw_memo_invalidate();
	bw_guard_drop_others(bw_state_guards(st), bw_state_parents(st));
	bw_net_drop_unneeded(st, saved);
	rtnl_unlock();
	synchronize_rcu();
	if (st)
		bw_exchange_set_places(st, false);
	/* Guards have gone, and the other place. */
	bw_memo_invalidate();
	bw_bridged_drop_unneeded(st, saved);
	bw_hook_drop_unneeded(st, saved);
	bw_hold_update();
}

int bw_exchange_prepare(const struct bw_state *st, struct bw_fault *f)
{
	int err = bw_bridged_add_needed(st);

	if (err)
		return bw_fault_set(f, err, BW_S_NONE, 0, "bridges cannot be hooked");
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
	bw_net_drop_unneeded(bw_state_locked(), bw_state_saved());
	bw_hook_drop_unneeded(bw_state_locked(), bw_state_saved());
	bw_bridged_drop_unneeded(bw_state_locked(), bw_state_saved());
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
	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_bridged_add_needed(st);
	if (err)
		rtnl_unlock();
	else
		bw_exchange(st, NULL);
	mutex_unlock(&bw_mutex);
	if (err)
		bw_state_free(st);
	return err;
}

void bw_exchange_stop(void)
{
	struct bw_state *st;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	bw_exchange(NULL, NULL);
	mutex_unlock(&bw_mutex);
	bw_state_free(st);
}
