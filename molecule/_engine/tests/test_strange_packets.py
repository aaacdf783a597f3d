# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets out of the ordinary: each gets the stated treatment, on a bridge and between bridges, and none passes by accident.

beta (same bridge) and gamma (routed) send to alpha. Only udp/9000 and tcp/8080 are allowed in the first policy; only they are
denied, and all else allowed, in the second; in the third everything is allowed. So a packet that is judged by its real service
arrives in the third, and in exactly one of the others.
"""

from __future__ import annotations

from typing import Any

import packets as p
import pytest
from conftest import ALPHA, BETA, GAMMA, Bench

SENDERS = {"beta": ("left", "alpha", BETA), "gamma": ("right", "gateway", GAMMA)}
POLICIES = ("allow listed", "deny listed", "allow all")
GOOD, BAD = 9000, 9001  # UDP ports in and not in the list

#: What becomes of it. "judged": by its own service. "dropped": under every policy.
JUDGED, DROPPED = "judged", "dropped"


class Shots:
    """name, sender, family -> packets; whether the service is in the list; what becomes of it."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, Any]] = {}
        self.listed: dict[str, bool] = {}
        self.fate: dict[str, str] = {}
        self.count = 0

    def add(self, name: str, sender: str, family: int, fate: str, listed: bool, packets: list[bytes]) -> None:
        network, via, _ = SENDERS[sender]
        key = f"{name}-{sender}-ipv{family}"
        self.all[key] = {
            "from": sender, "network": network, "via": via, "l3": [packet.hex() for packet in packets],
            "want": self.mark.hex(), "at": ["alpha"],
        }  # fmt: skip
        self.listed[key], self.fate[key] = listed, fate

    @property
    def mark(self) -> bytes:
        return b"<%05d>!" % self.count  # eight bytes, so that fragments are easy to cut

    def next(self) -> bytes:
        self.count += 1
        return self.mark


def whole(shots: Shots, sender: str, family: int) -> None:
    """Plain ones, and what is wrong with a header."""
    me, to = SENDERS[sender][2][family], ALPHA[family]
    sport = 50000 + shots.count

    def add(name: str, fate: str, listed: bool, protocol: int, payload: bytes, **options: Any) -> None:
        make = p.ipv4 if family == 4 else p.ipv6
        shots.add(name, sender, family, fate, listed, [make(me, to, protocol, payload, **options)])

    add("udp", JUDGED, True, p.UDP, p.udp(me, to, (sport, GOOD), shots.next()))
    add("udp elsewhere", JUDGED, False, p.UDP, p.udp(me, to, (sport + 1, BAD), shots.next()))
    add("tcp syn", JUDGED, True, p.TCP, p.tcp(me, to, (sport + 2, 8080), p.SYN, data=shots.next()))
    add("tcp syn elsewhere", JUDGED, False, p.TCP, p.tcp(me, to, (sport + 3, 8081), p.SYN, data=shots.next()))
    add(
        "udp, wrong checksum",
        DROPPED,
        True,
        p.UDP,
        p.udp(me, to, (sport + 4, GOOD), shots.next(), wrong=True),
    )
    add(
        "tcp, wrong checksum",
        DROPPED,
        True,
        p.TCP,
        p.tcp(me, to, (sport + 5, 8080), p.SYN, data=shots.next(), wrong=True),
    )
    every = p.SYN | p.RST | p.PSH | p.ACK | 1
    add("tcp, all flags", DROPPED, True, p.TCP, p.tcp(me, to, (sport + 6, 8080), every, data=shots.next()))
    add("tcp, no flags", DROPPED, True, p.TCP, p.tcp(me, to, (sport + 7, 8080), 0, data=shots.next()))
    add(
        "tcp reset of nothing",
        DROPPED,
        True,
        p.TCP,
        p.tcp(me, to, (sport + 8, 8080), p.RST | p.ACK, data=shots.next()),
    )
    number, message = p.echo(me, to, shots.next(), sport)
    reply = p.icmp(0, 0, message[4:]) if family == 4 else p.icmp6(me, to, 129, 0, message[4:])
    add("echo reply to nobody", DROPPED, False, number, reply)
    add(
        "tcp, half a header",
        DROPPED,
        True,
        p.TCP,
        p.tcp(me, to, (sport + 9, 8080), p.SYN)[:2] + shots.next()[:8],
    )
    add("udp, half a header", DROPPED, True, p.UDP, b"#" + shots.next()[1:6])
    shots.all[f"udp, half a header-{sender}-ipv{family}"]["want"] = shots.mark[1:6].hex()
    add(
        "udp that claims more",
        DROPPED,
        True,
        p.UDP,
        p.udp(me, to, (sport + 10, GOOD), shots.next() + bytes(400))[:24],
    )
    add("an unknown protocol", JUDGED, False, 253, shots.next())


