# Copyright (c) The bridgewarden developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""One step of the agent: bring the kernel in step with the policy and Docker.
PRIVATE to the collection: it may change at any time.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import time
import typing as t
from types import MappingProxyType

from ansible_collections.bridgewarden.docker.plugins.module_utils._agent import docker_proxy
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.apply import (
    apply_facts,
    commit_ruleset,
    remember,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.lockout import ways_in
from ansible_collections.bridgewarden.docker.plugins.module_utils._commit.plan import (
    CommitOptions,
    Plan,
    Planner,
    bridges_by_name,
    host_clock,
)
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.defaults import DEFAULT_SOCKET
from ansible_collections.bridgewarden.docker.plugins.module_utils._docker.watch import Watch
from ansible_collections.bridgewarden.docker.plugins.module_utils._errors import Stale
from ansible_collections.bridgewarden.docker.plugins.module_utils._host.store import Store
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.client import Kernel
from ansible_collections.bridgewarden.docker.plugins.module_utils._kernel.replies import Info
from ansible_collections.bridgewarden.docker.plugins.module_utils._policy.parse import normalise
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.compile import Ruleset
from ansible_collections.bridgewarden.docker.plugins.module_utils._ruleset.resolve import NO_CLOCK
from ansible_collections.bridgewarden.docker.plugins.module_utils._types import Json


class Change(t.NamedTuple):
    """Why to sync, and what to ask dockerd about for it."""

    reason: str
    scope: str = (
        "all"  # everything anew; "list": what dockerd's list shows changed; "events": what is named here
    )
    containers: t.FrozenSet[str] = frozenset()
    networks: bool = False
    since: t.Optional[float] = None  # when the oldest of the events happened, by the monotonic clock
    attached: t.FrozenSet[str] = frozenset()  # networks that list something else now


class Synced(t.NamedTuple):
    changed: bool
    generation: int
    endpoints: int
    actions: t.List[str]
    warnings: t.List[str]
    info: Info
    planned: int = 0  # endpoints that should be in force
    stuck: t.Mapping[str, str] = MappingProxyType({})  # Watch.stuck
    #: Published ports whose docker-proxy keeps connections it took before the ports were known.
    proxy_ports: t.Tuple[int, ...] = ()
    notices: t.Tuple[str, ...] = ()  # of the plan
    left_out: t.Tuple[str, ...] = ()  # Plan.left_out


class NothingNew(Exception):
    """What happened changes nothing for us."""


class PortsFirst(Exception):
    """Published ports are in force whose containers have to wait until docker-proxy has let go of its clients."""

    def __init__(self, listeners: t.Collection[docker_proxy.ProxyListener], generation: int) -> None:
        super().__init__()
        self.listeners = listeners
        self.generation = generation


class _Unwritten(t.NamedTuple):
    """What is in force, but not written down yet; the first and the last commit since, by the monotonic clock."""

    plan: Plan
    generation: int
    since: float
    last: float


class Follower:
    """Brings the kernel in step with the policy and Docker, and keeps what Docker said for the next time."""

    # A container that is gone must not stop the others from being kept in step, and whether the policy may
    # cut somebody off was decided when it was applied.
    OPTIONS = CommitOptions(on_empty_selector="ignore", force=True, adopt=False)
    #: Seconds that docker-proxy has to close the clients it took before its port was known.
    PROXY_CLOSE_SECONDS = 1.0
    #: What was applied is written down when nothing has been for so long; the second, where that never is.
    WRITE_AFTER_SECONDS, WRITE_LATEST_SECONDS = 2.0, 60.0

    def __init__(
        self,
        store: Store,
        watch: Watch,
        kernel_factory: t.Callable[[], Kernel] = Kernel,
        writes_later: bool = False,
    ) -> None:
        """`writes_later`: what was applied is not written down until write() is called."""
        self.store = store
        self.watch = watch
        self.kernel_factory = kernel_factory
        self._planner = Planner(self.OPTIONS)
        self._later = self._keep if writes_later else None
        self._unwritten: t.Optional[_Unwritten] = None
        self._last: t.Optional[t.Tuple[Json, Synced]] = None
        #: A policy and networks, the bridges for which ways in were looked for, and what was found.
        self._looked_at: t.Optional[t.Tuple[Json, t.Any, t.FrozenSet[str], t.Mapping[str, str]]] = None
        #: What is in force, as far as we have put it there.
        self._committed: t.Optional[Ruleset] = None

    def __call__(self, change: Change) -> t.Optional[Synced]:
        """None where there is no policy yet."""
        last, self._last = self._last, None
        proxy_ports: t.Set[int] = set()
        waited: t.Set[docker_proxy.ProxyListener] = set()
        collected: t.List[Json] = []
        ports_at: t.Optional[int] = None  # the generation that has the ports of these facts

        def collect() -> None:
            if ports_at is not None and kernel.info().generation == ports_at:
                return  # nobody else has committed meanwhile
            collected.append(self._facts(change, len(collected)))
            same = last is not None and change.scope == "events" and collected[-1] is last[0]
            if same and not kernel.info().returned:
                raise NothingNew

        def replan(policy: Json) -> Plan:
            facts = collected[-1]
            clock = host_clock(self.store.read_applied_or_none()) if _has_until(policy) else NO_CLOCK
            plan = self._planner(policy, facts, clock, self._ways_in(policy, facts, kernel))
            self._commit_ports_first(kernel, plan, waited)
            return plan

        try:
            with self.kernel_factory() as kernel:
                while True:
                    try:
                        result = apply_facts(kernel, self.store, replan, self.OPTIONS, collect, self._later)
                        break
                    except PortsFirst as first:
                        waited.update(first.listeners)
                        ports_at = first.generation
                        if not docker_proxy.wait_until_empty(first.listeners, self.PROXY_CLOSE_SECONDS):
                            proxy_ports.update(port for _protocol, port, _address in first.listeners)
                if result is None:
                    return None
                info = kernel.info()
        except NothingNew:
            self._last = last
            return last[1]._replace(changed=False, actions=[], stuck=dict(self.watch.stuck)) if last else None
        except Exception:
            self._committed = None
            raise
        synced = Synced(
            result.changed or bool(waited),
            info.generation,
            info.counts.get("endpoints", 0),
            result.actions,
            result.plan.warnings if result.plan and self._later is None else [],
            info,
            endpoints_of(result.plan),
            dict(self.watch.stuck),
            tuple(sorted(proxy_ports)),
            tuple(result.plan.notices) if result.plan else (),
            result.plan.left_out if result.plan else (),
        )
        if result.plan is not None:
            self._last = result.plan.facts, synced
            self._committed = result.plan.ruleset
        return synced

    def _ways_in(self, policy: Json, facts: Json, kernel: Kernel) -> t.Mapping[str, str]:
        """Looked for only when a bridge turns up that would be guarded by its name: reading /proc takes longer than a commit."""
        former = self._looked_at
        if former is not None and former[0] == policy and former[1] == facts.get("networks"):
            return former[3]
        wanted = normalise(policy)
        bridges = bridges_by_name(wanted, facts)
        if former is None or former[2] != bridges:
            links = kernel.info().guard_links if bridges else ()
            guarded = {name for name, link in (facts.get("links") or {}).items() if link["index"] in links}
            found: t.Mapping[str, str] = ways_in(wanted, facts, guarded) if bridges else {}
        else:
            found = former[3]
        self._looked_at = policy, facts.get("networks"), bridges, found
        return found

    def _commit_ports_first(
        self, kernel: Kernel, plan: Plan, waited: t.Collection[docker_proxy.ProxyListener]
    ) -> None:
        """Commits new ports of docker-proxy's before their containers, and raises PortsFirst where there are any."""
        if (plan.facts.get("docker") or {}).get("userland_proxy") is False or not plan.ruleset.publish:
            return
        committed = self._committed
        if committed is not None and committed.publish is plan.ruleset.publish:
            return
        if committed is not None:
            known = docker_proxy.endpoint_places(committed)
        else:
            known = {
                (ipaddress.ip_address(row.address).packed, row.link, row.port) for row in kernel.endpoints()
            }
        listeners = docker_proxy.newly_published(plan.ruleset, known)
        if not listeners.keys() - set(waited):
            return
        info = kernel.info()
        if info.sealed or info.mode != "enforce" or plan.policy["mode"] != "enforce":
            return
        if not info.guards:
            return  # whoever is connected got there by right
        without = docker_proxy.without_endpoints(plan.ruleset, set().union(*listeners.values()))
        try:
            first = dataclasses.replace(plan, ruleset=without)
            _committed, generation = commit_ruleset(first, kernel, info, self.OPTIONS)
        except Stale:
            return  # the commit of the whole plan will see the same
        raise PortsFirst(listeners.keys(), info.generation if generation is None else generation)

    def _facts(self, change: Change, times: int) -> Json:
        """`times`: how often they were collected for this change; the kernel has moved on meanwhile, so less and less is trusted."""
        follows = self.watch.follows
        if change.scope == "all" or times > (1 if follows else 0):
            self.watch.forget()
            return self.watch.facts()
        if change.scope == "list":
            return self.watch.facts()
        if not follows:
            return self.watch.facts(change.containers, change.networks)
        self.watch.hear()
        if not times:
            self.watch.ask(change.containers)
        return self.watch.update(change.networks, change.attached)

    def _keep(self, plan: Plan, generation: int) -> None:
        former, now = self._unwritten, time.monotonic()
        self._unwritten = _Unwritten(plan, generation, former.since if former else now, now)

    def write(self, at_once: bool = False) -> None:
        """Writes down what was applied, if it has stayed for a moment: that takes longer than to apply it. Raises what Store raises."""
        kept, now = self._unwritten, time.monotonic()
        if kept is None:
            return
        settled = now - kept.last >= self.WRITE_AFTER_SECONDS or now - kept.since >= self.WRITE_LATEST_SECONDS
        if settled or at_once:
            remember(kept.plan, kept.generation, self.store)
            self._unwritten = None


def _has_until(policy: Json) -> bool:
    return any(rule.get("until") for rule in policy.get("rules") or ())


def endpoints_of(plan: t.Optional[Plan]) -> int:
    return len(plan.ruleset.endpoints4) + len(plan.ruleset.endpoints6) if plan else 0


def sync_once(store: Store, docker_socket: str = DEFAULT_SOCKET) -> t.Optional[Synced]:
    """Once, for the command."""
    watch = Watch(docker_socket)
    synced = Follower(store, watch)(Change("asked to"))
    return synced and synced._replace(warnings=[*synced.warnings, *watch.warnings()])
