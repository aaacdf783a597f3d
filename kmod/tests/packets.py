#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Real packets through a loaded module: run as root in a throw-away VM.

Needs the module loaded and no ruleset in force, ip, nft and Python 3.9, nothing
else. Speaks netlink by itself, so that the collection's library is not what is
tested. Must never run on a host that matters: it makes links, a NAT table and
rulesets, though it removes them all at the end.

    w 10.203.0.2 --(bwtw)-- host --(bwt0, guarded)-- a 10.201.0.2, b 10.201.0.3
                             |
                             +-----(bwt1, guarded)-- c 10.202.0.2
    each also under fd00:201::, fd00:202::, fd00:203::
"""

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings

warnings.filterwarnings("ignore", ".*multi-threaded.*")
LIBC = ctypes.CDLL(None, use_errno=True)
WAIT = float(os.environ.get("BW_WAIT", "1.5"))

# Numbers of ../uapi/bridgewarden.h.
INFO, BEGIN, ADD, COMMIT, ABORT, CONFIRM, ROLLBACK, RULES, ENDPOINTS, EXPLAIN = range(1, 11)
(A_GENERATION, A_EXPECT, A_MODE, A_DEFAULTS, A_DRY, A_TIMEOUT, A_GUARD) = (3, 4, 5, 6, 9, 10, 12)
(S_IDENTITY, S_CELL4, S_CELL6, S_EP4, S_EP6, S_PUBLISH, S_RULE, S_SPAN, S_BLOCK, S_PAIR) = range(14, 24)
A_INDEX, A_KEY, A_NAME, A_PACKETS, A_ADDR, A_IDENTITY = 32, 33, 34, 36, 49, 50
A_REMAINING = 11
A_PLACEMENT, A_PARENT, A_NAMESPACES = 53, 54, 55
ALLOW, DENY, REJECT = 0, 1, 2
WORLD, HOST, A, B, C = 1, 2, 3, 4, 5
NONE = 0xFFFFFFFF
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
UNMANAGED, SPOOFED, INVALID, DIRECT, NEIGHBOUR, HOST_ERROR = 6, 7, 8, 10, 11, 12
ANY = (0, 0xFFFFFF)


def tcp(port):
    return (TCP << 16 | port, TCP << 16 | port)


def udp(port):
    return (UDP << 16 | port, UDP << 16 | port)


# Netlink, by hand.


def nla(kind, data):
    return struct.pack("=HH", len(data) + 4, kind) + data + b"\0" * (-len(data) % 4)


def attrs(data):
    found, at = {}, 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        found.setdefault(kind & 0x3FFF, []).append(data[at + 4 : at + length])
        at += (length + 3) & ~3
    return found


class Refused(Exception):
    def __init__(self, number, words):
        super().__init__("%s: %s" % (errno.errorcode.get(number, number), words))
        self.number, self.words = number, words


class Genl:
    def __init__(self):
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        self.s.bind((0, 0))
        self.s.setsockopt(270, 11, 1)  # NETLINK_EXT_ACK
        self.seq = 0
        self.family = 16
        self.family = struct.unpack("=H", self.ask(3, nla(2, b"bridgewarden\0"))[0][1][0])[0]

    def close(self):
        self.s.close()

    def raw(self, cmd, payload=b"", flags=5):
        self.seq += 1
        self.s.send(
            struct.pack("=IHHII", 20 + len(payload), self.family, flags, self.seq, 0)
            + struct.pack("=BBH", cmd, 1, 0)
            + payload
        )

    def ask(self, cmd, payload=b"", flags=5):
        self.raw(cmd, payload, flags)
        replies = []
        while True:
            data = self.s.recv(1 << 20)
            at = 0
            while at < len(data):
                length, kind, mflags, _, _ = struct.unpack_from("=IHHII", data, at)
                body = data[at + 16 : at + length]
                if kind == 2:
                    number = -struct.unpack_from("=i", body)[0]
                    if number:
                        skip = 20 if mflags & 0x100 else 4 + struct.unpack_from("=I", body, 4)[0]
                        words = attrs(body[skip:]).get(1, [b""])[0] if mflags & 0x200 else b""
                        raise Refused(number, words.rstrip(b"\0").decode())
                    return replies
                if kind == 3:
                    return replies
                replies.append(attrs(body[4:]))
                at += (length + 3) & ~3

    def generation(self):
        return struct.unpack("=Q", self.ask(INFO)[0][A_GENERATION][0])[0]

    def counters(self):
        return {
            struct.unpack("=I", r[A_INDEX][0])[0]: struct.unpack("=Q", r[A_PACKETS][0])[0]
            for r in self.ask(RULES, flags=0x301)
        }


class Ruleset:
    """Rules between single identities: row and column of identity i are i."""

    def __init__(self, guards=("bwt0", "bwt1"), defaults=(DENY, ALLOW, DENY, DENY, ALLOW, ALLOW), mode=0):
        self.guards, self.defaults, self.mode = guards, defaults, mode
        self.placement, self.parents = 0, ()
        self.ep4, self.ep6, self.publish, self.rules = [], [], [], []

    def endpoint(self, v4, v6, identity, link, port):
        self.ep4.append(socket.inet_aton(v4) + struct.pack("=III", identity, link, port))
        self.ep6.append(socket.inet_pton(socket.AF_INET6, v6) + struct.pack("=III", identity, link, port))

    def rule(self, frm, to, service, action=ALLOW, direct=False, log=False):
        self.rules.append((frm, to, service, action, direct, log))
        return self

    def sections(self):
        rules, spans, blocks, pairs = b"", [], [], []
        matrix = {}
        for i, (frm, to, service, action, direct, log) in enumerate(self.rules):
            name = ("rule %d" % i).encode()
            rules += struct.pack(
                "=QBB3H64s", 1000 + hash((frm, to, service, action)) % 100000, action, log, 0, 0, 0, name
            )
            matrix.setdefault((frm, to), []).append((service, i, i if direct or action else NONE))
        for i, ((frm, to), found) in enumerate(sorted(matrix.items())):
            blocks.append(struct.pack("=II", len(spans), len(found)))
            spans += [struct.pack("=IIII", lo, hi, rule, direct) for (lo, hi), rule, direct in sorted(found)]
            pairs.append(struct.pack("=III", frm, to, i))
        return [
            (S_IDENTITY, b"".join(struct.pack("=II", i, i) for i in range(9))),
            (S_CELL4, b"\0\0\0\0" + struct.pack("=II", WORLD, HOST)),
            (S_CELL6, b"\0" * 16 + struct.pack("=II", WORLD, HOST)),
            (S_EP4, b"".join(self.ep4)),
            (S_EP6, b"".join(self.ep6)),
            (S_PUBLISH, b"".join(self.publish)),
            (S_RULE, rules),
            (S_SPAN, b"".join(spans)),
            (S_BLOCK, b"".join(blocks)),
            (S_PAIR, b"".join(pairs)),
        ]

    def commit(self, g, timeout=0, dry=False, expect=None):
        g.ask(
            BEGIN,
            nla(A_MODE, bytes([self.mode]))
            + nla(A_DEFAULTS, bytes(self.defaults))
            + nla(A_PLACEMENT, bytes([self.placement]))
            + b"".join(nla(A_GUARD, x.encode() + b"\0") for x in self.guards)
            + b"".join(nla(A_PARENT, x.encode() + b"\0") for x in self.parents),
        )
        try:
            g.ask(ADD, b"".join(nla(kind, data) for kind, data in self.sections() if data))
            expect = g.generation() if expect is None else expect
            reply = g.ask(
                COMMIT,
                nla(A_EXPECT, struct.pack("=Q", expect))
                + (nla(A_DRY, b"") if dry else b"")
                + (nla(A_TIMEOUT, struct.pack("=I", timeout)) if timeout else b""),
            )
        except Refused:
            g.ask(ABORT)
            raise
        if dry:
            g.ask(ABORT)
        return struct.unpack("=Q", reply[0][A_GENERATION][0])[0]


# The world to test in.


def run(*cmd):
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@contextlib.contextmanager
def inside(ns):
    here = os.open("/proc/self/task/%d/ns/net" % threading.get_native_id(), os.O_RDONLY)
    there = os.open("/run/netns/bwt-" + ns, os.O_RDONLY) if ns else os.dup(here)
    try:
        if LIBC.setns(there, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        LIBC.setns(here, 0x40000000)
        os.close(there)
        os.close(here)


SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/bridge/bridge-nf-call-iptables": "1",
    "net/bridge/bridge-nf-call-ip6tables": "1",
}
NAMESPACES = {"a": ("bwt0", 201, 2), "b": ("bwt0", 201, 3), "c": ("bwt1", 202, 2), "w": (None, 203, 2)}
V4 = {ns: "10.%d.0.%d" % (net, host) for ns, (_, net, host) in NAMESPACES.items()}
V6 = {ns: "fd00:%d::%d" % (net, host) for ns, (_, net, host) in NAMESPACES.items()}
NAT = """table inet bwt {
  chain pre { type nat hook prerouting priority -100; tcp dport 18080 dnat ip to 10.201.0.2:8080
              tcp dport 18080 dnat ip6 to [fd00:201::2]:8080; }
}"""


def world_up():
    world_down()
    run("modprobe", "br_netfilter")
    saved = {}
    for path, value in SYSCTLS.items():
        with open("/proc/sys/" + path, "r+") as f:
            saved[path] = f.read().strip()
            f.seek(0)
            f.write(value)
    for bridge, net in (("bwt0", 201), ("bwt1", 202)):
        run("ip", "link", "add", bridge, "type", "bridge")
        run("ip", "addr", "add", "10.%d.0.1/24" % net, "dev", bridge)
        run("ip", "addr", "add", "fd00:%d::1/64" % net, "dev", bridge, "nodad")
        run("ip", "link", "set", bridge, "up")
    for ns, (bridge, net, host) in NAMESPACES.items():
        run("ip", "netns", "add", "bwt-" + ns)
        run("ip", "link", "add", "bwt-" + ns, "type", "veth", "peer", "name", "eth0", "netns", "bwt-" + ns)
        if bridge:
            run("ip", "link", "set", "bwt-" + ns, "master", bridge)
        else:
            run("ip", "addr", "add", "10.%d.0.1/24" % net, "dev", "bwt-" + ns)
            run("ip", "addr", "add", "fd00:%d::1/64" % net, "dev", "bwt-" + ns, "nodad")
        run("ip", "link", "set", "bwt-" + ns, "up")
        for cmd in (
            "addr add %s/24 dev eth0" % V4[ns],
            "addr add %s/64 dev eth0 nodad" % V6[ns],
            "link set lo up",
            "link set eth0 up",
            "route add default via 10.%d.0.1" % net,
            "-6 route add default via fd00:%d::1" % net,
        ):
            run("ip", "-n", "bwt-" + ns, *cmd.split())
    subprocess.run(["nft", "-f", "-"], input=NAT.encode(), check=True)
    for tool in ("iptables", "ip6tables"):  # where Docker's own rules would drop it
        for way in ("-i", "-o"):
            subprocess.run([tool, "-I", "FORWARD", way, "bwt+", "-j", "ACCEPT"], check=False)
    return saved


def world_down(saved=None):
    quiet = {"check": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    for tool in ("iptables", "ip6tables"):
        for way in ("-i", "-o"):
            subprocess.run([tool, "-D", "FORWARD", way, "bwt+", "-j", "ACCEPT"], **quiet)
    subprocess.run(["nft", "delete", "table", "inet", "bwt"], **quiet)
    for ns in NAMESPACES:
        subprocess.run(["ip", "link", "del", "bwt-" + ns], **quiet)
        subprocess.run(["ip", "netns", "del", "bwt-" + ns], **quiet)
    for bridge in ("bwt0", "bwt1"):
        subprocess.run(["ip", "link", "del", bridge], **quiet)
    for path, value in (saved or {}).items():
        with open("/proc/sys/" + path, "w") as f:
            f.write(value)


def ifindex(name):
    return socket.if_nametoindex(name)


def known(ruleset, ports=True):
    for ns, identity in (("a", A), ("b", B), ("c", C)):
        ruleset.endpoint(
            V4[ns], V6[ns], identity, ifindex(NAMESPACES[ns][0]), ifindex("bwt-" + ns) if ports else 0
        )
    return ruleset


def serve(ns, port):
    """Echo over TCP and UDP, both families."""
    with inside(ns):
        t = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        u4, u6 = (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            socket.socket(socket.AF_INET6, socket.SOCK_DGRAM),
        )
    t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    t.bind(("::", port))
    t.listen(64)
    u6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    u4.bind(("0.0.0.0", port))
    u6.bind(("::", port))

    def loop():
        clients = []
        while True:
            for s in select.select([t, u4, u6] + clients, [], [])[0]:
                try:
                    if s is t:
                        clients.append(t.accept()[0])
                    elif s in (u4, u6):
                        data, peer = s.recvfrom(2048)
                        s.sendto(data, peer)
                    else:
                        data = s.recv(2048)
                        if data:
                            s.send(data)
                        else:
                            clients.remove(s)
                            s.close()
                except OSError:
                    if s in clients:
                        clients.remove(s)

    threading.Thread(target=loop, daemon=True).start()


def connect(ns, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns):
        s = socket.socket(family, socket.SOCK_STREAM)
    s.settimeout(WAIT)
    s.connect((address, port))
    return s


def echo(s):
    s.settimeout(WAIT)
    s.send(b"x")
    return s.recv(10) == b"x"


def try_tcp(ns, address, port):
    """'open', 'refused', 'unreachable' or 'silence'."""
    try:
        with connect(ns, address, port) as s:
            return "open" if echo(s) else "closed"
    except ConnectionRefusedError:
        return "refused"
    except (socket.timeout, TimeoutError):
        return "silence"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))


def try_udp(ns, address, port, source=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns):
        s = socket.socket(family, socket.SOCK_DGRAM)
    s.settimeout(WAIT)
    with s:
        try:
            if source:
                s.bind((source, 0))
            s.connect((address, port))
            s.send(b"x")
            s.recv(10)
            return "open"
        except ConnectionRefusedError:
            return "refused"
        except (socket.timeout, TimeoutError):
            return "silence"
        except OSError as e:
            return errno.errorcode.get(e.errno, str(e))


# The tests.

FAILED = []
COUNT = 0


def check(what, got, want):
    global COUNT
    COUNT += 1
    good = got == want
    print(
        "%s %d - %s%s"
        % ("ok" if good else "not ok", COUNT, what, "" if good else " # got %r, want %r" % (got, want)),
        flush=True,
    )
    if not good:
        FAILED.append(what)


def refusal(fn, *args, **kwargs):
    try:
        fn(*args, **kwargs)
        return "accepted"
    except Refused as e:
        return errno.errorcode[e.number]


def grew(g, before, index):
    return g.counters().get(index, 0) > before.get(index, 0)


def both(fn, ns, peer, port):
    return fn(ns, V4[peer], port), fn(ns, V6[peer], port)


def test_verdicts(g):
    check("without a ruleset everything passes", both(try_tcp, "a", "b", 8080), ("open", "open"))
    known(
        Ruleset()
        .rule(A, B, tcp(8080))
        .rule(A, B, udp(9000))
        .rule(A, B, tcp(8081), REJECT)
        .rule(A, B, udp(9001), REJECT)
        .rule(WORLD, A, tcp(8080))
        .rule(A, HOST, tcp(9100))
    ).commit(g)
    check("same bridge, allowed", both(try_tcp, "a", "b", 8080), ("open", "open"))
    check("same bridge, udp allowed", both(try_udp, "a", "b", 9000), ("open", "open"))
    before = g.counters()
    check("same bridge, no rule: denied", both(try_tcp, "b", "a", 8080), ("silence", "silence"))
    check("denied by the class default", grew(g, before, 2), True)
    check("same bridge, tcp rejected with a reset", both(try_tcp, "a", "b", 8081), ("refused", "refused"))
    check("same bridge, udp rejected with an error", both(try_udp, "a", "b", 9001), ("refused", "refused"))
    check("other bridge, no rule: denied", both(try_tcp, "a", "c", 8080), ("silence", "silence"))
    check("egress allowed by default", both(try_tcp, "a", "w", 8080), ("open", "open"))
    check("from host allowed by default", both(try_tcp, None, "a", 8080), ("open", "open"))
    check("to host denied by default", try_tcp("a", "10.201.0.1", 22), "silence")
    check(
        "published port allowed",
        (try_tcp("w", "10.203.0.1", 18080), try_tcp("w", "fd00:203::1", 18080)),
        ("open", "open"),
    )
    before = g.counters()
    check("direct access denied", both(try_tcp, "w", "a", 8080), ("silence", "silence"))
    check("denied as direct", grew(g, before, DIRECT), True)
    check("neighbour discovery passed", grew(g, {}, NEIGHBOUR), True)


def test_reject_routed(g):
    known(
        Ruleset()
        .rule(A, C, tcp(8080), REJECT)
        .rule(A, C, udp(9000), REJECT)
        .rule(WORLD, A, ANY, REJECT)
        .rule(A, HOST, ANY, REJECT)
        .rule(A, WORLD, tcp(8080), REJECT)
    ).commit(g)
    before = g.counters()
    check("other bridge, rejected", both(try_tcp, "a", "c", 8080), ("refused", "refused"))
    check("other bridge, udp rejected", both(try_udp, "a", "c", 9000), ("refused", "refused"))
    check(
        "to host, rejected",
        (try_tcp("a", "10.201.0.1", 22), try_udp("a", "fd00:201::1", 5)),
        ("refused", "refused"),
    )
    check("egress, rejected", both(try_tcp, "a", "w", 8080), ("refused", "refused"))
    check("our own resets got out", grew(g, before, HOST_ERROR), True)
    check("outside, rejected", both(try_tcp, "w", "a", 8080), ("refused", "refused"))


def test_revoke(g):
    allow = known(Ruleset().rule(A, B, tcp(8080)).rule(WORLD, A, tcp(8080)))
    allow.commit(g)
    flows = [connect("a", V4["b"], 8080), connect("a", V6["b"], 8080), connect("w", "10.203.0.1", 18080)]
    check("flows are up", [echo(s) for s in flows], [True] * 3)
    known(Ruleset()).commit(g)
    said = []
    for s in flows:
        try:
            said.append(echo(s))
        except OSError:
            said.append("cut")
    check("revoking cuts established flows", said, ["cut"] * 3)
    allow.commit(g)
    for s in flows:
        s.close()


def test_audit(g):
    known(Ruleset(mode=1)).commit(g)
    before = g.counters()
    check("audit lets a denied connection pass", both(try_tcp, "b", "a", 8080), ("open", "open"))
    check("audit counts it as denied", grew(g, before, 2), True)
    known(Ruleset()).commit(g)
    check("enforce drops the same", try_tcp("b", V4["a"], 8080), "silence")


def test_spoof(g):
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("the true source passes", try_udp("a", V4["b"], 9000), "open")
    run("ip", "-n", "bwt-a", "addr", "add", "10.201.0.77/24", "dev", "eth0")
    run("ip", "-n", "bwt-a", "addr", "add", "10.202.0.2/32", "dev", "eth0")
    run("ip", "-n", "bwt-b", "addr", "del", V4["b"] + "/24", "dev", "eth0")
    run("ip", "-n", "bwt-a", "addr", "add", V4["b"] + "/32", "dev", "eth0")
    before = g.counters()
    check("an unknown source is unmanaged", try_udp("a", V4["w"], 9000, "10.201.0.77"), "silence")
    check("counted as unmanaged", grew(g, before, UNMANAGED), True)
    before = g.counters()
    check("another network's address is spoofed", try_udp("a", V4["w"], 9000, V4["c"]), "silence")
    check("counted as spoofed", grew(g, before, SPOOFED), True)
    before = g.counters()
    check("the neighbour's address on our port is spoofed", try_udp("a", V4["w"], 9000, V4["b"]), "silence")
    check("counted as spoofed too", grew(g, before, SPOOFED), True)
    for address in ("10.201.0.77/24", "10.202.0.2/32", V4["b"] + "/32"):
        run("ip", "-n", "bwt-a", "addr", "del", address, "dev", "eth0")
    run("ip", "-n", "bwt-b", "addr", "add", V4["b"] + "/24", "dev", "eth0")
    run("ip", "-n", "bwt-b", "route", "replace", "default", "via", "10.201.0.1")


def test_proxy(g):
    """A listener on the host that stands for container a, as docker-proxy's does."""

    def publish(ruleset):
        for family, to in ((socket.AF_INET, V4["a"]), (socket.AF_INET6, V6["a"])):
            ruleset.publish.append(
                struct.pack(
                    "=BBH16sBBH16s", family, TCP, 9300, b"", family, 0, 8080, socket.inet_pton(family, to)
                )
            )
        return ruleset

    serve(None, 9300)
    serve(None, 9301)
    publish(known(Ruleset())).commit(g)
    check(
        "proxy socket: denied like the container",
        (try_tcp("w", "10.203.0.1", 9300), try_tcp("w", "fd00:203::1", 9300)),
        ("silence", "silence"),
    )
    check("another host port is not judged", try_tcp("w", "10.203.0.1", 9301), "open")
    check("proxy socket from a neighbour: denied", try_tcp("b", "10.201.0.1", 9300), "silence")
    publish(known(Ruleset()).rule(WORLD, A, tcp(8080)).rule(B, A, tcp(8080))).commit(g)
    check(
        "proxy socket: allowed like the container",
        (try_tcp("w", "10.203.0.1", 9300), try_tcp("w", "fd00:203::1", 9300)),
        ("open", "open"),
    )
    check("proxy socket from a neighbour: allowed, answers too", try_tcp("b", "10.201.0.1", 9300), "open")
    check("from the host itself", try_tcp(None, "127.0.0.1", 9300), "open")
    known(Ruleset(defaults=(DENY, ALLOW, DENY, DENY, ALLOW, DENY)).rule(WORLD, HOST, tcp(9301))).commit(g)
    check(
        "host ingress: denied, allowed",
        (try_tcp("w", "10.203.0.1", 9300), try_tcp("w", "10.203.0.1", 9301)),
        ("silence", "open"),
    )
    check("host ingress: the host's own connections live", try_tcp(None, V4["w"], 8080), "open")


