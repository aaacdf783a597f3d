# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent is away while containers come and go: nothing opens that nobody has judged, and nobody inherits an address."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import AGENT, HOST, PORT, addresses, ids, pair

LAST = 30


@pytest.fixture(autouse=True)
def tidy(life: Any) -> Iterator[None]:
    life.until_known()
    yield
    life.sh(f"systemctl start {AGENT}")
    life.remove("guest", "heir", "left", "right")
    life.until_known()


@pytest.fixture(params=["stopped", "killed"])
def away(life: Any, request: pytest.FixtureRequest) -> Iterator[Callable[[], None]]:
    """Ends the agent. A killed one comes back by itself after a second, which is put off here."""
    if request.param == "stopped":
        yield lambda: life.sh(f"systemctl stop {AGENT}")
        return
    folder = f"/run/systemd/system/{AGENT}.service.d"
    life.sh(
        f"mkdir -p {folder} && printf '[Service]\\nRestartSec=600\\n' > {folder}/slow.conf && systemctl daemon-reload"
    )
    try:
        yield lambda: life.sh(f"systemctl kill -s KILL {AGENT}")
    finally:
        life.sh(f"rm -r {folder} && systemctl daemon-reload")


def gone(life: Any) -> bool:
    return not life.agent()["pid"]


def test_a_new_container_is_closed_until_the_agent_knows_it(
    life: Any, watch: Callable[..., Any], away: Callable[[], None]
) -> None:
    to_guest, of_guest = pair("ada-guest", "ada", addresses(LAST)), pair("guest-bob", "guest", addresses(11))
    away()
    life.until(lambda: gone(life), 5)
    seen = watch(*to_guest, *of_guest)
    life.run("guest", LAST, friend=True)
    seen.tried(6)
    found = seen.all_open()
    assert gone(life), "it came back too early for this test"
    for row in to_guest + of_guest:
        assert found[row["id"]]["closed"] > 2
        assert not found[row["id"]]["open"] + found[row["id"]]["half"]
    life.sh(f"systemctl start {AGENT}")
    life.until_open(ids(to_guest + of_guest))
    seen.all_open()


def test_a_killed_agent_is_back(life: Any, watch: Callable[..., Any], record: Callable[..., None]) -> None:
    """By itself, and then it knows the container that started meanwhile."""
    to_guest = pair("ada-guest", "ada", addresses(LAST))
    life.create("guest", LAST, friend=True)
    before = life.agent()["pid"]
    seen = watch(*to_guest)
    life.sh(f"systemctl kill -s KILL {AGENT}")
    life.start("guest")
    took = life.until_open(ids(to_guest))
    assert life.agent()["pid"] not in (0, before)
    seen.all_open()
    record("agent-killed", seconds_until_open=round(took, 1))


def test_a_reused_address_gains_nothing(
    life: Any, watch: Callable[..., Any], away: Callable[[], None]
) -> None:
    """guest, a friend, goes; heir, which is none, gets its addresses."""
    to_guest, of_guest = pair("ada-guest", "ada", addresses(LAST)), pair("guest-bob", "guest", addresses(11))
    to_heir, of_heir = pair("ada-heir", "ada", addresses(LAST)), pair("heir-bob", "heir", addresses(11))
    seen = watch(*to_guest, *of_guest)
    life.run("guest", LAST, friend=True)
    life.until_open(ids(to_guest + of_guest))
    life.create("heir", LAST)
    away()
    life.until(lambda: gone(life), 5)
    life.remove("guest")
    seen = watch(*to_heir, *of_heir)
    life.start("heir")
    seen.tried(6)
    found = seen.all_open()
    assert gone(life), "it came back too early for this test"
    assert not set(addresses(LAST)) & set(life.endpoints()["kernel"])
    for row in to_heir + of_heir:
        assert found[row["id"]]["closed"] > 2
    life.sh(f"systemctl start {AGENT}")
    life.until_known()
    seen.tried(4)
    found = seen.all_open()
    for row in to_heir + of_heir:
        assert not found[row["id"]]["open"] + found[row["id"]]["half"], row


@pytest.mark.parametrize("present", [True, False], ids=["with the agent", "without it"])
def test_two_containers_swap_addresses(life: Any, watch: Callable[..., Any], present: bool) -> None:
    """left is a friend and stays one, right is none: ada hears of left alone, and bob is reached by left alone."""
    to_both = pair("to 30", "ada", addresses(LAST)) + pair("to 31", "ada", addresses(LAST + 1))
    of_left, of_right = pair("left-bob", "left", addresses(11)), pair("right-bob", "right", addresses(11))
    life.run("left", LAST, friend=True)
    life.run("right", LAST + 1)
    seen = watch(*to_both, *of_left, *of_right)
    life.until_open(ids(to_both[:2] + of_left))
    if not present:
        life.sh(f"systemctl stop {AGENT}")
    life.unplug("left")
    life.unplug("right")
    life.plug("right", LAST)
    life.plug("left", LAST + 1)
    seen.tried(6)
    if not present:
        assert not set(addresses(LAST) + addresses(LAST + 1)) & set(life.endpoints()["kernel"])
        life.sh(f"systemctl start {AGENT}")
    life.until_open(ids(to_both[2:] + of_left))
    found = seen.all_open()
    assert {who for row in to_both for who in found[row["id"]]["who"]} == {"left"}
    for row in of_right:
        assert found[row["id"]]["closed"] > 2
        assert not found[row["id"]]["open"] + found[row["id"]]["half"], row


