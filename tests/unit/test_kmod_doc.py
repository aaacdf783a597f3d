# SPDX-License-Identifier: GPL-3.0-or-later
"""tests/tools/kmod_doc.py: a function without its context is found, wherever it stands in a header."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tests" / "tools" / "kmod_doc.py"
DOCUMENTED = """/*
 * Adds one.
 *
 * Context: any.
 */
BW_API int bw_one(int a);
BW_API const char *bw_two(const struct bw_x *x,
                          u32 i);
"""


def run(folder: Path, header: str) -> subprocess.CompletedProcess[str]:
    (folder / "x.h").write_text(header)
    return subprocess.run(
        [sys.executable, str(TOOL), str(folder)], capture_output=True, text=True, check=False
    )


def test_what_is_documented_passes(tmp_path: Path) -> None:
    found = run(tmp_path, DOCUMENTED)
    assert (found.returncode, found.stdout) == (
        0,
        "kmod: 2 functions between files, each states its context\n",
    )


@pytest.mark.parametrize(
    "more", ["BW_API void bw_bare(void);\n", "/* Frees it. */\nBW_API void bw_bare(void);\n"]
)
def test_what_is_not_is_named(tmp_path: Path, more: str) -> None:
    found = run(tmp_path, DOCUMENTED + "\n" + more)
    assert (found.returncode, found.stdout) == (1, "x.h: bw_bare() does not state its context\n")


def test_objects_and_inline_functions_are_none_of_its_business(tmp_path: Path) -> None:
    assert (
        run(
            tmp_path, DOCUMENTED + "\nBW_API u32 bw_epoch;\n\nstatic inline int bw_in(void)\n{\n}\n"
        ).returncode
        == 0
    )
