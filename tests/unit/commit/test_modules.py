# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules over the engine: what they return, twice, in check mode, and when it is too late."""

from __future__ import annotations

import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit import lockout
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    KernelError,
    ModuleMissing,
    PolicyError,
    RefusedError,
    Stale,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import Sshd, SshSession
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from fake import FakeKernel

pytest.importorskip("ansible")

from ansible_collections.bridgewarden.docker.plugins.modules import (
    confirm,
    explain,
    info,
    policy,
    rollback,
    seal,
)

from tests.unit.make import attached, container, facts, network

POLICY: t.Dict[str, t.Any] = {
    "mode": "enforce",
    "rules": [{"name": "all", "from": ["any"], "to": ["containers"]}],
}


class Module:
    """As much of AnsibleModule as the functions use."""

    def __init__(self, check_mode: bool = False, **params: t.Any) -> None:
        self.check_mode = check_mode
        self.warnings: t.List[str] = []
        self.params: t.Dict[str, t.Any] = {
            "policy": None,
            "on_empty_selector": "warn",
            "confirm_timeout": 0,
            "force": False,
            "enforce_empty": False,
            "docker_socket": "unix:///x",
        }
        self.params.update(params)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKernel:
    made = FakeKernel()
    store = Store(str(tmp_path / "etc"), str(tmp_path / "var"), str(tmp_path / "lock"))
    for module in (confirm, info, policy, rollback, seal):
        monkeypatch.setattr(module, "Kernel", lambda: made)
        monkeypatch.setattr(module, "Store", lambda: store, raising=False)
    monkeypatch.setattr(policy, "collect_facts", lambda _socket, warn: {})
    monkeypatch.setattr(lockout, "find_sshd", Sshd)
    return made


def applied(window: int = 0, check_mode: bool = False) -> t.Dict[str, t.Any]:
    return policy.applied(
        t.cast(t.Any, Module(check_mode, policy=dict(POLICY, placement=None), confirm_timeout=window))
    )


def test_policy(kernel: FakeKernel) -> None:
    check = applied(check_mode=True)
    first, second = applied(), applied()
    assert (check["changed"], first["changed"], second["changed"]) == (True, True, False)
    assert check["actions"] == first["actions"]
    assert check["diff"] == first["diff"]
    assert second["generation"] == first["generation"] == 1
    assert first["policy_digest"] == kernel.info().policy_digest
    assert "allow all: any -> containers all" in first["effective"]


def test_what_would_lock_people_out_is_refused_in_check_mode_too(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lockout, "find_sshd", lambda: Sshd((SshSession("10.2.0.5", "10.2.0.1", 22, ("br-mgmt",)),))
    )
    wide = dict(POLICY, guards=["br-*"])
    for check_mode in (True, False):
        with pytest.raises(RefusedError, match="br-mgmt, over which"):
            policy.applied(t.cast(t.Any, Module(check_mode, policy=wide)))
    assert policy.applied(t.cast(t.Any, Module(True, policy=wide, force=True)))["changed"]
    assert kernel.commits == 0


