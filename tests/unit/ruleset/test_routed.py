# SPDX-License-Identifier: GPL-3.0-or-later
"""Routed prefixes: groups of addresses that are behind containers, from the policy to what the kernel gets."""

from __future__ import annotations

import dataclasses
import ipaddress
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import MAX_PREFIXES, Identity, Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    boot_plan,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    PolicyError,
    SelectorError,
    path_text,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
    empty_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.incremental import Compiler
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, Judge
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import resolve

from tests.unit.make import NOWHERE, Json, attached, container, facts, network

VPN: Json = {"cidrs": ["10.13.13.0/24", "fd13::/64"], "behind": ["container:wireguard"]}
NETWORKS = [network("front", Bridge="br-front"), network("back", Bridge="br-back", BridgeIndex=6)]
WIREGUARD = container(
    "wireguard",
    {"front": attached("172.18.0.2", PortIndex=9), "back": attached("172.19.0.2", LinkIndex=6, PortIndex=10)},
    Labels={"role": "vpn"},
)
DB = container("db", {"front": attached("172.18.0.3", PortIndex=11)}, Labels={"role": "db"})
HOST = facts([WIREGUARD, DB], NETWORKS)


def plan(groups: Json, *rules: Json, where: Json = HOST, on_empty: str = "warn", **more: t.Any) -> Plan:
    policy = {"groups": groups, "rules": list(rules), **more}
    return make_plan(policy, where, CommitOptions(on_empty))


def rule(frm: str, to: str, **more: t.Any) -> Json:
    return {"name": f"{frm} {to}", "from": [frm], "to": [to], **more}


def readable(rows: t.Iterable[t.Tuple[bytes, int, int, int]]) -> t.List[t.Tuple[str, int]]:
    return [("%s/%d" % (ipaddress.ip_address(row[0]), row[1]), row[3]) for row in rows]


def verdict(ruleset: Ruleset, source: str, target: str, port: int = 5432, **more: t.Any) -> str:
    kinds = {"source_kind": Kind.GUARDED, "target_kind": Kind.GUARDED, **more}
    return Judge(ruleset).decide(Connection(source, target, 6, port, **kinds)).action


def test_prefixes_and_the_ports_of_the_containers() -> None:
    ruleset = plan({"vpn": VPN}, rule("vpn", "container:db")).ruleset
    assert readable(ruleset.prefixes4) == [("10.13.13.0/24", 0)]
    assert readable(ruleset.prefixes6) == [("fd13::/64", 0)]
    assert ruleset.behind == [(0, 5, 9), (0, 6, 10)]
    assert ruleset.routed == ("vpn",)


def test_a_network_or_a_group_narrows_the_ports() -> None:
    groups = {
        "gateways": {"labels": {"role": "vpn"}, "networks": ["back"]},
        "one": {"cidrs": ["10.1.0.0/16"], "behind": ["network:front"]},
        "two": {"cidrs": ["10.2.0.0/16"], "behind": ["gateways"]},
        "three": {"cidrs": ["10.3.0.0/16"], "behind": ["label:role=db", "gateways"]},
    }
    ruleset = plan(groups).ruleset
    assert ruleset.routed == ("one", "three", "two")
    assert ruleset.behind == [(0, 5, 9), (0, 5, 11), (1, 5, 11), (1, 6, 10), (2, 6, 10)]


def test_rules_about_it_and_class_defaults() -> None:
    found = plan({"vpn": VPN}, rule("vpn", "container:db", ports=["5432/tcp"])).ruleset
    assert verdict(found, "10.13.13.7", "172.18.0.3") == "allow"
    assert verdict(found, "fd13::7", "172.18.0.3") == "allow"
    assert verdict(found, "10.13.13.7", "172.18.0.3", 80) == "deny"
    assert verdict(found, "10.13.14.7", "172.18.0.3") == "deny"
    assert verdict(found, "172.18.0.3", "10.13.13.7") == "deny"
    assert verdict(found, "10.13.13.7", "203.0.113.9", 443, target_kind=Kind.WORLD) == "allow"
    assert verdict(found, "192.0.2.1", "10.13.13.7", source_kind=Kind.HOST) == "allow"
    # Its addresses outside are nobody's: the group means those behind its containers alone.
    assert verdict(found, "10.13.13.7", "172.18.0.3", source_kind=Kind.WORLD) == "deny"


def test_any_and_containers_mean_it_too() -> None:
    for word in ("any", "containers"):
        assert verdict(plan({"vpn": VPN}, rule(word, word)).ruleset, "10.13.13.7", "172.18.0.3") == "allow"


