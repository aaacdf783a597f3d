/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The classifier's naive twin: straight from the draft, by linear search and
 * from the documented semantics, sharing no code with what it checks.
 */
#ifndef _BW_TESTS_NAIVE_H
#define _BW_TESTS_NAIVE_H

#include "draft.h"

void naive_classify(const struct bw_draft *d, const struct bw_query *q,
		    struct bw_decision *out);
bool naive_agrees(const struct bw_decision *a, const struct bw_decision *b);

#endif /* _BW_TESTS_NAIVE_H */
