#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Routed prefixes by real packets; as packets.py, whose world it builds on.

a is a gateway: p, a client of it, is behind it; d is one more container beside a and b. m is a macvlan child that gives
itself an address of a prefix that r advertises:

    p 10.13.13.2 --(in0)-- packets.py's a --(bwt0)-- packets.py's b, and d 10.201.0.4
    r 10.204.0.1 --(bwtp)-- m 10.204.0.2

p and the floating addresses have no endpoint. Each probe that must fail has succeeded before, under a ruleset that differs in what
is tested alone.
"""

import contextlib
import errno
import socket
import struct
import subprocess
import sys

import inside as children
import neighbours
import packets
from packets import (
    A_ADDR,
    A_COUNT_BEHIND,
    A_COUNT_PREFIXES,
    A_IDENTITY,
    A_LENGTH,
    A_SET,
    ALLOW,
    DENY,
    DIRECT,
    HOST,
    INFO,
    PREFIXES,
    ROLLBACK,
    SPOOFED,
    UNMANAGED,
    V4,
    V6,
    WORLD,
    A,
    B,
    C,
    Genl,
    Refused,
    Ruleset,
    at_once,
    batch,
    batch_if_there,
    both,
    check,
    connect,
    echo,
    echo_or_cut,
    grew,
    ifindex,
    inside,
    known,
    nla,
    run,
    serve,
    tcp,
    try_tcp,
    try_udp,
    udp,
    until,
)

VPN, VIP = 6, 7
PREFIX = ("10.13.13.0/24", "fd13::/64")
packets.ADDRESSES += ("10.13.13.", "fd13:", "2001:db8:204:")
#: A floating address; a and b may have it.
FLOATS4, FLOATS6 = "10.201.0.250", "fd00:201::250"
CLOSED = (DENY, ALLOW, DENY, DENY, ALLOW, ALLOW)
SHUT = ("silence", "silence")
OPEN = ("open", "open")
V4["p"], V6["p"] = "10.13.13.2", "fd13::2"
V4["d"], V6["d"] = "10.201.0.4", "fd00:201::4"
V4["f"], V6["f"] = FLOATS4, FLOATS6
#: The gateway's own, towards p.
TOWARDS = ("10.13.13.1", "fd13::1")
ROUTES = (
    "route add %s via %s" % (PREFIX[0], V4["a"]),
    "route add %s via %s" % (PREFIX[1], V6["a"]),
)


#: Who reaches whom without guards, and is asked about later.
WAYS = (
    ("p", "b"),
    ("b", "p"),
    ("p", "c"),
    ("w", "p"),
    (None, "p"),
    ("p", "w"),
    ("d", "p"),
    ("p", "d"),
    ("d", "b"),
    ("b", "d"),
)


def gateway_up():
    gateway_down()
    batch(
        [
            "netns add bwt-d",
            "netns add bwt-p",
            "link add bwt-d type veth peer name eth0 netns bwt-d",
            "link set bwt-d master bwt0 up",
        ]
    )
    batch(
        ["link add in0 type veth peer name eth0 netns bwt-p"]
        + [
            "addr add %s/%s dev in0%s" % (a, PREFIX[i].partition("/")[2], " nodad" * i)
            for i, a in enumerate(TOWARDS)
        ]
        + ["link set in0 up"],
        "-n",
        "bwt-a",
    )
    for ns, gateway in (("p", TOWARDS), ("d", ("10.201.0.1", "fd00:201::1"))):
        batch(
            [
                "addr add %s/24 dev eth0" % V4[ns],
                "addr add %s/64 dev eth0 nodad" % V6[ns],
                "link set lo up",
                "link set eth0 up",
                "route add default via " + gateway[0],
                "route add default via " + gateway[1],
            ],
            "-n",
            "bwt-" + ns,
        )
    with inside("a"):
        for path in ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"):
            with open("/proc/sys/" + path, "w") as f:
                f.write("1")
    batch(ROUTES)
    batch(ROUTES, "-n", "bwt-b")
    batch(ROUTES, "-n", "bwt-d")
    for ns in "pd":
        for port in (8080, 8081, 9000):
            serve(ns, port)
    Ruleset(guards=()).commit(Genl())
    if not until(
        lambda: set(at_once([(try_udp, frm, V[to], 9) for frm, to in WAYS for V in (V4, V6)])) == {"refused"}
    ):
        raise RuntimeError("the gateway does not carry what it should")


def gateway_down():
    batch_if_there(
        ["netns del bwt-p", "netns del bwt-d", "link del bwt-d", *(r.replace("add", "del") for r in ROUTES)]
    )


def routed(ruleset, ports=("a",), prefixes=PREFIX, identity=VPN, number=0):
    """The prefixes behind these containers' ports; with known endpoints, d among them."""
    if not ruleset.ep4:
        known(ruleset).endpoint(V4["d"], V6["d"], C, ifindex("bwt0"), ifindex("bwt-d"))
    for prefix in prefixes:
        ruleset.prefix(prefix, identity, number)
    for ns in ports:
        ruleset.port(number, ifindex("bwt0"), ifindex("bwt-" + ns))
    return ruleset


