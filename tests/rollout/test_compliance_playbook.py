# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/compliance.yml writes its report and is red whatever the limit, and whoever does not answer.

Hosts of this machine fail the real checks, because nothing is hardened here.  Where a host has to pass, the
play's one role gives way to a stub that returns the controls which the inventory names; the rest is the real play.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import PLAYBOOKS, ansible_playbook, here, lost

PLAYBOOK = PLAYBOOKS / "compliance.yml"
ROLE = "bridgewarden.docker.compliance"
MODULE = """\
from ansible.module_utils.basic import AnsibleModule
module = AnsibleModule(argument_spec={"controls": {"type": "list", "elements": "dict"}}, supports_check_mode=True)
module.exit_json(controls=module.params["controls"])
"""
STUB = [
    {
        "name": "Answer",
        "answer": {"controls": "{{ controls }}"},
        "register": "bridgewarden_compliance",
    }
]


def control(status: str) -> dict[str, Any]:
    return {"id": "module", "title": "Module", "status": status, "expected": 1, "actual": 0}


def passes() -> dict[str, Any]:
    return {**here(), "controls": [control("pass")]}


def fails() -> dict[str, Any]:
    return {**here(), "controls": [control("fail")]}


class Check:
    """One run of the playbook over the hosts of an inventory, and what it left on the controller."""

    def __init__(
        self, folder: Path, inventory: dict[str, Any], *arguments: str, env: dict[str, str] | None = None
    ) -> None:
        self.folder = folder
        (folder / "hosts.yml").write_text(json.dumps(inventory), encoding="utf-8")
        self.run = self._run(arguments, env)
        self.code, self.output = self.run.returncode, self.run.stdout + self.run.stderr
        path = folder / "build" / "compliance" / "report.json"
        assert path.exists(), self.output
        assert path.with_name("junit.xml").exists(), self.output
        self.report = json.loads(path.read_text(encoding="utf-8"))

    def _run(
        self, arguments: tuple[str, ...], env: dict[str, str] | None
    ) -> subprocess.CompletedProcess[str]:
        return ansible_playbook(
            "--inventory", "hosts.yml", *arguments, str(self.playbook()), cwd=self.folder, env=env
        )

    def playbook(self) -> Path:
        return PLAYBOOK

    def statuses(self) -> dict[str, str]:
        return {row["host"]: row["status"] for row in self.report["hosts"]}

    def first(self, host: str) -> str:
        """What the first control of a host found."""
        (row,) = [row for row in self.report["hosts"] if row["host"] == host]
        return str(row["controls"][0]["actual"])


class StubbedCheck(Check):
    """The same with the stub in place of the role."""

    def playbook(self) -> Path:
        plays = yaml.safe_load(PLAYBOOK.read_text(encoding="utf-8"))
        tasks = [task for play in plays for task in play["tasks"]]
        (role,) = [
            task["ansible.builtin.import_role"] for task in tasks if "ansible.builtin.import_role" in task
        ]
        assert role["name"] == ROLE
        role["name"] = "stub"
        for name, content in (
            ("library/answer.py", MODULE),
            ("roles/stub/tasks/main.yml", yaml.safe_dump(STUB)),
            ("play.yml", yaml.safe_dump(plays, sort_keys=False)),
        ):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(content, encoding="utf-8")
        return self.folder / "play.yml"


def docker_hosts(**hosts: dict[str, Any]) -> dict[str, Any]:
    return {"docker_hosts": {"hosts": hosts, "vars": {"bridgewarden_mode": "enforce"}}}


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        pytest.param([], ["h1", "h2"], id="no limit"),
        pytest.param(["--limit", "h1"], ["h1"], id="one host"),
        pytest.param(["--limit", "h1:localhost"], ["h1"], id="with localhost"),
        pytest.param(["--limit", "!h1"], ["h2"], id="all but one"),
    ],
)
def test_bare_hosts_are_red_with_and_without_a_limit(
    tmp_path: Path, limit: list[str], expected: list[str]
) -> None:
    run = Check(tmp_path, docker_hosts(h1=here(), h2=here()), *limit)
    assert run.code != 0, run.output
    assert list(run.statuses()) == expected
    assert run.report["status"] != "pass"
    # The checks themselves ran: it is not for want of a result that these hosts are red.
    assert all(len(row["controls"]) > 1 for row in run.report["hosts"])


