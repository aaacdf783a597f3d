#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Mode audit changes no packet's fate, and counts same-bridge traffic under the rules that enforce judges it by.

Builds on packets.py, whose world it uses, with d of crossings.py. A host's own firewall is there, too: an nft hook at FORWARD that drops
whatever passes within a bridge, and that such traffic meets only where br_netfilter hands it up.

test_fate sends frames of every kind from a and from the host, and compares what arrives, bytes and VLAN tags, with what arrived before
the module was loaded. test_counts makes connections between a and b, each by a rule of its own, under enforce with br_netfilter's
switches on and under audit with them off, and compares the rules that counted. BW_KO is the module's file.
"""

import contextlib
import socket
import struct
import subprocess
import sys
import time

import bareports
import crossings
import loading
import neighbours
import packets
import traces
from bareports import ip4, ip6, link_mac, mac
from crossings import AD, CONTAINER, PAYLOADS, WRAPS, D, Q, finish, tag
from packets import (
    ALLOW,
    DENY,
    FORWARD,
    HOST,
    ICMP,
    ICMP6,
    POSTROUTING,
    REJECT,
    RULE,
    SPOOFED,
    TCP,
    UDP,
    UNMANAGED,
    UNSEEN,
    V4,
    V6,
    A,
    B,
    Genl,
    Log,
    Ruleset,
    at_once,
    batch,
    bridge_settings,
    check,
    ifindex,
    inside,
    known,
    run,
    tcp,
    udp,
)

AUDIT = 1
DEFAULT_INTER, TO_HOST = 2, 3
INVALID, MALFORMED, BARE_PORT = 8, 9, 14
ALL_DENIED = (DENY,) * 6
#: Told apart from what the world says by itself: a text of ours, or a lie's MAC address.
OURS = (b"bwx", b"\2\0\0\0\0\x99")
PORT, VIA_PORT, MARK_PORT = 5614, 5617, 5615
V = (V4, V6)
#: The module needs conntrack in the host's namespace, which puts fragments together and cuts packets anew: here others want it as well.
TRACKING = """table inet bwk {
  chain f { type filter hook forward priority 0; ct state new counter; }
}"""
FIREWALL = """table inet bwf {
  chain f { type filter hook forward priority 0; policy drop; iifname "bwt0" oifname != "bwt0" accept; iifname != "bwt0" accept; }
}"""


@contextlib.contextmanager
def nft(table):
    subprocess.run(["nft", "-f", "-"], input=table.encode(), check=True)
    try:
        yield
    finally:
        run("nft", "delete", *table.split()[:3])


@contextlib.contextmanager
def without_br_netfilter():
    run("rmmod", "br_netfilter")  # modprobe -r would take the bridge's module, and every bridge, with it
    try:
        yield
    finally:
        run("modprobe", "br_netfilter")
        bridge_settings("1")


@contextlib.contextmanager
def switched(value):
    bridge_settings(value)
    try:
        yield
    finally:
        bridge_settings("1")


def everyone(ruleset):
    return known(ruleset).endpoint(V4["d"], V6["d"], D, ifindex("bwt0"), ifindex("bwt-d")) or ruleset


def macs():
    found = {ns: neighbours.mac_of(ns) for ns in "abdcw"}
    return {**found, "bwt0": link_mac("bwt0"), "bwt-w": link_mac("bwt-w"), "bwt1": link_mac("bwt1")}


def known_neighbours(there):
    """For good: nobody asks, and nobody believes a lie."""
    ends = {
        "a": ("bwt0", 201),
        "b": ("bwt0", 201),
        "d": ("bwt0", 201),
        "c": ("bwt1", 202),
        "w": ("bwt-w", 203),
    }
    lines = []
    for ns, (dev, net) in ends.items():
        lines += ["neigh replace %s lladdr %s dev %s nud permanent" % (one[ns], there[ns], dev) for one in V]
        peers = {"10.%d.0.1" % net: there[dev], "fd00:%d::1" % net: there[dev]}
        if dev == "bwt0":
            peers.update({one[peer]: there[peer] for peer in "abd" if peer != ns for one in V})
        own = ["neigh replace %s lladdr %s dev eth0 nud permanent" % pair for pair in peers.items()]
        batch(own, "-n", "bwt-" + ns)
    batch(lines)


# Fate.


def is_error(data):
    """An ICMP error or redirect: its own number and the rate at which it is sent are not ours to compare."""
    if data[12:14] == b"\x08\0":
        return data[23] == ICMP and data[34] in (3, 5, 11, 12)
    return data[12:14] == b"\x86\xdd" and data[20] == ICMP6 and (data[54] < 128 or data[54] == 137)


def without_number(data):
    """A stack numbers its packets of IPv4: without that, and its checksum."""
    return data[:18] + data[20:24] + data[26:] if data[12:14] == b"\x08\0" else data


class Capture:
    """Every frame of ours that a namespace's port receives, with its VLAN tag."""

    def __init__(self, ns):
        with inside(ns):
            self.s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self.s.bind(("eth0", 3))
        self.s.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        self.s.setsockopt(263, crossings.PACKET_IGNORE_OUTGOING, 1)
        self.s.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self.s.setblocking(False)

    def read(self):
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                data, more, _, _ = self.s.recvmsg(1 << 16, 64)
                status, _, _, _, _, tci, tpid = struct.unpack_from("=IIIHHHH", more[0][2])
                if any(one in data[14:] for one in OURS) and not is_error(data):
                    if b"bwxhost" in data or b"bwxout" in data:
                        data = without_number(data)
                    found.append(((tpid, tci) if status & 16 else None, data))  # TP_STATUS_VLAN_VALID
        return found