def test_link_gone(g):
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("c is reached", try_tcp("w", "10.203.0.1", 18080), "open")
    check("c answers", try_tcp("a", V4["c"], 8080), "open")
    port = ifindex("bwt-c")
    run("ip", "link", "del", "bwt-c")
    ids = {
        socket.inet_ntop(socket.AF_INET, r[A_ADDR][0]): struct.unpack("=I", r[A_IDENTITY][0])[0]
        for r in g.ask(ENDPOINTS, flags=0x301)
        if len(r[A_ADDR][0]) == 4
    }
    check("the endpoint died with its port", (ids[V4["c"]], ids[V4["a"]]), (0, A))
    run(
        "ip",
        "link",
        "add",
        "bwt-c",
        "index",
        str(port),
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        "bwt-c",
    )
    run("ip", "link", "set", "bwt-c", "master", "bwt1", "up")
    run("ip", "-n", "bwt-c", "link", "set", "eth0", "up")
    for cmd in (
        "addr add %s/24 dev eth0" % V4["c"],
        "addr add %s/64 dev eth0 nodad" % V6["c"],
        "route add default via 10.202.0.1",
        "-6 route add default via fd00:202::1",
    ):
        run("ip", "-n", "bwt-c", *cmd.split())
    before = g.counters()
    check("a new holder of address and number inherits nothing", try_tcp("a", V4["c"], 8080), "silence")
    check("it is unmanaged", grew(g, before, UNMANAGED), True)
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("known again, it passes", try_tcp("a", V4["c"], 8080), "open")


