# SPDX-License-Identifier: GPL-3.0-or-later
"""Sessions, links and ports as they are found: on real sockets, in network namespaces of their own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import sshd as _sshd
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import SshListener

COLLECTIONS = Path(__file__).resolve().parents[3] / ".collections"
SERVER = Path(__file__).with_name("server.py")

LIBRARY = "from ansible_collections.bridgewarden.docker.plugins.module_utils"
LOOK = f"""
import json, sys
sys.path.insert(0, {str(COLLECTIONS)!r})
{LIBRARY}._host.sshd import find_sshd
print(json.dumps(find_sshd()))
"""
REFUSE = f"""
import json, sys
sys.path.insert(0, {str(COLLECTIONS)!r})
{LIBRARY}._commit.lockout import refuse_lockout
{LIBRARY}._commit.plan import make_plan
{LIBRARY}._errors import RefusedError
facts = {{"default_route_links": ["eth0"]}}
try:
    refuse_lockout(make_plan(json.loads(sys.argv[1]), facts))
    print("accepted")
except RefusedError as error:
    print(error.text())
"""
CONNECT = """
import socket, sys
host, port, words = sys.argv[1], int(sys.argv[2]), sys.argv[3]
info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
with socket.socket(info[0]) as one:
    if len(sys.argv) > 4:
        one.bind((sys.argv[4], 0))
    one.connect(info[4])
    one.sendall((words + "\\n").encode())
    print(one.makefile("r").readline() if words else "", flush=True)
    sys.stdin.read()
