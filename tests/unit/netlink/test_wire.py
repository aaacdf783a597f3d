# SPDX-License-Identifier: GPL-3.0-or-later
"""The netlink socket: on the running kernel, and with datagrams that a kernel seldom sends."""

from __future__ import annotations

import errno
import socket
import struct
import subprocess
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import wire as wire_file
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import GenericFamily
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import (
    LostMessages,
    Netlink,
    NetlinkError,
    attribute,
    attributes,
    find,
    messages,
    text,
)
from hypothesis import given
from hypothesis import strategies as st

RTM_NEWLINK, RTM_GETLINK, RTM_GETNSID = 16, 18, 90
IFLA_IFNAME = 3
NETNSA_FD = 3
RTNLGRP_LINK = 1
SO_RCVBUFFORCE = 33
ALL_LINKS = bytes(16)
ERROR, DONE, ANSWER = 2, 3, 0x20
MULTI, INTERRUPTED, CAPPED, TLVS = 0x2, 0x10, 0x100, 0x200


def message(kind: int, payload: bytes = b"", flags: int = 0, sequence: int = 1) -> bytes:
    head = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0)
    return head + payload + bytes(-len(payload) % 4)


class Scripted(Netlink):
    """Sends nothing and receives what it was given."""

    def __init__(self, *datagrams: bytes) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        self.sent: t.List[bytes] = []
        self.datagrams = list(datagrams)

    def _send(self, message: bytes) -> None:
        self.sent.append(message)

    def _receive(self, timeout: t.Optional[float]) -> bytes:
        return self.datagrams.pop(0)


def contents(answers: t.Iterable[t.Tuple[bytes, int, int]]) -> t.List[bytes]:
    return [data[begin:end] for data, begin, end in answers]


def names(answers: t.Iterable[t.Tuple[bytes, int, int]]) -> t.List[str]:
    return [
        text(data[start:stop])
        for data, begin, end in answers
        for kind, start, stop in attributes(data, begin + 16, end)
        if kind == IFLA_IFNAME
    ]


# What a datagram holds.


@given(st.binary(max_size=200))
def test_garbage_does_no_harm(data: bytes) -> None:
    list(attributes(data, 0, len(data)))
    find(data, 0, len(data), {0, 1, 2})
    try:
        list(messages(data))
    except OSError as error:
        assert error.errno == errno.EBADMSG


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=20)), max_size=5))
def test_attributes_come_back_as_they_were_built(wanted: t.List[t.Tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, content) for kind, content in wanted)
    assert len(data) % 4 == 0
    walked = list(attributes(data, 0, len(data)))
    assert [(kind, data[begin:end]) for kind, begin, end in walked] == wanted
    kinds = {kind for kind, _content in wanted} - {7}
    assert set(find(data, 0, len(data), kinds | {7})) == {kind for kind, _content in wanted}
    for kind in kinds:
        begin, end = find(data, 0, len(data), {kind})[kind]
        assert (kind, begin, end) == next(one for one in walked if one[0] == kind)


def test_the_flags_in_an_attribute_s_type_are_masked() -> None:
    nested = attribute(0x8000 | 7, attribute(0x4000 | 5, b"x"))
    ((kind, begin, end),) = attributes(nested, 0, len(nested))
    ((inner, start, stop),) = attributes(nested, begin, end)
    assert (kind, inner, nested[start:stop]) == (7, 5, b"x")


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_message_with_a_wrong_length(length: int) -> None:
    with pytest.raises(OSError, match="the kernel sent a message of"):
        list(messages(struct.pack("=IHHII", length, ANSWER, 0, 0, 0)))


# Requests and dumps.


def test_a_dump_of_several_datagrams() -> None:
    first = message(ANSWER, b"one.", MULTI) + message(ANSWER, b"two.", MULTI)
    wire = Scripted(first, message(ANSWER, b"3", MULTI), message(DONE, bytes(4), MULTI))
    assert contents(wire.dump(ANSWER, b"ask.")) == [b"one.", b"two.", b"3"]
    assert wire.sent == [message(ANSWER, b"ask.", 0x301)]


