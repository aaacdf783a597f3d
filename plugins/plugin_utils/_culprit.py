# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""From the path of a PolicyError to the value that Ansible shows with file, line and column.

PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t


def culprit(policy: t.Any, path: t.Sequence[t.Union[str, int]]) -> t.Any:
    """The value at the path, or the nearest one around it that can know where it was written.

    Truth values and nulls remember nothing, and a key that is missing has no
    value: then the mapping or list around it is pointed at.
    """
    found = policy
    for step in path:
        try:
            inner = found[step]
        except (KeyError, IndexError, TypeError):
            break
        if inner is None or isinstance(inner, bool):
            break
        found = inner
    return found
