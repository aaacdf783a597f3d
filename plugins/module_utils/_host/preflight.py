# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Can this host be hardened, and what does it lack?

Runs before anything is installed, so: the standard library only, and only
reading.  Every finding that stops the work is a Problem with its location and
a hint; all of them are reported at once.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import http.client
import os
import platform
import shutil
import sys
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import (
    docker_get,
    socket_path,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    DockerUnavailable,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.ipvs import (
    HINT as IPVS_HINT,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.ipvs import (
    untracked_servers,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import (
    is_loaded,
    modules_disabled,
    modules_supported,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.not_covered import not_covered
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.packages import (
    has_headers,
    header_packages,
    kernel_flavour,
    meta_target,
    missing_packages,
    newer_kernels,
    numbers,
    unknown_to_apt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.secure_boot import (
    MOK_STEPS,
    secure_boot,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import search_path
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

MINIMUM_KERNEL = "5.10"
MINIMUM_DOCKER = (20, 10)
MINIMUM_PYTHON = (3, 9)

#: With this file dockerd does not start before the kernel holds a policy (bridgewarden_require).
REQUIRE_DROP_IN = "/etc/systemd/system/docker.service.d/bridgewarden.conf"


class Problem(t.NamedTuple):
    problem: str
    location: str
    hint: str

    def text(self) -> str:
        return "{} ({}): {}".format(*self)


class Report(t.NamedTuple):
    facts: Json
    packages: t.List[str]  # to install, in one go
    problems: t.List[Problem]
    warnings: t.List[str]
    not_covered: t.List[Json]  # rows of not_covered.py


def examine_docker(socket: str, problems: t.List[Problem], drop_in: str = REQUIRE_DROP_IN) -> Json:
    """What answers at `socket`. A dockerd that waits for us (`held`) is no problem: we are about to end its wait."""
    facts: Json = {
        "dockerd": shutil.which("dockerd", path=search_path()),
        "version": None,
        "api_version": None,
        "held": False,
    }
    try:
        place = socket_path(socket)
    except DockerUnavailable as error:
        problems.append(Problem(error.problem, error.location, error.hint))
        return facts
    try:
        docker_get("/_ping", socket)
        version = docker_get("/version", socket)
    except (FileNotFoundError, ConnectionRefusedError, http.client.HTTPException) as error:
        if facts["dockerd"] and os.path.exists(drop_in) and not is_loaded("bridgewarden"):
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


# All of it.


def examine(
    socket: str = DEFAULT_SOCKET,
    need_docker: bool = True,
    need_module: bool = True,
    min_kernel: str = MINIMUM_KERNEL,
    further: t.Sequence[str] = (),
    placement: str = "forward",
    unguarded: t.Sequence[str] = (),
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
            f"the interpreter {sys.executable} is not the distribution's: it will not see python3-jmespath; "
            "set ansible_python_interpreter=/usr/bin/python3"
        )
    packages: t.List[str] = []
    if need_module:
        if numbers(release) < numbers(min_kernel):
            problems.append(
                Problem(f"Linux {release} is too old", "uname -r", f"boot a kernel {min_kernel} or newer")
            )
        packages = _examine_kernel(release, facts, problems, warnings, further)
    docker_problems = problems if need_docker else []
    facts["docker"] = examine_docker(socket, docker_problems)
    if facts["docker"]["held"]:
        warnings.append(
            f"dockerd is not running: {REQUIRE_DROP_IN} holds it back until the kernel module is loaded"
        )
    servers = untracked_servers()
    if servers:
        warnings.append(
            "IPVS forwards by NAT without connection tracking, so answers of guarded containers will be dropped as "
            f"invalid: real server {', '.join(servers)}; {IPVS_HINT}"
        )
    if not os.path.isdir("/run/systemd/system"):
        problems.append(
            Problem(
                "systemd does not run this host",
                "/run/systemd/system",
                "bridgewarden starts with systemd units only",
            )
        )
    rows: t.List[Json] = []
    if facts["docker"]["version"]:
        try:
            rows = not_covered(collect_facts(socket), placement, unguarded)
        except BridgewardenError as error:
            warnings.append(f"what is not covered could not be told: {error.text()}")
    return Report(facts, packages, problems, warnings + _told(rows), rows)


#: Names in one warning.
_MOST_NAMES = 5


def _told(rows: t.Sequence[Json]) -> t.List[str]:
    """One warning for each kind of row."""
    texts = []
    for what in dict.fromkeys(row["what"] for row in rows):
        names = [row["name"] for row in rows if row["what"] == what]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        first = next(row for row in rows if row["what"] == what)
        texts.append(
            f"not covered ({what}): {', '.join(names[:_MOST_NAMES])}{more}: {first['why']}; {first['hint']}"
        )
    return texts


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
    if facts["modules_disabled"] and not is_loaded("bridgewarden"):
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
