# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What dockerd says is attached to a network, and on which port of its bridge each attachment is.

A network lists more than containers: joins in progress, BuildKit's steps, and on docker_gwbridge Swarm's tasks and its
routing mesh.  It lists them while their containers are locked, hence before their processes run.  Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: A container that dockerd has put on the network.
CONTAINER = "container"
#: An endpoint without a sandbox yet, or without one any more; its name is its container's.
JOINING = "joining"
#: A RUN step of BuildKit's, which is no container of the API.
BUILD = "build"
#: The way out of a container that is on an overlay network, for example of a Swarm task; under the container's id.
TASK = "task"
#: Swarm's routing mesh.
MESH = "mesh"
#: None of these: never committed, hence closed.
UNKNOWN = "unknown"

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}\Z")
#: BuildKit's identity.NewID(): 128 random bits to the base 36.
_BUILD_ID = re.compile(r"[0-9a-z]{25}\Z")
#: The one network that BuildKit puts its steps on.
_BUILD_NETWORK = "bridge"
_SWARM_NETWORK = "docker_gwbridge"


class Attachment(t.NamedTuple):
    """One row of a network's "Containers"."""

    kind: str
    key: str  # a container's id, "ep-" and an endpoint's, a build step's id or a sandbox's name
    name: str  # dockerd's name of the endpoint: the container's, for one that is known by its name
    endpoint: str  # id; a new start has a new one
    mac: str
    ipv4: str
    ipv6: str


class Attached:
    """The attachments of one network."""

    def __init__(
        self,
        network_name: str,
        listed: t.Optional[t.Mapping[str, Json]],
        former: t.Optional[Attached] = None,
    ) -> None:
        """`listed`: "Containers" as GET /networks/ID has it. `former`: what it was before, most of which is the same."""
        self._listed = dict(listed or {})
        known: t.Dict[str, Attachment] = former._by_key if former else {}
        before: t.Dict[str, Json] = former._listed if former else {}
        #: By key: a network may have hundreds, of which one is new.
        self._by_key: t.Dict[str, Attachment] = {
            key: known[key] if before.get(key) == body else _attachment(network_name, key, body)
            for key, body in self._listed.items()
        }
        found = list(self._by_key.values())
        self.by_endpoint = {one.endpoint: one for one in found}
        self.of_container = {one.key: one for one in found if one.kind in (CONTAINER, TASK)}
        self.joining = {one.name: one for one in found if one.kind == JOINING}
        #: Those that are no container's.
        self.unnamed = [one for one in found if one.kind in (BUILD, MESH)]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Attached) and self._listed == other._listed

    __hash__ = None  # type: ignore[assignment]

    def different(self, other: Attached) -> t.List[Attachment]:
        """Those that are in one of both only."""
        return [
            one
            for these, those in ((self._by_key, other._by_key), (other._by_key, self._by_key))
            for key, one in these.items()
            if those.get(key) is not one and those.get(key) != one
        ]

    def of(self, ident: str, name: str) -> t.Optional[Attachment]:
        """The attachment of a container with this id and name."""
        return self.of_container.get(ident) or self.joining.get(name)


def _attachment(network_name: str, key: str, body: Json) -> Attachment:
    name = str(body.get("Name") or "")
    return Attachment(
        _kind(network_name, key, name),
        key,
        name,
        str(body.get("EndpointID") or ""),
        str(body.get("MacAddress") or "").lower(),
        str(body.get("IPv4Address") or "").partition("/")[0],
        str(body.get("IPv6Address") or "").partition("/")[0],
    )


def _kind(network_name: str, key: str, name: str) -> str:
    if key.startswith("ep-"):
        return JOINING
    if _CONTAINER_ID.match(key):
        return TASK if name.startswith("gateway_") else CONTAINER
    if _BUILD_ID.match(key) and network_name == _BUILD_NETWORK:
        return BUILD
    if key.endswith("-sbox") and network_name == _SWARM_NETWORK:
        return MESH
    return UNKNOWN


def new_ports(
    attached: Attached, behind: t.Mapping[int, str], bound: t.Mapping[str, int]
) -> t.Dict[int, str]:
    """The ports of the network's bridge whose attachment can be told now: port -> endpoint.

    `behind` has the MAC address behind each port of the bridge that none is known of yet, `bound` the ports of endpoints
    that are known.
    A container with CAP_NET_ADMIN may take any MAC address.  So a port that is bound stays bound for as long as
    it is there, and an address that two free ports have is nobody's: those wait for the container's own record, which
    names its namespace.
    """
    taken = set(bound.values())
    wanted = set(behind.values())
    ports: t.Dict[str, t.List[int]] = {}
    for port, mac in behind.items():
        if mac and port not in taken:
            ports.setdefault(mac, []).append(port)
    endpoints: t.Dict[str, t.List[str]] = {}
    for one in attached.by_endpoint.values():
        if one.mac in wanted and one.endpoint not in bound and one.kind != UNKNOWN:
            endpoints.setdefault(one.mac, []).append(one.endpoint)
    return {
        its_ports[0]: endpoints[mac][0]
        for mac, its_ports in ports.items()
        if len(its_ports) == 1 and len(endpoints.get(mac, ())) == 1
    }
