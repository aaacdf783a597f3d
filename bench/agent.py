# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.agent`: how early the agent knows a container, beside 500 that run.

A dockerd of its own, in a network namespace of its own, runs real containers on two bridges; the agent runs there too, as on a
host, with a policy of labels and a query. Only its netlink socket towards the module is replaced: what it would send is encoded and
recorded. Another process hears the same links. Containers that only say when their first instruction ran are started one by one. So
each start has three times: its port got carrier, the message with its endpoint was ready, its process began. Then the agent idles,
and its processor time is read. Leaves build/agent/native.json, or what --out names. --programs has another version's dockerd.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import select
import shutil
import statistics
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import typing as t
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import STRUCTS, Attr, Cmd
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import Settings
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import UnixConnection
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import LinkChanges

from tests.dockerd import Dockerd, why_not

TOP = Path(__file__).resolve().parent.parent
OUT = TOP / "build" / "agent"
NETWORKS = {"one": "10.91.0.0/22", "two": "10.92.0.0/22"}
ENDPOINT4 = STRUCTS[Attr.SECTION_ENDPOINT4]
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


FIRST = """
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    struct timespec now;
    char line[128];
    int length;
    clock_gettime(CLOCK_MONOTONIC, &now);
    length = snprintf(line, sizeof(line), "%s %ld%09ld\\n", argv[1], (long)now.tv_sec, now.tv_nsec);
    return write(open("/out/first", O_WRONLY | O_APPEND), line, length) != length;
}
"""


class Recorded(Kernel):
    """Encodes everything and sends nothing; says when each commit would have gone."""

    state: t.ClassVar[dict[str, t.Any]] = {
        "generation": 0, "policy": "", "ruleset": "", "mode": 0, "sent": 0, "ports": [],
    }  # fmt: skip

    def open(self) -> None:
        pass

    def endpoints(self) -> list[t.Any]:
        return []

    def _request(self, cmd: Cmd, attrs: t.Any, doing: str) -> list[t.Any]:
        state = self.state
        state["sent"] += sum(len(data) + 4 for _attr, data in attrs)
        if cmd == Cmd.BEGIN:
            values = dict(attrs)
            state["next"] = (values[Attr.POLICY_DIGEST].hex(), values[Attr.RULESET_DIGEST].hex())
            state["ports"] = []
        if cmd == Cmd.ADD:
            rows = [data for attr, data in attrs if attr == Attr.SECTION_ENDPOINT4]
            state["ports"] += [row[3] for data in rows for row in struct.iter_unpack(ENDPOINT4, data)]
        if cmd == Cmd.COMMIT:
            now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
            print(json.dumps({"commit": now, "bytes": state["sent"], "ports": state["ports"]}), flush=True)
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


