# SPDX-License-Identifier: GPL-3.0-or-later
"""What all scenarios' tests have in common: each verify step gets a JUnit file of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


def step_of(test_file: str) -> str:
    """The name of a verify step by one of its files, as _shared/count.yml has it: the folder, or `engine` of _engine/tests."""
    folder = Path(test_file).resolve().parent
    return (folder.parent if folder.name == "tests" else folder).name.lstrip("_")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Numbers the JUnit files of a scenario; molecule would have the last step overwrite those before."""
    path = config.option.xmlpath
    if path:
        wanted = Path(path)
        number = len(list(wanted.parent.glob(f"{wanted.stem}-*.xml"))) + 1
        config.option.xmlpath = str(wanted.with_name(f"{wanted.stem}-{number}-{step_of(config.args[0])}.xml"))
