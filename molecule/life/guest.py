# SPDX-License-Identifier: GPL-3.0-or-later
"""The tests' hands inside the machine: one JSON request a line on standard input, one JSON answer a line.

A prober of its own thread connects all the time, at a fixed pace, for every pair it was told to watch, and keeps what became of
each attempt; the tests ask afterwards what it saw. Open means that a byte came back, see bw-probe. Times are monotonic, so that a
step of the clock does not move them. Runs as root in a throw-away machine.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import http.client
import importlib
import json
import math
import os
import queue
import random
import select
import selectors
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import traceback
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Iterator

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bw_probe

Json = dict[str, Any]
REQUESTS: dict[str, Callable[..., Any]] = {}

NETWORK = "life"
PORT = 7000
SUBNET4, SUBNET6 = "172.29.7.0/24", "fd00:db8:29::/64"
SHARED_RANGE = "172.29.7.128/25"  # for containers without an address of their own
AGENT = "bridgewarden-agent"
COMMAND = "/usr/local/sbin/bridgewarden"
TCP_INFO_RETRANS = 100  # tcpi_total_retrans in struct tcp_info
CLONE_NEWNET = bw_probe.CLONE_NEWNET


def request(function: Callable[..., Any]) -> Callable[..., Any]:
    REQUESTS[function.__name__] = function
    return function


@request
def now() -> float:
    return time.monotonic()


def library(name: str) -> Any:
    """A module of the library, out of the installed command, which is an archive of it."""
    if COMMAND not in sys.path:
        sys.path.insert(0, COMMAND)
    return importlib.import_module(f"ansible_collections.bridgewarden.docker.plugins.module_utils.{name}")


# Docker, without its command line


def docker(method: str, path: str, body: Json | None = None, good: tuple[int, ...] = ()) -> Any:
    """One request; a status of 400 or more is an error unless it is in `good`."""
    connection = bw_probe.DockerSocket("localhost")
    try:
        text = None if body is None else json.dumps(body)
        connection.connect()
        connection.sock.settimeout(1500)  # fifty starts at once on an emulated processor
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status >= 400 and answer.status not in good:
        raise RuntimeError(f"{method} {path}: {answer.status} {said.decode(errors='replace').strip()}")
    return json.loads(said) if said and answer.status < 300 and said[:1] in b"{[" else None


def address(last: int, family: int) -> str:
    """A fixed address of the network; IPv6's are far from those that Docker hands out by itself."""
    return f"172.29.7.{last}" if family == 4 else f"fd00:db8:29::ff{last}"


@request
def create(name: str, last: int = 0, friend: bool = False, published: int = 0, restart: bool = False) -> None:
    """A container of the shop's image on our network; `last` is the end of its address, 0: whatever Docker gives."""
    fixed = {"IPv4Address": address(last, 4), "IPv6Address": address(last, 6)} if last else {}
    docker(
        "POST",
        f"/containers/create?name={name}",
        {
            "Image": "bw-shop",
            "Cmd": [name, f"tcp:{PORT}"],
            "ExposedPorts": {f"{PORT}/tcp": {}},
            "Labels": {"life": "friend"} if friend else {},
            "HostConfig": {
                "NetworkMode": NETWORK,
                "PortBindings": {f"{PORT}/tcp": [{"HostPort": str(published)}]} if published else {},
                "RestartPolicy": {"Name": "always" if restart else "no"},
            },
            "NetworkingConfig": {"EndpointsConfig": {NETWORK: {"IPAMConfig": fixed}}},
        },
    )


@request
def start(name: str) -> None:
    docker("POST", f"/containers/{name}/start")


@request
def remove(*names: str) -> None:
    for name in names:
        docker("DELETE", f"/containers/{name}?force=true", good=(404,))


@request
def run(name: str, last: int = 0, friend: bool = False) -> None:
    create(name, last, friend)
    start(name)


@request
def plug(name: str, last: int) -> None:
    """Onto our network, with this address."""
    fixed = {"IPv4Address": address(last, 4), "IPv6Address": address(last, 6)}
    docker(
        "POST", f"/networks/{NETWORK}/connect", {"Container": name, "EndpointConfig": {"IPAMConfig": fixed}}
    )


