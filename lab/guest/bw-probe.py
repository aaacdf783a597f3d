#!/usr/bin/env python3
"""Who reaches whom: real connections from inside network namespaces of a Docker host.

Reads a JSON list of probes (argument or standard input) and writes a JSON list of answers in the same order:

    {"from": "office", "to": "web", "port": 8080}

`from` is `host`, a container's name or a namespace of /run/netns; `to` is a container's name, or `host`,
its outside address. Optional: `host` (a literal address instead of `to`'s own), `proto` (tcp, udp, icmp;
default tcp), `family` (4, 6; default 4), `timeout` (seconds, default 5), `handshake` (true: a TCP
handshake is proof enough, for servers that are slow to speak or count unfinished logins, like sshd). An
answer repeats the probe and adds

    result   open     a byte came back: an echo, a greeting, a ping's reply
                      (a mere TCP handshake may be docker-proxy's)
             refused  somebody said no: a reset, an ICMP error, a close without a byte
             timeout  silence
             absent   nothing was sent: no such address, or no route to it from there
    host, detail, seconds, and `seen` (what the shop's server said about the client's address)

All probes run at once. Needs root, Python 3.9 and nothing else; touches nothing but its own sockets.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import http.client
import ipaddress
import json
import os
import selectors
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000
SIOCGIFADDR = 0x8915
UPLINK = "up0"
ABSENT_ERRNOS = {errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
ICMP = {4: (socket.AF_INET, socket.IPPROTO_ICMP, 8, 0), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6, 128, 129)}
HELLO = b"bw-probe\n"

Probe = dict[str, Any]


class DockerSocket(http.client.HTTPConnection):
    """Docker's API without its command line, whose start alone takes longer than all the probes."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect("/var/run/docker.sock")

    def containers(self) -> dict[str, Any]:
        """Running containers by name, as `docker inspect` shows them."""
        found = {}
        for item in self._get("/containers/json"):
            found[item["Names"][0].lstrip("/")] = self._get(f"/containers/{item['Id']}/json")
        return found

    def _get(self, path: str) -> Any:
        self.request("GET", path)
        return json.load(self.getresponse())


class Places:
    """Names, and what they stand for: namespaces and addresses."""

    def __init__(self) -> None:
        self.containers = DockerSocket("localhost").containers()
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)

    def enter(self, name: str) -> None:
        """Move this process into a namespace. Sockets stay in the one they were made in."""
        if name == "host":
            path = "/proc/1/ns/net"
        elif name in self.containers:
            path = f"/proc/{self.containers[name]['State']['Pid']}/ns/net"
        else:
            path = f"/run/netns/{name}"
        if not Path(path).exists():
            raise SystemExit(f"bw-probe: no running container and no network namespace is named {name!r}")
        handle = os.open(path, os.O_RDONLY)
        _setns(handle)
        os.close(handle)

    def leave(self) -> None:
        _setns(self.home)

    def address(self, source: str, target: str, family: int) -> str | None:
        """Where `source` finds `target`: on a network they share, else on the target's first one."""
        if target in self.containers:
            return self._container_address(source, target, family)
        return _interface_address(UPLINK, family) if target == "host" else None

    def _container_address(self, source: str, target: str, family: int) -> str | None:
        key = "IPAddress" if family == 4 else "GlobalIPv6Address"
        networks = self.containers[target]["NetworkSettings"]["Networks"]
        shared = (
            set(self.containers[source]["NetworkSettings"]["Networks"])
            if source in self.containers
            else set()
        )
        for name in sorted(networks, key=lambda name: (name not in shared, -_priority(name), name)):
            if networks[name][key]:
                return str(networks[name][key])
        return None


def _priority(network: str) -> int:
    """Of several networks an outsider tries the one in front."""
    return 1 if network == "frontend" else 0