def test_a_container_that_cannot_be_inspected_is_a_warning(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collect(_socket: str, warn: t.Callable[[str], None]) -> t.Dict[str, t.Any]:
        warn("dockerd cannot inspect the container web\x1b[2J\u202e\n")
        return {}

    monkeypatch.setattr(policy, "collect_facts", collect)
    module = Module(policy=dict(POLICY))
    for act in (policy.rendered, policy.applied):
        act(t.cast(t.Any, module))
    assert module.warnings == ["dockerd cannot inspect the container web?[2J?"] * 2


@pytest.mark.parametrize("act", [policy.applied, policy.rendered, policy.checked])
def test_a_mode_must_be_chosen_and_enforce_needs_a_rule(
    kernel: FakeKernel, act: t.Callable[[t.Any], t.Any]
) -> None:
    """The action plugin says so first; a module that is called without it, too."""
    for raw, words in (({"rules": []}, "the mode is not set"), ({"mode": "enforce"}, "there is no rule")):
        with pytest.raises(PolicyError, match=words):
            act(Module(policy=raw))
    assert act(Module(policy={"mode": "enforce"}, enforce_empty=True)) is not None
    assert act(Module(policy={"mode": "audit"})) is not None


def test_what_a_cidr_covered_before_is_a_warning_until_it_is_applied(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = container("stranger", {"front": attached("172.21.0.2")})
    monkeypatch.setattr(policy, "collect_facts", lambda _socket, warn: facts([stack], [network("front")]))
    rules = [{"name": "lan", "from": ["172.16.0.0/12"], "to": ["containers"], "ports": ["5432/tcp"]}]
    module = Module(policy={"mode": "enforce", "rules": rules})
    found = policy.rendered(t.cast(t.Any, module))
    assert found["formerly"] == [
        {
            "rule": "lan",
            "key": "from",
            "peer": "172.16.0.0/12",
            "containers": ["stranger(172.21.0.2)"],
            "write": ["containers"],
        }
    ]
    words = [text for text in module.warnings if "covered stranger(172.21.0.2) before" in text]
    assert len(words) == 1 and "add containers to from" in words[0]
    for expected in (True, False, False):
        module = Module(policy={"mode": "enforce", "rules": rules})
        assert len(policy.applied(t.cast(t.Any, module))["formerly"]) == 1
        assert any("covered stranger" in text for text in module.warnings) == expected
    # A host whose policy was applied by a version that took CIDRs otherwise.
    store = policy.Store()
    store.write_applied({key: value for key, value in (store.read_applied() or {}).items() if key != "cidrs"})
    policy.applied(t.cast(t.Any, module))
    assert any("covered stranger" in text for text in module.warnings)


def test_a_rule_whose_last_day_is_over_is_reported(kernel: FakeKernel) -> None:
    rules = [{"name": "fair", "from": ["world"], "to": ["containers"], "until": "2020-01-31"}]
    module = Module(policy={"mode": "enforce", "rules": rules})
    found = policy.applied(t.cast(t.Any, module))
    assert module.warnings == [
        'rule "fair": its last day was 2020-01-31: it counts as absent; remove it, or set until anew'
    ]
    assert found["rules"] == [] and kernel.rules() == []


def test_explain_answers_for_a_policy_that_is_not_committed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing() -> t.NoReturn:
        raise AssertionError("asked the kernel")

    one, other = (
        container(name, {"front": attached(f"172.18.0.{n}")}) for n, name in ((2, "web"), (3, "db"))
    )
    monkeypatch.setattr(explain, "Kernel", missing)
    monkeypatch.setattr(explain, "Store", lambda: Store(str(tmp_path), str(tmp_path), str(tmp_path)))
    monkeypatch.setattr(
        explain, "collect_facts", lambda _socket, warn: facts([one, other], [network("front")])
    )
    raw = {
        "rules": [{"name": "sql", "from": ["container:web"], "to": ["container:db"], "ports": ["5432/tcp"]}]
    }
    asked = {"from": "web", "to": "db", "service": "5432/tcp", "direct": False, "policy": raw}
    found = explain.explain(t.cast(t.Any, Module(**asked)))
    assert found["action"] == "allow"
    assert found["words"] == ['allow web (172.18.0.2) -> db (172.18.0.3) 5432/tcp: the rule "sql"']
    found = explain.explain(t.cast(t.Any, Module(**{**asked, "from": "db", "to": "web"})))
    assert found["action"] == "deny"


def test_rendered_needs_no_kernel(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> t.NoReturn:
        raise AssertionError("asked the kernel")

    monkeypatch.setattr(policy, "Kernel", missing)
    found = policy.rendered(
        t.cast(
            t.Any, Module(policy={"mode": "audit", "rules": [dict(POLICY["rules"][0], to=["container:x"])]})
        )
    )
    assert found["changed"] is False
    assert "there is no container" in found["policy_warnings"][0]


def test_module_not_loaded(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_self: FakeKernel) -> None:
        raise ModuleMissing("not loaded")

    monkeypatch.setattr(FakeKernel, "open", missing)
    assert applied(check_mode=True)["changed"]
    with pytest.raises(ModuleMissing):
        applied()
    assert policy.absent(t.cast(t.Any, Module()))["changed"] is False


def test_absent(kernel: FakeKernel) -> None:
    applied()
    assert policy.absent(t.cast(t.Any, Module(check_mode=True)))["changed"]
    assert policy.absent(t.cast(t.Any, Module()))["changed"]
    assert not policy.absent(t.cast(t.Any, Module()))["changed"]


def test_confirm(kernel: FakeKernel) -> None:
    applied(window=60)
    assert confirm.confirm(1, check_mode=True) == {"changed": True, "generation": 1}
    assert confirm.confirm(1, check_mode=False) == {"changed": True, "generation": 1}
    assert confirm.confirm(1, check_mode=False) == {"changed": False, "generation": 1}
    with pytest.raises(KernelError, match="no commit waits"):
        confirm.confirm(None, check_mode=False)


def test_confirm_too_late(kernel: FakeKernel) -> None:
    applied(window=60)
    kernel.rollback()
    with pytest.raises(Stale, match="generation 1 is not in force any more"):
        confirm.confirm(1, check_mode=False)


def test_seal(kernel: FakeKernel) -> None:
    applied(window=0)
    assert seal.seal(None, check_mode=True) == {"changed": True, "generation": 1}
    assert not kernel.sealed
    assert seal.seal(1, check_mode=False) == {"changed": True, "generation": 1}
    assert seal.seal(None, check_mode=False) == {"changed": False, "generation": 1}
    with pytest.raises(Stale):
        seal.seal(2, check_mode=False)


def test_rollback(kernel: FakeKernel) -> None:
    applied(window=60)
    done = {"changed": True, "undone": True, "actions": ["undo the commit of generation 1"]}
    assert rollback.rollback(None, check_mode=True) == {**done, "generation": 1}
    assert rollback.rollback(1, check_mode=False) == {**done, "generation": 0}
    again = rollback.rollback(1, check_mode=False)
    assert again == {**again, "changed": False, "undone": False, "generation": 0}
    assert rollback.rollback(None, check_mode=False) == again
    assert again["actions"] == ["no commit waits for its confirmation: generation 0 stays in force"]


def test_rollback_of_another_window(kernel: FakeKernel) -> None:
    applied(60)
    found = rollback.rollback(7, check_mode=False)
    assert (found["undone"], found["generation"]) == (False, 1)
    assert found["actions"] == ["generation 7 is not in force: generation 1 stays in force"]


def test_rollback_of_what_is_confirmed(kernel: FakeKernel) -> None:
    applied()
    with pytest.raises(RefusedError, match="confirmed already"):
        rollback.rollback(1, check_mode=False)


def test_info(kernel: FakeKernel) -> None:
    applied()
    warned: t.List[str] = []
    found = info.collect({"rules": True, "endpoints": False, "not_covered": False}, warned.append)
    assert (found["loaded"], found["generation"], found["hooks_in_place"]) == (True, 1, True)
    assert found["rules"][0]["name"] == "all"
    assert "endpoints" not in found and "not_covered" not in found
    gone = {"rules": False, "endpoints": False, "not_covered": True, "docker_socket": "unix:///nonexistent"}
    assert "not_covered" not in info.collect(gone, warned.append)
    assert len(warned) == 1 and "/nonexistent" in warned[0]
