# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How people come to this host: sshd's open sessions, the links they run over, and where sshd listens.

Reads /proc, rtnetlink, and systemd for a port that ssh.socket holds.  Where no
sshd is found everything is empty but the session of this very process, which
its ancestors' SSH_CONNECTION tells.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import shutil
import socket
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import EVERY_ADDRESS
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import sockets
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Rtnl
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import run

#: sshd; sshd-session for its sessions since OpenSSH 9.8, sshd-auth before them since 10.0.
SSHD_NAME = "sshd"

#: How the processes of a connection that has not logged in call themselves. Anybody may have one, from anywhere.
_NOT_YET = ("[accepted]", "[net]")

SOCKET_UNITS = ("ssh.socket", "sshd.socket")


class SshSession(t.NamedTuple):
    """One connection to sshd."""

    peer: str
    server: str  # the host's address
    port: int
    links: t.Tuple[str, ...] = ()  # that has the host's address, and that the peer is routed over


class SshListener(t.NamedTuple):
    address: str  # 0.0.0.0 or :: for any
    port: int

    def serves(self, address: str) -> bool:
        """Whether it takes connections to this address of the host. A listener at :: takes those over IPv4 too."""
        if ipaddress.ip_address(self.address).is_unspecified:
            return ":" in self.address or ":" not in address
        return self.address == address


class Sshd(t.NamedTuple):
    sessions: t.Tuple[SshSession, ...] = ()
    listeners: t.Tuple[SshListener, ...] = ()
    addresses: t.Tuple[
        t.Tuple[str, str], ...
    ] = ()  # (link, address) of the host, without the loopback link's


def find_sshd(proc: str = "/proc", pid: t.Optional[int] = None) -> Sshd:
    """What is so now. `pid` is the process whose own session counts too."""
    processes = list(_processes(proc))
    table = _Table(processes, os.path.join(proc, "self/net"))
    listeners = {*table.listeners(), *listeners_of_units()}
    own = controller_connection(pid, proc)
    found = table.sessions({listener.port for listener in listeners}, _ephemeral(proc))
    try:
        with Rtnl() as rtnl:
            places = _Places(rtnl)
            sessions = [places.session(*ends) for ends in found]
            if own is not None and not any(session and session[:3] == own[:3] for session in sessions):
                sessions.append(places.session(*own[:4]))
            return Sshd(
                tuple(session for session in sessions if session is not None),
                tuple(sorted(listener for listener in listeners if not _loopback(listener.address))),
                tuple(places.addresses),
            )
    except OSError as error:
        raise BridgewardenError(
            f"cannot read addresses and routes from the kernel: {error}",
            "rtnetlink",
            "look into the kernel log and run again",
        )


def links_towards(addresses: t.Iterable[str]) -> t.Dict[str, t.Tuple[str, ...]]:
    """For each address the links that a packet to it goes out by; none for this host's own, and where there is no route."""
    found: t.Dict[str, t.Tuple[str, ...]] = {}
    try:
        with Rtnl() as rtnl:
            places = _Places(rtnl)
            for address in addresses:
                unspecified = EVERY_ADDRESS[6 if ":" in address else 4]
                session = places.session(address, unspecified, 0)
                found[address] = session.links if session is not None else ()
    except OSError as error:
        raise BridgewardenError(
            f"cannot read addresses and routes from the kernel: {error}",
            "rtnetlink",
            "look into the kernel log and run again",
        )
    return found


# Whose sockets they are.


class _Process(t.NamedTuple):
    master: bool  # which listens for sessions; what the others listen on they forward
    not_yet: bool
    inodes: t.FrozenSet[int]


def _processes(proc: str) -> t.Iterator[_Process]:
    for entry in os.listdir(proc):
        if not entry.isdigit() or not _name(proc, entry).startswith(SSHD_NAME):
            continue
        title = _read(proc, entry, "cmdline").replace("\0", " ").strip()
        parent = str(_parent(int(entry), proc))
        yield _Process(
            _name(proc, entry) == SSHD_NAME and not _name(proc, parent).startswith(SSHD_NAME),
            title.endswith(_NOT_YET),
            frozenset(_socket_inodes(proc, entry)),
        )


def _socket_inodes(proc: str, pid: str) -> t.Iterator[int]:
    folder = os.path.join(proc, pid, "fd")
    with contextlib.suppress(OSError):  # it has just ended
        for handle in os.listdir(folder):
            with contextlib.suppress(OSError):
                match = re.match(r"socket:\[(\d+)\]", os.readlink(os.path.join(folder, handle)))
                if match:
                    yield int(match.group(1))


class _Table:
    """The rows of this namespace's TCP tables that an sshd has open; a container's sshd has none in them."""

    def __init__(self, processes: t.Sequence[_Process], proc: str) -> None:
        self._not_yet = frozenset(inode for one in processes if one.not_yet for inode in one.inodes)
        self._master = frozenset(inode for one in processes if one.master for inode in one.inodes)
        every = frozenset(inode for one in processes for inode in one.inodes)
        self._rows = [row for row in _socket_rows(proc) if int(row[sockets.INODE]) in every] if every else []

    def _listening(self, master: bool) -> t.Iterator[t.List[str]]:
        for row in self._rows:
            owned = int(row[sockets.INODE]) in self._master
            if int(row[sockets.STATE], 16) == sockets.LISTEN and owned == master:
                yield row

    def listeners(self) -> t.Iterator[SshListener]:
        for row in self._listening(True):
            local = row[sockets.LOCAL]
            yield SshListener(_address_text(sockets.address_of(local)), sockets.port_of(local))

    def sessions(self, ports: t.Set[int], ephemeral: range) -> t.List[t.Tuple[str, str, int, str]]:
        """What a session forwards is none: it begins at an ephemeral port, or comes in where sshd's child listens."""
        forwarded = {sockets.port_of(row[sockets.LOCAL]) for row in self._listening(False)} - ports
        found = []
        for row in self._rows:
            port = sockets.port_of(row[sockets.LOCAL])
            if (
                int(row[sockets.STATE], 16) == sockets.ESTABLISHED
                and int(row[sockets.INODE]) not in self._not_yet
                and (port in ports or (port not in ephemeral and port not in forwarded))
            ):
                ends = (sockets.address_of(row[field]) for field in (sockets.REMOTE, sockets.LOCAL))
                peer, server = (_address_text(address) for address in ends)
                found.append((peer, server, port, ""))
        return found


