"""A tiny initrd: busybox and the few modules needed to mount a virtio disk.

Debian's own initrd costs several seconds of emulated decompression at each boot and does nothing more for us.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.errors import LabError

WANTED = ("virtio_pci", "virtio_blk", "virtio_net", "virtio_rng", "ext4")

_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
tries=0
until [ -b /dev/vda ] || [ $tries -ge 500 ]; do /bin/busybox usleep 20000; tries=$((tries + 1)); done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root || echo "lab initrd: cannot mount /dev/vda"
/bin/busybox mount --move /dev /root/dev
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /sbin/init
"""

# what an initrd depends on besides the root it is made from
RECIPE = [WANTED, _INIT]


def kernel_release(root: Path) -> str:
    """The one kernel that is installed in an unpacked root."""
    releases = sorted(path.name for path in (root / "lib/modules").iterdir())
    if len(releases) != 1:
        raise LabError(f"expected one kernel in {root}/lib/modules, found {releases}")
    return releases[0]


def build(root: Path, initrd: Path) -> None:
    """Write the initrd for the kernel in `root`."""
    with tempfile.TemporaryDirectory(prefix="bw-initrd-") as scratch:
        tree = Path(scratch)
        for name in ("bin", "modules", "dev", "proc", "root"):
            (tree / name).mkdir()
        shutil.copy(root / "bin/busybox", tree / "bin/busybox")
        order = [_unpack(module, tree / "modules") for module in _modules(root)]
        (tree / "modules/order").write_text("".join(f"{name}\n" for name in order), encoding="ascii")
        (tree / "init").write_text(_INIT, encoding="ascii")
        (tree / "init").chmod(0o755)
        names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
        with initrd.open("wb") as out:
            subprocess.run(
                ["cpio", "-o", "-H", "newc", "--quiet"],
                cwd=tree,
                input=names.encode(),
                stdout=out,
                check=True,
            )


def _modules(root: Path) -> list[Path]:
    """Module files in load order; what is built into the kernel has none."""
    ordered: dict[Path, None] = {}
    for name in WANTED:
        command = ["modprobe", "-d", str(root), "-S", kernel_release(root), "--show-depends", name]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        for line in answer.stdout.splitlines():
            if line.startswith("insmod "):
                ordered[Path(line.split()[1])] = None
    return list(ordered)


def _unpack(module: Path, folder: Path) -> str:
    """Copy a module uncompressed and return its file name."""
    if module.suffix == ".ko":
        shutil.copy(module, folder)
        return module.name
    plain = folder / module.stem
    if module.suffix == ".xz":
        plain.write_bytes(lzma.decompress(module.read_bytes()))
    else:
        with plain.open("wb") as out:
            subprocess.run(["zstd", "-qdc", str(module)], stdout=out, check=True)
    return plain.name
