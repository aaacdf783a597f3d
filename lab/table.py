"""The matrix for the terminal: rows are who asks, columns whom; in a cell IPv4 and IPv6, before and after.

Every state has a sign of its own; colour only repeats what the signs say.
"""

from __future__ import annotations

from lab.matrix import COLUMNS, FROM, Column, Reach

SIGNS = {"open": "●", "refused": "✕", "timeout": "·"}
_COLOURS = {"open": "32", "refused": "31", "timeout": "90", "changed": "1;36", "violated": "1;97;41"}
_WIDTH = 11
_HEAD = 11


def render(reaches: list[Reach], colour: bool) -> str:
    """The whole table with its legend."""
    lines = [*_head(), *(line for source in FROM for line in _row(source, reaches, colour))]
    lines.append("")
    lines.append(
        "● open   ✕ refused   · silence      before→after where it changed; one sign where it did not"
        "      ! not as expected"
    )
    return "\n".join(lines)


def _head() -> list[str]:
    groups, titles, last = " " * _HEAD, " " * _HEAD, ""
    for column in COLUMNS:
        span = sum(other.group == column.group for other in COLUMNS) * _WIDTH - 1
        if column.group != last:
            groups += column.group[:span].ljust(span + 1)
        last = column.group
        titles += f"{column.title}:{column.port}".ljust(_WIDTH)
    return [groups, titles]


def _row(source: str, reaches: list[Reach], colour: bool) -> list[str]:
    lines = []
    for family in (4, 6):
        label = f"{source if family == 4 else '':9}{family} "
        lines.append(
            label + "".join(_cell(_find(reaches, source, column, family), colour) for column in COLUMNS)
        )
    return lines


def _find(reaches: list[Reach], source: str, column: Column, family: int) -> Reach | None:
    wanted = (source, column.to, column.port, family)
    return next((reach for reach in reaches if reach.key == wanted), None)


def _cell(reach: Reach | None, colour: bool) -> str:
    if reach is None:
        return " " * _WIDTH
    text = f"{SIGNS[reach.before]}→{SIGNS[reach.after]}" if reach.changed else f"  {SIGNS[reach.after]}"
    text += "!" if reach.violated else " "
    kind = "violated" if reach.violated else "changed" if reach.changed else reach.after
    return (f"\x1b[{_COLOURS[kind]}m{text}\x1b[0m" if colour else text) + " " * (_WIDTH - len(text))
