"""The main demonstration: a fresh Docker host, probed, hardened by the main playbook, and probed again.

`demo` starts or reuses the machine; `sync` applies the playbook again after an edit and compares with the
same "before". Both leave build/lab/report.html and build/lab/reachability.json, and both fail when a path
is not as expected.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from lab import matrix, report, ssh, table, targets, vm
from lab.errors import LabError
from lab.machine import Machine
from lab.matrix import Answers, Reach
from lab.paths import CHECKOUT, REPORTS
from lab.progress import say, step

NAME = "lab"
_PLAYBOOK = ["-i", "inventory/lab", "playbooks/harden-docker.yml"]
# an emulated sshd on a busy computer may need more than Ansible's ten seconds
_PATIENCE = "ANSIBLE_TIMEOUT=120"


class Stopwatch:
    """How long each step took, for the report."""

    def __init__(self) -> None:
        self.laps: list[tuple[str, float]] = []
        self._last = time.monotonic()

    def lap(self, label: str) -> None:
        now = time.monotonic()
        self.laps.append((label, now - self._last))
        self._last = now


def demo(target: str) -> int:
    """The whole demonstration; returns the exit code."""
    watch = Stopwatch()
    machine = vm.up(NAME, targets.find(target))
    watch.lap("host and shop up")
    before = _before(machine, watch)
    return _harden_and_compare(machine, before, watch)


def sync() -> int:
    """Apply again and compare again, on the machine that runs."""
    machine = Machine(NAME)
    machine.must_live()
    watch = Stopwatch()
    return _harden_and_compare(machine, _before(machine, watch), watch)


def _before(machine: Machine, watch: Stopwatch) -> Answers:
    """The state before hardening: probed now, or remembered for a machine that is hardened already."""
    kept = machine.folder / "before.json"
    if kept.exists():
        say("this machine is hardened already: comparing with what was probed before that")
        return {matrix.key(answer): answer for answer in json.loads(kept.read_text(encoding="utf-8"))}
    if ssh.run(machine, "test -e /sys/module/bridgewarden").returncode == 0:
        raise LabError(
            f"{machine.name} was hardened by other means, so there is no 'before' to see; "
            f"start anew: python3 -m lab down {machine.name}"
        )
    before = matrix.probe(machine, "before hardening")
    watch.lap("probes before")
    kept.write_text(json.dumps(list(before.values())), encoding="utf-8")
    return before


def _harden_and_compare(machine: Machine, before: Answers, watch: Stopwatch) -> int:
    _apply(machine)
    watch.lap("playbook harden-docker.yml")
    after = matrix.probe(machine, "after hardening")
    watch.lap("probes after")
    reaches = matrix.compare(before, after, matrix.expected_of_this_checkout())
    _write(reaches, report.Facts(time.strftime("%Y-%m-%d %H:%M"), _facts(machine), watch.laps))
    return _show(reaches)


def _apply(machine: Machine) -> None:
    command = [str(Path(sys.executable).parent / "ansible-playbook"), *_PLAYBOOK]
    if not Path(command[0]).exists():
        command[0] = "ansible-playbook"
    with step("ansible-playbook " + " ".join(_PLAYBOOK)):
        status = ssh.watched(machine, ["env", _PATIENCE, *command], cwd=CHECKOUT).returncode
    if status:
        raise LabError(
            f"the playbook failed with status {status}; the machine stays up, look: python3 -m lab ssh {NAME}"
        )


def _facts(machine: Machine) -> list[tuple[str, str]]:
    asked = {
        "System": ". /etc/os-release; echo $PRETTY_NAME",
        "Kernel": "uname -r",
        "Docker": "docker version --format '{{.Server.Version}}'",
        "bridgewarden module": "cat /sys/module/bridgewarden/version || echo not loaded",
        "bridge-nf-call-iptables": "cat /proc/sys/net/bridge/bridge-nf-call-iptables || echo no br_netfilter",
    }
    done = ssh.run(
        machine, "\n".join(f"{{ {command}; }} 2>/dev/null | head -1" for command in asked.values())
    )
    state = machine.state()
    return [
        ("Machine", f"{machine.name} ({state.target}, {state.accelerator})"),
        *zip(asked, done.stdout.splitlines(), strict=False),
    ]


def _write(reaches: list[Reach], facts: report.Facts) -> None:
    REPORTS.mkdir(parents=True, exist_ok=True)
    records = [reach.record() for reach in reaches]
    for name, text in {
        "reachability.json": json.dumps(records, indent=1),
        "report.html": report.render(reaches, facts),
    }.items():
        scratch = REPORTS / f".{name}.new"
        scratch.write_text(text, encoding="utf-8")
        scratch.rename(REPORTS / name)


def _show(reaches: list[Reach]) -> int:
    print(table.render(reaches, colour=sys.stdout.isatty() or "FORCE_COLOR" in os.environ))
    wrong = [reach for reach in reaches if reach.violated]
    for reach in wrong:
        say(
            f"NOT AS EXPECTED: {reach.source} -> {reach.to}:{reach.port} IPv{reach.family} "
            f"is {reach.after}, expected {reach.expected}"
        )
    say(
        f"{len(reaches)} paths, {sum(reach.changed for reach in reaches)} changed, "
        f"{len(wrong)} not as expected: {REPORTS / 'report.html'}"
    )
    return 1 if wrong else 0
