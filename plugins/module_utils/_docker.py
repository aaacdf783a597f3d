# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container facts: what Docker runs on this host, and behind which link.

`collect()` asks dockerd and the kernel, `assemble()` makes one record of the
answers and is pure.  docs/architecture.md section 2 is the record's contract.
Never enters a container's namespace and never changes anything: the port of a
container is found by the namespace number that its veth carries.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket as socketlib
import typing as t
from dataclasses import dataclass

from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    DockerUnavailable,
    LibraryMissing,
    PermissionDenied,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._light import pyroute2_parts

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
DEFAULT_TIMEOUT = 30.0

Json = t.Dict[str, t.Any]

#: States in which a container has a network namespace, hence links and addresses.
LIVE_STATES = ("running", "paused")

BRIDGE_NAME_OPTION = "com.docker.network.bridge.name"

#: What Docker makes for a network without a parent, by driver.
_DUMMY_PREFIXES = {"macvlan": "dm-", "ipvlan": "di-"}

_MAIN_TABLE = 254


@dataclass(frozen=True)
class Link:
    """One network device of the host's namespace."""

    index: int
    name: str
    kind: str
    master: int  # ifindex of the bridge it is a port of, or 0
    netnsid: int  # namespace of its peer as this namespace numbers it, or -1


def collect(socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT) -> Json:
    """The container facts of this host."""
    answers = _ask_docker(socket, timeout)
    sandboxes = [
        inspect.get("NetworkSettings", {}).get("SandboxKey", "") for inspect in answers["inspects"].values()
    ]
    links, default_route_links, nsids = _ask_kernel([key for key in sandboxes if key])
    return assemble(answers, links, default_route_links, nsids, _inodes(sandboxes))


# Pure: recorded answers in, facts out.


def assemble(
    answers: Json,
    links: t.Sequence[Link],
    default_route_links: t.Sequence[str],
    nsids: t.Mapping[str, int],
    inodes: t.Optional[t.Mapping[str, int]] = None,
) -> Json:
    """`answers` as _ask_docker() returns them; `nsids` gives a sandbox path's namespace number, `inodes` its inode's."""
    bridges = {link.name: link.index for link in links if link.kind == "bridge"}
    indexes = {link.name: link.index for link in links}
    networks = [_network(raw, bridges, indexes) for raw in answers["networks"]]
    by_name = {network["Name"]: network for network in networks}
    by_id = {network["Id"]: network for network in networks}
    ports: t.Dict[t.Tuple[int, int], Link] = {
        (link.netnsid, link.master): link
        for link in links
        if link.kind == "veth" and link.netnsid >= 0 and link.master
    }
    containers = []
    for listed in answers["containers"]:
        inspect = answers["inspects"].get(listed["Id"])
        live = listed.get("State") in LIVE_STATES
        if live and inspect is None:
            continue  # gone between the two calls
        containers.append(_container(listed, inspect or {}, by_name, by_id, ports, nsids, inodes or {}))
    return {
        "docker": {"version": answers["version"], "userland_proxy": answers["userland_proxy"]},
        "containers": sorted(containers, key=lambda item: (item["Name"], item["Id"])),
        "networks": sorted(networks, key=lambda item: (item["Name"], item["Id"])),
        "links": {name: {"index": index, "bridge": True} for name, index in sorted(bridges.items())},
        "default_route_links": sorted(set(default_route_links)),
    }


def network_bridge(raw: Json) -> t.Optional[str]:
    """The name of the bridge that dockerd made for a network, None for other drivers."""
    if raw.get("Driver") != "bridge":
        return None
    name = (raw.get("Options") or {}).get(BRIDGE_NAME_OPTION)
    return str(name) if name else "br-" + raw["Id"][:12]


def network_parent(raw: Json) -> t.Optional[str]:
    """The host's link that a macvlan or ipvlan network hangs on, None for other drivers."""
    if raw.get("Driver") not in _DUMMY_PREFIXES:
        return None
    return (raw.get("Options") or {}).get("parent") or _DUMMY_PREFIXES[raw["Driver"]] + raw["Id"][:12]


