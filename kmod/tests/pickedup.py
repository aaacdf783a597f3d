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
import subprocess
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
    ICMP,
    ICMP6,
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
    attrs,
    bridge_settings,
    check,
    comes,
    grew,
    inside,
    known,
    nla,
    rest,
    run,
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


def sysctl(name, value, folder="netfilter"):
    """The value before."""
    with open("/proc/sys/net/%s/%s" % (folder, name), "r+") as f:
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

    def __init__(self, ns, address, port, server, source=0, to_port=0):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = listen(server, to_port or port)
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


CTNETLINK = 1 << 8
CT_GET, CT_DELETE = CTNETLINK | 1, CTNETLINK | 2
CTA_ORIG, CTA_REPLY, CTA_ID, CTA_TUPLE_IP = 1, 2, 12, 1


def flush(ns=None):
    """As conntrack -F."""
    with inside(ns):
        n = packets.Netfilter()
    n.send(CT_DELETE, 0, b"")
    n.s.close()


def entries(n):
    """Of a namespace's conntrack: (family, attributes) each."""
    n.send(CT_GET, 0, b"", 0x301)
    while True:
        data, at = n.s.recv(1 << 20), 0
        while at < len(data):
            length, kind = struct.unpack_from("=IH", data, at)
            if kind == 3:
                return
            yield data[at + 16], attrs(data[at + 20 : at + length])
            at += (length + 3) & ~3


def delete(*addresses):
    """As dockerd deletes entries in the host's namespace, by an address that either tuple has: how many."""
    n = packets.Netfilter()
    wanted = {socket.inet_pton(socket.AF_INET6 if ":" in one else socket.AF_INET, one) for one in addresses}
    found = []
    for family, entry in entries(n):
        ends = [attrs(attrs(entry[tuple_][0])[CTA_TUPLE_IP][0]) for tuple_ in (CTA_ORIG, CTA_REPLY)]
        if wanted & {value for end in ends for values in end.values() for value in values}:
            found.append((family, entry))
    for family, entry in found:
        said = nla(CTA_ORIG | 0x8000, entry[CTA_ORIG][0]) + nla(CTA_ID, entry[CTA_ID][0])
        n.s.send(struct.pack("=IHHIIBBH", 20 + len(said), CT_DELETE, 1, 1, 0, family, 0, 0) + said)
    n.s.close()
    return len(found)


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
    others = [getattr(flow, other) for flow in made]
    check("%s: no %s has heard of it" % (what, other), select.select(others, [], [], 0)[0], [])
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


def switched_off(do):
    """do() while same-bridge traffic does not reach netfilter."""
    bridge_settings("0")
    try:
        return do()
    finally:
        bridge_settings("1")


def unloaded(do):
    """do() without br_netfilter, as on a host that nothing has hardened. It is loaded with its switches on."""
    run("rmmod", "br_netfilter")
    try:
        return do()
    finally:
        run("modprobe", "br_netfilter")
        bridge_settings("1")


def unseen(flows, when=switched_off):
    """Connections that began before same-bridge traffic reached netfilter."""

    def begin():
        made = [Flow(*flow) for flow in flows]
        good = [flow.talks() for flow in made]
        rest()
        return made, good

    made, good = when(begin)
    if not all(good):
        raise RuntimeError("a flow was down already: %r" % good)
    return made


def first_commit(g, said, ruleset, want, between=lambda: None, when=switched_off):
    Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(g)
    flows = unseen([("a", V["b"], 5432, "b") for V in (V4, V6)], when)
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


SYN, ACK = 0x02, 0x10
#: An option that a receiver without the key drops in silence (RFC 2385), where it would reset what it does not know.
UNSIGNED = b"\x13\x12" + bytes(16) + b"\x01\x01"


def segment(V, address, frm, ports, seq, flags, options=b"", data=b""):
    """TCP from a namespace to an address, as bytes behind the IP header. IPv6's checksum is the kernel's to fill in."""
    offset = (20 + len(options)) // 4 << 4
    said = (
        struct.pack("!HHIIBBHHH", *ports, seq, 1 if flags & ACK else 0, offset, flags, 65535, 0, 0)
        + options
        + data
    )
    if V is V6:
        return said
    pseudo = socket.inet_aton(V4[frm]) + socket.inet_aton(address) + struct.pack("!HH", TCP, len(said))
    return said[:16] + struct.pack("!H", packets.checksum(pseudo + said)) + said[18:]


