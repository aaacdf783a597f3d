#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""TCP connections that conntrack picks up in the middle, where who speaks first seems to have begun them; as packets.py, whose world it
builds on.

Their entries are lost as an idle connection's are: by a time-out, here of a second. Under first hardening the entry was never there:
same-bridge traffic did not reach netfilter.
"""

import contextlib
import os
import select
import socket
import struct
import sys
import time

import loading
import packets
from neighbours import SCTP, crc32c
from packets import (
    ALLOW,
    DENY,
    FORWARD,
    HOST,
    INVALID,
    POSTROUTING,
    TCP,
    V4,
    V6,
    WORLD,
    A,
    B,
    Genl,
    Ruleset,
    at_once,
    bridge_settings,
    check,
    comes,
    grew,
    inside,
    known,
    rest,
    tcp,
    udp,
)

CONTAINER = 2
ANY_PORT = (TCP << 16, TCP << 16 | 65535)
TIMEOUTS = (
    "nf_conntrack_tcp_timeout_established",
    "nf_conntrack_udp_timeout",
    "nf_conntrack_udp_timeout_stream",
)


def sysctl(name, value):
    """The value before."""
    with open("/proc/sys/net/netfilter/" + name, "r+") as f:
        before = f.read().strip()
        f.seek(0)
        f.write(str(value))
    return before


def listen(ns, port, kind=socket.SOCK_STREAM):
    with inside(ns):
        s = socket.socket(socket.AF_INET6, kind)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("::", port))
    if kind == socket.SOCK_STREAM:
        s.listen(8)
    return s


class Flow:
    """Both ends of a connection."""

    def __init__(self, ns, address, port, server, source=0):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = listen(server, port)
        with inside(ns):
            self.client = socket.socket(family, socket.SOCK_STREAM)
        if source:
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.client.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", source))
        self.client.settimeout(packets.PATIENCE)
        self.client.connect((address, port))
        self.server = listener.accept()[0]
        listener.close()
        for s in (self.client, self.server):
            s.settimeout(None)
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            packets.reset_at_close(s)

    def says(self, end):
        """What comes of a word of one end's: it is heard, its speaker is reset, or nothing. An end that was reset before hears nothing."""
        speaker, listener = (self.server, self.client) if end == "server" else (self.client, self.server)
        try:
            speaker.send(b"word")
        except OSError:
            return "reset"
        for _ in range(round(2 * packets.WAIT / packets.SLICE)):
            ready = select.select([speaker, listener], [], [], packets.SLICE)[0]
            with contextlib.suppress(ConnectionError):
                if listener in ready and listener.recv(100) == b"word":
                    return "heard"
            if speaker in ready:
                try:
                    return "answered" if speaker.recv(100) else "closed"
                except ConnectionError:
                    return "reset"
        return "silence"

    def talks(self):
        return (self.says("client"), self.says("server")) == ("heard", "heard")

    def close(self):
        self.client.close()
        self.server.close()


def say(flows, end):
    """What comes of each flow's word, in their order."""
    return at_once([(flow.says, end) for flow in flows])


@contextlib.contextmanager
def forgetful(namespaces=(None,)):
    """Conntrack keeps no entry for longer than a second."""
    saved = []
    for ns in namespaces:
        with inside(ns):
            saved.append([sysctl(name, 1) for name in TIMEOUTS])
    try:
        yield
    finally:
        for ns, values in zip(namespaces, saved):
            with inside(ns):
                for name, value in zip(TIMEOUTS, values):
                    sysctl(name, value)


def lose(flows, before_wait=lambda: None):
    """The flows' entries time out; ahead of it the flows talk once more, and then before_wait() revokes what it wants to."""
    with forgetful():
        good = [flow.talks() for flow in flows]
        rest()
        before_wait()
        time.sleep(2.2)
    if not all(good):
        raise RuntimeError("a flow was down already: %r" % good)


def closing(flows):
    for flow in flows:
        flow.close()


#: Class defaults by name, so that a test shows the ones that it hangs on.
def defaults(ingress=DENY, egress=ALLOW, inter=DENY, to_host=DENY, from_host=ALLOW, host_ingress=ALLOW):
    return (ingress, egress, inter, to_host, from_host, host_ingress)


