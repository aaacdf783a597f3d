#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The list of unmanaged senders by real packets; as packets.py, whose world it builds on.

Who sends behind a guard and is not known is listed with its place and MAC address; who is known, or is only sent to, is not. One port
that sends with ever new addresses does not push the others out.
"""

import socket
import struct
import sys

import inside as children
import neighbours
import packets
from packets import (
    A_ADDR,
    A_IDLE,
    A_LOST,
    A_MAC,
    A_PACKETS,
    ALLOW,
    INFO,
    UNKNOWN,
    V4,
    V6,
    A,
    Genl,
    Ruleset,
    both,
    check,
    ifindex,
    known,
    run,
    serve,
    try_tcp,
    try_udp,
)

OPEN = (ALLOW,) * 6
#: Addresses that nobody has been told of.
STRANGE = ("10.201.0.77", "fd00:201::77")
ROWS = 1024


def listed(g):
    """{(address, link, port): (MAC address, packets)}."""
    found = {}
    for row in g.ask(UNKNOWN, flags=0x301):
        packed = row[A_ADDR][0]
        address = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
        link, port, idle = (struct.unpack("=I", row[kind][0])[0] for kind in (51, 52, A_IDLE))
        assert idle < 600, idle
        key, packets_ = (address, link, port), struct.unpack("=Q", row[A_PACKETS][0])[0]
        found[key] = (row[A_MAC][0].hex(":"), packets_ + found.get(key, ("", 0))[1])
    return found


def lost(g):
    return struct.unpack("=Q", g.ask(INFO)[0][A_LOST][0])[0]


def at(ns, bridge="bwt0"):
    return ifindex(bridge), ifindex("bwt-" + ns)


def speak(ns, address, to):
    """A datagram from one more address."""
    where = address + ("/128" if ":" in address else "/32")
    run("ip", "-n", "bwt-" + ns, "addr", "add", where, "dev", "eth0", *(["nodad"] if ":" in address else []))
    try:
        return try_udp(ns, to, 9000, address)
    finally:
        run("ip", "-n", "bwt-" + ns, "addr", "del", where, "dev", "eth0")


def test_list(g):
    known(Ruleset(defaults=OPEN)).commit(g)
    check("who is known is not listed", (both(try_tcp, "a", "b", 8080), listed(g)), (("open", "open"), {}))
    for address, to in zip(STRANGE, (V4["b"], V6["b"])):
        check("%s says something" % address, speak("a", address, to), "silence")
        row = listed(g).get((address, *at("a")))
        check(
            "and is listed at its port, with its MAC address",
            row and (row[0], row[1] > 0),
            (neighbours.mac_of("a"), True),
        )
    check("nobody else is", sorted(row[0] for row in listed(g)), sorted(STRANGE))
    before = listed(g)[(STRANGE[0], *at("a"))][1]
    speak("a", STRANGE[0], V4["b"])
    check("its packets are counted", listed(g)[(STRANGE[0], *at("a"))][1] > before, True)
    check("routed to another bridge", speak("a", "10.201.0.78", V4["c"]), "silence")
    check("routed to the outside", speak("a", "10.201.0.79", V4["w"]), "silence")
    check("to the host", speak("a", "10.201.0.80", "10.201.0.1"), "silence")
    check(
        "all at the same port",
        [("10.201.0.%d" % n, *at("a")) in listed(g) for n in (78, 79, 80)],
        [True] * 3,
    )
    run("ip", "-n", "bwt-a", "neigh", "replace", "10.201.0.99", "lladdr", "02:00:00:00:00:99", "dev", "eth0")
    before = listed(g)
    check("who is only sent to", try_udp("a", "10.201.0.99", 9000), "silence")
    check("is not listed", listed(g), before)
    check("nor is a spoofed address", speak("a", V4["c"], V4["b"]), "silence")
    check("which is another's", any(V4["c"] == row[0] for row in listed(g)), False)


def test_settles(g):
    """Who becomes known leaves the list."""
    known(Ruleset(defaults=OPEN)).commit(g)
    for address, to in zip(STRANGE, (V4["b"], V6["b"])):
        speak("a", address, to)
    check("listed", {row[0] for row in listed(g)} >= set(STRANGE), True)
    ruleset = known(Ruleset(defaults=OPEN)).prefix(STRANGE[1] + "/128", A, 0).port(0, *at("a"))
    ruleset.ep4.append(socket.inet_aton(STRANGE[0]) + struct.pack("=III", A, *at("a")))
    ruleset.commit(g)
    check("an endpoint and a prefix are not", {row[0] for row in listed(g)} & set(STRANGE), set())
    Ruleset(guards=()).commit(g)
    check("nor is anybody behind no guard", listed(g), {})
    known(Ruleset(defaults=OPEN)).commit(g)
    check("unknown again, it is", {row[0] for row in listed(g)} >= set(STRANGE), True)


def test_ways(g):
    """In audit, with and without br_netfilter, and from inside a container's namespace."""
    known(Ruleset(defaults=OPEN, mode=1)).commit(g)
    speak("a", "10.201.0.81", V4["b"])
    check("audit", ("10.201.0.81", *at("a")) in listed(g), True)
    packets.bridge_settings("0")
    try:
        speak("a", "10.201.0.82", V4["b"])
        check("audit, br_netfilter hands nothing up", ("10.201.0.82", *at("a")) in listed(g), True)
        inside = known(Ruleset(defaults=OPEN, placement=2))
        inside.commit(g)
        speak("a", "10.201.0.83", V4["b"])
        check("placement container, by its neighbour", ("10.201.0.83", ifindex("bwt0"), 0) in listed(g), True)
    finally:
        packets.bridge_settings("1")


