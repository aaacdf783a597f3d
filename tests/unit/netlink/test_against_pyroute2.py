# SPDX-License-Identifier: GPL-3.0-or-later
"""The same questions to the running kernel, through the library's own wire and through pyroute2: the same answers."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.genetlink import GenericFamily
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link, Rtnl
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.wire import text

pyroute2 = pytest.importorskip("pyroute2")

CTRL_CMD_GETFAMILY = 3
WORLD = """
link set lo up
link add br0 type bridge
link add br1 type bridge
link add d0 type veth peer name d1
link add v0 type veth peer name v1
link set v0 master br0
link set br0 up
link set d0 up
link set d1 up
link set v0 up
link set v1 up
address add 192.0.2.1/24 dev d0
address add 198.51.100.1 peer 198.51.100.2/32 dev d0
address add 2001:db8::1/64 dev d0 nodad
route add default via 192.0.2.254
route add default via 192.0.2.253 dev d0 table 7
route add default via 192.0.2.252 dev d0 metric 9
route add ::/0 metric 5 nexthop via 2001:db8::fe dev d0 nexthop via fe80::1 dev br0
neighbour add 2001:db8::5 lladdr 02:00:00:00:00:05 dev d0
neighbour add fe80::5 lladdr 02:00:00:00:00:05 dev br0
neighbour add 192.0.2.5 lladdr 02:00:00:00:00:05 dev d0
"""


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


@pytest.fixture
def world(netns: str) -> t.Iterator[str]:
    """Links of several kinds, one of them with its peer in another namespace; returns that one's path."""
    inner = f"{netns}i"
    subprocess.run(["ip", "netns", "add", inner], check=True)
    try:
        subprocess.run(["ip", "-n", netns, "-batch", "-"], input=WORLD, text=True, check=True)
        subprocess.run(
            ["ip", "-n", netns, "link", "add", "v2", "type", "veth", "peer", "name", "e", "netns", inner]
        )
        yield f"/run/netns/{inner}"
    finally:
        subprocess.run(["ip", "netns", "del", inner], check=True)


@pytest.mark.netns
def test_rtnetlink(world: str) -> None:
    with Rtnl() as ours, pyroute2.IPRoute() as theirs:
        links = ours.links()
        assert {link.name for link in links} == {"lo", "br0", "br1", "d0", "d1", "v0", "v1", "v2"}
        assert sorted(links, key=lambda link: link.index) == [
            Link(
                message["index"],
                message.get_attr("IFLA_IFNAME"),
                message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
                message.get_attr("IFLA_MASTER") or 0,
                -1
                if message.get_attr("IFLA_LINK_NETNSID") is None
                else message.get_attr("IFLA_LINK_NETNSID"),
                message.get_attr("IFLA_LINK") or 0,
                bool(message.get_attr("IFLA_CARRIER")),
            )
            for message in sorted(theirs.get_links(), key=lambda message: message["index"])
        ]
        index = {link.name: link.index for link in links}
        number = next(link.netnsid for link in links if link.name == "v2")
        assert number >= 0 and ours.nsid(world) == number
        handle = os.open(world, os.O_RDONLY)
        assert theirs.get_netnsid(fd=handle)["nsid"] == number
        os.close(handle)

        addresses = ours.addresses()
        assert (index["d0"], packed("198.51.100.1")) in addresses and len(addresses) > 5
        assert sorted(addresses) == sorted(
            (message["index"], packed(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")))
            for message in theirs.get_addr()
        )
        assert ours.neighbours() == {
            (index["d0"], packed("2001:db8::5")), (index["br0"], packed("fe80::5")),
        } | {
            (message["ifindex"], packed(message.get_attr("NDA_DST")))
            for message in theirs.get_neighbours(family=socket.AF_INET6)
            if not message["state"] & 0x21
        }  # fmt: skip

        gates: t.Set[int] = set()
        for message in [
            *theirs.get_default_routes(table=254),
            *theirs.get_default_routes(socket.AF_INET6, table=254),
        ]:
            hops = message.get_attr("RTA_MULTIPATH") or []
            gates.update(hop["oif"] for hop in hops)
            gates.update({message.get_attr("RTA_OIF")} - {None})
        assert ours.default_routes() == gates == {index["d0"], index["br0"]}

        for target, source in (
            ("192.0.2.7", "192.0.2.1"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::7", "2001:db8::1"),
        ):
            (message,) = theirs.route("get", dst=target, src=source)
            expected = message.get_attr("RTA_OIF"), message["type"] == 2
            assert ours.route(packed(target), packed(source)) == expected
        with pytest.raises(OSError):
            ours.route(packed("192.0.2.7"), packed("203.0.113.9"))


def test_generic_netlink() -> None:
    """Every family the kernel has, by a dump; and each of them by its name."""
    from pyroute2.netlink import ctrlmsg
    from pyroute2.netlink.generic import GenericNetlinkSocket

    with GenericFamily("nlctrl") as ours:
        found = {
            (
                text(attrs[2][0]),
                int.from_bytes(attrs[1][0], sys.byteorder),
                int.from_bytes(attrs[3][0], sys.byteorder),
            )
            for attrs in ours.dump(CTRL_CMD_GETFAMILY)
        }
    theirs = GenericNetlinkSocket()
    try:
        theirs.bind("nlctrl", ctrlmsg)
        message = ctrlmsg()
        message["cmd"] = CTRL_CMD_GETFAMILY
        message["version"] = 1
        answers = theirs.nlm_request(message, msg_type=theirs.prid, msg_flags=0x301)
        assert found == {
            tuple(answer.get_attr(f"CTRL_ATTR_{name}") for name in ("FAMILY_NAME", "FAMILY_ID", "VERSION"))
            for answer in answers
        }
    finally:
        theirs.close()
    for name, number, version in found:
        with GenericFamily(name) as family:
            assert (family._id, family.version) == (number, version)
