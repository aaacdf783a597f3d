#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Loading with closed=: it succeeds whatever containers there are, and then no IP passes; as packets.py, whose world it builds on.

    packets.py's a, b, c, w, and two containers p, q in the same N networks: bwl0 .. bwlN-1, guarded, with the ports bwp0 .. bwpN-1 and
    bwq0 .. bwqN-1; there p is 10.206.n.2 and q 10.206.n.3, under fd00:206:n:: as well

On a kernel that can refuse allocations (FAULT_INJECTION), each allocation of the load is refused in turn. BW_KO is the module's file;
BW_CLOSED are more patterns to close, of bridges with other containers, and BW_OTHERS their UDP servers (ADDRESS:PORT ...). --no-faults
leaves the refusals out.
"""

import argparse
import contextlib
import ctypes
import errno
import os
import re
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter

import packets
from bareports import udp4, udp6
from failures import FAULTS, Failing, requests, set_up
from packets import (
    LIBC,
    V4,
    V6,
    A,
    B,
    Genl,
    Ruleset,
    at_once,
    batch,
    batch_if_there,
    both,
    bridge_settings,
    check,
    ifindex,
    inside,
    known,
    run,
    serve,
    tcp,
    try_tcp,
    try_udp,
    udp,
)

KO = os.environ.get("BW_KO", "")
CLOSED = ",".join(["bwt0", "bwt1", "bwl*", *filter(None, os.environ.get("BW_CLOSED", "").split(","))])
#: ADDRESS:PORT of UDP servers in those containers.
OTHERS = [
    (one.rpartition(":")[0], int(one.rpartition(":")[2])) for one in os.environ.get("BW_OTHERS", "").split()
]
MOST = 4000  # allocations of one load
FINIT_MODULE = 313 if os.uname().machine == "x86_64" else 273
#: What a load may not do, because it could fail there: work for each namespace and each of its devices.
PER_NAMESPACE = re.compile(r"\b(ops_init|register_pernet_\w+|register_netdevice_notifier|bw_net_\w+)\+")


def loaded():
    with open("/proc/modules") as f:
        return any(line.startswith("bridgewarden ") for line in f)


def load(nth=0, closed=CLOSED):
    """0 or the error's name, and whether the nth allocation of it was refused."""
    fd = os.open(KO, os.O_RDONLY)
    parameters = ctypes.c_char_p(b"closed=" + closed.encode() if closed else b"")
    failing = Failing(nth) if nth else contextlib.nullcontext()
    try:
        with failing:
            failed = LIBC.syscall(FINIT_MODULE, fd, parameters, 0)
            number = ctypes.get_errno()
    finally:
        os.close(fd)
    return errno.errorcode[number] if failed else 0, bool(nth) and failing.hit


def unload():
    run("rmmod", "bridgewarden")


#: Last octet of the containers in many networks, and their identities.
CONTAINERS = {"p": 2, "q": 3}
P, Q = 6, 7


def many4(ns, n):
    return "10.206.%d.%d" % (n, CONTAINERS[ns])


def many6(ns, n):
    return "fd00:206:%x::%d" % (n, CONTAINERS[ns])


def networks_up(networks):
    """Numbers of networks that the two containers join."""
    lines = []
    for n in networks:
        lines += ["link add bwl%d type bridge" % n, "link set bwl%d up" % n]
        for ns in CONTAINERS:
            lines += [
                "link add bw%s%d type veth peer name eth%d netns bwt-%s" % (ns, n, n, ns),
                "link set bw%s%d master bwl%d up" % (ns, n, n),
            ]
    batch(lines)
    for ns in CONTAINERS:
        lines = []
        for n in networks:
            lines += [
                "addr add %s/24 dev eth%d" % (many4(ns, n), n),
                "addr add %s/64 dev eth%d nodad" % (many6(ns, n), n),
                "link set eth%d up" % n,
            ]
        batch(lines, "-n", "bwt-" + ns)


def containers_up(networks):
    batch(["netns add bwt-" + ns for ns in CONTAINERS])
    networks_up(range(networks))


def containers_down():
    """Whatever there is of them; the ports may go by themselves meanwhile."""
    there = [name for name in os.listdir("/sys/class/net") if re.fullmatch(r"bw[lpq]\d+", name)]
    batch_if_there([*("link del " + name for name in there), *("netns del bwt-" + ns for ns in CONTAINERS)])


