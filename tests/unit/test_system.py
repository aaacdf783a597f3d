# SPDX-License-Identifier: GPL-3.0-or-later
"""What the library asks of the operating system: commands that hang, files that are written whole or not at all."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import (
    read_text,
    run,
    write_atomically,
)


def test_a_command_that_hangs_is_ended() -> None:
    began = time.monotonic()
    code, out, err = run(["sh", "-c", "echo asked >&2; exec sleep 30"], timeout=0.5)
    assert (code, out) == (124, "") and time.monotonic() - began < 10
    assert err.splitlines() == ["sh did not end within 0.5 s", "asked"]


def test_a_command_in_the_c_locale() -> None:
    assert run(["sh", "-c", "echo $LC_ALL; exit 3"]) == (3, "C\n", "")
    assert run(["/nonexistent/command"])[0] == 127


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_written_whole(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "file"
    write_atomically(str(path), b"one", 0o640, durable)
    assert path.read_bytes() == b"one" and stat.S_IMODE(path.stat().st_mode) == 0o640
    write_atomically(str(path), b"two", durable=durable)
    assert path.read_bytes() == b"two" and stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("call", ["fchmod", "fsync", "rename"])
def test_a_file_that_cannot_be_written_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(str(path), b"after")
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert read_text(str(tmp_path / "none")) is None
