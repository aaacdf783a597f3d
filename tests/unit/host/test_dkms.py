# SPDX-License-Identifier: GPL-3.0-or-later
"""The states of a DKMS module: parsing what dkms prints, and the way from one state to another.

The dkms here is a stand-in that keeps the tree of links the real one keeps; the real one is run by the molecule scenarios.
"""

from __future__ import annotations

import os
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import dkms as dkms

KERNEL = "6.12.117+deb13-cloud-amd64"
OLD_KERNEL = "6.12.100+deb13-cloud-amd64"
ARCH = "x86_64"

# Verbatim from dkms 2.8.4, 3.0.10 and 3.2.2, and remarks from its source.
LINES = [
    ("labmod, 1.0: added", ("labmod", "1.0", None, None, "added", "")),
    (
        "labmod, 1.0, 5.10.0-32-cloud-amd64, x86_64: built",
        ("labmod", "1.0", "5.10.0-32-cloud-amd64", "x86_64", "built", ""),
    ),
    (
        "labmod, 1.0, 5.10.0-32-cloud-amd64, x86_64: installed",
        ("labmod", "1.0", "5.10.0-32-cloud-amd64", "x86_64", "installed", ""),
    ),
    ("labmod/1.0: added", ("labmod", "1.0", None, None, "added", "")),
    (
        "labmod/1.0, 6.1.0-50-amd64, x86_64: built",
        ("labmod", "1.0", "6.1.0-50-amd64", "x86_64", "built", ""),
    ),
    (
        "labmod/1.0, 6.12.117+deb13-cloud-amd64, x86_64: installed",
        ("labmod", "1.0", "6.12.117+deb13-cloud-amd64", "x86_64", "installed", ""),
    ),
    (
        "labmod/1.0, 6.1.0-50-amd64, x86_64: installed (WARNING! Diff between built and installed module!)",
        (
            "labmod",
            "1.0",
            "6.1.0-50-amd64",
            "x86_64",
            "installed",
            "WARNING! Diff between built and installed module!",
        ),
    ),
    (
        "labmod/1.0, 6.12.1, x86_64: installed (Original modules exist)",
        ("labmod", "1.0", "6.12.1", "x86_64", "installed", "Original modules exist"),
    ),
    ("labmod/1.0: broken", ("labmod", "1.0", None, None, "broken", "")),
    (
        "labmod, 1.0, 4.18.0-1.el8, x86_64: installed-weak from 4.18.0-0.el8",
        ("labmod", "1.0", "4.18.0-1.el8", "x86_64", "installed", ""),
    ),
]


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_status_lines_of_every_version(line: str, wanted: t.Tuple[t.Any, ...]) -> None:
    assert dkms.parse_status(line + "\n") == [dkms.DkmsStatus(*wanted)]


def test_notices_and_silence_are_no_states() -> None:
    noise = "Deprecated feature: REMAKE_INITRD (/var/lib/dkms/x/1/source/dkms.conf)\nlabmod/1.0: added\n\n"
    assert [line.state for line in dkms.parse_status(noise)] == ["added"]
    assert dkms.parse_status("") == []