def publish(ruleset, host_port, to_port):
    for family, to in ((socket.AF_INET, V4["a"]), (socket.AF_INET6, V6["a"])):
        ruleset.publish.append(
            struct.pack(
                "=BBH16sBBH16s", family, TCP, host_port, b"", family, 0, to_port, socket.inet_pton(family, to)
            )
        )
    return ruleset


def test_lost(g):
    """What the other tests build on: the entry is gone, and the next segment is one of a connection that nobody has seen begin."""
    known(Ruleset(defaults=(ALLOW,) * 6)).commit(g)
    flows = [Flow("a", V["b"], 7000, "b") for V in (V4, V6)]
    loose = sysctl("nf_conntrack_tcp_loose", 0)
    try:
        lose(flows)
        before = g.counters()
        check(
            "where nothing is picked up, the next segment is dropped", say(flows, "server"), ["silence"] * 2
        )
        check("as invalid", grew(g, before, INVALID), True)
    finally:
        sysctl("nf_conntrack_tcp_loose", loose)
    closing(flows)


def revoke(g, what, before, after, flows, end, want):
    """`flows` are connections that a rule of `before` allows and none of `after` does: who speaks first, and what comes of it."""
    before.commit(g)
    made = [Flow(*flow) for flow in flows.values()]
    lose(made, lambda: after.commit(g))
    first, other = (end, "client" if end == "server" else "server")
    for said, got in zip(flows, say(made, first)):
        check("%s: %s, the %s speaks first" % (what, said, first), got, want)
    # Whose own reset has not gone through learns it by its own word.
    for said, got in zip(flows, say(made, other)):
        check("%s: %s, the %s speaks then" % (what, said, other), got, "reset")
    closing(made)


def test_revoked(g):
    """A revoked connection does not come back when its entry is gone, whoever speaks first."""
    one, two = defaults(), defaults(to_host=ALLOW, from_host=DENY)
    for end in ("server", "client"):
        allow = publish(known(Ruleset(defaults=one)), 9300, 7001)
        allow.rule(WORLD, A, tcp(7001), direct=True).rule(A, B, tcp(7002)).rule(A, HOST, tcp(7003))
        flows = {}
        for n, V in enumerate((V4, V6)):
            host, outside = (("10.201.0.1", "10.203.0.1"), ("fd00:201::1", "fd00:203::1"))[n]
            flows["ingress, IPv%d" % (4 + 2 * n)] = ("w", V["a"], 7001, "a")
            flows["same bridge, IPv%d" % (4 + 2 * n)] = ("a", V["b"], 7002, "b")
            flows["to the host, IPv%d" % (4 + 2 * n)] = ("a", host, 7003, None)
            flows["docker-proxy, IPv%d" % (4 + 2 * n)] = ("w", outside, 9300, None)
        after = publish(known(Ruleset(defaults=one)), 9300, 7001)
        revoke(g, "revoked", allow, after, flows, end, "reset")
        allow = known(Ruleset(defaults=two)).rule(HOST, A, tcp(7004))
        flows = {
            "from the host, IPv4": (None, V4["a"], 7004, "a"),
            "from the host, IPv6": (None, V6["a"], 7004, "a"),
        }
        revoke(g, "revoked", allow, known(Ruleset(defaults=two)), flows, end, "reset")


def test_host_ingress(g):
    """What the host sends to the outside nobody judges; what comes back is."""
    shut = defaults(host_ingress=DENY)
    known(Ruleset(defaults=shut)).rule(WORLD, HOST, tcp(7005)).commit(g)
    flows = [Flow("w", address, 7005, None) for address in ("10.203.0.1", "fd00:203::1")]
    own = [Flow(None, V["w"], 7006, "w") for V in (V4, V6)]
    lose(flows + own, lambda: known(Ruleset(defaults=shut)).commit(g))
    check("host ingress, revoked: the host speaks first", say(flows, "server"), ["heard"] * 2)
    check("its client speaks then", say(flows, "client"), ["reset"] * 2)
    check("the host's own connection: it speaks first", say(own, "client"), ["heard"] * 2)
    check("and is answered", say(own, "server"), ["heard"] * 2)
    closing(flows + own)


