# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Effective rules -> the arrays of kmod/uapi/bridgewarden.h.

Theory of operation.  Take everybody who can be party to a connection: each
endpoint, and, for the world and for the host apart, each cell of the address
space the policy's CIDRs cut.  Its *row* is the set of clauses that name it in
`from`, its *column* the set of those that name it in `to`; both are bit masks,
so the clauses of a pair are one AND.  Who has the same kind, row and column is
one identity.  For each pair with clauses a sweep over the service numbers picks
the one rule that decides, deny before reject before queue before allow, the first name
among equals.  Equal pieces are stored once.

`within` does not make a clause a stack.  Rows and columns of its clauses also have
the *values* compared (the stacks they are of), and such a clause counts for a pair
only if they have one in common.  Pairs that only such clauses cover are found by
value, so n stacks make n pairs and not n squared, and they share one run of spans.

The result depends on the set of rules only, never on an order: rules come
sorted by name, endpoints by address, and masks are numbers.  Pure.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import bisect
import collections
import copy
import dataclasses
import hashlib
import heapq
import ipaddress
import itertools
import json
import re
import struct
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    DIGEST_LEN,
    MAX_BEHIND,
    MAX_ENDPOINTS,
    MAX_GUARDS,
    MAX_PAIRS,
    MAX_PREFIXES,
    MAX_PUBLISH,
    MAX_RULES,
    MAX_SPANS,
    NAME_LEN,
    RULE_F_BYPASS,
    RULE_F_LOG,
    RULE_NONE,
    STRUCTS,
    Action,
    Attr,
    Identity,
    Mode,
    Placement,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    PolicyError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import (
    Interval,
    Network,
    prefixes,
    subtract,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import (
    ACTIONS,
    DEFAULTS,
    PERMITTING,
    Policy,
    Rule,
    digest,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import (
    glob_any,
    glob_escape,
    glob_match,
    is_pattern,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.routed import routed_prefixes
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.rules import JUDGED
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import PROTOCOLS, Service
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import Resolution
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import (
    Endpoint,
    Endpoints,
    Party,
    is_group,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

_PRECEDENCE = {action: place for place, action in enumerate(ACTIONS)}
_AF = {4: 2, 6: 10}


EndpointTuple = t.Tuple[bytes, int, int, int]
PublishTuple = t.Tuple[int, int, int, bytes, int, int, int, bytes]


@dataclass(frozen=True)
class Ruleset:
    """Rows of each array as tuples in the header's order, addresses as bytes."""

    mode: int
    placement: int
    log_group: int
    log_defaults: bool
    defaults: t.Tuple[int, ...]
    guards: t.Tuple[str, ...]
    policy_digest: bytes
    identities: t.List[t.Tuple[int, int]]
    cells4: t.List[t.Tuple[bytes, int, int]]
    cells6: t.List[t.Tuple[bytes, int, int]]
    endpoints4: t.List[EndpointTuple]
    endpoints6: t.List[EndpointTuple]
    publish: t.List[PublishTuple]
    rules: t.List[t.Tuple[int, int, int, int, int, int, bytes]]
    spans: t.List[t.Tuple[int, int, int, int]]
    blocks: t.List[t.Tuple[int, int]]
    pairs: t.List[t.Tuple[int, int, int]]
    #: (rule, rule that wins wherever the first would match), by number; advice, not part of the ruleset.
    shadowed: t.Tuple[t.Tuple[int, int], ...] = ()
    parents: t.Tuple[str, ...] = ()  # of macvlan and ipvlan networks, as patterns
    #: Address, length, identity, number of the set of ports.
    prefixes4: t.List[t.Tuple[bytes, int, int, int]] = field(default_factory=list)
    prefixes6: t.List[t.Tuple[bytes, int, int, int]] = field(default_factory=list)
    behind: t.List[t.Tuple[int, int, int]] = field(default_factory=list)  # set, link, port
    routed: t.Tuple[str, ...] = ()  # the groups that the sets are of, by number; no part of the ruleset
    _cache: t.Dict[str, t.Any] = field(default_factory=dict, repr=False, compare=False)

    def to_sections(self) -> t.List[t.Tuple[Attr, bytes]]:
        """The packed arrays, in the order of their attributes; empty ones are left out."""
        if "sections" not in self._cache:
            arrays: t.List[t.Tuple[Attr, t.Sequence[t.Tuple[t.Any, ...]]]] = [
                (Attr.SECTION_IDENTITY, self.identities),
                (Attr.SECTION_CELL4, self.cells4),
                (Attr.SECTION_CELL6, self.cells6),
                (Attr.SECTION_ENDPOINT4, self.endpoints4),
                (Attr.SECTION_ENDPOINT6, self.endpoints6),
                (Attr.SECTION_PUBLISH, self.publish),
                (Attr.SECTION_RULE, self.rules),
                (Attr.SECTION_SPAN, self.spans),
                (Attr.SECTION_BLOCK, self.blocks),
                (Attr.SECTION_PAIR, self.pairs),
                (Attr.SECTION_PREFIX4, self.prefixes4),
                (Attr.SECTION_PREFIX6, self.prefixes6),
                (Attr.SECTION_BEHIND, self.behind),
            ]
            packed = self._cache.setdefault("packed", {})
            for attr, rows in arrays:
                if attr not in packed:
                    packed[attr] = b"".join(itertools.starmap(struct.Struct(STRUCTS[attr]).pack, rows))
            self._cache["sections"] = [(attr, packed[attr]) for attr, rows in arrays if rows]
        sections: t.List[t.Tuple[Attr, bytes]] = self._cache["sections"]
        return sections

    def replaced(self, **changes: t.Any) -> Ruleset:
        """The same ruleset with other arrays; those that stay are not packed anew."""
        packed = {
            attr: data
            for attr, data in self._cache.get("packed", {}).items()
            if _ARRAY_NAMES[attr] not in changes
        }
        return dataclasses.replace(self, _cache={"packed": packed}, **changes)

    def digest(self) -> bytes:
        """SHA-256 of everything the kernel gets; the policy's digest is kept apart."""
        if "digest" not in self._cache:
            total = hashlib.sha256()
            head = {
                "mode": self.mode,
                "placement": self.placement,
                "log": (self.log_group, self.log_defaults),
                "defaults": self.defaults,
                "guards": self.guards,
                "parents": self.parents,
            }
            total.update(json.dumps(head, sort_keys=True).encode("ascii"))
            for attr, data in self.to_sections():
                total.update(b"%d:%d:" % (attr, len(data)))
                total.update(data)
            self._cache["digest"] = total.digest()
        digest_bytes: bytes = self._cache["digest"]
        return digest_bytes

    def rule_name(self, number: int) -> str:
        return self.rules[number][6].rstrip(b"\0").decode("utf-8")


#: The field of each section.
_ARRAY_NAMES = {
    Attr.SECTION_IDENTITY: "identities",
    Attr.SECTION_CELL4: "cells4",
    Attr.SECTION_CELL6: "cells6",
    Attr.SECTION_ENDPOINT4: "endpoints4",
    Attr.SECTION_ENDPOINT6: "endpoints6",
    Attr.SECTION_PUBLISH: "publish",
    Attr.SECTION_RULE: "rules",
    Attr.SECTION_SPAN: "spans",
    Attr.SECTION_BLOCK: "blocks",
    Attr.SECTION_PAIR: "pairs",
    Attr.SECTION_PREFIX4: "prefixes4",
    Attr.SECTION_PREFIX6: "prefixes6",
    Attr.SECTION_BEHIND: "behind",
}


def compile_ruleset(policy: Policy, resolution: Resolution, facts: Json) -> Ruleset:
    """The ruleset of a resolved policy. Raises BridgewardenError where it exceeds what the kernel takes."""
    return compile_matrix(policy, resolution, facts, Matrix(resolution), publish_rows(resolution.host))


def compile_matrix(
    policy: Policy, resolution: Resolution, facts: Json, builder: Matrix, publish: t.List[PublishTuple]
) -> Ruleset:
    """The same, with a matrix and published ports that were made before."""
    matrix = builder.build()
    ruleset = Ruleset(
        mode=Mode[policy.mode.upper()],
        placement=Placement[policy.placement.upper()],
        log_group=policy.log_group,
        log_defaults=policy.log_defaults,
        defaults=tuple(int(Action[dict(policy.defaults)[name].upper()]) for name in DEFAULTS),
        guards=guard_patterns(policy, facts, resolution.host.unguarded),
        parents=parent_patterns(policy, facts),
        policy_digest=bytes.fromhex(digest(policy)),
        identities=builder.identities,
        cells4=builder.cells[4],
        cells6=builder.cells[6],
        endpoints4=builder.endpoint_rows(4),
        endpoints6=builder.endpoint_rows(6),
        publish=publish,
        rules=[_rule_row(rule.rule) for rule in resolution.rules],
        spans=matrix.spans,
        blocks=matrix.blocks,
        pairs=matrix.pairs,
        shadowed=matrix.shadowed(),
        prefixes4=builder.prefix_rows(4),
        prefixes6=builder.prefix_rows(6),
        behind=behind_rows(builder.endpoints, builder.gateways),
        routed=tuple(routed.group.name for routed in resolution.routed),
    )
    within_bounds(ruleset)
    return ruleset


def empty_ruleset() -> Ruleset:
    """Guards nothing, judges nothing: what is left in the kernel after an uninstall."""
    return Ruleset(
        mode=Mode.ENFORCE,
        placement=Placement.FORWARD,
        log_group=0,
        log_defaults=False,
        defaults=tuple(int(Action[action.upper()]) for action in DEFAULTS.values()),
        guards=(),
        policy_digest=bytes(DIGEST_LEN),
        identities=[(0, 0)] * Identity.FIRST,
        cells4=[],
        cells6=[],
        endpoints4=[],
        endpoints6=[],
        publish=[],
        rules=[],
        spans=[],
        blocks=[],
        pairs=[],
    )


def within_bounds(ruleset: Ruleset) -> None:
    """Raises BridgewardenError where the ruleset exceeds what the kernel takes."""
    bounds: t.List[t.Tuple[str, t.Sized, int, str]] = [
        ("guard patterns", ruleset.guards, MAX_GUARDS, "join patterns, or name fewer networks"),
        ("parent links", ruleset.parents, MAX_GUARDS, "put networks on fewer parents"),
        ("endpoints", ruleset.endpoints4, MAX_ENDPOINTS, "split the host"),
        ("endpoints", ruleset.endpoints6, MAX_ENDPOINTS, "split the host"),
        ("published ports", ruleset.publish, MAX_PUBLISH, "publish fewer ports"),
        ("rules", ruleset.rules, MAX_RULES, "join rules"),
        ("spans", ruleset.spans, MAX_SPANS, "make rules alike, so that containers share identities"),
        ("pairs", ruleset.pairs, MAX_PAIRS, "make rules alike, so that containers share identities"),
        ("routed prefixes", ruleset.prefixes4, MAX_PREFIXES, _most(ruleset, ruleset.prefixes4, 3, "cidrs")),
        ("routed prefixes", ruleset.prefixes6, MAX_PREFIXES, _most(ruleset, ruleset.prefixes6, 3, "cidrs")),
        (
            "ports of routed prefixes",
            ruleset.behind,
            MAX_BEHIND,
            _most(ruleset, ruleset.behind, 0, "containers"),
        ),
    ]
    for what, rows, bound, hint in bounds:
        if len(rows) > bound:
            raise BridgewardenError(
                "the policy compiles to %d %s, the kernel takes %d" % (len(rows), what, bound), "", hint
            )


def _most(ruleset: Ruleset, rows: t.Sequence[t.Tuple[t.Any, ...]], column: int, what: str) -> str:
    """A hint that names the group with the most of the rows."""
    if not rows:
        return ""
    number, count = collections.Counter(row[column] for row in rows).most_common(1)[0]
    return 'give fewer %s to the group "%s", which has %d' % (what, ruleset.routed[number], count)


# Guards


def guard_patterns(
    policy: Policy, facts: Json, unguarded: t.Collection[str] = frozenset()
) -> t.Tuple[str, ...]:
    """The policy's patterns, and by name each bridge of Docker's that none of them matches; none for `unguarded` names.

    Raises PolicyError where a pattern matches a bridge that is to be left out: the kernel's patterns know no exception.
    """
    left_out = {*unguarded, *(name for name in policy.unguarded if not is_pattern(name))}
    patterns = {pattern for pattern in policy.guards if pattern not in left_out}
    for pattern in sorted(patterns):
        for name in sorted(left_out):
            if glob_match(pattern, name):
                raise PolicyError(
                    f'the guard pattern "{pattern}" matches the bridge {name}, which is to be left out',
                    ("unguarded",),
                    "name the other bridges in guards, or give this network's bridge a name of its own "
                    "(com.docker.network.bridge.name) that no pattern matches",
                )
    for network in facts.get("networks") or []:
        bridge = network.get("Bridge")
        if bridge and bridge not in left_out and not glob_any(bridge, policy.guards):
            patterns.add(glob_escape(bridge))
    return tuple(sorted(patterns))


def parent_patterns(policy: Policy, facts: Json) -> t.Tuple[str, ...]:
    """By name each parent of Docker's macvlan and ipvlan networks; only inside the containers is it a guard."""
    if policy.placement != "container":
        return ()
    if "networks" not in facts:
        return ("*",)  # Docker has not been asked yet: any link may be a parent of its networks
    found = {network.get("Parent") for network in facts.get("networks") or []}
    return tuple(sorted(glob_escape(parent) for parent in found if parent))


# Rules


def rule_key(rule: Rule) -> int:
    """64 bits of the rule's content without the note; never 0. Counters go on under it."""
    body = {key: value for key, value in rule.as_dict().items() if key != "note"}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") or 1


def _rule_row(rule: Rule) -> t.Tuple[int, int, int, int, int, int, bytes]:
    flags = RULE_F_LOG if rule.log else 0
    first = count = 0
    if rule.queue is not None:
        first, count = rule.queue.num, rule.queue.count
        flags |= RULE_F_BYPASS if rule.queue.bypass else 0
    name = rule.name.encode("utf-8")[: NAME_LEN - 1]
    return rule_key(rule), int(Action[rule.action.upper()]), flags, first, count, 0, name


# The matrix

#: For each relation of `within` that counts for a row or column: its place among the relations, and the values.
_Values = t.Tuple[t.Tuple[int, t.Tuple[str, ...]], ...]
#: A row or column: mask over the clauses, and what `within` compares.
_Line = t.Tuple[int, _Values]
_NOBODY: _Line = (0, ())  # who is named nowhere
#: The places of a mask's set bits, ascending.
_Bits = t.Tuple[int, ...]

#: Where multicast and broadcast addresses begin and end.
_GROUP_EDGES = {4: {0xE0000000, 0xF0000000, 0xFFFFFFFF}, 6: {0xFF << 120}}


@dataclass(frozen=True)
class _Clause:
    number: int  # of the rule
    order: t.Tuple[int, int]  # precedence, then number: the smallest decides
    direct: bool  # counts for direct ingress
    source: Party
    target: Party
    services: t.Tuple[Service, ...]
    within: str


#: Kind, row and column.
_Holder = t.Tuple[str, _Line, _Line]


def _within(prefixes_: t.Sequence[t.Tuple[Network, int]], number: int) -> t.List[Network]:
    """Those of ascending prefixes that lie within this one; they follow it."""
    outer = prefixes_[number][0]
    last = int(outer.broadcast_address)
    found: t.List[Network] = []
    for place in range(number + 1, len(prefixes_)):
        network = prefixes_[place][0]
        if network.version != outer.version or int(network.network_address) > last:
            break
        found.append(network)
    return found


class Matrix:
    """Identities, cells and endpoints of the kernel; `build()` gives the pairs."""

    def __init__(self, resolution: Resolution) -> None:
        self.endpoints: t.Sequence[Endpoint] = resolution.host.endpoints
        self._routed = resolution.routed
        self.clauses = _clauses(resolution)
        self._rows = Marks(resolution.host, [clause.source for clause in self.clauses])
        self._columns = Marks(resolution.host, [clause.target for clause in self.clauses])
        #: Of each endpoint: the routed groups that are behind its port, as a mask.
        self.gateways = gateway_masks(resolution)
        #: Of each endpoint: the clauses that name it in `from`, and in `to`.
        self.masks = list(zip(self._rows.endpoints(), self._columns.endpoints()))
        relations: t.Dict[str, int] = {}
        for number, clause in enumerate(self.clauses):
            if clause.within:
                relations[clause.within] = relations.get(clause.within, 0) | 1 << number
        #: By relation: the clauses it holds for, as a mask.
        self._relations = [relations[key] for key in sorted(relations)]
        #: By clause: the place of its relation, -1 without one.
        self._relation_of = [-1] * len(self.clauses)
        for place, bits in enumerate(self._relations):
            for bit in _bits(bits):
                self._relation_of[bit] = place
        self._values = [resolution.host.shared_values(key) for key in sorted(relations)]
        self._arrange()

    def with_endpoints(self, endpoints: t.Sequence[Endpoint], masks: t.List[t.Tuple[int, int]]) -> Matrix:
        """The same clauses about other endpoints; only where no clause has `within`, whose values are the endpoints'."""
        if self._relations:
            raise AssertionError("a relation's values are those of the former endpoints")
        other = copy.copy(self)
        other.endpoints, other.masks = endpoints, masks
        other._arrange()
        return other

    def _arrange(self) -> None:
        self._holders = self._find_holders(self._rows, self._columns)
        self._number(self._rows, self._columns)

    def _find_holders(self, rows: Marks, columns: Marks) -> t.Set[_Holder]:
        """Everybody there is."""
        if self._relations:
            sides = [[row for row, _column in self.masks], [column for _row, column in self.masks]]
            endpoint_rows, endpoint_columns = self._lines(sides[0], sides[1], self._values)
            self._endpoint_lines = list(zip(endpoint_rows, endpoint_columns))
            endpoints: t.Set[_Holder] = {("endpoint", row, column) for row, column in self._endpoint_lines}
        else:
            endpoints = {("endpoint", (row, ()), (column, ())) for row, column in set(self.masks)}
        points = {
            version: sorted(rows.points(version) | columns.points(version) | _GROUP_EDGES[version] | {0})
            for version in (4, 6)
        }
        self._routed_masks = self._find_routed(rows, columns)
        self._world: _Holder = ("world", (rows.world, ()), (columns.world, ()))
        self._host: _Holder = ("host", (rows.host, ()), (columns.host, ()))
        holders = endpoints | {self._world, self._host}
        holders.update(holder for _network, _place, holder in self._routed_masks)
        self._group_columns: t.Set[_Line] = set()
        #: By version: start, who has these addresses outside, and on the host.
        self._cell_masks: t.Dict[int, t.List[t.Tuple[int, _Holder, _Holder]]] = {4: [], 6: []}
        for version, starts in points.items():
            marks = zip(starts, *rows.cells(version, starts), *columns.cells(version, starts))
            for start, world_row, host_row, world_column, host_column in marks:
                world: _Holder = ("world", (rows.world | world_row, ()), (columns.world | world_column, ()))
                host: _Holder = ("host", (rows.host | host_row, ()), (columns.host | host_column, ()))
                if is_group(version, start):
                    self._group_columns.add(world[2])
                holders.update((world, host))
                self._cell_masks[version].append((start, world, host))
        return holders

    def _lines(
        self,
        rows: t.List[int],
        columns: t.List[int],
        values: t.Sequence[t.List[t.Tuple[str, ...]]],
    ) -> t.Tuple[t.List[_Line], t.List[_Line]]:
        """The rows and columns of the endpoints. Values without a counterpart are left out, and clauses with them."""
        found: t.Tuple[t.List[_Values], t.List[_Values]] = ([()] * len(rows), [()] * len(columns))
        for place, (bits, its) in enumerate(zip(self._relations, values)):
            met = [
                {value for mask, mine in zip(masks, its) if mask & bits for value in mine}
                for masks in (rows, columns)
            ]
            common = met[0] & met[1]
            for masks, lines in zip((rows, columns), found):
                for index, mask in enumerate(masks):
                    if mask & bits:
                        kept = tuple(value for value in its[index] if value in common)
                        if kept:
                            lines[index] = (*lines[index], (place, kept))
                        else:
                            masks[index] = mask & ~bits
        return list(zip(rows, found[0])), list(zip(columns, found[1]))

    def _number(self, rows: Marks, columns: Marks) -> None:
        row_of = _numbering({row for _kind, row, _column in self._holders})
        column_of = _numbering({column for _kind, _row, column in self._holders})
        reserved = [self._world, self._host]
        own = sorted(holder for holder in self._holders if holder not in reserved)
        identity_of = {self._world: int(Identity.WORLD), self._host: int(Identity.HOST)}
        identity_of.update({holder: Identity.FIRST + place for place, holder in enumerate(own)})
        self.identities = [(0, 0)] + [(row_of[row], column_of[column]) for _k, row, column in reserved + own]
        self._identity_of = identity_of
        lines = {
            (row, column): number for (kind, row, column), number in identity_of.items() if kind == "endpoint"
        }
        #: Of an endpoint, by its masks; only where no clause has `within`.
        self.identity_of = {(row[0], column[0]): number for (row, column), number in lines.items()}
        if self._relations:
            self._endpoint_identities = [lines[its] for its in self._endpoint_lines]
        self.cells = {
            version: _merged_cells(
                version, ((start, identity_of[world], identity_of[host]) for start, world, host in cells)
            )
            for version, cells in self._cell_masks.items()
        }
        self._row_of, self._column_of = row_of, column_of

    def endpoint_rows(self, version: int) -> t.List[EndpointTuple]:
        if self._relations:
            identities = self._endpoint_identities
        else:
            identities = [self.identity_of[masks] for masks in self.masks]
        return [
            endpoint_row(endpoint, identity)
            for endpoint, identity in zip(self.endpoints, identities)
            if endpoint.version == version
        ]

    def _routed_holder(self, rows: Marks, columns: Marks, place: int, span: Interval) -> _Holder:
        """Addresses of a routed group that no rule's CIDR tells apart. No relation holds for them: `within` compares containers."""
        related = sum(self._relations)  # each clause has one at most
        row, column = rows.routed(place, span) & ~related, columns.routed(place, span) & ~related
        return "endpoint", (row, ()), (column, ())

    def _find_routed(self, rows: Marks, columns: Marks) -> t.List[t.Tuple[Network, int, _Holder]]:
        """Each routed prefix with its group's place and its masks, and longer ones where a CIDR of a rule cuts into it."""
        all_of_them = routed_prefixes([routed.group for routed in self._routed])
        found = []
        for number, (network, place) in enumerate(all_of_them):
            version, lo, hi = network.version, int(network.network_address), int(network.broadcast_address)
            whole = self._routed_holder(rows, columns, place, (version, lo, hi))
            found.append((network, place, whole))
            points = rows.routed_points(version, lo, hi) | columns.routed_points(version, lo, hi)
            if not points:
                continue
            inner = _within(all_of_them, number)
            edges = [lo, *sorted(points), hi + 1]
            for first, after in zip(edges, edges[1:]):
                holder = self._routed_holder(rows, columns, place, (version, first, after - 1))
                if holder != whole:
                    pieces = subtract(prefixes((version, first, after - 1)), inner)
                    found += [(piece, place, holder) for span in pieces for piece in prefixes(span)]
        return sorted(
            found, key=lambda item: (item[0].version, int(item[0].network_address), item[0].prefixlen)
        )

    def routed_masks(self) -> t.Set[t.Tuple[int, int]]:
        """Of the routed prefixes: the clauses that name them in `from`, and in `to`."""
        return {(holder[1][0], holder[2][0]) for _network, _place, holder in self._routed_masks}

    def prefix_rows(self, version: int) -> t.List[t.Tuple[bytes, int, int, int]]:
        return [
            (network.network_address.packed, network.prefixlen, self._identity_of[holder], place)
            for network, place, holder in self._routed_masks
            if network.version == version
        ]

    def build(self) -> _Pairs:
        """All pairs (row, column) that judged traffic can meet and that a clause covers."""
        row_kinds: t.Dict[_Line, t.Set[str]] = {}
        column_kinds: t.Dict[_Line, t.Set[str]] = {}
        for kind, row, column in self._holders:
            row_kinds.setdefault(row, set()).add(kind)
            column_kinds.setdefault(column, set()).add(kind)
        for column in self._group_columns:
            column_kinds[column].add("endpoint")  # a group behind a guard answers as the world's does
        judged = {
            kind: frozenset(to for source, to in JUDGED if source == kind)
            for kind in ("world", "host", "endpoint")
        }
        reach = {
            row: frozenset().union(*(judged[kind] for kind in kinds)) for row, kinds in row_kinds.items()
        }
        rows, columns = _by_mask(reach, self._row_of), _by_mask(column_kinds, self._column_of)
        masks = sorted(columns)
        places = _Places(len(self.clauses), masks)
        pairs = _Pairs(self.clauses)
        for mask in sorted(rows):
            for place, common in places.met_by(mask):
                related = {self._relation_of[bit] for bit in common} if self._relations else set()
                for one, other in self._meeting(related, rows[mask], columns[masks[place]]):
                    counted = self._counted(common, one.values, other.values) if related - {-1} else common
                    if counted and not one.kinds.isdisjoint(other.kinds):
                        pairs.add(one.number, other.number, counted)
        pairs.pairs.sort()
        return pairs

    @staticmethod
    def _meeting(
        related: t.Set[int], rows: t.Sequence[_Place], columns: t.Sequence[_Place]
    ) -> t.Iterable[t.Tuple[_Place, _Place]]:
        """Rows and columns of two masks that a clause of both may cover. `related`: the clauses' relations."""
        if len(rows) == 1 or len(columns) == 1 or not related or -1 in related:
            return itertools.product(rows, columns)
        found: t.Dict[t.Tuple[int, int], t.Tuple[_Place, _Place]] = {}
        for place in related:
            holders: t.Dict[str, t.List[_Place]] = {}
            for column in columns:
                for value in _values_at(column.values, place):
                    holders.setdefault(value, []).append(column)
            for row in rows:
                for value in _values_at(row.values, place):
                    for column in holders.get(value, ()):
                        found[row.number, column.number] = row, column
        return found.values()

    def _counted(self, common: _Bits, row: _Values, column: _Values) -> _Bits:
        """The clauses without those whose sides have no value in common."""
        apart = {
            place
            for place in range(len(self._relations))
            if not set(_values_at(row, place)) & set(_values_at(column, place))
        }
        return tuple(bit for bit in common if self._relation_of[bit] not in apart) if apart else common


class _Places:
    """For each clause the columns it is in, as places in a list of masks.

    A row meets the union over its clauses, so what it costs is what it meets, and not the number of all columns.
    """

    #: A row whose clauses name a column so many times in the mean is compared by masks instead.
    _DENSE = 8

    def __init__(self, clauses: int, masks: t.Sequence[int]) -> None:
        self._masks = masks
        self._lists: t.List[t.List[int]] = [[] for _clause in range(clauses)]
        for place, mask in enumerate(masks):
            for bit in _bits(mask):
                self._lists[bit].append(place)
        self._known: t.Dict[int, _Bits] = {}

    def met_by(self, mask: int) -> t.Iterable[t.Tuple[int, _Bits]]:
        """The places of the masks that have clauses in common with this one, with these clauses."""
        bits = tuple(_bits(mask))
        if len(bits) == 1:
            return [(place, bits) for place in self._lists[bits[0]]]
        if sum(len(self._lists[bit]) for bit in bits) > self._DENSE * len(self._masks):
            return self._dense(mask)
        found: t.Dict[int, _Bits] = {}
        for bit in bits:
            for place in self._lists[bit]:
                found[place] = (*found[place], bit) if place in found else (bit,)
        return found.items()

    def _dense(self, mask: int) -> t.Iterator[t.Tuple[int, _Bits]]:
        for place, other in enumerate(self._masks):
            common = mask & other
            if common:
                bits = self._known.get(common)
                if bits is None:
                    bits = self._known[common] = tuple(_bits(common))
                yield place, bits


class _Place(t.NamedTuple):
    """A row or column of the matrix."""

    number: int
    values: _Values
    kinds: t.AbstractSet[str]  # of the holders it has; of a row, those that it can reach


def _by_mask(
    lines: t.Mapping[_Line, t.AbstractSet[str]], number_of: t.Mapping[_Line, int]
) -> t.Dict[int, t.List[_Place]]:
    found: t.Dict[int, t.List[_Place]] = {}
    for line, kinds in lines.items():
        found.setdefault(line[0], []).append(_Place(number_of[line], line[1], kinds))
    return found


def _values_at(values: _Values, place: int) -> t.Tuple[str, ...]:
    for number, its in values:
        if number == place:
            return its
    return ()


def gateway_masks(resolution: Resolution) -> t.List[int]:
    """Of each endpoint: the routed groups that are behind its port."""
    masks = [0] * len(resolution.host.endpoints)
    for number, routed in enumerate(resolution.routed):
        for index in routed.endpoints:
            masks[index] |= 1 << number
    return masks


def behind_rows(endpoints: t.Sequence[Endpoint], gateways: t.Sequence[int]) -> t.List[t.Tuple[int, int, int]]:
    """Each port of each routed group's set. Without its port a neighbour could send with a container's addresses."""
    return sorted(
        {
            (number, endpoint.link_index, endpoint.port_index)
            for endpoint, mask in zip(endpoints, gateways)
            if mask and endpoint.port_index
            for number in _bits(mask)
        }
    )


def endpoint_row(endpoint: Endpoint, identity: int) -> EndpointTuple:
    packed = endpoint.address.to_bytes(4 if endpoint.version == 4 else 16, "big")
    return packed, identity, endpoint.link_index, endpoint.port_index


def _clauses(resolution: Resolution) -> t.List[_Clause]:
    clauses = []
    for number, effective in enumerate(resolution.rules):
        rule = effective.rule
        for clause in effective.clauses:
            clauses.append(
                _Clause(
                    number,
                    (_PRECEDENCE[rule.action], number),
                    rule.direct or rule.action not in PERMITTING,
                    effective.source,
                    clause.target,
                    clause.services,
                    rule.within,
                )
            )
    return clauses


def _numbering(lines: t.Set[_Line]) -> t.Dict[_Line, int]:
    return {line: place for place, line in enumerate(sorted(lines | {_NOBODY}))}


_SET_BYTE = re.compile(rb"[^\0]", re.DOTALL)
_BITS_OF_BYTE = [tuple(place for place in range(8) if byte >> place & 1) for byte in range(256)]


def _bits(mask: int) -> t.Iterator[int]:
    """The places of the set bits, ascending."""
    if mask.bit_length() <= 64:
        while mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low
        return
    # Most bytes are empty where there are thousands of rules.
    for match in _SET_BYTE.finditer(mask.to_bytes((mask.bit_length() + 7) // 8, "little")):
        first = match.start() * 8
        for place in _BITS_OF_BYTE[match.group()[0]]:
            yield first + place


def _merged_cells(
    version: int, cells: t.Iterable[t.Tuple[int, int, int]]
) -> t.List[t.Tuple[bytes, int, int]]:
    size = 4 if version == 4 else 16
    merged: t.List[t.Tuple[bytes, int, int]] = []
    for start, world, host in cells:
        if not merged or merged[-1][1:] != (world, host):
            merged.append((start.to_bytes(size, "big"), world, host))
    return merged


class Marks:
    """For one side of all clauses: who is named by which, as masks over the clauses."""

    def __init__(self, host: Endpoints, parties: t.Sequence[Party]) -> None:
        self._size = len(host.endpoints)
        masks: t.Dict[int, t.Tuple[Party, int]] = {}
        for number, party in enumerate(parties):
            # Rules share parties, so each is walked once and not once a rule.
            _party, mask = masks.get(id(party), (party, 0))
            masks[id(party)] = party, mask | 1 << number
        self._masks = list(masks.values())
        self.world = self._sum(party_mask for party_mask in self._masks if party_mask[0].world)
        self.host = self._sum(party_mask for party_mask in self._masks if party_mask[0].host)

    @staticmethod
    def _sum(masks: t.Iterable[t.Tuple[Party, int]]) -> int:
        total = 0
        for _party, mask in masks:
            total |= mask
        return total

    def endpoints(self) -> t.List[int]:
        marks = [0] * self._size
        for party, mask in self._masks:
            for index in party.endpoints:
                marks[index] |= mask
        return marks

    def routed(self, place: int, span: Interval) -> int:
        version, lo, hi = span
        return self._sum(
            (party, mask)
            for party, mask in self._masks
            if place in party.routed
            or any(
                family == version and first <= lo and hi <= last for family, first, last in party.routed_nets
            )
        )

    def routed_points(self, version: int, lo: int, hi: int) -> t.Set[int]:
        """Where within (lo, hi] a CIDR begins that means addresses behind containers, too, or has ended."""
        found: t.Set[int] = set()
        for party, _mask in self._masks:
            for family, first, last in party.routed_nets:
                if family == version:
                    found.update(edge for edge in (first, last + 1) if lo < edge <= hi)
        return found

    def points(self, version: int) -> t.Set[int]:
        """Where a cell starts because an interval starts or has ended."""
        top = (1 << (32 if version == 4 else 128)) - 1
        found: t.Set[int] = set()
        for party, _mask in self._masks:
            for family, lo, hi in (*party.nets, *party.host_nets):
                if family == version:
                    found.add(lo)
                    if hi < top:
                        found.add(hi + 1)
        return found

    def cells(self, version: int, starts: t.List[int]) -> t.Tuple[t.List[int], t.List[int]]:
        """For each cell the masks of those outside, and of the host's own addresses."""
        outside, own = [0] * len(starts), [0] * len(starts)
        for party, mask in self._masks:
            for marks, nets in ((outside, party.nets), (own, party.host_nets)):
                for interval in nets:
                    if interval[0] == version:
                        self._mark(marks, starts, interval, mask)
        return outside, own

    @staticmethod
    def _mark(marks: t.List[int], starts: t.List[int], interval: Interval, mask: int) -> None:
        _version, lo, hi = interval
        for place in range(bisect.bisect_left(starts, lo), bisect.bisect_right(starts, hi)):
            marks[place] |= mask


_Run = t.Tuple[t.Tuple[int, int, int, int], ...]


class _Pairs:
    """Collects pairs; equal sets of clauses are swept once, equal runs of spans stored once."""

    def __init__(self, clauses: t.Sequence[_Clause]) -> None:
        self._clauses = clauses
        self.pairs: t.List[t.Tuple[int, int, int]] = []
        self.blocks: t.List[t.Tuple[int, int]] = []
        self.spans: t.List[t.Tuple[int, int, int, int]] = []
        self._block_of: t.Dict[_Bits, int] = {}
        self._block_of_run: t.Dict[_Run, int] = {}
        self._winners: t.Set[int] = set()
        self._beaten: t.Dict[int, int] = {}

    def add(self, row: int, column: int, bits: _Bits) -> None:
        block = self._block_of.get(bits)
        if block is None:
            block = self._block_of[bits] = self._block([self._clauses[bit] for bit in bits])
        self.pairs.append((row, column, block))

    def _block(self, clauses: t.Sequence[_Clause]) -> int:
        run = _sweep(clauses)
        self._watch(clauses, run)
        block = self._block_of_run.get(run)
        if block is None:
            block = self._block_of_run[run] = len(self.blocks)
            self.blocks.append((len(self.spans), len(run)))
            self.spans.extend(run)
        return block

    def _watch(self, clauses: t.Sequence[_Clause], run: _Run) -> None:
        here = {number for span in run for number in span[2:]}
        self._winners |= here
        for clause in clauses:
            if clause.number not in here and clause.number not in self._beaten:
                lo = clause.services[0][0]
                self._beaten[clause.number] = next(span[2] for span in run if span[1] >= lo)

    def shadowed(self) -> t.Tuple[t.Tuple[int, int], ...]:
        return tuple(sorted(item for item in self._beaten.items() if item[0] not in self._winners))


def _sweep(clauses: t.Sequence[_Clause]) -> _Run:
    """Who decides where: ascending, disjoint spans (lo, hi, rule, rule for direct ingress)."""
    starts = sorted((lo, hi, clause.order, clause.direct) for clause in clauses for lo, hi in clause.services)
    edges = sorted({edge for lo, hi, _order, _direct in starts for edge in (lo, hi + 1)})
    every: t.List[t.Tuple[t.Tuple[int, int], int]] = []  # heaps of (order, hi)
    direct: t.List[t.Tuple[t.Tuple[int, int], int]] = []
    run: t.List[t.Tuple[int, int, int, int]] = []
    upcoming = 0
    for lo, after in zip(edges, edges[1:]):
        while upcoming < len(starts) and starts[upcoming][0] == lo:
            _lo, hi, order, counts_direct = starts[upcoming]
            heapq.heappush(every, (order, hi))
            if counts_direct:
                heapq.heappush(direct, (order, hi))
            upcoming += 1
        rule, rule_direct = _top(every, lo), _top(direct, lo)
        if rule == RULE_NONE:
            continue
        if run and run[-1][1] + 1 == lo and run[-1][2:] == (rule, rule_direct):
            run[-1] = (run[-1][0], after - 1, rule, rule_direct)
        else:
            run.append((lo, after - 1, rule, rule_direct))
    return tuple(run)


def _top(heap: t.List[t.Tuple[t.Tuple[int, int], int]], lo: int) -> int:
    while heap and heap[0][1] < lo:  # it has ended before here
        heapq.heappop(heap)
    return heap[0][0][1] if heap else RULE_NONE


# Published ports


_Socket = t.Tuple[int, int, int, bytes]  # family, protocol, port, address
#: By container: its record, its endpoints, and the sockets before them.
PublishMemo = t.Dict[str, t.Tuple[Json, t.Tuple[Endpoint, ...], t.Dict[_Socket, t.Tuple[int, int, bytes]]]]


def publish_rows(host: Endpoints, memo: t.Optional[PublishMemo] = None) -> t.List[PublishTuple]:
    """Each socket docker-proxy may hold, and the container's address behind it.

    `memo` is for the next time: a range of ports can be tens of thousands of sockets.
    """
    found: t.Dict[_Socket, t.Tuple[int, int, bytes]] = {}
    kept: PublishMemo = {}
    for container in host.containers:
        if not container.get("Ports"):
            continue
        endpoints = tuple(host.endpoints[i] for i in host.endpoints_of(container))
        known = (memo or {}).get(container["Id"])
        if known is None or known[0] is not container or known[1] != endpoints:
            known = container, endpoints, _sockets_of(host, container, endpoints)
        kept[container["Id"]] = known
        for key, target in known[2].items():
            found.setdefault(key, target)
    if memo is not None:
        memo.clear()
        memo.update(kept)
    return [
        (family, protocol, host_port, address, to_family, 0, to_port, to_address)
        for (family, protocol, host_port, address), (to_family, to_port, to_address) in sorted(found.items())
    ]


def _sockets_of(
    host: Endpoints, container: Json, endpoints: t.Sequence[Endpoint]
) -> t.Dict[_Socket, t.Tuple[int, int, bytes]]:
    found: t.Dict[_Socket, t.Tuple[int, int, bytes]] = {}
    targets = {version: _gateway_endpoint(host.internal, endpoints, version) for version in (4, 6)}
    sockets: t.Dict[str, t.List[t.Tuple[int, bytes]]] = {}
    for port in container.get("Ports") or []:
        protocol = PROTOCOLS.get(port.get("Protocol") or "tcp")
        if protocol is None or not port.get("HostPort"):
            continue
        text = port.get("HostIp") or ""
        if text not in sockets:
            sockets[text] = _sockets(text)
        for version, address in sockets[text]:
            target = targets[version]
            if target is not None:
                key = (_AF[version], protocol, port["HostPort"], address)
                found.setdefault(key, (_AF[target.version], port["ContainerPort"], _padded(target)))
    return found


def _sockets(text: str) -> t.List[t.Tuple[int, bytes]]:
    if not text:
        return [(4, bytes(16)), (6, bytes(16))]
    address = ipaddress.ip_address(text)
    return [(address.version, address.packed.ljust(16, b"\0"))]


def _padded(endpoint: Endpoint) -> bytes:
    return endpoint.address.to_bytes(4 if endpoint.version == 4 else 16, "big").ljust(16, b"\0")


def _gateway_endpoint(
    internal: t.Collection[str], endpoints: t.Sequence[Endpoint], version: int
) -> t.Optional[Endpoint]:
    """The address docker-proxy connects to: on the network libnetwork takes as gateway.

    That is the first by name of those that are not internal, unless priorities
    are set, which the facts do not carry.  All addresses of a container mostly
    have one identity, so another choice would seldom decide differently.  An
    IPv6 socket of a container without IPv6 is served over its IPv4 address.
    """
    candidates = [endpoint for endpoint in endpoints if endpoint.version == version]
    if version == 6 and not candidates:
        candidates = [endpoint for endpoint in endpoints if endpoint.version == 4]
    return min(candidates, key=lambda e: (e.network in internal, e.network, e.address), default=None)