def floating(ruleset, ports=("a", "b")):
    return routed(ruleset, ports, (FLOATS4 + "/32", FLOATS6 + "/128"), VIP, 1)


def dumped(g):
    """({prefix: (identity, set)}, {(set, link, port)}), as the kernel has them in force."""
    prefixes, ports = {}, set()
    for row in g.ask(PREFIXES, flags=0x301):
        number = struct.unpack("=I", row[A_SET][0])[0]
        if A_ADDR in row:
            packed = row[A_ADDR][0]
            address = socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
            prefixes["%s/%d" % (address, row[A_LENGTH][0][0])] = (
                struct.unpack("=I", row[A_IDENTITY][0])[0],
                number,
            )
        else:
            ports.add((number, *(struct.unpack("=I", row[kind][0])[0] for kind in (51, 52))))
    return prefixes, ports


def to_p(ns, port=8080):
    return both(try_tcp, ns, "p", port)


def test_gateway(g):
    """What the gateway routes is let through by rule, in each direction class."""
    Ruleset(guards=()).commit(g)
    for frm, to in WAYS[:6]:
        check("without guards %s reaches %s" % (frm or "the host", to), both(try_tcp, frm, to, 8080), OPEN)
    open_policy = Ruleset(defaults=(ALLOW,) * 6)
    known(open_policy).commit(g)
    before = g.counters()
    check("without a prefix p is nobody, whatever is allowed", both(try_tcp, "p", "b", 8080), SHUT)
    check("b does not reach it", to_p("b"), SHUT)
    check("as unmanaged", grew(g, before, UNMANAGED), True)
    routed(Ruleset(defaults=CLOSED)).commit(g)
    before = g.counters()
    check("with a prefix and no rule the class default holds", both(try_tcp, "p", "b", 8080), SHUT)
    check("it is inter_container", grew(g, before, 2), True)
    check("by default egress is allowed", both(try_tcp, "p", "w", 8080), OPEN)
    check("and so is what the host begins", both(try_tcp, None, "p", 8080), OPEN)
    check("not what comes to the host", try_tcp("p", "10.201.0.1", 22), "silence")
    before = g.counters()
    check("nor what comes from outside", both(try_tcp, "w", "p", 8080), SHUT)
    check("which is direct", grew(g, before, DIRECT), True)
    rules = routed(Ruleset(defaults=(DENY,) * 6))
    rules.rule(VPN, B, tcp(8080)).rule(B, VPN, tcp(8081)).rule(VPN, C, udp(9000)).rule(VPN, HOST, tcp(22))
    rules.rule(WORLD, VPN, tcp(8080), direct=True).rule(WORLD, VPN, tcp(8081)).rule(HOST, VPN, tcp(8081))
    rules.commit(g)
    check("p reaches b by rule", both(try_tcp, "p", "b", 8080), OPEN)
    check("at that port only", both(try_tcp, "p", "b", 8081), SHUT)
    check("b reaches p by rule", to_p("b", 8081), OPEN)
    check("at that port only, either", to_p("b", 8080), SHUT)
    check("p reaches c on the other bridge", both(try_udp, "p", "c", 9000), OPEN)
    check("not over TCP", both(try_tcp, "p", "c", 8080), SHUT)
    check("p reaches the host", try_tcp("p", "10.201.0.1", 22), "refused")
    check("the host reaches p", both(try_tcp, None, "p", 8081), OPEN)
    check("not where no rule says so", refused_at_once("p", 8080), True)
    check("outside reaches p with direct", both(try_tcp, "w", "p", 8080), OPEN)
    check("not without", both(try_tcp, "w", "p", 8081), SHUT)
    check("p is refused egress", both(try_tcp, "p", "w", 8080), SHUT)


