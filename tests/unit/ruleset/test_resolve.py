# SPDX-License-Identifier: GPL-3.0-or-later
"""Who a selector means, what nobody is told about, and how it reads."""

from __future__ import annotations

import re
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import compile_ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import Resolution, resolve
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.sentences import sentence

from tests.unit.make import NOWHERE, Json, attached, container, facts, network, published

WEB = container(
    "web",
    {"front": attached("172.18.0.2", "fd00:1::2")},
    Labels={"tier": "web", "com.docker.compose.project": "shop", "com.docker.compose.service": "web"},
    Ports=[published(8081, 8080), published(8081, 8080, address="::"), published(5353, 53, "udp")],
)
DB = container(
    "db-1",
    {"front": attached("172.18.0.3"), "back": attached("172.19.0.3", LinkIndex=6)},
    Labels={"tier": "db"},
)
SIDECAR = container("sidecar", NetworkMode="container:id-web", Labels={"role": "sidecar"})
PROXY = container("proxy", {"host": attached(**NOWHERE)}, NetworkMode="host", Labels={"tier": "web"})
STOPPED = container("old", {"front": attached(**NOWHERE)}, State="exited", Labels={"tier": "old"})
VLAN = container(
    "vlan", {"lan": attached("192.168.1.9", **NOWHERE)}, NetworkMode="lan", Labels={"role": "vlan"}
)


NETWORKS = (
    network("front"),
    network("back", Internal=True, Bridge="br-0123456789ab", BridgeIndex=6),
    network("lan", Driver="macvlan", Bridge=None, BridgeIndex=None),
)


def shop(*containers: Json) -> Json:
    return facts(containers or (WEB, DB, SIDECAR, PROXY, STOPPED, VLAN), NETWORKS)


def resolved(peer: str, groups: t.Optional[Json] = None, on_empty: str = "warn", **rule: t.Any) -> Resolution:
    raw = {"groups": groups or {}, "rules": [dict({"name": "r", "from": ["world"], "to": [peer]}, **rule)]}
    return resolve(normalise(raw), shop(), on_empty)


def addresses(peer: str, groups: t.Optional[Json] = None) -> t.Set[str]:
    found = resolved(peer, groups, "ignore")
    if not found.rules[0].clauses:
        return set()
    return {found.host.endpoints[i].text for i in found.rules[0].clauses[0].target.endpoints}


WEB_ADDRESSES = {"172.18.0.2", "fd00:1::2"}
DB_ADDRESSES = {"172.18.0.3", "172.19.0.3"}
EVERY = WEB_ADDRESSES | DB_ADDRESSES


@pytest.mark.parametrize(
    ("peer", "wanted"),
    [
        ("any", EVERY),
        ("containers", EVERY),
        ("container:web", WEB_ADDRESSES),
        ("container:sidecar", WEB_ADDRESSES),
        ("container:old", set()),
        ("network:back", {"172.19.0.3"}),
        ("network:front", WEB_ADDRESSES | {"172.18.0.3"}),
        ("label:tier=web", WEB_ADDRESSES),
        ("label:tier=*", EVERY),
        ("label:role=sidecar", WEB_ADDRESSES),
        ("compose:shop/web", WEB_ADDRESSES),
        ("172.18.0.0/16", set()),
        ("172.18.0.3", set()),
        ("container:*b*", WEB_ADDRESSES | DB_ADDRESSES),
        ("container:db-?", DB_ADDRESSES),
        ("network:*", EVERY),
        ("network:[bf]*", EVERY),
        ("network:b*", {"172.19.0.3"}),
        ("compose:sh*/w?b", WEB_ADDRESSES),
        ("compose:*/*", WEB_ADDRESSES),
    ],
)
def test_selectors(peer: str, wanted: t.Set[str]) -> None:
    assert addresses(peer) == wanted


