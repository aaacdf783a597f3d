#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The confirm window of a host that is suspended: its time goes on. As packets.py, and the machine must wake up by its clock."""

import os
import struct
import sys
import time

from packets import (
    A_EXPECT,
    A_REMAINING,
    ALLOW,
    CONFIRM,
    INFO,
    Genl,
    Ruleset,
    batch,
    batch_if_there,
    check,
    conclude,
    nla,
    refusal,
    until,
)

ALARM = "/sys/class/rtc/rtc0/wakealarm"
#: Seconds of a window that the suspended time outlasts, and of one that it does not.
SHORT, LONG = 20, 300
ASLEEP = 40


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def asleep():
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()


def suspend():
    """Seconds that the host was suspended."""
    before = asleep()
    put(ALARM, "0")
    put(ALARM, "+%d" % ASLEEP)
    put("/sys/power/state", "mem")
    return asleep() - before


def remaining(g):
    found = g.ask(INFO)[0].get(A_REMAINING)
    return struct.unpack("=I", found[0])[0] if found else 0


def commit(g, timeout=0):
    return Ruleset(guards=("bwsleep0",), defaults=(ALLOW,) * 6).commit(g, timeout=timeout)


def main():
    with open("/sys/power/state") as f:
        states = f.read().split()
    if not os.path.exists(ALARM) or "mem" not in states:
        print("# no suspend that the clock ends: not tested")
        return 1
    g = Genl()
    batch(["link add bwsleep0 type bridge"])
    try:
        first = commit(g)
        commit(g, SHORT)
        check("a window is open", SHORT - 10 < remaining(g) <= SHORT, True)
        slept = suspend()
        print("# suspended for %d s" % slept)
        check("the host was suspended", slept > SHORT, True)
        woken = time.monotonic()
        check(
            "the window is over: the ruleset before is back", until(lambda: g.generation() == first, 5), True
        )
        print("# %.1f s after waking up" % (time.monotonic() - woken))
        check("nothing is left to confirm", refusal(g.ask, CONFIRM), "ENOENT")
        second = commit(g, LONG)
        slept = suspend()
        left = remaining(g)
        print("# suspended for %d s, %d s left of %d" % (slept, left, LONG))
        check("a longer window is open still, and shorter by that", 0 < left <= LONG - slept + 1, True)
        g.ask(CONFIRM, nla(A_EXPECT, struct.pack("=Q", second)))
        check("confirmed", (g.generation(), remaining(g)), (second, 0))
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        batch_if_there(["link del bwsleep0"])
    return conclude()


if __name__ == "__main__":
    sys.exit(main())
