#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Hooks that a process runs, with bottom halves on; as packets.py, whose world it builds on.

A queue's listener that answers NF_REPEAT sends a packet through our hook again from its own system call, and a process that adds a
multicast route sends the packets through FORWARD that waited for it. The verdict must be the one of the ruleset in force, each packet
counted once a pass; a kernel with DEBUG_PREEMPT reports a hook that takes the processor for its own there. BW_FLOOD: seconds.
"""

import os
import select
import socket
import struct
import sys
import threading
import time

import packets
from packets import (
    ALLOW,
    DENY,
    FORWARD,
    HOST,
    NFQUEUE,
    POSTROUTING,
    V4,
    V6,
    WORLD,
    A,
    B,
    Genl,
    Netfilter,
    Ruleset,
    at_once,
    check,
    ifindex,
    inside,
    known,
    nla,
    serve,
    udp,
)

CONTAINER = 2
NF_ACCEPT, NF_REPEAT = 1, 4
QUEUE_NUMBER = 9
GROUP = "239.201.0.5"


class Repeater(threading.Thread):
    """Answers NF_REPEAT to what it sees for the first time, and NF_ACCEPT the second time.

    The first `together` packets are held until all of them are there; then `between` is called.
    """

    def __init__(self, between=lambda: None, together=1):
        super().__init__(daemon=True)
        self.between, self.together, self.held = between, together, []
        self.seen, self.repeated, self.stopped = set(), 0, False
        self.n = Netfilter()
        self.n.send(NFQUEUE | 2, QUEUE_NUMBER, nla(1, struct.pack("!BBH", 1, 0, 0)))
        self.n.send(NFQUEUE | 2, QUEUE_NUMBER, nla(2, struct.pack("!IB", 0xFFFF, 2)))
        self.start()

    def run(self):
        while not self.stopped:
            if not select.select([self.n.s], [], [], 0.02)[0]:
                continue
            for kind, found in self.n.messages():
                if kind == NFQUEUE:
                    self.answer(struct.unpack_from("!I", found[1][0])[0], found[10][0])

    def answer(self, packet, payload):
        if payload in self.seen:
            self.verdict(packet, NF_ACCEPT)
            return
        self.seen.add(payload)
        self.held.append(packet)
        if len(self.seen) == self.together:
            self.between()
        if len(self.seen) >= self.together:
            for one in self.held:
                self.repeated += 1
                self.verdict(one, NF_REPEAT)
            self.held = []

    def verdict(self, packet, verdict):
        self.n.send(NFQUEUE | 1, QUEUE_NUMBER, nla(2, struct.pack("!II", verdict, packet)), 1)

    def stop(self):
        self.stopped = True
        self.join()
        self.n.s.close()


def ask(ns, address, port, text, wait=4):
    """Whether the answer comes."""
    with inside(ns):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        try:
            s.sendto(text, (address, port))
            return packets.receive(s, 100, wait * packets.WAIT) == text
        except OSError:
            return False


def grown(g, before, index):
    return g.counters().get(index, 0) - before.get(index, 0)


WAYS = {
    "same bridge": ("a", V4["b"], 9000),
    "same bridge, IPv6": ("a", V6["b"], 9000),
    "routed": ("a", V4["w"], 9000),
    "routed, IPv6": ("a", V6["w"], 9000),
    "to the host": ("a", "10.201.0.1", 9000),
    "from the host": (None, V4["a"], 9000),
}


def queued(placement):
    rules = known(Ruleset(placement=placement))
    for frm, to in ((A, B), (A, WORLD), (A, HOST), (HOST, A)):
        rules.queue(frm, to, udp(9000), QUEUE_NUMBER)
    return rules


def allowed(placement):
    rules = known(Ruleset(placement=placement))
    for frm, to in ((A, B), (A, WORLD), (A, HOST), (HOST, A)):
        rules.rule(frm, to, udp(9000))
    return rules


def denied(placement):
    return known(Ruleset(placement=placement, defaults=(DENY,) * 5 + (ALLOW,)))


def test_repeat(g):
    """Each way again through the rules: those that queued it, others that allow it, and others that do not."""
    for placement in (FORWARD, POSTROUTING):
        for what, then, want in (("queue", queued, True), ("allow", allowed, True), ("deny", denied, False)):
            queued(placement).commit(g)

            def between(then=then, placement=placement):
                if then is not queued:
                    then(placement).commit(Genl())

            listener = Repeater(between, together=len(WAYS))
            texts = [("%s; %s" % (way, what)).encode() for way in WAYS]
            answered = at_once(
                [(ask, *call, text, 4 if want else 2) for call, text in zip(WAYS.values(), texts)]
            )
            listener.stop()
            for way, text, got in zip(WAYS, texts, answered):
                repeated = any(payload.endswith(text) for payload in listener.seen)
                check(
                    "placement %d, %s, repeated into %s" % (placement, way, what),
                    (got, repeated and not listener.held),
                    (want, True),
                )


def test_flood(g):
    """Remembered verdicts of one flow while another's packets come again by system calls."""
    rules = known(Ruleset(defaults=(ALLOW, DENY, DENY, DENY, ALLOW, ALLOW)).rule(A, B, udp(9001)))
    rules.queue(A, B, udp(9000), QUEUE_NUMBER).commit(g)
    listener = Repeater()
    ended = threading.Event()
    seconds = float(os.environ.get("BW_FLOOD", "5"))

    def flood():
        with inside("a"):
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("0.0.0.0", 7777))
        s.connect((V4["b"], 9001))
        while not ended.is_set():
            s.send(b"flood")

    with inside("b"):
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sink.bind(("0.0.0.0", 9001))
    thread = threading.Thread(target=flood)
    thread.start()
    asked = answered = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        asked += 1
        answered += ask("a", V4["b"], 9000, b"beside a flood %d" % asked)
    ended.set()
    thread.join()
    listener.stop()
    sink.close()
    check(
        "beside a flood each repeated packet arrives, and its answer",
        (answered, listener.repeated),
        (asked, 2 * asked),
    )
    print("# %d packets repeated" % asked)


MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204


def vif(number, link):
    return struct.pack("=HBBIi4s", number, 8, 1, 0, ifindex(link), b"")


def mfc(origin, group, parent, to):
    ttls = bytearray(32)
    ttls[to] = 1
    return (
        socket.inet_aton(origin)
        + socket.inet_aton(group)
        + struct.pack("=H32s2xIIIi", parent, bytes(ttls), 0, 0, 0, 0)
    )


def test_multicast(g):
    """What waited for its route, by rules that allow it and by rules that do not."""
    router = socket.socket(socket.AF_INET, socket.SOCK_RAW, 2)
    try:
        router.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
    except OSError as error:
        print("# no multicast routing in this kernel: %s" % error)
        return
    with router, open("/proc/sys/net/ipv4/conf/bwt0/rp_filter", "w") as f:
        f.write("0")
        router.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif(0, "bwt0"))
        router.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif(1, "bwt-w"))
        with inside("w"):
            there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        there.bind(("0.0.0.0", 9200))
        there.setsockopt(
            socket.IPPROTO_IP,
            socket.IP_ADD_MEMBERSHIP,
            socket.inet_aton(GROUP) + socket.inet_aton(V4["w"]),
        )
        for n, (what, defaults, want) in enumerate(
            (("allowed", (ALLOW,) * 6, True), ("denied", (DENY,) * 5 + (ALLOW,), False))
        ):
            known(Ruleset(defaults=defaults)).commit(g)
            group = GROUP if not n else "239.201.0.6"
            if n:
                there.setsockopt(
                    socket.IPPROTO_IP,
                    socket.IP_ADD_MEMBERSHIP,
                    socket.inet_aton(group) + socket.inet_aton(V4["w"]),
                )
            with inside("a"):
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
            s.sendto(b"waits", (group, 9200))
            time.sleep(0.3)
            before = g.counters()
            router.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, mfc(V4["a"], group, 0, 1))
            try:
                got = packets.receive(there, 100) == b"waits"
            except OSError:
                got = False
            s.close()
            check(
                "multicast that waited for its route, %s: arrives, and is counted as egress" % what,
                (got, grown(g, before, 1)),
                (want, 1),
            )
        there.close()


TESTS = [test_repeat, test_flood, test_multicast]


def main():
    saved = packets.world_up()
    try:
        for where in ("a", "b", "w", None):
            serve(where, 9000)
        for test in TESTS:
            print("# " + test.__name__, flush=True)
            test(Genl())
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
    finally:
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