def _network(raw: Json, bridges: t.Mapping[str, int], indexes: t.Mapping[str, int]) -> Json:
    bridge, parent = network_bridge(raw), network_parent(raw)
    ipam = (raw.get("IPAM") or {}).get("Config") or []
    return {
        "Id": raw["Id"],
        "Name": raw["Name"],
        "Driver": raw.get("Driver") or "",
        "Internal": bool(raw.get("Internal")),
        "EnableIPv6": bool(raw.get("EnableIPv6")),
        "Subnets": [config["Subnet"] for config in ipam if config.get("Subnet")],
        "Bridge": bridge,
        "BridgeIndex": bridges.get(bridge) if bridge else None,
        "Parent": parent,
        "ParentIndex": indexes.get(parent) if parent else None,
        "Labels": dict(raw.get("Labels") or {}),
    }


def _container(
    listed: Json,
    inspect: Json,
    by_name: t.Mapping[str, Json],
    by_id: t.Mapping[str, Json],
    ports: t.Mapping[t.Tuple[int, int], Link],
    nsids: t.Mapping[str, int],
    inodes: t.Mapping[str, int],
) -> Json:
    live = bool(inspect)
    settings = (inspect if live else listed).get("NetworkSettings") or {}
    sandbox = settings.get("SandboxKey") or ""
    nsid = nsids.get(sandbox, -1)
    networks: Json = {}
    for name, raw in sorted((settings.get("Networks") or {}).items()):
        network = by_id.get(raw.get("NetworkID") or "") or by_name.get(name)
        link = network["Bridge"] if network and live else None
        link_index = network["BridgeIndex"] if network and live else None
        port = ports.get((nsid, link_index)) if link_index else None
        networks[name] = {
            "NetworkID": raw.get("NetworkID") or (network["Id"] if network else None),
            "IPAddress": (raw.get("IPAddress") or None) if live else None,
            "GlobalIPv6Address": (raw.get("GlobalIPv6Address") or None) if live else None,
            "MacAddress": (raw.get("MacAddress") or None) if live else None,
            "Link": link,
            "LinkIndex": link_index,
            "Port": port.name if port else None,
            "PortIndex": port.index if port else None,
            "Parent": network["Parent"] if network and live else None,
            "ParentIndex": network["ParentIndex"] if network and live else None,
            "Namespace": inodes.get(sandbox) if network and network["Parent"] and live else None,
        }
    config = inspect.get("Config") or {}
    return {
        "Id": listed["Id"],
        "Name": _name(listed, inspect),
        "Image": config.get("Image") or listed.get("Image") or "",
        "State": listed.get("State") or "",
        "Pid": int((inspect.get("State") or {}).get("Pid") or 0),
        "NetworkMode": (listed.get("HostConfig") or {}).get("NetworkMode")
        or (inspect.get("HostConfig") or {}).get("NetworkMode")
        or "default",
        "Labels": dict(listed.get("Labels") or {}),
        "Networks": networks,
        "Ports": _ports(settings.get("Ports") or {}) if live else [],
    }


def _name(listed: Json, inspect: Json) -> str:
    # The list also holds the legacy links' names, which have a second slash.
    names = [inspect["Name"]] if inspect.get("Name") else listed.get("Names") or []
    own = [name for name in names if name.count("/") <= 1] or names
    return str(own[0]).lstrip("/") if own else str(listed["Id"])[:12]


def _ports(raw: t.Mapping[str, t.Optional[t.List[Json]]]) -> t.List[Json]:
    """The published ones only; an exposed port has no binding."""
    ports = []
    for key, bindings in raw.items():
        number, dummy, protocol = key.partition("/")
        for binding in bindings or []:
            if not str(binding.get("HostPort") or "").isdigit():
                continue
            ports.append(
                {
                    "HostIp": binding.get("HostIp") or "0.0.0.0",  # noqa: S104
                    "HostPort": int(binding["HostPort"]),
                    "ContainerPort": int(number),
                    "Protocol": protocol or "tcp",
                }
            )
    return sorted(
        ports, key=lambda item: (item["Protocol"], item["HostPort"], item["HostIp"], item["ContainerPort"])
    )


