# SPDX-License-Identifier: GPL-3.0-or-later
"""After uninstall.yml, twice: the host is as it was, and so is who reaches whom."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="module")
def before(memory: Any) -> Any:
    return memory.load("snapshot")


@pytest.fixture(scope="module")
def after(guest: Any) -> Any:
    return guest.snapshot()


@pytest.mark.parametrize("what", ["files", "settings", "units"])
def test_the_host_is_as_it_was(after: Any, before: Any, what: str) -> None:
    assert after[what] == before[what]


def test_no_module_is_left(after: Any, before: Any, memory: Any) -> None:
    """Nor one that came with ours; those that Docker loaded for Swarm meanwhile are its own."""
    note = "modules that Docker loaded"
    dockers = set(memory.load(note)) if memory.has(note) else set()
    assert set(after["modules"]) - dockers == set(before["modules"]) - dockers


def test_the_services_are_those_of_before(after: Any, before: Any) -> None:
    """The reboot in between may have left more of the distribution's own running, but none of ours, and none less."""
    assert set(before["running"]) <= set(after["running"])
    assert not [name for name in after["running"] if "bridgewarden" in name]


def test_the_containers_were_not_touched_by_the_uninstall(guest: Any, memory: Any) -> None:
    """Since the reboot, that is."""
    assert guest.containers() == memory.load("containers")


def test_who_reaches_whom_is_as_before(guest: Any, memory: Any) -> None:
    before = {tuple(row[:4]): row[4] for row in memory.load("before")}
    found = guest.matrix({key for key, word in before.items() if word == "open"})
    different = {
        key: (before[key], found[key]) for key in before if (before[key] == "open") != (found[key] == "open")
    }
    assert not different
