# SPDX-License-Identifier: GPL-3.0-or-later
"""The module is unloaded under the agent: only by who lets it go first, and then nothing is judged. The way back is closed first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import ALLOWED, DENIED, ids

LET_GO = "echo N > /sys/module/bridgewarden/parameters/hold"
WAYS_BACK = {
    "by hand": "modprobe bridgewarden closed=docker0,br-[0-f][0-f][0-f][0-f]????????",
    "the boot unit": "systemctl restart bridgewarden",
}


def test_nobody_unloads_it_by_mistake(life: Any, watch: Callable[..., Any]) -> None:
    """As firewalld's complete reload does with all that uses conntrack."""
    life.until_known()
    seen = watch().tried(4)
    for command in ("modprobe -r bridgewarden", "rmmod bridgewarden"):
        assert "in use" in life.sh(command, check=False)
    seen.tried(4).all_open()


@pytest.mark.parametrize("back", WAYS_BACK)
def test_the_module_is_unloaded(
    life: Any, watch: Callable[..., Any], record: Callable[..., None], back: str
) -> None:
    life.until_known()
    agent = life.agent()
    seen = watch()
    seen.tried(4).all_open()
    life.sh(f"{LET_GO} && modprobe -r bridgewarden")
    life.until_open(ids(DENIED))  # so it was the module that denied
    life.sh(f"set -f; {WAYS_BACK[back]}")
    life.until(
        lambda: life.sh("cat /sys/module/bridgewarden/refcnt", check=False).strip() == "1", 60, "it is back"
    )
    seen.again()
    took = life.until_open(ids(ALLOWED))
    life.until_known()
    found = seen.seen()
    record(
        f"module-unloaded-{back.replace(' ', '-')}",
        seconds_until_open=round(took, 1),
        shut_seconds={i: found[i]["longest_gap"] for i in ids(ALLOWED)},
    )
    assert life.agent()["pid"] == agent["pid"]


def test_unloaded_it_stays_out(life: Any) -> None:
    """An operator's emergency: neither the agent, which asks for it at every event, nor anybody else's question loads it."""
    life.until_known()
    agent = life.agent()
    life.sh(f"{LET_GO} && modprobe -r bridgewarden")
    life.until_open(ids(DENIED))
    life.sh("docker restart -t 1 bob")
    life.until(
        lambda: "not loaded" in life.sh("bridgewarden status 2>&1", check=False), 30, "the command says so"
    )
    life.until(
        lambda: "not loaded" in life.sh("journalctl -u bridgewarden-agent -n 20 --no-pager"),
        30,
        "so does the agent",
    )
    assert life.sh("grep -c ^bridgewarden /proc/modules", check=False).strip() == "0"
    life.sh("systemctl restart bridgewarden")
    life.until_open(ids(ALLOWED))
    life.until_known()
    assert life.agent()["pid"] == agent["pid"]
