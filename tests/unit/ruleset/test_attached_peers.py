# SPDX-License-Identifier: GPL-3.0-or-later
"""What is attached to a network and is no container: how rules name it, and what holds for it without a rule."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, judge

from tests.unit.make import attached, attachment, container, facts, network

WEB, SIDE, BUILD, MESH, OUTSIDE = "172.17.0.2", "172.17.0.4", "172.17.0.3", "172.18.0.2", "192.0.2.9"
MIRROR = {"name": "mirror", "from": ["builds"], "to": ["container:web"], "ports": ["80/tcp"]}


def on(link: int, port: int, address: str) -> t.Dict[str, t.Any]:
    return attached(address, LinkIndex=link, PortIndex=port)


def host(**more: t.Any) -> t.Dict[str, t.Any]:
    web = container("web", {"bridge": on(4, 9, WEB)}, Labels={"tier": "web"})
    step = attachment("build", "build step ckmm1n2m4o6j", {"bridge": on(4, 10, BUILD)})
    mesh = attachment("mesh", "swarm-ingress", {"docker_gwbridge": on(5, 11, MESH)})
    networks = [
        network("bridge", Bridge="docker0", BridgeIndex=4, Subnets=["172.17.0.0/16"]),
        network("docker_gwbridge", Bridge="docker_gwbridge", Subnets=["172.18.0.0/16"]),
    ]
    return facts([web], networks, attachments=[step, mesh], **more)


def plan(*rules: t.Dict[str, t.Any], now: t.Any = None, fail: bool = False, **more: t.Any) -> Plan:
    options = CommitOptions(on_empty_selector="fail" if fail else "warn")
    return make_plan({"mode": "enforce", "rules": list(rules), **more}, now or host(), options)


def verdict(found: Plan, source: str, target: str, port: int = 80, kinds: t.Any = (Kind.GUARDED,) * 2) -> str:
    return judge(found.ruleset, Connection(source, target, 6, port, *kinds)).action


def test_a_build_step_has_the_network_that_the_defaults_give_containers() -> None:
    found = plan()
    assert verdict(found, BUILD, OUTSIDE, kinds=(Kind.GUARDED, Kind.WORLD)) == "allow"
    assert verdict(found, BUILD, WEB) == "deny"  # inter_container
    unknown = plan(now=dict(host(), attachments=[]))
    assert verdict(unknown, BUILD, OUTSIDE, kinds=(Kind.GUARDED, Kind.WORLD)) == "deny"  # unmanaged


def test_rules_name_build_steps_and_nobody_else_by_that() -> None:
    found = plan(MIRROR)
    assert verdict(found, BUILD, WEB) == "allow"
    assert verdict(found, BUILD, WEB, 81) == "deny"
    assert verdict(found, MESH, WEB) == "deny"
    assert "allow mirror: builds -> web(172.17.0.2) 80/tcp" in found.words


def test_rules_name_the_routing_mesh() -> None:
    rule = {"name": "mesh", "from": ["world"], "to": ["swarm-ingress"], "ports": ["8080/tcp"]}
    found = plan(rule)
    assert verdict(found, OUTSIDE, MESH, 8080, (Kind.WORLD, Kind.GUARDED)) == "allow"
    assert verdict(found, OUTSIDE, BUILD, 8080, (Kind.WORLD, Kind.GUARDED)) == "deny"


@pytest.mark.parametrize("peer", ["containers", "any", "network:bridge", "onbridge"])
def test_what_is_about_everybody_on_a_network_is_about_build_steps(peer: str) -> None:
    """A deny must not have holes."""
    rule = {"name": "metadata", "action": "deny", "from": [peer], "to": ["169.254.169.254/32"]}
    found = plan(rule, groups={"onbridge": {"networks": ["bridge"]}})
    assert verdict(found, BUILD, "169.254.169.254", kinds=(Kind.GUARDED, Kind.WORLD)) == "deny"
    assert verdict(found, BUILD, OUTSIDE, kinds=(Kind.GUARDED, Kind.WORLD)) == "allow"


@pytest.mark.parametrize(
    "group", [{"names": ["*"]}, {"networks": ["bridge"], "names": ["build*"]}, {"query": "[]"}]
)
def test_a_group_of_containers_has_no_build_steps(group: t.Dict[str, t.Any]) -> None:
    rule = {"name": "in", "from": ["g"], "to": ["container:web"]}
    assert verdict(plan(rule, groups={"g": group}), BUILD, WEB) == "deny"


def test_that_no_build_runs_is_nothing_to_report() -> None:
    quiet = dict(host(), attachments=[])
    found = plan(MIRROR, now=quiet, fail=True)
    assert not found.warnings and verdict(found, BUILD, WEB) == "deny"
    with pytest.raises(SelectorError):  # as it is for a container
        plan({**MIRROR, "to": ["container:nosuch"]}, now=quiet, fail=True)


def test_a_group_cannot_take_these_names() -> None:
    for word in ("builds", "swarm-ingress"):
        with pytest.raises(PolicyError, match="cannot be named"):
            plan(groups={word: {"cidrs": ["10.0.0.0/8"]}})


def test_an_endpoint_is_committed_with_its_port_or_not_at_all() -> None:
    """The kernel takes port 0 for unchecked: a neighbour could send from the newcomer's address."""
    now = host()
    assert len(plan(now=now).ruleset.endpoints4) == 3
    now["containers"][0]["Networks"]["bridge"].update(Port=None, PortIndex=None)
    now["attachments"][0]["Networks"]["bridge"].update(Port=None, PortIndex=None)
    assert [row[3] for row in plan(now=now).ruleset.endpoints4] == [11]


def test_one_that_shares_a_namespace_has_its_own_name_and_labels() -> None:
    owner = container("vpn", {"bridge": on(4, 9, WEB)}, Labels={"tier": "vpn"})
    side = container("side", {}, Labels={"tier": "torrent"}, NetworkMode=f"container:{owner['Id']}")
    other = container("other", {"bridge": on(4, 10, SIDE)})
    now = facts([owner, side, other], [network("bridge", Bridge="docker0", BridgeIndex=4)])
    for peer in ("container:side", "label:tier=torrent", "container:vpn", "label:tier=vpn"):
        found = plan({"name": "r", "from": ["container:other"], "to": [peer], "ports": ["80/tcp"]}, now=now)
        assert verdict(found, SIDE, WEB) == "allow"
        assert verdict(found, SIDE, WEB, 81) == "deny"
        assert not found.warnings
    query = {"g": {"query": "[?Name=='side']"}}
    assert verdict(plan({"name": "r", "from": ["container:other"], "to": ["g"]}, groups=query, now=now), SIDE, WEB) == "allow"  # fmt: skip
