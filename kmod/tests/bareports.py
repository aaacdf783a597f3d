#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Frames past the bridge, between a port of a guarded bridge and the host's IP stack; as packets.py, whose world it builds on.

A bridge hands frames for the reserved group addresses 01:80:c2:00:00:02 .. 0f to its host with the port as their device. Container a
sends every kind of IP packet to every kind of MAC address, first without a ruleset, which shows that the probe works, then with one:

    a --(bwt-a, port of bwt0)-- host --(bwt-w)-- w
                                  +--(bwtv, VXLAN; bwti, IPIP)-- what a wraps comes out here and is routed to w

"Arrived" is what a socket of the host, of neighbour b or of w received, or a route in the host. BW_KO (the module's file): closed, too.
"""

import contextlib
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter

import packets
from packets import (
    ALLOW,
    DENY,
    V4,
    V6,
    WORLD,
    A,
    Genl,
    Log,
    Ruleset,
    batch,
    check,
    inside,
    known,
    run,
    udp,
)

BARE_PORT, BARE_PORT_NEIGHBOUR = 14, 15
AUDIT, CONTAINER = 1, 2
HOST4, HOST6 = "10.201.0.1", "fd00:201::1"
FOREIGN, BEHIND = "192.0.2.77", "10.206.0.2"
PORT, MARK_PORT, JOINED_PORT, VXLAN_PORT = 5514, 5515, 5516, 4789
GROUPS = ["01:80:c2:00:00:%02x" % n for n in range(2, 16)]


def mac(text):
    return bytes.fromhex(text.replace(":", ""))


def link_mac(name):
    with open("/sys/class/net/%s/address" % name) as f:
        return f.read().strip()


def link_macs():
    """Read by ip: /sys shows the links of the namespace that mounted it."""
    said = subprocess.run(
        ["ip", "-n", "bwt-b", "-o", "link", "show", "eth0"], check=True, stdout=subprocess.PIPE
    ).stdout.decode()
    return {
        "the bridge": link_mac("bwt0"),
        "the port": link_mac("bwt-a"),
        "neighbour b": said.split("link/ether ")[1].split()[0],
        "broadcast": "ff:ff:ff:ff:ff:ff",
        "IPv4 multicast": "01:00:5e:00:00:fb",
        "IPv6 multicast": "33:33:00:00:00:01",
        "another multicast": "03:00:00:00:00:01",
        "nobody": "02:00:00:00:00:99",
        "reserved, bridges": "01:80:c2:00:00:00",
        "reserved, pause": "01:80:c2:00:00:01",
    }


# Packets, by hand.


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ip4(source, to, proto, body):
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, proto, 0)
    head += socket.inet_aton(source) + socket.inet_aton(to)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def ip6(source, to, proto, body, hops=64):
    return struct.pack("!IHBB", 6 << 28, len(body), proto, hops) + pack6(source) + pack6(to) + body


def pack6(address):
    return socket.inet_pton(socket.AF_INET6, address)


def with_checksum(source, to, proto, body, at):
    pseudo = pack6(source) + pack6(to) + struct.pack("!II", len(body), proto)
    return body[:at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[at + 2 :]


def datagram(port, text, sport=40000):
    return struct.pack("!HHHH", sport, port, 8 + len(text), 0) + text


def udp4(source, to, text, port=PORT):
    return ip4(source, to, 17, datagram(port, text))


def udp6(source, to, text, port=PORT):
    return ip6(source, to, 17, with_checksum(source, to, 17, datagram(port, text), 6))


def advertisement(source, lifetime=1800):
    """A router advertisement, RFC 4861 section 4.2."""
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0)
    return ip6(source, "ff02::1", 58, with_checksum(source, "ff02::1", 58, body, 2), 255)


def vxlan(inner, to_mac):
    frame = mac(to_mac) + b"\2\0\0\0\0\1" + b"\x08\0" + inner
    return ip4(V4["a"], HOST4, 17, datagram(VXLAN_PORT, b"\x08\0\0\0" + struct.pack("!I", 42 << 8) + frame))


def kinds(tunnels):
    """What is sent: a name, and for a text that tells the frames apart an ethertype and a packet."""

    def inner(text):
        return udp4(BEHIND, V4["w"], text)

    found = {
        "IPv4": lambda text: (0x0800, udp4(V4["a"], HOST4, text)),
        "foreign IPv4": lambda text: (0x0800, udp4(FOREIGN, HOST4, text)),
        "IPv6": lambda text: (0x86DD, udp6(V6["a"], HOST6, text)),
        "to the neighbour": lambda text: (0x0800, udp4(V4["a"], V4["b"], text)),
        "RA": lambda text: (0x86DD, advertisement("fe80::" + text.hex()[-4:])),
    }
    if "bwtv" in tunnels:
        to = link_mac("bwtv")
        found["VXLAN"] = lambda text: (0x0800, vxlan(inner(text), to))
    if "bwti" in tunnels:
        found["IPIP"] = lambda text: (0x0800, ip4(V4["a"], HOST4, 4, inner(text)))
    return found


def tunnels_up():
    """Those that this kernel has."""
    made = []
    for name, words in (
        ("bwtv", "type vxlan id 42 dstport %d dev bwt0 local %s" % (VXLAN_PORT, HOST4)),
        ("bwti", "type ipip local %s remote %s" % (HOST4, V4["a"])),
    ):
        done = subprocess.run(
            ["ip", "link", "add", name, *words.split()], check=False, stderr=subprocess.PIPE
        )
        if done.returncode:
            print("# no %s: %s" % (name, done.stderr.decode().strip()))
            continue
        run("ip", "link", "set", name, "up")
        made.append(name)
    if made:
        run("ip", "route", "add", BEHIND + "/32", "dev", made[0])
    return made


def sysctl(path, value):
    with open("/proc/sys/" + path, "w") as f:
        f.write(value)


class Probe:
    """Sends from a, listens at the host, at b and at w."""

    def __init__(self, tunnels):
        with inside("a"):
            self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
            self.raw.bind(("eth0", 0))
        self.own = self.raw.getsockname()[4]
        self.kinds = kinds(tunnels)
        self.sockets = {}
        for where in (None, "b", "w"):
            for port in (PORT, MARK_PORT):
                with inside(where):
                    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                s.bind(("::", port))
                self.sockets[s] = where
        self.marks = 0

    def frame(self, to, ethertype, packet):
        self.raw.send(mac(to) + self.own + struct.pack("!H", ethertype) + packet)

    def received(self, until, limit):
        """(text, where) of all that came until `until` did."""
        found, end = [], time.monotonic() + limit
        while until not in [text for text, _ in found]:
            ready = select.select(list(self.sockets), [], [], max(0, end - time.monotonic()))[0]
            if not ready:
                raise RuntimeError("the mark %r did not arrive" % until)
            found += [(s.recv(2048), self.sockets[s]) for s in ready]
        while ready := select.select(list(self.sockets), [], [], 0)[0]:
            found += [(s.recv(2048), self.sockets[s]) for s in ready]
        return found

    def mark(self):
        """Comes by the same port behind what was sent, and is permitted: what has not come before it does not come."""
        self.marks += 1
        text = b"mark %d" % self.marks
        self.frame(link_mac("bwt0"), 0x0800, udp4(V4["a"], HOST4, text, MARK_PORT))
        return text

    def send(self, macs, marked=True):
        """{(MAC, kind): the place where it arrived}; routes that an RA made in the host are removed again."""
        texts = {}
        for to in macs:
            for kind, make in self.kinds.items():
                # Its last two bytes tell frames apart where no text is left of them.
                text = b"%d %s" % (len(texts), struct.pack("!H", 0x100 + len(texts)))
                texts[text] = to, kind
                self.frame(to, *make(text))
        came = self.received(self.mark(), 10 * packets.WAIT) if marked else self.quiet(packets.WAIT)
        found = {texts[text]: where or "host" for text, where in came if text in texts}
        ways = routes()
        found.update(
            {
                key: "route"
                for text, key in texts.items()
                if "via fe80::%s " % text.hex()[-4:].lstrip("0") in ways
            }
        )
        subprocess.run(["ip", "-6", "route", "flush", "proto", "ra", "default"], check=False)
        return found

    def quiet(self, seconds):
        """What arrives within the time, where no mark can."""
        time.sleep(seconds)
        found = []
        while ready := select.select(list(self.sockets), [], [], 0)[0]:
            found += [(s.recv(2048), self.sockets[s]) for s in ready]
        return found


def routes():
    return subprocess.run(
        ["ip", "-6", "route", "show", "default", "proto", "ra"], check=True, stdout=subprocess.PIPE
    ).stdout.decode()


WAYS = {
    "IPv4": "host",
    "foreign IPv4": "host",
    "IPv6": "host",
    "RA": "route",
    "VXLAN": "w",
    "IPIP": "w",
}


def expected(probe, macs):
    """What a reserved group address brings without us: everything but what is somebody else's."""
    return {(to, kind): WAYS[kind] for to in macs for kind in probe.kinds if kind in WAYS}


def short(found):
    """How many addresses brought what where."""
    return dict(sorted(Counter("%s: %s" % (kind, where) for (_, kind), where in found.items()).items()))


def guarded(**more):
    """Nothing but the mark may reach the host, nothing may leave."""
    rules = Ruleset(defaults=(DENY, DENY, DENY, DENY, ALLOW, ALLOW), **more)
    return known(rules).rule(A, packets.HOST, udp(MARK_PORT))


def grown(g, before, index):
    return g.counters().get(index, 0) - before.get(index, 0)


def test_groups(g, probe):
    """The fourteen addresses arrive before, and not after, wherever verdicts are taken."""
    want = expected(probe, GROUPS)
    check(
        "without a ruleset each of the %d frames arrives" % len(want), short(probe.send(GROUPS)), short(want)
    )
    for what, ruleset in (
        ("forward", guarded()),
        ("postrouting", guarded(placement=packets.POSTROUTING)),
        ("container", guarded(placement=CONTAINER)),
    ):
        ruleset.commit(g)
        before = g.counters()
        check("placement %s: none arrives" % what, short(probe.send(GROUPS)), {})
        check("placement %s: each is counted as bare_port" % what, grown(g, before, BARE_PORT), len(want))
    guarded(mode=AUDIT).commit(g)
    before = g.counters()
    check("mode audit: they arrive", short(probe.send(GROUPS)), short(want))
    check("mode audit: each is counted as bare_port", grown(g, before, BARE_PORT), len(want))
    guarded().commit(g)


def test_allowed_by_policy(g, probe):
    """Not even where the policy permits the host everything: what comes by there is not what it seems."""
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    found = probe.send(["01:80:c2:00:00:0e", link_mac("bwt0")])
    check(
        "allow everything: by the bridge it arrives, by the port it does not",
        sorted(kind for _, kind in found),
        # The VXLAN device is stacked on the bridge: what comes out of it comes from there, from nobody known.
        sorted(k for k in probe.kinds if k not in ("RA", "foreign IPv4", "VXLAN")),
    )
    check("and not by the group", {to for to, _ in found}, {link_mac("bwt0")})


def test_other_macs(g, probe):
    """Controls: what does not go past the bridge is judged as ever."""
    macs = link_macs()
    Ruleset(guards=()).commit(g)
    found = probe.send(macs.values())
    for what in ("the bridge", "broadcast"):
        check("without guards, to %s: IPv4 arrives" % what, (macs[what], "IPv4") in found, True)
    check(
        "to the neighbour's own it arrives there", found.get((macs["neighbour b"], "to the neighbour")), "b"
    )
    check("pause frames go nowhere", [k for k in found if k[0] == macs["reserved, pause"]], [])
    for what, more in (("forward", {}), ("postrouting", {"placement": packets.POSTROUTING})):
        guarded(**more).commit(g)
        check("placement %s: nothing arrives by any other MAC" % what, probe.send(macs.values()), {})
    for what in ("the bridge", "reserved, bridges", "broadcast"):
        before = g.counters()
        probe.send([macs[what]])
        check("%s: it is no bare port" % what, grown(g, before, BARE_PORT), 0)


def listen_raw(ns, ethertype=0x86DD):
    with inside(ns):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype))
        s.bind(("eth0", ethertype))
    return s


