# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's daemon: keeps the kernel's endpoints in step with Docker.

One thread reads Docker's events and only says what may have changed; the main
loop does everything else, always the same thing: read the policy, collect the
facts, plan, apply what differs.  Never takes rules away because Docker is down
or a policy is wrong: what is in force stays until something better is ready.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import queue
import signal
import socket as socketlib
import threading
import time
import typing as t
import urllib.parse
from dataclasses import dataclass, field
from types import MappingProxyType

from ansible_collections.bridgewarden.docker.plugins.module_utils import (
    _docker_proxy as docker_proxy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils import (
    _engine as engine,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import (
    DEFAULT_SOCKET,
    Watch,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
    Locked,
    PolicyError,
    Sealed,
    Stale,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Info, Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._preflight import (
    UnixConnection,
    module_loaded,
    refusal,
    run,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._systemd import (
    Guard,
    Log,
    mistake,
    sd_notify,
    watchdog_interval,
)

Json = t.Dict[str, t.Any]

#: What happens to containers and networks that can change an address, a link, a name or a state.
EVENTS = (
    "start",
    "die",
    "pause",
    "unpause",
    "rename",
    "update",
    "create",
    "destroy",
    "connect",
    "disconnect",
    "remove",
)

MODULE = "bridgewarden"


class Settings(t.NamedTuple):
    docker_socket: str = DEFAULT_SOCKET
    patience: float = (
        10.0  # for one answer of dockerd's; all of them together stay below the unit's WatchdogSec
    )
    settle: float = 0.002  # quiet for so long after an event: the burst is over
    settle_limit: float = 0.1  # but no longer than this in a storm
    check: float = 60.0  # between checks that nobody else has changed the kernel's rules
    poll: float = 2.0  # between looks at the policy file and at the socket
    retry: float = 0.5  # first wait after a failure, doubled each time
    retry_limit: float = 15.0
    gap: float = 1.0  # seconds of the past that a new stream repeats


# Docker's events.


class Word(t.NamedTuple):
    """What the stream says, and signals: connected, event, lost, stop or reload."""

    kind: str
    words: str = ""
    container: str = ""  # that an event is about
    networks: bool = False  # whether a network came or went
    at: float = 0.0  # when it happened, by the monotonic clock


class EventStream(threading.Thread):
    """Puts what Docker says into the queue; comes back by itself, whatever happens."""

    def __init__(self, socket: str, wake: queue.SimpleQueue[Word], settings: Settings) -> None:
        super().__init__(name="docker-events", daemon=True)
        self.path = socket_path(socket)
        self.wake = wake
        self.settings = settings
        self._socket: t.Optional[socketlib.socket] = None
        self._inode: t.Optional[t.Tuple[int, int]] = None

    def run(self) -> None:
        wait = self.settings.retry
        while True:
            try:
                for word in self.words():
                    wait = self.settings.retry
                    self.wake.put(word)
                reason = "dockerd closed the stream"
            except Exception as error:  # of whatever kind: without this thread nothing is followed any more
                reason = str(error) or type(error).__name__
            self.wake.put(Word("lost", reason))
            time.sleep(wait)
            wait = min(wait * 2, self.settings.retry_limit)

    def words(self) -> t.Iterator[Word]:
        filters = json.dumps({"type": ["container", "network"], "event": list(EVENTS)})
        connection = UnixConnection(self.path, 30.0)
        try:
            # dockerd sends its header before it subscribes us: what happens in between is in its buffer.
            since = "%.3f" % (time.time() - self.settings.gap)
            query = urllib.parse.urlencode({"filters": filters, "since": since})
            self._inode = inode(self.path)
            connection.request("GET", "/events?" + query)
            response = connection.getresponse()
            if response.status != 200:
                raise refusal(response, "/events")
            self._socket = connection.sock
            if connection.sock is not None:
                connection.sock.settimeout(None)  # a quiet host is no broken one
            yield Word("connected")
            while True:
                line = response.readline()
                if not line:
                    return
                if line.strip():
                    yield word_of(json.loads(line.decode("utf-8")))
        finally:
            self._socket = None
            connection.close()

    def replaced(self) -> bool:
        """Whether the socket's path leads to another socket by now, whose dockerd we do not hear."""
        return self._socket is not None and inode(self.path) not in (None, self._inode)

    def reconnect(self) -> None:
        """Ends the stream that is open, if any; run() begins another."""
        open_one = self._socket
        if open_one is not None:
            try:
                open_one.shutdown(socketlib.SHUT_RDWR)
            except OSError:
                pass  # it has just ended


def inode(path: str) -> t.Optional[t.Tuple[int, int]]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def word_of(event: Json) -> Word:
    actor = event.get("Actor") or {}
    action = event.get("Action") or event.get("status")
    if event.get("Type") == "network":
        container = (actor.get("Attributes") or {}).get("container") or ""
        came_or_went = action not in ("connect", "disconnect")
    else:
        container, came_or_went = actor.get("ID") or event.get("id") or "", False
    # By dockerd's clock, which is ours, unless that was set meanwhile.
    age = time.time() - (event.get("timeNano") or 0) / 1e9
    at = time.monotonic() - (age if 0 <= age < 60 else 0)
    return Word("event", describe(event), str(container), came_or_went, at)


def describe(event: Json) -> str:
    """One event in words: "container web: start"."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    name = attributes.get("name") or str(actor.get("ID") or event.get("id") or "")[:12]
    return "{} {}: {}".format(
        event.get("Type") or "container", name, event.get("Action") or event.get("status")
    )


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
    lag_last: float = 0.0  # from Docker's event to the kernel in step
    lag_sum: float = 0.0
    lag_counts: t.List[int] = field(default_factory=lambda: [0] * (len(State.BUCKETS) + 1))

    def in_step(self, lag: t.Optional[float]) -> None:
        self.last_sync = time.time()
        if lag is not None:
            self.lag_last = max(lag, 0.0)
            self.lag_sum += self.lag_last
            self.lag_counts[sum(self.lag_last > limit for limit in self.BUCKETS)] += 1

    def failed(self, kind: str) -> None:
        self.failures[kind] = self.failures.get(kind, 0) + 1


class Change(t.NamedTuple):
    """Why to sync, and what to ask dockerd about for it."""

    reason: str
    scope: str = (
        "all"  # everything anew; "list": what dockerd's list shows changed; "events": what is named here
    )
    containers: t.FrozenSet[str] = frozenset()
    networks: bool = False
    since: t.Optional[float] = None  # when the oldest of the events happened, by the monotonic clock


class Synced(t.NamedTuple):
    changed: bool
    generation: int
    endpoints: int
    actions: t.List[str]
    warnings: t.List[str]
    info: Info
    planned: int = 0  # endpoints that should be in force
    stuck: t.Mapping[str, str] = MappingProxyType({})  # Watch.stuck
    held: t.Tuple[
        int, ...
    ] = ()  # published ports whose docker-proxy keeps what it took before they were known


class NothingNew(Exception):
    """What happened changes nothing for us."""


class Follower:
    """Brings the kernel in step with the policy and Docker, and keeps what Docker said for the next time."""

    # A container that is gone must not stop the others from being kept in step, and whether the policy may
    # cut somebody off was decided when it was applied.
    OPTIONS = engine.Options(on_empty_selector="ignore", force=True, adopt=False)
    #: Seconds that docker-proxy has to close the clients it took before its port was known.
    PATIENCE = 1.0

    def __init__(
        self,
        store: Store,
        watch: Watch,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
    ) -> None:
        self.store = store
        self.watch = watch
        self.kernel_factory = kernel_factory
        self._last: t.Optional[t.Tuple[Json, Synced]] = None
        self._known: t.Optional[t.Set[docker_proxy.Place]] = (
            None  # the endpoints in force, as far as we have put them there
        )

    def __call__(self, change: Change) -> t.Optional[Synced]:
        """None where there is no policy yet."""
        last, self._last = self._last, None
        known, self._known = self._known, None
        scopes = [change.scope]
        held: t.Tuple[int, ...] = ()

        def replan(policy: Json) -> engine.Plan:
            nonlocal held
            # A second time: the kernel has moved on since the facts were collected, so none of them is trusted.
            facts = self._facts(change, scopes.pop() if scopes else "all")
            if last is not None and change.scope == "events" and facts is last[0]:
                raise NothingNew
            plan = engine.plan(policy, facts, self.OPTIONS)
            held = self._ports_first(kernel, plan, known)
            return plan

        try:
            with self.kernel_factory() as kernel:
                result = engine.sync(kernel, self.store, replan, self.OPTIONS)
                if result is None:
                    return None
                info = kernel.info()
        except NothingNew:
            self._last, self._known = last, known
            return last[1]._replace(changed=False, actions=[], stuck=dict(self.watch.stuck)) if last else None
        synced = Synced(
            result.changed,
            info.generation,
            info.counts.get("endpoints", 0),
            result.actions,
            result.plan.warnings if result.plan else [],
            info,
            endpoints_of(result.plan),
            dict(self.watch.stuck),
            held,
        )
        if result.plan is not None:
            self._last = result.plan.facts, synced
            self._known = docker_proxy.places(result.plan.ruleset)
        return synced

    def _ports_first(
        self, kernel: Kernel, plan: engine.Plan, known: t.Optional[t.Set[docker_proxy.Place]]
    ) -> t.Tuple[int, ...]:
        """Commits new ports of docker-proxy's before their containers; those that it keeps clients of all the same."""
        if (plan.facts.get("docker") or {}).get("userland_proxy") is False or not plan.ruleset.publish:
            return ()
        if known is None:
            known = {
                (ipaddress.ip_address(row.address).packed, row.link, row.port) for row in kernel.endpoints()
            }
        listeners = docker_proxy.newly_published(plan.ruleset, known)
        if not listeners:
            return ()
        info = kernel.info()
        if info.sealed or info.mode != "enforce" or plan.policy["mode"] != "enforce":
            return ()
        if not info.guards:
            return ()  # whoever is connected got there by right
        try:
            kernel.commit(docker_proxy.without(plan.ruleset, set(listeners.values())), info.generation)
        except Stale:
            return ()  # the commit of the whole plan will see the same
        if docker_proxy.wait_until_empty(listeners, self.PATIENCE):
            return ()
        return tuple(sorted({port for _protocol, port, _address in listeners}))

    def _facts(self, change: Change, scope: str) -> Json:
        if scope == "all":
            self.watch.forget()
        return self.watch.facts(change.containers if scope == "events" else None, change.networks)


def endpoints_of(plan: t.Optional[engine.Plan]) -> int:
    return len(plan.ruleset.endpoints4) + len(plan.ruleset.endpoints6) if plan else 0


def sync(store: Store, docker_socket: str = DEFAULT_SOCKET) -> t.Optional[Synced]:
    """Once, for the command."""
    watch = Watch(docker_socket)
    synced = Follower(store, watch)(Change("asked to"))
    return synced and synced._replace(warnings=[*synced.warnings, *watch.warnings()])


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
    ) -> None:
        self.settings = settings or Settings()
        self.store = store or Store()
        self.log = log or Log()
        self.sync_once = sync_once or Follower(
            self.store, Watch(self.settings.docker_socket, self.settings.patience, tolerant=True)
        )
        self.clock = clock
        self.publish = publish or (lambda _news: False)  # after each step, and while waiting
        self._guard = Guard(self.log, "the metrics")
        self.wake: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self.stream: t.Optional[EventStream] = None
        self.stopping = False
        self.state = state or State()
        self._failures = 0
        self._forget = True
        self._policy_stamp = self._stamp()
        self._hooks_told = True

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        with contextlib.ExitStack() as held:
            if not self._alone(held):
                return 0
            try:
                return self._run()
            except Exception as error:
                self._puzzled(error)
                return 1

    def _alone(self, held: contextlib.ExitStack) -> bool:
        """Takes the lock that only one agent of a host can have; False where we are stopped before that."""
        wait = 0.0
        while not self.stopping:
            try:
                held.enter_context(self.store.agent_lock(wait))
                self.log.fine()
                return True
            except Locked as error:
                if not os.environ.get("NOTIFY_SOCKET"):
                    raise
                # systemd would only start us again; the other one may be an operator's, by hand.
                wait = self.settings.poll
                self.log.trouble(error.text(), error_kind=error.kind, error_code=error.exit_code)
                sd_notify("READY=1", "WATCHDOG=1", "STATUS=" + error.text())
        return False

    def _run(self) -> int:
        self.stream = EventStream(self.settings.docker_socket, self.wake, self.settings)
        self.stream.start()
        self.log.info(f"following Docker at {self.settings.docker_socket}")
        wait = self.step(Change("start"))
        # Ready although Docker may be down: waiting for it is the agent's work.
        sd_notify("READY=1")
        while not self.stopping:
            change = self.next_change(wait)
            if change is not None:
                wait = self.step(change)
        sd_notify("STOPPING=1")
        self.log.info("stopped; the rules stay in force")
        return 0

    # Waiting.

    def next_change(self, wait: float) -> t.Optional[Change]:
        """What to sync now: events, a changed policy, or that `wait` seconds have passed; None to stop."""
        deadline = self.clock() + wait
        beat = watchdog_interval()
        while not self.stopping:
            left = deadline - self.clock()
            if left <= 0:
                return Change("check", "list")
            pause = min(left, self.settings.poll, beat or left)
            try:
                word = self.wake.get(timeout=max(pause, 0.001))
            except queue.Empty:
                if beat:
                    sd_notify("WATCHDOG=1")
                self._look_at_the_stream()
                self._publish(False)
                if self._policy_changed():
                    return Change("the policy file changed", "list")
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
            return self._settle(word)
        return None

    def _lost(self, words: str) -> None:
        self.state.docker_reachable = False
        self.log.trouble(
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

    def _settle(self, first: Word) -> Change:
        """Takes the events of one burst together."""
        limit = self.clock() + self.settings.settle_limit
        burst = [first]
        while self.clock() < limit:
            try:
                word = self.wake.get(timeout=self.settings.settle)
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
            frozenset(word.container for word in burst) - {""},
            any(word.networks for word in burst),
            min(word.at for word in burst),
        )

    # Working.

    def step(self, change: Change) -> float:
        """Syncs once; returns the seconds to wait for the next time without an event."""
        began = self.clock()
        if self._forget:
            # Whatever went wrong, events may have been missed over it.
            change = change._replace(scope="all")
        self._forget = True
        try:
            synced = self.sync_once(change)
        except BridgewardenError as error:
            return self._ended(self._failed(error))
        except Exception as error:
            return self._ended(self._puzzled(error))
        self._forget = False
        self._failures = 0
        if synced is None or not synced.stuck:
            self.log.fine()
        sd_notify("WATCHDOG=1")
        self.state.docker_reachable = True
        if synced is None:
            sd_notify("STATUS=no policy yet")
            return self._ended(self.settings.check)
        self._in_step(change, synced, began)
        self._watch_hooks(synced.info)
        sd_notify("STATUS=generation %d, %d endpoints" % (synced.generation, synced.endpoints))
        return self._ended(self.settings.retry_limit if synced.stuck else self.settings.check)

    def _ended(self, wait: float) -> float:
        self._publish(True)
        return wait

    def _publish(self, news: bool) -> None:
        self._guard(lambda: self.publish(news), False)

    def _in_step(self, change: Change, synced: Synced, began: float) -> None:
        self.state.in_step(
            self.clock() - change.since if change.since is not None and synced.changed else None
        )
        self.state.stuck = len(synced.stuck)
        self.state.planned = synced.planned
        if synced.stuck:
            names = ", ".join(
                name[:12] + (f" ({said})" if said else "") for name, said in sorted(synced.stuck.items())
            )
            self.log.trouble(
                f"dockerd does not answer about {names}: what is new about them is not in force yet, trying again"
            )
        if synced.held:
            ports = ", ".join(str(port) for port in synced.held)
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
        self.log.trouble(error.text(), error_kind=error.kind, error_code=error.exit_code)
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
            return self.settings.check
        return self._backoff()

    def _puzzled(self, error: Exception) -> float:
        """A mistake of ours: told with its place, and no reason to stop following."""
        text, fields = mistake(error, "the agent")
        self.log.trouble(text, **fields)
        sd_notify("STATUS=" + text, "WATCHDOG=1")
        self._failures += 1
        self.state.failed("mistake")
        return self._backoff()

    def _backoff(self) -> float:
        return float(min(self.settings.retry * 2 ** min(self._failures - 1, 16), self.settings.retry_limit))

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
        self.wake.put(Word("stop"))

    def _on_reload(self, *dummy: t.Any) -> None:
        self.wake.put(Word("reload"))


# Before Docker starts.


def boot(store: Store, log: Log, kernel_factory: t.Callable[[], Kernel] = Kernel) -> int:
    """Loads the module with its guards closed and commits the policy with no endpoint; the exit code."""
    # The file that was refused stays for people to look at.
    options = engine.Options("ignore", force=True, adopt=False)
    policy, refusal = boot_policy(store)
    if refusal:
        log.warning(refusal)
    if not module_loaded(MODULE):
        code, out, err = run(["modprobe", MODULE, "closed={}".format(",".join(closed_guards(policy)))])
        if code != 0:
            said = " ".join((err + out).split())
            release = os.uname().release
            log.trouble(
                f"the kernel module cannot be loaded into {release}: {said}; nothing is filtered. See 'dkms status', build it "
                f"with 'dkms autoinstall -k {release}' or playbooks/harden-docker.yml, then 'systemctl restart {MODULE}'"
            )
            return 5
    if policy is None:
        log.warning("no policy yet: the guards are closed until one is applied")
        return 0 if not refusal else 2
    with kernel_factory() as kernel:
        info = kernel.info()
        if info.generation:
            # Not the boot: a ruleset is at work, and one without endpoints would cut off what runs.
            log.info("generation %d is in force already" % info.generation)
            return 0
        result = engine.apply(engine.boot_plan(policy), kernel, store, options=options)
    log.info("generation %d is in force, closed until the containers are known" % result.generation)
    return 0


def boot_policy(store: Store) -> t.Tuple[t.Optional[Json], str]:
    """The desired policy; where it is refused the last good one, and why."""
    refusal = ""
    for read in (store.read_policy, store.read_last_good):
        try:
            policy = read()
            if policy is not None:
                engine.boot_plan(policy)
                return policy, refusal
        except (PolicyError, StoreCorrupt) as error:
            refusal = refusal or error.text() + "; the last good policy is taken instead"
    return None, refusal


def closed_guards(policy: t.Optional[Json]) -> t.List[str]:
    guards = (policy or {}).get("guards") or GUARDS
    return [str(guard) for guard in guards]
