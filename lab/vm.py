"""Starting and ending machines.

A machine is QEMU under a supervisor (supervise.py), with a throw-away disk over the image. `down` ends only the
supervisor that `up` started, and throws the disk away; the console log stays.
"""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import accelerator, image, ssh
from lab.errors import LabError
from lab.machine import COMMAND, CONSOLE, Machine, State
from lab.paths import CHECKOUT, ssh_key
from lab.progress import say
from lab.qmp import Qmp
from lab.targets import Target

MEMORY_MB = 1536
_START_SECONDS = 20
# No `panic=`: a kernel that panics must stay where it is until the supervisor has read its last words. An oops counts as
# a panic, because whatever a test does after one proves nothing.
_KERNEL_ARGUMENTS = "console=ttyS0 root=/dev/vda rw oops=panic loglevel=5 net.ifnames=0 mitigations=off"


def up(name: str, target: Target) -> Machine:
    """Start a machine, or reuse the one that runs; return when it is spawned, not when it is reachable."""
    machine = Machine(name)
    boot_image = image.ensure(target)
    if machine.exists() and not machine.death():
        _must_match(machine, target, boot_image)
        say(f"{name}: already up ({target.name})")
        return machine
    _clear(machine)
    machine.folder.mkdir(parents=True, exist_ok=True)
    machine.console.unlink(missing_ok=True)
    disk = machine.folder / "disk.qcow2"
    _make_overlay(boot_image.disk, disk)
    accel = accelerator.choose(boot_image)
    qmp = str(Path(tempfile.mkdtemp(prefix="bw-vm-")) / "qmp")  # a socket path may have 107 bytes, a checkout's more
    command = qemu_command(name, boot_image, accel, disk, qmp)
    supervisor = _spawn(machine, command, qmp)
    state = State(target.name, boot_image.key, accel[1].split(",")[0], supervisor, _ssh_port(qmp), qmp, str(ssh_key()))
    machine.save(state)
    ssh.write_access_files(machine)
    say(f"{name}: {target.name} starts ({state.accelerator}), ssh port {state.port}")
    return machine


def qemu_command(name: str, boot_image: image.Image, accel: list[str], disk: Path, qmp: str) -> list[str]:
    """QEMU's command line. Port 0 lets the kernel pick a free one."""
    return [
        "qemu-system-x86_64", "-name", f"bridgewarden-{name}", *accel, "-machine", "pc", "-smp", "2", "-m", str(MEMORY_MB),
        "-nodefaults", "-display", "none", "-serial", f"file:{CONSOLE}", "-qmp", f"unix:{qmp},server=on,wait=off",
        "-kernel", str(boot_image.kernel), "-initrd", str(boot_image.initrd), "-append", _KERNEL_ARGUMENTS,
        "-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", "user,id=net,hostfwd=tcp:127.0.0.1:0-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci",
    ]


def down(machine: Machine) -> None:
    """End a machine that `up` started; its console log stays."""
    if not machine.exists():
        say(f"{machine.name}: not up")
        return
    _clear(machine)
    say(f"{machine.name}: down")


def _must_match(machine: Machine, target: Target, boot_image: image.Image) -> None:
    state = machine.state()
    if state.target != target.name:
        raise LabError(f"{machine.name} is up as {state.target}; end it first: python3 -m lab down {machine.name}")
    if state.image != boot_image.key:
        say(f"{machine.name}: note: runs an older image than the recipe in this checkout; down and up renew it")


def _clear(machine: Machine) -> None:
    """End what still runs and remove all but the console."""
    if machine.exists():
        state = machine.state()
        if machine.supervised(state.supervisor):
            os.kill(state.supervisor, signal.SIGTERM)
            _wait_gone(machine, state.supervisor)
        shutil.rmtree(Path(state.qmp).parent, ignore_errors=True)
    if machine.folder.exists():
        for path in machine.folder.iterdir():
            if path != machine.console:
                path.unlink()


def _wait_gone(machine: Machine, pid: int) -> None:
    deadline = time.monotonic() + 20
    while machine.supervised(pid):
        if time.monotonic() > deadline:
            raise LabError(f"{machine.name}: process {pid} does not end")
        time.sleep(0.1)


def _make_overlay(base: Path, disk: Path) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(disk)], check=True)


def _spawn(machine: Machine, command: list[str], qmp: str) -> int:
    """Start the supervisor with QEMU below it; return when QEMU's control socket is there."""
    (machine.folder / COMMAND).write_text(json.dumps(command), encoding="utf-8")
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "lab.supervise", str(machine.folder)], cwd=CHECKOUT, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + _START_SECONDS
    while not Path(qmp).exists():
        if supervisor.poll() is not None or time.monotonic() > deadline:
            supervisor.terminate()
            said = (machine.folder / "qemu.log").read_text(errors="replace") if (machine.folder / "qemu.log").exists() else ""
            raise machine.died(f"QEMU did not start: {said.strip()}")
        time.sleep(0.05)
    return supervisor.pid


def _ssh_port(qmp: str) -> int:
    with Qmp(qmp) as qemu:
        return forwarded_port(qemu.human("info usernet"))


def forwarded_port(usernet: str) -> int:
    """The local port that QEMU forwards to the guest's sshd, from its table of user network connections."""
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b", usernet)
    if not found:
        raise LabError(f"QEMU forwards no port to the guest's sshd:\n{usernet}")
    return int(found.group(1))