def test_outside_needs_direct() -> None:
    world = {"source_kind": Kind.WORLD, "direct": True}
    closed = plan({"vpn": VPN}, rule("world", "vpn")).ruleset
    opened = plan({"vpn": VPN}, rule("world", "vpn", direct=True)).ruleset
    assert verdict(closed, "203.0.113.9", "10.13.13.7", **world) == "deny"
    assert verdict(opened, "203.0.113.9", "10.13.13.7", **world) == "allow"


def test_a_deny_by_cidr_cuts_into_it() -> None:
    found = plan(
        {"vpn": VPN}, rule("vpn", "container:db"), rule("10.13.13.64/30", "container:db", action="deny")
    ).ruleset
    assert [verdict(found, f"10.13.13.{n}", "172.18.0.3") for n in (63, 64, 67, 68)] == [
        "allow", "deny", "deny", "allow"
    ]  # fmt: skip
    assert readable(found.prefixes4) == [("10.13.13.0/24", 0), ("10.13.13.64/30", 0)]


def test_the_longest_prefix_counts_and_a_cut_spares_the_inner_one() -> None:
    groups = {
        "pods": {"cidrs": ["10.13.0.0/16"], "behind": ["container:db"]},
        "vpn": {"cidrs": ["10.13.13.0/24"], "behind": ["container:wireguard"]},
    }
    found = plan(
        groups,
        rule("vpn", "container:db"),
        rule("10.13.13.0/25", "world", action="deny"),
        rule("pods", "host"),
    ).ruleset
    assert verdict(found, "10.13.13.7", "172.18.0.3") == "allow"
    assert verdict(found, "10.13.14.7", "172.18.0.3") == "deny"
    assert verdict(found, "10.13.13.7", "8.8.8.8", target_kind=Kind.WORLD) == "deny"
    assert ("10.13.13.0/25", 1) in readable(found.prefixes4)
    assert ("10.13.13.0/24", 0) not in readable(found.prefixes4)


def test_of_two_that_share_a_prefix_the_inner_group_has_it() -> None:
    groups = {
        "all": {"cidrs": ["10.1.0.0/16", "10.2.0.0/16"], "behind": ["container:db"]},
        "one": {"cidrs": ["10.1.0.0/16"], "behind": ["container:wireguard"]},
    }
    assert readable(plan(groups).ruleset.prefixes4) == [("10.1.0.0/16", 1), ("10.2.0.0/16", 0)]


def test_except_leaves_addresses_out() -> None:
    group = {"cidrs": ["10.13.0.0/16"], "except": ["10.13.0.0/17"], "behind": ["container:wireguard"]}
    assert readable(plan({"vpn": group}).ruleset.prefixes4) == [("10.13.128.0/17", 0)]


def test_without_its_container_it_stays_closed() -> None:
    where = facts([DB], NETWORKS)
    found = plan({"vpn": VPN}, rule("vpn", "container:db"), where=where)
    assert (readable(found.ruleset.prefixes4), found.ruleset.behind) == ([("10.13.13.0/24", 0)], [])
    assert verdict(found.ruleset, "10.13.13.7", "172.18.0.3") == "deny"
    (warning,) = [text for text in found.warnings if "vpn" in text and "matches nothing" in text]
    assert 'nobody is behind it: there is no container "wireguard"' in warning
    with pytest.raises(SelectorError, match="nobody is behind it"):
        plan({"vpn": VPN}, rule("vpn", "container:db"), where=where, on_empty="fail")
    plan({"vpn": VPN}, rule("vpn", "container:db"), where=where, on_empty="ignore")


def test_a_container_whose_port_is_not_known_is_not_behind_it() -> None:
    there = container("wireguard", {"front": attached("172.18.0.2", PortIndex=None)})
    found = plan({"vpn": VPN}, rule("vpn", "host"), where=facts([there], NETWORKS))
    assert found.ruleset.behind == []
    assert any("nobody is behind it" in text for text in found.warnings)


