# SPDX-License-Identifier: GPL-3.0-or-later
"""What networks list, as Docker 20.10.24 and 28.5.2 answered, and which port is whose."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import (
    Attached,
    new_ports,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import assemble, fixed_ports
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link

Json = t.Dict[str, t.Any]
WEB, DB = "a" * 64, "b" * 64
STEP = "wq1pcm14781hyfr69q2bi35wq"


def row(number: int, name: str) -> Json:
    return {
        "Name": name, "EndpointID": f"{number:064x}", "MacAddress": f"02:42:AC:11:00:{number:02x}",
        "IPv4Address": f"172.17.0.{number}/16", "IPv6Address": f"fd00::{number:x}/64",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("network", "key", "name", "kind"),
    [
        ("front", WEB, "web", "container"),
        ("front", "ep-" + "0" * 64, "web", "joining"),
        ("bridge", "ep-" + "0" * 64, STEP, "joining"),
        ("bridge", STEP, STEP, "build"),
        ("front", STEP, STEP, "unknown"),
        ("docker_gwbridge", WEB, "gateway_27e81e3643fa", "task"),
        ("docker_gwbridge", "ingress-sbox", "gateway_ingress-sbox", "mesh"),
        ("front", "ingress-sbox", "gateway_ingress-sbox", "unknown"),
        ("front", "", "", "unknown"),
    ],
)
def test_kinds(network: str, key: str, name: str, kind: str) -> None:
    (one,) = Attached(network, {key: row(2, name)}).by_endpoint.values()
    assert (one.kind, one.mac, one.ipv4, one.ipv6) == (kind, "02:42:ac:11:00:02", "172.17.0.2", "fd00::2")


def test_a_network_without_attachments() -> None:
    assert Attached("front", None).by_endpoint == Attached("front", {}).by_endpoint == {}
    with_one = {WEB: row(2, "web")}
    assert Attached("front", with_one) == Attached("front", with_one) != Attached("front", {})


FRONT = Attached("front", {WEB: row(2, "web"), DB: row(3, "db")})
MAC_WEB, MAC_DB = "02:42:ac:11:00:02", "02:42:ac:11:00:03"
WEBS, DBS = f"{2:064x}", f"{3:064x}"


@pytest.mark.parametrize(
    ("behind", "bound", "found"),
    [
        ({7: MAC_WEB, 8: MAC_DB}, {}, {7: WEBS, 8: DBS}),
        ({7: MAC_WEB}, {DBS: 7}, {}),  # a port stays whose it is
        ({7: MAC_WEB}, {WEBS: 6}, {}),  # and an endpoint stays where it is
        ({7: MAC_WEB, 8: MAC_WEB}, {}, {}),  # which of them?
        ({7: ""}, {}, {}),  # its peer could not be asked about
        ({7: "02:42:ac:11:00:09"}, {}, {}),
    ],
)
def test_which_port_is_whose(behind: t.Dict[int, str], bound: t.Dict[str, int], found: Json) -> None:
    assert new_ports(FRONT, behind, bound) == found


def test_an_address_that_two_attachments_have_is_nobody_s() -> None:
    twins = Attached("front", {WEB: row(2, "web"), DB: {**row(3, "db"), "MacAddress": MAC_WEB}})
    assert new_ports(twins, {7: MAC_WEB}, {}) == {}


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        (None, None),
        ({}, []),
        ({"PublishAllPorts": True}, None),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}}, None),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "0"}]}}, None),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}}, None),
        ({"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}}, [("127.0.0.1", 8080)]),
        ({"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}}, [("0.0.0.0", 8080), ("::", 8080)]),
    ],
)  # fmt: skip
def test_the_ports_that_a_container_will_publish(settings: t.Any, found: t.Any) -> None:
    ports = fixed_ports(settings)
    assert found == (ports and [(port["HostIp"], port["HostPort"]) for port in ports])


LINKS = [Link(3, "br-" + "c" * 12, "bridge", 0, -1), Link(7, "veth7", "veth", 3, 0)]


def coming(settings: t.Any, proxy: bool = True, key: str = WEB, bound: t.Any = None) -> Json:
    """The facts of a container that dockerd is about to start."""
    entry = {
        "Id": WEB, "Names": ["/web"], "State": "created", "Labels": {"tier": "web"}, "HostConfig": {"NetworkMode": "front"},
        "NetworkSettings": {"Networks": {"front": {"NetworkID": "c" * 64, "EndpointID": "", "IPAddress": ""}}},
    }  # fmt: skip
    front = {"Id": "c" * 64, "Name": "front", "Driver": "bridge"}
    answers = {
        "version": "28.5.2", "userland_proxy": proxy, "containers": [entry], "inspects": {}, "networks": [front],
        "attached": {front["Id"]: Attached("front", {key: row(2, "web")})},
        "settings": {} if settings is None else {WEB: settings},
    }  # fmt: skip
    return assemble(answers, LINKS, [], {}, None, {7: WEBS} if bound is None else bound)["containers"][0]


@pytest.mark.parametrize("key", [WEB, "ep-" + WEBS])
def test_a_container_that_is_about_to_run_has_its_endpoint(key: str) -> None:
    web = coming({}, key=key)
    front = web["Networks"]["front"]
    assert (web["State"], web["Labels"], web["Pid"]) == ("running", {"tier": "web"}, 0)
    assert (front["IPAddress"], front["GlobalIPv6Address"]) == ("172.17.0.2", "fd00::2")
    assert (front["Link"], front["LinkIndex"], front["Port"], front["PortIndex"]) == (
        LINKS[0].name,
        3,
        "veth7",
        7,
    )
    without = coming({}, key=key, bound={})
    assert without["Networks"]["front"]["PortIndex"] is None and without["State"] == "created"


def test_its_published_ports_are_known_with_it_or_it_has_to_wait() -> None:
    chosen = {"PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": ""}]}}
    fixed = {"PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}]}}
    for settings, proxy, port, ports in (
        (fixed, True, 7, [8080]),
        (chosen, True, None, []),
        (None, True, None, []),
        (chosen, False, 7, []),  # without docker-proxy nobody is served who was not judged
        (None, False, 7, []),
    ):
        found = coming(settings, proxy)
        assert found["Networks"]["front"]["PortIndex"] == port
        assert [one["HostPort"] for one in found["Ports"]] == ports
