# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Can this host be hardened, and what does it lack?

Runs before anything is installed, so: the standard library only, and only
reading.  Every finding that stops the work is a problem with thing, place and
mend; all of them are told at once.  Knows Debian's package names; elsewhere it
reports facts and names no packages.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import fnmatch
import http.client
import json
import os
import platform
import re
import shutil
import socket as socketlib
import subprocess
import sys
import typing as t

Json = t.Dict[str, t.Any]

MINIMUM_KERNEL = "5.10"
MINIMUM_DOCKER = (20, 10)
MINIMUM_PYTHON = (3, 9)

DOCKER_SOCKET = "/var/run/docker.sock"

#: With this file dockerd does not start before the kernel holds a policy (bridgewarden_require).
REQUIRE_DROP_IN = "/etc/systemd/system/docker.service.d/bridgewarden.conf"

#: What the host needs beside the kernel's headers.
LIBRARIES = {"pyroute2": "python3-pyroute2", "jmespath": "python3-jmespath"}

#: Where dkms keeps the key it signs with; Ubuntu's is the second.
SIGNING_KEYS = ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der")

_SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


class Problem(t.NamedTuple):
    thing: str
    place: str
    mend: str

    def text(self) -> str:
        return "{} ({}): {}".format(*self)


class Report(t.NamedTuple):
    facts: Json
    packages: t.List[str]  # to install, in one go
    problems: t.List[Problem]
    warnings: t.List[str]


def read(path: str) -> t.Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read().strip()
    except OSError:
        return None


def numbers(version: str) -> t.Tuple[int, ...]:
    """The leading numbers of a version: "6.12.117+deb13" is (6, 12, 117)."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group(0).split(".")) if match else ()


# The kernel and its headers.


# 6.12.117+deb13-cloud-amd64, 6.1.0-56-amd64, 5.10.0-32-686-pae
_RELEASE = re.compile(
    r"^\d[\w.+~]*(?:-\d[\w.+~]*?)??-(?P<flavour>(?:686(?:-pae)?)|(?:[a-z][a-z0-9]*)(?:-[a-z0-9]+)*)$"
)


def kernel_flavour(release: str) -> str:
    """What follows the version in a kernel's release: "cloud-amd64", "amd64", "rt-amd64", "generic"."""
    match = re.match(
        r"^\d[\w.+~]*(?:-\d[\w.+~]*?)??-(?P<flavour>(?:686(?:-pae)?)|(?:[a-z][a-z0-9]*)(?:-[a-z0-9]+)*)$",
        release,
    )
    return match.group("flavour") if match else ""


def header_packages(release: str) -> t.Tuple[str, str]:
    """The package with the headers of just this kernel, and the meta package that follows its upgrades."""
    flavour = kernel_flavour(release)
    return "linux-headers-" + release, "linux-headers-" + flavour if flavour else ""


def has_headers(release: str, modules: str = "/lib/modules") -> bool:
    return os.path.exists(os.path.join(modules, release, "build", "Makefile"))


def newer_kernels(release: str, modules: str = "/lib/modules") -> t.List[str]:
    """Installed kernels of the same flavour that are newer than `release`: a reboot is due."""
    try:
        installed = os.listdir(modules)
    except OSError:
        return []
    flavour = kernel_flavour(release)

    def age(name: str) -> t.List[int]:
        return [int(part) for part in re.findall(r"\d+", name)]

    return sorted(
        (
            name
            for name in installed
            if kernel_flavour(name) == flavour
            and age(name) > age(release)
            and os.path.isdir(os.path.join(modules, name, "kernel"))
        ),
        key=age,
    )


def modules_supported() -> bool:
    return os.path.exists("/proc/modules")


def modules_disabled() -> bool:
    return read("/proc/sys/kernel/modules_disabled") == "1"


def module_loaded(name: str) -> bool:
    return os.path.exists(f"/sys/module/{name}")


# Secure Boot.


def secure_boot() -> Json:
    """Whether the firmware verifies, how far the kernel is locked down, whether dkms's key is known to it."""
    enabled: t.Optional[bool] = None
    try:
        with open(_SECURE_BOOT, "rb") as handle:
            enabled = handle.read()[-1:] == b"\1"
    except OSError:
        if not os.path.isdir("/sys/firmware/efi"):
            enabled = False  # no EFI at all
    lockdown = None
    match = re.search(r"\[(\w+)\]", read("/sys/kernel/security/lockdown") or "")
    if match:
        lockdown = match.group(1)
    key = next((path for path in SIGNING_KEYS if os.path.exists(path)), None)
    enrolled: t.Optional[bool] = None
    if key and enabled and shutil.which("mokutil"):
        done = run(["mokutil", "--test-key", key])
        enrolled = "already enrolled" in done[1] + done[2]
    signed_only = bool(enabled and lockdown not in (None, "none")) or read(
        "/sys/module/module/parameters/sig_enforce"
    ) in ("Y", "1")
    return {
        "enabled": enabled,
        "lockdown": lockdown,
        "signed_only": signed_only,
        "key": key,
        "key_enrolled": enrolled,
    }


