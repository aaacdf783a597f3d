# SPDX-License-Identifier: GPL-3.0-or-later
"""docker-proxy is no way round: one verdict for one policy, whichever way a published port is reached.

The ways: from outside, from the host, from the same network, from another one, and a container to its own published port; over
the host's outside address, a bridge's address and loopback. Docker serves them by DNAT or by docker-proxy, depending on way,
family and daemon.json. Each configuration has its list of ways that exist at all, measured with everything allowed.
"""

from __future__ import annotations

import json
import os
import re
import struct
from typing import Any

import packets as p
import pytest
from conftest import LEFT, NAME, OFFICE, PROJECT, SCENARIO, UPLINK, Bench

RIGHT = {4: "172.28.2.1", 6: "fd00:db8:12::1"}
LOOPBACK = {4: "127.0.0.1", 6: "::1"}
DOCKER0 = {4: "172.17.0.1"}
CONFIGURATIONS: dict[str, dict[str, bool]] = {
    "as installed": {},
    "no proxy": {"userland-proxy": False, "experimental": True, "ip6tables": True},
}
#: The default of Docker 27 and later; what is new in it is Docker's alone, so one kernel is enough. For room in the hour that
#: `make test` has, no proxy at all is left to the scenario oldest then.
if SCENARIO == "default":
    CONFIGURATIONS["proxy and ip6tables"] = {"experimental": True, "ip6tables": True}
    if not os.environ.get("BRIDGEWARDEN_FULL"):
        del CONFIGURATIONS["no proxy"]
#: who, (published port of, whom), over which address
WAYS = [
    (who, container, port, name, v, address)
    for who, container, port, over in (
        ("office", "alpha", 18080, {"uplink": UPLINK}),
        ("host", "alpha", 18080, {"uplink": UPLINK, "loopback": LOOPBACK, "bridge": LEFT}),
        ("beta", "alpha", 18080, {"uplink": UPLINK, "bridge": LEFT}),
        ("gamma", "alpha", 18080, {"uplink": UPLINK, "bridge": RIGHT, "its bridge": LEFT}),
        ("alpha", "alpha", 18080, {"uplink": UPLINK, "bridge": LEFT}),
        ("office", "plain", 18081, {"uplink": UPLINK}),
        ("host", "plain", 18081, {"uplink": UPLINK, "loopback": LOOPBACK, "bridge": DOCKER0}),
        ("beta", "plain", 18081, {"uplink": UPLINK, "bridge": LEFT}),
        ("local", "plain", 18081, {"uplink": {4: UPLINK[4]}, "bridge": DOCKER0}),
        ("plain", "plain", 18081, {"uplink": {4: UPLINK[4]}, "bridge": DOCKER0}),
        ("host", "local", 18082, {"loopback": {4: LOOPBACK[4]}}),
    )
    for name, addresses in over.items()
    for v, address in addresses.items()
]
KEYS = [f"{who} to {container} over {name} ipv{v}" for who, container, _, name, v, _ in WAYS]
SOURCE = {"office": "world", "host": "host"}  # how a rule names them; containers by container:NAME

#: Each way has a source port of its own.
FIRST_PORT = 30000
#: nft's filters run after ours at the same hook: what it sees there was accepted there.
PLACES = """table inet places {
  set input { type inet_service; size 4096; flags dynamic; }
  set forward { type inet_service; size 4096; flags dynamic; }
  set output { type inet_service; size 4096; flags dynamic; }
  chain input { type filter hook input priority 0; tcp dport 18080-18082 add @input { tcp sport }; }
  chain forward { type filter hook forward priority 0; ct direction original tcp sport PORTS add @forward { tcp sport }; }
  chain post { type filter hook postrouting priority -1;
               ct direction original tcp sport PORTS fib saddr type local add @output { tcp sport }; }
}""".replace("PORTS", f"{FIRST_PORT}-{FIRST_PORT + len(WAYS)}")


