# SPDX-License-Identifier: GPL-3.0-or-later
"""Random hosts, policies and connections over a small world, so that things collide."""

from __future__ import annotations

import typing as t

from hypothesis import strategies as st

Json = t.Dict[str, t.Any]

NETWORKS = {"front": (5, "172.18.0.%d", "fd00:1::%x"), "back": (6, "172.19.0.%d", "fd00:2::%x")}
SUBNETS = {"front": ["172.18.0.0/16", "fd00:1::/64"], "back": ["172.19.0.0/16", "fd00:2::/64"]}
TIERS = ("web", "app", "db")
CIDRS = (
    "0.0.0.0/0", "10.0.0.0/8", "10.10.0.0/16", "10.10.10.0/24", "10.10.10.66/32", "172.18.0.0/16", "172.19.0.2/31",
    "172.18.0.3/32", "128.0.0.0/1", "224.0.0.0/4", "224.0.0.0/24", "ff00::/8", "255.255.255.255/32", "192.168.0.1/32",
    "172.18.0.1/32", "10.13.13.64/26", "fd13:0:0:8000::/49",
    "::/0", "2001:db8::/32", "2001:db8:10::/64", "fd00:1::/64", "fd00:2::3/128", "8000::/1",
)  # fmt: skip
ADDRESSES = (
    "10.13.13.5", "10.13.99.1", "10.14.0.1", "fd13::5", "172.18.0.99",
    "10.0.0.1", "10.10.0.1", "10.10.10.5", "10.10.10.66", "192.168.0.1", "203.0.113.9", "255.255.255.255", "0.0.0.1",
    "172.18.0.1", "172.18.0.2", "172.18.0.3", "172.18.0.4", "172.19.0.2", "172.19.0.3", "172.19.0.5",
    "224.0.0.251", "239.255.255.255", "240.0.0.1", "ff02::fb", "feff::1",
    "2001:db8::1", "2001:db8:10::5", "2a00::1", "fd00:1::2", "fd00:1::3", "fd00:2::2", "fd00:2::3", "ffff::1",
)  # fmt: skip
#: In groups that are behind containers; some rules' CIDRs cut into those.
ROUTED = ("10.13.13.5", "10.13.13.66", "10.13.1.1", "fd13::5", "fd13:0:0:8000::5", "172.18.0.99")
PORTS = ("80/tcp", "8080/tcp", "8000-8100/tcp", "80-81/tcp", "1-65535/udp", "53/udp", "5432/tcp", "9/sctp", "tcp",
         "icmp", "icmp:8", "icmp:3/4", "icmpv6:128", "proto:47", "65535/tcp", "1/tcp")  # fmt: skip
SERVICES = ((6, 80), (6, 81), (6, 8080), (6, 8000), (6, 8100), (6, 8101), (6, 1), (6, 65535), (17, 53), (17, 65535),
            (6, 5432), (132, 9), (1, 8 << 8), (1, 3 << 8 | 4), (1, 3 << 8 | 5), (58, 128 << 8), (47, 0), (0, 0),
            (255, 0))  # fmt: skip
DEFAULTS = ("ingress", "egress", "inter_container", "to_host", "from_host", "host_ingress")


@st.composite
def hosts(draw: st.DrawFn) -> Json:
    containers = []
    for number in range(draw(st.integers(0, 6))):
        networks = {}
        for name, (link, four, six) in NETWORKS.items():
            if not draw(st.booleans()):
                continue
            running = draw(st.integers(0, 9)) > 0
            v6 = draw(st.booleans())
            networks[name] = {
                "NetworkID": name, "IPAddress": four % (number + 2) if running else None,
                "GlobalIPv6Address": six % (number + 2) if running and v6 else None, "MacAddress": None,
                "Link": "br-" + name, "LinkIndex": link if running else None,
                "Port": f"veth{number}", "PortIndex": 100 + number,
            }  # fmt: skip
        labels = {"tier": draw(st.sampled_from(TIERS))} if draw(st.booleans()) else {}
        if draw(st.booleans()):
            labels["com.docker.compose.project"] = draw(st.sampled_from(["shop", "job1", "job2"]))
            labels["com.docker.compose.service"] = draw(st.sampled_from(TIERS))
        if draw(st.integers(0, 4)):
            labels["stack"] = draw(st.sampled_from(["a", "b"]))
        ports = [
            {"HostIp": draw(st.sampled_from(["0.0.0.0", "::", "192.0.2.1"])), "HostPort": host,
             "ContainerPort": own, "Protocol": protocol}
            for host, own, protocol in draw(st.lists(st.tuples(
                st.sampled_from([80, 8080, 8443, 53]), st.sampled_from([80, 8080, 53, 5432]),
                st.sampled_from(["tcp", "udp"])), max_size=3))
        ]  # fmt: skip
        containers.append({
            "Id": f"{number:064x}", "Name": f"{draw(st.sampled_from(TIERS))}-{number}", "Image": "i", "State": "running",
            "Pid": 1, "NetworkMode": "bridge", "Labels": labels, "Networks": networks, "Ports": ports,
        })  # fmt: skip
    subnets = draw(st.booleans())
    return {
        "docker": {"version": "26.1.5", "userland_proxy": True},
        "containers": containers,
        "networks": [
            {"Id": name, "Name": name, "Driver": "bridge", "Internal": name == "back", "EnableIPv6": True,
             "Subnets": SUBNETS[name] if subnets else [], "Bridge": "br-" + name, "BridgeIndex": link, "Labels": {}}
            for name, (link, _four, _six) in NETWORKS.items()
        ],
        "links": {"br-front": {"index": 5, "bridge": True}, "br-back": {"index": 6, "bridge": True}},
        "default_route_links": ["eth0"],
    }  # fmt: skip


