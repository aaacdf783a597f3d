#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Traces by real packets; as packets.py, whose world it builds on.

What the events say is compared with what a packet must cross, cell by cell, and
with nft counters in the same namespaces. BW_KO is the module's file: with it,
the module is unloaded while a trace runs, and loaded again.
"""

import contextlib
import glob
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import packets
from memory import Many
from packets import (
    ALLOW,
    DENY,
    INFO,
    TCP,
    UDP,
    V4,
    V6,
    A,
    B,
    Genl,
    Ruleset,
    check,
    connect,
    echo,
    ifindex,
    inside,
    known,
    nla,
    refusal,
    run,
    serve,
    tcp,
    try_tcp,
    try_udp,
)

T_BEGIN, T_GET, T_END, H_GET = range(12, 16)
(T_ID, T_TERM, T_SECONDS, T_EVENTS, T_RATE, T_REPORTED, T_WITHHELD, T_STATE, T_BLIND, N_FD, HOOK, T_COUNT) = (
    range(64, 76)
)
RUNNING, TIME, EVENTS, ENDED = range(4)
TRACEFS = "/sys/kernel/tracing"
PLACES = ("PRE_ROUTING", "LOCAL_IN", "FORWARD", "LOCAL_OUT", "POST_ROUTING")
LINE = re.compile(r"\s(\d+\.\d+): (bw_\w+): (.*)$")
HOST = os.stat("/proc/self/ns/net").st_ino


def u32(number):
    return struct.pack("=I", number)


def term(proto=0, port=0, one="", other="", link=0, netns=0, flags=0):
    packed, family = [], 0
    for text in (one, other):
        address, _, length = text.partition("/")
        if text:
            family = socket.AF_INET6 if ":" in text else socket.AF_INET
            raw = socket.inet_pton(family, address)
            packed.append((int(length or 8 * len(raw)), raw.ljust(16, b"\0")))
        else:
            packed.append((0, bytes(16)))
    (n, a), (m, b) = packed
    return struct.pack("=BBHBBHII16s16s", family, proto, port, n, m, flags, link, netns, a, b)


class Trace:
    """A trace with its own tracefs instance."""

    def __init__(self, *terms, seconds=60, events=100000, rate=100000, listen=True):
        self.g = Genl()
        payload = nla(T_SECONDS, u32(seconds)) + nla(T_EVENTS, u32(events)) + nla(T_RATE, u32(rate))
        if terms:
            payload += nla(T_TERM, b"".join(terms))
        self.id = struct.unpack("=I", self.g.ask(T_BEGIN, payload)[0][T_ID][0])[0]
        self.dir = "%s/instances/bwt-%d" % (TRACEFS, self.id)
        os.mkdir(self.dir)
        try:
            self.put("events/bridgewarden/filter", "trace == %d" % self.id)
            self.put("trace_clock", "mono")
            self.put("trace_options", "norecord-cmd")  # no probes in the scheduler
            if listen:
                self.put("events/bridgewarden/enable", "1")
        except OSError:
            os.rmdir(self.dir)
            raise

    def put(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def state(self, command=T_GET):
        reply = self.g.ask(command)[0]
        return {
            "state": reply[T_STATE][0][0],
            "reported": struct.unpack("=Q", reply[T_REPORTED][0])[0],
            "withheld": struct.unpack("=Q", reply[T_WITHHELD][0])[0],
            "blind": struct.unpack("=I", reply[T_BLIND][0])[0],
        }

    def settled(self):
        """Its state, once nothing is reported any more."""
        return packets.settled(self.state)

    def events(self):
        found = []
        with open(self.dir + "/trace") as f:
            for line in f:
                match = LINE.search(line)
                if match:
                    body, _, rule = match.group(3).partition(" rule=")
                    event = dict(word.split("=", 1) for word in body.split())
                    event.update(event=match.group(2), rule=rule)
                    found.append(event)
        return found

    def close(self):
        self.g.close()
        with contextlib.suppress(OSError):
            self.put("events/bridgewarden/enable", "0")
        os.rmdir(self.dir)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def netns(name):
    return os.stat("/run/netns/bwt-" + name).st_ino if name else HOST


def hooks(ns=None):
    """[(family, hook, priority, who, own)] of a namespace."""
    payload = b""
    if ns:
        fd = os.open("/run/netns/bwt-" + ns, os.O_RDONLY)
        payload = nla(N_FD, u32(fd))
    rows = []
    for raw in Genl().ask(H_GET, payload)[0].get(HOOK, []):
        family, hook, own, priority, who = struct.unpack("=BBHi88s", raw)
        rows.append((family, PLACES[hook], priority, who.split(b"\0")[0].decode(), own))
    if ns:
        os.close(fd)
    return rows


def ours(ns=None):
    return [row for row in hooks(ns) if row[3].startswith("bw_trace_hook")]


def gone():
    """Whether our hooks leave every namespace in time."""
    return packets.until(lambda: not any(ours(ns) for ns in (None, "a", "b", "c", "w")))


NAMES = {}


def name_of(event):
    if not NAMES:
        NAMES.update({netns(ns): ns or "host" for ns in (None, "a", "b", "c", "w")})
    return NAMES.get(int(event["netns"]), event["netns"])


def address(text):
    return text[7:] if text.startswith("::ffff:") else text


def table(events, tuples=True):
    """The rows of PATHS.md: what the hooks at the first priority saw."""
    rows = []
    for e in events:
        if e["event"] != "bw_crossing" or e["last"] != "0":
            continue
        dev, into, out = ("-" if e[k] == "0:" else e[k].split(":")[1] for k in ("dev", "in", "out"))
        row = (name_of(e), e["hook"], dev, into, out)
        rows.append((*row, address(e["src"]), address(e["dst"]), int(e["dport"])) if tuples else row)
    return rows


def of_packet(events, flags):
    """The crossings of the first packet with these TCP flags."""
    first = next(e for e in events if e.get("flags") == flags)
    return [e for e in events if e["skb"] == first["skb"] and e["print"] == first["print"]]


SYN, SYNACK = "02", "12"


EXCEPT = 1


def test_except(g):
    """A term that leaves out, alone and beside one that asks for more; one connection, in every namespace, and its twin."""
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    for where, peer in ((V4, "b"), (V6, "b"), (V4, "w"), (V6, "w")):
        one, other = where["a"], where[peer]
        with connect("a", other, 8080) as left_out, connect("a", other, 8080) as shown:
            ports = [s.getsockname()[1] for s in (left_out, shown)]
            terms = {
                "alone": (term(TCP, ports[0], one, other, flags=EXCEPT),),
                "beside another": (term(TCP, one=one), term(TCP, ports[0], one, other, flags=EXCEPT)),
                "without": (term(TCP, one=one),),
            }
            for what, given in terms.items():
                with Trace(*given) as trace:
                    talked = echo(left_out) and echo(shown)
                    trace.settled()
                    events = [e for e in trace.events() if e["event"] == "bw_crossing"]
                seen = [
                    {
                        name_of(e)
                        for e in events
                        if e["proto"] == str(TCP) and str(port) in (e["sport"], e["dport"])
                    }
                    for port in ports
                ]
                everywhere = {"host", "a", peer}
                check(
                    "%s to %s, %s: the one, the other" % (one, other, what),
                    (talked, *seen),
                    (True, everywhere if what == "without" else set(), everywhere),
                )
    check("an unknown flag", refusal(Trace, term(TCP, flags=2)), "EINVAL")
    asked = term(TCP, 8080)
    for what, given, told in (
        ("verdicts are told", (asked,), {"bw_crossing", "bw_verdict"}),
        ("not of what is left out", (asked, term(TCP, 8080, V4["b"], flags=EXCEPT)), set()),
    ):
        with Trace(*given) as trace:
            check("open: " + what, try_tcp("b", V4["a"], 8080), "open")
            trace.settled()
            check(what, {e["event"] for e in trace.events()}, told)
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)


def test_off(g):
    rows = hooks()
    check("off: no hook of a trace anywhere", [ours(ns) for ns in (None, "a")], [[], []])
    engine = [(f, h) for f, h, _, who, own in rows if own]
    check("the engine's own hooks are told, as ours", len(engine), 6)
    conntrack = [r for r in rows if "ipv4_conntrack_in" in r[3]]
    check(
        "others by function, module and priority",
        conntrack[0][:4],
        (2, "PRE_ROUTING", -200, packets.symbol("ipv4_conntrack_in", "nf_conntrack")),
    )
    bridged = packets.symbol("br_nf_pre_routing", "br_netfilter")
    check("a bridge's hooks too", any(r[0] == 7 and r[3] == bridged for r in rows), True)
    ordered = {}
    for family, hook, priority, *_ in rows:
        ordered.setdefault((family, hook), []).append(priority)
    check("in the order in which they run", all(v == sorted(v) for v in ordered.values()), True)


def test_hooks(g):
    with Trace(term(port=1)):
        for ns in (None, "a"):
            rows = ours(ns)
            want = sorted((f, h, p) for f in (2, 10) for h in PLACES for p in (-(1 << 31), (1 << 31) - 1))
            check(
                "on: ours are first and last at all places of " + (ns or "the host"),
                sorted(r[:3] for r in rows),
                want,
            )
        info = g.ask(INFO)[0]
        check("the engine still counts as first", info[packets.A_FIRST], info[packets.A_EXPECTED])
        check("nobody is told to be ahead of it", info.get(packets.A_AHEAD), None)
        check("the trace is told of", info[T_COUNT][0], u32(1))
        run("ip", "netns", "add", "bwt-n")
        check("a namespace born meanwhile has them", len(ours("n")), 20)
        run("ip", "netns", "del", "bwt-n")
    check("the trace is closed: they are gone", gone(), True)
    check("and not told of", g.ask(INFO)[0][T_COUNT][0], u32(0))


def published(ns, addr, port, inner, dev4):
    """Table A for a packet from w to a through the host's address."""
    return [
        ("host", "PRE_ROUTING", "bwt-w", "bwt-w", "-", V[ns], addr, 18080),
        ("host", "FORWARD", "bwt-w", "bwt-w", "bwt0", V[ns], inner, port),
        ("host", "POST_ROUTING", "bwt0", (FILLED and "bwt-w") or "-", "bwt0", V[ns], inner, port),
        ("a", "PRE_ROUTING", "eth0", "eth0", "-", V[ns], inner, port),
        ("a", "LOCAL_IN", "eth0", "eth0", "-", V[ns], inner, port),
    ]


