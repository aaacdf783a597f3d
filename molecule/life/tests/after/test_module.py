# SPDX-License-Identifier: GPL-3.0-or-later
"""The module is unloaded under the agent: root may do that, and then nothing is judged. The way back is closed first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import ALLOWED, DENIED, ids


@pytest.mark.parametrize(
    "back", ["modprobe bridgewarden closed=docker0,br-*", "systemctl restart bridgewarden"]
)
def test_the_module_is_unloaded(
    life: Any, watch: Callable[..., Any], record: Callable[..., None], back: str
) -> None:
    life.until_known()
    agent = life.agent()
    seen = watch()
    life.sh("sleep 2")
    seen.all_open()
    since = life.now()
    life.sh("modprobe -r bridgewarden")
    took = life.until_open(ids(DENIED))  # so it was the module that denied
    life.sh("docker restart -t 1 bob")
    life.until(lambda: "not loaded" in " ".join(life.told(since)), 20, "the agent says it")
    assert life.agent()["pid"] == agent["pid"]
    life.sh(f"set -f; {back}")
    seen.again()
    took = life.until_open(ids(ALLOWED))
    life.until_known()
    found = seen.seen()
    record(
        f"module-unloaded-{back.split()[0]}",
        seconds_until_open=round(took, 1),
        shut_seconds={i: found[i]["longest_gap"] for i in ids(ALLOWED)},
    )
    assert life.agent()["pid"] == agent["pid"]
