# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden status, ready.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    EXIT_NOT_WELL,
    Reply,
    in_green,
    in_red,
    link_name,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.hooks import hooks_behind
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

# The commands.


def cmd_status(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        info = kernel.info()
    record = info_record(info)
    well = info.generation > 0 and info.hooks_in_place
    rows = [
        ("module", f"version {info.version}"),
        (
            "generation",
            in_green(str(info.generation)) if info.generation else in_red("none: the guards are closed"),
        ),
        ("mode", info.mode if info.mode == "enforce" else in_red(info.mode + ": nothing is dropped")),
        ("placement", info.placement),
        ("guards", ", ".join(info.guards) or "none"),
        ("guarded links", ", ".join(record["guard_links"]) or "none"),
        ("defaults", ", ".join("{} {}".format(*item) for item in sorted(info.defaults.items()))),
        ("holds", ", ".join("%d %s" % (count, name) for name, count in sorted(info.counts.items()))),
        ("policy", info.policy_digest[:16] or "none"),
        (
            "hooks",
            in_green("run first")
            if info.hooks_in_place
            else in_red("not all run first: " + ", ".join(info.hooks_ahead or hooks_behind(info))),
        ),
        (
            "log",
            "group %d, defaults %s, %d lines swallowed"
            % (info.log_group, "too" if info.log_defaults else "not", info.log_swallowed),
        ),
    ]
    if info.placement == "container":
        rows.append(
            ("inside", "%d namespaces, parents: %s" % (info.namespaces, ", ".join(info.parents) or "none"))
        )
    if info.traces:
        rows.append(("traces", "%d run" % info.traces))
    if info.sealed:
        rows.append(("sealed", in_green("nothing changes until reboot")))
    if info.confirm_remaining:
        rows.append(("confirm", in_red("rolls back in %d s unless confirmed" % info.confirm_remaining)))
    lines = ["%-14s %s" % row for row in rows]
    return Reply(record, lines, 0 if well else EXIT_NOT_WELL)


def info_record(info: Info) -> Json:
    return {
        "version": info.version,
        "generation": info.generation,
        "mode": info.mode,
        "placement": info.placement,
        "defaults": info.defaults,
        "policy_digest": info.policy_digest,
        "ruleset_digest": info.ruleset_digest,
        "confirm_remaining": info.confirm_remaining,
        "guards": list(info.guards),
        "parents": list(info.parents),
        "namespaces": info.namespaces,
        "traces": info.traces,
        "guard_links": [link_name(index) for index in info.guard_links],
        "counts": info.counts,
        "hooks_in_place": info.hooks_in_place,
        "hooks_behind": hooks_behind(info),
        "hooks_ahead": list(info.hooks_ahead),
        "log_group": info.log_group,
        "log_defaults": info.log_defaults,
        "log_swallowed": info.log_swallowed,
        "sealed": info.sealed,
    }


def cmd_ready(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        generation = kernel.info().generation
    words = "generation %d is in force" % generation if generation else "the module holds no policy"
    return Reply(
        {"generation": generation, "ready": bool(generation)}, [words], 0 if generation else EXIT_NOT_WELL
    )