V, FILLED = {}, True


def test_published(g):
    for family, v, host in ((4, V4, "10.203.0.1"), (6, V6, "fd00:203::1")):
        V.update(v)
        with Trace(term(TCP, 18080)) as t:
            check("IPv%d: published port is open" % family, try_tcp("w", host, 18080), "open")
            t.settled()
            events = t.events()
        syn = table(of_packet(events, SYN))
        check(
            "IPv%d: client" % family,
            syn[:2],
            [
                ("w", "LOCAL_OUT", "-", "-", "eth0", v["w"], host, 18080),
                ("w", "POST_ROUTING", "eth0", "-", "eth0", v["w"], host, 18080),
            ],
        )
        check(
            "IPv%d: outside to a published port" % family, syn[2:], published("w", host, 8080, v["a"], None)
        )
        port = int(of_packet(events, SYN)[0]["sport"])
        reply = of_packet(events, SYNACK)
        check(
            "IPv%d: the answer" % family,
            table(reply),
            [
                ("a", "LOCAL_OUT", "-", "-", "eth0", v["a"], v["w"], port),
                ("a", "POST_ROUTING", "eth0", "-", "eth0", v["a"], v["w"], port),
                ("host", "PRE_ROUTING", "bwt0", "bwt0", "-", v["a"], v["w"], port),
                ("host", "FORWARD", "bwt0", "bwt0", "bwt-w", v["a"], v["w"], port),
                ("host", "POST_ROUTING", "bwt-w", "bwt0", "bwt-w", v["a"], v["w"], port),
                ("w", "PRE_ROUTING", "eth0", "eth0", "-", host, v["w"], port),
                ("w", "LOCAL_IN", "eth0", "eth0", "-", host, v["w"], port),
            ],
        )
        pre = [e for e in of_packet(events, SYN) if name_of(e) == "host" and e["hook"] == "PRE_ROUTING"]
        check(
            "IPv%d: the DNAT happens within PRE_ROUTING" % family,
            [address(e["dst"]) for e in pre],
            [host, v["a"]],
        )
        check("IPv%d: conntrack" % family, [e["ct"] for e in pre], ["none", "new"])
        ids = {e["ctid"] for e in events if name_of(e) == "host" and e["ctid"] != "0"}
        check("IPv%d: one connection on the host" % family, len(ids), 1)
        check(
            "IPv%d: no conntrack is switched on inside a" % family,
            {e["ct"] for e in events if name_of(e) == "a"},
            {"none"},
        )


