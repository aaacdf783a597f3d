# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which hooks of others run before ours.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import HOOKS
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info


def hooks_behind(info: Info) -> t.List[str]:
    """The hooks before which somebody else runs."""
    missing = info.hooks_expected & ~info.hooks_first
    return [
        f"{family} {name}"
        for pf, family in enumerate(("IPv4", "IPv6"))
        for hook, name in enumerate(HOOKS)
        if missing >> (pf * 8 + hook) & 1
    ]
