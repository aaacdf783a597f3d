#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""What follows when a link appears, gets another name or goes; as packets.py, whose world it builds on.

Offloaded flows end when a guard or an endpoint depends on the link, and only then. A container whose namespace takes no hooks of ours
(x, its own root has filled the hook with chains) is closed by itself and harms nobody else:

    packets.py's a, b, c, w, and x 10.201.0.9 --(bwt0, guarded)--
"""

import contextlib
import subprocess
import sys
import time

import packets
from packets import (
    ALLOW,
    DENY,
    SPOOFED,
    UNMANAGED,
    V4,
    V6,
    A,
    B,
    Genl,
    Refused,
    Ruleset,
    batch,
    batch_if_there,
    both,
    bridge_settings,
    check,
    connect,
    inside,
    known,
    run,
    serve,
    settled,
    talk,
    talks,
    try_udp,
    udp,
    udp_to,
)

#: As many as the kernel takes at one hook (MAX_HOOK_COUNT in net/netfilter/core.c).
CHAINS = 1024
V4["x"], V6["x"] = "10.201.0.9", "fd00:201::9"
X = 6


def flowtable(bridge):
    """Its counter: packets of FORWARD, which those of an offloaded flow do not pass."""
    return (
        """table inet bwf {
      flowtable f { hook ingress priority 0; devices = { %s, bwt-a, bwt-w }; }
      chain late { type filter hook forward priority 10; meta l4proto { tcp, udp } counter flow add @f; }
    }"""
        % bridge
    )


def forwarded():
    """What that counter says."""
    said = subprocess.run(["nft", "list", "chain", "inet", "bwf", "late"], check=True, stdout=subprocess.PIPE)
    return int(said.stdout.decode().split("counter packets ")[1].split()[0])


@contextlib.contextmanager
def offloading(bridge="bwt0", families=(V4, V6)):
    """From a to w, both protocols, in a flowtable."""
    subprocess.run(["nft", "-f", "-"], input=flowtable(bridge).encode(), check=True)
    flows = []
    try:
        flows += [connect("a", V["w"], 8080) for V in families]
        flows += [udp_to("a", V["w"], 9000) for V in families]
        for _ in range(3):
            talks(flows)
        yield flows
    finally:
        for s in flows:
            s.close()
        run("nft", "delete", "table", "inet", "bwf")


def egress(g):
    """Packets that the hooks saw of what a container sends out."""
    return g.counters().get(1, 0)


def seen_after(g, flows, action):
    """How many of the flows' next packets the hooks see after it; those that stay offloaded pass none."""
    before = settled(lambda: egress(g))
    action()
    time.sleep(0.5)  # flows end in a work item
    works = all(talk(s) for s in flows)
    return works, settled(lambda: egress(g)) - before


def forwarded_after(flows, action):
    """As seen_after(), of flows that are none of ours."""
    before = settled(forwarded)
    action()
    time.sleep(0.5)
    works = all(talk(s) for s in flows)
    return works, settled(forwarded) - before


def guard_comes_and_goes():
    batch(["link add bwt2 type bridge", "link del bwt2"])


def test_others_flows(g):
    """Between links that nobody guards, whatever changes beside them."""
    unguarded = Ruleset(guards=("bwt1", "bwt2"))
    unguarded.commit(g)
    with offloading() as flows:
        still = packets.until(lambda: forwarded_after(flows, lambda: None) == (True, 0))
        check("others' flows: nothing happens, no hook sees them", still, True)
        check("a commit: none either", forwarded_after(flows, lambda: unguarded.commit(g)), (True, 0))
        unguarded.commit(g, timeout=60)
        check("a roll back: none either", forwarded_after(flows, lambda: g.ask(packets.ROLLBACK)), (True, 0))
    with offloading(families=(V6,)) as flows:  # see test_others_links()
        still = packets.until(lambda: forwarded_after(flows, lambda: None) == (True, 0))
        check("others' flows of IPv6: no hook sees them", still, True)
        check(
            "a guarded link comes and goes: none either",
            forwarded_after(flows, guard_comes_and_goes),
            (True, 0),
        )


def come_and_go():
    """Links of others', each with a name that no pattern has. Never up: a route of theirs would end flows by itself."""
    batch(["link add bwz0 type veth peer name bwz1", "link set bwz0 name bwz2", "link del bwz2"])


def test_others_links(g):
    known(Ruleset()).commit(g)
    # IPv6: for each link that goes the kernel itself forgets routes of IPv4, which ends the flows over them.
    with offloading(families=(V6,)) as flows:
        # The first packets, and routes that come with the world's links, are still seen.
        still = packets.until(lambda: seen_after(g, flows, lambda: None) == (True, 0))
        check("nothing happens: no hook sees them", still, True)
        check("others' links come and go: none either", seen_after(g, flows, come_and_go), (True, 0))


