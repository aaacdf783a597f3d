# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the policy means on this host: policy + facts -> effective rules.

An effective rule has its peers resolved to endpoints and address intervals and
its services to numbers.  A rule is cut into clauses only where `published`
gives different containers different ports; what `within` relates is compared
by the compiler.  A rule whose last day is over is left out.  Pure: the day
comes from the caller.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import datetime
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    NETWORK,
    PERMITTING,
    Policy,
    Rule,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.rules import JUDGED
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import (
    ALL_SERVICES,
    PROTOCOLS,
    Service,
    service_text,
    services,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import (
    Endpoints,
    Party,
    RoutedGroup,
    Selectors,
    endpoint_words,
    touches_group,
    unguarded_bridges,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

ON_EMPTY = ("warn", "fail", "ignore")

CLASS_WORDS: t.Dict[str, str] = {
    "ingress": "from outside to containers",
    "egress": "from containers to outside",
    "inter_container": "between containers",
    "to_host": "from containers to the host",
    "from_host": "from the host to containers",
    "host_ingress": "from outside to the host itself",
}


class Clock(t.NamedTuple):
    """Which day it is, for `until`. Seconds since 1970; the clock of a host without a battery may stand in the past."""

    now: float
    last_commit: float = 0.0  # of the policy in force; 0: unknown

    @property
    def behind(self) -> bool:
        """Whether the clock stands before the last commit, hence is wrong."""
        return self.now < self.last_commit

    @property
    def today(self) -> str:
        """The day in UTC; that of the last commit where the clock stands before it."""
        moment = datetime.datetime.fromtimestamp(max(self.now, self.last_commit), datetime.timezone.utc)
        return moment.date().isoformat()


#: Without a clock nothing ends.
NO_CLOCK = Clock(0.0)


class Formerly(t.NamedTuple):
    """Containers that a permitting rule let in by a CIDR, when a CIDR still meant whoever has the address."""

    rule: str
    key: str  # from, to
    peer: str
    containers: t.Tuple[str, ...]
    write: t.Tuple[str, ...]  # what names them in the rule

    def as_dict(self) -> Json:
        return {**self._asdict(), "containers": list(self.containers), "write": list(self.write)}

    def text(self) -> str:
        return (
            f'rule "{self.rule}": "{self.peer}" in {self.key} covered {_several(self.containers)} before; a CIDR now means '
            f"addresses outside; where they are meant, add {_several(self.write)} to {self.key}"
        )


def _several(names: t.Sequence[str], most: int = 20) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True)
class Clause:
    target: Party
    services: t.Tuple[Service, ...]
    words: t.Tuple[str, ...]  # of the services


@dataclass(frozen=True)
class EffectiveRule:
    rule: Rule
    source: Party
    target: Party
    clauses: t.Tuple[Clause, ...]

    def as_dicts(self) -> t.List[Json]:
        """As a diff shows it, one object a clause; a rule that matches nothing now has one too."""
        target = Party() if self.rule.published else self.target
        nobody = Clause(target, (), self.rule.published or self.rule.ports)
        later = {"within": self.rule.within, "until": self.rule.until, "note": self.rule.note}
        return [
            {
                "name": self.rule.name,
                "action": self.rule.action,
                "from": list(self.source.words),
                "to": list(clause.target.words),
                "services": list(clause.words) or ["all"],
                "direct": self.rule.direct,
                "log": self.rule.log,
                **{key: value for key, value in later.items() if value},
            }
            for clause in self.clauses or (nobody,)
        ]


@dataclass(frozen=True)
class Resolution:
    policy: Policy
    host: Endpoints
    rules: t.Tuple[EffectiveRule, ...]
    warnings: t.Tuple[str, ...]
    formerly: t.Tuple[Formerly, ...] = ()
    ended: t.Tuple[str, ...] = ()  # the names of rules whose last day is over
    notices: t.Tuple[str, ...] = ()  # those of the warnings that are about the day
    routed: t.Tuple[RoutedGroup, ...] = ()

    def effective(self) -> t.List[Json]:
        return [body for rule in self.rules for body in rule.as_dicts()]


def resolve(
    policy: Policy,
    facts: Json,
    on_empty: str = "warn",
    clock: Clock = NO_CLOCK,
    left_alone: t.Collection[str] = frozenset(),
) -> Resolution:
    """The effective rules in the policy's order. Raises SelectorError where on_empty is "fail".

    `left_alone`: names of bridges that get no guard, beside those that the policy leaves out.
    """
    unguarded = unguarded_bridges(policy, facts) | frozenset(left_alone)
    host = Endpoints(facts, policy.placement == "container", unguarded)
    resolver = _Resolver(policy, host, on_empty)
    today = clock.today
    ended = [rule for rule in policy.rules if rule.until and rule.until < today]
    for rule in ended:
        resolver.warn(
            rule, f"its last day was {rule.until}: it counts as absent; remove it, or set until anew"
        )
    timed = [rule for rule in policy.rules if rule.until and rule.until >= today]
    if clock.behind and timed:
        resolver.warn(
            timed[0],
            f"the clock of this host stands before the last commit ({today}): rules with until stay as they were then; "
            "set the clock",
        )
    notices = tuple(resolver.warnings)
    resolver.lifelines()
    rules = tuple(resolver.rule(rule) for rule in policy.rules if not rule.until or rule.until >= today)
    return Resolution(
        policy,
        host,
        rules,
        tuple(_once(host.warnings + resolver.warnings)),
        tuple(resolver.formerly),
        tuple(rule.name for rule in ended),
        notices,
        resolver.selectors.routed,
    )


def _once(texts: t.Iterable[str]) -> t.List[str]:
    return list(dict.fromkeys(texts))


class _Resolver:
    def __init__(self, policy: Policy, host: Endpoints, on_empty: str) -> None:
        self.policy = policy
        self.selectors = Selectors(policy, host)
        self.host = host
        self.on_empty = on_empty
        self.warnings: t.List[str] = []
        self.formerly: t.List[Formerly] = []
        self._published_at: t.Optional[t.Tuple[t.Dict[int, t.Set[str]], t.Dict[int, t.Set[str]]]] = None
        self._bindings_of: t.Dict[str, t.List[t.Tuple[int, int, str]]] = {}
        self._on_network: t.Optional[t.Dict[str, t.Set[int]]] = None

    def lifelines(self) -> None:
        """Reports those that mean nobody now."""
        for lifeline in self.policy.lifelines:
            for key, peers in (("from", lifeline.sources), ("to", lifeline.targets)):
                for peer in peers:
                    why = self.selectors.why_empty(peer)
                    if not why:
                        continue
                    text = f'"{peer}" in {key} of the lifeline "{lifeline.name}" matches nothing: {why}'
                    if self.on_empty == "fail":
                        raise SelectorError(
                            text,
                            ("lifelines", lifeline.index, key),
                            "correct it, or set on_empty_selector to warn",
                        )
                    if self.on_empty == "warn":
                        self.warnings.append(text)

    def rule(self, rule: Rule) -> EffectiveRule:
        forbidding = rule.action not in PERMITTING
        source = self.selectors.party(rule.sources, forbidding)
        target = self.selectors.party(rule.targets, forbidding)
        for key, peers, party in (("from", rule.sources, source), ("to", rule.targets, target)):
            for peer in peers:
                why = self.selectors.why_empty(peer, forbidding)
                if why:
                    self._empty(rule, key, f'"{peer}" in {key} matches nothing: {why}')
                for note in self.selectors.notes(peer):
                    self.warn(rule, f'"{peer}" in {key}: {note}')
                if not forbidding:
                    self._report_formerly(rule, key, peer, party)
        if not source or not target:
            return EffectiveRule(rule, source, target, ())
        if not _ever_judged(source, target):
            self._empty(
                rule,
                "to",
                "no container is on either side: a CIDR means addresses outside; name containers, or host",
            )
        if rule.within and not self._related(rule, source, target):
            what = "network" if rule.within == NETWORK else f"value of the label {rule.within}"
            self._empty(rule, "within", f"no container of from has a {what} that one of to has")
        if rule.published:
            return EffectiveRule(rule, source, target, self._published(rule, target))
        wanted = services(rule.ports)
        words = () if wanted == ALL_SERVICES else rule.ports
        return EffectiveRule(rule, source, target, (Clause(target, wanted, words),))

    def _report_formerly(self, rule: Rule, key: str, peer: str, party: Party) -> None:
        covered = self.selectors.formerly(peer) - party.endpoints
        if not covered:
            return
        if self._on_network is None:
            self._on_network = {}
            for index, endpoint in enumerate(self.host.endpoints):
                self._on_network.setdefault(endpoint.network, set()).add(index)
        networks = sorted({self.host.endpoints[index].network for index in covered})
        whole = [name for name in networks if self._on_network[name] <= covered]
        left = {index for index in covered if self.host.endpoints[index].network not in whole}
        names = sorted({self.host.endpoints[index].container for index in left})
        write = [f"network:{name}" for name in whole] + [f"container:{name}" for name in names]
        if len(covered) == len(self.host.endpoints):
            write = ["containers"]
        words = endpoint_words(self.host, covered)
        self.formerly.append(Formerly(rule.name, key, peer, tuple(words), tuple(write)))

    def _related(self, rule: Rule, source: Party, target: Party) -> bool:
        values = self.host.shared_values(rule.within)
        mine = {value for index in source.endpoints for value in values[index]}
        return any(value in mine for index in target.endpoints for value in values[index])

    def _bindings(self, container: Json) -> t.List[t.Tuple[int, int, str]]:
        known = self._bindings_of.get(container["Id"])
        if known is None:
            known = self._bindings_of[container["Id"]] = list(_bindings(container))
        return known

    def _published(self, rule: Rule, target: Party) -> t.Tuple[Clause, ...]:
        """One clause for each set of container ports behind the published ones."""
        wanted = services(rule.published)
        hits: t.Set[int] = set()
        by_ports: t.Dict[t.Tuple[t.Tuple[Service, ...], t.Tuple[str, ...]], t.Set[int]] = {}
        for index in sorted(target.endpoints):
            container = self.host.container_by_id(self.host.endpoints[index].container_id) or {}
            ports, words = set(), set()
            for host_service, own_service, text in self._bindings(container) if container else ():
                if any(lo <= host_service <= hi for lo, hi in wanted):
                    hits.add(host_service)
                    ports.add(own_service)
                    words.add(text)
            if ports:
                key = (tuple((port, port) for port in sorted(ports)), tuple(sorted(words)))
                by_ports.setdefault(key, set()).add(index)
        if target.endpoints:
            self._unpublished(rule, hits)
        return tuple(
            Clause(
                Party(endpoints=frozenset(indices), words=tuple(endpoint_words(self.host, indices))),
                ports,
                words,
            )
            for (ports, words), indices in sorted(by_ports.items())
        )

    def _unpublished(self, rule: Rule, hits: t.Set[int]) -> None:
        for text in rule.published:
            lo, hi = services([text])[0]
            if any(lo <= hit <= hi for hit in hits):
                continue
            outer_ports, inner_ports = self._ports()
            others = _names_at(outer_ports, lo, hi)
            inner = _names_at(inner_ports, lo, hi)
            hint = ""
            if others:
                hint = "; it is published by {}".format(", ".join(others))
            elif inner:
                hint = "; it is the container's own port of {}, for which the key is ports".format(
                    ", ".join(inner)
                )
            self._empty(rule, "published", f"no container of to publishes {text}{hint}")

    def _ports(self) -> t.Tuple[t.Dict[int, t.Set[str]], t.Dict[int, t.Set[str]]]:
        """The names of the containers by published service, and by their own service behind it."""
        if self._published_at is None:
            outer: t.Dict[int, t.Set[str]] = {}
            inner: t.Dict[int, t.Set[str]] = {}
            for container in self.host.containers:
                for port, own, _text in self._bindings(container):
                    outer.setdefault(port, set()).add(container["Name"])
                    inner.setdefault(own, set()).add(container["Name"])
            self._published_at = outer, inner
        return self._published_at

    def _empty(self, rule: Rule, key: str, text: str) -> None:
        if self.on_empty == "fail":
            raise SelectorError(
                text, ("rules", rule.index, key), "correct it, or set on_empty_selector to warn", rule.name
            )
        if self.on_empty == "warn":
            self.warn(rule, text)

    def warn(self, rule: Rule, text: str) -> None:
        self.warnings.append(f'rule "{rule.name}": {text}')


def _names_at(ports: t.Mapping[int, t.Set[str]], lo: int, hi: int) -> t.List[str]:
    if lo == hi:
        return sorted(ports.get(lo, ()))
    return sorted({name for port, names in ports.items() if lo <= port <= hi for name in names})


def _ever_judged(source: Party, target: Party) -> bool:
    """Whether judged traffic can go from the one to the other."""
    return any((one, other) in JUDGED for one in _kinds(source) for other in _kinds(target, responds=True))


def _kinds(party: Party, responds: bool = False) -> t.Set[str]:
    kinds = set()
    if party.world or party.nets:
        kinds.add("world")
        # A multicast group behind a guard answers as the world's does.
        if responds and (party.world or any(map(touches_group, party.nets))):
            kinds.add("endpoint")
    if party.host or party.host_nets:
        kinds.add("host")
    if party.endpoints or party.routed or party.routed_nets:
        kinds.add("endpoint")
    return kinds


def _bindings(container: Json) -> t.Iterator[t.Tuple[int, int, str]]:
    """Host service, container service and words of each published port."""
    for port in container.get("Ports") or []:
        protocol = PROTOCOLS.get(port.get("Protocol") or "tcp")
        if protocol is None or not port.get("HostPort"):
            continue
        yield (
            protocol << 16 | port["HostPort"],
            protocol << 16 | port["ContainerPort"],
            "%s (published as %d)"
            % (service_text((protocol << 16 | port["ContainerPort"],) * 2), port["HostPort"]),
        )
