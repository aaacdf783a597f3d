# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads links, addresses, neighbours, namespace numbers and routes from the kernel.

Takes from each message the few attributes that are asked for and skips the
rest unread: a library that decodes them all takes a third of a second for the
links of 500 containers, and the agent asks after every event.  Reads only.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import typing as t
from dataclasses import dataclass

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30
_RTM_NEWNSID, _RTM_GETNSID = 88, 90
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_EXT_MASK, _IFLA_LINK_NETNSID = 3, 10, 18, 29, 37
_IFLA_INFO_KIND = 1
_WANTED = frozenset((_IFLA_IFNAME, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_LINK_NETNSID))
_SKIP_STATISTICS = 1 << 3
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE = 1, 2, 4, 9, 15
_RTN_LOCAL = 2
_NDA_DST = 1
_NUD_INCOMPLETE, _NUD_FAILED = 0x01, 0x20
_RT_TABLE_MAIN = 254
_NETNSA_NSID, _NETNSA_FD = 1, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ROOM = 1 << 18
_ATTEMPTS = 5


@dataclass(frozen=True)
class Link:
    """One network device of the host's namespace."""

    index: int
    name: str
    kind: str
    master: int  # ifindex of the bridge it is a port of, or 0
    netnsid: int  # namespace of its peer as this namespace numbers it, or -1


class Rtnl:
    """`with Rtnl() as rtnl:`; raises OSError."""

    def __enter__(self) -> Rtnl:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._socket.settimeout(10.0)
        self._sequence = 0
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def links(self, known: t.Optional[t.Dict[bytes, Link]] = None) -> t.List[Link]:
        """Every link; `known` keeps them by their messages, for the next time: hardly one will have changed."""
        # The dump is also what makes the kernel number the namespaces of the links' peers.
        request = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + _attribute(
            _IFLA_EXT_MASK, struct.pack("=I", _SKIP_STATISTICS)
        )
        known = {} if known is None else known
        found: t.Dict[bytes, Link] = {}
        for data, start, end in self._dump(_RTM_GETLINK, _RTM_NEWLINK, request):
            message = data[start:end]
            found[message] = known.get(message) or _parse_link(message, 0, len(message))
        known.clear()
        known.update(found)
        return list(found.values())

    def default_routes(self) -> t.Set[int]:
        """The indexes of the links that default routes of the main table go out by."""
        found: t.Set[int] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=8BI", family, 0, 0, 0, 0, 0, 0, 0, 0)
            for data, start, end in self._dump(_RTM_GETROUTE, _RTM_NEWROUTE, request):
                if not data[start + 1]:  # the length of its destination
                    found.update(_outputs(data, start, end))
        return found

    def addresses(self) -> t.List[t.Tuple[int, bytes]]:
        """(link's index, address) of this namespace's own addresses."""
        found = []
        for data, start, end in self._dump(_RTM_GETADDR, _RTM_NEWADDR, struct.pack("=4BI", 0, 0, 0, 0, 0)):
            its = {kind: data[begin:stop] for kind, begin, stop in _attributes(data, start + 8, end)}
            address = its.get(_IFA_LOCAL) or its.get(_IFA_ADDRESS)  # on a point-to-point link they differ
            if address:
                found.append((struct.unpack_from("=I", data, start + 4)[0], address))
        return found

    def neighbours(self) -> t.Set[t.Tuple[int, bytes]]:
        """(link's index, address) of those that this host knows on its links, over IPv6."""
        found = set()
        request = struct.pack("=BxxxiHBB", socket.AF_INET6, 0, 0, 0, 0)
        for data, start, end in self._dump(_RTM_GETNEIGH, _RTM_NEWNEIGH, request):
            index, state = struct.unpack_from("=iH", data, start + 4)
            for kind, begin, stop in _attributes(data, start + 12, end):
                if kind == _NDA_DST and not state & (_NUD_INCOMPLETE | _NUD_FAILED):
                    found.add((index, data[begin:stop]))
        return found

    def route(self, target: bytes, source: bytes) -> t.Optional[t.Tuple[int, bool]]:
        """(index of the link, whether it is this host itself) that a packet of `source`, ours, goes to `target`."""
        family, bits = (socket.AF_INET, 32) if len(target) == 4 else (socket.AF_INET6, 128)
        request = struct.pack("=8BI", family, bits, bits, 0, 0, 0, 0, 0, 0)
        request += _attribute(_RTA_DST, target) + _attribute(_RTA_SRC, source)
        for data, start, end in self._ask(_RTM_GETROUTE, _NLM_F_REQUEST, _RTM_NEWROUTE, request):
            for kind, begin, _stop in _attributes(data, start + 12, end):
                if kind == _RTA_OIF:
                    return struct.unpack_from("=I", data, begin)[0], data[start + 7] == _RTN_LOCAL
        return None

    def nsid(self, path: str) -> int:
        """The number this namespace has for the one at `path`; -1 where there is none."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1  # the container has ended
        try:
            request = bytes(4) + _attribute(_NETNSA_FD, struct.pack("=I", handle))
            for data, start, end in self._ask(_RTM_GETNSID, _NLM_F_REQUEST, _RTM_NEWNSID, request):
                for kind, begin, _stop in _attributes(data, start + 4, end):
                    if kind == _NETNSA_NSID:
                        return int(struct.unpack_from("=i", data, begin)[0])
        except socket.timeout:
            raise
        except OSError:
            return -1  # just ended: the file is there, the namespace on it no longer
        finally:
            os.close(handle)
        return -1

    # The wire

    def _dump(self, kind: int, answer: int, body: bytes) -> t.List[t.Tuple[bytes, int, int]]:
        """Where each message's body begins and ends, in the datagram it came in; a dump that a change cut is repeated."""
        for _attempt in range(_ATTEMPTS - 1):
            try:
                return self._ask(kind, _NLM_F_REQUEST | _NLM_F_DUMP, answer, body)
            except InterruptedError:
                pass
        try:
            return self._ask(kind, _NLM_F_REQUEST | _NLM_F_DUMP, answer, body)
        except InterruptedError:
            raise OSError(errno.EAGAIN, "links or routes change faster than they can be read")

    def _ask(self, kind: int, flags: int, answer: int, body: bytes) -> t.List[t.Tuple[bytes, int, int]]:
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        dump, cut = flags & _NLM_F_DUMP, False
        found: t.List[t.Tuple[bytes, int, int]] = []
        while True:
            data = self._socket.recv(_ROOM)
            offset = 0
            while offset + _HEADER.size <= len(data):
                length, got, its_flags, sequence, _port = _HEADER.unpack_from(data, offset)
                if length < _HEADER.size:
                    raise OSError(errno.EBADMSG, "the kernel sent a message that is none")
                start, end = offset + _HEADER.size, offset + length
                offset += (length + 3) & ~3
                if sequence != self._sequence:
                    continue  # of a request that was given up
                cut = cut or bool(its_flags & _NLM_F_DUMP_INTR)
                if got == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", data, start)[0]
                    if number:
                        raise OSError(number, os.strerror(number))
                    return found
                if got == _NLMSG_DONE:
                    if cut:
                        raise InterruptedError
                    return found
                if got == answer:
                    found.append((data, start, end))
                    if not dump:
                        return found


