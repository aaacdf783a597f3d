# SPDX-License-Identifier: GPL-3.0-or-later
"""A new version of the module takes the old one's place: in DKMS, on disk, in the kernel, and with the same policy in force."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT

ALLOWED, DENIED = ("office", "host", 8081), ("stranger", "host", 8081)
NEXT = "99.1.0"


def version() -> str:
    return (PROJECT / "kmod" / "version.h").read_text(encoding="utf-8").split('BW_VERSION "')[1].split('"')[0]


@pytest.fixture
def next_version(tmp_path: Path) -> Path:
    """This module under a later number."""
    source = tmp_path / "kmod"
    shutil.copytree(PROJECT / "kmod", source, ignore=shutil.ignore_patterns("tests", "*.o", "*.ko"))
    for name in ("version.h", "dkms.conf"):
        text = (source / name).read_text(encoding="utf-8")
        assert version() in text
        (source / name).write_text(text.replace(version(), NEXT), encoding="utf-8")
    return source


def test_an_upgrade(guest: Any, playbooks: Any, until: Any, next_version: Path) -> None:
    run = playbooks.harden(bridgewarden_kmod_source=str(next_version))
    assert run.code == 0, run.output
    assert guest.run("cat /sys/module/bridgewarden/version").strip() == NEXT
    known = guest.run("dkms status -m bridgewarden")
    assert NEXT in known
    assert f" {version()}," not in known.replace("/", " ")
    assert guest.run("ls -d /usr/src/bridgewarden-*").split() == [f"/usr/src/bridgewarden-{NEXT}"]

    def as_before() -> None:
        assert guest.probe(ALLOWED, DENIED) == ["open", "open", "timeout", "timeout"]

    until(as_before)
