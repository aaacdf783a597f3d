#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""No crossing without a verdict: what leaves a guarded port was accepted exactly once, what does not was dropped exactly once.

Builds on packets.py, whose world it extends by d, x and m:

    w 10.203.0.2 --(bwt-w)-- host --(bwt0, guarded)-- a, b, d 10.201.0.2, .3, .4
                              |
                              +-----(bwt1, guarded)-- c 10.202.0.2
    x 10.201.0.77 --(bwt-x)-- host; a topology attaches it
    m 10.204.0.2 --(macvlan on bwtp)-- host

TOPOLOGIES is data: what a topology changes in this world, and rows of frames with the places they reach in it when nothing is
guarded and the verdicts that they must get on the way. Each row is sent under each policy. A frame carries a serial number, and is
looked for at every port (AF_PACKET, before any hook of the receiver) and at the host's sockets. Words given as arguments select
topologies by name. The frames of a topology are sent together under each policy and their counters compared as a sum; --each sends one at a time.
"""

import collections
import contextlib
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time

import bareports
import packets
from bareports import ip4, ip6, link_mac, mac, sysctl, with_checksum
from contexts import Repeater
from inside import inum
from packets import (
    ALLOW,
    ANY,
    DENY,
    FORWARD,
    HOST,
    ICMP,
    ICMP6,
    POSTROUTING,
    TCP,
    UDP,
    V4,
    V6,
    WORLD,
    A,
    B,
    C,
    Genl,
    Ruleset,
    batch,
    batch_if_there,
    check,
    ifindex,
    inside,
    known,
    nla,
    udp,
)

D, M = 6, 7
CONTAINER = 2
AUDIT = 1
#: A protocol that nobody parses.
UNKNOWN = 253
PORT, MARK_PORT = 5614, 5615
QUEUE_NUMBER = 9
NF_ACCEPT = 1
PACKET_IGNORE_OUTGOING = 23

packets.NAMESPACES["d"] = ("bwt0", 201, 4)
V4.update(d="10.201.0.4", x="10.201.0.77", m="10.204.0.2")
V6.update(d="fd00:201::4", x="fd00:201::77", m="fd00:204::2")
BRIDGE_MAC = {"bwt0": "02:00:00:00:00:01", "bwt1": "02:00:00:00:01:01"}
#: Behind port bwt-a as well, as the bridge learns.
SECOND_MAC = "02:00:00:00:0a:02"
SHIM_MAC = "02:00:00:00:00:09"
TUNNEL_MAC = "02:00:00:00:00:42"
TUNNELS = ("bwtv", "bwtu", "bwti", "bwts", "bwtg")
#: Whoever sends in a tunnel.
BEHIND = {4: "10.206.0.2", 6: "fd00:206::2"}

# Verdicts. A crossing has the counter of where it is denied, and that of where everything is allowed; without the latter no policy
# lets it pass. A third is that of mode audit: where br_netfilter noted no port, only a drop at the bridge can tell by which one a packet to
# the host or beyond it came.
RULE = packets.RULE
MARK_RULE, DIRECT_RULE = RULE, RULE + 1
QUEUE_RULES = {"inter": RULE + 2, "host": RULE + 3, "egress": RULE + 4}
UNCOUNTED = -1
CROSSINGS = {
    "egress": (1, 1),
    "inter": (2, 2),
    "host": (3, 3),
    "from host": (4, 4),
    # A child's own namespace counts what is allowed. What it sends by a raw socket passes no hook there.
    "host, uncounted": (3, UNCOUNTED),
    "egress, uncounted": (1, UNCOUNTED),
    "direct": (packets.DIRECT, DIRECT_RULE),
    "direct to c": (packets.DIRECT, DIRECT_RULE + 1),
    "direct to m": (packets.DIRECT, DIRECT_RULE + 2),
    "unmanaged": (packets.UNMANAGED, None),
    "spoofed": (packets.SPOOFED, None),
    "spoofed, unnoted, host": (packets.SPOOFED, None, 3),
    "spoofed, unnoted, inter": (packets.SPOOFED, None, 2),
    "spoofed, unnoted, egress": (packets.SPOOFED, None, 1),
    "invalid": (packets.INVALID, None),
    "bare port": (14, None),
    "unseen": (16, None),
    # Between two ports of one bridge: audit reads what it is not shown.
    "unseen, inter": (16, None, 2),
    "unseen, spoofed": (16, None, packets.SPOOFED),
}
#: Never compared: neighbour discovery and listener reports go on by themselves, and the mark is ours.
BESIDES = {packets.NEIGHBOUR, 15, MARK_RULE}


# What is sent: a packet, and what it is wrapped in. {text} stands in each piece of it.


def udp_packet(v, source, to, text, serial, port=PORT):
    body = struct.pack("!HHHH", 20000 + serial % 40000, port, 8 + len(text), 0) + text
    return finish(v, source, to, UDP, body, 6)


def tcp_packet(v, source, to, text, serial, port=PORT):
    """A SYN with data to a port nobody listens on."""
    body = struct.pack("!HHIIBBHHH", 20000 + serial % 40000, 5999, serial, 0, 5 << 4, 2, 8192, 0, 0) + text
    return finish(v, source, to, TCP, body, 16)


def echo_packet(v, source, to, text, serial, port=PORT):
    body = struct.pack("!BBHHH", 8 if v == 4 else 128, 0, 0, serial & 0xFFFF, 1) + text
    return finish(v, source, to, ICMP if v == 4 else ICMP6, body, 2)


def unknown_packet(v, source, to, text, serial, port=PORT):
    return finish(v, source, to, UNKNOWN, text, None)


def finish(v, source, to, proto, body, at):
    """The checksum stands at that place of the body."""
    if v == 6:
        return [ip6(source, to, proto, with_checksum(source, to, proto, body, at) if at else body)]
    if proto == ICMP:
        body = body[:2] + struct.pack("!H", bareports.checksum(body)) + body[4:]
    elif at:
        pseudo = socket.inet_aton(source) + socket.inet_aton(to) + struct.pack("!HH", proto, len(body))
        body = body[:at] + struct.pack("!H", bareports.checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]
    return [ip4(source, to, proto, body)]


def fragments(v, source, to, text, serial, port=PORT):
    """A datagram in two pieces."""
    text = text.ljust(24, b".") + text
    (whole,) = udp_packet(v, source, to, text, serial)
    cut = 32
    if v == 6:
        body = whole[40:]
        return [
            ip6(source, to, 44, struct.pack("!BBHI", UDP, 0, at | more, serial) + body[at:end])
            for at, end, more in ((0, cut, 1), (cut, None, 0))
        ]
    found = []
    for at, end, more in ((0, cut, 0x2000), (cut, None, 0)):
        body = whole[20:][at:end]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), serial & 0xFFFF, more | at // 8, 64, UDP, 0)
        head += socket.inet_aton(source) + socket.inet_aton(to)
        found.append(head[:10] + struct.pack("!H", bareports.checksum(head)) + head[12:] + body)
    return found


def tunneled(proto):
    """A datagram from beyond, in a packet of the tunnel between a and the host."""

    def make(v, source, to, text, serial, port=PORT):
        (inner,) = udp_packet(v, BEHIND[v], to, text, serial)
        if proto == 47:
            inner = struct.pack("!HH", 0, 0x0800 if v == 4 else 0x86DD) + inner
        return [ip4(V4["a"], "10.201.0.1", proto, inner)]

    return make


def tunneled6(v, source, to, text, serial, port=PORT):
    (inner,) = udp_packet(v, BEHIND[v], to, text, serial)
    return [ip6(V6["a"], "fd00:201::1", 4 if v == 4 else 41, inner)]


def vxlan(number, dport):
    def make(v, source, to, text, serial, port=PORT):
        (inner,) = udp_packet(v, BEHIND[v], to, text, serial)
        frame = mac(TUNNEL_MAC) + b"\2\0\0\0\0\1" + WRAPS["plain"](v, inner)
        body = struct.pack("!HHHHII", 20000, dport, 16 + len(frame), 0, 8 << 24, number << 8) + frame
        return finish(4, V4["a"], "10.201.0.1", UDP, body, 6)

    return make


Payload = collections.namedtuple("Payload", "make answers pieces")
PAYLOADS = {
    "udp": Payload(udp_packet, 0, 1),
    "tcp": Payload(tcp_packet, 1, 1),
    "echo": Payload(echo_packet, 1, 1),
    "unknown": Payload(unknown_packet, 0, 1),
    "fragments": Payload(fragments, 0, 2),
}
EVERY_PAYLOAD = tuple(PAYLOADS)
PAYLOADS.update(
    {
        "VXLAN": Payload(vxlan(43, 4790), 0, 1),
        "VXLAN of bwt0": Payload(vxlan(42, 4789), 0, 1),
        "IPIP": Payload(tunneled(4), 0, 1),
        "SIT": Payload(tunneled(41), 0, 1),
        "IPv6 tunnel": Payload(tunneled6, 0, 1),
        "GRE": Payload(tunneled(47), 0, 1),
    }
)


def tag(*tags):
    """VLAN tags ahead of the packet, outermost first: (ethertype, VID)."""
    head = b"".join(struct.pack("!HH", *one) for one in tags)
    return lambda v, packet: head + struct.pack("!H", 0x0800 if v == 4 else 0x86DD) + packet


def pppoe(v, packet, compressed=False, ahead=b""):
    """A frame of session 1, RFC 2516; the protocol in one byte is RFC 1661's compression."""
    proto = 0x21 if v == 4 else 0x57
    body = (struct.pack("!B", proto) if compressed else struct.pack("!H", proto)) + packet
    return ahead + struct.pack("!HBBHH", 0x8864, 0x11, 0, 1, len(body)) + body


