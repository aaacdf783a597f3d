# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hooks a packet crosses, as tables: one row a crossing, every cell compared; nft counts the same packets beside it.

On every kernel here the in-device of a forwarded packet is there at POST_ROUTING, too; older ones had none.
"""

from __future__ import annotations

from typing import Any

from conftest import engine, rows

ALPHA, BETA, GAMMA, OFFICE, UPLINK, LEFT = (
    engine.ALPHA,
    engine.BETA,
    engine.GAMMA,
    engine.OFFICE,
    engine.UPLINK,
    engine.LEFT,
)


def out_of(name: str, source: str, target: str) -> list[Any]:
    """A sender's own two hooks."""
    return [
        (name, "LOCAL_OUT", "-", "-", "eth0", source, target),
        (name, "POST_ROUTING", "eth0", "-", "eth0", source, target),
    ]


def into(name: str, source: str, target: str) -> list[Any]:
    return [
        (name, "PRE_ROUTING", "eth0", "eth0", "-", source, target),
        (name, "LOCAL_IN", "eth0", "eth0", "-", source, target),
    ]


def through(source: str, target: str, come: str, go: str, seen: str = "") -> list[Any]:
    """The host between two devices; `seen` is the destination ahead of a DNAT."""
    return [
        ("host", "PRE_ROUTING", come, come, "-", source, seen or target),
        ("host", "FORWARD", come, come, go, source, target),
        ("host", "POST_ROUTING", go, come, go, source, target),
    ]


def bridged(source: str, target: str, bridge: str, port: str) -> list[Any]:
    return [
        ("host", "PRE_ROUTING", bridge, bridge, "-", source, target),
        ("host", "FORWARD", port, bridge, bridge, source, target),
        ("host", "POST_ROUTING", port, "-", bridge, source, target),
    ]


def test_outside_to_a_published_port(trace: Any) -> None:
    case = trace(
        "published port",
        "office",
        UPLINK[4],
        18080,
        port=18080,
        inner_port=8080,
        witness=("host", "alpha", "office"),
    )
    assert case.result == "open"
    office, alpha, left = f"{OFFICE[4]} P", f"{ALPHA[4]} 8080", trace.bridge["left"]
    syn = case.path("tcp SYN", "alpha")
    assert rows(syn, "host", "alpha") == through(office, alpha, "up0", left, f"{UPLINK[4]} 18080") + into(
        "alpha", office, alpha
    )
    answer = case.path("tcp SYN,ACK", "office")
    # This early in POST_ROUTING the source is not yet translated back.
    assert rows(answer, "host", "alpha") == out_of("alpha", alpha, office) + through(
        alpha, office, left, "up0"
    )
    assert rows(answer, "office") == into("office", f"{UPLINK[4]} 18080", office)
    assert syn["sentence"] == "delivered to alpha"
    assert [(n["what"], n["new"], n["namespace"], n["hook"]) for n in syn["nat"]] == [
        ("destination", f"{ALPHA[4]}:8080", "host", "PRE_ROUTING")
    ]
    assert syn["conversation"] == answer["conversation"]


def test_one_bridge(trace: Any, bridge_setting: Any) -> None:
    for value in (0, 1):
        bridge_setting(value)
        for family in (4, 6):
            name = f"one bridge, setting {value}, IPv{family}"
            case = trace(name, "beta", ALPHA[family], 8080, port=8080, witness=("host", "alpha", "beta"))
            assert case.result == "open"
            beta, alpha, left = f"{BETA[family]} P", f"{ALPHA[family]} 8080", trace.bridge["left"]
            there, back = case.path("tcp SYN", "alpha"), case.path("tcp SYN,ACK", "beta")
            between = bridged(beta, alpha, left, trace.port["alpha"]) if value else []
            assert rows(there, "host", "alpha", "beta") == out_of("beta", beta, alpha) + between + into(
                "alpha", beta, alpha
            )
            between = bridged(alpha, beta, left, trace.port["beta"]) if value else []
            assert rows(back, "host", "alpha", "beta") == out_of("alpha", alpha, beta) + between + into(
                "beta", alpha, beta
            )
            word = "iptables" if family == 4 else "ip6tables"
            aside = f"; never reached the host's netfilter because bridge-nf-call-{word} is 0 on {left}"
            assert there["sentence"] == "delivered to alpha" + ("" if value else aside)


