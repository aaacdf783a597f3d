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

import collections
import contextlib
import ctypes
import errno
import functools
import os
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

warnings.filterwarnings("ignore", ".*multi-threaded.*")
LIBC = ctypes.CDLL(None, use_errno=True)
#: How long silence must last, in seconds. It is waited for in slices: of a machine that stalls, which lets time pass in which nothing
#: could have come, one of them is lost.
WAIT = float(os.environ.get("BW_WAIT", "1.5"))
SLICE = 0.05
#: Of a confirm window: a probe that waits for nothing must be over well before.
WINDOW = int(WAIT) + 3
#: How long we wait for what must come, in seconds.
PATIENCE = 60
#: How long readings must stay equal, in seconds: a delayed acknowledgement and the first retransmission come within 0.2.
QUIET = 0.25

# Numbers of ../uapi/bridgewarden.h.
INFO, BEGIN, ADD, COMMIT, ABORT, CONFIRM, ROLLBACK, RULES, ENDPOINTS, EXPLAIN, SEAL = range(1, 12)
PREFIXES, UNKNOWN = 16, 17
(A_GENERATION, A_EXPECT, A_MODE, A_DEFAULTS, A_DRY, A_TIMEOUT, A_GUARD) = (3, 4, 5, 6, 9, 10, 12)
(S_IDENTITY, S_CELL4, S_CELL6, S_EP4, S_EP6, S_PUBLISH, S_RULE, S_SPAN, S_BLOCK, S_PAIR) = range(14, 24)
A_INDEX, A_KEY, A_NAME, A_PACKETS, A_ADDR, A_IDENTITY = 32, 33, 34, 36, 49, 50
A_REMAINING = 11
A_FIRST, A_EXPECTED = 30, 31
A_PLACEMENT, A_LOG_GROUP, A_LOG_DEFAULTS, A_SWALLOWED, A_SEALED, A_AHEAD = range(53, 59)
A_PARENT, A_NAMESPACES = 62, 63
A_RETURNED = 76
S_PREFIX4, S_PREFIX6, S_BEHIND, A_COUNT_PREFIXES, A_COUNT_BEHIND, A_LENGTH, A_SET = range(77, 84)
A_MAC, A_IDLE, A_LOST = range(84, 87)
ALLOW, DENY, REJECT, QUEUE = 0, 1, 2, 3
FORWARD, POSTROUTING = 0, 1
WORLD, HOST, A, B, C = 1, 2, 3, 4, 5
NONE = 0xFFFFFFFF
TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
UNMANAGED, SPOOFED, INVALID, DIRECT, NEIGHBOUR, HOST_ERROR = 6, 7, 8, 10, 11, 12
UNSEEN, UNPLACED = 16, 17
#: A dump's parts are not of one moment.
DUMP_INTR = 0x10
#: The number of rule 0.
RULE = 64
ANY = (0, 0xFFFFFF)


def tcp(port):
    return (TCP << 16 | port, TCP << 16 | port)


def udp(port):
    return (UDP << 16 | port, UDP << 16 | port)


# Netlink, by hand.


