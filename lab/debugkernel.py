"""The debug kernel: Debian's own source of the image's kernel, with KASAN, lockdep, kmemleak and fault injection, in the user's cache.

There are two: what `make stress` boots with a root in memory, and that of a whole Docker host (`make stress-host`), which has a disk
besides. Keyed by what it is made from: the recipe, the configuration, the version of the source. Building takes minutes of two idle
processors.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab import image, targets
from lab.errors import LabError
from lab.paths import LAB, cache, locked, published
from lab.progress import step

#: The image whose compiler builds it, and whose kernel's source it is.
TARGET = "bookworm"
CONFIG = (LAB / "debugkernel.config",)
HOST_CONFIG = (*CONFIG, LAB / "debugkernel-host.config")
SCRIPT = LAB / "debugkernel.sh"


@dataclass(frozen=True)
class DebugKernel:
    folder: Path
    version: str

    @property
    def kernel(self) -> Path:
        return self.folder / "vmlinuz"

    @property
    def config(self) -> Path:
        return self.folder / "config"

    @property
    def modules(self) -> Path:
        """A folder of `lib/modules`."""
        return next((self.folder / "modules").iterdir())

    @property
    def tree(self) -> Path:
        """What modules are built against."""
        return self.folder / "tree"


def locate(base: image.Image, config: tuple[Path, ...]) -> DebugKernel:
    about = json.loads((base.folder / "about.json").read_text(encoding="utf-8"))
    version = about["packages"]["linux-image-cloud-amd64"]
    return DebugKernel(cache() / "debugkernel" / image.digest(version, *config, SCRIPT), version)


def ensure(config: tuple[Path, ...] = CONFIG) -> DebugKernel:
    """From the cache, or built now. `config` are fragments, of which a later one wins."""
    base = image.ensure(targets.find(TARGET))
    found = locate(base, config)
    with locked("debugkernel"):
        if not found.folder.exists():
            with step(f"debug kernel {found.version}: building"), published(found.folder) as scratch:
                _build(base, found.version, config, scratch)
    return found


def _build(base: image.Image, version: str, config: tuple[Path, ...], scratch: Path) -> None:
    log, fragment = scratch / "build.log", scratch / "fragment"
    fragment.write_text("".join(part.read_text(encoding="ascii") for part in config), encoding="ascii")
    command = [
        "nice", "unshare", "--mount", str(SCRIPT), str(base.root), f"{scratch}.layer", version, str(fragment), str(scratch),
    ]  # fmt: skip
    with log.open("wb") as out:
        done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, check=False)
    subprocess.run(["rm", "-rf", f"{scratch}.layer"], check=True)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise LabError(f"the debug kernel does not build; the end of the log:\n{tail}")