@request
def unplug(name: str) -> None:
    docker("POST", f"/networks/{NETWORK}/disconnect", {"Container": name, "Force": False})


@request
def world() -> None:
    """ada and bob are friends, eve is not; ada and eve have a published port."""
    if {"ada", "bob", "eve"} <= set(containers()):
        return
    sh("bw-lab-shop image")
    docker(
        "POST",
        "/networks/create",
        {
            "Name": NETWORK,
            "EnableIPv6": True,
            "IPAM": {
                "Config": [
                    {"Subnet": SUBNET4, "IPRange": SHARED_RANGE, "Gateway": address(1, 4)},
                    {"Subnet": SUBNET6},
                ]
            },
        },
        good=(409,),
    )
    have = {name for item in docker("GET", "/containers/json?all=true") for name in item["Names"]}
    for name, last, friend, published in (
        ("ada", 10, True, 7001),
        ("bob", 11, True, 0),
        ("eve", 12, False, 7003),
    ):
        if f"/{name}" not in have:
            create(name, last, friend, published, restart=True)
        start(name)


def running() -> Iterator[Json]:
    for item in docker("GET", "/containers/json"):
        found = docker("GET", f"/containers/{item['Id']}/json", good=(404,))
        if found and found["State"]["Running"]:
            yield found


@request
def containers() -> dict[str, list[Any]]:
    """Name: what differs after a restart."""
    return {c["Name"].lstrip("/"): [c["Id"], c["State"]["Pid"], c["State"]["StartedAt"]] for c in running()}


@request
def endpoints() -> dict[str, list[str]]:
    """Addresses of containers: the kernel's account, and Docker's."""
    with library("_kernel.client").Kernel() as kernel:
        known = [str(endpoint.address) for endpoint in kernel.endpoints() if endpoint.identity]
    wanted = [
        network[key]
        for container in running()
        for network in container["NetworkSettings"]["Networks"].values()
        for key in ("IPAddress", "GlobalIPv6Address")
        if network[key]
    ]
    return {"kernel": sorted(known), "docker": sorted(wanted)}


# Where a probe comes from


class Namespaces:
    """The network namespaces of containers, by name. A dead container's is let go; who has it now is asked in the
    background, because dockerd may be down and the prober must keep its pace."""

    def __init__(self) -> None:
        self.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._held: dict[str, tuple[int, int]] = {}
        self._missing: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._look, daemon=True).start()

    def open(self, name: str) -> int:
        """A namespace's descriptor that the caller closes; raises OSError where there is none now."""
        if name == "host":
            return os.open("/proc/1/ns/net", os.O_RDONLY)
        if os.path.exists(f"/run/netns/{name}"):
            return os.open(f"/run/netns/{name}", os.O_RDONLY)
        held = self._held.get(name)
        if held and select.select([held[0]], [], [], 0)[0]:  # its process has ended
            del self._held[name]
            for handle in held:
                os.close(handle)
            held = None
        if held is None:
            self._missing.put(name)
            raise ProcessLookupError(name)
        return os.dup(held[1])

    def _look(self) -> None:
        while True:
            names = {self._missing.get()}
            with contextlib.suppress(queue.Empty):
                while True:
                    names.add(self._missing.get_nowait())
            self.learn(names)
            time.sleep(0.2)

    def learn(self, names: set[str]) -> None:
        """Asks Docker for those of them that are not known."""
        for name in names - set(self._held):
            with contextlib.suppress(OSError, ValueError, RuntimeError, http.client.HTTPException):
                found = docker("GET", f"/containers/{name}/json", good=(404,))
                if found and found["State"]["Running"]:
                    process = os.pidfd_open(found["State"]["Pid"])
                    space = os.open(f"/proc/{found['State']['Pid']}/ns/net", os.O_RDONLY)
                    self._held[name] = (process, space)