def test_docker_proxy(trace: Any) -> None:
    """IPv6 to a published port, with a dockerd that sets no rules for IPv6."""
    case = trace("docker-proxy", "office", UPLINK[6], 18080, port=18080)
    assert case.result == "open"
    office = f"{OFFICE[6]} P"
    to_host = case.path("tcp SYN", "host")
    assert rows(to_host, "host") == [
        ("host", "PRE_ROUTING", "up0", "up0", "-", office, f"{UPLINK[6]} 18080"),
        ("host", "LOCAL_IN", "up0", "up0", "-", office, f"{UPLINK[6]} 18080"),
    ]
    assert to_host["sentence"] == "went to docker-proxy, which connects to alpha port 8080 by itself"
    own, left = case.path("tcp SYN", "alpha"), trace.bridge["left"]
    gateway, alpha = f"{LEFT[6]} P", f"{ALPHA[6]} 8080"
    assert rows(own, "host", "alpha") == [
        ("host", "LOCAL_OUT", "-", "-", left, gateway, alpha),
        ("host", "POST_ROUTING", left, "-", left, gateway, alpha),
        *into("alpha", gateway, alpha),
    ]
    assert own["sentence"].endswith("docker-proxy carries this connection for one that came to it")
    assert own["conversation"] == to_host["conversation"]


def test_ipv6_routed(trace: Any) -> None:
    case = trace("IPv6 routed", "office", ALPHA[6], 8080, port=8080, witness=("host", "alpha"))
    assert case.result == "open"
    office, alpha, left = f"{OFFICE[6]} P", f"{ALPHA[6]} 8080", trace.bridge["left"]
    syn = case.path("tcp SYN", "alpha")
    assert rows(syn, "host", "alpha") == through(office, alpha, "up0", left) + into("alpha", office, alpha)
    assert syn["nat"] == []


def test_container_to_host(trace: Any) -> None:
    case = trace("container to host", "alpha", LEFT[4], 7000, port=7000, witness=("host", "alpha"))
    assert case.result == "open"
    alpha, host, left = f"{ALPHA[4]} P", f"{LEFT[4]} 7000", trace.bridge["left"]
    syn = case.path("tcp SYN", "host")
    assert rows(syn, "alpha", "host") == [
        *out_of("alpha", alpha, host),
        ("host", "PRE_ROUTING", left, left, "-", alpha, host),
        ("host", "LOCAL_IN", left, left, "-", alpha, host),
    ]
    assert syn["sentence"] == "delivered to host"


def test_egress_is_translated(trace: Any) -> None:
    case = trace("egress", "alpha", OFFICE[4], 7001, port=7001, witness=("host", "alpha"))
    assert case.result == "refused"
    alpha, office, left = f"{ALPHA[4]} P", f"{OFFICE[4]} 7001", trace.bridge["left"]
    syn = case.path("tcp SYN", "office")
    assert rows(syn, "alpha", "host") == out_of("alpha", alpha, office) + through(alpha, office, left, "up0")
    assert rows(syn, "office") == into("office", f"{UPLINK[4]} P", office)
    assert [(n["what"], n["namespace"], n["hook"]) for n in syn["nat"]] == [
        ("source", "host", "POST_ROUTING")
    ]
    # Since 5.17 the kernel says why; before, a packet nobody listens for looks delivered.
    assert syn["sentence"] in ("reached office, where no socket listens", "delivered to office")


def test_hairpin(trace: Any) -> None:
    """A container to its own published port: by docker-proxy, since Docker's DNAT leaves its own bridge out."""
    case = trace("hairpin", "alpha", UPLINK[4], 18080, port=18080)
    assert case.result == "open"
    alpha, left = f"{ALPHA[4]} P", trace.bridge["left"]
    syn = case.path("tcp SYN", "host")
    assert rows(syn, "alpha", "host") == [
        *out_of("alpha", alpha, f"{UPLINK[4]} 18080"),
        ("host", "PRE_ROUTING", left, left, "-", alpha, f"{UPLINK[4]} 18080"),
        ("host", "LOCAL_IN", left, left, "-", alpha, f"{UPLINK[4]} 18080"),
    ]
    assert syn["outcome"] == "proxied"


def test_two_networks(trace: Any) -> None:
    for family in (4, 6):
        case = trace(
            f"two networks, IPv{family}",
            "gamma",
            ALPHA[family],
            8080,
            port=8080,
            witness=("host", "alpha", "gamma"),
        )
        assert case.result == "open"
        gamma, alpha = f"{GAMMA[family]} P", f"{ALPHA[family]} 8080"
        between = through(gamma, alpha, trace.bridge["right"], trace.bridge["left"])
        # Docker's MASQUERADE is for whatever leaves the network, to another one as well; of IPv6 it had none to make.
        seen = f"{LEFT[4]} P" if family == 4 else gamma
        syn = case.path("tcp SYN", "alpha")
        wanted = out_of("gamma", gamma, alpha) + between + into("alpha", seen, alpha)
        assert rows(syn, "host", "alpha", "gamma") == wanted
