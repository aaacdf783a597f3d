# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rule is about: published ports, ranges, ICMP by type, protocols by number; `direct` and `except`."""

from __future__ import annotations

import struct
from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, STRANGER, UPLINK, Bench


def rule(name: str, *to: str, **words: Any) -> dict[str, Any]:
    return {"name": name, "from": ["any"], "to": list(to) or ["container:alpha"], **words}


# Ports


@pytest.fixture(scope="module")
def ranged(bench: Bench) -> dict[str, str]:
    ways = [("beta", ALPHA, 8080), ("beta", ALPHA, 8081), ("beta", ALPHA, 8090), ("beta", ALPHA, "udp:9000")]
    names = ("8080", "8081", "8090", "udp")
    found = {}
    for ports in (
        ["8080-8081/tcp"],
        ["8081-8090/tcp"],
        ["9000/udp"],
        ["9001-9100/udp"],
        ["tcp"],
        ["1-65535/udp"],
    ):
        bench.commit(rule("range", ports=ports))
        found.update(zip([(ports[0], name) for name in names], bench.reach(*ways), strict=True))
    return found


@pytest.mark.parametrize(
    "ports, opened",
    [
        ("8080-8081/tcp", {"8080", "8081"}),
        ("8081-8090/tcp", {"8081", "8090"}),
        ("9000/udp", {"udp"}),
        ("9001-9100/udp", set()),
        ("tcp", {"8080", "8081", "8090"}),
        ("1-65535/udp", {"udp"}),
    ],
)
@pytest.mark.parametrize("name", ("8080", "8081", "8090", "udp"))
def test_port_range(ranged: dict[tuple[str, str], str], ports: str, opened: set[str], name: str) -> None:
    assert ranged[ports, name] == ("open open" if name in opened else "timeout timeout")


PUBLISHED = {
    "tcp": ("office", UPLINK, 18080),
    "udp": ("office", UPLINK, "udp:19000"),
    "directly": ("office", ALPHA, 8080),
    "another's": ("office", UPLINK[4], 18081),
    "own number": ("office", ALPHA, 8081),
}


@pytest.fixture(scope="module")
def published(bench: Bench) -> dict[tuple[str, str], str]:
    found = {}
    for ports in ("18080/tcp", "18000-19000/tcp", "19000/udp", "18081/tcp"):
        bench.commit(rule("published", published=[ports]), defaults={"from_host": "allow"})
        found.update(
            zip([(ports, name) for name in PUBLISHED], bench.reach(*PUBLISHED.values()), strict=True)
        )
    return found


@pytest.mark.parametrize(
    "ports, opened",
    [
        ("18080/tcp", {"tcp"}),
        ("18000-19000/tcp", {"tcp"}),
        ("19000/udp", {"udp"}),
        ("18081/tcp", set()),  # not alpha's
    ],
)
@pytest.mark.parametrize("name", PUBLISHED)
def test_published(published: dict[tuple[str, str], str], ports: str, opened: set[str], name: str) -> None:
    got = published[ports, name].split()
    assert set(got) == ({"open"} if name in opened else {"timeout"})


@pytest.fixture(scope="module")
def direct(bench: Bench) -> dict[bool, list[str]]:
    found = {}
    for wanted in (False, True):
        bench.commit(rule("a rule", ports=["8080/tcp"], direct=wanted), defaults={"from_host": "allow"})
        found[wanted] = bench.reach(
            ("office", ALPHA, 8080), ("office", UPLINK, 18080), ("office", ALPHA, 8081)
        )
    return found


def test_a_rule_opens_the_published_port_only(direct: dict[bool, list[str]]) -> None:
    assert direct[False] == ["timeout timeout", "open open", "timeout timeout"]


def test_direct_opens_the_containers_own_address_too(direct: dict[bool, list[str]]) -> None:
    assert direct[True] == ["open open", "open open", "timeout timeout"]


