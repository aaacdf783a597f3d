# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden policy: the desired policy, and what is applied.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply, in_red
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store


def cmd_policy(args: argparse.Namespace) -> Reply:
    store = Store()
    desired, pending, applied = store.read_policy(), store.read_pending(), store.read_applied()
    record = {"desired": desired, "pending": pending, "applied": applied}
    if desired is None and pending is None:
        return Reply(record, ["no policy yet"])
    lines = list((applied or {}).get("words") or ["nothing is applied yet"])
    if pending is not None:
        lines.append(in_red("a commit waits for its confirmation"))
    return Reply(record, lines)
