// SPDX-License-Identifier: GPL-2.0-only
/*
 * The generic netlink family "bridgewarden", specified in bridgewarden.yaml.
 * Handlers translate between attributes and the rest of the module; they must
 * not decide anything about packets or rulesets, and must answer nobody but
 * root of the initial user namespace, reading included: rules and endpoints
 * tell what runs on the host.
 */
#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/user_namespace.h>
#include <net/genetlink.h>
#include <net/sock.h>

#include "chain.h"
#include "explain.h"
#include "hook.h"
#include "netlink.h"
#include "netns.h"
#include "state.h"
#include "trace.h"
#include "txn.h"
#include "verdict.h"
#include "version.h"

static struct genl_family bw_family;

/* Not listed: only in replies, refused in requests. */
static const struct nla_policy bw_policy[BW_ATTR_MAX + 1] = {
	[BW_ATTR_EXPECT_GENERATION] = { .type = NLA_U64 },
	[BW_ATTR_MODE] = NLA_POLICY_MAX(NLA_U8, __BW_MODE_MAX - 1),
	[BW_ATTR_DEFAULTS] = NLA_POLICY_EXACT_LEN(__BW_CLASS_MAX),
	[BW_ATTR_POLICY_DIGEST] = NLA_POLICY_EXACT_LEN(BW_DIGEST_LEN),
	[BW_ATTR_RULESET_DIGEST] = NLA_POLICY_EXACT_LEN(BW_DIGEST_LEN),
	[BW_ATTR_DRY_RUN] = { .type = NLA_FLAG },
	[BW_ATTR_CONFIRM_TIMEOUT] = { .type = NLA_U32 },
	[BW_ATTR_GUARD] = { .type = NLA_NUL_STRING, .len = BW_GUARD_LEN - 1 },
	[BW_ATTR_SECTION_IDENTITY] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_CELL4] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_CELL6] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_ENDPOINT4] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_ENDPOINT6] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_PUBLISH] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_RULE] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_SPAN] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_BLOCK] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_PAIR] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_FAMILY] = { .type = NLA_U8 },
	[BW_ATTR_PROTO] = { .type = NLA_U8 },
	[BW_ATTR_FROM_ADDR] = { .type = NLA_BINARY, .len = 16 },
	[BW_ATTR_TO_ADDR] = { .type = NLA_BINARY, .len = 16 },
	[BW_ATTR_PORT] = { .type = NLA_U16 },
	[BW_ATTR_FROM_KIND] = NLA_POLICY_MAX(NLA_U8, __BW_KIND_MAX - 1),
	[BW_ATTR_TO_KIND] = NLA_POLICY_MAX(NLA_U8, __BW_KIND_MAX - 1),
	[BW_ATTR_DIRECT] = { .type = NLA_FLAG },
	[BW_ATTR_PLACEMENT] = NLA_POLICY_MAX(NLA_U8, __BW_PLACEMENT_MAX - 1),
	[BW_ATTR_LOG_GROUP] = { .type = NLA_U16 },
	[BW_ATTR_LOG_DEFAULTS] = NLA_POLICY_MAX(NLA_U8, 1),
	[BW_ATTR_PARENT] = { .type = NLA_NUL_STRING, .len = BW_GUARD_LEN - 1 },
	[BW_ATTR_TRACE_TERM] = { .type = NLA_BINARY,
				 .len = BW_MAX_TERMS * sizeof(struct bw_nl_term) },
	[BW_ATTR_TRACE_SECONDS] = { .type = NLA_U32 },
	[BW_ATTR_TRACE_EVENTS] = { .type = NLA_U32 },
	[BW_ATTR_TRACE_RATE] = { .type = NLA_U32 },
	[BW_ATTR_NETNS_FD] = { .type = NLA_U32 },
};

#define BW_A(name)	BIT_ULL(BW_ATTR_##name)
#define BW_A2(name)	BIT_ULL(BW_ATTR_##name - 64)
#define BW_HEAD		(BW_A(MODE) | BW_A(DEFAULTS) | BW_A(POLICY_DIGEST) | \
			 BW_A(RULESET_DIGEST) | BW_A(GUARD) | BW_A(EXPECT_GENERATION) | \
			 BW_A(PLACEMENT) | BW_A(LOG_GROUP) | BW_A(LOG_DEFAULTS) | \
			 BW_A(PARENT))
