# SPDX-License-Identifier: GPL-3.0-or-later
"""`explain` says what packets get: the same verdict, and the rule whose counter moves."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ALPHA, GAMMA, OFFICE, STRANGER, UPLINK, Bench

RULES = (
    {"name": "beta's two ports", "from": ["container:beta"], "to": ["label:tier=one"], "ports": ["8080-8081/tcp"]},
    {"name": "not that one", "action": "reject", "from": ["containers"], "to": ["container:alpha"], "ports": ["8081/tcp"]},
    {"name": "the web", "from": ["10.10.10.3/32", "2001:db8:10::3/128"], "to": ["container:alpha"], "ports": ["8080/tcp"]},
    {"name": "routed", "from": ["10.10.10.9/32", "2001:db8:10::9/128"], "to": ["container:alpha"], "ports": ["8090/tcp"], "direct": True},
    {"name": "pings", "from": ["any"], "to": ["containers"], "ports": ["icmp:8", "icmpv6:128"]},
    {"name": "names", "from": ["containers"], "to": ["world"], "ports": ["7400/udp"]},
)  # fmt: skip
#: The packet's way, what is asked of explain (from, to, service, direct), and the rule or reason it must name.
FLOWS: dict[str, tuple[tuple[str, Any, Any], tuple[Any, Any, str, bool], str, str]] = {
    "allowed": (("beta", ALPHA, 8080), ("beta", "alpha", "8080/tcp", False), "allow", "beta's two ports"),
    "rejected": (("beta", ALPHA, 8081), ("beta", "alpha", "8081/tcp", False), "reject", "not that one"),
    "no rule": (("beta", ALPHA, 8090), ("beta", "alpha", "8090/tcp", False), "deny", "default_inter_container"),
    "other bridge": (("gamma", ALPHA, 8080), ("gamma", "alpha", "8080/tcp", False), "deny", "default_inter_container"),
    "direct, no": (("office", ALPHA, 8080), (OFFICE, "alpha", "8080/tcp", True), "deny", "direct"),
    "direct, yes": (("stranger", ALPHA, 8090), (STRANGER, "alpha", "8090/tcp", True), "allow", "routed"),
    "published": (("office", {4: UPLINK[4]}, 18080), ({4: OFFICE[4]}, "alpha", "8080/tcp", False), "allow", "the web"),
    "published, another": (
        ("stranger", {4: UPLINK[4]}, 18080), ({4: STRANGER[4]}, "alpha", "8080/tcp", False), "deny", "default_ingress"
    ),
    "proxied": (("office", {6: UPLINK[6]}, 18080), ({6: OFFICE[6]}, {6: UPLINK[6]}, "18080/tcp", False), "allow", "the web"),
    "proxied, another": (
        ("stranger", {6: UPLINK[6]}, 18080), ({6: STRANGER[6]}, {6: UPLINK[6]}, "18080/tcp", False), "deny",
        "default_ingress",
    ),
    "ping": (("gamma", ALPHA, "icmp:"), ("gamma", "alpha", "icmp", False), "allow", "pings"),
    "egress": (("alpha", OFFICE, "udp:7400"), ("alpha", OFFICE, "7400/udp", False), "allow", "names"),
    "egress, no": (("alpha", OFFICE, "udp:7401"), ("alpha", OFFICE, "7401/udp", False), "deny", "default_egress"),
    "to the host": (("alpha", UPLINK, 7000), ("alpha", UPLINK, "7000/tcp", False), "deny", "default_to_host"),
    "from the host": (("host", GAMMA, 8080), ("host", "gamma", "8080/tcp", False), "allow", "default_from_host"),
}  # fmt: skip
WORDS = {"allow": "open", "deny": "timeout", "reject": "refused"}


def families(table: Any) -> list[int]:
    return list(table)


def question(flow: tuple[Any, Any, str, bool], v: int) -> list[Any]:
    source, target, service, direct = flow
    if service == "icmp":
        service = "icmp:8" if v == 4 else "icmpv6:128"
    return [
        source[v] if isinstance(source, dict) else source,
        target[v] if isinstance(target, dict) else target,
        service,
        direct,
    ]


CASES = [(name, v) for name, ((_, to, _), *_) in FLOWS.items() for v in families(to)]


@pytest.fixture(scope="module")
def outcome(bench: Bench) -> dict[tuple[str, int], dict[str, Any]]:
    bench.listen(at="office", port=7400, proto="udp")
    bench.commit(*RULES, defaults={"from_host": "allow"})
    bench.sh(command="conntrack -F")
    asked = [question(FLOWS[name][1], v) for name, v in CASES]
    answers = bench.explain(flows=asked)
    ways = [(FLOWS[name][0][0], FLOWS[name][0][1][v], FLOWS[name][0][2]) for name, v in CASES]
    words = bench.reach(*ways)
    found = {}
    before = bench.settled()
    for case, way, answer, word in zip(CASES, ways, answers, words, strict=True):
        mine = [one for one in answer if (":" in one["from"]) == (case[1] == 6)]
        bench.reach(way, seconds=0.3)  # one by one, to see which counter moves
        after = bench.settled()
        found[case] = {"answers": mine, "word": word, "grown": bench.grown(before, after)}
        before = after
    return found


@pytest.mark.parametrize("name, family", CASES)
def test_one_answer_a_family(outcome: Any, name: str, family: int) -> None:
    assert len(outcome[name, family]["answers"]) == 1


@pytest.mark.parametrize("name, family", CASES)
def test_explained_verdict(outcome: Any, name: str, family: int) -> None:
    assert outcome[name, family]["answers"][0]["action"] == FLOWS[name][2]


@pytest.mark.parametrize("name, family", CASES)
def test_packets_get_it(outcome: Any, name: str, family: int) -> None:
    assert outcome[name, family]["word"] == WORDS[FLOWS[name][2]]


@pytest.mark.parametrize("name, family", CASES)
def test_the_counter_that_moves_is_the_rules(outcome: Any, name: str, family: int) -> None:
    answer = outcome[name, family]["answers"][0]
    wanted = FLOWS[name][3]
    assert answer["rule"] == wanted or (answer["reason"] and not answer["rule"])
    passing = {"neighbour", "host_error", "default_from_host"} - {wanted}
    assert set(outcome[name, family]["grown"]) - passing == {wanted}
