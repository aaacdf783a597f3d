# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden confirm, rollback, seal.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import Reply
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import (
    confirm_commit,
    roll_back,
    seal_policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel


def cmd_confirm(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        generation = confirm_commit(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["generation %d is kept" % generation])


def cmd_rollback(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        generation = roll_back(kernel, Store(), args.generation)
    return Reply({"generation": generation}, ["back to generation %d" % generation])


def cmd_seal(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        generation = seal_policy(kernel, Store(), args.generation)
    return Reply(
        {"generation": generation, "sealed": True}, ["generation %d is sealed until reboot" % generation]
    )
