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
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import (
    Interval,
    Network,
    looks_like_address,
    subtract,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    NETWORK,
    Group,
    Policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import (
    glob_any,
    is_pattern,
    name_matcher,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.routed import routed_groups
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"

#: Multicast and broadcast addresses: nobody's own, and in nobody's subnet.
GROUP_RANGES = (
    ipaddress.ip_network("224.0.0.0/4"),
    ipaddress.ip_network("255.255.255.255/32"),
    ipaddress.ip_network("ff00::/8"),
)


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
    """Who a rule means on one side: endpoints, and who has one of the addresses, outside or as the host's own."""

    world: bool = False  # everybody outside
    host: bool = False  # the host, whatever its address
    nets: t.Tuple[Interval, ...] = ()  # of those outside
    host_nets: t.Tuple[Interval, ...] = ()  # the host, by these addresses of its own
    endpoints: t.FrozenSet[int] = frozenset()  # places in Host.endpoints
    routed: t.FrozenSet[int] = frozenset()  # places in Selectors.routed
    #: Addresses behind containers in any group: CIDRs of rules that forbid mean those, too.
    routed_nets: t.Tuple[Interval, ...] = ()
    words: t.Tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return (
            self.world
            or self.host
            or bool(self.nets or self.host_nets or self.routed_nets)
            or bool(self.endpoints)
            or bool(self.routed)
        )


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

    def __init__(self, facts: Json, inside: bool = False, unguarded: t.Collection[str] = frozenset()) -> None:
        """`inside`: with placement container, where containers on macvlan and ipvlan are known too.

        `unguarded`: the names of bridges that no guard is on; what is behind them is outside.
        """
        self.facts = facts
        self.inside = inside
        self.unguarded = unguarded
        self.containers: t.List[Json] = sorted(
            facts.get("containers") or [], key=lambda c: (c["Name"], c["Id"])
        )
        #: What has no name to select it by: build steps and Swarm's routing mesh, in the shape of containers.
        self.attachments: t.List[Json] = list(facts.get("attachments") or [])
        self.networks: t.List[Json] = sorted(facts.get("networks") or [], key=lambda n: n["Name"])
        #: The names of networks without a way out.
        self.internal = {network["Name"] for network in self.networks if network.get("Internal")}
        self.warnings: t.List[str] = []
        self._by_id = {container["Id"]: container for container in (*self.containers, *self.attachments)}
        self._by_name = {container["Name"]: container for container in self.containers}
        self._by_label: t.Dict[str, t.Dict[str, t.List[Json]]] = {}
        self._by_network: t.Optional[t.Dict[str, t.List[Json]]] = None
        self._by_service: t.Optional[t.Dict[t.Tuple[str, str], t.List[Json]]] = None
        self._shared_values: t.Dict[str, t.List[t.Tuple[str, ...]]] = {}
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
            if not link_index or not port_index or link in self.unguarded:
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
        found = self._by_label.get(key)
        if found is None:
            found = self._by_label[key] = {"*": []}
            for container in self.containers:
                labels = container.get("Labels")
                if labels and key in labels:
                    found["*"].append(container)
                    if labels[key] != "*":
                        found.setdefault(labels[key], []).append(container)
        return found.get(value, [])

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

    def of_service(self, project: str, service: str) -> t.List[Json]:
        """The containers of a compose service."""
        if self._by_service is None:
            self._by_service = {}
            for container in self.containers:
                labels = container.get("Labels") or {}
                if COMPOSE_PROJECT in labels and COMPOSE_SERVICE in labels:
                    key = labels[COMPOSE_PROJECT], labels[COMPOSE_SERVICE]
                    self._by_service.setdefault(key, []).append(container)
        if not is_pattern(project) and not is_pattern(service):
            return self._by_service.get((project, service), [])
        fits, suits = name_matcher(project), name_matcher(service)
        return [
            container
            for key, containers in self._by_service.items()
            if fits(key[0]) and suits(key[1])
            for container in containers
        ]

    def shared_values(self, key: str) -> t.List[t.Tuple[str, ...]]:
        """For each endpoint what `within` compares: its network, or the label's values.

        Several where containers with different values share one network namespace, none without the label.
        """
        if key not in self._shared_values:
            self._shared_values[key] = (
                [(endpoint.network,) for endpoint in self.endpoints]
                if key == NETWORK
                else self._label_values(key)
            )
        return self._shared_values[key]

    def _label_values(self, key: str) -> t.List[t.Tuple[str, ...]]:
        of_owner: t.Dict[str, t.Set[str]] = {}
        for container in self.labelled(key, "*"):
            owner = self.owner(container)
            if owner is not None:
                of_owner.setdefault(owner["Id"], set()).add(container["Labels"][key])
        values = {ident: tuple(sorted(found)) for ident, found in of_owner.items()}
        return [values.get(endpoint.container_id, ()) for endpoint in self.endpoints]

    def guarded_subnets(self) -> t.Iterator[t.Tuple[Json, Network]]:
        """The networks behind guarded bridges, each with every subnet of which it gives addresses to containers."""
        for network in self.networks:
            if network.get("Bridge") and network["Bridge"] not in self.unguarded:
                for subnet in network.get("Subnets") or []:
                    yield network, ipaddress.ip_network(subnet)

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


def unguarded_bridges(policy: Policy, facts: Json) -> t.FrozenSet[str]:
    """The names of this host's bridges that the policy leaves out."""
    names = {network["Bridge"] for network in facts.get("networks") or [] if network.get("Bridge")}
    names.update(facts.get("links") or {})
    return frozenset(name for name in names if glob_any(name, policy.unguarded))


class Selectors:
    """Answers selectors for one policy on one host; remembers each answer."""

    def __init__(self, policy: Policy, host: Endpoints) -> None:
        self.host = host
        self._groups = {group.name: group for group in policy.groups}
        self._parties: t.Dict[t.Tuple[t.Tuple[str, ...], bool], Party] = {}
        #: By version and prefix length: the networks behind guards, by the first address of their subnets.
        self._subnets: t.Optional[t.Dict[t.Tuple[int, int], t.Dict[int, Json]]] = None
        self._all = frozenset(range(len(host.endpoints)))
        self._network_names: t.Optional[t.Dict[str, None]] = None
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

    def party(self, peers: t.Tuple[str, ...], forbidding: bool = False) -> Party:
        """Everybody one of the selectors means.

        A CIDR means those outside; in a rule that forbids, who has the address, behind a guard and on the host, too.
        """
        key = peers, forbidding and any(map(self._has_addresses, peers))
        known = self._parties.get(key)
        if known is None:
            if len(peers) == 1:
                known = self._one(peers[0], key[1])
            else:
                known = _union([self.party((peer,), key[1]) for peer in peers])
            self._parties[key] = known
        return known

    def why_empty(self, peer: str, forbidding: bool = False) -> str:
        """Why a selector means nobody now; '' where it means somebody."""
        if self.party((peer,), forbidding) and peer not in self._routed_place:
            return ""
        return self._why.get(peer, "")

    def formerly(self, peer: str) -> t.FrozenSet[int]:
        """The endpoints within a CIDR: up to version 0.1 an allow of it let them in."""
        return self.party((peer,), True).endpoints if self._has_addresses(peer) else frozenset()

    def _has_addresses(self, peer: str) -> bool:
        group = self._groups.get(peer)
        return bool(group.cidrs and not group.behind) if group is not None else looks_like_address(peer)

    def notes(self, peer: str) -> t.List[str]:
        """What an operator should know of a selector although it is no mistake."""
        self.party((peer,))
        return self._notes.get(peer, [])

    def _one(self, peer: str, forbidding: bool) -> Party:
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
            return self._group(group, forbidding)
        head, colon, tail = peer.partition(":")
        if colon and head in ("container", "network", "label", "compose"):
            found = getattr(self, "_" + head)(tail)
            return self._containers(peer, found, self._networks_named(tail) if head == "network" else ())
        return self._addresses(peer, [peer], [], forbidding)

    def _addresses(
        self, peer: str, cidrs: t.Sequence[str], excepts: t.Sequence[str], forbidding: bool
    ) -> Party:
        inside, outside = ([ipaddress.ip_network(text) for text in texts] for texts in (cidrs, excepts))
        nets = subtract(inside, outside)
        words = tuple(cidrs)
        if excepts:
            words = ("{} except {}".format(", ".join(cidrs), ", ".join(excepts)),)
        if forbidding:
            return Party(
                nets=tuple(nets),
                host_nets=tuple(nets),
                endpoints=self.host.within(nets),
                routed_nets=tuple(nets),
                words=words,
            )
        behind = {net: self._network_around(net) for net in inside}
        inside = [net for net in inside if not behind[net]]
        for net, network in behind.items():
            if network:
                why = (
                    f"a CIDR means addresses outside, and {net} is within the network {network}: write network:{network} or "
                    "container:NAME for containers, host for the host"
                )
                if not inside:
                    self._why[peer] = why
                    return Party()
                self._notes.setdefault(peer, []).append(why)
        # The kernel asks for the host's cell only where the host itself has the address, or has joined the group.
        own = [net for net in inside if net.prefixlen == net.max_prefixlen or _is_group_range(net)]
        return Party(
            nets=tuple(subtract(inside, outside)), host_nets=tuple(subtract(own, outside)), words=words
        )

    def _network_around(self, net: Network) -> str:
        """The name of the network behind a guard that has all these addresses; "" for none, or an address of the host's."""
        if self._subnets is None:
            self._subnets = {}
            for network, subnet in self.host.guarded_subnets():
                key = subnet.version, subnet.prefixlen
                self._subnets.setdefault(key, {})[int(subnet.network_address)] = network
        address = int(net.network_address)
        for (version, length), networks in self._subnets.items():
            if version == net.version and length <= net.prefixlen:
                rest = net.max_prefixlen - length
                found = networks.get(address >> rest << rest)
                if found:
                    own = net.prefixlen == net.max_prefixlen and (version, address) in _gateways(found)
                    return "" if own else str(found["Name"])
        return ""

    def _behind(self, group: Group) -> Party:
        place = self._routed_place[group.name]
        routed = self.routed[place]
        if routed.why:
            self._why.setdefault(group.name, f"nobody is behind it: {routed.why}")
        for peer in group.behind:
            self._notes.setdefault(group.name, []).extend(self.notes(peer))
        return Party(routed=frozenset((place,)), words=(routed.words(),))

    def _group(self, group: Group, forbidding: bool) -> Party:
        if group.behind:
            return self._behind(group)
        if group.cidrs:
            return self._addresses(group.name, group.cidrs, group.excepts, forbidding)
        queried = self._queried(group) if group.query else None
        names = [name_matcher(name) for name in group.names]
        found = [
            container
            for container in self._candidates(group)
            if (queried is None or container["Id"] in queried)
            and (not names or any(fits(container["Name"]) for fits in names))
            and all(_has_label(container, key, value) for key, value in group.labels)
        ]
        wanted: t.Set[str] = set()
        why = ""
        for name in group.networks:
            matching = self._networks_named(name)
            wanted.update(matching)
            if not matching:
                why = why or self._no_network(name)
        if group.networks and not wanted:
            self._why[group.name] = why
            return Party()
        return self._containers(group.name, found, wanted, why=why)

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
        if is_pattern(name):
            fits = name_matcher(name)
            return [container for container in self.host.containers if fits(container["Name"])]
        container = self.host.container(name)
        if container is None:
            known = [c["Name"] for c in self.host.containers]
            self._why["container:" + name] = f'there is no container "{name}".{did_you_mean(name, known)}'
            return []
        return [container]

    def _network(self, name: str) -> t.List[Json]:
        names = self._networks_named(name)
        if not names:
            self._why["network:" + name] = self._no_network(name)
        if len(names) == 1:
            return self.host.on_network(names[0])
        found = {container["Id"]: container for one in names for container in self.host.on_network(one)}
        return list(found.values())

    def _networks_named(self, name: str) -> t.List[str]:
        if self._network_names is None:
            self._network_names = {network["Name"]: None for network in self.host.networks}
        if not is_pattern(name):
            return [name] if name in self._network_names else []
        fits = name_matcher(name)
        return [one for one in self._network_names if fits(one)]

    def _no_network(self, name: str) -> str:
        return f'there is no network "{name}".{did_you_mean(name, self._network_names or ())}'

    def _label(self, text: str) -> t.List[Json]:
        key, _equals, value = text.partition("=")
        return self.host.labelled(key, value)

    def _compose(self, text: str) -> t.List[Json]:
        project, _slash, service = text.partition("/")
        found = self.host.of_service(project, service)
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
        self, peer: str, found: t.Sequence[Json], wanted: t.Collection[str] = (), why: str = ""
    ) -> Party:
        """`wanted`: the networks that count, all where there is none."""
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

    def _note(self, peer: str, container: Json, wanted: t.Collection[str]) -> None:
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


def is_group(version: int, address: int) -> bool:
    """A multicast or broadcast address: nobody's own, so the kernel takes it by its cell."""
    if version == 4:
        return address >> 28 == 0xE or address == 0xFFFFFFFF
    return address >> 120 == 0xFF


def touches_group(interval: Interval) -> bool:
    """Whether a multicast or broadcast address is in it."""
    version, lo, hi = interval
    return any(
        group.version == version and lo <= int(group.broadcast_address) and int(group.network_address) <= hi
        for group in GROUP_RANGES
    )


def _is_group_range(net: Network) -> bool:
    return any(
        group.version == net.version
        and int(group.network_address) <= int(net.network_address)
        and int(net.broadcast_address) <= int(group.broadcast_address)
        for group in GROUP_RANGES
    )


def _gateways(network: Json) -> t.Set[t.Tuple[int, int]]:
    """The host's own addresses on a bridge: what Docker says, else the first of each subnet, which it takes."""
    found = [ipaddress.ip_address(text) for text in network.get("Gateways") or []]
    versions = {address.version for address in found}
    for subnet in network.get("Subnets") or []:
        net = ipaddress.ip_network(subnet)
        if net.version not in versions and net.num_addresses > 1:
            found.append(net[1])
    return {(address.version, int(address)) for address in found}


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
        host_nets=tuple(_merge([net for party in parties for net in party.host_nets])),
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