def test_the_agent_compiles_it_by_what_has_changed() -> None:
    """Containers of a group come and go: equal to a compilation from scratch, which happens once."""
    policy = normalise(
        {"groups": {"vpn": {**VPN, "behind": ["label:role=vpn"]}}, "rules": [rule("vpn", "label:role=db")]}
    )
    second = container("second", {"front": attached("172.18.0.9", PortIndex=12)}, Labels={"role": "vpn"})
    moved = container(
        "wireguard",
        {"front": attached("172.18.0.2", PortIndex=19)},
        Id=WIREGUARD["Id"],
        Labels={"role": "vpn"},
    )
    compiler = Compiler()
    seen = []
    for there in ([DB], [DB, WIREGUARD], [DB, WIREGUARD, second], [DB, second], [DB, second, moved], [DB]):
        where = {**facts(there, NETWORKS)}
        ruleset = compiler.compile(policy, where)
        scratch = compile_ruleset(policy, resolve(policy, where, "ignore"), where)
        assert (ruleset, ruleset.digest()) == (scratch, scratch.digest())
        seen.append([row[2] for row in ruleset.behind])
    assert seen == [[], [9, 10], [9, 12, 10], [12], [12, 19], []]
    assert compiler.from_scratch == 1


def test_a_child_is_behind_its_parent_inside() -> None:
    lan = attached("192.168.1.9", **{**NOWHERE, "Parent": "eth0", "ParentIndex": 2, "Namespace": 4026532573})
    where = facts(
        [container("ha", {"lan": lan})],
        [network("lan", Driver="macvlan", Bridge=None, BridgeIndex=None, Parent="eth0", ParentIndex=2)],
    )
    group = {"slaac": {"cidrs": ["2001:db8:204::/64"], "behind": ["container:ha"]}}
    assert plan(group, where=where, placement="container").ruleset.behind == [(0, 2, 4026532573)]
    outside = plan(group, rule("world", "slaac", direct=True), where=where)
    assert outside.ruleset.behind == []
    assert any("no address of it is behind a guard" in text for text in outside.warnings)


def test_at_boot_all_of_it_is_closed() -> None:
    ruleset = boot_plan({"groups": {"vpn": VPN}}).ruleset
    assert (len(ruleset.prefixes4), ruleset.behind) == (1, [])


def test_it_is_part_of_the_digests() -> None:
    one, other = plan({"vpn": VPN}), plan({"vpn": {**VPN, "cidrs": ["10.13.14.0/24"]}})
    moved = dataclasses.replace(one.ruleset, behind=[(0, 5, 12)], _cache={})
    assert len({one.ruleset.digest(), other.ruleset.digest(), moved.digest()}) == 3
    assert digest(normalise({"groups": {"vpn": VPN}})) != digest(
        normalise({"groups": {"vpn": {"cidrs": VPN["cidrs"]}}})
    )
    # What has none of it is what it was.
    assert empty_ruleset().to_sections() == [(14, bytes(8 * Identity.FIRST))]


def test_it_reads_as_it_is() -> None:
    (effective,) = plan({"vpn": VPN}, rule("vpn", "container:db")).effective
    assert effective["from"] == ["10.13.13.0/24, fd13::/64 behind wireguard"]
    (nobody,) = plan({"vpn": VPN}, rule("vpn", "container:db"), where=facts([DB], NETWORKS)).effective
    assert nobody["from"] == ["10.13.13.0/24, fd13::/64 behind nobody now"]


def test_the_normal_form_is_its_own() -> None:
    policy = normalise({"groups": {"vpn": {**VPN, "behind": "container:wireguard"}}})
    assert policy.as_dict()["groups"]["vpn"] == {**VPN, "behind": ["container:wireguard"]}
    assert normalise(policy.as_dict()) == policy


def test_too_many_prefixes_name_the_group() -> None:
    odd = ["10.%d.%d.%d/32" % (n >> 16, n >> 8 & 255, n & 255) for n in range(0, 2 * MAX_PREFIXES + 2, 2)]
    with pytest.raises(BridgewardenError, match="16385 routed prefixes, the kernel takes 16384") as caught:
        plan({"vpn": {"cidrs": odd, "behind": ["container:wireguard"]}})
    assert 'the group "vpn", which has 16385' in caught.value.hint


GROUP = {"cidrs": ["10.13.0.0/16"], "behind": ["container:wireguard"]}


