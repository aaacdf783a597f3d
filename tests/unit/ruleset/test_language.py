# SPDX-License-Identifier: GPL-3.0-or-later
"""CIDRs mean outside, `within` relates both sides, `until` ends, and bridges are left out: what each compiles to and what is reported."""

from __future__ import annotations

import datetime
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    compile_ruleset,
    rule_key,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.incremental import Compiler
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import Connection, judge
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import (
    Clock,
    Resolution,
    resolve,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.sentences import sentence

from tests.unit.make import Json, attached, container, facts, network

PROJECT = "com.docker.compose.project"
FRONT = network("front", Subnets=["172.18.0.0/16", "fd00:1::/64"], Gateways=["172.18.0.1"])
OTHER = network("other", Subnets=["172.19.0.0/16"], BridgeIndex=6)
DB = container("db", {"front": attached("172.18.0.2", "fd00:1::2")})
STRANGER = container(
    "stranger",
    {"other": attached("172.19.0.2", Link="br-other", LinkIndex=6, PortIndex=10)},
    NetworkMode="other",
)
HOST = facts([DB, STRANGER], [FRONT, OTHER])
LAN = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]


def made(
    rules: t.Sequence[Json], host: Json = HOST, on_empty: str = "warn", clock: float = 0.0, **more: t.Any
) -> t.Tuple[Resolution, Ruleset]:
    policy = normalise({"mode": "enforce", "rules": list(rules), **more})
    found = resolve(policy, host, on_empty, Clock(clock))
    return found, compile_ruleset(policy, found, host)


def action(
    ruleset: Ruleset, source: str, target: str, kinds: str, port: int = 5432, direct: bool = False
) -> str:
    one, other = (Kind[kind.upper()] for kind in kinds.split())
    return judge(ruleset, Connection(source, target, 6, port, one, other, direct)).action


def rule(source: t.Any, target: t.Any, **more: t.Any) -> Json:
    return {"name": "r", "from": source, "to": target, "ports": ["5432/tcp"], **more}


# A CIDR means outside


def test_our_private_networks_let_no_other_stack_in() -> None:
    _found, ruleset = made([rule(["lan"], ["container:db"])], groups={"lan": {"cidrs": LAN}})
    assert action(ruleset, "10.1.2.3", "172.18.0.2", "world guarded") == "allow"
    assert action(ruleset, "172.19.0.2", "172.18.0.2", "guarded guarded") == "deny"


def test_nor_do_they_open_the_host() -> None:
    _found, ruleset = made([rule(["containers"], LAN)])
    assert action(ruleset, "172.18.0.2", "192.168.1.5", "guarded host") == "deny"
    _found, ruleset = made([rule(["containers"], ["192.168.1.5/32"])])
    assert action(ruleset, "172.18.0.2", "192.168.1.5", "guarded host") == "allow"
    assert action(ruleset, "172.18.0.2", "192.168.1.6", "guarded host") == "deny"


@pytest.mark.parametrize("forbid", ["deny", "reject"])
def test_a_deny_does_not_shrink(forbid: str) -> None:
    _found, ruleset = made(
        [rule(LAN, ["container:db"], action=forbid)],
        defaults={"inter_container": "allow", "from_host": "allow", "ingress": "allow"},
    )
    for source, kinds in (
        ("10.1.2.3", "world guarded"),
        ("172.19.0.2", "guarded guarded"),
        ("192.168.1.5", "host guarded"),
    ):
        assert action(ruleset, source, "172.18.0.2", kinds) == forbid
    assert action(ruleset, "203.0.113.1", "172.18.0.2", "world guarded") == "allow"


def test_multicast_stays_a_cidr() -> None:
    _found, ruleset = made([rule(["containers"], ["224.0.0.0/4"])])
    assert action(ruleset, "172.18.0.2", "224.0.0.251", "guarded guarded") == "allow"
    assert action(ruleset, "172.18.0.2", "224.0.0.251", "guarded host") == "allow"
    _found, ruleset = made([rule(["containers"], ["0.0.0.0/0"])])
    assert action(ruleset, "172.18.0.2", "224.0.0.251", "guarded host") == "deny"


def test_containers_addresses_by_cidr_are_nobody() -> None:
    for peer in ("172.18.0.2/32", "172.18.0.0/24", "fd00:1::/64"):
        found, ruleset = made([rule(["world", peer], ["containers"])])
        (text,) = found.warnings
        assert f'"{peer}" in from matches nothing' in text
        assert "write network:front" in text
        with pytest.raises(SelectorError, match="network:front"):
            made([rule(["world", peer], ["containers"])], on_empty="fail")
    assert made([rule(["containers"], ["172.18.0.1/32"])])[0].warnings == ()  # the host's own
    assert made([rule(["containers"], ["172.16.0.0/12"])])[0].warnings == ()  # wider
    assert made([rule(["172.18.0.0/24"], ["containers"], action="deny")])[0].warnings == ()


