# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host without a working Docker is told."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.events import EventStream, Settings
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import connection
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import daemon as daemon_room
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import (
    check_socket,
    docker_get,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.daemon import Daemon
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch, collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import DockerUnavailable
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Rtnl


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_dockerd", lambda: None)
    with pytest.raises(DockerUnavailable, match=r"not installed.*install docker\.io"):
        check_socket(f"unix://{tmp_path}/docker.sock")


def test_installed_but_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_dockerd", lambda: "/usr/sbin/dockerd")
    with pytest.raises(DockerUnavailable, match="systemctl start docker"):
        check_socket(f"unix://{tmp_path}/docker.sock")


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "docker.sock"))
    with pytest.raises(DockerUnavailable, match="not running"):
        check_socket(f"unix://{tmp_path}/docker.sock")


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2376", "docker.sock", ""])
def test_only_local_sockets(url: str) -> None:
    with pytest.raises(DockerUnavailable, match=r"unix:///var/run/docker\.sock"):
        check_socket(url)


def test_a_namespace_that_has_just_gone_is_no_failure(tmp_path: Path) -> None:
    """dockerd unmounts the namespace before it removes the file under it."""
    (tmp_path / "sandbox").touch()
    with Rtnl() as rtnl:
        assert rtnl.nsid(str(tmp_path / "sandbox")) == -1
        assert rtnl.nsid(str(tmp_path / "gone")) == -1


