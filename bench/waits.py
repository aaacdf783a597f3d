# SPDX-License-Identifier: GPL-3.0-or-later
"""`python -m bench.waits [TARGET]`: how long others' netlink requests wait while 100,000 endpoints are committed over and over.

kmod/tests/waits.py in a machine with two CPUs and no disk, under the kernel of the target's image. Leaves build/bench/waits.json. The two
columns are commits that the kernel builds and then refuses, which cost the same processor time, and commits.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bench.__main__ import OUT
from lab.errors import LabError
from lab.progress import say
from stress import diskless

LIMIT = 1200


def show(found: dict[str, Any]) -> None:
    say(
        f"Linux {found['kernel']}, {found['commits']} commits of {found['endpoints']} endpoints:"
        f" {found['commit_ms']['refused']} ms refused, {found['commit_ms']['committed']} ms committed"
    )
    say(f"{'milliseconds':28} {'':9} {'requests':>8} {'p50':>9} {'p99':>9} {'longest':>9}")
    for name, row in found["waits"].items():
        for kind in ("refused", "committed"):
            one = row[kind]
            say(
                f"{name:28} {kind:9} {one['requests']:8} {one['p50_ms']:9.3f} {one['p99_ms']:9.3f} {one['longest_ms']:9.3f}"
            )
        say(f"{name:28} p99 ratio {row['p99_ratio']}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.waits", description=__doc__)
    parser.add_argument("--commits", type=int, default=100)
    parser.add_argument("--endpoints", type=int, default=100_000)
    parser.add_argument("--no-build", action="store_true", help="use the module of the last build")
    parser.add_argument("target", nargs="?", default="trixie")
    args = parser.parse_args()
    kernel = diskless.stock(args.target)
    if not args.no_build:
        kernel.build()
    OUT.mkdir(parents=True, exist_ok=True)
    step = {
        "script": "waits.py",
        "arguments": [str(args.commits), str(args.endpoints)],
        "limit": LIMIT,
    }
    plan = {"steps": [step], "environment": {}, "modules": diskless.MODULES}
    with (OUT / "waits.console").open("w", encoding="utf-8") as log:
        records = diskless.run(kernel, plan, log, parallel=True)
    found = [one for one in diskless.scripts(records) if "operations" in one]
    if not found:
        say(f"it ended early, see {log.name}")
        return 1
    (OUT / "waits.json").write_text(json.dumps(found[0]["operations"], indent=1) + "\n", encoding="utf-8")
    show(found[0]["operations"])
    return int(bool(found[0]["status"] or diskless.reports(records)))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        say(str(error))
        sys.exit(error.exit_code)
