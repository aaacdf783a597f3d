# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who is meant: a selector of the policy, answered from the container facts.

`Endpoints` is the facts in the shape the resolver needs; `Selectors` turns the words
of `from` and `to` into a `Party`.  Pure: no Docker, no kernel, no files.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import fnmatch
import ipaddress
import socket
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    LibraryMissing,
    PolicyError,
    did_you_mean,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import addresses_on
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import Interval, subtract
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Group, Policy
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.routed import routed_groups
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"


#: The words for attachments that are no containers, and their kind in the facts.
ATTACHMENTS = {"builds": "build", "swarm-ingress": "mesh"}


class Endpoint(t.NamedTuple):
    """One address of one attachment on one network."""

    version: int  # 4 or 6
    address: int
    text: str  # of the address
    container: str  # its name
    container_id: str
    network: str
    link: str
    link_index: int
    port_index: int


@dataclass(frozen=True)
class Party:
    """Who a rule means on one side: endpoints, and whoever outside or on the host has one of the addresses."""

    world: bool = False  # everybody outside
    host: bool = False  # the host, whatever its address
    nets: t.Tuple[Interval, ...] = ()
    endpoints: t.FrozenSet[int] = frozenset()  # places in Host.endpoints; those in `nets` included
    routed: t.FrozenSet[int] = frozenset()  # places in Selectors.routed
    #: Addresses behind containers in any group: CIDRs that mean those, too.
    routed_nets: t.Tuple[Interval, ...] = ()
    words: t.Tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.world or self.host or bool(self.nets) or bool(self.endpoints) or bool(self.routed)


@dataclass(frozen=True)
class RoutedGroup:
    """A group of routed prefixes, and where its containers are now."""

    group: Group
    endpoints: t.FrozenSet[int] = frozenset()  # places in Endpoints.endpoints: whose ports it is behind
    names: t.Tuple[str, ...] = ()  # of the containers
    why: str = ""  # why there is no port

    def words(self) -> str:
        addresses = ", ".join(self.group.cidrs)
        if self.group.excepts:
            addresses += " except " + ", ".join(self.group.excepts)
        return f"{addresses} behind {', '.join(self.names) or 'nobody now'}"


def endpoint_place(body: Json, inside: bool) -> t.Tuple[str, int, int]:
    """Link, its index and the port on it, as the kernel takes them; index 0: no guard is before it.

    `inside`: with placement container, where macvlan and ipvlan hang on their parent link.
    """
    if inside and body.get("ParentIndex") and body.get("Namespace"):
        return body.get("Parent") or "", body["ParentIndex"], body["Namespace"]
    return body.get("Link") or "", body.get("LinkIndex") or 0, body.get("PortIndex") or 0