@pytest.mark.parametrize(
    ("group", "wanted"),
    [
        ({"names": ["db-*"]}, DB_ADDRESSES),
        ({"names": ["db-*"], "networks": ["back"]}, {"172.19.0.3"}),
        ({"labels": {"tier": "*"}, "names": ["w*"]}, WEB_ADDRESSES),
        ({"labels": {"tier": "web", "absent": "*"}}, set()),
        ({"query": "[?Labels.tier=='db' && State=='running']"}, DB_ADDRESSES),
        ({"query": "[?Labels.tier=='db'].Name"}, DB_ADDRESSES),
        ({"query": "[?Labels.tier=='db'].Id | [0]"}, DB_ADDRESSES),
        ({"query": "[?Labels.tier=='none']"}, set()),
        ({"query": "nothing.at.all"}, set()),
        ({"query": "[?Labels.tier=='db']", "names": ["web"]}, set()),
        ({"cidrs": ["172.18.0.0/16"], "except": ["172.18.0.3/32"]}, set()),
        ({"networks": ["ba*", "none-*"]}, {"172.19.0.3"}),
        ({"networks": ["*"], "labels": {"tier": "db"}}, DB_ADDRESSES),
    ],
)
def test_groups(group: Json, wanted: t.Set[str]) -> None:
    assert addresses("g", {"g": group}) == wanted


@pytest.mark.parametrize(
    ("peer", "words"),
    [
        ("container:wbe", 'there is no container "wbe".* Did you mean "web"'),
        ("container:old", "not running: old is exited"),
        ("network:bakc", 'there is no network "bakc".* Did you mean "back"'),
        ("label:tier=wbe", "no container fits"),
        ("compose:shop/wbe", 'Did you mean "shop/web"'),
        ("container:x-*", "no container fits"),
        ("network:runner-*", 'there is no network "runner-\\*"'),
        ("compose:job*/web", 'there is no compose service "job\\*/web"'),
        ("g", "no container fits"),
        ("n", 'there is no network "bakc".* Did you mean "back"'),
        ("container:proxy", "runs in the host's network: its traffic is judged as the host's"),
        ("label:role=vlan", "network lan, which has no bridge on this host"),
    ],
)
def test_selectors_that_match_nothing(peer: str, words: str) -> None:
    groups = {"g": {"names": ["x-*"]}, "n": {"names": ["*"], "networks": ["bakc"]}}
    found = resolved(peer, groups)
    assert found.rules[0].clauses == ()
    assert any(re.search(words, text) for text in found.warnings), found.warnings
    with pytest.raises(SelectorError) as caught:
        resolved(peer, groups, "fail")
    assert (caught.value.path, caught.value.rule) == (("rules", 0, "to"), "r")
    assert sentence(found.effective()[0]) == "allow r: world -> nobody all"


def test_host_network_in_a_wide_selector_is_told() -> None:
    found = resolved("label:tier=web")
    assert found.rules[0].clauses
    assert any("the container proxy runs in the host's network" in text for text in found.warnings)


def test_queries_that_return_something_else() -> None:
    with pytest.raises(PolicyError, match="does not return containers") as caught:
        resolved("g", {"g": {"query": "[].State"}})
    assert caught.value.path == ("groups", "g", "query")
    with pytest.raises(PolicyError, match="the query fails"):
        resolved("g", {"g": {"query": "abs(Labels)"}})


def test_published() -> None:
    found = resolved("containers", published=["8081/tcp", "5353/udp"])
    assert found.warnings == ()
    (clause,) = found.rules[0].clauses
    assert clause.services == ((0x060000 | 8080, 0x060000 | 8080), (0x110000 | 53, 0x110000 | 53))
    assert clause.target.words == ("web(172.18.0.2, fd00:1::2)",)
    assert sentence(found.effective()[0]) == (
        "allow r: world -> web(172.18.0.2, fd00:1::2) 53/udp (published as 5353), 8080/tcp (published as 8081)"
    )


