# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The desired policy as data: what a policy, a rule and a group are, their defaults and their digest.

parse.py makes these from the inventory's variables; everything else only reads them.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import hashlib
import json
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

MODES = ("enforce", "audit")
PLACEMENTS = ("forward", "postrouting", "container")
#: The most restrictive first, which is the one that wins.
ACTIONS = ("deny", "reject", "queue", "allow")
#: What lets traffic pass, if through a listener: says nothing of direct traffic unless it says so.
PERMITTING = ("queue", "allow")
DEFAULT_ACTIONS = ("allow", "deny", "reject")
#: In the order of enum bw_class.
DEFAULTS: t.Dict[str, str] = {
    "ingress": "deny",
    "egress": "allow",
    "inter_container": "deny",
    "to_host": "deny",
    "from_host": "allow",
    "host_ingress": "allow",
}
#: Docker's own bridges: docker0, the swarm gateway and br-<12 hex digits>.  A pattern may have 31
#: bytes and twelve times [0-9a-f] would take 99.  [0-f] is the short class that keeps out g to z, "-"
#: and ".", and four of it fit: enough to leave br-lan, br-ex or br-management alone.
GUARDS = ("br-[0-f][0-f][0-f][0-f]????????", "docker0", "docker_gwbridge")
GUARD_BYTES = 31
MAX_GUARD_PATTERNS = 64
NAME_BYTES = 63

#: In `within`: both addresses are on the same network of Docker's.
NETWORK = "network"

#: Of a raw policy; the inventory's variables have the prefix bridgewarden_ before them.
POLICY_KEYS = (
    "mode",
    "placement",
    "log_group",
    "log_defaults",
    "defaults",
    "groups",
    "rules",
    "guards",
    "unguarded",
    "lifelines",
)

RESERVED = ("any", "builds", "containers", "host", "swarm-ingress", "world")
PREFIXES = ("compose", "container", "label", "network")


@dataclass(frozen=True)
class Group:
    """A name for peers: addresses (cidrs less except), which are outside unless they are `behind` containers, or
    containers (all other keys, which must all hold)."""

    name: str
    cidrs: t.Tuple[str, ...] = ()
    excepts: t.Tuple[str, ...] = ()
    labels: t.Tuple[t.Tuple[str, str], ...] = ()
    names: t.Tuple[str, ...] = ()
    networks: t.Tuple[str, ...] = ()
    query: str = ""
    #: Selectors of the containers that route these addresses, or hold them beside their own.
    behind: t.Tuple[str, ...] = ()

    def as_dict(self) -> Json:
        body: Json = {
            "cidrs": list(self.cidrs),
            "behind": list(self.behind),
            "except": list(self.excepts),
            "labels": dict(self.labels),
            "names": list(self.names),
            "networks": list(self.networks),
            "query": self.query,
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True)
class Queue:
    """The NFQUEUE listeners of a rule: `count` queues from `num` on."""

    num: int
    count: int = 1
    bypass: bool = False

    def as_dict(self) -> Json:
        return {"num": self.num, "count": self.count, "bypass": self.bypass}


@dataclass(frozen=True)
class Rule:
    name: str
    action: str
    sources: t.Tuple[str, ...]
    targets: t.Tuple[str, ...]
    ports: t.Tuple[str, ...] = ()
    published: t.Tuple[str, ...] = ()
    direct: bool = False
    log: bool = False
    queue: t.Optional[Queue] = None  # of the action queue, and of no other
    #: NETWORK, or a label's key: both sides must have the same value of it. "": no relation.
    within: str = ""
    until: str = ""  # the last day, YYYY-MM-DD in UTC; "": for good
    note: str = ""  # for people and reports; no part of what the rule does
    #: Its place in the list the operator wrote, for messages only.
    index: int = field(default=0, compare=False)

    def as_dict(self) -> Json:
        body: Json = {
            "name": self.name,
            "action": self.action,
            "from": list(self.sources),
            "to": list(self.targets),
            "ports": list(self.ports),
            "published": list(self.published),
            "direct": self.direct,
            "log": self.log,
            "queue": self.queue.as_dict() if self.queue else None,
            "within": self.within,
            "until": self.until,
            "note": self.note,
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True)
class Lifeline:
    """Connections that a commit must leave open; named like the sides and ports of a rule."""

    name: str
    sources: t.Tuple[str, ...]  # empty: the clients of this host's open SSH sessions
    targets: t.Tuple[str, ...]
    ports: t.Tuple[str, ...]
    #: Its place in the list the operator wrote, for messages only.
    index: int = field(default=0, compare=False)

    def as_dict(self) -> Json:
        body: Json = {
            "name": self.name,
            "from": list(self.sources),
            "to": list(self.targets),
            "ports": list(self.ports),
        }
        return {key: value for key, value in body.items() if value}


@dataclass(frozen=True)
class Policy:
    """The normal form: everything filled in, every list sorted and without repetitions."""

    mode: str
    placement: str
    log_group: int
    log_defaults: bool
    defaults: t.Tuple[t.Tuple[str, str], ...]
    groups: t.Tuple[Group, ...]
    rules: t.Tuple[Rule, ...]
    guards: t.Tuple[str, ...]
    unguarded: t.Tuple[str, ...] = ()  # bridges that are left out, as names or patterns
    lifelines: t.Tuple[Lifeline, ...] = ()

    def as_dict(self) -> Json:
        # The later keys only where they are used: the digest of a policy without them stays what it was.
        later: Json = {
            "unguarded": list(self.unguarded),
            "lifelines": [lifeline.as_dict() for lifeline in self.lifelines],
        }
        return {
            "mode": self.mode,
            "placement": self.placement,
            "log_group": self.log_group,
            "log_defaults": self.log_defaults,
            "defaults": dict(self.defaults),
            "groups": {group.name: group.as_dict() for group in self.groups},
            "rules": [rule.as_dict() for rule in self.rules],
            "guards": list(self.guards),
            **{key: value for key, value in later.items() if value},
        }

    def group(self, name: str) -> Group:
        return {group.name: group for group in self.groups}[name]


def digest(policy: Policy) -> str:
    """SHA-256 (hex) of the normal form: equal for policies that mean the same in the same words."""
    text = json.dumps(policy.as_dict(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
