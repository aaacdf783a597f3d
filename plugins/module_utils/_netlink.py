# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the library and the kernel module say to each other.

The numbers and structs are those of kmod/uapi/bridgewarden.h; a test compares
them.  `Kernel` speaks the generic netlink family over pyroute2, using only what
0.5.14 (Debian 11) and 0.9 have in common: every attribute is taken as bytes and
packed here, and the kernel's own error text is parsed here, because 0.5.14
knows nothing of it.  pyroute2 is imported on use, so that the constants serve
where it is not installed.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import enum
import errno
import ipaddress
import os
import socket
import struct
import sys
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    Busy,
    KernelError,
    LibraryMissing,
    ModuleMissing,
    PermissionDenied,
    Sealed,
    Stale,
    VersionMismatch,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._light import pyroute2_parts

if t.TYPE_CHECKING:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import Ruleset

FAMILY_NAME = "bridgewarden"
FAMILY_VERSION = 2

NAME_LEN = 64  # NUL included
GUARD_LEN = 32  # NUL included
DIGEST_LEN = 32
MAX_GUARDS = 64
MAX_IDENTITIES = 1 << 20
MAX_CELLS = 1 << 20
MAX_ENDPOINTS = 1 << 20
MAX_PUBLISH = 1 << 17
MAX_RULES = 1 << 17
MAX_SPANS = 1 << 22
MAX_BLOCKS = 1 << 22
MAX_PAIRS = 1 << 22
MAX_TRACES = 4  # at once
MAX_TERMS = 64
MAX_TRACE_SECONDS = 3600
MAX_TRACE_EVENTS = 10000000
MAX_TRACE_RATE = 1000000
WHO_LEN = 88

SERVICE_MAX = 0xFFFFFF
RULE_NONE = 0xFFFFFFFF
RULE_F_LOG = 1 << 0
RULE_F_BYPASS = 1 << 1
TERM_F_EXCEPT = 1 << 0
REASON_MAX = 64

#: An attribute's length is a 16-bit number; 32 KiB stays clear of it and of the socket's buffer.
CHUNK = 32 * 1024


class Cmd(enum.IntEnum):
    INFO_GET = 1
    BEGIN = 2
    ADD = 3
    COMMIT = 4
    ABORT = 5
    CONFIRM = 6
    ROLLBACK = 7
    RULE_GET = 8
    ENDPOINT_GET = 9
    EXPLAIN = 10
    SEAL = 11
    TRACE_BEGIN = 12
    TRACE_GET = 13
    TRACE_END = 14
    HOOK_GET = 15


class Attr(enum.IntEnum):
    UNSPEC = 0
    PAD = 1
    VERSION = 2
    GENERATION = 3
    EXPECT_GENERATION = 4
    MODE = 5
    DEFAULTS = 6
    POLICY_DIGEST = 7
    RULESET_DIGEST = 8
    DRY_RUN = 9
    CONFIRM_TIMEOUT = 10
    CONFIRM_REMAINING = 11
    GUARD = 12
    GUARD_LINK = 13
    SECTION_IDENTITY = 14
    SECTION_CELL4 = 15
    SECTION_CELL6 = 16
    SECTION_ENDPOINT4 = 17
    SECTION_ENDPOINT6 = 18
    SECTION_PUBLISH = 19
    SECTION_RULE = 20
    SECTION_SPAN = 21
    SECTION_BLOCK = 22
    SECTION_PAIR = 23
    COUNT_IDENTITIES = 24
    COUNT_CELLS = 25
    COUNT_ENDPOINTS = 26
    COUNT_PUBLISH = 27
    COUNT_RULES = 28
    COUNT_PAIRS = 29
    HOOKS_FIRST = 30
    HOOKS_EXPECTED = 31
    RULE_INDEX = 32
    RULE_KEY = 33
    RULE_NAME = 34
    ACTION = 35
    PACKETS = 36
    BYTES = 37
    FAMILY = 38
    PROTO = 39
    FROM_ADDR = 40
    TO_ADDR = 41
    PORT = 42
    FROM_KIND = 43
    TO_KIND = 44
    DIRECT = 45
    CLASS = 46
    FROM_IDENTITY = 47
    TO_IDENTITY = 48
    ADDR = 49
    IDENTITY = 50
    LINK = 51
    LINK_PORT = 52
    PLACEMENT = 53
    LOG_GROUP = 54
    LOG_DEFAULTS = 55
    LOG_SWALLOWED = 56
    SEALED = 57
    HOOK_AHEAD = 58
    QUEUE_NUM = 59
    QUEUE_COUNT = 60
    QUEUE_BYPASS = 61
    PARENT = 62
    COUNT_NAMESPACES = 63
    TRACE_ID = 64
    TRACE_TERM = 65
    TRACE_SECONDS = 66
    TRACE_EVENTS = 67
    TRACE_RATE = 68
    TRACE_REPORTED = 69
    TRACE_WITHHELD = 70
    TRACE_STATE = 71
    TRACE_BLIND = 72
    NETNS_FD = 73
    HOOK = 74
    COUNT_TRACES = 75


