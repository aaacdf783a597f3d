# SPDX-License-Identifier: GPL-3.0-or-later
"""The module by itself: the scripts of kmod/tests, which speak netlink without the collection's library and make their own links.

They hold what needs a listener, a flowtable, a swap under load, or namespaces that come and go: queue, offloaded flows, log,
placements, confirm windows, and the tracer. Each has its checks printed as TAP, in this test's output.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab import ssh

SCRIPTS = {
    "forward and postrouting": "packets.py",
    "container": "inside.py",
    "tracer": "traces.py",
    "malformed netlink": "fuzz_netlink.py --seconds 20 --seed 6",
    "seal": "packets.py seal",  # last: it holds until the machine is thrown away
}
RELOAD = "cd /root/engine/kernel && rmmod bridgewarden && insmod ../bridgewarden.ko && export BW_KO=/root/engine/bridgewarden.ko"


NUMBER = "cd /root/engine/kernel && python3 -c 'import packets; print(packets.Genl().family)'"
#: The host's own Python, in a container without a user namespace of its own.
IN_CONTAINER = "docker run --rm --cap-add NET_ADMIN --network {} -v /:/host:ro --entrypoint /host/bin/busybox bw-shop chroot /host "


@pytest.mark.parametrize("network", ["none", "bridge", "left"])
def test_container_with_net_admin_has_no_say(bench: Any, network: str) -> None:
    """Every command, at the family's own number, in case somebody guesses it."""
    run = bench.machine
    family = int(ssh.run(run, f"{RELOAD} && {NUMBER}").stdout)
    probe = f"python3 /root/engine/kernel/fuzz_netlink.py --outside {family}"
    ssh.run(
        run, "cd /root/engine/kernel && python3 -c 'from packets import *; Ruleset(guards=()).commit(Genl())'"
    )
    before = ssh.run(run, f"{probe} --commands 1 8 9").stdout
    assert json.loads(before)["heard"] == [1, 8, 9], "the probe itself is heard where it may be"
    inside = json.loads(ssh.run(run, IN_CONTAINER.format(network) + probe).stdout)
    assert inside == {"found": False, "heard": [], "answers": ["ENOENT"]}
    assert ssh.run(run, NUMBER).stdout.strip() == str(family)
    generation = "cd /root/engine/kernel && python3 -c 'import packets; print(packets.Genl().generation())'"
    assert ssh.run(run, generation).stdout.strip() == "1"
    assert "sealed" not in ssh.run(run, "dmesg | tail -3").stdout


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
