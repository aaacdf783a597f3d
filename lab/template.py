"""Templates: a booted machine with its shop running, frozen, from which others are restored in seconds.

The guest's memory is a file. Freezing saves the devices' state beside it; a restored machine maps that file
privately (copy on write) and puts its own disk over the frozen one. A template is bound to the exact QEMU
and command line, so both are in its key. What must not be shared between clones is renewed after restoring:
clock, machine id, host name, random seed. The kernel command line is the machine's own, so it holds from
its first reboot on.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
import uuid
from pathlib import Path

from lab import qemu, shop, ssh
from lab.errors import LabError
from lab.image import Image, digest
from lab.machine import Machine
from lab.paths import cache, locked, published
from lab.progress import say, step
from lab.qmp import Qmp
from lab.targets import Target

_FREEZE_SECONDS = 120
_IGNORE_SHARED = [{"capability": "x-ignore-shared", "state": True}]
# what the first Ansible task of a run would otherwise read from the disk, slowly
_WARM_UP = "python3 -c 'import json, ssl, zipfile, tempfile, apt, docker, jmespath'; sync"


def restore(machine: Machine, target: Target, image: Image, accel: list[str]) -> None:
    """Start a machine from its target's template, making the template when it is missing."""
    frozen = _ensure(target, image, accel)
    with step(f"{machine.name}: restoring {target.name} from its template"):
        qemu.prepare(machine)
        qemu.make_overlay(frozen / "disk.qcow2", "qcow2", machine.disk)
        extra = [*_memory(frozen / "ram", shared=False), "-incoming", "defer"]
        state = qemu.start(machine, target.name, image, accel, machine.disk, extra)
        with Qmp(state.qmp) as control:
            control.ask("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
            control.ask("migrate-incoming", uri=f"exec:cat {shlex.quote(str(frozen / 'state'))}")
            _until_migrated(machine, control)
            control.ask("cont")
        ssh.wait_for_ssh(machine)
        _renew(machine)


def locate(target: Target, image: Image, accel: list[str]) -> Path:
    """Where a target's template is, or will be."""
    version = subprocess.run(
        ["qemu-system-x86_64", "--version"], check=True, capture_output=True, text=True
    ).stdout
    shape = qemu.command_line("NAME", image, accel, Path("DISK"), [])
    return cache() / "templates" / f"{target.name}-{digest(version, shape, _WARM_UP)}"


def _ensure(target: Target, image: Image, accel: list[str]) -> Path:
    folder = locate(target, image, accel)
    with locked(f"template-{target.name}"):
        if not folder.exists():
            with step(f"template {target.name}: booting and freezing it, once"), published(folder) as scratch:
                _make(Machine(f"template-{target.name}"), target, image, accel, scratch)
    return folder


def _make(machine: Machine, target: Target, image: Image, accel: list[str], scratch: Path) -> None:
    qemu.prepare(machine)
    qemu.make_overlay(image.disk, "raw", scratch / "disk.qcow2")
    state = qemu.start(
        machine, target.name, image, accel, scratch / "disk.qcow2", _memory(scratch / "ram", shared=True)
    )
    try:
        ssh.wait(machine)
        shop.start(machine)
        ssh.run(machine, _WARM_UP)
        time.sleep(2)  # let the last ssh session end
        with Qmp(state.qmp, timeout=_FREEZE_SECONDS) as control:
            control.ask("stop")
            control.ask("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
            control.ask("migrate", uri=f"exec:cat > {shlex.quote(str(scratch / 'state'))}")
            _until_migrated(machine, control)
    finally:
        qemu.end(machine)


def _memory(file: Path, *, shared: bool) -> list[str]:
    backend = (
        f"memory-backend-file,id=ram,size={qemu.MEMORY_MB}M,mem-path={file},share={'on' if shared else 'off'}"
    )
    return ["-machine", "pc,memory-backend=ram", "-object", backend]


def _until_migrated(machine: Machine, control: Qmp) -> None:
    deadline = time.monotonic() + _FREEZE_SECONDS
    while (status := control.ask("query-migrate").get("status")) != "completed":
        if status == "failed":
            raise LabError(
                f"{machine.name}: QEMU could not save or load its state; see {machine.folder}/qemu.log"
            )
        if time.monotonic() > deadline:
            raise machine.died(f"its state was not transferred within {_FREEZE_SECONDS} s (status {status})")
        time.sleep(0.05)


def _renew(machine: Machine) -> None:
    """Make the clone a machine of its own."""
    seed = os.urandom(64).hex()
    script = f"""
        date -s @{time.time():.3f} >/dev/null
        echo {seed} > /dev/urandom
        echo {uuid.uuid4().hex} > /etc/machine-id
        hostname {machine.name}
        systemctl restart systemd-journald  # journalctl looks under the machine's own id
        {ssh.own_hosts_entry(machine)}
    """
    if ssh.run(machine, script).returncode:
        raise LabError(f"{machine.name}: could not renew the clone's identity")
    ssh.wait_for_docker(machine)
    say(f"{machine.name}: dockerd answers")
