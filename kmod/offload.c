// SPDX-License-Identifier: GPL-2.0-only
/*
 * Ending offloaded flows. The flowtable's own cleanup does it, the one that runs
 * when a device goes down; it must never become a reason for nf_flow_table to be
 * loaded. Flows that may stay are offloaded anew by their next packet, so no
 * attempt is made to tell them apart.
 */
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/workqueue.h>
#include <net/netfilter/nf_flow_table.h>

#include "offload.h"

void bw_offload_end(void)
{
	typeof(nf_flow_table_cleanup) *cleanup;

	cleanup = symbol_get(nf_flow_table_cleanup);
	if (!cleanup)
		return;
	cleanup(NULL);
	symbol_put(nf_flow_table_cleanup);
}

static void bw_offload_work_end(struct work_struct *work)
{
	/* A packet that was judged before the change may still offload its flow. */
	synchronize_rcu();
	bw_offload_end();
}

static DECLARE_WORK(bw_offload_work, bw_offload_work_end);

void bw_offload_end_soon(void)
{
	schedule_work(&bw_offload_work);
}

void bw_offload_exit(void)
{
	cancel_work_sync(&bw_offload_work);
}