def test_memo(g):
    """A revoked connection whose ends, exchanged, are those of one that passes: client and server of it used each other's ports."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})  # what is remembered is each processor's own
    try:
        for V in (V4, V6):
            known(Ruleset(defaults=defaults()).rule(WORLD, A, tcp(7010), direct=True)).commit(g)
            revoked = Flow("w", V["a"], 7010, "a", source=7011)
            lose([revoked], lambda: known(Ruleset(defaults=defaults())).commit(g))
            passing = Flow("a", V["w"], 7011, "w")
            check("egress by default, IPv4 and IPv6 in turn", [passing.talks() for _ in range(3)], [True] * 3)
            more = [Flow("a", V["w"], 7011, "w") for _ in range(2)]  # their first packets, too
            check("the revoked one beside it: its server speaks", revoked.says("server"), "reset")
            check("its client speaks", revoked.says("client"), "reset")
            check("what passed still does", passing.talks(), True)
            closing([revoked, passing, *more])
    finally:
        os.sched_setaffinity(0, processors)


def unseen(flows):
    """Connections that began before same-bridge traffic reached netfilter."""
    bridge_settings("0")
    try:
        made = [Flow(*flow) for flow in flows]
        good = [flow.talks() for flow in made]
        rest()
    finally:
        bridge_settings("1")
    if not all(good):
        raise RuntimeError("a flow was down already: %r" % good)
    return made


def first_commit(g, said, ruleset, want, between=lambda: None):
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
    flows = unseen([("a", V["b"], 5432, "b") for V in (V4, V6)])
    between()
    g = Genl()
    ruleset.commit(g)
    check("%s: only the server speaks" % said, say(flows, "server") + say(flows, "server"), [want] * 4)
    check("%s: the client speaks then" % said, say(flows, "client"), [want] * 2)
    closing(flows)


def reload_module():
    loading.unload()
    failed = loading.load(closed="")[0]
    if failed:
        raise RuntimeError("the module does not load again: %s" % failed)


def test_first_commit(g):
    """A stream that a rule allows survives the first hardening, one that none allows is reset."""
    allowed = known(Ruleset(defaults=defaults()).rule(A, B, tcp(5432)))
    first_commit(g, "allowed", allowed, "heard")
    first_commit(g, "no rule", known(Ruleset(defaults=defaults())), "reset")
    first_commit(
        g,
        "denied the other way round",
        known(Ruleset(defaults=defaults()).rule(A, B, tcp(5432)).rule(B, A, ANY_PORT, DENY)),
        "reset",
    )
    g.close()
    first_commit(Genl(), "allowed, module loaded anew", allowed, "heard", reload_module)


def test_egress(g):
    """What the class default allows outlives its entry, if the container speaks first and from a port that is a client's."""
    rules = publish(known(Ruleset(defaults=defaults())), 40001, 40002)
    rules.commit(g)
    cases = {
        "from a client's port": (0, "heard"),
        "from a server's port": (7020, "reset"),
        "from a port published on the host": (40001, "reset"),
        "from a container's published port": (40002, "reset"),
    }
    flows = [Flow("a", V["w"], 7021, "w", source) for source, _ in cases.values() for V in (V4, V6)]
    late = [Flow("a", V["w"], 7022, "w") for V in (V4, V6)]
    lose(flows + late)
    said = say(flows, "client")
    for n, (what, (_, want)) in enumerate(cases.items()):
        check("egress %s" % what, said[2 * n : 2 * n + 2], [want] * 2)
    check("and the answers", say(flows[:2], "server"), ["heard"] * 2)
    check("egress, the server speaks first", say(late, "server"), ["reset"] * 2)
    closing(flows + late)


