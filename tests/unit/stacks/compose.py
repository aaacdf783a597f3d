# SPDX-License-Identifier: GPL-3.0-or-later
"""A Compose file as container facts: what dockerd would say of a stack that is up, as far as policies look at it.

Knows as much of Compose as the files under docs/stacks use, and fails at any other key.
"""

from __future__ import annotations

import ipaddress
import typing as t
from pathlib import Path

import yaml

from tests.unit.make import Json, attached, container, facts, network, published

STACKS = Path(__file__).resolve().parents[3] / "docs" / "stacks"

_SERVICE = {"image", "container_name", "networks", "network_mode", "ports", "labels", "cap_add", "devices"}
_NETWORK = {"name", "driver_opts", "enable_ipv6", "ipam"}


class Host:
    """Stacks that are up on one host. Networks without a subnet get one each, containers the next address."""

    def __init__(self) -> None:
        self._networks: t.Dict[str, Json] = {}
        self._free: t.Dict[t.Tuple[str, int], t.Iterator[t.Any]] = {}
        self._taken: t.Set[str] = set()
        self._containers: t.List[Json] = []
        self._add_network("bridge", {}, "docker0")

    def facts(self) -> Json:
        return facts(self._containers, list(self._networks.values()))

    def up(self, path: Path) -> None:
        stack = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert set(stack) <= {"name", "services", "networks"}, set(stack)
        names = {}
        for key, body in (stack.get("networks") or {}).items():
            names[key] = body.get("name") or f"{stack['name']}_{key}"
            self._add_network(names[key], body)
        ids = {}
        fixed = {
            place["ipv4_address"]
            for service in stack["services"].values()
            for place in (service["networks"].values() if isinstance(service.get("networks"), dict) else ())
            if place and "ipv4_address" in place
        }
        self._taken |= fixed
        for service, body in stack["services"].items():
            assert set(body) <= _SERVICE, set(body)
            name = body.get("container_name") or f"{stack['name']}-{service}-1"
            ids[service] = f"id-{name}"
            mode = body.get("network_mode") or ""
            if mode.startswith("service:"):
                mode = "container:" + ids[mode.partition(":")[2]]
            places = body.get("networks") or ([] if mode and mode != "bridge" else ["bridge"])
            wanted = places if isinstance(places, dict) else dict.fromkeys(places)
            networks = {
                names.get(key, key): self._attach(names.get(key, key), place or {})
                for key, place in wanted.items()
            }
            labels = {
                "com.docker.compose.project": stack["name"],
                "com.docker.compose.service": service,
                **body.get("labels", {}),
            }
            ports = [port for text in body.get("ports") or [] for port in _ports(text)]
            self._containers.append(
                container(
                    name,
                    networks,
                    Labels=labels,
                    Ports=ports,
                    NetworkMode=mode or next(iter(networks), "bridge"),
                )
            )

    def _add_network(self, name: str, body: Json, bridge: str = "") -> None:
        assert set(body) <= _NETWORK, set(body)
        assert name not in self._networks, name
        number = len(self._networks)
        configured = [config["subnet"] for config in (body.get("ipam") or {}).get("config") or []]
        subnets = configured or [f"10.201.{number}.0/24"]
        bridge = (
            bridge
            or (body.get("driver_opts") or {}).get("com.docker.network.bridge.name")
            or f"br-{number:012x}"
        )
        self._networks[name] = network(
            name,
            Subnets=subnets,
            Bridge=bridge,
            BridgeIndex=10 + number,
            EnableIPv6=bool(body.get("enable_ipv6")),
        )
        for subnet in subnets:
            hosts = iter(ipaddress.ip_network(subnet).hosts())
            next(hosts)  # the gateway
            self._free[name, ipaddress.ip_network(subnet).version] = hosts

    def _attach(self, name: str, place: Json) -> Json:
        its = self._networks[name]
        index = 1000 + len(self._taken)
        return attached(
            place.get("ipv4_address") or self._next(name, 4),
            self._next(name, 6) if (name, 6) in self._free else None,
            Link=its["Bridge"], LinkIndex=its["BridgeIndex"], PortIndex=index, Port=f"veth{index}",
        )  # fmt: skip

    def _next(self, name: str, version: int) -> str:
        text = next(str(one) for one in self._free[name, version] if str(one) not in self._taken)
        self._taken.add(text)
        return text


def _ports(text: str) -> t.Iterator[Json]:
    """ "443:443", "127.0.0.1:6443:6443", "10000-20000:10000-20000/udp"."""
    text, _slash, protocol = text.partition("/")
    parts = text.split(":")
    address = parts[0] if len(parts) == 3 else "0.0.0.0"
    hosts, owns = (_range(part) for part in parts[-2:])
    assert len(hosts) == len(owns), text
    for host, own in zip(hosts, owns):
        yield published(host, own, protocol or "tcp", address)


def _range(text: str) -> range:
    first, _dash, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
