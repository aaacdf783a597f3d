# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""DKMS as it is and as it is wanted, for any module.

What is added, built and installed is read from dkms's own tree of links, which
means the same in every version; `dkms status` is asked beside it for damage
that the links do not show.  A version in use is taken away only when its
successor is installed; when a build fails, the sources are as before.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import fnmatch
import functools
import hashlib
import os
import re
import shutil
import tarfile
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.packages import (
    has_headers,
    header_packages,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.secure_boot import (
    MOK_STEPS,
    secure_boot,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import Runner, run

#: state -> how far a kernel's copy has come.
LEVELS = {"absent": 0, "added": 1, "built": 2, "installed": 3}

#: Left in a kernel module's folder by a build; never part of its source.
BUILD_PRODUCTS = (
    "*.o",
    "*.ko",
    "*.mod",
    "*.mod.c",
    "*.cmd",
    "*.order",
    "*.symvers",
    ".tmp_versions",
    "__pycache__",
    ".git",
)

LOG_LINES = 40
#: For one run of dkms: a build on a slow host takes minutes.
BUILD_SECONDS = 1800.0

# Tested with the output of dkms 2.8.4, 3.0.10 and 3.2.2.
STATUS_LINE = re.compile(
    r"^(?P<name>[^,/:\s]+)(?:/|,\s)(?P<version>[^,:\s]+)(?:,\s(?P<kernel>[^,\s]+),\s(?P<arch>[^:\s]+))?:\s"
    r"(?P<state>added|built|installed-weak from (?P<weak>\S+)|installed|broken)(?P<remark>.*)$"
)


def run_dkms(argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
    return run(argv, timeout=BUILD_SECONDS)


class DkmsError(BridgewardenError):
    """dkms is not there, or could not do what was asked; `log` is the end of the compiler's output."""

    kind = "dkms"

    def __init__(self, problem: str, location: str = "", hint: str = "", log: t.Sequence[str] = ()) -> None:
        super().__init__(problem, location, hint)
        self.log = list(log)

    def as_result(self) -> t.Dict[str, t.Any]:
        return dict(super().as_result(), make_log=self.log)


class DkmsStatus(t.NamedTuple):
    """One line of `dkms status`."""

    name: str
    version: str
    kernel: t.Optional[str]  # None: the module is only added
    arch: t.Optional[str]
    state: str  # added, built, installed, broken
    remark: str


def parse_status(text: str) -> t.List[DkmsStatus]:
    """The lines of `dkms status` that tell a state; dkms prints notices among them."""
    found = []
    for line in text.splitlines():
        match = STATUS_LINE.match(line.strip())
        if match:
            state = "installed" if match.group("weak") else match.group("state")
            found.append(
                DkmsStatus(
                    match.group("name"),
                    match.group("version"),
                    match.group("kernel"),
                    match.group("arch"),
                    state,
                    match.group("remark").strip(" ()"),
                )
            )
    return found


class Dkms:
    """The modules of one name, on one host."""

    def __init__(
        self,
        name: str,
        runner: Runner = run_dkms,
        tree: str = "/var/lib/dkms",
        sources: str = "/usr/src",
        modules: str = "/lib/modules",
        arch: t.Optional[str] = None,
    ) -> None:
        self.name = name
        self.runner = runner
        self.tree = os.path.join(tree, name)
        self.sources = sources
        self.modules = modules
        self.arch = arch or os.uname().machine

    # What is.

    def versions(self) -> t.List[str]:
        try:
            names = os.listdir(self.tree)
        except OSError:
            return []
        return sorted(name for name in names if os.path.lexists(os.path.join(self.tree, name, "source")))

    def kernels(self, version: str) -> t.Dict[str, str]:
        """kernel -> "built" or "installed"."""
        found = {}
        base = os.path.join(self.tree, version)
        try:
            names = os.listdir(base)
        except OSError:
            return {}
        for kernel in sorted(names):
            module = os.path.join(base, kernel, self.arch, "module")
            if kernel in ("build", "source") or not os.path.isdir(module) or not os.listdir(module):
                continue
            link = os.path.join(self.tree, f"kernel-{kernel}-{self.arch}")
            installed = os.path.realpath(link) == os.path.realpath(os.path.join(base, kernel, self.arch))
            found[kernel] = "installed" if installed and os.path.islink(link) else "built"
        return found

    def level(self, version: str, kernel: str) -> str:
        """absent, added, built or installed."""
        if not os.path.lexists(os.path.join(self.tree, version, "source")):
            return "absent"
        return self.kernels(version).get(kernel, "added")

    def summary(self) -> t.Dict[str, t.Any]:
        return {version: self.kernels(version) for version in self.versions()}

    def damage(self, version: str, kernel: str) -> str:
        """What `dkms status` remarks against an installed module, '' where all is well."""
        code, out, dummy = self.runner(["dkms", "status", "-m", self.name, "-v", version])
        if code != 0:
            return ""
        for line in parse_status(out):
            if line.version == version and line.state == "broken":
                return "dkms calls it broken"
            if line.version == version and line.kernel == kernel and line.state == "installed":
                # "Original modules exist" is no damage: dkms keeps what it replaced.
                return line.remark if re.search("missing|[Dd]iff", line.remark) else ""
        return ""

    def source_path(self, version: str) -> str:
        return os.path.join(self.sources, f"{self.name}-{version}")

    # What shall be.

    def require(self) -> None:
        if self.runner(["dkms", "--version"])[0] == 127:
            raise DkmsError("dkms is not installed", "dkms", "install the package dkms")

    def require_headers(self, kernel: str) -> None:
        if has_headers(kernel, self.modules):
            return
        exact, meta = header_packages(kernel)
        raise DkmsError(
            f"no headers for kernel {kernel}",
            os.path.join(self.modules, kernel, "build"),
            "install {}{}".format(exact, f", and {meta} so that upgrades bring theirs" if meta else ""),
        )

    def add(self, version: str) -> None:
        self._dkms("add", version, [], f"adding {self.name} {version} to dkms")

    def build(self, version: str, kernel: str, force: bool = False) -> None:
        self.require_headers(kernel)
        # --force builds anew over an old build and does not touch what is installed.
        arguments = ["-k", kernel] + (["--force"] if force else [])
        self._dkms("build", version, arguments, f"building {self.name} {version} for {kernel}")

    def install(self, version: str, kernel: str) -> None:
        # --force: dkms otherwise refuses to install over a module that claims the same or a newer version.
        arguments = ["-k", kernel, "--force"]
        self._dkms("install", version, arguments, f"installing {self.name} {version} for {kernel}")

    def uninstall(self, version: str, kernel: str) -> None:
        arguments = ["-k", kernel]
        self._dkms("uninstall", version, arguments, f"uninstalling {self.name} {version} for {kernel}")

    def remove(self, version: str) -> None:
        """From dkms, for all kernels, and its source."""
        if self.level(version, "") != "absent":
            self._dkms("remove", version, ["--all"], f"removing {self.name} {version} from dkms")
        source = self.source_path(version)
        if os.path.lexists(source):
            remove_path(source)

    def _dkms(self, verb: str, version: str, arguments: t.Sequence[str], doing: str) -> None:
        code, out, err = self.runner(["dkms", verb, "-m", self.name, "-v", version, *list(arguments)])
        if code == 0:
            return
        said = (err.strip() or out.strip()).splitlines()
        log = self.make_log(version) if verb == "build" else []
        problem = "%s failed (dkms %s ended with %d)" % (doing, verb, code)
        location = os.path.join(self.tree, version, "build", "make.log") if log else f"dkms {verb}"
        if code == 77:
            raise DkmsError(
                problem,
                location,
                "its dkms.conf excludes this kernel or architecture (BUILD_EXCLUSIVE_*)",
                log,
            )
        if log:
            wrong = [line for line in log if re.search(r"\berror\b", line, re.IGNORECASE)]
            raise DkmsError(problem, location, (wrong or log[-1:] or ["read the log"])[0].strip(), log)
        # Lines with "Error!" tell the reason, followed by an explanation.
        worst = next((line for line in said if "Error!" in line), said[-1] if said else "it printed nothing")
        raise DkmsError(problem, location, worst.replace("Error!", "").strip(), said[-LOG_LINES:])

    def make_log(self, version: str) -> t.List[str]:
        try:
            with open(
                os.path.join(self.tree, version, "build", "make.log"), encoding="utf-8", errors="replace"
            ) as log:
                return log.read().splitlines()[-LOG_LINES:]
        except OSError:
            return []


class Desired(t.NamedTuple):
    state: str  # absent, added, built, installed
    version: t.Optional[str]  # None with absent: all versions
    kernel: str
    source: t.Optional[str] = None  # folder; None: /usr/src/NAME-VERSION as it is
    remove_other_versions: bool = True
    force: bool = False
    exclude: t.Sequence[str] = BUILD_PRODUCTS


class DkmsOutcome(t.NamedTuple):
    changed: bool
    actions: t.List[str]
    warnings: t.List[str]
    before: t.Dict[str, t.Any]
    after: t.Dict[str, t.Any]


def converge_dkms(dkms: Dkms, desired: Desired, check_mode: bool = False) -> DkmsOutcome:
    """Makes it so, or says what it would do."""
    before = dkms.summary()
    if desired.state == "absent":
        return _absent(dkms, desired, before, check_mode)
    if desired.version is None:
        raise DkmsError("no version is named", dkms.name, "name the version with state=%s" % desired.state)
    work = _DkmsWork(dkms, desired, desired.version, check_mode)
    work.source()
    work.build_and_install()
    work.others()
    after = work.predicted(before) if check_mode else dkms.summary()
    return DkmsOutcome(bool(work.actions), work.actions, work.warnings, before, after)


def _absent(dkms: Dkms, desired: Desired, before: t.Dict[str, t.Any], check_mode: bool) -> DkmsOutcome:
    versions = [desired.version] if desired.version else sorted(set(before) | set(source_versions(dkms)))
    gone = [
        version for version in versions if version in before or os.path.lexists(dkms.source_path(version))
    ]
    actions = [f"removed {dkms.name} {version} from dkms" for version in gone]
    if gone and not check_mode:
        if any(version in before for version in gone):
            dkms.require()
        for version in gone:
            dkms.remove(version)
    after = {version: kernels for version, kernels in before.items() if version not in gone}
    return DkmsOutcome(bool(actions), actions, [], before, after if check_mode else dkms.summary())


def source_versions(dkms: Dkms) -> t.List[str]:
    """Versions with a folder in /usr/src whose dkms.conf names this package."""
    found = []
    prefix = dkms.name + "-"
    for folder in sorted(os.listdir(dkms.sources)) if os.path.isdir(dkms.sources) else []:
        if not folder.startswith(prefix):
            continue
        try:
            with open(
                os.path.join(dkms.sources, folder, "dkms.conf"), encoding="utf-8", errors="replace"
            ) as handle:
                text = handle.read()
        except OSError:
            continue
        if re.search(rf'^PACKAGE_NAME=["\']?{re.escape(dkms.name)}["\']?\s*$', text, re.MULTILINE):
            found.append(folder[len(prefix) :])
    return found


class _DkmsWork:
    """One version on its way to its state; the steps in their order."""

    def __init__(self, dkms: Dkms, desired: Desired, version: str, check_mode: bool) -> None:
        self.dkms = dkms
        self.desired = desired
        self.version = version
        self.check_mode = check_mode
        self.actions: t.List[str] = []
        self.warnings: t.List[str] = []
        self.level = dkms.level(version, desired.kernel)
        self.stale = False  # the source is newer than what was built from it
        self.superseded = [other for other in dkms.versions() if other != version]

    def source(self) -> None:
        target = self.dkms.source_path(self.version)
        kept = self._kept()
        if self.desired.source is not None:
            check_source(self.desired.source, self.dkms.name, self.version)
            if tree_digest(self.desired.source, self.desired.exclude) != tree_digest(
                target, self.desired.exclude
            ):
                self.stale = os.path.lexists(target)
                self.actions.append("{} source {}".format("replaced" if self.stale else "placed", target))
                if not self.check_mode:
                    replace_tree(self.desired.source, target, kept, self.desired.exclude)
        elif not os.path.isdir(target):
            raise DkmsError(
                f"no source of {self.dkms.name} {self.version}",
                target,
                "give it as source or remote_source",
            )
        # An earlier run was cut off between replacing the source and building it.
        self.stale = self.stale or os.path.lexists(kept)

    def build_and_install(self) -> None:
        try:
            self._build_and_install()
        except DkmsError:
            if not self.check_mode:
                self._restore()
            raise
        if not self.check_mode:
            remove_path(self._kept())

    def _build_and_install(self) -> None:
        dkms, desired, wanted = self.dkms, self.desired, LEVELS[self.desired.state]
        if self.level == "absent":
            self._step("added %s %s to dkms", lambda: dkms.add(self.version))
            self.level = "added"
        again = self.stale or desired.force
        if wanted >= LEVELS["built"] and (again or LEVELS[self.level] < LEVELS["built"]):
            if self.check_mode:
                dkms.require_headers(desired.kernel)
            words = "rebuilt" if LEVELS[self.level] >= LEVELS["built"] else "built"
            self._step(
                words + " %s %s for " + desired.kernel,
                lambda: dkms.build(self.version, desired.kernel, force=again),
            )
            self.level = "built" if self.level != "installed" else self.level
            again = True
        if wanted < LEVELS["installed"]:
            self._lower()
            return
        damage = dkms.damage(self.version, desired.kernel) if self.level == "installed" and not again else ""
        if self.level != "installed" or again or damage:
            self._step(
                "installed %s %s for " + desired.kernel + (f" ({damage})" if damage else ""), self._install
            )
            self.level = "installed"

    def _install(self) -> None:
        self.dkms.install(self.version, self.desired.kernel)
        boot = secure_boot()
        if boot["signed_only"] and not boot["key_enrolled"]:
            self.warnings.append("the kernel will refuse the module, its key is not enrolled: " + MOK_STEPS)

    def _lower(self) -> None:
        # "built" and "added" are states too: what goes beyond them is taken back.
        if self.level == "installed" and self.desired.state == "built":
            kernel = self.desired.kernel
            self._step("uninstalled %s %s for " + kernel, lambda: self.dkms.uninstall(self.version, kernel))
            self.level = "built"

    def others(self) -> None:
        if self.desired.state != "installed" or not self.desired.remove_other_versions:
            return
        for other in self.superseded:
            if not self._carry_over(other):
                continue
            self.actions.append(f"removed {self.dkms.name} {other} from dkms")
            if not self.check_mode:
                self.dkms.remove(other)

    def _carry_over(self, other: str) -> bool:
        """Other kernels that still rely on the old version get the new one first."""
        for kernel, level in self.dkms.kernels(other).items():
            if kernel == self.desired.kernel or level != "installed":
                continue
            if not os.path.isdir(os.path.join(self.dkms.modules, kernel, "kernel")):
                continue  # the kernel itself is gone
            try:
                self._step("installed %s %s for " + kernel, functools.partial(self._carry, kernel))
            except DkmsError as error:
                self.warnings.append(
                    f"{self.dkms.name} {other} stays, kernel {kernel} has no successor: {error}"
                )
                return False
        return True

    def _carry(self, kernel: str) -> None:
        self.dkms.build(self.version, kernel)
        self.dkms.install(self.version, kernel)

    def _step(self, words: str, act: t.Callable[[], None]) -> None:
        if not self.check_mode:
            self.dkms.require()
            act()
        self.actions.append(words % (self.dkms.name, self.version))

    def _kept(self) -> str:
        return os.path.join(self.dkms.sources, f".{self.dkms.name}-{self.version}.before")

    def _restore(self) -> None:
        kept, target = self._kept(), self.dkms.source_path(self.version)
        if os.path.isdir(kept):
            remove_path(target)
            os.rename(kept, target)

    def predicted(self, before: t.Dict[str, t.Any]) -> t.Dict[str, t.Any]:
        after = {version: dict(kernels) for version, kernels in before.items()}
        mine = after.setdefault(self.version, {})
        if self.level in ("built", "installed"):
            mine[self.desired.kernel] = self.level
        for action in self.actions:
            for other in self.superseded:
                if action == f"removed {self.dkms.name} {other} from dkms":
                    del after[other]
        if self.level == "installed":
            for version, kernels in after.items():
                if version != self.version and kernels.get(self.desired.kernel) == "installed":
                    kernels[self.desired.kernel] = "built"
        return after


# Source trees.


def tree_digest(path: str, exclude: t.Sequence[str] = BUILD_PRODUCTS) -> str:
    """SHA-256 over names, executable bits and contents; '' where there is no folder."""
    if not os.path.isdir(path):
        return ""
    digest = hashlib.sha256()
    for name in tree_files(path, exclude):
        full = os.path.join(path, name)
        executable = os.stat(full).st_mode & 0o100
        with open(full, "rb") as handle:
            content = hashlib.sha256(handle.read()).hexdigest()
        digest.update(("%s\0%d\0%s\n" % (name, bool(executable), content)).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def tree_files(path: str, exclude: t.Sequence[str] = BUILD_PRODUCTS) -> t.List[str]:
    """The files under `path`, relative, sorted; links are followed, as a source may be assembled of them."""

    def wanted(name: str) -> bool:
        return not any(fnmatch.fnmatchcase(name, pattern) for pattern in exclude)

    found = []
    for folder, folders, files in os.walk(path, followlinks=True):
        folders[:] = sorted(name for name in folders if wanted(name))
        found += [os.path.relpath(os.path.join(folder, name), path) for name in files if wanted(name)]
    return sorted(found)


def check_source(path: str, name: str, version: str) -> None:
    conf = os.path.join(path, "dkms.conf")
    try:
        with open(conf, encoding="utf-8", errors="replace") as handle:
            text = handle.read()
    except OSError:
        raise DkmsError("the source has no dkms.conf", path, "point source at the folder that holds it")
    for key, value in (("PACKAGE_NAME", name), ("PACKAGE_VERSION", version)):
        match = re.search(rf'^{key}=["\']?([^"\'\s#]*)', text, re.MULTILINE)
        # A value made by the shell cannot be judged here; dkms will.
        if match and "$" not in match.group(1) and match.group(1) != value:
            raise DkmsError(
                f"the source says {key}={match.group(1)}, wanted is {value}",
                conf,
                "give the one that it has",
            )


def replace_tree(source: str, target: str, kept: str, exclude: t.Sequence[str]) -> None:
    """Puts a copy of `source` at `target`; what was there is kept at `kept` until the build is through."""
    fresh = target + ".new"
    remove_path(fresh)
    os.makedirs(fresh, 0o755)
    for name in tree_files(source, exclude):
        path = os.path.join(fresh, name)
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        shutil.copyfile(os.path.join(source, name), path)
        executable = os.stat(os.path.join(source, name)).st_mode & 0o100
        os.chmod(path, 0o755 if executable else 0o644)
    if os.path.isdir(target) and not os.path.lexists(kept):
        os.rename(target, kept)
    remove_path(target)
    os.rename(fresh, target)


def unpack(archive: str, folder: str) -> None:
    """A tar of regular files, as the action plugin makes it."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = os.path.realpath(os.path.join(folder, member.name))
            content = tar.extractfile(member) if member.isfile() else None
            if content is None or not path.startswith(os.path.realpath(folder) + os.sep):
                raise DkmsError(
                    f"the archive holds {member.name!r}", archive, "it may hold plain files inside it only"
                )
            os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
            with open(path, "wb") as handle:
                shutil.copyfileobj(content, handle)
            os.chmod(path, 0o755 if member.mode & 0o100 else 0o644)


def remove_path(path: str) -> None:
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)
