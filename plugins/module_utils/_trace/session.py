# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a trace: what to trace in the kernel's words, names for what it says, one record for all of it.

The kernel bounds a trace and ends it when the socket closes, whatever becomes
of this.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import (
    Controller,
    controller_connection,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import TraceReport
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import (
    BOUNDS,
    TraceOptions,
    session_term,
    terms,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.hooks import hooks_of, who_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import (
    ENDINGS,
    RECORD_SCHEMA,
    Threader,
    journey_record,
    parse_event,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.namespaces import Namespaces
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.tracefs import (
    BUFFER_KB,
    Instance,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Drops of packets that are none of the trace's, in a second, above which they are not asked for any more.
MAX_DROPS_PER_SECOND = 3000
#: Of a trace that never began.
NO_REPORT = TraceReport(0, "ended", 0, 0, 0, 0)


# A whole trace.


class Trace:
    """`with Trace(options) as trace: for path in trace.paths(): ...`; then trace.summary()."""

    def __init__(self, options: TraceOptions, kernel_factory: t.Callable[[], Kernel] = Kernel) -> None:
        self._options = options
        self._kernel = kernel_factory()
        self._others: t.Dict[int, t.Dict[t.Tuple[str, str], t.List[str]]] = {}
        self._count = 0
        self._drops_off = False
        self._carried: t.Dict[t.Tuple[str, int], Json] = {}
        self._joined: t.Dict[int, int] = {}
        self._origin = 0.0
        self._lost = 0
        self._stopping = False
        self._newest = 0.0
        self.hooks: t.Dict[str, t.List[Json]] = {}
        self.report: t.Optional[TraceReport] = None
        self.session: t.Optional[Controller] = None  # left out
        self.ended = ""
        # A missing module is what to say, rather than that its events are not there.
        self._kernel.open()
        try:
            self._instance = Instance()
            self.namespaces = Namespaces(self._collect)
        except BaseException:
            self._kernel.close()
            raise

    def _collect(self) -> t.Optional[Json]:
        from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts

        try:
            return collect_facts(self._options.docker_socket)
        except BridgewardenError:
            return None  # packets cross a host without Docker too

    def __enter__(self) -> Trace:
        options = self._options
        try:
            self._begin(options)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self, options: TraceOptions) -> None:
        for name, least, most in BOUNDS:
            given = getattr(options, name)
            if not least <= given <= most:
                raise BridgewardenError(
                    "%s cannot be %d" % (name, given), name, "give %d to %d" % (least, most)
                )
        wanted = terms(options, self.namespaces.facts)
        self.session = None if options.include_session else controller_connection()
        if self.session is not None:
            wanted.append(session_term(self.session))
        self.report = self._kernel.trace_begin(wanted, options.seconds, options.events, options.rate)
        self._origin = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        self._instance.open(self.report.id)

    def __exit__(self, *exc: object) -> None:
        self._kernel.close()  # ends the trace in the kernel, whatever else fails
        self._instance.close()

    def stop(self) -> None:
        """What has come by now is the last: paths() ends with it. May be called from a signal's handler."""
        self._stopping = True

    def paths(self) -> t.Iterator[Json]:
        """Paths as they are complete, until the trace ends or as many packets have come as were asked for."""
        threader = Threader()
        asked = time.monotonic()
        while not self._stopping:
            yield from self._read(threader, 0.2)
            # Behind in reading, silence of a path means nothing yet.
            now = time.clock_gettime(time.CLOCK_MONOTONIC) if self._instance.drained else self._newest
            yield from self._shown(threader.idle(now))
            if self._enough():
                return
            if time.monotonic() - asked > 0.5:
                asked = time.monotonic()
                self._check_drops(threader)
                self.report = self._kernel.trace_get()
                if self.report.state != "running":
                    self.ended = self.report.state
                    break
        end = time.clock_gettime(time.CLOCK_MONOTONIC)
        for _turn in range(BUFFER_KB):  # what the buffer can hold, and not what goes on coming
            yield from self._read(threader, 0.05)
            if self._instance.drained or self._enough():
                break
        if self.ended == "events":
            end = self._newest
        yield from self._shown(threader.rest(), end)

    def _read(self, threader: Threader, seconds: float) -> t.Iterator[Json]:
        for line in self._instance.lines(seconds):
            event = self._event(line)
            if event is None:
                continue
            self._newest = max(self._newest, event["time"])
            yield from self._shown(threader.add(event))
            if self._enough():
                return

    def _event(self, line: str) -> t.Optional[Json]:
        event = parse_event(line)
        if event is not None and "netns" in event:
            self.namespaces.meet(event["netns"])
            self._meet(event["netns"])
        return event

    def _check_drops(self, threader: Threader) -> None:
        """Other packets' drops may be many: they must not crowd out what was asked for."""
        if threader.unmatched_drops > MAX_DROPS_PER_SECOND and not self._drops_off:
            self._drops_off = True
            self._instance.put("events/skb/kfree_skb/enable", "0")
        threader.unmatched_drops = 0

    def _meet(self, netns: int) -> None:
        """Who stands at the hooks of a namespace, asked once."""
        if netns in self._others:
            return
        table: t.Dict[t.Tuple[str, str], t.List[str]] = {}
        self._others[netns] = table
        rows = hooks_of(self._kernel, self.namespaces.pids.get(netns))
        for row in rows:
            if not row["own"] and row["family"] != "bridge":
                table.setdefault((row["family"], row["hook"]), []).append(who_text(row))
        self.hooks[self.namespaces.names.get(netns, "netns:%d" % netns)] = rows

    def _shown(self, paths: t.Sequence[t.Any], end: t.Optional[float] = None) -> t.Iterator[Json]:
        """`end` is when the trace ended, for what was under way then."""
        for path in paths:
            if self._enough():
                return
            made = self._record(path, end)
            self._join_proxied(made)
            if self._options.dropped and made["outcome"] not in ("dropped", "rejected", "lost"):
                continue
            self._count += 1
            yield made

    def _record(self, path: t.Any, end: t.Optional[float]) -> Json:
        cut = end is not None and end - path.seen < Threader.IDLE
        places = self.namespaces.places(self._others)
        made = journey_record(path, self._count + 1, places, self._origin, cut)
        if made["outcome"] in ENDINGS and not cut:
            # Whose end was not seen may owe that to the trace.
            with contextlib.suppress(BridgewardenError):
                self.report = self._kernel.trace_get()
            if (
                self.report is not None
                and self.report.state == "events"
                and self._newest - path.seen < Threader.IDLE
            ):
                return journey_record(path, self._count + 1, places, self._origin, True)
            if (self.report is not None and self.report.withheld) or self._instance.lost():
                made["sentence"] += "; or events are missing, see the summary"
        return made

    def _join_proxied(self, path: Json) -> None:
        """What docker-proxy sends to a container goes on with what a client sent to docker-proxy."""
        first, last = path["steps"][0], next(s for s in reversed(path["steps"]) if s["event"] == "crossing")
        own = path["conversation"]
        if path["outcome"] == "proxied":
            target = self.namespaces.proxied(first["protocol"], last["to_port"])
            if target:
                self._carried.setdefault(target, path)
        elif first["namespace"] == "host" and first["hook"] == "LOCAL_OUT":
            client = self._carried.get((last["namespace"], last["to_port"]))
            if client is not None and path["outcome"] == "delivered" and own not in self._joined:
                self._joined[own] = client["conversation"]
        if own in self._joined:
            path["conversation"] = self._joined[own]
            path["sentence"] += "; docker-proxy carries this connection for one that came to it"

    def _enough(self) -> bool:
        if self._options.packets and self._count >= self._options.packets:
            self.ended = "packets"
            return True
        return False

    def summary(self) -> Json:
        """How it ended and what is not in the paths; before the trace is closed."""
        with contextlib.suppress(BridgewardenError):
            self.report = self._kernel.trace_get()
        report = self.report or NO_REPORT
        if self._instance.path:
            self._lost = self._instance.lost()
        notes = []
        if report.withheld:
            notes.append(
                "%d events were kept back by the rate of %d a second: paths have gaps; give a narrower filter"
                % (report.withheld, self._options.rate)
            )
        if self._lost:
            notes.append("%d events were lost because the buffer was full: paths have gaps" % self._lost)
        if report.blind:
            notes.append("%d namespaces could not be traced for want of memory" % report.blind)
        if self._drops_off:
            notes.append(
                "the kernel's own drop reasons were switched off: too many other packets are dropped here"
            )
        if report.state == "events":
            notes.append("ended after %d events, its bound" % report.reported)
        if self.session is not None:
            notes.append(
                "the SSH session this trace runs in (%s port %d) is left out; to show it, give --include-session"
                " (include_session of the module)" % (self.session.client, self.session.client_port)
            )
        if self.namespaces.facts is None:
            notes.append("Docker does not answer: namespaces have numbers instead of names")
        return {
            "packets": self._count,
            "events": report.reported,
            "withheld": report.withheld,
            "lost": self._lost,
            "blind": report.blind,
            "ended": self.ended or "stopped",
            "notes": notes,
        }


def run_trace(options: TraceOptions, kernel_factory: t.Callable[[], Kernel] = Kernel) -> Json:
    """A whole trace as one record: what the module returns and --record writes."""
    with Trace(options, kernel_factory) as running:
        paths = list(running.paths())
        return {
            "schema": RECORD_SCHEMA,
            "paths": paths,
            "summary": running.summary(),
            "hooks": running.hooks,
        }


def write_private(path: str, text: str) -> None:
    """A trace tells who talks to whom: for its owner's eyes only, from the first byte on."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(text)
    except OSError as error:
        raise BridgewardenError(
            f"cannot write: {error.strerror}", path, "give a path in a directory that exists"
        )


def read_record(path: str) -> Json:
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except OSError as error:
        raise BridgewardenError(f"cannot read: {error.strerror}", path, "give a file that --record wrote")
    except ValueError as error:
        raise BridgewardenError(f"is no record of a trace: {error}", path, "give a file that --record wrote")
    if not isinstance(record, dict) or record.get("schema") != RECORD_SCHEMA:
        raise BridgewardenError("is no record of a trace of this release", path, "record it again")
    return record
