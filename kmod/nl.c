// SPDX-License-Identifier: GPL-2.0-only
/*
 * Admission and replies. Nobody but root of the initial user namespace is
 * answered, reading included: rules and endpoints tell what runs on the host.
 */
#include <linux/atomic.h>
#include <linux/module.h>
#include <linux/user_namespace.h>
#include <net/sock.h>

#include "nl.h"

/* Not listed: only in replies, refused in requests. */
static const struct nla_policy bw_nl_policy[BW_ATTR_MAX + 1] = {
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
	[BW_ATTR_SECTION_PREFIX4] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_PREFIX6] = NLA_POLICY_MIN_LEN(1),
	[BW_ATTR_SECTION_BEHIND] = NLA_POLICY_MIN_LEN(1),
};

#define BW_A(name)	BIT_ULL(BW_ATTR_##name)
#define BW_A2(name)	BIT_ULL(BW_ATTR_##name - 64)
#define BW_HEAD		(BW_A(MODE) | BW_A(DEFAULTS) | BW_A(POLICY_DIGEST) | \
			 BW_A(RULESET_DIGEST) | BW_A(GUARD) | BW_A(EXPECT_GENERATION) | \
			 BW_A(PLACEMENT) | BW_A(LOG_GROUP) | BW_A(LOG_DEFAULTS) | \
			 BW_A(PARENT))
#define BW_SECTIONS	GENMASK_ULL(BW_ATTR_SECTION_PAIR, BW_ATTR_SECTION_IDENTITY)
#define BW_SECTIONS2	(BW_A2(SECTION_PREFIX4) | BW_A2(SECTION_PREFIX6) | BW_A2(SECTION_BEHIND))

/* One policy serves all commands, so each names what it takes: 0 .. 63, 64 .. 127. */
static const u64 bw_nl_cmd_attrs[BW_CMD_MAX + 1][2] = {
	[BW_CMD_BEGIN] = { BW_HEAD },
	[BW_CMD_ADD] = { BW_HEAD | BW_SECTIONS, BW_SECTIONS2 },
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

static bool bw_nl_cmd_has_attr(u8 cmd, u32 attr)
{
	return bw_nl_cmd_attrs[cmd][attr / 64] & BIT_ULL(attr % 64);
}

bool bw_nl_is_privileged(const struct sk_buff *skb)
{
	return sk_user_ns(NETLINK_CB(skb).sk) == &init_user_ns &&
	       netlink_capable(skb, CAP_NET_ADMIN);
}

/* Defence in depth: GENL_ADMIN_PERM already checks the capability. */
int bw_nl_admit(const struct sk_buff *skb, struct genl_info *info)
{
	u32 attr;

	if (!bw_nl_is_privileged(skb))
		return -EPERM;
	for (attr = 1; attr <= BW_ATTR_MAX; attr++)
		if (info->attrs[attr] &&
		    !bw_nl_cmd_has_attr(info->genlhdr->cmd, attr)) {
			NL_SET_ERR_MSG_ATTR(info->extack, info->attrs[attr],
					    "attribute does not belong to this command");
			return -EINVAL;
		}
	return 0;
}

/*
 * Handlers bring their own locks, so that checking a large ruleset does not
 * hold up every other family. netlink.c adds the commands.
 */
BW_DATA struct genl_family bw_nl_family __ro_after_init = {
	.name = BW_FAMILY_NAME,
	.version = BW_FAMILY_VERSION,
	.maxattr = BW_ATTR_MAX,
	.policy = bw_nl_policy,
	.netnsok = false,
	.parallel_ops = true,
	.module = THIS_MODULE,
};

/*
 * The kernel reads a message of its own making after the handler is done and
 * its locks are gone; formatted extack text came with 6.2. So texts live in a
 * ring that nobody frees. At worst many failures at once mix up their words.
 */
#define BW_NL_TEXTS	64	/* power of two */
#define BW_NL_TEXT_LEN	96

static char bw_nl_texts[BW_NL_TEXTS][BW_NL_TEXT_LEN];
static atomic_t bw_nl_text_last;

int bw_nl_report(struct netlink_ext_ack *extack, const struct bw_fault *f)
{
	char *text = bw_nl_texts[atomic_inc_return(&bw_nl_text_last) & (BW_NL_TEXTS - 1)];

	if (!extack || !f->why)
		return f->err;
	if (f->section < BW_S_MAX)
		scnprintf(text, BW_NL_TEXT_LEN, "%s[%u]: %s",
			  bw_section_types[f->section].name, f->entry, f->why);
	else
		scnprintf(text, BW_NL_TEXT_LEN, "%s", f->why);
	extack->_msg = text;
	return f->err;
}

struct sk_buff *bw_nl_reply_new(struct genl_info *info, size_t size,
				void **header)
{
	struct sk_buff *reply = genlmsg_new(size, GFP_KERNEL);

	if (!reply)
		return NULL;
	*header = genlmsg_put_reply(reply, info, &bw_nl_family, 0,
				    info->genlhdr->cmd);
	if (!*header) {
		nlmsg_free(reply);
		return NULL;
	}
	return reply;
}

int bw_nl_reply_send(struct genl_info *info, struct sk_buff *reply,
		     void *header, int err)
{
	if (err) {
		nlmsg_free(reply);
		return err;
	}
	genlmsg_end(reply, header);
	return genlmsg_reply(reply, info);
}
