# SPDX-License-Identifier: GPL-3.0-or-later
"""Messages, error texts and replies, without a kernel: what goes over the wire and how it comes back."""

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
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import (
    Kernel,
    _renamed_busy,
    chunked,
    extended_ack,
    kernel_error,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import info_of
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


def error_datagram(code: int, words: str, capped: bool, tlvs: bool = True) -> bytes:
    request = struct.pack("=IHHII", 24, 30, 5, 1, 2) + b"requests"
    echoed = request[:16] if capped else request
    flags = (0x100 if capped else 0) | (0x200 if tlvs else 0)
    body = struct.pack("=i", -code) + echoed
    if tlvs:
        text = words.encode() + b"\0"
        body += (
            struct.pack("=HHI", 8, 2, 44)
            + struct.pack("=HH", 4 + len(text), 1)
            + text
            + b"\0" * (-len(text) % 4)
        )
    return struct.pack("=IHHII", 16 + len(body), 2, flags, 1, 2) + body


@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_own_words(capped: bool) -> None:
    data = error_datagram(errno.EINVAL, "span[3]: no such rule", capped)
    assert extended_ack(data) == "span[3]: no such rule"
    assert extended_ack(error_datagram(0, "", capped, tlvs=False) + data) == "span[3]: no such rule"
    assert extended_ack(error_datagram(errno.EINVAL, "", capped, tlvs=False)) == ""


@given(st.binary(max_size=200))
def test_garbage_does_no_harm(data: bytes) -> None:
    extended_ack(data)
    assert len(_renamed_busy(data)) == len(data)


def test_busy_does_not_reach_pyroute2() -> None:
    data = _renamed_busy(error_datagram(errno.EBUSY, "a commit waits", True))
    assert struct.unpack_from("=i", data, 16)[0] == -errno.EDEADLK
    other = error_datagram(errno.EINVAL, "x", True)
    assert _renamed_busy(other) == other


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


class Wire(Kernel):
    """Records requests; answers with the given errno once for a command."""

    def __init__(self, failures: t.Optional[t.Dict[Cmd, t.List[int]]] = None) -> None:
        super().__init__()
        self.sent: t.List[t.Tuple[Cmd, Attrs]] = []
        self.failures = failures or {}

    def _exchange(self, cmd: Cmd, attrs: t.Any, flags: int, doing: str) -> t.List[t.Any]:
        self.sent.append((cmd, list(attrs)))
        if self.failures.get(cmd):
            raise kernel_error(self.failures[cmd].pop(0), "", doing)
        return [Reply([("BW_ATTR_GENERATION", struct.pack("=Q", 8))])]

    def commands(self) -> t.List[Cmd]:
        return [cmd for cmd, _attrs in self.sent]


class Reply(t.Dict[str, t.Any]):
    def __init__(self, attrs: t.List[t.Tuple[str, bytes]]) -> None:
        super().__init__(attrs=attrs)

    def get_attr(self, name: str) -> t.Optional[bytes]:
        return next((value for key, value in self["attrs"] if key == name), None)

    def get_attrs(self, name: str) -> t.List[bytes]:
        return [value for key, value in self["attrs"] if key == name]


def ruleset() -> Ruleset:
    return dataclasses.replace(empty_ruleset(), guards=("br-*", "docker0"), cells4=[(bytes(4), 1, 2)])


def test_commit() -> None:
    wire = Wire()
    assert wire.commit(ruleset(), 7, confirm_timeout=60) == 8
    assert wire.commands() == [Cmd.BEGIN, Cmd.ADD, Cmd.COMMIT]
    begin = wire.sent[0][1]
    assert [data for attr, data in begin if attr == Attr.GUARD] == [b"br-*\0", b"docker0\0"]
    assert dict(wire.sent[2][1]) == {
        Attr.EXPECT_GENERATION: struct.pack("=Q", 7),
        Attr.CONFIRM_TIMEOUT: struct.pack("=I", 60),
    }


def test_dry_run_leaves_no_transaction() -> None:
    wire = Wire()
    wire.commit(ruleset(), 7, dry_run=True)
    assert wire.commands()[-2:] == [Cmd.COMMIT, Cmd.ABORT]
    assert Attr.DRY_RUN in dict(wire.sent[-2][1])


def test_failed_commit_leaves_no_transaction() -> None:
    wire = Wire({Cmd.COMMIT: [errno.ESTALE]})
    with pytest.raises(Stale):
        wire.commit(ruleset(), 7)
    assert wire.commands()[-1] == Cmd.ABORT


def test_unlucky_hash_is_tried_again() -> None:
    wire = Wire({Cmd.COMMIT: [errno.EAGAIN, errno.EAGAIN]})
    assert wire.commit(ruleset(), 7) == 8
    assert wire.commands().count(Cmd.COMMIT) == 3
    wire = Wire({Cmd.COMMIT: [errno.EAGAIN] * 9})
    with pytest.raises(Busy):
        wire.commit(ruleset(), 7)


def test_interrupted_dump_is_read_again() -> None:
    wire = Wire({Cmd.RULE_GET: [errno.EINTR, errno.EINTR]})
    wire.rules()
    assert wire.commands() == [Cmd.RULE_GET] * 3


def test_info_reply() -> None:
    info = info_of(
        Reply(
            [
                ("BW_ATTR_VERSION", b"0.1.0\0"),
                ("BW_ATTR_GENERATION", struct.pack("=Q", 3)),
                ("BW_ATTR_MODE", b"\1"),
                ("BW_ATTR_DEFAULTS", bytes([1, 0, 1, 2, 0, 0])),
                ("BW_ATTR_RULESET_DIGEST", bytes(31) + b"\xff"),
                ("BW_ATTR_GUARD", b"br-*\0"),
                ("BW_ATTR_GUARD", b"docker0\0"),
                ("BW_ATTR_GUARD_LINK", struct.pack("=I", 5)),
                ("BW_ATTR_COUNT_RULES", struct.pack("=I", 9)),
                ("BW_ATTR_HOOKS_FIRST", struct.pack("=I", 0b0110)),
                ("BW_ATTR_HOOKS_EXPECTED", struct.pack("=I", 0b0010)),
            ]
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


def test_missing_module_says_what_to_do() -> None:
    """Against the running kernel, where the family is not there on a machine that builds this."""
    pytest.importorskip("pyroute2")
    kernel = Kernel()
    try:
        kernel.open()
    except ModuleMissing as error:
        assert "modprobe bridgewarden" in str(error)
    except Exception as error:
        pytest.skip(f"no generic netlink here: {error}")
    else:
        kernel.close()
        pytest.skip("the module is loaded here")


def test_messages_of_pyroute2_carry_bytes_through() -> None:
    """What `Kernel` relies on in every version of pyroute2: attributes as bytes, repeated, empty or long."""
    genlmsg = pytest.importorskip("pyroute2.netlink").genlmsg

    class Message(genlmsg):  # type: ignore[misc,valid-type]
        prefix = "BW_ATTR_"
        nla_map = tuple(("BW_ATTR_" + attr.name, "cdata") for attr in Attr)

    attrs = [
        ("BW_ATTR_GUARD", b"a\0"),
        ("BW_ATTR_GUARD", b"b\0"),
        ("BW_ATTR_DRY_RUN", b""),
        ("BW_ATTR_SECTION_SPAN", bytes(range(256)) * 128),
    ]
    message = Message()
    message["cmd"] = int(Cmd.ADD)
    message["attrs"] = list(attrs)
    message.encode()
    back = Message(message.data)
    back.decode()
    assert [(key, bytes(value)) for key, value in back["attrs"]] == attrs