def raw_tcp(ns, V):
    family = socket.AF_INET if V is V4 else socket.AF_INET6
    with inside(ns):
        s = socket.socket(family, socket.SOCK_RAW, TCP)
    if V is V6:
        s.setsockopt(socket.IPPROTO_IPV6, 7, 16)  # IPV6_CHECKSUM: where in the payload
    return s


def begins(V, frm, to, ports, stray):
    """Whether `to` answers a SYN with a SYN/ACK that gets back, where a stray segment came before it. The SYN has data, so that conntrack
    finds its answer no answer to it and keeps the entry of the stray segment."""
    listener = listen(to, ports[1])
    raw, answers = raw_tcp(frm, V), 0
    address = V.get(to, "10.201.0.1" if V is V4 else "fd00:201::1")
    if stray:
        raw.sendto(segment(V, address, frm, ports, 1000, ACK, UNSIGNED), (address, 0))
    raw.sendto(segment(V, address, frm, ports, 2000, SYN, data=b"x"), (address, 0))
    while comes(raw):
        got = raw.recv(4096)
        got = got[20:] if V is V4 else got
        answers += struct.unpack_from("!HH", got) == ports[::-1] and got[13] & (SYN | ACK) == SYN | ACK
    raw.close()
    listener.close()
    return answers > 0


