# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Compiles one policy again and again as containers come and go, at the cost of what has changed.

Theory of operation.  What a rule says about a container depends on that container alone: on its name, labels and
networks.  So the containers that changed are resolved by themselves, and their endpoints' masks put in the place of the
former ones.  Where their masks are known already, only the endpoints differ; else identities and pairs are numbered anew.
Whatever is about more than one container at a time is compiled from scratch: a network that came or went, a shared namespace,
published ports that a rule names, a rule that had nobody on one side, an address that two have, a rule with a
key that relates one container to others, or to the day.

The result equals compile_ruleset()'s to the last byte, which a test checks over random changes.  Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Policy
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Marks,
    Matrix,
    PublishMemo,
    Ruleset,
    behind_rows,
    compile_matrix,
    endpoint_row,
    gateway_masks,
    publish_rows,
    within_bounds,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import (
    NO_CLOCK,
    Clause,
    Clock,
    EffectiveRule,
    Resolution,
    resolve,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import (
    Endpoint,
    Endpoints,
    Party,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: With more changes than this at once, compiling from scratch is as quick.
MAX_CHANGED = 64

_Key = t.Tuple[int, int]  # of an endpoint: version, address
_ById = t.Dict[str, Json]


class Compiler:
    """Remembers the last ruleset, its policy and its facts. For one thread."""

    def __init__(self) -> None:
        self._state: t.Optional[_State] = None
        self._published: PublishMemo = {}
        self.from_scratch = 0  # how often

    def compile(
        self,
        policy: Policy,
        facts: Json,
        clock: Clock = NO_CLOCK,
        left_alone: t.Collection[str] = frozenset(),
    ) -> Ruleset:
        """The ruleset; the very same object as before where nothing in it has changed. Raises as compile_ruleset() does."""
        state, self._state = self._state, None
        alone = frozenset(left_alone)
        if state is not None and state.policy == policy and state.left_alone == alone:
            patched = state.patched(facts, self._published)
            if patched is not None:
                self._state = patched
                return patched.ruleset
        self.from_scratch += 1
        resolution = resolve(policy, facts, "ignore", clock, alone)
        matrix = Matrix(resolution)
        ruleset = compile_matrix(
            policy, resolution, facts, matrix, publish_rows(resolution.host, self._published)
        )
        self._state = _State(policy, facts, ruleset, resolution, matrix, alone)
        return ruleset


def _by_id(facts: Json) -> _ById:
    return {one["Id"]: one for one in (*(facts.get("containers") or ()), *(facts.get("attachments") or ()))}


def _shared(container: Json) -> str:
    """The container whose namespace it runs in, by id or name."""
    mode = container.get("NetworkMode") or ""
    return mode[len("container:") :] if mode.startswith("container:") else ""


def _is_of_one(rule: EffectiveRule) -> bool:
    """Whether what the rule says about a container depends on that container alone."""
    clauses = rule.clauses
    if len(clauses) > 1 and not rule.rule.published:
        return False
    return not any(getattr(rule.rule, key, None) for key in ("within", "until"))


def _named_everywhere(clause: Clause, party: Party) -> bool:
    return clause.target is party or clause.target == party


class _State:
    """What is remembered; never changed, so that a failure leaves the former one whole."""

    def __init__(
        self,
        policy: Policy,
        facts: Json,
        ruleset: Ruleset,
        resolution: Resolution,
        matrix: Matrix,
        left_alone: t.FrozenSet[str],
    ) -> None:
        self.policy = policy
        self.left_alone = left_alone
        self._unguarded = resolution.host.unguarded
        self.facts = facts
        self.ruleset = ruleset
        self._matrix = matrix
        self._by_id = _by_id(facts)
        host = resolution.host
        self._endpoints: t.List[Endpoint] = list(host.endpoints)
        self._keys: t.List[_Key] = [(one.version, one.address) for one in self._endpoints]
        self._masks = matrix.masks
        self._gateways = matrix.gateways
        rules = resolution.rules
        sources = Marks(host, [rule.source for rule in rules]).endpoints()
        targets = Marks(host, [rule.target for rule in rules]).endpoints()
        #: Of each endpoint: the rules that name it, on either side. A rule that has nobody on the other side has no clause.
        self._named = list(zip(sources, targets))
        self._counts = [(len(rule.source.endpoints), len(rule.target.endpoints)) for rule in rules]
        self._others = [(_has_others(rule.source), _has_others(rule.target)) for rule in rules]
        self._clause_bits: t.List[
            t.Tuple[int, int]
        ] = []  # of each rule: its clauses as a row, and as a column
        place = 0
        for rule in rules:
            row = sum(1 << number for number in range(place, place + len(rule.clauses)))
            self._clause_bits.append((row, 0 if rule.rule.published else row))
            place += len(rule.clauses)
        self._published = sum(1 << number for number, rule in enumerate(rules) if rule.rule.published)
        self._inside = policy.placement == "container"
        self._patchable = not (
            host.warnings
            or any(rule.until for rule in policy.rules)
            or any(not _is_of_one(rule) for rule in rules)
            or any(
                not _named_everywhere(clause, rule.target)
                for rule in rules
                if not rule.rule.published
                for clause in rule.clauses
            )
            or any(group.query and not _asks_each(group.query) for group in policy.groups)
            or any(_shared(one) for one in self._by_id.values())
        )

    def patched(self, facts: Json, published: PublishMemo) -> t.Optional[_State]:
        """What it is with these facts; None where that takes a compilation from scratch."""
        if not self._patchable or not _same_ground(self.facts, facts):
            return None
        now = _by_id(facts)
        changed = [ident for ident, one in now.items() if self._by_id.get(ident) is not one]
        gone = [ident for ident in self._by_id if ident not in now]
        if len(changed) + len(gone) > MAX_CHANGED:
            return None
        before = {ident: self._by_id[ident] for ident in (*changed, *gone) if ident in self._by_id}
        after = {ident: now[ident] for ident in changed}
        if any(_shared(one) for one in after.values()):
            return None
        mini = {
            **facts,
            "containers": [one for one in after.values() if "Kind" not in one],
            "attachments": [one for one in after.values() if "Kind" in one],
        }
        resolution = resolve(self.policy, mini, "ignore", left_alone=self.left_alone)
        if resolution.host.warnings:
            return None
        other = object.__new__(_State)
        other.__dict__.update(self.__dict__)
        other.facts, other._by_id = facts, now
        publishers = any(one.get("Ports") for one in (*before.values(), *after.values()))
        if not other._put(before, resolution, publishers):
            return None
        other._compile(self, facts, published if publishers else None)
        return other

    def _put(self, before: _ById, resolution: Resolution, publishers: bool) -> bool:
        """Exchanges the endpoints of the containers `before` for those of the resolution; whether that is all there is to it."""
        host = resolution.host
        sources = Marks(host, [rule.source for rule in resolution.rules]).endpoints()
        targets = Marks(host, [rule.target for rule in resolution.rules]).endpoints()
        self._endpoints, self._keys = list(self._endpoints), list(self._keys)
        self._masks, self._named = list(self._masks), list(self._named)
        self._gateways = list(self._gateways)
        counts = [list(count) for count in self._counts]
        old = list(Endpoints(_only(before), self._inside, self._unguarded).endpoints)
        for endpoint in old:
            place = self._place((endpoint.version, endpoint.address))
            if place is None or self._endpoints[place].container_id != endpoint.container_id:
                return False
            if publishers and self._named[place][1] & self._published:
                return False
            _count(counts, self._named[place], -1)
            for column in (self._endpoints, self._keys, self._masks, self._named, self._gateways):
                del column[place]  # type: ignore[attr-defined]
        gateways = gateway_masks(resolution)
        for endpoint, source, target, gateway in zip(host.endpoints, sources, targets, gateways):
            key = (endpoint.version, endpoint.address)
            if self._place(key) is not None or (publishers and target & self._published):
                return False
            place = bisect.bisect_left(self._keys, key)
            self._endpoints.insert(place, endpoint)
            self._keys.insert(place, key)
            self._masks.insert(place, self._clauses_of(source, target))
            self._named.insert(place, (source, target))
            self._gateways.insert(place, gateway)
            _count(counts, (source, target), 1)
        after = [(count[0], count[1]) for count in counts]
        if not all(map(_same_sides, self._others, self._counts, after)):
            return False
        self._counts = after
        return True

    def _clauses_of(self, source: int, target: int) -> t.Tuple[int, int]:
        row = column = 0
        for number, (as_row, as_column) in enumerate(self._clause_bits):
            if source >> number & 1:
                row |= as_row
            if target >> number & 1:
                column |= as_column
        return row, column

    def _place(self, key: _Key) -> t.Optional[int]:
        place = bisect.bisect_left(self._keys, key)
        return place if place < len(self._keys) and self._keys[place] == key else None

    def _compile(self, before: _State, facts: Json, published: t.Optional[PublishMemo]) -> None:
        publish = self.ruleset.publish
        if published is not None:
            publish = publish_rows(Endpoints(facts, self._inside, self._unguarded), published)
        if {*self._masks, *before._matrix.routed_masks()} == before._matrix.identity_of.keys():
            self._matrix = before._matrix
        else:
            self._matrix = before._matrix.with_endpoints(self._endpoints, self._masks)
        changes: t.Dict[str, t.Any] = {}
        if self._matrix is not before._matrix:
            matrix = self._matrix.build()
            changes.update(
                identities=self._matrix.identities,
                cells4=self._matrix.cells[4],
                cells6=self._matrix.cells[6],
                spans=matrix.spans,
                blocks=matrix.blocks,
                pairs=matrix.pairs,
                shadowed=matrix.shadowed(),
                prefixes4=self._matrix.prefix_rows(4),
                prefixes6=self._matrix.prefix_rows(6),
            )
        identity_of = self._matrix.identity_of
        for version, name in ((4, "endpoints4"), (6, "endpoints6")):
            changes[name] = [
                endpoint_row(endpoint, identity_of[masks])
                for endpoint, masks in zip(self._endpoints, self._masks)
                if endpoint.version == version
            ]
        changes["behind"] = behind_rows(self._endpoints, self._gateways)
        changes["publish"] = publish
        changes = {key: value for key, value in changes.items() if value != getattr(self.ruleset, key)}
        if changes:
            if published is not None:
                changes["publish"] = (
                    publish  # another object says that a container which publishes has changed
                )
            self.ruleset = self.ruleset.replaced(**changes)
            within_bounds(self.ruleset)


def _only(containers: _ById) -> Json:
    return {
        "containers": [one for one in containers.values() if "Kind" not in one],
        "attachments": [one for one in containers.values() if "Kind" in one],
    }


def _same_ground(before: Json, after: Json) -> bool:
    """Whether what is no container is the same."""
    return all(
        before.get(key) is after.get(key) or before.get(key) == after.get(key)
        for key in (before.keys() | after.keys()) - {"containers", "attachments"}
    )


def _has_others(party: Party) -> bool:
    return party.world or party.host or bool(party.nets or party.host_nets or party.routed)


def _count(counts: t.List[t.List[int]], named: t.Tuple[int, int], by: int) -> None:
    for side, mask in enumerate(named):
        while mask:
            low = mask & -mask
            counts[low.bit_length() - 1][side] += by
            mask ^= low


def _same_sides(others: t.Tuple[bool, bool], before: t.Tuple[int, int], after: t.Tuple[int, int]) -> bool:
    """Whether a rule has somebody on each side where it had, and nobody where it had not."""
    return all(other or bool(one) == bool(two) for other, one, two in zip(others, before, after))


def _asks_each(query: str) -> bool:
    """Whether a query decides about each container by itself, as [?Labels.tier=='app'] does."""
    try:
        from jmespath.parser import Parser

        tree = Parser().parse(query).parsed
    except Exception:
        return False  # resolve() reports what is wrong with it
    if tree.get("type") != "filter_projection":
        return False
    children = tree["children"]
    whole = {"type": "identity", "children": []}
    return bool(children[0] == whole and children[1] == whole)
