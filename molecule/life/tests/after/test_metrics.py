# SPDX-License-Identifier: GPL-3.0-or-later
"""A scrape of the agent's page, under its own unit, beside what packets and containers really did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import AGENT, HOST, addresses, ids, pair
from prometheus_client.parser import text_string_to_metric_families

LAST = 60
Samples = dict[tuple[str, ...], float]


@pytest.fixture(autouse=True)
def tidy(life: Any) -> Iterator[None]:
    life.until_known()
    yield
    life.sh(f"systemctl kill -s CONT {AGENT}")
    life.remove("guest")
    life.until_known()


def scrape(life: Any) -> Samples:
    """(name without the prefix, label values in the order of their names) -> value."""
    found: Samples = {}
    for family in text_string_to_metric_families(life.scrape()):
        for sample in family.samples:
            labels = (value for _name, value in sorted(sample.labels.items()))
            found[(sample.name.removeprefix("bridgewarden_"), *labels)] = sample.value
    return found


def grown(before: Samples, after: Samples, *name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def test_it_says_what_the_kernel_holds(life: Any) -> None:
    found, state, known = scrape(life), life.status(), life.endpoints()
    assert found["up",] == found["enforcing",] == found["hooks_in_place",] == found["docker_reachable",] == 1
    assert found["generation",] == state["generation"]
    # a container's link-local address is an endpoint as well
    assert found["endpoints",] >= len(known["kernel"]) > 0
    assert found["unmanaged_endpoints",] == found["sealed",] == found["stuck_containers",] == 0


def test_packets_are_counted_where_they_were_decided(life: Any, watch: Callable[..., Any]) -> None:
    before = scrape(life)
    watch().tried(6).all_open()
    after = scrape(life)
    for name in (
        ("rule_packets_total", "allow", "friends talk"),
        ("rule_bytes_total", "allow", "the office talks to friends"),
        ("default_packets_total", "deny", "inter_container"),
        ("default_bytes_total", "deny", "ingress"),
    ):
        assert grown(before, after, *name) > 0, (name, after)


def test_the_unknown_and_the_agents_lag(life: Any, watch: Callable[..., Any]) -> None:
    """A container that starts while the agent is held up: dropped as unmanaged, then known, and that late."""
    to_guest = pair("ada-guest", "ada", addresses(LAST))
    before = scrape(life)
    life.sh(f"systemctl kill -s STOP {AGENT}")
    life.run("guest", LAST, friend=True)
    seen = watch(*to_guest).tried(8)
    found = seen.all_open()
    assert all(found[name]["closed"] and not found[name]["open"] for name in ids(to_guest))
    life.sh(f"systemctl kill -s CONT {AGENT}")
    life.until_open(ids(to_guest))
    life.until(lambda: grown(before, scrape(life), "lag_seconds_count") > 0, 20, "the lag is counted")
    after = scrape(life)
    assert grown(before, after, "reason_packets_total", "deny", "unmanaged") > 0
    assert grown(before, after, "lag_seconds_sum") > 3
    assert after["generation",] > before["generation",]


def test_nobody_outside_reads_it(life: Any, watch: Callable[..., Any]) -> None:
    """The same probe connects from the host itself, where the page is (and says nothing unasked)."""
    rows = pair("office-metrics", "office", HOST, 9899)
    seen = watch(*rows, {"id": "host-metrics", "from": "host", "hosts": ["127.0.0.1"], "port": 9899})
    found = seen.tried(4).all_open()
    assert found["host-metrics"]["half"] and not found["host-metrics"]["closed"], found["host-metrics"]
    for name in ids(rows):
        assert found[name]["closed"] and not found[name]["open"] + found[name]["half"], found[name]