def test_answers_to_a_request_that_was_given_up_are_passed_over() -> None:
    wire = Scripted(message(ANSWER, b"late", sequence=0), message(ANSWER, b"mine"), message(ERROR, bytes(20)))
    assert contents(wire.request(ANSWER, b"")) == [b"mine"]
    wire.datagrams = [message(ERROR, bytes(20)), message(ERROR, bytes(20), sequence=2)]
    assert wire.request(ANSWER, b"") == []
    assert not wire.datagrams


def test_a_dump_that_a_change_cut_is_asked_for_again() -> None:
    cut = message(ANSWER, b"half", MULTI | INTERRUPTED) + message(DONE, bytes(4), MULTI)
    whole = message(ANSWER, b"all.", MULTI, 2) + message(DONE, bytes(4), MULTI, 2)
    assert contents(Scripted(cut, whole).dump(ANSWER, b"")) == [b"all."]
    turns = [message(DONE, bytes(4), MULTI | INTERRUPTED, sequence) for sequence in range(1, 10)]
    wire = Scripted(*turns)
    with pytest.raises(InterruptedError):
        wire.dump(ANSWER, b"")
    assert len(wire.sent) == 5


def refusal(code: int, words: str, capped: bool, tlvs: bool = True) -> bytes:
    request = message(30, b"requests")
    attrs = attribute(2, struct.pack("=I", 44)) + attribute(1, words.encode() + b"\0") if tlvs else b""
    body = struct.pack("=i", -code) + (request[:16] if capped else request) + attrs
    return message(ERROR, body, (CAPPED if capped else 0) | (TLVS if tlvs else 0))


@pytest.mark.parametrize("capped", [True, False])
def test_the_kernels_own_words(capped: bool) -> None:
    with pytest.raises(NetlinkError) as found:
        Scripted(refusal(errno.EINVAL, "span[3]: no such rule", capped)).request(ANSWER, b"")
    assert (found.value.errno, found.value.words) == (errno.EINVAL, "span[3]: no such rule")
    with pytest.raises(NetlinkError, match="Invalid argument") as found:
        Scripted(refusal(errno.EINVAL, "", capped, tlvs=False)).request(ANSWER, b"")
    assert found.value.words == ""


def test_a_dump_may_fail_at_its_end() -> None:
    words = attribute(1, b"no such table\0")
    wire = Scripted(message(DONE, struct.pack("=i", -errno.ENOENT) + words, MULTI | TLVS))
    with pytest.raises(NetlinkError, match="no such table"):
        wire.dump(ANSWER, b"")


@given(st.binary(max_size=60))
def test_a_damaged_refusal_is_a_refusal(rest: bytes) -> None:
    with (
        Scripted(message(ERROR, struct.pack("=i", -errno.EPERM) + rest, TLVS)) as wire,
        pytest.raises(NetlinkError) as found,
    ):
        wire.request(ANSWER, b"")
    assert found.value.errno == errno.EPERM


# On the running kernel.


def test_the_kernel_says_why_it_refuses() -> None:
    with Netlink(socket.NETLINK_ROUTE) as wire, open("/dev/null") as handle:
        request = bytes(4) + attribute(NETNSA_FD, struct.pack("=I", handle.fileno()))
        with pytest.raises(NetlinkError) as found:
            wire.request(RTM_GETNSID, request)
        assert (found.value.errno, found.value.words) == (errno.EINVAL, "Peer netns reference is invalid")
        assert "lo" in names(wire.dump(RTM_GETLINK, ALL_LINKS))  # and goes on answering


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(NetlinkError) as found:
        GenericFamily("bw-no-such-one")
    assert found.value.errno == errno.ENOENT


