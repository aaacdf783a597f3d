# SPDX-License-Identifier: GPL-3.0-or-later
"""Budgets of tests/run.py, by stages that sleep."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests import run

SECONDS = 1.0


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs stages that take SECONDS, each with its budget in seconds; what is in the report, and what the terminal shows."""
    monkeypatch.setattr(run, "OUT", tmp_path)
    monkeypatch.setattr(run, "TOP", tmp_path)
    said: list[str] = []
    monkeypatch.setattr(run, "say", said.append)

    def reported(**seconds: float) -> tuple[dict[str, Any], str, ElementTree.Element]:
        stages = [run.Stage(name, f"sleep {SECONDS}", budget / 60) for name, budget in seconds.items()]
        runner = run.Runner(stages, None)
        runner.work()
        run.report([runner.results[stage.name] for stage in stages], 1.0)
        rows = json.loads((tmp_path / "summary.json").read_text())["stages"]
        suite = ElementTree.parse(tmp_path / "summary.xml").getroot()
        return {row["stage"]: row for row in rows}, "\n".join(said), suite

    return reported


def test_within_over_and_over_twice(budgets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FULL", False)
    rows, said, suite = budgets(within=60, over=SECONDS * 0.8, far=SECONDS / 4)
    assert {name: (row["status"], row["over_budget"]) for name, row in rows.items()} == {
        "within": ("pass", False),
        "over": ("pass", True),
        "far": ("slow", True),
    }
    assert rows["within"]["budget_seconds"] == 60
    assert "over: pass, over its budget of" in said
    assert "far: too slow, over its budget of" in said
    assert "within: pass in" in said
    cases = {case.get("name"): case for case in suite}
    assert suite.get("failures") == "1"
    assert [name for name, case in cases.items() if case.find("failure") is not None] == ["far"]
    assert "over its budget" in (cases["over"].findtext("system-out") or "")


def test_the_full_run_has_no_budgets(budgets: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FULL", True)
    rows, said, _ = budgets(far=SECONDS / 4)
    assert (rows["far"]["status"], rows["far"]["budget_seconds"]) == ("pass", None)
    assert "budget" not in said


def test_what_fails_is_not_called_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "FULL", False)
    stage = run.Stage("made up", "false", 1)
    assert run.Result(stage, "fail", 600.0, 0.0).judged().status == "fail"
    assert run.Result(stage, "pass", 119.0, 0.0).judged().status == "pass"
    assert run.Result(stage, "pass", 121.0, 0.0).judged().status == "slow"


def test_every_stage_has_a_budget_and_known_needs() -> None:
    names = {stage.name for stage in run.STAGES}
    assert len(names) == len(run.STAGES)
    assert all(stage.budget_minutes > 0 and set(stage.needs) <= names for stage in run.STAGES)
    assert sum(stage.budget_minutes for stage in run.STAGES if not stage.full) <= 57 * run.PARALLEL
