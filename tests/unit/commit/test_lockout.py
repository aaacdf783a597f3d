# SPDX-License-Identifier: GPL-3.0-or-later
"""Nobody is locked out: which plans are refused, for the ways in by SSH that a host has."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit import lockout
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import apply_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.lockout import (
    refuse_lockout,
    ways_in,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import CommitOptions, make_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import RefusedError, SelectorError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import (
    Sshd,
    SshListener,
    SshSession,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from fake import FakeKernel
from test_commit import POLICY, SSHD, kernel, plan, shop, store

from tests.unit.make import attached, container, facts, network

Json = t.Dict[str, t.Any]

__all__ = ["kernel", "store"]

MANAGED = SshSession("10.20.0.5", "10.20.0.1", 22, ("br-mgmt",))


def refused(policy: Json, sshd: Sshd, where: t.Optional[Json] = None) -> t.Optional[RefusedError]:
    try:
        refuse_lockout(make_plan(policy, where or shop()), sshd)
    except RefusedError as error:
        return error
    return None


# Guards


@pytest.mark.parametrize("mode", ["enforce", "audit"])
@pytest.mark.parametrize(
    ("guards", "link"),
    [(["br-*"], "br-mgmt"), (["docker0", "br-m*"], "br-mgmt"), (None, None), (["docker0", "br-front"], None)],
)
def test_a_guard_over_a_link_with_a_session(guards: t.Optional[t.List[str]], link: str, mode: str) -> None:
    """In audit mode too: the same policy, enforced, judges the session's link."""
    policy = {**POLICY, "mode": mode, **({"guards": guards} if guards else {})}
    for peer, server in (("10.20.0.5", "10.20.0.1"), ("fd00:20::5", "fd00:20::1"), ("fe80::5", "fe80::1")):
        session = SshSession(peer, server, 22, ("br-mgmt",))
        error = refused(policy, Sshd((SshSession("10.1.1.1", "10.2.2.2", 22, ("eth0",)), session)))
        if link is None:
            assert error is None
            continue
        assert error is not None
        assert f"matches {link}, over which {peer} has an SSH session to port 22 of {server}" in error.problem
        assert "narrow the pattern" in error.hint and "bridgewarden_force" in error.hint
        assert error.location == "guards"


def test_a_session_whose_answers_take_another_link() -> None:
    """It comes in over one and is routed back over another: neither may be guarded."""
    session = SshSession("10.20.0.5", "10.2.2.2", 22, ("br-mgmt", "eth0"))
    assert refused({"guards": ["br-m*"]}, Sshd((session,))) is not None
    assert refused({"guards": ["br-front"]}, Sshd((session,))) is None


