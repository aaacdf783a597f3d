# SPDX-License-Identifier: GPL-3.0-or-later
"""Known before its first packet: what Docker attaches to networks beside the containers of its list, and how early. Rules about stacks.

The machine is hardened, the inventory's policy enforces, the agent runs. What no rule speaks of is judged by the defaults: containers
reach the outside, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

FULL = bool(os.environ.get("BRIDGEWARDEN_FULL"))
SCENARIO = os.environ.get("MOLECULE_SCENARIO_NAME", "default")
pytestmark = pytest.mark.skipif(SCENARIO == "oldest" and not FULL, reason="make test-full")
STARTS = 100 if FULL else 30
OFFICE = "10.10.10.3"
ANSWERER = """
import select, socket
from http.server import BaseHTTPRequestHandler, HTTPServer
import threading

class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")

threading.Thread(target=HTTPServer(("", 7300), Hello).serve_forever, daemon=True).start()
ears = []
for port in (7500, 53):
    ears.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    ears[-1].bind(("", port))
while True:
    for ear in select.select(ears, [], [])[0]:
        said, sender = ear.recvfrom(512)
        ear.sendto(said, sender)
"""
ONE_SHOT = f"docker run --rm --network frontend --entrypoint /bin/bw-oneshot bw-shop {OFFICE} 7500"
DOCKERFILE = f"FROM bw-shop\\nRUN wget -q -T 5 -O /tmp/hello http://{OFFICE}:7300/ && cat /tmp/hello\\n"
BUILDS = {
    "classic": "DOCKER_BUILDKIT=0 docker build --no-cache /run/bw-build",
    "buildkit": "DOCKER_BUILDKIT=1 docker build --no-cache --progress plain /run/bw-build",
    "compose": "docker compose -f /run/bw-build/compose.yml build --no-cache",
}
COMPOSE = "services:\\n  hello:\\n    build: /run/bw-build\\n    image: bw-hello\\n"


SERVICE = "docker service create --quiet --name tasks --publish 8090:8080 --replicas 1 bw-shop tasks tcp:8080"
RULES = [
    {
        "name": "no build reaches the office",
        "action": "deny",
        "from": ["builds"],
        "to": [f"{OFFICE}/32"],
        "ports": ["7300/tcp"],
    },
    {"name": "the sidecar", "from": ["container:api"], "to": ["container:sidecar"], "ports": ["9100/tcp"]},
    {"name": "the floating address", "from": ["container:api"], "to": ["floating"], "ports": ["8080/tcp"]},
    {"name": "the service", "from": ["office"], "to": ["swarm-ingress"], "ports": ["8090/tcp"]},
]
RULES += [
    {
        "name": "each stack's application reaches its own database",
        "from": ["label:role=app"],
        "to": ["label:role=db"],
        "ports": ["5432/tcp"],
        "within": "stack",
        "until": "2099-12-31",
        "note": "one rule, however many stacks",
    },
    {
        "name": "our private networks reach the database of stack b",
        "from": ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"],
        "to": ["container:db-b"],
        "published": ["15432/tcp"],
    },
]
#: Two stacks of one kind on one network. app-a has an address of the private networks, too.
STACKS = "for stack in a b; do " + "; ".join(
    f"docker run -d --name {role}-$stack --network frontend --label role={role} --label stack=$stack {more} "
    f"bw-shop {role}-$stack tcp:{port}"
    for role, port, more in (("app", 8080, ""), ("db", 5432, "$(test $stack = a || echo -p 15432:5432)"))
)
STACKS += "; done"
OWN = (("app-a", "db-a", 5432), ("app-b", "db-b", 5432))
OTHERS = (("app-a", "db-b", 5432), ("app-b", "db-a", 5432), ("app-a", "host", 15432))
OFFICE_TO_B = ("office", "host", 15432)
SIDECAR, SERVED = ("api", "web", 9100), ("office", "host", 8090)


def modules(guest: Any) -> set[str]:
    return {line.split()[0] for line in guest.run("lsmod").splitlines()[1:]}


@pytest.fixture(scope="module", autouse=True)
def office(guest: Any, memory: Any) -> Iterator[None]:
    """Answers datagrams, queries and HTTP in the office. Notes the kernel modules that Docker loads meanwhile, for Swarm above all."""
    loaded = modules(guest)
    guest.run("cat > /run/bw-office.py", ANSWERER)
    guest.run(
        "systemd-run -q --unit bw-office ip netns exec office python3 /run/bw-office.py; mkdir -p /run/bw-build; "
        f"printf '{DOCKERFILE}' > /run/bw-build/Dockerfile; printf '{COMPOSE}' > /run/bw-build/compose.yml"
    )
    yield
    guest.run("systemctl stop bw-office; rm -rf /run/bw-build /run/bw-office.py")
    memory.save("modules that Docker loaded", sorted(modules(guest) - loaded))


def build(guest: Any, which: str) -> bool:
    """Whether its RUN step reached the office."""
    said: str = guest.run(f"{BUILDS[which]} 2>&1 && echo built || echo failed")
    assert said.split()[-1] in ("built", "failed")
    return said.split()[-1] == "built"


def needs(guest: Any, which: str) -> None:
    """Skips where the image has no program for it: Debian has buildx and compose from trixie on. That of the scenario default has both."""
    programs = {"buildkit": "docker buildx version", "compose": "docker compose version"}
    if which not in programs or SCENARIO == "default":
        return
    if guest.run(f"{programs[which]} >/dev/null 2>&1 && echo there || echo none").strip() == "none":
        pytest.skip(f"the image of {SCENARIO} has no program for {which}")


def test_one_shot_containers_lose_nothing(guest: Any) -> None:
    """Each says a datagram, a ping and a query with its first instructions, once."""
    said = guest.run(f"for i in $(seq {STARTS}); do {ONE_SHOT} 2>&1 || :; done").splitlines()
    assert said == ["lost:"] * STARTS


def test_without_the_agent_they_lose_everything(guest: Any) -> None:
    """So the test above can fail: nobody tells the kernel who it is."""
    guest.run("systemctl stop bridgewarden-agent")
    try:
        assert guest.run(f"{ONE_SHOT} || :") == "lost: datagram ping query\n"
    finally:
        guest.run("systemctl start bridgewarden-agent")


@pytest.mark.parametrize("which", BUILDS)
def test_a_build_step_has_the_network_that_egress_allows(guest: Any, which: str) -> None:
    needs(guest, which)
    assert build(guest, which)


# What needs a rule: first closed, then one commit opens (or shuts) all of it.


@pytest.fixture(scope="module")
def attached(guest: Any, office: None) -> Iterator[str]:
    """A container in web's namespace, a second address of web's, and a Swarm service; the second address."""
    guest.run(
        f"{STACKS}; docker run -d --name sidecar --network container:web bw-shop sidecar tcp:9100; "
        f"docker swarm init --advertise-addr 10.10.10.2 >/dev/null && {SERVICE} >/dev/null"
    )
    subnet = guest.run("docker network inspect -f '{{(index .IPAM.Config 0).Subnet}}' frontend").strip()
    if ":" in subnet:
        subnet = guest.run("docker network inspect -f '{{(index .IPAM.Config 1).Subnet}}' frontend").strip()
    second = ".".join([*subnet.split(".")[:2], "255", "250"])
    inside = "nsenter -n -t $(docker inspect -f '{{.State.Pid}}' web) ip address"
    guest.run(f"{inside} add {second}/32 dev eth0")
    yield second
    guest.run(
        f"{inside} del {second}/32 dev eth0; docker rm -f sidecar app-a app-b db-a db-b; docker service rm tasks; "
        "docker swarm leave --force; docker network rm docker_gwbridge"
    )


def to_second(guest: Any, second: str) -> str:
    asked = {"from": "api", "to": "", "host": second, "port": 8080, "family": 4}
    return str(guest._probe([asked])[0])


def test_without_rules_they_are_closed(guest: Any, attached: str) -> None:
    assert guest.probe(SIDECAR, SERVED, *OWN, OFFICE_TO_B, families=(4,)) == ["timeout"] * 5
    assert to_second(guest, attached) == "timeout"
    assert build(guest, "classic")


@pytest.fixture(scope="module")
def committed(playbooks: Any, attached: str) -> None:
    own = playbooks.inventory_file.parent / "group_vars" / "docker_hosts.yml"
    policy = yaml.safe_load(Path(own).read_text(encoding="utf-8"))
    groups = {
        **policy["bridgewarden_groups"],
        "floating": {"cidrs": [f"{attached}/32"], "behind": ["container:web"]},
    }
    playbooks.apply(bridgewarden_rules=[*policy["bridgewarden_rules"], *RULES], bridgewarden_groups=groups)


def test_a_container_has_its_own_name_behind_anothers_address(guest: Any, committed: None) -> None:
    assert guest.probe(SIDECAR, families=(4,)) == ["open"]


def test_a_second_address_is_behind_its_container(guest: Any, committed: None, attached: str) -> None:
    assert to_second(guest, attached) == "open"


def test_the_routing_mesh_is_a_peer(guest: Any, committed: None) -> None:
    assert guest.probe(SERVED, families=(4,)) == ["open"]


def test_a_task_has_the_network_that_egress_allows(guest: Any, committed: None) -> None:
    task = "docker ps -q --filter label=com.docker.swarm.service.name=tasks | head -1"
    said = guest.run(f"docker exec $({task}) wget -q -T 5 -O - http://{OFFICE}:7300/")
    assert said == "hello"


def test_a_rule_can_keep_builds_away(guest: Any, committed: None) -> None:
    """Those of BuildKit's; the classic builder's steps are containers like others."""
    needs(guest, "buildkit")
    before = guest.counters()["no build reaches the office"]
    assert not build(guest, "buildkit")
    assert guest.counters()["no build reaches the office"] > before
    assert build(guest, "classic")


def test_one_rule_holds_within_each_stack(guest: Any, committed: None) -> None:
    assert guest.probe(*OWN, families=(4,)) == ["open"] * 2
    assert guest.probe(*OTHERS, families=(4,)) == ["timeout"] * 3


def test_private_networks_are_those_outside(guest: Any, committed: None) -> None:
    """app-a, which the ranges hold as well, is among the others above."""
    assert guest.probe(OFFICE_TO_B, families=(4,)) == ["open"]
