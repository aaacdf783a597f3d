# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Types that every room shares.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

Json = t.Dict[str, t.Any]
