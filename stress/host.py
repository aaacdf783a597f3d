# SPDX-License-Identifier: GPL-3.0-or-later
"""`make stress-host`: a whole Docker host under the debug kernel, into build/stress/host.json.

Debian's system and dockerd, booted with the kernel of lab/debugkernel.py that has a disk: the scenarios of molecule/_paths and
molecule/_engine, then stress/churn.py. Any report of the kernel's checkers and any test that failed fails the run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from lab import debugkernel, power, ssh, targets, vm
from lab.errors import LabError
from lab.machine import Machine
from lab.paths import CHECKOUT
from lab.progress import say, step
from stress.guest import is_report

OUT = CHECKOUT / "build" / "stress"
NAME = "stress-host"
#: KASAN's shadow, and what the other checkers remember.
MEMORY_MB = 4096
#: RCU's callbacks: see stress/__main__.py. Units may take their time, which is many times the usual.
ARGUMENTS = "nokaslr rcutree.use_softirq=0 rcutree.kthread_prio=10 systemd.default_timeout_start_sec=900"
KMEMLEAK = "/sys/kernel/debug/kmemleak"
#: Twice, as in stress/guest.py.
SCAN = f"for n in 1 2; do echo scan > {KMEMLEAK}; sleep 6; done; cat {KMEMLEAK}; echo clear > {KMEMLEAK}"
PROXY = "molecule/_engine/tests/test_docker_proxy.py"
#: test_kernel.py loads and unloads the module, for which there are steps here; Debian 12 has no Suricata; this kernel has no nft
#: objects, no netem and no conntrack of SCTP; dockerd's restarts are a step of their own.
LEFT_OUT = (
    "molecule/_engine/tests/test_kernel.py",
    "molecule/_engine/tests/test_settling.py",
    "molecule/_engine/tests/test_queue.py::TestSuricata",
    "molecule/_engine/tests/test_queue.py::test_suricata",
    "molecule/_engine/tests/test_queue.py::test_nobody_listens",
    "molecule/_engine/tests/test_related.py::test_data_connection",
    "molecule/_engine/tests/test_related.py::test_only_the_announced_port",
    "molecule/_engine/tests/test_services.py::test_protocol[5000/sctp-sctp",
    PROXY,
)
STEPS = ("paths", "churn", "unload", "load", "engine", "proxy")
Step = Callable[[], dict[str, Any]]


class Reports:
    """What the kernel has said against itself or us, since the last look: on its console, which forgets nothing, as its log may."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.seen = 0

    def news(self) -> list[str]:
        leaked = ssh.run(self.machine, SCAN).stdout.split("unreferenced object ")[1:]
        lines = self.machine.read_console().splitlines()
        news, self.seen = lines[self.seen :], len(lines)
        found = ["\n".join(news[n : n + 40]) for n, line in enumerate(news) if is_report(line)]
        found += [f"kmemleak: {one}" for one in leaked]
        if not re.search(r"debug_locks:\s+1\b", ssh.run(self.machine, "cat /proc/lockdep_stats").stdout):
            found.append("lockdep has stopped watching")
        return found


def boot(kernel: debugkernel.DebugKernel) -> Machine:
    """The machine under that kernel; one that --keep left is taken again."""
    machine = Machine(NAME)
    if machine.exists() and not machine.death() and _release(machine) == kernel.modules.name:
        return machine
    vm.up(NAME, targets.find(debugkernel.TARGET), cold=True)
    power.give_kernel(machine, kernel.kernel, kernel.modules)
    power.cut(machine)
    with step(f"{NAME}: booting {kernel.modules.name}"):
        power.on(machine, ["-m", str(MEMORY_MB)], ARGUMENTS)
        ssh.wait(machine)
    if (running := _release(machine)) != kernel.modules.name:
        raise LabError(f"{NAME} runs {running}, not the debug kernel {kernel.modules.name}")
    return machine


def _release(machine: Machine) -> str:
    return ssh.run(machine, "uname -r").stdout.strip()


def tests(name: str, where: str, left_out: tuple[str, ...] = ()) -> Step:
    """Those of a scenario, against this machine."""

    def run() -> dict[str, Any]:
        log = OUT / f"host-{name}.log"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rf",
            *(f"--deselect={one}" for one in left_out),
            where,
        ]
        with log.open("w", encoding="utf-8") as out:
            done = subprocess.run(
                command, cwd=CHECKOUT, env=environment(), stdout=out, stderr=out, check=False
            )
        return {"status": done.returncode, "said": log.read_text(encoding="utf-8").splitlines()[-1]}

    return run