def test_a_kernel_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire_file, "ANSWER_TIMEOUT", 0.05)
    monkeypatch.setattr(Netlink, "_send", lambda wire, message: None)
    with Netlink(socket.NETLINK_ROUTE) as wire, pytest.raises(TimeoutError) as found:
        wire.dump(RTM_GETLINK, ALL_LINKS)
    assert found.value.errno == errno.ETIMEDOUT


def test_a_datagram_that_does_not_fit_is_an_error() -> None:
    with Netlink(socket.NETLINK_ROUTE) as wire:
        wire._buffer = wire._buffer[:64]
        with pytest.raises(OSError, match="bytes at once") as found:
            wire.dump(RTM_GETLINK, ALL_LINKS)
        assert found.value.errno == errno.EMSGSIZE


@pytest.mark.root
def test_another_process_cannot_answer_in_the_kernel_s_place(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Netlink(socket.NETLINK_ROUTE) as wire,
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as other,
    ):
        port = wire._socket.getsockname()[0]
        forged = message(RTM_NEWLINK, ALL_LINKS + attribute(IFLA_IFNAME, b"forged\0"), MULTI)
        other.sendto(forged, (port, 0))
        other.sendto(message(DONE, bytes(4), MULTI), (port, 0))
        found = names(wire.dump(RTM_GETLINK, ALL_LINKS))
        assert "lo" in found and "forged" not in found


# Changes of links, in a namespace of their own.


def ip(netns: str, words: str) -> None:
    subprocess.run(["ip", "-n", netns, *words.split()], check=True)


def batch(netns: str, lines: t.Iterable[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input=text, text=True, check=True)


@pytest.mark.netns
def test_a_link_that_comes_up_is_heard(netns: str) -> None:
    with Netlink(socket.NETLINK_ROUTE) as wire:
        wire.join(RTNLGRP_LINK)
        with pytest.raises(TimeoutError):
            wire.receive(0.01)
        ip(netns, "link add heard type veth peer name other")
        ip(netns, "link set heard up")
        up: t.Set[str] = set()
        while "heard" not in up:
            for kind, (data, begin, end) in wire.receive(10):
                if kind == RTM_NEWLINK and struct.unpack_from("=I", data, begin + 8)[0] & 1:  # IFF_UP
                    up.update(names([(data, begin, end)]))


@pytest.mark.netns
def test_notifications_that_were_lost_are_reported(netns: str) -> None:
    with Netlink(socket.NETLINK_ROUTE) as wire:
        wire.join(RTNLGRP_LINK)
        wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        batch(netns, [f"link add b{number} type bridge" for number in range(20)])
        with pytest.raises(LostMessages):
            while True:
                wire.receive(1)
        with pytest.raises(TimeoutError):  # and once only
            while True:
                wire.receive(0.1)
        ip(netns, "link set lo up")
        assert wire.receive(10)


class Disturbed(Netlink):
    """Somebody adds a link while this one dumps them, as often as that."""

    def __init__(self, netns: str, times: int) -> None:
        super().__init__(socket.NETLINK_ROUTE)
        self._buffer = self._buffer[:8192]  # the kernel fills no more at once than fits
        self._netns = netns
        self.times = times

    def _receive(self, timeout: t.Optional[float]) -> bytes:
        data = super()._receive(timeout)
        if self.times and next(messages(data))[0] == RTM_NEWLINK:
            ip(self._netns, f"link add new{self.times} type bridge")
            self.times -= 1
        return data


@pytest.mark.netns
def test_links_that_change_while_they_are_read(netns: str) -> None:
    batch(netns, [f"link add b{number} type bridge" for number in range(40)])
    with Disturbed(netns, 1) as wire:
        found = names(wire.dump(RTM_GETLINK, ALL_LINKS))
        assert len(found) == 42 and "new1" in found
    with Disturbed(netns, 1000) as wire, pytest.raises(InterruptedError):
        wire.dump(RTM_GETLINK, ALL_LINKS)
