#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Malformed netlink at a loaded module; in a throw-away VM, as packets.py, whose world it builds on.

Requests are made from ../bridgewarden.yaml (beside this file in a VM): valid transactions, then damaged in every layer: entries,
attributes, the order of both, lengths, headers. First nothing that is sent may take effect, and nothing may change; then
processes commit beside it, against each other, close their sockets in the middle and read meanwhile.

    fuzz_netlink.py [--seconds 20] [--seed N] [--workers 3]
    fuzz_netlink.py --outside FAMILY     only: who asks has no right to; in a container with CAP_NET_ADMIN
"""

import argparse
import contextlib
import errno
import json
import os
import random
import re
import socket
import struct
import sys
import time

import packets
from packets import (
    A_DRY,
    A_EXPECT,
    A_GENERATION,
    ADD,
    ALLOW,
    BEGIN,
    COMMIT,
    CONFIRM,
    ENDPOINTS,
    INFO,
    PREFIXES,
    REJECT,
    ROLLBACK,
    RULES,
    SEAL,
    V4,
    A,
    B,
    Genl,
    Refused,
    Ruleset,
    check,
    known,
    nla,
    tcp,
    try_tcp,
    udp,
)

HERE = os.path.dirname(os.path.abspath(__file__))
A_RULESET_DIGEST = 8
CMD_MAX = 17
EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 20, 1 << 22)
ANSWER = (
    20.0  # seconds; an emulated debug kernel under load is slow, a request that is never answered is a fault
)


# The specification, read by the few lines of it that matter: no YAML library in a guest.


class Spec:
    def __init__(self):
        text = ""
        for folder in (HERE, os.path.dirname(HERE)):
            with contextlib.suppress(FileNotFoundError), open(folder + "/bridgewarden.yaml") as f:
                text = f.read()
        self.structs, self.attrs, self.requests = {}, [("unspec", "binary", None)], {}
        for name, members in re.findall(r"name: (nl-\S+)\n    type: struct\n(.*?)\n  -\n", text, re.S):
            found = re.findall(r"- \{name: \S+, type: (\w+)(?:.*?len: (\d+))?", members)
            self.structs[name] = [int(n) if n else int(t[1:]) // 8 for t, n in found]
        table = text.split("attribute-sets:")[1].split("operations:")[0]
        for name, kind, rest in re.findall(r"- \{name: (\S+), type: (\w+)(.*)\}", table):
            inner = re.search(r"struct: (\S+?)[,}]", rest + "}")
            self.attrs.append((name, kind, inner and inner.group(1)))
        number = {name: i for i, (name, _, _) in enumerate(self.attrs)}
        command = 0
        for part in text.split("operations:")[1].split("\n    -\n")[1:]:
            value = re.search(r"^      value: (\d+)", part, re.M)
            command = int(value.group(1)) if value else command + 1
            request = re.search(r"request:\n\s+attributes:\n((?:\s+- \S+\n?)+)", part)
            names = re.findall(r"- (\S+)", request.group(1)) if request else []
            self.requests[command] = [number[name] for name in names]
        if command != CMD_MAX or not self.structs or number["ruleset-digest"] != A_RULESET_DIGEST:
            sys.exit("bridgewarden.yaml does not read as expected: it lies beside this file or one folder up")


# Damage.


class Damage:
    """Every method takes something whole and gives back something less so."""

    def __init__(self, spec, seed):
        self.spec, self.r = spec, random.Random(seed)

    def payload(self, kind, data):
        r = self.r
        name, form, inner = self.spec.attrs[kind] if kind < len(self.spec.attrs) else ("?", "binary", None)
        how = r.randrange(10)
        if how == 0:
            return data[: r.randrange(len(data) + 1)]
        if how == 1:
            return data + r.randbytes(r.choice((1, 3, 4, 60)))
        if how == 2:
            return (data or b"\0") * r.choice((2, 3, 100, 2000))
        if how == 3:
            return r.randbytes(r.choice((0, 1, 2, 4, 8, 31, 32, 33, 64, 5000)))
        if how == 4:  # a nest of itself
            for _ in range(r.choice((1, 2, 30))):
                data = nla(kind | r.choice((0, 0x8000)), data[: 0xFFFF - 4])
            return data
        if inner and data and how < 9:  # one member of one entry
            sizes = self.spec.structs[inner]
            whole = sum(sizes)
            at = r.randrange(max(1, len(data) // whole)) * whole
            member = r.randrange(len(sizes))
            at += sum(sizes[:member])
            value = r.choice(EXTREMES + (r.getrandbits(32),)).to_bytes(8, "little")
            size = sizes[member]
            return data[:at] + (value * 8)[:size] + data[at + size :]
        if data:
            at = r.randrange(len(data))
            return data[:at] + bytes([data[at] ^ 1 << r.randrange(8)]) + data[at + 1 :]
        return data

    def attrs(self, found):
        r = self.r
        found = list(found)
        for _ in range(r.choice((1, 1, 2, 4))):
            how, at = r.randrange(9), r.randrange(len(found)) if found else 0
            if how == 0 and found:
                del found[at]
            elif how == 1 and found:
                found.insert(r.randrange(len(found) + 1), found[at])
            elif how == 2:
                r.shuffle(found)
            elif how == 3 and found:
                found[at] = (
                    r.choice((r.randrange(100), found[at][0] | 0x8000, found[at][0] | 0x4000)),
                    found[at][1],
                )
            elif how == 4:
                found.append((r.randrange(100), r.randbytes(r.randrange(40))))
            elif found:
                found[at] = (found[at][0], self.payload(found[at][0] & 0x3FFF, found[at][1]))
        return found

    def bytes(self, found):
        """Attributes on the wire, now and then with lengths that lie; 65535 is the longest there is."""
        r = self.r
        out = b""
        for kind, data in found:
            data = data[: 0xFFFF - 4]
            length = len(data) + 4
            if not r.randrange(25):
                length = r.choice((0, 1, 3, 4, length - 1, length + 1, length + 4, 0xFFFF)) & 0xFFFF
            out += struct.pack("=HH", length, kind & 0xFFFF) + data + b"\0" * (-len(data) % 4)
        if not r.randrange(20):
            out += r.randbytes(r.randrange(8))
        return out

    def message(self, family, seq, cmd, body):
        r = self.r
        kind, flags, length, version = family, 5, 20 + len(body), 1
        how = r.randrange(40)
        if how == 0:
            flags = r.getrandbits(16)
        elif how == 1:
            length = r.choice((0, 15, 16, 19, 20, length - 1, length + 1, length + 4096, 0xFFFFFFFF))
        elif how == 2:
            version = r.randrange(256)
        elif how == 3:
            cmd = r.choice((0, CMD_MAX + 1, 99, 255))
        return struct.pack("=IHHIIBBH", length, kind, flags, seq, 0, cmd, version, 0) + body


def transaction(spec, ruleset):
    """A valid one, without its COMMIT: [(command, [(attribute, bytes)])]."""
    head = [
        (5, bytes([ruleset.mode])),
        (6, bytes(ruleset.defaults)),
        (7, os.urandom(32)),
        (A_RULESET_DIGEST, os.urandom(32)),
        *((12, guard.encode() + b"\0") for guard in ruleset.guards),
    ]
    sections = [(kind, data) for kind, data in ruleset.sections() if data]
    return [(BEGIN, head), (ADD, sections[:4]), (ADD, sections[4:])]


def harmless(d, ruleset):
    """Requests none of which may take effect: a commit is a dry run or expects a generation that never was."""
    spec, r = d.spec, d.r
    commands = transaction(spec, ruleset)
    stale = (A_EXPECT, struct.pack("=Q", (1 << 63) + r.getrandbits(32)))
    commands.append((COMMIT, [stale] + ([(A_DRY, b"")] if r.randrange(2) else [])))
    how = r.randrange(6)
    if how == 0:
        r.shuffle(commands)
    elif how == 1:
        del commands[r.randrange(len(commands))]
    elif how == 2:
        commands.insert(r.randrange(4), r.choice(commands))
    elif how == 3:
        other = r.choice([c for c in spec.requests if c not in (SEAL, COMMIT)])
        commands.insert(
            r.randrange(5),
            (other, [(kind, r.randbytes(r.choice((0, 1, 2, 4, 8, 16)))) for kind in spec.requests[other]]),
        )
    out = []
    for cmd, found in commands:
        if r.randrange(3):
            found = d.attrs(found)
        if cmd == COMMIT and stale not in found:
            # what took the guard rail away is what must not be sent
            found = [*(x for x in found if x[0] & 0x3FFF != A_EXPECT), stale]
        if cmd == COMMIT:
            # the last one counts
            found = [x for x in found if x != stale] + [stale]
            body = b"".join(nla(kind & 0xFFFF, data[:0x7FFF]) for kind, data in found)
        else:
            body = d.bytes(found)
        out.append((cmd, body))
    return out


class Socket:
    """Sends anything and reads whatever comes."""

    def __init__(self, family):
        self.s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
        self.s.bind((0, 0))
        self.s.setsockopt(270, 11, 1)
        with contextlib.suppress(OSError):
            self.s.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        self.family, self.seq = family, 0

    def send(self, data):
        try:
            self.s.send(data)
            return True
        except OSError as e:
            if e.errno not in (
                errno.EMSGSIZE,
                errno.ENOBUFS,
                errno.EINVAL,
                errno.ECONNREFUSED,
                errno.EOPNOTSUPP,
            ):
                raise
            return False

    def ask(self):
        """A sound request; returns its number."""
        self.seq = (self.seq + 1) | 0x40000000
        self.send(struct.pack("=IHHIIBBH", 20, self.family, 5, self.seq, 0, INFO, 1, 0))
        return self.seq

    def barrier(self, answers):
        """Reads and counts all answers up to that to a request that is sound, and so proves that the socket is served."""
        mark = self.ask()
        self.s.settimeout(ANSWER)
        # What is sent while our buffer is full is dropped, and told with the first one only: once it is empty we ask again.
        tries = 3
        while True:
            try:
                data = self.s.recv(1 << 20)
            except socket.timeout:
                tries -= 1
                if not tries:
                    raise RuntimeError("a request was not answered") from None
                mark = self.ask()
                continue
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                mark = self.ask()
                continue
            at = 0
            while at + 16 <= len(data):
                length, kind, _, seq, _ = struct.unpack_from("=IHHII", data, at)
                if seq == mark and kind == 2:
                    return
                if kind == 2:
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                    answer = errno.errorcode.get(number, str(number)) if number else "accepted"
                    answers[answer] = answers.get(answer, 0) + 1
                at += max(16, (length + 3) & ~3)


def going(until, enough):
    """Until then, and on a slow machine on until it is enough."""
    now = time.monotonic()
    return now < until or (not enough and now < until + packets.PATIENCE)


def fuzz(spec, family, seed, until, ruleset, count):
    """One process of several. What it counts it writes to the pipe."""
    d = Damage(spec, seed)
    tally = {"requests": 0, "bytes": 0, "sockets": 0}
    while going(until, tally["requests"] > 20):
        s = Socket(family)
        tally["sockets"] += 1
        for _ in range(d.r.choice((1, 3, 10))):
            batch = b""
            for cmd, body in harmless(d, ruleset):
                s.seq += 1
                # A length that lies would make a COMMIT of what follows it: only what stands alone may be damaged there.
                message = (
                    struct.pack("=IHHIIBBH", 20 + len(body), family, 5, s.seq, 0, cmd, 1, 0) + body
                    if cmd in (COMMIT, ADD, BEGIN) and batch
                    else d.message(family, s.seq, cmd, body)
                )
                tally["requests"] += 1
                tally["bytes"] += len(message)
                if d.r.randrange(4):
                    s.send(batch + message)
                    batch = b""
                else:
                    batch += message + b"\0" * (-len(message) % 4)
            if batch:
                s.send(batch)
            if not d.r.randrange(4):
                break  # the socket goes in the middle
            s.barrier(tally)
        s.s.close()
    os.write(count, json.dumps(tally).encode() + b"\n")


def rival(spec, family, seed, until, ruleset, count):
    """Commits that are valid, beside others who do the same; what each was given as generation."""
    r = random.Random(seed)
    given, tally = [], {"commits": 0, "lost": 0, "dumps": 0, "windows": 0, "dropped": 0}
    while going(until, tally["commits"] > 3):
        g = Genl()
        # Of two sockets' requests either wins whole: any of these refusals is one, any other is a fault.
        fine = ("ESTALE", "EBUSY", "ENOENT", "EUSERS")
        try:
            how = r.randrange(8)
            window = how in (1, 2, 3)
            if how == 0:  # begun, filled, dropped
                for cmd, found in transaction(spec, ruleset)[: r.randrange(1, 4)]:
                    g.ask(cmd, b"".join(nla(kind, data) for kind, data in found))
                tally["dropped"] += 1
            else:
                given.append(ruleset.commit(g, timeout=1 if window else 0))
                tally["commits"] += 1
            if window:
                tally["windows"] += 1
                if how == 1:
                    g.ask(CONFIRM, nla(A_EXPECT, struct.pack("=Q", given[-1])))
                elif how == 2:
                    g.ask(ROLLBACK)
        except Refused as e:
            if errno.errorcode.get(e.number) not in fine:
                raise
            tally["lost"] += 1
        for cmd in (RULES, ENDPOINTS, PREFIXES):
            g.ask(cmd, flags=0x301)
            tally["dumps"] += 1
        g.raw(RULES, flags=0x301)  # and a dump nobody reads
        g.close()
    os.write(count, json.dumps({**tally, "given": given}).encode() + b"\n")


def together(jobs):
    """[(function, arguments...)], a process each: what each has counted; None for one that failed."""
    pipes = []
    for fn, *args in jobs:
        there, here = os.pipe()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.close(there)
                fn(*args, here)
                status = 0
            except BaseException as e:
                print("# %s: %r" % (fn.__name__, e), flush=True)
            finally:
                os._exit(status)
        os.close(here)
        pipes.append((pid, there))
    found = []
    for pid, there in pipes:
        with os.fdopen(there, "rb") as f:
            text = f.read()
        found.append(json.loads(text) if not os.waitpid(pid, 0)[1] and text else None)
    return found


def total(found):
    sums = {}
    for one in found:
        for key, value in (one or {}).items():
            if isinstance(value, int):
                sums[key] = sums.get(key, 0) + value
    return sums


# What must be the same afterwards.


def standing(g):
    info = g.ask(INFO)[0]
    return struct.unpack("=Q", info[A_GENERATION][0])[0], info[A_RULESET_DIGEST][0]


def held():
    """Bytes that functions of the module hold of vmalloc's; what is small kmemleak has to tell."""
    with open("/proc/vmallocinfo") as f:
        return sum(int(line.split()[1]) for line in f if re.search(r" bw_\w+\+.*\[bridgewarden\]", line))


