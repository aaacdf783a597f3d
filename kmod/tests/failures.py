#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""No memory, at every allocation of every request; as packets.py, whose world it builds on.

Needs a kernel with FAULT_INJECTION, FAILSLAB and FAIL_PAGE_ALLOC. For N = 1, 2, ... the N-th allocation that this process makes in
the kernel is refused (/proc/self/fail-nth) while it sends one request and reads the answer, until a request needs fewer than N.
After each the ruleset must stand as it did, unless the kernel says that the request was done.
"""

import contextlib
import errno
import os
import struct
import sys

import fuzz_netlink
import packets
from packets import (
    A_EXPECT,
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


def settle(timeout):
    """Nothing waits any more."""
    with contextlib.suppress(Refused):
        Genl().ask(ROLLBACK)


def main():
    # Some hundred commits wait for an answer that must not come; one that may come is there in a tenth of this.
    packets.WAIT = min(float(os.environ.get("BW_WAIT", "0.7")), 2.0)
    set_up()
    saved = packets.world_up()
    try:
        packets.serve("a", 9000)
        packets.serve("b", 9000)
        one = known(Ruleset().rule(A, B, udp(9000)))
        two = known(Ruleset().rule(A, B, udp(9000)).rule(B, A, tcp(81)))
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
    finally:
        settle(0)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        packets.world_down(saved)
    print("# allocations: %d in %d requests" % (sum(s["allocations"] for s in STEPS.values()), len(STEPS)))
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
