# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden rules, top: the counters.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import typing as t
from dataclasses import replace

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    control,
    say,
    say_json,
    table_lines,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import RuleRow
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def cmd_rules(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        rules = kernel.rules()
    record: t.List[Json] = [
        {
            "index": rule.index,
            "name": rule.name,
            "builtin": rule.index < REASON_MAX,
            "action": rule.action,
            "packets": rule.packets,
            "bytes": rule.bytes,
            "queue": rule.queue,
        }
        for rule in rules
    ]
    shown = [row for row in record if args.all or not row["builtin"] or row["packets"]]
    rows = [
        (row["action"], row["packets"], row["bytes"], row["name"] + (" (built in)" if row["builtin"] else ""))
        for row in shown
    ]
    return Reply(record, table_lines(rows, ("action", "packets", "bytes", "rule")))


def cmd_top(args: argparse.Namespace) -> Reply:
    """Shows the counters again and again, with their rates."""
    with Kernel() as kernel:
        before, then = rule_counters(kernel), time.monotonic()
        left = args.count
        while True:
            time.sleep(args.interval)
            info = kernel.info()
            now, after = time.monotonic(), rule_counters(kernel)
            record = {
                "time": time.time(),
                "seconds": round(now - then, 3),
                "generation": info.generation,
                "mode": info.mode,
                "endpoints": info.counts.get("endpoints", 0),
                "rules": rates(before, after, now - then),
            }
            if args.json:
                say_json(record)
            else:
                say(*top_lines(record, args.interval))
            sys.stdout.flush()
            before, then = after, now
            left -= 1
            if not left:
                return Reply(None, [], said=True)


def rule_counters(kernel: Kernel) -> t.Dict[t.Tuple[int, int], RuleRow]:
    """By what stays the same of a rule when another ruleset is committed."""
    return {(rule.index if rule.builtin else REASON_MAX, rule.key): rule for rule in kernel.rules()}


def rates(
    before: t.Mapping[t.Tuple[int, int], RuleRow],
    after: t.Mapping[t.Tuple[int, int], RuleRow],
    seconds: float,
) -> t.List[Json]:
    """Each rule's counters and what was added a second, the busiest first."""
    rows: t.List[Json] = []
    for key, rule in after.items():
        former = before.get(key)
        if former is None or former.packets > rule.packets:
            former = replace(rule, packets=0, bytes=0)  # it is new, or counts anew
        rows.append(
            {
                "name": rule.name,
                "builtin": rule.builtin,
                "action": rule.action,
                "packets": rule.packets,
                "bytes": rule.bytes,
                "packets_per_second": round((rule.packets - former.packets) / seconds, 1),
                "bytes_per_second": round((rule.bytes - former.bytes) / seconds, 1),
            }
        )
    rows.sort(key=lambda row: (-row["packets_per_second"], -row["packets"], row["builtin"], row["name"]))
    return rows


def top_lines(record: Json, interval: float) -> t.List[str]:
    """One screen; where nobody looks, all of it and no control sequences."""
    head = "{}  generation {}, mode {}, {} endpoints, every {:g} s".format(
        time.strftime("%H:%M:%S", time.localtime(record["time"])),
        record["generation"], record["mode"], record["endpoints"], interval,
    )  # fmt: skip
    rows = [
        (
            row["action"],
            int(row["packets_per_second"]),
            int(row["bytes_per_second"]),
            row["packets"],
            row["bytes"],
            row["name"] + (" (built in)" if row["builtin"] else ""),
        )
        for row in record["rules"]
        if row["packets"] or not row["builtin"]
    ]
    lines = [head, *table_lines(rows, ("action", "packets/s", "bytes/s", "packets", "bytes", "rule"))]
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        size = shutil.get_terminal_size((100, 24))
        lines = [line[: size.columns] for line in lines[: size.lines - 1]]
        lines[0] = control("\033[H\033[2J") + lines[0]
    return lines
