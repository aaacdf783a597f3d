#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Everything at once, for the kernel's own checkers to watch; as packets.py, whose world it builds on, and inside.py's children.

Traffic of both families while rulesets are committed in a loop, with all placements, windows that are confirmed, rolled back and
run out, namespaces that come and go, devices that are put on a guarded bridge and taken off it, frames with tags and wrapped ones,
queue listeners and their killing, a listener that sends packets through the hooks again (NF_REPEAT), traces, dumps; and again and again the module is unloaded and loaded under all that. What is checked here is that it goes on working; what was wrong the kernel says.

    stress.py KO SECONDS     prints its counts as the last line, in JSON
"""

import contextlib
import errno
import glob
import json
import mmap
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import bareports
import inside
import packets
import traces
from contexts import NF_ACCEPT, NF_REPEAT
from packets import (
    ALLOW,
    CONFIRM,
    ENDPOINTS,
    INFO,
    NFQUEUE,
    POSTROUTING,
    REJECT,
    ROLLBACK,
    RULES,
    V4,
    V6,
    WORLD,
    A,
    B,
    C,
    Genl,
    Netfilter,
    Refused,
    Ruleset,
    check,
    known,
    nla,
    run,
    tcp,
    try_udp,
    udp,
)

OPERATIONS = (
    "packets", "commits", "refused commits", "confirms", "roll backs", "windows left to run out", "dumps", "namespaces",
    "listeners killed", "packets repeated", "traces", "stacked devices", "frames", "unloads", "unloads that were refused",
)  # fmt: skip
#: The queue of repeater().
REPEATED = 8
SHARED = mmap.mmap(-1, 8 * len(OPERATIONS) * 32)
WORKERS = []


class Counts:
    """One process's; nobody else writes there."""

    def __init__(self, number):
        self.base = 8 * len(OPERATIONS) * number

    def add(self, what, n=1):
        at = self.base + 8 * OPERATIONS.index(what)
        struct.pack_into("=Q", SHARED, at, struct.unpack_from("=Q", SHARED, at)[0] + n)


def counted():
    found = dict.fromkeys(OPERATIONS, 0)
    for number in range(32):
        for i, what in enumerate(OPERATIONS):
            found[what] += struct.unpack_from("=Q", SHARED, 8 * (len(OPERATIONS) * number + i))[0]
    return found


def worker(fn, *args):
    """A process that does fn again and again until it is ended. While the module is away it tries again."""
    number = len(WORKERS)
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)  # it goes with all it has begun
        random.seed(number * 1000 + os.getpid())
        counts = Counts(number)
        status = 1
        try:
            while True:
                try:
                    fn(counts, *args)
                except Refused as e:
                    if e.number not in (
                        errno.ENOENT,
                        errno.ESTALE,
                        errno.EBUSY,
                        errno.EUSERS,
                        errno.EEXIST,
                        errno.EINVAL,
                        errno.EPROTONOSUPPORT,  # a dump that begins while the module goes
                    ):
                        raise
                    time.sleep(0.1)
        except BaseException as e:
            print("# %s: %r" % (fn.__name__, e), flush=True)
        os._exit(status)
    WORKERS.append((pid, fn.__name__))


def traffic(counts, ns, targets):
    with packets.inside(ns):
        socks = {
            False: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            True: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        }
    for s in socks.values():
        s.setblocking(False)
    began = time.monotonic()
    for i in range(2000):
        address = targets[i % len(targets)]
        with contextlib.suppress(OSError):
            socks[":" in address].sendto(b"x" * (i % 7), (address, 9000 + i % 3))
            counts.add("packets")
        if not i % 50:
            # An emulated processor must have time for others: with none left for RCU's callbacks everything waits for them.
            time.sleep(6 * (time.monotonic() - began))
            began = time.monotonic()
    for s in socks.values():
        s.close()
    packets.try_tcp(ns, targets[0], 8080)


