# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Generic netlink: finds a family by its name and sends it requests.

Knows no family's commands and attributes.  Numbers and structs are those of
linux/genetlink.h.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import struct
import sys
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import (
    Netlink,
    Payload,
    attribute,
    attributes,
    text,
)

_NETLINK_GENERIC = 16  # linux/netlink.h
_GENL_ID_CTRL, _CTRL_VERSION = 0x10, 1
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME, _CTRL_ATTR_VERSION = 1, 2, 3
_HEADER = struct.Struct("=BBxx")  # struct genlmsghdr: command, version, reserved


class Attributes(t.Dict[int, t.List[bytes]]):
    """The attributes of an answer: each type's values, in their order."""

    def every(self, kind: int) -> t.List[bytes]:
        return self.get(kind, [])

    def first(self, kind: int) -> t.Optional[bytes]:
        return next(iter(self.every(kind)), None)

    def number(self, kind: int) -> int:
        """Of any size, in the host's byte order; 0 without such an attribute."""
        return int.from_bytes(self.first(kind) or b"", sys.byteorder)

    def texts(self, kind: int) -> t.List[str]:
        return [text(content) for content in self.every(kind)]

    def text(self, kind: int) -> str:
        """Without such an attribute ''."""
        return text(self.first(kind) or b"")


class GenericFamily:
    """One family's socket, `with GenericFamily(name) as family:`; raises what Netlink does, ENOENT without that family."""

    def __init__(self, name: str) -> None:
        self._wire = Netlink(_NETLINK_GENERIC)
        try:
            self._find(name)
        except BaseException:
            self._wire.close()
            raise

    def _find(self, name: str) -> None:
        wanted = attribute(_CTRL_ATTR_FAMILY_NAME, name.encode("ascii") + b"\0")
        request = _HEADER.pack(_CTRL_CMD_GETFAMILY, _CTRL_VERSION) + wanted
        for answer in self._wire.request(_GENL_ID_CTRL, request):
            found = _attributes_of(answer)
            self._id, self.version = found.number(_CTRL_ATTR_FAMILY_ID), found.number(_CTRL_ATTR_VERSION)
            return
        raise OSError(errno.EBADMSG, "the kernel did not say which family that is")

    def __enter__(self) -> GenericFamily:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._wire.close()

    def request(self, command: int, attrs: t.Iterable[t.Tuple[int, bytes]]) -> t.List[Attributes]:
        """The answers to a command, once the kernel has acknowledged it."""
        payload = _HEADER.pack(command, self.version) + b"".join(attribute(*attr) for attr in attrs)
        return [_attributes_of(answer) for answer in self._wire.request(self._id, payload)]

    def dump(self, command: int) -> t.List[Attributes]:
        """The answers to a command that dumps; see Netlink.dump()."""
        answers = self._wire.dump(self._id, _HEADER.pack(command, self.version))
        return [_attributes_of(answer) for answer in answers]


def _attributes_of(answer: Payload) -> Attributes:
    data, begin, end = answer
    found = Attributes()
    for kind, start, stop in attributes(data, begin + _HEADER.size, end):
        found.setdefault(kind, []).append(data[start:stop])
    return found
