# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the kernel module answers: one record for each kind of reply, and how it is read from attributes.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import socket
import struct
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    HOOK_FAMILIES,
    HOOKS,
    REASON_MAX,
    REASON_WORDS,
    TRACE_STRUCTS,
    Action,
    Attr,
    DirectionClass,
    Mode,
    Placement,
)

if t.TYPE_CHECKING:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import Attributes


@dataclass(frozen=True)
class Info:
    """State of the module: INFO_GET's reply."""

    version: str
    generation: int  # 0: no ruleset yet, the guards are closed
    mode: str  # "enforce" or "audit"
    defaults: t.Dict[str, str]  # direction class -> action
    policy_digest: str  # hex; "" without a ruleset
    ruleset_digest: str
    confirm_remaining: int  # seconds left of an open confirm window; 0: none is open
    guards: t.Tuple[str, ...]
    guard_links: t.Tuple[int, ...]
    #: identities, cells, endpoints, publish, rules, pairs, (routed) prefixes, (the ports they are) behind
    counts: t.Dict[str, int]
    hooks_first: int
    hooks_expected: int
    placement: str = "forward"
    log_group: int = 0
    log_defaults: bool = False
    log_swallowed: int = 0  # lines the rate limit kept back since the module was loaded
    sealed: bool = False
    hooks_ahead: t.Tuple[str, ...] = ()  # who runs before us: "IPv4 FORWARD function [module]"
    parents: t.Tuple[str, ...] = ()  # of macvlan and ipvlan children, as patterns
    namespaces: int = 0  # judged inside now
    traces: int = 0  # that run now
    #: Endpoints that the kernel closed with their port, whose place is there again: the same commit would open them.
    returned: int = 0
    unmanaged_lost: int = (
        0  # packets of unmanaged senders that found no place in the list since the module was loaded
    )

    @property
    def hooks_in_place(self) -> bool:
        """Whether our hooks run before everybody else's wherever they should."""
        return self.hooks_first & self.hooks_expected == self.hooks_expected


@dataclass(frozen=True)
class RuleRow:
    """A rule or built-in reason with its counters: RULE_GET."""

    index: int  # Reason below REASON_MAX, rule number + REASON_MAX above
    key: int
    name: str
    action: str
    packets: int
    bytes: int
    queue: t.Optional[t.Dict[str, t.Any]] = None  # of queue rules: num, count, bypass

    @property
    def builtin(self) -> bool:
        return self.index < REASON_MAX


@dataclass(frozen=True)
class EndpointRow:
    """An endpoint as the kernel knows it now: ENDPOINT_GET."""

    address: str
    identity: int
    link: int
    port: int


@dataclass(frozen=True)
class PrefixRow:
    """A routed prefix and the ports that it lives behind now: PREFIX_GET."""

    prefix: str
    identity: int
    number: int  # of its set
    ports: t.Tuple[t.Tuple[int, int], ...]  # link, port on it


@dataclass(frozen=True)
class UnmanagedRow:
    """Who sends behind a guard and is not known: UNMANAGED_GET."""

    address: str
    mac: str  # "": not shown
    link: int
    port: int  # 0: not shown
    packets: int
    idle: int  # seconds since the last of them


@dataclass(frozen=True)
class Explanation:
    """The verdict for a hypothetical packet: EXPLAIN."""

    action: str
    direction_class: str
    rule_index: int
    rule_name: str  # of the rule or built-in reason
    from_identity: int
    to_identity: int
    generation: int
    raw: t.Dict[str, t.Any] = field(default_factory=dict, compare=False)

    @property
    def builtin(self) -> bool:
        return self.rule_index < REASON_MAX


@dataclass(frozen=True)
class TraceReport:
    """How a trace stands: TRACE_BEGIN's, TRACE_GET's and TRACE_END's reply."""

    id: int
    state: str  # running, or why it has ended: time, events, ended
    seconds_left: int
    reported: int  # events
    withheld: int  # events that the rate kept back
    blind: int  # namespaces that could not be hooked


@dataclass(frozen=True)
class HookRow:
    """A function at a hook: HOOK_GET; they come in the order in which they run."""

    family: str  # IPv4, IPv6 or bridge
    hook: str  # PRE_ROUTING .. POST_ROUTING
    priority: int
    function: str
    module: str  # "": of the kernel itself
    own: bool