def mpls(label):
    return lambda v, packet: struct.pack("!HI", 0x8847, label << 12 | 1 << 8 | 64) + packet


Q, AD = 0x8100, 0x88A8
WRAPS = {
    "plain": tag(),
    "VID 0": tag((Q, 0)),
    "802.1ad VID 0": tag((AD, 0)),
    "VID 1": tag((Q, 1)),
    "VID 5": tag((Q, 5)),
    "VID 0, VID 0": tag((Q, 0), (Q, 0)),
    "VID 0, VID 5": tag((Q, 0), (Q, 5)),
    "VID 1, VID 5": tag((Q, 1), (Q, 5)),
    "VID 5, VID 0": tag((Q, 5), (Q, 0)),
    "QinQ": tag((AD, 5), (Q, 5)),
    "802.1ad VID 1": tag((AD, 1)),
    "PPPoE": pppoe,
    "PPPoE compressed": lambda v, packet: pppoe(v, packet, compressed=True),
    "VID 5 PPPoE": lambda v, packet: pppoe(v, packet, ahead=struct.pack("!HH", Q, 5)),
    "MPLS 16": mpls(16),
    "MPLS 17": mpls(17),
    "MPLS 18": mpls(18),
}
ZERO = ("VID 0", "802.1ad VID 0")
NESTED_ZERO = ("VID 0, VID 0", "VID 0, VID 5")
TAGGED = ("VID 1", "VID 5", "VID 5, VID 0", "QinQ")
SESSIONS = ("PPPoE", "PPPoE compressed", "VID 5 PPPoE")


# Where it is sent.

#: Ports of the host that lead to a container.
PUBLISHED = {"a, published": 18183, "b, published": 18181, "c, published": 18182}
NAT = """table inet bwc {
  chain pre { type nat hook prerouting priority -100;
              %s }
}""" % " ".join(
    "udp dport %d dnat %s to %s;" % (number, family, address % (V[to[0]], PORT))
    for to, number in PUBLISHED.items()
    for family, V, address in (("ip", V4, "%s:%d"), ("ip6", V6, "[%s]:%d"))
)
#: What a router says to those that send it what they could send to a neighbour themselves; only sometimes, so that it cannot be counted.
REDIRECTS = """table ip6 bwr {
  chain o { type filter hook output priority 0; icmpv6 type nd-redirect drop; }
}"""

#: Name: the MAC address and the crossings of a plain packet, if none are given. {name} of a namespace, "bwt0", or an address.
Target = collections.namedtuple("Target", "mac address crossings")
OUTSIDE = {4: "10.203.0.1", 6: "fd00:203::1"}
OWN = {4: "10.201.0.1", 6: "fd00:201::1"}


def of(ns):
    return {4: V4[ns], 6: V6[ns]}


TARGETS = {
    "a": Target("a", of("a"), ("inter",)),
    "b": Target("b", of("b"), ("inter",)),
    "b, routed": Target("bwt0", of("b"), ("inter",)),
    "c": Target("bwt0", of("c"), ("inter",)),
    "a, published": Target("bwt0", OWN, ("inter",)),
    "b, published": Target("bwt0", OWN, ("inter",)),
    "c, published": Target("bwt0", OWN, ("inter",)),
    "group": Target("01:00:5e:00:00:fb", {4: "224.0.0.251", 6: "ff02::fb"}, ("host",)),
    "host by the parent": Target(SHIM_MAC, {4: "10.204.0.1", 6: "fd00:204::1"}, ("host",)),
    "w by the parent": Target(SHIM_MAC, of("w"), ("egress",)),
    "m, from outside": Target("bwt-w", of("m"), ("direct to m",)),
    "m": Target("m", of("m"), ("from host",)),
    "c, from host": Target("c", of("c"), ("from host",)),
    "host": Target("bwt0", OWN, ("host",)),
    "host, outside address": Target("bwt0", OUTSIDE, ("host",)),
    "w": Target("bwt0", of("w"), ("egress",)),
    "a, from outside": Target("bwt-w", of("a"), ("direct",)),
    "b, unknown MAC": Target("02:00:00:00:00:99", of("b"), ("inter",)),
    "b, broadcast": Target("ff:ff:ff:ff:ff:ff", of("b"), ("inter",)),
    "b, multicast": Target("03:00:00:00:00:01", of("b"), ("inter",)),
    "b, second MAC of a": Target(SECOND_MAC, of("b"), ("inter",)),
    "host, reserved group": Target("01:80:c2:00:00:0e", OWN, ("bare port",)),
    "x": Target("x", of("x"), ("unmanaged",)),
    "host by its VLAN": Target("bwt0", {4: "10.207.0.1", 6: "fd00:207::1"}, ("host",)),
    "VLAN's neighbour": Target("bwt-w", {4: "10.207.0.2", 6: "fd00:207::2"}, ("unmanaged",)),
    "ipvlan": Target("bwt0", {4: "10.201.0.9", 6: "fd00:201::9"}, ("host",)),
    "shim": Target(SHIM_MAC, {4: "10.201.0.9", 6: "fd00:201::9"}, ("host",)),
    "w by the shim": Target(SHIM_MAC, of("w"), ("egress",)),
    "c by the shim": Target(SHIM_MAC, of("c"), ("inter",)),
}