#define BW_SECTIONS	GENMASK_ULL(BW_ATTR_SECTION_PAIR, BW_ATTR_SECTION_IDENTITY)

/* One policy serves all commands, so each names what it takes: 0 .. 63, 64 .. 127. */
static const u64 bw_takes[BW_CMD_MAX + 1][2] = {
	[BW_CMD_BEGIN] = { BW_HEAD },
	[BW_CMD_ADD] = { BW_HEAD | BW_SECTIONS },
	[BW_CMD_COMMIT] = { BW_A(EXPECT_GENERATION) | BW_A(DRY_RUN) | BW_A(CONFIRM_TIMEOUT) },
	[BW_CMD_CONFIRM] = { BW_A(EXPECT_GENERATION) },
	[BW_CMD_ROLLBACK] = { BW_A(EXPECT_GENERATION) },
	[BW_CMD_SEAL] = { BW_A(EXPECT_GENERATION) },
	[BW_CMD_EXPLAIN] = { BW_A(FAMILY) | BW_A(PROTO) | BW_A(FROM_ADDR) | BW_A(TO_ADDR) |
			     BW_A(PORT) | BW_A(FROM_KIND) | BW_A(TO_KIND) | BW_A(DIRECT) },
	[BW_CMD_TRACE_BEGIN] = { 0, BW_A2(TRACE_TERM) | BW_A2(TRACE_SECONDS) |
				    BW_A2(TRACE_EVENTS) | BW_A2(TRACE_RATE) },
	[BW_CMD_HOOK_GET] = { 0, BW_A2(NETNS_FD) },
};

static bool bw_takes_attr(u8 cmd, u32 attr)
{
	return bw_takes[cmd][attr / 64] & BIT_ULL(attr % 64);
}

static bool bw_is_privileged(const struct sk_buff *skb)
{
	return sk_user_ns(NETLINK_CB(skb).sk) == &init_user_ns &&
	       netlink_capable(skb, CAP_NET_ADMIN);
}

/* GENL_ADMIN_PERM says the same; this door must not hang on one hinge. */
static int bw_admit(const struct sk_buff *skb, struct genl_info *info)
{
	u32 attr;

	if (!bw_is_privileged(skb))
		return -EPERM;
	for (attr = 1; attr <= BW_ATTR_MAX; attr++)
		if (info->attrs[attr] &&
		    !bw_takes_attr(info->genlhdr->cmd, attr)) {
			NL_SET_ERR_MSG_ATTR(info->extack, info->attrs[attr],
					    "attribute does not belong to this command");
			return -EINVAL;
		}
	return 0;
}

/*
 * The kernel reads a message of its own making after the handler is done and
 * its locks are gone; formatted extack text came with 6.2. So texts live in a
 * ring that nobody frees. At worst many failures at once mix up their words.
 */
#define BW_TEXTS	64	/* power of two */
#define BW_TEXT_LEN	96

static char bw_texts[BW_TEXTS][BW_TEXT_LEN];
static atomic_t bw_text_last;

static int bw_report(struct netlink_ext_ack *extack, const struct bw_fault *f)
{
	char *text = bw_texts[atomic_inc_return(&bw_text_last) & (BW_TEXTS - 1)];

	if (!extack || !f->why)
		return f->err;
	if (f->section < BW_S_MAX)
		scnprintf(text, BW_TEXT_LEN, "%s[%u]: %s",
			  bw_section_types[f->section].name, f->entry, f->why);
	else
		scnprintf(text, BW_TEXT_LEN, "%s", f->why);
	extack->_msg = text;
	return f->err;
}

static struct sk_buff *bw_reply_new(struct genl_info *info, size_t size,
				    void **header)
{
	struct sk_buff *reply = genlmsg_new(size, GFP_KERNEL);

	if (!reply)
		return NULL;
	*header = genlmsg_put_reply(reply, info, &bw_family, 0,
				    info->genlhdr->cmd);
	if (!*header) {
		nlmsg_free(reply);
		return NULL;
	}
	return reply;
}

static int bw_reply_send(struct genl_info *info, struct sk_buff *reply,
			 void *header, int err)
{
	if (err) {
		nlmsg_free(reply);
		return err;
	}
	genlmsg_end(reply, header);
	return genlmsg_reply(reply, info);
}

/* State of the module. */

static int bw_put_link(u32 ifindex, void *reply)
{
	return nla_put_u32(reply, BW_ATTR_GUARD_LINK, ifindex);
}

