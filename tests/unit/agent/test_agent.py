# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent's loop: when it works, what it does with failures, what it tells systemd."""

from __future__ import annotations

import io
import os
import queue
import re
import signal
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import boot as boot_room
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import events
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import (
    EventStream,
    Message,
    Settings,
    message_of,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import Change, Synced
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log, sd_notify
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import CommitResult
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    DockerUnavailable,
    Locked,
    ModuleMissing,
    PolicyError,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_match

QUICK = Settings(
    settle_seconds=0.02,
    settle_max_seconds=0.1,
    check_seconds=30.0,
    poll_seconds=0.05,
    retry_seconds=0.05,
    retry_max_seconds=0.4,
)


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


def synced(changed: bool = True, **settings: t.Any) -> Synced:
    return Synced(changed, 3, 2, ["committed"], [], info(**settings))


class Worker:
    """Stands for one sync: counts its calls, and answers or fails as told."""

    def __init__(self) -> None:
        self.calls = 0
        self.changes: t.List[Change] = []
        self.answer: t.Union[Synced, Exception, None] = synced()

    def __call__(self, change: Change) -> t.Optional[Synced]:
        self.calls += 1
        self.changes.append(change)
        if isinstance(self.answer, Exception):
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
def one(worker: Worker, store: Store, out: io.StringIO, tmp_path: Path) -> Agent:
    nowhere = QUICK._replace(docker_socket=f"unix://{tmp_path}/nowhere.sock")
    return Agent(nowhere, store, Log(out), worker)


def reason(one: Agent) -> str:
    change = one.next_change(30)
    assert change is not None
    return change.reason


# When it works.


def test_the_events_of_one_burst_are_one_reason(one: Agent) -> None:
    for number in range(5):
        one.wake.put(Message("event", f"container c{number}: start", f"{number}", at=float(10 - number)))
    began = time.monotonic()
    change = one.next_change(30)
    assert change == Change("container c0: start and 4 more", "events", frozenset("01234"), False, 6.0)
    assert time.monotonic() - began < 10  # of the 30 it may wait


def test_a_storm_does_not_put_it_off_for_ever(one: Agent) -> None:
    class Storm:
        now = 0.0

        def get(self, timeout: float, others: t.Any = ()) -> Message:
            self.now += 0.005  # always sooner than the burst settles
            return Message("event", "container x: start")

    storm = Storm()
    one.wake, one.clock = t.cast(t.Any, storm), lambda: storm.now
    assert reason(one).startswith("container x: start and")
    assert QUICK.settle_max_seconds < storm.now < 2 * QUICK.settle_max_seconds


def test_a_new_connection_is_a_reason_and_a_lost_one_is_not(one: Agent, out: io.StringIO) -> None:
    one.wake.put(Message("lost", "dockerd closed the stream"))
    one.wake.put(Message("connected"))
    assert reason(one) == "Docker answers"
    assert out.getvalue().startswith("<3>Docker's events are lost: dockerd closed the stream")


def test_after_a_quiet_time_it_checks(one: Agent) -> None:
    assert one.next_change(0.05) == Change("check", "list")


def test_a_changed_policy_file_is_a_reason(one: Agent, store: Store) -> None:
    threading.Timer(0.1, lambda: store.write_policy({"rules": []})).start()
    assert reason(one) == "the policy file changed"


def test_a_stream_of_events_that_never_ends_starves_no_check(one: Agent, store: Store) -> None:
    """As of a container that crashes and restarts, or of a host of CI jobs."""
    one.settings = QUICK._replace(check_seconds=0.6)
    one._check_at = time.monotonic() + 0.6
    ended = threading.Event()

    def crash() -> None:
        while not ended.wait(0.01):
            one.wake.put(Message("event", "container x: die", "x", at=time.monotonic()))

    threading.Thread(target=crash, daemon=True).start()
    threading.Timer(0.2, lambda: store.write_policy({"rules": []})).start()
    try:
        changes: t.List[Change] = []
        end = time.monotonic() + 10
        while time.monotonic() < end and len({change.reason for change in changes}) < 3:
            change = one.next_change(0.6)
            assert change is not None
            one.step(change)
            if change.scope == "events":
                change = change._replace(reason="events")
            changes.append(change)
    finally:
        ended.set()
    assert {change.reason for change in changes} == {"events", "the policy file changed", "check"}


def test_hangup_means_now(one: Agent) -> None:
    one._on_reload(signal.SIGHUP, None)
    assert reason(one) == "asked to reload"


def test_termination_ends_it(one: Agent) -> None:
    one._on_stop(signal.SIGTERM, None)
    assert one.next_change(30) is None


# What it does with failures.


def test_docker_down_keeps_the_rules_and_waits(one: Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = DockerUnavailable("dockerd is not running", "/var/run/docker.sock", "start it")
    assert one.step(Change("start")) == QUICK.check_seconds
    assert out.getvalue() == "<3>dockerd is not running (/var/run/docker.sock): start it\n"


def test_other_failures_are_tried_again_less_and_less_often(one: Agent, worker: Worker) -> None:
    worker.answer = ModuleMissing("not loaded", "here", "load it")
    assert [one.step(Change("check")) for _try in range(5)] == [0.05, 0.1, 0.2, 0.4, 0.4]
    worker.answer = synced()
    assert one.step(Change("check")) == QUICK.check_seconds
    worker.answer = ModuleMissing("not loaded", "here", "load it")
    assert one.step(Change("check")) == 0.05


def test_trouble_is_told_once_and_so_is_its_end(one: Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = PolicyError("unknown peer", ("rules", 0), "did you mean web?")
    for _try in range(3):
        one.step(Change("check"))
    worker.answer = synced(changed=False)
    one.step(Change("check"))
    one.step(Change("check"))
    assert out.getvalue() == "<3>unknown peer (rules[0]): did you mean web?\n<5>all is well again\n"


def test_no_policy_is_no_failure(one: Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = None
    assert one.step(Change("start")) == QUICK.check_seconds
    assert out.getvalue() == ""


def test_a_change_is_logged_with_its_reason(one: Agent, out: io.StringIO) -> None:
    one.step(Change("container web: start"))
    assert out.getvalue().startswith("<6>generation 3, 2 endpoints, ")
    assert out.getvalue().endswith("after: container web: start\n")


def test_somebody_in_front_of_our_hooks_is_told_once(one: Agent, worker: Worker, out: io.StringIO) -> None:
    worker.answer = synced(changed=False, hooks_first=3)
    one.step(Change("check"))
    one.step(Change("check"))
    worker.answer = synced(changed=False)
    one.step(Change("check"))
    assert [line[:3] for line in out.getvalue().splitlines()] == ["<4>", "<6>"]


def test_what_is_to_be_known_of_a_plan_is_logged_once(one: Agent, worker: Worker, out: io.StringIO) -> None:
    text = "the bridge br0 gets no guard: it carries the default route"
    for notices in ((text,), (text,), (), (text,)):
        worker.answer = synced(False)._replace(notices=notices)
        one.step(Change("x"))
    assert out.getvalue().count(text) == 2


def test_a_mistake_of_ours_is_told_with_its_place_and_ends_nothing(
    one: Agent, worker: Worker, out: io.StringIO
) -> None:
    worker.answer = KeyError("Networks")
    assert [one.step(Change("check", "list")) for _try in range(3)] == [0.05, 0.1, 0.2]
    (line,) = out.getvalue().splitlines()
    assert re.match(
        r"<3>a mistake in the agent, KeyError: 'Networks' \(test_agent\.py:\d+ in __call__\)", line
    )
    worker.answer = synced(changed=False)
    assert one.step(Change("check", "list")) == QUICK.check_seconds


class Kept(Log):
    """Keeps the fields as well."""

    def __init__(self, out: io.StringIO) -> None:
        super().__init__(out)
        self.fields: t.List[t.Dict[str, t.Any]] = []

    def write(self, priority: int, text: str, **fields: t.Any) -> None:
        self.fields.append(fields)
        super().write(priority, text, **fields)


@pytest.mark.parametrize(
    "error", [KeyError("boom"), OSError(28, "No space left"), RecursionError(), MemoryError()]
)
def test_metrics_that_fail_end_nothing(
    error: Exception, worker: Worker, store: Store, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the agent works, and while it waits; told once, with the place, and so is the end of it."""
    fails = True

    def publish(_news: bool) -> bool:
        if fails:
            raise error
        return True

    log = Kept(out)
    settings = QUICK._replace(docker_socket="unix:///nowhere", poll_seconds=0.01)
    one = Agent(settings, store, log, worker, publish=publish)
    worker.answer = synced(changed=False)
    for _time in range(3):
        assert one.step(Change("check", "list")) == QUICK.check_seconds
        assert one.next_change(0.1) == Change("check", "list")
    (line,) = out.getvalue().splitlines()
    assert re.match(
        rf"<3>a mistake in the metrics, {type(error).__name__}: .*\(test_agent\.py:\d+ in publish\)", line
    )
    (fields,) = log.fields
    assert fields["error_kind"] == "mistake" and "in publish\n" in fields["traceback"]
    error = ValueError("another")
    one.step(Change("check", "list"))
    assert "ValueError: another" in out.getvalue().splitlines()[1]
    fails = False
    one.step(Change("check", "list"))
    one.step(Change("check", "list"))
    assert out.getvalue().splitlines()[2:] == ["<5>the metrics are all right again"]
    assert worker.calls == 6


def test_after_a_failure_nothing_of_before_is_trusted(one: Agent, worker: Worker) -> None:
    one.step(Change("start"))
    one.step(Change("x", "events"))
    worker.answer = DockerUnavailable("dockerd is not running")
    one.step(Change("x", "events"))
    worker.answer = synced()
    one.step(Change("x", "events"))
    one.step(Change("x", "events"))
    assert [change.scope for change in worker.changes] == ["all", "events", "events", "all", "events"]


class Ports:
    """In the place of a PortWatch: there is always something to sync, and something to read."""

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()
        self.far.send(b"x")

    def sockets(self) -> t.List[socket.socket]:
        return [self.near]

    def quiet(self) -> bool:
        return True

    def due(self) -> float:
        return 0.0

    def next(self, _now: float) -> Change:
        return Change("link: veth1", "events")


def test_after_a_failure_links_do_not_make_it_try_without_a_pause(one: Agent, worker: Worker) -> None:
    one.ports = t.cast(t.Any, Ports())
    worker.answer = synced(changed=False)
    one.step(Change("start"))
    assert reason(one) == "link: veth1"
    worker.answer = ModuleMissing("not loaded", "here", "load it")
    wait = one.step(Change("link: veth1", "events"))
    began = time.monotonic()
    assert one.next_change(wait) == Change("check", "list")
    assert time.monotonic() - began >= wait - 0.005
    worker.answer = synced(changed=False)
    one.step(Change("check", "list"))
    assert reason(one) == "link: veth1"


def test_a_stuck_container_is_told_and_asked_about_again_soon(
    one: Agent, worker: Worker, out: io.StringIO
) -> None:
    worker.answer = synced(changed=False)._replace(stuck={"0123456789abcdef": "", "fedcba9876543210": "nil"})
    assert [one.step(Change("check", "list")) for _try in range(2)] == [QUICK.retry_max_seconds] * 2
    assert out.getvalue().count("dockerd does not answer about 0123456789ab, fedcba987654 (nil)") == 1
    worker.answer = synced(changed=False)
    one.step(Change("check", "list"))
    assert out.getvalue().endswith("<5>all is well again\n")


def test_how_long_it_took_since_the_event(one: Agent) -> None:
    for ago in (0.0, 0.2, 20.0):
        one.step(Change("x", "events", since=time.monotonic() - ago))
    one.step(Change("check", "list"))
    counts = dict(zip((*one.state.BUCKETS, None), one.state.lag_counts))
    assert {limit: count for limit, count in counts.items() if count} in (
        {0.01: 1, 0.25: 1, None: 1},
        {0.025: 1, 0.25: 1, None: 1},
    )
    assert 20.0 < one.state.lag_last < 21.0 < one.state.lag_sum + 1


# One agent a host.


def test_a_second_agent_refuses(one: Agent, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_all: None)
    with store.agent_lock(0.0), pytest.raises(Locked, match=f"another agent .process {os.getpid()}"):
        one.run()
    threading.Timer(0.2, one._on_stop).start()
    assert one.run() == 0  # the same, once the first one has ended


def test_under_systemd_a_second_agent_waits_for_the_first(
    one: Agent, store: Store, out: io.StringIO, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_all: None)
    first = store.agent_lock(0.0)
    first.__enter__()
    threading.Timer(0.3, lambda: first.__exit__(None, None, None)).start()
    threading.Timer(0.8, one._on_stop).start()
    assert one.run() == 0
    lines = out.getvalue().splitlines()
    assert "another agent" in lines[0] and lines[1] == "<5>all is well again"
    assert (
        lines[2].startswith("<6>following Docker at") and lines[-1] == "<6>stopped; the rules stay in force"
    )
    assert len([line for line in lines if "another agent" in line]) == 1


def test_without_its_thread_the_agent_ends_with_words(
    one: Agent, out: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EventStream, "run", lambda _self: None)
    monkeypatch.setattr(signal, "signal", lambda *_all: None)
    assert one.run() == 1
    assert "the thread that reads Docker's events has ended" in out.getvalue()


# What it tells systemd.


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> t.Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield channel


def test_ready_watchdog_and_stopping(
    one: Agent, systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
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
    sd_notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent/socket")
    sd_notify("READY=1")


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
    EventStream(f"unix://{tmp_path}/docker.sock", wake, QUICK).start()
    assert wake.get(timeout=5) == Message("connected")
    peer = docker.peers.get(timeout=5)
    event = '{"Type":"network","Action":"connect","Actor":{"ID":"0123456789abcdef","Attributes":{"name":"front"}}}\n'
    peer.sendall(chunk(event[:40]))
    peer.sendall(chunk(event[40:]))
    word = wake.get(timeout=5)
    assert (word.kind, word.words, word.container, word.networks) == (
        "event",
        "network front: connect",
        "",
        False,
    )
    peer.close()
    assert wake.get(timeout=5).kind == "lost"
    assert wake.get(timeout=5) == Message("connected")
    docker.peers.get(timeout=5).sendall(chunk("not json\n"))
    assert wake.get(timeout=5).kind == "lost"
    assert wake.get(timeout=5) == Message("connected")
    docker.server.close()
    assert docker.asked[0].startswith("GET /events?") and "since=" in docker.asked[0]
    assert "exec" not in docker.asked[0] and "connect" in docker.asked[0]


def test_no_docker_is_lost_again_and_again(tmp_path: Path) -> None:
    wake: t.Any = queue.SimpleQueue()
    EventStream(f"unix://{tmp_path}/docker.sock", wake, QUICK).start()
    assert [wake.get(timeout=5).kind for _try in range(3)] == ["lost", "lost", "lost"]


def test_a_stream_that_ends_wildly_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = FakeDocker(tmp_path / "docker.sock")
    docker.start()
    monkeypatch.setattr(events, "message_of", lambda _event: 1 // 0)
    wake: t.Any = queue.SimpleQueue()
    EventStream(f"unix://{tmp_path}/docker.sock", wake, QUICK).start()
    docker.peers.get(timeout=5).sendall(chunk("{}\n"))
    assert [wake.get(timeout=5).kind for _word in range(3)] == ["connected", "lost", "connected"]
    docker.server.close()


def test_a_replaced_socket_is_noticed_although_the_old_stream_is_open(one: Agent, tmp_path: Path) -> None:
    """As when a second dockerd takes the path over, or one is started beside a hung one."""
    first = FakeDocker(tmp_path / "docker.sock")
    first.start()
    one.stream = EventStream(f"unix://{tmp_path}/docker.sock", one.wake, QUICK)
    one.stream.start()
    assert one.wake.get(timeout=5).kind == "connected"
    one._look_at_the_stream()
    with pytest.raises(queue.Empty):
        one.wake.get(timeout=0.3)
    (tmp_path / "docker.sock").rename(tmp_path / "old.sock")
    one._look_at_the_stream()  # no socket at all: the old stream is the best there is
    second = FakeDocker(tmp_path / "docker.sock")
    second.start()
    one._look_at_the_stream()
    assert [one.wake.get(timeout=5).kind for _word in range(2)] == ["lost", "connected"]
    assert second.asked
    first.server.close()
    second.server.close()


def test_words_of_events() -> None:
    now, then = time.time(), time.monotonic()
    event = {
        "Type": "container",
        "Action": "start",
        "Actor": {"ID": "ab" * 32, "Attributes": {"name": "web", "password": "hunter2"}},
        "timeNano": int((now - 5) * 1e9),
    }
    word = message_of(event)
    assert (word.words, word.container, word.networks) == ("container web: start", "ab" * 32, False)
    assert abs(word.at - (then - 5)) < 0.1  # whenever it is asked
    assert "hunter2" not in repr(word)
    for clock in (now + 3600, now - 3600, 0):  # dockerd's clock and ours are far apart: one was set
        assert then <= message_of(dict(event, timeNano=int(clock * 1e9))).at <= time.monotonic()
    network = {"Type": "network", "Action": "connect", "Actor": {"ID": "n", "Attributes": {"container": "c"}}}
    assert message_of(network)[2:4] == ("c", False)
    assert message_of(dict(network, Action="destroy"))[3]


# Before Docker starts.

CLOSED = "modprobe bridgewarden closed=" + ",".join(GUARDS)


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
        monkeypatch.setattr(boot_room, "run", self._run)
        monkeypatch.setattr(boot_room, "is_loaded", lambda _name: self.loaded)
        monkeypatch.setattr(boot_room, "apply_plan", self._apply)

    def _run(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        self.commands.append(" ".join(argv))
        return self.modprobe, "", "modprobe: FATAL: Module bridgewarden not found" if self.modprobe else ""

    def _apply(self, plan: t.Any, kernel: t.Any, store: Store, options: t.Any) -> t.Any:
        self.applied.append((plan.policy, options))
        return CommitResult(True, 1, 0, [], "", "")

    def __call__(self) -> int:
        factory = t.cast(t.Any, lambda: FakeKernel(self.generation))
        return boot_room.boot(self.store, Log(self.out), factory)


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


def test_boot_closes_nothing_in_mode_audit(boot: Boot) -> None:
    boot.store.write_policy({"mode": "audit", "guards": ["docker0"], "rules": []})
    assert boot() == 0
    assert boot.commands == ["modprobe bridgewarden"]
    ((policy, _options),) = boot.applied
    assert policy["mode"] == "audit"


def test_boot_closes_by_the_mode_of_the_policy_that_it_takes(boot: Boot) -> None:
    refused = [{"name": "x", "from": ["nobody"], "to": ["any"]}]
    for mode, other, command in (
        ("audit", "enforce", "modprobe bridgewarden closed=br-*"),
        ("enforce", "audit", "modprobe bridgewarden"),
    ):
        boot.commands.clear()
        boot.store.write_policy({"mode": mode, "guards": ["br-*"], "rules": refused})
        boot.store.write_last_good({"mode": other, "guards": ["br-*"], "rules": []})
        assert boot() == 0
        assert boot.commands == [command]


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
    assert boot.commands == [CLOSED]
    assert boot.applied == []


def test_boot_without_a_policy_closes_the_guards(boot: Boot) -> None:
    assert boot() == 0
    assert boot.commands == [CLOSED] and boot.applied == []


def test_boot_without_a_policy_closes_dockers_bridges_and_no_others(boot: Boot) -> None:
    """A host whose uplink is br-lan stays reachable after `state: absent` and a reboot."""
    assert boot() == 0
    patterns = boot.commands[0].partition("closed=")[2].split(",")

    def closed(link: str) -> bool:
        return any(glob_match(pattern, link) for pattern in patterns)

    assert all(closed(link) for link in ("docker0", "docker_gwbridge", "br-0123456789ab"))
    assert not any(closed(link) for link in ("br-lan", "br-ex", "br-int", "br-mgmt", "br-management", "br0"))


def test_boot_without_the_module_fails(boot: Boot) -> None:
    boot.modprobe = 1
    assert boot() == 5
    assert "not found" in boot.out.getvalue()


def test_boot_does_not_cut_off_what_runs(boot: Boot) -> None:
    boot.store.write_policy({"rules": []})
    boot.loaded, boot.generation = True, 7
    assert boot() == 0
    assert boot.commands == [] and boot.applied == []
