# SPDX-License-Identifier: GPL-3.0-or-later
"""A hardened host is green; a hand-made drift turns its control red, and only that; the next run of the main job mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

TASKS_AT_MOST = 25  # in the recap: those that only the controller runs are in it, too


def red(report: dict[str, Any]) -> list[str]:
    (host,) = report["hosts"]
    return [control["id"] for control in host["controls"] if control["status"] != "pass"]


def test_a_hardened_host_is_green(playbooks: Any, tmp_path: Path) -> None:
    run, report = playbooks.compliance(tmp_path)
    assert red(report) == []
    assert run.code == 0, run.output


@pytest.fixture(scope="module")
def drifted(guest: Any) -> None:
    guest.run("sysctl -q -w net.bridge.bridge-nf-call-iptables=0")


@pytest.mark.usefixtures("drifted")
def test_a_drift_is_seen_where_it_is(playbooks: Any, tmp_path: Path) -> None:
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0
    assert len(red(report)) == 1, red(report)
    assert "bridge" in red(report)[0]


@pytest.mark.usefixtures("drifted")
def test_the_main_job_mends_it(playbooks: Any, tmp_path: Path) -> None:
    run = playbooks.harden()
    assert run.code == 0, run.output
    assert run.recap["changed"] == 1, run.output
    assert run.recap["ok"] <= TASKS_AT_MOST
    _, report = playbooks.compliance(tmp_path)
    assert red(report) == []
    print(f"\nharden-docker.yml, one setting mended: {run.seconds:.0f} s, {run.recap['ok']} tasks")
