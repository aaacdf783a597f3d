# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.agent`: the agent's own part, from Docker's event to the commit it sends, beside 500 running containers.

A dockerd of its own, in a network namespace of its own, runs real containers on two bridges; the agent runs there too, as on a
host, with a policy of labels and a query. Only its netlink socket is replaced: what it would send is encoded and recorded.
Containers are started one by one. Then the agent idles, and its processor time is read. Leaves build/agent/native.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import Attr, Cmd
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import Settings
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import UnixConnection
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info

from tests.dockerd import Dockerd, why_not

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "agent"
NETWORKS = {"one": "10.91.0.0/22", "two": "10.92.0.0/22"}
POLICY: dict[str, t.Any] = {
    "mode": "enforce",
    "guards": ["br-*", "docker0"],
    "groups": {
        "web": {"labels": {"tier": "web"}},
        "db": {"labels": {"tier": "db"}},
        "asked": {"query": "[?Labels.tier=='web' && State=='running']"},
    },
    "rules": [
        {"name": "asked to db", "from": ["asked"], "to": ["db"], "ports": ["5432/tcp"]},
        *(
            {"name": f"office {n}", "from": [f"192.0.2.{n}/32"], "to": ["web"], "ports": [f"{8000 + n}/tcp"]}
            for n in range(20)
        ),
    ],
}


class Recorded(Kernel):
    """Encodes everything and sends nothing; says when each commit would have gone."""

    state: t.ClassVar[dict[str, t.Any]] = {"generation": 0, "policy": "", "ruleset": "", "mode": 0, "sent": 0}

    def open(self) -> None:
        pass

    def _request(self, cmd: Cmd, attrs: t.Any, doing: str) -> list[t.Any]:
        state = self.state
        state["sent"] += sum(len(data) + 4 for _attr, data in attrs)
        if cmd == Cmd.BEGIN:
            values = dict(attrs)
            state["next"] = (values[Attr.POLICY_DIGEST].hex(), values[Attr.RULESET_DIGEST].hex())
        if cmd == Cmd.COMMIT:
            print(json.dumps({"commit": time.time_ns(), "bytes": state["sent"]}), flush=True)
            state["policy"], state["ruleset"] = state["next"]
            state["generation"] += 1
            state["sent"] = 0
        return []

    def info(self) -> Info:
        state = self.state
        return Info(
            "0", state["generation"], "enforce", {}, state["policy"], state["ruleset"], 0, (), (), {"endpoints": 0}, 1, 1
        )  # fmt: skip


def follow(socket: str, folder: str) -> int:
    """The agent itself; begun by main() in dockerd's namespaces."""
    store = Store(folder + "/etc", folder + "/var", folder + "/lock")
    store.write_policy(POLICY)
    settings = Settings(docker_socket=socket)
    return Agent(settings, store, kernel_factory=Recorded).run()


class Host:
    """dockerd and its containers, by its API: the docker command takes longer than the container."""

    def __init__(self, dockerd: Dockerd) -> None:
        self.dockerd = dockerd

    def call(self, method: str, path: str, body: t.Any = None) -> t.Any:
        connection = UnixConnection(self.dockerd.socket.removeprefix("unix://"), 120.0)
        with contextlib.closing(connection):
            content = json.dumps(body) if body is not None else None
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            if response.status >= 300:
                raise RuntimeError(f"{method} {path}: {response.status} {text.decode(errors='replace')}")
            return json.loads(text) if text.strip() else None

    def create(self, number: int) -> str:
        body = {
            "Image": "waiter:1",
            "Labels": {"tier": ("web", "db", "other")[number % 3]},
            "HostConfig": {"NetworkMode": list(NETWORKS)[number % len(NETWORKS)]},
        }
        return str(self.call("POST", f"/containers/create?name=c{number}", body)["Id"])

    def start(self, name: str) -> None:
        self.call("POST", f"/containers/{name}/start")

    def fill(self, count: int) -> None:
        numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in range(count):
            numbers.put(number)

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    self.start(self.create(numbers.get_nowait()))

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        running = json.loads(self.dockerd.docker("info", "-f", "{{json .ContainersRunning}}").stdout)
        if running != count:
            raise RuntimeError(f"only {running} of {count} containers run")


class Cost(t.NamedTuple):
    """Of the agent's process so far."""

    ran: float  # milliseconds on a processor
    waited: float  # milliseconds that it could have run, but others did
    wakeups: int
    resident_kib: int


