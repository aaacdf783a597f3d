# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks the kernel, or a policy that is not committed, what it would decide between two named peers.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import socket
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    REASON_MAX,
    REASON_WORDS,
    Kind,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    did_you_mean,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    Explanation,
    PrefixRow,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import Network
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import service_number
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, Judge
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import NO_CLOCK, Clock
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import (
    ATTACHMENTS,
    Endpoints,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

# Explain


@dataclass(frozen=True)
class Peer:
    """One side of a connection somebody asks about."""

    name: str
    address: str
    kind: Kind


class _Said(t.NamedTuple):
    placement: str
    counts: t.Dict[str, int]


class Uncommitted:
    """Answers in the kernel's place, for a policy that is not in it: the same compiler, and the twin of its judging code."""

    def __init__(self, policy: Json, facts: Json, clock: Clock = NO_CLOCK) -> None:
        """Raises PolicyError."""
        self.plan = make_plan(policy, facts, CommitOptions(on_empty_selector="ignore", clock=clock))
        self.unguarded = self.plan.unguarded
        self._judge = Judge(self.plan.ruleset)

    def info(self) -> _Said:
        return _Said(self.plan.policy["placement"], {"prefixes": len(self.prefixes())})

    def prefixes(self) -> t.List[PrefixRow]:
        ruleset = self.plan.ruleset
        return [
            PrefixRow("%s/%d" % (ipaddress.ip_address(row[0]), row[1]), row[2], row[3], ())
            for row in (*ruleset.prefixes4, *ruleset.prefixes6)
        ]

    def explain(
        self,
        from_addr: str,
        to_addr: str,
        proto: int,
        port: int = 0,
        from_kind: Kind = Kind.WORLD,
        to_kind: Kind = Kind.GUARDED,
        direct: bool = False,
    ) -> Explanation:
        found = self._judge.decide(Connection(from_addr, to_addr, proto, port, from_kind, to_kind, direct))
        if not found.direction_class:
            name = "not judged: no guarded link is on the way"
        elif found.index >= REASON_MAX:
            name = self.plan.ruleset.rule_name(found.index - REASON_MAX)
        else:
            name = REASON_WORDS[found.index]
        return Explanation(
            found.action,
            found.direction_class,
            found.index,
            name,
            self._judge.identity(from_addr, from_kind),
            self._judge.identity(to_addr, to_kind),
            0,
        )


def explain_peers(
    kernel: t.Union[Kernel, Uncommitted],
    facts: Json,
    source: str,
    target: str,
    service: str,
    direct: bool = False,
) -> t.List[Json]:
    """The verdict on a connection, once for each pair of addresses the two names have in common.

    A side is a container's name, an address, `host`, `world`, `builds` or `swarm-ingress`.  The address of
    `host` is taken to be the first of the other side's network, as Docker does
    it; that of `world` is one for documentation (192.0.2.1, 2001:db8::1).
    """
    left_out = kernel.unguarded if isinstance(kernel, Uncommitted) else frozenset()
    info = kernel.info()
    host = Endpoints(facts, info.placement == "container", left_out)
    routed = (
        [ipaddress.ip_network(row.prefix) for row in kernel.prefixes()] if info.counts.get("prefixes") else []
    )
    number = service_number(service)
    answers = []
    for one, other in _pairs(host, facts, source, target, routed):
        found = kernel.explain(
            one.address, other.address, number >> 16, number & 0xFFFF, one.kind, other.kind, direct
        )
        answers.append(
            {
                "from": one.address,
                "to": other.address,
                "from_kind": one.kind.name.lower(),
                "to_kind": other.kind.name.lower(),
                "service": service,
                "action": found.action,
                "class": found.direction_class,
                "rule": "" if found.builtin else found.rule_name,
                "reason": found.rule_name if found.builtin else "",
                "from_identity": found.from_identity,
                "to_identity": found.to_identity,
                "generation": found.generation,
                "words": _verdict_words(one, other, service, found),
            }
        )
    return answers


def _verdict_words(one: Peer, other: Peer, service: str, found: Explanation) -> str:
    by = found.rule_name if found.builtin else f'the rule "{found.rule_name}"'
    return f"{found.action} {one.name} ({one.address}) -> {other.name} ({other.address}) {service}: {by}"


_Located = t.List[t.Tuple[Peer, str]]  # with the network, "" where it is on none


def _pairs(
    host: Endpoints, facts: Json, source: str, target: str, routed: t.Sequence[Network]
) -> t.List[t.Tuple[Peer, Peer]]:
    sources, targets = (_peers_named(host, facts, name, routed) for name in (source, target))
    shared = _share(sources, targets)
    if not shared:
        sources, targets = _one_host(sources), _one_host(targets)
    pairs = [
        (one, other)
        for one, its_network in sources
        for other, other_network in targets
        if (":" in one.address) == (":" in other.address) and (not shared or its_network == other_network)
    ]
    if not pairs:
        raise BridgewardenError(
            f"{source} and {target} have no address family in common", "", "name addresses of one family"
        )
    return pairs


def _one_host(located: _Located) -> _Located:
    """Of the host's many addresses one a family will do where no network asks for its own."""
    kept: t.Dict[t.Tuple[str, bool], t.Tuple[Peer, str]] = {}
    for peer, network in located:
        name = "host" if peer.kind == Kind.HOST else peer.address
        kept.setdefault((name, ":" in peer.address), (peer, network))
    return list(kept.values())


def _share(sources: _Located, targets: _Located) -> bool:
    """Whether both are on one network: then the connection takes that one."""
    return bool({network for _peer, network in sources if network} & {n for _peer, n in targets if n})


def _peers_named(host: Endpoints, facts: Json, name: str, routed: t.Sequence[Network]) -> _Located:
    container = host.container(name)
    if container is not None:
        found = [
            (Peer(name, host.endpoints[i].text, Kind.GUARDED), host.endpoints[i].network)
            for i in host.endpoints_of(container)
        ]
        if not found:
            raise BridgewardenError(
                f'the container "{name}" has no address behind a guard',
                "",
                "start it, or name host or an address",
            )
        return found
    if name in ATTACHMENTS:
        indexes = sorted(host.of_kind(ATTACHMENTS[name]))
        if not indexes:
            raise BridgewardenError(
                f'"{name}" is nobody on this host now', "", "ask while one is there, or name an address"
            )
        return [
            (Peer(name, host.endpoints[i].text, Kind.GUARDED), host.endpoints[i].network) for i in indexes
        ]
    if name == "world":
        return [(Peer(name, address, Kind.WORLD), "") for address in ("192.0.2.1", "2001:db8::1")]
    if name == "host":
        return _gateways(facts)
    try:
        address = str(ipaddress.ip_address(name))
    except ValueError:
        known = [c["Name"] for c in host.containers]
        raise BridgewardenError(
            f'"{name}" is neither a container nor an address',
            "",
            f"name a container, an address, host or world.{did_you_mean(name, [*known, 'host', 'world'])}",
        ) from None
    return [(Peer(address, address, _kind_of_address(host, facts, address, routed)), "")]


def _gateways(facts: Json) -> _Located:
    found = []
    for network in facts.get("networks") or []:
        for subnet in network.get("Subnets") or [] if network.get("Bridge") else []:
            first = str(ipaddress.ip_network(subnet)[1])
            found.append((Peer("host", first, Kind.HOST), network["Name"]))
    return found or [(Peer("host", address, Kind.HOST), "") for address in ("127.0.0.1", "::1")]


def _kind_of_address(host: Endpoints, facts: Json, address: str, routed: t.Sequence[Network]) -> Kind:
    number = ipaddress.ip_address(address)
    if host.within([(number.version, int(number), int(number))]):
        return Kind.GUARDED
    if _is_local(address):
        return Kind.HOST
    if any(number in network for network in routed):
        return Kind.GUARDED
    for network in facts.get("networks") or []:
        if (
            network.get("Bridge")
            and network["Bridge"] not in host.unguarded
            and any(number in ipaddress.ip_network(s) for s in network.get("Subnets") or [])
        ):
            return Kind.GUARDED
    return Kind.WORLD


def _is_local(address: str) -> bool:
    """Whether this host has the address: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
