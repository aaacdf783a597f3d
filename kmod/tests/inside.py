#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Placement container by real packets; as packets.py, whose world it builds on.

Same-bridge traffic is judged with bridge-nf-call-iptables = 0, and children of
parent links (macvlan, ipvlan), which never cross the host's FORWARD:

    packets.py's a, b, c, w, and
    r 10.204.0.1 --(bwtp)-- m 10.204.0.2, n 10.204.0.3    macvlan
    s 10.205.0.1 --(bwtq)-- i 10.205.0.2, j 10.205.0.3    ipvlan

BW_STRESS is the length of the stress in seconds (60).
"""

import contextlib
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import packets
from packets import (
    A_ADDR,
    A_IDENTITY,
    A_NAMESPACES,
    A_RETURNED,
    ALLOW,
    ANY,
    DENY,
    ENDPOINTS,
    HOST,
    HOST_ERROR,
    INFO,
    REJECT,
    ROLLBACK,
    SPOOFED,
    TCP,
    UNMANAGED,
    UNSEEN,
    V4,
    V6,
    WORLD,
    A,
    B,
    C,
    Genl,
    Refused,
    Ruleset,
    batch,
    batch_if_there,
    both,
    bridge_settings,
    check,
    connect,
    echo,
    echo_or_cut,
    grew,
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

M, N, IPVLAN = 6, 7, 8
CHILDREN = {
    "m": ("bwtp", "macvlan", 204, 2),
    "n": ("bwtp", "macvlan", 204, 3),
    "i": ("bwtq", "ipvlan", 205, 2),
    "j": ("bwtq", "ipvlan", 205, 3),
}
ROUTERS = {"r": ("bwtp", 204), "s": ("bwtq", 205)}
IDENTITY = {"m": M, "n": N, "i": IPVLAN}
for name, (_, _, net, host) in CHILDREN.items():
    V4[name], V6[name] = "10.%d.0.%d" % (net, host), "fd00:%d::%d" % (net, host)
for name, (_, net) in ROUTERS.items():
    V4[name], V6[name] = "10.%d.0.1" % net, "fd00:%d::1" % net


def addresses(dev, name):
    return [
        "addr add %s/24 dev %s" % (V4[name], dev),
        "addr add %s/64 dev %s nodad" % (V6[name], dev),
        "link set %s up" % dev,
    ]


def add_child(ns):
    parent, kind, _, _ = CHILDREN[ns]
    # As Docker does it: made in the host's namespace and moved.
    batch(
        [
            "link add bwtx link %s type %s mode %s" % (parent, kind, "bridge" if kind == "macvlan" else "l2"),
            "link set bwtx netns bwt-" + ns,
        ]
    )
    batch(["link set bwtx name eth0", *addresses("eth0", ns)], "-n", "bwt-" + ns)


def children_up():
    children_down()
    lines = []
    for ns, (parent, _) in ROUTERS.items():
        lines += [
            "netns add bwt-" + ns,
            "link add %s type veth peer name eth0 netns bwt-%s" % (parent, ns),
            "link set %s up" % parent,
        ]
    batch([*lines, *("netns add bwt-" + ns for ns in CHILDREN)])
    for ns in ROUTERS:
        batch(addresses("eth0", ns), "-n", "bwt-" + ns)
    for ns in CHILDREN:
        add_child(ns)
        batch(["link set lo up"], "-n", "bwt-" + ns)


def children_down():
    names = ["netns del bwt-" + ns for ns in (*CHILDREN, *ROUTERS)]
    batch_if_there(names + ["link del " + parent for parent, _ in ROUTERS.values()])


def inum(ns):
    return os.stat("/run/netns/bwt-" + ns).st_ino


def judged_inside(ruleset, children=("m", "n", "i")):
    ruleset.placement, ruleset.parents = 2, ("bwtp", "bwtq")
    known(ruleset)
    for ns in children:
        ruleset.endpoint(V4[ns], V6[ns], IDENTITY[ns], ifindex(CHILDREN[ns][0]), inum(ns))
    return ruleset


def namespaces(g):
    return struct.unpack("=I", g.ask(INFO)[0][A_NAMESPACES][0])[0]


def returned(g):
    """Closed endpoints whose place is there again."""
    return struct.unpack("=I", g.ask(INFO)[0][A_RETURNED][0])[0]


def count_of(g, rule):
    return g.counters()[packets.RULE + rule]


def test_same_bridge(g):
    Ruleset(guards=()).commit(g)
    check("unguarded: open, without br_netfilter's settings", both(try_tcp, "a", "b", 8080), ("open", "open"))
    known(Ruleset()).commit(g)
    before = g.counters()
    check(
        "placement forward has no verdict on what it does not see: nothing passes",
        both(try_tcp, "a", "b", 8080),
        ("silence", "silence"),
    )
    check("counted as unseen", grew(g, before, UNSEEN), True)
    check("nothing is judged inside", namespaces(g), 0)
    judged_inside(
        Ruleset()
        .rule(A, B, tcp(8080))
        .rule(A, B, udp(9000))
        .rule(A, B, tcp(8081), REJECT)
        .rule(A, B, udp(9001), REJECT)
    ).commit(g)
    check("seven containers are judged inside", namespaces(g), 7)
    before = g.counters()
    check("allowed", both(try_tcp, "a", "b", 8080), ("open", "open"))
    check("no rule: denied", both(try_tcp, "b", "a", 8080), ("silence", "silence"))
    check("by the class default", grew(g, before, 2), True)
    check("tcp rejected with a reset", both(try_tcp, "a", "b", 8081), ("refused", "refused"))
    check("udp rejected with an error", both(try_udp, "a", "b", 9001), ("refused", "refused"))
    check("the refusals were let in", grew(g, before, HOST_ERROR), True)
    check("loopback is the container's own", try_tcp("a", "127.0.0.1", 8081), "open")
    before = count_of(g, 1)
    check("udp", both(try_udp, "a", "b", 9000), ("open", "open"))
    check("each packet is counted once", count_of(g, 1) - before, 4)
    bridge_settings("1")
    before = count_of(g, 1)
    check("udp, with the bridge settings", both(try_udp, "a", "b", 9000), ("open", "open"))
    check("each packet is still counted once", count_of(g, 1) - before, 4)
    check("still denied", both(try_tcp, "b", "a", 8080), ("silence", "silence"))
    check("still rejected", both(try_tcp, "a", "b", 8081), ("refused", "refused"))
    bridge_settings("0")


def test_errors(g):
    """A refusal comes back, and no more by way of it than a kernel's own refusal has."""
    for V, longest in packets.LONGEST_ERROR:
        head = 2 * (20 if V is V4 else 40) + 16
        where = "IPv%d: " % (4 if V is V4 else 6)
        judged_inside(Ruleset().rule(B, A, udp(7100))).commit(g)
        asking, outside = packets.Asking("b", "a", 7100, V), packets.Asking("b", "w", 7101, V)
        check(where + "an allowed connection's error, long", asking.told("a", 1400), 1400 - head)
        asking.close()
        judged_inside(Ruleset()).commit(g)
        asking = packets.Asking("b", "a", 7102, V)
        check(
            where + "a denied connection's, as long as a kernel's", asking.told("a", longest), longest - head
        )
        check(where + "longer", asking.told("a", longest + 1), 0)
        check(where + "of a connection to the outside, by its server", outside.told("w", 1400), 1400 - head)
        check(where + "by a neighbour, long", outside.told("a", longest + 1), 0)
        asking.close()
        outside.close()


