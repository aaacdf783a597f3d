# SPDX-License-Identifier: GPL-3.0-or-later
"""The host before anything: everybody reaches everything, which makes each later refusal mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lab import matrix


def test_before_hardening_every_path_is_open(guest: Any, memory: Any) -> None:
    found = guest.matrix("before hardening")
    memory.save("before", [[*key, result] for key, result in found.items()])
    wanted = matrix.expected_of_this_checkout()
    sealed = {key: result for key, result in found.items() if key[:3] in wanted and result not in ("open", "absent")}
    assert not sealed, "what must be open after hardening is not open before it"
    closed = [key for key, result in found.items() if key[:3] not in wanted and result == "open"]
    assert len(closed) > 20, "hardening would have nothing to close"


@pytest.fixture
def untouched(snapshot: Any, memory: Any) -> Any:
    """The first snapshot, taken once."""
    try:
        return memory.load("snapshot")
    except FileNotFoundError:
        memory.save("snapshot", snapshot())
        return memory.load("snapshot")


def test_a_fresh_host_is_red_and_stays_untouched(
    playbooks: Any, snapshot: Any, untouched: Any, tmp_path: Path
) -> None:
    run, report = playbooks.compliance(tmp_path)
    assert run.code != 0, run.output
    assert report["status"] != "pass"
    statuses = {control["id"]: control["status"] for control in report["hosts"][0]["controls"]}
    assert "pass" not in statuses.get("module_loaded", "")
    assert list(statuses.values()).count("pass") < len(statuses)
    assert (tmp_path / "junit.xml").read_text().count("<failure") == list(statuses.values()).count("fail")
    assert snapshot() == untouched
