# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""bridgewarden endpoints, explain: containers and their names.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import argparse
import json
import time
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.output import (
    Reply,
    link_name,
    table_lines,
    warn,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import (
    Uncommitted,
    explain_peers,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import host_clock
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    LibraryMissing,
    PolicyError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import addresses_of
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import EndpointRow
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.join import policy_of
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


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
    asked = args.source, args.target, args.service, args.direct
    if args.policy:
        policy = read_policy(args.policy)
        facts = collect_facts(args.docker_socket, warn=warn)
        answers = explain_peers(
            Uncommitted(policy, facts, host_clock(Store().read_applied_or_none())), facts, *asked
        )
    else:
        with Kernel() as kernel:
            facts = collect_facts(args.docker_socket, warn=warn)
            answers = explain_peers(kernel, facts, *asked)
    return Reply(answers, [answer["words"] for answer in answers])


def read_policy(path: str) -> Json:
    """A policy from a file: the object that `bridgewarden policy --json` has as "desired", or variables of an inventory."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"the policy cannot be read: {error}", (path,), "name a file in JSON or YAML"
        ) from None
    raw = _parsed(text, path)
    if not isinstance(raw, dict):
        raise PolicyError("the policy must be a mapping", (path,), "write key: value pairs")
    if any(str(key).startswith("bridgewarden_") for key in raw):
        return policy_of(raw)
    return raw


def _parsed(text: str, path: str) -> t.Any:
    try:
        return json.loads(text)
    except ValueError as error:
        no_json = str(error)
    try:
        import yaml
    except ImportError:
        raise LibraryMissing(
            f"the policy is no JSON ({no_json}), and the Python library yaml cannot be imported",
            path,
            "write it in JSON, or install the distribution's python3-yaml",
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyError(
            "the policy is neither JSON nor YAML: " + " ".join(str(error).split()),
            (path,),
            "correct it; values that Ansible fills in, or encrypts, cannot be read here",
        ) from None


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
