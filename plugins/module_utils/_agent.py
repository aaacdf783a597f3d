# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The host's daemon: keeps the kernel's endpoints in step with Docker.

One thread reads Docker's events and only says "something changed"; the main
loop does everything else, always the same thing: read the policy, collect the
facts, plan, apply what differs.  Never takes rules away because Docker is down
or a policy is wrong: what is in force stays until something better is ready.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import signal
import socket as socketlib
import sys
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.bridgewarden.docker.plugins.module_utils import _engine as engine
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import (
    DEFAULT_SOCKET,
    collect,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
    PolicyError,
    Sealed,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Info, Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._preflight import (
    UnixConnection,
    module_loaded,
    run,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

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

DEFAULT_CLOSED = ("docker0", "br-*")
MODULE = "bridgewarden"


class Settings(t.NamedTuple):
    docker_socket: str = DEFAULT_SOCKET
    settle: float = 0.02  # quiet for so long after an event: the burst of one container is over
    settle_limit: float = 0.2  # but no longer than this in a storm
    check: float = 60.0  # between checks that nobody else has changed the kernel's rules
    poll: float = 2.0  # between looks at the policy file
    retry: float = 0.5  # first wait after a failure, doubled each time
    retry_limit: float = 15.0


# Words for the journal and for systemd.


class Log:
    """Lines with a priority in front, as the journal reads them; the same trouble is told once."""

    def __init__(self, stream: t.Optional[t.TextIO] = None) -> None:
        self.stream = stream
        self._last_trouble = ""

    def _say(self, priority: int, text: str) -> None:
        stream = self.stream or sys.stderr
        stream.write("<%d>%s\n" % (priority, " ".join(text.splitlines())))
        stream.flush()

    def info(self, text: str) -> None:
        self._say(6, text)

    def warning(self, text: str) -> None:
        self._say(4, text)

    def trouble(self, text: str) -> None:
        if text != self._last_trouble:
            self._last_trouble = text
            self._say(3, text)

    def fine(self) -> None:
        if self._last_trouble:
            self._last_trouble = ""
            self._say(5, "all is well again")


def sd_notify(*lines: str) -> None:
    """Tells systemd; does nothing where systemd did not ask."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_DGRAM) as channel:
        channel.settimeout(2.0)  # a systemd that does not listen must not hold up the rules
        try:
            channel.connect(address)
            channel.sendall("\n".join(lines).encode("utf-8"))
        except OSError:
            pass  # systemd is about to notice by itself


def watchdog_interval() -> t.Optional[float]:
    """Half of what systemd allows, in seconds."""
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 2e6
    except (KeyError, ValueError):
        return None


# Docker's events.


class EventStream(threading.Thread):
    """Puts ("connected",), ("event", words) and ("lost", reason) into the queue; comes back by itself."""

    def __init__(self, socket: str, wake: queue.SimpleQueue[t.Tuple[str, str]], settings: Settings) -> None:
        super().__init__(name="docker-events", daemon=True)
        self.path = socket_path(socket)
        self.wake = wake
        self.settings = settings

    def run(self) -> None:
        wait = self.settings.retry
        while True:
            try:
                for line in self.lines():
                    wait = self.settings.retry
                    self.wake.put(line)
                reason = "dockerd closed the stream"
            except (OSError, ValueError, http.client.HTTPException) as error:
                reason = str(error) or type(error).__name__
            self.wake.put(("lost", reason))
            time.sleep(wait)
            wait = min(wait * 2, self.settings.retry_limit)

    def lines(self) -> t.Iterator[t.Tuple[str, str]]:
        filters = json.dumps({"type": ["container", "network"], "event": list(EVENTS)})
        connection = UnixConnection(self.path, 30.0)
        try:
            connection.request("GET", "/events?" + urllib.parse.urlencode({"filters": filters}))
            response = connection.getresponse()
            if response.status != 200:
                raise ValueError("GET /events: status %d" % response.status)
            if connection.sock is not None:
                connection.sock.settimeout(None)  # a quiet host is no broken one
            yield "connected", ""
            while True:
                line = response.readline()
                if not line:
                    return
                if line.strip():
                    yield "event", describe(json.loads(line.decode("utf-8")))
        finally:
            connection.close()


def describe(event: Json) -> str:
    """One event in words: "container web: start"."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    name = attributes.get("name") or str(actor.get("ID") or event.get("id") or "")[:12]
    return "{} {}: {}".format(
        event.get("Type") or "container", name, event.get("Action") or event.get("status")
    )


# One step of the work.


class Synced(t.NamedTuple):
    changed: bool
    generation: int
    endpoints: int
    actions: t.List[str]
    warnings: t.List[str]
    info: Info


def sync(
    store: Store,
    docker_socket: str = DEFAULT_SOCKET,
    kernel_factory: t.Callable[[], Kernel] = Kernel,
    facts_of: t.Callable[[str], Json] = collect,
) -> t.Optional[Synced]:
    """Brings the kernel in step with the policy and Docker. None where there is no policy yet."""
    # A container that is gone must not stop the others from being kept in step, and whether the policy may
    # cut somebody off was decided when it was applied.
    options = engine.Options(on_empty_selector="ignore", force=True, adopt=False)

    def replan(policy: Json) -> engine.Plan:
        return engine.plan(policy, facts_of(docker_socket), options)

    with kernel_factory() as kernel:
        result = engine.sync(kernel, store, replan, options)
        if result is None:
            return None
        info = kernel.info()
    warnings = result.plan.warnings if result.plan else []
    return Synced(
        result.changed, info.generation, info.counts.get("endpoints", 0), result.actions, warnings, info
    )


class Agent:
    def __init__(
        self,
        settings: t.Optional[Settings] = None,
        store: t.Optional[Store] = None,
        log: t.Optional[Log] = None,
        sync_once: t.Optional[t.Callable[[], t.Optional[Synced]]] = None,
        clock: t.Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings or Settings()
        self.store = store or Store()
        self.log = log or Log()
        self.sync_once = sync_once or (lambda: sync(self.store, self.settings.docker_socket))
        self.clock = clock
        self.wake: queue.SimpleQueue[t.Tuple[str, str]] = queue.SimpleQueue()
        self.stopping = False
        self._failures = 0
        self._policy_stamp = self._stamp()
        self._hooks_told = True

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._on_stop)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGHUP, self._on_reload)
        EventStream(self.settings.docker_socket, self.wake, self.settings).start()
        self.log.info(f"following Docker at {self.settings.docker_socket}")
        wait = self.step("start")
        # Ready although Docker may be down: waiting for it is the agent's work.
        sd_notify("READY=1")
        while not self.stopping:
            reason = self.next_reason(wait)
            if reason:
                wait = self.step(reason)
        sd_notify("STOPPING=1")
        self.log.info("stopped; the rules stay in force")
        return 0

    # Waiting.

    def next_reason(self, wait: float) -> str:
        """Why to sync now: an event, a changed policy, or that `wait` seconds have passed; '' to stop."""
        deadline = self.clock() + wait
        beat = watchdog_interval()
        while not self.stopping:
            left = deadline - self.clock()
            if left <= 0:
                return "check"
            pause = min(left, self.settings.poll, beat or left)
            try:
                kind, words = self.wake.get(timeout=max(pause, 0.001))
            except queue.Empty:
                if beat:
                    sd_notify("WATCHDOG=1")
                if self._policy_changed():
                    return "the policy file changed"
                continue
            if kind == "stop":
                return ""
            if kind == "lost":
                self.log.trouble(f"Docker's events are lost: {words}; the rules stay, trying again")
                sd_notify("STATUS=waiting for Docker; the rules stay in force")
                continue
            if kind == "connected":
                self._failures = 0
                return "Docker answers"
            return self._settle(words)
        return ""

    def _settle(self, words: str) -> str:
        """Takes the events of one burst together."""
        limit = self.clock() + self.settings.settle_limit
        more = 0
        while self.clock() < limit:
            try:
                kind, other = self.wake.get(timeout=self.settings.settle)
            except queue.Empty:
                break
            if kind != "event":
                self.wake.put((kind, other))
                break
            more += 1
        return words + (" and %d more" % more if more else "")

    # Working.

    def step(self, reason: str) -> float:
        """Syncs once; returns the seconds to wait for the next time without an event."""
        began = self.clock()
        try:
            synced = self.sync_once()
        except BridgewardenError as error:
            return self._failed(error)
        self._failures = 0
        self.log.fine()
        sd_notify("WATCHDOG=1")
        if synced is None:
            sd_notify("STATUS=no policy yet")
            return self.settings.check
        if synced.changed:
            self.log.info(
                "generation %d, %d endpoints, %d ms after: %s"
                % (synced.generation, synced.endpoints, (self.clock() - began) * 1000, reason)
            )
        self._watch_hooks(synced.info)
        sd_notify("STATUS=generation %d, %d endpoints" % (synced.generation, synced.endpoints))
        return self.settings.check

    def _failed(self, error: BridgewardenError) -> float:
        self.log.trouble(error.text())
        sd_notify("STATUS=" + error.text(), "WATCHDOG=1")
        self._failures += 1
        if isinstance(error, (DockerUnavailable, Sealed)):
            # The stream's reconnection wakes us, or nothing but a reboot will; until then there is nothing to ask.
            return self.settings.check
        return float(min(self.settings.retry * 2 ** (self._failures - 1), self.settings.retry_limit))

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
        self.wake.put(("stop", ""))

    def _on_reload(self, *dummy: t.Any) -> None:
        self.wake.put(("event", "asked to reload"))


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
    guards = (policy or {}).get("guards") or DEFAULT_CLOSED
    return [str(guard) for guard in guards]
