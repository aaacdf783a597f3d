"""A machine whose serial console is QEMU's standard output: it says what it found in lines of JSON behind a mark."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Generator
from typing import Any, TextIO

from lab.supervise import die_with_parent


def records(command: list[str], mark: str, log: TextIO) -> Generator[dict[str, Any], None, None]:
    """Starts it, keeps all it says in `log`, and yields the records; ends it when the caller goes no further (contextlib.closing)."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=die_with_parent,
    ) as machine:
        assert machine.stdout
        try:
            for line in machine.stdout:
                log.write(line)
                log.flush()
                _, found, rest = line.partition(f"{mark} ")
                if found:
                    yield json.loads(rest)
        finally:
            machine.terminate()
