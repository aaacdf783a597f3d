# SPDX-License-Identifier: GPL-3.0-or-later
"""The live settings on real bridges, in a network namespace of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

COLLECTIONS = Path(__file__).resolve().parents[3] / ".collections"
PROGRAM = """
import dataclasses, json, sys
sys.path.insert(0, {collections!r})
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as bridge
etc = {etc!r}
paths = bridge.BridgeFiles(modules_load=etc + "/load.conf", sysctl=etc + "/99-bw.conf", udev=etc + "/bw.rules", before=etc + "/b.json")
state, scope, check_mode = {arguments!r}
quiet = lambda argv: (0, "", "")
outcome = bridge.converge_bridges(state, scope, ["docker0", "br-*"], {{"docker0"}}, check_mode, paths, quiet)
print(json.dumps(dict(dataclasses.asdict(outcome), actions=outcome.actions)))
"""


@pytest.fixture
def netns() -> t.Iterator[str]:
    name = f"bwb{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        if not inside(name, "ls /proc/sys/net").split().count("bridge"):
            pytest.skip("this kernel has no br_netfilter")
        for link in ("docker0", "virbr0"):
            subprocess.run(["ip", "-n", name, "link", "add", link, "type", "bridge"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def inside(name: str, command: str) -> str:
    argv = ["ip", "netns", "exec", name, "sh", "-c", command]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def converge(name: str, etc: Path, *arguments: t.Any) -> t.Dict[str, t.Any]:
    program = PROGRAM.format(collections=str(COLLECTIONS), etc=str(etc), arguments=arguments)
    argv = ["ip", "netns", "exec", name, sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return t.cast(t.Dict[str, t.Any], json.loads(done.stdout))


def values(name: str) -> t.List[str]:
    """The two sysctls, then each bridge's own two."""
    return inside(
        name,
        "cat /proc/sys/net/bridge/bridge-nf-call-iptables /proc/sys/net/bridge/bridge-nf-call-ip6tables"
        " /sys/class/net/docker0/bridge/nf_call_ip*tables /sys/class/net/virbr0/bridge/nf_call_ip*tables",
    ).split()


def test_guarded_there_and_back(netns: str, tmp_path: Path) -> None:
    before = values(netns)
    foretold = converge(netns, tmp_path, "present", "auto", True)
    assert values(netns) == before
    done = converge(netns, tmp_path, "present", "auto", False)
    assert done["scope"] == "guarded" and done["actions"] == foretold["actions"]
    assert values(netns) == ["0", "0", "1", "1", "0", "0"]
    assert converge(netns, tmp_path, "present", "auto", False)["actions"] == []
    converge(netns, tmp_path, "absent", "auto", False)
    assert values(netns) == before


def test_global(netns: str, tmp_path: Path) -> None:
    inside(netns, "echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables")
    done = converge(netns, tmp_path, "present", "global", False)
    assert "set net.bridge.bridge-nf-call-iptables to 1" in done["actions"]
    assert values(netns)[:2] == ["1", "1"]
    converge(netns, tmp_path, "absent", "auto", False)
    assert values(netns)[:2] == ["0", "1"]
