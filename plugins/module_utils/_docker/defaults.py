# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where dockerd is asked, and how long it may take.

A file of its own, because the command's parser needs these at each start and nothing else about Docker.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
#: Seconds that dockerd may take for one answer.
DEFAULT_TIMEOUT = 30.0
