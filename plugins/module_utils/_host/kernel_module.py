# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel module as it is loaded and as it is on disk.

Two builds of one module are told apart by their srcversion, so a module that
was built anew is loaded anew, where that is safe: nobody uses it and the
kernel lets it go.  Never unloads by force.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    ModuleMissing,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.secure_boot import MOK_STEPS
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import Runner, read_text, run


class LoadError(BridgewardenError):
    """The kernel, or modprobe, refused the module; `kernel_log` holds the kernel's own words."""

    kind = "module_load"
    exit_code = 5

    def __init__(
        self, problem: str, location: str = "", hint: str = "", kernel_log: t.Sequence[str] = ()
    ) -> None:
        super().__init__(problem, location, hint)
        self.kernel_log = list(kernel_log)

    def as_result(self) -> t.Dict[str, t.Any]:
        return dict(super().as_result(), kernel_log=self.kernel_log)


class Loaded(t.NamedTuple):
    srcversion: t.Optional[str]
    version: t.Optional[str]
    users: int


class OnDisk(t.NamedTuple):
    filename: str
    srcversion: t.Optional[str]
    version: t.Optional[str]


class ModuleOutcome(t.NamedTuple):
    changed: bool
    actions: t.List[str]
    reboot_required: bool
    reason: str  # why a reload is due, or why it was not done
    before: t.Dict[str, t.Any]
    after: t.Dict[str, t.Any]


class KernelModule:
    def __init__(self, name: str, runner: Runner = run, sys_module: str = "/sys/module") -> None:
        # modprobe takes both spellings, /sys knows one.
        self.name = name.replace("-", "_")
        self.runner = runner
        self.folder = os.path.join(sys_module, self.name)

    def builtin(self) -> bool:
        return os.path.isdir(self.folder) and not os.path.exists(os.path.join(self.folder, "initstate"))

    def loaded(self) -> t.Optional[Loaded]:
        if read_text(os.path.join(self.folder, "initstate")) != "live":
            return None
        text = read_text(os.path.join(self.folder, "refcnt")) or "0"
        users = int(text) if text.lstrip("-").isdigit() else 0
        return Loaded(
            read_text(os.path.join(self.folder, "srcversion")) or None,
            read_text(os.path.join(self.folder, "version")) or None,
            users - 1 if users > 0 and self.holds() else users,
        )

    def holds(self) -> bool:
        """Whether it keeps itself loaded: bridgewarden does while it guards links, see its parameter `hold`."""
        return read_text(os.path.join(self.folder, "parameters", "hold")) == "Y"

    def _hold(self, hold: bool) -> None:
        with (
            contextlib.suppress(OSError),
            open(os.path.join(self.folder, "parameters", "hold"), "w", encoding="ascii") as handle,
        ):
            handle.write("Y" if hold else "N")

    def on_disk(self) -> t.Optional[OnDisk]:
        code, out, dummy = self.runner(["modinfo", self.name])
        if code != 0:
            return None
        fields: t.Dict[str, str] = {}
        for line in out.splitlines():
            key, dummy, value = line.partition(":")
            fields.setdefault(key.strip(), value.strip())
        return OnDisk(
            fields.get("filename", ""), fields.get("srcversion") or None, fields.get("version") or None
        )

    def load(self, parameters: t.Mapping[str, str]) -> None:
        argv = ["modprobe", self.name] + ["{}={}".format(*item) for item in sorted(parameters.items())]
        code, out, err = self.runner(argv)
        if code != 0:
            raise self.explain((err + out).strip())

    def unload(self) -> str:
        """'' on success, else why not."""
        holds = self.holds()
        if holds:
            self._hold(False)
        code, out, err = self.runner(["modprobe", "-r", self.name])
        if code == 0:
            return ""
        if holds:
            self._hold(True)
        return (err + out).strip() or "modprobe -r ended with %d" % code

    def explain(self, said: str) -> LoadError:
        """What modprobe's words mean, and what to do."""
        log = self.kernel_log()
        location = f"modprobe {self.name}"
        if "Key was rejected" in said or "Required key not available" in said:
            return LoadError(
                "the kernel rejects the module's signature (Secure Boot)", location, MOK_STEPS, log
            )
        if "Operation not permitted" in said:
            if modules_disabled():
                return LoadError(
                    "loading kernel modules is switched off until reboot",
                    "kernel.modules_disabled = 1",
                    "remove the setting from sysctl.d and reboot",
                    log,
                )
            return LoadError(
                "the kernel does not permit it", location, "run as root; under Secure Boot: " + MOK_STEPS, log
            )
        if "Invalid module format" in said or "Exec format error" in said:
            return LoadError(
                f"the module was built for another kernel than {os.uname().release} (vermagic)",
                location,
                "build it for the running kernel (bridgewarden.docker.dkms with force: true), or reboot",
                log,
            )
        if "Unknown symbol" in said:
            return LoadError(
                "the kernel lacks what the module needs (unknown symbol)",
                location,
                "build it anew for the running kernel; the kernel log names the symbol",
                log,
            )
        if "not found in directory" in said:
            return self.missing()
        if "Invalid argument" in said or "Unknown parameter" in said:
            return LoadError("the module refuses its parameters", location, said.splitlines()[-1], log)
        return LoadError(
            "the module cannot be loaded",
            location,
            said.splitlines()[-1] if said else "see the kernel log",
            log,
        )

    def missing(self) -> LoadError:
        return LoadError(
            f"there is no module {self.name} for kernel {os.uname().release}",
            f"/lib/modules/{os.uname().release}",
            "build it with bridgewarden.docker.dkms",
        )

    def kernel_log(self) -> t.List[str]:
        code, out, dummy = self.runner(["dmesg"])
        lines = [line for line in out.splitlines() if self.name in line] if code == 0 else []
        return lines[-10:]


