# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the policy means on this host: policy + facts -> effective rules.

An effective rule has its peers resolved to endpoints and address intervals and
its services to numbers.  A rule is cut into clauses only where `published`
gives different containers different ports.  Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Policy, Rule
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
        return [
            {
                "name": self.rule.name,
                "action": self.rule.action,
                "from": list(self.source.words),
                "to": list(clause.target.words),
                "services": list(clause.words) or ["all"],
                "direct": self.rule.direct,
                "log": self.rule.log,
            }
            for clause in self.clauses or (nobody,)
        ]


@dataclass(frozen=True)
class Resolution:
    policy: Policy
    host: Endpoints
    rules: t.Tuple[EffectiveRule, ...]
    warnings: t.Tuple[str, ...]
    routed: t.Tuple[RoutedGroup, ...] = ()

    def effective(self) -> t.List[Json]:
        return [body for rule in self.rules for body in rule.as_dicts()]


def resolve(policy: Policy, facts: Json, on_empty: str = "warn") -> Resolution:
    """The effective rules in the policy's order. Raises SelectorError where on_empty is "fail"."""
    host = Endpoints(facts, policy.placement == "container")
    resolver = _Resolver(policy, host, on_empty)
    rules = tuple(resolver.rule(rule) for rule in policy.rules)
    return Resolution(
        policy, host, rules, tuple(_once(host.warnings + resolver.warnings)), resolver.selectors.routed
    )


def _once(texts: t.Iterable[str]) -> t.List[str]:
    return list(dict.fromkeys(texts))


class _Resolver:
    def __init__(self, policy: Policy, host: Endpoints, on_empty: str) -> None:
        self.selectors = Selectors(policy, host)
        self.host = host
        self.on_empty = on_empty
        self.warnings: t.List[str] = []

    def rule(self, rule: Rule) -> EffectiveRule:
        for key, peers in (("from", rule.sources), ("to", rule.targets)):
            for peer in peers:
                why = self.selectors.why_empty(peer)
                if why:
                    self._empty(rule, key, f'"{peer}" in {key} matches nothing: {why}')
                for note in self.selectors.notes(peer):
                    self._warn(rule, f'"{peer}" in {key}: {note}')
        source, target = self.selectors.party(rule.sources), self.selectors.party(rule.targets)
        if not source or not target:
            return EffectiveRule(rule, source, target, ())
        if rule.published:
            return EffectiveRule(rule, source, target, self._published(rule, target))
        wanted = services(rule.ports)
        words = () if wanted == ALL_SERVICES else rule.ports
        return EffectiveRule(rule, source, target, (Clause(target, wanted, words),))

    def _published(self, rule: Rule, target: Party) -> t.Tuple[Clause, ...]:
        """One clause for each set of container ports behind the published ones."""
        wanted = services(rule.published)
        hits: t.Set[int] = set()
        by_ports: t.Dict[t.Tuple[t.Tuple[Service, ...], t.Tuple[str, ...]], t.Set[int]] = {}
        for index in sorted(target.endpoints):
            container = self.host.container_by_id(self.host.endpoints[index].container_id) or {}
            ports, words = set(), set()
            for host_service, own_service, text in _bindings(container):
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
            others = sorted(
                {
                    c["Name"]
                    for c in self.host.containers
                    for port, _own, _text in _bindings(c)
                    if lo <= port <= hi
                }
            )
            inner = sorted(
                {
                    c["Name"]
                    for c in self.host.containers
                    for _port, own, _text in _bindings(c)
                    if lo <= own <= hi
                }
            )
            hint = ""
            if others:
                hint = "; it is published by {}".format(", ".join(others))
            elif inner:
                hint = "; it is the container's own port of {}, for which the key is ports".format(
                    ", ".join(inner)
                )
            self._empty(rule, "published", f"no container of to publishes {text}{hint}")

    def _empty(self, rule: Rule, key: str, text: str) -> None:
        if self.on_empty == "fail":
            raise SelectorError(
                text, ("rules", rule.index, key), "correct it, or set on_empty_selector to warn", rule.name
            )
        if self.on_empty == "warn":
            self._warn(rule, text)

    def _warn(self, rule: Rule, text: str) -> None:
        self.warnings.append(f'rule "{rule.name}": {text}')


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
