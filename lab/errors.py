"""The ways the lab fails.

A LabError says what is wrong and how to mend it. A MachineDied is an infrastructure error: the virtual
machine itself went away. It is never retried silently and never looks like a failed test, so it has an exit
code of its own. A ModuleCrashed is a machine whose kernel died with the module under test on its stack: that is a failure.
"""

from __future__ import annotations

EXIT_FAILED = 1
EXIT_INFRASTRUCTURE = 75


class LabError(Exception):
    """Something the person at the keyboard can mend."""

    exit_code = EXIT_FAILED


class MachineDied(LabError):
    """The VM panicked, its QEMU exited, or it never became reachable."""

    exit_code = EXIT_INFRASTRUCTURE


class ModuleCrashed(MachineDied):
    """The kernel panicked, and a function of the module stands in the call trace."""

    exit_code = EXIT_FAILED
