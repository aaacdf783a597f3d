# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/rollback.yml fails where it undid nothing: the real play, with what the module returns put in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import PLAYBOOKS, ansible_playbook, here

ROLLBACK = "bridgewarden.docker.rollback"
UNDONE = {"undone": True, "actions": ["undo the commit of generation 7"], "generation": 6}
NOTHING = {
    "undone": False,
    "actions": ["no commit waits for its confirmation: generation 7 stays in force"],
    "generation": 7,
}


def play(result: dict[str, Any]) -> list[dict[str, Any]]:
    (found,) = yaml.safe_load((PLAYBOOKS / "rollback.yml").read_text(encoding="utf-8"))
    (task,) = [task for task in found["tasks"] if ROLLBACK in task]
    del task[ROLLBACK]
    task["ansible.builtin.set_fact"] = {"answer": result}
    after = {"name": "Answer", "ansible.builtin.set_fact": {task.pop("register"): "{{ answer }}"}}
    found["tasks"].insert(found["tasks"].index(task) + 1, after)
    return [found]


@pytest.mark.parametrize(("result", "code"), [(UNDONE, 0), (NOTHING, 2)], ids=["undone", "nothing to undo"])
def test_nothing_to_undo_is_red(tmp_path: Path, result: dict[str, Any], code: int) -> None:
    (tmp_path / "play.yml").write_text(json.dumps(play(result)), encoding="utf-8")
    inventory = {"docker_hosts": {"hosts": {"h1": here()}}}
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory), encoding="utf-8")
    run = ansible_playbook("--inventory", str(tmp_path / "hosts.yml"), str(tmp_path / "play.yml"))
    assert run.returncode == code, run.stdout + run.stderr
    assert result["actions"][0] in run.stdout
    assert ("Nothing to undo on h1" in run.stdout) == (code != 0)
