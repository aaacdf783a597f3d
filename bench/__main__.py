# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: builds the modules for the target, boots it under -icount, and writes build/bench/: results.json and plot.svg,
commits.json (what a commit costs); then boots it with two CPUs and without -icount for swap.json. Ends with the bars (bench/bars.py) that
the figures are held against, also in bars.json.

One boot a plan; the console carries one JSON record a measurement. Instructions are the median of a run's batches of packets (of some
flows their mean, see flows.py), then the mean of its repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, TextIO

from bench import bars, plans, plot
from bench.flows import FLOWS
from lab import accelerator, image, serial, targets
from lab.progress import say, step

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
OUT = TOP / "build" / "bench"
LIBRARY = "ansible_collections/bridgewarden/docker/plugins/module_utils"
GUEST = ("__init__.py", "flows.py", "peers.py", "rulesets.py", "swap.py")
MODULES = {"bridgewarden": TOP / "kmod", "bwinject": HERE / "inject"}
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
while read -r module; do /bin/busybox insmod "/modules/$module"; done < /modules/order
until [ -b /dev/vda ]; do /bin/busybox usleep 20000; done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root
/bin/busybox mount --move /dev /root/dev
/bin/busybox mount -t tmpfs -o size=1g bench /root/mnt
/bin/busybox cp -r /bench/. /root/mnt/
/bin/busybox umount /proc
exec /bin/busybox switch_root /root /usr/bin/env PATH=/usr/sbin:/usr/bin:/sbin:/bin python3 /mnt/guest.py
"""
COUNTED = "-accel tcg,thread=single,tb-size=512 -icount shift=0,sleep=off -cpu max -smp 1"
QEMU = """qemu-system-x86_64 -m 3072 -nodefaults -display none -serial stdio -no-reboot -seed 1 -rtc base=2026-01-01T00:00:00,clock=vm
    -device virtio-blk-pci,drive=disk"""
APPEND = "console=ttyS0 panic=-1 nokaslr mitigations=off random.trust_cpu=on oops=panic loglevel=4 rw no_timer_check"


def build(target: str) -> None:
    """The module under test and the injector, by the target's own compiler."""
    for name, folder in MODULES.items():
        with step(f"building {name} for {target}"):
            subprocess.run(
                [str(TOP / "tests/tools/kmod-build.sh"), "--source", str(folder), name, target], check=True
            )


def initrd(base: Path, modules: dict[str, Path], plan: list[dict[str, Any]], scratch: Path) -> Path:
    """The lab's own, with another init and what the plan needs behind it: the kernel unpacks both, the later file wins."""
    tree = scratch / "tree"
    bench = tree / "bench"
    (bench / "lib" / LIBRARY).mkdir(parents=True)
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    shutil.copy(HERE / "guest.py", bench)
    (bench / "bench").mkdir()
    for name in GUEST:
        shutil.copy(HERE / name, bench / "bench")
    for name, path in modules.items():
        shutil.copy(path, bench / f"{name}.ko")
    shutil.copytree(
        TOP / "plugins" / "module_utils",
        bench / "lib" / LIBRARY,
        ignore=shutil.ignore_patterns("__pycache__"),
        dirs_exist_ok=True,
    )
    for name in plans.rulesets_of(plan):
        found = plans.RULESETS[name]()
        found.to_sections()  # packing them is not the kernel's part
        (bench / f"{name}.ruleset").write_bytes(pickle.dumps(found))
    (bench / "plan.json").write_text(json.dumps(plan))
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    added = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"],
        cwd=tree,
        input=names.encode(),
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    path = scratch / "initrd"
    path.write_bytes(base.read_bytes() + added)
    return path


