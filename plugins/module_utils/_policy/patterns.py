# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Shell patterns: those of links, matched as kmod/guard.c matches them, and those of Docker's names.

The kernel's glob_match() decides about guards; glob_match() here is its twin in Python.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Path, PolicyError


def glob_any(name: str, patterns: t.Iterable[str]) -> bool:
    """Whether one of the patterns matches."""
    return any(glob_match(pattern, name) for pattern in patterns)


def glob_match(pattern: str, name: str) -> bool:
    """glob_match() of the kernel (lib/glob.c): ? * [a-z] [!a] and backslash; case matters."""
    return _glob_matcher(pattern)(name) is not None


@functools.lru_cache(maxsize=1024)
def _glob_matcher(pattern: str) -> t.Callable[[str], t.Any]:
    return re.compile(_glob_regex(pattern), re.DOTALL).match


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


def is_pattern(name: str) -> bool:
    """Whether a name of a container, network, project or service stands for several."""
    return any(sign in name for sign in "*?[")


def name_matcher(pattern: str) -> t.Callable[[str], t.Any]:
    """Whether a name fits the pattern, as a function: * ? [a-z] [!a-z]; case matters."""
    return re.compile(fnmatch.translate(pattern)).match


def check_pattern(pattern: str, path: Path) -> None:
    """Raises PolicyError for a class that is reversed: newer Pythons let it match nothing, older ones fail."""
    for body in re.findall(r"\[!?(\]?[^]]*)\]", pattern):
        if any(low > high for low, high in re.findall(r"(.)-(.)", body, re.DOTALL)):
            raise PolicyError(
                f'the class in the pattern "{pattern}" is reversed', path, "write the lower character first"
            )


def glob_escape(name: str) -> str:
    """The pattern that matches this one name."""
    return re.sub(r"([\\?*\[])", r"\\\1", name)