def test_one_of_several_cidrs_is_a_containers() -> None:
    found, ruleset = made(
        [rule(["lan"], ["containers"])], groups={"lan": {"cidrs": ["10.0.0.0/8", "172.19.0.0/24"]}}
    )
    assert "172.19.0.0/24 is within the network other" in found.warnings[0]
    assert action(ruleset, "10.0.0.1", "172.18.0.2", "world guarded") == "allow"
    assert action(ruleset, "172.19.0.9", "172.18.0.2", "world guarded") == "deny"


def test_a_rule_between_addresses_is_reported() -> None:
    found, ruleset = made([rule(LAN, ["198.51.100.0/24"])])
    assert "no container is on either side" in found.warnings[0]
    assert ruleset.pairs == []


def test_what_an_allow_covered_before_is_reported_with_what_to_write() -> None:
    rules = [
        rule(["lan"], ["container:db"]),
        rule(["containers"], ["0.0.0.0/0"], name="out"),
        rule(LAN, ["any"], name="no", action="deny"),
    ]
    found, _ruleset = made(rules, groups={"lan": {"cidrs": ["172.19.0.0/16", "10.0.0.0/8"]}})
    by_rule = {(one.rule, one.key): one for one in found.formerly}
    assert set(by_rule) == {("r", "from"), ("out", "to")}
    assert by_rule["r", "from"].containers == ("stranger(172.19.0.2)",)
    assert by_rule["r", "from"].write == ("network:other",)
    assert by_rule["out", "to"].containers == ("db(172.18.0.2)", "stranger(172.19.0.2)")
    text = by_rule["r", "from"].text()
    assert all(
        word in text for word in ('rule "r"', '"lan" in from', "stranger(172.19.0.2)", "network:other")
    )


def test_what_the_rule_names_otherwise_is_not_reported() -> None:
    assert made([rule(["containers", *LAN], ["container:db"])])[0].formerly == ()


def test_one_container_of_a_network_is_reported_by_its_name() -> None:
    twin = container(
        "twin", {"other": attached("172.19.0.3", Link="br-other", LinkIndex=6)}, NetworkMode="other"
    )
    found, _ruleset = made(
        [rule(["172.19.0.2/31"], ["container:db"])], facts([DB, STRANGER, twin], [FRONT, network("other")])
    )
    assert found.formerly[0].write == ("network:other",)
    found, _ruleset = made(
        [rule(["172.19.0.2/32"], ["container:db"])], facts([DB, STRANGER, twin], [FRONT, network("other")])
    )
    assert found.formerly[0].write == ("container:stranger",)


# Within


def stacks(count: int, **labels: str) -> Json:
    containers, networks = [], []
    for stack in range(count):
        networks.append(network(f"net{stack}", BridgeIndex=10 + stack))
        for place, tier in enumerate(("app", "db")):
            containers.append(
                container(
                    f"{tier}-{stack}",
                    {
                        f"net{stack}": attached(
                            f"10.200.{stack}.{place + 2}", LinkIndex=10 + stack, Link=f"br-net{stack}"
                        )
                    },
                    Labels={PROJECT: f"stack{stack}", "tier": tier, **labels},
                    NetworkMode=f"net{stack}",
                )
            )
    return facts(containers, networks)


OWN_DB = rule(["label:tier=app"], ["label:tier=db"], within=PROJECT)


@pytest.mark.parametrize("within", [PROJECT, "network"])
def test_each_stack_reaches_its_own_database(within: str) -> None:
    found, ruleset = made([{**OWN_DB, "within": within}], stacks(3))
    for one in range(3):
        for other in range(3):
            wanted = "allow" if one == other else "deny"
            assert action(ruleset, f"10.200.{one}.2", f"10.200.{other}.3", "guarded guarded") == wanted
    assert action(ruleset, "10.200.0.3", "10.200.0.2", "guarded guarded") == "deny"
    assert found.warnings == ()
    words = "within one network" if within == "network" else f"within the same {PROJECT}"
    assert words in sentence(found.effective()[0])


def test_a_deny_within() -> None:
    rules = [rule(["containers"], ["containers"], name="all"), {**OWN_DB, "action": "deny"}]
    _found, ruleset = made(rules, stacks(2))
    assert action(ruleset, "10.200.0.2", "10.200.0.3", "guarded guarded") == "deny"
    assert action(ruleset, "10.200.0.2", "10.200.1.3", "guarded guarded") == "allow"


def test_what_lacks_the_label_never_matches_and_is_not_split() -> None:
    host = stacks(3)
    for one in host["containers"]:
        del one["Labels"][PROJECT]
    found, ruleset = made([OWN_DB], host)
    assert ruleset.pairs == []
    assert f"no container of from has a value of the label {PROJECT}" in found.warnings[0]
    assert len({row[1] for row in ruleset.endpoints4}) == 1
    with pytest.raises(SelectorError):
        made([OWN_DB], host, on_empty="fail")


def test_the_pairs_grow_with_the_stacks_and_the_rule_stays_one() -> None:
    counts = {}
    for count in (30, 60):
        _found, ruleset = made([OWN_DB], stacks(count))
        counts[count] = (len(ruleset.rules), len(ruleset.pairs), len(ruleset.blocks), len(ruleset.spans))
    assert counts == {30: (1, 30, 1, 1), 60: (1, 60, 1, 1)}


