#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""No memory, at every allocation of every request; as packets.py, whose world it builds on.

Needs a kernel with FAULT_INJECTION, FAILSLAB and FAIL_PAGE_ALLOC. For N = 1, 2, ... the N-th allocation that this process makes in
the kernel is refused (/proc/self/fail-nth) while it sends one request and reads the answer, until a request needs fewer than N.
After each the ruleset must stand as it did, unless the kernel says that the request was done. The same for what makes a container's
device one that is judged inside: after each, whatever is up is judged.
"""

import contextlib
import errno
import fcntl
import os
import socket
import struct
import sys
import time

import fuzz_netlink
import packets
from packets import (
    A_DRY,
    A_EXPECT,
    A_NAMESPACES,
    A_TIMEOUT,
    ADD,
    ALLOW,
    BEGIN,
    COMMIT,
    CONFIRM,
    ENDPOINTS,
    EXPLAIN,
    INFO,
    ROLLBACK,
    RULES,
    V4,
    A,
    B,
    Genl,
    Refused,
    Ruleset,
    check,
    known,
    nla,
    tcp,
    try_udp,
    udp,
)

FAULTS = "/sys/kernel/debug/"
MOST = 400  # allocations of one request
TRACE_BEGIN, HOOK_GET = 12, 15
EXPLAINED = (
    nla(38, b"\2")
    + nla(39, b"\6")
    + nla(40, b"\x0a\xc9\0\2")
    + nla(41, b"\x0a\xc9\0\3")
    + nla(42, struct.pack("=H", 8080))
    + nla(43, b"\2")
    + nla(44, b"\2")
)


def set_up():
    if not os.path.exists("/proc/self/fail-nth"):
        sys.exit("this kernel cannot refuse allocations: it has no CONFIG_FAULT_INJECTION")
    if not os.path.isdir(FAULTS + "failslab"):
        packets.run("mount", "-t", "debugfs", "debugfs", FAULTS.rstrip("/"))
    for name, settings in (
        ("failslab", {"ignore-gfp-wait": "N"}),
        ("fail_page_alloc", {"ignore-gfp-wait": "N", "ignore-gfp-highmem": "N", "min-order": "0"}),
    ):
        for key, value in {**settings, "verbose": "0"}.items():
            with open(FAULTS + name + "/" + key, "w") as f:
                f.write(value)


class Failing:
    """With it, the N-th allocation fails; afterwards `hit` tells whether there was one."""

    def __init__(self, nth):
        self.nth, self.hit = nth, False
        self.fd = os.open("/proc/thread-self/fail-nth", os.O_RDWR)
        self.text = str(nth).encode()

    def __enter__(self):
        os.write(self.fd, self.text)
        return self

    def __exit__(self, *_):
        # What is left of the count; reading allocates nothing that could use it up unseen.
        left = os.pread(self.fd, 20, 0)
        with contextlib.suppress(OSError):
            os.write(self.fd, b"0")
        self.hit = int(left) == 0
        os.close(self.fd)


def ask(g, nth, cmd, payload, flags):
    """What became of one request: 'done', an error's name, or 'lost' when the answer to it found no memory."""
    with Failing(nth) as f:
        try:
            g.ask(cmd, payload, flags)
            said = "done"
        except Refused as e:
            said = errno.errorcode.get(e.number, str(e.number))
        except OSError as e:
            said = "lost" if e.errno == errno.ENOBUFS else errno.errorcode.get(e.errno, str(e.errno))
    return said, f.hit


def requests(ruleset, timeout):
    """A transaction, section by section."""
    head = (
        nla(5, bytes([ruleset.mode]))
        + nla(53, bytes([ruleset.placement]))
        + nla(6, bytes(ruleset.defaults))
        + nla(fuzz_netlink.A_RULESET_DIGEST, os.urandom(32))
        + b"".join(nla(12, x.encode() + b"\0") for x in ruleset.guards)
    )
    steps = [("begin", BEGIN, head)]
    steps += [("add %d" % kind, ADD, nla(kind, data)) for kind, data in ruleset.sections() if data]
    return steps, ("commit", COMMIT, nla(A_TIMEOUT, struct.pack("=I", timeout)) if timeout else b"")