class Started:
    """The agent's process, and what it said."""

    def __init__(self, dockerd: Dockerd, folder: str) -> None:
        assert dockerd.process is not None
        argv = ["nsenter", "-t", str(dockerd.process.pid), "-n", "-m", sys.executable, "-m", "bench.agent"]
        self.process = subprocess.Popen(
            [*argv, "--follow", dockerd.socket, folder],
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/.collections"},
        )
        self.commits: queue.SimpleQueue[dict[str, int]] = queue.SimpleQueue()
        self.words: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._hear, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.commits.put(json.loads(line))

    def _hear(self) -> None:
        self.words.extend(self.process.stderr or ())

    def cost(self) -> Cost:
        folder = Path(f"/proc/{self.process.pid}")
        ran = waited = 0
        for task in (folder / "task").iterdir():
            numbers = (task / "schedstat").read_text().split()
            ran, waited = ran + int(numbers[0]), waited + int(numbers[1])
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
        )
        switches = sum(
            int(line.split()[1])
            for task in (folder / "task").iterdir()
            for line in (task / "status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )
        return Cost(ran / 1e6, waited / 1e6, switches, int(status["VmRSS"].split()[0]))


def measure(host: Host, started: Started, first: int, count: int) -> list[float]:
    """Milliseconds from dockerd's own time of a start event to the commit, for each of `count` starts."""
    names = [host.create(first + number) for number in range(count)]
    events: queue.SimpleQueue[int] = queue.SimpleQueue()
    threading.Thread(target=watch_starts, args=(host, events), daemon=True).start()
    time.sleep(1.0)
    while not started.commits.empty():
        started.commits.get()
    found = []
    for name in names:
        host.start(name)
        event = events.get(timeout=30)
        commit = started.commits.get(timeout=30)["commit"]
        found.append((commit - event) / 1e6)
        time.sleep(0.2)  # one start at a time is what is measured
        if not started.commits.empty():
            raise RuntimeError("a start made more than one commit: " + "".join(started.words[-5:]))
    return found


def watch_starts(host: Host, events: queue.SimpleQueue[int]) -> None:
    query = "/events?filters=%7B%22event%22%3A%5B%22start%22%5D%7D"
    connection = UnixConnection(host.dockerd.socket.removeprefix("unix://"), 600.0)
    connection.request("GET", query)
    response = connection.getresponse()
    while line := response.readline():
        events.put(json.loads(line)["timeNano"])


def idle(started: Started, seconds: float) -> dict[str, float]:
    time.sleep(3)
    before = started.cost()
    time.sleep(seconds)
    after = started.cost()
    return {
        "seconds": seconds,
        "processor_milliseconds": round(after.ran - before.ran, 1),
        "wakeups": after.wakeups - before.wakeups,
        "resident_kib": after.resident_kib,
    }


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description="measure the agent beside real containers")
    parser.add_argument("--containers", type=int, default=500)
    parser.add_argument("--starts", type=int, default=100)
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.follow:
        return follow(*args.follow)
    if why_not():
        sys.exit(f"bench.agent: {why_not()}")
    folder = Path(tempfile.mkdtemp(prefix="bwa."))
    dockerd = Dockerd(folder)
    started: Started | None = None
    try:
        dockerd.start()
        if not dockerd.wait(60):
            sys.exit(
                "bench.agent: dockerd does not run on this machine: " + (folder / "log").read_text()[-500:]
            )
        dockerd.make_image()
        for name, subnet in NETWORKS.items():
            dockerd.docker("network", "create", "--subnet", subnet, name)
        host = Host(dockerd)
        began = time.monotonic()
        host.fill(args.containers)
        print(f"{args.containers} containers run after {time.monotonic() - began:.0f} s", file=sys.stderr)
        started = Started(dockerd, str(folder))
        first = started.commits.get(timeout=120)
        before = started.cost()
        times = measure(host, started, args.containers, args.starts)
        after = started.cost()
        record = {
            "containers": args.containers,
            "starts": args.starts,
            "milliseconds": {
                "median": round(statistics.median(times), 1),
                "p90": round(percentile(times, 0.9), 1),
                "p99": round(percentile(times, 0.99), 1),
                "max": round(max(times), 1),
            },
            # What a busy machine adds shows in the second: the times above hold both, and dockerd's.
            "agent_milliseconds_a_start": {
                "ran": round((after.ran - before.ran) / args.starts, 1),
                "waited_for_a_processor": round((after.waited - before.waited) / args.starts, 1),
            },
            "first_commit_bytes": first["bytes"],
            "idle": idle(started, args.idle),
            "load": os.getloadavg()[0],
            "python": sys.version.split()[0],
        }
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "native.json").write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record, indent=1))
        return 0
    finally:
        if started is not None:
            started.process.terminate()
            started.process.wait(10)
        dockerd.clean()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
