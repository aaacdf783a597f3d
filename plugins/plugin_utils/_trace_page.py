# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A trace's record as an HTML page: one file without scripts and without anything from elsewhere.

Runs on the controller.  The record comes from a host, which may be hostile: only the
keys named here are read, numbers must be numbers, and the template escapes every text.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

import jinja2
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    Path,
    path_text,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import RECORD_SCHEMA
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.lanes import BAD, Stop, stops
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Pixels. A lane holds a hook between two devices with names as long as the kernel has them.
LANE, ROW, BOX, TOP, LEFT = 360, 58, 136, 44, 24
#: Characters of a note; the whole of it is in its tooltip.
NOTE_LENGTH = 52

# What is read of a record; everything else in it is ignored.


class OrNone(t.NamedTuple):
    kind: t.Any


class Each(t.NamedTuple):
    """A list, or with `keyed` a mapping with texts for keys, of values of one kind."""

    kind: t.Any
    keyed: bool = False


class Event(t.NamedTuple):
    """A mapping whose key `event` says which keys it has."""

    kinds: t.Mapping[str, t.Mapping[str, t.Any]]


STEP = Event(
    {
        "crossing": {
            "netns": int, "namespace": str, "hook": str, "position": str, "in": OrNone(str), "out": OrNone(str),
            "from": str, "to": str, "from_port": OrNone(int), "to_port": OrNone(int),
        },
        "verdict": {"action": str, "rule": str, "reason": str, "audit": bool},
        "drop": {"reason": str, "location": str},
    }
)  # fmt: skip
RECORD = {
    "schema": int,
    "paths": Each(
        {
            "conversation": int, "protocol": str, "detail": str, "from": str, "to": str, "reply": bool, "outcome": str,
            "sentence": str, "steps": Each(STEP),
        }
    ),
    "summary": {"packets": int, "events": int, "ended": str, "notes": Each(str)},
    "hooks": Each(
        Each({"family": str, "hook": str, "priority": int, "function": str, "module": str, "own": bool}), keyed=True
    ),
}  # fmt: skip
_NAMES = {int: "a whole number", str: "a text", bool: "true or false"}


def checked_record(record: t.Any) -> Json:
    """The record with the keys of RECORD alone; raises BridgewardenError where it has another shape."""
    made: Json = _checked(record, RECORD, ())
    if made["schema"] != RECORD_SCHEMA:
        raise _wrong(("schema",), f"is not {RECORD_SCHEMA}")
    return made


def _checked(value: t.Any, kind: t.Any, path: Path) -> t.Any:
    if isinstance(kind, OrNone):
        return None if value is None else _checked(value, kind.kind, path)
    if isinstance(kind, Each) and not kind.keyed:
        if isinstance(value, str) or not isinstance(value, t.Sequence):
            raise _wrong(path, "is no list")
        return [_checked(item, kind.kind, (*path, index)) for index, item in enumerate(value)]
    if kind in (int, str, bool):
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise _wrong(path, f"is not {_NAMES[kind]}")
        return printable(value) if kind is str else kind(value)
    if not isinstance(value, t.Mapping):
        raise _wrong(path, "is no mapping")
    if isinstance(kind, Each):
        return {
            _checked(key, str, path): _checked(value[key], kind.kind, (*path, printable(str(key))))
            for key in value
        }
    if isinstance(kind, Event):
        event = value.get("event")
        if not isinstance(event, str) or event not in kind.kinds:
            raise _wrong((*path, "event"), f"is none of {', '.join(kind.kinds)}")
        return {"event": event, **_checked(value, kind.kinds[event], path)}
    for key in kind:
        if key not in value:
            raise _wrong((*path, key), "is missing")
    return {key: _checked(value[key], kind[key], (*path, key)) for key in kind}


def _wrong(path: Path, words: str) -> BridgewardenError:
    where = path_text(path)
    return BridgewardenError(
        f"the record of the trace {'has another shape: ' + where + ' ' if path else ''}{words}",
        where or "record",
        "give what bridgewarden.docker.trace returned, or what `bridgewarden trace --record` of this release wrote",
    )


# What is drawn.


class Box(t.NamedTuple):
    """A hook with its place."""

    stop: Stop
    x: int
    y: int
    bad: bool


