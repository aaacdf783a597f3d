# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is kept of dockerd's answers, and how it is brought up to date.

`answers` has dockerd's list of containers, what it said of each live one, of its networks and of what is attached to them;
facts.py makes the record of that.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import json
import os
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.attachments import Attached
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.daemon import Daemon
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import (
    LIVE_STATES,
    _container_name,
    network_bridge,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.userland_proxy import userland_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


def ask_all(daemon: Daemon) -> Json:
    """What dockerd has: `inspects` only of live containers, `containers` of all, as in its list."""
    listed = daemon.containers()
    answers: Json = {
        "version": str((daemon.get("/version") or {}).get("Version") or ""),
        "userland_proxy": userland_proxy(),
        "containers": listed,
        "inspects": {},
        "settings": {},  # by id: what of a container's configuration counts before it runs
        "root": daemon.root(),
    }
    answers["inspects"] = _inspects(daemon, listed, answers)
    # Networks last: a container's network is then among them.
    answers["networks"] = daemon.networks()
    answers["attached"] = _ask_attached(daemon, answers["networks"])
    return answers


def _ask_attached(daemon: Daemon, networks: t.Iterable[Json]) -> t.Dict[str, Attached]:
    """By network: what is attached to those that have a bridge."""
    return {network["Id"]: daemon.attached(network) for network in networks if network_bridge(network)}


def _inspects(daemon: Daemon, listed: t.Sequence[Json], answers: Json) -> t.Dict[str, Json]:
    before = answers["inspects"]
    live = {entry["Id"]: entry for entry in listed if entry.get("State") in LIVE_STATES}
    inspected = {name: inspect for name, inspect in daemon.inspects(live).items() if inspect is not None}
    for name, inspect in inspected.items():
        answers["settings"][name] = _settings(inspect)
    unknown = (name for name in (*daemon.stuck, *daemon.outstanding) if name in live)
    kept = {name: before.get(name) or _as_inspected(live[name]) for name in unknown}
    # One that has gone meanwhile is in neither.
    return {**{name: _gist(inspect) for name, inspect in inspected.items()}, **kept}


def ask_changed(daemon: Daemon, answers: Json, again: t.Collection[str]) -> None:
    """Brings `answers` up to date by dockerd's list, which costs little however many containers there are."""
    before = {entry["Id"]: _listed_state(entry) for entry in answers["containers"]}
    listed = daemon.containers()
    changed = [
        entry for entry in listed if entry["Id"] in again or before.get(entry["Id"]) != _listed_state(entry)
    ]
    asked = _inspects(daemon, changed, answers)
    same = {entry["Id"] for entry in listed} - {entry["Id"] for entry in changed}
    answers["inspects"] = {
        **{name: inspect for name, inspect in answers["inspects"].items() if name in same},
        **asked,
    }
    there = {entry["Id"] for entry in listed}
    answers["settings"] = {name: value for name, value in answers["settings"].items() if name in there}
    answers["containers"] = listed
    answers["networks"] = daemon.networks()
    answers["attached"] = _ask_attached(daemon, answers["networks"])


def _listed_state(entry: Json) -> Json:
    """What of a container's entry in the list tells that it changed: a new start has a new endpoint."""
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return {
        "names": entry.get("Names"),
        "state": entry.get("State"),
        "labels": entry.get("Labels"),
        "networks": {
            name: [network.get(key) for key in ("NetworkID", "EndpointID", "IPAddress", "GlobalIPv6Address")]
            for name, network in networks.items()
        },
        # Their order is not kept by dockerd.
        "ports": sorted(str(sorted(port.items())) for port in entry.get("Ports") or []),
    }


def ask_about(daemon: Daemon, answers: Json, containers: t.Collection[str], networks: bool) -> bool:
    """Brings `answers` up to date about these containers; whether anything is new.

    dockerd answers about a container when it is done with it, as its list does not.
    """
    known = {network["Id"] for network in answers["networks"]}
    listed = {entry["Id"]: entry for entry in answers["containers"]}
    news = networks
    for name, inspect in daemon.inspects(sorted(containers)).items():
        before = answers["inspects"].pop(name, None)
        if inspect is None:
            news = news or name in listed
            listed.pop(name, None)
            answers["settings"].pop(name, None)
            continue
        news = note_inspect(answers, listed, inspect, before) or news
        theirs = ((inspect.get("NetworkSettings") or {}).get("Networks") or {}).values()
        networks = networks or bool({network.get("NetworkID") or "" for network in theirs} - known - {""})
    answers["containers"] = list(listed.values())
    if networks:
        answers["networks"] = daemon.networks()
    if news or networks:
        answers["attached"] = _ask_attached(daemon, answers["networks"])
    return news or networks


def note_inspect(answers: Json, listed: t.Dict[str, Json], inspect: Json, before: t.Optional[Json]) -> bool:
    """Puts one container's record in; whether it has anything new. `before` is its former one, which is taken out already."""
    name = inspect["Id"]
    entry = _as_listed(inspect)
    news = name not in answers["settings"]
    answers["settings"][name] = _settings(inspect)
    if entry["State"] in LIVE_STATES:
        answers["inspects"][name] = _gist(inspect)
        news = news or _relevant_state(inspect) != _relevant_state(before)
    else:
        news = news or before is not None or _listed_state(entry) != _listed_state(listed.get(name) or {})
    listed[name] = entry
    return news


def _settings(inspect: Json) -> Json:
    """What of a container's configuration counts before it runs."""
    settings = inspect.get("HostConfig") or {}
    return {key: settings[key] for key in ("PortBindings", "PublishAllPorts") if settings.get(key)}


def about_to_run(answers: Json) -> t.List[str]:
    """The containers that do not run, but are attached to a network."""
    attached = answers["attached"].values()
    idents = {ident for one in attached for ident in one.of_container}
    names = {name for one in attached for name in one.joining}
    return [
        entry["Id"]
        for entry in answers["containers"]
        if entry.get("State") not in LIVE_STATES
        and (entry["Id"] in idents or (names and _container_name(entry, {}) in names))
    ]


def settings_on_disk(root: str, ident: str) -> t.Optional[Json]:
    """The same, from dockerd's own file; None where that cannot be read."""
    try:
        with open(os.path.join(root, "containers", ident, "hostconfig.json"), "rb") as handle:
            return _settings({"HostConfig": json.loads(handle.read())})
    except (OSError, ValueError, AttributeError):
        return None


def _gist(inspect: Json) -> Json:
    """What of a container's record is kept: nothing of its environment, for one."""
    state, settings = inspect.get("State") or {}, inspect.get("NetworkSettings") or {}
    config = inspect.get("Config") or {}
    return {
        "Id": inspect.get("Id"),
        "Name": inspect.get("Name"),
        "State": {key: state.get(key) for key in ("Status", "Pid")},
        "Config": {key: config.get(key) for key in ("Image", "Labels")},
        "HostConfig": {"NetworkMode": (inspect.get("HostConfig") or {}).get("NetworkMode")},
        "NetworkSettings": {key: settings.get(key) for key in ("SandboxKey", "Networks", "Ports")},
    }


def _relevant_state(inspect: t.Optional[Json]) -> t.Any:
    """What of a container's record matters here: not its health, for one."""
    if inspect is None:
        return None
    settings, state = inspect.get("NetworkSettings") or {}, inspect.get("State") or {}
    return (
        _as_listed(inspect),
        state.get("Pid"),
        settings.get("SandboxKey"),
        settings.get("Ports"),
    )


def _as_inspected(entry: Json) -> Json:
    """A container's record as far as the list tells it: without its namespace, hence without its ports on bridges."""
    ports: t.Dict[str, t.List[Json]] = {}
    for port in entry.get("Ports") or []:
        if port.get("PublicPort"):
            binding = {"HostIp": port.get("IP") or "", "HostPort": str(port["PublicPort"])}
            ports.setdefault("{}/{}".format(port["PrivatePort"], port["Type"]), []).append(binding)
    return {
        "Id": entry["Id"],
        "NetworkSettings": {
            "Networks": (entry.get("NetworkSettings") or {}).get("Networks") or {},
            "Ports": ports,
        },
    }


def _as_listed(inspect: Json) -> Json:
    """A container's entry in the list, made of its own record."""
    config = inspect.get("Config") or {}
    settings = inspect.get("NetworkSettings") or {}
    return {
        "Id": inspect["Id"],
        "Names": [inspect.get("Name") or ""],
        "Image": config.get("Image"),
        "State": (inspect.get("State") or {}).get("Status") or "",
        "Labels": config.get("Labels"),
        "HostConfig": {"NetworkMode": (inspect.get("HostConfig") or {}).get("NetworkMode")},
        "NetworkSettings": {"Networks": settings.get("Networks") or {}},
    }
