# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a desired policy and Docker's facts to a ruleset in force.

`plan()` is pure: it resolves, compiles and says in words what would hold.
`apply()` compares the plan with the kernel, commits what differs and keeps the
store in step.  The modules, the agent and the command call these two; none of
them commits on its own.

The files follow the kernel: a policy is written as *pending* before its commit
and becomes the desired one after it (after its confirmation, if it has a
window).  Whoever reads in between finds out by the digest in the kernel which
of the two is at work, so neither a crash nor a roll back leaves a doubt.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import time
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import (
    Connection,
    Decision,
    Judge,
    Ruleset,
    compile,
    empty,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    KernelError,
    RefusedError,
    Sealed,
    Stale,
    StoreCorrupt,
    did_you_mean,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import (
    REASON_MAX,
    Explanation,
    Info,
    Kernel,
    Kind,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy import (
    digest,
    glob_match,
    normalise,
    service_number,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._resolve import resolve, sentences
from ansible_collections.bridgewarden.docker.plugins.module_utils._selectors import Host
from ansible_collections.bridgewarden.docker.plugins.module_utils._sshd import Session, Sshd, look
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

Json = t.Dict[str, t.Any]

NOTHING = "no guards, no rules: nothing is judged"

#: How often a commit is tried again on fresh facts before it is given up.
ATTEMPTS = 5


@dataclass(frozen=True)
class Options:
    on_empty_selector: str = "warn"  # warn | fail | ignore
    force: bool = False  # commit although it may cut somebody off
    adopt: bool = True  # make the policy the desired one; False for those who only follow it


@dataclass(frozen=True)
class Plan:
    """What a policy means on this host now."""

    policy: Json  # normal form, what the store keeps
    policy_digest: str  # hex
    ruleset: Ruleset
    ruleset_digest: str  # hex
    effective: t.List[Json]  # architecture.md, 4
    words: t.List[str]  # one sentence each: mode, guards, defaults, rules
    warnings: t.List[str]
    facts: Json = field(repr=False)


@dataclass(frozen=True)
class Result:
    """What `apply()` did, or would do."""

    changed: bool
    generation: int  # in force now; in a dry run the one before
    confirm_timeout: int  # seconds of the window that is open; 0: none
    actions: t.List[str]  # in plain words, the same in a dry run
    before: str  # for Ansible's diff
    after: str
    plan: t.Optional[Plan] = field(default=None, repr=False)  # the one that was applied

    @property
    def diff(self) -> t.Dict[str, str]:
        return {
            "before": self.before,
            "after": self.after,
            "before_header": "in force",
            "after_header": "wanted",
        }


# Plans


def plan(policy: Json, facts: Json, options: t.Optional[Options] = None) -> Plan:
    """Resolves and compiles `policy` (raw or normal form). Raises PolicyError; touches nothing."""
    options = options or Options()
    wanted = normalise(policy)
    resolution = resolve(wanted, facts, options.on_empty_selector)
    ruleset = compile(wanted, resolution, facts)
    words = [f"guards: {', '.join(ruleset.guards) or 'none'}", *sentences(resolution)]
    if ruleset.parents:
        words.insert(1, f"parent links: {', '.join(ruleset.parents)}")
    endpoints = len(ruleset.endpoints4) + len(ruleset.endpoints6)
    words.append(f"endpoints: {endpoints}, ruleset {ruleset.digest().hex()[:12]}")
    warnings = list(resolution.warnings)
    if options.on_empty_selector != "ignore":
        warnings += _shadow_warnings(ruleset)
    return Plan(
        policy=wanted.as_dict(),
        policy_digest=digest(wanted),
        ruleset=ruleset,
        ruleset_digest=ruleset.digest().hex(),
        effective=resolution.effective(),
        words=words,
        warnings=warnings,
        facts=facts,
    )


def _shadow_warnings(ruleset: Ruleset) -> t.List[str]:
    return [
        f'rule "{ruleset.rule_name(loser)}": it decides nothing here now, because whatever it matches is '
        f'decided by others first, for example by "{ruleset.rule_name(winner)}"'
        for loser, winner in ruleset.shadowed
    ]


def boot_plan(policy: Json) -> Plan:
    """The plan before Docker runs: no endpoint is known, everything behind the guards is closed."""
    return plan(policy, {}, Options(on_empty_selector="ignore"))


# Apply


def apply(
    plan: Plan,
    kernel: t.Optional[Kernel],
    store: Store,
    dry_run: bool = False,
    confirm_timeout: int = 0,
    refresh: t.Optional[t.Callable[[], Plan]] = None,
    options: t.Optional[Options] = None,
) -> Result:
    """Brings the kernel and the store in step with the plan.

    Unchanged where the kernel's ruleset digest, policy digest and mode equal
    the plan's: then nothing is committed and no window is armed.  On Stale
    (another commit, or a link that went) `refresh()` makes a new plan from
    fresh facts, a bounded number of times.  `kernel` may be None in a dry run
    on a host without the module.  Raises RefusedError unless options.force.
    """
    with _lock_unless(dry_run, store):
        return _apply(plan, kernel, store, dry_run, confirm_timeout, refresh, options or Options())


def sync(
    kernel: Kernel, store: Store, replan: t.Callable[[Json], Plan], options: t.Optional[Options] = None
) -> t.Optional[Result]:
    """For the agent: the policy in force, resolved anew by `replan(policy)`. None where there is none.

    The policy is read under the lock.  Read before it, a policy that somebody
    applies meanwhile would be undone by the commit of the former one.  Where
    its file is damaged the last good one is followed, and StoreCorrupt raised
    after that: the containers must not suffer for it.
    """
    options = options or Options(on_empty_selector="ignore", adopt=False)
    with store.lock():
        damage: t.Optional[StoreCorrupt] = None
        try:
            policy = current_policy(store, kernel.info())
        except StoreCorrupt as error:
            damage, policy = error, store.read_last_good_or_none()
        result = None
        if policy is not None:
            wanted = policy

            def again() -> Plan:
                return replan(wanted)

            result = _apply(again(), kernel, store, False, 0, again, options)
        if damage is not None:
            raise damage
        return result


def _lock_unless(dry_run: bool, store: Store) -> t.ContextManager[t.Any]:
    return contextlib.nullcontext() if dry_run else store.lock()


def _apply(
    plan: Plan,
    kernel: t.Optional[Kernel],
    store: Store,
    dry_run: bool,
    confirm_timeout: int,
    refresh: t.Optional[t.Callable[[], Plan]],
    options: Options,
) -> Result:
    for attempt in range(ATTEMPTS):
        if not options.force:
            refuse_lockout(plan)
        info = kernel.info() if kernel is not None else None
        before = _before(info, kernel, store)
        if info is not None and in_force(plan, info):
            return _in_step(plan, info, store, dry_run, options.adopt, before)
        _refuse_sealed(info)
        actions = _actions(plan, info, confirm_timeout)
        if kernel is None or info is None:
            return Result(True, 0, 0, actions, before, _text(plan.words), plan)
        if not dry_run and options.adopt:
            store.write_pending(plan.policy)
        try:
            generation = kernel.commit(plan.ruleset, info.generation, dry_run, confirm_timeout)
        except Stale:
            if refresh is None or attempt + 1 == ATTEMPTS:
                raise
            plan = refresh()
            continue
        if dry_run:
            return Result(True, info.generation, 0, actions, before, _text(plan.words), plan)
        _remember(plan, generation, store)
        if options.adopt and not confirm_timeout:
            _settle(plan.policy, store)
        return Result(True, generation, confirm_timeout, actions, before, _text(plan.words), plan)
    raise AssertionError("unreachable")


def _refuse_sealed(info: t.Optional[Info]) -> None:
    """The kernel would refuse as well, but only when files are written already, and in a dry run not at all."""
    if info is not None and info.sealed:
        raise Sealed(
            "the module is sealed",
            f"generation {info.generation} is in force",
            "reboot the host to change its policy",
            errno.EPERM,
        )


def in_force(plan: Plan, info: Info) -> bool:
    """Whether the kernel has exactly this plan."""
    return (info.ruleset_digest, info.policy_digest, info.mode) == (
        plan.ruleset_digest,
        plan.policy_digest,
        plan.policy["mode"],
    )


def _in_step(plan: Plan, info: Info, store: Store, dry_run: bool, adopt: bool, before: str) -> Result:
    """Nothing to commit; the files may still lag behind, after a crash or by somebody's hand."""
    actions = []
    # A pending policy without an open window was confirmed by somebody who did not get to write it down.
    adopt = adopt or store.read_pending_or_none() == plan.policy
    if adopt and not info.confirm_remaining:
        if store.read_policy_or_none() != plan.policy:
            actions.append(f"write {store.policy_path}")
        if not dry_run:
            _settle(plan.policy, store)
    if not dry_run and _applied(store).get("generation") != info.generation:
        _remember(
            plan, info.generation, store
        )  # the disk was full, say; where it still is, that is said again
    return Result(bool(actions), info.generation, info.confirm_remaining, actions, before, before, plan)


def _actions(plan: Plan, info: t.Optional[Info], confirm_timeout: int) -> t.List[str]:
    ruleset = plan.ruleset
    what = (
        f"{len(ruleset.rules)} rules, {len(ruleset.endpoints4) + len(ruleset.endpoints6)} endpoints, "
        f"{len(ruleset.guards)} guard patterns, mode {plan.policy['mode']}"
    )
    if info is None:
        return [f"commit a ruleset ({what}) once the kernel module is loaded"]
    kept = info.generation and info.policy_digest == plan.policy_digest
    actions = [
        f"commit {'the containers as they are now to the same policy' if kept else 'a ruleset'} ({what})"
    ]
    if confirm_timeout:
        actions.append(f"roll it back after {confirm_timeout} s unless it is confirmed")
    return actions


def _settle(policy: Json, store: Store) -> None:
    """The commit is there to stay."""
    store.write_policy(policy)
    store.write_last_good(policy)
    store.drop_pending()


# What was in force, in words


def _remember(plan: Plan, generation: int, store: Store) -> None:
    """Keeps the words of this ruleset and the one before: a roll back may bring that one back."""
    former = _applied(store)
    store.write_applied(
        {
            "generation": generation,
            "policy_digest": plan.policy_digest,
            "ruleset_digest": plan.ruleset_digest,
            "mode": plan.policy["mode"],
            "effective": plan.effective,
            "words": plan.words,
            "time": int(time.time()),
            "former": {key: former[key] for key in ("ruleset_digest", "words") if key in former},
        }
    )


def _applied(store: Store) -> Json:
    with contextlib.suppress(StoreCorrupt):  # it serves the diff only
        return store.read_applied() or {}
    return {}


def _before(info: t.Optional[Info], kernel: t.Optional[Kernel], store: Store) -> str:
    if info is None or kernel is None:
        return _text(["no ruleset: the kernel module is not loaded"])
    if info.ruleset_digest == empty().digest().hex():
        return _text([NOTHING])
    if not info.generation:
        return _text(["no ruleset yet" + (": the guards are closed" if info.guards else "")])
    applied = _applied(store)
    for known in (applied, applied.get("former") or {}):
        if known.get("ruleset_digest") == info.ruleset_digest:
            return _text(known["words"])
    lines = [
        f"generation {info.generation}: not the ruleset this host's files describe; by the kernel's own account:",
        f"guards: {', '.join(info.guards) or 'none'}",
        f"mode: {info.mode}",
    ]
    lines += [f"default: {action} {name}" for name, action in info.defaults.items()]
    lines += [f"{row.action} {row.name}" for row in kernel.rules() if not row.builtin]
    lines.append(f"endpoints: {info.counts.get('endpoints', 0)}, ruleset {info.ruleset_digest[:12]}")
    return _text(lines)


def _text(lines: t.Sequence[str]) -> str:
    return "".join(line + "\n" for line in lines)


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
    sshd = ways_in if ways_in is not None else look()
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


def _refuse_cut(plan: Plan, judge: Judge, session: Session, kind: Kind) -> None:
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


# The files' side


def current_policy(store: Store, info: t.Optional[Info] = None) -> t.Optional[Json]:
    """The policy the agent must keep in step: normally policy.json, else last-good.json.

    While a confirm window is open the kernel runs the pending policy; that is
    recognised by its digest, so after a roll back the former policy holds again
    without anybody having to tell.
    """
    if info is not None and info.policy_digest:
        pending = store.read_pending_or_none()
        if pending is not None and digest(normalise(pending)) == info.policy_digest:
            return pending
    return store.read_policy() or store.read_last_good()


def confirm(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Keeps the open commit; the pending policy becomes the desired and the last good one."""
    with store.lock():
        try:
            now = kernel.confirm(generation)
        except KernelError as error:
            raise _no_window(
                error, kernel, "it was confirmed before, or rolled back for want of it"
            ) from None
        pending = store.read_pending_or_none()
        if pending is not None and digest(normalise(pending)) == kernel.info().policy_digest:
            _settle(pending, store)
        return now


def rollback(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Restores the ruleset before the last commit, and the files with it."""
    with store.lock():
        try:
            now = kernel.rollback(generation)
        except KernelError as error:
            mend = "what is confirmed stays; apply the former policy to go back to it"
            raise _no_window(error, kernel, mend) from None
        store.drop_pending()
        return now


def seal(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """No change from now on, until the host is rebooted; returns the generation in force."""
    with store.lock():
        try:
            return kernel.seal(generation)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            place = "no ruleset is in force"
            raise KernelError(
                "there is nothing to seal", place, "apply a policy first", errno.ENOENT
            ) from None


def _no_window(error: KernelError, kernel: Kernel, mend: str) -> KernelError:
    if error.errno != errno.ENOENT:
        return error
    place = f"generation {kernel.info().generation} is in force"
    return KernelError("no commit waits for its confirmation", place, mend, errno.ENOENT)


def remove(kernel: t.Optional[Kernel], store: Store, dry_run: bool = False) -> Result:
    """Takes everything back: no guard, no rule, no file. The module itself stays loaded."""
    with _lock_unless(dry_run, store):
        info = kernel.info() if kernel is not None else None
        before = _before(info, kernel, store)
        actions = [f"remove {path}" for path in store.present()]
        generation = info.generation if info else 0
        ruleset = empty()
        if info is not None and (info.guards or info.ruleset_digest not in ("", ruleset.digest().hex())):
            _refuse_sealed(info)
            actions.insert(0, "commit an empty ruleset without guards: nothing is judged any more")
            if kernel is not None and not dry_run:
                _close_window(kernel, info)
                generation = kernel.commit(ruleset, kernel.info().generation)
        if not dry_run:
            store.remove()
        after = _text([NOTHING]) if actions else before
        return Result(bool(actions), generation, 0, actions, before, after)


def _close_window(kernel: Kernel, info: Info) -> None:
    if info.confirm_remaining:
        with contextlib.suppress(KernelError):  # it may run out this moment
            kernel.rollback()


# Explain


@dataclass(frozen=True)
class Peer:
    """One side of a connection somebody asks about."""

    name: str
    address: str
    kind: Kind


def explain(
    kernel: Kernel, facts: Json, source: str, target: str, service: str, direct: bool = False
) -> t.List[Json]:
    """The kernel's verdict on a connection, once for each pair of addresses the two names have in common.

    A side is a container's name, an address, `host` or `world`.  The address of
    `host` is taken to be the first of the other side's network, as Docker does
    it; that of `world` is one for documentation (192.0.2.1, 2001:db8::1).
    """
    host = Host(facts, kernel.info().placement == "container")
    number = service_number(service)
    answers = []
    for one, other in _pairs(host, facts, source, target):
        found = kernel.explain(
            one.address, other.address, number >> 16, number & 0xFFFF, one.kind, other.kind, direct
        )
        answers.append(
            {
                "from": one.address,
                "to": other.address,
                "from_kind": one.kind.name.lower(),
                "to_kind": other.kind.name.lower(),
                "service": service,
                "action": found.action,
                "class": found.direction_class,
                "rule": "" if found.builtin else found.rule_name,
                "reason": found.rule_name if found.builtin else "",
                "from_identity": found.from_identity,
                "to_identity": found.to_identity,
                "generation": found.generation,
                "words": _verdict_words(one, other, service, found),
            }
        )
    return answers


def _verdict_words(one: Peer, other: Peer, service: str, found: Explanation) -> str:
    by = found.rule_name if found.builtin else f'the rule "{found.rule_name}"'
    return f"{found.action} {one.name} ({one.address}) -> {other.name} ({other.address}) {service}: {by}"


_Located = t.List[t.Tuple[Peer, str]]  # with the network, "" where it is on none


def _pairs(host: Host, facts: Json, source: str, target: str) -> t.List[t.Tuple[Peer, Peer]]:
    sources, targets = _peers(host, facts, source), _peers(host, facts, target)
    shared = _share(sources, targets)
    if not shared:
        sources, targets = _one_host(sources), _one_host(targets)
    pairs = [
        (one, other)
        for one, its_network in sources
        for other, other_network in targets
        if (":" in one.address) == (":" in other.address) and (not shared or its_network == other_network)
    ]
    if not pairs:
        raise BridgewardenError(
            f"{source} and {target} have no address family in common", "", "name addresses of one family"
        )
    return pairs


def _one_host(located: _Located) -> _Located:
    """Of the host's many addresses one a family will do where no network asks for its own."""
    kept: t.Dict[t.Tuple[str, bool], t.Tuple[Peer, str]] = {}
    for peer, network in located:
        name = "host" if peer.kind == Kind.HOST else peer.address
        kept.setdefault((name, ":" in peer.address), (peer, network))
    return list(kept.values())


def _share(sources: _Located, targets: _Located) -> bool:
    """Whether both are on one network: then the connection takes that one."""
    return bool({network for _peer, network in sources if network} & {n for _peer, n in targets if n})


def _peers(host: Host, facts: Json, name: str) -> _Located:
    container = host.container(name)
    if container is not None:
        found = [
            (Peer(name, host.endpoints[i].text, Kind.GUARDED), host.endpoints[i].network)
            for i in host.endpoints_of(container)
        ]
        if not found:
            raise BridgewardenError(
                f'the container "{name}" has no address behind a guard',
                "",
                "start it, or name host or an address",
            )
        return found
    if name == "world":
        return [(Peer(name, address, Kind.WORLD), "") for address in ("192.0.2.1", "2001:db8::1")]
    if name == "host":
        return _gateways(facts)
    try:
        address = str(ipaddress.ip_address(name))
    except ValueError:
        known = [c["Name"] for c in host.containers]
        raise BridgewardenError(
            f'"{name}" is neither a container nor an address',
            "",
            f"name a container, an address, host or world.{did_you_mean(name, [*known, 'host', 'world'])}",
        ) from None
    return [(Peer(address, address, _kind(host, facts, address)), "")]


def _gateways(facts: Json) -> _Located:
    found = []
    for network in facts.get("networks") or []:
        for subnet in network.get("Subnets") or [] if network.get("Bridge") else []:
            first = str(ipaddress.ip_network(subnet)[1])
            found.append((Peer("host", first, Kind.HOST), network["Name"]))
    return found or [(Peer("host", address, Kind.HOST), "") for address in ("127.0.0.1", "::1")]


def _kind(host: Host, facts: Json, address: str) -> Kind:
    number = ipaddress.ip_address(address)
    if host.within([(number.version, int(number), int(number))]):
        return Kind.GUARDED
    if _is_local(address):
        return Kind.HOST
    for network in facts.get("networks") or []:
        if network.get("Bridge") and any(
            number in ipaddress.ip_network(s) for s in network.get("Subnets") or []
        ):
            return Kind.GUARDED
    return Kind.WORLD


def _is_local(address: str) -> bool:
    """Whether this host has the address: only then a socket can be bound to it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
