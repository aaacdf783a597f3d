# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests' hands inside the machine: one JSON request a line on standard input, one JSON answer a line.

A request is {"do": NAME, ...}; each function below that is marked `@request` answers one name. Commits policies through the
collection's own library, makes connections through bw-probe, sends raw packets from any namespace and looks for them in
others. Runs as root in a throw-away machine; Python 3.9 and what the collection needs on a host, nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bw_probe
from ansible_collections.bridgewarden.docker.plugins.module_utils import _errors as _errors
from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Reason
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import apply_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import explain_peers
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import CommitOptions, make_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import store as _store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.filters import TraceOptions
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.session import Trace

Json = dict[str, Any]
REQUESTS: dict[str, Callable[..., Any]] = {}
ETH_P_ALL = 3
ETH_P_MARKER = 0x88B5  # for local experiments: nobody here judges it, every bridge carries it
PATIENCE = 60  # seconds, for what must come
PACKET_OUTGOING = 4
SIOCGIFHWADDR = 0x8927
IP_MTU, IPV6_MTU = 14, 24
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_DO = 10, 23, 2


def request(function: Callable[..., Any]) -> Callable[..., Any]:
    REQUESTS[function.__name__] = function
    return function


class Cache:
    """What Docker says; asked again only after something was run here."""

    facts: Json | None = None
    places: bw_probe.Places | None = None

    @classmethod
    def drop(cls) -> None:
        cls.facts = cls.places = None


@request
def facts() -> Json:
    if Cache.facts is None:
        Cache.facts = collect_facts()
    return Cache.facts


def places() -> bw_probe.Places:
    if Cache.places is None:
        Cache.places = bw_probe.Places()
    return Cache.places


@contextlib.contextmanager
def inside(name: str) -> Any:
    places().enter(name)
    try:
        yield
    finally:
        places().leave()


# Policies


@request
def apply(policy: Json, force: bool = False, dry_run: bool = False, confirm: int = 0) -> Json:
    """Through the very calls of the policy module; errors come back as records."""
    try:
        wanted = make_plan(policy, facts())
        with Kernel() as kernel:
            result = apply_plan(
                wanted, kernel, _store.Store(), dry_run, confirm, options=CommitOptions(force=force)
            )
        return {"generation": result.generation, "warnings": wanted.warnings}
    except _errors.BridgewardenError as error:
        return {"error": error.text(), "kind": type(error).__name__}


@request
def counters() -> dict[str, int]:
    """Packets of each rule by its name, and of each built-in reason by the name it has in the kernel's header."""
    with Kernel() as kernel:
        return {
            Reason(row.index).name.lower() if row.builtin else row.name: row.packets for row in kernel.rules()
        }


#: States of TCP in which an end sends something by itself, as /proc/net/tcp numbers them: FIN_WAIT1, LAST_ACK, CLOSING; elsewhere
#: than on the host also CLOSE_WAIT, which docker-proxy keeps for minutes while it waits for a container.
CLOSING, CLOSE_WAIT = {4, 9, 11}, 8
RETRANSMITS = ("01", "04")
SSH = ":0016"


def moving() -> list[str]:
    """The connections that end, or repeat what nobody has acknowledged, anywhere on this machine, as /proc/net/tcp has them."""
    found = []
    for name in ["host", *places().containers, *os.listdir("/run/netns")]:
        with inside(name):
            for table in ("tcp", "tcp6"):
                for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
                    words = line.split()
                    state, timer = int(words[3], 16), words[5][:2]
                    closing = state in CLOSING or (state == CLOSE_WAIT and name != "host")
                    if not words[1].endswith(SSH) and (closing or (state == 1 and timer in RETRANSMITS)):
                        found.append(f"{name}: {line}")
    return found


def rest() -> None:
    """Waits until no connection moves by itself."""
    end = time.monotonic() + PATIENCE
    while still := moving():
        if time.monotonic() > end:
            raise RuntimeError(f"connections still move after {PATIENCE} s: {still}")
        time.sleep(0.02)


