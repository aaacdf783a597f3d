# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Confirm a commit, roll it back, or seal the policy until reboot.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import settle_pending
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import KernelError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise


def confirm_commit(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
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
            settle_pending(pending, store)
        return now


def roll_back(kernel: Kernel, store: Store, generation: t.Optional[int] = None) -> int:
    """Restores the ruleset before the last commit, and the files with it."""
    with store.lock():
        try:
            now = kernel.rollback(generation)
        except KernelError as error:
            hint = "what is confirmed stays; apply the former policy to go back to it"
            raise _no_window(error, kernel, hint) from None
        store.drop_pending()
        return now


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
