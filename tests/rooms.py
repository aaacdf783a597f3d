# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the library's rooms, read from its own imports.

ORDER is the one place where the order stands: a room imports rooms of earlier rows only, and no file takes part in a circle.
tests/unit/rooms checks it; `python tests/rooms.py` prints the picture that docs/architecture.md shows.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LIBRARY = TOP / "plugins" / "module_utils"
PACKAGE = "ansible_collections.bridgewarden.docker.plugins.module_utils"

#: From the bottom up. A room is a folder of LIBRARY, or a file that stands by itself.
ORDER: tuple[tuple[str, ...], ...] = (
    ("_types",),
    ("_errors",),
    ("_system", "_abi", "_facts", "_policy"),
    ("_netlink", "_ansible"),
    ("_ruleset",),
    ("_kernel", "_docker"),
    ("_host",),
    ("_commit",),
    ("_agent", "_trace", "_compliance"),
    ("_cli",),
)

#: What each room is for, in the picture.
PURPOSE = {
    "_types": "types that all share",
    "_errors": "errors: problem, location, hint",
    "_system": "run a command, read a file",
    "_abi": "numbers of kmod/uapi/bridgewarden.h",
    "_facts": "how to read the container facts",
    "_policy": "the policy language",
    "_ansible": "what modules share towards Ansible",
    "_netlink": "the wire",
    "_ruleset": "policy + facts -> ruleset (pure)",
    "_kernel": "the kernel module",
    "_docker": "dockerd",
    "_host": "this machine",
    "_commit": "plan, apply, confirm",
    "_agent": "keeps the kernel in step",
    "_trace": "a packet's path",
    "_compliance": "controls and findings",
    "_cli": "the command",
}


def files(library: Path = LIBRARY) -> dict[str, Path]:
    """Each file of the library by its dotted name: `_host.store`."""
    return {
        ".".join(path.relative_to(library).with_suffix("").parts): path
        for path in sorted(library.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """The files of the library that this one imports, inside functions and for types alone, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGE):
            base = str(node.module)[len(PACKAGE) :].lstrip(".")
            for alias in node.names:
                name = f"{base}.{alias.name}".lstrip(".")
                found.add(name if name in known else base)
    return found


def graph(library: Path = LIBRARY) -> dict[str, set[str]]:
    known = files(library)
    return {name: imports(path, known) for name, path in known.items()}


def room(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def against_the_order(edges: dict[str, set[str]]) -> list[str]:
    """Imports that run upwards or sideways, and files of no room in ORDER."""
    row = {name: number for number, names in enumerate(ORDER) for name in names}
    found = [f"{name} is in no room of ORDER" for name in edges if room(name) not in row]
    for name, targets in edges.items():
        for target in sorted(targets):
            if room(name) not in row or room(name) == room(target):
                continue
            if room(target) not in row or row[room(target)] >= row[room(name)]:
                found.append(f"{name} imports {target}")
    return found


def circle(edges: dict[str, set[str]]) -> list[str]:
    """One circle of files, its first file repeated at the end; none: []."""
    state: dict[str, bool] = {}
    way: list[str] = []

    def visit(name: str) -> list[str]:
        if name in state:
            return [] if state[name] else [*way[way.index(name) :], name]
        state[name] = False
        way.append(name)
        for target in sorted(edges.get(name, ())):
            if found := visit(target):
                return found
        way.pop()
        state[name] = True
        return []

    for name in sorted(edges):
        if found := visit(name):
            return found
    return []


def picture() -> str:
    """The rows from the top down, as docs/architecture.md shows them."""
    lines = ["```"]
    for names in reversed(ORDER):
        lines.append("   ".join(f"{name.ljust(11)} {PURPOSE[name]}" for name in names[:1]))
        lines.extend(f"{name.ljust(11)} {PURPOSE[name]}" for name in names[1:])
        lines.append("")
    lines[-1] = "```"
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(picture())
