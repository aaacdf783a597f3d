# SPDX-License-Identifier: GPL-3.0-or-later
"""Others flush and reload the host's firewall under traffic. What they throw away is theirs and Docker's, not ours.

Docker's own NAT goes with a flush, and with it, until dockerd starts again, the published port over IPv4 (docker-proxy may
stand in for it); a firewall may also close by itself what we allow. Neither may open what we deny.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import ALLOWED, gaps, ids

#: Docker's policy for FORWARD is DROP, which the first leaves alone: until dockerd starts again that closes what we allow.
FLUSHES = {
    "iptables -F": "for t in filter nat mangle raw; do iptables -t $t -F; ip6tables -t $t -F; done",
    "iptables -F, policies open": "iptables -P FORWARD ACCEPT; ip6tables -P FORWARD ACCEPT; iptables -F; ip6tables -F",
    "nft flush ruleset": "nft flush ruleset",
}


@pytest.fixture(scope="module", autouse=True)
def docker_mends_its_own(life: Any) -> Iterator[None]:
    yield
    restart_docker(life)
    life.until_open(ids(ALLOWED))


def restart_docker(life: Any) -> None:
    life.sh("systemctl reset-failed docker; systemctl restart docker")
    life.until(lambda: len(life.containers()) >= 3, 90, "the containers are back")
    life.until_known()


@pytest.mark.parametrize("flush", FLUSHES)
def test_a_flush(life: Any, watch: Callable[..., Any], record: Callable[..., None], flush: str) -> None:
    seen = watch().tried(4)
    generation = life.status()["generation"]
    life.sh(FLUSHES[flush])
    seen.tried(12)
    found = seen.seen()
    record(f"firewall-{flush.replace(' ', '-').replace(',', '')}", shut_seconds=gaps(found), seen=found)
    state = life.status()
    assert state["generation"] == generation
    assert state["hooks_in_place"]
    after = watch().tried(6).seen()
    for name in ("ada-bob ipv4", "ada-bob ipv6") if flush != "iptables -F" else ():
        assert after[name]["open"] and not after[name]["closed"], after[name]


@pytest.fixture
def firewalld(life: Any) -> Iterator[None]:
    """As on a host where it starts before dockerd."""
    life.sh("systemctl start firewalld")
    try:
        restart_docker(life)
        yield
    finally:
        life.sh("systemctl stop firewalld")


@pytest.mark.usefixtures("firewalld")
def test_firewalld_reloads(life: Any, watch: Callable[..., Any], record: Callable[..., None]) -> None:
    seen = watch().tried(6)
    found = {}
    for what, command in {
        "at rest": "true",
        "reload": "firewall-cmd --reload",
        "complete reload": "firewall-cmd --complete-reload",
        "port opened": "firewall-cmd --add-port=7001/tcp --add-port=7003/tcp --add-masquerade",
        "zone trusted": "firewall-cmd --set-default-zone=trusted",
        "stopped": "systemctl stop firewalld",
    }.items():
        seen.again()
        life.sh(command)
        found[what] = seen.tried(10).seen()
    record("firewall-firewalld", **{what: gaps(rows) for what, rows in found.items()})
    assert life.status()["hooks_in_place"]
    life.sh("firewall-cmd --set-default-zone=public", check=False)
