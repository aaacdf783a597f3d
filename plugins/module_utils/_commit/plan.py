# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A plan: a policy and Docker's facts, resolved and compiled, with what it means in words. Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import resolve
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
    """What a policy means on this host now."""

    policy: Json  # normal form, what the store keeps
    policy_digest: str  # hex
    ruleset: Ruleset
    ruleset_digest: str  # hex
    effective: t.List[Json]  # architecture.md, 4
    words: t.List[str]  # one sentence each: mode, guards, defaults, rules
    warnings: t.List[str]
    facts: Json = field(repr=False)


# Plans


def make_plan(policy: Json, facts: Json, options: t.Optional[CommitOptions] = None) -> Plan:
    """Resolves and compiles `policy` (raw or normal form). Raises PolicyError; touches nothing."""
    options = options or CommitOptions()
    wanted = normalise(policy)
    resolution = resolve(wanted, facts, options.on_empty_selector)
    ruleset = compile_ruleset(wanted, resolution, facts)
    words = [f"guards: {', '.join(ruleset.guards) or 'none'}", *sentences(resolution)]
    if ruleset.parents:
        words.insert(1, f"parent links: {', '.join(ruleset.parents)}")
    endpoints = len(ruleset.endpoints4) + len(ruleset.endpoints6)
    words.append(f"endpoints: {endpoints}, ruleset {ruleset.digest().hex()[:12]}")
    warnings = list(resolution.warnings)
    if options.on_empty_selector != "ignore":
        warnings += _shadow_warnings(ruleset)
    return Plan(
        policy=wanted.as_dict(),
        policy_digest=digest(wanted),
        ruleset=ruleset,
        ruleset_digest=ruleset.digest().hex(),
        effective=resolution.effective(),
        words=words,
        warnings=warnings,
        facts=facts,
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