def test_window(g):
    known(Ruleset().rule(A, B, tcp(8080))).commit(g)
    first = g.generation()
    second = known(Ruleset()).commit(g, timeout=4)
    check("a window is open", A_REMAINING in g.ask(INFO)[0], True)
    check("no commit beside it", refusal(known(Ruleset()).commit, g), "EBUSY")
    check("in force at once", try_tcp("a", V4["b"], 8080), "silence")
    time.sleep(5)
    check(
        "unconfirmed, the old one is back",
        (g.generation() == first, try_tcp("a", V4["b"], 8080)),
        (True, "open"),
    )
    third = known(Ruleset()).commit(g, timeout=60)
    check("generations are never used twice", third > second, True)
    check(
        "confirming another generation is refused",
        refusal(g.ask, CONFIRM, nla(A_EXPECT, struct.pack("=Q", first))),
        "ESTALE",
    )
    g.ask(CONFIRM)
    check("confirmed", (g.generation(), A_REMAINING in g.ask(INFO)[0]), (third, False))
    known(Ruleset().rule(A, B, tcp(8080))).commit(g, timeout=60)
    g.ask(ROLLBACK)
    check("rolled back by hand", g.generation(), third)
    check("nothing left to roll back", refusal(g.ask, ROLLBACK), "ENOENT")