def given_back(want):
    """held(), once it is what is wanted or does not become so: what a grace period or a work queue frees needs a moment."""
    packets.until(lambda: held() == want)
    return held()


def room():
    """How many transactions can be begun."""
    others = [Genl() for _ in range(16)]
    opened = [packets.refusal(o.ask, BEGIN) for o in others].count("accepted")
    for o in others:
        o.close()
    return opened


def complaints():
    with open("/dev/kmsg", "rb", buffering=0) as f:
        os.set_blocking(f.fileno(), False)
        found = []
        while True:
            try:
                line = os.read(f.fileno(), 8192)
            except BlockingIOError:
                return found
            except BrokenPipeError:
                continue
            if re.search(rb"BUG|WARNING|Oops|Call Trace|INFO: (task|rcu)|blocked for more", line):
                found.append(line)


def verdicts():
    return try_tcp("a", V4["b"], 8080), try_tcp("b", V4["a"], 8080)


# In a container.


def outside(family, commands):
    """Each command, well-formed, at the family's own number, should somebody guess it: what was heard, what was answered."""
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)
    s.bind((0, 0))
    s.settimeout(ANSWER)

    def ask(kind, cmd, flags, payload=b""):
        s.send(struct.pack("=IHHIIBBH", 20 + len(payload), kind, flags, 1, 0, cmd, 1, 0) + payload)
        number = None
        while True:
            data = s.recv(1 << 20)
            at = 0
            while at < len(data):
                length, kind, _ = struct.unpack_from("=IHH", data, at)
                if kind in (2, 3):
                    number = -struct.unpack_from("=i", data, at + 16)[0]
                at += (length + 3) & ~3
            if number is not None:
                return number

    found = not ask(16, 3, 5, nla(2, b"bridgewarden\0"))
    heard, answers = set(), set()
    for cmd in commands:
        for flags in (5, 0x305):
            number = ask(family, cmd, flags)
            if number:
                answers.add(errno.errorcode.get(number, str(number)))
            else:
                heard.add(cmd)
    print(json.dumps({"found": found, "heard": sorted(heard), "answers": sorted(answers)}))
    return bool(heard)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--outside", type=int, metavar="FAMILY")
    parser.add_argument("--commands", type=int, nargs="+", default=range(1, CMD_MAX + 1))
    args = parser.parse_args()
    if args.outside:
        return outside(args.outside, args.commands)
    print("# seed %d: --seed %d repeats what is sent, not the order among processes" % (args.seed, args.seed))
    spec = Spec()
    g = Genl()
    if g.generation():
        sys.exit("a ruleset is in force here: this is not a throw-away VM; load the module anew")
    said = complaints()
    saved = packets.world_up()
    try:
        for ns in ("a", "b"):
            packets.serve(ns, 8080)
        one = known(Ruleset().rule(A, B, tcp(8080)))
        two = known(Ruleset().rule(A, B, tcp(8080)).rule(B, A, udp(9), REJECT))
        for number, ns, prefix in (
            (0, "a", "10.13.0.0/16"),
            (1, "b", "10.13.13.0/24"),
            (1, "b", "fd13::/32"),
        ):
            two.prefix(prefix, A, number)
            if not prefix.startswith("fd"):
                two.port(number, packets.ifindex("bwt0"), packets.ifindex("bwt-" + ns))
        one.commit(g)
        before, memory = standing(g), packets.settled(held)
        check("a permitted connection, a denied one", verdicts(), ("open", "silence"))

        half = time.monotonic() + args.seconds / 2
        found = together([(fuzz, spec, g.family, args.seed + i, half, two) for i in range(args.workers)])
        print("# damaged only: %s" % total(found))
        check(
            "every request is answered, every process lives",
            [bool(x) and x["requests"] > 20 for x in found],
            [True] * args.workers,
        )
        check("same generation, same digest", standing(g), before)
        check("the same verdicts", verdicts(), ("open", "silence"))
        check("memory is given back", given_back(memory), memory)
        check("no transaction is left open", room(), 16)

        until = time.monotonic() + args.seconds / 2
        found = together(
            [
                (rival, spec, g.family, args.seed + 100 + i, until, ruleset)
                for i, ruleset in enumerate((one, two))
            ]
            + [(fuzz, spec, g.family, args.seed + 200, until, two)]
        )
        rivals = [x for x in found[:2] if x]
        print("# beside commits: %s %s" % (total(rivals), total(found[2:])))
        given = [generation for x in rivals for generation in x["given"]]
        check("rivals and damage: every process lives", [bool(x) for x in found], [True] * 3)
        check("commits took turns", [x["commits"] > 3 for x in rivals], [True] * 2)
        check("no generation was given twice", len(set(given)), len(given))
        packets.until(
            lambda: packets.A_REMAINING not in g.ask(INFO)[0]
        )  # a window may still be open: it rolls back
        check("what is in force was committed", g.generation() in [*given, before[0]], True)
        check("the same verdicts after the race", verdicts(), ("open", "silence"))
        one.commit(g)
        check("a valid commit still works", (verdicts(), given_back(memory)), (("open", "silence"), memory))
        check("no transaction is left open", room(), 16)
        check("the kernel has nothing to say", complaints(), said)
    finally:
        with contextlib.suppress(Refused):
            Genl().ask(ROLLBACK)
        Ruleset(guards=(), defaults=(ALLOW,) * 6).commit(Genl())
        packets.world_down(saved)
    return packets.conclude()


if __name__ == "__main__":
    sys.exit(main())