def fragmented(shots: Shots, sender: str, family: int) -> None:
    me, to = SENDERS[sender][2][family], ALPHA[family]

    def pieces(protocol: int, payload: bytes, cuts: list[tuple[int, int]]) -> list[bytes]:
        """Of the payload from byte to byte; multiples of 8."""
        found = []
        for begin, end in cuts:
            more = end < len(payload)
            if family == 4:
                found.append(
                    p.ipv4(me, to, protocol, payload[begin:end], ident=shots.count, offset=begin, more=more)
                )
            else:
                head = p.fragment(protocol, shots.count, begin, more)
                found.append(p.ipv6(me, to, p.FRAGMENT, head + payload[begin:end]))
        return found

    def datagram(port: int) -> bytes:
        mark = shots.next()  # beyond the first piece
        return p.udp(me, to, (51000 + shots.count, port), bytes(24) + mark + bytes(24))

    halves = [(0, 32), (32, 64)]
    shots.add("fragments", sender, family, JUDGED, True, pieces(p.UDP, datagram(GOOD), halves))
    shots.add("fragments elsewhere", sender, family, JUDGED, False, pieces(p.UDP, datagram(BAD), halves))
    shots.add(
        "fragments in disorder", sender, family, JUDGED, True, pieces(p.UDP, datagram(GOOD), halves[::-1])
    )
    shots.add(
        "tiny fragments elsewhere",
        sender,
        family,
        JUDGED,
        False,
        pieces(p.UDP, datagram(BAD), [(0, 8), (8, 64)]),
    )
    shots.add(
        "a last fragment alone", sender, family, DROPPED, True, pieces(p.UDP, datagram(GOOD), halves[1:])
    )
    mark = shots.next()
    lonely = p.udp(me, to, (51000 + shots.count, GOOD), mark + bytes(48))
    shots.add("a first fragment alone", sender, family, DROPPED, True, pieces(p.UDP, lonely, halves[:1]))
    overlapping = pieces(p.UDP, datagram(GOOD), [(0, 32), (24, 64)])
    shots.add("overlapping fragments", sender, family, DROPPED, True, overlapping)
    if family == 6:
        mark = shots.next()
        atomic = p.fragment(p.UDP, shots.count, 0, False) + p.udp(me, to, (51000 + shots.count, GOOD), mark)
        shots.add("an atomic fragment", sender, 6, JUDGED, True, [p.ipv6(me, to, p.FRAGMENT, atomic)])
        mark = shots.next()
        atomic = p.fragment(p.UDP, shots.count, 0, False) + p.udp(me, to, (51000 + shots.count, BAD), mark)
        shots.add(
            "an atomic fragment elsewhere", sender, 6, JUDGED, False, [p.ipv6(me, to, p.FRAGMENT, atomic)]
        )


def extended(shots: Shots, sender: str) -> None:
    me, to = SENDERS[sender][2][6], ALPHA[6]
    chains = {
        "hop-by-hop": lambda inner: (p.HOP_BY_HOP, p.extension(inner)),
        "destination options": lambda inner: (p.DESTINATION, p.extension(inner)),
        "routing": lambda inner: (p.ROUTING, p.routing(inner)),
        "three headers": lambda inner: (
            p.HOP_BY_HOP, p.extension(p.DESTINATION) + p.extension(p.ROUTING) + p.routing(inner)
        ),
        "a long destination header": lambda inner: (
            p.DESTINATION, p.extension(inner, bytes([1, 252]) + bytes(252) + bytes([1, 2, 0, 0]) + bytes([1, 2, 0, 0]))
        ),
    }  # fmt: skip
    for name, chain in chains.items():
        for port, listed in ((GOOD, True), (BAD, False)):
            mark = shots.next()
            first, headers = chain(p.UDP)
            payload = headers + p.udp(me, to, (52000 + shots.count, port), mark)
            suffix = "" if listed else " elsewhere"
            shots.add(name + suffix, sender, 6, JUDGED, listed, [p.ipv6(me, to, first, payload)])
    mark = shots.next()
    shots.add("nothing follows", sender, 6, DROPPED, False, [p.ipv6(me, to, p.NO_NEXT, mark)])
    mark = shots.next()
    promise = bytes([p.UDP, 30, 1, 4]) + bytes(4) + mark  # a header of 248 bytes, of which 16 are there
    shots.add("a header cut off", sender, 6, DROPPED, True, [p.ipv6(me, to, p.DESTINATION, promise)])
    mark = shots.next()
    behind = p.fragment(p.DESTINATION, shots.count, 0, True) + p.extension(p.UDP) + mark
    shots.add(
        "a header chain cut by fragments", sender, 6, DROPPED, True, [p.ipv6(me, to, p.FRAGMENT, behind)]
    )