def refused_at_once(peer, port):
    """The host's own attempts: EPERM, or as the module has it for what is denied."""
    return not any(word == "open" for word in both(try_tcp, None, peer, port))


def test_errors(g):
    """A client's port-unreachable comes back, from its own address or from the gateway's."""
    routed(Ruleset(defaults=CLOSED).rule(B, VPN, (17 << 16, 17 << 16 | 65535))).commit(g)
    check("an error of the client's", both(try_udp, "b", "p", 7777), ("refused", "refused"))
    check(
        "the gateway's own, that it finds nobody there",
        nobody_there("b", "10.13.13.99", "fd13::99"),
        ["EHOSTUNREACH"] * 2,
    )
    routed(Ruleset(defaults=CLOSED), ("d",)).rule(B, VPN, (17 << 16, 17 << 16 | 65535)).commit(g)
    check(
        "not where the prefix is behind another port",
        nobody_there("b", "10.13.13.98", "fd13::98"),
        ["silence"] * 2,
    )


def nobody_there(ns, *addresses):
    """How the gateway's report arrives; 3 s is how long it asks."""

    def ask(address):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with inside(ns):
            s = socket.socket(family, socket.SOCK_DGRAM)
        with s:
            s.setsockopt(*((41, 25) if family == socket.AF_INET6 else (0, 11)), 1)  # IPV6_RECVERR, IP_RECVERR
            s.connect((address, 7777))
            s.send(b"x")
            try:
                packets.receive(s, seconds=5)
                return "open"
            except TimeoutError:
                return "silence"
            except OSError as error:
                return errno.errorcode.get(error.errno, str(error))

    return at_once([(ask, address) for address in addresses])


@contextlib.contextmanager
def added(ns, address):
    where = "/128 dev eth0 nodad" if ":" in address else "/32 dev eth0"
    run("ip", "-n", "bwt-" + ns, "addr", "add", *(address + where).split())
    try:
        yield
    finally:
        run("ip", "-n", "bwt-" + ns, "addr", "del", *(address + where).replace(" nodad", "").split())


def lies(g, ns, address, to="b"):
    """(what comes of it, whether it was counted as spoofed): a datagram with a source of the prefix."""
    before = g.counters()
    with added(ns, address):
        word = try_udp(ns, (V6 if ":" in address else V4)[to], 9000, address)
    return word, grew(g, before, SPOOFED)