MOK_STEPS = (
    "enrol DKMS's key: apt install mokutil dkms, then 'dkms generate_mok' (dkms 3.2; older ones make the key "
    "at the first build), 'mokutil --import /var/lib/dkms/mok.pub', reboot and accept it at the console; "
    "or switch Secure Boot off"
)


# Docker, without its library.


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class NoSuchThing(ValueError):
    """dockerd says 404."""


def get_json(connection: UnixConnection, path: str) -> t.Any:
    """The JSON answer to GET `path`. Raises OSError, ValueError or http.client.HTTPException."""
    connection.request("GET", path)
    return answer(connection, path)


def answer(connection: UnixConnection, path: str) -> t.Any:
    """The same, where it has been asked for already."""
    response = connection.getresponse()
    if response.status != 200:
        raise refusal(response, path)
    body = response.read()
    return json.loads(body) if body.strip() != b"OK" else "OK"


def refusal(response: http.client.HTTPResponse, path: str) -> ValueError:
    """The error for an answer other than 200, with dockerd's own message."""
    body = response.read(64 * 1024).decode("utf-8", "replace")
    try:
        said = str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        said = body
    words = " ".join(said.split())[:500]
    kind = NoSuchThing if response.status == 404 else ValueError
    return kind("GET %s: status %d%s" % (path.partition("?")[0], response.status, words and ": " + words))


def docker_get(path: str, socket: str = DOCKER_SOCKET, timeout: float = 10.0) -> t.Any:
    """dockerd's answer to GET `path`, over a connection of its own."""
    connection = UnixConnection(socket[len("unix://") :] if socket.startswith("unix://") else socket, timeout)
    try:
        return get_json(connection, path)
    finally:
        connection.close()


def docker(socket: str, problems: t.List[Problem], drop_in: str = REQUIRE_DROP_IN) -> Json:
    """What answers at `socket`. A dockerd that waits for us (`held`) is no problem: we are about to end its wait."""
    facts: Json = {
        "dockerd": shutil.which("dockerd", path=_path()),
        "version": None,
        "api_version": None,
        "held": False,
    }
    place = socket[len("unix://") :] if socket.startswith("unix://") else socket
    try:
        docker_get("/_ping", socket)
        version = docker_get("/version", socket)
    except (FileNotFoundError, ConnectionRefusedError, http.client.HTTPException) as error:
        if facts["dockerd"] and os.path.exists(drop_in) and not module_loaded("bridgewarden"):
            facts["held"] = True
        elif not isinstance(error, FileNotFoundError):
            problems.append(
                Problem(f"dockerd does not answer: {error}", place, "look at 'systemctl status docker'")
            )
        elif facts["dockerd"]:
            problems.append(Problem("dockerd is not running", place, "start it: systemctl start docker"))
        else:
            problems.append(
                Problem("Docker is not installed", place, "install docker.io (or docker-ce) 20.10 or newer")
            )
        return facts
    except PermissionError:
        problems.append(Problem("no permission for Docker's socket", place, "run as root (become: true)"))
        return facts
    except (OSError, ValueError) as error:
        problems.append(
            Problem(f"dockerd does not answer: {error}", place, "look at 'systemctl status docker'")
        )
        return facts
    facts["version"] = str(version.get("Version") or "")
    facts["api_version"] = version.get("ApiVersion")
    if numbers(facts["version"])[:2] < MINIMUM_DOCKER:
        problems.append(
            Problem("Docker {} is too old".format(facts["version"]), place, "upgrade to 20.10 or newer")
        )
    return facts


# Packages.


def installed_packages(names: t.Sequence[str]) -> t.Optional[t.Set[str]]:
    """Those of `names` that are installed; None where there is no dpkg."""
    if not shutil.which("dpkg-query", path=_path()):
        return None
    dummy, out, dummy_err = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *list(names)])
    return {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}


def missing_packages(release: str, headers: bool, further: t.Sequence[str] = ()) -> t.Optional[t.List[str]]:
    """What one apt task has to install; None where the package manager is not apt."""
    exact, meta = header_packages(release)
    wanted = ["dkms"] + ([meta] if meta else []) + sorted({*LIBRARIES.values(), *further})
    if not headers:
        # The meta package may already point at a newer kernel than the running one.
        wanted.insert(1, exact)
    installed = installed_packages(wanted)
    return None if installed is None else [name for name in wanted if name not in installed]


def meta_target(meta: str) -> t.Optional[str]:
    """The kernel release whose headers an installed meta package brings."""
    if not meta or not shutil.which("dpkg-query", path=_path()):
        return None
    out = run(["dpkg-query", "-W", "-f", "${Depends}", meta])[1]
    match = re.search(r"linux-headers-(\d[\w.+~-]*)", out)
    return match.group(1) if match else None


