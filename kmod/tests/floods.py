#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Floods of different priority on one processor; as packets.py, whose world it builds on.

Under PREEMPT_RT a task with bottom halves off can be preempted, from Linux 6.18 on by another task that also has them off. So the hooks interrupt
each other on one processor. These floods make that happen as often as possible. All of it runs on processor 0, by SCHED_FIFO:

    a, bridged to b        sender 50, NAPI thread of bwt-a 60
    c, routed to b         sender 30, NAPI thread of bwt-c 40
    the host to a, twice   45 and 35: the hook runs in the sender itself

The higher ones sleep for random times and so preempt the lower ones anywhere. Each flood sends packets that are permitted, denied by a rule, and
(a and c) spoofed: with the other's address, to ports of the other's permitted flows. Both use the same counters. Sockets with a filter
count what arrives; they count what they have no room for, too.

    floods.py --seconds N     the last line: packets in JSON
"""

import argparse
import ctypes
import fcntl
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time

import packets
from bareports import datagram, ip4, ip6, link_mac, mac, with_checksum
from packets import (
    ALLOW,
    DENY,
    HOST,
    RULE,
    SPOOFED,
    UDP,
    V4,
    V6,
    A,
    B,
    C,
    Genl,
    Ruleset,
    batch,
    check,
    inside,
    known,
    settled,
)

INTER_CONTAINER, FROM_HOST = 2, 4
#: Destination ports of what is permitted and of what is denied. More flows than the memo has entries of a processor.
PERMITTED, REFUSED = range(20000, 20600), range(21000, 21600)
#: Source port of spoofed packets.
SPOOF = 7777
#: Kinds of packets, in the order in which floods report their numbers; ERRORS are calls that failed unexpectedly.
GOOD, BAD, SPOOFS, ERRORS = range(4)
IPV4, IPV6, ALL = 0x0800, 0x86DD, 0x0003
SOL_PACKET, PACKET_STATISTICS, PACKET_IGNORE_OUTGOING, SO_ATTACH_FILTER = 263, 6, 23, 26
SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C
#: Priorities of a sender and of the NAPI thread that its packets run in.
FIFO = {"a": (50, 60), "c": (30, 40)}
HOSTS = (45, 35)
BACKLOG = 70
#: IPv4's and IPv6's offsets in a frame: the protocol, the UDP header.
FAMILIES = ((IPV4, 23, 34), (IPV6, 20, 54))
QUIET = """
table ip x { chain c { type filter hook prerouting priority -400;
  udp dport 20000-21599 drop; }
}
table ip6 x { chain c { type filter hook prerouting priority -400;
  udp dport 20000-21599 drop; }
}"""


def fifo(pid, priority, bound=False):
    """Onto processor 0, unless it is bound there by itself."""
    if not bound:
        os.sched_setaffinity(pid, {0})
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(priority))


def threads(begin):
    """Kernel threads whose name begins like that."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/comm" % pid) as f:
                if f.read().startswith(begin):
                    found.append(int(pid))
        except OSError:
            continue
    return found


def napi(port, priority):
    """Gives a veth a NAPI thread, so that its packets run through the hooks by that thread's priority. How many threads it has."""
    with socket.socket() as s:
        value = ctypes.create_string_buffer(struct.pack("=II", ETHTOOL_SGRO, 1))
        fcntl.ioctl(s, SIOCETHTOOL, struct.pack("16sP", port.encode(), ctypes.addressof(value)))
    try:
        with open("/sys/class/net/%s/threaded" % port, "w") as f:
            f.write("1")
    except OSError:
        return 0
    found = threads("napi/" + port)
    for pid in found:
        fifo(pid, priority)
    return len(found)


def udp_packet(source, to, sport, port):
    body = datagram(port, b"flood", sport)
    if ":" in source:
        return struct.pack("!H", IPV6) + ip6(source, to, UDP, with_checksum(source, to, UDP, body, 6))
    return struct.pack("!H", IPV4) + ip4(source, to, UDP, body)


def frames(ns, gateway):
    """[(kind, frame)] in a random order: half permitted, a quarter each denied and spoofed."""
    other = "c" if ns == "a" else "a"
    head = mac(gateway) + own_mac(ns)
    found = []
    for V in (V4, V6):
        for good, bad in zip(PERMITTED, REFUSED):
            found += [
                (GOOD, head + udp_packet(V[ns], V["b"], 5555, good)),
                (GOOD, head + udp_packet(V[ns], V["b"], 5555, good)),
                (BAD, head + udp_packet(V[ns], V["b"], 5555, bad)),
                (SPOOFS, head + udp_packet(V[other], V["b"], SPOOF, good)),
            ]
    random.shuffle(found)
    return found


