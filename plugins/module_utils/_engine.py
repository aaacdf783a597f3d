# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From a desired policy and Docker's facts to a ruleset in force.

`plan()` is pure: it resolves, compiles and says in words what would hold.
`apply()` compares the plan with the kernel, commits what differs and keeps the
store in step.  The modules, the agent and the command call these two; none of
them commits on its own.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import Info, Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

if t.TYPE_CHECKING:
    from ansible_collections.bridgewarden.docker.plugins.module_utils._compile import Ruleset

Json = t.Dict[str, t.Any]


@dataclass(frozen=True)
class Options:
    on_empty_selector: str = "warn"  # warn | fail | ignore
    force: bool = False  # commit although it may cut somebody off


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
    confirm_timeout: int  # seconds of the window that is now open; 0: none
    actions: t.List[str]  # in plain words, the same in a dry run
    before: str  # for Ansible's diff
    after: str

    @property
    def diff(self) -> t.Dict[str, str]:
        return {
            "before": self.before,
            "after": self.after,
            "before_header": "in force",
            "after_header": "wanted",
        }


def plan(policy: Json, facts: Json, options: t.Optional[Options] = None) -> Plan:
    """Resolves and compiles `policy` (raw or normal form). Raises PolicyError; touches nothing."""
    raise NotImplementedError


def boot_plan(policy: Json) -> Plan:
    """The plan before Docker runs: no endpoint is known, everything behind the guards is closed."""
    raise NotImplementedError


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
    raise NotImplementedError


def current_policy(store: Store, info: t.Optional[Info] = None) -> t.Optional[Json]:
    """The policy the agent must keep in step: normally policy.json, else last-good.json.

    While a confirm window is open the kernel runs the pending policy; that is
    recognised by its digest, so after a roll back the former policy holds again
    without anybody having to tell.
    """
    raise NotImplementedError


def confirm(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Keeps the open commit; the pending policy becomes the desired and the last good one."""
    raise NotImplementedError


def rollback(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Restores the ruleset before the last commit, and the files with it."""
    raise NotImplementedError
