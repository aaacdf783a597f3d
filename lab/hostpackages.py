"""`host-packages`: what the lab needs from this machine's package manager."""

from __future__ import annotations

import os
import shutil
import subprocess

from lab.errors import LabError
from lab.paths import CHECKOUT, LAB
from lab.progress import say, step

# program -> the Debian package that has it
_NEEDED = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "modprobe": "kmod",
    "zstd": "zstd",
    "cpio": "cpio",
    "ssh": "openssh-client",
}
_SBIN = "/usr/sbin:/sbin"


def missing() -> list[str]:
    """Packages whose program is not on this machine."""
    path = f"{os.environ.get('PATH', '')}:{_SBIN}"
    return sorted({package for program, package in _NEEDED.items() if not shutil.which(program, path=path)})


def require() -> None:
    """Stop with the mend when something is missing."""
    if absent := missing():
        raise LabError(
            f"the lab needs these packages: {' '.join(absent)}; "
            "install them with: python3 -m lab host-packages (as root)"
        )


def install() -> None:
    """Install what is missing, from the one list of system packages that the whole checkout has."""
    if not missing():
        say("everything the lab needs is installed")
        return
    with step("installing system packages"):
        done = subprocess.run(
            [str(CHECKOUT / "tests/tools/packages.sh"), str(LAB / "packages.txt")], check=False
        )
    if done.returncode or missing():
        raise LabError(f"still missing: {' '.join(missing())}; the reason is above")