def _attribute(kind: int, content: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(content), kind) + content


def _attributes(data: bytes, offset: int, end: int) -> t.Iterator[t.Tuple[int, int, int]]:
    """(kind, begin, end) of each attribute."""
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, offset + 4, offset + length
        offset += (length + 3) & ~3


def _parse_link(data: bytes, start: int, end: int) -> Link:
    name, kind, master, netnsid = "", "", 0, -1
    unpack, offset = _ATTRIBUTE.unpack_from, start + 16
    while offset + 4 <= end:  # by hand and not by _attributes(): a host may have thousands
        length, attribute = unpack(data, offset)
        if attribute in _WANTED:
            begin, stop = offset + 4, offset + length
            if attribute == _IFLA_IFNAME:
                name = _text(data, begin, stop)
            elif attribute == _IFLA_MASTER:
                (master,) = struct.unpack_from("=I", data, begin)
            elif attribute == _IFLA_LINK_NETNSID:
                (netnsid,) = struct.unpack_from("=i", data, begin)
                break  # the last of what is wanted
            else:
                for inner, inside, after in _attributes(data, begin, stop):
                    if inner == _IFLA_INFO_KIND:
                        kind = _text(data, inside, after)
        if length < 4:
            break
        offset += (length + 3) & ~3
    return Link(struct.unpack_from("=i", data, start + 4)[0], name, kind, master, netnsid)


def _outputs(data: bytes, start: int, end: int) -> t.Iterator[int]:
    table = data[start + 4]
    outputs = []
    for attribute, begin, stop in _attributes(data, start + 12, end):
        if attribute == _RTA_OIF:
            outputs.append(struct.unpack_from("=I", data, begin)[0])
        elif attribute == _RTA_TABLE:
            table = struct.unpack_from("=I", data, begin)[0]
        elif attribute == _RTA_MULTIPATH:
            while begin + 8 <= stop:  # struct rtnexthop: length, flags, hops, index, attributes
                length, index = struct.unpack_from("=HxxI", data, begin)
                outputs.append(index)
                begin += max((length + 3) & ~3, 8)
    return iter(outputs if table == _RT_TABLE_MAIN else ())


def _text(data: bytes, begin: int, end: int) -> str:
    return data[begin:end].split(b"\0", 1)[0].decode("utf-8", "replace")
