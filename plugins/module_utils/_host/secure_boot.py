# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secure Boot: whether the kernel accepts signed modules only, and whether dkms' key is enrolled.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import re
import shutil
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._system import read_text, run
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Where dkms keeps the key it signs with; Ubuntu's is the second.
SIGNING_KEYS = ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der")

_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


# Secure Boot.


def secure_boot() -> Json:
    """Whether the firmware verifies, how far the kernel is locked down, whether dkms's key is known to it."""
    enabled: t.Optional[bool] = None
    try:
        with open(_SECURE_BOOT, "rb") as handle:
            enabled = handle.read()[-1:] == b"\1"
    except OSError:
        if not os.path.isdir("/sys/firmware/efi"):
            enabled = False  # no EFI at all
    lockdown = None
    match = re.search(r"\[(\w+)\]", read_text("/sys/kernel/security/lockdown") or "")
    if match:
        lockdown = match.group(1)
    key = next((path for path in SIGNING_KEYS if os.path.exists(path)), None)
    enrolled: t.Optional[bool] = None
    if key and enabled and shutil.which("mokutil"):
        done = run(["mokutil", "--test-key", key])
        enrolled = "already enrolled" in done[1] + done[2]
    signed_only = bool(enabled and lockdown not in (None, "none")) or read_text(
        "/sys/module/module/parameters/sig_enforce"
    ) in ("Y", "1")
    return {
        "enabled": enabled,
        "lockdown": lockdown,
        "signed_only": signed_only,
        "key": key,
        "key_enrolled": enrolled,
    }


MOK_STEPS = (
    "enrol DKMS's key: apt install mokutil dkms, then 'dkms generate_mok' (dkms 3.2; older ones make the key "
    "at the first build), 'mokutil --import /var/lib/dkms/mok.pub', reboot and accept it at the console; "
    "or switch Secure Boot off"
)
