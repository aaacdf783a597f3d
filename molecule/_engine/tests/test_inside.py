# SPDX-License-Identifier: GPL-3.0-or-later
"""Placement container with Docker's own networks: macvlan and ipvlan, and a bridge without br_netfilter's settings.

Namespaces that come and go under load, and what hooks where: kmod/tests/inside.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ALPHA, OFFICE, Bench

#: Container: IPv4, IPv6
MEMBERS = {
    "mac1": {4: "10.10.10.50", 6: "2001:db8:10::50"},
    "mac2": {4: "10.10.10.51", 6: "2001:db8:10::51"},
    "ip1": {4: "10.10.11.50", 6: "2001:db8:11::50"},
    "ip2": {4: "10.10.11.51", 6: "2001:db8:11::51"},
}
#: The office's second address, on the ipvlan's subnet.
OFFICE2 = {4: "10.10.11.3", 6: "2001:db8:11::3"}
SETTINGS = "sysctl -qw net.bridge.bridge-nf-call-iptables={0} net.bridge.bridge-nf-call-ip6tables={0}"
NETWORK = """docker network create -d {driver} -o parent={parent} --ipv6 \\
    --subnet 10.10.{third}.0/24 --gateway 10.10.{third}.3 --subnet 2001:db8:{third}::/64 --gateway 2001:db8:{third}::3 {driver}"""
#: way: (from, to, port)
WAYS = {
    "office to macvlan": ("office", MEMBERS["mac1"], 8080),
    "stranger to macvlan": ("stranger", MEMBERS["mac1"], 8080),
    "macvlan to macvlan": ("mac2", MEMBERS["mac1"], 8080),
    "macvlan to office": ("mac2", OFFICE, 7300),
    "office to ipvlan": ("office", MEMBERS["ip1"], 8080),
    "ipvlan to ipvlan": ("ip2", MEMBERS["ip1"], 8080),
    "ipvlan to office": ("ip2", OFFICE2, 7300),
    "same bridge": ("beta", ALPHA, 8080),
}
RULES = {
    "office to macvlan": {"from": ["10.10.10.3/32", "2001:db8:10::3/128"], "to": ["container:mac1"]},
    "macvlan to macvlan": {"from": ["container:mac2"], "to": ["container:mac1"]},
    "macvlan to office": {"from": ["container:mac2"], "to": ["10.10.10.3/32", "2001:db8:10::3/128"]},
    "office to ipvlan": {"from": ["10.10.11.3/32", "2001:db8:11::3/128"], "to": ["container:ip1"]},
    "ipvlan to ipvlan": {"from": ["container:ip2"], "to": ["container:ip1"]},
    "ipvlan to office": {"from": ["container:ip2"], "to": ["world"]},
    "same bridge": {"from": ["container:beta"], "to": ["container:alpha"]},
}


def world(bench: Bench) -> None:
    bench.sh(
        command="""
        ip link add up1 type veth peer name up1 netns lan
        ip link set up1 up; ip -n lan link set up1 master lan0 up
        ip -n office address add 10.10.11.3/24 dev eth0
        ip -n office address add 2001:db8:11::3/64 dev eth0 nodad"""
    )
    bench.sh(command=NETWORK.format(driver="macvlan", parent="up0", third=10))
    bench.sh(command=NETWORK.format(driver="ipvlan", parent="up1", third=11))
    for name, address in MEMBERS.items():
        network = "macvlan" if name.startswith("mac") else "ipvlan"
        bench.sh(
            command=f"""docker run -d --name {name} --network {network} --ip {address[4]} --ip6 {address[6]} \\
                bw-shop {name} tcp:8080"""
        )
    bench.listen(at="office", port=7300)


def away(bench: Bench) -> None:
    bench.sh(
        command=f"""
        docker rm -f {" ".join(MEMBERS)}; docker network rm macvlan ipvlan; ip link del up1
        ip -n office address del 10.10.11.3/24 dev eth0; ip -n office address del 2001:db8:11::3/64 dev eth0
        {SETTINGS.format(1)}"""
    )


@pytest.fixture(scope="module")
def tried(bench: Bench) -> Any:
    def reach() -> dict[str, str]:
        return dict(zip(WAYS, bench.reach(*WAYS.values()), strict=True))

    world(bench)
    found: dict[str, Any] = {}
    try:
        bench.sh(command=SETTINGS.format(0))
        bench.commit(placement="container")
        found["closed"] = reach()
        rules = [{"name": way, "ports": ["8080/tcp", "7300/tcp"], **words} for way, words in RULES.items()]
        for each in rules:
            bench.commit(each, placement="container")
            found[each["name"]] = reach()
        # Not with -t 0: its SIGKILL may find no process any more, and ten seconds later dockerd takes the container, which
        # runs again, for exited (26.1.5; "task must be stopped before deletion: running").
        bench.sh(command="docker restart mac1 ip1")
        bench.commit(*rules, placement="container")
        found["all, restarted"] = reach()
        # Nothing but what the kernel closed itself: the number of the namespace is often the same again.
        bench.sh(command="docker restart mac1 ip1")
        bench.commit(*rules, placement="container")
        found["all, restarted twice"] = reach()
        found["explained"] = bench.explain(
            flows=[["mac2", "mac1", "8080/tcp", False], ["ip1", "ip2", "8080/tcp", False]]
        )
        # Last: what is dropped on the bridge is neighbour discovery, too, and others would find its failures.
        bench.commit()
        found["forward"] = reach()
    finally:
        away(bench)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_the_host_never_sees_it(tried: Any, way: str) -> None:
    """Everything is denied, and all of it passes: the other placements do not reach these. What crosses a guarded bridge unseen is
    dropped there."""
    got = tried["forward"][way]
    assert "open" not in got if way == "same bridge" else got == "open open"


@pytest.mark.parametrize("way", WAYS)
def test_closed(tried: Any, way: str) -> None:
    assert tried["closed"][way] == "timeout timeout"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", RULES)
def test_a_rule_opens_its_way_only(tried: Any, rule: str, way: str) -> None:
    assert tried[rule][way] == ("open open" if way == rule else "timeout timeout")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("when", ["all, restarted", "all, restarted twice"])
def test_after_restart(tried: Any, way: str, when: str) -> None:
    assert tried[when][way] == ("open open" if way in RULES else "timeout timeout")


def test_explain_knows_the_children(tried: Any) -> None:
    said = [[(one["action"], one["rule"]) for one in answers] for answers in tried["explained"]]
    assert said[0] == [("allow", "macvlan to macvlan")] * 2
    assert {action for action, _ in said[1]} == {"deny"}