def test_other_ports(g):
    """From a port that is not in the set an address of the prefix is spoofed."""
    for address, routes in (("10.13.13.77", "-4"), ("fd13::77", "-6")):
        allow = routed(Ruleset(defaults=(ALLOW,) * 6), ("a", "d"))
        allow.commit(g)
        run("ip", routes, "-n", "bwt-b", "route", "add", address, "dev", "eth0")
        try:
            check("%s of d, which is in the set" % address, lies(g, "d", address), ("open", False))
            routed(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
            check("%s of d, which is not" % address, lies(g, "d", address), ("silence", True))
            known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
            check("without the prefix it is unmanaged", lies(g, "d", address), ("silence", False))
        finally:
            run("ip", routes, "-n", "bwt-b", "route", "del", address, "dev", "eth0")
    # Another bridge: c's port is not in the set either.
    routed(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("from another bridge", lies(g, "c", "10.13.13.77"), ("silence", True))
    # The longest prefix counts: within it a has no say.
    inner = (
        routed(Ruleset(defaults=(ALLOW,) * 6)).prefix("10.13.13.2/32", VPN, 2).prefix("fd13::2/128", VPN, 2)
    )
    before = g.counters()
    inner.port(2, ifindex("bwt0"), ifindex("bwt-d")).commit(g)
    check("within a longer prefix of another's", both(try_udp, "p", "b", 9000), SHUT)
    check("is spoofed", grew(g, before, SPOOFED), True)
    # A set without a port closes its prefix.
    inner = (
        routed(Ruleset(defaults=(ALLOW,) * 6)).prefix("10.13.13.2/32", VPN, 2).prefix("fd13::2/128", VPN, 2)
    )
    inner.commit(g)
    before = g.counters()
    check("behind nobody", both(try_udp, "p", "b", 9000), SHUT)
    check("is unmanaged", (grew(g, before, UNMANAGED), grew(g, before, SPOOFED)), (True, False))


@contextlib.contextmanager
def holds(ns):
    """It has the floating addresses; the others do not remember who had them. Its link may go meanwhile."""
    add = ["addr add %s/32 dev eth0" % FLOATS4, "addr add %s/128 dev eth0 nodad" % FLOATS6]
    batch(add, "-n", "bwt-" + ns)
    for options in ([], ["-n", "bwt-d"]):
        for address in (FLOATS4, FLOATS6):
            subprocess.run(
                ["ip", *options, "neigh", "flush", "to", address], check=False, capture_output=True
            )
    try:
        yield
    finally:
        for line in add:
            words = ["addr", "del", *line.split()[2:5]]
            subprocess.run(["ip", "-n", "bwt-" + ns, *words], check=False, capture_output=True)


def floats():
    return (both(try_tcp, "d", "f", 8080), both(try_tcp, "c", "f", 8080))


def test_floating(g):
    """An address moves between two containers without a commit; a third one cannot take it."""
    floating(Ruleset(defaults=CLOSED).rule(C, VIP, tcp(8080)).rule(VIP, C, tcp(8080))).commit(g)
    generation = g.generation()
    for holder in ("a", "b", "a"):
        with holds(holder):
            check("%s has it" % holder, floats(), (OPEN, OPEN))
            check(
                "it speaks with it",
                at_once([(try_from, holder, V["d"], V["f"]) for V in (V4, V6)]),
                ["open"] * 2,
            )
    check("no commit was needed", g.generation(), generation)
    floating(Ruleset(defaults=(ALLOW,) * 6), ("a", "b", "d")).commit(g)
    check("d may have it where it is in the set", lies(g, "d", FLOATS4, "b"), ("open", False))
    floating(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("not where it is not", lies(g, "d", FLOATS4, "b"), ("silence", True))
    floating(Ruleset(defaults=CLOSED)).commit(g)
    with holds("a"):
        check("without a rule it is closed", floats(), (SHUT, SHUT))
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    with holds("a"):
        check("without a prefix it is nobody's", both(try_tcp, "c", "f", 8080), SHUT)


def try_from(ns, address, source):
    """A TCP connection from a second address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns):
        s = socket.socket(family, socket.SOCK_STREAM)
    with s:
        packets.reset_at_close(s)
        s.bind((source, 0))
        s.settimeout(packets.WAIT)
        try:
            s.connect((address, 8080))
        except OSError as error:
            return (
                "silence"
                if isinstance(error, socket.timeout)
                else errno.errorcode.get(error.errno, str(error))
            )
        return "open" if echo(s) else "closed"


def test_link_goes(g):
    """It leaves the sets in force and saved; what was remembered of it and its number are worth nothing."""
    with holds("b"):
        rules = floating(Ruleset(defaults=CLOSED).rule(VIP, C, tcp(8080)).rule(C, VIP, tcp(8080)))
        rules.commit(g)
        mine = [(1, ifindex("bwt0"), ifindex("bwt-" + ns)) for ns in "ab"]
        check("both ports are in the set", dumped(g)[1], set(mine))
        flow = connect("c", FLOATS4, 8080)
        check("a flow is up", [echo(flow) for _ in range(5)], [True] * 5)
        floating(Ruleset(defaults=CLOSED).rule(VIP, C, tcp(8080)).rule(C, VIP, tcp(8080))).commit(
            g, timeout=60
        )
        check("and goes on in a window", [echo(flow) for _ in range(5)], [True] * 5)
        packets.rest()
        number, hardware = ifindex("bwt-b"), neighbours.mac_of("b")
        run("ip", "link", "del", "bwt-b")
        check("the port has left the set", dumped(g)[1], {mine[0]})
        again(number, hardware)
        with holds("b"):
            before = g.counters()
            check("a new link of its number has no right to it", echo_or_cut(flow), "cut")
            check("nor to begin one", try_from("b", V4["c"], FLOATS4), "silence")
            check("which is spoofed: a is left", grew(g, before, SPOOFED), True)
            g.ask(ROLLBACK)
            check("rolled back, the port is gone there as well", dumped(g)[1], {mine[0]})
            before = g.counters()
            check("and its number worth nothing", try_from("b", V4["c"], FLOATS4), "silence")
            check("as spoofed", grew(g, before, SPOOFED), True)
            flow.close()
            rules.behind = []
            floating(Ruleset(defaults=CLOSED).rule(VIP, C, tcp(8080))).commit(g)
            check("a commit that knows it opens it", try_from("b", V4["c"], FLOATS4), "open")
    stale = floating(Ruleset(defaults=CLOSED))
    stale.port(1, ifindex("bwt0"), 999999)
    stale.commit(g)
    check("a port that is not there is accepted, closed", len(dumped(g)[1]), 2)


def again(number, hardware):
    """b's link anew, with the number and the hardware address it had."""
    run(
        "ip",
        "link",
        "add",
        "bwt-b",
        "index",
        str(number),
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        "bwt-b",
    )
    run("ip", "link", "set", "bwt-b", "master", "bwt0", "up")
    batch(
        [
            "link set eth0 address %s up" % hardware,
            "addr add %s/24 dev eth0" % V4["b"],
            "addr add %s/64 dev eth0 nodad" % V6["b"],
            "route add default via 10.201.0.1",
            "route add default via fd00:201::1",
            *ROUTES,
        ],
        "-n",
        "bwt-b",
    )


def test_window(g):
    """A roll back brings the prefix back, or takes it along."""
    with_one = routed(Ruleset(defaults=CLOSED).rule(VPN, B, tcp(8080)))
    with_one.commit(g)
    check("in force", (both(try_tcp, "p", "b", 8080), sorted(dumped(g)[0])), (OPEN, sorted(PREFIX)))
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g, timeout=60)
    check("a window without it", (both(try_tcp, "p", "b", 8080), dumped(g)), (SHUT, ({}, set())))
    g.ask(ROLLBACK)
    check("rolled back", (both(try_tcp, "p", "b", 8080), len(dumped(g)[0])), (OPEN, 2))
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    routed(Ruleset(defaults=CLOSED).rule(VPN, B, tcp(8080))).commit(g, timeout=60)
    check("a window with it", both(try_tcp, "p", "b", 8080), OPEN)
    g.ask(ROLLBACK)
    check("rolled back, it is gone", (both(try_tcp, "p", "b", 8080), dumped(g)), (SHUT, ({}, set())))


def test_revoke(g):
    """What was remembered does not outlive the rule."""
    routed(Ruleset(defaults=CLOSED).rule(VPN, B, tcp(8080))).commit(g)
    flows = [connect("p", V["b"], 8080) for V in (V4, V6)]
    check("flows are up", [echo(s) for s in flows for _ in range(5)], [True] * 10)
    packets.rest()
    routed(Ruleset(defaults=CLOSED), ("d",)).rule(VPN, B, tcp(8080)).commit(g)
    check("the set has another port now", at_once([(echo_or_cut, s) for s in flows]), ["cut"] * 2)
    for s in flows:
        s.close()


def test_neighbours(g):
    """Advertisements for a floating address: from the set's ports they are right, from others spoofed."""
    wire = neighbours.Wire()
    shots = {
        "NA: the floating address": neighbours.na(wire.local["a"], FLOATS6),
        "NA: within a prefix": neighbours.na(wire.local["a"], "fd13::5"),
        "NS: from it": neighbours.ns(FLOATS6, V6["b"]),
        "DAD: it": neighbours.ns("::", FLOATS6),
    }
    Ruleset(guards=()).commit(g)
    check("without guards all arrive", wire.arrive(shots), sorted(shots))

    def rules(ports):
        return floating(routed(neighbours.marked(Ruleset(defaults=CLOSED)), ports), ports)

    rules(("a", "b")).commit(g)
    check("from a port of the set all arrive", wire.arrive(shots), sorted(shots))
    rules(("b", "d")).commit(g)
    before = g.counters()
    check("from another none does", wire.arrive(shots), [])
    check("each is spoofed", packets.grown(g, before, SPOOFED), len(shots))
    rules(()).commit(g)
    check("where the set is empty, all do: nobody has it", wire.arrive(shots), sorted(shots))


def test_inside_bridge(g):
    """Placement container on a bridge: the receiver's port is known, the sender's link alone."""
    packets.bridge_settings("0")
    try:

        def rules(ports=("a",)):
            ruleset = routed(Ruleset(defaults=CLOSED), ports)
            ruleset.placement = 2
            return ruleset

        rules().rule(VPN, B, tcp(8080)).rule(B, VPN, tcp(8081)).rule(
            WORLD, VPN, tcp(8080), direct=True
        ).commit(g)
        check("p reaches b", both(try_tcp, "p", "b", 8080), OPEN)
        check("by rule only", both(try_tcp, "p", "b", 8081), SHUT)
        check("b reaches p", to_p("b", 8081), OPEN)
        check("by rule only, either", to_p("b"), SHUT)
        check("outside reaches p with direct", to_p("w"), OPEN)
        check("by rule only as well", to_p("w", 8081), SHUT)
        before = g.counters()
        rules(("d",)).rule(B, VPN, tcp(8081)).commit(g)
        check("behind another port it is not the receiver's", to_p("b", 8081), SHUT)
        check("but unmanaged there", grew(g, before, UNMANAGED), True)
        rules().rule(VPN, B, tcp(8080)).commit(g)
        check("an address of the host's is none of a's", lies(g, "a", "10.201.0.1"), ("silence", False))
    finally:
        packets.bridge_settings("1")


def advertise(prefix):
    """A router's advertisement from r, by hand: the prefix with the autonomous flag."""
    local = (
        subprocess.run(
            ["ip", "-n", "bwt-r", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link"],
            check=True,
            stdout=subprocess.PIPE,
        )
        .stdout.decode()
        .split("inet6 ")[1]
        .split("/")[0]
    )
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, prefix
    )
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option
    body = neighbours.with_checksum(local, "ff02::1", 58, body, 2)
    with inside("r"):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x86DD))
        index = socket.if_nametoindex("eth0")
    with s:
        s.sendto(
            neighbours.ip6(local, "ff02::1", 58, body, 255),
            ("eth0", 0x86DD, 0, 0, bytes.fromhex("333300000001")),
        )
    return index


