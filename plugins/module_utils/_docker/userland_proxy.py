# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether dockerd runs docker-proxy for published ports.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import os
import typing as t


def userland_proxy(pidfile: str = "/var/run/docker.pid", proc: str = "/proc") -> t.Optional[bool]:
    """Whether dockerd runs with its userland proxy; None where that cannot be told."""
    # No API tells it: the daemon's own command line and configuration do.
    try:
        with open(pidfile, encoding="ascii") as handle:
            pid = int(handle.read().strip())
        with open(os.path.join(proc, str(pid), "cmdline"), "rb") as raw:
            arguments = [part.decode("utf-8", "replace") for part in raw.read().split(b"\0") if part]
    except (OSError, ValueError):
        return None
    if not arguments or os.path.basename(arguments[0]) != "dockerd":
        return None
    config_file = "/etc/docker/daemon.json"
    for position, argument in enumerate(arguments):
        name, has_value, value = argument.lstrip("-").partition("=")
        if name == "userland-proxy":
            return value.lower() not in ("false", "0", "f") if has_value else True
        if name == "config-file":
            config_file = value if has_value else ([*arguments, ""])[position + 1]
    try:
        with open(config_file, encoding="utf-8") as handle:
            return bool(json.load(handle).get("userland-proxy", True))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, AttributeError):
        return None
