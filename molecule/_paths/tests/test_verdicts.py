# SPDX-License-Identifier: GPL-3.0-or-later
"""What became of a packet: by the engine's rules, by others, in the host and inside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from conftest import engine

ALPHA, UPLINK = engine.ALPHA, engine.UPLINK
NO_BETA = {
    "name": "no beta",
    "action": "deny",
    "from": ["container:beta"],
    "to": ["container:alpha"],
    "ports": ["8080/tcp"],
}


@pytest.fixture(autouse=True)
def open_again(bench: Any) -> Iterator[None]:
    yield
    bench.commit(default="allow")


@pytest.mark.parametrize(
    "placement, where",
    [
        ("forward", "FORWARD of host"),
        ("postrouting", "POST_ROUTING of host"),
        ("container", "FORWARD of host"),
    ],
)
def test_dropped_by_a_rule(trace: Any, bench: Any, placement: str, where: str) -> None:
    bench.commit(NO_BETA, default="allow", placement=placement)
    case = trace(f"rule, {placement}", "beta", ALPHA[4], 8080, port=8080)
    assert case.result == "timeout"
    assert case.path("tcp SYN")["sentence"] == f'dropped at {where} by rule "no beta"'


def test_inside_without_the_bridge_setting(trace: Any, bench: Any, bridge_setting: Any) -> None:
    bridge_setting(0)
    bench.commit(NO_BETA, default="allow", placement="container")
    syn = trace("rule, container, setting 0", "beta", ALPHA[4], 8080, port=8080).path("tcp SYN")
    assert syn["namespaces"] == ["beta", "alpha"]
    assert syn["sentence"].startswith(
        'dropped at LOCAL_IN of alpha by rule "no beta"; never reached the host'
    )


def test_allowed_by_a_rule(trace: Any, bench: Any) -> None:
    bench.commit(dict(NO_BETA, action="allow", name="beta may"), default="deny")
    case = trace("allowed", "beta", ALPHA[4], 8080, port=8080)
    verdicts = [s for s in case.path("tcp SYN", "alpha")["steps"] if s["event"] == "verdict"]
    assert [(v["action"], v["rule"], v["hook"], v["direction_class"]) for v in verdicts] == [
        ("allow", "beta may", "FORWARD", "inter_container")
    ]


def test_rejected_and_the_answer(trace: Any, bench: Any) -> None:
    bench.commit(dict(NO_BETA, action="reject", name="off with it"), default="allow")
    case = trace("rejected", "beta", ALPHA[4], 8080, port=8080)
    assert case.result == "refused"
    assert case.path("tcp SYN")["sentence"] == 'rejected at FORWARD of host by rule "off with it"'
    assert case.path("tcp ACK,RST", "beta")["namespaces"][-1] == "beta"


def test_audit(trace: Any, bench: Any) -> None:
    bench.commit(NO_BETA, default="allow", mode="audit")
    syn = trace("audit", "beta", ALPHA[4], 8080, port=8080).path("tcp SYN", "alpha")
    assert syn["outcome"] == "delivered"
    assert [s["audit"] for s in syn["steps"] if s["event"] == "verdict" and s["rule"] == "no beta"] == [True]


def test_dropped_by_docker_or_whoever_else(trace: Any, bench: Any) -> None:
    chain = "add chain ip bwx f { type filter hook forward priority 5; }"
    bench.sh(command=f"nft add table ip bwx; nft '{chain}'; nft add rule ip bwx f tcp dport 8080 drop")
    try:
        case = trace("another's drop", "beta", ALPHA[4], 8080, port=8080)
    finally:
        bench.sh(command="nft delete table ip bwx")
    assert case.result == "timeout"
    sentence = case.path("tcp SYN")["sentence"]
    assert sentence.startswith("dropped at FORWARD of host by ") and "nft_do_chain" in sentence


def test_only_dropped(trace: Any, bench: Any) -> None:
    bench.commit(NO_BETA, default="allow")
    case = trace("only dropped", "beta", ALPHA[4], 8080, port=8080, dropped=True)
    assert {path["outcome"] for path in case.paths} == {"dropped"}


def test_by_container_and_by_guard(trace: Any) -> None:
    for name, options in (("container", {"container": "alpha"}), ("guard", {"guard": trace.bridge["left"]})):
        case = trace("by " + name, "office", UPLINK[4], 18080, **options)
        hooks = [
            (s["namespace"], s["hook"])
            for s in case.path("tcp SYN", "alpha")["steps"]
            if s["event"] == "crossing"
        ]
        # A guard's packets are known once they are at it; a container's also by its published port.
        begins = ("office", "LOCAL_OUT") if name == "container" else ("host", "PRE_ROUTING")
        assert hooks[0] == begins and hooks[-1] == ("alpha", "LOCAL_IN")


def test_who_stands_at_the_hooks(trace: Any, bench: Any) -> None:
    case = trace("hooks", "beta", ALPHA[4], 8080, port=8080)
    told = [(r["family"], r["hook"], r["function"], r["module"]) for r in case.recorded["hooks"]["host"]]
    assert ("IPv4", "FORWARD", "bw_hook_forward4", "bridgewarden") in told
    built_in = bench.sh(command="grep -q '^nf_conntrack ' /proc/modules", check=False)["code"]
    assert ("IPv4", "PRE_ROUTING", "ipv4_conntrack_in", "" if built_in else "nf_conntrack") in told


def test_a_mistake_is_told(bench: Any) -> None:
    answer = bench.trace(options={"container": "alhpa"}, probes=[])
    assert answer["error"].startswith('no container is called "alhpa" (container)')