def heard(s, source, limit, enough=None):
    """Frames from a MAC address, within the time or until they are enough."""
    found, end = 0, time.monotonic() + limit
    while found != enough and select.select([s], [], [], max(0, end - time.monotonic()))[0]:
        found += s.recv(2048)[6:12] == source
    return found


def up_again():
    run("ip", "link", "set", "bwt-a", "down")
    run("ip", "link", "set", "bwt-a", "up")


def test_own_neighbours(g, probe):
    """The host's solicitations and listener reports at its own end of each container's veth."""
    sysctl("net/ipv6/conf/bwt-a/disable_ipv6", "0")
    host = mac(link_mac("bwt-a"))
    log = Log(7)
    with contextlib.closing(listen_raw("a")) as s:
        Ruleset(guards=()).commit(g)
        up_again()
        check("unguarded, a hears the port's own discovery", heard(s, host, packets.PATIENCE, 2), 2)
        guarded(log=(7, 1)).commit(g)
        before = g.counters()
        log.prefixes()
        heard(s, host, 0.2)  # what was under way
        up_again()
        counted = packets.until(lambda: grown(g, before, BARE_PORT_NEIGHBOUR) >= 2)
        check("guarded, it does not", heard(s, host, packets.WAIT), 0)
    check("counted by itself", counted, True)
    check("apart from what comes of containers", grown(g, before, BARE_PORT), 0)
    check("and not logged", [line for line in log.prefixes() if "bare_port" in line], [])
    probe.frame(GROUPS[0], *probe.kinds["IPv4"](b"to be logged"))
    check("what a container sends is", "bridgewarden: deny - bare_port" in log.prefixes(), True)
    log.close()