class Identity(enum.IntEnum):
    UNMANAGED = 0
    WORLD = 1
    HOST = 2
    FIRST = 3


class Mode(enum.IntEnum):
    ENFORCE = 0
    AUDIT = 1


class Placement(enum.IntEnum):
    FORWARD = 0
    POSTROUTING = 1
    CONTAINER = 2


class Action(enum.IntEnum):
    ALLOW = 0
    DENY = 1
    REJECT = 2
    QUEUE = 3


class DirectionClass(enum.IntEnum):
    INGRESS = 0
    EGRESS = 1
    INTER_CONTAINER = 2
    TO_HOST = 3
    FROM_HOST = 4
    HOST_INGRESS = 5


class Kind(enum.IntEnum):
    WORLD = 0
    HOST = 1
    GUARDED = 2


class TraceState(enum.IntEnum):
    RUNNING = 0
    TIME = 1
    EVENTS = 2
    ENDED = 3


class Reason(enum.IntEnum):
    DEFAULT_INGRESS = 0
    DEFAULT_EGRESS = 1
    DEFAULT_INTER_CONTAINER = 2
    DEFAULT_TO_HOST = 3
    DEFAULT_FROM_HOST = 4
    DEFAULT_HOST_INGRESS = 5
    UNMANAGED = 6
    SPOOFED = 7
    INVALID = 8
    MALFORMED = 9
    DIRECT = 10
    NEIGHBOUR = 11
    HOST_ERROR = 12
    CLOSED = 13
    BARE_PORT = 14
    BARE_PORT_NEIGHBOUR = 15


#: What the built-in reasons mean, for people.
REASON_WORDS: t.Dict[int, str] = {
    Reason.DEFAULT_INGRESS: "default for outside to container",
    Reason.DEFAULT_EGRESS: "default for container to outside",
    Reason.DEFAULT_INTER_CONTAINER: "default for container to container",
    Reason.DEFAULT_TO_HOST: "default for container to host",
    Reason.DEFAULT_FROM_HOST: "default for host to container",
    Reason.DEFAULT_HOST_INGRESS: "default for outside to the host's own sockets",
    Reason.UNMANAGED: "an address behind a guard that is no known container's takes part",
    Reason.SPOOFED: "the source address does not belong to the link it came from",
    Reason.INVALID: "connection tracking calls the packet invalid",
    Reason.MALFORMED: "the packet is truncated or has no transport header to judge by",
    Reason.DIRECT: "outside to a container's own address, not through a published port",
    Reason.NEIGHBOUR: "neighbour discovery or multicast listener discovery",
    Reason.HOST_ERROR: "the host's own reset or ICMP error",
    Reason.CLOSED: "the guards have no ruleset yet: closed",
    Reason.BARE_PORT: "by a port of a guarded bridge itself, past the bridge",
    Reason.BARE_PORT_NEIGHBOUR: "the host's own neighbour discovery at a port of a guarded bridge",
}