def _socket_rows(proc: str) -> t.Iterator[t.List[str]]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(FileNotFoundError):  # a host may be without IPv6
            yield from sockets.socket_rows(name, proc)


def _ephemeral(proc: str) -> range:
    words = _read(proc, "sys/net/ipv4/ip_local_port_range").split()
    return range(int(words[0]), int(words[1]) + 1) if len(words) == 2 else range(32768, 61000)


def listeners_of_units() -> t.Set[SshListener]:
    """Where systemd listens for sshd."""
    if not shutil.which("systemctl"):
        return set()
    _code, out, _err = run(["systemctl", "show", "-p", "ActiveState", "-p", "Listen", *SOCKET_UNITS])
    found: t.Set[SshListener] = set()
    for unit in out.split("\n\n"):
        if "ActiveState=active" in unit.splitlines():
            for address, port in re.findall(r"^Listen=\[?(\S*?)\]?:(\d+) \(Stream\)$", unit, re.MULTILINE):
                with contextlib.suppress(ValueError):
                    found.add(SshListener(_plain(address), int(port)))
    return found


# Over which links.


class _Places:
    def __init__(self, rtnl: Rtnl) -> None:
        self._rtnl = rtnl
        self._links = {link.index: link for link in rtnl.links()}
        self.addresses = [one for one in self._named(rtnl.addresses()) if one[0] != "lo"]
        self._neighbours = set(self._named(rtnl.neighbours()))

    def _named(self, found: t.Iterable[t.Tuple[int, bytes]]) -> t.Iterator[t.Tuple[str, str]]:
        for index, address in found:
            if index in self._links:
                yield self._links[index].name, _address_text(address)

    def session(self, peer: str, server: str, port: int, scope: str = "") -> t.Optional[SshSession]:
        """None for one from the host itself."""
        names = {scope} if scope else {name for name, address in self.addresses if address == server}
        if ipaddress.ip_address(peer).is_link_local:
            # The tables do not have the scope, and the host's address may be on several links, as of a bridge and its port.
            names = {name for name in names if (name, peer) in self._neighbours} or names
        else:
            route = self._route(peer, server)
            if route is not None:
                index, to_itself = route
                if to_itself:
                    return None
                if index in self._links:
                    names.add(self._links[index].name)
        # What comes in by a port of a bridge is the bridge's.
        for link in list(self._links.values()):
            if link.name in names and link.master in self._links:
                names.add(self._links[link.master].name)
        return SshSession(peer, server, port, tuple(sorted(names)))

    def _route(self, peer: str, server: str) -> t.Optional[t.Tuple[int, bool]]:
        with contextlib.suppress(OSError):  # no way back, or not from that address
            return self._rtnl.route(_packed(peer), _packed(server))
        return None


def _packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def _loopback(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback


def _address_text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


# The session of this process.


class Controller(t.NamedTuple):
    """The SSH connection that a process descends from."""

    client: str
    server: str
    port: int  # of the server
    link: str  # of a link-local client
    client_port: int


def controller_connection(pid: t.Optional[int] = None, proc: str = "/proc") -> t.Optional[Controller]:
    """None without one.

    sudo drops SSH_CONNECTION from the environment, so the ancestors are asked.
    """
    texts = [os.environ.get("SSH_CONNECTION", "")] if pid is None else []
    current = pid or os.getpid()
    while current > 1:
        texts.append(_environment(current, proc).get("SSH_CONNECTION", ""))
        current = _parent(current, proc)
    for text in texts:
        parts = text.split()
        if len(parts) == 4:  # "UNKNOWN" where sshd has no socket
            with contextlib.suppress(ValueError):
                client, server = _plain(parts[0]), _plain(parts[2])
                return Controller(
                    client, server, _port(parts[3]), parts[0].partition("%")[2], _port(parts[1])
                )
    return None


def _port(text: str) -> int:
    number = int(text)
    if not 0 < number < 65536:
        raise ValueError(text)
    return number


def _plain(text: str) -> str:
    address = ipaddress.ip_address(text.split("%", 1)[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _environment(pid: int, proc: str) -> t.Dict[str, str]:
    pairs = (item.partition("=") for item in _read(proc, str(pid), "environ").split("\0"))
    return {key: value for key, _equals, value in pairs}


def _parent(pid: int, proc: str) -> int:
    stat = _read(proc, str(pid), "stat")
    fields = stat.rpartition(")")[2].split()  # the name before may hold blanks and brackets
    return int(fields[1]) if len(fields) > 1 else 0


def _name(proc: str, pid: str) -> str:
    return _read(proc, pid, "comm").rstrip("\n")


def _read(*path: str) -> str:
    try:
        return Path(*path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
