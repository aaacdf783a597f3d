# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
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
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.bridgewarden.docker.plugins.module_utils import _bridge as bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._cli import hooks_behind
from ansible_collections.bridgewarden.docker.plugins.module_utils._dkms import Dkms
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker import DEFAULT_SOCKET, collect
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import BridgewardenError
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel_module import KernelModule
from ansible_collections.bridgewarden.docker.plugins.module_utils._netlink import EndpointRow, Info, Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy import GUARDS, digest, normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._preflight import REQUIRE_DROP_IN, read, run
from ansible_collections.bridgewarden.docker.plugins.module_utils._selectors import place
from ansible_collections.bridgewarden.docker.plugins.module_utils._store import Store

Json = t.Dict[str, t.Any]

MODULE = "bridgewarden"
BOOT_UNIT = "bridgewarden.service"
AGENT_UNIT = "bridgewarden-agent.service"


class Finding(t.NamedTuple):
    expected: t.Any
    actual: t.Any
    status: str = ""  # "": pass where actual is as expected, else fail


class Unjudged(Exception):
    """The control depends on something that is not there."""


@dataclass(frozen=True)
class Wanted:
    """What the inventory says."""

    policy: Json
    version: str
    bridge_scope: str = "auto"
    seal: bool = False
    require: bool = False
    docker_socket: str = DEFAULT_SOCKET

    @property
    def guards(self) -> t.List[str]:
        return list(self.policy.get("guards") or GUARDS)


class Host:
    """What is. Everything is read at most once, and a failed reading is an answer too."""

    def __init__(
        self,
        wanted: Wanted,
        store: t.Optional[Store] = None,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
        facts_of: t.Callable[[str], Json] = collect,
        module: t.Optional[KernelModule] = None,
        dkms: t.Optional[Dkms] = None,
        runner: t.Callable[[t.Sequence[str]], t.Tuple[int, str, str]] = run,
        paths: t.Optional[bridge.Paths] = None,
        docker_bridges: t.Callable[[str], t.Optional[t.Set[str]]] = bridge.ask_docker,
        require_drop_in: str = REQUIRE_DROP_IN,
    ) -> None:
        self.wanted = wanted
        self.store = store or Store()
        self.kernel_factory = kernel_factory
        self.facts_of = facts_of
        self.module = module or KernelModule(MODULE)
        self.dkms = dkms or Dkms(MODULE)
        self.runner = runner
        self.paths = paths or bridge.Paths()
        self.docker_bridges = docker_bridges
        self.require_drop_in = Path(require_drop_in)
        self._answers: t.Dict[str, t.Any] = {}

    def _once(self, name: str, ask: t.Callable[[], t.Any]) -> t.Any:
        if name not in self._answers:
            try:
                self._answers[name] = ask()
            except BridgewardenError as error:
                self._answers[name] = Unjudged(error.text())
        if isinstance(self._answers[name], Unjudged):
            raise self._answers[name]
        return self._answers[name]

    def loaded(self) -> None:
        if self.module.loaded() is None:
            raise Unjudged("the kernel module is not loaded")

    def info(self) -> Info:
        self.loaded()
        return t.cast(Info, self._once("kernel", self._ask_kernel)[0])

    def endpoints(self) -> t.List[EndpointRow]:
        self.loaded()
        return t.cast(t.List[EndpointRow], self._once("kernel", self._ask_kernel)[1])

    def facts(self) -> Json:
        return t.cast(Json, self._once("facts", lambda: self.facts_of(self.wanted.docker_socket)))

    def bridges(self) -> bridge.Outcome:
        """What the module bridge_netfilter would do now."""
        return t.cast(
            bridge.Outcome,
            self._once(
                "bridges",
                lambda: bridge.converge(
                    "present",
                    self.wanted.bridge_scope,
                    self.wanted.guards,
                    self.docker_bridges(self.wanted.docker_socket),
                    True,
                    self.paths,
                    self.runner,
                ),
            ),
        )

    def forget(self) -> None:
        """Before a second look at what may have been caught in the middle of a change."""
        self._answers.pop("kernel", None)
        self._answers.pop("facts", None)

    def unit(self, name: str) -> t.Dict[str, str]:
        code, out, err = self.runner(["systemctl", "show", "-p", "ActiveState,UnitFileState,LoadState", name])
        if code != 0:
            raise Unjudged("systemd does not answer: " + " ".join(err.split()))
        pairs = (line.partition("=") for line in out.splitlines())
        return {key: value for key, _equals, value in pairs}

    def _ask_kernel(self) -> t.Tuple[Info, t.List[EndpointRow]]:
        with self.kernel_factory() as kernel:
            return kernel.info(), kernel.endpoints()


