# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of an unpacked root, whose absolute links begin at that root and not at this machine's."""

from __future__ import annotations

import shutil
from pathlib import Path

from lab import ramroot


def test_links_stay_within_the_root(tmp_path: Path) -> None:
    (tmp_path / "usr/lib").mkdir(parents=True)
    (tmp_path / "usr/lib/ld-2.31.so").write_text("the loader")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "lib64").mkdir()
    (tmp_path / "lib64/ld.so").symlink_to("/lib/ld.so.2")
    (tmp_path / "usr/lib/ld.so.2").symlink_to("ld-2.31.so")
    assert ramroot._real(tmp_path, "lib64/ld.so").read_text() == "the loader"


def test_python_of_any_version(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/python3").mkdir(parents=True)
    (tmp_path / "usr/lib/python3.9").mkdir()
    assert ramroot._library(tmp_path) == Path("usr/lib/python3.9")


def test_modules_of_hardware_stay_behind(tmp_path: Path) -> None:
    modules = tmp_path / "modules"
    wanted = {"kernel/net/netfilter/x.ko", "kernel/drivers/net/veth.ko", "kernel/drivers/net/vxlan/vxlan.ko"}
    unwanted = {
        "kernel/drivers/gpu/a.ko",
        "kernel/drivers/net/wireless/b.ko",
        "kernel/sound/c.ko",
        "kernel/fs/d.ko",
    }
    for name in wanted | unwanted:
        (modules / name).parent.mkdir(parents=True, exist_ok=True)
        (modules / name).touch()
    shutil.copytree(modules, tmp_path / "copy", ignore=ramroot._unwanted_modules)
    assert {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*.ko")} == wanted