class Sockets:
    """What the sockets of a, b, d, c, w and the host hear."""

    def __init__(self):
        self.places = {}
        for ns in ("a", "b", "d", "c", "w", None):
            for port in (PORT, VIA_PORT, MARK_PORT):
                with inside(ns):
                    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                s.setsockopt(socket.SOL_SOCKET, 33, 1 << 20)
                s.bind(("::", port))
                s.setblocking(False)
                self.places[s] = ns or "host"

    def read(self):
        found = []
        for s, place in self.places.items():
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append((place, s.recv(2048)))
        return found

    def close(self):
        for s in self.places:
            s.close()


def malformed(v, text):
    """Packets that no stack takes: cut off, of another version, with a header length that is none."""
    (whole,) = crossings.udp_packet(v, V[v == 6]["a"], V[v == 6]["b"], text, 9)
    yield bytes([whole[0] ^ 0x30]) + whole[1:]
    yield whole[: 24 if v == 4 else 44] + text
    if v == 4:
        yield b"\x41" + whole[1:]
    else:
        yield whole[:6] + b"\0" + whole[7:]  # hop-by-hop options that are not there


def frames(there, wire):
    """From a, as bytes: every kind of packet in every kind of wrap, to b, to d by flooding, to the host and beyond."""
    serial, found = 0, []
    wraps = {
        **WRAPS,
        "VID 0, PCP 5": tag((Q, 5 << 13)),
        "802.1ad VID 0, PCP 3": tag((AD, 3 << 13)),
        "VID 5, PCP 5": tag((Q, 5 << 13 | 5)),
    }

    def add(to, wrap, pieces):
        for packet in pieces:
            ethertype = wraps[wrap](packet[0] >> 4 if packet[0] >> 4 in (4, 6) else v, packet)
            found.append(mac(there.get(to, to)) + mac(there["a"]) + ethertype)

    for v, addresses in ((4, V4), (6, V6)):
        own = "10.201.0.1" if v == 4 else "fd00:201::1"
        kinds = [(wrap, payload) for wrap in wraps for payload in ("udp", "fragments")]
        kinds += [("plain", payload) for payload in ("tcp", "echo", "unknown")]
        ways = [(kind, "b", "a", addresses["b"]) for kind in kinds]
        ways += [
            (("plain", "udp"), "b", source, addresses["b"]) for source in ("c", "x", "d")
        ]  # spoofed, unmanaged
        ways += [
            (("plain", "udp"), to, "a", addresses["b"]) for to in ("02:00:00:00:00:98", "ff:ff:ff:ff:ff:ff")
        ]
        ways += [(("plain", "udp"), "bwt0", source, own) for source in ("a", "b", "x")]
        ways += [((wrap, "udp"), "bwt0", "a", own) for wrap in ("VID 0", "VID 0, PCP 5")]
        ways += [(("plain", "udp"), "bwt0", "a", addresses[ns]) for ns in "wc"]
        ways += [(("plain", "udp"), "01:80:c2:00:00:0e", "a", own)]  # the bare port
        for (wrap, payload), to, source, target in ways:
            serial += 1
            text = b"bwx%08x" % serial
            add(to, wrap, PAYLOADS[payload].make(v, addresses[source], target, text, serial, PORT))
        for text in (b"bwx%08x" % (1000 + v), b"bwx%08x" % (1100 + v) + b"." * 1400):
            add("b", "plain", malformed(v, text))
        big = (
            b"bwx%08x" % (1200 + v) + b"+" * 5000
        )  # beyond the MTU, which AF_PACKET refuses or the bridge drops
        add(
            "b",
            "plain",
            finish(
                v,
                addresses["a"],
                addresses["b"],
                UDP,
                struct.pack("!HHHH", 40000, PORT, 8 + len(big), 0) + big,
                6,
            ),
        )
    right, another, wrong = neighbours.claims(wire)
    for packet in (*right.values(), *another.values(), *wrong.values()):
        found.append(mac("33:33:00:00:00:01") + mac(there["a"]) + b"\x86\xdd" + packet)
    return found


