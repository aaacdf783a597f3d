"""Power cuts and cold starts: the machine's disk stays, and what had not reached it is lost, as on a real host.

A machine normally boots its image's kernel. After `take_kernel` it boots the newest one that is installed on its own
disk, so that an upgrade inside the machine is one; after `give_kernel` one that was made here.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lab import accelerator, initrd, qemu, ssh
from lab.errors import LabError
from lab.image import Image
from lab.machine import DEATH, Machine
from lab.paths import cache

# Everything that an initrd is made of, as a tar file; its first member names the kernel.
_COLLECT = """
set -e
cd /
release=$(ls /lib/modules | sort -V | tail -n 1)
files=$(for name in %s; do modprobe -S "$release" --show-depends "$name"; done |
    sed -n 's|^insmod /\\([^ ]*\\).*|\\1|p' | sort -u)
tar -c bin/busybox "boot/vmlinuz-$release" "lib/modules/$release"/modules.* $files
"""


def cut(machine: Machine) -> None:
    """The power fails now."""
    machine.must_live()
    qemu.cut(machine)


def on(machine: Machine, extra: list[str] | None = None, kernel: str = "") -> None:
    """A cold start from the machine's own disk, reachable at the same port as before; returns when QEMU runs.

    `extra` are more arguments for QEMU, see outside.py; `kernel` are more for the guest's kernel."""
    state = machine.state()
    found = Image(state.image, cache() / "images" / f"{state.target}-{state.image}")
    if (machine.folder / "vmlinuz").exists():
        found = Image(state.image, machine.folder)
    (machine.folder / DEATH).unlink(missing_ok=True)
    qemu.start(
        machine, state.target, found, accelerator.choose(found), machine.disk, extra or [], state.port, kernel
    )


def take_kernel(machine: Machine) -> str:
    """Let the next start boot the newest kernel that is installed on the machine's disk; returns its release."""
    with tempfile.TemporaryDirectory(prefix="bw-kernel-") as scratch:
        root = Path(scratch)
        packed = root / "files.tar"
        with packed.open("wb") as out:
            script = _COLLECT % " ".join(initrd.WANTED)
            done = subprocess.run(
                ssh.argv(machine, ["sh", "-s"]), input=script.encode(), stdout=out, check=False
            )
        if done.returncode:
            raise LabError(f"{machine.name}: cannot read the installed kernel over ssh")
        subprocess.run(["tar", "-C", scratch, "-xf", str(packed)], check=True)
        release = initrd.kernel_release(root)
        initrd.build(root, machine.folder / "initrd")
        (root / "boot" / f"vmlinuz-{release}").rename(machine.folder / "vmlinuz")
    return release


def give_kernel(machine: Machine, vmlinuz: Path, modules: Path) -> None:
    """Let the next start boot this kernel. `modules` is its folder of /lib/modules, which goes onto the machine's disk."""
    if ssh.push(machine, modules, "/lib/modules/") or ssh.run(machine, "sync").returncode:
        raise LabError(f"{machine.name}: cannot write /lib/modules/{modules.name}")
    with tempfile.TemporaryDirectory(prefix="bw-kernel-") as scratch:
        root = Path(scratch)
        shutil.copytree(modules, root / "lib/modules" / modules.name)
        busybox = root / "bin/busybox"
        busybox.parent.mkdir()
        with busybox.open("wb") as out:
            subprocess.run(ssh.argv(machine, ["cat /bin/busybox"]), stdout=out, check=True)
        busybox.chmod(0o755)
        initrd.build(root, machine.folder / "initrd")
    shutil.copy(vmlinuz, machine.folder / "vmlinuz")
