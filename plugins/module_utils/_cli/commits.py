# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden confirm, rollback, seal, sync, policy: what changes the ruleset, or shows the desired one.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply, bad
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel


def cmd_confirm(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import confirm_commit
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    with Kernel() as kernel:
        generation = confirm_commit(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["generation %d is kept" % generation])


def cmd_rollback(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import roll_back
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    with Kernel() as kernel:
        generation = roll_back(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["back to generation %d" % generation])


def cmd_seal(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import seal_policy
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    with Kernel() as kernel:
        generation = seal_policy(kernel, Store(), args.generation)
    return Reply(
        {"generation": generation, "sealed": True}, ["generation %d is sealed until reboot" % generation]
    )


def cmd_sync(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import sync_once
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    synced = sync_once(Store(), args.docker_socket)
    if synced is None:
        raise BridgewardenError(
            "no policy yet", "/etc/bridgewarden/policy.json", "apply one with bridgewarden.docker.policy"
        )
    record = {
        "changed": synced.changed,
        "generation": synced.generation,
        "endpoints": synced.endpoints,
        "actions": synced.actions,
        "warnings": synced.warnings,
    }
    lines = list(synced.actions) or ["in step already"]
    lines += ["warning: " + warning for warning in synced.warnings]
    return Reply(record, [*lines, "generation %d, %d endpoints" % (synced.generation, synced.endpoints)])


def cmd_policy(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    store = Store()
    desired, pending, applied = store.read_policy(), store.read_pending(), store.read_applied()
    record = {"desired": desired, "pending": pending, "applied": applied}
    if desired is None and pending is None:
        return Reply(record, ["no policy yet"])
    lines = list((applied or {}).get("words") or ["nothing is applied yet"])
    if pending is not None:
        lines.append(bad("a commit waits for its confirmation"))
    return Reply(record, lines)
