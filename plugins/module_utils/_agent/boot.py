# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What bridgewarden.service runs before dockerd: load the module, with its guards closed unless the mode is audit, and
commit the last good policy.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import apply_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    boot_plan,
    host_clock,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import PolicyError, StoreCorrupt
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import (
    MODULE_NAME,
    is_loaded,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import run
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

# Before Docker starts.


def boot(store: Store, log: Log, kernel_factory: t.Callable[[], Kernel] = Kernel) -> int:
    """Loads the module and commits the policy with no endpoint; the exit code. Guards are closed, but for a policy in mode audit."""
    # The file that was refused stays for people to look at.
    options = CommitOptions("ignore", force=True, adopt=False)
    policy, refusal = policy_at_boot(store)
    if refusal:
        log.warning(refusal)
    if not is_loaded(MODULE_NAME):
        closed = closed_guards(policy)
        code, out, err = run(["modprobe", MODULE_NAME, *(["closed=" + ",".join(closed)] if closed else [])])
        if code != 0:
            said = " ".join((err + out).split())
            release = os.uname().release
            log.error(
                f"the kernel module cannot be loaded into {release}: {said}; nothing is filtered. See 'dkms status', build it "
                f"with 'dkms autoinstall -k {release}' or playbooks/harden-docker.yml, then 'systemctl restart {MODULE_NAME}'"
            )
            return 5
    if policy is None:
        log.warning("no policy yet: the guards are closed until one is applied")
        return 0 if not refusal else 2
    with kernel_factory() as kernel:
        info = kernel.info()
        if info.generation:
            # Not the boot: a ruleset is at work, and one without endpoints would cut off what runs.
            log.info("generation %d is in force already" % info.generation)
            return 0
        clock = host_clock(store.read_applied_or_none())
        result = apply_plan(boot_plan(policy, clock), kernel, store, options=options)
    until = "counting" if audits(policy) else "closed"
    log.info(
        "generation %d is in force, %s as unmanaged until the containers are known"
        % (result.generation, until)
    )
    return 0


def policy_at_boot(store: Store) -> t.Tuple[t.Optional[Json], str]:
    """The desired policy; where it is refused the last good one, and why."""
    refusal = ""
    for read in (store.read_policy, store.read_last_good):
        try:
            policy = read()
            if policy is not None:
                boot_plan(policy)
                return policy, refusal
        except (PolicyError, StoreCorrupt) as error:
            refusal = refusal or error.text() + "; the last good policy is taken instead"
    return None, refusal


def audits(policy: t.Optional[Json]) -> bool:
    return (policy or {}).get("mode") == "audit"


def closed_guards(policy: t.Optional[Json]) -> t.List[str]:
    """None in mode audit, which changes no packet's fate: what is closed drops."""
    if audits(policy):
        return []
    guards = (policy or {}).get("guards") or GUARDS
    return [str(guard) for guard in guards]