def rulesets():
    base = lambda **kwargs: known(Ruleset(**kwargs))  # noqa: E731
    return (
        lambda: base(defaults=(ALLOW,) * 6),
        lambda: base().rule(A, B, udp(9000)).rule(WORLD, A, tcp(8080)),
        lambda: (
            base(placement=POSTROUTING)
            .rule(A, B, udp(9000))
            .rule(B, A, udp(9001), REJECT)
            .queue(B, A, udp(9000), REPEATED)
        ),
        lambda: base(log=(7, 1)).rule(A, C, udp(9000)).rule(A, B, udp(9000), REJECT, log=True),
        lambda: base(mode=1),
        lambda: (
            base()
            .queue(A, B, udp(9000), 5, 1, True)
            .queue(A, C, udp(9000), 6, 2)
            .queue(B, A, udp(9000), REPEATED)
        ),
        lambda: inside.judged_inside(Ruleset(defaults=(ALLOW,) * 6)),
        lambda: inside.judged_inside(Ruleset().rule(A, B, udp(9000))),
    )


def committer(counts):
    g = Genl()
    made = rulesets()
    for _ in range(20):
        timeout = random.choice((0, 0, 1))
        try:
            random.choice(made)().commit(g, timeout=timeout)
            counts.add("commits")
        except Refused:
            counts.add("refused commits")
            time.sleep(0.05)
            continue
        if timeout:
            how = random.choice((CONFIRM, ROLLBACK, 0))
            if how:
                g.ask(how)
            counts.add({CONFIRM: "confirms", ROLLBACK: "roll backs", 0: "windows left to run out"}[how])
    g.close()


def reader(counts):
    g = Genl()
    for _ in range(10):
        for cmd, flags in ((RULES, 0x301), (ENDPOINTS, 0x301), (INFO, 5)):
            g.ask(cmd, flags=flags)
            counts.add("dumps")
        time.sleep(0.05)
    g.raw(RULES, flags=0x301)  # closed with a dump in flight
    g.close()


def churner(counts, number):
    stop, done, failed = threading.Event(), {}, []
    one = threading.Thread(target=inside.churn, args=(number, stop, done, failed))
    one.start()
    time.sleep(5)
    stop.set()
    one.join()
    counts.add("namespaces", done.get(number, 0))


def listener(counts):
    one = packets.Listener(random.choice((5, 6, 7)))
    time.sleep(random.choice((0.05, 0.5, 2)))
    one.kill()
    counts.add("listeners killed")


def repeater(counts):
    """Sends half of what it gets through the hooks again, from its own system call, which runs them with bottom halves on."""
    n = Netfilter()
    n.send(NFQUEUE | 2, REPEATED, nla(1, struct.pack("!BBH", 1, 0, 0)))
    n.send(NFQUEUE | 2, REPEATED, nla(2, struct.pack("!IB", 0xFFFF, 2)))
    end = time.monotonic() + random.choice((0.5, 5))
    while time.monotonic() < end:
        if not select.select([n.s], [], [], 0.1)[0]:
            continue
        for kind, found in n.messages():
            if kind == NFQUEUE:
                verdict = random.choice((NF_ACCEPT, NF_REPEAT))
                packet = struct.unpack_from("!I", found[1][0])[0]
                n.send(NFQUEUE | 1, REPEATED, nla(2, struct.pack("!II", verdict, packet)), 1)
                counts.add("packets repeated", verdict == NF_REPEAT)
    n.s.close()


def tracer(counts):
    try:
        with traces.Trace(seconds=random.choice((1, 30)), events=random.choice((5, 100000))) as t:
            counts.add("traces")
            time.sleep(random.choice((0.01, 0.3, 1.5)))
            t.state()
    except OSError as e:  # the module's events leave tracefs with it
        if e.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        time.sleep(0.1)


#: What is put on the guarded bridge, one after another; lines for ip -batch, and what takes it off again.
STACKS = (
    (["link add bwts5 link bwt0 type vlan id 5", "link set bwts5 up"], ["link del bwts5"]),
    (
        ["link add bwtsm link bwt0 type macvlan mode bridge", "link set bwtsm up", "addr add 10.201.0.9/32 dev bwtsm"],
        ["link del bwtsm"],
    ),
    (
        ["link add bwtsv type vrf table 77", "link set bwtsv up", "link set bwt0 master bwtsv"],
        ["link set bwt0 nomaster", "link del bwtsv"],
    ),
    (
        ["link add bwts5 link bwt0 type vlan id 5", "link add bwtsb type bridge", "link set bwts5 master bwtsb",
         "link set bwtsb up", "link set bwts5 up"],
        ["link del bwtsb", "link del bwts5"],
    ),
    (["link set bwt0 type bridge vlan_filtering 1"], ["link set bwt0 type bridge vlan_filtering 0"]),
    (["link set bwt-b nomaster"], ["link set bwt-b master bwt0"]),
)  # fmt: skip