def same_bridge(value):
    for name in ("iptables", "ip6tables"):
        with open("/proc/sys/net/bridge/bridge-nf-call-" + name, "w") as f:
            f.write(value)


def test_same_bridge(g):
    try:
        for value in "01":
            same_bridge(value)
            for family, v in ((4, V4), (6, V6)):
                with Trace(term(TCP, 8080, v["a"], v["b"])) as t:
                    check("setting %s, IPv%d: open" % (value, family), try_tcp("b", v["a"], 8080), "open")
                    t.settled()
                    events = t.events()
                for what, flags, one, other in (("there", SYN, "b", "a"), ("back", SYNACK, "a", "b")):
                    want = [
                        (one, "LOCAL_OUT", "-", "-", "eth0"),
                        (one, "POST_ROUTING", "eth0", "-", "eth0"),
                        ("host", "PRE_ROUTING", "bwt0", "bwt0", "-"),
                        ("host", "FORWARD", "bwt-" + other, "bwt0", "bwt0"),
                        ("host", "POST_ROUTING", "bwt-" + other, "-", "bwt0"),
                        (other, "PRE_ROUTING", "eth0", "eth0", "-"),
                        (other, "LOCAL_IN", "eth0", "eth0", "-"),
                    ]
                    if value == "0":
                        want = [row for row in want if row[0] != "host"]
                    rows = of_packet(events, flags)
                    check("setting %s, IPv%d: %s" % (value, family, what), table(rows, False), want)
                    bridged = [(e["physin"], e["physout"]) for e in rows if e["hook"] == "FORWARD"]
                    ports = (str(ifindex("bwt-" + one)), str(ifindex("bwt-" + other)))
                    check("the bridge's ports", bridged, [ports] * 2 if value == "1" else [])
    finally:
        same_bridge("1")


