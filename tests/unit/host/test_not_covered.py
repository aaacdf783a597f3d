# SPDX-License-Identifier: GPL-3.0-or-later
"""What no rule can judge, as rows."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.not_covered import not_covered

from tests.unit.make import NOWHERE, attached, container, facts, network

HOST = container("exporter", {"host": attached(**NOWHERE)}, NetworkMode="host")


def rows(found: Any, placement: str = "forward", unguarded: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    return [(row["what"], row["name"]) for row in not_covered(found, placement, unguarded)]


def test_a_host_of_bridges_has_no_gap() -> None:
    web = container("web", {"front": attached("172.18.0.2")})
    ends = [network("none", Driver="null", Bridge=None), network("host", Driver="host", Bridge=None)]
    assert rows(facts([web], [network("front"), *ends])) == []


def test_containers_on_the_hosts_network() -> None:
    sidecar = container("sidecar", NetworkMode="container:id-exporter")
    behind = container("behind", NetworkMode="container:id-web")
    ended = container("ended", NetworkMode="host", Pid=0, State="exited")
    found = facts([HOST, sidecar, behind, ended, container("web")], [network("front")])
    assert rows(found) == [("host network", "exporter"), ("host network", "sidecar")]


@pytest.mark.parametrize(("placement", "expected"), [("forward", 2), ("postrouting", 2), ("container", 0)])
def test_children_of_a_parent_are_judged_inside_only(placement: str, expected: int) -> None:
    networks = [
        network(driver, Driver=driver, Bridge=None, Parent="eth0", ParentIndex=2)
        for driver in ("macvlan", "ipvlan")
    ]
    assert len(rows(facts([], networks), placement)) == expected


def test_networks_that_pass_elsewhere() -> None:
    networks = [
        network("ov", Driver="overlay", Bridge=None),
        network("weave", Driver="weaveworks/net-plugin:latest", Bridge=None),
        network("rootless", BridgeIndex=None),
        network("left", Bridge="br-left"),
        network("front"),
    ]
    found = not_covered(facts([], networks), "forward", ["br-le*"])
    assert [(row["what"], row["name"]) for row in found] == [
        ("bridge elsewhere", "rootless"),
        ("overlay network", "ov"),
        ("unguarded bridge", "left"),
        ("unknown driver", "weave"),
    ]
    assert all(row["why"] and row["hint"] for row in found)
    assert "weaveworks" in found[-1]["why"]


def test_bridges_that_the_kernel_does_not_guard() -> None:
    networks = [
        network("front"),
        network("lan", Bridge="br0", BridgeIndex=7),
        network("left", Bridge="br-left", BridgeIndex=8),
    ]
    where = facts([], networks, default_route_links=["br0"])
    found = not_covered(where, "forward", ["br-left"], (5,))
    assert [(row["what"], row["name"]) for row in found] == [
        ("bridge without a guard", "lan"),
        ("unguarded bridge", "left"),
    ]
    assert "default route goes over br0" in found[0]["why"] and "bridgewarden_unguarded" in found[0]["hint"]
    assert not_covered(where, "forward", ["br-left"], (5, 7, 8)) == found[1:]
