# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy language: what is accepted, its normal form, and how every mistake is told."""

from __future__ import annotations

import copy
import datetime
import fnmatch
import ipaddress
import re
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, path_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import subtract
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    DEFAULTS,
    GUARD_BYTES,
    GUARDS,
    digest,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import (
    normalise,
    wanted_policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import (
    glob_escape,
    glob_match,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import (
    service_text,
    services,
)
from hypothesis import given
from hypothesis import strategies as st

Json = t.Dict[str, t.Any]

EXAMPLE: Json = {
    "mode": "enforce",
    "defaults": {"egress": "deny"},
    "groups": {
        "office": {"cidrs": ["10.10.10.0/24", "2001:db8:10::/64"], "except": ["10.10.10.66/32"]},
        "web": {"labels": {"tier": "web"}},
        "db": {"names": ["db-*"], "networks": ["backend"]},
        "app": {"query": "[?Labels.tier=='app' && State=='running']"},
    },
    "rules": [
        {"name": "office", "from": ["office"], "to": ["web"], "ports": ["8080/tcp"]},
        {"name": "api", "from": "world", "to": ["app"], "published": ["8443/tcp"]},
        {
            "name": "metadata",
            "action": "deny",
            "from": ["containers"],
            "to": ["169.254.169.254"],
            "log": True,
        },
    ],
}


def test_normal_form() -> None:
    found = normalise(EXAMPLE)
    assert normalise(found.as_dict()) == found
    assert [rule.name for rule in found.rules] == ["api", "metadata", "office"]
    assert found.rules[0].sources == ("world",)
    assert found.rules[1].targets == ("169.254.169.254/32",)
    assert dict(found.defaults) == dict(DEFAULTS, egress="deny")
    assert found.guards == tuple(sorted(GUARDS))
    assert "ports" not in found.as_dict()["rules"][0]


def test_empty_policy_is_closed() -> None:
    found = normalise({})
    assert (found.mode, found.rules, dict(found.defaults)["ingress"]) == ("enforce", (), "deny")


def test_digest_depends_on_meaning_only() -> None:
    other = copy.deepcopy(EXAMPLE)
    other["rules"].reverse()
    other["rules"].append(copy.deepcopy(other["rules"][0]))
    other["groups"]["office"]["cidrs"].reverse()
    other["defaults"]["ingress"] = "deny"
    assert digest(normalise(other)) == digest(normalise(EXAMPLE))
    other["rules"][0]["log"] = not other["rules"][0].get("log", False)
    other["rules"] = other["rules"][:3]
    assert digest(normalise(other)) != digest(normalise(EXAMPLE))


def refused(raw: t.Any) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        normalise(raw)
    return caught.value


RULE: Json = {"name": "r", "from": ["world"], "to": ["web"]}


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"prots": ["80/tcp"]}, "rules[0].prots", 'unknown key "prots" in the rule|Did you mean "ports"'),
        ({"name": None}, "rules[0].name", "must be a text"),
        ({"name": "ä" * 32}, "rules[0].name", "takes 64 bytes|63 bytes"),
        ({"name": "a\nb"}, "rules[0].name", "control characters"),
        ({"action": "alow"}, "rules[0].action", 'Did you mean "allow"'),
        ({"action": "queue"}, "rules[0]", "no queue is named"),
        ({"queue": {"num": 0}}, "rules[0].queue", "the action is allow"),
        ({"action": "queue", "queue": {"count": 2}}, "rules[0].queue", "no num"),
        ({"action": "queue", "queue": {"num": 65536}}, "rules[0].queue.num", "0 to 65535"),
        ({"action": "queue", "queue": {"num": 1, "count": 65536}}, "rules[0].queue.count", "1 to 65535"),
        ({"action": "queue", "queue": {"num": 1, "bypass": "yes"}}, "rules[0].queue.bypass", "true or false"),
        ({"action": "queue", "queue": {"number": 1}}, "rules[0].queue.number", "unknown key"),
        ({"from": []}, "rules[0].from", "empty|any"),
        ({"from": None}, "rules[0].from", "must be a list of strings, not empty"),
        ({"from": ["world", 5]}, "rules[0].from[1]", "must hold strings, not the number 5"),
        ({"to": ["wbe"]}, "rules[0].to[0]", 'no group "wbe"|Did you mean "web"|container:wbe'),
        ({"to": ["api.example.com"]}, "rules[0].to[0]", "names of hosts are no selectors|group with cidrs"),
        ({"to": ["*.example.com"]}, "rules[0].to[0]", "names of hosts are no selectors"),
        ({"to": ["web "]}, "rules[0].to[0]", "blanks"),
        ({"to": ["contaner:web"]}, "rules[0].to[0]", 'Did you mean "container"'),
        (
            {"to": ["container:w b"]},
            "rules[0].to[0]",
            r"as docker ps shows it; \* \? and \[a-z\] make a pattern",
        ),
        ({"to": ["container:w[z-a]"]}, "rules[0].to[0]", "is reversed"),
        ({"to": ["network:runner-[z-a]"]}, "rules[0].to[0]", "is reversed"),
        ({"to": ["compose:shop/[z-a]"]}, "rules[0].to[0]", "is reversed"),
        ({"to": ["label:tier"]}, "rules[0].to[0]", "label:KEY=VALUE"),
        ({"to": ["compose:shop"]}, "rules[0].to[0]", "compose:PROJECT/SERVICE"),
        ({"to": ["network:"]}, "rules[0].to[0]", "docker network ls"),
        (
            {"to": ["10.10.10.1/24"]},
            "rules[0].to[0]",
            r"write 10\.10\.10\.0/24 for the network or 10\.10\.10\.1/32",
        ),
        ({"to": ["10.10.10.0/33"]}, "rules[0].to[0]", "is no network"),
        ({"to": ["10.10.10.300"]}, "rules[0].to[0]", "is no network"),
        ({"to": ["2001:db8::1/64"]}, "rules[0].to[0]", "write 2001:db8::/64"),
        ({"to": ["fe80::1%eth0"]}, "rules[0].to[0]", "has a zone"),
        ({"to": ["::ffff:10.0.0.1"]}, "rules[0].to[0]", r"write 10\.0\.0\.1/32"),
        ({"ports": ["53"]}, "rules[0].ports[0]", "write 53/tcp or 53/udp"),
        ({"ports": [53]}, "rules[0].ports[0]", "write 53/tcp or 53/udp"),
        ({"ports": 53}, "rules[0].ports", "write 53/tcp or 53/udp"),
        ({"ports": []}, "rules[0].ports", "leave it out"),
        ({"ports": ["0/tcp"]}, "rules[0].ports[0]", "ports go from 1 to 65535"),
        ({"ports": ["70000/tcp"]}, "rules[0].ports[0]", "ports go from 1 to 65535"),
        ({"ports": ["90-80/tcp"]}, "rules[0].ports[0]", "write 80-90/tcp"),
        ({"ports": ["80/tpc"]}, "rules[0].ports[0]", 'Did you mean "tcp"'),
        ({"ports": ["80/icmp"]}, "rules[0].ports[0]", "use tcp, udp, sctp"),
        ({"ports": ["http"]}, "rules[0].ports[0]", "is no service"),
        ({"ports": ["icmp:256"]}, "rules[0].ports[0]", "ICMP types go from 0 to 255"),
        ({"ports": ["icmp:3/x"]}, "rules[0].ports[0]", "ICMP codes go from 0 to 255"),
        ({"ports": ["proto:256"]}, "rules[0].ports[0]", "IP protocols go from 0 to 255"),
        ({"published": ["icmp"]}, "rules[0].published[0]", "is no service"),
        ({"published": ["80/tcp"], "ports": ["80/tcp"]}, "rules[0].published", "both ports and published"),
        (
            {"published": ["80/tcp"], "from": ["containers"], "to": ["host"]},
            "rules[0].to",
            "name containers in to",
        ),
        ({"direct": "yes"}, "rules[0].direct", "must be true or false"),
        ({"direct": True, "action": "deny"}, "rules[0].direct", "deny holds for direct traffic anyway"),
        (
            {"direct": True, "published": ["80/tcp"]},
            "rules[0].direct",
            "does not come through a published port",
        ),
        ({"direct": True, "from": ["containers"]}, "rules[0].direct", "from outside to containers"),
        ({"log": 1}, "rules[0].log", "must be true or false"),
        (
            {"within": 5},
            "rules[0].within",
            "within cannot be the number 5|com.docker.compose.project, or write network",
        ),
        ({"within": ""}, "rules[0].within", "name a label"),
        ({"within": ["network"]}, "rules[0].within", "cannot be a list"),
        ({"within": "stack=a"}, "rules[0].within", "a label's name alone|write within: stack"),
        ({"within": "label:stack"}, "rules[0].within", "write within: stack"),
        ({"within": "the stack"}, "rules[0].within", "remove the blanks"),
        ({"within": "stack"}, "rules[0].within", '"world" in from is none|name containers on both sides'),
        ({"within": "stack", "from": ["web", "office"]}, "rules[0].within", '"office" in from is none'),
        ({"within": "network", "from": ["web"], "to": ["any"]}, "rules[0].within", '"any" in to is none'),
        ({"within": "network", "from": ["web"], "to": ["host"]}, "rules[0].within", '"host" in to is none'),
        (
            {"within": "network", "from": ["web"], "to": ["10.0.0.0/8"]},
            "rules[0].within",
            '"10.0.0.0/8" in to',
        ),
        ({"until": 20270331}, "rules[0].until", "until cannot be the number 20270331|YYYY-MM-DD"),
        ({"until": ""}, "rules[0].until", "YYYY-MM-DD"),
        ({"until": "31.3.2027"}, "rules[0].until", "YYYY-MM-DD"),
        ({"until": "2027-02-30"}, "rules[0].until", 'there is no day "2027-02-30"'),
        ({"until": datetime.datetime(2027, 3, 31)}, "rules[0].until", "cannot be a time|YYYY-MM-DD"),
        ({"until": ["2027-03-31"]}, "rules[0].until", "cannot be a list"),
        ({"note": 4711}, "rules[0].note", "must be a text, not the number 4711"),
        ({"note": " "}, "rules[0].note", "must be a text"),
        ({"note": "a\nb"}, "rules[0].note", "control characters"),
        ({"note": "x" * 1001}, "rules[0].note", "more than 1000 bytes"),
        ({"to": ["world"]}, "rules[0]", "passes no guarded link"),
        ({"from": ["host"], "to": ["world"]}, "rules[0]", "passes no guarded link"),
    ],
)
def test_mistakes_in_a_rule(change: Json, path: str, words: str) -> None:
    error = refused(dict(EXAMPLE, rules=[dict(RULE, **change)]))
    assert path_text(error.path) == path
    assert path in str(error)
    for word in words.split("|"):
        with pytest.raises(PolicyError, match=word):
            raise error
    if "name" not in change:
        assert error.rule == "r"


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ([], "", "must be a mapping, not a list"),
        ({"rulez": []}, "rulez", 'Did you mean "rules"'),
        ({"placement": "forwrad"}, "placement", 'Did you mean "forward"'),
        ({"mode": "audti"}, "mode", 'Did you mean "audit"'),
        ({"defaults": {"ingres": "deny"}}, "defaults.ingres", 'Did you mean "ingress"'),
        ({"defaults": {"ingress": "drop"}}, "defaults.ingress", "use one of allow, deny, reject"),
        ({"defaults": {"ingress": "queue"}}, "defaults.ingress", "cannot be queue"),
        ({"log_group": 65536}, "log_group", "0 to 65535"),
        ({"log_defaults": 1}, "log_defaults", "true or false"),
        ({"defaults": []}, "defaults", "must be a mapping"),
        ({"rules": {}}, "rules", "must be a list"),
        ({"rules": ["x"]}, "rules[0]", "must be a mapping"),
        ({"rules": [{"from": "any", "to": "any"}]}, "rules[0]", "has no name"),
        ({"rules": [{"name": "x", "to": "any"}]}, "rules[0]", '"from" is missing'),
        ({"groups": {"world": {"cidrs": ["10.0.0.0/8"]}}}, "groups.world", "a word of the language"),
        ({"groups": {"10.0.0.1": {"cidrs": ["10.0.0.0/8"]}}}, "groups.10.0.0.1", "cannot be named"),
        ({"groups": {"a:b": {"cidrs": ["10.0.0.0/8"]}}}, "groups.a:b", "cannot be named"),
        ({"groups": {"g": {}}}, "groups.g", "selects nothing"),
        ({"groups": {"g": {"cidr": []}}}, "groups.g.cidr", 'Did you mean "cidrs"'),
        ({"groups": {"g": {"cidrs": ["10.0.0.0/8"], "names": ["x"]}}}, "groups.g", "make two groups"),
        ({"groups": {"g": {"except": ["10.0.0.0/8"]}}}, "groups.g.except", "except without cidrs"),
        (
            {"groups": {"g": {"cidrs": ["10.0.0.0/8"], "except": ["11.0.0.0/8"]}}},
            "groups.g.except[0]",
            "outside",
        ),
        (
            {"groups": {"g": {"cidrs": ["10.0.0.0/8"], "except": ["10.0.0.0/7"]}}},
            "groups.g.except",
            "leaves nothing",
        ),
        ({"groups": {"g": {"labels": {"v": 1.1}}}}, "groups.g.labels.v", "in quotes"),
        ({"groups": {"g": {"labels": {"v": True}}}}, "groups.g.labels.v", "in quotes"),
        ({"groups": {"g": {"labels": ["v"]}}}, "groups.g.labels", "must be a mapping"),
        ({"groups": {"g": {"query": "[?"}}}, "groups.g.query", "no JMESPath"),
        ({"groups": {"g": {"query": ["x"]}}}, "groups.g.query", "must be a JMESPath expression"),
        ({"guards": ["b" * 32]}, "guards[0]", "longer than 31 bytes"),
        ({"guards": ["*"]}, "guards[0]", "loopback"),
        ({"guards": ["br/x"]}, "guards[0]", "no network link"),
        ({"guards": ["br-[z-a]"]}, "guards[0]", "reversed"),
        ({"guards": [f"br{i}" for i in range(65)]}, "guards", "more than 64"),
        ({"unguarded": 5}, "unguarded", "must be a list of strings"),
        ({"unguarded": [""]}, "unguarded[0]", "blank"),
        ({"unguarded": ["br/x"]}, "unguarded[0]", "no network link"),
        ({"unguarded": ["b" * 32]}, "unguarded[0]", "longer than 31 bytes"),
        ({"unguarded": ["br[z-a]"]}, "unguarded[0]", "reversed"),
        ({"lifelines": {"name": "x"}}, "lifelines", "must be a list"),
        ({"lifelines": ["ssh"]}, "lifelines[0]", "must be a mapping"),
        ({"lifelines": [{"ports": ["22/tcp"]}]}, "lifelines[0]", "a lifeline has no name"),
        ({"lifelines": [{"name": "ssh"}]}, "lifelines[0]", "a lifeline has no ports"),
        ({"lifelines": [{"name": "ssh", "port": "22/tcp"}]}, "lifelines[0].port", 'Did you mean "ports"'),
        ({"lifelines": [{"name": "ssh", "ports": ["22"]}]}, "lifelines[0].ports[0]", "write 22/tcp"),
        (
            {"lifelines": [{"name": "ssh", "from": ["x"], "ports": ["22/tcp"]}]},
            "lifelines[0].from[0]",
            'no group "x"',
        ),
        (
            {"lifelines": [{"name": "a", "ports": ["22/tcp"]}, {"name": "a", "ports": ["23/tcp"]}]},
            "lifelines[1].name",
            "two different lifelines",
        ),
        ({"groups": {"g": {"networks": ["a[z-a]"]}}}, "groups.g.networks[0]", "reversed"),
    ],
)
def test_mistakes_elsewhere(raw: t.Any, path: str, words: str) -> None:
    error = refused(raw)
    assert path_text(error.path) == path
    assert words in str(error)
    assert error.hint


