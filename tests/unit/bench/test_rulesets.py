# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rulesets judge its packets as it says: a wrong verdict would be a wrong figure."""

from __future__ import annotations

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import Connection, judge
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import REASON_MAX, Action

from bench import plans, rulesets


@pytest.mark.parametrize("client, container", [("10.9.0.1", "172.18.0.2"), ("fd00:9::1", "fd00:18::2")])
@pytest.mark.parametrize("prefixes", [0, 100])
@pytest.mark.parametrize("action", [Action.ALLOW, Action.DENY])
def test_the_last_rule_decides(client: str, container: str, prefixes: int, action: Action) -> None:
    found = rulesets.ruleset(50, action, prefixes)
    decision = judge(found, Connection(client, container, rulesets.UDP, rulesets.PORT))
    assert (decision.action, decision.index) == (action.name.lower(), REASON_MAX + 49)
    if prefixes and action == Action.ALLOW:
        elsewhere = "192.0.2.9" if "." in client else "2001:db8::9"
        outside = judge(found, Connection(elsewhere, container, rulesets.UDP, rulesets.PORT))
        assert outside.action == "deny"


def test_sizes() -> None:
    found = rulesets.ruleset(1000)
    assert len(found.endpoints4) == len(found.endpoints6) == len(found.rules) == len(found.pairs) == 1000
    assert len({row[0] for row in found.endpoints4}) == 1000


def test_plans_name_what_there_is() -> None:
    for plan in plans.PLANS.values():
        for entry in plan:
            for step in entry["steps"]:
                assert step[0] != "ruleset" or step[1] in plans.RULESETS
