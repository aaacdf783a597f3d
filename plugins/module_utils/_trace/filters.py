# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What to trace: the options of a trace, and the terms the kernel filters packets by.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import socket
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    MAX_TERMS,
    MAX_TRACE_EVENTS,
    MAX_TRACE_RATE,
    MAX_TRACE_SECONDS,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import (
    addresses_of,
    container_named,
    containers_of,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import Controller
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Term
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import PROTOCOLS
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.namespaces import (
    inode_of,
    namespace_named,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

BOUNDS = (
    ("port", 0, 65535),
    ("packets", 0, MAX_TRACE_EVENTS),
    ("seconds", 1, MAX_TRACE_SECONDS),
    ("events", 1, MAX_TRACE_EVENTS),
    ("rate", 1, MAX_TRACE_RATE),
)


class TraceOptions(t.NamedTuple):
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
    docker_socket: str = DEFAULT_SOCKET
    include_session: bool = False  # the SSH session the trace runs in


# What to trace.


def terms(options: TraceOptions, facts: t.Optional[Json]) -> t.List[Term]:
    """The options in the kernel's terms; whoever knows a container by one name gets it by all it has."""
    base: Json = {
        "proto": _protocol(options.protocol),
        "port": options.port,
        "one": _network(options.source, "from"),
        "other": _network(options.target, "to"),
    }
    if base["one"] and base["other"] and (":" in str(base["one"])) != (":" in str(base["other"])):
        raise BridgewardenError(
            f"{options.source} and {options.target} are of different families",
            "from, to",
            "give two of one family",
        )
    containers = containers_of(facts)
    if options.container:
        found = _of_container(options, base, container_named(containers, options.container))
    elif options.guard:
        found = _of_guard(options, base, facts)
    elif options.namespace:
        found = [Term(**dict(base, netns=namespace_named(options.namespace, containers)))]
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
    number = PROTOCOLS.get(word.lower(), int(word) if word.isdigit() else -1)
    if not 0 < number < 256:
        raise BridgewardenError(
            f'no protocol is called "{word}"',
            "proto",
            f"give a number or one of {', '.join(sorted(PROTOCOLS))}",
        )
    return number


def _network(text: str, place: str) -> str:
    import ipaddress

    if not text:
        return ""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise BridgewardenError(
            f'"{text}" is no address', place, "give an address or a CIDR, or a container by its own option"
        )


def _of_container(options: TraceOptions, base: Json, container: Json) -> t.List[Term]:
    if not container["Pid"]:
        raise BridgewardenError(
            f'the container "{container["Name"]}" does not run',
            "container",
            "start it first, or trace by address",
        )
    # With the host's network that is the host's.
    found = [Term(**dict(base, netns=inode_of(container["Pid"])))]
    for address in addresses_of(container):
        own = dict(base)
        if not base["one"]:
            own["one"] = address
        elif not base["other"]:
            own["other"] = address
        if not own["one"] or not own["other"] or (":" in own["one"]) == (":" in own["other"]):
            found.append(Term(**own))
    return found


def _of_guard(options: TraceOptions, base: Json, facts: t.Optional[Json]) -> t.List[Term]:
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


def _as_published(options: TraceOptions, base: Json, containers: t.Sequence[Json]) -> t.Iterator[Term]:
    """What is on its way to a container still has the host's address and port ahead of the DNAT."""
    import ipaddress

    for container in containers:
        if options.container and options.container != container["Name"]:
            continue
        if options.target:
            network = ipaddress.ip_network(base["other"])
            if not any(ipaddress.ip_address(a) in network for a in addresses_of(container)):
                continue
        elif not options.container and not options.port:
            continue
        for binding in container["Ports"]:
            number = PROTOCOLS.get(binding["Protocol"], 0)
            if base["proto"] not in (0, number):
                continue
            if options.port in (0, binding["ContainerPort"]):
                yield Term(proto=number, port=binding["HostPort"], one=base["one"])
            if options.port == binding["HostPort"]:
                # docker-proxy goes on from there in a connection of its own.
                for address in addresses_of(container):
                    yield Term(proto=number, port=binding["ContainerPort"], one=address)
