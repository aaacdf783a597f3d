# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules and groups of several variables: all of them count, equal ones once, and different ones of one name are refused."""

from __future__ import annotations

import random
import re
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.join import join
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise

Json = t.Dict[str, t.Any]

VAULT: Json = {"name": "no vault", "action": "deny", "from": ["containers"], "to": ["vault"]}
SHOP: Json = {"name": "shop", "from": ["world"], "to": ["web"], "published": ["443/tcp"]}
GROUPS: Json = {"vault": {"cidrs": ["192.0.2.7/32"]}}
WEB: Json = {"web": {"labels": {"tier": "web"}}}


def error_of(variables: Json) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        join(variables)
    return caught.value


def test_siblings_add_up_and_normalise_takes_the_result() -> None:
    joined = join(
        {
            "bridgewarden_groups": GROUPS,
            "bridgewarden_groups_shop": WEB,
            "bridgewarden_rules": [],
            "bridgewarden_rules_pci": [VAULT],
            "bridgewarden_rules_shop": [SHOP],
        }
    )
    policy = normalise(joined)
    assert [rule.name for rule in policy.rules] == ["no vault", "shop"]
    assert [group.name for group in policy.groups] == ["vault", "web"]


def test_the_former_names_are_members() -> None:
    joined = join(
        {"bridgewarden_rules": [], "bridgewarden_group_rules": [VAULT], "bridgewarden_host_rules": [SHOP]}
    )
    assert joined["rules"] == [VAULT, SHOP]


def test_the_order_does_not_depend_on_the_order_of_the_variables() -> None:
    variables = {f"bridgewarden_rules_{n}": [dict(SHOP, name=f"rule {n}")] for n in "dbac"}
    variables.update({f"bridgewarden_groups_{n}": {f"group-{n}": WEB["web"]} for n in "dbac"})
    names = list(variables)
    for seed in range(5):
        random.Random(seed).shuffle(names)
        joined = join({name: variables[name] for name in names})
        assert [rule["name"] for rule in joined["rules"]] == [f"rule {n}" for n in "abcd"]
        assert list(joined["groups"]) == [f"group-{n}" for n in "abcd"]


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param(dict(SHOP), id="the very same"),
        pytest.param(dict(SHOP, **{"from": "world"}), id="the same in other words"),
        pytest.param(dict(SHOP, action="allow", log=False), id="with its defaults"),
    ],
)
def test_the_same_rule_twice_counts_once(twin: Json) -> None:
    joined = join(
        {"bridgewarden_groups": WEB, "bridgewarden_rules_a": [SHOP], "bridgewarden_rules_b": [twin]}
    )
    assert [rule.name for rule in normalise(joined).rules] == ["shop"]
    if twin == SHOP:
        assert joined["rules"] == [SHOP]


@pytest.mark.parametrize(
    "twin",
    [
        pytest.param({"labels": {"tier": "web"}}, id="the very same"),
        pytest.param({"labels": {"tier": "web"}, "names": []}, id="in other words"),
    ],
)
def test_the_same_group_twice_counts_once(twin: Json) -> None:
    assert join({"bridgewarden_groups": WEB, "bridgewarden_groups_b": {"web": twin}})["groups"] == WEB


@pytest.mark.parametrize("change", [{"action": "deny"}, {"to": ["vault"]}, {"log": True}])
def test_two_rules_of_one_name_are_an_error_that_names_both_variables(change: Json) -> None:
    error = error_of(
        {
            "bridgewarden_groups": {**WEB, **GROUPS},
            "bridgewarden_rules_pci": [VAULT, SHOP],
            "bridgewarden_rules_shop": [dict(SHOP, **change)],
        }
    )
    assert error.path == ("bridgewarden_rules_shop", 0, "name")
    assert error.rule == "shop"
    assert "bridgewarden_rules_pci and in bridgewarden_rules_shop" in error.problem
    assert "bridgewarden_rules_pci[1]" in error.hint


def test_two_groups_of_one_name_are_an_error_that_names_both_variables() -> None:
    error = error_of(
        {"bridgewarden_groups": WEB, "bridgewarden_groups_pci": {"web": {"cidrs": ["192.0.2.0/24"]}}}
    )
    assert error.path == ("bridgewarden_groups_pci", "web")
    assert "bridgewarden_groups and in bridgewarden_groups_pci" in error.problem
    assert "bridgewarden_groups.web" in error.hint


@pytest.mark.parametrize(
    ("variables", "path"),
    [
        ({"bridgewarden_rules_a": "none"}, ("bridgewarden_rules_a",)),
        ({"bridgewarden_rules_a": {"name": "x"}}, ("bridgewarden_rules_a",)),
        ({"bridgewarden_groups_a": ["web"]}, ("bridgewarden_groups_a",)),
    ],
)
def test_a_member_of_another_type_is_an_error(variables: Json, path: t.Tuple[str, ...]) -> None:
    assert error_of(variables).path == path


def test_an_empty_member_adds_nothing() -> None:
    assert join({"bridgewarden_rules_a": None, "bridgewarden_groups_a": None, "bridgewarden_rules": []}) == {
        "groups": {},
        "rules": [],
    }


@pytest.mark.parametrize(
    "rule", ["text", {"from": ["world"]}, {"name": 7}, {"name": ["x"]}, dict(SHOP, to=["wbe"])]
)
def test_a_rule_that_is_wrong_is_left_to_the_policys_own_check(rule: t.Any) -> None:
    variables = {"bridgewarden_groups": WEB, "bridgewarden_rules": [SHOP], "bridgewarden_rules_b": [rule]}
    joined = join(variables)
    assert joined["rules"] == [SHOP, rule]
    with pytest.raises(PolicyError):
        normalise(joined)


def test_no_variable_of_the_roles_or_playbooks_joins_by_accident(checkout: Path) -> None:
    """What the pattern in roles/common/vars finds, nobody may use for something else."""
    line = next(
        line
        for line in (checkout / "roles/common/vars/main.yml").read_text(encoding="utf-8").splitlines()
        if "varnames" in line
    )
    patterns = re.findall(r"'(\^.*?\$)'", line)
    found = {
        name
        for folder in ("roles", "playbooks")
        for path in (checkout / folder).rglob("*.yml")
        for name in re.findall(
            r"\bbridgewarden_\w+(?=:)|(?<=register: )bridgewarden_\w+", path.read_text(encoding="utf-8")
        )
    }
    assert {name for name in found if any(re.match(pattern, name) for pattern in patterns)} == {
        "bridgewarden_groups",
        "bridgewarden_rules",
        "bridgewarden_group_rules",
        "bridgewarden_host_rules",
    }