class Drawing(t.NamedTuple):
    """One packet's way through the lanes of its namespaces."""

    width: int
    height: int
    lanes: t.List[t.Tuple[int, str]]  # (x, namespace)
    boxes: t.List[Box]
    points: t.List[t.Tuple[int, int]]


class Route(t.NamedTuple):
    """A drawing and the packets that it stands for: the first of them, and how many."""

    path: Json
    packets: int
    bad: bool
    way: str
    drawing: t.Optional[Drawing]  # none where the packet crossed no hook


def conversations(paths: t.Sequence[Json]) -> t.List[t.List[Json]]:
    """The paths by their conversation, in the order in which these began."""
    groups: t.Dict[int, t.List[Json]] = {}
    for path in paths:
        groups.setdefault(path["conversation"], []).append(path)
    return list(groups.values())


def routes(paths: t.Sequence[Json]) -> t.List[Route]:
    """Packets that went the same way with the same end are one drawing."""
    found: t.Dict[t.Any, t.List[Json]] = {}
    for path in paths:
        key = (
            path["from"],
            path["to"],
            path["sentence"],
            tuple((s.namespace, s.hook, s.device_in, s.device_out) for s in stops(path)),
        )
        found.setdefault(key, []).append(path)
    return [_route(same[0], len(same), paths[0]["from"]) for same in found.values()]


def _route(path: Json, count: int, client: str) -> Route:
    back = path["reply"] or path["from"] != client
    return Route(path, count, path["outcome"] in BAD, "back" if back else "there", drawing(stops(path)))