# dockerd's side.


def _ask_docker(socket: str, timeout: float) -> Json:
    check_socket(socket, timeout)
    api, errors, not_found = client(socket, timeout)
    try:
        listed = api.containers(all=True)
        inspects = {}
        for entry in listed:
            if entry.get("State") not in LIVE_STATES:
                continue
            try:
                inspects[entry["Id"]] = api.inspect_container(entry["Id"])
            except not_found:
                continue  # it went away meanwhile
        networks = api.networks()
        version = str(api.version(False).get("Version") or "")
    except errors as error:
        raise DockerUnavailable(
            f"dockerd does not answer as expected: {_first_line(error)}",
            socket,
            "look at 'journalctl -u docker' and run again",
        )
    finally:
        api.close()
    return {
        "version": version,
        "userland_proxy": userland_proxy(),
        "containers": listed,
        "inspects": inspects,
        "networks": networks,
    }


def client(
    socket: str = DEFAULT_SOCKET, timeout: float = DEFAULT_TIMEOUT
) -> t.Tuple[t.Any, t.Tuple[t.Type[BaseException], ...], t.Type[BaseException]]:
    """An APIClient, the exceptions its calls raise, and the one for "no such thing"."""
    try:
        import docker
        import docker.errors
        import requests
    except ImportError:
        raise LibraryMissing(
            "the Docker library for Python is not installed",
            "import docker",
            "install the package python3-docker",
        )
    errors = (docker.errors.DockerException, requests.exceptions.RequestException)
    try:
        # "auto": old daemons refuse new API versions, new daemons refuse old ones.
        return (
            docker.APIClient(base_url=socket, version="auto", timeout=int(timeout)),
            errors,
            docker.errors.NotFound,
        )
    except errors as error:
        raise DockerUnavailable(
            f"dockerd does not answer: {_first_line(error)}", socket, "look at 'systemctl status docker'"
        )


def socket_path(socket: str) -> str:
    path = socket[len("unix://") :] if socket.startswith("unix://") else socket
    if not path.startswith("/"):
        raise DockerUnavailable(
            f"{socket!r} is no local socket", "docker socket", "give it as unix:///var/run/docker.sock"
        )
    return path


def check_socket(socket: str = DEFAULT_SOCKET, timeout: float = 5.0) -> None:
    """Tells apart, before the library is asked: no Docker, dockerd down, no permission."""
    path = socket_path(socket)
    probe = socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM)
    probe.settimeout(timeout)
    try:
        probe.connect(path)
    except socketlib.timeout:
        raise DockerUnavailable(
            "dockerd does not take connections", path, "look at 'systemctl status docker'"
        )
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise PermissionDenied("no permission for Docker's socket", path, "run as root (become: true)")
        if error.errno == errno.ENOENT and not find_dockerd():
            raise DockerUnavailable("Docker is not installed", path, "install docker.io (or docker-ce) first")
        raise DockerUnavailable("dockerd is not running", path, "start it: systemctl start docker")
    finally:
        probe.close()


def find_dockerd() -> t.Optional[str]:
    return shutil.which(
        "dockerd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"
    )


