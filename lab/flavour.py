"""A kernel of another flavour than an image's own, as a layer on that image, in the user's cache.

The layer is the upper directory of an overlay in which apt installed the kernel's packages. With the image's root below it, it is a root
with that kernel, its headers and the image's compiler. Keyed by the image, the packages and the recipe. A newer kernel in the archive
makes no new key, as with images.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import image, initrd, targets
from lab.errors import LabError
from lab.paths import LAB, cache, locked, published
from lab.progress import step

SCRIPT = LAB / "flavour.sh"


@dataclass(frozen=True)
class Root:
    """Where to build modules for one kernel, and what that kernel boots from."""

    base: image.Image
    layers: tuple[Path, ...]  # directories of an overlay, the top one first; the last is the image's root

    @property
    def _parent(self) -> Path:
        """Of the top layer's lib/modules. A layer has only what apt wrote, so not the image's link from lib to usr/lib."""
        top = self.layers[0]
        return top if (top / "lib/modules").exists() else top / "usr"

    @property
    def release(self) -> str:
        return initrd.kernel_release(self._parent)

    @property
    def kernel(self) -> Path:
        return self.layers[0] / "boot" / f"vmlinuz-{self.release}"

    @property
    def config(self) -> Path:
        return self.layers[0] / "boot" / f"config-{self.release}"

    @property
    def modules(self) -> Path:
        """A folder of `lib/modules`."""
        return self._parent / "lib/modules" / self.release


def locate(kernel: targets.Kernel) -> Path:
    """Where a kernel's layer is, or will be once it is built."""
    _, base = image.locate(targets.find(kernel.target))
    return cache() / "kernels" / f"{kernel.name}-{image.digest(base.key, kernel.packages, SCRIPT)}"


def ensure(name: str) -> Root:
    """The root of a target, or of a kernel of lab/targets.yml, from the cache or built now."""
    kernel = targets.all_kernels().get(name)
    if not kernel:
        base = image.ensure(targets.find(name))
        return Root(base, (base.root,))
    base, folder = image.ensure(targets.find(kernel.target)), locate(kernel)
    with locked(f"kernel-{name}"):
        if not folder.exists():
            with step(f"kernel {name}: installing {kernel.packages[0]}"), published(folder) as scratch:
                _install(base, kernel, scratch)
    return Root(base, (folder / "layer", base.root))


def _install(base: image.Image, kernel: targets.Kernel, scratch: Path) -> None:
    log = scratch / "apt.log"
    command = ["nice", "unshare", "--mount", str(SCRIPT), str(base.root), str(scratch), *kernel.packages]
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"kernel {kernel.name} cannot be installed; the end of the log:\n{tail}")
