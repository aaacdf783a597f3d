# SPDX-License-Identifier: GPL-3.0-or-later
"""The plot shows every engine that was measured, longer where it costs more."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from bench import plot


def row(engine: str, over: int, family: int = 4, flow: str = "established") -> dict[str, Any]:
    return {"engine": engine, "family": family, "flow": flow, "over_base": over}


def test_bars() -> None:
    rows = [
        row("base", 0),
        row("ours", 150),
        row("ours", 165, 6),
        row("slow & dear", 26_000),
        row("ours", 9, flow="new"),
    ]
    tree = ElementTree.fromstring(plot.svg(rows))
    space = "{http://www.w3.org/2000/svg}"
    bars = [
        float(bar.get("width", "")) for bar in tree.iter(space + "rect") if bar.get("height") == str(plot.BAR)
    ]
    assert len(bars) == 3 and bars[0] < bars[1] < bars[2] < plot.WIDTH
    said = [text.text for text in tree.iter(space + "text")]
    assert {"ours", "slow & dear", "150", "165", "26,000"} <= set(said) and "base" not in said