Row = collections.namedtuple(
    "Row", "to wraps payloads opens crossings copies sender source families back beside either"
)
#: Copies that a bridge floods to other ports: their verdict, how many, and the places they reach.
Beside = collections.namedtuple("Beside", "crossing copies opens")


def row(
    to,
    opens,
    crossings=None,
    wraps=("plain",),
    payloads=("udp",),
    copies=1,
    sender="a",
    source=None,
    families=(4, 6),
    back=False,
    beside=None,
    either=None,
):
    """Frames to a target: where each arrives while nothing is guarded, and which verdicts it gets, each once for each copy.

    opens: "host|w" is the host behind the first crossing and w behind the second; else the places behind the last. No crossings: it leads nowhere by itself, and may have a verdict or none. back: to the sender's own port counts, too. either: the
    verdicts of other kernels.
    """
    if crossings is None:
        crossings = TARGETS[to].crossings
    opens = [frozenset(places.split()) for places in opens.split("|")]
    opens = [frozenset()] * (len(crossings) - len(opens)) + opens
    return Row(to, wraps, payloads, opens, crossings, copies, sender, source, families, back, beside, either)


class Frame:
    def __init__(self, one, wrap, payload, v):
        self.row, self.wrap, self.payload, self.v = one, wrap, payload, v
        sender = one.sender + (" as " + one.source if one.source else "")
        self.name = "%s to %s: %s %s IPv%d" % (sender, one.to, wrap, payload, v)

    def copies(self, crossing, policy=None):
        """How many verdicts. Fragments are put together where a packet is judged, and each is a frame where none can be."""
        each = ["unseen", "bare port"]
        if policy and policy.mode != AUDIT:  # which counts the first fragment
            each += ["unseen, inter", "unseen, spoofed"]
        return self.row.copies * (PAYLOADS[self.payload].pieces if crossing in each else 1)

    def expected(self, policy, crossings=None):
        """The places where it arrives, and counters; None where they are not told."""
        row, found = self.row, collections.Counter()
        places = row.beside.opens if row.beside else frozenset()
        if policy.unguarded:
            return places.union(*row.opens), found
        crossings = row.crossings if crossings is None else crossings
        if not crossings:
            return row.opens[0], None
        if row.beside:
            index, passes = policy.judge(row.beside.crossing)
            found[index] += row.beside.copies
            places = places if passes else frozenset()
        answers = PAYLOADS[self.payload].answers
        for crossing, opens in zip(crossings, row.opens):
            index, passes = policy.judge(crossing)
            copies = policy.times * self.copies(crossing, policy)
            found[index] += copies
            if not passes:
                break
            places |= opens
            # What a raw socket sent is unknown to the conntrack of its own namespace, and so is the answer.
            if answers and row.sender != "host":
                found[packets.INVALID if policy.inside else index] += copies * answers
        del found[UNCOUNTED]
        return places, found

    def possible(self, policy):
        """Each that may be expected."""
        first = self.expected(policy)
        return [first] if self.row.either is None else [first, self.expected(policy, self.row.either)]


def frames(rows):
    return [
        Frame(one, wrap, payload, v)
        for one in rows
        for wrap in one.wraps
        for payload in one.payloads
        for v in one.families
    ]


# Policies.


class Policy:
    def __init__(
        self, name, defaults=(DENY,) * 6, placement=FORWARD, mode=0, guards=("bwt0", "bwt1"), queue=None
    ):
        self.name, self.defaults, self.placement, self.mode, self.guards = (
            name,
            defaults,
            placement,
            mode,
            guards,
        )
        self.queue = queue
        self.unguarded = not guards
        #: Whether containers' namespaces judge.
        self.inside = placement == CONTAINER and mode != AUDIT
        #: Each verdict of a queue that a packet is sent through twice is taken twice.
        self.times = 2 if queue is Repeater else 1

    def judge(self, crossing):
        """Its counter, and whether what it judges goes on."""
        denied, allowed, *audited = CROSSINGS[crossing]
        if self.queue and crossing in QUEUE_RULES:
            return QUEUE_RULES[crossing], True
        if self.mode == AUDIT:
            return audited[0] if audited else denied, True
        if self.defaults[0] == ALLOW and allowed is not None:
            return allowed, True
        return denied, False

    def commit(self, g):
        rules = Ruleset(
            guards=self.guards, defaults=(*self.defaults[:5], ALLOW), mode=self.mode, placement=self.placement
        )
        if self.guards:
            known(rules).endpoint(V4["d"], V6["d"], D, ifindex("bwt0"), ifindex("bwt-d"))
        if self.placement == CONTAINER:
            rules.parents = ("bwtp",)
            rules.endpoint(V4["m"], V6["m"], M, ifindex("bwtp"), inum("m"))
        rules.rule(A, HOST, udp(MARK_PORT))
        if self.defaults[0] == ALLOW:
            for to in (A, C, M):
                rules.rule(WORLD, to, ANY, direct=True)
        if self.queue:
            rules.rule(WORLD, A, udp(1))  # QUEUE_RULES begin behind DIRECT_RULE
            for to in (B, HOST, WORLD):
                rules.queue(A, to, udp(PORT), QUEUE_NUMBER)
        rules.commit(g)


class Accepter(Repeater):
    """Accepts each packet at once."""

    def answer(self, packet, payload):
        self.seen.add(payload)
        self.verdict(packet, NF_ACCEPT)


OPEN = (ALLOW,) * 6
UNGUARDED = Policy("unguarded", OPEN, guards=())
DENIED, ALLOWED = Policy("denied"), Policy("allowed", OPEN)
AUDITED = Policy("audit", mode=AUDIT)
DENIED_LATE = Policy("postrouting, denied", placement=POSTROUTING)
ALLOWED_LATE = Policy("postrouting, allowed", OPEN, placement=POSTROUTING)
DENIED_INSIDE = Policy("container, denied", placement=CONTAINER)
ALLOWED_INSIDE = Policy("container, allowed", OPEN, placement=CONTAINER)
EVERY_POLICY = (DENIED, ALLOWED, AUDITED, DENIED_LATE, ALLOWED_LATE)
AUDITED_LATE = Policy("postrouting, audit", placement=POSTROUTING, mode=AUDIT)
AUDITED_INSIDE = Policy("container, audit", placement=CONTAINER, mode=AUDIT)
INSIDE_TOO = (*EVERY_POLICY, DENIED_INSIDE, ALLOWED_INSIDE, AUDITED_INSIDE)
QUEUED = (
    Policy("queue, accepted", queue=Accepter),
    Policy("queue, repeated", queue=Repeater),
    Policy("queue, postrouting, repeated", queue=Repeater, placement=POSTROUTING),
)


