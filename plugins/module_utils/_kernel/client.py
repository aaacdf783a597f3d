# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the library and the kernel module say to each other.

The numbers and structs are those of kmod/uapi/bridgewarden.h; a test compares
them.  `Kernel` sends the commands of the generic netlink family, packs their
attributes and turns the kernel's refusals into errors that say what to do.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    FAMILY_NAME,
    FAMILY_VERSION,
    STRUCTS,
    TERM_F_EXCEPT,
    TRACE_STRUCTS,
    Attr,
    Cmd,
    Kind,
    TraceState,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    Busy,
    KernelError,
    ModuleMissing,
    PermissionDenied,
    Sealed,
    Stale,
    VersionMismatch,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    EndpointRow,
    Explanation,
    HookRow,
    Info,
    PrefixRow,
    RuleRow,
    TraceReport,
    UnmanagedRow,
    endpoint_of,
    explanation_of,
    hook_of,
    info_of,
    prefixes_of,
    rule_of,
    unmanaged_of,
)

if t.TYPE_CHECKING:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import (
        Attributes,
        GenericFamily,
    )
    from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset


#: An attribute's length is a 16-bit number; 32 KiB stays clear of it and of the socket's buffer.
CHUNK = 32 * 1024

Sections = t.Sequence[t.Tuple[Attr, bytes]]
_Attrs = t.List[t.Tuple[Attr, bytes]]


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
    if number == errno.ETIMEDOUT:
        return KernelError("the kernel does not answer", doing, "look into the kernel log", number)
    return KernelError(f"the kernel refuses: {said}", doing, "nothing was changed", number)


def _refusal(error: OSError, doing: str) -> BridgewardenError:
    """The error for one of the netlink socket, which has words where it is the kernel's."""
    return kernel_error(error.errno or 0, getattr(error, "words", ""), doing)


class Kernel:
    """The module in the running kernel. `with Kernel() as kernel:`; one socket, one transaction at a time.

    Raises ModuleMissing where the family is not there, and KernelError's kinds
    with the kernel's own words.
    """

    def __init__(self) -> None:
        self._family: t.Optional[GenericFamily] = None

    def __enter__(self) -> Kernel:
        self.open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def open(self) -> None:
        # Imported here, because most of what imports this file asks the kernel nothing: the command's --help, for one.
        from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import (
            GenericFamily,
        )

        self.close()
        try:
            family = GenericFamily(FAMILY_NAME)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise ModuleMissing(
                    "the kernel module bridgewarden is not loaded",
                    f"generic netlink family {FAMILY_NAME}",
                    "load it with 'modprobe bridgewarden' (the role bridgewarden.docker.kmod builds and loads it)",
                ) from None
            raise _refusal(error, "looking for the module") from None
        if family.version != FAMILY_VERSION:
            family.close()
            raise VersionMismatch(
                "the loaded kernel module speaks protocol version %d, this library %d"
                % (family.version, FAMILY_VERSION),
                "",
                "install the module and the collection of one release and load the module again",
            )
        self._family = family

    def close(self) -> None:
        if self._family is not None:
            self._family.close()
            self._family = None

    # Requests

    def info(self) -> Info:
        """The state of the module."""
        for reply in self._request(Cmd.INFO_GET, [], "reading the module's state"):
            return info_of(reply)
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
            number = reply.first(Attr.GENERATION)
            if number:
                return int(struct.unpack("=Q", number)[0])
        return self.info().generation

    def _commit_patiently(self, commit: _Attrs, doing: str) -> t.List[Attributes]:
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
        return [rule_of(reply) for reply in self._dump(Cmd.RULE_GET, "reading the rules")]

    def endpoints(self) -> t.List[EndpointRow]:
        """The endpoints that are alive now."""
        return [endpoint_of(reply) for reply in self._dump(Cmd.ENDPOINT_GET, "reading the endpoints")]

    def prefixes(self) -> t.List[PrefixRow]:
        """The routed prefixes, and where they live now."""
        return prefixes_of(self._dump(Cmd.PREFIX_GET, "reading the routed prefixes"))

    def unmanaged(self) -> t.List[UnmanagedRow]:
        """Who sends behind a guard and is not known."""
        return unmanaged_of(self._dump(Cmd.UNMANAGED_GET, "reading who is unmanaged"))

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
            return explanation_of(reply)
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
                id=reply.number(Attr.TRACE_ID),
                state=TraceState(reply.number(Attr.TRACE_STATE)).name.lower(),
                seconds_left=reply.number(Attr.TRACE_SECONDS),
                reported=reply.number(Attr.TRACE_REPORTED),
                withheld=reply.number(Attr.TRACE_WITHHELD),
                blind=reply.number(Attr.TRACE_BLIND),
            )
        raise KernelError("the kernel gave no answer", doing, "look into the kernel log")

    def hooks(self, netns: t.Optional[int] = None) -> t.List[HookRow]:
        """Who stands at each hook of the host's namespace, or of the one that the open file `netns` is of."""
        attrs: _Attrs = [] if netns is None else [(Attr.NETNS_FD, struct.pack("=I", netns))]
        rows: t.List[HookRow] = []
        for reply in self._request(Cmd.HOOK_GET, attrs, "asking who stands at the hooks"):
            rows.extend(hook_of(data) for data in reply.every(Attr.HOOK))
        return rows

    # The wire

    def _request(self, cmd: Cmd, attrs: _Attrs, doing: str) -> t.List[Attributes]:
        return self._exchange(lambda family: family.request(cmd, attrs), doing)

    def _dump(self, cmd: Cmd, doing: str) -> t.List[Attributes]:
        return self._exchange(lambda family: family.dump(cmd), doing)

    def _exchange(
        self, ask: t.Callable[[GenericFamily], t.List[Attributes]], doing: str
    ) -> t.List[Attributes]:
        if self._family is None:
            self.open()
        try:
            return ask(t.cast("GenericFamily", self._family))
        except InterruptedError:
            raise Busy("commits keep coming in between", doing, "try again", errno.EINTR) from None
        except OSError as error:
            raise _refusal(error, doing) from None


def _prefix(text: str) -> t.Tuple[int, int, bytes]:
    """Family, prefix length and sixteen bytes; zeroes for ""."""
    if not text:
        return 0, 0, bytes(16)
    network = ipaddress.ip_network(text, strict=False)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    return int(family), network.prefixlen, network.network_address.packed.ljust(16, b"\0")