def test_something_else_answers(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.listen()

    def nonsense() -> None:
        while True:
            try:
                peer: t.Any = server.accept()[0]
            except OSError:
                return
            with contextlib.suppress(OSError), peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops")

    threading.Thread(target=nonsense, daemon=True).start()
    try:
        with pytest.raises(DockerUnavailable, match=str(path)):
            collect_facts(f"unix://{path}", 5)
    finally:
        server.close()


class SlowDocker(threading.Thread):
    """Answers everything at once, but about the container `stuck` not at all."""

    LISTED: t.ClassVar[t.List[t.Dict[str, t.Any]]] = [
        {
            "Id": name, "Names": ["/" + name], "State": "running", "Labels": {}, "Ports": ports,
            "NetworkSettings": {"Networks": {"front": {"NetworkID": "n" * 64, "IPAddress": address, "EndpointID": "e"}}},
        }
        for name, address, ports in (
            ("stuck", "172.30.0.2", [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]),
            ("fine", "172.30.0.3", []),
        )
    ]  # fmt: skip

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.hangs = True
        self.held: t.Set[str] = set()
        self.late: t.List[socket.socket] = []
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()

    def run(self) -> None:
        while True:
            try:
                peer = self.server.accept()[0]
            except OSError:
                return
            threading.Thread(target=self.serve, args=(peer,), daemon=True).start()

    def serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while request := peer.recv(65536).decode():
                path = request.split()[1]
                if path.startswith("/containers/stuck") and self.hangs:
                    self.late.append(peer)
                    self.held.add(path.split("/")[2])
                    continue
                self.say(peer, path)

    def say(self, peer: socket.socket, path: str) -> None:
        body = json.dumps(self.answer(path)).encode()
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def answer(self, path: str) -> t.Any:
        if path.startswith("/containers/json"):
            return self.LISTED
        if path == "/networks":
            return [{"Id": "n" * 64, "Name": "front", "Driver": "bridge"}]
        for entry in self.LISTED:
            if path == f"/containers/{entry['Id']}/json":
                return {
                    "Id": entry["Id"], "Name": "/" + entry["Id"], "State": {"Status": "running", "Pid": 7},
                    "Config": {"Labels": {}}, "NetworkSettings": {"Networks": entry["NetworkSettings"]["Networks"]},
                }  # fmt: skip
        return {"Version": "26"}


def test_one_container_that_hangs_does_not_hold_up_the_others(tmp_path: Path) -> None:
    docker = SlowDocker(tmp_path / "docker.sock")
    docker.start()
    url = f"unix://{tmp_path}/docker.sock"
    with pytest.raises(DockerUnavailable):
        Watch(url, 0.3).facts()  # for one question the whole answer, or none
    watch = Watch(url, 1.5, tolerant=True)
    found = {container["Name"]: container for container in watch.facts()["containers"]}
    assert set(watch.stuck) == {"stuck"}
    assert found["fine"]["Pid"] == 7 and found["stuck"]["Pid"] == 0
    # It is not taken away: what the list tells holds.
    assert found["stuck"]["Networks"]["front"]["IPAddress"] == "172.30.0.2"
    assert found["stuck"]["Ports"] == [
        {"HostIp": "0.0.0.0", "HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp"}
    ]
    watch.facts()
    assert set(watch.stuck) == {"stuck"}
    docker.hangs = False
    assert {item["Name"]: item["Pid"] for item in watch.facts(["fine"])["containers"]} == {
        "fine": 7,
        "stuck": 7,
    }
    assert not watch.stuck
    docker.hangs = True
    kept = {item["Name"]: item["Pid"] for item in watch.facts(["stuck"])["containers"]}
    assert set(watch.stuck) == {"stuck"} and kept == {"fine": 7, "stuck": 7}
    docker.server.close()


def test_many_that_hang_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a host starts all of its containers at once: each has its answer outstanding before one is given up."""
    names = [f"stuck{number}" for number in range(30)]
    template = SlowDocker.LISTED[0]
    listed = [{**template, "Id": name, "Names": [f"/{name}"]} for name in names]
    monkeypatch.setattr(SlowDocker, "LISTED", [*listed, *SlowDocker.LISTED])
    monkeypatch.setattr(daemon_room, "SLOW_ANSWER_SECONDS", 0.01)
    docker = SlowDocker(tmp_path / "docker.sock")
    docker.start()
    held: t.List[int] = []
    wait = Daemon._wait

    def watched(self: t.Any, waiting: t.Any, found: t.Any) -> None:
        # The server may be slow to read what was asked; asked one after another it would not get far.
        end = time.monotonic() + 30
        while len(docker.held) < 31 and time.monotonic() < end:
            time.sleep(0.01)
        held.append(len(docker.held))
        wait(self, waiting, found)

    monkeypatch.setattr(Daemon, "_wait", watched)
    watch = Watch(f"unix://{tmp_path}/docker.sock", 1.5, tolerant=True)
    found = {container["Name"]: container["Pid"] for container in watch.facts()["containers"]}
    assert set(watch.stuck) == {"stuck", *names} and held == [31]
    assert found["fine"] == 7 and found["stuck3"] == 0
    docker.hangs = False
    assert {
        container["Pid"] for container in watch.facts(names)["containers"] if container["Name"] != "stuck"
    } == {7}
    docker.server.close()


def test_an_answer_that_comes_late_is_taken(tmp_path: Path) -> None:
    """And over which connection does not matter: the next question goes over another one."""
    docker = SlowDocker(tmp_path / "docker.sock")
    docker.start()

    def let_go() -> None:
        while "stuck" not in docker.held:
            time.sleep(0.01)
        time.sleep(0.2)
        for peer in docker.late:
            docker.say(peer, "/containers/stuck/json")

    threading.Thread(target=let_go, daemon=True).start()
    watch = Watch(f"unix://{tmp_path}/docker.sock", 20.0, tolerant=True)
    assert {container["Name"]: container["Pid"] for container in watch.facts()["containers"]} == {
        "fine": 7,
        "stuck": 7,
    }
    assert not watch.stuck
    docker.server.close()


NIL = "RWLayer of container stuck is unexpectedly nil"


class BrokenDocker(SlowDocker):
    """Answers about the container `stuck` at once, but with what `refusal` says."""

    refusal = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: %d\r\n\r\n%s" % (
        len(NIL) + 15, json.dumps({"message": NIL}).encode(),
    )  # fmt: skip

    def serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            while request := peer.recv(65536).decode():
                path = request.split()[1]
                if path.startswith("/containers/stuck") and self.hangs:
                    peer.sendall(self.refusal)
                    if not self.refusal:
                        return
                    continue
                self.say(peer, path)


@pytest.fixture
def broken(tmp_path: Path) -> t.Iterator[BrokenDocker]:
    docker = BrokenDocker(tmp_path / "docker.sock")
    docker.start()
    yield docker
    docker.server.close()


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (BrokenDocker.refusal, NIL),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nno way", "status 403: no way"),
        (b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n", "status 409"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{", "Expecting property name"),
        (b"", "closed connection without response"),
    ],
    ids=["500", "403", "409", "no JSON", "end of the connection"],
)
def test_one_container_whose_inspect_fails_stops_nobody(
    refusal: bytes, words: str, broken: BrokenDocker, tmp_path: Path
) -> None:
    broken.refusal = refusal
    url = f"unix://{tmp_path}/docker.sock"
    watch = Watch(url, 2.0, tolerant=True)
    for ask in (lambda: watch.facts(), lambda: watch.facts(), lambda: watch.facts(["fine"])):
        found = {container["Name"]: container for container in ask()["containers"]}
        assert set(watch.stuck) == {"stuck"} and words in watch.stuck["stuck"]
        assert found["fine"]["Pid"] == 7 and found["stuck"]["Pid"] == 0
        assert found["stuck"]["Networks"]["front"]["IPAddress"] == "172.30.0.2"
    broken.hangs = False
    assert {item["Name"]: item["Pid"] for item in watch.facts()["containers"]} == {"fine": 7, "stuck": 7}
    assert not watch.stuck


def test_the_modules_warn_of_it_by_name_and_with_dockerds_words(broken: BrokenDocker, tmp_path: Path) -> None:
    warnings: t.List[str] = []
    found = {
        container["Name"]: container
        for container in collect_facts(f"unix://{tmp_path}/docker.sock", 2.0, warnings.append)["containers"]
    }
    assert found["fine"]["Pid"] == 7
    assert found["stuck"]["Networks"]["front"]["IPAddress"] == "172.30.0.2"
    (text,) = warnings
    assert "container stuck" in text and NIL in text and "journalctl -u docker" in text
    broken.hangs = False
    collect_facts(f"unix://{tmp_path}/docker.sock", 2.0, warnings.append)
    assert warnings == [text]


def test_dockerds_own_message_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old(SlowDocker):
        def say(self, peer: socket.socket, path: str) -> None:
            body = b'{"message":"client version 1.51 is too new.\\nMaximum supported API version is 1.41"}'
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    docker = Old(tmp_path / "docker.sock")
    docker.start()
    with pytest.raises(DockerUnavailable, match=r"status 400: client version .* too new\. Maximum supported"):
        collect_facts(f"unix://{tmp_path}/docker.sock", 2.0)
    with pytest.raises(ValueError, match="status 400: client version"):
        docker_get("/networks", f"unix://{tmp_path}/docker.sock")
    stream = EventStream(f"unix://{tmp_path}/docker.sock", queue.SimpleQueue(), Settings())
    with pytest.raises(ValueError, match="GET /events: status 400: client version"):
        next(stream.words())
    docker.server.close()