# Topologies.


class Topology:
    def __init__(
        self,
        name,
        rows,
        up=(),
        down=(),
        sysctls=None,
        policies=EVERY_POLICY,
        prepare=None,
        lower=None,
        device=None,
        needs=None,
    ):
        self.name, self.rows, self.up, self.down, self.lower = name, rows, up, down, lower
        self.sysctls, self.policies, self.prepare = sysctls or {}, policies, prepare
        self.device, self.needs = device, needs


def bridge_vlan(link, vid, flags=0, own=False):
    """Makes a port, or the bridge itself, a member of a VLAN; what `bridge vlan add` does."""
    body = struct.pack("=BxHiII", socket.AF_BRIDGE, 0, ifindex(link), 0, 0)
    spec = (nla(0, struct.pack("=H", 2)) if own else b"") + nla(2, struct.pack("=HH", flags, vid))
    body += nla(26, spec)
    with contextlib.closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as s:
        s.bind((0, 0))
        s.send(struct.pack("=IHHII", 16 + len(body), 19, 5, 1, 0) + body)
        failed = -struct.unpack_from("=i", s.recv(4096), 16)[0]
    if failed:
        raise OSError(failed, os.strerror(failed))


def labels():
    """MPLS labels that the host takes off, to w, to c and to itself."""
    for label, way in (
        ("16", ("via", "inet", V4["w"], "dev", "bwt-w")),
        ("17", ("via", "inet", V4["c"], "dev", "bwt1")),
        ("18", ("dev", "lo")),
    ):
        packets.run("ip", "-f", "mpls", "route", "replace", label, *way)


def no_labels():
    subprocess.run(["ip", "-f", "mpls", "route", "flush"], check=False, stderr=subprocess.DEVNULL)


MEMBERS = []


def join():
    """The host is a member of the group, and what it sends there goes by the bridge."""
    four, six = (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
    )
    group = TARGETS["group"].address
    four.setsockopt(
        socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group[4]) + socket.inet_aton(OWN[4])
    )
    six.setsockopt(
        socket.IPPROTO_IPV6,
        socket.IPV6_JOIN_GROUP,
        socket.inet_pton(socket.AF_INET6, group[6]) + struct.pack("=I", ifindex("bwt0")),
    )
    MEMBERS.extend((four, six))


def leave():
    """A member reports itself again whenever its link comes up."""
    while MEMBERS:
        MEMBERS.pop().close()


VLAN_UNTAGGED = 4


def trunks():
    """VID 5 at each port, and untagged where it leaves to d."""
    for link in ("bwt-a", "bwt-b"):
        bridge_vlan(link, 5)
    bridge_vlan("bwt-d", 5, VLAN_UNTAGGED)
    bridge_vlan("bwt0", 5, own=True)


PLAIN = (
    row("b", "b", payloads=EVERY_PAYLOAD),
    row("b, routed", "b", payloads=EVERY_PAYLOAD),
    row("c", "c", payloads=EVERY_PAYLOAD),
    row("host", "host", payloads=EVERY_PAYLOAD),
    row("host, outside address", "host"),
    row("w", "w", payloads=EVERY_PAYLOAD),
    row("a, from outside", "a", sender="w"),
    row("a", "a", ("from host",), sender="host"),
    row("b", "b", ("spoofed",), source="c"),
    row("host", "host", ("spoofed",), source="b"),
    row("c", "c", ("spoofed",), source="b"),
    row("w", "w", ("spoofed",), source="b"),
    row("host", "host", ("unmanaged",), source="x"),
    row("w", "w", ("unmanaged",), source="x"),
    row("b, published", "b"),
    row("c, published", "c"),
)
FEW = (
    row("b", "b"),
    row("c", "c"),
    row("host", "host"),
    row("w", "w"),
    row("a, from outside", "a", sender="w"),
    row("a", "a", ("from host",), sender="host"),
)
#: Of a bridge without VLANs of its own: receivers look past VID 0.
TAGS = (
    row("b", "b", wraps=ZERO),
    row("host", "host", wraps=ZERO),
    row("w", "w", wraps=ZERO),
    row("c", "c", wraps=ZERO),
    row("host", "host", ("spoofed, unnoted, host",), wraps=ZERO, source="b"),
    row("b", "b", ("unseen",), wraps=(*NESTED_ZERO, *TAGGED, *SESSIONS, "MPLS 16")),
    row("host", "", (), wraps=TAGGED),
    row("w", "", (), wraps=TAGGED),
    row("host", "", ("unseen",), wraps=(*SESSIONS, "MPLS 16")),
)
FLOOD = (
    row("b, unknown MAC", "b d", copies=2, payloads=("udp", "fragments")),
    row("b, broadcast", "b d", copies=2),
    row("b, multicast", "b d", copies=2),
    row("b, unknown MAC", "b d", ("unseen",), copies=2, wraps=("VID 5", "PPPoE", "MPLS 16")),
    row("b, broadcast", "b d", ("unseen",), copies=2, wraps=("VID 5",)),
    # The host has a copy, too, which nobody there asks for.
    row("b, broadcast", "b d", ("unseen",), copies=3, wraps=("PPPoE", "MPLS 16")),
)
VLAN_UP = (
    "link add bwt0.5 link bwt0 type vlan id 5",
    "addr add 10.207.0.1/24 dev bwt0.5",
    "addr add fd00:207::1/64 dev bwt0.5 nodad",
    "link set bwt0.5 up",
    "neigh replace 10.207.0.2 lladdr {a} dev bwt0.5 nud permanent",
    "neigh replace fd00:207::2 lladdr {a} dev bwt0.5 nud permanent",
)
FILTER, PASS = "net/bridge/bridge-nf-filter-vlan-tagged", "net/bridge/bridge-nf-pass-vlan-input-dev"


def spoofed(wrap):
    return [row(to, to, ("spoofed",), source="b", wraps=(wrap,)) for to in ("host", "c", "w")]


def unnoted(**more):
    """Sources of another port, in frames whose port br_netfilter has not noted."""
    return [
        row(to, to, ("spoofed, unnoted, " + kind,), source="b", **more)
        for to, kind in (("host", "host"), ("c", "inter"), ("w", "egress"))
    ]


def vlan_device(filtered, passed):
    """A VLAN device of the host on the guarded bridge."""
    between = ("inter",) if filtered else ("unseen",)
    return Topology(
        "VLAN device, filter-vlan-tagged=%d, pass-vlan-input-dev=%d" % (filtered, passed),
        (
            *FEW,
            row("b", "b", between, wraps=("VID 5",)),
            row("host by its VLAN", "host", wraps=("VID 5",)),
            row("host", "host", wraps=("VID 5",)),
            row("c", "c", wraps=("VID 5",)),
            row("w", "w", wraps=("VID 5",)),
            *(spoofed("VID 5") if filtered else unnoted(wraps=("VID 5",))),
            row("host", "host", ("unmanaged",), wraps=("VID 5",), source="x"),
            row("VLAN's neighbour", "a", ("unmanaged",), sender="w"),
            row("VLAN's neighbour", "a", ("unmanaged",), sender="host"),
        ),
        VLAN_UP,
        ("link del bwt0.5",),
        {FILTER: str(filtered), PASS: str(passed)},
        (DENIED, ALLOWED, AUDITED, DENIED_LATE) if filtered == passed else (DENIED, ALLOWED),
        needs="8021q",
    )


