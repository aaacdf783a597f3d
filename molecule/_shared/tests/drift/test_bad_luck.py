# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong on a real host ends with one clear error and no change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

ALLOWED, DENIED = ("office", "host", 8081), ("stranger", "host", 8081)


@pytest.fixture
def dockerd_down(guest: Any, until: Any, memory: Any) -> Iterator[None]:
    guest.run("systemctl stop docker.socket docker")
    try:
        yield
    finally:
        guest.run("systemctl start docker")

    def known_again() -> None:
        assert guest.probe(ALLOWED, DENIED) == ["open", "open", "timeout", "timeout"]

    until(known_again, 120)
    memory.save("containers", guest.containers())


@pytest.mark.usefixtures("dockerd_down")
def test_dockerd_is_not_running(playbooks: Any) -> None:
    """And when it is back, the agent makes its containers known again (see the fixture)."""
    run = playbooks.harden()
    assert run.code != 0
    assert run.recap["changed"] == 0
    assert "docker" in run.output.split("fatal:", 1)[1].lower()


def test_a_selector_without_a_match_if_that_is_an_error(playbooks: Any) -> None:
    stray = {"name": "nobody is there", "from": ["office"], "to": ["container:nobody"], "ports": ["80/tcp"]}
    run = playbooks.harden(bridgewarden_rules_stray=[stray], bridgewarden_on_empty_selector="fail")
    assert run.code != 0
    assert run.recap["changed"] == 0
    assert "nobody is there" in run.output.split("fatal:", 1)[1]
