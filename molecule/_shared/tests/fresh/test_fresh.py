# SPDX-License-Identifier: GPL-3.0-or-later
"""The host before anything: who reaches whom, which makes each later refusal mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lab import matrix


def test_before_hardening_doors_are_open(guest: Any, memory: Any) -> None:
    """Docker itself closes a few (routed IPv4 to unpublished ports, between networks); enough remain."""
    wanted = matrix.expected_of_this_checkout()
    found = guest.matrix({key for key in matrix.all_paths() if key[:3] in wanted})
    memory.save("before", [[*key, result] for key, result in found.items()])
    assert not {
        key: word for key, word in found.items() if key[:3] in wanted and word not in ("open", "absent")
    }
    assert sum(key[:3] not in wanted for key, word in found.items() if word == "open") > 20


@pytest.fixture
def untouched(guest: Any, memory: Any) -> Any:
    """The host as it was, for the test of the uninstallation as well."""
    memory.save("snapshot", guest.snapshot())
    return memory.load("snapshot")


def test_a_fresh_host_is_red_and_stays_untouched(
    guest: Any, playbooks: Any, untouched: Any, tmp_path: Path
) -> None:
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0, run.output
    assert report["status"] != "pass"
    statuses = {control["id"]: control["status"] for control in report["hosts"][0]["controls"]}
    assert "pass" not in statuses.get("module_loaded", "")
    assert list(statuses.values()).count("pass") < len(statuses)
    assert (tmp_path / "junit.xml").read_text().count("<failure") == list(statuses.values()).count("fail")
    assert guest.snapshot() == untouched
