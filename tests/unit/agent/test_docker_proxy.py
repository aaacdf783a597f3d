# SPDX-License-Identifier: GPL-3.0-or-later
"""The first moment of a published port, with real sockets on loopback in docker-proxy's place."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import docker_proxy as docker_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.follower import (
    Change,
    Follower,
    Synced,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset

from tests.unit.commit.fake import FakeKernel
from tests.unit.make import attached, container, facts, network, published

BRIDGE, PORT, OTHER = 7, 11, 12
POLICY = {
    "guards": ["br-*"],
    "rules": [{"name": "in", "from": ["world"], "to": ["any"], "ports": ["80/tcp"]}],
}


def shop(*ports: int, port: int = PORT, proxy: bool = True, host_ip: str = "0.0.0.0") -> dict[str, t.Any]:
    web = container(
        "web",
        {"front": attached("172.28.0.2", LinkIndex=BRIDGE, PortIndex=port)},
        Ports=[published(number, 80, address=host_ip) for number in ports],
    )
    front = network("front", Subnets=["172.28.0.0/16"], BridgeIndex=BRIDGE)
    docker = {"version": "26.1.5", "userland_proxy": proxy}
    return facts([web], [front], docker=docker, default_route_links=[])


class Docker:
    """In the place of a Watch."""

    def __init__(self) -> None:
        self.now: dict[str, t.Any] = {}
        self.stuck: dict[str, str] = {}
        self.follows = False
        self.asked = 0

    def forget(self) -> None:
        pass

    def facts(self, _containers: t.Any = None, _networks: bool = False) -> dict[str, t.Any]:
        self.asked += 1
        return self.now


class Recorder(FakeKernel):
    def __init__(self) -> None:
        super().__init__()
        self.committed: list[Ruleset] = []

    def commit(self, ruleset: Ruleset, *args: t.Any, **words: t.Any) -> int:
        generation = super().commit(ruleset, *args, **words)
        self.committed.append(ruleset)
        return generation

    def endpoints(self) -> list[t.Any]:
        return []


class Host:
    def __init__(self, tmp_path: Path) -> None:
        self.kernel, self.docker = Recorder(), Docker()
        store = Store(*(str(tmp_path / name) for name in ("etc", "var", "lock")))
        store.write_policy(POLICY)
        self.follower = Follower(store, t.cast(t.Any, self.docker), lambda: self.kernel)

    def follow(self, now: dict[str, t.Any]) -> Synced:
        self.docker.now = now
        self.kernel.committed.clear()
        synced = self.follower(Change("test"))
        assert synced is not None
        return synced

    def known(self) -> list[int]:
        """How many endpoints each commit had."""
        return [len(ruleset.endpoints4) for ruleset in self.kernel.committed]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    found = Host(tmp_path)
    found.follow({**shop(), "containers": []})
    return found


@pytest.fixture
def listener() -> t.Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def number(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_a_new_port_is_known_before_its_container(host: Host) -> None:
    synced = host.follow(shop(18080))
    assert host.known() == [0, 1]
    first, second = host.kernel.committed
    assert first.publish == second.publish != []
    assert first.digest() != second.digest()
    assert (synced.changed, synced.proxy_ports) == (True, ())


def test_dockerd_is_asked_again_only_where_somebody_has_committed_meanwhile(
    host: Host, listener: socket.socket
) -> None:
    host.docker.asked = 0
    host.follow(shop(18080))
    assert (host.docker.asked, host.known()) == (1, [0, 1])
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        host.follower.PROXY_CLOSE_SECONDS = 0.3
        host.docker.asked = 0
        other = threading.Timer(0.1, lambda: setattr(host.kernel, "generation", host.kernel.generation + 1))
        other.start()
        host.follow(shop(number(listener), port=OTHER))
        other.join()
    assert host.docker.asked == 2


def test_each_address_of_a_container_waits_for_its_port(host: Host) -> None:
    """docker-proxy's sockets for any IPv4 and for any IPv6 address lead to one address each."""
    now = shop(18080)
    (web,) = now["containers"]
    web["Networks"]["front"]["GlobalIPv6Address"] = "2001:db8::2"
    web["Ports"].append(published(18080, 80, address="::"))
    host.follow(now)
    assert [(len(one.endpoints4), len(one.endpoints6)) for one in host.kernel.committed] == [(0, 0), (1, 1)]


def test_an_event_that_changes_nothing_still_tells_who_is_stuck(host: Host) -> None:
    host.follow({**shop(), "containers": []})
    host.docker.stuck = {"c" * 64: "status 500"}
    synced = host.follower(Change("container c: start", "events"))
    assert synced is not None
    assert (synced.changed, synced.stuck) == (False, {"c" * 64: "status 500"})


def test_an_event_whose_endpoints_the_kernel_closed_opens_them_again(host: Host) -> None:
    """A container on a macvlan that started anew may be where it was, in all that Docker says of it."""
    now = {**shop(), "containers": []}
    host.follow(now)
    host.kernel.returned = 2
    synced = host.follower(Change("container c: start", "events"))
    assert synced is not None
    assert (synced.changed, host.kernel.returned) == (True, 0)


