# SPDX-License-Identifier: GPL-3.0-or-later
"""`make stress`: the module and its scripts under a kernel that watches itself, into build/stress/summary.json.

--kernel debug is that kernel (lab/debugkernel.py); --kernel stock is that of --target's image, for the scripts themselves; others are those
of lab/targets.yml (`--kernel trixie-rt floods`). Any report of the kernel's checkers and any check that failed fails the run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from lab import debugkernel, targets
from lab.paths import CHECKOUT
from lab.progress import say
from stress import diskless

OUT = CHECKOUT / "build" / "stress"
#: RCU's callbacks in threads ahead of everybody else's: kmemleak makes one of every allocation, and traffic on an emulated processor
#: would leave no time for them.
RCU = "rcutree.use_softirq=0 rcutree.kthread_prio=10"
OPTIONS = (
    "KASAN", "KASAN_VMALLOC", "PROVE_LOCKING", "PROVE_RCU", "DEBUG_KMEMLEAK", "DEBUG_ATOMIC_SLEEP", "DEBUG_OBJECTS_RCU_HEAD",
    "DEBUG_OBJECTS_WORK", "DEBUG_LIST", "FAILSLAB", "FAIL_PAGE_ALLOC", "PREEMPT", "SMP",
)  # fmt: skip


def plan(seconds: int, only: list[str], debug: bool, rt: bool = False) -> dict[str, Any]:
    """What runs before the stress is bounded by itself; the limit is for what hangs."""
    steps: list[dict[str, Any]] = [
        {"script": "packets.py", "arguments": []},
        {"script": "inside.py", "arguments": []},
        {"script": "bareports.py", "arguments": []},
        {"script": "neighbours.py", "arguments": []},
        {"script": "routed.py", "arguments": []},
        {"script": "unmanaged.py", "arguments": []},
        {"script": "links.py", "arguments": []},
        {"script": "pickedup.py", "arguments": []},
        {"script": "crossings.py", "arguments": []},
        {"script": "audit.py", "arguments": []},
        {"script": "loading.py", "arguments": []},
        {"script": "contexts.py", "arguments": []},
        {"script": "traces.py", "arguments": []},
        {"script": "fuzz_netlink.py", "arguments": ["--seconds", "60"]},
        *([{"script": "failures.py", "arguments": []}] if debug else []),
        *([{"script": "floods.py", "arguments": ["--seconds", str(seconds)]}] if rt else []),
        {"script": "memory.py", "arguments": []},
        {"script": "stress.py", "arguments": ["KO", str(seconds)]},
    ]
    steps = [one for one in steps if not only or one["script"].removesuffix(".py") in only]
    for one in steps:
        one["limit"] = seconds + 900 if one["script"] in ("stress.py", "floods.py") else 3600
    environment = {"BW_WAIT": "4", "BW_SWAPS": "20", "BW_STRESS": "30"}
    return {"steps": steps, "environment": environment, "modules": [] if debug else diskless.MODULES}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=int,
        default=1200,
        help="of the stress itself; the scripts before it take their own time",
    )
    parser.add_argument("--kernel", choices=("debug", "stock", *targets.all_kernels()), default="debug")
    parser.add_argument(
        "--target", default=debugkernel.TARGET, help="whose kernel, with --kernel stock (lab/targets.yml)"
    )
    parser.add_argument(
        "--no-kmemleak",
        action="store_true",
        help="switch that checker off: every allocation costs it a callback of RCU, more than an emulated processor can run under load",
    )
    parser.add_argument(
        "--one-thread",
        action="store_true",
        help="both emulated processors share a thread: the emulator, not the kernel, dies of code that is patched while another runs it",
    )
    parser.add_argument("--no-build", action="store_true", help="use the module of the last build")
    parser.add_argument("only", nargs="*", help="scripts of kmod/tests without .py; default: all")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    if args.kernel == "debug":
        kernel = diskless.debug()
    else:
        kernel = diskless.stock(args.target if args.kernel == "stock" else args.kernel)
    made = plan(args.seconds, args.only, args.kernel == "debug", "PREEMPT_RT" in kernel.options)
    if absent := set(args.only) - {one["script"].removesuffix(".py") for one in made["steps"]}:
        parser.error(f"no such script on this kernel: {', '.join(sorted(absent))}")
    if not args.no_build:
        kernel.build()
    with (OUT / "console.log").open("w") as log:
        more = f"{RCU} kmemleak=off" if args.no_kmemleak else RCU
        records = diskless.run(kernel, made, log, parallel=not args.one_thread, more=more)
    done, reports = diskless.scripts(records), diskless.reports(records)
    options = kernel.options - ({"DEBUG_KMEMLEAK"} if args.no_kmemleak else set())
    summary = {
        "seconds": round(time.monotonic() - began),
        "stress seconds": args.seconds if any("stress.py" in one["script"] for one in done) else 0,
        "kernel": {
            "version": kernel.version,
            "release": kernel.modules.name,
            "options": [option for option in OPTIONS if option in options],
        },
        "scripts": [
            {key: value for key, value in one.items() if key not in ("phase", "reports", "checks")}
            for one in done
        ],
        "reports": reports,
        "complete": diskless.complete(records),
    }
    (OUT / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    failed = [one["script"] for one in done if one["status"] or one["not ok"]]
    say(
        f"{len(reports)} reports of the kernel; scripts that failed: {', '.join(failed) or 'none'}; {OUT}/summary.json"
    )
    for report in reports[:3]:
        say(report)
    if reports or failed or not summary["complete"]:
        if not summary["complete"]:
            say(f"the machine ended early; its last words are in {OUT}/console.log")
        sys.exit(1)


if __name__ == "__main__":
    main()
