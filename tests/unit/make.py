# SPDX-License-Identifier: GPL-3.0-or-later
"""The container facts (docs/architecture.md, 2) for tests: whole records, of which a test names what matters to it."""

from __future__ import annotations

import typing as t
from pathlib import Path

Json = t.Dict[str, t.Any]


def attached(v4: t.Optional[str] = None, v6: t.Optional[str] = None, **more: t.Any) -> Json:
    """What a container has on one network: behind the port 9 of br-front, unless it is told otherwise."""
    body = {
        "NetworkID": "n", "IPAddress": v4, "GlobalIPv6Address": v6, "MacAddress": None,
        "Link": "br-front", "LinkIndex": 5, "Port": "veth9", "PortIndex": 9,
        "Parent": None, "ParentIndex": None, "Namespace": None,
    }  # fmt: skip
    return {**body, **known(body, more)}


#: For attached(): it passes no guard of the host's, as on Docker's network host or before it runs.
NOWHERE: Json = {"Link": None, "LinkIndex": None, "Port": None, "PortIndex": None}


def container(name: str, networks: t.Optional[Json] = None, **more: t.Any) -> Json:
    body = {
        "Id": f"id-{name}", "Name": name, "Image": "i", "State": "running", "Pid": 1, "NetworkMode": "front",
        "Labels": {}, "Networks": networks or {}, "Ports": [],
    }  # fmt: skip
    return {**body, **known(body, more)}


def published(host: int, own: int, protocol: str = "tcp", address: str = "0.0.0.0") -> Json:
    return {"HostIp": address, "HostPort": host, "ContainerPort": own, "Protocol": protocol}


def attachment(kind: str, name: str, networks: Json) -> Json:
    """A build step (kind "build") or Swarm's routing mesh ("mesh")."""
    return {"Id": f"id-{name}", "Kind": kind, "Name": name, "State": "running", "Networks": networks}


def network(name: str, **more: t.Any) -> Json:
    """A bridge network called NAME with the bridge br-NAME, unless it is told otherwise."""
    body = {
        "Id": f"id-{name}", "Name": name, "Driver": "bridge", "Internal": False, "EnableIPv6": False, "Subnets": [], "Gateways": [],
        "Bridge": f"br-{name}", "BridgeIndex": 5, "Parent": None, "ParentIndex": None, "Labels": {},
    }  # fmt: skip
    return {**body, **known(body, more)}


def facts(containers: t.Sequence[Json], networks: t.Sequence[Json] = (), **more: t.Any) -> Json:
    """`links`: the networks' bridges, unless it is told otherwise."""
    body = {
        "docker": {"version": "26.1.5", "userland_proxy": True},
        "containers": list(containers),
        "attachments": [],
        "networks": list(networks),
        "links": {
            item["Bridge"]: {"index": item["BridgeIndex"], "bridge": True}
            for item in networks
            if item["Bridge"]
        },
        "default_route_links": ["eth0"],
    }
    return {**body, **known(body, more)}


def known(body: Json, more: Json) -> Json:
    """A key that the record does not have is a mistake of the test's."""
    assert not set(more) - set(body), set(more) - set(body)
    return more


#: /proc/net/ip_vs with a service of either family.
_IP_VS = """IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
"""
_SERVICES = """TCP  CB007105:0050 rr
  -> AC120002:0050      {0}    1      0          0
TCP  [2001:0db8:0000:0000:0000:0000:0000:0005]:0050 rr
  -> [fd00:0201:0000:0000:0000:0000:0000:0002]:0050      {0}    1      0          0
"""


def write_ipvs(root: Path, sysctl: str | None = "0", method: str | None = "Masq") -> None:
    """A host with ip_vs loaded; sysctl None: without the setting, method None: without a service."""
    services = root / "proc/net/ip_vs"
    services.parent.mkdir(parents=True, exist_ok=True)
    services.write_text(_IP_VS + (_SERVICES.format(method) if method else ""))
    if sysctl is not None:
        path = root / "proc/sys/net/ipv4/vs/conntrack"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sysctl + "\n")