def test_a_container_that_is_known_has_no_first_moment(host: Host) -> None:
    host.follow(shop(18080))
    host.follow(shop(18080, 18081))
    assert host.known() == [1]


def test_a_container_that_started_anew_has_one(host: Host) -> None:
    """At the same address, and between two looks."""
    host.follow(shop(18080))
    host.follow(shop(18080, port=OTHER))
    assert host.known() == [0, 1]


@pytest.mark.parametrize("now", [shop(), shop(18080, proxy=False)], ids=["no port", "no proxy"])
def test_without_a_docker_proxy_there_is_one_commit(host: Host, now: dict[str, t.Any]) -> None:
    host.follow(now)
    assert host.known() == [1]


def test_where_nothing_was_judged_before_nobody_is_cut_off(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.follow(shop(18080))
    assert host.known() == [1]


def test_the_container_waits_until_docker_proxy_has_let_go(host: Host, listener: socket.socket) -> None:
    """Of one in the backlog, of one that was taken, and of one whose client is gone already."""
    address = listener.getsockname()
    clients = [socket.create_connection(address) for _ in range(3)]
    for client in clients:
        client.send(b"words")
    taken = [listener.accept()[0] for _ in range(2)]
    clients[1].shutdown(socket.SHUT_WR)
    seen: list[int] = []

    def let_go() -> None:
        time.sleep(0.2)
        seen.append(len(host.kernel.committed))
        for one in (*taken, listener.accept()[0]):
            one.close()

    proxy = threading.Thread(target=let_go)
    proxy.start()
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
        synced = host.follow(shop(number(listener)))
        proxy.join()
    assert (seen, host.known(), synced.proxy_ports) == ([1], [0, 1], ())


def test_one_that_never_lets_go_is_told(host: Host, listener: socket.socket) -> None:
    host.follower.PROXY_CLOSE_SECONDS = 0.1
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        synced = host.follow(shop(number(listener)))
    assert (host.known(), synced.proxy_ports) == ([0, 1], (number(listener),))


@pytest.mark.parametrize(("host_ip", "held"), [("127.0.0.1", True), ("127.0.0.2", False), ("0.0.0.0", True)])
def test_only_a_socket_of_that_address_counts(
    host: Host, listener: socket.socket, host_ip: str, held: bool
) -> None:
    host.follower.PROXY_CLOSE_SECONDS = 0.1
    with socket.create_connection(listener.getsockname()), listener.accept()[0]:
        assert bool(host.follow(shop(number(listener), host_ip=host_ip)).proxy_ports) == held


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_datagrams_that_nobody_has_read_count(family: socket.AddressFamily, address: str) -> None:
    with (
        socket.socket(family, socket.SOCK_DGRAM) as server,
        socket.socket(family, socket.SOCK_DGRAM) as client,
    ):
        server.bind((address, 0))
        listeners = [(socket.IPPROTO_UDP, number(server), socket.inet_pton(family, address).ljust(16, b"\0"))]
        assert docker_proxy.wait_until_empty(listeners, 0)
        client.sendto(b"words", server.getsockname())
        assert not docker_proxy.wait_until_empty(listeners, 0)
        server.recv(10)
        assert docker_proxy.wait_until_empty(listeners, 0)


def test_an_ipv4_client_of_a_socket_for_both_families_counts() -> None:
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        listeners = [(socket.IPPROTO_TCP, number(server), socket.inet_aton("127.0.0.1").ljust(16, b"\0"))]
        assert docker_proxy.wait_until_empty(listeners, 0)
        with socket.create_connection(("127.0.0.1", number(server))):
            assert not docker_proxy.wait_until_empty(listeners, 0)


def test_where_sockets_cannot_be_read_they_count_as_held(tmp_path: Path) -> None:
    (tmp_path / "tcp").write_text("  sl  local_address ...\n")
    listeners = [(int(socket.IPPROTO_TCP), 80, b"")]
    assert docker_proxy.wait_until_empty(listeners, 0, str(tmp_path))  # without IPv6
    assert not docker_proxy.wait_until_empty(listeners, 0, str(tmp_path / "missing"))


def test_what_was_applied_is_written_down_when_it_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes longer than a commit, and the next container may start meanwhile; at the latest after a minute."""
    host = Host(tmp_path)
    host.follower = Follower(
        host.follower.store, t.cast(t.Any, host.docker), lambda: host.kernel, writes_later=True
    )
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def written() -> int:
        host.follower.write()
        return (host.follower.store.read_applied() or {"generation": 0})["generation"]

    assert host.follow(shop()).generation == 1 and written() == 0
    now[0] += 2.1
    assert written() == 1
    for number in range(45):
        now[0] += 1.5
        host.follow(shop(18080, port=100 + number))
        if number < 40:
            assert written() == 1
    assert written() > 40
    host.follow(shop(18081))
    host.follower.write(at_once=True)
    assert (host.follower.store.read_applied() or {})["generation"] == host.kernel.generation