def test_begins(g):
    """Who serves may not begin a connection of its own from its service's port, by letting conntrack pick one up first."""
    shut = defaults(egress=DENY, from_host=DENY)
    ways = {"a neighbour": ("b", "a"), "the outside": ("a", "w"), "the host": ("a", None)}
    who = {"a": A, "b": B, "w": WORLD, None: HOST}
    port = 7100
    for placement in (FORWARD, POSTROUTING, CONTAINER):
        bridge_settings("0" if placement == CONTAINER else "1")
        for said, (frm, to) in ways.items():
            said = "placement %d, to %s" % (placement, said)
            serves = known(Ruleset(defaults=shut, placement=placement))
            serves.rule(who[to], who[frm], tcp(7060), direct=True)
            for V in (V4, V6):
                known(Ruleset(defaults=(ALLOW,) * 6, placement=placement)).commit(g)
                check(
                    "%s: it begins where nothing is denied" % said,
                    begins(V, frm, to, (7060, port), False),
                    True,
                )
                serves.commit(g)
                check(
                    "%s: not where it only serves" % said, begins(V, frm, to, (7060, port + 1), False), False
                )
                check(
                    "%s: nor behind a stray segment" % said, begins(V, frm, to, (7060, port + 2), True), False
                )
                port += 3
    bridge_settings("1")


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
    with open("/proc/modules") as f:
        module = any(line.startswith("br_netfilter ") for line in f)
    if module:
        first_commit(g, "allowed, br_netfilter loaded only now", allowed, "heard", when=unloaded)
        first_commit(
            g,
            "no rule, br_netfilter loaded only now",
            known(Ruleset(defaults=defaults())),
            "reset",
            when=unloaded,
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


def test_deleted(g):
    """Entries that are deleted while their connections live, by conntrack -F and as dockerd does for a container that joins a network."""
    ways = {"flushed": flush, "deleted by address": lambda: delete(V4["a"], V6["a"])}
    for placement in (FORWARD, POSTROUTING, CONTAINER):
        refused = "silence" if placement == POSTROUTING else "reset"
        after = known(Ruleset(defaults=defaults(), placement=placement).rule(A, B, tcp(7202)))
        before = known(Ruleset(defaults=defaults(), placement=placement).rule(A, B, tcp(7202)))
        before.rule(WORLD, A, tcp(7201), direct=True)
        for how, lose_them in ways.items():
            for first in ("server", "client"):
                before.commit(g)
                allowed = [Flow("a", V["b"], 7202, "b") for V in (V4, V6)]
                revoked = [Flow("w", V["a"], 7201, "a") for V in (V4, V6)]
                egress = [Flow("a", V["w"], 7203, "w") for V in (V4, V6)]
                flows = allowed + revoked + egress
                good = [flow.talks() for flow in flows]
                rest()
                after.commit(g)
                lose_them()
                said = "placement %d, %s, the %s speaks first: " % (placement, how, first)
                check(said + "all were up", good, [True] * 6)
                got = say(flows, first)
                check(said + "a rule allows it", got[:2], ["heard"] * 2)
                check(said + "revoked", got[2:4], [refused] * 2)
                want = "heard" if first == "client" else refused
                check(said + "a default allows it", got[4:], [want] * 2)
                closing(flows)


FLOWTABLE = """table inet bwf {
  flowtable f { hook ingress priority 0; devices = { bwt0, bwt-a, bwt-w }; }
  chain late { type filter hook forward priority 10; meta l4proto { tcp, udp } flow add @f; }
}"""


def carried(g, flows):
    """Whether the flows talk and the hooks see nothing of it."""
    for _ in range(3):
        [flow.talks() for flow in flows]
    before = packets.settled(g.counters)
    good = [flow.talks() for flow in flows]
    rest()
    return all(good) and packets.grown(g, before, packets.RULE) == 0


def test_offloaded(g):
    """Flows in a flowtable, revoked: they have an entry that conntrack saw begin, until that is lost too."""
    allow = known(Ruleset(defaults=defaults()).rule(WORLD, A, tcp(7301), direct=True))
    deny = known(Ruleset(defaults=defaults()).rule(WORLD, B, tcp(1)))
    subprocess.run(["nft", "-f", "-"], input=FLOWTABLE.encode(), check=True)
    try:
        for first in ("server", "client"):
            for scaling, want in (("1", "silence"), ("0", "reset")):
                with inside("w"):
                    sysctl("tcp_window_scaling", scaling, "ipv4")
                allow.commit(g)
                flows = [Flow("w", V["a"], 7301, "a") for V in (V4, V6)]
                said = "offloaded, %s window scaling, the %s speaks: " % (("no", "with")[int(scaling)], first)
                check(said + "no hook sees it", carried(g, flows), True)
                allow.commit(g)
                check(said + "what is allowed goes on", say(flows, first), ["heard"] * 2)
                check(said + "no hook sees it any more", carried(g, flows), True)
                deny.commit(g)
                check(said + "revoked", say(flows, first), [want] * 2)
                flush()
                if want == "silence":
                    check(said + "revoked, without its entry", say(flows, first), ["reset"] * 2)
                closing(flows)
    finally:
        run("nft", "delete", "table", "inet", "bwf")
        with inside("w"):
            sysctl("tcp_window_scaling", 1, "ipv4")


def test_reloaded(g):
    """Connections over an unload and a load: entries stay, and so does what conntrack knows of them."""
    known(Ruleset(defaults=defaults()).rule(A, B, tcp(7402)).rule(WORLD, A, tcp(7401), direct=True)).commit(g)
    allowed = [Flow("a", V["b"], 7402, "b") for V in (V4, V6)]
    revoked = [Flow("w", V["a"], 7401, "a") for V in (V4, V6)]
    check("they talk", [flow.talks() for flow in allowed + revoked], [True] * 4)
    rest()
    g.close()
    reload_module()
    g = Genl()
    known(Ruleset(defaults=defaults()).rule(A, B, tcp(7402))).commit(g)
    check("loaded anew, allowed: the server", say(allowed, "server"), ["heard"] * 2)
    check("loaded anew, revoked: the server", say(revoked, "server"), ["silence"] * 2)
    flush()
    check("their entries go, revoked: the server", say(revoked, "server"), ["reset"] * 2)
    check("their entries go, revoked: the client", say(revoked, "client"), ["reset"] * 2)
    check("their entries go, allowed: the client", say(allowed, "client"), ["heard"] * 2)
    closing(allowed + revoked)
    g.close()


def test_limits(g):
    """What the documents say is not covered, or decides between the two ways round."""
    cases = {
        # name: rules before, rules after, flow, who speaks first, want
        "a rule lets the server open connections to the client's port": (
            known(Ruleset(defaults=defaults(egress=DENY))).rule(WORLD, A, tcp(7501), direct=True),
            known(Ruleset(defaults=defaults(egress=DENY))).rule(A, WORLD, ANY_PORT),
            [("w", V["a"], 7501, "a") for V in (V4, V6)],
            {"server": "heard", "client": "heard"},
        ),
        "it serves on an unpublished port of a client's": (
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(40502), direct=True),
            known(Ruleset(defaults=defaults())),
            [("w", V["a"], 40502, "a") for V in (V4, V6)],
            {"server": "heard", "client": "reset"},
        ),
        "only direct was revoked": (
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(7503), direct=True),
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(7503)),
            [("w", V["a"], 7503, "a") for V in (V4, V6)],
            {"server": "heard", "client": "reset"},
        ),
        "both defaults allow": (
            known(Ruleset(defaults=defaults())).rule(A, B, tcp(7504)),
            known(Ruleset(defaults=defaults(inter=ALLOW))),
            [("a", V["b"], 7504, "b", 7505) for V in (V4, V6)],
            {"server": "heard", "client": "heard"},
        ),
        "to a published port, allowed": (
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(8080)),
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(8080)),
            [("w", address, 18080, "a", 0, 8080) for address in ("10.203.0.1", "fd00:203::1")],
            {"client": "heard"},
        ),
        "to a published port, revoked": (
            known(Ruleset(defaults=defaults())).rule(WORLD, A, tcp(8080)),
            known(Ruleset(defaults=defaults())),
            [("w", address, 18080, "a", 0, 8080) for address in ("10.203.0.1", "fd00:203::1")],
            {"client": "reset"},
        ),
    }
    for said, (before, after, ends, firsts) in cases.items():
        for first, want in firsts.items():
            before.commit(g)
            flows = [Flow(*one) for one in ends]
            check("%s: they talk" % said, [flow.talks() for flow in flows], [True] * len(flows))
            rest()
            after.commit(g)
            flush()
            check("%s: the %s speaks first" % (said, first), say(flows, first), [want] * len(flows))
            closing(flows)


