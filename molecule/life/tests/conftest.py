# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host goes through: faults done to a real one, judged by a prober that connects all the time.

One process inside the machine (../guest.py) does whatever is asked here, so a question costs milliseconds. Its world is a network
`life` with ada and bob (life=friend) and eve, see ../host_vars for the rules. Figures go to build/agent/life-*.json.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import ssh
from lab.machine import Machine
from lab.paths import GUEST

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
_spec = importlib.util.spec_from_file_location(
    "shared_conftest", PROJECT / "molecule/_shared/tests/conftest.py"
)
assert _spec and _spec.loader
shared = importlib.util.module_from_spec(_spec)
sys.modules["shared_conftest"] = shared
_spec.loader.exec_module(shared)

RESULTS = PROJECT / "build" / "agent"
NAME = os.environ.get("LAB_MACHINE") or f"mol-{os.environ.get('MOLECULE_SCENARIO_NAME', 'life')}"
THERE = "/root/life"
AGENT = "bridgewarden-agent"

#: Long enough for `make test`; docs/life.md says what a full measurement takes.
STARTS = int(os.environ.get("LIFE_STARTS", "8"))
CHURN_SECONDS = int(os.environ.get("LIFE_CHURN", "40"))
CONTAINERS = int(os.environ.get("LIFE_CONTAINERS", "12"))

PORT = 7000
HOST = ("10.10.10.2", "2001:db8:10::2")


def addresses(last: int) -> tuple[str, str]:
    """Of a container of ours, see `create` in ../guest.py."""
    return f"172.29.7.{last}", f"fd00:db8:29::ff{last}"


def pair(name: str, source: str, hosts: tuple[str, str], port: int = PORT) -> list[dict[str, Any]]:
    """Over IPv4 and IPv6."""
    return [
        {"id": f"{name} ipv{6 if ':' in host else 4}", "from": source, "hosts": [host], "port": port}
        for host in hosts
    ]


#: Those that must be open get longer: on a busy computer slow is not closed.
ALLOWED = [
    {**row, "timeout": 8.0}
    for row in pair("ada-bob", "ada", addresses(11)) + pair("office-ada", "office", HOST, 7001)
]
DENIED = (
    pair("eve-bob", "eve", addresses(11))
    + pair("ada-eve", "ada", addresses(12))
    + pair("stranger-ada", "stranger", HOST, 7001)
    + pair("office-eve", "office", HOST, 7003)
)