class Fate:
    """Sends the same each time, and tells what arrives."""

    def __init__(self):
        self.there = macs()
        known_neighbours(self.there)
        self.wire = neighbours.Wire()
        self.captures = {ns: Capture(ns) for ns in "bdcw"}
        self.sockets = Sockets()
        with inside("a"):
            self.sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.sender.bind(("eth0", 0))
        self.frames = frames(self.there, self.wire)
        packets.until(lambda: "tentative" not in neighbours.said("ip", "-6", "addr", "show", "dev", "bwt-a"))
        self.port = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.port.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"bwt-a")
        self.host = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]

    def host_sends(self):
        """What its calls say: to containers, and out of a bare port."""
        said = []
        ways = [(s, addresses[ns]) for s, addresses in zip(self.host, V) for ns in "abc"]
        for n, (s, address) in enumerate([*ways, (self.port, "ff02::1")]):
            try:
                where = (address, VIA_PORT, 0, ifindex("bwt-a")) if s is self.port else (address, VIA_PORT)
                s.sendto(b"bwxhost%d" % n, where)
                said.append("sent")
            except OSError as error:
                said.append(error.strerror)
        return said

    def outside_sends(self):
        """To a container's own address and to the host, from w."""
        with inside("w"):
            s = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
        for one, targets in zip(s, ((V4["a"], "10.203.0.1"), (V6["a"], "fd00:203::1"))):
            for target in targets:
                with contextlib.suppress(OSError):
                    one.sendto(b"bwxout " + target.encode(), (target, VIA_PORT))
            one.close()

    def read(self):
        found = [(ns, *one) for ns, capture in self.captures.items() for one in capture.read()]
        return found + [("socket", *one) for one in self.sockets.read()]

    def arrives(self, want=None):
        """All that arrives, sorted. As much as `want` is waited for longer."""
        self.read()
        for one in self.frames:
            with contextlib.suppress(OSError):  # longer than the MTU
                self.sender.send(one)
        found = [("said", *self.host_sends())]
        self.outside_sends()
        still = time.monotonic()
        while time.monotonic() < still + (0.3 if want and len(found) >= len(want) else 4 * packets.WAIT):
            more = self.read()
            found += more
            still = time.monotonic() if more else still
            time.sleep(0.01)
        return sorted(found, key=repr)

    def close(self):
        for s in (self.sender, self.port, *self.host, self.wire.sockets["a"], self.wire.sockets["b"]):
            s.close()
        for capture in self.captures.values():
            capture.s.close()
        self.sockets.close()


def without_idents(found):
    """Where conntrack puts IPv6 fragments together, br_netfilter cuts them anew under a number of its own."""
    return sorted(
        (
            (*one[:2], one[2][:58] + one[2][62:])
            if len(one) == 3 and one[2][12:14] + one[2][20:21] == b"\x86\xdd,"
            else one
            for one in found
        ),
        key=repr,
    )


def differences(got, want):
    """What is missing and what is too much, shortened for people."""
    missing, more = list(want), []
    for one in got:
        if one in missing:
            missing.remove(one)
        else:
            more.append(one)
    return {
        word: ["%s" % (str(one)[:150],) for one in some[:3]] + ["%d" % len(some)]
        for word, some in (("missing", missing), ("new", more))
        if some
    }


SETTINGS = (
    ("br_netfilter not loaded", without_br_netfilter),
    ("switches 0", lambda: switched("0")),
)
PLACEMENTS = {"forward": FORWARD, "postrouting": POSTROUTING, "container": CONTAINER}


