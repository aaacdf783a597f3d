# SPDX-License-Identifier: GPL-3.0-or-later
"""ansible-playbook, as its users run it, and a host that cannot be reached."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
PLAYBOOKS = TOP / "playbooks"


def ansible_playbook(
    *arguments: str, cwd: Path = TOP, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    settings = {
        "ANSIBLE_CONFIG": str(TOP / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "PWD": str(cwd),  # reports go below the working directory of the shell
        **(env or {}),
    }
    return subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), *arguments],
        cwd=cwd,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def lost() -> dict[str, Any]:
    """Variables of a host that does not answer: nobody listens at its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    return {
        "ansible_host": "127.0.0.1",
        "ansible_port": port,
        "ansible_ssh_common_args": "-o ConnectTimeout=5 -o BatchMode=yes",
        "ansible_python_interpreter": sys.executable,
    }


def here() -> dict[str, Any]:
    """Variables of a host that is this machine."""
    return {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
