# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuses a plan that would cut off the controller, an SSH session, sshd's ports or one of the policy's lifelines.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX, Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import Plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import RefusedError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import EVERY_ADDRESS
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import (
    Sshd,
    SshSession,
    find_sshd,
    links_towards,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.addresses import looks_like_address
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import Lifeline, Policy
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_match
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.services import (
    service_text,
    services,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import (
    Connection,
    Decision,
    Judge,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import (
    Endpoints,
    Party,
    Selectors,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

# Not cutting anybody off


def refuse_lockout(plan: Plan, ways_in: t.Optional[Sshd] = None) -> None:
    """Raises RefusedError where the plan would take the default route, or the way in by SSH.

    A guard must match neither a link with a default route nor one that a session
    of sshd's runs over.  Sessions must be allowed; where none comes from outside,
    each port that sshd listens on must be allowed to somebody outside.  A peer that is a
    container of this host comes from behind a guard by right, and is judged.  Lifelines
    must be allowed, and come over no guard.
    """
    for link in plan.facts.get("default_route_links") or []:
        _refuse_guard(plan, link, "which carries the default route")
    sshd = ways_in if ways_in is not None else find_sshd()
    judge = Judge(plan.ruleset)
    outside = False
    for session in sshd.sessions:
        contained = bool(judge.identity(session.peer, Kind.GUARDED))
        if not contained:
            outside = True
            for link in session.links:
                said = (
                    f"over which {session.peer} has an SSH session to port {session.port} of {session.server}"
                )
                _refuse_guard(plan, link, said)
        if not plan.ruleset.mode:
            _refuse_cut(plan, judge, session, Kind.GUARDED if contained else Kind.WORLD)
    if not outside and not plan.ruleset.mode:
        for port in sorted({listener.port for listener in sshd.listeners}):
            _refuse_closed(plan, judge, sshd, port)
    _refuse_lifelines(plan, judge, sshd)


def _guard_of(plan: Plan, link: str) -> t.Optional[str]:
    return next((pattern for pattern in plan.ruleset.guards if glob_match(pattern, link)), None)


def _refuse_guard(plan: Plan, link: str, why: str) -> None:
    pattern = _guard_of(plan, link)
    if pattern is not None:
        if pattern in plan.policy["guards"]:
            hint = "narrow the pattern"
        else:
            hint = f"it is the bridge of one of Docker's networks: add {link} to bridgewarden_unguarded"
        raise RefusedError(
            f'the guard pattern "{pattern}" matches {link}, {why}',
            "guards",
            hint + ", or set bridgewarden_force if all traffic of this link shall be judged",
        )


def _refuse_cut(plan: Plan, judge: Judge, session: SshSession, kind: Kind) -> None:
    decision = judge.decide(Connection(session.peer, session.server, 6, session.port, kind, Kind.HOST))
    if decision.action != "allow":
        raise RefusedError(
            f"this policy would cut an SSH session, {session.peer} to port {session.port} of {session.server}",
            _by(plan, decision),
            f"allow {session.peer} to reach host on {session.port}/tcp, or set bridgewarden_force",
        )


def _refuse_closed(plan: Plan, judge: Judge, sshd: Sshd, port: int) -> None:
    """Where somebody outside may come in at one address at least, the port is open."""
    refused: t.Optional[Decision] = None
    listeners = [listener for listener in sshd.listeners if listener.port == port]
    for link, server in sshd.addresses:
        # A guarded bridge's own address is no way in from outside.
        if _guard_of(plan, link) is None and any(listener.serves(server) for listener in listeners):
            for source in _outside(plan, server):
                decision = judge.decide(Connection(source, server, 6, port, Kind.WORLD, Kind.HOST))
                if decision.action == "allow":
                    return
                refused = refused or decision
    if refused is not None:
        raise RefusedError(
            f"this policy would let nobody outside reach sshd, which listens on port {port}",
            _by(plan, refused),
            f"allow those who manage this host to reach host on {port}/tcp, or set bridgewarden_force",
        )


def _outside(plan: Plan, server: str) -> t.Iterator[str]:
    """One address for each kind of outside peer that the policy tells apart, of the server's family."""
    subnets = [
        ipaddress.ip_network(subnet)
        for network in plan.facts.get("networks") or []
        for subnet in network.get("Subnets") or []
        if network.get("Bridge")
    ]
    seen = set()
    for packed, identity, _host in plan.ruleset.cells6 if ":" in server else plan.ruleset.cells4:
        address = ipaddress.ip_address(packed)
        if identity in seen or address.is_loopback or any(address in subnet for subnet in subnets):
            continue
        seen.add(identity)
        yield str(address)


# Lifelines


class _End(t.NamedTuple):
    address: str
    kind: Kind


def _refuse_lifelines(plan: Plan, judge: Judge, sshd: Sshd) -> None:
    if not plan.policy.get("lifelines"):
        return
    policy = normalise(plan.policy)
    inside = policy.placement == "container"
    selectors = Selectors(policy, Endpoints(plan.facts, inside, plan.unguarded))
    for lifeline in policy.lifelines:
        sources = list(_sources_of(lifeline, plan, selectors, sshd, judge))
        outside = sorted({end.address for end in sources if end.kind == Kind.WORLD})
        for address, links in links_towards(_single(lifeline, outside)).items():
            for link in links:
                _refuse_guard(plan, link, f'over which the lifeline "{lifeline.name}" comes from {address}')
        if plan.ruleset.mode:
            continue
        targets = list(_ends(selectors.party(lifeline.targets), plan, selectors.host, sshd))
        ports = [span for text in lifeline.ports for span in services([text])]
        for one in sources:
            for other in targets:
                if (":" in one.address) == (":" in other.address):
                    _refuse_dead(plan, judge, lifeline, one, other, ports)


def _single(lifeline: Lifeline, addresses: t.Sequence[str]) -> t.Sequence[str]:
    """Where a lifeline comes from by name; a network's first address stands for no route."""
    named = {peer.partition("/")[0] for peer in lifeline.sources}
    return [address for address in addresses if not lifeline.sources or address in named]


def _refuse_dead(
    plan: Plan, judge: Judge, lifeline: Lifeline, one: _End, other: _End, ports: t.Sequence[t.Tuple[int, int]]
) -> None:
    for lo, hi in ports:
        for service in sorted({lo, hi}):
            decision = judge.decide(
                Connection(one.address, other.address, service >> 16, service & 0xFFFF, one.kind, other.kind)
            )
            if decision.action != "allow":
                text = service_text((service, service))
                raise RefusedError(
                    f'this policy would cut the lifeline "{lifeline.name}", {one.address} to {other.address} {text}',
                    _by(plan, decision),
                    "add a rule that allows it, correct the lifeline, or set bridgewarden_force",
                )


def _sources_of(
    lifeline: Lifeline, plan: Plan, selectors: Selectors, sshd: Sshd, judge: Judge
) -> t.Iterator[_End]:
    if lifeline.sources:
        yield from _ends(selectors.party(lifeline.sources), plan, selectors.host, sshd)
        return
    for session in sshd.sessions:
        contained = bool(judge.identity(session.peer, Kind.GUARDED))
        yield _End(session.peer, Kind.GUARDED if contained else Kind.WORLD)


def _ends(party: Party, plan: Plan, host: Endpoints, sshd: Sshd) -> t.Iterator[_End]:
    """An address for each that the policy tells apart."""
    if party.world:
        for family in EVERY_ADDRESS.values():
            yield from (_End(address, Kind.WORLD) for address in _outside(plan, family))
    for version, lo, hi in party.nets:
        cells = plan.ruleset.cells4 if version == 4 else plan.ruleset.cells6
        starts = {
            lo,
            *(start for start in (int.from_bytes(cell[0], "big") for cell in cells) if lo < start <= hi),
        }
        make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
        yield from (_End(str(make(start)), Kind.WORLD) for start in sorted(starts))
    if party.host:
        own = [address for link, address in sshd.addresses if _guard_of(plan, link) is None]
        yield from (_End(address, Kind.HOST) for address in own or ("127.0.0.1", "::1"))
    for index in sorted(party.endpoints):
        yield _End(host.endpoints[index].text, Kind.GUARDED)


def ways_in(
    policy: Policy, facts: Json, guarded: t.Collection[str], sshd: t.Optional[Sshd] = None
) -> t.Dict[str, str]:
    """The links that a session of sshd's or a lifeline runs over, with the reason; none that are guarded already.

    For a commit of the agent's, which nobody can be asked about.  What comes from a container is judged by right.
    """
    sshd = sshd if sshd is not None else find_sshd()
    endpoints = {endpoint.text for endpoint in Endpoints(facts, policy.placement == "container").endpoints}
    found = {
        link: f"an SSH session from {session.peer} runs over it"
        for session in sshd.sessions
        if session.peer not in endpoints
        for link in session.links
    }
    for lifeline in policy.lifelines:
        named = [peer.partition("/")[0] for peer in lifeline.sources if looks_like_address(peer)]
        for address, links in links_towards(named).items():
            for link in links:
                found.setdefault(link, f'the lifeline "{lifeline.name}" from {address} runs over it')
    return {link: why for link, why in found.items() if link not in guarded}


def _by(plan: Plan, decision: Decision) -> str:
    if decision.index >= REASON_MAX:
        return f'the rule "{plan.ruleset.rule_name(decision.index - REASON_MAX)}"'
    return f"the default of {decision.direction_class}"
