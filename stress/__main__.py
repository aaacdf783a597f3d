# SPDX-License-Identifier: GPL-3.0-or-later
"""`make stress`: the module and its scripts under a kernel that watches itself, into build/stress/summary.json.

--kernel debug is that kernel (lab/debugkernel.py); --kernel stock is the image's own, for the scripts themselves. Any report of the
kernel's checkers and any check that failed fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

from lab import accelerator, debugkernel, image, initrd, ramroot, serial, targets
from lab.paths import CHECKOUT
from lab.progress import say, step

HERE = Path(__file__).resolve().parent
OUT = CHECKOUT / "build" / "stress"
SCRIPTS = CHECKOUT / "kmod" / "tests"
#: What a kernel with modules has to load; in the debug kernel all of it is built in.
MODULES = (
    "br_netfilter", "nf_conntrack", "nf_reject_ipv4", "nf_reject_ipv6", "nfnetlink_log", "nfnetlink_queue", "nf_conntrack_ftp",
    "veth", "macvlan", "ipvlan", "nf_tables", "nft_chain_nat", "nft_ct", "nft_flow_offload", "nf_flow_table_inet",
    "vxlan", "ipip",
)  # fmt: skip
#: RCU's callbacks in threads ahead of everybody else's: kmemleak makes one of every allocation, and traffic on an emulated processor
#: would leave no time for them.
COMMAND_LINE = (
    "console=ttyS0 oops=panic loglevel=5 mitigations=off rdinit=/init panic=-1 no_timer_check nokaslr random.trust_cpu=on"
    " rcutree.use_softirq=0 rcutree.kthread_prio=10"
)
OPTIONS = (
    "KASAN", "KASAN_VMALLOC", "PROVE_LOCKING", "PROVE_RCU", "DEBUG_KMEMLEAK", "DEBUG_ATOMIC_SLEEP", "DEBUG_OBJECTS_RCU_HEAD",
    "DEBUG_OBJECTS_WORK", "DEBUG_LIST", "FAILSLAB", "FAIL_PAGE_ALLOC", "PREEMPT", "SMP",
)  # fmt: skip


def plan(seconds: int, only: list[str], debug: bool) -> dict[str, Any]:
    """What runs before the stress is bounded by itself; the limit is for what hangs."""
    steps: list[dict[str, Any]] = [
        {"script": "packets.py", "arguments": []},
        {"script": "inside.py", "arguments": []},
        {"script": "bareports.py", "arguments": []},
        {"script": "loading.py", "arguments": []},
        {"script": "contexts.py", "arguments": []},
        {"script": "traces.py", "arguments": []},
        {"script": "fuzz_netlink.py", "arguments": ["--seconds", "60"]},
        *([{"script": "failures.py", "arguments": []}] if debug else []),
        {"script": "memory.py", "arguments": []},
        {"script": "stress.py", "arguments": ["KO", str(seconds)]},
    ]
    steps = [one for one in steps if not only or one["script"].removesuffix(".py") in only]
    for one in steps:
        one["limit"] = seconds + 900 if one["script"] == "stress.py" else 3600
    environment = {"BW_WAIT": "4", "BW_SWAPS": "20", "BW_STRESS": "30"}
    return {"steps": steps, "environment": environment, "modules": [] if debug else MODULES}


def boot(kernel: Path, ramdisk: Path, accel: list[str], log: TextIO, more: str = "") -> list[dict[str, Any]]:
    command = [
        "qemu-system-x86_64", "-name", "bridgewarden-stress", *accel, "-smp", "2,sockets=2", "-m", "2560", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel), "-initrd", str(ramdisk),
        "-append", COMMAND_LINE + more,
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    with contextlib.closing(serial.records(command, "STRESS", log)) as found:
        for record in found:
            records.append(record)
            tell(record)
            if record["phase"] in ("done", "error"):
                break
    return records


def tell(record: dict[str, Any]) -> None:
    if record["phase"] == "script":
        said = f"{record['script']}: {record['ok']} ok, {record['not ok']} not ok, {record['seconds']} s, {len(record['reports'])} reports"
        say(said)
    elif record["phase"] == "error":
        say(f"the machine gave up: {record['error']}\n{record['where']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stress", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=int,
        default=1200,
        help="of the stress itself; the scripts before it take their own time",
    )
    parser.add_argument("--kernel", choices=("debug", "stock"), default="debug")
    parser.add_argument(
        "--no-kmemleak",
        action="store_true",
        help="switch that checker off: every allocation costs it a callback of RCU, more than an emulated processor can run under load",
    )
    parser.add_argument("--no-build", action="store_true", help="use the module of the last build")
    parser.add_argument("only", nargs="*", help="scripts of kmod/tests without .py; default: all")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    base = image.ensure(targets.find(debugkernel.TARGET))
    build = [str(CHECKOUT / "tests/tools/kmod-build.sh")]
    if args.kernel == "debug":
        found = debugkernel.ensure()
        kernel, release, modules, version = found.kernel, found.modules.name, found.modules, found.version
        config = found.config.read_text(encoding="ascii").splitlines()
        build += ["--tree", str(found.tree)]
        ko = CHECKOUT / "build/kmod/debug/bridgewarden.ko"
    else:
        kernel, release = base.kernel, initrd.kernel_release(base.root)
        modules, version = base.root / "lib/modules" / release, release
        config = (base.root / "boot" / f"config-{release}").read_text(encoding="ascii").splitlines()
        ko = CHECKOUT / "build/kmod" / debugkernel.TARGET / "bridgewarden.ko"
    if not args.no_build:
        with step("building the module"):
            subprocess.run([*build, debugkernel.TARGET], check=True)
    made = plan(args.seconds, args.only, args.kernel == "debug")
    with tempfile.TemporaryDirectory(prefix="bw-stress-") as scratch, (OUT / "console.log").open("w") as log:
        (Path(scratch) / "plan.json").write_text(json.dumps(made), encoding="utf-8")
        job = {"main.py": HERE / "guest.py", "plan.json": Path(scratch) / "plan.json", "bridgewarden.ko": ko}
        job.update({path.name: path for path in SCRIPTS.glob("*.py")})
        job["bridgewarden.yaml"] = CHECKOUT / "kmod/bridgewarden.yaml"
        ramdisk = Path(scratch) / "initrd"
        with step("packing the root"):
            ramroot.build(base.root, release, modules, job, ramdisk)
        records = boot(
            kernel, ramdisk, accelerator.choose(base, parallel=True), log, " kmemleak=off" * args.no_kmemleak
        )
    done = [one for one in records if one["phase"] == "script"]
    reports = [report for one in records for report in one.get("reports", [])]
    summary = {
        "seconds": round(time.monotonic() - began),
        "stress seconds": args.seconds if any("stress.py" in one["script"] for one in done) else 0,
        "kernel": {
            "version": version,
            "release": release,
            "options": [
                o
                for o in OPTIONS
                if f"CONFIG_{o}=y" in config and not (args.no_kmemleak and o == "DEBUG_KMEMLEAK")
            ],
        },
        "scripts": [
            {key: value for key, value in one.items() if key not in ("phase", "reports")} for one in done
        ],
        "reports": reports,
        "complete": bool(records) and records[-1]["phase"] == "done",
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
