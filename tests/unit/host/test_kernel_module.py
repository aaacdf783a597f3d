# SPDX-License-Identifier: GPL-3.0-or-later
"""Loading, reloading and refusing to: a kernel and a modprobe that are stand-ins."""

from __future__ import annotations

import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import kernel_module as km


class FakeKernel:
    def __init__(self, root: Path) -> None:
        self.sys = root / "module"
        self.sys.mkdir()
        self.disk: t.Optional[str] = "AAA"
        self.error = ""
        self.holds_on = False
        self.calls: t.List[str] = []

    def __call__(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        self.calls.append(" ".join(argv))
        if argv[0] == "modinfo":
            if self.disk is None:
                return 1, "", "modinfo: ERROR: Module mod not found."
            return 0, f"filename:       /lib/mod.ko\nversion:        1.0\nsrcversion:     {self.disk}\n", ""
        if argv[0] == "dmesg":
            return 0, "[1] mod: signature missing\n[2] other: x\n", ""
        if argv[1] == "-r":
            if self.holds_on:
                return 1, "", "modprobe: FATAL: Module mod is in use."
            shutil.rmtree(self.sys / "mod")
            return 0, "", ""
        if self.error:
            return 1, "", self.error
        if self.disk is None:
            return 1, "", "modprobe: FATAL: Module mod not found in directory /lib/modules/6.12"
        self.load(self.disk)
        return 0, "", ""

    def load(self, srcversion: str, users: int = 0) -> None:
        (self.sys / "mod").mkdir(exist_ok=True)
        for name, text in (
            ("initstate", "live"),
            ("srcversion", srcversion),
            ("version", "1.0"),
            ("refcnt", str(users)),
        ):
            (self.sys / "mod" / name).write_text(text + "\n")


@pytest.fixture(autouse=True)
def kernel_with_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(km, "modules_supported", lambda: True)
    monkeypatch.setattr(km, "modules_disabled", lambda: False)


@pytest.fixture
def fake(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


@pytest.fixture
def module(fake: FakeKernel) -> km.KernelModule:
    return km.KernelModule("mod", fake, str(fake.sys))


def test_loads_once(module: km.KernelModule, fake: FakeKernel) -> None:
    foretold = km.converge_module(module, "loaded", check_mode=True)
    assert module.loaded() is None
    done = km.converge_module(
        module, "loaded", parameters={"debug": "1"}, reload_parameters={"closed": "docker0"}
    )
    assert "modprobe mod debug=1" in fake.calls
    assert (foretold.actions, foretold.after) == (done.actions, done.after)
    assert not km.converge_module(module, "loaded").changed


def test_a_rebuilt_module_is_loaded_anew(module: km.KernelModule, fake: FakeKernel) -> None:
    fake.load("OLD")
    foretold = km.converge_module(module, "loaded", check_mode=True)
    assert module.loaded().srcversion == "OLD"  # type: ignore[union-attr]
    done = km.converge_module(module, "loaded", reload_parameters={"closed": "docker0"})
    assert "modprobe mod closed=docker0" in fake.calls
    assert done.changed and not done.reboot_required
    assert done.after["srcversion"] == foretold.after["srcversion"] == "AAA"
    assert not km.converge_module(module, "loaded").changed


@pytest.mark.parametrize("case", ["never", "users", "sealed"])
def test_what_cannot_be_reloaded_needs_a_reboot(module: km.KernelModule, fake: FakeKernel, case: str) -> None:
    fake.load("OLD", users=2 if case == "users" else 0)
    fake.holds_on = case == "sealed"
    done = km.converge_module(module, "loaded", "never" if case == "never" else "safe")
    assert done.reboot_required and not done.changed
    assert "OLD" in done.reason and "AAA" in done.reason
    assert module.loaded().srcversion == "OLD"  # type: ignore[union-attr]


def test_absent(module: km.KernelModule, fake: FakeKernel) -> None:
    fake.load("AAA")
    assert km.converge_module(module, "absent", check_mode=True).changed and module.loaded()
    assert km.converge_module(module, "absent").changed and not module.loaded()
    assert not km.converge_module(module, "absent").changed


def test_absent_says_why_not(module: km.KernelModule, fake: FakeKernel) -> None:
    fake.load("AAA", users=1)
    fake.holds_on = True
    with pytest.raises(km.LoadError, match="in use"):
        km.converge_module(module, "absent")


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("modprobe: ERROR: could not insert 'mod': Key was rejected by service", "mokutil --import"),
        ("modprobe: ERROR: could not insert 'mod': Required key not available", "mokutil --import"),
        ("modprobe: ERROR: could not insert 'mod': Operation not permitted", "run as root"),
        ("modprobe: ERROR: could not insert 'mod': Exec format error", "vermagic"),
        ("modprobe: ERROR: could not insert 'mod': Invalid module format", "vermagic"),
        (
            "modprobe: ERROR: could not insert 'mod': Unknown symbol in module, or unknown parameter",
            "unknown symbol",
        ),
        ("modprobe: ERROR: could not insert 'mod': Invalid argument", "parameters"),
        ("modprobe: ERROR: could not insert 'mod': Cannot allocate memory", "Cannot allocate memory"),
    ],
)
def test_refusals_in_words(module: km.KernelModule, fake: FakeKernel, said: str, wanted: str) -> None:
    fake.error = said
    with pytest.raises(km.LoadError) as caught:
        km.converge_module(module, "loaded")
    assert wanted in caught.value.text()
    assert caught.value.hint
    assert caught.value.as_result()["kernel_log"] == ["[1] mod: signature missing"]