def test_out(g, probe):
    """By a port's own device out of the host, by a socket and by a route."""
    with inside("a"):
        there = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    there.bind(("::", PORT))
    run("ip", "route", "add", V4["a"] + "/32", "dev", "bwt-a")
    to = ":".join("%02x" % byte for byte in probe.own)
    run("ip", "neigh", "replace", V4["a"], "lladdr", to, "dev", "bwt-a", "nud", "permanent")

    def reached(ns):
        with inside(ns):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with s:
            try:
                s.sendto(b"by the port", (V4["a"], PORT))
                return packets.receive(there, 100) == b"by the port"
            except OSError as e:
                return "EPERM" if e.errno == 1 else False

    everything = (ALLOW,) * 6
    Ruleset(guards=()).commit(g)
    check("unguarded: from the host, from outside", (reached(None), reached("w")), (True, True))
    known(Ruleset(defaults=everything).rule(WORLD, A, packets.ANY, direct=True)).commit(g)
    before = g.counters()
    check("guarded: neither, whatever is allowed", (reached(None), reached("w")), ("EPERM", False))
    check("each is counted", grown(g, before, BARE_PORT), 2)
    run("ip", "route", "del", V4["a"] + "/32", "dev", "bwt-a")
    check("by the bridge both", (reached(None), reached("w")), (True, True))
    there.close()


