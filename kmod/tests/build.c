// SPDX-License-Identifier: GPL-2.0-only
/*
 * How long the kernel's part of a commit takes: checking and building a ruleset,
 * which is read from standard input as bench/commits.py writes it: for each section
 * its number of entries (u32) and the entries. Prints milliseconds, one line a turn.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "draft.h"

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static void take(void *to, size_t size)
{
	if (fread(to, 1, size, stdin) != size) {
		fprintf(stderr, "build: the ruleset ends early\n");
		exit(2);
	}
}

int main(int argc, char **argv)
{
	int turns = argc > 1 ? atoi(argv[1]) : 5;
	struct test_draft t = { };
	struct bw_endpoints *e;
	struct bw_rules *r;
	struct bw_fault f;
	enum bw_section s;

	test_minimal(&t);
	for (s = 0; s < BW_S_MAX; s++) {
		size_t size = bw_section_types[s].size;
		void *data;

		take(&t.d.count[s], sizeof(t.d.count[s]));
		data = malloc(t.d.count[s] * size + 1);
		take(data, t.d.count[s] * size);
		t.d.data[s] = data;
	}
	while (turns--) {
		double began = now();

		if (bw_draft_check(&t.d, &f)) {
			fprintf(stderr, "build: section %u, entry %u: %d\n", f.section, f.entry, f.err);
			return 1;
		}
		r = bw_rules_build(&t.d, &f);
		e = r ? bw_endpoints_build(&t.d, &f) : NULL;
		if (!e)
			return 1;
		printf("%.2f\n", now() - began);
		bw_rules_free(r);
		bw_endpoints_free(e);
	}
	return 0;
}