static int bw_put_ahead(const char *who, void *reply)
{
	return nla_put_string(reply, BW_ATTR_HOOK_AHEAD, who);
}

static int bw_count_link(u32 ifindex, void *count)
{
	++*(u32 *)count;
	return 0;
}

static int bw_put_state(struct sk_buff *reply, const struct bw_state *st)
{
	const struct bw_rules *r = st->rules;
	const struct bw_endpoints *e = st->endpoints;
	u32 i;

	if (nla_put_u8(reply, BW_ATTR_MODE, st->mode) ||
	    nla_put_u8(reply, BW_ATTR_PLACEMENT, st->placement) ||
	    nla_put_u16(reply, BW_ATTR_LOG_GROUP, st->log_group) ||
	    nla_put_u8(reply, BW_ATTR_LOG_DEFAULTS, st->log_defaults) ||
	    nla_put(reply, BW_ATTR_DEFAULTS, sizeof(r->defaults), r->defaults) ||
	    nla_put(reply, BW_ATTR_POLICY_DIGEST, BW_DIGEST_LEN, st->policy_digest) ||
	    nla_put(reply, BW_ATTR_RULESET_DIGEST, BW_DIGEST_LEN, st->ruleset_digest) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_IDENTITIES, r->n_identity) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_CELLS, r->n_cell4 + r->n_cell6) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_ENDPOINTS, e->n_v4 + e->n_v6) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_PUBLISH, e->n_published) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_RULES, r->n_rule) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_PAIRS, r->n_pair))
		return -EMSGSIZE;
	for (i = 0; i < st->guards.n; i++)
		if (nla_put_string(reply, BW_ATTR_GUARD, st->guards.pattern[i]))
			return -EMSGSIZE;
	for (i = 0; i < st->parents.n; i++)
		if (nla_put_string(reply, BW_ATTR_PARENT, st->parents.pattern[i]))
			return -EMSGSIZE;
	return 0;
}

static int bw_put_info(struct sk_buff *reply, u32 traces)
{
	const struct bw_state *st = bw_state_locked();
	u32 left = bw_state_confirm_remaining();

	if (nla_put_string(reply, BW_ATTR_VERSION, BW_VERSION) ||
	    nla_put_u64_64bit(reply, BW_ATTR_GENERATION, bw_state_generation(st),
			      BW_ATTR_PAD) ||
	    nla_put_u32(reply, BW_ATTR_HOOKS_FIRST, bw_hook_first(&init_net)) ||
	    nla_put_u32(reply, BW_ATTR_HOOKS_EXPECTED, bw_hook_expected()) ||
	    nla_put_u64_64bit(reply, BW_ATTR_LOG_SWALLOWED, bw_log_swallowed(),
			      BW_ATTR_PAD) ||
	    bw_hook_tell_ahead(&init_net, bw_put_ahead, reply) ||
	    (bw_state_sealed() && nla_put_flag(reply, BW_ATTR_SEALED)) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_NAMESPACES, bw_net_count()) ||
	    nla_put_u32(reply, BW_ATTR_COUNT_TRACES, traces) ||
	    (left && nla_put_u32(reply, BW_ATTR_CONFIRM_REMAINING, left)) ||
	    (st && bw_put_state(reply, st)))
		return -EMSGSIZE;
	return bw_guard_for_each(bw_put_link, reply);
}

#define BW_INFO_SIZE	(NLMSG_DEFAULT_SIZE + 2 * BW_MAX_GUARDS * (NLA_HDRLEN + BW_GUARD_LEN) + \
			 BW_HOOK_PLACES * BW_HOOK_TOLD * (NLA_HDRLEN + BW_HOOK_WHO_LEN))
#define BW_INFO_SPARE	64	/* links that appear before the answer is written */

static int bw_do_info(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	u32 links = 0, traces;
	void *header;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	traces = bw_trace_count();
	mutex_lock(&bw_mutex);
	bw_guard_for_each(bw_count_link, &links);
	mutex_unlock(&bw_mutex);
	reply = bw_reply_new(info, BW_INFO_SIZE + (links + BW_INFO_SPARE) *
			     nla_total_size(sizeof(u32)), &header);
	if (!reply)
		return -ENOMEM;
	mutex_lock(&bw_mutex);
	err = bw_put_info(reply, traces);
	mutex_unlock(&bw_mutex);
	return bw_reply_send(info, reply, header, err);
}

