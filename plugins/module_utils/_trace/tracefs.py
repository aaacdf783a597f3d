# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A tracefs instance of our own, from which the events of one trace are read.

Nobody but its maker ends an instance, so it is kept as short-lived as can be:
one a trace, removed at the end, by an heir where its maker is killed, and at
the next start where even that failed.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    KernelError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import read_text

TRACEFS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
INSTANCE_PREFIX = "bridgewarden-"
BUFFER_KB = 4096  # of each CPU
#: Of the pipe, before anything else gets its turn: more may come than can be read.
MAX_READS = 256


def tracefs() -> str:
    for path in TRACEFS:
        if os.path.isdir(os.path.join(path, "instances")):
            return path
    raise BridgewardenError(
        "tracefs is not mounted, or its instances are not allowed",
        TRACEFS[0],
        "mount it: mount -t tracefs tracefs /sys/kernel/tracing (as root; not in lockdown mode confidentiality)",
    )


def _remove(instance: str) -> None:
    for name in ("events/bridgewarden/enable", "events/skb/kfree_skb/enable"):
        with (
            contextlib.suppress(OSError),
            open(os.path.join(instance, name), "w", encoding="ascii") as handle,
        ):
            handle.write("0")
    with contextlib.suppress(OSError):
        os.rmdir(instance)


def _start_cleaner(instance: str) -> t.Tuple[int, int]:
    """A process that removes the instance should this one be killed, and the pipe whose end it waits for."""
    held_end, ours = os.pipe()
    pid = os.fork()
    if pid:
        os.close(held_end)
        return pid, ours
    # Nothing of ours may live on in it: not the trace's socket, nor a pipe that somebody waits at.
    try:
        os.setsid()
        os.dup2(held_end, 0)
        for name in os.listdir("/proc/self/fd"):
            if name != "0":
                with contextlib.suppress(OSError):
                    os.close(int(name))
        os.read(0, 1)
        _remove(instance)
    finally:
        os._exit(0)


class Instance:
    """A tracefs instance of our own: nobody else's settings are touched, nobody else reads our events."""

    def __init__(self, top: t.Optional[str] = None) -> None:
        self._top = top or tracefs()
        if not os.path.isdir(os.path.join(self._top, "events", "bridgewarden")):
            raise BridgewardenError(
                "the kernel module has no trace events here",
                self._top + "/events/bridgewarden",
                "load a module of this release; a kernel without CONFIG_EVENT_TRACING, or one that was forced "
                "to load the module, cannot trace",
            )
        self.path = ""
        self._pipe = -1
        self._heir = self._leash = -1
        self._rest = b""
        self.drained = True

    def open(self, trace: int, drops: bool = True) -> None:
        self._sweep()
        self.path = os.path.join(self._top, "instances", "%s%d-%d" % (INSTANCE_PREFIX, os.getpid(), trace))
        try:
            os.mkdir(self.path, 0o700)
        except OSError as error:
            self.path = ""
            raise KernelError(
                f"no tracefs instance: {os.strerror(error.errno or 0)}",
                self._top,
                "free memory",
                error.errno or 0,
            )
        self.put("trace_clock", "mono")
        if self._alone():
            # The names of processes cost probes in the scheduler, and no packet needs them.
            with contextlib.suppress(OSError):
                self.put("trace_options", "norecord-cmd")
        self.put("buffer_size_kb", str(BUFFER_KB))
        self.put("events/bridgewarden/filter", "trace == %d" % trace)
        self.put("events/bridgewarden/enable", "1")
        if drops and os.path.isdir(os.path.join(self.path, "events/skb/kfree_skb")):
            self.put("events/skb/kfree_skb/filter", "protocol == 0x0800 || protocol == 0x86dd")
            self.put("events/skb/kfree_skb/enable", "1")
        self._pipe = os.open(
            os.path.join(self.path, "trace_pipe"), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        )

    def put(self, name: str, text: str) -> None:
        with open(os.path.join(self.path, name), "w", encoding="ascii") as handle:
            handle.write(text)

    def lines(self, seconds: float) -> t.Iterator[str]:
        """What has come, waiting so long for the first of it; `drained` is whether that was all."""
        select.select([self._pipe], [], [], seconds)
        self.drained = False
        for _turn in range(MAX_READS):
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                data = b""
            if not data:
                self.drained = True
                return
            whole = (self._rest + data).split(b"\n")
            self._rest = whole.pop()
            for line in whole:
                yield line.decode("utf-8", "replace")

    def lost(self) -> int:
        """Events that the buffer had no room for."""
        total = 0
        for cpu in os.listdir(os.path.join(self.path, "per_cpu")):
            text = read_text(os.path.join(self.path, "per_cpu", cpu, "stats")) or ""
            total += sum(
                int(n) for n in re.findall(r"^(?:overrun|commit overrun|dropped events): (\d+)$", text, re.M)
            )
        return total

    def close(self) -> None:
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1
        if self.path:
            _remove(self.path)
            self.path = ""
        if self._leash >= 0:
            os.close(self._leash)
            os.waitpid(self._heir, 0)
            self._leash = -1

    def _alone(self) -> bool:
        """Whether nobody else traces: to some kernels that option is of all instances."""
        others = [
            name
            for name in os.listdir(os.path.join(self._top, "instances"))
            if not name.startswith(INSTANCE_PREFIX)
        ]
        return not others and not read_text(os.path.join(self._top, "set_event"))

    def _sweep(self) -> None:
        for name in os.listdir(os.path.join(self._top, "instances")):
            owner = re.fullmatch(re.escape(INSTANCE_PREFIX) + r"(\d+)-\d+", name)
            if owner and not os.path.exists("/proc/%s" % owner.group(1)):
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.join(self._top, "instances", name))

    def __enter__(self) -> Instance:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
