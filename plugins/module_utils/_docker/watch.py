# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects the container facts: asks dockerd and the kernel, and asks again only about what changed.

collect_facts() asks about everything once, a Watch keeps the answers for the
agent.  facts.py makes the record of them.  Never enters a container's namespace and never changes anything: the port of a
container is found by the namespace number that its veth carries.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import selectors
import socket as socketlib
import typing as t
import urllib.parse

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import (
    NoSuchThing,
    UnixConnection,
    check_socket,
    first_line,
    get_answer,
    get_json,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import (
    DEFAULT_SOCKET,
    DEFAULT_TIMEOUT,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import (
    LIVE_STATES,
    _container_name,
    assemble,
    complete,
    network_parent,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.userland_proxy import userland_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link, Rtnl
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def collect_facts(
    socket: str = DEFAULT_SOCKET,
    timeout: float = DEFAULT_TIMEOUT,
    warn: t.Callable[[str], None] = lambda _text: None,
) -> Json:
    """The container facts of this host; `warn` gets a text for each container that dockerd cannot inspect."""
    watch = Watch(socket, timeout)
    facts = watch.facts()
    for text in watch.warnings():
        warn(text)
    return facts


class Watch:
    """The container facts, kept between the times that somebody asks for them.

    The first time dockerd is asked about every container, later only about those
    that an event names and those that its list shows changed.  Links are read
    anew each time.  After an error nothing is kept.  Containers that dockerd
    cannot inspect are `stuck`: taken as they were, or as the list has them, and
    asked about again.  A tolerant one treats those the same way that dockerd
    does not answer about at all.
    """

    def __init__(
        self, socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT, tolerant: bool = False
    ) -> None:
        self.socket = socket
        self.timeout = timeout
        self.tolerant = tolerant
        self.forget()

    def forget(self) -> None:
        """The next facts are asked for from scratch."""
        self.stuck: t.Dict[str, str] = {}  # by id: what dockerd said, "" where it did not answer
        self._answers: t.Optional[Json] = None
        self._facts: t.Optional[Json] = None
        self._nsids: t.Dict[str, int] = {}
        self._links: t.Dict[bytes, Link] = {}
        self._routes: t.Optional[t.Set[int]] = None

    def facts(self, containers: t.Optional[t.Collection[str]] = None, networks: bool = False) -> Json:
        """The facts; with `containers`, what else Docker has is taken to be as it was.

        The very same object as before where nothing has changed with those.
        """
        answers, former, before = self._answers, self._facts, self.stuck
        self._answers = self._facts = None
        with Daemon(self.socket, self.timeout, before if self.tolerant else None) as daemon:
            if answers is None:
                self._nsids = {}
                answers = _ask_all(daemon)
            elif containers is None:
                _ask_changed(daemon, answers, before)
            elif not _ask_about(daemon, answers, {*before, *containers}, networks) and former is not None:
                self._answers, self._facts = answers, former
                self.stuck = daemon.stuck
                return former
        self.stuck = daemon.stuck
        every = (inspect.get("NetworkSettings") or {} for inspect in answers["inspects"].values())
        sandboxes = [settings["SandboxKey"] for settings in every if settings.get("SandboxKey")]
        try:
            links, default_route_links = self._ask_kernel(sandboxes, containers is None)
        except OSError as error:
            raise BridgewardenError(
                f"the kernel does not tell its links: {error}",
                "rtnetlink",
                "look into the kernel log and run again",
            )
        facts = assemble(answers, links, default_route_links, self._nsids, _namespace_inodes(answers))
        self._answers = answers
        # A port that is still missing is looked for again.
        self._facts = facts if complete(facts) else None
        return facts

    def warnings(self) -> t.List[str]:
        """A text for each container that is stuck, of the last facts."""
        listed = (self._answers or {"containers": []})["containers"]
        return [
            f"dockerd cannot inspect the container {_container_name(entry, {})} ({self.stuck[entry['Id']] or 'no answer'}): the container "
            "is taken as dockerd's list has it; look at 'journalctl -u docker', then restart or remove it"
            for entry in listed
            if entry["Id"] in self.stuck
        ]

    def _ask_kernel(self, sandboxes: t.Sequence[str], routes: bool) -> t.Tuple[t.List[Link], t.List[str]]:
        with Rtnl() as rtnl:
            links = rtnl.links(self._links)
            names = {link.index: link.name for link in links}
            if routes or self._routes is None:
                self._routes = rtnl.default_routes()  # what a container does changes none
            default = [names[index] for index in self._routes if index in names and names[index] != "lo"]
            known = self._nsids
            # Docker never uses a sandbox's name twice.
            numbers = {path: known[path] if path in known else rtnl.nsid(path) for path in sandboxes}
        self._nsids = {path: number for path, number in numbers.items() if number >= 0}
        return links, default


# dockerd's side.


#: An answer about one container that takes longer does not hold up the next question.
SLOW_ANSWER_SECONDS = 0.05
#: dockerd's silence after which those still asked about are taken to hang; the second, for those that hung before.
STUCK_AFTER_SECONDS = 3.0
STUCK_AGAIN_SECONDS = 1.0
#: Each request has a connection of its own.
MAX_PARALLEL_REQUESTS = 200

_FAILURES = (OSError, ValueError, http.client.HTTPException)


class Daemon:
    """dockerd, over one connection where it answers: it is only ever asked, by GET."""

    def __init__(self, socket: str, timeout: float, stuck: t.Optional[t.Collection[str]] = None) -> None:
        self._socket = socket
        self._timeout = timeout
        self._connection = UnixConnection(socket_path(socket), timeout)
        self._tolerant = stuck is not None
        self._known_stuck = frozenset(stuck or ())
        self.stuck: t.Dict[str, str] = {}  # this time, as in Watch

    def __enter__(self) -> Daemon:
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
            self._wait(waiting, found)
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


def _ask_all(daemon: Daemon) -> Json:
    """What dockerd has: `inspects` only of live containers, `containers` of all, as in its list."""
    listed = daemon.containers()
    # Networks last: a container's network is then among them.
    inspects = _inspects(daemon, listed, {})
    return {
        "version": str((daemon.get("/version") or {}).get("Version") or ""),
        "userland_proxy": userland_proxy(),
        "containers": listed,
        "inspects": inspects,
        "networks": daemon.networks(),
    }


def _inspects(daemon: Daemon, listed: t.Sequence[Json], before: t.Mapping[str, Json]) -> t.Dict[str, Json]:
    live = {entry["Id"]: entry for entry in listed if entry.get("State") in LIVE_STATES}
    inspected = daemon.inspects(live)
    kept = {name: before.get(name) or _as_inspected(live[name]) for name in daemon.stuck if name in live}
    # One that has gone meanwhile is in neither.
    return {**{name: inspect for name, inspect in inspected.items() if inspect is not None}, **kept}


def _ask_changed(daemon: Daemon, answers: Json, again: t.Collection[str]) -> None:
    """Brings `answers` up to date by dockerd's list, which costs little however many containers there are."""
    before = {entry["Id"]: _listed_state(entry) for entry in answers["containers"]}
    listed = daemon.containers()
    changed = [
        entry for entry in listed if entry["Id"] in again or before.get(entry["Id"]) != _listed_state(entry)
    ]
    asked = _inspects(daemon, changed, answers["inspects"])
    same = {entry["Id"] for entry in listed} - {entry["Id"] for entry in changed}
    answers["inspects"] = {
        **{name: inspect for name, inspect in answers["inspects"].items() if name in same},
        **asked,
    }
    answers["containers"] = listed
    answers["networks"] = daemon.networks()


def _listed_state(entry: Json) -> Json:
    """What of a container's entry in the list tells that it changed: a new start has a new endpoint."""
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "names": entry.get("Names"),
        "state": entry.get("State"),
        "labels": entry.get("Labels"),
        "networks": {
            name: [network.get(key) for key in ("NetworkID", "EndpointID", "IPAddress", "GlobalIPv6Address")]
            for name, network in networks.items()
        },
        # Their order is not kept by dockerd.
        "ports": sorted(str(sorted(port.items())) for port in entry.get("Ports") or []),
    }


def _ask_about(daemon: Daemon, answers: Json, containers: t.Collection[str], networks: bool) -> bool:
    """Brings `answers` up to date about these containers; whether anything is new.

    dockerd answers about a container when it is done with it, as its list does not.
    """
    known = {network["Id"] for network in answers["networks"]}
    listed = {entry["Id"]: entry for entry in answers["containers"]}
    inspects = answers["inspects"]
    news = networks
    for name, inspect in daemon.inspects(sorted(containers)).items():
        before = inspects.pop(name, None)
        if inspect is None:
            news = news or name in listed
            listed.pop(name, None)
            continue
        entry = _as_listed(inspect)
        if entry["State"] in LIVE_STATES:
            inspects[name] = inspect
            news = news or _relevant_state(inspect) != _relevant_state(before)
        else:
            news = news or before is not None or _listed_state(entry) != _listed_state(listed.get(name) or {})
        listed[name] = entry
        theirs = entry["NetworkSettings"]["Networks"].values()
        networks = networks or bool({network.get("NetworkID") or "" for network in theirs} - known - {""})
    answers["containers"] = list(listed.values())
    if networks:
        answers["networks"] = daemon.networks()
    return news or networks


def _relevant_state(inspect: t.Optional[Json]) -> t.Any:
    """What of a container's record matters here: not its health, for one."""
    if inspect is None:
        return None
    settings, state = inspect.get("NetworkSettings") or {}, inspect.get("State") or {}
    return (
        _as_listed(inspect),
        state.get("Pid"),
        settings.get("SandboxKey"),
        settings.get("Ports"),
    )


def _as_inspected(entry: Json) -> Json:
    """A container's record as far as the list tells it: without its namespace, hence without its ports on bridges."""
    ports: t.Dict[str, t.List[Json]] = {}
    for port in entry.get("Ports") or []:
        if port.get("PublicPort"):
            binding = {"HostIp": port.get("IP") or "", "HostPort": str(port["PublicPort"])}
            ports.setdefault("{}/{}".format(port["PrivatePort"], port["Type"]), []).append(binding)
    return {
        "Id": entry["Id"],
        "NetworkSettings": {
            "Networks": (entry.get("NetworkSettings") or {}).get("Networks") or {},
            "Ports": ports,
        },
    }


def _as_listed(inspect: Json) -> Json:
    """A container's entry in the list, made of its own record."""
    config = inspect.get("Config") or {}
    settings = inspect.get("NetworkSettings") or {}
    return {
        "Id": inspect["Id"],
        "Names": [inspect.get("Name") or ""],
        "Image": config.get("Image"),
        "State": (inspect.get("State") or {}).get("Status") or "",
        "Labels": config.get("Labels"),
        "HostConfig": {"NetworkMode": (inspect.get("HostConfig") or {}).get("NetworkMode")},
        "NetworkSettings": {"Networks": settings.get("Networks") or {}},
    }


# The kernel's side.


def _namespace_inodes(answers: Json) -> t.Dict[str, int]:
    """The numbers of the namespaces' inodes, by which the kernel knows those behind a parent link."""
    behind = {network["Id"] for network in answers["networks"] if network_parent(network)}
    found = {}
    for inspect in answers["inspects"].values() if behind else ():
        settings = inspect.get("NetworkSettings") or {}
        path = settings.get("SandboxKey")
        if path and any(net.get("NetworkID") in behind for net in (settings.get("Networks") or {}).values()):
            with contextlib.suppress(OSError):  # the container has ended
                found[path] = os.stat(path).st_ino
    return found
