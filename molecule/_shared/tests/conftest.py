# SPDX-License-Identifier: GPL-3.0-or-later
"""What the scenarios' tests stand on: the machine, probes from inside it, snapshots of it, and the playbooks.

One ssh call a question, however much is asked: an emulated host takes its time. What one phase must leave for a later one
(reachability before hardening, the first snapshot) is kept in build/molecule/SCENARIO.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lab import matrix, ssh
from lab.machine import Machine
from lab.paths import GUEST

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
NAME = f"mol-{SCENARIO}"
KEPT = PROJECT / "build" / "molecule" / SCENARIO


PROBER = GUEST / "bw-probe.py"
SSH = (
    22  # its handshake is enough: an emulated sshd takes long to greet, and punishes those who do not log in
)


class Memory:
    """What outlives a phase."""

    def save(self, name: str, value: Any) -> None:
        KEPT.mkdir(parents=True, exist_ok=True)
        (KEPT / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")

    def load(self, name: str) -> Any:
        return json.loads((KEPT / f"{name}.json").read_text(encoding="utf-8"))

    def has(self, name: str) -> bool:
        return (KEPT / f"{name}.json").exists()


class Guest:
    """The machine under test."""

    def __init__(self) -> None:
        self.machine = Machine(NAME)
        self.machine.must_live()

    def run(self, command: str, stdin: str | None = None) -> str:
        done = ssh.run(self.machine, command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def json(self, command: str, stdin: str | None = None) -> Any:
        return json.loads(self.run(command, stdin))

    def python(self, script: Path, *arguments: str) -> Any:
        """Run one of our scripts there; it prints JSON."""
        return self.json(" ".join(["python3", "-", *arguments]), script.read_text(encoding="utf-8"))

    def snapshot(self) -> dict[str, Any]:
        """Everything about the host that hardening may touch."""
        return dict(self.python(HERE.parent / "snapshot.py"))

    def popen(self, command: str) -> subprocess.Popen[str]:
        """A command that we talk to while it runs."""
        return subprocess.Popen(
            ssh.argv(self.machine, [command]), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def containers(self) -> list[str]:
        """Identity and start of each container: equal means that nobody restarted or replaced one."""
        about = "{{.Name}} {{.Id}} {{.State.StartedAt}} {{.State.Pid}}"
        return sorted(self.run(f"docker inspect -f '{about}' $(docker ps -q)").splitlines())

    def counters(self) -> dict[str, int]:
        """Packets of each rule and built-in reason."""
        return {row["name"]: row["packets"] for row in self.json("bridgewarden rules --all --json")}

    def matrix(self, wanted: Container[matrix.Key], seconds: float = 60) -> dict[matrix.Key, str]:
        """Every path of the lab's matrix, see `_word`. Those that are wanted open get more than one chance: an emulated
        sshd may take longer than a probe, and after a boot the containers come up one by one. So do slow ones, which prove nothing."""
        found = self._probe_keys(matrix.all_paths(), 4)
        end = time.monotonic() + seconds
        while late := [
            key
            for key, word in found.items()
            if word == "slow" or (key in wanted and word not in ("open", "absent"))
        ]:
            if time.monotonic() > end:
                break
            found.update(self._probe_keys(late, 15))
        return found

    def _probe_keys(self, keys: list[matrix.Key], timeout: float) -> dict[matrix.Key, str]:
        asked = [
            {"from": f, "to": t, "port": p, "family": v, "timeout": timeout, "handshake": p == SSH}
            for f, t, p, v in keys
        ]
        found = dict(zip(keys, self._probe(asked), strict=True))
        # sshd turns some away (MaxStartups) while it chews on logins that came to nothing.
        ssh.wait_for_ssh(self.machine)
        return found

    def probe(self, *paths: tuple[str, str, int], families: tuple[int, ...] = (4, 6)) -> list[str]:
        """Chosen paths, each over IPv4 and IPv6; the results in that order."""
        return self._probe(
            [
                {"from": source, "to": to, "port": port, "family": family}
                for source, to, port in paths
                for family in families
            ]
        )

    def _probe(self, asked: list[dict[str, Any]]) -> list[str]:
        answers = self.json(f"python3 - {shlex.quote(json.dumps(asked))}", PROBER.read_text(encoding="utf-8"))
        return [_word(answer) for answer in answers]


def _word(answer: dict[str, Any]) -> str:
    """open, refused, absent (nothing was sent), timeout (no answer at all), or slow: connected, but no byte came.

    Slow is not closed. So a path that is meant to be closed is not taken for it because a server was busy.
    """
    slow = answer["result"] == "timeout" and answer["detail"].startswith("connected")
    return "slow" if slow else str(answer["result"])


@dataclass(frozen=True)
class Run:
    """One run of ansible-playbook."""

    code: int
    output: str
    seconds: float

    @property
    def recap(self) -> dict[str, int]:
        """The counters of the machine's line in the recap."""
        line = next(line for line in reversed(self.output.splitlines()) if line.startswith(NAME))
        return {word.split("=")[0]: int(word.split("=")[1]) for word in line.split(":", 1)[1].split()}


class Playbooks:
    """The collection's own playbooks, run as a user would, against the scenario's machine."""

    def __init__(self, folder: Path) -> None:
        host = yaml.safe_load(
            (PROJECT / "build" / "vms" / NAME / "inventory.yml").read_text(encoding="utf-8")
        )
        (folder / "hosts.yml").write_text(
            yaml.safe_dump({"docker_hosts": host["all"]}, sort_keys=False), encoding="utf-8"
        )
        (folder / "group_vars").symlink_to(PROJECT / "inventory" / "lab" / "group_vars")
        self.inventory_file = folder / "hosts.yml"

    def run(self, playbook: Path, **variables: Any) -> Run:
        began = time.monotonic()
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.inventory_file), "-e", json.dumps(variables), str(playbook)],
            cwd=PROJECT,
            env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        return Run(done.returncode, done.stdout + done.stderr, time.monotonic() - began)

    def harden(self, **variables: Any) -> Run:
        return self.run(PROJECT / "playbooks" / "harden-docker.yml", **variables)

    def apply(self, **variables: Any) -> Run:
        """The policy role alone, with some of the inventory's variables replaced."""
        run = self.run(HERE.parent / "apply.yml", **variables)
        assert run.code == 0, run.output
        return run

    def compliance(self, folder: Path) -> tuple[Run, dict[str, Any]]:
        run = self.run(PROJECT / "playbooks" / "compliance.yml", bridgewarden_report_dir=str(folder))
        return run, json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def guest() -> Guest:
    return Guest()


@pytest.fixture(scope="session")
def memory() -> Memory:
    return Memory()


@pytest.fixture(scope="session")
def playbooks(tmp_path_factory: pytest.TempPathFactory) -> Playbooks:
    return Playbooks(tmp_path_factory.mktemp("inventory"))


def eventually(check: Callable[[], None], seconds: float = 60) -> None:
    """Until the check holds: for what the agent does on its own time."""
    end = time.monotonic() + seconds
    while True:
        try:
            check()
            return
        except AssertionError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


@pytest.fixture(scope="session")
def until() -> Iterator[Callable[..., None]]:
    yield eventually
