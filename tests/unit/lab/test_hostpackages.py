"""What the lab asks for is what a fresh machine is given."""

from __future__ import annotations

from lab import hostpackages
from lab.paths import LAB


def test_every_package_that_the_lab_needs_is_one_that_is_installed() -> None:
    lines = (LAB / "packages.txt").read_text(encoding="ascii").splitlines()
    installed = {line for line in lines if line and not line.startswith("#")}
    assert set(hostpackages._NEEDED.values()) <= installed