def boot(
    base: image.Image, ramdisk: Path, scratch: Path, log: TextIO, machine: list[str]
) -> list[dict[str, Any]]:
    disk = scratch / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base.disk), "-F", "raw", str(disk)], check=True
    )
    command = [
        *QEMU.split(), *machine, "-kernel", str(base.kernel), "-initrd", str(ramdisk), "-append", APPEND,
        "-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe",
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    with contextlib.closing(serial.records(command, "BENCH", log)) as found:
        for record in found:
            if "error" in record:
                sys.exit(f"bench: {record['error']} (console: {log.name})\n{record['where']}")
            records.append(record)
            if record.get("done"):
                break
    if not records or not records[-1].get("done"):
        sys.exit(f"bench: the machine ended early (console: {log.name})")
    return records


def table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each engine, family and flow, with what it costs more than nothing, than a hook that does nothing and than
    Docker's own rules.
    """
    runs: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    passes: dict[tuple[str, int, str], bool] = {}
    for record in records:
        if "engine" in record:
            key = record["engine"], record["family"], record["flow"]
            runs[key].append(record[f"{FLOWS[record['flow']].statistic}_x100"])
            passes[key] = bool(record["passed"])  # all of them or none, by guest.py
    means = {key: sum(values) / len(values) / 100 for key, values in runs.items()}
    rows = []
    for (engine, family, flow), value in means.items():
        row: dict[str, Any] = {
            "engine": engine,
            "family": family,
            "flow": flow,
            **FLOWS[flow].described(),
            "passes": passes[engine, family, flow],
            "instructions": round(value),
        }
        for name, other in (
            ("over_base", "base"),
            ("over_floor", "floor"),
            ("over_docker_nft", "docker nft"),
            ("over_docker_legacy", "docker legacy"),
        ):
            beside = means.get((other, family, flow))
            row[name] = None if beside is None else round(value - beside)
        row["entries"] = plans.ENTRIES.get(engine)
        spread = [value / 100 for value in runs[engine, family, flow]]
        row["spread"] = round(max(spread) - min(spread), 1)
        rows.append(row)
    return rows


def measure(
    found: image.Image, target: str, plan: list[dict[str, Any]], name: str, machine: list[str]
) -> list[dict[str, Any]]:
    """One boot; what it said is left in NAME.console and, record by record, in NAME.records."""
    modules = {name: TOP / "build" / "kmod" / target / f"{name}.ko" for name in MODULES}
    with (
        tempfile.TemporaryDirectory(prefix="bw-bench-") as scratch,
        (OUT / f"{name}.console").open("w") as log,
    ):
        ramdisk = initrd(found.initrd, modules, plan, Path(scratch))
        with step(f"{name}: {len(plan)} measurements"):
            records = boot(found, ramdisk, Path(scratch), log, machine)
    (OUT / f"{name}.records").write_text("".join(json.dumps(record) + "\n" for record in records))
    return records


def commit_costs(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a ruleset, the mean of its commits. A second of this clock is 10^9 instructions."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        if "committed" in record:
            runs[record["committed"]].append(record)
    return [
        {
            "ruleset": name,
            "instructions": round(statistics.mean(one["seconds"] for one in found) * 1e9),
            "instructions_in_kernel": round(statistics.mean(one["kernel_seconds"] for one in found) * 1e9),
        }
        for name, found in runs.items()
    ]


def count(found: image.Image, target: str, plan: list[dict[str, Any]]) -> list[bars.Bar]:
    records = measure(found, target, plan, "count", COUNTED.split())
    rows = table(records)
    held = bars.of_rows(rows)
    (OUT / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    if plot.shown(rows):
        (OUT / "plot.svg").write_text(plot.svg(rows))
    commits = commit_costs(records)
    (OUT / "commits.json").write_text(json.dumps(commits, indent=1) + "\n")
    show(rows)
    for commit in commits:
        say(
            f"commit of {commit['ruleset']:18} {commit['instructions'] / 1e6:9.1f} million instructions,"
            f" {commit['instructions_in_kernel'] / 1e6:9.1f} of them in the kernel's part"
        )
    return held


def swap(found: image.Image, target: str) -> list[bars.Bar]:
    machine = [*accelerator.choose(found, parallel=True), "-smp", "2"]
    records = [
        record["swap"] for record in measure(found, target, plans.SWAPS, "swap", machine) if "swap" in record
    ]
    held = bars.of_swaps(records)
    (OUT / "swap.json").write_text(json.dumps(records, indent=1) + "\n")
    for record in records:
        say(json.dumps(record))
    if not records[0]["passed"]:
        sys.exit(
            "bench: the forbidden flow does not arrive where nothing forbids it: the probe proves nothing"
        )
    return held


def show(rows: list[dict[str, Any]]) -> None:
    say(
        f"{'engine':38} {'ipv':>3} {'flow':19} {'instr':>7} {'+base':>7} {'+floor':>7} {'+nft':>7} {'+leg':>7} {'spread':>6}"
    )
    for row in rows:
        deltas = [row[key] for key in ("over_base", "over_floor", "over_docker_nft", "over_docker_legacy")]
        shown = " ".join(f"{'' if value is None else format(value, '+d'):>7}" for value in deltas)
        say(
            f"{row['engine']:38} {row['family']:>3} {row['flow']:19} {row['instructions']:>7} {shown} {row['spread']:>6}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("plan", nargs="?", default="all", choices=sorted(plans.PLANS))
    parser.add_argument("--target", default="bookworm")
    parser.add_argument("--no-build", action="store_true", help="use the modules of the last build")
    parser.add_argument(
        "--strict", action="store_true", help="fail where a bar is missed; lost or leaked packets always fail"
    )
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    found = image.ensure(targets.find(args.target))
    if not args.no_build:
        build(args.target)
    counted = [] if args.plan == "swap" else count(found, args.target, plans.PLANS[args.plan])
    swapped = swap(found, args.target) if args.plan in ("swap", "all") else []
    held = [*counted, *swapped]
    (OUT / "bars.json").write_text(json.dumps([bar.record() for bar in held], indent=1) + "\n")
    for bar in held:
        say(str(bar))
    if not bars.all_met(swapped):
        sys.exit("bench: a replacement lost or leaked packets, see build/bench/swap.json")
    if args.strict and not bars.all_met(held):
        sys.exit("bench: a bar is missed, see build/bench/bars.json")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(TOP))
    main()