WAYS = {
    "same bridge": (try_udp, "a", V4["b"], V6["b"], 9000),
    "same bridge, TCP": (try_tcp, "a", V4["b"], V6["b"], 8080),
    "other bridge": (try_udp, "a", V4["c"], V6["c"], 9000),
    "published": (try_tcp, "w", "10.203.0.1", "fd00:203::1", 18080),
    "egress": (try_udp, "a", V4["w"], V6["w"], 9000),
    "from host": (try_udp, None, V4["a"], V6["a"], 9000),
    "to host": (try_udp, "a", "10.201.0.1", "fd00:201::1", 9000),
}


def ways():
    """Every way a packet can take, both families."""
    calls = [(fn, ns, address, port) for fn, ns, *two, port in WAYS.values() for address in two]
    found = at_once(calls)
    return {way: tuple(found[2 * i : 2 * i + 2]) for i, way in enumerate(WAYS)}


def opened(found):
    return sorted(way for way, said in found.items() if "open" in said)


# Frames of one bridge, as AF_PACKET sends them.


def ip(text):
    return udp4(V4["a"], V4["b"], text)


def tag(vid, ethertype, packet):
    return struct.pack("!HH", vid, ethertype) + packet


def pppoe(proto, packet):
    return struct.pack("!BBHH", 0x11, 0, 1, len(packet) + len(proto)) + proto + packet


def frames():
    """What a frame is called: whether it carries IP, its ethertype, what is behind."""
    return {
        "IPv4": (True, 0x0800, ip),
        "IPv6": (True, 0x86DD, lambda text: udp6(V6["a"], V6["b"], text)),
        "VLAN": (True, 0x8100, lambda text: tag(5, 0x0800, ip(text))),
        "VLAN 0": (True, 0x8100, lambda text: tag(0, 0x0800, ip(text))),
        "two VLANs": (True, 0x88A8, lambda text: tag(5, 0x8100, tag(6, 0x0800, ip(text)))),
        "twelve VLANs": (True, 0x8100, lambda text: tag(5, 0x8100, b"") * 11 + tag(6, 0x86DD, ip(text))),
        "PPPoE": (True, 0x8864, lambda text: pppoe(b"\0\x21", ip(text))),
        "PPPoE, IPv6": (True, 0x8864, lambda text: pppoe(b"\0\x57", ip(text))),
        "PPPoE, compressed": (True, 0x8864, lambda text: pppoe(b"\x21", ip(text))),
        "PPPoE in a VLAN": (True, 0x8100, lambda text: tag(5, 0x8864, pppoe(b"\0\x21", ip(text)))),
        "LCP in PPPoE": (False, 0x8864, lambda text: pppoe(b"\xc0\x21", text)),
        "ARP": (False, 0x0806, lambda text: b"\0\1\x08\0\6\4\0\1" + b"\0" * 20 + text),
        "ARP in a VLAN": (False, 0x8100, lambda text: tag(5, 0x0806, text)),
        "another type": (False, 0x88B5, lambda text: text),
    }


def crossed():
    """The names of the frames that went from a to b over the bridge; the last to be sent is one that may."""
    with inside("a"):
        out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        out.bind(("eth0", 0))
    with inside("b"):
        there = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
        there.bind(("eth0", 3))
    with out, there:
        to, own = there.getsockname()[4], out.getsockname()[4]
        every = list(frames().items())
        for name, (_, ethertype, make) in [*every, ("last", (False, 0x88B5, lambda text: text))]:
            text = b"<%s>" % name.encode()
            out.send(to + own + struct.pack("!H", ethertype) + make(text))
        found, end = set(), time.monotonic() + 10 * packets.WAIT
        while "last" not in found:
            if not select.select([there], [], [], max(0, end - time.monotonic()))[0]:
                raise RuntimeError("the last frame did not arrive")
            text = re.search(rb"<([\w, ']+)>", there.recv(4096))
            found |= {text.group(1).decode()} if text else set()
        return sorted(found - {"last"})


def test_many_networks():
    everything = sorted(ways())
    for networks in (17, 40):
        containers_up(networks)
        check("%d networks: without the module" % networks, (loaded(), opened(ways())), (False, everything))
        check("%d networks: it loads" % networks, load(), (0, False))
        for value in ("0", "1"):
            bridge_settings(value)
            check("%d networks, bridge-nf-call %s: all is closed" % (networks, value), opened(ways()), [])
        known(Ruleset().rule(A, B, tcp(8080))).commit(Genl())
        check(
            "%d networks: a policy opens what it permits" % networks,
            (try_tcp("a", V4["b"], 8080), try_tcp("b", V4["a"], 8080)),
            ("open", "silence"),
        )
        unload()
        containers_down()


