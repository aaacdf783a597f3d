"""A neighbour of a machine that lives on this computer, not in the machine: it is there before the power comes.

A tap device whose own end lies in a network namespace here:

    this computer, netns bw-out-NAME        the machine
    NEIGHBOUR4/6 ------------------------- eth1 HOST4/6

The namespace knows the way to container addresses through the machine. Needs root, as building images does.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from lab.machine import Machine

HOST = {4: "10.20.20.2", 6: "2001:db8:20::2"}
NEIGHBOUR = {4: "10.20.20.1", 6: "2001:db8:20::1"}

#: For systemd-networkd in the machine.
CONFIGURATION = f"""\
[Match]
Name=eth1

[Network]
IPv6AcceptRA=no

[Address]
Address={HOST[4]}/24

[Address]
Address={HOST[6]}/64
DuplicateAddressDetection=none
"""
CONFIGURATION_FILE = "/etc/systemd/network/21-eth1.network"


class Outside:
    """Use: `plug()` before the machine's start, `power.on(machine, outside.arguments)`, `connect()` right after it."""

    def __init__(self, machine: Machine) -> None:
        self.namespace = f"bw-out-{machine.name}"
        self.device = "bw" + hashlib.sha256(str(machine.folder).encode()).hexdigest()[:10]
        self.arguments = [
            *("-netdev", f"tap,id=out,ifname={self.device},script=no,downscript=no"),
            *("-device", "virtio-net-pci,netdev=out,romfile="),
        ]

    def plug(self) -> None:
        """A namespace, and a device for QEMU to open."""
        self.unplug()
        _ip("netns", "add", self.namespace)
        _ip("tuntap", "add", self.device, "mode", "tap")

    def connect(self) -> None:
        """QEMU holds the device by now: its other end goes where the neighbour lives."""
        _ip("link", "set", self.device, "netns", self.namespace)
        inside = ("-n", self.namespace)
        _ip(*inside, "address", "add", f"{NEIGHBOUR[4]}/24", "dev", self.device)
        _ip(*inside, "address", "add", f"{NEIGHBOUR[6]}/64", "dev", self.device, "nodad")
        _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "link", "set", self.device, "up")
        _ip(*inside, "route", "add", "172.16.0.0/12", "via", HOST[4])
        _ip(*inside, "route", "add", "fd00::/8", "via", HOST[6])

    def unplug(self) -> None:
        """Removes both; safe to call again."""
        if Path("/run/netns", self.namespace).exists():
            _ip("netns", "delete", self.namespace)
        if Path("/sys/class/net", self.device).exists():
            _ip("link", "delete", self.device)

    def command(self, *words: str) -> list[str]:
        """A command line that runs as the neighbour."""
        return ["ip", "netns", "exec", self.namespace, *words]


def _ip(*words: str) -> None:
    command: Sequence[str] = ("ip", *words)
    subprocess.run(command, check=True)
