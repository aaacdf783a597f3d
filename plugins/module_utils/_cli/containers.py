# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden endpoints, explain: containers and their names.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    link_name,
    table_lines,
    warn,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import explain_peers
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import addresses_of
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import EndpointRow


def cmd_endpoints(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        endpoints = kernel.endpoints()
        prefixes = kernel.prefixes() if kernel.info().counts.get("prefixes") else []
    names = container_names(args.docker_socket)
    record = [
        {
            "address": endpoint.address,
            "container": names.get(endpoint.address),
            "identity": endpoint.identity,
            "link": link_name(endpoint.link),
            "port": link_name(endpoint.port) if endpoint.port else None,
        }
        for endpoint in endpoints
    ]
    at_port = _names_at_ports(endpoints, names)
    record += [
        {
            "address": row.prefix,
            "container": at_port.get((link, port)),
            "identity": row.identity if port else 0,
            "link": link_name(link) if link else None,
            "port": link_name(port) if port else None,
        }
        for row in prefixes
        for link, port in row.ports or ((0, 0),)
    ]
    record.sort(key=lambda row: (row["container"] or "", str(row["address"])))
    rows = [
        (
            row["address"],
            row["container"] or "?",
            row["identity"],
            row["link"] or "none",
            row["port"] or "any",
        )
        for row in record
    ]
    return Reply(record, table_lines(rows, ("address", "container", "identity", "link", "port")))


def cmd_unmanaged(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        rows, endpoints, lost = kernel.unmanaged(), kernel.endpoints(), kernel.info().unmanaged_lost
    at_port = _names_at_ports(endpoints, container_names(args.docker_socket))
    record = [
        {
            "address": row.address,
            "mac": row.mac or None,
            "container": at_port.get((row.link, row.port)),
            "link": link_name(row.link),
            "port": link_name(row.port) if row.port else None,
            "packets": row.packets,
            "idle": row.idle,
        }
        for row in rows
    ]
    lines = table_lines(
        [tuple("?" if value is None else value for value in row.values()) for row in record],
        ("address", "mac", "container", "link", "port", "packets", "idle s"),
    )
    if lost:
        lines.append("%d packets of senders that found no place in the list" % lost)
    return Reply({"senders": record, "lost": lost}, lines)


def _names_at_ports(
    endpoints: t.Iterable[EndpointRow], names: t.Mapping[str, str]
) -> t.Dict[t.Tuple[int, int], str]:
    """(link, port) -> container; of those with a port and a name."""
    return {
        (one.link, one.port): names[one.address] for one in endpoints if one.port and one.address in names
    }


def container_names(docker_socket: str) -> t.Dict[str, str]:
    """address -> container or build step; empty where Docker does not answer: the kernel's answer stands without it."""
    try:
        facts = collect_facts(docker_socket)
        return {
            address: item["Name"]
            for item in (*facts["containers"], *facts.get("attachments", ()))
            for address in addresses_of(item)
        }
    except BridgewardenError:
        return {}


def cmd_explain(args: argparse.Namespace) -> Reply:
    with Kernel() as kernel:
        facts = collect_facts(args.docker_socket, warn=warn)
        answers = explain_peers(kernel, facts, args.source, args.target, args.service, args.direct)
    return Reply(answers, [answer["words"] for answer in answers])


class Names:
    """Addresses to containers; asks Docker again where it meets an unknown one, but not at every packet."""

    def __init__(self, docker_socket: str, patience: float = 5.0) -> None:
        self._socket = docker_socket
        self._patience = patience
        self._names: t.Dict[str, str] = {}
        self._asked: t.Optional[float] = None

    def of(self, address: t.Optional[str]) -> t.Optional[str]:
        if address is None:
            return None
        now = time.monotonic()
        if address not in self._names and (self._asked is None or now - self._asked >= self._patience):
            self._asked = now
            self._names = container_names(self._socket)
        return self._names.get(address)