def test_child(g):
    children.CHILDREN = {"m": children.CHILDREN["m"]}
    children.ROUTERS = {"r": children.ROUTERS["r"]}
    packets.bridge_settings("0")
    children.children_up()
    try:
        ruleset = known(Ruleset(defaults=OPEN, placement=2))
        ruleset.parents = ("bwtp",)
        ruleset.commit(g)
        check("a child that nobody knows", try_udp("m", V4["r"], 9000), "EPERM")
        check("is listed by its namespace", (V4["m"], ifindex("bwtp"), children.inum("m")) in listed(g), True)
        check("who sends to it is not", V4["r"] in {row[0] for row in listed(g)}, False)
    finally:
        Ruleset(guards=()).commit(g)
        children.children_down()
        packets.bridge_settings("1")


def test_flood(g):
    """A sender with ever new addresses has its part of the list, and what it loses is counted."""
    known(Ruleset(defaults=OPEN)).commit(g)
    wire = neighbours.Wire()
    before = lost(g)
    for n in range(4 * ROWS):
        source = "10.201.%d.%d" % (1 + n // 250, 1 + n % 250)
        wire.send("a", "b", neighbours.udp4(source, V4["b"], b"x", 9000))
    rows = packets.settled(lambda: sum(row[1:] == at("a") for row in listed(g)))
    check("some of its addresses are listed", 8 < rows <= 64, True)
    check("the others are counted", lost(g) - before > 2 * ROWS, True)
    others = [
        ns for ns in ("b", "c") if speak(ns, "10.20%d.0.66" % (2 if ns == "c" else 1), V4["a"]) == "silence"
    ]
    check("b and c speak with addresses that nobody knows", others, ["b", "c"])
    room = [("10.201.0.66", *at("b")) in listed(g), ("10.202.0.66", *at("c", "bwt1")) in listed(g)]
    # Ports share regions of the list by chance: of two others one has room, but for one run in 256.
    check("there is room for another port's", any(room), True)


TESTS = (test_list, test_settles, test_ways, test_child, test_flood)


def main():
    wanted = sys.argv[1:]
    g = Genl()
    if g.generation():
        sys.exit("a ruleset is in force here: this is not a throw-away VM; load the module anew")
    saved = packets.world_up()
    try:
        for ns in ("a", "b", "c", "w"):
            for port in (8080, 9000):
                serve(ns, port)
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# %s" % test.__name__, flush=True)
                packets.rest()
                test(Genl())
    finally:
        Ruleset(guards=(), defaults=OPEN).commit(Genl())
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
