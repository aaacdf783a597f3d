# SPDX-License-Identifier: GPL-3.0-or-later
"""Traffic within one bridge is judged because of the bridge setting; without it none passes (docs: paths B and C)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

SAME_BRIDGE = ("api", "web", 8080)  # both on the frontend network, no rule
ROUTED = ("stranger", "host", 8081)  # from outside, no rule
ALLOWED = ("web", "api", 8443)
SETTINGS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")


@pytest.fixture
def unseen(guest: Any) -> Iterator[Any]:
    """How many packets were dropped unseen since the bridge settings went off, live, as somebody's sysctl would do it."""

    def count() -> int:
        return sum(n for name, n in guest.counters().items() if name.startswith("across a guarded bridge"))

    switch = "sysctl -q -w " + " ".join(f"net.bridge.{name}=%d" for name in SETTINGS)
    guest.run(switch % (0, 0))
    before = count()
    try:
        yield lambda: count() - before
    finally:
        guest.run(switch % (1, 1))


def test_c_with_the_setting_the_pair_without_a_rule_is_blocked(guest: Any) -> None:
    assert guest.probe(SAME_BRIDGE, ALLOWED) == ["timeout", "timeout", "open", "open"]


def test_b_without_the_setting_nothing_passes_within_the_bridge(guest: Any, unseen: Any) -> None:
    assert guest.probe(SAME_BRIDGE, ALLOWED) == ["timeout"] * 4
    assert unseen() >= 4
    assert guest.probe(ROUTED) == ["timeout", "timeout"], (
        "routed traffic does not depend on the bridge setting"
    )


def test_c_again_once_the_setting_is_back(guest: Any) -> None:
    assert guest.probe(SAME_BRIDGE, ALLOWED) == ["timeout", "timeout", "open", "open"]
