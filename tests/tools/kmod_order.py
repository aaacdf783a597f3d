#!/usr/bin/env python3
"""Checks the order of the kernel module's files: none depends on one below it in build.c, and so there is no circle.

X.c and X.h are one file here. A depends on B if A includes B.h or mentions a bw_ or BW_ name that B declares or defines.
The list in build.c is the only one; the table in docs/kernel.md must show the same files under the same headings.
Usage: kmod_order.py [FOLDER [DOCUMENT]], by default kmod and docs/kernel.md.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
NAME = r"\b(?:bw|BW)_\w+\b"
#: Macros that define the objects named in their arguments.
DEFINES = re.compile(r"\b(?:DEFINE|DECLARE)_\w+\((.*)\)|\bLIST_HEAD\((.*)\)", re.S)
TYPE = r"\b(?:struct|union|enum)\s+"


def code(path: Path) -> str:
    """Source without comments, strings and the names of trace events, which are no C names."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", path.read_text(), flags=re.S)
    return re.sub(r"TRACE_EVENT\(\w+", "TRACE_EVENT(", re.sub(r'"(?:\\.|[^"\\\n])*"', '""', text))


def defined(text: str) -> set[str]:
    """Names that a file declares or defines outside of functions."""
    names = set(re.findall(rf"^#\s*define\s+({NAME})", text, re.M))
    text = re.sub(r"^#(?:[^\n]*\\\n)*[^\n]*", "", text, flags=re.M)
    for body in re.findall(r"\benum\b[^{;()]*\{([^}]*)\}", text):
        names |= {word for part in body.split(",") for word in re.findall(rf"^\s*({NAME})", part)}
    names |= set(re.findall(rf"{TYPE}({NAME})\s*\{{", text))
    while "{" in text and (flat := re.sub(r"\{[^{}]*\}", ";", text)) != text:
        text = flat
    for declaration in re.split(r";", text):
        head = re.sub(rf"\[[^\]]*\]|{TYPE}\w+|\bBW_(?:API|DATA)\b", " ", declaration.split("=")[0])
        if macro := DEFINES.search(head):
            names |= set(re.findall(NAME, macro.group(1) or macro.group(2)))
        elif "(" in head:
            names |= set(re.findall(rf"({NAME})\s*\(", head)[:1])
        else:
            names |= set(re.findall(NAME, head))
    return names


def listed(build: Path) -> list[tuple[str, str]]:
    """(heading, file) in build.c's order. A heading is a comment's text up to its first colon or full stop."""
    heading, units = "", []
    for comment, unit in re.findall(
        r'^/\* ([^*\n]*?)[:.][^*\n]*\*/$|^#include "(\w+)\.[ch]"$', build.read_text(), re.M
    ):
        heading = comment or heading
        if unit:
            units.append((heading, unit))
    return units


def shown(document: Path) -> list[tuple[str, str]]:
    """(heading, file) in the order of the document's table of files."""
    heading, units = "", []
    table = document.read_text().partition("| file | holds |")[2].partition("\n\n")[0]
    for title, unit in re.findall(r"^\| (?:\*\*([^*|]+)\*\*|`(\w+)\.\S+`) \|", table, re.M):
        heading = title or heading
        if unit:
            units.append((heading, unit))
    return units


def dependencies(folder: Path, order: list[str]) -> dict[str, dict[str, str]]:
    """For each file those it depends on, with one symbol or include for each."""
    texts = {unit: {path: code(path) for path in sorted(folder.glob(unit + ".[ch]"))} for unit in order}
    owner: dict[str, str] = {}
    for unit, files in texts.items():
        for text in files.values():
            for name in defined(text):
                owner.setdefault(name, unit)
    edges: dict[str, dict[str, str]] = {unit: {} for unit in order}
    for unit, files in texts.items():
        for path, text in files.items():
            for name in re.findall(NAME, text):
                if owner.get(name, unit) != unit:
                    edges[unit].setdefault(owner[name], name)
            for name in re.findall(r'^#include "(\w+)\.h"', path.read_text(), re.M):
                if name in texts and name != unit:
                    edges[unit].setdefault(name, f'#include "{name}.h"')
    return edges


def circle(edges: dict[str, dict[str, str]], start: str, end: str) -> list[str]:
    """The shortest way from start to end, or nothing."""
    ways = [[start]]
    seen = {start}
    for way in ways:
        if way[-1] == end:
            return way
        following = [unit for unit in edges[way[-1]] if unit not in seen]
        seen.update(following)
        ways += [[*way, unit] for unit in following]
    return []


def problems(folder: Path, document: Path | None) -> list[str]:
    units = listed(folder / "build.c")
    order = [unit for _, unit in units]
    found = []
    for path in sorted(folder.glob("*.[ch]")):
        if path.stem not in [*order, "build"]:
            found.append(f"{path.name}: is not in build.c")
    edges = dependencies(folder, order)
    for unit, needs in edges.items():
        for below, symbol in needs.items():
            if order.index(below) < order.index(unit):
                continue
            found.append(f"{unit} depends on {below}, which is below it in build.c: {symbol}")
            way = circle(edges, below, unit)
            if way:
                links = [f"{a} -> {b} ({edges[a][b]})" for a, b in zip([unit, *way], way)]
                found.append("  a circle: " + ", ".join(links))
    if document and shown(document) != units:
        found.append(f"{document.name}: its table of files is not the list of build.c:")
        found += [f"  {a} <> {b}" for a, b in zip(shown(document), units) if a != b][:3]
    return found


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else TOP / "kmod"
    document = TOP / "docs/kernel.md" if not arguments else Path(arguments[1]) if len(arguments) > 1 else None
    found = problems(folder, document)
    print(
        "\n".join(found)
        or f"{folder.name}: {len(listed(folder / 'build.c'))} files, none depends on one below it"
    )
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
