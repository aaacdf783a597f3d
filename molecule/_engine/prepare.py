# SPDX-License-Identifier: GPL-3.0-or-later
"""Makes a lab machine ready for the engine's tests: `python molecule/_engine/prepare.py MACHINE [TREE]`, the latter of another kernel.

The module is built here, with the target's own compiler in its own root, and the Python library is used as it lies in the
checkout: no DKMS, no playbook, no agent. What those do has scenarios of its own.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from lab import ssh
from lab.errors import LabError
from lab.machine import Machine
from lab.paths import GUEST
from lab.progress import say, step

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]

THERE = "/root/engine"
LIBRARY = "ansible_collections/bridgewarden/docker/plugins/module_utils"
SETUP = f"""set -e
rmmod bridgewarden 2>/dev/null || true
for m in br_netfilter nf_conntrack nf_conntrack_ftp nf_reject_ipv4 nf_reject_ipv6 nfnetlink_log nfnetlink_queue; do modprobe $m; done
insmod {THERE}/bridgewarden.ko
sh {THERE}/world.sh
"""


def archive(module: Path) -> bytes:
    """Everything that goes into the machine, as one tar file."""
    files = {"bridgewarden.ko": module, "bw_probe.py": GUEST / "bw-probe.py"}
    files.update({name: HERE / name for name in ("bench.py", "world.sh")})
    files.update(
        {
            f"kernel/{name}": PROJECT / "kmod" / "tests" / name
            for name in ("packets.py", "fuzz_netlink.py", "failures.py", "bareports.py", "loading.py")
        }
    )
    files["kernel/bridgewarden.yaml"] = PROJECT / "kmod" / "bridgewarden.yaml"
    library = PROJECT / "plugins" / "module_utils"
    for path in library.rglob("*.py"):
        files[f"{LIBRARY}/{path.relative_to(library)}"] = path
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, path in sorted(files.items()):
            tar.add(path, name)
    return packed.getvalue()


def prepare(machine: Machine, tree: str = "") -> None:
    """`tree`: of the kernel that the machine runs, where that is not its image's."""
    target = machine.state().target
    against = ["--tree", tree] if tree else []
    with step(f"{machine.name}: building the module for {target}"):
        done = subprocess.run(
            [str(PROJECT / "tests/tools/kmod-build.sh"), *against, target],
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            cwd=PROJECT,
            check=False,
        )
        if done.returncode:
            raise LabError("the module does not build")
    with step(f"{machine.name}: copying it and starting the containers"):
        unpack = f"rm -rf {THERE} && mkdir -p {THERE} && tar -C {THERE} -xf -"
        packed = archive(PROJECT / "build" / "kmod" / ("debug" if tree else target) / "bridgewarden.ko")
        subprocess.run(ssh.argv(machine, [unpack]), input=packed, check=True)
        if ssh.run(machine, SETUP).returncode:
            raise LabError("the containers did not start")


if __name__ == "__main__":
    try:
        prepare(Machine(sys.argv[1]), *sys.argv[2:3])
    except LabError as error:
        say(str(error))
        sys.exit(error.exit_code)
