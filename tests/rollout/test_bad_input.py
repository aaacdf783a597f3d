# SPDX-License-Identifier: GPL-3.0-or-later
"""A policy that is wrong is refused before anything remote happens.

The only host cannot be reached: a run that gets as far as asking it anything ends with UNREACHABLE.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from running import PLAYBOOKS, ansible_playbook, lost

RULE = {"name": "office reaches web", "from": ["office"], "to": ["web"], "ports": ["8080/tcp"]}
#: In place of a variable's value: it is not set.
UNSET = object()
GROUPS = {"office": {"cidrs": ["10.10.10.0/24"]}, "web": {"labels": {"tier": "web"}}}


def harden(folder: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    inventory = {"docker_hosts": {"hosts": {"h1": lost()}}}
    (folder / "hosts.yml").write_text(json.dumps(inventory), encoding="utf-8")
    values = {
        "bridgewarden_mode": "enforce",
        "bridgewarden_groups": GROUPS,
        "bridgewarden_rules": [RULE],
        **variables,
    }
    values = {name: value for name, value in values.items() if value is not UNSET}
    return ansible_playbook(
        *("--inventory", str(folder / "hosts.yml"), "--extra-vars", json.dumps(values)),
        str(PLAYBOOKS / "harden-docker.yml"),
    )


def test_a_good_policy_gets_as_far_as_the_host(tmp_path: Path) -> None:
    run = harden(tmp_path)
    assert "UNREACHABLE" in run.stdout, run.stdout + run.stderr


def rule(**change: Any) -> dict[str, Any]:
    return {"bridgewarden_rules": [{**RULE, **change}]}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param(rule(to=["wev"]), ["wev", "web"], id="unknown group"),
        pytest.param(rule(**{"from": ["10.0.0.0/33"]}), ["10.0.0.0/33"], id="bad CIDR"),
        pytest.param(
            {"bridgewarden_groups": {**GROUPS, "web": {"cidrs": ["300.0.0.0/8"]}}},
            ["300.0.0.0/8"],
            id="bad CIDR in a group",
        ),
        pytest.param(rule(ports=["0/tcp"]), ["0/tcp"], id="port 0"),
        pytest.param(rule(ports=["70000/tcp"]), ["70000"], id="port 70000"),
        pytest.param(
            {"bridgewarden_rules": [{key: RULE[key] for key in RULE if key != "name"}]},
            ["name"],
            id="no name",
        ),
        pytest.param(
            {"bridgewarden_rules": [RULE], "bridgewarden_rules_h1": [{**RULE, "ports": ["81/tcp"]}]},
            ["office reaches web"],
            id="same name twice",
        ),
        pytest.param(rule(action="permit"), ["permit", "allow"], id="unknown action"),
        pytest.param({"bridgewarden_mode": UNSET}, ["bridgewarden_mode", "audit", "enforce"], id="no mode"),
        pytest.param(
            {"bridgewarden_rules": []}, ["bridgewarden_enforce_empty"], id="enforce without any rule"
        ),
        pytest.param(rule(within="stack"), ["within compares containers"], id="within with a CIDR"),
        pytest.param(rule(within=""), ["name a label"], id="within nothing"),
        pytest.param(rule(until="31.3.2027"), ["YYYY-MM-DD"], id="until no day"),
        pytest.param(rule(note=5), ["a note must be a text"], id="a note that is a number"),
        pytest.param(
            {"bridgewarden_unguarded": "br/0"}, ["br/0", "can match no network link"], id="unguarded"
        ),
        pytest.param(
            {"bridgewarden_lifelines": [{"name": "ssh"}]},
            ["a lifeline has no ports"],
            id="lifeline without ports",
        ),
        pytest.param(
            {"bridgewarden_lifelines": [{"ports": ["22/tcp"]}]},
            ["a lifeline has no name"],
            id="lifeline without a name",
        ),
        pytest.param({"bridgewarden_mode": "on"}, ["bridgewarden_mode", "enforce"], id="unknown mode"),
        pytest.param({"bridgewarden_defaults": {"ingres": "deny"}}, ["ingres"], id="unknown direction class"),
        pytest.param(
            {"bridgewarden_confirm_timeout": 60},
            ["bridgewarden_confirm_timeout is 60", "no role confirms"],
            id="a window that nothing would confirm",
        ),
        pytest.param({"bridgewarden_rules": "none"}, ["bridgewarden_rules"], id="rules that are no list"),
        pytest.param(
            {"bridgewarden_rules_shop": "none"},
            ["bridgewarden_rules_shop"],
            id="a group's rules that are no list",
        ),
    ],
)
def test_a_bad_policy_is_refused_before_any_host_is_asked(
    tmp_path: Path, variables: dict[str, Any], words: list[str]
) -> None:
    run = harden(tmp_path, **variables)
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert "UNREACHABLE" not in output, output
    errors = [line for line in output.splitlines() if "[ERROR]" in line or " msg: " in line]
    assert errors, output
    assert all(word in output for word in words), output


def test_the_role_by_itself_refuses_a_window_that_nothing_would_confirm(tmp_path: Path) -> None:
    play = {
        "hosts": "h1",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.import_role": {"name": "bridgewarden.docker.policy"}}],
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]), encoding="utf-8")
    (tmp_path / "hosts.yml").write_text(
        json.dumps({"all": {"hosts": {"h1": {**lost(), "bridgewarden_mode": "audit"}}}}), encoding="utf-8"
    )
    found = []
    for window in ("0", "60"):
        run = ansible_playbook(
            *(
                "--inventory",
                str(tmp_path / "hosts.yml"),
                "--extra-vars",
                f"bridgewarden_confirm_timeout={window}",
            ),
            str(tmp_path / "play.yml"),
        )
        output = run.stdout + run.stderr
        found.append(("UNREACHABLE" in output, "no role confirms a commit yet" in output))
    assert found == [(True, False), (False, True)]


def test_the_way_out_needs_no_mode(tmp_path: Path) -> None:
    """Uninstalling and rolling back ask for no policy, so what is wrong with one does not keep them from it."""
    (tmp_path / "hosts.yml").write_text(
        json.dumps({"docker_hosts": {"hosts": {"h1": lost()}}}), encoding="utf-8"
    )
    for playbook in ("uninstall.yml", "rollback.yml"):
        run = ansible_playbook("--inventory", str(tmp_path / "hosts.yml"), str(PLAYBOOKS / playbook))
        assert "UNREACHABLE" in run.stdout, run.stdout + run.stderr