@pytest.mark.parametrize("limit", [[], ["--limit", "good"]], ids=["no limit", "limit"])
def test_hosts_that_pass_are_green(tmp_path: Path, limit: list[str]) -> None:
    hosts = {"good": passes()} if not limit else {"good": passes(), "bad": fails()}
    run = StubbedCheck(tmp_path, docker_hosts(**hosts), *limit)
    assert run.code == 0, run.output
    assert run.statuses() == {"good": "pass"}
    assert run.report["status"] == "pass"


def test_one_host_that_fails_makes_all_of_it_red(tmp_path: Path) -> None:
    run = StubbedCheck(tmp_path, docker_hosts(good=passes(), bad=fails()))
    assert run.code != 0
    assert run.statuses() == {"good": "pass", "bad": "fail"}


def test_one_report_whatever_the_strategy(tmp_path: Path) -> None:
    hosts = docker_hosts(h1=passes(), h2=passes(), h3=passes())
    run = StubbedCheck(tmp_path, hosts, env={"ANSIBLE_STRATEGY": "free"})
    assert run.code == 0, run.output
    assert run.output.count("=> (item=report.json)") == 1


@pytest.mark.parametrize("first", [True, False], ids=["lost host first", "lost host last"])
def test_a_host_that_does_not_answer_is_a_red_row(tmp_path: Path, first: bool) -> None:
    gone, there = ("a", "b") if first else ("b", "a")
    hosts = {gone: {**lost(), "controls": [control("pass")]}, there: passes()}
    run = StubbedCheck(tmp_path, docker_hosts(**hosts))
    assert run.code != 0
    assert run.statuses() == {gone: "error", there: "pass"}
    assert "unreachable" in run.first(gone)


@pytest.mark.parametrize("limit", [[], ["--limit", "h1"]], ids=["no limit", "limit"])
def test_the_report_is_there_when_nobody_answers(tmp_path: Path, limit: list[str]) -> None:
    run = Check(tmp_path, docker_hosts(h1=lost(), h2=lost()), *limit)
    assert run.code != 0
    assert set(run.statuses().values()) == {"error"}
    assert len(run.statuses()) == (1 if limit else 2)


@pytest.mark.parametrize(
    ("inventory", "limit"),
    [
        pytest.param({"other": {"hosts": {"h1": here()}}}, [], id="no docker_hosts"),
        pytest.param(
            {**docker_hosts(h1=here()), "other": {"hosts": {"h2": here()}}},
            ["--limit", "h2"],
            id="a limit that leaves none",
        ),
        pytest.param({}, [], id="empty inventory"),
    ],
)
def test_a_check_of_no_host_is_red(tmp_path: Path, inventory: dict[str, Any], limit: list[str]) -> None:
    run = Check(tmp_path, inventory, *limit)
    assert run.code != 0, run.output
    assert run.report["status"] == "error"
    assert run.report["hosts"] == []
    assert "No host was checked" in run.output


@pytest.mark.parametrize(
    ("env", "arguments", "variables"),
    [
        pytest.param({"ANSIBLE_BECOME": "True"}, [], {}, id="configuration"),
        pytest.param({}, ["--become"], {}, id="option"),
        pytest.param({}, [], {"ansible_become": True}, id="inventory"),
    ],
)
def test_the_controller_needs_no_root(
    tmp_path: Path, env: dict[str, str], arguments: list[str], variables: dict[str, Any]
) -> None:
    """Where every task would become root, those on the controller do not ask sudo, which fails here."""
    sudo = tmp_path / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text("#!/bin/sh\necho no sudo here >&2\nexit 1\n", encoding="utf-8")
    sudo.chmod(0o755)
    inventory = {**docker_hosts(h1=here()), "all": {"vars": variables}}
    settings = {
        "PATH": f"{sudo.parent}:{os.environ['PATH']}",
        "ANSIBLE_BECOME_ALLOW_SAME_USER": "True",  # else Ansible asks no sudo where root runs the tests
    }
    run = Check(tmp_path, inventory, *arguments, env={**settings, **env})
    assert run.code != 0
    # The task on the host did ask sudo, so one on the controller would have, too.
    assert "no sudo here" in run.first("h1")
