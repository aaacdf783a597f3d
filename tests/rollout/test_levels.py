# SPDX-License-Identifier: GPL-3.0-or-later
"""A host in several groups has the rules of all of them: real runs over an inventory with group_vars and host_vars."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import PLAYBOOKS, ansible_playbook, here, lost

VAULT = """\
  - name: no container reaches the card vault
    action: deny
    from: [containers]
    to: [vault]
"""
SHOP = """\
  - name: the world reaches the shop
    from: [world]
    to: [web]
    published: [443/tcp]
"""
INVENTORY = {
    "all": {"children": {group: {"hosts": {"h1": {}}} for group in ("docker_hosts", "pci", "shop")}},
}
FILES = {
    "group_vars/all.yml": "bridgewarden_mode: enforce\nbridgewarden_groups: {office: {cidrs: [192.0.2.0/25]}}\nbridgewarden_rules: []\n",
    "group_vars/pci.yml": "bridgewarden_groups_pci: {vault: {cidrs: [198.51.100.7/32]}}\nbridgewarden_rules_pci:\n"
    + VAULT,
    "group_vars/shop.yml": "bridgewarden_groups_shop: {web: {labels: {tier: web}}}\nbridgewarden_rules_shop:\n"
    + SHOP,
    "host_vars/h1.yml": """\
bridgewarden_rules_h1:
  - name: the office looks at the shop
    from: [office]
    to: [web]
    published: [8081/tcp]
""",
}
#: What the roles make of the variables, as every module gets it.
PLAY = [
    {
        "hosts": "docker_hosts",
        "gather_facts": False,
        "roles": ["bridgewarden.docker.common"],
        "tasks": [
            {
                "name": f"Look, {turn}",
                "ansible.builtin.copy": {
                    "dest": "{{ playbook_dir }}/{{ inventory_hostname }}.json",
                    "content": "{{ bridgewarden_policy | to_json }}",
                    "mode": "0600",
                },
            }
            for turn in ("once", "twice")
        ],
    }
]


def write(folder: Path, files: dict[str, str], variables: dict[str, Any]) -> None:
    inventory: dict[str, Any] = {**INVENTORY, "docker_hosts": {"vars": variables}}
    for name, content in {"hosts.yml": yaml.safe_dump(inventory), **files}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def joined(folder: Path, files: dict[str, str]) -> tuple[dict[str, Any], str]:
    """The policy of h1, and what Ansible printed."""
    write(folder, {**files, "play.yml": yaml.safe_dump(PLAY)}, here())
    run = ansible_playbook("--inventory", "hosts.yml", "play.yml", cwd=folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads((folder / "h1.json").read_text(encoding="utf-8")), run.stdout + run.stderr


def refused(folder: Path, files: dict[str, str]) -> str:
    """What the real playbook says about a policy that it refuses before it asks a host."""
    write(folder, files, lost())
    run: subprocess.CompletedProcess[str] = ansible_playbook(
        "--inventory", "hosts.yml", str(PLAYBOOKS / "harden_docker.yml"), cwd=folder
    )
    output = run.stdout + run.stderr
    assert run.returncode != 0
    assert "UNREACHABLE" not in output, output
    return output


def names(policy: dict[str, Any]) -> list[str]:
    return [rule["name"] for rule in policy["rules"]]


def test_sibling_groups_and_the_host_all_add_theirs(tmp_path: Path) -> None:
    policy, output = joined(tmp_path, FILES)
    assert names(policy) == [
        "the office looks at the shop",
        "no container reaches the card vault",
        "the world reaches the shop",
    ]
    assert set(policy["groups"]) == {"office", "vault", "web"}
    assert "deprecated" not in output


def test_the_real_playbook_accepts_it(tmp_path: Path) -> None:
    write(tmp_path, FILES, lost())
    run = ansible_playbook("--inventory", "hosts.yml", str(PLAYBOOKS / "harden_docker.yml"), cwd=tmp_path)
    assert "UNREACHABLE" in run.stdout, run.stdout + run.stderr


def test_the_former_names_still_join_and_are_reported_once(tmp_path: Path) -> None:
    shop = FILES["group_vars/shop.yml"].replace("bridgewarden_rules_shop", "bridgewarden_group_rules")
    policy, output = joined(tmp_path, {**FILES, "group_vars/shop.yml": shop})
    assert set(names(policy)) == {
        "the office looks at the shop",
        "no container reaches the card vault",
        "the world reaches the shop",
    }
    assert output.count("The variable bridgewarden_group_rules is deprecated") == 1, output
    assert "bridgewarden_host_rules is deprecated" not in output


def test_the_same_rule_in_two_groups_counts_once(tmp_path: Path) -> None:
    pci = FILES["group_vars/pci.yml"] + SHOP
    policy, _output = joined(tmp_path, {**FILES, "group_vars/pci.yml": pci})
    assert sorted(names(policy)) == sorted(set(names(policy)))
    assert "the world reaches the shop" in names(policy)


@pytest.mark.parametrize(
    ("name", "content", "words", "origin"),
    [
        pytest.param(
            "group_vars/pci.yml",
            FILES["group_vars/pci.yml"] + SHOP.replace("443", "80"),
            ["bridgewarden_rules_pci[1]", "bridgewarden_rules_shop[0].name", "the world reaches the shop"],
            "group_vars/shop.yml:3:11",
            id="rules",
        ),
        pytest.param(
            "group_vars/pci.yml",
            FILES["group_vars/pci.yml"].replace("pci: {", "pci: {web: {cidrs: [203.0.113.0/24]}, "),
            ["bridgewarden_groups_pci.web", "bridgewarden_groups_shop", '"web"'],
            "group_vars/shop.yml:1:33",
            id="groups",
        ),
        pytest.param(
            "host_vars/h1.yml",
            "bridgewarden_rules_h1: all of them\n",
            ["bridgewarden_rules_h1 must be a list"],
            "host_vars/h1.yml:1:24",
            id="no list",
        ),
        pytest.param(
            "host_vars/h1.yml",
            FILES["host_vars/h1.yml"].replace("[web]", "[wbe]"),
            ['there is no group "wbe"'],
            "host_vars/h1.yml:4:10",
            id="a mistake in one of them",
        ),
    ],
)
def test_mistakes_are_shown_where_they_are(
    tmp_path: Path, name: str, content: str, words: list[str], origin: str
) -> None:
    output = refused(tmp_path, {**FILES, name: content})
    assert all(word in output for word in words), output
    assert f"{tmp_path}/{origin}" in output, output