@pytest.mark.parametrize(
    ("raw", "path", "hint"),
    [
        ({}, "mode", "audit.*enforce"),
        ({"mode": None, "rules": []}, "mode", "audit.*enforce"),
        ({"mode": "enforce"}, "rules", "bridgewarden_enforce_empty"),
        ({"mode": "enforce", "groups": EXAMPLE["groups"], "rules": []}, "rules", "bridgewarden_mode: audit"),
    ],
)
def test_a_mode_is_chosen_and_enforce_needs_a_rule(raw: Json, path: str, hint: str) -> None:
    with pytest.raises(PolicyError) as caught:
        wanted_policy(raw)
    assert path_text(caught.value.path) == path
    assert re.search(hint, caught.value.hint), caught.value.hint
    assert normalise({key: value for key, value in raw.items() if value is not None})


def test_what_is_wanted_all_the_same() -> None:
    assert wanted_policy({"mode": "audit"}).rules == ()
    assert wanted_policy({"mode": "enforce"}, enforce_empty=True).mode == "enforce"
    assert wanted_policy(EXAMPLE) == normalise(EXAMPLE)


def test_the_later_keys_have_a_normal_form() -> None:
    rule = {
        "name": "r",
        "from": ["web"],
        "to": ["db"],
        "within": "stack",
        "until": datetime.date(2027, 3, 31),
        "note": "OPS-1",
    }
    lifeline = {"name": "ssh", "ports": ["22/tcp"]}
    raw = dict(EXAMPLE, rules=[rule], unguarded=["br0"], lifelines=[lifeline, dict(lifeline)])
    found = normalise(raw)
    assert normalise(found.as_dict()) == found
    assert (found.rules[0].within, found.rules[0].until, found.rules[0].note) == (
        "stack",
        "2027-03-31",
        "OPS-1",
    )
    assert found.lifelines[0].targets == ("host",)
    assert found.as_dict()["unguarded"] == ["br0"]
    assert digest(found) != digest(normalise(dict(raw, rules=[{**rule, "note": "OPS-2"}])))