class Endpoints:
    """Containers, networks and endpoints of the facts; endpoints ascend by family and address.

    An attachment whose port is not known has no endpoint: without it the kernel could not tell its packets from a neighbour's.
    """

    def __init__(self, facts: Json, inside: bool = False) -> None:
        """`inside`: with placement container, where containers on macvlan and ipvlan are known too."""
        self.facts = facts
        self.inside = inside
        self.containers: t.List[Json] = sorted(
            facts.get("containers") or [], key=lambda c: (c["Name"], c["Id"])
        )
        #: What has no name to select it by: build steps and Swarm's routing mesh, in the shape of containers.
        self.attachments: t.List[Json] = list(facts.get("attachments") or [])
        self.networks: t.List[Json] = sorted(facts.get("networks") or [], key=lambda n: n["Name"])
        self.warnings: t.List[str] = []
        self._by_id = {container["Id"]: container for container in (*self.containers, *self.attachments)}
        self._by_name = {container["Name"]: container for container in self.containers}
        self._by_label: t.Optional[t.Dict[t.Tuple[str, str], t.List[Json]]] = None
        self._by_network: t.Optional[t.Dict[str, t.List[Json]]] = None
        self.endpoints = self._endpoints()
        self._keys = [(endpoint.version, endpoint.address) for endpoint in self.endpoints]
        self._of_container: t.Dict[str, t.List[int]] = {}
        for index, endpoint in enumerate(self.endpoints):
            self._of_container.setdefault(endpoint.container_id, []).append(index)

    def _endpoints(self) -> t.List[Endpoint]:
        found: t.Dict[t.Tuple[int, int], Endpoint] = {}
        for container in (*self.containers, *self.attachments):
            for endpoint in self._endpoints_of(container):
                former = found.setdefault((endpoint.version, endpoint.address), endpoint)
                if former != endpoint:
                    self.warnings.append(
                        f"the containers {former.container} (network {former.network}) and {endpoint.container} "
                        f"(network {endpoint.network}) both have the address {endpoint.text}: "
                        "it is judged as the first one's"
                    )
        return [found[key] for key in sorted(found)]

    def _endpoints_of(self, container: Json) -> t.Iterator[Endpoint]:
        for network, body in sorted((container.get("Networks") or {}).items()):
            # Without a link there is no guard before it: not running, or macvlan and the like.
            link, link_index, port_index = endpoint_place(body, self.inside)
            if not link_index or not port_index:
                continue
            for address in addresses_on(body):
                # Many times faster than ipaddress, which shows at tens of thousands of endpoints.
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                packed = socket.inet_pton(family, address)
                yield Endpoint(
                    4 if len(packed) == 4 else 6,
                    int.from_bytes(packed, "big"),
                    socket.inet_ntop(family, packed),
                    container["Name"],
                    container["Id"],
                    network,
                    link,
                    link_index,
                    port_index,
                )

    def labelled(self, key: str, value: str) -> t.List[Json]:
        """The containers with this label; "*" stands for any value."""
        if self._by_label is None:
            self._by_label = {}
            for container in self.containers:
                for label, its_value in (container.get("Labels") or {}).items():
                    for wanted in dict.fromkeys((its_value, "*")):
                        self._by_label.setdefault((label, wanted), []).append(container)
        return self._by_label.get((key, value), [])

    def on_network(self, name: str) -> t.List[Json]:
        """Who is on this network, over another container's connection too."""
        if self._by_network is None:
            self._by_network = {}
            for container in (*self.containers, *self.attachments):
                for network in (self.owner(container) or container).get("Networks") or {}:
                    self._by_network.setdefault(network, []).append(container)
        return self._by_network.get(name, [])

    def container(self, name: str) -> t.Optional[Json]:
        return self._by_name.get(name)

    def container_by_id(self, ident: str) -> t.Optional[Json]:
        return self._by_id.get(ident)

    def of_kind(self, kind: str) -> t.FrozenSet[int]:
        """The endpoints of the attachments of this kind."""
        mine = [self._of_container.get(one["Id"], []) for one in self.attachments if one["Kind"] == kind]
        return frozenset().union(*mine)

    def within(self, nets: t.Iterable[Interval]) -> t.FrozenSet[int]:
        """The endpoints whose address lies in one of the intervals."""
        found: t.Set[int] = set()
        for version, lo, hi in nets:
            first = bisect.bisect_left(self._keys, (version, lo))
            last = bisect.bisect_right(self._keys, (version, hi))
            found.update(range(first, last))
        return frozenset(found)

    def endpoints_of(self, container: Json) -> t.List[int]:
        """Its own endpoints, or those of the container whose network it shares."""
        owner = self.owner(container)
        return self._of_container.get(owner["Id"], []) if owner else []

    def owner(self, container: Json) -> t.Optional[Json]:
        """The container whose network namespace it runs in; None where that one is unknown."""
        seen = set()
        current: t.Optional[Json] = container
        while current is not None and current["Id"] not in seen:
            seen.add(current["Id"])
            mode = current.get("NetworkMode") or ""
            if not mode.startswith("container:"):
                return current
            wanted = mode.split(":", 1)[1]
            current = self._by_id.get(wanted) or self._by_name.get(wanted)
        return None

    def in_host_network(self, container: Json) -> bool:
        owner = self.owner(container)
        return owner is not None and (
            owner.get("NetworkMode") == "host" or "host" in (owner.get("Networks") or {})
        )