#: struct formats of the bulk sections: host byte order, no padding; addresses are bytes.
STRUCTS: t.Dict[Attr, str] = {
    Attr.SECTION_IDENTITY: "=II",
    Attr.SECTION_CELL4: "=4sII",
    Attr.SECTION_CELL6: "=16sII",
    Attr.SECTION_ENDPOINT4: "=4sIII",
    Attr.SECTION_ENDPOINT6: "=16sIII",
    Attr.SECTION_PUBLISH: "=BBH16sBBH16s",
    Attr.SECTION_RULE: "=QBB3H64s",
    Attr.SECTION_SPAN: "=IIII",
    Attr.SECTION_BLOCK: "=II",
    Attr.SECTION_PAIR: "=III",
}
#: The same for structs that are no part of a ruleset.
TRACE_STRUCTS: t.Dict[Attr, str] = {
    Attr.TRACE_TERM: "=BBHBBHII16s16s",
    Attr.HOOK: "=BBHi88s",
}

Sections = t.Sequence[t.Tuple[Attr, bytes]]
_Attrs = t.List[t.Tuple[Attr, bytes]]

_NETLINK_EXT_ACK = 11
_SOL_NETLINK = 270
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_NLM_F_REQUEST = 0x1
_NLM_F_ACK = 0x4
_NLM_F_DUMP = 0x300
_NLM_F_CAPPED = 0x100
_NLM_F_ACK_TLVS = 0x200
_EXT_ACK_MSG = 1


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
    counts: t.Dict[str, int]  # identities, cells, endpoints, publish, rules, pairs
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
class Term:
    """What a trace shows, or with `leave_out` does not: all that is set holds, in either direction."""

    proto: int = 0
    port: int = 0
    one: str = ""  # address or CIDR; "": any
    other: str = ""
    link: int = 0  # ifindex in the host's namespace
    netns: int = 0  # inode number
    leave_out: bool = False

    def packed(self) -> bytes:
        one, other = _prefix(self.one), _prefix(self.other)
        family = one[0] or other[0]
        return struct.pack(
            TRACE_STRUCTS[Attr.TRACE_TERM],
            family,
            self.proto,
            self.port,
            one[1],
            other[1],
            TERM_F_EXCEPT if self.leave_out else 0,
            self.link,
            self.netns,
            one[2],
            other[2],
        )


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


HOOKS = ("PRE_ROUTING", "LOCAL_IN", "FORWARD", "LOCAL_OUT", "POST_ROUTING")
_HOOK_FAMILIES = {2: "IPv4", 7: "bridge", 10: "IPv6"}


def chunked(sections: Sections, limit: int = CHUNK) -> t.Iterator[_Attrs]:
    """Cuts the sections into messages of at most `limit` bytes, never inside a struct."""
    message: _Attrs = []
    room = limit
    for attr, data in sections:
        size = struct.calcsize(STRUCTS[attr])
        view = memoryview(data)
        offset = 0
        while offset < len(view):
            count = (room - 8) // size  # 8: the attribute's header and its padding
            if count <= 0:
                yield message
                message, room = [], limit
                continue
            part = view[offset : offset + count * size]
            message.append((attr, bytes(part)))
            offset += len(part)
            room -= (len(part) + 7) & ~3
    if message:
        yield message


