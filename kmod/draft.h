/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A draft: the sections of a ruleset as user space sent them, copied but not
 * trusted; and the fault that names what is wrong with one.
 */
#ifndef _BW_DRAFT_H
#define _BW_DRAFT_H

#include "api.h"
#include "shim.h"
#include "uapi/bridgewarden.h"

/* In the order of BW_ATTR_SECTION_*, which are two runs of numbers. */
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
	BW_S_PREFIX4,
	BW_S_PREFIX6,
	BW_S_BEHIND,
	BW_S_MAX,
};

struct bw_section_type {
	const char *name;
	u32 size;	/* of one entry */
	u32 max;	/* entries */
};

BW_API const struct bw_section_type bw_section_types[BW_S_MAX];

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

/* Where a draft is wrong, and how; or why a request was refused. */
struct bw_fault {
	int err;		/* negative errno */
	u32 section;		/* enum bw_section or BW_S_NONE */
	u32 entry;
	const char *why;
};

/* Returns err. */
static inline int bw_fault_set(struct bw_fault *f, int err, u32 section,
			       u32 entry, const char *why)
{
	f->err = err;
	f->section = section;
	f->entry = entry;
	f->why = why;
	return err;
}

/*
 * Every number of a draft is checked here and nowhere else. Returns 0, or a
 * negative errno with the fault filled in. Context: process, may sleep.
 */
BW_API int bw_draft_check(const struct bw_draft *d, struct bw_fault *f);

#endif /* _BW_DRAFT_H */
