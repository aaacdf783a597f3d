# SPDX-License-Identifier: GPL-3.0-or-later
"""Packets byte by byte, right and wrong ones: everything from the IP header on. Pure functions."""

from __future__ import annotations

import ipaddress
import struct

TCP, UDP, ICMP, ICMP6, SCTP = 6, 17, 1, 58, 132
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, NO_NEXT = 0, 43, 44, 60, 59
SYN, RST, PSH, ACK = 2, 4, 8, 16


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def _pseudo(source: str, target: str, protocol: int, length: int) -> bytes:
    head = packed(source) + packed(target)
    if ":" in source:
        return head + struct.pack("!I3xB", length, protocol)
    return head + struct.pack("!BBH", 0, protocol, length)


def _summed(source: str, target: str, protocol: int, segment: bytes, place: int, wrong: bool) -> bytes:
    value = checksum(_pseudo(source, target, protocol, len(segment)) + segment) or 0xFFFF
    value ^= 0x5555 if wrong else 0
    return segment[:place] + struct.pack("!H", value) + segment[place + 2 :]


# Transport


def udp(source: str, target: str, ports: tuple[int, int], data: bytes, wrong: bool = False) -> bytes:
    segment = struct.pack("!HHHH", *ports, 8 + len(data), 0) + data
    return _summed(source, target, UDP, segment, 6, wrong)


def tcp(
    source: str,
    target: str,
    ports: tuple[int, int],
    flags: int,
    seq: int = 1,
    ack: int = 0,
    data: bytes = b"",
    wrong: bool = False,
) -> bytes:
    segment = struct.pack("!HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 64240, 0, 0) + data
    return _summed(source, target, TCP, segment, 16, wrong)


def sctp_init(ports: tuple[int, int], tag: int) -> bytes:
    chunk = struct.pack("!BBHIIHHI", 1, 0, 20, tag, 65536, 1, 1, 1)
    head = struct.pack("!HHI", *ports, 0)
    return head + struct.pack("<I", crc32c(head + bytes(4) + chunk)) + chunk


def icmp(kind: int, code: int, rest: bytes, data: bytes = b"") -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + rest + data
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def icmp6(source: str, target: str, kind: int, code: int, rest: bytes, data: bytes = b"") -> bytes:
    message = struct.pack("!BBH", kind, code, 0) + rest + data
    return _summed(source, target, ICMP6, message, 2, False)


def echo(source: str, target: str, data: bytes, number: int = 1) -> tuple[int, bytes]:
    """The protocol and the message of a ping."""
    rest = struct.pack("!HH", number, 1)
    if ":" in source:
        return ICMP6, icmp6(source, target, 128, 0, rest, data)
    return ICMP, icmp(8, 0, rest, data)


# Network


def ipv4(
    source: str,
    target: str,
    protocol: int,
    payload: bytes,
    *,
    ident: int = 0,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
    ttl: int = 64,
    cut: int | None = None,
) -> bytes:
    """`offset` in bytes; `cut`: so many bytes of the payload only, in a packet that says so."""
    payload = payload if cut is None else payload[:cut]
    size = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        4 << 4 | size // 4,
        0,
        size + len(payload),
        ident,
        (0x2000 if more else 0) | offset // 8,
        ttl,
        protocol,
        0,
        packed(source),
        packed(target),
    )
    head += options
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ipv6(source: str, target: str, following: int, payload: bytes, hops: int = 64) -> bytes:
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, hops)
    return head + packed(source) + packed(target) + payload


def ip(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    return (ipv6 if ":" in source else ipv4)(source, target, protocol, payload)


def extension(following: int, body: bytes = bytes([1, 4, 0, 0, 0, 0])) -> bytes:
    """A hop-by-hop, destination or routing header; the body is one PadN option."""
    assert (len(body) + 2) % 8 == 0
    return bytes([following, (len(body) + 2) // 8 - 1]) + body


def routing(following: int, segments_left: int = 0) -> bytes:
    """Of type 4 (segment routing's number), with nothing in it."""
    return extension(following, bytes([253, segments_left, 0, 0, 0, 0]))


def fragment(following: int, ident: int, offset: int, more: bool) -> bytes:
    return struct.pack("!BBHI", following, 0, offset | more, ident)