/* Transactions. */

static int bw_txn_take_attr(struct bw_txn *txn, const struct nlattr *nla,
			    const char **why)
{
	int type = nla_type(nla);

	switch (type) {
	case BW_ATTR_EXPECT_GENERATION:
		txn->expect = nla_get_u64(nla);
		txn->has_expect = true;
		return 0;
	case BW_ATTR_MODE:
		txn->draft.mode = nla_get_u8(nla);
		txn->has_mode = true;
		return 0;
	case BW_ATTR_PLACEMENT:
		txn->draft.placement = nla_get_u8(nla);
		return 0;
	case BW_ATTR_LOG_GROUP:
		txn->draft.log_group = nla_get_u16(nla);
		return 0;
	case BW_ATTR_LOG_DEFAULTS:
		txn->draft.log_defaults = nla_get_u8(nla);
		return 0;
	case BW_ATTR_DEFAULTS:
		memcpy(txn->draft.defaults, nla_data(nla),
		       sizeof(txn->draft.defaults));
		txn->has_defaults = true;
		return 0;
	case BW_ATTR_POLICY_DIGEST:
		memcpy(txn->draft.policy_digest, nla_data(nla), BW_DIGEST_LEN);
		return 0;
	case BW_ATTR_RULESET_DIGEST:
		memcpy(txn->draft.ruleset_digest, nla_data(nla), BW_DIGEST_LEN);
		return 0;
	case BW_ATTR_GUARD:
		return bw_txn_add_guard(txn, nla_data(nla),
					strnlen(nla_data(nla), nla_len(nla)),
					why);
	case BW_ATTR_PARENT:
		return bw_txn_add_parent(txn, nla_data(nla),
					 strnlen(nla_data(nla), nla_len(nla)),
					 why);
	default:
		return bw_txn_append(txn, type - BW_ATTR_SECTION_IDENTITY,
				     nla_data(nla), nla_len(nla), why);
	}
}

/* Attributes may repeat: each counts. bw_admit() has seen to their types. */
static int bw_txn_take(struct bw_txn *txn, struct genl_info *info)
{
	const struct nlattr *nla;
	const char *why = NULL;
	int rem, err;

	nlmsg_for_each_attr(nla, info->nlhdr, GENL_HDRLEN, rem) {
		err = bw_txn_take_attr(txn, nla, &why);
		if (!err)
			continue;
		if (why && info->extack)
			info->extack->_msg = why;
		NL_SET_BAD_ATTR(info->extack, nla);
		return err;
	}
	return 0;
}

static struct bw_txn *bw_txn_of(struct genl_info *info)
{
	struct bw_txn *txn = bw_txn_find(info->snd_portid);

	if (!txn)
		NL_SET_ERR_MSG(info->extack,
			       "this socket has no transaction: begin one");
	return txn;
}

static int bw_do_begin(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_txn *txn;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_txn_open(info->snd_portid);
	if (IS_ERR(txn)) {
		err = PTR_ERR(txn);
		if (err == -EBUSY)
			NL_SET_ERR_MSG(info->extack,
				       "this socket has a transaction already");
		else if (err == -EUSERS)
			NL_SET_ERR_MSG(info->extack,
				       "too many transactions are open");
	} else {
		err = bw_txn_take(txn, info);
		if (err)
			bw_txn_close(txn);
	}
	mutex_unlock(&bw_txn_mutex);
	return err;
}

static int bw_do_add(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_txn *txn;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_txn_of(info);
	err = txn ? bw_txn_take(txn, info) : -ENOENT;
	mutex_unlock(&bw_txn_mutex);
	return err;
}

static int bw_commit_read(const struct bw_txn *txn, struct genl_info *info,
			  struct bw_commit *c)
{
	struct nlattr **attrs = info->attrs;

	c->expect = txn->expect;
	if (attrs[BW_ATTR_EXPECT_GENERATION]) {
		c->expect = nla_get_u64(attrs[BW_ATTR_EXPECT_GENERATION]);
	} else if (!txn->has_expect) {
		NL_SET_ERR_MSG(info->extack,
			       "expect-generation is missing: name the generation to replace");
		return -EINVAL;
	}
	if (!txn->has_mode || !txn->has_defaults) {
		NL_SET_ERR_MSG(info->extack, "mode or defaults are missing");
		return -EINVAL;
	}
	c->dry_run = nla_get_flag(attrs[BW_ATTR_DRY_RUN]);
	if (attrs[BW_ATTR_CONFIRM_TIMEOUT])
		c->timeout = nla_get_u32(attrs[BW_ATTR_CONFIRM_TIMEOUT]);
	if (c->timeout > BW_CONFIRM_MAX) {
		NL_SET_ERR_MSG_ATTR(info->extack, attrs[BW_ATTR_CONFIRM_TIMEOUT],
				    "confirm window is longer than a day");
		return -ERANGE;
	}
	return 0;
}