def test_joined(g, _):
    """A device of the host's joins a bridge, with streams by it that are remembered."""
    flows = [packets.udp_to("a", V["w"], JOINED_PORT) for V in (V4, V6)]
    with inside("w"):
        there = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    there.bind(("::", JOINED_PORT))
    said = subprocess.run(
        ["ip", "-n", "bwt-w", "-o", "link", "show", "eth0"], check=True, stdout=subprocess.PIPE
    )
    to = said.stdout.decode().split("link/ether ")[1].split()[0]
    for V in (V4, V6):
        run("ip", "neigh", "replace", V["w"], "lladdr", to, "dev", "bwt-w", "nud", "permanent")

    def arrived(times=1):
        """How many of so many packets of each stream."""
        for _ in range(times):
            for s in flows:
                s.send(b"by the device")
        found = 0
        while found < times * len(flows) and packets.comes(there):
            there.recv(100)
            found += 1
        return found

    def joins(*bridge):
        run("ip", "link", "set", "dev", "bwt-w", *bridge)

    # With an address of its own the bridge keeps it: what a sends to another is for no host.
    batch(["link set bwt0 address %s" % link_mac("bwt0"), "link add bwx0 type bridge", "link set bwx0 up"])
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    with packets.one_processor():
        check("by a device of the host's", arrived(5), 10)
        joins("master", "bwx0")
        check("a port of a bridge that nobody guards", arrived(5), 10)
        joins("nomaster")
        check("no port", arrived(5), 10)
        before = g.counters()
        joins("master", "bwt0")
        check("a port of a guarded bridge: nothing, from the first packet on", arrived(), 0)
        check("each is counted", grown(g, before, BARE_PORT), 2)
        check("nor later", arrived(5), 0)
        joins("nomaster")
        check("no port again: all, from the first packet on", arrived(), 2)
        check("and later", arrived(5), 10)
        # Remembered, and then the bridge that it is a port of becomes guarded.
        joins("master", "bwx0")
        check("a port of the other bridge once more", arrived(5), 10)
        known(Ruleset(guards=("bwt0", "bwt1", "bwx0"), defaults=(ALLOW,) * 6)).commit(g)
        check("a commit guards that", arrived(5), 0)
        known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
        check("another does not", arrived(5), 10)
    joins("nomaster")
    run("ip", "link", "del", "bwx0")
    for V in (V4, V6):
        run("ip", "neigh", "del", V["w"], "dev", "bwt-w")
    for s in (*flows, there):
        s.close()


