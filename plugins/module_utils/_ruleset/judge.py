# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The verdict of a ruleset about one connection: the twin of kmod/classify.c in Python.

The lock-out check asks it before a commit; tests compare it with a naive judge and with the kernel.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import ipaddress
import itertools
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    REASON_MAX,
    RULE_NONE,
    Action,
    DirectionClass,
    Identity,
    Kind,
    Reason,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import is_group

# The kernel's decision, for preflight and tests


@dataclass(frozen=True)
class Connection:
    """Initiator and real responder (after DNAT); `port` as in the uapi header."""

    source: str
    target: str
    protocol: int
    port: int
    source_kind: Kind = Kind.WORLD
    target_kind: Kind = Kind.GUARDED
    direct: bool = False


@dataclass(frozen=True)
class Decision:
    action: str
    index: int  # Reason, or REASON_MAX + rule
    direction_class: str  # "" where nothing is judged

    @property
    def reason(self) -> t.Optional[Reason]:
        return Reason(self.index) if self.index < REASON_MAX else None


_CLASSES = {
    (Kind.WORLD, Kind.HOST): DirectionClass.HOST_INGRESS,
    (Kind.WORLD, Kind.GUARDED): DirectionClass.INGRESS,
    (Kind.HOST, Kind.GUARDED): DirectionClass.FROM_HOST,
    (Kind.GUARDED, Kind.WORLD): DirectionClass.EGRESS,
    (Kind.GUARDED, Kind.HOST): DirectionClass.TO_HOST,
    (Kind.GUARDED, Kind.GUARDED): DirectionClass.INTER_CONTAINER,
}


class Judge:
    """Decides as kmod/classify.c does, links and spoofing aside."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._ruleset = ruleset
        self._identity = {row[0]: row[1] for row in itertools.chain(ruleset.endpoints4, ruleset.endpoints6)}
        self._prefixes = {
            size: self._by_length(rows) for size, rows in ((4, ruleset.prefixes4), (16, ruleset.prefixes6))
        }
        self._open = {row[0] for row in ruleset.behind}
        self._block = {(row, column): block for row, column, block in ruleset.pairs}
        self._starts = {
            4: [cell[0] for cell in ruleset.cells4],
            16: [cell[0] for cell in ruleset.cells6],
        }

    @staticmethod
    def _by_length(
        rows: t.Iterable[t.Tuple[bytes, int, int, int]],
    ) -> t.List[t.Tuple[int, t.Dict[int, t.Tuple[int, int]]]]:
        """(bits behind the prefix, {bits of the prefix: (identity, set)}), the longest prefixes first."""
        found: t.Dict[int, t.Dict[int, t.Tuple[int, int]]] = {}
        for packed, length, identity, number in rows:
            rest = 8 * len(packed) - length
            found.setdefault(rest, {})[int.from_bytes(packed, "big") >> rest] = identity, number
        return sorted(found.items())

    def _guarded(self, packed: bytes) -> int:
        identity = self._identity.get(packed)
        if identity is not None:
            return identity
        number = int.from_bytes(packed, "big")
        for rest, table in self._prefixes[len(packed)]:
            known = table.get(number >> rest)
            if known is not None:
                return known[0] if known[1] in self._open else int(Identity.UNMANAGED)
        return int(Identity.UNMANAGED)

    def identity(self, address: str, kind: Kind) -> int:
        packed = ipaddress.ip_address(address).packed
        if kind == Kind.GUARDED:
            return self._guarded(packed)
        cells = self._ruleset.cells4 if len(packed) == 4 else self._ruleset.cells6
        cell = cells[bisect.bisect_right(self._starts[len(packed)], packed) - 1]
        return cell[2] if kind == Kind.HOST else cell[1]

    def decide(self, connection: Connection) -> Decision:
        which = _CLASSES.get((connection.source_kind, connection.target_kind))
        if which is None:
            return Decision("allow", 0, "")
        name = which.name.lower()
        source = self.identity(connection.source, connection.source_kind)
        target = self.identity(connection.target, connection.target_kind)
        answering = ipaddress.ip_address(connection.target)
        if target == int(Identity.UNMANAGED) and is_group(answering.version, int(answering)):
            target = self.identity(connection.target, Kind.WORLD)
        if int(Identity.UNMANAGED) in (source, target):
            return Decision("deny", Reason.UNMANAGED, name)
        direct = connection.direct and which == DirectionClass.INGRESS
        span = self._span(source, target, connection.protocol << 16 | connection.port)
        rule = span[3 if direct else 2] if span else RULE_NONE
        if rule != RULE_NONE:
            return Decision(Action(self._ruleset.rules[rule][1]).name.lower(), REASON_MAX + rule, name)
        if direct:
            return Decision("deny", Reason.DIRECT, name)
        return Decision(Action(self._ruleset.defaults[which]).name.lower(), int(which), name)

    def _span(self, source: int, target: int, service: int) -> t.Optional[t.Tuple[int, int, int, int]]:
        row, column = self._ruleset.identities[source][0], self._ruleset.identities[target][1]
        block = self._block.get((row, column))
        if block is None:
            return None
        first, count = self._ruleset.blocks[block]
        run = self._ruleset.spans[first : first + count]
        place = bisect.bisect_right([span[0] for span in run], service) - 1
        return run[place] if place >= 0 and run[place][1] >= service else None


def judge(ruleset: Ruleset, connection: Connection) -> Decision:
    """One decision; make a `Judge` for many."""
    return Judge(ruleset).decide(connection)
