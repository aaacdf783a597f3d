# SPDX-License-Identifier: GPL-3.0-or-later
"""Log lines: what the kernel sends, as records and as text. The bytes are those of a real packet's headers."""

from __future__ import annotations

import ipaddress
import struct
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import containers
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.containers import Names
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.log import log_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import nflog as nflog
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import attribute

Json = t.Dict[str, t.Any]


def ip4(protocol: int = 6, offset: int = 0, options: bytes = b"", rest: bytes = b"\x9c\x40\x15\x38") -> bytes:
    head = struct.pack("!BBHHHBBH", 0x45 + len(options) // 4, 0, 0, 0, offset, 64, protocol, 0)
    return head + bytes([172, 18, 0, 2, 172, 18, 0, 3]) + options + rest


def ip6(protocol: int = 17, rest: bytes = b"\x9c\x40\x00\x35") -> bytes:
    ends = b"".join(ipaddress.IPv6Address(a).packed for a in ("fd00::2", "fd00::3"))
    return struct.pack("!IHBB", 6 << 28, len(rest), protocol, 64) + ends + rest


def message(prefix: str, payload: bytes = b"") -> bytes:
    attrs = attribute(10, prefix.encode() + b"\0") + attribute(3, struct.pack("!QQ", 1700000000, 500000))
    return b"\0\0\0\7" + attrs + (attribute(9, payload) if payload else b"")


def test_a_line_of_a_rule() -> None:
    line = nflog.parse_message(message("bridgewarden: deny inter_container rule no: way, rule 2", ip4()))
    assert line is not None
    assert (line["audit"], line["action"], line["class"]) == (False, "deny", "inter_container")
    assert (line["rule"], line["reason"]) == ("no: way, rule 2", None)
    assert (line["from"], line["to"], line["protocol"]) == ("172.18.0.2", "172.18.0.3", "tcp")
    assert (line["from_port"], line["to_port"], line["time"]) == (40000, 5432, 1700000000.5)


def test_a_line_of_a_reason() -> None:
    line = nflog.parse_message(message("bridgewarden: audit deny - invalid", ip6()))
    assert line is not None
    assert (line["audit"], line["class"], line["rule"], line["reason"]) == (True, None, None, "invalid")
    assert (line["to"], line["protocol"], line["to_port"]) == ("fd00::3", "udp", 53)


@pytest.mark.parametrize("prefix", ["", "ulogd: hello", "bridgewarden:", "bridgewarden: deny"])
def test_lines_of_others_are_passed_over(prefix: str) -> None:
    assert nflog.parse_message(message(prefix, ip4())) is None


@pytest.mark.parametrize(
    ("data", "protocol", "port"),
    [
        (ip4(options=b"\1\1\1\1"), "tcp", 5432),
        (ip4(offset=5), "tcp", None),  # a later fragment
        (ip4(protocol=47), "proto:47", None),
        (ip4(rest=b""), "tcp", None),
        (ip6(60, struct.pack("!BB6x", 6, 0) + b"\x9c\x40\x15\x38"), "tcp", 5432),
        (ip6(58, b"\x80\0\0\0"), "icmpv6", None),
        (b"\x45\0", None, None),
        (b"", None, None),
    ],
)
def test_packets(data: bytes, protocol: t.Optional[str], port: t.Optional[int]) -> None:
    found = nflog.describe_packet(data)
    assert (found["protocol"], found["to_port"]) == (protocol, port)


def test_a_line_as_text() -> None:
    line = nflog.parse_message(message("bridgewarden: deny inter_container default", ip4()))
    assert line is not None
    line.update({"from_container": "web", "to_container": None, "in": "br-1", "out": "br-1"})
    text = log_text(line)
    assert "deny inter_container web (172.18.0.2) -> 172.18.0.3 5432/tcp: default (in br-1 out br-1)" in text


def test_names_are_asked_for_anew_but_not_at_every_packet(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: t.List[str] = []

    def answer(socket: str) -> t.Dict[str, str]:
        asked.append(socket)
        return {"172.18.0.2": "web"}

    monkeypatch.setattr(containers, "container_names", answer)
    names = Names("unix:///x", patience=3600)
    assert [names.of(a) for a in ("172.18.0.2", "172.18.0.9", None, "172.18.0.2")] == [
        "web",
        None,
        None,
        "web",
    ]
    assert len(asked) == 1