def report(V, frm, to, ports):
    """What comes back from an ICMP error that `frm` sends to `to` about a segment of its: errors and segments."""
    family, size, protocol = (socket.AF_INET, 20, ICMP) if V is V4 else (socket.AF_INET6, 40, ICMP6)
    ends = [socket.inet_pton(family, V[end]) for end in (to, frm)]
    quoted = struct.pack("!HHI", *ports, 1)
    if V is V6:
        said = (
            struct.pack("!BBHI", 1, 0, 0, 0)
            + struct.pack("!IHBB16s16s", 6 << 28, 20, TCP, 64, *ends)
            + quoted
        )
    else:
        quoted = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 40, 1, 0, 64, TCP, 0, *ends) + quoted
        said = (
            struct.pack("!BBHI", 3, 1, packets.checksum(struct.pack("!BBHI", 3, 1, 0, 0) + quoted), 0)
            + quoted
        )
    with inside(frm):
        icmp = socket.socket(family, socket.SOCK_RAW, protocol)
    segments = raw_tcp(frm, V)
    icmp.sendto(said, (V[to], 0))
    found = []
    while comes(icmp):
        got = icmp.recv(4096)[0 if V is V6 else size :]
        found += [got[0]] if got[0] in (1, 3) else []
    while comes(segments, 0.05):
        got = segments.recv(4096)[0 if V is V6 else size :]
        found += [got] if struct.unpack_from("!HH", got) == ports else []
    icmp.close()
    segments.close()
    return found


def test_about(g):
    """An ICMP error about a picked-up connection is judged by it, and answered by nobody."""
    for V in (V4, V6):
        said = "IPv%d: " % (4 if V is V4 else 6)
        known(Ruleset(defaults=defaults()).rule(WORLD, A, tcp(7801), direct=True)).commit(g)
        flow = Flow("w", V["a"], 7801, "a")
        ports = (7801, flow.client.getsockname()[1])
        check(said + "it talks", flow.talks(), True)
        rest()
        flush()
        check(said + "it is picked up", flow.says("client"), "heard")
        rest()
        before = g.counters()
        check(said + "an error about it is not answered", report(V, "w", "a", ports), [])
        check(said + "it passes by the connection's rule", grew(g, before, packets.RULE), True)
        known(Ruleset(defaults=defaults())).commit(g)
        before = g.counters()
        check(said + "revoked, an error about it is not answered", report(V, "w", "a", ports), [])
        check(said + "it is refused as the connection is", grew(g, before, packets.DIRECT), True)
        check(said + "which is", flow.says("client"), "reset")
        closing([flow])


def test_queued(g):
    """A rule that queues one way round queues whoever speaks."""
    known(Ruleset(defaults=defaults()).rule(A, B, tcp(7601))).commit(g)
    flows = [Flow("a", V["b"], 7601, "b") for V in (V4, V6)]
    check("they talk", [flow.talks() for flow in flows], [True] * 2)
    rest()
    known(Ruleset(defaults=defaults()).queue(A, B, tcp(7601), 7)).commit(g)
    flush()
    listener = packets.Listener(7)
    try:
        check("queued and accepted: the server speaks first", say(flows, "server"), ["heard"] * 2)
        check("by way of its queue", packets.queue_seen(7) > 0, True)
        check("the client speaks then", say(flows, "client"), ["heard"] * 2)
    finally:
        listener.kill()
    closing(flows)


