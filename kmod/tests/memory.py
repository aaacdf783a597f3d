#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a ruleset costs: bytes an endpoint, a rule, a CIDR, at 1,000, 10,000 and 100,000 of each; as packets.py.

Measured as the difference in what the kernel says is in use before and after a commit, and again after a small ruleset has replaced
it. A table is a power of two and at most half full (a quarter where it is small), so the cost of one goes up and down between sizes.
"""

import json
import os
import struct
import sys
import time

import fuzz_netlink
import packets
from packets import (
    ALLOW,
    S_BLOCK,
    S_CELL4,
    S_EP4,
    S_IDENTITY,
    S_PAIR,
    S_RULE,
    S_SPAN,
    WORLD,
    Genl,
    Ruleset,
    check,
)

SIZES = (1000, 10000, 100000)
CHUNK = 48000


def used():
    """Bytes: slabs, large allocations of theirs included, and what functions of the module hold of vmalloc's."""
    packets.settled(fuzz_netlink.held)  # what an earlier ruleset had is freed after a grace period
    with open("/proc/sys/vm/stat_refresh", "w") as f:
        f.write("1")
    with open("/proc/meminfo") as f:
        found = dict(line.split(":") for line in f)
    return int(found["SUnreclaim"].split()[0]) * 1024 + fuzz_netlink.held()


class Many(Ruleset):
    """n of one kind; the others as few as the checks demand."""

    def __init__(self, kind, n):
        super().__init__(guards=("bwt0",), defaults=(ALLOW,) * 6)
        self.kind, self.n = kind, n

    def sections(self):
        n, link = self.n, packets.ifindex("bwt0")
        made = {S_IDENTITY: b"".join(struct.pack("=II", i, i) for i in range(9))}
        if self.kind == "endpoint":
            made[S_EP4] = b"".join(
                struct.pack(">I", 0x0A000001 + i) + struct.pack("=III", 3, link, 0) for i in range(n)
            )
        elif self.kind == "CIDR":
            made[S_CELL4] = b"".join(
                struct.pack(">I", i << 12) + struct.pack("=II", WORLD + i % 4, 2) for i in range(n)
            )
        else:  # a rule between two identities of its own, one service
            made[S_IDENTITY] = b"".join(struct.pack("=II", i, i) for i in range(3))
            made[S_RULE] = b"".join(
                struct.pack("=QBB3H64s", i + 1, 0, 0, 0, 0, 0, b"rule %d" % i) for i in range(n)
            )
            made[S_SPAN] = b"".join(
                struct.pack("=IIII", 6 << 16 | i & 0xFFFF, 6 << 16 | i & 0xFFFF, i, i) for i in range(n)
            )
            made[S_BLOCK] = b"".join(struct.pack("=II", i, 1) for i in range(n))
            made[S_PAIR] = b"".join(struct.pack("=III", i % 1000, i // 1000, i) for i in range(n))
        return list(made.items())

    def fill(self, g):
        """A transaction with all of it."""
        g.ask(
            packets.BEGIN,
            packets.nla(packets.A_MODE, b"\0")
            + packets.nla(packets.A_DEFAULTS, bytes(self.defaults))
            + packets.nla(packets.A_GUARD, b"bwt0\0"),
        )
        for section, data in self.sections():
            size = CHUNK // ENTRY[section] * ENTRY[section]
            for at in range(0, len(data), size):
                g.ask(packets.ADD, packets.nla(section, data[at : at + size]))

    def commit(self, g, **_):
        self.fill(g)
        began = time.monotonic()
        g.ask(packets.COMMIT, packets.nla(packets.A_EXPECT, struct.pack("=Q", g.generation())))
        return time.monotonic() - began


ENTRY = {S_IDENTITY: 8, S_EP4: 16, S_CELL4: 12, S_RULE: 80, S_SPAN: 16, S_BLOCK: 8, S_PAIR: 12}


def main():
    saved = packets.world_up()
    figures = {}
    try:
        g = Genl()
        for kind in ("endpoint", "rule", "CIDR"):
            for n in SIZES:
                Many("endpoint", 1).commit(g)
                before, vmalloc = used(), fuzz_netlink.held()
                took = Many(kind, n).commit(g)
                more = used() - before
                Many("endpoint", 1).commit(g)
                left = used() - before
                figures["%s %d" % (kind, n)] = round(more / n, 1)
                print(
                    "# %6d of kind %s: %.2f MiB, %.1f bytes each; commit %.2f s; %d KiB not back at once"
                    % (n, kind, more / 2**20, more / n, took, left // 1024),
                    flush=True,
                )
                check(
                    "%d of kind %s: vmalloc is given back" % (n, kind),
                    fuzz_netlink.given_back(vmalloc),
                    vmalloc,
                )
        biggest = [figures["%s %d" % (kind, SIZES[-1])] for kind in ("endpoint", "rule", "CIDR")]
        check("each costs something, and less than a page", [0 < one < 4096 for one in biggest], [True] * 3)
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        packets.world_down(saved)
    print("# %d processors" % os.cpu_count())
    print("1..%d" % packets.COUNT)
    print("%d passed, %d failed" % (packets.COUNT - len(packets.FAILED), len(packets.FAILED)))
    print(json.dumps(figures))
    return bool(packets.FAILED)


if __name__ == "__main__":
    sys.exit(main())
