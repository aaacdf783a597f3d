# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts and events against a dockerd that runs on this machine."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.daemon import Agent
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import (
    EventStream,
    Message,
    Settings,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import Change
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as _bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store

pytestmark = pytest.mark.dockerd

Json = t.Dict[str, t.Any]


@pytest.fixture(scope="module")
def shop(dockerd: t.Any) -> t.Iterator[t.Any]:
    dockerd.docker("network", "create", "--ipv6", "--subnet", "2001:db8:1::/64", "front")
    dockerd.docker("network", "create", "-o", "com.docker.network.bridge.name=shop0", "--internal", "back")
    run = ("run", "-d", "--stop-timeout", "0")
    dockerd.docker(
        *run, "--name", "web", "--label", "tier=web", "--network", "front", "-p", "8081:8080", "waiter:1"
    )
    dockerd.docker(*run, "--name", "app", "--network", "front", "waiter:1")
    dockerd.docker("network", "connect", "back", "app")
    dockerd.docker(*run, "--name", "db", "--network", "back", "waiter:1")
    dockerd.docker(*run, "--name", "side", "--network", "container:app", "waiter:1")
    dockerd.docker("create", "--name", "cold", "--network", "front", "waiter:1")
    yield dockerd
    dockerd.docker("rm", "-f", "web", "app", "db", "side", "cold")
    dockerd.docker("network", "rm", "front", "back")


def containers(facts: Json) -> t.Dict[str, Json]:
    return {container["Name"]: container for container in facts["containers"]}


def ports_of_bridge(dockerd: t.Any, bridge: str) -> t.Set[str]:
    argv = ["ip", "netns", "exec", dockerd.netns, "ls", f"/sys/class/net/{bridge}/brif"]
    return set(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split())


def peer_of(dockerd: t.Any, container: Json, port: str) -> str:
    """The address behind a port, found the other way round: from inside the container."""
    argv = ["ip", "netns", "exec", dockerd.netns, "cat", f"/sys/class/net/{port}/iflink"]
    index = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    inside = ["nsenter", "-t", str(container["Pid"]), "-n", "ip", "-o", "-4", "addr"]
    lines = subprocess.run(inside, check=True, capture_output=True, text=True).stdout.splitlines()
    (line,) = [line for line in lines if line.startswith(index + ":")]
    return line.split()[3].split("/")[0]


def test_every_port_is_the_container_s_own(shop: t.Any) -> None:
    found = containers(shop.facts())
    seen = 0
    for name in ("web", "app", "db"):
        for network in found[name]["Networks"].values():
            assert network["Port"] in ports_of_bridge(shop, network["Link"])
            assert peer_of(shop, found[name], network["Port"]) == network["IPAddress"]
            seen += 1
    assert seen == 4


def test_networks_and_their_bridges(shop: t.Any) -> None:
    facts = shop.facts()
    networks = {network["Name"]: network for network in facts["networks"]}
    assert networks["back"]["Bridge"] == "shop0" and networks["back"]["Internal"]
    assert networks["front"]["Bridge"] == "br-" + networks["front"]["Id"][:12]
    for name in ("bridge", "front", "back"):
        network = networks[name]
        assert facts["links"][network["Bridge"]]["index"] == network["BridgeIndex"]
    assert containers(facts)["web"]["Networks"]["front"]["GlobalIPv6Address"].startswith("2001:db8:1::")


def test_states_labels_and_published_ports(shop: t.Any) -> None:
    found = containers(shop.facts())
    assert {name: found[name]["State"] for name in ("web", "cold")} == {"web": "running", "cold": "created"}
    assert found["web"]["Labels"] == {"tier": "web"}
    assert {"HostIp": "0.0.0.0", "HostPort": 8081, "ContainerPort": 8080, "Protocol": "tcp"} in found["web"][
        "Ports"
    ]
    assert found["side"]["Networks"] == {}
    assert found["cold"]["Networks"]["front"]["IPAddress"] is None


def test_a_stopped_container_has_no_address_any_more(shop: t.Any) -> None:
    before = containers(shop.facts())["db"]["Networks"]["back"]
    shop.docker("stop", "-t", "0", "db")
    stopped = containers(shop.facts())["db"]
    assert (stopped["State"], stopped["Networks"]["back"]["IPAddress"]) == ("exited", None)
    shop.docker("start", "db")
    after = containers(shop.facts())["db"]["Networks"]["back"]
    assert after["PortIndex"] and after["PortIndex"] != before["PortIndex"]


def test_the_bridges_that_are_docker_s(shop: t.Any) -> None:
    names = _bridge.ask_docker(shop.socket)
    assert names is not None and {"docker0", "shop0"} < names and len(names) == 3


class GetOnly(threading.Thread):
    """A proxy before dockerd's socket that passes GET on and refuses whatever else; it keeps what it was asked."""

    def __init__(self, path: Path, upstream: str) -> None:
        super().__init__(daemon=True)
        self.upstream = upstream
        self.asked: t.List[str] = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()

    def run(self) -> None:
        while True:
            try:
                client = self.server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as docker, contextlib.suppress(OSError):
            docker.connect(self.upstream)
            threading.Thread(target=self.pump, args=(docker, client), daemon=True).start()
            while True:
                request = b""
                while b"\r\n\r\n" not in request:
                    part = client.recv(65536)
                    if not part:
                        return
                    request += part
                self.asked.append(request.split(b"\r\n")[0].decode())
                if not request.startswith(b"GET "):
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
                    return
                docker.sendall(request)

    @staticmethod
    def pump(docker: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while part := docker.recv(65536):
                client.sendall(part)
            client.shutdown(socket.SHUT_RDWR)


def test_the_agent_only_ever_reads(shop: t.Any) -> None:
    """Through a proxy that lets nothing but GET pass: the facts, and the events."""
    path = shop.folder / "get.sock"
    proxy = GetOnly(path, str(shop.folder / "docker.sock"))
    proxy.start()
    # The proxy does refuse what writes, and the same command works without it.
    refused = subprocess.run(
        ["docker", "-H", f"unix://{path}", "rename", "cold", "warm"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode != 0
    shop.docker("rename", "cold", "warm")
    shop.docker("rename", "warm", "cold")
    before = len(proxy.asked)
    code = (
        "from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts\n"
        f"print(json.dumps(collect_facts('unix://{path}')))"
    )
    assert shop.python(code) == shop.facts()
    queued: t.Any = queue.SimpleQueue()
    stream = EventStream(f"unix://{path}", queued, Settings(overlap_seconds=0.0))
    stream.start()
    assert queued.get(timeout=10).kind == "connected"
    shop.docker("rename", "cold", "warm")
    shop.docker("rename", "warm", "cold")
    assert queued.get(timeout=10).words.endswith("rename")
    assert len(proxy.asked) > before + 5
    assert {line.split()[0] for line in proxy.asked[before:]} == {"GET"}
    proxy.server.close()


def test_what_is_kept_up_to_date_equals_what_is_asked_from_scratch(shop: t.Any) -> None:
    """After each of many things that happen: by the event's container, and by dockerd's list."""
    code = f"""
import subprocess
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch, collect_facts
socket = {shop.socket!r}
def docker(*arguments):
    return subprocess.run(["docker", "-H", socket, *arguments], check=True, capture_output=True, text=True).stdout.strip()
by_event, by_list = Watch(socket), Watch(socket)
by_event.facts(), by_list.facts()
found = []
def step(words, networks, *names):
    ids = [docker("inspect", "-f", "{{{{.Id}}}}", name) for name in names if name != "gone"]
    docker(*words)
    if "gone" in names:
        ids.append(gone)
    found.append([" ".join(words), by_event.facts(ids, networks) == collect_facts(socket), by_list.facts() == collect_facts(socket)])
step(["stop", "-t", "0", "web"], False, "web")
step(["start", "web"], False, "web")
step(["restart", "-t", "0", "db"], False, "db")
step(["rename", "web", "shop"], False, "web")
step(["rename", "shop", "web"], False, "shop")
step(["pause", "app"], False, "app")
step(["unpause", "app"], False, "app")
step(["network", "create", "fleeting"], True)
step(["network", "connect", "fleeting", "web"], False, "web")
step(["network", "disconnect", "fleeting", "web"], False, "web")
step(["network", "rm", "fleeting"], True)
step(["network", "disconnect", "back", "app"], False, "app")
step(["network", "connect", "back", "app"], False, "app")
gone = docker("run", "-d", "--network", "front", "-p", "8099:80", "waiter:1")
step(["start", gone], False, gone)
step(["rm", "-f", gone], False, "gone")
same = by_event.facts([docker("inspect", "-f", "{{{{.Id}}}}", "web")])
found.append(["nothing", same is by_event.facts([docker("inspect", "-f", "{{{{.Id}}}}", "web")]), True])
print(json.dumps(found))
"""
    found = shop.python(code)
    assert len(found) == 16
    assert [row for row in found if row[1:] != [True, True]] == []


def test_a_dockerd_that_hangs_is_noticed_and_so_is_its_return(shop: t.Any, tmp_path: Path) -> None:
    """SIGSTOP: connections are taken, nothing is answered, and the stream stays open."""
    settings = Settings(
        docker_socket=shop.socket, answer_seconds=1.0, retry_seconds=0.1, retry_max_seconds=0.5
    )
    told = io.StringIO()
    watch = Watch(shop.socket, settings.answer_seconds, tolerant=True)

    def ask(change: Change) -> None:
        watch.facts(change.containers if change.scope == "events" else None)

    store = Store(str(tmp_path / "etc"), str(tmp_path / "var"), str(tmp_path / "lock"))
    one = Agent(settings, store, Log(told), ask)
    one.stream = EventStream(shop.socket, one.wake, settings)
    one.stream.start()
    assert one.wake.get(timeout=10).kind == "connected"
    one.step(Change("start"))
    assert one.state.docker_reachable
    daemon = int((shop.folder / "pid").read_text())
    os.kill(daemon, signal.SIGSTOP)
    try:
        one.step(Change("check", "list"))
        assert not one.state.docker_reachable
        assert "dockerd" in told.getvalue()
        while one.wake.get(timeout=10).kind != "lost":
            pass  # what happened before
    finally:
        os.kill(daemon, signal.SIGCONT)
    while one.wake.get(timeout=60).kind != "connected":
        pass
    one.step(Change("Docker answers"))
    assert one.state.docker_reachable
    assert told.getvalue().endswith("<5>all is well again\n")


@pytest.fixture(scope="module")
def wake(shop: t.Any) -> t.Any:
    queued: t.Any = queue.SimpleQueue()
    settings = Settings(docker_socket=shop.socket, retry_seconds=0.1, retry_max_seconds=0.5)
    EventStream(shop.socket, queued, settings).start()
    assert queued.get(timeout=10) == Message("connected")
    return queued


class TestEvents:
    """The agent's stream; the last test takes dockerd away under it."""

    def until(self, wake: t.Any, kind: str, words: str = "", seconds: float = 30) -> float:
        began = time.monotonic()
        while True:
            word = wake.get(timeout=max(0.01, began + seconds - time.monotonic()))
            if word.kind == kind and words in word.words:
                return time.monotonic() - began

    @pytest.mark.parametrize(
        ("command", "wanted"),
        [
            (("stop", "-t", "0", "web"), "container web: die"),
            (("start", "web"), "container web: start"),
            (("rename", "web", "shop"), "rename"),
            (("rename", "shop", "web"), "rename"),
            (("pause", "web"), "container web: pause"),
            (("unpause", "web"), "container web: unpause"),
            (("network", "disconnect", "back", "app"), "network back: disconnect"),
            (("network", "connect", "back", "app"), "network back: connect"),
            (("network", "create", "fleeting"), "network fleeting: create"),
            (("network", "rm", "fleeting"), "network fleeting: destroy"),
        ],
    )
    def test_it_hears(self, shop: t.Any, wake: t.Any, command: t.Sequence[str], wanted: str) -> None:
        shop.docker(*command)
        self.until(wake, "event", wanted)

    def test_it_does_not_hear_what_changes_no_address(self, shop: t.Any, wake: t.Any) -> None:
        while not wake.empty():
            wake.get()
        shop.docker("exec", "web", "/nosuch", check=False)
        shop.docker("logs", "web")
        with pytest.raises(queue.Empty):
            wake.get(timeout=0.5)

    def test_it_comes_back_after_dockerd_does(self, shop: t.Any, wake: t.Any) -> None:
        shop.stop()
        self.until(wake, "lost")
        shop.start()
        assert shop.wait(40)
        self.until(wake, "connected")
        shop.docker("start", "web", "app", "db", "side")
        self.until(wake, "event", "container web: start")