def run(argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
    """A command's code and output in the C locale; code 127 where it is not there."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=dict(os.environ, LC_ALL="C", PATH=_path()),
            check=False,
        )
    except OSError as error:
        return 127, "", str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def _path() -> str:
    return os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin:/usr/local/sbin:/usr/local/bin"


def matches(name: str, patterns: t.Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


# All of it.


def examine(
    socket: str = DOCKER_SOCKET,
    need_docker: bool = True,
    need_module: bool = True,
    min_kernel: str = MINIMUM_KERNEL,
    further: t.Sequence[str] = (),
) -> Report:
    problems: t.List[Problem] = []
    warnings: t.List[str] = []
    release = os.uname().release
    facts: Json = {
        "kernel": release,
        "architecture": os.uname().machine,
        "python": {"executable": sys.executable, "version": platform.python_version()},
    }
    if sys.version_info[:2] < MINIMUM_PYTHON:
        problems.append(
            Problem(
                f"Python {platform.python_version()} is too old",
                sys.executable,
                "set ansible_python_interpreter to a Python 3.9 or newer",
            )
        )
    if sys.prefix != "/usr":
        warnings.append(
            f"the interpreter {sys.executable} is not the distribution's: it will not see python3-pyroute2 "
            "and python3-jmespath; set ansible_python_interpreter=/usr/bin/python3"
        )
    packages: t.List[str] = []
    if need_module:
        if numbers(release) < numbers(min_kernel):
            problems.append(
                Problem(f"Linux {release} is too old", "uname -r", f"boot a kernel {min_kernel} or newer")
            )
        packages = _examine_kernel(release, facts, problems, warnings, further)
    docker_problems = problems if need_docker else []
    facts["docker"] = docker(socket, docker_problems)
    if facts["docker"]["held"]:
        warnings.append(
            f"dockerd is not running: {REQUIRE_DROP_IN} holds it back until the kernel module is loaded"
        )
    if not os.path.isdir("/run/systemd/system"):
        problems.append(
            Problem(
                "systemd does not run this host",
                "/run/systemd/system",
                "bridgewarden starts with systemd units only",
            )
        )
    return Report(facts, packages, problems, warnings)


def _examine_kernel(
    release: str,
    facts: Json,
    problems: t.List[Problem],
    warnings: t.List[str],
    further: t.Sequence[str] = (),
) -> t.List[str]:
    facts["modules_supported"] = modules_supported()
    facts["modules_disabled"] = modules_disabled()
    facts["secure_boot"] = secure_boot()
    if not facts["modules_supported"]:
        problems.append(
            Problem(
                "the kernel cannot load modules (CONFIG_MODULES is not set)",
                "/proc/modules",
                "boot a distribution kernel; bridgewarden needs its kernel module",
            )
        )
    if facts["modules_disabled"] and not module_loaded("bridgewarden"):
        problems.append(
            Problem(
                "loading kernel modules is switched off until reboot",
                "kernel.modules_disabled = 1",
                "remove the setting from sysctl.d (or load bridgewarden before it takes effect) and reboot",
            )
        )
    if facts["secure_boot"]["signed_only"] and not facts["secure_boot"]["key_enrolled"]:
        problems.append(Problem("the kernel takes signed modules only (Secure Boot)", "MOK list", MOK_STEPS))

    headers = has_headers(release)
    exact, meta = header_packages(release)
    newer = newer_kernels(release)
    target = meta_target(meta)
    facts["headers"] = {
        "installed": headers,
        "package": exact,
        "meta_package": meta or None,
        "meta_kernel": target,
    }
    facts["newer_kernels"] = newer
    if newer:
        warnings.append(
            f"running kernel {release}, but {newer[-1]} is installed: the host will change kernels at its next reboot"
        )
    if target and target != release and not newer:
        warnings.append(f"{meta} brings the headers of {target}, not those of the running kernel {release}")
    packages = missing_packages(release, headers, further)
    if packages is None:
        if not headers:
            problems.append(
                Problem(
                    "no headers for the running kernel",
                    f"/lib/modules/{release}/build",
                    "install the headers package of this kernel with the distribution's package manager",
                )
            )
        return []
    unknown = unknown_to_apt(packages)
    if exact in unknown:
        problems.append(
            Problem(
                "no headers for the running kernel, and the archive has none of that version",
                f"package {exact}",
                f"upgrade the kernel and reboot: apt install linux-image-{kernel_flavour(release)} {meta}"
                if meta and meta not in unknown
                else "install the headers of this kernel by hand",
            )
        )
    if meta in unknown:
        warnings.append(
            f"apt knows no {meta}: after a kernel upgrade the headers have to be installed by hand"
        )
        packages.remove(meta)
    return packages


def unknown_to_apt(packages: t.Sequence[str]) -> t.Set[str]:
    """Those of `packages` that are in no package list; none where apt has no lists to judge by."""
    if not packages or not shutil.which("apt-cache", path=_path()):
        return set()
    code, out, dummy = run(["apt-cache", "policy", "dkms", *list(packages)])
    known = {
        name
        for name, candidate in re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", out, re.MULTILINE)
        if candidate != "(none)"
    }
    # Lists that know not even dkms are empty or foreign and prove nothing.
    return set(packages) - known if code == 0 and "dkms" in known else set()
