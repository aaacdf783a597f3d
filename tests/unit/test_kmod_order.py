"""The check of the kernel module's file order, on made-up folders and on the module itself."""

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]

BUILD = """/* Base: comes first. */
#include "low.h"
#include "middle.c"

/* Rest. */
#include "high.c"
"""
FILES = {
    "build.c": BUILD,
    "low.h": "#define BW_LOW\t1\nenum bw_kind {\n\tBW_KIND_A,\n\tBW_KIND_B = BW_LOW,\n};\n",
    "middle.h": '#include "low.h"\nBW_API int bw_middle(enum bw_kind kind);\n',
    "middle.c": '#include "middle.h"\n\nint bw_middle(enum bw_kind kind)\n{\n\treturn kind == BW_KIND_B;\n}\n',
    "high.c": '#include "middle.h"\n\nstatic int bw_state;\n\n/* bw_nothing() */\nint bw_high(void)\n{\n'
    "\tbw_state = bw_middle(BW_KIND_A);\n\treturn 0;\n}\n",
}
DOCUMENT = "| file | holds |\n|---|---|\n| **Base** | |\n| `low.h` | a |\n| `middle.[ch]` | b |\n| **Rest** | |\n| `high.c` | c |\n\n"


def check(*arguments: object) -> tuple[int, str]:
    command = [sys.executable, str(TOP / "tests/tools/kmod_order.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout


def folder(path: Path, **changed: str) -> Path:
    for name, text in (FILES | {name.replace("_", "."): text for name, text in changed.items()}).items():
        (path / name).write_text(text)
    return path


def test_a_folder_without_a_circle_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "kernel.md").write_text(DOCUMENT)
    assert check(folder(tmp_path), tmp_path / "kernel.md") == (
        0,
        f"{tmp_path.name}: 3 files, none depends on one below it\n",
    )


@pytest.mark.parametrize(
    "use",
    [
        "int bw_middle(enum bw_kind kind)\n{\n\treturn bw_high();\n}\n",  # a function
        "int bw_middle(enum bw_kind kind)\n{\n\treturn bw_state;\n}\n",  # what is static in another file
        '#include "middle.h"\n#include "high.h"\n',
    ],
)
def test_a_circle_is_refused_and_named(tmp_path: Path, use: str) -> None:
    status, output = check(folder(tmp_path, middle_c=use, high_h="/* nothing */\n"))
    symbol = next(name for name in ('#include "high.h"', "bw_high", "bw_state") if name in use)
    assert status == 1
    assert output == (
        f"middle depends on high, which is below it in build.c: {symbol}\n"
        f"  a circle: middle -> high ({symbol}), high -> middle (bw_middle)\n"
    )


def test_a_longer_circle_is_followed_to_its_end(tmp_path: Path) -> None:
    status, output = check(folder(tmp_path, low_h=FILES["low.h"] + "#define BW_LATE\tbw_high()\n"))
    assert status == 1
    assert "low -> high (bw_high), high -> low (BW_KIND_A)" in output


def test_a_dependency_downwards_is_refused_without_a_circle(tmp_path: Path) -> None:
    build = BUILD.replace('#include "low.h"\n', "") + '#include "low.h"\n'
    status, output = check(folder(tmp_path, build_c=build))
    assert status == 1
    assert "middle depends on low, which is below it in build.c: " in output
    assert "circle" not in output


def test_a_file_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    assert check(folder(tmp_path, more_c="")) == (1, "more.c: is not in build.c\n")


def test_the_documents_table_is_the_list(tmp_path: Path) -> None:
    (tmp_path / "kernel.md").write_text(DOCUMENT.replace("middle", "medium"))
    status, output = check(folder(tmp_path), tmp_path / "kernel.md")
    assert status == 1
    assert "('Base', 'medium') <> ('Base', 'middle')" in output


def test_the_module() -> None:
    status, output = check()
    assert status == 0, output
