// SPDX-License-Identifier: GPL-2.0-only
/*
 * Confirming and rolling back. A roll back must need no memory and no help from
 * user space: the saved state, its hooks and its namespaces are kept for it.
 */
#include <linux/jiffies.h>
#include <linux/rtnetlink.h>
#include <linux/workqueue.h>

#include "bridged.h"
#include "exchange.h"
#include "hook.h"
#include "lifetime.h"
#include "netns.h"
#include "offload.h"
#include "window.h"

/* bw_mutex. What a roll back restores is bw_state_saved(). */
static struct {
	bool open;
	unsigned long deadline;		/* jiffies */
} bw_window;

static void bw_window_expire(struct work_struct *work);
static DECLARE_DELAYED_WORK(bw_window_work, bw_window_expire);

void bw_window_open(struct bw_state *before, u32 seconds)
{
	bw_window.open = true;
	bw_window.deadline = jiffies + seconds * HZ;
	bw_state_save(before);
	/* The work of an earlier window must not end this one. */
	cancel_delayed_work(&bw_window_work);
	schedule_delayed_work(&bw_window_work, seconds * HZ);
}

static void bw_window_close(void)
{
	bw_window.open = false;
	bw_state_save(NULL);
}

int bw_window_check_closed(struct bw_fault *f)
{
	lockdep_assert_held(&bw_mutex);
	if (!bw_window.open)
		return 0;
	return bw_fault_set(f, -EBUSY, BW_S_NONE, 0, "a commit waits for its confirmation");
}

/* The window is open; rtnl and bw_mutex are held, both are released. */
static u64 bw_window_restore(void)
{
	struct bw_state *st = bw_state_saved(), *undone = bw_state_locked();
	u64 generation = bw_state_generation(st);

	bw_exchange(st, NULL);
	/* What the undone state inherited came from the one that is restored. */
	if (st)
		bw_state_inherit(st, undone, bw_counters_own);
	bw_window_close();
	mutex_unlock(&bw_mutex);
	bw_offload_end();
	bw_state_free(undone);
	return generation;
}

static void bw_window_expire(struct work_struct *work)
{
	u64 generation;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	/* A later window may have opened while this work waited for the locks. */
	if (!bw_window.open || time_before(jiffies, bw_window.deadline)) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
		return;
	}
	generation = bw_window_restore();
	pr_notice("commit was not confirmed in time, generation %llu is back\n",
		  generation);
}

/* Takes rtnl and bw_mutex, and keeps them unless there is an error. */
static int bw_window_lock(const u64 *expect, struct bw_fault *f)
{
	int err;

	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_seal_check(f);
	if (!err && !bw_window.open)
		err = bw_fault_set(f, -ENOENT, BW_S_NONE, 0,
				   "no commit waits for its confirmation");
	if (!err && expect)
		err = bw_state_expect(*expect, f);
	if (err) {
		mutex_unlock(&bw_mutex);
		rtnl_unlock();
	}
	return err;
}

int bw_window_confirm(const u64 *expect, struct bw_fault *f)
{
	struct bw_state *before;
	int err;

	err = bw_window_lock(expect, f);
	if (err)
		return err;
	before = bw_state_saved();
	bw_window_close();
	cancel_delayed_work(&bw_window_work);
	bw_net_drop_unneeded(bw_state_locked(), NULL);
	bw_hook_drop_unneeded(bw_state_locked(), NULL);
	bw_bridged_drop_unneeded(bw_state_locked(), NULL);
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	/* No packet has used it since bw_exchange() waited for them. */
	bw_state_free(before);
	return 0;
}

int bw_window_roll_back(const u64 *expect, struct bw_fault *f)
{
	int err;

	err = bw_window_lock(expect, f);
	if (err)
		return err;
	cancel_delayed_work(&bw_window_work);
	bw_window_restore();
	return 0;
}

u32 bw_window_remaining(void)
{
	long left;

	lockdep_assert_held(&bw_mutex);
	if (!bw_window.open)
		return 0;
	left = bw_window.deadline - jiffies;
	/* Rounded up: an open window never reads as closed. */
	return left > 0 ? left / HZ + 1 : 1;
}

void bw_window_exit(void)
{
	cancel_delayed_work_sync(&bw_window_work);
}
