# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies of docs/stacks, resolved against their stacks and probed by `explain`: each by itself, and all on one host."""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import (
    Uncommitted,
    explain_peers,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import make_plan
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.join import policy_of
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import wanted_policy

sys.path.insert(0, str(Path(__file__).parent))

from compose import STACKS, Host

from tests.unit.make import Json

STRANGER, HOME, OFFICE = "203.0.113.5", "192.168.1.20", "198.51.100.70"
MAIL = "mailcowdockerized-{}-mailcow-1"


class Probe(t.NamedTuple):
    source: str
    target: str
    service: str
    action: str
    direct: bool = False


def mail(source: str, target: str, service: str, action: str) -> Probe:
    ends = (
        MAIL.format(end) if end.islower() and end not in ("world", "host") else end
        for end in (source, target)
    )
    return Probe(*ends, service, action)


PROBES: t.Dict[str, t.List[Probe]] = {
    "mail": [
        mail("world", "postfix", "25/tcp", "allow"),
        mail("world", "postfix", "587/tcp", "allow"),
        mail("world", "dovecot", "993/tcp", "allow"),
        mail("world", "nginx", "443/tcp", "allow"),
        mail("world", "dovecot", "12345/tcp", "deny"),  # on 127.0.0.1 only
        mail("world", "mysql", "3306/tcp", "deny"),
        mail("world", "solr", "8983/tcp", "deny"),
        mail("host", "redis", "6379/tcp", "allow"),
        mail("nginx", "php-fpm", "9000/tcp", "allow"),
        mail("php-fpm", "mysql", "3306/tcp", "allow"),
        mail("postfix", "world", "25/tcp", "allow"),
        mail("unbound", "host", "22/tcp", "deny"),
    ],
    "home": [
        Probe(HOME, "addon_core_mosquitto", "1883/tcp", "allow"),
        Probe(STRANGER, "addon_core_mosquitto", "1883/tcp", "deny"),
        Probe(HOME, "hassio_observer", "80/tcp", "allow"),
        Probe(HOME, "hassio_cli", "80/tcp", "deny"),
        Probe("hassio_supervisor", "host", "8123/tcp", "allow"),
        Probe("addon_core_mosquitto", "host", "22/tcp", "deny"),
        Probe("addon_core_mosquitto", "hassio_dns", "53/udp", "allow"),
        Probe("host", "hassio_supervisor", "80/tcp", "allow"),
    ],
    "cloud": [
        Probe("world", "nextcloud-aio-apache", "11000/tcp", "allow"),
        Probe("world", "nextcloud-aio-talk", "3478/udp", "allow"),
        Probe("world", "nextcloud-aio-mastercontainer", "8080/tcp", "deny"),
        Probe(OFFICE, "nextcloud-aio-mastercontainer", "8080/tcp", "allow"),
        Probe("nextcloud-aio-nextcloud", "nextcloud-aio-apache", "11000/tcp", "allow"),  # hairpin
        Probe("nextcloud-aio-apache", "nextcloud-aio-nextcloud", "9000/tcp", "allow"),
        Probe("nextcloud-aio-nextcloud", "nextcloud-aio-database", "5432/tcp", "allow"),
        Probe("nextcloud-aio-collabora", "nextcloud-aio-database", "5432/tcp", "deny"),
        Probe("nextcloud-aio-mastercontainer", "nextcloud-aio-database", "5432/tcp", "deny"),
    ],
    "pbx": [
        Probe("198.51.100.9", "freepbx-app", "5060/udp", "allow"),
        Probe(STRANGER, "freepbx-app", "5060/udp", "deny"),
        Probe(STRANGER, "freepbx-app", "10000/udp", "allow"),
        Probe(STRANGER, "freepbx-app", "20000/udp", "allow"),
        Probe(STRANGER, "freepbx-app", "20001/udp", "deny"),
        Probe("freepbx-app", "freepbx-db", "3306/tcp", "allow"),
        Probe("freepbx-db-backup", "freepbx-db", "3306/tcp", "allow"),
        Probe("freepbx-db", "freepbx-app", "5060/tcp", "deny"),
    ],
    "dns": [
        Probe(HOME, "pihole", "53/udp", "allow"),
        Probe(HOME, "pihole", "67/udp", "allow"),
        Probe(HOME, "pihole", "80/tcp", "allow"),
        Probe("2001:db8:1::20", "pihole", "53/udp", "allow"),
        Probe(STRANGER, "pihole", "53/udp", "deny"),
        Probe("host", "pihole", "53/tcp", "allow"),
    ],
    "vpn": [
        Probe(HOME, "qbittorrent", "8080/tcp", "allow"),
        Probe(STRANGER, "qbittorrent", "8080/tcp", "deny"),
        Probe("gluetun", "203.0.113.70", "51820/udp", "allow"),
        Probe("qbittorrent", HOME, "445/tcp", "deny"),
    ],
    "tailnet": [
        Probe("100.101.102.103", "handbook", "80/tcp", "allow", direct=True),
        Probe(STRANGER, "handbook", "80/tcp", "deny", direct=True),
        Probe("100.101.102.103", "wiki", "80/tcp", "deny", direct=True),
        Probe("wiki", "world", "41641/udp", "allow"),
    ],
    "ci": [
        Probe("runner-8f3a-job", "runner-8f3a-postgres", "5432/tcp", "allow"),
        Probe("runner-c41d-job", "runner-c41d-postgres", "5432/tcp", "allow"),
        Probe("runner-8f3a-job", "runner-c41d-postgres", "5432/tcp", "deny"),
        Probe("nervous_hopper", "quirky_noether", "9092/tcp", "allow"),
        Probe("testcontainers-ryuk-51", "quirky_noether", "9092/tcp", "allow"),
        Probe("pensive_curie", "quirky_noether", "9092/tcp", "deny"),
        Probe("host", "quirky_noether", "9092/tcp", "allow"),
        Probe("world", "quirky_noether", "9092/tcp", "deny"),
    ],
    "kind": [
        Probe("kind-worker", "kind-control-plane", "6443/tcp", "allow"),
        Probe("kind-worker", "kind-worker2", "10250/tcp", "allow"),
        Probe("trial-control-plane", "kind-control-plane", "6443/tcp", "deny"),
        Probe("host", "kind-control-plane", "6443/tcp", "allow"),
        Probe("world", "kind-control-plane", "6443/tcp", "deny"),
    ],
    "cage": [
        Probe("o3s-cage-1", "o3s-gateway-1", "53/udp", "allow"),
        Probe("o3s-cage-1", "o3s-proxy-1", "8443/tcp", "allow"),
        Probe("o3s-cage-1", "o3s-gateway-1", "22/tcp", "deny"),
        Probe("o3s-cage-1", "world", "443/tcp", "reject"),
        Probe("o3s-gateway-1", "world", "443/tcp", "allow"),
        Probe("o3s-gateway-1", "o3s-cage-1", "22/tcp", "deny"),
        Probe("host", "o3s-cage-1", "22/tcp", "allow"),
    ],
    "build": [
        Probe("buildx_buildkit_builder0", "registry", "5000/tcp", "allow"),
        Probe("buildx_buildkit_builder0", "world", "443/tcp", "allow"),
        Probe("192.0.2.130", "registry", "5000/tcp", "allow"),
        Probe(STRANGER, "registry", "5000/tcp", "deny"),
    ],
}
#: On one host with all of them: no stack reaches another, but the name server, and CIDRs let no container in.
ACROSS = [
    Probe("freepbx-app", MAIL.format("mysql"), "3306/tcp", "deny"),
    Probe("nextcloud-aio-nextcloud", "freepbx-db", "3306/tcp", "deny"),
    Probe("runner-8f3a-job", "registry", "5000/tcp", "deny"),
    Probe("kind-worker", "addon_core_mosquitto", "1883/tcp", "deny"),
    Probe("quirky_noether", "nextcloud-aio-mastercontainer", "8080/tcp", "deny"),
    Probe("runner-8f3a-job", "pihole", "53/udp", "allow"),
    Probe("o3s-cage-1", "pihole", "53/udp", "allow"),
]


