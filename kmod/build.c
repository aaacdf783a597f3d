// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module as one translation unit, as kernel/sched/build_policy.c does it:
 * a host parses the kernel's headers once instead of once a file (DKMS builds
 * in a third of the time), and the packet path is inlined across files. Each
 * file still includes what it needs, and the pure ones build alone in tests/.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include "main.c"
#include "table.c"
#include "classify.c"
#include "ruleset.c"
#include "packet.c"
#include "memo.c"
#include "hook.c"
#include "chain.c"
#include "netns.c"
#include "bridged.c"
#include "tag.c"
#include "verdict.c"
#include "guard.c"
#include "counters.c"
#include "state.c"
#include "offload.c"
#include "txn.c"
#include "netlink.c"
#include "explain.c"
#include "trace.c"
