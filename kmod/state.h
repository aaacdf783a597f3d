/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A state is what judging needs: rules, endpoints, guards and counters under one
 * RCU pointer, so that no packet sees half of a commit. Rules and endpoints are
 * structs of their own: either can be exchanged without the other. There are at
 * most two states: the one in force, and the saved one that a roll back restores.
 */
#ifndef _BW_STATE_H
#define _BW_STATE_H

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
	u8 policy_digest[BW_DIGEST_LEN];
	u8 ruleset_digest[BW_DIGEST_LEN];
};

/* NULL: nothing is judged. */
BW_API struct bw_state __rcu *bw_state;

static inline struct bw_state *bw_state_locked(void)
{
	return rcu_dereference_protected(bw_state,
					 lockdep_is_held(&bw_mutex));
}

static inline u64 bw_state_generation(const struct bw_state *st)
{
	return st ? st->generation : 0;
}

/*
 * Checks a draft and builds a state from it. Returns NULL with the fault filled
 * in. Context: process, may sleep; the draft must not change meanwhile.
 */
BW_API struct bw_state *bw_state_new(const struct bw_draft *d,
				     struct bw_fault *f);
BW_API void bw_state_free(struct bw_state *st);

/*
 * Adds to each rule of one state what fn returns for the rule with the same key
 * in the other; of equal keys the first pairs with the first. Context: bw_mutex
 * is held.
 */
BW_API void bw_state_inherit(struct bw_state *to, const struct bw_state *from,
			     struct bw_total (*fn)(const struct bw_counters *c, u32 i));

/* 0, or -ESTALE with the fault filled in. Context: bw_mutex is held. */
BW_API int bw_state_expect(u64 generation, struct bw_fault *f);

/* What a roll back would restore; NULL: nothing. Context: bw_mutex is held. */
BW_API struct bw_state *bw_state_saved(void);
BW_API void bw_state_save(struct bw_state *st);

/*
 * Closes the endpoints, in both states, that are behind a link or port, or
 * behind a child of a link in the namespace with this inode number. Returns
 * whether one was open: then the caller invalidates the memo and ends offloaded
 * flows. Context: bw_mutex is held.
 */
BW_API bool bw_state_close_link(u32 ifindex);
BW_API bool bw_state_close_child(u32 link, u32 inum);

/* Frees both. Context: process; no packet is in a hook any more. */
BW_API void bw_state_exit(void);

#endif /* _BW_STATE_H */