def reconfigure(bench: Bench, settings: dict[str, bool]) -> None:
    text = json.dumps(settings)
    command = f"""
        docker stop -t 0 $(docker ps -q) >/dev/null
        mkdir -p /etc/docker && echo '{text}' > /etc/docker/daemon.json
        systemctl reset-failed docker; systemctl restart docker && sh /root/engine/world.sh"""
    bench.sh(command=command)


def version(bench: Bench) -> tuple[int, ...]:
    said = bench.sh(command="docker version --format '{{.Server.Version}}'")["out"]
    return tuple(int(part) for part in re.findall(r"\d+", said)[:3])


def rule_for(who: str, container: str) -> dict[str, Any]:
    source = SOURCE.get(who, f"container:{who}")
    return {
        "name": f"{who} to {container}",
        "from": [source],
        "to": [f"container:{container}"],
        "ports": ["8080/tcp"],
    }


def try_all(bench: Bench) -> dict[str, str]:
    """A proxy that answered has its time to reach its container: an emulated host is slow, and slow is not closed."""
    ways = dict(zip(KEYS, ((who, address, port) for who, _, port, _, _, address in WAYS), strict=True))
    found = dict(zip(KEYS, bench.reach(*ways.values()), strict=True))
    late = [key for key in KEYS if found[key] == "half-open"]
    if late:
        found.update(zip(late, bench.reach(*(ways[key] for key in late), seconds=15), strict=True))
    return found


def places(bench: Bench) -> dict[str, str]:
    """Where on the host each connection passed, by its source port. Only the first that saw it decides."""
    bench.sh(command=f"nft delete table inet places 2>/dev/null; nft '{PLACES}'")
    flows = [
        {"id": key, "from": who, "host": address, "port": port, "source_port": FIRST_PORT + number}
        for number, (key, (who, _, port, _, _, address)) in enumerate(zip(KEYS, WAYS, strict=True))
    ]
    said = bench.connect(flows=flows, seconds=1.0)
    bench.close(ids=[key for key in KEYS if said[key] == "connected"])
    found = {}
    seen = {}
    for place in ("forward", "input", "output"):
        listing = json.loads(bench.sh(command=f"nft -j list set inet places {place}")["out"])
        seen[place] = set(next(part["set"] for part in listing["nftables"] if "set" in part).get("elem", []))
    for number, key in enumerate(KEYS):
        hits = [place for place in ("forward", "input", "output") if FIRST_PORT + number in seen[place]]
        found[key] = "+".join(hits) if said[key] == "connected" else "-"
    bench.sh(command="nft delete table inet places")
    return found


# From outside and from a container to a port that is published on loopback only, past route_localnet: raw packets, because a
# socket would keep 127.0.0.1 to itself. The server's SYN+ACK tells that it got through.


def localnet_shots(bench: Bench, base: int) -> dict[str, dict[str, Any]]:
    plain = next(one for one in bench.facts()["containers"] if one["Name"] == "plain")
    address = {
        "office": OFFICE[4],
        "beta": "172.28.1.11",
        "plain": plain["Networks"]["bridge"]["IPAddress"],
    }
    found = {}
    for number, (who, network) in enumerate((("office", "lan"), ("beta", "left"), ("plain", "bridge"))):
        seq = 0x51A00000 + base + number
        segment = p.tcp(address[who], "127.0.0.1", (47000 + base + number, 18082), p.SYN, seq)
        packet = p.ipv4(address[who], "127.0.0.1", p.TCP, segment)
        found[who] = {
            "from": who, "network": network, "via": "gateway", "l3": [packet.hex()],
            "want": struct.pack("!I", seq + 1).hex(), "at": [who],
        }  # fmt: skip
    return found


def localnet(bench: Bench, base: int) -> dict[str, bool]:
    shots = localnet_shots(bench, base)
    return {
        who: bool(at)
        for who, at in zip(shots, bench.shoot(shots=list(shots.values()), seconds=1.5), strict=True)
    }


