# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Is this host what its inventory says? One control for each thing that can drift.

Reads only, and runs on hosts where nothing of ours, nor any library, is
installed.  A control that cannot be judged is an error and never a pass; where
one thing is missing, only its own control fails and those that need it are
errors that name it.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import os
import time
import typing as t

from ansible_collections.bridgewarden.docker.plugins.module_utils._compliance.host import HostState, Unjudged
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._facts import addresses_on
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import ipvs
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import MODULE_NAME
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.not_covered import not_covered
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.hooks import hooks_behind
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_any
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.selectors import endpoint_place
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import read_text
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

BOOT_UNIT = "bridgewarden.service"
AGENT_UNIT = "bridgewarden-agent.service"


class Finding(t.NamedTuple):
    expected: t.Any
    actual: t.Any
    status: str = ""  # "": pass where actual is as expected, else fail


# The controls, each from the host to what was expected and what was found.


def module_loaded(host: HostState) -> Finding:
    return Finding("loaded", "loaded" if host.module.loaded() else "not loaded")


def module_version(host: HostState) -> Finding:
    host.loaded()
    loaded = host.module.loaded()
    return Finding(host.wanted.version, loaded.version if loaded else None)


def module_current(host: HostState) -> Finding:
    host.loaded()
    loaded, disk = host.module.loaded(), host.module.on_disk()
    if disk is None:
        raise Unjudged("no module is installed for the running kernel")
    return Finding(f"srcversion {disk.srcversion}", f"srcversion {loaded.srcversion if loaded else None}")


def dkms_installed(host: HostState) -> Finding:
    kernel = os.uname().release
    level = host.dkms.level(host.wanted.version, kernel)
    damage = host.dkms.damage(host.wanted.version, kernel) if level == "installed" else ""
    expected = f"{MODULE_NAME} {host.wanted.version} installed for {kernel}"
    known = ", ".join(host.dkms.versions()) or "none"
    if level == "absent":
        return Finding(expected, f"not known to dkms (versions it knows: {known})")
    actual = f"{MODULE_NAME} {host.wanted.version} {level} for {kernel}"
    return Finding(expected, actual + (f", but {damage}" if damage else ""))


def bridges_needed(host: HostState) -> bool:
    """Inside the containers' namespaces traffic is judged whatever the bridges' settings are."""
    return normalise(host.wanted.policy).placement != "container"


_NOT_NEEDED = "not needed with placement container"
_AUDIT = "left as they were: mode audit makes no bridge settings"


def bridge_live(host: HostState) -> Finding:
    if host.audits():
        return Finding(_AUDIT, [as_found(words) for words in host.bridges().live] or _AUDIT)
    if not bridges_needed(host):
        return Finding(_NOT_NEEDED, _NOT_NEEDED)
    outcome = host.bridges()
    expected = f"set for scope {outcome.scope}"
    return Finding(expected, [as_found(words) for words in outcome.live] or expected)


def bridge_persistent(host: HostState) -> Finding:
    if host.audits():
        return Finding(_AUDIT, [as_found(words) for words in host.bridges().files] or _AUDIT)
    if not bridges_needed(host):
        return Finding(_NOT_NEEDED, _NOT_NEEDED)
    outcome = host.bridges()
    expected = f"kept over a reboot for scope {outcome.scope}"
    wrong = [as_found(words) for words in outcome.files]
    value = 1 if outcome.scope == "global" else 0
    for key in bridge.SWITCHES:
        found, path = bridge.boot_value(key, host.paths)
        # Where our own file is wrong, that is told already.
        if found != value and path is not None and path != host.paths.of(host.paths.sysctl):
            wrong.append(f"{path} sets net.bridge.{key} = {found} after ours")
    return Finding(expected, wrong or expected)


def as_found(action: str) -> str:
    """What would be done, told as what is: "set x to 1" means that x is not 1."""
    verb, _blank, rest = action.partition(" ")
    name, _to, value = rest.partition(" to ")
    words = {
        "wrote": f"{rest} is not as it should be",
        "removed": f"{rest} should not be there",
        "loaded": f"{rest} is not loaded",
        "unloaded": f"{rest} is loaded",
        "set": f"{name} is not {value}",
    }
    return words.get(verb, action)


