# SPDX-License-Identifier: GPL-3.0-or-later
"""Lets the tests import ansible_collections.bridgewarden.docker from a checkout of any name."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Machines that run tests beside virtual machines stall now and then: a slow example is no failure.
settings.register_profile("bridgewarden", deadline=None)
settings.load_profile("bridgewarden")

ROOT = Path(__file__).resolve().parents[2]

sys.path.insert(0, str(ROOT / ".collections"))


@pytest.fixture(scope="session")
def checkout() -> Path:
    return ROOT