def test_link_that_matters(g):
    """A guard, a port with an endpoint: flows end, and what stays allowed begins anew."""
    run("ip", "link", "add", "bwt2", "type", "bridge")
    known(Ruleset(guards=("bwt0", "bwt1", "bwt2"))).commit(g)
    with offloading() as flows:
        works, seen = seen_after(g, flows, lambda: run("ip", "link", "del", "bwt2"))
        check("a guarded link goes: each flow is judged again", (works, seen >= len(flows)), (True, True))
        works, seen = seen_after(g, flows, lambda: run("ip", "link", "del", "bwt-c"))
        check("an endpoint's port goes: each flow is judged again", (works, seen >= len(flows)), (True, True))


def rename(old, new):
    """Of a bridge; where it must be down for that, its ports carry on."""
    try:
        run("ip", "link", "set", old, "name", new)
    except subprocess.CalledProcessError:
        batch(["link set %s down" % old, "link set %s name %s" % (old, new), "link set %s up" % new])
        batch_if_there(["addr add fd00:201::1/64 dev %s nodad" % new])


def test_renamed_guard(g):
    """Flows over a bridge that was not guarded when they began."""
    deny = known(Ruleset(defaults=(DENY,) * 6))
    rename("bwt0", "bwx0")
    try:
        Ruleset(guards=("bwt0", "bwt1"), defaults=(DENY,) * 6).commit(g)
        carries = packets.until(lambda: both(try_udp, "a", "w", 9000) == ("open", "open"))
        check("its new name stops nothing", carries, True)
        with offloading("bwx0") as flows:
            check("over a link without a guard they work", talks(flows), [True] * 4)
            rename("bwx0", "bwt0")
            time.sleep(0.5)
            check("they end when its name makes it guarded", talks(flows), [False] * 4)
    finally:
        batch_if_there(["link set bwx0 down", "link set bwx0 name bwt0", "link set bwt0 up"])
    deny.commit(g)


# A namespace that takes no hooks.


def chains(number=CHAINS):
    with inside("x"):
        text = "table inet full {\n"
        text += "".join("chain c%d { type filter hook input priority %d; }\n" % (i, i) for i in range(number))
        subprocess.run(["nft", "-f", "-"], input=(text + "}\n").encode(), check=True)


def no_chains():
    with inside("x"):
        run("nft", "delete", "table", "inet", "full")


def container_x():
    batch(
        [
            "netns add bwt-x",
            "link add bwt-x type veth peer name eth0 netns bwt-x",
            "link set bwt-x up",
        ]
    )
    batch(["addr add %s/24 dev eth0" % V4["x"], "addr add %s/64 dev eth0 nodad" % V6["x"]], "-n", "bwt-x")
    serve("x", 9000)


def no_container_x():
    batch_if_there(["link del bwt-x", "netns del bwt-x", "link del bwz0"])


def ip(*words):
    """'done', or what the kernel says."""
    found = subprocess.run(["ip", *words], check=False, stderr=subprocess.PIPE)
    return found.stderr.decode().strip().rpartition(": ")[2] if found.returncode else "done"


def is_up(ns, dev):
    found = subprocess.run(["ip", "-n", "bwt-" + ns, "link", "show", dev], check=True, stdout=subprocess.PIPE)
    return b",UP" in found.stdout or b"<UP" in found.stdout


def reached():
    return try_udp("b", V4["x"], 9000) == "open"


def closed_as(g, reason):
    """Whether x is reached, and whether its namespace counts a packet to it."""
    before = g.counters()
    return reached(), packets.until(lambda: reached() or packets.grew(g, before, reason), 10)


def said(ruleset, **kwargs):
    try:
        ruleset.commit(Genl(), **kwargs)
        return "done"
    except Refused as e:
        return e.words


def judged_inside(guards=("bwt0", "bwt1")):
    """From a to b and to x: port 9000, nothing else."""
    return known(Ruleset(guards=guards, placement=2).rule(A, B, udp(9000)).rule(A, X, udp(9000)))


TOO_LONG = "Argument list too long"
REFUSED = "a container's device cannot be judged: the kernel's log names it"


