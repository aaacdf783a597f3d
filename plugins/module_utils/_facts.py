# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How to read the container facts (docs/architecture.md, 2): their containers, and a container's addresses.

_docker/facts.py makes the record; the resolver below it and everything above it read it through these.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: "On every address", by IP version, as Docker and sockets have it. For comparison and for probes: nothing is bound to these.
EVERY_ADDRESS = {4: "0.0.0.0", 6: "::"}  # noqa: S104


def containers_of(facts: t.Optional[Json]) -> t.List[Json]:
    """All containers; none where there are no facts."""
    return list((facts or {}).get("containers", ()))


def container_named(containers: t.Sequence[Json], name: str) -> Json:
    """The container of that name, or of an id that begins with it (12 digits or more)."""
    for container in containers:
        if container["Name"] == name or (len(name) >= 12 and container["Id"].startswith(name)):
            return container
    raise BridgewardenError(
        f'no container is called "{name}"',
        "container",
        f"there are: {', '.join(sorted(c['Name'] for c in containers)) or 'none'}",
    )


def addresses_on(network: Json) -> t.List[str]:
    """The addresses, IPv4 and IPv6, of a container on one of its networks (an entry of its "Networks")."""
    return [network[key] for key in ("IPAddress", "GlobalIPv6Address") if network.get(key)]


def addresses_of(container: Json) -> t.List[str]:
    """All addresses of a container."""
    return [address for network in container["Networks"].values() for address in addresses_on(network)]
