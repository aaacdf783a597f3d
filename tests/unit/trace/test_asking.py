# SPDX-License-Identifier: GPL-3.0-or-later
"""The wire, the module and the command: what is sent to the kernel for them, and what they make of its answers."""

from __future__ import annotations

import json
import struct
import time
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Attr, Cmd
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import trace as trace_command
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli.main import main
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    KernelError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel, Term
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import HookRow, TraceReport
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import Attributes
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace import session
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import TraceOptions
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.namespaces import Namespaces

Json = t.Dict[str, t.Any]


class Wire(Kernel):
    replies: t.List[Attributes] = []

    def __init__(self) -> None:
        super().__init__()
        self.sent: t.List[t.Tuple[Cmd, t.Dict[Attr, bytes]]] = []

    def _request(self, cmd: Cmd, attrs: t.Any, doing: str) -> t.List[Attributes]:
        self.sent.append((cmd, dict(attrs)))
        return self.replies


REPORT = Attributes(
    {
        Attr.TRACE_ID: [struct.pack("=I", 7)],
        Attr.TRACE_STATE: [b"\2"],
        Attr.TRACE_SECONDS: [struct.pack("=I", 3)],
        Attr.TRACE_REPORTED: [struct.pack("=Q", 1 << 33)],
        Attr.TRACE_WITHHELD: [struct.pack("=Q", 5)],
        Attr.TRACE_BLIND: [struct.pack("=I", 1)],
    }
)


def hook_row(family: int, hook: int, own: int, priority: int, who: bytes) -> bytes:
    return struct.pack("=BBHi88s", family, hook, own, priority, who)


def test_a_trace_is_begun_with_its_terms_and_bounds() -> None:
    wire = Wire()
    wire.replies = [REPORT]
    report = wire.trace_begin([Term(port=80), Term(6)], 5, 100, 20)
    ((cmd, attrs),) = wire.sent
    assert cmd == Cmd.TRACE_BEGIN
    assert attrs[Attr.TRACE_TERM] == Term(port=80).packed() + Term(6).packed()
    numbers = [
        struct.unpack("=I", attrs[a])[0] for a in (Attr.TRACE_SECONDS, Attr.TRACE_EVENTS, Attr.TRACE_RATE)
    ]
    assert numbers == [5, 100, 20]
    assert report == TraceReport(7, "events", 3, 1 << 33, 5, 1)
    wire.trace_get()
    assert wire.sent[-1] == (Cmd.TRACE_GET, {})


def test_no_terms_is_no_attribute() -> None:
    wire = Wire()
    wire.replies = [REPORT]
    wire.trace_begin()
    assert Attr.TRACE_TERM not in wire.sent[0][1]


def test_no_answer_is_an_error() -> None:
    with pytest.raises(KernelError, match="no answer"):
        Wire().trace_get()


def test_hooks() -> None:
    wire = Wire()
    wire.replies = [
        Attributes(
            {
                Attr.HOOK: [
                    hook_row(2, 0, 0, -200, b"ipv4_conntrack_in [nf_conntrack]"),
                    hook_row(7, 4, 0, 0, b"f"),
                    hook_row(10, 2, 1, -(1 << 31), b"bw_hook_forward6 [bridgewarden]"),
                ]
            }
        )
    ]
    assert wire.hooks(9) == [
        HookRow("IPv4", "PRE_ROUTING", -200, "ipv4_conntrack_in", "nf_conntrack", False),
        HookRow("bridge", "POST_ROUTING", 0, "f", "", False),
        HookRow("IPv6", "FORWARD", -(1 << 31), "bw_hook_forward6", "bridgewarden", True),
    ]
    assert wire.sent == [(Cmd.HOOK_GET, {Attr.NETNS_FD: struct.pack("=I", 9)})]


# The module.


RECORD: Json = {
    "schema": 1,
    "paths": [
        {"detail": "tcp SYN", "from": "10.0.0.1:9", "to": "10.0.0.2:80", "sentence": "delivered to web"}
    ],
    "summary": {"packets": 1, "events": 2, "ended": "time", "notes": []},
    "hooks": {},
}


class Ended(Exception):
    pass


def run_module(monkeypatch: pytest.MonkeyPatch, **params: t.Any) -> t.Tuple[Json, t.List[TraceOptions]]:
    pytest.importorskip("ansible")
    from ansible_collections.bridgewarden.docker.plugins.modules import trace as module

    asked: t.List[TraceOptions] = []
    said: Json = {}

    class Module:
        def __init__(self, argument_spec: Json, supports_check_mode: bool) -> None:
            assert supports_check_mode
            self.params = {name: spec["default"] for name, spec in argument_spec.items()}
            self.params.update(params)

        def exit_json(self, **result: t.Any) -> None:
            said.update(result)
            raise Ended

        def fail_json(self, **result: t.Any) -> None:
            said.update(result, failed=True)
            raise Ended

    def traced(options: TraceOptions) -> Json:
        asked.append(options)
        if options.container == "wbe":
            raise BridgewardenError("no such container", "container", "there are: web")
        return json.loads(json.dumps(RECORD))  # type: ignore[no-any-return]

    monkeypatch.setattr(module, "AnsibleModule", Module)
    monkeypatch.setattr(module, "run_trace", traced)
    with pytest.raises(Ended):
        module.main()
    return said, asked


