# SPDX-License-Identifier: GPL-3.0-or-later
"""The JSON Schema of the inventory's variables, for editors: docs/variables.schema.json, made from the tables that the checks use.

Keys, words, bounds and defaults come from module_utils/_policy; only the texts stand here. `python tests/schema.py` writes the
file, with --check (a stage of `make lint`) it fails where the file is not what the tables make. The schema is looser than the checks:
what depends on two values at once, or on a host, only the checks know.
"""

from __future__ import annotations

import json
import sys
import typing as t
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(TOP / ".collections"))

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy import (
    groups,
    model,
    rules,
    services,
)

Json = t.Dict[str, t.Any]

PATH = TOP / "docs" / "variables.schema.json"

POLICY_TEXTS = {
    "mode": "enforce acts; audit judges and counts, and drops nothing. There is no default.",
    "placement": "Where verdicts are taken.",
    "log_group": "The nfnetlink_log group of log lines.",
    "log_defaults": "Log what is dropped without a rule, too.",
    "defaults": "The verdict of each direction class where no rule matches.",
    "groups": "Names for peers.",
    "rules": "The rules; their order has no meaning.",
    "guards": "Names, or patterns of names, of the links whose traffic is judged.",
    "unguarded": "Names, or patterns of names, of Docker's bridges that are left out.",
    "lifelines": "Connections that a commit must leave open.",
}
GROUP_TEXTS = {
    "cidrs": "Addresses outside. In a rule that denies or rejects, whoever has one of them.",
    "except": "Addresses to take out of cidrs.",
    "labels": "Labels of containers; the value * stands for any. All must hold.",
    "names": "Names of containers, or patterns of names.",
    "networks": "Names of Docker's networks, or patterns of names.",
    "query": "A JMESPath expression over the host's containers.",
    "behind": "The containers that route these addresses, or hold them beside their own.",
}
RULE_TEXTS = {
    "name": "What counters, logs and messages show.",
    "action": "The most restrictive rule that matches wins. Default: allow.",
    "from": "Who opens the connection.",
    "to": "Who answers.",
    "ports": "The container's own ports; all services without it.",
    "published": "Ports of the host, as Docker publishes them. Not together with ports.",
    "direct": "Allow traffic from outside to the container's own address, too.",
    "log": "Write packets that this rule decides to nfnetlink_log.",
    "queue": "The NFQUEUE listeners, with the action queue.",
    "within": "A label that must have the same value on both sides, or network: both are on one network.",
    "until": "The last day, in UTC. Afterwards the rule counts as absent.",
    "note": "A line for people and reports.",
}
QUEUE_TEXTS = {
    "num": "The first queue.",
    "count": "How many queues share the connections. Default: 1.",
    "bypass": "Let packets pass while nobody listens. Default: false.",
}
LIFELINE_TEXTS = {
    "name": "What messages show.",
    "from": "Who connects. Default: the clients of the host's open SSH sessions.",
    "to": "Who answers. Default: host.",
    "ports": "The ports.",
}
FLAGS_TEXTS = {
    "enforce_empty": "Accept the mode enforce without any rule.",
}

#: An expression that Ansible fills in may stand for any value.
TEMPLATE: Json = {"type": "string", "pattern": r"\{[{%]"}


def text_or_list(item: Json) -> Json:
    return {"anyOf": [{**item, "type": "string"}, {"type": "array", "items": item, "minItems": 1}]}


def service_pattern() -> str:
    ports = "|".join(services.WITH_PORTS)
    icmp = "|".join(name for name in services.PROTOCOLS if name not in services.WITH_PORTS)
    return rf"^(\d{{1,5}}(-\d{{1,5}})?/({ports})|{ports}|({icmp})(:\d{{1,3}}(/\d{{1,3}})?)?|proto:\d{{1,3}})$"


def whole(lo: int, hi: int) -> Json:
    return {
        "anyOf": [{"type": "integer", "minimum": lo, "maximum": hi}, {"type": "string", "pattern": r"^\d+$"}]
    }


