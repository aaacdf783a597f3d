"""KVM where it truly works, emulation everywhere else.

A /dev/kvm that opens is no proof: some hosts offer one that hangs as soon as Linux starts. So a real kernel
is booted for a few seconds, once per boot of this machine. BRIDGEWARDEN_LAB_ACCEL=kvm|tcg skips the
question.

Emulated processors share one thread. With a thread each, one that translates code while another changes it may keep the old
translation (QEMU 7.2 and 10.0 both do): a kernel that flips a static key then runs into a breakpoint long gone ("Oops: int3"),
or misses the flip. lab/guest/flip.sh shows it within a minute.

Emulated processors lack CMPXCHG16B, which Linux and Debian do without. QEMU 7.2 takes the flags for it from a stale place (it does
not store cc_op before it calls the helper), so that all of EFLAGS but Z may be bits of an address. An interrupt right behind it
brings them back with IRET: with TF among them a debug trap in kmalloc ("WARNING: ... exc_debug_kernel"), and then an Oops.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from lab.errors import LabError
from lab.image import Image
from lab.paths import cache, locked
from lab.progress import say

_PROBE_SECONDS = 20
_PROOF = "Kernel panic - not syncing: VFS"  # a kernel without a root disk gets exactly this far


def choose(image: Image, parallel: bool = False) -> list[str]:
    """QEMU's -accel and -cpu options for this machine.

    `parallel` gives each emulated processor a thread nevertheless: for runs that are about processors in each other's way and
    rarely flip static keys.
    """
    name = os.environ.get("BRIDGEWARDEN_LAB_ACCEL") or _remembered(image)
    if name == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    if name == "tcg":
        threads = os.environ.get("BRIDGEWARDEN_LAB_THREADS") or ("multi" if parallel else "single")
        if threads not in ("single", "multi"):
            raise LabError(f"BRIDGEWARDEN_LAB_THREADS is {threads!r}; it may be single or multi")
        return ["-accel", f"tcg,thread={threads},tb-size=512", "-cpu", "Nehalem,-cx16"]
    raise LabError(f"BRIDGEWARDEN_LAB_ACCEL is {name!r}; it may be kvm or tcg")


def _remembered(image: Image) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    note = cache() / "accelerator"
    with locked("accelerator"):
        known = note.read_text(encoding="ascii").split() if note.exists() else []
        if len(known) != 2 or known[0] != boot:
            known = [boot, "kvm" if _kvm_boots(image) else "tcg"]
            note.write_text(" ".join(known), encoding="ascii")
    return known[1]


def _kvm_boots(image: Image) -> bool:
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    say(f"trying whether KVM works on this machine (at most {_PROBE_SECONDS} s, once per boot)")
    with tempfile.TemporaryFile() as console:
        command = [
            "qemu-system-x86_64",
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "256",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            "stdio",
            "-kernel",
            str(image.kernel),
            "-append",
            "console=ttyS0 panic=-1",
        ]
        probe = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.DEVNULL)
        try:
            probe.wait(_PROBE_SECONDS)
        except subprocess.TimeoutExpired:
            probe.kill()
        console.seek(0)
        works = _PROOF.encode() in console.read()
    say("KVM works" if works else "KVM does not work here: machines are emulated (TCG)")
    return works
