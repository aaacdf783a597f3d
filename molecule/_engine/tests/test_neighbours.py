# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv6 finds its neighbours between guarded ports, whatever the policy; nobody poses as their router."""

from __future__ import annotations

import struct
from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, GAMMA, LEFT, Bench

FLUSH = "ip -6 neigh flush all; ip neigh flush all"


@pytest.fixture(scope="module")
def flushed(bench: Bench) -> dict[str, Any]:
    """Nobody knows anybody any more; then TCP, over one bridge and between two."""
    bench.commit(
        {"name": "one port", "from": ["containers"], "to": ["container:alpha"], "ports": ["8080/tcp"]}
    )
    for place in ("alpha", "beta", "gamma", "host"):
        bench.sh(
            command=FLUSH
            if place != "host"
            else "ip -6 neigh flush dev $(ip -o route get 172.28.1.10 | sed 's/.*dev \\([^ ]*\\).*/\\1/')",
            at=place,
        )
    before = bench.settled()
    found: dict[str, Any] = {"reached": bench.reach(("beta", ALPHA, 8080), ("gamma", ALPHA, 8080))}
    found["neighbours"] = bench.grown(before).get("neighbour", 0)
    found["known"] = bench.sh(command=f"ip -6 neigh show {ALPHA[6]}", at="beta")["out"]
    return found


def test_connections_come_about_with_empty_caches(flushed: dict[str, Any]) -> None:
    assert flushed["reached"] == ["open open", "open open"]


def test_it_was_neighbour_discovery_that_passed(flushed: dict[str, Any]) -> None:
    assert flushed["neighbours"] >= 2
    assert "lladdr" in flushed["known"]


def message(source: str, target: str, kind: int, body: bytes, hops: int) -> str:
    return p.ipv6(source, target, p.ICMP6, p.icmp6(source, target, kind, 0, bytes(4), body), hops).hex()


def shots() -> dict[str, dict[str, Any]]:
    mac = bytes.fromhex("020000000001")
    messages = {
        "solicitation": message(BETA[6], ALPHA[6], 135, p.packed(ALPHA[6]) + b"\x01\x01" + mac, 255),
        "solicitation from afar": message(BETA[6], ALPHA[6], 135, p.packed(ALPHA[6]) + b"\x01\x01" + mac[:-1] + b"\x02", 64),
        "advertisement": message(BETA[6], ALPHA[6], 136, p.packed(BETA[6]) + b"\x02\x01" + mac[:-1] + b"\x03", 255),
        "router advertisement": message(BETA[6], ALPHA[6], 134, struct.pack("!II", 0, 0) + b"\x01\x01" + mac[:-1] + b"\x04", 255),
        "redirect": message(BETA[6], ALPHA[6], 137, p.packed(GAMMA[6]) * 2 + b"\x02\x01" + mac[:-1] + b"\x05", 255),
    }  # fmt: skip
    return {
        name: {
            "from": "beta",
            "network": "left",
            "via": "alpha",
            "l3": [packet],
            "want": packet[-16:],
            "at": ["alpha"],
        }
        for name, packet in messages.items()
    }


@pytest.fixture(scope="module")
def arrived(bench: Bench) -> dict[str, bool]:
    bench.commit()
    got = bench.shoot(shots=list(shots().values()))
    bench.sh(command=FLUSH, at="alpha")  # it believed what it was told
    return {name: bool(at) for name, at in zip(shots(), got, strict=True)}


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("solicitation", True),
        ("advertisement", True),
        ("solicitation from afar", False),
        ("router advertisement", False),
        ("redirect", False),
    ],
)
def test_what_passes_without_a_rule(arrived: dict[str, bool], name: str, wanted: bool) -> None:
    assert arrived[name] == wanted


def test_the_hosts_router_is_found(bench: Bench) -> None:
    bench.commit({"name": "out", "from": ["containers"], "to": ["world"]}, default="deny")
    bench.sh(command=FLUSH, at="alpha")
    assert bench.reach(("alpha", {6: "2001:db8:10::3"}, "udp:4")) == ["refused"]
    assert "lladdr" in bench.sh(command=f"ip -6 neigh show {LEFT[6]}", at="alpha")["out"]