def listen() -> int:
    """Says when which port of a bridge got carrier; begun by main() in dockerd's namespaces."""
    changes = LinkChanges()
    seen: set[int] = set()
    while True:
        select.select([changes], [], [])
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        for link, there in changes.read()[0]:
            if there and link.carrier and link.kind == "veth" and link.master and link.index not in seen:
                seen.add(link.index)
                print(json.dumps({"port": link.index, "carrier": now}), flush=True)


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

    def make_first(self) -> None:
        """An image whose program writes down when its first instruction ran."""
        folder = self.dockerd.folder
        (folder / "first.c").write_text(FIRST)
        subprocess.run(["cc", "-static", "-Os", "-o", folder / "first", folder / "first.c"], check=True)
        with tarfile.open(folder / "first.tar", "w") as tar:
            tar.add(folder / "first", "first")
        (folder / "out").mkdir()
        (folder / "out" / "first").touch()
        self.dockerd.docker("import", str(folder / "first.tar"), "first:1")

    def once(self, number: int) -> int:
        """Runs one container to its end, as `docker run --rm` does; when its process began."""
        name = f"once{number}"
        body = {
            "Image": "first:1",
            "Cmd": ["/first", name],
            "Labels": {"tier": ("web", "db", "other")[number % 3]},
            "HostConfig": {
                "NetworkMode": list(NETWORKS)[number % len(NETWORKS)],
                "AutoRemove": True,
                "Binds": [f"{self.dockerd.folder}/out:/out"],
            },
        }
        ident = self.call("POST", f"/containers/create?name={name}", body)["Id"]
        self.start(ident)
        end = time.monotonic() + 30
        while time.monotonic() < end:
            last = (self.dockerd.folder / "out" / "first").read_text().splitlines()[-1:]
            if last and last[0].startswith(name + " "):
                return int(last[0].split()[1])
            time.sleep(0.01)
        raise RuntimeError(f"{name} did not begin")

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
    """A process beside dockerd, and what it said."""

    def __init__(self, dockerd: Dockerd, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*self.argv(dockerd), *arguments],
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{TOP}:{TOP}/.collections"},
        )
        self.said: queue.SimpleQueue[dict[str, t.Any]] = queue.SimpleQueue()
        self.words: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._hear, daemon=True).start()

    def argv(self, dockerd: Dockerd) -> list[str]:
        assert dockerd.process is not None
        # With the priority that the agent's unit gives it.
        argv = ["nsenter", "-t", str(dockerd.process.pid), "-n", "-m", "nice", "-n", "-10"]
        return [*argv, sys.executable, "-m", "bench.agent"]

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said.put(json.loads(line))

    def _hear(self) -> None:
        self.words.extend(self.process.stderr or ())

    def all(self) -> list[dict[str, t.Any]]:
        """What it has said since the last time."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self.said.get_nowait())
        return found

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

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


class Times(t.NamedTuple):
    """Of one start, in milliseconds."""

    message: float  # from carrier to the message
    margin: float  # from the message to the first instruction


class Measured(t.NamedTuple):
    times: list[Times]
    missed: list[str]  # what the agent said where it had no message for a start
    unheard: int  # starts whose carrier the listener did not report


def measure(host: Host, agent: Started, links: Started, first: int, count: int, seconds: float) -> Measured:
    """Of `count` starts, one after the other, or as many as there is time for."""
    found, missed, unheard = [], [], 0
    end = time.monotonic() + seconds
    for number in range(first, first + count):
        if time.monotonic() > end:
            break
        links.all(), agent.all()
        began = host.once(number)
        time.sleep(0.15)  # one start at a time is what is measured
        try:
            carrier = links.said.get(timeout=1)
        except queue.Empty:
            unheard += 1
            continue
        ready = [one["commit"] for one in agent.all() if carrier["port"] in one["ports"]]
        if ready:
            found.append(Times((ready[0] - carrier["carrier"]) / 1e6, (began - ready[0]) / 1e6))
        else:
            missed.append("".join(agent.words[-3:]))
    return Measured(found, missed, unheard)


def distribution(values: list[float]) -> dict[str, float]:
    shares = {"p1": 0.01, "p10": 0.1, "p90": 0.9, "p99": 0.99}
    found = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    found.update({name: percentile(values, share) for name, share in shares.items()})
    return {name: round(found[name], 1) for name in ("min", "p1", "p10", "median", "p90", "p99", "max")}


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
    parser.add_argument("--seconds", type=float, default=0, help="the longest time for the starts")
    parser.add_argument("--idle", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument(
        "--programs", default="", metavar="FOLDER", help="another version's dockerd and so on"
    )
    parser.add_argument("--out", type=Path, default=OUT / "native.json")
    parser.add_argument("--follow", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.follow:
        return follow(*args.follow)
    if args.listen:
        return listen()
    if why_not():
        sys.exit(f"bench.agent: {why_not()}")
    folder = Path(tempfile.mkdtemp(prefix="bwa."))
    dockerd = Dockerd(folder, args.programs)
    with contextlib.ExitStack() as ends:
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        ends.callback(dockerd.clean)
        dockerd.start()
        if not dockerd.wait(60):
            sys.exit(
                "bench.agent: dockerd does not run on this machine: " + (folder / "log").read_text()[-500:]
            )
        dockerd.make_image()
        for name, subnet in NETWORKS.items():
            dockerd.docker("network", "create", "--subnet", subnet, name)
        host = Host(dockerd)
        host.make_first()
        began = time.monotonic()
        host.fill(args.containers)
        print(f"{args.containers} containers run after {time.monotonic() - began:.0f} s", file=sys.stderr)
        agent = Started(dockerd, "--follow", dockerd.socket, str(folder))
        ends.callback(agent.stop)
        links = Started(dockerd, "--listen")
        ends.callback(links.stop)
        first = agent.said.get(timeout=120)
        time.sleep(2)
        before = agent.cost()
        times, missed, unheard = measure(
            host, agent, links, args.containers, args.starts, args.seconds or float("inf")
        )
        after = agent.cost()
        starts = len(times) + len(missed) + unheard
        record = {
            "docker": host.call("GET", "/version")["Version"],
            "containers": args.containers,
            "starts": starts,
            "unheard": unheard,
            "missed": len(missed),
            "late": sum(one.margin <= 0 for one in times),
            "milliseconds_from_carrier_to_message": distribution([one.message for one in times]),
            "milliseconds_from_message_to_first_instruction": distribution([one.margin for one in times]),
            # What a busy machine adds shows in the second: the times above hold both, and dockerd's.
            "agent_milliseconds_a_start": {
                "ran": round((after.ran - before.ran) / starts, 1),
                "waited_for_a_processor": round((after.waited - before.waited) / starts, 1),
            },
            "first_commit_bytes": first["bytes"],
            "idle": idle(agent, args.idle),
            "load": os.getloadavg()[0],
            "python": sys.version.split()[0],
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record, indent=1))
        for words in missed[:5]:
            print(words, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
