# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches whom, by real connections over IPv4 and IPv6, against what the shop's owner wants (lab/expected.yml).

Covers an outside client at a published port (docs: path A) with the rule (office) and without it (stranger), containers on
one bridge with a rule (web to api) and without one (api to web), the host's own SSH, and container addresses from outside.
Replies have no rules of their own anywhere in the policy.
"""

from __future__ import annotations

from typing import Any

import pytest

from lab import matrix

WANTED = matrix.expected_of_this_checkout()


@pytest.fixture(scope="module")
def before(memory: Any) -> dict[Any, str]:
    return {tuple(row[:4]): row[4] for row in memory.load("before")}


@pytest.fixture(scope="module")
def after(guest: Any) -> dict[Any, str]:
    return dict(guest.matrix({key for key in matrix.all_paths() if key[:3] in WANTED}))


@pytest.mark.parametrize("key", matrix.all_paths(), ids=lambda key: f"{key[0]}-{key[1]}-{key[2]}-ipv{key[3]}")
def test_path(before: dict[Any, str], after: dict[Any, str], key: matrix.Key) -> None:
    if before[key] == "absent":
        pytest.skip("no such path on this host, before or after")
    if key[:3] in WANTED:
        assert after[key] == "open"
    else:
        assert after[key] != "open"


def test_deny_is_silent(before: dict[Any, str], after: dict[Any, str]) -> None:
    """Where before it was open, no packet comes back: nobody answers in our name."""
    denied = {key: after[key] for key, result in before.items() if result == "open" and key[:3] not in WANTED}
    assert len(denied) > 20
    assert set(denied.values()) == {"timeout"}, denied


def test_the_machine_remembers_its_containers(guest: Any, memory: Any) -> None:
    """Kept for the uninstall, which must not touch them."""
    memory.save("containers", guest.containers())
    assert len(guest.containers()) == 4