class Life:
    """../guest.py in the machine; `life.run("x", friend=True)` is its request "run"."""

    def __init__(self, machine: Machine) -> None:
        machine.must_live()
        self.machine = machine
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(HERE.parent / "guest.py", "guest.py")
            tar.add(GUEST / "bw-probe.py", "bw_probe.py")
        unpack = f"rm -rf {THERE} && mkdir -p {THERE} && tar -C {THERE} -xf -"
        subprocess.run(ssh.argv(machine, [unpack]), input=packed.getvalue(), check=True)
        self.process = subprocess.Popen(
            ssh.argv(machine, [f"python3 {THERE}/guest.py"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **words: self.ask(name, *args, **words)

    def ask(self, name: str, *args: Any, **words: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        began = time.monotonic()
        self.process.stdin.write(json.dumps({"do": name, "args": args, "words": words}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            self.machine.must_live()
            raise AssertionError("the process in the machine ended")
        answer = json.loads(line)
        if os.environ.get("LIFE_TIMES"):
            print(f"{time.monotonic() - began:6.2f} s {name} {args}", file=sys.stderr)
        assert "trouble" not in answer, answer["trouble"]
        return answer["value"]

    def until(self, check: Callable[[], bool], seconds: float = 60, what: str = "") -> float:
        """How long it took until it held."""
        began = time.monotonic()
        while not check():
            assert time.monotonic() - began < seconds, f"not within {seconds:.0f} s: {what or check}"
            time.sleep(0.3)
        return time.monotonic() - began

    def steady(self, read: Callable[[], Any], seconds: float) -> Any:
        """What it reads, once that has been the same for so long."""
        last, since = read(), time.monotonic()

        def same() -> bool:
            nonlocal last, since
            now = read()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= seconds

        self.until(same, 60 + seconds, f"the same for {seconds:.0f} s")
        return last

    def until_known(self, seconds: float = 60) -> float:
        """Until the kernel knows exactly the containers that run."""

        def known() -> bool:
            found = self.endpoints()
            return bool(found["kernel"] == found["docker"])

        return self.until(known, seconds, "the kernel's endpoints are not Docker's")

    def until_open(self, ids: list[str], seconds: float = 90) -> float:
        """Until each of these pairs, watched already, opened anew."""
        since = self.now()

        def opened() -> bool:
            seen = self.watched(since)
            return all(seen.get(name, {}).get("open") for name in ids)

        return self.until(opened, seconds, f"{ids} do not open")


class Watch:
    """What the prober saw since it began."""

    def __init__(self, life: Life, *more: dict[str, Any]) -> None:
        self.life = life
        self.since: float = life.watch([*ALLOWED, *DENIED, *more])

    def again(self) -> Watch:
        """From now on."""
        self.since = self.life.now()
        return self

    def tried(self, times: int) -> Watch:
        """Until each pair was tried so often from now on: two a second, or fewer on a busy machine."""
        self.life.tried(times)
        return self

    def seen(self) -> dict[str, Any]:
        """What was denied was not open, not once."""
        found: dict[str, Any] = self.life.watched(self.since)
        wrong = {
            row["id"]: found[row["id"]]
            for row in DENIED
            if row["id"] in found
            and (found[row["id"]]["open"] or (found[row["id"]]["half"] and not proxied(row)))
        }
        assert not wrong, wrong
        tried = [found[row["id"]]["closed"] for row in DENIED if row["id"] in found]
        assert sum(tried) >= len(DENIED), f"hardly a denied connection was tried: {found}"
        return found

    def all_open(self) -> dict[str, Any]:
        """And what is allowed was open each time."""
        found = self.seen()
        shut = {row["id"]: found[row["id"]] for row in ALLOWED if not always_open(found[row["id"]])}
        assert not shut, shut
        return found


def proxied(row: dict[str, Any]) -> bool:
    """Over docker-proxy, which completes a handshake before the policy knows its container, see docs/coverage.md."""
    return row["id"].startswith(("office", "stranger")) and row["id"].endswith("ipv6")


def always_open(row: dict[str, Any]) -> bool:
    return bool(row["open"] and not row["closed"] and not row["half"] and not row["absent"])


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


def gaps(found: dict[str, Any]) -> dict[str, float]:
    """For how long each allowed pair was shut at most."""
    return {row["id"]: found[row["id"]]["longest_gap"] for row in ALLOWED}


@pytest.fixture(scope="session")
def life() -> Iterator[Life]:
    found = Life(Machine(NAME))
    found.world()
    yield found
    assert found.process.stdin
    found.process.stdin.close()
    assert found.process.wait(60) == 0


@pytest.fixture
def watch(life: Life) -> Callable[..., Watch]:
    return lambda *more: Watch(life, *more)


@pytest.fixture(scope="session")
def record() -> Callable[..., None]:
    """Keeps figures under a name."""

    def keep(name: str, **figures: Any) -> None:
        RESULTS.mkdir(parents=True, exist_ok=True)
        (RESULTS / f"life-{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")

    return keep


ORDER = ("starts", "metrics", "churn", "agent", "host", "files", "dockerd", "firewall", "module")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From what disturbs least to what disturbs most."""
    items.sort(
        key=lambda item: (
            [item.path.stem == f"test_{name}" for name in ORDER].index(True)
            if "after" in item.path.parts
            else -1
        )
    )
