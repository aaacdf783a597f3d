# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Asks dockerd: at once and waiting, or at once and not waiting.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import selectors
import socket as socketlib
import time
import typing as t
import urllib.parse

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import (
    JOINING,
    Attached,
    Attachment,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import (
    NoSuchThing,
    UnixConnection,
    check_socket,
    first_line,
    get_answer,
    get_json,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import DockerUnavailable
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: An answer about one container that takes longer does not hold up the next question.
SLOW_ANSWER_SECONDS = 0.05
#: dockerd's silence after which those still asked about are taken to hang; the second, for those that hung before.
STUCK_AFTER_SECONDS = 3.0
STUCK_AGAIN_SECONDS = 1.0
#: The same for those that nobody waits for: dockerd holds the answer back while a container starts or ends, seconds on a slow host.
OVERDUE_SECONDS = 30.0
#: Each request has a connection of its own.
MAX_PARALLEL_REQUESTS = 200

#: Where dockerd has its files unless it is told otherwise.
DEFAULT_ROOT = "/var/lib/docker"

CONTAINER_ID = re.compile(r"[0-9a-f]{64}\Z")
_FAILURES = (OSError, ValueError, http.client.HTTPException)


class Daemon:
    """dockerd, over one connection where it answers: it is only ever asked, by GET."""

    def __init__(
        self,
        socket: str,
        timeout: float,
        stuck: t.Optional[t.Collection[str]] = None,
        waits: bool = True,
        probe: bool = True,
    ) -> None:
        """`waits`: for containers whose inspect is held back; else they are `outstanding`. `probe`: says what is wrong with the socket."""
        self._socket = socket
        self._waits = waits
        self._probe = probe
        self.outstanding: t.Dict[str, UnixConnection] = {}
        self._timeout = timeout
        self._connection = UnixConnection(socket_path(socket), timeout)
        self._tolerant = stuck is not None
        self._known_stuck = frozenset(stuck or ())
        self.stuck: t.Dict[str, str] = {}  # this time, as in Watch

    def __enter__(self) -> Daemon:
        if self._probe:
            check_socket(self._socket, self._timeout)
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def get(self, path: str) -> t.Any:
        """The answer; None for what is not there (any more)."""
        try:
            return self._get(path)
        except _FAILURES as error:
            raise self._unavailable(error)

    def _unavailable(self, error: Exception) -> DockerUnavailable:
        return DockerUnavailable(
            f"dockerd does not answer as expected: {first_line(error)}",
            self._socket,
            "look at 'journalctl -u docker' and run again",
        )

    def _get(self, path: str) -> t.Any:
        try:
            return get_json(self._connection, path)
        except NoSuchThing:
            return None

    def containers(self) -> t.List[Json]:
        listed: t.List[Json] = self.get("/containers/json?all=1") or []
        return listed

    def listed(self, attachment: Attachment) -> t.Optional[Json]:
        """The list's entry of the container that an attachment is of; None where it is no container's."""
        wanted = {"name": [f"^/{re.escape(attachment.name)}$"]}
        if CONTAINER_ID.match(attachment.key):
            wanted = {"id": [attachment.key]}
        elif attachment.kind != JOINING or not attachment.name:
            return None
        query = urllib.parse.urlencode({"all": 1, "filters": json.dumps(wanted)})
        found: t.List[Json] = self.get("/containers/json?" + query) or []
        return found[0] if len(found) == 1 else None

    def attached(self, network: Json, former: t.Optional[Attached] = None) -> Attached:
        """What is attached to a network, and was before. By its full id: by anything less dockerd asks Swarm's managers, too."""
        answer = self.get("/networks/" + urllib.parse.quote(network["Id"], safe="")) or {}
        return Attached(network["Name"], answer.get("Containers"), former)

    def inspects(self, names: t.Iterable[str]) -> t.Dict[str, t.Optional[Json]]:
        """What it says of each container; None: gone. Those it cannot inspect are `stuck`, and not in it.

        While a container starts, or hangs, dockerd holds the answer back. That must not hold up the others': they are asked for
        over other connections.
        """
        found: t.Dict[str, t.Optional[Json]] = {}
        if not self._tolerant:
            for name in names:
                self._take(name, found)
            return found
        waiting: t.Dict[str, UnixConnection] = {}
        try:
            for name in names:
                if self._asked(name):
                    self._take(name, found, self._connection)
                    continue
                waiting[name] = self._connection
                self._connection = UnixConnection(socket_path(self._socket), self._timeout)
                if len(waiting) == MAX_PARALLEL_REQUESTS:
                    self._wait(waiting, found)
            if self._waits:
                self._wait(waiting, found)
            else:
                self.outstanding.update(waiting)
                waiting.clear()
        finally:
            for connection in waiting.values():
                connection.close()
        return found

    def _asked(self, name: str) -> bool:
        """Whether the answer, or the connection's end, is there at once."""
        try:
            self._connection.request("GET", _inspect_path(name))
        except (OSError, http.client.HTTPException):
            return True
        return bool(_readable({name: self._connection}, SLOW_ANSWER_SECONDS))

    def _take(
        self, name: str, found: t.Dict[str, t.Optional[Json]], asked: t.Optional[UnixConnection] = None
    ) -> None:
        """What it says of one container, over a connection that has asked already or a new one, and twice if need be."""
        path = _inspect_path(name)
        if asked is not None:
            try:
                found[name] = get_answer(asked, path)
                return
            except NoSuchThing:
                found[name] = None
                return
            except _FAILURES:
                asked.close()
        try:
            found[name] = self._get(path)
        except socketlib.timeout as error:
            raise self._unavailable(error)
        except _FAILURES as error:
            self._connection.close()
            self.get("/_ping")  # unless it is dockerd itself that fails
            self.stuck[name] = first_line(error)

    def _wait(self, waiting: t.Dict[str, UnixConnection], found: t.Dict[str, t.Optional[Json]]) -> None:
        """Takes answers as long as they come; the rest is stuck, and `waiting` is empty."""
        patience = min(
            STUCK_AGAIN_SECONDS if self._known_stuck.issuperset(waiting) else STUCK_AFTER_SECONDS,
            self._timeout,
        )
        while waiting:
            ready = _readable(waiting, patience)
            if not ready:
                self.get("/_ping")  # unless it is dockerd itself that hangs
                break
            for name in ready:
                connection = waiting.pop(name)
                self._take(name, found, connection)
                connection.close()
        self.stuck.update(dict.fromkeys(waiting, ""))
        while waiting:
            waiting.popitem()[1].close()

    def root(self) -> str:
        """The folder of its files."""
        with contextlib.suppress(DockerUnavailable):  # a proxy before the socket may forbid this question
            return str((self.get("/info") or {}).get("DockerRootDir") or DEFAULT_ROOT)
        return DEFAULT_ROOT

    def networks(self) -> t.List[Json]:
        networks: t.List[Json] = self.get("/networks") or []
        return networks


def _inspect_path(name: str) -> str:
    return "/containers/%s/json" % urllib.parse.quote(name, safe="")


def _readable(connections: t.Mapping[str, UnixConnection], seconds: float) -> t.List[str]:
    """Those that have something to say within so many seconds."""
    with selectors.DefaultSelector() as selector:
        for name, connection in connections.items():
            selector.register(connection.sock, selectors.EVENT_READ, name)
        return [key.data for key, _events in selector.select(seconds)]


class Asking:
    """Inspects that dockerd has not answered yet, each over a connection of its own."""

    def __init__(self, socket: str, timeout: float) -> None:
        self._socket = socket
        self._timeout = timeout
        self._asked: t.Dict[
            str, t.Tuple[UnixConnection, float]
        ] = {}  # by id: and when, by the monotonic clock
        self._again: t.Set[str] = set()
        self._failed: t.Dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def ask_once(self, ident: str) -> None:
        """As ask(), unless it is asked about already."""
        if ident not in self._asked:
            self.ask(ident)

    def ask(self, ident: str) -> None:
        """One that is asked about already is asked about again afterwards: the answer may be of before."""
        if ident in self._asked:
            self._again.add(ident)
            return
        connection = UnixConnection(socket_path(self._socket), self._timeout)
        try:
            connection.request("GET", _inspect_path(ident))
        except _FAILURES as error:
            connection.close()
            self._failed[ident] = first_line(error)
        else:
            self._asked[ident] = connection, time.monotonic()

    def adopt(self, connections: t.Mapping[str, UnixConnection]) -> None:
        """Takes over connections that somebody else has asked on."""
        for ident, connection in connections.items():
            former = self._asked.pop(ident, None)
            if former is not None:
                former[0].close()
            self._asked[ident] = connection, time.monotonic()

    def sockets(self) -> t.List[t.Any]:
        return [connection.sock for connection, _since in self._asked.values() if connection.sock]

    def answered(self) -> bool:
        return bool(self._failed or self._ready())

    def answered_since(self, now: float) -> float:
        return min((self._asked[ident][1] for ident in self._ready()), default=now)

    def overdue(self) -> t.Set[str]:
        limit = time.monotonic() - OVERDUE_SECONDS
        return {ident for ident, (_connection, since) in self._asked.items() if since < limit}

    def take(self) -> t.Tuple[t.Dict[str, t.Optional[Json]], t.Dict[str, str]]:
        """The answers, None for a container that is gone; and what went wrong with others."""
        found: t.Dict[str, t.Optional[Json]] = {}
        failed, self._failed = self._failed, {}
        for ident in self._ready():
            connection, _since = self._asked.pop(ident)
            try:
                found[ident] = get_answer(connection, _inspect_path(ident))
            except NoSuchThing:
                found[ident] = None
            except _FAILURES as error:
                failed[ident] = first_line(error)
            finally:
                connection.close()
            if ident in self._again:
                self._again.discard(ident)
                if found.get(ident, ...) is not None:
                    self.ask(ident)
        return found, failed

    def close(self) -> None:
        while self._asked:
            self._asked.popitem()[1][0].close()
        self._again.clear()
        self._failed.clear()

    def _ready(self) -> t.List[str]:
        if not self._asked:
            return []
        return _readable({ident: asked[0] for ident, asked in self._asked.items()}, 0)