"""

Way = t.Tuple[str, str, int, t.Tuple[str, ...]]


class Host:
    """A host with an uplink and a bridge that it is managed over, each with somebody at the other end."""

    def __init__(self, folder: Path) -> None:
        number = os.getpid()
        self.folder = folder
        self.host, self.far, self.near = (f"bw{who}{number}" for who in ("h", "f", "n"))
        self.running: t.List[subprocess.Popen[str]] = []

    def program(self, name: str) -> str:
        return str(shutil.copy(shutil.which("cat") or "", self.folder / name))

    def up(self) -> None:
        for name in (self.host, self.far, self.near):
            self.ip("netns", "add", name)
        for name, link, far in ((self.far, "eth0", "up0"), (self.near, "port0", "up0")):
            self.ip("link", "add", link, "netns", self.host, "type", "veth", "peer", far, "netns", name)
        self.ip("-n", self.host, "link", "add", "br-mgmt", "type", "bridge")
        self.ip("-n", self.host, "link", "set", "port0", "master", "br-mgmt")
        for name, link, number in (
            (self.host, "eth0", "1.0.1"), (self.far, "up0", "1.0.2"),
            (self.host, "br-mgmt", "2.0.1"), (self.near, "up0", "2.0.2"),
        ):  # fmt: skip
            self.ip("-n", name, "address", "add", f"10.{number}/24", "dev", link)
            six = "fd00:%s::%s/64" % (number[0], number[-1])
            self.ip("-n", name, "address", "add", six, "dev", link, "nodad")
        for name, link in (
            (self.host, "eth0"), (self.host, "port0"), (self.host, "br-mgmt"), (self.host, "lo"),
            (self.far, "up0"), (self.near, "up0"), (self.far, "lo"),
        ):  # fmt: skip
            self.inside(name, "sysctl", "-qw", f"net.ipv6.conf.{link}.accept_dad=0")
            self.ip("-n", name, "link", "set", link, "up")
        self.ip("-n", self.host, "route", "add", "default", "via", "10.1.0.2")
        self.ip("-n", self.near, "route", "add", "10.1.0.0/24", "via", "10.2.0.1")

    def down(self) -> None:
        self.end()
        for name in (self.host, self.far, self.near):
            subprocess.run(["ip", "netns", "del", name], check=False)

    @staticmethod
    def ip(*words: str) -> str:
        return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout

    def inside(self, name: str, *words: str, **environment: str) -> str:
        clean = {key: value for key, value in os.environ.items() if key != "SSH_CONNECTION"}
        done = subprocess.run(
            ["ip", "netns", "exec", name, *words],
            capture_output=True, text=True, check=False, env={**clean, **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def begin(self, name: str, *words: str) -> str:
        """A process that stays; its first line."""
        argv = ["ip", "netns", "exec", name, *words]
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.running.append(process)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def end(self, keep: int = 0) -> None:
        for process in self.running[keep:]:
            os.killpg(process.pid, signal.SIGKILL)  # the server's children too
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        del self.running[keep:]

    def serve(self, name: str, *ports: int, sessions: str = "sshd-session") -> None:
        words = [self.program(sessions), *map(str, ports)]
        assert self.begin(name, sys.executable, str(SERVER), *words) == "listening"

    def connect(self, name: str, host: str, words: str = "login", port: int = 22, *source: str) -> None:
        answer = self.begin(name, sys.executable, "-c", CONNECT, host, str(port), words, *source)
        assert answer == ("ready" if words else "")

    def link_local(self, name: str, link: str) -> str:
        shown = self.ip("-o", "-6", "-n", name, "address", "show", "dev", link, "scope", "link")
        return shown.split()[3].partition("/")[0]

    def look(self, **environment: str) -> _sshd.Sshd:
        sessions, listeners, addresses = json.loads(
            self.inside(self.host, sys.executable, "-c", LOOK, **environment)
        )
        return _sshd.Sshd(
            tuple(_sshd.SshSession(*row[:3], tuple(row[3])) for row in sessions),
            tuple(SshListener(*row) for row in listeners),
            tuple((link, address) for link, address in addresses),
        )

    def ways(self, **environment: str) -> t.Set[Way]:
        return {tuple(session) for session in self.look(**environment).sessions}

    def refused(self, **policy: t.Any) -> str:
        return self.inside(self.host, sys.executable, "-c", REFUSE, json.dumps(policy)).strip()


@pytest.fixture
def host(tmp_path: Path) -> t.Iterator[Host]:
    found = Host(tmp_path)
    try:
        found.up()
        yield found
    finally:
        found.down()


@pytest.mark.netns
def test_sessions_and_the_links_they_run_over(host: Host) -> None:
    host.serve(host.host, 22)
    assert host.look().sessions == ()
    host.connect(host.far, "10.1.0.1")
    host.connect(host.far, "fd00:1::1")
    host.connect(host.near, "10.2.0.1")
    host.connect(host.near, "fd00:2::1")
    near, mine = host.link_local(host.near, "up0"), host.link_local(host.host, "br-mgmt")
    host.connect(host.near, f"{mine}%up0")
    # To the address of the one link, over the other one.
    host.connect(host.near, "10.1.0.1")
    assert host.ways() == {
        ("10.1.0.2", "10.1.0.1", 22, ("eth0",)),
        ("fd00:1::2", "fd00:1::1", 22, ("eth0",)),
        ("10.2.0.2", "10.2.0.1", 22, ("br-mgmt",)),
        ("fd00:2::2", "fd00:2::1", 22, ("br-mgmt",)),
        (near, mine, 22, ("br-mgmt",)),
        ("10.2.0.2", "10.1.0.1", 22, ("br-mgmt", "eth0")),
    }
    host.end(keep=1)
    assert host.ways() == set()


@pytest.mark.netns
def test_the_way_back_goes_by_the_rules_for_routes(host: Host) -> None:
    """A session that comes in over the uplink and is answered over the bridge."""
    host.serve(host.host, 22)
    host.ip("-n", host.far, "address", "add", "10.9.0.2/32", "dev", "lo")
    host.ip("-n", host.host, "route", "add", "10.9.0.0/24", "via", "10.1.0.2")
    host.connect(host.far, "10.1.0.1", "login", 22, "10.9.0.2")
    assert host.ways() == {("10.9.0.2", "10.1.0.1", 22, ("eth0",))}
    host.ip("-n", host.host, "route", "add", "10.9.0.0/24", "via", "10.2.0.2", "table", "7")
    host.ip("-n", host.host, "rule", "add", "from", "10.1.0.1", "table", "7")
    assert host.ways() == {("10.9.0.2", "10.1.0.1", 22, ("br-mgmt", "eth0"))}


@pytest.mark.netns
@pytest.mark.parametrize("sessions", ["sshd", "sshd-session"])
def test_what_is_no_session(host: Host, sessions: str) -> None:
    host.serve(host.host, 22, 2222, sessions=sessions)
    host.serve(host.far, 22)  # as in a container: another namespace's sshd is not ours
    host.connect(host.far, "10.1.0.1")
    session = {("10.1.0.2", "10.1.0.1", 22, ("eth0",))}
    assert host.ways() == session
    host.connect(host.far, "fd00:1::1", "auth")  # anybody can come as far as that
    host.connect(host.host, "127.0.0.1")
    host.connect(host.host, "10.1.0.1")
    host.connect(host.host, "fd00:2::1")
    host.connect(host.near, "10.2.0.1", "forward 10.1.0.2 22")
    session.add(("10.2.0.2", "10.2.0.1", 22, ("br-mgmt",)))
    assert host.ways() == session
    host.connect(host.near, "10.2.0.1", "listen 8080")
    host.connect(host.far, "10.1.0.1", "", 8080)
    assert (
        host.ways() == session
    )  # the same pair of addresses once more, and nothing from 10.1.0.2 to port 8080
    assert host.look().listeners == (SshListener("::", 22), SshListener("::", 2222))
    # Each of them is a connection that the tables have, all the same.
    assert host.inside(host.host, "ss", "-Htn", "state", "established").count("\n") >= 9


@pytest.mark.netns
def test_a_guard_over_a_session_s_link_is_refused(host: Host) -> None:
    assert host.refused(guards=["br-*"]) == "accepted"
    host.serve(host.host, 22)
    assert host.refused(guards=["br-*"]) == "accepted"
    peers = [("10.2.0.2", "10.2.0.1"), ("fd00:2::2", "fd00:2::1"), (host.link_local(host.near, "up0"), "")]
    for peer, server in peers:
        host.connect(host.near, server or host.link_local(host.host, "br-mgmt") + "%up0")
        said = host.refused(guards=["br-*"])
        assert f'the guard pattern "br-*" matches br-mgmt, over which {peer} has an SSH session' in said
        assert host.refused(guards=["br-[0-f][0-f][0-f][0-f]????????"]) == "accepted"
        host.end(keep=1)
        assert host.refused(guards=["br-*"]) == "accepted"


@pytest.mark.netns
def test_a_closed_port_is_refused_without_any_session(host: Host) -> None:
    deny = {"host_ingress": "deny"}
    admin = {"name": "admin", "from": ["10.1.0.0/24"], "to": ["host"], "ports": ["22/tcp"]}
    assert host.refused(defaults=deny) == "accepted"  # no sshd
    host.serve(host.host, 22)
    assert (
        "nobody outside reach sshd, which listens on port 22 (the default of host_ingress)"
        in host.refused(defaults=deny)
    )
    assert host.refused(defaults=deny, rules=[admin]) == "accepted"
    assert host.refused(defaults=deny, mode="audit") == "accepted"
    host.connect(host.near, "10.2.0.1")
    assert "would cut an SSH session, 10.2.0.2 to port 22 of 10.2.0.1" in host.refused(
        defaults=deny, rules=[admin]
    )


@pytest.mark.netns
def test_the_session_of_the_process_counts_although_no_sshd_is_found(host: Host) -> None:
    """As with another server for SSH; the scope of a link-local address is what names the link."""
    assert host.ways(SSH_CONNECTION="10.2.0.2 50000 10.2.0.1 22") == {
        ("10.2.0.2", "10.2.0.1", 22, ("br-mgmt",))
    }
    assert host.ways(SSH_CONNECTION="fe80::5%br-mgmt 50000 fe80::1%br-mgmt 22") == {
        ("fe80::5", "fe80::1", 22, ("br-mgmt",))
    }
    host.serve(host.host, 22)
    host.connect(host.near, "10.2.0.1")
    assert len(host.look(SSH_CONNECTION="10.2.0.2 50000 10.2.0.1 22").sessions) == 1


# Socket activation

SHOWN = """ActiveState=active
Listen=[::]:22 (Stream)
Listen=10.2.2.2:2222 (Stream)
Listen=[fd00::1]:2223 (Stream)
Listen=/run/ssh-unix-local/socket (Stream)

