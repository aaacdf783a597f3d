# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts and events against a dockerd that runs on this machine."""

from __future__ import annotations

import queue
import subprocess
import time
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils import _agent, _bridge

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


@pytest.fixture(scope="module")
def wake(shop: t.Any) -> t.Any:
    queued: t.Any = queue.SimpleQueue()
    settings = _agent.Settings(docker_socket=shop.socket, retry=0.1, retry_limit=0.5)
    _agent.EventStream(shop.socket, queued, settings).start()
    assert queued.get(timeout=10) == _agent.Word("connected")
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
