# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The module's log lines, read from their nfnetlink_log group.

A line is a packet's first bytes with a prefix that kmod/verdict.c writes.
Containers are named by who asks, not here.  Numbers and structs are those of
linux/netfilter/nfnetlink_log.h and linux/netfilter/nfnetlink.h.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import struct
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Busy,
    KernelError,
    PermissionDenied,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import (
    LostMessages,
    Netlink,
    attribute,
    attributes,
    text,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

_NETLINK_NETFILTER = 12  # linux/netlink.h
_NFNL_SUBSYS_ULOG = 4
_NFULNL_MSG_PACKET = _NFNL_SUBSYS_ULOG << 8
_NFULNL_MSG_CONFIG = _NFNL_SUBSYS_ULOG << 8 | 1
_HEADER = struct.Struct("!BBH")  # struct nfgenmsg: family, version, and here the group
_NFULA_CFG_CMD, _NFULA_CFG_MODE, _NFULA_CFG_TIMEOUT, _NFULA_CFG_QTHRESH = 1, 2, 4, 5
_NFULNL_CFG_CMD_BIND, _NFULNL_COPY_PACKET = 1, 2
_NFULA_TIMESTAMP, _NFULA_IFINDEX_INDEV, _NFULA_IFINDEX_OUTDEV, _NFULA_IFINDEX_PHYSINDEV = 3, 4, 5, 6
_NFULA_PAYLOAD, _NFULA_PREFIX = 9, 10
_SNAP_BYTES = 128  # enough for every header a line shows
_TIMEOUT_CENTISECONDS = 10

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
        self._wire = Netlink(_NETLINK_NETFILTER)

    def __enter__(self) -> LogReader:
        try:
            self._configure(attribute(_NFULA_CFG_CMD, bytes([_NFULNL_CFG_CMD_BIND])))
            self._configure(
                attribute(_NFULA_CFG_MODE, struct.pack("!IBx", _SNAP_BYTES, _NFULNL_COPY_PACKET))
                + attribute(_NFULA_CFG_TIMEOUT, struct.pack("!I", _TIMEOUT_CENTISECONDS))
                + attribute(_NFULA_CFG_QTHRESH, struct.pack("!I", 1))
            )
        except OSError as error:
            self._wire.close()
            raise self._refused(error) from None
        return self

    def __exit__(self, *exc: object) -> None:
        self._wire.close()

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
        self._wire.request(_NFULNL_MSG_CONFIG, _HEADER.pack(socket.AF_UNSPEC, 0, self._group) + attrs)

    def lines(self) -> t.Iterator[Json]:
        """Each line as a record; waits for the next one."""
        while True:
            try:
                received = self._wire.receive()
            except LostMessages:
                continue  # a packet's line is not to be had again; the counters have the packet
            for kind, (data, begin, end) in received:
                line = parse_message(data[begin:end]) if kind == _NFULNL_MSG_PACKET else None
                if line is not None:
                    yield line


def parse_message(body: bytes) -> t.Optional[Json]:
    """The record of one message; None where it is not the module's."""
    attrs = {kind: body[begin:end] for kind, begin, end in attributes(body, _HEADER.size, len(body))}
    words = _WORDS.match(text(attrs.get(_NFULA_PREFIX, b"")))
    if words is None:
        return None
    line: Json = {
        "time": _time(attrs.get(_NFULA_TIMESTAMP)),
        "audit": bool(words["audit"]),
        "action": words["action"],
        "class": words["class"] if words["class"] != "-" else None,
        "rule": words["rule"],
        "reason": words["reason"],
        "in": _link_name(attrs.get(_NFULA_IFINDEX_INDEV)),
        "port": _link_name(attrs.get(_NFULA_IFINDEX_PHYSINDEV)),
        "out": _link_name(attrs.get(_NFULA_IFINDEX_OUTDEV)),
    }
    line.update(describe_packet(attrs.get(_NFULA_PAYLOAD, b"")))
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
