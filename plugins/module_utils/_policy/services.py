# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Services: a protocol and a port as one 24-bit number (protocol << 16 | port), and their text.

The protocol numbers are IANA's; each has its name here once.
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

Service = t.Tuple[int, int]  # lo, hi of the 24-bit service number, both included

#: https://www.iana.org/assignments/protocol-numbers: those that rules can name.
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
WITH_PORTS = ("tcp", "udp", "sctp")
ALL_SERVICES: t.Tuple[Service, ...] = ((0, 0xFFFFFF),)


# Services


def services(ports: t.Iterable[str]) -> t.Tuple[Service, ...]:
    """The service numbers of port texts in normal form, ascending and merged; all without any."""
    spans = sorted(parse_service(port, ()) for port in ports)
    if not spans:
        return ALL_SERVICES
    merged = [spans[0]]
    for lo, hi in spans[1:]:
        if lo <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(hi, merged[-1][1]))
        else:
            merged.append((lo, hi))
    return tuple(merged)


def service_number(text: str) -> int:
    """The one service `text` names, or the first of a range; raises PolicyError."""
    return parse_service(text, ())[0]


def parse_service(text: str, path: Path, rule: str = "") -> Service:
    """ "8080/tcp", "8000-8100/udp", "tcp", "icmp", "icmp:8", "icmp:3/4", "icmpv6:128", "proto:47"."""
    head, colon, tail = text.partition(":")
    if head in ("icmp", "icmpv6"):
        return _icmp_service(text, head, tail if colon else None, path, rule)
    if head == "proto" and colon:
        number = _bounded(tail, 0, 255, "IP protocol", text, path, rule)
        return number << 16, number << 16 | 0xFFFF
    if text in WITH_PORTS:
        return PROTOCOLS[text] << 16, PROTOCOLS[text] << 16 | 0xFFFF
    lo, hi, protocol = parse_port_range(text, path, rule)
    return PROTOCOLS[protocol] << 16 | lo, PROTOCOLS[protocol] << 16 | hi


def _icmp_service(text: str, protocol: str, tail: t.Optional[str], path: Path, rule: str) -> Service:
    base = PROTOCOLS[protocol] << 16
    if tail is None:
        return base, base | 0xFFFF
    kind, slash, code = tail.partition("/")
    number = base | _bounded(kind, 0, 255, "ICMP type", text, path, rule) << 8
    if not slash:
        return number, number | 0xFF
    number |= _bounded(code, 0, 255, "ICMP code", text, path, rule)
    return number, number


def parse_port_range(text: str, path: Path, rule: str) -> t.Tuple[int, int, str]:
    ports, slash, protocol = text.partition("/")
    if not slash:
        if re.match(r"\d+(-\d+)?\Z", text):
            raise PolicyError(
                f'the port "{text}" has no protocol', path, f"write {text}/tcp or {text}/udp", rule
            )
        raise PolicyError(
            f'"{text}" is no service',
            path,
            "write a port as 8080/tcp, a range as 8000-8100/tcp, or tcp, udp, sctp, icmp, icmp:8, icmpv6:128, proto:47."
            + did_you_mean(text, list(PROTOCOLS)),
            rule,
        )
    if protocol not in WITH_PORTS:
        raise PolicyError(
            f'"{text}" has no ports in the protocol "{protocol}"',
            path,
            "use {}.{}".format(", ".join(WITH_PORTS), did_you_mean(protocol, WITH_PORTS)),
            rule,
        )
    first, dash, last = ports.partition("-")
    lo = _bounded(first, 1, 65535, "port", text, path, rule)
    hi = _bounded(last, 1, 65535, "port", text, path, rule) if dash else lo
    if hi < lo:
        raise PolicyError(
            f'the range "{text}" is reversed', path, "write %d-%d/%s" % (hi, lo, protocol), rule
        )
    return lo, hi, protocol


def _bounded(text: str, lo: int, hi: int, what: str, whole: str, path: Path, rule: str) -> int:
    if not re.match(r"[0-9]{1,9}\Z", text) or not lo <= int(text) <= hi:
        raise PolicyError(
            f'"{text}" in "{whole}" is no {what}', path, "%ss go from %d to %d" % (what, lo, hi), rule
        )
    return int(text)


def service_text(service: Service) -> str:
    """The normal text of a service, the shortest there is."""
    lo, hi = service
    protocol, first, last = lo >> 16, lo & 0xFFFF, hi & 0xFFFF
    name = PROTOCOL_NAMES.get(protocol)
    if name is None:
        return "proto:%d" % protocol
    if (first, last) == (0, 0xFFFF):
        return name
    if name in WITH_PORTS:
        return "%d/%s" % (first, name) if first == last else "%d-%d/%s" % (first, last, name)
    if first & 0xFF == 0 and last & 0xFF == 0xFF:
        return "%s:%d" % (name, first >> 8)
    return "%s:%d/%d" % (name, first >> 8, first & 0xFF)
