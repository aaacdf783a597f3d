# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Groups of routed prefixes: whom `behind` may name, and how two groups may share addresses.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import ipaddress
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, did_you_mean
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import (
    Interval,
    Network,
    prefixes,
    subtract,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Group
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.rules import container_selector


def routed_groups(groups: t.Iterable[Group]) -> t.List[Group]:
    """Those whose addresses are behind containers, by name; their places are the numbers of the kernel's sets."""
    return sorted((group for group in groups if group.behind), key=lambda group: group.name)


def routed_intervals(group: Group) -> t.List[Interval]:
    """The group's addresses."""
    return subtract(
        [ipaddress.ip_network(text) for text in group.cidrs],
        [ipaddress.ip_network(text) for text in group.excepts],
    )


def routed_prefixes(groups: t.Sequence[Group]) -> t.List[t.Tuple[Network, int]]:
    """(prefix, place of its group), each prefix once, ascending and outer ones first.

    A prefix that two nested groups share is the inner group's, which is the one with fewer addresses.
    """
    owner: t.Dict[Network, t.Tuple[int, int]] = {}
    for place, group in enumerate(groups):
        spans = routed_intervals(group)
        size = sum(hi - lo + 1 for _version, lo, hi in spans)
        for span in spans:
            for network in prefixes(span):
                owner[network] = min(owner.get(network, (size, place)), (size, place))
    return sorted(
        ((network, place) for network, (_size, place) in owner.items()),
        key=lambda item: (item[0].version, int(item[0].network_address), item[0].prefixlen),
    )


def check_routed(groups: t.Mapping[str, Group]) -> None:
    """Raises PolicyError for a selector in `behind` that means no containers, and for groups that overlap in part."""
    routed = routed_groups(groups.values())
    for group in routed:
        for index, text in enumerate(group.behind):
            _check_selector(group, index, text, groups)
    _check_overlaps(routed)


def _check_selector(group: Group, index: int, text: str, groups: t.Mapping[str, Group]) -> None:
    path = ("groups", group.name, "behind", index)
    named = groups.get(text)
    if named is not None:
        if named.cidrs:
            raise PolicyError(
                f'"{text}" in behind of the group "{group.name}" is a group of addresses',
                path,
                "name containers, for example container:wireguard, or a group of containers",
            )
        return
    if not container_selector(text, path):
        known = [name for name, other in groups.items() if not other.cidrs]
        raise PolicyError(
            f'"{text}" in behind of the group "{group.name}" names no containers',
            path,
            "write container:NAME, network:NAME, label:KEY=VALUE, compose:PROJECT/SERVICE or a group of containers."
            + did_you_mean(text, known),
        )


def _check_overlaps(routed: t.Sequence[Group]) -> None:
    """Of two groups that share addresses one must have fewer, all of them the other's as well."""
    spans = sorted(
        (version, lo, hi, place)
        for place, group in enumerate(routed)
        for version, lo, hi in routed_intervals(group)
    )
    sharing: t.Set[t.Tuple[int, int]] = set()
    starts = [span[:2] for span in spans]
    for number, (version, _lo, hi, place) in enumerate(spans):
        last = bisect.bisect_right(starts, (version, hi))
        sharing.update(
            (min(place, other[3]), max(place, other[3]))
            for other in spans[number + 1 : last]
            if other[3] != place
        )
    for one, other in sorted(sharing):
        _check_nested(routed[one], routed[other])


def _check_nested(one: Group, other: Group) -> None:
    mine, its = routed_intervals(one), routed_intervals(other)
    rest, its_rest = _less(mine, its), _less(its, mine)
    if bool(rest) != bool(its_rest):
        return
    what = "overlap in part" if rest else "have the same addresses"
    raise PolicyError(
        f'the groups "{one.name}" and "{other.name}", both behind containers, {what}',
        ("groups", other.name, "cidrs"),
        "an address is behind one set of containers: make one group of both, or keep the addresses of the one within "
        "those of the other, which then has the rest",
    )


def _less(spans: t.Iterable[Interval], without: t.Iterable[Interval]) -> t.List[Interval]:
    return subtract(
        [network for span in spans for network in prefixes(span)],
        [network for span in without for network in prefixes(span)],
    )
