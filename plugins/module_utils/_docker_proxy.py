# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
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
import os
import socket
import struct
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import Ruleset

#: (protocol, port, address or b"" for any) of a socket of docker-proxy's
Listener = t.Tuple[int, int, bytes]
#: (address, link, port on it): a container that starts anew has a new port
Place = t.Tuple[bytes, int, int]

#: proc_pid_net(5), include/net/tcp_states.h: those in which a socket may hold what its owner has not read.
_ESTABLISHED, _CLOSE_WAIT = 1, 8
_TABLES = (
    (socket.IPPROTO_TCP, "tcp"),
    (socket.IPPROTO_TCP, "tcp6"),
    (socket.IPPROTO_UDP, "udp"),
    (socket.IPPROTO_UDP, "udp6"),
)


def newly_published(ruleset: Ruleset, known: t.Collection[Place]) -> t.Dict[Listener, bytes]:
    """The sockets in front of endpoints that are not `known` yet, and those endpoints' addresses, packed."""
    new = {place[0] for place in places(ruleset) if place not in known}
    found = {}
    for _family, protocol, port, address, to_family, _pad, _to_port, to_address in ruleset.publish:
        target = to_address[: 4 if to_family == socket.AF_INET else 16]
        if target in new:
            found[protocol, port, address if any(address) else b""] = target
    return found


def without(ruleset: Ruleset, addresses: t.Collection[bytes]) -> Ruleset:
    """The same ruleset with these endpoints unknown, hence closed."""
    return dataclasses.replace(
        ruleset,
        endpoints4=[row for row in ruleset.endpoints4 if row[0] not in addresses],
        endpoints6=[row for row in ruleset.endpoints6 if row[0] not in addresses],
        _cache={},
    )


def places(ruleset: Ruleset) -> t.Set[Place]:
    """Where the ruleset has its endpoints."""
    return {
        (address, link, port) for address, _identity, link, port in (*ruleset.endpoints4, *ruleset.endpoints6)
    }


def wait_until_empty(listeners: t.Collection[Listener], seconds: float, proc: str = "/proc/self/net") -> bool:
    """Whether docker-proxy has let go of all that these sockets had taken, within that time."""
    deadline = time.monotonic() + seconds
    while _holding(listeners, proc):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)
    return True


def _holding(listeners: t.Collection[Listener], proc: str) -> bool:
    wanted = {(protocol, port) for protocol, port, _address in listeners}
    for protocol, name in _TABLES:
        if not any(one == protocol for one, _port in wanted):
            continue
        try:
            with open(os.path.join(proc, name), encoding="ascii") as table:
                next(table, "")
                for line in table:
                    fields = line.split()
                    address, _colon, port = fields[1].partition(":")
                    if (protocol, int(port, 16)) in wanted and _held(protocol, fields):
                        its = _packed(address)
                        if any((protocol, int(port, 16), one) in listeners for one in (b"", its)):
                            return True
        except OSError:
            if not name.endswith("6"):  # a host may be without IPv6
                return True
    return False


def _held(protocol: int, fields: t.Sequence[str]) -> bool:
    if protocol == socket.IPPROTO_TCP:
        return int(fields[3], 16) in (_ESTABLISHED, _CLOSE_WAIT)
    return int(fields[4].partition(":")[2], 16) > 0  # bytes in its receive queue


def _packed(text: str) -> bytes:
    """An address as the table has it, in words of the host's byte order, as a ruleset has it: padded to 16 bytes."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if packed[:12] == bytes(10) + b"\xff\xff":
        packed = packed[12:]
    return packed.ljust(16, b"\0")
