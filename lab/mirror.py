"""Which package mirror the guests use: the one this machine's own apt uses.

The repository names no mirror. On a machine whose apt is not Debian's, BRIDGEWARDEN_LAB_MIRROR gives one.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

from lab.errors import LabError
from lab.targets import Target


@dataclass(frozen=True)
class Mirror:
    """Two archive roots; Debian keeps security updates in an archive of their own."""

    main: str
    security: str


def of_this_machine() -> Mirror:
    """Read the mirror from the environment or from apt."""
    if named := os.environ.get("BRIDGEWARDEN_LAB_MIRROR"):
        return from_main(named)
    try:
        listing = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(RELEASE) $(COMPONENT) $(REPO_URI)",
                "Created-By: Packages",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise LabError(f"cannot ask apt for its sources ({error}); set BRIDGEWARDEN_LAB_MIRROR") from error
    return from_apt(listing)


def from_main(uri: str) -> Mirror:
    """By convention the security archive lies beside the main one."""
    main = uri.rstrip("/")
    return Mirror(main, f"{main}-security")


def from_apt(listing: str) -> Mirror:
    """Pick the two archives out of lines `SUITE COMPONENT URI`."""
    found: dict[str, str] = {}
    for line in listing.splitlines():
        suite, component, uri = line.split(" ", 2)
        uri = uri.rstrip("/")
        kind = uri.rsplit("/", 1)[-1]
        if component == "main" and kind in ("debian", "debian-security"):
            found.setdefault(
                "security" if kind.endswith("security") or suite.endswith("-security") else "main", uri
            )
    if "main" not in found:
        raise LabError(
            "apt on this machine has no Debian archive among its sources; set BRIDGEWARDEN_LAB_MIRROR "
            "to the root of one (an address that ends in /debian)"
        )
    return Mirror(found["main"], found.get("security", f"{found['main']}-security"))


def sources(target: Target, mirror: Mirror) -> list[str]:
    """The apt source lines of a target."""
    valid = " [check-valid-until=no]" if target.stale else ""
    return [
        f"deb{valid} {mirror.security if suite.endswith('-security') else mirror.main} {suite} main"
        for suite in target.suites()
    ]