def options4(shots: Shots, sender: str) -> None:
    me, to = SENDERS[sender][2][4], ALPHA[4]
    for port, listed in ((GOOD, True), (BAD, False)):
        mark = shots.next()
        payload = p.udp(me, to, (53000 + shots.count, port), mark)
        name = "options" + ("" if listed else " elsewhere")
        shots.add(name, sender, 4, JUDGED, listed, [p.ipv4(me, to, p.UDP, payload, options=bytes([1] * 8))])


def all_shots() -> Shots:
    shots = Shots()
    for sender in SENDERS:
        for family in (4, 6):
            whole(shots, sender, family)
            fragmented(shots, sender, family)
        extended(shots, sender)
        options4(shots, sender)
    return shots


SHOTS = all_shots()


def policy(name: str) -> dict[str, Any]:
    words = {
        "name": "listed",
        "from": ["containers"],
        "to": ["container:alpha"],
        "ports": ["9000/udp", "8080/tcp"],
        "action": "deny" if name == "deny listed" else "allow",
    }
    return {
        "rules": [] if name == "allow all" else [words],
        "default": "deny" if name == "allow listed" else "allow",
    }


def commit(bench: Bench, name: str) -> None:
    wanted = policy(name)
    bench.commit(*wanted["rules"], default=wanted["default"])


@pytest.fixture(scope="module")
def arrived(bench: Bench) -> dict[tuple[str, str], bool]:
    found = {}
    for name in POLICIES:
        bench.sh(command="conntrack -F")
        commit(bench, name)
        got = bench.shoot(shots=list(SHOTS.all.values()))
        found.update({(name, key): bool(at) for key, at in zip(SHOTS.all, got, strict=True)})
    return found


@pytest.mark.parametrize("key", SHOTS.all)
def test_strange_packet(arrived: dict[tuple[str, str], bool], key: str) -> None:
    got = tuple(arrived[name, key] for name in POLICIES)
    wanted = (
        (SHOTS.listed[key], not SHOTS.listed[key], True)
        if SHOTS.fate[key] == JUDGED
        else (False, False, False)
    )
    assert got == wanted


# Tagged with VLAN 0, once and twice: a receiver looks past it, br_netfilter does not.

DEPTHS = {"one tag": 1, "two tags": 2}


def tagged(port: int) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for name, depth in DEPTHS.items():
        for sender, (network, via, addresses) in SENDERS.items():
            for v in (4, 6):
                me, to = addresses[v], ALPHA[v]
                mark = f"<{name} {sender} {v} {port}>".encode()
                packet = p.ip(me, to, p.UDP, p.udp(me, to, (55000 + len(found), port), mark))
                inner = (0x86DD if v == 6 else 0x0800).to_bytes(2, "big")
                between = bytes(2) + b"\x81\x00"
                frame = between * (depth - 1) + bytes(2) + inner + packet
                found[name, f"{sender}-ipv{v}"] = {
                    "from": sender, "network": network, "via": via, "l3": [frame.hex()],
                    "ethertype": 0x8100, "want": mark.hex(), "at": ["alpha"],
                }  # fmt: skip
    return found


@pytest.fixture(scope="module")
def vlan0(bench: Bench) -> dict[tuple[str, str], tuple[bool, bool]]:
    """Whether it arrived at a port in the list, and at another one."""
    commit(bench, "allow listed")
    good, bad = tagged(GOOD), tagged(BAD)
    arrived = [bool(at) for at in bench.shoot(shots=[*good.values(), *bad.values()])]
    return {key: (arrived[i], arrived[len(good) + i]) for i, key in enumerate(good)}


@pytest.mark.parametrize("depth, way", tagged(GOOD))
def test_a_vlan_tag_hides_nothing(
    vlan0: dict[tuple[str, str], tuple[bool, bool]], depth: str, way: str
) -> None:
    good, bad = vlan0[depth, way]
    assert not bad
    if depth == "one tag":
        assert good
    elif way.startswith("beta"):
        # Two tags are no plain IP to br_netfilter. To the host they are, and what comes by the gateway is judged as it.
        assert not good


# What conntrack thinks of a connection's middle depends on settings of it.


