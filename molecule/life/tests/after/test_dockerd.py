# SPDX-License-Identifier: GPL-3.0-or-later
"""dockerd is restarted and killed, with and without live-restore: what was denied stays denied all the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ALLOWED, gaps, ids

ENDS = {"restarted": "systemctl restart docker", "killed": "systemctl kill -s KILL docker"}


@pytest.fixture(scope="module", params=[False, True], ids=["without live-restore", "with live-restore"])
def live_restore(life: Any, request: pytest.FixtureRequest) -> Iterator[bool]:
    if request.param:
        life.sh("echo '{\"live-restore\": true}' > /etc/docker/daemon.json && systemctl reload docker")
        life.until(lambda: "true" in life.sh("docker info -f '{{.LiveRestoreEnabled}}'"), 20, "live-restore")
    yield request.param
    if request.param:
        life.sh("rm /etc/docker/daemon.json && systemctl reload docker")


@pytest.mark.parametrize("end", ENDS)
def test_denials_hold_and_what_is_allowed_comes_back(
    life: Any, watch: Callable[..., Any], record: Callable[..., None], live_restore: bool, end: str
) -> None:
    life.until_known()
    before = life.containers()
    started = dockerd(life)
    life.sh("systemctl reset-failed docker")
    seen = watch().tried(4)
    life.sh(ENDS[end])
    life.until(lambda: dockerd(life) not in ("0", started), 90, "a new dockerd")
    life.until(lambda: len(life.containers()) >= 3, 90, "the containers are back")
    life.until_open(ids(ALLOWED))
    life.until_known()
    found = seen.seen()
    after = life.containers()
    record(
        f"dockerd-{end}-{'with' if live_restore else 'without'}-live-restore",
        shut_seconds=gaps(found),
        containers_kept=before == after,
    )
    assert (before == after) == live_restore
    if live_restore:
        between = {name: row for name, row in found.items() if name.startswith("ada-bob")}
        assert not any(row["closed"] + row["half"] + row["absent"] for row in between.values()), between


def dockerd(life: Any) -> str:
    return str(life.sh("systemctl show -P MainPID docker")).strip()