def test_the_whole_way_through_apply(
    kernel: FakeKernel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In check mode, without the module, and with force."""
    monkeypatch.setattr(lockout, "find_sshd", lambda: Sshd((MANAGED,)))
    policy = {**POLICY, "guards": ["br-*"]}
    for on, dry_run in ((kernel, False), (kernel, True), (None, True)):
        with pytest.raises(RefusedError, match="br-mgmt"):
            apply_plan(plan(policy), on, store, dry_run=dry_run)
    assert kernel.commits == 0 and not store.present()
    assert apply_plan(plan(policy), kernel, store, options=CommitOptions(force=True)).changed


def test_a_session_of_a_container_does_not_stand_for_those_outside() -> None:
    session = SshSession("172.18.0.2", "172.18.0.1", 22, ("br-front",))
    runner = {"name": "runner", "from": ["container:web"], "to": ["host"], "ports": ["22/tcp"]}
    closed = {"defaults": {"host_ingress": "deny"}, "rules": [runner]}
    error = refused(closed, SSHD._replace(sessions=(session,)))
    assert error is not None and "let nobody outside reach sshd" in error.problem
    opened = {**closed, "rules": [runner, rule()]}
    assert refused(opened, SSHD._replace(sessions=(session,))) is None


def test_a_controller_in_a_container_is_judged_by_the_policy() -> None:
    session = SshSession("172.18.0.2", "172.18.0.1", 22, ("br-front",))
    rule = {"name": "runner", "from": ["container:web"], "to": ["host"], "ports": ["22/tcp"]}
    assert refused({"rules": [rule]}, Sshd((session,))) is None
    error = refused({}, Sshd((session,)))
    assert error is not None and error.location == "the default of to_host"
    assert refused({"mode": "audit"}, Sshd((session,))) is None
    # One of the same bridge that is no container's is unmanaged: no rule can let it in.
    stranger = session._replace(peer="172.18.0.99")
    for mode in ("enforce", "audit"):
        error = refused({"mode": mode, "rules": [rule]}, Sshd((stranger,)))
        assert error is not None and "br-front, over which 172.18.0.99 has an SSH session" in error.problem


# Sessions from outside


def test_a_controller_behind_a_gateways_container_is_judged_by_the_policy() -> None:
    """It comes over a VPN whose gateway is a container: its bridge may be guarded, and its group needs the rule."""
    sessions = Sshd(
        (SshSession("10.13.13.7", "172.18.0.1", 22, ("br-front",)),), (SshListener("0.0.0.0", 22),)
    )
    policy = {
        **POLICY,
        "groups": {**POLICY["groups"], "vpn": {"cidrs": ["10.13.13.0/24"], "behind": ["container:web"]}},
        "defaults": {"to_host": "deny"},
        "guards": ["br-front"],
    }
    error = refused(policy, sessions)
    assert error is not None
    assert "would cut an SSH session, 10.13.13.7" in error.problem
    allowed = [*POLICY["rules"], {"name": "admin", "from": ["vpn"], "to": ["host"], "ports": ["22/tcp"]}]
    assert refused({**policy, "rules": allowed}, sessions) is None


def test_each_session_must_be_allowed() -> None:
    office = {"name": "office", "from": ["10.1.1.0/24"], "to": ["host"], "ports": ["22/tcp"]}
    policy = {"defaults": {"host_ingress": "deny"}, "rules": [office]}
    inside = SshSession("10.1.1.1", "10.2.2.2", 22, ("eth0",))
    outside = inside._replace(peer="203.0.113.5")
    assert refused(policy, Sshd((inside,))) is None
    error = refused(policy, Sshd((inside, outside)))
    assert error is not None
    assert (
        "203.0.113.5 to port 22 of 10.2.2.2" in error.problem
        and error.location == "the default of host_ingress"
    )
    assert "allow 203.0.113.5 to reach host on 22/tcp" in error.hint
    # Another port than the one that is allowed.
    assert refused(policy, Sshd((inside._replace(port=2222),))) is not None


# No session, as with ansible-pull


def rule(**more: t.Any) -> Json:
    return {"name": "admin", "from": ["10.1.1.0/24"], "to": ["host"], "ports": ["22/tcp"], **more}


@pytest.mark.parametrize(
    ("policy", "place"),
    [
        ({}, None),
        ({"defaults": {"host_ingress": "deny"}}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "reject"}}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "deny"}, "mode": "audit"}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule()]}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["world"]})]}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(ports=["20-30/tcp"])]}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(to=["10.2.2.2/32"])]}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["2001:db8::/64"]})]}, None),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(ports=["2222/tcp"])]}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(ports=["22/udp"])]}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(to=["10.9.9.9/32"])]}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["containers"]})]}, "the default of host_ingress"),
        # Nobody outside has a container's address, nor the loopback's.
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["172.18.0.0/16"]})]}, "the default of host_ingress"),
        ({"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["127.0.0.0/8"]})]}, "the default of host_ingress"),
        ({"rules": [rule(action="deny", **{"from": ["world"]})]}, 'the rule "admin"'),
        ({"rules": [rule(action="deny")]}, None),
        (
            {"defaults": {"host_ingress": "deny"}, "rules": [rule(), rule(name="no", action="deny", **{"from": ["any"]})]},
            'the rule "no"',
        ),
    ],
)  # fmt: skip
def test_somebody_outside_must_be_allowed(policy: Json, place: t.Optional[str]) -> None:
    error = refused(policy, SSHD)
    if place is None:
        assert error is None
        return
    assert error is not None and error.location == place
    assert "port 22" in error.problem
    assert "reach host on 22/tcp" in error.hint and "bridgewarden_force" in error.hint
    # It is the port that makes the difference: the very same policy is accepted where no sshd listens.
    assert refused(policy, SSHD._replace(listeners=())) is None


def test_each_port_counts_and_each_family() -> None:
    deny = {"defaults": {"host_ingress": "deny"}, "rules": [rule()]}
    two = SSHD._replace(listeners=(SshListener("0.0.0.0", 22), SshListener("0.0.0.0", 2222)))
    error = refused(deny, two)
    assert error is not None and "port 2222" in error.problem
    six = {"defaults": {"host_ingress": "deny"}, "rules": [rule(**{"from": ["2001:db8::/64"]})]}
    assert refused(six, SSHD._replace(listeners=(SshListener("0.0.0.0", 22),))) is not None
    assert refused(six, SSHD._replace(listeners=(SshListener("0.0.0.0", 22), SshListener("::", 22)))) is None
    one = SSHD._replace(listeners=(SshListener("10.2.2.2", 22),))
    assert refused(deny, one) is None
    # An address on a guarded bridge is no way in from outside, so a listener there asks for nothing.
    bridge = SSHD._replace(listeners=(SshListener("172.18.0.1", 22),))
    assert refused({"defaults": {"host_ingress": "deny"}}, bridge) is None
    assert refused({"defaults": {"host_ingress": "deny"}}, one) is not None


def test_without_an_sshd_nothing_is_said_about_its_ports() -> None:
    assert refused({"defaults": {"host_ingress": "deny"}}, Sshd()) is None


# The hint, and the agent


def test_a_bridge_of_dockers_is_to_be_left_out_and_can_be() -> None:
    """A network on the host's own bridge: its guard is in no list of the operator's."""
    where = facts([], [network("lan", Bridge="br0")], default_route_links=["br0"])
    error = refused(POLICY, Sshd(), where)
    assert error is not None
    assert 'the guard pattern "br0" matches br0, which carries the default route' in error.problem
    assert "add br0 to bridgewarden_unguarded" in error.hint
    assert refused({**POLICY, "unguarded": ["br0"]}, Sshd(), where) is None


def test_a_commit_that_nobody_watches_leaves_such_bridges_alone_and_says_so() -> None:
    where = facts(
        [],
        [network("lan", Bridge="br0"), network("mgmt", Bridge="br-mgmt"), network("front")],
        default_route_links=["br0"],
    )
    policy = normalise(POLICY)
    found = ways_in(policy, where, [], Sshd((MANAGED,)))
    assert found == {"br-mgmt": "an SSH session from 10.20.0.5 runs over it"}
    assert ways_in(policy, where, ["br-mgmt"], Sshd((MANAGED,))) == {}  # guarded already
    plan = make_plan(POLICY, where, CommitOptions("ignore", ways_in=found))
    assert {"br0", "br-mgmt"}.isdisjoint(plan.ruleset.guards)
    assert "br-front" in plan.ruleset.guards
    assert "the bridge br0 gets no guard: it carries the default route" in plan.warnings
    assert plan.unguarded == {"br0", "br-mgmt"}


def test_a_session_of_a_container_keeps_no_guard_away() -> None:
    runner = container("runner", {"front": attached("172.18.0.7")})
    session = SshSession("172.18.0.7", "172.18.0.1", 22, ("br-front",))
    assert ways_in(normalise(POLICY), facts([runner], [network("front")]), [], Sshd((session,))) == {}


def test_a_pattern_of_the_policys_own_is_what_the_operator_wants() -> None:
    where = facts([], [network("lan", Bridge="br0")], default_route_links=["br0"])
    plan = make_plan({**POLICY, "guards": ["br0"]}, where, CommitOptions("ignore", ways_in={}))
    assert plan.ruleset.guards == ("br0",)


# Lifelines


BACKUP = {"name": "backup", "from": ["192.0.2.7/32"], "to": ["host"], "ports": ["22/tcp"]}
ADDRESSES = Sshd((), (), (("eth0", "192.0.2.1"), ("br-front", "172.18.0.1")))


@pytest.fixture
def routed(monkeypatch: pytest.MonkeyPatch) -> t.Dict[str, t.Tuple[str, ...]]:
    routes: t.Dict[str, t.Tuple[str, ...]] = {}
    monkeypatch.setattr(
        lockout, "links_towards", lambda addresses: {one: routes.get(one, ()) for one in addresses}
    )
    return routes


HOST_DENIED: Json = {"defaults": {"host_ingress": "deny"}}
LET_IN = {"name": "in", "from": ["192.0.2.0/24"], "to": ["host"], "ports": ["22/tcp"]}


@pytest.mark.parametrize(
    ("policy", "lifeline", "problem"),
    [
        (HOST_DENIED, BACKUP, '"backup", 192.0.2.7 to 192.0.2.1 22/tcp'),
        ({**HOST_DENIED, "rules": [LET_IN]}, BACKUP, None),
        ({**HOST_DENIED, "mode": "audit"}, BACKUP, None),
        ({}, BACKUP, None),
        ({**HOST_DENIED, "rules": [LET_IN]}, {**BACKUP, "ports": ["22-23/tcp"]}, "23/tcp"),
        ({**HOST_DENIED, "rules": [LET_IN]}, {**BACKUP, "from": ["192.0.2.0/23"]}, "192.0.3.0 to 192.0.2.1"),
        ({**HOST_DENIED, "rules": [LET_IN]}, {**BACKUP, "from": ["world"]}, "0.0.0.0 to 192.0.2.1"),
        (POLICY, {"name": "shop", "from": ["world"], "to": ["web"], "ports": ["8080/tcp"]}, None),
        (
            POLICY,
            {"name": "shop", "from": ["world"], "to": ["web"], "ports": ["9090/tcp"]},
            "to 172.18.0.2 9090/tcp",
        ),
        (
            {},
            {"name": "web", "from": ["container:web"], "to": ["host"], "ports": ["53/udp"]},
            "172.18.0.2 to 192.0.2.1",
        ),
    ],
)
def test_a_lifeline_that_would_be_cut(
    routed: t.Dict[str, t.Tuple[str, ...]], policy: Json, lifeline: Json, problem: t.Optional[str]
) -> None:
    error = refused({**policy, "lifelines": [lifeline]}, ADDRESSES)
    assert (error is None) == (problem is None), error
    if error is not None and problem is not None:
        assert problem in error.problem
        assert "bridgewarden_force" in error.hint and error.location


def test_a_lifeline_without_a_source_is_for_those_who_are_in_by_ssh(
    routed: t.Dict[str, t.Tuple[str, ...]],
) -> None:
    session = SshSession("192.0.2.9", "192.0.2.1", 22, ("eth0",))
    lifelines = {"lifelines": [{"name": "monitor", "ports": ["9100/tcp"]}]}
    policy = {**HOST_DENIED, "rules": [LET_IN], **lifelines}
    error = refused(policy, ADDRESSES._replace(sessions=(session,)))
    assert error is not None and "192.0.2.9 to 192.0.2.1 9100/tcp" in error.problem
    assert refused(policy, ADDRESSES) is None


@pytest.mark.parametrize("mode", ["enforce", "audit"])
def test_a_guard_over_which_a_lifeline_comes(routed: t.Dict[str, t.Tuple[str, ...]], mode: str) -> None:
    routed["192.0.2.7"] = ("br-front",)
    error = refused({"mode": mode, "lifelines": [BACKUP]}, ADDRESSES)
    assert error is not None
    assert 'matches br-front, over which the lifeline "backup" comes from 192.0.2.7' in error.problem


def test_a_lifeline_that_means_nobody_is_reported() -> None:
    lost = {"name": "x", "from": ["container:gone"], "ports": ["22/tcp"]}
    warnings = make_plan({"mode": "audit", "lifelines": [lost]}, shop()).warnings
    assert any('"container:gone" in from of the lifeline "x" matches nothing' in text for text in warnings)
    with pytest.raises(SelectorError) as caught:
        make_plan({"mode": "audit", "lifelines": [lost]}, shop(), CommitOptions("fail"))
    assert caught.value.path == ("lifelines", 0, "from")