def extended_ack(data: bytes) -> str:
    """The kernel's own words (NLMSGERR_ATTR_MSG) in a raw datagram; '' without any."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags = struct.unpack_from("=IHH", data, offset)
        if length < 16 or offset + length > len(data):
            break
        if kind in (_NLMSG_ERROR, _NLMSG_DONE) and flags & _NLM_F_ACK_TLVS:
            start = offset + 20
            if kind == _NLMSG_ERROR:
                # The request's header is echoed, and the whole request unless it is capped.
                start += 16 if flags & _NLM_F_CAPPED else struct.unpack_from("=I", data, offset + 20)[0]
            words = _find_message(data, (start + 3) & ~3, offset + length)
            if words:
                return words
        offset += (length + 3) & ~3
    return ""


#: Stands for EBUSY on its way through pyroute2, which would ask 30 times again, 0.3 s apart.
_BUSY = errno.EDEADLK


def _renamed_busy(data: bytes) -> bytes:
    renamed = bytearray(data)
    offset = 0
    while offset + 20 <= len(renamed):
        length, kind = struct.unpack_from("=IH", renamed, offset)
        if length < 16:
            break
        if kind == _NLMSG_ERROR and struct.unpack_from("=i", renamed, offset + 16)[0] == -errno.EBUSY:
            struct.pack_into("=i", renamed, offset + 16, -_BUSY)
        offset += (length + 3) & ~3
    return bytes(renamed)


def _find_message(data: bytes, offset: int, end: int) -> str:
    while offset + 4 <= end:
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4 or offset + length > end:
            break
        if kind & 0x3FFF == _EXT_ACK_MSG:
            return bytes(data[offset + 4 : offset + length]).rstrip(b"\0").decode("utf-8", "replace")
        offset += (length + 3) & ~3
    return ""


def kernel_error(number: int, words: str, doing: str) -> BridgewardenError:
    """The error for an errno of the kernel and its words, if it had any."""
    said = words or os.strerror(number)
    if number in (errno.EPERM, errno.EACCES):
        if "seal" in words:
            return Sealed("the module is sealed", doing, "reboot the host to change its policy", number)
        return PermissionDenied(
            f"the kernel refuses: {said}",
            doing,
            "run as root in the host's own namespaces (become: true; not inside a container)",
        )
    if number == errno.ESTALE:
        return Stale(
            f"the kernel's state has moved on: {said}",
            doing,
            "somebody else has committed meanwhile; read the state again and repeat",
            number,
        )
    if number in (errno.EBUSY, errno.EAGAIN):
        return Busy(
            f"the kernel is busy: {said}",
            doing,
            "wait for the other writer, or confirm or roll back the open commit",
            number,
        )
    if number == errno.ENOMEM:
        return KernelError(
            f"the kernel has no memory for it: {said}",
            doing,
            "free memory or shrink the policy; the ruleset in force is unchanged",
            number,
        )
    return KernelError(f"the kernel refuses: {said}", doing, "nothing was changed", number)


class Kernel:
    """The module in the running kernel. `with Kernel() as kernel:`; one socket, one transaction at a time.

    Raises ModuleMissing where the family is not there, LibraryMissing without
    python3-pyroute2, and KernelError's kinds with the kernel's own words.
    """

    def __init__(self) -> None:
        self._socket: t.Any = None
        self._message: t.Any = None
        self._words = ""

    def __enter__(self) -> Kernel:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        pyroute2_parts()
        try:
            from pyroute2.netlink import genlmsg
            from pyroute2.netlink.exceptions import NetlinkError
            from pyroute2.netlink.generic import GenericNetlinkSocket
        except ImportError as error:
            raise LibraryMissing(
                f"the Python library pyroute2 cannot be imported: {error}",
                "",
                "install the distribution's python3-pyroute2",
            )

        class Message(genlmsg):  # type: ignore[misc]
            prefix = "BW_ATTR_"
            nla_map = tuple(("BW_ATTR_" + attr.name, "cdata") for attr in Attr)

        self._netlink_error = NetlinkError
        self._message = Message
        sock = GenericNetlinkSocket()
        # Up to 0.8 pyroute2 logs a missing family to the root logger by itself.
        for owner in (sock, getattr(sock, "asyncore", None)):
            if owner is not None:
                owner.module_err_level = "debug"
        try:
            sock.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._listen_for_words(sock.marshal)
            sock.bind(FAMILY_NAME, Message)
            family = sock.discovery(FAMILY_NAME)
        except NetlinkError as error:
            sock.close()
            if error.code == errno.ENOENT:
                raise ModuleMissing(
                    "the kernel module bridgewarden is not loaded",
                    f"generic netlink family {FAMILY_NAME}",
                    "load it with 'modprobe bridgewarden' (the role bridgewarden.docker.kmod builds and loads it)",
                )
            raise kernel_error(error.code, self._words, "looking for the module")
        except OSError as error:
            sock.close()
            raise kernel_error(error.errno or 0, "", "opening a netlink socket")
        version = family.get_attr("CTRL_ATTR_VERSION")
        if version != FAMILY_VERSION:
            sock.close()
            raise VersionMismatch(
                "the loaded kernel module speaks protocol version %s, this library %d"
                % (version, FAMILY_VERSION),
                "",
                "install the module and the collection of one release and load the module again",
            )
        self._socket = sock

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _listen_for_words(self, marshal: t.Any) -> None:
        parse = marshal.parse

        def listening(data: bytes, *args: t.Any, **kwargs: t.Any) -> t.Any:
            self._words = extended_ack(data) or self._words
            return parse(_renamed_busy(data), *args, **kwargs)

        marshal.parse = listening

    # Requests

    def info(self) -> Info:
        """The state of the module."""
        for reply in self._request(Cmd.INFO_GET, [], "reading the module's state"):
            return _info(reply)
        raise KernelError(
            "the kernel gave no answer", "reading the module's state", "look into the kernel log"
        )

    def commit(
        self,
        ruleset: Ruleset,
        expect: t.Optional[int] = None,
        dry_run: bool = False,
        confirm_timeout: int = 0,
    ) -> int:
        """Makes `ruleset` the one in force, if the generation is still `expect`; returns the new generation.

        With `dry_run` the kernel verifies everything and changes nothing.
        With `confirm_timeout` it restores the ruleset before it after so many
        seconds, unless `confirm()` comes first.  Raises Stale, Busy, KernelError.
        """
        doing = "checking the ruleset" if dry_run else "committing the ruleset"
        begin: _Attrs = [
            (Attr.MODE, bytes([ruleset.mode])),
            (Attr.PLACEMENT, bytes([ruleset.placement])),
            (Attr.LOG_GROUP, struct.pack("=H", ruleset.log_group)),
            (Attr.LOG_DEFAULTS, bytes([ruleset.log_defaults])),
            (Attr.DEFAULTS, bytes(ruleset.defaults)),
            (Attr.POLICY_DIGEST, ruleset.policy_digest),
            (Attr.RULESET_DIGEST, ruleset.digest()),
        ]
        begin += [(Attr.GUARD, pattern.encode("ascii") + b"\0") for pattern in ruleset.guards]
        begin += [(Attr.PARENT, pattern.encode("ascii") + b"\0") for pattern in ruleset.parents]
        if expect is None:
            expect = self.info().generation
        commit: _Attrs = [(Attr.EXPECT_GENERATION, struct.pack("=Q", expect))]
        if dry_run:
            commit.append((Attr.DRY_RUN, b""))
        if confirm_timeout:
            commit.append((Attr.CONFIRM_TIMEOUT, struct.pack("=I", confirm_timeout)))
        self._request(Cmd.BEGIN, begin, doing)
        try:
            for part in chunked(ruleset.to_sections()):
                self._request(Cmd.ADD, part, doing)
            replies = self._commit_patiently(commit, doing)
        except BridgewardenError:
            self._abort()
            raise
        if dry_run:
            self._abort()  # a dry run leaves the transaction open
        for reply in replies:
            number = _first(reply, Attr.GENERATION)
            if number:
                return int(struct.unpack("=Q", number)[0])
        return self.info().generation

    def _commit_patiently(self, commit: _Attrs, doing: str) -> t.List[t.Any]:
        # EAGAIN: the hash seed was unlucky; the transaction is still there.
        for _attempt in range(4):
            try:
                return self._request(Cmd.COMMIT, commit, doing)
            except KernelError as error:
                if error.errno != errno.EAGAIN:
                    raise
        return self._request(Cmd.COMMIT, commit, doing)

    def _abort(self) -> None:
        try:
            self._request(Cmd.ABORT, [], "aborting")
        except BridgewardenError:
            pass  # the kernel drops the transaction with the socket at the latest

    def confirm(self, generation: t.Optional[int] = None) -> int:
        """Keeps a commit whose confirm window is open; returns the generation in force."""
        return self._settle(Cmd.CONFIRM, generation, "confirming the commit")

    def rollback(self, generation: t.Optional[int] = None) -> int:
        """Restores the ruleset before the last commit, now; returns the generation in force."""
        return self._settle(Cmd.ROLLBACK, generation, "rolling back")

    def seal(self, generation: t.Optional[int] = None) -> int:
        """No change and no unload until reboot; returns the generation in force."""
        return self._settle(Cmd.SEAL, generation, "sealing the module")

    def _settle(self, cmd: Cmd, generation: t.Optional[int], doing: str) -> int:
        attrs: _Attrs = []
        if generation is not None:
            attrs.append((Attr.EXPECT_GENERATION, struct.pack("=Q", generation)))
        self._request(cmd, attrs, doing)
        return self.info().generation

    def rules(self) -> t.List[RuleRow]:
        """Rules and built-in reasons with their counters, in the kernel's order."""
        return [_rule(reply) for reply in self._dump(Cmd.RULE_GET, "reading the rules")]

    def endpoints(self) -> t.List[EndpointRow]:
        """The endpoints that are alive now."""
        return [_endpoint(reply) for reply in self._dump(Cmd.ENDPOINT_GET, "reading the endpoints")]

    def explain(
        self,
        from_addr: str,
        to_addr: str,
        proto: int,
        port: int = 0,
        from_kind: Kind = Kind.WORLD,
        to_kind: Kind = Kind.GUARDED,
        direct: bool = False,
    ) -> Explanation:
        """Which verdict a connection would get; `port` is the responder's own, or ICMP type << 8 | code."""
        family = socket.AF_INET6 if ":" in from_addr else socket.AF_INET
        attrs: _Attrs = [
            (Attr.FAMILY, bytes([family])),
            (Attr.PROTO, bytes([proto])),
            (Attr.FROM_ADDR, socket.inet_pton(family, from_addr)),
            (Attr.TO_ADDR, socket.inet_pton(family, to_addr)),
            (Attr.PORT, struct.pack("=H", port)),
            (Attr.FROM_KIND, bytes([from_kind])),
            (Attr.TO_KIND, bytes([to_kind])),
        ]
        if direct:
            attrs.append((Attr.DIRECT, b""))
        for reply in self._request(Cmd.EXPLAIN, attrs, "explaining a connection"):
            return _explanation(reply)
        raise KernelError("the kernel gave no answer", "explaining a connection", "look into the kernel log")

    # Traces

    def trace_begin(
        self, terms: t.Sequence[Term] = (), seconds: int = 60, events: int = 100000, rate: int = 5000
    ) -> TraceReport:
        """Begins this socket's trace; it ends with the socket at the latest."""
        attrs: _Attrs = [
            (Attr.TRACE_SECONDS, struct.pack("=I", seconds)),
            (Attr.TRACE_EVENTS, struct.pack("=I", events)),
            (Attr.TRACE_RATE, struct.pack("=I", rate)),
        ]
        if terms:
            attrs.append((Attr.TRACE_TERM, b"".join(term.packed() for term in terms)))
        return self._trace(Cmd.TRACE_BEGIN, attrs, "beginning a trace")

    def trace_get(self) -> TraceReport:
        return self._trace(Cmd.TRACE_GET, [], "asking for the trace")

    def trace_end(self) -> TraceReport:
        return self._trace(Cmd.TRACE_END, [], "ending the trace")

    def _trace(self, cmd: Cmd, attrs: _Attrs, doing: str) -> TraceReport:
        for reply in self._request(cmd, attrs, doing):
            return TraceReport(
                id=_number(reply, Attr.TRACE_ID),
                state=TraceState(_number(reply, Attr.TRACE_STATE)).name.lower(),
                seconds_left=_number(reply, Attr.TRACE_SECONDS),
                reported=_number(reply, Attr.TRACE_REPORTED),
                withheld=_number(reply, Attr.TRACE_WITHHELD),
                blind=_number(reply, Attr.TRACE_BLIND),
            )
        raise KernelError("the kernel gave no answer", doing, "look into the kernel log")

    def hooks(self, netns: t.Optional[int] = None) -> t.List[HookRow]:
        """Who stands at each hook of the host's namespace, or of the one that the open file `netns` is of."""
        attrs: _Attrs = [] if netns is None else [(Attr.NETNS_FD, struct.pack("=I", netns))]
        rows: t.List[HookRow] = []
        for reply in self._request(Cmd.HOOK_GET, attrs, "asking who stands at the hooks"):
            rows.extend(_hook(data) for data in _all(reply, Attr.HOOK))
        return rows

    # The wire

    def _request(self, cmd: Cmd, attrs: _Attrs, doing: str) -> t.List[t.Any]:
        return self._exchange(cmd, attrs, _NLM_F_REQUEST | _NLM_F_ACK, doing)

    def _dump(self, cmd: Cmd, doing: str) -> t.List[t.Any]:
        for _attempt in range(5):
            try:
                return self._exchange(cmd, [], _NLM_F_REQUEST | _NLM_F_DUMP, doing)
            except KernelError as error:
                if error.errno != errno.EINTR:
                    raise
        raise Busy("commits keep coming in between", doing, "try again", errno.EINTR)

    def _exchange(self, cmd: Cmd, attrs: _Attrs, flags: int, doing: str) -> t.List[t.Any]:
        if self._socket is None:
            self.open()
        message = self._message()
        message["cmd"] = int(cmd)
        message["version"] = FAMILY_VERSION
        message["attrs"] = [("BW_ATTR_" + attr.name, data) for attr, data in attrs]
        self._words = ""
        try:
            replies = tuple(self._socket.nlm_request(message, msg_type=self._socket.prid, msg_flags=flags))
        except self._netlink_error as error:
            # A dump that a commit interrupted has the code -1 in pyroute2.
            code = {_BUSY: errno.EBUSY, -1: errno.EINTR}.get(error.code, error.code)
            raise kernel_error(code, self._words, doing) from None
        except OSError as error:
            raise kernel_error(error.errno or 0, self._words, doing) from None
        return [reply for reply in replies if "attrs" in reply]