NAMESPACES = Namespaces()


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, in a namespace."""
    handle = NAMESPACES.open(name)
    try:
        bw_probe._setns(handle)
        yield
    finally:
        bw_probe._setns(NAMESPACES.home)
        os.close(handle)


# The prober


class Attempt(bw_probe.Attempt):
    """One connection; also says how often the kernel had to repeat a segment."""

    retransmits = 0

    def _end(self, result: str, detail: str) -> None:
        if self.socket is not None and result == "open":
            info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            if len(info) == 104:
                (self.retransmits,) = struct.unpack_from("I", info, TCP_INFO_RETRANS)
        super()._end(result, detail)

    @property
    def word(self) -> str:
        """open, closed, absent (nothing was sent), or half: connected, but no byte came."""
        if self.probe["result"] in ("open", "absent"):
            return str(self.probe["result"])
        return "half" if self.connected else "closed"


class Prober(threading.Thread):
    """Each pair is {"id", "from", "hosts": [address, ...], "port"}; of several hosts one is tried at a time, in turn."""

    def __init__(self) -> None:
        super().__init__(name="prober", daemon=True)
        self.lock = threading.Lock()
        self.pairs: list[Json] = []
        self.pace = 0.5
        self.turn = 0
        self.active: list[tuple[str, Attempt]] = []
        self.done: list[Json] = []
        self.selector = selectors.DefaultSelector()
        self.trouble = ""

    def run(self) -> None:
        due = time.monotonic()
        try:
            while True:
                moment = time.monotonic()
                if moment >= due:
                    due = max(due + self.pace, moment)
                    self._begin()
                self._step(min(due - time.monotonic(), 0.1))
        except BaseException:
            self.trouble = traceback.format_exc()
            raise

    def _begin(self) -> None:
        with self.lock:
            pairs = list(self.pairs)
        self.turn += 1
        for source in sorted({pair["from"] for pair in pairs}):
            mine = [pair for pair in pairs if pair["from"] == source]
            moment = time.monotonic()
            try:
                with inside(source):
                    begun = [self._attempt(pair) for pair in mine]
            except OSError:
                self.done += [self._record(pair["id"], moment, "absent") for pair in mine]
                continue
            for name, attempt in begun:
                if attempt.done:
                    self._finish(name, attempt)
                    continue
                self.active.append((name, attempt))
                self.selector.register(attempt.socket, attempt.wants, attempt)

    def _attempt(self, pair: Json) -> tuple[str, Attempt]:
        host = pair["hosts"][self.turn % len(pair["hosts"])]
        probe = {"port": pair["port"], "family": 6 if ":" in host else 4, "timeout": pair.get("timeout", 3.0)}
        attempt = Attempt(probe, host)
        attempt.begin()
        return pair["id"], attempt

    def _step(self, wait: float) -> None:
        for key, events in self.selector.select(max(wait, 0)):
            attempt = key.data
            connected = attempt.connected
            attempt.step(events)
            if attempt.connected and not connected and not attempt.done:
                self.selector.modify(key.fileobj, attempt.wants, attempt)
        moment = time.monotonic()
        still = []
        for name, attempt in self.active:
            if not attempt.done and moment >= attempt.deadline:
                attempt.expire()
            if attempt.done:
                self._finish(name, attempt)
            else:
                still.append((name, attempt))
        self.active = still

    def _finish(self, name: str, attempt: Attempt) -> None:
        for key in list(self.selector.get_map().values()):
            if key.data is attempt:
                self.selector.unregister(key.fileobj)
        record = self._record(name, attempt.began, attempt.word)
        record["seconds"] = attempt.probe["seconds"]
        record["retransmits"] = attempt.retransmits
        if record["word"] == "open":
            record["who"] = attempt.probe["detail"].split()[0]
        self.done.append(record)

    @staticmethod
    def _record(name: str, began: float, word: str) -> Json:
        return {"id": name, "began": began, "word": word, "seconds": 0.0, "retransmits": 0}


PROBER = Prober()


@request
def watch(pairs: list[Json], pace: float = 0.5) -> float:
    """From now on; returns now."""
    NAMESPACES.learn({pair["from"] for pair in pairs if not os.path.exists(f"/run/netns/{pair['from']}")})
    with PROBER.lock:
        PROBER.pairs = pairs
        PROBER.pace = pace
    return now()


@request
def tried(times: int, seconds: float = 60) -> None:
    """Returns when each pair was tried so often from now on; an attempt for want of a namespace is none."""
    since = now()
    while True:
        begun = {
            (record["id"], record["began"]) for record in list(PROBER.done) if record["word"] != "absent"
        }
        begun |= {(name, attempt.began) for name, attempt in list(PROBER.active)}
        often = Counter(name for name, began in begun if began >= since)
        rare = {pair["id"]: often[pair["id"]] for pair in PROBER.pairs if often[pair["id"]] < times}
        if PROBER.trouble:
            raise RuntimeError(PROBER.trouble)
        if not rare:
            return
        if now() > since + seconds:
            raise RuntimeError(f"not tried {times} times within {seconds:.0f} s: {rare}")
        time.sleep(0.05)


@request
def watched(since: float) -> Json:
    """What became of the attempts that began between `since` and now, by pair; waits for those on their way."""
    until = now()
    while any(attempt.began <= until for _name, attempt in list(PROBER.active)):
        time.sleep(0.05)
    if PROBER.trouble:
        raise RuntimeError(PROBER.trouble)
    found: Json = {}
    for record in sorted(PROBER.done, key=lambda record: record["began"]):
        if since <= record["began"] <= until:
            found.setdefault(record["id"], []).append(record)
    return {name: summary(records, until) for name, records in found.items()}


def summary(records: list[Json], until: float) -> Json:
    words = [record["word"] for record in records]
    shut, gap, first_open = None, 0.0, None
    for record in records:
        if record["word"] == "open":
            gap = max(gap, record["began"] - shut if shut is not None else 0.0)
            shut, first_open = None, first_open if first_open is not None else record["began"]
        elif shut is None:
            shut = record["began"]
    if shut is not None:
        gap = max(gap, until - shut)
    return {
        **{word: words.count(word) for word in ("open", "closed", "half", "absent")},
        "longest_gap": round(gap, 2),
        "first_open": first_open,
        "slowest_open": max((r["seconds"] for r in records if r["word"] == "open"), default=0.0),
        "repeated": sum(record["retransmits"] > 0 for record in records),
        "who": {
            who: sum(r.get("who") == who for r in records)
            for who in {r["who"] for r in records if "who" in r}
        },
    }


INSISTING: list[socket.socket] = []


@request
def insist(source: str, host: str, port: int, seconds: float) -> int:
    """Connects every 20 ms and says something at once; how often it could. All stay connected until the next call."""
    while INSISTING:
        INSISTING.pop().close()
    said, end = 0, time.monotonic() + seconds
    while (moment := time.monotonic()) < end:
        with inside(source):
            one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        INSISTING.append(one)
        one.setblocking(False)
        one.connect_ex((host, port))
        while time.monotonic() < moment + 0.02:
            try:
                said += bool(one.send(b"words"))
                break
            except BlockingIOError:
                time.sleep(0.001)
            except OSError:
                break
        time.sleep(max(moment + 0.02 - time.monotonic(), 0))
    return said


# The agent


@request
def agent() -> Json:
    """The agent's process: number, resident memory in KiB, processor seconds since its start, restarts."""
    text = sh(f"systemctl show -p MainPID -p NRestarts -p StatusText -p ActiveState {AGENT}")
    said = dict(line.split("=", 1) for line in text.splitlines())
    pid = int(said["MainPID"])
    found = {
        "pid": pid,
        "restarts": int(said["NRestarts"]),
        "status": said["StatusText"],
        "state": said["ActiveState"],
    }
    if pid:
        found.update(usage(pid))
    return found


