# SPDX-License-Identifier: GPL-3.0-or-later
"""`make bench`: builds the modules for the target, boots it under -icount, and writes build/bench/results.json.

One boot a plan; the console carries one JSON record a measurement. Instructions are the mean of a run's packets, then the mean
of its repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any, TextIO

from bench import plans
from lab import image, targets
from lab.progress import say, step

HERE = Path(__file__).resolve().parent
TOP = HERE.parent
OUT = TOP / "build" / "bench"
LIBRARY = "ansible_collections/bridgewarden/docker/plugins/module_utils"
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
QEMU = """qemu-system-x86_64 -accel tcg,thread=single,tb-size=512 -icount shift=0,sleep=off -cpu max -m 3072 -smp 1
    -nodefaults -display none -serial stdio -no-reboot -seed 1 -rtc base=2026-01-01T00:00:00,clock=vm
    -device virtio-blk-pci,drive=disk"""
APPEND = "console=ttyS0 panic=-1 nokaslr mitigations=off random.trust_cpu=on oops=panic loglevel=4 rw"


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
    for name, path in modules.items():
        shutil.copy(path, bench / f"{name}.ko")
    for path in (TOP / "plugins" / "module_utils").glob("*.py"):
        shutil.copy(path, bench / "lib" / LIBRARY)
    for name in {words[1] for entry in plan for words in entry["steps"] if words[0] == "ruleset"}:
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


def boot(found: image.Image, ramdisk: Path, scratch: Path, log: TextIO) -> list[dict[str, Any]]:
    disk = scratch / "disk.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(found.disk), "-F", "raw", str(disk)], check=True
    )
    command = [
        *QEMU.split(), "-kernel", str(found.kernel), "-initrd", str(ramdisk), "-append", APPEND,
        "-drive", f"file={disk},if=none,id=disk,format=qcow2,cache=unsafe",
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace"
    ) as qemu:
        assert qemu.stdout
        for line in qemu.stdout:
            log.write(line)
            log.flush()
            _, mark, rest = line.partition("BENCH ")
            if mark:
                record = json.loads(rest)
                if "error" in record:
                    sys.exit(f"bench: {record['error']} (console: {log.name})\n{record['where']}")
                records.append(record)
                if record.get("done"):
                    break
        qemu.terminate()
    if not records or not records[-1].get("done"):
        sys.exit(f"bench: the machine ended early (console: {log.name})")
    return records


def table(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each engine, family and flow, with what it costs more than nothing and than Docker's own rules."""
    runs: dict[tuple[str, int, str], list[int]] = defaultdict(list)
    for record in records:
        if "engine" in record:
            runs[record["engine"], record["family"], record["flow"]].append(record["mean_x100"])
    means = {key: sum(values) / len(values) / 100 for key, values in runs.items()}
    rows = []
    for (engine, family, flow), value in means.items():
        row: dict[str, Any] = {"engine": engine, "family": family, "flow": flow, "instructions": round(value)}
        for name, other in (
            ("over_base", "base"),
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("plan", nargs="?", default="all", choices=sorted(plans.PLANS))
    parser.add_argument("--target", default="bookworm")
    parser.add_argument("--no-build", action="store_true", help="use the modules of the last build")
    args = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    found = image.ensure(targets.find(args.target))
    if not args.no_build:
        build(args.target)
    modules = {name: TOP / "build" / "kmod" / args.target / f"{name}.ko" for name in MODULES}
    plan = plans.PLANS[args.plan]
    with tempfile.TemporaryDirectory(prefix="bw-bench-") as scratch, (OUT / "console.log").open("w") as log:
        ramdisk = initrd(found.initrd, modules, plan, Path(scratch))
        with step(f"measuring {len(plan)} engines"):
            records = boot(found, ramdisk, Path(scratch), log)
    rows = table(records)
    (OUT / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    (OUT / "records.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    say(
        f"{'engine':34} {'ipv':>3} {'flow':12} {'instr':>6} {'+base':>6} {'+nft':>6} {'+leg':>6} {'spread':>6}"
    )
    for row in rows:
        deltas = [row[key] for key in ("over_base", "over_docker_nft", "over_docker_legacy")]
        shown = " ".join(f"{'' if value is None else format(value, '+d'):>6}" for value in deltas)
        say(
            f"{row['engine']:34} {row['family']:>3} {row['flow']:12} {row['instructions']:>6} {shown} {row['spread']:>6}"
        )


if __name__ == "__main__":
    os.environ.setdefault("PYTHONPATH", str(TOP))
    main()