def test_routed(g):
    judged_inside(
        Ruleset().rule(WORLD, A, tcp(8080)).rule(A, C, udp(9000)).rule(A, C, tcp(8081), REJECT)
    ).commit(g)
    check(
        "published port",
        packets.published(),
        ("open", "open"),
    )
    before = g.counters()
    check("direct access denied", both(try_tcp, "w", "a", 8080), ("silence", "silence"))
    check("as direct", grew(g, before, packets.DIRECT), True)
    check("other bridge, no rule", both(try_tcp, "a", "c", 8080), ("silence", "silence"))
    check("other bridge, rejected", both(try_tcp, "a", "c", 8081), ("refused", "refused"))
    before = count_of(g, 1)
    check("other bridge, allowed", both(try_udp, "a", "c", 9000), ("open", "open"))
    check("routed packets are counted once", count_of(g, 1) - before, 4)
    check("egress", both(try_tcp, "a", "w", 8080), ("open", "open"))
    check("from host", both(try_tcp, None, "a", 8080), ("open", "open"))
    check("to host", try_tcp("a", "10.201.0.1", 22), "silence")
    judged_inside(Ruleset().rule(A, WORLD, ANY, REJECT).rule(HOST, A, tcp(8080), REJECT)).commit(g)
    check("egress rejected", both(try_tcp, "a", "w", 8080), ("refused", "refused"))
    check("from host rejected", both(try_tcp, None, "a", 8080), ("refused", "refused"))


