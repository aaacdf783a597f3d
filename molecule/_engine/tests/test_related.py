# SPDX-License-Identifier: GPL-3.0-or-later
"""What belongs to another connection follows it: ICMP errors, path MTU discovery, FTP's data connections."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, OFFICE, UPLINK, Bench

CLOSED_PORT = 9999


def rule(source: str, target: str, *ports: str, **words: Any) -> dict[str, Any]:
    return {
        "name": f"{source} {target}",
        "from": [source],
        "to": [target],
        **({"ports": ports} if ports else {}),
        **words,
    }


# Real errors: nobody listens, and the answer is an ICMP error that no rule allows by itself.

NOBODY_THERE = {
    "same bridge": ("beta", ALPHA, rule("container:beta", "container:alpha", "udp")),
    "other bridge": ("gamma", ALPHA, rule("container:gamma", "container:alpha", "udp")),
    "egress": ("alpha", OFFICE, rule("container:alpha", "world", "udp")),
    "from the host": ("host", ALPHA, rule("host", "container:alpha", "udp")),
    "to the host": ("alpha", UPLINK, rule("container:alpha", "host", "udp")),
    "from outside": ("office", ALPHA, rule("world", "container:alpha", "udp", direct=True)),
}


@pytest.fixture(scope="module")
def unreachable(bench: Bench) -> dict[tuple[str, bool], str]:
    found = {}
    for allowed in (True, False):
        rules = [line for _, _, line in NOBODY_THERE.values()] if allowed else []
        bench.commit(*rules)
        ways = [(source, to, f"udp:{CLOSED_PORT}") for source, to, _ in NOBODY_THERE.values()]
        found.update(zip([(way, allowed) for way in NOBODY_THERE], bench.reach(*ways), strict=True))
    return found


@pytest.mark.parametrize("way", NOBODY_THERE)
def test_port_unreachable_comes_back(unreachable: dict[tuple[str, bool], str], way: str) -> None:
    assert unreachable[way, True] == "refused refused"


@pytest.mark.parametrize("way", NOBODY_THERE)
def test_no_error_about_what_was_dropped(unreachable: dict[tuple[str, bool], str], way: str) -> None:
    word = "forbidden" if way == "from the host" else "timeout"
    assert unreachable[way, False] == f"{word} {word}"


# Errors made by hand, about a flow that is there, was there, or never was.


def unreachable_error(family: int, quoted: bytes, sender: str, receiver: str) -> bytes:
    if family == 4:
        return p.ipv4(sender, receiver, p.ICMP, p.icmp(3, 3, bytes(4), quoted))
    return p.ipv6(sender, receiver, p.ICMP6, p.icmp6(sender, receiver, 1, 4, bytes(4), quoted))


def too_big_error(family: int, quoted: bytes, sender: str, receiver: str, mtu: int) -> bytes:
    if family == 4:
        return p.ipv4(sender, receiver, p.ICMP, p.icmp(3, 4, struct.pack("!HH", 0, mtu), quoted))
    return p.ipv6(sender, receiver, p.ICMP6, p.icmp6(sender, receiver, 2, 0, struct.pack("!I", mtu), quoted))


def datagram(source: str, target: str, ports: tuple[int, int]) -> bytes:
    return p.ip(source, target, p.UDP, p.udp(source, target, ports, b"quoted"))


@pytest.fixture(scope="module")
def by_hand(bench: Bench) -> Iterator[dict[tuple[str, int], str]]:
    """beta's flow to alpha:9000/udp; alpha sends errors about it while it is allowed, and after it was revoked."""
    found: dict[tuple[str, int], str] = {}
    flows = {f"beta{family}": 41000 + family for family in (4, 6)}
    allow = rule("container:beta", "container:alpha", "udp")
    bench.commit(allow)
    bench.connect(
        flows=[
            {
                "id": f"beta{v}",
                "from": "beta",
                "host": ALPHA[v],
                "port": 9000,
                "proto": "udp",
                "source_port": 41000 + v,
            }
            for v in (4, 6)
        ]
    )

    def send(when: str, ports: dict[int, tuple[int, int]]) -> None:
        before = bench.settled()
        bench.shoot(
            shots=[
                {
                    "from": "alpha", "network": "left", "via": "beta", "want": "ff", "at": [],
                    "l3": [unreachable_error(v, datagram(BETA[v], ALPHA[v], ports[v]), ALPHA[v], BETA[v]).hex()],
                }
                for v in (4, 6)
            ],
            seconds=0.5,
        )  # fmt: skip
        for v in (4, 6):
            found[when, v] = bench.pending_error(id=f"beta{v}")
        found[when + " invalid", 0] = str(bench.grown(before).get("invalid", 0))

    ports = {v: (41000 + v, 9000) for v in (4, 6)}
    assert set(bench.talk(ids=list(flows), text="first").values()) == {"yes"}
    send("a flow that is there", ports)
    send("a flow that never was", {4: (5, 6), 6: (5, 6)})
    assert set(bench.talk(ids=list(flows), text="second").values()) == {"yes"}
    bench.commit()
    send("a flow that was revoked", ports)
    bench.close(ids=list(flows))
    yield found


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize(
    "flow, error",
    [
        ("a flow that is there", "ECONNREFUSED"),
        ("a flow that never was", ""),
        ("a flow that was revoked", ""),
    ],
)
def test_error_by_hand(by_hand: dict[tuple[str, int], str], flow: str, error: str, family: int) -> None:
    assert by_hand[flow, family] == error


def test_an_error_about_nothing_is_invalid(by_hand: dict[tuple[str, int], str]) -> None:
    assert by_hand["a flow that is there invalid", 0] == "0"
    assert by_hand["a flow that never was invalid", 0] == "2"