def test_the_module_asks_for_all_of_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {
        "proto": "tcp", "from": "10.0.0.1", "to": "10.0.0.2", "port": 80, "container": "web", "dropped": True,
        "packets": 3, "seconds": 4, "events": 5, "rate": 6, "docker_socket": "unix:///x", "include_session": True,
    }  # fmt: skip
    said, asked = run_module(monkeypatch, **wanted)
    assert asked == [
        TraceOptions("tcp", "10.0.0.1", "10.0.0.2", 80, "web", "", "", True, 3, 4, 5, 6, "unix:///x", True)
    ]
    assert said["words"] == ["tcp SYN 10.0.0.1:9 -> 10.0.0.2:80: delivered to web"]
    assert said["changed"] is False and not set(said) - {*RECORD, "words", "changed"}


def test_the_module_fails_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    said, _asked = run_module(monkeypatch, container="wbe")
    assert said["failed"] and said["msg"] == "no such container (container): there are: web"
    said, asked = run_module(monkeypatch, container="web", guard="docker0")
    assert said["failed"] and "exclude each other" in said["msg"] and not asked


# The command.


class Standing(Kernel):
    def __enter__(self) -> Standing:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def hooks(self, netns: t.Optional[int] = None) -> t.List[HookRow]:
        return [
            HookRow("IPv4", "FORWARD", -(1 << 31), "bw_trace_hook", "bridgewarden", True),
            HookRow("IPv4", "FORWARD", -(1 << 31), "bw_hook_forward", "bridgewarden", True),
            HookRow("IPv4", "FORWARD", 0, "nft_do_chain_ipv4", "nf_tables", False),
        ]


def test_hooks_for_people_and_for_scripts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trace_command, "Kernel", Standing)
    with pytest.raises(SystemExit):
        main(["hooks"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [
        ["IPv4", "FORWARD", "-2147483648", "bw_hook_forward", "bridgewarden", "ours"],
        ["IPv4", "FORWARD", "0", "nft_do_chain_ipv4", "nf_tables"],
    ]
    with pytest.raises(SystemExit):
        main(["hooks", "host", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["function"] for row in found] == ["bw_hook_forward", "nft_do_chain_ipv4"]


class Running:
    """A trace of one packet."""

    hooks: Json = {}
    stopped = False

    def __init__(self, options: TraceOptions) -> None:
        Running.options = options

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exc: object) -> None:
        Running.closed = True

    def stop(self) -> None:
        Running.stopped = True

    def paths(self) -> t.Iterator[Json]:
        path: Json = {
            **RECORD["paths"][0], "id": 1, "time": 1.5, "steps": [], "outcome": "delivered", "conversation": 1,
            "protocol": "tcp", "reply": False,
        }  # fmt: skip
        yield path
        import os
        import signal

        os.kill(os.getpid(), signal.SIGTERM)
        assert Running.stopped  # and not dead

    def summary(self) -> Json:
        return {
            "packets": 1,
            "events": 2,
            "withheld": 9,
            "lost": 0,
            "blind": 0,
            "ended": "stopped",
            "notes": ["9 events"],
        }


def test_a_signal_ends_a_trace_in_order(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: t.Any
) -> None:
    monkeypatch.setattr(session, "Trace", Running)
    target = tmp_path / "r.json"
    with pytest.raises(SystemExit) as ended:
        main(["trace", "--proto", "tcp", "--port", "80", "--count", "2", "--record", str(target)])
    out = capsys.readouterr()
    assert not ended.value.code
    assert "delivered to web" in out.out and "ended by stopped" in out.out and "9 events" in out.err
    assert t.cast(t.Any, Running).options[:4] == ("tcp", "", "", 80)
    assert json.loads(target.read_text())["paths"][0]["sentence"] == "delivered to web"
    assert t.cast(t.Any, Running).closed


@pytest.mark.parametrize("flags, included", [([], False), (["--include-session"], True)])
def test_the_command_leaves_its_session_out_unless_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: t.List[str], included: bool
) -> None:
    monkeypatch.setattr(session, "Trace", Running)
    with pytest.raises(SystemExit):
        main(["trace", *flags])
    assert t.cast(t.Any, Running).options.include_session is included


@pytest.mark.parametrize(("answer_takes", "most"), [(0.1, 50), (5.0, 2)])
def test_a_slow_dockerd_is_asked_seldom(
    monkeypatch: pytest.MonkeyPatch, answer_takes: float, most: int
) -> None:
    """Each event of a namespace without a name could ask for it: 10,000 of them in 100 seconds."""
    now, asked = [1000.0], [0]

    def collect() -> Json:
        asked[0] += 1
        now[0] += answer_takes
        return {"containers": []}

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    namespaces = Namespaces(collect)
    assert asked == [1]
    for _event in range(10_000):
        now[0] += 0.01
        namespaces.meet(1)
    assert 1 < asked[0] <= 1 + most