def verdicts():
    return try_udp("a", V4["b"], 9000), try_udp("b", V4["a"], 9000)


STEPS = {}


def exhaust(what, prepare, request, judge):
    """One request again and again, each time with a later failure. judge(said, before) looks at what is in force."""
    refused = lost = 0
    for nth in range(1, MOST):
        g = Genl()
        prepare(g)
        before = fuzz_netlink.standing(Genl())
        said, hit = ask(g, nth, *request(g))
        g.close()
        if not hit:
            check("%s: %d allocations; without a failure it is done" % (what, nth - 1), said, "done")
            break
        good = judge(said, before)
        if not good:
            check("%s, failure %d: %s" % (what, nth, said), fuzz_netlink.standing(Genl()), before)
        refused += said not in ("done", "lost")
        lost += said == "lost"
    else:
        check("%s ends" % what, False, True)
    STEPS[what] = {"allocations": nth - 1, "refused": refused, "answers lost": lost}
    print("# %s: %s" % (what, STEPS[what]), flush=True)


def stands(said, before):
    """Reading, and whatever only fills a transaction."""
    return fuzz_netlink.standing(Genl()) == before


def stands_or_done(said, before):
    """A commit, a roll back: refused, and all is as it was; or done. In both cases the same connections pass."""
    same = fuzz_netlink.standing(Genl()) == before
    return (same or said in ("done", "lost")) and verdicts() == ("open", "silence")


def namespaces():
    return struct.unpack("=I", Genl().ask(INFO)[0][A_NAMESPACES][0])[0]


def stands_alone(said, before):
    """A dry run: all is as it was, and no namespace is kept."""
    return fuzz_netlink.standing(Genl()) == before and (namespaces(), verdicts()) == (0, ("open", "silence"))


# Devices that come to be judged inside, by ioctl: this process itself makes the allocations.

GET_FLAGS, SET_FLAGS, SET_NAME, ADD_PORT, DEL_PORT = 0x8913, 0x8914, 0x8923, 0x89A2, 0x89A3
UP = 1


class Device:
    """A socket that has its namespace, and a name."""

    def __init__(self, ns, name):
        with packets.inside(ns):
            self.s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.name = name

    def ioctl(self, number, form, value):
        """'done' or an error's name."""
        try:
            fcntl.ioctl(self.s, number, struct.pack("16s" + form, self.name.encode(), value))
            return "done"
        except OSError as e:
            return errno.errorcode.get(e.errno, str(e.errno))

    def flags(self):
        found = fcntl.ioctl(self.s, GET_FLAGS, struct.pack("16sH22x", self.name.encode(), 0))
        return struct.unpack("16xH22x", found)[0]

    def is_up(self):
        return bool(self.flags() & UP)

    def set_up(self, on):
        return self.ioctl(SET_FLAGS, "H22x", self.flags() & ~UP | (UP if on else 0))

    def rename(self, name):
        said = self.ioctl(SET_NAME, "16s8x", name.encode())
        if said == "done":
            self.name = name
        return said