def bridges_guarded(host: HostState) -> Finding:
    guarded = set(host.info().guard_links)
    wanted = {
        network["Bridge"]: network["BridgeIndex"]
        for network in host.facts()["networks"]
        if network["Bridge"]
        and network["BridgeIndex"]
        and not glob_any(network["Bridge"], host.wanted.unguarded)
    }
    return Finding(sorted(wanted), sorted(name for name, index in wanted.items() if index in guarded))


def ipvs_tracked(host: HostState) -> Finding:
    expected = "no IPVS server behind NAT without connection tracking"
    servers = ipvs.untracked_servers(host.paths.root)
    return Finding(
        expected, "net.ipv4.vs.conntrack is not 1 for " + ", ".join(servers) if servers else expected
    )


def policy_in_force(host: HostState) -> Finding:
    info = host.info()
    # The mode has a control of its own.
    policy = normalise({**host.wanted.policy, "mode": info.mode})
    return Finding(f"digest {digest(policy)}", f"digest {info.policy_digest or 'none'}")


def mode(host: HostState) -> Finding:
    return Finding(normalise(host.wanted.policy).mode, host.info().mode)


def commit_confirmed(host: HostState) -> Finding:
    left = host.info().confirm_remaining
    expected = "no commit waits for its confirmation"
    return Finding(expected, f"the commit in force rolls itself back in {left} s" if left else expected)


def hooks_first(host: HostState) -> Finding:
    expected = "our hooks run first everywhere"
    info = host.info()
    others = list(info.hooks_ahead) or hooks_behind(info)
    return Finding(expected, "somebody runs before us at " + ", ".join(others) if others else expected)


def sealed(host: HostState) -> Finding:
    words = {True: "sealed until reboot", False: "not sealed"}
    # Sealed without being asked to be is no danger, and only a reboot would undo it.
    found = host.info().sealed
    return Finding(words[host.wanted.seal or found], words[found])


def endpoints_known(host: HostState) -> Finding:
    expected = "every running container is known to the kernel, with its link"
    missing = unknown_endpoints(host)
    if missing:
        # A container that started this moment; the agent has it a moment later.
        time.sleep(1)
        host.forget()
        missing = unknown_endpoints(host)
    return Finding(expected, ["unknown: " + words for words in missing] or expected)


def unknown_endpoints(host: HostState) -> t.List[str]:
    info = host.info()
    known = {endpoint.address: endpoint for endpoint in host.endpoints() if endpoint.identity}
    missing = []
    facts = host.facts()
    for container in (*facts["containers"], *facts.get("attachments", ())):
        for network in container["Networks"].values():
            if container["State"] not in ("running", "paused") and not network.get("PortIndex"):
                continue  # about to run; or dockerd has forgotten to take it off the network
            _name, link, port = endpoint_place(network, info.placement == "container")
            if not link or (link not in info.guard_links and link == network.get("LinkIndex")):
                continue  # bridges_guarded tells that
            for address in addresses_on(network):
                endpoint = known.get(address)
                if endpoint is None or endpoint.link != link:
                    missing.append(f"{container['Name']} {address}")
                elif endpoint.port and endpoint.port != port:
                    missing.append(f"{container['Name']} {address} at {network.get('Port') or port}")
    return sorted(missing)


def boot_policy(host: HostState) -> Finding:
    expected = f"digest {digest(normalise(host.wanted.policy))}"
    policy = host._once("policy file", host.store.read_policy)
    if policy is None:
        return Finding(expected, f"no {host.store.policy_path}")
    return Finding(expected, f"digest {digest(normalise(policy))}")


def boot_unit(host: HostState) -> Finding:
    return _unit(host, BOOT_UNIT)


def agent_unit(host: HostState) -> Finding:
    return _unit(host, AGENT_UNIT)


def docker_waits(host: HostState) -> Finding:
    words = {True: "dockerd starts only where the kernel holds a policy", False: "dockerd starts in any case"}
    return Finding(words[host.wanted.require], words[host.require_drop_in.exists()])


def _unit(host: HostState, name: str) -> Finding:
    state = host.unit(name)
    if state.get("LoadState") == "not-found":
        return Finding("enabled, active", "not installed")
    return Finding(
        "enabled, active", f"{state.get('UnitFileState') or 'no state'}, {state.get('ActiveState')}"
    )


class Control(t.NamedTuple):
    check: t.Callable[[HostState], Finding]  # its name is the control's id
    title: str
    severity: str
    remediation: str


_AGAIN = "run playbooks/harden-docker.yml"

