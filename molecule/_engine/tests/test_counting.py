# SPDX-License-Identifier: GPL-3.0-or-later
"""Each packet is counted once, by one rule, although several hooks see it: bridged, routed, published, to and from the host."""

from __future__ import annotations

from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, GAMMA, LEFT, OFFICE, UPLINK, Bench

N = 7
#: way: (sender, network, via, addresses from and to, port)
WAYS = {
    "bridged": ("beta", "left", "alpha", BETA, ALPHA, 9000),
    "routed": ("gamma", "right", "gateway", GAMMA, ALPHA, 9000),
    "directly": ("office", "lan", "gateway", OFFICE, ALPHA, 9000),
    "published": ("office", "lan", "gateway", {4: OFFICE[4]}, {4: UPLINK[4]}, 19000),
    "egress": ("alpha", "left", "gateway", ALPHA, OFFICE, 7300),
    "to the host": ("alpha", "left", "gateway", ALPHA, LEFT, 7301),
}


def rules(action: str) -> list[dict[str, Any]]:
    def rule(name: str, source: str, target: str, *ports: str, **words: Any) -> dict[str, Any]:
        return {"name": name, "action": action, "from": [source], "to": [target], "ports": ports, **words}

    direct = {"direct": True} if action == "allow" else {}
    return [
        rule("bridged", "container:beta", "container:alpha", "9000/udp"),
        rule("routed", "container:gamma", "container:alpha", "9000/udp"),
        rule("from outside", "world", "container:alpha", "9000/udp", **direct),
        rule("egress", "container:alpha", "world", "7300/udp"),
        rule("to the host", "container:alpha", "host", "7301/udp"),
    ]


def shot(way: str, v: int, base: int) -> dict[str, Any]:
    sender, network, via, me, to, port = WAYS[way]
    packets = []
    for number in range(N):
        udp = p.udp(me[v], to[v], (base + number, port), b"counted")
        packets.append(p.ip(me[v], to[v], p.UDP, udp).hex())
    return {"from": sender, "network": network, "via": via, "l3": packets, "want": "ff", "at": []}


CASES = [(way, v) for way, facts in WAYS.items() for v in facts[4]]


@pytest.fixture(scope="module")
def denied(bench: Bench) -> dict[tuple[str, int], dict[str, int]]:
    found = {}
    bench.reach(
        ("beta", ALPHA, "icmp:"), ("gamma", ALPHA, "icmp:"), ("alpha", OFFICE, "icmp:")
    )  # neighbours known
    bench.sh(command="conntrack -F")
    bench.commit(*rules("deny"))
    before = bench.settled()
    for place, (way, v) in enumerate(CASES):
        bench.shoot(shots=[shot(way, v, 46000 + 20 * place)], seconds=0.1)
        after = bench.settled()
        found[way, v] = without_neighbours(bench.grown(before, after))
        before = after
    return found


@pytest.fixture(scope="module")
def allowed(bench: Bench) -> dict[tuple[str, int], dict[str, int]]:
    """Sockets ask and are answered, so that nobody sends an ICMP error for want of a socket."""
    found = {}
    for at, port in (("office", 7300), ("host", 7301)):
        bench.listen(at=at, port=port, proto="udp")
    bench.commit(*rules("allow"))
    before = bench.settled()
    for way, v in CASES:
        sender, _, _, _, to, port = WAYS[way]
        flow = {"id": "asking", "from": sender, "host": to[v], "port": port, "proto": "udp"}
        bench.connect(flows=[flow])
        for number in range(N):
            assert bench.talk(ids=["asking"], text=f"turn {number}") == {"asking": "yes"}
        after = bench.settled()
        found[way, v] = without_neighbours(bench.grown(before, after))
        before = after
        bench.close(ids=["asking"])
    return found


def without_neighbours(grown: dict[str, int]) -> dict[str, int]:
    return {name: n for name, n in grown.items() if name != "neighbour"}


def name_of(way: str) -> str:
    return "from outside" if way in ("directly", "published") else way


@pytest.mark.parametrize("way, family", CASES)
def test_denied_packets_count_once(denied: dict[Any, dict[str, int]], way: str, family: int) -> None:
    assert denied[way, family] == {name_of(way): N}


@pytest.mark.parametrize("way, family", CASES)
def test_allowed_packets_and_their_answers_count_once(
    allowed: dict[Any, dict[str, int]], way: str, family: int
) -> None:
    assert allowed[way, family] == {name_of(way): 2 * N}


@pytest.fixture(scope="module")
def from_host(bench: Bench) -> dict[str, int]:
    """Flows of the host's own: a connection is asked for once and answered once."""
    bench.commit(
        {"name": "the host asks", "from": ["host"], "to": ["container:alpha"], "ports": ["9000/udp"]}
    )
    bench.connect(
        flows=[
            {"id": f"h{v}", "from": "host", "host": ALPHA[v], "port": 9000, "proto": "udp"} for v in (4, 6)
        ]
    )
    before = bench.settled()
    for number in range(N):
        assert bench.talk(ids=["h4", "h6"], text=f"turn {number}") == {"h4": "yes", "h6": "yes"}
    grown = bench.grown(before)
    bench.close(ids=["h4", "h6"])
    return without_neighbours(grown)


def test_the_hosts_own_packets_count_once(from_host: dict[str, int]) -> None:
    assert from_host == {"the host asks": 4 * N}
