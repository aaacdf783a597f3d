# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Refuses a plan that would cut off the controller, an SSH session or sshd's ports.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import ipaddress
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import REASON_MAX, Kind
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import Plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import RefusedError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import (
    Sshd,
    SshSession,
    find_sshd,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_match
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.judge import (
    Connection,
    Decision,
    Judge,
)

# Not cutting anybody off


def refuse_lockout(plan: Plan, ways_in: t.Optional[Sshd] = None) -> None:
    """Raises RefusedError where the plan would take the default route, or the way in by SSH.

    A guard must match neither a link with a default route nor one that a session
    of sshd's runs over.  Sessions must be allowed; where none comes from outside,
    each port that sshd listens on must be allowed to somebody outside.  A peer that is a
    container of this host comes from behind a guard by right, and is judged.
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


def _guard_of(plan: Plan, link: str) -> t.Optional[str]:
    return next((pattern for pattern in plan.ruleset.guards if glob_match(pattern, link)), None)


def _refuse_guard(plan: Plan, link: str, why: str) -> None:
    pattern = _guard_of(plan, link)
    if pattern is not None:
        raise RefusedError(
            f'the guard pattern "{pattern}" matches {link}, {why}',
            "guards",
            "narrow the pattern, or set bridgewarden_force if all traffic of this link shall be judged",
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


def _by(plan: Plan, decision: Decision) -> str:
    if decision.index >= REASON_MAX:
        return f'the rule "{plan.ruleset.rule_name(decision.index - REASON_MAX)}"'
    return f"the default of {decision.direction_class}"