class Selectors:
    """Answers selectors for one policy on one host; remembers each answer."""

    def __init__(self, policy: Policy, host: Endpoints) -> None:
        self.host = host
        self._groups = {group.name: group for group in policy.groups}
        self._parties: t.Dict[t.Tuple[str, ...], Party] = {}
        self._all = frozenset(range(len(host.endpoints)))
        self._why: t.Dict[str, str] = {}
        self._notes: t.Dict[str, t.List[str]] = {}
        #: In the order of routed_groups().
        groups = routed_groups(policy.groups)
        self._routed_place = {group.name: place for place, group in enumerate(groups)}
        self._all_routed = frozenset(self._routed_place.values())
        self.routed = tuple(self._routed_group(group) for group in groups)

    def _routed_group(self, group: Group) -> RoutedGroup:
        party = self.party(group.behind)
        found = [self.host.endpoints[index] for index in party.endpoints]
        why = ""
        if not any(one.port_index for one in found):
            why = (
                "; ".join(filter(None, map(self.why_empty, group.behind)))
                or "the port of its container is not known"
            )
        return RoutedGroup(group, party.endpoints, tuple(sorted({one.container for one in found})), why)

    def party(self, peers: t.Tuple[str, ...]) -> Party:
        """Everybody one of the selectors means."""
        known = self._parties.get(peers)
        if known is None:
            known = (
                self._one(peers[0]) if len(peers) == 1 else _union([self.party((peer,)) for peer in peers])
            )
            self._parties[peers] = known
        return known

    def why_empty(self, peer: str) -> str:
        """Why a selector means nobody now; '' where it means somebody."""
        self.party((peer,))
        return self._why.get(peer, "")

    def notes(self, peer: str) -> t.List[str]:
        """What an operator should know of a selector although it is no mistake."""
        self.party((peer,))
        return self._notes.get(peer, [])

    def _one(self, peer: str) -> Party:
        if peer == "any":
            return Party(world=True, host=True, endpoints=self._all, routed=self._all_routed, words=(peer,))
        if peer == "world":
            return Party(world=True, words=(peer,))
        if peer == "host":
            return Party(host=True, words=(peer,))
        if peer == "containers":
            return Party(endpoints=self._all, routed=self._all_routed, words=(peer,))
        if peer in ATTACHMENTS:
            # Empty at most times, which is nothing to report.
            return Party(endpoints=self.host.of_kind(ATTACHMENTS[peer]), words=(peer,))
        group = self._groups.get(peer)
        if group is not None:
            return self._group(group)
        head, colon, tail = peer.partition(":")
        if colon and head in ("container", "network", "label", "compose"):
            found = getattr(self, "_" + head)(tail)
            return self._containers(peer, found, tail if head == "network" else None)
        return self._addresses(peer, [peer], [])

    def _addresses(self, peer: str, cidrs: t.Sequence[str], excepts: t.Sequence[str]) -> Party:
        nets = subtract([ipaddress.ip_network(c) for c in cidrs], [ipaddress.ip_network(c) for c in excepts])
        words = tuple(cidrs)
        if excepts:
            words = ("{} except {}".format(", ".join(cidrs), ", ".join(excepts)),)
        return Party(nets=tuple(nets), endpoints=self.host.within(nets), routed_nets=tuple(nets), words=words)

    def _behind(self, group: Group) -> Party:
        place = self._routed_place[group.name]
        routed = self.routed[place]
        if routed.why:
            self._why.setdefault(group.name, f"nobody is behind it: {routed.why}")
        for peer in group.behind:
            self._notes.setdefault(group.name, []).extend(self.notes(peer))
        return Party(routed=frozenset((place,)), words=(routed.words(),))

    def _group(self, group: Group) -> Party:
        if group.behind:
            return self._behind(group)
        if group.cidrs:
            return self._addresses(group.name, group.cidrs, group.excepts)
        queried = self._queried(group) if group.query else None
        found = [
            container
            for container in self._candidates(group)
            if (queried is None or container["Id"] in queried)
            and (not group.names or any(fnmatch.fnmatchcase(container["Name"], name) for name in group.names))
            and all(_has_label(container, key, value) for key, value in group.labels)
        ]
        known = [network["Name"] for network in self.host.networks]
        unknown = [name for name in group.networks if name not in known]
        why = f'there is no network "{unknown[0]}".{did_you_mean(unknown[0], known)}' if unknown else ""
        return self._containers(group.name, found, *group.networks, why=why)

    def _candidates(self, group: Group) -> t.List[Json]:
        """A cheap superset of the group's containers."""
        if group.labels:
            return self.host.labelled(*group.labels[0])
        if group.networks and not group.names and not group.query:
            return [*self.host.containers, *self.host.attachments]
        return self.host.containers

    def _queried(self, group: Group) -> t.Set[str]:
        path = ("groups", group.name, "query")
        try:
            import jmespath
        except ImportError as error:
            raise LibraryMissing(
                f"the Python library jmespath cannot be imported: {error}",
                f'query of the group "{group.name}"',
                "install the distribution's python3-jmespath",
            )
        try:
            result = jmespath.search(group.query, self.host.containers)
        except Exception as error:
            raise PolicyError(
                "the query fails: {}".format(" ".join(str(error).split())), path, "correct the expression"
            )
        if result is None:
            return set()
        items = result if isinstance(result, list) else [result]
        found = set()
        for item in items:
            ident = item.get("Id") if isinstance(item, dict) else None
            if ident is None and isinstance(item, str):
                named = self.host.container(item) or self.host.container_by_id(item)
                ident = named["Id"] if named else None
            if ident is None:
                raise PolicyError(
                    f"the query does not return containers but {item!r}",
                    path,
                    "return container objects, names or ids, for example [?Labels.tier=='app']",
                )
            found.add(ident)
        return found

    # Each of these returns the containers, running or not, that fit.

    def _container(self, name: str) -> t.List[Json]:
        container = self.host.container(name)
        if container is None:
            known = [c["Name"] for c in self.host.containers]
            self._why["container:" + name] = f'there is no container "{name}".{did_you_mean(name, known)}'
            return []
        return [container]

    def _network(self, name: str) -> t.List[Json]:
        known = [network["Name"] for network in self.host.networks]
        if name not in known:
            self._why["network:" + name] = f'there is no network "{name}".{did_you_mean(name, known)}'
        return self.host.on_network(name)

    def _label(self, text: str) -> t.List[Json]:
        key, _equals, value = text.partition("=")
        return self.host.labelled(key, value)

    def _compose(self, text: str) -> t.List[Json]:
        project, _slash, service = text.partition("/")
        candidates = self.host.labelled(COMPOSE_SERVICE, service)
        found = [c for c in candidates if _has_label(c, COMPOSE_PROJECT, project)]
        if not found:
            known = sorted(
                {
                    "{}/{}".format(c["Labels"][COMPOSE_PROJECT], c["Labels"][COMPOSE_SERVICE])
                    for c in self.host.containers
                    if COMPOSE_PROJECT in (c.get("Labels") or {})
                    and COMPOSE_SERVICE in (c.get("Labels") or {})
                }
            )
            self._why["compose:" + text] = f'there is no compose service "{text}".{did_you_mean(text, known)}'
        return found

    def _containers(
        self, peer: str, found: t.Sequence[Json], *networks: t.Optional[str], why: str = ""
    ) -> Party:
        wanted = {name for name in networks if name}
        indices: t.Set[int] = set()
        for container in found:
            mine = self.host.endpoints_of(container)
            if wanted:
                mine = [index for index in mine if self.host.endpoints[index].network in wanted]
            indices.update(mine)
            if not mine:
                self._note(peer, container, wanted)
        if not indices:
            self._why.setdefault(peer, why or _why_nobody(found))
        return Party(endpoints=frozenset(indices), words=tuple(endpoint_words(self.host, indices)))

    def _note(self, peer: str, container: Json, wanted: t.Set[str]) -> None:
        notes = self._notes.setdefault(peer, [])
        if container.get("State") not in ("running", "paused"):
            return
        if self.host.in_host_network(container):
            notes.append(
                "the container {} runs in the host's network: its traffic is judged as the host's, so this "
                "does not mean it; use host (class host_ingress for traffic from outside)".format(
                    container["Name"]
                )
            )
            return
        for name, body in sorted((container.get("Networks") or {}).items()):
            if not endpoint_place(body, self.host.inside)[1] and (not wanted or name in wanted):
                where = ""
                if body.get("Parent") and not self.host.inside:
                    where = "; placement container judges it inside"
                notes.append(
                    "the container {} is on the network {}, which has no bridge on this host: its traffic there "
                    "passes no guard{}".format(container["Name"], name, where)
                )


