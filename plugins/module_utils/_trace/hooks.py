# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The netfilter hooks of a namespace as records.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import errno
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import HookRow
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def hooks_of(kernel: Kernel, path: t.Optional[str]) -> t.List[Json]:
    """Who stands at each hook of the namespace at `path`, in order; nothing where that is gone."""
    if path is None:
        return []
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESRCH):
            return []
        raise
    try:
        rows = kernel.hooks(handle)
    finally:
        os.close(handle)
    return [hook_record(row) for row in rows if row.function != "bw_trace_hook"]


def hook_record(row: HookRow) -> Json:
    return {
        "family": row.family,
        "hook": row.hook,
        "priority": row.priority,
        "function": row.function,
        "module": row.module,
        "own": row.own,
    }


def who_text(row: Json) -> str:
    module = f" [{row['module']}]" if row["module"] else ""
    return "%s%s at %d" % (row["function"], module, row["priority"])