ROUTE_LOCALNET = (
    "for f in /proc/sys/net/ipv4/conf/*; do echo 1 > $f/route_localnet; echo 0 > $f/rp_filter; done"
)


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def tried(request: Any, bench: Bench) -> Any:
    settings = CONFIGURATIONS[request.param]
    if settings:
        reconfigure(bench, settings)
    found: dict[str, Any] = {"configuration": request.param, "docker": version(bench)}
    bench.sh(command=ROUTE_LOCALNET)
    bench.commit(default="allow")
    found["exists"] = try_all(bench)
    found["places"] = places(bench)
    found["localnet exists"] = localnet(bench, 0)
    bench.commit()
    found["closed"] = try_all(bench)
    found["localnet closed"] = localnet(bench, 10)
    bench.commit(defaults={"from_host": "allow"})
    found["closed but for the host"] = try_all(bench)
    pairs = sorted({(who, container) for who, container, *_ in WAYS})
    found["opened"] = {}
    for who in ("office", "host", "beta", "gamma", "alpha", "local", "plain"):
        from_host = "deny" if who == "host" else "allow"
        bench.commit(
            *(rule_for(*pair) for pair in pairs if pair[0] == who), defaults={"from_host": from_host}
        )
        found["opened"][who] = try_all(bench)
    bench.commit(
        *(rule_for(who, "local") for who in ("office", "beta", "plain")), defaults={"from_host": "allow"}
    )
    found["localnet opened"] = localnet(bench, 20)
    out = PROJECT / "build" / "engine" / NAME
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{request.param.replace(' ', '-')}.json").write_text(json.dumps(found, indent=1))
    return found


IPV6 = {key for key in KEYS if key.endswith("ipv6")}
TO_IPV4_ONLY = {key for key in IPV6 if "to plain" in key}
#: Before it, Docker listened on no IPv6 address for a container that has none, and its own IPv6 rules had no DOCKER-USER in which
#: world.sh could lift its isolation of networks.
IPV6_COMPLETE = (20, 10, 6)


def not_served(tried: dict[str, Any]) -> set[str]:
    """Without the proxy nobody serves loopback over IPv6, nor an IPv4-only container to IPv6 clients."""
    old = tried["docker"] < IPV6_COMPLETE
    if tried["configuration"] == "no proxy":
        isolated = {key for key in IPV6 if "gamma to alpha" in key} if old else set()
        return TO_IPV4_ONLY | {key for key in IPV6 if "loopback" in key} | isolated
    return TO_IPV4_ONLY if old else set()


def exists(tried: dict[str, Any], key: str) -> bool:
    return bool(tried["exists"][key] == "open")


@pytest.mark.parametrize("key", KEYS)
def test_docker_serves_it(tried: dict[str, Any], key: str) -> None:
    """Or the tests below would say nothing."""
    assert exists(tried, key) == (key not in not_served(tried))


@pytest.mark.parametrize("key", KEYS)
def test_closed_by_every_way(tried: dict[str, Any], key: str) -> None:
    assert tried["closed"][key] in ("timeout", tried["exists"][key].replace("open", "timeout"))


@pytest.mark.parametrize("key", [key for key in KEYS if not key.startswith("host ")])
def test_what_the_host_may_does_not_open_the_proxy_for_others(tried: dict[str, Any], key: str) -> None:
    """docker-proxy connects to the container as the host: the client must have been judged before."""
    allowed = {"timeout"} if exists(tried, key) else {"timeout", tried["exists"][key]}
    assert tried["closed but for the host"][key] in allowed


@pytest.mark.parametrize("key", KEYS)
def test_a_rule_opens_its_clients_ways_and_no_others(tried: dict[str, Any], key: str) -> None:
    client = key.partition(" ")[0]
    for who, answers in tried["opened"].items():
        wanted = "open" if who == client or (client == "host" and who != "host") else "timeout"
        if exists(tried, key):
            assert (who, answers[key]) == (who, wanted)
        else:
            assert answers[key] != "open"


@pytest.mark.parametrize("who", ("office", "beta", "plain"))
def test_loopback_port_past_route_localnet(tried: dict[str, Any], who: str) -> None:
    assert tried["localnet exists"][who]
    assert not tried["localnet closed"][who]
    assert tried["localnet opened"][who] == tried["localnet exists"][who]
