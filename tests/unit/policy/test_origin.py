# SPDX-License-Identifier: GPL-3.0-or-later
"""A real ansible-playbook run: a mistake in a vars file is shown with its file, line and column."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

VARS = """\
bridgewarden_rules_office:
  - name: office
    from: [world]
    to: [containers]
    ports: [8080/tcp]
bridgewarden_rules_shop:
  - name: shop
    from: [world]
    to:
      - containers
{mistake}
"""

PLAY = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files: [vars.yml]
  tasks:
    - bridgewarden.docker.policy:
        state: rendered
        policy:
          mode: audit
          rules: "{{ (dict(names | zip(query('ansible.builtin.vars', *names))) | bridgewarden.docker.join_policy).rules }}"
      vars:
        names: "{{ query('ansible.builtin.varnames', '^bridgewarden_rules_') }}"
"""


def playbook() -> t.Optional[str]:
    beside = Path(sys.executable).with_name("ansible-playbook")
    return str(beside) if beside.exists() else shutil.which("ansible-playbook")


@pytest.mark.skipif(playbook() is None, reason="ansible-playbook is not installed")
@pytest.mark.parametrize(
    ("mistake", "origin", "words"),
    [
        ("      - wbe", "vars.yml:11:9", 'there is no group "wbe"'),
        ("    ports: [8080]", "vars.yml:11:13", "the port 8080 has no protocol"),
        ("    direct: 'on'", "vars.yml:11:13", "direct must be true or false"),
        ("    prots: [80/tcp]", "vars.yml:11:12", 'Did you mean "ports"'),
        ("    within: stack", "vars.yml:11:13", '"world" in from is none'),
        ("    until: 2027-02-30x", "vars.yml:11:12", "YYYY-MM-DD"),
        ("    note: 5", "vars.yml:11:11", "a note must be a text"),
    ],
)
def test_origin(mistake: str, origin: str, words: str, tmp_path: Path, checkout: Path) -> None:
    (tmp_path / "vars.yml").write_text(VARS.format(mistake=mistake), encoding="utf-8")
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    environment = dict(
        os.environ,
        ANSIBLE_CONFIG=str(checkout / "ansible.cfg"),
        ANSIBLE_COLLECTIONS_PATH=str(checkout / ".collections"),
        ANSIBLE_LOCAL_TEMP=str(tmp_path / "tmp"),
        ANSIBLE_NOCOLOR="1",
    )
    done = subprocess.run(
        [
            str(playbook()),
            "-i",
            "localhost,",
            "-e",
            f"ansible_python_interpreter={sys.executable}",
            "play.yml",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert f"{tmp_path}/{origin}" in said
    assert words in said