/* A transaction outlives a dry run and a commit that failed. */
static int bw_commit(struct genl_info *info, u64 *generation)
{
	struct bw_fault f = { .section = BW_S_NONE };
	struct bw_commit c = {};
	struct bw_state *st;
	struct bw_txn *txn;
	int err;

	txn = bw_txn_of(info);
	if (!txn)
		return -ENOENT;
	err = bw_commit_read(txn, info, &c);
	if (err)
		return err;
	st = bw_state_new(&txn->draft, &f);
	if (!st || bw_state_commit(st, &txn->draft, &c, generation, &f))
		return bw_report(info->extack, &f);
	if (!c.dry_run)
		bw_txn_close(txn);
	return 0;
}

static int bw_do_commit(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	u64 generation;
	void *header;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	/* Before the commit, so that its success can be told. */
	reply = bw_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	mutex_lock(&bw_txn_mutex);
	err = bw_commit(info, &generation);
	mutex_unlock(&bw_txn_mutex);
	if (!err)
		err = nla_put_u64_64bit(reply, BW_ATTR_GENERATION, generation,
					BW_ATTR_PAD);
	return bw_reply_send(info, reply, header, err);
}

static int bw_do_abort(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_txn *txn;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_txn_of(info);
	if (txn)
		bw_txn_close(txn);
	mutex_unlock(&bw_txn_mutex);
	return txn ? 0 : -ENOENT;
}

static int bw_settle(struct sk_buff *skb, struct genl_info *info,
		     int (*fn)(const u64 *expect, struct bw_fault *f))
{
	const struct nlattr *nla = info->attrs[BW_ATTR_EXPECT_GENERATION];
	struct bw_fault f = { .section = BW_S_NONE };
	u64 expect;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	if (nla)
		expect = nla_get_u64(nla);
	if (fn(nla ? &expect : NULL, &f))
		return bw_report(info->extack, &f);
	return 0;
}

static int bw_do_confirm(struct sk_buff *skb, struct genl_info *info)
{
	return bw_settle(skb, info, bw_state_confirm);
}

static int bw_do_rollback(struct sk_buff *skb, struct genl_info *info)
{
	return bw_settle(skb, info, bw_state_rollback);
}

static int bw_do_seal(struct sk_buff *skb, struct genl_info *info)
{
	return bw_settle(skb, info, bw_state_seal);
}

static int bw_do_explain(struct sk_buff *skb, struct genl_info *info)
{
	struct sk_buff *reply;
	void *header;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	reply = bw_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	return bw_reply_send(info, reply, header, bw_explain(info, reply));
}

/* Traces. */

static u32 bw_get_u32(const struct genl_info *info, int attr, u32 absent)
{
	return info->attrs[attr] ? nla_get_u32(info->attrs[attr]) : absent;
}

static int bw_trace_wish_read(struct genl_info *info, struct bw_trace_wish *w)
{
	const struct nlattr *terms = info->attrs[BW_ATTR_TRACE_TERM];

	w->seconds = bw_get_u32(info, BW_ATTR_TRACE_SECONDS, 60);
	w->events = bw_get_u32(info, BW_ATTR_TRACE_EVENTS, 100000);
	w->rate = bw_get_u32(info, BW_ATTR_TRACE_RATE, 5000);
	if (!w->seconds || w->seconds > BW_MAX_TRACE_SECONDS ||
	    !w->events || w->events > BW_MAX_TRACE_EVENTS ||
	    !w->rate || w->rate > BW_MAX_TRACE_RATE) {
		NL_SET_ERR_MSG(info->extack,
			       "a trace takes 1 to 3600 seconds, 1 to 10000000 events, 1 to 1000000 a second");
		return -ERANGE;
	}
	if (!terms)
		return 0;
	if (!nla_len(terms) || nla_len(terms) % sizeof(*w->term)) {
		NL_SET_ERR_MSG_ATTR(info->extack, terms,
				    "not a whole number of terms");
		return -EINVAL;
	}
	w->term = nla_data(terms);
	w->n_term = nla_len(terms) / sizeof(*w->term);
	return 0;
}

