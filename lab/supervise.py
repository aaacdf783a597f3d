"""`python3 -m lab.supervise FOLDER`: the parent of one machine's QEMU, from its start to its end.

It exists so that a dead machine is known at once: it sees QEMU exit, and it reads the serial console for a
kernel panic, after which it ends QEMU (open SSH sessions then break instead of hanging). Either way it
writes down the reason. SIGTERM means the machine is no longer wanted: QEMU ends, and no death is recorded.
"""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from lab.machine import COMMAND, CONSOLE, DEATH, PID, panic_line

_TICK = 0.3
_LAST_WORDS = 1.5  # what a panicking kernel still prints
_PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """For subprocess's preexec_fn: whatever ends this process ends that one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end(qemu: subprocess.Popen[bytes]) -> None:
    qemu.terminate()
    try:
        qemu.wait(10)
    except subprocess.TimeoutExpired:
        qemu.kill()
        qemu.wait()


def _watch(qemu: subprocess.Popen[bytes], console: Path) -> str:
    """Return why the machine died, once it did."""
    seen = 0
    while True:
        try:
            status = qemu.wait(_TICK)
            return "the guest powered itself off" if status == 0 else f"QEMU ended with status {status}"
        except subprocess.TimeoutExpired:
            pass
        size = console.stat().st_size if console.exists() else 0
        if size == seen:
            continue
        with console.open("rb") as handle:
            handle.seek(max(0, seen - 200))  # a line may have been cut in two
            news = handle.read().decode(errors="replace")
        seen = size
        if line := panic_line(news):
            time.sleep(_LAST_WORDS)
            return line


def _record(folder: Path, why: str) -> None:
    scratch = folder / (DEATH + ".new")
    scratch.write_text(why, encoding="utf-8")
    scratch.rename(folder / DEATH)


def main(folder: Path) -> None:
    command = json.loads((folder / COMMAND).read_text(encoding="utf-8"))
    with (folder / "qemu.log").open("wb") as log:
        qemu = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent, cwd=folder
        )

    def unwanted(signum: int, frame: FrameType | None) -> None:
        _end(qemu)
        sys.exit(0)

    signal.signal(signal.SIGTERM, unwanted)
    (folder / PID).write_text(str(qemu.pid), encoding="ascii")
    why = _watch(qemu, folder / CONSOLE)
    _record(folder, why)  # before connections break, so that whoever they break under finds the reason
    _end(qemu)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
