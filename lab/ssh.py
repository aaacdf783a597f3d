"""Reaching a machine: its ssh_config and inventory files, commands, and waiting for it.

Every wait watches the machine's supervisor as well: a dead VM ends the wait at once, with MachineDied.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from lab.machine import Machine
from lab.paths import ssh_key
from lab.progress import say

BOOT_SECONDS = 600.0  # an overloaded computer emulates slowly; a dead machine is noticed anyway
_LOST_CONNECTION = (255, 4)  # of ssh and of ansible-playbook
_OPTIONS = {
    "StrictHostKeyChecking": "no",
    "UserKnownHostsFile": "/dev/null",
    "IdentitiesOnly": "yes",
    "LogLevel": "ERROR",
    "ConnectTimeout": "15",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "8",
}


def write_access_files(machine: Machine) -> None:
    """ssh_config for people, inventory.yml for Ansible."""
    port = machine.state().port
    own = {"HostName": "127.0.0.1", "Port": str(port), "User": "root", "IdentityFile": str(ssh_key())}
    lines = [f"Host {machine.name}", *(f"    {key} {value}" for key, value in {**own, **_OPTIONS}.items())]
    machine.ssh_config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    host = {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(ssh_key()),
        "ansible_ssh_common_args": " ".join(f"-o {key}={value}" for key, value in _OPTIONS.items()),
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    inventory = {"all": {"hosts": {machine.name: host}}}
    machine.inventory.write_text(yaml.safe_dump(inventory, sort_keys=False, width=1000), encoding="utf-8")


def argv(machine: Machine, command: Sequence[str] = ()) -> list[str]:
    """The ssh command line for a command in the guest, or for a shell."""
    return ["ssh", "-F", str(machine.ssh_config), machine.name, *command]


def watched(
    machine: Machine,
    command: Sequence[str],
    *,
    stdin: str | None = None,
    capture: bool = False,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a local command that depends on the machine; raise MachineDied when the machine dies under it."""
    process = subprocess.Popen(
        command,
        text=True,
        cwd=cwd,
        stdin=subprocess.PIPE if stdin is not None else None,
        stdout=subprocess.PIPE if capture else None,
    )
    try:
        while True:
            try:
                out, _ = process.communicate(stdin, timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                stdin = None  # handed over already
                machine.must_live()
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode in _LOST_CONNECTION:
        time.sleep(1)  # the supervisor may need a moment to see it
    if process.returncode:
        machine.must_live()
    return subprocess.CompletedProcess(command, process.returncode, out)


def run(machine: Machine, command: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a shell command in the guest and return what it printed."""
    return watched(machine, argv(machine, [command]), stdin=stdin, capture=True)


def push(machine: Machine, local: Path, remote: str) -> int:
    """Copy a file or folder into the guest."""
    return watched(
        machine, ["scp", "-q", "-r", "-F", str(machine.ssh_config), str(local), f"{machine.name}:{remote}"]
    ).returncode


def own_hosts_entry(machine: Machine) -> str:
    """A guest command: the machine finds its own name without asking anybody (sudo wants to know it)."""
    return f"printf '127.0.0.1 localhost {machine.name}\\n::1 localhost\\n' > /etc/hosts"


def wait_for_ssh(machine: Machine, seconds: float = BOOT_SECONDS) -> None:
    """Return when a command runs over ssh."""
    deadline = time.monotonic() + seconds
    while True:
        machine.must_live()
        if time.monotonic() > deadline:
            raise machine.died(f"no ssh within {seconds:.0f} s")
        if _banner(machine.state().port) and _quiet(machine, "true"):
            return
        time.sleep(0.2)


def wait_for_docker(machine: Machine, seconds: float = BOOT_SECONDS) -> None:
    """Return when dockerd answers; ssh must work already."""
    deadline = time.monotonic() + seconds
    while not _quiet(
        machine, "for i in $(seq 40); do docker ps -q >/dev/null 2>&1 && exit 0; sleep 0.3; done; exit 1"
    ):
        machine.must_live()
        if time.monotonic() > deadline:
            raise machine.died(f"dockerd does not answer within {seconds:.0f} s")


def wait(machine: Machine) -> None:
    """Ssh, then dockerd, with progress."""
    wait_for_ssh(machine)
    say(f"{machine.name}: ssh answers")
    wait_for_docker(machine)
    say(f"{machine.name}: dockerd answers")


def _banner(port: int) -> bool:
    """Whether sshd has begun to talk; cheaper than a whole ssh, which an emulated guest feels."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.settimeout(5)
            return connection.recv(3) == b"SSH"
    except OSError:
        return False


def _quiet(machine: Machine, command: str) -> bool:
    process = subprocess.Popen(
        argv(machine, [command]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while True:
        try:
            return process.wait(0.3) == 0
        except subprocess.TimeoutExpired:
            if machine.death():
                process.kill()
                process.wait()
                return False