@pytest.fixture(scope="module")
def excepted(bench: Bench) -> dict[bool, list[str]]:
    lan = {"cidrs": ["10.10.10.0/24", "2001:db8:10::/64"]}
    found = {}
    for less in (False, True):
        body = {**lan, "except": list(STRANGER.values())} if less else lan
        bench.commit(
            {"name": "the lan", "from": ["lan"], "to": ["containers"], "ports": ["8080/tcp"], "direct": True},
            defaults={"from_host": "allow"},
            groups={"lan": body},
        )
        found[less] = bench.reach(
            *(
                (who, to, port)
                for who in ("office", "stranger")
                for to, port in ((UPLINK, 18080), (ALPHA, 8080))
            )
        )
    return found


def test_without_except_all_of_it_is_in(excepted: dict[bool, list[str]]) -> None:
    assert excepted[False] == ["open open"] * 4


def test_except_takes_out_one_address_a_family(excepted: dict[bool, list[str]]) -> None:
    assert excepted[True] == ["open open"] * 2 + ["timeout timeout"] * 2


# Protocols without a socket to try them with: raw packets from beta, looked for at alpha.


def raw(family: int, protocol: int, payload: bytes, want: bytes) -> dict[str, Any]:
    packet = p.ip(BETA[family], ALPHA[family], protocol, payload)
    return {
        "from": "beta",
        "network": "left",
        "via": "alpha",
        "l3": [packet.hex()],
        "want": want.hex(),
        "at": ["alpha"],
    }


def marked(name: str) -> bytes:
    return f"<{name}>".encode()


def icmp_of(family: int, kind4: int, kind6: int, name: str) -> dict[str, Any]:
    want = marked(f"{name} {family}")
    rest = struct.pack("!HH", 7, 1)
    if family == 4:
        return raw(4, p.ICMP, p.icmp(kind4, 0, rest, want), want)
    return raw(6, p.ICMP6, p.icmp6(BETA[6], ALPHA[6], kind6, 0, rest, want), want)


def shots() -> dict[tuple[str, int], dict[str, Any]]:
    found = {}
    for family in (4, 6):
        sctp = p.sctp_init((6000, 5000), 0xABCD0000 + family)
        other = p.sctp_init((6000, 5001), 0xABCE0000 + family)
        found["sctp", family] = raw(family, p.SCTP, sctp, sctp[16:20])
        found["other sctp", family] = raw(family, p.SCTP, other, other[16:20])
        found["proto 253", family] = raw(family, 253, marked(f"253 {family}"), marked(f"253 {family}"))
        found["proto 254", family] = raw(family, 254, marked(f"254 {family}"), marked(f"254 {family}"))
        found["echo", family] = icmp_of(family, 8, 128, "echo")
        found["another type", family] = icmp_of(family, 13, 139, "another")
    return found


SHOTS = shots()
OPENED_BY = {
    "5000/sctp": {"sctp"},
    "sctp": {"sctp", "other sctp"},
    "proto:253": {"proto 253"},
    "icmp": {"echo", "another type"},
    "icmp:8": {"echo"},
    "icmp:13": {"another type"},
    "icmpv6:128": {"echo"},
    "icmpv6:139": {"another type"},
}


@pytest.fixture(scope="module")
def arrived(bench: Bench) -> dict[tuple[str, str, int], bool]:
    found = {}
    for ports in OPENED_BY:
        bench.commit(rule("a protocol", ports=[ports]))
        got = bench.shoot(shots=list(SHOTS.values()))
        found.update({(ports, *key): bool(at) for key, at in zip(SHOTS, got, strict=True)})
    return found


@pytest.mark.parametrize("key", SHOTS, ids=lambda key: f"{key[0]}-ipv{key[1]}")
@pytest.mark.parametrize("ports", OPENED_BY)
def test_protocol(arrived: dict[tuple[str, str, int], bool], ports: str, key: tuple[str, int]) -> None:
    of_the_family = {"icmp": 4, "icmpv6": 6}.get(ports.partition(":")[0], key[1]) == key[1]
    assert arrived[(ports, *key)] == (key[0] in OPENED_BY[ports] and of_the_family)


def test_ping(bench: Bench) -> None:
    """The whole way, there and back."""
    found = []
    for ports in ("icmp:8", "icmpv6:128", "icmp:13"):
        bench.commit(rule("ping", ports=[ports]))
        found += bench.reach(("beta", ALPHA, "icmp:"), seconds=1.5)
    assert found == ["open timeout", "timeout open", "timeout timeout"]
