// SPDX-License-Identifier: GPL-2.0-only
/*
 * The commands of the generic netlink family "bridgewarden", specified in
 * bridgewarden.yaml. Handlers translate between attributes and the rest of the
 * module; they must not decide anything about packets or rulesets.
 */
#include <net/genetlink.h>

#include "netlink.h"
#include "nl.h"
#include "nl_commit.h"
#include "nl_dump.h"
#include "nl_explain.h"
#include "nl_info.h"
#include "nl_trace.h"

static const struct genl_small_ops bw_netlink_ops[] = {
	{ .cmd = BW_CMD_INFO_GET, .flags = GENL_ADMIN_PERM, .doit = bw_nl_info },
	{ .cmd = BW_CMD_BEGIN, .flags = GENL_ADMIN_PERM, .doit = bw_nl_begin },
	{ .cmd = BW_CMD_ADD, .flags = GENL_ADMIN_PERM, .doit = bw_nl_add },
	{ .cmd = BW_CMD_COMMIT, .flags = GENL_ADMIN_PERM, .doit = bw_nl_commit },
	{ .cmd = BW_CMD_ABORT, .flags = GENL_ADMIN_PERM, .doit = bw_nl_abort },
	{ .cmd = BW_CMD_CONFIRM, .flags = GENL_ADMIN_PERM, .doit = bw_nl_confirm },
	{ .cmd = BW_CMD_ROLLBACK, .flags = GENL_ADMIN_PERM, .doit = bw_nl_roll_back },
	{ .cmd = BW_CMD_RULE_GET, .flags = GENL_ADMIN_PERM, .dumpit = bw_nl_dump_rules },
	{ .cmd = BW_CMD_ENDPOINT_GET, .flags = GENL_ADMIN_PERM, .dumpit = bw_nl_dump_endpoints },
	{ .cmd = BW_CMD_PREFIX_GET, .flags = GENL_ADMIN_PERM, .dumpit = bw_nl_dump_prefixes },
	{ .cmd = BW_CMD_UNMANAGED_GET, .flags = GENL_ADMIN_PERM,
	  .dumpit = bw_nl_dump_unmanaged },
	{ .cmd = BW_CMD_EXPLAIN, .flags = GENL_ADMIN_PERM, .doit = bw_nl_explain },
	{ .cmd = BW_CMD_SEAL, .flags = GENL_ADMIN_PERM, .doit = bw_nl_seal },
	{ .cmd = BW_CMD_TRACE_BEGIN, .flags = GENL_ADMIN_PERM, .doit = bw_nl_trace_begin },
	{ .cmd = BW_CMD_TRACE_GET, .flags = GENL_ADMIN_PERM, .doit = bw_nl_trace_get },
	{ .cmd = BW_CMD_TRACE_END, .flags = GENL_ADMIN_PERM, .doit = bw_nl_trace_end },
	{ .cmd = BW_CMD_HOOK_GET, .flags = GENL_ADMIN_PERM, .doit = bw_nl_hooks },
};

int bw_netlink_init(void)
{
	BUILD_BUG_ON(BW_ATTR_MAX >= 128);
	BUILD_BUG_ON(BW_ATTR_SECTION_PAIR - BW_ATTR_SECTION_IDENTITY != BW_S_PAIR);
	BUILD_BUG_ON(BW_ATTR_SECTION_BEHIND - BW_ATTR_SECTION_PREFIX4 !=
		     BW_S_BEHIND - BW_S_PREFIX4);
	bw_nl_family.small_ops = bw_netlink_ops;
	bw_nl_family.n_small_ops = ARRAY_SIZE(bw_netlink_ops);
	return genl_register_family(&bw_nl_family);
}

void bw_netlink_exit(void)
{
	genl_unregister_family(&bw_nl_family);
}
