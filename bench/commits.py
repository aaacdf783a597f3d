# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.commits`: what a commit costs on this computer itself, in milliseconds of processor time: from Python, resolving and
compiling the policy excluded, with what would be sent recorded; and the kernel's checking and building, the module's own source compiled as
a program. `make bench` counts the same in instructions of a real kernel. Leaves build/bench/native.json.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import time
from typing import Any

from ansible_collections.bridgewarden.docker.plugins.module_utils._abi import STRUCTS, Cmd
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset

from bench import rulesets
from bench.__main__ import OUT, TOP

TURNS = 7
BUILD = TOP / "build" / "kmod-tests"


class Recorded(Kernel):
    """Encodes everything and sends nothing."""

    def open(self) -> None:
        self.sent = 0

    def _request(self, cmd: Cmd, attrs: Any, doing: str) -> list[Any]:
        self.sent += sum(len(data) + 4 for _attr, data in attrs)
        return []

    def info(self) -> Info:
        return Info("0", 1, "enforce", {}, "", "", 0, (), (), {}, 1, 1)


def from_python(endpoints: int) -> tuple[float, int]:
    took, sent = [], 0
    for _ in range(TURNS):
        ruleset = rulesets.ruleset(endpoints // 2)  # both families
        began = time.process_time()
        kernel = Recorded()
        with kernel:
            kernel.commit(ruleset, 0)
        sent = kernel.sent
        took.append((time.process_time() - began) * 1000)
    return statistics.median(took), sent


def packed(ruleset: Ruleset) -> bytes:
    sections = dict(ruleset.to_sections())
    return b"".join(
        struct.pack("=I", len(sections.get(attr, b"")) // struct.calcsize(layout)) + sections.get(attr, b"")
        for attr, layout in STRUCTS.items()
    )


def in_kernel(endpoints: int) -> float:
    subprocess.run(
        ["make", "-s", "-C", str(TOP / "kmod/tests"), f"BUILD={BUILD}", str(BUILD / "build")], check=True
    )
    done = subprocess.run(
        [str(BUILD / "build"), str(TURNS)],
        input=packed(rulesets.ruleset(endpoints // 2)),
        stdout=subprocess.PIPE,
        check=True,
    )
    return statistics.median(map(float, done.stdout.split()))


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    rows = []
    for endpoints in (1_000, 10_000, 100_000):
        python, sent = from_python(endpoints)
        kernel = in_kernel(endpoints)
        rows.append(
            {
                "endpoints": endpoints,
                "python_ms": round(python, 1),
                "kernel_ms": round(kernel, 1),
                "bytes": sent,
            }
        )
        print(
            f"{endpoints:7} endpoints: {python:7.1f} ms from Python, {kernel:6.1f} ms to check and build, {sent} bytes"
        )
    (OUT / "native.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