def test_a_policy_without_the_later_keys_keeps_its_digest() -> None:
    """What was committed before an update is in force after it, too."""
    assert set(normalise(EXAMPLE).as_dict()) == {
        "mode", "placement", "log_group", "log_defaults", "defaults", "groups", "rules", "guards",
    }  # fmt: skip


def test_an_exception_for_some_time_is_no_contradiction() -> None:
    deny = dict(RULE, name="d", action="deny", until="2027-03-31")
    assert len(normalise(dict(EXAMPLE, rules=[RULE, deny])).rules) == 2
    assert "says allow" in str(refused(dict(EXAMPLE, rules=[dict(RULE, until="2027-03-31"), deny])))


def test_names_are_unique_but_repetition_is_no_mistake() -> None:
    assert len(normalise({"groups": EXAMPLE["groups"], "rules": [RULE, dict(RULE)]}).rules) == 1
    error = refused({"groups": EXAMPLE["groups"], "rules": [RULE, dict(RULE, log=True)]})
    assert (path_text(error.path), error.rule) == ("rules[1].name", "r")
    assert "rules[0]" in str(error)


@pytest.mark.parametrize(("first", "second"), [("allow", "deny"), ("reject", "allow"), ("reject", "deny")])
def test_contradiction(first: str, second: str) -> None:
    rules = [
        dict(RULE, name="a", action=first, ports=["80/tcp"]),
        dict(RULE, name="b", action=second, ports="80/tcp"),
    ]
    error = refused({"groups": EXAMPLE["groups"], "rules": rules})
    assert "the very same traffic" in str(error)
    loser = max((first, second), key=["deny", "reject", "allow"].index)
    assert error.rule == ("a" if loser == first else "b")


