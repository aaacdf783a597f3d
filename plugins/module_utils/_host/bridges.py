# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bridge settings under which same-bridge traffic reaches netfilter at all.

Live and over reboots: br_netfilter loaded (before sysctl.d is applied), the two
net.bridge sysctls, or instead of them the own switch of each guarded bridge
with a udev rule for new ones.  What was there before is remembered once, so
that `absent` leaves the host as it was; and `restored` undoes one change.  Never
touches bridge-nf-call-arptables and never loads anything but br_netfilter.
Standard library only.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import typing as t
from dataclasses import dataclass, field

from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.connection import docker_get
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.facts import network_bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    PermissionDenied,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import modules_supported
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import GUARDS
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.patterns import glob_any
from ansible_collections.bridgewarden.docker.plugins.module_utils._system import (
    Runner,
    read_text,
    run,
    write_atomically,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json

#: sysctl net.bridge.<key> and the bridge's own attribute of the same meaning.
SWITCHES = {
    "bridge-nf-call-iptables": "nf_call_iptables",
    "bridge-nf-call-ip6tables": "nf_call_ip6tables",
}

#: Docker's own choice of names, for when dockerd cannot be asked.
DOCKER_NAMES = re.compile(r"^(docker0|docker_gwbridge|br-[0-9a-f]{12})$")

#: Bridges of Kubernetes' network plugins: services there stop working when bridged traffic skips netfilter.
KUBERNETES_NAMES = ("cni[0-9]*", "cbr[0-9]*", "kube-bridge", "kube-br*", "weave", "cilium_*")

SYSCTL_FOLDERS = (
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/local/lib/sysctl.d",
    "/usr/lib/sysctl.d",
    "/lib/sysctl.d",
)

_HEAD = "# Written by Ansible, bridgewarden.docker.bridge_netfilter. Changes are overwritten.\n"


class BridgeError(BridgewardenError):
    """The settings cannot be made."""

    kind = "bridge"


@dataclass(frozen=True)
class BridgeFiles:
    """Where things are; tests put them under a folder of their own."""

    root: str = ""
    modules_load: str = "/etc/modules-load.d/bridgewarden.conf"
    sysctl: str = "/etc/sysctl.d/99-bridgewarden.conf"
    udev: str = "/etc/udev/rules.d/99-bridgewarden.rules"
    before: str = "/var/lib/bridgewarden/before.json"
    proc: str = "/proc/sys/net/bridge"
    net: str = "/sys/class/net"
    module: str = "/sys/module/br_netfilter"

    def of(self, path: str) -> str:
        return self.root + path


@dataclass(frozen=True)
class Bridge:
    name: str
    ports: t.Tuple[str, ...]
    docker: bool  # made by dockerd
    guarded: bool  # by the patterns, or because it is Docker's
    switches: t.Dict[str, t.Optional[int]]


@dataclass(frozen=True)
class Bridges:
    """What is, read once."""

    bridges: t.Tuple[Bridge, ...]
    sysctl: t.Dict[str, t.Optional[int]]  # None: br_netfilter is not loaded
    loaded: bool
    docker_asked: bool  # False: dockerd did not answer, its bridges are told by name
    elsewhere: t.Dict[str, t.Tuple[int, str]]  # key -> value and file, set by others' files in sysctl.d


@dataclass
class BridgeOutcome:
    scope: str
    scope_reason: str
    files: t.List[str] = field(default_factory=list)  # what was done to them, in words
    live: t.List[str] = field(default_factory=list)  # what was done to the running kernel
    warnings: t.List[str] = field(default_factory=list)
    bridges: t.List[Json] = field(default_factory=list)
    before: t.List[str] = field(default_factory=list)
    after: t.List[str] = field(default_factory=list)
    #: What was changed, as it was: "files" by path (None: not there), "live" [path, value], "loaded" br_netfilter.
    former: Json = field(default_factory=lambda: {"files": {}, "live": [], "loaded": False})

    @property
    def actions(self) -> t.List[str]:
        return self.files + self.live

    @property
    def changed(self) -> bool:
        return bool(self.actions)


# What is.


def find_bridges(
    guards: t.Sequence[str],
    paths: t.Optional[BridgeFiles] = None,
    docker_bridges: t.Optional[t.Set[str]] = None,
) -> Bridges:
    """`docker_bridges` as dockerd tells them; None: it was not asked, or did not answer."""
    paths = paths or BridgeFiles()
    base = paths.of(paths.net)
    bridges = []
    for name in sorted(os.listdir(base)) if os.path.isdir(base) else []:
        if not os.path.isdir(os.path.join(base, name, "bridge")):
            continue
        docker = bool(DOCKER_NAMES.match(name)) if docker_bridges is None else name in docker_bridges
        ports = os.path.join(base, name, "brif")
        bridges.append(
            Bridge(
                name,
                tuple(sorted(os.listdir(ports)) if os.path.isdir(ports) else ()),
                docker,
                docker or glob_any(name, guards),
                {own: read_number(os.path.join(base, name, "bridge", own)) for own in SWITCHES.values()},
            )
        )
    sysctl = {key: read_number(os.path.join(paths.of(paths.proc), key)) for key in SWITCHES}
    return Bridges(
        tuple(bridges),
        sysctl,
        any(value is not None for value in sysctl.values()),
        docker_bridges is not None,
        {key: found for key in SWITCHES for found in [set_by_others(key, paths)] if found is not None},
    )


def ask_docker(socket: str) -> t.Optional[t.Set[str]]:
    """The bridges of Docker's networks; None where dockerd does not answer."""
    try:
        networks = docker_get("/networks", socket, timeout=10.0)
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return {name for network in networks for name in [network_bridge(network)] if name}


def without(bridges: t.Optional[t.Set[str]], unguarded: t.Sequence[str]) -> t.Optional[t.Set[str]]:
    """Docker's bridges without those that the policy leaves out: they are treated like other software's."""
    return bridges if bridges is None else {name for name in bridges if not glob_any(name, unguarded)}


def read_number(path: str) -> t.Optional[int]:
    text = read_text(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def sysctl_files(paths: BridgeFiles) -> t.List[str]:
    """All files in the order in which systemd-sysctl applies them; the last word counts."""
    found: t.Dict[str, str] = {}
    for folder in reversed(SYSCTL_FOLDERS):
        path = paths.of(folder)
        for name in os.listdir(path) if os.path.isdir(path) else []:
            if name.endswith(".conf"):
                found[name] = os.path.join(path, name)
    return [found[name] for name in sorted(found)]


def file_value(path: str, key: str) -> t.Optional[int]:
    value = None
    for line in (read_text(path) or "").splitlines():
        name, has_value, text = line.strip().partition("=")
        name = name.strip().lstrip("-").replace("/", ".")
        if has_value and name == "net.bridge." + key and text.strip().isdigit():
            value = int(text.strip())
    return value


def set_by_others(key: str, paths: BridgeFiles) -> t.Optional[t.Tuple[int, str]]:
    found = None
    for path in sysctl_files(paths):
        value = None if path == paths.of(paths.sysctl) else file_value(path, key)
        if value is not None:
            found = (value, path)
    return found


def boot_value(key: str, paths: BridgeFiles) -> t.Tuple[t.Optional[int], t.Optional[str]]:
    """The value after the next boot, and the file it comes from."""
    result: t.Tuple[t.Optional[int], t.Optional[str]] = (None, None)
    for path in sysctl_files(paths):
        value = file_value(path, key)
        if value is not None:
            result = (value, path)
    return result


# What shall be.


def choose_scope(wanted: str, host: Bridges) -> t.Tuple[str, str]:
    """global or guarded, and why. `auto` spares the bridges that are none of ours."""
    if wanted != "auto":
        return wanted, "asked for"
    foreign = [bridge.name for bridge in host.bridges if not bridge.guarded]
    if not foreign:
        return "global", "every bridge of this host is Docker's or guarded"
    kubernetes = [name for name in foreign if glob_any(name, KUBERNETES_NAMES)]
    if kubernetes:
        return "global", "{} looks like Kubernetes, which needs the global setting".format(
            ", ".join(kubernetes)
        )
    for value, path in host.elsewhere.values():
        if value == 1:
            return "global", f"{path} asks for the global setting already"
    return "guarded", "with the global setting, Docker's own rules would act on {} too".format(
        ", ".join(foreign)
    )


def contents(
    scope: str, host: Bridges, guards: t.Sequence[str], paths: BridgeFiles
) -> t.Dict[str, t.Optional[str]]:
    """path -> text; None: the file must not be there."""
    value = 1 if scope == "global" else 0
    sysctl = _HEAD + f"# bridgewarden_bridge_scope: {scope}\n"
    sysctl += "".join("net.bridge.%s = %d\n" % (key, value) for key in SWITCHES)
    return {
        paths.of(paths.modules_load): _HEAD
        + "# Loaded before sysctl.d is applied: without it there is no net.bridge to set.\nbr_netfilter\n",
        paths.of(paths.sysctl): sysctl,
        paths.of(paths.udev): udev_rules(udev_names(host, guards)) if scope == "guarded" else None,
    }


def udev_names(host: Bridges, guards: t.Sequence[str]) -> t.List[str]:
    """The patterns, and Docker's bridges with names of their own that no pattern covers."""
    named = [bridge.name for bridge in host.bridges if bridge.docker and not glob_any(bridge.name, guards)]
    return list(dict.fromkeys(list(guards) + sorted(named)))


def udev_rules(names: t.Sequence[str]) -> str:
    lines = [_HEAD + "# Traffic within these bridges passes netfilter from the moment they appear."]
    for name in names:
        lines.append(
            f'ACTION=="add", SUBSYSTEM=="net", KERNEL=="{name}", TEST=="bridge/nf_call_iptables", '
            'ATTR{bridge/nf_call_iptables}="1", ATTR{bridge/nf_call_ip6tables}="1"'
        )
    return "\n".join(lines) + "\n"


def check_guards(guards: t.Sequence[str]) -> None:
    for guard in guards:
        if not re.match(r"^[A-Za-z0-9_.:@*?\[\]!^-]{1,31}$", guard):
            raise BridgeError(
                f"{guard!r} is no pattern for link names",
                "guards",
                "write it as the default is: " + " ".join(GUARDS),
            )


def converge_bridges(
    state: str,
    scope: str,
    guards: t.Sequence[str],
    docker_bridges: t.Optional[t.Set[str]] = None,
    check_mode: bool = False,
    paths: t.Optional[BridgeFiles] = None,
    runner: Runner = run,
) -> BridgeOutcome:
    """All of it, or an error and nothing."""
    paths = paths or BridgeFiles()
    check_guards(guards)
    work = _BridgeWork(paths, runner, check_mode)
    host = find_bridges(guards, paths, docker_bridges)
    if state == "absent":
        return work.absent(host, guards)
    try:
        return work.present(host, scope, guards)
    except BridgewardenError:
        if not check_mode:
            with contextlib.suppress(BridgewardenError):  # the first error says more
                restore_bridges(work.outcome.former, False, paths, runner)
        raise


def restore_bridges(
    former: Json,
    check_mode: bool = False,
    paths: t.Optional[BridgeFiles] = None,
    runner: Runner = run,
) -> BridgeOutcome:
    """Undoes what one run of `present` changed: its outcome's `former`."""
    return _BridgeWork(paths or BridgeFiles(), runner, check_mode).restored(former)


class _BridgeWork:
    def __init__(self, paths: BridgeFiles, runner: Runner, check_mode: bool) -> None:
        self.paths = paths
        self.runner = runner
        self.check_mode = check_mode
        self.outcome = BridgeOutcome("", "")

    def present(self, host: Bridges, wanted: str, guards: t.Sequence[str]) -> BridgeOutcome:
        scope, reason = choose_scope(wanted, host)
        outcome = self.outcome = BridgeOutcome(scope, reason)
        self._warn(host, scope, guards)
        self._warn_of_others(host)
        self._remember(host)
        # Files first: a host that reboots in the middle comes up right.
        for path, text in contents(scope, host, guards, self.paths).items():
            self._file(path, text)
        self._load(host)
        self._sysctl(host, 1 if scope == "global" else 0)
        for bridge in host.bridges:
            switched = scope == "guarded" and bridge.guarded
            self._bridge(bridge, dict.fromkeys(SWITCHES.values(), 1) if switched else {})
        return outcome

    def absent(self, host: Bridges, guards: t.Sequence[str]) -> BridgeOutcome:
        self.outcome = BridgeOutcome("", "")
        remembered = self._remembered()
        for path in (self.paths.udev, self.paths.sysctl, self.paths.modules_load):
            self._file(self.paths.of(path), None)
        if remembered is not None:
            own = remembered.get("bridges") or {}
            for bridge in host.bridges:
                # A bridge that is younger than we are had the kernel's default.
                ours = bridge.guarded or bridge.name in own
                self._bridge(
                    bridge, own.get(bridge.name) or dict.fromkeys(SWITCHES.values(), 0) if ours else {}
                )
            self._restore(host, remembered)
            self._file(self.paths.of(self.paths.before), None)
            with contextlib.suppress(OSError):  # others' files may be in it
                if not self.check_mode:
                    os.rmdir(os.path.dirname(self.paths.of(self.paths.before)))
        return self.outcome

    def restored(self, former: Json) -> BridgeOutcome:
        files, live = self._check_former(former)
        for path, value in reversed(live):
            present = read_number(path)
            if present is not None and present != value:
                self._set(path, self._name(path), present, value)
        if former.get("loaded") and os.path.exists(self.paths.of(self.paths.module) + "/initstate"):
            self._unload()
        for path, text in files:
            self._file(path, text)
        if (self.paths.of(self.paths.before), None) in files and not self.check_mode:
            with contextlib.suppress(OSError):  # others' files may be in it
                os.rmdir(os.path.dirname(self.paths.of(self.paths.before)))
        return self.outcome

    def _check_former(
        self, former: Json
    ) -> t.Tuple[t.List[t.Tuple[str, t.Optional[str]]], t.List[t.Tuple[str, int]]]:
        """It comes from the controller: nothing but what `present` can have changed."""
        paths = self.paths
        ours = [paths.of(one) for one in (paths.modules_load, paths.sysctl, paths.udev, paths.before)]
        switch = re.compile(
            "({}/({})|{}/[^/]+/bridge/({}))".format(
                re.escape(paths.of(paths.proc)),
                "|".join(SWITCHES),
                re.escape(paths.of(paths.net)),
                "|".join(SWITCHES.values()),
            )
        )
        files = [(str(path), text) for path, text in (former.get("files") or {}).items()]
        live = [(str(path), int(value or 0)) for path, value in former.get("live") or []]
        strange = [path for path, _text in files if path not in ours]
        strange += [path for path, _value in live if not switch.fullmatch(path) or "/../" in path]
        if strange:
            raise BridgeError(
                "it is none of the bridge settings",
                strange[0],
                "give former as the run with state present returned it",
            )
        return files, live

    def _name(self, path: str) -> str:
        key = os.path.basename(path)
        if key in SWITCHES:
            return "net.bridge." + key
        return f"{os.path.basename(os.path.dirname(os.path.dirname(path)))} {key}"

    # One thing each; all of them note what they do and do nothing in check mode.

    def _file(self, path: str, text: t.Optional[str]) -> None:
        present = read_exact(path)
        if present == text:
            return
        self.outcome.files.append("{} {}".format("removed" if text is None else "wrote", path))
        self.outcome.before += _listing(path, present)
        self.outcome.after += _listing(path, text)
        if self.check_mode:
            return
        self.outcome.former["files"].setdefault(path, present)
        if text is None:
            os.unlink(path)
        else:
            write(path, text)
        if path == self.paths.of(self.paths.udev):
            self.runner(["udevadm", "control", "--reload"])

    def _load(self, host: Bridges) -> None:
        if host.loaded:
            return
        self.outcome.live.append("loaded br_netfilter")
        self.outcome.before.append("br_netfilter: not loaded")
        self.outcome.after.append("br_netfilter: loaded")
        if self.check_mode:
            return
        if not modules_supported():
            raise BridgeError(
                "the kernel has no br_netfilter and cannot load modules",
                "/proc/modules",
                "boot a distribution kernel",
            )
        code, out, err = self.runner(["modprobe", "br_netfilter"])
        if code != 0:
            said = ((err + out).strip().splitlines() or ["it ended with %d" % code])[-1]
            raise BridgeError(f"br_netfilter cannot be loaded: {said}", "modprobe br_netfilter", "see dmesg")
        self.outcome.former["loaded"] = True

    def _sysctl(self, host: Bridges, value: int) -> None:
        for key, present in host.sysctl.items():
            # Just loaded, the module has its default, 1; in check mode it will.
            now = 1 if present is None else present
            if now == value:
                continue
            self._set(os.path.join(self.paths.of(self.paths.proc), key), "net.bridge." + key, present, value)

    def _bridge(self, bridge: Bridge, wanted: t.Mapping[str, t.Optional[int]]) -> None:
        after = {}
        for own, present in bridge.switches.items():
            value = wanted.get(own)
            after[own] = present if value is None or present is None else value
            if present is not None and after[own] != present:
                path = os.path.join(self.paths.of(self.paths.net), bridge.name, "bridge", own)
                self._set(path, f"{bridge.name} {own}", present, after[own] or 0)
        self.outcome.bridges.append(
            {
                "name": bridge.name,
                "docker": bridge.docker,
                "guarded": bridge.guarded,
                "ports": list(bridge.ports),
                "before": dict(bridge.switches),
                "after": after,
            }
        )

    def _set(self, path: str, name: str, present: t.Optional[int], value: int) -> None:
        self.outcome.live.append("set %s to %d" % (name, value))
        if present is not None:
            self.outcome.before.append("%s = %d" % (name, present))
        self.outcome.after.append("%s = %d" % (name, value))
        if self.check_mode:
            return
        self.outcome.former["live"].append([path, present or 0])
        try:
            with open(path, "w", encoding="ascii") as handle:
                handle.write(str(value))
        except OSError as error:
            raise _denied(path, error) from error

    def _remember(self, host: Bridges) -> None:
        """Once, before the first change; a second run must not take our own settings for the host's."""
        path = self.paths.of(self.paths.before)
        if os.path.lexists(path) or self.check_mode:
            return
        remembered = {
            "br_netfilter_loaded": host.loaded,
            "sysctl": host.sysctl,
            "bridges": {bridge.name: bridge.switches for bridge in host.bridges},
        }
        self.outcome.former["files"][path] = None
        write(path, json.dumps(remembered, indent=1, sort_keys=True) + "\n")

    def _remembered(self) -> t.Optional[Json]:
        path = self.paths.of(self.paths.before)
        text = read_exact(path)
        if text is None:
            return None
        try:
            remembered = json.loads(text)
            remembered["sysctl"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreCorrupt(
                "the file is damaged", path, "remove it and set net.bridge.* by hand"
            ) from error
        return t.cast(Json, remembered)

    def _restore(self, host: Bridges, remembered: Json) -> None:
        if not host.loaded:
            return
        module = os.path.exists(self.paths.of(self.paths.module) + "/initstate")
        if module and not remembered.get("br_netfilter_loaded") and self._unload():
            return
        for key, value in remembered["sysctl"].items():
            present = host.sysctl.get(key)
            # Not loaded before and not to be unloaded now: off is what it came down to.
            value = 0 if value is None else value
            if present is not None and present != value:
                self._set(
                    os.path.join(self.paths.of(self.paths.proc), key), "net.bridge." + key, present, value
                )

    def _unload(self) -> bool:
        if not self.check_mode:
            # modprobe -r would remove the bridge's module as well where nobody else needs it, and every bridge with it.
            code, out, err = self.runner(["rmmod", "br_netfilter"])
            if code != 0:
                self.outcome.warnings.append(
                    f"br_netfilter stays loaded, something has come to need it: {(err + out).strip()}"
                )
                return False
        self.outcome.live.append("unloaded br_netfilter")
        self.outcome.before.append("br_netfilter: loaded")
        self.outcome.after.append("br_netfilter: not loaded")
        return True

    def _warn(self, host: Bridges, scope: str, guards: t.Sequence[str]) -> None:
        value = 1 if scope == "global" else 0
        ours = os.path.basename(self.paths.sysctl)
        for key, (other, path) in sorted(host.elsewhere.items()):
            if other != value and os.path.basename(path) > ours:
                self.outcome.warnings.append(
                    "%s sets net.bridge.%s = %d and is applied after %s: take it out there"
                    % (path, key, other, ours)
                )
        strangers = [bridge.name for bridge in host.bridges if bridge.guarded and not bridge.docker]
        if strangers and host.docker_asked:
            self.outcome.warnings.append(
                "the guards cover {}, which is not Docker's: its traffic is judged too".format(
                    ", ".join(strangers)
                )
            )

    def _warn_of_others(self, host: Bridges) -> None:
        """Where the settings come on, others' FORWARD rules begin to act on traffic that they never met."""
        own = [value for bridge in host.bridges if bridge.guarded for value in bridge.switches.values()]
        if any([*host.sysctl.values(), *own]):
            return
        chains = forward_chains(self.runner)
        if chains:
            self.outcome.warnings.append(
                "traffic within the guarded bridges will meet these rules of others, too, which it did not before: "
                + ", ".join(chains)
            )


def forward_chains(runner: Runner) -> t.List[str]:
    """Base chains of nftables, and of iptables-nft, that stand at FORWARD and may drop. Not known: those of iptables-legacy."""
    code, out, _err = runner(["nft", "-j", "list", "ruleset"])
    try:
        found = json.loads(out)["nftables"] if code == 0 else []
        chains = [one["chain"] for one in found if one.get("chain", {}).get("hook") == "forward"]
        filled = {
            (one["family"], one["table"], one["chain"]) for each in found for one in [each.get("rule")] if one
        }
        return [
            "{family} {table} {name}{policy}".format(
                **{**chain, "policy": " (policy drop)" if chain.get("policy") == "drop" else ""}
            )
            for chain in chains
            if chain["family"] in ("ip", "ip6", "inet")
            and (chain.get("policy") == "drop" or (chain["family"], chain["table"], chain["name"]) in filled)
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _listing(path: str, text: t.Optional[str]) -> t.List[str]:
    return [] if text is None else [f"{path}:"] + ["  " + line for line in text.splitlines()]


def _denied(path: str, error: OSError) -> BridgewardenError:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return PermissionDenied(f"cannot write: {error.strerror}", path, "run as root (become: true)")
    return BridgeError(f"cannot write: {error.strerror}", path, "remove the cause and run again")


def read_exact(path: str) -> t.Optional[str]:
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _denied(path, error) from error


def write(path: str, text: str) -> None:
    """Whole or not at all."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        write_atomically(path, text.encode("utf-8"), 0o644)
    except OSError as error:
        raise _denied(path, error) from error