def audited(placement, **more):
    return everyone(Ruleset(defaults=ALL_DENIED, mode=AUDIT, placement=placement, **more))


def test_fate():
    if loading.loaded():
        loading.unload()
    fate = Fate()
    tracking = contextlib.ExitStack()
    tracking.enter_context(nft(TRACKING))
    try:
        with nft(FIREWALL):
            for words, setting in SETTINGS:
                with setting():
                    unloaded = fate.arrives()
                    check(
                        "%s, no module: the same arrives twice" % words,
                        differences(fate.arrives(unloaded), unloaded),
                        {},
                    )
                    check(
                        "%s, no module: frames with VLAN 0 and a priority arrive" % words,
                        sum(len(one) == 3 and one[1] == (Q, 5 << 13) for one in unloaded) >= 6,
                        True,
                    )
                    loading.load(closed="")
                    g = Genl()
                    for placement, number in PLACEMENTS.items():
                        audited(number).commit(g)
                        got = fate.arrives(unloaded)
                        check(
                            "%s, audit, %s: the same arrives" % (words, placement),
                            differences(got, unloaded),
                            {},
                        )
                    everyone(Ruleset(defaults=ALL_DENIED)).commit(g)
                    got = fate.arrives()
                    check("%s, enforce: less does" % words, 0 < len(got) < len(unloaded) / 2, True)
                    g.close()
                    loading.unload()
            with switched("1"):
                got = fate.arrives()
                check(
                    "switches 1, no module: the host's firewall drops within the bridge",
                    len(got) < len(unloaded),
                    True,
                )
        with switched("1"):
            unloaded = without_idents(fate.arrives())
            loading.load(closed="")
            g = Genl()
            for placement, number in PLACEMENTS.items():
                audited(number).commit(g)
                got = without_idents(fate.arrives(unloaded))
                check("switches 1, audit, %s: the same arrives" % placement, differences(got, unloaded), {})
            g.close()
    finally:
        tracking.close()
        fate.close()
        if not loading.loaded():
            loading.load(closed="")


# Counts.


def service(proto, lo, hi=None):
    return (proto << 16 | lo, proto << 16 | (lo if hi is None else hi))


#: Rules by name, in the order of their numbers. Those that nothing may count under are there to be mistaken for others.
RULES = {
    "TCP, allowed": (A, B, tcp(7000), ALLOW),
    "TCP, denied": (A, B, tcp(7001), DENY),
    "TCP, rejected": (A, B, tcp(7002), REJECT),
    "back to clients' TCP ports": (B, A, service(TCP, 32768, 65535), DENY),
    "TCP, a published port above the client's": (A, B, tcp(50000), ALLOW),
    "TCP, opened before": (A, B, tcp(7003), ALLOW),
    "UDP, allowed": (A, B, udp(7010), ALLOW),
    "UDP, denied": (A, B, udp(7011), DENY),
    "back to clients' UDP ports": (B, A, service(UDP, 32768, 60999), DENY),
    "UDP, published": (A, B, udp(61000), ALLOW),
    "UDP, one port at both ends": (A, B, udp(5353), ALLOW),
    "UDP, a closed port": (A, B, udp(7012), ALLOW),
    "UDP, fragments": (A, B, udp(PORT), ALLOW),
    "echo": (A, B, service(ICMP, 8 << 8), ALLOW),
    "echo, IPv6": (A, B, service(ICMP6, 128 << 8), ALLOW),
    "echo back": (B, A, service(ICMP, 8 << 8), DENY),
    "echo back, IPv6": (B, A, service(ICMP6, 128 << 8), DENY),
    "an unknown protocol": (A, B, service(crossings.UNKNOWN, 0), ALLOW),
    "to the host": (A, HOST, tcp(7020), ALLOW),
    "SCTP": (A, B, service(132, 7030), ALLOW),
}
NUMBER = {name: RULE + n for n, name in enumerate(RULES)}
BACK = [name for name in RULES if "back" in name]


