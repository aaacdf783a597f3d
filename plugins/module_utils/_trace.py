# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a trace: what to trace in the kernel's words, names for what it says, one record for all of it.

The kernel bounds a trace and ends it when the socket closes, whatever becomes
of this.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import (
    MAX_TERMS,
    MAX_TRACE_EVENTS,
    MAX_TRACE_RATE,
    MAX_TRACE_SECONDS,
    HookRow,
    Kernel,
    Term,
    TraceReport,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._paths import (
    ENDINGS,
    Json,
    Places,
    Threader,
    parse,
    record,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._sshd import (
    Controller,
    controller_connection,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._tracefs import (
    BUFFER_KB,
    Instance,
    read_file,
)

#: Of the records: grows by fields, changes its number where one changes its meaning.
SCHEMA = 1
#: Drops of packets that are none of the trace's, in a second, above which they are not asked for any more.
DROPS_A_SECOND = 3000
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
BOUNDS = (
    ("port", 0, 65535),
    ("packets", 0, MAX_TRACE_EVENTS),
    ("seconds", 1, MAX_TRACE_SECONDS),
    ("events", 1, MAX_TRACE_EVENTS),
    ("rate", 1, MAX_TRACE_RATE),
)
#: Of a trace that never began.
NO_REPORT = TraceReport(0, "ended", 0, 0, 0, 0)
#: Seconds in which a container that has just started gets its name.
PATIENCE = 2.0
#: Dockerd is given that many times as long as it took to answer before it is asked again: what comes in meanwhile waits for it.
SPARING = 10


class Options(t.NamedTuple):
    protocol: str = ""
    source: str = ""
    target: str = ""
    port: int = 0
    container: str = ""
    namespace: str = ""
    guard: str = ""
    dropped: bool = False
    packets: int = 0  # 0: as many as come
    seconds: int = 60
    events: int = 100000
    rate: int = 5000
    docker_socket: str = "unix:///var/run/docker.sock"
    include_session: bool = False  # the SSH session the trace runs in


# What to trace.


def terms(options: Options, facts: t.Optional[Json]) -> t.List[Term]:
    """The options in the kernel's terms; whoever knows a container by one name gets it by all it has."""
    base: Json = {
        "proto": _protocol(options.protocol),
        "port": options.port,
        "one": _cidr(options.source, "from"),
        "other": _cidr(options.target, "to"),
    }
    if base["one"] and base["other"] and (":" in str(base["one"])) != (":" in str(base["other"])):
        raise BridgewardenError(
            f"{options.source} and {options.target} are of different families",
            "from, to",
            "give two of one family",
        )
    containers = _containers(facts)
    if options.container:
        found = _of_container(options, base, _named(containers, options.container))
    elif options.guard:
        found = _of_guard(options, base, facts)
    elif options.namespace:
        found = [Term(**dict(base, netns=_namespace(options.namespace, containers)))]
    else:
        found = [Term(**base)] if any(base.values()) else []
    found += [term for term in _as_published(options, base, containers) if found and term not in found]
    most = MAX_TERMS - 1  # one is for the session
    if len(found) > most:
        raise BridgewardenError(
            "the filter names %d places, a trace takes %d" % (len(found), most),
            "trace",
            "give a container, an address or a port",
        )
    return found


def session_term(session: Controller) -> Term:
    """The trace's own SSH session: each line it prints would be the next packet to show."""
    return Term(socket.IPPROTO_TCP, session.client_port, session.client, session.server, leave_out=True)


def _protocol(word: str) -> int:
    if not word:
        return 0
    number = NUMBERS.get(word.lower(), int(word) if word.isdigit() else -1)
    if not 0 < number < 256:
        raise BridgewardenError(
            f'no protocol is called "{word}"',
            "proto",
            f"give a number or one of {', '.join(sorted(NUMBERS))}",
        )
    return number


def _cidr(text: str, place: str) -> str:
    import ipaddress

    if not text:
        return ""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise BridgewardenError(
            f'"{text}" is no address', place, "give an address or a CIDR, or a container by its own option"
        )


def _containers(facts: t.Optional[Json]) -> t.List[Json]:
    return list((facts or {}).get("containers", ()))


def _named(containers: t.Sequence[Json], name: str) -> Json:
    for container in containers:
        if container["Name"] == name or (len(name) >= 12 and container["Id"].startswith(name)):
            return container
    raise BridgewardenError(
        f'no container is called "{name}"',
        "container",
        f"there are: {', '.join(sorted(c['Name'] for c in containers)) or 'none'}",
    )


def _addresses(container: Json) -> t.List[str]:
    return [
        network[key]
        for network in container["Networks"].values()
        for key in ("IPAddress", "GlobalIPv6Address")
        if network[key]
    ]


def _of_container(options: Options, base: Json, container: Json) -> t.List[Term]:
    if not container["Pid"]:
        raise BridgewardenError(
            f'the container "{container["Name"]}" does not run',
            "container",
            "start it first, or trace by address",
        )
    # With the host's network that is the host's.
    found = [Term(**dict(base, netns=inode_of(container["Pid"])))]
    for address in _addresses(container):
        own = dict(base)
        if not base["one"]:
            own["one"] = address
        elif not base["other"]:
            own["other"] = address
        if not own["one"] or not own["other"] or (":" in own["one"]) == (":" in own["other"]):
            found.append(Term(**own))
    return found


def _of_guard(options: Options, base: Json, facts: t.Optional[Json]) -> t.List[Term]:
    try:
        index = socket.if_nametoindex(options.guard)
    except OSError:
        raise BridgewardenError(
            f'no link is called "{options.guard}"', "guard", "see 'bridgewarden status' for guarded links"
        )
    found = [Term(**dict(base, link=index))]
    for network in (facts or {}).get("networks", ()):
        # Without the bridge's netfilter nothing is seen on the link itself.
        if options.guard in (network["Bridge"], network["Parent"]) and not base["one"]:
            found += [Term(**dict(base, one=subnet)) for subnet in network["Subnets"]]
    return found


def _as_published(options: Options, base: Json, containers: t.Sequence[Json]) -> t.Iterator[Term]:
    """What is on its way to a container still has the host's address and port ahead of the DNAT."""
    import ipaddress

    for container in containers:
        if options.container and options.container != container["Name"]:
            continue
        if options.target:
            network = ipaddress.ip_network(base["other"])
            if not any(ipaddress.ip_address(a) in network for a in _addresses(container)):
                continue
        elif not options.container and not options.port:
            continue
        for binding in container["Ports"]:
            number = NUMBERS.get(binding["Protocol"], 0)
            if base["proto"] not in (0, number):
                continue
            if options.port in (0, binding["ContainerPort"]):
                yield Term(proto=number, port=binding["HostPort"], one=base["one"])
            if options.port == binding["HostPort"]:
                # docker-proxy goes on from there in a connection of its own.
                for address in _addresses(container):
                    yield Term(proto=number, port=binding["ContainerPort"], one=address)


def inode_of(pid: int) -> int:
    try:
        return os.stat("/proc/%d/ns/net" % pid).st_ino
    except OSError:
        return 0


def _namespace(name: str, containers: t.Sequence[Json]) -> int:
    if name == "host":
        return inode_of(os.getpid())
    if name.isdigit():
        return int(name)
    for container in containers:
        if container["Name"] == name:
            return inode_of(container["Pid"])
    try:
        return os.stat(os.path.join("/run/netns", name)).st_ino
    except OSError:
        raise BridgewardenError(
            f'no network namespace is called "{name}"',
            "namespace",
            "give host, a container's name, a name from 'ip netns', or an inode number",
        )


# Names.


class Namespaces:
    """Inodes to names; asks again where it meets an unknown one, but not at every packet, and a slow dockerd the less often."""

    def __init__(self, collect: t.Callable[[], t.Optional[Json]]) -> None:
        self._collect = collect
        self._again = 0.0
        self.names: t.Dict[int, str] = {}
        self.pids: t.Dict[int, str] = {}
        self.facts: t.Optional[Json] = None
        self.refresh()

    def refresh(self) -> None:
        began = time.monotonic()
        self.facts = self._collect()
        ended = time.monotonic()
        self._again = ended + max(PATIENCE, SPARING * (ended - began))
        with contextlib.suppress(OSError):
            for name in os.listdir("/run/netns"):
                path = os.path.join("/run/netns", name)
                with contextlib.suppress(OSError):
                    inode = os.stat(path).st_ino
                    self.names.setdefault(inode, name)
                    self.pids.setdefault(inode, path)
        own: t.Dict[int, t.List[str]] = {}
        for container in _containers(self.facts):
            inode = inode_of(container["Pid"]) if container["Pid"] else 0
            if inode:
                own.setdefault(inode, []).append(container["Name"])
                self.pids[inode] = "/proc/%d/ns/net" % container["Pid"]
        self.names.update({inode: "+".join(sorted(names)) for inode, names in own.items()})
        host = inode_of(os.getpid())
        self.names[host] = "host"
        self.pids[host] = "/proc/self/ns/net"

    def meet(self, netns: int) -> None:
        if netns not in self.names and time.monotonic() > self._again:
            self.refresh()

    def places(self, others: t.Mapping[int, t.Mapping[t.Tuple[str, str], t.Sequence[str]]]) -> Places:
        return Places(self.names, proxies(self.facts), self.unseen, others)

    def unseen(self, one: str, other: str, family: str) -> str:
        """Why nothing that goes between the two containers passes the host's hooks."""
        pair = [c for c in _containers(self.facts) if c["Name"] in (one, other)]
        if len(pair) != 2:
            return ""
        for name, network in pair[0]["Networks"].items():
            if name not in pair[1]["Networks"]:
                continue
            if network["Parent"]:
                return f"a {network['Parent']} link carries it past the host"
            if network["Link"]:
                return setting_words(network["Link"], family)
        return ""

    # The container and its port behind a port of docker-proxy's.
    def proxied(self, protocol: str, port: int) -> t.Optional[t.Tuple[str, int]]:
        return proxies(self.facts).get((protocol, port))


def proxies(facts: t.Optional[Json]) -> t.Dict[t.Tuple[str, int], t.Tuple[str, int]]:
    """Published ports: what reaches the host's own socket there reached docker-proxy."""
    if (facts or {}).get("docker", {}).get("userland_proxy") is False:
        return {}
    return {
        (binding["Protocol"], binding["HostPort"]): (container["Name"], binding["ContainerPort"])
        for container in _containers(facts)
        if container["NetworkMode"] != "host"
        for binding in container["Ports"]
    }


def setting_words(
    bridge: str, family: str, proc: str = "/proc/sys/net/bridge", sys: str = "/sys/class/net"
) -> str:
    """What is off, in the kernel's own names; "" where the host's hooks are called."""
    name = "iptables" if family == "IPv4" else "ip6tables"
    overall = read_file("%s/bridge-nf-call-%s" % (proc, name))
    if overall is None:
        return f"br_netfilter is not loaded, so that nothing within {bridge} passes the host's hooks"
    own = read_file("%s/%s/bridge/nf_call_%s" % (sys, bridge, name))
    if overall == "0" and own in ("0", None):
        return f"bridge-nf-call-{name} is 0 on {bridge}"
    return ""


# A whole trace.


class Trace:
    """`with Trace(options) as trace: for path in trace.paths(): ...`; then trace.summary()."""

    def __init__(self, options: Options, kernel_factory: t.Callable[[], Kernel] = Kernel) -> None:
        self._options = options
        self._kernel = kernel_factory()
        self._others: t.Dict[int, t.Dict[t.Tuple[str, str], t.List[str]]] = {}
        self._count = 0
        self._drops_off = False
        self._carried: t.Dict[t.Tuple[str, int], Json] = {}
        self._joined: t.Dict[int, int] = {}
        self._origin = 0.0
        self._lost = 0
        self._stopping = False
        self._newest = 0.0
        self.hooks: t.Dict[str, t.List[Json]] = {}
        self.report: t.Optional[TraceReport] = None
        self.session: t.Optional[Controller] = None  # left out
        self.ended = ""
        # A missing module is what to say, rather than that its events are not there.
        self._kernel.open()
        try:
            self._instance = Instance()
            self.namespaces = Namespaces(self._collect)
        except BaseException:
            self._kernel.close()
            raise

    def _collect(self) -> t.Optional[Json]:
        from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import collect

        try:
            return collect(self._options.docker_socket)
        except BridgewardenError:
            return None  # packets cross a host without Docker too

    def __enter__(self) -> Trace:
        options = self._options
        try:
            self._begin(options)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self, options: Options) -> None:
        for name, least, most in BOUNDS:
            given = getattr(options, name)
            if not least <= given <= most:
                raise BridgewardenError(
                    "%s cannot be %d" % (name, given), name, "give %d to %d" % (least, most)
                )
        wanted = terms(options, self.namespaces.facts)
        self.session = None if options.include_session else controller_connection()
        if self.session is not None:
            wanted.append(session_term(self.session))
        self.report = self._kernel.trace_begin(wanted, options.seconds, options.events, options.rate)
        self._origin = time.time() - time.clock_gettime(time.CLOCK_MONOTONIC)
        self._instance.open(self.report.id)

    def __exit__(self, *exc: object) -> None:
        self._kernel.close()  # ends the trace in the kernel, whatever else fails
        self._instance.close()

    def stop(self) -> None:
        """What has come by now is the last: paths() ends with it. May be called from a signal's handler."""
        self._stopping = True

    def paths(self) -> t.Iterator[Json]:
        """Paths as they are complete, until the trace ends or as many packets have come as were asked for."""
        threader = Threader()
        asked = time.monotonic()
        while not self._stopping:
            yield from self._read(threader, 0.2)
            # Behind in reading, silence of a path means nothing yet.
            now = time.clock_gettime(time.CLOCK_MONOTONIC) if self._instance.drained else self._newest
            yield from self._shown(threader.idle(now))
            if self._enough():
                return
            if time.monotonic() - asked > 0.5:
                asked = time.monotonic()
                self._check_drops(threader)
                self.report = self._kernel.trace_get()
                if self.report.state != "running":
                    self.ended = self.report.state
                    break
        end = time.clock_gettime(time.CLOCK_MONOTONIC)
        for _turn in range(BUFFER_KB):  # what the buffer can hold, and not what goes on coming
            yield from self._read(threader, 0.05)
            if self._instance.drained or self._enough():
                break
        if self.ended == "events":
            end = self._newest
        yield from self._shown(threader.rest(), end)

    def _read(self, threader: Threader, seconds: float) -> t.Iterator[Json]:
        for line in self._instance.lines(seconds):
            event = self._event(line)
            if event is None:
                continue
            self._newest = max(self._newest, event["time"])
            yield from self._shown(threader.add(event))
            if self._enough():
                return

    def _event(self, line: str) -> t.Optional[Json]:
        event = parse(line)
        if event is not None and "netns" in event:
            self.namespaces.meet(event["netns"])
            self._meet(event["netns"])
        return event

    def _check_drops(self, threader: Threader) -> None:
        """Other packets' drops may be many: they must not crowd out what was asked for."""
        if threader.unmatched_drops > DROPS_A_SECOND and not self._drops_off:
            self._drops_off = True
            self._instance.put("events/skb/kfree_skb/enable", "0")
        threader.unmatched_drops = 0

    def _meet(self, netns: int) -> None:
        """Who stands at the hooks of a namespace, asked once."""
        if netns in self._others:
            return
        table: t.Dict[t.Tuple[str, str], t.List[str]] = {}
        self._others[netns] = table
        rows = hooks_of(self._kernel, self.namespaces.pids.get(netns))
        for row in rows:
            if not row["own"] and row["family"] != "bridge":
                table.setdefault((row["family"], row["hook"]), []).append(who_text(row))
        self.hooks[self.namespaces.names.get(netns, "netns:%d" % netns)] = rows

    def _shown(self, paths: t.Sequence[t.Any], end: t.Optional[float] = None) -> t.Iterator[Json]:
        """`end` is when the trace ended, for what was under way then."""
        for path in paths:
            if self._enough():
                return
            made = self._record(path, end)
            self._join_proxied(made)
            if self._options.dropped and made["outcome"] not in ("dropped", "rejected", "lost"):
                continue
            self._count += 1
            yield made

    def _record(self, path: t.Any, end: t.Optional[float]) -> Json:
        cut = end is not None and end - path.seen < Threader.IDLE
        places = self.namespaces.places(self._others)
        made = record(path, self._count + 1, places, self._origin, cut)
        if made["outcome"] in ENDINGS and not cut:
            # Whose end was not seen may owe that to the trace.
            with contextlib.suppress(BridgewardenError):
                self.report = self._kernel.trace_get()
            if (
                self.report is not None
                and self.report.state == "events"
                and self._newest - path.seen < Threader.IDLE
            ):
                return record(path, self._count + 1, places, self._origin, True)
            if (self.report is not None and self.report.withheld) or self._instance.lost():
                made["sentence"] += "; or events are missing, see the summary"
        return made

    def _join_proxied(self, path: Json) -> None:
        """What docker-proxy sends to a container goes on with what a client sent to docker-proxy."""
        first, last = path["steps"][0], next(s for s in reversed(path["steps"]) if s["event"] == "crossing")
        own = path["conversation"]
        if path["outcome"] == "proxied":
            target = self.namespaces.proxied(first["protocol"], last["to_port"])
            if target:
                self._carried.setdefault(target, path)
        elif first["namespace"] == "host" and first["hook"] == "LOCAL_OUT":
            client = self._carried.get((last["namespace"], last["to_port"]))
            if client is not None and path["outcome"] == "delivered" and own not in self._joined:
                self._joined[own] = client["conversation"]
        if own in self._joined:
            path["conversation"] = self._joined[own]
            path["sentence"] += "; docker-proxy carries this connection for one that came to it"

    def _enough(self) -> bool:
        if self._options.packets and self._count >= self._options.packets:
            self.ended = "packets"
            return True
        return False

    def summary(self) -> Json:
        """How it ended and what is not in the paths; before the trace is closed."""
        with contextlib.suppress(BridgewardenError):
            self.report = self._kernel.trace_get()
        report = self.report or NO_REPORT
        if self._instance.path:
            self._lost = self._instance.lost()
        notes = []
        if report.withheld:
            notes.append(
                "%d events were kept back by the rate of %d a second: paths have gaps; give a narrower filter"
                % (report.withheld, self._options.rate)
            )
        if self._lost:
            notes.append("%d events were lost because the buffer was full: paths have gaps" % self._lost)
        if report.blind:
            notes.append("%d namespaces could not be traced for want of memory" % report.blind)
        if self._drops_off:
            notes.append(
                "the kernel's own drop reasons were switched off: too many other packets are dropped here"
            )
        if report.state == "events":
            notes.append("ended after %d events, its bound" % report.reported)
        if self.session is not None:
            notes.append(
                "the SSH session this trace runs in (%s port %d) is left out; to show it, give --include-session"
                " (include_session of the module)" % (self.session.client, self.session.client_port)
            )
        if self.namespaces.facts is None:
            notes.append("Docker does not answer: namespaces have numbers instead of names")
        return {
            "packets": self._count,
            "events": report.reported,
            "withheld": report.withheld,
            "lost": self._lost,
            "blind": report.blind,
            "ended": self.ended or "stopped",
            "notes": notes,
        }


def hooks_of(kernel: Kernel, path: t.Optional[str]) -> t.List[Json]:
    """Who stands at each hook of the namespace at `path`, in order; nothing where that is gone."""
    if path is None:
        return []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return []
        raise
    try:
        rows = kernel.hooks(handle)
    finally:
        os.close(handle)
    return [hook_record(row) for row in rows if row.function != "bw_trace_hook"]


def hook_record(row: HookRow) -> Json:
    return {
        "family": row.family,
        "hook": row.hook,
        "priority": row.priority,
        "function": row.function,
        "module": row.module,
        "own": row.own,
    }


def who_text(row: Json) -> str:
    module = f" [{row['module']}]" if row["module"] else ""
    return "%s%s at %d" % (row["function"], module, row["priority"])


def namespace_path(name: str, docker_socket: str) -> str:
    """The file of the namespace that is called so."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import collect

    if name == "host":
        return "/proc/self/ns/net"
    path = os.path.join("/run/netns", name)
    if "/" not in name and os.path.exists(path):
        return path
    container = _named(_containers(collect(docker_socket)), name)
    if not container["Pid"]:
        raise BridgewardenError(f'the container "{name}" does not run', "namespace", "start it first")
    return "/proc/%d/ns/net" % container["Pid"]


def trace(options: Options, kernel_factory: t.Callable[[], Kernel] = Kernel) -> Json:
    """A whole trace as one record: what the module returns and --record writes."""
    with Trace(options, kernel_factory) as running:
        paths = list(running.paths())
        return {
            "schema": SCHEMA,
            "paths": paths,
            "summary": running.summary(),
            "hooks": running.hooks,
        }


def write_private(path: str, text: str) -> None:
    """A trace tells who talks to whom: for its owner's eyes only, from the first byte on."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            os.fchmod(out.fileno(), 0o600)
            out.write(text)
    except OSError as error:
        raise BridgewardenError(
            f"cannot write: {error.strerror}", path, "give a path in a directory that exists"
        )


def read_record(path: str) -> Json:
    try:
        with open(path, encoding="utf-8") as handle:
            record = json.load(handle)
    except OSError as error:
        raise BridgewardenError(f"cannot read: {error.strerror}", path, "give a file that --record wrote")
    except ValueError as error:
        raise BridgewardenError(f"is no record of a trace: {error}", path, "give a file that --record wrote")
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise BridgewardenError("is no record of a trace of this release", path, "record it again")
    return record
