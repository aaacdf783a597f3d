"""build/lab/report.html: the matrix as one self-contained page, readable in light, dark, print and without
colour.

What is on the page is computed here, its markup is in report.template.html. Jinja2 escapes every value there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from lab.matrix import COLUMNS, FAMILIES, FROM, Column, Key, Reach
from lab.paths import LAB

_WHO = {
    "office": "LAN 10.10.10.3",
    "stranger": "LAN 10.10.10.9",
    "host": "the Docker host",
    "web": "frontend",
    "api": "frontend, backend",
    "db": "backend",
    "loner": "docker0",
}
_WORDS = {"open": "open", "refused": "refused", "timeout": "silence"}


@dataclass(frozen=True)
class Facts:
    """What else belongs on the page: label and value pairs, and how long each step took."""

    when: str
    host: list[tuple[str, str]]
    seconds: list[tuple[str, float]]


class Row(NamedTuple):
    """The paths from one place; `cells` has for each column the paths over each family that exist."""

    source: str
    who: str
    border: bool
    cells: list[tuple[Column, list[Reach]]]


def render(reaches: list[Reach], facts: Facts) -> str:
    """The page."""
    # Here, since the other commands of the lab run without Jinja2 (`make lab-down` uses the system's Python).
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, loader=jinja2.FileSystemLoader(LAB)
    )
    return environment.get_template("report.template.html").render(
        when=facts.when,
        reaches=reaches,
        wrong=[reach for reach in reaches if reach.violated],
        words=_WORDS,
        name=_name,
        figures=_figures(reaches),
        groups=_groups(),
        columns=COLUMNS,
        edge=_edge,
        rows=[_row(source, reaches) for source in FROM],
        facts=facts.host,
        seconds=facts.seconds,
        longest=max((value for _, value in facts.seconds), default=1.0),
    )


def _name(reach: Reach) -> str:
    column = next(column for column in COLUMNS if (column.to, column.port) == (reach.to, reach.port))
    return f"{column.title}:{column.port} ({column.group.lower()})"


def _figures(reaches: list[Reach]) -> list[tuple[str, int]]:
    return [
        ("paths probed", len(reaches)),
        ("open before", sum(reach.before == "open" for reach in reaches)),
        ("open after", sum(reach.after == "open" for reach in reaches)),
        ("closed by hardening", sum(reach.before == "open" and reach.changed for reach in reaches)),
        ("not as expected", sum(reach.violated for reach in reaches)),
    ]


def _groups() -> list[tuple[str, int]]:
    """The groups of columns, and how many columns each spans."""
    groups = dict.fromkeys(column.group for column in COLUMNS)
    return [(group, sum(column.group == group for column in COLUMNS)) for group in groups]


def _row(source: str, reaches: list[Reach]) -> Row:
    found = {reach.key: reach for reach in reaches}
    cells = []
    for column in COLUMNS:
        keys: list[Key] = [(source, column.to, column.port, family) for family in FAMILIES]
        cells.append((column, [found[key] for key in keys if key in found]))
    return Row(source, _WHO[source], source in ("host", "web"), cells)


def _edge(column: Column) -> str:
    """Mark where a group of columns begins."""
    first = next(other for other in COLUMNS if other.group == column.group)
    return "edge" if column is first else ""