@request
def status() -> Json:
    """What the kernel says of itself."""
    with library("_kernel.client").Kernel() as kernel:
        info = kernel.info()
    return {"generation": info.generation, "mode": info.mode, "hooks_in_place": info.hooks_in_place}


@request
def scrape() -> str:
    """The agent's page of metrics."""
    with urllib.request.urlopen("http://127.0.0.1:9899/metrics", timeout=30) as answer:
        return str(answer.read().decode())


@request
def told(since: float, unit: str = AGENT) -> list[str]:
    """What a unit said since then."""
    said = sh(f"journalctl -q -b -u {unit} -o short-monotonic --no-hostname", check=False)
    return [
        line.split("] ", 1)[1]
        for line in said.splitlines()
        if line.startswith("[") and float(line[1:].split("]", 1)[0]) >= since
    ]


def usage(pid: int) -> Json:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {
        "rss_kib": int(fields[21]) * os.sysconf("SC_PAGE_SIZE") // 1024,
        "cpu": (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    }


@request
def idle(seconds: float) -> float:
    """The share of one processor that the agent took meanwhile."""
    pid = agent()["pid"]
    before, began = usage(pid)["cpu"], now()
    time.sleep(seconds)
    return (usage(pid)["cpu"] - before) / (now() - began)


# The host's files


@request
def files() -> dict[str, str]:
    """The sum of each file of ours that is there, and whatever else lies beside them."""
    found = [
        str(path)
        for folder in ("/etc/bridgewarden", "/var/lib/bridgewarden")
        for path in Path(folder).iterdir()
    ]
    return {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in sorted(found)}


@request
def apply(**changes: Any) -> Json:
    """The desired policy with something changed, through the very calls of the policy module; an error comes back as a record."""
    commits, client, errors, store_room = map(
        library, ("_commit.apply", "_kernel.client", "_errors", "_host.store")
    )
    store = store_room.Store()
    try:
        plan = changed(store, changes)
        with client.Kernel() as kernel:
            return {"generation": commits.apply_plan(plan, kernel, store).generation}
    except errors.BridgewardenError as error:
        return {"error": error.text(), "kind": type(error).__name__}


@request
def confirm_and_die(**changes: Any) -> Json:
    """The same with a window, confirmed in the kernel; then as if the process had died before it wrote the files."""
    commits, client, store_room = map(library, ("_commit.apply", "_kernel.client", "_host.store"))
    store = store_room.Store()
    plan = changed(store, changes)
    with client.Kernel() as kernel:
        commits.apply_plan(plan, kernel, store, confirm_timeout=60)
        return {"generation": kernel.confirm()}


def changed(store: Any, changes: Json) -> Any:
    facts = library("_docker.watch").collect_facts()
    return library("_commit.plan").make_plan({**(store.read_policy() or {}), **changes}, facts)


DRAINED = threading.Event()


@request
def fill() -> str:
    """Leaves not a block of the root file system free until `drain`, whatever others give back meanwhile."""
    script = "for s in 1G 100M 10M 1M 64K 4K; do while fallocate -l $s /filler.$s.$((n += 1)) 2>/dev/null; do :; done; done"
    left = sh(f"{script}; rm -f /filler.4K.$n; sync; df --output=avail / | tail -1").strip()
    DRAINED.clear()
    threading.Thread(target=keep_full, daemon=True).start()
    return left


def keep_full() -> None:
    """A container that ends gives blocks back."""
    handle, size = os.open("/filler.rest", os.O_CREAT | os.O_WRONLY), 0
    while not DRAINED.is_set():
        try:
            os.posix_fallocate(handle, size, 4096)
            size += 4096
        except OSError:
            time.sleep(0.01)
    os.close(handle)


@request
def drain() -> None:
    DRAINED.set()
    time.sleep(0.1)
    sh("find / -xdev -maxdepth 1 -name 'filler.*' -delete")


# Figures


@request
def starts(count: int) -> Json:
    """`docker run` over and over: how long it takes, and from its return until ada reaches the new container's port."""
    runs, waits = [], []
    for number in range(count):
        name, last = f"start{number}", 20 + number % 2
        command = ["docker", "run", "-d", "--name", name, "--network", NETWORK, "--label", "life=friend"]
        command += ["--ip", address(last, 4), "--ip6", address(last, 6), "bw-shop", name, f"tcp:{PORT}"]
        began = time.monotonic()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        back = time.monotonic()
        waits.append(until_open("ada", address(last, 4)) - back)
        runs.append(back - began)
        remove(name)
    return {"run": spread(runs), "until_open": spread(waits)}


def until_open(source: str, host: str, seconds: float = 30.0) -> float:
    """When the first connection succeeded. One is begun every 10 ms: a lost SYN is repeated only after a second."""
    end = time.monotonic() + seconds
    attempts: list[Attempt] = []
    with inside(source):
        while time.monotonic() < end:
            attempts.append(Attempt({"port": PORT, "timeout": 1.0}, host))
            attempts[-1].begin()
            pause = time.monotonic() + 0.01
            while (left := pause - time.monotonic()) > 0:
                waiting = {a.socket: a for a in attempts if not a.done}
                want_write = [s for s, a in waiting.items() if not a.connected]
                want_read = [s for s, a in waiting.items() if a.connected]
                readable, writable, _ = select.select(want_read, want_write, [], left)
                for ready, event in ((readable, selectors.EVENT_READ), (writable, selectors.EVENT_WRITE)):
                    for sock in ready:
                        waiting[sock].step(event)
                if any(a.done and a.word == "open" for a in attempts):
                    moment = time.monotonic()
                    for attempt in attempts:
                        if not attempt.done:
                            attempt.expire()
                    return moment
            for attempt in attempts:
                if not attempt.done and time.monotonic() > attempt.deadline:
                    attempt.expire()
            attempts = [attempt for attempt in attempts if not attempt.done]
    raise RuntimeError(f"{host} did not open within {seconds:.0f} s")


def spread(values: list[float]) -> Json:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "median_ms": round(statistics.median(ordered) * 1000, 1),
        "p99_ms": round(ordered[math.ceil(len(ordered) * 0.99) - 1] * 1000, 1),
        "max_ms": round(ordered[-1] * 1000, 1),
    }