def slaac(prefix):
    """The address that m made of it."""
    shown = ["ip", "-n", "bwt-m", "-6", "-o", "addr", "show", "dev", "eth0", "dynamic", "to", prefix + "/64"]

    def found():
        return subprocess.run(shown, check=True, stdout=subprocess.PIPE).stdout.decode().split()

    if not until(lambda: found() and "tentative" not in found()):
        raise RuntimeError("m took no address of the prefix")
    words = found()
    return words[words.index("inet6") + 1].partition("/")[0]


def test_child(g):
    """A macvlan child under an address that it made itself."""
    children.CHILDREN = {"m": children.CHILDREN["m"], "n": children.CHILDREN["n"]}
    children.ROUTERS = {"r": children.ROUTERS["r"]}
    packets.bridge_settings("0")
    children.children_up()
    try:
        for ns in ("m", "n", "r"):
            for port in (8080, 8081):
                serve(ns, port)
        Ruleset(guards=()).commit(g)
        prefix = "2001:db8:204::"
        run("ip", "-n", "bwt-r", "addr", "add", prefix + "1/64", "dev", "eth0", "nodad")
        advertise(prefix)
        own = slaac(prefix)
        check("without guards r reaches m by it", try_tcp("r", own, 8080), "open")

        def rules(*ports):
            ruleset = Ruleset(defaults=(DENY,) * 6)
            ruleset.placement, ruleset.parents = 2, ("bwtp",)
            known(ruleset)
            for ns in ("m", "n"):
                ruleset.endpoint(V4[ns], V6[ns], children.IDENTITY[ns], ifindex("bwtp"), children.inum(ns))
            if ports:
                ruleset.prefix(prefix + "/64", VIP, 3)
            for ns in ports:
                ruleset.port(3, ifindex("bwtp"), children.inum(ns))
            return ruleset.rule(WORLD, VIP, tcp(8080)).rule(VIP, WORLD, tcp(8080))

        rules().commit(g)
        before = g.counters()
        check("without a prefix it is nobody's", try_tcp("r", own, 8080), "silence")
        check("as unmanaged", grew(g, before, UNMANAGED), True)
        rules("m").commit(g)
        check("behind m it is reached by rule", try_tcp("r", own, 8080), "open")
        check("by rule only", try_tcp("r", own, 8081), "silence")
        check("m sends with it", try_from("m", prefix + "1", own), "open")
        rules("n").commit(g)
        before = g.counters()
        check("behind n m does not send with it", try_from("m", prefix + "1", own), "silence")
        check("which is spoofed", grew(g, before, SPOOFED), True)
        check("nor is it reached", try_tcp("r", own, 8080), "silence")
        rules("m", "n").commit(g)
        check("behind both r counts as one of the group", try_tcp("r", own, 8080), "silence")
        rules("m", "n").rule(VIP, VIP, tcp(8080)).commit(g)
        check("and is let in by its rule", try_tcp("r", own, 8080), "open")
        run("ip", "-n", "bwt-m", "link", "del", "eth0")
        check("a child that goes leaves the set", dumped(g)[1], {(3, ifindex("bwtp"), children.inum("n"))})
    finally:
        Ruleset(guards=()).commit(g)
        children.children_down()
        packets.bridge_settings("1")


