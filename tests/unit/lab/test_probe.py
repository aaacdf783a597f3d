"""The prober against real sockets on the loopback device, without Docker and without namespaces."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest

from lab.paths import GUEST


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bw_probe", GUEST / "bw-probe.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PROBE = _load()


@contextmanager
def server(answer: bytes | None, kind: int = socket.SOCK_STREAM) -> Iterator[int]:
    """One client is served: with these bytes, with an immediate close (b""), or with silence (None)."""
    with socket.socket(socket.AF_INET, kind) as listener:
        listener.bind(("127.0.0.1", 0))
        done = threading.Event()

        def serve() -> None:
            if kind == socket.SOCK_DGRAM:
                data, peer = listener.recvfrom(100)
                listener.sendto((answer or b"") + data, peer)
                return
            client, _ = listener.accept()
            if answer is not None:
                client.sendall(answer)
                client.close()
            done.wait(10)
            client.close()

        if kind == socket.SOCK_STREAM:
            listener.listen()
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        done.set()


def run(*probes: dict[str, Any]) -> list[dict[str, Any]]:
    attempts = [PROBE.Attempt({"timeout": 0.5, **probe}, "127.0.0.1") for probe in probes]
    for attempt in attempts:
        attempt.begin()
    PROBE.finish(attempts)
    return [attempt.probe for attempt in attempts]


def test_a_greeting_is_open_and_tells_who_was_seen() -> None:
    with server(b"web 8080 sees ::ffff:10.10.10.3 555\n") as port:
        (answer,) = run({"port": port})
    assert (answer["result"], answer["seen"]) == ("open", "::ffff:10.10.10.3 555")


@pytest.mark.parametrize(("answer", "result"), [(b"", "refused"), (None, "timeout")])
def test_a_handshake_without_a_byte_is_not_open(answer: bytes | None, result: str) -> None:
    with server(answer) as port:
        assert run({"port": port})[0]["result"] == result


def test_a_handshake_is_enough_when_asked_for() -> None:
    with server(None) as port:
        assert run({"port": port, "handshake": True})[0]["result"] == "open"


@pytest.mark.parametrize("proto", ["tcp", "udp"])
def test_nobody_there_is_refused(proto: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run({"port": port, "proto": proto})[0]["result"] == "refused"


def test_a_datagram_that_comes_back_is_open() -> None:
    with server(b"db 53 sees 10.0.0.1 1\n", socket.SOCK_DGRAM) as port:
        assert run({"port": port, "proto": "udp"})[0]["result"] == "open"


def test_a_datagram_without_answer_times_out() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        assert run({"port": mute.getsockname()[1], "proto": "udp"})[0]["result"] == "timeout"


def test_without_an_address_nothing_is_sent() -> None:
    attempt = PROBE.Attempt({"port": 1}, None)
    attempt.begin()
    assert attempt.probe["result"] == "absent"


def test_many_probes_wait_together_not_in_turn() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        answers = run(*[{"port": mute.getsockname()[1], "proto": "udp"}] * 50)
    assert {answer["result"] for answer in answers} == {"timeout"}
    assert sum(answer["seconds"] for answer in answers) > 20
    assert max(answer["seconds"] for answer in answers) < 3


def test_the_icmp_checksum_is_the_internet_checksum() -> None:
    # the worked example of RFC 1071, section 3
    assert PROBE._checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
