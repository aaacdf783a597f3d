# SPDX-License-Identifier: GPL-3.0-or-later
"""Inside the machine, in place of an init system: the scripts of kmod/tests once, the stress, and what the kernel says to them.

Writes lines that begin with STRESS and go on in JSON; everything else on the console is what it was made from.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
KO = str(HERE / "bridgewarden.ko")
#: A report of a checker of the kernel. One is taken from its first line to the end of its stack.
REPORT = re.compile(
    r"BUG: |WARNING: |Oops|general protection|INFO: (task|rcu|trying to register)|possible (recursive|circular|irq)|"
    r"suspicious RCU|kmemleak: [1-9]|ODEBUG|unregister_netdevice: waiting|refcount_t|leaked reference|"
    r"detected stalls|kmemleak: .*disabled|locking correctness validator"
)
#: What the kernel says against itself where loading.py refuses its own allocation for a module's trace events: kernel/trace/trace_events.c.
PROVOKED = re.compile(r"WARNING: .* event_define_fields\+")
#: A line of TAP.
CHECK = re.compile(r"(not )?ok \d+ - (.*)")
KMEMLEAK = Path("/sys/kernel/debug/kmemleak")
#: Not wanted this time, see --no-kmemleak.
WITHOUT_KMEMLEAK = (
    "kmemleak=off" in Path("/proc/cmdline").read_text() if Path("/proc/cmdline").exists() else False
)


def is_report(line: str) -> bool:
    return bool(REPORT.search(line) and not PROVOKED.search(line))


def tell(**record: Any) -> None:
    print("STRESS " + json.dumps(record), flush=True)


class Log:
    """What the kernel has said since the last look."""

    def __init__(self) -> None:
        self.fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)

    def reports(self) -> list[str]:
        lines: list[str] = []
        while True:
            try:
                text = os.read(self.fd, 8192).decode(errors="replace")
            except BlockingIOError:
                break
            except BrokenPipeError:
                lines.append("BUG: the kernel log overran its buffer")
                continue
            lines.append(text.partition(";")[2].splitlines()[0])
        found = [
            i
            for i, line in enumerate(lines)
            if is_report(line) and not (WITHOUT_KMEMLEAK and "leak detector disabled" in line)
        ]
        return ["\n".join(lines[i : i + 40]) for i in found]


def leaks() -> list[str]:
    """Two scans, because the first may still meet what is about to be freed or is only in a register."""
    if WITHOUT_KMEMLEAK or not KMEMLEAK.exists():
        return []
    for _ in range(2):
        KMEMLEAK.write_text("scan")
        time.sleep(6)
    found = KMEMLEAK.read_text(errors="replace")
    KMEMLEAK.write_text("clear")
    return ["kmemleak: " + one for one in found.split("unreferenced object ")[1:]]


def blind() -> list[str]:
    """Lockdep stops for good at its first report, and where it runs out of room."""
    stats = Path("/proc/lockdep_stats")
    if not stats.exists() or re.search(r"debug_locks:\s+1", stats.read_text()):
        return []
    return ["lockdep has stopped watching"]


def module(*words: str, absent: bool = False) -> None:
    subprocess.run([*words], check=not absent, stderr=subprocess.DEVNULL if absent else None)


def script(name: str, arguments: list[str], environment: dict[str, str], limit: float) -> dict[str, Any]:
    """One script, with the module fresh. Its output is TAP, with "# test_..." before each group, and "# no ..." for what it leaves out."""
    module("rmmod", "bridgewarden", absent=True)
    module("insmod", KO)
    began = time.monotonic()
    checks: list[tuple[str, str, bool]] = []
    left_out: list[str] = []
    times: dict[str, float] = {}
    group, since = "", began
    last = ""
    with subprocess.Popen(
        [sys.executable, "-u", str(HERE / name), *arguments],
        env={**os.environ, "BW_KO": KO, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdout
        late = threading.Timer(limit, os.killpg, (process.pid, signal.SIGKILL))
        late.start()
        for line in process.stdout:
            print(line, end="", flush=True)
            if found := CHECK.match(line):
                checks.append((group, found.group(2), not found.group(1)))
            elif line.startswith("# no "):
                left_out.append(line[2:].strip())
            elif line.startswith("# test_"):
                group, since = line[2:].strip(), time.monotonic()
            times[group] = round(time.monotonic() - since, 1)
            last = line if line.startswith("{") else last
        process.wait()
        late.cancel()
    return {
        "script": " ".join([name, *arguments]),
        "status": process.returncode,
        "ok": sum(good for *_, good in checks),
        "not ok": sum(not good for *_, good in checks),
        "checks": checks,
        "left out": left_out,
        "groups": times,
        "seconds": round(time.monotonic() - began, 1),
        **({"operations": json.loads(last)} if last else {}),
    }


def main() -> None:
    plan = json.loads((HERE / "plan.json").read_text())
    for words in (
        "mount -t debugfs debugfs /sys/kernel/debug", "mount -t tracefs tracefs /sys/kernel/tracing",
        "ip link set lo up", *(["modprobe -qa " + " ".join(plan["modules"])] if plan["modules"] else []),
    ):  # fmt: skip
        subprocess.run(words.split(), check=False)
    log = Log()
    tell(phase="boot", kernel=os.uname().release, version=os.uname().version, reports=log.reports())
    leaks()
    for step in plan["steps"]:
        arguments = [word.replace("KO", KO) for word in step["arguments"]]
        found = script(step["script"], arguments, plan["environment"], step["limit"])
        module("rmmod", "bridgewarden", absent=True)
        leaked = leaks()
        tell(phase="script", **found, reports=[*log.reports(), *leaked, *blind()])
    tell(phase="done")


if __name__ == "__main__":
    try:
        main()
    except BaseException as error:
        tell(phase="error", error=repr(error), where=traceback.format_exc()[-1500:])
    termios.tcdrain(sys.stdout.fileno())  # the end takes with it what the console has not sent yet
    Path("/proc/sysrq-trigger").write_text("b")
    time.sleep(60)
