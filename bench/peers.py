# SPDX-License-Identifier: GPL-3.0-or-later
"""The peers, in the benchmark's machine: the same permission in other engines' words.

Each lets through what is addressed to one of n containers, by protocol and port, and drops the rest; what is looked for is the
last entry. Behind that stands a rule for answers, so that the permission is of use; `first` puts it in front, as is customary,
and established packets are then not judged at all.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from bench.rulesets import PORT, addresses

NFT = """table {family} bench {{
{entries}
  chain f {{ type filter hook forward priority 0; policy drop;
    {rules}
  }}
}}
"""
LEGACY, ON_NFT = "-legacy", "-nft"
Run = Callable[..., object]


def containers(n: int, version: int) -> list[str]:
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return [str(make(pair[version == 6])) for pair in addresses(n)]


def nft(kind: str, n: int, version: int, first: bool = False) -> str:
    """A ruleset for `nft -f`: kind `set` or `map`."""
    ip = "ip" if version == 4 else "ip6"
    verdict = " : accept" if kind == "map" else ""
    held = ", ".join(f"{address} . udp . {PORT}{verdict}" for address in containers(n, version))
    key = f"type ipv{version}_addr . inet_proto . inet_service{' : verdict' if verdict else ''};"
    look = f"{ip} daddr . meta l4proto . th dport"
    lookup = f"counter {look} vmap @x" if kind == "map" else f"{look} @x counter accept"
    rules = [lookup, "ct state established,related counter accept"]
    return NFT.format(
        family=ip,
        entries=f"  {kind} x {{ {key} elements = {{ {held} }} }}",
        rules="\n    ".join(reversed(rules) if first else rules),
    )


def tables(rules: list[str], first: bool) -> str:
    """A filter table for iptables-restore around the rules."""
    answers = "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
    lines = [answers, *rules] if first else [*rules, answers]
    return "\n".join(["*filter", ":FORWARD DROP [0:0]", *lines, "COMMIT", ""])


def linear(n: int, version: int, first: bool = False) -> str:
    rule = f"-A FORWARD -d {{}} -p udp -m udp --dport {PORT} -j ACCEPT"
    return tables([rule.format(address) for address in containers(n, version)], first)


def ipset(n: int, version: int) -> str:
    """A set for `ipset restore`."""
    family = "inet" if version == 4 else "inet6"
    lines = [f"create x{version} hash:ip,port family {family} maxelem 1048576"]
    lines += [f"add x{version} {address},udp:{PORT}" for address in containers(n, version)]
    return "\n".join([*lines, ""])


def set_up(run: Run, kind: str, n: int, backend: str = LEGACY, first: bool = False) -> None:
    for version in (4, 6):
        restore = f"ip{'6' if version == 6 else ''}tables{backend}-restore"
        if kind in ("set", "map"):
            run("nft", "-f", "-", text=nft(kind, n, version, first))
        elif kind == "ipset":
            run("ipset", "restore", text=ipset(n, version))
            run(restore, text=tables([f"-A FORWARD -m set --match-set x{version} dst,dst -j ACCEPT"], first))
        else:
            run(restore, text=linear(n, version, first))


def clear(run: Run) -> None:
    """Behind the flushing of the tables."""
    for family in ("ip", "ip6"):
        run("nft", "delete", "table", family, "bench", check=False)
    run("ipset", "destroy", check=False)