def judged():
    """Of what a sends b: whether the permitted datagram comes back, and whether the denied one does that was sent before it."""
    with packets.inside("a"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found = set()
    with s:
        until = time.monotonic() + packets.PATIENCE
        while 9000 not in found and time.monotonic() < until:
            for port in (9001, 9000):
                with contextlib.suppress(OSError):
                    s.sendto(b"x", (V4["b"], port))
            while packets.comes(s, 0.2):
                with contextlib.suppress(OSError):
                    found.add(s.recvfrom(10)[1][1])
    return sorted(found)


class Listing:
    """b on its bridge, a beside it. Packets tell what is judged, and so does the number of open namespaces (a's, b's, c's)."""

    def __init__(self):
        self.bridge, self.port = Device(None, "bwt0"), packets.ifindex("bwt-b")
        self.ends = {ns: Device(ns, "eth0") for ns in "ab"}

    def attach(self):
        return self.bridge.ioctl(ADD_PORT, "i20x", self.port)

    def detach(self):
        return self.bridge.ioctl(DEL_PORT, "i20x", self.port)

    def whole(self):
        """As at the start, whatever a failure has left."""
        self.bridge.set_up(True)
        self.attach()
        for end in self.ends.values():
            end.set_up(True)
        return namespaces() == 3

    def holds(self, attached):
        """Whether no container that is up on the bridge is left unjudged."""
        up = [ns for ns, end in self.ends.items() if end.is_up() and (ns == "a" or attached)]
        if namespaces() < 1 + len(up):
            return False
        return up != ["a", "b"] or judged() == [9000]


def listing_ruleset():
    return known(Ruleset(guards=("bwt0", "bwt1", "bwg*"), placement=2).rule(A, B, udp(9000)))


def exhaust_event(what, listing, prepare, act, follow=None):
    """One event again and again, each time with a later failure."""
    refused = 0
    for nth in range(1, MOST):
        if not listing.whole():
            check("%s, failure %d: all is well before it" % (what, nth), namespaces(), 3)
            return
        prepare()
        with Failing(nth) as f:
            said = act()
        attached = follow(said) if follow else said == "done"
        if not listing.holds(attached):
            check("%s, failure %d (%s): what is up is judged" % (what, nth, said), judged(), [9000])
        refused += said != "done"
        if not f.hit:
            check("%s: %d allocations; without a failure it is done" % (what, nth - 1), said, "done")
            break
    else:
        check("%s ends" % what, False, True)
    print("# %s: %d allocations, %d times refused" % (what, nth - 1, refused), flush=True)


def nothing_comes():
    """From a to b."""
    with packets.inside("a"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        for port in (9001, 9000):
            with contextlib.suppress(OSError):
                s.sendto(b"x", (V4["b"], port))
        return not packets.comes(s, 0.5)


def names(listing):
    """A bridge gets a guard's name while a and b are on it; another bridge each time, because a renaming that fails may leave the new name
    behind in sysfs, and no endpoint is known there."""
    refused = down = 0
    for nth in range(1, MOST):
        bridge = Device(None, "bwx%d" % nth)
        packets.batch(
            [
                "link add %s type bridge" % bridge.name,
                "link set %s up" % bridge.name,
                "link set bwt-a master %s" % bridge.name,
                "link set bwt-b master %s" % bridge.name,
            ]
        )
        if nth == 1:
            check("on a bridge that is none of the guards all is open", judged(), [9000, 9001])
        bridge.set_up(False)
        with Failing(nth) as f:
            said = bridge.rename("bwg%d" % nth)
        bridge.set_up(True)
        up = [end.is_up() for end in listing.ends.values()].count(True)
        if said == "done" and not (namespaces() >= 1 + up and nothing_comes()):
            check("a guard's name, failure %d: nothing is open" % nth, (namespaces(), up), "closed")
        refused += said != "done"
        down += 2 - up
        packets.batch(["link set bwt-a master bwt0", "link set bwt-b master bwt0", "link del " + bridge.name])
        if not listing.whole():
            check("a guard's name, failure %d: all is well after it" % nth, namespaces(), 3)
            return
        if not f.hit:
            check("a guard's name: %d allocations; without a failure it is given" % (nth - 1), said, "done")
            break
    else:
        check("a guard's name ends", False, True)
    print(
        "# a guard's name: %d allocations, %d times refused, %d devices taken down" % (nth - 1, refused, down)
    )
    check("some devices were taken down", down > 0, True)
    check("all is as it was after it", judged(), [9000])


def events():
    packets.bridge_settings("0")
    listing_ruleset().commit(Genl())
    check("three containers are judged inside", namespaces(), 3)
    check("of two ports one is permitted", judged(), [9000])
    listing = Listing()
    b = listing.ends["b"]
    check("off the bridge it is not judged", (listing.detach(), namespaces()), ("done", 2))
    exhaust_event("attaching a device that is up", listing, listing.detach, listing.attach)

    def down():
        listing.detach()
        b.set_up(False)

    def up_at_last(said):
        """It may be attached and not listed: then it comes up only once it is listed."""
        for nth in range(1, MOST):
            with Failing(nth) as f:
                b.set_up(True)
            if b.is_up() or not f.hit:
                break
            if not listing.holds(said == "done"):
                check("bringing it up, failure %d: it stays down" % nth, b.is_up(), False)
        return said == "done"

    exhaust_event("attaching one that is down, bringing it up", listing, down, listing.attach, up_at_last)
    check("all is as it was", (listing.whole(), judged()), (True, [9000]))
    names(listing)
    packets.bridge_settings("1")


def settle(timeout):
    """Nothing waits any more."""
    with contextlib.suppress(Refused):
        Genl().ask(ROLLBACK)


def every_request():
    one = known(Ruleset().rule(A, B, udp(9000)))
    two = known(Ruleset().rule(A, B, udp(9000)).rule(B, A, tcp(81)))
    two.prefix("10.13.0.0/16", A, 0).prefix("fd13::/32", A, 0).port(
        0, packets.ifindex("bwt0"), packets.ifindex("bwt-a")
    )
    inside = known(Ruleset(placement=2).rule(A, B, udp(9000)))
    one.commit(Genl())
    memory = packets.settled(fuzz_netlink.held)
    check("a permitted packet, a denied one", verdicts(), ("open", "silence"))

    steps, _ = requests(two, 0)
    for i, (what, cmd, payload) in enumerate(steps):

        def fill(g, i=i):
            for _, before, attrs in steps[:i]:
                g.ask(before, attrs)

        exhaust(what, fill, lambda g, cmd=cmd, payload=payload: (cmd, payload, 5), stands)
    check("after the chunks", verdicts(), ("open", "silence"))

    for what, ruleset, timeout in (
        ("commit", two, 0),
        ("commit with a window", one, 60),
        ("commit, container", inside, 60),
    ):
        steps, (_, cmd, payload) = requests(ruleset, timeout)

        def whole(g, steps=steps):
            settle(0)
            for _, before, attrs in steps:
                g.ask(before, attrs)

        def commit(g, cmd=cmd, payload=payload):
            return cmd, payload + nla(A_EXPECT, struct.pack("=Q", Genl().generation())), 5

        exhaust(what, whole, commit, stands_or_done)
        settle(0)

    steps, (_, cmd, payload) = requests(inside, 0)

    def dry(g, cmd=cmd):
        expect = struct.pack("=Q", Genl().generation())
        return cmd, nla(A_DRY, b"") + nla(A_EXPECT, expect), 5

    one.commit(Genl())
    exhaust("dry run, container", whole, dry, stands_alone)

    def window(g):
        settle(0)
        one.commit(g, timeout=60)

    for what, cmd in (("confirm", CONFIRM), ("rollback", ROLLBACK)):
        exhaust(what, window, lambda g, cmd=cmd: (cmd, b"", 5), stands_or_done)
    for what, cmd, payload, flags in (
        ("info", INFO, b"", 5),
        ("explain", EXPLAIN, EXPLAINED, 5),
        ("dump of rules", RULES, b"", 0x301),
        ("dump of endpoints", ENDPOINTS, b"", 0x301),
        ("hooks", HOOK_GET, b"", 5),
        ("trace", TRACE_BEGIN, b"", 5),
    ):
        exhaust(
            what,
            lambda g: None,
            lambda g, cmd=cmd, payload=payload, flags=flags: (cmd, payload, flags),
            stands,
        )
    settle(0)
    one.commit(Genl())
    check(
        "a commit works as ever",
        (verdicts(), fuzz_netlink.given_back(memory)),
        (("open", "silence"), memory),
    )
    check("no transaction is left open", fuzz_netlink.room(), 16)


TESTS = (every_request, events)


def main():
    wanted = sys.argv[1:]
    # Some hundred commits wait for an answer that must not come; one that may come is there in a tenth of this.
    packets.WAIT = min(float(os.environ.get("BW_WAIT", "0.7")), 2.0)
    set_up()
    saved = packets.world_up()
    try:
        packets.serve("a", 9000)
        packets.serve("b", 9000)
        packets.serve("b", 9001)
        for test in TESTS:
            if not wanted or test.__name__ in wanted:
                print("# " + test.__name__, flush=True)
                test()
    finally:
        settle(0)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        packets.world_down(saved)
    print("# allocations: %d in %d requests" % (sum(s["allocations"] for s in STEPS.values()), len(STEPS)))
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