def environment() -> dict[str, str]:
    return {**os.environ, "LAB_MACHINE": NAME, "PYTHONPATH": str(CHECKOUT)}


def churn(machine: Machine, seconds: int) -> Step:
    def run() -> dict[str, Any]:
        ssh.push(machine, CHECKOUT / "stress" / "churn.py", "/root/engine/churn.py")
        reload = "rmmod bridgewarden; insmod /root/engine/bridgewarden.ko"
        done = ssh.run(machine, f"{reload} && python3 /root/engine/churn.py {seconds} 2>&1")
        said = done.stdout.strip().splitlines()[-1:] or ["nothing"]
        if done.returncode:
            return {"status": done.returncode, "said": "\n".join(done.stdout.splitlines()[-15:])}
        return {"status": int(bool(json.loads(said[0])["wrong"])), **json.loads(said[0])}

    return run


def unload(machine: Machine) -> Step:
    """Away, and back for the tests."""
    script = "rmmod bridgewarden && ! lsmod | grep bridgewarden && insmod /root/engine/bridgewarden.ko"
    return lambda: {"status": ssh.run(machine, script).returncode}


#: A container in 17 networks, beside those of molecule/_engine/world.sh.
MANY = """set -e
for n in $(seq 17); do docker network create many-$n >/dev/null; done
docker run -d --name many --network many-1 bw-shop many tcp:8080 udp:9000 >/dev/null
for n in $(seq 2 17); do docker network connect many-$n many; done
"""
NO_MORE = "docker rm -f many >/dev/null; for n in $(seq 17); do docker network rm many-$n >/dev/null; done"
LOAD = """cd /root/engine/kernel && rmmod bridgewarden
address=$(docker inspect -f '{{(index .NetworkSettings.Networks "many-17").IPAddress}}' many)
BW_KO=/root/engine/bridgewarden.ko BW_CLOSED='docker0,br-*' BW_OTHERS="172.28.1.10:9000 $address:9000" python3 -u loading.py 2>&1
"""


def load(machine: Machine) -> Step:
    """Each allocation of the module's load refused, beside containers that run."""

    def run() -> dict[str, Any]:
        if (made := ssh.run(machine, MANY)).returncode:
            return {"status": made.returncode, "said": made.stderr}
        log = OUT / "host-load.log"
        with log.open("w", encoding="utf-8") as out:
            done = subprocess.run(ssh.argv(machine, [LOAD]), stdout=out, stderr=out, check=False)
        ssh.run(machine, NO_MORE)
        return {"status": done.returncode, "said": log.read_text(encoding="utf-8").splitlines()[-1]}

    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stress.host", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=600, help="of the churn; what is before it takes its own time"
    )
    parser.add_argument("--keep", action="store_true", help="leave the machine running afterwards")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; default: all")
    args = parser.parse_args()
    if unknown := set(args.steps) - set(STEPS):
        parser.error(f"there is no step {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    OUT.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    kernel = debugkernel.ensure(debugkernel.HOST_CONFIG)
    machine = boot(kernel)
    subprocess.run(
        [sys.executable, "molecule/_engine/prepare.py", NAME, str(kernel.tree)], cwd=CHECKOUT, check=True
    )
    reports = Reports(machine)
    runs = (
        tests("paths", "molecule/_paths/tests"),
        churn(machine, args.seconds),
        unload(machine),
        load(machine),
        tests("engine", "molecule/_engine/tests", LEFT_OUT),
        tests("proxy", PROXY),
    )
    steps = dict(zip(STEPS, runs, strict=True))
    found: list[dict[str, Any]] = [{"step": "boot", "status": 0, "reports": reports.news()}]
    for name in args.steps or STEPS:
        started = time.monotonic()
        with step(f"{NAME}: {name}"):
            one = {"step": name, **steps[name](), "seconds": round(time.monotonic() - started)}
            one["reports"] = reports.news()
        said = ", ".join(f"{key} {value}" for key, value in one.items() if key != "reports")
        say(f"{said}, {len(one['reports'])} reports")
        found.append(one)
        summary = {
            "seconds": round(time.monotonic() - began),
            "kernel": kernel.version,
            "release": kernel.modules.name,
            "steps": found,
        }
        (OUT / "host.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    if not args.keep:
        vm.down(machine)
    every = [report for one in found for report in one["reports"]]
    failed = [one["step"] for one in found if one["status"]]
    say(
        f"{len(every)} reports of the kernel; steps that failed: {', '.join(failed) or 'none'}; {OUT / 'host.json'}"
    )
    for report in every[:3]:
        say(report)
    return int(bool(every or failed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        say(str(error))
        sys.exit(error.exit_code)
