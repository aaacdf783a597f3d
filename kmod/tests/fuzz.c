// SPDX-License-Identifier: GPL-2.0-only
/*
 * The pure core under libFuzzer: `make fuzz`. The first byte of an input tells
 * how to read the rest: as choices of the generator in draft.c, so that every
 * draft is valid and the comparison with the naive twin goes deep; as the same
 * with some numbers moved to a bound, where checks go wrong; or as the
 * sections themselves, as a process could send them. Also built without
 * libFuzzer, to write such inputs from random drafts (-DBW_SEEDS): a fuzzer
 * that had to find a valid section by chance would never get past the checks.
 */
#include <errno.h>
#include <stdio.h>

#include "naive.h"

#define QUERIES		64
#define HEAD		16	/* see struct head */
#define RAW		0x80	/* of the first byte: the sections themselves */
#define MOVED		0x40	/* generated, with numbers at bounds */
#define BUDGET		0x3f	/* allocations that succeed, and 1; 0: all */

struct head {
	u8 how;
	u8 mode, placement, defaults[__BW_CLASS_MAX];
	u8 n_guard;
	u8 unused[6];
};

_Static_assert(sizeof(struct head) == HEAD, "seeds and fuzzer must agree");

static void fail(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

static void must(bool good, const char *what)
{
	if (!good)
		fail(what);
}

/* Lengths in entries, a byte each, then the entries; what is missing is cut. */
static const u8 *read_sections(struct test_draft *t, const u8 *p, const u8 *end)
{
	const u8 *count = p;
	int s;

	if (end - p < BW_S_MAX)
		return end;
	p += BW_S_MAX;
	for (s = 0; s < BW_S_MAX; s++) {
		size_t size = bw_section_types[s].size, n = count[s];

		if (n > (end - p) / size)
			n = (end - p) / size;
		/* Of its own size, so that a stray access is seen. */
		t->d.data[s] = malloc(n * size);
		if (n)
			memcpy((void *)t->d.data[s], p, n * size);
		t->d.count[s] = n;
		p += n * size;
	}
	return p;
}

static const u8 *read_raw(struct test_draft *t, const u8 *data, size_t size)
{
	struct head h = {};
	u32 i;

	memcpy(&h, data, size < HEAD ? size : HEAD);
	t->d.mode = h.mode;
	t->d.placement = h.placement;
	memcpy(t->d.defaults, h.defaults, sizeof(h.defaults));
	t->d.n_guard = h.n_guard;
	for (i = 0; i < h.n_guard && i < BW_MAX_GUARDS; i++)
		t->d.guard[i][0] = 'a' + i % 26;
	return size < HEAD ? data + size : read_sections(t, data + HEAD, data + size);
}

/* One word of one entry becomes what some check compares it with, or nearly. */
static void move(struct test_draft *t)
{
	u32 s = test_below(BW_S_MAX), size = bw_section_types[s].size, value;
	u8 *entry = (u8 *)t->d.data[s];

	if (!t->d.count[s])
		return;
	if (!test_below(8)) {
		t->d.count[s]--;
		return;
	}
	switch (test_below(4)) {
	case 0:
		value = (u32[]){ 0, BW_MAX_IDENTITIES, BW_SERVICE_MAX, U32_MAX }[test_below(4)];
		break;
	case 1:
		value = test_random();
		break;
	default:
		value = t->d.count[test_below(BW_S_MAX)];
	}
	value += test_below(3) - 1;
	entry += test_below(t->d.count[s]) * size;
	memcpy(entry + test_below(size / 4) * 4, &value, sizeof(value));
}

static int build(const struct bw_draft *d, struct bw_rules **r, struct bw_endpoints **e)
{
	struct bw_fault f = { .section = BW_S_NONE };

	*r = NULL;
	*e = NULL;
	if (!bw_draft_check(d, &f)) {
		*r = bw_rules_build(d, &f);
		*e = *r ? bw_endpoints_build(d, &f) : NULL;
		if (*e)
			return 0;
		must(f.err == -ENOMEM || f.err == -EEXIST, "a checked draft was refused for a strange reason");
	}
	must(f.err < 0 && f.why && f.section <= BW_S_MAX, "a refusal without a reason");
	bw_rules_free(*r);
	*r = NULL;
	return f.err;
}

static void compare(const struct bw_draft *d, const struct bw_rules *r, const struct bw_endpoints *e)
{
	struct bw_decision got, want;
	struct bw_query q;
	int i;

	for (i = 0; i < QUERIES; i++) {
		test_random_query(&q);
		naive_classify(d, &q, &want);
		bw_classify(r, e, &q, &got);
		must(naive_agrees(&got, &want), "the classifier and its naive twin differ");
		bw_published_resolve(e, &q);
		if (!test_fed() && i > QUERIES / 4)
			break;
	}
}

/* A link goes, in the draft's own words. */
static void close_link(struct bw_draft *d, struct bw_endpoints *e, u32 link)
{
	struct bw_nl_endpoint4 *e4 = (void *)d->data[BW_S_ENDPOINT4];
	struct bw_nl_endpoint6 *e6 = (void *)d->data[BW_S_ENDPOINT6];
	struct bw_nl_behind *b = (void *)d->data[BW_S_BEHIND];
	u32 i;

	for (i = 0; i < d->count[BW_S_ENDPOINT4]; i++)
		if (e4[i].link == link || e4[i].port == link)
			e4[i].identity = BW_ID_UNMANAGED;
	for (i = 0; i < d->count[BW_S_ENDPOINT6]; i++)
		if (e6[i].link == link || e6[i].port == link)
			e6[i].identity = BW_ID_UNMANAGED;
	for (i = 0; i < d->count[BW_S_BEHIND]; i++)
		if (b[i].link == link || b[i].port == link)
			b[i--] = b[--d->count[BW_S_BEHIND]];
	bw_endpoints_close_link(e, link);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct test_draft t = {};
	struct bw_endpoints *e;
	struct bw_rules *r;
	const u8 *rest;
	int err, moves;

	if (!size)
		return 0;
	if (data[0] & RAW) {
		rest = read_raw(&t, data, size);
		test_feed(rest, data + size - rest);
	} else {
		test_feed(data + 1, size - 1);
		test_random_draft(&t);
		for (moves = data[0] & MOVED ? 1 + test_below(3) : 0; moves; moves--)
			move(&t);
	}
	bw_test_alloc_budget = (data[0] & BUDGET) - 1L;
	err = build(&t.d, &r, &e);
	must(err != -ENOMEM || bw_test_alloc_budget >= 0, "no memory, though there is");
	bw_test_alloc_budget = -1;
	must(data[0] & (RAW | MOVED) || !err || err == -ENOMEM, "a valid draft was refused");
	if (!err) {
		compare(&t.d, r, e);
		close_link(&t.d, e, 1 + test_below(3));
		compare(&t.d, r, e);
		bw_rules_free(r);
		bw_endpoints_free(e);
	}
	test_clear(&t);
	return 0;
}

#ifdef BW_SEEDS
#define SEEDS 64

static void seed(const char *folder, int i)
{
	struct test_draft t;
	struct head h = { .how = RAW, .n_guard = 2 };
	char path[4096];
	FILE *f;
	int s;

	snprintf(path, sizeof(path), "%s/seed-%02d", folder, i);
	f = fopen(path, "w");
	must(f, "the seed cannot be written");
	test_random_draft(&t);
	memcpy(h.defaults, t.d.defaults, sizeof(h.defaults));
	if (i % 2) {	/* chance instead, of all kinds */
		fputc(i % 8 == 1 ? i & BUDGET : i % 8 == 3 ? 0 : MOVED, f);
		for (s = 0; s < 700; s++)
			fputc(test_below(256), f);
	} else {
		fwrite(&h, 1, HEAD, f);
		for (s = 0; s < BW_S_MAX; s++) {
			must(t.d.count[s] < 256, "too large for a seed");
			fputc(t.d.count[s], f);
		}
		for (s = 0; s < BW_S_MAX; s++)
			if (t.d.count[s])
				fwrite(t.d.data[s], bw_section_types[s].size, t.d.count[s], f);
		for (s = 0; s < 100; s++)
			fputc(test_below(256), f);
	}
	must(!fclose(f), "the seed cannot be written");
	test_clear(&t);
}

int main(int argc, char **argv)
{
	int i;

	must(argc == 2, "usage: seeds FOLDER");
	for (i = 0; i < SEEDS; i++)
		seed(argv[1], i);
	return 0;
}
#endif
