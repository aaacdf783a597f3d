# SPDX-License-Identifier: GPL-3.0-or-later
"""What is measured: engines by name, the steps that set each up in the machine (guest.py), rulesets and files they load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import Ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Action

from bench.rulesets import ruleset

Plan = list[dict[str, Any]]
EVERY = ["established", "many", "new"]

RULESETS: dict[str, Callable[[], Ruleset]] = {
    "10": lambda: ruleset(10),
    "1000": lambda: ruleset(1000),
    "100000": lambda: ruleset(100_000),
    "drop": lambda: ruleset(1000, Action.DENY),
    "group": lambda: ruleset(1000, prefixes=10_000),
    "elsewhere": lambda: ruleset(1000, guard="br-elsewhere", link=0),
}
ENTRIES: dict[str, int] = {}


def engine(
    name: str, *steps: list[Any], entries: int | None = None, flows: list[str] | None = None, **words: Any
) -> Plan:
    if entries is not None:
        ENTRIES[name] = entries
    return [{"name": name, "steps": list(steps), "families": [4, 6], "flows": flows or EVERY, **words}]


def ours() -> Plan:
    return [
        *engine("bridgewarden, empty", ["load"]),
        *engine("bridgewarden, unguarded links", ["ruleset", "elsewhere"], entries=1000),
        *(
            one
            for n in (10, 1000, 100_000)
            for one in engine(f"bridgewarden {n}", ["ruleset", str(n)], entries=n)
        ),
        *engine("bridgewarden, group of 10000 prefixes", ["ruleset", "group"], entries=1000),
        *engine("bridgewarden, drop", ["ruleset", "drop"], entries=1000, flows=["established"], passes=False),
    ]


BASE = [*engine("base"), *engine("floor", ["floor"])]
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
    "own": [*BASE, *ours(), *DOCKER, *TRACES],
    "traces": [*BASE[:1], *ours()[3:4], *TRACES],
}
PLANS["all"] = PLANS["own"]
