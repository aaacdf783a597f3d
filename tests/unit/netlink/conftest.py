# SPDX-License-Identifier: GPL-3.0-or-later
"""A network namespace in which a test opens its sockets."""

from __future__ import annotations

import ctypes
import os
import subprocess
import typing as t

import pytest

CLONE_NEWNET = 0x40000000  # linux/sched.h


def enter(path: str) -> None:
    with open(path) as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), path)


@pytest.fixture
def netns() -> t.Iterator[str]:
    """Its name; this thread is in it."""
    name = f"bww{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    before = f"/proc/{os.getpid()}/task/{os.getpid()}/ns/net"
    with open(before) as handle:
        try:
            enter(f"/run/netns/{name}")
            yield name
        finally:
            enter(f"/proc/self/fd/{handle.fileno()}")
            subprocess.run(["ip", "netns", "del", name], check=True)
