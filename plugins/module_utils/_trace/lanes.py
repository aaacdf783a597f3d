# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A path to look at: its stops at hooks, and swim-lanes of them for the terminal.

Takes the records of journeys only.  Who prints the lines makes foreign text in
them harmless.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import end_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: (words, "good" or "bad" or "dim") to the words as they are shown.
Paint = t.Callable[[str, str], str]
BAD = ("dropped", "rejected", "lost", "refused")


class Stop(t.NamedTuple):
    """A hook as it is shown: its two crossings and what was decided between them."""

    namespace: str
    hook: str
    device_in: str
    device_out: str
    notes: t.List[t.Tuple[str, bool]]  # (words, bad)


def stops(path: Json) -> t.List[Stop]:
    shown: t.List[Stop] = []
    last: t.Optional[Json] = None
    for step in path["steps"]:
        if step["event"] == "crossing":
            notes = _changes(last, step)
            if not (
                last
                and (last["netns"], last["hook"], step["position"]) == (step["netns"], step["hook"], "last")
            ):
                shown.append(Stop(step["namespace"], step["hook"], step["in"] or "", step["out"] or "", []))
            shown[-1].notes.extend((note, False) for note in notes)
            last = step
        elif shown and step["event"] == "verdict":
            shown[-1].notes.append(_verdict_note(step))
        elif shown and step["event"] == "drop" and path["outcome"] in BAD:
            words = ": ".join(word for word in (step["reason"], step["location"]) if word)
            shown[-1].notes.append(("freed: " + words if words else "freed", True))
    return shown


def _changes(before: t.Optional[Json], after: Json) -> t.List[str]:
    if before is None:
        return []
    return [
        f"{word} now {end_text(after, side)}"
        for side, word in (("from", "source"), ("to", "destination"))
        if end_text(before, side) != end_text(after, side)
    ]


def _verdict_note(step: Json) -> t.Tuple[str, bool]:
    by = f'rule "{step["rule"]}"' if step["rule"] else step["reason"]
    audit = "audit: " if step["audit"] else ""
    return f"{audit}{step['action']} by {by}", step["action"] in ("deny", "reject") and not step["audit"]


def lanes(path: Json, width: int, paint: Paint) -> t.List[str]:
    """One lane a namespace, in the order in which the packet comes by."""
    shown = stops(path)
    names: t.List[str] = []
    for stop in shown:
        if stop.namespace not in names:
            names.append(stop.namespace)
    room = max(18, min(44, (width - 2) // max(1, len(names)) - 2))
    clock = time.strftime("%H:%M:%S", time.localtime(path["time"]))
    part = ("%.6f" % (path["time"] % 1))[1:]
    lines = [
        paint("#%d %s%s " % (path["id"], clock, part), "dim")
        + f"{path['detail']} {path['from']} -> {path['to']}",
        "  " + "  ".join(paint(_fit(name, room), "good") for name in names).rstrip(),
    ]
    for stop in shown:
        through = " > ".join(device for device in (stop.device_in, stop.device_out) if device)
        lines.append(_row(names.index(stop.namespace), f"{stop.hook} {through}", room, "", paint))
        for words, bad in stop.notes:
            lines.append(
                _row(names.index(stop.namespace), "  " + words, room, "bad" if bad else "dim", paint)
            )
    good = path["outcome"] not in BAD
    lines.append("  = " + paint(path["sentence"], "good" if good else "bad"))
    return lines


def _row(lane: int, words: str, room: int, colour: str, paint: Paint) -> str:
    cells = "  " + ("|".ljust(room + 2) * lane)
    return cells + (paint(words, colour) if colour else words)


def _fit(words: str, room: int) -> str:
    return words.ljust(room) if len(words) <= room else words[: room - 1] + "~"