def policy(mode, placement=FORWARD, log=(0, 0)):
    made = everyone(
        Ruleset(defaults=(ALLOW, ALLOW, DENY, DENY, ALLOW, ALLOW), mode=mode, placement=placement, log=log)
    )
    for rule in RULES.values():
        made.rule(*rule, log=bool(log[0]))
    for family, addresses in ((socket.AF_INET, V4), (socket.AF_INET6, V6)):
        to = socket.inet_pton(family, addresses["b"])
        for proto, port in ((UDP, 61000), (TCP, 50000)):
            made.publish.append(struct.pack("=BBH16sBBH16s", family, proto, port, b"", family, 0, port, to))
    return made


def one_family(s):
    if s.family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def tcp_from(port, address, to):
    """A connection from a port of a; 0: any."""
    with inside("a"):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    with s:
        packets.reset_at_close(s)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one_family(s)
        s.bind(("", port))
        s.settimeout(packets.WAIT)
        try:
            s.connect((address, to))
            return "open" if packets.echo(s) else "closed"
        except OSError as error:
            return type(error).__name__


def udp_from(port, address, to):
    with inside("a"):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        one_family(s)
        s.bind(("", port))
        s.connect((address, to))
        try:
            s.send(b"x")
            return "open" if packets.receive(s) else "closed"
        except OSError as error:
            return type(error).__name__


class Traffic:
    """Connections, each of which one rule judges."""

    #: Of these each packet is counted once, and there is nothing that repeats one.
    EXACT = ("UDP, allowed", "UDP, published", "UDP, one port at both ends", "UDP, a closed port", "UDP, fragments",
             "echo", "echo, IPv6", "an unknown protocol", "SCTP")  # fmt: skip

    def __init__(self):
        with inside("a"):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.raw.bind(("eth0", 0))
        self.there = macs()
        self.text = 0

    def frame(self, to, packet, wrap="plain"):
        self.raw.send(mac(self.there[to]) + mac(self.there["a"]) + WRAPS[wrap](packet[0] >> 4, packet))

    def made(self, kind, v, source="a"):
        self.text += 1
        addresses = V[v == 6]
        return PAYLOADS[kind].make(
            v, addresses[source], addresses["b"], b"bwx%08x" % self.text, self.text, PORT
        )

    def open(self):
        """Before a policy is there: streams that go on under it."""
        return [packets.connect("a", addresses["b"], 7003) for addresses in V]

    def talk(self, streams):
        """{name: outcomes}, of both families."""
        calls = {
            "TCP, allowed": (tcp_from, 0, 7000),
            "TCP, denied": (tcp_from, 0, 7001),
            "TCP, rejected": (tcp_from, 0, 7002),
            "TCP, a published port above the client's": (tcp_from, 901, 50000),
            "TCP, no rule": (tcp_from, 0, 7004),
            "UDP, allowed": (udp_from, 0, 7010),
            "UDP, denied": (udp_from, 0, 7011),
            "UDP, published": (udp_from, 61001, 61000),
            "UDP, one port at both ends": (udp_from, 5353, 5353),
            "UDP, a closed port": (udp_from, 0, 7012),
        }
        ways = [(name, fn, port, one["b"], to) for name, (fn, port, to) in calls.items() for one in V]
        ways += [("to the host", tcp_from, 0, address, 7020) for address in ("10.201.0.1", "fd00:201::1")]
        found = {}
        for (name, *_), outcome in zip(ways, at_once([way[1:] for way in ways])):
            found.setdefault(name, []).append(outcome)
        for v in (4, 6):
            for kind in ("fragments", "echo", "unknown"):
                for packet in self.made(kind, v):
                    self.frame("b", packet)
            init = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 7)
            head = struct.pack("!HHI", 40000 + v, 7030, 0)
            whole = head + struct.pack("<I", neighbours.crc32c(head + bytes(4) + init)) + init
            a, b = V[v == 6]["a"], V[v == 6]["b"]
            self.frame("b", ip4(a, b, 132, whole) if v == 4 else ip6(a, b, 132, whole))
        found["TCP, opened before"] = [packets.echo(s) for s in streams]
        return found


def counted(g, before):
    names = {number: name for name, number in NUMBER.items()}
    now = g.counters()
    return {
        names.get(n, n): count - before.get(n, 0)
        for n, count in now.items()
        if count != before.get(n, 0)
        and n not in (packets.NEIGHBOUR, 15, packets.HOST_ERROR)  # not: resets of ours
    }


def measure(traffic, ruleset, switches):
    """The outcomes, and {rule: packets} when all is still."""
    g = Genl()
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
    with switches():
        streams = traffic.open()
        packets.rest()
        ruleset.commit(g)
        before = g.counters()
        outcomes = traffic.talk(streams)
        for s in streams:
            s.close()
        packets.settled(g.counters)
        found = counted(g, before)
    g.close()
    return outcomes, found


