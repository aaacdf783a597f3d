# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import ansible_collections.bridgewarden.docker from a checkout of any name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Machines that run tests beside virtual machines stall now and then: a slow example is no failure.
settings.register_profile("bridgewarden", deadline=None)
settings.load_profile("bridgewarden")

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / ".collections"))


#: What a marker of pyproject.toml needs.
MARKS = {
    "root": lambda: os.geteuid() == 0,
    "netns": lambda: os.geteuid() == 0 and bool(shutil.which("ip")),
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A developer without root runs the others; `make test` has root and iproute2."""
    for name, there in MARKS.items():
        if item.get_closest_marker(name) and not there():
            pytest.skip(f"needs {name}, see the markers in pyproject.toml")


@pytest.fixture(scope="session")
def checkout() -> Path:
    return ROOT