def info_of(reply: Attributes) -> Info:
    defaults = reply.first(Attr.DEFAULTS) or b""
    return Info(
        version=reply.text(Attr.VERSION),
        generation=reply.number(Attr.GENERATION),
        mode=Mode(reply.number(Attr.MODE)).name.lower(),
        defaults={
            which.name.lower(): Action(action).name.lower() for which, action in zip(DirectionClass, defaults)
        },
        policy_digest=(reply.first(Attr.POLICY_DIGEST) or b"").hex(),
        ruleset_digest=(reply.first(Attr.RULESET_DIGEST) or b"").hex(),
        confirm_remaining=reply.number(Attr.CONFIRM_REMAINING),
        guards=tuple(reply.texts(Attr.GUARD)),
        guard_links=tuple(struct.unpack("=I", link)[0] for link in reply.every(Attr.GUARD_LINK)),
        counts={
            name: reply.number(Attr["COUNT_" + name.upper()])
            for name in (
                "identities",
                "cells",
                "endpoints",
                "publish",
                "rules",
                "pairs",
                "prefixes",
                "behind",
            )
        },
        hooks_first=reply.number(Attr.HOOKS_FIRST),
        hooks_expected=reply.number(Attr.HOOKS_EXPECTED),
        placement=Placement(reply.number(Attr.PLACEMENT)).name.lower(),
        log_group=reply.number(Attr.LOG_GROUP),
        log_defaults=bool(reply.number(Attr.LOG_DEFAULTS)),
        log_swallowed=reply.number(Attr.LOG_SWALLOWED),
        sealed=reply.first(Attr.SEALED) is not None,
        hooks_ahead=tuple(reply.texts(Attr.HOOK_AHEAD)),
        parents=tuple(reply.texts(Attr.PARENT)),
        namespaces=reply.number(Attr.COUNT_NAMESPACES),
        traces=reply.number(Attr.COUNT_TRACES),
        returned=reply.number(Attr.COUNT_RETURNED),
        unmanaged_lost=reply.number(Attr.UNMANAGED_LOST),
    )


def hook_of(data: bytes) -> HookRow:
    family, hook, own, priority, who = struct.unpack(TRACE_STRUCTS[Attr.HOOK], data)
    function, _space, module = who.split(b"\0", 1)[0].decode("utf-8", "replace").partition(" [")
    return HookRow(
        family=HOOK_FAMILIES.get(family, "#%d" % family),
        hook=HOOKS[hook],
        priority=priority,
        function=function,
        module=module.rstrip("]"),
        own=bool(own),
    )


def rule_of(reply: Attributes) -> RuleRow:
    index = reply.number(Attr.RULE_INDEX)
    action = Action(reply.number(Attr.ACTION))
    queue = {
        "num": reply.number(Attr.QUEUE_NUM),
        "count": reply.number(Attr.QUEUE_COUNT),
        "bypass": reply.first(Attr.QUEUE_BYPASS) is not None,
    }
    return RuleRow(
        index=index,
        key=reply.number(Attr.RULE_KEY),
        name=reply.text(Attr.RULE_NAME) or REASON_WORDS.get(index, ""),
        action=action.name.lower(),
        packets=reply.number(Attr.PACKETS),
        bytes=reply.number(Attr.BYTES),
        queue=queue if action == Action.QUEUE else None,
    )


def endpoint_of(reply: Attributes) -> EndpointRow:
    address = reply.first(Attr.ADDR) or b"\0\0\0\0"
    return EndpointRow(
        address=socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address),
        identity=reply.number(Attr.IDENTITY),
        link=reply.number(Attr.LINK),
        port=reply.number(Attr.LINK_PORT),
    )


def prefixes_of(replies: t.Iterable[Attributes]) -> t.List[PrefixRow]:
    """The rows of a dump, which has the ports of each set by themselves."""
    found: t.List[t.Tuple[str, int, int]] = []
    ports: t.Dict[int, t.List[t.Tuple[int, int]]] = {}
    for reply in replies:
        number, address = reply.number(Attr.PREFIX_SET), reply.first(Attr.ADDR)
        if address is None:
            ports.setdefault(number, []).append((reply.number(Attr.LINK), reply.number(Attr.LINK_PORT)))
            continue
        text = socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)
        found.append(
            ("%s/%d" % (text, reply.number(Attr.PREFIX_LENGTH)), reply.number(Attr.IDENTITY), number)
        )
    return [
        PrefixRow(prefix, identity, number, tuple(sorted(ports.get(number, []))))
        for prefix, identity, number in found
    ]


def unmanaged_of(replies: t.Iterable[Attributes]) -> t.List[UnmanagedRow]:
    """By link, port and address. Two processors may have met one sender at the same moment: its rows are one."""
    found: t.Dict[t.Tuple[int, int, bytes, bytes], t.Tuple[int, int]] = {}
    for reply in replies:
        address, mac = reply.first(Attr.ADDR) or bytes(4), reply.first(Attr.MAC) or bytes(6)
        key = reply.number(Attr.LINK), reply.number(Attr.LINK_PORT), address, mac
        packets, idle = found.get(key, (0, reply.number(Attr.IDLE)))
        found[key] = packets + reply.number(Attr.PACKETS), min(idle, reply.number(Attr.IDLE))
    return [
        UnmanagedRow(
            socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address),
            ":".join("%02x" % byte for byte in mac) if any(mac) else "",
            link,
            port,
            packets,
            idle,
        )
        for (link, port, address, mac), (packets, idle) in sorted(found.items())
    ]


def explanation_of(reply: Attributes) -> Explanation:
    index = reply.number(Attr.RULE_INDEX)
    return Explanation(
        action=Action(reply.number(Attr.ACTION)).name.lower(),
        direction_class=DirectionClass(reply.number(Attr.CLASS)).name.lower(),
        rule_index=index,
        rule_name=reply.text(Attr.RULE_NAME) or REASON_WORDS.get(index, ""),
        from_identity=reply.number(Attr.FROM_IDENTITY),
        to_identity=reply.number(Attr.TO_IDENTITY),
        generation=reply.number(Attr.GENERATION),
    )
