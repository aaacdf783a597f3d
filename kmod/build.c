// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module as one translation unit, as kernel/sched/build_policy.c does it:
 * a host parses the kernel's headers once instead of once a file (DKMS builds
 * in a third of the time), and the packet path is inlined across files. Each
 * file still includes what it needs, and the pure ones build alone in tests/.
 *
 * This is also the one list of the files in their order: a file may depend only
 * on those above it. tests/tools/kmod_order.py checks that.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#define BW_ONE_OBJECT

/* Base: builds in user space, too. */
#include "version.h"
#include "api.h"
#include "shim.h"
#include "bits.h"
#include "addr.h"
#include "table.c"
#include "draft.c"
#include "routed.c"
#include "classify.c"
#include "ruleset.c"

/* State: what packets are judged by. */
#include "lock.c"
#include "counters.c"
#include "guard.c"
#include "state.c"
#include "pickedup.h"
#include "memo.c"
#include "reason.c"

/* Packets: reading them. */
#include "l4.c"
#include "neighbour.c"
#include "packet.c"
#include "origin.c"

/* Traces. */
#include "owner.h"
#include "trace_event.h"
#include "trace_read.c"
#include "trace_term.c"
#include "trace.c"

/* Data path. */
#include "verdict.c"
#include "unmanaged.c"
#include "register.c"
#include "hook.c"
#include "frame.c"
#include "tag.c"
#include "observe.c"
#include "bridged.c"
#include "offload.c"

/* Namespaces. */
#include "inside.c"
#include "netns.c"

/* Control plane. */
#include "link.c"
#include "order.c"
#include "lifetime.c"
#include "exchange.c"
#include "window.c"
#include "commit.c"
#include "txn.c"

/* Generic netlink. */
#include "nl.c"
#include "nl_info.c"
#include "nl_commit.c"
#include "nl_explain.c"
#include "nl_dump.c"
#include "nl_trace.c"
#include "netlink.c"

/* Loading and unloading. */
#include "main.c"
