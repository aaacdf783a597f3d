# SPDX-License-Identifier: GPL-3.0-or-later
"""Placement container: children of parent links are endpoints, and their parents guards."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    Plan,
    boot_plan,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import (
    _refuse_queue_inside,
    normalise,
)

from tests.unit.make import NOWHERE, Json, attached, container, facts, network

NAMESPACE = 4026532573
LAN = attached(
    "10.20.0.5", "2001:db8:20::5", **{**NOWHERE, "Parent": "eth0", "ParentIndex": 2, "Namespace": NAMESPACE}
)
FACTS = facts(
    [container("cam", {"lan": LAN}, NetworkMode="lan")],
    [network("lan", Driver="macvlan", Bridge=None, BridgeIndex=None, Parent="eth0", ParentIndex=2)],
)


def plan(placement: str, facts: Json = FACTS) -> Plan:
    rules = [
        {"name": "office sees cam", "from": ["10.10.0.0/16"], "to": ["container:cam"], "ports": ["80/tcp"]}
    ]
    return make_plan({"placement": placement, "rules": rules}, facts)


def test_a_child_is_an_endpoint_inside() -> None:
    ruleset = plan("container").ruleset
    assert ruleset.parents == ("eth0",)
    assert [row[2:] for row in ruleset.endpoints4 + ruleset.endpoints6] == [(2, NAMESPACE)] * 2


@pytest.mark.parametrize("placement", ["forward", "postrouting"])
def test_elsewhere_it_is_not(placement: str) -> None:
    found = plan(placement)
    assert (found.ruleset.parents, found.ruleset.endpoints4) == ((), [])
    assert any("placement container judges it inside" in warning for warning in found.warnings)


def test_before_docker_is_asked_any_link_may_be_a_parent() -> None:
    policy = {"placement": "container"}
    assert boot_plan(policy).ruleset.parents == ("*",)


def test_the_parents_are_part_of_the_digest() -> None:
    ruleset = plan("container").ruleset
    assert ruleset.digest() != dataclasses.replace(ruleset, parents=(), _cache={}).digest()


def test_a_queue_rule_is_refused_inside() -> None:
    policy = normalise({"placement": "container", "rules": [{"name": "q", "from": ["world"], "to": ["any"]}]})
    queued = dataclasses.replace(policy, rules=(dataclasses.replace(policy.rules[0], action="queue"),))
    with pytest.raises(PolicyError, match="placement container cannot"):
        _refuse_queue_inside(queued)