def _first(reply: t.Any, attr: Attr) -> t.Optional[bytes]:
    value: t.Optional[bytes] = reply.get_attr("BW_ATTR_" + attr.name)
    return value


def _all(reply: t.Any, attr: Attr) -> t.List[bytes]:
    return list(reply.get_attrs("BW_ATTR_" + attr.name))


def _number(reply: t.Any, attr: Attr) -> int:
    return int.from_bytes(_first(reply, attr) or b"", sys.byteorder)


def _text(data: t.Optional[bytes]) -> str:
    return (data or b"").split(b"\0", 1)[0].decode("utf-8", "replace")


def _info(reply: t.Any) -> Info:
    defaults = _first(reply, Attr.DEFAULTS) or b""
    return Info(
        version=_text(_first(reply, Attr.VERSION)),
        generation=_number(reply, Attr.GENERATION),
        mode=Mode(_number(reply, Attr.MODE)).name.lower(),
        defaults={
            which.name.lower(): Action(action).name.lower() for which, action in zip(DirectionClass, defaults)
        },
        policy_digest=(_first(reply, Attr.POLICY_DIGEST) or b"").hex(),
        ruleset_digest=(_first(reply, Attr.RULESET_DIGEST) or b"").hex(),
        confirm_remaining=_number(reply, Attr.CONFIRM_REMAINING),
        guards=tuple(_text(guard) for guard in _all(reply, Attr.GUARD)),
        guard_links=tuple(struct.unpack("=I", link)[0] for link in _all(reply, Attr.GUARD_LINK)),
        counts={
            name: _number(reply, Attr["COUNT_" + name.upper()])
            for name in ("identities", "cells", "endpoints", "publish", "rules", "pairs")
        },
        hooks_first=_number(reply, Attr.HOOKS_FIRST),
        hooks_expected=_number(reply, Attr.HOOKS_EXPECTED),
        placement=Placement(_number(reply, Attr.PLACEMENT)).name.lower(),
        log_group=_number(reply, Attr.LOG_GROUP),
        log_defaults=bool(_number(reply, Attr.LOG_DEFAULTS)),
        log_swallowed=_number(reply, Attr.LOG_SWALLOWED),
        sealed=_first(reply, Attr.SEALED) is not None,
        hooks_ahead=tuple(_text(who) for who in _all(reply, Attr.HOOK_AHEAD)),
        parents=tuple(_text(parent) for parent in _all(reply, Attr.PARENT)),
        namespaces=_number(reply, Attr.COUNT_NAMESPACES),
        traces=_number(reply, Attr.COUNT_TRACES),
    )