@request
def settled() -> dict[str, int]:
    """The counters, once everything is counted that came before: no connection moves, and they stay as they are."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        rest()
        found = []
        for _ in range(3):
            found.append(counters())
            time.sleep(0.02)
        if found[0] == found[1] == found[2]:
            return found[0]
    raise RuntimeError(f"the counters still change after {PATIENCE} s: {found}")


@request
def explain(flows: list[list[Any]]) -> list[Any]:
    with Kernel() as kernel:
        return [explain_peers(kernel, facts(), *flow) for flow in flows]


# Connections


@request
def probe(probes: list[Json]) -> list[Json]:
    attempts = bw_probe.begin_all(probes, places())
    bw_probe.finish(attempts)
    return [attempt.probe for attempt in attempts]


@request
def trace(options: Json, probes: list[Json], seconds: float = 1.0) -> Json:
    """What a trace records while the probes run, and so long after them."""
    try:
        with Trace(TraceOptions(**options)) as running:
            results = probe(probes)
            time.sleep(seconds)
            rest()
            running.stop()
            paths = list(running.paths())
            return {"results": results, "paths": paths, "summary": running.summary(), "hooks": running.hooks}
    except _errors.BridgewardenError as error:
        return {"error": error.text(), "kind": type(error).__name__}


FLOWS: dict[str, socket.socket] = {}


@request
def connect(flows: list[Json], seconds: float = 8) -> dict[str, str]:
    """Open connections that stay open: {"id", "from", "host", "port", "proto", "source_port"}."""
    said = {}
    for flow in flows:
        family = socket.AF_INET6 if ":" in flow["host"] else socket.AF_INET
        kind = socket.SOCK_STREAM if flow.get("proto", "tcp") == "tcp" else socket.SOCK_DGRAM
        with inside(flow["from"]):
            sock = socket.socket(family, kind)
        # Its close sends a reset, once, and keeps nothing to repeat.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.settimeout(seconds)
        try:
            sock.bind(("", int(flow.get("source_port", 0))))
            sock.connect((flow["host"], flow["port"]))
            FLOWS[flow["id"]] = sock
            said[flow["id"]] = "connected"
        except OSError as error:
            said[flow["id"]] = str(error)
    return said


@request
def talk(ids: list[str], text: str, seconds: float = 2.5) -> dict[str, str]:
    """Sends the text over each flow: did it come back? yes, no (silence), or an error's name."""
    said: dict[str, str] = {}
    for name in ids:
        try:
            FLOWS[name].send(text.encode() + b"\n")
        except OSError as error:
            said[name] = type(error).__name__
    got = dict.fromkeys(ids, b"")
    end = time.monotonic() + seconds
    while waiting := [name for name in ids if name not in said]:
        ready, _, _ = select.select([FLOWS[n] for n in waiting], [], [], max(0, end - time.monotonic()))
        if not ready:
            break
        for name in waiting:
            if FLOWS[name] not in ready:
                continue
            try:
                data = FLOWS[name].recv(4096)
            except OSError as error:
                said[name] = type(error).__name__
                continue
            got[name] += data
            if text.encode() in got[name]:
                said[name] = "yes"
            elif not data:
                said[name] = "closed"
    return {name: said.get(name, "no") for name in ids}


@request
def path_mtu(ids: list[str]) -> dict[str, int]:
    """The path MTU each flow's socket believes in."""
    return {name: _mtu(FLOWS[name]) for name in ids}


def _mtu(sock: socket.socket) -> int:
    if sock.family == socket.AF_INET6:
        return sock.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU)
    return sock.getsockopt(socket.IPPROTO_IP, IP_MTU)


@request
def send_large(id: str, size: int) -> str:
    """A datagram that must not be fragmented on its way."""
    sock = FLOWS[id]
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DO)
    try:
        sock.send(b"x" * size)
        return "sent"
    except OSError as error:
        return bw_probe._name(error)


@request
def pending_error(id: str) -> str:
    """What the network said about this flow, for example ECONNREFUSED by an ICMP error."""
    code = FLOWS[id].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    return bw_probe._name(OSError(code, "")) if code else ""


@request
def close(ids: list[str]) -> None:
    for name in ids:
        FLOWS.pop(name).close()


@request
def listen(at: str, port: int, proto: str = "tcp") -> None:
    """A server that greets and echoes, like those in the containers."""
    with inside(at):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_STREAM if proto == "tcp" else socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("::", port))
    if proto == "tcp":
        sock.listen(64)
    threading.Thread(target=_serve_tcp if proto == "tcp" else _serve_udp, args=(sock,), daemon=True).start()


def _serve_tcp(sock: socket.socket) -> None:
    while True:
        client, _ = sock.accept()
        threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        client.send(b"bench\n")
        while data := client.recv(4096):
            client.send(data)


def _serve_udp(sock: socket.socket) -> None:
    while True:
        data, peer = sock.recvfrom(65536)
        with contextlib.suppress(OSError):
            sock.sendto(b"bench\n" + data[:1024], peer)


# Raw packets


def _devices() -> dict[str, str]:
    """The devices of the namespace we are in: hardware address -> name."""
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            answer = fcntl.ioctl(any_socket.fileno(), SIOCGIFHWADDR, struct.pack("256s", name.encode()))
            found[":".join(f"{byte:02x}" for byte in answer[18:24])] = name
    return found


