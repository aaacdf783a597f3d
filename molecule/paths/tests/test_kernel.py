# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's side by itself: kmod/tests/traces.py, the module unloaded under a running trace included."""

from __future__ import annotations

from typing import Any

from lab import ssh


def test_script(bench: Any) -> None:
    reload = "cd /root/engine/kernel && rmmod bridgewarden && insmod ../bridgewarden.ko"
    done = ssh.run(bench.machine, f"{reload} && BW_KO=/root/engine/bridgewarden.ko python3 -u traces.py 2>&1")
    print(done.stdout)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("not ok")]
    assert done.returncode == 0, done.stdout[-2000:]
    assert sum(line.startswith("ok") for line in lines) > 100


def test_no_kernel_complaint(bench: Any) -> None:
    """Over the whole scenario."""
    words = ("BUG:", "WARNING:", "Oops", "Call Trace", "unregister_netdevice: waiting")
    log = ssh.run(bench.machine, "dmesg").stdout.splitlines()
    assert not [line for line in log if any(word in line for word in words)]
