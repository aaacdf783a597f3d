# SPDX-License-Identifier: GPL-3.0-or-later
"""Each drift turns its own control red, and only that; what cannot be judged is an error and never a pass."""

from __future__ import annotations

import os
import time
import typing as t
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._compliance.controls import (
    AGENT_UNIT,
    BOOT_UNIT,
    CONTROLS,
    examine_host,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._compliance.host import HostState, Wanted
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    DockerUnavailable,
    PolicyError,
    VersionMismatch,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as bridge
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.kernel_module import Loaded, OnDisk
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import EndpointRow, Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.model import digest
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise

from tests.unit.make import NOWHERE, Json, attached, attachment, container, facts, network, write_ipvs

POLICY: Json = {
    "mode": "enforce",
    "guards": ["docker0", "br-*"],
    "groups": {"office": {"cidrs": ["10.10.10.0/24"]}},
    "rules": [{"name": "office reaches all", "from": ["office"], "to": ["containers"]}],
}


class FakeHost:
    """A hardened host, every part of which a test can spoil."""

    def __init__(self, root: Path) -> None:
        self.paths = bridge.BridgeFiles(root=str(root / "root"))
        net = root / "root/sys/class/net"
        for name in ("docker0", "br-0123456789ab"):
            (net / name / "bridge").mkdir(parents=True)
            (net / name / "brif").mkdir()
            for own in bridge.SWITCHES.values():
                (net / name / "bridge" / own).write_text("0\n")
        self.proc = root / "root/proc/sys/net/bridge"
        self.proc.mkdir(parents=True)
        for key in bridge.SWITCHES:
            (self.proc / key).write_text("1\n")
        self.docker_bridges: t.Optional[t.Set[str]] = {"docker0", "br-0123456789ab"}
        self.scope = "auto"
        self.seal = False
        self.require = False
        self.drop_in = root / "bridgewarden.conf"
        bridge.converge_bridges(
            "present", "auto", POLICY["guards"], self.docker_bridges, False, self.paths, self.run
        )
        self.store = Store(str(root / "etc"), str(root / "var"), str(root / "lock"))
        self.store.write_policy(POLICY)
        self.units = {
            BOOT_UNIT: "ActiveState=active\nUnitFileState=enabled\nLoadState=loaded\n",
            AGENT_UNIT: "ActiveState=active\nUnitFileState=enabled\nLoadState=loaded\n",
        }
        self.loaded: t.Optional[Loaded] = Loaded("AAA", "0.1.0", 0)
        self.disk: t.Optional[OnDisk] = OnDisk("/lib/x.ko", "AAA", "0.1.0")
        self.level, self.damage_words = "installed", ""
        self.kernel_error: t.Optional[Exception] = None
        self.info = Info(
            version="0.1.0",
            generation=5,
            mode="enforce",
            defaults={},
            policy_digest=digest(normalise(POLICY)),
            ruleset_digest="",
            confirm_remaining=0,
            guards=("docker0", "br-*"),
            guard_links=(4, 5),
            counts={},
            hooks_first=0x1F1F,
            hooks_expected=0x1F1F,
        )
        self.endpoints = [EndpointRow("172.17.0.2", 3, 4, 9), EndpointRow("172.18.0.2", 4, 5, 0)]
        front = {"Link": "br-0123456789ab", "LinkIndex": 5}
        self.facts: t.Union[Json, Exception] = facts(
            [
                container(
                    "web", {"bridge": attached("172.17.0.2", Link="docker0", LinkIndex=4, PortIndex=9)}
                ),
                container("app", {"front": attached("172.18.0.2", Port="veth11", PortIndex=11, **front)}),
                container("cold", {"front": attached(**NOWHERE)}, State="exited"),
            ],
            [
                network("bridge", Bridge="docker0", BridgeIndex=4),
                network("front", Bridge="br-0123456789ab", BridgeIndex=5),
                network("host", Driver="host", Bridge=None, BridgeIndex=None),
            ],
        )

    def run(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        if argv[0] == "systemctl":
            return (
                0,
                self.units.get(argv[-1], "ActiveState=inactive\nUnitFileState=\nLoadState=not-found\n"),
                "",
            )
        return 0, "", ""

    def _facts(self, _socket: str) -> Json:
        if isinstance(self.facts, Exception):
            raise self.facts
        return self.facts

    def controls(self, policy: t.Optional[Json] = None) -> t.Dict[str, Json]:
        fake = self

        class Kernel:
            def __enter__(self) -> Kernel:
                if fake.kernel_error:
                    raise fake.kernel_error
                return self

            def __exit__(self, *exc: object) -> None:
                pass

            def info(self) -> Info:
                return fake.info

            def endpoints(self) -> t.List[EndpointRow]:
                return fake.endpoints

        class Module:
            def loaded(self) -> t.Optional[Loaded]:
                return fake.loaded

            def on_disk(self) -> t.Optional[OnDisk]:
                return fake.disk

        class Dkms:
            def level(self, version: str, kernel: str) -> str:
                return fake.level if version == "0.1.0" else "absent"

            def damage(self, version: str, kernel: str) -> str:
                return fake.damage_words

            def versions(self) -> t.List[str]:
                return ["0.1.0"]

        anything: t.Any = None
        host = HostState(
            Wanted(policy or POLICY, "0.1.0", self.scope, self.seal, self.require),
            self.store,
            t.cast(anything, Kernel),
            self._facts,
            t.cast(anything, Module()),
            t.cast(anything, Dkms()),
            self.run,
            self.paths,
            lambda _socket: self.docker_bridges,
            str(self.drop_in),
        )
        result = examine_host(host)
        self.meta = result["meta"]
        return {control["id"]: control for control in result["controls"]}

    def red(self) -> t.Dict[str, str]:
        return {
            name: control["status"]
            for name, control in self.controls().items()
            if control["status"] != "pass"
        }


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    return FakeHost(tmp_path)


def test_a_hardened_host_is_green(host: FakeHost) -> None:
    assert host.red() == {}
    assert host.meta["generation"] == 5 and host.meta["kernel"] == os.uname().release
    for control in host.controls().values():
        assert control["expected"] and control["actual"] and control["title"] and control["remediation"] == ""


AUDIT = {**POLICY, "mode": "audit"}


def audited(host: FakeHost) -> t.Dict[str, Json]:
    found = host.controls(AUDIT)
    return {name: found[name] for name in ("bridge_live", "bridge_persistent")}


def test_audit_is_green_without_bridge_settings_and_red_with_ours(host: FakeHost) -> None:
    left = audited(host)
    assert left["bridge_persistent"]["status"] == "fail"
    assert all(words.endswith("should not be there") for words in left["bridge_persistent"]["actual"])
    bridge.converge_bridges(
        "absent", "auto", POLICY["guards"], host.docker_bridges, False, host.paths, host.run
    )
    for control in audited(host).values():
        assert control["status"] == "pass" and "mode audit" in control["expected"]
    assert host.red() == {"bridge_persistent": "fail"}, "enforcing wants them"


def test_audit_leaves_a_switch_that_is_somebody_elses(host: FakeHost) -> None:
    bridge.converge_bridges(
        "absent", "auto", POLICY["guards"], host.docker_bridges, False, host.paths, host.run
    )
    spoil_sysctl(host)
    assert {control["status"] for control in audited(host).values()} == {"pass"}


def test_audit_tells_a_switch_that_is_still_as_enforcing_wanted_it(host: FakeHost) -> None:
    for key in bridge.SWITCHES:
        (host.proc / key).write_text("0\n")
    remembered = Path(host.paths.of(host.paths.before))
    remembered.write_text(remembered.read_text().replace(": 1", ": 0"))
    for key in bridge.SWITCHES:
        (host.proc / key).write_text("1\n")
    assert audited(host)["bridge_live"]["actual"] == [
        f"net.bridge.{key} is not 0" for key in sorted(bridge.SWITCHES)
    ]


def spoil_sysctl(host: FakeHost) -> None:
    (host.proc / "bridge-nf-call-ip6tables").write_text("0\n")


def spoil_files(host: FakeHost) -> None:
    Path(host.paths.of(host.paths.modules_load)).unlink()


def spoil_boot_order(host: FakeHost) -> None:
    (Path(host.paths.of(host.paths.sysctl)).parent / "99-zz.conf").write_text(
        "net.bridge.bridge-nf-call-iptables=0\n"
    )


def spoil_ipvs(host: FakeHost) -> None:
    write_ipvs(Path(host.paths.root))


def spoil_guard(host: FakeHost) -> None:
    host.info = replace(host.info, guard_links=(4,))


def spoil_policy(host: FakeHost) -> None:
    host.info = replace(host.info, policy_digest="00" * 32)


def spoil_mode(host: FakeHost) -> None:
    host.info = replace(host.info, mode="audit", policy_digest=digest(normalise({**POLICY, "mode": "audit"})))


def spoil_confirm(host: FakeHost) -> None:
    host.info = replace(host.info, confirm_remaining=30)


def spoil_seal(host: FakeHost) -> None:
    host.seal = True


def spoil_require(host: FakeHost) -> None:
    host.require = True


def spoil_drop_in(host: FakeHost) -> None:
    host.drop_in.touch()


def spoil_hooks(host: FakeHost) -> None:
    host.info = replace(host.info, hooks_first=0x1F1B)


def spoil_endpoint(host: FakeHost) -> None:
    host.endpoints = host.endpoints[:1]


def spoil_endpoint_link(host: FakeHost) -> None:
    host.endpoints = [replace(host.endpoints[0], link=5), host.endpoints[1]]


def spoil_endpoint_port(host: FakeHost) -> None:
    host.endpoints = [replace(host.endpoints[0], port=10), host.endpoints[1]]


def spoil_endpoint_identity(host: FakeHost) -> None:
    host.endpoints = [replace(host.endpoints[0], identity=0), host.endpoints[1]]


def spoil_version(host: FakeHost) -> None:
    host.loaded = Loaded("AAA", "0.0.9", 0)


def spoil_build(host: FakeHost) -> None:
    host.disk = OnDisk("/lib/x.ko", "BBB", "0.1.0")


def spoil_dkms(host: FakeHost) -> None:
    host.level = "built"


def spoil_dkms_files(host: FakeHost) -> None:
    host.damage_words = "Built modules are missing in the kernel modules folder"


def spoil_policy_file(host: FakeHost) -> None:
    host.store.write_policy({**POLICY, "rules": []})


def spoil_policy_file_gone(host: FakeHost) -> None:
    Path(host.store.policy_path).unlink()


def spoil_boot_unit(host: FakeHost) -> None:
    host.units[BOOT_UNIT] = "ActiveState=active\nUnitFileState=disabled\nLoadState=loaded\n"


def spoil_agent(host: FakeHost) -> None:
    host.units[AGENT_UNIT] = "ActiveState=failed\nUnitFileState=enabled\nLoadState=loaded\n"


def spoil_agent_gone(host: FakeHost) -> None:
    del host.units[AGENT_UNIT]


@pytest.mark.parametrize(
    ("spoil", "control"),
    [
        (spoil_sysctl, "bridge_live"),
        (spoil_files, "bridge_persistent"),
        (spoil_boot_order, "bridge_persistent"),
        (spoil_guard, "bridges_guarded"),
        (spoil_ipvs, "ipvs_tracked"),
        (spoil_policy, "policy_in_force"),
        (spoil_mode, "mode"),
        (spoil_confirm, "commit_confirmed"),
        (spoil_seal, "sealed"),
        (spoil_require, "docker_waits"),
        (spoil_drop_in, "docker_waits"),
        (spoil_hooks, "hooks_first"),
        (spoil_endpoint, "endpoints_known"),
        (spoil_endpoint_link, "endpoints_known"),
        (spoil_endpoint_port, "endpoints_known"),
        (spoil_endpoint_identity, "endpoints_known"),
        (spoil_version, "module_version"),
        (spoil_build, "module_current"),
        (spoil_dkms, "dkms_installed"),
        (spoil_dkms_files, "dkms_installed"),
        (spoil_policy_file, "boot_policy"),
        (spoil_policy_file_gone, "boot_policy"),
        (spoil_boot_unit, "boot_unit"),
        (spoil_agent, "agent_unit"),
        (spoil_agent_gone, "agent_unit"),
    ],
)
def test_a_drift_turns_its_control_red_and_only_that(
    host: FakeHost, spoil: t.Callable[[FakeHost], None], control: str
) -> None:
    assert host.red() == {}
    spoil(host)
    assert host.red() == {control: "fail"}
    found = host.controls()[control]
    assert found["expected"] != found["actual"] and found["remediation"]


def test_who_runs_before_us_is_named(host: FakeHost) -> None:
    host.info = replace(
        host.info, hooks_first=0x1F1B, hooks_ahead=("IPv4 FORWARD nft_do_chain_ipv4 [nf_tables]",)
    )
    found = host.controls()["hooks_first"]
    assert "nft_do_chain_ipv4 [nf_tables]" in found["actual"]


def test_a_seal_nobody_wanted_is_told_but_not_red(host: FakeHost) -> None:
    host.info = replace(host.info, sealed=True)
    assert host.controls()["sealed"]["status"] == "pass"


def test_every_control_can_turn_red() -> None:
    """No control without a drift above that proves it."""
    proven = {mark.args[1] for mark in []}
    for mark in test_a_drift_turns_its_control_red_and_only_that.pytestmark:  # type: ignore[attr-defined]
        proven |= {control for _spoil, control in mark.args[1]}
    assert proven | {"module_loaded"} == {control.check.__name__ for control in CONTROLS}


def test_a_module_that_is_not_loaded_fails_once_and_the_rest_cannot_be_judged(host: FakeHost) -> None:
    host.loaded = None
    red = host.red()
    assert red.pop("module_loaded") == "fail"
    assert set(red) == {
        "module_version", "module_current", "bridges_guarded", "hooks_first",
        "policy_in_force", "mode", "commit_confirmed", "endpoints_known", "sealed",
    }  # fmt: skip
    assert set(red.values()) == {"error"}
    assert host.controls()["mode"]["actual"] == "the kernel module is not loaded"


def test_docker_down_is_no_pass(host: FakeHost) -> None:
    host.facts, host.docker_bridges = DockerUnavailable("dockerd is not running", "x", "start it"), None
    assert host.red() == {"bridges_guarded": "error", "endpoints_known": "error"}


def test_a_module_of_another_release_is_no_pass_and_no_crash(host: FakeHost) -> None:
    host.kernel_error = VersionMismatch(
        "the loaded kernel module speaks protocol version 1", "", "load it again"
    )
    red = host.red()
    assert set(red.values()) == {"error"} and "policy_in_force" in red
    assert "protocol version 1" in host.controls()["mode"]["actual"]


def test_a_damaged_policy_file_is_an_error(host: FakeHost) -> None:
    Path(host.store.policy_path).write_text("{}")
    assert host.red() == {"boot_policy": "error"}


def test_a_container_that_has_just_started_is_looked_at_twice(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = host.endpoints
    host.endpoints = late[:1]
    monkeypatch.setattr(time, "sleep", lambda _seconds: setattr(host, "endpoints", late))
    assert host.red() == {}


def test_the_words_for_what_is_wrong(host: FakeHost) -> None:
    spoil_sysctl(host)
    spoil_files(host)
    controls = host.controls()
    assert controls["bridge_live"]["actual"] == ["net.bridge.bridge-nf-call-ip6tables is not 1"]
    assert controls["bridge_persistent"]["actual"][0].endswith(
        "/modules-load.d/bridgewarden.conf is not as it should be"
    )


def test_a_wrong_inventory_is_said_and_not_judged(host: FakeHost) -> None:
    with pytest.raises(PolicyError):
        host.controls({**POLICY, "mode": "sometimes"})


def test_reading_changes_nothing(host: FakeHost, tmp_path: Path) -> None:
    spoil_sysctl(host)
    spoil_files(host)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    host.controls()
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_attached_and_no_container_has_to_be_known_too(
    host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _seconds: None)
    assert isinstance(host.facts, dict)
    step = {"bridge": attached("172.17.0.9", Link="docker0", LinkIndex=4, PortIndex=10)}
    host.facts["attachments"] = [attachment("build", "build step x", step)]
    found = host.controls()["endpoints_known"]
    assert found["status"] == "fail" and "build step x 172.17.0.9" in str(found)
    host.endpoints.append(EndpointRow("172.17.0.9", 5, 4, 10))
    assert host.controls()["endpoints_known"]["status"] == "pass"


def test_what_dockerd_has_only_begun_to_attach_does_not(host: FakeHost) -> None:
    """Its port is not up; a stopped container's endpoint that dockerd forgot never will have one."""
    assert isinstance(host.facts, dict)
    front = {"Link": "br-0123456789ab", "LinkIndex": 5, "Port": None, "PortIndex": None}
    late = container("late", {"front": attached("172.18.0.9", **front)}, State="created")
    host.facts["containers"].append(late)
    assert host.controls()["endpoints_known"]["status"] == "pass"


def test_endpoints_inside(host: FakeHost) -> None:
    """With placement container those on a macvlan network must be known, too, each in its own namespace."""
    policy = {**POLICY, "placement": "container"}
    host.info = replace(host.info, placement="container", policy_digest=digest(normalise(policy)))
    assert isinstance(host.facts, dict)
    lan = attached("172.19.0.2", **{**NOWHERE, "Parent": "eth1", "ParentIndex": 7, "Namespace": 4026532000})
    host.facts["containers"].append(container("far", {"lan": lan}))
    assert host.controls(policy)["endpoints_known"]["status"] == "fail"
    host.endpoints.append(EndpointRow("172.19.0.2", 5, 7, 4026532000))
    assert host.controls(policy)["endpoints_known"]["status"] == "pass"
    host.endpoints[-1] = EndpointRow("172.19.0.2", 5, 7, 4026532001)
    assert host.controls(policy)["endpoints_known"]["status"] == "fail"
