# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Effective rules in words: one sentence a rule, as plans and diffs show them.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import NETWORK
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import (
    CLASS_WORDS,
    Resolution,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

# In words


def sentences(resolution: Resolution) -> t.List[str]:
    """The whole policy on this host, one plain sentence each."""
    policy = resolution.policy
    lines = ["mode: %s" % ("enforce" if policy.mode == "enforce" else "audit (count and log, drop nothing)")]
    lines += [f"default: {action} {CLASS_WORDS[name]}" for name, action in policy.defaults]
    lines += [sentence(body) for body in resolution.effective()]
    return lines


def sentence(effective: Json) -> str:
    """allow office reaches the web shop: 10.10.10.0/24 -> web(172.18.0.2) 8080/tcp"""
    text = "{} {}: {} -> {} {}".format(
        effective["action"],
        effective["name"],
        ", ".join(effective["from"]) or "nobody",
        ", ".join(effective["to"]) or "nobody",
        ", ".join(effective["services"]),
    )
    if effective["direct"]:
        text += ", routed directly too"
    within = effective.get("within")
    if within:
        text += ", within one network" if within == NETWORK else f", within the same {within}"
    if effective.get("until"):
        text += f", until {effective['until']}"
    if effective["log"]:
        text += ", logged"
    return text
