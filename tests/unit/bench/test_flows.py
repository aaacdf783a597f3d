# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows have as many client addresses as they say, within the clients' network, and new ones are new."""

from __future__ import annotations

import ipaddress

import pytest

from bench import guest, plans
from bench.flows import FLOWS, Flow
from bench.rulesets import CLIENTS

#: inject.c's.
FIRST_PORT = 1024


def addresses(flow: Flow) -> list[tuple[int, int]]:
    """Address and port of each, counted from the first address, as inject.c makes them."""
    count = flow.connections or flow.packets
    numbers = range(flow.first, flow.first + count)
    return [(number // flow.ports, FIRST_PORT + number % flow.ports) for number in numbers]


@pytest.mark.parametrize("name", FLOWS)
def test_addresses(name: str) -> None:
    flow = FLOWS[name]
    made = addresses(flow)
    assert len(set(made)) == (flow.connections or flow.packets)
    assert len({address for address, _ in made}) == flow.clients
    assert max(port for _, port in made) < 1 << 16
    if flow.bridged:
        assert {address for address, _ in made} == {0}, "the ruleset knows one sender"
        return
    for family in (4, 6):
        first = ipaddress.ip_address(guest.CLIENT[family])
        assert first + max(address for address, _ in made) in CLIENTS[family]


@pytest.mark.parametrize("bridged", [False, True])
def test_new_flows_are_not_established(bridged: bool) -> None:
    alike = [flow for flow in FLOWS.values() if flow.bridged == bridged and not flow.local]
    old = {one for flow in alike if flow.established for one in addresses(flow)}
    assert not old & {one for flow in alike if not flow.established for one in addresses(flow)}


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", FLOWS)
def test_the_answer_goes_back(name: str, family: int) -> None:
    flow = FLOWS[name]
    begin, end, client, server = guest.ends(family, flow, False)
    there, here, back, answered = guest.ends(family, flow, True)
    assert (there, here, back) == (end, begin, client) and begin != end
    assert ("host" in (begin, end)) is flow.local
    # Behind DNAT it answers by its own address.
    assert answered == (guest.CONTAINER[family] if flow.path == "routed" else server)
    assert client != server[0]


@pytest.mark.parametrize("name", plans.PLANS)
def test_no_routed_packet_behind_a_bridged_one(name: str) -> None:
    """br_netfilter's hooks stay where a bridge has been, and would be counted."""
    if name == "swap":
        return
    paths = []
    for one in plans.PLANS[name]:
        (path,) = {FLOWS[flow].bridged for flow in one["flows"]}
        paths.append(path)
    assert paths == sorted(paths)
