# SPDX-License-Identifier: GPL-3.0-or-later
"""Known before its first packet: what Docker attaches to networks beside the containers of its list, and how early.

The machine is hardened, the inventory's policy enforces, the agent runs. What no rule speaks of is judged by the defaults: containers
reach the outside, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

STARTS = 100 if os.environ.get("BRIDGEWARDEN_FULL") else 30
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


@pytest.fixture(scope="module", autouse=True)
def office(guest: Any) -> Iterator[None]:
    """Answers datagrams, queries and HTTP in the office."""
    guest.run("cat > /run/bw-office.py", ANSWERER)
    guest.run(
        "systemd-run -q --unit bw-office ip netns exec office python3 /run/bw-office.py; mkdir -p /run/bw-build; "
        f"printf '{DOCKERFILE}' > /run/bw-build/Dockerfile; printf '{COMPOSE}' > /run/bw-build/compose.yml"
    )
    yield
    guest.run("systemctl stop bw-office; rm -rf /run/bw-build /run/bw-office.py")


def build(guest: Any, which: str) -> bool:
    """Whether its RUN step reached the office."""
    said: str = guest.run(f"{BUILDS[which]} 2>&1 && echo built || echo failed")
    assert said.split()[-1] in ("built", "failed")
    return said.split()[-1] == "built"


def versions(guest: Any) -> tuple[int, ...]:
    said = guest.run("docker version --format '{{.Server.Version}}'")
    return tuple(int(part) for part in said.split("+")[0].split("-")[0].split(".")[:2])


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
    if which != "classic" and versions(guest) < (23, 0):
        pytest.skip("Docker without buildx")
    assert build(guest, which)