VRF_UP = (
    "link add blue type vrf table 10",
    "link set blue up",
    *("link set %s master blue" % link for link in ("bwt0", "bwt1", "bwt-w")),
    *(
        "addr replace fd00:%d::1/64 dev %s nodad" % pair
        for pair in ((201, "bwt0"), (202, "bwt1"), (203, "bwt-w"))
    ),
)
VRF_DOWN = (
    "link del blue",
    *(
        "addr replace fd00:%d::1/64 dev %s nodad" % pair
        for pair in ((201, "bwt0"), (202, "bwt1"), (203, "bwt-w"))
    ),
)

TOPOLOGIES = (
    Topology(
        "bridge", (*PLAIN, *TAGS, row("host, reserved group", "host", families=(4,))), policies=INSIDE_TOO
    ),
    Topology(
        "multicast",
        (
            row("group", "host", beside=Beside("inter", 2, frozenset("bd"))),
            # The copy that loops back is the host's own, and no container's.
            row("group", "a b d host", ("from host",), sender="host", back=True),
        ),
        sysctls={"net/ipv4/igmp_link_local_mcast_reports": "0"},
        prepare=join,
        lower=leave,
        policies=EVERY_POLICY,
    ),
    Topology(
        "flooding", FLOOD, policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE, DENIED_INSIDE, AUDITED_INSIDE)
    ),
    Topology(
        "hairpin",
        (
            row("b, second MAC of a", "a", back=True),
            row("b, second MAC of a", "a", ("unseen",), wraps=("VID 5", "PPPoE"), back=True),
            row("b, unknown MAC", "a b d", copies=3, back=True),
            row("a, published", "a", back=True),
        ),
        ("link set bwt-a type bridge_slave hairpin on",),
        ("link set bwt-a type bridge_slave hairpin off",),
        policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE),
    ),
    Topology(
        "bridge-nf-call-iptables=0",
        (
            row("b", "b", ("unseen, inter",), payloads=EVERY_PAYLOAD),
            row("b", "b", ("unseen, inter",), wraps=ZERO),
            row("b", "b", ("unseen",), wraps=(*NESTED_ZERO, *TAGGED, *SESSIONS, "MPLS 16")),
            row("b", "b", ("unseen, spoofed",), source="c"),
            row("b, unknown MAC", "b d", ("unseen, inter",), copies=2),
            row("b, routed", "b", payloads=("udp", "unknown", "fragments")),
            *(one for one in PLAIN if not one.to.startswith("b") and "spoofed" not in one.crossings),
            *unnoted(),
        ),
        sysctls={
            "net/bridge/bridge-nf-call-iptables": "0",
            "net/bridge/bridge-nf-call-ip6tables": "0",
        },
        policies=(*EVERY_POLICY, AUDITED_LATE, AUDITED_INSIDE),
    ),
    Topology(
        "queue",
        (row("b", "b"), row("b", "b", payloads=("fragments",)), row("host", "host"), row("w", "w")),
        policies=QUEUED,
    ),
    Topology(
        "PPPoE, filter-pppoe-tagged=1",
        (
            *FEW,
            row("b", "b", wraps=("PPPoE", "VID 5 PPPoE")),
            row("b", "b", ("unseen",), wraps=("PPPoE compressed",)),
            row("host", "", ("unseen",), wraps=("PPPoE compressed", "VID 5 PPPoE")),
        ),
        sysctls={"net/bridge/bridge-nf-filter-pppoe-tagged": "1"},
        policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE),
    ),
    vlan_device(0, 0),
    vlan_device(1, 1),
    vlan_device(0, 1),
    vlan_device(1, 0),
    Topology(
        "VLAN device in another bridge",
        (
            row("x", "b d x", ("unseen",), wraps=("VID 5",), copies=3),
            row("a", "a", ("unseen",), sender="x"),
        ),
        (
            *VLAN_UP[:1],
            "link set bwt0.5 up",
            "link add bwt9 type bridge mcast_snooping 0",
            "link set bwt0.5 master bwt9",
            "link set bwt-x master bwt9",
            "link set bwt9 up",
        ),
        ("link del bwt9", "link del bwt0.5"),
        policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE),
        needs="8021q",
    ),
    Topology(
        "veth pair to another bridge",
        (
            row("x", "x"),
            row("x", "x", ("unseen",), wraps=("VID 5", "PPPoE", "MPLS 16")),
            row("a", "a", ("unmanaged",), sender="x"),
        ),
        (
            "link add bwty0 type veth peer name bwty1",
            "link add bwt9 type bridge mcast_snooping 0",
            "link set bwty0 master bwt0",
            "link set bwty1 master bwt9",
            "link set bwt-x master bwt9",
            "link set bwty0 up",
            "link set bwty1 up",
            "link set bwt9 up",
        ),
        ("link del bwt9", "link del bwty0"),
        policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE),
    ),
    Topology(
        "macvlan of the host on the guarded bridge",
        (
            *FEW,
            # The bridge floods it as well. What it hands up for the sake of such a device has lost its connection on newer kernels.
            *(
                row(to, opens, beside=Beside("unmanaged", 2, frozenset("bd")), either=("invalid",))
                for to, opens in (("shim", "host"), ("w by the shim", "w"), ("c by the shim", "c"))
            ),
            row(
                "shim",
                "host",
                ("spoofed",),
                source="b",
                beside=Beside("spoofed", 2, frozenset("bd")),
                either=("invalid",),
            ),
        ),
        (
            "link add bwtm link bwt0 address %s type macvlan mode bridge" % SHIM_MAC,
            "addr add 10.201.0.9/32 dev bwtm",
            "addr add fd00:201::9/128 dev bwtm nodad",
            "link set bwtm up",
        ),
        ("link del bwtm",),
        policies=(DENIED, ALLOWED, AUDITED),
        needs="macvlan",
    ),
    *(
        Topology(
            "ipvlan of the host on the guarded bridge, mode %s" % mode,
            (
                row("ipvlan", "host", payloads=("udp", "fragments")),
                row("ipvlan", "host", ("spoofed",), source="b"),
                row("b", "b"),
                row("w", "w"),
            ),
            (
                "link add bwtn link bwt0 type ipvlan mode %s" % mode,
                "addr add 10.201.0.9/32 dev bwtn",
                "addr add fd00:201::9/128 dev bwtn nodad",
                "link set bwtn up",
            ),
            ("link del bwtn",),
            policies=(DENIED, ALLOWED),
            needs="ipvlan",
        )
        for mode in ("l2", "l3", "l3s")
    ),
    Topology(
        "macvlan of the host on the guarded parent",
        (
            row("host by the parent", "host", ("host, uncounted",), sender="m"),
            row("w by the parent", "w", ("egress, uncounted",), sender="m"),
            row("host by the parent", "host", sender="m's socket"),
            row("w by the parent", "w", sender="m's socket"),
            row("host by the parent", "host", ("spoofed",), sender="m", source="b"),
            row("host by the parent", "host", ("unmanaged",), sender="m", source="x"),
            row("m, from outside", "m", sender="w"),
            row("m", "m", sender="host"),
        ),
        (
            "link add bwts link bwtp address %s type macvlan mode bridge" % SHIM_MAC,
            "addr add 10.204.0.1/24 dev bwts",
            "addr add fd00:204::1/64 dev bwts nodad",
            "link set bwts up",
            "neigh replace 10.204.0.2 lladdr {m} dev bwts nud permanent",
            "neigh replace fd00:204::2 lladdr {m} dev bwts nud permanent",
        ),
        ("link del bwts",),
        policies=(DENIED_INSIDE, ALLOWED_INSIDE),
        needs="macvlan",
    ),
    Topology(
        "VRF",
        (*PLAIN, row("b", "b", ("unseen",), wraps=("VID 5", "PPPoE")), row("w", "w", wraps=ZERO)),
        VRF_UP,
        VRF_DOWN,
        {"net/ipv4/raw_l3mdev_accept": "1"},
        device="blue",
        needs="vrf",
    ),
    Topology(
        "MPLS",
        (
            *FEW,
            row("w", "w", ("unseen",), wraps=("MPLS 16",)),
            row("c", "c", ("unseen",), wraps=("MPLS 17",)),
            row("host", "host", ("unseen",), wraps=("MPLS 18",)),
            row("b", "b", ("unseen",), wraps=("MPLS 16",)),
        ),
        sysctls={"net/mpls/platform_labels": "100", "net/mpls/conf/bwt0/input": "1"},
        prepare=labels,
        lower=no_labels,
        policies=(DENIED, ALLOWED, AUDITED, DENIED_LATE),
        needs="mpls_router",
    ),
    Topology(
        "tunnels",
        (
            # That of the bridge is stacked on it.
            row("w", "host|w", ("host", "unmanaged"), payloads=("VXLAN of bwt0",)),
            row("c", "host|c", ("host", "unmanaged"), payloads=("VXLAN of bwt0",)),
            row("w", "host w", ("host",), payloads=("VXLAN",)),
            row("c", "host|c", ("host", "direct to c"), payloads=("VXLAN",)),
            row("w", "w", ("host",), payloads=("GRE",)),
            row("c", "c", ("host", "direct to c"), payloads=("GRE",)),
            row("w", "w", ("host",), payloads=("IPIP",), families=(4,)),
            row("w", "w", ("host",), payloads=("SIT",), families=(6,)),
            row("c", "c", ("host", "direct to c"), payloads=("SIT",), families=(6,)),
        ),
        (
            "link add bwtv address %s type vxlan id 42 dstport 4789 dev bwt0 local 10.201.0.1" % TUNNEL_MAC,
            "link add bwtu address %s type vxlan id 43 dstport 4790 local 10.201.0.1" % TUNNEL_MAC,
            "link add bwti type ipip local 10.201.0.1 remote 10.201.0.2",
            "link add bwts type sit local 10.201.0.1 remote 10.201.0.2",
            "link add bwtg type gre local 10.201.0.1 remote 10.201.0.2",
            *("link set %s up" % name for name in TUNNELS),
        ),
        tuple("link del %s" % name for name in TUNNELS),
        needs="vxlan, ipip, sit, gre",
    ),
    Topology(
        "tunnel over IPv6",
        (
            row("w", "w", ("host",), payloads=("IPv6 tunnel",)),
            row("c", "c", ("host", "direct to c"), payloads=("IPv6 tunnel",)),
        ),
        (
            "link add bwtj type ip6tnl mode any local fd00:201::1 remote fd00:201::2",
            "link set bwtj up",
        ),
        ("link del bwtj",),
        policies=(DENIED, ALLOWED, AUDITED),
        needs="ip6tnl",
    ),
    # Comes last: the ports keep their VLANs.
    Topology(
        "vlan_filtering",
        (
            *PLAIN,
            row("b", "b", wraps=ZERO),
            row("host", "host", wraps=ZERO),
            row(
                "b",
                "b",
                ("unseen",),
                wraps=("VID 5", "VID 1, VID 5", "QinQ", "802.1ad VID 1", *SESSIONS),
            ),
            # What leaves without its tag: audit sees no more of that.
            row("b", "b", ("unseen, inter",), wraps=("VID 1",)),
            row("host", "host", wraps=("VID 1",)),
            row("w", "w", wraps=("VID 1",)),
            row("c", "c", wraps=("VID 1",)),
            *unnoted(wraps=("VID 1",)),
            row("b, unknown MAC", "b d", ("unseen, inter",), wraps=("VID 1",), copies=2),
            row(
                "b, unknown MAC",
                "b",
                ("unseen",),
                wraps=("VID 5",),
                beside=Beside("unseen, inter", 1, frozenset("d")),
            ),
        ),
        ("link set bwt0 type bridge vlan_filtering 1",),
        ("link set bwt0 type bridge vlan_filtering 0",),
        prepare=trunks,
    ),
)