def _setns(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns failed (are you root?)")


def _interface_address(interface: str, family: int) -> str | None:
    """The global address of an interface of this namespace."""
    if family == 4:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            try:
                answer = fcntl.ioctl(
                    any_socket.fileno(), SIOCGIFADDR, struct.pack("256s", interface.encode())
                )
            except OSError:
                return None
        return socket.inet_ntoa(answer[20:24])
    for line in Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines():
        digits, _, _, scope, _, device = line.split()
        if device == interface and scope == "00":
            return str(ipaddress.IPv6Address(int(digits, 16)))
    return None


class Attempt:
    """One probe on its way: a socket that is waited for until it has an answer or its time is up."""

    def __init__(self, probe: Probe, address: str | None) -> None:
        self.probe = {"proto": "tcp", "family": 4, "timeout": 5.0, **probe, "host": address}
        self.socket: socket.socket | None = None
        self.connected = False
        self.began = self.deadline = 0.0

    def begin(self) -> None:
        """Make the socket (in the current namespace) and send the first packet."""
        self.began = time.monotonic()
        self.deadline = self.began + float(self.probe["timeout"])
        if self.probe["host"] is None:
            self._end("absent", "no such address")
            return
        try:
            self._check_route()
        except OSError as error:
            self._end("absent", _name(error))
            return
        try:
            self._send()
        except OSError as error:
            self._end("refused", _name(error))

    def step(self, events: int) -> None:
        """React to what the socket has to say."""
        assert self.socket is not None
        try:
            if self.probe["proto"] == "tcp" and not self.connected:
                if code := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(code, os.strerror(code))
                self.connected = True
                if self.probe.get("handshake"):
                    self._end("open", "handshake")
                return
            if events & selectors.EVENT_READ:
                self._receive()
        except BlockingIOError:
            pass
        except OSError as error:
            self._end("refused", _name(error))

    def expire(self) -> None:
        self._end("timeout", "connected, but no byte came" if self.connected else "no answer")

    @property
    def done(self) -> bool:
        return "result" in self.probe

    @property
    def wants(self) -> int:
        waits_for_handshake = self.probe["proto"] == "tcp" and not self.connected
        return selectors.EVENT_WRITE if waits_for_handshake else selectors.EVENT_READ

    def _check_route(self) -> None:
        """Connecting a datagram socket looks up the route and sends nothing."""
        with socket.socket(self._domain(), socket.SOCK_DGRAM) as dry:
            try:
                dry.connect((self.probe["host"], 9))
            except OSError as error:
                if error.errno in ABSENT_ERRNOS:
                    raise

    def _send(self) -> None:
        proto = self.probe["proto"]
        if proto == "icmp":
            self._ping()
            return
        self.socket = socket.socket(
            self._domain(), socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM
        )
        self.socket.setblocking(False)
        code = self.socket.connect_ex((self.probe["host"], int(self.probe["port"])))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        if proto == "udp":
            self.socket.send(HELLO)

    def _ping(self) -> None:
        domain, protocol, request, _ = ICMP[int(self.probe["family"])]
        self.socket = socket.socket(domain, socket.SOCK_RAW, protocol)
        self.socket.setblocking(False)
        self.socket.connect((self.probe["host"], 0))
        head = struct.pack("!BBHHH", request, 0, 0, id(self) & 0xFFFF, 1)
        checksum = _checksum(head + HELLO) if domain == socket.AF_INET else 0  # the kernel sums up ICMPv6
        self.socket.send(struct.pack("!BBHHH", request, 0, checksum, id(self) & 0xFFFF, 1) + HELLO)

    def _receive(self) -> None:
        assert self.socket is not None
        data = self.socket.recv(2048)
        if self.probe["proto"] == "icmp":
            _, _, _, reply = ICMP[int(self.probe["family"])]
            message = data[(data[0] & 15) * 4 :] if self.probe["family"] == 4 else data
            if message[0] == reply and struct.unpack("!H", message[4:6])[0] == id(self) & 0xFFFF:
                self._end("open", "reply")
            return
        if not data:
            self._end("refused", "closed without a byte")
            return
        first = data.split(b"\n")[0].decode(errors="replace").strip()
        if " sees " in first:
            self.probe["seen"] = first.split(" sees ", 1)[1]
        self._end("open", first)

    def _domain(self) -> int:
        return socket.AF_INET if int(self.probe["family"]) == 4 else socket.AF_INET6

    def _end(self, result: str, detail: str) -> None:
        self.probe.update(result=result, detail=detail, seconds=round(time.monotonic() - self.began, 3))
        if self.socket:
            self.socket.close()
            self.socket = None


def _name(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error))


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def begin_all(probes: list[Probe], places: Places) -> list[Attempt]:
    """Start every probe, entering each namespace once."""
    attempts = [
        Attempt(
            probe,
            probe.get("host") or places.address(probe["from"], probe["to"], int(probe.get("family", 4))),
        )
        for probe in probes
    ]
    for name in sorted({probe["from"] for probe in probes}):
        places.enter(name)
        for attempt in attempts:
            if attempt.probe["from"] == name:
                attempt.begin()
    places.leave()
    return attempts


def finish(attempts: list[Attempt]) -> None:
    """Wait until each has an answer or has run out of time."""
    while waiting := [attempt for attempt in attempts if not attempt.done]:
        now = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for attempt in waiting:
                assert attempt.socket is not None
                selector.register(attempt.socket, attempt.wants, attempt)
            ready = selector.select(max(0.0, min(attempt.deadline for attempt in waiting) - now))
        for key, events in ready:
            key.data.step(events)
        for attempt in waiting:
            if not attempt.done and time.monotonic() >= attempt.deadline:
                attempt.expire()


def main() -> None:
    attempts = begin_all(json.loads(sys.argv[1]) if len(sys.argv) > 1 else json.load(sys.stdin), Places())
    finish(attempts)
    json.dump([attempt.probe for attempt in attempts], sys.stdout)
    print()


if __name__ == "__main__":
    main()