def _prefix(text: str) -> t.Tuple[int, int, bytes]:
    """Family, prefix length and sixteen bytes; zeroes for ""."""
    if not text:
        return 0, 0, bytes(16)
    network = ipaddress.ip_network(text, strict=False)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return int(family), network.prefixlen, network.network_address.packed.ljust(16, b"\0")


def _hook(data: bytes) -> HookRow:
    family, hook, own, priority, who = struct.unpack(TRACE_STRUCTS[Attr.HOOK], data)
    function, _space, module = _text(who).partition(" [")
    return HookRow(
        family=_HOOK_FAMILIES.get(family, "#%d" % family),
        hook=HOOKS[hook],
        priority=priority,
        function=function,
        module=module.rstrip("]"),
        own=bool(own),
    )


def _rule(reply: t.Any) -> RuleRow:
    index = _number(reply, Attr.RULE_INDEX)
    action = Action(_number(reply, Attr.ACTION))
    queue = {
        "num": _number(reply, Attr.QUEUE_NUM),
        "count": _number(reply, Attr.QUEUE_COUNT),
        "bypass": _first(reply, Attr.QUEUE_BYPASS) is not None,
    }
    return RuleRow(
        index=index,
        key=_number(reply, Attr.RULE_KEY),
        name=_text(_first(reply, Attr.RULE_NAME)) or REASON_WORDS.get(index, ""),
        action=action.name.lower(),
        packets=_number(reply, Attr.PACKETS),
        bytes=_number(reply, Attr.BYTES),
        queue=queue if action == Action.QUEUE else None,
    )


def _endpoint(reply: t.Any) -> EndpointRow:
    address = _first(reply, Attr.ADDR) or b"\0\0\0\0"
    return EndpointRow(
        address=socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address),
        identity=_number(reply, Attr.IDENTITY),
        link=_number(reply, Attr.LINK),
        port=_number(reply, Attr.LINK_PORT),
    )


def _explanation(reply: t.Any) -> Explanation:
    index = _number(reply, Attr.RULE_INDEX)
    return Explanation(
        action=Action(_number(reply, Attr.ACTION)).name.lower(),
        direction_class=DirectionClass(_number(reply, Attr.CLASS)).name.lower(),
        rule_index=index,
        rule_name=_text(_first(reply, Attr.RULE_NAME)) or REASON_WORDS.get(index, ""),
        from_identity=_number(reply, Attr.FROM_IDENTITY),
        to_identity=_number(reply, Attr.TO_IDENTITY),
        generation=_number(reply, Attr.GENERATION),
    )