def variables(*stacks: str) -> Json:
    found: Json = {"bridgewarden_mode": "enforce"}
    for stack in stacks:
        own = yaml.safe_load((STACKS / stack / "policy.yml").read_text(encoding="utf-8"))
        assert not set(own) & set(found), stack
        found.update(own)
    return found


def up(*stacks: str) -> Json:
    host = Host()
    for stack in stacks:
        host.up(STACKS / stack / "compose.yml")
    return host.facts()


def wrong(policy: Json, facts: Json, probes: t.Sequence[Probe]) -> t.List[str]:
    asked = Uncommitted(policy, facts)
    found = []
    for probe in probes:
        for answer in explain_peers(asked, facts, probe.source, probe.target, probe.service, probe.direct):
            if answer["action"] != probe.action:
                found.append(f"{answer['words']}, not {probe.action}")
    return found


def test_each_stack_has_probes() -> None:
    assert {path.name for path in STACKS.iterdir() if path.is_dir()} == set(PROBES)
    for probes in PROBES.values():
        assert {"allow", "deny"} <= {probe.action for probe in probes}


@pytest.mark.parametrize("stack", sorted(PROBES))
def test_a_stack_and_its_policy(stack: str) -> None:
    policy, facts = policy_of(variables(stack)), up(stack)
    wanted_policy(policy)
    plan = make_plan(policy, facts)
    assert plan.warnings == []
    assert plan.formerly == []
    assert wrong(policy, facts, PROBES[stack]) == []


@pytest.mark.parametrize("stack", sorted(PROBES))
def test_without_its_rules_the_probes_fail(stack: str) -> None:
    """So it is the rules that let through what is to pass."""
    policy = policy_of(variables(stack))
    facts = up(stack)
    allowed = [probe for probe in PROBES[stack] if probe.action == "allow"]
    assert wrong({**policy, "rules": []}, facts, allowed)


def test_all_of_them_on_one_host() -> None:
    policy, facts = policy_of(variables(*PROBES)), up(*PROBES)
    assert make_plan(policy, facts).formerly == []
    probes = [probe for its in PROBES.values() for probe in its]
    assert wrong(policy, facts, [*probes, *ACROSS]) == []
