# SPDX-License-Identifier: GPL-3.0-or-later
"""The client of the kernel module: messages, error texts and replies, with a family in place of the kernel's."""

from __future__ import annotations

import dataclasses
import errno
import struct
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import (
    REASON_WORDS,
    STRUCTS,
    Attr,
    Cmd,
    Reason,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    Busy,
    KernelError,
    ModuleMissing,
    PermissionDenied,
    Sealed,
    Stale,
    VersionMismatch,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel import client
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import (
    Kernel,
    chunked,
    kernel_error,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import (
    PrefixRow,
    UnmanagedRow,
    info_of,
    prefixes_of,
    unmanaged_of,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import (
    Attributes,
    GenericFamily,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import NetlinkError
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    empty_ruleset,
)
from hypothesis import given
from hypothesis import strategies as st

Attrs = t.List[t.Tuple[Attr, bytes]]


@given(
    st.lists(st.tuples(st.sampled_from(list(STRUCTS)), st.integers(1, 300)), max_size=8),
    st.integers(100, 5000),
)
def test_chunks_hold_everything_and_cut_no_struct(wanted: t.List[t.Tuple[Attr, int]], limit: int) -> None:
    sections = []
    for number, (attr, count) in enumerate(wanted):
        sections.append((attr, bytes([number]) * (count * struct.calcsize(STRUCTS[attr]))))
    joined: Attrs = []
    for message in chunked(sections, limit):
        assert message
        assert sum((4 + len(data) + 3) & ~3 for _attr, data in message) <= limit
        for attr, data in message:
            assert len(data) % struct.calcsize(STRUCTS[attr]) == 0
            if joined and joined[-1][0] == attr and joined[-1][1][-1:] == data[:1]:
                joined[-1] = attr, joined[-1][1] + data
            else:
                joined.append((attr, data))
    assert joined == sections


def test_every_reason_has_words() -> None:
    assert set(REASON_WORDS) == set(Reason)


@pytest.mark.parametrize(
    ("number", "words", "kind"),
    [
        (errno.ESTALE, "", Stale),
        (errno.EBUSY, "", Busy),
        (errno.EPERM, "", PermissionDenied),
        (errno.EPERM, "the module is sealed", Sealed),
        (errno.ENOMEM, "", KernelError),
        (errno.EINVAL, "span[0]: no such rule", KernelError),
    ],
)
def test_errors(number: int, words: str, kind: t.Type[Exception]) -> None:
    error = kernel_error(number, words, "committing")
    assert type(error) is kind
    if words and kind is KernelError:
        assert words in str(error)
    assert "committing" in str(error)


class Family:
    """Records requests; refuses a command with the given errors first."""

    def __init__(self, failures: t.Optional[t.Dict[Cmd, t.List[OSError]]] = None) -> None:
        self.sent: t.List[t.Tuple[Cmd, Attrs]] = []
        self.failures = failures or {}

    def request(self, cmd: Cmd, attrs: Attrs) -> t.List[Attributes]:
        self.sent.append((cmd, list(attrs)))
        if self.failures.get(cmd):
            raise self.failures[cmd].pop(0)
        return [Attributes({Attr.GENERATION: [struct.pack("=Q", 8)]})]

    def dump(self, cmd: Cmd) -> t.List[Attributes]:
        return self.request(cmd, [])

    def kernel(self) -> Kernel:
        kernel = Kernel()
        kernel._family = t.cast(GenericFamily, self)
        return kernel

    def commands(self) -> t.List[Cmd]:
        return [cmd for cmd, _attrs in self.sent]


def ruleset() -> Ruleset:
    return dataclasses.replace(empty_ruleset(), guards=("br-*", "docker0"), cells4=[(bytes(4), 1, 2)])


def test_commit() -> None:
    family = Family()
    assert family.kernel().commit(ruleset(), 7, confirm_timeout=60) == 8
    assert family.commands() == [Cmd.BEGIN, Cmd.ADD, Cmd.COMMIT]
    begin = family.sent[0][1]
    assert [data for attr, data in begin if attr == Attr.GUARD] == [b"br-*\0", b"docker0\0"]
    assert dict(family.sent[2][1]) == {
        Attr.EXPECT_GENERATION: struct.pack("=Q", 7),
        Attr.CONFIRM_TIMEOUT: struct.pack("=I", 60),
    }


def test_dry_run_leaves_no_transaction() -> None:
    family = Family()
    family.kernel().commit(ruleset(), 7, dry_run=True)
    assert family.commands()[-2:] == [Cmd.COMMIT, Cmd.ABORT]
    assert Attr.DRY_RUN in dict(family.sent[-2][1])


def test_failed_commit_leaves_no_transaction() -> None:
    family = Family({Cmd.COMMIT: [NetlinkError(errno.ESTALE, "")]})
    with pytest.raises(Stale):
        family.kernel().commit(ruleset(), 7)
    assert family.commands()[-1] == Cmd.ABORT


def test_unlucky_hash_is_tried_again() -> None:
    unlucky = NetlinkError(errno.EAGAIN, "")
    family = Family({Cmd.COMMIT: [unlucky] * 2})
    assert family.kernel().commit(ruleset(), 7) == 8
    assert family.commands().count(Cmd.COMMIT) == 3
    with pytest.raises(Busy):
        Family({Cmd.COMMIT: [unlucky] * 9}).kernel().commit(ruleset(), 7)


def test_a_busy_kernel_is_asked_once() -> None:
    family = Family({Cmd.BEGIN: [NetlinkError(errno.EBUSY, "a commit waits")]})
    with pytest.raises(Busy, match="a commit waits"):
        family.kernel().commit(ruleset(), 7)
    assert family.commands() == [Cmd.BEGIN]


def test_commits_that_keep_cutting_a_dump() -> None:
    family = Family({Cmd.RULE_GET: [InterruptedError(errno.EINTR, "")]})
    with pytest.raises(Busy, match="commits keep coming in between"):
        family.kernel().rules()


def test_a_kernel_that_does_not_answer() -> None:
    family = Family({Cmd.INFO_GET: [TimeoutError(errno.ETIMEDOUT, "")]})
    with pytest.raises(
        KernelError, match=r"does not answer \(reading the module's state\): look into the kernel log"
    ):
        family.kernel().info()


def test_info_reply() -> None:
    info = info_of(
        Attributes(
            {
                Attr.VERSION: [b"0.1.0\0"],
                Attr.GENERATION: [struct.pack("=Q", 3)],
                Attr.MODE: [b"\1"],
                Attr.DEFAULTS: [bytes([1, 0, 1, 2, 0, 0])],
                Attr.RULESET_DIGEST: [bytes(31) + b"\xff"],
                Attr.GUARD: [b"br-*\0", b"docker0\0"],
                Attr.GUARD_LINK: [struct.pack("=I", 5)],
                Attr.COUNT_RULES: [struct.pack("=I", 9)],
                Attr.HOOKS_FIRST: [struct.pack("=I", 0b0110)],
                Attr.HOOKS_EXPECTED: [struct.pack("=I", 0b0010)],
            }
        )
    )
    assert (info.version, info.generation, info.mode, info.guards) == (
        "0.1.0",
        3,
        "audit",
        ("br-*", "docker0"),
    )
    assert (info.defaults["to_host"], info.guard_links, info.counts["rules"]) == ("reject", (5,), 9)
    assert info.hooks_in_place
    assert info.policy_digest == ""


def test_missing_module_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The running kernel is asked for a family that it has not, whether the module is loaded here or not."""
    monkeypatch.setattr(client, "FAMILY_NAME", "bw-nosuchname")
    with pytest.raises(ModuleMissing, match="modprobe bridgewarden"):
        Kernel().open()


def test_a_module_of_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the kernel's own family, which is always there."""
    monkeypatch.setattr(client, "FAMILY_NAME", "nlctrl")
    monkeypatch.setattr(client, "FAMILY_VERSION", 99)
    with pytest.raises(VersionMismatch, match="speaks protocol version 2, this library 99"):
        Kernel().open()


def test_prefixes_come_with_the_ports_of_their_set() -> None:
    def number(value: int) -> t.List[bytes]:
        return [struct.pack("=I", value)]

    def prefix(address: bytes, length: int, identity: int, which: int) -> Attributes:
        return Attributes(
            {
                Attr.ADDR: [address],
                Attr.PREFIX_LENGTH: [bytes([length])],
                Attr.IDENTITY: number(identity),
                Attr.PREFIX_SET: number(which),
            }
        )

    def port(which: int, link: int, on_it: int) -> Attributes:
        return Attributes(
            {Attr.PREFIX_SET: number(which), Attr.LINK: number(link), Attr.LINK_PORT: number(on_it)}
        )

    rows = prefixes_of(
        [
            prefix(bytes([10, 13, 13, 0]), 24, 5, 0),
            prefix(b"\xfd\x13" + bytes(14), 64, 6, 1),
            port(0, 5, 9),
            port(0, 5, 8),
        ]
    )
    assert rows == [
        PrefixRow("10.13.13.0/24", 5, 0, ((5, 8), (5, 9))),
        PrefixRow("fd13::/64", 6, 1, ()),
    ]
    assert prefixes_of([]) == []


def test_an_unmanaged_sender_is_one_row_however_many_the_kernel_has() -> None:
    def row(address: bytes, mac: bytes, packets: int, idle: int, port: int = 9) -> Attributes:
        return Attributes(
            {
                Attr.ADDR: [address],
                Attr.MAC: [mac],
                Attr.LINK: [struct.pack("=I", 5)],
                Attr.LINK_PORT: [struct.pack("=I", port)],
                Attr.PACKETS: [struct.pack("=Q", packets)],
                Attr.IDLE: [struct.pack("=I", idle)],
            }
        )

    address, mac = bytes([10, 13, 13, 2]), bytes([2, 0x42, 0, 0, 0, 1])
    rows = unmanaged_of([row(address, mac, 3, 60), row(address, mac, 4, 7), row(address, bytes(6), 1, 1, 0)])
    assert rows == [
        UnmanagedRow("10.13.13.2", "", 5, 0, 1, 1),
        UnmanagedRow("10.13.13.2", "02:42:00:00:00:01", 5, 9, 7, 7),
    ]
