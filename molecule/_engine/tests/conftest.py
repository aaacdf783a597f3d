# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's tests: a policy, real packets, what became of them.

One process inside the machine (../bench.py) does whatever is asked here; so a question costs milliseconds, and a test file says
everything about policy, packets and what is expected of them in one place. Each file applies its policies in fixtures and has
one test an assertion. The containers are those of ../world.sh.

LAB_MACHINE names another machine than the scenario's: one that ../prepare.py made ready.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import ssh
from lab.machine import Machine

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]

SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
NAME = os.environ.get("LAB_MACHINE") or f"mol-{SCENARIO}"
CLASSES = ("ingress", "egress", "inter_container", "to_host", "from_host", "host_ingress")
UPLINK = {4: "10.10.10.2", 6: "2001:db8:10::2"}
OFFICE = {4: "10.10.10.3", 6: "2001:db8:10::3"}
STRANGER = {4: "10.10.10.9", 6: "2001:db8:10::9"}
ALPHA = {4: "172.28.1.10", 6: "fd00:db8:11::10"}
BETA = {4: "172.28.1.11", 6: "fd00:db8:11::11"}
GAMMA = {4: "172.28.2.10", 6: "fd00:db8:12::10"}
LEFT = {4: "172.28.1.1", 6: "fd00:db8:11::1"}  # the host, as alpha and beta see it
#: How long silence must last; a SYN is repeated after one second.
SECONDS = 1.6
#: The connection the tests themselves come over.
CONTROLLER = {"name": "the tests come in", "from": ["10.0.2.0/24"], "to": ["host"], "ports": ["22/tcp"]}


def defaults(verdict: str, **others: str) -> dict[str, str]:
    """One verdict for every class about containers; host_ingress stays open unless it is named."""
    return {**dict.fromkeys(CLASSES, verdict), "host_ingress": "allow", **others}


class Bench:
    """../bench.py in the machine. `bench.probe(probes=[...])` is its request "probe"."""

    def __init__(self, machine: Machine) -> None:
        machine.must_live()
        self.machine = machine
        self.process = subprocess.Popen(
            ssh.argv(machine, ["python3 /root/engine/bench.py"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name: str) -> Any:
        return lambda **words: self.ask(name, **words)

    def ask(self, name: str, **words: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"do": name, **words}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.machine.must_live()
            raise AssertionError("the bench ended")
        answer = json.loads(line)
        if os.environ.get("BENCH_TIMES"):
            print(f"{answer['seconds']:6.2f} s {name}", file=sys.stderr)
        assert "trouble" not in answer, answer["trouble"]
        return answer["value"]

    def commit(self, *rules: dict[str, Any], default: str = "deny", **policy: Any) -> dict[str, Any]:
        """Applies a policy; it must be accepted. `default` is every class's but those in `defaults`."""
        wanted = {**policy, "rules": list(rules)}
        wanted["defaults"] = defaults(default, **policy.get("defaults") or {})
        answer: dict[str, Any] = self.ask("apply", policy=wanted)
        assert "error" not in answer, answer
        return answer

    def reach(self, *paths: tuple[str, dict[int, str] | str, Any], seconds: float = SECONDS) -> list[str]:
        """(from, address or its table by family, service): the results; a table gives IPv4's and IPv6's as "a b"."""
        asked, sizes = [], []
        for source, target, service in paths:
            addresses = [target] if isinstance(target, str) else list(target.values())
            sizes.append(len(addresses))
            proto, _, port = service.rpartition(":") if isinstance(service, str) else ("tcp", "", service)
            for address in addresses:
                probe = {"from": source, "to": "", "host": address, "family": 6 if ":" in address else 4}
                probe.update({"proto": proto or "icmp", "port": int(port or 0) if proto else 0})
                asked.append({**probe, "timeout": seconds})
        answers = [self._word(answer) for answer in self.ask("probe", probes=asked)]
        found = []
        for size in sizes:
            found.append(" ".join(answers[:size]))
            answers = answers[size:]
        return found

    @staticmethod
    def _word(answer: dict[str, Any]) -> str:
        slow = answer["result"] == "timeout" and answer["detail"].startswith("connected")
        if answer["detail"] == "EPERM":  # the sender itself was told, by netfilter and not by a packet
            return "forbidden"
        return "half-open" if slow else str(answer["result"])

    def grown(self, before: dict[str, int], after: dict[str, int] | None = None) -> dict[str, int]:
        """What the counters say since then, once they have settled; without what did not move."""
        now = after or self.ask("settled")
        moved = {name: count - before.get(name, 0) for name, count in now.items()}
        return {name: count for name, count in moved.items() if count}


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    found = Bench(Machine(NAME))
    yield found
    assert found.process.stdin
    found.process.stdin.close()
    assert found.process.wait(10) == 0


#: What is run of this folder, unless BRIDGEWARDEN_FULL is set: everything in the scenario default; in oldest, whose Docker is
#: another, what depends on Docker. What depends on the kernel runs on every kernel by `python -m stress.topologies`.
SHORT = {"oldest": ("test_docker_proxy.py", "test_kernel.py")}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Last comes what restarts dockerd, and then what reloads the module and looks at what the kernel has said all the time."""
    late = ["test_docker_proxy.py", "test_kernel.py"]
    items.sort(key=lambda item: late.index(item.path.name) if item.path.name in late else -1)
    wanted = None if os.environ.get("BRIDGEWARDEN_FULL") else SHORT.get(SCENARIO)
    if wanted:
        left_out = [item for item in items if item.path.parent == HERE and item.path.name not in wanted]
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
