// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commit: compares the expected generation, checks the endpoints against
 * the host's links as they are now, and puts the state in force. Whatever can
 * fail comes before anything is changed.
 */
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>

#include "commit.h"
#include "exchange.h"
#include "inside.h"
#include "lifetime.h"
#include "netns.h"
#include "offload.h"
#include "window.h"

/* Never given out twice, so a generation names one ruleset for good. */
static u64 bw_last_generation;

enum bw_ep_status {
	BW_EP_VALID,
	BW_EP_GONE,
	BW_EP_UNGUARDED,	/* the link exists, but nothing guards it */
};

static enum bw_ep_status bw_ep_status(const struct bw_state *st, u32 link,
				      u32 port)
{
	const struct net_device *dev;

	if (link > INT_MAX)
		return BW_EP_GONE;
	dev = __dev_get_by_index(&init_net, link);
	if (!dev)
		return BW_EP_GONE;
	if (bw_port_is_child(port)) {
		if (!bw_guard_matches(&st->parents, dev))
			return BW_EP_UNGUARDED;
		return bw_inside_has(link, port) ? BW_EP_VALID : BW_EP_GONE;
	}
	if (port && !__dev_get_by_index(&init_net, port))
		return BW_EP_GONE;
	return bw_guard_matches(&st->guards, dev) ? BW_EP_VALID : BW_EP_UNGUARDED;
}

/* Closes endpoints that have gone since the draft was made. */
static int bw_commit_check_endpoints(struct bw_state *st,
				     const struct bw_draft *d,
				     struct bw_fault *f)
{
	const struct bw_nl_endpoint4 *e4 = d->data[BW_S_ENDPOINT4];
	const struct bw_nl_endpoint6 *e6 = d->data[BW_S_ENDPOINT6];
	enum bw_ep_status status;
	u32 i;

	for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++) {
		status = bw_ep_status(st, e4[i].link, e4[i].port);
		f->section = BW_S_ENDPOINT4;
		if (status == BW_EP_UNGUARDED)
			goto unguarded;
		if (status == BW_EP_GONE)
			bw_endpoint_close4(st->endpoints, e4[i].addr);
	}
	for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++) {
		status = bw_ep_status(st, e6[i].link, e6[i].port);
		f->section = BW_S_ENDPOINT6;
		if (status == BW_EP_UNGUARDED)
			goto unguarded;
		if (status == BW_EP_GONE)
			bw_endpoint_close6(st->endpoints, e6[i].addr);
	}
	return 0;

unguarded:
	return bw_fault_set(f, -EINVAL, f->section, i, "its link is not guarded");
}

/* A dry run fails where the commit would, and keeps nothing. */
static int bw_commit_prepare(struct bw_state *st, const struct bw_draft *d,
			     const struct bw_commit *c, struct bw_fault *f)
{
	int err;

	err = bw_exchange_prepare(st, f);
	if (err)
		return err;
	err = bw_commit_check_endpoints(st, d, f);
	if (err || c->dry_run)
		bw_exchange_cancel();
	return err;
}

int bw_commit_state(struct bw_state *st, const struct bw_draft *d,
		    const struct bw_commit *c, u64 *generation,
		    struct bw_fault *f)
{
	struct bw_state *old;
	int err;

	/* Takes rtnl itself. What a dry run checks depends on it, too. */
	if (st->placement == BW_PLACEMENT_CONTAINER) {
		err = bw_net_follow();
		if (err) {
			bw_state_free(st);
			return bw_fault_set(f, err, BW_S_NONE, 0,
					    "containers' namespaces cannot be followed");
		}
	}
	rtnl_lock();
	mutex_lock(&bw_mutex);
	old = bw_state_locked();
	err = bw_seal_check(f);
	if (!err)
		err = bw_state_expect(c->expect, f);
	if (!err)
		err = bw_window_check_closed(f);
	if (!err)
		err = bw_commit_prepare(st, d, c, f);
	*generation = bw_state_generation(old);
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
		bw_state_inherit(st, old, bw_counters_total);
	if (c->timeout)
		bw_window_open(old, c->timeout);
	else
		bw_state_free(old);
	mutex_unlock(&bw_mutex);
	bw_offload_end();
	return 0;
}

int bw_commit_seal(const u64 *expect, struct bw_fault *f)
{
	int err;

	mutex_lock(&bw_mutex);
	err = bw_window_check_closed(f);
	if (!err && !bw_state_generation(bw_state_locked()))
		err = bw_fault_set(f, -ENOENT, BW_S_NONE, 0, "no ruleset is in force");
	else if (!err && expect)
		err = bw_state_expect(*expect, f);
	if (!err)
		err = bw_seal_set(f);
	mutex_unlock(&bw_mutex);
	return err;
}