@request
def churn(seconds: float, count: int) -> Json:
    """So many containers, friends and foes by turns, each started and stopped all the time; addresses go from one to the next.

    Half of them run at the end.
    """
    names = [f"{'friend' if number % 2 else 'foe'}{number}" for number in range(count)]
    for number, name in enumerate(names):
        create(name, friend=bool(number % 2))
    end = time.monotonic() + seconds
    memory: list[int] = []
    refused: list[str] = []
    done = threading.Event()

    def sample() -> None:
        pid = agent()["pid"]
        while not done.wait(2):
            memory.append(usage(pid)["rss_kib"])

    def started(name: str) -> bool:
        """So many at once are too many for Docker now and then ("task ... already exists"): its word, not ours."""
        try:
            start(name)
        except RuntimeError as error:
            refused.append(str(error))
            time.sleep(2)
            return False
        return True

    def live(number: int) -> int:
        chance, cycles = random.Random(number), 0  # noqa: S311
        while time.monotonic() < end:
            if not started(names[number]):
                continue
            cycles += 1
            time.sleep(chance.uniform(0.2, 2))
            docker("POST", f"/containers/{names[number]}/stop?t=2", good=(304,))
        if number % 4 < 2:
            any(started(names[number]) for _ in range(10))
        return cycles

    watcher = threading.Thread(target=sample)
    watcher.start()
    began = time.monotonic()
    try:
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            cycles = list(pool.map(live, range(count)))
    finally:
        done.set()
        watcher.join()
    return {
        "seconds": round(time.monotonic() - began, 1),
        "starts": sum(cycles),
        "least": min(cycles),
        "refused_by_docker": refused,
        "rss_kib": memory,
    }


@request
def churned(count: int) -> None:
    remove(*(f"{'friend' if number % 2 else 'foe'}{number}" for number in range(count)))


# All else


@request
def sh(command: str, check: bool = True) -> str:
    """A shell command on the host: what it printed."""
    done = subprocess.run(
        ["/bin/bash", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if check and done.returncode:
        raise RuntimeError(f"{command}: {done.stdout}")
    return done.stdout


def main() -> None:
    PROBER.start()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = {"value": REQUESTS[asked["do"]](*asked["args"], **asked["words"])}
        except BaseException:
            answer = {"trouble": traceback.format_exc()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
