# SPDX-License-Identifier: GPL-3.0-or-later
"""What the packet path may cost at most, held against a run: a bar is met or missed; an aim is shown and fails nothing.

A bar covers the rows of results.json that it names; where a plan measures none of them, it says nothing of that bar.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bench.flows import FLOWS, UNJUDGED

Row = dict[str, Any]

#: Instructions more than without the module, IPv4, established; and where one may be wanted.
ALONE, ALONE_AIM = 149, 137
BESIDE_DOCKER, BESIDE_DOCKER_AIM = 89, 77
BRIDGED_AIM = 120
#: Of a packet whose verdict is not remembered.
LOOKED_UP, LOOKED_UP_AIM = 480, 350
#: Of the host's own traffic that no policy speaks of, more than a hook that does nothing.
NOT_JUDGED = 15
#: Instructions between the cheapest and the dearest of 10 to 100,000 entries.
FLAT = 15
#: What the engines count from that run beside Docker's rules.
BESIDE = {f"docker {backend} + bridgewarden": f"over_docker_{backend}" for backend in ("nft", "legacy")}


@dataclass(frozen=True)
class Bar:
    name: str
    measured: int
    at_most: int
    aim: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.at_most

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}

    def __str__(self) -> str:
        if self.met:
            found = "met"
        else:
            found = "above the aim" if self.aim else "MISSED"
        return f"{self.name}: {self.measured}, {'aim' if self.aim else 'at most'} {self.at_most}: {found}"


def is_sized(row: Row) -> bool:
    """Whether its engine is a ruleset of so many entries and nothing else. Not those that drop, see _flat()."""
    return bool(row["engine"] == f"bridgewarden {row['entries']}")


def _below(rows: list[Row]) -> list[tuple[Bar, list[Row]]]:
    """Of the rows by themselves: all are of IPv4."""
    return [(bar, [row]) for row in rows if row["family"] == 4 for bar in _of_row(row)]


def _of_row(row: Row) -> list[Bar]:
    flow, engine = row["flow"], row["engine"]
    if flow == "established" and engine in BESIDE:
        return _bars(
            "established, beside Docker's rules", row, BESIDE[engine], BESIDE_DOCKER, BESIDE_DOCKER_AIM
        )
    if not is_sized(row):
        return []
    if flow == "established":
        return _bars("established, alone", row, "over_base", ALONE, ALONE_AIM)
    if flow == "10000 clients":
        return _bars("10000 clients", row, "over_base", LOOKED_UP, LOOKED_UP_AIM)
    if flow == "bridged established":
        return _bars("bridged established", row, "over_base", None, BRIDGED_AIM)
    if FLOWS[flow].path == UNJUDGED:
        return _bars(flow, row, "over_floor", NOT_JUDGED)
    return []


def _bars(what: str, row: Row, key: str, at_most: int | None, aim: int | None = None) -> list[Bar]:
    """The bar and the aim; none where what they count from was not measured."""
    name, measured = f"{what}, {row['engine']}", row[key]
    if measured is None:
        return []
    found = [] if at_most is None else [Bar(name, measured, at_most)]
    return found if aim is None else [*found, Bar(name, measured, aim, aim=True)]


def _flat(rows: list[Row]) -> list[tuple[Bar, list[Row]]]:
    """Not of what is looked up each time: the tables' seeds are further apart than the bar."""
    found = []
    sized = [row for row in rows if is_sized(row) and not FLOWS[row["flow"]].looked_up]
    for flow, family in dict.fromkeys((row["flow"], row["family"]) for row in sized):
        alike = [row for row in sized if (row["flow"], row["family"]) == (flow, family)]
        sizes = sorted(row["entries"] for row in alike)
        if len(alike) < 2:
            continue
        costs = [row["instructions"] for row in alike]
        name = f"flat from {sizes[0]} to {sizes[-1]} entries, {flow}, IPv{family}"
        found.append((Bar(name, max(costs) - min(costs), FLAT), alike))
    return found


def of_rows(rows: list[Row]) -> list[Bar]:
    """Those the rows are held against. Each row gets its own as `bars`, and `met`: of all but aims, None where there is none."""
    found = [*_below(rows), *_flat(rows)]
    for row in rows:
        own = [bar for bar, covered in found if any(one is row for one in covered)]
        row["bars"] = [bar.record() for bar in own]
        row["met"] = all_met(own) if any(not bar.aim for bar in own) else None
    return [bar for bar, _ in found]


def of_swaps(records: list[dict[str, Any]]) -> list[Bar]:
    """Of swap.json's records, the first of which is the probe without a ruleset. Each gets `met`, that one None."""
    found = []
    for record in records:
        record["met"] = None
        if not record["swaps"]:
            continue
        what = f"{record['swaps']} swaps of {record['entries']} entries"
        own = [Bar(f"{what}, permitted packets lost", record["lost"], 0)]
        own.append(Bar(f"{what}, forbidden packets passed", record["passed"], 0))
        record["met"] = all_met(own)
        found += own
    return found


def all_met(bars: list[Bar]) -> bool:
    return all(bar.met for bar in bars if not bar.aim)
