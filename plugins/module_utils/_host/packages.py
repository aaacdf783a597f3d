# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Packages of the distribution that the host needs, and the kernel's headers.

Knows Debian's names; elsewhere it names no packages.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import re
import shutil
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._system import run, search_path

#: What the host needs beside the kernel's headers.
LIBRARIES = ("python3-jmespath",)


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


# Packages.


def installed_packages(names: t.Sequence[str]) -> t.Optional[t.Set[str]]:
    """Those of `names` that are installed; None where there is no dpkg."""
    if not shutil.which("dpkg-query", path=search_path()):
        return None
    dummy, out, dummy_err = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\\n", *list(names)])
    return {line.split()[0] for line in out.splitlines() if line.endswith(" installed")}


def missing_packages(release: str, headers: bool, further: t.Sequence[str] = ()) -> t.Optional[t.List[str]]:
    """What one apt task has to install; None where the package manager is not apt."""
    exact, meta = header_packages(release)
    wanted = ["dkms"] + ([meta] if meta else []) + sorted({*LIBRARIES, *further})
    if not headers:
        # The meta package may already point at a newer kernel than the running one.
        wanted.insert(1, exact)
    installed = installed_packages(wanted)
    return None if installed is None else [name for name in wanted if name not in installed]


def meta_target(meta: str) -> t.Optional[str]:
    """The kernel release whose headers an installed meta package brings."""
    if not meta or not shutil.which("dpkg-query", path=search_path()):
        return None
    out = run(["dpkg-query", "-W", "-f", "${Depends}", meta])[1]
    match = re.search(r"linux-headers-(\d[\w.+~-]*)", out)
    return match.group(1) if match else None


def unknown_to_apt(packages: t.Sequence[str]) -> t.Set[str]:
    """Those of `packages` that are in no package list; none where apt has no lists to judge by."""
    if not packages or not shutil.which("apt-cache", path=search_path()):
        return set()
    code, out, dummy = run(["apt-cache", "policy", "dkms", *list(packages)])
    known = {
        name
        for name, candidate in re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (.*)$", out, re.MULTILINE)
        if candidate != "(none)"
    }
    # Lists that know not even dkms are empty or foreign and prove nothing.
    return set(packages) - known if code == 0 and "dkms" in known else set()
