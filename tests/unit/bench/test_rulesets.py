# SPDX-License-Identifier: GPL-3.0-or-later
"""The benchmark's rulesets judge its packets as it says: a wrong verdict would be a wrong figure."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import replace

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX, Action, Kind, Reason
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, judge

from bench import guest, plans, rulesets


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


@pytest.mark.parametrize("client, container", [("172.18.0.1", "172.18.0.2"), ("fd00:18::1", "fd00:18::2")])
@pytest.mark.parametrize("action", [Action.ALLOW, Action.DENY])
def test_of_bridged_packets_too(client: str, container: str, action: Action) -> None:
    found = rulesets.ruleset(50, action, bridged=True)
    asked = Connection(client, container, rulesets.UDP, rulesets.PORT, source_kind=Kind.GUARDED)
    decision = judge(found, asked)
    assert (decision.action, decision.index) == (action.name.lower(), REASON_MAX + 49)
    from_outside = judge(found, replace(asked, source_kind=Kind.WORLD))
    assert (from_outside.action, from_outside.reason) == ("deny", Reason.DEFAULT_INGRESS)


@pytest.mark.parametrize("version", [4, 6])
def test_of_the_host_and_through_docker_proxy(version: int) -> None:
    found = rulesets.ruleset(50)
    container, gateway = guest.CONTAINER[version][0], guest.GATEWAY[version]
    own = Connection(gateway, container, rulesets.UDP, rulesets.PORT, source_kind=Kind.HOST)
    assert judge(found, own).index == REASON_MAX + 49
    assert guest.PROXY_PORT == rulesets.PROXY_PORT != guest.UNJUDGED_PORT
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    (socket_,) = [row for row in found.publish if row[0] == family]
    assert socket_[1:3] == (rulesets.UDP, guest.PROXY_PORT) and socket_[4] == family
    assert socket_[6] == guest.CONTAINER[version][1]
    assert socket_[7].rstrip(b"\0") == ipaddress.ip_address(container).packed
    assert not rulesets.ruleset(50, guard="br-elsewhere", link=0).publish


def test_sizes() -> None:
    found = rulesets.ruleset(1000)
    assert len(found.endpoints4) == len(found.endpoints6) == len(found.rules) == 1000
    assert len(found.pairs) == 1001, "and the host's"
    assert len({row[0] for row in found.endpoints4}) == 1000


@pytest.mark.parametrize("names", [("1000", "1000 group")])
def test_what_is_swapped_permits_and_forbids_the_same(names: tuple[str, str]) -> None:
    for name in names:
        found = plans.RULESETS[name]()
        asked = [
            judge(found, Connection("10.9.0.1", "172.18.0.2", rulesets.UDP, port)).action for port in (80, 81)
        ]
        assert asked == ["allow", "deny"]


def test_plans_name_what_there_is() -> None:
    for plan in plans.PLANS.values():
        assert plans.rulesets_of(plan) <= set(plans.RULESETS)
    assert plans.rulesets_of(plans.SWAPS) == {"1000", "1000 group", "100000", "100000 group"}
