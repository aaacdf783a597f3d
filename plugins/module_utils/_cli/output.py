# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the commands print: records, tables, colours and exit codes.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import typing as t

EXIT_CODES = """\
exit codes:
  0   all is well
  1   other error
  2   the policy is wrong
  3   refused, it would cut somebody off
  4   Docker does not answer, or a Python library is missing
  5   the kernel module is not loaded, or speaks another version
  6   no permission
  7   the kernel refused (stale generation, busy, sealed)
  8   a file of bridgewarden's is damaged
  9   another writer holds the lock
  10  status, ready: the module is loaded, but not all is well
  64  wrong usage
"""
NOT_WELL = 10
USAGE = 64


class Reply(t.NamedTuple):
    record: t.Any
    lines: t.List[str]
    code: int = 0
    said: bool = False  # line by line already


# Text for people.


def table_lines(rows: t.Sequence[t.Sequence[t.Any]], head: t.Sequence[str]) -> t.List[str]:
    """Columns as wide as they must be; numbers to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(title)] + [len(row[i]) for row in texts]) for i, title in enumerate(head)]
    right = [bool(rows) and all(isinstance(row[i], int) for row in rows) for i in range(len(head))]

    def line(cells: t.Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(cells, widths, right)
        ]
        return "  ".join(parts).rstrip()

    return [line([title.upper() for title in head])] + [line(row) for row in texts]


def paint(word: str, code: str) -> str:
    """In colour where somebody looks; NO_COLOR is respected."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return word
    return f"\033[{code}m{word}\033[0m"


def good(word: str) -> str:
    return paint(word, "32")


def bad(word: str) -> str:
    return paint(word, "1;31")


def link_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return "#%d" % index


@contextlib.contextmanager
def on_signals(stop: t.Callable[[], None]) -> t.Iterator[None]:
    """Of an operator, or of a session that dies: what there is by now is still told, and the buffers go."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda _number, _frame: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def warn(text: str) -> None:
    sys.stderr.write("bridgewarden: %s\n" % text)


def say(text: str) -> None:
    """Print for the operator; not print(), which ansible-test rightly forbids in what modules import as well."""
    sys.stdout.write(text + "\n")
