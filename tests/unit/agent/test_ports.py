# SPDX-License-Identifier: GPL-3.0-or-later
"""When dockerd is asked about a port that has got carrier, and how often."""

from __future__ import annotations

import typing as t

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import ports as ports_room
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.ports import PortWatch
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink.rtnetlink import Link

PORT = Link(9, "veth9", "veth", 3, 0, 2, True)


class Watch:
    def __init__(self) -> None:
        self.waiting: t.Dict[int, Link] = {}
        self.stale: t.Set[str] = set()
        self.asked_at: t.Optional[float] = None
        self.heard = 0

    def hear(self) -> None:
        self.heard += 1

    def answered(self) -> bool:
        return self.asked_at is not None

    def answered_since(self, now: float) -> float:
        return now if self.asked_at is None else self.asked_at

    def stale_networks(self) -> t.Set[str]:
        return self.stale

    def outstanding(self) -> bool:
        return self.asked_at is not None


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def ports(watch: Watch) -> PortWatch:
    return PortWatch(t.cast(t.Any, watch))


def asked(ports: PortWatch, began: float, until: float) -> t.List[float]:
    """When it has something to sync, for a loop that waits as long as due() says."""
    now, found = began, []
    while now <= until:
        if ports.next(now) is not None:
            found.append(now)
        due = ports.due()
        if due is None or due == float("inf"):
            break
        now = max(due, now + 1e-6)
    return found


def test_a_port_is_asked_about_at_once_and_then_less_and_less_often(ports: PortWatch, watch: Watch) -> None:
    assert ports.next(100.0) is None and ports.due() is None and ports.quiet()
    watch.waiting[9] = PORT
    change = ports.next(100.0)
    assert change is not None
    assert (change.reason, change.scope, change.since) == ("link: veth9", "events", 100.0)
    assert not ports.quiet()
    times = asked(ports, 100.0, 200.0)
    early = [time for time in times if time < 100.2]
    assert times[0] == pytest.approx(100.003)
    assert 10 < len(early) < 20  # about every 20 ms in the end
    late = [time for time in times if time >= 100.25]
    assert 55 < len(late) < 65 and max(late) < 162  # once a second, for a minute
    assert ports.quiet() and ports.next(201.0) is None


def test_a_port_that_is_known_is_asked_about_no_more(ports: PortWatch, watch: Watch) -> None:
    watch.waiting[9] = PORT
    assert ports.next(100.0) is not None
    watch.waiting.clear()
    assert ports.next(100.1) is None and ports.due() is None
    watch.waiting[9] = PORT  # the same number, another link
    again = ports.next(150.0)
    assert again is not None and again.since == 150.0


def test_an_answer_is_taken_at_once(ports: PortWatch, watch: Watch) -> None:
    watch.asked_at = 99.5
    change = ports.next(100.0)
    assert change is not None and (change.reason, change.since) == ("link: dockerd's answer", 99.5)
    assert not ports.quiet()


def test_ports_that_go_are_looked_at_together(ports: PortWatch, watch: Watch) -> None:
    watch.stale.add("n")
    assert ports.next(100.0) is None
    assert ports.due() == 100.0 + ports_room.GONE_SECONDS
    assert ports.next(100.01) is None
    change = ports.next(100.051)
    assert change is not None and change.reason == "link: a port has gone"
    watch.stale.clear()
    assert ports.next(100.2) is None and ports.due() is None
