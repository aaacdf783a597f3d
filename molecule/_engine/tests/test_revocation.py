# SPDX-License-Identifier: GPL-3.0-or-later
"""A rule that is taken away cuts established TCP and UDP flows at their next packet, on every way; a new one lets them go on."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import ALPHA, LEFT, OFFICE, UPLINK, Bench

WAYS = {
    "same bridge": ("beta", ALPHA, 8080, 9000),
    "other bridge": ("gamma", ALPHA, 8080, 9000),
    "published": ("office", UPLINK, 18080, 19000),
    "directly": ("office", ALPHA, 8080, 9000),
    "from the host": ("host", ALPHA, 8080, 9000),
    "egress": ("alpha", OFFICE, 7200, 7200),
    "to the host": ("alpha", LEFT, 7201, 7201),
}
FLOWS = [f"{proto} {way} {v}" for way in WAYS for proto in ("tcp", "udp") for v in (4, 6)]
ALLOW = ({"name": "everything", "from": ["any"], "to": ["any"], "direct": True},)


@pytest.fixture(scope="module")
def said(bench: Bench) -> Any:
    found = {}
    for proto in ("tcp", "udp"):
        bench.listen(at="office", port=7200, proto=proto)
        bench.listen(at="host", port=7201, proto=proto)
    bench.commit(*ALLOW)
    flows = [
        {
            "id": f"{proto} {way} {v}",
            "from": who,
            "host": to[v],
            "port": {"tcp": tcp, "udp": udp}[proto],
            "proto": proto,
        }
        for way, (who, to, tcp, udp) in WAYS.items()
        for proto in ("tcp", "udp")
        for v in (4, 6)
    ]
    bench.connect(flows=flows)
    found["allowed"] = bench.talk(ids=FLOWS, text="before")
    bench.commit()
    found["revoked"] = bench.talk(ids=FLOWS, text="meanwhile", seconds=1.5)
    bench.commit(*ALLOW)
    found["allowed again"] = bench.talk(ids=FLOWS, text="after", seconds=6)
    bench.close(ids=FLOWS)
    return found


@pytest.mark.parametrize("flow", FLOWS)
def test_allowed(said: dict[str, dict[str, str]], flow: str) -> None:
    assert said["allowed"][flow] == "yes"


@pytest.mark.parametrize("flow", FLOWS)
def test_revoked(said: dict[str, dict[str, str]], flow: str) -> None:
    # Who sends on the host is told by his own system; a datagram, that is, TCP tries again.
    wanted = "PermissionError" if flow.startswith("udp from the host") else "no"
    assert said["revoked"][flow] == wanted


@pytest.mark.parametrize("flow", FLOWS)
def test_allowed_again(said: dict[str, dict[str, str]], flow: str) -> None:
    assert said["allowed again"][flow] == "yes"