static int bw_put_trace(struct sk_buff *reply, const struct bw_trace_report *r)
{
	if (nla_put_u32(reply, BW_ATTR_TRACE_ID, r->id) ||
	    nla_put_u8(reply, BW_ATTR_TRACE_STATE, r->state) ||
	    nla_put_u32(reply, BW_ATTR_TRACE_SECONDS, r->seconds) ||
	    nla_put_u32(reply, BW_ATTR_TRACE_BLIND, r->blind) ||
	    nla_put_u64_64bit(reply, BW_ATTR_TRACE_REPORTED, r->reported,
			      BW_ATTR_PAD) ||
	    nla_put_u64_64bit(reply, BW_ATTR_TRACE_WITHHELD, r->withheld,
			      BW_ATTR_PAD))
		return -EMSGSIZE;
	return 0;
}

static int bw_do_trace(struct sk_buff *skb, struct genl_info *info,
		       int (*fn)(struct genl_info *info,
				 struct bw_trace_report *r))
{
	struct bw_trace_report r;
	struct sk_buff *reply;
	void *header;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	reply = bw_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	err = fn(info, &r);
	if (!err)
		err = bw_put_trace(reply, &r);
	else if (err == -ENOENT)
		NL_SET_ERR_MSG(info->extack, "this socket has no trace");
	return bw_reply_send(info, reply, header, err);
}

static int bw_trace_begin_asked(struct genl_info *info,
				struct bw_trace_report *r)
{
	struct bw_trace_wish w = {};
	const char *why = NULL;
	int err;

	err = bw_trace_wish_read(info, &w);
	if (err)
		return err;
	err = bw_trace_begin(info->snd_portid, &w, r, &why);
	if (why && info->extack)
		info->extack->_msg = why;
	return err;
}

static int bw_trace_get_asked(struct genl_info *info, struct bw_trace_report *r)
{
	return bw_trace_get(info->snd_portid, r);
}

static int bw_trace_end_asked(struct genl_info *info, struct bw_trace_report *r)
{
	return bw_trace_end(info->snd_portid, r);
}

static int bw_do_trace_begin(struct sk_buff *skb, struct genl_info *info)
{
	return bw_do_trace(skb, info, bw_trace_begin_asked);
}

static int bw_do_trace_get(struct sk_buff *skb, struct genl_info *info)
{
	return bw_do_trace(skb, info, bw_trace_get_asked);
}

static int bw_do_trace_end(struct sk_buff *skb, struct genl_info *info)
{
	return bw_do_trace(skb, info, bw_trace_end_asked);
}

/* Who stands where. */

static int bw_count_hook(const struct bw_nl_hook *who, void *count)
{
	++*(u32 *)count;
	return 0;
}

static int bw_put_hook(const struct bw_nl_hook *who, void *reply)
{
	return nla_put(reply, BW_ATTR_HOOK, sizeof(*who), who);
}

#define BW_HOOKS_SPARE	16	/* that appear before the answer is written */

static int bw_hooks_reply(struct genl_info *info, const struct net *net)
{
	struct sk_buff *reply;
	u32 hooks = 0;
	void *header;

	bw_chain_for_each(net, bw_count_hook, &hooks);
	reply = bw_reply_new(info, (hooks + BW_HOOKS_SPARE) *
			     nla_total_size(sizeof(struct bw_nl_hook)), &header);
	if (!reply)
		return -ENOMEM;
	return bw_reply_send(info, reply, header,
			     bw_chain_for_each(net, bw_put_hook, reply));
}

static int bw_do_hook_get(struct sk_buff *skb, struct genl_info *info)
{
	const struct nlattr *fd = info->attrs[BW_ATTR_NETNS_FD];
	struct net *net;
	int err;

	err = bw_admit(skb, info);
	if (err)
		return err;
	if (!fd)
		return bw_hooks_reply(info, &init_net);
	net = get_net_ns_by_fd(nla_get_u32(fd));
	if (IS_ERR(net)) {
		NL_SET_ERR_MSG_ATTR(info->extack, fd,
				    "not the open file of a network namespace");
		return PTR_ERR(net);
	}
	err = bw_hooks_reply(info, net);
	put_net(net);
	return err;
}

