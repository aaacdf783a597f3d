# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP to dockerd over its socket, and dockerd's refusals in words.

Runs before anything is installed: the standard library only.  Sends GET and nothing else.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket as socketlib
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    DockerUnavailable,
    PermissionDenied,
)

# Docker, without its library.


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class NoSuchThing(ValueError):
    """dockerd says 404."""


def get_json(connection: UnixConnection, path: str) -> t.Any:
    """The JSON answer to GET `path`. Raises OSError, ValueError or http.client.HTTPException."""
    connection.request("GET", path)
    return get_answer(connection, path)


def get_answer(connection: UnixConnection, path: str) -> t.Any:
    """The same, where it has been asked for already."""
    response = connection.getresponse()
    if response.status != 200:
        raise refusal(response, path)
    body = response.read()
    return json.loads(body) if body.strip() != b"OK" else "OK"


def refusal(response: http.client.HTTPResponse, path: str) -> ValueError:
    """The error for an answer other than 200, with dockerd's own message."""
    body = response.read(64 * 1024).decode("utf-8", "replace")
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body
    words = " ".join(said.split())[:500]
    kind = NoSuchThing if response.status == 404 else ValueError
    return kind("GET %s: status %d%s" % (path.partition("?")[0], response.status, words and ": " + words))


def docker_get(path: str, socket: str = DEFAULT_SOCKET, timeout: float = 10.0) -> t.Any:
    """dockerd's answer to GET `path`, over a connection of its own."""
    connection = UnixConnection(socket_path(socket), timeout)
    try:
        return get_json(connection, path)
    finally:
        connection.close()


def socket_path(socket: str) -> str:
    path = socket[len("unix://") :] if socket.startswith("unix://") else socket
    if not path.startswith("/"):
        raise DockerUnavailable(
            f"{socket!r} is no local socket", "docker socket", f"give it as {DEFAULT_SOCKET}"
        )
    return path


def check_socket(socket: str = DEFAULT_SOCKET, timeout: float = 5.0) -> None:
    """Tells apart, before the library is asked: no Docker, dockerd down, no permission."""
    path = socket_path(socket)
    probe = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
    probe.settimeout(timeout)
    try:
        probe.connect(path)
    except socketlib.timeout:
        raise DockerUnavailable(
            "dockerd does not take connections", path, "look at 'systemctl status docker'"
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied("no permission for Docker's socket", path, "run as root (become: true)")
        if error.errno == errno.ENOENT and not find_dockerd():
            raise DockerUnavailable("Docker is not installed", path, "install docker.io (or docker-ce) first")
        raise DockerUnavailable("dockerd is not running", path, "start it: systemctl start docker")
    finally:
        probe.close()


def find_dockerd() -> t.Optional[str]:
    return shutil.which(
        "dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"
    )


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
