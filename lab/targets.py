"""What a target is, and how `targets.yml` is read."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from lab.errors import LabError
from lab.paths import LAB


@dataclass(frozen=True)
class Target:
    """One kind of host: a Debian suite with its pockets and packages."""

    name: str
    base: str
    archives: tuple[str, ...]
    packages: tuple[str, ...]
    pin: tuple[str, ...] = ()
    stale: bool = False

    def suites(self) -> list[str]:
        """The suite names as they stand in an apt source line."""
        return [self.base if pocket == "main" else f"{self.base}-{pocket}" for pocket in self.archives]


@dataclass(frozen=True)
class Kernel:
    """A kernel of a target's archives that is not its image's own."""

    name: str
    target: str
    flavour: str

    @property
    def packages(self) -> tuple[str, str]:
        return f"linux-image-{self.flavour}", f"linux-headers-{self.flavour}"


def parse_kernels(text: str) -> dict[str, Kernel]:
    """All kernels of a targets.yml, by name; no name is a target's."""
    document = yaml.safe_load(text)
    found = {
        name: Kernel(name, str(entry["target"]), str(entry["flavour"]))
        for name, entry in document.get("kernels", {}).items()
    }
    for kernel in found.values():
        if kernel.target not in document["targets"] or kernel.name in document["targets"]:
            raise LabError(
                f"lab/targets.yml: kernel {kernel.name} needs a name of its own and a target that exists"
            )
    return found


def parse(text: str) -> dict[str, Target]:
    """All targets of a targets.yml, by name."""
    document = yaml.safe_load(text)
    common = tuple(document["common"])
    return {name: _target(name, entry, common) for name, entry in document["targets"].items()}


def _target(name: str, entry: dict[str, object], common: tuple[str, ...]) -> Target:
    known = {"base", "archives", "packages", "pin", "stale"}
    if unknown := set(entry) - known:
        raise LabError(
            f"lab/targets.yml: target {name} has unknown keys {sorted(unknown)}; known are {sorted(known)}"
        )

    def names(key: str) -> tuple[str, ...]:
        value = entry.get(key, [])
        if not isinstance(value, list):
            raise LabError(f"lab/targets.yml: {key} of target {name} must be a list")
        return tuple(str(item) for item in value)

    return Target(
        name=name,
        base=str(entry["base"]),
        archives=names("archives"),
        packages=tuple(sorted({*common, *names("packages")})),
        pin=names("pin"),
        stale=bool(entry.get("stale", False)),
    )


def _text() -> str:
    return (LAB / "targets.yml").read_text(encoding="utf-8")


def all_targets() -> dict[str, Target]:
    """The targets of this checkout."""
    return parse(_text())


def all_kernels() -> dict[str, Kernel]:
    """The further kernels of this checkout."""
    return parse_kernels(_text())


def find(name: str) -> Target:
    """The target of that name, or an error that lists the names there are."""
    targets = all_targets()
    if name in all_kernels():
        raise LabError(
            f"{name} is a kernel without a Docker host; it boots by python -m stress.topologies {name}"
        )
    if name not in targets:
        raise LabError(f"no target {name!r}; lab/targets.yml has: {', '.join(targets)}")
    return targets[name]