COUNTERS = """table inet bwc {
%s
}"""
CHAIN = "chain c%d { type filter hook %s priority %d; meta l4proto udp udp dport 9000 counter; meta l4proto udp udp sport 9000 counter; }"
NFT_HOOKS = {
    "PRE_ROUTING": "prerouting",
    "LOCAL_IN": "input",
    "FORWARD": "forward",
    "LOCAL_OUT": "output",
    "POST_ROUTING": "postrouting",
}


def test_witness(g):
    """nft counts the same packets at the same hooks of the same namespaces."""
    chains = "\n".join(CHAIN % (i, NFT_HOOKS[place], -500) for i, place in enumerate(PLACES))
    for ns in (None, "a", "c"):
        with inside(ns):
            subprocess.run(["nft", "-f", "-"], input=(COUNTERS % chains).encode(), check=True)
    with Trace(term(UDP, 9000)) as t:
        for _ in range(20):
            try_udp("c", V4["a"], 9000)
            try_udp("c", V6["a"], 9000)
        state = t.settled()
        events = t.events()
    got, want = {}, {}
    for ns in (None, "a", "c"):
        with inside(ns):
            raw = subprocess.run(
                ["nft", "-j", "list", "table", "inet", "bwc"], stdout=subprocess.PIPE, check=True
            ).stdout
            run("nft", "delete", "table", "inet", "bwc")
        for item in json.loads(raw)["nftables"]:
            if "rule" in item:
                key = (ns or "host", PLACES[int(item["rule"]["chain"][1:])])
                count = sum(e["counter"]["packets"] for e in item["rule"]["expr"] if "counter" in e)
                want[key] = want.get(key, 0) + count
    for e in events:
        if e["last"] == "0":
            key = (name_of(e), e["hook"])
            got[key] = got.get(key, 0) + 1
    want = {key: count for key, count in want.items() if count}
    print("# " + ", ".join("%s %s %d" % (*key, count) for key, count in sorted(want.items())))
    check("as many crossings as nft counts, hook by hook", got, want)
    check("and all of them reported", (state["reported"], state["withheld"]), (len(events), 0))


