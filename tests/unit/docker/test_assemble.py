# SPDX-License-Identifier: GPL-3.0-or-later
"""Facts out of what real daemons answered: data/ holds recordings of Docker 20.10.24 and 26.1.5 with links and namespaces."""

from __future__ import annotations

import copy
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import (
    assemble,
    network_bridge,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.userland_proxy import userland_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link

Json = t.Dict[str, t.Any]
DATA = Path(__file__).parent / "data"


def recording(version: str) -> Json:
    return t.cast(Json, json.loads((DATA / f"docker-{version}.json").read_text()))


def assembled(record: Json) -> Json:
    links = [Link(**link) for link in record["links"]]
    return assemble(record["answers"], links, record["default_route_links"], record["nsids"])


@pytest.fixture
def old() -> Json:
    return recording("20.10.24")


@pytest.fixture
def new() -> Json:
    return recording("26.1.5")


def by_name(items: t.List[Json], name: str) -> Json:
    (found,) = [item for item in items if item["Name"] == name]
    return found


def test_each_port_is_the_one_of_its_bridge(old: Json) -> None:
    app = by_name(assembled(old)["containers"], "app")
    assert {name: (net["Link"], net["Port"]) for name, net in app["Networks"].items()} == {
        "bridge": ("docker0", "vethce838f7"),
        "front": ("br-cb1e1b687f74", "veth4bbef38"),
    }
    front = app["Networks"]["front"]
    assert (front["IPAddress"], front["GlobalIPv6Address"]) == ("172.18.0.2", "2001:db8:1::2")
    assert (front["LinkIndex"], front["PortIndex"]) == (3, 7)


@pytest.mark.parametrize(
    ("options", "parent"), [({"parent": "eth0.7"}, "eth0.7"), ({}, "dm-" + "0123456789ab")]
)
def test_a_macvlan_container_is_told_by_parent_and_namespace(old: Json, options: Json, parent: str) -> None:
    front = next(network for network in old["answers"]["networks"] if network["Name"] == "front")
    front.update(Driver="macvlan", Id="0123456789abcdef", Options=options)
    app = next(item for item in old["answers"]["inspects"].values() if item["Name"] == "/app")
    app["NetworkSettings"]["Networks"]["front"]["NetworkID"] = front["Id"]
    links = [Link(**link) for link in old["links"]] + [Link(77, parent, "vlan", 0, -1)]
    inodes = {app["NetworkSettings"]["SandboxKey"]: 4026532573}
    facts = assemble(old["answers"], links, old["default_route_links"], old["nsids"], inodes)
    found = by_name(facts["containers"], "app")["Networks"]["front"]
    assert (found["Link"], found["LinkIndex"], found["PortIndex"]) == (None, None, None)
    assert (found["Parent"], found["ParentIndex"], found["Namespace"]) == (parent, 77, 4026532573)
    assert by_name(facts["networks"], "front")["ParentIndex"] == 77


def test_the_contract_holds_for_both_versions(old: Json, new: Json) -> None:
    for record in (old, new):
        facts = assembled(record)
        assert set(facts) == {
            "docker", "containers", "attachments", "networks", "links", "default_route_links",
        }  # fmt: skip
        for container in facts["containers"]:
            assert set(container) == {
                "Id", "Name", "Image", "State", "Pid", "NetworkMode", "Labels", "Networks", "Ports",
            }  # fmt: skip
            for network in container["Networks"].values():
                assert set(network) == {
                    "NetworkID", "IPAddress", "GlobalIPv6Address", "MacAddress", "Link", "LinkIndex", "Port", "PortIndex",
                    "Parent", "ParentIndex", "Namespace",
                }  # fmt: skip
                assert "" not in network.values()
        for network in facts["networks"]:
            assert set(network) == {
                "Id", "Name", "Driver", "Internal", "EnableIPv6", "Subnets", "Bridge", "BridgeIndex", "Labels",
                "Parent", "ParentIndex", "Gateways",
            }  # fmt: skip
        json.dumps(facts)


def test_every_address_of_the_shop_has_its_port(new: Json) -> None:
    facts = assembled(new)
    assert facts["docker"] == {"version": "26.1.5+dfsg1", "userland_proxy": True}
    assert facts["default_route_links"] == ["eth0"]
    ports = [net["Port"] for c in facts["containers"] for net in c["Networks"].values()]
    assert len(ports) == 5 and None not in ports and len(set(ports)) == 5


def test_published_ports_and_no_exposed_ones(old: Json) -> None:
    containers = assembled(old)["containers"]
    assert by_name(containers, "web")["Ports"] == [
        {"HostIp": "0.0.0.0", "HostPort": 8081, "ContainerPort": 8080, "Protocol": "tcp"},
        {"HostIp": "::", "HostPort": 8081, "ContainerPort": 8080, "Protocol": "tcp"},
    ]
    assert by_name(containers, "app")["Ports"] == [
        {"HostIp": "127.0.0.1", "HostPort": 9000, "ContainerPort": 9000, "Protocol": "udp"}
    ]


def test_what_has_no_address_has_no_link(old: Json) -> None:
    containers = assembled(old)["containers"]
    cold, hostnet, side = (by_name(containers, name) for name in ("cold", "hostnet", "side"))
    assert cold["State"] == "created" and cold["Pid"] == 0
    assert set(cold["Networks"]["front"].values()) - {cold["Networks"]["front"]["NetworkID"]} == {None}
    assert cold["Networks"]["front"]["NetworkID"].startswith("cb1e1b687f74")
    assert hostnet["NetworkMode"] == "host" and hostnet["Networks"]["host"]["Link"] is None
    assert side["NetworkMode"].startswith("container:") and side["Networks"] == {}


def test_a_paused_container_keeps_its_addresses(old: Json) -> None:
    for entry in old["answers"]["containers"]:
        if "/web" in entry["Names"]:
            entry["State"] = "paused"
    web = by_name(assembled(old)["containers"], "web")
    assert web["State"] == "paused" and web["Networks"]["bridge"]["Port"]


def test_one_that_went_between_the_two_calls_is_left_out(old: Json) -> None:
    gone = next(e["Id"] for e in old["answers"]["containers"] if "/web" in e["Names"])
    del old["answers"]["inspects"][gone]
    assert "web" not in [container["Name"] for container in assembled(old)["containers"]]


def test_a_port_that_cannot_be_told_is_null_and_never_a_guess(old: Json) -> None:
    without = copy.deepcopy(old)
    without["nsids"] = {}
    app = by_name(assembled(without)["containers"], "app")
    assert app["Networks"]["front"]["Port"] is None and app["Networks"]["front"]["PortIndex"] is None
    assert (
        app["Networks"]["front"]["IPAddress"] == "172.18.0.2" and app["Networks"]["front"]["LinkIndex"] == 3
    )
    # A veth that left its bridge is nobody's port there.
    for link in old["links"]:
        if link["name"] == "veth4bbef38":
            link["master"] = 0
    assert by_name(assembled(old)["containers"], "app")["Networks"]["front"]["Port"] is None


def test_bridges_by_option_by_id_and_none(old: Json) -> None:
    networks = {network["Name"]: network for network in assembled(old)["networks"]}
    assert (networks["bridge"]["Bridge"], networks["bridge"]["BridgeIndex"]) == ("docker0", 2)
    assert networks["front"]["Bridge"] == "br-cb1e1b687f74"
    assert networks["front"]["Gateways"] == ["172.18.0.1"]
    assert networks["front"]["EnableIPv6"] and "2001:db8:1::/64" in networks["front"]["Subnets"]
    assert (networks["host"]["Bridge"], networks["host"]["BridgeIndex"]) == (None, None)
    named = {"Id": "f" * 64, "Driver": "bridge", "Options": {"com.docker.network.bridge.name": "shop0"}}
    assert network_bridge(named) == "shop0"


def test_legacy_links_do_not_change_a_name(old: Json) -> None:
    for entry in old["answers"]["containers"]:
        if "/cold" in entry["Names"]:
            entry["Names"] = ["/other/alias", "/cold"]
    assert "cold" in [container["Name"] for container in assembled(old)["containers"]]


class TestUserlandProxy:
    @pytest.fixture
    def told(self, tmp_path: Path) -> t.Callable[..., t.Optional[bool]]:
        def tell(*arguments: str, config: t.Optional[str] = None) -> t.Optional[bool]:
            (tmp_path / "7").mkdir(exist_ok=True)
            (tmp_path / "docker.pid").write_text("7\n")
            (tmp_path / "daemon.json").write_text(config or "{}")
            line = ["/usr/sbin/dockerd", "--config-file", str(tmp_path / "daemon.json"), *arguments]
            (tmp_path / "7" / "cmdline").write_bytes(b"\0".join(part.encode() for part in line) + b"\0")
            return userland_proxy(str(tmp_path / "docker.pid"), str(tmp_path))

        return tell

    def test_what_counts(self, told: t.Callable[..., t.Optional[bool]]) -> None:
        assert told() is True
        assert told("--userland-proxy=false") is False
        assert told("--userland-proxy=true", config='{"userland-proxy": false}') is True
        assert told(config='{"userland-proxy": false}') is False
        assert told(config="not json") is None

    def test_unknown_is_none(self, tmp_path: Path) -> None:
        assert userland_proxy(str(tmp_path / "none.pid"), str(tmp_path)) is None