def _why_nobody(found: t.Sequence[Json]) -> str:
    stopped = sorted(
        f"{container['Name']} is {container.get('State') or 'unknown'}"
        for container in found
        if container.get("State") not in ("running", "paused")
    )
    if stopped:
        return f"not running: {', '.join(stopped)}"
    return "no address of it is behind a guard" if found else "no container fits"


def _has_label(container: Json, key: str, value: str) -> bool:
    labels = container.get("Labels") or {}
    return key in labels and (value == "*" or labels[key] == value)


def _union(parties: t.Sequence[Party]) -> Party:
    nets: t.List[Interval] = []
    routed_nets: t.List[Interval] = []
    for party in parties:
        nets.extend(party.nets)
        routed_nets.extend(party.routed_nets)
    return Party(
        world=any(party.world for party in parties),
        host=any(party.host for party in parties),
        nets=tuple(_merge(nets)),
        endpoints=frozenset().union(*(party.endpoints for party in parties)),
        routed=frozenset().union(*(party.routed for party in parties)),
        routed_nets=tuple(_merge(routed_nets)),
        words=tuple(sorted({word for party in parties for word in party.words})),
    )


def _merge(nets: t.List[Interval]) -> t.List[Interval]:
    merged: t.List[Interval] = []
    for version, lo, hi in sorted(nets):
        if merged and merged[-1][0] == version and lo <= merged[-1][2] + 1:
            merged[-1] = (version, merged[-1][1], max(hi, merged[-1][2]))
        else:
            merged.append((version, lo, hi))
    return merged


def endpoint_words(host: Endpoints, indices: t.Iterable[int]) -> t.List[str]:
    """web(172.18.0.2, fd00::2), one a container."""
    addresses: t.Dict[str, t.List[str]] = {}
    for index in sorted(indices):
        endpoint = host.endpoints[index]
        addresses.setdefault(endpoint.container, []).append(endpoint.text)
    return ["{}({})".format(name, ", ".join(texts)) for name, texts in sorted(addresses.items())]
