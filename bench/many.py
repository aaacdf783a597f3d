# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.many`: what a start costs the agent beside 2,000 containers, one of which publishes 16,384 ports.

More than a machine runs for a benchmark, so a server answers in dockerd's place. Links, namespaces and their MAC addresses are real, and
so is the agent; of its netlink socket towards the module only the encoding is. A start is a veth pair whose inner end comes up. Leaves
build/agent/many.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
import urllib.parse
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import EVERY_ADDRESS

from bench.agent import OUT, TOP, Started, distribution

Json = dict[str, t.Any]
#: A bridge has 1024 ports at most.
PORTS_A_BRIDGE = 800


def ident(number: int) -> str:
    return f"{number:064x}"


class Docker(threading.Thread):
    """Answers as dockerd does, and has events that do not come."""

    def __init__(self, folder: Path, containers: int, ports: int) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.path = folder / "docker.sock"
        self.ports = ports
        self.bridges = containers // PORTS_A_BRIDGE + 1
        self.lists: list[dict[str, Json]] = [{} for _ in range(self.bridges)]
        self.states: dict[int, str] = {}
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(self.path))
        self.server.listen(64)

    def place(self, number: int) -> tuple[int, str, str]:
        """Bridge, address and MAC address of a container."""
        bridge, inside = number % self.bridges, number // self.bridges + 2
        return (
            bridge,
            f"10.{90 + bridge}.{inside >> 8}.{inside & 255}",
            f"02:42:0a:{90 + bridge:02x}:{inside >> 8:02x}:{inside & 255:02x}",
        )

    def network(self, bridge: int) -> Json:
        return {
            "Id": f"{bridge + 1:x}" * 64, "Name": f"net{bridge}", "Driver": "bridge", "Options": {},
            "IPAM": {"Config": [{"Subnet": f"10.{90 + bridge}.0.0/16"}]},
        }  # fmt: skip

    def attach(self, number: int) -> None:
        bridge, address, mac = self.place(number)
        self.lists[bridge][ident(number)] = {
            "Name": f"c{number}", "EndpointID": ident(number + 1000000), "MacAddress": mac, "IPv4Address": address + "/16",
            "IPv6Address": "",
        }  # fmt: skip

    def entry(self, number: int) -> Json:
        bridge, address, mac = self.place(number)
        network = self.network(bridge)
        running = self.states[number] == "running"
        return {
            "Id": ident(number), "Names": [f"/c{number}"], "Image": "i", "State": self.states[number],
            "Labels": {"tier": ("web", "db", "other")[number % 3]}, "HostConfig": {"NetworkMode": network["Name"]},
            "NetworkSettings": {"Networks": {network["Name"]: {
                "NetworkID": network["Id"], "EndpointID": ident(number + 1000000) if running else "",
                "IPAddress": address if running else "", "MacAddress": mac if running else "",
            }}},
        }  # fmt: skip

    def inspect(self, number: int) -> Json:
        entry = self.entry(number)
        published = range(32768, 32768 + self.ports) if number == 0 else ()
        everywhere = [{"HostIp": ip} for ip in EVERY_ADDRESS.values()]
        ports = {f"{port}/udp": [{**one, "HostPort": str(port)} for one in everywhere] for port in published}
        return {
            "Id": entry["Id"], "Name": entry["Names"][0], "State": {"Status": entry["State"], "Pid": 7},
            "Config": {"Labels": entry["Labels"]}, "HostConfig": {**entry["HostConfig"], "PortBindings": ports},
            "NetworkSettings": {"Networks": entry["NetworkSettings"]["Networks"], "Ports": ports},
        }  # fmt: skip

    def run(self) -> None:
        while True:
            threading.Thread(target=self.serve, args=(self.server.accept()[0],), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while request := peer.recv(65536).decode():
                path = urllib.parse.unquote(request.split()[1])
                if path.startswith("/events"):
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    time.sleep(3600)
                body = json.dumps(self.answer(path)).encode()
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def answer(self, path: str) -> t.Any:
        kind, _slash, rest = path.strip("/").partition("/")
        if kind == "networks":
            networks = [self.network(bridge) for bridge in range(self.bridges)]
            return next(
                (
                    {**one, "Containers": self.lists[number]}
                    for number, one in enumerate(networks)
                    if one["Id"] == rest
                ),
                networks,
            )
        if kind == "containers" and rest.startswith("json"):
            numbers = sorted(self.states)
            if "filters=" in rest:
                numbers = [number for number in numbers if ident(number) in rest]
            return [self.entry(number) for number in numbers]
        if kind == "containers":
            return self.inspect(int(rest.split("/")[0], 16))
        return {"Version": "0", "DockerRootDir": str(self.folder)}


class World:
    """The bridges in one namespace, the containers' ends of the links in another."""

    def __init__(self, docker: Docker) -> None:
        self.docker = docker
        self.outer, self.inner = f"bws{os.getpid()}", f"bws{os.getpid()}i"
        for name in (self.outer, self.inner):
            subprocess.run(["ip", "netns", "add", name], check=True)
        lines = []
        for bridge in range(docker.bridges):
            name = "br-" + docker.network(bridge)["Id"][:12]
            lines += [f"link add {name} type bridge", f"link set {name} up"]
        self.batch(self.outer, lines)

    def batch(self, namespace: str, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=text, text=True, check=True)

    def link(self, numbers: t.Iterable[int]) -> None:
        lines = []
        for number in numbers:
            bridge, _address, mac = self.docker.place(number)
            name = "br-" + self.docker.network(bridge)["Id"][:12]
            lines.append(f"link add v{number} type veth peer name e{number} address {mac} netns {self.inner}")
            lines.append(f"link set v{number} master {name} up")
        self.batch(self.outer, lines)

    def up(self, numbers: t.Iterable[int]) -> None:
        self.batch(self.inner, [f"link set e{number} up" for number in numbers])

    def clean(self) -> None:
        for name in (self.inner, self.outer):
            subprocess.run(["ip", "netns", "del", name], check=False)


class Beside(Started):
    """A process in the outer namespace."""

    def __init__(self, world: World, *arguments: str) -> None:
        self.world = world
        super().__init__(t.cast(t.Any, None), *arguments)

    def argv(self, dockerd: t.Any) -> list[str]:
        argv = ["ip", "netns", "exec", self.world.outer, "nice", "-n", "-10"]
        return [*argv, sys.executable, "-m", "bench.agent"]


def main() -> int:
    parser = argparse.ArgumentParser(description="what a start costs the agent beside many containers")
    parser.add_argument("--containers", type=int, default=2000)
    parser.add_argument("--ports", type=int, default=16384, help="that one of them publishes")
    parser.add_argument("--starts", type=int, default=100)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bws.") as name, contextlib.ExitStack() as ends:
        folder = Path(name)
        docker = Docker(folder, args.containers + args.starts, args.ports)
        docker.start()
        world = World(docker)
        ends.callback(world.clean)
        for number in range(args.containers):
            docker.states[number] = "running"
            docker.attach(number)
        world.link(range(args.containers))
        world.up(range(args.containers))
        agent = Beside(world, "--follow", f"unix://{docker.path}", str(folder))
        ends.callback(agent.stop)
        while len((first := agent.said.get(timeout=300))["ports"]) < args.containers:
            pass
        links = Beside(world, "--listen")
        ends.callback(links.stop)
        before = agent.cost()
        while True:  # until it only waits
            time.sleep(3)
            before, former = agent.cost(), before
            if before.ran - former.ran < 5:
                break
        times = []
        for number in range(args.containers, args.containers + args.starts):
            settings = folder / "containers" / ident(number) / "hostconfig.json"
            settings.parent.mkdir(parents=True)
            settings.write_text("{}")
            docker.states[number] = "created"
            docker.attach(number)
            world.link([number])
            time.sleep(0.2)
            links.all(), agent.all()
            world.up([number])
            carrier = links.said.get(timeout=10)
            while carrier["port"] not in (ready := agent.said.get(timeout=10))["ports"]:
                pass
            times.append((ready["commit"] - carrier["carrier"]) / 1e6)
        after = agent.cost()
        record = {
            "containers": args.containers,
            "published_ports": args.ports,
            "starts": args.starts,
            "milliseconds_from_carrier_to_message": distribution(times),
            "agent_milliseconds_a_start": {
                "ran": round((after.ran - before.ran) / args.starts, 1),
                "waited_for_a_processor": round((after.waited - before.waited) / args.starts, 1),
            },
            "commit_bytes": first["bytes"],
            "resident_kib": after.resident_kib,
            "load": os.getloadavg()[0],
        }
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "many.json").write_text(json.dumps(record, indent=1) + "\n")
        print(json.dumps(record, indent=1))
        print("".join(agent.words[-3:]), file=sys.stderr)
    return 0


if __name__ == "__main__":
    os.chdir(TOP)
    sys.exit(main())