ActiveState=inactive
Listen=0.0.0.0:4444 (Stream)
"""


def test_systemd_listens_for_sshd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_sshd.shutil, "which", lambda _name: "/usr/bin/systemctl")
    asked: t.List[t.Sequence[str]] = []

    def run(argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        asked.append(argv)
        return 0, SHOWN, ""

    monkeypatch.setattr(_sshd, "run", run)
    assert _sshd.listeners_of_units() == {
        SshListener("::", 22),
        SshListener("10.2.2.2", 2222),
        SshListener("fd00::1", 2223),
    }
    assert asked[0][-2:] == ["ssh.socket", "sshd.socket"]
    monkeypatch.setattr(_sshd, "run", lambda _argv: (1, "", "System has not been booted with systemd"))
    assert _sshd.listeners_of_units() == set()
    monkeypatch.setattr(_sshd.shutil, "which", lambda _name: None)
    monkeypatch.setattr(_sshd, "run", lambda _argv: 1 // 0)
    assert _sshd.listeners_of_units() == set()


def test_a_listener_serves_the_addresses_of_its_family() -> None:
    assert SshListener("::", 22).serves("10.0.0.1") and SshListener("::", 22).serves("fd00::1")
    assert SshListener("0.0.0.0", 22).serves("10.0.0.1") and not SshListener("0.0.0.0", 22).serves("fd00::1")
    assert SshListener("10.0.0.1", 22).serves("10.0.0.1") and not SshListener("10.0.0.1", 22).serves(
        "10.0.0.2"
    )


def test_a_process_of_another_name_is_no_sshd() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as mine:
        port = mine.getsockname()[1]
        assert port not in {listener.port for listener in _sshd.find_sshd().listeners}
