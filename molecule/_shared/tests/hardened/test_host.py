# SPDX-License-Identifier: GPL-3.0-or-later
"""What the main job leaves on a host, and what a reboot must not change."""

from __future__ import annotations

import json
from typing import Any

import pytest


@pytest.fixture(scope="module")
def status(guest: Any, until: Any) -> Any:
    """What the command says, once the agent knows every container: four of them, one on two networks."""

    def complete() -> None:
        assert len(guest.json("bridgewarden endpoints --json")) >= 5

    until(complete)
    return guest.json("bridgewarden status --json")


def test_the_module_is_loaded_from_dkms(host: Any) -> None:
    assert host.file("/sys/module/bridgewarden").is_directory
    found = host.check_output("modinfo -F filename bridgewarden; dkms status -m bridgewarden")
    assert "/updates/dkms/" in found
    assert "installed" in found


def test_the_bridge_settings_are_live_and_persistent(host: Any) -> None:
    assert host.sysctl("net.bridge.bridge-nf-call-iptables") == 1
    assert host.sysctl("net.bridge.bridge-nf-call-ip6tables") == 1
    assert host.file("/etc/modules-load.d/bridgewarden.conf").contains("^br_netfilter$")
    assert host.file("/etc/sysctl.d/99-bridgewarden.conf").contains("bridge-nf-call-ip6tables = 1")


@pytest.mark.parametrize("unit", ["bridgewarden", "bridgewarden-agent"])
def test_the_units_are_at_work(host: Any, unit: str) -> None:
    assert host.service(unit).is_enabled
    assert host.service(unit).is_running


def test_the_policy_is_private(host: Any) -> None:
    policy = host.file("/etc/bridgewarden/policy.json")
    assert policy.user == "root"
    assert policy.mode & 0o077 == 0
    assert json.loads(policy.content_string)


def test_the_kernel_enforces_the_policy(status: Any) -> None:
    assert status["mode"] == "enforce"
    assert status["generation"] > 0


def test_docker_runs_as_before(host: Any) -> None:
    assert host.check_output("docker ps --format '{{.Names}}' | sort | xargs") == "api db loner web"


def test_no_kernel_complaint(host: Any) -> None:
    """A taint by an out-of-tree module is expected; a warning, an oops or a lock complaint is not."""
    log = host.check_output("dmesg")
    bad = [
        line
        for line in log.splitlines()
        if any(word in line for word in ("BUG:", "WARNING:", "Oops", "Call Trace"))
    ]
    assert not bad
