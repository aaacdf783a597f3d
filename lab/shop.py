"""The sample shop in a machine: see guest/rootfs/usr/local/sbin/bw-lab-shop for what it consists of."""

from __future__ import annotations

from lab import ssh
from lab.errors import LabError
from lab.machine import Machine
from lab.progress import step


def start(machine: Machine) -> None:
    """Start what is not running yet."""
    with step(f"{machine.name}: starting the sample shop"):
        if ssh.run(machine, "bw-lab-shop").returncode:
            raise LabError(
                f"the shop did not start; look with: python3 -m lab ssh {machine.name} docker ps -a"
            )
