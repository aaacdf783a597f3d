# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the inventory's variables to the desired policy in its one normal form.

`normalise()` takes the plain object of the inventory and either returns a
`Policy` or raises a PolicyError whose path leads to the offending value; there
is nothing in between and no guess.  The normal form does not depend on the
order of rules or lists, because the language does not either.  Runs on the
controller and on the target, knows nothing of Docker.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Path, PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.fields import (
    CONTROL,
    choice,
    flag,
    known_keys,
    mapping,
    strings,
    whole_number,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.groups import parse_groups
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    DEFAULT_ACTIONS,
    DEFAULTS,
    GUARD_BYTES,
    GUARDS,
    MAX_GUARD_PATTERNS,
    MODES,
    PLACEMENTS,
    POLICY_KEYS,
    Policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_match
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.routed import check_routed
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.rules import (
    parse_lifelines,
    parse_rules,
)


def wanted_policy(raw: t.Any, enforce_empty: bool = False) -> Policy:
    """The normal form of what an operator wrote, who must choose a mode; what was committed before has one.

    An enforced policy without rules closes all that is published: it must be wanted (`enforce_empty`).
    """
    if isinstance(raw, t.Mapping) and raw.get("mode") is None:
        raise PolicyError(
            "the mode is not set",
            ("mode",),
            "choose bridgewarden_mode: audit, which judges and counts and drops nothing, or enforce",
        )
    policy = normalise(raw)
    if policy.mode == "enforce" and not policy.rules and not enforce_empty:
        raise PolicyError(
            "the mode is enforce and there is no rule: every published port would be closed",
            ("rules",),
            "write rules, begin with bridgewarden_mode: audit, or set bridgewarden_enforce_empty: true",
        )
    return policy


def normalise(raw: t.Any) -> Policy:
    """The normal form of `raw`; raises PolicyError at the first thing that is wrong."""
    mapping(raw, (), "the policy")
    known_keys(raw, POLICY_KEYS, (), "the policy")
    groups = parse_groups(raw.get("groups"))
    by_name = {group.name: group for group in groups}
    check_routed(by_name)
    policy = Policy(
        mode=choice(raw.get("mode", "enforce"), MODES, ("mode",), "the mode"),
        placement=choice(raw.get("placement", "forward"), PLACEMENTS, ("placement",), "the placement"),
        log_group=whole_number(raw.get("log_group", 0), 0, 65535, ("log_group",), "the log group"),
        log_defaults=flag(raw.get("log_defaults", False), ("log_defaults",), "log_defaults"),
        defaults=_defaults(raw.get("defaults")),
        groups=groups,
        rules=parse_rules(raw.get("rules"), by_name),
        guards=_guards(raw.get("guards")),
        unguarded=_unguarded(raw.get("unguarded")),
        lifelines=parse_lifelines(raw.get("lifelines"), by_name),
    )
    _refuse_queue_inside(policy)
    return policy


def _refuse_queue_inside(policy: Policy) -> None:
    """A listener on the host gets no packets from hooks in the containers' namespaces."""
    for rule in policy.rules:
        if policy.placement == "container" and rule.action == "queue":
            raise PolicyError(
                f'the rule "{rule.name}" queues, which placement container cannot: '
                "the listener is in another network namespace",
                ("rules", rule.index, "action"),
                "choose placement forward or postrouting, or allow, deny or reject instead",
                rule.name,
            )


def _defaults(value: t.Any) -> t.Tuple[t.Tuple[str, str], ...]:
    wanted = dict(DEFAULTS)
    if value is not None:
        known_keys(mapping(value, ("defaults",), "defaults"), list(DEFAULTS), ("defaults",), "defaults")
        for name, action in value.items():
            if action == "queue":
                raise PolicyError(
                    f"the default for {name} cannot be queue",
                    ("defaults", str(name)),
                    "a listener belongs to a rule: write one with the action queue",
                )
            wanted[str(name)] = choice(
                action, DEFAULT_ACTIONS, ("defaults", str(name)), f"the default for {name}"
            )
    return tuple(wanted.items())


# Guards


def _link_pattern(pattern: str, path: Path, what: str) -> bool:
    """Whether the pattern is good and matches the loopback link; raises PolicyError where it can match no link."""
    if len(pattern.encode("utf-8")) > GUARD_BYTES:
        raise PolicyError(
            'the %s "%s" is longer than %d bytes' % (what, pattern, GUARD_BYTES),
            path,
            "shorten it: ? stands for one character, * for any number, [a-f] for one of a class",
        )
    if (
        not pattern.isascii()
        or "/" in pattern
        or any(c.isspace() for c in pattern)
        or CONTROL.search(pattern)
    ):
        raise PolicyError(f'"{pattern}" can match no network link', path, "use letters, digits and ? * [ ]")
    try:
        return glob_match(pattern, "lo")
    except re.error:
        raise PolicyError(
            f'the class in the {what} "{pattern}" is reversed', path, "write the lower character first"
        ) from None


def _unguarded(value: t.Any) -> t.Tuple[str, ...]:
    """Bridges that are left out. Patterns that keep Docker's own bridges out would leave nothing guarded, and are allowed."""
    names = strings(value, ("unguarded",), "unguarded", empty=True)
    for name, path in names:
        _link_pattern(name, path, "name of an unguarded bridge")
    return tuple(sorted({name for name, _path in names}))


def _guards(value: t.Any) -> t.Tuple[str, ...]:
    if value is None:
        return tuple(sorted(GUARDS))
    guards = strings(value, ("guards",), "guards")
    for pattern, path in guards:
        if _link_pattern(pattern, path, "guard pattern"):
            raise PolicyError(
                f'the guard pattern "{pattern}" matches the loopback link lo',
                path,
                "name Docker's bridges only; the default is " + " ".join(GUARDS),
            )
    if len(set(guards)) > MAX_GUARD_PATTERNS:
        raise PolicyError(
            "more than %d guard patterns" % MAX_GUARD_PATTERNS, ("guards",), "join some with * or ?"
        )
    return tuple(sorted({pattern for pattern, _path in guards}))
