# SPDX-License-Identifier: GPL-3.0-or-later
"""Many containers started and stopped at once: their addresses go from friends to foes and back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ALLOWED, CHURN_SECONDS, CONTAINERS, PORT, Watch

#: ada tries, one after another, the addresses that Docker hands out to them.
SWEEP = {
    "id": "sweep",
    "from": "ada",
    "hosts": [f"172.29.7.{last}" for last in range(128, 180)],
    "port": PORT,
}


@pytest.fixture(scope="module")
def churned(life: Any) -> Iterator[Any]:
    seen = Watch(
        life,
        *(
            {**SWEEP, "id": f"sweep {n}", "hosts": SWEEP["hosts"][n * 13 :] + SWEEP["hosts"][: n * 13]}
            for n in range(4)
        ),
    )
    before = life.agent()
    try:
        yield seen, life.churn(CHURN_SECONDS, CONTAINERS), before
    finally:
        life.churned(CONTAINERS)


def test_no_wrong_verdict(churned: Any, record: Callable[..., None]) -> None:
    seen, figures, _before = churned
    found = seen.seen()
    record("churn-probes", **found)
    shut = {
        row["id"]: found[row["id"]]
        for row in ALLOWED
        if found[row["id"]]["closed"] or found[row["id"]]["half"]
    }
    assert not shut
    answered = {who for name, row in found.items() if name.startswith("sweep") for who in row["who"]}
    assert answered, "the sweep met nobody"
    assert all(who.startswith("friend") for who in answered), answered
    assert figures["least"] >= 1
    assert len(figures["refused_by_docker"]) < figures["starts"] / 2, figures["refused_by_docker"]


def test_the_kernel_knows_whom_docker_knows(life: Any, churned: Any) -> None:
    life.until_known()
    found = life.endpoints()
    assert len(found["kernel"]) > CONTAINERS  # half of them run, over IPv4 and IPv6, and our three


def test_the_agent_stays_small(life: Any, churned: Any, record: Callable[..., None]) -> None:
    _seen, figures, before = churned
    now = life.agent()
    memory = figures["rss_kib"]
    half = memory[len(memory) // 2 :]
    record(
        "churn",
        **{key: figures[key] for key in ("seconds", "starts", "least")},
        refused_by_docker=len(figures["refused_by_docker"]),
        rss_kib={
            "before": before["rss_kib"],
            "first half": max(memory[: len(memory) // 2]),
            "second half": max(half),
        },
        cpu_seconds=round(now["cpu"] - before["cpu"], 2),
    )
    assert now["pid"] == before["pid"]
    assert max(half) <= max(memory[: len(memory) // 2]) * 1.1
