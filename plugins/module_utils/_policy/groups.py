# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The groups of a raw policy: CIDRs, labels, names, networks and queries.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Path, PolicyError
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import (
    Interval,
    Network,
    cidr,
    intervals,
    looks_like_address,
    prefixes,
    subtract,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.fields import (
    kind_text,
    known_keys,
    mapping,
    sorted_texts,
    strings,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import RESERVED, Group
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import check_pattern

_GROUP_KEYS = ("cidrs", "except", "behind", "labels", "names", "networks", "query")

_GROUP_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


# Groups


def parse_groups(value: t.Any) -> t.Tuple[Group, ...]:
    if value is None:
        return ()
    groups = []
    for name, body in mapping(value, ("groups",), "groups").items():
        path: Path = ("groups", str(name))
        if name in RESERVED:
            raise PolicyError(
                f'a group cannot be named "{name}"',
                path,
                "it is a word of the language, like {}".format(
                    ", ".join(word for word in RESERVED if word != name)
                ),
            )
        if not isinstance(name, str) or not _GROUP_NAME.match(name) or looks_like_address(name):
            raise PolicyError(f'a group cannot be named "{name}"', path, "use letters, digits, _ - and .")
        groups.append(_group(str(name), mapping(body, path, f'the group "{name}"'), path))
    return tuple(sorted(groups, key=lambda group: group.name))


def _group(name: str, body: t.Mapping[str, t.Any], path: Path) -> Group:
    what = f'the group "{name}"'
    known_keys(body, _GROUP_KEYS, path, what)
    by_address = [key for key in ("cidrs", "except") if body.get(key)]
    by_container = [key for key in ("labels", "names", "networks", "query") if body.get(key)]
    if not by_address and not by_container:
        raise PolicyError(
            f"{what} selects nothing", path, "give it cidrs, or one or more of labels, names, networks, query"
        )
    if by_address and by_container:
        raise PolicyError(
            f"{what} has both addresses ({by_address[0]}) and containers ({by_container[0]})",
            path,
            "make two groups and name both where you need them",
        )
    cidrs, excepts = _group_cidrs(body, path, what)
    behind = sorted_texts(strings(body.get("behind"), (*path, "behind"), "behind", empty=True))
    _check_behind(body, cidrs, behind, path, what)
    return Group(
        name=name,
        cidrs=cidrs,
        excepts=excepts,
        labels=_labels(body.get("labels"), path),
        names=_patterns(body.get("names"), (*path, "names"), "names"),
        networks=_patterns(body.get("networks"), (*path, "networks"), "networks"),
        query=_query(body.get("query"), (*path, "query")),
        behind=behind,
    )


#: Addresses that no container can route or hold for others, as kmod/draft.c has them.
_NOBODYS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "::ffff:0:0/96", "fe80::/10", "ff00::/8"
    )
)  # fmt: skip


def _check_behind(
    body: t.Mapping[str, t.Any], cidrs: t.Sequence[str], behind: t.Sequence[str], path: Path, what: str
) -> None:
    """What `behind` needs by itself; whom its selectors may mean, routed.py checks."""
    if body.get("behind") is None:
        return
    place = (*path, "behind")
    if not behind:
        raise PolicyError(
            f"behind of {what} is empty", place, "name the containers, for example [container:wireguard]"
        )
    if not cidrs:
        raise PolicyError(
            f"{what} has behind without cidrs", place, "give it the addresses that those containers route"
        )
    left = subtract(
        [ipaddress.ip_network(text) for text in cidrs],
        [ipaddress.ip_network(text) for text in body.get("except") or ()],
    )
    for bad in _NOBODYS:
        if subtract([bad], _networks(left)) != intervals([bad]):
            raise PolicyError(
                f"{what} has addresses of {bad} behind containers, which no container can route or hold",
                (*path, "cidrs"),
                "name the addresses themselves: clients, pods, or a floating address",
            )


def _networks(spans: t.Iterable[Interval]) -> t.List[Network]:
    return [network for span in spans for network in prefixes(span)]


def _patterns(value: t.Any, path: Path, what: str) -> t.Tuple[str, ...]:
    texts = strings(value, path, what, empty=True)
    for text, place in texts:
        check_pattern(text, place)
    return sorted_texts(texts)


def same_group(one: t.Any, other: t.Any) -> bool:
    """Whether two bodies of a group are good and mean the same."""
    try:
        first, second = (_group("", mapping(body, (), "a group"), ()) for body in (one, other))
    except PolicyError:
        return False
    return first == second


def _group_cidrs(
    body: t.Mapping[str, t.Any], path: Path, what: str
) -> t.Tuple[t.Tuple[str, ...], t.Tuple[str, ...]]:
    inside = [
        (cidr(text, place), place)
        for text, place in strings(body.get("cidrs"), (*path, "cidrs"), "cidrs", empty=True)
    ]
    outside = [
        (cidr(text, place), place)
        for text, place in strings(body.get("except"), (*path, "except"), "except", empty=True)
    ]
    if outside and not inside:
        raise PolicyError(
            f"{what} has except without cidrs", (*path, "except"), "give it cidrs to except from"
        )
    for network, place in outside:
        if not any(network.overlaps(other) for other, _p in inside if other.version == network.version):
            raise PolicyError(
                f"except {network} is outside of all cidrs of {what}",
                place,
                "remove it, or add the network it is part of to cidrs",
            )
    if outside and not subtract([n for n, _p in inside], [n for n, _p in outside]):
        raise PolicyError(f"except leaves nothing of {what}", (*path, "except"), "except less")
    return (
        tuple(sorted({str(network) for network, _p in inside})),
        tuple(sorted({str(network) for network, _p in outside})),
    )


def _labels(value: t.Any, path: Path) -> t.Tuple[t.Tuple[str, str], ...]:
    if value is None:
        return ()
    labels = []
    path = (*path, "labels")
    for key, wanted in mapping(value, path, "labels").items():
        if isinstance(wanted, int) and not isinstance(wanted, bool):
            wanted = str(wanted)
        if not isinstance(wanted, str):
            # YAML turns yes, 1.10 and ~ into something that is not what Docker has.
            raise PolicyError(
                f"the label {key} cannot be {kind_text(wanted)}",
                (*path, str(key)),
                'write the value in quotes; "*" stands for any value',
            )
        labels.append((str(key), str(wanted)))
    return tuple(sorted(labels))


def _query(value: t.Any, path: Path) -> str:
    if value is None:
        return ""
    if not isinstance(value, str) or not value.strip():
        raise PolicyError(
            f"a query must be a JMESPath expression, not {kind_text(value)}", path, "write it in quotes"
        )
    try:
        import jmespath
    except ImportError:
        return str(value)  # the target has it and looks again
    try:
        jmespath.compile(value)
    except Exception as error:  # jmespath has several kinds without a common base but ValueError
        text = " ".join(str(error).split())
        raise PolicyError(f"the query is no JMESPath: {text}", path, "correct it, see https://jmespath.org")
    return str(value)