def test_counts():
    with inside("b"):
        for path in ("net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"):
            bareports.sysctl(path, "0")
    traffic = Traffic()
    outcomes, enforced = measure(traffic, policy(0), lambda: switched("1"))
    refused = {"TCP, denied", "TCP, rejected", "TCP, no rule", "UDP, denied", "UDP, a closed port"}
    check(
        "enforce: what passes",
        {name for name, each in outcomes.items() if set(each) <= {"open", True}},
        set(outcomes) - refused,
    )
    check("enforce: which rules count", set(enforced), (set(RULES) - set(BACK)) | {DEFAULT_INTER})
    with nft(FIREWALL):
        for words, switches in SETTINGS:
            for placement, number in PLACEMENTS.items():
                said = "audit, %s, %s" % (placement, words)
                outcomes, found = measure(traffic, policy(AUDIT, number), switches)
                check(
                    said + ": all but a closed port answers",
                    {name for name, each in outcomes.items() if not set(each) <= {"open", True}},
                    {"UDP, a closed port"},
                )
                check(said + ": the same rules count", set(found), set(enforced))
                exact = {name: enforced.get(name, 0) for name in traffic.EXACT}
                check(said + ": each packet once", {name: found.get(name) for name in exact}, exact)
    outcomes, found = measure(traffic, policy(AUDIT), lambda: switched("1"))
    check("audit, switches 1: the same rules count", set(found), set(enforced))
    exact = {name: enforced.get(name, 0) for name in traffic.EXACT}
    check("audit, switches 1: each packet once", {name: found.get(name) for name in exact}, exact)
    traffic.raw.close()


def shots(there, v):
    """{name: (frames from a, reason that counts, how often)}: what no rule decides."""
    addresses = V[v == 6]

    def one(kind, source="a", wrap="plain"):
        made = PAYLOADS[kind].make(v, addresses[source], addresses["b"], b"bwx%08x" % v, 77, PORT)
        return [mac(there["b"]) + mac(there["a"]) + WRAPS[wrap](v, packet) for packet in made]

    rule = NUMBER["UDP, fragments"]
    own = "10.201.0.1" if v == 4 else "fd00:201::1"
    (packet,) = crossings.udp_packet(v, addresses["a"], own, b"bwx", 1, PORT)
    to_host = mac(there["a"]) + WRAPS["plain"](v, packet)
    found = {
        "another port's address": (one("udp", "d"), SPOOFED, 1),
        "another bridge's address": (one("udp", "c"), SPOOFED, 1),
        "fragments with another's address": (one("fragments", "d"), SPOOFED, 1),
        "nobody's address": (one("udp", "x"), UNMANAGED, 1),
        "a later fragment alone": (one("fragments")[1:], None, 0),
        "VLAN 0": (one("udp", wrap="VID 0"), rule, 1),
        "VLAN 0 by 802.1ad": (one("udp", wrap="802.1ad VID 0"), rule, 1),
        "VLAN 0, fragments": (one("fragments", wrap="VID 0"), rule, 1),
        "VLAN 5": (one("udp", wrap="VID 5"), UNSEEN, 1),
        "VLAN 5, fragments": (one("fragments", wrap="VID 5"), UNSEEN, 2),
        "VLAN 0 twice": (one("udp", wrap="VID 0, VID 0"), UNSEEN, 1),
        "PPPoE": (one("udp", wrap="PPPoE"), UNSEEN, 1),
        "MPLS": (one("udp", wrap="MPLS 16"), UNSEEN, 1),
        "to the bare port": ([mac("01:80:c2:00:00:0e") + to_host], BARE_PORT, 1),
    }
    quoted = crossings.udp_packet(v, addresses["b"], addresses["a"], b"bwx", 1, 7013)[0]
    own = crossings.udp_packet(v, addresses["c"], addresses["a"], b"bwx", 1, 7013)[0]
    for name, packet, reason in (
        ("an error about a flow that no rule speaks of", quoted, DEFAULT_INTER),
        ("an error about somebody else's flow", own, INVALID),
        ("an error without a quote", b"", INVALID),
    ):
        body = struct.pack("!BBHI", *((3, 3) if v == 4 else (1, 4)), 0, 0) + packet
        made = finish(v, addresses["a"], addresses["b"], ICMP if v == 4 else ICMP6, body, 2)
        found[name] = ([mac(there["b"]) + mac(there["a"]) + WRAPS["plain"](v, made[0])], reason, 1)
    for n, packet in enumerate(malformed(v, b"bwx")):
        found["malformed, %d" % n] = (
            [mac(there["b"]) + mac(there["a"]) + WRAPS["plain"](v, packet)],
            MALFORMED,
            1,
        )
    return found


