# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan: a policy and Docker's facts, resolved and compiled, with what it means in words. Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Policy, digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.incremental import Compiler
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import (
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


@dataclass(frozen=True)
class Plan:
    """What a policy means on this host now. Its words take as long as the rest, and are made when somebody reads them."""

    policy: Json  # normal form, what the store keeps
    policy_digest: str  # hex
    ruleset: Ruleset
    facts: Json = field(repr=False)
    _resolve: t.Callable[[], Resolution] = field(repr=False, compare=False)
    _options: CommitOptions = field(repr=False, compare=False)
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
        warnings = [*self.left_out, *self._resolution().warnings]
        if self._options.on_empty_selector != "ignore":
            warnings += _shadow_warnings(self.ruleset)
        return warnings


# Plans


def make_plan(policy: Json, facts: Json, options: t.Optional[CommitOptions] = None) -> Plan:
    """Resolves and compiles `policy` (raw or normal form). Raises PolicyError; touches nothing."""
    options = options or CommitOptions()
    wanted = normalise(policy)
    resolution = resolve(wanted, facts, options.on_empty_selector)
    ruleset = compile_ruleset(wanted, resolution, facts)
    return Plan(wanted.as_dict(), digest(wanted), ruleset, facts, lambda: resolution, options)


class Planner:
    """Makes plans of one policy as containers come and go: what has not changed is not compiled again."""

    def __init__(self, options: CommitOptions) -> None:
        self._options = options
        self._compiler = Compiler()
        self._policy: t.Optional[t.Tuple[Json, Policy, Json, str]] = None  # raw, parsed, normal form, digest

    def __call__(self, policy: Json, facts: Json) -> Plan:
        """As make_plan(), with selectors that mean nobody ignored."""
        if self._policy is None or self._policy[0] != policy:
            parsed = normalise(policy)
            self._policy = policy, parsed, parsed.as_dict(), digest(parsed)
        _raw, wanted, normal_form, policy_digest = self._policy
        ruleset = self._compiler.compile(wanted, facts)
        return Plan(
            normal_form,
            policy_digest,
            ruleset,
            facts,
            lambda: resolve(wanted, facts, "ignore"),
            self._options,
        )


def _shadow_warnings(ruleset: Ruleset) -> t.List[str]:
    return [
        f'rule "{ruleset.rule_name(loser)}": it decides nothing here now, because whatever it matches is '
        f'decided by others first, for example by "{ruleset.rule_name(winner)}"'
        for loser, winner in ruleset.shadowed
    ]


def boot_plan(policy: Json) -> Plan:
    """The plan before Docker runs: no endpoint is known, everything behind the guards is closed."""
    return make_plan(policy, {}, CommitOptions(on_empty_selector="ignore"))
