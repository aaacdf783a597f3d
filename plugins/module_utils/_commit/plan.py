# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan: a policy and Docker's facts, resolved and compiled, with what it means in words. Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Policy, digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_any
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.incremental import Compiler
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import (
    NO_CLOCK,
    Clock,
    Formerly,
    Resolution,
    resolve,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.sentences import sentences
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

NOTHING_JUDGED = "no guards, no rules: nothing is judged"


@dataclass(frozen=True)
class CommitOptions:
    on_empty_selector: str = "warn"  # warn | fail | ignore
    force: bool = False  # commit although it may cut somebody off
    adopt: bool = True  # make the policy the desired one; False for those who only follow it
    clock: Clock = NO_CLOCK  # which day it is, for rules with until
    #: For a commit that nobody is there to refuse: links that an SSH session or a lifeline runs over, with the reason. Like those with
    #: a default route they get no guard by being Docker's. None: they do, which the lock-out check then refuses.
    ways_in: t.Optional[t.Mapping[str, str]] = None


@dataclass(frozen=True)
class Plan:
    """What a policy means on this host now. Its words take as long as the rest, and are made when somebody reads them."""

    policy: Json  # normal form, what the store keeps
    policy_digest: str  # hex
    ruleset: Ruleset
    facts: Json = field(repr=False)
    _resolve: t.Callable[[], Resolution] = field(repr=False, compare=False)
    _options: CommitOptions = field(repr=False, compare=False)
    #: Bridges that get no guard because the host is reached over them, with the reason.
    alone: t.Mapping[str, str] = field(default_factory=dict)
    _made: t.Dict[str, t.Any] = field(default_factory=dict, repr=False, compare=False)
    left_out: t.Tuple[str, ...] = ()  # what the kernel has refused of it, and is closed

    @property
    def ruleset_digest(self) -> str:
        return self.ruleset.digest().hex()

    @property
    def effective(self) -> t.List[Json]:
        """architecture.md, 4"""
        return self._once("effective", lambda: self._resolution().effective())

    @property
    def words(self) -> t.List[str]:
        """One sentence each: mode, guards, defaults, rules."""
        return self._once("words", self._words)

    @property
    def warnings(self) -> t.List[str]:
        return self._once("warnings", self._warnings)

    @property
    def formerly(self) -> t.List[Json]:
        """Containers that an allow of a CIDR covered when a CIDR meant who has the address: resolve.Formerly.as_dict()."""
        return self._once("formerly", lambda: [one.as_dict() for one in self._resolution().formerly])

    @property
    def unguarded(self) -> t.FrozenSet[str]:
        """Bridges without a guard, by the policy or because the host is reached over them."""
        return self._once("unguarded", lambda: frozenset(self._resolution().host.unguarded))

    @property
    def notices(self) -> t.List[str]:
        """What those who follow the policy log in any case: bridges that are left alone, and rules whose last day is over."""
        texts = [f"the bridge {name} gets no guard: {why}" for name, why in sorted(self.alone.items())]
        if any(rule.get("until") for rule in self.policy["rules"]):
            texts += self._resolution().notices
        return texts

    def _once(self, name: str, make: t.Callable[[], t.Any]) -> t.Any:
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    def _resolution(self) -> Resolution:
        return t.cast(Resolution, self._once("resolution", self._resolve))

    def _words(self) -> t.List[str]:
        ruleset = self.ruleset
        words = [f"guards: {', '.join(ruleset.guards) or 'none'}", *sentences(self._resolution())]
        if ruleset.parents:
            words.insert(1, f"parent links: {', '.join(ruleset.parents)}")
        endpoints = len(ruleset.endpoints4) + len(ruleset.endpoints6)
        words.append(f"endpoints: {endpoints}, ruleset {ruleset.digest().hex()[:12]}")
        return words

    def _warnings(self) -> t.List[str]:
        warnings = list(dict.fromkeys([*self.left_out, *self._resolution().warnings, *self.notices]))
        if self._options.on_empty_selector != "ignore":
            warnings += _shadow_warnings(self.ruleset)
        return warnings


# Plans


def make_plan(policy: Json, facts: Json, options: t.Optional[CommitOptions] = None) -> Plan:
    """Resolves and compiles `policy` (raw or normal form). Raises PolicyError; touches nothing."""
    options = options or CommitOptions()
    wanted = normalise(policy)
    alone = left_alone(wanted, facts, options.ways_in)
    resolution = resolve(wanted, facts, options.on_empty_selector, options.clock, alone.keys())
    ruleset = compile_ruleset(wanted, resolution, facts)
    return Plan(wanted.as_dict(), digest(wanted), ruleset, facts, lambda: resolution, options, alone)


class Planner:
    """Makes plans of one policy as containers come and go: what has not changed is not compiled again."""

    def __init__(self, options: CommitOptions) -> None:
        self._options = options
        self._compiler = Compiler()
        self._policy: t.Optional[t.Tuple[Json, Policy, Json, str]] = None  # raw, parsed, normal form, digest

    def __call__(
        self,
        policy: Json,
        facts: Json,
        clock: Clock = NO_CLOCK,
        ways_in: t.Optional[t.Mapping[str, str]] = None,
    ) -> Plan:
        """As make_plan(), with selectors that mean nobody ignored."""
        if self._policy is None or self._policy[0] != policy:
            parsed = normalise(policy)
            self._policy = policy, parsed, parsed.as_dict(), digest(parsed)
        _raw, wanted, normal_form, policy_digest = self._policy
        alone = left_alone(wanted, facts, ways_in)
        ruleset = self._compiler.compile(wanted, facts, clock, alone.keys())
        return Plan(
            normal_form,
            policy_digest,
            ruleset,
            facts,
            lambda: resolve(wanted, facts, "ignore", clock, alone.keys()),
            self._options,
            alone,
        )


def former_texts(plan: Plan) -> t.List[str]:
    """What plan.formerly says, a sentence each."""
    return [Formerly(**one).text() for one in plan.formerly]


def host_clock(applied: t.Optional[Json]) -> Clock:
    """This host's clock beside the time of the last commit, as the store has it."""
    return Clock(time.time(), float((applied or {}).get("time") or 0))


def left_alone(policy: Policy, facts: Json, ways_in: t.Optional[t.Mapping[str, str]]) -> t.Dict[str, str]:
    """Docker's bridges that get no guard by that, with the reason; none where somebody is there to decide (None)."""
    if ways_in is None:
        return {}
    default = dict.fromkeys(facts.get("default_route_links") or [], "it carries the default route")
    reasons = {**ways_in, **default}
    return {name: reasons[name] for name in bridges_by_name(policy, facts) if name in reasons}


def bridges_by_name(policy: Policy, facts: Json) -> t.FrozenSet[str]:
    """Docker's bridges that no pattern of the policy matches, and that it does not leave out: they are guarded by name."""
    return frozenset(
        network["Bridge"]
        for network in facts.get("networks") or []
        if network.get("Bridge") and not glob_any(network["Bridge"], (*policy.guards, *policy.unguarded))
    )


def _shadow_warnings(ruleset: Ruleset) -> t.List[str]:
    return [
        f'rule "{ruleset.rule_name(loser)}": it decides nothing here now, because whatever it matches is '
        f'decided by others first, for example by "{ruleset.rule_name(winner)}"'
        for loser, winner in ruleset.shadowed
    ]


def boot_plan(policy: Json, clock: Clock = NO_CLOCK) -> Plan:
    """The plan before Docker runs: no endpoint is known, everything behind the guards is closed."""
    return make_plan(policy, {}, CommitOptions(on_empty_selector="ignore", clock=clock))