@pytest.fixture(scope="module")
def middles(bench: Bench) -> dict[tuple[str, int, int], bool]:
    """Segments in the middle of a connection: of one that nobody began, and out of the window of one that is there.

    Whether all arrived. Two are sent, half the numbers apart, so that one of them is beyond the window; the other one is
    before it, a stale repetition, which newer kernels let pass as such.
    """
    found = {}
    bench.commit(
        {"name": "tcp", "from": ["container:beta"], "to": ["container:alpha"], "ports": ["8080/tcp"]}
    )
    for setting, usual in (("loose", 1), ("be_liberal", 0)):
        for value in (0, 1):
            bench.sh(command=f"conntrack -F; sysctl -qw net.netfilter.nf_conntrack_tcp_{setting}={value}")
            shots = []
            for family in (4, 6):
                port = (44000 if setting == "loose" else 44100) + 10 * value + family
                if setting == "be_liberal":
                    flow = {
                        "id": f"w{family}",
                        "from": "beta",
                        "host": ALPHA[family],
                        "port": 8080,
                        "source_port": port,
                    }
                    assert bench.connect(flows=[flow]) == {f"w{family}": "connected"}
                    assert bench.talk(ids=[f"w{family}"], text="hello") == {f"w{family}": "yes"}
                shots += [middle(family, port, seq) for seq in (0x3ABCDEF0, 0xBABCDEF0)]
            got = [bool(at) for at in bench.shoot(shots=shots, seconds=0.7)]
            found.update({(setting, value, 4): all(got[:2]), (setting, value, 6): all(got[2:])})
            if setting == "be_liberal":
                bench.close(ids=["w4", "w6"])
        bench.sh(command=f"sysctl -qw net.netfilter.nf_conntrack_tcp_{setting}={usual}")
    return found


def middle(family: int, port: int, seq: int) -> dict[str, Any]:
    mark = b"<middle %d %x>" % (port, seq)
    segment = p.tcp(BETA[family], ALPHA[family], (port, 8080), p.PSH | p.ACK, seq, 0x12345678, mark)
    packet = p.ip(BETA[family], ALPHA[family], p.TCP, segment)
    return {
        "from": "beta",
        "network": "left",
        "via": "alpha",
        "want": mark.hex(),
        "at": ["alpha"],
        "l3": [packet.hex()],
    }


@pytest.mark.parametrize("family", (4, 6))
@pytest.mark.parametrize("value", (0, 1))
@pytest.mark.parametrize("setting", ("loose", "be_liberal"))
def test_invalid_is_what_conntrack_calls_so(
    middles: dict[tuple[str, int, int], bool], setting: str, value: int, family: int
) -> None:
    assert middles[setting, value, family] == bool(value)


# Untracked: judged by its own addresses and header, each packet for itself.

NOTRACK = """table inet untracked {
  chain pre { type filter hook prerouting priority -300;
    udp dport { 9000, 9001 } notrack; udp sport 9000 notrack; }
}"""


def untracked_shots() -> dict[str, dict[str, Any]]:
    shots = Shots()
    for sender, (_, _, addresses) in SENDERS.items():
        for v in (4, 6):
            me, to = addresses[v], ALPHA[v]
            for name, port in (("listed", GOOD), ("not listed", BAD)):
                mark = shots.next()
                udp = p.udp(me, to, (54000 + shots.count, port), mark)
                shots.add(name, sender, v, JUDGED, port == GOOD, [p.ip(me, to, p.UDP, udp)])
    return shots.all


@pytest.fixture(scope="module")
def untracked(bench: Bench) -> dict[str, Any]:
    shots = untracked_shots()
    found: dict[str, Any] = {}
    bench.sh(command=f"nft '{NOTRACK}'")
    try:
        commit(bench, "allow listed")
        bench.sh(command="conntrack -F")
        got = bench.shoot(shots=list(shots.values()))
        found["arrived"] = {key: bool(at) for key, at in zip(shots, got, strict=True)}
        found["tracked"] = bench.sh(
            command="conntrack -L -p udp 2>/dev/null | grep -c 'dport=900[01]'", check=False
        )
        found["one way"] = bench.reach(("beta", ALPHA, "udp:9000"))
        back = {"name": "answers", "from": ["container:alpha"], "to": ["container:beta"], "ports": ["udp"]}
        bench.commit(*policy("allow listed")["rules"], back)
        found["both ways"] = bench.reach(("beta", ALPHA, "udp:9000"))
    finally:
        bench.sh(command="nft delete table inet untracked")
    return found


@pytest.mark.parametrize("key", untracked_shots())
def test_untracked(untracked: dict[str, Any], key: str) -> None:
    assert untracked["arrived"][key] == (not key.startswith("not"))


def test_untracked_was_untracked(untracked: dict[str, Any]) -> None:
    assert untracked["tracked"]["out"].strip() == "0"


def test_untracked_answers_need_a_rule_of_their_own(untracked: dict[str, Any]) -> None:
    assert untracked["one way"] == ["timeout timeout"]
    assert untracked["both ways"] == ["open open"]