/* Dumps: cb->args[0] is where to go on. */

static int bw_dump(struct sk_buff *skb, struct netlink_callback *cb,
		   int (*put)(struct sk_buff *skb, struct netlink_callback *cb,
			      const struct bw_state *st))
{
	const struct bw_state *st;

	if (!bw_is_privileged(cb->skb))
		return -EPERM;
	if (nlmsg_attrlen(cb->nlh, GENL_HDRLEN))
		return -EINVAL;
	mutex_lock(&bw_mutex);
	st = bw_state_locked();
	/* A commit in between flags the dump as interrupted: read it again. */
	cb->seq = bw_state_generation(st) + 1;
	if (st)
		while (!put(skb, cb, st))
			cb->args[0]++;
	mutex_unlock(&bw_mutex);
	return skb->len;
}

static void *bw_dump_header(struct sk_buff *skb, struct netlink_callback *cb,
			    u8 cmd)
{
	void *header = genlmsg_put(skb, NETLINK_CB(cb->skb).portid,
				   cb->nlh->nlmsg_seq, &bw_family,
				   NLM_F_MULTI, cmd);

	if (header)
		genl_dump_check_consistent(cb, header);
	return header;
}

static u8 bw_reason_action(const struct bw_state *st, u32 reason)
{
	if (reason < __BW_CLASS_MAX)
		return st->rules->defaults[reason];
	if (reason == BW_REASON_NEIGHBOUR || reason == BW_REASON_HOST_ERROR)
		return BW_ACTION_ALLOW;
	return BW_ACTION_DENY;
}

static int bw_put_rule_attrs(struct sk_buff *skb, const struct bw_state *st,
			     u32 index)
{
	struct bw_total total = bw_counters_total(st->counters, index);
	const struct bw_nl_rule *rule = NULL;
	u8 action;

	if (index >= BW_REASON_MAX)
		rule = &st->rules->rule[index - BW_REASON_MAX];
	action = rule ? rule->action : bw_reason_action(st, index);
	if (nla_put_u32(skb, BW_ATTR_RULE_INDEX, index) ||
	    nla_put_u8(skb, BW_ATTR_ACTION, action) ||
	    nla_put_u64_64bit(skb, BW_ATTR_PACKETS, total.packets, BW_ATTR_PAD) ||
	    nla_put_u64_64bit(skb, BW_ATTR_BYTES, total.bytes, BW_ATTR_PAD))
		return -EMSGSIZE;
	if (rule && (nla_put_u64_64bit(skb, BW_ATTR_RULE_KEY, rule->key, BW_ATTR_PAD) ||
		     nla_put_string(skb, BW_ATTR_RULE_NAME, rule->name)))
		return -EMSGSIZE;
	if (action == BW_ACTION_QUEUE &&
	    (nla_put_u16(skb, BW_ATTR_QUEUE_NUM, rule->queue) ||
	     nla_put_u16(skb, BW_ATTR_QUEUE_COUNT, rule->queues) ||
	     (rule->flags & BW_RULE_F_BYPASS &&
	      nla_put_flag(skb, BW_ATTR_QUEUE_BYPASS))))
		return -EMSGSIZE;
	return 0;
}

