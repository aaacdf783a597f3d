# SPDX-License-Identifier: GPL-3.0-or-later
"""One dockerd for all tests of this folder: the machine's, or of the version whose programs are in BRIDGEWARDEN_DOCKER_PROGRAMS."""

from __future__ import annotations

import os
import shutil
import tempfile
import typing as t
from pathlib import Path

import pytest

from tests.dockerd import Dockerd, why_not


@pytest.fixture(scope="session")
def dockerd() -> t.Iterator[Dockerd]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="bwd."))  # short: a socket's path may have 107 bytes
    daemon = Dockerd(folder, os.environ.get("BRIDGEWARDEN_DOCKER_PROGRAMS", ""))
    try:
        daemon.start()
        if not daemon.wait(40):
            last = (folder / "log").read_text().splitlines()[-1:]
            pytest.skip(f"dockerd does not run on this machine: {' '.join(last)}")
        daemon.make_image()
        yield daemon
    finally:
        daemon.clean()
        shutil.rmtree(folder, ignore_errors=True)