CONTROLS = (
    Control(module_loaded, "The kernel module is loaded", "critical", _AGAIN + " (role kmod)"),
    Control(
        module_version, "The loaded module is of the collection's version", "high", _AGAIN + " (role kmod)"
    ),
    Control(
        module_current,
        "The loaded module is the installed build",
        "medium",
        _AGAIN + " (role kmod), or reboot where it cannot be reloaded",
    ),
    Control(
        dkms_installed,
        "DKMS keeps the module for the running kernel",
        "high",
        _AGAIN + " (role kmod); the headers of the running kernel must be installed",
    ),
    Control(
        bridge_live, "Bridged traffic reaches netfilter where it must", "critical", _AGAIN + " (role bridge)"
    ),
    Control(bridge_persistent, "It will after a reboot, too", "high", _AGAIN + " (role bridge)"),
    Control(
        bridges_guarded, "Every bridge of Docker's is guarded", "critical", "add it to bridgewarden_guards"
    ),
    Control(ipvs_tracked, "Conntrack tracks what IPVS translates", "medium", ipvs.HINT),
    Control(
        hooks_first,
        "Our hooks run before everybody else's",
        "high",
        "stop who is told there, or reload the module: role kmod",
    ),
    Control(
        policy_in_force, "The kernel holds the inventory's policy", "critical", _AGAIN + " (role policy)"
    ),
    Control(mode, "It is in the inventory's mode", "critical", _AGAIN + " (role policy)"),
    Control(
        commit_confirmed, "The policy in force is confirmed", "high", "bridgewarden confirm, or rollback"
    ),
    Control(sealed, "The policy is sealed where the inventory wants it", "high", _AGAIN + " (role policy)"),
    Control(
        endpoints_known,
        "The kernel knows every running container",
        "high",
        "bridgewarden sync; then look why the agent did not: journalctl -u bridgewarden-agent",
    ),
    Control(
        boot_policy,
        "The host keeps the inventory's policy for its next boot",
        "high",
        _AGAIN + " (role policy)",
    ),
    Control(boot_unit, "The module is loaded before dockerd starts", "high", _AGAIN + " (role agent)"),
    Control(
        docker_waits,
        "dockerd waits for a policy, or not, as the inventory wants it",
        "high",
        _AGAIN + " (role agent, bridgewarden_require)",
    ),
    Control(agent_unit, "The agent follows Docker", "high", _AGAIN + " (role agent)"),
)


def judge_control(control: Control, host: HostState) -> Json:
    try:
        finding = control.check(host)
        status = finding.status or ("pass" if finding.actual == finding.expected else "fail")
    except Unjudged as reason:
        finding, status = Finding(None, str(reason)), "error"
    except (BridgewardenError, OSError) as error:
        finding, status = Finding(None, str(error)), "error"
    return {
        "id": control.check.__name__,
        "title": control.title,
        "severity": control.severity,
        "status": status,
        "expected": finding.expected,
        "actual": finding.actual,
        "remediation": "" if status == "pass" else control.remediation,
    }


def examine_host(host: HostState) -> Json:
    """The result of the module: controls, meta and not_covered. Raises PolicyError for a wrong inventory."""
    normalise(host.wanted.policy)
    controls = [judge_control(control, host) for control in CONTROLS]
    loaded = host.module.loaded()
    meta: Json = {
        "host": os.uname().nodename,
        "kernel": os.uname().release,
        "boot_id": read_text("/proc/sys/kernel/random/boot_id"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "module_srcversion": loaded.srcversion if loaded else None,
        "docker_requires_policy": host.require_drop_in.exists(),
    }
    try:
        info = host.info()
        meta.update(generation=info.generation, policy_digest=info.policy_digest, sealed=info.sealed)
    except Unjudged:
        meta.update(generation=None, policy_digest=None, sealed=None)
    return {"controls": controls, "meta": meta, "not_covered": _not_covered(host)}


def _guard_links(host: HostState) -> t.Optional[t.Collection[int]]:
    """None where the module does not answer: then its own control is red."""
    try:
        return host.info().guard_links
    except Unjudged:
        return None


def _not_covered(host: HostState) -> t.List[Json]:
    """What no rule can judge; where Docker does not answer, the controls that ask it say so."""
    try:
        placement = normalise(host.wanted.policy).placement
        return not_covered(host.facts(), placement, host.wanted.unguarded, _guard_links(host))
    except Unjudged:
        return []
