# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of an unpacked root, whose absolute links begin at that root and not at this machine's."""

from __future__ import annotations

from pathlib import Path

from lab import ramroot


def test_links_stay_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/ld-2.31.so").write_text("the loader")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/ld.so").symlink_to("/lib/ld.so.2")
    (tmp_path / "usr/lib/ld.so.2").symlink_to("ld-2.31.so")
    assert ramroot._real(tmp_path, "lib64/ld.so").read_text() == "the loader"


def test_python_of_any_version(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3").mkdir(parents=True)
    (tmp_path / "usr/lib/python3.9").mkdir()
    assert ramroot._library(tmp_path) == Path("usr/lib/python3.9")