@pytest.mark.parametrize(
    ("to", "published", "words"),
    [
        ("containers", "8080/tcp", "own port of web, for which the key is ports"),
        ("containers", "9999/tcp", "no container of to publishes 9999/tcp"),
        ("container:db-1", "8081/tcp", "it is published by web"),
        ("containers", "8081/udp", "no container of to publishes 8081/udp"),
    ],
)
def test_published_by_nobody(to: str, published: str, words: str) -> None:
    assert any(words in text for text in resolved(to, published=[published]).warnings)
    with pytest.raises(SelectorError):
        resolved(to, on_empty="fail", published=[published])


def test_two_holders_of_one_address() -> None:
    twin = container("twin", {"back": attached("172.18.0.2", LinkIndex=6)})
    found = resolve(normalise({}), shop(WEB, twin))
    assert "both have the address 172.18.0.2" in found.warnings[0]
    assert len([e for e in found.host.endpoints if e.text == "172.18.0.2"]) == 1


def test_containers_that_share_in_a_circle_or_with_a_stranger() -> None:
    one, two = container("a", NetworkMode="container:id-b"), container("b", NetworkMode="container:id-a")
    lost = container("c", NetworkMode="container:gone")
    policy = normalise({"rules": [{"name": "r", "from": ["container:a", "container:c"], "to": ["any"]}]})
    assert resolve(policy, shop(one, two, lost)).rules[0].clauses == ()


# What the compiler makes of the same facts


def test_guards_are_patterns_and_unmatched_bridges_of_docker() -> None:
    policy = normalise({})
    ruleset = compile_ruleset(policy, resolve(policy, shop()), shop())
    assert "br-front" in ruleset.guards
    assert "br-0123456789ab" not in ruleset.guards


def sockets(*containers: Json) -> t.List[t.Tuple[int, int, int, bytes, int, int, bytes]]:
    policy = normalise({})
    current = shop(*containers)
    rows = compile_ruleset(policy, resolve(policy, current), current).publish
    return [(row[0], row[1], row[2], row[3], row[4], row[6], row[7]) for row in rows]


def four(*octets: int) -> bytes:
    return bytes(octets).ljust(16, b"\0")


def test_published_sockets() -> None:
    web = container(
        "web",
        {"front": attached("172.18.0.2", "fd00:1::2")},
        Ports=[published(81, 80), published(81, 80, address="::")],
    )
    assert sockets(web) == [
        (2, 6, 81, bytes(16), 2, 80, four(172, 18, 0, 2)),
        (10, 6, 81, bytes(16), 10, 80, bytes.fromhex("fd000001000000000000000000000002")),
    ]


def test_published_over_ipv6_for_a_container_without_it() -> None:
    web = container("web", {"front": attached("172.18.0.2")}, Ports=[published(81, 80, address="::")])
    assert sockets(web) == [(10, 6, 81, bytes(16), 2, 80, four(172, 18, 0, 2))]


def test_published_on_one_address_and_of_a_container_on_two_networks() -> None:
    db = container(
        "db",
        {"back": attached("172.19.0.3", LinkIndex=6), "front": attached("172.18.0.3")},
        Ports=[published(5432, 5432, address="192.0.2.7")],
    )
    # back is internal: Docker's gateway is front.
    assert sockets(db) == [(2, 6, 5432, four(192, 0, 2, 7), 2, 5432, four(172, 18, 0, 3))]


def test_rule_key_follows_the_content() -> None:
    def key(**change: t.Any) -> int:
        policy = normalise(
            {"rules": [dict({"name": "r", "from": ["world"], "to": ["containers"]}, **change)]}
        )
        return compile_ruleset(policy, resolve(policy, shop()), shop()).rules[0][0]

    assert key() == key(**{"from": "world"})
    assert len({key(), key(log=True), key(action="deny"), key(name="s"), key(ports=["80/tcp"])}) == 5
