# SPDX-License-Identifier: GPL-3.0-or-later
"""Without us: every pair that will be denied is open, and what a start costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conftest import ALLOWED, DENIED, STARTS, always_open


def test_every_pair_is_open(life: Any, watch: Callable[..., Any]) -> None:
    """So that silence later is the rules' doing."""
    found = life.watched(watch().tried(6).since)
    assert set(found) == {row["id"] for row in ALLOWED + DENIED}
    shut = {name: row for name, row in found.items() if not always_open(row)}
    assert not shut, shut


def test_starts(life: Any, record: Callable[..., None]) -> None:
    life.watch([])
    figures = life.starts(STARTS)
    assert figures["until_open"]["n"] == STARTS
    record("starts-without", **figures)