def own_mac(ns):
    with inside(ns), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as s:
        s.bind(("eth0", 0))
        return s.getsockname()[4]


def counting(ns, evil):
    """A socket that counts what arrives: with evil what must not (denied ports, spoofed), else what may. See statistics()."""
    with inside(ns):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    # Each line: opcode, value, labels to jump to; see linux/filter.h.
    code = []
    for kind, proto, at in FAMILIES:
        code += [
            (0x28, 12, None, None),
            (0x15, kind, None, "next"),
            (0x30, proto, None, None),
            (0x15, UDP, None, "no"),
            (0x28, at, None, None),
            (0x15, SPOOF, "evil", None),
            (0x28, at + 2, None, None),
            (0x35, REFUSED[-1] + 1, "no", None),
            (0x35, REFUSED[0], "evil", None),
            (0x35, PERMITTED[0], "good", "no"),
        ]
    labels = {"evil": len(code), "good": len(code) + 1, "no": len(code) + 2}
    code += [
        (0x06, 96 if evil else 0, None, None),
        (0x06, 0 if evil else 96, None, None),
        (0x06, 0, None, None),
    ]

    def jump(n, label):
        if label is None:
            return 0
        return (10 if label == "next" and n < 10 else labels.get(label, labels["no"])) - n - 1

    program = b"".join(
        struct.pack("=HBBI", opcode, jump(n, yes), jump(n, no), value)
        for n, (opcode, value, yes, no) in enumerate(code)
    )
    buffer = ctypes.create_string_buffer(program)
    s.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HL", len(code), ctypes.addressof(buffer)))
    s.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    s.bind(("eth0", ALL))
    arrived(s)
    return s