def test_audit(g):
    """Audit judges by prefixes, and changes nothing."""
    ruleset = routed(Ruleset(defaults=CLOSED, mode=1).rule(VPN, B, tcp(8081)))
    ruleset.commit(g)
    before = g.counters()
    check("p reaches b without a rule", both(try_tcp, "p", "b", 8080), OPEN)
    check("which is counted by the class", grew(g, before, 2), True)
    before = g.counters()
    check("and by rule", both(try_tcp, "p", "b", 8081), OPEN)
    check("which is counted there", grew(g, before, packets.RULE), True)
    packets.bridge_settings("0")
    try:
        before = g.counters()
        check(
            "the same by headers alone, where br_netfilter hands nothing up",
            both(try_tcp, "p", "b", 8081),
            OPEN,
        )
        check("which is counted there, too", grew(g, before, packets.RULE), True)
        before = g.counters()
        check("from another port it is counted as spoofed, and passes", lies_in_audit(g), "open")
        check("which is counted", grew(g, before, SPOOFED), True)
    finally:
        packets.bridge_settings("1")


def lies_in_audit(g):
    run("ip", "-n", "bwt-b", "route", "add", "10.13.13.77", "dev", "eth0")
    try:
        return lies(g, "d", "10.13.13.77")[0]
    finally:
        run("ip", "-n", "bwt-b", "route", "del", "10.13.13.77", "dev", "eth0")