# The probe.

MARKER = re.compile(rb"bwx([0-9a-f]{8})")
RAW = ((socket.AF_INET, (TCP, UDP, ICMP, UNKNOWN)), (socket.AF_INET6, (TCP, UDP, ICMP6, UNKNOWN)))
PLACES = ("a", "b", "c", "d", "w", "x", "m")


class Probe:
    """Sends, and looks where what was sent arrives."""

    def __init__(self):
        self.serial = 0
        self.ports, self.stacks, self.senders, self.macs = {}, {}, {}, dict(BRIDGE_MAC)
        self.keep = []
        for ns in (*PLACES, None):
            with inside(ns):
                for family, protocols in RAW:
                    for proto in protocols:
                        self.stacks[self.tuned(socket.socket(family, socket.SOCK_RAW, proto))] = ns or "host"
                self.listen()
                if ns:
                    s = self.tuned(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
                    s.setsockopt(263, PACKET_IGNORE_OUTGOING, 1)
                    s.bind(("eth0", 3))
                    self.ports[s] = ns
                    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                    sender.bind(("eth0", 0))
                    self.senders[ns] = sender
                    self.macs[ns] = ":".join("%02x" % byte for byte in sender.getsockname()[4])
        self.macs["bwt-w"] = link_mac("bwt-w")
        self.sockets = {}
        self.poll = select.epoll()
        self.by_number = {}
        for s in (*self.ports, *self.stacks):
            self.by_number[s.fileno()] = s
        for s, place in (*self.ports.items(), *self.stacks.items()):
            if s in self.ports or place == "host":
                self.poll.register(s, select.EPOLLIN)

    def tuned(self, s):
        s.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        s.setblocking(False)
        return s

    def listen(self, device=None):
        """So that no port is unreachable; what comes is looked for elsewhere."""
        for port in (PORT, MARK_PORT):
            s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            s.bind(("::", port))
            self.keep.append(s)
        return self.keep[-2:]

    def open_sockets(self, device):
        """What the host sends from, by that device, and a child."""
        for s in self.sockets.values():
            s.close()
        for v, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            s = self.sockets["host", v] = socket.socket(family, socket.SOCK_DGRAM)
            if device:
                s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            with inside("m"):
                self.sockets["m's socket", v] = socket.socket(family, socket.SOCK_DGRAM)
        mine = socket.inet_aton(OWN[4])
        self.sockets["host", 4].setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, mine)
        self.sockets["host", 6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, ifindex("bwt0"))

    def learn(self):
        """Each bridge learns where everybody is, without and in VLAN 5, by frames that no policy speaks of."""
        for ns, sender in self.senders.items():
            own = [mac(self.macs[ns])] + ([mac(SECOND_MAC)] if ns == "a" else [])
            for address in own:
                for head in (b"", struct.pack("!HH", Q, 5)):
                    sender.send(b"\xff" * 6 + address + head + b"\x88\xb5" + bytes(46))

    def mac(self, name):
        return mac(self.macs.get(name, name))

    def send(self, frame):
        self.serial += 1
        text = b"bwx%08x" % self.serial
        row, target = frame.row, TARGETS[frame.row.to]
        to = target.address[frame.v]
        if (row.sender, frame.v) in self.sockets:
            with contextlib.suppress(OSError):  # what is denied
                self.sockets[row.sender, frame.v].sendto(text, (to, PORT))
            return self.serial
        source = (V4 if frame.v == 4 else V6)[row.source or row.sender]
        port = PUBLISHED.get(row.to, PORT)
        head = self.mac(target.mac) + mac(self.macs[row.sender])
        for packet in PAYLOADS[frame.payload].make(frame.v, source, to, text, self.serial, port):
            self.senders[row.sender].send(head + WRAPS[frame.wrap](packet[0] >> 4, packet))
        return self.serial

    def mark(self):
        """Comes behind everything else, on the same processor, and is always permitted."""
        self.serial += 1
        text = b"bwx%08x" % self.serial
        body = struct.pack("!HHHH", 20000, MARK_PORT, 8 + len(text), 0) + text
        packet = finish(4, V4["a"], OWN[4], UDP, body, 6)[0]
        self.senders["a"].send(self.mac("bwt0") + mac(self.macs["a"]) + b"\x08\0" + packet)
        return self.serial

    def read(self, at_ports, at_stacks):
        """Adds what has arrived: {serial: places}."""
        while ready := self.poll.poll(0):
            for number, _ in ready:
                s = self.by_number[number]
                found, place = (at_ports, self.ports[s]) if s in self.ports else (at_stacks, self.stacks[s])
                with contextlib.suppress(BlockingIOError):
                    while True:
                        for text in MARKER.findall(s.recv(2048)):
                            found.setdefault(int(text, 16), set()).add(place)

    def inside_too(self, on):
        """Whether the sockets inside the containers are read as well."""
        for s, place in self.stacks.items():
            if place != "host":
                with contextlib.suppress(BlockingIOError):
                    while on:
                        s.recv(16)
                (self.poll.register if on else self.poll.unregister)(s, *([select.EPOLLIN] if on else []))


