# SPDX-License-Identifier: GPL-3.0-or-later
"""The library's rooms: imports run downwards only, no circle of files, and the documentation shows the order that is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import rooms


def test_the_library_keeps_the_order() -> None:
    edges = rooms.graph()
    assert len(edges) > 50
    assert rooms.against_the_order(edges) == []
    assert rooms.circle(edges) == []


def test_every_room_is_there() -> None:
    there = {rooms.room(name) for name in rooms.files()}
    assert there == {name for names in rooms.ORDER for name in names} == set(rooms.PURPOSE)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A store below a commit below an agent, as they should be."""
    for name, target in (
        ("_host/store", ""),
        ("_commit/apply", "_host.store"),
        ("_agent/daemon", "_commit.apply"),
    ):
        write(tmp_path, name, target)
    assert rooms.against_the_order(rooms.graph(tmp_path)) == []
    return tmp_path


def write(library: Path, name: str, target: str, indent: str = "") -> None:
    path = library / f"{name}.py"
    path.parent.mkdir(exist_ok=True)
    lines = ["import os"] + ["def later():"] * bool(indent)
    path.write_text("\n".join(lines) + f"\n{indent}from {rooms.PACKAGE}.{target} import x\n" * bool(target))


@pytest.mark.parametrize("indent", ["", "    "])
def test_an_import_upwards_is_refused(library: Path, indent: str) -> None:
    write(library, "_host/store", "_agent.daemon", indent)
    assert rooms.against_the_order(rooms.graph(library)) == ["_host.store imports _agent.daemon"]


def test_an_import_of_a_whole_file_counts(library: Path) -> None:
    (library / "_host/store.py").write_text(f"from {rooms.PACKAGE}._commit import apply\n")
    assert rooms.against_the_order(rooms.graph(library)) == ["_host.store imports _commit.apply"]


def test_a_neighbour_is_refused(library: Path) -> None:
    write(library, "_trace/session", "_agent.daemon")
    assert rooms.against_the_order(rooms.graph(library)) == ["_trace.session imports _agent.daemon"]


def test_a_file_of_no_room_is_refused(library: Path) -> None:
    write(library, "_helpers", "")
    assert rooms.against_the_order(rooms.graph(library)) == ["_helpers is in no room of ORDER"]


def test_a_circle_within_a_room_is_found(library: Path) -> None:
    write(library, "_host/store", "_host.dkms")
    write(library, "_host/dkms", "_host.store")
    assert rooms.circle(rooms.graph(library)) == ["_host.store", "_host.dkms", "_host.store"]


def test_every_name_is_there_once(library: Path) -> None:
    assert rooms.named_twice() == []
    for name in ("_host/store", "_agent/daemon"):
        with (library / f"{name}.py").open("a") as file:
            file.write("\nLIMIT = 1\n\ndef _own() -> None: ...\n")
    assert rooms.named_twice(library) == ["LIMIT: _agent.daemon, _host.store"]


def test_the_documentation_shows_the_order() -> None:
    assert rooms.picture() in (rooms.TOP / "docs/architecture.md").read_text(encoding="utf-8")
