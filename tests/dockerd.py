# SPDX-License-Identifier: GPL-3.0-or-later
"""A dockerd of the tests' own: in a network and mount namespace of its own, with all its files in one folder."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import typing as t
from pathlib import Path

COLLECTIONS = Path(__file__).resolve().parents[1] / ".collections"


class Dockerd:
    def __init__(self, folder: Path, programs: str = "") -> None:
        """`programs`: a folder with another version's dockerd, containerd, runc and so on; by default the machine's own."""
        self.folder = folder
        self.programs = programs
        self.socket = f"unix://{folder}/docker.sock"
        self.netns = f"bwt{os.getpid()}"
        self.process: t.Optional[subprocess.Popen[bytes]] = None

    def start(self) -> None:
        if not Path("/run/netns", self.netns).exists():
            subprocess.run(["ip", "netns", "add", self.netns], check=True)
            subprocess.run(["ip", "-n", self.netns, "link", "set", "lo", "up"], check=True)
        (self.folder / "daemon.json").write_text("{}")
        # nsenter and not "ip netns exec", which would hide the cgroups under a fresh /sys.
        argv = [
            "nsenter",
            f"--net=/run/netns/{self.netns}",
            "unshare",
            "-m",
            "--propagation",
            "private",
            "dockerd",
        ]
        for option, name in (
            ("data-root", "data"), ("exec-root", "exec"), ("pidfile", "pid"), ("config-file", "daemon.json"),
        ):  # fmt: skip
            argv += [f"--{option}", str(self.folder / name)]
        argv += ["-H", self.socket, "--storage-driver", "vfs"]
        with open(self.folder / "log", "ab") as log:
            path = os.pathsep.join(filter(None, (self.programs, os.environ.get("PATH", ""))))
            env = {**os.environ, "PATH": path}
            self.process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, env=env)

    def wait(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process and self.process.poll() is None:
            if self.docker("version", check=False).returncode == 0:
                return True
            time.sleep(0.2)
        return False

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()

    def clean(self) -> None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            names = self.docker("ps", "-aq", check=False).stdout.split()
            for first in range(0, len(names), 20):
                self.docker("rm", "-f", *names[first : first + 20], check=False)
        self.stop()
        subprocess.run(["ip", "netns", "del", self.netns], check=False, capture_output=True)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["docker", "-H", self.socket, *arguments], check=check, capture_output=True, text=True, timeout=60
        )

    def python(self, code: str) -> t.Any:
        """What `code` prints as JSON, run where this dockerd's bridges and namespaces are seen."""
        assert self.process is not None
        program = f"import sys, json; sys.path.insert(0, {str(COLLECTIONS)!r})\n{code}"
        argv = ["nsenter", "-t", str(self.process.pid), "-n", "-m", sys.executable, "-c", program]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def facts(self) -> t.Dict[str, t.Any]:
        code = "from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts\n"
        return t.cast(
            t.Dict[str, t.Any], self.python(code + f"print(json.dumps(collect_facts({self.socket!r})))")
        )

    def make_image(self) -> None:
        """An image from nothing: one program that waits."""
        (self.folder / "wait.c").write_text("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n")
        program = str(self.folder / "wait")
        subprocess.run(["cc", "-static", "-Os", "-o", program, str(self.folder / "wait.c")], check=True)
        with tarfile.open(self.folder / "image.tar", "w") as tar:
            tar.add(program, "wait")
        self.docker("import", "-c", 'CMD ["/wait"]', str(self.folder / "image.tar"), "waiter:1")


def why_not() -> str:
    if os.geteuid() != 0:
        return "needs root"
    for program in ("dockerd", "docker", "ip", "nsenter", "unshare", "cc"):
        if not shutil.which(program):
            return f"needs {program}"
    return ""