def test_counters(g):
    base = known(Ruleset().rule(A, B, tcp(8080)))
    base.commit(g)
    try_tcp("a", V4["b"], 8080)
    before = g.counters()
    known(Ruleset().rule(A, A, tcp(1)).rule(A, B, tcp(8080))).commit(g)
    after = g.counters()
    check("a rule keeps its count, wherever it stands", after[17] >= before[16] > 0, True)
    check("a new rule begins at 0", after[16], 0)
    known(Ruleset()).commit(g, timeout=60)
    g.ask(ROLLBACK)
    check("rolling back counts nothing twice", g.counters()[17], after[17])


def test_refusals(g):
    generation = g.generation()
    check("stale generation", refusal(known(Ruleset()).commit, g, expect=generation + 1), "ESTALE")
    check(
        "dry run", (refusal(known(Ruleset()).commit, g, dry=True), g.generation()), ("accepted", generation)
    )
    check("queue", refusal(known(Ruleset().rule(A, B, ANY, 3)).commit, g), "ENOTSUP")
    check("twice the same endpoint", refusal(known(known(Ruleset())).commit, g), "EEXIST")
    check(
        "an endpoint on a link that is not guarded",
        refusal(known(Ruleset(guards=("bwt1",))).commit, g),
        "EINVAL",
    )
    check(
        "commit without a transaction",
        refusal(g.ask, COMMIT, nla(A_EXPECT, struct.pack("=Q", generation))),
        "ENOENT",
    )
    check("an attribute of another command", refusal(g.ask, INFO, nla(A_DRY, b"")), "EINVAL")
    check("an attribute of replies", refusal(g.ask, BEGIN, nla(A_GENERATION, b"\0" * 8)), "EINVAL")
    check("an unknown attribute", refusal(g.ask, BEGIN, nla(99, b"\0" * 8)), "EINVAL")
    check("a mode out of range", refusal(g.ask, BEGIN, nla(A_MODE, b"\7")), "ERANGE")
    check("a short number", refusal(g.ask, BEGIN, nla(A_EXPECT, b"\0\0")), "EINVAL")
    check("an unterminated guard", refusal(g.ask, BEGIN, nla(A_GUARD, b"bwt0")), "EINVAL")
    g.ask(BEGIN)
    check("a second transaction on a socket", refusal(g.ask, BEGIN), "EBUSY")
    check("half an entry", refusal(g.ask, ADD, nla(S_PAIR, b"\0" * 13)), "EINVAL")
    check(
        "mode and defaults are needed",
        refusal(g.ask, COMMIT, nla(A_EXPECT, struct.pack("=Q", generation))),
        "EINVAL",
    )
    g.ask(ABORT)
    others = [Genl() for _ in range(20)]
    opened = [refusal(o.ask, BEGIN) for o in others]
    check("transactions are bounded", (opened.count("accepted"), opened.count("EUSERS")), (16, 4))
    for o in others:
        o.close()
    other = Genl()
    check("and go with their sockets", refusal(other.ask, BEGIN), "accepted")
    other.close()
    pid = os.fork()
    if not pid:
        LIBC.unshare(0x40000000)
        try:
            Genl().ask(INFO)
            os._exit(1)
        except Refused as e:
            os._exit(0 if e.number == errno.ENOENT else 2)
    check("another network namespace does not see the family", os.waitpid(pid, 0)[1], 0)
    pid = os.fork()
    if not pid:
        LIBC.unshare(0x10000000)
        try:
            g2 = Genl()
            g2.ask(INFO)
            os._exit(1)
        except Refused as e:
            os._exit(0 if e.number == errno.EPERM else 2)
    check("another user namespace is refused", os.waitpid(pid, 0)[1], 0)
    check("nothing changed by all this", g.generation(), generation)


