/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A state is what judging needs: rules, endpoints, guards and counters under one
 * RCU pointer, so that no packet sees half of a commit. Rules and endpoints are
 * structs of their own: either can be exchanged without the other.
 *
 * There are: the state in force; the saved one, which a roll back restores; the
 * next one, while a commit checks it; and former ones, which packets may still
 * use. A former state waits for them in a work of its own (bw_state_release()),
 * so that no commit and no lock does.
 */
#ifndef _BW_STATE_H
#define _BW_STATE_H

#include <linux/list.h>
#include <linux/rcupdate.h>

#include "counters.h"
#include "guard.h"
#include "lock.h"
#include "ruleset.h"

struct bw_state {
	/* Read per packet. */
	struct bw_rules *rules;
	struct bw_endpoints *endpoints;
	struct bw_counters *counters;
	u8 mode;
	u8 placement;
	bool closed;		/* no ruleset yet: guards drop everything */
	bool local_in;		/* traffic to the host needs a look, guarded or not */
	bool at_forward;	/* where what passes through is judged: here, or */
	bool at_post_routing;	/* there; in both while the placement changes */
	bool log_defaults;
	u16 log_group;

	u64 generation;		/* 0: closed */
	struct bw_guards guards;
	struct bw_guards parents;	/* of macvlan and ipvlan children */
	u32 *by_key;		/* rules in the order of their keys */

	/* Of a former state. bw_exchange_mutex. */
	struct list_head gone;
	struct bw_state *heir;	/* gets what is still counted; NULL: nobody */
	unsigned long grace;	/* get_state_synchronize_rcu() */

	u8 policy_digest[BW_DIGEST_LEN];
	u8 ruleset_digest[BW_DIGEST_LEN];
};

/* NULL: nothing is judged. */
BW_API struct bw_state __rcu *bw_state;

static inline struct bw_state *bw_state_locked(void)
{
	return rcu_dereference_protected(bw_state, lockdep_is_held(&bw_mutex) ||
					 lockdep_is_held(&bw_exchange_mutex));
}

static inline u64 bw_state_generation(const struct bw_state *st)
{
	return st ? st->generation : 0;
}

/*
 * Whether containers' own namespaces judge. Not in mode audit: that would need
 * conntrack there, which drops packets when its table is full. The host's hooks then
 * observe what they can, and nobody what macvlan and ipvlan children do.
 */
static inline bool bw_state_judges_inside(const struct bw_state *st)
{
	return st->placement == BW_PLACEMENT_CONTAINER && st->mode != BW_MODE_AUDIT;
}

/*
 * Checks a draft and builds a state from it. Returns NULL with the fault filled
 * in. Context: process, may sleep; the draft must not change meanwhile.
 */
BW_API struct bw_state *bw_state_new(const struct bw_draft *d,
				     struct bw_fault *f);
BW_API void bw_state_free(struct bw_state *st);

/*
 * bw_state_inherit() - counters go on in the state that replaces another.
 * @to: the new state.
 * @from: the one before it; packets may count in it all the while.
 *
 * Each rule gets what the rule with the same key has counted since the last call
 * with the same states; of equal keys the first pairs with the first. Called when
 * states are exchanged, so that no reader sees a counter begin anew, and by
 * bw_state_release() once more, so that no packet is lost. Context: process;
 * bw_exchange_mutex is held.
 */
BW_API void bw_state_inherit(struct bw_state *to, struct bw_state *from);

/*
 * bw_state_restore() - the same for a roll back.
 * @to: the saved state, which had passed its counters to the other.
 * @from: the undone one: only what it counted itself is news.
 *
 * Context: process; bw_exchange_mutex is held.
 */
BW_API void bw_state_restore(struct bw_state *to, struct bw_state *from);

/*
 * bw_state_release() - frees a former state when no packet uses it any more.
 * @st: not in force, nor saved, any more; NULL: nothing is done.
 * @heir: the state that replaced it, which inherits what packets count in it until
 *	then; NULL: none.
 *
 * Needs no memory and does not wait. Former states are freed in the order of the
 * calls, so an heir outlives those before it. Context: process; bw_exchange_mutex
 * is held.
 */
BW_API void bw_state_release(struct bw_state *st, struct bw_state *heir);

/*
 * bw_state_flush() - waits until released states are freed.
 *
 * Called before a commit builds: however long a grace period takes, no more states
 * wait for one than there are commits at once. Context: process, may sleep; none
 * of our mutexes is held.
 */
BW_API void bw_state_flush(void);

/* 0, or -ESTALE with the fault filled in. Context: bw_exchange_mutex is held. */
BW_API int bw_state_expect(u64 generation, struct bw_fault *f);

/* What a roll back would restore; NULL: nothing. Context: bw_mutex is held. */
BW_API struct bw_state *bw_state_saved(void);
BW_API void bw_state_save(struct bw_state *st);

/*
 * The state that a commit is about to put in force: from bw_state_set_next() on its
 * endpoints close, and its containers' devices are listed, as links come and go.
 * Context: bw_mutex is held.
 */
BW_API struct bw_state *bw_state_next(void);
BW_API void bw_state_set_next(struct bw_state *st);

/*
 * Closes the endpoints, in all these states, that are behind a link or port, or
 * behind a child of a link in the namespace with this inode number. Returns
 * whether one was open: then the caller invalidates the memo and ends offloaded
 * flows. Context: bw_mutex is held.
 */
BW_API bool bw_state_close_link(u32 ifindex);
BW_API bool bw_state_close_child(u32 link, u32 inum);

/* Frees all of them. Context: process; no packet is in a hook any more. */
BW_API void bw_state_exit(void);

#endif /* _BW_STATE_H */
