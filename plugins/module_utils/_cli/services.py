# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden boot, agent: what the units run.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply


def cmd_boot(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.boot import boot
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log
    from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

    code = boot(Store(), Log())
    return Reply({"code": code}, [], code)


def cmd_agent(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent, State
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import Settings
    from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log

    log, state, publish = Log(), State(), None
    if args.metrics != "none":
        from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.metrics import exporter

        publish = exporter(args.metrics, state, log, args.metrics_textfile, args.metrics_listen)
    code = Agent(Settings(docker_socket=args.docker_socket), log=log, publish=publish, state=state).run()
    return Reply({"code": code}, [], code)
