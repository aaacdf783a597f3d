# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode from a fresh host ran to its end just now, and changed nothing."""

from __future__ import annotations

from typing import Any


def test_check_mode_changed_nothing(guest: Any, memory: Any) -> None:
    assert guest.snapshot() == memory.load("snapshot")
