"""What is known about a machine: its folder under build/vms, what is in it, whether it lives.

`state.json` is written once QEMU runs; `death` by the supervisor when the machine ended without being asked
to.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.errors import LabError, MachineDied, ModuleCrashed
from lab.paths import MACHINES

COMMAND = "qemu.json"
CONSOLE = "serial.log"
DEATH = "death"
PID = "pid"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_LINES = 60  # registers, and the call trace behind them
_TROUBLE = re.compile(r"\bBUG: |\bOops: |general protection fault|Kernel panic - not syncing")
_PANIC = re.compile(r"Kernel panic - not syncing.*")
#: As a call trace names a function of the module: `bw_hook_forward4+0x12/0x80 [bridgewarden]`.
_MODULE = re.compile(r"\+0x[0-9a-f]+/0x[0-9a-f]+ \[bridgewarden\b")


def panic_line(console: str) -> str | None:
    """The line in which a kernel announces its end."""
    found = _PANIC.search(console)
    return found.group(0).strip() if found else None


def last_words(console: str) -> str:
    """The part of a console log that a person wants to see first."""
    lines = console.splitlines()
    trouble = [number for number, line in enumerate(lines) if _TROUBLE.search(line)]
    if trouble:
        return "\n".join(lines[max(0, trouble[0] - 3) : trouble[0] + _LINES])
    return "\n".join(lines[-_LINES:])


def blames_module(console: str) -> bool:
    """Whether the kernel's last words have the module under test in a call trace."""
    return bool(_MODULE.search(last_words(console)))


@dataclass(frozen=True)
class State:
    """What `up` wrote down."""

    target: str
    image: str
    accelerator: str
    supervisor: int
    port: int
    qmp: str
    key: str


class Machine:
    """One machine by name, running or not."""

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise LabError(f"{name!r} is no machine name: lower case letters, digits and hyphens, 41 at most")
        self.name = name
        self.folder = MACHINES / name

    @property
    def console(self) -> Path:
        return self.folder / CONSOLE

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def disk(self) -> Path:
        return self.folder / "disk.qcow2"

    @property
    def inventory(self) -> Path:
        return self.folder / "inventory.yml"

    def exists(self) -> bool:
        """Whether `up` got as far as a running QEMU (it may have died since)."""
        return (self.folder / "state.json").exists()

    def state(self) -> State:
        if not self.exists():
            raise LabError(
                f"there is no machine {self.name}; start it: python3 -m lab up {self.name} --target trixie"
            )
        return State(**json.loads((self.folder / "state.json").read_text(encoding="utf-8")))

    def save(self, state: State) -> None:
        (self.folder / "state.json").write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")

    def death(self) -> str | None:
        """Why the machine is dead, or None while it lives."""
        note = self.folder / DEATH
        if note.exists():
            return note.read_text(encoding="utf-8")
        if not self.supervised(self.state().supervisor):
            return "its supervisor is gone (killed, or this computer was restarted)"
        return None

    def supervised(self, pid: int) -> bool:
        """Whether that process is this machine's supervisor, not a stranger with a reused number."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return b"lab.supervise" in words and str(self.folder).encode() in words

    def read_console(self) -> str:
        return self.console.read_text(errors="replace") if self.console.exists() else "(the console is empty)"

    def must_live(self) -> None:
        """Raise the infrastructure error when the machine is dead."""
        if why := self.death():
            raise self.died(why)

    def died(self, why: str) -> MachineDied:
        """The error to raise for a dead machine, with what its console said last."""
        console = self.read_console()
        kind = ModuleCrashed if blames_module(console) else MachineDied
        whose = "in the module under test" if kind is ModuleCrashed else "infrastructure error"
        return kind(f"{whose}: VM {self.name} died: {why}\n--- from its console ---\n{last_words(console)}")


def every_machine() -> list[Machine]:
    """All machines of this checkout that `up` started and `down` did not end."""
    if not MACHINES.is_dir():
        return []
    found = [Machine(path.name) for path in sorted(MACHINES.iterdir()) if _NAME.fullmatch(path.name)]
    return [machine for machine in found if machine.exists()]
