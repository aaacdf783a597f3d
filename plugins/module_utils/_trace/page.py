# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A trace as an HTML page. Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import html
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.lanes import (
    BAD,
    BOX,
    LANE,
    LEFT,
    ROW,
    TOP,
    Stop,
    stops,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

_STYLE = """
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
"""


def trace_page(record: Json, title: str) -> str:
    """The whole trace as one HTML file."""
    summary = record["summary"]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_e(title)}</h1>",
        '<p class="dim">%d packets, %d events, ended by %s.</p>'
        % (summary["packets"], summary["events"], _e(summary["ended"])),
    ]
    parts += [f'<p class="note">{_e(note)}</p>' for note in summary["notes"]]
    for paths in conversations(record["paths"]):
        parts += _conversation(paths)
    parts += _hook_tables(record["hooks"])
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def conversations(paths: t.Sequence[Json]) -> t.List[t.List[Json]]:
    groups: t.Dict[int, t.List[Json]] = {}
    for path in paths:
        groups.setdefault(path["conversation"], []).append(path)
    return list(groups.values())


def routes(paths: t.Sequence[Json]) -> t.List[t.Tuple[Json, int]]:
    """Packets that went the same way with the same end are one drawing: the first of them, and how many."""
    found: t.Dict[t.Any, t.List[Json]] = {}
    for path in paths:
        key = (
            path["from"],
            path["to"],
            path["sentence"],
            tuple((s.namespace, s.hook, s.device_in, s.device_out) for s in stops(path)),
        )
        found.setdefault(key, []).append(path)
    return [(same[0], len(same)) for same in found.values()]


def _conversation(paths: t.Sequence[Json]) -> t.List[str]:
    first = paths[0]
    parts = [f"<h2>{_e(first['protocol'])} {_e(first['from'])} &rarr; {_e(first['to'])}</h2>"]
    for path, count in routes(paths):
        kind = "bad" if path["outcome"] in BAD else "good"
        many = f" <span class='dim'>&times; {count}</span>" if count > 1 else ""
        back = "back" if path["reply"] or path["from"] != first["from"] else "there"
        parts.append(
            f"<p>{_e(path['detail'])} {_e(path['from'])} &rarr; {_e(path['to'])}{many}: "
            f'<b class="{kind}">{_e(path["sentence"])}</b></p>'
        )
        parts.append(f"<figure>{_drawing(path, back)}</figure>")
    return parts


def _drawing(path: Json, way: str) -> str:
    shown = stops(path)
    names: t.List[str] = []
    for stop in shown:
        if stop.namespace not in names:
            names.append(stop.namespace)
    heights = [ROW + 15 * max(0, len(stop.notes) - 1) for stop in shown]
    width, height = LEFT * 2 + LANE * len(names), TOP + sum(heights) + 24
    bad = path["outcome"] in BAD
    svg = [
        f'<svg role="img" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{_e(path['sentence'])}</title>",
    ]
    for i, name in enumerate(names):
        x = LEFT + i * LANE
        svg.append(
            f'<rect x="{x + 6}" y="6" width="{LANE - 12}" height="{height - 12}" rx="8" style="fill:var(--lane)"/>'
            f'<text x="{x + LANE // 2}" y="28" text-anchor="middle" font-weight="600">{_e(name)}</text>'
        )
    points, y = [], TOP
    boxes = []
    for stop, room in zip(shown, heights):
        x = LEFT + names.index(stop.namespace) * LANE + (LANE - BOX) // 2
        points.append((x + BOX // 2, y + 13))
        boxes += _box(stop, x, y)
        y += room
    line = " ".join(f"{x},{y}" for x, y in points)
    svg.append(
        f'<polyline class="way" points="{line}" style="fill:none;stroke:var(--{way});stroke-width:3"/>'
    )
    svg += boxes
    x, y = points[-1]
    svg.append(_end_mark(x + BOX // 2 - 11, y, bad))
    svg.append("</svg>")
    return "".join(svg)


def _box(stop: Stop, x: int, y: int) -> t.List[str]:
    stroke = "bad" if any(bad for _words, bad in stop.notes) else "line"
    parts = [
        f'<rect x="{x}" y="{y}" width="{BOX}" height="26" rx="5" '
        f'style="fill:var(--paper);stroke:var(--{stroke});stroke-width:1.5"/>',
        f'<text x="{x + BOX // 2}" y="{y + 18}" text-anchor="middle">{_e(stop.hook)}</text>',
    ]
    for device, at, anchor in ((stop.device_in, x - 4, "end"), (stop.device_out, x + BOX + 4, "start")):
        if device:
            parts.append(
                f'<text class="dim" font-size="11" x="{at}" y="{y + 17}" text-anchor="{anchor}">{_e(device)}</text>'
            )
    for i, (words, bad) in enumerate(stop.notes):
        kind = "bad" if bad else "dim"
        short = words if len(words) <= 52 else words[:51] + "\u2026"
        parts.append(
            f'<text class="{kind} said" font-size="11" x="{x - (LANE - BOX) // 2 + 16}" y="{y + 39 + 15 * i}">{_e(short)}'
            f"<title>{_e(words)}</title></text>"
        )
    return parts


def _end_mark(x: int, y: int, bad: bool) -> str:
    if bad:
        return f'<path d="M{x - 6},{y - 6}l12,12m0,-12l-12,12" style="stroke:var(--bad);stroke-width:3.5;fill:none"/>'
    return f'<circle cx="{x}" cy="{y}" r="6" style="fill:var(--good)"/>'


def _hook_tables(hooks: t.Mapping[str, t.Sequence[Json]]) -> t.List[str]:
    parts = ["<h2>Who stands at the hooks, in order</h2>"] if any(hooks.values()) else []
    for name, rows in sorted(hooks.items()):
        if not rows:
            continue
        parts.append(f"<details><summary>{_e(name)}</summary><table>")
        parts.append("<tr><th>hook</th><th>priority</th><th>function</th><th>module</th></tr>")
        for row in rows:
            own = ' class="own"' if row["own"] else ""
            parts.append(
                f"<tr{own}><td>{_e(row['family'])} {_e(row['hook'])}</td><td>{row['priority']}</td>"
                f"<td>{_e(row['function'])}</td><td>{_e(row['module'])}</td></tr>"
            )
        parts.append("</table></details>")
    return parts


def _e(words: t.Any) -> str:
    return html.escape(str(words), quote=True)