def test_garbage(g):
    """Random bytes never do more than be refused."""
    generation = g.generation()
    for i in range(400):
        noise = os.urandom(4 * (i % 40))
        cmd = 1 + i % 12
        with contextlib.suppress(Refused):
            g.raw(cmd, noise, 5)
    g.close()
    check("random requests change nothing", Genl().generation(), generation)


def flood(ns, target, stop, sent):
    with inside(ns):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while not stop.is_set():
        for to in target:
            with contextlib.suppress(OSError):
                s.sendto(b"x", to)
                sent[to[1]] = sent.get(to[1], 0) + 1
        time.sleep(0.0005)
    s.close()


def sink(ns, port):
    with inside(ns):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
    s.bind(("0.0.0.0", port))
    s.settimeout(0.5)
    return s


def drain(s):
    count = 0
    with contextlib.suppress(socket.timeout, TimeoutError):
        while s.recv(10):
            count += 1
    s.close()
    return count


def test_swap(g):
    """Replacing the ruleset loses nothing that both allow and leaks nothing that neither does."""
    swaps = int(os.environ.get("BW_SWAPS", "100"))
    one = known(Ruleset().rule(A, B, udp(7000)).rule(A, WORLD, udp(7001), DENY))
    two = known(
        Ruleset()
        .rule(C, A, tcp(5))
        .rule(A, B, udp(7000))
        .rule(B, A, ANY, REJECT)
        .rule(A, WORLD, udp(7001), DENY)
    )
    one.commit(g)
    sinks = [sink("b", 7000), sink("b", 7001), sink("w", 7001)]
    stop, sent = threading.Event(), {}
    sender = threading.Thread(
        target=flood, args=("a", [(V4["b"], 7000), (V4["b"], 7001), (V4["w"], 7001)], stop, sent)
    )
    sender.start()
    for i in range(swaps):
        (two, one)[i % 2].commit(g)
    stop.set()
    sender.join()
    got = [drain(s) for s in sinks]
    print("# %d swaps, %d packets sent a way" % (swaps, sent[7000]))
    check("swaps lose nothing and leak nothing", (sent[7000] - got[0], got[1], got[2]), (0, 0, 0))


TESTS = (
    test_verdicts,
    test_reject_routed,
    test_revoke,
    test_audit,
    test_spoof,
    test_proxy,
    test_link_gone,
    test_window,
    test_counters,
    test_swap,
    test_refusals,
    test_garbage,
)


def main():
    wanted = sys.argv[1:]
    g = Genl()
    if g.generation():
        sys.exit(
            "a ruleset is in force here: this is not a throw-away VM, or an earlier run died; load the module anew"
        )
    saved = world_up()
    try:
        for ns in ("a", "b", "c", "w"):
            for port in (8080, 8081, 9000, 9001):
                serve(ns, port)
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# %s" % test.__name__, flush=True)
                test(Genl())
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        world_down(saved)
    print("1..%d" % COUNT)
    print("%d passed, %d failed" % (COUNT - len(FAILED), len(FAILED)))
    return bool(FAILED)


if __name__ == "__main__":
    sys.exit(main())