def others(g):
    """What must work whatever x does."""
    check(
        "a link that x has nothing to do with gets another name",
        ip("link", "set", "bwz0", "name", "bwz1"),
        "done",
    )
    check("and its own again", ip("link", "set", "bwz1", "name", "bwz0"), "done")
    check("another container's device comes up", ip("-n", "bwt-b", "link", "set", "eth0", "up"), "done")
    check("a dry run", said(judged_inside(), dry=True), "done")
    check("a commit", said(judged_inside()), "done")
    check("is judged", (try_udp("a", V4["b"], 9000), try_udp("a", V4["b"], 9001)), ("open", "silence"))


def test_full_namespace(g):
    """Its device is down, and stays so."""
    bridge_settings("0")
    run("ip", "link", "add", "bwz0", "type", "bridge")
    container_x()
    chains()
    run("ip", "link", "set", "bwt-x", "master", "bwt0")
    check("a device that is down keeps no commit from its work", said(judged_inside()), "done")
    check("x cannot be brought up", ip("-n", "bwt-x", "link", "set", "eth0", "up"), TOO_LONG)
    others(g)
    check("still down, not reached", (is_up("x", "eth0"), reached()), (False, False))
    no_chains()
    check("with room for hooks it comes up", ip("-n", "bwt-x", "link", "set", "eth0", "up"), "done")
    check("and is judged: it has no endpoint", closed_as(g, UNMANAGED), (False, True))


def test_full_namespace_attached(g):
    """Its device is up when it becomes a port of a guarded bridge."""
    bridge_settings("0")
    run("ip", "link", "add", "bwz0", "type", "bridge")
    container_x()
    chains()
    run("ip", "-n", "bwt-x", "link", "set", "eth0", "up")
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
    check("without guards it is attached", ip("link", "set", "bwt-x", "master", "bwt0"), "done")
    check("and reached", packets.until(reached, 10), True)
    before = Genl().generation()
    check("placement container: a dry run fails", said(judged_inside(), dry=True), REFUSED)
    check("and the commit, for the same reason", said(judged_inside()), REFUSED)
    check("nothing is changed", (Genl().generation(), reached()), (before, True))
    run("ip", "link", "set", "bwt-x", "nomaster")
    check("off the bridge it is in nobody's way", said(judged_inside()), "done")
    check("it is not attached again", ip("link", "set", "bwt-x", "master", "bwt0"), TOO_LONG)
    others(g)
    check("not reached", reached(), False)
    no_chains()
    check("with room for hooks it is attached", ip("link", "set", "bwt-x", "master", "bwt0"), "done")
    check("and judged: it has no endpoint", closed_as(g, UNMANAGED), (False, True))


def test_full_namespace_renamed(g):
    """Its device is up when its bridge gets the name of a guard."""
    bridge_settings("0")
    batch(["link add bwz0 type bridge", "link add bwx9 type bridge", "link set bwx9 up"])
    container_x()
    chains()
    run("ip", "link", "set", "bwt-x", "master", "bwx9")
    run("ip", "link", "set", "bwt-b", "master", "bwx9")
    run("ip", "-n", "bwt-x", "link", "set", "eth0", "up")
    check(
        "placement container, its bridge is none of the guards",
        said(judged_inside(("bwt0", "bwt1", "bwt9"))),
        "done",
    )
    check("x is reached", packets.until(reached, 10), True)
    rename("bwx9", "bwt9")
    check("the bridge has the name of a guard: x is down", is_up("x", "eth0"), False)
    check("not reached", reached(), False)
    check("and stays down", ip("-n", "bwt-x", "link", "set", "eth0", "up"), TOO_LONG)
    no_chains()
    check("with room for hooks it comes up", ip("-n", "bwt-x", "link", "set", "eth0", "up"), "done")
    check("and is judged: b is not known on this bridge", closed_as(g, SPOOFED), (False, True))
    batch_if_there(["link del bwt9"])


TESTS = (
    test_others_links,
    test_others_flows,
    test_renamed_guard,
    test_full_namespace,
    test_full_namespace_attached,
    test_full_namespace_renamed,
    test_link_that_matters,
)


def main():
    wanted = sys.argv[1:]
    if Genl().generation():
        sys.exit("a ruleset is in force here: this is not a throw-away VM; load the module anew")
    for test in TESTS:
        if wanted and test.__name__[5:] not in wanted:
            continue
        print("# %s" % test.__name__, flush=True)
        saved = packets.world_up()
        try:
            for ns in ("a", "b", "c", "w"):
                serve(ns, 8080)
                serve(ns, 9000)
                serve(ns, 9001)
            test(Genl())
        finally:
            Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
            no_container_x()
            packets.world_down(saved)
            batch_if_there(["link del bwx0", "link del bwx9", "link del bwt9", "link del bwt2"])
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