def datagram(frm, to, address, port):
    """Whether it arrives."""
    frm.sendto(b"word", (address, port))
    return comes(to) and to.recv(100) == b"word"


def test_udp(g):
    """UDP has no mark: a revoked flow is refused while its entry lives, and then judged by who speaks."""
    port = 7040
    for egress, want in ((ALLOW, True), (DENY, False)):
        for V, any_address in ((V4, "0.0.0.0"), (V6, "::")):
            known(Ruleset(defaults=defaults(egress=egress)).rule(WORLD, A, udp(port), direct=True)).commit(g)
            server = listen("a", port, socket.SOCK_DGRAM)
            with inside("w"):
                client = socket.socket(socket.AF_INET if V is V4 else socket.AF_INET6, socket.SOCK_DGRAM)
            client.bind((any_address, port + 1))
            back = V6["w"] if V is V6 else "::ffff:" + V4["w"]
            said = "UDP over IPv%d, egress %s by default" % (
                4 if V is V4 else 6,
                "allowed" if want else "denied",
            )
            check("%s: allowed" % said, datagram(client, server, V["a"], port), True)
            check("%s: answered" % said, datagram(server, client, back, port + 1), True)
            known(Ruleset(defaults=defaults(egress=egress))).commit(g)
            check("%s: revoked" % said, datagram(server, client, back, port + 1), False)
            if V is V4:
                flush()
            else:
                with forgetful():
                    datagram(client, server, V["a"], port)
                    time.sleep(2.2)
            check(
                "%s: revoked, without an entry, the client" % said,
                datagram(client, server, V["a"], port),
                False,
            )
            check("%s: the server" % said, datagram(server, client, back, port + 1), want)
            server.close()
            client.close()
            port += 2


def sctp(ports, tag, chunk):
    """One packet, as bytes behind the IP header."""
    head = struct.pack("!HHI", *ports, tag)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def heartbeat(ports, tag):
    return sctp(ports, tag, struct.pack("!BBHHH8s", 4, 0, 16, 1, 12, b"anything"))


def test_sctp(g):
    """Of an SCTP association conntrack takes up its beginning, or a heartbeat of either end: other chunks in its middle are invalid."""
    data = struct.pack("!BBHIHHI4s", 0, 3, 20, 7, 0, 0, 0, b"word")
    init = struct.pack("!BBHIIHHI", 1, 0, 20, 0x1234, 65536, 1, 1, 7)
    for V, family, more in ((V4, socket.AF_INET, 20), (V6, socket.AF_INET6, 0)):
        known(Ruleset(defaults=defaults())).commit(g)
        ends = []
        for ns in ("a", "w"):
            with inside(ns):
                ends.append(socket.socket(family, socket.SOCK_RAW, SCTP))
        container, outside = ends
        said = "SCTP over IPv%d: " % (4 if V is V4 else 6)
        container.sendto(sctp((7050, 7051), 0, init), (V["w"], 0))
        check(said + "an association begins", comes(outside) and len(outside.recv(100)), 32 + more)
        before = g.counters()
        container.sendto(sctp((7052, 7053), 0x1234, data), (V["w"], 0))
        check(said + "data of an association that nobody has seen begin", comes(outside), False)
        check(said + "it is invalid", grew(g, before, INVALID), True)
        outside.sendto(heartbeat((7054, 7052), 0x1234), (V["a"], 0))
        check(said + "the client's heartbeat, no rule", comes(container), False)
        container.sendto(heartbeat((7052, 7053), 0x1234), (V["w"], 0))
        check(said + "the server's, egress by default", comes(outside) and len(outside.recv(100)), 28 + more)
        container.sendto(sctp((7052, 7053), 0x1234, data), (V["w"], 0))
        check(said + "data behind it", comes(outside) and len(outside.recv(100)), 32 + more)
        known(Ruleset(defaults=defaults(egress=DENY))).commit(g)
        container.sendto(heartbeat((7056, 7057), 0x1234), (V["w"], 0))
        check(said + "the server's, egress denied", comes(outside), False)
        for s in ends:
            s.close()


TESTS = [
    test_lost,
    test_revoked,
    test_host_ingress,
    test_memo,
    test_begins,
    test_first_commit,
    test_egress,
    test_placements,
    test_deleted,
    test_offloaded,
    test_reloaded,
    test_limits,
    test_about,
    test_queued,
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