PEERS = st.sampled_from([
    "any", "world", "host", "containers", "office", "weird", "web", "db", "mixed", "every", "behind",
    "vpn", "vpn", "pods", "vip", "10.13.13.64/26", "fd13:0:0:8000::/49",
    "container:web-0", "container:db-1", "container:app-2", "network:front", "network:back",
    "container:*-1", "container:[dw]*", "network:*", "network:b?ck", "compose:*/app", "compose:job*/[dw]*",
    "label:tier=web", "label:tier=*", "compose:shop/app", "compose:shop/db", *CIDRS,
])  # fmt: skip

CONTAINERS = st.sampled_from([
    "containers", "web", "db", "mixed", "every", "behind", "container:web-0", "container:*-1", "network:front", "network:*",
    "label:tier=web", "label:tier=*", "label:stack=*", "compose:*/app", "compose:shop/db",
])  # fmt: skip

GROUPS: Json = {
    "office": {"cidrs": ["10.10.10.0/24", "2001:db8:10::/64"], "except": ["10.10.10.66/32"]},
    "weird": {"cidrs": ["0.0.0.0/0", "::/0"], "except": ["172.16.0.0/12", "fd00:1::/64", "10.10.0.0/16"]},
    "web": {"labels": {"tier": "web"}},
    "db": {"names": ["db-*"], "networks": ["back"]},
    "behind": {"networks": ["b*", "none-*"]},
    "mixed": {"names": ["*-1", "web-*"], "labels": {"tier": "*"}},
    "every": {"names": ["*"]},
    "vpn": {"cidrs": ["10.13.13.0/24", "fd13::/64"], "behind": ["every"]},
    "pods": {"cidrs": ["10.13.0.0/16", "fd13::/32"], "except": ["10.13.99.0/24"], "behind": ["network:back"]},
    "vip": {"cidrs": ["172.18.0.99/32"], "behind": ["db"]},
}


@st.composite
def rules(draw: st.DrawFn, number: int = 0) -> Json:
    rule: Json = {
        "name": f"{draw(st.sampled_from('abc'))}{number}",
        "action": draw(st.sampled_from(["allow", "allow", "queue", "deny", "reject"])),
        "from": draw(st.lists(PEERS, min_size=1, max_size=3)),
        "to": draw(st.lists(PEERS, min_size=1, max_size=3)),
    }
    kind = draw(st.integers(0, 3))
    if kind == 1:
        rule["published"] = draw(
            st.lists(
                st.sampled_from(["80/tcp", "8080/tcp", "8000-9000/tcp", "53/udp"]), min_size=1, max_size=2
            )
        )
    elif kind > 1:
        rule["ports"] = draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=3))
    if rule["action"] == "queue":
        rule["queue"] = {"num": 3, "count": 2}
    if rule["action"] in ("allow", "queue") and "published" not in rule and draw(st.booleans()):
        rule["direct"] = True
    if draw(st.booleans()):
        rule["log"] = True
    if draw(st.booleans()):
        for key in ("from", "to"):
            rule[key] = draw(st.lists(CONTAINERS, min_size=1, max_size=3))
        rule.pop("direct", None)
        if draw(st.booleans()):  # about everything, so that more connections show who is related
            rule.pop("ports", None)
            rule.pop("published", None)
        rule["within"] = draw(
            st.sampled_from(["network", "stack", "stack", "com.docker.compose.project", "tier"])
        )
    if draw(st.integers(0, 3)) == 0:
        rule["until"] = draw(st.sampled_from(["2026-06-14", "2026-06-15", "2026-06-16"]))
    return rule


@st.composite
def policies(draw: st.DrawFn) -> Json:
    return {
        "mode": "enforce",
        "defaults": {name: draw(st.sampled_from(["allow", "deny", "reject"])) for name in DEFAULTS},
        "groups": GROUPS,
        "unguarded": draw(st.sampled_from([[], [], [], ["br-back"], ["br-b*"]])),
        "rules": [draw(rules(number)) for number in range(draw(st.integers(0, 8)))],
    }


TODAY = "2026-06-15"


Connection = t.Tuple[str, str, str, str, int, int, bool]


@st.composite
def connections(draw: st.DrawFn, facts: Json) -> Connection:
    """Mostly between kinds that are judged and addresses that somebody has; a few of everything else."""
    held = [
        body[key]
        for container in facts["containers"]
        for body in container["Networks"].values()
        for key in ("IPAddress", "GlobalIPv6Address")
        if body[key]
    ]
    sides = []
    kinds = draw(st.sampled_from(KINDS))
    for kind in kinds:
        guarded = kind == "guarded" and held and draw(st.integers(0, 4))
        # Across families too: docker-proxy takes an IPv6 client to an IPv4 container.
        sides += [draw(st.sampled_from((*held, *ROUTED) if guarded else ADDRESSES)), kind]
    protocol, port = draw(st.sampled_from(SERVICES))
    return sides[0], sides[1], sides[2], sides[3], protocol, port, draw(st.booleans())


KINDS = (
    ("world", "guarded"), ("world", "guarded"), ("guarded", "guarded"), ("guarded", "world"), ("guarded", "host"),
    ("host", "guarded"), ("guarded", "guarded"), ("world", "host"), ("host", "world"), ("world", "world"),
)  # fmt: skip
