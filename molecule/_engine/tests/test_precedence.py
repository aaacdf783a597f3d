# SPDX-License-Identifier: GPL-3.0-or-later
"""The most restrictive rule wins, and the class default holds where there is none, on every way to a container."""

from __future__ import annotations

import pytest
from conftest import ALPHA, CLASSES, CONTROLLER, OFFICE, UPLINK, Bench, defaults

#: How to come to alpha: the way's name, and who takes it.
WAYS = {
    "same bridge": "beta",
    "other bridge": "gamma",
    "from the host": "host",
    "routed from outside": "office",
}
#: port: (rules that match it, what must become of it under the defaults deny, reject, allow)
PORTS = {
    8080: (("allow",), "open", "open", "open"),
    8081: (("allow", "reject"), "refused", "refused", "refused"),
    8090: (("allow", "reject", "deny"), "timeout", "timeout", "timeout"),
    21: ((), "timeout", "refused", "open"),
}
VERDICTS = ("deny", "reject", "allow")


def rules() -> list[dict[str, object]]:
    """For each port the rules of its line, from peers that are worded differently: equal words would be a contradiction."""
    words = {
        "allow": {"from": ["any"], "to": ["container:alpha"], "direct": True},
        "reject": {"from": ["any"], "to": ["label:tier=one"]},
        "deny": {"from": ["any"], "to": ["containers"]},
    }
    return [
        {"name": f"{action} {port}", "action": action, "ports": [f"{port}/tcp"], **words[action]}
        for port, (actions, *_) in PORTS.items()
        for action in actions
    ]


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[tuple[str, str, int], str]:
    results = {}
    keys = [(way, port) for way in WAYS for port in PORTS]
    for verdict in VERDICTS:
        bench.commit(*rules(), default=verdict)
        answers = bench.reach(*((WAYS[way], ALPHA, port) for way, port in keys))
        results.update({(verdict, *key): answer for key, answer in zip(keys, answers, strict=True)})
    return results


@pytest.mark.parametrize("port", PORTS, ids=lambda port: "+".join(PORTS[port][0]) or "no rule")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_winner(found: dict[tuple[str, str, int], str], verdict: str, way: str, port: int) -> None:
    wanted = PORTS[port][1 + VERDICTS.index(verdict)]
    if way == "routed from outside" and port == 21:
        wanted = "timeout"  # no rule, and a default never opens a container's own address to the outside
    assert found[verdict, way, port] == f"{wanted} {wanted}"


# Between queue and allow: molecule/_engine/tests/test_queue.py.

# The six direction classes

#: class: (from, addresses, port), a connection of that class and of no other
OF_CLASS = {
    "ingress": ("office", UPLINK, 18080),
    "egress": ("alpha", OFFICE, 7001),
    "inter_container": ("beta", ALPHA, 8080),
    "to_host": ("alpha", UPLINK, 7000),
    "from_host": ("host", ALPHA, 8080),
    "host_ingress": ("office", UPLINK, 7000),
}


def wanted(closed: set[str], which: str) -> str:
    if which in closed:
        return "timeout timeout"
    if which == "ingress" and "from_host" in closed:
        return "open half-open"  # IPv6 by docker-proxy, whose second half is the host's own: see docs/coverage.md
    return "open open"


@pytest.fixture(scope="module")
def closed_one_by_one(bench: Bench) -> dict[str, dict[str, str]]:
    bench.listen(at="office", port=7001)
    found = {}
    for closed in ("none", *CLASSES, "all"):
        shut = {"none": [], "all": list(CLASSES)}.get(closed, [closed])
        verdicts = defaults("allow", **dict.fromkeys(shut, "deny"))
        answer = bench.apply(policy={"defaults": verdicts, "rules": [CONTROLLER]})
        assert "error" not in answer, answer
        found[closed] = dict(zip(OF_CLASS, bench.reach(*OF_CLASS.values()), strict=True))
    return found


@pytest.mark.parametrize("which", CLASSES)
@pytest.mark.parametrize("closed", ("none", *CLASSES, "all"))
def test_class_default(closed_one_by_one: dict[str, dict[str, str]], closed: str, which: str) -> None:
    shut = set(CLASSES) if closed == "all" else {closed}
    assert closed_one_by_one[closed][which] == wanted(shut, which)


RULE_OF_CLASS = {
    "ingress": {"from": ["world"], "to": ["container:alpha"], "published": ["18080/tcp"]},
    "egress": {
        "from": ["container:alpha"],
        "to": ["10.10.10.3/32", "2001:db8:10::3/128"],
        "ports": ["7001/tcp"],
    },
    "inter_container": {"from": ["container:beta"], "to": ["container:alpha"], "ports": ["8080/tcp"]},
    "to_host": {"from": ["container:alpha"], "to": ["host"], "ports": ["7000/tcp"]},
    "from_host": {"from": ["host"], "to": ["container:alpha"], "ports": ["8080/tcp"]},
    "host_ingress": {"from": ["world"], "to": ["host"], "ports": ["7000/tcp"]},
}


@pytest.fixture(scope="module")
def opened_one_by_one(bench: Bench) -> dict[str, dict[str, str]]:
    found = {}
    for opened, rule in RULE_OF_CLASS.items():
        verdicts = defaults("deny", host_ingress="deny", from_host="allow")
        answer = bench.apply(policy={"defaults": verdicts, "rules": [CONTROLLER, {"name": "one", **rule}]})
        assert "error" not in answer, answer
        found[opened] = dict(zip(OF_CLASS, bench.reach(*OF_CLASS.values()), strict=True))
    return found


@pytest.mark.parametrize("which", CLASSES)
@pytest.mark.parametrize("opened", CLASSES)
def test_rule_opens_its_class_only(
    opened_one_by_one: dict[str, dict[str, str]], opened: str, which: str
) -> None:
    assert opened_one_by_one[opened][which] == (
        "open open" if which in (opened, "from_host") else "timeout timeout"
    )


# Nobody locks himself out


def test_host_ingress_must_leave_the_controller_its_way(bench: Bench) -> None:
    answer = bench.apply(policy={"defaults": defaults("deny", host_ingress="deny")})
    assert answer["kind"] == "RefusedError"
    assert "would cut an SSH session" in answer["error"]


def test_host_ingress_with_the_controllers_way_is_accepted(bench: Bench) -> None:
    answer = bench.apply(
        policy={"defaults": defaults("deny", host_ingress="deny"), "rules": [CONTROLLER]}, dry_run=True
    )
    assert "error" not in answer


def test_host_ingress_can_be_forced(bench: Bench) -> None:
    answer = bench.apply(policy={"defaults": defaults("deny", host_ingress="deny")}, force=True, dry_run=True)
    assert "error" not in answer
