"""`host-packages`: what the lab needs from this machine's package manager."""
from __future__ import annotations

import os
import shutil
import subprocess

from lab.errors import LabError
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
        raise LabError(f"the lab needs these packages: {' '.join(absent)}; install them with: python3 -m lab host-packages (as root)")


def install() -> None:
    """Install what is missing with apt-get."""
    absent = missing()
    if not absent:
        say("everything the lab needs is installed")
        return
    if os.geteuid() != 0:
        raise LabError(f"only root can install packages; run: sudo apt-get install {' '.join(absent)}")
    with step(f"installing {' '.join(absent)}"):
        command = ["apt-get", "install", "-y", "--no-install-recommends", "-q", *absent]
        done = subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False)
        if done.returncode:
            raise LabError(f"apt-get ended with status {done.returncode}; its own words are above")
