// SPDX-License-Identifier: GPL-2.0-only
/*
 * Module references. Other software unloads modules that it does not know:
 * firewalld's complete reload removes every module that uses conntrack. With
 * this one all denials would go. A seal must never be given back.
 */
#include <linux/module.h>

#include "lifetime.h"
#include "state.h"

/* The parameter, and whether the reference is taken. Both under bw_mutex. */
static bool bw_hold, bw_held;

static bool bw_seal;

void bw_hold_update(void)
{
	const struct bw_state *st = bw_state_locked();
	bool hold = bw_hold && st && st->guards.n;

	if (hold == bw_held)
		return;
	/* While the module is being unloaded there is nothing to hold. */
	if (hold && !try_module_get(THIS_MODULE))
		return;
	if (!hold)
		module_put(THIS_MODULE);
	bw_held = hold;
}

void bw_hold_set(bool hold)
{
	mutex_lock(&bw_mutex);
	bw_hold = hold;
	bw_hold_update();
	mutex_unlock(&bw_mutex);
}

bool bw_hold_get(void)
{
	return READ_ONCE(bw_hold);
}

int bw_seal_set(struct bw_fault *f)
{
	lockdep_assert_held(&bw_mutex);
	if (bw_seal)
		return 0;
	if (!try_module_get(THIS_MODULE))
		return bw_fault_set(f, -ENODEV, BW_S_NONE, 0, "the module is being unloaded");
	bw_seal = true;
	pr_notice("sealed: nothing changes until reboot\n");
	return 0;
}

bool bw_sealed(void)
{
	lockdep_assert_held(&bw_mutex);
	return bw_seal;
}

int bw_seal_check(struct bw_fault *f)
{
	if (!bw_sealed())
		return 0;
	return bw_fault_set(f, -EPERM, BW_S_NONE, 0, "sealed: nothing changes until reboot");
}
