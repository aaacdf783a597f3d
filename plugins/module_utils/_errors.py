# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong, in words.

Every error names the problem, its location and a hint, and reads as one line:
"problem (location): hint".  The library raises these only; modules turn them into
fail_json, the command into an exit code.  Nothing here may import the library.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import difflib
import typing as t

#: Where in a policy: ("rules", 3, "ports", 0) is rules[3].ports[0].
Path = t.Tuple[t.Union[str, int], ...]


def path_text(path: t.Sequence[t.Union[str, int]]) -> str:
    """The path as an operator writes it: rules[3].ports[0]."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += "[%d]" % step
        else:
            text += ("." if text else "") + step
    return text


def did_you_mean(word: str, known: t.Iterable[str]) -> str:
    """' Did you mean "web"?' for a near miss, else ''."""
    lowered = {name.lower(): name for name in known}
    if len(lowered) > 1000:  # comparing costs; a near miss mostly has its first letter right
        lowered = {low: name for low, name in lowered.items() if low[:1] == word[:1].lower()}
        lowered = dict(sorted(lowered.items())[:1000])
    near = difflib.get_close_matches(word.lower(), list(lowered), n=1, cutoff=0.6)
    return f' Did you mean "{lowered[near[0]]}"?' if near else ""


class BridgewardenError(Exception):
    """Base of all errors of the collection."""

    kind = "error"  # stable word for scripts, in module results as error_kind
    exit_code = 1  # of the bridgewarden command

    def __init__(self, problem: str, location: str = "", hint: str = "") -> None:
        self.problem = problem
        self.location = location
        self.hint = hint
        super().__init__(self.text())

    def text(self) -> str:
        text = self.problem
        if self.location:
            text += f" ({self.location})"
        if self.hint:
            text += ": " + self.hint
        return text

    def __str__(self) -> str:
        return self.text()

    def as_result(self) -> t.Dict[str, t.Any]:
        """What a module hands to fail_json beside msg."""
        return {
            "error_kind": self.kind,
            "problem": self.problem,
            "location": self.location,
            "hint": self.hint,
        }


class PolicyError(BridgewardenError):
    """The desired policy is wrong; `path` leads to the offending value in it."""

    kind = "policy"
    exit_code = 2

    def __init__(
        self, problem: str, path: t.Sequence[t.Union[str, int]] = (), hint: str = "", rule: str = ""
    ) -> None:
        self.path: Path = tuple(path)
        self.rule = rule
        location = path_text(self.path)
        if rule:
            location = 'rule "{}"{}'.format(rule, ", " + location if location else "")
        super().__init__(problem, location, hint)

    def as_result(self) -> t.Dict[str, t.Any]:
        return dict(super().as_result(), path=list(self.path), rule=self.rule)


class SelectorError(PolicyError):
    """A selector matches nothing on this host and on_empty_selector is "fail"."""

    kind = "selector"


class RefusedError(BridgewardenError):
    """Safe on paper, but it would cut somebody off: needs `force`."""

    kind = "refused"
    exit_code = 3


class DockerUnavailable(BridgewardenError):
    """dockerd does not answer, or its library is missing."""

    kind = "docker"
    exit_code = 4


class LibraryMissing(BridgewardenError):
    """A Python library of the distribution is not installed."""

    kind = "library"
    exit_code = 4


class ModuleMissing(BridgewardenError):
    """The kernel module is not loaded."""

    kind = "module_missing"
    exit_code = 5


class VersionMismatch(BridgewardenError):
    """The loaded kernel module and this library do not speak the same language."""

    kind = "version"
    exit_code = 5


class PermissionDenied(BridgewardenError):
    """Not root in the initial namespaces."""

    kind = "permission"
    exit_code = 6


class KernelError(BridgewardenError):
    """The kernel module refused a request; `errno` and its own words are in it."""

    kind = "kernel"
    exit_code = 7

    def __init__(self, problem: str, location: str = "", hint: str = "", errno: int = 0) -> None:
        self.errno = errno
        super().__init__(problem, location, hint)


class Stale(KernelError):
    """The generation is not the expected one: somebody else has committed, or a link has gone."""

    kind = "stale"


class Busy(KernelError):
    """Another transaction or an open confirm window is in the way."""

    kind = "busy"


class Sealed(KernelError):
    """The module is sealed: no change until reboot."""

    kind = "sealed"


class StoreCorrupt(BridgewardenError):
    """A file of ours does not read as what was written."""

    kind = "store"
    exit_code = 8


class Locked(BridgewardenError):
    """Another writer holds the host's lock."""

    kind = "locked"
    exit_code = 9