# The controls, each from the host to what was expected and what was found.


def module_loaded(host: Host) -> Finding:
    return Finding("loaded", "loaded" if host.module.loaded() else "not loaded")


def module_version(host: Host) -> Finding:
    host.loaded()
    loaded = host.module.loaded()
    return Finding(host.wanted.version, loaded.version if loaded else None)


def module_current(host: Host) -> Finding:
    host.loaded()
    loaded, disk = host.module.loaded(), host.module.on_disk()
    if disk is None:
        raise Unjudged("no module is installed for the running kernel")
    return Finding(f"srcversion {disk.srcversion}", f"srcversion {loaded.srcversion if loaded else None}")


def dkms_installed(host: Host) -> Finding:
    kernel = os.uname().release
    level = host.dkms.level(host.wanted.version, kernel)
    damage = host.dkms.damage(host.wanted.version, kernel) if level == "installed" else ""
    expected = f"{MODULE} {host.wanted.version} installed for {kernel}"
    known = ", ".join(host.dkms.versions()) or "none"
    if level == "absent":
        return Finding(expected, f"not known to dkms (versions it knows: {known})")
    actual = f"{MODULE} {host.wanted.version} {level} for {kernel}"
    return Finding(expected, actual + (f", but {damage}" if damage else ""))


def bridges_needed(host: Host) -> bool:
    """Inside the containers' namespaces traffic is judged whatever the bridges' settings are."""
    return normalise(host.wanted.policy).placement != "container"


_NOT_NEEDED = "not needed with placement container"


def bridge_live(host: Host) -> Finding:
    if not bridges_needed(host):
        return Finding(_NOT_NEEDED, _NOT_NEEDED)
    outcome = host.bridges()
    expected = f"set for scope {outcome.scope}"
    return Finding(expected, [as_found(words) for words in outcome.live] or expected)


def bridge_persistent(host: Host) -> Finding:
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
        "set": f"{name} is not {value}",
    }
    return words.get(verb, action)


def bridges_guarded(host: Host) -> Finding:
    guarded = set(host.info().guard_links)
    wanted = {
        network["Bridge"]: network["BridgeIndex"]
        for network in host.facts()["networks"]
        if network["Bridge"] and network["BridgeIndex"]
    }
    return Finding(sorted(wanted), sorted(name for name, index in wanted.items() if index in guarded))


def policy_in_force(host: Host) -> Finding:
    info = host.info()
    # The mode has a control of its own.
    policy = normalise({**host.wanted.policy, "mode": info.mode})
    return Finding(f"digest {digest(policy)}", f"digest {info.policy_digest or 'none'}")


def mode(host: Host) -> Finding:
    return Finding(normalise(host.wanted.policy).mode, host.info().mode)


def commit_confirmed(host: Host) -> Finding:
    left = host.info().confirm_remaining
    expected = "no commit waits for its confirmation"
    return Finding(expected, f"the commit in force rolls itself back in {left} s" if left else expected)


def hooks_first(host: Host) -> Finding:
    expected = "our hooks run first everywhere"
    info = host.info()
    others = list(info.hooks_ahead) or hooks_behind(info)
    return Finding(expected, "somebody runs before us at " + ", ".join(others) if others else expected)


def sealed(host: Host) -> Finding:
    words = {True: "sealed until reboot", False: "not sealed"}
    # Sealed without being asked to be is no danger, and only a reboot would mend it.
    found = host.info().sealed
    return Finding(words[host.wanted.seal or found], words[found])