def test_proxy(g):
    def publish(ruleset):
        ruleset.publish.append(
            struct.pack("=BBH16sBBH16s", 2, TCP, 9310, b"", 2, 0, 8080, socket.inet_aton(V4["c"]))
        )
        return ruleset

    serve(None, 9310)
    publish(judged_inside(Ruleset())).commit(g)
    check("proxy socket: denied", try_tcp("a", "10.201.0.1", 9310), "silence")
    publish(judged_inside(Ruleset().rule(A, C, tcp(8080)))).commit(g)
    check("proxy socket: allowed, answers too", try_tcp("a", "10.201.0.1", 9310), "open")


def test_revoke(g):
    judged_inside(Ruleset().rule(A, B, tcp(8080)).rule(WORLD, M, tcp(8080))).commit(g)
    flows = [connect("a", V4["b"], 8080), connect("a", V6["b"], 8080), connect("r", V4["m"], 8080)]
    check("flows are up", [echo(s) for s in flows], [True] * 3)
    judged_inside(Ruleset()).commit(g)
    check("revoking cuts established flows", packets.at_once([(echo_or_cut, s) for s in flows]), ["cut"] * 3)
    for s in flows:
        s.close()


def test_children(g):
    known(Ruleset(defaults=(DENY,) * 6)).commit(g)
    for ns, peer in (("m", "r"), ("m", "n"), ("i", "s"), ("i", "j")):
        check("not seen by forward: %s to %s" % (ns, peer), both(try_tcp, ns, peer, 8080), ("open", "open"))
    judged_inside(
        Ruleset()
        .rule(WORLD, M, tcp(8080))
        .rule(WORLD, IPVLAN, tcp(8080))
        .rule(WORLD, M, tcp(8081), REJECT)
        .rule(M, N, udp(9000))
        .rule(M, WORLD, tcp(8081), REJECT)
        .rule(IPVLAN, WORLD, udp(9001), DENY)
    ).commit(g)
    for ns, router in (("m", "r"), ("i", "s")):
        check("outside to %s, allowed" % ns, both(try_tcp, router, ns, 8080), ("open", "open"))
        check("outside to %s, denied" % ns, both(try_udp, router, ns, 9000), ("silence", "silence"))
        check("%s to outside, default" % ns, both(try_tcp, ns, router, 8080), ("open", "open"))
    check("outside rejected", both(try_tcp, "r", "m", 8081), ("refused", "refused"))
    check("to outside rejected", both(try_tcp, "m", "r", 8081), ("refused", "refused"))
    check("to outside denied", both(try_udp, "i", "s", 9001), ("EPERM", "EPERM"))
    check("children of one parent, denied", both(try_tcp, "m", "n", 8080), ("silence", "silence"))
    before = count_of(g, 3)
    check("children of one parent, allowed", both(try_udp, "m", "n", 9000), ("open", "open"))
    check("counted once", count_of(g, 3) - before, 4)
    before = g.counters()
    check("an unknown child is closed", both(try_tcp, "j", "s", 8080), ("silence", "silence"))
    check("also from its neighbour", both(try_tcp, "i", "j", 8080), ("silence", "silence"))
    check("as unmanaged", grew(g, before, UNMANAGED), True)
    check("loopback is its own", try_tcp("j", "127.0.0.1", 8080), "open")
    run("ip", "-n", "bwt-m", "addr", "add", V4["n"] + "/32", "dev", "eth0")
    before = g.counters()
    check("another's address", try_udp("m", V4["r"], 9000, V4["n"]), "EPERM")
    check("is spoofed", grew(g, before, SPOOFED), True)
    run("ip", "-n", "bwt-m", "addr", "del", V4["n"] + "/32", "dev", "eth0")


