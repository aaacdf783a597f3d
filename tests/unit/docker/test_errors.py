# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host without a working Docker is told."""

from __future__ import annotations

import contextlib
import socket
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils import _docker
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import DockerUnavailable
from ansible_collections.bridgewarden.docker.plugins.module_utils._rtnl import Rtnl


def test_no_docker_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "find_dockerd", lambda: None)
    with pytest.raises(DockerUnavailable, match=r"not installed.*install docker\.io"):
        _docker.check_socket(f"unix://{tmp_path}/docker.sock")


def test_installed_but_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docker, "find_dockerd", lambda: "/usr/sbin/dockerd")
    with pytest.raises(DockerUnavailable, match="systemctl start docker"):
        _docker.check_socket(f"unix://{tmp_path}/docker.sock")


def test_a_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(tmp_path / "docker.sock"))
    with pytest.raises(DockerUnavailable, match="not running"):
        _docker.check_socket(f"unix://{tmp_path}/docker.sock")


@pytest.mark.parametrize("url", ["tcp://10.0.0.1:2376", "docker.sock", ""])
def test_only_local_sockets(url: str) -> None:
    with pytest.raises(DockerUnavailable, match=r"unix:///var/run/docker\.sock"):
        _docker.check_socket(url)


def test_a_namespace_that_has_just_gone_is_no_failure(tmp_path: Path) -> None:
    """dockerd unmounts the namespace before it removes the file under it."""
    (tmp_path / "sandbox").touch()
    with Rtnl() as rtnl:
        assert rtnl.nsid(str(tmp_path / "sandbox")) == -1
        assert rtnl.nsid(str(tmp_path / "gone")) == -1


def test_something_else_answers(tmp_path: Path) -> None:
    import threading

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
            _docker.collect(f"unix://{path}", 5)
    finally:
        server.close()