def test_placements(g):
    """Each placement, entries lost; in placement container those of the containers' own namespaces, which see a flow in its middle first."""
    for placement, refused in ((FORWARD, "reset"), (POSTROUTING, "silence")):
        rules = known(
            Ruleset(defaults=defaults(), placement=placement).rule(A, B, tcp(7030)).rule(B, A, tcp(7031))
        )
        rules.commit(g)
        flows = [Flow("a", V["b"], 7030, "b") for V in (V4, V6)]
        revoked = [Flow("b", V["a"], 7031, "a") for V in (V4, V6)]
        fewer = known(Ruleset(defaults=defaults(), placement=placement).rule(A, B, tcp(7030)))
        lose(flows + revoked, lambda fewer=fewer: fewer.commit(g))
        check("placement %d, allowed: the server" % placement, say(flows, "server"), ["heard"] * 2)
        check("placement %d, allowed: the client" % placement, say(flows, "client"), ["heard"] * 2)
        check("placement %d, revoked: the server" % placement, say(revoked, "server"), [refused] * 2)
        closing(flows + revoked)
    known(Ruleset(defaults=defaults()).rule(A, B, tcp(7030)).rule(WORLD, A, tcp(7032), direct=True)).commit(g)
    flows = [Flow("a", V["b"], 7030, "b") for V in (V4, V6)]
    revoked = [Flow("w", V["a"], 7032, "a") for V in (V4, V6)]
    out = [Flow("a", V["w"], 7033, "w") for V in (V4, V6)]
    lose(
        flows + revoked + out,
        lambda: known(Ruleset(defaults=defaults(), placement=CONTAINER).rule(A, B, tcp(7030))).commit(g),
    )
    check("into placement container, allowed: the server", say(flows, "server"), ["heard"] * 2)
    check("into placement container, allowed: the client", say(flows, "client"), ["heard"] * 2)
    check("into placement container, revoked: the server", say(revoked, "server"), ["reset"] * 2)
    check("into placement container, revoked: the client", say(revoked, "client"), ["reset"] * 2)
    check("into placement container, egress by default", say(out, "client"), ["heard"] * 2)
    closing(flows + revoked + out)


def datagram(frm, to, address, port):
    """Whether it arrives."""
    frm.sendto(b"word", (address, port))
    return comes(to) and to.recv(100) == b"word"


def test_udp(g):
    """UDP has no mark: a revoked flow is refused while its entry lives, and then judged by who speaks."""
    for egress, want, port in ((ALLOW, True, 7040), (DENY, False, 7042)):
        known(Ruleset(defaults=defaults(egress=egress)).rule(WORLD, A, udp(port), direct=True)).commit(g)
        server = listen("a", port, socket.SOCK_DGRAM)
        with inside("w"):
            client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        client.bind(("::", port + 1))
        said = "UDP, egress %s by default" % ("allowed" if want else "denied")
        check("%s: allowed" % said, datagram(client, server, V6["a"], port), True)
        check("%s: answered" % said, datagram(server, client, V6["w"], port + 1), True)
        known(Ruleset(defaults=defaults(egress=egress))).commit(g)
        check("%s: revoked" % said, datagram(server, client, V6["w"], port + 1), False)
        with forgetful():
            datagram(client, server, V6["a"], port)
            time.sleep(2.2)
        check("%s: revoked, without an entry" % said, datagram(server, client, V6["w"], port + 1), want)
        server.close()
        client.close()


def sctp(ports, tag, chunk):
    """One packet, as bytes behind the IP header."""
    head = struct.pack("!HHI", *ports, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def test_sctp(g):
    """Of an SCTP association conntrack takes up its beginning only: what comes in its middle is invalid, whoever sends it."""
    known(Ruleset(defaults=defaults())).commit(g)
    with inside("a"):
        container = socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP)
    with inside("w"):
        outside = socket.socket(socket.AF_INET, socket.SOCK_RAW, SCTP)
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 7)
    data = struct.pack("!BBHIHHI4s", 0, 3, 20, 7, 0, 0, 0, b"word")
    container.sendto(sctp((7050, 7051), 0, init), (V4["w"], 0))
    check("SCTP, egress by default: an association begins", comes(outside) and len(outside.recv(100)), 52)
    before = g.counters()
    container.sendto(sctp((7052, 7053), 0x1234, data), (V4["w"], 0))
    check("data of an association that nobody has seen begin", comes(outside), False)
    check("it is invalid", grew(g, before, INVALID), True)
    container.close()
    outside.close()


TESTS = [
    test_lost,
    test_revoked,
    test_host_ingress,
    test_memo,
    test_first_commit,
    test_egress,
    test_placements,
    test_udp,
    test_sctp,
]


def main():
    wanted = sys.argv[1:]
    saved = packets.world_up()
    try:
        for test in TESTS:
            if not wanted or test.__name__[5:] in wanted:
                print("# " + test.__name__, flush=True)
                rest()
                test(Genl())
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
    finally:
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