class FakeDkms:
    """Keeps /var/lib/dkms as dkms does. `broken` versions do not compile."""

    def __init__(self, root: Path) -> None:
        self.tree = root / "var/lib/dkms"
        self.sources = root / "usr/src"
        self.modules = root / "lib/modules"
        self.calls: t.List[str] = []
        self.broken: t.Set[str] = set()
        self.remark = ""
        self.missing = False
        for kernel in (KERNEL, OLD_KERNEL):
            (self.modules / kernel / "build").mkdir(parents=True)
            (self.modules / kernel / "build" / "Makefile").touch()
            (self.modules / kernel / "kernel").mkdir()
        self.tree.mkdir(parents=True)
        self.sources.mkdir(parents=True)

    def __call__(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        if self.missing:
            return 127, "", "not found"
        if argv[1] == "--version":
            return 0, "dkms-3.2.2\n", ""
        verb, name, version = argv[1], argv[3], argv[5]
        kernel = argv[argv.index("-k") + 1] if "-k" in argv else ""
        if verb != "status":
            self.calls.append(
                " ".join([verb, version, kernel] + [flag for flag in argv if flag == "--force"])
            )
        return getattr(self, verb)(name, version, kernel, "--force" in argv)

    def status(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        base = self.tree / name / version
        lines = [
            f"{name}/{version}, {path.name}, {ARCH}: installed{self.remark}"
            for path in base.iterdir()
            if path.name[0] == "6"
        ]
        return 0, "\n".join(lines or [f"{name}/{version}: added"]), ""

    def add(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        source = self.sources / f"{name}-{version}"
        if not (source / "dkms.conf").exists():
            return 2, "", "Error! Could not find module source directory.\nDirectory does not exist"
        (self.tree / name / version).mkdir(parents=True)
        (self.tree / name / version / "source").symlink_to(source)
        return 0, "", ""

    def build(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        base = self.tree / name / version
        text = (base / "source" / "mod.c").read_text()
        if version in self.broken or "broken" in text:
            (base / "build").mkdir(exist_ok=True)
            (base / "build" / "make.log").write_text(
                "CC mod.o\nmod.c:1:1: error: unknown type name 'broken'\nmake: ***\n"
            )
            return 10, "", "Error! Bad return status for module build on kernel"
        module = base / kernel / ARCH / "module" / "mod.ko"
        if module.exists() and not force:
            return 3, "", "Error! already built"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(text)
        return 0, "", ""

    def install(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        link = self.tree / name / f"kernel-{kernel}-{ARCH}"
        link.unlink(missing_ok=True)
        link.symlink_to(Path(version) / kernel / ARCH)
        target = self.modules / kernel / "updates"
        target.mkdir(exist_ok=True)
        shutil.copy(self.tree / name / version / kernel / ARCH / "module" / "mod.ko", target / "mod.ko")
        return 0, "", ""

    def uninstall(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        (self.tree / name / f"kernel-{kernel}-{ARCH}").unlink()
        return 0, "", ""

    def remove(self, name: str, version: str, kernel: str, force: bool) -> t.Tuple[int, str, str]:
        for link in (self.tree / name).glob("kernel-*"):
            if os.readlink(link).startswith(version + "/"):
                link.unlink()
        shutil.rmtree(self.tree / name / version)
        return 0, "", ""


@pytest.fixture
def fake(tmp_path: Path) -> FakeDkms:
    return FakeDkms(tmp_path)


@pytest.fixture
def host(fake: FakeDkms) -> dkms.Dkms:
    return dkms.Dkms("mod", fake, str(fake.tree), str(fake.sources), str(fake.modules), ARCH)


def source(folder: Path, version: str, text: str = "int x;") -> str:
    folder.mkdir(exist_ok=True)
    (folder / "dkms.conf").write_text(f'PACKAGE_NAME="mod"\nPACKAGE_VERSION="{version}"\n')
    (folder / "mod.c").write_text(text)
    (folder / "mod.o").write_text("an object of another kernel")
    return str(folder)


def desired(**settings: t.Any) -> dkms.Desired:
    return dkms.Desired(**{"state": "installed", "version": "1.0", "kernel": KERNEL, **settings})


def installed_text(fake: FakeDkms, kernel: str = KERNEL) -> str:
    return (fake.modules / kernel / "updates" / "mod.ko").read_text()


def test_from_nothing_to_installed_and_no_further(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    want = desired(source=source(tmp_path / "src", "1.0"))
    foretold = dkms.converge_dkms(host, want, check_mode=True)
    assert fake.calls == [] and not (fake.sources / "mod-1.0").exists()
    done = dkms.converge_dkms(host, want)
    assert (foretold.actions, foretold.after) == (done.actions, done.after)
    assert done.after == {"1.0": {KERNEL: "installed"}}
    assert sorted(path.name for path in (fake.sources / "mod-1.0").iterdir()) == ["dkms.conf", "mod.c"]
    again = dkms.converge_dkms(host, want)
    assert not again.changed and again.actions == []


def test_a_changed_source_of_the_same_version_is_built_anew(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "src", "1.0")))
    want = desired(source=source(tmp_path / "src", "1.0", "int y;"))
    assert dkms.converge_dkms(host, want, check_mode=True).changed
    assert installed_text(fake) == "int x;"
    done = dkms.converge_dkms(host, want)
    assert installed_text(fake) == "int y;"
    assert [words.split()[0] for words in done.actions] == ["replaced", "rebuilt", "installed"]
    assert not dkms.converge_dkms(host, want).changed
    assert not list(fake.sources.glob(".*"))


def test_a_source_that_does_not_compile_leaves_all_as_it_was(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    good = desired(source=source(tmp_path / "src", "1.0"))
    dkms.converge_dkms(host, good)
    with pytest.raises(dkms.DkmsError) as caught:
        dkms.converge_dkms(host, desired(source=source(tmp_path / "src", "1.0", "broken")))
    assert "unknown type name" in caught.value.text()
    assert caught.value.log[-1] == "make: ***"
    assert installed_text(fake) == "int x;"
    assert not dkms.converge_dkms(host, desired(source=source(tmp_path / "src", "1.0"))).changed


def test_an_interrupted_run_is_made_good(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "src", "1.0")))
    changed = source(tmp_path / "src", "1.0", "int y;")
    dkms.replace_tree(
        changed, host.source_path("1.0"), str(fake.sources / ".mod-1.0.before"), dkms.BUILD_PRODUCTS
    )
    # Here the run was cut off: the source is the new one, what is installed is not.
    assert dkms.converge_dkms(host, desired(source=changed)).changed
    assert installed_text(fake) == "int y;"


def test_the_old_version_goes_after_the_new_one_is_in(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")))
    fake.calls.clear()
    want = desired(version="1.1", source=source(tmp_path / "two", "1.1"))
    foretold = dkms.converge_dkms(host, want, check_mode=True)
    done = dkms.converge_dkms(host, want)
    assert fake.calls == ["add 1.1 ", f"build 1.1 {KERNEL}", f"install 1.1 {KERNEL} --force", "remove 1.0 "]
    assert done.after == foretold.after == {"1.1": {KERNEL: "installed"}}
    assert not (fake.sources / "mod-1.0").exists()


def test_a_new_version_that_does_not_compile_leaves_the_old_one(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")))
    with pytest.raises(dkms.DkmsError):
        dkms.converge_dkms(host, desired(version="1.1", source=source(tmp_path / "two", "1.1", "broken")))
    assert host.level("1.0", KERNEL) == "installed"
    assert installed_text(fake) == "int x;"


def test_another_kernel_gets_the_new_version_before_it_loses_the_old(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    old = source(tmp_path / "one", "1.0")
    dkms.converge_dkms(host, desired(source=old))
    dkms.converge_dkms(host, desired(source=old, kernel=OLD_KERNEL))
    done = dkms.converge_dkms(host, desired(version="1.1", source=source(tmp_path / "two", "1.1")))
    assert done.after == {"1.1": {KERNEL: "installed", OLD_KERNEL: "installed"}}


def test_the_old_version_stays_where_a_kernel_would_be_left_without(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path
) -> None:
    old = source(tmp_path / "one", "1.0")
    dkms.converge_dkms(host, desired(source=old))
    dkms.converge_dkms(host, desired(source=old, kernel=OLD_KERNEL))
    shutil.rmtree(fake.modules / OLD_KERNEL / "build")
    done = dkms.converge_dkms(host, desired(version="1.1", source=source(tmp_path / "two", "1.1")))
    assert host.level("1.0", OLD_KERNEL) == "installed"
    assert host.level("1.1", KERNEL) == "installed"
    assert OLD_KERNEL in done.warnings[0]


def test_damage_that_dkms_tells_is_mended(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    want = desired(source=source(tmp_path / "src", "1.0"))
    dkms.converge_dkms(host, want)
    fake.remark = " (Original modules exist)"
    assert not dkms.converge_dkms(host, want).changed
    fake.remark = " (Built modules are missing in the kernel modules folder)"
    done = dkms.converge_dkms(host, want)
    assert len(done.actions) == 1 and done.actions[0].startswith("installed mod 1.0")


def test_absent_takes_everything_and_is_idempotent(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")))
    gone = desired(state="absent", version=None)
    foretold = dkms.converge_dkms(host, gone, check_mode=True)
    assert host.versions() == ["1.0"]
    done = dkms.converge_dkms(host, gone)
    assert done.actions == foretold.actions and done.after == {}
    assert list(fake.sources.iterdir()) == []
    assert not dkms.converge_dkms(host, gone).changed


def test_built_takes_back_an_installation(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")))
    want = desired(state="built")
    assert dkms.converge_dkms(host, want).after == {"1.0": {KERNEL: "built"}}
    assert not dkms.converge_dkms(host, want).changed


@pytest.mark.parametrize("check_mode", [True, False])
def test_missing_headers_name_the_package(
    host: dkms.Dkms, fake: FakeDkms, tmp_path: Path, check_mode: bool
) -> None:
    shutil.rmtree(fake.modules / KERNEL / "build")
    with pytest.raises(dkms.DkmsError) as caught:
        dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")), check_mode)
    assert f"linux-headers-{KERNEL}" in caught.value.hint
    assert "linux-headers-cloud-amd64" in caught.value.hint


def test_without_dkms_the_package_is_named(host: dkms.Dkms, fake: FakeDkms, tmp_path: Path) -> None:
    fake.missing = True
    with pytest.raises(dkms.DkmsError, match="install the package dkms"):
        dkms.converge_dkms(host, desired(source=source(tmp_path / "one", "1.0")))


def test_a_source_of_another_version_is_refused(host: dkms.Dkms, tmp_path: Path) -> None:
    with pytest.raises(dkms.DkmsError, match=r"PACKAGE_VERSION=1\.0"):
        dkms.converge_dkms(host, desired(version="2.0", source=source(tmp_path / "one", "1.0")))


def test_no_source_at_all_is_refused(host: dkms.Dkms) -> None:
    with pytest.raises(dkms.DkmsError, match="no source"):
        dkms.converge_dkms(host, desired())


class TestArchive:
    """What the action plugin sends."""

    def pack(self) -> t.Any:
        return pytest.importorskip(
            "ansible_collections.bridgewarden.docker.plugins.action.dkms",
            reason="the controller's part needs ansible-core",
        ).pack

    def test_the_bytes_depend_on_the_files_alone(self, tmp_path: Path) -> None:
        one, two = source(tmp_path / "one", "1.0"), source(tmp_path / "two", "1.0")
        os.utime(tmp_path / "two" / "mod.c", (1, 1))
        (tmp_path / "two" / "mod.c").chmod(0o600)
        pack = self.pack()
        assert pack(one) == pack(two)
        (tmp_path / "two" / "mod.c").write_text("int z;")
        assert pack(one) != pack(two)

    def test_it_comes_out_as_it_went_in(self, tmp_path: Path) -> None:
        folder = source(tmp_path / "one", "1.0")
        (tmp_path / "one" / "sub").mkdir()
        (tmp_path / "one" / "sub" / "gen.sh").write_text("#!/bin/sh\n")
        (tmp_path / "one" / "sub" / "gen.sh").chmod(0o700)
        (tmp_path / "src.tar").write_bytes(self.pack()(folder))
        dkms.unpack(str(tmp_path / "src.tar"), str(tmp_path / "out"))
        assert dkms.tree_digest(str(tmp_path / "out")) == dkms.tree_digest(folder)
        assert os.access(tmp_path / "out" / "sub" / "gen.sh", os.X_OK)

    def test_nothing_is_written_outside(self, tmp_path: Path) -> None:
        import io
        import tarfile

        with tarfile.open(tmp_path / "evil.tar", "w") as tar:
            info = tarfile.TarInfo("../evil")
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
        (tmp_path / "out").mkdir()
        with pytest.raises(dkms.DkmsError):
            dkms.unpack(str(tmp_path / "evil.tar"), str(tmp_path / "out"))
        assert not (tmp_path / "evil").exists()