def converge_module(
    module: KernelModule,
    state: str,
    reload: str = "safe",
    parameters: t.Optional[t.Mapping[str, str]] = None,
    reload_parameters: t.Optional[t.Mapping[str, str]] = None,
    check_mode: bool = False,
) -> ModuleOutcome:
    """state is "loaded" or "absent"; reload is "safe" or "never".

    Parameters are for loading: a loaded module is not given up for them, since
    what it holds (a ruleset, say) would be lost with it.  reload_parameters come
    on top where a loaded module is replaced.
    """
    parameters = dict(parameters or {})
    before = module.loaded()
    state_before = _facts(before)
    if state == "absent":
        return _unload(module, before, state_before, check_mode)
    if module.builtin():
        return ModuleOutcome(False, [], False, "it is built into the kernel", state_before, state_before)
    if before is None:
        return _load(module, parameters, state_before, check_mode)
    return _renew(
        module, before, reload, {**parameters, **(reload_parameters or {})}, state_before, check_mode
    )


def _unload(
    module: KernelModule, before: t.Optional[Loaded], state_before: t.Dict[str, t.Any], check_mode: bool
) -> ModuleOutcome:
    if before is None:
        return ModuleOutcome(False, [], False, "", state_before, state_before)
    if not check_mode:
        why = module.unload()
        if why and module.loaded() is not None:
            raise LoadError(
                f"the module cannot be unloaded: {why.splitlines()[-1]}",
                f"modprobe -r {module.name}",
                "end what uses it (%d users), or reboot; a sealed module stays until then" % before.users,
                module.kernel_log(),
            )
    after = _facts(None if check_mode else module.loaded())
    return ModuleOutcome(True, [f"unloaded {module.name}"], False, "", state_before, after)


def _load(
    module: KernelModule, parameters: t.Mapping[str, str], state_before: t.Dict[str, t.Any], check_mode: bool
) -> ModuleOutcome:
    if not modules_supported():
        raise LoadError(
            "the kernel cannot load modules (CONFIG_MODULES is not set)",
            "/proc/modules",
            "boot a distribution kernel",
        )
    # In check mode the module may be about to be built by an earlier task.
    if not check_mode:
        module.load(parameters)
        if module.loaded() is None:
            raise ModuleMissing(
                "the module was loaded and is gone again",
                module.folder,
                f"look at the kernel log: dmesg | grep {module.name}",
            )
    after = _wanted(module.on_disk()) if check_mode else _facts(module.loaded())
    return ModuleOutcome(True, [f"loaded {module.name}"], False, "", state_before, after)


def _renew(
    module: KernelModule,
    before: Loaded,
    reload: str,
    parameters: t.Mapping[str, str],
    state_before: t.Dict[str, t.Any],
    check_mode: bool,
) -> ModuleOutcome:
    disk = module.on_disk()
    if disk is None:
        raise module.missing()
    reason = _difference(before, disk)
    if not reason:
        return ModuleOutcome(False, [], False, "", state_before, state_before)
    if reload == "never":
        return ModuleOutcome(
            False,
            [],
            True,
            reason + "; it is not reloaded because of reload: never",
            state_before,
            state_before,
        )
    if before.users > 0:
        return ModuleOutcome(
            False, [], True, reason + "; %d users hold it" % before.users, state_before, state_before
        )
    words = [f"reloaded {module.name}: {reason}"]
    if check_mode:
        return ModuleOutcome(True, words, False, reason, state_before, _wanted(disk))
    why = module.unload()
    if module.loaded() is not None:
        reason += "; the kernel does not let it go: {}".format(
            (why.splitlines() or ["it was loaded again at once"])[-1]
        )
        return ModuleOutcome(False, [], True, reason, state_before, state_before)
    module.load(parameters)
    return ModuleOutcome(True, words, False, reason, state_before, _facts(module.loaded()))


def _difference(before: Loaded, disk: OnDisk) -> str:
    if before.srcversion and disk.srcversion:
        if before.srcversion != disk.srcversion:
            return f"loaded is srcversion {before.srcversion}, on disk is {disk.srcversion}"
    elif before.version != disk.version:
        return f"loaded is version {before.version}, on disk is {disk.version}"
    return ""


def _facts(loaded: t.Optional[Loaded]) -> t.Dict[str, t.Any]:
    if loaded is None:
        return {"loaded": False}
    return {"loaded": True, "srcversion": loaded.srcversion, "version": loaded.version}


def _wanted(disk: t.Optional[OnDisk]) -> t.Dict[str, t.Any]:
    return {
        "loaded": True,
        "srcversion": disk.srcversion if disk else None,
        "version": disk.version if disk else None,
    }


def modules_supported() -> bool:
    return os.path.exists("/proc/modules")


def modules_disabled() -> bool:
    return read_text("/proc/sys/kernel/modules_disabled") == "1"


def is_loaded(name: str) -> bool:
    return os.path.exists(f"/sys/module/{name}")


MODULE_NAME = "bridgewarden"