def described(keys: t.Sequence[str], texts: t.Mapping[str, str], values: t.Mapping[str, Json]) -> Json:
    """An object that has these keys and no others. A key without a text or a value ends the program."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key: {"description": texts[key], **values[key]} for key in keys},
    }


def rule() -> Json:
    peers = {**text_or_list({"type": "string", "minLength": 1}), "examples": [list(model.RESERVED)]}
    own = text_or_list({"type": "string", "pattern": service_pattern()})
    hosts = text_or_list(
        {"type": "string", "pattern": r"^\d{1,5}(-\d{1,5})?/(%s)$" % "|".join(services.WITH_PORTS)}
    )
    queue = described(
        rules.QUEUE_KEYS,
        QUEUE_TEXTS,
        {"num": whole(0, 65535), "count": whole(1, 65536), "bypass": {"type": "boolean"}},
    )
    values: t.Dict[str, Json] = {
        "name": {"type": "string", "minLength": 1, "maxLength": model.NAME_BYTES},
        "action": {"enum": list(model.ACTIONS), "default": "allow"},
        "from": peers,
        "to": peers,
        "ports": own,
        "published": hosts,
        "direct": {"type": "boolean", "default": False},
        "log": {"type": "boolean", "default": False},
        "queue": {**queue, "required": ["num"]},
        "within": {
            "type": "string",
            "pattern": r"^[^\s=]+$",
            "examples": ["com.docker.compose.project", model.NETWORK],
        },
        "until": {"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}$"},
        "note": {"type": "string", "minLength": 1, "maxLength": rules.NOTE_BYTES},
    }
    found = described(rules.RULE_KEYS, RULE_TEXTS, values)
    return {
        **found,
        "required": ["name", "from", "to"],
        "not": {"required": ["ports", "published"]},
        "if": {"properties": {"action": {"const": "queue"}}, "required": ["action"]},
        "then": {"required": ["queue"]},
        "else": {"not": {"required": ["queue"]}},
    }


def lifeline() -> Json:
    peers = text_or_list({"type": "string", "minLength": 1})
    ports = text_or_list({"type": "string", "pattern": service_pattern()})
    name = {"type": "string", "minLength": 1, "maxLength": model.NAME_BYTES}
    values = {"name": name, "from": peers, "to": peers, "ports": ports}
    return {**described(rules.LIFELINE_KEYS, LIFELINE_TEXTS, values), "required": ["name", "ports"]}


def group() -> Json:
    texts = {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": {"type": "string", "minLength": 1}},
        ]
    }
    nothing: Json = {"anyOf": [*texts["anyOf"], {"type": "null"}]}
    labels = {"type": ["object", "null"], "additionalProperties": {"type": ["string", "integer"]}}
    values = dict.fromkeys(("cidrs", "except", "names", "networks", "behind"), nothing)
    values.update(labels=labels, query={"type": ["string", "null"]})
    return {**described(groups._GROUP_KEYS, GROUP_TEXTS, values), "minProperties": 1}


def schema() -> Json:
    rule_list = {"type": "array", "items": {"$ref": "#/$defs/rule"}}
    group_map = {"type": "object", "additionalProperties": {"$ref": "#/$defs/group"}}
    defaults = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"enum": list(model.DEFAULT_ACTIONS), "default": action}
            for name, action in model.DEFAULTS.items()
        },
    }
    links = text_or_list({"type": "string", "minLength": 1, "maxLength": model.GUARD_BYTES})
    values: t.Dict[str, Json] = {
        "mode": {"enum": list(model.MODES)},
        "placement": {"enum": list(model.PLACEMENTS), "default": model.PLACEMENTS[0]},
        "log_group": {**whole(0, 65535), "default": 0},
        "log_defaults": {"type": "boolean", "default": False},
        "defaults": defaults,
        "groups": group_map,
        "rules": rule_list,
        "guards": {**links, "default": sorted(model.GUARDS)},
        "unguarded": {"anyOf": [*links["anyOf"], {"type": "array", "maxItems": 0}], "default": []},
        "lifelines": {"type": "array", "items": {"$ref": "#/$defs/lifeline"}, "default": []},
    }
    variables = {
        key: {"description": POLICY_TEXTS[key], "anyOf": [values[key], TEMPLATE]} for key in model.POLICY_KEYS
    }
    variables.update(
        {
            key: {"description": text, "anyOf": [{"type": "boolean"}, TEMPLATE]}
            for key, text in FLAGS_TEXTS.items()
        }
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Variables of bridgewarden.docker in an inventory (group_vars, host_vars)",
        "description": "Made by tests/schema.py from the tables of the checks. Other variables may stand in the same file.",
        "type": "object",
        "properties": {"bridgewarden_" + key: value for key, value in variables.items()},
        "patternProperties": {
            "^bridgewarden_rules_.+$": {"description": POLICY_TEXTS["rules"], "anyOf": [rule_list, TEMPLATE]},
            "^bridgewarden_groups_.+$": {
                "description": POLICY_TEXTS["groups"],
                "anyOf": [group_map, TEMPLATE],
            },
        },
        "$defs": {"rule": rule(), "group": group(), "lifeline": lifeline()},
    }


def made() -> str:
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def main(arguments: t.Sequence[str]) -> int:
    if arguments != ["--check"]:
        PATH.write_text(made(), encoding="utf-8")
    elif not PATH.exists() or PATH.read_text(encoding="utf-8") != made():
        print(f"{PATH.relative_to(TOP)} is not what the tables make: run make generated")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
