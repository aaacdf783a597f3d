# SPDX-License-Identifier: GPL-3.0-or-later
"""A hardened host is green; each drift turns its own controls red, and only those; the next run of the main job mends them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TASKS_AT_MOST = 26  # on a host; the recap counts the controller's checks of arguments, too


def shell(command: str) -> Callable[[Any, Any], Any]:
    return lambda guest, _playbooks: guest.run(command)


# What somebody does to a host, one after another, and the controls that each turns red.
DRIFTS: dict[str, tuple[Callable[[Any, Any], Any], set[str]]] = {
    "a setting changed": (
        shell("sysctl -q -w net.bridge.bridge-nf-call-iptables=0"),
        {"bridge_live"},
    ),
    "a file removed": (shell("rm /etc/sysctl.d/99-bridgewarden.conf"), {"bridge_persistent"}),
    "the agent stopped": (shell("systemctl stop bridgewarden-agent"), {"agent_unit"}),
    "the boot unit disabled": (shell("systemctl -q disable bridgewarden"), {"boot_unit"}),
    "the policy of the next boot lost": (shell("rm /etc/bridgewarden/policy.json"), {"boot_policy"}),
    "another mode": (
        lambda _guest, playbooks: playbooks.apply(bridgewarden_mode="audit"),
        {"mode"},  # and boot_policy, which is red by now
    ),
    "another policy": (
        lambda _guest, playbooks: playbooks.apply(bridgewarden_mode="audit", bridgewarden_rules=[]),
        {"policy_in_force"},
    ),
}


#: What `make test` has time for; `make test-full` tries all.
if not os.environ.get("BRIDGEWARDEN_FULL"):
    DRIFTS = {
        what: DRIFTS[what]
        for what in ("a setting changed", "the agent stopped", "the policy of the next boot lost")
    }


def red(report: dict[str, Any]) -> set[str]:
    (host,) = report["hosts"]
    return {control["id"] for control in host["controls"] if control["status"] != "pass"}


def test_a_hardened_host_is_green(playbooks: Any, tmp_path: Path) -> None:
    run, report = playbooks.compliance(tmp_path)
    assert red(report) == set()
    assert run.code == 0, run.output


@pytest.fixture(scope="module")
def so_far() -> set[str]:
    """The controls that earlier drifts turned red."""
    return set()


@pytest.mark.parametrize("what", DRIFTS)
def test_a_drift_is_seen_where_it_is(
    guest: Any, playbooks: Any, so_far: set[str], tmp_path: Path, what: str
) -> None:
    do, controls = DRIFTS[what]
    do(guest, playbooks)
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0
    found = red(report)
    assert found - so_far == controls
    assert found >= so_far
    so_far |= found


def test_the_main_job_mends_it(playbooks: Any, tmp_path: Path) -> None:
    run = playbooks.harden()
    assert run.code == 0, run.output
    assert run.recap["changed"] > 0, run.output
    assert run.recap["ok"] - run.output.count(" : Validating arguments against") <= TASKS_AT_MOST
    _, report = playbooks.compliance(tmp_path)
    assert red(report) == set()
