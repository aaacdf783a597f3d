# SPDX-License-Identifier: GPL-3.0-or-later
"""A bar is met at its limit and missed above it, covers the rows it is meant for and no others; an aim fails nothing."""

from __future__ import annotations

from typing import Any

import pytest

from bench import __main__, bars, plans
from bench.flows import FLOWS


def row(engine: str, flow: str = "established", family: int = 4, **words: Any) -> dict[str, Any]:
    found = {"engine": engine, "family": family, "flow": flow, "instructions": 4000, "entries": None}
    return {
        **found,
        "over_base": None,
        "over_floor": None,
        "over_docker_nft": None,
        "over_docker_legacy": None,
        **words,
    }


def ours(n: int, over: int, **words: Any) -> dict[str, Any]:
    return row(f"bridgewarden {n}", entries=n, over_base=over, instructions=3766 + over, **words)


@pytest.mark.parametrize("over, met", [(149, True), (150, False), (-5, True)])
def test_alone(over: int, met: bool) -> None:
    rows = [ours(10, over)]
    bar, aim = bars.of_rows(rows)
    assert (aim.measured, aim.at_most, aim.aim) == (over, 137, True)
    assert (bar.measured, bar.at_most, bar.met, bars.all_met([bar])) == (over, 149, met, met)
    assert rows[0]["met"] is met and rows[0]["bars"][0]["met"] is met
    assert ("MISSED" in str(bar)) is not met


@pytest.mark.parametrize("backend", ["nft", "legacy"])
@pytest.mark.parametrize("over, met", [(89, True), (90, False)])
def test_beside_docker(backend: str, over: int, met: bool) -> None:
    beside = row(
        f"docker {backend} + bridgewarden", entries=1000, over_base=1700, **{f"over_docker_{backend}": over}
    )
    other = row(f"docker {'legacy' if backend == 'nft' else 'nft'}", over_docker_nft=0, over_docker_legacy=0)
    bar, aim = bars.of_rows([beside, other])
    assert (aim.measured, aim.at_most, aim.aim) == (over, 77, True)
    assert (bar.measured, bar.met) == (over, met)
    assert beside["met"] is met and other["met"] is None and not other["bars"]


def test_an_aim_fails_nothing() -> None:
    rows = [ours(10, 175, flow="bridged established")]
    (bar,) = bars.of_rows(rows)
    assert (bar.aim, bar.at_most, bar.met) == (True, 120, False) and "above the aim" in str(bar)
    assert bars.all_met([bar]) and rows[0]["met"] is None and rows[0]["bars"][0]["aim"]


@pytest.mark.parametrize("over, met, aimed", [(350, True, True), (480, True, False), (481, False, False)])
def test_looked_up(over: int, met: bool, aimed: bool) -> None:
    rows = [ours(1000, over, flow="10000 clients"), ours(1000, 900, flow="1000 clients")]
    bar, aim = bars.of_rows(rows)
    assert (bar.at_most, bar.met, aim.at_most, aim.met) == (480, met, 350, aimed)
    assert rows[0]["met"] is met and rows[1]["met"] is None


@pytest.mark.parametrize("flow", ["host in", "host out"])
@pytest.mark.parametrize("over, met", [(15, True), (16, False)])
def test_not_judged_counts_from_an_empty_hook(flow: str, over: int, met: bool) -> None:
    rows = [
        ours(10, 400, flow=flow, over_floor=over),
        ours(10, 400, flow="docker-proxy in", over_floor=400),
        row("bridgewarden, unguarded links", flow=flow, entries=1000, over_floor=400),
    ]
    (bar,) = bars.of_rows(rows)
    assert (bar.measured, bar.at_most, bar.met) == (over, 15, met)


def test_over_the_floor() -> None:
    records = [
        {"engine": name, "family": 4, "flow": "host in", "median_x100": cost, "mean_x100": 0, "passed": 1600}
        for name, cost in (("base", 323_200), ("floor", 325_600), ("bridgewarden 10", 336_800))
    ]
    base, floor, own = __main__.table(records)
    assert (base["over_floor"], floor["over_floor"], floor["over_base"]) == (-24, 0, 24)
    assert (own["over_floor"], own["over_base"]) == (112, 136)


