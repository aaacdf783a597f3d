# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shell patterns, matched as kmod/guard.c matches them.

The kernel's glob_match() decides about guards; this is its twin in Python.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t


def glob_any(name: str, patterns: t.Iterable[str]) -> bool:
    """Whether one of the patterns matches."""
    return any(glob_match(pattern, name) for pattern in patterns)


def glob_match(pattern: str, name: str) -> bool:
    """glob_match() of the kernel (lib/glob.c): ? * [a-z] [!a] and backslash; case matters."""
    return re.match(_glob_regex(pattern), name, re.DOTALL) is not None


def _glob_regex(pattern: str) -> str:
    out, i = "", 0
    while i < len(pattern):
        char = pattern[i]
        i += 1
        if char == "?":
            out += "."
        elif char == "*":
            out += ".*"
        elif char == "\\" and i < len(pattern):
            out += re.escape(pattern[i])
            i += 1
        elif char == "[":
            end = pattern.find("]", i + (2 if pattern[i : i + 1] == "!" else 1))
            if end < 0:
                out += re.escape(char)  # unclosed: the kernel takes it literally too
                continue
            body = pattern[i:end]
            negated, body = body.startswith("!"), body[1:] if body.startswith("!") else body
            out += "[{}{}]".format("^" if negated else "", re.sub(r"([\\\]\[^&~|])", r"\\\1", body))
            i = end + 1
        else:
            out += re.escape(char)
    return out + r"\Z"


def glob_escape(name: str) -> str:
    """The pattern that matches this one name."""
    return re.sub(r"([\\?*\[])", r"\\\1", name)