def _mac(place: str, network: str) -> str:
    """The hardware address of a container on a network, of a network's bridge ("gateway"), or of a namespace's eth0."""
    for container in facts()["containers"]:
        if container["Name"] == place:
            return str(container["Networks"][network]["MacAddress"])
    if place == "gateway":
        bridge = next((n["Bridge"] for n in facts()["networks"] if n["Name"] == network), "up0")
        return Path(f"/sys/class/net/{bridge}/address").read_text().strip()
    with inside(place):
        return next(mac for mac, name in _devices().items() if name == "eth0")


@request
def macs(of: list[list[str]]) -> list[str]:
    return [_mac(place, network) for place, network in of]


@request
def shoot(shots: list[Json], seconds: float = 1.0) -> list[list[str]]:
    """Sends packets and says for each in which of the namespaces `at` it (or what `want` describes) came in.

    A shot: {"from", "network", "via", "l3": [hex, ...], "want": hex, "at": [namespace, ...]}. All are sent, then all are
    waited for: `seconds`, and until frames came that were sent the same way behind them. `from` is a container or
    office/stranger; `via` a container on that network, or "gateway".
    """
    names = {place for shot in shots for place in shot["at"]} | {shot["from"] for shot in shots}
    ears: dict[str, socket.socket] = {}
    devices: dict[str, dict[str, str]] = {}
    for name in sorted(names):
        with inside(name):
            ears[name] = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
            ears[name].setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
            devices[name] = _devices()
    for shot in shots:
        source = shot.get("mac") or _mac(shot["from"], shot["network"])
        own = _mac(shot["from"], shot["network"])
        header = bytes.fromhex((_mac(shot["via"], shot["network"]) + source).replace(":", ""))
        for packet in map(bytes.fromhex, shot["l3"]):
            kind = shot.get("ethertype") or (0x86DD if packet[0] >> 4 == 6 else 0x0800)
            frame = header + struct.pack("!H", kind) + packet
            ears[shot["from"]].sendto(frame.ljust(60, b"\0"), (devices[shot["from"]][own], 0))
            time.sleep(shot.get("pause", 0.0))
    heard = _hear(ears, seconds, lambda: _mark(shots, ears, devices))
    for ear in ears.values():
        ear.close()
    return [
        [at for at in shot["at"] if any(bytes.fromhex(shot["want"]) in frame for frame in heard[at])]
        for shot in shots
    ]


def _hear(ears: dict[str, socket.socket], seconds: float, mark: Callable[[], None]) -> dict[str, list[bytes]]:
    heard: dict[str, list[bytes]] = {name: [] for name in ears}
    by_socket = {ear: name for name, ear in ears.items()}

    def listen(end: float) -> None:
        """Until then, and until everything is read that has come."""
        while True:
            ready = select.select(list(by_socket), [], [], max(0.0, end - time.monotonic()))[0]
            if not ready:
                return
            for ear in ready:
                frame, address = ear.recvfrom(4096)
                if address[2] != PACKET_OUTGOING:
                    heard[by_socket[ear]].append(frame)

    listen(time.monotonic() + seconds)
    mark()
    listen(0)
    return heard


def _mark(shots: list[Json], ears: dict[str, socket.socket], devices: dict[str, dict[str, str]]) -> None:
    """Returns when frames have come that nobody judges: from each sender where its shots went first, then from the host on."""
    first = {(shot["from"], shot["network"], shot["via"]) for shot in shots}
    for sender, network, via in sorted(first):
        own, to = _mac(sender, network), _mac(via, network)
        _follow(ears[sender], devices[sender][own], own, to, "host" if via == "gateway" else via)
    bridges = {network["Name"]: network["Bridge"] for network in facts()["networks"]}
    networks = {one["Name"]: list(one["Networks"]) for one in facts()["containers"]}
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as host:
        for at in sorted({at for shot in shots for at in shot["at"]}):
            for network in networks.get(at, ["lan"]):
                link = bridges.get(network, "up0")
                _follow(host, link, _mac("gateway", network), _mac(at, network), at)


def _follow(sender: socket.socket, device: str, source: str, to: str, at: str) -> None:
    """Sends a frame and waits until it has come in."""
    frame = bytes.fromhex((to + source).replace(":", "")) + struct.pack("!H", ETH_P_MARKER) + os.urandom(46)
    with inside(at):
        ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_MARKER))
    ear.settimeout(PATIENCE)
    with ear:
        sender.sendto(frame, (device, 0))
        while ear.recv(4096) != frame:
            pass


# All else


@request
def sh(command: str, at: str = "host", check: bool = True) -> Json:
    """A shell command on the host, or in a namespace; Docker is asked anew afterwards."""
    with inside(at):
        done = subprocess.run(
            ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    Cache.drop()
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stderr or done.stdout}")
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        began = time.monotonic()
        try:
            answer = {"value": REQUESTS[asked.pop("do")](**asked)}
        except BaseException:
            answer = {"trouble": traceback.format_exc()}
        answer["seconds"] = round(time.monotonic() - began, 2)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