def userland_proxy(pidfile: str = "/var/run/docker.pid", proc: str = "/proc") -> t.Optional[bool]:
    """Whether dockerd runs with its userland proxy; None where that cannot be told."""
    # No API tells it: the daemon's own command line and configuration do.
    try:
        with open(pidfile, encoding="ascii") as handle:
            pid = int(handle.read().strip())
        with open(os.path.join(proc, str(pid), "cmdline"), "rb") as raw:
            arguments = [part.decode("utf-8", "replace") for part in raw.read().split(b"\0") if part]
    except (OSError, ValueError):
        return None
    if not arguments or os.path.basename(arguments[0]) != "dockerd":
        return None
    config_file = "/etc/docker/daemon.json"
    for position, argument in enumerate(arguments):
        name, has_value, value = argument.lstrip("-").partition("=")
        if name == "userland-proxy":
            return value.lower() not in ("false", "0", "f") if has_value else True
        if name == "config-file":
            config_file = value if has_value else ([*arguments, ""])[position + 1]
    try:
        with open(config_file, encoding="utf-8") as handle:
            return bool(json.load(handle).get("userland-proxy", True))
    except FileNotFoundError:
        return True
    except (OSError, ValueError, AttributeError):
        return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# The kernel's side.


def _ask_kernel(sandboxes: t.Sequence[str]) -> t.Tuple[t.List[Link], t.List[str], t.Dict[str, int]]:
    pyroute2_parts()
    try:
        from pyroute2.iproute import IPRoute
    except ImportError:
        raise LibraryMissing(
            "the netlink library for Python is not installed",
            "import pyroute2",
            "install the package python3-pyroute2",
        )
    ipr = IPRoute()
    try:
        # The dump comes first: it is what makes the kernel number the namespaces.
        links = [_link(message) for message in ipr.get_links()]
        names = {link.index: link.name for link in links}
        default = [
            names[index]
            for family in (socketlib.AF_INET, socketlib.AF_INET6)
            for index in _default_route_indexes(ipr, family)
            if index in names and names[index] != "lo"
        ]
        nsids = {path: _nsid(ipr, path) for path in sandboxes}
    finally:
        ipr.close()
    return links, default, {path: nsid for path, nsid in nsids.items() if nsid >= 0}


def _inodes(sandboxes: t.Sequence[str]) -> t.Dict[str, int]:
    """The numbers of the namespaces' inodes, by which the kernel knows them too."""
    found = {}
    for path in sandboxes:
        with contextlib.suppress(OSError):  # the container has ended
            found[path] = os.stat(path).st_ino if path else 0
    return {path: inode for path, inode in found.items() if inode}


def _link(message: t.Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    netnsid = message.get_attr("IFLA_LINK_NETNSID")
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
        master=message.get_attr("IFLA_MASTER") or 0,
        netnsid=-1 if netnsid is None else netnsid,
    )


def _default_route_indexes(ipr: t.Any, family: int) -> t.List[int]:
    indexes: t.List[int] = []
    for route in ipr.get_default_routes(family=family, table=_MAIN_TABLE):
        if route["dst_len"]:
            continue
        output = route.get_attr("RTA_OIF")
        if output:
            indexes.append(output)
        for hop in route.get_attr("RTA_MULTIPATH") or []:
            indexes.append(hop["oif"])
    return indexes


def _nsid(ipr: t.Any, path: str) -> int:
    """The number this namespace has for the one at `path`; -1 where there is none."""
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1  # the container has ended
    try:
        if hasattr(ipr, "get_netnsid"):
            nsid = (ipr.get_netnsid(fd=handle) or {}).get("nsid")
        else:
            nsid = _nsid_by_hand(ipr, handle)
    except NetlinkError:
        return -1  # the container has just ended: the file is there, the namespace on it no longer
    finally:
        os.close(handle)
    # Signed on the wire, unsigned in the library.
    return -1 if nsid is None or nsid >= 1 << 31 else int(nsid)


def _nsid_by_hand(ipr: t.Any, handle: int) -> t.Optional[int]:
    # pyroute2 0.5 (bullseye) has the message but no call for it.
    from pyroute2.netlink import NLM_F_REQUEST
    from pyroute2.netlink.rtnl import RTM_GETNSID
    from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

    request = nsidmsg()
    request["attrs"] = [("NETNSA_FD", handle)]
    for answer in ipr.nlm_request(request, RTM_GETNSID, NLM_F_REQUEST):
        nsid: t.Optional[int] = answer.get_attr("NETNSA_NSID")
        return nsid
    return None
