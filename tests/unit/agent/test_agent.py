# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's loop: when it works, what it does with failures, what it tells systemd."""

from __future__ import annotations

import io
import os
import queue
import signal
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils import _agent as agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
    ModuleMissing,
    PolicyError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

QUICK = agent.Settings(settle=0.02, settle_limit=0.1, check=30.0, poll=0.05, retry=0.05, retry_limit=0.4)


def info(**settings: t.Any) -> Info:
    base: t.Dict[str, t.Any] = {
        "version": "0.1.0",
        "generation": 3,
        "mode": "enforce",
        "defaults": {},
        "policy_digest": "",
        "ruleset_digest": "",
        "confirm_remaining": 0,
        "guards": (),
        "guard_links": (),
        "counts": {"endpoints": 2},
        "hooks_first": 7,
        "hooks_expected": 7,
    }
    return Info(**{**base, **settings})


def synced(changed: bool = True, **settings: t.Any) -> agent.Synced:
    return agent.Synced(changed, 3, 2, ["committed"], [], info(**settings))


class Worker:
    """Stands for one sync: counts its calls, and answers or fails as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.answer: t.Union[agent.Synced, BridgewardenError, None] = synced()

    def __call__(self) -> t.Optional[agent.Synced]:
        self.calls += 1
        if isinstance(self.answer, BridgewardenError):
            raise self.answer
        return self.answer


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "etc"), str(tmp_path / "var"), str(tmp_path / "lock"))


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def one(worker: Worker, store: Store, out: io.StringIO) -> agent.Agent:
    return agent.Agent(QUICK, store, agent.Log(out), worker)


# When it works.


def test_the_events_of_one_burst_are_one_reason(one: agent.Agent) -> None:
    for number in range(5):
        one.wake.put(("event", f"container c{number}: start"))
    began = time.monotonic()
    assert one.next_reason(30) == "container c0: start and 4 more"
    assert time.monotonic() - began < 0.5


def test_a_storm_does_not_put_it_off_for_ever(one: agent.Agent) -> None:
    class Storm:
        now = 0.0

        def get(self, timeout: float) -> t.Tuple[str, str]:
            self.now += 0.005  # always sooner than the burst settles
            return "event", "container x: start"

    storm = Storm()
    one.wake, one.clock = t.cast(t.Any, storm), lambda: storm.now
    assert one.next_reason(30).startswith("container x: start and")
    assert QUICK.settle_limit < storm.now < 2 * QUICK.settle_limit


def test_a_new_connection_is_a_reason_and_a_lost_one_is_not(one: agent.Agent, out: io.StringIO) -> None:
    one.wake.put(("lost", "dockerd closed the stream"))
    one.wake.put(("connected", ""))
    assert one.next_reason(30) == "Docker answers"
    assert out.getvalue().startswith("<3>Docker's events are lost: dockerd closed the stream")


def test_after_a_quiet_time_it_checks(one: agent.Agent) -> None:
    assert one.next_reason(0.05) == "check"


def test_a_changed_policy_file_is_a_reason(one: agent.Agent, store: Store) -> None:
    threading.Timer(0.1, lambda: store.write_policy({"rules": []})).start()
    assert one.next_reason(30) == "the policy file changed"


def test_hangup_means_now(one: agent.Agent) -> None:
    one._on_reload(signal.SIGHUP, None)
    assert one.next_reason(30) == "asked to reload"


def test_termination_ends_it(one: agent.Agent) -> None:
    one._on_stop(signal.SIGTERM, None)
    assert one.next_reason(30) == ""


# What it does with failures.


def test_docker_down_keeps_the_rules_and_waits(one: agent.Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = DockerUnavailable("dockerd is not running", "/var/run/docker.sock", "start it")
    assert one.step("start") == QUICK.check
    assert out.getvalue() == "<3>dockerd is not running (/var/run/docker.sock): start it\n"


def test_other_failures_are_tried_again_less_and_less_often(one: agent.Agent, worker: Worker) -> None:
    worker.answer = ModuleMissing("not loaded", "here", "load it")
    assert [one.step("check") for _try in range(5)] == [0.05, 0.1, 0.2, 0.4, 0.4]
    worker.answer = synced()
    assert one.step("check") == QUICK.check
    worker.answer = ModuleMissing("not loaded", "here", "load it")
    assert one.step("check") == 0.05


def test_trouble_is_told_once_and_so_is_its_end(one: agent.Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = PolicyError("unknown peer", ("rules", 0), "did you mean web?")
    for _try in range(3):
        one.step("check")
    worker.answer = synced(changed=False)
    one.step("check")
    one.step("check")
    assert out.getvalue() == "<3>unknown peer (rules[0]): did you mean web?\n<5>all is well again\n"


def test_no_policy_is_no_failure(one: agent.Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = None
    assert one.step("start") == QUICK.check
    assert out.getvalue() == ""


def test_a_change_is_logged_with_its_reason(one: agent.Agent, out: io.StringIO) -> None:
    one.step("container web: start")
    assert out.getvalue().startswith("<6>generation 3, 2 endpoints, ")
    assert out.getvalue().endswith("after: container web: start\n")


def test_somebody_in_front_of_our_hooks_is_told_once(
    one: agent.Agent, worker: Worker, out: io.StringIO
) -> None:
    worker.answer = synced(changed=False, hooks_first=3)
    one.step("check")
    one.step("check")
    worker.answer = synced(changed=False)
    one.step("check")
    assert [line[:3] for line in out.getvalue().splitlines()] == ["<4>", "<6>"]


# What it tells systemd.


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield channel


def test_ready_watchdog_and_stopping(
    one: agent.Agent, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setattr(agent, "EventStream", lambda *_all: threading.Thread(target=lambda: None))
    monkeypatch.setattr(signal, "signal", lambda *_all: None)
    said: t.List[str] = []

    def listen() -> None:
        while "STOPPING=1" not in said:
            said.append(systemd.recv(4096).decode())

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    threading.Timer(0.5, one._on_stop).start()
    assert one.run() == 0
    listener.join(5)
    assert said.index("READY=1") < said.index("STOPPING=1")
    assert said.count("WATCHDOG=1") >= 3
    assert any(words.startswith("STATUS=generation 3") for words in said)


def test_without_systemd_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    agent.sd_notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    agent.sd_notify("READY=1")


# The stream, over a socket that speaks as dockerd does.


class FakeDocker(threading.Thread):
    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()
        self.peers: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self.asked: t.List[str] = []

    def run(self) -> None:
        while True:
            try:
                peer = self.server.accept()[0]
            except OSError:
                return
            self.asked.append(peer.recv(4096).decode().splitlines()[0])
            peer.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            self.peers.put(peer)


def chunk(text: str) -> bytes:
    return b"%x\r\n%s\r\n" % (len(text), text.encode())


def test_the_stream_says_what_happens_and_comes_back(tmp_path: Path) -> None:
    docker = FakeDocker(tmp_path / "docker.sock")
    docker.start()
    wake: t.Any = queue.SimpleQueue()
    agent.EventStream(f"unix://{tmp_path}/docker.sock", wake, QUICK).start()
    assert wake.get(timeout=5) == ("connected", "")
    peer = docker.peers.get(timeout=5)
    event = '{"Type":"network","Action":"connect","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"front"}}}\n'
    peer.sendall(chunk(event[:40]))
    peer.sendall(chunk(event[40:]))
    assert wake.get(timeout=5) == ("event", "network front: connect")
    peer.close()
    assert wake.get(timeout=5)[0] == "lost"
    assert wake.get(timeout=5) == ("connected", "")
    docker.peers.get(timeout=5).sendall(chunk("not json\n"))
    assert wake.get(timeout=5)[0] == "lost"
    assert wake.get(timeout=5) == ("connected", "")
    docker.server.close()
    assert "exec" not in docker.asked[0] and "connect" in docker.asked[0]


def test_no_docker_is_lost_again_and_again(tmp_path: Path) -> None:
    wake: t.Any = queue.SimpleQueue()
    agent.EventStream(f"unix://{tmp_path}/docker.sock", wake, QUICK).start()
    assert [wake.get(timeout=5)[0] for _try in range(3)] == ["lost", "lost", "lost"]


# Before Docker starts.


class FakeKernel:
    def __init__(self, generation: int) -> None:
        self.generation = generation

    def __enter__(self) -> FakeKernel:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def info(self) -> Info:
        return info(generation=self.generation)


class Boot:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store, out: io.StringIO) -> None:
        self.store, self.out = store, out
        self.commands: t.List[str] = []
        self.applied: t.List[t.Tuple[t.Any, t.Any]] = []
        self.loaded = False
        self.generation = 0
        self.modprobe = 0
        monkeypatch.setattr(agent, "run", self._run)
        monkeypatch.setattr(agent, "module_loaded", lambda _name: self.loaded)
        monkeypatch.setattr(agent.engine, "apply", self._apply)

    def _run(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        self.commands.append(" ".join(argv))
        return self.modprobe, "", "modprobe: FATAL: Module bridgewarden not found" if self.modprobe else ""

    def _apply(self, plan: t.Any, kernel: t.Any, store: Store, options: t.Any) -> t.Any:
        self.applied.append((plan.policy, options))
        return agent.engine.Result(True, 1, 0, [], "", "")

    def __call__(self) -> int:
        factory = t.cast(t.Any, lambda: FakeKernel(self.generation))
        return agent.boot(self.store, agent.Log(self.out), factory)


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch, store: Store, out: io.StringIO) -> Boot:
    return Boot(monkeypatch, store, out)


def test_boot_loads_closed_and_commits_without_endpoints(boot: Boot) -> None:
    boot.store.write_policy({"guards": ["docker0", "shop*"], "rules": []})
    assert boot() == 0
    assert boot.commands == ["modprobe bridgewarden closed=docker0,shop*"]
    ((policy, options),) = boot.applied
    assert policy["guards"] == ["docker0", "shop*"]
    assert options.force and not options.adopt


def test_boot_takes_the_last_good_policy_where_the_desired_one_is_refused(boot: Boot) -> None:
    boot.store.write_policy(
        {"guards": ["docker0"], "rules": [{"name": "x", "from": ["nobody"], "to": ["any"]}]}
    )
    boot.store.write_last_good({"guards": ["br-*"], "rules": []})
    assert boot() == 0
    assert boot.applied[0][0]["guards"] == ["br-*"]
    assert "<4>" in boot.out.getvalue() and "nobody" in boot.out.getvalue()


def test_boot_with_a_damaged_file_and_nothing_else_stays_closed_and_fails(boot: Boot) -> None:
    os.makedirs(os.path.dirname(boot.store.policy_path))
    Path(boot.store.policy_path).write_text("{")
    assert boot() != 0
    assert boot.commands == ["modprobe bridgewarden closed=docker0,br-*"]
    assert boot.applied == []


def test_boot_without_a_policy_closes_the_guards(boot: Boot) -> None:
    assert boot() == 0
    assert boot.commands == ["modprobe bridgewarden closed=docker0,br-*"] and boot.applied == []


def test_boot_without_the_module_fails(boot: Boot) -> None:
    boot.modprobe = 1
    assert boot() == 5
    assert "not found" in boot.out.getvalue()


def test_boot_does_not_cut_off_what_runs(boot: Boot) -> None:
    boot.store.write_policy({"rules": []})
    boot.loaded, boot.generation = True, 7
    assert boot() == 0
    assert boot.commands == [] and boot.applied == []
