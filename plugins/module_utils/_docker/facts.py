# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container facts: one record made of dockerd's answers and the kernel's links (docs/architecture.md, 2).

assemble() is pure; watch.py asks for what it needs.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: States in which a container has a network namespace, hence links and addresses.
LIVE_STATES = ("running", "paused")

BRIDGE_NAME_OPTION = "com.docker.network.bridge.name"

#: What Docker makes for a network without a parent, by driver.
_DUMMY_PREFIXES = {"macvlan": "dm-", "ipvlan": "di-"}


# Pure: recorded answers in, facts out.


def assemble(
    answers: Json,
    links: t.Sequence[Link],
    default_route_links: t.Sequence[str],
    nsids: t.Mapping[str, int],
    inodes: t.Optional[t.Mapping[str, int]] = None,
) -> Json:
    """`answers` as _ask_all() returns them; `nsids` gives a sandbox path's namespace number, `inodes` its inode's."""
    bridges = {link.name: link.index for link in links if link.kind == "bridge"}
    indexes = {link.name: link.index for link in links}
    networks = [_network(raw, bridges, indexes) for raw in answers["networks"]]
    by_name = {network["Name"]: network for network in networks}
    by_id = {network["Id"]: network for network in networks}
    ports: t.Dict[t.Tuple[int, int], Link] = {
        (link.netnsid, link.master): link
        for link in links
        if link.kind == "veth" and link.netnsid >= 0 and link.master
    }
    containers = []
    for listed in answers["containers"]:
        inspect = answers["inspects"].get(listed["Id"])
        live = listed.get("State") in LIVE_STATES
        if live and inspect is None:
            continue  # gone between the two calls
        containers.append(_container(listed, inspect or {}, by_name, by_id, ports, nsids, inodes or {}))
    return {
        "docker": {"version": answers["version"], "userland_proxy": answers["userland_proxy"]},
        "containers": sorted(containers, key=lambda item: (item["Name"], item["Id"])),
        "networks": sorted(networks, key=lambda item: (item["Name"], item["Id"])),
        "links": {name: {"index": index, "bridge": True} for name, index in sorted(bridges.items())},
        "default_route_links": sorted(set(default_route_links)),
    }


def network_bridge(raw: Json) -> t.Optional[str]:
    """The name of the bridge that dockerd made for a network, None for other drivers."""
    if raw.get("Driver") != "bridge":
        return None
    name = (raw.get("Options") or {}).get(BRIDGE_NAME_OPTION)
    return str(name) if name else "br-" + raw["Id"][:12]


def network_parent(raw: Json) -> t.Optional[str]:
    """The host's link that a macvlan or ipvlan network hangs on, None for other drivers."""
    if raw.get("Driver") not in _DUMMY_PREFIXES:
        return None
    return (raw.get("Options") or {}).get("parent") or _DUMMY_PREFIXES[raw["Driver"]] + raw["Id"][:12]


def _network(raw: Json, bridges: t.Mapping[str, int], indexes: t.Mapping[str, int]) -> Json:
    bridge, parent = network_bridge(raw), network_parent(raw)
    ipam = (raw.get("IPAM") or {}).get("Config") or []
    return {
        "Id": raw["Id"],
        "Name": raw["Name"],
        "Driver": raw.get("Driver") or "",
        "Internal": bool(raw.get("Internal")),
        "EnableIPv6": bool(raw.get("EnableIPv6")),
        "Subnets": [config["Subnet"] for config in ipam if config.get("Subnet")],
        "Bridge": bridge,
        "BridgeIndex": bridges.get(bridge) if bridge else None,
        "Parent": parent,
        "ParentIndex": indexes.get(parent) if parent else None,
        "Labels": dict(raw.get("Labels") or {}),
    }


def _container(
    listed: Json,
    inspect: Json,
    by_name: t.Mapping[str, Json],
    by_id: t.Mapping[str, Json],
    ports: t.Mapping[t.Tuple[int, int], Link],
    nsids: t.Mapping[str, int],
    inodes: t.Mapping[str, int],
) -> Json:
    live = bool(inspect)
    settings = (inspect if live else listed).get("NetworkSettings") or {}
    sandbox = settings.get("SandboxKey") or ""
    nsid = nsids.get(sandbox, -1)
    networks: Json = {}
    for name, raw in sorted((settings.get("Networks") or {}).items()):
        network = by_id.get(raw.get("NetworkID") or "") or by_name.get(name)
        link = network["Bridge"] if network and live else None
        link_index = network["BridgeIndex"] if network and live else None
        port = ports.get((nsid, link_index)) if link_index else None
        networks[name] = {
            "NetworkID": raw.get("NetworkID") or (network["Id"] if network else None),
            "IPAddress": (raw.get("IPAddress") or None) if live else None,
            "GlobalIPv6Address": (raw.get("GlobalIPv6Address") or None) if live else None,
            "MacAddress": (raw.get("MacAddress") or None) if live else None,
            "Link": link,
            "LinkIndex": link_index,
            "Port": port.name if port else None,
            "PortIndex": port.index if port else None,
            "Parent": network["Parent"] if network and live else None,
            "ParentIndex": network["ParentIndex"] if network and live else None,
            "Namespace": inodes.get(sandbox) if network and network["Parent"] and live else None,
        }
    config = inspect.get("Config") or {}
    return {
        "Id": listed["Id"],
        "Name": _container_name(listed, inspect),
        "Image": config.get("Image") or listed.get("Image") or "",
        "State": listed.get("State") or "",
        "Pid": int((inspect.get("State") or {}).get("Pid") or 0),
        "NetworkMode": (listed.get("HostConfig") or {}).get("NetworkMode")
        or (inspect.get("HostConfig") or {}).get("NetworkMode")
        or "default",
        "Labels": dict(listed.get("Labels") or {}),
        "Networks": networks,
        "Ports": _published_ports(settings.get("Ports") or {}) if live else [],
    }


def _container_name(listed: Json, inspect: Json) -> str:
    # The list also holds the legacy links' names, which have a second slash.
    names = [inspect["Name"]] if inspect.get("Name") else listed.get("Names") or []
    own = [name for name in names if name.count("/") <= 1] or names
    return str(own[0]).lstrip("/") if own else str(listed["Id"])[:12]


def _published_ports(raw: t.Mapping[str, t.Optional[t.List[Json]]]) -> t.List[Json]:
    """The published ones only; an exposed port has no binding."""
    ports = []
    for key, bindings in raw.items():
        number, dummy, protocol = key.partition("/")
        for binding in bindings or []:
            if not str(binding.get("HostPort") or "").isdigit():
                continue
            ports.append(
                {
                    # What Docker means by an empty address; nothing is bound here.
                    "HostIp": binding.get("HostIp") or "0.0.0.0",  # noqa: S104
                    "HostPort": int(binding["HostPort"]),
                    "ContainerPort": int(number),
                    "Protocol": protocol or "tcp",
                }
            )
    return sorted(
        ports, key=lambda item: (item["Protocol"], item["HostPort"], item["HostIp"], item["ContainerPort"])
    )


def complete(facts: Json) -> bool:
    """Whether each live container's port on each of its bridges is known."""
    return all(
        network["PortIndex"] or not network["LinkIndex"] or not network["IPAddress"]
        for container in facts["containers"]
        for network in container["Networks"].values()
    )
