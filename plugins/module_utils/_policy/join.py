# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Joins the inventory's variables of rules and of groups, so that no level of the inventory replaces another one's.

Ansible lets one value of a variable win.  For rules that would lose allows, and
denies.  So each level has a variable of its own, and all of them count.  The
values stay the inventory's own objects, which know their file and line.
Pure functions; run on the controller, and where a file of variables is read on a host.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Path, PolicyError, path_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.fields import kind_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.groups import same_group
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import POLICY_KEYS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.rules import rules_differ

_GROUPS = "bridgewarden_groups"
#: Former names of members of the family, and what to write instead.
DEPRECATED = {
    "bridgewarden_group_rules": "bridgewarden_rules_GROUP",
    "bridgewarden_host_rules": "bridgewarden_rules_HOST",
}

#: What Ansible's roles look for: every member of the family, and the former names.
FAMILY = re.compile(r"bridgewarden_((rules|groups)(_.+)?|(group|host)_rules)\Z")

Variables = t.Mapping[str, t.Any]


def policy_of(variables: Variables) -> t.Dict[str, t.Any]:
    """The policy that variables of an inventory make, as roles/common does it; those that are no part of a policy are left out."""
    found = {
        key: variables["bridgewarden_" + key] for key in POLICY_KEYS if "bridgewarden_" + key in variables
    }
    return {**found, **join({name: variables[name] for name in variables if FAMILY.match(name)})}


def join(variables: Variables) -> t.Dict[str, t.Any]:
    """`groups` and `rules` of a policy from all variables of the family; raises PolicyError with the variable's path."""
    groups = _groups({name: variables[name] for name in variables if name.startswith(_GROUPS)})
    rules = _rules({name: variables[name] for name in variables if not name.startswith(_GROUPS)}, groups)
    return {"groups": groups, "rules": rules}


def _groups(variables: Variables) -> t.Dict[str, t.Any]:
    found: t.Dict[str, t.Any] = {}
    first: t.Dict[str, str] = {}
    for variable in sorted(variables):
        value = variables[variable]
        if value is None:
            continue
        if not isinstance(value, t.Mapping):
            raise PolicyError(
                f"{variable} must be a mapping, not {kind_text(value)}",
                (variable,),
                "write groups as NAME: {cidrs: [...]} or NAME: {labels: {...}}",
            )
        for name, body in value.items():
            former = first.setdefault(name, variable)
            if found.setdefault(name, body) != body and not same_group(found[name], body):
                raise PolicyError(
                    f'two different groups are named "{name}", in {former} and in {variable}',
                    (variable, str(name)),
                    f"rename one of them, or write the same group in both; the other one is {former}.{name}",
                )
    return found


def _rules(variables: Variables, groups: t.Mapping[str, t.Any]) -> t.List[t.Any]:
    rules: t.List[t.Any] = []
    first: t.Dict[str, t.Tuple[t.Any, Path]] = {}
    for variable in sorted(variables):
        value = variables[variable]
        if value is None:
            continue
        if not isinstance(value, (list, tuple)):
            raise PolicyError(
                f"{variable} must be a list, not {kind_text(value)}", (variable,), "write a list of rules"
            )
        for index, body in enumerate(value):
            name = body.get("name") if isinstance(body, t.Mapping) else None
            if not isinstance(name, str):
                rules.append(body)  # a mistake that has nothing to do with joining
                continue
            former, place = first.setdefault(name, (body, (variable, index)))
            if rules_differ(former, body, groups):
                raise PolicyError(
                    f"two different rules have this name, in {place[0]} and in {variable}",
                    (variable, index, "name"),
                    f"rename one of them, or write the same rule in both; the other one is {path_text(place)}",
                    name,
                )
            if former is body or former != body:
                rules.append(body)
    return rules
