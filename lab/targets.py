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


def all_targets() -> dict[str, Target]:
    """The targets of this checkout."""
    return parse((LAB / "targets.yml").read_text(encoding="utf-8"))


def find(name: str) -> Target:
    """The target of that name, or an error that lists the names there are."""
    targets = all_targets()
    if name not in targets:
        raise LabError(f"no target {name!r}; lab/targets.yml has: {', '.join(targets)}")
    return targets[name]