def counted(g, before):
    return collections.Counter(
        {
            index: count - before.get(index, 0)
            for index, count in g.counters().items()
            if index not in BESIDES and count != before.get(index, 0)
        }
    )


class Run:
    """One topology under one policy."""

    def __init__(self, g, probe, policy):
        self.g, self.probe, self.policy = g, probe, policy
        self.patience = (10 if policy.queue else 1) * packets.WAIT

    def where(self, frame, serial, at_ports, at_stacks):
        """A container's port has it before the container's own hooks judge it."""
        inner = self.policy.inside and not {"unseen"} & set(frame.row.crossings)
        found = set(at_stacks.get(serial, ()))
        if not inner:
            found |= at_ports.get(serial, set())
        elif "w" in at_ports.get(serial, ()):
            found.add("w")
        return found if frame.row.back else found - {frame.row.sender}

    def send(self, frames, patience=None):
        """Where each arrived, and all that was counted."""
        want, total = [], collections.Counter()
        for frame in frames:
            places, counts = frame.expected(self.policy)
            want.append(places)
            total += counts or collections.Counter()
        self.probe.read({}, {})
        before = self.g.counters()
        serials = [self.probe.send(frame) for frame in frames]
        mark = self.probe.mark()
        at_ports, at_stacks = {}, {}
        end = time.monotonic() + (patience or self.patience)
        while True:
            self.probe.read(at_ports, at_stacks)
            got = [self.where(frame, n, at_ports, at_stacks) for frame, n in zip(frames, serials)]
            counts = counted(self.g, before)
            # Only what is missing may still come; what is too much stays.
            missing = any(places - found for places, found in zip(want, got)) or total - counts
            if mark in at_stacks and (not missing or time.monotonic() > end):
                break
            if time.monotonic() > end + packets.PATIENCE:
                raise RuntimeError("the mark did not arrive")
            time.sleep(0.005)
        self.probe.read(at_ports, at_stacks)
        return [self.where(frame, n, at_ports, at_stacks) for frame, n in zip(frames, serials)], counts

    def alone(self, frame, patience=0.05):
        """What is wrong with a frame that is sent alone: '' or words."""
        (found,), counts = self.send([frame], patience if not self.policy.queue else None)
        if (found, counts) in frame.possible(self.policy):
            return ""
        places, want = frame.expected(self.policy)
        wrong = []
        if found != places:
            wrong.append("arrives at %s, not at %s" % (words(found), words(places)))
        if want is None:
            most = frame.copies("unseen")
            if sum(counts.values()) > most:
                wrong.append("counted %s, at most %d" % (dict(counts), most))
        elif counts != want:
            wrong.append("counted %s, not %s" % (dict(counts), dict(want)))
        return "; ".join(wrong)

    def together(self, frames):
        """What is wrong with frames that are sent at once; their counters are only known as a sum."""
        found, counts = self.send(frames)
        total, most = collections.Counter(), 0
        for frame in frames:
            want = frame.expected(self.policy)[1]
            total += want or collections.Counter()
            most += 0 if want is not None else frame.copies("unseen")
        lost = {
            frame.name: "arrives at %s" % words(places)
            for frame, places in zip(frames, found)
            if places != frame.expected(self.policy)[0]
        }
        if counts != total and (total or sum(counts.values()) > most):
            lost["the sum"] = "counted %s, not %s" % (dict(counts), dict(total) or "%d at most" % most)
        return lost

    def wrong(self, frames, each=False):
        """{frame: what is wrong}: all at once, and one by one where that does not come out or where it is asked for."""
        groups = [[], [], []]
        for frame in frames:
            one = frame.row
            if one.either is not None and not self.policy.unguarded:
                groups[0].append(frame)
            else:
                groups[1 if one.crossings or self.policy.unguarded else 2].append(frame)
        faults = {}
        for some in groups:
            lost = {} if each or some is groups[0] or not some else self.together(some)
            if lost or each or some is groups[0]:
                mine = {frame.name: self.alone(frame) for frame in some}
                mine = {name: fault for name, fault in mine.items() if fault}
                faults.update(mine or lost)
        return faults


def words(places):
    return ", ".join(sorted(places)) or "no place"