@pytest.mark.parametrize("dearest, met", [(115, True), (116, False)])
def test_flat_is_the_dearest_above_the_cheapest(dearest: int, met: bool) -> None:
    rows = [ours(10, 108), ours(1000, 100), ours(100_000, dearest)]
    flat = bars.of_rows(rows)[-1]
    assert (flat.measured, flat.at_most, flat.met) == (dearest - 100, 15, met)
    assert "from 10 to 100000" in flat.name
    assert [one["met"] for one in rows] == [met] * 3


def test_flat_compares_like_with_like() -> None:
    rows = [
        ours(10, 100),
        ours(1000, 200, family=6),
        ours(10, 300, flow="new"),
        row("bridgewarden 10, drop", entries=10, instructions=3000),
        row("bridgewarden, group of 10000 prefixes", entries=1000, instructions=9000, over_base=900),
        row("nft set 1000", entries=1000, instructions=9000, over_base=900),
    ]
    assert {bar.name for bar in bars.of_rows(rows)} == {"established, alone, bridgewarden 10"}
    larger = ours(1000, 100 + bars.FLAT + 1)
    flat = bars.of_rows([*rows, larger])[-1]
    assert flat.measured == bars.FLAT + 1 and not flat.met and larger["met"] is False


@pytest.mark.parametrize("lost, passed, met", [(0, 0, True), (1, 0, False), (0, 1, False)])
def test_swaps(lost: int, passed: int, met: bool) -> None:
    probe = {"entries": 0, "swaps": 0, "lost": 0, "passed": 700}
    swapped = {"entries": 1000, "swaps": 500, "lost": lost, "passed": passed}
    found = bars.of_swaps([probe, swapped])
    assert [(bar.measured, bar.met) for bar in found] == [(lost, not lost), (passed, not passed)]
    assert bars.all_met(found) is met and swapped["met"] is met and probe["met"] is None


def test_the_whole_plan_measures_every_bar() -> None:
    """Rows as the machine would send them: a renamed engine or flow must not take a bar away."""
    records = [
        {
            "engine": one["name"],
            "family": family,
            "flow": flow,
            "median_x100": 400_000,
            "mean_x100": 400_100,
            "passed": 1600,
        }
        for one in plans.PLANS["all"]
        for family in one["families"]
        for flow in one["flows"]
    ]
    names = [bar.name for bar in bars.of_rows(__main__.table(records))]
    for n in plans.SIZES:
        assert {f"established, alone, bridgewarden {n}", f"bridged established, bridgewarden {n}"} <= set(
            names
        )
    for backend in ("nft", "legacy"):
        assert f"established, beside Docker's rules, docker {backend} + bridgewarden" in names
    for n in plans.SIZES:
        for what in ("10000 clients", "host in", "host out"):
            assert f"{what}, bridgewarden {n}" in names
    for flow in FLOWS:
        for family in (4, 6):
            if FLOWS[flow].looked_up:
                continue
            assert f"flat from 10 to 100000 entries, {flow}, IPv{family}" in names


def test_rows_describe_themselves() -> None:
    records = [
        {
            "engine": "base",
            "family": 4,
            "flow": flow,
            "median_x100": 1000 * at,
            "mean_x100": 9000,
            "passed": 0 if at else 1600,
        }
        for at, flow in enumerate(FLOWS)
    ]
    rows = {found["flow"]: found for found in __main__.table(records)}
    assert [
        (rows[flow]["statistic"], rows[flow]["instructions"]) for flow in ("many", "new", "100 clients")
    ] == [
        ("median", 10),
        ("mean", 90),
        ("mean", 90),
    ]
    assert rows["established"]["passes"] and not rows["new"]["passes"]
    assert (rows["bridged new"]["path"], rows["bridged new"]["connections"]) == ("bridged", None)
    assert (rows["1000 clients"]["path"], rows["1000 clients"]["clients"]) == ("routed", 1000)
