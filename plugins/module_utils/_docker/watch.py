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
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.answers import (
    about_to_run,
    ask_about,
    ask_all,
    ask_changed,
    note_inspect,
    settings_on_disk,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import (
    BUILD,
    JOINING,
    MESH,
    Attached,
    Attachment,
    new_ports,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.daemon import (
    CONTAINER_ID,
    Asking,
    Daemon,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import (
    DEFAULT_SOCKET,
    DEFAULT_TIMEOUT,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import (
    Assembler,
    LinkTable,
    _container_name,
    complete,
    network_bridge,
    network_parent,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import (
    Link,
    LinkChanges,
    Rtnl,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Containers that do not run and are asked about at once.
MAX_SETTINGS_ASKED = 16


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
                answers = ask_all(daemon)
            elif containers is None:
                ask_changed(daemon, answers, before)
            elif not ask_about(daemon, answers, {*before, *containers}, networks) and former is not None:
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
        self._read_settings(answers, about_to_run(answers))
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
            if ident not in answers["settings"] and CONTAINER_ID.match(ident):
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
                elif note_inspect(answers, listed, inspect, before):
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