# Path MTU


@pytest.fixture(scope="module")
def path_mtu(bench: Bench) -> Iterator[dict[str, dict[str, int]]]:
    """alpha's flow to the office: the uplink shrinks, then the office itself says that its way on is narrower."""
    found = {}
    ids = ["wide4", "wide6"]
    bench.commit(rule("container:alpha", "world", "udp"))
    bench.listen(at="office", port=7100, proto="udp")
    bench.sh(command="ip route flush cache; ip -6 route flush cache", at="alpha")
    bench.connect(
        flows=[
            {
                "id": f"wide{v}",
                "from": "alpha",
                "host": OFFICE[v],
                "port": 7100,
                "proto": "udp",
                "source_port": 42000 + v,
            }
            for v in (4, 6)
        ]
    )
    for name in ids:
        bench.send_large(id=name, size=1400)
    found["at first"] = bench.path_mtu(ids=ids)
    bench.sh(command="ip link set up0 mtu 1400")
    try:
        for name in ids:
            bench.send_large(id=name, size=1400)
        bench.talk(ids=ids, text="wait", seconds=1)
        found["the uplink shrank"] = bench.path_mtu(ids=ids)
        shots = []
        for v, mtu in ((4, 1300), (6, 1290)):
            seen = UPLINK[4] if v == 4 else ALPHA[6]  # masqueraded in IPv4
            error = too_big_error(v, datagram(seen, OFFICE[v], (42000 + v, 7100)), OFFICE[v], seen, mtu)
            shots.append(
                {
                    "from": "office",
                    "network": "lan",
                    "via": "gateway",
                    "l3": [error.hex()],
                    "want": "ff",
                    "at": ["alpha"],
                }
            )
        bench.commit()
        bench.shoot(shots=shots, seconds=0.5)
        found["revoked, and narrower beyond"] = bench.path_mtu(ids=ids)
        bench.commit(rule("container:alpha", "world", "udp"))
        bench.shoot(shots=shots, seconds=0.5)
        found["narrower beyond"] = bench.path_mtu(ids=ids)
    finally:
        bench.sh(command="ip link set up0 mtu 1500")
        bench.close(ids=ids)
    yield found


@pytest.mark.parametrize(
    "when, mtu4, mtu6",
    [
        ("at first", 1500, 1500),
        ("the uplink shrank", 1400, 1400),
        ("revoked, and narrower beyond", 1400, 1400),
        ("narrower beyond", 1300, 1290),
    ],
)
def test_path_mtu(path_mtu: dict[str, dict[str, int]], when: str, mtu4: int, mtu6: int) -> None:
    assert path_mtu[when] == {"wide4": mtu4, "wide6": mtu6}


# FTP. The containers echo, so the client makes the server say what it likes: conntrack's helper only reads along.

HELPER = """table inet ftp {
  ct helper ftp { type "ftp" protocol tcp; }
  chain pre { type filter hook prerouting priority -150; tcp dport 21 ct helper set "ftp"; }
}"""


def passive(family: int, port: int) -> str:
    if family == 4:
        return "227 Entering Passive Mode ({},{},{}).".format(
            ALPHA[4].replace(".", ","), port >> 8, port & 255
        )
    return f"229 Entering Extended Passive Mode (|||{port}|)"


def active(family: int, port: int) -> str:
    if family == 4:
        return "PORT {},{},{}\r".format(BETA[4].replace(".", ","), port >> 8, port & 255)
    return f"EPRT |2|{BETA[6]}|{port}|"


@pytest.fixture(scope="module")
def ftp(bench: Bench) -> dict[tuple[str, str], str]:
    found: dict[tuple[str, str], str] = {}
    allow = rule("container:beta", "container:alpha", "21/tcp")
    ids = [f"{mode}{v}" for mode in ("passive", "active") for v in (4, 6)]
    clean = "nft delete table inet ftp; conntrack -D -p tcp --dport 21"
    try:
        for state in ("no helper", "allowed", "revoked"):
            if state != "no helper":
                bench.sh(command=f"nft '{HELPER}'")
            bench.commit(allow)
            bench.connect(
                flows=[{"id": name, "from": "beta", "host": ALPHA[int(name[-1])], "port": 21} for name in ids]
            )
            for v in (4, 6):  # on connections of their own: a newer announcement replaces an older one
                bench.talk(
                    ids=[f"active{v}"], text="USER somebody"
                )  # the helper skips what a client says first
                said = bench.talk(ids=[f"passive{v}"], text=passive(v, 8090))
                said.update(bench.talk(ids=[f"active{v}"], text=active(v, 8090)))
                assert set(said.values()) == {"yes"}, (state, said)
            if state == "revoked":
                bench.commit()
            found[state, "passive"], found[state, "active"], found[state, "another port"] = bench.reach(
                ("beta", ALPHA, 8090), ("alpha", BETA, 8090), ("beta", ALPHA, 8080)
            )
            bench.close(ids=ids)
            bench.sh(command=clean, check=False)
    finally:
        bench.sh(command=clean, check=False)
    return found


@pytest.mark.parametrize("data", ("passive", "active"))
@pytest.mark.parametrize(
    "state, wanted",
    [("no helper", "timeout timeout"), ("allowed", "open open"), ("revoked", "timeout timeout")],
)
def test_data_connection_follows_its_control_connection(
    ftp: dict[tuple[str, str], str], state: str, wanted: str, data: str
) -> None:
    assert ftp[state, data] == wanted


def test_only_the_announced_port_follows(ftp: dict[tuple[str, str], str]) -> None:
    assert ftp["allowed", "another port"] == "timeout timeout"
