#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""How long others wait while large rulesets are committed: requests of rtnetlink and generic netlink, timed; as packets.py.

    waits.py [COMMITS [ENDPOINTS]]

Three processes ask and wait for the answer, over and over: one renames a link of the host, which the module follows; one changes
the MTU of a link in another network namespace; one opens a generic netlink socket, asks the controller for a family and closes it.
Meanwhile a fourth commits: by turns a ruleset, and the same ruleset with a wrong generation. The kernel builds both and refuses the
second one at the end. So both turns take the same processor time, on the same machine in the same minute, and differ in what a
commit does to others. What a refused commit does to others as well, as by a lock held while the kernel builds, only the figures themselves
show. A request belongs to the commit that ran when it began; what is begun between commits is left out.
"""

import functools
import itertools
import json
import mmap
import os
import socket
import struct
import sys
import time

from packets import (
    A_DEFAULTS,
    A_EXPECT,
    A_GUARD,
    A_LOG_DEFAULTS,
    A_LOG_GROUP,
    A_MODE,
    A_PLACEMENT,
    ABORT,
    ADD,
    ALLOW,
    BEGIN,
    COMMIT,
    DENY,
    S_BLOCK,
    S_CELL4,
    S_CELL6,
    S_EP4,
    S_EP6,
    S_IDENTITY,
    S_PAIR,
    S_PUBLISH,
    S_RULE,
    S_SPAN,
    A,
    B,
    Genl,
    Refused,
    Ruleset,
    batch,
    batch_if_there,
    check,
    conclude,
    ifindex,
    inside,
    nla,
    tcp,
)

#: What a commit may add to what the same building costs others.
BAR = 1.5
PORTS = 64
RULES = 1000
PAUSE = 0.002
#: Bytes of a section in one message, and of an entry of each.
CHUNK = 48000
ENTRY = {
    S_IDENTITY: 8,
    S_CELL4: 12,
    S_CELL6: 24,
    S_EP4: 16,
    S_EP6: 28,
    S_PUBLISH: 40,
    S_RULE: 80,
    S_SPAN: 16,
    S_BLOCK: 8,
    S_PAIR: 12,
}
SETLINK, IFLA_IFNAME, IFLA_MTU = 19, 3, 4
NOTHING, REFUSED, COMMITTED = range(3)


class Links:
    """rtnetlink, by hand."""

    def __init__(self):
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
        self.s.bind((0, 0))

    def set(self, index, attribute):
        body = struct.pack("=BBHiII", 0, 0, 0, index, 0, 0) + attribute
        self.s.send(struct.pack("=IHHII", 16 + len(body), SETLINK, 5, 1, 0) + body)
        number = -struct.unpack_from("=i", self.s.recv(4096), 16)[0]
        if number:
            raise OSError(number, os.strerror(number))


def renames():
    links, index, names = Links(), ifindex("bwwait0"), (b"bwwait1\0", b"bwwait0\0")
    for name in itertools.cycle(names):
        yield functools.partial(links.set, index, nla(IFLA_IFNAME, name))


def others_mtu():
    with inside("other"):
        links, index = Links(), ifindex("lo")
    for mtu in itertools.cycle((65000, 65001)):
        yield functools.partial(links.set, index, nla(IFLA_MTU, struct.pack("=I", mtu)))


def ask_and_close():
    body = struct.pack("=BBH", 3, 1, 0) + nla(2, b"nlctrl\0")
    message = struct.pack("=IHHII", 16 + len(body), 16, 1, 1, 0) + body
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16) as s:
        s.bind((0, 0))
        s.send(message)
        s.recv(1 << 16)


def generic():
    while True:
        yield ask_and_close


PROBES = {"link of the host": renames, "link of another namespace": others_mtu, "generic netlink": generic}


class Probe:
    """A process of its own; its figures come by a pipe when `now` says that all is over."""

    def __init__(self, requests, now):
        self.file, there = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(there)
            return
        status = 1
        try:
            found = b""
            for request in requests():
                at = now[0]
                began = time.monotonic()
                request()
                if at != NOTHING:
                    found += struct.pack("=Bd", at, time.monotonic() - began)
                if now[1]:
                    break
                time.sleep(PAUSE)
            with os.fdopen(there, "wb") as f:
                f.write(found)
            status = 0
        finally:
            os._exit(status)

    def figures(self):
        """Milliseconds, sorted, of each sort."""
        with os.fdopen(self.file, "rb") as f:
            data = f.read()
        if os.waitpid(self.pid, 0)[1]:
            raise RuntimeError("a probe failed")
        found = {REFUSED: [], COMMITTED: []}
        for at, seconds in struct.iter_unpack("=Bd", data):
            found[at].append(seconds * 1000)
        return {at: sorted(each) for at, each in found.items()}


class Many(Ruleset):
    """Endpoints of both families at many ports of one bridge."""

    def __init__(self, endpoints):
        super().__init__(guards=("bwwaitbr",), defaults=(DENY, ALLOW, DENY, DENY, ALLOW, ALLOW))
        link = ifindex("bwwaitbr")
        ports = [ifindex("bwwaitp%d" % n) for n in range(PORTS)]
        for n in range(endpoints // 2):
            at = struct.pack("=III", A + n % 2, link, ports[n % PORTS])
            self.ep4.append(struct.pack("!I", 0x0A000001 + n) + at)
            self.ep6.append(struct.pack("!QQ", 0xFD00 << 48, 1 + n) + at)
        for port in range(1, RULES + 1):
            self.rule(A, B, tcp(port))
        # Packed once, whole entries in each message.
        self.messages = []
        for kind, data in self.sections():
            step = CHUNK // ENTRY[kind] * ENTRY[kind]
            self.messages += [nla(kind, data[at : at + step]) for at in range(0, len(data), step)]
        self.head = (
            nla(A_MODE, b"\0")
            + nla(A_PLACEMENT, b"\0")
            + nla(A_LOG_GROUP, b"\0\0")
            + nla(A_LOG_DEFAULTS, b"\0")
            + nla(A_DEFAULTS, bytes(self.defaults))
            + nla(A_GUARD, b"bwwaitbr\0")
        )

    def fill(self, g):
        g.ask(BEGIN, self.head)
        for message in self.messages:
            g.ask(ADD, message)

    def turn(self, g, now, refused):
        """Seconds of the commit alone."""
        self.fill(g)
        expect = g.generation()
        payload = nla(A_EXPECT, struct.pack("=Q", expect + 1 if refused else expect))
        began = time.monotonic()
        now[0] = REFUSED if refused else COMMITTED
        try:
            g.ask(COMMIT, payload)
        except Refused:
            if not refused:
                raise
        now[0] = NOTHING
        took = time.monotonic() - began
        if refused:
            g.ask(ABORT)
        return took


def world_down():
    batch_if_there(
        ["link del bwwaitbr", "link del bwwait0", "link del bwwait1", "netns del bwt-other"]
        + ["link del bwwaitp%d" % n for n in range(PORTS)]
    )


def world_up():
    world_down()
    lines = ["netns add bwt-other", "link add bwwaitbr type bridge"]
    lines.append("link add bwwait0 type veth peer name bwwait2 netns bwt-other")
    for n in range(0, PORTS, 2):
        lines.append("link add bwwaitp%d type veth peer name bwwaitp%d" % (n, n + 1))
    lines += ["link set bwwaitp%d master bwwaitbr" % n for n in range(PORTS)]
    batch(lines)


def at(sorted_figures, share):
    return round(sorted_figures[int(len(sorted_figures) * share)], 3)


def main():
    commits = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    endpoints = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    world_up()
    g = Genl()
    try:
        many = Many(endpoints)
        now = mmap.mmap(-1, 2)
        many.turn(g, now, False)  # the first allocations of a boot
        probes = {name: Probe(requests, now) for name, requests in PROBES.items()}
        took = {REFUSED: [], COMMITTED: []}
        for n in range(2 * commits):
            took[COMMITTED if n % 2 else REFUSED].append(many.turn(g, now, not n % 2))
        now[1] = 1
        figures = {name: probe.figures() for name, probe in probes.items()}
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        world_down()
    said = {
        "kernel": os.uname().release,
        "endpoints": endpoints,
        "commits": commits,
        "commit_ms": {
            name: round(sorted(took[kind])[commits // 2] * 1000, 1)
            for name, kind in (("refused", REFUSED), ("committed", COMMITTED))
        },
        "waits": {},
    }
    for name, found in figures.items():
        row = said["waits"][name] = {}
        for words, kind in (("refused", REFUSED), ("committed", COMMITTED)):
            row[words] = {
                "requests": len(found[kind]),
                "p50_ms": at(found[kind], 0.5),
                "p99_ms": at(found[kind], 0.99),
                "longest_ms": round(found[kind][-1], 3),
            }
        ratio = row["committed"]["p99_ms"] / row["refused"]["p99_ms"]
        row["p99_ratio"] = round(ratio, 2)
        print("# %s: %s" % (name, json.dumps(row)))
        check("%s: a commit makes no more than %.1f of its p99" % (name, BAR), ratio <= BAR, True)
    print(json.dumps(said))
    return conclude()


if __name__ == "__main__":
    sys.exit(main())