def neighbours(probe):
    """Everybody's, for good: nothing is asked while we count."""
    lines = []
    for ns, link in (("a", "bwt0"), ("b", "bwt0"), ("d", "bwt0"), ("c", "bwt1"), ("w", "bwt-w")):
        for address in of(ns).values():
            lines.append("neigh replace %s lladdr %s dev %s nud permanent" % (address, probe.macs[ns], link))
    batch(lines)


def own_neighbours(probe):
    for ns, gateway in (("a", "bwt0"), ("b", "bwt0"), ("d", "bwt0"), ("c", "bwt1"), ("w", "bwt-w")):
        net = packets.NAMESPACES[ns][1]
        known_there = {"10.%d.0.1" % net: gateway, "fd00:%d::1" % net: gateway}
        for other in "abd":
            if gateway == "bwt0" and other != ns:
                known_there.update(dict.fromkeys(of(other).values(), other))
        batch(
            [
                "neigh replace %s lladdr %s dev eth0 nud permanent" % (address, probe.macs[name])
                for address, name in known_there.items()
            ],
            "-n",
            "bwt-" + ns,
        )


@contextlib.contextmanager
def settings(wanted):
    """Under /proc/sys, and as they were afterwards."""
    saved = {}
    try:
        for path, value in wanted.items():
            with open("/proc/sys/" + path) as f:
                saved[path] = f.read().strip()
            sysctl(path, value)
        yield
    finally:
        for path, value in saved.items():
            sysctl(path, value)


def raised(topology, probe):
    """Whether the topology is there; a kernel may lack a device."""
    try:
        batch([line.format(**probe.macs) for line in topology.up])
        if topology.prepare:
            topology.prepare()
        return True
    except subprocess.CalledProcessError as error:
        print("# no %s: %s" % (topology.needs or topology.name, error.stderr.decode().strip()))
        return False


def test_topology(topology, g, probe, each):
    if not all(os.path.exists("/proc/sys/" + path) for path in topology.sysctls):
        print("# no %s: no %s" % (topology.needs or topology.name, ", ".join(topology.sysctls)))
        return
    held = []
    with settings(topology.sysctls):
        try:
            if not raised(topology, probe):
                return
            neighbours(probe)
            if topology.device:
                held = probe.listen(topology.device)
            probe.open_sockets(topology.device)
            every = frames(topology.rows)
            for policy in (UNGUARDED, *topology.policies):
                policy.commit(g)
                probe.learn()
                under(topology, policy, g, probe, every, each)
        finally:
            for s in held:
                s.close()
            if topology.lower:
                topology.lower()
            batch_if_there(topology.down)


def under(topology, policy, g, probe, every, each):
    listener = policy.queue() if policy.queue else None
    if policy.inside:
        probe.inside_too(True)
    try:
        faults = Run(g, probe, policy).wrong(every, each)
        # A link that has just been set up carries nothing for a moment.
        end = time.monotonic() + packets.PATIENCE / 6
        while policy.unguarded and faults and time.monotonic() < end:
            time.sleep(0.1)
            faults = Run(g, probe, policy).wrong(every)
    finally:
        if policy.inside:
            probe.inside_too(False)
        if listener:
            listener.stop()
    for name, fault in faults.items():
        print("#   %s: %s" % (name, fault))
    check("%s: %s: %d frames" % (topology.name, policy.name, len(every)), dict(list(faults.items())[:4]), {})


def test_host_asks(g, probe):
    """The host's own neighbour solicitation: its output device is the in-device of IPv6's POST_ROUTING, and no container sent it."""
    probe.open_sockets(None)
    neighbours(probe)
    frame = Frame(row("c, from host", "c", ("from host",), sender="host"), "plain", "udp", 6)
    for policy in (UNGUARDED, ALLOWED, AUDITED, ALLOWED_LATE):
        policy.commit(g)
        batch(["neigh del %s dev bwt1" % V6["c"]])
        fault = Run(g, probe, policy).alone(frame, packets.WAIT)
        check("%s: the host asks for a neighbour and finds it" % policy.name, fault, "")
    neighbours(probe)


WORLD_SYSCTLS = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    **{"net/ipv4/conf/%s/send_redirects" % link: "0" for link in ("bwt0", "bwt1")},
    **{"net/ipv4/conf/%s/rp_filter" % link: "0" for link in ("default", "bwt0", "bwt1", "bwt-w")},
    **{"net/ipv6/conf/%s/disable_ipv6" % link: "1" for link in ("bwt-a", "bwt-b", "bwt-c", "bwt-d", "bwt-x")},
}


def still(began):
    """No container says anything by itself: no router is asked for, and listener reports are over 2 s after a link came up."""
    for ns in PLACES:
        with inside(ns):
            sysctl("net/ipv6/conf/eth0/router_solicitations", "0")
    time.sleep(max(0, began + 2.5 - time.monotonic()))


AWAY = ["link del bwtp", "link del bwt-x", "netns del bwt-x", "netns del bwt-m"]


def main():
    each = "--each" in sys.argv
    wanted = [word for word in sys.argv[1:] if word != "--each"]
    # One processor: what was sent first arrives first.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    batch_if_there([*AWAY, "link del bwt9", "link del bwty0"])
    saved = packets.world_up()
    try:
        batch(
            [
                *("link set %s address %s" % pair for pair in BRIDGE_MAC.items()),
                *("link set %s type bridge mcast_snooping 0" % link for link in BRIDGE_MAC),
                "netns add bwt-x",
                "netns add bwt-m",
                "link add bwtp type veth peer name eth1 netns bwt-x",
                "link set bwtp up",
                "link add bwtm link bwtp type macvlan mode bridge",
                "link set bwtm netns bwt-m",
                "link add bwt-x type veth peer name eth0 netns bwt-x",
                "link set bwt-x up",
            ]
        )
        batch(["link set eth0 up", "link set eth1 up"], "-n", "bwt-x")
        batch(
            [
                "link set bwtm name eth0",
                "addr add %s/24 dev eth0" % V4["m"],
                "addr add %s/64 dev eth0 nodad" % V6["m"],
                "link set lo up",
                "link set eth0 up",
                "route add default via 10.204.0.1",
                "route add default via fd00:204::1",
                "neigh replace 10.204.0.1 lladdr %s dev eth0 nud permanent" % SHIM_MAC,
                "neigh replace fd00:204::1 lladdr %s dev eth0 nud permanent" % SHIM_MAC,
            ],
            "-n",
            "bwt-m",
        )
        began = time.monotonic()
        subprocess.run(["nft", "-f", "-"], input=(REDIRECTS + "\n" + NAT).encode(), check=True)
        with settings(WORLD_SYSCTLS):
            probe = Probe()
            own_neighbours(probe)
            still(began)
            g = Genl()
            for topology in TOPOLOGIES:
                if not wanted or any(word in topology.name for word in wanted):
                    print("# test_%s" % re.sub(r"\W+", "_", topology.name), flush=True)
                    test_topology(topology, g, probe, each)
            if not wanted or "host_asks" in wanted:
                print("# test_host_asks", flush=True)
                test_host_asks(g, probe)
            Ruleset(guards=(), defaults=OPEN).commit(g)
    finally:
        for table in (("ip6", "bwr"), ("inet", "bwc")):
            subprocess.run(["nft", "delete", "table", *table], check=False, stderr=subprocess.DEVNULL)
        batch_if_there(AWAY)
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
