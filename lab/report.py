"""build/lab/report.html: the matrix as one self-contained page, readable in light, dark, print and without
colour.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

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
_STROKE = 'stroke="currentColor" stroke-linecap="round"'
_SHAPES = {  # disc, cross, three dots
    "open": '<circle cx="8" cy="8" r="5.5" fill="currentColor"/>',
    "refused": f'<path d="M4 4l8 8M12 4l-8 8" stroke-width="2.4" {_STROKE}/>',
    "timeout": f'<path d="M2.5 8h.01M8 8h.01M13.5 8h.01" stroke-width="3" {_STROKE}/>',
}


@dataclass(frozen=True)
class Facts:
    """What else belongs on the page: label and value pairs, and how long each step took."""

    when: str
    host: list[tuple[str, str]]
    seconds: list[tuple[str, float]]


def render(reaches: list[Reach], facts: Facts) -> str:
    """The page."""
    template = (LAB / "report.template.html").read_text(encoding="utf-8")
    parts = {
        "when": escape(facts.when),
        "verdict": _verdict(reaches),
        "figures": _figures(reaches),
        "matrix": _matrix(reaches),
        "legend": _legend(),
        "facts": "".join(f"<dt>{escape(label)}</dt><dd>{escape(value)}</dd>" for label, value in facts.host),
        "timing": _timing(facts.seconds),
        "details": "".join(_detail_row(reach) for reach in reaches),
    }
    for name, html in parts.items():
        template = template.replace("{{" + name + "}}", html)
    return template


def _verdict(reaches: list[Reach]) -> str:
    wrong = [reach for reach in reaches if reach.violated]
    if not wrong:
        return f'<p class="verdict good"><b>All {len(reaches)} paths are as expected</b> after hardening.</p>'
    items = "".join(
        f"<li>{escape(reach.source)} → {escape(_name(reach))} over IPv{reach.family} "
        f"is <b>{_WORDS[reach.after]}</b>, expected {escape(reach.expected)}</li>"
        for reach in wrong
    )
    headline = f"<b>{len(wrong)} of {len(reaches)} paths are not as expected</b>"
    return f'<div class="verdict bad">{headline}<ul>{items}</ul></div>'


def _name(reach: Reach) -> str:
    column = next(column for column in COLUMNS if (column.to, column.port) == (reach.to, reach.port))
    return f"{column.title}:{column.port} ({column.group.lower()})"


def _figures(reaches: list[Reach]) -> str:
    figures = [
        ("paths probed", len(reaches)),
        ("open before", sum(reach.before == "open" for reach in reaches)),
        ("open after", sum(reach.after == "open" for reach in reaches)),
        ("closed by hardening", sum(reach.before == "open" and reach.changed for reach in reaches)),
        ("not as expected", sum(reach.violated for reach in reaches)),
    ]
    return "".join(f"<div><b>{value}</b><span>{label}</span></div>" for label, value in figures)


def _matrix(reaches: list[Reach]) -> str:
    groups = list(dict.fromkeys(column.group for column in COLUMNS))
    spans = [sum(column.group == group for column in COLUMNS) for group in groups]
    heads = "".join(
        f'<th colspan="{span}" class="group">{escape(group)}</th>'
        for group, span in zip(groups, spans, strict=True)
    )
    titles = "".join(
        f'<th class="{_edge(column)}"><b>{escape(column.title)}</b><span>:{column.port}</span></th>'
        for column in COLUMNS
    )
    found = {reach.key: reach for reach in reaches}
    rows = "".join(_row(source, found) for source in FROM)
    corner = '<th class="corner">from ↓ &nbsp; to →</th>'
    return f"<thead><tr><th></th>{heads}</tr><tr>{corner}{titles}</tr></thead><tbody>{rows}</tbody>"


def _row(source: str, found: dict[Key, Reach]) -> str:
    border = ' class="border"' if source in ("host", "web") else ""
    cells = "".join(
        _cell([found.get((source, column.to, column.port, family)) for family in FAMILIES], column)
        for column in COLUMNS
    )
    who = f"<b>{escape(source)}</b><span>{escape(_WHO[source])}</span>"
    return f'<tr{border}><th scope="row">{who}</th>{cells}</tr>'


def _edge(column: Column) -> str:
    """Mark where a group of columns begins."""
    first = next(other for other in COLUMNS if other.group == column.group)
    return "edge" if column is first else ""


def _cell(pair: list[Reach | None], column: Column) -> str:
    lines = "".join(_line(reach) for reach in pair if reach)
    return f'<td class="{_edge(column)}">{lines or "<i>–</i>"}</td>'


def _line(reach: Reach) -> str:
    marks = {"changed": reach.changed, "violated": reach.violated}
    kind = " ".join([reach.after, *(mark for mark, holds in marks.items() if holds)])
    was = f"{_sign(reach.before, 'was')}<em>→</em>" if reach.changed else "<s></s><em></em>"
    title = (
        f"{reach.source} to {_name(reach)}, IPv{reach.family}: {_WORDS[reach.before]} before, "
        f"{_WORDS[reach.after]} after; {reach.detail}"
    )
    signs = f"<small>v{reach.family}</small>{was}{_sign(reach.after, 'is')}"
    return f'<div class="{kind}" title="{escape(title)}">{signs}</div>'


def _sign(state: str, role: str) -> str:
    """A sign that differs in shape, so that colour is never needed."""
    label = f'role="img" aria-label="{_WORDS[state]}"'
    return f'<svg class="{state} {role}" viewBox="0 0 16 16" {label}>{_SHAPES[state]}</svg>'


def _legend() -> str:
    signs = "".join(f"<span>{_sign(state, 'is')} {word}</span>" for state, word in _WORDS.items())
    changed = f"{_sign('open', 'was')}<em>→</em>{_sign('timeout', 'is')}"
    return (
        f'{signs}<span><b class="key changed">{changed}</b> changed by hardening</span>'
        f'<span><b class="key violated">{_sign("open", "is")}</b> not as expected</span>'
        "<span>no line: no such address there, or no route to it</span>"
    )


def _timing(seconds: list[tuple[str, float]]) -> str:
    longest = max((value for _, value in seconds), default=1.0)
    return "".join(
        f'<tr><th scope="row">{escape(label)}</th>'
        f'<td><i style="width:{100 * value / longest:.1f}%"></i></td><td>{value:.1f} s</td></tr>'
        for label, value in seconds
    )


def _detail_row(reach: Reach) -> str:
    cells = [
        reach.source,
        _name(reach),
        f"IPv{reach.family}",
        _WORDS[reach.before],
        _WORDS[reach.after],
        reach.expected,
        reach.detail,
    ]
    mark = ' class="violated"' if reach.violated else ""
    return f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