def test_spoof(g):
    judged_inside(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("the true source passes", try_udp("a", V4["b"], 9000), "open")
    for what, address, reason in (
        ("an unknown source on the bridge", "10.201.0.77", UNMANAGED),
        ("the gateway's address", "10.201.0.1", UNMANAGED),
        ("an address of the world", "10.99.0.9", UNMANAGED),
        ("another network's address", V4["c"], SPOOFED),
    ):
        run("ip", "-n", "bwt-a", "addr", "add", address + "/32", "dev", "eth0")
        before = g.counters()
        check(what, try_udp("a", V4["b"], 9000, address), "silence")
        check("is refused at the receiver", grew(g, before, reason), True)
        run("ip", "-n", "bwt-a", "addr", "del", address + "/32", "dev", "eth0")


def identities(g):
    return {
        socket.inet_ntop(socket.AF_INET, r[A_ADDR][0]): struct.unpack("=I", r[A_IDENTITY][0])[0]
        for r in g.ask(ENDPOINTS, flags=0x301)
        if len(r[A_ADDR][0]) == 4
    }


def test_lifetime(g):
    judged_inside(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    start = namespaces(g)
    check("m is reached", try_tcp("r", V4["m"], 8080), "open")
    run("ip", "-n", "bwt-m", "link", "del", "eth0")
    check("its endpoint died with it, no other", [identities(g)[V4[x]] for x in "mni"], [0, N, IPVLAN])
    check("its namespace is given back", namespaces(g), start - 1)
    check("no commit would open them without it", returned(g), 0)
    add_child("m")
    check("and taken again", namespaces(g), start)
    run("ip", "-n", "bwt-r", "neigh", "flush", "dev", "eth0")  # it has another MAC address now
    before = g.counters()
    check("closed until it is known", try_tcp("r", V4["m"], 8080), "silence")
    check("as unmanaged", grew(g, before, UNMANAGED), True)
    check("its endpoints would be opened by the same commit", returned(g), 2)
    judged_inside(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("known again", try_tcp("r", V4["m"], 8080), "open")
    check("nothing is left to open", returned(g), 0)
    run("ip", "-n", "bwt-m", "link", "del", "eth0")
    judged_inside(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("committed before its child is there", (identities(g)[V4["m"]], returned(g)), (0, 0))
    add_child("m")
    check("and the child comes", returned(g), 2)
    judged_inside(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    check("the commit after it opens it", (identities(g)[V4["m"]], returned(g)), (M, 0))
    run("ip", "link", "set", "bwt-b", "nomaster")
    check("off the bridge, not judged", namespaces(g), start - 1)
    run("ip", "link", "set", "bwt-b", "master", "bwt0")
    check("on the bridge, judged", namespaces(g), start)
    run("ip", "link", "set", "bwtp", "down")
    run("ip", "link", "set", "bwtp", "name", "bwto")
    check("a parent that is renamed out of the patterns", namespaces(g), start - 2)
    run("ip", "link", "set", "bwto", "name", "bwtp")
    run("ip", "link", "set", "bwtp", "up")
    check("and into them", namespaces(g), start)
    known(Ruleset()).commit(g, timeout=60)
    check("namespaces stay open for a roll back", namespaces(g), start)
    g.ask(ROLLBACK)
    check("and are judged again", (namespaces(g), try_tcp("r", V4["m"], 8080)), (start, "open"))
    known(Ruleset()).commit(g)
    check("placement forward gives all back", namespaces(g), 0)


def test_nested(g):
    """A container that is a router itself, as Docker in Docker is."""
    for ns, peer in (("a", "b"), ("m", "r")):
        run("ip", "netns", "add", "bwt-in")
        run(
            "ip",
            "-n",
            "bwt-" + ns,
            "link",
            "add",
            "in0",
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            "bwt-in",
        )
        for where, dev, address in (
            ("bwt-" + ns, "in0", "10.210.0.1/24"),
            ("bwt-in", "eth0", "10.210.0.2/24"),
        ):
            run("ip", "-n", where, "addr", "add", address, "dev", dev)
            run("ip", "-n", where, "link", "set", dev, "up")
        run("ip", "-n", "bwt-in", "route", "add", "default", "via", "10.210.0.1")
        serve("in", 8080)
        rules = "table ip bwt { chain post { type nat hook postrouting priority 100; oif eth0 snat to %s; };"
        rules += (
            "chain pre { type nat hook prerouting priority -100; tcp dport 8088 dnat to 10.210.0.2:8080; }; }"
        )
        with inside(ns):
            with open("/proc/sys/net/ipv4/ip_forward", "w") as f:
                f.write("1")
            subprocess.run(["nft", "-f", "-"], input=(rules % V4[ns]).encode(), check=True)
        own, other = (A, B) if ns == "a" else (M, WORLD)
        judged_inside(
            Ruleset(defaults=(DENY,) * 6).rule(own, other, tcp(8080)).rule(other, own, tcp(8088))
        ).commit(g)
        check("from behind %s, allowed" % ns, try_tcp("in", V4[peer], 8080), "open")
        check("from behind %s, denied" % ns, try_tcp("in", V4[peer], 8081), "silence")
        check("to behind %s, allowed" % ns, try_tcp(peer, V4[ns], 8088), "open")
        judged_inside(Ruleset(defaults=(DENY,) * 6).rule(other, own, tcp(8080))).commit(g)
        check("to behind %s, denied" % ns, try_tcp(peer, V4[ns], 8088), "silence")
        with inside(ns):
            run("nft", "delete", "table", "ip", "bwt")
        run("ip", "-n", "bwt-" + ns, "link", "del", "in0")
        run("ip", "netns", "del", "bwt-in")


def test_fragments(g):
    judged_inside(Ruleset().rule(A, B, udp(9000))).commit(g)
    for v, address in ((socket.AF_INET, V4["b"]), (socket.AF_INET6, V6["b"])):
        with inside("a"):
            s = socket.socket(v, socket.SOCK_DGRAM)
        s.sendto(b"x" * 2000, (address, 9000))
        check("a fragmented datagram passes whole", len(packets.receive(s, 4000)), 2000)
        s.close()


def churn(number, stop, done, failed):
    """Containers that come, talk at once and go."""
    for i in itertools.count():
        if stop.is_set():
            return
        # A namespace ends in the background: no name or address is used again soon.
        child, name = i % 3, "bwt-z%d-%d" % (number, i)
        dev, host = "c%d" % number, 100 + number * 40 + i % 40
        net = (201, 204, 205)[child]
        outside = ["netns add " + name]
        if child:
            kind = ("macvlan mode bridge", "ipvlan mode l2")[child - 1]
            parent = ("bwtp", "bwtq")[child - 1]
            outside.append("link add link %s name %s netns %s type %s" % (parent, dev, name, kind))
        else:
            outside.append("link add %s type veth peer name %s netns %s" % (name, dev, name))
            outside.append("link set %s master bwt0 up" % name)
        try:
            batch(outside)
            batch(["addr add 10.%d.0.%d/24 dev %s" % (net, host, dev), "link set %s up" % dev], "-n", name)
            with inside(name[4:]):
                s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for _ in range(20):
                with contextlib.suppress(OSError):
                    s.sendto(b"x", ("10.%d.0.2" % net, 9000))
            s.close()
            if random.random() < 0.5 and not child:
                run("ip", "link", "del", name)
        except subprocess.CalledProcessError as e:
            failed.append(e.stderr)
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)
        if not child:
            subprocess.run(["ip", "link", "del", name], check=False, stderr=subprocess.DEVNULL)
        done[number] = i + 1


def test_stress(g):
    length = float(os.environ.get("BW_STRESS", "60"))
    allow = judged_inside(Ruleset(defaults=(ALLOW,) * 6))
    allow.commit(g)
    start = namespaces(g)
    stop, done, failed, sent = threading.Event(), {}, [], {}
    threads = [threading.Thread(target=churn, args=(i, stop, done, failed)) for i in range(3)]
    threads += [
        threading.Thread(target=packets.flood, args=(ns, [(V4[to], 9000)], stop, sent))
        for ns, to in (("a", "b"), ("b", "a"), ("m", "n"), ("r", "m"), ("i", "s"))
    ]
    for thread in threads:
        thread.start()
    swaps, until = 0, time.monotonic() + length
    states = [allow, judged_inside(Ruleset().rule(A, B, udp(9000))), known(Ruleset())]
    while time.monotonic() < until:
        state = random.choice(states)
        with contextlib.suppress(Refused):
            state.commit(g, timeout=random.choice((0, 0, 1)))
            swaps += 1
            if random.random() < 0.2:
                g.ask(ROLLBACK)
    stop.set()
    for thread in threads:
        thread.join()
    with contextlib.suppress(Refused):
        g.ask(ROLLBACK)
    judged_inside(Ruleset()).commit(g)
    packets.until(lambda: namespaces(g) == start)  # they end in the background
    print(
        "# %d namespaces came and went, %d swaps, %d packets"
        % (sum(done.values()), swaps, sum(sent.values()))
    )
    check("no namespace could not be made", failed[:3], [])
    check("as many are judged as at the start", namespaces(g), start)
    known(Ruleset()).commit(g)
    check("none with placement forward", namespaces(g), 0)


TESTS = (
    test_same_bridge,
    test_errors,
    test_routed,
    test_proxy,
    test_revoke,
    test_children,
    test_spoof,
    test_lifetime,
    test_nested,
    test_fragments,
    test_stress,
)


def main():
    wanted = sys.argv[1:]
    g = Genl()
    if g.generation():
        sys.exit("a ruleset is in force here: this is not a throw-away VM; load the module anew")
    saved = packets.world_up()
    bridge_settings("0")
    children_up()
    try:
        for ns in ("a", "b", "c", "w", *CHILDREN, *ROUTERS):
            for port in (8080, 8081, 9000, 9001):
                serve(ns, port)
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# %s" % test.__name__, flush=True)
                packets.rest()
                test(Genl())
    finally:
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        children_down()
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
