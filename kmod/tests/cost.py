#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What a trace costs each forwarded packet: off, on for others, on for it; run as root in a throw-away VM.

pktgen feeds one UDP flow into the stack at bwx0, routed to bwx1, which is guarded;
both are dummies, so that all of ip_rcv .. FORWARD .. transmit is in the figure, and
pktgen's own share in every one of them. Nanoseconds, the least of several runs: on
an emulated machine they mean little by themselves, and with QEMU's -icount shift=0
they are instructions. BW_OTHER_KO is another build of the module to compare with.
"""

import os
import re
import subprocess
import sys
import time

from packets import ALLOW, Genl, Ruleset, run
from traces import EVENTS, Trace, term

COUNT = int(os.environ.get("BW_COUNT", "20000"))
RUNS = int(os.environ.get("BW_RUNS", "7"))
PORT = 9


def write(path, *lines):
    for line in lines:
        with open(path, "w") as f:
            f.write(line + "\n")


def world():
    for name, address in (("bwx0", "10.210.0.1/24"), ("bwx1", "10.211.0.1/24")):
        subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)
        run("ip", "link", "add", name, "type", "dummy")
        run("ip", "addr", "add", address, "dev", name)
        run("ip", "link", "set", name, "up")
    run(
        "ip",
        "neigh",
        "replace",
        "10.211.0.2",
        "lladdr",
        "02:00:00:00:00:02",
        "dev",
        "bwx1",
        "nud",
        "permanent",
    )
    write("/proc/sys/net/ipv4/ip_forward", "1")
    subprocess.run(["iptables", "-I", "FORWARD", "-i", "bwx0", "-j", "ACCEPT"], check=False)
    run("modprobe", "pktgen")
    with open("/sys/class/net/bwx0/address") as f:
        mac = f.read().strip()
    write("/proc/net/pktgen/kpktgend_0", "rem_device_all", "add_device bwx0")
    write(
        "/proc/net/pktgen/bwx0",
        "xmit_mode netif_receive",
        "count %d" % COUNT,
        "clone_skb 0",
        "pkt_size 60",
        "delay 0",
        "src_min 10.210.0.2",
        "src_max 10.210.0.2",
        "dst 10.211.0.2",
        "dst_mac " + mac,
        "udp_src_min %d" % PORT,
        "udp_src_max %d" % PORT,
        "udp_dst_min %d" % PORT,
        "udp_dst_max %d" % PORT,
    )


def world_down():
    write("/proc/net/pktgen/kpktgend_0", "rem_device_all")
    subprocess.run(["iptables", "-D", "FORWARD", "-i", "bwx0", "-j", "ACCEPT"], check=False)
    for name in ("bwx0", "bwx1"):
        run("ip", "link", "del", name)


def passed():
    with open("/sys/class/net/bwx1/statistics/tx_packets") as f:
        return int(f.read())


def one():
    before = passed()
    write("/proc/net/pktgen/pgctrl", "start")
    with open("/proc/net/pktgen/bwx0") as f:
        usec = int(re.search(r"Result: OK: (\d+)\(", f.read()).group(1))
    if passed() - before != COUNT:
        sys.exit(
            "%d of %d packets came through: the figure would be of something else"
            % (passed() - before, COUNT)
        )
    return usec * 1000.0 / COUNT


def measure():
    one()
    return min(one() for _ in range(RUNS))


def judged():
    """The flow is judged, and allowed by the default."""
    Ruleset(guards=("bwx1",), defaults=(ALLOW,) * 6).commit(Genl())


def load(module):
    run("rmmod", "bridgewarden")
    run("insmod", module)
    judged()


def main():
    figures = []

    def note(what, figure, more=""):
        figures.append(figure)
        print("%8.1f ns a packet  %s%s" % (figure, what, more), flush=True)

    world()
    try:
        if "BW_OTHER_KO" in os.environ:
            load(os.environ["BW_OTHER_KO"])
            note("another build of the module", measure())
            load(os.environ["BW_KO"])
        judged()
        note("no trace runs", measure())
        with Trace(term(port=PORT + 1), rate=1000000, events=10000000):
            note("a trace of something else", measure())
        with Trace(term(port=PORT), rate=1000000, events=10000000) as t:
            figure = measure()
            state = t.state()
            kept = lost = 0
            for cpu in os.listdir(t.dir + "/per_cpu"):
                with open("%s/per_cpu/%s/stats" % (t.dir, cpu)) as f:
                    stats = dict(re.findall(r"^([a-z ]+): (\d+)$", f.read(), re.M))
                kept += int(stats["entries"])
                lost += int(stats["overrun"]) + int(stats["dropped events"])
            note(
                "a trace of this",
                figure,
                "  (%d events: %d in the buffer, %d overwritten and counted)"
                % (state["reported"], kept, lost),
            )
            if kept + lost != state["reported"]:
                sys.exit("%d events are unaccounted for" % (state["reported"] - kept - lost))
            if state["state"] == EVENTS:
                sys.exit("the trace ended on the way: lower BW_COUNT")
        time.sleep(1)
        note("no trace runs any more", measure())
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        world_down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
