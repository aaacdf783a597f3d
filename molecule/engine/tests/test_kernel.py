# SPDX-License-Identifier: GPL-3.0-or-later
"""The module by itself: the scripts of kmod/tests, which speak netlink without the collection's library and make their own links.

They hold what needs a listener, a flowtable, a swap under load, or namespaces that come and go: queue, offloaded flows, log,
placements, confirm windows, and the tracer. Each has its checks printed as TAP, in this test's output.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab import ssh

SCRIPTS = {
    "forward and postrouting": "packets.py",
    "container": "inside.py",
    "tracer": "traces.py",
    "seal": "packets.py seal",  # last: it holds until the machine is thrown away
}
RELOAD = "cd /root/engine/kernel && rmmod bridgewarden && insmod ../bridgewarden.ko && export BW_KO=/root/engine/bridgewarden.ko"


@pytest.mark.parametrize("what", SCRIPTS)
def test_script(bench: Any, what: str) -> None:
    done = ssh.run(bench.machine, f"{RELOAD} && python3 -u {SCRIPTS[what]} 2>&1")
    print(done.stdout)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if line.startswith("not ok")]
    assert done.returncode == 0, done.stdout[-2000:]
    assert sum(line.startswith("ok") for line in lines) > 10


def test_no_kernel_complaint(bench: Any) -> None:
    """Over the whole scenario."""
    words = ("BUG:", "WARNING:", "Oops", "Call Trace", "unregister_netdevice: waiting")
    log = ssh.run(bench.machine, "dmesg").stdout.splitlines()
    assert not [line for line in log if any(word in line for word in words)]
