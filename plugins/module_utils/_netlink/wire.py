# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The netlink socket under generic netlink, rtnetlink and nfnetlink_log.

Sends requests, collects their answers, and builds and walks attributes.  Knows
the headers that every family shares, and no family's payload.  An answer is
(datagram, begin, end) and not a copy: the agent reads hundreds of links after
every event.  Numbers and structs are those of linux/netlink.h, see netlink(7).
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import typing as t

_SOL_NETLINK = 270  # linux/socket.h
_NETLINK_ADD_MEMBERSHIP, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 1, 10, 11
_NLMSG_ERROR, _NLMSG_DONE, _NLMSG_MIN_TYPE = 2, 3, 0x10
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP_INTR, _NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_NLMSGERR_ATTR_MSG = 1
_NLA_TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port id
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr: length, type
_ERRNO = struct.Struct("=i")  # struct nlmsgerr begins with it, NLMSG_DONE consists of it

#: Seconds. The kernel answers while it takes the request, so that this passes only where something is broken.
ANSWER_TIMEOUT = 10.0
#: Bytes: a datagram of a dump has 32 KiB at most, any other answer much less than this.
_DATAGRAM = 1 << 18
#: Bytes: an acknowledgement finds room behind a large answer, and log lines while the reader is busy.
_RECEIVE_BUFFER = 1 << 20
_DUMP_ATTEMPTS = 5

#: Where a message's payload is: datagram, begin, end.
Payload = t.Tuple[bytes, int, int]


class NetlinkError(OSError):
    """The kernel refused a request; `words` is its extended acknowledgement, or ''."""

    def __init__(self, number: int, words: str) -> None:
        super().__init__(number, words or os.strerror(number))
        self.words = words


class LostMessages(OSError):
    """The kernel had notifications for which the socket had no room: read again what they would have said."""


class Netlink:
    """A socket of one netlink protocol, `with Netlink(socket.NETLINK_ROUTE) as wire:`; for one thread at a time.

    Every call raises NetlinkError where the kernel refuses, TimeoutError where
    it does not answer, and OSError where the socket fails.
    """

    def __init__(self, protocol: int) -> None:
        self._sequence = 0
        self._buffer = memoryview(bytearray(_DATAGRAM))
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            # A refusal need not repeat the request.
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind((0, 0))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """For select()."""
        return self._socket.fileno()

    def request(self, kind: int, payload: bytes) -> t.List[Payload]:
        """The answers to a request, once the kernel has acknowledged it."""
        return self._exchange(kind, _NLM_F_ACK, payload)[0]

    def dump(self, kind: int, payload: bytes) -> t.List[Payload]:
        """The answers to a dump; one that a change cut is asked for again. InterruptedError: changes keep coming."""
        for _attempt in range(_DUMP_ATTEMPTS):
            found, interrupted = self._exchange(kind, _NLM_F_DUMP, payload)
            if not interrupted:
                return found
        raise InterruptedError(errno.EINTR, "the kernel's tables change faster than they can be read")

    def join(self, group: int) -> None:
        """Subscribes to a multicast group, by its number; receive() has what comes."""
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)

    def receive(self, timeout: t.Optional[float] = None) -> t.List[t.Tuple[int, Payload]]:
        """The notifications of the next datagram, with their types; waits for it `timeout` seconds. Raises LostMessages."""
        try:
            data = self._receive(timeout)
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                raise LostMessages(errno.ENOBUFS, "notifications of the kernel were lost") from None
            raise
        return [
            (kind, (data, begin, end))
            for kind, _flags, _sequence, begin, end in messages(data)
            if kind >= _NLMSG_MIN_TYPE
        ]

    def _exchange(self, kind: int, flags: int, payload: bytes) -> t.Tuple[t.List[Payload], bool]:
        """The answers, and whether a change cut the dump."""
        self._sequence = own = self._sequence + 1
        self._send(_HEADER.pack(_HEADER.size + len(payload), kind, _NLM_F_REQUEST | flags, own, 0) + payload)
        found: t.List[Payload] = []
        cut = 0
        while True:
            data = self._receive(ANSWER_TIMEOUT)
            for got, its_flags, sequence, begin, end in messages(data):
                if sequence != own:
                    continue  # of a request that was given up
                cut |= its_flags & _NLM_F_DUMP_INTR
                if got >= _NLMSG_MIN_TYPE:
                    found.append((data, begin, end))
                elif got in (_NLMSG_ERROR, _NLMSG_DONE):
                    number = _ERRNO.unpack_from(data, begin)[0] if end - begin >= _ERRNO.size else 0
                    if number < 0:
                        raise NetlinkError(-number, _words(data, got, its_flags, begin, end))
                    return found, bool(cut)

    def _send(self, message: bytes) -> None:
        self._socket.send(message)

    def _receive(self, timeout: t.Optional[float]) -> bytes:
        """The next datagram of the kernel's."""
        if self._socket.gettimeout() != timeout:
            self._socket.settimeout(timeout)
        while True:
            try:
                # With MSG_TRUNC the size is the datagram's own, however much of it the buffer holds.
                size, (sender, _groups) = self._socket.recvfrom_into(self._buffer, 0, socket.MSG_TRUNC)
            except socket.timeout:
                raise TimeoutError(errno.ETIMEDOUT, f"nothing came from the kernel for {timeout} s") from None
            if sender != 0:
                continue  # of another process: the kernel's port id is 0
            if size > len(self._buffer):
                raise OSError(errno.EMSGSIZE, f"the kernel sent {size} bytes at once")
            return bytes(self._buffer[:size])


