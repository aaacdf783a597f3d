# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden boot, agent, sync: what the units run, and one step of it.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.boot import boot
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent, State
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import Settings
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import sync_once
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store


def cmd_boot(args: argparse.Namespace) -> Reply:
    code = boot(Store(), Log())
    return Reply({"code": code}, [], code)


def cmd_agent(args: argparse.Namespace) -> Reply:
    log, state, publish = Log(), State(), None
    if args.metrics != "none":
        from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.metrics import exporter

        publish = exporter(args.metrics, state, log, args.metrics_textfile, args.metrics_listen)
    code = Agent(Settings(docker_socket=args.docker_socket), log=log, publish=publish, state=state).run()
    return Reply({"code": code}, [], code)


def cmd_sync(args: argparse.Namespace) -> Reply:
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
