# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: engines by name, the steps that set each up in the machine (guest.py), rulesets and files they load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Action
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset

from bench.flows import FLOWS
from bench.peers import LEGACY, ON_NFT
from bench.rulesets import ruleset

Plan = list[dict[str, Any]]
EVERY = ["established", "many", "new"]
SHORT = ("established", "new")
CLIENTS = [name for name, flow in FLOWS.items() if flow.clients > 1]
LOCAL = [name for name, flow in FLOWS.items() if flow.local]
BRIDGED_FLOWS = [name for name, flow in FLOWS.items() if flow.bridged]
#: How many entries the rulesets have that are compared.
SIZES = (10, 1000, 100_000)
#: What is not remembered is looked up in hash tables, and costs some slots more or less by their seed: the mean of so many.
SEEDS = 6

RULESETS: dict[str, Callable[[], Ruleset]] = {
    "10": lambda: ruleset(10),
    "1000": lambda: ruleset(1000),
    "100000": lambda: ruleset(100_000),
    "10 drop": lambda: ruleset(10, Action.DENY),
    "1000 drop": lambda: ruleset(1000, Action.DENY),
    "100000 drop": lambda: ruleset(100_000, Action.DENY),
    "1000 group": lambda: ruleset(1000, prefixes=100),
    "100000 group": lambda: ruleset(100_000, prefixes=100),
    "group": lambda: ruleset(1000, prefixes=10_000),
    "10 bridged": lambda: ruleset(10, bridged=True),
    "1000 bridged": lambda: ruleset(1000, bridged=True),
    "100000 bridged": lambda: ruleset(100_000, bridged=True),
    "1000 bridged drop": lambda: ruleset(1000, Action.DENY, bridged=True),
    "elsewhere": lambda: ruleset(1000, guard="br-elsewhere", link=0),
}
ENTRIES: dict[str, int] = {}


def rulesets_of(plan: Plan) -> set[str]:
    """The names of those it loads."""
    found: set[str] = set()
    for entry in plan:
        for words in entry["steps"]:
            if words[0] == "ruleset":
                found.add(words[1])
            elif words[0] == "swap":
                found.update(words[1])
    return found


def engine(
    name: str, *steps: list[Any], entries: int | None = None, flows: list[str] | None = None, **words: Any
) -> Plan:
    if entries is not None:
        ENTRIES[name] = entries
    return [{"name": name, "steps": list(steps), "families": [4, 6], "flows": flows or EVERY, **words}]


def ours() -> Plan:
    return [
        *engine("bridgewarden, empty", ["load"], flows=EVERY + LOCAL),
        *engine("bridgewarden, unguarded links", ["ruleset", "elsewhere"], entries=1000, flows=EVERY + LOCAL),
        *(
            one
            for n in SIZES
            for one in engine(
                f"bridgewarden {n}", ["ruleset", str(n)], entries=n, flows=EVERY + CLIENTS + LOCAL
            )
        ),
        *engine("bridgewarden, group of 10000 prefixes", ["ruleset", "group"], entries=1000),
        *(
            one
            for n in SIZES
            for one in SEEDS
            * engine(
                f"bridgewarden {n}, drop",
                ["ruleset", f"{n} drop"],
                entries=n,
                flows=["established", "new"],
                passes=False,
            )
        ),
    ]


def peer(
    name: str, kind: str, n: int, backend: str = LEGACY, first: bool = False, flows: tuple[str, ...] = SHORT
) -> Plan:
    return engine(name, ["peer", kind, n, backend, first], entries=n, flows=list(flows))


def peers() -> Plan:
    return [
        *(one for n in SIZES for one in peer(f"nft set {n}", "set", n)),
        *(one for n in SIZES for one in peer(f"nft verdict map {n}", "map", n)),
        *(one for n in SIZES for one in peer(f"ipset {n}", "ipset", n)),
        *(one for n in (10, 100, 1000) for one in peer(f"iptables legacy {n}", "linear", n)),
        *(one for n in (10, 100) for one in peer(f"iptables nft {n}", "linear", n, ON_NFT)),
        *peer("iptables nft 1000", "linear", 1000, ON_NFT, flows=("established",)),
        *peer("nft set 1000, established first", "set", 1000, first=True),
        *peer("ipset 1000, established first", "ipset", 1000, first=True),
    ]


def bridged() -> Plan:
    """Over a guarded bridge. Behind all that is routed: br_netfilter's hooks stay once there is a bridge."""

    def over(name: str, *steps: list[Any], entries: int | None = None, **words: Any) -> Plan:
        return engine(name, *steps, entries=entries, flows=BRIDGED_FLOWS, **words)

    return [
        *over("base"),
        *over("floor", ["floor"]),
        *over("bridgewarden, empty", ["load"]),
        *over("bridgewarden, unguarded links", ["ruleset", "elsewhere"], entries=1000),
        *(one for n in SIZES for one in over(f"bridgewarden {n}", ["ruleset", f"{n} bridged"], entries=n)),
        # That bridged packets are judged at all: none of these may pass.
        *over("bridgewarden 1000, drop", ["ruleset", "1000 bridged drop"], entries=1000, passes=False),
    ]


BASE = [*engine("base", flows=EVERY + CLIENTS + LOCAL), *engine("floor", ["floor"], flows=EVERY + LOCAL)]
DOCKER = [
    *engine("docker nft", ["docker", "-nft"]),
    *engine("docker legacy", ["docker", "-legacy"]),
    *engine("docker nft + bridgewarden", ["docker", "-nft"], ["ruleset", "1000"], entries=1000),
    *engine("docker legacy + bridgewarden", ["docker", "-legacy"], ["ruleset", "1000"], entries=1000),
]
TRACES = [
    *engine("trace of another port", ["ruleset", "1000"], ["trace", 9], entries=1000, flows=["established"]),
    *engine("trace of this port", ["ruleset", "1000"], ["trace", 80], entries=1000, flows=["established"]),
]
PLANS: dict[str, Plan] = {
    "quick": [
        *(dict(one, families=[4], flows=["established", "new"]) for one in BASE),
        *(dict(one, families=[4], flows=["established", "new"]) for one in ours()[:2]),
        *(
            dict(one, flows=["established", "new"])
            for one in engine("bridgewarden 10", ["ruleset", "10"], entries=10)
        ),
    ],
    "own": [*BASE, *ours(), *DOCKER, *TRACES, *bridged()],
    "traces": [*BASE[:1], *ours()[3:4], *TRACES],
    "clients": [
        dict(one, flows=["established", *CLIENTS])
        for one in (*BASE[:1], *engine("bridgewarden 1000", ["ruleset", "1000"], entries=1000))
    ],
    "host": [dict(one, flows=LOCAL) for one in (*BASE, *ours()[:4])],
    "bridged": bridged(),
    "peers": [*BASE[:1], *peers()],
    "all": [*BASE, *ours(), *DOCKER, *TRACES, *peers(), *bridged()],
}
#: Of the second machine: (rulesets, entries, how often).
SWAPS: Plan = [
    {"name": "swap", "steps": [["swap", ["1000", "1000 group"], 1000, 500]]},
    {"name": "swap", "steps": [["swap", ["100000", "100000 group"], 100_000, 100]]},
]
PLANS["swap"] = SWAPS
