// SPDX-License-Identifier: GPL-2.0-only
/*
 * Confirming and rolling back. A roll back must need no memory and no help from
 * user space: the saved state, its hooks and its namespaces are kept for it.
 */
#include <linux/jiffies.h>
#include <linux/notifier.h>
#include <linux/rtnetlink.h>
#include <linux/suspend.h>
#include <linux/timekeeping.h>
#include <linux/workqueue.h>

#include "exchange.h"
#include "lifetime.h"
#include "offload.h"
#include "window.h"

/* bw_mutex; opened and closed under bw_exchange_mutex. What comes back is bw_state_saved(). */
static struct {
	bool open;
	u64 deadline;	/* by the clock that counts a suspended host's time, too */
} bw_window;

static void bw_window_expire(struct work_struct *work);
static DECLARE_DELAYED_WORK(bw_window_work, bw_window_expire);

void bw_window_open(struct bw_state *before, u32 seconds)
{
	bw_window.open = true;
	bw_window.deadline = ktime_get_boottime_ns() + (u64)seconds * NSEC_PER_SEC;
	bw_state_save(before);
	/* The work of an earlier window would look in too early. */
	cancel_delayed_work(&bw_window_work);
	schedule_delayed_work(&bw_window_work, seconds * HZ);
}

/* Nanoseconds until the deadline; none of an open window are left when it is over. */
static s64 bw_window_left(void)
{
	return bw_window.deadline - ktime_get_boottime_ns();
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

static void bw_window_unlock(void)
{
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	mutex_unlock(&bw_exchange_mutex);
}

/*
 * The window is open; bw_exchange_mutex, rtnl and bw_mutex are held, all are
 * released. Nothing here can fail.
 */
static u64 bw_window_restore(void)
{
	struct bw_state *st = bw_state_saved(), *undone = bw_state_locked();
	u64 generation = bw_state_generation(st);

	bw_exchange(st, NULL);
	bw_window_close();
	mutex_unlock(&bw_mutex);
	rtnl_unlock();
	if (st)
		bw_state_restore(st, undone);
	bw_state_release(undone, st);
	mutex_unlock(&bw_exchange_mutex);
	bw_offload_end_soon();
	return generation;
}

/*
 * Runs at the deadline or too early: a later window may have opened while this
 * waited for the locks, or the host has woken up.
 */
static void bw_window_expire(struct work_struct *work)
{
	u64 generation;
	s64 left;

	mutex_lock(&bw_exchange_mutex);
	rtnl_lock();
	mutex_lock(&bw_mutex);
	left = bw_window_left();
	if (!bw_window.open || left > 0) {
		if (bw_window.open)
			schedule_delayed_work(&bw_window_work, nsecs_to_jiffies(left) + 1);
		bw_window_unlock();
		return;
	}
	generation = bw_window_restore();
	pr_notice("commit was not confirmed in time, generation %llu is back\n",
		  generation);
}

/* The work counts jiffies, which stand still while the host is suspended. */
static int bw_window_woken(struct notifier_block *nb, unsigned long event, void *ptr)
{
	if (event != PM_POST_SUSPEND && event != PM_POST_HIBERNATION)
		return NOTIFY_DONE;
	cancel_delayed_work(&bw_window_work);
	schedule_delayed_work(&bw_window_work, 0);
	return NOTIFY_DONE;
}

static struct notifier_block bw_window_notifier = {
	.notifier_call = bw_window_woken,
};

/* Takes bw_exchange_mutex, rtnl and bw_mutex, and keeps them unless there is an error. */
static int bw_window_lock(const u64 *expect, struct bw_fault *f)
{
	int err;

	mutex_lock(&bw_exchange_mutex);
	rtnl_lock();
	mutex_lock(&bw_mutex);
	err = bw_seal_check(f);
	/* What is over is over, though the roll back has not run yet. */
	if (!err && (!bw_window.open || bw_window_left() <= 0))
		err = bw_fault_set(f, -ENOENT, BW_S_NONE, 0,
				   "no commit waits for its confirmation");
	if (!err && expect)
		err = bw_state_expect(*expect, f);
	if (err)
		bw_window_unlock();
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
	bw_exchange_confirm();
	bw_state_release(before, bw_state_locked());
	bw_window_unlock();
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
	bw_exchange_settle();
	return 0;
}

u32 bw_window_remaining(void)
{
	s64 left;

	lockdep_assert_held(&bw_mutex);
	if (!bw_window.open)
		return 0;
	left = bw_window_left();
	/* Rounded up: an open window never reads as closed. */
	return left > 0 ? div_u64(left, NSEC_PER_SEC) + 1 : 1;
}

int bw_window_init(void)
{
	return register_pm_notifier(&bw_window_notifier);
}

void bw_window_exit(void)
{
	unregister_pm_notifier(&bw_window_notifier);
	cancel_delayed_work_sync(&bw_window_work);
}