def endpoints_known(host: Host) -> Finding:
    expected = "every running container is known to the kernel, with its link"
    missing = unknown_endpoints(host)
    if missing:
        # A container that started this moment; the agent has it a moment later.
        time.sleep(1)
        host.forget()
        missing = unknown_endpoints(host)
    return Finding(expected, ["unknown: " + words for words in missing] or expected)


def unknown_endpoints(host: Host) -> t.List[str]:
    info = host.info()
    known = {endpoint.address: endpoint for endpoint in host.endpoints() if endpoint.identity}
    missing = []
    for container in host.facts()["containers"]:
        for network in container["Networks"].values():
            _name, link, port = place(network, info.placement == "container")
            if not link or (link not in info.guard_links and link == network.get("LinkIndex")):
                continue  # bridges_guarded tells that
            for address in (network["IPAddress"], network["GlobalIPv6Address"]):
                endpoint = known.get(address or "")
                if address and (endpoint is None or endpoint.link != link):
                    missing.append(f"{container['Name']} {address}")
                elif endpoint and endpoint.port and endpoint.port != port:
                    missing.append(f"{container['Name']} {address} at {network.get('Port') or port}")
    return sorted(missing)


def boot_policy(host: Host) -> Finding:
    expected = f"digest {digest(normalise(host.wanted.policy))}"
    policy = host._once("policy file", host.store.read_policy)
    if policy is None:
        return Finding(expected, f"no {host.store.policy_path}")
    return Finding(expected, f"digest {digest(normalise(policy))}")


def boot_unit(host: Host) -> Finding:
    return _unit(host, BOOT_UNIT)


def agent_unit(host: Host) -> Finding:
    return _unit(host, AGENT_UNIT)


def docker_waits(host: Host) -> Finding:
    words = {True: "dockerd starts only where the kernel holds a policy", False: "dockerd starts in any case"}
    return Finding(words[host.wanted.require], words[host.require_drop_in.exists()])


def _unit(host: Host, name: str) -> Finding:
    state = host.unit(name)
    if state.get("LoadState") == "not-found":
        return Finding("enabled, active", "not installed")
    return Finding(
        "enabled, active", f"{state.get('UnitFileState') or 'no state'}, {state.get('ActiveState')}"
    )


class Control(t.NamedTuple):
    check: t.Callable[[Host], Finding]  # its name is the control's id
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
    Control(bridge_live, "Bridged traffic reaches netfilter", "critical", _AGAIN + " (role bridge)"),
    Control(bridge_persistent, "It will after a reboot, too", "high", _AGAIN + " (role bridge)"),
    Control(
        bridges_guarded, "Every bridge of Docker's is guarded", "critical", "add it to bridgewarden_guards"
    ),
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
    Control(boot_unit, "The module is loaded closed before dockerd starts", "high", _AGAIN + " (role agent)"),
    Control(
        docker_waits,
        "dockerd waits for a policy, or not, as the inventory wants it",
        "high",
        _AGAIN + " (role agent, bridgewarden_require)",
    ),
    Control(agent_unit, "The agent follows Docker", "high", _AGAIN + " (role agent)"),
)


def judge(control: Control, host: Host) -> Json:
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


def examine(host: Host) -> Json:
    """The result of the module: {"controls": [...], "meta": {...}}. Raises PolicyError for a wrong inventory."""
    normalise(host.wanted.policy)
    controls = [judge(control, host) for control in CONTROLS]
    loaded = host.module.loaded()
    meta: Json = {
        "host": os.uname().nodename,
        "kernel": os.uname().release,
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "module_srcversion": loaded.srcversion if loaded else None,
        "docker_requires_policy": host.require_drop_in.exists(),
    }
    try:
        info = host.info()
        meta.update(generation=info.generation, policy_digest=info.policy_digest, sealed=info.sealed)
    except Unjudged:
        meta.update(generation=None, policy_digest=None, sealed=None)
    return {"controls": controls, "meta": meta}