def drawing(shown: t.Sequence[Stop]) -> t.Optional[Drawing]:
    """The places of the hooks, one lane a namespace, from above to below in time."""
    if not shown:
        return None
    names = list(dict.fromkeys(stop.namespace for stop in shown))
    boxes: t.List[Box] = []
    y = TOP
    for stop in shown:
        x = LEFT + names.index(stop.namespace) * LANE + (LANE - BOX) // 2
        boxes.append(Box(stop, x, y, any(bad for _words, bad in stop.notes)))
        y += ROW + 15 * max(0, len(stop.notes) - 1)
    return Drawing(
        LEFT * 2 + LANE * len(names),
        y + 24,
        [(LEFT + i * LANE, name) for i, name in enumerate(names)],
        boxes,
        [(box.x + BOX // 2, box.y + 13) for box in boxes],
    )


def trace_page(record: t.Any, title: str) -> str:
    """The whole trace as one HTML file; raises BridgewardenError where the record has another shape."""
    shown = checked_record(record)
    return _TEMPLATE.render(
        title=printable(title),
        summary=shown["summary"],
        conversations=[(paths[0], routes(paths)) for paths in conversations(shown["paths"])],
        hooks=[(name, rows) for name, rows in sorted(shown["hooks"].items()) if rows],
        lane=LANE,
        box=BOX,
        note_length=NOTE_LENGTH,
    )


# The template. Whatever stands in {{ }} is escaped; the numbers in it were computed here.

_PAGE = """\
{% macro place(box_) %}
{% set stop, x, y = box_.stop, box_.x, box_.y %}
<rect x="{{ x }}" y="{{ y }}" width="{{ box }}" height="26" rx="5" \
style="fill:var(--paper);stroke:var(--{{ 'bad' if box_.bad else 'line' }});stroke-width:1.5"/>
<text x="{{ x + box // 2 }}" y="{{ y + 18 }}" text-anchor="middle">{{ stop.hook }}</text>
{% for device, at, anchor in ((stop.device_in, x - 4, 'end'), (stop.device_out, x + box + 4, 'start')) if device %}
<text class="dim" font-size="11" x="{{ at }}" y="{{ y + 17 }}" text-anchor="{{ anchor }}">{{ device }}</text>
{% endfor %}
{% for words, bad in stop.notes %}
<text class="{{ 'bad' if bad else 'dim' }} said" font-size="11" x="{{ x - (lane - box) // 2 + 16 }}" \
y="{{ y + 39 + 15 * loop.index0 }}">{{ words if words | length <= note_length else words[:note_length - 1] ~ '\u2026' }}\
<title>{{ words }}</title></text>
{% endfor %}
{% endmacro %}
{% macro figure(route) %}
{% set drawn = route.drawing %}
<figure><svg role="img" width="{{ drawn.width }}" height="{{ drawn.height }}" \
viewBox="0 0 {{ drawn.width }} {{ drawn.height }}">
<title>{{ route.path.sentence }}</title>
{% for x, name in drawn.lanes %}
<rect x="{{ x + 6 }}" y="6" width="{{ lane - 12 }}" height="{{ drawn.height - 12 }}" rx="8" style="fill:var(--lane)"/>
<text x="{{ x + lane // 2 }}" y="28" text-anchor="middle" font-weight="600">{{ name }}</text>
{% endfor %}
<polyline class="way" points="{% for x, y in drawn.points %}{{ x }},{{ y }} {% endfor %}" \
style="fill:none;stroke:var(--{{ route.way }});stroke-width:3"/>
{% for box_ in drawn.boxes %}
{{ place(box_) -}}
{% endfor %}
{% set x, y = drawn.points[-1][0] + box // 2 - 11, drawn.points[-1][1] %}
{% if route.bad %}
<path d="M{{ x - 6 }},{{ y - 6 }}l12,12m0,-12l-12,12" style="stroke:var(--bad);stroke-width:3.5;fill:none"/>
{% else %}
<circle cx="{{ x }}" cy="{{ y }}" r="6" style="fill:var(--good)"/>
{% endif %}
</svg></figure>
{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{{ title }}</title><style>
:root{--ink:#1c2430;--dim:#66707f;--paper:#fff;--lane:#f3f5f8;--line:#c9d1db;--there:#1769aa;--back:#7a4fb5;--bad:#c62828;
--good:#2e7d32}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaf0;--dim:#9aa5b4;--paper:#14181e;--lane:#1d232b;--line:#3a4450;
--there:#64b5f6;--back:#b39ddb;--bad:#ef6c6c;--good:#81c784}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:2rem auto;max-width:78rem;padding:0 1rem}
h1{font-size:1.4rem}h2{font-size:1.05rem;margin:2.2rem 0 .3rem}
.note{color:var(--bad)}.dim{color:var(--dim)}.bad{color:var(--bad)}.good{color:var(--good)}
figure{margin:0;overflow-x:auto}svg{display:block;font:13px system-ui,sans-serif}
svg text{fill:var(--ink)}svg .dim{fill:var(--dim)}svg .bad{fill:var(--bad)}
svg .said{paint-order:stroke;stroke:var(--lane);stroke-width:5px}
table{border-collapse:collapse;font-size:.9rem}td,th{text-align:left;padding:.15rem .8rem .15rem 0;border-bottom:1px solid var(--line)}
.own{font-weight:600}
</style></head><body>
<h1>{{ title }}</h1>
<p class="dim">{{ summary.packets }} packets, {{ summary.events }} events, ended by {{ summary.ended }}.</p>
{% for note in summary.notes %}
<p class="note">{{ note }}</p>
{% endfor %}
{% for first, routes in conversations %}
<h2>{{ first.protocol }} {{ first.from }} &rarr; {{ first.to }}</h2>
{% for route in routes %}
{% set path = route.path %}
<p>{{ path.detail }} {{ path.from }} &rarr; {{ path.to }}\
{% if route.packets > 1 %} <span class="dim">&times; {{ route.packets }}</span>{% endif %}: \
<b class="{{ 'bad' if route.bad else 'good' }}">{{ path.sentence }}</b></p>
{% if route.drawing %}
{{ figure(route) -}}
{% endif %}
{% endfor %}
{% endfor %}
{% if hooks %}
<h2>Who stands at the hooks, in order</h2>
{% endif %}
{% for name, rows in hooks %}
<details><summary>{{ name }}</summary><table>
<tr><th>hook</th><th>priority</th><th>function</th><th>module</th></tr>
{% for row in rows %}
<tr{% if row.own %} class="own"{% endif %}><td>{{ row.family }} {{ row.hook }}</td><td>{{ row.priority }}</td>\
<td>{{ row.function }}</td><td>{{ row.module }}</td></tr>
{% endfor %}
</table></details>
{% endfor %}
</body></html>
"""
_TEMPLATE = jinja2.Environment(
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
).from_string(_PAGE)
