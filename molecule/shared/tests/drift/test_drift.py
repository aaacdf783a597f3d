# SPDX-License-Identifier: GPL-3.0-or-later
"""A hardened host is green; a hand-made drift turns its control red, and only that; the next run of the main job mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REMOTE_TASKS_AT_MOST = 25
PROJECT = Path(__file__).resolve().parents[4]


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
def test_the_main_job_mends_it_and_then_has_nothing_to_do(playbooks: Any, tmp_path: Path) -> None:
    mending = playbooks.harden()
    assert mending.code == 0, mending.output
    assert mending.recap["changed"] == 1
    _, report = playbooks.compliance(tmp_path)
    assert red(report) == []
    idle = playbooks.harden()
    assert idle.code == 0, idle.output
    assert idle.recap["changed"] == 0
    assert idle.recap["ok"] <= REMOTE_TASKS_AT_MOST
    figures = {"no-change run": {"seconds": round(idle.seconds, 1), "tasks": idle.recap["ok"]}}
    (PROJECT / "build" / "test" / "harden-figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"\nharden-docker.yml, nothing to change: {idle.seconds:.0f} s, {idle.recap['ok']} tasks")
