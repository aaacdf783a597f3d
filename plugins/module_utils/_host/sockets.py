# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernel's tables of sockets, /proc/net/tcp and its like: proc_pid_net(5), include/net/tcp_states.h.

PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import struct
import typing as t

ESTABLISHED, CLOSE_WAIT, LISTEN = 1, 8, 10

#: Positions of a row's fields.
LOCAL, REMOTE, STATE, QUEUES, INODE = 1, 2, 3, 4, 9


def socket_rows(name: str, proc: str = "/proc/self/net") -> t.Iterator[t.List[str]]:
    """The rows of a table (tcp, tcp6, udp, udp6), as fields; raises OSError, as on a host without IPv6 for its tables."""
    with open(os.path.join(proc, name), encoding="ascii") as table:
        next(table, "")
        for line in table:
            yield line.split()


def port_of(field: str) -> int:
    return int(field.rpartition(":")[2], 16)


def address_of(field: str) -> bytes:
    """4 or 16 bytes; the table has words of the host's byte order. An IPv4-mapped address is the IPv4 one."""
    text = field.rpartition(":")[0]
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return packed[12:] if packed[:12] == bytes(10) + b"\xff\xff" else packed
