# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of a bridge that come and go, and the address behind them, in a network namespace of the test's own."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import (
    Link,
    LinkChanges,
    Rtnl,
)

pytestmark = pytest.mark.netns
MAC = "02:42:ac:1c:00:02"


def ip(netns: str, *lines: str) -> None:
    text = "".join(f"{line}\n" for line in lines)
    subprocess.run(["ip", "-n", netns, "-batch", "-"], input=text, text=True, check=True)


@pytest.fixture
def inner(netns: str) -> t.Iterator[str]:
    """A bridge br0 with the port p0, whose peer is down in the namespace that this names."""
    name = f"{netns}i"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        ip(netns, "link add br0 type bridge", "link set br0 up")
        ip(netns, f"link add p0 type veth peer name e0 netns {name}", "link set p0 master br0 up")
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def until(changes: LinkChanges, wanted: t.Callable[[Link, bool], bool]) -> Link:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if select.select([changes], [], [], 10)[0]:
            for link, there in changes.read()[0]:
                if wanted(link, there):
                    return link
    raise AssertionError("the kernel did not report it")


def named(name: str) -> Link:
    with Rtnl() as rtnl:
        rtnl.links()  # the dump is what numbers the peers' namespaces
        return next(link for link in rtnl.links() if link.name == name)


def test_a_port_that_gets_carrier_is_heard_with_its_bridge_and_its_peer(netns: str, inner: str) -> None:
    changes = LinkChanges()
    try:
        before = named("p0")
        assert not before.carrier
        ip(inner, f"link set e0 address {MAC}", "link set e0 up")
        port = until(changes, lambda link, there: there and link.name == "p0" and link.carrier)
        assert (port.kind, port.master) == ("veth", named("br0").index)
        assert (port.netnsid, port.peer) == (before.netnsid, before.peer)
        assert port.netnsid >= 0 and port.peer > 0
        ip(netns, "link del p0")
        gone = until(changes, lambda link, there: not there and link.name == "p0")
        assert gone.index == port.index
    finally:
        changes.close()


def test_what_was_lost_is_said_once_and_what_comes_after_is_heard(netns: str) -> None:
    changes = LinkChanges()
    try:
        changes._wire._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        ip(netns, *(f"link add b{number} type bridge" for number in range(20)))
        assert changes.read()[1]
        assert changes.read() == ([], False)
        ip(netns, "link set lo up")
        until(changes, lambda link, there: there and link.name == "lo")
    finally:
        changes.close()


def test_the_address_behind_a_port(netns: str, inner: str) -> None:
    ip(inner, f"link set e0 address {MAC}")
    port = named("p0")
    with Rtnl() as rtnl:
        assert rtnl.peer_address(port).hex(":") == MAC
        assert rtnl.peer_address(Link(port.index, "p0", "veth", port.master, port.netnsid, 4711)) == b""
        assert rtnl.peer_address(Link(port.index, "p0", "veth", port.master, 4711, port.peer)) == b""


@pytest.mark.parametrize(("capability", "found"), [("net_admin", MAC), ("net_raw", "")])
def test_it_takes_one_capability_which_the_agent_s_unit_has(
    netns: str, inner: str, capability: str, found: str
) -> None:
    ip(inner, f"link set e0 address {MAC}")
    collections = Path(__file__).resolve().parents[3] / ".collections"
    code = (
        f"import sys, json; sys.path.insert(0, {str(collections)!r})\n"
        "from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link, Rtnl\n"
        f"port = Link(*{[getattr(named('p0'), key) for key in ('index', 'name', 'kind', 'master', 'netnsid', 'peer')]!r})\n"
        "with Rtnl() as rtnl:\n    print(json.dumps(rtnl.peer_address(port).hex(':')))\n"
    )
    argv = ["ip", "netns", "exec", netns, "setpriv", "--inh-caps=-all", f"--bounding-set=-all,+{capability}"]
    done = subprocess.run([*argv, sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == found


def test_what_is_heard_while_nothing_is_known_is_taken_and_read_anew(netns: str) -> None:
    """Else the agent's loop would find the socket readable for ever, as long as dockerd is down."""
    watch = Watch("unix:///nonexistent/docker.sock", 1.0, tolerant=True)
    watch.follow()
    try:
        (changes,) = watch.sockets()
        ip(netns, "link add br0 type bridge")
        assert select.select([changes], [], [], 5)[0]
        watch.hear()
        assert not select.select([changes], [], [], 0)[0]
        assert not watch.waiting and not watch.stale_networks()
    finally:
        watch.close()