def arrived(s):
    """How many since the last call, those included that the socket had no room for."""
    return struct.unpack("=II", s.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[0]


def dropped(ns):
    """Packets that a veth had no room for, on their way to the host."""
    with inside(ns), open("/proc/thread-self/net/dev") as f:
        (line,) = [line for line in f if line.strip().startswith("eth0:")]
    return int(line.split(":")[1].split()[11])


def flooding(priority, seconds, send):
    """A process that calls send() in bursts until it is told to end; its pid and where it reports the numbers of packets of each kind."""
    there, here = os.pipe()
    pid = os.fork()
    if pid:
        os.close(here)
        return pid, there
    try:
        fifo(0, priority)
        random.seed(priority)
        sent = [0, 0, 0, 0]
        end = time.monotonic() + seconds
        now = time.monotonic()
        while now < end:
            began = now
            for _ in range(random.randint(1, 30)):
                sent[send()] += 1
            now = time.monotonic()
            # The others have to have their turn, RCU's threads among them.
            time.sleep((now - began) * random.uniform(0.5, 4))
            now = time.monotonic()
        os.write(here, struct.pack("=4Q", *sent))
        os._exit(0)
    except BaseException as error:
        print("# flood of priority %d: %r" % (priority, error), flush=True)
        os._exit(1)


def from_container(ns, gateway):
    with inside(ns):
        s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    made, at = frames(ns, gateway), [0]

    def send():
        kind, frame = made[at[0]]
        at[0] = (at[0] + 1) % len(made)
        try:
            s.send(frame)
        except OSError:
            return ERRORS
        return kind

    return send


def from_host():
    socks = {
        V: socket.socket(family, socket.SOCK_DGRAM)
        for V, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
    }

    def send():
        kind = random.choice((GOOD, BAD))
        V = random.choice((4, 6))
        try:
            socks[V].sendto(
                b"flood", ((V4 if V == 4 else V6)["a"], random.choice(PERMITTED if kind == GOOD else REFUSED))
            )
        except PermissionError:
            return BAD if kind == BAD else ERRORS
        except OSError:
            return ERRORS
        return kind

    return send


def prepare():
    """What a test waits for otherwise: neighbours for good, a bridge that does not forget, silent receivers. Numbers of NAPI threads."""
    lines = ["link set bwt0 type bridge ageing_time 360000"]
    for ns, link in (("a", "bwt0"), ("b", "bwt0")):
        address = own_mac(ns).hex(":")
        lines += [
            "neigh replace %s lladdr %s dev %s nud permanent" % (V[ns], address, link) for V in (V4, V6)
        ]
    batch(lines)
    for ns in ("a", "b"):
        with inside(ns):
            subprocess.run(["nft", "-f", "-"], input=QUIET.encode(), check=True)
    for pid in threads("backlog_napi/0"):
        fifo(pid, BACKLOG, bound=True)
    return [napi("bwt-" + ns, high) for ns, (_, high) in FIFO.items()]


def ruleset(mode=0):
    wanted = known(Ruleset(defaults=(DENY, DENY, ALLOW, DENY, ALLOW, ALLOW), mode=mode))
    refused = (UDP << 16 | REFUSED[0], UDP << 16 | REFUSED[-1])
    for frm, to in ((A, B), (C, B), (HOST, A)):
        wanted.rule(frm, to, refused, DENY)
    return wanted


def run_floods(g, seconds):
    """(what was sent, by flood and kind; what the module counted; what b and a had; packets a veth dropped)."""
    socks = {(ns, evil): counting(ns, evil) for ns in "ab" for evil in (False, True)}
    lost = [dropped("a"), dropped("c")]
    before = settled(g.counters)
    pids = [
        flooding(FIFO["a"][0], seconds, from_container("a", own_mac("b").hex(":"))),
        flooding(FIFO["c"][0], seconds, from_container("c", link_mac("bwt1"))),
        *(flooding(priority, seconds, from_host()) for priority in HOSTS),
    ]
    sent = []
    try:
        for pid, pipe in pids:
            data = os.read(pipe, 32)
            os.close(pipe)
            sent.append(struct.unpack("=4Q", data) if len(data) == 32 else (0, 0, 0, 1))
            os.waitpid(pid, 0)
    except BaseException:
        for pid, _ in pids:
            os.kill(pid, signal.SIGKILL)
        raise
    after = settled(g.counters)
    counted = {index: n - before.get(index, 0) for index, n in after.items()}
    had = {key: arrived(s) for key, s in socks.items()}
    for s in socks.values():
        s.close()
    return sent, counted, had, [dropped("a") - lost[0], dropped("c") - lost[1]]


def test_probe(g):
    """In audit mode everything arrives, what is denied and spoofed, too."""
    ruleset(mode=1).commit(g)
    sent, _, had, _ = run_floods(g, 1)
    check(
        "in audit mode no call fails, and b and a have what is denied or spoofed",
        ([one[ERRORS] for one in sent], had["b", True] > 0, had["a", True] > 0),
        ([0] * 4, True, True),
    )


def test_floods(g, seconds):
    ruleset().commit(g)
    sent, counted, had, lost = run_floods(g, seconds)
    a, c, *hosts = sent
    total = sum(sum(one) for one in sent)
    check("no call fails, no veth drops", ([one[ERRORS] for one in sent], lost), ([0] * 4, [0, 0]))
    check("each flood sends", all(min(one[GOOD], one[BAD]) > 0 for one in sent), True)
    check("what is permitted between containers is counted", counted[INTER_CONTAINER], a[GOOD] + c[GOOD])
    check("what is spoofed is counted", counted[SPOOFED], a[SPOOFS] + c[SPOOFS])
    check("what a rule denies is counted", (counted[RULE], counted[RULE + 1]), (a[BAD], c[BAD]))
    check("what is permitted from the host is counted", counted[FROM_HOST], sum(one[GOOD] for one in hosts))
    check("what a rule denies from the host is counted", counted[RULE + 2], sum(one[BAD] for one in hosts))
    check("nothing denied or spoofed arrives", (had["b", True], had["a", True]), (0, 0))
    print("# sent %s, arrived %s" % (sent, had))
    check(
        "what is permitted arrives",
        (had["b", False], had["a", False]),
        (a[GOOD] + c[GOOD], sum(one[GOOD] for one in hosts)),
    )
    print(json.dumps({"packets": total, "seconds": seconds}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    args = parser.parse_args()
    os.sched_setaffinity(0, {1})
    saved = packets.world_up()
    try:
        g = Genl()
        print("# %s NAPI threads" % prepare())
        print("# test_probe", flush=True)
        test_probe(g)
        print("# test_floods", flush=True)
        test_floods(g, args.seconds)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
    finally:
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
