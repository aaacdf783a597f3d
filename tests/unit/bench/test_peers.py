# SPDX-License-Identifier: GPL-3.0-or-later
"""The peers hold as many entries as they say, the measured one last, and permit nothing else."""

from __future__ import annotations

import re

import pytest

from bench import peers

CONTAINER = {4: "172.18.0.2", 6: "fd00:18::2"}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("kind", ["set", "map"])
def test_nft(version: int, kind: str) -> None:
    text = peers.nft(kind, 30, version)
    entries = re.findall(r"[{,] ([0-9a-f.:]+) \. udp \. 80", text)
    assert len(set(entries)) == 30 and entries[-1] == CONTAINER[version]
    assert "policy drop" in text and text.index("@x") < text.index("ct state")
    early = peers.nft(kind, 30, version, first=True)
    assert early.index("ct state") < early.index("@x")


@pytest.mark.parametrize("version", [4, 6])
def test_iptables(version: int) -> None:
    lines = peers.linear(30, version).splitlines()
    rules = [line for line in lines if "--dport 80 -j ACCEPT" in line]
    assert len(set(rules)) == 30 and f"-d {CONTAINER[version]} " in rules[-1]
    assert lines[1].startswith(":FORWARD DROP") and lines.index(rules[-1]) == len(lines) - 3


@pytest.mark.parametrize("version", [4, 6])
def test_ipset(version: int) -> None:
    head, *entries = peers.ipset(30, version).split("\n")[:-1]
    assert head.startswith(f"create x{version} hash:ip,port")
    assert len(set(entries)) == 30 and entries[-1] == f"add x{version} {CONTAINER[version]},udp:80"