def seen(*terms):
    """Of five flows, those that a trace with these terms shows."""
    with Trace(*terms) as t:
        packets.at_once([(fn, ns, peer, port) for ns, fn, peer, port in FLOWS])
        t.settled()
        events = t.events()
    found = set()
    for e in events:
        ports = {int(e["sport"]), int(e["dport"])}
        ends = {address(e["src"]), address(e["dst"])}
        for i, (_, fn, peer, port) in enumerate(FLOWS):
            proto = "6" if fn is try_tcp else "17"
            inner = {18080: (8080, V4["a"])}.get(port, (port, peer))
            if e["proto"] == proto and (
                ({port} & ports and peer in ends)
                or (inner[0] in ports and inner[1] in ends and V4["w"] in ends)
            ):
                found.add(i)
    return found


FLOWS = (
    ("b", try_tcp, V4["a"], 8081),
    ("b", try_udp, V4["a"], 9001),
    ("b", try_udp, V6["a"], 9000),
    ("c", try_tcp, V4["b"], 8081),
    ("w", try_tcp, "10.203.0.1", 18080),
)


def test_filters(g):
    check("no term: everything", seen(), {0, 1, 2, 3, 4})
    check("a protocol", seen(term(TCP)), {0, 3, 4})
    check("a port", seen(term(port=9001)), {1})
    check("an address", seen(term(one=V4["b"])), {0, 1, 3})
    check("a CIDR, IPv6", seen(term(one="fd00:201::/32")), {2})
    check("two addresses, either way", seen(term(one=V4["b"], other=V4["c"])), {3})
    check("two terms: either", seen(term(port=9001), term(TCP, 8081, V4["c"])), {1, 3})
    check("a namespace, and on from there", seen(term(netns=netns("c"))), {3})
    check("a link of the host", seen(term(link=ifindex("bwt1"))), {3})
    check("a port that only conntrack knows, behind the NAT", seen(term(TCP, 18080)), {4})
    check("a prefix that ends within a byte", seen(term(one="10.202.0.0/15")), {3, 4})
    with Trace(term(TCP, 18080)) as t:
        try_tcp("w", "10.203.0.1", 18080)
        t.settled()
        inside_a = {e["hook"] for e in t.events() if name_of(e) == "a"}
    check("a packet stays asked for where nobody knows of the NAT", "LOCAL_IN" in inside_a, True)


