// SPDX-License-Identifier: GPL-2.0-only
/*
 * From attributes to a draft, and from a draft to a commit. Must not decide
 * anything about a ruleset: draft.c checks it.
 */
#include <linux/err.h>

#include "commit.h"
#include "exchange.h"
#include "lock.h"
#include "nl.h"
#include "nl_commit.h"
#include "txn.h"
#include "window.h"

static enum bw_section bw_nl_section(int type)
{
	return type <= BW_ATTR_SECTION_PAIR ? type - BW_ATTR_SECTION_IDENTITY + BW_S_IDENTITY :
					      type - BW_ATTR_SECTION_PREFIX4 + BW_S_PREFIX4;
}

static int bw_nl_draft_read_attr(struct bw_txn *txn, const struct nlattr *nla,
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
		return bw_txn_append(txn, bw_nl_section(type), nla_data(nla), nla_len(nla), why);
	}
}

/* Attributes may repeat: each counts. bw_nl_admit() has seen to their types. */
static int bw_nl_draft_read(struct bw_txn *txn, struct genl_info *info)
{
	const struct nlattr *nla;
	const char *why = NULL;
	int rem, err;

	nlmsg_for_each_attr(nla, info->nlhdr, GENL_HDRLEN, rem) {
		err = bw_nl_draft_read_attr(txn, nla, &why);
		if (!err)
			continue;
		if (why && info->extack)
			info->extack->_msg = why;
		NL_SET_BAD_ATTR(info->extack, nla);
		return err;
	}
	return 0;
}

static struct bw_txn *bw_nl_txn(const struct sk_buff *skb, struct genl_info *info)
{
	struct bw_owner who = bw_owner_of(skb, info);
	struct bw_txn *txn = bw_txn_find(&who);

	if (!txn)
		NL_SET_ERR_MSG(info->extack,
			       "this socket has no transaction: begin one");
	return txn;
}

int bw_nl_begin(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_owner who = bw_owner_of(skb, info);
	struct bw_txn *txn;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_txn_open(&who);
	if (IS_ERR(txn)) {
		err = PTR_ERR(txn);
		if (err == -EBUSY)
			NL_SET_ERR_MSG(info->extack,
				       "this socket has a transaction already");
		else if (err == -EUSERS)
			NL_SET_ERR_MSG(info->extack,
				       "too many transactions are open");
	} else {
		err = bw_nl_draft_read(txn, info);
		if (err)
			bw_txn_close(txn);
	}
	mutex_unlock(&bw_txn_mutex);
	return err;
}

int bw_nl_add(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_txn *txn;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_nl_txn(skb, info);
	err = txn ? bw_nl_draft_read(txn, info) : -ENOENT;
	mutex_unlock(&bw_txn_mutex);
	return err;
}

static int bw_nl_commit_read(const struct bw_txn *txn, struct genl_info *info,
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
static int bw_nl_commit_draft(const struct sk_buff *skb, struct genl_info *info,
			      struct bw_commit *c, u64 *generation)
{
	struct bw_fault f = { .section = BW_S_NONE };
	struct bw_state *st;
	struct bw_txn *txn;
	int err;

	txn = bw_nl_txn(skb, info);
	if (!txn)
		return -ENOENT;
	err = bw_nl_commit_read(txn, info, c);
	if (err)
		return err;
	st = bw_state_new(&txn->draft, &f);
	if (!st || bw_commit_state(st, &txn->draft, c, generation, &f))
		return bw_nl_report(info->extack, &f);
	if (!c->dry_run)
		bw_txn_close(txn);
	return 0;
}

int bw_nl_commit(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_commit c = {};
	struct sk_buff *reply;
	u64 generation;
	void *header;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	/* Before the commit, so that its success can be told. */
	reply = bw_nl_reply_new(info, NLMSG_DEFAULT_SIZE, &header);
	if (!reply)
		return -ENOMEM;
	/* Of states that wait to be freed there is one, however fast commits come. */
	bw_state_flush();
	mutex_lock(&bw_txn_mutex);
	err = bw_nl_commit_draft(skb, info, &c, &generation);
	mutex_unlock(&bw_txn_mutex);
	if (!err && !c.dry_run)
		bw_exchange_settle();
	if (!err)
		err = nla_put_u64_64bit(reply, BW_ATTR_GENERATION, generation,
					BW_ATTR_PAD);
	return bw_nl_reply_send(info, reply, header, err);
}

int bw_nl_abort(struct sk_buff *skb, struct genl_info *info)
{
	struct bw_txn *txn;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	mutex_lock(&bw_txn_mutex);
	txn = bw_nl_txn(skb, info);
	if (txn)
		bw_txn_close(txn);
	mutex_unlock(&bw_txn_mutex);
	return txn ? 0 : -ENOENT;
}

static int bw_nl_decide(struct sk_buff *skb, struct genl_info *info,
			int (*fn)(const u64 *expect, struct bw_fault *f))
{
	const struct nlattr *nla = info->attrs[BW_ATTR_EXPECT_GENERATION];
	struct bw_fault f = { .section = BW_S_NONE };
	u64 expect;
	int err;

	err = bw_nl_admit(skb, info);
	if (err)
		return err;
	if (nla)
		expect = nla_get_u64(nla);
	if (fn(nla ? &expect : NULL, &f))
		return bw_nl_report(info->extack, &f);
	return 0;
}

int bw_nl_confirm(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_decide(skb, info, bw_window_confirm);
}

int bw_nl_roll_back(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_decide(skb, info, bw_window_roll_back);
}

int bw_nl_seal(struct sk_buff *skb, struct genl_info *info)
{
	return bw_nl_decide(skb, info, bw_commit_seal);
}
