"""Where the lab keeps things.

Two places: `build/` of the checkout holds running machines and reports; the user's cache directory holds
what is expensive and can always be built again (images, templates, the lab's SSH key).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
LAB = CHECKOUT / "lab"
GUEST = LAB / "guest"
MACHINES = CHECKOUT / "build" / "vms"
REPORTS = CHECKOUT / "build" / "lab"


def cache() -> Path:
    """The cache directory, made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "bridgewarden"
    path.mkdir(parents=True, exist_ok=True)
    return path


def ssh_key() -> Path:
    """The lab's private key. Images carry its public half, so it belongs to the cache like they do."""
    key = cache() / "ssh_key"
    with locked("ssh_key"):
        if not key.exists():
            with tempfile.TemporaryDirectory(dir=cache()) as scratch:
                fresh = Path(scratch) / "key"
                subprocess.run(
                    [
                        "ssh-keygen",
                        "-q",
                        "-t",
                        "ed25519",
                        "-N",
                        "",
                        "-C",
                        "bridgewarden lab",
                        "-f",
                        str(fresh),
                    ],
                    check=True,
                )
                fresh.with_suffix(".pub").rename(key.with_suffix(".pub"))
                fresh.rename(key)
    return key


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process at a time work on a cache entry."""
    with open(cache() / f".{name}.lock", "w", encoding="ascii") as handle:
        flock(handle, LOCK_EX)
        yield


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """A scratch directory that becomes `target` in one rename, or vanishes: nothing is found half-built."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        scratch.rename(target)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
