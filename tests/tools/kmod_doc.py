#!/usr/bin/env python3
"""Checks that each function that another file of the kernel module calls states its context.

A function declared BW_API in a header of kmod/ must have a comment above it, with nothing but other declarations in between, that
says "Context:". Usage: kmod_doc.py [FOLDER], by default kmod.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
FUNCTION = re.compile(r"^BW_API\s[^;]*?\b(bw_\w+)\s*\([^;]*;", re.M)


def undocumented(header: str) -> list[str]:
    """The functions whose block of lines, up to the blank line above, has no context. Blank lines within a comment do not count."""
    flat = re.sub(r"/\*.*?\*/", lambda found: re.sub(r"\n[ \t*]*\n", "\n", found.group()), header, flags=re.S)
    return [
        name
        for block in re.split(r"\n[ \t]*\n", flat)
        if not re.search(r"\bContext:\s", block)
        for name in FUNCTION.findall(block)
    ]


def main() -> int:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else TOP / "kmod"
    wrong, functions = 0, 0
    for path in sorted(folder.glob("*.h")):
        text = path.read_text()
        functions += len(FUNCTION.findall(text))
        for name in undocumented(text):
            print(f"{path.name}: {name}() does not state its context")
            wrong += 1
    if not wrong:
        print(f"kmod: {functions} functions between files, each states its context")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
