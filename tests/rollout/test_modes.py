# SPDX-License-Identifier: GPL-3.0-or-later
"""When playbooks/harden_docker.yml makes bridge settings, and when it puts them back.

The play's tasks from the commit on, with the roles' own files in place of the roles, and stubs in place of the two modules.
Each stub writes down how it was called, and the commit fails where a test wants that.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import PLAYBOOKS, TOP, ansible_playbook, here

FORMER = {"files": {"/etc/x": None}, "live": [["/proc/y", 0]], "loaded": False}
POLICY = """\
import json
from ansible.module_utils.basic import AnsibleModule
keys = ("policy", "state", "docker_socket", "on_empty_selector", "confirm_timeout", "force", "enforce_empty")
module = AnsibleModule(argument_spec={key: {"type": "raw"} for key in keys}, supports_check_mode=True)
with open("calls", "a") as f:
    f.write(json.dumps(["policy", "tried" if module.check_mode else "committed"]) + "\\n")
with open("fails") as f:
    if f.read() == ("tried" if module.check_mode else "committed"):
        module.fail_json(msg="the kernel refused it")
module.exit_json(changed=True)
"""
BRIDGES = """\
import json
from ansible.module_utils.basic import AnsibleModule
keys = ("state", "scope", "guards", "unguarded", "docker_socket", "former")
module = AnsibleModule(argument_spec={key: {"type": "raw"} for key in keys}, supports_check_mode=True)
with open("calls", "a") as f:
    f.write(json.dumps(["bridges", module.params["state"], module.params["former"]]) + "\\n")
with open("changes") as f:
    module.exit_json(changed=f.read() == "yes", former=%r)
""" % (FORMER,)


def role_tasks(name: str, file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((TOP / "roles" / name / "tasks" / f"{file}.yml").read_text())
    for task in found:
        for module in ("policy", "bridge_netfilter"):
            if f"bridgewarden.docker.{module}" in task:
                task[f"{module}_stub"] = task.pop(f"bridgewarden.docker.{module}")
    return found


def flattened(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Roles replaced by their files."""
    found = []
    for task in tasks:
        role = task.get("ansible.builtin.import_role")
        if role:
            block = role_tasks(role["name"].rpartition(".")[2], role.get("tasks_from", "main"))
            found.append(
                {"name": task["name"], "block": block, **({"when": task["when"]} if "when" in task else {})}
            )
            continue
        for key in ("block", "rescue"):
            if key in task:
                task[key] = flattened(task[key])
        found.append(task)
    return found


def run(
    folder: Path, mode: str, fails: str = "", changes: str = "yes", *options: str
) -> tuple[subprocess.CompletedProcess[str], list[list[Any]]]:
    (play,) = yaml.safe_load((PLAYBOOKS / "harden_docker.yml").read_text(encoding="utf-8"))
    names = [task["name"] for task in play["tasks"]]
    first = names.index("Put the policy in force")
    play["tasks"] = flattened(play["tasks"][first : first + 2])
    play["vars"] = {}
    for role in ("common", "policy"):
        play["vars"].update(yaml.safe_load((TOP / "roles" / role / "defaults" / "main.yml").read_text()))
    play["vars"].update(
        bridgewarden_mode=mode, bridgewarden_policy={}, __bridgewarden_preflight={"packages": []}
    )
    play["vars"].pop("bridgewarden_kmod_source")
    (folder / "library").mkdir()
    (folder / "library" / "policy_stub.py").write_text(POLICY)
    (folder / "library" / "bridge_netfilter_stub.py").write_text(BRIDGES)
    (folder / "play.yml").write_text(yaml.safe_dump([play]))
    (folder / "hosts.yml").write_text(json.dumps({"docker_hosts": {"hosts": {"h1": here()}}}))
    (folder / "fails").write_text(fails)
    (folder / "changes").write_text(changes)
    (folder / "calls").write_text("")
    done = ansible_playbook("--inventory", "hosts.yml", "play.yml", *options, cwd=folder)
    return done, [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


TRIED, COMMITTED = ["policy", "tried"], ["policy", "committed"]
MADE, RESTORED, ABSENT = (
    ["bridges", "present", None],
    ["bridges", "restored", FORMER],
    ["bridges", "absent", None],
)


def test_the_settings_come_with_the_policy_that_enforces(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "enforce")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls == [TRIED, MADE, COMMITTED]


def test_audit_ends_enforcing_first_and_takes_them_back(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "audit")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls == [TRIED, COMMITTED, ABSENT]


@pytest.mark.parametrize(
    ("mode", "fails", "changes", "wanted"),
    [
        ("enforce", "tried", "yes", [TRIED]),
        ("audit", "tried", "yes", [TRIED]),
        ("enforce", "committed", "yes", [TRIED, MADE, COMMITTED, RESTORED]),
        ("enforce", "committed", "no", [TRIED, MADE, COMMITTED]),
        ("audit", "committed", "yes", [TRIED, COMMITTED]),
    ],
)
def test_a_commit_that_fails_leaves_the_settings_as_they_were(
    tmp_path: Path, mode: str, fails: str, changes: str, wanted: list[list[Any]]
) -> None:
    done, calls = run(tmp_path, mode, fails, changes)
    assert done.returncode != 0
    assert calls == wanted
    assert "the kernel refused it" in done.stdout.rpartition("Fail with what refused the commit")[2]


def test_check_mode_undoes_nothing(tmp_path: Path) -> None:
    done, calls = run(tmp_path, "enforce", "", "yes", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert calls == [TRIED, MADE, TRIED]
