# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of `make stress` and of the topologies: no disk, a root in memory, stress/guest.py in place of an init system.

A plan says what guest.py runs: {"steps": [{"script", "arguments", "limit"}], "environment": {...}, "modules": [...]}.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from lab import accelerator, debugkernel, flavour, image, ramroot, serial, targets
from lab.paths import CHECKOUT
from lab.progress import say, step

HERE = Path(__file__).resolve().parent
SCRIPTS = CHECKOUT / "kmod" / "tests"
#: What a kernel with modules has to load; in the debug kernel all of it is built in.
MODULES = (
    "br_netfilter", "nf_conntrack", "nf_reject_ipv4", "nf_reject_ipv6", "nfnetlink_log", "nfnetlink_queue", "nf_conntrack_ftp",
    "veth", "macvlan", "ipvlan", "nf_tables", "nft_chain_nat", "nft_ct", "nft_flow_offload", "nf_flow_table_inet",
    "vxlan", "ipip", "ip_vs", "ip_vs_rr", "ip_gre", "sit", "ip6_tunnel", "8021q", "vrf", "mpls_router",
)  # fmt: skip
_COMMAND_LINE = (
    "console=ttyS0 oops=panic loglevel=5 mitigations=off rdinit=/init panic=-1 no_timer_check nokaslr random.trust_cpu=on"
    " log_buf_len=4M"
)


@dataclass(frozen=True)
class Kernel:
    """What boots, what the module is built against, and whose programs the root has."""

    target: str
    base: image.Image
    kernel: Path
    modules: Path
    version: str
    config: Path
    tree: Path | None = None  # of a kernel that is not the image's own

    @property
    def ko(self) -> Path:
        return CHECKOUT / "build/kmod" / ("debug" if self.tree else self.target) / "bridgewarden.ko"

    @property
    def options(self) -> set[str]:
        """Those that are built in, without CONFIG_."""
        lines = self.config.read_text(encoding="ascii").splitlines()
        return {
            line[len("CONFIG_") : -2] for line in lines if line.startswith("CONFIG_") and line.endswith("=y")
        }

    def build(self) -> None:
        """The module for it, into `ko`."""
        tree = ["--tree", str(self.tree)] if self.tree else []
        with step(f"building the module for {self.target}"):
            subprocess.run([str(CHECKOUT / "tests/tools/kmod-build.sh"), *tree, self.target], check=True)


def stock(target: str) -> Kernel:
    """The kernel of a target's image, or one that lab/targets.yml has beside it."""
    root = flavour.ensure(target)
    return Kernel(target, root.base, root.kernel, root.modules, root.release, root.config)


def debug() -> Kernel:
    """The kernel of lab/debugkernel.py, with the programs of the image that it was built in."""
    found = debugkernel.ensure()
    base = image.ensure(targets.find(debugkernel.TARGET))
    return Kernel(
        debugkernel.TARGET, base, found.kernel, found.modules, found.version, found.config, found.tree
    )


def run(
    kernel: Kernel, plan: dict[str, Any], log: TextIO, parallel: bool = False, more: str = ""
) -> list[dict[str, Any]]:
    """Boots it and runs the plan; the records of guest.py in their order, of which the last says "done" or "error" unless the machine
    ended early. `parallel`: see lab.accelerator.choose; `more` goes onto the kernel's command line."""
    with tempfile.TemporaryDirectory(prefix="bw-diskless-") as scratch:
        (Path(scratch) / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        job = {
            "main.py": HERE / "guest.py",
            "plan.json": Path(scratch) / "plan.json",
            "bridgewarden.ko": kernel.ko,
            "bridgewarden.yaml": CHECKOUT / "kmod/bridgewarden.yaml",
            **{path.name: path for path in SCRIPTS.glob("*.py")},
        }
        ramdisk = Path(scratch) / "initrd"
        with step("packing the root"):
            ramroot.build(kernel.base.root, kernel.modules.name, kernel.modules, job, ramdisk)
        return _boot(kernel, ramdisk, accelerator.choose(kernel.base, parallel), log, more)


def _boot(kernel: Kernel, ramdisk: Path, accel: list[str], log: TextIO, more: str) -> list[dict[str, Any]]:
    # Without it an emulated kernel gathers entropy for seconds, which Python waits for.
    accel = [f"{word},+rdrand" if word == "Nehalem" else word for word in accel]
    command = [
        "qemu-system-x86_64", "-name", "bridgewarden-stress", *accel, "-smp", "2,sockets=2", "-m", "2560", "-nodefaults",
        "-display", "none", "-serial", "stdio", "-no-reboot", "-kernel", str(kernel.kernel), "-initrd", str(ramdisk),
        "-append", f"{_COMMAND_LINE} {more}",
    ]  # fmt: skip
    records: list[dict[str, Any]] = []
    with contextlib.closing(serial.records(command, "STRESS", log)) as found:
        for record in found:
            records.append(record)
            _tell(record)
            if record["phase"] in ("done", "error"):
                break
    return records


def _tell(record: dict[str, Any]) -> None:
    if record["phase"] == "script":
        said = f"{record['script']}: {record['ok']} ok, {record['not ok']} not ok, {record['seconds']} s, {len(record['reports'])} reports"
        say(said)
    elif record["phase"] == "error":
        say(f"the machine gave up: {record['error']}\n{record['where']}")


def scripts(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The record of each script that ended."""
    return [one for one in records if one["phase"] == "script"]


def reports(records: list[dict[str, Any]]) -> list[str]:
    """What the kernel's checkers reported, over all of it."""
    return [report for one in records for report in one.get("reports", [])]


def complete(records: list[dict[str, Any]]) -> bool:
    """Whether the plan was run to its end."""
    return bool(records) and records[-1]["phase"] == "done"