def test_reasons():
    """What no rule decides, one after another."""
    there = macs()
    with inside("a"):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        raw.bind(("eth0", 0))
    with inside("b"):  # so that nothing answers
        deaf = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    deaf.bind(("::", PORT))
    g = Genl()
    for placement, number in PLACEMENTS.items():
        policy(AUDIT, number).commit(g)
        with switched("0"):
            for v in (4, 6):
                wrong = {}
                for name, (made, reason, times) in shots(there, v).items():
                    before = g.counters()
                    for frame in made:
                        raw.send(frame)
                    end, want = time.monotonic() + packets.PATIENCE, {reason: times} if times else {}

                    def counts(before=before):
                        found = g.counters()
                        return {
                            n: found[n] - before.get(n, 0)
                            for n in found
                            if found[n] != before.get(n, 0) and n not in (packets.NEIGHBOUR, 15)
                        }

                    while (
                        any(counts().get(n, 0) < most for n, most in want.items()) and time.monotonic() < end
                    ):
                        time.sleep(0.01)
                    time.sleep(0.05)
                    got = counts()
                    if got != want:
                        wrong[name] = got, want
                check("%s, IPv%d: what no rule decides" % (placement, v), wrong, {})
    deaf.close()
    raw.close()
    g.close()


def test_neighbours():
    """Neighbour discovery is counted by the same reasons as under enforce."""
    wire = neighbours.Wire()
    right, another, wrong = neighbours.claims(wire)
    g = Genl()
    policy(AUDIT).commit(g)
    with switched("0"):
        for words, some, reason in (
            ("right", right, packets.NEIGHBOUR),
            ("another's", another, SPOOFED),
            ("wrong", wrong, MALFORMED),
        ):
            before = g.counters()
            check("%s neighbour discovery arrives" % words, wire.arrive(some), sorted(some))
            found = g.counters().get(reason, 0) - before.get(reason, 0)
            check(
                "and is counted",
                found >= len(some) if reason == packets.NEIGHBOUR else found == len(some),
                True,
            )
    g.close()


def test_log():
    log = Log(5)
    g = Genl()
    policy(AUDIT, log=(5, 1)).commit(g)
    with switched("0"):
        log.prefixes(0.1)
        check("a denied connection is open", tcp_from(0, V4["b"], 7001), "open")
        check("its lines", set(log.prefixes()), {"bridgewarden: audit deny inter_container rule rule 1"})
        check("one that no rule allows is open", tcp_from(0, V6["b"], 7004), "open")
        check("its lines", set(log.prefixes()), {"bridgewarden: audit deny inter_container default"})
    g.close()
    log.close()


def test_trace():
    """Verdicts of what no IP hook of the host sees, by a trace of the bridge."""
    g = Genl()
    policy(AUDIT).commit(g)
    with switched("0"), traces.Trace(traces.term(TCP, 7001, link=ifindex("bwt0"))) as t:
        check("a denied connection is open", [tcp_from(0, one["b"], 7001) for one in V], ["open"] * 2)
        t.settled()
        found = {
            (e["hook"], e["action"], e["audit"], e["rule"])
            for e in t.events()
            if e["event"] == "bw_verdict" and e["netns"] == str(traces.netns(None))
        }
    check("its verdicts", found, {("FORWARD", "deny", "1", "rule 1")})
    g.close()


TESTS = [test_fate, test_counts, test_reasons, test_neighbours, test_log, test_trace]


def main():
    wanted = sys.argv[1:]
    if not loading.KO:
        sys.exit("BW_KO names no file: the module's .ko")
    saved = packets.world_up()
    try:
        known_neighbours(macs())
        for port in (7000, 7001, 7002, 7003, 7004, 50000, 7010, 7011, 61000, 5353):
            packets.serve("b", port)
        packets.serve(None, 7020)
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# " + test.__name__, flush=True)
                packets.rest()
                test()
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
    finally:
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
