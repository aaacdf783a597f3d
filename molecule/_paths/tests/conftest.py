# SPDX-License-Identifier: GPL-3.0-or-later
"""The ways of packets: a trace on a real host with containers, compared with what must be crossed, cell by cell.

Machine, containers and the process inside are the engine's (../../_engine). What is recorded is kept in
build/paths/KERNEL.json. LAB_MACHINE names another machine than the scenario's.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[2]
_spec = importlib.util.spec_from_file_location(
    "engine_conftest", PROJECT / "molecule/_engine/tests/conftest.py"
)
assert _spec and _spec.loader
engine = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(engine)

bench = engine.bench
pytest_collection_modifyitems = engine.pytest_collection_modifyitems
Json = dict[str, Any]
#: A crossing as PATHS.md's tables have it: namespace, hook, the packet's device, in, out, source, destination.
Row = tuple[str, str, str, str, str, str, str]
HOOKS = {
    "PRE_ROUTING": "prerouting",
    "LOCAL_IN": "input",
    "FORWARD": "forward",
    "LOCAL_OUT": "output",
    "POST_ROUTING": "postrouting",
}
COUNTER = "chain c{n} {{ type filter hook {hook} priority -500; {proto} dport {port} counter; {proto} sport {port} counter; }}"


class Case:
    """One probe and what a trace of it recorded."""

    def __init__(self, recorded: Json) -> None:
        assert "error" not in recorded, recorded
        self.recorded = recorded
        self.paths: list[Json] = recorded["paths"]
        self.result: str = recorded["results"][0]["result"]

    def path(self, detail: str, last: str = "", sender: str = "") -> Json:
        """The first packet that is `detail` ("tcp SYN"), sent by an address that begins like `sender`, ended in `last`."""
        for path in self.paths:
            if (
                path["detail"] == detail
                and path["from"].startswith(sender)
                and (not last or path["namespaces"][-1] == last)
            ):
                return path
        raise AssertionError(
            f"no {detail} among {[(p['detail'], p['from'], p['namespaces']) for p in self.paths]}"
        )


def rows(path: Json, *namespaces: str) -> list[Row]:
    """What the hooks at the first priority saw, in these namespaces."""
    found = []
    for step in path["steps"]:
        if step["event"] != "crossing" or step["position"] != "first" or step["namespace"] not in namespaces:
            continue
        ends = [step["from"], step["to"]]
        if step["from_port"] is not None:
            # The client's port is any: it is the other one that a table names.
            ports = [step["from_port"], step["to_port"]]
            ends = [f"{a} {'P' if p >= 32768 else p}" for a, p in zip(ends, ports)]
        found.append(
            (
                step["namespace"],
                step["hook"],
                step["dev"] or "-",
                step["in"] or "-",
                step["out"] or "-",
                *ends,
            )
        )
    return found


class Tracer:
    def __init__(self, bench: Any) -> None:
        self.bench = bench
        self.kept: Json = {}
        self.kernel = bench.sh(command="uname -r")["out"].strip()
        facts = bench.facts()
        self.bridge = {n["Name"]: n["Bridge"] for n in facts["networks"]}
        self.port = {
            c["Name"]: network["Port"]
            for c in facts["containers"]
            for network in c["Networks"].values()
            if network["Port"]
        }

    def __call__(
        self,
        name: str,
        source: str,
        host: str,
        to: int = 0,
        proto: str = "tcp",
        witness: tuple[str, ...] = (),
        **options: Any,
    ) -> Case:
        probe = {
            "from": source,
            "to": "",
            "host": host,
            "family": 6 if ":" in host else 4,
            "proto": proto,
            "port": to,
            "timeout": 1.6,
        }
        inner = options.pop("inner_port", to)
        self._count(witness, proto, (to, inner))
        recorded = self.bench.trace(options={"protocol": proto, **options}, probes=[probe])
        case = Case(recorded)
        self.kept[name] = {
            "result": case.result,
            "summary": recorded["summary"],
            "paths": [
                {k: v for k, v in path.items() if k != "steps"} | {"rows": rows(path, *path["namespaces"])}
                for path in case.paths
            ],
        }
        if witness:
            counted = self._counted(witness)
            assert self._crossed(case, witness) == counted and counted, name
            self.kept[name]["witness"] = {" ".join(key): count for key, count in counted.items()}
        assert (recorded["summary"]["lost"], recorded["summary"]["withheld"]) == (0, 0)
        return case

    def _count(self, namespaces: tuple[str, ...], proto: str, ports: tuple[int, int]) -> None:
        numbers = "{ %s }" % ", ".join(map(str, sorted(set(ports))))
        chains = "\n".join(
            COUNTER.format(n=i, hook=hook, proto=proto, port=numbers) for i, hook in enumerate(HOOKS.values())
        )
        for at in namespaces:
            self.bench.sh(
                command=f"nft -f - <<'END'\ntable inet bww\ndelete table inet bww\ntable inet bww {{\n{chains}\n}}\nEND",
                at=at,
            )

    def _counted(self, namespaces: tuple[str, ...]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for at in namespaces:
            listed = json.loads(
                self.bench.sh(command="nft -j list table inet bww; nft delete table inet bww", at=at)["out"]
            )
            for item in listed["nftables"]:
                if "rule" in item:
                    key = (at, list(HOOKS)[int(item["rule"]["chain"][1:])])
                    count = sum(e["counter"]["packets"] for e in item["rule"]["expr"] if "counter" in e)
                    found[key] = found.get(key, 0) + count
        return {key: count for key, count in found.items() if count}

    @staticmethod
    def _crossed(case: Case, namespaces: tuple[str, ...]) -> dict[tuple[str, str], int]:
        found: dict[tuple[str, str], int] = {}
        for path in case.paths:
            for step in path["steps"]:
                if (
                    step["event"] == "crossing"
                    and step["position"] == "first"
                    and step["namespace"] in namespaces
                ):
                    key = (step["namespace"], step["hook"])
                    found[key] = found.get(key, 0) + 1
        return found


@pytest.fixture(scope="session")
def trace(bench: Any) -> Iterator[Tracer]:
    tracer = Tracer(bench)
    yield tracer
    target = PROJECT / "build" / "paths" / f"{tracer.kernel}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"kernel": tracer.kernel, "cases": tracer.kept}, indent=1) + "\n")


@pytest.fixture
def bridge_setting(bench: Any) -> Iterator[Any]:
    def put(value: int) -> None:
        for name in ("iptables", "ip6tables"):
            bench.sh(command=f"sysctl -qw net.bridge.bridge-nf-call-{name}={value}")

    yield put
    put(1)
