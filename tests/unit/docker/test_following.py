# SPDX-License-Identifier: GPL-3.0-or-later
"""An agent beside a real dockerd: what it commits when, and that what it has come to know is what dockerd says."""

from __future__ import annotations

import shutil
import subprocess
import time
import typing as t
from pathlib import Path

import pytest

from tests.following import Following

pytestmark = pytest.mark.dockerd

POLICY = {
    "mode": "enforce",
    "groups": {"web": {"labels": {"tier": "web"}}},
    "rules": [
        {"name": "web", "from": ["world"], "to": ["web"], "ports": ["80/tcp"]},
        {"name": "cold", "action": "deny", "from": ["label:tier=cold"], "to": ["any"]},
    ],
}
FIRST = """
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%ld.%09ld\\n", (long)now.tv_sec, now.tv_nsec);
    fflush(stdout);
    sleep(argc > 1 ? 3 : 0);
    return 0;
}
"""


@pytest.fixture(scope="module")
def shop(dockerd: t.Any, tmp_path_factory: pytest.TempPathFactory) -> t.Iterator[t.Any]:
    """`first:1` says when its first instruction ran, and waits with an argument."""
    folder = tmp_path_factory.mktemp("first")
    (folder / "first.c").write_text(FIRST)
    subprocess.run(["cc", "-static", "-Os", "-o", folder / "first", folder / "first.c"], check=True)
    subprocess.run(["tar", "-C", folder, "-cf", folder / "first.tar", "first"], check=True)
    dockerd.docker("import", "-c", 'ENTRYPOINT ["/first"]', str(folder / "first.tar"), "first:1")
    dockerd.docker("network", "create", "--ipv6", "--subnet", "2001:db8:7::/64", "lane")
    yield dockerd
    dockerd.docker("network", "rm", "lane")


@pytest.fixture
def agent(shop: t.Any) -> t.Iterator[Following]:
    folder = Path(shop.folder) / "agent"
    shutil.rmtree(folder, ignore_errors=True)
    following = Following(shop, folder, POLICY)
    yield following
    following.stop()


def run(shop: t.Any, *arguments: str) -> float:
    """When the container's process began."""
    return float(shop.docker("run", "--rm", "--network", "lane", *arguments, "first:1").stdout)


def test_a_container_is_known_before_its_process_runs(shop: t.Any, agent: Following) -> None:
    """Also where it publishes a port, by docker-proxy: its port is known before that."""
    margins = []
    for number, more in enumerate(((), ("--label", "tier=web"), ("-p", "18099:80"), ())):
        before = len(agent.commits)
        began = run(shop, "--name", f"once{number}", *more)
        commits = [commit for commit in agent.commits[before:] if commit["endpoints"]]
        assert commits, agent.words[-5:]
        margins.append(began - commits[0]["at"])
        assert all(port for commit in commits for _address, _identity, _link, port in commit["endpoints"])
        assert {len(bytes.fromhex(row[0])) for row in commits[0]["endpoints"]} == {4, 16}
    assert sorted(margins)[1] > 0, margins  # a busy machine may delay one


def test_a_port_that_dockerd_chooses_is_waited_for(shop: t.Any, agent: Following) -> None:
    """docker-proxy serves it before anybody knows it: the container must not be reachable before it is."""
    shop.docker("run", "-d", "--name", "chosen", "--network", "lane", "-p", "80", "waiter:1")
    try:
        kept, _fresh = agent.facts()
        (chosen,) = kept["containers"]
        number = chosen["Networks"]["lane"]["IPAddress"]
        wanted = bytes(map(int, number.split("."))).hex()
        agent.until(lambda commit: wanted in [row[0] for row in commit["endpoints"]])
        assert chosen["Ports"]
        assert all(", 1 published" not in word for word in agent.words)
    finally:
        shop.docker("rm", "-f", "chosen")


def test_what_it_has_come_to_know_is_what_dockerd_says(shop: t.Any, agent: Following) -> None:
    shop.docker("network", "create", "fleeting")
    steps = (
        ("run", "-d", "--name", "aa", "--network", "lane", "--label", "tier=web", "waiter:1"),
        ("run", "-d", "--name", "bb", "--network", "lane", "-p", "18098:80", "waiter:1"),
        ("network", "connect", "fleeting", "aa"),
        ("restart", "-t", "0", "aa"),
        ("rename", "aa", "cc"),
        ("pause", "cc"),
        ("unpause", "cc"),
        ("network", "disconnect", "fleeting", "cc"),
        ("create", "--name", "cold", "--network", "fleeting", "waiter:1"),
        ("start", "cold"),
        ("run", "-d", "--name", "side", "--network", "container:bb", "waiter:1"),
        ("kill", "bb"),
        ("rm", "-f", "cc", "bb", "cold", "side"),
        ("network", "rm", "fleeting"),
    )
    for words in steps:
        shop.docker(*words)
        kept, fresh = agent.facts()
        assert kept == fresh, words
    assert not any("mistake" in word for word in agent.words), agent.words


