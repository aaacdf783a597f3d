# SPDX-License-Identifier: GPL-3.0-or-later
"""The module beside real containers: what they may not do to it, and whether the kernel ever complained.

What needs no Docker are the scripts of kmod/tests; they run on every kernel by `python -m stress.topologies`. Some of their helpers
are used here.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab import ssh

RELOAD = "cd /root/engine/kernel && rmmod bridgewarden && insmod ../bridgewarden.ko"
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


#: Where everybody can read it.
RESOLVE = "python3 /var/tmp/bw-resolve/resolve.py 2>&1 | tail -1"
LOADED = "grep -c ^bridgewarden /proc/modules"


def test_nobody_loads_it_by_the_familys_name(bench: Any) -> None:
    """Installed and unloaded, as after an emergency: it stays out until it is loaded by its own name."""

    def run(command: str) -> str:
        return ssh.run(bench.machine, command).stdout.strip()

    place = "/lib/modules/$(uname -r)/extra"
    run("mkdir -p /var/tmp/bw-resolve && cp /root/engine/kernel/packets.py /var/tmp/bw-resolve/")
    run("echo 'import packets; packets.Genl()' > /var/tmp/bw-resolve/resolve.py")
    run(f"mkdir -p {place} && cp /root/engine/bridgewarden.ko {place}/ && depmod -a; rmmod bridgewarden")
    try:
        unprivileged = "setpriv --reuid 65534 --regid 65534 --clear-groups"
        for asked in (RESOLVE, f"{unprivileged} {RESOLVE}", IN_CONTAINER.format("none") + RESOLVE):
            assert "ENOENT" in run(asked), "the name is asked for"
            assert run(LOADED) == "0", asked
        assert run(f"modprobe bridgewarden && {LOADED}") == "1", "by its own name it is loaded"
    finally:
        run(f"rm -rf {place}/bridgewarden.ko /var/tmp/bw-resolve; depmod -a")


#: Frames to each reserved group address, as AF_PACKET sends them from a container with Docker's own set of capabilities.
SEND = """import socket, sys
sys.path.insert(0, "/root/engine/kernel")
from bareports import GROUPS, mac, udp4
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
for group in GROUPS:
    s.send(mac(group) + s.getsockname()[4] + bytes([8, 0]) + udp4("192.0.2.77", sys.argv[1], group.encode()))
"""
#: How many the host's socket has received when a last datagram, its own, arrives.
HEAR = """import socket, subprocess, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("0.0.0.0", 5514))
s.settimeout(10)
subprocess.run(sys.argv[1:], check=True)
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"last", ("127.0.0.1", 5514))
print(len([text for text in iter(lambda: s.recv(100), b"last")]))
"""


def test_container_reaches_no_socket_past_its_bridge(bench: Any) -> None:
    """Docker's own bridge, veth and capabilities; kmod/tests/bareports.py has every kind of packet."""
    for name, text in (("send.py", SEND), ("hear.py", HEAR)):
        ssh.run(bench.machine, f"cat > /root/engine/{name} <<'END'\n{text}END")
    container = (
        "docker run --rm --network left -v /:/host:ro --entrypoint /host/bin/busybox bw-shop chroot /host"
    )
    command = f"python3 /root/engine/hear.py {container} python3 /root/engine/send.py 172.28.1.1"
    unguarded = (
        "cd /root/engine/kernel && python3 -c 'from packets import *; Ruleset(guards=()).commit(Genl())'"
    )
    ssh.run(bench.machine, f"{RELOAD} && {unguarded}")
    assert ssh.run(bench.machine, command).stdout.strip() == "14"
    bench.commit(default="allow")
    assert ssh.run(bench.machine, command).stdout.strip() == "0"
    ssh.run(bench.machine, f"{RELOAD}")


def test_no_kernel_complaint(bench: Any) -> None:
    """Over the whole scenario."""
    words = ("BUG:", "WARNING:", "Oops", "Call Trace", "unregister_netdevice: waiting")
    log = ssh.run(bench.machine, "dmesg").stdout.splitlines()
    assert not [line for line in log if any(word in line for word in words)]