@pytest.mark.parametrize(
    "group, where, problem",
    [
        ({**GROUP, "behind": []}, "groups.vpn.behind", "is empty"),
        ({**GROUP, "behind": ""}, "groups.vpn.behind", ""),
        ({**GROUP, "behind": 7}, "groups.vpn.behind", "must be"),
        ({**GROUP, "behind": {"container": "x"}}, "groups.vpn.behind", "must be"),
        ({**GROUP, "behind": [["container:x"]]}, "groups.vpn.behind[0]", "must hold strings"),
        ({**GROUP, "behind": ["world"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["host"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["any"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["wireguard"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["10.0.0.1"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["fd00::1"]}, "groups.vpn.behind[0]", "names no containers"),
        ({**GROUP, "behind": ["container:"]}, "groups.vpn.behind[0]", "can be no container's name"),
        ({**GROUP, "behind": ["label:x"]}, "groups.vpn.behind[0]", "is no label"),
        ({**GROUP, "behind": ["vpn"]}, "groups.vpn.behind[0]", "is a group of addresses"),
        ({**GROUP, "behind": ["office"]}, "groups.vpn.behind[0]", "is a group of addresses"),
        ({"behind": ["container:x"]}, "groups.vpn", ""),
        ({"behind": ["container:x"], "names": ["y"]}, "groups.vpn.behind", "has behind without cidrs"),
        ({**GROUP, "names": ["x"]}, "groups.vpn", "has both addresses"),
        ({**GROUP, "cidrs": ["0.0.0.0/0"]}, "groups.vpn.cidrs", "which no container can route"),
        ({**GROUP, "cidrs": ["127.0.0.1"]}, "groups.vpn.cidrs", "which no container can route"),
        ({**GROUP, "cidrs": ["224.0.0.251"]}, "groups.vpn.cidrs", "which no container can route"),
        ({**GROUP, "cidrs": ["::/0"]}, "groups.vpn.cidrs", "which no container can route"),
        ({**GROUP, "cidrs": ["fe80::/64"]}, "groups.vpn.cidrs", "which no container can route"),
        ({**GROUP, "cidrs": ["10.0.0.1/8"]}, "groups.vpn.cidrs[0]", "has bits of a host set"),
    ],
)
def test_what_is_refused_says_where(group: Json, where: str, problem: str) -> None:
    with pytest.raises(PolicyError) as caught:
        normalise({"groups": {"office": {"cidrs": ["192.0.2.0/24"]}, "vpn": group}})
    assert (path_text(caught.value.path)).startswith(where)
    assert problem in caught.value.problem
    assert caught.value.hint


@pytest.mark.parametrize(
    "one, other, what",
    [
        (["10.1.0.0/16"], ["10.1.0.0/16"], "have the same addresses"),
        (["10.1.0.0/16", "10.2.3.0/24"], ["10.2.0.0/16", "10.1.7.0/24"], "overlap in part"),
        (["10.1.0.0/16", "fd13::/64"], ["10.1.0.0/16", "fd14::/64"], "overlap in part"),
        (["fd13::/64"], ["fd13::/65", "fd13:0:0:0:8000::/65"], "have the same addresses"),
    ],
)
def test_groups_must_nest(one: t.List[str], other: t.List[str], what: str) -> None:
    groups = {
        "left": {"cidrs": one, "behind": ["container:a"]},
        "right": {"cidrs": other, "behind": ["container:b"]},
    }
    with pytest.raises(PolicyError, match=f'the groups "left" and "right", both behind containers, {what}'):
        normalise({"groups": groups})
    # Without behind addresses may be in as many groups as anybody likes.
    del groups["right"]["behind"]
    normalise({"groups": groups})


@pytest.mark.parametrize(
    "one, other",
    [
        (["10.1.0.0/16"], ["10.1.2.0/24"]),
        (["10.1.0.0/16", "fd13::/48"], ["fd13::/64"]),
        (["10.1.0.0/16"], ["10.2.0.0/16"]),
    ],
)
def test_nested_and_disjoint_ones_are_accepted(one: t.List[str], other: t.List[str]) -> None:
    groups = {
        "a": {"cidrs": one, "behind": ["container:a"]},
        "b": {"cidrs": other, "behind": ["container:b"]},
    }
    normalise({"groups": groups})


def test_nothing_is_published_for_it() -> None:
    with pytest.raises(PolicyError, match='nothing is published for "vpn"') as caught:
        normalise({"groups": {"vpn": VPN}, "rules": [rule("world", "vpn", published=["80/tcp"])]})
    assert "direct: true" in caught.value.hint
    assert caught.value.rule == "world vpn"
    # Beside containers neither: it would say less than it seems to.
    with pytest.raises(PolicyError, match="nothing is published"):
        normalise(
            {
                "groups": {"vpn": VPN},
                "rules": [
                    {"name": "r", "from": ["world"], "to": ["container:db", "vpn"], "published": ["80/tcp"]}
                ],
            }
        )


def test_from_outside_to_outside_is_not_what_it_means() -> None:
    """A group behind containers is no CIDR of the world's."""
    with pytest.raises(PolicyError, match="direct is about traffic from outside"):
        normalise({"groups": {"vpn": VPN}, "rules": [rule("vpn", "container:db", direct=True)]})
