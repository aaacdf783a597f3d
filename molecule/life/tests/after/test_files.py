# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk is full when the state is written; a file of the state is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import AGENT, addresses, ids, pair

LAST = 50
TO_GUEST = pair("ada-guest", "ada", addresses(LAST))
POLICY, LAST_GOOD = "/etc/bridgewarden/policy.json", "/var/lib/bridgewarden/last-good.json"


@pytest.fixture(autouse=True)
def tidy(life: Any) -> Iterator[None]:
    life.until_known()
    yield
    life.remove("guest")
    life.until_known()


@pytest.fixture
def full(life: Any) -> Iterator[Callable[[], Any]]:
    yield life.fill
    life.drain()


def test_the_disk_is_full(life: Any, watch: Callable[..., Any], full: Callable[[], Any]) -> None:
    """The kernel follows Docker; the files stay as they were, whole; the error is said, by the agent and to whoever applies."""
    life.run("guest", LAST, friend=True)
    seen = watch(*TO_GUEST)
    life.until_open(ids(TO_GUEST))
    before, generation = life.files(), life.status()["generation"]
    assert full() == "0"
    since = life.now()
    life.sh("docker kill guest")
    # A full disk takes no journal.
    life.until(lambda: "No space left" in life.agent()["status"], 20, "the agent says it")
    assert life.status()["generation"] > generation
    assert not set(addresses(LAST)) & set(life.endpoints()["kernel"])
    generation = life.status()["generation"]
    refused = life.apply(mode="audit")
    assert "No space left" in refused.get("error", ""), refused
    assert life.status()["generation"] == generation
    assert life.status()["mode"] == "enforce"
    assert life.files() == before
    seen.all_open()
    life.drain()
    life.start("guest")
    life.until_open(ids(TO_GUEST))
    life.until(lambda: "all is well again" in " ".join(life.told(since)), 20, "the agent is content again")
    assert life.files().keys() == before.keys()


@pytest.fixture(params=["not JSON", "another sum"])
def damage(life: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Damages a file; whatever was there is back at the end."""
    life.sh(f"cp -p {POLICY} /run/policy.json; cp -p {LAST_GOOD} /run/last-good.json")
    spoil = {"not JSON": "echo garbage > {}", "another sum": "sed -i s/friend/foe/ {}"}[request.param]
    yield lambda path: life.sh(spoil.format(path))
    life.sh(f"cp -p /run/policy.json {POLICY}; cp -p /run/last-good.json {LAST_GOOD}")


def test_the_policy_file_is_damaged(
    life: Any, watch: Callable[..., Any], damage: Callable[[str], None]
) -> None:
    """It is refused and left alone, the last good one is followed, and that is said until it is mended."""
    seen = watch(*TO_GUEST)
    since, mode = life.now(), life.status()["mode"]
    damage(POLICY)
    before = life.files()
    life.run("guest", LAST, friend=True)
    life.until_open(ids(TO_GUEST))
    assert POLICY in " ".join(life.told(since))
    assert POLICY in life.agent()["status"]
    assert life.files()[POLICY] == before[POLICY]
    assert life.status()["mode"] == mode
    seen.all_open()


@pytest.mark.parametrize("damage", ["not JSON"], indirect=True)
def test_both_files_are_damaged(life: Any, watch: Callable[..., Any], damage: Callable[[str], None]) -> None:
    """Nothing is left to follow: what is in force stays, and what is new stays closed. A restart of the agent changes nothing."""
    seen = watch(*TO_GUEST)
    since = life.now()
    damage(POLICY)
    damage(LAST_GOOD)
    life.sh(f"systemctl restart {AGENT}")
    life.run("guest", LAST, friend=True)
    seen.tried(8)
    found = seen.all_open()
    for row in TO_GUEST:
        assert found[row["id"]]["closed"] > 2 and not found[row["id"]]["open"], row
    life.until(lambda: POLICY in " ".join(life.told(since)), 20, "the agent says it")
    life.sh(f"cp -p /run/policy.json {POLICY}")
    life.until_open(ids(TO_GUEST))


@pytest.mark.parametrize("damage", ["not JSON"], indirect=True)
def test_the_boot_unit_takes_the_last_good_policy(
    life: Any, watch: Callable[..., Any], damage: Callable[[str], None]
) -> None:
    """The module anew, as after a boot, with a damaged policy file: closed first, then as the last good policy says."""
    damage(POLICY)
    life.sh("echo N > /sys/module/bridgewarden/parameters/hold; modprobe -r bridgewarden")
    since = life.now()
    life.sh("systemctl restart bridgewarden", check=False)
    seen = watch()
    assert "last good policy" in " ".join(life.told(since, "bridgewarden"))
    life.sh(f"systemctl reset-failed bridgewarden; systemctl restart {AGENT}")
    life.until_known()
    life.until_open(ids(pair("ada-bob", "ada", addresses(11))))
    seen.seen()
    assert POLICY in life.agent()["status"]
