# SPDX-License-Identifier: GPL-3.0-or-later
"""The main proof of the resolver and the compiler: they decide as the naive model does."""

from __future__ import annotations

import copy
import datetime
import os
import random
import sys
import typing as t
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import naive
import strategies
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX, Kind, Reason
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Policy
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, Judge
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import Clock, resolve
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

EXAMPLES = int(os.environ.get("BRIDGEWARDEN_EXAMPLES", "150"))
SETTINGS = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

#: In the middle of strategies.TODAY.
CLOCK = Clock(datetime.datetime(2026, 6, 15, 12, tzinfo=datetime.timezone.utc).timestamp())

Json = t.Dict[str, t.Any]


def accepted(policy: Json) -> Policy:
    """The policy without the rules the language refuses as senseless; what is left must be accepted."""
    while True:
        try:
            return normalise(policy)
        except PolicyError as error:
            assume(error.path[:1] == ("rules",))
            del policy["rules"][t.cast(int, error.path[1])]


def compiled(policy: Policy, facts: Json) -> Ruleset:
    return compile_ruleset(policy, resolve(policy, facts, "ignore", CLOCK), facts)


def decision(ruleset: Ruleset, judge: Judge, connection: strategies.Connection) -> t.Tuple[str, str]:
    source, source_kind, target, target_kind, protocol, port, direct = connection
    found = judge.decide(
        Connection(
            source, target, protocol, port, Kind[source_kind.upper()], Kind[target_kind.upper()], direct
        )
    )
    if not found.direction_class:
        return found.action, "not judged"
    if found.index >= REASON_MAX:
        return found.action, ruleset.rule_name(found.index - REASON_MAX)
    if found.index in (Reason.UNMANAGED, Reason.DIRECT):
        return found.action, Reason(found.index).name.lower()
    return found.action, Reason(found.index).name.lower().replace("default_", "")


@SETTINGS
@given(strategies.policies(), strategies.hosts(), st.data())
def test_decides_as_the_naive_model(policy: Json, facts: Json, data: st.DataObject) -> None:
    wanted = accepted(policy)
    ruleset = compiled(wanted, facts)
    judge, model = Judge(ruleset), naive.Naive(policy, facts, strategies.TODAY)
    for connection in data.draw(st.lists(strategies.connections(facts), min_size=30, max_size=60)):
        assert decision(ruleset, judge, connection) == model.decide(*connection), connection


@SETTINGS
@given(strategies.policies(), strategies.hosts(), st.randoms(use_true_random=False))
def test_no_order_matters(policy: Json, facts: Json, chance: random.Random) -> None:
    wanted = accepted(policy)
    shuffled, moved = copy.deepcopy(policy), copy.deepcopy(facts)
    # Joining the lists of several group_vars files may repeat a rule.
    shuffled["rules"] += [rule for rule in copy.deepcopy(policy["rules"]) if chance.random() < 0.3]
    chance.shuffle(shuffled["rules"])
    for rule in shuffled["rules"]:
        for key in ("from", "to", "ports", "published"):
            if key in rule:
                chance.shuffle(rule[key])
    shuffled["groups"] = dict(chance.sample(sorted(shuffled["groups"].items()), len(shuffled["groups"])))
    chance.shuffle(moved["containers"])
    chance.shuffle(moved["networks"])
    other = normalise(shuffled)
    assert other == wanted
    assert compiled(other, moved).digest() == compiled(wanted, facts).digest()


@SETTINGS
@given(strategies.policies(), strategies.hosts())
def test_arrays_are_what_the_kernel_accepts(policy: Json, facts: Json) -> None:
    """Mirrors bw_draft_check() of kmod/draft.c."""
    ruleset = compiled(accepted(policy), facts)
    count = len(ruleset.identities)
    assert ruleset.identities[0] == (0, 0)
    assert count >= 3
    for cells, size in ((ruleset.cells4, 4), (ruleset.cells6, 16)):
        assert cells[0][0] == bytes(size)
        assert all(a[0] < b[0] for a, b in zip(cells, cells[1:]))
        assert all(a[1:] != b[1:] for a, b in zip(cells, cells[1:]))
        assert all(0 < cell[1] < count and 0 < cell[2] < count for cell in cells)
    for endpoints in (ruleset.endpoints4, ruleset.endpoints6):
        assert all(3 <= row[1] < count and row[2] for row in endpoints)
        assert len({row[0] for row in endpoints}) == len(endpoints)
    for prefixes, size in ((ruleset.prefixes4, 32), (ruleset.prefixes6, 128)):
        assert all(
            3 <= row[2] < count and 0 < row[1] <= size and row[3] < len(ruleset.routed) for row in prefixes
        )
        assert len({row[:2] for row in prefixes}) == len(prefixes)
        assert all(int.from_bytes(row[0], "big") & (1 << size - row[1]) - 1 == 0 for row in prefixes)
    assert len(set(ruleset.behind)) == len(ruleset.behind)
    assert all(number < len(ruleset.routed) and link and port for number, link, port in ruleset.behind)
    assert len({row[:4] for row in ruleset.publish}) == len(ruleset.publish)
    assert len({row[:2] for row in ruleset.pairs}) == len(ruleset.pairs)
    assert all(row[2] < len(ruleset.blocks) for row in ruleset.pairs)
    for first, length in ruleset.blocks:
        run = ruleset.spans[first : first + length]
        assert len(run) == length > 0
        assert all(lo <= hi <= 0xFFFFFF for lo, hi, _rule, _direct in run)
        assert all(a[1] < b[0] for a, b in zip(run, run[1:]))
    assert len({row[0] for row in ruleset.rules}) == len(ruleset.rules)