def test_a_module_that_is_not_there_says_what_makes_it(module: km.KernelModule, fake: FakeKernel) -> None:
    fake.disk = None
    with pytest.raises(km.LoadError, match=r"bridgewarden\.docker\.dkms"):
        km.converge_module(module, "loaded")


def test_switched_off_until_reboot(
    module: km.KernelModule, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(km, "modules_disabled", lambda: True)
    fake.error = "modprobe: ERROR: could not insert 'mod': Operation not permitted"
    with pytest.raises(km.LoadError, match="modules_disabled"):
        km.converge_module(module, "loaded")


@pytest.mark.parametrize("check_mode", [True, False])
def test_a_kernel_without_modules(
    module: km.KernelModule, monkeypatch: pytest.MonkeyPatch, check_mode: bool
) -> None:
    monkeypatch.setattr(km, "modules_supported", lambda: False)
    with pytest.raises(km.LoadError, match="CONFIG_MODULES"):
        km.converge_module(module, "loaded", check_mode=check_mode)


def hold(fake: FakeKernel, users: int) -> Path:
    """Loaded and keeping itself so."""
    fake.load("AAA", users)
    parameter = fake.sys / "mod" / "parameters" / "hold"
    parameter.parent.mkdir()
    parameter.write_text("Y\n")
    return parameter


def test_a_module_that_keeps_itself_loaded_is_let_go_first(
    module: km.KernelModule, fake: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameter = hold(fake, users=1)
    said = []
    monkeypatch.setattr(
        shutil,
        "rmtree",
        lambda path, rmtree=shutil.rmtree: (said.append(parameter.read_text()), rmtree(path)),
    )
    fake.disk = "BBB"
    assert km.converge_module(module, "loaded").changed
    assert said == ["N"]


def test_where_others_use_it_too_it_keeps_itself_loaded(module: km.KernelModule, fake: FakeKernel) -> None:
    parameter = hold(fake, users=2)
    fake.disk = "BBB"
    outcome = km.converge_module(module, "loaded")
    assert outcome.reboot_required and "1 users hold it" in outcome.reason
    fake.holds_on = True
    with pytest.raises(km.LoadError):
        km.converge_module(module, "absent")
    assert parameter.read_text() == "Y"
