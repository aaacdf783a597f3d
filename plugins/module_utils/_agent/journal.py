# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent tells systemd: lines with fields for the journal, readiness, the watchdog.

Speaks the journal's own datagrams where the journal reads our stderr, and
writes the same lines to stderr elsewhere.  What is logged is words of our own
and names; never a label, an environment or another value out of Docker's answers.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import socket
import struct
import sys
import traceback
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable

JOURNAL = "/run/systemd/journal/socket"
IDENTIFIER = "bridgewarden"
FIELD_PREFIX = "BRIDGEWARDEN_"

#: A datagram to the journal is bounded by the socket's buffer; what is longer than this is cut.
MAX_FIELD_BYTES = 16 * 1024


class Log:
    """Lines with a priority and fields; the same trouble is told once."""

    def __init__(self, stream: t.Optional[t.TextIO] = None, journal: str = JOURNAL) -> None:
        self.stream = stream
        self._reported: t.Set[str] = set()
        self._journal = journal if stream is None and reads_our_stderr() else ""

    def write(self, priority: int, text: str, **fields: t.Any) -> None:
        text = printable(text)
        if not (self._journal and self._send(priority, text, fields)):
            stream = self.stream or sys.stderr
            stream.write("<%d>%s\n" % (priority, text))
            stream.flush()

    def info(self, text: str, **fields: t.Any) -> None:
        self.write(6, text, **fields)

    def warning(self, text: str, **fields: t.Any) -> None:
        self.write(4, text, **fields)

    def error(self, text: str, **fields: t.Any) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self.write(3, text, **fields)

    def recovered(self) -> None:
        if self._reported:
            self._reported.clear()
            self.write(5, "all is well again")

    def _send(self, priority: int, text: str, fields: t.Mapping[str, t.Any]) -> bool:
        pairs = [("MESSAGE", text), ("PRIORITY", "%d" % priority), ("SYSLOG_IDENTIFIER", IDENTIFIER)]
        pairs += [(FIELD_PREFIX + name.upper(), str(value)) for name, value in fields.items()]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(2.0)  # a journal that does not read must not hold up the rules
                channel.sendto(b"".join(journal_field(*pair) for pair in pairs), self._journal)
        except OSError:
            return False
        return True


def internal_error(error: Exception, where: str) -> t.Tuple[str, t.Dict[str, str]]:
    """An internal error in words, with its place, and the journal's fields for it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = "%s:%s in %s" % (os.path.basename(last.filename), last.lineno, last.name)
    text = f"a mistake in {where}, {type(error).__name__}: {error} ({place}): report it; the rules stay"
    return text, {
        "error_kind": "mistake",
        "traceback": "".join(traceback.format_tb(error.__traceback__)),
    }


T = t.TypeVar("T")


class FaultBarrier:
    """Runs what must not end its caller: whatever it raises is logged, each text once until it succeeds again."""

    MAX_TEXTS = 100

    def __init__(self, log: Log, what: str) -> None:
        self._log = log
        self._what = what
        self._told: t.Set[str] = set()

    def __call__(self, act: t.Callable[[], T], otherwise: T) -> T:
        """What `act` returns, or `otherwise`. A false value is no success: it had nothing to do."""
        try:
            found = act()
        except Exception as error:
            self.report(error)
            return otherwise
        if found and self._told:
            self._told.clear()
            self._log.write(5, f"{self._what} are all right again")
        return found

    def report(self, error: Exception, after: str = "") -> None:
        fields: t.Dict[str, t.Any]
        if isinstance(error, BridgewardenError):
            priority, text = 4, error.text()
            fields = {"error_kind": error.kind, "error_code": error.exit_code}
        else:
            priority = 3
            text, fields = internal_error(error, self._what)
        if text not in self._told and len(self._told) < self.MAX_TEXTS:
            self._told.add(text)
            self._log.write(priority, text + after, **fields)


def journal_field(name: str, value: str) -> bytes:
    """One field as the journal takes it; a value of several lines goes with its length."""
    content = value.encode("utf-8", "replace")[:MAX_FIELD_BYTES]
    if b"\n" in content:
        return name.encode("ascii") + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
    return name.encode("ascii") + b"=" + content + b"\n"


def reads_our_stderr() -> bool:
    """Whether the journal does, by what systemd says in JOURNAL_STREAM."""
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM", "") == "%d:%d" % (status.st_dev, status.st_ino)


def sd_notify(*lines: str) -> None:
    """Tells systemd; does nothing where systemd did not ask."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.settimeout(2.0)  # a systemd that does not listen must not hold up the rules
        try:
            channel.connect(address)
            channel.sendall("\n".join(map(printable, lines)).encode("utf-8"))
        except OSError:
            pass  # systemd is about to notice by itself


def watchdog_interval() -> t.Optional[float]:
    """Half of what systemd allows, in seconds."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None
