# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden trace, hooks.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    on_signals,
    paint,
    say,
    say_json,
    table_lines,
    warn,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def cmd_trace(args: argparse.Namespace) -> Reply:
    """Shows each packet's way as soon as it is complete."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import TraceOptions
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import RECORD_SCHEMA
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.session import (
        Trace,
        read_record,
        write_private,
    )

    if args.replay:
        recorded = read_record(args.replay)
        for path in recorded["paths"]:
            show_path(path, args.json)
        return Reply(None, [], said=True)
    options = TraceOptions(
        protocol=args.proto,
        source=args.source,
        target=args.target,
        port=args.port,
        container=args.container,
        namespace=args.namespace,
        guard=args.guard,
        dropped=args.dropped,
        packets=args.count,
        seconds=args.seconds,
        events=args.events,
        rate=args.rate,
        docker_socket=args.docker_socket,
        include_session=args.include_session,
    )
    paths: t.List[Json] = []
    with Trace(options) as trace:
        with on_signals(trace.stop):
            for path in trace.paths():
                show_path(path, args.json)
                if args.record:
                    paths.append(path)
        summary = trace.summary()
        record = {"schema": RECORD_SCHEMA, "paths": paths, "summary": summary, "hooks": trace.hooks}
    if args.json:
        say_json({"summary": summary, "hooks": trace.hooks})
    else:
        say("%d packets, %d events, ended by %s" % (summary["packets"], summary["events"], summary["ended"]))
        for note in summary["notes"]:
            warn(note)
    if args.record:
        write_private(args.record, json.dumps(record, sort_keys=True) + "\n")
    return Reply(None, [], said=True)


def show_path(path: Json, as_json: bool) -> None:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.lanes import lanes

    if as_json:
        say_json(path)
    else:
        colours = {"good": "32", "bad": "1;31", "dim": "2"}
        width = shutil.get_terminal_size((100, 24)).columns
        say(*lanes(path, width, lambda words, colour: paint(words, colours[colour])), "")
    sys.stdout.flush()


def cmd_hooks(args: argparse.Namespace) -> Reply:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.hooks import hooks_of
    from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.namespaces import namespace_path

    with Kernel() as kernel:
        record = hooks_of(kernel, namespace_path(args.namespace, args.docker_socket))
    rows = [
        (
            row["family"],
            row["hook"],
            row["priority"],
            row["function"],
            row["module"],
            "ours" if row["own"] else "",
        )
        for row in record
    ]
    return Reply(record, table_lines(rows, ("family", "hook", "priority", "function", "module", "")))
