/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From a draft (sections as user space sent them, copied but not trusted) to
 * the immutable rules and endpoints the classifier reads. Every number of a
 * draft is checked here and nowhere else.
 */
#ifndef _BW_RULESET_H
#define _BW_RULESET_H

#include "classify.h"

/* In the order of BW_ATTR_SECTION_*. */
enum bw_section {
	BW_S_IDENTITY,
	BW_S_CELL4,
	BW_S_CELL6,
	BW_S_ENDPOINT4,
	BW_S_ENDPOINT6,
	BW_S_PUBLISH,
	BW_S_RULE,
	BW_S_SPAN,
	BW_S_BLOCK,
	BW_S_PAIR,
	BW_S_MAX,
};

struct bw_section_type {
	const char *name;
	u32 size;	/* of one entry */
	u32 max;	/* entries */
};

extern const struct bw_section_type bw_section_types[BW_S_MAX];

struct bw_draft {
	const void *data[BW_S_MAX];
	u32 count[BW_S_MAX];
	u32 n_guard;
	char guard[BW_MAX_GUARDS][BW_GUARD_LEN];
	u32 n_parent;
	char parent[BW_MAX_GUARDS][BW_GUARD_LEN];
	u8 mode;
	u8 placement;
	bool log_defaults;
	u16 log_group;
	u8 defaults[__BW_CLASS_MAX];
	u8 policy_digest[BW_DIGEST_LEN];
	u8 ruleset_digest[BW_DIGEST_LEN];
};

#define BW_S_NONE	BW_S_MAX	/* the fault is in no section */

/* Where a draft is wrong, and how. */
struct bw_fault {
	int err;		/* negative errno */
	u32 section;		/* enum bw_section or BW_S_NONE */
	u32 entry;
	const char *why;
};

int bw_draft_check(const struct bw_draft *d, struct bw_fault *f);

/* Both expect a draft that bw_draft_check() has passed. */
struct bw_rules *bw_rules_build(const struct bw_draft *d, struct bw_fault *f);
struct bw_endpoints *bw_endpoints_build(const struct bw_draft *d,
					struct bw_fault *f);
void bw_rules_free(struct bw_rules *r);
void bw_endpoints_free(struct bw_endpoints *e);

/* In place, from now on: the endpoints that live on this link or port. */
void bw_endpoints_close_link(struct bw_endpoints *e, u32 ifindex);
void bw_endpoints_close_place(struct bw_endpoints *e, u32 link, u32 port);
void bw_endpoint_close4(struct bw_endpoints *e, __be32 addr);
void bw_endpoint_close6(struct bw_endpoints *e, const u8 *addr);

#endif /* _BW_RULESET_H */
