# SPDX-License-Identifier: GPL-3.0-or-later
"""Rulesets of any size around the one container that packets go to, as the compiler makes them: one rule a container.

What is looked for is last in every list, and its neighbours differ in address, identity and rule.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    DIGEST_LEN,
    RULE_NONE,
    Action,
    Identity,
    Mode,
    Placement,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset

#: Of `bd`, by guest.py.
LINK = 101
UDP = 17
PORT = 80
#: Of the host, where docker-proxy serves for the measured container.
PROXY_PORT = 8081
CLIENTS = {4: ipaddress.ip_network("10.9.0.0/16"), 6: ipaddress.ip_network("fd00:9::/64")}
CONTAINER = {4: int(ipaddress.ip_address("172.18.0.2")), 6: int(ipaddress.ip_address("fd00:18::2"))}
#: A container at another port of the same bridge, which sends what is bridged.
NEIGHBOUR = {4: CONTAINER[4] - 1, 6: CONTAINER[6] - 1}


def addresses(n: int) -> list[tuple[int, int]]:
    """Of n containers, the measured one last. IPv4's are all within 172.18.0.0/15, the subnet of `bd`."""
    others = [(CONTAINER[4] + 1 + i, CONTAINER[6] + 1 + i) for i in range(n - 1)]
    return [*others, (CONTAINER[4], CONTAINER[6])]


def published() -> list[tuple[int, int, int, bytes, int, int, int, bytes]]:
    """docker-proxy's sockets, one a family, on every address of the host."""
    return [
        (
            family,
            UDP,
            PROXY_PORT,
            bytes(16),
            family,
            0,
            PORT,
            CONTAINER[v].to_bytes(width, "big").ljust(16, b"\0"),
        )
        for v, family, width in ((4, socket.AF_INET, 4), (6, socket.AF_INET6, 16))
    ]


def world_cells(prefixes: int) -> tuple[list[tuple[bytes, int, int]], list[tuple[bytes, int, int]]]:
    """The address space cut at `prefixes` clients' networks, the measured clients' among them."""
    allowed = Identity.FIRST
    cells4 = [(bytes(4), int(Identity.WORLD), int(Identity.HOST))]
    cells6 = [(bytes(16), int(Identity.WORLD), int(Identity.HOST))]
    if not prefixes:
        return cells4, cells6
    for i in range(prefixes - 1):
        start4, start6 = (11 << 24) + (i << 9), (0xFD01 << 112) + (i << 65)
        for start, end, cells, width in (
            (start4, start4 + 256, cells4, 4),
            (start6, start6 + (1 << 64), cells6, 16),
        ):
            cells.append((start.to_bytes(width, "big"), allowed, int(Identity.HOST)))
            cells.append((end.to_bytes(width, "big"), int(Identity.WORLD), int(Identity.HOST)))
    for v, cells in ((4, cells4), (6, cells6)):
        network = CLIENTS[v]
        cells.append((network.network_address.packed, allowed, int(Identity.HOST)))
        end = int(network.broadcast_address) + 1
        cells.append((end.to_bytes(4 if v == 4 else 16, "big"), int(Identity.WORLD), int(Identity.HOST)))
        cells.sort()
    return cells4, cells6


def ruleset(
    n: int,
    action: Action = Action.ALLOW,
    prefixes: int = 0,
    guard: str = "bd",
    link: int = LINK,
    bridged: bool = False,
) -> Ruleset:
    """n containers, each with a rule of its own for its port; from everybody, from a group of `prefixes` networks, or from one
    more container on the same bridge.

    The host may talk to the measured container, and docker-proxy serves for it on PROXY_PORT of every address.

    With link 0 no container at all: a guard that nothing is behind.
    """
    first = Identity.FIRST + 1
    cells4, cells6 = world_cells(prefixes)
    where = addresses(n) if link else []
    endpoints4 = [(struct.pack("!I", v4), first + i, link, 0) for i, (v4, _) in enumerate(where)]
    endpoints6 = [(v6.to_bytes(16, "big"), first + i, link, 0) for i, (_, v6) in enumerate(where)]
    if bridged:
        endpoints4.append((struct.pack("!I", NEIGHBOUR[4]), int(Identity.FIRST), link, 0))
        endpoints6.append((NEIGHBOUR[6].to_bytes(16, "big"), int(Identity.FIRST), link, 0))
    service = UDP << 16 | PORT
    source = Identity.FIRST if prefixes or bridged else Identity.WORLD
    rules = len(where)
    pairs = [(int(source), first + i, i) for i in range(rules)]
    if where:
        pairs.append((int(Identity.HOST), first + rules - 1, rules - 1))
    return Ruleset(
        mode=Mode.ENFORCE,
        placement=Placement.FORWARD,
        log_group=0,
        log_defaults=False,
        defaults=(int(Action.DENY),) * 5 + (int(Action.ALLOW),),
        guards=(guard,),
        policy_digest=bytes(DIGEST_LEN),
        identities=[(i, i) for i in range(first + rules)],
        cells4=cells4,
        cells6=cells6,
        endpoints4=sorted(endpoints4),
        endpoints6=sorted(endpoints6),
        publish=published() if where else [],
        rules=[(i + 1, int(action), 0, 0, 0, 0, f"rule {i}".encode().ljust(64, b"\0")) for i in range(rules)],
        spans=[(service, service, i, RULE_NONE if action == Action.ALLOW else i) for i in range(rules)],
        blocks=[(i, 1) for i in range(rules)],
        pairs=sorted(pairs),
    )
