# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan, apply, confirm, roll back and remove, against a kernel in memory and real files."""

from __future__ import annotations

import copy
import json
import sys
import typing as t
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from ansible_collections.bridgewarden.docker.plugins.module_utils._commit import lockout
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import (
    CommitResult,
    apply_facts,
    apply_plan,
    current_policy,
    remove_policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.explain import explain_peers
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    boot_plan,
    make_plan,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.window import (
    confirm_commit,
    roll_back,
    seal_policy,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import (
    BridgewardenError,
    Busy,
    KernelError,
    Locked,
    PolicyError,
    RefusedError,
    Sealed,
    SelectorError,
    Stale,
    StoreCorrupt,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.sshd import (
    Sshd,
    SshListener,
    SshSession,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from fake import FakeKernel

from tests.unit.make import Json, attached, container, facts, network, published

POLICY: Json = {
    "groups": {"office": {"cidrs": ["10.10.10.0/24"]}, "web": {"labels": {"tier": "web"}}},
    "rules": [
        {"name": "office reaches the web shop", "from": ["office"], "to": ["web"], "ports": ["8080/tcp"]},
        {"name": "shop", "from": ["world"], "to": ["web"], "published": ["8081/tcp"]},
    ],
}
OTHER: Json = {"rules": [{"name": "all", "from": ["any"], "to": ["containers"]}]}


def on_front(name: str, address: str, port_index: int = 9, **labels: str) -> Json:
    return container(
        name, {"front": attached(address, PortIndex=port_index)}, Labels=labels, Ports=[published(8081, 8080)]
    )


def shop(*containers: Json) -> Json:
    networks = [network("front", Subnets=["172.18.0.0/16"])]
    return facts(containers or [on_front("web", "172.18.0.2", tier="web")], networks)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "etc"), str(tmp_path / "var"), str(tmp_path / "lock"))


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


@pytest.fixture(autouse=True)
def no_ssh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lockout, "find_sshd", Sshd)


def plan(policy: Json = POLICY, *containers: Json, **options: t.Any) -> Plan:
    return make_plan(policy, shop(*containers), CommitOptions(**options))


def test_words_of_a_plan() -> None:
    found = plan()
    assert "allow office reaches the web shop: 10.10.10.0/24 -> web(172.18.0.2) 8080/tcp" in found.words
    assert "allow shop: world -> web(172.18.0.2) 8080/tcp (published as 8081)" in found.words
    assert "default: deny from outside to containers" in found.words
    assert "guards: br-[0-f][0-f][0-f][0-f]????????, br-front, docker0, docker_gwbridge" in found.words
    assert found.warnings == []


def test_first_apply_commits_and_writes(kernel: FakeKernel, store: Store) -> None:
    result = apply_plan(plan(), kernel, store)
    assert (result.changed, result.generation, kernel.commits) == (True, 1, 1)
    assert result.before == "no ruleset yet\n"
    assert "office reaches" in result.after
    assert store.read_policy() == store.read_last_good() == plan().policy
    assert store.read_pending() is None
    applied = store.read_applied()
    assert applied is not None
    assert applied["ruleset_digest"] == plan().ruleset_digest


def test_second_apply_changes_nothing_and_arms_nothing(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    result = apply_plan(plan(), kernel, store, confirm_timeout=60)
    assert (result.changed, result.actions, result.confirm_timeout, kernel.commits) == (False, [], 0, 1)
    assert result.before == result.after


def test_endpoints_that_the_kernel_closed_are_opened_again(kernel: FakeKernel, store: Store) -> None:
    """A restarted container on a macvlan may have the same place as before: nothing differs but what the kernel did itself."""
    apply_plan(plan(), kernel, store)
    kernel.returned = 2
    assert apply_plan(plan(), kernel, store).changed
    assert (kernel.commits, kernel.returned) == (2, 0)
    assert not apply_plan(plan(), kernel, store).changed


def test_containers_alone_commit_again(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    moved = plan(POLICY, on_front("web", "172.18.0.7", tier="web"))
    assert moved.policy_digest == plan().policy_digest
    result = apply_plan(moved, kernel, store)
    assert result.changed
    assert "the same policy" in result.actions[0]
    assert "172.18.0.2" in result.before
    assert "172.18.0.7" in result.after


def test_a_new_port_of_the_same_container_is_a_change(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    result = apply_plan(plan(POLICY, on_front("web", "172.18.0.2", 10, tier="web")), kernel, store)
    assert result.changed
    assert result.before != result.after


def test_check_mode_says_the_same_and_touches_nothing(
    kernel: FakeKernel, store: Store, tmp_path: Path
) -> None:
    dry = apply_plan(plan(), kernel, store, dry_run=True, confirm_timeout=60)
    assert (dry.changed, kernel.dry_runs, kernel.commits) == (True, 1, 0)
    assert not list(tmp_path.iterdir())
    wet = apply_plan(plan(), kernel, store, confirm_timeout=60)
    assert (dry.actions, dry.before, dry.after) == (wet.actions, wet.before, wet.after)


def test_check_mode_without_the_module(store: Store) -> None:
    result = apply_plan(plan(), None, store, dry_run=True)
    assert result.changed
    assert "once the kernel module is loaded" in result.actions[0]


def test_window_then_confirm(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(OTHER), kernel, store)
    result = apply_plan(plan(), kernel, store, confirm_timeout=60)
    assert (result.generation, result.confirm_timeout) == (2, 60)
    # Until it is confirmed the former policy is the desired one, the pending one is at work.
    assert store.read_policy() == plan(OTHER).policy
    assert current_policy(store, kernel.info()) == plan().policy
    assert confirm_commit(kernel, store, 2) == 2
    assert store.read_policy() == store.read_last_good() == plan().policy
    assert store.read_pending() is None


def test_window_that_runs_out(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(OTHER), kernel, store)
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    kernel.rollback()  # the kernel's timer, without the library
    assert current_policy(store, kernel.info()) == plan(OTHER).policy
    again = apply_plan(plan(OTHER), kernel, store)
    assert not again.changed
    assert "allow all: any -> containers all" in again.before
    assert store.read_pending() is None


@pytest.mark.parametrize("last_good", [True, False])
def test_the_agent_follows_the_last_good_policy_where_the_desired_one_is_damaged(
    kernel: FakeKernel, store: Store, last_good: bool
) -> None:
    apply_plan(plan(), kernel, store)
    Path(store.policy_path).write_text("garbage")
    if not last_good:
        Path(store.last_good_path).write_text("garbage")
    asked = []

    def replan(policy: Json) -> Plan:
        asked.append(policy)
        return plan(policy, on_front("web", "172.18.0.7", tier="web"))

    with pytest.raises(StoreCorrupt, match="not JSON") as caught:
        apply_facts(kernel, store, replan)
    assert caught.value.location == store.policy_path
    assert (asked, kernel.commits) == (([plan().policy], 2) if last_good else ([], 1))
    assert Path(store.policy_path).read_text() == "garbage"


def test_rollback_through_the_library(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(OTHER), kernel, store)
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    assert roll_back(kernel, store) == 1
    assert store.read_pending() is None
    with pytest.raises(KernelError, match="no commit waits for its confirmation"):
        roll_back(kernel, store)


def test_confirm_after_a_crash_of_the_confirmer(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    kernel.confirm()  # and then the process died
    result = apply_facts(kernel, store, lambda policy: plan(policy))
    assert result is not None
    assert store.read_policy() == plan().policy


def test_confirm_without_a_window(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    with pytest.raises(KernelError, match="generation 1 is in force"):
        confirm_commit(kernel, store)


def test_stale_is_tried_again_on_fresh_facts(kernel: FakeKernel, store: Store) -> None:
    def somebody_else() -> None:
        kernel.generation = kernel.last = kernel.last + 1

    kernel.meanwhile = [somebody_else, somebody_else]
    plans: t.List[Plan] = []

    def refresh() -> Plan:
        plans.append(plan(POLICY, on_front("web", "172.18.0.9", tier="web")))
        return plans[-1]

    result = apply_plan(plan(), kernel, store, refresh=refresh)
    assert result.generation == 3
    assert len(plans) == 2
    assert "172.18.0.9" in result.after
    kernel.meanwhile = [somebody_else] * 9
    with pytest.raises(Stale):
        apply_plan(plan(OTHER), kernel, store, refresh=lambda: plan(OTHER))


def test_an_open_window_is_nobodys_to_take(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    with pytest.raises(Busy):
        apply_plan(plan(OTHER), kernel, store)
    again = apply_plan(plan(), kernel, store)
    assert (again.changed, again.confirm_timeout) == (False, 60)
    assert store.read_policy() is None


def test_agent_never_undoes_a_policy_applied_meanwhile(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(OTHER), kernel, store)
    apply_plan(plan(), kernel, store)
    seen: t.List[Json] = []

    def replan(policy: Json) -> Plan:
        seen.append(policy)
        return plan(policy)

    result = apply_facts(kernel, store, replan)
    assert result is not None
    assert not result.changed
    assert seen == [plan().policy]


def test_agent_follows_but_does_not_adopt(kernel: FakeKernel, store: Store) -> None:
    store.write_last_good(plan().policy)
    Path(store.policy_path).parent.mkdir(parents=True, exist_ok=True)
    result = apply_facts(kernel, store, lambda policy: plan(policy))
    assert result is not None
    assert result.changed
    assert store.read_policy() is None
    assert apply_facts(FakeKernel(), Store("/nonexistent/a", "/nonexistent/b", store.lock_path), plan) is None


def test_boot_plan_knows_nobody(kernel: FakeKernel) -> None:
    found = boot_plan(POLICY)
    assert found.ruleset.endpoints4 == found.ruleset.publish == []
    assert found.ruleset.guards
    assert found.policy_digest == plan().policy_digest


def test_kernel_not_as_the_files_say(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    kernel.commit(plan(OTHER).ruleset, 1)
    result = apply_plan(plan(), kernel, store)
    assert result.changed
    assert result.before.startswith("generation 2: not the ruleset this host's files describe")
    assert "allow all\n" in result.before


def test_lost_file_is_written_again(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    Path(store.policy_path).write_text("garbage", encoding="utf-8")
    result = apply_plan(plan(), kernel, store)
    assert result.changed
    assert kernel.commits == 1
    assert store.read_policy() == plan().policy


def test_remove(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    dry = remove_policy(kernel, store, dry_run=True)
    assert dry.changed
    assert store.present()
    wet = remove_policy(kernel, store)
    assert (wet.actions, wet.changed) == (dry.actions, True)
    assert kernel.info().guards == ()
    assert not store.present()
    again = remove_policy(kernel, store)
    assert (again.changed, again.actions) == (False, [])
    assert not remove_policy(None, store).changed


def test_remove_with_an_open_window(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    remove_policy(kernel, store)
    assert kernel.info().guards == ()


# Nobody is cut off


def test_guard_on_the_default_route_is_refused(kernel: FakeKernel, store: Store) -> None:
    policy = dict(POLICY, guards=["eth*"])
    with pytest.raises(RefusedError, match="matches eth0, which carries the default route"):
        apply_plan(plan(policy), kernel, store)
    assert kernel.commits == 0
    assert apply_plan(plan(policy), kernel, store, options=CommitOptions(force=True)).changed


SSH = SshSession("10.1.1.1", "10.2.2.2", 22, ("eth0",))
#: A host where sshd listens and nobody is connected.
SSHD = Sshd(
    (),
    (SshListener("0.0.0.0", 22), SshListener("::", 22)),
    (("eth0", "10.2.2.2"), ("eth0", "2001:db8:2::2"), ("br-front", "172.18.0.1")),
)


@pytest.mark.parametrize(
    ("extra", "refused"),
    [
        ({}, False),
        ({"defaults": {"host_ingress": "deny"}}, True),
        ({"defaults": {"host_ingress": "deny"}, "mode": "audit"}, False),
        ({"defaults": {"host_ingress": "reject"}, "allow": ["10.1.1.0/24"]}, False),
        ({"defaults": {"host_ingress": "reject"}, "allow": ["10.1.2.0/24"]}, True),
        ({"deny": ["10.0.0.0/8"]}, True),
    ],
)
def test_controllers_own_path(
    extra: Json, refused: bool, kernel: FakeKernel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockout, "find_sshd", lambda: Sshd((SSH,)))
    extra = copy.deepcopy(extra)
    policy: Json = {"rules": []}
    for action in ("allow", "deny"):
        if action in extra:
            rule = {
                "name": action,
                "action": action,
                "from": extra.pop(action),
                "to": ["host"],
                "ports": ["22/tcp"],
            }
            policy["rules"].append(rule)
    policy.update(extra)
    if refused:
        with pytest.raises(RefusedError, match=r"10\.1\.1\.1 to port 22"):
            apply_plan(plan(policy), kernel, store, dry_run=True)
        apply_plan(plan(policy), kernel, store, options=CommitOptions(force=True))
    else:
        apply_plan(plan(policy), kernel, store)


# Bad input reaches nobody


def test_bad_policy() -> None:
    with pytest.raises(PolicyError):
        plan({"rules": [{"name": "x"}]})


def test_empty_selector_fails_on_request() -> None:
    policy: Json = {"rules": [{"name": "x", "from": ["world"], "to": ["container:wbe"]}]}
    assert 'Did you mean "web"' in plan(policy).warnings[0]
    assert plan(policy, on_empty_selector="ignore").warnings == []
    with pytest.raises(SelectorError) as caught:
        plan(policy, on_empty_selector="fail")
    assert caught.value.path == ("rules", 0, "to")


def test_shadowed_rule_is_told() -> None:
    policy: Json = {
        "rules": [
            {"name": "closed", "action": "deny", "from": ["any"], "to": ["containers"]},
            {"name": "open", "from": ["world"], "to": ["container:web"], "ports": ["80/tcp"]},
        ]
    }
    assert any('rule "open"' in text and '"closed"' in text for text in plan(policy).warnings)


# Explain


def test_explain(kernel: FakeKernel, store: Store) -> None:
    current = shop(
        on_front("web", "172.18.0.2", tier="web"),
        on_front("db", "172.18.0.3", 10),
        on_front("x", "172.18.0.4", 11),
    )
    policy: Json = {"rules": [{"name": "only the web", "from": ["container:web"], "to": ["container:db"]}]}
    apply_plan(make_plan(policy, current), kernel, store)
    (yes,) = explain_peers(kernel, current, "web", "db", "5432/tcp")
    assert (yes["action"], yes["rule"], yes["class"]) == ("allow", "only the web", "inter_container")
    assert yes["words"] == 'allow web (172.18.0.2) -> db (172.18.0.3) 5432/tcp: the rule "only the web"'
    (no,) = explain_peers(kernel, current, "x", "db", "5432/tcp")
    assert (no["action"], no["rule"]) == ("deny", "")
    (host,) = explain_peers(kernel, current, "web", "host", "53/udp")
    assert (host["to"], host["class"]) == ("172.18.0.1", "to_host")
    (outside,) = explain_peers(kernel, current, "203.0.113.5", "db", "5432/tcp", direct=True)
    assert (outside["from_kind"], outside["action"]) == ("world", "deny")
    (unknown,) = explain_peers(kernel, current, "172.18.0.99", "db", "5432/tcp")
    assert unknown["from_kind"] == "guarded"
    with pytest.raises(BridgewardenError, match="Did you mean"):
        explain_peers(kernel, current, "wev", "db", "5432/tcp")
    with pytest.raises(PolicyError, match="has no protocol"):
        explain_peers(kernel, current, "web", "db", "5432")


def test_facts_are_json(store: Store) -> None:
    """A plan survives the way through a module's result."""
    json.dumps([plan().effective, plan().words, plan().policy])


def test_a_sealed_kernel_is_left_alone(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(), kernel, store)
    assert seal_policy(kernel, store) == 1
    assert not apply_plan(plan(), kernel, store).changed
    files = sorted(store.present())
    for dry_run in (True, False):
        with pytest.raises(Sealed, match="sealed") as caught:
            apply_plan(plan(OTHER), kernel, store, dry_run=dry_run)
        assert "reboot" in caught.value.hint
        with pytest.raises(Sealed):
            remove_policy(kernel, store, dry_run=dry_run)
    assert (kernel.commits, sorted(store.present())) == (1, files)


def test_what_cannot_be_sealed(kernel: FakeKernel, store: Store) -> None:
    with pytest.raises(KernelError, match="nothing to seal"):
        seal_policy(kernel, store)
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    with pytest.raises(Busy):
        seal_policy(kernel, store)
    confirm_commit(kernel, store)
    with pytest.raises(Stale):
        seal_policy(kernel, store, 7)
    assert seal_policy(kernel, store, 1) == 1


def test_what_could_not_be_written_is_tried_again_and_said_each_time(
    kernel: FakeKernel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full when the agent has committed."""
    apply_plan(plan(), kernel, store)
    more = (on_front("web", "172.18.0.2", tier="web"), on_front("api", "172.18.0.3", 10))

    def follow() -> t.Optional[CommitResult]:
        return apply_facts(kernel, store, lambda policy: plan(policy, *more))

    with monkeypatch.context() as full:
        full.setattr(
            store, "write_applied", lambda _applied: (_ for _ in ()).throw(OSError(28, "No space left"))
        )
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                follow()
    result = follow()
    assert result is not None and not result.changed
    assert (store.read_applied() or {})["generation"] == kernel.generation


# The lock, and the age of facts.


def test_dockerd_is_asked_without_the_lock(kernel: FakeKernel, store: Store) -> None:
    """A dockerd that is slow must not let a window run out."""
    apply_plan(plan(), kernel, store)
    seen: t.List[int] = []

    def collect() -> None:
        with store.lock(0.0):
            seen.append(kernel.generation)

    result = apply_facts(kernel, store, lambda policy: plan(policy), collect=collect)
    assert result is not None and not result.changed and seen == [1]

    def refresh() -> Plan:
        collect()
        return plan(OTHER)

    kernel.meanwhile = [lambda: setattr(kernel, "generation", 7)]
    assert apply_plan(plan(OTHER), kernel, store, refresh=refresh).changed
    assert seen == [1, 7]


def test_facts_that_are_older_than_somebody_s_commit_are_collected_again(
    kernel: FakeKernel, store: Store
) -> None:
    """The agent: a task of a playbook commits a newer state while dockerd is asked."""
    apply_plan(plan(), kernel, store)
    newer = plan(POLICY, on_front("web", "172.18.0.9", tier="web"))
    facts_now = [plan(), newer]
    collected: t.List[Plan] = []

    def collect() -> None:
        collected.append(facts_now[len(collected)])
        if len(collected) == 1:
            apply_plan(newer, kernel, store)

    result = apply_facts(kernel, store, lambda _policy: collected[-1], collect=collect)
    assert result is not None and not result.changed
    assert (kernel.ruleset, kernel.commits, len(collected)) == (newer.ruleset, 2, 2)


def test_a_plan_of_facts_older_than_the_agent_s_commit_is_made_anew(kernel: FakeKernel, store: Store) -> None:
    """A task of a playbook: the agent commits a container that has just started."""
    apply_plan(plan(), kernel, store)
    old, since = plan(OTHER), kernel.generation
    apply_facts(kernel, store, lambda policy: plan(policy, on_front("web", "172.18.0.9", tier="web")))
    newer = plan(OTHER, on_front("web", "172.18.0.9", tier="web"))
    result = apply_plan(old, kernel, store, refresh=lambda: newer, since=since)
    assert result.plan is newer and kernel.ruleset == newer.ruleset


@pytest.mark.parametrize("act", [confirm_commit, roll_back])
def test_a_window_is_closed_although_somebody_holds_the_lock(
    act: t.Any, kernel: FakeKernel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    apply_plan(plan(OTHER), kernel, store)
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    lock = store.lock
    with monkeypatch.context() as short, lock():
        short.setattr(store, "lock", lambda: lock(0.05))
        with pytest.raises(Locked, match="could not be brought in step"):
            act(kernel, store)
    assert kernel.before is None
    result = apply_facts(kernel, store, lambda policy: plan(policy))  # the agent's next look
    assert result is not None
    confirmed = act is confirm_commit
    assert store.read_policy() == plan(POLICY if confirmed else OTHER).policy
    assert kernel.generation == (2 if confirmed else 1)


def test_a_pending_policy_of_another_window_survives_a_roll_back(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(OTHER), kernel, store)
    apply_plan(plan(), kernel, store, confirm_timeout=60)
    rollback = kernel.rollback

    def rolled_back(generation: t.Optional[int] = None) -> int:
        found = rollback(generation)
        apply_plan(plan(), kernel, store, confirm_timeout=60)  # somebody, before the files are touched
        return found

    kernel.rollback = rolled_back  # type: ignore[method-assign]
    roll_back(kernel, store)
    assert store.read_pending() == plan().policy


VPN: Json = {
    "groups": {
        "pods": {"cidrs": ["fd14::/64"], "behind": ["container:web"]},
        "vpn": {"cidrs": ["10.13.13.0/24", "fd13::/64"], "behind": ["container:web"]},
    },
    "rules": [{"name": "vpn reaches web", "from": ["vpn"], "to": ["container:web"]}],
}


@pytest.mark.parametrize("own, prefix", [("10.13.13.1", "10.13.13.0/24"), ("fd13::1", "fd13::/64")])
@pytest.mark.parametrize("dry_run", [True, False])
def test_a_prefix_with_the_hosts_address_is_refused_by_its_group(
    kernel: FakeKernel, store: Store, own: str, prefix: str, dry_run: bool
) -> None:
    kernel.addresses = {own}
    with pytest.raises(PolicyError, match='the group "vpn" is behind containers') as caught:
        apply_plan(plan(VPN), kernel, store, dry_run=dry_run)
    assert f"its {prefix} has an address of this host" in caught.value.problem
    assert caught.value.location == "groups.vpn.cidrs"
    assert "except" in caught.value.hint
    assert (kernel.commits, store.read_policy()) == (0, None)
    kernel.addresses = {"10.14.0.1"}
    assert apply_plan(plan(VPN), kernel, store, dry_run=dry_run).changed


def test_who_follows_leaves_such_a_group_out(kernel: FakeKernel, store: Store) -> None:
    """An address that the host was given later must not keep the containers from being known."""
    apply_plan(plan(VPN), kernel, store)
    kernel.addresses = {"10.13.13.1"}
    options = CommitOptions("ignore", force=True, adopt=False)
    more = shop(on_front("web", "172.18.0.2"), on_front("other", "172.18.0.3", 12))

    def again(policy: Json) -> Plan:
        return make_plan(policy, more, options)

    found = apply_facts(kernel, store, again, options)
    assert found is not None
    assert found.changed
    assert found.plan is not None
    assert ["vpn" in text and "left out" in text for text in found.plan.warnings] == [True]
    assert kernel.ruleset is not None
    assert ([row[3] for row in kernel.ruleset.prefixes6], kernel.ruleset.prefixes4) == ([0], [])
    assert len(kernel.ruleset.endpoints4) == 2
    commits = kernel.commits
    unchanged = apply_facts(kernel, store, again, options)
    assert unchanged is not None
    assert (unchanged.changed, kernel.commits) == (False, commits)
    kernel.addresses = set()
    apply_facts(kernel, store, again, options)
    assert len(kernel.ruleset.prefixes4) == 1


def test_explain_knows_addresses_behind_containers(kernel: FakeKernel, store: Store) -> None:
    apply_plan(plan(VPN), kernel, store)
    (yes,) = explain_peers(kernel, shop(), "10.13.13.7", "web", "80/tcp")
    assert (yes["from_kind"], yes["action"], yes["rule"]) == ("guarded", "allow", "vpn reaches web")
    (no,) = explain_peers(kernel, shop(), "10.13.14.7", "web", "80/tcp")
    assert no["from_kind"] == "world"
