"""The reachability matrix: which paths are probed, what is expected of them, and what came out.

A path is (from, to, port, family), TCP. The lists here describe the lab's topology and nothing of the policy.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from lab import ssh
from lab.errors import LabError
from lab.machine import Machine
from lab.paths import GUEST, LAB
from lab.progress import step

FROM = ("office", "stranger", "host", "web", "api", "db", "loner")


@dataclass(frozen=True)
class Column:
    """One destination of the matrix."""

    group: str
    title: str
    to: str
    port: int


COLUMNS = (
    Column("Published on the host", "web", "host", 8081),
    Column("Published on the host", "api", "host", 8443),
    Column("Container addresses, directly", "web", "web", 8080),
    Column("Container addresses, directly", "api", "api", 8443),
    Column("Container addresses, directly", "db", "db", 5432),
    Column("Container addresses, directly", "loner", "loner", 9000),
    Column("The host", "ssh", "host", 22),
)
FAMILIES = (4, 6)
_SSHD = 22

Key = tuple[str, str, int, int]


Answers = dict[Key, dict[str, Any]]


@dataclass(frozen=True)
class Reach:
    """One path with its two results: open, refused or timeout."""

    source: str
    to: str
    port: int
    family: int
    before: str
    after: str
    expected: str
    detail: str

    @property
    def key(self) -> Key:
        return (self.source, self.to, self.port, self.family)

    @property
    def changed(self) -> bool:
        """Whether the hardening made a difference (refused or timeout is the same closed door)."""
        return (self.before == "open") != (self.after == "open")

    @property
    def violated(self) -> bool:
        return (self.after == "open") != (self.expected == "open")

    def record(self) -> dict[str, Any]:
        """As it stands in reachability.json."""
        return {
            "from": self.source,
            "to": self.to,
            "proto": "tcp",
            "port": self.port,
            "family": self.family,
            "before": self.before,
            "after": self.after,
            "expected": self.expected,
        }


def all_paths() -> list[Key]:
    """Every path of the matrix; a container does not probe itself."""
    return [
        (source, column.to, column.port, family)
        for source in FROM
        for column in COLUMNS
        for family in FAMILIES
        if source != column.to or source == "host"
    ]


def probe(machine: Machine, what: str) -> Answers:
    """Probe every path from inside the machine, all at once."""
    asked = [
        {"from": source, "to": to, "port": port, "family": family, "handshake": port == _SSHD}
        for source, to, port, family in all_paths()
    ]
    with step(f"probing {len(asked)} paths {what}"):
        script = (GUEST / "bw-probe.py").read_text(encoding="utf-8")
        done = ssh.run(machine, f"python3 - {shlex.quote(json.dumps(asked))}", stdin=script)
        if done.returncode:
            raise LabError("the prober failed in the machine; its message is above")
        ssh.wait_for_ssh(machine)  # an emulated sshd chews a while on a dozen logins that come to nothing
    return {key(answer): answer for answer in json.loads(done.stdout)}


def key(answer: dict[str, Any]) -> Key:
    return (answer["from"], answer["to"], answer["port"], answer["family"])


def expected_open(text: str) -> set[tuple[str, str, int]]:
    """The paths that expected.yml wants open, as (from, to, port)."""
    wanted = {
        (source, entry["to"], entry["port"])
        for entry in yaml.safe_load(text)["open"]
        for source in entry["from"]
    }
    if unknown := wanted - {path[:3] for path in all_paths()}:
        raise LabError(f"lab/expected.yml names paths that the matrix does not have: {sorted(unknown)}")
    return wanted


def expected_of_this_checkout() -> set[tuple[str, str, int]]:
    return expected_open((LAB / "expected.yml").read_text(encoding="utf-8"))


def compare(before: Answers, after: Answers, wanted: set[tuple[str, str, int]]) -> list[Reach]:
    """Join both runs. A path that does not exist (no such address, no route) before and after is left out."""
    reaches = []
    for path in all_paths():
        first, second = before[path], after[path]
        if first["result"] == second["result"] == "absent":
            continue
        source, to, port, family = path
        reaches.append(
            Reach(
                source,
                to,
                port,
                family,
                before=_result(first),
                after=_result(second),
                expected="open" if (source, to, port) in wanted else "closed",
                detail=_detail(first, second),
            )
        )
    return reaches


def _result(answer: dict[str, Any]) -> str:
    return "refused" if answer["result"] == "absent" else str(answer["result"])


def _detail(before: dict[str, Any], after: dict[str, Any]) -> str:
    was, now = (f"{answer['detail']} ({answer['seconds']} s)" for answer in (before, after))
    return f"{after['host']}: before {was}, after {now}"
