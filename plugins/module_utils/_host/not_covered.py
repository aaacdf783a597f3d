# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of Docker's on this host no rule can judge: one list, for preflight, info and compliance.

A row is {"what", "name", "why", "hint"}.  A host without rows is covered as docs/coverage.md says.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_any
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Drivers whose networks have nothing to judge: their members are rows, or have no network.
_NO_NETWORK = ("host", "null", "none")
_CHILD_DRIVERS = ("macvlan", "ipvlan")


def not_covered(
    facts: Json,
    placement: str,
    unguarded: t.Sequence[str] = (),
    guard_links: t.Optional[t.Collection[int]] = None,
) -> t.List[Json]:
    """The rows, by container facts as container_info returns them; `unguarded` are patterns of bridges that are left alone.

    `guard_links`: the indexes of the links that the kernel guards, where they are known.
    """
    rows = [row for network in facts["networks"] for row in _network(network, placement, unguarded)]
    if guard_links is not None:
        told = {row["name"] for row in rows}
        rows += [
            row
            for network in facts["networks"]
            if network["Name"] not in told and network["BridgeIndex"] not in (None, *guard_links)
            for row in [_without_guard(network, facts.get("default_route_links") or ())]
        ]
    on_host = {container["Id"] for container in facts["containers"] if container["NetworkMode"] == "host"}
    for container in facts["containers"]:
        mode = container["NetworkMode"]
        if not container["Pid"]:
            continue
        if mode == "host" or (mode.startswith("container:") and mode.partition(":")[2] in on_host):
            rows.append(
                _row(
                    "host network",
                    container["Name"],
                    "its packets are the host's own and cross no bridge",
                    "give it a network of its own, or write rules for the host's ports with the class host_ingress",
                )
            )
    return sorted(rows, key=lambda row: (row["what"], row["name"]))


def _network(network: Json, placement: str, unguarded: t.Sequence[str]) -> t.Iterator[Json]:
    name, driver = network["Name"], network["Driver"]
    if driver in _NO_NETWORK:
        return
    if driver == "overlay":
        yield _row(
            "overlay network",
            name,
            "what its tasks say to one another crosses hosts inside VXLAN and never a guarded bridge",
            "docker_gwbridge is guarded: what tasks say to the outside, and the routing mesh, are judged there",
        )
    elif driver in _CHILD_DRIVERS:
        if placement != "container":
            yield _row(
                f"{driver} network",
                name,
                f"its containers hang on {network['Parent']} beside the host: their packets pass no bridge",
                "set bridgewarden_placement to container",
            )
    elif driver != "bridge":
        yield _row(
            "unknown driver",
            name,
            f"bridgewarden does not know where the packets of a network with the driver {driver} pass",
            "move its containers to a bridge network, or accept that it is not filtered",
        )
    elif not network["BridgeIndex"]:
        yield _row(
            "bridge elsewhere",
            name,
            f"there is no bridge {network['Bridge']} in the host's network namespace (a rootless dockerd has its own)",
            "run a rootful dockerd, or point bridgewarden_docker_socket at the one whose bridges are the host's",
        )
    elif glob_any(network["Bridge"], unguarded):
        yield _row(
            "unguarded bridge",
            name,
            f"bridgewarden_unguarded leaves {network['Bridge']} alone",
            "take it out of bridgewarden_unguarded to have it judged",
        )


def _without_guard(network: Json, default_route_links: t.Collection[str]) -> Json:
    bridge = network["Bridge"]
    if bridge in default_route_links:
        why = f"the host's default route goes over {bridge}, which therefore gets no guard"
    else:
        why = f"no guard is on {bridge}: it is new, or SSH or a lifeline comes in over it"
    hint = (
        f"name {bridge} in bridgewarden_unguarded, or put this network's containers on a bridge of their own"
    )
    return _row("bridge without a guard", network["Name"], why, hint)


def _row(what: str, name: str, why: str, hint: str) -> Json:
    return {"what": what, "name": name, "why": why, "hint": hint}
