"""A machine's life as the lab records it: names, panics, supervisors, and the infrastructure error."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import qemu, ssh
from lab.errors import LabError, MachineDied, ModuleCrashed
from lab.image import Image
from lab.machine import COMMAND, CONSOLE, DEATH, PID, Machine, State, last_words, panic_line
from lab.paths import CHECKOUT


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr("lab.machine.MACHINES", tmp_path)
    made = Machine("m1")
    made.folder.mkdir()
    return made


def supervise(machine: Machine, script: str) -> subprocess.Popen[bytes]:
    """Run the real supervisor with a shell script in the place of QEMU."""
    (machine.folder / COMMAND).write_text(json.dumps(["sh", "-c", script]), encoding="utf-8")
    command = [sys.executable, "-m", "lab.supervise", str(machine.folder)]
    process = subprocess.Popen(command, cwd=CHECKOUT)
    machine.save(State("trixie", "key", "tcg", process.pid, 1, "/nowhere/qmp", "/nowhere/key"))
    return process


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["", "Big", "a/b", "../x", "-x", "a" * 42, "a_b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="no machine name"):
        Machine(name)


def test_a_panic_is_found_and_an_ordinary_line_is_not() -> None:
    text = "[  3.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\nmore"
    assert panic_line(text) == "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
    assert panic_line("kernel panics are logged to /var/crash\n") is None


def test_last_words_begin_where_the_trouble_began() -> None:
    lines = [f"line {number}" for number in range(100)]
    lines[50] = "[ 5.0] BUG: unable to handle page fault for address: 0000"
    lines[80] = "[ 5.1] Kernel panic - not syncing: Fatal exception"
    assert last_words("\n".join(lines)).startswith("line 47\nline 48\nline 49\n[ 5.0] BUG")
    assert last_words("\n".join(lines[:40])).endswith("line 39")


def test_a_panic_on_the_console_kills_the_machine_and_is_recorded(machine: Machine) -> None:
    line = "Kernel panic - not syncing: Fatal exception"
    process = supervise(
        machine, f"echo booting > {CONSOLE}; sleep 0.4; echo '[ 1.0] {line}' >> {CONSOLE}; sleep 60"
    )
    assert process.wait(30) == 0
    assert (machine.folder / DEATH).read_text() == line
    qemu = int((machine.folder / PID).read_text())
    assert not Path(f"/proc/{qemu}").exists()
    with pytest.raises(MachineDied, match=r"VM m1 died: Kernel panic(.|\n)*booting") as caught:
        machine.must_live()
    assert caught.value.exit_code == 75


def test_a_panic_in_the_module_is_a_failure(machine: Machine) -> None:
    process = supervise(machine, "exec sleep 60")
    trace = (
        "[ 9.0] BUG: unable to handle page fault\n{}\n[ 9.1] Kernel panic - not syncing: Fatal exception\n"
    )
    for line, kind, code in (
        ("Modules linked in: bridgewarden(OE) veth\n[ 9.0]  ip_forward+0x12/0x80", MachineDied, 75),
        ("[ 9.0]  bw_hook_forward4+0x12/0x80 [bridgewarden]", ModuleCrashed, 1),
    ):
        machine.console.write_text(trace.format(line))
        error = machine.died("it panicked")
        assert (type(error), error.exit_code) == (kind, code)
        assert ("infrastructure error" in str(error)) == (code == 75)
    process.terminate()
    process.wait(30)


@pytest.mark.parametrize(("status", "why"), [(0, "powered itself off"), (7, "ended with status 7")])
def test_an_exit_of_qemu_is_recorded(machine: Machine, status: int, why: str) -> None:
    assert supervise(machine, f"exit {status}").wait(30) == 0
    assert why in (machine.death() or "")


def test_ending_a_machine_on_purpose_is_no_death(machine: Machine) -> None:
    process = supervise(machine, "exec sleep 60")
    until((machine.folder / PID).exists)
    assert machine.death() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert not (machine.folder / DEATH).exists()
    assert not Path(f"/proc/{int((machine.folder / PID).read_text())}").exists()


def test_a_stranger_with_the_recorded_pid_is_not_the_supervisor(machine: Machine) -> None:
    assert not machine.supervised(os.getpid())
    machine.save(State("trixie", "key", "tcg", os.getpid(), 1, "/nowhere/qmp", "/nowhere/key"))
    assert "supervisor is gone" in (machine.death() or "")


def test_a_command_that_hangs_in_a_dead_machine_is_broken_off(machine: Machine) -> None:
    supervise(machine, "sleep 1; exit 3")
    began = time.monotonic()
    with pytest.raises(MachineDied, match="status 3"):
        ssh.watched(machine, ["sleep", "60"])
    assert time.monotonic() - began < 20


def test_a_command_gets_its_input_and_gives_its_output(machine: Machine) -> None:
    process = supervise(machine, "exec sleep 60")
    done = ssh.watched(machine, ["sh", "-c", "sleep 1; cat"], stdin="hello", capture=True)
    process.terminate()
    process.wait(30)
    assert (done.returncode, done.stdout) == (0, "hello")


def test_an_interrupted_wait_takes_its_command_with_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = supervise(machine, "exec sleep 60")
    pidfile = machine.folder / "command.pid"

    def interrupt() -> None:
        if pidfile.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(machine, "must_live", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ssh.watched(
            machine, ["sh", "-c", f"echo $$ > {pidfile}.new; mv {pidfile}.new {pidfile}; exec sleep 60"]
        )
    assert not Path(f"/proc/{int(pidfile.read_text())}").exists()
    process.terminate()
    process.wait(30)


def test_a_qemu_that_does_not_start_is_an_infrastructure_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(qemu, "command_line", lambda *_: ["sh", "-c", "echo no such device >&2; exit 1"])
    with pytest.raises(MachineDied, match="QEMU did not start: no such device") as caught:
        qemu.start(machine, "trixie", Image("key", tmp_path), ["-accel", "tcg"], tmp_path / "disk", [])
    assert caught.value.exit_code == 75
    assert not machine.exists()
