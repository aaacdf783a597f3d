# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host lacks: kernels and their packages, Secure Boot, Docker over a socket; all without installed libraries."""

from __future__ import annotations

import ast
import json
import os
import shutil
import socket
import sys
import threading
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import (
    packages,
    preflight,
    secure_boot,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.packages import (
    has_headers,
    header_packages,
    missing_packages,
    newer_kernels,
    unknown_to_apt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.preflight import (
    Problem,
    _examine_kernel,
    examine,
    examine_docker,
)

LIBRARY = "ansible_collections.bridgewarden.docker.plugins.module_utils."


@pytest.mark.parametrize(
    ("release", "meta"),
    [
        ("5.10.0-32-cloud-amd64", "linux-headers-cloud-amd64"),
        ("5.10.0-32-686-pae", "linux-headers-686-pae"),
        ("6.1.0-56-amd64", "linux-headers-amd64"),
        ("6.1.0-0.deb11.5-rt-amd64", "linux-headers-rt-amd64"),
        ("6.12.117+deb13-cloud-amd64", "linux-headers-cloud-amd64"),
        ("7.2.13+deb15+1-arm64", "linux-headers-arm64"),
        ("6.18.44", ""),
    ],
)
def test_the_meta_package_follows_the_flavour(release: str, meta: str) -> None:
    assert header_packages(release) == ("linux-headers-" + release, meta)


def kernel(modules: Path, release: str, headers: bool = True) -> None:
    (modules / release / "kernel").mkdir(parents=True)
    if headers:
        (modules / release / "build").mkdir()
        (modules / release / "build" / "Makefile").touch()


def test_headers_are_there_only_with_a_makefile(tmp_path: Path) -> None:
    kernel(tmp_path, "6.1.0-56-amd64")
    kernel(tmp_path, "6.1.0-50-amd64", headers=False)
    (tmp_path / "6.1.0-50-amd64" / "build").symlink_to("/usr/src/gone")
    assert has_headers("6.1.0-56-amd64", str(tmp_path))
    assert not has_headers("6.1.0-50-amd64", str(tmp_path))


def test_a_newer_kernel_of_the_same_flavour_is_a_reboot_that_is_due(tmp_path: Path) -> None:
    for release in ("6.1.0-9-amd64", "6.1.0-50-amd64", "6.1.0-56-amd64", "6.12.1-cloud-amd64"):
        kernel(tmp_path, release)
    assert newer_kernels("6.1.0-50-amd64", str(tmp_path)) == ["6.1.0-56-amd64"]
    assert newer_kernels("6.1.0-9-amd64", str(tmp_path)) == ["6.1.0-50-amd64", "6.1.0-56-amd64"]
    assert newer_kernels("6.1.0-56-amd64", str(tmp_path)) == []


class FakeDebian:
    """dpkg-query, apt-cache and mokutil."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installed: t.Set[str] = set()
        self.known: t.Set[str] = set()
        self.mok = ""
        for room in (packages, secure_boot):
            monkeypatch.setattr(room, "run", self)
        monkeypatch.setattr(shutil, "which", lambda name, path=None: "/usr/bin/" + name)

    def __call__(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        if argv[0] == "dpkg-query":
            return 1, "".join(f"{name} installed\n" for name in argv if name in self.installed), ""
        if argv[0] == "apt-cache":
            lines = [
                f"{name}:\n  Installed: (none)\n  Candidate: {'1.0' if name in self.known else '(none)'}\n"
                for name in argv[2:]
                if name in self.known or name != "dkms"
            ]
            return 0, "".join(lines), ""
        return 1, self.mok, ""


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> FakeDebian:
    return FakeDebian(monkeypatch)


RELEASE = "6.12.117+deb13-cloud-amd64"


def test_only_what_is_missing_is_named(debian: FakeDebian) -> None:
    debian.installed = {"dkms", "linux-headers-cloud-amd64"}
    assert missing_packages(RELEASE, headers=True) == ["python3-jmespath"]


def test_the_running_kernel_s_own_headers_come_beside_the_meta_package(debian: FakeDebian) -> None:
    wanted = missing_packages(RELEASE, headers=False)
    assert wanted is not None
    assert wanted[:3] == ["dkms", "linux-headers-" + RELEASE, "linux-headers-cloud-amd64"]


def test_headers_that_the_archive_no_longer_has(debian: FakeDebian, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "has_headers", lambda _release: False)
    debian.known = {"dkms", "linux-headers-cloud-amd64"}
    problems: t.List[Problem] = []
    _examine_kernel(RELEASE, {}, problems, [])
    (problem,) = [p for p in problems if "headers" in p.problem]
    assert "linux-headers-" + RELEASE in problem.location
    assert "linux-image-cloud-amd64" in problem.hint and "reboot" in problem.hint


def test_empty_package_lists_prove_nothing(debian: FakeDebian) -> None:
    debian.known = set()
    assert unknown_to_apt(["linux-headers-" + RELEASE]) == set()


@pytest.mark.parametrize(
    ("signed_only", "enrolled", "refused"),
    [(False, None, False), (True, None, True), (True, False, True), (True, True, False)],
)
def test_secure_boot_without_a_known_key_is_a_problem(
    debian: FakeDebian,
    monkeypatch: pytest.MonkeyPatch,
    signed_only: bool,
    enrolled: t.Optional[bool],
    refused: bool,
) -> None:
    state = {
        "enabled": signed_only,
        "lockdown": "integrity",
        "signed_only": signed_only,
        "key": None,
        "key_enrolled": enrolled,
    }
    monkeypatch.setattr(preflight, "secure_boot", lambda: state)
    problems: t.List[Problem] = []
    _examine_kernel(RELEASE, {}, problems, [])
    found = [p for p in problems if "signed" in p.problem]
    assert bool(found) == refused
    assert all("mokutil --import" in p.hint for p in found)


@pytest.mark.parametrize(
    ("name", "wanted"), [("modules_supported", "CONFIG_MODULES"), ("modules_disabled", "until reboot")]
)
def test_a_kernel_that_takes_no_module(
    debian: FakeDebian, monkeypatch: pytest.MonkeyPatch, name: str, wanted: str
) -> None:
    monkeypatch.setattr(preflight, "modules_supported", lambda: name != "modules_supported")
    monkeypatch.setattr(preflight, "modules_disabled", lambda: name == "modules_disabled")
    problems: t.List[Problem] = []
    _examine_kernel(RELEASE, {}, problems, [])
    assert [p.problem for p in problems if wanted in p.problem]


def test_old_kernels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for release, refused in (("5.9.16-amd64", True), ("5.10.0-32-amd64", False), ("6.1.0-1-amd64", False)):
        monkeypatch.setattr(
            os, "uname", lambda release=release: os.uname_result(("L", "h", release, "v", "x86_64"))
        )
        report = examine(str(tmp_path / "none.sock"))
        assert any("too old" in p.problem for p in report.problems) == refused, release


# Docker.


class FakeDocker(threading.Thread):
    def __init__(self, path: Path, version: str) -> None:
        super().__init__(daemon=True)
        self.version = version
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(str(path))
        self.server.listen()

    def run(self) -> None:
        while True:
            try:
                peer = self.server.accept()[0]
            except OSError:
                return
            with peer:
                asked = peer.recv(4096).decode().split()[1]
                body = (
                    b"OK"
                    if asked == "/_ping"
                    else json.dumps({"Version": self.version, "ApiVersion": "1.41"}).encode()
                )
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.mark.parametrize(
    ("version", "refused"),
    [("19.03.15", True), ("20.10.5+dfsg1", False), ("26.1.5+dfsg1", False), ("28.5.2", False)],
)
def test_docker_s_version(tmp_path: Path, version: str, refused: bool) -> None:
    docker = FakeDocker(tmp_path / "docker.sock", version)
    docker.start()
    problems: t.List[Problem] = []
    facts = examine_docker(f"unix://{tmp_path}/docker.sock", problems)
    docker.server.close()
    assert facts["version"] == version and bool(problems) == refused


def test_docker_missing_and_docker_down_are_two_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docker.sock"
    for dockerd, wanted in ((None, "not installed"), ("/usr/sbin/dockerd", "systemctl start docker")):
        monkeypatch.setattr(shutil, "which", lambda *_all, dockerd=dockerd, **_more: dockerd)
        problems: t.List[Problem] = []
        examine_docker(str(path), problems)
        assert wanted in problems[0].text()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    problems = []
    examine_docker(str(path), problems)
    assert "does not answer" in problems[0].problem


def test_a_dockerd_that_waits_for_us_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But only where our drop-in is there and the module is not."""
    monkeypatch.setattr(shutil, "which", lambda *_all, **_more: "/usr/sbin/dockerd")
    drop_in = tmp_path / "bridgewarden.conf"
    for installed, loaded, held in ((False, False, False), (True, True, False), (True, False, True)):
        monkeypatch.setattr(preflight, "is_loaded", lambda _name, loaded=loaded: loaded)
        if installed:
            drop_in.touch()
        problems: t.List[Problem] = []
        facts = examine_docker(str(tmp_path / "docker.sock"), problems, str(drop_in))
        assert facts["held"] is held
        assert bool(problems) is not held


def test_every_problem_has_a_location_and_a_hint(tmp_path: Path) -> None:
    report = examine(str(tmp_path / "none.sock"))
    assert report.problems
    for problem in report.problems:
        assert problem.problem and problem.location and problem.hint


def test_it_imports_the_standard_library_only() -> None:
    """It runs where nothing of ours is installed yet."""
    names: t.Set[str] = set()
    library = Path(preflight.__file__).parents[1]
    files, seen = [Path(preflight.__file__)], set()
    while files:
        path = files.pop()
        if path in seen:
            continue
        seen.add(path)
        tree = ast.parse(path.read_text())
        names |= {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARY):
                files.append(library / (str(node.module)[len(LIBRARY) :].replace(".", "/") + ".py"))
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
    assert len(seen) > 5
    known = getattr(sys, "stdlib_module_names", None)
    if known is None:
        pytest.skip("Python 3.9 has no list of its own modules")
    assert {name.split(".")[0] for name in names} <= set(known)