def test_many_at_once(shop: t.Any, agent: Following) -> None:
    names = [f"many{number}" for number in range(12)]
    starts = [
        subprocess.Popen(
            ["docker", "-H", shop.socket, "run", "-d", "--name", name, "--network", "lane", "waiter:1"],
            stdout=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [start.wait(60) for start in starts] == [0] * len(names)
    kept, fresh = agent.facts()
    assert kept == fresh and len(kept["containers"]) == len(names)
    shop.docker("rm", "-f", *names)
    kept, fresh = agent.facts()
    assert kept == fresh and kept["containers"] == []


def test_a_mac_address_that_a_container_takes_gives_it_nothing(shop: t.Any, agent: Following) -> None:
    """With CAP_NET_ADMIN it can have its neighbour's; the neighbour's endpoint stays at the neighbour's port."""
    for name in ("honest", "thief"):
        shop.docker("run", "-d", "--name", name, "--network", "lane", "waiter:1")
    try:
        before, _fresh = agent.facts()
        honest, thief = before["containers"]
        pid, mac = str(thief["Pid"]), honest["Networks"]["lane"]["MacAddress"]
        script = f"ip link set eth0 down && ip link set eth0 address {mac} && ip link set eth0 up"
        subprocess.run(["nsenter", "-t", pid, "-n", "sh", "-c", script], check=True)
        time.sleep(0.5)
        assert agent.facts()[0] == before
        # Nor where the neighbour starts anew while the thief has its address.
        shop.docker("restart", "-t", "0", "honest")
        after, fresh = agent.facts()
        assert after == fresh
        ports = {one["Name"]: one["Networks"]["lane"]["PortIndex"] for one in after["containers"]}
        assert ports["thief"] == thief["Networks"]["lane"]["PortIndex"] != ports["honest"]
        for commit in agent.commits:
            by_port = {row[3]: row[0] for row in commit["endpoints"] if len(row[0]) == 8}
            address = bytes(map(int, honest["Networks"]["lane"]["IPAddress"].split("."))).hex()
            assert by_port.get(ports["thief"]) != address
    finally:
        shop.docker("rm", "-f", "honest", "thief")


def test_swarm_s_tasks_and_its_routing_mesh_are_known(shop: t.Any, agent: Following) -> None:
    if shop.docker("swarm", "init", "--advertise-addr", "127.0.0.1", check=False).returncode:
        pytest.skip("this kernel has no overlay networks; the scenario default has the same by packets")
    try:
        shop.docker("service", "create", "--detach", "--name", "web", "-p", "18097:80", "waiter:1")
        end = time.monotonic() + 30
        while time.monotonic() < end:
            kept, fresh = agent.facts()
            tasks = [one for one in kept["containers"] if one["Name"].startswith("web.1.")]
            if tasks and "docker_gwbridge" in tasks[0]["Networks"] and kept == fresh:
                break
        (mesh,) = kept["attachments"]
        assert (mesh["Kind"], mesh["Name"]) == ("mesh", "swarm-ingress")
        place = mesh["Networks"]["docker_gwbridge"]
        assert place["Link"] == "docker_gwbridge" and place["PortIndex"] and place["IPAddress"]
        its = tasks[0]["Networks"]["docker_gwbridge"]
        assert its["PortIndex"] not in (None, place["PortIndex"]) and its["IPAddress"]
    finally:
        shop.docker("swarm", "leave", "--force")
        shop.docker("network", "rm", "docker_gwbridge", check=False)


def test_a_build_step_is_known_while_it_runs_and_not_afterwards(shop: t.Any, agent: Following) -> None:
    """BuildKit's, which is no container of the API and makes no event."""
    if subprocess.run(["docker", "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip(
            "no docker buildx here (Debian 12 has none); the scenario default has the same by packets"
        )
    folder = Path(shop.folder) / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text('FROM first:1\nRUN ["/first", "wait"]\n')
    build = subprocess.Popen(
        ["docker", "-H", shop.socket, "build", "--no-cache", "-q", str(folder)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    commit = agent.until(lambda one: bool(one["endpoints"]), 30)
    kept, fresh = agent.facts()
    assert build.wait(60) == 0, build.stderr and build.stderr.read()
    assert kept == fresh
    (step,) = kept["attachments"]
    place = step["Networks"]["bridge"]
    assert (step["Kind"], place["Link"]) == ("build", "docker0")
    ((address, _identity, link, port),) = commit["endpoints"]
    assert (link, port) == (place["LinkIndex"], place["PortIndex"])
    assert bytes.fromhex(address) == bytes(map(int, place["IPAddress"].split(".")))
    agent.until(lambda one: one["commit"] > commit["commit"] and not one["endpoints"])
    assert agent.facts()[0]["attachments"] == []
