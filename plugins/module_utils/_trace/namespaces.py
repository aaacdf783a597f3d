# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Network namespaces by number and name, as a trace shows them.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import os
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import container_named, containers_of
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import read_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._trace.journeys import Places
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: Seconds in which a container that has just started gets its name.
SETTLE_SECONDS = 2.0
#: Dockerd is given that many times as long as it took to answer before it is asked again: what comes in meanwhile waits for it.
ASK_AGAIN_FACTOR = 10


def inode_of(pid: int) -> int:
    try:
        return os.stat("/proc/%d/ns/net" % pid).st_ino
    except OSError:
        return 0


def namespace_named(name: str, containers: t.Sequence[Json]) -> int:
    if name == "host":
        return inode_of(os.getpid())
    if name.isdigit():
        return int(name)
    for container in containers:
        if container["Name"] == name:
            return inode_of(container["Pid"])
    try:
        return os.stat(os.path.join("/run/netns", name)).st_ino
    except OSError:
        raise BridgewardenError(
            f'no network namespace is called "{name}"',
            "namespace",
            "give host, a container's name, a name from 'ip netns', or an inode number",
        )


# Names.


class Namespaces:
    """Inodes to names; asks again where it meets an unknown one, but not at every packet, and a slow dockerd the less often."""

    def __init__(self, collect: t.Callable[[], t.Optional[Json]]) -> None:
        self._collect = collect
        self._again = 0.0
        self.names: t.Dict[int, str] = {}
        self.pids: t.Dict[int, str] = {}
        self.facts: t.Optional[Json] = None
        self.refresh()

    def refresh(self) -> None:
        began = time.monotonic()
        self.facts = self._collect()
        ended = time.monotonic()
        self._again = ended + max(SETTLE_SECONDS, ASK_AGAIN_FACTOR * (ended - began))
        with contextlib.suppress(OSError):
            for name in os.listdir("/run/netns"):
                path = os.path.join("/run/netns", name)
                with contextlib.suppress(OSError):
                    inode = os.stat(path).st_ino
                    self.names.setdefault(inode, name)
                    self.pids.setdefault(inode, path)
        own: t.Dict[int, t.List[str]] = {}
        for container in containers_of(self.facts):
            inode = inode_of(container["Pid"]) if container["Pid"] else 0
            if inode:
                own.setdefault(inode, []).append(container["Name"])
                self.pids[inode] = "/proc/%d/ns/net" % container["Pid"]
        self.names.update({inode: "+".join(sorted(names)) for inode, names in own.items()})
        host = inode_of(os.getpid())
        self.names[host] = "host"
        self.pids[host] = "/proc/self/ns/net"

    def meet(self, netns: int) -> None:
        if netns not in self.names and time.monotonic() > self._again:
            self.refresh()

    def places(self, others: t.Mapping[int, t.Mapping[t.Tuple[str, str], t.Sequence[str]]]) -> Places:
        return Places(self.names, proxies(self.facts), self.unseen, others)

    def unseen(self, one: str, other: str, family: str) -> str:
        """Why nothing that goes between the two containers passes the host's hooks."""
        pair = [c for c in containers_of(self.facts) if c["Name"] in (one, other)]
        if len(pair) != 2:
            return ""
        for name, network in pair[0]["Networks"].items():
            if name not in pair[1]["Networks"]:
                continue
            if network["Parent"]:
                return f"a {network['Parent']} link carries it past the host"
            if network["Link"]:
                return setting_words(network["Link"], family)
        return ""

    # The container and its port behind a port of docker-proxy's.
    def proxied(self, protocol: str, port: int) -> t.Optional[t.Tuple[str, int]]:
        return proxies(self.facts).get((protocol, port))


def namespace_path(name: str, docker_socket: str) -> str:
    """The file of the namespace that is called so."""
    from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import collect_facts

    if name == "host":
        return "/proc/self/ns/net"
    path = os.path.join("/run/netns", name)
    if "/" not in name and os.path.exists(path):
        return path
    container = container_named(containers_of(collect_facts(docker_socket)), name)
    if not container["Pid"]:
        raise BridgewardenError(f'the container "{name}" does not run', "namespace", "start it first")
    return "/proc/%d/ns/net" % container["Pid"]


def proxies(facts: t.Optional[Json]) -> t.Dict[t.Tuple[str, int], t.Tuple[str, int]]:
    """Published ports: what reaches the host's own socket there reached docker-proxy."""
    if (facts or {}).get("docker", {}).get("userland_proxy") is False:
        return {}
    return {
        (binding["Protocol"], binding["HostPort"]): (container["Name"], binding["ContainerPort"])
        for container in containers_of(facts)
        if container["NetworkMode"] != "host"
        for binding in container["Ports"]
    }


def setting_words(
    bridge: str, family: str, proc: str = "/proc/sys/net/bridge", sys: str = "/sys/class/net"
) -> str:
    """What is off, in the kernel's own names; "" where the host's hooks are called."""
    name = "iptables" if family == "IPv4" else "ip6tables"
    overall = read_text("%s/bridge-nf-call-%s" % (proc, name))
    if overall is None:
        return f"br_netfilter is not loaded, so that nothing within {bridge} passes the host's hooks"
    own = read_text("%s/%s/bridge/nf_call_%s" % (sys, bridge, name))
    if overall == "0" and own in ("0", None):
        return f"bridge-nf-call-{name} is 0 on {bridge}"
    return ""
