# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Checks of single values of a raw policy: a mapping, a list of texts, a flag, a number.

Each raises PolicyError with the path of the value and a hint.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Path,
    PolicyError,
    did_you_mean,
)

CONTROL = re.compile(r"[\x00-\x1f\x7f]")


# Small things


def mapping(value: t.Any, path: Path, what: str) -> t.Mapping[str, t.Any]:
    if not isinstance(value, t.Mapping):
        raise PolicyError(f"{what} must be a mapping, not {kind_text(value)}", path, "write key: value pairs")
    return value


def kind_text(value: t.Any) -> str:
    """What a value is, for a message."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"the truth value {str(value).lower()}"
    if isinstance(value, str):
        return f'the string "{value}"'
    if isinstance(value, (int, float)):
        return f"the number {value}"
    return (
        "a mapping"
        if isinstance(value, t.Mapping)
        else "a list"
        if isinstance(value, (list, tuple))
        else "this"
    )


def known_keys(value: t.Mapping[str, t.Any], known: t.Sequence[str], path: Path, what: str) -> None:
    for key in value:
        if key not in known:
            raise PolicyError(
                f'unknown key "{key}" in {what}',
                (*path, str(key)),
                "known keys are {}.{}".format(", ".join(known), did_you_mean(str(key), known)),
            )


def strings(value: t.Any, path: Path, what: str, empty: bool = False) -> t.List[t.Tuple[str, Path]]:
    """The strings of a list, or one bare string, each with its path."""
    if value is None and empty:
        return []
    if isinstance(value, str):
        items: t.List[t.Tuple[t.Any, Path]] = [(value, path)]
    elif isinstance(value, (list, tuple)):
        items = [(item, (*path, number)) for number, item in enumerate(value)]
    else:
        raise PolicyError(f"{what} must be a list of strings, not {kind_text(value)}", path, "write [a, b]")
    if not items and not empty:
        raise PolicyError(f"{what} is empty", path, 'name at least one; "any" stands for everybody')
    for item, place in items:
        if not isinstance(item, str):
            raise PolicyError(f"{what} must hold strings, not {kind_text(item)}", place, "write it in quotes")
        if not item.strip() or item != item.strip():
            raise PolicyError(
                f'"{item}" in {what} is blank or has blanks around it', place, "remove the blanks"
            )
    return [(str(item), place) for item, place in items]


def flag(value: t.Any, path: Path, what: str) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(
            f"{what} must be true or false, not {kind_text(value)}", path, "write true or false"
        )
    return value


def whole_number(value: t.Any, lo: int, hi: int, path: Path, what: str) -> int:
    # Jinja gives strings.
    if isinstance(value, str) and re.match(r"[0-9]{1,9}\Z", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not lo <= value <= hi:
        raise PolicyError(
            f"{what} cannot be {kind_text(value)}", path, "use a number from %d to %d" % (lo, hi)
        )
    return value


def choice(value: t.Any, choices: t.Sequence[str], path: Path, what: str) -> str:
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        raise PolicyError(
            f"{what} cannot be {kind_text(value)}", path, "use one of {}.{}".format(", ".join(choices), hint)
        )
    return str(value)


def sorted_texts(items: t.Iterable[t.Tuple[str, Path]]) -> t.Tuple[str, ...]:
    return tuple(sorted({item for item, _path in items}))
