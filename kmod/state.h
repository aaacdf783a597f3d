/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The state in force: rules, endpoints, guards and counters under one RCU
 * pointer, so that no packet sees half of a commit. Rules and endpoints are
 * structs of their own: either can be exchanged without the other.
 *
 * Lock order: transactions -> rtnl -> bw_mutex. Building happens under the
 * first only; what is done under the others never allocates, but for opening
 * containers' namespaces (netns.c), which comes before anything is changed.
 */
#ifndef _BW_STATE_H
#define _BW_STATE_H

#include <linux/mutex.h>
#include <linux/rcupdate.h>

#include "counters.h"
#include "guard.h"
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
extern struct bw_state __rcu *bw_state;
extern struct mutex bw_mutex;

static inline struct bw_state *bw_state_locked(void)
{
	return rcu_dereference_protected(bw_state,
					 lockdep_is_held(&bw_mutex));
}

static inline u64 bw_state_generation(const struct bw_state *st)
{
	return st ? st->generation : 0;
}

struct bw_state *bw_state_new(const struct bw_draft *d, struct bw_fault *f);
void bw_state_free(struct bw_state *st);

struct bw_commit {
	u64 expect;		/* generation */
	u32 timeout;		/* seconds of the confirm window, 0: none */
	bool dry_run;
};

#define BW_CONFIRM_MAX	(24 * 60 * 60)

/*
 * Takes st over unless it fails; on a dry run st is freed. Returns 0 and the
 * generation in force, or a negative errno with the fault filled in.
 */
int bw_state_commit(struct bw_state *st, const struct bw_draft *d,
		    const struct bw_commit *c, u64 *generation,
		    struct bw_fault *f);
/* Both end an open confirm window; expect: NULL or the generation in force. */
int bw_state_confirm(const u64 *expect, struct bw_fault *f);
int bw_state_rollback(const u64 *expect, struct bw_fault *f);

/* No change from now on, and no unload. */
int bw_state_seal(const u64 *expect, struct bw_fault *f);
bool bw_state_sealed(void);	/* bw_mutex */

/* Whether the module refuses to be unloaded while links are guarded. */
void bw_state_hold(bool hold);
bool bw_state_holds(void);

/* Seconds left of an open confirm window; 0: none open. bw_mutex. */
u32 bw_state_confirm_remaining(void);

/* What a roll back would restore; NULL: nothing. bw_mutex. */
const struct bw_state *bw_state_spare(void);

/* A link or port is gone, or a child of a link from its namespace: bw_mutex. */
void bw_state_close_link(u32 ifindex);
void bw_state_close_place(u32 link, u32 port);

int bw_state_init(char *const *closed, u32 n_closed);
void bw_state_stop(void);	/* no roll back, nothing is judged from now on */
void bw_state_exit(void);	/* no packet may be in a hook any more */

#endif /* _BW_STATE_H */
