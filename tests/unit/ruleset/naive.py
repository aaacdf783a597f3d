# SPDX-License-Identifier: GPL-3.0-or-later
"""The policy language as docs describe it, and nothing else: the compiler's naive twin.

Works on the raw policy and the container facts with plain loops.  No identities,
no cells, no spans, no code of the library: what both say must agree because both
say the same language, not because they share a line.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import typing as t

Json = t.Dict[str, t.Any]

CLASS = {
    ("world", "guarded"): "ingress",
    ("guarded", "world"): "egress",
    ("guarded", "guarded"): "inter_container",
    ("guarded", "host"): "to_host",
    ("host", "guarded"): "from_host",
    ("world", "host"): "host_ingress",
}
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}


class Naive:
    def __init__(self, policy: Json, facts: Json, today: str = "1970-01-01") -> None:
        self.policy = policy
        self.facts = facts
        self.today = today
        self.holders: t.Dict[str, t.Tuple[Json, str]] = {}
        for container in facts["containers"]:
            for network, body in container["Networks"].items():
                for key in ("IPAddress", "GlobalIPv6Address"):
                    if body["LinkIndex"] and body[key] and not self._left_out(body["Link"]):
                        self.holders[body[key]] = container, network

    def _left_out(self, bridge: str) -> bool:
        return any(fnmatch.fnmatchcase(bridge, name) for name in self.policy.get("unguarded", []))

    def decide(
        self,
        source: str,
        source_kind: str,
        target: str,
        target_kind: str,
        protocol: int,
        port: int,
        direct: bool,
    ) -> t.Tuple[str, str]:
        """(action, name of the rule, or of the class whose default holds, or "unmanaged" or "direct")."""
        which = CLASS.get((source_kind, target_kind))
        if which is None:
            return "allow", "not judged"
        if target_kind == "guarded" and is_group(target):
            target_kind = "world"  # nobody's own address: what rules say of it is said by CIDR, world or any
        for address, kind in ((source, source_kind), (target, target_kind)):
            if kind == "guarded" and address not in self.holders and not self._routed(address):
                return "deny", "unmanaged"
        direct = direct and which == "ingress"
        matching = [
            rule
            for rule in self.policy.get("rules", [])
            if not ("until" in rule and rule["until"] < self.today)
            and self._matches(rule, source, source_kind, target, target_kind, protocol, port)
        ]
        if direct:
            matching = [
                r for r in matching if r.get("action", "allow") in ("deny", "reject") or r.get("direct")
            ]
        for action in ("deny", "reject", "queue", "allow"):
            names = sorted(rule["name"] for rule in matching if rule.get("action", "allow") == action)
            if names:
                return action, names[0]
        if direct:
            return "deny", "direct"
        return self.policy["defaults"][which], which

    def _matches(
        self,
        rule: Json,
        source: str,
        source_kind: str,
        target: str,
        target_kind: str,
        protocol: int,
        port: int,
    ) -> bool:
        permits = rule.get("action", "allow") in ("allow", "queue")
        if not any(self._means(peer, source, source_kind, permits) for peer in rule["from"]):
            return False
        if not any(self._means(peer, target, target_kind, permits) for peer in rule["to"]):
            return False
        if rule.get("within") and not self._related(rule["within"], source, target):
            return False
        if rule.get("published"):
            return target_kind == "guarded" and self._published(rule["published"], target, protocol, port)
        if rule.get("ports"):
            return any(service(text, protocol, port) for text in rule["ports"])
        return True

    def _routed(self, address: str) -> str:
        """The group of routed prefixes that an address is of, if one of its containers is there."""
        holding = [
            name
            for name, group in self.policy.get("groups", {}).items()
            if group.get("behind") and self._has(group, address)
        ]
        # They nest: the innermost one has the fewest addresses.
        for name in sorted(holding, key=lambda name: self._size(name, ":" in address))[:1]:
            if any(
                self._means(peer, holder, "guarded", True)
                for peer in self.policy["groups"][name]["behind"]
                for holder in self.holders
            ):
                return name
        return ""

    def _size(self, name: str, six: bool) -> int:
        group = self.policy["groups"][name]
        sizes = [
            sum(ipaddress.ip_network(c).num_addresses for c in group.get(key, []) if (":" in c) == six)
            for key in ("cidrs", "except")
        ]
        return sizes[0] - sizes[1]

    def _has(self, group: Json, address: str) -> bool:
        return any(within(address, c) for c in group["cidrs"]) and not any(
            within(address, c) for c in group.get("except", [])
        )

    def _published(self, published: t.List[str], target: str, protocol: int, port: int) -> bool:
        if target not in self.holders:
            return False
        container, _network = self.holders[target]
        return any(
            NUMBERS[binding["Protocol"]] == protocol
            and binding["ContainerPort"] == port
            and any(service(text, protocol, binding["HostPort"]) for text in published)
            for binding in container["Ports"]
        )

    def _related(self, within: str, source: str, target: str) -> bool:
        if source not in self.holders or target not in self.holders:
            return False
        (one, one_network), (other, other_network) = self.holders[source], self.holders[target]
        if within == "network":
            return one_network == other_network
        return within in one["Labels"] and one["Labels"][within] == other["Labels"].get(within)

    def _means(self, peer: str, address: str, kind: str, permits: bool) -> bool:
        if peer == "any":
            return True
        if peer in ("world", "host"):
            return kind == peer
        if peer == "containers":
            return kind == "guarded"
        groups = self.policy.get("groups", {})
        if peer in groups and groups[peer].get("behind"):
            return kind == "guarded" and address not in self.holders and self._routed(address) == peer
        if peer in groups:
            return self._in_group(groups[peer], address, kind, permits)
        if ":" in peer and peer.split(":")[0] in ("container", "network", "label", "compose"):
            return kind == "guarded" and address in self.holders and self._fits(peer, *self.holders[address])
        return self._has_address(peer, address, kind, permits)

    def _has_address(self, cidr: str, address: str, kind: str, permits: bool) -> bool:
        """A permitting rule's CIDR means those outside, and the host by one of its addresses or a multicast group."""
        if not within(address, cidr):
            return False
        if not permits:
            return True
        net = ipaddress.ip_network(cidr)
        single = net.num_addresses == 1
        if any(inside(net, other) for other in self._guarded_subnets()) and not (
            single and str(net[0]) in ("172.18.0.1", "172.19.0.1", "fd00:1::1", "fd00:2::1")
        ):
            return False
        group = any(inside(net, other) for other in ("224.0.0.0/4", "255.255.255.255/32", "ff00::/8"))
        return kind == "world" or (kind == "host" and (single or group))

    def _guarded_subnets(self) -> t.List[str]:
        return [
            subnet
            for network in self.facts["networks"]
            if not self._left_out(network["Bridge"])
            for subnet in network["Subnets"]
        ]

    def _in_group(self, group: Json, address: str, kind: str, permits: bool) -> bool:
        if group.get("cidrs"):
            return any(self._has_address(c, address, kind, permits) for c in group["cidrs"]) and not any(
                within(address, c) for c in group.get("except", [])
            )
        if kind != "guarded" or address not in self.holders:
            return False
        container, network = self.holders[address]
        if group.get("names") and not any(fnmatch.fnmatchcase(container["Name"], n) for n in group["names"]):
            return False
        if group.get("networks") and not any(fnmatch.fnmatchcase(network, n) for n in group["networks"]):
            return False
        return all(
            key in container["Labels"] and value in ("*", container["Labels"][key])
            for key, value in group.get("labels", {}).items()
        )

    def _fits(self, peer: str, container: Json, network: str) -> bool:
        kind, rest = peer.split(":", 1)
        if kind == "container":
            return fnmatch.fnmatchcase(container["Name"], rest)
        if kind == "network":
            return fnmatch.fnmatchcase(network, rest)
        if kind == "label":
            key, value = rest.split("=", 1)
            return key in container["Labels"] and value in ("*", container["Labels"][key])
        project, name = rest.split("/")
        labels = container["Labels"]
        return fnmatch.fnmatchcase(
            labels.get("com.docker.compose.project", ""), project
        ) and fnmatch.fnmatchcase(labels.get("com.docker.compose.service", ""), name)


def is_group(address: str) -> bool:
    return ipaddress.ip_address(address).is_multicast or address == "255.255.255.255"


def within(address: str, cidr: str) -> bool:
    return ipaddress.ip_address(address) in ipaddress.ip_network(cidr)


def inside(net: t.Union[ipaddress.IPv4Network, ipaddress.IPv6Network], other: str) -> bool:
    outer = ipaddress.ip_network(other)
    return net.version == outer.version and net.prefixlen >= outer.prefixlen and net[0] in outer


def service(text: str, protocol: int, port: int) -> bool:
    if text.startswith("proto:"):
        return protocol == int(text[6:])
    name, colon, tail = text.partition(":")
    if name in ("icmp", "icmpv6"):
        if protocol != NUMBERS[name]:
            return False
        if not colon:
            return True
        kind, slash, code = tail.partition("/")
        return port >> 8 == int(kind) and (not slash or port & 0xFF == int(code))
    if text in NUMBERS:
        return protocol == NUMBERS[text]
    ports, _slash, name = text.partition("/")
    first, _dash, last = ports.partition("-")
    return protocol == NUMBERS[name] and int(first) <= port <= int(last or first)