static int bw_put_rule(struct sk_buff *skb, struct netlink_callback *cb,
		       const struct bw_state *st)
{
	u32 index = cb->args[0];
	void *header;

	if (index >= BW_REASON_MAX + st->rules->n_rule)
		return -ENOENT;
	/* Numbers no reason has yet. */
	if (index < BW_REASON_MAX && !bw_reason_is_used(index))
		return 0;
	header = bw_dump_header(skb, cb, BW_CMD_RULE_GET);
	if (!header)
		return -EMSGSIZE;
	if (bw_put_rule_attrs(skb, st, index)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

/* Slot i of both tables, IPv4 first: 0 unused, else the address's length. */
static int bw_endpoint_at(const struct bw_endpoints *e, u32 i,
			  const void **addr, const struct bw_home **home)
{
	const struct bw_ep4 *v4 = e->v4.slots;
	const struct bw_ep6 *v6 = e->v6.slots;

	if (i <= e->v4.mask) {
		*addr = &v4[i].addr;
		*home = &v4[i].home;
		return v4[i].addr ? 4 : 0;
	}
	i -= e->v4.mask + 1;
	if (i > e->v6.mask)
		return -ENOENT;
	*addr = v6[i].addr;
	*home = &v6[i].home;
	return v6[i].used ? 16 : 0;
}

static int bw_put_endpoint(struct sk_buff *skb, struct netlink_callback *cb,
			   const struct bw_state *st)
{
	const struct bw_home *home;
	const void *addr;
	void *header;
	int len;

	len = bw_endpoint_at(st->endpoints, cb->args[0], &addr, &home);
	if (len <= 0)
		return len;
	header = bw_dump_header(skb, cb, BW_CMD_ENDPOINT_GET);
	if (!header)
		return -EMSGSIZE;
	if (nla_put(skb, BW_ATTR_ADDR, len, addr) ||
	    nla_put_u32(skb, BW_ATTR_IDENTITY, READ_ONCE(home->identity)) ||
	    nla_put_u32(skb, BW_ATTR_LINK, home->link) ||
	    nla_put_u32(skb, BW_ATTR_LINK_PORT, home->port)) {
		genlmsg_cancel(skb, header);
		return -EMSGSIZE;
	}
	genlmsg_end(skb, header);
	return 0;
}

static int bw_dump_rules(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_dump(skb, cb, bw_put_rule);
}

static int bw_dump_endpoints(struct sk_buff *skb, struct netlink_callback *cb)
{
	return bw_dump(skb, cb, bw_put_endpoint);
}

static const struct genl_small_ops bw_ops[] = {
	{ .cmd = BW_CMD_INFO_GET, .flags = GENL_ADMIN_PERM, .doit = bw_do_info },
	{ .cmd = BW_CMD_BEGIN, .flags = GENL_ADMIN_PERM, .doit = bw_do_begin },
	{ .cmd = BW_CMD_ADD, .flags = GENL_ADMIN_PERM, .doit = bw_do_add },
	{ .cmd = BW_CMD_COMMIT, .flags = GENL_ADMIN_PERM, .doit = bw_do_commit },
	{ .cmd = BW_CMD_ABORT, .flags = GENL_ADMIN_PERM, .doit = bw_do_abort },
	{ .cmd = BW_CMD_CONFIRM, .flags = GENL_ADMIN_PERM, .doit = bw_do_confirm },
	{ .cmd = BW_CMD_ROLLBACK, .flags = GENL_ADMIN_PERM, .doit = bw_do_rollback },
	{ .cmd = BW_CMD_RULE_GET, .flags = GENL_ADMIN_PERM, .dumpit = bw_dump_rules },
	{ .cmd = BW_CMD_ENDPOINT_GET, .flags = GENL_ADMIN_PERM, .dumpit = bw_dump_endpoints },
	{ .cmd = BW_CMD_EXPLAIN, .flags = GENL_ADMIN_PERM, .doit = bw_do_explain },
	{ .cmd = BW_CMD_SEAL, .flags = GENL_ADMIN_PERM, .doit = bw_do_seal },
	{ .cmd = BW_CMD_TRACE_BEGIN, .flags = GENL_ADMIN_PERM, .doit = bw_do_trace_begin },
	{ .cmd = BW_CMD_TRACE_GET, .flags = GENL_ADMIN_PERM, .doit = bw_do_trace_get },
	{ .cmd = BW_CMD_TRACE_END, .flags = GENL_ADMIN_PERM, .doit = bw_do_trace_end },
	{ .cmd = BW_CMD_HOOK_GET, .flags = GENL_ADMIN_PERM, .doit = bw_do_hook_get },
};

/*
 * Handlers bring their own locks, so that checking a large ruleset does not
 * hold up every other family.
 */
static struct genl_family bw_family __ro_after_init = {
	.name = BW_FAMILY_NAME,
	.version = BW_FAMILY_VERSION,
	.maxattr = BW_ATTR_MAX,
	.policy = bw_policy,
	.netnsok = false,
	.parallel_ops = true,
	.small_ops = bw_ops,
	.n_small_ops = ARRAY_SIZE(bw_ops),
	.module = THIS_MODULE,
};

int bw_netlink_init(void)
{
	BUILD_BUG_ON(BW_ATTR_MAX >= 128);
	BUILD_BUG_ON(BW_ATTR_SECTION_PAIR - BW_ATTR_SECTION_IDENTITY != BW_S_PAIR);
	return genl_register_family(&bw_family);
}

void bw_netlink_exit(void)
{
	genl_unregister_family(&bw_family);
}
