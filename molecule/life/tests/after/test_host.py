# SPDX-License-Identifier: GPL-3.0-or-later
"""A container's init is killed; the host's clock jumps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import addresses, ids, pair

LAST = 40


@pytest.fixture(autouse=True)
def tidy(life: Any) -> Iterator[None]:
    life.until_known()
    yield
    life.remove("guest")
    life.until_known()


@pytest.mark.parametrize("name", ["bob", "eve"])
def test_a_containers_init_is_killed(
    life: Any, watch: Callable[..., Any], record: Callable[..., None], name: str
) -> None:
    """Docker starts it again; what is allowed comes back, what is denied never opens."""
    seen = watch()
    _id, pid, _started = life.containers()[name]
    life.sh(f"kill -KILL {pid}")
    life.until(lambda: life.containers().get(name, [0, pid])[1] != pid, 60, f"{name} is back")
    life.until_open(ids(pair("ada-bob", "ada", addresses(11))))
    life.until_known()
    found = seen.seen()
    record(
        f"init-killed-{name}",
        shut_seconds={n: found[n]["longest_gap"] for n in ids(pair("ada-bob", "ada", addresses(11)))},
    )
    if name == "eve":
        seen.all_open()


@pytest.fixture
def clock(life: Any) -> Iterator[Callable[[str], None]]:
    """Steps the clock; back to where it was at the end."""
    before = float(life.sh("date +%s.%N")) - life.now()
    yield lambda step: life.sh(f"date -s '{step}' >/dev/null")
    life.sh(f"date -s @{before + life.now():.3f} >/dev/null")


@pytest.mark.parametrize("step", ["+3 days", "-3 days"])
def test_the_clock_is_stepped(
    life: Any, watch: Callable[..., Any], clock: Callable[[str], None], step: str
) -> None:
    """Verdicts hold, the agent stays, and it follows Docker as before."""
    to_guest = pair("ada-guest", "ada", addresses(LAST))
    agent = life.agent()["pid"]
    seen = watch(*to_guest)
    clock(step)
    life.run("guest", LAST, friend=True)
    assert life.until_open(ids(to_guest)) < 30
    life.remove("guest")
    life.run("guest", LAST)
    life.until_known()
    found = seen.again().tried(6).all_open()
    for row in to_guest:
        assert found[row["id"]]["closed"] > 2 and not found[row["id"]]["open"], row
    assert life.agent()["pid"] == agent
