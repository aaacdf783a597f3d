# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Collects the container facts: asks dockerd and the kernel, and asks again only about what changed.

collect_facts() asks about everything once, a Watch keeps the answers for the
agent.  facts.py makes the record of them.  Never enters a container's namespace and never changes anything: the port of a
container is found by the namespace number that its veth carries, and before dockerd says which namespace is the
container's, by the MAC address behind the port.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import selectors
import socket as socketlib
import time
import typing as t
import urllib.parse

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import (
    BUILD,
    JOINING,
    MESH,
    Attached,
    Attachment,
    new_ports,
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
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import (
    DEFAULT_SOCKET,
    DEFAULT_TIMEOUT,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import (
    LIVE_STATES,
    Assembler,
    LinkTable,
    _container_name,
    complete,
    network_bridge,
    network_parent,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.userland_proxy import userland_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import (
    Link,
    LinkChanges,
    Rtnl,
)
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
    that an event names and those that its list shows changed.  After an error nothing is kept.  Containers that dockerd
    cannot inspect are `stuck`: taken as they were, or as the list has them, and
    asked about again.  A tolerant one treats those the same way that dockerd
    does not answer about at all.

    A Watch that follows (`follow()`) never waits for a container: dockerd holds an inspect back while the container starts.
    It asks and goes on; `sockets()` become readable when there is something for `update()` to take.  What a network lists
    tells it about a container before that.
    """

    def __init__(
        self, socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT, tolerant: bool = False
    ) -> None:
        self.socket = socket
        self.timeout = timeout
        self.tolerant = tolerant
        self._changes: t.Optional[LinkChanges] = None
        self._asking = Asking(socket, timeout)
        self.forget()

    def forget(self) -> None:
        """The next facts are asked for from scratch."""
        self.stuck: t.Dict[str, str] = {}  # by id: what dockerd said, "" where it did not answer
        #: Ports of Docker's bridges that have carrier, but whose attachment is not known yet.
        self.waiting: t.Dict[int, Link] = {}
        self._answers: t.Optional[Json] = None
        self._facts: t.Optional[Json] = None
        self._records: t.Dict[str, Json] = {}
        self._nsids: t.Dict[str, int] = {}
        self._known_links: t.Dict[bytes, Link] = {}
        self._links = LinkTable()
        self._links_are_current = False
        self._bound = Bound()
        self._foreign: t.Set[int] = set()  # bridges that are not Docker's
        self._stale_networks: t.Set[str] = set()  # a port of theirs has gone
        self._unbound: t.Set[str] = set()  # the endpoints that were there
        self._routes: t.Optional[t.Set[int]] = None
        self._no_settings_file = False
        self._asking.close()

    def follow(self) -> None:
        """From now on links are heard, and dockerd is not waited for. Raises BridgewardenError."""
        if self._changes is None:
            with _kernel_errors():
                self._changes = LinkChanges()

    def close(self) -> None:
        self._asking.close()
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def facts(self, containers: t.Optional[t.Collection[str]] = None, networks: bool = False) -> Json:
        """The facts; with `containers`, what else Docker has is taken to be as it was.

        The very same object as before where nothing has changed with those.
        """
        answers, former, before = self._answers, self._facts, self.stuck
        self._answers = self._facts = None
        follows = self._changes is not None
        with Daemon(self.socket, self.timeout, before if self.tolerant else None, not follows) as daemon:
            if answers is None:
                self._nsids = {}
                self._bound = Bound()
                answers = _ask_all(daemon)
            elif containers is None:
                _ask_changed(daemon, answers, before)
            elif not _ask_about(daemon, answers, {*before, *containers}, networks) and former is not None:
                self._answers, self._facts = answers, former
                self.stuck = daemon.stuck
                return former
            self._asking.adopt(daemon.outstanding)
        self.stuck = daemon.stuck
        self._foreign = set()
        with _kernel_errors(), Rtnl() as rtnl:
            self._read_links(rtnl, anew=True)
            if containers is None or self._routes is None:
                self._routes = rtnl.default_routes()  # what a container does changes none
            self._read_namespaces(rtnl, answers)
            self._bind(rtnl, answers)
        self._read_settings(answers, _about_to_run(answers))
        assembler = self._assembler(answers)
        records = (assembler.container(listed) for listed in answers["containers"])
        self._records = {record["Id"]: record for record in records if record is not None}
        facts = self._whole(assembler)
        self._answers = answers
        # A port that is still missing is looked for again.
        self._facts = facts if follows or complete(facts) else None
        if follows:
            self._ask_settings()
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

    # Following.

    def sockets(self) -> t.List[t.Any]:
        """What to wait for, besides Docker's events: then call hear() and update()."""
        return [*([self._changes] if self._changes else []), *self._asking.sockets()]

    def ask(self, containers: t.Iterable[str]) -> None:
        """Asks dockerd about these; update() takes the answers that have come."""
        for ident in containers:
            self._asking.ask(ident)

    def outstanding(self) -> bool:
        """Whether a container is asked about, for example because it is about to run."""
        return bool(self._asking)

    def answered(self) -> bool:
        """Whether there is an answer for update(), or a container has become stuck."""
        return self._asking.answered() or bool(self._asking.overdue() - set(self.stuck))

    def answered_since(self, now: float) -> float:
        """When the first of those was asked, by the monotonic clock."""
        return self._asking.answered_since(now)

    @property
    def follows(self) -> bool:
        return self._changes is not None

    def stale_networks(self) -> t.Set[str]:
        """Networks that a port has gone from: ask them when that has settled."""
        return self._stale_networks

    def hear(self) -> None:
        """Takes what the kernel says about links: `waiting` and `stale_networks()` are of now then."""
        if self._changes is None:
            return
        with _kernel_errors():
            news, lost = self._changes.read()
            if self._answers is None:
                self._links_are_current = False
            if not self._links_are_current:
                return  # the next facts read them all
            if lost:
                with Rtnl() as rtnl:
                    self._read_links(rtnl, anew=True)
        for link, there in () if lost else news:
            former = self._links.by_index.get(link.index)
            if there:
                self._links.put(link)
            else:
                self._links.drop(link.index)
            if former != link or not there:
                self._see(link, there, former)

    def _see(self, link: Link, there: bool, former: t.Optional[Link]) -> None:
        if there and self._is_candidate(link):
            self.waiting[link.index] = link
            return
        self.waiting.pop(link.index, None)
        if link.index in self._bound.endpoints and (not there or not link.master):
            self._unbound.add(self._bound.drop(link.index))
            network = self._network_of(former or link)  # it has left its bridge
            if network is not None:
                self._stale_networks.add(network["Id"])

    def _is_candidate(self, link: Link) -> bool:
        return (
            link.kind == "veth"
            and link.carrier
            and bool(link.master)
            and link.netnsid >= 0
            and link.index not in self._bound.endpoints
            and link.master not in self._foreign
        )

    def _network_of(self, link: Link) -> t.Optional[Json]:
        """The network whose bridge the link is a port of, as dockerd lists it."""
        bridge = self._links.by_index.get(link.master)
        if bridge is None or self._answers is None:
            return None
        for network in self._answers["networks"]:
            if network_bridge(network) == bridge.name:
                return t.cast(Json, network)
        return None

    def update(self, networks: bool = False, attached: t.Iterable[str] = ()) -> Json:
        """The facts, with dockerd's answers that have come by now, and what networks list that are named or have ports waiting.

        `networks`: which there are is asked anew. The very same object as before where nothing has changed. Follows facts().
        """
        answers, former = self._answers, self._facts
        if answers is None or former is None:
            return self.facts()
        self._answers = self._facts = None
        changed = self._take_answers(answers)
        self._answers = answers  # _network_of() looks at them
        with Daemon(self.socket, self.timeout, None, probe=False) as daemon:
            ports = list(self.waiting.values())
            if any(self._network_of(port) is None for port in ports):
                networks = True
            renewed = networks and self._ask_networks(daemon, answers)
            wanted = {*attached, *self._stale_networks}
            for port in ports:
                network = self._network_of(port)
                if network is None:
                    self._foreign.add(port.master)
                    self.waiting.pop(port.index, None)
                else:
                    wanted.add(network["Id"])
            changed |= self._without_ports(answers)
            for ident in sorted(wanted):
                changed |= self._ask_attached(daemon, answers, ident)
        with _kernel_errors(), Rtnl() as rtnl:
            if renewed:
                self._read_links(rtnl, anew=True)
            if changed or renewed:
                self._read_namespaces(rtnl, answers, changed)
            changed |= self._bind(rtnl, answers, changed)
        self._read_settings(answers, changed)
        self._facts = self._patched(answers, former, changed, renewed)
        self._ask_settings()
        return self._facts

    def _read_settings(self, answers: Json, containers: t.Iterable[str]) -> None:
        """Reads which ports these containers will publish, where that is not known.

        dockerd says so only when they run, unless it was asked before they began to start.  But it has written it down.
        """
        for ident in containers:
            if ident not in answers["settings"] and _CONTAINER_ID.match(ident):
                found = settings_on_disk(answers["root"], ident)
                if found is None:
                    self._no_settings_file = True
                else:
                    answers["settings"][ident] = found

    def _ask_settings(self) -> None:
        """Where they cannot be read: asks about a few containers that do not run, while they do not."""
        if not self._no_settings_file:
            return
        answers = self._answers or {"containers": ()}
        for entry in answers["containers"]:
            ident = entry["Id"]
            if len(self._asking) >= MAX_SETTINGS_ASKED:
                return
            if ident not in answers["settings"] and ident not in self.stuck:
                self._asking.ask_once(ident)

    def _without_ports(self, answers: Json) -> t.Set[str]:
        """The containers that a port has gone of."""
        whose = Whose(answers)
        changed = {
            whose(attached.by_endpoint[endpoint])
            for ident in self._stale_networks
            for attached in [answers["attached"].get(ident)]
            for endpoint in self._unbound
            if attached is not None and endpoint in attached.by_endpoint
        }
        self._stale_networks, self._unbound = set(), set()
        return changed

    def _take_answers(self, answers: Json) -> t.Set[str]:
        """Puts in what dockerd has answered; the containers that it changes something about."""
        found, failed = self._asking.take()
        changed: t.Set[str] = set()
        if found:
            listed = {entry["Id"]: entry for entry in answers["containers"]}
            for ident, inspect in found.items():
                self.stuck.pop(ident, None)
                before = answers["inspects"].pop(ident, None)
                if inspect is None:
                    listed.pop(ident, None)
                    answers["settings"].pop(ident, None)
                    changed.add(ident)
                elif _note(answers, listed, inspect, before):
                    changed.add(ident)
            answers["containers"] = list(listed.values())
        self.stuck.update(failed)
        self.stuck.update(dict.fromkeys(self._asking.overdue() - set(self.stuck), ""))
        return changed

    def _ask_networks(self, daemon: Daemon, answers: Json) -> bool:
        before = answers["networks"]
        answers["networks"] = daemon.networks()
        known = {network["Id"] for network in answers["networks"]}
        for ident in set(answers["attached"]) - known:
            del answers["attached"][ident]
        for network in answers["networks"]:
            if network_bridge(network) and network["Id"] not in answers["attached"]:
                answers["attached"][network["Id"]] = daemon.attached(network)
        self._foreign = set()
        return bool(before != answers["networks"])

    def _ask_attached(self, daemon: Daemon, answers: Json, ident: str) -> t.Set[str]:
        """Asks one network; the containers that it now lists otherwise."""
        network = next((one for one in answers["networks"] if one["Id"] == ident), None)
        if network is None or not network_bridge(network):
            return set()
        before = answers["attached"].get(ident) or Attached(network["Name"], None)
        now = answers["attached"][ident] = daemon.attached(network, before)
        if before == now:
            return set()
        whose = Whose(answers)
        changed: t.Set[str] = set()
        for one in now.different(before):
            owner = whose(one)
            if not owner and now.by_endpoint.get(one.endpoint) is one:
                entry = daemon.listed(one)
                if entry is not None:
                    answers["containers"].append(entry)
                    self._asking.ask(entry["Id"])
                    owner = entry["Id"]
                    whose = Whose(answers)
            changed.add(owner or one.key)
        return changed

    def _patched(self, answers: Json, former: Json, changed: t.Set[str], renewed: bool) -> Json:
        if not changed and not renewed:
            return former
        assembler = self._assembler(answers)
        for entry in answers["containers"]:
            if renewed or entry["Id"] in changed:
                record = assembler.container(entry)
                if record is None:
                    self._records.pop(entry["Id"], None)
                elif record != self._records.get(entry["Id"]):
                    self._records[entry["Id"]] = record
        for ident in self._records.keys() - {entry["Id"] for entry in answers["containers"]}:
            del self._records[ident]
        facts = self._whole(assembler)
        return former if facts == former else facts

    # The kernel's side.

    def _read_links(self, rtnl: Rtnl, anew: bool) -> None:
        """Every link; where links are followed only `anew`."""
        if not anew and self._links_are_current:
            return
        if self._changes is not None:
            self._changes.read()  # what they say is in the dump that follows
        self._links = LinkTable(rtnl.links(self._known_links))
        self._links_are_current = self._changes is not None
        for port in self._bound.endpoints.keys() - self._links.by_index.keys():
            self._bound.drop(port)

    def _read_namespaces(self, rtnl: Rtnl, answers: Json, containers: t.Optional[t.Set[str]] = None) -> None:
        """The numbers of the containers' namespaces: of `containers`, or of all."""
        inspects = answers["inspects"]
        wanted = inspects if containers is None else [ident for ident in containers if ident in inspects]
        settings = [inspects[ident].get("NetworkSettings") or {} for ident in wanted]
        paths = {one["SandboxKey"] for one in settings if one.get("SandboxKey")}
        # Docker never uses a sandbox's name twice.
        for path in self._nsids.keys() - paths if containers is None else ():
            del self._nsids[path]
        for path in paths - self._nsids.keys():
            number = rtnl.nsid(path)
            if number >= 0:
                self._nsids[path] = number

    def _bind(self, rtnl: Rtnl, answers: Json, containers: t.Optional[t.Set[str]] = None) -> t.Set[str]:
        """Finds the attachments of ports; the containers whose ports are new.

        First by the namespaces in the containers' own records, those of `containers` or all, then by the MAC addresses behind
        the ports that are left.
        """
        bridges = self._links.bridges
        index_of = {
            network["Id"]: bridges.get(network_bridge(network) or "", 0) for network in answers["networks"]
        }
        changed = self._bind_by_namespace(answers, index_of, containers)
        if containers is None:
            links = self._links.by_index.values()
            self.waiting = {link.index: link for link in links if self._is_candidate(link)}
        for port in [port for port in self.waiting if port in self._bound.endpoints]:
            del self.waiting[port]
        behind: t.Dict[int, t.Dict[int, str]] = {}
        for link in self.waiting.values():
            if link.master in index_of.values():
                behind.setdefault(link.master, {})[link.index] = rtnl.peer_address(link).hex(":")
            elif containers is None:
                self._foreign.add(link.master)
        whose = Whose(answers)
        for network in answers["networks"] if behind else ():
            attached = answers["attached"].get(network["Id"])
            ports = behind.get(index_of[network["Id"]])
            if not attached or not ports:
                continue
            for port, endpoint in new_ports(attached, ports, self._bound.ports).items():
                ident = whose(attached.by_endpoint[endpoint])
                if ident:  # else it is asked about again, and may have another name then
                    self._bound.put(port, endpoint)
                    changed.add(ident)
        self.waiting = {
            index: link
            for index, link in self.waiting.items()
            if index not in self._bound.endpoints and link.master not in self._foreign
        }
        return changed

    def _bind_by_namespace(
        self, answers: Json, index_of: t.Mapping[str, int], containers: t.Optional[t.Set[str]]
    ) -> t.Set[str]:
        changed: t.Set[str] = set()
        for ident in answers["inspects"] if containers is None else containers:
            settings = (answers["inspects"].get(ident) or {}).get("NetworkSettings") or {}
            nsid = self._nsids.get(settings.get("SandboxKey") or "", -1)
            for raw in (settings.get("Networks") or {}).values() if nsid >= 0 else ():
                link = self._links.of_namespace.get((nsid, index_of.get(raw.get("NetworkID") or "", 0)))
                endpoint = raw.get("EndpointID") or ""
                if link is None or not endpoint or self._bound.endpoints.get(link.index) == endpoint:
                    continue
                self._bound.put(link.index, endpoint)
                changed.add(ident)
        return changed

    def _assembler(self, answers: Json) -> Assembler:
        inodes = _namespace_inodes(answers)
        return Assembler(answers, self._links, self._nsids, inodes, self._bound.ports)

    def _whole(self, assembler: Assembler) -> Json:
        links = self._links.by_index
        names = [links[index].name for index in self._routes or () if index in links]
        default = [name for name in names if name != "lo"]
        return assembler.facts(self._records.values(), default)


class Bound:
    """Which port is which endpoint's; one each."""

    def __init__(self) -> None:
        self.endpoints: t.Dict[int, str] = {}  # by port
        self.ports: t.Dict[str, int] = {}  # by endpoint

    def put(self, port: int, endpoint: str) -> None:
        self.ports.pop(self.endpoints.pop(port, ""), None)
        self.endpoints.pop(self.ports.pop(endpoint, -1), None)
        self.endpoints[port], self.ports[endpoint] = endpoint, port

    def drop(self, port: int) -> str:
        endpoint = self.endpoints.pop(port)
        del self.ports[endpoint]
        return endpoint


class Whose:
    """The container, build step or sandbox that an attachment is of; "" while that is not known."""

    def __init__(self, answers: Json) -> None:
        self._containers = answers["containers"]
        self._idents: t.Optional[t.Set[str]] = None
        self._by_name: t.Optional[t.Dict[str, str]] = None

    def __call__(self, one: Attachment) -> str:
        if one.kind in (BUILD, MESH):
            return one.key
        if one.kind == JOINING:
            if self._by_name is None:
                self._by_name = {_container_name(entry, {}): entry["Id"] for entry in self._containers}
            return self._by_name.get(one.name, "")
        if self._idents is None:
            self._idents = {entry["Id"] for entry in self._containers}
        return one.key if one.key in self._idents else ""


@contextlib.contextmanager
def _kernel_errors() -> t.Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BridgewardenError(
            f"the kernel does not tell its links: {error}",
            "rtnetlink",
            "look into the kernel log and run again",
        )


# dockerd's side.


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
#: Containers that do not run and are asked about at once.
MAX_SETTINGS_ASKED = 16

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}\Z")
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
        if _CONTAINER_ID.match(attachment.key):
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


def _ask_all(daemon: Daemon) -> Json:
    """What dockerd has: `inspects` only of live containers, `containers` of all, as in its list."""
    listed = daemon.containers()
    answers: Json = {
        "version": str((daemon.get("/version") or {}).get("Version") or ""),
        "userland_proxy": userland_proxy(),
        "containers": listed,
        "inspects": {},
        "settings": {},  # by id: what of a container's configuration counts before it runs
        "root": daemon.root(),
    }
    answers["inspects"] = _inspects(daemon, listed, answers)
    # Networks last: a container's network is then among them.
    answers["networks"] = daemon.networks()
    answers["attached"] = _ask_attached(daemon, answers["networks"])
    return answers


def _ask_attached(daemon: Daemon, networks: t.Iterable[Json]) -> t.Dict[str, Attached]:
    """By network: what is attached to those that have a bridge."""
    return {network["Id"]: daemon.attached(network) for network in networks if network_bridge(network)}


def _inspects(daemon: Daemon, listed: t.Sequence[Json], answers: Json) -> t.Dict[str, Json]:
    before = answers["inspects"]
    live = {entry["Id"]: entry for entry in listed if entry.get("State") in LIVE_STATES}
    inspected = {name: inspect for name, inspect in daemon.inspects(live).items() if inspect is not None}
    for name, inspect in inspected.items():
        answers["settings"][name] = _settings(inspect)
    unknown = (name for name in (*daemon.stuck, *daemon.outstanding) if name in live)
    kept = {name: before.get(name) or _as_inspected(live[name]) for name in unknown}
    # One that has gone meanwhile is in neither.
    return {**{name: _gist(inspect) for name, inspect in inspected.items()}, **kept}


def _ask_changed(daemon: Daemon, answers: Json, again: t.Collection[str]) -> None:
    """Brings `answers` up to date by dockerd's list, which costs little however many containers there are."""
    before = {entry["Id"]: _listed_state(entry) for entry in answers["containers"]}
    listed = daemon.containers()
    changed = [
        entry for entry in listed if entry["Id"] in again or before.get(entry["Id"]) != _listed_state(entry)
    ]
    asked = _inspects(daemon, changed, answers)
    same = {entry["Id"] for entry in listed} - {entry["Id"] for entry in changed}
    answers["inspects"] = {
        **{name: inspect for name, inspect in answers["inspects"].items() if name in same},
        **asked,
    }
    there = {entry["Id"] for entry in listed}
    answers["settings"] = {name: value for name, value in answers["settings"].items() if name in there}
    answers["containers"] = listed
    answers["networks"] = daemon.networks()
    answers["attached"] = _ask_attached(daemon, answers["networks"])


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
    news = networks
    for name, inspect in daemon.inspects(sorted(containers)).items():
        before = answers["inspects"].pop(name, None)
        if inspect is None:
            news = news or name in listed
            listed.pop(name, None)
            answers["settings"].pop(name, None)
            continue
        news = _note(answers, listed, inspect, before) or news
        theirs = ((inspect.get("NetworkSettings") or {}).get("Networks") or {}).values()
        networks = networks or bool({network.get("NetworkID") or "" for network in theirs} - known - {""})
    answers["containers"] = list(listed.values())
    if networks:
        answers["networks"] = daemon.networks()
    if news or networks:
        answers["attached"] = _ask_attached(daemon, answers["networks"])
    return news or networks


def _note(answers: Json, listed: t.Dict[str, Json], inspect: Json, before: t.Optional[Json]) -> bool:
    """Puts one container's record in; whether it has anything new. `before` is its former one, which is taken out already."""
    name = inspect["Id"]
    entry = _as_listed(inspect)
    news = name not in answers["settings"]
    answers["settings"][name] = _settings(inspect)
    if entry["State"] in LIVE_STATES:
        answers["inspects"][name] = _gist(inspect)
        news = news or _relevant_state(inspect) != _relevant_state(before)
    else:
        news = news or before is not None or _listed_state(entry) != _listed_state(listed.get(name) or {})
    listed[name] = entry
    return news


def _settings(inspect: Json) -> Json:
    """What of a container's configuration counts before it runs."""
    settings = inspect.get("HostConfig") or {}
    return {key: settings[key] for key in ("PortBindings", "PublishAllPorts") if settings.get(key)}


def _about_to_run(answers: Json) -> t.List[str]:
    """The containers that do not run, but are attached to a network."""
    attached = answers["attached"].values()
    idents = {ident for one in attached for ident in one.of_container}
    names = {name for one in attached for name in one.joining}
    return [
        entry["Id"]
        for entry in answers["containers"]
        if entry.get("State") not in LIVE_STATES
        and (entry["Id"] in idents or (names and _container_name(entry, {}) in names))
    ]


def settings_on_disk(root: str, ident: str) -> t.Optional[Json]:
    """The same, from dockerd's own file; None where that cannot be read."""
    try:
        with open(os.path.join(root, "containers", ident, "hostconfig.json"), "rb") as handle:
            return _settings({"HostConfig": json.loads(handle.read())})
    except (OSError, ValueError, AttributeError):
        return None


def _gist(inspect: Json) -> Json:
    """What of a container's record is kept: nothing of its environment, for one."""
    state, settings = inspect.get("State") or {}, inspect.get("NetworkSettings") or {}
    config = inspect.get("Config") or {}
    return {
        "Id": inspect.get("Id"),
        "Name": inspect.get("Name"),
        "State": {key: state.get(key) for key in ("Status", "Pid")},
        "Config": {key: config.get(key) for key in ("Image", "Labels")},
        "HostConfig": {"NetworkMode": (inspect.get("HostConfig") or {}).get("NetworkMode")},
        "NetworkSettings": {key: settings.get(key) for key in ("SandboxKey", "Networks", "Ports")},
    }


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
