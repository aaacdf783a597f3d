# SPDX-License-Identifier: GPL-3.0-or-later
"""The flows that an engine is measured with, by the name that results.json gives them.

Every packet is UDP. A routed or bridged one goes to the same port of the same container: a routed one comes from outside, to the
published port, and is DNATed; a bridged one crosses the guarded bridge from another container's port, with br_netfilter on.

A local one begins or ends at a socket of the host: at one of docker-proxy's, which a client outside reaches on another published
port; at one that talks to the container; at one that no policy speaks of, and that no guarded link leads to, as sshd's.
"""

from __future__ import annotations

from dataclasses import dataclass

OFTEN = 1600
MANY = 10_000
#: Source ports that one client address uses before the next address follows.
PORTS = 60_000
#: Paths that begin or end at a socket of the host.
PROXY, CONTAINER, UNJUDGED = "docker-proxy", "host to container", "host, not judged"


@dataclass(frozen=True)
class Flow:
    #: In turn, a packet each; None: a new one for each packet.
    connections: int | None
    packets: int
    clients: int = 1
    path: str = "routed"
    #: What the server says is measured, not the client.
    reply: bool = False

    @property
    def bridged(self) -> bool:
        return self.path == "bridged"

    @property
    def local(self) -> bool:
        return self.path in (PROXY, CONTAINER, UNJUDGED)

    @property
    def looked_up(self) -> bool:
        """Judged and never remembered."""
        return self.path in (PROXY, CONTAINER)

    @property
    def established(self) -> bool:
        """Both directions were seen before the first packet that is measured."""
        return self.connections is not None

    @property
    def statistic(self) -> str:
        """Of a run's batches. The median leaves the timer's interrupts out, where all batches are alike. They are not where some
        need a new slab for their connections, or where verdicts for some clients are remembered and for others not.
        """
        return "median" if self.established and self.clients == 1 else "mean"

    @property
    def ports(self) -> int:
        """Source ports of one client address."""
        return PORTS if self.clients == 1 else (self.connections or PORTS) // self.clients

    @property
    def first(self) -> int:
        """Number of the first one: new flows begin behind all that are established."""
        if self.established:
            return 0
        return 1 if self.bridged else 1_000_000

    def described(self) -> dict[str, object]:
        """For a row of results.json."""
        return {
            "path": self.path,
            "connections": self.connections,
            "clients": self.clients,
            "statistic": self.statistic,
        }


FLOWS: dict[str, Flow] = {
    "established": Flow(1, OFTEN),
    "many": Flow(MANY, MANY),
    "new": Flow(None, MANY),
    **{f"{n} clients": Flow(n, MANY, clients=n) for n in (100, 1000, 10_000)},
    "docker-proxy in": Flow(1, OFTEN, path=PROXY),
    "docker-proxy out": Flow(1, OFTEN, path=PROXY, reply=True),
    "host to container": Flow(1, OFTEN, path=CONTAINER),
    "container to host": Flow(1, OFTEN, path=CONTAINER, reply=True),
    "host in": Flow(1, OFTEN, path=UNJUDGED),
    "host out": Flow(1, OFTEN, path=UNJUDGED, reply=True),
    "bridged established": Flow(1, OFTEN, path="bridged"),
    "bridged new": Flow(None, MANY, path="bridged"),
}
