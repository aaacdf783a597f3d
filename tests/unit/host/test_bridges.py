# SPDX-License-Identifier: GPL-3.0-or-later
"""The bridge settings on a host made of files: which scope, what is written, what comes back, and that it ends there."""

from __future__ import annotations

import json
import shutil
import typing as t
from pathlib import Path

import pytest
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import StoreCorrupt
from ansible_collections.bridgewarden.docker.plugins.module_utils._host import bridges as bridge

GUARDS = ("docker0", "br-*")
DOCKERS = {"docker0", "br-0123456789ab"}


class FakeHost:
    """/proc, /sys and /etc in a folder; modprobe makes net.bridge appear with the kernel's defaults."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = bridge.BridgeFiles(root=str(root))
        self.calls: t.List[str] = []
        self.refuses = ""
        self.nft = ""
        self.net = root / "sys/class/net"
        self.proc = root / "proc/sys/net/bridge"
        self.net.mkdir(parents=True)

    def add(self, name: str, *ports: str) -> None:
        (self.net / name / "bridge").mkdir(parents=True)
        (self.net / name / "brif").mkdir()
        for own in bridge.SWITCHES.values():
            (self.net / name / "bridge" / own).write_text("0\n")
        for port in ports:
            (self.net / name / "brif" / port).mkdir()

    def load(self, value: int = 1) -> None:
        self.proc.mkdir(parents=True)
        for key in (*bridge.SWITCHES, "bridge-nf-call-arptables"):
            (self.proc / key).write_text(f"{value}\n")
        module = self.root / "sys/module/br_netfilter"
        module.mkdir(parents=True)
        (module / "initstate").write_text("live\n")

    def sysctl_file(self, name: str, text: str) -> None:
        folder = self.root / "etc/sysctl.d"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def __call__(self, argv: t.Sequence[str]) -> t.Tuple[int, str, str]:
        self.calls.append(" ".join(argv))
        if list(argv) == ["modprobe", "br_netfilter"]:
            if self.refuses:
                return 1, "", self.refuses
            self.load()
        # modprobe -r would take the module of the bridges with it, and them.
        assert list(argv) != ["modprobe", "-r", "br_netfilter"]
        if list(argv) == ["nft", "-j", "list", "ruleset"]:
            return (0, self.nft, "") if self.nft else (127, "", "no nft")
        if list(argv) == ["rmmod", "br_netfilter"]:
            if self.refuses:
                return 1, "", self.refuses
            shutil.rmtree(self.proc)
            shutil.rmtree(self.root / "sys/module/br_netfilter")
        return 0, "", ""

    def run(
        self, scope: str = "auto", check_mode: bool = False, state: str = "present", **settings: t.Any
    ) -> bridge.BridgeOutcome:
        wanted: t.Dict[str, t.Any] = {"guards": GUARDS, "docker_bridges": DOCKERS, **settings}
        return bridge.converge_bridges(
            state, scope, wanted["guards"], wanted["docker_bridges"], check_mode, self.paths, self
        )

    def sysctl(self, key: str = "bridge-nf-call-iptables") -> str:
        return (self.proc / key).read_text().strip()

    def own(self, name: str, key: str = "nf_call_iptables") -> str:
        return (self.net / name / "bridge" / key).read_text().strip()

    def all_files(self) -> t.Dict[str, str]:
        return {
            str(p.relative_to(self.root)): p.read_text() for p in sorted(self.root.rglob("*")) if p.is_file()
        }


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    monkeypatch.setattr(bridge, "modules_supported", lambda: True)
    fake = FakeHost(tmp_path)
    fake.add("docker0", "veth1")
    fake.add("br-0123456789ab", "veth2")
    return fake


# Which scope.


def test_auto_is_global_where_every_bridge_is_ours(host: FakeHost) -> None:
    outcome = host.run()
    assert outcome.scope == "global" and outcome.scope_reason


def test_auto_spares_a_bridge_of_virtual_machines(host: FakeHost) -> None:
    host.add("virbr0", "vnet0")
    outcome = host.run()
    assert outcome.scope == "guarded" and "virbr0" in outcome.scope_reason
    assert host.sysctl() == "0" and host.own("docker0") == "1" and host.own("virbr0") == "0"


def test_auto_spares_it_before_its_first_machine_runs(host: FakeHost) -> None:
    host.add("virbr0")
    assert host.run().scope == "guarded"


def test_auto_counts_a_guarded_bridge_as_ours(host: FakeHost) -> None:
    host.add("virbr0", "vnet0")
    outcome = host.run(guards=(*GUARDS, "virbr*"))
    assert outcome.scope == "global"
    assert "virbr0" in outcome.warnings[0]


@pytest.mark.parametrize("name", ["cni0", "kube-bridge", "cbr0"])
def test_auto_does_not_take_kubernetes_its_setting(host: FakeHost, name: str) -> None:
    host.add(name, "veth9")
    outcome = host.run()
    assert outcome.scope == "global" and "Kubernetes" in outcome.scope_reason


def test_auto_follows_a_file_that_asks_for_global(host: FakeHost) -> None:
    host.add("virbr0", "vnet0")
    host.sysctl_file("50-k8s.conf", "net.bridge.bridge-nf-call-iptables=1\n")
    outcome = host.run()
    assert outcome.scope == "global" and "50-k8s.conf" in outcome.scope_reason


def test_auto_without_an_answer_from_docker_goes_by_names(host: FakeHost) -> None:
    host.add("br-lan", "eth1")
    assert host.run(guards=("docker0",), docker_bridges=None, check_mode=True).scope == "guarded"
    shutil.rmtree(host.net / "br-lan")
    assert host.run(guards=("docker0",), docker_bridges=None, check_mode=True).scope == "global"


def test_what_is_asked_for_is_what_is_done(host: FakeHost) -> None:
    host.add("virbr0", "vnet0")
    assert host.run("global").scope == "global"
    assert host.sysctl() == "1"


def test_auto_decides_the_same_the_second_time(host: FakeHost) -> None:
    """Our own file must not count as somebody who asks for the global setting."""
    host.run()
    host.add("virbr0", "vnet0")
    assert host.run().scope == "guarded"
    shutil.rmtree(host.net / "virbr0")
    assert host.run().scope == "global"


# What is done.


@pytest.mark.parametrize("scope", ["global", "guarded"])
@pytest.mark.parametrize("before", [None, 0, 1])
def test_check_mode_foretells_and_the_second_run_is_idle(
    host: FakeHost, scope: str, before: t.Optional[int]
) -> None:
    if before is not None:
        host.load(before)
    untouched = host.all_files()
    foretold = host.run(scope, check_mode=True)
    assert host.all_files() == untouched and set(host.calls) <= {"nft -j list ruleset"}
    done = host.run(scope)
    assert (foretold.actions, foretold.bridges) == (done.actions, done.bridges)
    assert (foretold.before, foretold.after) == (done.before, done.after)
    settled = host.all_files()
    idle = host.run(scope)
    assert not idle.changed and idle.before == idle.after == []
    assert host.all_files() == settled


def test_global_live_and_persistent(host: FakeHost) -> None:
    host.load(0)
    host.run("global")
    assert host.sysctl() == host.sysctl("bridge-nf-call-ip6tables") == "1"
    assert host.sysctl("bridge-nf-call-arptables") == "0"
    text = (host.root / "etc/sysctl.d/99-bridgewarden.conf").read_text()
    assert "net.bridge.bridge-nf-call-iptables = 1\n" in text and "arptables" not in text
    assert (host.root / "etc/modules-load.d/bridgewarden.conf").read_text().endswith("\nbr_netfilter\n")
    assert not (host.root / "etc/udev/rules.d/99-bridgewarden.rules").exists()


def test_guarded_turns_the_module_s_default_off(host: FakeHost) -> None:
    host.run("guarded")
    assert host.sysctl() == host.sysctl("bridge-nf-call-ip6tables") == "0"
    for name in DOCKERS:
        assert host.own(name) == host.own(name, "nf_call_ip6tables") == "1"
    rules = (host.root / "etc/udev/rules.d/99-bridgewarden.rules").read_text()
    assert 'KERNEL=="br-*"' in rules and 'KERNEL=="docker0"' in rules
    assert "udevadm control --reload" in host.calls


def test_a_docker_bridge_with_a_name_of_its_own_is_switched_too(host: FakeHost) -> None:
    host.add("shop0", "veth3")
    host.run("guarded", docker_bridges={*DOCKERS, "shop0"})
    assert host.own("shop0") == "1"
    assert 'KERNEL=="shop0"' in (host.root / "etc/udev/rules.d/99-bridgewarden.rules").read_text()


def test_a_new_docker_bridge_is_caught_up_with(host: FakeHost) -> None:
    host.run("guarded")
    host.add("br-aaaaaaaaaaaa", "veth4")
    outcome = host.run("guarded")
    assert outcome.live == [
        "set br-aaaaaaaaaaaa nf_call_iptables to 1",
        "set br-aaaaaaaaaaaa nf_call_ip6tables to 1",
    ]
    assert outcome.files == []


def test_from_guarded_to_global(host: FakeHost) -> None:
    host.run("guarded")
    host.run("global")
    assert host.sysctl() == "1"
    assert not (host.root / "etc/udev/rules.d/99-bridgewarden.rules").exists()


@pytest.mark.parametrize("name", ["99-sysctl.conf", "99-zz.conf"])
def test_a_file_that_has_the_last_word_is_told(host: FakeHost, name: str) -> None:
    host.sysctl_file(name, "# hardening\nnet/bridge/bridge-nf-call-iptables = 0\n")
    outcome = host.run("global")
    assert name in outcome.warnings[0]
    assert bridge.boot_value("bridge-nf-call-iptables", host.paths)[0] == 0


def test_a_file_before_ours_is_none_of_our_business(host: FakeHost) -> None:
    host.sysctl_file("10-hardening.conf", "-net.bridge.bridge-nf-call-iptables = 0\n")
    assert host.run("global").warnings == []
    assert bridge.boot_value("bridge-nf-call-iptables", host.paths)[0] == 1


def test_a_kernel_that_cannot(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.refuses = "modprobe: FATAL: Module br_netfilter not found in directory /lib/modules/6.1"
    with pytest.raises(bridge.BridgeError, match="not found"):
        host.run("global")
    monkeypatch.setattr(bridge, "modules_supported", lambda: False)
    with pytest.raises(bridge.BridgeError, match="cannot load modules"):
        host.run("global")


@pytest.mark.parametrize("guard", ['x", RUN+="rm', "a b", "", "x" * 40, "new\nline"])
def test_a_guard_that_is_no_pattern_gets_nowhere(host: FakeHost, guard: str) -> None:
    with pytest.raises(bridge.BridgeError):
        host.run("guarded", guards=(guard,))
    assert not (host.root / "etc").exists()


# And back.


@pytest.mark.parametrize("scope", ["global", "guarded"])
@pytest.mark.parametrize("before", [None, 0, 1])
def test_absent_leaves_the_host_as_it_was(host: FakeHost, scope: str, before: t.Optional[int]) -> None:
    if before is not None:
        host.load(before)
    (host.net / "docker0/bridge/nf_call_iptables").write_text("1\n")
    untouched = {path: text.strip() for path, text in host.all_files().items()}
    host.run(scope)
    host.run(scope)
    foretold = host.run(state="absent", check_mode=True)
    done = host.run(state="absent")
    assert foretold.actions == done.actions
    assert {path: text.strip() for path, text in host.all_files().items()} == untouched
    assert not (host.root / "var/lib/bridgewarden").exists()
    assert not host.run(state="absent").changed


def test_absent_puts_bridges_back_that_came_later(host: FakeHost) -> None:
    host.run("guarded")
    host.add("br-bbbbbbbbbbbb")
    host.run("guarded")
    host.run(state="absent")
    assert host.own("br-bbbbbbbbbbbb") == "0"


def test_absent_where_br_netfilter_is_needed_by_others(host: FakeHost) -> None:
    host.run("global")
    host.refuses = "rmmod: ERROR: Module br_netfilter is in use by: xt_physdev"
    outcome = host.run(state="absent")
    assert "in use" in outcome.warnings[0]
    assert host.sysctl() == "0"


def test_absent_on_a_host_that_never_had_it(host: FakeHost) -> None:
    host.load(1)
    untouched = host.all_files()
    assert not host.run(state="absent").changed
    assert host.all_files() == untouched


def test_a_damaged_memory_is_no_guess(host: FakeHost) -> None:
    host.run("global")
    (host.root / "var/lib/bridgewarden/before.json").write_text("{")
    with pytest.raises(StoreCorrupt):
        host.run(state="absent")


# All or nothing.


def plain(host: FakeHost) -> t.Dict[str, str]:
    return {path: text.strip() for path, text in host.all_files().items()}


@pytest.mark.parametrize("scope", ["global", "guarded"])
@pytest.mark.parametrize("before", [None, 0, 1])
def test_one_run_can_be_undone(host: FakeHost, scope: str, before: t.Optional[int]) -> None:
    if before is not None:
        host.load(before)
    host.add("virbr0", "vnet0")
    untouched = plain(host)
    former = json.loads(json.dumps(host.run(scope).former))
    assert plain(host) != untouched
    foretold = bridge.restore_bridges(former, True, host.paths, host)
    done = bridge.restore_bridges(former, False, host.paths, host)
    assert foretold.actions == done.actions and done.changed
    assert plain(host) == untouched
    assert not (host.root / "var/lib/bridgewarden").exists()


def test_a_later_run_is_undone_alone(host: FakeHost) -> None:
    """What an earlier run made stays, and so does what it remembers of the host."""
    host.run("guarded")
    host.add("br-aaaaaaaaaaaa", "veth4")
    settled = plain(host)
    bridge.restore_bridges(host.run("global").former, False, host.paths, host)
    assert plain(host) == settled
    assert (
        bridge.restore_bridges(host.run("guarded", check_mode=True).former, False, host.paths, host).actions
        == []
    )


def test_a_run_that_fails_leaves_nothing(host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    host.load(0)
    untouched = plain(host)
    real = bridge._BridgeWork._set

    def second_fails(work: t.Any, path: str, name: str, present: t.Any, value: int) -> None:
        if name.endswith("ip6tables") and value == 1:
            raise bridge.BridgeError("cannot write", path, "x")
        real(work, path, name, present, value)

    monkeypatch.setattr(bridge._BridgeWork, "_set", second_fails)
    with pytest.raises(bridge.BridgeError, match="cannot write"):
        host.run("global")
    assert plain(host) == untouched
    monkeypatch.setattr(bridge._BridgeWork, "_set", real)
    shutil.rmtree(host.proc)
    shutil.rmtree(host.root / "sys/module/br_netfilter")
    untouched = plain(host)
    host.refuses = "modprobe: FATAL: Module br_netfilter not found"
    with pytest.raises(bridge.BridgeError, match="not found"):
        host.run("global")
    assert plain(host) == untouched


@pytest.mark.parametrize(
    "former",
    [
        {"files": {"/etc/passwd": ""}},
        {"live": [["/proc/sys/kernel/core_pattern", 1]]},
        {"live": [["/proc/sys/net/bridge/bridge-nf-call-arptables", 1]]},
        {"live": [["/sys/class/net/../bridge/nf_call_iptables", 1]]},
    ],
)
def test_nothing_else_can_be_written(host: FakeHost, former: t.Dict[str, t.Any]) -> None:
    with pytest.raises(bridge.BridgeError, match="none of the bridge settings"):
        bridge.restore_bridges(former, False, host.paths, host)


# Others' rules.


def base(
    table: str, name: str, policy: str = "accept", hook: str = "forward", family: str = "inet"
) -> t.Dict[str, t.Any]:
    chain = {"family": family, "table": table, "name": name, "hook": hook, "policy": policy, "prio": 0}
    return {"chain": chain}


def test_others_rules_at_forward_are_named_when_the_settings_come_on(host: FakeHost) -> None:
    rule = {"rule": {"family": "ip", "table": "filter", "chain": "FORWARD", "expr": []}}
    host.nft = json.dumps(
        {
            "nftables": [
                {"metainfo": {}},
                base("mine", "f", "drop"),
                base("filter", "FORWARD", family="ip"),
                rule,
                base("idle", "f"),
                base("in", "i", "drop", "input"),
                {"chain": {"family": "inet", "table": "mine", "name": "no_base"}},
                base("br", "f", "drop", family="bridge"),
            ]
        }
    )
    foretold = host.run(check_mode=True).warnings
    assert host.run().warnings == foretold
    assert foretold[-1].endswith("before: inet mine f (policy drop), ip filter FORWARD")
    assert host.run().warnings == []


@pytest.mark.parametrize("said", ["", "{", "[]", '{"nftables": [{"chain": 1}]}', '{"nftables": []}'])
def test_an_answer_that_says_nothing_is_no_error(host: FakeHost, said: str) -> None:
    host.nft = said
    assert host.run().warnings == []
