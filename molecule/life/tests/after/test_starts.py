# SPDX-License-Identifier: GPL-3.0-or-later
"""What a start costs with us, beside what it cost before; and what the agent costs while nothing happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from conftest import STARTS


def test_every_pair_is_as_the_rules_say(life: Any, watch: Callable[..., Any]) -> None:
    life.until_known()
    watch().tried(6).all_open()


def test_starts(life: Any, record: Callable[..., None]) -> None:
    life.watch([])
    figures = life.starts(STARTS)
    record("starts-with", **figures)
    assert figures["until_open"]["n"] == STARTS
    assert figures["until_open"]["p99_ms"] < 10_000  # of an emulated processor


def test_an_idle_agent(life: Any, record: Callable[..., None]) -> None:
    """A minute, so that its check for strangers' changes is in it."""
    life.watch([])
    share = life.idle(62)
    record("idle", share=round(share, 4), rss_kib=life.agent()["rss_kib"])
    assert share < 0.03
