# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reads links, addresses, neighbours, namespace numbers and routes from the kernel, and hears how links change.

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

from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import (
    LostMessages,
    Netlink,
    Payload,
    attribute,
    attributes,
    find,
    text,
)

# linux/rtnetlink.h, rtnetlink(7)
_RTM_NEWLINK, _RTM_DELLINK = 16, 17
_RTM_GETLINK, _RTM_GETADDR, _RTM_GETROUTE, _RTM_GETNEIGH, _RTM_GETNSID = 18, 22, 26, 30, 90
_RTNLGRP_LINK = 1
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_MULTIPATH, _RTA_TABLE = 1, 2, 4, 9, 15
_RTN_LOCAL = 2
_RT_TABLE_MAIN = 254
_RTEXT_FILTER_SKIP_STATS = 1 << 3
# linux/if_link.h
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 5, 10, 18
_IFLA_EXT_MASK, _IFLA_CARRIER, _IFLA_LINK_NETNSID, _IFLA_TARGET_NETNSID = 29, 33, 37, 46
_IFLA_INFO_KIND = 1
_WANTED = frozenset(
    (_IFLA_IFNAME, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO, _IFLA_CARRIER, _IFLA_LINK_NETNSID)
)
_INFO_KIND = frozenset((_IFLA_INFO_KIND,))
# linux/if_addr.h
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# linux/neighbour.h
_NDA_DST = 1
_NUD_INCOMPLETE, _NUD_FAILED = 0x01, 0x20
# linux/net_namespace.h
_NETNSA_NSID, _NETNSA_FD = 1, 3
# The numbers in attributes.
_U32, _S32 = struct.Struct("=I"), struct.Struct("=i")
# The structs that payloads begin with; attributes follow.
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change
_ADDRESS = struct.Struct("=4BI")  # struct ifaddrmsg: family, prefix length, flags, scope, index
_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # struct ndmsg: family, index, state, flags, type
_ROUTE = struct.Struct(
    "=8BI"
)  # struct rtmsg: family, bits of destination and source, tos, table, protocol, scope, type, flags
_NEXT_HOP = struct.Struct("=HxxI")  # struct rtnexthop: length, flags, hops, index
_NAMESPACE = struct.Struct("=Bxxx")  # struct rtgenmsg: family


@dataclass(frozen=True)
class Link:
    """One network device of the host's namespace."""

    index: int
    name: str
    kind: str
    master: int  # ifindex of the bridge it is a port of, or 0
    netnsid: int  # namespace of its peer as this namespace numbers it, or -1
    peer: int = 0  # ifindex of its peer, in the peer's namespace
    carrier: bool = False