def messages(data: bytes) -> t.Iterator[t.Tuple[int, int, int, int, int]]:
    """(type, flags, sequence number, begin, end) of each message in a datagram; begin and end are its payload's."""
    offset, unpack = 0, _HEADER.unpack_from
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _port = unpack(data, offset)
        end = offset + length
        if length < 16 or end > len(data):
            raise OSError(
                errno.EBADMSG, f"the kernel sent a message of {length} bytes in {len(data) - offset}"
            )
        yield kind, flags, sequence, offset + 16, end
        offset += (length + 3) & ~3


def attributes(data: bytes, begin: int, end: int) -> t.Iterator[t.Tuple[int, int, int]]:
    """(type, begin, end) of each attribute there; ends at one that does not fit. A nested one is walked the same way."""
    unpack = _ATTRIBUTE.unpack_from
    while begin + 4 <= end:
        length, kind = unpack(data, begin)
        if length < 4 or begin + length > end:
            return
        yield kind & _NLA_TYPE_MASK, begin + 4, begin + length
        begin += (length + 3) & ~3


def find(data: bytes, begin: int, end: int, kinds: t.AbstractSet[int]) -> t.Dict[int, t.Tuple[int, int]]:
    """Where the attributes of these types are; stops when it has all. attributes() takes longer in a long message."""
    found: t.Dict[int, t.Tuple[int, int]] = {}
    unpack, mask = _ATTRIBUTE.unpack_from, _NLA_TYPE_MASK
    while begin + 4 <= end:
        length, kind = unpack(data, begin)
        if length < 4:
            break
        if kind & mask in kinds and begin + length <= end:
            found[kind & mask] = begin + 4, begin + length
            if len(found) == len(kinds):
                break
        begin += (length + 3) & ~3
    return found


def attribute(kind: int, content: bytes) -> bytes:
    """An attribute with its padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content + bytes(-len(content) % 4)


def text(content: bytes) -> str:
    """The string in an attribute, up to its NUL."""
    return content.split(b"\0", 1)[0].decode("utf-8", "replace")


def _words(data: bytes, kind: int, flags: int, begin: int, end: int) -> str:
    """The kernel's own words (NLMSGERR_ATTR_MSG) in an acknowledgement or at the end of a dump; '' without any."""
    if not flags & _NLM_F_ACK_TLVS:
        return ""
    begin += _ERRNO.size
    if kind == _NLMSG_ERROR:
        # The request's header is echoed, and the whole request unless it is capped.
        if begin + _HEADER.size > end:
            return ""
        length = _HEADER.size if flags & _NLM_F_CAPPED else _HEADER.unpack_from(data, begin)[0]
        begin += (length + 3) & ~3
    for attr, start, stop in attributes(data, begin, end):
        if attr == _NLMSGERR_ATTR_MSG:
            return text(data[start:stop])
    return ""
