# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Commits a plan: compares it with the kernel, commits what differs, and keeps the store in step.

The modules, the agent and the command commit through apply_plan() and
apply_facts() only.

The files follow the kernel: a policy is written as *pending* before its commit
and becomes the desired one after it (after its confirmation, if it has a
window).  The digest in the kernel tells a reader in between which of the two
is in force, so neither a crash nor a roll back leaves it in doubt.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import time
import typing as t
from dataclasses import dataclass, field, replace

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.lockout import refuse_lockout
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    NOTHING_JUDGED,
    CommitOptions,
    Plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    KernelError,
    PolicyError,
    Sealed,
    Stale,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import (
    Ruleset,
    empty_ruleset,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import printable
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: How often a commit is tried again on fresh facts before it is given up.
COMMIT_ATTEMPTS = 5
#: Kept with what is applied: what a CIDR in an allow meant. Up to version 0.1 it was whoever has the address.
CIDRS_MEAN = "outside"


@dataclass(frozen=True)
class CommitResult:
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


# Apply


def apply_plan(
    plan: Plan,
    kernel: t.Optional[Kernel],
    store: Store,
    dry_run: bool = False,
    confirm_timeout: int = 0,
    refresh: t.Optional[t.Callable[[], Plan]] = None,
    options: t.Optional[CommitOptions] = None,
    since: t.Optional[int] = None,
) -> CommitResult:
    """Brings the kernel and the store in step with the plan.

    Unchanged where the kernel's ruleset digest, policy digest and mode equal
    the plan's, and no endpoint waits to be opened again (Info.returned): then nothing is committed and no window is armed.
    `since` is the generation that was in force before
    the plan's facts were collected: where another is by now, or on Stale (another commit, or a link that went),
    `refresh()` makes a new plan from fresh facts, a bounded number of times.  dockerd is asked without the lock.
    `kernel` may be None in a dry run on a host without the module.  Raises RefusedError unless options.force.
    """
    options = options or CommitOptions()
    for attempt in range(COMMIT_ATTEMPTS):
        may_refresh = refresh is not None and attempt + 1 < COMMIT_ATTEMPTS
        with _lock_unless(dry_run, store):
            info = kernel.info() if kernel is not None else None
            if not may_refresh or info is None or since in (None, info.generation):
                try:
                    return _apply(plan, kernel, info, store, dry_run, confirm_timeout, options)
                except Stale:
                    if not may_refresh:
                        raise
        if refresh is None or kernel is None:
            break  # may_refresh says that neither is
        since = kernel.info().generation
        plan = refresh()
    raise AssertionError("unreachable")


def apply_facts(
    kernel: Kernel,
    store: Store,
    replan: t.Callable[[Json], Plan],
    options: t.Optional[CommitOptions] = None,
    collect: t.Optional[t.Callable[[], None]] = None,
    later: t.Optional[t.Callable[[Plan, int], None]] = None,
) -> t.Optional[CommitResult]:
    """For the agent: the policy in force, resolved anew by `replan(policy)`. None where there is none.

    The policy is read under the lock.  Read before it, a policy that somebody
    applies meanwhile would be undone by the commit of the former one.  The facts are collected before it, by `collect()`,
    because dockerd may be slow, and again where somebody has committed since: that one's may be newer.  Where
    the policy's file is damaged the last good one is followed, and StoreCorrupt raised
    after that: the containers must not suffer for it.  With `later` the result has no words, and what was applied
    is not written down: later(plan, generation) is called to do that.
    """
    options = options or CommitOptions(on_empty_selector="ignore", adopt=False)
    for attempt in range(COMMIT_ATTEMPTS):
        last = attempt + 1 == COMMIT_ATTEMPTS
        since = kernel.info().generation
        if collect is not None:
            collect()
        with store.lock():
            info = kernel.info()
            if info.generation != since and not last:
                continue
            damage: t.Optional[StoreCorrupt] = None
            try:
                policy = current_policy(store, info)
            except StoreCorrupt as error:
                damage, policy = error, store.read_last_good_or_none()
            result = None
            if policy is not None:
                plan = replan(policy)
                try:
                    result = _apply(plan, kernel, info, store, False, 0, options, later)
                except Stale:
                    if last:
                        raise
                    continue
            if damage is not None:
                raise damage
            return result
    raise AssertionError("unreachable")


def _lock_unless(dry_run: bool, store: Store) -> t.ContextManager[t.Any]:
    return contextlib.nullcontext() if dry_run else store.lock()


def _apply(
    plan: Plan,
    kernel: t.Optional[Kernel],
    info: t.Optional[Info],
    store: Store,
    dry_run: bool,
    confirm_timeout: int,
    options: CommitOptions,
    later: t.Optional[t.Callable[[Plan, int], None]] = None,
) -> CommitResult:
    """Once, under the lock, with the kernel's state of now. Raises Stale."""
    if not options.force:
        refuse_lockout(plan)
    before = _before(info, kernel, store) if later is None else ""
    if info is not None and in_force(plan, info):
        return _unchanged(plan, info, store, dry_run, options.adopt, before, later)
    _refuse_sealed(info)
    actions = _actions(plan, info, confirm_timeout) if later is None else []
    after = _diff_text(plan.words) if later is None else ""
    if kernel is None or info is None:
        return CommitResult(True, 0, 0, actions, before, after, plan)
    if not dry_run and options.adopt:
        store.write_pending(plan.policy)
    plan, generation = commit_ruleset(plan, kernel, info, options, dry_run, confirm_timeout)
    if generation is None:
        return _unchanged(plan, info, store, dry_run, options.adopt, before, later)
    if dry_run:
        return CommitResult(True, info.generation, 0, actions, before, after, plan)
    (later or (lambda its, number: remember(its, number, store)))(plan, generation)
    if options.adopt and not confirm_timeout:
        settle_pending(plan.policy, store)
    return CommitResult(True, generation, confirm_timeout, actions, before, after, plan)


def commit_ruleset(
    plan: Plan,
    kernel: Kernel,
    info: Info,
    options: CommitOptions,
    dry_run: bool = False,
    confirm_timeout: int = 0,
) -> t.Tuple[Plan, t.Optional[int]]:
    """(what was committed, the generation in force then); None where that is in force already.

    The kernel knows the host's addresses as they are at the commit, and refuses routed prefixes that have one of them.
    Who only follows a policy leaves such a group out, closed: its containers must not suffer for it.
    """
    while True:
        try:
            return plan, kernel.commit(plan.ruleset, info.generation, dry_run, confirm_timeout)
        except KernelError as error:
            refused = _refused_prefix(plan.ruleset, error)
            if refused is None:
                raise
            group, prefix = refused
            problem = (
                f'the group "{group}" is behind containers, and its {prefix} has an address of this host'
            )
            if options.adopt:
                raise PolicyError(
                    problem,
                    ("groups", group, "cidrs"),
                    "leave the host's addresses out by except: no container may speak with them",
                ) from None
            plan = _without_group(plan, group, f"{problem}: it is left out, and closed")
        if in_force(plan, info):
            return plan, None


def _refused_prefix(ruleset: Ruleset, error: KernelError) -> t.Optional[t.Tuple[str, str]]:
    """(group, prefix) that the kernel has refused for an address of the host's."""
    found = re.search(r"\bprefix([46])\[(\d+)\]", error.problem)
    if error.errno != errno.EADDRINUSE or not found:
        return None
    rows = ruleset.prefixes4 if found.group(1) == "4" else ruleset.prefixes6
    address, length, _identity, number = rows[int(found.group(2))]
    return ruleset.routed[number], "%s/%d" % (ipaddress.ip_address(address), length)


def _without_group(plan: Plan, group: str, warning: str) -> Plan:
    number = plan.ruleset.routed.index(group)
    ruleset = plan.ruleset.replaced(
        prefixes4=[row for row in plan.ruleset.prefixes4 if row[3] != number],
        prefixes6=[row for row in plan.ruleset.prefixes6 if row[3] != number],
    )
    return replace(plan, ruleset=ruleset, left_out=(*plan.left_out, warning), _made={})


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
    """Whether the kernel has exactly this plan, and has opened all of it that it can open."""
    return not info.returned and (info.ruleset_digest, info.policy_digest, info.mode) == (
        plan.ruleset_digest,
        plan.policy_digest,
        plan.policy["mode"],
    )


def _unchanged(
    plan: Plan,
    info: Info,
    store: Store,
    dry_run: bool,
    adopt: bool,
    before: str,
    later: t.Optional[t.Callable[[Plan, int], None]],
) -> CommitResult:
    """Nothing to commit; the files may still lag behind, after a crash or by somebody's hand."""
    actions = []
    # A pending policy without an open window was confirmed by somebody who did not get to write it down.
    adopt = adopt or store.read_pending_or_none() == plan.policy
    if adopt and not info.confirm_remaining:
        if store.read_policy_or_none() != plan.policy:
            actions.append(f"write {store.policy_path}")
        if not dry_run:
            settle_pending(plan.policy, store)
    if later is not None:
        later(plan, info.generation)
    elif not dry_run:
        remember(plan, info.generation, store)
    return CommitResult(bool(actions), info.generation, info.confirm_remaining, actions, before, before, plan)


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


def settle_pending(policy: Json, store: Store) -> None:
    """The commit is there to stay."""
    store.write_policy(policy)
    store.write_last_good(policy)
    store.drop_pending()


# What was in force, in words


def remember(plan: Plan, generation: int, store: Store) -> None:
    """Keeps the words of this ruleset and the one before: a roll back may bring that one back."""
    former = _applied(store)
    if former.get("generation") == generation:
        return  # else the disk was full, say; where it still is, that is said again
    store.write_applied(
        {
            "generation": generation,
            "policy_digest": plan.policy_digest,
            "ruleset_digest": plan.ruleset_digest,
            "mode": plan.policy["mode"],
            "cidrs": CIDRS_MEAN,
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
        return _diff_text(["no ruleset: the kernel module is not loaded"])
    if info.ruleset_digest == empty_ruleset().digest().hex():
        return _diff_text([NOTHING_JUDGED])
    if not info.generation:
        return _diff_text(["no ruleset yet" + (": the guards are closed" if info.guards else "")])
    applied = _applied(store)
    for known in (applied, applied.get("former") or {}):
        if known.get("ruleset_digest") == info.ruleset_digest:
            return _diff_text(known["words"])
    lines = [
        f"generation {info.generation}: not the ruleset this host's files describe; by the kernel's own account:",
        f"guards: {', '.join(info.guards) or 'none'}",
        f"mode: {info.mode}",
    ]
    lines += [f"default: {action} {name}" for name, action in info.defaults.items()]
    lines += [f"{row.action} {row.name}" for row in kernel.rules() if not row.builtin]
    lines.append(f"endpoints: {info.counts.get('endpoints', 0)}, ruleset {info.ruleset_digest[:12]}")
    return _diff_text(lines)


def _diff_text(lines: t.Sequence[str]) -> str:
    # Ansible sends a diff to the terminal as it is.
    return "".join(printable(line) + "\n" for line in lines)


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


def remove_policy(kernel: t.Optional[Kernel], store: Store, dry_run: bool = False) -> CommitResult:
    """Takes everything back: no guard, no rule, no file. The module itself stays loaded."""
    with _lock_unless(dry_run, store):
        info = kernel.info() if kernel is not None else None
        before = _before(info, kernel, store)
        actions = [f"remove {path}" for path in store.present()]
        generation = info.generation if info else 0
        ruleset = empty_ruleset()
        if info is not None and (info.guards or info.ruleset_digest not in ("", ruleset.digest().hex())):
            _refuse_sealed(info)
            actions.insert(0, "commit an empty ruleset without guards: nothing is judged any more")
            if kernel is not None and not dry_run:
                _close_window(kernel, info)
                generation = kernel.commit(ruleset, kernel.info().generation)
        if not dry_run:
            store.remove()
        after = _diff_text([NOTHING_JUDGED]) if actions else before
        return CommitResult(bool(actions), generation, 0, actions, before, after)


def _close_window(kernel: Kernel, info: Info) -> None:
    if info.confirm_remaining:
        with contextlib.suppress(KernelError):  # it may run out this moment
            kernel.rollback()
