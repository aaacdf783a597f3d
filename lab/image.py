"""Builds a target's image: an unpacked root, a disk, a kernel and a tiny initrd, in the user's cache.

Two layers, each keyed by a hash of what it is made from: the installed Debian (minutes), and on top of it
the lab's own files (seconds). A key that is there is used; nothing depends on its being there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import initrd, mirror
from lab.errors import LabError
from lab.paths import GUEST, cache, locked, published, ssh_key
from lab.progress import step
from lab.targets import Target

_DISK_SIZE = "12G"
_BASE = "base.tar.zst"
_UNWANTED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")


@dataclass(frozen=True)
class Image:
    """What a machine boots from."""

    key: str
    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "disk.raw"

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.folder / "initrd"

    @property
    def root(self) -> Path:
        """The unpacked root, with compiler and kernel headers: a place to build the module natively."""
        return self.folder / "root"


def digest(*parts: object) -> str:
    """A short hash of JSON-able values and of files (by content and mode)."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            total.update(f"{part.name} {part.stat().st_mode & 0o777:o}\n".encode() + part.read_bytes())
        else:
            total.update(json.dumps(part, sort_keys=True).encode())
        total.update(b"\0")
    return total.hexdigest()[:12]


def guest_files() -> list[Path]:
    """Everything that goes into an image from lab/guest."""
    rootfs = [path for path in sorted((GUEST / "rootfs").rglob("*")) if path.is_file()]
    return [GUEST / "customize.sh", *rootfs]


def locate(target: Target) -> tuple[Path, Image]:
    """Where a target's base and image are, or will be once they are built."""
    sources = mirror.sources(target, mirror.of_this_machine())
    base = digest(asdict(target), sources, _UNWANTED)
    key = digest(base, *guest_files(), ssh_key().with_suffix(".pub"), initrd.RECIPE, _DISK_SIZE)
    return cache() / "bases" / f"{target.name}-{base}", Image(
        key, cache() / "images" / f"{target.name}-{key}"
    )


def ensure(target: Target) -> Image:
    """The image of a target, from the cache or built now."""
    base, image = locate(target)
    with locked(f"image-{target.name}"):
        if not image.folder.exists():
            _ensure_base(target, base)
            what = f"image {target.name}: adding the lab's files, making the disk"
            with step(what), published(image.folder) as scratch:
                _assemble(base / _BASE, scratch, target)
    return image


def _ensure_base(target: Target, folder: Path) -> None:
    """The installed Debian as a compressed tar."""
    if folder.exists():
        return
    if os.geteuid() != 0:
        raise LabError(
            "building an image needs root (it installs Debian into a directory): run it with sudo -E once"
        )
    with step(f"image {target.name}: installing Debian {target.base}"), published(folder) as scratch:
        sources = mirror.sources(target, mirror.of_this_machine())
        _install(target, sources, scratch)


def _install(target: Target, sources: list[str], scratch: Path) -> None:
    command = ["mmdebstrap", "--mode=root", "--variant=apt", "--include=" + ",".join(target.packages)]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _UNWANTED]
    if target.pin:
        pin = scratch / "pin"
        pin.write_text(_preferences(target), encoding="ascii")
        command += [f'--setup-hook=install -D -m 644 {pin} "$1/etc/apt/preferences.d/backports"']
    if target.stale:
        command += ['--aptopt=Acquire::Check-Valid-Until "false"']
    log = scratch / "mmdebstrap.log"
    with log.open("wb") as out:
        done = subprocess.run(
            ["nice", *command, target.base, str(scratch / _BASE), *sources],
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"installing {target.name} failed; the end of mmdebstrap's log:\n{tail}")


def _preferences(target: Target) -> str:
    return f"Package: {' '.join(target.pin)}\nPin: release n={target.base}-backports\nPin-Priority: 990\n"


def _assemble(base: Path, scratch: Path, target: Target) -> None:
    """Unpack the base, add lab/guest, and make what QEMU wants."""
    root = scratch / "root"
    root.mkdir()
    _run("tar", "--zstd", "-xpf", str(base), "-C", str(root), "--numeric-owner", "--exclude=./dev/*")
    shutil.copytree(GUEST / "rootfs", root, dirs_exist_ok=True, copy_function=shutil.copy)
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    shutil.copy(ssh_key().with_suffix(".pub"), root / "root/.ssh/authorized_keys")
    shutil.copy(GUEST / "customize.sh", root / "root/customize.sh")
    _run("chroot", str(root), "/root/customize.sh", target.name)
    (root / "root/customize.sh").unlink()
    release = initrd.kernel_release(root)
    shutil.copy(root / "boot" / f"vmlinuz-{release}", scratch / "vmlinuz")
    initrd.build(root, scratch / "initrd")
    _run("truncate", "-s", _DISK_SIZE, str(scratch / "disk.raw"))
    _run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-J",
        "size=32",
        "-E",
        "lazy_itable_init=1",
        "-d",
        str(root),
        str(scratch / "disk.raw"),
    )
    about = {"target": target.name, "kernel": release, "packages": _versions(root)}
    (scratch / "about.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


def _versions(root: Path) -> dict[str, str]:
    wanted = (
        "dkms",
        "docker.io",
        "gcc",
        "iptables",
        "linux-image-cloud-amd64",
        "nftables",
        "python3",
        "systemd",
    )
    found = subprocess.run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\n", *wanted],
        check=True,
        capture_output=True,
        text=True,
    )
    return dict(line.split(" ", 1) for line in found.stdout.splitlines())


def _run(*command: str) -> None:
    done = subprocess.run(
        ["nice", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise LabError(f"{command[0]} failed while building the image:\n{done.stdout[-2000:]}")