# Each placement, beside containers in many networks.


def many(placement, networks, **kwargs):
    """From p to q a datagram to port 9000 is allowed, and nothing else between containers."""
    ruleset = Ruleset(guards=("bwl*",), placement=placement, **kwargs).rule(P, Q, udp(9000))
    for n in range(networks):
        for ns, identity in (("p", P), ("q", Q)):
            port = ifindex("bw%s%d" % (ns, n))
            ruleset.endpoint(many4(ns, n), many6(ns, n), identity, ifindex("bwl%d" % n), port)
    return ruleset


def between(networks):
    """What gets from p to q and back, over the first, a middle and the last network, both families."""
    where = sorted({0, networks // 2, networks - 1})
    calls = [
        (try_udp, frm, address(to, n), 9000)
        for frm, to in (("p", "q"), ("q", "p"))
        for n in where
        for address in (many4, many6)
    ]
    found = at_once(calls)
    half = len(found) // 2
    return sorted(set(found[:half])), sorted(set(found[half:]))


OPEN, JUDGED, CLOSED_WAYS = (["open"], ["open"]), (["open"], ["silence"]), (["silence"], ["silence"])


def namespaces():
    return struct.unpack("=I", Genl().ask(packets.INFO)[0][packets.A_NAMESPACES][0])[0]


def try_placements(networks):
    g = Genl()
    for placement, word in enumerate(("forward", "postrouting", "container")):
        what = "%d networks, %s: " % (networks, word)
        bridge_settings("0" if word == "container" else "1")
        ruleset = many(placement, networks)
        check(what + "before it", between(networks), OPEN)
        check(what + "a dry run", said(ruleset, dry=True), "done")
        check(what + "keeps nothing", (namespaces(), between(networks)), (0, OPEN))
        check(what + "a commit", said(ruleset), "done")
        number = 2 if word == "container" else 0
        check(what + "judges", (namespaces(), between(networks)), (number, JUDGED))
        check(what + "another dry run", said(Ruleset(defaults=(0,) * 6), dry=True), "done")
        check(what + "changes nothing", (namespaces(), between(networks)), (number, JUDGED))
        check(what + "the end", said(Ruleset(guards=(), defaults=(0,) * 6)), "done")
        check(what + "gives all back", (namespaces(), between(networks)), (0, OPEN))
    bridge_settings("0")
    g.close()


def said(ruleset, **kwargs):
    try:
        ruleset.commit(Genl(), **kwargs)
        return "done"
    except packets.Refused as e:
        return str(e)


def try_roll_back(networks):
    """To a state that judges inside, from one that does not, while the containers join as many networks again."""
    nothing = Ruleset(guards=(), defaults=(0,) * 6)
    check("%d networks: container" % networks, said(many(2, networks)), "done")
    check("a window in which nothing is judged", said(nothing, timeout=600), "done")
    check("is open, and keeps its namespaces", (namespaces(), between(networks)), (2, OPEN))
    networks_up(range(networks, 2 * networks))
    check("also over networks that they join in it", between(2 * networks), OPEN)
    Genl().ask(packets.ROLLBACK)
    check("%d networks: rolled back, judged as before" % networks, between(networks), JUDGED)
    late = at_once([(try_udp, "p", address("q", 2 * networks - 1), 9000) for address in (many4, many6)])
    check("and closed over networks that no endpoint is known of", set(late), {"silence"})
    check("%d networks: the new ones' endpoints" % (2 * networks), said(many(2, 2 * networks)), "done")
    check("judged over all of them", between(2 * networks), JUDGED)
    check("a window in which container judges", said(nothing), "done")
    check("opens", said(many(2, 2 * networks), timeout=600), "done")
    check("judged in it", (namespaces(), between(2 * networks)), (2, JUDGED))
    Genl().ask(packets.ROLLBACK)
    check("rolled back: open, and given back", (namespaces(), between(2 * networks)), (0, OPEN))


def try_reload(networks):
    check("%d networks: unloaded from container" % networks, said(many(2, networks)), "done")
    unload()
    check("is open", between(networks), OPEN)
    check("loaded closed", load(), (0, False))
    check("is closed", between(networks), CLOSED_WAYS)
    check("container from closed, in a window", said(many(2, networks), timeout=600), "done")
    check("judges", (namespaces(), between(networks)), (2, JUDGED))
    Genl().ask(packets.ROLLBACK)
    check("rolled back to closed", (namespaces(), between(networks)), (0, CLOSED_WAYS))
    check("container for good", said(many(2, networks)), "done")
    check("judges", (namespaces(), between(networks)), (2, JUDGED))
    unload()


def test_placements():
    for networks, tries in (
        (1, [try_placements, try_reload]),
        (10, [try_roll_back]),  # of a container that has 20 in the end
        (40, [try_placements]),
        (100, [try_reload]),
    ):
        bridge_settings("0")
        check("%d networks: it loads" % networks, load(closed=""), (0, False))
        containers_up(networks)
        for ns in CONTAINERS:
            serve(ns, 9000)
        for one in tries:
            one(networks)
        if loaded():
            unload()
        containers_down()


def test_frames():
    carries = {name: has_ip for name, (has_ip, _, _) in frames().items()}
    for value in ("0", "1"):
        bridge_settings(value)
        check("bridge-nf-call %s, without the module: every frame" % value, crossed(), sorted(carries))
        check("it loads", load(), (0, False))
        check(
            "bridge-nf-call %s, closed: none that carries IP" % value,
            crossed(),
            sorted(name for name, has_ip in carries.items() if not has_ip),
        )
        unload()
    bridge_settings("1")


def test_roll_back_to_closed():
    """The first commit's window ends: closed again, at the bridge as well."""
    check("it loads", load(), (0, False))
    everything = known(Ruleset(defaults=(0,) * 6))
    everything.commit(Genl(), timeout=60)
    check("a window: open", both(try_udp, "a", "b", 9000), ("open", "open"))
    Genl().ask(packets.ROLLBACK)
    bridge_settings("0")
    check("rolled back: closed, whatever the bridge's settings", opened(ways()), [])
    bridge_settings("1")
    everything.commit(Genl())
    check("committed for good: open", both(try_udp, "a", "b", 9000), ("open", "open"))
    unload()


# A seal while the module is being unloaded.

DELETE_MODULE = 176 if os.uname().machine == "x86_64" else 106
#: Seconds that a request waits only while a commit holds the lock that it needs.
STUCK = 0.2


def begin_long(g, endpoints=100000):
    """A transaction whose commit holds that lock for long: it compares each endpoint's link with all patterns."""
    ruleset = known(Ruleset(guards=(*("b*t*0*%d" % i for i in range(1, 31)), "bwt0", "bwt1")))
    bridge = ifindex("bwt0")
    one = struct.pack("=III", A, bridge, 0)
    many = b"".join(struct.pack("!I", (11 << 24) + i) + one for i in range(endpoints))
    steps, _ = requests(ruleset, 0)
    for _, cmd, payload in steps:
        g.ask(cmd, payload)
    for at in range(0, len(many), 16 * 4000):
        g.ask(packets.ADD, packets.nla(packets.S_EP4, many[at : at + 16 * 4000]))


class Sealer(threading.Thread):
    """Asks for the seal of a generation that is still to come, until the answer is another one than that it is not there."""

    def __init__(self, generation):
        super().__init__(daemon=True)
        self.g, self.generation = Genl(), generation
        self.since = self.said = None

    def run(self):
        expect = packets.nla(packets.A_EXPECT, struct.pack("=Q", self.generation))
        while self.said is None:
            self.since = time.monotonic()
            try:
                self.g.ask(packets.SEAL, expect)
                self.said = "sealed"
            except packets.Refused as e:
                if e.number not in (errno.ESTALE, errno.EBUSY):
                    self.said = e.words or errno.errorcode[e.number]
            time.sleep(0)

    def is_stuck(self):
        return self.said is None and self.since is not None and time.monotonic() - self.since > STUCK


def seal_while_unloading():
    """What the seal's answer was, and whether the module went."""
    known(Ruleset()).commit(Genl())
    g = Genl()
    begin_long(g)
    generation = Genl().generation()
    expect = packets.nla(packets.A_EXPECT, struct.pack("=Q", generation))
    commit = threading.Thread(target=lambda: g.ask(packets.COMMIT, expect), daemon=True)
    sealer = Sealer(generation + 1)
    commit.start()
    sealer.start()
    while not sealer.is_stuck() and sealer.said is None:
        time.sleep(0.01)
    if sealer.is_stuck():
        LIBC.syscall(DELETE_MODULE, b"bridgewarden", os.O_NONBLOCK)
    sealer.join()
    commit.join()
    g.close()
    sealer.g.close()
    return sealer.said, not loaded()


def test_seal_while_unloading():
    """The seal waits for a commit when the unloading begins: it must not be promised."""
    check("it loads", load(closed=""), (0, False))
    check(
        "the seal is refused, the module goes", seal_while_unloading(), ("the module is being unloaded", True)
    )


# Each allocation refused.


class KernelLog:
    def __init__(self):
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
        os.lseek(self.fd, 0, os.SEEK_END)

    def news(self):
        lines = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines.append(os.read(self.fd, 8192).decode(errors="replace").partition(";")[2])
        return "".join(lines)


def test_words():
    """What the module says has its name in front, so that it is found."""
    log = KernelLog()
    check("a pattern that is too long is refused", load(closed="x" * 40), ("EINVAL", False))
    said = [line for line in log.news().splitlines() if "parameter closed" in line]
    check("and told", said, ["bridgewarden: parameter closed: pattern is too long"])


@contextlib.contextmanager
def stacks_told():
    """Every refusal's stack goes to the kernel's log, and not to a slow console."""
    with open("/proc/sys/kernel/printk") as f:
        before = f.read()
    settings = {"/proc/sys/kernel/printk": ("1", before)}
    settings.update({"%s%s/verbose" % (FAULTS, name): ("2", "0") for name in ("failslab", "fail_page_alloc")})
    try:
        for path, (value, _) in settings.items():
            with open(path, "w") as f:
                f.write(value)
        yield
    finally:
        for path, (_, value) in settings.items():
            with open(path, "w") as f:
                f.write(value)


def first_of_ours(stack):
    found = re.findall(r"\b(\w+)\+0x\S+ \[bridgewarden\]", stack)
    return next((name for name in found if name.startswith("bw_")), "before")


def refused_at_once(address, port):
    """Whether the host's own kernel refuses a datagram, as it does behind closed guards."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.sendto(b"x", (address, port))
            return False
        except ConnectionRefusedError:
            return True


def is_closed():
    """By packets of the host's own, and by one over a bridge, behind which another ethertype arrives."""
    return all(refused_at_once(*to) for to in [(V4["a"], 9000), *OTHERS]) and "IPv4" not in crossed()


def refuse_each(log, outcomes):
    for nth in range(1, MOST):
        log.news()
        said, hit = load(nth)
        stack = log.news()
        if not hit:
            check("%d allocations; without a refusal it loads" % (nth - 1), (said, is_closed()), (0, True))
            unload()
            return
        where = first_of_ours(stack)
        if PER_NAMESPACE.search(stack):
            check("refusal %d, for one namespace: it loads" % nth, said, 0)
        if said == 0:
            if not is_closed():
                check("refusal %d in %s: what loaded is closed" % (nth, where), False, True)
            unload()
        elif loaded():
            check("refusal %d in %s: %s is not loaded" % (nth, where, said), "loaded", "absent")
            unload()
        outcomes[where, said or "closed"] += 1
    check("the load ends", False, True)


def test_refusals():
    """A load fails as a whole, for want of what the host itself needs, or it closes everything."""
    outcomes = Counter()
    containers_up(17)
    bridge_settings("0")
    for to in OTHERS:
        check("without the module %s:%d is not refused" % to, refused_at_once(*to), False)
    try:
        with stacks_told():
            refuse_each(KernelLog(), outcomes)
    finally:
        containers_down()
    for (where, said), number in sorted(outcomes.items()):
        print("# %s: %s %d times" % (where, said, number))
    check("some were refused in the module itself", any(where != "before" for where, _ in outcomes), True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-faults", action="store_true")
    parser.add_argument("only", nargs="*", help="tests, without test_; default: all")
    args = parser.parse_args()
    if not KO:
        sys.exit("BW_KO names no file: the module's .ko")
    faults = os.path.exists("/proc/self/fail-nth") and not args.no_faults
    if faults:
        set_up()
    tests = [test_words, test_many_networks, test_placements, test_frames, test_roll_back_to_closed]
    tests += [test_refusals] * faults + [test_seal_while_unloading]
    tests = [test for test in tests if not args.only or test.__name__[5:] in args.only]
    containers_down()
    saved = packets.world_up()
    try:
        for where in ("a", "b", "c", "w", None):
            serve(where, 9000)
            if where:
                serve(where, 8080)
        if loaded():
            unload()
        for test in tests:
            print("# " + test.__name__, flush=True)
            test()
    finally:
        containers_down()
        if not loaded():
            run("insmod", KO)
        Ruleset(guards=(), defaults=(0,) * 6).commit(Genl())
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
