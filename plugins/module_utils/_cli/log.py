# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden log: logged packets as they come.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import sys
import time

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.containers import Names
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    in_red,
    paint,
    say,
    say_json,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.nflog import LogReader
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def cmd_log(args: argparse.Namespace) -> Reply:
    """Prints each line as it comes, with the containers' names."""
    group = args.group
    if group is None:
        with Kernel() as kernel:
            group = kernel.info().log_group
    names = Names(args.docker_socket)
    left = args.count
    with LogReader(group) as reader:
        for line in reader.lines():
            for side in ("from", "to"):
                line[side + "_container"] = names.of(line[side])
            if args.json:
                say_json(line)
            else:
                say(log_text(line))
            sys.stdout.flush()
            left -= 1
            if not left:
                break
    return Reply(None, [], said=True)


def log_text(line: Json) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(line["time"])) if line["time"] else "now"
    sides = [
        f"{line[side + '_container']} ({line[side]})" if line[side + "_container"] else str(line[side])
        for side in ("from", "to")
    ]
    service = line["protocol"] or "?"
    if line["to_port"] is not None:
        service = "%d/%s" % (line["to_port"], service)
    links = " ".join(
        f"{word} {line[key]}" for word, key in (("in", "in"), ("port", "port"), ("out", "out")) if line[key]
    )
    verdict = paint(line["action"], "33") if line["audit"] else in_red(line["action"])
    by = f'rule "{line["rule"]}"' if line["rule"] else line["reason"]
    audit = "audit " if line["audit"] else ""
    return f"{when} {audit}{verdict} {line['class'] or '-'} {' -> '.join(sides)} {service}: {by} ({links})"