def test_closed(_, probe):
    ko = os.environ.get("BW_KO")
    if not ko:
        print("# BW_KO is not set: closed is not tried")
        return
    want = expected(probe, GROUPS)
    run("rmmod", "bridgewarden")
    check("without the module they arrive", short(probe.send(GROUPS)), short(want))
    run("insmod", ko, "closed=bwt0,bwt1")
    check("closed: none arrives", short(probe.send(GROUPS, marked=False)), {})
    run("rmmod", "bridgewarden")
    check("without the module they arrive again", short(probe.send(GROUPS)), short(want))
    run("insmod", ko)


TESTS = [
    test_groups,
    test_allowed_by_policy,
    test_other_macs,
    test_own_neighbours,
    test_out,
    test_joined,
    test_closed,
]


def main():
    saved = packets.world_up()
    tunnels = []
    try:
        tunnels = tunnels_up()
        # A bridge takes the lowest address of its ports for its own: the port's must be told from it.
        run("ip", "link", "set", "bwt-a", "address", "fe:ff:ff:ff:ff:01")
        # As on a host that is no router: it takes what a router says, but not at Docker's bridges.
        sysctl("net/ipv6/conf/bwt-a/accept_ra", "2")
        sysctl("net/ipv6/conf/bwt0/accept_ra", "0")
        for path in ("all", "bwt-a"):
            sysctl("net/ipv4/conf/%s/rp_filter" % path, "0")
        probe = Probe(tunnels)
        for test in TESTS:
            print("# " + test.__name__, flush=True)
            test(Genl(), probe)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
    finally:
        for name in tunnels:
            subprocess.run(["ip", "link", "del", name], check=False)
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
