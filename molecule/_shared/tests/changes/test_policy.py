# SPDX-License-Identifier: GPL-3.0-or-later
"""The same probe with a rule and without it, audit mode, reject against deny, revocation, counters.

The tests build on one another's state, in the order they stand; the last one restores the inventory's own policy.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

OFFICE_WEB = ("office", "host", 8081)
STRANGER_WEB = ("stranger", "host", 8081)
API_WEB = ("api", "web", 8080)
WEB_API = ("web", "api", 8443)

# A client that says a line and expects the echo, each time it is told to.
TALKER = r"""
import socket, sys
talk = socket.create_connection(("10.10.10.2", 8081), timeout=10)
talk.settimeout(4)
talk.recv(200)
print("connected", flush=True)
for line in sys.stdin:
    try:
        talk.sendall(line.encode())
        print("echo" if talk.recv(200) else "closed", flush=True)
    except socket.timeout:
        print("silence", flush=True)
    except OSError as error:
        print(type(error).__name__, flush=True)
"""


def own_policy(playbooks: Any) -> dict[str, Any]:
    folder = playbooks.inventory_file.parent / "group_vars"
    return dict(yaml.safe_load((folder / "docker_hosts.yml").read_text(encoding="utf-8")))


def say(talker: subprocess.Popen[str], line: str) -> str:
    assert talker.stdin is not None
    assert talker.stdout is not None
    talker.stdin.write(line + "\n")
    talker.stdin.flush()
    return talker.stdout.readline().strip()


@pytest.fixture(scope="module")
def talker(guest: Any) -> Iterator[subprocess.Popen[str]]:
    """A connection from the office to the web shop that is held open through all the changes."""
    guest.run("cat > /run/bw-talker.py", TALKER)
    process = guest.popen("ip netns exec office python3 -u /run/bw-talker.py")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "connected"
    yield process
    process.terminate()
    process.wait()


def test_a_connection_within_the_rules_works(talker: subprocess.Popen[str]) -> None:
    assert say(talker, "one") == "echo"


def test_the_rules_count_what_they_let_through(guest: Any) -> None:
    before = guest.counters()
    guest.probe(OFFICE_WEB, WEB_API, STRANGER_WEB)
    after = guest.counters()
    for rule in (
        "office reaches the web shop",
        "the web shop calls the API",
        "default for outside to container",
    ):
        assert after[rule] > before[rule], rule
    quiet = "only the app reaches the database"
    assert after[quiet] == before[quiet]


def test_audit_mode_lets_through_and_counts(guest: Any, playbooks: Any) -> None:
    playbooks.apply(bridgewarden_mode="audit")
    before = guest.counters()
    assert guest.probe(STRANGER_WEB, API_WEB) == ["open"] * 4
    after = guest.counters()
    assert after["default for outside to container"] > before["default for outside to container"]
    assert after["default for container to container"] > before["default for container to container"]


def test_other_rules_other_paths(guest: Any, playbooks: Any, talker: subprocess.Popen[str]) -> None:
    """The office loses its rule, the api gets one, the stranger is told no."""
    assert say(talker, "two") == "echo", "audit mode has cut nothing"
    rules = [
        rule
        for rule in own_policy(playbooks)["bridgewarden_rules"]
        if rule["name"] != "office reaches the web shop"
    ]
    rules += [
        {"name": "the API looks at the web shop", "from": ["app"], "to": ["web"], "ports": ["8080/tcp"]},
        {
            "name": "the stranger is told no",
            "action": "reject",
            "from": ["10.10.10.9/32", "2001:db8:10::9/128"],
            "to": ["web"],
        },
    ]
    playbooks.apply(bridgewarden_rules=rules)
    assert guest.probe(OFFICE_WEB) == ["timeout", "timeout"]
    assert guest.probe(API_WEB) == ["open", "open"]
    assert guest.probe(STRANGER_WEB) == ["refused", "refused"]


def test_a_revoked_rule_cuts_the_established_connection(talker: subprocess.Popen[str]) -> None:
    assert say(talker, "three") == "silence"


def test_the_inventorys_policy_holds_again(guest: Any, playbooks: Any) -> None:
    assert playbooks.apply().recap["changed"] == 1
    assert guest.probe(OFFICE_WEB, API_WEB, STRANGER_WEB) == ["open", "open"] + ["timeout"] * 4