def test_refusals(g):
    """What the kernel does not take, with the entry's number; nothing has changed then."""
    routed(Ruleset(defaults=CLOSED)).commit(g)
    generation = g.generation()

    def words(spoil):
        ruleset = routed(Ruleset(defaults=CLOSED))
        spoil(ruleset)
        try:
            ruleset.commit(g)
        except Refused as error:
            return errno.errorcode[error.number], error.words
        return "accepted", ""

    for what, prefix in (
        ("the bridge's address", "10.201.0.0/24"),
        ("the host's on its own link", "10.203.0.1/32"),
        ("of IPv6", "fd00:201::/64"),
    ):
        family = 6 if ":" in prefix else 4
        check(
            "a prefix with an address of the host: " + what,
            words(lambda r, p=prefix: r.prefix(p, VPN, 0)),
            ("EADDRINUSE", "prefix%d[1]: has an address of this host" % family),
        )
    for what, spoil, section in (
        ("twice", lambda r: r.prefix(PREFIX[0], A, 1), ("EEXIST", "prefix4[1]")),
        ("bits behind", lambda r: r.prefix("10.14.0.1/24", VPN, 0), ("EINVAL", "prefix4[1]")),
        ("too long", lambda r: r.prefix("10.14.0.0/33", VPN, 0), ("EINVAL", "prefix4[1]")),
        ("everything", lambda r: r.prefix("0.0.0.0/0", VPN, 0), ("EINVAL", "prefix4[1]")),
        ("groups", lambda r: r.prefix("ff00::/8", VPN, 0), ("EINVAL", "prefix6[1]")),
        ("link-local", lambda r: r.prefix("fe80::/64", VPN, 0), ("EINVAL", "prefix6[1]")),
        ("no such identity", lambda r: r.prefix("10.14.0.0/16", 99, 0), ("EINVAL", "prefix4[1]")),
        ("no such set", lambda r: r.prefix("10.14.0.0/16", VPN, 1 << 16), ("EINVAL", "prefix4[1]")),
        ("port twice", lambda r: r.port(0, ifindex("bwt0"), ifindex("bwt-a")), ("EEXIST", "behind[1]")),
        ("no port", lambda r: r.port(1, ifindex("bwt0"), 0), ("EINVAL", "behind[1]")),
        ("no link", lambda r: r.port(1, 0, ifindex("bwt-a")), ("EINVAL", "behind[1]")),
        ("not guarded", lambda r: r.port(1, ifindex("bwt-w"), ifindex("bwt-w")), ("EINVAL", "behind[1]")),
    ):
        number, text = words(spoil)
        check("refused: " + what, (number, text.partition(":")[0]), section)
    check(
        "a prefix of the length that misses them is taken",
        words(lambda r: r.prefix("10.201.0.128/25", VPN, 0)),
        ("accepted", ""),
    )
    check("what was refused changed nothing", g.generation(), generation + 1)
    info = g.ask(INFO)[0]
    count = [struct.unpack("=I", info[kind][0])[0] for kind in (A_COUNT_PREFIXES, A_COUNT_BEHIND)]
    check("INFO counts both", count, [3, 1])
    check("and the dump has them", (len(dumped(g)[0]), len(dumped(g)[1])), (3, 1))
    try:
        g.ask(PREFIXES, nla(A_SET, struct.pack("=I", 1)), 0x301)
        check("the dump takes no attributes", "accepted", "EINVAL")
    except Refused as error:
        check("the dump takes no attributes", errno.errorcode[error.number], "EINVAL")


TESTS = (
    test_gateway,
    test_errors,
    test_other_ports,
    test_floating,
    test_window,
    test_revoke,
    test_neighbours,
    test_inside_bridge,
    test_audit,
    test_refusals,
    test_link_goes,
    test_child,
)


def main():
    wanted = sys.argv[1:]
    g = Genl()
    if g.generation():
        sys.exit("a ruleset is in force here: this is not a throw-away VM; load the module anew")
    saved = packets.world_up()
    try:
        gateway_up()
        for ns in ("a", "b", "c", "w"):
            for port in (8080, 8081, 9000):
                serve(ns, port)
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# %s" % test.__name__, flush=True)
                packets.rest()
                test(Genl())
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        gateway_down()
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
