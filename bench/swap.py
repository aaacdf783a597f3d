# SPDX-License-Identifier: GPL-3.0-or-later
"""In a second machine, with two CPUs and real time: rulesets replaced while one permitted and one forbidden flow run.

Packets are numbered and sent all the while, and every one is accounted for: of the permitted flow none may be lost, of the
forbidden one none may pass. Before any ruleset is there, both arrive.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import Any

from bench.rulesets import LINK

Run = Callable[..., object]
HOST = "192.0.2.1"
PERMITTED, FORBIDDEN = 8080, 8081
INNER = {PERMITTED: 80, FORBIDDEN: 81}
BUFFER = 256 << 20
PACE = 0.001
NAT = """*nat
-A PREROUTING -d 192.0.2.1/32 -p udp -m udp --dport 8080 -j DNAT --to-destination 172.18.0.2:80
-A PREROUTING -d 192.0.2.1/32 -p udp -m udp --dport 8081 -j DNAT --to-destination 172.18.0.2:81
COMMIT
"""
WORLD = f"""
mkdir -p /dev/shm
mount -t tmpfs shm /dev/shm
ip link set lo up
ip netns add client
ip netns add container
ip link add wan index 100 type veth peer name eth0 netns client
ip link add bd index {LINK} type veth peer name eth0 netns container
ip address add 10.9.255.254/16 dev wan
ip address add 172.18.255.254/15 dev bd
ip address add {HOST}/32 dev lo
ip link set wan up
ip link set bd up
ip -n client address add 10.9.0.1/16 dev eth0
ip -n client link set eth0 up
ip -n client route add default via 10.9.255.254
ip -n container address add 172.18.0.2/15 dev eth0
ip -n container link set eth0 up
ip -n container route add default via 172.18.255.254
"""


def set_up(run: Run) -> None:
    for line in WORLD.strip().splitlines():
        run(*line.split())
    run("iptables-restore", text=NAT)


@contextmanager
def socket_in(namespace: str) -> Iterator[socket.socket]:
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net", "rb") as here, open(f"/run/netns/{namespace}", "rb") as there:
        if libc.setns(there.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"setns: {namespace}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            libc.setns(here.fileno(), 0)
            yield made


def send(stop: Event, sent: Any) -> None:
    with socket_in("client") as one:
        while not stop.is_set():
            for at, port in enumerate(INNER):
                one.sendto(b"x", (HOST, port))
                sent[at] += 1
            time.sleep(PACE)


def receive(port: int, ready: Event, end: Event, got: Any, at: int) -> None:
    """Until nothing comes any more after the end."""
    with socket_in("container") as one:
        one.setsockopt(socket.SOL_SOCKET, 33, BUFFER)  # SO_RCVBUFFORCE
        one.bind(("", INNER[port]))
        one.settimeout(1)
        ready.set()
        while True:
            try:
                one.recv(16)
                got[at] += 1
            except TimeoutError:
                if end.is_set():
                    return


class Flows:
    """Both flows, from the first packet to the last one's arrival."""

    def __enter__(self) -> Flows:
        make = multiprocessing.get_context("fork")
        self.stop, self.end = make.Event(), make.Event()
        self.sent, self.got = make.Array("Q", 2, lock=False), make.Array("Q", 2, lock=False)
        ready = [make.Event() for _ in INNER]
        self._receivers = [
            make.Process(target=receive, args=(port, ready[at], self.end, self.got, at), daemon=True)
            for at, port in enumerate(INNER)
        ]
        for process in self._receivers:
            process.start()
        for one in ready:
            one.wait()
        self._sender = make.Process(target=send, args=(self.stop, self.sent), daemon=True)
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._sender.join()
        self.end.set()
        for process in self._receivers:
            process.join()


def swaps(
    commit: Callable[[str], tuple[float, float]], names: tuple[str, str], entries: int, count: int
) -> dict[str, Any]:
    """Replaces the one by the other and back. commit: seconds of it, of the kernel in it."""
    commit(names[1])
    took = []
    with Flows() as flows:
        time.sleep(1)
        began = time.monotonic()
        for number in range(count):
            took.append(commit(names[number % 2]))
        seconds = time.monotonic() - began
        time.sleep(1)
    whole, kernel = (sorted(column) for column in zip(*took, strict=True))
    return {
        "entries": entries,
        "swaps": count,
        "seconds": round(seconds, 1),
        "permitted_sent": flows.sent[0],
        "lost": flows.sent[0] - flows.got[0],
        "forbidden_sent": flows.sent[1],
        "passed": flows.got[1],
        "commit_ms_median": round(whole[count // 2] * 1000, 1),
        "kernel_ms_median": round(kernel[count // 2] * 1000, 1),
    }


def without_ruleset() -> dict[str, Any]:
    """What the probe sees where nothing is forbidden."""
    with Flows() as flows:
        time.sleep(2)
    return {
        "entries": 0,
        "swaps": 0,
        "permitted_sent": flows.sent[0],
        "lost": flows.sent[0] - flows.got[0],
        "forbidden_sent": flows.sent[1],
        "passed": flows.got[1],
    }
