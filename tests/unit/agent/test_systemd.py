# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for the journal: its datagrams on a real socket, and stderr where no journal reads it."""

from __future__ import annotations

import io
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import (
    JOURNAL,
    MAX_FIELD_BYTES,
    Log,
    journal_field,
)


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(5)

    def entry(self) -> t.Dict[str, str]:
        data, fields = self.socket.recv(1 << 20), {}
        while data:
            head, _newline, rest = data.partition(b"\n")
            if b"=" in head:
                name, _equals, value = head.partition(b"=")
            else:
                (length,) = struct.unpack_from("<Q", rest)
                name, value, rest = head, rest[8 : 8 + length], rest[8 + length :]
                assert rest[:1] == b"\n"
                rest = rest[1:]
            fields[name.decode()], data = value.decode(), rest
        return fields


@pytest.fixture
def journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> t.Iterator[Journal]:
    status = os.fstat(2)  # of the file that pytest has put there
    monkeypatch.setenv("JOURNAL_STREAM", "%d:%d" % (status.st_dev, status.st_ino))
    one = Journal(tmp_path / "journal")
    yield one
    one.socket.close()


def test_a_line_has_its_fields(journal: Journal, capfd: pytest.CaptureFixture[str]) -> None:
    log = Log(journal=journal.path)
    log.info("generation 3, 2 endpoints", generation=3, reason="container web: start")
    assert journal.entry() == {
        "MESSAGE": "generation 3, 2 endpoints",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "bridgewarden",
        "BRIDGEWARDEN_GENERATION": "3",
        "BRIDGEWARDEN_REASON": "container web: start",
    }
    log.error("no\nsuch\x1b[31m thing", error_kind="docker", traceback="one\ntwo\n")
    entry = journal.entry()
    assert (entry["MESSAGE"], entry["PRIORITY"]) == ("no such?[31m thing", "3")
    assert entry["BRIDGEWARDEN_TRACEBACK"] == "one\ntwo\n"
    assert capfd.readouterr().err == ""


def test_no_field_can_make_another() -> None:
    content = journal_field("BRIDGEWARDEN_REASON", "x\nPRIORITY=0\n")
    assert content == b"BRIDGEWARDEN_REASON\n" + struct.pack("<Q", 13) + b"x\nPRIORITY=0\n\n"


def test_a_very_long_line_is_cut_and_arrives(journal: Journal) -> None:
    Log(journal=journal.path).info("x" * 1000000)
    assert journal.entry()["MESSAGE"] == "x" * MAX_FIELD_BYTES


def test_without_a_journal_the_same_line_goes_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    Log(journal=str(tmp_path / "journal")).warning("a\nb", generation=1)
    assert capfd.readouterr().err == "<4>a b\n"
    status = os.fstat(2)  # it should read us, but does not listen
    monkeypatch.setenv("JOURNAL_STREAM", "%d:%d" % (status.st_dev, status.st_ino))
    Log(journal=str(tmp_path / "journal")).warning("c")
    assert capfd.readouterr().err == "<4>c\n"


def test_two_troubles_in_turn_are_told_once_each() -> None:
    out = io.StringIO()
    log = Log(out)
    for _time in range(3):
        log.error("one")
        log.error("other")
    log.recovered()
    log.recovered()
    log.error("one")
    assert out.getvalue().splitlines() == ["<3>one", "<3>other", "<5>all is well again", "<3>one"]


@pytest.mark.skipif(
    not shutil.which("systemd-cat") or not os.path.exists(JOURNAL), reason="no journal runs here"
)
def test_the_real_journal_keeps_the_fields() -> None:
    code = (
        "from ansible_collections.bridgewarden.docker.plugins.module_utils._agent.journal import Log;"
        f"Log().info('a test of process {os.getpid()}', generation=7)"
    )
    subprocess.run(["systemd-cat", sys.executable, "-c", code], check=True)
    found = subprocess.run(
        ["journalctl", "-o", "export", f"MESSAGE=a test of process {os.getpid()}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert re.search("^BRIDGEWARDEN_GENERATION=7$", found, re.MULTILINE)