class Rtnl:
    """`with Rtnl() as rtnl:`; raises OSError."""

    def __enter__(self) -> Rtnl:
        self._wire = Netlink(socket.NETLINK_ROUTE)
        return self

    def __exit__(self, *exc: object) -> None:
        self._wire.close()

    def links(self, known: t.Optional[t.Dict[bytes, Link]] = None) -> t.List[Link]:
        """Every link; `known` keeps them by their messages, for the next time: hardly one will have changed."""
        # The dump is also what makes the kernel number the namespaces of the links' peers.
        request = _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + attribute(
            _IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS)
        )
        known = {} if known is None else known
        found: t.Dict[bytes, Link] = {}
        for data, start, end in self._dump(_RTM_GETLINK, request):
            message = data[start:end]
            found[message] = known.get(message) or _parse_link(message, 0, len(message))
        known.clear()
        known.update(found)
        return list(found.values())

    def default_routes(self) -> t.Set[int]:
        """The indexes of the links that default routes of the main table go out by."""
        found: t.Set[int] = set()
        for family in (socket.AF_INET, socket.AF_INET6):
            request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
            for data, start, end in self._dump(_RTM_GETROUTE, request):
                if not data[start + 1]:  # the length of its destination
                    found.update(_outputs(data, start, end))
        return found

    def addresses(self) -> t.List[t.Tuple[int, bytes]]:
        """(link's index, address) of this namespace's own addresses."""
        found = []
        for data, start, end in self._dump(_RTM_GETADDR, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            its = {
                kind: data[begin:stop] for kind, begin, stop in attributes(data, start + _ADDRESS.size, end)
            }
            address = its.get(_IFA_LOCAL) or its.get(_IFA_ADDRESS)  # on a point-to-point link they differ
            if address:
                found.append((_U32.unpack_from(data, start + 4)[0], address))
        return found

    def neighbours(self) -> t.Set[t.Tuple[int, bytes]]:
        """(link's index, address) of those that this host knows on its links, over IPv6."""
        found = set()
        request = _NEIGHBOUR.pack(socket.AF_INET6, 0, 0, 0, 0)
        for data, start, end in self._dump(_RTM_GETNEIGH, request):
            index, state = struct.unpack_from("=iH", data, start + 4)
            for kind, begin, stop in attributes(data, start + _NEIGHBOUR.size, end):
                if kind == _NDA_DST and not state & (_NUD_INCOMPLETE | _NUD_FAILED):
                    found.add((index, data[begin:stop]))
        return found

    def route(self, target: bytes, source: bytes) -> t.Optional[t.Tuple[int, bool]]:
        """(index of the link, whether it is this host itself) that a packet of `source`, ours, goes to `target`."""
        family, bits = (socket.AF_INET, 32) if len(target) == 4 else (socket.AF_INET6, 128)
        request = _ROUTE.pack(family, bits, bits, 0, 0, 0, 0, 0, 0)
        request += attribute(_RTA_DST, target) + attribute(_RTA_SRC, source)
        for data, start, end in self._wire.request(_RTM_GETROUTE, request):
            for kind, begin, _stop in attributes(data, start + _ROUTE.size, end):
                if kind == _RTA_OIF:
                    return _U32.unpack_from(data, begin)[0], data[start + 7] == _RTN_LOCAL
        return None

    def peer_address(self, link: Link) -> bytes:
        """The MAC address of a veth link's peer in another namespace; b"" where the peer is gone, or cannot be asked about.

        The kernel wants CAP_NET_ADMIN over that namespace, which who has it in the initial user namespace has over all.
        """
        request = _LINK.pack(socket.AF_UNSPEC, 0, link.peer, 0, 0) + attribute(
            _IFLA_TARGET_NETNSID, _S32.pack(link.netnsid)
        )
        request += attribute(_IFLA_EXT_MASK, _U32.pack(_RTEXT_FILTER_SKIP_STATS))
        try:
            for data, start, end in self._wire.request(_RTM_GETLINK, request):
                found = find(data, start + _LINK.size, end, frozenset((_IFLA_ADDRESS,)))
                if found:
                    begin, stop = found[_IFLA_ADDRESS]
                    return data[begin:stop]
        except TimeoutError:
            raise
        except OSError:
            pass
        return b""

    def nsid(self, path: str) -> int:
        """The number this namespace has for the one at `path`; -1 where there is none."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return -1  # the container has ended
        try:
            request = _NAMESPACE.pack(socket.AF_UNSPEC) + attribute(_NETNSA_FD, _U32.pack(handle))
            for data, start, end in self._wire.request(_RTM_GETNSID, request):
                for kind, begin, _stop in attributes(data, start + _NAMESPACE.size, end):
                    if kind == _NETNSA_NSID:
                        return int(_S32.unpack_from(data, begin)[0])
        except TimeoutError:
            raise
        except OSError:
            return -1  # just ended: the file is there, the namespace on it no longer
        finally:
            os.close(handle)
        return -1

    def _dump(self, kind: int, request: bytes) -> t.List[Payload]:
        try:
            return self._wire.dump(kind, request)
        except InterruptedError:
            raise OSError(errno.EAGAIN, "links or routes change faster than they can be read") from None


class LinkChanges:
    """The kernel's notifications about this namespace's links. Raises OSError."""

    def __init__(self) -> None:
        self._wire = Netlink(socket.NETLINK_ROUTE)
        try:
            self._wire.join(_RTNLGRP_LINK)
        except OSError:
            self._wire.close()
            raise

    def close(self) -> None:
        self._wire.close()

    def fileno(self) -> int:
        """For select()."""
        return self._wire.fileno()

    def read(self) -> t.Tuple[t.List[t.Tuple[Link, bool]], bool]:
        """What has come by now: (link, whether it is there), oldest first; and whether notifications were lost on the way."""
        found: t.List[t.Tuple[Link, bool]] = []
        lost = False
        while True:
            try:
                news = self._wire.receive(0)
            except BlockingIOError:
                return found, lost
            except LostMessages:
                lost = True
                continue
            for kind, (data, start, end) in news:
                # A bridge has more to say of its ports, under its own family.
                if kind in (_RTM_NEWLINK, _RTM_DELLINK) and data[start] == socket.AF_UNSPEC:
                    found.append((_parse_link(data, start, end), kind == _RTM_NEWLINK))


def _parse_link(data: bytes, start: int, end: int) -> Link:
    kind, master, netnsid, peer, carrier = "", 0, -1, 0, False
    found = find(data, start + _LINK.size, end, _WANTED)
    begin, stop = found.get(_IFLA_IFNAME, (0, 0))
    name = text(data[begin:stop])
    if _IFLA_LINKINFO in found:
        info = find(data, *found[_IFLA_LINKINFO], _INFO_KIND)
        if info:
            begin, stop = info[_IFLA_INFO_KIND]
            kind = text(data[begin:stop])
    if _IFLA_MASTER in found:
        (master,) = _U32.unpack_from(data, found[_IFLA_MASTER][0])
    if _IFLA_LINK_NETNSID in found:
        (netnsid,) = _S32.unpack_from(data, found[_IFLA_LINK_NETNSID][0])
    if _IFLA_LINK in found:
        (peer,) = _U32.unpack_from(data, found[_IFLA_LINK][0])
    if _IFLA_CARRIER in found:
        carrier = bool(data[found[_IFLA_CARRIER][0]])
    return Link(_S32.unpack_from(data, start + 4)[0], name, kind, master, netnsid, peer, carrier)


def _outputs(data: bytes, start: int, end: int) -> t.Iterator[int]:
    table = data[start + 4]
    outputs = []
    for attr, begin, stop in attributes(data, start + _ROUTE.size, end):
        if attr == _RTA_OIF:
            outputs.append(_U32.unpack_from(data, begin)[0])
        elif attr == _RTA_TABLE:
            table = _U32.unpack_from(data, begin)[0]
        elif attr == _RTA_MULTIPATH:
            while begin + _NEXT_HOP.size <= stop:
                length, index = _NEXT_HOP.unpack_from(data, begin)
                outputs.append(index)
                begin += max((length + 3) & ~3, _NEXT_HOP.size)
    return iter(outputs if table == _RT_TABLE_MAIN else ())
