# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The container facts: one record made of dockerd's answers and the kernel's links (docs/architecture.md, 2).

assemble() is pure; watch.py asks for what it needs.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import (
    BUILD,
    Attached,
    Attachment,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import EVERY_ADDRESS
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
    bound: t.Optional[t.Mapping[int, str]] = None,
) -> Json:
    """The whole record. `answers` as watch.py keeps them; the rest as Assembler takes it."""
    ports = {endpoint: port for port, endpoint in (bound or {}).items()}
    assembler = Assembler(answers, LinkTable(links), nsids, inodes, ports)
    containers = (assembler.container(listed) for listed in answers["containers"])
    return assembler.facts([one for one in containers if one is not None], default_route_links)


class LinkTable:
    """The host's links, by all that they are looked up by."""

    def __init__(self, links: t.Iterable[Link] = ()) -> None:
        self.by_index: t.Dict[int, Link] = {}
        self.indexes: t.Dict[str, int] = {}  # by name
        self.bridges: t.Dict[str, int] = {}  # the same, of bridges only
        self.of_namespace: t.Dict[
            t.Tuple[int, int], Link
        ] = {}  # a bridge's port: by its peer's namespace, and bridge
        for link in links:
            self.put(link)

    def put(self, link: Link) -> None:
        self.drop(link.index)
        self.by_index[link.index] = link
        self.indexes[link.name] = link.index
        if link.kind == "bridge":
            self.bridges[link.name] = link.index
        elif link.kind == "veth" and link.master and link.netnsid >= 0:
            self.of_namespace[link.netnsid, link.master] = link

    def drop(self, index: int) -> None:
        link = self.by_index.pop(index, None)
        if link is None:
            return
        for names in (self.indexes, self.bridges):
            if names.get(link.name) == index:
                del names[link.name]
        key = link.netnsid, link.master
        if key in self.of_namespace and self.of_namespace[key].index == index:
            del self.of_namespace[key]