@pytest.mark.parametrize(("who", "may"), [("office", True), ("stranger", False)])
def test_what_is_said_to_docker_proxy_before_its_port_is_known_goes_nowhere(
    life: Any, who: str, may: bool
) -> None:
    """It listens before the agent has heard of the container. Judged by the data that leaves the host for that one."""
    inside = addresses(LAST)[1]
    rules = f"ip6 daddr {inside} tcp dport {PORT} tcp flags & psh == psh counter;"
    life.sh("nft 'table inet words { chain out { type filter hook postrouting priority 300; %s }; }'" % rules)
    try:
        life.create("guest", LAST, friend=True, published=7009)
        life.sh(f"systemctl kill -s STOP {AGENT}")
        life.start("guest")
        early = life.insist(who, HOST[1], 7009, 2.0)
        life.sh(f"systemctl kill -s CONT {AGENT}")
        life.until_known()
        life.sh("sleep 4")  # a docker-proxy that still had them would have passed them on
        assert early > 10, "nobody was early enough for this test"
        assert words(life) == 0
        life.insist(who, HOST[1], 7009, 1.0)
        if may:
            life.until(lambda: words(life) > 0, what="the words go on")
        else:
            life.sh("sleep 2")
            assert words(life) == 0
    finally:
        life.sh(f"systemctl kill -s CONT {AGENT}; nft delete table inet words")
        life.insist(who, HOST[1], 7009, 0)


def words(life: Any) -> int:
    return int(life.sh("nft list table inet words").partition("packets ")[2].split()[0])


def test_two_agents(life: Any, watch: Callable[..., Any]) -> None:
    """A second one beside the unit's: they do not fight, and what starts is opened."""
    seen = watch(*pair("ada-guest", "ada", addresses(LAST)))
    life.sh("systemd-run --quiet --unit bw-second -p CapabilityBoundingSet=CAP_NET_ADMIN bridgewarden agent")
    try:
        life.sh("sleep 8")
        life.run("guest", LAST, friend=True)
        life.until_open(ids(pair("ada-guest", "ada", addresses(LAST))))
        life.until_known()
        generation = life.steady(lambda: life.status()["generation"], 3)
        life.sh("sleep 5")
        assert life.status()["generation"] == generation, "they undo each other's commits"
        seen.all_open()
        assert life.agent()["state"] == "active"
    finally:
        life.sh("systemctl stop bw-second; systemctl reset-failed bw-second", check=False)


# What its unit may write, and who may hold its locks.

POLICY = "/etc/bridgewarden/policy.json"


@pytest.mark.parametrize("bare", [False, True], ids=["as it is", "without the policy's folder at the start"])
def test_it_finishes_a_confirmation_that_died_half_way(life: Any, bare: bool) -> None:
    """The kernel keeps the commit; the agent makes its policy the desired one, out of its sandbox."""
    if bare:
        life.sh(f"mv /etc/bridgewarden /root/etc-bridgewarden; systemctl restart {AGENT}")
        life.sh("cp -p /root/etc-bridgewarden/* /etc/bridgewarden/; rm -r /root/etc-bridgewarden")
    since, before = life.now(), life.files()[POLICY]
    flag = json.loads(life.sh(f"cat {POLICY}"))["body"]["log_defaults"]
    generation = life.confirm_and_die(log_defaults=not flag)["generation"]
    try:
        life.sh(f"systemctl reload {AGENT}")
        life.until(lambda: life.files()[POLICY] != before, 20, "the desired policy is not the confirmed one")
        assert json.loads(life.sh(f"cat {POLICY}"))["body"]["log_defaults"] is not flag
        assert "/var/lib/bridgewarden/pending.json" not in life.files()
        assert life.status()["generation"] == generation
        assert "cannot write" not in " ".join(life.told(since))
    finally:
        life.apply(log_defaults=flag)


def test_its_sandbox_lets_it_write_its_own_folders_only(life: Any) -> None:
    pid = life.agent()["pid"]

    def touch(folder: str, enter: str) -> str:
        path = f"{folder}/.probe"
        return str(life.sh(f"{enter} touch {path} && echo written && {enter} rm {path}", check=False))

    inside = f"nsenter -t {pid} -m"
    for folder in ("/etc/bridgewarden", "/var/lib/bridgewarden", "/run/bridgewarden"):
        assert touch(folder, inside) == "written\n", folder
    for folder in ("/etc", "/var/lib"):
        assert touch(folder, "") == "written\n", folder
        assert "Read-only file system" in touch(folder, inside), folder


def test_the_locks_are_root_s_alone(life: Any) -> None:
    """And no lock of ours lies where everybody may be first."""
    assert life.sh("stat -c '%a %U' /run/bridgewarden") == "700 root\n"
    hold = "runuser -u nobody -- flock -n {} echo held"
    assert life.sh(hold.format("/run/lock/probe")) == "held\n"
    life.sh("rm /run/lock/probe")
    for lock in ("lock", "lock.agent"):
        assert "Permission denied" in life.sh(hold.format(f"/run/bridgewarden/{lock}"), check=False)
    assert "bridgewarden" not in life.sh("ls /run/lock")
    life.sh("systemd-tmpfiles --create /etc/tmpfiles.d/bridgewarden.conf")
    assert life.sh("stat -c '%a %U' /run/bridgewarden") == "700 root\n"
