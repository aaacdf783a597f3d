# SPDX-License-Identifier: GPL-3.0-or-later
"""IPVS without connection tracking: named only where a real server would lose its answers."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import preflight
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.ipvs import untracked_servers

from tests.unit.make import write_ipvs

TWO = ["AC120002:0050", "[fd00:0201:0000:0000:0000:0000:0000:0002]:0050"]


def test_a_host_without_ipvs(tmp_path: Path) -> None:
    assert untracked_servers(str(tmp_path)) == []


@pytest.mark.parametrize(
    ("sysctl", "method", "servers"),
    [
        ("0", "Masq", TWO),
        ("1", "Masq", []),
        ("0", "Route", []),
        ("0", "Tunnel", []),
        (None, "Masq", TWO),
    ],
)
def test_only_nat_without_tracking(tmp_path: Path, sysctl: str, method: str, servers: list[str]) -> None:
    """A kernel without CONFIG_IP_VS_NFCT has no such sysctl, and tracks nothing."""
    write_ipvs(tmp_path, sysctl, method)
    assert untracked_servers(str(tmp_path)) == servers


def test_loaded_but_without_a_service(tmp_path: Path) -> None:
    """As Swarm leaves it in the host's namespace."""
    write_ipvs(tmp_path, "0", None)
    assert untracked_servers(str(tmp_path)) == []


def test_preflight_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def warnings() -> list[str]:
        report = preflight.examine(str(tmp_path / "none.sock"), need_module=False)
        return [words for words in report.warnings if "IPVS" in words]

    monkeypatch.setattr(preflight, "untracked_servers", list)
    assert warnings() == []
    monkeypatch.setattr(preflight, "untracked_servers", lambda: TWO)
    (words,) = warnings()
    assert TWO[0] in words and "net.ipv4.vs.conntrack = 1" in words
