# SPDX-License-Identifier: GPL-3.0-or-later
"""What each call of `Kernel` sends, byte for byte, as pyroute2 0.9.7 sent it (data/requests.json).

The module's family is not on a machine that builds this, so the calls go to the kernel's own family `nlctrl`: it has the same
version and refuses them.  Sequence numbers and port ids are zeroed: they differ from socket to socket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import struct
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel import client
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel, Term
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import Netlink
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    empty_ruleset,
)

GOLDEN = Path(__file__).with_name("data") / "requests.json"

Call = t.Callable[[Kernel], t.Any]


def ruleset(cells: int) -> Ruleset:
    return dataclasses.replace(
        empty_ruleset(),
        guards=("br-*", "docker0"),
        parents=("eth0",),
        log_group=7,
        cells4=[(struct.pack("!I", number), 32, 3) for number in range(cells)],
        spans=[(1, 2, 3, 4)],
    )


CALLS: t.Dict[str, Call] = {
    "info": lambda kernel: kernel.info(),
    "commit": lambda kernel: kernel.commit(ruleset(1), 7),
    "commit of several messages": lambda kernel: kernel.commit(ruleset(3000), 7, confirm_timeout=60),
    "dry run": lambda kernel: kernel.commit(ruleset(0), 7, dry_run=True),
    "confirm": lambda kernel: kernel.confirm(),
    "confirm of a generation": lambda kernel: kernel.confirm(1 << 40),
    "rollback": lambda kernel: kernel.rollback(3),
    "seal": lambda kernel: kernel.seal(3),
    "rules": lambda kernel: kernel.rules(),
    "endpoints": lambda kernel: kernel.endpoints(),
    "explain": lambda kernel: kernel.explain("192.0.2.1", "172.18.0.2", 6, 443),
    "explain IPv6": lambda kernel: kernel.explain(
        "2001:db8::1", "fd00::2", 58, 128 << 8, Kind.GUARDED, Kind.HOST, direct=True
    ),
    "trace_begin": lambda kernel: kernel.trace_begin([Term(6, 443, "192.0.2.0/24"), Term(leave_out=True)]),
    "trace_begin of everything": lambda kernel: kernel.trace_begin((), 5, 100, 20),
    "trace_get": lambda kernel: kernel.trace_get(),
    "trace_end": lambda kernel: kernel.trace_end(),
    "hooks": lambda kernel: kernel.hooks(),
    "hooks of a namespace": lambda kernel: kernel.hooks(9),
}


class Refused(Kernel):
    """Sends to nlctrl and takes each refusal for an empty answer, so that a call sends all that it has to send."""

    def _exchange(self, *args: t.Any) -> t.List[t.Any]:
        with contextlib.suppress(BridgewardenError):
            super()._exchange(*args)
        return []


def zeroed(message: bytes) -> str:
    return (message[:8] + bytes(8) + message[16:]).hex()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_sends_what_it_always_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: t.List[str] = []
    send = Netlink._send

    def recorded(wire: Netlink, message: bytes) -> None:
        sent.append(zeroed(message))
        send(wire, message)

    monkeypatch.setattr(client, "FAMILY_NAME", "nlctrl")
    with Refused() as kernel, contextlib.suppress(BridgewardenError):
        monkeypatch.setattr(Netlink, "_send", recorded)
        CALLS[name](kernel)
    assert sent == json.loads(GOLDEN.read_text())[name]


def test_every_call_is_recorded() -> None:
    assert set(CALLS) == set(json.loads(GOLDEN.read_text()))
