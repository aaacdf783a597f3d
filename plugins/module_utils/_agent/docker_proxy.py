# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The first moment of a published port that docker-proxy serves.

docker-proxy listens before the policy knows its container, so it takes clients
whom nobody has judged, and would pass on what they have said by then as soon as
the container is known.  Therefore ports come first: once they are known every
client of theirs is judged, and while the container is not yet, the kernel
refuses docker-proxy's connections to it, so it closes those that it had taken.
Then comes the container.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import socket
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._host import sockets
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset

#: (protocol, port, address or b"" for any) of a socket of docker-proxy's
ProxyListener = t.Tuple[int, int, bytes]
#: (address, link, port on it): a container that starts anew has a new port
Place = t.Tuple[bytes, int, int]

_TABLES = (
    (socket.IPPROTO_TCP, "tcp"),
    (socket.IPPROTO_TCP, "tcp6"),
    (socket.IPPROTO_UDP, "udp"),
    (socket.IPPROTO_UDP, "udp6"),
)


def newly_published(ruleset: Ruleset, known: t.Collection[Place]) -> t.Dict[ProxyListener, t.Set[bytes]]:
    """The sockets in front of endpoints that are not `known` yet, and those endpoints' addresses, packed."""
    new = {place[0] for place in endpoint_places(ruleset) if place not in known}
    found: t.Dict[ProxyListener, t.Set[bytes]] = {}
    for _family, protocol, port, address, to_family, _pad, _to_port, to_address in ruleset.publish:
        target = to_address[: 4 if to_family == socket.AF_INET else 16]
        if target in new:
            # "Any address" is one key for both families, which lead to one address each.
            found.setdefault((protocol, port, address if any(address) else b""), set()).add(target)
    return found


def without_endpoints(ruleset: Ruleset, addresses: t.Collection[bytes]) -> Ruleset:
    """The same ruleset with these endpoints unknown, hence closed."""
    return dataclasses.replace(
        ruleset,
        endpoints4=[row for row in ruleset.endpoints4 if row[0] not in addresses],
        endpoints6=[row for row in ruleset.endpoints6 if row[0] not in addresses],
        _cache={},
    )


def endpoint_places(ruleset: Ruleset) -> t.Set[Place]:
    """Where the ruleset has its endpoints."""
    return {
        (address, link, port) for address, _identity, link, port in (*ruleset.endpoints4, *ruleset.endpoints6)
    }


def wait_until_empty(
    listeners: t.Collection[ProxyListener], seconds: float, proc: str = "/proc/self/net"
) -> bool:
    """Whether docker-proxy has let go of all that these sockets had taken, within that time."""
    deadline = time.monotonic() + seconds
    while _holding(listeners, proc):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _holding(listeners: t.Collection[ProxyListener], proc: str) -> bool:
    wanted = {(protocol, port) for protocol, port, _address in listeners}
    for protocol, name in _TABLES:
        if not any(one == protocol for one, _port in wanted):
            continue
        try:
            for row in sockets.socket_rows(name, proc):
                local = row[sockets.LOCAL]
                port = sockets.port_of(local)
                if (protocol, port) in wanted and _held(protocol, row):
                    its = sockets.address_of(local).ljust(16, b"\0")  # as a ruleset has it
                    if any((protocol, port, one) in listeners for one in (b"", its)):
                        return True
        except OSError:
            if not name.endswith("6"):  # a host may be without IPv6
                return True
    return False


def _held(protocol: int, row: t.Sequence[str]) -> bool:
    """Whether the socket is in a state in which it may hold what its owner has not read."""
    if protocol == socket.IPPROTO_TCP:
        return int(row[sockets.STATE], 16) in (sockets.ESTABLISHED, sockets.CLOSE_WAIT)
    return sockets.port_of(row[sockets.QUEUES]) > 0  # bytes in its receive queue