class Assembler:
    """Makes the records of containers one by one, so that an event costs only those that it is about."""

    def __init__(
        self,
        answers: Json,
        links: LinkTable,
        nsids: t.Mapping[str, int],
        inodes: t.Optional[t.Mapping[str, int]] = None,
        ports: t.Optional[t.Mapping[str, int]] = None,
    ) -> None:
        """`nsids` gives a sandbox path's namespace number, `inodes` its inode's, `ports` an endpoint's port."""
        self._answers = answers
        self._links = links
        self._nsids = nsids
        self._inodes = inodes or {}
        self._networks = [_network(raw, links.bridges, links.indexes) for raw in answers["networks"]]
        self._by_name = {network["Name"]: network for network in self._networks}
        self._by_id = {network["Id"]: network for network in self._networks}
        self._ports = ports or {}
        self._attached: t.Dict[str, Attached] = answers.get("attached") or {}
        self._ports_matter = answers["userland_proxy"] is not False

    def facts(self, containers: t.Iterable[Json], default_route_links: t.Iterable[str]) -> Json:
        return {
            "docker": {
                "version": self._answers["version"],
                "userland_proxy": self._answers["userland_proxy"],
            },
            "containers": sorted(containers, key=lambda item: (item["Name"], item["Id"])),
            "attachments": self._unnamed(),
            "networks": sorted(self._networks, key=lambda item: (item["Name"], item["Id"])),
            "links": {
                name: {"index": index, "bridge": True} for name, index in sorted(self._links.bridges.items())
            },
            "default_route_links": sorted(set(default_route_links)),
        }

    def container(self, listed: Json) -> t.Optional[Json]:
        """The record of one container; None for one that went between two questions."""
        inspect = self._answers["inspects"].get(listed["Id"])
        live = listed.get("State") in LIVE_STATES
        if live and inspect is None:
            return None
        inspect = inspect or {}
        settings = (inspect if live else listed).get("NetworkSettings") or {}
        config = inspect.get("Config") or {}
        name = _container_name(listed, inspect)
        networks = self._container_networks(listed["Id"], name, settings, live)
        ports: t.List[Json] = []
        state = listed.get("State") or ""
        if live:
            ports = _published_ports(settings.get("Ports") or {})
        elif any(network["PortIndex"] for network in networks.values()):
            # About to run: what is asked for by its state must hold for its first packet.
            state = LIVE_STATES[0]
            ports = self._fixed_ports(listed["Id"]) or []
        return {
            "Id": listed["Id"],
            "Name": name,
            "Image": config.get("Image") or listed.get("Image") or "",
            "State": state,
            "Pid": int((inspect.get("State") or {}).get("Pid") or 0),
            "NetworkMode": (listed.get("HostConfig") or {}).get("NetworkMode")
            or (inspect.get("HostConfig") or {}).get("NetworkMode")
            or "default",
            "Labels": dict(listed.get("Labels") or {}),
            "Networks": networks,
            "Ports": ports,
        }

    def _container_networks(self, ident: str, name: str, settings: Json, live: bool) -> Json:
        nsid = self._nsids.get(settings.get("SandboxKey") or "", -1)
        inode = self._inodes.get(settings.get("SandboxKey") or "")
        found: Json = {}
        for network_name, raw in sorted((settings.get("Networks") or {}).items()):
            network = self._by_id.get(raw.get("NetworkID") or "") or self._by_name.get(network_name)
            now = self._attachment(network, ident, name)
            port = self._port(now)
            if now is not None and (not live or (port and now.endpoint != raw.get("EndpointID"))):
                found[network_name] = self._coming(network, now, port, ident)
            elif live and network is not None:
                own = self._links.of_namespace.get((nsid, network["BridgeIndex"] or 0))
                found[network_name] = _live_network(network, raw, own or port, inode)
            else:
                found[network_name] = _listed_network(network, raw, live)
        for network_id in self._attached:
            network = self._by_id.get(network_id)
            if network is not None and network["Name"] not in found:
                # What its record does not list: the way out of an overlay network, or what has just been connected.
                now = self._attachment(network, ident, name)
                if now is not None:
                    found[network["Name"]] = self._coming(network, now, self._port(now), ident)
        return found

    def _coming(self, network: t.Optional[Json], now: Attachment, port: t.Optional[Link], ident: str) -> Json:
        """An attachment that the container's own record does not have yet.

        Its published ports must be known with it, because docker-proxy serves them before they are.
        """
        known = not self._ports_matter or self._fixed_ports(ident) is not None
        return _attached_network(network, now, port if known else None)

    def _fixed_ports(self, ident: str) -> t.Optional[t.List[Json]]:
        return fixed_ports(self._answers.get("settings", {}).get(ident))

    def _attachment(self, network: t.Optional[Json], ident: str, name: str) -> t.Optional[Attachment]:
        attached = self._attached.get(network["Id"]) if network else None
        return attached.of(ident, name) if attached else None

    def _port(self, attachment: t.Optional[Attachment]) -> t.Optional[Link]:
        port = self._ports.get(attachment.endpoint) if attachment else None
        return self._links.by_index.get(port) if port is not None else None

    def _unnamed(self) -> t.List[Json]:
        """Build steps and Swarm's mesh, in the shape of containers."""
        found = []
        for network_id, attached in self._attached.items():
            network = self._by_id.get(network_id)
            for one in attached.unnamed if network else ():
                body = _attached_network(network, one, self._port(one))
                found.append(
                    {
                        "Id": one.key,
                        "Kind": one.kind,
                        "Name": "build step " + one.key[:12] if one.kind == BUILD else "swarm-ingress",
                        "State": "running",
                        "Networks": {network["Name"]: body},  # type: ignore[index]
                    }
                )
        return sorted(found, key=lambda item: (item["Name"], item["Id"]))


