# SPDX-License-Identifier: GPL-3.0-or-later
"""The bench itself waits for what comes late: alpha's link is slow here, slower than what is waited for as a rule."""

from __future__ import annotations

from collections.abc import Iterator

import packets as p
import pytest
from conftest import ALPHA, BETA, Bench

DELAY = 0.7  # seconds


@pytest.fixture(scope="module", autouse=True)
def slow(bench: Bench) -> Iterator[None]:
    alpha = next(one for one in bench.facts()["containers"] if one["Name"] == "alpha")
    link = f"dev {alpha['Networks']['left']['Port']} root"
    bench.sh(command=f"tc qdisc add {link} netem delay {round(1000 * DELAY)}ms")
    bench.commit(
        {
            "name": "beta asks",
            "from": ["container:beta"],
            "to": ["container:alpha"],
            "ports": ["8080/tcp", "9000/udp"],
        }
    )
    yield
    bench.sh(command=f"tc qdisc del {link}")


@pytest.mark.parametrize("port, wanted", [(9000, ["alpha"]), (9001, [])], ids=["allowed", "denied"])
@pytest.mark.parametrize("family", (4, 6))
def test_a_late_packet_is_heard(bench: Bench, family: int, port: int, wanted: list[str]) -> None:
    me, to, mark = BETA[family], ALPHA[family], f"<late {family} {port}>".encode()
    packet = p.ip(me, to, p.UDP, p.udp(me, to, (48000, port), mark))
    shot = {
        "from": "beta",
        "network": "left",
        "via": "alpha",
        "l3": [packet.hex()],
        "want": mark.hex(),
        "at": ["alpha"],
    }
    assert bench.shoot(shots=[shot], seconds=DELAY / 10) == [wanted]


def test_what_ends_late_is_counted(bench: Bench) -> None:
    """Nothing more comes once the counters have settled; when the probe is over, there is more to come."""
    assert bench.reach(("beta", ALPHA[4], 8080), seconds=20) == ["open"]
    early = bench.counters()
    late = bench.settled()
    assert late["beta asks"] > early["beta asks"]
    bench.sh(command=f"sleep {2 * DELAY}")
    assert bench.counters()["beta asks"] == late["beta asks"]
