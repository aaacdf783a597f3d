"""`prune`: removes from the cache what no target of this checkout's recipe leads to any more.

A folder that appears on the command line of a running process (another checkout's machine, say) stays.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import accelerator, flavour, image, targets, template
from lab.paths import cache
from lab.progress import say

_KINDS = ("bases", "images", "kernels", "templates")


def prune() -> None:
    """Remove every superseded folder that is not in use."""
    wanted, used = _current(), _command_lines()
    for folder in sorted(path for kind in _KINDS for path in (cache() / kind).glob("*")):
        if folder in wanted:
            continue
        if str(folder) in used:
            say(f"{folder}: superseded, but in use")
            continue
        shutil.rmtree(folder)
        say(f"{folder}: removed")


def _current() -> set[Path]:
    wanted = set()
    for target in targets.all_targets().values():
        base, built = image.locate(target)
        wanted |= {base, built.folder}
        if built.folder.exists():
            wanted.add(template.locate(target, built, accelerator.choose(built)))
    wanted |= {flavour.locate(kernel) for kernel in targets.all_kernels().values()}
    return wanted


def _command_lines() -> str:
    """The arguments of every process, as one text."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_text(errors="replace"))
        except OSError:  # it ended meanwhile
            continue
    return "\n".join(lines)