# Services


@pytest.mark.parametrize(
    ("text", "lo", "hi"),
    [
        ("8080/tcp", 0x061F90, 0x061F90),
        ("8000-8100/udp", 0x111F40, 0x111FA4),
        ("9/sctp", 0x840009, 0x840009),
        ("tcp", 0x060000, 0x06FFFF),
        ("icmp", 0x010000, 0x01FFFF),
        ("icmp:8", 0x010800, 0x0108FF),
        ("icmp:3/4", 0x010304, 0x010304),
        ("icmpv6:128", 0x3A8000, 0x3A80FF),
        ("proto:47", 0x2F0000, 0x2FFFFF),
        ("proto:6", 0x060000, 0x06FFFF),
    ],
)
def test_service(text: str, lo: int, hi: int) -> None:
    assert services([text]) == ((lo, hi),)
    normal = service_text((lo, hi))
    assert services([normal]) == ((lo, hi),)
    assert normal == ("tcp" if text == "proto:6" else text)


def test_services_merge() -> None:
    assert services([]) == ((0, 0xFFFFFF),)
    assert services(["80/tcp", "81/tcp", "80-90/tcp", "53/udp"]) == (
        (0x060050, 0x06005A),
        (0x110035, 0x110035),
    )


# Addresses

networks = st.builds(
    lambda address, prefix: ipaddress.ip_network((address, prefix), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(networks, max_size=5), st.lists(networks, max_size=5), st.lists(st.integers(0, 2**32 - 1)))
def test_subtract(inside: t.Any, outside: t.Any, samples: t.List[int]) -> None:
    found = subtract(inside, outside)
    assert all(a[2] < b[1] for a, b in zip(found, found[1:]))
    edges = [int(n.network_address) for n in (*inside, *outside)] + [
        int(n.broadcast_address) for n in (*inside, *outside)
    ]
    for number in [*samples, *edges]:
        address = ipaddress.IPv4Address(number)
        wanted = any(address in n for n in inside) and not any(address in n for n in outside)
        assert any(lo <= number <= hi for _v, lo, hi in found) == wanted


# Guards

names = st.text(alphabet="br-04afgz.*?[]!\\", max_size=8)


@given(names)
def test_escaped_name_matches_itself_only(name: str) -> None:
    pattern = glob_escape(name)
    assert glob_match(pattern, name)
    assert not glob_match(pattern, name + "x")
    assert not glob_match(pattern, "x" + name)


@given(st.text(alphabet="br-04a*?", max_size=6), st.text(alphabet="br-04a", max_size=6))
def test_glob_as_fnmatch_where_both_agree(pattern: str, name: str) -> None:
    assert glob_match(pattern, name) == fnmatch.fnmatchcase(name, pattern)


@pytest.mark.parametrize(
    ("name", "guarded"),
    [
        ("docker0", True),
        ("docker_gwbridge", True),
        ("br-0123456789ab", True),
        ("br-ffffffffffff", True),
        ("br-lan", False),
        ("br-management1", False),
        ("br-0123456789abc", False),
        ("eth0", False),
        ("virbr0", False),
        ("brq01234567-89", False),
    ],
)
def test_default_guards(name: str, guarded: bool) -> None:
    assert any(glob_match(pattern, name) for pattern in GUARDS) == guarded
    assert all(len(pattern) <= GUARD_BYTES for pattern in GUARDS)


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "mode", "defaults", "groups", "rules", "guards", "name", "from", "to", "ports", "cidrs", "labels", "any",
            "within", "until", "note", "unguarded", "lifelines", "networks",
        ]), inner, max_size=4),
    max_leaves=20,
))  # fmt: skip
def test_any_input_gives_a_policy_or_a_policy_error(raw: t.Any) -> None:
    try:
        found = normalise(raw)
    except PolicyError as error:
        assert str(error)
    else:
        assert normalise(found.as_dict()) == found