_NOT_ATTACHED: Json = {
    "NetworkID": None,
    "IPAddress": None,
    "GlobalIPv6Address": None,
    "MacAddress": None,
    "Link": None,
    "LinkIndex": None,
    "Port": None,
    "PortIndex": None,
    "Parent": None,
    "ParentIndex": None,
    "Namespace": None,
}


def _attached_network(network: t.Optional[Json], one: Attachment, port: t.Optional[Link]) -> Json:
    """An attachment as the network itself lists it."""
    network = network or {}
    return {
        **_NOT_ATTACHED,
        "NetworkID": network.get("Id"),
        "IPAddress": one.ipv4 or None,
        "GlobalIPv6Address": one.ipv6 or None,
        "MacAddress": one.mac or None,
        "Link": network.get("Bridge"),
        "LinkIndex": network.get("BridgeIndex"),
        "Port": port.name if port else None,
        "PortIndex": port.index if port else None,
    }


def _listed_network(network: t.Optional[Json], raw: Json, live: bool) -> Json:
    """A network that a container is configured for, or that dockerd does not list."""
    return {
        **_NOT_ATTACHED,
        "NetworkID": raw.get("NetworkID") or (network["Id"] if network else None),
        "IPAddress": (raw.get("IPAddress") or None) if live else None,
        "GlobalIPv6Address": (raw.get("GlobalIPv6Address") or None) if live else None,
        "MacAddress": (raw.get("MacAddress") or None) if live else None,
    }


def _live_network(network: Json, raw: Json, port: t.Optional[Link], inode: t.Optional[int]) -> Json:
    """An attachment as its container's own record has it."""
    return {
        "NetworkID": raw.get("NetworkID") or network["Id"],
        "IPAddress": raw.get("IPAddress") or None,
        "GlobalIPv6Address": raw.get("GlobalIPv6Address") or None,
        "MacAddress": raw.get("MacAddress") or None,
        "Link": network["Bridge"],
        "LinkIndex": network["BridgeIndex"],
        "Port": port.name if port else None,
        "PortIndex": port.index if port else None,
        "Parent": network["Parent"],
        "ParentIndex": network["ParentIndex"],
        "Namespace": inode if network["Parent"] else None,
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
        # Some versions write it with a prefix length.
        "Gateways": [config["Gateway"].partition("/")[0] for config in ipam if config.get("Gateway")],
        "Bridge": bridge,
        "BridgeIndex": bridges.get(bridge) if bridge else None,
        "Parent": parent,
        "ParentIndex": indexes.get(parent) if parent else None,
        "Labels": dict(raw.get("Labels") or {}),
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
                    "HostIp": binding.get("HostIp") or EVERY_ADDRESS[4],
                    "HostPort": int(binding["HostPort"]),
                    "ContainerPort": int(number),
                    "Protocol": protocol or "tcp",
                }
            )
    return sorted(
        ports, key=lambda item: (item["Protocol"], item["HostPort"], item["HostIp"], item["ContainerPort"])
    )


def fixed_ports(settings: t.Optional[Json]) -> t.Optional[t.List[Json]]:
    """The ports that a container will publish, by its HostConfig; None where that cannot be told before it runs."""
    if settings is None or settings.get("PublishAllPorts"):
        return None
    ports: t.Dict[str, t.List[Json]] = {}
    for key, bindings in (settings.get("PortBindings") or {}).items():
        for binding in bindings or []:
            if not str(binding.get("HostPort") or "").isdigit() or not int(binding["HostPort"]):
                return None  # dockerd chooses one
            hosts = [binding["HostIp"]] if binding.get("HostIp") else EVERY_ADDRESS.values()
            ports.setdefault(key, []).extend(
                {"HostIp": host, "HostPort": binding["HostPort"]} for host in hosts
            )
    return _published_ports(ports)


def complete(facts: Json) -> bool:
    """Whether each live container's port on each of its bridges is known."""
    return all(
        network["PortIndex"] or not network["LinkIndex"] or not network["IPAddress"]
        for container in facts["containers"]
        for network in container["Networks"].values()
    )