def test_several_rules_of_one_relation_share_the_pairs() -> None:
    rules = [{**OWN_DB, "name": f"r{port}", "ports": [f"{port}/tcp"]} for port in (5432, 6379, 9000)]
    _found, ruleset = made(rules, stacks(30))
    assert (len(ruleset.pairs), len(ruleset.blocks), len(ruleset.spans)) == (30, 1, 3)


def test_containers_of_two_stacks_in_one_namespace() -> None:
    """A VPN's container and one of another stack that runs in its network: the address is of both stacks."""
    host = stacks(2)
    sidecar = container(
        "sidecar", NetworkMode="container:id-app-0", Labels={PROJECT: "stack1", "tier": "app"}
    )
    host["containers"].append(sidecar)
    _found, ruleset = made([OWN_DB], host)
    assert action(ruleset, "10.200.0.2", "10.200.0.3", "guarded guarded") == "allow"
    assert action(ruleset, "10.200.0.2", "10.200.1.3", "guarded guarded") == "allow"
    assert action(ruleset, "10.200.1.2", "10.200.0.3", "guarded guarded") == "deny"


# Until


def seconds(day: str, hour: int = 0) -> float:
    return datetime.datetime.fromisoformat(f"{day}T{hour:02}:00:00+00:00").timestamp()


TIMED = rule(["world"], ["container:db"], until="2027-03-31")


@pytest.mark.parametrize(
    ("now", "there"),
    [
        (("2027-03-30", 0), True),
        (("2027-03-31", 23), True),
        (("2027-04-01", 0), False),
        (("2030-01-01", 0), False),
    ],
)
def test_the_last_day_is_included(now: t.Tuple[str, int], there: bool) -> None:
    found, ruleset = made([TIMED], clock=seconds(*now))
    assert action(ruleset, "203.0.113.1", "172.18.0.2", "world guarded") == ("allow" if there else "deny")
    assert found.ended == (() if there else ("r",))
    assert (
        'rule "r": its last day was 2027-03-31: it counts as absent; remove it, or set until anew'
        in found.warnings
    ) != there
    assert len(ruleset.rules) == int(there)


def test_a_clock_that_stands_before_the_last_commit_ends_nothing() -> None:
    policy = normalise({"mode": "enforce", "rules": [TIMED]})
    found = resolve(policy, HOST, "ignore", Clock(0.0, seconds("2027-03-31", 12)))
    assert [one.rule.name for one in found.rules] == ["r"]
    assert "clock of this host stands before the last commit (2027-03-31)" in found.warnings[0]
    # What had ended by then does not come back.
    assert resolve(policy, HOST, "ignore", Clock(0.0, seconds("2027-04-01"))).ended == ("r",)


def test_a_note_changes_no_counter_and_an_until_is_shown() -> None:
    policy = normalise({"rules": [TIMED, {**TIMED, "name": "s", "note": "OPS-1"}]})
    assert rule_key(policy.rules[1]) == rule_key(normalise({"rules": [{**TIMED, "name": "s"}]}).rules[0])
    found, _ruleset = made([{**TIMED, "note": "OPS-1"}])
    assert found.effective()[0]["note"] == "OPS-1"
    assert sentence(found.effective()[0]).endswith(", until 2027-03-31")


# Bridges that are left out


def test_an_unguarded_bridge_is_no_guard_and_what_is_behind_it_is_outside() -> None:
    found, ruleset = made([rule(["world"], ["containers"])], unguarded=["br-other"])
    assert ruleset.guards == ("br-[0-f][0-f][0-f][0-f]????????", "br-front", "docker0", "docker_gwbridge")
    assert [row[2] for row in ruleset.endpoints4] == [5]
    assert made([rule(["172.19.0.0/24"], ["container:db"])], unguarded=["br-o*"])[0].warnings == ()


def test_a_guard_of_that_name_goes_and_a_pattern_that_matches_it_is_refused() -> None:
    assert "docker0" not in made([], unguarded=["docker0"])[1].guards
    for guards, unguarded in ((["br-*"], ["br-other"]), (["br-*"], ["br-o*"]), (["br-o?her"], ["br-other"])):
        with pytest.raises(PolicyError, match="matches the bridge br-other") as caught:
            made([], guards=guards, unguarded=unguarded)
        assert caught.value.path == ("unguarded",)


def test_a_container_that_comes_to_addresses_is_compiled_by_what_has_changed() -> None:
    """While it is away the rule is between addresses alone, which is no reason to take its clause away."""
    policy = normalise({"mode": "enforce", "rules": [rule(["world"], ["container:db", "198.51.100.0/24"])]})
    compiler = Compiler()
    for containers in ([STRANGER], [STRANGER, DB], [STRANGER]):
        where = facts(containers, [FRONT, OTHER])
        found = compiler.compile(policy, where)
        assert found == compile_ruleset(policy, resolve(policy, where, "ignore"), where)
