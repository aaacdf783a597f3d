# SPDX-License-Identifier: GPL-3.0-or-later
"""The first hardening of a host, in mode audit: it changes no packet's fate, although somebody's own rule would drop more if it did.

That rule drops what is forwarded within a bridge. It met nothing so far, as same-bridge traffic does not come to IP's hooks on this host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

SAME_BRIDGE = ("api", "web", 8080)  # both on the frontend network, no rule
FOREIGN = """table inet foreign {
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname "br-*" oifname "br-*" counter drop
  }
}
"""
OFF = "sysctl -q -w net.bridge.bridge-nf-call-iptables={0} net.bridge.bridge-nf-call-ip6tables={0}"


@pytest.fixture(scope="module", autouse=True)
def foreign(guest: Any) -> Iterator[None]:
    guest.run("modprobe br_netfilter && " + OFF.format(0))
    guest.run("nft -f -", FOREIGN)
    yield
    guest.run("nft delete table inet foreign; " + OFF.format(1))


def switches(guest: Any) -> list[str]:
    """Every switch that hands bridged traffic up, the bridges' own included."""
    said = guest.run(
        "cat /proc/sys/net/bridge/bridge-nf-call-ip*tables /sys/class/net/*/bridge/nf_call_ip*tables"
    )
    return sorted(set(said.split()))


def test_the_foreign_rule_would_drop_what_is_handed_up(guest: Any) -> None:
    assert guest.probe(SAME_BRIDGE) == ["open", "open"]
    guest.run(OFF.format(1))
    assert guest.probe(SAME_BRIDGE) == ["timeout", "timeout"]
    guest.run(OFF.format(0))


def test_hardening_in_audit_changes_nothing(guest: Any, playbooks: Any) -> None:
    run = playbooks.harden(bridgewarden_mode="audit")
    assert run.code == 0, run.output
    assert switches(guest) == ["0"]
    assert guest.probe(SAME_BRIDGE) == ["open", "open"]


def test_what_would_have_been_denied_is_counted(guest: Any) -> None:
    before = guest.counters()
    assert guest.probe(SAME_BRIDGE) == ["open", "open"]
    after = guest.counters()
    assert after["default for container to container"] > before["default for container to container"]


def test_a_start_of_the_agent_and_of_the_boot_unit_changes_nothing(guest: Any) -> None:
    guest.run("systemctl restart bridgewarden bridgewarden-agent")
    assert switches(guest) == ["0"]
    assert guest.probe(SAME_BRIDGE) == ["open", "open"]


def test_a_second_run_changes_nothing(playbooks: Any) -> None:
    run = playbooks.harden(bridgewarden_mode="audit")
    assert run.code == 0, run.output
    assert run.recap["changed"] == 0
