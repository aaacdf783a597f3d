# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Confirm a commit, roll it back, or seal the policy until reboot.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import settle_pending
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    KernelError,
    Locked,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def confirm_commit(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Keeps the open commit; the pending policy becomes the desired and the last good one.

    The kernel comes first and without the lock: a window must not run out because somebody else holds that.
    """
    try:
        now = kernel.confirm(generation)
    except KernelError as error:
        raise _no_window(error, kernel, "it was confirmed before, or rolled back for want of it") from None
    with _files_lock(store, "the commit is confirmed"):
        pending = _pending_in_force(kernel, store)
        if pending is not None:
            settle_pending(pending, store)
    return now


def roll_back(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Restores the ruleset before the last commit, and the files with it."""
    try:
        now = kernel.rollback(generation)
    except KernelError as error:
        hint = "what is confirmed stays; apply the former policy to go back to it"
        raise _no_window(error, kernel, hint) from None
    with _files_lock(store, "the commit is rolled back"):
        if _pending_in_force(kernel, store) is None:  # else it is of a commit after that
            store.drop_pending()
    return now


@contextlib.contextmanager
def _files_lock(store: Store, done: str) -> t.Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(store.lock())
        except Locked as error:
            raise Locked(
                f"{done}, but the files could not be brought in step: {error.problem}",
                error.location,
                "the agent does that at its next look; or apply the policy again",
            ) from None
        yield


def _pending_in_force(kernel: Kernel, store: Store) -> t.Optional[Json]:
    pending = store.read_pending_or_none()
    if pending is not None and digest(normalise(pending)) == kernel.info().policy_digest:
        return pending
    return None


def seal_policy(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """No change from now on, until the host is rebooted; returns the generation in force."""
    with store.lock():
        try:
            return kernel.seal(generation)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            location = "no ruleset is in force"
            raise KernelError(
                "there is nothing to seal", location, "apply a policy first", errno.ENOENT
            ) from None


def _no_window(error: KernelError, kernel: Kernel, hint: str) -> KernelError:
    if error.errno != errno.ENOENT:
        return error
    location = f"generation {kernel.info().generation} is in force"
    return KernelError("no commit waits for its confirmation", location, hint, errno.ENOENT)
