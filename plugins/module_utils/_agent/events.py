# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Docker's event stream as messages for the agent.

A thread of its own reads the stream, connects again after an error, and puts messages into the agent's queue.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import queue
import select
import socket as socketlib
import threading
import time
import typing as t
import urllib.parse

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import (
    UnixConnection,
    refusal,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

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


class Settings(t.NamedTuple):
    """How long the agent waits for what; all in seconds."""

    docker_socket: str = DEFAULT_SOCKET
    #: For one answer of dockerd's. All of them together stay below the unit's WatchdogSec.
    answer_seconds: float = 10.0
    #: After this long without another event a burst is over.
    settle_seconds: float = 0.002
    #: The longest wait for a burst to end.
    settle_max_seconds: float = 0.1
    #: Between checks that nobody else has changed the kernel's rules.
    check_seconds: float = 60.0
    #: Between looks at the policy file and at the socket.
    poll_seconds: float = 2.0
    #: For the first stream of events, before the first look at what there is.
    first_seconds: float = 1.0
    #: After a first failure; doubled at each further one.
    retry_seconds: float = 0.5
    retry_max_seconds: float = 15.0
    #: How much of the past a new stream of events repeats.
    overlap_seconds: float = 1.0


# Docker's events.


class Message(t.NamedTuple):
    """What the stream says, and signals: connected, event, lost, stop or reload."""

    kind: str
    words: str = ""
    container: str = ""  # that an event is about
    networks: bool = False  # whether a network came or went
    at: float = 0.0  # when it happened, by the monotonic clock
    attached: str = ""  # a network that a container was put on, or taken off


class Wake:
    """A queue that other threads and signal handlers put messages into, and that can be waited for together with sockets."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def put(self, message: Message) -> None:
        self._queue.put(message)
        with contextlib.suppress(BlockingIOError):  # it is readable already
            os.write(self._writer, b"x")

    def get(self, timeout: float, others: t.Sequence[t.Any] = ()) -> Message:
        """The next message; raises queue.Empty after `timeout` seconds, or when one of the other sockets is readable before it comes."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(queue.Empty):
                return self._queue.get_nowait()
            left = deadline - time.monotonic()
            ready = readable((self._reader, *others), max(left, 0.0))
            if self._reader in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._reader, 4096)
            elif ready or left <= 0:
                return self._queue.get_nowait()

    def empty(self) -> bool:
        return self._queue.empty()

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def readable(sockets: t.Sequence[t.Any], seconds: float) -> t.List[t.Any]:
    """Those of the sockets that become readable within that time."""
    # poll() and not select(), which takes no number above 1023.
    waiting = select.poll()
    by_number = {}
    for one in sockets:
        number = one if isinstance(one, int) else one.fileno()
        by_number[number] = one
        waiting.register(number, select.POLLIN)
    return [by_number[number] for number, _events in waiting.poll(math.ceil(seconds * 1000))]


class EventStream(threading.Thread):
    """Puts what Docker says into the queue; comes back by itself, whatever happens."""

    def __init__(
        self, socket: str, wake: t.Union[Wake, queue.SimpleQueue[Message]], settings: Settings
    ) -> None:
        super().__init__(name="docker-events", daemon=True)
        self.path = socket_path(socket)
        self.wake = wake
        self.settings = settings
        self._socket: t.Optional[socketlib.socket] = None
        self._inode: t.Optional[t.Tuple[int, int]] = None

    def run(self) -> None:
        wait = self.settings.retry_seconds
        while True:
            try:
                for word in self.words():
                    wait = self.settings.retry_seconds
                    self.wake.put(word)
                reason = "dockerd closed the stream"
            except Exception as error:  # of whatever kind: without this thread nothing is followed any more
                reason = str(error) or type(error).__name__
            self.wake.put(Message("lost", reason))
            time.sleep(wait)
            wait = min(wait * 2, self.settings.retry_max_seconds)

    def words(self) -> t.Iterator[Message]:
        filters = json.dumps({"type": ["container", "network"], "event": list(EVENTS)})
        connection = UnixConnection(self.path, 30.0)
        try:
            # dockerd sends its header before it subscribes us: what happens in between is in its buffer.
            since = "%.3f" % (time.time() - self.settings.overlap_seconds)
            query = urllib.parse.urlencode({"filters": filters, "since": since})
            self._inode = socket_inode(self.path)
            connection.request("GET", "/events?" + query)
            response = connection.getresponse()
            if response.status != 200:
                raise refusal(response, "/events")
            self._socket = connection.sock
            if connection.sock is not None:
                connection.sock.settimeout(None)  # a quiet host is no broken one
            yield Message("connected")
            while True:
                line = response.readline()
                if not line:
                    return
                if line.strip():
                    yield message_of(json.loads(line.decode("utf-8")))
        finally:
            self._socket = None
            connection.close()

    def replaced(self) -> bool:
        """Whether the socket's path leads to another socket by now, whose dockerd we do not hear."""
        return self._socket is not None and socket_inode(self.path) not in (None, self._inode)

    def reconnect(self) -> None:
        """Ends the stream that is open, if any; run() begins another."""
        open_one = self._socket
        if open_one is not None:
            try:
                open_one.shutdown(socketlib.SHUT_RDWR)
            except OSError:
                pass  # it has just ended


def socket_inode(path: str) -> t.Optional[t.Tuple[int, int]]:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def message_of(event: Json) -> Message:
    actor = event.get("Actor") or {}
    action = event.get("Action") or event.get("status")
    attached = ""
    if event.get("Type") == "network":
        container = (actor.get("Attributes") or {}).get("container") or ""
        came_or_went = action not in ("connect", "disconnect")
        if not came_or_went:
            attached = actor.get("ID") or ""
    else:
        container, came_or_went = actor.get("ID") or event.get("id") or "", False
    # By dockerd's clock, which is ours, unless that was set meanwhile.
    age = time.time() - (event.get("timeNano") or 0) / 1e9
    at = time.monotonic() - (age if 0 <= age < 60 else 0)
    return Message("event", describe_event(event), str(container), came_or_went, at, str(attached))


def describe_event(event: Json) -> str:
    """One event in words: "container web: start"."""
    actor = event.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    name = attributes.get("name") or str(actor.get("ID") or event.get("id") or "")[:12]
    return "{} {}: {}".format(
        event.get("Type") or "container", name, event.get("Action") or event.get("status")
    )
