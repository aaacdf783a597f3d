# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON Schema for editors: it accepts whatever the checks accept, and marks the mistakes that one value shows by itself."""

from __future__ import annotations

import copy
import json
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from hypothesis import given, settings

sys.path.insert(0, str(Path(__file__).parents[1] / "ruleset"))

import strategies
import yaml
from test_normalise import EXAMPLE, RULE

from tests import schema

Json = t.Dict[str, t.Any]

jsonschema = pytest.importorskip("jsonschema")
VALIDATOR = jsonschema.Draft202012Validator(schema.schema())


def variables(policy: Json) -> Json:
    return {"bridgewarden_" + key: value for key, value in policy.items()}


def mistakes(policy: Json) -> t.List[str]:
    return [error.json_path for error in VALIDATOR.iter_errors(json.loads(json.dumps(variables(policy))))]


def test_it_is_a_schema_and_current() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.schema())
    assert schema.PATH.read_text(encoding="utf-8") == schema.made(), "run make generated"


def test_every_key_of_the_language_has_a_text() -> None:
    definitions = schema.schema()["$defs"]
    for name in ("rule", "group", "lifeline"):
        assert all(value["description"] for value in definitions[name]["properties"].values())


def test_the_inventories_of_this_repository_fit() -> None:
    files = [
        path
        for path in (schema.TOP / "inventory").rglob("*.yml")
        if "group_vars" in str(path) or "host_vars" in str(path)
    ]
    files += list((schema.TOP / "docs" / "stacks").rglob("policy.yml"))
    assert len(files) > 5
    for path in files:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        found = [
            error.message for error in VALIDATOR.iter_errors(json.loads(json.dumps(content, default=str)))
        ]
        assert found == [], path


@settings(max_examples=150, deadline=None)
@given(strategies.policies())
def test_what_the_checks_accept_the_schema_accepts(policy: Json) -> None:
    policy = copy.deepcopy(policy)
    while True:
        try:
            normalise(policy)
            break
        except PolicyError as error:
            del policy["rules"][t.cast(int, error.path[1])]
    assert mistakes(policy) == []
    assert mistakes(normalise(policy).as_dict()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"prots": ["80/tcp"]},
        {"name": ""},
        {"name": "x" * 64},
        {"action": "alow"},
        {"action": "queue"},
        {"queue": {"num": 0}},
        {"action": "queue", "queue": {"number": 1}},
        {"from": []},
        {"from": 5},
        {"ports": [53]},
        {"ports": ["53"]},
        {"ports": ["80/tpc"]},
        {"ports": ["80/tcp"], "published": ["80/tcp"]},
        {"published": ["icmp"]},
        {"direct": "yes"},
        {"log": 1},
        {"within": ""},
        {"within": "a=b"},
        {"within": ["network"]},
        {"until": 20270331},
        {"until": "31.3.2027"},
        {"note": 5},
        {"note": ""},
    ],
)
def test_mistakes_in_a_rule_are_marked(change: Json) -> None:
    good = {"groups": EXAMPLE["groups"], "rules": [RULE]}
    bad = {"groups": EXAMPLE["groups"], "rules": [{**RULE, **change}]}
    assert mistakes(good) == []
    assert mistakes(bad)
    with pytest.raises(PolicyError):
        normalise(bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"mode": "on"},
        {"placement": "inside"},
        {"defaults": {"ingres": "deny"}},
        {"defaults": {"ingress": "queue"}},
        {"groups": {"g": {}}},
        {"groups": {"g": {"cidr": ["10.0.0.0/8"]}}},
        {"rules": {}},
        {"unguarded": 5},
        {"unguarded": [""]},
        {"lifelines": [{"name": "ssh"}]},
        {"lifelines": [{"name": "ssh", "ports": ["22"]}]},
    ],
)
def test_mistakes_elsewhere_are_marked(bad: Json) -> None:
    assert mistakes(bad)
    with pytest.raises(PolicyError):
        normalise(bad)


def test_an_expression_may_stand_for_a_value() -> None:
    assert mistakes({"mode": "{{ 'audit' if trial else 'enforce' }}", "rules": "{{ my_rules }}"}) == []
