# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's daemon: keeps the kernel's endpoints in step with Docker.

One thread reads Docker's events and only says what may have changed; the main
loop waits for it, for the kernel's word about links and for dockerd's answers, and does everything else, always the same
thing: collect the facts, read the policy, plan, apply what differs.  Never takes rules away because Docker is down
or a policy is wrong: what is in force stays until something better is ready.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import (
    EventStream,
    Message,
    Settings,
    Wake,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import (
    Change,
    Follower,
    Synced,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import (
    FaultBarrier,
    Log,
    internal_error,
    sd_notify,
    watchdog_interval,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.ports import PortWatch
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
    Locked,
    Sealed,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info

# One step of the work.


@dataclass
class State:
    """How it goes, for the metrics."""

    BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

    docker_reachable: bool = False
    last_sync: float = 0.0  # by the wall clock; 0: none yet
    stuck: int = 0
    planned: int = 0  # endpoints of the last plan
    failures: t.Dict[str, int] = field(default_factory=dict)  # by the error's kind
    lag_last: float = 0.0  # from a link's carrier, or Docker's event, to the kernel in step
    lag_sum: float = 0.0
    lag_counts: t.List[int] = field(default_factory=lambda: [0] * (len(State.BUCKETS) + 1))

    def synced(self, lag: t.Optional[float]) -> None:
        self.last_sync = time.time()
        if lag is not None:
            self.lag_last = max(lag, 0.0)
            self.lag_sum += self.lag_last
            self.lag_counts[sum(self.lag_last > limit for limit in self.BUCKETS)] += 1

    def failed(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1


class Agent:
    def __init__(
        self,
        settings: t.Optional[Settings] = None,
        store: t.Optional[Store] = None,
        log: t.Optional[Log] = None,
        sync_once: t.Optional[t.Callable[[Change], t.Optional[Synced]]] = None,
        clock: t.Callable[[], float] = time.monotonic,
        publish: t.Optional[t.Callable[[bool], bool]] = None,
        state: t.Optional[State] = None,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
    ) -> None:
        self.settings = settings or Settings()
        self.store = store or Store()
        self.log = log or Log()
        self.ports: t.Optional[PortWatch] = None
        self._write: t.Callable[[bool], None] = lambda _at_once: None
        if sync_once is None:
            watch = Watch(self.settings.docker_socket, self.settings.answer_seconds, tolerant=True)
            follower = Follower(self.store, watch, kernel_factory, writes_later=True)
            sync_once, self.ports, self._write = follower, PortWatch(watch), follower.write
        self.sync_once = sync_once
        self.clock = clock
        self.publish = publish or (lambda _news: False)  # after each step, and while waiting
        self._barrier = FaultBarrier(self.log, "the metrics")
        self._write_barrier = FaultBarrier(self.log, "the notes of what was applied")
        self.wake = Wake()
        self.stream: t.Optional[EventStream] = None
        self.stopping = False
        self.state = state or State()
        self._failures = 0
        self._left_out: t.Set[str] = set()
        self._forget = True
        self._policy_stamp = self._stamp()
        self._hooks_told = True
        self._notices: t.Tuple[str, ...] = ()
        #: When to look at the policy file and so on, and at dockerd's list: times, and not silences, which events may never leave.
        self._poll_at = 0.0
        self._check_at = self.clock() + self.settings.check_seconds

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        with contextlib.ExitStack() as held:
            if not self._take_agent_lock(held):
                return 0
            try:
                return self._run()
            except Exception as error:
                self._internal_error(error)
                return 1

    def _take_agent_lock(self, held: contextlib.ExitStack) -> bool:
        """Takes the lock that only one agent of a host can have; False where we are stopped before that."""
        wait = 0.0
        while not self.stopping:
            try:
                held.enter_context(self.store.agent_lock(wait))
                self.log.recovered()
                return True
            except Locked as error:
                if not os.environ.get("NOTIFY_SOCKET"):
                    raise
                # systemd would only start us again; the other one may be an operator's, by hand.
                wait = self.settings.poll_seconds
                self.log.error(error.text(), error_kind=error.kind, error_code=error.exit_code)
                sd_notify("READY=1", "WATCHDOG=1", "STATUS=" + error.text())
        return False

    def _run(self) -> int:
        self.stream = EventStream(self.settings.docker_socket, self.wake, self.settings)
        self.stream.start()
        if self.ports is not None:
            self.ports.watch.follow()
        self.log.info(f"following Docker at {self.settings.docker_socket}")
        self._wait_for_the_stream()
        wait = self.step(Change("start"))
        # Ready although Docker may be down: waiting for it is the agent's work.
        sd_notify("READY=1")
        while not self.stopping:
            change = self.next_change(wait)
            if change is not None:
                wait = self.step(change)
        sd_notify("STOPPING=1")
        self._write_barrier(lambda: self._write(True), None)
        self.log.info("stopped; the rules stay in force")
        return 0

    def _wait_for_the_stream(self) -> None:
        """So that one look at everything does for the start and for the stream's."""
        try:
            word = self.wake.get(self.settings.first_seconds)
        except queue.Empty:
            return
        if word.kind != "connected":
            self.wake.put(word)

    # Waiting.

    def next_change(self, wait: float) -> t.Optional[Change]:
        """What to sync now: events, links, a changed policy, or that it is time to check; None to stop.

        `wait`: the longest time until a check, in seconds.
        """
        limit = self.clock() + wait
        while not self.stopping:
            now = self.clock()
            if now >= self._poll_at:
                self._poll_at = now + min(
                    self.settings.poll_seconds, watchdog_interval() or self.settings.poll_seconds
                )
                if self._look_around():
                    return Change("the policy file changed", "list")
            change = self._check_of_links(now)
            if change is not None:
                return change
            if now >= min(limit, self._check_at):
                return Change("check", "list")
            due = self.ports.due() if self.ports and not self._forget else None
            until = min(limit, self._check_at, self._poll_at, limit if due is None else due)
            try:
                word = self.wake.get(max(until - now, 0.0), self._sockets())
            except queue.Empty:
                continue
            if word.kind == "stop":
                return None
            if word.kind == "lost":
                self._lost(word.words)
                continue
            if word.kind == "connected":
                self._failures = 0
                return Change("Docker answers")
            if word.kind == "reload":
                return Change("asked to reload")
            if self.ports is not None and word.container:
                # At once: in the moment after, its start may begin, and then dockerd does not answer until it runs.
                self.ports.watch.ask([word.container])
            return self._settle(word)
        return None

    def _sockets(self) -> t.Sequence[t.Any]:
        # After a failure everything is asked anew when its time has come, and not at each link that changes.
        return self.ports.sockets() if self.ports and not self._forget else ()

    def _check_of_links(self, now: float) -> t.Optional[Change]:
        if self.ports is None or self._forget:
            return None
        try:
            return self.ports.next(now)
        except BridgewardenError as error:
            self._forget = True
            return Change(error.problem)

    def _look_around(self) -> bool:
        """What has to be done now and then, whatever happens; whether the policy file has changed."""
        if watchdog_interval():
            sd_notify("WATCHDOG=1")
        self._look_at_the_stream()
        self._publish(False)
        if self.ports is None or self.ports.quiet():
            self._write_barrier(lambda: self._write(False), None)
        return self._policy_changed()

    def _lost(self, words: str) -> None:
        self.state.docker_reachable = False
        self.log.error(
            f"Docker's events are lost: {words}; the rules stay, trying again", error_kind="docker"
        )
        sd_notify("STATUS=waiting for Docker; the rules stay in force")

    def _look_at_the_stream(self) -> None:
        if self.stream is None:
            return
        if not self.stream.is_alive():
            raise RuntimeError("the thread that reads Docker's events has ended")
        if self.stream.replaced():
            self.stream.reconnect()

    def _settle(self, first: Message) -> Change:
        """Takes the events of one burst together."""
        limit = self.clock() + self.settings.settle_max_seconds
        burst = [first]
        while self.clock() < limit:
            try:
                word = self.wake.get(self.settings.settle_seconds, self._sockets())
            except queue.Empty:
                break
            if word.kind != "event":
                self.wake.put(word)
                break
            burst.append(word)
        more = " and %d more" % (len(burst) - 1) if len(burst) > 1 else ""
        return Change(
            first.words + more,
            "events",
            frozenset(word.container for word in (burst[1:] if self.ports else burst)) - {""},
            any(word.networks for word in burst),
            min(word.at for word in burst),
            frozenset(word.attached for word in burst) - {""},
        )

    # Working.

    def step(self, change: Change) -> float:
        """Syncs once; returns the seconds to wait for the next time without an event."""
        began = self.clock()
        if self._forget:
            # Whatever went wrong, events may have been missed over it.
            change = change._replace(scope="all")
        if change.scope != "events":
            self._check_at = began + self.settings.check_seconds
        self._forget = True
        try:
            synced = self.sync_once(change)
        except BridgewardenError as error:
            return self._ended(self._failed(error))
        except Exception as error:
            return self._ended(self._internal_error(error))
        self._forget = False
        self._failures = 0
        if synced is None or not synced.stuck:
            self.log.recovered()
        sd_notify("WATCHDOG=1")
        self.state.docker_reachable = True
        if synced is None:
            sd_notify("STATUS=no policy yet")
            return self._ended(self.settings.check_seconds)
        self._report_sync(change, synced, began)
        self._watch_hooks(synced.info)
        sd_notify("STATUS=generation %d, %d endpoints" % (synced.generation, synced.endpoints))
        return self._ended(self.settings.retry_max_seconds if synced.stuck else self.settings.check_seconds)

    def _ended(self, wait: float) -> float:
        self._publish(True)
        return wait

    def _publish(self, news: bool) -> None:
        self._barrier(lambda: self.publish(news), False)

    def _report_sync(self, change: Change, synced: Synced, began: float) -> None:
        self.state.synced(
            self.clock() - change.since if change.since is not None and synced.changed else None
        )
        self.state.stuck = len(synced.stuck)
        self.state.planned = synced.planned
        if synced.stuck:
            names = ", ".join(
                name[:12] + (f" ({said})" if said else "") for name, said in sorted(synced.stuck.items())
            )
            self.log.error(
                f"dockerd does not answer about {names}: what is new about them is not in force yet, trying again"
            )
        for text in synced.notices:
            if text not in self._notices:
                self.log.warning(text)
        self._notices = synced.notices
        for words in set(synced.left_out) - self._left_out:
            self.log.warning(words)
        self._left_out = set(synced.left_out)
        if synced.proxy_ports:
            ports = ", ".join(str(port) for port in synced.proxy_ports)
            self.log.warning(
                f"docker-proxy keeps connections to port {ports} that it took before the policy knew its container, and may "
                "pass on what they have said so far; see 'ss -tnp'"
            )
        if synced.changed:
            took = (self.clock() - began) * 1000
            self.log.info(
                "generation %d, %d endpoints, %d ms after: %s"
                % (synced.generation, synced.endpoints, took, change.reason),
                generation=synced.generation,
                endpoints=synced.endpoints,
                milliseconds="%d" % took,
                reason=change.reason,
            )

    def _failed(self, error: BridgewardenError) -> float:
        self.log.error(error.text(), error_kind=error.kind, error_code=error.exit_code)
        sd_notify("STATUS=" + error.text(), "WATCHDOG=1")
        self._failures += 1
        self.state.failed(error.kind)
        if isinstance(error, DockerUnavailable):
            self.state.docker_reachable = False
            if self.stream is not None:
                # A dockerd that hangs leaves its stream open: the next connection tells when it is back.
                self.stream.reconnect()
        if isinstance(error, (DockerUnavailable, Sealed)):
            # The stream's reconnection wakes us, or nothing but a reboot will; until then there is nothing to ask.
            return self.settings.check_seconds
        return self._backoff()

    def _internal_error(self, error: Exception) -> float:
        """A mistake of ours: told with its place, and no reason to stop following."""
        text, fields = internal_error(error, "the agent")
        self.log.error(text, **fields)
        sd_notify("STATUS=" + text, "WATCHDOG=1")
        self._failures += 1
        self.state.failed("mistake")
        return self._backoff()

    def _backoff(self) -> float:
        return float(
            min(
                self.settings.retry_seconds * 2 ** min(self._failures - 1, 16),
                self.settings.retry_max_seconds,
            )
        )

    def _watch_hooks(self, info: Info) -> None:
        if info.hooks_in_place != self._hooks_told:
            self._hooks_told = info.hooks_in_place
            if info.hooks_in_place:
                self.log.info("our hooks run first again")
            else:
                ahead = ", ".join(info.hooks_ahead) or "'bridgewarden status' shows where"
                self.log.warning("another netfilter user runs before our hooks: " + ahead)

    def _stamp(self) -> t.Tuple[int, int]:
        try:
            status = os.stat(self.store.policy_path)
        except OSError:
            return (0, 0)
        return (status.st_mtime_ns, status.st_ino)

    def _policy_changed(self) -> bool:
        before, self._policy_stamp = self._policy_stamp, self._stamp()
        return before != self._policy_stamp

    # Signals only put a word into the queue, which is of the kind that allows it.

    def _on_stop(self, *dummy: t.Any) -> None:
        self.stopping = True
        self.wake.put(Message("stop"))

    def _on_reload(self, *dummy: t.Any) -> None:
        self.wake.put(Message("reload"))