NFQUEUE, NFLOG = 3 << 8, 4 << 8


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

    def __init__(
        self,
        guards=("bwt0", "bwt1"),
        defaults=(DENY, ALLOW, DENY, DENY, ALLOW, ALLOW),
        mode=0,
        placement=FORWARD,
        log=(0, 0),
    ):
        self.guards, self.defaults, self.mode = guards, defaults, mode
        self.placement, self.parents, self.log = placement, (), log
        self.ep4, self.ep6, self.publish, self.rules = [], [], [], []
        self.prefix4, self.prefix6, self.behind = [], [], []

    def endpoint(self, v4, v6, identity, link, port):
        self.ep4.append(socket.inet_aton(v4) + struct.pack("=III", identity, link, port))
        self.ep6.append(socket.inet_pton(socket.AF_INET6, v6) + struct.pack("=III", identity, link, port))

    def prefix(self, cidr, identity, number):
        """A routed prefix behind the set with this number."""
        address, _, length = cidr.partition("/")
        family, to = (socket.AF_INET6, self.prefix6) if ":" in cidr else (socket.AF_INET, self.prefix4)
        to.append(socket.inet_pton(family, address) + struct.pack("=III", int(length), identity, number))
        return self

    def port(self, number, link, port):
        """A port of that set."""
        self.behind.append(struct.pack("=III", number, link, port))
        return self

    def rule(self, frm, to, service, action=ALLOW, direct=False, log=False, queue=(0, 0, False)):
        self.rules.append((frm, to, service, action, direct, log, queue))
        return self

    def queue(self, frm, to, service, num, count=1, bypass=False):
        return self.rule(frm, to, service, QUEUE, queue=(num, count, bypass))

    def sections(self):
        rules, spans, blocks, pairs = b"", [], [], []
        matrix = {}
        for i, (frm, to, service, action, direct, log, (num, count, bypass)) in enumerate(self.rules):
            name = ("rule %d" % i).encode()
            rules += struct.pack(
                "=QBB3H64s",
                1000 + hash((frm, to, service, action)) % 100000,
                action,
                log | bypass << 1,
                num,
                count,
                0,
                name,
            )
            matrix.setdefault((frm, to), []).append(
                (service, i, i if direct or action in (DENY, REJECT) else NONE)
            )
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
            (S_PREFIX4, b"".join(self.prefix4)),
            (S_PREFIX6, b"".join(self.prefix6)),
            (S_BEHIND, b"".join(self.behind)),
        ]

    def commit(self, g, timeout=0, dry=False, expect=None):
        g.ask(
            BEGIN,
            nla(A_MODE, bytes([self.mode]))
            + nla(A_PLACEMENT, bytes([self.placement]))
            + nla(A_LOG_GROUP, struct.pack("=H", self.log[0]))
            + nla(A_LOG_DEFAULTS, bytes([self.log[1]]))
            + nla(A_DEFAULTS, bytes(self.defaults))
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


# Listeners of netfilter: NFQUEUE and NFLOG, by hand too.


class Netfilter:
    def __init__(self):
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.s.bind((0, 0))
        self.s.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE

    def send(self, kind, number, payload, flags=5):
        self.s.send(
            struct.pack("=IHHII", 20 + len(payload), kind, flags, 1, 0)
            + struct.pack("!BBH", 0, 0, number)
            + payload
        )
        if flags & 4:
            found = -struct.unpack_from("=i", self.s.recv(65536), 16)[0]
            if found:
                raise OSError(found, os.strerror(found))

    def messages(self):
        data = self.s.recv(1 << 20)
        at = 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            yield kind, attrs(data[at + 20 : at + length])
            at += (length + 3) & ~3


def queue_listen(number, ready, maxlen=0, answer=True):
    """Accepts what is queued unless EVIL is in it; never returns."""
    n = Netfilter()
    n.send(NFQUEUE | 2, number, nla(1, struct.pack("!BBH", 1, 0, 0)))
    n.send(NFQUEUE | 2, number, nla(2, struct.pack("!IB", 0xFFFF, 2)))
    if maxlen:
        n.send(NFQUEUE | 2, number, nla(3, struct.pack("!I", maxlen)))
    os.write(ready, b"x")
    while True:
        for kind, found in n.messages():
            if kind == NFQUEUE and answer:
                verdict = 0 if b"EVIL" in found.get(10, [b""])[0] else 1
                packet = struct.unpack_from("!I", found[1][0])[0]
                n.send(NFQUEUE | 1, number, nla(2, struct.pack("!II", verdict, packet)), 1)


class Listener:
    """A process of its own, so that it can be killed."""

    def __init__(self, number, **kwargs):
        there, here = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                queue_listen(number, here, **kwargs)
            finally:
                os._exit(1)
        os.close(here)
        if os.read(there, 1) != b"x":
            raise RuntimeError("the listener of queue %d did not start" % number)
        os.close(there)

    def kill(self):
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


def queue_seen(number, column=7):
    """Packets handed to the listener of a queue; column 5: those a full queue dropped."""
    with open("/proc/net/netfilter/nfnetlink_queue") as f:
        for line in f:
            if int(line.split()[0]) == number:
                return int(line.split()[column])
    return 0


class Log:
    def __init__(self, group):
        self.n = Netfilter()
        self.n.send(NFLOG | 1, group, nla(1, b"\1"))
        self.n.send(NFLOG | 1, group, nla(2, struct.pack("!IBB", 128, 2, 0)))
        self.n.send(NFLOG | 1, group, nla(5, struct.pack("!I", 1)))

    def prefixes(self, wait=0.5):
        """What has been logged since the last call."""
        self.n.s.settimeout(wait)
        lines = []
        with contextlib.suppress(socket.timeout, TimeoutError):
            while True:
                lines += [
                    found[10][0].rstrip(b"\0").decode() for kind, found in self.n.messages() if kind == NFLOG
                ]
        return lines

    def close(self):
        self.n.s.close()


# The world to test in.


def run(*cmd):
    subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def batch(lines, *options):
    """Commands of ip, by one process: an emulated machine takes its time to start one."""
    text = "".join(line + "\n" for line in lines)
    subprocess.run(["ip", *options, "-batch", "-"], input=text.encode(), check=True, stderr=subprocess.PIPE)


def batch_if_there(lines):
    """As batch(), each whether or not those before it had something to do."""
    text = "".join(line + "\n" for line in lines)
    quiet = {"check": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(["ip", "-force", "-batch", "-"], input=text.encode(), **quiet)


def symbol(name, module):
    """A function as the kernel prints it: what is built in stands alone."""
    with open("/proc/modules") as f:
        loaded = any(line.startswith(module + " ") for line in f)
    return "%s [%s]" % (name, module) if loaded else name


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
    lines = []
    for bridge, net in (("bwt0", 201), ("bwt1", 202)):
        lines += [
            "link add %s type bridge" % bridge,
            "addr add 10.%d.0.1/24 dev %s" % (net, bridge),
            "addr add fd00:%d::1/64 dev %s nodad" % (net, bridge),
            "link set %s up" % bridge,
        ]
    for ns, (bridge, net, host) in NAMESPACES.items():
        lines += [
            "netns add bwt-%s" % ns,
            "link add bwt-%s type veth peer name eth0 netns bwt-%s" % (ns, ns),
        ]
        if bridge:
            lines.append("link set bwt-%s master %s" % (ns, bridge))
        else:
            lines.append("addr add 10.%d.0.1/24 dev bwt-%s" % (net, ns))
            lines.append("addr add fd00:%d::1/64 dev bwt-%s nodad" % (net, ns))
        lines.append("link set bwt-%s up" % ns)
    batch(lines)
    for ns, (_, net, _) in NAMESPACES.items():
        batch(
            [
                "addr add %s/24 dev eth0" % V4[ns],
                "addr add %s/64 dev eth0 nodad" % V6[ns],
                "link set lo up",
                "link set eth0 up",
                "route add default via 10.%d.0.1" % net,
                "route add default via fd00:%d::1" % net,
            ],
            "-n",
            "bwt-" + ns,
        )
    subprocess.run(["nft", "-f", "-"], input=NAT.encode(), check=True)
    others_rules("-I")
    if not until(carries):
        raise RuntimeError("the world's links carry nothing")
    return saved


def carries():
    """Whether the world's links are up and its neighbours known to each other: a port nobody listens on is refused both ways."""
    ways = [(try_udp, None, V[ns], 9) for ns in NAMESPACES for V in (V4, V6)]
    for ns, (bridge, net, _) in NAMESPACES.items():
        ways += [(try_udp, ns, "10.%d.0.1" % net, 9), (try_udp, ns, "fd00:%d::1" % net, 9)]
        ways += [
            (try_udp, ns, V[peer], 9) for peer in "ab" if bridge == "bwt0" and peer != ns for V in (V4, V6)
        ]
    return set(at_once(ways)) == {"refused"}


def others_rules(do):
    """Where Docker's own rules would drop the world's packets: accepts them first (-I), or no longer (-D)."""
    for tool in filter(shutil.which, ("iptables", "ip6tables")):
        for way in ("-i", "-o"):
            subprocess.run(
                [tool, do, "FORWARD", way, "bwt+", "-j", "ACCEPT"], check=False, stderr=subprocess.DEVNULL
            )


def world_down(saved=None):
    """Whatever there is of it."""
    others_rules("-D")
    subprocess.run(["nft", "delete", "table", "inet", "bwt"], check=False, stderr=subprocess.DEVNULL)
    lines = [line % ns for ns in NAMESPACES for line in ("link del bwt-%s", "netns del bwt-%s")]
    batch_if_there([*lines, "link del bwt0", "link del bwt1"])
    for path, value in (saved or {}).items():
        with open("/proc/sys/" + path, "w") as f:
            f.write(value)


def bridge_settings(value):
    """Both of net.bridge's, as text."""
    for name in ("iptables", "ip6tables"):
        with open("/proc/sys/net/bridge/bridge-nf-call-" + name, "w") as f:
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
    reset_at_close(s)
    s.setblocking(False)
    failed = s.connect_ex((address, port))
    if failed == errno.EINPROGRESS:
        failed = (
            s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if comes(s, writable=True) else errno.ETIMEDOUT
        )
    if failed:
        s.close()
        raise OSError(failed, os.strerror(failed))
    s.setblocking(True)
    return s


def comes(s, seconds=None, writable=False):
    """Whether there is something to read, or room to write, before silence is over."""
    for _ in range(round((WAIT if seconds is None else seconds) / SLICE)):
        if any(select.select([] if writable else [s], [s] if writable else [], [], SLICE)):
            return True
    return False


def receive(s, size=10, seconds=None):
    """What comes next; silence is a TimeoutError."""
    if not comes(s, seconds):
        raise TimeoutError
    return s.recv(size)


def reset_at_close(s, on=True):
    """Its close() sends a reset, once, and keeps nothing to repeat; a FIN and its answers would still come after the probe."""
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", on, 0))


def echo(s):
    s.send(b"x")
    return receive(s) == b"x"


def try_tcp(ns, address, port):
    """'open', 'refused', 'unreachable' or 'silence'."""
    try:
        with connect(ns, address, port) as s:
            return "open" if echo(s) else "closed"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError as e:
        return errno.errorcode.get(e.errno, str(e))


def try_udp(ns, address, port, source=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(ns):
        s = socket.socket(family, socket.SOCK_DGRAM)
    with s:
        try:
            if source:
                s.bind((source, 0))
            s.connect((address, port))
            s.send(b"x")
            receive(s)
            return "open"
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
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


def conclude():
    """The plan and a sum; whether any check failed."""
    print("1..%d" % COUNT)
    print("%d passed, %d failed" % (COUNT - len(FAILED), len(FAILED)))
    return bool(FAILED)


def refusal(fn, *args, **kwargs):
    try:
        fn(*args, **kwargs)
        return "accepted"
    except Refused as e:
        return errno.errorcode[e.number]


def until(done, seconds=PATIENCE):
    """Whether it is done in time."""
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


#: How the addresses of the world begin, inside.py's included.
ADDRESSES = ("10.20", "10.210.", "fd00:20")
#: States of TCP in which an end sends something by itself sooner or later, as /proc/net/tcp numbers them.
PASSING = {
    2: "SYN_SENT",
    3: "SYN_RECV",
    4: "FIN_WAIT1",
    5: "FIN_WAIT2",
    8: "CLOSE_WAIT",
    9: "LAST_ACK",
    11: "CLOSING",
}


def end_of(text):
    """Address and port as /proc/net/tcp has them."""
    raw, _, port = text.partition(":")
    words = struct.pack("=%dI" % (len(raw) // 8), *(int(raw[i : i + 8], 16) for i in range(0, len(raw), 8)))
    family = socket.AF_INET if len(words) == 4 else socket.AF_INET6
    return "%s port %d" % (socket.inet_ntop(family, words).replace("::ffff:", "", 1), int(port, 16))


def moving():
    """Connections of the world that still send by themselves: they open or close, or repeat what nobody has acknowledged."""
    found = []
    for ns in [None] + [name[4:] for name in os.listdir("/run/netns") if name.startswith("bwt-")]:
        with inside(ns):
            for table in ("tcp", "tcp6"):
                with open("/proc/thread-self/net/" + table) as f:
                    for line in f.readlines()[1:]:
                        one, other, state, queues, timer = line.split()[1:6]
                        ends, state = (end_of(one), end_of(other)), int(state, 16)
                        sends = state == 1 and (int(queues.split(":")[0], 16) or timer[:2] in ("01", "04"))
                        if (sends or state in PASSING) and any(end.startswith(ADDRESSES) for end in ends):
                            word = PASSING.get(state, "unacknowledged")
                            found.append("%s: %s to %s, %s" % (ns or "host", *ends, word))
    return found


def rest(seconds=PATIENCE):
    """Waits until no connection moves by itself."""
    if not until(lambda: not moving(), seconds):
        raise RuntimeError("the world is not at rest after %g s: %s" % (seconds, moving()))


def settled(read, seconds=PATIENCE):
    """What read() gives when everything is over that came before: no connection moves, and it gives the same for a while.

    Several times the same: a stalled machine lets time pass in which nothing could have come.
    """
    last, since, same = read(), time.monotonic(), 0
    end = since + seconds
    while same < 5 or time.monotonic() < since + QUIET:
        time.sleep(0.05)
        busy, now = moving(), read()
        if busy or now != last:
            last, since, same = now, time.monotonic(), 0
        same += 1
        if time.monotonic() > end:
            why = busy or "it changes"
            raise RuntimeError("not settled after %g s: %s; %s at last" % (seconds, why, now))
    return last


def grew(g, before, index):
    return g.counters().get(index, 0) > before.get(index, 0)


def at_once(calls):
    """[(function, arguments...)]: all results. Most of a probe is waiting, and namespaces belong to threads."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [one.result() for one in [pool.submit(*call) for call in calls]]


def both(fn, ns, peer, port):
    return tuple(at_once([(fn, ns, V4[peer], port), (fn, ns, V6[peer], port)]))


def published(port=18080):
    """From w to a port of the host's."""
    return tuple(at_once([(try_tcp, "w", "10.203.0.1", port), (try_tcp, "w", "fd00:203::1", port)]))


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
    run("ip", "-n", "bwt-a", "-6", "neigh", "flush", "dev", "eth0")  # a must ask for b again
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
        published(),
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
        tuple(at_once([(try_tcp, "a", "10.201.0.1", 22), (try_udp, "a", "fd00:201::1", 5)])),
        ("refused", "refused"),
    )
    check("egress, rejected", both(try_tcp, "a", "w", 8080), ("refused", "refused"))
    check("our own resets got out", grew(g, before, HOST_ERROR), True)
    check("outside, rejected", both(try_tcp, "w", "a", 8080), ("refused", "refused"))


def echo_or_cut(flow):
    try:
        return echo(flow)
    except OSError:
        return "cut"


def test_revoke(g):
    allow = known(Ruleset().rule(A, B, tcp(8080)).rule(WORLD, A, tcp(8080)))
    allow.commit(g)
    flows = [connect("a", V4["b"], 8080), connect("a", V6["b"], 8080), connect("w", "10.203.0.1", 18080)]
    check("flows are up", [echo(s) for s in flows], [True] * 3)
    known(Ruleset()).commit(g)
    check("revoking cuts established flows", at_once([(echo_or_cut, s) for s in flows]), ["cut"] * 3)
    allow.commit(g)
    for s in flows:
        s.close()


def rename(link, name, address):
    for words in (("down",), ("name", name)):
        run("ip", "link", "set", "dev", link, *words)
    run("ip", "link", "set", "dev", name, "up")
    run("ip", "addr", "replace", address, "dev", name, "nodad")


def test_name_makes_guard(g):
    """Verdicts of a link that was outside are worth nothing once its name makes it a guarded one."""
    known(Ruleset(guards=("bwt0", "bwt1", "bwt-g*")).rule(WORLD, A, tcp(8080), direct=True)).commit(g)
    flows = [connect("w", V[address], 8080) for V, address in ((V4, "a"), (V6, "a"))]
    check("from outside, allowed", [echo(s) for s in flows] * 2, [True] * 4)
    try:
        rename("bwt-w", "bwt-g", "fd00:203::1/64")
        check("flows over what is a guard now", at_once([(echo_or_cut, s) for s in flows]), ["cut"] * 2)
        check("new ones", both(try_tcp, "w", "a", 8080), ("silence", "silence"))
    finally:
        rename("bwt-g", "bwt-w", "fd00:203::1/64")
    check("outside again", until(lambda: both(try_tcp, "w", "a", 8080) == ("open", "open")), True)
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

    def publish(ruleset, port=9300):
        for family, to in ((socket.AF_INET, V4["a"]), (socket.AF_INET6, V6["a"])):
            ruleset.publish.append(
                struct.pack(
                    "=BBH16sBBH16s", family, TCP, port, b"", family, 0, 8080, socket.inet_pton(family, to)
                )
            )
        return ruleset

    serve(None, 9300)
    serve(None, 9301)
    publish(known(Ruleset())).commit(g)
    check(
        "proxy socket: denied like the container",
        published(9300),
        ("silence", "silence"),
    )
    check("another host port is not judged", try_tcp("w", "10.203.0.1", 9301), "open")
    check("proxy socket from a neighbour: denied", try_tcp("b", "10.201.0.1", 9300), "silence")
    publish(known(Ruleset()).rule(WORLD, A, tcp(8080)).rule(B, A, tcp(8080))).commit(g)
    check(
        "proxy socket: allowed like the container",
        published(9300),
        ("open", "open"),
    )
    check("proxy socket from a neighbour: allowed, answers too", try_tcp("b", "10.201.0.1", 9300), "open")
    check("from the host itself", try_tcp(None, "127.0.0.1", 9300), "open")
    for who, address in (("w", "10.203.0.1"), ("w", "fd00:203::1"), ("b", "10.201.0.1"), (None, "127.0.0.1")):
        check_proxy_says(g, publish, who, address)
    check_host_hears_of_the_unknown(g)
    known(Ruleset(defaults=(DENY, ALLOW, DENY, DENY, ALLOW, DENY)).rule(WORLD, HOST, tcp(9301))).commit(g)
    check(
        "host ingress: denied, allowed",
        (try_tcp("w", "10.203.0.1", 9300), try_tcp("w", "10.203.0.1", 9301)),
        ("silence", "open"),
    )
    check("host ingress: the host's own connections live", try_tcp(None, V4["w"], 8080), "open")


def test_proxy_ports(g):
    """A socket of docker-proxy's while commits add and remove its port, and roll backs undo them: at the next packet, both ways."""

    def taken(ruleset):
        for family, to in ((socket.AF_INET, V4["a"]), (socket.AF_INET6, V6["a"])):
            to = socket.inet_pton(family, to)
            ruleset.publish.append(struct.pack("=BBH16sBBH16s", family, UDP, 9310, b"", family, 0, 9000, to))
        return ruleset

    def heard():
        """How many of the clients the socket hears, and how many hear it."""
        for client in clients:
            client.send(b"asks")
        asked = 0
        while asked < len(clients) and comes(server):
            server.recv(10)
            asked += 1
        for peer in peers:
            with contextlib.suppress(OSError):
                server.sendto(b"says", peer)
        said = at_once([(comes, client) for client in clients])
        for client in (c for c, told in zip(clients, said) if told):
            client.recv(10)
        return asked, sum(said)

    free, taken_by_a = known(Ruleset()), taken(known(Ruleset()))
    every, none = (2, 2), (0, 0)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
        server.bind(("::", 9310))
        free.commit(g)
        clients = [stack.enter_context(udp_to("w", to, 9310)) for to in ("10.203.0.1", "fd00:203::1")]
        peers = []
        for client in clients:
            client.send(b"asks")
            peers.append(server.recvfrom(10)[1])
        check("nobody's port: not judged", heard(), every)
        taken_by_a.commit(g)
        check("a commit publishes it: denied as its container", heard(), none)
        free.commit(g, timeout=60)
        check("in a window it is nobody's again", heard(), every)
        g.ask(ROLLBACK)
        check("rolled back: denied", heard(), none)
        first = g.generation()
        free.commit(g, timeout=WINDOW)
        check("in a shorter window it is nobody's", heard(), every)
        check("that ends: denied", (until(lambda: g.generation() == first), heard()), (True, none))
        taken(known(Ruleset().rule(WORLD, A, udp(9000)))).commit(g)
        check("its container is allowed", heard(), every)
        free.commit(g)
        check("nobody's port by a commit", heard(), every)
        taken_by_a.commit(g, timeout=60)
        check("published in a window: denied", heard(), none)
        g.ask(ROLLBACK)
        check("rolled back: nobody's", heard(), every)
        known(Ruleset(defaults=(DENY, ALLOW, DENY, DENY, ALLOW, DENY))).commit(g, timeout=60)
        check("host ingress is judged: it hears nobody", heard(), (0, 2))
        g.ask(ROLLBACK)
        check("rolled back: not judged", heard(), every)


def check_host_hears_of_the_unknown(g):
    """Whose container is not known yet, docker-proxy must not wait for, with what its client has said."""

    def tried(who):
        return tuple(
            at_once(
                [
                    (attempt, who, address, port)
                    for address in (V4["a"], V6["a"])
                    for attempt, port in ((try_tcp, 8080), (try_udp, 9000))
                ]
            )
        )

    everything = (ALLOW,) * 6
    known(Ruleset(defaults=everything)).commit(g)
    check("the host reaches a container", tried(None), ("open",) * 4)
    Ruleset(defaults=everything).commit(g)
    check("unknown, the host hears so at once", tried(None), ("refused",) * 4)
    check("its neighbours do not", tried("b"), ("silence",) * 4)
    known(Ruleset(defaults=(DENY,) * 6)).commit(g)
    check("nor does the host of one it may not reach", try_tcp(None, V4["a"], 8080), "silence")


def check_proxy_says(g, publish, who, address):
    """What docker-proxy's socket says by itself, on a connection that it took before the policy knew of it."""
    with contextlib.closing(socket.socket(socket.AF_INET6, socket.SOCK_STREAM)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", 9302))
        listener.listen(1)
        known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
        with connect(who, address, 9302) as client, listener.accept()[0] as server:
            reset_at_close(server)
            said = []
            everything = (ALLOW,) * 6
            nothing = (DENY,) * 6
            for defaults in (everything, nothing):
                publish(known(Ruleset(defaults=(*defaults[:5], ALLOW))), 9302).commit(g)
                server.send(b"x")
                try:
                    said.append(receive(client))
                except TimeoutError:
                    said.append(b"")
    publish(known(Ruleset().rule(WORLD, A, tcp(8080)))).commit(g)
    check(f"proxy socket: what it says to {who or 'the host'} at {address} goes or not", said, [b"x", b""])


def new_holder(port):
    """Another container c: its addresses, and the number of its port."""
    run("ip", *("link add bwt-c index %d type veth peer name eth0 netns bwt-c" % port).split())
    run("ip", "link", "set", "bwt-c", "master", "bwt1", "up")
    run("ip", "-n", "bwt-c", "link", "set", "eth0", "up")
    for cmd in (
        "addr add %s/24 dev eth0" % V4["c"],
        "addr add %s/64 dev eth0 nodad" % V6["c"],
        "route add default via 10.202.0.1",
        "-6 route add default via fd00:202::1",
    ):
        run("ip", "-n", "bwt-c", *cmd.split())


def test_link_gone(g):
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("c is reached", try_tcp("w", "10.203.0.1", 18080), "open")
    check("c answers", try_tcp("a", V4["c"], 8080), "open")
    with one_processor():
        link_gone(g, [udp_to("a", V["c"], 9000) for V in (V4, V6)])


def link_gone(g, flows):
    check("streams to it are remembered", remembered(flows), True)
    port = ifindex("bwt-c")
    run("ip", "link", "del", "bwt-c")
    ids = {
        socket.inet_ntop(socket.AF_INET, r[A_ADDR][0]): struct.unpack("=I", r[A_IDENTITY][0])[0]
        for r in g.ask(ENDPOINTS, flags=0x301)
        if len(r[A_ADDR][0]) == 4
    }
    check("the endpoint died with its port", (ids[V4["c"]], ids[V4["a"]]), (0, A))
    new_holder(port)
    check("nor anything of what was remembered", talks(flows), [False] * 2)
    before = g.counters()
    check("a new holder of address and number inherits nothing", try_tcp("a", V4["c"], 8080), "silence")
    check("it is unmanaged", grew(g, before, UNMANAGED), True)
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("known again, it passes", until(lambda: try_tcp("a", V4["c"], 8080) == "open"), True)
    for s in flows:
        s.close()


@contextlib.contextmanager
def one_processor():
    """What is remembered is each processor's own. Threads that begin here stay here, too."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def remembered(flows):
    """Whether each of them is echoed often enough that its next packet is not judged: new, then answered, then twice the same."""
    return all(talks(flows) == [True] * len(flows) for _ in range(5))


def test_remembered(g):
    """What was remembered of a ruleset holds as long as that: until another comes by a commit, a roll back or a window's end."""
    nothing = known(Ruleset(defaults=(DENY,) * 6))
    allow = known(Ruleset().rule(A, B, udp(9000)).rule(WORLD, A, udp(9000), direct=True))
    ways = [("a", "b"), ("a", "w"), ("w", "a")]
    cut, up = [False] * 6, [True] * 6
    with one_processor(), contextlib.ExitStack() as stack:
        nothing.commit(g)
        flows = [stack.enter_context(udp_to(ns, V[peer], 9000)) for ns, peer in ways for V in (V4, V6)]
        check("same bridge, egress, ingress: denied", talks(flows), cut)
        allow.commit(g, timeout=60)
        check("allowed, and remembered", remembered(flows), True)
        g.ask(ROLLBACK)
        check("rolled back: each is cut at its next packet", talks(flows), cut)
        first = g.generation()
        allow.commit(g, timeout=WINDOW)
        check("allowed once more, and remembered", remembered(flows), True)
        check("the window ends", until(lambda: g.generation() == first), True)
        check("and with it each of them", talks(flows), cut)
        allow.commit(g)
        check("allowed for good, and remembered", remembered(flows), True)
        nothing.commit(g, timeout=60)
        check("a commit denies them: cut", talks(flows), cut)
        g.ask(ROLLBACK)
        check("rolled back: they go on", talks(flows), up)
        check("and are remembered", remembered(flows), True)
        allow.commit(g, timeout=60)
        g.ask(CONFIRM)
        check("confirmed: they go on", talks(flows), up)
        Ruleset(guards=()).commit(g)
        check("no guard: they go on", talks(flows), up)
        nothing.commit(g)
        check("guards again: cut", talks(flows), cut)


def test_window(g):
    known(Ruleset().rule(A, B, tcp(8080))).commit(g)
    first = g.generation()
    second = known(Ruleset()).commit(g, timeout=WINDOW)
    check("a window is open", A_REMAINING in g.ask(INFO)[0], True)
    check("no commit beside it", refusal(known(Ruleset()).commit, g), "EBUSY")
    check("in force at once", try_tcp("a", V4["b"], 8080), "silence")
    check(
        "unconfirmed, the old one is back",
        (until(lambda: g.generation() == first), try_tcp("a", V4["b"], 8080)),
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


def close_late(listener, seconds):
    client = listener.accept()[0]
    client.recv(1)
    time.sleep(seconds)
    client.close()


def test_settled(g):
    """What comes after a probe is waited for: from a server that closes late, over a slow link; and what never ends is named."""
    known(Ruleset().rule(A, B, ANY)).commit(g)

    def late(port):
        with connect("a", V4["b"], port) as s:
            reset_at_close(s, False)
        early = g.counters()[RULE]
        found = settled(g.counters)[RULE]
        return found > early, settled(g.counters)[RULE] - found

    with inside("b"):
        listener = socket.socket()
    with listener:
        listener.bind(("0.0.0.0", 9303))
        listener.listen(1)
        server = threading.Thread(target=close_late, args=(listener, 4 * QUIET))
        server.start()
        check("a server closes late: more comes, then nothing", late(9303), (True, 0))
        server.join()
    slow = ["tc", "qdisc", "add", "dev", "bwt-a", "root", "netem", "delay", "%dms" % (2000 * QUIET)]
    if not shutil.which("tc"):
        print("# no tc: a slow link is not tested")
    elif subprocess.run(slow, check=False, stderr=subprocess.DEVNULL).returncode:
        print("# no netem in this kernel: a slow link is not tested")
    else:
        check("a slow link: more comes, then nothing", late(8080), (True, 0))
        run("tc", "qdisc", "del", "dev", "bwt-a", "root")
    with connect("a", V4["b"], 8080) as s:
        known(Ruleset()).commit(g)
        s.send(b"x")
        try:
            said = settled(g.counters, 1)
        except RuntimeError as e:
            said = str(e)
    check("who repeats itself is named", "a: %s port" % V4["a"] in said and "unacknowledged" in said, True)
    rest()


def test_counters(g):
    base = known(Ruleset().rule(A, B, tcp(8080)))
    base.commit(g)
    try_tcp("a", V4["b"], 8080)
    before = settled(g.counters)
    known(Ruleset().rule(A, A, tcp(1)).rule(A, B, tcp(8080))).commit(g)
    after = g.counters()
    check("a rule keeps its count, wherever it stands", after[RULE + 1] >= before[RULE] > 0, True)
    check("a new rule begins at 0", after[RULE], 0)
    known(Ruleset()).commit(g, timeout=60)
    g.ask(ROLLBACK)
    check("rolling back counts nothing twice", g.counters()[RULE + 1], after[RULE + 1])


WITNESS = """table inet bwn {
  chain f { type filter hook forward priority 0; udp dport 7000 counter; }
}"""


def witnessed():
    said = subprocess.run(["nft", "list", "table", "inet", "bwn"], check=True, stdout=subprocess.PIPE)
    return int(re.search(rb"counter packets (\d+)", said.stdout).group(1))


def test_counters_whole(g):
    """Each packet is counted once, in whichever ruleset: nft counts the same ones right behind us."""
    swaps = int(os.environ.get("BW_SWAPS", "100"))
    one = known(Ruleset().rule(A, B, udp(7000)))
    two = known(Ruleset().rule(C, A, tcp(5)).rule(A, B, udp(7000)))
    one.commit(g)
    start = g.counters().get(RULE, 0)
    into = sink("b", 7000)
    subprocess.run(["nft", "-f", "-"], input=WITNESS.encode(), check=True)
    pids = []
    for _ in range(2):
        pids.append(os.fork())
        if not pids[-1]:
            try:
                with udp_to("a", V4["b"], 7000) as s:
                    while True:
                        with contextlib.suppress(OSError):
                            s.send(b"x")
            finally:
                os._exit(1)
    try:
        for n in range(swaps):
            two.commit(g)
            one.commit(g, timeout=60 if n % 3 else 0)
            if n % 3 == 1:
                g.ask(CONFIRM)
            elif n % 3 == 2:
                g.ask(ROLLBACK)
        one.commit(g)
    finally:
        for pid in pids:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
    found = settled(g.counters)[RULE] - start
    print("# %d packets, %d commits" % (witnessed(), 2 * swaps + 1))
    check("commits and roll backs lose no packet of a count", found - witnessed(), 0)
    run("nft", "delete", "table", "inet", "bwn")
    into.close()


def test_refusals(g):
    generation = g.generation()
    check("stale generation", refusal(known(Ruleset()).commit, g, expect=generation + 1), "ESTALE")
    check(
        "dry run", (refusal(known(Ruleset()).commit, g, dry=True), g.generation()), ("accepted", generation)
    )
    check(
        "a queue rule without a queue", refusal(known(Ruleset().rule(A, B, ANY, QUEUE)).commit, g), "EINVAL"
    )
    check("a queue beyond the last", refusal(known(Ruleset().queue(A, B, ANY, 65535, 2)).commit, g), "EINVAL")
    check(
        "a default that queues",
        refusal(known(Ruleset(defaults=(QUEUE,) + (ALLOW,) * 5)).commit, g),
        "EINVAL",
    )
    check(
        "a queue inside a container",
        refusal(known(Ruleset(placement=2)).queue(A, B, ANY, 5, 1).commit, g),
        "ENOTSUP",
    )
    check("an unknown placement", refusal(g.ask, BEGIN, nla(A_PLACEMENT, b"\3")), "ERANGE")
    check("half a truth about the log", refusal(g.ask, BEGIN, nla(A_LOG_DEFAULTS, b"\2")), "ERANGE")
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
        cmd = 1 + i % 10  # not SEAL
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
    s.settimeout(PATIENCE)
    return s


LAST = b"the last"


def drain(s, ns, address):
    """How many datagrams had come when one came that is sent now, the same way and so behind them. It must be allowed."""
    count = 0
    with udp_to(ns, *address) as sender:
        sender.send(LAST)
    while s.recv(10) != LAST:
        count += 1
    s.close()
    return count


def grown(g, before, index):
    return g.counters().get(index, 0) - before.get(index, 0)


def talks(flows):
    """talk() for each."""
    return at_once([(talk, s) for s in flows])


def talk(s):
    """True: echoed."""
    try:
        return echo(s)
    except OSError:
        return False


def udp_to(ns, address, port):
    with inside(ns):
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((address, port))
    return s


QUEUED = (
    ("same bridge", "a", "b", try_tcp, 8080),
    ("same bridge, udp", "a", "b", try_udp, 9000),
    ("routed", "a", "c", try_tcp, 8080),
    ("egress", "a", "w", try_udp, 9000),
    ("from the host", None, "a", try_tcp, 8080),
)


def queueing(num=5, count=1, bypass=False, **kwargs):
    r = known(Ruleset(**kwargs))
    for frm, to in ((A, B), (A, C), (A, WORLD), (HOST, A), (WORLD, A), (A, HOST)):
        r.queue(frm, to, ANY, num, count, bypass)
    return r


def queue_ways(want, why):
    ways = [(what, fn, ns, V[peer], port) for what, ns, peer, fn, port in QUEUED for V in (V4, V6)]
    ways += [
        ("published port", try_tcp, "w", "10.203.0.1", 18080),
        ("published port", try_tcp, "w", "fd00:203::1", 18080),
    ]
    ways += [("to the host", try_tcp, "a", "10.201.0.1", 9400)]
    for way, got in zip(ways, at_once([way[1:] for way in ways])):
        check("%s, IPv%d: %s" % (way[0], 6 if ":" in way[3] else 4, why), got, want)


def test_queue(g):
    run("modprobe", "nfnetlink_queue")
    serve(None, 9400)
    for placement in (FORWARD, POSTROUTING):
        where = "" if placement == FORWARD else ", late"
        queueing(placement=placement).commit(g)
        queue_ways("silence", "nobody listens" + where)
        queueing(bypass=True, placement=placement).commit(g)
        queue_ways("open", "nobody listens, bypass" + where)
        queueing(placement=placement).commit(g)
        listener = Listener(5)

        def passed():
            counted = g.counters()
            return sum(counted[RULE + i] for i in range(6)), queue_seen(5)

        before = settled(passed)
        queue_ways("open", "the listener accepts" + where)
        counted, seen = (now - then for now, then in zip(settled(passed), before))
        check("each packet queued and counted once" + where, (counted > 60, counted), (True, seen))
        dropped = at_once([(one_dropped, *way) for way in QUEUED])
        for (what, *_), found in zip(QUEUED, dropped):
            check("%s: the listener drops one packet" % what + where, found, (True, b""))
        s = udp_to("a", V4["b"], 9000)
        up = talk(s)
        listener.kill()
        check("the listener is killed: closed" + where, (up, talk(s)), (True, False))
        queueing(bypass=True, placement=placement).commit(g)
        check("the listener is killed, bypass: open" + where, talk(s), True)
        s.close()
    queueing(mode=1).commit(g)
    queue_ways("open", "audit mode queues nothing")


def one_dropped(_, ns, peer, fn, port):
    """Whether a flow works, and what comes back for a packet that the listener drops."""
    with connect(ns, V4[peer], port) if fn is try_tcp else udp_to(ns, V4[peer], port) as s:
        first = talk(s)
        s.send(b"EVIL")
        return first, talk_any(s)


def talk_any(s):
    try:
        return receive(s)
    except OSError:
        return b""


def test_queue_full(g):
    queueing(bypass=True).commit(g)
    listener = Listener(5, maxlen=2, answer=False)
    with inside("a"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    got = sink("b", 7000)
    for _ in range(50):
        s.sendto(b"x", (V4["b"], 7000))
    dropped = until(lambda: queue_seen(5, 5) > 0)
    listener.kill()  # bypass lets pass what comes then
    check("a full queue drops, bypass or not", (dropped, drain(got, "a", (V4["b"], 7000))), (True, 0))


def test_queue_fanout(g):
    # One service only: what earlier tests left unanswered is sent again, and must not be counted here.
    known(Ruleset().queue(A, B, udp(9000), 6, 2).queue(A, C, udp(9000), 6, 2)).commit(g)
    listeners = [Listener(6), Listener(7)]
    for what, peer in (("same bridge", "b"), ("routed", "c")):
        start = [queue_seen(6), queue_seen(7)]
        split = 0
        for _ in range(24):
            before = queue_seen(6), queue_seen(7)
            with udp_to("a", V4[peer], 9000) as s:
                for _ in range(3):
                    talk(s)
            split += queue_seen(6) > before[0] and queue_seen(7) > before[1]
        spread = [queue_seen(6) - start[0], queue_seen(7) - start[1]]
        check(
            "%s: two queues share, a connection stays in one" % what,
            (min(spread) >= 18, sum(spread), split),
            (True, 144, 0),
        )
    for listener in listeners:
        listener.kill()


def test_postrouting(g):
    """The verdicts of test_verdicts, taken later."""
    for placement in (FORWARD, POSTROUTING):
        known(
            Ruleset(placement=placement)
            .rule(A, B, udp(9000))
            .rule(A, C, udp(9000))
            .rule(A, B, tcp(8081), REJECT)
            .rule(WORLD, A, tcp(8080))
            .rule(A, HOST, udp(9500))
        ).commit(g)
        where = "forward" if placement == FORWARD else "postrouting"
        rest()
        for what, peer, index in (
            ("same bridge", "b", RULE),
            ("other bridge", "c", RULE + 1),
            ("egress", "w", 1),
        ):
            for address in (V4[peer], V6[peer]):
                before = g.counters()
                with udp_to("a", address, 9000) as s:
                    fine = [talk(s) for _ in range(5)]
                check(
                    "%s: %s, each packet counted once" % (where, what),
                    (all(fine), grown(g, before, index)),
                    (True, 10),
                )
        before = g.counters()
        check("%s: same bridge, denied" % where, both(try_tcp, "b", "a", 8080), ("silence", "silence"))
        check("%s: counted" % where, grew(g, before, 2), True)
        other, direct, to_host = at_once(
            [
                (both, try_tcp, "c", "a", 8080),
                (both, try_tcp, "w", "a", 8080),
                (try_tcp, "a", "10.201.0.1", 22),
            ]
        )
        check("%s: other bridge, denied" % where, other, ("silence", "silence"))
        check("%s: from the host, allowed" % where, both(try_tcp, None, "a", 8080), ("open", "open"))
        check("%s: to the host, denied" % where, to_host, "silence")
        check(
            "%s: published port, allowed" % where,
            published(),
            ("open", "open"),
        )
        check("%s: direct, denied" % where, direct, ("silence", "silence"))
        check(
            "%s: reject" % where,
            both(try_tcp, "a", "b", 8081),
            ("refused",) * 2 if placement == FORWARD else ("silence",) * 2,
        )
    before = g.counters()
    run("ip", "-n", "bwt-a", "addr", "add", V4["c"] + "/32", "dev", "eth0")
    check("postrouting: spoofed", try_udp("a", V4["w"], 9000, V4["c"]), "silence")
    check("postrouting: counted as spoofed", grew(g, before, SPOOFED), True)
    run("ip", "-n", "bwt-a", "addr", "del", V4["c"] + "/32", "dev", "eth0")


OUTPUT = """table inet bwo {
  chain nat { type nat hook output priority -100; tcp dport 18090 dnat ip to 10.201.0.2:8080
              tcp dport 18090 dnat ip6 to [fd00:201::2]:8080; }
  chain way { type route hook output priority -150; udp dport 18091 meta mark set 0xb3; }
}"""


def rerouted(g, where, default, placement):
    """To an address in the world, which a mark sends to the bridge."""
    if subprocess.run(["ip", "rule", "list"], check=False, capture_output=True).returncode:
        print("# no policy routing in this kernel: what a mark reroutes is not tested")
        return
    run("ip", "route", "add", "198.18.0.0/24", "via", V4["w"])
    known(Ruleset(defaults=default, placement=placement)).commit(g)
    before = g.counters()
    try_udp(None, "198.18.0.1", 18092)
    check(where + "a packet that goes elsewhere is not judged", grew(g, before, UNMANAGED), False)
    for words in (
        ["rule", "add", "fwmark", "0xb3", "lookup", "179"],
        ["route", "add", "198.18.0.0/24", "via", V4["a"], "table", "179"],
    ):
        run("ip", *words)
    try_udp(None, "198.18.0.1", 18091)
    check(where + "one that a mark sends to the bridge is", grew(g, before, UNMANAGED), True)
    run("ip", "route", "flush", "table", "179")
    run("ip", "rule", "del", "lookup", "179")
    run("ip", "route", "del", "198.18.0.0/24")


def test_from_host(g):
    """What the host sends is judged by where it goes in the end, not by where it was routed at first."""
    own = {4: ("10.203.0.1", 18090), 6: ("fd00:203::1", 18090)}

    def reached():
        return tuple(at_once([(try_tcp, None, *own[v]) for v in (4, 6)]))

    default = (DENY, ALLOW, DENY, DENY, ALLOW, ALLOW)
    for placement in (FORWARD, POSTROUTING):
        where = "from the host, placement %d: " % placement
        known(Ruleset(defaults=default, placement=placement)).commit(g)
        check(where + "nobody listens on the port", reached(), ("refused", "refused"))
        subprocess.run(["nft", "-f", "-"], input=OUTPUT.encode(), check=True)
        before = g.counters()
        check(where + "published, allowed", reached(), ("open", "open"))
        check(where + "counted as default_from_host", grew(g, before, 4), True)
        closed = (*default[:4], DENY, ALLOW)
        known(Ruleset(defaults=closed, placement=placement)).commit(g)
        check(where + "published, denied", reached(), ("silence", "silence"))
        allowed = known(Ruleset(defaults=closed, placement=placement)).rule(HOST, A, tcp(8080))
        allowed.commit(g)
        check(where + "allowed by a rule for the container's port", reached(), ("open", "open"))
        before = settled(g.counters)
        with connect(None, *own[4]) as s:
            check(where + "established", all(echo(s) for _ in range(4)), True)
        count = settled(g.counters)[RULE] - before[RULE]
        check(where + "each packet once: %d" % count, 10 <= count <= 20, True)
        known(Ruleset(defaults=default, placement=placement)).rule(HOST, A, tcp(8080), REJECT).commit(g)
        check(where + "rejected, and told so", reached(), ("refused", "refused"))
        rerouted(g, where, default, placement)
        run("nft", "delete", "table", "inet", "bwo")


def hears_itself(group, name="bwt0"):
    """Whether a socket of the host's gets the multicast that another one of its sends by the link."""
    v6 = ":" in group
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if v6 else (socket.AF_INET, socket.IPPROTO_IP)
    index = struct.pack("=I", ifindex(name))
    with socket.socket(family, socket.SOCK_DGRAM) as there, socket.socket(family, socket.SOCK_DGRAM) as s:
        there.bind((group, 9777))
        if v6:
            packed = socket.inet_pton(family, group) + index
            there.setsockopt(level, socket.IPV6_JOIN_GROUP, packed)
            s.setsockopt(level, socket.IPV6_MULTICAST_IF, index)
        else:
            member = socket.inet_aton(group) + bytes(4) + index
            there.setsockopt(level, socket.IP_ADD_MEMBERSHIP, member)
            s.setsockopt(level, socket.IP_MULTICAST_IF, member)
        s.sendto(b"to myself", (group, 9777))
        return receive(there, 100) == b"to myself"


def test_own_multicast(g):
    """The host's own copy of what it sends to a group comes in by the guarded link, and is no container's."""
    groups = ("239.255.77.1", "ff15::77:1")
    Ruleset(guards=()).commit(g)
    check("unguarded: the host hears itself", [hears_itself(one) for one in groups], [True, True])
    known(Ruleset()).commit(g)
    before = g.counters()
    check("to_host denied: it still does", [hears_itself(one) for one in groups], [True, True])
    check("nobody is taken for unmanaged", grew(g, before, UNMANAGED), False)
    known(Ruleset(defaults=(DENY, ALLOW, DENY, ALLOW, DENY, ALLOW))).commit(g)
    sent = refusal_of_send(groups)
    check("from_host denied: it cannot be sent", sent, ["EPERM", "EPERM"])


def refusal_of_send(groups):
    found = []
    for one in groups:
        try:
            found.append(hears_itself(one))
        except OSError as e:
            found.append(errno.errorcode.get(e.errno))
    return found


def test_swap_placement(g):
    swap(g, POSTROUTING)


def test_reject_bare_bridge(g):
    """A bridge without an address of its own."""
    known(Ruleset().rule(A, B, tcp(8081), REJECT).rule(A, B, udp(9001), REJECT)).commit(g)
    check("the neighbour is known", try_tcp("a", V4["b"], 8081), "refused")
    for address in ("10.201.0.1/24", "fd00:201::1/64"):
        run("ip", "addr", "del", address, "dev", "bwt0")
    before = g.counters()
    said = both(try_tcp, "a", "b", 8081) + both(try_udp, "a", "b", 9001)
    print("# a bridge without an address, tcp and udp rejected: %s" % (said,))
    check("without an address: dropped at least", ("open" in said, grew(g, before, RULE)), (False, True))
    run("ip", "addr", "add", "10.201.0.1/24", "dev", "bwt0")
    run("ip", "addr", "add", "fd00:201::1/64", "dev", "bwt0", "nodad")


FLOWTABLE = """table inet bwf {
  flowtable f { hook ingress priority 0; devices = { bwt0, bwt-a, bwt-w }; }
  chain late { type filter hook forward priority 10; meta l4proto { tcp, udp } flow add @f; }
}"""


def offloaded(g, flows, index):
    """Whether they work and their packets pass none of our hooks."""
    for s in flows:
        for _ in range(3):
            talk(s)
    before = settled(g.counters)
    works = [talk(s) for s in flows for _ in range(3)]
    # A commit may deny an acknowledgement that is still delayed: the other end would repeat its last answer for minutes.
    rest()
    return all(works), grown(g, before, index)


def test_offload(g):
    allow, deny = Ruleset(), Ruleset(defaults=(DENY, DENY, DENY, DENY, ALLOW, ALLOW))
    for r in (allow, deny):
        known(r)
    subprocess.run(["nft", "-f", "-"], input=FLOWTABLE.encode(), check=True)
    try:
        for again in ("commit", "roll back"):
            allow.commit(g)
            if again == "roll back":
                deny.commit(g)
                allow.commit(g, timeout=60)
            flows = [connect("a", V4["w"], 8080), connect("a", V6["w"], 8080)]
            flows += [udp_to("a", V4["w"], 9000), udp_to("a", V6["w"], 9000)]
            check("flows are offloaded: no hook sees them", offloaded(g, flows, 1), (True, 0))
            if again == "roll back":
                g.ask(ROLLBACK)
            else:
                deny.commit(g)
            check("%s ends them at the next packet" % again, talks(flows), [False] * 4)
            for s in flows:
                s.close()
        allow.commit(g)
        flows = [udp_to("a", V4["w"], 9000)]
        check("offloaded anew", offloaded(g, flows, 1), (True, 0))
        allow.commit(g)
        before = g.counters()
        check(
            "what stays allowed goes on, seen once more", (talk(flows[0]), grew(g, before, 1)), (True, True)
        )
        flows[0].close()
    finally:
        run("nft", "delete", "table", "inet", "bwf")


def test_log(g):
    log = Log(7)
    rules = Ruleset(log=(7, 0)).rule(A, B, udp(9001), DENY, log=True).rule(B, A, udp(9000), REJECT, log=True)
    known(rules).commit(g)
    try_udp("c", V4["a"], 9000)  # first what must not be logged: the others' lines come behind it
    try_udp("b", V4["a"], 9000)
    try_udp("a", V4["b"], 9001)
    check(
        "rules with log: true are logged, with their class",
        set(log.prefixes()),
        {
            "bridgewarden: deny inter_container rule rule 0",
            "bridgewarden: reject inter_container rule rule 1",
        },
    )
    rules.log = (7, 1)
    rules.commit(g)
    try_udp("c", V4["a"], 9000)
    try_udp("w", V6["a"], 9000)
    check(
        "and drops without a rule, if wanted",
        set(log.prefixes()),
        {"bridgewarden: deny inter_container default", "bridgewarden: deny ingress direct"},
    )
    rules.mode = 1
    rules.commit(g)
    try_udp("c", V4["a"], 9000)
    try_udp("a", V4["b"], 9001)
    check(
        "audit mode says so",
        set(log.prefixes()),
        {
            "bridgewarden: audit deny inter_container default",
            "bridgewarden: audit deny inter_container rule rule 0",
        },
    )
    rules.mode = 0
    rules.commit(g)

    def swallowed():
        return struct.unpack("=Q", g.ask(INFO)[0][A_SWALLOWED][0])[0]

    before, first = g.counters(), swallowed()
    with udp_to("c", V4["a"], 9000) as s:
        for _ in range(600):
            s.send(b"x")
    settled(g.counters)
    lines = log.prefixes().count("bridgewarden: deny inter_container default")
    check(
        "a flood is cut, and what is cut is counted",
        (lines + swallowed() - first, swallowed() > first),
        (grown(g, before, 2), True),
    )
    log.close()


#: Rules that the loud one breaks, by turns.
LOUD = 12


def loud(ports, cpu, stop):
    """From c, as fast as it can."""
    os.sched_setaffinity(0, {cpu})
    with inside("c"):
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with s:
        while not stop.is_set():
            for port in ports:
                with contextlib.suppress(OSError):
                    s.sendto(b"x", (V4["a"], port))


def quiet(count, cpu):
    """From a, now and then."""
    os.sched_setaffinity(0, {cpu})
    with udp_to("a", V4["b"], 9001) as s:
        for _ in range(count):
            s.send(b"x")
            time.sleep(0.1)


def test_log_apart(g):
    """Who is denied all the time does not keep others' denials out of the log. All on one CPU, whose limit it is."""
    log, cpu, count = Log(7), min(os.sched_getaffinity(0)), 30
    rules = Ruleset(log=(7, 0)).rule(A, B, udp(9001), DENY, log=True)
    for n in range(LOUD):
        rules.rule(C, A, udp(9100 + n), DENY, log=True)
    known(rules).commit(g)
    mine = "bridgewarden: deny inter_container rule rule 0"

    def seen(ports):
        stop = threading.Event()
        others = threading.Thread(target=loud, args=(ports, cpu, stop))
        one = threading.Thread(target=quiet, args=(count, cpu))
        if ports:
            others.start()
            time.sleep(0.3)
        one.start()
        one.join()
        stop.set()
        if ports:
            others.join()
        return collections.Counter(log.prefixes())

    check("alone, each is logged", seen(())[mine], count)
    for words, ports in (("one rule", [9100]), ("many", [9100 + n for n in range(LOUD)])):
        before = struct.unpack("=Q", g.ask(INFO)[0][A_SWALLOWED][0])[0]
        found = seen(ports)
        cut = struct.unpack("=Q", g.ask(INFO)[0][A_SWALLOWED][0])[0] - before
        print("# %d of %d, %d others, %d cut" % (found[mine], count, sum(found.values()) - found[mine], cut))
        # Two that fall into one bucket are spread anew after a second: ten of them.
        check(
            "beside one who breaks %s all the time as well" % words,
            (cut > 100, found[mine] >= count - 10),
            (True, True),
        )
    log.close()


AHEAD = """table inet bwx {
  chain i { type filter hook input priority -2147483648; }
  chain f { type filter hook forward priority -2147483648; }
  chain o { type route hook output priority 2147483647; }
  chain p { type filter hook postrouting priority -2147483648; }
}"""


def test_hooks(g):
    def told():
        info = g.ask(INFO)[0]
        names = [who.rstrip(b"\0").decode() for who in info.get(A_AHEAD, [])]
        return info[A_FIRST] == info[A_EXPECTED], sorted(names)

    for placement, late in ((FORWARD, ()), (POSTROUTING, ("POST_ROUTING",)), (FORWARD, ())):
        known(Ruleset(placement=placement)).commit(g)
        where = "placement %d: " % placement
        check(where + "our hooks run first", told(), (True, []))
        subprocess.run(["nft", "-f", "-"], input=AHEAD.encode(), check=True)
        first, names = told()
        places = [
            "%s %s" % (f, p)
            for f in ("IPv4", "IPv6")
            for p in ("FORWARD", "LOCAL_IN", "LOCAL_OUT (behind us)", *late)
        ]
        print("# " + ", ".join(names))
        found = [n.partition(" nft_")[0].partition(" nf_")[0] for n in names]
        check(
            where + "who came later and runs before us, or behind us at LOCAL_OUT, is told",
            (first, found),
            (False, places),
        )
        chain = " " + symbol("nft_do_chain_inet", "nf_tables")
        named = [n.endswith(chain) or " nf_route_table_" in n for n in names]
        check(where + "by name", all(named), True)
        run("nft", "delete", "table", "inet", "bwx")
        until(lambda: told()[0])
        check(where + "gone, they run first again", told(), (True, []))


def test_killed(g):
    """Every process that knew of the window is gone."""
    known(Ruleset().rule(A, B, tcp(8080))).commit(g)
    first = g.generation()
    pid = os.fork()
    if not pid:
        known(Ruleset()).commit(Genl(), timeout=WINDOW)
        os.kill(os.getpid(), 9)
    check("the committer is killed with its window open", os.waitpid(pid, 0)[1], 9)
    check("in force meanwhile", (g.generation() > first, try_tcp("a", V4["b"], 8080)), (True, "silence"))
    check(
        "the kernel rolls back by itself",
        (until(lambda: g.generation() == first), try_tcp("a", V4["b"], 8080)),
        (True, "open"),
    )


def test_seal(g):
    """For good, so only when asked for by name; ends the VM's use for anything else."""
    base = known(Ruleset(defaults=(ALLOW,) * 6))
    base.commit(g, timeout=60)
    check("a window is open: no seal", refusal(g.ask, SEAL), "EBUSY")
    g.ask(CONFIRM)
    generation = g.generation()
    wrong = nla(A_EXPECT, struct.pack("=Q", generation + 1))
    check("another generation is not sealed", refusal(g.ask, SEAL, wrong), "ESTALE")
    check("not sealed yet", A_SEALED in g.ask(INFO)[0], False)
    g.ask(SEAL)
    check("sealed", A_SEALED in g.ask(INFO)[0], True)
    check("twice is no error", refusal(g.ask, SEAL), "accepted")
    check("no commit", refusal(base.commit, g), "EPERM")
    check("no dry run that would promise one", refusal(base.commit, g, dry=True), "EPERM")
    check("no change of guards", refusal(Ruleset(guards=()).commit, g), "EPERM")
    check(
        "no roll back, no confirmation",
        (refusal(g.ask, ROLLBACK), refusal(g.ask, CONFIRM)),
        ("EPERM", "EPERM"),
    )
    check("no unload", subprocess.run(["rmmod", "bridgewarden"], check=False, stderr=-3).returncode, 1)
    check("traffic goes on", try_tcp("a", V4["b"], 8080), "open")
    with one_processor():
        flows = [udp_to("a", V["c"], 9000) for V in (V4, V6)]
        check("and is remembered", remembered(flows), True)
        port = ifindex("bwt-c")
        run("ip", "link", "del", "bwt-c")
        new_holder(port)
        before = g.counters()
        check("a new holder of c's address inherits nothing", talks(flows), [False] * 2)
        check("it is unmanaged", grew(g, before, UNMANAGED), True)
        for s in flows:
            s.close()
    ids = [
        struct.unpack("=I", r[A_IDENTITY][0])[0]
        for r in g.ask(ENDPOINTS, flags=0x301)
        if r[A_ADDR][0] == socket.inet_aton(V4["c"])
    ]
    check("an endpoint still dies with its port", ids, [0])
    check("nothing else changed", g.generation(), generation)


#: Longest ICMP error of a host's own kernel, whole: RFC 1812 section 4.3.2.3, RFC 4443 section 2.4.
LONGEST_ERROR = ((V4, 576), (V6, 1280))


class Asking:
    """A UDP socket whose datagrams somebody reports on; it is told what an error carries, and needs no privilege for that."""

    def __init__(self, ns, to, port, V):
        self.V, self.ns, self.to, self.port = V, ns, to, port
        with inside(ns):
            self.s = socket.socket(socket.AF_INET if V is V4 else socket.AF_INET6, socket.SOCK_DGRAM)
        recverr = (socket.IPPROTO_IP, 11) if V is V4 else (socket.IPPROTO_IPV6, 25)
        self.s.setsockopt(*recverr, 1)
        self.s.connect((V[to], port))

    def told(self, reporter, length):
        """Bytes that it gets by an error of that length, with its IP header, which `reporter` sends about its datagram. 0: none."""
        with contextlib.suppress(OSError):
            self.s.send(b"question")
        while comes(self.s, 0.2):  # of an earlier one
            self.heard()
        with inside(reporter):
            raw = socket.socket(self.s.family, socket.SOCK_RAW, ICMP if self.V is V4 else ICMP6)
        with raw:
            raw.sendto(self.error(length), (self.V[self.ns], 0))
        return self.heard() if comes(self.s) else 0

    def heard(self):
        with contextlib.suppress(OSError):
            return len(self.s.recvmsg(4096, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)[0])
        with contextlib.suppress(OSError):
            self.s.recv(4096, socket.MSG_DONTWAIT)
        return 0

    def error(self, length):
        """A port unreachable, without IP header, that quotes the datagram and goes on with whatever there is room for."""
        family, size = (socket.AF_INET, 20) if self.V is V4 else (socket.AF_INET6, 40)
        ends = [socket.inet_pton(family, self.V[end]) for end in (self.ns, self.to)]
        more = length - 2 * size - 16
        udp_header = struct.pack("!HHHH", self.s.getsockname()[1], self.port, 8 + more, 0)
        if self.V is V6:
            quoted = struct.pack("!IHBB16s16s", 6 << 28, 8 + more, UDP, 64, *ends)
            # The kernel fills in its checksum.
            return struct.pack("!BBHI", 1, 4, 0, 0) + quoted + udp_header + b"x" * more
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + more, 1, 0, 64, UDP, 0, *ends)
        said = quoted + udp_header + b"x" * more
        return struct.pack("!BBHI", 3, 3, checksum(struct.pack("!BBHI", 3, 3, 0, 0) + said), 0) + said

    def close(self):
        self.s.close()


def checksum(data):
    """Of the internet, RFC 1071."""
    total = sum(struct.unpack("!%dH" % (len(data + b"\0") // 2), (data + b"\0")[: len(data) + len(data) % 2]))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def test_errors(g):
    """What a container may pass on by ICMP errors: it is what the connection may, that they quote."""
    for placement in (FORWARD, POSTROUTING):
        for V, longest in LONGEST_ERROR:
            head = 2 * (20 if V is V4 else 40) + 16
            where = "placement %d, IPv%d: " % (placement, 4 if V is V4 else 6)
            known(Ruleset(placement=placement).rule(B, A, udp(7100))).commit(g)
            asking, outside = Asking("b", "a", 7100, V), Asking("b", "w", 7101, V)
            check(where + "an allowed connection's error", asking.told("a", longest), longest - head)
            check(where + "its server may say as much in other ways", asking.told("a", 1400), 1400 - head)
            known(Ruleset(placement=placement)).commit(g)
            check(where + "a denied connection's, revoked", asking.told("a", longest), 0)
            asking.close()
            asking = Asking("b", "a", 7102, V)
            check(where + "a denied connection's, never allowed", asking.told("a", longest), 0)
            check(
                where + "of a connection to the outside, by its server", outside.told("w", 1400), 1400 - head
            )
            check(where + "by a neighbour", outside.told("a", longest), 0)
            asking.close()
            outside.close()


def spoofed_frame(mac, V, source, target, hops, length):
    """A UDP datagram in an Ethernet frame from that MAC address to the bridge; source and target: (end, port)."""
    with open("/sys/class/net/bwt0/address") as handle:
        head = bytes.fromhex(handle.read().strip().replace(":", "")) + mac
    family, size = (socket.AF_INET, 20) if V is V4 else (socket.AF_INET6, 40)
    ends = [socket.inet_pton(family, V[end]) for end, _port in (source, target)]
    data = SECRET.ljust(length - size - 8, b"z")
    said = struct.pack("!HHHH", source[1], target[1], 8 + len(data), 0)
    if V is V4:
        # Don't fragment: a router has to answer one that is too long.
        ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 1, 0x4000, hops, UDP, 0, *ends)
        ip = ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:]
        return head + b"\x08\x00" + ip + said + data
    pseudo = b"".join(ends) + struct.pack("!II", 8 + len(data), UDP)
    said = said[:6] + struct.pack("!H", checksum(pseudo + said + data) or 0xFFFF)
    return (
        head
        + b"\x86\xdd"
        + struct.pack("!IHBB16s16s", 6 << 28, 8 + len(data), UDP, hops, *ends)
        + said
        + data
    )


SECRET = b"what a says to b"
#: What the host answers by itself before it forwards anything: (how it is called, to whom, hop limit, length).
HOST_ERRORS = (
    ("no hop left", "w", 1, 400),
    ("longer than the route's MTU", "w", 64, 1450),
    ("no route", "n", 64, 400),
    ("a neighbour: the router is not needed", "c", 64, 400),
)


def told_by_host(V, to, hops, length):
    """Whether b hears what a sends under b's address, in the host's own error about it."""
    asking = Asking("b", to, 7101, V)
    with inside("a"):
        sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sender.bind(("eth0", 0))
    try:
        with contextlib.suppress(OSError):
            asking.s.send(b"question")
        while comes(asking.s, 0.2):
            asking.heard()
        mac = sender.getsockname()[4]
        frame = spoofed_frame(mac, V, ("b", asking.s.getsockname()[1]), (to, 7101), hops, length)
        for _ in range(3):
            sender.send(frame)
        while comes(asking.s, 0.5):
            with contextlib.suppress(OSError):
                if asking.s.recvmsg(4096, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)[0].startswith(
                    SECRET
                ):
                    return True
            with contextlib.suppress(OSError):
                asking.s.recv(4096, socket.MSG_DONTWAIT)
        return False
    finally:
        sender.close()
        asking.close()


def test_host_errors(g):
    """A container must not talk to another by what the host answers to packets under its address."""
    V4["n"], V6["n"] = "203.0.113.9", "2001:db8:ffff::9"
    run("ip", "link", "set", "bwt-w", "mtu", "1400")
    free = Ruleset(guards=(), defaults=(ALLOW,) * 6)
    for dev in ("all", "bwt0"):
        with open("/proc/sys/net/ipv4/conf/%s/send_redirects" % dev, "w") as f:
            f.write("1")
    try:
        for what, to, hops, length in HOST_ERRORS:
            for V in (V4, V6):
                name = "IPv%d: %s" % (4 if V is V4 else 6, what)
                free.commit(g)
                # An error to one address a second or so, by the kernel's own limit.
                heard = until(functools.partial(told_by_host, V, to, hops, length), 10)
                check(name + ": without a guard b hears it", heard, True)
                known(Ruleset()).commit(g)
                before = g.counters()
                time.sleep(1.1)
                heard = told_by_host(V, to, hops, length)
                check(name + ": with one it does not", heard, False)
                check(name + ": it is counted as what it is", grew(g, before, SPOOFED), True)
    finally:
        del V4["n"], V6["n"]


def parts(g, cmd):
    """A dump, part by part: (the flags of its messages, how many there were before the end)."""
    g.raw(cmd, flags=0x301)
    while True:
        data, at, kinds, flags = g.s.recv(1 << 20), 0, [], 0
        while at < len(data):
            length, kind, its = struct.unpack_from("=IHH", data, at)
            kinds.append(kind)
            flags |= its
            at += (length + 3) & ~3
        yield flags, sum(kind >= 16 for kind in kinds)
        if 3 in kinds:
            return


def roll_back_at_once(g, ruleset):
    ruleset.commit(g, timeout=60)
    g.ask(ROLLBACK)


def test_dump(g):
    """What is in force changes while a dump goes on, and changes back: the dump is flagged, because what it read may be of both."""
    many, other = known(Ruleset()), known(Ruleset())
    for i in range(2000):
        many.endpoint(
            "10.201.%d.%d" % (8 + i // 250, 1 + i % 250), "fd00:201::8:%x" % i, B, ifindex("bwt0"), 0
        )
    many.commit(g)
    undisturbed = list(parts(g, ENDPOINTS))
    check("a dump in several parts", len(undisturbed) > 3, True)
    flags = [flags & DUMP_INTR for flags, _ in undisturbed]
    check("is flagged by none of them if nothing changes", any(flags), False)
    other_g = Genl()
    for said, change in (
        ("a commit", lambda: other.commit(other_g)),
        ("a commit and its roll back", lambda: roll_back_at_once(other_g, other)),
        ("two commits, the second of the same rules", lambda: (other.commit(other_g), many.commit(other_g))),
    ):
        many.commit(g)
        generation = g.generation()
        dump = parts(g, ENDPOINTS)
        next(dump)
        change()
        flags = [flags & DUMP_INTR for flags, _ in dump]
        check("%s between two parts: the dump is flagged" % said, any(flags), True)
        if "roll back" in said:
            check("although the generation is the same", g.generation(), generation)
    other_g.close()


def test_swap(g):
    """Replacing the ruleset loses nothing that both allow and leaks nothing that neither does."""
    swap(g, FORWARD)


def swap(g, other):
    swaps = int(os.environ.get("BW_SWAPS", "100"))
    one = known(Ruleset().rule(A, B, udp(7000)).rule(A, WORLD, udp(7001), DENY))
    two = known(
        Ruleset(placement=other)
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
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    got = [drain(s, "a", to) for s, to in zip(sinks, ((V4["b"], 7000), (V4["b"], 7001), (V4["w"], 7001)))]
    print("# %d swaps, %d packets sent a way" % (swaps, sent[7000]))
    check("swaps lose nothing and leak nothing", (sent[7000] - got[0], got[1], got[2]), (0, 0, 0))


TESTS = (
    test_verdicts,
    test_reject_routed,
    test_revoke,
    test_name_makes_guard,
    test_audit,
    test_spoof,
    test_proxy,
    test_proxy_ports,
    test_remembered,
    test_link_gone,
    test_window,
    test_killed,
    test_settled,
    test_counters,
    test_counters_whole,
    test_postrouting,
    test_from_host,
    test_own_multicast,
    test_queue,
    test_queue_full,
    test_queue_fanout,
    test_reject_bare_bridge,
    test_offload,
    test_log,
    test_log_apart,
    test_hooks,
    test_errors,
    test_host_errors,
    test_dump,
    test_swap,
    test_swap_placement,
    test_refusals,
    test_garbage,
)
#: What leaves the module changed for good.
ON_DEMAND = (test_seal,)


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
        for test in TESTS + ON_DEMAND:
            if test.__name__[5:] in wanted or (not wanted and test in TESTS):
                print("# %s" % test.__name__, flush=True)
                rest()
                test(Genl())
    finally:
        if A_SEALED not in Genl().ask(INFO)[0]:
            Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        world_down(saved)
    return conclude()


if __name__ == "__main__":
    sys.exit(main())
