# SPDX-License-Identifier: GPL-3.0-or-later
"""The plot of a run: a bar an engine, instructions over no firewall on a logarithmic scale, established packets of both families."""

from __future__ import annotations

import math
from typing import Any
from xml.sax.saxutils import escape

ROW, BAR, LEFT, WIDTH, TOP = 34, 11, 290, 560, 64
COLOUR = {4: "#2f6db5", 6: "#8fb8de"}
OWN = {4: "#2e7d32", 6: "#9ccc9c"}
STYLE = "font-family='DejaVu Sans, sans-serif' font-size='12' fill='#222'"


def position(value: float, most: float) -> float:
    """Of a value on the axis; below 10 all is 10."""
    return WIDTH * (math.log10(max(value, 10)) - 1) / (math.log10(most) - 1)


def shown(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a bar: none where a plan measures no routed packet."""
    return [row for row in rows if row["flow"] == "established" and (row["over_base"] or 0) > 0]


def svg(rows: list[dict[str, Any]]) -> str:
    """As a whole file, of one row at least that is shown."""
    wanted = shown(rows)
    engines = list(dict.fromkeys(row["engine"] for row in wanted))
    most = 10 ** math.ceil(math.log10(max(row["over_base"] for row in wanted)))
    height = TOP + ROW * len(engines) + 20
    text = f"<text {STYLE} "
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{LEFT + WIDTH + 90}' height='{height}'>",
        "<rect width='100%' height='100%' fill='white'/>",
        f"{text} x='10' y='20' font-weight='bold'>Instructions per established packet, more than without a firewall</text>",
        f"{text} x='10' y='38'>dark: IPv4, light: IPv6; green: bridgewarden. Logarithmic.</text>",
    ]
    for power in range(1, round(math.log10(most)) + 1):
        x = LEFT + position(10**power, most)
        parts.append(f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{TOP - 6}' y2='{height - 16}' stroke='#ddd'/>")
        parts.append(f"{text} x='{x:.1f}' y='{TOP - 10}' text-anchor='middle'>{10**power:,}</text>")
    for number, engine in enumerate(engines):
        y = TOP + ROW * number
        parts.append(f"{text} x='{LEFT - 8}' y='{y + BAR + 6}' text-anchor='end'>{escape(engine)}</text>")
        for row in wanted:
            if row["engine"] != engine:
                continue
            top = y + (BAR + 1) * (row["family"] == 6)
            length = position(row["over_base"], most)
            colour = (OWN if "bridgewarden" in engine else COLOUR)[row["family"]]
            parts.append(
                f"<rect x='{LEFT}' y='{top}' width='{length:.1f}' height='{BAR}' fill='{colour}'/>"
                f"{text} x='{LEFT + length + 5:.1f}' y='{top + BAR - 1}'>{row['over_base']:,}</text>"
            )
    return "\n".join([*parts, "</svg>", ""])