def burst(n, port=9000):
    with inside("b"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    for _ in range(n):
        s.sendto(b"x", (V4["a"], port))
    s.close()


def test_bounds(g):
    with Trace(term(UDP), events=50) as t:
        burst(100)
        state = t.settled()
        check(
            "ends by its number of events",
            (state["state"], state["reported"], len(t.events())),
            (EVENTS, 50, 50),
        )
        check("its hooks go by themselves", gone(), True)
    with Trace(term(UDP), seconds=2) as t:
        check("runs", (t.state()["state"], bool(ours())), (RUNNING, True))
        packets.until(lambda: t.state()["state"] != RUNNING)
        check("ends by its time", (t.state()["state"], gone()), (TIME, True))
    with Trace(term(UDP), rate=40) as t:
        burst(300)
        state = t.settled()
        total = state["reported"] + state["withheld"]
        print("# %r" % state)
        check(
            "a rate keeps back, and says so", (state["withheld"] > 0, state["reported"] < total), (True, True)
        )
        check("what it let through is there", len(t.events()), state["reported"])
    for what, payload in (
        ("no time", nla(T_SECONDS, u32(0))),
        ("too long", nla(T_SECONDS, u32(3601))),
        ("no events", nla(T_EVENTS, u32(0))),
        ("too fast", nla(T_RATE, u32(1000001))),
    ):
        check("refused: " + what, refusal(Genl().ask, T_BEGIN, payload), "ERANGE")
    for what, payload in (
        ("half a term", nla(T_TERM, term()[:20])),
        ("a family there is not", nla(T_TERM, b"\x03" + term()[1:])),
        ("a prefix too long", nla(T_TERM, b"\x02\0\0\0\x21" + term()[5:])),
        ("too many terms", nla(T_TERM, term() * 65)),
        ("an attribute of others", nla(packets.A_DRY, b"")),
    ):
        check("refused: " + what, refusal(Genl().ask, T_BEGIN, payload) in ("EINVAL", "ERANGE"), True)
    check("no trace to ask for", refusal(Genl().ask, T_GET), "ENOENT")
    check("none to end", refusal(Genl().ask, T_END), "ENOENT")
    check("nothing was left on", gone(), True)
    check("hooks of no namespace", refusal(Genl().ask, H_GET, nla(N_FD, u32(999))), "EBADF")
    fd = os.open("/dev/null", os.O_RDONLY)
    check("hooks of something else", refusal(Genl().ask, H_GET, nla(N_FD, u32(fd))), "EINVAL")
    os.close(fd)


def test_lost(g):
    """What a full buffer overwrites is counted by the kernel: nothing is missing in silence."""
    with Trace(term(UDP)) as t:
        t.put("buffer_size_kb", "4")
        burst(600)
        lost, reported = 0, t.settled()["reported"]
        for stats in glob.glob(t.dir + "/per_cpu/cpu*/stats"):
            with open(stats) as f:
                lost += sum(
                    int(line.split(":")[1])
                    for line in f
                    if line.split(":")[0] in ("overrun", "commit overrun", "dropped events")
                )
        read = len(t.events())
        check("a small buffer overflows", lost > 100, True)
        check("read and lost are all that was reported", read + lost, reported)


def test_owner(g):
    with Trace(term(port=9000)) as one, Trace(term(port=9001)) as two:
        check("a socket has one trace", refusal(one.g.ask, T_BEGIN), "EEXIST")
        burst(5, 9000)
        burst(5, 9001)
        one.settled()
        two.settled()
        ports = [
            {
                int(e["dport"])
                for e in t.events()
                if e["proto"] == "17" and e["hook"] == "LOCAL_OUT" and name_of(e) == "b"
            }
            for t in (one, two)
        ]
        check("two at once, each its own", ports, [{9000}, {9001}])
        others = [Genl() for _ in range(3)]
        for other in others[:2]:
            other.ask(T_BEGIN)
        check("four at most", refusal(others[2].ask, T_BEGIN), "EUSERS")
        for other in others:
            other.close()
        check("ended by word", (one.state(T_END)["state"], bool(ours())), (ENDED, True))
        check("ended is gone", refusal(one.g.ask, T_GET), "ENOENT")
    check("the last one takes the hooks along", gone(), True)
    pid = os.fork()
    if not pid:
        owner = Genl()
        owner.ask(T_BEGIN)
        signal.pause()
    packets.until(lambda: len(ours("a")) == 20)
    check("somebody traces", len(ours("a")), 20)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    check("is killed: the trace is over", gone(), True)


#: A netlink port number.
NUMBER = 4242


def unbound():
    g = Genl()
    g.s.close()
    g.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    return g


def binds(g):
    try:
        g.s.bind((NUMBER, 0))
    except OSError:
        return False
    return True


def test_number(g):
    """A socket's port number is free before the module hears that it closes: who has it next keeps his trace."""
    large = Many("endpoint", 100_000)
    slow = Genl()
    large.fill(slow)
    old, new = unbound(), unbound()
    binds(old)
    old.ask(INFO)
    expect, over = g.generation(), threading.Event()

    def commit():
        slow.ask(packets.COMMIT, nla(packets.A_EXPECT, struct.pack("=Q", expect)))
        over.set()

    committing = threading.Thread(target=commit)
    closing = threading.Thread(target=old.s.close)
    committing.start()
    time.sleep(0.02)
    closing.start()
    while not binds(new):
        pass
    new.ask(T_BEGIN)
    check("the other closed, and one began, while a commit ran", over.is_set(), False)
    committing.join()
    closing.join()
    check("it keeps its trace", new.ask(T_GET)[0][T_STATE][0][0], RUNNING)
    new.close()
    check("which ends with it", gone(), True)


def unprivileged():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    words = []
    g = Genl()
    for command in (T_BEGIN, T_GET, T_END, H_GET):
        words.append(refusal(g.ask, command))
    for path in (TRACEFS + "/trace", TRACEFS + "/instances", "/sys/kernel/debug/tracing/trace"):
        try:
            os.listdir(path) if path.endswith("instances") else open(path).close()
            words.append("open")
        except OSError:
            words.append("closed")
    return words


def test_privilege(g):
    with Trace(term(port=9000)):
        read, write = os.pipe()
        pid = os.fork()
        if not pid:
            os.write(write, json.dumps(unprivileged()).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        words = json.loads(os.read(read, 4096))
    check("others neither trace nor read a trace", words, ["EPERM"] * 4 + ["closed"] * 3)


def test_verdicts(g):
    known(Ruleset().rule(A, B, tcp(8080)).rule(B, A, tcp(8081), DENY)).commit(g)
    with Trace(term(TCP)) as t:
        check(
            "as the policy has it",
            [try_tcp("a", V4["b"], 8080), try_tcp("b", V4["a"], 8081), try_tcp("b", V4["a"], 8080)],
            ["open", "silence", "silence"],
        )
        t.settled()
        events = t.events()
    told = {
        (int(e["index"]), e["action"], e["rule"], e["hook"]) for e in events if e["event"] == "bw_verdict"
    }
    check(
        "each verdict with its rule",
        told,
        {
            (packets.RULE, "allow", "rule 0", "FORWARD"),
            (packets.RULE + 1, "deny", "rule 1", "FORWARD"),
            (2, "deny", "default", "FORWARD"),
        },
    )
    dropped = next(e for e in events if e["event"] == "bw_verdict" and e["index"] == str(packets.RULE + 1))
    way = [
        (e["event"], name_of(e), e["hook"], e.get("last"))
        for e in events
        if e["skb"] == dropped["skb"] and e["print"] == dropped["print"]
    ]
    check(
        "the dropped packet ends there",
        way[-2:],
        [("bw_crossing", "host", "FORWARD", "0"), ("bw_verdict", "host", "FORWARD", None)],
    )
    known(Ruleset(mode=1).rule(B, A, tcp(8081), DENY)).commit(g)
    with Trace(term(TCP, 8081)) as t:
        check("audit drops nothing", try_tcp("b", V4["a"], 8081), "open")
        t.settled()
        audits = {(e["action"], e["audit"]) for e in t.events() if e["event"] == "bw_verdict"}
    check("and is told as audit", audits, {("deny", "1")})
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)


def test_churn(g):
    """Namespaces come and go, traces begin and end, packets fly: no oops, no leak of hooks."""
    end = time.monotonic() + float(os.environ.get("BW_STRESS", "10"))
    rounds = 0
    before = complaints()
    pid = os.fork()
    if not pid:
        while True:
            burst(200)
    try:
        while time.monotonic() < end:
            run("ip", "netns", "add", "bwt-n")
            with Trace(rate=1000000, events=1000 + rounds):
                run("ip", "netns", "del", "bwt-n")
                run("ip", "netns", "add", "bwt-o")
                time.sleep(0.05)
            run("ip", "netns", "del", "bwt-o")
            rounds += 1
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print("# %d rounds" % rounds)
    check("hooks are gone after the storm", (gone(), rounds > 0), (True, True))
    check("the kernel has nothing to say", complaints(), before)


def complaints():
    said = subprocess.run(["dmesg"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return [line for line in said.splitlines() if re.search("BUG|WARNING|Oops|Call Trace", line)]


def test_unload(g):
    ko = os.environ.get("BW_KO")
    if not ko:
        check("BW_KO names the module's file", ko, "set")
        return
    t = Trace()
    for each in (g, t.g):
        each.close()
    other = Genl()
    other.ask(T_BEGIN)
    check("unloaded while a trace runs", subprocess.run(["rmmod", "bridgewarden"], check=False).returncode, 0)
    check("its events are gone", os.path.exists(TRACEFS + "/events/bridgewarden"), False)
    check("packets still fly", try_udp("b", V4["a"], 9000), "open")
    run("insmod", ko)
    os.rmdir(t.dir)
    check("loaded again, nothing is on", (ours(), ours("a")), ([], []))
    holds_on(ko)


def holds_on(ko):
    """Against who unloads it by mistake."""

    def unload():
        return subprocess.run(["rmmod", "bridgewarden"], check=False, stderr=subprocess.DEVNULL).returncode

    def hold(text):
        with open("/sys/module/bridgewarden/parameters/hold", "w") as f:
            f.write(text)

    run("rmmod", "bridgewarden")
    run("insmod", ko, "hold=1")
    check("without guards it goes", unload(), 0)
    run("insmod", ko, "hold=1")
    known(Ruleset()).commit(Genl())
    check("while links are guarded it stays", (unload(), try_udp("b", V4["a"], 9000)), (1, "silence"))
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
    check("without them it goes", (unload(), try_udp("b", V4["a"], 9000)), (0, "open"))
    run("insmod", ko, "hold=1", "closed=bwt0,bwt1")
    check("closed it stays", (unload(), try_udp("b", V4["a"], 9000)), (1, "silence"))
    hold("N")
    hold("Y")
    hold("1")
    check("let go and held again it stays", unload(), 1)
    hold("N")
    check("let go it goes", unload(), 0)
    run("insmod", ko)
    known(Ruleset()).commit(Genl())
    check("who did not ask for it", unload(), 0)
    run("insmod", ko)


TESTS = (
    test_off,
    test_hooks,
    test_published,
    test_same_bridge,
    test_witness,
    test_filters,
    test_except,
    test_bounds,
    test_lost,
    test_owner,
    test_number,
    test_privilege,
    test_verdicts,
    test_churn,
)
ON_DEMAND = (test_unload,)


def main():
    wanted = sys.argv[1:]
    saved = packets.world_up()
    try:
        for ns in ("a", "b", "c", "w"):
            for port in (8080, 8081, 9000, 9001):
                serve(ns, port)
        for test in TESTS + ON_DEMAND:
            if test.__name__[5:] in wanted or (not wanted and (test in TESTS or "BW_KO" in os.environ)):
                print("# %s" % test.__name__, flush=True)
                packets.rest()
                test(Genl())
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
