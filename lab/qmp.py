"""A minimal client for QEMU's control socket (QMP)."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any

from lab.errors import LabError


class Qmp:
    """One connection: `with Qmp(path) as qemu: qemu.ask("stop")`."""

    def __init__(self, path: str, timeout: float = 60.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()
        self.ask("qmp_capabilities")

    def __enter__(self) -> Qmp:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Run a command; events that arrive meanwhile are passed over."""
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while line := self._stream.readline():
            answer = json.loads(line)
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise LabError(f"QEMU refused {command}: {answer['error'].get('desc', answer['error'])}")
        raise LabError(f"QEMU closed its control socket during {command}")

    def human(self, line: str) -> str:
        """A command of QEMU's human monitor, for the few things QMP has no word for."""
        return str(self.ask("human-monitor-command", **{"command-line": line}))
