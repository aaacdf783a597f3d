# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module's log lines, read from their nfnetlink_log group.

A line is a packet's first bytes with a prefix that kmod/verdict.c writes.
Containers are named by who asks, not here.  Plain netlink on purpose: pyroute2
knows nothing of this protocol on the oldest targets.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import struct
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Busy,
    KernelError,
    PermissionDenied,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

_NETLINK_NETFILTER = 12
_SUBSYSTEM = 4 << 8  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = 0, 1
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT, _CFG_THRESHOLD = 1, 2, 4, 5
_BIND, _COPY_PACKET = 1, 2
_TIMESTAMP, _INDEV, _OUTDEV, _PHYSINDEV, _PAYLOAD, _PREFIX = 3, 4, 5, 6, 9, 10
_SNAP = 128  # enough for every header a line shows

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
_EXTENSIONS = (0, 43, 44, 60)  # of IPv6: those that may stand before the transport

_WORDS = re.compile(
    r"bridgewarden: (?P<audit>audit )?(?P<action>\w+) (?P<class>[\w-]+) (?:rule (?P<rule>.*)|(?P<reason>\w+))\Z",
    re.S,
)


class LogReader:
    """`with Reader(group) as reader: for line in reader.lines(): ...`; one reader a group at a time."""

    def __init__(self, group: int) -> None:
        self._group = group
        self._place = "nfnetlink_log group %d" % group
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)

    def __enter__(self) -> LogReader:
        self._socket.bind((0, 0))
        try:
            self._configure(_attr(_CFG_CMD, bytes([_BIND])))
            self._configure(
                _attr(_CFG_MODE, struct.pack("!IBx", _SNAP, _COPY_PACKET))
                + _attr(_CFG_TIMEOUT, struct.pack("!I", 10))  # hundredths of a second
                + _attr(_CFG_THRESHOLD, struct.pack("!I", 1))
            )
        except OSError as error:
            self._socket.close()
            raise self._refused(error) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def _refused(self, error: OSError) -> Exception:
        if error.errno == errno.EBUSY:
            return Busy(
                "somebody else reads the log already",
                self._place,
                "stop ulogd or tcpdump, or choose another group by bridgewarden_log_group",
                errno.EBUSY,
            )
        if error.errno in (errno.EPERM, errno.EACCES):
            return PermissionDenied("the log cannot be read", self._place, "run as root on the host")
        return KernelError(
            f"the log cannot be read: {error.strerror}",
            self._place,
            "load it with 'modprobe nfnetlink_log'",
            error.errno or 0,
        )

    def _configure(self, attrs: bytes) -> None:
        body = struct.pack("!BBH", socket.AF_UNSPEC, 0, self._group) + attrs
        head = struct.pack("=IHHII", 16 + len(body), _SUBSYSTEM | _CONFIG, 0x5, 1, 0)
        self._socket.send(head + body)
        for kind, answer in _messages(self._socket.recv(65536)):
            if kind == 2:
                number = -struct.unpack_from("=i", answer)[0]
                if number:
                    raise OSError(number, os.strerror(number))

    def lines(self) -> t.Iterator[Json]:
        """Each line as a record; waits for the next one."""
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    continue  # lines were lost between the kernel and us
                raise
            for kind, body in _messages(data):
                line = parse_message(body) if kind == _SUBSYSTEM | _PACKET else None
                if line is not None:
                    yield line


def parse_message(body: bytes) -> t.Optional[Json]:
    """The record of one message; None where it is not the module's."""
    attrs = _attrs(body[4:])
    words = _WORDS.match(attrs.get(_PREFIX, b"").split(b"\0", 1)[0].decode("utf-8", "replace"))
    if words is None:
        return None
    line: Json = {
        "time": _time(attrs.get(_TIMESTAMP)),
        "audit": bool(words["audit"]),
        "action": words["action"],
        "class": words["class"] if words["class"] != "-" else None,
        "rule": words["rule"],
        "reason": words["reason"],
        "in": _link_name(attrs.get(_INDEV)),
        "port": _link_name(attrs.get(_PHYSINDEV)),
        "out": _link_name(attrs.get(_OUTDEV)),
    }
    line.update(describe_packet(attrs.get(_PAYLOAD, b"")))
    return line


def describe_packet(data: bytes) -> Json:
    """Who to whom, as far as the bytes tell."""
    found: Json = {"from": None, "to": None, "protocol": None, "from_port": None, "to_port": None}
    if len(data) >= 20 and data[0] >> 4 == 4:
        source, target, number, offset = data[12:16], data[16:20], data[9], (data[0] & 15) * 4
        if struct.unpack_from("!H", data, 6)[0] & 0x1FFF:
            offset = len(data)  # a later fragment has no ports
    elif len(data) >= 40 and data[0] >> 4 == 6:
        source, target, number, offset = data[8:24], data[24:40], data[6], 40
        while number in _EXTENSIONS and offset + 8 <= len(data):
            size = 8 if number == 44 else (data[offset + 1] + 1) * 8
            number, offset = data[offset], offset + size
    else:
        return found
    found["from"], found["to"] = str(ipaddress.ip_address(source)), str(ipaddress.ip_address(target))
    found["protocol"] = _PROTOCOLS.get(number, "proto:%d" % number)
    if number in (6, 17, 132) and offset + 4 <= len(data):
        found["from_port"], found["to_port"] = struct.unpack_from("!HH", data, offset)
    return found


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _messages(data: bytes) -> t.Iterator[t.Tuple[int, bytes]]:
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if length < 16 or at + length > len(data):
            return
        yield kind, data[at + 16 : at + length]
        at += (length + 3) & ~3


def _attrs(data: bytes) -> t.Dict[int, bytes]:
    found: t.Dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[at + 4 : at + length]
        at += (length + 3) & ~3
    return found


def _time(data: t.Optional[bytes]) -> t.Optional[float]:
    if data is None or len(data) < 16:
        return None
    seconds, micro = struct.unpack_from("!QQ", data)
    return float(seconds + micro / 1e6)


def _link_name(data: t.Optional[bytes]) -> t.Optional[str]:
    if data is None or len(data) < 4:
        return None
    number = struct.unpack_from("!I", data)[0]
    try:
        return socket.if_indextoname(number)
    except OSError:
        return "#%d" % number
