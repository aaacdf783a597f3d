# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the commands print: records, tables, colours and exit codes.

Names of containers, links, processes and rules are foreign text.  Everything that
goes to the terminal goes through say(), say_json() or warn(), which let no control
character of theirs through.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable

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
EXIT_NOT_WELL = 10
EXIT_USAGE = 64
#: Stands around a control sequence of ours in a line until say() writes it. Random, so that no name can hold it.
_MARK = os.urandom(16).hex()


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


def control(sequence: str) -> str:
    """A control sequence of ours, which say() sends to the terminal as it is."""
    return f"{_MARK}{sequence}{_MARK}"


def paint(word: str, code: str) -> str:
    """In colour where somebody looks; NO_COLOR is respected."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return word
    return control(f"\033[{code}m") + word + control("\033[0m")


def in_green(word: str) -> str:
    return paint(word, "32")


def in_red(word: str) -> str:
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
    sys.stderr.write("bridgewarden: %s\n" % printable(text))


def say(*lines: str) -> None:
    """Print lines for the operator; not print(), which ansible-test rightly forbids in what modules import as well."""
    for line in lines:
        parts = line.split(_MARK)
        parts[::2] = map(printable, parts[::2])  # every other part is a control()
        sys.stdout.write("".join(parts) + "\n")


def say_json(record: t.Any, indent: t.Optional[int] = None) -> None:
    """Print a record for scripts, exact: JSON escapes control characters by itself."""
    sys.stdout.write(json.dumps(record, indent=indent, sort_keys=True) + "\n")
