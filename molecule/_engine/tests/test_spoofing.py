# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody gains by an address that is not his: at the guard, on the same bridge and routed, and when an address is handed on."""

from __future__ import annotations

from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, GAMMA, OFFICE, Bench

SHARE = {"name": "beta reaches alpha", "from": ["container:beta"], "to": ["container:alpha"]}
SHOTS = 3


def shots(
    source: dict[int, str], target: dict[int, str], via: str, at: str, network: str = "left"
) -> list[dict[str, Any]]:
    """From beta, or gamma's network, with that source address; three packets a family."""
    found = []
    for v in (4, 6):
        mark = f"<{source[v]}>".encode()
        udp = p.udp(source[v], target[v], (45000, 9000), mark)
        packet = p.ip(source[v], target[v], p.UDP, udp).hex()
        sender = "beta" if network == "left" else "gamma"
        found.append(
            {
                "from": sender,
                "network": network,
                "via": via,
                "l3": [packet] * SHOTS,
                "want": mark.hex(),
                "at": [at],
            }
        )
    return found


UNKNOWN = {4: "172.28.1.99", 6: "fd00:db8:11::99"}
#: who is claimed: (source, target, via, at, network), what it counts as
CLAIMS = {
    "its own address": (shots(BETA, ALPHA, "alpha", "alpha"), None),
    "its own address, routed": (shots(BETA, GAMMA, "gateway", "gamma"), None),
    "its neighbour's, to another network": (shots(ALPHA, GAMMA, "gateway", "gamma"), "spoofed"),
    "its target's own": (shots(ALPHA, ALPHA, "alpha", "alpha"), "spoofed"),
    "another network's": (shots(GAMMA, ALPHA, "alpha", "alpha"), "spoofed"),
    "another network's, routed": (shots(GAMMA, OFFICE, "gateway", "office"), "spoofed"),
    "an outside address": (shots(OFFICE, ALPHA, "alpha", "alpha"), "unmanaged"),
    "nobody's": (shots(UNKNOWN, ALPHA, "alpha", "alpha"), "unmanaged"),
    "beta's, from gamma's network": (shots(BETA, ALPHA, "gateway", "alpha", "right"), "spoofed"),
}


@pytest.fixture(scope="module")
def claimed(bench: Bench) -> dict[str, tuple[list[list[str]], dict[str, int]]]:
    """With everything allowed: only whose address it is can stop a packet."""
    bench.commit(default="allow")
    bench.sh(
        command="for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done; conntrack -F"
    )  # or the host's own check would come first
    found = {}
    before = bench.settled()
    for name, (packets, _) in CLAIMS.items():
        arrived = bench.shoot(shots=packets, seconds=0.2)
        after = bench.settled()
        found[name] = arrived, bench.grown(before, after)
        before = after
    return found


@pytest.mark.parametrize("name", CLAIMS)
def test_claimed_address(claimed: dict[str, tuple[list[list[str]], dict[str, int]]], name: str) -> None:
    wanted = CLAIMS[name][1]
    arrived, grown = claimed[name]
    assert all(arrived) if wanted is None else not any(arrived)
    assert {reason: grown.get(reason, 0) for reason in ("spoofed", "unmanaged")} == {
        reason: 2 * SHOTS if reason == wanted else 0 for reason in ("spoofed", "unmanaged")
    }


# An address that is handed on


@pytest.fixture(scope="module")
def handed_on(bench: Bench) -> Any:
    """beta stops, and a new container has its addresses at once; nobody tells the kernel about it at first."""
    found: dict[str, Any] = {}
    new = f"docker run -d --name newcomer --network left --ip {BETA[4]} --ip6 {BETA[6]} bw-shop newcomer tcp:8080 udp:9000"
    ways = (("newcomer", ALPHA, 8080), ("alpha", BETA, 8080), ("host", BETA, 8080))
    bench.commit(SHARE, {"name": "to beta", "from": ["any"], "to": ["container:beta"]})
    found["beta itself"] = bench.reach(("beta", ALPHA, 8080), ("alpha", BETA, 8080), ("host", BETA, 8080))
    try:
        bench.sh(command=f"docker stop beta && {new}")
        before = bench.settled()
        found["at once"] = bench.reach(*ways)
        found["counted as"] = {
            name for name in bench.grown(before) if name in ("spoofed", "unmanaged", SHARE["name"])
        }
        bench.commit(SHARE, {"name": "to beta", "from": ["any"], "to": ["container:beta"]})
        found["known"] = bench.reach(*ways)
        bench.commit(SHARE, {"name": "to newcomer", "from": ["any"], "to": ["container:newcomer"]})
        found["allowed"] = bench.reach(*ways)
    finally:
        bench.sh(command="docker rm -f newcomer; docker start beta", check=False)
    bench.commit(SHARE, {"name": "to beta", "from": ["any"], "to": ["container:beta"]})
    found["beta again"] = bench.reach(("beta", ALPHA, 8080), ("alpha", BETA, 8080), ("host", BETA, 8080))
    return found


@pytest.mark.parametrize(
    "when, wanted",
    [
        ("beta itself", ["open open"] * 3),
        ("at once", ["timeout timeout", "timeout timeout", "refused refused"]),  # the host is told
        ("known", ["timeout timeout"] * 3),
        ("allowed", ["timeout timeout", "open open", "open open"]),
        ("beta again", ["open open"] * 3),
    ],
)
def test_an_address_handed_on_brings_no_rights(
    handed_on: dict[str, Any], when: str, wanted: list[str]
) -> None:
    assert handed_on[when] == wanted


def test_its_new_holder_is_unmanaged(handed_on: dict[str, Any]) -> None:
    assert handed_on["counted as"] == {"unmanaged"}