def stacker(counts):
    there, back = random.choice(STACKS)
    packets.batch(there)
    time.sleep(random.choice((0, 0.05, 0.5)))
    packets.batch(back)
    counts.add("stacked devices")


def frames(counts):
    """Of every kind that a bridge passes, to a neighbour, to the bridge, to all and to a reserved group."""
    with packets.inside("a"):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    own = s.getsockname()[4]
    to_host = bareports.udp4(V4["a"], bareports.HOST4, b"x")
    bodies = [
        b"\x08\0" + to_host,
        b"\x08\0" + bareports.udp4(V4["a"], V4["b"], b"x"),
        b"\x86\xdd" + bytes(40),
    ]
    heads = [
        b"",
        b"\x81\0\0\0",
        b"\x81\0\0\1",
        b"\x81\0\0\5",
        b"\x88\xa8\0\5\x81\0\0\5",
        b"\x88\x64\x11\0\0\1\0\x16\0\x21",
    ]
    macs = [bytes.fromhex(one) for one in ("ffffffffffff", "0180c2000003", "020000000099")]
    for _ in range(200):
        with contextlib.suppress(OSError):
            frame = random.choice(macs) + own + random.choice(heads) + random.choice(bodies)
            s.send(frame[: random.choice((len(frame), 60, 20))])
            counts.add("frames")
        time.sleep(0.005)
    s.close()


def reload(ko, counts):
    """Under everything else; while a request is being answered the module cannot go, so more than once."""
    for _ in range(200):
        done = subprocess.run(["rmmod", "bridgewarden"], check=False, stderr=subprocess.DEVNULL)
        if not done.returncode:
            break
        counts.add("unloads that were refused")
        time.sleep(0.02)
    else:
        raise RuntimeError("the module could not be unloaded")
    counts.add("unloads")
    time.sleep(random.choice((0, 0.2)))
    run("insmod", ko, *random.choice(([], ["closed=bwt0,bwt1"])))


def main():
    ko, seconds = sys.argv[1], float(sys.argv[2])
    saved = packets.world_up()
    inside.children_up()
    status = 1
    try:
        for ns in ("a", "b", "c", "w", *inside.CHILDREN, *inside.ROUTERS):
            for port in (8080, 9000):
                packets.serve(ns, port)
        until = time.monotonic() + seconds
        for ns, peers in (("a", "bcw"), ("b", "ac"), ("w", "a"), ("m", "nr"), ("i", "js")):
            worker(traffic, ns, [V[peer] for peer in peers for V in (V4, V6)])
        for fn, *args in (
            (committer,),
            (committer,),
            (reader,),
            (churner, 0),
            (churner, 1),
            (listener,),
            (repeater,),
            (tracer,),
            (stacker,),
            (frames,),
        ):
            worker(fn, *args)
        counts = Counts(31)
        said = time.monotonic()
        while time.monotonic() < until:
            time.sleep(min(random.choice((3, 8, 15)), max(0, until - time.monotonic())))
            reload(ko, counts)
            for pid, name in WORKERS:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    raise RuntimeError("%s ended" % name)
            if time.monotonic() > said + 60:
                said = time.monotonic()
                print("# %s" % json.dumps(counted()), flush=True)
        status = 0
    finally:
        for pid, _ in WORKERS:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid, _ in WORKERS:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        for left in glob.glob(traces.TRACEFS + "/instances/bwt-*"):
            os.rmdir(left)
        for _, back in STACKS:
            packets.batch_if_there(back)
        time.sleep(3)  # windows run out, namespaces end
        g = Genl()
        with contextlib.suppress(Refused):
            g.ask(ROLLBACK)
        known(Ruleset().rule(A, B, udp(9000))).commit(g)
        check(
            "it still judges", (try_udp("a", V4["b"], 9000), try_udp("b", V4["a"], 9000)), ("open", "silence")
        )
        for what, n in counted().items():
            check(what, n > 0 or what == "unloads that were refused", True)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
        inside.children_down()
        packets.world_down(saved)
    print("1..%d" % packets.COUNT)
    print("%d passed, %d failed" % (packets.COUNT - len(packets.FAILED), len(packets.FAILED)))
    print(json.dumps(counted()))
    return status or bool(packets.FAILED)


if __name__ == "__main__":
    sys.exit(main())
