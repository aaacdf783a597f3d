// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading and unloading: the init ladder and its mirror, nothing else. After
 * unloading, the host must be as if the module had never been there.
 */
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <net/genetlink.h>

#include "bridged.h"
#include "exchange.h"
#include "hook.h"
#include "lifetime.h"
#include "link.h"
#include "memo.h"
#include "netlink.h"
#include "netns.h"
#include "offload.h"
#include "state.h"
#include "trace.h"
#include "txn.h"
#include "unmanaged.h"
#include "verdict.h"
#include "version.h"
#include "window.h"

static char *closed[BW_MAX_GUARDS];
static unsigned int n_closed;
module_param_array(closed, charp, &n_closed, 0444);
MODULE_PARM_DESC(closed, "guard these link patterns from load on and drop everything at them until the first commit (closed=docker0,br-[0-f][0-f][0-f][0-f]????????)");

static bool bw_loaded;
static bool bw_hold_at_load;

static int bw_param_hold_set(const char *text, const struct kernel_param *kp)
{
	bool hold = true;
	int err = text ? kstrtobool(text, &hold) : 0;

	if (err)
		return err;
	if (bw_loaded)
		bw_hold_set(hold);
	else
		bw_hold_at_load = hold;
	return 0;
}

static int bw_param_hold_get(char *buffer, const struct kernel_param *kp)
{
	return sprintf(buffer, "%c\n", bw_hold_get() ? 'Y' : 'N');
}

static const struct kernel_param_ops bw_param_hold_ops = {
	.flags = KERNEL_PARAM_OPS_FL_NOARG,
	.set = bw_param_hold_set,
	.get = bw_param_hold_get,
};

module_param_cb(hold, &bw_param_hold_ops, NULL, 0644);
MODULE_PARM_DESC(hold, "refuse to be unloaded while links are guarded; write N to unload it all the same (default N)");

static int __init bw_init(void)
{
	int err;

	bw_log_init();
	bw_unmanaged_init();
	err = bw_memo_init();
	if (err)
		return err;
	err = bw_link_init();
	if (err)
		goto memo;
	err = bw_exchange_init(closed, n_closed);
	if (err)
		goto link;
	err = bw_hook_init(&init_net);
	if (err)
		goto link;
	err = bw_window_init();
	if (err)
		goto hook;
	err = bw_txn_init();
	if (err)
		goto window;
	err = bw_trace_init();
	if (err)
		goto txn;
	err = bw_netlink_init();
	if (err)
		goto trace;
	bw_loaded = true;
	bw_hold_set(bw_hold_at_load);
	return 0;

trace:
	bw_trace_exit();
txn:
	bw_txn_exit();
window:
	bw_window_exit();
hook:
	bw_hook_exit(&init_net);
link:
	bw_link_exit();
	bw_bridged_exit();
	bw_offload_exit();
	bw_state_exit();
	rcu_barrier();
memo:
	bw_memo_exit();
	return err;
}

static void __exit bw_exit(void)
{
	bw_netlink_exit();
	bw_trace_exit();
	bw_txn_exit();
	bw_window_exit();
	bw_exchange_stop();
	/*
	 * No packet is queued any more. Unregistering a hook drops those that wait,
	 * except in a queue whose listener has just ended: RCU drops these. Both
	 * need the hooks that the packets came from.
	 */
	rcu_barrier();
	bw_hook_exit(&init_net);
	bw_bridged_exit();
	/* Their notifiers read the state. */
	bw_net_exit();
	bw_link_exit();
	bw_offload_exit();
	bw_state_exit();
	rcu_barrier();
	bw_memo_exit();
}

module_init(bw_init);
module_exit(bw_exit);

MODULE_DESCRIPTION("bridgewarden: judges the traffic of Docker's networks");
MODULE_AUTHOR("The bridgewarden developers");
MODULE_LICENSE("GPL");
MODULE_VERSION(BW_VERSION);
/* Rules with log: true write through it; without it they log nothing. */
MODULE_SOFTDEP("pre: nfnetlink_log");
