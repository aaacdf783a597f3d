"""One QEMU: its command line, starting it under a supervisor, ending it.

`start` returns when QEMU runs, not when the guest is reachable. Only the supervisor that was started here
is ever ended.
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

from lab import ssh
from lab.errors import LabError
from lab.image import Image
from lab.machine import COMMAND, CONSOLE, Machine, State
from lab.paths import CHECKOUT, ssh_key
from lab.qmp import Qmp

MEMORY_MB = int(os.environ.get("BRIDGEWARDEN_LAB_MEMORY_MB") or 1536)
_START_SECONDS = 60
# No `panic=`: a kernel that panics must stay where it is until the supervisor has read its last words.
# An oops counts as a panic, because whatever a test does after one proves nothing.
_KERNEL_ARGUMENTS = "console=ttyS0 root=/dev/vda rw oops=panic loglevel=5 net.ifnames=0 mitigations=off"


def command_line(
    name: str, image: Image, accel: list[str], disk: Path, extra: list[str], port: int = 0, kernel: str = ""
) -> list[str]:
    """QEMU's command line. Port 0 lets the kernel pick a free one; `kernel` are more arguments for the guest's."""
    # fmt: off
    return [
        "qemu-system-x86_64", "-name", f"bridgewarden-{name}", *accel, "-smp", "2", "-m", str(MEMORY_MB),
        "-nodefaults", "-display", "none", "-serial", f"file:{CONSOLE}",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", f"{_KERNEL_ARGUMENTS} systemd.hostname={name} {kernel}".rstrip(),
        "-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap",
        "-device", "virtio-blk-pci,drive=disk",
        "-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net,romfile=",
        "-device", "virtio-rng-pci", *extra,
    ]
    # fmt: on


def make_overlay(base: Path, kind: str, disk: Path) -> None:
    """A throw-away disk over one that stays as it is."""
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", kind, str(disk)], check=True
    )


def start(
    machine: Machine,
    target: str,
    image: Image,
    accel: list[str],
    disk: Path,
    extra: list[str],
    port: int = 0,
    kernel: str = "",
) -> State:
    """Spawn QEMU and write down how to reach it."""
    # a socket path may have 107 bytes, and a checkout's path more than that
    qmp = str(Path(tempfile.mkdtemp(prefix="bw-vm-")) / "qmp")
    control = ["-qmp", f"unix:{qmp},server=on,wait=off"]
    command = command_line(machine.name, image, accel, disk, [*control, *extra], port, kernel)
    supervisor = _spawn(machine, command)
    try:
        port = _ssh_port(machine, qmp, supervisor)
    except BaseException:
        supervisor.terminate()
        supervisor.wait()
        raise
    state = State(target, image.key, accel[1].split(",")[0], supervisor.pid, port, qmp, str(ssh_key()))
    machine.save(state)
    ssh.write_access_files(machine)
    return state


def prepare(machine: Machine) -> None:
    """An empty folder for a new machine."""
    end(machine)
    machine.folder.mkdir(parents=True, exist_ok=True)
    machine.console.unlink(missing_ok=True)


def cut(machine: Machine) -> None:
    """End what still runs, as when the power fails; its files stay."""
    state = machine.state()
    if machine.supervised(state.supervisor):
        os.kill(state.supervisor, signal.SIGTERM)
        _wait_gone(machine, state.supervisor)
    shutil.rmtree(Path(state.qmp).parent, ignore_errors=True)


def end(machine: Machine) -> None:
    """End what still runs and remove all but the console log."""
    if machine.exists():
        cut(machine)
    if machine.folder.exists():
        for path in machine.folder.iterdir():
            if path != machine.console:
                path.unlink()


def _wait_gone(machine: Machine, pid: int) -> None:
    deadline = time.monotonic() + 60
    while machine.supervised(pid):
        if time.monotonic() > deadline:
            raise LabError(f"{machine.name}: process {pid} does not end")
        time.sleep(0.1)


def _spawn(machine: Machine, command: list[str]) -> subprocess.Popen[bytes]:
    """Start the supervisor, which starts QEMU."""
    (machine.folder / COMMAND).write_text(json.dumps(command), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-m", "lab.supervise", str(machine.folder)],
        cwd=CHECKOUT,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _ssh_port(machine: Machine, qmp: str, supervisor: subprocess.Popen[bytes]) -> int:
    """Ask QEMU, as soon as it listens, which local port leads to the guest's sshd."""
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            with Qmp(qmp) as control:
                return forwarded_port(control.human("info usernet"))
        except (FileNotFoundError, ConnectionRefusedError):
            if supervisor.poll() is not None or time.monotonic() > deadline:
                said = machine.folder / "qemu.log"
                words = said.read_text(errors="replace").strip() if said.exists() else "it did not say why"
                raise machine.died(f"QEMU did not start: {words}") from None
            time.sleep(0.05)


def forwarded_port(usernet: str) -> int:
    """The local port that QEMU forwards to the guest's sshd, from its table of user network connections."""
    found = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b", usernet)
    if not found:
        raise LabError(f"QEMU forwards no port to the guest's sshd:\n{usernet}")
    return int(found.group(1))
