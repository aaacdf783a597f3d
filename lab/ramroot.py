"""A root that lives in memory: some programs of an unpacked image with what they load, one process in place of an init system.

For kernels that know no disk. What the process is given it finds in /job; it is /job/main.py, and writes to the console.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.errors import LabError

_PROGRAMS = (
    "usr/bin/python3", "bin/busybox", "bin/ip", "bin/kmod", "usr/sbin/nft", "sbin/tc", "bin/mount", "bin/dmesg",
)  # fmt: skip
_LINKS = {
    "sbin/modprobe": "/bin/kmod",
    "sbin/insmod": "/bin/kmod",
    "sbin/rmmod": "/bin/kmod",
    "bin/sh": "busybox",
}
#: The C library loads it by name, where a thread ends.
_UNWINDER = "lib/*-linux-gnu/libgcc_s.so.1"
_UNWANTED = ("test", "idlelib", "lib2to3", "tkinter", "ensurepip", "pydoc_data", "distutils", "dist-packages")
#: Hardware, file systems and sound: most of the megabytes of a kernel that is not made for clouds, and nothing that a script loads.
_UNWANTED_MODULES = ("sound", "fs", "ethernet", "wireless")
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox ln -s /proc/self/fd/0 /dev/stdin
/bin/busybox mount -t tmpfs run /run
/bin/busybox mount -t tmpfs tmp /tmp
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
/usr/bin/python3 -u /job/main.py
echo o > /proc/sysrq-trigger
while :; do /bin/busybox sleep 1; done
"""


def build(root: Path, release: str, modules: Path | None, job: dict[str, Path], ramdisk: Path) -> None:
    """Write it: programs of `root`, a folder of lib/modules for kernel `release`, the files in /job by name."""
    with tempfile.TemporaryDirectory(prefix="bw-ramroot-") as scratch:
        tree = Path(scratch)
        for name in ("dev", "proc", "sys", "run", "tmp", "job", "root", "var/lib"):
            (tree / name).mkdir(parents=True)
        for name in sorted({*_PROGRAMS, *_libraries(root)}):
            _copy(root, name, tree)
        for name, target in _LINKS.items():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(target)
        library = _library(root)
        shutil.copytree(
            root / library, tree / library, symlinks=True, ignore=shutil.ignore_patterns(*_UNWANTED)
        )
        if modules:
            shutil.copytree(modules, tree / "lib/modules" / release, symlinks=True, ignore=_unwanted_modules)
        for name, path in job.items():
            (tree / "job" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / "job" / name)
        (tree / "init").write_text(_INIT, encoding="ascii")
        (tree / "init").chmod(0o755)
        _pack(tree, ramdisk)


def _unwanted_modules(folder: str, names: list[str]) -> set[str]:
    """Of drivers only those of networks."""
    unwanted = {name for name in names if name in _UNWANTED_MODULES}
    if Path(folder).name == "drivers":
        unwanted |= {name for name in names if name != "net"}
    return unwanted


def _library(root: Path) -> Path:
    """Python's own, of the one version that is installed."""
    (found,) = root.glob("usr/lib/python3.*")
    return found.relative_to(root)


def _libraries(root: Path) -> list[str]:
    """What the programs and Python's own extensions load, and who loads it."""
    asked = [f"/{name}" for name in _PROGRAMS]
    asked += [f"/{path.relative_to(root)}" for path in (root / _library(root) / "lib-dynload").glob("*.so")]
    done = subprocess.run(["chroot", str(root), "ldd", *asked], capture_output=True, text=True, check=False)
    words = {word for line in done.stdout.splitlines() for word in line.split() if word.startswith("/")}
    found = sorted(word[1:] for word in words if not word.endswith(":") and _real(root, word[1:]).exists())
    if not found:
        raise LabError(f"ldd in {root} tells nothing: {done.stderr[-300:]}")
    return [*found, *(str(path.relative_to(root)) for path in root.glob(_UNWINDER))]


def _copy(root: Path, name: str, tree: Path) -> None:
    """A file under its own path, whatever links lead there."""
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(_real(root, name), tree / name)


def _real(root: Path, name: str) -> Path:
    """Where a file of `root` lies, whatever links lead there; absolute ones begin at `root`."""
    path = root
    for part in Path(name).parts:
        path /= part
        while path.is_symlink():
            link = path.readlink()
            path = _real(root, str(link)[1:]) if link.is_absolute() else path.parent / link
    return path


def _pack(tree: Path, ramdisk: Path) -> None:
    """Not compressed: an emulated kernel would take longer over that than QEMU over the megabytes."""
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    with ramdisk.open("wb") as out:
        subprocess.run(
            ["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"],
            cwd=tree,
            input=names.encode(),
            stdout=out,
            check=True,
        )
