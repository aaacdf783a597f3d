# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""CIDRs of a policy, and sets of addresses as intervals.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import re
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Path, PolicyError

Network = t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network]


# Addresses


def cidr(text: str, path: Path, rule: str = "") -> Network:
    """The network `text` names; a bare address is a network of one."""
    if "%" in text:
        raise PolicyError(
            f'"{text}" has a zone', path, "write the address without %{}".format(text.split("%", 1)[1]), rule
        )
    try:
        network: Network = ipaddress.ip_network(text)
    except ValueError as error:
        raise _bad_cidr(text, path, rule, error)
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96 and network.subnet_of(mapped):
        plain = ipaddress.IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
        raise PolicyError(
            f'"{text}" is an IPv4 address in IPv6 clothes, which no packet carries',
            path,
            f"write {plain}",
            rule,
        )
    return network


def _bad_cidr(text: str, path: Path, rule: str, error: ValueError) -> PolicyError:
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return PolicyError(
            '"{}" is no network: {}'.format(text, str(error).replace(repr(text), "it")),
            path,
            "write an address with a prefix length, for example 10.10.10.0/24 or 2001:db8::/64",
            rule,
        )
    address = ipaddress.ip_interface(text).ip
    return PolicyError(
        f'"{text}" has bits of a host set',
        path,
        "write %s for the network or %s/%d for that one address" % (loose, address, address.max_prefixlen),
        rule,
    )


def looks_like_address(text: str) -> bool:
    head = text.split("/", 1)[0].split("%", 1)[0]
    return bool(re.match(r"\d+\.\d+(\.\d+)*\.?\Z", head)) or bool(
        re.match(r"[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*\Z", head)
    )


#: Family (4 or 6), first and last address as numbers.
Interval = t.Tuple[int, int, int]


def intervals(networks: t.Iterable[Network]) -> t.List[Interval]:
    """The networks as ascending, disjoint, non-adjacent intervals."""
    spans = sorted((n.version, int(n.network_address), int(n.broadcast_address)) for n in networks)
    merged: t.List[Interval] = []
    for version, lo, hi in spans:
        if merged and merged[-1][0] == version and lo <= merged[-1][2] + 1:
            merged[-1] = (version, merged[-1][1], max(hi, merged[-1][2]))
        else:
            merged.append((version, lo, hi))
    return merged


def prefixes(span: Interval) -> t.List[Network]:
    """The fewest networks that make up an interval, ascending."""
    version, lo, hi = span
    if version == 4:
        return list(ipaddress.summarize_address_range(ipaddress.IPv4Address(lo), ipaddress.IPv4Address(hi)))
    return list(ipaddress.summarize_address_range(ipaddress.IPv6Address(lo), ipaddress.IPv6Address(hi)))


def subtract(networks: t.Iterable[Network], without: t.Iterable[Network]) -> t.List[Interval]:
    """What is in `networks` and not in `without`."""
    left = intervals(networks)
    for version, lo, hi in intervals(without):
        kept: t.List[Interval] = []
        for family, first, last in left:
            if family != version or hi < first or lo > last:
                kept.append((family, first, last))
                continue
            if first < lo:
                kept.append((family, first, lo - 1))
            if hi < last:
                kept.append((family, hi + 1, last))
        left = kept
    return left
